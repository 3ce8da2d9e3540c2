//! What a running node sees of the executor.

use super::edge::{Inlet, Outlet, Shared, Stored, Stream};
use super::{BatchStream, Lanes, NodeHost, Rejected, RunError, RunInput};
use crate::config::RunOptions;
use crate::model::ModelLane;
use crate::plan::{Fingerprint, ModelInfo, NodeName, TeacherInfo};
use crate::report::grid::Grid;
use crate::store::{Artifact, ArtifactWriter, Journal, JournalStore, SegmentJournal, Store, split, weigh};
use crate::teacher::{Teacher, Teachers};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use indexmap::IndexMap;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

/// Bytes of a batch on a live edge, so that an edge is bounded also where rows are large.
const BATCH_BYTES: u64 = 4 << 20;

/// Where an input's rows are.
pub enum Source {
    Live(Mutex<Option<Inlet>>),
    Stored(Box<Artifact>, usize),
    /// The producer was skipped: there are no rows.
    Nothing,
}

/// The executor's side of a running node.
pub struct Host {
    pub name: NodeName,
    pub seed: u64,
    pub fingerprint: Fingerprint,
    pub inputs: Vec<RunInput>,
    pub sources: Vec<Source>,
    pub outputs: Vec<Output>,
    /// Taken out when the node has finished.
    pub writer: RwLock<Option<ArtifactWriter>>,
    pub store: Store,
    pub shared: Arc<Shared>,
    pub options: RunOptions,
    pub models: IndexMap<String, ModelInfo>,
    pub teachers: IndexMap<String, TeacherInfo>,
    pub lanes: Arc<dyn Lanes>,
    pub staff: Arc<dyn Teachers>,
    pub progress: Arc<Mutex<Progress>>,
}

/// An output and its live readers. The lock keeps rows in the same order for all of them and the store.
pub struct Output {
    pub schema: SchemaRef,
    pub outlets: Mutex<Vec<Outlet>>,
}

/// Rows of a journalled node that need not be computed again.
#[derive(Default)]
pub struct Progress {
    done: HashSet<[u8; 16]>,
    saved: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Host {
    /// Lets go of the inputs: a producer must not wait for a reader that has returned.
    pub fn close_inputs(&self) {
        for source in &self.sources {
            if let Source::Live(inlet) = source {
                lock(inlet).take();
            }
        }
    }

    /// Lets go of the live readers, telling them whether they got all rows.
    pub fn close_outputs(&self, finished: bool) {
        for output in &self.outputs {
            for outlet in std::mem::take(&mut *lock(&output.outlets)) {
                if finished {
                    outlet.finish();
                }
            }
        }
    }

    /// The writer, once.
    pub fn take_writer(&self) -> Option<ArtifactWriter> {
        self.writer.write().unwrap_or_else(|e| e.into_inner()).take()
    }

    fn with_writer<T>(&self, work: impl FnOnce(&ArtifactWriter) -> Result<T, RunError>) -> Result<T, RunError> {
        let writer = self.writer.read().unwrap_or_else(|e| e.into_inner());
        match &*writer {
            Some(writer) => self.shared.meter.store.time(|| work(writer)),
            None => Err(bug(&self.name, "it went on working after it had returned")),
        }
    }

    fn fitted(&self, output: usize, batch: RecordBatch) -> Result<(RecordBatch, Vec<u64>), RunError> {
        let schema = &self.outputs[output].schema;
        let same = batch.schema().fields().iter().map(|f| f.name()).eq(schema.fields().iter().map(|f| f.name()));
        if !same {
            return Err(bug(&self.name, &format!("it gave columns {:?} instead of {schema:?}", batch.schema())));
        }
        let batch = RecordBatch::try_new(schema.clone(), batch.columns().to_vec());
        weigh(batch.map_err(|e| bug(&self.name, &format!("its rows do not have the planned schema: {e}")))?)
    }

    fn hand_on(&self, output: usize, batch: RecordBatch) -> Result<(), RunError> {
        let (batch, sizes) = self.fitted(output, batch)?;
        let meter = &self.shared.meter;
        let outlets = lock(&self.outputs[output].outlets);
        for range in split(&sizes, self.options.batch_rows, BATCH_BYTES) {
            if self.shared.stop.is_set() {
                return Err(RunError::Interrupted);
            }
            let piece = batch.slice(range.start, range.len());
            self.with_writer(|w| w.push(output, &piece, &sizes[range]))?;
            meter.rows_out.fetch_add(piece.num_rows() as u64, Ordering::Relaxed);
            meter.batches_out.fetch_add(1, Ordering::Relaxed);
            for outlet in &*outlets {
                meter.wait_out.time(|| outlet.send(piece.clone(), &self.shared.stop))?;
            }
        }
        Ok(())
    }
}

/// A mistake in an operator: nothing that a user did.
pub fn bug(node: &NodeName, what: &str) -> RunError {
    RunError::failed("operator-bug", format!("bug in the operator of `{node}`: {what}"))
        .help("this is a mistake in idiolect and not in the pipeline: please report it with the pipeline file")
}

impl NodeHost for Host {
    fn node(&self) -> &NodeName {
        &self.name
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn inputs(&self) -> &[RunInput] {
        &self.inputs
    }

    fn open(&self, index: usize) -> Result<BatchStream, RunError> {
        let shared = self.shared.clone();
        match &self.sources[index] {
            Source::Live(inlet) => match lock(inlet).take() {
                Some(inner) => Ok(Box::new(Stream { inner, index, shared, rows: 0, ended: false })),
                None => self.shared.note(Err(bug(&self.name, "it opened a streaming input twice"))),
            },
            Source::Stored(artifact, output) => {
                let schema = self.inputs[index].schema.clone();
                let fit = move |b: Result<RecordBatch, RunError>| {
                    let batch = b?;
                    RecordBatch::try_new(schema.clone(), batch.columns().to_vec()).map_err(|e| {
                        RunError::failed("corrupt-part", format!("a stored part does not have the planned schema: {e}"))
                    })
                };
                let inner = Stored(Box::new(artifact.rows(*output, self.options.batch_rows).map(fit)));
                Ok(Box::new(Stream { inner, index, shared, rows: 0, ended: false }))
            }
            Source::Nothing => Ok(Box::new(std::iter::empty())),
        }
    }

    fn output_schema(&self, output: usize) -> SchemaRef {
        self.outputs[output].schema.clone()
    }

    fn emit(&self, output: usize, batch: RecordBatch) -> Result<(), RunError> {
        self.shared.note(self.hand_on(output, batch))
    }

    fn reject(&self, row: Rejected) -> Result<(), RunError> {
        self.shared.note(self.with_writer(|w| w.reject(&row)))?;
        self.shared.meter.quarantined.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn file(&self, name: &str) -> Result<PathBuf, RunError> {
        self.shared.note(self.with_writer(|w| w.file(name)))
    }

    fn present(&self, text: &str) -> Result<(), RunError> {
        self.with_writer(|w| {
            w.present(text);
            Ok(())
        })
    }

    fn show(&self, table: &Grid) -> Result<(), RunError> {
        self.with_writer(|w| {
            w.show(table);
            Ok(())
        })
    }

    fn journal(&self, scope: &serde_json::Value) -> Result<Journal, RunError> {
        let inner = self.shared.note(self.store.journal(scope, &self.fingerprint))?;
        Ok(Journal::new(Box::new(CountedJournal {
            inner,
            store: self.store.clone(),
            fingerprint: self.fingerprint.clone(),
            shared: self.shared.clone(),
            progress: self.progress.clone(),
        })))
    }

    fn checkpoint(&self) -> Option<Vec<u8>> {
        self.store.checkpoint(&self.fingerprint)
    }

    fn save_checkpoint(&self, state: Vec<u8>, done: u64, total: u64) -> Result<(), RunError> {
        let kept = self.with_writer(|w| self.store.set_checkpoint(&self.fingerprint, state, w.building()));
        self.shared.note(kept)?;
        // Only a note, for `plan`.
        let _ = self.store.set_partial(&self.fingerprint, done, Some(total));
        Ok(())
    }

    fn model(&self, name: &str) -> Result<Arc<dyn ModelLane>, RunError> {
        match self.models.get(name) {
            Some(model) => self.lanes.lane(name, model),
            None => Err(bug(&self.name, &format!("it asked for model `{name}`, which the plan does not name"))),
        }
    }

    fn teacher(&self, name: &str) -> Result<Arc<dyn Teacher>, RunError> {
        match self.teachers.get(name) {
            Some(teacher) => self.staff.teacher(teacher),
            None => Err(bug(&self.name, &format!("it asked for teacher `{name}`, which the plan does not name"))),
        }
    }

    fn count_tokens(&self, tokens: u64) {
        self.shared.meter.tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    fn progress(&self, done: u64, total: Option<u64>) {
        self.shared.meter.done.store(done, Ordering::Relaxed);
        if let Some(total) = total {
            self.shared.meter.total.store(total, Ordering::Relaxed);
        }
    }

    fn measured(&self, values: &[(&str, f64)]) {
        // JSON has no other numbers.
        let finite = values.iter().filter(|(_, value)| value.is_finite());
        lock(&self.shared.meter.measured).extend(finite.map(|(name, value)| (name.to_string(), *value)));
    }

    fn stopping(&self) -> bool {
        self.shared.stop.is_set()
    }

    fn options(&self) -> &RunOptions {
        &self.options
    }
}

/// Notes in the store how many rows of the node need not be computed again, for `plan`.
struct CountedJournal {
    inner: Arc<SegmentJournal>,
    store: Store,
    fingerprint: Fingerprint,
    shared: Arc<Shared>,
    progress: Arc<Mutex<Progress>>,
}

impl CountedJournal {
    const EVERY: Duration = Duration::from_millis(500);

    fn count(&self, keys: impl Iterator<Item = [u8; 16]>, save: bool) {
        let mut progress = lock(&self.progress);
        progress.done.extend(keys);
        if save && progress.saved.is_none_or(|at| at.elapsed() >= Self::EVERY) {
            progress.saved = Some(Instant::now());
            save_progress(&self.store, &self.fingerprint, &progress, &self.shared);
        }
    }
}

/// Writes the note. It is only a note: where it cannot be written, the rows themselves are still in the journal.
fn save_progress(store: &Store, fingerprint: &Fingerprint, progress: &Progress, shared: &Shared) {
    let _ = store.set_partial(fingerprint, progress.done.len() as u64, shared.meter.total());
}

impl Host {
    /// Notes how far a journalled node came that did not finish.
    pub fn save_progress(&self) {
        let progress = lock(&self.progress);
        if !progress.done.is_empty() {
            save_progress(&self.store, &self.fingerprint, &progress, &self.shared);
        }
    }
}

impl JournalStore for CountedJournal {
    fn get(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        let value = self.inner.get(key);
        if value.is_some() {
            self.count(std::iter::once(*key), false);
        }
        value
    }

    fn put(&self, entries: &[([u8; 16], Vec<u8>)]) -> Result<(), RunError> {
        self.shared.note(self.inner.put(entries))?;
        self.count(entries.iter().map(|(k, _)| *k), true);
        Ok(())
    }

    fn noted(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        self.inner.get(key)
    }

    fn note(&self, entries: &[([u8; 16], Vec<u8>)]) -> Result<(), RunError> {
        self.shared.note(self.inner.put(entries))
    }
}
