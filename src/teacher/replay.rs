//! Recorded answers as a teacher.

use super::{Answer, Ask, Failure, Finish, Outcome, Posted, Teacher, Usage, hex};
use crate::exec::RunError;
use crate::ops::{Answers, RECORDED_KEY, Recording};
use crate::store::Journal;
use serde_json::Value;
use std::sync::Arc;

/// Rows whose answers are looked up at once: there is nothing to wait for.
const WINDOW: usize = 1024;

/// Gives the answers of a recording: the `n`th recorded answer to the `n`th sample.
pub struct ReplayTeacher {
    name: String,
    on: Vec<String>,
    answers: Answers,
}

impl ReplayTeacher {
    /// Reads a planned recording. `name` is the teacher's.
    pub fn open(name: &str, recording: &Recording) -> Result<Self, RunError> {
        Ok(Self { name: name.to_string(), on: recording.on(), answers: recording.answers()? })
    }

    fn look_up(&self, ask: &Ask) -> Outcome {
        let key = self.on.iter().map(|name| self.part(ask, name)).collect::<Result<Vec<_>, _>>()?;
        let recorded = self.answers.get(&key).map_or(&[][..], Vec::as_slice);
        match recorded.get(ask.sample as usize) {
            Some(text) => Ok(Answer {
                text: text.clone(),
                finish: Finish::Stop,
                model: self.name.clone(),
                usage: Usage::default(),
                cost: None,
            }),
            None => Err(self.absent(recorded.len(), ask.sample)),
        }
    }

    /// What one of the `on` columns must hold.
    fn part(&self, ask: &Ask, name: &str) -> Result<String, Failure> {
        if name == RECORDED_KEY && self.on.len() == 1 {
            return Ok(hex(&ask.key()));
        }
        let known = || ask.row.inputs.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        ask.row.inputs.get(name).cloned().ok_or_else(|| {
            Failure::new(
                "not-recorded",
                format!("answers are found by `{name}`, and the prompt is made of {}", known()),
            )
        })
    }

    fn absent(&self, recorded: usize, sample: u32) -> Failure {
        let on = self.on.join(", ");
        let message = match recorded {
            0 => format!("`{}` has no answer for the `{on}` of this row", self.name),
            n => {
                format!("`{}` has {n} answers for the `{on}` of this row, and sample {sample} was asked for", self.name)
            }
        };
        Failure::new("not-recorded", message)
    }
}

impl Teacher for ReplayTeacher {
    fn submit(&self, calls: Vec<Posted>, _: &Arc<Journal>) -> Result<(), RunError> {
        calls.into_iter().for_each(|Posted { ask, to }| to.answer(self.look_up(&ask)));
        Ok(())
    }

    fn window(&self) -> usize {
        WINDOW
    }

    fn scope(&self) -> Option<Value> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Replay, ReplayFrom};
    use crate::diag::{Diagnostics, SourceId, Span, Spanned};
    use crate::teacher::{Row, Settings};

    fn spanned<T>(value: T) -> Spanned<T> {
        Spanned::new(value, Span::new(SourceId(0), 0, 0))
    }

    /// A recording of these rows; the error is the first diagnostic.
    fn recording(rows: &str, on: &[&str], answer: &str) -> Result<Recording, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        std::fs::write(&path, rows).unwrap();
        let recording = Recording::new(&Replay {
            from: ReplayFrom::Path(spanned(path)),
            on: on.iter().map(|name| spanned(name.to_string())).collect(),
            id_prefix: None,
            answer: spanned(answer.to_string()),
        });
        let mut found = Diagnostics::new();
        let resolved = recording.resolve(None, true, &mut found);
        // The file must be there when it is read.
        std::mem::forget(folder);
        match resolved {
            Some(_) => Ok(recording),
            None => Err(found.iter().map(|d| format!("{}: {}", d.code, d.message)).collect()),
        }
    }

    fn ask(question: &str, sample: u32) -> Ask {
        let settings = Settings { max_tokens: 64, temperature: None, top_p: None, top_k: None, stop: Vec::new() };
        let inputs = [("id", "r1"), ("question", question)].map(|(k, v)| (k.to_string(), v.to_string()));
        Ask {
            messages: vec![("user".into(), question.into())],
            settings: Arc::new(settings),
            sample,
            seed: 7,
            row: Arc::new(Row { id: "r1".into(), inputs: inputs.into() }),
        }
    }

    #[test]
    fn answers_are_found_by_what_the_prompt_is_made_of() {
        let rows = "{\"question\": \"one?\", \"answer\": \"1\", \"by\": 4}\n{\"question\": \"two?\", \"answer\": \"2\"}\n\
                    {\"question\": \"one?\", \"answer\": \"uno\"}\n{\"question\": \"none?\", \"answer\": null}\n";
        let teacher = ReplayTeacher::open("gpt", &recording(rows, &["question"], "answer").unwrap()).unwrap();
        let text = |question: &str, sample| teacher.look_up(&ask(question, sample)).map(|a| a.text);
        assert_eq!(text("one?", 0).unwrap(), "1");
        assert_eq!(text("one?", 1).unwrap(), "uno");
        assert_eq!(text("two?", 0).unwrap(), "2");
        for absent in [text("two?", 1), text("none?", 0), text("three?", 0)] {
            assert_eq!(absent.unwrap_err().reason, "not-recorded");
        }
    }

    #[test]
    fn what_was_recorded_is_found_by_what_is_asked() {
        let known = ask("one?", 0);
        let hex = hex(&known.key());
        let rows = format!("{{\"key\": \"{hex}\", \"response\": \"1\"}}\n");
        let teacher = ReplayTeacher::open("gpt", &recording(&rows, &[], "response").unwrap()).unwrap();
        assert_eq!(teacher.look_up(&known).unwrap().text, "1");
        assert_eq!(teacher.look_up(&ask("one?", 1)).unwrap_err().reason, "not-recorded");
    }

    #[test]
    fn whole_numbers_are_the_same_however_they_are_written() {
        let rows = "{\"n\": 5.0, \"answer\": \"five\"}\n{\"n\": 2.5, \"answer\": \"half\"}\n";
        let teacher = ReplayTeacher::open("gpt", &recording(rows, &["n"], "answer").unwrap()).unwrap();
        // Prompts show a float that is whole without its fraction.
        let mut asked = ask("?", 0);
        asked.row = Arc::new(Row { id: "r1".into(), inputs: [("n".to_string(), "5".to_string())].into() });
        assert_eq!(teacher.look_up(&asked).unwrap().text, "five");
    }

    #[test]
    fn a_recording_must_have_its_columns() {
        let rows = "{\"question\": \"one?\", \"answer\": \"1\"}\n";
        let refused = recording(rows, &["qestion"], "answer").unwrap_err();
        assert!(refused.contains("column-missing") && refused.contains("qestion"), "{refused}");
        let refused = recording("{\"question\": \"one?\", \"answer\": 5}\n", &["question"], "answer").unwrap_err();
        assert!(refused.starts_with("column-type"), "{refused}");
    }

    #[test]
    fn a_damaged_recording_is_no_recording() {
        let rows = "{\"question\": \"one?\", \"answer\": \"1\"}\n{\"question\": \n";
        let error = ReplayTeacher::open("gpt", &recording(rows, &["question"], "answer").unwrap()).err().unwrap();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}
