//! Runs of small plans made by hand: what runs, what is kept, and what is said when something goes wrong.

use super::*;
use crate::config::RunOptions;
use crate::diag::{SourceId, Span};
use crate::ops::{Arity, InputSpec, OUT, OpSpec, Operator, OutputSpec, ResolveCx, Resolved};
use crate::plan::{Estimate, Fingerprint, Plan, PlanInput, PlanNode};
use crate::store::{Artifact, Store};
use crate::teacher::NoTeachers;
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, mpsc};

const PORT: InputSpec = InputSpec { name: "from", doc: "", arity: Arity::Many, accepts_skipped: true };

const fn spec(name: &'static str, outputs: &'static [OutputSpec], sink: bool) -> OpSpec {
    OpSpec { name, inputs: &[PORT], outputs, sink, ..OpSpec::BLANK }
}

static STEP: OpSpec = spec("step", OUT, false);
static SINK: OpSpec = spec("sink", OUT, true);
const TWO: &[OutputSpec] = &[OutputSpec { name: "even", doc: "" }, OutputSpec { name: "odd", doc: "" }];
static SPLIT: OpSpec = spec("split", TWO, false);

type Work = Box<dyn Fn(&NodeCx) -> Result<(), RunError> + Send + Sync>;

struct Closure(Work);

impl std::fmt::Debug for Closure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Closure")
    }
}

impl Operator for Closure {
    fn canonical(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn resolve(&self, _: &mut ResolveCx<'_>) -> Option<Resolved> {
        None
    }
    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        (self.0)(cx)
    }
}

fn schema() -> SchemaRef {
    let id = Field::new("id", DataType::Utf8, false);
    Arc::new(Schema::new(vec![id, Field::new("n", DataType::Int64, true)]))
}

fn rows(range: std::ops::Range<i64>) -> RecordBatch {
    let id: ArrayRef = Arc::new(StringArray::from_iter_values(range.clone().map(|i| format!("r:{i}"))));
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(range));
    RecordBatch::try_new(schema(), vec![id, n]).unwrap()
}

/// Adds nodes to a plan; fingerprints come from names, inputs and a version.
struct Builder {
    plan: Plan,
}

impl Builder {
    fn new() -> Self {
        let plan = Plan {
            name: "test".into(),
            doc: String::new(),
            params: Default::default(),
            seed: 7,
            options: RunOptions::default(),
            models: Default::default(),
            teachers: Default::default(),
            nodes: Vec::new(),
        };
        Self { plan }
    }

    fn add(
        &mut self,
        name: &str,
        op: &'static OpSpec,
        inputs: &[(usize, usize)],
        work: impl Fn(&NodeCx) -> Result<(), RunError> + Send + Sync + 'static,
    ) -> usize {
        let made_of: Vec<String> =
            inputs.iter().map(|(n, o)| format!("{}.{o}", self.plan.nodes[*n].fingerprint)).collect();
        let print = blake3::hash(format!("{name} {made_of:?}").as_bytes()).to_hex().to_string();
        self.plan.nodes.push(PlanNode {
            name: NodeName::plain(name),
            op,
            operator: Box::new(Closure(Box::new(work))),
            fingerprint: Fingerprint(print),
            ingredients: [("op".to_string(), name.to_string())].into(),
            inputs: inputs
                .iter()
                .map(|(node, output)| PlanInput {
                    port: "from",
                    node: *node,
                    output: *output,
                    producer: self.plan.nodes[*node].name.clone(),
                })
                .collect(),
            outputs: vec![schema(); op.outputs.len()],
            estimate: Estimate::default(),
            models: Vec::new(),
            teachers: Vec::new(),
            calls: Vec::new(),
            to_fetch: None,
            barrier: false,
            journalled: false,
            unit: "rows",
            skipped: None,
            shared_with: None,
            seed: 1,
            doc: None,
            files: Vec::new(),
            files_out: Vec::new(),
            tolerance: 0.0,
            span: Span::new(SourceId(0), 0, 0),
        });
        self.plan.nodes.len() - 1
    }

    /// A source of `n` rows in batches of `step`.
    fn source(&mut self, name: &str, n: i64, step: i64) -> usize {
        self.add(name, &STEP, &[], move |cx| {
            (0..n).step_by(step as usize).try_for_each(|i| cx.emit(0, rows(i..(i + step).min(n))))
        })
    }

    /// Hands all rows on and counts how often it ran.
    fn pass(&mut self, name: &str, from: (usize, usize), ran: &Arc<AtomicUsize>) -> usize {
        let ran = ran.clone();
        self.add(name, &STEP, &[from], move |cx| {
            ran.fetch_add(1, Ordering::SeqCst);
            cx.open(0)?.try_for_each(|b| cx.emit(0, b?))
        })
    }
}

struct Place {
    dir: tempfile::TempDir,
    store: Store,
    stop: Stop,
    options: RunOptions,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store, stop: Stop::default(), options: RunOptions::default() }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn run(&self, plan: &Plan) -> RunReport {
        let config = RunConfig {
            out: self.out(),
            options: self.options.clone(),
            lanes: Arc::new(NoLanes),
            teachers: Arc::new(NoTeachers),
            stop: self.stop.clone(),
            provenance: Default::default(),
        };
        run(plan, &self.store, &config, &NoObserver).unwrap()
    }

    fn artifact(&self, plan: &Plan, node: usize) -> Artifact {
        self.store.artifact(&plan.nodes[node].fingerprint).unwrap()
    }

    fn numbers(&self, plan: &Plan, node: usize, output: usize) -> Vec<i64> {
        let artifact = self.artifact(plan, node);
        let batches: Vec<RecordBatch> = artifact.rows(output, 1000).map(Result::unwrap).collect();
        batches.iter().flat_map(|b| b.column(1).as_primitive::<Int64Type>().values().to_vec()).collect()
    }
}

fn words(report: &RunReport) -> Vec<&'static str> {
    report.nodes.iter().map(|n| n.outcome.word()).collect()
}

#[test]
fn rows_stream_through_and_a_second_run_has_nothing_to_do() {
    let (place, ran) = (Place::new(), Arc::new(AtomicUsize::new(0)));
    let mut b = Builder::new();
    let source = b.source("rows", 10_000, 333);
    let split = b.add("split", &SPLIT, &[(source, 0)], |cx| {
        cx.open(0)?.try_for_each(|batch| {
            let batch = batch?;
            for rest in 0..2 {
                let n = batch.column(1).as_primitive::<Int64Type>();
                let keep = n.iter().map(|n| Some(n? % 2 == rest)).collect();
                cx.emit(rest as usize, arrow::compute::filter_record_batch(&batch, &keep).unwrap())?;
            }
            Ok(())
        })
    });
    let odd = b.pass("odd", (split, 1), &ran);
    let both = b.add("both", &SINK, &[(odd, 0), (split, 0)], |cx| {
        (0..2).try_for_each(|i| cx.open(i)?.try_for_each(|b| cx.emit(0, b?)))?;
        std::fs::write(cx.file("sub/count.txt")?, "10000").unwrap();
        cx.present("all there")
    });
    let report = place.run(&b.plan);
    assert_eq!(words(&report), ["ran"; 4]);
    assert_eq!(place.numbers(&b.plan, odd, 0), (0..5000).map(|i| 2 * i + 1).collect::<Vec<_>>());
    assert_eq!(place.numbers(&b.plan, both, 0).len(), 10_000);
    assert_eq!(report.nodes[both].rows_in, 10_000);
    assert_eq!(report.presented, ["all there\n"]);
    assert_eq!(report.files, [place.out().join("sub/count.txt")]);
    std::fs::remove_dir_all(place.out()).unwrap();
    let again = place.run(&b.plan);
    assert_eq!(words(&again), ["cached"; 4]);
    assert_eq!((&again.presented, &again.files), (&report.presented, &report.files));
    assert_eq!(std::fs::read_to_string(place.out().join("sub/count.txt")).unwrap(), "10000");
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[test]
fn bytes_do_not_depend_on_batches_bounds_and_stages() {
    let digests = |options: RunOptions, step: i64| {
        let place = Place { options, ..Place::new() };
        let mut b = Builder::new();
        let source = b.source("rows", 40_000, step);
        let pass = b.pass("pass", (source, 0), &Arc::default());
        b.pass("other", (source, 0), &Arc::default());
        b.add("end", &SINK, &[(pass, 0), (source, 0)], |cx| {
            (0..2).try_for_each(|i| cx.open(i)?.try_for_each(|b| cx.emit(0, b?)))
        });
        place.run(&b.plan);
        let parts = |at| place.artifact(&b.plan, at).output(0).parts.iter().map(|p| p.file.clone()).collect::<Vec<_>>();
        (0..4).map(parts).collect::<Vec<_>>()
    };
    let usual = digests(RunOptions::default(), 1000);
    let tight = RunOptions { batch_rows: 7, channel_batches: 1, stages: 1, ..RunOptions::default() };
    assert_eq!(usual, digests(tight, 40_000));
    let wide = RunOptions { batch_rows: 100_000, channel_batches: 64, stages: 16, ..RunOptions::default() };
    assert_eq!(usual, digests(wide, 13));
}

#[test]
fn only_what_is_needed_runs() {
    let (place, first, second) = (Place::new(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let build = |end: &str| {
        let mut b = Builder::new();
        let source = b.source("rows", 10, 10);
        let middle = b.pass("middle", (source, 0), &first);
        b.pass(end, (middle, 0), &second);
        b.plan
    };
    place.run(&build("end"));
    let plan = build("other end");
    // A changed node is run, and what it reads is not.
    assert_eq!(words(&place.run(&plan)), ["cached", "cached", "ran"]);
    // A cached node does not need what it was made from.
    std::fs::remove_dir_all(place.artifact(&plan, 0).folder()).unwrap();
    std::fs::remove_dir_all(place.artifact(&plan, 1).folder()).unwrap();
    assert_eq!(words(&place.run(&plan)), ["not_needed", "not_needed", "cached"]);
    // A missing artifact in between is made again, with what it needs.
    std::fs::remove_dir_all(place.artifact(&plan, 2).folder()).unwrap();
    assert_eq!(words(&place.run(&plan)), ["ran", "ran", "ran"]);
}

#[test]
fn a_broken_artifact_is_made_again() {
    let place = Place::new();
    let build = |end: &str| {
        let mut b = Builder::new();
        let source = b.source("rows", 1000, 100);
        b.pass(end, (source, 0), &Arc::default());
        b.plan
    };
    let plan = build("end");
    place.run(&plan);
    let part = place.artifact(&plan, 0).folder().join("out/part-00000.parquet");
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let plan = build("other end");
    let report = place.run(&plan);
    assert_eq!(words(&report), ["ran", "ran"]);
    assert_eq!(place.numbers(&plan, 1, 0).len(), 1000);
    let events = std::fs::read_to_string(place.out().join("events.jsonl")).unwrap();
    assert!(events.contains(r#""event":"artifact_broken","node":"rows""#), "{events}");
}

#[test]
fn identical_nodes_run_once() {
    let (place, ran) = (Place::new(), Arc::new(AtomicUsize::new(0)));
    let mut b = Builder::new();
    let source = b.source("rows", 10, 10);
    let one = b.pass("one", (source, 0), &ran);
    let two = b.pass("one", (source, 0), &ran);
    b.plan.nodes[two].shared_with = Some(one);
    let end = b.pass("end", (two, 0), &Arc::default());
    assert_eq!(words(&place.run(&b.plan)), ["ran", "ran", "shared", "ran"]);
    assert_eq!((ran.load(Ordering::SeqCst), place.numbers(&b.plan, end, 0).len()), (1, 10));
}

#[test]
fn a_reader_that_has_enough_does_not_stop_its_producer() {
    let place =
        Place { options: RunOptions { batch_rows: 5, channel_batches: 1, ..Default::default() }, ..Place::new() };
    let mut b = Builder::new();
    let source = b.source("rows", 5000, 50);
    let limit = b.add("limit", &STEP, &[(source, 0)], |cx| {
        let batch = cx.open(0)?.next().unwrap()?;
        cx.emit(0, batch)
    });
    assert_eq!(words(&place.run(&b.plan)), ["ran", "ran"]);
    assert_eq!(place.numbers(&b.plan, limit, 0).len(), 5);
    assert_eq!(place.numbers(&b.plan, source, 0).len(), 5000);
}

#[test]
fn a_failure_stops_its_readers_and_nothing_else() {
    let place = Place::new();
    let mut b = Builder::new();
    let source = b.source("rows", 10_000, 100);
    let bad = b.add("bad", &STEP, &[(source, 0)], |cx| {
        for batch in cx.open(0)?.take(3) {
            cx.emit(0, batch?)?;
        }
        Err(RunError::failed("test", "three are enough").help("none"))
    });
    let live = b.pass("live", (bad, 0), &Arc::default());
    b.add("stored", &SINK, &[(live, 0), (source, 0)], |_| Ok(()));
    let good = b.pass("good", (source, 0), &Arc::default());
    b.add("panic", &SINK, &[(good, 0)], |_| panic!("out of luck"));
    let report = place.run(&b.plan);
    assert_eq!(words(&report), ["ran", "failed", "cancelled", "cancelled", "ran", "failed"]);
    assert_eq!(report.nodes[3].outcome, NodeOutcome::Cancelled { because: "bad".into() });
    let NodeOutcome::Failed { message, help, .. } = &report.nodes[5].outcome else { panic!() };
    assert!(message.contains("`panic`") && message.contains("out of luck"), "{message}");
    assert!(help.as_ref().unwrap().contains("report it"));
    assert!(place.store.artifact(&b.plan.nodes[bad].fingerprint).is_none());
    assert!(place.store.artifact(&b.plan.nodes[live].fingerprint).is_none());
    assert_eq!(place.numbers(&b.plan, good, 0).len(), 10_000);
    assert_eq!(report.outcome(), "failed");
}

#[test]
fn an_operator_cannot_swallow_a_failure_of_its_input() {
    let place = Place::new();
    let mut b = Builder::new();
    let bad = b.add("bad", &STEP, &[], |cx| {
        cx.emit(0, rows(0..5))?;
        Err(RunError::failed("test", "no more"))
    });
    let deaf = b.add("deaf", &STEP, &[(bad, 0)], |cx| {
        cx.open(0)?.map_while(Result::ok).for_each(|b| drop(cx.emit(0, b)));
        Ok(())
    });
    assert_eq!(words(&place.run(&b.plan)), ["failed", "cancelled"]);
    assert!(place.store.artifact(&b.plan.nodes[deaf].fingerprint).is_none());
}

#[test]
fn rows_that_do_not_fit_the_plan_are_a_bug_of_the_operator() {
    let place = Place::new();
    let mut b = Builder::new();
    b.add("odd", &STEP, &[], |cx| cx.emit(0, rows(0..5).project(&[0]).unwrap()));
    b.add("null", &STEP, &[], |cx| {
        let id = Field::new("id", DataType::Utf8, true);
        let schema = Arc::new(Schema::new(vec![id, Field::new("n", DataType::Int64, true)]));
        let (id, n) = (StringArray::new_null(1), Int64Array::new_null(1));
        cx.emit(0, RecordBatch::try_new(schema, vec![Arc::new(id), Arc::new(n)]).unwrap())
    });
    let report = place.run(&b.plan);
    for node in &report.nodes {
        assert!(matches!(&node.outcome, NodeOutcome::Failed { code: "operator-bug", .. }), "{:?}", node.outcome);
    }
}

#[test]
fn quarantine_is_kept_and_judged_by_its_share() {
    let place = Place::new();
    let mut b = Builder::new();
    let source = b.source("rows", 10, 10);
    let picky = b.add("picky", &STEP, &[(source, 0)], |cx| {
        let batch = cx.open(0)?.next().unwrap()?;
        for i in 0..2 {
            let row = serde_json::json!({"id": format!("r:{i}")});
            cx.reject(Rejected { id: format!("r:{i}"), reason: "too-long", message: "long".into(), row })?;
        }
        cx.emit(0, batch.slice(2, 8))
    });
    for (tolerance, beyond) in [(0.0, true), (0.19, true), (0.2, false)] {
        b.plan.nodes[picky].tolerance = tolerance;
        let report = place.run(&b.plan);
        assert_eq!(report.beyond_tolerance(), beyond, "{tolerance}, also when cached");
        assert_eq!((report.quarantined(), report.nodes[picky].rows_out), (2, 8));
    }
    let kept = std::fs::read_to_string(place.out().join("quarantine.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = kept.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        lines[1],
        serde_json::json!({"node": "picky", "id": "r:1", "reason": "too-long", "message": "long", "row": {"id": "r:1"}})
    );
    b.plan.nodes.truncate(1);
    place.run(&b.plan);
    assert!(!place.out().join("quarantine.jsonl").exists(), "a run without quarantine leaves no old one");
}

#[test]
fn skipped_producers_reach_ports_that_accept_them() {
    let place = Place::new();
    let mut b = Builder::new();
    let missing = b.add("missing", &STEP, &[], |_| panic!("is skipped"));
    b.plan.nodes[missing].skipped = Some("no file".into());
    let there = b.source("there", 3, 3);
    let all = b.add("all", &SINK, &[(missing, 0), (there, 0)], |cx| {
        assert_eq!(cx.inputs()[0].skipped.as_deref(), Some("no file"));
        (0..2).try_for_each(|i| cx.open(i)?.try_for_each(|b| cx.emit(0, b?)))
    });
    assert_eq!(words(&place.run(&b.plan)), ["skipped", "ran", "ran"]);
    assert_eq!(place.numbers(&b.plan, all, 0), [0, 1, 2]);
}

/// A journalled operator that "computes" each row, counting how often.
fn journalled(
    b: &mut Builder,
    from: usize,
    computed: &Arc<Mutex<Vec<i64>>>,
    stop_after: Option<(usize, Stop)>,
) -> usize {
    let computed = computed.clone();
    let at = b.add("scored", &STEP, &[(from, 0)], move |cx| {
        let journal = cx.journal(&serde_json::json!({"op": "scored"}))?;
        for batch in cx.open(0)? {
            let batch = batch?;
            for (i, n) in batch.column(1).as_primitive::<Int64Type>().values().iter().enumerate() {
                if cx.stopping() {
                    return Err(RunError::Interrupted);
                }
                let key = Journal::key(&[&n.to_le_bytes()]);
                if journal.get(&key).is_none() {
                    journal.put(&[(key, n.to_le_bytes().to_vec())])?;
                    let mut computed = computed.lock().unwrap();
                    computed.push(*n);
                    if let Some((_, stop)) = stop_after.as_ref().filter(|(after, _)| computed.len() == *after) {
                        stop.set();
                    }
                }
                cx.emit(0, batch.slice(i, 1))?;
            }
        }
        Ok(())
    });
    b.plan.nodes[at].journalled = true;
    at
}

#[test]
fn a_stopped_run_goes_on_where_it_was() {
    let (place, computed) = (Place::new(), Arc::new(Mutex::new(Vec::new())));
    let mut b = Builder::new();
    let source = b.source("rows", 100, 10);
    let scored = journalled(&mut b, source, &computed, Some((37, place.stop.clone())));
    let report = place.run(&b.plan);
    assert!(report.interrupted);
    assert_eq!(report.nodes[scored].outcome, NodeOutcome::Interrupted);
    assert_eq!(place.store.partial(&b.plan.nodes[scored].fingerprint).unwrap().0, 37);
    let place = Place { stop: Stop::default(), ..place };
    let mut b = Builder::new();
    let source = b.source("rows", 100, 10);
    journalled(&mut b, source, &computed, None);
    assert_eq!(words(&place.run(&b.plan))[scored], "ran");
    assert_eq!(*computed.lock().unwrap(), (0..100).collect::<Vec<_>>(), "no row twice");
    assert!(place.store.partial(&b.plan.nodes[scored].fingerprint).is_none());
    assert_eq!(place.numbers(&b.plan, scored, 0), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_stop_wakes_who_waits() {
    let place =
        Place { options: RunOptions { batch_rows: 1, channel_batches: 1, ..Default::default() }, ..Place::new() };
    let (sender, receiver) = mpsc::channel::<()>();
    let receiver = Mutex::new(receiver);
    let mut b = Builder::new();
    let source = b.source("rows", 100, 1);
    let slow = b.add("slow", &STEP, &[(source, 0)], move |cx| {
        let _rows = cx.open(0)?;
        // Takes nothing, so that the source waits at the full edge.
        let _ = receiver.lock().unwrap().recv();
        Err(RunError::Interrupted)
    });
    b.pass("after", (slow, 0), &Arc::default());
    let stop = place.stop.clone();
    let report = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            stop.set();
            drop(sender);
        });
        place.run(&b.plan)
    });
    assert_eq!(words(&report), ["interrupted"; 3]);
}

#[test]
fn one_run_at_a_time_writes_into_a_run_folder() {
    let place = Place::new();
    let _held = super::folder::RunFolder::open(&place.out()).unwrap();
    let config = RunConfig {
        out: place.out(),
        options: RunOptions::default(),
        lanes: Arc::new(NoLanes),
        teachers: Arc::new(NoTeachers),
        stop: Stop::default(),
        provenance: Default::default(),
    };
    let error = run(&Builder::new().plan, &place.store, &config, &NoObserver).unwrap_err();
    assert!(error.to_string().contains("another run is writing"), "{error}");
}

#[test]
fn large_rows_travel_in_small_batches() {
    let place = Place::new();
    let mut b = Builder::new();
    let wide = |n: usize| {
        let id: ArrayRef =
            Arc::new(StringArray::from_iter_values((0..n).map(|i| format!("{i}{}", "x".repeat(3 << 20)))));
        RecordBatch::try_new(schema(), vec![id, Arc::new(Int64Array::new_null(n))]).unwrap()
    };
    let source = b.add("wide", &STEP, &[], move |cx| cx.emit(0, wide(12)));
    let check = |cx: &NodeCx| {
        cx.open(0)?.try_for_each(|b| {
            let b = b?;
            assert!(b.num_rows() <= 4, "{} rows of 3 MiB", b.num_rows());
            cx.emit(0, b)
        })
    };
    let live = b.add("live", &STEP, &[(source, 0)], check);
    b.add("stored", &SINK, &[(source, 0), (live, 0)], check);
    assert_eq!(words(&place.run(&b.plan)), ["ran"; 3]);
}

const KILLED_IN: &str = "IDIOLECT_TEST_KILLED_IN";

/// A plan with a slow journalled node that writes down every row that it computes.
fn slow_plan(log: PathBuf) -> Plan {
    let mut b = Builder::new();
    let source = b.source("rows", 300, 7);
    let scored = b.add("scored", &STEP, &[(source, 0)], move |cx| {
        let journal = cx.journal(&serde_json::json!({"op": "scored"}))?;
        let mut log = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        for batch in cx.open(0)? {
            let batch = batch?;
            for n in batch.column(1).as_primitive::<Int64Type>().values() {
                let key = Journal::key(&[&n.to_le_bytes()]);
                if journal.get(&key).is_none() {
                    std::thread::sleep(std::time::Duration::from_micros(500));
                    journal.put(&[(key, (n * n).to_le_bytes().to_vec())])?;
                    std::io::Write::write_all(&mut log, format!("{n}\n").as_bytes()).unwrap();
                }
            }
            cx.emit(0, batch)?;
        }
        Ok(())
    });
    b.plan.nodes[scored].journalled = true;
    b.pass("after", (scored, 0), &Arc::default());
    b.plan
}

#[test]
#[ignore = "run by `a_killed_run_loses_no_row_and_computes_none_twice`, which kills it"]
fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os(KILLED_IN).map(PathBuf::from) else { return };
    let plan = slow_plan(dir.join("log"));
    let store = Store::open(&dir.join("store")).unwrap();
    let config = RunConfig {
        out: dir.join("out"),
        options: RunOptions::default(),
        lanes: Arc::new(NoLanes),
        teachers: Arc::new(NoTeachers),
        stop: Stop::default(),
        provenance: Default::default(),
    };
    assert_eq!(run(&plan, &store, &config, &NoObserver).unwrap().outcome(), "done");
}

/// When the process that runs the slow plan is killed.
#[derive(Clone, Copy)]
enum Kill {
    /// So long after its start: while it opens the store, plans, cleans up.
    After(u64),
    /// When it has computed so many rows more.
    Rows(usize),
    /// So long after the last row: while it finishes.
    AtEnd(u64),
}

const KILLS: &[Kill] = &[
    Kill::After(1),
    Kill::After(10),
    Kill::Rows(1),
    Kill::After(25),
    Kill::Rows(40),
    Kill::After(40),
    Kill::Rows(7),
    Kill::Rows(90),
    Kill::After(120),
    Kill::Rows(30),
    Kill::AtEnd(0),
    Kill::AtEnd(5),
    Kill::AtEnd(15),
];

/// Kills a process at that moment, which is counted in rows so that a slow machine does not move it. `false` when the
/// process ended first.
fn kill(child: &mut std::process::Child, log: &Path, when: Kill) -> bool {
    let rows = || std::fs::read_to_string(log).map_or(0, |text| text.lines().count());
    let until = |child: &mut std::process::Child, enough: &dyn Fn() -> bool| {
        while !enough() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    let before = rows();
    let wait = match when {
        Kill::After(wait) => wait,
        Kill::Rows(more) => {
            until(child, &|| rows() >= before + more);
            0
        }
        Kill::AtEnd(wait) => {
            // A kill between a row's record and its line in the log leaves a line out.
            until(child, &|| rows() + KILLS.len() >= 300);
            wait
        }
    };
    std::thread::sleep(std::time::Duration::from_millis(wait));
    // With SIGKILL.
    child.kill().unwrap();
    match child.wait().unwrap().code() {
        Some(0) => false,
        code => {
            assert_eq!(code, None, "it was killed, or it failed");
            true
        }
    }
}

#[test]
fn a_killed_run_loses_no_row_and_computes_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let start = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["exec::tests::the_process_that_is_killed", "--exact", "--ignored"])
            .env(KILLED_IN, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let kills = KILLS.iter().filter(|when| kill(&mut start(), &log, **when)).count();
    assert!(start().wait().unwrap().success());
    assert!(kills > 5, "{kills}");
    let undisturbed = Place::new();
    let plan = slow_plan(undisturbed.dir.path().join("log"));
    undisturbed.run(&plan);
    let store = Store::open(&dir.path().join("store")).unwrap();
    let parts = |store: &Store, at: usize| {
        let artifact = store.artifact(&plan.nodes[at].fingerprint).expect("finished");
        artifact.output(0).parts.iter().map(|p| p.file.blake3.clone()).collect::<Vec<_>>()
    };
    (0..3).for_each(|at| assert_eq!(parts(&store, at), parts(&undisturbed.store, at)));
    let mut rows: Vec<i64> = std::fs::read_to_string(log).unwrap().lines().map(|l| l.parse().unwrap()).collect();
    let computed = rows.len();
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), computed, "no row is computed twice");
    // A kill can fall between a row's record and its line in the log.
    assert!(computed + kills >= 300, "{computed} rows and {kills} kills");
    let scope = std::fs::read_dir(dir.path().join("store/journal")).unwrap().next().unwrap().unwrap().path();
    let names = std::fs::read_dir(scope).unwrap().map(|e| e.unwrap().path());
    let segments = names.filter(|p| p.extension().is_some_and(|e| e == "seg")).count();
    assert!(segments > 2, "several processes have written: {segments}");
    store.session(&Stop::default()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("store/tmp")).unwrap().count(), 0, "nothing of the dead is left");
}
