//! The run itself: stages started when what they read is finished, a thread for each node of a running stage.

use super::edge::{Inlet, Outlet, Shared, edge};
use super::event::{Counts, Event, Meter, Node};
use super::folder::RunFolder;
use super::host::{Host, Output, Source, bug};
use super::info::RunInfo;
use super::survey::{self, Look, Stage, Task};
use super::{NodeOutcome, NodeReport, Observer, RunConfig, RunError, RunInput, RunReport};
use crate::plan::{Plan, PlanNode};
use crate::store::manifest::InputRef;
use crate::store::{Artifact, Commit, Found, Last, Session, Store};
use crossbeam_channel::{Receiver, Sender};
use std::cell::Cell;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, RwLock};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// How often watchers hear of progress, and how many of these go into `events.jsonl`.
const TICK: Duration = Duration::from_millis(200);
const LOGGED_TICKS: u32 = 10;

/// Runs a plan. `Err` means that the run could not begin (a store or run folder that cannot be written);
/// everything later is in the report.
pub fn run(plan: &Plan, store: &Store, config: &RunConfig, observer: &dyn Observer) -> Result<RunReport, RunError> {
    let started = Instant::now();
    let folder = RunFolder::open(&config.out)?;
    folder.write_plan(plan)?;
    let session = store.session(&config.stop)?;
    let mut run = Run {
        plan,
        config,
        observer,
        store,
        session: &session,
        folder: &folder,
        tasks: Vec::new(),
        done: plan.nodes.iter().map(|_| None).collect(),
        running: HashMap::new(),
        ticks: Cell::new(0),
    };
    run.tasks = run.survey()?;
    let mut info = RunInfo::begun(plan, store, config);
    folder.write_info(&info)?;
    let prints = plan.nodes.iter().map(|n| n.fingerprint.clone()).collect();
    store.record_run(&plan.name, &config.out, prints)?;
    run.announce();
    run.execute();
    let report = run.finish(started)?;
    info.ended(&report, &config.provenance);
    folder.write_info(&info)?;
    Ok(report)
}

/// How a node ended: what became of it, its artifact, what was counted, and the files in the run folder.
struct Done {
    outcome: NodeOutcome,
    artifact: Option<Artifact>,
    counts: Option<Counts>,
    files: Vec<String>,
}

impl Done {
    fn without_artifact(outcome: NodeOutcome) -> Self {
        Self { outcome, artifact: None, counts: None, files: Vec::new() }
    }
}

fn failed(error: RunError) -> NodeOutcome {
    match error {
        RunError::Interrupted => NodeOutcome::Interrupted,
        RunError::Failed { code, message, help } => NodeOutcome::Failed { code, message, help },
        // Replaced by the producer's name where it is known.
        RunError::Closed => NodeOutcome::Cancelled { because: String::new() },
    }
}

struct Run<'a> {
    plan: &'a Plan,
    config: &'a RunConfig,
    observer: &'a dyn Observer,
    store: &'a Store,
    session: &'a Session,
    folder: &'a RunFolder,
    tasks: Vec<Task>,
    done: Vec<Option<Done>>,
    running: HashMap<usize, Arc<Host>>,
    ticks: Cell<u32>,
}

impl<'a> Run<'a> {
    fn event(&self, event: &Event<'_>) {
        self.folder.log(event);
        self.observer.event(event);
    }

    /// Decides what is to be done, moving broken artifacts away.
    fn survey(&self) -> Result<Vec<Task>, RunError> {
        let mut trouble = None;
        let tasks = survey::tasks(self.plan, |at, read| {
            let node = &self.plan.nodes[at];
            let found = if read { self.store.verify(&node.fingerprint) } else { self.store.look(&node.fingerprint) };
            match found {
                Found::Whole(_) => Look::Whole,
                Found::Missing => Look::Missing,
                Found::Broken(why) => {
                    match self.store.set_aside(&node.fingerprint) {
                        Ok(moved_to) => self.event(&Event::ArtifactBroken {
                            node: Node(&node.name),
                            fingerprint: &node.fingerprint,
                            why: &why,
                            moved_to,
                        }),
                        Err(error) => trouble = Some(error),
                    }
                    Look::Missing
                }
            }
        });
        trouble.map_or(Ok(tasks), Err)
    }

    /// Says what is to be done, and settles the nodes that do not run.
    fn announce(&mut self) {
        let to_run = self.tasks.iter().filter(|t| **t == Task::Run).count();
        self.event(&Event::RunStarted {
            pipeline: &self.plan.name,
            store: self.store.root().to_path_buf(),
            out: self.folder.path().to_path_buf(),
            nodes: self.plan.nodes.len(),
            to_run,
        });
        for (at, node) in self.plan.nodes.iter().enumerate() {
            let done = match self.tasks[at] {
                Task::Run => continue,
                Task::Cached => self.cached(node),
                Task::NotNeeded => Done::without_artifact(NodeOutcome::NotNeeded),
                Task::Shared(with) => {
                    let with = self.plan.nodes[with].name.to_string();
                    Done::without_artifact(NodeOutcome::Shared { with })
                }
                Task::Skipped => {
                    let reason = node.skipped.clone().unwrap_or_default();
                    self.event(&Event::NodeSkipped { node: Node(&node.name), reason: &reason });
                    Done::without_artifact(NodeOutcome::Skipped { reason })
                }
            };
            self.done[at] = Some(done);
        }
    }

    fn cached(&self, node: &PlanNode) -> Done {
        let Some(artifact) = self.store.artifact(&node.fingerprint) else {
            let error = RunError::failed("artifact-gone", "its artifact was removed from the store a moment ago");
            return Done::without_artifact(failed(error.help("run the same command again")));
        };
        self.event(&Event::NodeCached {
            node: Node(&node.name),
            op: node.op.name,
            fingerprint: &node.fingerprint,
            rows_out: artifact.manifest.rows_out(),
            quarantined: artifact.manifest.rejected_rows(),
        });
        remember(self.plan, self.store, node);
        match self.folder.place(&artifact) {
            Ok(files) => Done { outcome: NodeOutcome::Cached, artifact: Some(artifact), counts: None, files },
            Err(error) => Done::without_artifact(failed(error)),
        }
    }

    /// Runs all stages to their ends.
    fn execute(&mut self) {
        let mut waiting = survey::stages(self.plan, &self.tasks);
        let (sender, receiver) = crossbeam_channel::unbounded();
        std::thread::scope(|scope| {
            let mut active: Vec<Vec<usize>> = Vec::new();
            loop {
                self.cancel_hopeless(&mut waiting);
                while active.len() < self.config.options.stages.max(1) {
                    let Some(next) = waiting.iter().position(|s| self.is_ready(s)) else { break };
                    let stage = waiting.remove(next);
                    self.start(scope, &stage, &sender);
                    active.push(stage.nodes);
                    self.cancel_hopeless(&mut waiting);
                }
                active.retain(|nodes| nodes.iter().any(|n| self.done[*n].is_none()));
                if active.is_empty() && !waiting.iter().any(|s| self.is_ready(s)) {
                    break;
                }
                self.wait(&receiver);
            }
        });
    }

    fn is_ready(&self, stage: &Stage) -> bool {
        stage.after.iter().all(|n| self.done[*n].as_ref().is_some_and(|d| d.artifact.is_some()))
    }

    /// Settles stages that can never start: something they read failed, or the run is to stop.
    fn cancel_hopeless(&mut self, waiting: &mut Vec<Stage>) {
        let stopping = self.config.stop.is_set();
        loop {
            let lost = |s: &Stage| {
                s.after.iter().find(|n| self.done[**n].as_ref().is_some_and(|d| d.artifact.is_none())).copied()
            };
            let Some((at, producer)) = waiting
                .iter()
                .enumerate()
                .find_map(|(at, s)| lost(s).map(|p| (at, Some(p))).or(stopping.then_some((at, None))))
            else {
                return;
            };
            for node in waiting.remove(at).nodes {
                let outcome = producer.map_or(NodeOutcome::Interrupted, |p| self.because_of(p));
                self.settle(node, Done::without_artifact(outcome));
            }
        }
    }

    /// The outcome of a node that reads from one that did not finish.
    fn because_of(&self, producer: usize) -> NodeOutcome {
        match self.done[producer].as_ref().map(|d| &d.outcome) {
            Some(NodeOutcome::Interrupted) => NodeOutcome::Interrupted,
            Some(NodeOutcome::Cancelled { because }) => NodeOutcome::Cancelled { because: because.clone() },
            _ => NodeOutcome::Cancelled { because: self.plan.nodes[producer].name.to_string() },
        }
    }

    /// Waits for a node to end, or for a tick.
    fn wait(&mut self, receiver: &Receiver<(usize, Done)>) {
        let until = Instant::now() + TICK;
        // A node's end is handled at once; all that ended meanwhile are handled together.
        if let Ok((node, done)) = receiver.recv_deadline(until) {
            self.settle(node, done);
            while let Ok((node, done)) = receiver.try_recv() {
                self.settle(node, done);
            }
        } else {
            self.tick();
        }
    }

    fn tick(&self) {
        let tick = self.ticks.replace(self.ticks.get() + 1);
        let mut running: Vec<_> = self.running.iter().collect();
        running.sort_by_key(|(at, _)| **at);
        for (at, host) in running {
            let node = &self.plan.nodes[*at];
            let counts = host.shared.meter.counts();
            let event = Event::NodeProgress { node: Node(&node.name), op: node.op.name, counts };
            self.observer.event(&event);
            if tick % LOGGED_TICKS == LOGGED_TICKS - 1 {
                self.folder.log(&event);
            }
        }
    }

    /// Notes how a node ended.
    fn settle(&mut self, at: usize, mut done: Done) {
        self.running.remove(&at);
        let node = &self.plan.nodes[at];
        if done.outcome == (NodeOutcome::Cancelled { because: String::new() }) {
            done.outcome = match survey::live_producer(self.plan, &self.tasks, at) {
                Some(producer) if self.done[producer].is_some() => self.because_of(producer),
                Some(_) if self.config.stop.is_set() => NodeOutcome::Interrupted,
                Some(producer) => NodeOutcome::Cancelled { because: self.plan.nodes[producer].name.to_string() },
                None => failed(bug(&node.name, "it says that a stream was closed, and it has none")),
            };
        }
        let message = match &done.outcome {
            NodeOutcome::Failed { message, .. } => Some(message.clone()),
            NodeOutcome::Cancelled { because } => Some(format!("`{because}` failed")),
            _ => None,
        };
        self.event(&Event::NodeFinished {
            node: Node(&node.name),
            op: node.op.name,
            outcome: done.outcome.word(),
            message,
            counts: done.counts.clone().unwrap_or_default(),
        });
        self.done[at] = Some(done);
    }

    /// Starts a thread for each node of a stage.
    fn start<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, stage: &Stage, sender: &Sender<(usize, Done)>)
    where
        'a: 'scope,
    {
        let mut inlets: HashMap<usize, Inlet> = HashMap::new();
        let mut outlets: HashMap<(usize, usize), Vec<Outlet>> = HashMap::new();
        for at in &stage.nodes {
            if let Some(producer) = survey::live_producer(self.plan, &self.tasks, *at) {
                let (outlet, inlet) = edge(self.config.options.channel_batches);
                inlets.insert(*at, inlet);
                outlets.entry((producer, self.plan.nodes[*at].inputs[0].output)).or_default().push(outlet);
            }
        }
        for at in &stage.nodes {
            let node = &self.plan.nodes[*at];
            let taken = (0..node.outputs.len()).map(|o| outlets.remove(&(*at, o)).unwrap_or_default()).collect();
            self.event(&Event::NodeStarted {
                node: Node(&node.name),
                op: node.op.name,
                fingerprint: &node.fingerprint,
                stage: stage.nodes[0],
            });
            let spawned = self.host(*at, inlets.remove(at), taken).and_then(|host| {
                let host = Arc::new(host);
                let job = Job { at: *at, node, plan: self.plan, folder: self.folder, host: host.clone() };
                let sender = sender.clone();
                let thread = std::thread::Builder::new().name(node.name.base.clone());
                thread
                    .spawn_scoped(scope, move || job.run(&sender))
                    .map_err(|e| RunError::failed("no-thread", format!("no thread for `{}`: {e}", node.name)))?;
                Ok(host)
            });
            match spawned {
                Ok(host) => drop(self.running.insert(*at, host)),
                // Its ends of the channels are gone, which its readers see as a failure and its producer as a reader
                // that has enough.
                Err(error) => self.settle(*at, Done::without_artifact(failed(error))),
            }
        }
    }

    fn host(&self, at: usize, inlet: Option<Inlet>, outlets: Vec<Vec<Outlet>>) -> Result<Host, RunError> {
        let node = &self.plan.nodes[at];
        let outputs: Vec<_> = node.op.outputs.iter().map(|o| o.name).zip(node.outputs.iter().cloned()).collect();
        let writer = self.session.begin(&node.fingerprint, &outputs)?;
        let expected = node.estimate.rows.or_else(|| self.rows_of_inputs(node));
        let (inputs, sources) = self.inputs(node, inlet)?;
        let output = |(schema, outlets): (&arrow::datatypes::SchemaRef, Vec<Outlet>)| Output {
            schema: schema.clone(),
            outlets: Mutex::new(outlets),
        };
        let teachers = node.teachers.iter().filter_map(|t| self.plan.teachers.get(t).map(|i| (t.clone(), i.clone())));
        let models = node.models.iter().filter_map(|m| self.plan.models.get(m).map(|i| (m.clone(), i.clone())));
        Ok(Host {
            name: node.name.clone(),
            seed: node.seed,
            fingerprint: node.fingerprint.clone(),
            shared: Arc::new(Shared::new(Meter::new(inputs.len(), expected), self.config.stop.clone())),
            inputs,
            sources,
            outputs: node.outputs.iter().zip(outlets).map(output).collect(),
            writer: RwLock::new(Some(writer)),
            store: self.store.clone(),
            options: self.config.options.clone(),
            models: models.collect(),
            teachers: teachers.collect(),
            lanes: self.config.lanes.clone(),
            staff: self.config.teachers.clone(),
            progress: Arc::default(),
        })
    }

    /// The rows that a node will read, when all its inputs are finished.
    fn rows_of_inputs(&self, node: &PlanNode) -> Option<u64> {
        let rows = |i: &crate::plan::PlanInput| {
            let done = self.done[survey::representative(self.plan, i.node)].as_ref()?;
            Some(done.artifact.as_ref()?.output(i.output).rows)
        };
        if node.inputs.is_empty() { None } else { node.inputs.iter().map(rows).sum() }
    }

    fn inputs(&self, node: &PlanNode, mut inlet: Option<Inlet>) -> Result<(Vec<RunInput>, Vec<Source>), RunError> {
        let mut inputs = Vec::new();
        let mut sources = Vec::new();
        for input in &node.inputs {
            let producer = &self.plan.nodes[input.node];
            let at = survey::representative(self.plan, input.node);
            inputs.push(RunInput {
                port: input.port,
                producer: input.producer.clone(),
                output: producer.op.outputs[input.output].name,
                schema: self.plan.nodes[at].outputs[input.output].clone(),
                skipped: self.plan.nodes[at].skipped.clone(),
            });
            let artifact = self.done[at].as_ref().and_then(|d| d.artifact.clone());
            sources.push(match (inlet.take(), artifact) {
                (Some(inlet), _) => Source::Live(Mutex::new(Some(inlet))),
                (None, Some(artifact)) => Source::Stored(Box::new(artifact), input.output),
                (None, None) if self.tasks[at] == Task::Skipped => Source::Nothing,
                (None, None) => return Err(bug(&node.name, &format!("`{}` was not run before it", producer.name))),
            });
        }
        Ok((inputs, sources))
    }

    fn finish(&self, started: Instant) -> Result<RunReport, RunError> {
        let names = self.plan.nodes.iter().map(|n| n.name.to_string());
        let artifacts: Vec<(String, &Artifact)> =
            names.zip(&self.done).filter_map(|(n, d)| Some((n, d.as_ref()?.artifact.as_ref()?))).collect();
        self.folder.write_quarantine(artifacts.iter().cloned())?;
        let presented: Vec<String> =
            artifacts.iter().filter_map(|(_, a)| a.presented().transpose()).collect::<Result<_, _>>()?;
        drop(artifacts);
        let nodes: Vec<NodeReport> = (0..self.plan.nodes.len()).map(|at| self.report(at)).collect();
        let mut report = RunReport {
            pipeline: self.plan.name.clone(),
            out: self.folder.path().to_path_buf(),
            store: self.store.root().to_path_buf(),
            seconds: started.elapsed().as_secs_f64(),
            interrupted: nodes.iter().any(|n| n.outcome == NodeOutcome::Interrupted),
            nodes,
            files: Vec::new(),
            presented,
            teachers: self.config.teachers.spent(),
        };
        report.files = self.folder.paths(&report);
        report.teachers.iter().for_each(|spent| self.event(&Event::TeacherSpent(spent)));
        self.event(&Event::RunFinished {
            outcome: report.outcome(),
            seconds: report.seconds,
            ran: report.count(|o| *o == NodeOutcome::Ran),
            cached: report.count(|o| *o == NodeOutcome::Cached),
            failed: report.count(|o| matches!(o, NodeOutcome::Failed { .. })),
            quarantined: report.quarantined(),
        });
        Ok(report)
    }

    fn report(&self, at: usize) -> NodeReport {
        let node = &self.plan.nodes[at];
        let done = self.done[at].as_ref();
        let stands_for = self.done[survey::representative(self.plan, at)].as_ref();
        let manifest = stands_for.and_then(|d| d.artifact.as_ref()).map(|a| &a.manifest);
        let (rows_in, quarantined) = manifest.map_or((0, 0), |m| (m.rows_in, m.rejected_rows()));
        NodeReport {
            node: node.name.clone(),
            op: node.op.name,
            fingerprint: node.fingerprint.clone(),
            outcome: done.map_or(NodeOutcome::Interrupted, |d| d.outcome.clone()),
            rows_in,
            rows_out: manifest.map_or(0, |m| m.rows_out()),
            quarantined,
            reasons: manifest.map(|m| m.rejected.clone()).unwrap_or_default(),
            tolerance: node.tolerance,
            beyond_tolerance: beyond(quarantined, rows_in, node.tolerance),
            counts: done.and_then(|d| d.counts.clone()),
            files: done.map(|d| d.files.clone()).unwrap_or_default(),
        }
    }
}

/// Whether more rows were rejected than tolerated.
fn beyond(rejected: u64, rows_in: u64, tolerance: f64) -> bool {
    rejected > 0 && rejected as f64 > tolerance * rows_in as f64
}

/// Keeps what the node was made of, for the reasons in a later `plan`. Only a note, so a failure is no error.
fn remember(plan: &Plan, store: &Store, node: &PlanNode) {
    let last = Last { fingerprint: node.fingerprint.clone(), ingredients: node.ingredients.clone() };
    let _ = store.remember(&plan.name, &node.name, &last);
}

/// One node's work on its own thread.
struct Job<'a> {
    at: usize,
    node: &'a PlanNode,
    plan: &'a Plan,
    folder: &'a RunFolder,
    host: Arc<Host>,
}

impl Job<'_> {
    fn run(self, sender: &Sender<(usize, Done)>) {
        let worked = self.operate();
        // First of all, so that a producer does not wait for a reader that has returned.
        self.host.close_inputs();
        self.host.close_outputs(worked.is_ok());
        let settled = worked.and_then(|()| self.commit());
        let counts = Some(self.host.shared.meter.counts());
        let done = match settled {
            Ok((artifact, files)) => Done { outcome: NodeOutcome::Ran, artifact: Some(artifact), counts, files },
            Err(error) => {
                drop(self.host.take_writer());
                self.host.save_progress();
                Done { counts, ..Done::without_artifact(failed(error)) }
            }
        };
        // The receiver lives as long as the scope that this thread belongs to.
        let _ = sender.send((self.at, done));
    }

    /// Runs the operator; a panic in it is a failure of this node alone.
    fn operate(&self) -> Result<(), RunError> {
        let cx: super::NodeCx = self.host.clone();
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| self.node.operator.run(&cx)));
        let result = result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(bug(&self.node.name, &format!("it panicked: {text}")))
        });
        match (result, self.host.shared.fault()) {
            // An operator that goes on after its host has failed would give less than all rows.
            (_, Some(fault)) => Err(fault),
            (result, None) => result,
        }
    }

    fn commit(&self) -> Result<(Artifact, Vec<String>), RunError> {
        let Some(writer) = self.host.take_writer() else { return Err(bug(&self.node.name, "it ended twice")) };
        let input = |i: &crate::plan::PlanInput| {
            let from = &self.plan.nodes[i.node];
            InputRef {
                port: i.port.to_string(),
                node: from.name.clone(),
                fingerprint: from.fingerprint.clone(),
                output: from.op.outputs[i.output].name.to_string(),
            }
        };
        let counts = self.host.shared.meter.counts();
        let artifact = writer.commit(Commit {
            pipeline: self.plan.name.clone(),
            node: self.node.name.clone(),
            op: self.node.op.name.to_string(),
            op_version: self.node.op.version,
            ingredients: self.node.ingredients.clone(),
            inputs: self.node.inputs.iter().map(input).collect(),
            rows_in: counts.rows_in,
            tokens: counts.tokens,
            seconds: counts.seconds,
        })?;
        self.host.store.clear_partial(&self.node.fingerprint);
        self.host.store.clear_checkpoint(&self.node.fingerprint);
        remember(self.plan, &self.host.store, self.node);
        let files = self.folder.place(&artifact)?;
        Ok((artifact, files))
    }
}
