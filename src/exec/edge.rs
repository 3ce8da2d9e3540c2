//! Live edges: bounded channels whose end tells "finished" from "failed".

use super::event::Meter;
use super::{RunError, Stop};
use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How often a waiting thread looks whether the run is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// The producer's end. Dropped without [`finish`](Self::finish), it tells the consumer that the producer failed.
pub struct Outlet {
    sender: Sender<RecordBatch>,
    finished: Arc<AtomicBool>,
}

/// The consumer's end. Dropped early, it tells the producer that nobody wants more.
pub struct Inlet {
    receiver: Receiver<RecordBatch>,
    finished: Arc<AtomicBool>,
}

/// A live edge that holds at most so many batches.
pub fn edge(batches: usize) -> (Outlet, Inlet) {
    let (sender, receiver) = crossbeam_channel::bounded(batches.max(1));
    let finished = Arc::new(AtomicBool::new(false));
    (Outlet { sender, finished: finished.clone() }, Inlet { receiver, finished })
}

impl Outlet {
    /// Hands a batch on, waiting while the edge is full. A consumer that went away is no error.
    pub fn send(&self, mut batch: RecordBatch, stop: &Stop) -> Result<(), RunError> {
        loop {
            match self.sender.send_timeout(batch, LOOK) {
                Ok(()) | Err(SendTimeoutError::Disconnected(_)) => return Ok(()),
                Err(SendTimeoutError::Timeout(_)) if stop.is_set() => return Err(RunError::Interrupted),
                Err(SendTimeoutError::Timeout(back)) => batch = back,
            }
        }
    }

    /// Tells the consumer that it has got all rows.
    pub fn finish(self) {
        self.finished.store(true, Ordering::SeqCst);
    }
}

/// What the parts of a running node share: counters, the stop flag, and the first failure, so that an operator that
/// swallows an error cannot finish as if nothing had been lost.
pub struct Shared {
    pub meter: Meter,
    pub stop: Stop,
    fault: OnceLock<RunError>,
}

impl Shared {
    pub fn new(meter: Meter, stop: Stop) -> Self {
        Self { meter, stop, fault: OnceLock::new() }
    }

    /// Keeps the first failure of the node's host.
    pub fn note<T>(&self, result: Result<T, RunError>) -> Result<T, RunError> {
        if let Err(error) = &result {
            let _ = self.fault.set(error.clone());
        }
        result
    }

    pub fn fault(&self) -> Option<RunError> {
        self.fault.get().cloned()
    }
}

/// The rows of one input, counted.
pub struct Stream<I> {
    pub inner: I,
    pub index: usize,
    pub shared: Arc<Shared>,
    pub rows: u64,
    pub ended: bool,
}

/// Where a stream's batches come from.
pub trait Source {
    /// The next batch; `None` at the end.
    fn pull(&mut self, shared: &Shared) -> Option<Result<RecordBatch, RunError>>;
}

impl<I: Source> Iterator for Stream<I> {
    type Item = Result<RecordBatch, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let shared = &self.shared;
        let pulled = match shared.stop.is_set() {
            true => Some(Err(RunError::Interrupted)),
            false => shared.meter.wait_in.time(|| self.inner.pull(shared)),
        };
        match pulled {
            Some(Ok(batch)) => {
                self.rows += batch.num_rows() as u64;
                shared.meter.batches_in.fetch_add(1, Ordering::Relaxed);
                shared.meter.rows_in[self.index].fetch_max(self.rows, Ordering::Relaxed);
                Some(Ok(batch))
            }
            Some(Err(error)) => {
                self.ended = true;
                Some(shared.note(Err(error)))
            }
            None => {
                self.ended = true;
                None
            }
        }
    }
}

impl Source for Inlet {
    fn pull(&mut self, shared: &Shared) -> Option<Result<RecordBatch, RunError>> {
        let waiting = self.receiver.len() as u64;
        shared.meter.queue.store(waiting, Ordering::Relaxed);
        shared.meter.queue_max.fetch_max(waiting, Ordering::Relaxed);
        loop {
            match self.receiver.recv_timeout(LOOK) {
                Ok(batch) => return Some(Ok(batch)),
                Err(RecvTimeoutError::Timeout) if shared.stop.is_set() => return Some(Err(RunError::Interrupted)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if self.finished.load(Ordering::SeqCst) => return None,
                Err(RecvTimeoutError::Disconnected) => return Some(Err(RunError::Closed)),
            }
        }
    }
}

/// Rows from the store.
pub struct Stored(pub super::BatchStream);

impl Source for Stored {
    fn pull(&mut self, _: &Shared) -> Option<Result<RecordBatch, RunError>> {
        self.0.next()
    }
}
