//! Answers that a model writes.

use crate::ops::writing::{Bound, Cell, InRow, NewRow, RowTask, Step, Writing};
use crate::teacher::{Answer, Ask, Failure, Finish, Outcome};
use serde_json::{Value, json};

/// The answers to a row's question.
pub struct Answers<'a> {
    pub writing: &'a Writing,
    pub prompt: &'a Bound<'a>,
    pub row: InRow,
}

impl RowTask for Answers<'_> {
    fn next(&mut self, last: Vec<Outcome>) -> Step {
        let asks = (0..self.writing.samples).map(|sample| self.prompt.ask(&self.row, sample, &[]));
        match asks.collect::<Result<Vec<_>, Failure>>() {
            Err(failure) => Step::Reject(failure),
            Ok(asks) if last.is_empty() => Step::Ask(asks),
            Ok(asks) => match last.into_iter().collect::<Result<Vec<Answer>, Failure>>() {
                Ok(answers) => Step::Ready(asks.iter().zip(answers).map(|(ask, a)| self.row(ask, a)).collect()),
                Err(failure) => Step::Reject(failure),
            },
        }
    }
}

impl Answers<'_> {
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
pub fn asked(messages: &[(String, String)]) -> String {
    match messages {
        [(_, text)] => text.clone(),
        turns => {
            turns.iter().map(|(role, text)| json!({ "role": role, "content": text })).collect::<Value>().to_string()
        }
    }
}
