//! The Batch API: a file of calls, a batch of it, a file of answers and one of errors.

use super::super::openai::OpenAi;
use super::format::{Complaint, Ending, Format, Line, Shown, State, name, reply};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The member of a batch's metadata that holds our nonce.
const NONCE: &str = "idiolect";

pub struct OpenAiBatches(pub Arc<OpenAi>);

impl Format for OpenAiBatches {
    fn most(&self) -> (usize, usize) {
        (50_000, 190_000_000)
    }

    fn line(&self, id: &str, body: Map<String, Value>) -> String {
        json!({ "custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body }).to_string()
    }

    fn upload(&self) -> Option<String> {
        Some(self.0.at("files"))
    }

    fn create(&self, _: Vec<String>, file: Option<&str>, nonce: &str) -> (String, String) {
        let body = json!({ "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
            "metadata": { NONCE: nonce } });
        (self.0.at("batches"), body.to_string())
    }

    fn keeps_nonce(&self) -> bool {
        true
    }

    fn look(&self, id: &str) -> String {
        self.0.at(&format!("batches/{id}"))
    }

    fn list(&self, after: Option<&str>) -> String {
        self.0.at(&format!("batches?limit=100{}", after.map(|id| format!("&after={id}")).unwrap_or_default()))
    }

    fn shown(&self, batch: &Value) -> Option<Shown> {
        let file = |which: &str| name(&batch[which]).map(|id| self.0.at(&format!("files/{id}/content")));
        let results = || ["output_file_id", "error_file_id"].into_iter().filter_map(file).collect();
        let ended = |how| State::Ended { results: results(), how };
        Some(Shown {
            id: name(&batch["id"])?,
            state: match batch["status"].as_str()? {
                "completed" => ended(Ending::Completed),
                "expired" => ended(Ending::Expired),
                "cancelled" => ended(Ending::Cancelled),
                "failed" => State::Failed(complaints(&batch["errors"]["data"])),
                _ => State::Working,
            },
            nonce: batch["metadata"][NONCE].as_str().map(str::to_string),
            created: batch["created_at"].as_u64(),
            calls: batch["request_counts"]["total"].as_u64(),
        })
    }

    fn result(&self, line: &Value) -> Option<(String, Line)> {
        let id = line["custom_id"].as_str()?.to_string();
        let response = &line["response"];
        if let Some(status) = response["status_code"].as_u64() {
            return Some((id, Line::Answered(reply(u16::try_from(status).ok()?, &response["body"]))));
        }
        let result = match line["error"]["code"].as_str() {
            Some("batch_expired") => Line::Expired,
            Some("batch_cancelled") => Line::Cancelled,
            _ => Line::Answered(reply(500, &json!({ "error": line["error"] }))),
        };
        Some((id, result))
    }
}

fn complaints(data: &Value) -> Vec<Complaint> {
    let complaint = |e: &Value| Complaint {
        code: e["code"].as_str().unwrap_or_default().to_string(),
        message: e["message"].as_str().unwrap_or_default().to_string(),
        line: e["line"].as_u64().and_then(|line| usize::try_from(line).ok()?.checked_sub(1)),
    };
    data.as_array().into_iter().flatten().map(complaint).collect()
}
