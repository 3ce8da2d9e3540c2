//! What journals keep of calls, and files of recorded answers made of it.

use super::{Answer, Ask, Settings, hex};
use crate::exec::RunError;
use crate::plan::TeacherInfo;
use crate::store::{Store, write_atomically};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// An answer, and what it answers: enough to see later which call made a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    pub answer: Answer,
    /// The row that the call was first made for.
    pub row: String,
    pub messages: Vec<(String, String)>,
    pub settings: Settings,
    pub seed: u64,
    pub sample: u32,
}

impl Kept {
    pub fn new(ask: &Ask, answer: &Answer) -> Self {
        Self {
            answer: answer.clone(),
            row: ask.row.id.clone(),
            messages: ask.messages.clone(),
            settings: (*ask.settings).clone(),
            seed: ask.seed,
            sample: ask.sample,
        }
    }

    /// The value of a journal.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers have a JSON form")
    }

    /// `None` for what is no answer: teachers keep notes of their own beside them.
    pub fn decode(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// The scope of the journal that keeps the answers of a teacher with this digest.
pub fn scope(digest: &str) -> Value {
    json!({ "teacher": digest })
}

/// The digest of a local teacher, whose model has this one.
pub fn local_digest(model: &str) -> String {
    blake3::hash(format!("local teacher {model}").as_bytes()).to_hex().to_string()
}

/// Writes all answers of a teacher that the store has to a file of JSON lines, which a `replay` teacher reads. Gives
/// their number. Lines are in the order of their keys: the same answers make the same bytes.
pub fn record(store: &Store, teacher: &TeacherInfo, path: &Path) -> Result<usize, RunError> {
    let mut lines = Vec::new();
    if let Some(journal) = store.existing_journal(&scope(&teacher.digest))? {
        journal.for_each(|key, value| {
            if let Some(kept) = Kept::decode(&value) {
                lines.push((key, line(&key, &kept)));
            }
        });
    }
    lines.sort();
    let text: String = lines.iter().flat_map(|(_, line)| [line.as_str(), "\n"]).collect();
    write_atomically(path, text.as_bytes())?;
    Ok(lines.len())
}

fn line(key: &[u8; 16], kept: &Kept) -> String {
    let Kept { answer, row, messages, settings, seed, sample } = kept;
    let messages: Vec<Value> = messages.iter().map(|(role, text)| json!({ "role": role, "content": text })).collect();
    json!({
        "key": hex(key),
        "row": row,
        "messages": messages,
        "settings": settings,
        "seed": seed,
        "sample": sample,
        "response": answer.text,
        "finish": answer.finish,
        "model": answer.model,
        "usage": answer.usage,
        "cost": answer.cost,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TeacherDecl, TeacherSource};
    use crate::diag::{SourceId, Span, Spanned};
    use crate::plan::Fingerprint;
    use crate::store::JournalStore;
    use crate::teacher::{Finish, Row, Usage};
    use std::sync::Arc;

    fn ask(text: &str) -> Ask {
        let settings = Settings { max_tokens: 64, temperature: Some(0.7), top_p: None, top_k: None, stop: Vec::new() };
        let row = Row { id: format!("row of {text}"), ..Row::default() };
        let messages = vec![("user".to_string(), text.to_string())];
        Ask { messages, settings: Arc::new(settings), sample: 0, seed: 7, row: Arc::new(row) }
    }

    #[test]
    fn a_record_has_every_answer_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let place = Span::new(SourceId(0), 0, 0);
        let source = TeacherSource::Local { model: Spanned::new("student".into(), place) };
        let decl = TeacherDecl { name: "t".into(), source, record: None, span: place };
        let teacher = TeacherInfo { decl, digest: "d".into(), model: None, recording: None, to_fetch: None };
        let path = folder.path().join("answers.jsonl");
        assert_eq!(record(&store, &teacher, &path).unwrap(), 0);

        let answer = |text: &str| Answer {
            text: text.into(),
            finish: Finish::Stop,
            model: "m".into(),
            usage: Usage { input_tokens: 3, cached_tokens: 0, output_tokens: 5 },
            cost: Some(0.25),
        };
        let journal = store.journal(&scope("d"), &Fingerprint("f".repeat(64))).unwrap();
        let entry = |text: &str| (ask(text).key(), Kept::new(&ask(text), &answer(text)).encode());
        journal.put(&[entry("one"), entry("two"), ([7; 16], b"a note of the teacher".to_vec())]).unwrap();
        assert_eq!(record(&store, &teacher, &path).unwrap(), 2);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        let one = lines.iter().find(|l| l["response"] == "one").unwrap();
        assert_eq!((&one["key"], &one["row"]), (&json!(hex(&ask("one").key())), &json!("row of one")));
        assert_eq!((&one["messages"][0]["content"], &one["cost"]), (&json!("one"), &json!(0.25)));
        assert_eq!(record(&store, &teacher, &path).unwrap(), 2);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
