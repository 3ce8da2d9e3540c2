//! What differs between the providers' batches.

use super::super::wire::Reply;
use reqwest::header::HeaderMap;
use serde_json::{Map, Value};

/// How a provider is handed a batch, and how it tells of it.
pub trait Format: Send + Sync {
    /// The most calls of a batch, and the most bytes.
    fn most(&self) -> (usize, usize);
    /// A call in a batch: one line.
    fn line(&self, id: &str, body: Map<String, Value>) -> String;
    /// Where the calls are uploaded first, at providers that want it so.
    fn upload(&self) -> Option<String>;
    /// Where a batch is made, and of what: the lines, or the name of the uploaded file.
    fn create(&self, lines: Vec<String>, file: Option<&str>, nonce: &str) -> (String, String);
    /// Whether the provider keeps our nonce with a batch and tells it in lists.
    fn keeps_nonce(&self) -> bool;
    /// Where a batch is looked at.
    fn look(&self, id: &str) -> String;
    /// Where batches are listed, the youngest first, after the one of this id.
    fn list(&self, after: Option<&str>) -> String;
    /// What the provider says of a batch.
    fn shown(&self, batch: &Value) -> Option<Shown>;
    /// What became of a call of the batch; `None` for what is no such line.
    fn result(&self, line: &Value) -> Option<(String, Line)>;
}

/// A batch at the provider.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    pub id: String,
    pub state: State,
    /// Ours, where the provider keeps it for us.
    pub nonce: Option<String>,
    /// Seconds since 1970.
    pub created: Option<u64>,
    pub calls: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Working,
    /// There are no more answers to come than those at these addresses.
    Ended {
        results: Vec<String>,
        how: Ending,
    },
    /// It was refused when the provider read it; nothing was asked.
    Failed(Vec<Complaint>),
}

/// Why a batch has ended: what it means for calls that have no line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Completed,
    Expired,
    Cancelled,
}

/// What a provider has against a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Complaint {
    pub code: String,
    pub message: String,
    /// The call that it concerns, from 0.
    pub line: Option<usize>,
}

/// What became of a call.
pub enum Line {
    Answered(Reply),
    /// The provider had no time for it.
    Expired,
    Cancelled,
}

/// As if the call had been made by itself.
pub fn reply(status: u16, body: &Value) -> Reply {
    Reply { status, headers: HeaderMap::new(), body: body.to_string().into_bytes() }
}

/// A provider's name for something, if it can stand in an address.
pub fn name(value: &Value) -> Option<String> {
    let name = value.as_str()?;
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (!name.is_empty() && name.chars().all(sound)).then(|| name.to_string())
}
