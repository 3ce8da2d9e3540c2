//! Teachers behind an API: chat completions and messages, one call at a time or in batches.
//!
//! ```text
//! submit -> line -> budget -> gate (limits, pauses) -> wire -> protocol -> verdict -> outcome
//!                     ^                                                      |
//!                     +--------------- again, or after a wait ---------------+
//! ```
//!
//! Nothing here changes an answer: how fast, how often and in which order calls are made is not part of what is asked.

mod anthropic;
mod batch;
mod desk;
mod end;
mod gate;
mod ledger;
mod moment;
mod office;
mod openai;
mod pace;
mod prices;
mod protocol;
#[cfg(test)]
pub(crate) mod tests;
mod verdict;
mod wire;

pub use ledger::{Spent, usd};
pub use office::Office;
pub use prices::{as_of, price};

use super::{Posted, Teacher, scope};
use crate::config::{Api, Hosted};
use crate::exec::{RunError, Stop};
use crate::plan::TeacherInfo;
use crate::store::Journal;
use anthropic::Anthropic;
use batch::{AnthropicBatches, Batches, Format, OpenAiBatches};
use desk::{Desk, Line};
use end::End;
use gate::Gate;
use ledger::Ledger;
use openai::OpenAi;
use pace::Pace;
use protocol::Protocol;
use serde_json::Value;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use wire::Wire;

/// How often a stop is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// A writer behind an API.
pub struct HostedTeacher {
    desk: Arc<Desk>,
    /// Where calls go together.
    batches: Option<Arc<Batches>>,
    office: Arc<Office>,
    scope: Value,
}

impl HostedTeacher {
    /// Reads the key from the environment. Nothing is sent before the first call.
    pub fn hire(info: &TeacherInfo, hosted: &Hosted, office: Arc<Office>, stop: &Stop) -> Result<Self, RunError> {
        Self::with(info, hosted, office, stop, Pace::default(), &|name| std::env::var(name).ok())
    }

    fn with(
        info: &TeacherInfo,
        hosted: &Hosted,
        office: Arc<Office>,
        stop: &Stop,
        pace: Pace,
        look_up: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, RunError> {
        let name = &info.decl.name;
        let (protocol, format): (Arc<dyn Protocol>, Box<dyn Format>) = match hosted.api {
            Api::OpenAi => {
                let protocol = Arc::new(OpenAi::new(hosted));
                (protocol.clone(), Box::new(OpenAiBatches(protocol)))
            }
            Api::Anthropic => {
                let protocol = Arc::new(Anthropic::new(hosted));
                (protocol.clone(), Box::new(AnthropicBatches(protocol)))
            }
        };
        let price = price(hosted);
        if hosted.budget.money.is_some() && price.is_none() {
            return Err(RunError::failed(
                "no-price",
                format!("teacher `{name}` has a budget in money and no known price"),
            )
            .help("say what the model costs: `price input=... output=...`, US dollars for a million tokens"));
        }
        let limits = &hosted.limits;
        let per_minute = (limits.requests_per_minute.map(f64::from), limits.tokens_per_minute.map(|n| n as f64));
        let desk = Arc::new(Desk {
            name: name.clone(),
            model: hosted.model.value.clone(),
            limits: limits.clone(),
            pace,
            wire: Wire::new(name, hosted, look_up, |key| protocol.sign(key))?,
            protocol,
            gate: Gate::new(per_minute.0, per_minute.1, pace.patience, Instant::now()),
            turn: tokio::sync::Mutex::default(),
            ledger: Arc::new(Ledger::new(name, hosted.budget.clone(), price)),
            end: End::default(),
            line: Mutex::new(Line::default()),
            replies: AtomicU64::new(0),
        });
        office.handle().spawn(watch(Arc::downgrade(&desk), stop.clone()));
        let batches = hosted.batch.then(|| Batches::new(desk.clone(), format, office.handle()));
        Ok(Self { desk, batches, office, scope: scope(&info.digest) })
    }

    /// What the run has spent so far.
    pub fn spent(&self) -> Spent {
        self.desk.ledger.spent()
    }
}

/// Closes the desk when the run is to stop.
async fn watch(desk: Weak<Desk>, stop: Stop) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(desk) = desk.upgrade() else { return };
        if stop.is_set() {
            desk.close(RunError::Interrupted);
            return;
        }
    }
}

impl Teacher for HostedTeacher {
    fn submit(&self, calls: Vec<Posted>, journal: &Arc<Journal>) -> Result<(), RunError> {
        match &self.batches {
            Some(batches) => batches.submit(calls, journal),
            None => self.desk.submit(calls, self.office.handle()),
        }
    }

    fn flush(&self) {
        if let Some(batches) = &self.batches {
            batches.flush();
        }
    }

    /// As many again wait in line, so that nobody idles while answers are noted.
    fn window(&self) -> usize {
        self.batches.as_ref().map_or(self.desk.limits.concurrency * 2, |_| batch::WINDOW)
    }

    fn scope(&self) -> Option<Value> {
        Some(self.scope.clone())
    }
}
