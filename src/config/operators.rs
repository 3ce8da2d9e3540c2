//! Operator nodes: one [`NodeDecl`] for each instance of the node's sweep.

use super::declarations::Declaration;
use super::fields::{Decoder, head_span};
use super::language::{COMMON, DOC};
use super::matrix::Matrix;
use super::reader::{NodeReader, Written};
use super::scope::{Declared, Scope, Used, is_name};
use super::{InputDecl, ModelDecl, NodeDecl, Param, TeacherDecl, Unused};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::eval::task::Task;
use crate::ops::{Arity, Fields, InputSpec, OpSpec, Value, did_you_mean, list};
use crate::plan::NodeName;
use crate::syntax::{Entry, Node};
use std::cell::RefCell;
use std::sync::Arc;

/// Everything that operator nodes can refer to.
pub(super) struct World<'a> {
    pub params: &'a Declared<Param>,
    pub models: &'a Declared<ModelDecl>,
    pub teachers: &'a Declared<TeacherDecl>,
    pub tasks: &'a Declared<Arc<Task>>,
    pub matrices: &'a Declared<Matrix>,
    pub used: &'a RefCell<Used>,
    /// Names that seem unknown may be declared in a file that could not be read.
    pub incomplete: bool,
}

impl<'a> World<'a> {
    /// What a node outside of any sweep can mention.
    fn scope(&self) -> Scope<'a> {
        let params = Scope::of_params(self.params, self.used, self.incomplete);
        Scope { models: Some(self.models), teachers: Some(self.teachers), tasks: Some(self.tasks), ..params }
    }
}

/// What `matrix` and `over` of a node come to.
struct Sweep<'a> {
    matrix: &'a Matrix,
    /// The axes that the node keeps, in the order of the matrix.
    axes: Vec<usize>,
}

/// Decodes every instance of a node. `None` after an error.
pub(super) fn instances(
    op: &'static OpSpec,
    declaration: &Declaration<'_>,
    world: &World<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<NodeDecl>> {
    let node = declaration.reader.node();
    let scope = world.scope();
    let owner = format!("`{}`", op.name);
    let mut decoder = Decoder { scope: &scope, diagnostics, owner };
    let common = decoder.fields(COMMON, &mut named_reader(node), head_span(node));
    let sweep = common.as_ref().and_then(|c| sweep(c, world, diagnostics));
    let written = WrittenNode { op, node, name: &declaration.name, common: common.as_ref() };
    match sweep {
        Some(Some(sweep)) => written.swept(&sweep, world, diagnostics),
        Some(None) => written.instance(written.plain_name(), &scope, diagnostics).map(|one| vec![one]),
        None => {
            // Which axes the node has is not known: names that seem unknown are not reported, other errors are.
            written.instance(written.plain_name(), &Scope { incomplete: true, ..scope }, diagnostics);
            None
        }
    }
}

/// A reader past the node's name.
fn named_reader(node: &Node) -> NodeReader<'_> {
    let mut reader = NodeReader::new(node);
    reader.argument();
    reader
}

/// The node's sweep, if it has one. `None` after an error.
fn sweep<'a>(common: &Fields, world: &World<'a>, diagnostics: &mut Diagnostics) -> Option<Option<Sweep<'a>>> {
    let over = common.strs("over");
    let Some(name) = common.opt_str("matrix") else {
        let Some(first) = over.first() else { return Some(None) };
        diagnostics.push(
            Diagnostic::error("meaningless-field", "`over` chooses axes of the node's matrix, and the node has none")
                .at(first.span, "axes of which matrix?")
                .help("add `matrix=\"...\"`, or drop `over`"),
        );
        return None;
    };
    let Some(matrix) = world.matrices.get(&name.value) else {
        if world.incomplete {
            return None;
        }
        let names: Vec<&str> = world.matrices.keys().map(String::as_str).collect();
        let error = Diagnostic::error("unknown-matrix", format!("no matrix is named `{}`", name.value))
            .at(name.span, "unknown name");
        diagnostics.push(match did_you_mean(&name.value, names.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None if names.is_empty() => error.help("declare it: `matrix \"name\" { axis \"value\" \"value\" }`"),
            None => error.help(format!("declared: {}", list(&names))),
        });
        return None;
    };
    world.used.borrow_mut().axes.insert((name.value.clone(), String::new()));
    let matrix = matrix.as_ref()?;
    let axes = axes(matrix, &over, diagnostics)?;
    for axis in &over {
        world.used.borrow_mut().axes.insert((name.value.clone(), axis.value.clone()));
    }
    Some(Some(Sweep { matrix, axes }))
}

fn axes(matrix: &Matrix, over: &[Spanned<String>], diagnostics: &mut Diagnostics) -> Option<Vec<usize>> {
    if over.is_empty() {
        return Some((0..matrix.axes.len()).collect());
    }
    let names = matrix.axis_names();
    let mut axes = Vec::new();
    let mut ok = true;
    for name in over {
        match matrix.axis(&name.value) {
            Some(axis) if axes.contains(&axis) => {
                ok = false;
                let message = format!("`over` names the axis `{}` twice", name.value);
                diagnostics
                    .push(Diagnostic::error("duplicate-value", message).at(name.span, "second here").help("keep one"));
            }
            Some(axis) => axes.push(axis),
            None => {
                ok = false;
                let message = format!("the matrix `{}` has no axis `{}`", matrix.name, name.value);
                let error = Diagnostic::error("unknown-axis", message)
                    .at(name.span, "unknown axis")
                    .and(matrix.span, format!("its axes are {}", list(&names)));
                diagnostics.push(match did_you_mean(&name.value, names.iter().copied()) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help("`over` names one or more axes of the matrix"),
                });
            }
        }
    }
    axes.sort_unstable();
    ok.then_some(axes)
}

/// An operator node as it is written.
struct WrittenNode<'a> {
    op: &'static OpSpec,
    node: &'a Node,
    name: &'a Spanned<String>,
    /// What every operator node has; `None` after an error.
    common: Option<&'a Fields>,
}

impl WrittenNode<'_> {
    fn plain_name(&self) -> NodeName {
        NodeName::plain(&self.name.value)
    }

    /// An instance for each combination of the sweep's axes.
    fn swept(&self, sweep: &Sweep<'_>, world: &World<'_>, diagnostics: &mut Diagnostics) -> Option<Vec<NodeDecl>> {
        let Sweep { matrix, axes } = sweep;
        let names = matrix.axis_names();
        let hidden: Vec<&str> = (0..names.len()).filter(|a| !axes.contains(a)).map(|a| names[a]).collect();
        let mut messages = InstanceMessages::default();
        let mut decoded: Vec<Option<NodeDecl>> = Vec::new();
        for cell in matrix.projections(axes) {
            let bindings = matrix.bindings(cell, axes);
            let scope = Scope { matrix: Some(&matrix.name), bindings, hidden: hidden.clone(), ..world.scope() };
            let name = NodeName { bindings: matrix.instance(cell, axes), ..self.plain_name() };
            let mut own = Diagnostics::new();
            decoded.push(self.instance(name.clone(), &scope, &mut own));
            messages.add(&name, own);
        }
        diagnostics.extend(messages.finish(decoded.len()));
        decoded.into_iter().collect()
    }

    fn instance(&self, name: NodeName, scope: &Scope<'_>, diagnostics: &mut Diagnostics) -> Option<NodeDecl> {
        let (op, owner, head) = (self.op, format!("`{}`", self.op.name), head_span(self.node));
        let mut reader = named_reader(self.node);
        let inputs = inputs(op, &mut reader, head, scope, diagnostics);
        let mut decoder = Decoder { scope, diagnostics, owner: owner.clone() };
        let fields = decoder.fields(op.fields, &mut reader, head);
        let doc = decoder.fields(DOC, &mut reader, head);
        for field in COMMON {
            // Decoded already, once for all instances.
            reader.claim(field.name);
        }
        let finished = reader.finish(&owner, diagnostics);
        let common = self.common.filter(|_| finished)?;
        Some(NodeDecl {
            name,
            op,
            fields: fields?,
            inputs: inputs?,
            tolerance: common.opt_float("tolerance").map(|t| t.value),
            unused: common.opt_str("unused").map(|u| if u.value == "skip" { Unused::Skip } else { Unused::Run }),
            doc: doc?.opt_str("doc").map(|d| d.value),
            name_span: self.name.span,
            span: head,
        })
    }
}

/// The references of every port. `None` after an error.
pub(super) fn inputs(
    op: &'static OpSpec,
    reader: &mut NodeReader<'_>,
    head: Span,
    scope: &Scope<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<InputDecl>> {
    let mut inputs = Vec::new();
    let before = diagnostics.0.len();
    let mut ok = true;
    for port in op.inputs {
        match reader.field(port.name, diagnostics) {
            Some(Written::Property(entry)) => ok &= references(op, port, &[entry], scope, &mut inputs, diagnostics),
            Some(Written::Child(node)) => {
                let mut child = NodeReader::new(node);
                let entries = child.arguments();
                ok &= child.finish(&format!("`{}`", port.name), diagnostics);
                if entries.is_empty() {
                    diagnostics.push(
                        Diagnostic::error("missing-value", format!("`{}` names no node", port.name))
                            .at(node.name.span, "expected the name of a node")
                            .help(format!("write `{} \"node\"`: {}", port.name, port.doc)),
                    );
                }
                ok &= references(op, port, &entries, scope, &mut inputs, diagnostics);
            }
            None if port.arity == Arity::Optional => {}
            None => diagnostics.push(
                Diagnostic::error(
                    "missing-input",
                    format!("`{}` reads rows through `{}`: {}", op.name, port.name, port.doc),
                )
                .at(head, format!("`{}` is missing", port.name))
                .help(format!("write `{}=\"node\"`, with the name of the node to read", port.name)),
            ),
        }
    }
    (ok && !diagnostics.0[before..].iter().any(Diagnostic::is_error)).then_some(inputs)
}

fn references(
    op: &OpSpec,
    port: &'static InputSpec,
    entries: &[&Entry],
    scope: &Scope<'_>,
    inputs: &mut Vec<InputDecl>,
    diagnostics: &mut Diagnostics,
) -> bool {
    let before = inputs.len();
    let mut ok = true;
    for entry in entries {
        let Some(value) = scope.value(entry, diagnostics) else {
            ok = false;
            continue;
        };
        let values = match value.value {
            Value::List(items) => items.into_iter().map(|i| i.value).collect(),
            single => vec![single],
        };
        for single in values {
            match reference(&single) {
                Some((node, output)) => inputs.push(InputDecl { port: port.name, node, output, span: value.span }),
                None => {
                    ok = false;
                    diagnostics.push(
                        Diagnostic::error("bad-reference", format!("`{}` takes the name of a node", port.name))
                            .at(value.span, "not a reference")
                            .help("write `\"node\"`, or `\"node.output\"` for one of several outputs"),
                    );
                }
            }
        }
    }
    if let (Arity::One | Arity::Optional, [first, second, ..]) = (port.arity, &inputs[before..]) {
        ok = false;
        diagnostics.push(
            Diagnostic::error("too-many-references", format!("`{}` of `{}` reads one node", port.name, op.name))
                .at(second.span, "a second reference")
                .and(first.span, "the first")
                .help("to read several nodes as one, put a `concat` before this node"),
        );
    }
    ok
}

/// `node` or `node.output`.
fn reference(value: &Value) -> Option<(String, Option<String>)> {
    let Value::Str(text) = value else { return None };
    let (node, output) = match text.split_once('.') {
        Some((node, output)) => (node, Some(output)),
        None => (text.as_str(), None),
    };
    (is_name(node) && output.is_none_or(is_name)).then(|| (node.to_string(), output.map(str::to_string)))
}

/// Messages of a node's instances, each place and kind once: most errors of a node are in all its instances.
#[derive(Default)]
struct InstanceMessages {
    kept: Vec<(Diagnostic, NodeName, usize)>,
}

impl InstanceMessages {
    fn add(&mut self, name: &NodeName, own: Diagnostics) {
        let place = |d: &Diagnostic| d.labels.first().map(|l| l.span);
        for diagnostic in own.0 {
            let same = |k: &&mut (Diagnostic, NodeName, usize)| {
                k.0.code == diagnostic.code && place(&k.0) == place(&diagnostic)
            };
            match self.kept.iter_mut().find(same) {
                // The same instance may have several different messages at one place.
                Some((first, first_name, _)) if first_name == name && *first != diagnostic => {
                    self.kept.push((diagnostic, name.clone(), 0));
                }
                Some((_, _, others)) => *others += 1,
                None => self.kept.push((diagnostic, name.clone(), 0)),
            }
        }
    }

    /// Says which instances a message is about, unless it is about all of them.
    fn finish(self, instances: usize) -> Diagnostics {
        let one = |(diagnostic, name, others): (Diagnostic, NodeName, usize)| match others {
            all if all + 1 >= instances => diagnostic,
            0 => diagnostic.help(format!("in the instance `{name}`")),
            1 => diagnostic.help(format!("in the instance `{name}` and one more")),
            n => diagnostic.help(format!("in the instance `{name}` and {n} more")),
        };
        Diagnostics(self.kept.into_iter().map(one).collect())
    }
}
