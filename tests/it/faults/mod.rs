//! A teacher on loopback that fails on purpose: chat completions, messages, and batches of both.
//!
//! An answer is a function of its prompt, and what goes wrong is a function of the prompt and of how often it was asked
//! before, so runs can be compared. The log has every prompt that was *paid* for: answered, and to the last byte.

mod batches;
mod http;

pub use batches::BatchFault;
use http::{Delivery, Request, Response};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    None,
    /// Nothing, and this is the answer.
    Says(String),
    /// 429 without a word about how long.
    RateLimited,
    /// This status with these headers and an error.
    Status(u16, Vec<(&'static str, String)>),
    /// 429 that no waiting helps against.
    QuotaSpent,
    KeyRefused,
    UnknownModel,
    TooLong,
    /// Like [`None`](Self::None), with these headers.
    Headers(Vec<(&'static str, String)>),
    Refusal,
    /// The provider's filter ended the answer.
    Filtered,
    Empty,
    /// Stopped at the most tokens.
    Truncated,
    /// Half a JSON object, as a whole answer.
    Malformed,
    /// A page in place of JSON.
    WebPage,
    /// The connection ends in the middle of the body.
    Cut,
    /// Closed without a word.
    Hangup,
    /// A byte a tenth of a second.
    Drip,
    /// Nothing for this long.
    Slow(Duration),
    /// More bytes than anybody wants.
    Huge,
    Moved(String),
    /// Newer models refuse `max_tokens`.
    WantsCompletionTokens,
}

/// A call as it came.
#[derive(Debug, Clone)]
pub struct Call {
    pub prompt: String,
    /// How often the same prompt came before.
    pub before: usize,
    pub body: Value,
    /// By lower-case name; those of the batch's creation for calls in a batch.
    pub headers: HashMap<String, String>,
    pub in_batch: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    OpenAi,
    Anthropic,
}

type Plan = dyn Fn(&Call) -> Fault + Send + Sync;
type BatchPlan = dyn Fn(usize) -> BatchFault + Send + Sync;

/// Answers until it is dropped.
pub struct Teacher {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    plan: Box<Plan>,
    batch_plan: Box<BatchPlan>,
    latency: Duration,
    /// How often a batch is looked at before it is done.
    looks: usize,
    log: Mutex<Log>,
    batches: Mutex<batches::State>,
    open: AtomicUsize,
    most_open: AtomicUsize,
    done: AtomicBool,
}

#[derive(Default)]
struct Log {
    calls: Vec<Call>,
    asked: HashMap<String, usize>,
    paid: Vec<String>,
    /// Method and path of every request.
    requests: Vec<String>,
}

/// How a server is to be.
pub struct Settings {
    plan: Box<Plan>,
    batch_plan: Box<BatchPlan>,
    latency: Duration,
    looks: usize,
}

impl Settings {
    pub fn batches(mut self, plan: impl Fn(usize) -> BatchFault + Send + Sync + 'static) -> Self {
        self.batch_plan = Box::new(plan);
        self
    }

    /// How long each answer takes.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    pub fn looks(mut self, looks: usize) -> Self {
        self.looks = looks;
        self
    }

    pub fn start(self) -> Teacher {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            plan: self.plan,
            batch_plan: self.batch_plan,
            latency: self.latency,
            looks: self.looks,
            log: Mutex::default(),
            batches: Mutex::default(),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            done: AtomicBool::new(false),
        });
        let there = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if there.done.load(Ordering::SeqCst) {
                    return;
                }
                let there = there.clone();
                let serve = std::thread::Builder::new().stack_size(256 << 10).spawn(move || there.serve(&stream));
                serve.expect("a thread for a connection");
            }
        });
        Teacher { address, shared }
    }
}

impl Teacher {
    /// Fails as `plan` says.
    pub fn with(plan: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> Settings {
        Settings { plan: Box::new(plan), batch_plan: Box::new(|_| BatchFault::None), latency: Duration::ZERO, looks: 2 }
    }

    /// In so many of a hundred first calls one of `faults` happens; which, the seed and the prompt decide.
    pub fn seeded(seed: u64, percent: u64, faults: Vec<Fault>) -> Settings {
        Self::with(move |call| {
            let drawn = mix(seed ^ hash(&call.prompt));
            if call.before > 0 || drawn % 100 >= percent {
                return Fault::None;
            }
            faults[(drawn / 100) as usize % faults.len()].clone()
        })
    }

    /// Where chat completions are spoken.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.log()
    }

    /// Prompts that were answered to the last byte, in the order of their answers.
    pub fn paid(&self) -> Vec<String> {
        self.log().paid.clone()
    }

    /// Calls, those in batches among them.
    pub fn calls(&self) -> Vec<Call> {
        self.log().calls.clone()
    }

    /// `POST /v1/batches` and the like, in order.
    pub fn requests(&self) -> Vec<String> {
        self.log().requests.clone()
    }

    /// How many requests of this beginning came.
    pub fn count(&self, request: &str) -> usize {
        self.log().requests.iter().filter(|r| r.starts_with(request)).count()
    }

    /// The most calls that were open at once.
    pub fn most_open(&self) -> usize {
        self.shared.most_open.load(Ordering::SeqCst)
    }

    /// What the teacher answers to a prompt.
    pub fn answer(prompt: &str) -> String {
        format!("answer {:016x} to: {prompt}", hash(prompt))
    }

    /// What it charges for a prompt and its answer: tokens read and written.
    pub fn tokens(prompt: &str) -> (u64, u64) {
        (prompt.len() as u64, 10 + hash(prompt) % 10)
    }
}

impl Drop for Teacher {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All requests of a connection.
    fn serve(&self, stream: &TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut reader = std::io::BufReader::new(stream);
        while let Some(request) = Request::read(&mut reader) {
            if self.done.load(Ordering::SeqCst) {
                return;
            }
            self.log().requests.push(format!("{} {}", request.method, request.path));
            let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_open.fetch_max(open, Ordering::SeqCst);
            let (response, prompt) = self.respond(&request);
            self.open.fetch_sub(1, Ordering::SeqCst);
            // Noted first: who has the answer may look at once.
            let noted = prompt.filter(|_| response.arrives());
            self.log().paid.extend(noted.clone());
            let sent = response.write(stream, &self.done);
            if let (false, Some(prompt)) = (sent, noted) {
                let mut log = self.log();
                let at = log.paid.iter().rposition(|p| *p == prompt).expect("noted above");
                log.paid.remove(at);
            }
            if !sent || !response.keeps_connection() {
                return;
            }
        }
    }

    /// The answer to a request, and the prompt that is paid when it has arrived.
    fn respond(&self, request: &Request) -> (Response, Option<String>) {
        let api = match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/v1/chat/completions") => Api::OpenAi,
            ("POST", "/v1/messages") => Api::Anthropic,
            _ => return (self.batch_request(request), None),
        };
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return (error(400, "the body is no JSON"), None);
        };
        std::thread::sleep(self.latency);
        let call = self.note(body, request.headers.clone(), false);
        let fault = (self.plan)(&call);
        let response = reply(api, &call, &fault);
        let paid = response.status == 200;
        (response, paid.then_some(call.prompt))
    }

    fn note(&self, body: Value, headers: HashMap<String, String>, in_batch: bool) -> Call {
        let prompt = prompt(&body);
        let mut log = self.log();
        let before = log.asked.entry(prompt.clone()).or_default();
        let call = Call { prompt, before: *before, body, headers, in_batch };
        *before += 1;
        log.calls.push(call.clone());
        call
    }
}

/// The text of the last turn.
fn prompt(body: &Value) -> String {
    let last = body["messages"].as_array().and_then(|m| m.last()).cloned().unwrap_or_default();
    last["content"].as_str().unwrap_or_default().to_string()
}

fn error(status: u16, message: &str) -> Response {
    error_of(status, "fault", message)
}

fn error_of(status: u16, code: &str, message: &str) -> Response {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    let error = json!({ "type": kind, "code": code, "message": message });
    Response::json(status, &json!({ "type": "error", "error": error }))
}

fn reply(api: Api, call: &Call, fault: &Fault) -> Response {
    let whole = || Response::json(200, &message(api, call, fault));
    match fault {
        Fault::RateLimited => error_of(429, "rate_limit_exceeded", "too many requests"),
        Fault::Status(status, headers) => error(*status, "made to fail").with(headers),
        Fault::QuotaSpent => error_of(429, "insufficient_quota", "You exceeded your current quota"),
        Fault::KeyRefused => error_of(401, "invalid_api_key", "Incorrect API key provided: sk-...").with(&[]),
        Fault::UnknownModel => error_of(404, "model_not_found", "The model does not exist"),
        Fault::TooLong => error_of(400, "context_length_exceeded", "prompt is too long: maximum context length is 5"),
        Fault::Headers(headers) => whole().with(headers),
        Fault::Malformed => {
            let mut response = whole();
            response.body.truncate(response.body.len() / 2);
            response
        }
        Fault::WebPage => Response::new(200, "text/html", b"<html><body>Please log in</body></html>".to_vec()),
        Fault::Cut => whole().delivered(Delivery::Cut),
        Fault::Hangup => whole().delivered(Delivery::Hangup),
        Fault::Drip => whole().delivered(Delivery::Drip),
        Fault::Slow(time) => {
            std::thread::sleep(*time);
            whole()
        }
        Fault::Huge => Response::new(200, "application/json", vec![b' '; 17 << 20]),
        Fault::Moved(to) => Response::new(307, "text/plain", Vec::new()).with(&[("location", to.clone())]),
        Fault::WantsCompletionTokens if !call.body["max_tokens"].is_null() => {
            let message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.";
            let error = json!({ "code": "unsupported_parameter", "param": "max_tokens", "message": message });
            Response::json(400, &json!({ "error": error }))
        }
        _ => whole(),
    }
}

/// The body of an answer.
fn message(api: Api, call: &Call, fault: &Fault) -> Value {
    let prompt = &call.prompt;
    let (read, written) = Teacher::tokens(prompt);
    let text = match fault {
        Fault::Empty => String::new(),
        Fault::Truncated => Teacher::answer(prompt).chars().take(6).collect(),
        Fault::Says(text) => text.clone(),
        _ => Teacher::answer(prompt),
    };
    match api {
        Api::OpenAi => {
            let finish = match fault {
                Fault::Truncated => "length",
                Fault::Filtered => "content_filter",
                _ => "stop",
            };
            let refusal = (*fault == Fault::Refusal).then_some("I will not.");
            let content = refusal.is_none().then_some(text);
            json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "test-model-0001",
                "choices": [{ "index": 0, "finish_reason": finish,
                    "message": { "role": "assistant", "content": content, "refusal": refusal } }],
                "usage": { "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written },
            })
        }
        Api::Anthropic => {
            let stop = match fault {
                Fault::Truncated => "max_tokens",
                Fault::Refusal | Fault::Filtered => "refusal",
                _ => "end_turn",
            };
            let content = if text.is_empty() { json!([]) } else { json!([{ "type": "text", "text": text }]) };
            json!({
                "id": "msg_1", "type": "message", "role": "assistant", "model": "test-model-0001",
                "content": content, "stop_reason": stop, "stop_sequence": null,
                "usage": { "input_tokens": read, "output_tokens": written },
            })
        }
    }
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// SplitMix64's mixing of bits.
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
