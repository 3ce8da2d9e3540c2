//! Bytes a second through the front end: parsing, formatting, decoding a sweep.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use idiolect::config;
use idiolect::diag::{Diagnostics, SourceId, Sources};
use idiolect::syntax;
use std::hint::black_box;

/// A pipeline of many nodes.
fn long() -> String {
    let node = |i: usize| {
        format!(
            "// node {i}\nload \"rows-{i}\" path=\"data/file-{i}.jsonl\" limit={} unused=\"ok\" {{\n    fields {{ question \"prompt\"; response \"answer\" }}\n}}\n\n",
            i + 1
        )
    };
    (0..1000).map(node).collect()
}

/// A node over 10,000 cells.
fn sweep() -> String {
    let axis =
        |name: &str| format!("    {name} {}\n", (0..100).map(|i| format!("\"v{i}\"")).collect::<Vec<_>>().join(" "));
    format!(
        "matrix \"cells\" {{\n{}{}}}\nload \"rows\" matrix=\"cells\" path=\"data/${{a}}/${{b}}.jsonl\" unused=\"ok\"\n",
        axis("a"),
        axis("b")
    )
}

fn front_end(criterion: &mut Criterion) {
    let (long, sweep) = (long(), sweep());
    let mut group = criterion.benchmark_group("front-end");
    group.sample_size(20).throughput(Throughput::Bytes(long.len() as u64));
    group.bench_function("parse 1,000 nodes", |b| {
        b.iter(|| syntax::parse(black_box(&long), SourceId(0), &mut Diagnostics::new()));
    });
    group.bench_function("format 1,000 nodes", |b| {
        b.iter(|| syntax::format(black_box(&long), SourceId(0), &mut Diagnostics::new()));
    });
    for (name, text) in [("load 1,000 nodes", &long), ("load a sweep of 10,000 cells", &sweep)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| config::load_text("x", black_box(text), &[], &mut Sources::new(), &mut Diagnostics::new()));
        });
    }
    group.finish();
}

criterion_group!(benches, front_end);
criterion_main!(benches);
