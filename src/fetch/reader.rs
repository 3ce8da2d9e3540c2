//! A KDL node that knows what was read of it, so that the rest can be reported.

use crate::diag::{Diagnostic, Diagnostics, SourceId, Span, Spanned};
use crate::ops::{did_you_mean, list};
use kdl::{KdlDocument, KdlEntry, KdlIdentifier, KdlNode, KdlValue};

/// The code of every mistake in a manifest.
pub const BAD_MANIFEST: &str = "bad-manifest";

/// Parses a manifest's text; syntax errors go into the diagnostics.
pub fn parse(text: &str, source: SourceId, diags: &mut Diagnostics) -> Option<KdlDocument> {
    match KdlDocument::parse_v2(text) {
        Ok(document) => Some(document),
        Err(error) => {
            for problem in error.diagnostics {
                let message = problem.message.unwrap_or_else(|| "this is not KDL".into());
                let start = problem.span.offset().min(text.len());
                let span = Span::new(source, start, (start + problem.span.len()).min(text.len()));
                let mut d = Diagnostic::error(BAD_MANIFEST, message).at(span, problem.label.unwrap_or("here".into()));
                d.help.extend(problem.help);
                diags.push(d);
            }
            None
        }
    }
}

/// Reads one node by claiming its parts; [`Node::finish`] reports what nobody claimed.
pub struct Node<'a, 'd> {
    node: &'a KdlNode,
    source: SourceId,
    diags: &'d mut Diagnostics,
    errors_before: usize,
    /// Names of properties and children that were asked for, found or not.
    known: Vec<&'static str>,
    any_child: bool,
    takes_argument: bool,
}

impl<'a, 'd> Node<'a, 'd> {
    pub fn new(node: &'a KdlNode, source: SourceId, diags: &'d mut Diagnostics) -> Self {
        let errors_before = errors(diags);
        Self { node, source, diags, errors_before, known: Vec::new(), any_child: false, takes_argument: false }
    }

    pub fn name(&self) -> &'a str {
        self.node.name().value()
    }

    pub fn name_span(&self) -> Span {
        self.name_of(self.node.name())
    }

    /// Whether an error was reported in this node or below.
    pub fn failed(&self) -> bool {
        errors(self.diags) > self.errors_before
    }

    /// Reads a child with a reader of its own.
    pub fn within<T>(&mut self, child: &KdlNode, read: impl FnOnce(&mut Node<'_, '_>) -> T) -> T {
        read(&mut Node::new(child, self.source, self.diags))
    }

    /// The node's one argument, a string.
    pub fn argument(&mut self, what: &str) -> Option<Spanned<String>> {
        self.takes_argument = true;
        match self.node.entries().iter().find(|e| e.name().is_none()) {
            Some(entry) => {
                let span = self.entry(entry);
                self.as_string(entry.value(), span, what)
            }
            None => {
                self.error_at_name(format!("`{}` needs {what}", self.name()), "nothing follows", None);
                None
            }
        }
    }

    /// A scalar, as a property or as a child node with one argument.
    fn scalar(&mut self, name: &'static str) -> Option<(KdlValue, Span)> {
        self.known.push(name);
        let node = self.node;
        let mut found: Vec<(KdlValue, Span)> = Vec::new();
        for entry in node.entries().iter().filter(|e| e.name().is_some_and(|n| n.value() == name)) {
            found.push((entry.value().clone(), self.entry(entry)));
        }
        for child in node.iter_children().filter(|c| c.name().value() == name) {
            let span = self.name_of(child.name());
            match child.entries() {
                [entry] if entry.name().is_none() && child.children().is_none() => {
                    found.push((entry.value().clone(), self.entry(entry)));
                }
                _ => self.error(format!("`{name}` takes one value"), span, "here", None),
            }
        }
        if let [(_, first), (_, second), ..] = found.as_slice() {
            let d = Diagnostic::error(BAD_MANIFEST, format!("`{name}` is given twice"));
            self.diags.push(d.at(*second, "given again").and(*first, "given here"));
        }
        found.into_iter().next()
    }

    pub fn string(&mut self, name: &'static str) -> Option<Spanned<String>> {
        let (value, span) = self.scalar(name)?;
        self.as_string(&value, span, &format!("`{name}`"))
    }

    pub fn required_string(&mut self, name: &'static str) -> Option<Spanned<String>> {
        self.required(name).then(|| self.string(name))?
    }

    pub fn unsigned(&mut self, name: &'static str) -> Option<Spanned<u64>> {
        let (value, span) = self.scalar(name)?;
        match value.as_integer().and_then(|i| u64::try_from(i).ok()) {
            Some(number) => Some(Spanned::new(number, span)),
            None => {
                let message = format!("`{name}` must be a whole number from 0, found {}", describe(&value));
                self.error(message, span, "here", None);
                None
            }
        }
    }

    pub fn required_unsigned(&mut self, name: &'static str) -> Option<Spanned<u64>> {
        self.required(name).then(|| self.unsigned(name))?
    }

    pub fn boolean(&mut self, name: &'static str) -> Option<Spanned<bool>> {
        let (value, span) = self.scalar(name)?;
        if value.as_bool().is_none() {
            let message = format!("`{name}` must be `#true` or `#false`, found {}", describe(&value));
            self.error(message, span, "here", None);
        }
        value.as_bool().map(|b| Spanned::new(b, span))
    }

    /// One of the named values.
    pub fn choice<T: Copy>(&mut self, written: &Spanned<String>, names: &[(&str, T)]) -> Option<T> {
        let found = names.iter().find(|(n, _)| *n == written.value).map(|(_, v)| *v);
        if found.is_none() {
            let known: Vec<&str> = names.iter().map(|(n, _)| *n).collect();
            let message = format!("`{}` is not known here, expected one of {}", written.value, list(&known));
            let help = did_you_mean(&written.value, known).map(|n| format!("did you mean `{n}`?"));
            self.error(message, written.span, "not known", help);
        }
        found
    }

    /// The only child of that name.
    pub fn child(&mut self, name: &'static str) -> Option<&'a KdlNode> {
        let children = self.children_named(name);
        if let [first, second, ..] = children.as_slice() {
            let first = self.name_of(first.name());
            self.duplicate(&format!("`{name}`"), first, second);
        }
        children.first().copied()
    }

    pub fn has_child(&self, name: &str) -> bool {
        self.node.iter_children().any(|c| c.name().value() == name)
    }

    pub fn children_named(&mut self, name: &'static str) -> Vec<&'a KdlNode> {
        self.known.push(name);
        self.node.iter_children().filter(|c| c.name().value() == name).collect()
    }

    /// Every child, whatever its name.
    pub fn all_children(&mut self) -> Vec<&'a KdlNode> {
        self.any_child = true;
        self.node.iter_children().collect()
    }

    /// Every child, each name once.
    pub fn distinct_children(&mut self) -> Vec<&'a KdlNode> {
        let mut distinct: Vec<&'a KdlNode> = Vec::new();
        for child in self.all_children() {
            match distinct.iter().find(|d| d.name().value() == child.name().value()) {
                Some(earlier) => {
                    let first = self.name_of(earlier.name());
                    self.duplicate(&format!("`{}`", child.name().value()), first, child);
                }
                None => distinct.push(child),
            }
        }
        distinct
    }

    pub fn duplicate(&mut self, what: &str, first: Span, second: &KdlNode) {
        let second = self.name_of(second.name());
        let d = Diagnostic::error(BAD_MANIFEST, format!("{what} is declared twice"));
        self.diags.push(d.at(second, "declared again").and(first, "declared here"));
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
        let node = self.node;
        let mut arguments = 0;
        for entry in node.entries() {
            let span = self.entry(entry);
            match entry.name().map(|n| n.value()) {
                None => {
                    arguments += 1;
                    if arguments > usize::from(self.takes_argument) {
                        let message = format!("`{}` takes no further argument", self.name());
                        self.error(message, span, "not read", None);
                    }
                }
                Some(name) if !self.known.contains(&name) => self.unknown("property", name, span),
                Some(_) => {}
            }
        }
        for child in node.iter_children() {
            let name = child.name().value();
            if !self.any_child && !self.known.contains(&name) {
                let span = self.name_of(child.name());
                self.unknown("node", name, span);
            }
        }
    }

    fn unknown(&mut self, what: &str, name: &str, span: Span) {
        let help = match did_you_mean(name, self.known.iter().copied()) {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if self.known.is_empty() => None,
            None => Some(format!("`{}` takes {}", self.name(), list(&self.known))),
        };
        self.error(format!("unknown {what} `{name}` in `{}`", self.name()), span, "not known here", help);
    }

    fn required(&mut self, name: &'static str) -> bool {
        let given =
            self.has_child(name) || self.node.entries().iter().any(|e| e.name().is_some_and(|n| n.value() == name));
        if !given {
            self.known.push(name);
            self.error_at_name(format!("`{}` needs `{name}`", self.name()), &format!("no `{name}` inside"), None);
        }
        given
    }

    fn as_string(&mut self, value: &KdlValue, span: Span, what: &str) -> Option<Spanned<String>> {
        match value.as_string() {
            Some(text) if !text.trim().is_empty() => Some(Spanned::new(text.to_string(), span)),
            Some(_) => {
                self.error(format!("{what} is empty"), span, "here", None);
                None
            }
            None => {
                self.error(format!("{what} must be a string, found {}", describe(value)), span, "here", None);
                None
            }
        }
    }

    fn entry(&self, entry: &KdlEntry) -> Span {
        Span::new(self.source, entry.span().offset(), entry.span().offset() + entry.span().len())
    }

    fn name_of(&self, name: &KdlIdentifier) -> Span {
        Span::new(self.source, name.span().offset(), name.span().offset() + name.span().len())
    }
}

fn errors(diags: &Diagnostics) -> usize {
    diags.iter().filter(|d| d.is_error()).count()
}

fn describe(value: &KdlValue) -> String {
    match value {
        KdlValue::String(_) => "a string".into(),
        KdlValue::Integer(i) => format!("the number {i}"),
        KdlValue::Float(f) => format!("the number {f}"),
        KdlValue::Bool(b) => format!("`#{b}`"),
        KdlValue::Null => "`#null`".into(),
    }
}
