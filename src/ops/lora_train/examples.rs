//! Rows as examples: text into the chat template, lengths, and why a row is left out.

use super::settings::{Settings, Text};
use crate::exec::{NodeCx, RunError};
use crate::model::train::{Example, Fitted, Lengths, TooLong};
use crate::model::{ScoreFailure, ScoreRequest, TextModel};
use crate::ops::rows::{Held, batches, reject_row, row_id, text_column};
use crate::ops::trained_on::TrainedOn;
use arrow::array::{Array, RecordBatch, StringArray};
use serde::Deserialize;
use std::collections::HashSet;

/// The rows of a port that can be trained on.
#[derive(Debug, Default)]
pub struct Examples {
    pub rows: Vec<Example>,
    /// Ids of all rows that were read.
    pub ids: HashSet<String>,
    /// What the rows ask.
    pub questions: TrainedOn,
    /// Rows that were cut to their limits, and the tokens that they lost.
    pub cut: Cut,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub rows: usize,
    pub tokens: usize,
}

/// A turn of a conversation as a row has it.
#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

/// Why a row is left out: reason and message.
type Failure = (&'static str, String);

/// Reads the rows of input `index`.
pub fn read(
    settings: &Settings,
    cx: &NodeCx,
    index: usize,
    model: &TextModel,
    held: &mut Held,
) -> Result<Examples, RunError> {
    let lengths = settings.lengths(model.context as usize);
    let mut examples = Examples::default();
    for batch in batches(cx, index)? {
        let batch = batch?;
        let cells = Cells::of(settings, &batch)?;
        for row in 0..batch.num_rows() {
            examples.ids.insert(row_id(&batch, row));
            match cells.fitted(settings, &lengths, model, row)? {
                Ok(Fitted { example, cut }) => {
                    held.add(example.tokens.len() * size_of::<u32>() + size_of::<Example>())?;
                    examples.cut.rows += usize::from(cut > 0);
                    examples.cut.tokens += cut;
                    examples.rows.push(example);
                    cells.questions(row).iter().for_each(|question| examples.questions.learn(question));
                }
                Err((reason, message)) => reject_row(cx, &batch, row, reason, message)?,
            }
        }
    }
    Ok(examples)
}

/// The columns of a batch that hold text.
enum Cells<'a> {
    Pair { question: (&'a str, StringArray), response: (&'a str, StringArray) },
    Messages(&'a str, StringArray),
}

impl<'a> Cells<'a> {
    fn of(settings: &'a Settings, batch: &RecordBatch) -> Result<Self, RunError> {
        let column = |name: &'a str| Ok::<_, RunError>((name, text_column(batch, name)?));
        Ok(match &settings.text {
            Text::Pair { question, response } => {
                Self::Pair { question: column(&question.value)?, response: column(&response.value)? }
            }
            Text::Messages(name) => Self::Messages(&name.value, text_column(batch, &name.value)?),
        })
    }

    /// What a row that can be trained on asks: its question, or the user's turns.
    fn questions(&self, row: usize) -> Vec<String> {
        match self {
            Self::Pair { question: (_, questions), .. } => vec![questions.value(row).to_string()],
            Self::Messages(name, cells) => {
                let turns = turns(name, cells.value(row)).unwrap_or_default();
                turns.into_iter().filter(|(role, _)| role == "user").map(|(_, text)| text).collect()
            }
        }
    }

    /// `Err` outside is a failure of the model, inside one of the row.
    fn fitted(
        &self,
        settings: &Settings,
        lengths: &Lengths,
        model: &TextModel,
        row: usize,
    ) -> Result<Result<Fitted, Failure>, RunError> {
        let whole = !settings.mask_prompt;
        let fitted = match self {
            Self::Pair { question: (name, questions), response: (other, responses) } => {
                let texts = (cell(name, questions, row), cell(other, responses, row));
                let (question, response) = match texts {
                    (Ok(question), Ok(response)) => (question, response),
                    (Err(null), _) | (_, Err(null)) => return Ok(Err(null)),
                };
                // The request of `score-ppl`.
                let request = ScoreRequest::new(settings.system.as_deref(), question, response);
                match model.encode(&request, u32::MAX)? {
                    Ok(encoded) => lengths.fit(&encoded, whole),
                    Err(failure) => return Ok(Err(of_text(failure))),
                }
            }
            Self::Messages(name, cells) => {
                let messages = match cell(name, cells, row).and_then(|text| turns(name, text)) {
                    Ok(messages) => messages,
                    Err(failure) => return Ok(Err(failure)),
                };
                match model.conversation(&messages)? {
                    Ok(conversation) => lengths.fit_conversation(&conversation, whole),
                    Err(failure) => return Ok(Err(of_text(failure))),
                }
            }
        };
        Ok(fitted.map_err(of_length).and_then(|fitted| match fitted.example.label_tokens() {
            0 => Err(("no-labels", "the row has no token to learn: no response, or none within the limits".into())),
            _ => Ok(fitted),
        }))
    }
}

fn cell<'a>(name: &str, column: &'a StringArray, row: usize) -> Result<&'a str, Failure> {
    match column.is_valid(row) {
        true => Ok(column.value(row)),
        false => Err(("null-value", format!("`{name}` is null"))),
    }
}

fn turns(name: &str, text: &str) -> Result<Vec<(String, String)>, Failure> {
    match serde_json::from_str::<Vec<Turn>>(text) {
        Ok(turns) => Ok(turns.into_iter().map(|turn| (turn.role, turn.content)).collect()),
        Err(why) => {
            Err(("messages", format!("`{name}` is no JSON list of turns with `role` and `content`, both texts: {why}")))
        }
    }
}

fn of_text(failure: ScoreFailure) -> Failure {
    match failure {
        ScoreFailure::Empty => ("empty-response", "a response has no tokens".into()),
        ScoreFailure::Template(why) => ("template", format!("the chat template cannot take this row: {why}")),
        ScoreFailure::TooLong { tokens, limit } => of_length(TooLong { part: "the row", tokens, limit }),
        ScoreFailure::NotFinite => ("not-finite", "the model gave a likelihood that is no number".into()),
    }
}

fn of_length(TooLong { part, tokens, limit }: TooLong) -> Failure {
    ("too-long", format!("{part} has {tokens} tokens, and {limit} is the most"))
}
