//! A row on its way from a prediction to a corrected text.

use super::leaks::leak;
use super::{GOLD, GROUNDTRUTH, MinChange, PREDICTION, Prompts};
use crate::eval::code::{read, text_of};
use crate::ops::writing::again::{again, billed};
use crate::ops::writing::judge::{Bench, Gold};
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
    /// The checker and what it holds answers against, where there is one.
    judged: Option<(&'a Bench<'a>, Gold)>,
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
    /// `bench`: where there are right answers.
    pub fn of(
        op: &'a MinChange,
        prompts: &'a Prompts<'a>,
        bench: Option<&'a Bench<'a>>,
        row: &InRow,
    ) -> Result<Self, Failure> {
        let text = row.text(op.column_of(PREDICTION).0).filter(|t| !t.trim().is_empty());
        let gold = match bench.map(|bench| bench.gold(row)) {
            Some(gold) if op.needs_gold() => Some(gold?),
            gold => gold.and_then(Result::ok),
        };
        Ok(Self {
            op,
            prompts,
            row: row.clone(),
            prediction: text.map(str::to_string),
            judged: bench.zip(gold),
            state: State::Start,
            bill: None,
        })
    }

    fn start(&mut self) -> Result<Step, Failure> {
        if let Some(prediction) = &self.prediction
            && self.op.keep_correct
            && self.is_right(prediction)?
        {
            return self.row(self.kept(prediction), true);
        }
        match (&self.prompts.extract, &self.prediction) {
            (Some(extract), Some(prediction)) => {
                self.state = State::Extracting;
                Ok(Step::ask(extract.ask(&self.row, 0, &[("response", prediction.as_str().into())])?))
            }
            _ => self.correct(None),
        }
    }

    fn is_right(&self, prediction: &str) -> Result<bool, Failure> {
        match &self.op.correct {
            Some(column) => Ok(self.row.value(&column.value) == Value::Bool(true)),
            None => Ok(self.passes(prediction)? == Some(true)),
        }
    }

    /// Whether a text's answer passes the checker, if there is one.
    fn passes(&self, text: &str) -> Result<Option<bool>, Failure> {
        let judged = self.judged.as_ref();
        judged.map(|(bench, gold)| Ok(bench.fault(text, gold, &self.row)?.is_none())).transpose()
    }

    /// A prediction as a response: as it stands; of code that was read the marker and the code.
    fn kept(&self, prediction: &str) -> String {
        let marker = &self.op.writing.marker;
        match self.prompts.extract.as_ref().and_then(|_| read(prediction, marker).ok()) {
            Some(code) => format!("{marker}\n{code}"),
            None => prediction.trim().to_string(),
        }
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
            let found = text_of(&answer.text);
            return self.correct((!found.trim().is_empty()).then_some(found));
        }
        self.op.writing.check(&answer)?;
        match self.leak(&text) {
            Some(words) => self.ask_again(&text, words),
            None if self.prompts.extract.is_some() => self.row(self.marked(&answer.text)?, false),
            None => self.row(text, false),
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
        let code = text_of(text);
        match code.trim().is_empty() {
            true => Err(Failure::new("empty-answer", "the answer has no code")),
            false => Ok(format!("{}\n{code}", self.op.writing.marker)),
        }
    }

    fn row(&self, text: String, kept: bool) -> Result<Step, Failure> {
        let correct = match kept {
            true => Some(true),
            false => self.passes(&text)?,
        };
        let mut cells = self.op.writing.cells(text, self.bill.as_ref(), 0);
        cells.extend([Cell::Bool(kept), correct.map_or(Cell::Null, Cell::Bool)]);
        Ok(Step::row(cells))
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
