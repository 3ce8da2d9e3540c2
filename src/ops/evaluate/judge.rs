//! What answers are worth, and what that adds to their rows and to their questions.

use super::choices::continuation;
use super::pass::pass_at;
use crate::eval::answer::Fault;
use crate::eval::code::{CodeChecker, CodeProblem, TestColumns};
use crate::eval::rouge::best_rouge_l;
use crate::eval::task::{Choices, Generate, Gold, Judged, Kind, Task, choose, of_a_choice};
use crate::exec::RunError;
use crate::ops::samples;
use crate::ops::writing::{Cell, Finished, InRow, NewRow};
use crate::teacher::Failure;
use arrow::datatypes::{DataType, Field};
use serde_json::Value;

/// A task, and for which k its questions are counted.
#[derive(Debug)]
pub struct Judge {
    pub task: Task,
    pub k: Vec<u32>,
}

impl Judge {
    /// What is added to answers besides the text.
    pub fn columns(&self) -> Vec<Field> {
        let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
        let float = |name: &str| Field::new(name, DataType::Float64, true);
        let verdict = [text("extracted", true), Field::new("correct", DataType::Boolean, false), text("reason", true)];
        let mut columns = vec![text("asked", false)];
        match &self.task.kind {
            Kind::Generate(generate) => {
                columns.push(samples::field());
                columns.push(Field::new("output_tokens", DataType::Int64, false));
                columns.push(text("finish", false));
                columns.extend(verdict);
                columns.extend(generate.is_code().then(|| text("detail", true)));
                columns.extend(generate.rouge.then(|| float("rouge_l")));
                columns.extend(generate.wrong.as_ref().map(|_| float("rouge_l_difference")));
            }
            Kind::Choice(_) => {
                columns.push(text("log_likelihoods", false));
                columns.extend(verdict);
                columns.push(Field::new("correct_norm", DataType::Boolean, false));
                columns.push(float("mc2"));
            }
        }
        columns
    }

    /// What is added to questions.
    pub fn counted(&self) -> Vec<Field> {
        let pass = self.k.iter().map(|k| Field::new(format!("pass_at_{k}"), DataType::Float64, false));
        let counts = ["n", "c"].map(|name| Field::new(name, DataType::Int64, false));
        counts.into_iter().chain(pass).collect()
    }

    /// The right answers of a row.
    pub fn gold(&self, generate: &Generate, row: &InRow) -> Result<Gold, Failure> {
        let gold = generate.gold(&self.task, row.shown(&self.task.gold.value), &options(generate, row));
        gold.map_err(|(reason, message)| Failure::new(reason, message))
    }

    /// A question whose answers have come: each is judged, and all are counted.
    pub fn finish(&self, mut row: Finished) -> Finished {
        let Finished { row: from, outcome, .. } = &mut row;
        *outcome = std::mem::replace(outcome, Ok(Vec::new())).and_then(|rows| self.judged(from, rows));
        row
    }

    pub fn marker(&self) -> &str {
        &self.task.asked.marker
    }

    /// The same for programs: those of all questions are run side by side.
    pub fn finish_code(
        &self,
        mut questions: Vec<Finished>,
        checker: &CodeChecker,
        columns: &TestColumns,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Finished>, RunError> {
        let problems: Vec<_> = questions.iter().map(|question| problem(columns, &question.row)).collect();
        let mut programs = Vec::new();
        for (question, problem) in questions.iter().zip(&problems) {
            if let (Ok(answers), Ok(problem)) = (&question.outcome, problem) {
                programs.extend(answers.iter().map(|answer| (output(answer), problem)));
            }
        }
        let mut verdicts = checker.check_all(&programs, stop)?.into_iter();
        drop(programs);
        for (question, problem) in questions.iter_mut().zip(problems) {
            let Ok(answers) = &mut question.outcome else { continue };
            if let Err(failure) = problem {
                question.outcome = Err(failure);
                continue;
            }
            let mut right = 0;
            for answer in answers.iter_mut() {
                let verdict = verdicts.next().unwrap_or_default();
                right += u32::from(verdict.correct());
                let judged = Judged { correct: verdict.correct(), extracted: verdict.extracted, why: verdict.why };
                answer.cells.extend(cells(&judged));
                answer.cells.push(verdict.detail.map_or(Cell::Null, Cell::Text));
            }
            answers.push(self.count(answers.len(), right));
        }
        Ok(questions)
    }

    /// The row of a question.
    fn count(&self, answers: usize, right: u32) -> NewRow {
        let n = u32::try_from(answers).unwrap_or(u32::MAX);
        let counts = [Cell::Int(n.into()), Cell::Int(right.into())];
        let pass = self.k.iter().map(|k| Cell::Float(pass_at(*k, n, right)));
        NewRow { output: 1, sample: None, cells: counts.into_iter().chain(pass).collect() }
    }

    fn judged(&self, row: &InRow, mut rows: Vec<NewRow>) -> Result<Vec<NewRow>, Failure> {
        let right = match &self.task.kind {
            Kind::Generate(generate) => self.judge_written(generate, row, &mut rows)?,
            Kind::Choice(choices) => self.judge_choice(choices, row, &mut rows)?,
        };
        rows.push(self.count(rows.len(), right));
        Ok(rows)
    }

    /// Judges what was written; gives how many are right.
    fn judge_written(&self, generate: &Generate, row: &InRow, rows: &mut [NewRow]) -> Result<u32, Failure> {
        let (gold, options) = (self.gold(generate, row)?, options(generate, row));
        let references = texts(row.shown(&self.task.gold.value));
        let wrong = generate.wrong.as_ref().map(|column| texts(row.shown(column)));
        let mut right = 0;
        for answer in rows {
            let judged = generate.judge(self.marker(), output(answer).unwrap_or_default(), &gold, &options);
            right += u32::from(judged.correct);
            answer.cells.extend(cells(&judged));
            let measured = judged.extracted.unwrap_or_default();
            if generate.rouge {
                let nearest = |texts: &[String]| best_rouge_l(&measured, texts.iter().map(String::as_str));
                let near = nearest(&references);
                answer.cells.push(near.into());
                if let Some(wrong) = &wrong {
                    answer.cells.push(near.zip(nearest(wrong)).map(|(right, wrong)| right - wrong).into());
                }
            }
        }
        Ok(right)
    }

    /// Judges a choice: its row has the likelihoods, and gets the text.
    fn judge_choice(&self, choices: &Choices, row: &InRow, rows: &mut [NewRow]) -> Result<u32, Failure> {
        let failed = |(reason, message)| Failure::new(reason, message);
        let texts = choices.texts(|column| row.shown(column)).map_err(failed)?;
        let right = choices.gold(&self.task.gold.value, row.value(&self.task.gold.value), &texts).map_err(failed)?;
        let continued = texts.iter().enumerate().map(|(at, text)| continuation(choices, row, &of_a_choice(at, text)));
        let continued = continued.collect::<Result<Vec<String>, Failure>>()?;
        let mut correct = 0;
        for answer in rows {
            let Some(Cell::Text(likelihoods)) = answer.cells.get(2) else { continue };
            let likelihoods: Vec<f64> = serde_json::from_str(likelihoods).unwrap_or_default();
            let chosen = choose(&likelihoods, &continued, &right);
            correct += u32::from(chosen.correct);
            let text = texts.get(chosen.choice).cloned().unwrap_or_default();
            answer.cells[0] = Cell::Text(text.clone());
            let why = (!chosen.correct).then_some(Fault::Wrong);
            answer.cells.extend(cells(&Judged { extracted: Some(text), correct: chosen.correct, why }));
            answer.cells.extend([Cell::Bool(chosen.correct_norm), Cell::Float(chosen.mc2)]);
        }
        Ok(correct)
    }
}

/// What a row's programs must do.
pub fn problem(columns: &TestColumns, row: &InRow) -> Result<CodeProblem, Failure> {
    columns.problem(|name| row.value(name)).map_err(|(reason, message)| Failure::new(reason, message))
}

/// What a model wrote.
fn output(answer: &NewRow) -> Option<&str> {
    match answer.cells.first() {
        Some(Cell::Text(text)) => Some(text),
        _ => None,
    }
}

fn options<'r>(generate: &Generate, row: &'r InRow) -> Vec<&'r str> {
    generate.options.iter().map(|name| row.text(name).unwrap_or_default()).collect()
}

/// The texts of a cell: one, or a list of them.
fn texts(cell: Value) -> Vec<String> {
    let items = match cell {
        Value::Array(items) => items,
        one => vec![one],
    };
    let text = |item: Value| match item {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    items.into_iter().filter_map(text).collect()
}

fn cells(judged: &Judged) -> [Cell; 3] {
    let why = |fault: Fault| Cell::Text(fault.name().into());
    let extracted = judged.extracted.clone();
    [extracted.map_or(Cell::Null, Cell::Text), Cell::Bool(judged.correct), judged.why.map_or(Cell::Null, why)]
}
