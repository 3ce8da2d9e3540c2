//! Rows a second through the store and through a run.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use idiolect::config::RunOptions;
use idiolect::diag::{Diagnostics, Sources};
use idiolect::exec::{NoLanes, NoObserver, RunConfig, Stop, run};
use idiolect::plan::{DeclaredOnly, Fingerprint, NodeName, Plan, PlanEnv};
use idiolect::store::{Artifact, Commit, Store, row_bytes};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ROWS: usize = 100_000;
const BATCH: usize = 1024;

fn text(i: usize) -> String {
    format!("Tom has {} apples and gives {} away; how many does he keep, and why?", i % 977, i % 31)
}

fn batches() -> Vec<RecordBatch> {
    let batch = |start: usize| {
        let range = start..(start + BATCH).min(ROWS);
        let id: ArrayRef = Arc::new(StringArray::from_iter_values(range.clone().map(|i| format!("rows:{i}"))));
        let question: ArrayRef = Arc::new(StringArray::from_iter_values(range.clone().map(text)));
        let n: ArrayRef = Arc::new(Int64Array::from_iter_values(range.map(|i| i as i64)));
        RecordBatch::try_from_iter([("id", id), ("question", question), ("n", n)]).expect("columns of one length")
    };
    (0..ROWS).step_by(BATCH).map(batch).collect()
}

fn write(store: &Store, batches: &[RecordBatch]) -> Artifact {
    let session = store.session(&Stop::default()).expect("a store of our own");
    let fingerprint = Fingerprint(blake3::hash(b"bench").to_hex().to_string());
    let writer = session.begin(&fingerprint, &[("out", batches[0].schema())]).expect("room on the disk");
    for batch in batches {
        writer.push(0, batch, &row_bytes(batch)).expect("room on the disk");
    }
    let commit = Commit {
        pipeline: "bench".into(),
        node: NodeName::plain("rows"),
        op: "load".into(),
        op_version: 1,
        ingredients: Default::default(),
        inputs: Vec::new(),
        rows_in: ROWS as u64,
        tokens: 0,
        seconds: 0.0,
    };
    writer.commit(commit).expect("room on the disk")
}

fn fresh_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&dir.path().join("store")).expect("a writable folder");
    (dir, store)
}

fn through_the_store(c: &mut Criterion) {
    let batches = batches();
    let mut group = c.benchmark_group("store");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("write", |b| {
        b.iter_batched_ref(fresh_store, |(_, store)| drop(write(store, &batches)), BatchSize::PerIteration);
    });
    let (_dir, store) = fresh_store();
    let artifact = write(&store, &batches);
    group.bench_function("read", |b| {
        b.iter(|| artifact.rows(0, BATCH).map(|b| black_box(b.expect("a whole part")).num_rows()).sum::<usize>());
    });
    group.finish();
}

fn plan(folder: &Path) -> Plan {
    let rows = folder.join("rows.jsonl");
    if !rows.exists() {
        let lines: String = (0..ROWS).map(|i| format!("{{\"question\":\"{}\",\"n\":{i}}}\n", text(i))).collect();
        std::fs::write(&rows, lines).expect("a writable folder");
    }
    let text = format!(
        "pipeline \"bench\" {{ doc \"Rows through a chain\"; }}\nload \"rows\" path=\"{}\"\n\
         filter \"even\" from=\"rows\" where=\"n % 2 = 0\"\nfilter \"few\" from=\"even\" where=\"n % 10 = 0\"\n\
         write \"file\" from=\"few\" path=\"few.parquet\"\n",
        rows.display()
    );
    let (mut sources, mut found) = (Sources::new(), Diagnostics::new());
    let pipeline = idiolect::config::load_text("bench.kdl", &text, &[], &mut sources, &mut found);
    let graph = pipeline.and_then(|p| idiolect::graph::build(p, &mut found));
    let plan = graph.and_then(|g| idiolect::plan::build(g, &PlanEnv::new(DeclaredOnly), &mut found));
    plan.unwrap_or_else(|| panic!("{}", idiolect::diag::render(&found, &sources, false)))
}

fn through_a_run(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let plan = plan(dir.path());
    let config = RunConfig {
        out: dir.path().join("out"),
        options: RunOptions::default(),
        lanes: Arc::new(NoLanes),
        teachers: Arc::new(idiolect::teacher::NoTeachers),
        stop: Stop::default(),
        provenance: Default::default(),
    };
    let go = |store: &Store| run(&plan, store, &config, &NoObserver).expect("a run of our own");
    let mut group = c.benchmark_group("run");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("load, two filters, write", |b| {
        b.iter_batched_ref(fresh_store, |(_, store)| go(store), BatchSize::PerIteration);
    });
    let (_dir, store) = fresh_store();
    go(&store);
    group.bench_function("the same, cached", |b| b.iter(|| go(&store)));
    group.finish();
}

criterion_group!(streaming, through_the_store, through_a_run);
criterion_main!(streaming);
