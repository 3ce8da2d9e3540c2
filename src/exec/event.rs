//! What happens in a run, for `events.jsonl` and for who watches. Counted by the executor, not by operators.

use crate::plan::{Fingerprint, NodeName};
use crate::teacher::hosted::Spent;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One line of `events.jsonl`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    RunStarted {
        pipeline: &'a str,
        store: PathBuf,
        out: PathBuf,
        nodes: usize,
        to_run: usize,
    },
    /// The output was in the store already.
    NodeCached {
        node: Node<'a>,
        op: &'a str,
        fingerprint: &'a Fingerprint,
        rows_out: u64,
        quarantined: u64,
    },
    NodeSkipped {
        node: Node<'a>,
        reason: &'a str,
    },
    /// An artifact failed its check and was moved away; its node runs again.
    ArtifactBroken {
        node: Node<'a>,
        fingerprint: &'a Fingerprint,
        why: &'a str,
        moved_to: PathBuf,
    },
    NodeStarted {
        node: Node<'a>,
        op: &'a str,
        fingerprint: &'a Fingerprint,
        stage: usize,
    },
    NodeProgress {
        node: Node<'a>,
        op: &'a str,
        counts: Counts,
    },
    NodeFinished {
        node: Node<'a>,
        op: &'a str,
        outcome: &'a str,
        message: Option<String>,
        counts: Counts,
    },
    /// At the end of a run: what it has spent on a hosted teacher.
    TeacherSpent(&'a Spent),
    RunFinished {
        outcome: &'a str,
        seconds: f64,
        ran: usize,
        cached: usize,
        failed: usize,
        quarantined: u64,
    },
}

/// A node's name, written as people write it.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a>(pub &'a NodeName);

impl Serialize for Node<'_> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self.0)
    }
}

/// What a node has done so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Counts {
    pub rows_in: u64,
    pub batches_in: u64,
    pub rows_out: u64,
    pub batches_out: u64,
    pub quarantined: u64,
    pub tokens: u64,
    /// Rows done, and of how many where known: as the node says, otherwise by rows in or out.
    pub done: u64,
    pub total: Option<u64>,
    pub seconds: f64,
    /// Time in the operator itself: neither waiting nor writing to the store.
    pub busy_seconds: f64,
    /// Waiting for rows (or reading them from the store).
    pub wait_in_seconds: f64,
    /// Waiting for consumers that are behind.
    pub wait_out_seconds: f64,
    pub store_seconds: f64,
    /// Batches waiting at the input now, and at most.
    pub queue: u64,
    pub queue_max: u64,
    /// What the node last measured, by name, such as a loss.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub measured: IndexMap<String, f64>,
}

/// What a node that writes measures: texts that are asked for and have not come, and tokens of those that a model of the
/// pipeline is writing or has written.
pub const TEXTS_OPEN: &str = "texts_open";
pub const TOKENS_WRITTEN: &str = "tokens_written";

/// Watches a run. Called from one thread, several times a second for [`Event::NodeProgress`].
pub trait Observer: Sync {
    fn event(&self, event: &Event<'_>);
}

/// Watches nothing.
pub struct NoObserver;

impl Observer for NoObserver {
    fn event(&self, _: &Event<'_>) {}
}

/// The counters of a running node.
pub struct Meter {
    started: Instant,
    /// For each input, the most rows that one reading of it gave.
    pub rows_in: Vec<AtomicU64>,
    pub batches_in: AtomicU64,
    pub rows_out: AtomicU64,
    pub batches_out: AtomicU64,
    pub quarantined: AtomicU64,
    pub tokens: AtomicU64,
    pub queue: AtomicU64,
    pub queue_max: AtomicU64,
    pub wait_in: Clock,
    pub wait_out: Clock,
    pub store: Clock,
    /// As the operator says; `u64::MAX` as long as it says nothing.
    pub done: AtomicU64,
    /// `u64::MAX` where unknown.
    pub total: AtomicU64,
    pub measured: Mutex<IndexMap<String, f64>>,
}

/// Adds up time.
#[derive(Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// Runs `work` and adds the time it took.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.0.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }

    fn seconds(&self) -> f64 {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)).as_secs_f64()
    }
}

impl Meter {
    /// `expected` is the plan's estimate of the rows to be done.
    pub fn new(inputs: usize, expected: Option<u64>) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            started: Instant::now(),
            rows_in: (0..inputs).map(|_| zero()).collect(),
            batches_in: zero(),
            rows_out: zero(),
            batches_out: zero(),
            quarantined: zero(),
            tokens: zero(),
            queue: zero(),
            queue_max: zero(),
            wait_in: Clock::default(),
            wait_out: Clock::default(),
            store: Clock::default(),
            done: AtomicU64::new(u64::MAX),
            total: AtomicU64::new(expected.unwrap_or(u64::MAX)),
            measured: Mutex::default(),
        }
    }

    /// Rows read from all inputs; without inputs, rows given and rejected.
    pub fn rows_in(&self) -> u64 {
        if self.rows_in.is_empty() {
            return self.rows_out.load(Ordering::Relaxed) + self.quarantined.load(Ordering::Relaxed);
        }
        self.rows_in.iter().map(|r| r.load(Ordering::Relaxed)).sum()
    }

    pub fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed)).filter(|t| *t != u64::MAX)
    }

    pub fn counts(&self) -> Counts {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let (rows_in, rows_out) = (self.rows_in(), get(&self.rows_out));
        let seconds = self.started.elapsed().as_secs_f64();
        let (wait_in, wait_out, store) = (self.wait_in.seconds(), self.wait_out.seconds(), self.store.seconds());
        Counts {
            rows_in,
            batches_in: get(&self.batches_in),
            rows_out,
            batches_out: get(&self.batches_out),
            quarantined: get(&self.quarantined),
            tokens: get(&self.tokens),
            done: Some(get(&self.done)).filter(|d| *d != u64::MAX).unwrap_or(rows_out.max(rows_in)),
            total: self.total(),
            seconds,
            busy_seconds: (seconds - wait_in - wait_out - store).max(0.0),
            wait_in_seconds: wait_in,
            wait_out_seconds: wait_out,
            store_seconds: store,
            queue: get(&self.queue),
            queue_max: get(&self.queue_max),
            measured: self.measured.lock().unwrap_or_else(|e| e.into_inner()).clone(),
        }
    }
}
