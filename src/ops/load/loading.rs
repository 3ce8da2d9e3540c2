//! Rows from files to the node's output: cut, named, fitted, drawn.

use super::files::{self, DataFile, Format, Problem};
use super::reader::{Entry, Fault, RowReader};
use super::shape::{Shape, TableBuilder};
use super::{columnar, csv, json};
use crate::exec::{NodeCx, NodeHost, Rejected, RunError};
use crate::ops::rows::arrow_failed;
use crate::ops::sample::Draw;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use std::sync::Arc;

/// Rows of a source to be taken, by their index.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub offset: u64,
    pub limit: Option<u64>,
}

impl Cut {
    fn takes(self, index: u64) -> bool {
        index >= self.offset && !self.ends_before(index)
    }

    fn ends_before(self, index: u64) -> bool {
        self.limit.is_some_and(|limit| index >= self.offset.saturating_add(limit))
    }

    pub fn rows(self, all: u64) -> u64 {
        let rest = all.saturating_sub(self.offset);
        self.limit.map_or(rest, |limit| rest.min(limit))
    }
}

/// How rows without an id of their own are named.
pub struct Naming {
    pub prefix: String,
    /// The index at which counting began.
    pub start: u64,
}

impl Naming {
    fn name(&self, index: u64) -> String {
        format!("{}:{}", self.prefix, index - self.start)
    }
}

/// Bytes of values in a batch, so that long rows make short batches.
const BATCH_BYTES: usize = 16 << 20;

/// Whom the rows of a file go to.
pub trait Taker {
    fn batch_rows(&self) -> usize;
    fn take(&self, batch: RecordBatch) -> Result<(), RunError>;
    fn reject(&self, row: Rejected) -> Result<(), RunError>;
    fn stopping(&self) -> bool;
}

impl Taker for NodeCx {
    fn batch_rows(&self) -> usize {
        self.options().batch_rows
    }

    fn take(&self, batch: RecordBatch) -> Result<(), RunError> {
        self.emit(0, batch)
    }

    fn reject(&self, row: Rejected) -> Result<(), RunError> {
        NodeHost::reject(&**self, row)
    }

    fn stopping(&self) -> bool {
        NodeHost::stopping(&**self)
    }
}

/// A `load` at work.
pub struct Loading<'a> {
    to: &'a dyn Taker,
    shape: &'a Shape,
    cut: Cut,
    draw: Option<Draw>,
    /// Of the next row, over all files.
    index: u64,
    /// Of the first row of the file at hand.
    file_start: u64,
}

impl<'a> Loading<'a> {
    pub fn new(to: &'a dyn Taker, shape: &'a Shape, cut: Cut, draw: Option<Draw>) -> Self {
        Self { to, shape, cut, draw, index: 0, file_start: 0 }
    }

    /// The index of the next row, over all files.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Reads a file after those before it.
    pub fn file(&mut self, file: &DataFile, naming: &Naming) -> Result<(), RunError> {
        self.file_start = self.index;
        let open = || files::open_bytes(&file.path).map_err(|e| Problem::io(&file.path, &e));
        match file.format {
            Format::Json => self.rows(&mut json::Elements::new(open()?), file, naming),
            Format::Jsonl => self.rows(&mut json::Lines::new(open()?), file, naming),
            Format::Csv => self.rows(&mut csv::Records::new(open()?, file.delimiter)?, file, naming),
            Format::Parquet | Format::Arrow => self.batches(file, naming),
        }
    }

    fn rows(&mut self, reader: &mut dyn RowReader, file: &DataFile, naming: &Naming) -> Result<(), RunError> {
        let shape = self.shape;
        let mut builder = TableBuilder::new(shape);
        let mut indices = Vec::new();
        while !self.cut.ends_before(self.index)
            && let Some(Entry { place, body }) = reader.next()?
        {
            let index = self.index;
            self.index += 1;
            if !self.cut.takes(index) && !matches!(&body, Err(fault) if fault.ends) {
                continue;
            }
            let pushed = body.and_then(|body| {
                let name = || naming.name(index);
                let pushed = body.cells().and_then(|cells| builder.push(cells, name));
                pushed.map_err(|f| if f.row.is_null() { Fault { row: body.to_json(), ..f } } else { f })
            });
            match pushed {
                Ok(()) => indices.push(index),
                Err(fault) => self.reject(place.within(file.name()), fault)?,
            }
            if builder.rows() >= self.to.batch_rows() || builder.bytes() >= BATCH_BYTES {
                self.give(builder.finish(), std::mem::take(&mut indices))?;
            }
        }
        self.give(builder.finish(), indices)
    }

    fn batches(&mut self, file: &DataFile, naming: &Naming) -> Result<(), RunError> {
        let source = columnar::open(file, self.to.batch_rows())?;
        for batch in source.batches {
            let first = self.index;
            match batch {
                Ok(batch) => {
                    let skip = self.cut.offset.saturating_sub(first).min(batch.num_rows() as u64) as usize;
                    let end = self.cut.limit.map_or(u64::MAX, |l| self.cut.offset.saturating_add(l));
                    let stop = end.saturating_sub(first).min(batch.num_rows() as u64) as usize;
                    self.index += batch.num_rows() as u64;
                    self.batch(&batch.slice(skip, stop.saturating_sub(skip)), first + skip as u64, file, naming)?;
                }
                Err(error) => {
                    let row = first - self.file_start;
                    let lost =
                        source.rows.map_or(String::new(), |rows| format!(" ({row} of {rows} rows could be read)"));
                    let message = format!("the file is damaged or cut short here{lost}: {error}");
                    self.reject(format!("{}#{row}", file.name()), Fault::new("truncated", message))?;
                }
            }
            if self.cut.ends_before(self.index) {
                break;
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, first: u64, file: &DataFile, naming: &Naming) -> Result<(), RunError> {
        let (fitted, misfits) = columnar::fit(batch, self.shape);
        for misfit in misfits {
            self.reject(format!("{}#{}", file.name(), first + misfit.row as u64 - self.file_start), misfit.fault)?;
        }
        for piece in fitted {
            let indices: Vec<u64> = piece.rows.iter().map(|row| first + *row as u64).collect();
            let name = || indices.iter().map(|i| Some(naming.name(*i))).collect::<StringArray>();
            let ids: ArrayRef = Arc::new(piece.ids.unwrap_or_else(name));
            let columns = std::iter::once(ids).chain(piece.columns).collect();
            let batch = RecordBatch::try_new(self.shape.schema(), columns).map_err(arrow_failed)?;
            self.give(batch, indices)?;
        }
        Ok(())
    }

    fn reject(&self, place: String, fault: Fault) -> Result<(), RunError> {
        self.to.reject(Rejected { id: place, reason: fault.reason, message: fault.message, row: fault.row })
    }

    /// Hands rows on, or to the sample.
    fn give(&mut self, batch: RecordBatch, indices: Vec<u64>) -> Result<(), RunError> {
        if self.to.stopping() {
            return Err(RunError::Interrupted);
        }
        match &mut self.draw {
            _ if batch.num_rows() == 0 => Ok(()),
            Some(draw) => draw.push(&batch, &indices),
            None => self.to.take(batch),
        }
    }

    /// Gives what a sample has held back.
    pub fn finish(self) -> Result<(), RunError> {
        for batch in self.draw.map(Draw::finish).transpose()?.unwrap_or_default() {
            self.to.take(batch)?;
        }
        Ok(())
    }
}
