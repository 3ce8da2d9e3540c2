//! Questions of the test set in the training data.

use super::columns::Profile;
use super::{Batch, Finding, Tally};
use crate::diag::Severity;
use crate::exec::NodeCx;
use crate::exec::RunError;
use crate::ops::rows::{Held, batches};
use crate::report::grid::{Format, texts};
use std::collections::{HashMap, HashSet};

/// Letters by which candidates for a longer match are looked up; shorter questions must match whole.
const HEAD: usize = 40;

/// The questions of the test set.
pub struct TestSet {
    exact: HashSet<String>,
    /// Without case, punctuation and blanks.
    bare: HashSet<String>,
    by_head: HashMap<String, Vec<String>>,
}

impl TestSet {
    pub fn read(question: &str, index: usize, cx: &NodeCx) -> Result<Self, RunError> {
        let mut set = Self { exact: HashSet::new(), bare: HashSet::new(), by_head: HashMap::new() };
        let mut held = Held::new(cx, "the questions of the test set");
        for batch in batches(cx, index)? {
            let batch = batch?;
            let Some(column) = batch.column_by_name(question) else { continue };
            held.add(3 * column.get_array_memory_size())?;
            texts(column, Format::default()).into_iter().flatten().for_each(|q| set.add(q));
        }
        Ok(set)
    }

    fn add(&mut self, question: String) {
        let bare = bare(&question);
        if bare.is_empty() {
            return;
        }
        if let Some(head) = head(&bare) {
            self.by_head.entry(head.to_string()).or_default().push(bare.clone());
        }
        self.bare.insert(bare);
        self.exact.insert(question);
    }

    /// Whether a question is one of the test set's but for case, punctuation, blanks and a suffix.
    fn nearly_has(&self, question: &str) -> bool {
        let bare = bare(question);
        let longer = |head: &str| self.by_head.get(head).is_some_and(|all| all.iter().any(|t| bare.starts_with(t)));
        self.bare.contains(&bare) || head(&bare).is_some_and(longer)
    }
}

/// Letters and digits in lower case.
fn bare(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn head(bare: &str) -> Option<&str> {
    bare.char_indices().nth(HEAD).map(|(end, _)| &bare[..end])
}

/// What the rows of one input share with the test set.
pub struct Overlaps<'a> {
    test: &'a TestSet,
    exact: Tally,
    near: Tally,
}

impl<'a> Overlaps<'a> {
    pub fn new(test: &'a TestSet) -> Self {
        Self { test, exact: Tally::default(), near: Tally::default() }
    }

    pub fn add(&mut self, batch: &Batch) {
        for (question, id) in batch.questions.iter().zip(&batch.ids) {
            let Some(question) = question else { continue };
            let exact = self.test.exact.contains(question);
            self.exact.see(exact, id);
            self.near.see(!exact && self.test.nearly_has(question), id);
        }
    }

    pub fn finish(self, profile: &Profile) -> Vec<Finding> {
        let near = "questions that are in the test set but for case, punctuation or a suffix";
        [
            self.exact.finding("test-overlap", Severity::Error, profile, "questions that are in the test set"),
            self.near.finding("test-overlap-near", Severity::Error, profile, near),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
