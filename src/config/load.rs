//! The pass from files to a [`Pipeline`].

use super::declarations::{self, Declaration, named};
use super::fields::{Decoder, head_span};
use super::files::{Files, Loader};
use super::language;
use super::matrix::{self, Matrix};
use super::operators::{World, inputs, instances};
use super::scope::{Declared, Scope, Used};
use super::tasks;
use super::teachers;
use super::{ModelDecl, NodeDecl, Param, Pipeline, RunOptions, TeacherDecl};
use super::{params, paths};
use crate::diag::{Diagnostic, Diagnostics, Sources, Span, Spanned, render};
use crate::eval::task::Task;
use crate::ops::{Fields, OpSpec, REGISTRY, did_you_mean};
use crate::syntax::{self, Node};
use indexmap::IndexMap;
use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

/// The operators that a pipeline may use.
pub type Registry = &'static [&'static OpSpec];

/// Loads a pipeline file and everything it includes. `overrides` are the `-P name=value` of the command line.
///
/// All errors are reported. `None` only when the file itself cannot be read or has lost its structure; otherwise what
/// could be decoded is returned, so that later phases find their errors as well.
pub fn load(
    path: &Path,
    overrides: &[(String, String)],
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> Option<Pipeline> {
    load_with(REGISTRY, Input::File(path), overrides, sources, diagnostics)
}

/// Loads a pipeline from a text; includes are relative to the working directory.
pub fn load_text(
    name: &str,
    text: &str,
    overrides: &[(String, String)],
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> Option<Pipeline> {
    load_with(REGISTRY, Input::Text { name, text }, overrides, sources, diagnostics)
}

/// Where a pipeline comes from.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    File(&'a Path),
    Text { name: &'a str, text: &'a str },
}

/// [`load`] with other operators than the registry's.
pub fn load_with(
    registry: Registry,
    input: Input<'_>,
    overrides: &[(String, String)],
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> Option<Pipeline> {
    let before = diagnostics.0.len();
    let loader = Loader::new(sources, diagnostics, overrides);
    let (files, stem) = match input {
        Input::File(path) => (loader.file(path)?, path.file_stem().map(|s| s.to_string_lossy().into_owned())),
        Input::Text { name, text } => (loader.text(name, None, text.to_string())?, Some(name.to_string())),
    };
    let used = RefCell::new(Used { params: files.params.iter().cloned().collect(), ..Used::default() });
    let mut pass = Pass { registry, files: &files, sources, diagnostics, used: &used, params: Declared::new() };
    let mut pipeline = pass.pipeline(overrides, stem.unwrap_or_default());
    paths::anchor(&mut pipeline, sources);
    diagnostics.limit(before);
    Some(pipeline)
}

/// Decodes one operator node without a pipeline round it; references and model names are not checked. The error is the
/// rendered diagnostics. For unit tests of operators.
pub fn decode_fields(spec: &'static OpSpec, text: &str) -> Result<Fields, String> {
    let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
    let source = sources.add("node.kdl", None, text);
    let document = syntax::parse(text, source, &mut diagnostics);
    let mut fields = None;
    if let Some(node) = document.as_ref().and_then(|d| d.nodes.first()) {
        let (used, params) = (RefCell::default(), Declared::new());
        let scope = Scope::of_params(&params, &used, false);
        if let Some(mut declaration) = named(node, "node", &mut diagnostics) {
            let head = head_span(node);
            for field in language::COMMON.iter().chain(language::DOC) {
                declaration.reader.claim(field.name);
            }
            inputs(spec, &mut declaration.reader, head, &scope, &mut diagnostics);
            let owner = format!("`{}`", spec.name);
            let mut decoder = Decoder { scope: &scope, diagnostics: &mut diagnostics, owner: owner.clone() };
            fields = decoder.fields(spec.fields, &mut declaration.reader, head);
            declaration.reader.finish(&owner, &mut diagnostics);
        }
    }
    match fields {
        Some(fields) if !diagnostics.has_errors() => Ok(fields),
        _ => Err(render(&diagnostics, &sources, false)),
    }
}

struct Pass<'a> {
    registry: Registry,
    files: &'a Files,
    sources: &'a mut Sources,
    diagnostics: &'a mut Diagnostics,
    used: &'a RefCell<Used>,
    params: Declared<Param>,
}

/// Top-level nodes by what they declare.
#[derive(Default)]
struct Sorted<'n> {
    pipeline: Vec<&'n Node>,
    run: Vec<&'n Node>,
    params: Vec<Declaration<'n>>,
    matrices: Vec<Declaration<'n>>,
    models: Vec<Declaration<'n>>,
    teachers: Vec<Declaration<'n>>,
    tasks: Vec<Declaration<'n>>,
    operators: Vec<(&'static OpSpec, Declaration<'n>)>,
    /// Names of nodes that are given up, so that references to them are not reported.
    failed: Vec<String>,
}

impl<'a> Pass<'a> {
    fn pipeline(&mut self, overrides: &[(String, String)], stem: String) -> Pipeline {
        let files = self.files;
        for top in &files.nodes {
            annotations(&top.node, self.diagnostics);
        }
        let sorted = self.sort();
        self.params(sorted.params, overrides);
        let header = self.header(&sorted.pipeline);
        let options = self.run_options(&sorted.run);
        let matrices = self.matrices(sorted.matrices);
        let models = self.models(sorted.models);
        let teachers = self.teachers(sorted.teachers, &models);
        let tasks = self.tasks(sorted.tasks);
        let world = World {
            params: &self.params,
            models: &models,
            teachers: &teachers,
            tasks: &tasks,
            matrices: &matrices,
            used: self.used,
            incomplete: files.incomplete,
        };
        let (nodes, failed_nodes) = operators(&sorted.operators, sorted.failed, &world, self.diagnostics);
        if failed_nodes.is_empty() && !files.incomplete {
            if nodes.is_empty() && !self.diagnostics.has_errors() {
                self.diagnostics.push(
                    Diagnostic::warning("empty-pipeline", "the file has no operator node: there is nothing to run")
                        .help("a file of declarations is meant to be included by another"),
                );
            } else {
                unused(&world, files, self.diagnostics);
            }
        }
        let (name, doc, seed) = header.unwrap_or((stem, String::new(), 0));
        Pipeline {
            name,
            doc,
            seed,
            params: known(std::mem::take(&mut self.params)),
            models: known(models),
            teachers: known(teachers),
            options,
            nodes,
            failed_nodes,
        }
    }

    /// Sorts the top-level nodes by kind, claims their names and reports names given twice.
    fn sort(&mut self) -> Sorted<'a> {
        let mut sorted = Sorted::default();
        let files = self.files;
        let mut seen: IndexMap<(&'static str, &'a str), Span> = IndexMap::new();
        for top in &files.nodes {
            let node = &top.node;
            let keyword = node.name.value.as_str();
            if top.included && matches!(keyword, "pipeline" | "run") {
                self.misplaced(node);
                continue;
            }
            match keyword {
                "pipeline" => sorted.pipeline.push(node),
                "run" => sorted.run.push(node),
                "param" => sorted.params.extend(self.declare(node, "parameter", &mut seen)),
                "matrix" => sorted.matrices.extend(self.declare(node, "matrix", &mut seen)),
                "model" => sorted.models.extend(self.declare(node, "model", &mut seen)),
                "teacher" => sorted.teachers.extend(self.declare(node, "teacher", &mut seen)),
                "task" => sorted.tasks.extend(self.declare(node, "task", &mut seen)),
                _ => match self.registry.iter().copied().find(|op| op.name == keyword) {
                    Some(op) => match self.declare(node, "node", &mut seen) {
                        Some(declaration) if node.is_broken() => sorted.failed.push(declaration.name.value),
                        Some(declaration) => sorted.operators.push((op, declaration)),
                        None => sorted.failed.extend(first_string(node)),
                    },
                    None => {
                        self.unknown_operator(node);
                        sorted.failed.extend(first_string(node));
                    }
                },
            }
        }
        sorted
    }

    fn misplaced(&mut self, node: &Node) {
        let message = format!("`{}` belongs in the file that is run, and this file is included", node.name.value);
        self.diagnostics.push(
            Diagnostic::error("misplaced-node", message)
                .at(node.name.span, "in an included file")
                .help("move it there"),
        );
    }

    fn unknown_operator(&mut self, node: &Node) {
        let keyword = node.name.value.as_str();
        let names = self.registry.iter().map(|op| op.name).chain(language::LANGUAGE.iter().map(|n| n.name));
        let error = Diagnostic::error("unknown-operator", format!("there is no operator `{keyword}`"))
            .at(node.name.span, "unknown operator");
        self.diagnostics.push(match did_you_mean(keyword, names) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help("`idiolect op list` shows all operators"),
        });
    }

    /// Claims a node's name. `None` after an error, also when the name is taken.
    fn declare(
        &mut self,
        node: &'a Node,
        what: &'static str,
        seen: &mut IndexMap<(&'static str, &'a str), Span>,
    ) -> Option<Declaration<'a>> {
        if node.is_broken() && first_string(node).is_none() {
            return None;
        }
        let declaration = named(node, what, self.diagnostics)?;
        let key = (what, node.entries.first()?.value.value.as_str()?);
        match seen.get(&key) {
            Some(first) => {
                self.diagnostics.push(
                    Diagnostic::error("duplicate-name", format!("two {}s are named `{}`", plural_stem(what), key.1))
                        .at(declaration.name.span, "second here")
                        .and(*first, "first here")
                        .help("rename one of them"),
                );
                None
            }
            None => {
                seen.insert(key, declaration.name.span);
                Some(declaration)
            }
        }
    }

    /// Binds the parameters in the order of the file: a default may mention those before it.
    fn params(&mut self, declarations: Vec<Declaration<'a>>, overrides: &[(String, String)]) {
        for Declaration { name, reader } in declarations {
            let param = if reader.node().is_broken() {
                None
            } else {
                let scope = Scope::of_params(&self.params, self.used, self.files.incomplete);
                let fields = declarations::decode(&language::PARAM, reader, &scope, self.diagnostics);
                fields.and_then(|f| params::bind(&name, &f, overrides, self.diagnostics)).map(|mut param| {
                    paths::anchor_param(&mut param, self.sources);
                    param
                })
            };
            self.params.insert(name.value, param);
        }
        params::check_overrides(overrides, &self.params, self.files.incomplete, self.diagnostics);
    }

    /// Name, documentation and seed of the `pipeline` node.
    fn header(&mut self, nodes: &[&Node]) -> Option<(String, String, u64)> {
        let node = self.single(nodes)?;
        let Declaration { name, reader } = named(node, "pipeline", self.diagnostics)?;
        let scope = Scope::of_params(&self.params, self.used, self.files.incomplete);
        let fields = declarations::decode(&language::PIPELINE, reader, &scope, self.diagnostics);
        let (seed, doc) = fields.map_or((0, None), |f| (f.int("seed"), f.opt_str("doc")));
        Some((name.value, doc.map_or_else(String::new, |d| d.value), u64::try_from(seed).unwrap_or_default()))
    }

    fn run_options(&mut self, nodes: &[&Node]) -> RunOptions {
        let Some(node) = self.single(nodes) else { return RunOptions::default() };
        let scope = Scope::of_params(&self.params, self.used, self.files.incomplete);
        declarations::run(node, &scope, self.diagnostics).unwrap_or_default()
    }

    /// The only node of a kind; others are reported. `None` also when it has a syntax error.
    fn single<'n>(&mut self, nodes: &[&'n Node]) -> Option<&'n Node> {
        let (first, others) = nodes.split_first()?;
        for other in others {
            let message = format!("a pipeline has one `{}` node", first.name.value);
            self.diagnostics.push(
                Diagnostic::error("duplicate-node", message)
                    .at(other.name.span, "second here")
                    .and(first.name.span, "first here")
                    .help("make them one"),
            );
        }
        (!first.is_broken()).then_some(first)
    }

    fn matrices(&mut self, declarations: Vec<Declaration<'a>>) -> Declared<Matrix> {
        let mut matrices = Declared::new();
        for Declaration { name, reader } in declarations {
            let broken = reader.node().is_broken();
            let scope = Scope::of_params(&self.params, self.used, self.files.incomplete);
            let matrix = if broken { None } else { matrix::decode(&name, reader, &scope, self.diagnostics) };
            for axis in matrix.iter().flat_map(|m| &m.axes) {
                if let Some(Some(param)) = self.params.get(&axis.name.value) {
                    let message = format!("`{}` names both a parameter and an axis", axis.name.value);
                    self.diagnostics.push(
                        Diagnostic::error("ambiguous-name", message)
                            .at(axis.name.span, "the axis")
                            .and(param.span, "the parameter")
                            .help(format!("rename one of them, so that `${{{}}}` means one thing", axis.name.value)),
                    );
                }
            }
            matrices.insert(name.value, matrix);
        }
        matrices
    }

    fn models(&mut self, declarations: Vec<Declaration<'a>>) -> Declared<ModelDecl> {
        let mut models = Declared::new();
        for declaration in declarations {
            let scope = Scope::of_params(&self.params, self.used, self.files.incomplete);
            let name = declaration.name.value.clone();
            let broken = declaration.reader.node().is_broken();
            let model = if broken { None } else { declarations::model(declaration, &scope, self.diagnostics) };
            models.insert(name, model);
        }
        models
    }

    fn tasks(&mut self, declarations: Vec<Declaration<'a>>) -> Declared<Arc<Task>> {
        let mut declared = Declared::new();
        for declaration in declarations {
            let scope = Scope::of_params(&self.params, self.used, self.files.incomplete);
            let name = declaration.name.value.clone();
            let broken = declaration.reader.node().is_broken();
            let task = if broken { None } else { tasks::task(declaration, &scope, self.diagnostics) };
            declared.insert(name, task.map(Arc::new));
        }
        declared
    }

    fn teachers(&mut self, declarations: Vec<Declaration<'a>>, models: &Declared<ModelDecl>) -> Declared<TeacherDecl> {
        let mut teachers = Declared::new();
        for declaration in declarations {
            let scope = Scope::of_params(&self.params, self.used, self.files.incomplete);
            let scope = Scope { models: Some(models), ..scope };
            let name = declaration.name.value.clone();
            let broken = declaration.reader.node().is_broken();
            let teacher =
                if broken { None } else { teachers::teacher(declaration, &scope, self.sources, self.diagnostics) };
            teachers.insert(name, teacher);
        }
        teachers
    }
}

fn operators(
    declarations: &[(&'static OpSpec, Declaration<'_>)],
    mut failed: Vec<String>,
    world: &World<'_>,
    diagnostics: &mut Diagnostics,
) -> (Vec<NodeDecl>, Vec<String>) {
    let mut nodes = Vec::new();
    for (op, declaration) in declarations {
        match instances(op, declaration, world, diagnostics) {
            Some(instances) => nodes.extend(instances),
            None => failed.push(declaration.name.value.clone()),
        }
    }
    (nodes, failed)
}

/// Reports annotations: KDL has them, and no node of the language gives them a meaning.
fn annotations(node: &Node, diagnostics: &mut Diagnostics) {
    let entries = node.entries.iter().filter_map(|e| e.annotation.as_ref());
    for annotation in node.annotation.iter().chain(entries) {
        diagnostics.push(meaningless_annotation(annotation));
    }
    for child in node.child_nodes() {
        annotations(child, diagnostics);
    }
}

fn meaningless_annotation(annotation: &Spanned<String>) -> Diagnostic {
    Diagnostic::error(
        "meaningless-annotation",
        format!("the type annotation `({})` means nothing here", annotation.value),
    )
    .at(annotation.span, "no node or value takes an annotation")
    .help("delete it: types are known from the operator")
}

/// Warns of declarations that nothing mentions. Included files are exempt: they serve several pipelines.
fn unused(world: &World<'_>, files: &Files, diagnostics: &mut Diagnostics) {
    let used = world.used.borrow();
    let root = files.nodes.iter().find(|n| !n.included).map(|n| n.node.span.source);
    let mut warn = |code, what: &str, name: &str, span: Span| {
        if Some(span.source) != root {
            return;
        }
        diagnostics.push(
            Diagnostic::warning(code, format!("the {what} `{name}` is never used"))
                .at(span, "never used")
                .help("use it or delete it"),
        );
    };
    for param in world.params.values().flatten().filter(|p| !used.params.contains(&p.name)) {
        warn("unused-param", "parameter", &param.name, param.span);
    }
    // A value of an axis may name a model although `keep` leaves it out of this run.
    let on_axis = |name: &str| {
        let mut axes = world.matrices.values().flatten().flat_map(|m| &m.axes);
        axes.any(|a| a.values.contains_key(name))
    };
    for model in world.models.values().flatten().filter(|m| !used.models.contains(&m.name) && !on_axis(&m.name)) {
        warn("unused-model", "model", &model.name, model.span);
    }
    for teacher in world.teachers.values().flatten().filter(|t| !used.teachers.contains(&t.name)) {
        warn("unused-teacher", "teacher", &teacher.name, teacher.span);
    }
    for task in world.tasks.values().flatten().filter(|t| !used.tasks.contains(&t.name) && !on_axis(&t.name)) {
        warn("unused-task", "task", &task.name, task.span);
    }
    for matrix in world.matrices.values().flatten() {
        if !used.axes.contains(&(matrix.name.clone(), String::new())) {
            warn("unused-matrix", "matrix", &matrix.name, matrix.span);
            continue;
        }
        for axis in &matrix.axes {
            let name = &axis.name.value;
            if !used.axes.contains(&(matrix.name.clone(), name.clone())) {
                warn("unused-axis", "axis", name, axis.name.span);
            }
            let mut attributes: IndexMap<&str, Span> = IndexMap::new();
            for (attribute, value) in axis.values.values().flat_map(|v| &v.attributes) {
                attributes.entry(attribute).or_insert(value.span);
            }
            for (attribute, span) in attributes {
                if !used.attributes.contains(&(matrix.name.clone(), name.clone(), attribute.to_string())) {
                    warn("unused-attribute", "attribute", attribute, span);
                }
            }
        }
    }
}

/// What could be decoded.
fn known<T>(declared: Declared<T>) -> IndexMap<String, T> {
    declared.into_iter().filter_map(|(name, value)| value.map(|v| (name, v))).collect()
}

fn first_string(node: &Node) -> Option<String> {
    node.entries.first().filter(|e| e.name.is_none())?.value.value.as_str().map(str::to_string)
}

/// "matrice" for "matrix", so that an `s` makes it plural.
fn plural_stem(what: &str) -> &str {
    if what == "matrix" { "matrice" } else { what }
}
