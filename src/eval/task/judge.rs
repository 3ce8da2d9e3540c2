//! Judging what a model wrote for a task.

use super::{Generate, Match, Reading, Task};
use crate::eval::answer::{self, Answer, Checker, Fault};
use crate::eval::code;
use serde_json::Value;
use std::fmt;

/// An answer that was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Answer(Answer),
    Text(String),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => write!(f, "{answer}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// The right answer, or several that are right.
#[derive(Debug, Clone, PartialEq)]
pub enum Gold {
    Answers(Vec<Answer>),
    Texts(Vec<String>),
}

/// What an output is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub extracted: Option<String>,
    pub correct: bool,
    /// Why it is not right.
    pub why: Option<Fault>,
}

impl Generate {
    /// The right answers in a cell, one or a list of them; or the reason why there is none, and a message. `options` are
    /// the texts of the five options.
    pub fn gold(&self, task: &Task, cell: Value, options: &[&str]) -> Result<Gold, (&'static str, String)> {
        let column = &task.gold.value;
        let cells = match cell {
            Value::Array(cells) => cells,
            one => vec![one],
        };
        if cells.is_empty() {
            return Err(("gold-unreadable", format!("`{column}` is an empty list")));
        }
        let checker = self.checker(&task.asked.marker);
        let mut answers = Vec::new();
        let mut texts = Vec::new();
        for cell in cells {
            let cell = self.taken_out(column, cell)?;
            match self.matching {
                Match::Numeric | Match::Option => answers.push(checker.gold_of(column, cell, options)?),
                Match::Exact | Match::Contains | Match::Tests => texts.push(match cell {
                    Value::Null => return Err(("null-value", format!("`{column}` is null"))),
                    Value::String(text) => text,
                    other => other.to_string(),
                }),
            }
        }
        Ok(if answers.is_empty() { Gold::Texts(texts) } else { Gold::Answers(answers) })
    }

    /// What the pattern for right answers finds.
    fn taken_out(&self, column: &str, cell: Value) -> Result<Value, (&'static str, String)> {
        let (Some(pattern), Value::String(text)) = (&self.gold_pattern, &cell) else { return Ok(cell) };
        let shown: String = text.chars().take(60).collect();
        let found = pattern.find(text).map(Value::from);
        found.ok_or_else(|| ("gold-unreadable", format!("`gold-pattern` finds nothing in `{column}`: \"{shown}\"")))
    }

    /// What an output is worth, given the right answers.
    pub fn judge(&self, marker: &str, output: &str, gold: &Gold, options: &[&str]) -> Judged {
        let checker = self.checker(marker);
        match self.read(&checker, output, options) {
            Ok(reply) => {
                let correct = self.agrees(&reply, gold);
                let why = (!correct).then_some(Fault::Wrong);
                Judged { extracted: Some(reply.to_string()), correct, why }
            }
            Err(fault) => Judged { extracted: None, correct: false, why: Some(fault) },
        }
    }

    /// The answer in an output.
    pub fn read(&self, checker: &Checker, output: &str, options: &[&str]) -> Result<Reply, Fault> {
        if output.trim().is_empty() {
            return Err(Fault::Empty);
        }
        let text = match &self.reading {
            Reading::Number(_) | Reading::Option => return checker.read(output, options).map(Reply::Answer),
            Reading::Regex(pattern) => pattern.find(output).ok_or(Fault::Unreadable)?,
            Reading::Code => return code::read(output, &checker.marker).map(Reply::Text),
            Reading::Marked => answer::after_marker(output, &checker.marker).ok_or(Fault::Unmarked)?.trim(),
            Reading::Text => output.trim(),
        };
        match self.matching {
            Match::Numeric => answer::number(text).map(Reply::Answer).ok_or(Fault::Unreadable),
            _ if text.is_empty() => Err(Fault::Unreadable),
            _ => Ok(Reply::Text(text.to_string())),
        }
    }

    fn agrees(&self, reply: &Reply, gold: &Gold) -> bool {
        match (reply, gold) {
            (Reply::Answer(answer), Gold::Answers(right)) => right.iter().any(|right| answer.agrees(*right)),
            (reply, Gold::Texts(right)) => {
                let said = reply.to_string();
                let said = self.normal.apply(&said);
                right.iter().map(|right| self.normal.apply(right)).any(|right| match self.matching {
                    Match::Contains => !right.is_empty() && said.contains(&*right),
                    _ => said == right,
                })
            }
            (Reply::Text(_), Gold::Answers(_)) => false,
        }
    }
}
