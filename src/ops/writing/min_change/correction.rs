//! A row on its way from a prediction to a corrected text.

use super::leaks::leak;
use super::{GOLD, GROUNDTRUTH, MinChange, PREDICTION, Prompts};
use crate::eval::answer::Answer as Gold;
use crate::ops::writing::again::{again, billed};
use crate::ops::writing::extract_code::code;
use crate::ops::writing::prompt::cell;
use crate::ops::writing::{Cell, InRow, RowTask, Step, one};
use crate::teacher::{Answer, Ask, Failure, Outcome};
use serde_json::Value;

pub struct Correction<'a> {
    op: &'a MinChange,
    prompts: &'a Prompts<'a>,
    row: InRow,
    /// `None` where it is blank.
    prediction: Option<String>,
    /// The right answer, where there is a checker for it.
    gold: Option<Gold>,
    state: State,
    /// The last answer, with the tokens of all calls.
    bill: Option<Answer>,
}

enum State {
    Start,
    /// The code of the prediction is being copied out.
    Extracting,
    Correcting {
        /// The last call.
        ask: Ask,
        /// How often it was asked for again.
        again: usize,
    },
}

impl<'a> Correction<'a> {
    /// `judged`: there are right answers.
    pub fn of(op: &'a MinChange, prompts: &'a Prompts<'a>, row: &InRow, judged: bool) -> Result<Self, Failure> {
        let text = row.text(op.column_of(PREDICTION).0).filter(|t| !t.trim().is_empty());
        let gold = match &op.judge {
            Some(judge) if op.needs_gold() => Some(judge.gold(row)?),
            Some(judge) if judged => judge.gold(row).ok(),
            _ => None,
        };
        Ok(Self {
            op,
            prompts,
            row: row.clone(),
            prediction: text.map(str::to_string),
            gold,
            state: State::Start,
            bill: None,
        })
    }

    fn start(&mut self) -> Result<Step, Failure> {
        if let Some(prediction) = self.prediction.as_ref().filter(|p| self.op.keep_correct && self.is_right(p)) {
            let text = prediction.trim().to_string();
            return Ok(self.row(text, true));
        }
        match (&self.prompts.extract, &self.prediction) {
            (Some(extract), Some(prediction)) => {
                self.state = State::Extracting;
                Ok(Step::ask(extract.ask(&self.row, 0, &[("response", prediction.as_str().into())])?))
            }
            _ => self.correct(None),
        }
    }

    fn is_right(&self, prediction: &str) -> bool {
        match &self.op.correct {
            Some(column) => self.row.value(&column.value) == Value::Bool(true),
            None => self.passes(prediction) == Some(true),
        }
    }

    /// Whether a text's answer passes the checker, if there is one.
    fn passes(&self, text: &str) -> Option<bool> {
        Some(self.op.judge.as_ref()?.check(text, self.gold?, &self.row).correct)
    }

    /// Asks for the correction; of `code` where that was copied out.
    fn correct(&mut self, code: Option<String>) -> Result<Step, Failure> {
        let seen = |input: &'static str| match self.op.sees.value == input {
            true => (input, self.shown(input)),
            false => (input, Value::Null),
        };
        let values = match self.prompts.extract {
            Some(_) => vec![("code", code.map_or(Value::Null, Value::from)), seen(GROUNDTRUTH)],
            None => {
                let prediction = self.prediction.as_deref().map_or(Value::Null, Value::from);
                vec![(PREDICTION, prediction), seen(GOLD), seen(GROUNDTRUTH)]
            }
        };
        if let Some((input, _)) = values.iter().find(|(input, v)| *input == self.op.sees.value && v.is_null()) {
            return Err(Failure::new("null-value", format!("`{}` is null", self.op.column_of(input).0)));
        }
        let ask = self.prompts.correct.ask(&self.row, 0, &values)?;
        self.state = State::Correcting { ask: ask.clone(), again: 0 };
        Ok(Step::ask(ask))
    }

    /// What the teacher is shown of a column.
    fn shown(&self, input: &str) -> Value {
        cell(&self.row.batch, self.row.row, self.op.column_of(input).0)
    }

    fn answered(&mut self, answer: Answer) -> Result<Step, Failure> {
        let text = answer.text.trim().to_string();
        let bill = billed(self.bill.take(), answer.clone());
        self.bill = Some(bill);
        if let State::Extracting = self.state {
            // A prediction may hold no code at all.
            let found = code(&answer.text);
            return self.correct((!found.trim().is_empty()).then_some(found));
        }
        self.op.writing.check(&answer)?;
        match self.leak(&text) {
            Some(words) => self.ask_again(&text, words),
            None if self.prompts.extract.is_some() => Ok(self.row(self.marked(&answer.text)?, false)),
            None => Ok(self.row(text, false)),
        }
    }

    /// Words that give the text away, and do not stand in what it is about.
    fn leak<'t>(&self, text: &'t str) -> Option<&'t str> {
        let question = self.row.text(self.op.writing.column_of("question").0).unwrap_or_default();
        leak(text, &[question, self.prediction.as_deref().unwrap_or_default()])
    }

    fn ask_again(&mut self, text: &str, words: &str) -> Result<Step, Failure> {
        let State::Correcting { ask, again: times } = &mut self.state else {
            unreachable!("only corrections are looked through");
        };
        if *times == self.op.attempts {
            let message = format!("the text says \"{words}\" (asked {} times)", *times + 1);
            return Err(Failure::new("leak", message));
        }
        *times += 1;
        let values = [("leak", words), ("task", self.op.writing.task.as_str())];
        *ask = again(ask, text, self.op.again, &values)?;
        Ok(Step::ask(ask.clone()))
    }

    /// Code as a response.
    fn marked(&self, text: &str) -> Result<String, Failure> {
        let code = code(text);
        match code.trim().is_empty() {
            true => Err(Failure::new("empty-answer", "the answer has no code")),
            false => Ok(format!("{}\n{code}", self.op.writing.marker)),
        }
    }

    fn row(&self, text: String, kept: bool) -> Step {
        let correct = match kept {
            true => Some(true),
            false => self.passes(&text),
        };
        let mut cells = self.op.writing.cells(text, self.bill.as_ref(), 0);
        cells.extend([Cell::Bool(kept), correct.map_or(Cell::Null, Cell::Bool)]);
        Step::row(cells)
    }
}

impl RowTask for Correction<'_> {
    fn next(&mut self, last: Vec<Outcome>) -> Step {
        let step = match one(last) {
            None => self.start(),
            Some(outcome) => outcome.and_then(|answer| self.answered(answer)),
        };
        step.unwrap_or_else(Step::Reject)
    }
}
