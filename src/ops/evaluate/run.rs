//! The operator: what its fields mean, and which kind of task does what.

use super::asked::{self, is_list};
use super::choices::Choosing;
use super::generate::Answers;
use super::judge::{self, Judge};
use super::overlap::{OnOverlap, Seen};
use super::scorer::Scorer;
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::eval::answer::OPTIONS;
use crate::eval::task::{Kind, OF_A_CHOICE, Reading};
use crate::exec::{NodeCx, RunError};
use crate::ops::code::CodeTask;
use crate::ops::writing::{Finished, Prompt, Task, Writing, drive_and};
use crate::ops::{Fields, Operator, ResolveCx, Resolved, adapters, is_number, is_string};
use crate::teacher::Teacher;
use arrow::datatypes::DataType;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Debug)]
pub struct Evaluate {
    pub(super) writing: Writing,
    prompt: Prompt,
    judge: Arc<Judge>,
    k: Vec<Spanned<u32>>,
    seed: Option<u64>,
    /// How programs are run, for tasks whose answers are code.
    code: Option<CodeTask>,
    on_overlap: OnOverlap,
}

impl Evaluate {
    pub fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Self> {
        let mut task = asked::task(fields, diagnostics)?;
        if let Some(gold) = fields.opt_str("gold") {
            task.gold = gold;
        }
        if let Some(format) = fields.opt_str("format") {
            task.raw = format.value == "text";
        }
        let writing = Writing::read(fields, diagnostics)?.choosing().marked(&task.asked.marker).in_raw_text(task.raw);
        let writing = writing.settled(|settings, own_length| {
            settings.temperature.get_or_insert(0.0);
            if let Kind::Generate(generate) = &task.kind {
                if let Some(most) = generate.max_tokens.filter(|_| !own_length) {
                    settings.max_tokens = most;
                }
                if settings.stop.is_empty() {
                    settings.stop.clone_from(&generate.stop);
                }
            }
        });
        if let Kind::Generate(generate) = &mut task.kind {
            // The texts of options are read where the prompt reads them.
            generate.options.iter_mut().for_each(|name| *name = writing.column_of(name).0.to_string());
        }
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
        if matches!(task.kind, Kind::Choice(_)) {
            sound &= check_choice(fields, &writing, diagnostics);
        }
        let on_overlap = OnOverlap::read(fields, &writing, diagnostics);
        let before = diagnostics.0.len();
        let code = match &task.kind {
            Kind::Generate(generate) if generate.is_code() => Some(CodeTask::read(fields, "task", diagnostics)?),
            _ => {
                CodeTask::refuse(fields, "task", diagnostics);
                None
            }
        };
        sound &= diagnostics.0.len() == before;
        let prompt = Prompt::Task(task.asked.template.clone());
        let judge = Arc::new(Judge { task, k: k.iter().map(|k| k.value).collect() });
        let seed = fields.opt_int("seed").and_then(|s| u64::try_from(s.value).ok());
        let on_overlap = on_overlap?;
        sound.then_some(Self { writing, prompt, judge, k, seed, code, on_overlap })
    }

    fn check_columns(&self, cx: &mut ResolveCx<'_>) -> Option<()> {
        let input = cx.input("from");
        let value = |t: &DataType| is_string(t) || is_number(t) || is_list(t);
        let task = &self.judge.task;
        let span = task.gold.span;
        let needs_gold = self.code.is_none();
        let mut sound = !needs_gold
            || cx.need_column(input, &task.gold.value, "a string, a number or a list", value, span).is_some();
        let mut need = |names: &mut dyn Iterator<Item = &String>| {
            for name in names {
                sound &= cx.need_column(input, name, "a string, a number or a list", value, span).is_some();
            }
        };
        match &task.kind {
            Kind::Generate(generate) => {
                if matches!(generate.reading, Reading::Option) {
                    need(&mut generate.options.iter().filter(|name| !OPTIONS.contains(&name.as_str())));
                }
                need(&mut generate.wrong.iter());
            }
            Kind::Choice(choices) => {
                need(&mut choices.columns.iter());
                let of_row = |name: &&String| !OF_A_CHOICE.contains(&name.as_str());
                need(&mut choices.continuation.inputs.iter().map(|i| &i.name).filter(of_row));
            }
        }
        sound.then_some(())
    }

    /// What the operator gives the prompt itself.
    fn own(&self) -> &'static [&'static str] {
        match self.judge.task.kind {
            Kind::Generate(_) => &[],
            Kind::Choice(_) => OF_A_CHOICE,
        }
    }

    fn teacher(&self, cx: &NodeCx) -> Result<Arc<dyn Teacher>, RunError> {
        match (&self.judge.task.kind, self.writing.own_model()) {
            (Kind::Choice(_), Some(model)) => Ok(Arc::new(Scorer::new(adapters::lane(cx, &model.value)?)?)),
            _ => self.writing.teacher(cx),
        }
    }
}

/// Nothing is written for a multiple choice, and likelihoods are a model's.
fn check_choice(fields: &Fields, writing: &Writing, diagnostics: &mut Diagnostics) -> bool {
    let before = diagnostics.0.len();
    for name in ["samples", "temperature", "top-p", "top-k", "max-tokens", "stop", "seed"] {
        if let Some(field) = fields.get(name).filter(|f| f.span != fields.span) {
            let error = Diagnostic::error("meaningless-field", format!("`{name}` is for answers that are written"));
            diagnostics.push(error.at(field.span, "not read").and(fields.span_of("task"), "a multiple choice"));
        }
    }
    if writing.own_model().is_none() {
        diagnostics.push(
            Diagnostic::error(
                "choices-need-model",
                "a multiple choice needs the likelihoods of a model of the pipeline",
            )
            .at(fields.span_of("teacher"), "gives texts and no likelihoods")
            .help("name the model: `model=\"...\"`"),
        );
    }
    diagnostics.0.len() == before
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
    let mut numbers: Vec<_> = written.iter().filter_map(number).collect();
    // Each is a column.
    let mut seen = BTreeSet::new();
    numbers.retain(|n| seen.insert(n.value));
    if numbers.is_empty() { vec![Spanned::new(1, fields.span)] } else { numbers }
}

impl Operator for Evaluate {
    fn canonical(&self) -> Value {
        let mut canonical = json!({
            "writing": self.writing.canonical(),
            "task": self.judge.task.canonical(),
            "k": self.judge.k,
            "seed": self.seed,
            "code": self.code.as_ref().map(CodeTask::canonical),
        });
        if let Some(on_overlap) = self.on_overlap.canonical() {
            canonical["on_overlap"] = on_overlap.into();
        }
        canonical
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let columns = self.check_columns(cx);
        let input = cx.input("from");
        let files = match &self.code {
            Some(code) => code.resolve(input, cx),
            None => Some(Vec::new()),
        };
        let mut resolved = self.writing.resolve(cx, &[(&self.prompt, self.own())], self.judge.columns())?;
        let k_span = self.k.first().map_or(cx.span, |k| k.span);
        resolved.outputs.push(cx.widened(input, self.judge.counted(), k_span)?);
        resolved.estimate.rows = input.estimate.rows.map(|rows| rows.saturating_mul(self.writing.samples.into()));
        resolved.seeded &= self.seed.is_none();
        // Questions are compared with what the model learned before any is asked, so they are read twice.
        resolved.barrier = self.writing.own_model().is_some();
        resolved.files.extend(files?);
        columns.map(|()| resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let prompt = self.writing.bind(&self.prompt, self.own(), cx)?.seeded(self.seed);
        let seen = Seen::look(cx, &self.judge.task, &self.writing, &prompt, self.on_overlap)?;
        let judge = self.judge.clone();
        let bench = match &self.code {
            Some(code) => {
                code.columns(&cx.inputs()[0].schema).map(|c| Ok::<_, RunError>((code.open(judge.marker())?, c)))
            }
            None => None,
        };
        let (bench, host) = (bench.transpose()?, cx.clone());
        let tests = bench.as_ref().map(|(_, columns)| columns.clone());
        let judged = move |rows: Vec<Finished>| match &bench {
            Some((checker, columns)) => judge.finish_code(rows, checker, columns, &|| host.stopping()),
            None => Ok(rows.into_iter().map(|row| judge.finish(row)).collect()),
        };
        drive_and(
            cx,
            self.teacher(cx)?,
            &|row| {
                seen.as_ref().map_or(Ok(()), |seen| seen.check(row))?;
                let task: Task<'_> = match &self.judge.task.kind {
                    Kind::Generate(generate) => {
                        match &tests {
                            Some(columns) => drop(judge::problem(columns, row)?),
                            None => drop(self.judge.gold(generate, row)?),
                        }
                        Box::new(Answers { writing: &self.writing, prompt: &prompt, row: row.clone() })
                    }
                    Kind::Choice(choices) => Box::new(Choosing::new(&self.judge, choices, &prompt, row)?),
                };
                Ok(vec![task])
            },
            Box::new(judged),
        )
    }
}
