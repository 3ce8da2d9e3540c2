//! `sample`: some of the rows, at random, the same ones every time.

use super::rows::{Held, arrow_failed, batches};
use super::{FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::diag::{Diagnostic, Diagnostics};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use serde_json::json;
use std::collections::{BinaryHeap, HashSet};

pub static SPEC: OpSpec = OpSpec {
    name: "sample",
    summary: "Draws some of the rows at random",
    doc: "\
Draws `n` rows, or each row with the probability `fraction`, and keeps their order. Which rows are drawn depends on
the seed and on a row's position alone: the same file and seed give the same rows, and nodes that are given the same
`seed` draw the same positions from inputs that align row by row.

`n` rows are held in memory until the input ends; `fraction` streams.",
    version: 1,
    inputs: FROM,
    outputs: OUT,
    fields: &[
        FieldSpec::new("n", FieldKind::Int { min: 1, max: i64::MAX }, "rows to draw; all if there are fewer"),
        FieldSpec::new("fraction", FieldKind::Float { min: 0.0, max: 1.0 }, "the probability of a row to be drawn"),
        FieldSpec::new(
            "seed",
            FieldKind::Int { min: 0, max: i64::MAX },
            "seed of the draw; otherwise drawn from the pipeline's seed and the node's name",
        ),
    ],
    sink: false,
    example: r#"
load "problems" path="problems.jsonl" { columns { question "string" } }
sample "few" from="problems" n=100
write "few-file" from="few" path="few.jsonl"
"#,
    build,
};

#[derive(Debug, Clone, Copy)]
enum Size {
    Rows(u64),
    Fraction(f64),
}

#[derive(Debug)]
struct Sample {
    size: Size,
    seed: Option<u64>,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let size = match (fields.opt_int("n"), fields.opt_float("fraction")) {
        (Some(n), None) => Size::Rows(n.value as u64),
        (None, Some(fraction)) => Size::Fraction(fraction.value),
        (None, None) => {
            diagnostics.push(
                Diagnostic::error("missing-field", "`sample` needs `n` or `fraction`")
                    .at(fields.span, "says neither how many rows nor which share")
                    .help("n=100 draws 100 rows, fraction=0.1 about a tenth"),
            );
            return None;
        }
        (Some(n), Some(fraction)) => {
            diagnostics.push(
                Diagnostic::error("conflicting-fields", "`sample` takes `n` or `fraction`, not both")
                    .at(fraction.span, "one of the two")
                    .and(n.span, "and the other"),
            );
            return None;
        }
    };
    Some(Box::new(Sample { size, seed: fields.opt_int("seed").map(|s| s.value as u64) }))
}

impl Operator for Sample {
    fn canonical(&self) -> serde_json::Value {
        match self.size {
            Size::Rows(n) => json!({ "n": n, "seed": self.seed }),
            Size::Fraction(fraction) => json!({ "fraction": fraction, "seed": self.seed }),
        }
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let rows = match self.size {
            Size::Rows(n) => Some(input.estimate.rows.map_or(n, |rows| rows.min(n))),
            Size::Fraction(fraction) => input.estimate.rows.map(|rows| (rows as f64 * fraction).round() as u64),
        };
        let mut resolved = Resolved::new(vec![input.schema.clone()], Estimate { rows, ..Estimate::default() });
        resolved.seeded = self.seed.is_none();
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let seed = drawn_seed(self.seed, cx);
        let mut start = 0u64;
        match self.size {
            Size::Rows(n) => {
                let mut draw = Draw::new(seed, n, Held::new(cx, "a sample held in memory"));
                for batch in batches(cx, 0)? {
                    let batch = batch?;
                    let indices: Vec<u64> = (start..start + batch.num_rows() as u64).collect();
                    start += batch.num_rows() as u64;
                    draw.push(&batch, &indices)?;
                }
                draw.finish()?.into_iter().try_for_each(|batch| cx.emit(0, batch))
            }
            Size::Fraction(fraction) => {
                for batch in batches(cx, 0)? {
                    let batch = batch?;
                    let chosen = |row| unit(priority(seed, start + row as u64)) < fraction;
                    let mask: BooleanArray = (0..batch.num_rows()).map(|row| Some(chosen(row))).collect();
                    start += batch.num_rows() as u64;
                    cx.emit(0, filter_record_batch(&batch, &mask).map_err(arrow_failed)?)?;
                }
                Ok(())
            }
        }
    }
}

/// The seed that was written, or the node's own.
pub fn drawn_seed(written: Option<u64>, cx: &NodeCx) -> u64 {
    written.unwrap_or_else(|| cx.seed())
}

/// A number for a row, uniform over all seeds and positions: the rows with the smallest are drawn.
fn priority(seed: u64, index: u64) -> u64 {
    mix(mix(seed).wrapping_add(index))
}

/// SplitMix64's output function: a bijection whose bits all depend on all.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The upper 53 bits as a number from 0 to below 1.
fn unit(x: u64) -> f64 {
    (x >> 11) as f64 / (1u64 << 53) as f64
}

/// Draws a fixed number of rows from a stream of unknown length: those with the smallest priorities so far are
/// held. What is drawn does not depend on batches.
pub struct Draw {
    seed: u64,
    size: usize,
    /// The priorities and indices of the rows drawn so far, the largest on top.
    drawn: BinaryHeap<(u64, u64)>,
    /// Rows that were drawn when they came; some of them no longer are.
    kept: Vec<(RecordBatch, Vec<u64>)>,
    kept_rows: usize,
    memory: Held,
}

impl Draw {
    pub fn new(seed: u64, size: u64, memory: Held) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self { seed, size, drawn: BinaryHeap::new(), kept: Vec::new(), kept_rows: 0, memory }
    }

    /// Takes rows and their positions in the source, which grow.
    pub fn push(&mut self, batch: &RecordBatch, indices: &[u64]) -> Result<(), RunError> {
        let mut chosen = Vec::new();
        let mask: BooleanArray = indices
            .iter()
            .map(|index| {
                let takes = self.offer(*index);
                if takes {
                    chosen.push(*index);
                }
                Some(takes)
            })
            .collect();
        if chosen.is_empty() {
            return Ok(());
        }
        self.kept_rows += chosen.len();
        self.kept.push((filter_record_batch(batch, &mask).map_err(arrow_failed)?, chosen));
        if self.kept_rows > self.size.saturating_mul(2).saturating_add(4096) {
            self.compact()?;
        }
        let held = self.kept.iter().map(|(b, _)| b.get_array_memory_size()).sum();
        self.memory.set(held)
    }

    fn offer(&mut self, index: u64) -> bool {
        let entry = (priority(self.seed, index), index);
        if self.drawn.len() < self.size {
            self.drawn.push(entry);
            return true;
        }
        match self.drawn.peek_mut() {
            Some(mut largest) if entry < *largest => {
                *largest = entry;
                true
            }
            _ => false,
        }
    }

    /// Drops the rows that others have displaced.
    fn compact(&mut self) -> Result<(), RunError> {
        let drawn: HashSet<u64> = self.drawn.iter().map(|(_, index)| *index).collect();
        for (batch, indices) in &mut self.kept {
            let mask: BooleanArray = indices.iter().map(|i| Some(drawn.contains(i))).collect();
            *batch = filter_record_batch(batch, &mask).map_err(arrow_failed)?;
            indices.retain(|i| drawn.contains(i));
        }
        self.kept.retain(|(batch, _)| batch.num_rows() > 0);
        self.kept_rows = self.drawn.len();
        Ok(())
    }

    /// The rows drawn, in the order of the source.
    pub fn finish(mut self) -> Result<Vec<RecordBatch>, RunError> {
        self.compact()?;
        Ok(self.kept.into_iter().map(|(batch, _)| batch).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::RunOptions;
    use crate::exec::RunError;
    use crate::ops::testing_node::{Given, Node, given, refusal, rows, rows_json, run};

    fn input(n: usize) -> Vec<Given> {
        let row = |i: usize| format!("{{\"id\":\"r{i}\",\"n\":{i}}}");
        let json: Vec<String> = (0..n).map(row).collect();
        vec![given("from", "x", rows(&format!("[{}]", json.join(","))))]
    }

    fn drawn(rest: &str, n: usize, batch: usize) -> Vec<i64> {
        let ran = run(&format!("sample \"s\" from=\"x\" {rest}"), &input(n), batch);
        rows_json(&ran.rows[0]).iter().map(|r| r["n"].as_i64().unwrap()).collect()
    }

    #[test]
    fn n_rows_in_their_order_whatever_the_batches() {
        let ten = drawn("n=10 seed=5", 200, 1000);
        assert_eq!(ten.len(), 10);
        assert!(ten.is_sorted());
        assert!([1, 3, 64].into_iter().all(|batch| drawn("n=10 seed=5", 200, batch) == ten));
        assert_ne!(drawn("n=10 seed=6", 200, 1000), ten);
        assert_eq!(drawn("n=10 seed=5", 4, 2), [0, 1, 2, 3]);
    }

    #[test]
    fn a_fraction_is_drawn_row_by_row() {
        let tenth = drawn("fraction=0.1 seed=5", 2000, 1000);
        assert!((140..260).contains(&tenth.len()), "{}", tenth.len());
        assert!([1, 7].into_iter().all(|batch| drawn("fraction=0.1 seed=5", 2000, batch) == tenth));
        assert_eq!(drawn("fraction=0.0", 50, 7), [0i64; 0]);
        assert_eq!(drawn("fraction=1.0", 50, 7).len(), 50);
    }

    #[test]
    fn without_a_seed_of_its_own_it_takes_the_nodes() {
        let seeded =
            |rest: &str| Node::new(&format!("sample \"s\" from=\"x\" {rest}"), &input(3)).unwrap().resolved.seeded;
        assert!(seeded("n=1"));
        assert!(!seeded("n=1 seed=0"));
    }

    #[test]
    fn either_a_number_or_a_share_and_memory_is_bounded() {
        assert!(refusal("sample \"s\" from=\"x\"", &input(3)).contains("missing-field"));
        assert!(refusal("sample \"s\" from=\"x\" n=1 fraction=0.5", &input(3)).contains("conflicting-fields"));
        let node = Node::new("sample \"s\" from=\"x\" n=100", &input(200)).unwrap();
        let error = node.run_with(RunOptions { memory: 100, ..RunOptions::default() }).err();
        assert!(matches!(error, Some(RunError::Failed { code: "out-of-memory", .. })));
    }
}
