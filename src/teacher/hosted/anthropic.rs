//! Messages, as Anthropic and compatible servers speak them.

use super::gate::Told;
use super::protocol::{Protocol, cut_at_stops, merged};
use super::verdict::{ApiError, Judged, Verdict, Whom};
use super::wire::Reply;
use crate::config::Hosted;
use crate::teacher::{Answer, Ask, Finish, Usage};
use reqwest::header::HeaderMap;
use serde_json::{Map, Value, json};

const HOST: &str = "https://api.anthropic.com";
const VERSION: &str = "2023-06-01";

pub struct Anthropic {
    /// Ends with the version: `https://api.anthropic.com/v1`.
    base: String,
    model: String,
    body: Map<String, Value>,
}

impl Anthropic {
    pub fn new(hosted: &Hosted) -> Self {
        let base = hosted.base_url.as_ref().map_or(HOST, |u| &u.value);
        let base = if base.ends_with("/v1") { base.to_string() } else { format!("{base}/v1") };
        Self { base, model: hosted.model.value.clone(), body: hosted.body.clone() }
    }

    /// An address below the base.
    pub fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    fn answer(&self, ask: &Ask, body: &Value) -> Verdict {
        let Some(parts) = body["content"].as_array() else {
            return Verdict::again("malformed-answer", "expected `content` to be a list, found none");
        };
        let text: String = parts.iter().filter_map(|p| p["text"].as_str()).collect();
        let finish = match body["stop_reason"].as_str() {
            Some("refusal") => return Verdict::row("refused", "the teacher refused to answer"),
            Some("max_tokens" | "model_context_window_exceeded") => Finish::Length,
            _ => Finish::Stop,
        };
        let (text, cut) = cut_at_stops(text, &ask.settings.stop);
        let finish = if cut { Finish::Stop } else { finish };
        let model = body["model"].as_str().unwrap_or(&self.model).to_string();
        Verdict::Answer(Answer { text, finish, model, usage: Usage::default(), cost: None })
    }
}

impl Protocol for Anthropic {
    fn sign(&self, key: Option<&str>) -> Vec<(&'static str, String)> {
        let key = key.map(|key| ("x-api-key", key.to_string()));
        key.into_iter().chain([("anthropic-version", VERSION.to_string())]).collect()
    }

    fn url(&self) -> String {
        self.at("messages")
    }

    fn body(&self, ask: &Ask) -> Map<String, Value> {
        let settings = &ask.settings;
        let (system, turns): (Vec<_>, Vec<_>) = ask.messages.iter().partition(|(role, _)| role == "system");
        let system: Vec<&str> = system.iter().map(|(_, text)| text.as_str()).collect();
        let turns: Vec<Value> = turns.iter().map(|(role, text)| json!({ "role": role, "content": text })).collect();
        let mut body = Map::new();
        body.insert("model".into(), json!(self.model));
        body.insert("max_tokens".into(), json!(settings.max_tokens));
        let mut optional = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.into(), value);
            }
        };
        optional("system", (!system.is_empty()).then(|| json!(system.join("\n\n"))));
        optional("messages", Some(json!(turns)));
        optional("temperature", settings.temperature.map(|t| json!(t)));
        optional("top_p", settings.top_p.map(|p| json!(p)));
        optional("top_k", settings.top_k.map(|k| json!(k)));
        // Stop texts of white space alone are refused; they are cut here.
        let stops: Vec<&String> = settings.stop.iter().filter(|s| !s.trim().is_empty()).collect();
        optional("stop_sequences", (!stops.is_empty()).then(|| json!(stops)));
        merged(body, &self.body)
    }

    fn read(&self, ask: &Ask, reply: &Reply, whom: &Whom<'_>) -> Judged {
        if reply.status != 200 {
            return self.refused(reply.status, &reply.headers, &ApiError::read(&reply.body), whom).into();
        }
        let Ok(body @ Value::Object(_)) = serde_json::from_slice::<Value>(&reply.body) else {
            return whom.malformed(reply).into();
        };
        if body["type"] == "error" {
            return self.refused(500, &reply.headers, &ApiError::of(&body), whom).into();
        }
        Judged { verdict: self.answer(ask, &body), usage: usage(&body["usage"]) }
    }

    fn refused(&self, status: u16, headers: &HeaderMap, said: &ApiError, whom: &Whom<'_>) -> Verdict {
        // Within a batch there is no status of its own.
        let status = match said.kind.as_deref() {
            Some("authentication_error") => 401,
            Some("permission_error") => 403,
            Some("not_found_error") => 404,
            Some("request_too_large") => 413,
            Some("rate_limit_error") => 429,
            Some("overloaded_error") => 529,
            Some("invalid_request_error") if status >= 500 => 400,
            _ => status,
        };
        if said.says(&["credit balance is too low"]) || said.is(&["billing_error"]) {
            return whom.quota_spent(status, said);
        }
        if status == 400 && said.says(&["prompt is too long", "context window", "exceed context limit"]) {
            return whom.too_long(status, said);
        }
        // `temperature: ...`, `max_tokens: 9000 > 8192, ...`: the settings are the same for all rows.
        let named =
            |setting: &str| said.message.starts_with(&format!("{setting}:")) || said.says(&[&format!("`{setting}`")]);
        if status == 400 && ["max_tokens", "temperature", "top_p", "top_k", "stop_sequences"].into_iter().any(named) {
            return whom.settings_refused(said);
        }
        whom.status(status, headers, said)
    }

    fn told(&self, headers: &HeaderMap) -> (Told, Told) {
        Told::both(headers, |kind, what| format!("anthropic-ratelimit-{kind}-{what}"))
    }
}

/// Tokens that went through the provider's cache are counted beside `input_tokens`.
fn usage(usage: &Value) -> Option<Usage> {
    let count = |name: &str| usage[name].as_u64().unwrap_or(0);
    let fresh = usage["input_tokens"].as_u64()?;
    let (written, cached) = (count("cache_creation_input_tokens"), count("cache_read_input_tokens"));
    Some(Usage { input_tokens: fresh + written + cached, cached_tokens: cached, output_tokens: count("output_tokens") })
}
