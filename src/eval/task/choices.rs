//! Multiple choice by log-likelihood: which of several texts a model finds likeliest after a prompt.

use crate::ops::list;
use crate::prompt::Template;
use serde_json::Value;
use std::sync::Arc;

/// What is chosen from, and how the right choice is named.
#[derive(Debug, Clone)]
pub struct Choices {
    /// One column with a list of texts, or one column for each text.
    pub columns: Vec<String>,
    /// What follows the prompt, for each choice.
    pub continuation: Arc<Template>,
    pub gold_as: GoldAs,
}

/// What the column of right answers holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoldAs {
    /// The choice's place, from 0.
    Index,
    /// The same, from 1.
    Number,
    /// `A`, `B`, ...; digits from 1 as well.
    Letter,
    /// The choice's text.
    Text,
    /// For each choice whether it is right: 1 or 0, true or false.
    Flags,
}

impl GoldAs {
    pub const NAMES: &[&str] = &["index", "number", "letter", "text", "flags"];

    pub fn of(name: &str) -> Self {
        match name {
            "number" => Self::Number,
            "letter" => Self::Letter,
            "text" => Self::Text,
            "flags" => Self::Flags,
            _ => Self::Index,
        }
    }
}

/// What a prompt and a continuation know of a choice, besides the row's columns.
pub const OF_A_CHOICE: &[&str] = &["choice", "letter", "number"];

/// The values of [`OF_A_CHOICE`] for the choice in a place.
pub fn of_a_choice(at: usize, text: &str) -> [(&'static str, Value); 3] {
    [("choice", text.into()), ("letter", letter(at).to_string().into()), ("number", (at + 1).into())]
}

fn letter(at: usize) -> char {
    u8::try_from(at).ok().filter(|at| *at < 26).map_or('?', |at| char::from(b'A' + at))
}

/// What came of a choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The likeliest choice, from 0; the first of several.
    pub choice: usize,
    /// Whether it is right.
    pub correct: bool,
    /// Whether the choice is right that is likeliest for the characters of what follows the prompt.
    pub correct_norm: bool,
    /// The share of all choices' probability that the right ones have.
    pub mc2: f64,
}

impl Choices {
    /// The texts of a row's choices, by a look at its cells; or the reason why there are none, and a message.
    pub fn texts(&self, cell: impl Fn(&str) -> Value) -> Result<Vec<String>, (&'static str, String)> {
        let text = |value: Value| match value {
            Value::String(text) if !text.trim().is_empty() => Some(text),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let cells: Vec<Value> = self.columns.iter().map(|column| cell(column)).collect();
        let items = match <[Value; 1]>::try_from(cells) {
            Ok([Value::Array(items)]) => items,
            Ok([one]) => vec![one],
            Err(several) => several,
        };
        // Where questions have different numbers of choices, the last columns are null.
        let mut items = items.into_iter().map(text);
        let texts: Vec<String> = items.by_ref().map_while(|text| text).collect();
        let columns = list(&self.columns.iter().map(String::as_str).collect::<Vec<_>>());
        if items.any(|text| text.is_some()) {
            let message = format!("choice {} in {columns} has no text, and others follow it", texts.len() + 1);
            return Err(("no-choices", message));
        }
        match texts.len() {
            0 | 1 => Err(("no-choices", format!("{columns} hold {} texts, and a choice needs two", texts.len()))),
            _ => Ok(texts),
        }
    }

    /// For each choice whether it is right, from the cell of right answers; or the reason why that is not known.
    pub fn gold(&self, column: &str, cell: Value, texts: &[String]) -> Result<Vec<bool>, (&'static str, String)> {
        let unreadable = |what: &Value| {
            let shown: String = what.to_string().chars().take(60).collect();
            ("gold-unreadable", format!("`{column}` names none of {} choices: {shown}", texts.len()))
        };
        if cell.is_null() {
            return Err(("null-value", format!("`{column}` is null")));
        }
        let named = match &cell {
            Value::Array(items) => items.clone(),
            one => vec![one.clone()],
        };
        let mut right = vec![false; texts.len()];
        if self.gold_as == GoldAs::Flags {
            for (at, flag) in named.iter().enumerate().filter(|(_, flag)| flag.as_bool() == Some(true) || is_one(flag))
            {
                *right.get_mut(at).ok_or_else(|| unreadable(flag))? = true;
            }
        } else {
            for name in &named {
                let at = self.place(name, texts).filter(|at| *at < texts.len()).ok_or_else(|| unreadable(name))?;
                right[at] = true;
            }
        }
        match right.contains(&true) {
            true => Ok(right),
            false => Err(unreadable(&cell)),
        }
    }

    /// The place of the choice that a value names.
    fn place(&self, name: &Value, texts: &[String]) -> Option<usize> {
        let text = match name {
            Value::String(text) => text.trim().to_string(),
            Value::Number(number) => number.as_f64().filter(|n| n.fract() == 0.0).map(|n| n.to_string())?,
            _ => return None,
        };
        let number = || text.parse::<usize>().ok();
        match self.gold_as {
            GoldAs::Index => number(),
            GoldAs::Number => number()?.checked_sub(1),
            GoldAs::Letter => match text.chars().collect::<Vec<_>>()[..] {
                [c] if c.is_ascii_alphabetic() => Some(usize::from(c.to_ascii_uppercase() as u8 - b'A')),
                _ => number()?.checked_sub(1),
            },
            GoldAs::Text => texts.iter().position(|choice| choice.trim() == text),
            GoldAs::Flags => None,
        }
    }
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0) || value.as_str() == Some("1")
}

/// What is chosen by the log-likelihoods of continuations (natural logarithm, summed over their tokens).
///
/// As in the lm-evaluation-harness: the first of the likeliest is chosen; `acc_norm` divides by the number of the
/// continuation's characters; `mc2` (TruthfulQA) is the right choices' share of the probability of all.
pub fn choose(log_likelihoods: &[f64], continuations: &[String], right: &[bool]) -> Chosen {
    let by_length: Vec<f64> =
        log_likelihoods.iter().zip(continuations).map(|(ll, text)| ll / (text.chars().count().max(1) as f64)).collect();
    let choice = first_highest(log_likelihoods);
    // Against underflow: only ratios count.
    let highest = log_likelihoods.get(choice).copied().unwrap_or(0.0);
    let mass = |wanted: &dyn Fn(usize) -> bool| -> f64 {
        let chosen = log_likelihoods.iter().enumerate().filter(|(at, _)| wanted(*at));
        chosen.map(|(_, ll)| (ll - highest).exp()).sum()
    };
    let is_right = |at: usize| right.get(at) == Some(&true);
    Chosen {
        choice,
        correct: is_right(choice),
        correct_norm: is_right(first_highest(&by_length)),
        mc2: mass(&is_right) / mass(&|_| true),
    }
}

fn first_highest(values: &[f64]) -> usize {
    let mut best = 0;
    for (at, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = at;
        }
    }
    best
}
