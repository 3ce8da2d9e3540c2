//! `filter`: the rows for which a condition holds.

use super::expression::{RowExpr, type_word, without_rows};
use super::rows::{arrow_failed, batches, reject_row};
use super::{FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::diag::{Diagnostic, Diagnostics, Span};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use arrow::array::AsArray;
use arrow::compute::filter_record_batch;
use arrow::datatypes::DataType;
use serde_json::json;

pub static SPEC: OpSpec = OpSpec {
    name: "filter",
    summary: "Keeps the rows for which a condition holds",
    doc: "\
Keeps a row if `where`, a polars SQL expression over its columns, is true. Null counts as false: say `x IS NULL` to
keep such rows. The condition may look at one row alone; for sums, ranks or other rows use `sql`.

The number of rows dropped is the difference between the node's rows in and out. A row for which the condition
cannot be evaluated (a `CAST` of a text that is no number) goes to quarantine as `bad-value`.",
    version: 1,
    inputs: FROM,
    outputs: OUT,
    fields: &[FieldSpec::new("where", FieldKind::Expr, "the condition, such as `LENGTH(response) > 20`").required()],
    sink: false,
    example: r#"
load "problems" path="problems.jsonl" { columns { response "string"; score "float?" } }
filter "good" from="problems" where="score >= 0.5 AND response LIKE '%Final Answer:%'"
write "good-file" from="good" path="good.jsonl"
"#,
    build,
};

#[derive(Debug)]
struct Filter {
    condition: RowExpr,
    span: Span,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let condition = RowExpr::parse(&fields.str("where"), diagnostics)?;
    Some(Box::new(Filter { condition, span: fields.span_of("where") }))
}

impl Operator for Filter {
    fn canonical(&self) -> serde_json::Value {
        json!({ "where": self.condition.text() })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let data_type = self.condition.resolve(&input.schema, input, cx)?;
        if data_type != DataType::Boolean {
            cx.error(
                Diagnostic::error(
                    "bad-expression",
                    format!("a condition is true or false, and this is {}", type_word(&data_type)),
                )
                .at(self.span, "must be a boolean")
                .help("compare it with something: LENGTH(response) > 0"),
            );
            return None;
        }
        Some(Resolved::new(vec![input.schema.clone()], Estimate { rows: input.estimate.rows, ..Estimate::default() }))
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        for batch in batches(cx, 0)? {
            let batch = batch?;
            let (mask, failed) = self.condition.evaluate(&batch, &DataType::Boolean);
            for (row, message) in &failed {
                reject_row(cx, &batch, *row, "bad-value", message)?;
            }
            let (batch, mask) = without_rows(&batch, &mask, &failed);
            // A null in the mask drops the row.
            let kept = filter_record_batch(&batch, mask.as_boolean()).map_err(arrow_failed)?;
            if kept.num_rows() > 0 {
                cx.emit(0, kept)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing_node::{given, refusal, rows, rows_json, run};

    const INPUT: &str = r#"[
        {"id":"a","n":1,"t":"1"}, {"id":"b","n":null,"t":"x"}, {"id":"c","n":3,"t":"3"}, {"id":"d","n":4,"t":"y"}
    ]"#;

    fn node(condition: &str) -> String {
        format!("filter \"f\" from=\"x\" where=\"{condition}\"")
    }

    fn ids(condition: &str, batch: usize) -> (Vec<String>, Vec<String>) {
        let ran = run(&node(condition), &[given("from", "x", rows(INPUT))], batch);
        let ids = rows_json(&ran.rows[0]).iter().map(|r| r["id"].as_str().unwrap().to_string()).collect();
        (ids, ran.rejected.iter().map(|r| format!("{} {}", r.id, r.reason)).collect())
    }

    #[test]
    fn nulls_count_as_false() {
        assert_eq!(ids("n >= 3", 10).0, ["c", "d"]);
        assert_eq!(ids("NOT n >= 3", 10).0, ["a"]);
        assert_eq!(ids("n IS NULL", 10).0, ["b"]);
        assert_eq!(ids("true", 10).0, ["a", "b", "c", "d"]);
    }

    #[test]
    fn rows_that_cannot_be_judged_go_alone_whatever_the_batches() {
        for batch in 1..=4 {
            let (kept, rejected) = ids("CAST(t AS BIGINT) < 2", batch);
            assert_eq!(kept, ["a"]);
            assert_eq!(rejected, ["b bad-value", "d bad-value"]);
        }
    }

    #[test]
    fn what_is_wrong_is_said_at_plan_time() {
        let refused = |condition: &str| refusal(&node(condition), &[given("from", "x", rows(INPUT))]);
        insta::assert_snapshot!(refused("m > 1"), @"
        error [column-missing]: there is no column `m` here
          at: column `m` is read here
          at: `x` gives `id`, `n` and `t`
        ");
        insta::assert_snapshot!(refused("n > 'x'"), @"
        error [bad-expression]: this expression does not fit the columns: cannot compare string with numeric type (i64)
          at: cannot be evaluated
          at: `x` gives `id` (text), `n` (integer), `t` (text)
          help: CAST(column AS type) converts; text is written in single quotes
        ");
        insta::assert_snapshot!(refused("n + 1"), @"
        error [bad-expression]: a condition is true or false, and this is integer
          at: must be a boolean
          help: compare it with something: LENGTH(response) > 0
        ");
        insta::assert_snapshot!(refused("n > AVG(n)"), @"
        error [not-row-wise]: this expression looks at more than one row at a time
          at: must have a value for each row by itself
          help: use `summarize` or `sql` for sums, ranks and window functions
        ");
        insta::assert_snapshot!(refused("RANK() OVER (ORDER BY n) = 1"), @"
        error [bad-expression]: this expression cannot be used: unsupported function 'rank'
          at: written here
          help: functions and operators are those of polars SQL
        ");
        insta::assert_snapshot!(refused("n >"), @"
        error [bad-expression]: this is no SQL expression: unable to parse 'n >' as Expr
          at: written here
          help: text is written in single quotes: name = 'x'; columns stand bare or in double quotes
        ");
        insta::assert_snapshot!(refused("t = \\\"x\\\""), @"
        error [column-missing]: there is no column `x` here
          at: column `x` is read here
          at: `x` gives `id`, `n` and `t`
          help: double quotes name a column; text is written 'x'
        ");
        insta::assert_snapshot!(refused("NO_SUCH_FUNCTION(t)"), @"
        error [bad-expression]: this expression cannot be used: unsupported function 'no_such_function'
          at: written here
          help: functions and operators are those of polars SQL
        ");
        insta::assert_snapshot!(refused("n > (SELECT MAX(n) FROM self)"), @"
        error [bad-expression]: this expression cannot be used: subquery comparisons with '>' are not supported
          at: written here
          help: functions and operators are those of polars SQL
        ");
    }
}
