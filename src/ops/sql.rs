//! `sql`: a polars SQL query over named inputs.

use super::expression::{described, guarded, is_shallow};
use super::gather::{fitted, free_axes};
use super::polars_bridge::{BridgeError, from_frame, to_frame};
use super::rows::{Held, ID, arrow_failed, batches, emit_in_batches, id_field, reject_row};
use super::{
    Arity, FieldKind, FieldSpec, Fields, InputSpec, OUT, OpSpec, Operator, ResolveCx, Resolved, did_you_mean, list,
};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::{Estimate, NodeName};
use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use polars::prelude::{
    DataFrame, DslPlan, IntoLazy, JoinOptions, JoinType, LazyFrame, MaintainOrderJoin, UniqueKeepStrategy,
};
use polars::sql::{SQLContext, extract_table_identifiers};
use serde_json::json;
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "sql",
    summary: "Runs a polars SQL query over its inputs",
    doc: "\
Each input is a table, named as the node that it comes from, with `_` for every character that SQL would not take bare:
`scored-rows` is `scored_rows`. A named output adds its name: `halves.lower` is `halves_lower`. `as` gives other names, one
for each reference in turn. The instances of a sweep are one table, with a text column for every matrix axis that this
node lacks.

The query is a SELECT (or WITH … SELECT) in polars' dialect. Rows come in an order that depends on the inputs alone: groups
and distinct rows by their first row, joined rows by the left and then the right input, ties of ORDER BY as they were.
Columns keep their types as far as edges have them; others become text. A result may do without `id`; where it has one, a
row whose `id` is null goes to quarantine.

All inputs are held in memory, up to the run's `memory`.",
    version: 1,
    inputs: &[InputSpec { name: "from", doc: "the tables", arity: Arity::Many, accepts_skipped: false }],
    outputs: OUT,
    fields: &[
        FieldSpec::new("query", FieldKind::Sql, "the query").required(),
        FieldSpec::new("as", FieldKind::List(&FieldKind::Str), "names of the tables, in the order of `from`"),
    ],
    sink: false,
    example: r#"
load "problems" path="problems.jsonl" { columns { topic "string"; score "float?" } }
sql "by-topic" from="problems" query="SELECT topic, AVG(score) AS mean, COUNT(*) AS n FROM problems GROUP BY topic"
write "topics" from="by-topic" path="topics.csv"
"#,
    build,
};

#[derive(Debug)]
struct Sql {
    query: Spanned<String>,
    names: Vec<Spanned<String>>,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let query = fields.str("query");
    let start = query.trim_start_matches(|c: char| c.is_whitespace() || c == '(').to_lowercase();
    if !["select", "with"].iter().any(|word| start.starts_with(word)) {
        diagnostics.push(
            Diagnostic::error("bad-query", "a query is a SELECT, or a WITH … SELECT")
                .at(query.span, "begins otherwise")
                .help("SELECT question, response FROM rows WHERE LENGTH(response) > 20"),
        );
        return None;
    }
    let shallow = is_shallow(&query, diagnostics);
    shallow.then(|| Box::new(Sql { query, names: fields.strs("as") }) as Box<dyn Operator>)
}

/// A table of the query.
#[derive(Debug)]
struct Table {
    name: String,
    /// Positions of its inputs; more than one for the instances of a sweep.
    inputs: Vec<usize>,
    /// Axes that become columns.
    axes: Vec<String>,
    schema: SchemaRef,
}

/// One input, as it is known at plan time and while running.
struct Source<'a> {
    producer: &'a NodeName,
    output: &'a str,
    schema: &'a SchemaRef,
}

impl Source<'_> {
    fn table_name(&self) -> String {
        let name = match self.output {
            "out" => self.producer.base.clone(),
            output => format!("{}_{output}", self.producer.base),
        };
        name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect()
    }

    fn is_same_reference(&self, other: &Self) -> bool {
        self.producer.base == other.producer.base && self.output == other.output
    }
}

/// Inputs by table: those of one reference together. `Err` is a pair of inputs whose schemas differ.
fn tables(
    sources: &[Source<'_>],
    names: &[Spanned<String>],
    consumer: &NodeName,
) -> Result<Vec<Table>, (usize, usize)> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        match groups.iter_mut().find(|g| sources[g[0]].is_same_reference(source)) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    let table = |(number, inputs): (usize, Vec<usize>)| {
        let first = &sources[inputs[0]];
        if let Some(other) = inputs.iter().find(|i| sources[**i].schema.fields() != first.schema.fields()) {
            return Err((inputs[0], *other));
        }
        let own = |axis: &String| first.schema.index_of(axis).is_err();
        let axes: Vec<String> =
            free_axes(inputs.iter().map(|i| sources[*i].producer), consumer).into_iter().filter(own).collect();
        let axis_fields = axes.iter().map(|a| Field::new(a, DataType::Utf8, true));
        let fields: Vec<Field> = first.schema.fields().iter().map(|f| Field::clone(f)).chain(axis_fields).collect();
        let name = names.get(number).map_or_else(|| first.table_name(), |n| n.value.clone());
        Ok(Table { name, inputs, axes, schema: Arc::new(Schema::new(fields)) })
    };
    groups.into_iter().enumerate().map(table).collect()
}

impl Sql {
    /// Runs the query over frames by name.
    fn execute(&self, frames: Vec<(String, DataFrame)>) -> Result<DataFrame, BridgeError> {
        let mut context = SQLContext::new();
        for (name, frame) in frames {
            context.register(&name, frame.lazy());
        }
        let query = context.execute(&self.query)?;
        Ok(LazyFrame::from(in_order(query.logical_plan)).collect()?)
    }

    fn judge(&self, tables: &[Table]) -> Result<SchemaRef, String> {
        guarded(|| {
            let empty = |t: &Table| Ok((t.name.clone(), to_frame(&RecordBatch::new_empty(t.schema.clone()))?));
            let frames = tables.iter().map(empty).collect::<Result<_, BridgeError>>()?;
            Ok::<_, BridgeError>(with_id(&from_frame(&self.execute(frames)?)?.schema()))
        })
        .and_then(|schema| if schema.fields().is_empty() { Err("it selects no column".into()) } else { Ok(schema) })
    }

    fn check_names(&self, tables: &[Table], cx: &mut ResolveCx<'_>) -> bool {
        let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
        if let Some(last) = self.names.last().filter(|_| self.names.len() != tables.len()) {
            let message = format!("`as` gives {} names for {} tables", self.names.len(), tables.len());
            let inputs: Vec<&str> = tables.iter().map(|t| cx.inputs[t.inputs[0]].producer.base.as_str()).collect();
            cx.error(
                Diagnostic::error("bad-names", message)
                    .at(last.span, format!("the tables come from {}", list(&inputs))),
            );
            return false;
        }
        if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)).map(|(_, n)| *n) {
            cx.error(
                Diagnostic::error("bad-names", format!("two inputs are called `{twice}`"))
                    .at(self.query.span, "which of them is meant is not clear")
                    .help("`as` gives the tables other names, in the order of `from`"),
            );
            return false;
        }
        let Ok(read) = extract_table_identifiers(&self.query, false, true) else { return true };
        for unread in tables.iter().filter(|t| !read.contains(&t.name)) {
            let input = &cx.inputs[unread.inputs[0]];
            cx.error(
                Diagnostic::warning("unused-input", format!("the query does not read `{}`", unread.name))
                    .at(input.span, format!("`{}` is the table `{}`", input.producer, unread.name)),
            );
        }
        true
    }
}

/// The schema with a column `id` that is not null, if it has one of text.
fn with_id(schema: &SchemaRef) -> SchemaRef {
    let field = |f: &Arc<Field>| match f.name() == ID && *f.data_type() == DataType::Utf8 {
        true => Arc::new(id_field()),
        false => f.clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// The plan with every step made to keep the order of its input. By default polars gives groups, distinct rows and joined
/// rows in whatever order its threads finish.
fn in_order(plan: DslPlan) -> DslPlan {
    let within = |input: Arc<DslPlan>| Arc::new(in_order(Arc::unwrap_or_clone(input)));
    match plan {
        DslPlan::Filter { input, predicate } => DslPlan::Filter { input: within(input), predicate },
        DslPlan::Cache { input, id } => DslPlan::Cache { input: within(input), id },
        DslPlan::Select { expr, input, options } => DslPlan::Select { expr, input: within(input), options },
        DslPlan::GroupBy { input, keys, predicates, aggs, options, apply, .. } => {
            DslPlan::GroupBy { input: within(input), keys, predicates, aggs, maintain_order: true, options, apply }
        }
        DslPlan::Join { input_left, input_right, left_on, right_on, predicates, options } => DslPlan::Join {
            input_left: within(input_left),
            input_right: within(input_right),
            left_on,
            right_on,
            predicates,
            options: Arc::new(ordered_join(Arc::unwrap_or_clone(options))),
        },
        DslPlan::Gather { input, idxs, null_on_oob } => {
            DslPlan::Gather { input: within(input), idxs: within(idxs), null_on_oob }
        }
        DslPlan::HStack { input, exprs, options } => DslPlan::HStack { input: within(input), exprs, options },
        DslPlan::Distinct { input, mut options } => {
            options.maintain_order = true;
            if options.keep_strategy == UniqueKeepStrategy::Any {
                options.keep_strategy = UniqueKeepStrategy::First;
            }
            DslPlan::Distinct { input: within(input), options }
        }
        DslPlan::Sort { input, by_column, slice, mut sort_options } => {
            sort_options.maintain_order = true;
            DslPlan::Sort { input: within(input), by_column, slice, sort_options }
        }
        DslPlan::Slice { input, offset, len } => DslPlan::Slice { input: within(input), offset, len },
        DslPlan::MapFunction { input, function } => DslPlan::MapFunction { input: within(input), function },
        DslPlan::Union { inputs, mut args } => {
            args.maintain_order = true;
            DslPlan::Union { inputs: inputs.into_iter().map(in_order).collect(), args }
        }
        DslPlan::HConcat { inputs, options } => {
            DslPlan::HConcat { inputs: inputs.into_iter().map(in_order).collect(), options }
        }
        DslPlan::ExtContext { input, contexts } => {
            DslPlan::ExtContext { input: within(input), contexts: contexts.into_iter().map(in_order).collect() }
        }
        DslPlan::IR { dsl, .. } => in_order(Arc::unwrap_or_clone(dsl)),
        other => other,
    }
}

fn ordered_join(mut options: JoinOptions) -> JoinOptions {
    options.args.maintain_order = match options.args.how {
        JoinType::Right => MaintainOrderJoin::RightLeft,
        // Semi joins as well: they keep the order anyhow, but unless they say so the planner takes what comes after
        // them to be free of order.
        _ => MaintainOrderJoin::LeftRight,
    };
    options
}

impl Operator for Sql {
    fn canonical(&self) -> serde_json::Value {
        json!({ "query": self.query.value, "as": self.names.iter().map(|n| n.value.as_str()).collect::<Vec<_>>() })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let source = |i| {
            let input: &crate::plan::InputInfo = i;
            Source { producer: &input.producer, output: input.output, schema: &input.schema }
        };
        let sources: Vec<Source<'_>> = cx.inputs.iter().map(source).collect();
        let tables = match tables(&sources, &self.names, cx.node) {
            Ok(tables) => tables,
            Err((a, b)) => {
                let (a, b) = (&cx.inputs[a], &cx.inputs[b]);
                cx.error(
                    Diagnostic::error("columns-differ", "the instances of a sweep have different columns")
                        .at(b.span, format!("`{}` gives {}", b.producer, described(&b.schema)))
                        .and(a.span, format!("`{}` gives {}", a.producer, described(&a.schema)))
                        .help("`concat` with how=\"union\" brings them into one"),
                );
                return None;
            }
        };
        if !self.check_names(&tables, cx) {
            return None;
        }
        match self.judge(&tables) {
            Ok(schema) => {
                let mut resolved = Resolved::new(vec![schema], Estimate::default());
                resolved.barrier = true;
                resolved.reads_bindings = true;
                Some(resolved)
            }
            Err(problem) => {
                let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
                let mut d = Diagnostic::error("bad-query", format!("this query does not work: {problem}"))
                    .at(self.query.span, "cannot be run");
                for table in &tables {
                    let input = &cx.inputs[table.inputs[0]];
                    d = d.and(input.span, format!("table `{}` has {}", table.name, described(&table.schema)));
                }
                let read = extract_table_identifiers(&self.query, false, true).unwrap_or_default();
                let unknown = read.iter().find(|t| !names.contains(&t.as_str()));
                if let Some(near) = unknown.and_then(|t| did_you_mean(t, names.iter().copied())) {
                    d = d.help(format!("did you mean the table `{near}`?"));
                }
                cx.error(d);
                None
            }
        }
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let source = |i| {
            let input: &crate::exec::RunInput = i;
            Source { producer: &input.producer, output: input.output, schema: &input.schema }
        };
        let sources: Vec<Source<'_>> = cx.inputs().iter().map(source).collect();
        let tables = tables(&sources, &self.names, cx.node())
            .map_err(|_| RunError::failed("columns-differ", "the instances of a sweep have different columns"))?;
        let mut held = Held::new(cx, "`sql`, which holds its inputs,");
        let mut frames = Vec::new();
        for table in &tables {
            let rows = read(cx, table, &mut held)?;
            // One chunk, so that no sum depends on how rows were grouped when they came.
            let frame = to_frame(&rows).map_err(|e| RunError::failed("polars", e.to_string()))?;
            frames.push((table.name.clone(), frame));
        }
        let result = guarded(|| from_frame(&self.execute(frames)?))
            .map_err(|problem| RunError::failed("bad-query", format!("the query failed on these rows: {problem}")))?;
        let result = rows_with_id(cx, &result)?;
        emit_in_batches(cx, 0, &result)
    }
}

fn read(cx: &NodeCx, table: &Table, held: &mut Held) -> Result<RecordBatch, RunError> {
    let mut rows = Vec::new();
    for index in &table.inputs {
        for batch in batches(cx, *index)? {
            let batch = fitted(&batch?, &table.schema, &table.axes, &cx.inputs()[*index].producer)?;
            // Twice: once here, and once as polars keeps texts.
            held.add(2 * crate::store::row_bytes(&batch).iter().sum::<u64>() as usize)?;
            rows.push(batch);
        }
    }
    concat_batches(&table.schema, &rows).map_err(arrow_failed)
}

/// The result in the planned schema; rows whose `id` is null go to quarantine.
fn rows_with_id(cx: &NodeCx, result: &RecordBatch) -> Result<RecordBatch, RunError> {
    let schema = cx.output_schema(0);
    let nameless: Vec<usize> = match schema.field_with_name(ID) {
        Ok(field) if !field.is_nullable() => {
            let ids = result.column_by_name(ID);
            ids.map_or_else(Vec::new, |ids| (0..ids.len()).filter(|row| ids.is_null(*row)).collect())
        }
        _ => Vec::new(),
    };
    for row in &nameless {
        reject_row(cx, result, *row, "bad-id", "the query gives this row no `id`")?;
    }
    let keep: UInt32Array =
        (0..result.num_rows()).filter(|row| nameless.binary_search(row).is_err()).map(|row| row as u32).collect();
    let named = take_record_batch(result, &keep).map_err(arrow_failed)?;
    RecordBatch::try_new(schema, named.columns().to_vec()).map_err(arrow_failed)
}

#[cfg(test)]
mod tests {
    use crate::config::RunOptions;
    use crate::exec::RunError;
    use crate::ops::expression::described;
    use crate::ops::testing_node::{Given, Node, given, lines, refusal, rows, rows_json, run};
    use serde_json::json;

    fn inputs() -> Vec<Given> {
        vec![
            given(
                "from",
                "my-rows",
                rows(
                    r#"[{"id":"1","t":"b","n":1,"l":["x"]},{"id":"2","t":"a","n":2,"l":null},{"id":"3","t":"b","n":null,"l":[]}]"#,
                ),
            ),
            given("from", "names", rows(r#"[{"id":"p","t":"a","long":"alpha"},{"id":"q","t":"b","long":"beta"}]"#)),
        ]
    }

    fn answer(query: &str) -> String {
        let of = |batch| {
            let ran = run(&format!("sql \"s\" {{ from \"my-rows\" \"names\"; query {query:?} }}"), &inputs(), batch);
            format!("{}\n{}", described(&ran.rows[0].schema()), lines(&ran.rows[0]))
        };
        let all = of(100);
        (1..4).for_each(|batch| assert_eq!(of(batch), all));
        all
    }

    #[test]
    fn queries_give_tables() {
        insta::assert_snapshot!(answer("SELECT t, SUM(n) AS total, COUNT(*) AS rows FROM my_rows GROUP BY t"), @r#"
        `t` (text), `total` (integer), `rows` (integer)
        {"t":"b","total":1,"rows":2}
        {"t":"a","total":2,"rows":1}
        "#);
        insta::assert_snapshot!(answer("SELECT r.id, r.l, names.long FROM my_rows r JOIN names ON r.t = names.t ORDER BY r.n DESC"), @r#"
        `id` (text), `l` (list of text), `long` (text)
        {"id":"3","l":[],"long":"beta"}
        {"id":"2","l":null,"long":"alpha"}
        {"id":"1","l":["x"],"long":"beta"}
        "#);
        insta::assert_snapshot!(answer("SELECT DISTINCT t FROM my_rows UNION ALL SELECT long FROM names"), @r#"
        `t` (text)
        {"t":"b"}
        {"t":"a"}
        {"t":"alpha"}
        {"t":"beta"}
        "#);
        insta::assert_snapshot!(answer("WITH big AS (SELECT * FROM my_rows WHERE n > 1) SELECT id, n * 2 AS twice FROM big WHERE t IN (SELECT t FROM names)"), @r#"
        `id` (text), `twice` (integer)
        {"id":"2","twice":4}
        "#);
        insta::assert_snapshot!(answer("SELECT id FROM my_rows WHERE n > 100"), @"`id` (text)");
    }

    #[test]
    fn order_depends_on_the_inputs_alone() {
        let many: serde_json::Value =
            (0..5000).map(|i: i64| json!({"id": i.to_string(), "k": (i * 7919) % 1009})).collect();
        let input = [given("from", "x", rows(&many.to_string()))];
        let keys = |query: &str| -> Vec<i64> {
            let ran = run(&format!("sql \"s\" from=\"x\" query=\"{query}\""), &input, 100);
            rows_json(&ran.rows[0]).iter().map(|r| r["k"].as_i64().unwrap()).collect()
        };
        let mut seen = std::collections::HashSet::new();
        let expected: Vec<i64> = (0..5000).map(|i: i64| (i * 7919) % 1009).filter(|k| seen.insert(*k)).collect();
        for query in [
            "SELECT k, COUNT(*) AS n FROM x GROUP BY k",
            "SELECT DISTINCT k FROM x",
            "SELECT k FROM x UNION SELECT k FROM x",
            "SELECT k FROM x INTERSECT SELECT k FROM x",
            "SELECT k FROM (SELECT k, MAX(id) AS id FROM x GROUP BY k) AS inner_query",
        ] {
            let found = keys(query);
            assert!(found == expected, "{query}: {:?}", &found[..10]);
        }
        let joined = keys("SELECT a.k FROM x a JOIN x b ON a.k = b.k");
        assert!(joined.len() > 5000 && joined[..5] == expected[..1].repeat(5));
    }

    #[test]
    fn a_sweep_is_one_table() {
        let cell = |name: &str, n: i64| given("from", name, rows(&json!([{"id": "1", "n": n}]).to_string()));
        let inputs = [cell("s[set=A]", 1), cell("s[set=B]", 2)];
        let ran =
            run("sql \"q\" { from \"s\"; as \"t\"; query \"SELECT \\\"set\\\", n FROM t WHERE n > 0\" }", &inputs, 10);
        assert_eq!(lines(&ran.rows[0]), "{\"set\":\"A\",\"n\":1}\n{\"set\":\"B\",\"n\":2}\n");
    }

    #[test]
    fn outputs_have_tables_of_their_own() {
        let mut inputs = inputs();
        inputs[1].output = "lower";
        let node = Node::new(
            "sql \"s\" { from \"my-rows\" \"names.lower\"; query \"SELECT long FROM names_lower, my_rows\" }",
            &inputs,
        );
        assert_eq!(described(node.unwrap().schema()), "`long` (text)");
    }

    #[test]
    fn rows_without_a_name_go_to_quarantine() {
        let ran =
            run("sql \"s\" from=\"x\" query=\"SELECT NULLIF(id, '2') AS id, n FROM my_rows\"", &inputs()[..1], 10);
        assert_eq!(lines(&ran.rows[0]), "{\"id\":\"1\",\"n\":1}\n{\"id\":\"3\",\"n\":null}\n");
        assert_eq!((ran.rejected.len(), ran.rejected[0].reason), (1, "bad-id"));
    }

    #[test]
    fn memory_is_bounded() {
        let node = Node::new("sql \"s\" from=\"x\" query=\"SELECT * FROM my_rows\"", &inputs()[..1]).unwrap();
        let error = node.run_with(RunOptions { memory: 50, ..RunOptions::default() }).err();
        assert!(matches!(error, Some(RunError::Failed { code: "out-of-memory", .. })));
    }

    #[test]
    fn what_is_wrong_is_said_at_plan_time() {
        let refused = |rest: &str| refusal(&format!("sql \"s\" {{ from \"my-rows\" \"names\"; {rest} }}"), &inputs());
        insta::assert_snapshot!(refused("query \"SELECT m FROM my_rows, names\""), @r#"
        error [bad-query]: this query does not work: not found: unable to find column "m"; valid columns: ["id", "t", "n", "l", "id:names", "t:names", "long"]
          at: cannot be run
          at: table `my_rows` has `id` (text), `t` (text), `n` (integer), `l` (list of text)
          at: table `names` has `id` (text), `t` (text), `long` (text)
        "#);
        insta::assert_snapshot!(refused("query \"SELECT t FROM my_row JOIN names USING (t)\""), @"
        warning [unused-input]: the query does not read `my_rows`
          at: `my-rows` is the table `my_rows`
        error [bad-query]: this query does not work: relation 'my_row' was not found
          at: cannot be run
          at: table `my_rows` has `id` (text), `t` (text), `n` (integer), `l` (list of text)
          at: table `names` has `id` (text), `t` (text), `long` (text)
          help: did you mean the table `my_rows`?
        ");
        insta::assert_snapshot!(refused("query \"SELECT FROM names\""), @"
        warning [unused-input]: the query does not read `my_rows`
          at: `my-rows` is the table `my_rows`
        error [bad-query]: this query does not work: it selects no column
          at: cannot be run
          at: table `my_rows` has `id` (text), `t` (text), `n` (integer), `l` (list of text)
          at: table `names` has `id` (text), `t` (text), `long` (text)
        ");
        insta::assert_snapshot!(refused("query \"DROP TABLE names\""), @"
        error [bad-query]: a query is a SELECT, or a WITH … SELECT
          at: begins otherwise
          help: SELECT question, response FROM rows WHERE LENGTH(response) > 20
        ");
        insta::assert_snapshot!(refused("query \"SELECT * FROM read_csv('x.csv'), names, my_rows\""), @"
        error [bad-query]: this query does not work: 'read_csv' is not a supported table function
          at: cannot be run
          at: table `my_rows` has `id` (text), `t` (text), `n` (integer), `l` (list of text)
          at: table `names` has `id` (text), `t` (text), `long` (text)
        ");
        insta::assert_snapshot!(refused("as \"a\"; query \"SELECT 1\""), @"
        error [bad-names]: `as` gives 1 names for 2 tables
          at: the tables come from `my-rows` and `names`
        ");
        insta::assert_snapshot!(refused("as \"a\" \"a\"; query \"SELECT 1\""), @"
        error [bad-names]: two inputs are called `a`
          at: which of them is meant is not clear
          help: `as` gives the tables other names, in the order of `from`
        ");
        insta::assert_snapshot!(refused("query \"SELECT t + n FROM my_rows, names\""), @r#"
        error [bad-query]: this query does not work: ambiguous reference to column "t" (use one of: my_rows.t, "names".t)
          at: cannot be run
          at: table `my_rows` has `id` (text), `t` (text), `n` (integer), `l` (list of text)
          at: table `names` has `id` (text), `t` (text), `long` (text)
        "#);
    }
}
