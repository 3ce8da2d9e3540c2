//! The batch endpoints of both APIs.

use super::http::{Delivery, Request, Response};
use super::{Api, Fault, Shared, error, reply};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

/// What goes wrong with a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BatchFault {
    None,
    /// It is made, and nobody hears of it.
    Unheard,
    /// Not made.
    Refused,
    /// Only so many of its calls are answered in time.
    Expired(usize),
    Cancelled(usize),
    /// Refused when it is read: as a whole, or for one of its lines (from 1).
    Invalid(Option<usize>),
    /// More tokens wait than the provider takes.
    QueueFull,
}

#[derive(Default)]
pub struct State {
    files: HashMap<String, Vec<u8>>,
    batches: Vec<Batch>,
    /// How many batches were to be made.
    makes: usize,
}

struct Batch {
    id: String,
    api: Api,
    fault: BatchFault,
    /// Name and body of each call.
    calls: Vec<(String, Value)>,
    headers: HashMap<String, String>,
    metadata: Value,
    created: u64,
    looks: usize,
    /// A line for each call that has a result.
    results: Option<Results>,
}

#[derive(Default, Clone)]
struct Results {
    good: Vec<Value>,
    bad: Vec<Value>,
}

impl Shared {
    pub(super) fn batch_request(&self, request: &Request) -> Response {
        let path: Vec<&str> = request.path.trim_start_matches("/v1/").split('/').collect();
        match (request.method.as_str(), path.as_slice()) {
            ("POST", ["files"]) => self.upload(request),
            ("GET", ["files", id, "content"]) => self.file(id),
            ("POST", ["batches"]) => self.create(request, Api::OpenAi),
            ("POST", ["messages", "batches"]) => self.create(request, Api::Anthropic),
            ("GET", ["batches"]) => self.list(request, Api::OpenAi, "after"),
            ("GET", ["messages", "batches"]) => self.list(request, Api::Anthropic, "after_id"),
            ("GET", ["batches", id]) | ("GET", ["messages", "batches", id]) => self.look(id),
            ("GET", ["messages", "batches", id, "results"]) => self.results(id),
            _ => error(404, "no such address"),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upload(&self, request: &Request) -> Response {
        let mut parts = request.parts();
        let Some(file) = parts.remove("file") else { return error(400, "no file") };
        if parts.get("purpose").map(Vec::as_slice) != Some(b"batch") {
            return error(400, "no purpose");
        }
        let mut state = self.state();
        let id = format!("file-{}", state.files.len());
        state.files.insert(id.clone(), file);
        Response::json(200, &json!({ "id": id, "object": "file", "purpose": "batch" }))
    }

    fn file(&self, id: &str) -> Response {
        match self.state().files.get(id) {
            Some(bytes) => Response::new(200, "application/octet-stream", bytes.clone()),
            None => error(404, "no such file"),
        }
    }

    fn create(&self, request: &Request, api: Api) -> Response {
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else { return error(400, "no JSON") };
        let mut state = self.state();
        let calls: Option<Vec<(String, Value)>> = match api {
            Api::OpenAi => {
                let file = body["input_file_id"].as_str().and_then(|id| state.files.get(id));
                file.map(|file| {
                    let lines = String::from_utf8_lossy(file);
                    let lines = lines.lines().map(|l| serde_json::from_str::<Value>(l).expect("a line of JSON"));
                    lines.map(|l| (name(&l), l["body"].clone())).collect()
                })
            }
            Api::Anthropic => {
                body["requests"].as_array().map(|all| all.iter().map(|r| (name(r), r["params"].clone())).collect())
            }
        };
        let Some(calls) = calls else { return error(400, "no calls") };
        let fault = (self.batch_plan)(state.makes);
        state.makes += 1;
        if fault == BatchFault::Refused {
            return error(400, "made to fail");
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let batch = Batch {
            id: format!("batch_{}", state.batches.len()),
            api,
            fault,
            calls,
            headers: request.headers.clone(),
            metadata: body["metadata"].clone(),
            created,
            looks: 0,
            results: None,
        };
        let shown = batch.shown();
        state.batches.push(batch);
        let response = Response::json(200, &shown);
        if fault == BatchFault::Unheard { response.delivered(Delivery::Hangup) } else { response }
    }

    /// Newest first, two at a time.
    fn list(&self, request: &Request, api: Api, after: &str) -> Response {
        let state = self.state();
        let all: Vec<&Batch> = state.batches.iter().rev().filter(|b| b.api == api).collect();
        let from = request.query.get(after).map_or(0, |id| all.iter().position(|b| b.id == *id).map_or(0, |at| at + 1));
        let shown: Vec<Value> = all.iter().skip(from).take(2).map(|b| b.shown()).collect();
        let last = shown.last().map(|b| b["id"].clone());
        let more = all.len() > from + shown.len();
        Response::json(200, &json!({ "object": "list", "data": shown, "has_more": more, "last_id": last }))
    }

    fn look(&self, id: &str) -> Response {
        let mut state = self.state();
        let Some(at) = state.batches.iter().position(|b| b.id == id) else { return error(404, "no such batch") };
        state.batches[at].looks += 1;
        if state.batches[at].looks > self.looks && state.batches[at].results.is_none() {
            let results = self.work(&state.batches[at]);
            let file = |lines: &[Value]| lines.iter().map(|l| format!("{l}\n")).collect::<String>().into_bytes();
            state.files.insert(format!("{id}-good"), file(&results.good));
            state.files.insert(format!("{id}-bad"), file(&results.bad));
            state.batches[at].results = Some(results);
        }
        Response::json(200, &state.batches[at].shown())
    }

    fn results(&self, id: &str) -> Response {
        let state = self.state();
        let Some(results) = state.batches.iter().find(|b| b.id == id).and_then(|b| b.results.as_ref()) else {
            return error(404, "no results");
        };
        let lines: String = results.good.iter().chain(&results.bad).map(|l| format!("{l}\n")).collect();
        Response::new(200, "application/x-jsonl", lines.into_bytes())
    }

    /// Does what the batch asks for.
    fn work(&self, batch: &Batch) -> Results {
        let answered = match batch.fault {
            BatchFault::Expired(n) | BatchFault::Cancelled(n) => n,
            BatchFault::Invalid(_) | BatchFault::QueueFull => return Results::default(),
            _ => batch.calls.len(),
        };
        let mut results = Results::default();
        for (name, body) in &batch.calls[..answered.min(batch.calls.len())] {
            let call = self.note(body.clone(), batch.headers.clone(), true);
            let fault: Fault = (self.plan)(&call);
            let response = reply(batch.api, &call, &fault);
            let value: Value = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
            let good = response.status == 200;
            if good {
                self.log().paid.push(call.prompt);
            }
            let line = match batch.api {
                Api::OpenAi => json!({ "custom_id": name, "error": null,
                    "response": { "status_code": response.status, "body": value } }),
                Api::Anthropic if good => {
                    json!({ "custom_id": name, "result": { "type": "succeeded", "message": value } })
                }
                Api::Anthropic => json!({ "custom_id": name, "result": { "type": "errored", "error": value } }),
            };
            if good { results.good.push(line) } else { results.bad.push(line) }
        }
        for (name, _) in batch.calls.iter().skip(answered) {
            let expired = matches!(batch.fault, BatchFault::Expired(_));
            let word = if expired { "expired" } else { "cancelled" };
            results.bad.push(match batch.api {
                Api::OpenAi => json!({ "custom_id": name, "response": null,
                    "error": { "code": format!("batch_{word}"), "message": "not in time" } }),
                Api::Anthropic => {
                    json!({ "custom_id": name, "result": { "type": if expired { "expired" } else { "canceled" } } })
                }
            });
        }
        results
    }
}

fn name(call: &Value) -> String {
    call["custom_id"].as_str().expect("a call has a name").to_string()
}

impl Batch {
    fn shown(&self) -> Value {
        let (id, total) = (&self.id, self.calls.len());
        let done = self.results.as_ref();
        match self.api {
            Api::OpenAi => {
                let status = match (done, self.fault) {
                    (None, _) => "in_progress",
                    (_, BatchFault::Expired(_)) => "expired",
                    (_, BatchFault::Cancelled(_)) => "cancelled",
                    (_, BatchFault::Invalid(_) | BatchFault::QueueFull) => "failed",
                    _ => "completed",
                };
                let errors = match self.fault {
                    BatchFault::Invalid(line) => {
                        json!([{ "code": "invalid_request", "message": "not like this", "line": line }])
                    }
                    BatchFault::QueueFull => {
                        json!([{ "code": "token_limit_exceeded", "message": "Enqueued token limit reached" }])
                    }
                    _ => Value::Null,
                };
                let file = |lines: fn(&Results) -> &Vec<Value>, name: &str| {
                    done.filter(|d| !lines(d).is_empty()).map(|_| format!("{id}-{name}"))
                };
                json!({
                    "id": id, "object": "batch", "status": status, "created_at": self.created,
                    "metadata": self.metadata, "errors": { "data": errors },
                    "output_file_id": file(|r| &r.good, "good"), "error_file_id": file(|r| &r.bad, "bad"),
                    "request_counts": { "total": total, "completed": 0, "failed": 0 },
                })
            }
            Api::Anthropic => {
                let processing = if done.is_some() { 0 } else { total };
                json!({
                    "id": id, "type": "message_batch", "created_at": rfc3339(self.created),
                    "processing_status": if done.is_some() { "ended" } else { "in_progress" },
                    "request_counts": { "processing": processing, "succeeded": total - processing, "errored": 0,
                        "canceled": 0, "expired": 0 },
                    "results_url": done.map(|_| format!("/v1/messages/batches/{id}/results")),
                })
            }
        }
    }
}

/// Good for days after 1970.
fn rfc3339(seconds: u64) -> String {
    let (mut year, mut days) = (1970, seconds / 86_400);
    let leap = |y: u64| (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let time = seconds % 86_400;
    let (h, m, s) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year}-{:02}-{:02}T{h:02}:{m:02}:{s:02}Z", month + 1, days + 1)
}
