//! `derive`: new columns from expressions and constants.

use super::expression::{RowExpr, without_rows};
use super::rows::{ID, arrow_failed, batches, reject_row, text_list};
use super::{FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved, Value};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::json;
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "derive",
    summary: "Adds columns computed from each row, or constant",
    doc: "\
Each `column` adds one column, or replaces the one of that name in its place: `column \"len\" \"LENGTH(response)\"` by a
polars SQL expression over the row's columns, those added before it included; `column \"teacher\" value=\"${variant}\"` by
a constant, which may come from a parameter or a matrix axis. An expression may look at one row alone.

Texts, integers, floats, booleans and lists keep their type; any other (a date) becomes text. A row for which an
expression cannot be evaluated (a `CAST` of a text that is no number) goes to quarantine as `bad-value`.",
    version: 1,
    inputs: FROM,
    outputs: OUT,
    fields: &[FieldSpec::new(
        "column",
        FieldKind::Records(&[
            FieldSpec::new("name", FieldKind::Str, "the column's name").required().positional(),
            FieldSpec::new("expr", FieldKind::Expr, "the expression that gives its values").positional(),
            FieldSpec::new("value", FieldKind::Scalar, "a constant instead of an expression"),
        ]),
        "a column to add",
    )
    .required()],
    sink: false,
    example: r#"
load "problems" path="problems.jsonl" { columns { response "string" } }
derive "measured" from="problems" {
    column "length" "LENGTH(response)"
    column "long" "length > 500"
    column "source" value="textbook"
}
write "measured-file" from="measured" path="measured.jsonl"
"#,
    build,
};

#[derive(Debug)]
struct Derive {
    columns: Vec<NewColumn>,
}

#[derive(Debug)]
struct NewColumn {
    name: Spanned<String>,
    from: Origin,
}

#[derive(Debug)]
enum Origin {
    Expr(RowExpr),
    Constant(Value),
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let records = fields.records("column");
    let columns: Vec<NewColumn> = records.iter().filter_map(|record| new_column(record, diagnostics)).collect();
    (columns.len() == records.len()).then(|| Box::new(Derive { columns }) as Box<dyn Operator>)
}

fn new_column(record: &Fields, diagnostics: &mut Diagnostics) -> Option<NewColumn> {
    let name = record.str("name");
    if name.value == ID {
        diagnostics.push(
            Diagnostic::error("reserved-column", "`id` names the rows and is not derived").at(name.span, "names `id`"),
        );
        return None;
    }
    let from = match (record.opt_str("expr"), record.get("value")) {
        (Some(expr), None) => Origin::Expr(RowExpr::parse(&expr, diagnostics)?),
        (None, Some(value)) => Origin::Constant(value.value.clone()),
        (both, _) => {
            let (what, span) = match both {
                Some(expr) => ("an expression or a `value`, not both", expr.span),
                None => ("an expression or a `value`", record.span),
            };
            diagnostics.push(
                Diagnostic::error("bad-column", format!("column `{}` needs {what}", name.value))
                    .at(span, "here")
                    .help("column \"len\" \"LENGTH(response)\", or column \"source\" value=\"textbook\""),
            );
            return None;
        }
    };
    Some(NewColumn { name, from })
}

impl Derive {
    /// The schema after each column, in their order; the last is the output's.
    fn schemas(&self, input: &SchemaRef, cx: &mut ResolveCx<'_>) -> Option<SchemaRef> {
        let mut schema = input.clone();
        let mut sound = true;
        for column in &self.columns {
            let data_type = match &column.from {
                Origin::Expr(expr) => expr.resolve(&schema, cx.input("from"), cx),
                Origin::Constant(value) => Some(constant_type(value)),
            };
            // A wrong column is text from here on, so that those that read it are judged as well.
            sound &= data_type.is_some();
            schema = with_column(&schema, &column.name, data_type.unwrap_or(DataType::Utf8));
        }
        sound.then_some(schema)
    }

    fn add(&self, cx: &NodeCx, batch: RecordBatch) -> Result<RecordBatch, RunError> {
        let output = cx.output_schema(0);
        let mut batch = batch;
        for column in &self.columns {
            let field = output.field_with_name(&column.name).map_err(arrow_failed)?;
            let array = match &column.from {
                Origin::Constant(value) => constant(value, batch.num_rows()),
                Origin::Expr(expr) => {
                    let data_type = self.type_of(&column.name, &batch, field.data_type(), expr);
                    let (array, failed) = expr.evaluate(&batch, &data_type);
                    for (row, message) in &failed {
                        reject_row(
                            cx,
                            &batch,
                            *row,
                            "bad-value",
                            format!("column `{}`: {message}", column.name.value),
                        )?;
                    }
                    let (rest, array) = without_rows(&batch, &array, &failed);
                    batch = rest;
                    array
                }
            };
            batch = put_column(&batch, &column.name, array).map_err(arrow_failed)?;
        }
        Ok(batch)
    }

    /// A column that is derived twice has its final type only the second time.
    fn type_of(&self, name: &str, batch: &RecordBatch, planned: &DataType, expr: &RowExpr) -> DataType {
        let once = self.columns.iter().filter(|c| c.name.value == name).count() == 1;
        if once { planned.clone() } else { expr.data_type(&batch.schema()).unwrap_or_else(|| planned.clone()) }
    }
}

fn constant_type(value: &Value) -> DataType {
    match value {
        Value::Bool(_) => DataType::Boolean,
        Value::Int(_) => DataType::Int64,
        Value::Float(_) => DataType::Float64,
        Value::List(_) => text_list(),
        _ => DataType::Utf8,
    }
}

fn constant(value: &Value, rows: usize) -> ArrayRef {
    match value {
        Value::Bool(b) => Arc::new(BooleanArray::from(vec![*b; rows])),
        Value::Int(i) => Arc::new(Int64Array::from(vec![*i; rows])),
        Value::Float(f) => Arc::new(Float64Array::from(vec![*f; rows])),
        Value::Str(s) => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(s, rows))),
        other => new_null_array(&constant_type(other), rows),
    }
}

/// The position of a column, or that of a new one.
fn place(schema: &Schema, name: &str) -> usize {
    schema.index_of(name).unwrap_or(schema.fields().len())
}

fn with_column(schema: &SchemaRef, name: &str, data_type: DataType) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = schema.fields().to_vec();
    let (at, field) = (place(schema, name), Arc::new(Field::new(name, data_type, true)));
    match fields.get_mut(at) {
        Some(old) => *old = field,
        None => fields.push(field),
    }
    Arc::new(Schema::new(fields))
}

fn put_column(batch: &RecordBatch, name: &str, array: ArrayRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    let schema = with_column(&batch.schema(), name, array.data_type().clone());
    let mut columns = batch.columns().to_vec();
    match columns.get_mut(place(&batch.schema(), name)) {
        Some(old) => *old = array,
        None => columns.push(array),
    }
    RecordBatch::try_new(schema, columns)
}

impl Operator for Derive {
    fn canonical(&self) -> serde_json::Value {
        let column = |c: &NewColumn| match &c.from {
            Origin::Expr(expr) => json!({ "name": c.name.value, "expr": expr.text() }),
            Origin::Constant(Value::Bool(b)) => json!({ "name": c.name.value, "value": b }),
            Origin::Constant(Value::Int(i)) => json!({ "name": c.name.value, "value": i }),
            Origin::Constant(Value::Float(f)) => json!({ "name": c.name.value, "value": f }),
            Origin::Constant(Value::Str(s)) => json!({ "name": c.name.value, "value": s }),
            Origin::Constant(_) => json!({ "name": c.name.value, "value": null }),
        };
        self.columns.iter().map(column).collect()
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let schema = self.schemas(&input.schema, cx)?;
        Some(Resolved::new(vec![schema], Estimate { rows: input.estimate.rows, ..Estimate::default() }))
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        for batch in batches(cx, 0)? {
            let batch = self.add(cx, batch?)?;
            if batch.num_rows() > 0 {
                cx.emit(0, batch)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::expression::described;
    use crate::ops::testing_node::{Given, given, lines, refusal, rows, run};

    fn input() -> Vec<Given> {
        vec![given(
            "from",
            "x",
            rows(r#"[{"id":"a","t":"1","l":["x","y"]},{"id":"b","t":"naïve","l":null},{"id":"c","t":null,"l":[]}]"#),
        )]
    }

    fn derived(columns: &str, batch: usize) -> crate::ops::testing_node::Ran {
        run(&format!("derive \"d\" from=\"x\" {{ {columns} }}"), &input(), batch)
    }

    #[test]
    fn columns_build_on_each_other() {
        let columns = r#"column "n" "LENGTH(t)"; column "twice" "n * 2"; column "half" "n / 2.0"; column "t" "UPPER(t)"; column "yes" "n > 1""#;
        for batch in 1..=3 {
            let ran = derived(columns, batch);
            insta::allow_duplicates! {
                insta::assert_snapshot!(lines(&ran.rows[0]), @r#"
                {"id":"a","t":"1","l":["x","y"],"n":1,"twice":2,"half":0.5,"yes":false}
                {"id":"b","t":"NAÏVE","l":null,"n":5,"twice":10,"half":2.5,"yes":true}
                {"id":"c","t":null,"l":[],"n":null,"twice":null,"half":null,"yes":null}
                "#);
                insta::assert_snapshot!(described(&ran.rows[0].schema()), @"`id` (text), `t` (text), `l` (list of text), `n` (integer), `twice` (integer), `half` (number), `yes` (boolean)");
            }
        }
    }

    #[test]
    fn constants_have_types() {
        let ran = derived(
            r#"column "s" value="it's"; column "i" value=3; column "f" value=0.5; column "b" value=#true; column "none" value=#null"#,
            2,
        );
        assert_eq!(
            described(&ran.rows[0].schema()).split_once("`s`").unwrap().1,
            " (text), `i` (integer), `f` (number), `b` (boolean), `none` (text)"
        );
        assert!(
            lines(&ran.rows[0])
                .starts_with(r#"{"id":"a","t":"1","l":["x","y"],"s":"it's","i":3,"f":0.5,"b":true,"none":null}"#)
        );
    }

    #[test]
    fn a_value_that_cannot_be_had_goes_alone() {
        for batch in 1..=3 {
            let ran = derived(r#"column "n" "CAST(t AS BIGINT)"; column "m" "n + 1""#, batch);
            assert_eq!(
                lines(&ran.rows[0]),
                "{\"id\":\"a\",\"t\":\"1\",\"l\":[\"x\",\"y\"],\"n\":1,\"m\":2}\n{\"id\":\"c\",\"t\":null,\"l\":[],\"n\":null,\"m\":null}\n"
            );
            assert_eq!(ran.rejected.len(), 1);
            assert_eq!((ran.rejected[0].id.as_str(), ran.rejected[0].reason), ("b", "bad-value"));
            assert!(ran.rejected[0].message.contains("naïve"), "{}", ran.rejected[0].message);
        }
    }

    #[test]
    fn a_column_may_change_its_type_on_the_way() {
        let ran = derived(r#"column "n" "LENGTH(t)"; column "n" "n > 1""#, 2);
        assert!(lines(&ran.rows[0]).contains("\"n\":true"));
    }

    #[test]
    fn what_is_wrong_is_said_at_plan_time() {
        let refused = |columns: &str| refusal(&format!("derive \"d\" from=\"x\" {{ {columns} }}"), &input());
        insta::assert_snapshot!(refused(r#"column "a" "LENGHT(t)"; column "b"; column "c" "t" value=1; column "id" "t""#), @r#"
        error [bad-expression]: this expression cannot be used: unsupported function 'lenght'
          at: written here
          help: functions and operators are those of polars SQL
        error [bad-column]: column `b` needs an expression or a `value`
          at: here
          help: column "len" "LENGTH(response)", or column "source" value="textbook"
        error [bad-column]: column `c` needs an expression or a `value`, not both
          at: here
          help: column "len" "LENGTH(response)", or column "source" value="textbook"
        error [reserved-column]: `id` names the rows and is not derived
          at: names `id`
        "#);
        insta::assert_snapshot!(refused(r#"column "a" "LENGTH(q)"; column "b" "a || t"; column "c" "SUM(LENGTH(t))""#), @"
        error [column-missing]: there is no column `q` here
          at: column `q` is read here
          at: `x` gives `id`, `t` and `l`
        error [not-row-wise]: this expression looks at more than one row at a time
          at: must have a value for each row by itself
          help: use `summarize` or `sql` for sums, ranks and window functions
        ");
    }
}
