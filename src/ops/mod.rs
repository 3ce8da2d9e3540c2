//! Operators: one file each, plus one line in [`REGISTRY`].
//!
//! This folder is the one place that knows both the plan and the machinery. An operator is decoded by its
//! [`OpSpec`], judged at plan time by [`Operator::resolve`] and run by [`Operator::run`].

pub mod adapters;
mod check_answer;
pub mod code;
mod compare;
mod concat;
mod deduplicate;
mod derive;
mod edit_distance;
mod evaluate;
pub mod expression;
mod filter;
pub mod gather;
mod join;
mod lint;
mod load;
mod load_adapter;
mod lora_train;
mod merge_adapter;
mod plot;
pub mod polars_bridge;
#[cfg(test)]
mod registry_tests;
pub mod rows;
mod sample;
mod samples;
mod score_ppl;
mod select;
mod sort;
pub mod spec;
mod split_by_ppl;
mod sql;
mod summarize;
mod table;
mod task_prompt;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
pub mod testing_node;
mod trained_on;
mod write;
mod write_adapter;
pub mod writing;

use crate::diag::{Diagnostic, Diagnostics, Span};
use crate::exec::{NodeCx, RunError};
use crate::fetch::Fetcher;
use crate::plan::{Calls, Estimate, InputInfo, ModelInfo, NodeName, TeacherInfo};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::path::PathBuf;
use std::sync::Arc;

pub use load::recording::{Answers, KEY as RECORDED_KEY, Recording};
pub use spec::{Arity, Default, FROM, FieldKind, FieldSpec, Fields, InputSpec, OUT, OpSpec, OutputSpec, Value};

/// Every operator of the language, in the order of the reference.
pub static REGISTRY: &[&OpSpec] = &[
    &load::SPEC,
    &select::SPEC,
    &derive::SPEC,
    &filter::SPEC,
    &join::SPEC,
    &concat::SPEC,
    &sample::SPEC,
    &sort::SPEC,
    &deduplicate::SPEC,
    &sql::SPEC,
    &writing::initial_prediction::SPEC,
    &writing::teacher_generate::SPEC,
    &writing::self_sample::SPEC,
    &writing::extract_code::SPEC,
    &writing::paraphrase::SPEC,
    &writing::min_change::SPEC,
    &writing::style_transfer::SPEC,
    &score_ppl::SPEC,
    &load_adapter::SPEC,
    &merge_adapter::SPEC,
    &check_answer::SPEC,
    &evaluate::SPEC,
    &task_prompt::SPEC,
    &edit_distance::SPEC,
    &split_by_ppl::SPEC,
    &lora_train::SPEC,
    &summarize::SPEC,
    &compare::SPEC,
    &lint::SPEC,
    &table::SPEC,
    &plot::SPEC,
    &write::SPEC,
    &write_adapter::SPEC,
];

/// The operator of that name.
pub fn find(name: &str) -> Option<&'static OpSpec> {
    REGISTRY.iter().copied().find(|op| op.name == name)
}

/// A configured operator.
pub trait Operator: std::fmt::Debug + Send + Sync {
    /// Everything of the configuration that can change a byte of the output, and nothing that cannot
    /// (threads, batch sizes). Part of the fingerprint.
    fn canonical(&self) -> serde_json::Value;

    /// Checks the inputs' schemas and says what the node will give. Pure: reads no data beyond schemas.
    /// Returns `None` after pushing at least one error.
    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved>;

    /// Does the work. Called on a thread of its own; inputs and outputs are reached through `cx`.
    fn run(&self, cx: &NodeCx) -> Result<(), RunError>;
}

/// A split of a data set, by the names of its manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SplitName {
    pub dataset: String,
    pub split: String,
}

/// What `resolve` says of a node.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// One schema for each of the spec's outputs, in order. Rows carry a non-null Utf8 column `id`, but for
    /// tables made by `summarize` and the like.
    pub outputs: Vec<SchemaRef>,
    pub estimate: Estimate,
    /// Files whose content the output depends on; their digests enter the fingerprint.
    pub files: Vec<PathBuf>,
    /// Names of the models used; their digests enter the fingerprint.
    pub models: Vec<String>,
    /// Names of the teachers asked; their digests enter the fingerprint.
    pub teachers: Vec<String>,
    /// Calls that the node expects to make, for `plan --cost`.
    pub calls: Vec<Calls>,
    /// The split of a data set that the node reads and that is not on this machine yet.
    pub to_fetch: Option<SplitName>,
    /// Needs its whole input before it gives its first row (sort, table, training).
    pub barrier: bool,
    /// Finished rows are journalled, so that none is computed twice, or checkpoints are kept.
    pub journalled: bool,
    /// What the node's progress counts, in the plural.
    pub unit: &'static str,
    /// Set when the node cannot run and the pipeline allows that: the reason, shown wherever the result
    /// would have been.
    pub skipped: Option<String>,
    /// Paths of files that the node gives to the user, relative to the run directory.
    pub files_out: Vec<String>,
    /// Draws random numbers from the node's seed, which then enters the fingerprint.
    pub seeded: bool,
    /// Reads the matrix bindings or the names of its producers, which then enter the fingerprint.
    pub reads_bindings: bool,
}

impl Resolved {
    /// A node with these outputs and nothing else to say.
    pub fn new(outputs: Vec<SchemaRef>, estimate: Estimate) -> Self {
        Self {
            outputs,
            estimate,
            files: Vec::new(),
            models: Vec::new(),
            teachers: Vec::new(),
            calls: Vec::new(),
            to_fetch: None,
            barrier: false,
            journalled: false,
            unit: "rows",
            skipped: None,
            files_out: Vec::new(),
            seeded: false,
            reads_bindings: false,
        }
    }
}

/// What an operator sees at plan time.
pub struct ResolveCx<'a> {
    pub node: &'a NodeName,
    pub op: &'static OpSpec,
    pub span: Span,
    /// The inputs, in the order of the spec's ports and, within a port, of the references.
    pub inputs: &'a [InputInfo],
    pub diagnostics: &'a mut Diagnostics,
    /// Looks a declared model up; `None` when there is none (already reported).
    pub models: &'a dyn Fn(&str) -> Option<&'a ModelInfo>,
    /// Looks a declared teacher up.
    pub teachers: &'a dyn Fn(&str) -> Option<&'a TeacherInfo>,
    /// The manifests of data sets, and the means to find their files; `None` where none are known.
    pub datasets: Option<&'a Arc<Fetcher>>,
    /// Look at files of the user's machine (`load` reads schemas). Off in pure checks of examples, where
    /// a missing file is no error as long as the schema is declared.
    pub look_at_files: bool,
    /// A file that a node reads must be there. Off in a plain `check`, where declared columns stand for the file.
    pub files_must_exist: bool,
}

impl<'a> ResolveCx<'a> {
    /// The inputs of a port.
    pub fn port(&self, name: &str) -> Vec<&'a InputInfo> {
        self.inputs.iter().filter(|i| i.port == name).collect()
    }

    /// The only input of a port of arity one.
    pub fn input(&self, name: &str) -> &'a InputInfo {
        self.inputs.iter().find(|i| i.port == name).unwrap_or_else(|| panic!("no input `{name}`"))
    }

    pub fn error(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Checks that `input` has `column` with a type that `accept` takes; otherwise reports an error that
    /// points at the field that named the column and at the producer.
    /// `expected` names the type in words (`string`, `number`).
    pub fn need_column(
        &mut self,
        input: &InputInfo,
        column: &str,
        expected: &str,
        accept: impl Fn(&DataType) -> bool,
        span: Span,
    ) -> Option<DataType> {
        match input.schema.field_with_name(column) {
            Ok(field) if accept(field.data_type()) => Some(field.data_type().clone()),
            Ok(field) => {
                let found = expression::type_word(field.data_type());
                self.error(
                    Diagnostic::error(
                        "column-type",
                        format!("column `{column}` is {found}, and `{}` needs {expected}", self.op.name),
                    )
                    .at(span, format!("needs {expected}"))
                    .and(input.producer_span, format!("`{}` gives it as {found}", input.producer)),
                );
                None
            }
            Err(_) => {
                let names: Vec<&str> = input.schema.fields().iter().map(|f| f.name().as_str()).collect();
                let mut d = Diagnostic::error(
                    "column-missing",
                    format!("`{}` needs a column `{column}` that its input does not have", self.node),
                )
                .at(span, format!("column `{column}` is read here"))
                .and(input.producer_span, format!("`{}` gives {}", input.producer, list(&names)));
                if let Some(near) = did_you_mean(column, names.iter().copied()) {
                    d = d.help(format!("did you mean `{near}`?"));
                }
                self.error(d);
                None
            }
        }
    }
}

impl<'a> ResolveCx<'a> {
    /// The columns of an input and those that the operator adds to them; an error where a name is taken.
    /// `span` is what names the added columns.
    pub fn widened(&mut self, input: &InputInfo, added: Vec<Field>, span: Span) -> Option<SchemaRef> {
        let mut fields: Vec<Arc<Field>> = input.schema.fields().iter().cloned().collect();
        let mut taken = false;
        for field in added {
            if input.schema.field_with_name(field.name()).is_ok() {
                self.error(
                    Diagnostic::error("duplicate-column", format!("the input already has a column `{}`", field.name()))
                        .at(span, format!("`{}` adds it", self.op.name))
                        .and(input.producer_span, format!("`{}` gives it", input.producer))
                        .help("drop or rename the column before, with `select`"),
                );
                taken = true;
            }
            fields.push(Arc::new(field));
        }
        (!taken).then(|| Arc::new(Schema::new(fields)))
    }

    /// Checks that a model renders conversations; a model not fetched yet gets the benefit of the doubt.
    /// `span` is the field that named it.
    pub fn need_chat_template(&mut self, model: &ModelInfo, span: Span) -> Option<()> {
        if model.has_chat_template != Some(false) {
            return Some(());
        }
        let name = &model.decl.name;
        self.error(
            Diagnostic::error("chat-template-absent", format!("model `{name}` has no chat template"))
                .at(span, format!("`{}` puts a prompt and a response into the model's template", self.op.name))
                .and(model.decl.span, "its files hold none")
                .help("give the model one: `chat-template=\"template.jinja\"`, or take its instruction-tuned variant"),
        );
        None
    }

    /// Checks that a model's context holds `tokens`, the length that a field asks for.
    pub fn need_context(&mut self, model: &ModelInfo, tokens: u64, span: Span) -> Option<()> {
        let Some(context) = model.context.filter(|context| u64::from(*context) < tokens) else { return Some(()) };
        let name = &model.decl.name;
        let place = model.decl.context.as_ref().map_or(model.decl.span, |c| c.span);
        self.error(
            Diagnostic::error("context-too-small", format!("model `{name}` holds {context} tokens, not {tokens}"))
                .at(span, format!("asks for {tokens} tokens"))
                .and(place, format!("its context is {context} tokens"))
                .help(format!("ask for at most {context}, or take a model with a longer context")),
        );
        None
    }
}

/// "`a`, `b` and `c`". Of very many names the first ones.
pub fn list(names: &[&str]) -> String {
    const MOST: usize = 40;
    let mut quoted: Vec<String> = names.iter().take(MOST).map(|n| format!("`{n}`")).collect();
    if names.len() > MOST {
        quoted.push(format!("{} more", names.len() - MOST));
    }
    match quoted.as_slice() {
        [] => "nothing".into(),
        [one] => one.clone(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

/// An entry of `inputs` that no variable of the prompt has the name of.
pub fn unknown_input(name: &str, span: Span, names: &[&str]) -> Diagnostic {
    let error =
        Diagnostic::error("unknown-input", format!("the prompt has no input `{name}`")).at(span, "no such input");
    match did_you_mean(name, names.iter().copied()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help(format!("it reads {}", list(names))),
    }
}

/// The candidate nearest to what was written, when it is near enough to be a slip.
pub fn did_you_mean<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        // Among more names than anybody declares, looking for the nearest one takes too long.
        .take(500)
        .map(|c| (strsim::damerau_levenshtein(&written.to_lowercase(), &c.to_lowercase()), c))
        .filter(|(distance, c)| {
            let length = c.chars().count().max(written.chars().count());
            *distance < length && *distance <= (length / 3).max(1)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// A string column, in either offset width.
pub fn is_string(t: &DataType) -> bool {
    matches!(t, DataType::Utf8 | DataType::LargeUtf8)
}

/// A numeric column.
pub fn is_number(t: &DataType) -> bool {
    t.is_numeric()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::{Sources, render};
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_everything_is_documented() {
        let mut names = HashSet::new();
        for op in REGISTRY {
            assert!(names.insert(op.name), "two operators are named `{}`", op.name);
            assert!(!op.summary.is_empty() && !op.summary.ends_with('.'), "`{}`: {}", op.name, op.summary);
            assert!(op.doc.len() > op.summary.len(), "`{}` says no more than its summary", op.name);
            let mut parts = op.inputs.iter().map(|i| (i.name, i.doc)).chain(op.outputs.iter().map(|o| (o.name, o.doc)));
            assert!(parts.all(|(_, doc)| !doc.is_empty()), "`{}` has a port without a word on it", op.name);
            undocumented(op.name, op.fields);
        }
    }

    fn undocumented(owner: &str, fields: &[FieldSpec]) {
        for field in fields {
            assert!(!field.doc.is_empty(), "`{}` of `{owner}` has no word on it", field.name);
            if let FieldKind::Records(inner) = field.kind {
                undocumented(field.name, inner);
            }
        }
    }

    #[test]
    fn examples_check_without_any_file() {
        for op in REGISTRY {
            let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
            let pipeline = crate::config::load_text("example.kdl", op.example, &[], &mut sources, &mut diagnostics);
            let graph = pipeline.and_then(|p| crate::graph::build(p, &mut diagnostics));
            let plan = graph.and_then(|g| crate::plan::build(g, &crate::plan::PlanEnv::pure(), &mut diagnostics));
            let shown = render(&diagnostics, &sources, false);
            assert!(plan.is_some() && diagnostics.is_empty(), "the example of `{}`:\n{shown}", op.name);
            assert!(plan.is_some_and(|p| p.nodes.iter().any(|n| n.op.name == op.name)), "`{}` is not in it", op.name);
        }
    }

    /// Two cells of a sweep that read the same bytes run once, and each keeps its name.
    #[test]
    fn shared_outputs_keep_the_names_of_their_nodes() {
        let text = r#"
            matrix "cells" { variant "a" "b" }
            load "rows" matrix="cells" path="same.jsonl" { columns { score "float" } }
            table "scores" from="rows"
        "#;
        let (mut sources, mut diagnostics) = (Sources::new(), Diagnostics::new());
        let pipeline = crate::config::load_text("shared.kdl", text, &[], &mut sources, &mut diagnostics).unwrap();
        let graph = crate::graph::build(pipeline, &mut diagnostics).unwrap();
        let plan = crate::plan::build(graph, &crate::plan::PlanEnv::pure(), &mut diagnostics).unwrap();
        let table = plan.nodes.iter().find(|n| n.op.name == "table").unwrap();
        let read: Vec<(usize, String)> = table.inputs.iter().map(|i| (i.node, i.producer.to_string())).collect();
        assert_eq!(read, [(0, "rows[variant=a]".to_string()), (0, "rows[variant=b]".to_string())]);
    }
}
