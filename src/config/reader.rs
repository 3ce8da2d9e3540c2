//! Reading a node by claiming its parts: whatever nobody has claimed in the end is reported.

use crate::diag::{Diagnostic, Diagnostics, Span};
use crate::ops::{did_you_mean, list};
use crate::syntax::{Entry, Node};

/// How a field is written: `limit=5` or `limit 5`.
#[derive(Clone, Copy, Debug)]
pub enum Written<'n> {
    Property(&'n Entry),
    Child(&'n Node),
}

impl Written<'_> {
    /// The field's name where it is written.
    pub fn key_span(&self) -> Span {
        match self {
            Written::Property(entry) => entry.name.as_ref().map_or(entry.span, |n| n.span),
            Written::Child(node) => node.name.span,
        }
    }
}

/// A node and which of its parts were claimed.
#[derive(Debug)]
pub struct NodeReader<'n> {
    node: &'n Node,
    arguments: usize,
    /// The block, or all properties, were claimed as a whole.
    block: bool,
    properties: bool,
    /// Claimed names of properties and children; also what the node may have, for suggestions.
    known: Vec<&'n str>,
}

impl<'n> NodeReader<'n> {
    pub fn new(node: &'n Node) -> Self {
        Self { node, arguments: 0, block: false, properties: false, known: Vec::new() }
    }

    pub fn node(&self) -> &'n Node {
        self.node
    }

    /// The next argument that was not claimed yet.
    pub fn argument(&mut self) -> Option<&'n Entry> {
        let argument = self.node.arguments().nth(self.arguments)?;
        self.arguments += 1;
        Some(argument)
    }

    /// Claims every argument that is left.
    pub fn arguments(&mut self) -> Vec<&'n Entry> {
        std::iter::from_fn(|| self.argument()).collect()
    }

    /// Claims a field that may be written once, as a property or as a child. A second one is reported with both
    /// places, and the first is taken.
    pub fn field(&mut self, name: &'n str, diagnostics: &mut Diagnostics) -> Option<Written<'n>> {
        self.known.push(name);
        let written = self.written(name);
        let (first, others) = written.split_first()?;
        for other in others {
            diagnostics.push(
                Diagnostic::error("duplicate-field", format!("`{name}` is given twice"))
                    .at(other.key_span(), "second here")
                    .and(first.key_span(), "first here")
                    .help(format!("a property `{name}=...` and a child node `{name} ...` mean the same: keep one")),
            );
        }
        Some(*first)
    }

    /// Claims a name without looking at it.
    pub fn claim(&mut self, name: &'n str) {
        self.known.push(name);
    }

    /// Claims every child of this name.
    pub fn children(&mut self, name: &'n str) -> Vec<&'n Node> {
        self.known.push(name);
        self.node.child_nodes().iter().filter(|c| c.name.value == name).collect()
    }

    /// Claims every child whatever its name, for nodes whose names are the user's.
    pub fn all_children(&mut self) -> &'n [Node] {
        self.block = true;
        self.node.child_nodes()
    }

    /// Claims every property whatever its name, in the order of the text.
    pub fn all_properties(&mut self) -> Vec<(&'n crate::diag::Spanned<String>, &'n Entry)> {
        self.properties = true;
        self.node.properties().collect()
    }

    /// All places where a field of this name is written, in the order of the text.
    pub fn written(&self, name: &str) -> Vec<Written<'n>> {
        let properties = self.node.properties().filter(|(n, _)| n.value == name).map(|(_, e)| Written::Property(e));
        let children = self.node.child_nodes().iter().filter(|c| c.name.value == name).map(Written::Child);
        properties.chain(children).collect()
    }

    /// Reports everything that was not claimed; false if there was anything. `owner` names the node in messages.
    pub fn finish(mut self, owner: &str, diagnostics: &mut Diagnostics) -> bool {
        let before = diagnostics.0.len();
        for argument in self.arguments() {
            let mut error = Diagnostic::error("unexpected-argument", format!("{owner} takes no further argument"))
                .at(argument.value.span, "unexpected");
            if !self.known.is_empty() {
                error = error.help(format!("properties are written `name=value`; {owner} has {}", list(&self.known)));
            }
            diagnostics.push(error);
        }
        let unknown = |name: &str| !self.known.contains(&name);
        for (name, _) in self.node.properties().filter(|(n, _)| !self.properties && unknown(&n.value)) {
            diagnostics.push(self.unknown("unknown-property", "property", owner, &name.value, name.span));
        }
        for child in self.node.child_nodes().iter().filter(|c| !self.block && unknown(&c.name.value)) {
            diagnostics.push(self.unknown("unknown-child", "child node", owner, &child.name.value, child.name.span));
        }
        if let Some(block) = &self.node.children
            && block.nodes.is_empty()
            && self.known.is_empty()
            && !self.block
        {
            let message = format!("{owner} takes no block");
            diagnostics.push(Diagnostic::error("unexpected-block", message).at(block.span, "delete this block"));
        }
        diagnostics.0.len() == before
    }

    fn unknown(&self, code: &'static str, what: &str, owner: &str, name: &str, span: Span) -> Diagnostic {
        let error = Diagnostic::error(code, format!("{owner} has no {what} `{name}`")).at(span, "unknown");
        match did_you_mean(name, self.known.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None if self.known.is_empty() => error.help(format!("{owner} has neither properties nor child nodes")),
            None => error.help(format!("{owner} has {}", list(&self.known))),
        }
    }
}
