//! Tasks whose answers a model writes.

use super::pass::pass_at;
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::eval::answer::{Fault, OPTIONS};
use crate::eval::task::{Asked, Gold, Judged, Kind, Reading, Task};
use crate::exec::{NodeCx, RunError};
use crate::ops::writing::{
    Bound, Cell, Finished, InRow, NewRow, Prompt, RowTask, Step, Task as Writes, Writing, drive_and,
};
use crate::ops::{Fields, Operator, ResolveCx, Resolved, is_number, is_string};
use crate::teacher::{Answer, Ask, Failure, Finish, Outcome};
use arrow::datatypes::{DataType, Field};
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Debug)]
pub struct Evaluate {
    writing: Writing,
    prompt: Prompt,
    judge: Arc<Judge>,
    k: Vec<Spanned<u32>>,
    seed: Option<u64>,
}

/// A task, and what a run's judging needs of it.
#[derive(Debug)]
struct Judge {
    task: Task,
    k: Vec<u32>,
}

impl Evaluate {
    pub fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Self> {
        let task = task(fields, diagnostics)?;
        let Kind::Generate(generate) = &task.kind;
        let writing = Writing::read(fields, diagnostics)?.choosing().marked(&task.asked.marker);
        let writing = writing.settled(|settings, own_length| {
            settings.temperature.get_or_insert(0.0);
            if let Some(most) = generate.max_tokens.filter(|_| !own_length) {
                settings.max_tokens = most;
            }
            if settings.stop.is_empty() {
                settings.stop.clone_from(&generate.stop);
            }
        });
        let k = numbers(fields, "k");
        let mut sound = true;
        for k in k.iter().filter(|k| k.value > writing.samples) {
            let message = format!("pass@{} is not known from {} answers to a question", k.value, writing.samples);
            diagnostics.push(
                Diagnostic::error("out-of-range", message)
                    .at(k.span, format!("needs {} samples or more", k.value))
                    .help(format!("draw more: `samples={}`", k.value)),
            );
            sound = false;
        }
        let prompt = Prompt::Task(task.asked.template.clone());
        let judge = Arc::new(Judge { task, k: k.iter().map(|k| k.value).collect() });
        let seed = fields.opt_int("seed").and_then(|s| u64::try_from(s.value).ok());
        sound.then_some(Self { writing, prompt, judge, k, seed })
    }

    fn check_columns(&self, cx: &mut ResolveCx<'_>) -> Option<()> {
        let input = cx.input("from");
        let value = |t: &DataType| is_string(t) || is_number(t) || is_list(t);
        let gold = &self.judge.task.gold;
        let mut sound = cx.need_column(input, &gold.value, "a string, a number or a list", value, gold.span).is_some();
        let Kind::Generate(generate) = &self.judge.task.kind;
        if matches!(generate.reading, Reading::Option) {
            for option in generate.options.iter().filter(|name| !OPTIONS.contains(&name.as_str())) {
                sound &= cx.need_column(input, option, "string", is_string, gold.span).is_some();
            }
        }
        sound.then_some(())
    }
}

fn is_list(t: &DataType) -> bool {
    matches!(t, DataType::List(_) | DataType::LargeList(_))
}

/// The task with what the node says in its place.
fn task(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Task> {
    let named = fields.task("task");
    let mut task = (*named.value).clone();
    match fields.opt_str("gold") {
        Some(gold) => task.gold = gold,
        // What a declaration elsewhere says is asked for here.
        None => task.gold.span = named.span,
    }
    if let Some(request) = fields.opt_str("request") {
        let Asked { prompt, marker, optional, .. } = task.asked;
        let text = Some(request.value).filter(|text| !text.trim().is_empty());
        match Asked::new(&task.name, prompt, text, marker, optional) {
            Ok(asked) => task.asked = asked,
            Err(error) => {
                let message = format!("the request cannot be used: {}", error.message);
                diagnostics.push(Diagnostic::error("bad-prompt", message).at(request.span, "this template"));
                return None;
            }
        }
    }
    Some(task)
}

fn numbers(fields: &Fields, name: &str) -> Vec<Spanned<u32>> {
    let written = fields.get(name).map_or(&[][..], |list| match &list.value {
        crate::ops::Value::List(items) => items,
        other => panic!("field `{name}` is {other:?}, not a list"),
    });
    let number = |item: &Spanned<crate::ops::Value>| match item.value {
        crate::ops::Value::Int(n) => u32::try_from(n).ok().map(|n| Spanned::new(n, item.span)),
        _ => None,
    };
    let numbers: Vec<_> = written.iter().filter_map(number).collect();
    if numbers.is_empty() { vec![Spanned::new(1, fields.span)] } else { numbers }
}

impl Operator for Evaluate {
    fn canonical(&self) -> Value {
        json!({
            "writing": self.writing.canonical(),
            "task": self.judge.task.canonical(),
            "k": self.judge.k,
            "seed": self.seed,
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let columns = self.check_columns(cx);
        let mut resolved = self.writing.resolve(cx, &[(&self.prompt, &[])], Judge::columns())?;
        let counted = self.judge.counted();
        let input = cx.input("from");
        let k_span = self.k.first().map_or(cx.span, |k| k.span);
        resolved.outputs.push(cx.widened(input, counted, k_span)?);
        resolved.estimate.rows = input.estimate.rows.map(|rows| rows.saturating_mul(self.writing.samples.into()));
        resolved.seeded &= self.seed.is_none();
        columns.map(|()| resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let prompt = self.writing.bind(&self.prompt, &[], cx)?.seeded(self.seed);
        let judge = self.judge.clone();
        let judged = move |rows: Vec<Finished>| Ok(rows.into_iter().map(|row| judge.finish(row)).collect());
        drive_and(
            cx,
            self.writing.teacher(cx)?,
            &|row| {
                self.judge.gold(row)?;
                let task: Writes<'_> = Box::new(Answers { op: self, prompt: &prompt, row: row.clone() });
                Ok(vec![task])
            },
            Box::new(judged),
        )
    }
}

/// The answers to a row's question.
struct Answers<'a> {
    op: &'a Evaluate,
    prompt: &'a Bound<'a>,
    row: InRow,
}

impl RowTask for Answers<'_> {
    fn next(&mut self, last: Vec<Outcome>) -> Step {
        let asks = (0..self.op.writing.samples).map(|sample| self.prompt.ask(&self.row, sample, &[]));
        match asks.collect::<Result<Vec<_>, Failure>>() {
            Err(failure) => Step::Reject(failure),
            Ok(asks) if last.is_empty() => Step::Ask(asks),
            Ok(asks) => match last.into_iter().collect::<Result<Vec<Answer>, Failure>>() {
                Ok(answers) => Step::Ready(asks.iter().zip(answers).map(|(ask, a)| self.op.row(ask, a)).collect()),
                Err(failure) => Step::Reject(failure),
            },
        }
    }
}

impl Evaluate {
    /// An answer as a row, before it is judged.
    fn row(&self, ask: &Ask, answer: Answer) -> NewRow {
        let finish = match answer.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        let cells = vec![
            Cell::Text(answer.text),
            Cell::Text(asked(&ask.messages)),
            Cell::Int(ask.sample.into()),
            Cell::Int(answer.usage.output_tokens as i64),
            Cell::Text(finish.into()),
        ];
        NewRow { output: 0, sample: (self.writing.samples > 1).then_some(ask.sample as usize), cells }
    }
}

/// A conversation as a cell: of a single turn its text, otherwise its turns as JSON.
fn asked(messages: &[(String, String)]) -> String {
    match messages {
        [(_, text)] => text.clone(),
        turns => {
            turns.iter().map(|(role, text)| json!({ "role": role, "content": text })).collect::<Value>().to_string()
        }
    }
}

impl Judge {
    /// What is added to answers besides the text.
    fn columns() -> Vec<Field> {
        vec![
            Field::new("prompt", DataType::Utf8, false),
            Field::new("sample", DataType::Int64, false),
            Field::new("output_tokens", DataType::Int64, false),
            Field::new("finish", DataType::Utf8, false),
            Field::new("extracted", DataType::Utf8, true),
            Field::new("correct", DataType::Boolean, false),
            Field::new("reason", DataType::Utf8, true),
        ]
    }

    /// What is added to questions.
    fn counted(&self) -> Vec<Field> {
        let pass = self.k.iter().map(|k| Field::new(format!("pass_at_{k}"), DataType::Float64, false));
        let counts = ["n", "c"].map(|name| Field::new(name, DataType::Int64, false));
        counts.into_iter().chain(pass).collect()
    }

    /// The right answers of a row.
    fn gold(&self, row: &InRow) -> Result<Gold, Failure> {
        let Kind::Generate(generate) = &self.task.kind;
        let gold = generate.gold(&self.task, row.value(&self.task.gold.value), &self.options(row));
        gold.map_err(|(reason, message)| Failure::new(reason, message))
    }

    fn options<'r>(&self, row: &'r InRow) -> Vec<&'r str> {
        let Kind::Generate(generate) = &self.task.kind;
        generate.options.iter().map(|name| row.text(name).unwrap_or_default()).collect()
    }

    /// A question whose answers have come: each is judged, and all are counted.
    fn finish(&self, mut row: Finished) -> Finished {
        let Finished { row: from, outcome, .. } = &mut row;
        *outcome = std::mem::replace(outcome, Ok(Vec::new())).and_then(|rows| self.judged(from, rows));
        row
    }

    fn judged(&self, row: &InRow, mut rows: Vec<NewRow>) -> Result<Vec<NewRow>, Failure> {
        let Kind::Generate(generate) = &self.task.kind;
        let (gold, options) = (self.gold(row)?, self.options(row));
        let mut right = 0;
        for answer in &mut rows {
            let output = if let Some(Cell::Text(text)) = answer.cells.first() { text.as_str() } else { "" };
            let judged = generate.judge(&self.task.asked.marker, output, &gold, &options);
            right += u32::from(judged.correct);
            answer.cells.extend(cells(judged));
        }
        let n = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let counts = [Cell::Int(n.into()), Cell::Int(right.into())];
        let pass = self.k.iter().map(|k| Cell::Float(pass_at(*k, n, right)));
        rows.push(NewRow { output: 1, sample: None, cells: counts.into_iter().chain(pass).collect() });
        Ok(rows)
    }
}

fn cells(judged: Judged) -> [Cell; 3] {
    let why = |fault: Fault| Cell::Text(fault.name().into());
    [judged.extracted.map_or(Cell::Null, Cell::Text), Cell::Bool(judged.correct), judged.why.map_or(Cell::Null, why)]
}
