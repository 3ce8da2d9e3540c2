//! What a model was trained on: hashes of its questions, kept in the file of its weights, so that a test can tell a question
//! that was learned from one that is new.
//!
//! A safetensors file has room for texts by name; peft and transformers read past those that they do not know. So what is
//! known goes wherever the weights go: into a folder, another pipeline, a merged model.

use crate::exec::RunError;
use crate::store::io_error;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The name of the text in a safetensors file.
const NAME: &str = "idiolect_trained_on";
/// How hashes are made; a text of another version says nothing.
const VERSION: &str = "1";
/// Hexadecimal digits of a hash.
const DIGITS: usize = 16;
/// The most hashes that are kept: a safetensors file may have 100 MB of texts.
const MOST: usize = 2_000_000;
/// The most bytes of a header, as in the safetensors library.
const MOST_HEADER: u64 = 100_000_000;

/// Questions, as hashes: the first eight bytes of BLAKE3 of the text with single blanks for white space. A question counts
/// with and without its last paragraph, where it has several: that is where the request for the answer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedOn {
    hashes: BTreeSet<u64>,
    /// Whether all of its training is known.
    pub whole: bool,
}

impl Default for TrainedOn {
    /// Nothing was trained on.
    fn default() -> Self {
        Self { hashes: BTreeSet::new(), whole: true }
    }
}

impl TrainedOn {
    /// Takes in a question that is trained on.
    pub fn learn(&mut self, question: &str) {
        self.hashes.extend(hash(question));
        self.hashes.extend(without_last_paragraph(question).and_then(hash));
        self.bound();
    }

    /// Takes in what was trained on before; `None` where that is not known.
    pub fn went_on_from(&mut self, earlier: Option<Self>) {
        self.whole &= earlier.as_ref().is_some_and(|earlier| earlier.whole);
        self.hashes.extend(earlier.map(|earlier| earlier.hashes).unwrap_or_default());
        self.bound();
    }

    /// Of too many, the same ones are kept in whatever order they came.
    fn bound(&mut self) {
        while self.hashes.len() > MOST {
            self.hashes.pop_last();
            self.whole = false;
        }
    }

    /// Whether a test question is one of these: as it is, or without a last paragraph that asks for `marker`.
    pub fn has(&self, question: &str, marker: &str) -> bool {
        let asks = |part: &&str| question[part.len()..].contains(marker);
        let bare = without_last_paragraph(question).filter(asks);
        [Some(question), bare].into_iter().flatten().filter_map(hash).any(|hash| self.hashes.contains(&hash))
    }

    /// The name and the text that a file of weights keeps.
    pub fn entry(&self) -> (&'static str, String) {
        let mut text = format!("{VERSION} {} ", if self.whole { "whole" } else { "part" });
        for hash in &self.hashes {
            write!(text, "{hash:016x}").expect("a String takes all");
        }
        (NAME, text)
    }

    fn parse(text: &str) -> Option<Self> {
        let [version, whole, hashes] = text.splitn(3, ' ').collect::<Vec<_>>().try_into().ok()?;
        let hex = |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let (hashes, rest) = hashes.as_bytes().as_chunks::<DIGITS>();
        let known = version == VERSION && rest.is_empty();
        let whole = Some(whole).filter(|w| known && ["whole", "part"].contains(w))? == "whole";
        Some(Self { hashes: hashes.iter().map(|digits| hex(digits)).collect::<Option<_>>()?, whole })
    }

    /// What a file of weights says; `None` where it says nothing.
    pub fn of_weights(weights: &[u8]) -> Option<Self> {
        Self::of_texts(&header(weights)?)
    }

    /// The same of a file on disk, of which only the header is read.
    pub fn of_file(path: &Path) -> Result<Option<Self>, RunError> {
        let failed = |e: std::io::Error| io_error("read", path, &e);
        Ok(header(File::open(path).map_err(failed)?).and_then(|header| Self::of_texts(&header)))
    }

    fn of_texts(header: &Map<String, Value>) -> Option<Self> {
        Self::parse(header.get(TEXTS)?.get(NAME)?.as_str()?)
    }

    /// Puts it into a file of weights, in place of what that says.
    pub fn put_into(&self, weights: &[u8]) -> Result<Vec<u8>, RunError> {
        let damaged = || RunError::failed("adapter-file", "the adapter's weights are no safetensors file");
        let mut changed = header(weights).ok_or_else(damaged)?;
        let values = weights.get(8 + header_length(weights).ok_or_else(damaged)? as usize..).ok_or_else(damaged)?;
        let (name, text) = self.entry();
        let texts = changed.entry(TEXTS).or_insert_with(|| Value::Object(Map::new()));
        texts.as_object_mut().ok_or_else(damaged)?.insert(name.into(), text.into());
        let mut json = Value::Object(changed).to_string().into_bytes();
        // Values begin at a multiple of eight bytes.
        json.resize(json.len().next_multiple_of(8), b' ');
        Ok([&(json.len() as u64).to_le_bytes(), json.as_slice(), values].concat())
    }
}

/// Where a header has its texts by name.
const TEXTS: &str = "__metadata__";

fn header_length(mut file: impl Read) -> Option<u64> {
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    Some(u64::from_le_bytes(length)).filter(|length| *length <= MOST_HEADER)
}

/// The header of a safetensors file.
fn header(mut file: impl Read) -> Option<Map<String, Value>> {
    let length = header_length(&mut file)?;
    let mut json = Vec::new();
    file.take(length).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

/// `None` of an empty text: it is no question.
fn hash(text: &str) -> Option<u64> {
    let mut hasher = blake3::Hasher::new();
    let mut words = text.split_whitespace();
    hasher.update(words.next()?.as_bytes());
    words.for_each(|word| {
        hasher.update(b" ").update(word.as_bytes());
    });
    hasher.finalize().as_bytes().first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// What stands before the last empty line.
fn without_last_paragraph(text: &str) -> Option<&str> {
    let text = text.trim_end();
    let mut end = text.len();
    for line in text.rsplit('\n') {
        if line.trim().is_empty() {
            return Some(text[..end].trim_end()).filter(|before| !before.is_empty());
        }
        end = end.saturating_sub(line.len() + 1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn knows(questions: &[&str]) -> TrainedOn {
        let mut known = TrainedOn::default();
        questions.iter().for_each(|question| known.learn(question));
        known
    }

    #[test]
    fn a_question_is_known_with_and_without_its_request() {
        const REQUEST: &str = "Give the number after 'Answer:'";
        let asked = |question: &str| format!("{question}\n\n{REQUEST}");
        for learned in ["What is 2 + 2?".to_string(), asked("What is 2 + 2?"), " What is\n2 +  2?\n".to_string()] {
            let known = knows(&[&learned]);
            for test in ["What is 2 + 2?".to_string(), asked("What is 2 + 2?"), asked("What  is 2\n+ 2? ")] {
                assert!(known.has(&test, "Answer:"), "{learned:?} {test:?}");
            }
            for test in ["What is 2 + 3?", &asked("What is 2 + 3?"), "what is 2 + 2?", "", REQUEST] {
                assert!(!known.has(test, "Answer:"), "{learned:?} {test:?}");
            }
        }
        // Another request is another paragraph.
        assert!(knows(&["2 + 2?\n \nSay it."]).has(&asked("2 + 2?"), "Answer:"));
    }

    /// Questions about one text, or behind one instruction, are different ones.
    #[test]
    fn what_questions_share_makes_them_not_the_same() {
        let known = knows(&["A text.\n\nWho is it about?", "Add.\n\n2 + 2?\n\nAfter 'Answer:'"]);
        for test in ["A text.\n\nWhen was it?", "Add.\n\n3 + 3?\n\nAfter 'Answer:'", "Add.\n\n3 + 3?"] {
            assert!(!known.has(test, "Answer:"), "{test:?}");
        }
        assert!(!knows(&["", " \n"]).has("", "Answer:"), "no question is not the same as no question");
    }

    fn weights() -> Vec<u8> {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[1, 2, 3, 4]).unwrap();
        let texts = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize([("a", view)], Some(texts)).unwrap()
    }

    #[test]
    fn it_goes_where_the_weights_go() {
        let plain = weights();
        assert_eq!(TrainedOn::of_weights(&plain), None);
        let known = knows(&["a?", "b?\n\nc"]);
        let kept = known.put_into(&plain).unwrap();
        assert_eq!(
            kept,
            knows(&["b?\n\nc", "a?", "a?"]).put_into(&plain).unwrap(),
            "the order of rows does not matter"
        );
        assert_eq!(TrainedOn::of_weights(&kept), Some(known.clone()));
        let file = safetensors::SafeTensors::deserialize(&kept).unwrap();
        assert_eq!(file.tensor("a").unwrap().data(), [1, 2, 3, 4]);
        let (_, header) = safetensors::SafeTensors::read_metadata(&kept).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, &kept).unwrap();
        assert_eq!(TrainedOn::of_file(&path).unwrap(), Some(known.clone()));
        // Another training goes on from it.
        let mut more = knows(&["d?"]);
        more.went_on_from(Some(known));
        assert_eq!(more, knows(&["a?", "b?\n\nc", "d?"]));
        assert_eq!(TrainedOn::of_weights(&more.put_into(&kept).unwrap()), Some(more.clone()));
        more.went_on_from(None);
        assert!(!more.whole && more.has("d?", "x"));
        assert_eq!(TrainedOn::of_weights(&more.put_into(&kept).unwrap()), Some(more));
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        for text in ["", "1", "1 whole", "2 whole ", "1 all ", "1 whole 123", "1 whole 000000000000000x"] {
            assert_eq!(TrainedOn::parse(text), None, "{text:?}");
        }
        let empty = TrainedOn::default();
        assert_eq!(TrainedOn::parse(&empty.entry().1), Some(empty));
        for damaged in [&[][..], &[255; 8], &[9, 0, 0, 0, 0, 0, 0, 0, b'{']] {
            assert_eq!(TrainedOn::of_weights(damaged), None);
            assert!(TrainedOn::default().put_into(damaged).is_err());
        }
        assert_eq!(TrainedOn::of_weights(&weights()[..20]), None);
    }
}
