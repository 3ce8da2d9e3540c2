//! Prompts of writing operators: which template, and which columns its inputs are read from.

use super::settings::Writing;
use super::task::InRow;
use crate::diag::{Diagnostic, Span, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::model::RAW;
use crate::ops::rows::{batches, cell_shown};
use crate::ops::{InputInfo, ResolveCx, is_number, is_string, list};
use crate::prompt::{Input, InputKind, Template};
use crate::teacher::{Ask, Failure, Row};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// The optional port of examples, and the input of a template that takes them.
const EXAMPLES: &str = "examples";
/// The input that is a question by itself, whatever stands around it.
const QUESTION: &str = "question";
/// More examples than that are a mistake: all of them stand in every prompt.
const MOST_EXAMPLES: usize = 64;

/// A template of an operator.
#[derive(Debug)]
pub enum Prompt {
    BuiltIn(&'static Template),
    /// Of a task.
    Task(Arc<Template>),
    /// An author's file, read when the pipeline is planned.
    File(Spanned<PathBuf>, Box<OnceLock<Template>>),
}

impl Prompt {
    /// A template that comes with the program.
    pub fn built_in(name: &str) -> Self {
        Self::BuiltIn(Template::built_in(name).unwrap_or_else(|| panic!("no built-in template is named `{name}`")))
    }

    pub fn of_file(path: Spanned<PathBuf>) -> Self {
        Self::File(path, Box::default())
    }

    /// What decides its text. Files are known by their content, which the plan adds.
    pub fn canonical(&self) -> Value {
        match self {
            Self::BuiltIn(t) => json!({ "name": t.name, "version": t.version, "digest": t.digest() }),
            Self::Task(t) => json!({ "digest": t.digest() }),
            Self::File(..) => json!("file"),
        }
    }

    /// The author's file.
    pub(super) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::BuiltIn(_) | Self::Task(_) => None,
            Self::File(path, _) => Some(path.value.clone()),
        }
    }

    /// `None` for a file that was not read.
    pub fn template(&self) -> Option<&Template> {
        match self {
            Self::BuiltIn(template) => Some(template),
            Self::Task(template) => Some(template),
            Self::File(_, read) => read.get(),
        }
    }

    /// For estimates: tokens of a prompt with inputs of a usual length.
    pub(super) fn typical_tokens(&self, task: &str) -> u64 {
        /// A school problem; a worked answer has twice as many.
        const INPUT: u64 = 64;
        const CHARACTERS_PER_TOKEN: u64 = 4;
        let Some(template) = self.template() else { return 4 * INPUT };
        // A template has its words once for each task.
        let words = template.text().len() as u64 / template.tasks.len().max(1) as u64;
        words / CHARACTERS_PER_TOKEN + INPUT * template.inputs_for(task).count() as u64
    }

    /// Reads an author's file, and checks that the inputs have columns. `None` after an error.
    pub(super) fn resolve(&self, writing: &Writing, own: &[&str], cx: &mut ResolveCx<'_>) -> Option<()> {
        self.read(cx)?;
        let Some(template) = self.template() else { return Some(()) };
        let mut sound = true;
        if !template.takes_task(&writing.task) {
            let tasks: Vec<&str> = template.tasks.iter().map(String::as_str).collect();
            let message = format!("prompt `{}` is not written for `task=\"{}\"`", template.name, writing.task);
            cx.error(
                Diagnostic::error("wrong-task", message)
                    .at(writing.task_span(), "asked for here")
                    .help(format!("it is for {}; the operator's field `task` says which", list(&tasks))),
            );
            sound = false;
        }
        let examples = cx.port(EXAMPLES).first().copied();
        let wants = |i: &&Input| i.name == EXAMPLES && !i.fields.is_empty() && !own.contains(&EXAMPLES);
        let wanted = template.inputs_for(&writing.task).find(wants);
        if let (Some(wanted), None) = (wanted.filter(|i| i.required), examples) {
            cx.error(
                Diagnostic::error(
                    "missing-input",
                    format!("prompt `{}` needs examples: {}", template.name, wanted.doc),
                )
                .at(writing.span(), "reads no examples")
                .help("name rows that have them: `examples=\"...\"`"),
            );
            sound = false;
        }
        let input = cx.input("from");
        sound &= self.check(template, writing, own, input, cx);
        if let Some(examples) = examples {
            sound &= match wanted {
                Some(wanted) => wanted.fields.iter().all(|field| {
                    let (column, span) = example_column(writing, &examples.schema, field);
                    let text = |t: &DataType| is_string(t) || is_number(t);
                    cx.need_column(examples, column, "string", text, span.unwrap_or(writing.span())).is_some()
                }),
                None => {
                    let shown = writing.shown();
                    // By default nobody has named it, and the port is where to look.
                    let span = if shown.span == writing.span() { examples.span } else { shown.span };
                    let answer = cx.need_column(examples, &shown.value, "string", is_string, span).is_some();
                    self.check(template, writing, own, examples, cx) && answer
                }
            };
        }
        sound.then_some(())
    }

    fn read(&self, cx: &mut ResolveCx<'_>) -> Option<()> {
        let Self::File(path, read) = self else { return Some(()) };
        if read.get().is_some() || !(cx.files_must_exist || (cx.look_at_files && path.value.exists())) {
            return Some(());
        }
        let unreadable = |e: &dyn std::fmt::Display| {
            Diagnostic::error("file-unreadable", format!("the prompt cannot be read: {e}"))
                .at(path.span, "named here")
                .help(crate::config::RELATIVE)
        };
        let template = match std::fs::read_to_string(&path.value) {
            Err(e) => Err(unreadable(&e)),
            Ok(text) => Template::read(&path.value, &text).map_err(|e| {
                let error = Diagnostic::error("bad-prompt", e.to_string()).at(path.span, "named here");
                e.help.iter().fold(error, |error, help| error.help(help))
            }),
        };
        match template {
            Ok(template) => {
                let _ = read.set(template);
                Some(())
            }
            Err(error) => {
                cx.error(error);
                None
            }
        }
    }

    /// Whether every input that is read of rows has a column of its type.
    fn check(
        &self,
        template: &Template,
        writing: &Writing,
        own: &[&str],
        rows: &InputInfo,
        cx: &mut ResolveCx<'_>,
    ) -> bool {
        let mut sound = true;
        for (input, column, span) in read_of_rows(template, writing, own, &rows.schema) {
            let expected = match input.kind {
                InputKind::Text => "string or number",
                InputKind::Number => "number",
                InputKind::List => "a list of strings",
                InputKind::Flag => "boolean",
                InputKind::Any => "text, a number, a boolean or a list",
            };
            let span = span.unwrap_or(writing.span());
            if cx.need_column(rows, column, expected, |t| fits(input.kind, t), span).is_none() {
                cx.diagnostics.help_last(format!(
                    "it is the input `{}` of prompt `{}`: {}; another column is named by `inputs {{ {} \"...\" }}`",
                    input.name, template.name, input.doc, input.name
                ));
                sound = false;
            }
        }
        sound
    }
}

fn fits(kind: InputKind, t: &DataType) -> bool {
    match kind {
        InputKind::Text => is_string(t) || is_number(t),
        InputKind::Number => is_number(t),
        InputKind::List => matches!(t, DataType::List(_) | DataType::LargeList(_)),
        InputKind::Flag => *t == DataType::Boolean,
        InputKind::Any => [InputKind::Text, InputKind::List, InputKind::Flag].into_iter().any(|kind| fits(kind, t)),
    }
}

/// The inputs of a template that come from columns, the columns, and where these are named. What may be left out and
/// has no column is left out.
fn read_of_rows<'a>(
    template: &'a Template,
    writing: &'a Writing,
    own: &[&str],
    schema: &Schema,
) -> Vec<(&'a Input, &'a str, Option<Span>)> {
    let ours = |i: &&Input| !own.contains(&i.name.as_str()) && i.fields.is_empty();
    let column = |input: &'a Input| {
        let (column, span) = writing.column_of(&input.name);
        let there = schema.field_with_name(column).is_ok();
        (input.required || span.is_some() || there).then_some((input, column, span))
    };
    template.inputs_for(&writing.task).filter(ours).filter_map(column).collect()
}

/// The column of an example's field: the one of its name, or else the one that `inputs` names.
fn example_column<'a>(writing: &'a Writing, schema: &Schema, field: &'a str) -> (&'a str, Option<Span>) {
    match schema.field_with_name(field) {
        Ok(_) => (field, None),
        Err(_) => writing.column_of(field),
    }
}

/// The rows of the port of examples, if it is bound.
pub(super) fn shots(cx: &NodeCx) -> Result<Option<Vec<RecordBatch>>, RunError> {
    let Some(at) = cx.inputs().iter().position(|i| i.port == EXAMPLES) else { return Ok(None) };
    let mut rows = Vec::new();
    let mut count = 0;
    for batch in batches(cx, at)? {
        let batch = batch?;
        count += batch.num_rows();
        if count > MOST_EXAMPLES {
            let message =
                format!("there are more than {MOST_EXAMPLES} examples, and all of them stand in every prompt");
            return Err(RunError::failed("too-many-examples", message).help("choose some with `sample`"));
        }
        rows.push(batch);
    }
    if count == 0 {
        let message = format!("`{}` gives no row: there is no example", cx.inputs()[at].producer);
        return Err(RunError::failed("no-examples", message).help("leave `examples` out for prompts without"));
    }
    Ok(Some(rows))
}

/// A prompt with everything but the row.
pub struct Bound<'a> {
    writing: &'a Writing,
    template: &'a Template,
    /// Inputs that columns give, and the columns.
    columns: Vec<(&'a Input, &'a str)>,
    /// Values that are the same for all rows.
    fixed: BTreeMap<String, Value>,
    /// Turns before the row's own.
    shots: Vec<(String, String)>,
    seed: u64,
}

impl<'a> Bound<'a> {
    pub(super) fn new(
        writing: &'a Writing,
        prompt: &'a Prompt,
        own: &[&str],
        shots: Option<Vec<RecordBatch>>,
        cx: &NodeCx,
    ) -> Result<Self, RunError> {
        let unread = || RunError::failed("not-planned", "a prompt was not read when the pipeline was planned");
        let template = prompt.template().ok_or_else(unread)?;
        let read = read_of_rows(template, writing, own, &cx.inputs()[0].schema);
        let columns = read.into_iter().map(|(input, column, _)| (input, column)).collect();
        let fixed = [("task", &writing.task), ("marker", &writing.marker)];
        let fixed = fixed.map(|(name, value)| (name.to_string(), Value::from(value.as_str()))).into();
        let mut bound = Self { writing, template, columns, fixed, shots: Vec::new(), seed: cx.seed() };
        if let Some(shots) = shots {
            bound.take_shots(&shots, own)?;
        }
        Ok(bound)
    }

    /// Draws from another seed than the node's.
    pub fn seeded(self, seed: Option<u64>) -> Self {
        Self { seed: seed.unwrap_or(self.seed), ..self }
    }

    /// Examples become an input of the template, or turns of their own.
    fn take_shots(&mut self, shots: &[RecordBatch], own: &[&str]) -> Result<(), RunError> {
        let wants = |i: &&Input| i.name == EXAMPLES && !i.fields.is_empty() && !own.contains(&EXAMPLES);
        let wanted = self.template.inputs_for(&self.writing.task).find(wants);
        let rows = shots.iter().flat_map(|b| (0..b.num_rows()).map(move |row| (b, row)));
        let Some(wanted) = wanted else {
            let mut turns = Vec::new();
            for (batch, row) in rows {
                turns.extend(self.turns_of(batch, row).map_err(|failure| {
                    let message = format!("example `{}`: {}", crate::ops::rows::row_id(batch, row), failure.message);
                    RunError::failed("bad-example", message)
                })?);
            }
            self.shots = turns;
            return Ok(());
        };
        let example = |(batch, row): (&RecordBatch, usize)| -> Value {
            let cell = |field: &String| {
                let (column, _) = example_column(self.writing, batch.schema_ref(), field);
                (field.clone(), cell(batch, row, column))
            };
            Value::Object(wanted.fields.iter().map(cell).collect())
        };
        let examples = rows.map(example).collect();
        self.fixed.insert(EXAMPLES.to_string(), examples);
        Ok(())
    }

    /// An example as a prompt and its answer.
    fn turns_of(&self, batch: &RecordBatch, row: usize) -> Result<Vec<(String, String)>, Failure> {
        let mut turns = self.render(&self.values(|column| cell(batch, row, column), &[])?)?;
        turns.retain(|(role, _)| role != "system");
        let shown = &self.writing.shown().value;
        match cell(batch, row, shown) {
            Value::String(answer) => turns.push(("assistant".into(), answer)),
            _ => return Err(Failure::new("null-value", format!("`{shown}` is null"))),
        }
        Ok(turns)
    }

    /// What the template is given; `own` is what the operator knows.
    fn values(&self, cell: impl Fn(&str) -> Value, own: &[(&str, Value)]) -> Result<BTreeMap<String, Value>, Failure> {
        let mut values = self.fixed.clone();
        for (input, column) in &self.columns {
            let value = cell(column);
            if value.is_null() && input.required {
                return Err(Failure::new("null-value", format!("`{column}` is null")));
            }
            values.insert(input.name.clone(), value);
        }
        values.extend(own.iter().map(|(name, value)| (name.to_string(), value.clone())));
        Ok(values)
    }

    fn render(&self, values: &BTreeMap<String, Value>) -> Result<Vec<(String, String)>, Failure> {
        self.template.render(values).map_err(|e| Failure::new("template", e.to_string()))
    }

    /// The texts that a row's question may be known by: its own last turn, and what the prompt reads as `question`.
    pub fn questions(&self, row: &InRow, own: &[(&str, Value)]) -> Result<Vec<String>, Failure> {
        let turns = self.render(&self.values(|column| cell(&row.batch, row.row, column), own)?)?;
        let read = self.columns.iter().find(|(input, _)| input.name == QUESTION);
        let read = read.and_then(|(_, column)| row.text(column)).map(str::to_string);
        Ok(turns.into_iter().next_back().map(|(_, text)| text).into_iter().chain(read).collect())
    }

    /// A row's call. `own` are inputs that the operator gives itself.
    pub fn ask(&self, row: &InRow, sample: u32, own: &[(&str, Value)]) -> Result<Ask, Failure> {
        let values = self.values(|column| cell(&row.batch, row.row, column), own)?;
        let mut turns = self.render(&values)?;
        let own_system = turns.iter().take_while(|(role, _)| role == "system").count();
        let mut messages: Vec<_> = turns.drain(..own_system).collect();
        if let Some(system) = self.writing.system() {
            messages = vec![("system".into(), system.into())];
        }
        messages.extend(self.shots.iter().cloned().chain(turns));
        if self.writing.is_raw() {
            messages = vec![(RAW.to_string(), raw_text(&messages))];
        }
        let settings = self.writing.settings.clone();
        Ok(Ask { messages, settings, sample, seed: self.seed, row: Arc::new(named(row, &values)) })
    }
}

/// A conversation as raw text: an answer stands behind its question after a blank, and an empty line parts it from what
/// comes next.
fn raw_text(messages: &[(String, String)]) -> String {
    let mut text = String::new();
    for (role, turn) in messages {
        match role.as_str() {
            "user" => text += turn,
            "assistant" => text += &format!(" {}\n\n", turn.trim()),
            _ => text += &format!("{turn}\n\n"),
        }
    }
    text
}

/// A row as recordings name it: the columns that are texts or numbers, and the inputs of its prompt.
fn named(row: &InRow, values: &BTreeMap<String, Value>) -> Row {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let schema = row.batch.schema_ref();
    let columns = schema.fields().iter().map(|f| (f.name().clone(), cell(&row.batch, row.row, f.name())));
    let inputs = values.iter().map(|(name, value)| (name.clone(), value.clone()));
    let id = [("id".to_string(), Value::from(row.id()))];
    let named = columns.chain(inputs).chain(id).filter_map(|(name, value)| Some((name, text(&value)?)));
    Row { id: row.id().to_string(), inputs: named.collect() }
}

/// A cell as prompts show it.
pub(super) fn cell(batch: &RecordBatch, row: usize, column: &str) -> Value {
    batch.column_by_name(column).map_or(Value::Null, |column| cell_shown(column, row))
}
