//! Polars SQL expressions over the columns of one input, judged at plan time and evaluated row by row.
//!
//! An expression is checked by running it on an empty frame of the input's schema, so that a missing column,
//! a wrong type or bad SQL is a diagnostic and never a failed run. It must be *row-wise*: its value for a row
//! may not depend on other rows, because rows arrive in batches of no particular size. Sums, window functions
//! and the like belong to `summarize` and `sql`.

use super::polars_bridge::{BridgeError, edge_type, empty_frame, from_series, to_frame};
use super::rows::to_plain;
use super::{ResolveCx, did_you_mean, list};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::plan::InputInfo;
use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Schema};
use polars::prelude::{Column, DataFrame, Expr, IntoLazy, PolarsError, PolarsResult};
use polars::sql::sql_expr;
use polars_plan::plans::{IR, is_elementwise_rec};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A parsed expression.
#[derive(Clone)]
pub struct RowExpr {
    text: Spanned<String>,
    expr: Expr,
    /// The columns that it reads.
    columns: BTreeSet<String>,
}

impl std::fmt::Debug for RowExpr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RowExpr({})", self.text.value)
    }
}

const QUOTING: &str = "text is written in single quotes: name = 'x'; columns stand bare or in double quotes";

/// The name of the result inside the frames of this file.
const RESULT: &str = "__result";

impl RowExpr {
    /// Parses the text; what is wrong with it goes into the diagnostics.
    pub fn parse(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<Self> {
        if !is_shallow(text, diagnostics) {
            return None;
        }
        match guarded(|| sql_expr(&text.value)) {
            Ok(expr) => {
                let read = |e: &Expr| match e {
                    Expr::Column(name) => Some(name.to_string()),
                    _ => None,
                };
                let columns = expr.into_iter().filter_map(read).collect();
                Some(Self { text: text.clone(), expr, columns })
            }
            Err(problem) => {
                let unreadable = problem.starts_with("unable to parse") || problem.starts_with("sql parser error");
                let (what, help) = match unreadable {
                    true => ("this is no SQL expression", QUOTING),
                    false => ("this expression cannot be used", "functions and operators are those of polars SQL"),
                };
                diagnostics.push(
                    Diagnostic::error("bad-expression", format!("{what}: {problem}"))
                        .at(text.span, "written here")
                        .help(help),
                );
                None
            }
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text.value
    }

    /// The columns that it reads.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(String::as_str)
    }

    /// Checks the expression against a schema, which `input` gives or which earlier expressions have added to,
    /// and returns the type of its values.
    pub fn resolve(&self, schema: &Schema, input: &InputInfo, cx: &mut ResolveCx<'_>) -> Option<DataType> {
        if !self.columns_exist(schema, input, cx) {
            return None;
        }
        match guarded(|| self.judge(schema)) {
            Ok(Judgement::Type(data_type)) => Some(data_type),
            Ok(Judgement::NotRowWise) => {
                cx.error(
                    Diagnostic::error("not-row-wise", "this expression looks at more than one row at a time")
                        .at(self.text.span, "must have a value for each row by itself")
                        .help("use `summarize` or `sql` for sums, ranks and window functions"),
                );
                None
            }
            Err(problem) => {
                cx.error(
                    Diagnostic::error("bad-expression", format!("this expression does not fit the columns: {problem}"))
                        .at(self.text.span, "cannot be evaluated")
                        .and(input.producer_span, format!("`{}` gives {}", input.producer, described(schema)))
                        .help("CAST(column AS type) converts; text is written in single quotes"),
                );
                None
            }
        }
    }

    fn columns_exist(&self, schema: &Schema, input: &InputInfo, cx: &mut ResolveCx<'_>) -> bool {
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let missing: Vec<&str> = self.columns().filter(|c| !names.contains(c)).collect();
        for column in &missing {
            let mut d = Diagnostic::error("column-missing", format!("there is no column `{column}` here"))
                .at(self.text.span, format!("column `{column}` is read here"))
                .and(input.producer_span, format!("`{}` gives {}", input.producer, list(&names)));
            if self.text.value.contains(&format!("\"{column}\"")) {
                d = d.help(format!("double quotes name a column; text is written '{column}'"));
            } else if let Some(near) = did_you_mean(column, names.iter().copied()) {
                d = d.help(format!("did you mean `{near}`?"));
            }
            cx.error(d);
        }
        missing.is_empty()
    }

    fn judge(&self, schema: &Schema) -> Result<Judgement, BridgeError> {
        let frame = empty_frame(schema)?;
        let result = self.expr.clone().alias(RESULT);
        let plan = frame.clone().lazy().select([result]).to_alp()?;
        if let IR::Select { expr, .. } = plan.lp_arena.get(plan.lp_top)
            && !expr.iter().all(|e| is_elementwise_rec(e.node(), &plan.expr_arena))
        {
            return Ok(Judgement::NotRowWise);
        }
        let result = self.collect(frame)?;
        Ok(Judgement::Type(edge_type(result.as_materialized_series())?))
    }

    /// The type of its values over a schema that it is known to fit.
    pub fn data_type(&self, schema: &Schema) -> Option<DataType> {
        match guarded(|| self.judge(schema)) {
            Ok(Judgement::Type(data_type)) => Some(data_type),
            _ => None,
        }
    }

    /// The result column, as long as the frame.
    fn collect(&self, frame: DataFrame) -> PolarsResult<Column> {
        let mut frame = frame.lazy().with_column(self.expr.clone().alias(RESULT)).collect()?;
        frame.drop_in_place(RESULT)
    }

    /// The value for every row, in the type of [`RowExpr::resolve`]. Rows for which there is none (a cast that
    /// fails) get a null, and are returned with what is wrong.
    pub fn evaluate(&self, batch: &RecordBatch, data_type: &DataType) -> (ArrayRef, Vec<(usize, String)>) {
        let mut failed = Vec::new();
        let mut pieces = Vec::new();
        match self.only_columns(batch) {
            Ok(narrow) => self.evaluate_pieces(&narrow, data_type, 0, &mut pieces, &mut failed),
            Err(problem) => {
                pieces.push(new_null_array(data_type, batch.num_rows()));
                failed.extend((0..batch.num_rows()).map(|row| (row, problem.clone())));
            }
        }
        let parts: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
        let whole = concat(&parts).unwrap_or_else(|_| new_null_array(data_type, batch.num_rows()));
        (whole, failed)
    }

    /// The batch without the columns that the expression does not read.
    fn only_columns(&self, batch: &RecordBatch) -> Result<RecordBatch, String> {
        let schema = batch.schema();
        let read = |i: &usize| self.columns.contains(schema.field(*i).name());
        let indices: Vec<usize> = (0..batch.num_columns()).filter(read).collect();
        batch.project(&indices).map_err(|e| e.to_string())
    }

    /// Evaluates a range of rows as a whole and, where that fails, in halves, down to the rows at fault.
    fn evaluate_pieces(
        &self,
        batch: &RecordBatch,
        data_type: &DataType,
        start: usize,
        pieces: &mut Vec<ArrayRef>,
        failed: &mut Vec<(usize, String)>,
    ) {
        let rows = batch.num_rows();
        match guarded(|| self.evaluate_whole(batch, data_type)) {
            Ok(array) => pieces.push(array),
            Err(problem) if rows <= 1 => {
                pieces.push(new_null_array(data_type, rows));
                failed.push((start, problem));
            }
            Err(_) => {
                let half = rows / 2;
                self.evaluate_pieces(&batch.slice(0, half), data_type, start, pieces, failed);
                self.evaluate_pieces(&batch.slice(half, rows - half), data_type, start + half, pieces, failed);
            }
        }
    }

    fn evaluate_whole(&self, batch: &RecordBatch, data_type: &DataType) -> Result<ArrayRef, BridgeError> {
        let column = self.collect(to_frame(batch)?)?;
        let array = to_plain(&from_series(column.as_materialized_series())?)?;
        match array.data_type() == data_type {
            true => Ok(array),
            false => Ok(arrow::compute::cast(&array, data_type)?),
        }
    }
}

/// Operators that an expression or query may chain. The engine works on them by recursion, and a text must not be able
/// to exhaust the stack. (Parentheses are bounded by the parser.)
const MAX_OPERATORS: usize = 200;

/// Whether a text has no more operators than the engine can take; otherwise says so.
pub fn is_shallow(text: &Spanned<String>, diagnostics: &mut Diagnostics) -> bool {
    let operators = operators(text);
    if operators > MAX_OPERATORS {
        diagnostics.push(
            Diagnostic::error("expression-too-long", format!("{operators} operators are chained, at most {MAX_OPERATORS} may be"))
                .at(text.span, "too long to be taken apart")
                .help("x IN ('a', 'b', …) compares with many values, `join` with a table of them; `derive` can do it in steps"),
        );
    }
    operators <= MAX_OPERATORS
}

/// How many operators (and branches of CASE) stand outside quotes.
fn operators(text: &str) -> usize {
    let mut count = 0;
    let mut quote = None;
    let mut word = String::new();
    for c in text.chars().chain([' ']) {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => {}
            None if c.is_alphanumeric() || c == '_' => word.push(c.to_ascii_uppercase()),
            None => {
                let names_one =
                    matches!(word.as_str(), "AND" | "OR" | "NOT" | "WHEN" | "LIKE" | "ILIKE" | "IS" | "XOR" | "UNION");
                count += usize::from(names_one) + usize::from("+-*/%|&^<>=!~:".contains(c));
                word.clear();
                quote = matches!(c, '\'' | '"' | '`').then_some(c);
            }
        }
    }
    count
}

enum Judgement {
    Type(DataType),
    NotRowWise,
}

/// The rows of a batch without some of them.
pub fn without_rows(batch: &RecordBatch, array: &ArrayRef, failed: &[(usize, String)]) -> (RecordBatch, ArrayRef) {
    if failed.is_empty() {
        return (batch.clone(), array.clone());
    }
    let bad: BTreeSet<usize> = failed.iter().map(|(row, _)| *row).collect();
    let keep: UInt32Array = (0..batch.num_rows()).filter(|r| !bad.contains(r)).map(|r| r as u32).collect();
    let taken = |a: &ArrayRef| take(a, &keep, None).expect("the indices are those of rows in the batch");
    let columns = batch.columns().iter().map(taken).collect();
    let rest = RecordBatch::try_new(batch.schema(), columns).expect("the same columns, fewer rows");
    (rest, taken(array))
}

/// "`id` (text), `n` (integer)".
pub fn described(schema: &Schema) -> String {
    let one = |f: &std::sync::Arc<arrow::datatypes::Field>| format!("`{}` ({})", f.name(), type_word(f.data_type()));
    schema.fields().iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A column type in words.
pub fn type_word(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => "text".into(),
        DataType::Int64 => "integer".into(),
        DataType::Float64 => "number".into(),
        DataType::Boolean => "boolean".into(),
        DataType::List(item) => format!("list of {}", type_word(item.data_type())),
        other => other.to_string(),
    }
}

/// Runs polars and makes what goes wrong a message, panics included: its planner has unfinished corners, and a
/// pipeline's text must not be able to end the process.
pub fn guarded<T, E: Into<BridgeError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(match error.into() {
            BridgeError::Polars(error) => polars_message(&error),
            BridgeError::Arrow(error) => error.to_string(),
        }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(format!("not supported by the expression engine ({})", text.unwrap_or("no reason given")))
        }
    }
}

/// The innermost message of a polars error, on one line, without the plan that it dumps.
fn polars_message(error: &PolarsError) -> String {
    match error {
        PolarsError::Context { error, .. } | PolarsError::ExprContext { error, .. } => polars_message(error),
        other => {
            let text = other.to_string();
            text.split("\n\n").next().unwrap_or_default().lines().collect::<Vec<_>>().join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing_node::{Node, given, rows, rows_json};

    /// The value of an expression over one row, or why there is none.
    fn value(expr: &str) -> String {
        let row = rows(r#"[{"id":"a","t":"Naïve text","n":7,"f":2.5,"b":true,"l":["x","y"],"none":null}]"#);
        let kdl = format!("derive \"d\" from=\"x\" {{ column \"v\" #\"{expr}\"# }}");
        match Node::new(&kdl, &[given("from", "x", row)]) {
            Ok(node) => {
                let ran = node.run(10).unwrap_or_else(|e| panic!("{expr}: {e}"));
                match ran.rejected.first() {
                    Some(row) => format!("{}: {}", row.reason, row.message),
                    None => rows_json(&ran.rows[0])[0]["v"].to_string(),
                }
            }
            Err(problems) => problems.lines().next().unwrap_or_default().to_string(),
        }
    }

    #[test]
    fn the_common_functions_are_there() {
        for (expr, expected) in [
            ("LENGTH(t)", "10"),
            ("OCTET_LENGTH(t)", "11"),
            ("UPPER(t) || '!'", "\"NAÏVE TEXT!\""),
            ("LOWER(t)", "\"naïve text\""),
            ("SUBSTR(t, 1, 5)", "\"Naïve\""),
            ("REPLACE(t, 'text', 'x')", "\"Naïve x\""),
            ("TRIM('  x ')", "\"x\""),
            ("t LIKE '%text'", "true"),
            ("t ILIKE 'NAÏVE%'", "true"),
            ("t NOT LIKE '%text'", "false"),
            ("REGEXP_LIKE(t, '^N.*t$')", "true"),
            ("STARTS_WITH(t, 'Na')", "true"),
            ("STRPOS('a text', 'text')", "3"),
            ("CONCAT(t, ' ', n)", "\"Naïve text 7\""),
            ("n BETWEEN 1 AND 7", "true"),
            ("n IN (1, 7)", "true"),
            ("t IN ('x', 'y')", "false"),
            ("n % 2 = 1 AND NOT b", "false"),
            ("n / 2", "3.5"),
            ("ROUND(f + 0.1, 0)", "3.0"),
            ("ABS(-n)", "7"),
            ("CASE WHEN n > 5 THEN 'big' ELSE 'small' END", "\"big\""),
            ("COALESCE(none, t)", "\"Naïve text\""),
            ("none IS NULL", "true"),
            ("CAST(n AS VARCHAR)", "\"7\""),
            ("CAST('12' AS BIGINT)", "12"),
            ("TRY_CAST(t AS BIGINT)", "null"),
            ("GREATEST(n, 9)", "9"),
            ("NULL", "null"),
            ("1.5", "1.5"),
            ("ARRAY_LENGTH(l)", "2"),
            ("l", "[\"x\",\"y\"]"),
        ] {
            assert_eq!(value(expr), expected, "{expr}");
        }
    }

    #[test]
    fn all_else_is_refused_with_a_reason() {
        for (expr, code) in [
            ("SUM(n)", "not-row-wise"),
            ("COUNT(*)", "not-row-wise"),
            ("n - LAG(n) OVER (ORDER BY n)", "not-row-wise"),
            ("FIRST(t)", "not-row-wise"),
            ("UNNEST(l)", "not-row-wise"),
            ("t + 1", "bad-expression"),
            ("CAST(t AS NONSENSE)", "bad-expression"),
            ("n; DROP TABLE x", "bad-expression"),
            ("*", "bad-expression"),
            ("((((", "bad-expression"),
        ] {
            let found = value(expr);
            assert!(found.contains(&format!("[{code}]")), "{expr}: {found}");
        }
        let deep = format!("{}n{}", "(".repeat(5000), ")".repeat(5000));
        assert!(value(&deep).contains("[bad-expression]"));
        let long = |n| vec!["b"; n].join(" OR ");
        assert!(value(&long(5000)).contains("[expression-too-long]"));
        assert_eq!(value(&long(super::MAX_OPERATORS)), "true");
        let cases: String = (0..super::MAX_OPERATORS / 2).map(|i| format!("WHEN n = {i} THEN {i} ")).collect();
        assert_eq!(value(&format!("CASE {cases} END")), "7");
        let many: Vec<String> = (0..3000).map(|i| i.to_string()).collect();
        assert_eq!(value(&format!("n IN ({})", many.join(", "))), "true");
    }
}
