//! Checks of one row at a time.

use super::columns::Profile;
use super::{Answers, Batch, Finding, Lint, Tally};
use crate::diag::Severity;
use crate::eval::answer::{self, Fault};

/// What the rows of one input have shown so far.
pub struct RowChecks<'a> {
    lint: &'a Lint,
    empty: Tally,
    truncated: Tally,
    unmarked: Tally,
    unreadable: Tally,
    wrong: Tally,
    forbidden: Tally,
    /// Lower case.
    phrases: Vec<String>,
}

impl<'a> RowChecks<'a> {
    pub fn new(lint: &'a Lint) -> Self {
        Self {
            lint,
            empty: Tally::default(),
            truncated: Tally::default(),
            unmarked: Tally::default(),
            unreadable: Tally::default(),
            wrong: Tally::default(),
            forbidden: Tally::default(),
            phrases: lint.forbid.iter().map(|p| p.to_lowercase()).collect(),
        }
    }

    pub fn add(&mut self, batch: &Batch) {
        for (row, id) in batch.ids.iter().enumerate() {
            let response = batch.responses[row].as_deref().unwrap_or_default();
            let empty = response.trim().is_empty();
            self.empty.see(empty, id);
            if empty {
                continue;
            }
            let marker = self.lint.marker.as_deref();
            self.truncated.see(is_truncated(response, marker), id);
            self.unmarked.see(marker.is_some_and(|m| !response.contains(m)), id);
            if !self.phrases.is_empty() {
                let lower = response.to_lowercase();
                self.forbidden.see(self.phrases.iter().any(|p| lower.contains(p)), id);
            }
            if let Some(answers) = &self.lint.answers {
                self.judge(answers, batch, row, response);
            }
        }
    }

    fn judge(&mut self, answers: &Answers, batch: &Batch, row: usize, response: &str) {
        let options: Vec<&str> = batch.options.iter().map(|o| o[row].as_deref().unwrap_or_default()).collect();
        let id = &batch.ids[row];
        let found = match answers.checker.read(response, &options) {
            Ok(found) => found,
            Err(fault) => {
                // Without a marker that is one finding already.
                self.unreadable.see(fault == Fault::Unreadable, id);
                return;
            }
        };
        let Some(gold) = batch.gold.as_ref().and_then(|g| g[row].as_deref()) else { return };
        let right = answers.checker.gold(gold, &options);
        self.wrong.see(right.is_none_or(|right| !found.agrees(right)), id);
    }

    pub fn finish(self, profile: &Profile) -> Vec<Finding> {
        let marker = self.lint.marker.as_deref().unwrap_or_default();
        let phrases = super::quoted(&self.lint.forbid);
        [
            self.empty.finding("response-empty", Severity::Error, profile, "responses without a text"),
            self.truncated.finding("response-truncated", Severity::Warning, profile, "responses that stop midway"),
            self.unmarked.finding("marker-missing", Severity::Error, profile, format!("responses without `{marker}`")),
            self.unreadable.finding("answer-unreadable", Severity::Warning, profile, "answers that cannot be read"),
            self.wrong.finding("answer-wrong", Severity::Warning, profile, "answers that are not the right one"),
            self.forbidden.finding("forbidden-phrase", Severity::Warning, profile, format!("responses with {phrases}")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Whether a text stops midway: right behind the marker, inside a code block, or, without a marker, on a letter, a
/// comma, an opening bracket or an operator.
fn is_truncated(text: &str, marker: Option<&str>) -> bool {
    let text = text.trim_end();
    if text.matches("```").count() % 2 == 1 {
        return true;
    }
    if let Some(tail) = marker.and_then(|m| answer::after_marker(text, m)) {
        return tail.trim().is_empty();
    }
    text.chars().next_back().is_some_and(|c| c.is_alphabetic() || ",;:([{=+-*/<&".contains(c))
}

#[cfg(test)]
mod tests {
    use super::is_truncated;

    #[test]
    fn texts_that_stop_midway_are_seen() {
        let marker = Some("Final Answer:");
        for text in ["The sum of 3 and", "We have 3 +", "so (", "```python\nx = 1", "All done. Final Answer: "] {
            assert!(is_truncated(text, marker), "{text}");
        }
        for text in ["It is 5.", "x = 5", "She said \"yes\"", "Right. Final Answer: B", "```\nx\n```", "好。", "50%"]
        {
            assert!(!is_truncated(text, marker), "{text}");
        }
    }
}
