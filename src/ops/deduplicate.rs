//! `deduplicate`: one row of those that are equal in some columns.

use super::rows::{Held, arrow_failed, batches};
use super::{Default, FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved, is_string};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema};
use arrow::row::{RowConverter, SortField};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "deduplicate",
    summary: "Keeps one row of those that are equal in some columns",
    doc: "\
Of the rows that agree in all columns of `by`, keeps the first (or the last) and drops the others; the order stays. Nulls
are equal to each other. `ignore-case` and `ignore-whitespace` compare texts in lower case, or with every run of white
space as one blank and none at the ends; the rows themselves are not changed. The number of rows dropped is the
difference between the node's rows in and out.

Keeping the first streams: 16 bytes are held for every distinct row, up to the run's `memory`. Keeping the last reads the
input twice.",
    version: 1,
    inputs: FROM,
    outputs: OUT,
    fields: &[
        FieldSpec::new("by", FieldKind::List(&FieldKind::Column), "the columns that make rows equal").required(),
        FieldSpec::new("keep", FieldKind::Choice(&["first", "last"]), "which one of equal rows stays")
            .default(Default::Str("first")),
        FieldSpec::new("ignore-case", FieldKind::Bool, "compare texts in lower case").default(Default::Bool(false)),
        FieldSpec::new("ignore-whitespace", FieldKind::Bool, "compare texts with every run of white space as one blank")
            .default(Default::Bool(false)),
    ],
    sink: false,
    example: r#"
load "problems" path="problems.jsonl" { columns { question "string" } }
deduplicate "unique" from="problems" by="question" ignore-case=#true ignore-whitespace=#true
write "unique-file" from="unique" path="unique.jsonl"
"#,
    build,
};

/// Bytes that a table of hashes takes for one entry, with its load factor.
const ENTRY_BYTES: usize = 40;

#[derive(Debug)]
struct Deduplicate {
    by: Vec<Spanned<String>>,
    keep_last: bool,
    ignore_case: bool,
    ignore_whitespace: bool,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let by = fields.strs("by");
    for (i, column) in by.iter().enumerate() {
        if let Some(first) = by[..i].iter().find(|b| b.value == column.value) {
            diagnostics.push(
                Diagnostic::error("duplicate-column", format!("column `{}` is named twice", column.value))
                    .at(column.span, "again here")
                    .and(first.span, "first here"),
            );
            return None;
        }
    }
    Some(Box::new(Deduplicate {
        by,
        keep_last: fields.str("keep").value == "last",
        ignore_case: fields.bool("ignore-case"),
        ignore_whitespace: fields.bool("ignore-whitespace"),
    }))
}

/// Hashes of rows by some of their columns.
struct Keys<'a> {
    operator: &'a Deduplicate,
    converter: RowConverter,
}

impl<'a> Keys<'a> {
    fn new(operator: &'a Deduplicate, schema: &Schema) -> Result<Self, RunError> {
        let field = |c: &Spanned<String>| Ok(SortField::new(schema.field_with_name(c)?.data_type().clone()));
        let fields = operator.by.iter().map(field).collect::<Result<_, _>>().map_err(arrow_failed)?;
        Ok(Self { operator, converter: RowConverter::new(fields).map_err(arrow_failed)? })
    }

    /// One hash for each row: 128 bits, so that two different rows will not meet.
    fn of(&self, batch: &RecordBatch) -> Result<Vec<u128>, RunError> {
        let column = |c: &Spanned<String>| batch.column_by_name(c).map(|array| self.operator.normalised(array));
        let columns: Vec<ArrayRef> = self.operator.by.iter().filter_map(column).collect();
        let rows = self.converter.convert_columns(&columns).map_err(arrow_failed)?;
        let hash = |row: arrow::row::Row<'_>| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&blake3::hash(row.data()).as_bytes()[..16]);
            u128::from_le_bytes(bytes)
        };
        Ok(rows.iter().map(hash).collect())
    }
}

impl Deduplicate {
    fn normalised(&self, array: &ArrayRef) -> ArrayRef {
        if *array.data_type() != DataType::Utf8 || !(self.ignore_case || self.ignore_whitespace) {
            return array.clone();
        }
        let texts = array.as_string::<i32>();
        Arc::new(texts.iter().map(|text| text.map(|t| self.normal(t))).collect::<StringArray>())
    }

    fn normal(&self, text: &str) -> String {
        let text = match self.ignore_whitespace {
            true => text.split_whitespace().collect::<Vec<_>>().join(" "),
            false => text.to_string(),
        };
        if self.ignore_case { text.to_lowercase() } else { text }
    }

    fn keep_first(&self, cx: &NodeCx, keys: &Keys<'_>) -> Result<(), RunError> {
        let mut held = Held::new(cx, HOLDER);
        let mut seen = HashSet::new();
        for batch in batches(cx, 0)? {
            let batch = batch?;
            let before = seen.len();
            let new: BooleanArray = keys.of(&batch)?.into_iter().map(|key| Some(seen.insert(key))).collect();
            held.add((seen.len() - before) * ENTRY_BYTES)?;
            emit_where(cx, &batch, &new)?;
        }
        Ok(())
    }

    fn keep_last(&self, cx: &NodeCx, keys: &Keys<'_>) -> Result<(), RunError> {
        let mut held = Held::new(cx, HOLDER);
        let mut last: HashMap<u128, u64> = HashMap::new();
        let mut index = 0;
        for batch in batches(cx, 0)? {
            let before = last.len();
            for key in keys.of(&batch?)? {
                last.insert(key, index);
                index += 1;
            }
            held.add((last.len() - before) * (ENTRY_BYTES + size_of::<u64>()))?;
        }
        index = 0;
        for batch in batches(cx, 0)? {
            let batch = batch?;
            let is_last = |key: u128| {
                index += 1;
                Some(last.get(&key) == Some(&(index - 1)))
            };
            let kept: BooleanArray = keys.of(&batch)?.into_iter().map(is_last).collect();
            emit_where(cx, &batch, &kept)?;
        }
        Ok(())
    }
}

const HOLDER: &str = "`deduplicate`, which holds a hash of every distinct row,";

fn emit_where(cx: &NodeCx, batch: &RecordBatch, mask: &BooleanArray) -> Result<(), RunError> {
    let kept = filter_record_batch(batch, mask).map_err(arrow_failed)?;
    if kept.num_rows() == 0 { Ok(()) } else { cx.emit(0, kept) }
}

impl Operator for Deduplicate {
    fn canonical(&self) -> serde_json::Value {
        json!({
            "by": self.by.iter().map(|c| c.value.as_str()).collect::<Vec<_>>(),
            "keep": if self.keep_last { "last" } else { "first" },
            "ignore-case": self.ignore_case,
            "ignore-whitespace": self.ignore_whitespace,
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let types: Vec<Option<DataType>> =
            self.by.iter().map(|c| cx.need_column(input, c, "a column", |_| true, c.span)).collect();
        if types.iter().any(Option::is_none) {
            return None;
        }
        if (self.ignore_case || self.ignore_whitespace) && !types.iter().flatten().any(is_string) {
            cx.error(
                Diagnostic::warning(
                    "no-effect",
                    "none of the columns is text, so there is no case or white space to ignore",
                )
                .at(self.by[0].span, "compared as it is"),
            );
        }
        let mut resolved =
            Resolved::new(vec![input.schema.clone()], Estimate { rows: input.estimate.rows, ..Estimate::default() });
        // Reading twice takes an input that is stored.
        resolved.barrier = self.keep_last;
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let keys = Keys::new(self, &cx.inputs()[0].schema)?;
        if self.keep_last { self.keep_last(cx, &keys) } else { self.keep_first(cx, &keys) }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::RunOptions;
    use crate::exec::RunError;
    use crate::ops::testing_node::{Given, Node, given, refusal, rows, rows_json, run};

    const ROWS: &str = r#"[{"id":"a","t":"x  y","n":1},{"id":"b","t":"X y","n":1},{"id":"c","t":null,"n":1},{"id":"d","t":" x y ","n":2},{"id":"e","t":null,"n":1}]"#;

    fn input() -> Vec<Given> {
        vec![given("from", "x", rows(ROWS))]
    }

    fn ids(rest: &str) -> String {
        let kept = |batch| -> String {
            let ran = run(&format!("deduplicate \"d\" from=\"x\" {rest}"), &input(), batch);
            rows_json(&ran.rows[0]).iter().map(|r| r["id"].as_str().unwrap().to_string()).collect()
        };
        let all = kept(10);
        (1..=5).for_each(|batch| assert_eq!(kept(batch), all));
        all
    }

    #[test]
    fn equal_rows_are_dropped() {
        assert_eq!(ids("by=\"t\""), "abcd");
        assert_eq!(ids("by=\"n\""), "ad");
        assert_eq!(ids("by=\"n\" keep=\"last\""), "de");
        assert_eq!(ids("by=\"t\" ignore-whitespace=#true"), "abc");
        assert_eq!(ids("by=\"t\" ignore-case=#true"), "abcd");
        assert_eq!(ids("by=\"t\" ignore-case=#true ignore-whitespace=#true"), "ac");
        assert_eq!(ids("by=\"t\" ignore-case=#true ignore-whitespace=#true keep=\"last\""), "de");
        assert_eq!(ids("{ by \"t\" \"n\"; ignore-case #true; ignore-whitespace #true }"), "acd");
    }

    #[test]
    fn memory_is_bounded() {
        let node = Node::new("deduplicate \"d\" from=\"x\" by=\"t\"", &input()).unwrap();
        assert!(!node.resolved.barrier);
        let error = node.run_with(RunOptions { memory: 100, ..RunOptions::default() }).err();
        assert!(matches!(error, Some(RunError::Failed { code: "out-of-memory", .. })));
    }

    #[test]
    fn what_is_wrong_is_said_at_plan_time() {
        insta::assert_snapshot!(refusal("deduplicate \"d\" from=\"x\" { by \"t\" \"u\" }", &input()), @"
        error [column-missing]: `test` needs a column `u` that its input does not have
          at: column `u` is read here
          at: `x` gives `id`, `t` and `n`
        ");
        insta::assert_snapshot!(refusal("deduplicate \"d\" from=\"x\" { by \"t\" \"t\" }", &input()), @"
        error [duplicate-column]: column `t` is named twice
          at: again here
          at: first here
        ");
    }
}
