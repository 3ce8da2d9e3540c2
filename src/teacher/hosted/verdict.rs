//! What is made of a provider's answer: an answer, a reason to wait or to ask again, a row for quarantine, or the end.
//!
//! The kinds of trouble and what becomes of each stand in `docs/teachers.md`.

use super::moment;
use super::wire::{Reply, Trouble, Wire};
use crate::exec::RunError;
use crate::teacher::{Answer, Failure, Usage};
use reqwest::header::HeaderMap;
use serde_json::Value;
use std::time::Duration;

/// What to do with a call.
#[derive(Debug)]
pub enum Verdict {
    Answer(Answer),
    /// Ask again, this often at most, and then give the row up.
    Again {
        failure: Failure,
        most: u32,
        after: Option<Duration>,
    },
    /// No connection, so nothing was sent: ask again, and end if the server never answers.
    Unconnected(String),
    /// The provider is busy: all calls wait, and this one loses nothing.
    Wait {
        after: Option<Duration>,
        why: String,
    },
    /// This row has no answer.
    Row(Failure),
    /// The request was built for another kind of server: build it anew.
    Rebuild,
    /// No call can succeed.
    Stop(RunError),
}

/// A verdict, and what the call was charged for.
#[derive(Debug)]
pub struct Judged {
    pub verdict: Verdict,
    /// `None` if the provider charges nothing for it.
    pub usage: Option<Usage>,
}

impl From<Verdict> for Judged {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, usage: None }
    }
}

/// As often as the declaration says.
pub const AS_DECLARED: u32 = u32::MAX;

impl Verdict {
    pub fn again(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Again { failure: Failure::new(reason, message), most: AS_DECLARED, after: None }
    }

    pub fn row(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Row(Failure::new(reason, message))
    }
}

/// Who is asked, for messages.
pub struct Whom<'a> {
    pub teacher: &'a str,
    pub model: &'a str,
    /// Where it is asked.
    pub url: String,
    pub wire: &'a Wire,
}

impl Whom<'_> {
    /// `Err` of the teacher as a whole.
    pub fn stop(&self, code: &'static str, message: impl std::fmt::Display, help: &str) -> Verdict {
        Verdict::Stop(RunError::failed(code, format!("teacher `{}`: {message}", self.teacher)).help(help))
    }

    pub fn key_refused(&self, status: u16, said: &ApiError) -> Verdict {
        // A provider may repeat a part of the key in its message.
        let kind = said.kind.as_deref().or(said.code.as_deref()).map(|k| format!(" ({})", self.wire.quote(k)));
        let kind = kind.unwrap_or_default();
        match self.wire.variable() {
            Some(variable) => self.stop(
                "key-refused",
                format!("{} answered {status}{kind}: it refuses the key that `{variable}` holds", self.url),
                &format!("set `{variable}` to a key that may use `{}`", self.model),
            ),
            None => self.stop(
                "key-refused",
                format!("{} answered {status}{kind}: it asks for a key, and the teacher has none", self.url),
                "give the teacher one: `api-key env=\"NAME\"`, the name of an environment variable",
            ),
        }
    }

    pub fn quota_spent(&self, status: u16, said: &ApiError) -> Verdict {
        self.stop(
            "quota-spent",
            format!("the provider answered {status}: {}", self.wire.quote(&said.message)),
            "the account's quota or credit is used up: what was answered is kept; run again when there is more",
        )
    }

    pub fn too_long(&self, status: u16, said: &ApiError) -> Verdict {
        Verdict::row("too-long", format!("the provider answered {status}: {}", self.wire.quote(&said.message)))
    }

    pub fn not_found(&self, status: u16, said: &ApiError) -> Verdict {
        self.stop(
            "unknown-at-provider",
            format!("{} answered {status} for model `{}`: {}", self.url, self.model, self.wire.quote(&said.message)),
            "correct `model` to a name that the provider knows and this key may use, or `base-url` to its address",
        )
    }

    pub fn settings_refused(&self, said: &ApiError) -> Verdict {
        self.stop(
            "settings-refused",
            format!("`{}` does not take these settings: {}", self.model, self.wire.quote(&said.message)),
            "leave the setting out, or take a member out of every request with `body #\"{\"name\": null}\"#`",
        )
    }

    /// What statuses mean in both protocols.
    pub fn status(&self, status: u16, headers: &HeaderMap, said: &ApiError) -> Verdict {
        let after = moment::retry_after(headers);
        let words = self.wire.quote(&said.message);
        let why = format!("{status}: {words}");
        let worth_it = moment::text(headers, "x-should-retry").map(|t| t == "true");
        match status {
            300..=399 => {
                let to = moment::text(headers, "location").unwrap_or("somewhere else");
                self.stop(
                    "provider-moved",
                    format!(
                        "{} answered {status} and points at {}; a key is not carried there",
                        self.url,
                        self.wire.quote(to)
                    ),
                    "correct `base-url`",
                )
            }
            401 | 403 => self.key_refused(status, said),
            402 => self.quota_spent(status, said),
            404 => self.not_found(status, said),
            413 => Verdict::row("too-long", format!("the provider answered {why}")),
            429 | 529 => Verdict::Wait { after, why },
            503 if after.is_some() => Verdict::Wait { after, why },
            408 | 409 | 425 | 500.. if worth_it != Some(false) => {
                let failure = Failure::new("server-error", format!("the provider answered {why}"));
                Verdict::Again { failure, most: AS_DECLARED, after }
            }
            500.. => Verdict::row("server-error", format!("the provider answered {why}")),
            _ => Verdict::row("bad-request", format!("the provider answered {why}")),
        }
    }

    /// What is no JSON object, and what it looks like.
    pub fn malformed(&self, reply: &Reply) -> Verdict {
        let kind = moment::text(&reply.headers, "content-type").unwrap_or("no content type");
        let start = String::from_utf8_lossy(&reply.body[..reply.body.len().min(200)]).into_owned();
        let (kind, start) = (self.wire.quote(kind), self.wire.quote(&start));
        Verdict::again("malformed-answer", format!("expected a JSON object, found {kind}: `{start}`"))
    }
}

impl From<Trouble> for Verdict {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unconnected(why) => Self::Unconnected(why),
            Trouble::Cut(why) => Self::again("unreachable", format!("the connection was cut: {why}")),
            Trouble::TimedOut => Self::again("timed-out", "no whole answer in the time that `timeout` gives"),
            Trouble::TooLarge => Self::again("malformed-answer", "the answer is larger than 16 MiB"),
        }
    }
}

/// The error that a server describes, in any of the usual forms.
#[derive(Debug, Default)]
pub struct ApiError {
    pub message: String,
    pub kind: Option<String>,
    pub code: Option<String>,
    pub param: Option<String>,
}

impl ApiError {
    pub fn read(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => Self::of(&value),
            Err(_) => {
                Self { message: String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned(), ..Self::default() }
            }
        }
    }

    pub fn of(body: &Value) -> Self {
        let error = match &body["error"] {
            Value::Null => body,
            error => error,
        };
        let text = |name: &str| match &error[name] {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let message = match error {
            Value::String(text) => Some(text.clone()),
            _ => text("message").or_else(|| text("detail")),
        };
        Self {
            message: message.unwrap_or_else(|| error.to_string()),
            kind: text("type"),
            code: text("code"),
            param: text("param"),
        }
    }

    /// Whether the code or the type is one of these.
    pub fn is(&self, names: &[&str]) -> bool {
        [&self.code, &self.kind].into_iter().flatten().any(|name| names.contains(&name.as_str()))
    }

    pub fn says(&self, words: &[&str]) -> bool {
        let message = self.message.to_lowercase();
        words.iter().any(|w| message.contains(w))
    }
}
