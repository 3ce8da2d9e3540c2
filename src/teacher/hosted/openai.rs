//! Chat completions, as OpenAI and compatible servers speak them.

use super::gate::Told;
use super::protocol::{Protocol, cut_at_stops, merged};
use super::verdict::{ApiError, Judged, Verdict, Whom};
use super::wire::Reply;
use crate::config::Hosted;
use crate::store::Journal;
use crate::teacher::{Answer, Ask, Finish, Usage};
use reqwest::header::HeaderMap;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicBool, Ordering};

const HOST: &str = "https://api.openai.com/v1";
/// The provider takes no more stop texts; the others are cut here.
const STOPS: usize = 4;

pub struct OpenAi {
    base: String,
    model: String,
    organization: Option<String>,
    body: Map<String, Value>,
    /// Newer models want `max_completion_tokens`, which other servers may not know.
    completion_tokens: AtomicBool,
}

impl OpenAi {
    pub fn new(hosted: &Hosted) -> Self {
        let base = hosted.base_url.as_ref().map_or(HOST, |u| &u.value).to_string();
        Self {
            completion_tokens: AtomicBool::new(base.starts_with("https://api.openai.com/")),
            base,
            model: hosted.model.value.clone(),
            organization: hosted.organization.clone(),
            body: hosted.body.clone(),
        }
    }

    /// An address below the base.
    pub fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    fn answer(&self, ask: &Ask, body: &Value) -> Verdict {
        let choice = &body["choices"][0];
        let Some(message) = choice["message"].as_object() else {
            return Verdict::again("malformed-answer", "expected `choices` with a `message`, found none");
        };
        let refusal = message.get("refusal").and_then(Value::as_str).filter(|r| !r.is_empty());
        let finish = choice["finish_reason"].as_str();
        if let Some(refusal) = refusal {
            return Verdict::row("refused", format!("the teacher refused: {}", shortened(refusal)));
        }
        if finish == Some("content_filter") {
            return Verdict::row("refused", "the provider's content filter ended the answer");
        }
        let Some(text) = content(message.get("content")) else {
            return Verdict::again("malformed-answer", "expected `content` to be text, found another value");
        };
        let (text, cut) = cut_at_stops(text, &ask.settings.stop);
        let finish = if finish == Some("length") && !cut { Finish::Length } else { Finish::Stop };
        let model = body["model"].as_str().unwrap_or(&self.model).to_string();
        Verdict::Answer(Answer { text, finish, model, usage: Usage::default(), cost: None })
    }
}

const TOO_LONG: &[&str] =
    &["maximum context length", "context length", "context window", "context size", "exceeds the available context"];

fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Text, or the text parts of a list. No content is no text.
fn content(value: Option<&Value>) -> Option<String> {
    match value {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(parts)) => Some(parts.iter().filter_map(|p| p["text"].as_str()).collect()),
        Some(_) => None,
    }
}

/// A number for the server's own generator: another for each sample, and small enough for every server.
fn seed(ask: &Ask) -> u32 {
    let key = Journal::key(&[&ask.seed.to_le_bytes(), &ask.sample.to_le_bytes()]);
    u32::from_le_bytes([key[0], key[1], key[2], key[3]]) >> 1
}

impl Protocol for OpenAi {
    fn sign(&self, key: Option<&str>) -> Vec<(&'static str, String)> {
        let key = key.map(|key| ("authorization", format!("Bearer {key}")));
        let organization = self.organization.as_ref().map(|o| ("openai-organization", o.clone()));
        key.into_iter().chain(organization).collect()
    }

    fn url(&self) -> String {
        self.at("chat/completions")
    }

    fn body(&self, ask: &Ask) -> Map<String, Value> {
        let settings = &ask.settings;
        let messages: Vec<Value> =
            ask.messages.iter().map(|(role, text)| json!({ "role": role, "content": text })).collect();
        let mut body = Map::new();
        body.insert("model".into(), json!(self.model));
        body.insert("messages".into(), json!(messages));
        let names = ["max_tokens", "max_completion_tokens"];
        if !names.iter().any(|name| self.body.contains_key(*name)) {
            let name = names[usize::from(self.completion_tokens.load(Ordering::Relaxed))];
            body.insert(name.into(), json!(settings.max_tokens));
        }
        let mut optional = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.into(), value);
            }
        };
        optional("temperature", settings.temperature.map(|t| json!(t)));
        optional("top_p", settings.top_p.map(|p| json!(p)));
        optional("top_k", settings.top_k.map(|k| json!(k)));
        // What is greedy does not depend on a seed, and its answers are known without one.
        optional("seed", (!settings.is_greedy()).then(|| json!(seed(ask))));
        let stops = &settings.stop[..settings.stop.len().min(STOPS)];
        optional("stop", (!stops.is_empty()).then(|| json!(stops)));
        merged(body, &self.body)
    }

    fn read(&self, ask: &Ask, reply: &Reply, whom: &Whom<'_>) -> Judged {
        if reply.status != 200 {
            return self.refused(reply.status, &reply.headers, &ApiError::read(&reply.body), whom).into();
        }
        let Ok(body @ Value::Object(_)) = serde_json::from_slice::<Value>(&reply.body) else {
            return whom.malformed(reply).into();
        };
        // Some servers answer 200 and mean something else.
        if !body["error"].is_null() && body["choices"].is_null() {
            let said = ApiError::of(&body);
            let status = said.code.as_ref().and_then(|c| c.parse().ok()).filter(|s| (300..600).contains(s));
            return self.refused(status.unwrap_or(500), &reply.headers, &said, whom).into();
        }
        Judged { verdict: self.answer(ask, &body), usage: usage(&body["usage"]) }
    }

    fn refused(&self, status: u16, headers: &HeaderMap, said: &ApiError, whom: &Whom<'_>) -> Verdict {
        if said.is(&["insufficient_quota", "billing_hard_limit_reached", "billing_not_active"]) {
            return whom.quota_spent(status, said);
        }
        if said.is(&["model_not_found"]) {
            return whom.not_found(status, said);
        }
        if said.is(&["context_length_exceeded", "exceed_context_size_error"]) || (status == 400 && said.says(TOO_LONG))
        {
            return whom.too_long(status, said);
        }
        let filtered = said.is(&["content_filter", "content_policy_violation"]);
        if filtered || (status == 403 && said.says(&["moderation", "flagged"])) {
            return Verdict::row("refused", format!("the provider refused: {}", whom.wire.quote(&said.message)));
        }
        if status == 400 && said.is(&["unsupported_parameter", "unsupported_value", "unknown_parameter"]) {
            let tokens = said.param.as_deref() == Some("max_tokens");
            // Said once by every call that was on its way.
            if tokens && !self.body.contains_key("max_tokens") {
                self.completion_tokens.store(true, Ordering::Relaxed);
                return Verdict::Rebuild;
            }
            return whom.settings_refused(said);
        }
        whom.status(status, headers, said)
    }

    fn told(&self, headers: &HeaderMap) -> (Told, Told) {
        Told::both(headers, |kind, what| format!("x-ratelimit-{what}-{kind}"))
    }
}

fn usage(usage: &Value) -> Option<Usage> {
    Some(Usage {
        input_tokens: usage["prompt_tokens"].as_u64()?,
        cached_tokens: usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0),
        output_tokens: usage["completion_tokens"].as_u64().unwrap_or(0),
    })
}
