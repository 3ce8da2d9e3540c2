//! One lane per device: a thread that owns the models on it and the queue of work for them.
//!
//! Operators hand rows in from any number of threads. Rendering and tokenising happens on their threads; the lane
//! takes everything that waits for one model as one batch, prefers models that are already loaded, and makes room by
//! dropping the model that was used longest ago.

use super::device::{self, DeviceChoice};
use super::error::Result;
use super::language_model::{Encoded, LanguageModel, TextModel};
use super::{ModelFiles, ModelLane, ScoreFailure, ScoreRequest, Scored};
use crate::config::ModelDecl;
use crate::exec::{Lanes, RunError};
use crate::plan::ModelInfo;
use crate::size;
use candle_core::Device;
use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Tokens that one turn of the lane takes on at most, unless a single request is larger.
const TURN_TOKENS: usize = 16_384;
/// How often a request may be passed over in favour of a loaded model.
const PATIENCE: u32 = 32;

/// Finds a declared model's files, fetching them if need be.
pub type FileSource = Arc<dyn Fn(&ModelDecl) -> Result<ModelFiles> + Send + Sync>;

/// What lanes may use, and when they are to stop.
#[derive(Clone)]
pub struct LaneOptions {
    /// Bytes of weights held at once; what is free on the device if `None`.
    pub memory: Option<u64>,
    pub device: DeviceChoice,
    /// Told which device is used, when it is opened.
    pub announce: Arc<dyn Fn(&str) + Send + Sync>,
    /// Asked between batches.
    pub stopping: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Default for LaneOptions {
    fn default() -> Self {
        let (announce, stopping) = (Arc::new(|_: &str| {}), Arc::new(|| false));
        Self { memory: None, device: DeviceChoice::default(), announce, stopping }
    }
}

/// The lanes of a run: hands out declared models.
pub struct ModelLanes {
    files: FileSource,
    lane: Arc<Lane>,
    /// By name and digest.
    handles: Mutex<HashMap<(String, String), Arc<Handle>>>,
}

impl ModelLanes {
    /// Nothing is fetched or loaded before its first use.
    pub fn new(files: FileSource, options: LaneOptions) -> Self {
        Self { files, lane: Arc::new(Lane::new(options)), handles: Mutex::default() }
    }
}

impl Lanes for ModelLanes {
    fn lane(&self, name: &str, model: &ModelInfo) -> Result<Arc<dyn ModelLane>> {
        let mut handles = lock(&self.handles);
        let handle = handles.entry((name.to_string(), model.digest.clone())).or_insert_with(|| {
            let (files, lane) = (self.files.clone(), self.lane.clone());
            Arc::new(Handle { info: model.clone(), files, lane, loaded: Mutex::default() })
        });
        Ok(handle.clone())
    }
}

/// A declared model and the lane that it runs on.
struct Handle {
    info: ModelInfo,
    files: FileSource,
    lane: Arc<Lane>,
    loaded: Mutex<Option<Arc<Resident>>>,
}

/// A model's files and what is read of them besides weights.
struct Resident {
    name: String,
    files: ModelFiles,
    text: Arc<TextModel>,
}

impl Handle {
    /// Files and tokenizer, found on first use. A failure is not kept: the next caller tries again.
    fn resident(&self) -> Result<Arc<Resident>> {
        let mut loaded = lock(&self.loaded);
        if let Some(resident) = &*loaded {
            return Ok(resident.clone());
        }
        let name = self.info.decl.name.clone();
        let files = (self.files)(&self.info.decl).map_err(|e| about(&name, e))?;
        let text = Arc::new(TextModel::load(&files).map_err(|e| about(&name, e))?);
        let resident = Arc::new(Resident { name, files, text });
        *loaded = Some(resident.clone());
        Ok(resident)
    }
}

impl ModelLane for Handle {
    fn score(
        &self,
        rows: &[ScoreRequest],
        max_tokens: Option<u32>,
    ) -> Result<Vec<std::result::Result<Scored, ScoreFailure>>> {
        let resident = self.resident()?;
        let text = &resident.text;
        let limit = max_tokens.unwrap_or(text.context).min(text.context);
        let encoded = rows.iter().map(|row| text.encode(row, limit));
        let encoded: Vec<_> = encoded.collect::<Result<_>>().map_err(|e| about(&resident.name, e))?;
        let good: Vec<Encoded> = encoded.iter().filter_map(|e| e.as_ref().ok().cloned()).collect();
        let mut scored = self.lane.score(resident, good)?.into_iter();
        let next = |row: std::result::Result<Encoded, ScoreFailure>| {
            row.and_then(|_| scored.next().expect("one result for each row that was sent"))
        };
        Ok(encoded.into_iter().map(next).collect())
    }

    fn count_tokens(&self, text: &str) -> Result<usize> {
        let tokens = self.resident()?.text.tokenizer.encode(text);
        tokens.map(|t| t.len()).map_err(|e| RunError::failed("model-failed", format!("counting tokens: {e}")))
    }

    fn context(&self) -> Result<u32> {
        Ok(self.resident()?.text.context)
    }

    fn digest(&self) -> &str {
        &self.info.digest
    }
}

type Reply = Result<Vec<std::result::Result<Scored, ScoreFailure>>>;

struct Job {
    model: Arc<Resident>,
    rows: Vec<Encoded>,
    tokens: usize,
    reply: Sender<Reply>,
    passed_over: u32,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    options: LaneOptions,
}

/// The queue of a device, and the thread that works it off.
struct Lane {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Lane {
    fn new(options: LaneOptions) -> Self {
        let shared = Shared { queue: Mutex::default(), changed: Condvar::new(), options };
        Self { shared: Arc::new(shared), thread: Mutex::default() }
    }

    fn score(&self, model: Arc<Resident>, rows: Vec<Encoded>) -> Reply {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.start()?;
        let (reply, answer) = channel();
        let tokens = rows.iter().map(|r| r.tokens.len()).sum();
        lock(&self.shared.queue).jobs.push_back(Job { model, rows, tokens, reply, passed_over: 0 });
        self.shared.changed.notify_one();
        answer.recv().unwrap_or_else(|_| Err(RunError::failed("model-failed", "the model's thread has ended")))
    }

    /// Starts the thread on first use.
    fn start(&self) -> Result<()> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let shared = self.shared.clone();
            let spawned = std::thread::Builder::new().name("model".into()).spawn(move || work(&shared));
            let failed = |e| RunError::failed("model-failed", format!("cannot start a thread for models: {e}"));
            *thread = Some(spawned.map_err(failed)?);
        }
        Ok(())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            // Nobody waits for an answer any more, and a panic was already answered.
            let _ = thread.join();
        }
    }
}

/// The lane's thread: takes turns until the lane is dropped.
fn work(shared: &Shared) {
    let mut models: Option<Models> = None;
    loop {
        let mut queue = lock(&shared.queue);
        while queue.jobs.is_empty() && !queue.closed {
            queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.closed {
            return;
        }
        let jobs = take_turn(&mut queue.jobs, |model| models.as_ref().is_some_and(|m| m.holds(model)));
        drop(queue);
        let reply = std::panic::catch_unwind(AssertUnwindSafe(|| run(&mut models, &jobs, &shared.options)));
        answer(jobs, reply.unwrap_or_else(|_| Err(RunError::failed("model-failed", "a bug in the model's code"))));
    }
}

/// Takes the jobs of one model off the queue: of the model that has waited longest among the loaded ones, or of the
/// one in front of the queue when none is loaded or its patience is at an end.
fn take_turn(jobs: &mut VecDeque<Job>, loaded: impl Fn(&Resident) -> bool) -> Vec<Job> {
    let Some(front) = jobs.front_mut() else { return Vec::new() };
    front.passed_over += 1;
    let impatient = front.passed_over > PATIENCE;
    let preferred = jobs.iter().position(|j| !impatient && loaded(&j.model)).unwrap_or(0);
    let model = jobs[preferred].model.clone();
    let (mut turn, mut tokens) = (Vec::new(), 0);
    let mut rest = VecDeque::with_capacity(jobs.len());
    for job in jobs.drain(..) {
        let fits = turn.is_empty() || tokens + job.tokens <= TURN_TOKENS;
        if Arc::ptr_eq(&job.model, &model) && fits {
            tokens += job.tokens;
            turn.push(job);
        } else {
            rest.push_back(job);
        }
    }
    *jobs = rest;
    turn
}

/// Opens the device on first use: a run that needs no model needs no GPU.
fn run(models: &mut Option<Models>, jobs: &[Job], options: &LaneOptions) -> Reply {
    let Some(first) = jobs.first() else { return Ok(Vec::new()) };
    let stopping = &*options.stopping;
    if stopping() {
        return Err(RunError::Interrupted);
    }
    let models = match models {
        Some(models) => models,
        None => models.insert(Models::open(options)?),
    };
    let about_model = |e| about(&first.model.name, e);
    let model = models.get(&first.model).map_err(about_model)?;
    let rows: Vec<&Encoded> = jobs.iter().flat_map(|j| &j.rows).collect();
    model.score(&rows, &|| stopping()).map_err(about_model)
}

/// Hands each job its part of a turn's results; an error goes to all of them.
fn answer(jobs: Vec<Job>, reply: Reply) {
    // A caller that has gone away wants no answer: sending may fail.
    match reply {
        Ok(results) => {
            let mut results = results.into_iter();
            for job in jobs {
                let _ = job.reply.send(Ok(results.by_ref().take(job.rows.len()).collect()));
            }
        }
        Err(error) => {
            for job in jobs {
                let _ = job.reply.send(Err(again(&error)));
            }
        }
    }
}

/// The models in a device's memory, the one used last at the end.
struct Models {
    device: Device,
    memory: u64,
    loaded: Vec<(Arc<Resident>, u64, LanguageModel)>,
}

impl Models {
    fn open(options: &LaneOptions) -> Result<Self> {
        let (name, device) = options.device.open()?;
        (options.announce)(&name);
        let memory = options.memory.or_else(|| device::free_memory(&device)).unwrap_or(u64::MAX);
        Ok(Self { device, memory, loaded: Vec::new() })
    }

    fn holds(&self, model: &Resident) -> bool {
        self.loaded.iter().any(|(r, ..)| std::ptr::eq(&**r, model))
    }

    fn get(&mut self, model: &Arc<Resident>) -> Result<&LanguageModel> {
        match self.loaded.iter().position(|(r, ..)| Arc::ptr_eq(r, model)) {
            Some(position) => {
                let entry = self.loaded.remove(position);
                self.loaded.push(entry);
            }
            None => self.load(model)?,
        }
        let (.., loaded) = self.loaded.last().expect("moved or loaded just now");
        Ok(loaded)
    }

    fn load(&mut self, model: &Arc<Resident>) -> Result<()> {
        let bytes = model.text.weight_bytes(&model.files);
        if bytes > self.memory {
            let dtype = model.files.precision.name();
            return Err(RunError::failed(
                "out-of-memory",
                format!(
                    "the weights need {} in `{dtype}`, and models may take {}",
                    size::show(bytes),
                    size::show(self.memory)
                ),
            )
            .help("take a smaller dtype: `bf16`, or `quantized` with a GGUF file"));
        }
        let held = |loaded: &[(Arc<Resident>, u64, LanguageModel)]| loaded.iter().map(|(_, b, _)| b).sum::<u64>();
        while held(&self.loaded) + bytes > self.memory {
            self.loaded.remove(0);
        }
        let loaded = LanguageModel::load(&model.files, model.text.clone(), &self.device)?;
        self.loaded.push((model.clone(), bytes, loaded));
        Ok(())
    }
}

/// Says which model an error is about.
fn about(name: &str, error: RunError) -> RunError {
    match error {
        RunError::Failed { code, message, help } => {
            RunError::Failed { code, message: format!("model `{name}`: {message}"), help }
        }
        other => other,
    }
}

/// The same error for another caller.
fn again(error: &RunError) -> RunError {
    match error {
        RunError::Interrupted => RunError::Interrupted,
        RunError::Closed => RunError::Closed,
        RunError::Failed { code, message, help } => {
            RunError::Failed { code, message: message.clone(), help: help.clone() }
        }
    }
}

/// A panic in a holder leaves queue and models in a state that the next one can use.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
