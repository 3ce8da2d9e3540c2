//! What is remembered of each input: a hash of every column, and of some columns one for every row.

use super::{Batch, Finding, Lint, Tally, hash, quoted};
use crate::diag::Severity;
use crate::exec::RunError;
use crate::ops::rows::{ID, cell_json};
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Schema;
use std::collections::HashSet;

/// An input in short.
pub struct Profile {
    pub label: String,
    pub rows: u64,
    pub columns: Vec<Column>,
    /// A hash for each row.
    pub questions: Vec<u64>,
    pub responses: Vec<u64>,
    ids: Repeats,
    repeated_questions: Repeats,
    /// The columns of questions and responses, which have checks of their own.
    known: [String; 2],
}

/// A column in short.
pub struct Column {
    pub name: String,
    hasher: blake3::Hasher,
    first: Option<String>,
    constant: bool,
    nulls: u64,
    /// What the column holds of each response, by its name.
    pub per_response: Option<PerResponse>,
    /// A hash for each row, where the column is one per response.
    pub values: Vec<u64>,
}

/// Kinds of columns that must differ where responses do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerResponse {
    /// A number measured on the response.
    Score,
    /// A model's text that led to the response.
    Output,
}

/// What a column's name says.
fn named_like(name: &str) -> Option<PerResponse> {
    let name = name.to_lowercase();
    let holds = |words: &[&str]| words.iter().any(|w| name.contains(w));
    if holds(&["ppl", "perplex", "nll", "logprob", "loss"]) {
        return Some(PerResponse::Score);
    }
    let parts: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).collect();
    (holds(&["prediction", "generation"]) || parts.iter().any(|p| ["pred", "output"].contains(p)))
        .then_some(PerResponse::Output)
}

/// Rows whose text came before.
#[derive(Default)]
struct Repeats {
    seen: HashSet<u64>,
    tally: Tally,
}

impl Repeats {
    fn add(&mut self, text: Option<&str>, id: &Option<String>) {
        if let Some(text) = text {
            let again = !self.seen.insert(hash(text));
            self.tally.see(again, id);
        }
    }
}

impl Profile {
    pub(super) fn new(label: String, schema: &Schema, lint: &Lint) -> Self {
        let column = |name: &String| Column {
            name: name.clone(),
            hasher: blake3::Hasher::new(),
            first: None,
            constant: true,
            nulls: 0,
            per_response: named_like(name),
            values: Vec::new(),
        };
        Self {
            label,
            rows: 0,
            columns: schema.fields().iter().map(|f| column(f.name())).collect(),
            questions: Vec::new(),
            responses: Vec::new(),
            ids: Repeats::default(),
            repeated_questions: Repeats::default(),
            known: [lint.question.value.clone(), lint.response.value.clone()],
        }
    }

    pub(super) fn add(&mut self, batch: &RecordBatch, table: &Batch) -> Result<(), RunError> {
        self.rows += batch.num_rows() as u64;
        for (column, values) in self.columns.iter_mut().zip(batch.columns()) {
            column.add(values);
        }
        for row in 0..batch.num_rows() {
            let text = |of: &[Option<String>]| hash(of[row].as_deref().unwrap_or_default());
            self.questions.push(text(&table.questions));
            self.responses.push(text(&table.responses));
            let id = &table.ids[row];
            self.ids.add(id.as_deref(), id);
            self.repeated_questions.add(table.questions[row].as_deref(), id);
        }
        Ok(())
    }

    /// Findings within the input. The counts of repeated rows are taken out.
    pub fn findings(&mut self) -> Vec<Finding> {
        let ids = std::mem::take(&mut self.ids.tally);
        let questions = std::mem::take(&mut self.repeated_questions.tally);
        let mut findings: Vec<Finding> = [
            ids.finding("duplicate-ids", Severity::Error, self, "rows with the id of an earlier row"),
            questions.finding(
                "duplicate-questions",
                Severity::Warning,
                self,
                "rows with the question of an earlier row",
            ),
        ]
        .into_iter()
        .flatten()
        .collect();
        findings.extend(self.duplicate_columns());
        findings.extend(self.constant_columns());
        findings
    }

    fn about_columns(&self, check: &'static str, severity: Severity, columns: usize, message: String) -> Finding {
        let (input, count) = (self.label.clone(), columns as u64);
        Finding { check, severity, input, count, share: None, examples: Vec::new(), message }
    }

    fn duplicate_columns(&self) -> Vec<Finding> {
        let varied: Vec<&Column> = self.columns.iter().filter(|c| !c.is_constant()).collect();
        let mut found = Vec::new();
        let mut named: HashSet<&str> = HashSet::new();
        for (at, column) in varied.iter().enumerate() {
            let same: Vec<String> =
                varied[at..].iter().filter(|c| c.digest() == column.digest()).map(|c| c.name.clone()).collect();
            if same.len() > 1 && named.insert(&column.name) {
                named.extend(varied[at..].iter().filter(|c| same.contains(&c.name)).map(|c| c.name.as_str()));
                let message = format!("{} hold the same in every row", quoted(&same));
                found.push(self.about_columns("duplicate-columns", Severity::Warning, same.len(), message));
            }
        }
        found
    }

    fn constant_columns(&self) -> Option<Finding> {
        let constant = |c: &&Column| c.is_constant() && c.name != ID && !self.known.contains(&c.name);
        let names: Vec<String> = self.columns.iter().filter(constant).map(|c| c.name.clone()).collect();
        let message = format!("{} say the same in all {} rows", quoted(&names), self.rows);
        (self.rows > 1 && !names.is_empty())
            .then(|| self.about_columns("constant-column", Severity::Note, names.len(), message))
    }
}

impl Column {
    fn add(&mut self, values: &dyn Array) {
        for row in 0..values.len() {
            let text = cell_json(values, row).to_string();
            self.hasher.update(&(text.len() as u64).to_le_bytes());
            self.hasher.update(text.as_bytes());
            self.nulls += u64::from(values.is_null(row));
            if self.per_response.is_some() {
                self.values.push(hash(&text));
            }
            match &self.first {
                None => self.first = Some(text),
                Some(first) if self.constant => self.constant = *first == text,
                Some(_) => {}
            }
        }
    }

    pub fn is_constant(&self) -> bool {
        self.constant
    }

    fn digest(&self) -> blake3::Hash {
        self.hasher.finalize()
    }
}
