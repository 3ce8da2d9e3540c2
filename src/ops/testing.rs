//! An in-memory [`NodeHost`] for unit tests of operators.

use crate::config::RunOptions;
use crate::exec::{BatchStream, NodeHost, Rejected, RunError, RunInput, Stop};
use crate::model::ModelLane;
use crate::ops::Operator;
use crate::plan::NodeName;
use crate::report::grid::Grid;
use crate::store::{Journal, JournalStore};
use crate::teacher::Teacher;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// Runs one operator on batches held in memory and keeps what it gives.
pub struct MemoryHost {
    pub name: NodeName,
    pub inputs: Vec<RunInput>,
    pub batches: Vec<Vec<RecordBatch>>,
    pub schemas: Vec<SchemaRef>,
    pub models: HashMap<String, Arc<dyn ModelLane>>,
    pub teachers: HashMap<String, Arc<dyn Teacher>>,
    pub options: RunOptions,
    pub stop: Stop,
    pub emitted: Mutex<Vec<Vec<RecordBatch>>>,
    pub rejected: Mutex<Vec<Rejected>>,
    pub presented: Mutex<Vec<String>>,
    pub shown: Mutex<Vec<Grid>>,
    pub journal: Arc<MemoryJournal>,
    pub checkpoint: Arc<Mutex<Option<Vec<u8>>>>,
    pub folder: tempfile::TempDir,
}

impl MemoryHost {
    /// A host with these inputs (port name, rows) and output schemas.
    pub fn new(inputs: Vec<(&'static str, Vec<RecordBatch>)>, schemas: Vec<SchemaRef>) -> Self {
        let info = |(port, batches): &(&'static str, Vec<RecordBatch>)| RunInput {
            port,
            producer: NodeName::plain(format!("{port}-rows")),
            output: "out",
            schema: batches[0].schema(),
            skipped: None,
        };
        Self {
            name: NodeName::plain("test"),
            inputs: inputs.iter().map(info).collect(),
            emitted: Mutex::new(vec![Vec::new(); schemas.len()]),
            batches: inputs.into_iter().map(|(_, b)| b).collect(),
            schemas,
            models: HashMap::new(),
            teachers: HashMap::new(),
            options: RunOptions::default(),
            stop: Stop::default(),
            rejected: Mutex::default(),
            presented: Mutex::default(),
            shown: Mutex::default(),
            journal: Arc::default(),
            checkpoint: Arc::default(),
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// Runs the operator; returns the rows of each output, one batch per output.
    pub fn run(self, operator: &dyn Operator) -> Result<(Vec<RecordBatch>, Arc<Self>), RunError> {
        let host = Arc::new(self);
        let cx: crate::exec::NodeCx = host.clone();
        operator.run(&cx)?;
        let emitted = host.emitted.lock().expect("no panic while holding the lock");
        let whole = |(schema, batches): (&SchemaRef, &Vec<RecordBatch>)| {
            arrow::compute::concat_batches(schema, batches).expect("batches have the output's schema")
        };
        let rows = host.schemas.iter().zip(emitted.iter()).map(whole).collect();
        drop(emitted);
        Ok((rows, host))
    }
}

impl NodeHost for MemoryHost {
    fn node(&self) -> &NodeName {
        &self.name
    }
    fn seed(&self) -> u64 {
        7
    }
    fn inputs(&self) -> &[RunInput] {
        &self.inputs
    }
    fn open(&self, index: usize) -> Result<BatchStream, RunError> {
        Ok(Box::new(self.batches[index].clone().into_iter().map(Ok)))
    }
    fn output_schema(&self, output: usize) -> SchemaRef {
        self.schemas[output].clone()
    }
    fn emit(&self, output: usize, batch: RecordBatch) -> Result<(), RunError> {
        assert_eq!(batch.schema().fields(), self.schemas[output].fields(), "emitted rows must have the planned schema");
        self.emitted.lock().expect("lock")[output].push(batch);
        Ok(())
    }
    fn reject(&self, row: Rejected) -> Result<(), RunError> {
        self.rejected.lock().expect("lock").push(row);
        Ok(())
    }
    fn file(&self, name: &str) -> Result<PathBuf, RunError> {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a writable folder");
        Ok(path)
    }
    fn present(&self, text: &str) -> Result<(), RunError> {
        self.presented.lock().expect("lock").push(text.to_string());
        Ok(())
    }
    fn show(&self, table: &Grid) -> Result<(), RunError> {
        self.shown.lock().expect("lock").push(table.clone());
        Ok(())
    }
    fn journal(&self, scope: &serde_json::Value) -> Result<Journal, RunError> {
        Ok(Journal::new(Box::new(ScopedMemoryJournal { scope: scope.to_string(), all: self.journal.clone() })))
    }
    fn checkpoint(&self) -> Option<Vec<u8>> {
        self.checkpoint.lock().expect("lock").clone()
    }
    fn save_checkpoint(&self, state: Vec<u8>, _done: u64, _total: u64) -> Result<(), RunError> {
        *self.checkpoint.lock().expect("lock") = Some(state);
        Ok(())
    }
    fn model(&self, name: &str) -> Result<Arc<dyn ModelLane>, RunError> {
        self.models.get(name).cloned().ok_or_else(|| RunError::failed("no-model", format!("no model `{name}`")))
    }
    fn teacher(&self, name: &str) -> Result<Arc<dyn Teacher>, RunError> {
        self.teachers.get(name).cloned().ok_or_else(|| RunError::failed("no-teacher", format!("no teacher `{name}`")))
    }
    fn count_tokens(&self, _tokens: u64) {}
    fn progress(&self, _done: u64, _total: Option<u64>) {}
    fn stopping(&self) -> bool {
        self.stop.is_set()
    }
    fn options(&self) -> &RunOptions {
        &self.options
    }
}

/// Results by scope and key, in memory.
#[derive(Default)]
pub struct MemoryJournal {
    results: Mutex<Results>,
    /// Done before results are taken in, as a slow disk would.
    pub before_put: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

type Results = HashMap<(String, [u8; 16]), Vec<u8>>;

struct ScopedMemoryJournal {
    scope: String,
    all: Arc<MemoryJournal>,
}

impl JournalStore for ScopedMemoryJournal {
    fn get(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        self.all.results.lock().expect("lock").get(&(self.scope.clone(), *key)).cloned()
    }
    fn put(&self, entries: &[([u8; 16], Vec<u8>)]) -> Result<(), RunError> {
        self.all.before_put.get().into_iter().for_each(|wait| wait());
        let mut all = self.all.results.lock().expect("lock");
        all.extend(entries.iter().map(|(k, v)| ((self.scope.clone(), *k), v.clone())));
        Ok(())
    }
}
