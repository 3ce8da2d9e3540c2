//! Reads the fields of a node by their specs: operators, records inside them, and the language's own declarations.

use super::reader::{NodeReader, Written};
use super::scope::{Declared, Scope, plain};
use super::tasks;
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::ops::{Default, FieldKind, FieldSpec, Fields, Value, did_you_mean, list};
use crate::syntax::{Entry, Node, Scalar};
use indexmap::IndexMap;

/// Decodes fields and reports what is wrong with them.
pub(super) struct Decoder<'a, 's> {
    pub scope: &'a Scope<'s>,
    pub diagnostics: &'a mut Diagnostics,
    /// Names the node in messages: `` `load` ``.
    pub owner: String,
}

impl Decoder<'_, '_> {
    /// Claims and decodes every field of `specs`. `None` after at least one error; all fields are looked at anyway.
    pub fn fields(&mut self, specs: &'static [FieldSpec], reader: &mut NodeReader<'_>, head: Span) -> Option<Fields> {
        let mut values = IndexMap::new();
        let mut ok = true;
        for spec in specs {
            match self.field(spec, reader, head) {
                Ok(Some(value)) => {
                    values.insert(spec.name, value);
                }
                Ok(None) => {}
                Err(Reported) => ok = false,
            }
        }
        ok.then_some(Fields { values, span: head })
    }

    fn field(
        &mut self,
        spec: &'static FieldSpec,
        reader: &mut NodeReader<'_>,
        head: Span,
    ) -> Result<Option<Spanned<Value>>, Reported> {
        if let FieldKind::Records(specs) = spec.kind {
            return self.records(spec, specs, reader, head);
        }
        if spec.positional
            && let Some(argument) = reader.argument()
        {
            return self.entries(spec, &[argument], argument.value.span).map(Some);
        }
        let before = self.diagnostics.0.len();
        let value = match reader.field(spec.name, self.diagnostics) {
            Some(Written::Property(entry)) => self.property(spec, entry).map(Some),
            Some(Written::Child(node)) => self.child(spec, node).map(Some),
            None => self.absent(spec, head),
        };
        // A duplicate was reported, though its first occurrence may be fine.
        if self.diagnostics.0[before..].iter().any(Diagnostic::is_error) { Err(Reported) } else { value }
    }

    fn absent(&mut self, spec: &FieldSpec, head: Span) -> Result<Option<Spanned<Value>>, Reported> {
        if spec.required {
            let form = match spec.kind {
                _ if spec.positional => format!("{} begins with it: {}", self.owner, expected(&spec.kind)),
                FieldKind::Map(_) => format!("write `{} {{ ... }}`", spec.name),
                FieldKind::Records(_) => format!("write a child node `{} ...`", spec.name),
                _ => format!("write `{}=...`: {}", spec.name, expected(&spec.kind)),
            };
            self.diagnostics.push(
                Diagnostic::error("missing-field", format!("{} needs `{}`: {}", self.owner, spec.name, spec.doc))
                    .at(head, format!("`{}` is missing", spec.name))
                    .help(form),
            );
            return Err(Reported);
        }
        let value = match spec.default {
            Default::None => return Ok(None),
            Default::Str(s) => Value::Str(s.into()),
            Default::Int(i) => Value::Int(i),
            Default::Float(f) => Value::Float(f),
            Default::Bool(b) => Value::Bool(b),
        };
        Ok(Some(Spanned::new(value, head)))
    }

    fn property(&mut self, spec: &FieldSpec, entry: &Entry) -> Result<Spanned<Value>, Reported> {
        if let FieldKind::Map(_) = spec.kind {
            return self.must_be_block(spec, entry.span);
        }
        self.entries(spec, &[entry], entry.value.span)
    }

    fn must_be_block(&mut self, spec: &FieldSpec, span: Span) -> Result<Spanned<Value>, Reported> {
        let message = format!("`{}` of {} is a block with one child node for each entry", spec.name, self.owner);
        let help = format!("write `{} {{ name \"value\" }}`: {}", spec.name, spec.doc);
        self.diagnostics.push(Diagnostic::error("wrong-type", message).at(span, "expected a block").help(help));
        Err(Reported)
    }

    fn child(&mut self, spec: &FieldSpec, node: &Node) -> Result<Spanned<Value>, Reported> {
        let mut reader = NodeReader::new(node);
        if let FieldKind::Map(kind) = spec.kind {
            return self.map(spec, kind, reader);
        }
        let arguments = match spec.kind {
            FieldKind::List(_) => reader.arguments(),
            _ => reader.argument().into_iter().collect(),
        };
        let rest = reader.finish(&format!("`{}`", spec.name), self.diagnostics);
        let (Some(first), Some(last)) = (arguments.first(), arguments.last()) else {
            self.diagnostics.push(
                Diagnostic::error("missing-value", format!("`{}` of {} has no value", spec.name, self.owner))
                    .at(node.name.span, format!("expected {}", expected(&spec.kind)))
                    .help(format!("`{}`: {}", spec.name, spec.doc)),
            );
            return Err(Reported);
        };
        let span = Span { end: last.value.span.end, ..first.value.span };
        let value = self.entries(spec, &arguments, span);
        if rest { value } else { Err(Reported) }
    }

    /// A field from its values: one, or several for a list.
    fn entries(&mut self, spec: &FieldSpec, entries: &[&Entry], span: Span) -> Result<Spanned<Value>, Reported> {
        let FieldKind::List(kind) = spec.kind else {
            return self.scalar(spec.name, spec.doc, &spec.kind, entries[0]);
        };
        let mut items = Vec::new();
        let mut ok = true;
        for entry in entries {
            match self.scope.value(entry, self.diagnostics).map(|v| v.value) {
                // A list parameter stands for its items.
                Some(Value::List(values)) => {
                    for value in values {
                        let value = Spanned::new(value.value, entry.value.span);
                        self.check(spec.name, spec.doc, kind, value, true)
                            .map_or_else(|_| ok = false, |v| items.push(v));
                    }
                }
                Some(value) => {
                    let value = Spanned::new(value, entry.value.span);
                    let filled = is_filled(entry);
                    self.check(spec.name, spec.doc, kind, value, filled).map_or_else(|_| ok = false, |v| items.push(v));
                }
                None => ok = false,
            }
        }
        if ok { Ok(Spanned::new(Value::List(items), span)) } else { Err(Reported) }
    }

    fn scalar(&mut self, name: &str, doc: &str, kind: &FieldKind, entry: &Entry) -> Result<Spanned<Value>, Reported> {
        let value = self.scope.value(entry, self.diagnostics).ok_or(Reported)?;
        self.check(name, doc, kind, value, is_filled(entry))
    }

    fn map(
        &mut self,
        spec: &FieldSpec,
        kind: &FieldKind,
        mut reader: NodeReader<'_>,
    ) -> Result<Spanned<Value>, Reported> {
        let node = reader.node();
        if node.entries.iter().any(|e| e.name.is_some()) || (node.children.is_none() && !node.entries.is_empty()) {
            return self.must_be_block(spec, node.span);
        }
        let mut entries: IndexMap<String, (Span, Spanned<Value>)> = IndexMap::new();
        let mut ok = true;
        for child in reader.all_children() {
            let doc = spec.doc;
            let value = self.map_value(kind, child, doc);
            let first = entries.get(&child.name.value).map(|(span, _)| *span);
            match (value, first) {
                (_, Some(first)) => {
                    ok = false;
                    let message = format!("`{}` has two entries named `{}`", spec.name, child.name.value);
                    self.diagnostics.push(
                        Diagnostic::error("duplicate-field", message)
                            .at(child.name.span, "second here")
                            .and(first, "first here")
                            .help("keep one"),
                    );
                }
                (Ok(value), None) => {
                    entries.insert(child.name.value.clone(), (child.name.span, value));
                }
                (Err(Reported), None) => ok = false,
            }
        }
        let rest = reader.finish(&format!("`{}`", spec.name), self.diagnostics);
        if ok && rest { Ok(Spanned::new(Value::Map(entries), node.name.span)) } else { Err(Reported) }
    }

    fn map_value(&mut self, kind: &FieldKind, child: &Node, doc: &'static str) -> Result<Spanned<Value>, Reported> {
        // The entry's name is the user's, so that a spec for it is made here.
        let mut reader = NodeReader::new(child);
        let name = child.name.value.as_str();
        let result = match (kind, reader.argument()) {
            (_, None) => {
                self.diagnostics.push(
                    Diagnostic::error("missing-value", format!("`{name}` has no value"))
                        .at(child.name.span, format!("expected {}", expected(kind)))
                        .help(doc),
                );
                Err(Reported)
            }
            (FieldKind::List(item), Some(first)) => {
                let mut items = Vec::new();
                let mut ok = true;
                for entry in std::iter::once(first).chain(reader.arguments()) {
                    self.scalar(name, doc, item, entry).map_or_else(|_| ok = false, |v| items.push(v));
                }
                if ok { Ok(Spanned::new(Value::List(items), first.value.span)) } else { Err(Reported) }
            }
            (kind, Some(entry)) => self.scalar(name, doc, kind, entry),
        };
        let rest = reader.finish(&format!("`{name}`"), self.diagnostics);
        if rest { result } else { Err(Reported) }
    }

    fn records(
        &mut self,
        spec: &'static FieldSpec,
        specs: &'static [FieldSpec],
        reader: &mut NodeReader<'_>,
        head: Span,
    ) -> Result<Option<Spanned<Value>>, Reported> {
        let mut ok = true;
        if let Some(Written::Property(entry)) = reader.written(spec.name).into_iter().next() {
            let message = format!("`{}` of {} is written as a child node", spec.name, self.owner);
            let help = format!("write `{{ {} ... }}`: {}", spec.name, spec.doc);
            self.diagnostics.push(Diagnostic::error("wrong-type", message).at(entry.span, "a property").help(help));
            ok = false;
        }
        let nodes = reader.children(spec.name);
        if nodes.is_empty() {
            return if ok { self.absent(spec, head) } else { Err(Reported) };
        }
        let mut records = Vec::new();
        let outer = std::mem::replace(&mut self.owner, format!("`{}`", spec.name));
        for node in &nodes {
            let mut reader = NodeReader::new(node);
            match self.fields(specs, &mut reader, head_span(node)) {
                Some(fields) => records.push(fields),
                None => ok = false,
            }
            ok &= reader.finish(&self.owner, self.diagnostics);
        }
        self.owner = outer;
        if ok { Ok(Some(Spanned::new(Value::Records(records), nodes[0].name.span))) } else { Err(Reported) }
    }

    /// Checks a value against its kind. `filled`: it came from `${...}`, so that a number may stand for its text.
    fn check(
        &mut self,
        name: &str,
        doc: &str,
        kind: &FieldKind,
        value: Spanned<Value>,
        filled: bool,
    ) -> Result<Spanned<Value>, Reported> {
        let span = value.span;
        let ok = match (kind, &value.value) {
            (FieldKind::Scalar, Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Str(_))
            | (FieldKind::Str, Value::Str(_))
            | (FieldKind::Bool, Value::Bool(_)) => return Ok(value),
            (FieldKind::Int { min, max }, Value::Int(i)) => i >= min && i <= max,
            (FieldKind::Float { min, max }, Value::Int(i)) => *i as f64 >= *min && *i as f64 <= *max,
            (FieldKind::Float { min, max }, Value::Float(f)) => f >= min && f <= max,
            (FieldKind::Choice(choices), Value::Str(s)) => {
                return if choices.contains(&s.as_str()) {
                    Ok(value)
                } else {
                    self.unknown_choice(name, s, choices, span)
                };
            }
            (FieldKind::Model, Value::Str(s)) => return self.declared("model", s, span).map(|()| value),
            (FieldKind::Teacher, Value::Str(s)) => return self.declared("teacher", s, span).map(|()| value),
            (FieldKind::Task, Value::Str(s)) => return self.task(s, span),
            (kind, Value::Str(s)) if is_text(kind) => !s.trim().is_empty(),
            (kind, other) if filled && (is_text(kind) || matches!(kind, FieldKind::Str)) => {
                let Some(text) = plain(other) else { return self.wrong_type(name, doc, kind, &value) };
                return Ok(Spanned::new(Value::Str(text), span));
            }
            _ => return self.wrong_type(name, doc, kind, &value),
        };
        if ok {
            return Ok(value);
        }
        let (code, label) = match kind {
            FieldKind::Int { .. } | FieldKind::Float { .. } => ("out-of-range", "out of range"),
            _ => ("empty-value", "empty"),
        };
        let message = format!("`{name}` of {} must be {}, found {}", self.owner, expected(kind), shown(&value));
        self.diagnostics.push(Diagnostic::error(code, message).at(span, label).help(format!("`{name}`: {doc}")));
        Err(Reported)
    }

    fn wrong_type(
        &mut self,
        name: &str,
        doc: &str,
        kind: &FieldKind,
        value: &Spanned<Value>,
    ) -> Result<Spanned<Value>, Reported> {
        let message = format!("`{name}` of {} must be {}, found {}", self.owner, expected(kind), kind_of(value));
        let error = Diagnostic::error("wrong-type", message).at(value.span, format!("this is {}", kind_of(value)));
        let text_for_bool =
            matches!((kind, &value.value), (FieldKind::Bool, Value::Str(s)) if s == "true" || s == "false");
        self.diagnostics.push(match &value.value {
            _ if text_for_bool => error.help("booleans are written `#true` and `#false`"),
            Value::Str(s) if is_numeric(kind) && s.parse::<f64>().is_ok() => {
                error.help("write the number without quotes")
            }
            Value::Int(_) | Value::Float(_) if is_text(kind) || matches!(kind, FieldKind::Str) => {
                error.help("write it in quotes")
            }
            _ => error.help(format!("`{name}`: {doc}")),
        });
        Err(Reported)
    }

    fn unknown_choice(
        &mut self,
        name: &str,
        found: &str,
        choices: &[&str],
        span: Span,
    ) -> Result<Spanned<Value>, Reported> {
        let message = format!("`{name}` of {} cannot be `{found}`", self.owner);
        let error = Diagnostic::error("unknown-choice", message).at(span, "none of the choices");
        let error = match did_you_mean(found, choices.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error,
        };
        self.diagnostics.push(error.help(format!("expected {}", one_of(choices))));
        Err(Reported)
    }

    /// Puts the task in place of its name.
    fn task(&mut self, name: &str, span: Span) -> Result<Spanned<Value>, Reported> {
        self.scope.used.borrow_mut().tasks.insert(name.to_string());
        match tasks::find(self.scope.tasks, name) {
            Ok(Some(task)) => Ok(Spanned::new(Value::Task(task), span)),
            Ok(None) => Err(Reported),
            Err(_) if self.scope.incomplete => Err(Reported),
            Err(help) => {
                let error = Diagnostic::error("unknown-task", format!("no task is named `{name}`"));
                self.diagnostics.push(error.at(span, "unknown name").help(help));
                Err(Reported)
            }
        }
    }

    /// Checks that a model or teacher is declared, and notes that it is used.
    pub(super) fn declared(&mut self, what: &'static str, name: &str, span: Span) -> Result<(), Reported> {
        fn state<T>(declared: Option<&Declared<T>>, name: &str) -> Option<Option<bool>> {
            declared.map(|d| d.get(name).map(Option::is_some))
        }
        let mut used = self.scope.used.borrow_mut();
        let (found, names) = if what == "model" {
            used.models.insert(name.to_string());
            (state(self.scope.models, name), self.scope.models.map(|m| m.keys().cloned().collect::<Vec<_>>()))
        } else {
            used.teachers.insert(name.to_string());
            (state(self.scope.teachers, name), self.scope.teachers.map(|m| m.keys().cloned().collect::<Vec<_>>()))
        };
        match found {
            None | Some(Some(true)) => Ok(()),
            Some(Some(false)) => Err(Reported),
            Some(None) if self.scope.incomplete => Err(Reported),
            Some(None) => {
                let names = names.unwrap_or_default();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let code = if what == "model" { "unknown-model" } else { "unknown-teacher" };
                let error = Diagnostic::error(code, format!("no {what} is named `{name}`")).at(span, "unknown name");
                self.diagnostics.push(match did_you_mean(name, names.iter().copied()) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None if names.is_empty() => error.help(format!("declare it: `{what} \"{name}\" ...`")),
                    None => error.help(format!("declared: {}", list(&names))),
                });
                Err(Reported)
            }
        }
    }
}

/// An error was pushed to the diagnostics, here or where a name was declared.
pub(super) struct Reported;

/// The node's keyword and first argument, which name it: labels cover this and not the whole block.
pub(super) fn head_span(node: &Node) -> Span {
    let first = node.entries.first().filter(|e| e.name.is_none());
    Span { end: first.map_or(node.name.span.end, |e| e.value.span.end), ..node.span }
}

fn is_filled(entry: &Entry) -> bool {
    matches!(&entry.value.value, Scalar::Str(s) if s.contains("${"))
}

/// Kinds written as strings that must say something.
fn is_text(kind: &FieldKind) -> bool {
    use FieldKind::{Column, Dataset, Expr, Path, Sql};
    matches!(kind, Path | Expr | Sql | Column | Dataset)
}

fn is_numeric(kind: &FieldKind) -> bool {
    matches!(kind, FieldKind::Int { .. } | FieldKind::Float { .. })
}

/// What a field takes, in words: `a whole number from 1 to 10`.
pub fn expected(kind: &FieldKind) -> String {
    match kind {
        FieldKind::Str => "a string".into(),
        FieldKind::Path => "a path in quotes".into(),
        FieldKind::Expr => "an expression in quotes".into(),
        FieldKind::Sql => "a SQL query in quotes".into(),
        FieldKind::Column => "the name of a column in quotes".into(),
        FieldKind::Model => "the name of a model in quotes".into(),
        FieldKind::Teacher => "the name of a teacher in quotes".into(),
        FieldKind::Task => "the name of a task in quotes".into(),
        FieldKind::Dataset => "the name of a dataset in quotes".into(),
        FieldKind::Int { min, max } => {
            let max = (*max != i64::MAX).then(|| max.to_string());
            format!("a whole number{}", range((*min != i64::MIN).then(|| min.to_string()), max))
        }
        FieldKind::Float { min, max } => {
            let bound = |b: f64| b.is_finite().then(|| b.to_string());
            format!(
                "a number{}",
                range(bound(*min).filter(|_| *min != f64::MIN), bound(*max).filter(|_| *max != f64::MAX))
            )
        }
        FieldKind::Bool => "`#true` or `#false`".into(),
        FieldKind::Choice(choices) => one_of(choices),
        FieldKind::Scalar => "a string, a number, `#true`, `#false` or `#null`".into(),
        FieldKind::List(kind) => format!("one or more values, each {}", expected(kind)),
        FieldKind::Map(kind) => format!("a block with entries, each {}", expected(kind)),
        FieldKind::Records(_) => "child nodes".into(),
    }
}

fn range(min: Option<String>, max: Option<String>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(", {min} or more"),
        (None, Some(max)) => format!(", {max} or less"),
        (None, None) => String::new(),
    }
}

fn one_of(choices: &[&str]) -> String {
    let quoted: Vec<String> = choices.iter().map(|c| format!("`{c}`")).collect();
    match quoted.as_slice() {
        [head @ .., last] if !head.is_empty() => format!("{} or {last}", head.join(", ")),
        _ => quoted.concat(),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Int(_) => "an integer",
        Value::Float(_) => "a number",
        Value::Str(_) => "a string",
        Value::List(_) => "a list",
        Value::Map(_) | Value::Records(_) => "a block",
        Value::Task(_) => "a task",
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Str(s) => format!("`\"{s}\"`"),
        other => plain(other).map_or_else(|| kind_of(other).to_string(), |text| format!("`{text}`")),
    }
}
