//! Message batches: calls in one request, results as a stream of lines.

use super::super::anthropic::Anthropic;
use super::super::moment;
use super::format::{Ending, Format, Line, Shown, State, name, reply};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub struct AnthropicBatches(pub Arc<Anthropic>);

impl Format for AnthropicBatches {
    fn most(&self) -> (usize, usize) {
        (100_000, 240_000_000)
    }

    fn line(&self, id: &str, body: Map<String, Value>) -> String {
        json!({ "custom_id": id, "params": body }).to_string()
    }

    fn upload(&self) -> Option<String> {
        None
    }

    /// Message batches have no room for a nonce; the names of the calls hold it.
    fn create(&self, lines: Vec<String>, _: Option<&str>, _: &str) -> (String, String) {
        (self.0.at("messages/batches"), format!("{{\"requests\":[{}]}}", lines.join(",")))
    }

    fn keeps_nonce(&self) -> bool {
        false
    }

    fn look(&self, id: &str) -> String {
        self.0.at(&format!("messages/batches/{id}"))
    }

    fn list(&self, after: Option<&str>) -> String {
        let after = after.map(|id| format!("&after_id={id}")).unwrap_or_default();
        self.0.at(&format!("messages/batches?limit=100{after}"))
    }

    fn shown(&self, batch: &Value) -> Option<Shown> {
        let id = name(&batch["id"])?;
        // `results_url` says the same; the key is not carried to where somebody else points.
        let results = vec![format!("{}/results", self.look(&id))];
        let counts = batch["request_counts"].as_object();
        Some(Shown {
            state: match batch["processing_status"].as_str()? {
                "ended" => State::Ended { results, how: Ending::Completed },
                _ => State::Working,
            },
            nonce: None,
            created: batch["created_at"].as_str().and_then(moment::rfc3339),
            calls: counts.map(|all| all.values().filter_map(Value::as_u64).sum()),
            id,
        })
    }

    fn result(&self, line: &Value) -> Option<(String, Line)> {
        let id = line["custom_id"].as_str()?.to_string();
        let result = &line["result"];
        let result = match result["type"].as_str()? {
            "succeeded" => Line::Answered(reply(200, &result["message"])),
            "expired" => Line::Expired,
            "canceled" => Line::Cancelled,
            _ => Line::Answered(reply(500, &result["error"])),
        };
        Some((id, result))
    }
}
