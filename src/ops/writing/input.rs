//! The rows of the input, read ahead by one batch.

use super::helper::{Event, Helper};
use super::task::InRow;
use crate::exec::{NodeCx, RunError};
use crate::model::Address;
use crate::store::row_bytes;
use arrow::array::RecordBatch;
use std::collections::VecDeque;
use std::sync::Arc;

/// Rows and what each of them weighs.
pub struct Batch {
    rows: Arc<RecordBatch>,
    bytes: Vec<u64>,
}

/// Rows that can be had without waiting, and a thread that waits for others.
pub struct Input {
    reader: Helper<()>,
    /// At most two: the one in work, and the next.
    batches: VecDeque<Batch>,
    /// The next row of the first of them.
    at: usize,
    /// Rows of the batches before it.
    before: u64,
    reading: bool,
    ended: bool,
}

impl Input {
    pub fn open(cx: &NodeCx) -> Result<Self, RunError> {
        let mut stream = cx.open(0)?;
        let read = move |()| match stream.next() {
            Some(rows) => rows.map(|rows| {
                let bytes = row_bytes(&rows);
                Event::Read(Some(Batch { rows: Arc::new(rows), bytes }))
            }),
            None => Ok(Event::Read(None)),
        };
        let reader = Helper::start("rows", read)?.detached();
        Ok(Self { reader, batches: VecDeque::new(), at: 0, before: 0, reading: false, ended: false })
    }

    /// Has the next batch read, if it is time for that.
    pub fn read_ahead(&mut self, address: impl FnOnce() -> Address<Event>) {
        if !self.reading && !self.ended && self.batches.len() < 2 {
            self.reading = true;
            self.reader.tell((), address());
        }
    }

    pub fn arrived(&mut self, batch: Option<Batch>) {
        self.reading = false;
        match batch {
            Some(batch) => self.batches.push_back(batch),
            None => self.ended = true,
        }
    }

    /// Whether all rows were taken.
    pub fn is_done(&self) -> bool {
        self.ended && self.batches.is_empty()
    }

    /// The next row and its bytes, if it is there.
    pub fn take(&mut self) -> Option<(InRow, u64)> {
        loop {
            let batch = self.batches.front()?;
            if self.at < batch.bytes.len() {
                let (row, number) = (self.at, self.before + self.at as u64);
                self.at += 1;
                return Some((InRow::of(&batch.rows, row, number), batch.bytes[row]));
            }
            self.before += batch.bytes.len() as u64;
            self.at = 0;
            self.batches.pop_front();
        }
    }
}
