//! Final answers in responses, and whether they are right: the checker of a task.
//!
//! ```text
//! response --extractor--> Answer --compare with gold--> Verdict
//! ```
//!
//! What each way of writing an answer is read as stands in [`cases`], which is also a page of the documentation.

pub mod cases;
mod number;

use serde_json::Value;
use std::fmt;

/// What stands before the answer where nobody says otherwise.
pub const MARKER: &str = "Final Answer:";

/// The columns of a question's options, as the contracts of data sets name them.
pub const OPTIONS: [&str; 5] = ["option_1", "option_2", "option_3", "option_4", "option_5"];

/// What stands before the answer in GSM8K's own rationales.
const GSM8K_MARKER: &str = "####";

/// What a response asks to be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A number, compared at two decimals.
    Math,
    /// One of five options, by its digit.
    Ecqa,
}

/// Where the number of a math answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extractor {
    /// The first number after the last marker.
    Marker,
    /// The content of the last `\boxed{}`, otherwise the last number of the text.
    Boxed,
}

/// Reads answers and judges them.
#[derive(Debug, Clone, PartialEq)]
pub struct Checker {
    pub task: Task,
    /// Of math; options are always read behind the marker.
    pub extractor: Extractor,
    pub marker: String,
}

/// An answer that was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    Number(f64),
    /// 1 to 5.
    Option(u8),
}

/// A response's answer and whether it is right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    pub extracted: Option<Answer>,
    pub correct: bool,
    /// Why it is not right.
    pub why: Option<Fault>,
}

/// Why an answer does not count as right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no text.
    Empty,
    /// The marker is missing.
    Unmarked,
    /// Nothing can be read where the answer should stand.
    Unreadable,
    /// Another answer than the right one; of code, that a test's assertion does not hold.
    Wrong,
    /// Code raised an exception.
    Raised,
    /// Code ran out of time.
    Timeout,
    /// Code ran out of memory.
    Memory,
    /// Code printed or wrote too much.
    Output,
    /// Code ended before its tests had passed: it left, crashed or was killed.
    Ended,
}

impl Fault {
    /// All of them, as they stand in a column, and what they mean.
    pub const NAMES: &[(Fault, &str, &str)] = &[
        (Fault::Empty, "empty", "there is no text"),
        (Fault::Unmarked, "unmarked", "the marker is missing"),
        (Fault::Unreadable, "unreadable", "nothing can be read where the answer should stand"),
        (Fault::Wrong, "wrong", "the answer is another one, or a test's assertion does not hold"),
        (Fault::Raised, "raised", "the code raised an exception"),
        (Fault::Timeout, "timeout", "the code ran out of time"),
        (Fault::Memory, "memory", "the code ran out of memory"),
        (Fault::Output, "output", "the code printed or wrote too much"),
        (Fault::Ended, "ended", "the code left, crashed or was killed before its tests had passed"),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(fault, ..)| *fault == self).map_or("", |(_, name, _)| name)
    }
}

/// `72`, `0.75`; an option's digit.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // No minus on a zero.
            Self::Number(value) => write!(f, "{}", value + 0.0),
            Self::Option(digit) => write!(f, "{digit}"),
        }
    }
}

impl Answer {
    /// Whether both are the same: numbers at two decimals.
    pub fn agrees(self, other: Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => same_number(a, b),
            (a, b) => a == b,
        }
    }
}

impl Checker {
    /// The answer that a response gives. `options` are the texts of the five options, for ECQA.
    pub fn read(&self, response: &str, options: &[&str]) -> Result<Answer, Fault> {
        if response.trim().is_empty() {
            return Err(Fault::Empty);
        }
        let marked = || after_marker(response, &self.marker).ok_or(Fault::Unmarked);
        let answer = match (self.task, self.extractor) {
            (Task::Math, Extractor::Marker) => number::first(marked()?).map(Answer::Number),
            (Task::Math, Extractor::Boxed) => boxed(response).map(Answer::Number),
            (Task::Ecqa, _) => option(marked()?, options).map(Answer::Option),
        };
        answer.ok_or(Fault::Unreadable)
    }

    /// The right answer, from a cell of the column of right answers; or the reason why there is none, and a message.
    pub fn gold_of(&self, column: &str, cell: Value, options: &[&str]) -> Result<Answer, (&'static str, String)> {
        let text = match cell {
            Value::Null => return Err(("null-value", format!("`{column}` is null"))),
            Value::String(text) => text,
            number => number.to_string(),
        };
        let wanted = if self.task == Task::Math { "number" } else { "option" };
        let shown: String = text.chars().take(60).collect();
        self.gold(&text, options)
            .ok_or_else(|| ("gold-unreadable", format!("`{column}` holds no {wanted}: \"{shown}\"")))
    }

    /// The right answer, from a column of right answers: the answer alone, or a rationale that holds it behind the
    /// marker, behind GSM8K's `####` or in a box.
    pub fn gold(&self, text: &str, options: &[&str]) -> Option<Answer> {
        let marked = after_marker(text, &self.marker);
        match self.task {
            Task::Math => {
                let marked = marked.or_else(|| text.rfind(GSM8K_MARKER).map(|at| &text[at + GSM8K_MARKER.len()..]));
                let number = match marked {
                    Some(tail) => number::first(tail),
                    None => last_boxed(text).and_then(value).or_else(|| number::first(text)),
                };
                number.map(Answer::Number)
            }
            Task::Ecqa => {
                let text = marked.unwrap_or(text).trim();
                let label = text.parse().ok().filter(|digit| (1..=5).contains(digit));
                let same = |o: &&str| o.trim().to_lowercase() == text.to_lowercase();
                let spelled = || options.iter().position(same).map(|at| at as u8 + 1);
                label.or_else(spelled).or_else(|| option(text, options)).map(Answer::Option)
            }
        }
    }

    /// Whether a response gives the right answer. No response is a wrong one.
    pub fn check(&self, response: Option<&str>, gold: Answer, options: &[&str]) -> Verdict {
        match self.read(response.unwrap_or_default(), options) {
            Ok(answer) => {
                let correct = answer.agrees(gold);
                Verdict { extracted: Some(answer), correct, why: (!correct).then_some(Fault::Wrong) }
            }
            Err(fault) => Verdict { extracted: None, correct: false, why: Some(fault) },
        }
    }
}

/// What follows the last marker. Where it is nowhere as it is written, one counts that differs in upper and lower case,
/// in blanks, TeX's `\ ` included, and in Markdown's emphasis: `**FINAL ANSWER** :`.
pub fn after_marker<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    text.rfind(marker).map(|at| &text[at + marker.len()..]).or_else(|| after_marker_like(text, marker))
}

fn after_marker_like<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let wanted: Vec<char> = letters(marker).map(|(c, ..)| c).collect();
    let last = *wanted.last()?;
    let found: Vec<(char, usize, usize)> = letters(text).collect();
    let at = (wanted.len()..=found.len()).rev().find(|end| {
        let start = end - wanted.len();
        found[end - 1].0 == last
            && found[start..*end].iter().map(|(c, ..)| c).eq(&wanted)
            && !text[..found[start].1].ends_with(char::is_alphanumeric)
    })?;
    Some(&text[found[at - 1].2..])
}

/// The characters of a text in lower case, where they begin and end; without blanks and emphasis.
fn letters(text: &str) -> impl Iterator<Item = (char, usize, usize)> + '_ {
    let counts = |c: char| !c.is_whitespace() && !matches!(c, '*' | '_' | '`' | '\\' | '~');
    let lower = |(at, c): (usize, char)| c.to_lowercase().map(move |l| (l, at, at + c.len_utf8()));
    text.char_indices().filter(move |(_, c)| counts(*c)).flat_map(lower)
}

/// The first number of a text.
pub fn number(text: &str) -> Option<Answer> {
    number::first(text).map(Answer::Number)
}

/// Whether two answers are the same at two decimals.
fn same_number(a: f64, b: f64) -> bool {
    let cents = |v: f64| (v * 100.0).round();
    a == b || (cents(a).is_finite() && cents(a) == cents(b))
}

/// The option that a text names: the first digit from 1 to 5 that is no part of a longer number, otherwise the option
/// whose text stands there.
fn option(text: &str, options: &[&str]) -> Option<u8> {
    option_digit(text).or_else(|| {
        let text = text.to_lowercase();
        let lower: Vec<String> = options.iter().map(|o| o.trim().to_lowercase()).collect();
        let stands = |o: &str| !o.is_empty() && contains_words(&text, o);
        let found: Vec<usize> = (0..lower.len()).filter(|at| stands(&lower[*at])).collect();
        // `play` also stands where `play games` does.
        let longest = found.iter().copied().max_by_key(|at| lower[*at].len())?;
        let within = |at: &usize| *at == longest || contains_words(&lower[longest], &lower[*at]);
        (found.iter().all(within) && found.iter().filter(|at| lower[**at] == lower[longest]).count() == 1)
            .then_some(longest as u8 + 1)
    })
}

fn option_digit(text: &str) -> Option<u8> {
    let mut before = false;
    let mut digits = text.chars().map(|c| number::ascii_digit(c).unwrap_or(c)).peekable();
    while let Some(c) = digits.next() {
        let alone = !before && !digits.peek().is_some_and(char::is_ascii_digit);
        if alone && ('1'..='5').contains(&c) {
            return c.to_digit(10).map(|d| d as u8);
        }
        before = c.is_ascii_digit();
    }
    None
}

/// Whether a text holds the words, not as a part of longer ones.
fn contains_words(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + words.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// The number in the last box; where there is none, the last number of the text.
fn boxed(text: &str) -> Option<f64> {
    last_boxed(text).and_then(value).or_else(|| number::last(text))
}

/// The value of a box's content: of the whole expression, otherwise its first number.
fn value(content: &str) -> Option<f64> {
    number::whole(content).or_else(|| number::first(content))
}

/// The content of the last `\boxed{…}` or `\fbox{…}`, braces counted; of `\boxed 5` the word behind it.
fn last_boxed(text: &str) -> Option<&str> {
    let ends = ["\\boxed", "\\fbox"].map(|command| text.rfind(command).map(|at| at + command.len()));
    let rest = text[ends.into_iter().flatten().max()?..].trim_start();
    let Some(inner) = rest.strip_prefix('{') else {
        return rest.split(|c: char| c.is_whitespace() || c == '$').next();
    };
    let mut depth = 1;
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&inner[..at]);
        }
    }
    None
}

#[cfg(test)]
mod tests;
