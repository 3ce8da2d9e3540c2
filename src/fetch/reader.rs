//! A manifest's node, read by claiming its parts; whatever nobody has claimed is reported.

use crate::config::reader::{NodeReader, Written};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::ops::{did_you_mean, list};
use crate::syntax::{self, Entry, Scalar};

/// The code of mistakes that only manifests can have.
pub const BAD_MANIFEST: &str = "bad-manifest";

/// Reads one node: scalars, named children, and at last [`Node::finish`].
pub struct Node<'n, 'd> {
    reader: NodeReader<'n>,
    diags: &'d mut Diagnostics,
    errors_before: usize,
}

impl<'n, 'd> Node<'n, 'd> {
    pub fn new(node: &'n syntax::Node, diags: &'d mut Diagnostics) -> Self {
        let errors_before = errors(diags);
        Self { reader: NodeReader::new(node), diags, errors_before }
    }

    pub fn name(&self) -> &'n str {
        &self.reader.node().name.value
    }

    pub fn name_span(&self) -> Span {
        self.reader.node().name.span
    }

    /// Whether an error was reported in this node or below.
    pub fn failed(&self) -> bool {
        errors(self.diags) > self.errors_before
    }

    /// Reads a child with a reader of its own.
    pub fn within<T>(&mut self, child: &syntax::Node, read: impl FnOnce(&mut Node<'_, '_>) -> T) -> T {
        read(&mut Node::new(child, self.diags))
    }

    /// The node's one argument, a string.
    pub fn argument(&mut self, what: &str) -> Option<Spanned<String>> {
        match self.reader.argument() {
            Some(entry) => self.text(&entry.value, what),
            None => {
                self.error_at_name(format!("`{}` needs {what}", self.name()), "nothing follows", None);
                None
            }
        }
    }

    /// A scalar, as a property or as a child node with one argument.
    fn scalar(&mut self, name: &'static str) -> Option<&'n Spanned<Scalar>> {
        let child = match self.reader.field(name, self.diags)? {
            Written::Property(entry) => return Some(&entry.value),
            Written::Child(child) => child,
        };
        match child.entries.as_slice() {
            [Entry { name: None, value, .. }] if child.children.is_none() => Some(value),
            _ => {
                self.error(format!("`{name}` takes one value"), child.name.span, "here", None);
                None
            }
        }
    }

    pub fn string(&mut self, name: &'static str) -> Option<Spanned<String>> {
        let value = self.scalar(name)?;
        self.text(value, &format!("`{name}`"))
    }

    pub fn required_string(&mut self, name: &'static str) -> Option<Spanned<String>> {
        self.required(name).then(|| self.string(name))?
    }

    pub fn unsigned(&mut self, name: &'static str) -> Option<Spanned<u64>> {
        let value = self.scalar(name)?;
        match value.value {
            Scalar::Int(number) if number >= 0 => Some(Spanned::new(number as u64, value.span)),
            _ => {
                let message = format!("`{name}` must be a whole number from 0, found {}", describe(&value.value));
                self.error(message, value.span, "here", None);
                None
            }
        }
    }

    pub fn required_unsigned(&mut self, name: &'static str) -> Option<Spanned<u64>> {
        self.required(name).then(|| self.unsigned(name))?
    }

    pub fn boolean(&mut self, name: &'static str) -> Option<Spanned<bool>> {
        let value = self.scalar(name)?;
        match value.value {
            Scalar::Bool(b) => Some(Spanned::new(b, value.span)),
            _ => {
                let message = format!("`{name}` must be `#true` or `#false`, found {}", describe(&value.value));
                self.error(message, value.span, "here", None);
                None
            }
        }
    }

    /// One of the named values.
    pub fn choice<T: Copy>(&mut self, written: &Spanned<String>, names: &[(&str, T)]) -> Option<T> {
        let found = names.iter().find(|(n, _)| *n == written.value).map(|(_, v)| *v);
        if found.is_none() {
            let known: Vec<&str> = names.iter().map(|(n, _)| *n).collect();
            let message = format!("`{}` is not known here, expected one of {}", written.value, list(&known));
            self.error(message, written.span, "not known", suggest(&written.value, known));
        }
        found
    }

    /// The only child of that name.
    pub fn child(&mut self, name: &'static str) -> Option<&'n syntax::Node> {
        let children = self.reader.children(name);
        if let [first, second, ..] = children.as_slice() {
            self.duplicate(&format!("`{name}`"), first.name.span, second);
        }
        children.first().copied()
    }

    pub fn children_named(&mut self, name: &'static str) -> Vec<&'n syntax::Node> {
        self.reader.children(name)
    }

    pub fn has_child(&self, name: &str) -> bool {
        self.reader.node().child_nodes().iter().any(|c| c.name.value == name)
    }

    /// Every child, whatever its name.
    pub fn all_children(&mut self) -> &'n [syntax::Node] {
        self.reader.all_children()
    }

    /// Every child, each name once.
    pub fn distinct_children(&mut self) -> Vec<&'n syntax::Node> {
        let mut distinct: Vec<&'n syntax::Node> = Vec::new();
        for child in self.all_children() {
            match distinct.iter().find(|d| d.name.value == child.name.value) {
                Some(earlier) => self.duplicate(&format!("`{}`", child.name.value), earlier.name.span, child),
                None => distinct.push(child),
            }
        }
        distinct
    }

    pub fn duplicate(&mut self, what: &str, first: Span, second: &syntax::Node) {
        let d = Diagnostic::error(BAD_MANIFEST, format!("{what} is declared twice"));
        self.diags.push(d.at(second.name.span, "declared again").and(first, "declared here"));
    }

    pub fn error(&mut self, message: String, span: Span, label: &str, help: Option<String>) {
        let mut d = Diagnostic::error(BAD_MANIFEST, message).at(span, label);
        d.help.extend(help);
        self.diags.push(d);
    }

    pub fn error_at_name(&mut self, message: String, label: &str, help: Option<String>) {
        self.error(message, self.name_span(), label, help);
    }

    /// Reports everything that was not read.
    pub fn finish(&mut self) {
        let unread = NodeReader::new(self.reader.node());
        let reader = std::mem::replace(&mut self.reader, unread);
        reader.finish(&format!("`{}`", self.name()), self.diags);
    }

    fn required(&mut self, name: &'static str) -> bool {
        let given = !self.reader.written(name).is_empty();
        if !given {
            self.reader.claim(name);
            self.error_at_name(format!("`{}` needs `{name}`", self.name()), &format!("no `{name}` inside"), None);
        }
        given
    }

    fn text(&mut self, value: &Spanned<Scalar>, what: &str) -> Option<Spanned<String>> {
        let problem = match &value.value {
            Scalar::Str(text) if !text.trim().is_empty() => return Some(Spanned::new(text.clone(), value.span)),
            Scalar::Str(_) => format!("{what} is empty"),
            other => format!("{what} must be a string, found {}", describe(other)),
        };
        self.error(problem, value.span, "here", None);
        None
    }
}

/// "did you mean `x`?", when something is near.
pub fn suggest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    did_you_mean(written, known).map(|near| format!("did you mean `{near}`?"))
}

fn errors(diags: &Diagnostics) -> usize {
    diags.iter().filter(|d| d.is_error()).count()
}

fn describe(value: &Scalar) -> String {
    match value {
        Scalar::Int(i) => format!("the number {i}"),
        Scalar::Float(f) => format!("the number {f}"),
        Scalar::Bool(b) => format!("`#{b}`"),
        other => other.kind().to_string(),
    }
}
