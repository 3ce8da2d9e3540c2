//! Tasks of evaluation as data: what a model is asked, how its answer is read, and when it is right.
//!
//! ```text
//! row --prompt--> model --> output --Reading--> Reply --compare with Gold--> Judged
//! ```
//!
//! A task is what a `task` declaration says; those that come with the program are declarations in `tasks/`.

mod choices;
mod judge;
mod normal;

pub use choices::{Choices, Chosen, GoldAs, OF_A_CHOICE, choose, of_a_choice};
pub use judge::{Gold, Judged, Reply};
pub use normal::Normal;

use crate::diag::{Span, Spanned};
use crate::eval::answer::{Checker, Extractor};
use crate::prompt::{PromptError, Template};
use regex::Regex;
use serde_json::{Value, json};
use std::sync::Arc;

/// A declared task.
#[derive(Debug, Clone)]
pub struct Task {
    pub name: String,
    pub asked: Asked,
    /// The column of right answers.
    pub gold: Spanned<String>,
    pub kind: Kind,
    /// The prompt goes to the model as it is, without a chat template.
    pub raw: bool,
    pub span: Span,
}

/// What a model is asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Jinja, as it was written.
    pub prompt: String,
    /// Jinja that stands below the prompt, unless the marker is in it already.
    pub request: Option<String>,
    /// What stands before a final answer.
    pub marker: String,
    /// Columns that the prompt may do without.
    pub optional: Vec<String>,
    pub template: Arc<Template>,
}

/// How an answer comes about.
#[derive(Debug, Clone)]
pub enum Kind {
    /// The model writes it.
    Generate(Generate),
    /// The likeliest of several texts is chosen.
    Choice(Choices),
}

/// How a written answer is read and judged.
#[derive(Debug, Clone)]
pub struct Generate {
    pub reading: Reading,
    pub matching: Match,
    /// What does not count when texts are compared.
    pub normal: Normal,
    /// Takes the right answer out of its column.
    pub gold_pattern: Option<Pattern>,
    /// The columns of five options' texts, for [`Reading::Option`].
    pub options: Vec<String>,
    /// Whether outputs are also compared with the right answers by ROUGE-L.
    pub rouge: bool,
    /// The column of answers that are wrong, to compare outputs with as well.
    pub wrong: Option<String>,
    /// The most tokens of an answer.
    pub max_tokens: Option<u32>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
}

/// Where in an output the answer stands.
#[derive(Debug, Clone)]
pub enum Reading {
    /// A number, behind the marker or in a box.
    Number(Extractor),
    /// One of five options, behind the marker.
    Option,
    /// A program, behind the marker or in fences.
    Code,
    /// What a regular expression finds.
    Regex(Pattern),
    /// What follows the last marker.
    Marked,
    /// The whole output.
    Text,
}

/// A regular expression, and which of what it finds is meant.
#[derive(Debug, Clone)]
pub struct Pattern {
    pub regex: Regex,
    pub group: usize,
    /// The last match instead of the first.
    pub last: bool,
}

/// When an answer is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The same number at two decimals.
    Numeric,
    /// The same option.
    Option,
    /// It passes the row's tests.
    Tests,
    /// The same text.
    Exact,
    /// The right answer's text stands in it.
    Contains,
}

impl Asked {
    /// The prompt with the request below it; `name` is the task's, for messages.
    pub fn new(
        name: &str,
        prompt: String,
        request: Option<String>,
        marker: String,
        optional: Vec<String>,
    ) -> Result<Self, PromptError> {
        let text = match &request {
            Some(request) => format!(
                "{{% set asked %}}{prompt}{{% endset %}}{{{{ asked | trim }}}}\
                 {{% if marker not in asked %}}{{{{ '\\n\\n' }}}}{request}{{% endif %}}"
            ),
            None => prompt.clone(),
        };
        let names: Vec<&str> = optional.iter().map(String::as_str).collect();
        let template = Arc::new(Template::inferred(name, &text, &names)?);
        Ok(Self { prompt, request, marker, optional, template })
    }
}

impl Task {
    /// Everything that decides what is asked and what an answer is worth; not what the task is called.
    pub fn canonical(&self) -> Value {
        let kind = match &self.kind {
            Kind::Generate(generate) => generate.canonical(),
            Kind::Choice(choices) => json!({
                "columns": choices.columns,
                "continuation": choices.continuation.text(),
                "gold_as": format!("{:?}", choices.gold_as),
            }),
        };
        json!({
            "prompt": self.asked.template.text(),
            "optional": self.asked.optional,
            "marker": self.asked.marker,
            "gold": self.gold.value,
            "kind": kind,
        })
    }
}

/// The declaration is what a task is; where it stands does not matter.
impl PartialEq for Task {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.canonical() == other.canonical()
    }
}

impl Generate {
    fn canonical(&self) -> Value {
        json!({
            "reading": self.reading.canonical(),
            "matching": format!("{:?}", self.matching),
            "normal": self.normal.names(),
            "gold_pattern": self.gold_pattern.as_ref().map(Pattern::canonical),
            "options": self.options,
            "rouge": self.rouge,
            "wrong": self.wrong,
        })
    }

    /// Whether answers are programs, which tests judge.
    pub fn is_code(&self) -> bool {
        matches!(self.reading, Reading::Code)
    }

    /// The checker behind the readings of numbers and options.
    pub fn checker(&self, marker: &str) -> Checker {
        use crate::eval::answer::Task::{Ecqa, Math};
        let (task, extractor) = match (&self.reading, self.matching) {
            (Reading::Number(extractor), _) => (Math, *extractor),
            (Reading::Option, _) | (_, Match::Option) => (Ecqa, Extractor::Marker),
            _ => (Math, Extractor::Marker),
        };
        Checker { task, extractor, marker: marker.to_string() }
    }
}

impl Reading {
    fn canonical(&self) -> Value {
        match self {
            Self::Number(extractor) => json!(format!("number {extractor:?}")),
            Self::Option => json!("option"),
            Self::Code => json!("code"),
            Self::Regex(pattern) => pattern.canonical(),
            Self::Marked => json!("marked"),
            Self::Text => json!("text"),
        }
    }
}

impl Pattern {
    fn canonical(&self) -> Value {
        json!([self.regex.as_str(), self.group, self.last])
    }

    /// What it finds in a text, without white space around it.
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        let mut found = self.regex.captures_iter(text).filter_map(|c| c.get(self.group));
        let found = if self.last { found.last() } else { found.next() };
        found.map(|found| found.as_str().trim())
    }
}

#[cfg(test)]
mod tests;
