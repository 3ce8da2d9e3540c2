//! One lane per device: a thread that owns the models on it, and an engine for the work of each.
//!
//! Operators hand rows and requests in from any number of threads. Rendering and tokenising happens on their threads. The
//! lane gives everything to the engine of its model, so that all operators' work goes through the same passes; it
//! prefers models that are already loaded, and makes room by dropping the model that was used longest ago.

use super::adapter::{Adapter, AdapterFile};
use super::device::{self, DeviceChoice};
use super::engine::{Counts, Engine};
use super::error::Result;
use super::generate::{GenerateFailure, GenerateRequest, Generated, Prompted};
use super::language_model::{Encoded, LanguageModel, TextModel};
use super::ticket::{Address, Ticket};
use super::{Call, ModelFiles, ModelLane, ScoreFailure, ScoreRequest, Scored, Written};
use crate::config::ModelDecl;
use crate::exec::{Lanes, RunError};
use crate::plan::ModelInfo;
use crate::size;
use candle_core::Device;
use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

/// Tokens that a model computes before others may have a turn.
const TURN_TOKENS: u64 = 16_384;
/// Adapters of a model that are kept packed.
const ADAPTERS: usize = 8;
/// How often a model that is not loaded may be passed over in favour of one that is.
const PATIENCE: u32 = 32;

/// Finds a declared model's files, fetching them if need be.
pub type FileSource = Arc<dyn Fn(&ModelDecl) -> Result<ModelFiles> + Send + Sync>;

/// What lanes may use, and when they are to stop.
#[derive(Clone)]
pub struct LaneOptions {
    /// Bytes that weights, and keys and values of texts that are being written, may take. If `None`, weights may take
    /// what is free on the device, and keys and values half of what they leave.
    pub memory: Option<u64>,
    pub device: DeviceChoice,
    /// Told which device is used, when it is opened.
    pub announce: Arc<dyn Fn(&str) + Send + Sync>,
    /// Asked between passes.
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

    /// What was computed so far, by all models.
    pub fn counts(&self) -> Counts {
        *lock(&self.lane.shared.counts)
    }
}

impl Lanes for ModelLanes {
    fn lane(&self, name: &str, model: &ModelInfo) -> Result<Arc<dyn ModelLane>> {
        let mut handles = lock(&self.handles);
        let handle = handles.entry((name.to_string(), model.digest.clone())).or_insert_with(|| {
            let (files, lane) = (self.files.clone(), self.lane.clone());
            let source = HandleSource::Files(files);
            Arc::new(Handle { info: model.clone(), source, lane, loaded: Mutex::default(), adapted: Mutex::default() })
        });
        Ok(Arc::new(handle.clone()))
    }
}

/// A declared model, perhaps with an adapter, and the lane that it runs on.
struct Handle {
    info: ModelInfo,
    source: HandleSource,
    lane: Arc<Lane>,
    loaded: Mutex<Option<Arc<Resident>>>,
    /// The same model with adapters that are in use, by their digests.
    adapted: Mutex<HashMap<String, Weak<Handle>>>,
}

enum HandleSource {
    Files(FileSource),
    /// Another handle's weights with an adapter.
    Adapted(Arc<Handle>, AdapterFile),
}

/// A model's files and what is read of them besides weights.
struct Resident {
    name: String,
    files: ModelFiles,
    text: Arc<TextModel>,
    adapter: Option<Adapted>,
}

/// An adapter and the model whose weights it is added to.
struct Adapted {
    base: Arc<Resident>,
    adapter: Adapter,
}

impl Resident {
    /// Whose weights it needs.
    fn base(self: &Arc<Self>) -> &Arc<Resident> {
        self.adapter.as_ref().map_or(self, |adapted| &adapted.base)
    }
}

impl Handle {
    /// Files and tokenizer, found on first use. A failure is not kept: the next caller tries again.
    fn resident(&self) -> Result<Arc<Resident>> {
        let mut loaded = lock(&self.loaded);
        if let Some(resident) = &*loaded {
            return Ok(resident.clone());
        }
        let name = self.info.decl.name.clone();
        let resident = match &self.source {
            HandleSource::Files(files) => {
                let files = files(&self.info.decl).map_err(|e| about(&name, e))?;
                let text = Arc::new(TextModel::load(&files).map_err(|e| about(&name, e))?);
                Resident { name, files, text, adapter: None }
            }
            HandleSource::Adapted(base, file) => {
                let base = base.resident()?;
                let adapter = file.adapter(&base.text.config).map_err(|e| about(&name, e))?;
                let (files, text) = (base.files.clone(), base.text.clone());
                Resident { name, files, text, adapter: Some(Adapted { base, adapter }) }
            }
        };
        let resident = Arc::new(resident);
        *loaded = Some(resident.clone());
        Ok(resident)
    }
}

impl ModelLane for Arc<Handle> {
    fn submit_score(
        &self,
        rows: &[ScoreRequest],
        max_tokens: Option<u32>,
    ) -> Result<Ticket<std::result::Result<Scored, ScoreFailure>>> {
        let resident = self.resident()?;
        let limit = max_tokens.unwrap_or(resident.text.context).min(resident.text.context);
        let encoded = rows.iter().map(|row| resident.text.encode(row, limit)).collect::<Result<Vec<_>>>();
        let (ticket, addresses) = Ticket::new(rows.len());
        self.submit(resident, encoded, addresses, Task::Score)?;
        Ok(ticket)
    }

    fn post_generate(&self, requests: Vec<(GenerateRequest, Address<Written>)>) -> Result<()> {
        let resident = self.resident()?;
        let (requests, addresses): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        let prompted = requests.iter().map(|request| resident.text.prompted(request)).collect::<Result<Vec<_>>>();
        self.submit(resident, prompted, addresses, Task::Generate)
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.resident()?.text.tokenizer.encode(text);
        tokens.map_err(|e| {
            about(&self.info.decl.name, RunError::failed("model-failed", format!("tokens of a text: {e}")))
        })
    }

    fn text(&self) -> Result<Arc<TextModel>> {
        Ok(self.resident()?.text.clone())
    }

    fn adapted(&self, adapter: AdapterFile) -> Result<Arc<dyn ModelLane>> {
        // Adapters are not added up: the one that is asked for takes the place of another.
        let base = match &self.source {
            HandleSource::Files(_) => self,
            HandleSource::Adapted(base, _) => base,
        };
        let digest = adapter.digest();
        let mut adapted = lock(&base.adapted);
        adapted.retain(|_, handle| handle.strong_count() > 0);
        if let Some(handle) = adapted.get(&digest).and_then(Weak::upgrade) {
            return Ok(Arc::new(handle));
        }
        let info = ModelInfo { digest: format!("{}+{digest}", base.info.digest), ..base.info.clone() };
        let handle = Arc::new(Handle {
            info,
            source: HandleSource::Adapted(base.clone(), adapter),
            lane: base.lane.clone(),
            loaded: Mutex::default(),
            adapted: Mutex::default(),
        });
        adapted.insert(digest, Arc::downgrade(&handle));
        Ok(Arc::new(handle))
    }

    fn post_call(&self, call: Call) -> Result<()> {
        let resident = self.resident()?;
        self.lane.take(resident, vec![Task::Call(call)])
    }

    fn context(&self) -> Result<u32> {
        Ok(self.resident()?.text.context)
    }

    fn digest(&self) -> &str {
        &self.info.digest
    }
}

impl Handle {
    /// Answers what cannot be worked on and queues the rest.
    fn submit<I, T: 'static, F: 'static>(
        &self,
        resident: Arc<Resident>,
        prepared: Result<Vec<std::result::Result<I, F>>>,
        addresses: Vec<Address<std::result::Result<T, F>>>,
        task: impl Fn(I, Address<std::result::Result<T, F>>) -> Task,
    ) -> Result<()> {
        let prepared = prepared.map_err(|e| about(&resident.name, e))?;
        let mut tasks = Vec::with_capacity(prepared.len());
        for (prepared, address) in prepared.into_iter().zip(addresses) {
            match prepared {
                Ok(good) => tasks.push(task(good, address)),
                Err(failure) => address.answer(Err(failure)),
            }
        }
        self.lane.take(resident, tasks)
    }
}

/// A row or a request, and where its result goes.
enum Task {
    Score(Encoded, Address<std::result::Result<Scored, ScoreFailure>>),
    Generate(Prompted, Address<std::result::Result<Vec<Generated>, GenerateFailure>>),
    Call(Call),
}

/// What callers have handed in since the lane last looked.
#[derive(Default)]
struct Queue {
    tasks: Vec<(Arc<Resident>, Vec<Task>)>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    counts: Mutex<Counts>,
    options: LaneOptions,
}

/// The queue of a device, and the thread that works it off.
struct Lane {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Lane {
    fn new(options: LaneOptions) -> Self {
        let shared = Shared { queue: Mutex::default(), changed: Condvar::new(), counts: Mutex::default(), options };
        Self { shared: Arc::new(shared), thread: Mutex::default() }
    }

    fn take(&self, model: Arc<Resident>, tasks: Vec<Task>) -> Result<()> {
        if !tasks.is_empty() {
            self.start()?;
            lock(&self.shared.queue).tasks.push((model, tasks));
            self.shared.changed.notify_one();
        }
        Ok(())
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

/// The lane's thread: runs passes until the lane is dropped.
fn work(shared: &Shared) {
    let mut turns = Turns::default();
    loop {
        let mut queue = lock(&shared.queue);
        while queue.tasks.is_empty() && turns.is_idle() && !queue.closed {
            queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.closed {
            return;
        }
        let tasks = std::mem::take(&mut queue.tasks);
        drop(queue);
        tasks.into_iter().for_each(|(model, tasks)| turns.take(model, tasks));
        // Where a panic unwound, nothing is as it should be: dropping the addresses answers all callers.
        match std::panic::catch_unwind(AssertUnwindSafe(|| turns.pass(&shared.options))) {
            Ok(counts) => *lock(&shared.counts) += counts,
            Err(_) => turns = Turns::default(),
        }
    }
}

/// The engines of all models that have work, and whose turn it is.
#[derive(Default)]
struct Turns {
    /// Opened on first use: a run that needs no model needs no GPU.
    models: Option<Models>,
    /// The one that waits longest in front.
    stations: Vec<Station>,
    turn: Option<Turn>,
}

struct Station {
    model: Arc<Resident>,
    engine: Engine,
    /// What callers do with the model themselves.
    calls: VecDeque<Call>,
    passed_over: u32,
}

impl Station {
    fn new(model: Arc<Resident>) -> Self {
        Self { model, engine: Engine::default(), calls: VecDeque::new(), passed_over: 0 }
    }

    fn is_idle(&self) -> bool {
        self.engine.is_idle() && self.calls.is_empty()
    }

    fn take(&mut self, task: Task) {
        match task {
            Task::Score(row, address) => self.engine.take_row(row, address),
            Task::Generate(request, address) => self.engine.take_request(request, address),
            Task::Call(call) => self.calls.push_back(call),
        }
    }

    fn fail(&mut self, error: &RunError) {
        self.engine.fail(error);
        self.calls.drain(..).for_each(|call| call(Err(error)));
    }
}

struct Turn {
    model: Arc<Resident>,
    /// Tokens that were computed in it.
    tokens: u64,
}

impl Turns {
    fn is_idle(&self) -> bool {
        self.stations.iter().all(Station::is_idle)
    }

    fn take(&mut self, model: Arc<Resident>, tasks: Vec<Task>) {
        let known = self.stations.iter().position(|s| Arc::ptr_eq(&s.model, &model));
        let at = known.unwrap_or_else(|| {
            self.stations.push(Station::new(model));
            self.stations.len() - 1
        });
        tasks.into_iter().for_each(|task| self.stations[at].take(task));
    }

    /// One pass of the model whose turn it is. Failures are answered. Gives what was done.
    fn pass(&mut self, options: &LaneOptions) -> Counts {
        if (options.stopping)() {
            self.stations.iter_mut().for_each(|s| s.fail(&RunError::Interrupted));
            return Counts::default();
        }
        let Some(at) = self.whose_turn() else { return Counts::default() };
        let before = self.stations[at].engine.counts();
        if let Err(error) = self.pass_of(at, options) {
            let station = &mut self.stations[at];
            station.fail(&about(&station.model.name, error));
        }
        let done = self.stations[at].engine.counts() - before;
        if let Some(turn) = &mut self.turn {
            turn.tokens += done.computed;
        }
        done
    }

    fn pass_of(&mut self, at: usize, options: &LaneOptions) -> Result<()> {
        let models = match &mut self.models {
            Some(models) => models,
            None => self.models.insert(Models::open(options)?),
        };
        let resident = self.stations[at].model.clone();
        while let Some(dropped) = models.make_room(resident.base())? {
            let held = self.stations.iter_mut().filter(|s| Arc::ptr_eq(s.model.base(), &dropped.resident));
            held.for_each(|s| s.engine.set_back(&dropped.model));
        }
        models.load(resident.base())?;
        let memory = models.memory_for_texts();
        let model = models.loaded.last_mut().expect("loaded just now").model(&resident)?;
        let station = &mut self.stations[at];
        if let Some(call) = station.calls.pop_front() {
            call(Ok(model));
            // A call is a turn: others have theirs before the next.
            self.turn = None;
            return Ok(());
        }
        (station.engine.limits.memory, station.engine.limits.pass_tokens) = (memory, model.pass_tokens());
        station.engine.pass(model)
    }

    /// The station of the current turn, as long as it lasts; then the next.
    fn whose_turn(&mut self) -> Option<usize> {
        if let Some(turn) = &self.turn
            && turn.tokens < TURN_TOKENS
        {
            let station = |s: &Station| Arc::ptr_eq(&s.model, &turn.model) && !s.is_idle();
            if let Some(at) = self.stations.iter().position(station) {
                return Some(at);
            }
        }
        let models = &self.models;
        let holds = |model: &Arc<Resident>| models.as_ref().is_some_and(|m| m.holds(model.base()));
        // What an idle engine of a loaded model keeps may be of use yet.
        self.stations.retain(|s| !s.is_idle() || holds(&s.model));
        let at = next_turn(&mut self.stations, holds)?;
        // To the end: all others have waited longer now.
        let station = self.stations.remove(at);
        self.turn = Some(Turn { model: station.model.clone(), tokens: 0 });
        self.stations.push(station);
        Some(self.stations.len() - 1)
    }
}

/// Whose turn is next: of the model that has waited longest among the loaded ones, or of the one in front when none
/// is loaded or its patience is at an end.
fn next_turn(stations: &mut [Station], loaded: impl Fn(&Arc<Resident>) -> bool) -> Option<usize> {
    let front = stations.iter().position(|s| !s.is_idle())?;
    stations[front].passed_over += 1;
    let impatient = stations[front].passed_over > PATIENCE;
    let preferred = stations.iter().position(|s| !impatient && !s.is_idle() && loaded(&s.model));
    let at = preferred.unwrap_or(front);
    stations[at].passed_over = 0;
    Some(at)
}

/// The models in a device's memory, the one used last at the end.
struct Models {
    device: Device,
    memory: u64,
    /// Whether `memory` was measured rather than set.
    measured: bool,
    loaded: Vec<Loaded>,
}

struct Loaded {
    resident: Arc<Resident>,
    bytes: u64,
    model: LanguageModel,
    /// The same weights with adapters, the one used last at the end.
    adapted: Vec<(Arc<Resident>, LanguageModel)>,
}

impl Loaded {
    /// The model itself or with an adapter, which is packed on first use.
    fn model(&mut self, wanted: &Arc<Resident>) -> Result<&LanguageModel> {
        let Some(adapted) = &wanted.adapter else { return Ok(&self.model) };
        match self.adapted.iter().position(|(resident, _)| Arc::ptr_eq(resident, wanted)) {
            Some(at) => self.adapted[at..].rotate_left(1),
            None => {
                if self.adapted.len() == ADAPTERS {
                    self.adapted.remove(0);
                }
                self.adapted.push((wanted.clone(), self.model.with_adapter(&adapted.adapter)?));
            }
        }
        Ok(&self.adapted.last().expect("moved or added just now").1)
    }
}

impl Models {
    fn open(options: &LaneOptions) -> Result<Self> {
        let (name, device) = options.device.open()?;
        (options.announce)(&name);
        let memory = options.memory.or_else(|| device::free_memory(&device)).unwrap_or(u64::MAX);
        Ok(Self { device, memory, measured: options.memory.is_none(), loaded: Vec::new() })
    }

    fn holds(&self, model: &Arc<Resident>) -> bool {
        self.loaded.iter().any(|l| Arc::ptr_eq(&l.resident, model))
    }

    fn held(&self) -> u64 {
        self.loaded.iter().map(|l| l.bytes).sum()
    }

    /// Bytes for keys and values of texts. What was measured as free is not used up: a pass needs memory too.
    fn memory_for_texts(&self) -> u64 {
        let left = self.memory.saturating_sub(self.held());
        if self.measured { left / 2 } else { left }
    }

    /// Drops a model if another one needs its room; gives the one that was dropped.
    fn make_room(&mut self, model: &Arc<Resident>) -> Result<Option<Loaded>> {
        if self.holds(model) {
            return Ok(None);
        }
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
        Ok((self.held() + bytes > self.memory).then(|| self.loaded.remove(0)))
    }

    /// Loads weights on first use, and moves them to the end.
    fn load(&mut self, base: &Arc<Resident>) -> Result<()> {
        let loaded = match self.loaded.iter().position(|l| Arc::ptr_eq(&l.resident, base)) {
            Some(position) => self.loaded.remove(position),
            None => Loaded {
                resident: base.clone(),
                bytes: base.text.weight_bytes(&base.files),
                model: LanguageModel::load(&base.files, base.text.clone(), &self.device)?,
                adapted: Vec::new(),
            },
        };
        self.loaded.push(loaded);
        Ok(())
    }
}

/// Says which model an error is about.
fn about(name: &str, error: RunError) -> RunError {
    error.about(format_args!("model `{name}`"))
}

/// A panic in a holder leaves queue and models in a state that the next one can use.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
