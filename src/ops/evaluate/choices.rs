//! Multiple choice: the likelihood of each choice after the prompt.

use super::generate::asked;
use super::judge::Judge;
use super::scorer::log_likelihood;
use crate::eval::task::{Choices, of_a_choice};
use crate::model::RAW;
use crate::ops::writing::{Bound, Cell, InRow, RowTask, Step};
use crate::teacher::{Answer, Ask, Failure, Outcome};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The choices of a row's question, each as a conversation that ends in it.
pub struct Choosing {
    asks: Vec<Ask>,
    prompt: String,
}

impl Choosing {
    pub fn new(judge: &Judge, choices: &Choices, prompt: &Bound<'_>, row: &InRow) -> Result<Self, Failure> {
        let failed = |(reason, message)| Failure::new(reason, message);
        let texts = choices.texts(|column| row.shown(column)).map_err(failed)?;
        choices.gold(&judge.task.gold.value, row.value(&judge.task.gold.value), &texts).map_err(failed)?;
        let mut asks = Vec::with_capacity(texts.len());
        for (at, text) in texts.iter().enumerate() {
            let own = of_a_choice(at, text);
            let mut ask = prompt.ask(row, 0, &own)?;
            let continuation = continuation(choices, row, &own)?;
            // In raw text a blank stands between a prompt and what follows it.
            let raw = ask.messages.first().is_some_and(|(role, _)| role == RAW);
            ask.messages.push(("assistant".into(), if raw { format!(" {continuation}") } else { continuation }));
            asks.push(ask);
        }
        let prompt = asks.first().map_or_else(String::new, |ask| asked(&ask.messages[..ask.messages.len() - 1]));
        Ok(Self { asks, prompt })
    }
}

/// What the prompt is told of a row's first choice, if it has choices.
pub fn first_choice(choices: &Choices, row: &InRow) -> Vec<(&'static str, Value)> {
    let texts = choices.texts(|column| row.shown(column)).unwrap_or_default();
    texts.first().map(|text| of_a_choice(0, text).into_iter().collect()).unwrap_or_default()
}

/// What follows the prompt for a choice.
pub fn continuation(choices: &Choices, row: &InRow, own: &[(&'static str, Value)]) -> Result<String, Failure> {
    let mut values: BTreeMap<String, Value> = BTreeMap::new();
    for input in &choices.continuation.inputs {
        values.insert(input.name.clone(), row.shown(&input.name));
    }
    values.extend(own.iter().map(|(name, value)| (name.to_string(), value.clone())));
    let turns = choices.continuation.render(&values).map_err(|e| Failure::new("template", e.to_string()))?;
    let text = turns.into_iter().next_back().map(|(_, text)| text).unwrap_or_default();
    match text.is_empty() {
        true => Err(Failure::new("empty-response", "a choice has no text")),
        false => Ok(text),
    }
}

impl RowTask for Choosing {
    fn next(&mut self, last: Vec<Outcome>) -> Step {
        if last.is_empty() {
            return Step::Ask(std::mem::take(&mut self.asks));
        }
        let likelihoods = last.into_iter().map(|outcome| {
            let answer: Answer = outcome?;
            log_likelihood(&answer).ok_or_else(|| Failure::new("not-finite", "a choice has no likelihood"))
        });
        match likelihoods.collect::<Result<Vec<f64>, Failure>>() {
            // The text is known when it has been judged.
            Ok(lls) => Step::row(vec![
                Cell::Text(String::new()),
                Cell::Text(std::mem::take(&mut self.prompt)),
                Cell::Text(json!(lls).to_string()),
            ]),
            Err(failure) => Step::Reject(failure),
        }
    }
}
