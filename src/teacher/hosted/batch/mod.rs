//! Calls that are handed on together and answered within a day.
//!
//! ```text
//! submit -+- noted as sent ----------------------> claim --+
//!         |                                                +-> look … look -> results -> outcome, or again
//!         +- waiting -> (full, or flush) -> note -> make --+
//! ```
//!
//! Before a batch is made it is noted which calls go into it, under a nonce that the provider keeps with it. So a process
//! that is killed at any moment leaves enough for the next one to find its batches, and no call is paid twice. A stop
//! cancels nothing: batches go on, and the next run collects them.

mod anthropic;
mod collect;
mod format;
mod make;
mod notes;
mod openai;
mod talk;

pub use anthropic::AnthropicBatches;
pub use format::Format;
pub use openai::OpenAiBatches;

use super::desk::Desk;
use super::ledger::Hold;
use super::pace::random;
use super::protocol::most;
use crate::exec::RunError;
use crate::model::Address;
use crate::store::Journal;
use crate::teacher::{Ask, Outcome, Posted, hex};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::runtime::Handle;
use tokio::time::sleep;

type Key = [u8; 16];

/// The most calls that one teacher has waiting.
pub const WINDOW: usize = 50_000;

/// The batches of a teacher.
pub struct Batches {
    desk: Arc<Desk>,
    format: Box<dyn Format>,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// To be sent.
    waiting: Vec<Call>,
    /// Whether what waits is about to be sent.
    armed: bool,
    /// Calls in batches, by nonce.
    claims: HashMap<String, Claims>,
    /// The most calls that the provider seems to take at once.
    most: Option<usize>,
}

/// Calls that wait for the results of a batch; the same one may be wanted several times.
type Claims = HashMap<Key, Vec<Call>>;

struct Call {
    ask: Ask,
    to: Address<Outcome>,
    key: Key,
    journal: Arc<Journal>,
    /// How often it was sent before.
    generation: u32,
    /// How often it has failed in this run.
    failed: u32,
    /// What it may cost; `None` if an earlier run sent it.
    hold: Option<Hold>,
}

/// Calls and the lines that ask for them.
struct Load {
    journal: Arc<Journal>,
    calls: Claims,
    lines: Vec<(Key, String)>,
    nonce: String,
}

impl Batches {
    pub fn new(desk: Arc<Desk>, format: Box<dyn Format>, runtime: &Handle) -> Arc<Self> {
        let all = Arc::new(Self { desk, format, runtime: runtime.clone(), state: Mutex::default() });
        runtime.spawn(clear_at_the_end(all.desk.clone(), Arc::downgrade(&all)));
        all
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes calls on. Those that an earlier run has sent are waited for.
    pub fn submit(self: &Arc<Self>, calls: Vec<Posted>, journal: &Arc<Journal>) -> Result<(), RunError> {
        let (most, _) = self.format.most();
        for Posted { ask, to } in calls {
            let key = ask.key();
            let found = notes::find(journal, &key);
            let generation = found.as_ref().map_or_else(|next| *next, |sent| sent.generation);
            let call = Call { ask, to, key, journal: journal.clone(), generation, failed: 0, hold: None };
            let mut state = self.state();
            // Looked at under the lock: what waits is cleared after the end is set.
            if let Some(error) = self.desk.end.error() {
                return Err(error);
            }
            match found {
                Ok(sent) => self.claim(&mut state, sent.nonce, call),
                Err(_) => state.waiting.push(call),
            }
            if state.waiting.len() >= most {
                drop(state);
                self.send();
            }
        }
        Ok(())
    }

    /// Sends what waits, when nothing was added for a moment.
    pub fn flush(self: &Arc<Self>) {
        let mut state = self.state();
        if state.armed || state.waiting.is_empty() {
            return;
        }
        state.armed = true;
        let this = self.clone();
        self.runtime.spawn(async move {
            sleep(this.desk.pace.linger).await;
            this.state().armed = false;
            this.send();
        });
    }

    /// A call that is in a batch of an earlier run.
    fn claim(self: &Arc<Self>, state: &mut State, nonce: String, call: Call) {
        let journal = call.journal.clone();
        let claims = state.claims.entry(nonce.clone()).or_insert_with(|| {
            let this = self.clone();
            self.runtime.spawn(async move {
                // Others are about to be claimed too.
                sleep(this.desk.pace.linger).await;
                this.resume(nonce, &journal).await;
            });
            Claims::new()
        });
        claims.entry(call.key).or_default().push(call);
    }

    /// Makes batches of what waits, as far as the budget goes.
    fn send(self: &Arc<Self>) {
        if self.desk.end.error().is_some() {
            return;
        }
        let (mut state, (most_calls, most_bytes)) = (self.state(), self.format.most());
        let most_calls = state.most.unwrap_or(most_calls);
        let waiting = std::mem::take(&mut state.waiting);
        let mut loads: Vec<Load> = Vec::new();
        let mut bytes = 0;
        let mut blocked = false;
        for mut call in waiting {
            if blocked {
                state.waiting.push(call);
                continue;
            }
            if !call.to.is_wanted() {
                continue;
            }
            let body = self.desk.protocol.body(&call.ask);
            let text = serde_json::Value::Object(body.clone()).to_string();
            match self.desk.ledger.try_hold(most(&call.ask, &body, text.len())) {
                Ok(Some(hold)) => call.hold = Some(hold),
                Ok(None) => {
                    blocked = true;
                    state.waiting.push(call);
                    continue;
                }
                Err(error) => {
                    call.to.fail(&error);
                    drop(state);
                    self.desk.stop(error);
                    return;
                }
            }
            let full = |load: &Load| load.lines.len() >= most_calls || bytes + text.len() > most_bytes;
            let other = |load: &Load| !Arc::ptr_eq(&load.journal, &call.journal);
            if loads.last().is_none_or(|load| full(load) || other(load)) {
                bytes = 0;
                loads.push(Load::new(&call.journal));
            }
            if let Some(load) = loads.last_mut() {
                // The line has names besides.
                bytes += text.len() + 256;
                load.add(call, self.format.as_ref(), body);
            }
        }
        for load in loads {
            let this = self.clone();
            self.runtime.spawn(async move { this.make(load).await });
        }
    }

    /// Sends calls again, in another batch.
    fn again(self: &Arc<Self>, calls: impl IntoIterator<Item = Call>) {
        let mut state = self.state();
        let more = calls.into_iter().map(|call| Call { generation: call.generation + 1, hold: None, ..call });
        state.waiting.extend(more);
        drop(state);
        if let Some(error) = self.desk.end.error() {
            self.clear(&error);
        }
        self.flush();
    }

    /// Fails what waits.
    fn clear(&self, error: &RunError) {
        let waiting = std::mem::take(&mut self.state().waiting);
        waiting.into_iter().for_each(|call| call.to.fail(error));
    }

    /// Fails the calls of a batch. If it is at the provider it goes on there.
    fn give_up(&self, nonce: &str, more: Claims, error: &RunError, made: bool) {
        let claims = self.state().claims.remove(nonce).unwrap_or_default();
        let calls: Vec<Call> = claims.into_values().chain(more.into_values()).flatten().collect();
        if made {
            self.desk.ledger.count(|s| {
                s.open_batches += 1;
                s.open_calls += calls.len() as u64;
            });
        }
        calls.into_iter().for_each(|call| call.to.fail(error));
    }
}

impl Load {
    fn new(journal: &Arc<Journal>) -> Self {
        let seed = [random().to_le_bytes(), random().to_le_bytes(), super::moment::now().to_le_bytes()];
        let nonce = hex(&Journal::key(&[&seed.concat()]))[..16].to_string();
        Self { journal: journal.clone(), calls: Claims::new(), lines: Vec::new(), nonce }
    }

    fn add(&mut self, call: Call, format: &dyn Format, body: serde_json::Map<String, serde_json::Value>) {
        if !self.calls.contains_key(&call.key) {
            self.lines.push((call.key, format.line(&name(&call.key, &self.nonce), body)));
        }
        self.calls.entry(call.key).or_default().push(call);
    }
}

/// A call's name in a batch.
fn name(key: &Key, nonce: &str) -> String {
    format!("{}-{nonce}", hex(key))
}

/// The call of a name, and the nonce of its batch.
fn named(name: &str) -> Option<(Key, &str)> {
    let (digits, nonce) = name.split_once('-')?;
    let mut key = [0; 16];
    (digits.len() == 32 && digits.is_ascii()).then_some(())?;
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some((key, nonce))
}

async fn clear_at_the_end(desk: Arc<Desk>, batches: Weak<Batches>) {
    let error = desk.end.come().await;
    if let Some(batches) = batches.upgrade() {
        batches.clear(&error);
    }
}
