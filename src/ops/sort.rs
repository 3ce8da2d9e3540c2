//! `sort`: rows in the order of some of their columns.

use super::rows::{Held, arrow_failed, batches};
use super::{FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use crate::store::{row_bytes, split};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{SortOptions, interleave_record_batch};
use arrow::row::{RowConverter, Rows, SortField};
use serde_json::json;

pub static SPEC: OpSpec = OpSpec {
    name: "sort",
    summary: "Orders rows by columns",
    doc: "\
Orders the rows by the first column of `by`, those that are equal there by the second, and so on; rows that are equal in
all keep their order. Ascending, but for the columns named under `descending`. Nulls come last in both directions. Texts
are ordered by their code points; NaN counts as the largest number.

All rows are held in memory, up to the run's `memory`.",
    version: 1,
    inputs: FROM,
    outputs: OUT,
    fields: &[
        FieldSpec::new("by", FieldKind::List(&FieldKind::Column), "the columns to order by").required(),
        FieldSpec::new("descending", FieldKind::List(&FieldKind::Column), "those of them that go from large to small"),
    ],
    sink: false,
    example: r#"
load "problems" path="problems.jsonl" { columns { level "int"; question "string" } }
sort "hardest-first" from="problems" descending="level" { by "level" "question" }
write "sorted" from="hardest-first" path="sorted.jsonl"
"#,
    build,
};

#[derive(Debug)]
struct Sort {
    by: Vec<Spanned<String>>,
    descending: Vec<Spanned<String>>,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let (by, descending) = (fields.strs("by"), fields.strs("descending"));
    let before = diagnostics.0.len();
    for column in descending.iter().filter(|d| !by.iter().any(|b| b.value == d.value)) {
        diagnostics.push(
            Diagnostic::error("bad-sort", format!("`descending` names `{}`, which `by` does not", column.value))
                .at(column.span, "not a column to order by")
                .and(fields.span_of("by"), "these are"),
        );
    }
    for (i, column) in by.iter().enumerate() {
        if let Some(first) = by[..i].iter().find(|b| b.value == column.value) {
            diagnostics.push(
                Diagnostic::error("duplicate-column", format!("column `{}` is named twice", column.value))
                    .at(column.span, "again here")
                    .and(first.span, "first here"),
            );
        }
    }
    (diagnostics.0.len() == before).then(|| Box::new(Sort { by, descending }) as Box<dyn Operator>)
}

impl Sort {
    fn falls(&self, column: &str) -> bool {
        self.descending.iter().any(|d| d.value == column)
    }

    fn converter(&self, schema: &arrow::datatypes::Schema) -> Result<RowConverter, RunError> {
        let field = |column: &Spanned<String>| {
            let data_type = schema.field_with_name(column)?.data_type().clone();
            Ok(SortField::new_with_options(
                data_type,
                SortOptions { descending: self.falls(column), nulls_first: false },
            ))
        };
        let fields = self.by.iter().map(field).collect::<Result<Vec<_>, _>>().map_err(arrow_failed)?;
        RowConverter::new(fields).map_err(arrow_failed)
    }

    fn keys(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        self.by.iter().filter_map(|column| batch.column_by_name(column).cloned()).collect()
    }
}

impl Operator for Sort {
    fn canonical(&self) -> serde_json::Value {
        self.by.iter().map(|column| json!([column.value, self.falls(column)])).collect()
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let found = self.by.iter().map(|c| cx.need_column(input, c, "a column", |_| true, c.span).is_some());
        if !found.collect::<Vec<_>>().into_iter().all(|found| found) {
            return None;
        }
        let estimate = Estimate { rows: input.estimate.rows, ..Estimate::default() };
        let mut resolved = Resolved::new(vec![input.schema.clone()], estimate);
        resolved.barrier = true;
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let converter = self.converter(&cx.inputs()[0].schema)?;
        let mut held = Held::new(cx, "`sort`, which holds all rows,");
        let mut all: Vec<RecordBatch> = Vec::new();
        let mut keys: Vec<Rows> = Vec::new();
        for batch in batches(cx, 0)? {
            let batch = batch?;
            let rows = converter.convert_columns(&self.keys(&batch)).map_err(arrow_failed)?;
            held.add(rows.size() + batch.num_rows() * size_of::<(u32, u32)>())?;
            held.add_batch(&batch)?;
            keys.push(rows);
            all.push(batch);
        }
        let mut order: Vec<(usize, usize)> =
            all.iter().enumerate().flat_map(|(b, batch)| (0..batch.num_rows()).map(move |row| (b, row))).collect();
        order.sort_by(|a, b| keys[a.0].row(a.1).cmp(&keys[b.0].row(b.1)));
        drop(keys);
        give(cx, &all, &order)
    }
}

/// Emits rows of several batches in an order, in batches that are bounded in rows and bytes.
pub fn give(cx: &NodeCx, all: &[RecordBatch], order: &[(usize, usize)]) -> Result<(), RunError> {
    const BATCH_BYTES: u64 = 16 << 20;
    let sources: Vec<&RecordBatch> = all.iter().collect();
    let sizes: Vec<Vec<u64>> = all.iter().map(row_bytes).collect();
    let sizes: Vec<u64> = order.iter().map(|(batch, row)| sizes[*batch][*row]).collect();
    for range in split(&sizes, cx.options().batch_rows, BATCH_BYTES) {
        if cx.stopping() {
            return Err(RunError::Interrupted);
        }
        cx.emit(0, interleave_record_batch(&sources, &order[range]).map_err(arrow_failed)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::RunOptions;
    use crate::exec::RunError;
    use crate::ops::testing_node::{Given, Node, given, refusal, rows, rows_json, run};
    use proptest::prelude::*;

    fn input(json: &str) -> Vec<Given> {
        vec![given("from", "x", rows(json))]
    }

    fn ids(node: &str, json: &str, batch: usize) -> String {
        let ran = run(node, &input(json), batch);
        rows_json(&ran.rows[0]).iter().map(|r| r["id"].as_str().unwrap().to_string()).collect()
    }

    const ROWS: &str = r#"[{"id":"a","n":2,"t":"y"},{"id":"b","n":null,"t":"x"},{"id":"c","n":1,"t":"y"},{"id":"d","n":2,"t":"x"},{"id":"e","n":2,"t":"y"}]"#;

    #[test]
    fn equal_rows_keep_their_order_and_nulls_come_last() {
        for batch in 1..=5 {
            assert_eq!(ids("sort \"s\" from=\"x\" by=\"n\"", ROWS, batch), "cadeb");
            assert_eq!(ids("sort \"s\" from=\"x\" by=\"n\" descending=\"n\"", ROWS, batch), "adecb");
            assert_eq!(ids("sort \"s\" from=\"x\" descending=\"n\" { by \"t\" \"n\" }", ROWS, batch), "dbaec");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let many: serde_json::Value =
            (0..500).map(|i| serde_json::json!({"id": i.to_string(), "t": "x".repeat(100)})).collect();
        let node = Node::new("sort \"s\" from=\"x\" by=\"t\"", &input(&many.to_string())).unwrap();
        assert!(node.resolved.barrier);
        let error = node.run_with(RunOptions { memory: 20_000, ..RunOptions::default() }).err().unwrap();
        let RunError::Failed { code, message, help } = error else { panic!("{error}") };
        insta::assert_snapshot!(format!("{code}: {message}; {}", help.unwrap()), @"out-of-memory: `sort`, which holds all rows, needs more than the 19.5 KiB that `memory` in `run` allows; raise `memory` in the `run` block, or bring fewer rows or columns here with `filter` or `select`");
    }

    #[test]
    fn what_is_wrong_is_said_at_plan_time() {
        insta::assert_snapshot!(refusal("sort \"s\" from=\"x\" by=\"m\"", &input(ROWS)), @"
        error [column-missing]: `test` needs a column `m` that its input does not have
          at: column `m` is read here
          at: `x` gives `id`, `n` and `t`
        ");
        insta::assert_snapshot!(refusal("sort \"s\" from=\"x\" descending=\"t\" { by \"n\" \"n\" }", &input(ROWS)), @"
        error [bad-sort]: `descending` names `t`, which `by` does not
          at: not a column to order by
          at: these are
        error [duplicate-column]: column `n` is named twice
          at: again here
          at: first here
        ");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_rows_are_sorted_stably(numbers in prop::collection::vec(prop::option::of(0i64..5), 1..40), batch in 1usize..10) {
            let json: serde_json::Value = numbers.iter().enumerate().map(|(i, n)| serde_json::json!({"id": format!("{i} "), "n": n})).collect();
            let mut expected: Vec<(usize, i64)> = numbers.iter().map(|n| n.unwrap_or(i64::MAX)).enumerate().collect();
            expected.sort_by_key(|(_, n)| *n);
            let expected: String = expected.iter().map(|(i, _)| format!("{i} ")).collect();
            // A column that is null throughout is text, and sorts the same.
            prop_assert_eq!(ids("sort \"s\" from=\"x\" by=\"n\"", &json.to_string(), batch), expected);
        }
    }
}
