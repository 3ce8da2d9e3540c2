//! What differs between providers.

use super::gate::Told;
use super::verdict::{ApiError, Judged, Verdict, Whom};
use super::wire::Reply;
use crate::teacher::{Ask, Usage};
use reqwest::header::HeaderMap;
use serde_json::{Map, Value};

/// How a provider is asked, and how its answers are read.
pub trait Protocol: Send + Sync {
    /// The headers that carry the key, and the others of the protocol.
    fn sign(&self, key: Option<&str>) -> Vec<(&'static str, String)>;
    /// Where calls are sent.
    fn url(&self) -> String;
    /// The request of a call: depends on the call and the declaration alone.
    fn body(&self, ask: &Ask) -> Map<String, Value>;
    /// What is made of the answer to a call. The usage of an answer is filled in by the caller.
    fn read(&self, ask: &Ask, reply: &Reply, whom: &Whom<'_>) -> Judged;
    /// What an answer that is no success means.
    fn refused(&self, status: u16, headers: &HeaderMap, said: &ApiError, whom: &Whom<'_>) -> Verdict;
    /// What headers say of the limits of requests and of tokens.
    fn told(&self, headers: &HeaderMap) -> (Told, Told);
}

/// A request with the declaration's members in place of ours; those that are null are left out.
pub fn merged(mut body: Map<String, Value>, extra: &Map<String, Value>) -> Map<String, Value> {
    for (name, value) in extra {
        match value {
            Value::Null => drop(body.shift_remove(name)),
            value => drop(body.insert(name.clone(), value.clone())),
        }
    }
    body
}

/// The text up to the first stop text, and whether there was one.
pub fn cut_at_stops(mut text: String, stops: &[String]) -> (String, bool) {
    let end = stops.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min();
    if let Some(end) = end {
        text.truncate(end);
    }
    (text, end.is_some())
}

/// The most that a request can cost: no token has less than a byte, and no answer more tokens than are asked for.
pub fn most(ask: &Ask, body: &Map<String, Value>, bytes: usize) -> Usage {
    let number = |name: &str| body.get(name).and_then(Value::as_u64);
    let tokens = number("max_tokens").max(number("max_completion_tokens")).unwrap_or(ask.settings.max_tokens.into());
    Usage {
        input_tokens: bytes as u64,
        cached_tokens: 0,
        output_tokens: tokens.saturating_mul(number("n").unwrap_or(1)),
    }
}

/// What a call takes, where the provider does not say or did not say yet: four characters to a token.
pub fn guess(ask: &Ask, text: &str) -> Usage {
    let of = |text: &str| text.chars().count().div_ceil(4) as u64;
    let input = ask.messages.iter().map(|(_, text)| of(text) + 4).sum();
    Usage { input_tokens: input, cached_tokens: 0, output_tokens: of(text) }
}
