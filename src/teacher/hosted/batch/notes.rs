//! What is noted of batches beside the answers, so that another process finds the calls that this one has sent.
//!
//! ```text
//! call, generation -> nonce         before the batch is made
//! nonce            -> when, calls   before the batch is made
//! nonce            -> batch         when the provider has told its name
//! call, generation -> closed        nothing will come of this generation
//! nonce            -> closed        it was never made
//! ```
//!
//! A journal keeps what was first written under a key, so a call that is sent again gets another generation.

use crate::exec::RunError;
use crate::store::Journal;
use serde_json::{Value, json};

type Key = [u8; 16];

/// A call that is on its way in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub nonce: String,
    pub generation: u32,
}

/// What is known of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// When it was about to be made, in seconds since 1970.
    pub at: u64,
    pub calls: u64,
    /// The provider's name; `None` if it was not heard of any more.
    pub id: Option<String>,
}

fn call_key(call: &Key, generation: u32, what: &str) -> Key {
    Journal::key(&[b"batch call", call, &generation.to_le_bytes(), what.as_bytes()])
}

fn batch_key(nonce: &str, what: &str) -> Key {
    Journal::key(&[b"batch", nonce.as_bytes(), what.as_bytes()])
}

fn read(journal: &Journal, key: &Key) -> Option<Value> {
    serde_json::from_slice(&journal.noted(key)?).ok()
}

fn entry(key: Key, value: &Value) -> (Key, Vec<u8>) {
    (key, value.to_string().into_bytes())
}

/// Where a call is, or the generation that it has when it is sent next.
pub fn find(journal: &Journal, call: &Key) -> Result<Sent, u32> {
    let mut generation = 0;
    let mut last = None;
    while let Some(note) = read(journal, &call_key(call, generation, "sent")) {
        last = note["nonce"].as_str().map(|nonce| Sent { nonce: nonce.to_string(), generation });
        generation += 1;
    }
    let open = |sent: &Sent| {
        let closed = |key| journal.noted(&key).is_some();
        !closed(call_key(call, sent.generation, "closed"))
            && !closed(batch_key(&sent.nonce, "closed"))
            && batch(journal, &sent.nonce).is_some()
    };
    last.filter(open).ok_or(generation)
}

pub fn batch(journal: &Journal, nonce: &str) -> Option<Batch> {
    let intent = read(journal, &batch_key(nonce, "intent"))?;
    let made = read(journal, &batch_key(nonce, "made"));
    Some(Batch {
        at: intent["at"].as_u64()?,
        calls: intent["calls"].as_u64()?,
        id: made.and_then(|m| m["batch"].as_str().map(str::to_string)),
    })
}

/// A batch of these calls (with their generations) is about to be made.
pub fn intend(journal: &Journal, nonce: &str, at: u64, calls: &[(Key, u32)]) -> Result<(), RunError> {
    let intent = entry(batch_key(nonce, "intent"), &json!({ "at": at, "calls": calls.len() }));
    let sent = json!({ "nonce": nonce });
    let sent = calls.iter().map(|(call, generation)| entry(call_key(call, *generation, "sent"), &sent));
    journal.note(&std::iter::once(intent).chain(sent).collect::<Vec<_>>())
}

pub fn made(journal: &Journal, nonce: &str, id: &str) -> Result<(), RunError> {
    journal.note(&[entry(batch_key(nonce, "made"), &json!({ "batch": id }))])
}

pub fn never_made(journal: &Journal, nonce: &str) -> Result<(), RunError> {
    journal.note(&[entry(batch_key(nonce, "closed"), &json!({ "closed": "never made" }))])
}

/// Nothing will come of these calls.
pub fn close(journal: &Journal, calls: &[(Key, u32)]) -> Result<(), RunError> {
    let closed = json!({ "closed": true });
    let notes: Vec<_> = calls.iter().map(|(call, g)| entry(call_key(call, *g, "closed"), &closed)).collect();
    journal.note(&notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::Kept;
    use crate::teacher::hosted::tests::Memory;

    #[test]
    fn a_call_is_found_in_its_last_generation_unless_that_is_closed() {
        let journal = Journal::new(Box::new(Memory::default()));
        let (a, b) = ([1; 16], [2; 16]);
        assert_eq!(find(&journal, &a), Err(0));
        intend(&journal, "n0", 5, &[(a, 0), (b, 0)]).unwrap();
        let sent = |nonce: &str, generation| Ok(Sent { nonce: nonce.into(), generation });
        assert_eq!((find(&journal, &a), find(&journal, &b)), (sent("n0", 0), sent("n0", 0)));
        assert_eq!(batch(&journal, "n0"), Some(Batch { at: 5, calls: 2, id: None }));
        made(&journal, "n0", "batch_7").unwrap();
        assert_eq!(batch(&journal, "n0").unwrap().id.as_deref(), Some("batch_7"));
        intend(&journal, "n1", 6, &[(a, 1)]).unwrap();
        assert_eq!((find(&journal, &a), find(&journal, &b)), (sent("n1", 1), sent("n0", 0)));
        never_made(&journal, "n1").unwrap();
        close(&journal, &[(b, 0)]).unwrap();
        assert_eq!((find(&journal, &a), find(&journal, &b)), (Err(2), Err(1)));
    }

    #[test]
    fn notes_are_no_answers() {
        let memory = Memory::default();
        let journal = Journal::new(Box::new(memory.clone()));
        intend(&journal, "n", 5, &[([1; 16], 0)]).unwrap();
        made(&journal, "n", "batch").unwrap();
        close(&journal, &[([1; 16], 0)]).unwrap();
        let notes = memory.values();
        assert_eq!(notes.len(), 4);
        assert!(notes.iter().all(|note| Kept::decode(note).is_none()));
    }
}
