//! Questions that the model was trained on: a test with them says how well it remembers.

use super::choices::first_choice;
use crate::diag::{Diagnostic, Diagnostics};
use crate::eval::task::{Kind, Task};
use crate::exec::{NodeCx, RunError};
use crate::ops::rows::batches;
use crate::ops::trained_on::TrainedOn;
use crate::ops::writing::{Bound, InRow, Writing};
use crate::ops::{Default, FieldKind, FieldSpec, Fields, adapters};
use crate::teacher::Failure;
use std::sync::Arc;

/// Questions that a message names.
const NAMED: usize = 5;

pub const ON_OVERLAP: FieldSpec = FieldSpec::new(
    "on-overlap",
    FieldKind::Choice(&["fail", "quarantine", "keep"]),
    "what becomes of questions that the adapter was trained on: the node fails before it asks anything, they are set aside, \
     or they are asked all the same",
)
.default(Default::Str("fail"));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOverlap {
    Fail,
    Quarantine,
    Keep,
}

impl OnOverlap {
    /// `None` after an error.
    pub fn read(fields: &Fields, writing: &Writing, diagnostics: &mut Diagnostics) -> Option<Self> {
        let field = fields.str(ON_OVERLAP.name);
        if field.span != fields.span && writing.own_model().is_none() {
            let error = Diagnostic::error("meaningless-field", "what a teacher was trained on is not known");
            diagnostics.push(error.at(field.span, "of no effect").help("leave it out, or name a model with `model=`"));
            return None;
        }
        Some(match field.value.as_str() {
            "quarantine" => Self::Quarantine,
            "keep" => Self::Keep,
            _ => Self::Fail,
        })
    }

    /// For the fingerprint: `None` where nothing but new questions is asked, as ever.
    pub fn canonical(self) -> Option<&'static str> {
        match self {
            Self::Fail => None,
            Self::Quarantine => Some("quarantine"),
            Self::Keep => Some("keep"),
        }
    }
}

/// What the model of a node was trained on; `None` where it has neither an adapter nor one that was merged into it.
fn known(cx: &NodeCx, writing: &Writing) -> Result<Option<TrainedOn>, RunError> {
    let Some(model) = writing.own_model() else { return Ok(None) };
    let merged = adapters::merged_into(&*cx.model(&model.value)?)?;
    let Some(at) = adapters::port(cx) else { return Ok(merged) };
    let mut known = TrainedOn::default();
    known.went_on_from(TrainedOn::of_weights(&adapters::read(cx, at)?.weights));
    if let Some(merged) = merged {
        known.went_on_from(Some(merged));
    }
    Ok(Some(known))
}

/// Tells questions that were trained on from others.
pub struct Seen<'a> {
    known: TrainedOn,
    task: &'a Task,
    prompt: &'a Bound<'a>,
    on_overlap: OnOverlap,
}

impl<'a> Seen<'a> {
    /// Compares all questions before any is asked: fails if that is what is to happen, otherwise says what was found.
    pub fn look(
        cx: &NodeCx,
        task: &'a Task,
        writing: &Writing,
        prompt: &'a Bound<'a>,
        on_overlap: OnOverlap,
    ) -> Result<Option<Self>, RunError> {
        let Some(known) = known(cx, writing)? else { return Ok(None) };
        let seen = Self { known, task, prompt, on_overlap };
        if !seen.known.whole {
            let text = "not all that the model was trained on is known: questions of it may be among these";
            cx.present(&format!("{}: {text}\n", cx.node()))?;
        }
        let (mut rows, mut found, mut named) = (0, 0, Vec::new());
        for batch in batches(cx, 0)? {
            let batch = Arc::new(batch?);
            for row in 0..batch.num_rows() {
                let row = InRow::of(&batch, row, rows);
                rows += 1;
                if seen.has(&row) {
                    found += 1;
                    named.extend((named.len() < NAMED).then(|| row.id().to_string()));
                }
            }
        }
        if found > 0 {
            let named: Vec<&str> = named.iter().map(String::as_str).collect();
            let named = crate::ops::list(&named);
            let what =
                format!("{found} of {rows} questions are among those that the model was trained on, such as {named}");
            match on_overlap {
                OnOverlap::Fail => {
                    return Err(RunError::failed("training-overlap", what).help(
                        "test on other rows, or train on others: `on-overlap=\"quarantine\"` sets these questions aside, and \
                         `on-overlap=\"keep\"` asks them all the same",
                    ));
                }
                OnOverlap::Quarantine => cx.present(&format!("{}: {what}; they are set aside\n", cx.node()))?,
                OnOverlap::Keep => cx.present(&format!("{}: {what}; they are asked all the same\n", cx.node()))?,
            }
        }
        Ok(Some(seen))
    }

    /// Sets a question aside if it was trained on and is not to be asked.
    pub fn check(&self, row: &InRow) -> Result<(), Failure> {
        match self.on_overlap != OnOverlap::Keep && self.has(row) {
            true => Err(Failure::new("trained-on", "the model was trained on this question")),
            false => Ok(()),
        }
    }

    /// A row that cannot be asked is none that was trained on: what is wrong with it is said when it is asked.
    fn has(&self, row: &InRow) -> bool {
        let own = match &self.task.kind {
            Kind::Generate(_) => Vec::new(),
            Kind::Choice(choices) => first_choice(choices, row),
        };
        let questions = self.prompt.questions(row, &own).unwrap_or_default();
        questions.iter().any(|question| self.known.has(question, &self.task.asked.marker))
    }
}
