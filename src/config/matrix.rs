//! `matrix`: axes, their values and attributes, `keep` and `exclude`; cells and their projections.

use super::fields::head_span;
use super::reader::NodeReader;
use super::scope::{Binding, Scope, is_name, plain};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::ops::{Value, did_you_mean, list};
use crate::plan::IndexMapOrd;
use crate::syntax::Node;
use indexmap::IndexMap;
use std::collections::HashSet;

/// A sweep of more cells than this is a slip.
const MAX_CELLS: usize = 100_000;

#[derive(Debug)]
pub(super) struct Matrix {
    pub name: String,
    pub span: Span,
    pub axes: Vec<Axis>,
    /// For each kept cell, the index of its value on each axis; in the order of the axes.
    pub cells: Vec<Vec<usize>>,
}

#[derive(Debug)]
pub(super) struct Axis {
    pub name: Spanned<String>,
    /// By the text that stands for the value in instance names.
    pub values: IndexMap<String, AxisValue>,
}

#[derive(Debug)]
pub(super) struct AxisValue {
    pub value: Value,
    pub span: Span,
    pub attributes: IndexMap<String, Spanned<Value>>,
}

impl Matrix {
    /// Cells that differ on these axes, in order: for each, an index of a cell that shows it.
    pub fn projections(&self, axes: &[usize]) -> Vec<usize> {
        let mut seen = HashSet::new();
        let project = |cell: &Vec<usize>| axes.iter().map(|a| cell[*a]).collect::<Vec<_>>();
        (0..self.cells.len()).filter(|i| seen.insert(project(&self.cells[*i]))).collect()
    }

    /// What the names of the axes mean in a cell.
    pub fn bindings(&self, cell: usize, axes: &[usize]) -> Vec<Binding<'_>> {
        let bind = |a: &usize| {
            let axis = &self.axes[*a];
            let value = &axis.values[self.cells[cell][*a]];
            Binding { axis: &axis.name.value, value: &value.value, attributes: &value.attributes, span: value.span }
        };
        axes.iter().map(bind).collect()
    }

    /// Axis -> value, for the name of an instance.
    pub fn instance(&self, cell: usize, axes: &[usize]) -> IndexMapOrd {
        let pair = |a: &usize| {
            let axis = &self.axes[*a];
            let text = axis.values.get_index(self.cells[cell][*a]).map(|(text, _)| text.clone());
            (axis.name.value.clone(), text.unwrap_or_default())
        };
        IndexMapOrd(axes.iter().map(pair).collect())
    }

    pub fn axis(&self, name: &str) -> Option<usize> {
        self.axes.iter().position(|a| a.name.value == name)
    }

    pub fn axis_names(&self) -> Vec<&str> {
        self.axes.iter().map(|a| a.name.value.as_str()).collect()
    }
}

/// A condition on axes: the cell's value must be among the indices, on every axis named.
type Condition = Vec<(usize, HashSet<usize>)>;

/// Decodes a matrix node whose name was claimed. `None` after an error.
pub(super) fn decode(
    name: &Spanned<String>,
    mut reader: NodeReader<'_>,
    scope: &Scope<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Matrix> {
    let before = diagnostics.0.len();
    let node = reader.node();
    let children = reader.all_children();
    reader.finish("`matrix`", diagnostics);
    let mut matrix = Matrix { name: name.value.clone(), span: head_span(node), axes: Vec::new(), cells: Vec::new() };
    for child in children.iter().filter(|c| !is_condition(c)) {
        axis(child, &mut matrix.axes, scope, diagnostics);
    }
    if matrix.axes.is_empty() && diagnostics.0.len() == before {
        diagnostics.push(
            Diagnostic::error("empty-matrix", format!("the matrix `{}` has no axis", matrix.name))
                .at(matrix.span, "no axis inside")
                .help("an axis is a child node with its values: `set \"GSM8K\" \"MATH\"`"),
        );
    }
    let mut keep = Vec::new();
    let mut exclude = Vec::new();
    for child in children.iter().filter(|c| is_condition(c)) {
        let condition = condition(child, &matrix, scope, diagnostics);
        if child.name.value == "keep" { keep.push(condition) } else { exclude.push(condition) }
    }
    if diagnostics.0[before..].iter().any(Diagnostic::is_error) {
        return None;
    }
    matrix.cells = cells(&matrix, &keep, &exclude, diagnostics)?;
    Some(matrix)
}

fn is_condition(node: &Node) -> bool {
    matches!(node.name.value.as_str(), "keep" | "exclude")
}

/// Adds a node's values to the axis of its name.
fn axis(node: &Node, axes: &mut Vec<Axis>, scope: &Scope<'_>, diagnostics: &mut Diagnostics) {
    if !is_name(&node.name.value) {
        super::params::check_name("axis", &node.name, diagnostics);
        return;
    }
    let mut reader = NodeReader::new(node);
    let mut attributes = IndexMap::new();
    for (name, entry) in reader.all_properties() {
        if !super::params::check_name("attribute", name, diagnostics) {
            continue;
        }
        let Some(value) = scope.value(entry, diagnostics) else { continue };
        if attributes.insert(name.value.clone(), value).is_some() {
            let message = format!("the attribute `{}` is given twice", name.value);
            diagnostics
                .push(Diagnostic::error("duplicate-field", message).at(name.span, "second here").help("keep one"));
        }
    }
    let arguments = reader.arguments();
    reader.finish(&format!("the axis `{}`", node.name.value), diagnostics);
    let mut values = Vec::new();
    for argument in &arguments {
        match scope.value(argument, diagnostics).map(|v| (v.value, v.span)) {
            Some((Value::List(items), span)) => values.extend(items.into_iter().map(|i| (i.value, span))),
            Some(value) => values.push(value),
            None => {}
        }
    }
    if arguments.is_empty() {
        let message = format!("the axis `{}` has no value", node.name.value);
        let help = format!("write `{} \"value\"`, with one value or several", node.name.value);
        diagnostics.push(Diagnostic::error("missing-value", message).at(node.name.span, "expected a value").help(help));
    }
    if let (Some(attribute), true) = (attributes.values().next(), values.len() > 1) {
        let message = "attributes belong to one value, and this node has several";
        let help = format!("write one `{}` node for each value", node.name.value);
        diagnostics
            .push(Diagnostic::error("meaningless-field", message).at(attribute.span, "whose attribute?").help(help));
    }
    let index = axes.iter().position(|a| a.name.value == node.name.value).unwrap_or_else(|| {
        axes.push(Axis { name: node.name.clone(), values: IndexMap::new() });
        axes.len() - 1
    });
    for (value, span) in values {
        add_value(&mut axes[index], value, span, &attributes, diagnostics);
    }
}

fn add_value(
    axis: &mut Axis,
    value: Value,
    span: Span,
    attributes: &IndexMap<String, Spanned<Value>>,
    diagnostics: &mut Diagnostics,
) {
    let name = &axis.name.value;
    let Some(text) = plain(&value).filter(|t| !t.is_empty()) else {
        let message = format!("a value of the axis `{name}` must be a string, a number or a boolean, and not empty");
        diagnostics
            .push(Diagnostic::error("wrong-type", message).at(span, "cannot be a value").help("write `\"value\"`"));
        return;
    };
    if let Some(first) = axis.values.get(&text) {
        diagnostics.push(
            Diagnostic::error("duplicate-value", format!("the axis `{name}` has the value `{text}` twice"))
                .at(span, "second here")
                .and(first.span, "first here")
                .help("keep one; all attributes of a value stand on one node"),
        );
        return;
    }
    axis.values.insert(text, AxisValue { value, span, attributes: attributes.clone() });
}

/// Reads `keep` or `exclude`: axes as properties or child nodes, each with one value or several.
fn condition(node: &Node, matrix: &Matrix, scope: &Scope<'_>, diagnostics: &mut Diagnostics) -> Condition {
    let owner = format!("`{}`", node.name.value);
    let mut reader = NodeReader::new(node);
    let mut written: Vec<(&Spanned<String>, Vec<&crate::syntax::Entry>)> =
        reader.all_properties().into_iter().map(|(name, entry)| (name, vec![entry])).collect();
    for child in reader.all_children() {
        let mut inner = NodeReader::new(child);
        written.push((&child.name, inner.arguments()));
        inner.finish(&format!("`{}`", child.name.value), diagnostics);
    }
    reader.finish(&owner, diagnostics);
    if written.is_empty() {
        let help = format!("write `{} axis=\"value\"`", node.name.value);
        let message = format!("{owner} names no axis");
        diagnostics.push(Diagnostic::error("missing-value", message).at(node.name.span, "expected an axis").help(help));
    }
    let mut condition = Condition::new();
    for (name, entries) in written {
        let Some(index) = matrix.axis(&name.value) else {
            let names = matrix.axis_names();
            let message = format!("the matrix `{}` has no axis `{}`", matrix.name, name.value);
            let error = Diagnostic::error("unknown-axis", message).at(name.span, "unknown axis");
            diagnostics.push(match did_you_mean(&name.value, names.iter().copied()) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help(format!("its axes are {}", list(&names))),
            });
            continue;
        };
        if condition.iter().any(|(axis, _)| *axis == index) {
            let message = format!("{owner} names the axis `{}` twice", name.value);
            let help = "put all of its values behind one name";
            diagnostics.push(Diagnostic::error("duplicate-field", message).at(name.span, "second here").help(help));
            continue;
        }
        let mut allowed = HashSet::new();
        for entry in entries {
            let Some(value) = scope.value(entry, diagnostics) else { continue };
            let items = match value.value {
                Value::List(items) => items.into_iter().map(|i| i.value).collect(),
                single => vec![single],
            };
            for item in items {
                allowed.extend(value_index(&matrix.axes[index], &item, value.span, diagnostics));
            }
        }
        condition.push((index, allowed));
    }
    condition
}

fn value_index(axis: &Axis, value: &Value, span: Span, diagnostics: &mut Diagnostics) -> Option<usize> {
    let text = plain(value).unwrap_or_default();
    let found = axis.values.get_index_of(&text);
    if found.is_none() {
        let names: Vec<&str> = axis.values.keys().map(String::as_str).collect();
        let message = format!("the axis `{}` has no value `{text}`", axis.name.value);
        let error = Diagnostic::error("unknown-value", message)
            .at(span, "unknown value")
            .and(axis.name.span, "the axis is declared here");
        diagnostics.push(match did_you_mean(&text, names.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("its values are {}", list(&names))),
        });
    }
    found
}

/// Every combination of axis values that all `keep` and no `exclude` let through, the last axis running fastest.
fn cells(
    matrix: &Matrix,
    keep: &[Condition],
    exclude: &[Condition],
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Vec<usize>>> {
    let count = matrix.axes.iter().try_fold(1usize, |n, a| n.checked_mul(a.values.len()));
    if count.is_none_or(|n| n > MAX_CELLS) {
        let sizes: Vec<String> = matrix.axes.iter().map(|a| format!("{} {}", a.values.len(), a.name.value)).collect();
        let message = format!("the matrix `{}` has more than {MAX_CELLS} cells: {}", matrix.name, sizes.join(" x "));
        let help = "split it into several matrices";
        diagnostics.push(Diagnostic::error("matrix-too-large", message).at(matrix.span, "too many cells").help(help));
        return None;
    }
    let holds =
        |condition: &Condition, cell: &[usize]| condition.iter().all(|(axis, allowed)| allowed.contains(&cell[*axis]));
    let mut cells = Vec::new();
    for number in 0..count? {
        let mut cell = vec![0; matrix.axes.len()];
        let mut rest = number;
        for (place, axis) in cell.iter_mut().zip(&matrix.axes).rev() {
            *place = rest % axis.values.len();
            rest /= axis.values.len();
        }
        if keep.iter().all(|c| holds(c, &cell)) && !exclude.iter().any(|c| holds(c, &cell)) {
            cells.push(cell);
        }
    }
    if cells.is_empty() {
        diagnostics.push(
            Diagnostic::error(
                "empty-matrix",
                format!("`keep` and `exclude` leave no cell of the matrix `{}`", matrix.name),
            )
            .at(matrix.span, "no cell is left")
            .help("look at the parameters that `keep` reads: an empty list keeps nothing"),
        );
        return None;
    }
    Some(cells)
}
