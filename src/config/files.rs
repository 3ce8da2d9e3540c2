//! Reads a pipeline file and what it includes into one list of top-level nodes.

use super::scope::{Piece, pieces};
use crate::diag::{Diagnostic, Diagnostics, Sources, Span};
use crate::syntax::{self, Node, Scalar};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Files that may include each other in a row.
const MAX_INCLUDES: usize = 32;

/// The top-level nodes of all files, in the order of the text, each include replaced by what it includes.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub nodes: Vec<TopNode>,
    /// A file could not be read or parsed: names that seem unknown may be declared there.
    pub incomplete: bool,
    /// Parameters that paths of includes name.
    pub params: Vec<String>,
}

#[derive(Debug)]
pub(super) struct TopNode {
    pub node: Node,
    /// Stands in an included file.
    pub included: bool,
}

/// One step of a chain of includes.
struct Step {
    path: PathBuf,
    /// Where the file is included; `None` for the file given by the user.
    include: Option<Span>,
}

pub(super) struct Loader<'a> {
    pub sources: &'a mut Sources,
    pub diagnostics: &'a mut Diagnostics,
    /// `-P name=value` of the command line.
    overrides: &'a [(String, String)],
    files: Files,
    chain: Vec<Step>,
    /// Files that were read, so that one included by two files is taken once.
    seen: Vec<PathBuf>,
}

impl<'a> Loader<'a> {
    pub fn new(sources: &'a mut Sources, diagnostics: &'a mut Diagnostics, overrides: &'a [(String, String)]) -> Self {
        Self { sources, diagnostics, overrides, files: Files::default(), chain: Vec::new(), seen: Vec::new() }
    }

    /// `None` when the file itself cannot be read or has lost its structure.
    pub fn file(self, path: &Path) -> Option<Files> {
        match read_text(path) {
            Ok(text) => self.text(&path.display().to_string(), Some(path), text),
            Err(error) => {
                self.diagnostics.push(error);
                None
            }
        }
    }

    /// A text that is no file, or was read already.
    pub fn text(mut self, name: &str, path: Option<&Path>, text: String) -> Option<Files> {
        let before = self.files.nodes.len();
        if let Some(path) = path {
            self.enter(path, None);
        }
        self.document(name, path, text);
        (!self.files.incomplete || self.files.nodes.len() > before).then_some(self.files)
    }

    fn enter(&mut self, path: &Path, include: Option<Span>) {
        let canonical = canonical(path);
        self.seen.push(canonical.clone());
        self.chain.push(Step { path: canonical, include });
    }

    fn document(&mut self, name: &str, path: Option<&Path>, text: String) {
        let source = self.sources.add(name, path, text.as_str());
        let Some(document) = syntax::parse(&text, source, self.diagnostics) else {
            self.files.incomplete = true;
            return;
        };
        let included = self.chain.len() > 1;
        for node in document.nodes {
            if node.name.value == "include" {
                self.include(&node, path);
            } else {
                self.files.nodes.push(TopNode { node, included });
            }
        }
    }

    fn include(&mut self, node: &Node, from: Option<&Path>) {
        if node.is_broken() {
            self.files.incomplete = true;
            return;
        }
        let mut reader = super::reader::NodeReader::new(node);
        let target = reader.argument();
        reader.finish("`include`", self.diagnostics);
        let (written, span) = match target.map(|e| (&e.value.value, e.value.span)) {
            Some((Scalar::Str(text), span)) if !text.trim().is_empty() => (text, span),
            found => {
                self.files.incomplete = true;
                let span = found.map_or(node.name.span, |(_, span)| span);
                self.diagnostics.push(
                    Diagnostic::error("bad-include", "`include` takes the path of a file")
                        .at(span, "expected a path in quotes")
                        .help("write `include \"common.kdl\"`; the path is relative to this file"),
                );
                return;
            }
        };
        let Some(written) = self.with_params(written, span) else {
            self.files.incomplete = true;
            return;
        };
        let folder = from.and_then(Path::parent).unwrap_or(Path::new(""));
        let path = folder.join(written);
        let canonical = canonical(&path);
        if self.chain.iter().any(|s| s.path == canonical) {
            let error = self.cycle(&canonical, span);
            self.diagnostics.push(error);
        } else if self.chain.len() > MAX_INCLUDES {
            let message = format!("includes may be nested {MAX_INCLUDES} deep at most");
            let help = "include the files from one file";
            self.diagnostics
                .push(Diagnostic::error("nested-too-deep", message).at(span, "one level too many").help(help));
        } else if !self.seen.contains(&canonical) {
            match read_text(&path) {
                Ok(text) => {
                    self.enter(&path, Some(span));
                    self.document(&path.display().to_string(), Some(&path), text);
                    self.chain.pop();
                }
                Err(error) => {
                    self.files.incomplete = true;
                    self.diagnostics.push(
                        error.at(span, "included here").help("include paths are relative to the file that includes"),
                    );
                }
            }
        }
    }

    /// The path with the values of the parameters that it names. They must be declared above the include, because what
    /// stands below may depend on it.
    fn with_params(&mut self, written: &str, span: Span) -> Option<String> {
        let text = |piece: Piece<'_>| match piece {
            Piece::Text(text) => Some(text),
            Piece::Name { name, attribute: None, .. } => self.param(name),
            Piece::Name { .. } => None,
        };
        let path = pieces(written).ok().and_then(|pieces| pieces.into_iter().map(text).collect());
        if path.is_none() {
            self.diagnostics.push(
                Diagnostic::error("bad-include", format!("`{written}` names no parameter that is known here"))
                    .at(span, "a path may name string parameters, as `${name}`")
                    .help("declare the `param` above the `include`, with a default or a value from `-P`"),
            );
        }
        path
    }

    /// The value of a parameter that was declared so far: that of the command line, or the default. Whether it is one of
    /// the parameter's `choices` is checked later.
    fn param(&mut self, name: &str) -> Option<String> {
        let text = |scalar: &Scalar| match scalar {
            Scalar::Str(text) => Some(text.clone()),
            _ => None,
        };
        let declared = |node: &&Node| {
            let named = node.entries.iter().find(|e| e.name.is_none());
            node.name.value == "param" && named.is_some_and(|e| text(&e.value.value).as_deref() == Some(name))
        };
        let node = self.files.nodes.iter().map(|top| &top.node).find(declared)?;
        let given = self.overrides.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        let value = given.or_else(|| {
            let property = node.entries.iter().find(|e| e.name.as_ref().is_some_and(|n| n.value == "default"));
            let mut children = node.children.iter().flat_map(|block| &block.nodes);
            let child = children.find(|c| c.name.value == "default").and_then(|c| c.entries.first());
            text(&property.or(child)?.value.value)
        });
        self.files.params.push(name.to_string());
        value
    }

    /// The error for an include of a file that is being read, with every include of the circle.
    fn cycle(&self, target: &Path, span: Span) -> Diagnostic {
        let start = self.chain.iter().position(|s| s.path == target).unwrap_or(0);
        let mut error = Diagnostic::error("include-cycle", "this file includes itself, directly or through others")
            .at(span, "includes a file that is being read");
        for step in &self.chain[start + 1..] {
            if let Some(include) = step.include {
                error = error.and(include, "which is included here");
            }
        }
        error.help("move what both files need into a third file")
    }
}

/// One name for a file, however it is written; the path itself when it does not exist.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// The text of a pipeline file, or the diagnostic that says why it cannot be had. Reads no further than a pipeline may
/// be long, so that a device or a data file is no danger.
pub fn read_text(path: &Path) -> Result<String, Diagnostic> {
    let shown = path.display();
    let unreadable = |e: std::io::Error| {
        let reason = match e.kind() {
            std::io::ErrorKind::NotFound => "there is no such file".to_string(),
            _ => e.to_string(),
        };
        Diagnostic::error("file-unreadable", format!("cannot read `{shown}`: {reason}"))
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(syntax::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > syntax::MAX_BYTES {
        let message = format!("`{shown}` has more than {} bytes, the most that a pipeline may have", syntax::MAX_BYTES);
        return Err(Diagnostic::error("file-too-large", message).help("is this a data file? `load` reads those"));
    }
    utf8(bytes, &shown.to_string())
}

/// The bytes as text, or the diagnostic that says where they are none.
pub fn utf8(bytes: Vec<u8>, name: &str) -> Result<String, Diagnostic> {
    String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..valid].iter().filter(|b| **b == b'\n').count() + 1;
        let message = format!("`{name}` is not UTF-8 text, beginning with the byte at offset {valid} in line {line}");
        Diagnostic::error("not-utf8", message).help("save the file as UTF-8")
    })
}
