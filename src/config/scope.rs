//! Names that strings may mention, and `${...}` in strings.

use super::Param;
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::eval::task::Task;
use crate::ops::{Value, did_you_mean, list};
use crate::syntax::{Entry, Scalar};
use indexmap::IndexMap;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A declared name. `None`: it is declared, but its declaration has an error, which was reported; whatever depends on
/// it fails without another message.
pub(super) type Declared<T> = IndexMap<String, Option<T>>;

/// An axis of the instance that is being decoded.
#[derive(Clone, Debug)]
pub(super) struct Binding<'m> {
    pub axis: &'m str,
    pub value: &'m Value,
    pub attributes: &'m IndexMap<String, Spanned<Value>>,
    /// Where the value is written in the matrix.
    pub span: Span,
}

/// Which declarations something made use of.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub params: BTreeSet<String>,
    pub models: BTreeSet<String>,
    pub teachers: BTreeSet<String>,
    pub tasks: BTreeSet<String>,
    /// (matrix, axis)
    pub axes: BTreeSet<(String, String)>,
    /// (matrix, axis, attribute)
    pub attributes: BTreeSet<(String, String, String)>,
}

/// What `${...}`, model and teacher names mean at some place of the pipeline.
pub(super) struct Scope<'a> {
    pub params: &'a Declared<Param>,
    /// `None` where model names are not checked.
    pub models: Option<&'a Declared<super::ModelDecl>>,
    pub teachers: Option<&'a Declared<super::TeacherDecl>>,
    /// The pipeline's own; those that come with the program are known everywhere.
    pub tasks: Option<&'a Declared<Arc<Task>>>,
    /// The matrix and the bindings of this instance.
    pub matrix: Option<&'a str>,
    pub bindings: Vec<Binding<'a>>,
    /// Axes of the matrix that this node does not keep (`over`).
    pub hidden: Vec<&'a str>,
    pub used: &'a RefCell<Used>,
    /// A file could not be read: names that seem unknown may be declared in it, and are not reported.
    pub incomplete: bool,
}

impl<'a> Scope<'a> {
    /// Only parameters can be mentioned.
    pub fn of_params(params: &'a Declared<Param>, used: &'a RefCell<Used>, incomplete: bool) -> Self {
        let (models, teachers, tasks, matrix) = (None, None, None, None);
        Self { params, models, teachers, tasks, matrix, bindings: Vec::new(), hidden: Vec::new(), used, incomplete }
    }

    /// The value of an entry with every `${...}` filled in. `None` after an error, reported here or before.
    pub fn value(&self, entry: &Entry, diagnostics: &mut Diagnostics) -> Option<Spanned<Value>> {
        let span = entry.value.span;
        let value = match &entry.value.value {
            Scalar::Null => Value::Null,
            Scalar::Bool(b) => Value::Bool(*b),
            Scalar::Int(i) => Value::Int(*i),
            Scalar::Float(f) => Value::Float(*f),
            Scalar::Str(text) => self.text(text, entry, diagnostics)?,
        };
        Some(Spanned::new(value, span))
    }

    fn text(&self, text: &str, entry: &Entry, diagnostics: &mut Diagnostics) -> Option<Value> {
        let place = |range: std::ops::Range<usize>| match entry.verbatim {
            Some(span) => Span::new(span.source, span.start as usize + range.start, span.start as usize + range.end),
            None => entry.value.span,
        };
        let pieces = match pieces(text) {
            Ok(pieces) => pieces,
            Err((range, message)) => {
                diagnostics.push(
                    Diagnostic::error("bad-interpolation", message)
                        .at(place(range), "in this string")
                        .help("write `${name}` or `${axis.attribute}`; a literal `${` is written `$${`"),
                );
                return None;
            }
        };
        let mut out = String::with_capacity(text.len());
        let mut ok = true;
        let alone = matches!(pieces.as_slice(), [Piece::Name { .. }]);
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.push_str(&text),
                Piece::Name { name, attribute, range } => {
                    match self.name(name, attribute, place(range.clone()), diagnostics) {
                        Some(value) if alone => return Some(value),
                        Some(value) => match plain(&value) {
                            Some(text) => out.push_str(&text),
                            None => {
                                diagnostics.push(list_inside_text(name, place(range)));
                                ok = false;
                            }
                        },
                        None => ok = false,
                    }
                }
            }
        }
        ok.then_some(Value::Str(out))
    }

    fn name(&self, name: &str, attribute: Option<&str>, span: Span, diagnostics: &mut Diagnostics) -> Option<Value> {
        if let (Some(binding), Some(matrix)) = (self.bindings.iter().find(|b| b.axis == name), self.matrix) {
            let mut used = self.used.borrow_mut();
            used.axes.insert((matrix.to_string(), name.to_string()));
            let Some(attribute) = attribute else { return Some(binding.value.clone()) };
            used.attributes.insert((matrix.to_string(), name.to_string(), attribute.to_string()));
            if let Some(value) = binding.attributes.get(attribute) {
                return Some(value.value.clone());
            }
            diagnostics.push(unknown_attribute(binding, attribute, span));
            return None;
        }
        if let Some(param) = self.params.get(name) {
            self.used.borrow_mut().params.insert(name.to_string());
            let Some(attribute) = attribute else { return param.as_ref().map(|p| p.value.clone()) };
            let message = format!("`{name}` is a parameter, and parameters have no attribute `{attribute}`");
            diagnostics.push(
                Diagnostic::error("unknown-attribute", message)
                    .at(span, "only values of a matrix axis have attributes")
                    .help(format!("write `${{{name}}}`")),
            );
            return None;
        }
        if !self.incomplete {
            diagnostics.push(self.unknown_name(name, span));
        }
        None
    }

    fn unknown_name(&self, name: &str, span: Span) -> Diagnostic {
        if self.hidden.contains(&name) {
            return Diagnostic::error(
                "unknown-name",
                format!("this node does not keep the axis `{name}` of its matrix"),
            )
            .at(span, "has no single value here")
            .help(format!("add `{name}` to the node's `over`, or leave it out of the string"));
        }
        let names: Vec<&str> =
            self.params.keys().map(String::as_str).chain(self.bindings.iter().map(|b| b.axis)).collect();
        let what = if self.matrix.is_some() { "parameter or axis of this node" } else { "parameter" };
        let error = Diagnostic::error("unknown-name", format!("no {what} is named `{name}`")).at(span, "unknown name");
        match did_you_mean(name, names.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None if names.is_empty() => error.help(format!("declare it: `param \"{name}\" type=\"string\"`")),
            None => error.help(format!("known here: {}", list(&names))),
        }
    }
}

fn unknown_attribute(binding: &Binding<'_>, attribute: &str, span: Span) -> Diagnostic {
    let value = plain(binding.value).unwrap_or_default();
    let message = format!("the value `{value}` of the axis `{}` has no attribute `{attribute}`", binding.axis);
    let names: Vec<&str> = binding.attributes.keys().map(String::as_str).collect();
    let error = Diagnostic::error("unknown-attribute", message)
        .at(span, "unknown attribute")
        .and(binding.span, format!("this value has {}", if names.is_empty() { "none".into() } else { list(&names) }));
    match did_you_mean(attribute, names) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help(format!("give it: `{} \"{value}\" {attribute}=...`", binding.axis)),
    }
}

fn list_inside_text(name: &str, span: Span) -> Diagnostic {
    Diagnostic::error("wrong-type", format!("`${{{name}}}` is a list, and a list cannot stand inside a longer string"))
        .at(span, "a list")
        .help(format!("write `\"${{{name}}}\"` alone, where several values may stand"))
}

/// A value as text inside a string; `None` for lists.
pub(super) fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Str(s) => Some(s.clone()),
        Value::Int(i) => Some(i.to_string()),
        Value::Float(f) => Some(f.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

/// A part of a string with `${...}` in it.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'t> {
    Text(String),
    Name { name: &'t str, attribute: Option<&'t str>, range: std::ops::Range<usize> },
}

pub(super) type BadPiece = (std::ops::Range<usize>, String);

/// Splits a string at its `${...}`; the error says where in it and why. An empty string has no pieces.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, BadPiece> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find('$') {
        let start = at + found;
        plain.push_str(&text[at..start]);
        let rest = &text[start..];
        if rest.starts_with("$${") {
            plain.push_str("${");
            at = start + 3;
        } else if let Some(inner) = rest.strip_prefix("${") {
            let Some(length) = inner.find('}') else {
                return Err((start..text.len(), "this `${` is not closed by `}`".into()));
            };
            let range = start..start + 2 + length + 1;
            let (name, attribute) = match inner[..length].split_once('.') {
                Some((name, attribute)) => (name, Some(attribute)),
                None => (&inner[..length], None),
            };
            if !is_name(name) || attribute.is_some_and(|a| !is_name(a)) {
                return Err((range, format!("`{}` is not a name", &inner[..length])));
            }
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            at = range.end;
            pieces.push(Piece::Name { name, attribute, range });
        } else {
            plain.push('$');
            at = start + 1;
        }
    }
    plain.push_str(&text[at..]);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

/// Names of parameters, axes, attributes, nodes, models: letters, digits, `-` and `_`.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_split_at_their_names() {
        let text = |t: &str| Piece::Text(t.into());
        let name = |name, attribute, range| Piece::Name { name, attribute, range };
        assert_eq!(pieces(""), Ok(vec![]));
        assert_eq!(pieces("${a}"), Ok(vec![name("a", None, 0..4)]));
        assert_eq!(
            pieces("x/${a-1}/${b.c_d}$"),
            Ok(vec![text("x/"), name("a-1", None, 2..8), text("/"), name("b", Some("c_d"), 9..17), text("$")])
        );
        assert_eq!(pieces("$${a} $$ $ {{ x }} 5$"), Ok(vec![text("${a} $$ $ {{ x }} 5$")]));
        assert_eq!(pieces("$$${a}"), Ok(vec![text("$${a}")]));
        assert_eq!(pieces("é${").unwrap_err().0, 2..4);
        for bad in ["${}", "${a b}", "${a.}", "${.a}", "${a.b.c}", "${a${b}}"] {
            assert!(pieces(bad).is_err(), "{bad}");
        }
    }
}
