//! `select`: which columns go on, under which names.

use super::expression::described;
use super::rows::{ID, arrow_failed, batches};
use super::{FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved, did_you_mean, list};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema};
use indexmap::IndexMap;
use serde_json::json;
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "select",
    summary: "Keeps, drops and renames columns",
    doc: "\
First renames: `rename { response \"answer\" }` gives the column `answer` the name `response`, in its place. Then keeps
the `columns` named, in that order, or all but those of `drop`. Both go by the new names. The column `id` always
goes along, first, and keeps its name.",
    version: 1,
    inputs: FROM,
    outputs: OUT,
    fields: &[
        FieldSpec::new("columns", FieldKind::List(&FieldKind::Column), "the columns to keep, in this order"),
        FieldSpec::new("drop", FieldKind::List(&FieldKind::Column), "the columns to leave out"),
        FieldSpec::new("rename", FieldKind::Map(&FieldKind::Column), "new names and the columns that get them"),
    ],
    sink: false,
    example: r#"
load "problems" path="problems.jsonl" { columns { prompt "string"; answer "string"; level "int?" } }
select "pairs" from="problems" {
    columns "question" "response"
    rename {
        question "prompt"
        response "answer"
    }
}
write "pairs-file" from="pairs" path="pairs.parquet"
"#,
    build,
};

#[derive(Debug)]
struct Select {
    columns: Vec<Spanned<String>>,
    drop: Vec<Spanned<String>>,
    rename: IndexMap<String, (Span, Spanned<String>)>,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let select =
        Select { columns: fields.strs("columns"), drop: fields.strs("drop"), rename: fields.str_map("rename") };
    if !select.columns.is_empty() && !select.drop.is_empty() {
        diagnostics.push(
            Diagnostic::error("conflicting-fields", "`select` takes `columns` or `drop`, not both")
                .at(fields.span_of("drop"), "leaves columns out")
                .and(fields.span_of("columns"), "says which to keep"),
        );
        return None;
    }
    if select.columns.is_empty() && select.drop.is_empty() && select.rename.is_empty() {
        diagnostics.push(
            Diagnostic::error("missing-field", "`select` needs `columns`, `drop` or `rename`")
                .at(fields.span, "changes nothing"),
        );
        return None;
    }
    Some(Box::new(select))
}

impl Select {
    /// The input's columns under their new names.
    fn renamed(&self, schema: &Schema) -> Vec<String> {
        let new_name =
            |old: &str| self.rename.iter().find(|(_, (_, from))| from.value == old).map(|(new, _)| new.clone());
        schema.fields().iter().map(|f| new_name(f.name()).unwrap_or_else(|| f.name().clone())).collect()
    }

    /// Positions in the input and names in the output.
    fn kept(&self, schema: &Schema) -> Vec<(usize, String)> {
        let names = self.renamed(schema);
        let of = |name: &str| names.iter().position(|n| n == name).map(|i| (i, names[i].clone()));
        if self.columns.is_empty() {
            let dropped = |name: &String| self.drop.iter().any(|d| d.value == *name);
            return names.iter().cloned().enumerate().filter(|(_, n)| !dropped(n)).collect();
        }
        let id = of(ID);
        let others = self.columns.iter().filter(|c| c.value != ID).filter_map(|c| of(c));
        id.into_iter().chain(others).collect()
    }

    fn output_schema(&self, schema: &Schema) -> Arc<Schema> {
        let field = |(i, name): &(usize, String)| Field::clone(schema.field(*i)).with_name(name);
        Arc::new(Schema::new(self.kept(schema).iter().map(field).collect::<Vec<_>>()))
    }

    fn check(&self, cx: &mut ResolveCx<'_>) {
        let input = cx.input("from");
        for (new, (span, old)) in &self.rename {
            cx.need_column(input, old, "a column", |_| true, old.span);
            if new == ID || old.value == ID {
                cx.error(
                    Diagnostic::error("reserved-column", "`id` names the rows and is not renamed")
                        .at(*span, "renames it")
                        .help("`derive` can copy it: column \"source_id\" \"id\""),
                );
            }
        }
        self.check_renamed(cx);
        for (first, second) in repeated(self.columns.iter().chain(&self.drop)) {
            cx.error(
                Diagnostic::error("duplicate-column", format!("column `{}` is named twice", second.value))
                    .at(second.span, "again here")
                    .and(first.span, "first here"),
            );
        }
        if let Some(id) = self.drop.iter().find(|d| d.value == ID) {
            cx.error(
                Diagnostic::error("reserved-column", "`id` names the rows and always goes along")
                    .at(id.span, "cannot be dropped"),
            );
        }
    }

    /// Checks the new names: each stands for one column, and those kept or dropped are among them.
    fn check_renamed(&self, cx: &mut ResolveCx<'_>) {
        let input = cx.input("from");
        let names = self.renamed(&input.schema);
        for (new, (span, _)) in &self.rename {
            if names.iter().filter(|n| *n == new).count() > 1 {
                cx.error(
                    Diagnostic::error("column-clash", format!("there is a column `{new}` already"))
                        .at(*span, "would be a second one")
                        .and(input.producer_span, format!("`{}` gives {}", input.producer, described(&input.schema))),
                );
            }
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for column in self.columns.iter().chain(&self.drop).filter(|c| !names.contains(&c.as_str())) {
            let mut d = Diagnostic::error("column-missing", format!("there is no column `{}` here", column.value))
                .at(column.span, format!("after renaming there are {}", list(&names)))
                .and(input.producer_span, format!("from `{}`", input.producer));
            if let Some(near) = did_you_mean(column, names.iter().copied()) {
                d = d.help(format!("did you mean `{near}`?"));
            }
            cx.error(d);
        }
    }
}

/// Pairs of equal names.
fn repeated<'a>(names: impl Iterator<Item = &'a Spanned<String>>) -> Vec<(&'a Spanned<String>, &'a Spanned<String>)> {
    let mut seen: IndexMap<&str, &Spanned<String>> = IndexMap::new();
    let mut pairs = Vec::new();
    for name in names {
        match seen.get(name.as_str()) {
            Some(first) => pairs.push((*first, name)),
            None => {
                seen.insert(name, name);
            }
        }
    }
    pairs
}

impl Operator for Select {
    fn canonical(&self) -> serde_json::Value {
        let names = |list: &[Spanned<String>]| -> Vec<String> { list.iter().map(|n| n.value.clone()).collect() };
        let rename: Vec<[&str; 2]> = self.rename.iter().map(|(new, (_, old))| [new.as_str(), old.as_str()]).collect();
        json!({ "columns": names(&self.columns), "drop": names(&self.drop), "rename": rename })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let before = cx.diagnostics.0.len();
        self.check(cx);
        if cx.diagnostics.0.len() > before {
            return None;
        }
        let input = cx.input("from");
        let estimate = Estimate { rows: input.estimate.rows, ..Estimate::default() };
        Some(Resolved::new(vec![self.output_schema(&input.schema)], estimate))
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let schema = cx.output_schema(0);
        let kept = self.kept(&cx.inputs()[0].schema);
        for batch in batches(cx, 0)? {
            let batch = batch?;
            let columns = kept.iter().map(|(i, _)| batch.column(*i).clone()).collect();
            let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            cx.emit(0, RecordBatch::try_new_with_options(schema.clone(), columns, &rows).map_err(arrow_failed)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing_node::{Given, given, lines, refusal, rows, run};

    fn input() -> Vec<Given> {
        vec![given("from", "x", rows(r#"[{"id":"a","prompt":"p","answer":"q","n":1}]"#))]
    }

    fn selected(rest: &str) -> String {
        lines(&run(&format!("select \"s\" from=\"x\" {rest}"), &input(), 10).rows[0])
    }

    #[test]
    fn columns_are_kept_in_the_order_named() {
        assert_eq!(selected("{ columns \"n\" \"answer\" }"), "{\"id\":\"a\",\"n\":1,\"answer\":\"q\"}\n");
        assert_eq!(selected("columns=\"id\""), "{\"id\":\"a\"}\n");
        assert_eq!(selected("{ drop \"n\" \"prompt\" }"), "{\"id\":\"a\",\"answer\":\"q\"}\n");
    }

    #[test]
    fn renaming_comes_first() {
        let swapped = selected("{ rename { prompt \"answer\"; answer \"prompt\" }; drop \"n\" }");
        assert_eq!(swapped, "{\"id\":\"a\",\"answer\":\"p\",\"prompt\":\"q\"}\n");
        assert_eq!(
            selected("{ rename { response \"answer\" }; columns \"response\" }"),
            "{\"id\":\"a\",\"response\":\"q\"}\n"
        );
    }

    #[test]
    fn what_is_wrong_is_said_at_plan_time() {
        let refused = |rest: &str| refusal(&format!("select \"s\" from=\"x\" {rest}"), &input());
        insta::assert_snapshot!(refused(""), @"
        error [missing-field]: `select` needs `columns`, `drop` or `rename`
          at: changes nothing
        ");
        insta::assert_snapshot!(refused("columns=\"n\" drop=\"answer\""), @"
        error [conflicting-fields]: `select` takes `columns` or `drop`, not both
          at: leaves columns out
          at: says which to keep
        ");
        insta::assert_snapshot!(refused("{ columns \"anwser\" \"n\" \"n\" }"), @"
        error [column-missing]: there is no column `anwser` here
          at: after renaming there are `id`, `prompt`, `answer` and `n`
          at: from `x`
          help: did you mean `answer`?
        error [duplicate-column]: column `n` is named twice
          at: again here
          at: first here
        ");
        insta::assert_snapshot!(refused("{ rename { id \"n\"; answer \"prompt\"; x \"y\" } }"), @r#"
        error [reserved-column]: `id` names the rows and is not renamed
          at: renames it
          help: `derive` can copy it: column "source_id" "id"
        error [column-missing]: `test` needs a column `y` that its input does not have
          at: column `y` is read here
          at: `x` gives `id`, `prompt`, `answer` and `n`
        error [column-clash]: there is a column `id` already
          at: would be a second one
          at: `x` gives `id` (text), `prompt` (text), `answer` (text), `n` (integer)
        error [column-clash]: there is a column `answer` already
          at: would be a second one
          at: `x` gives `id` (text), `prompt` (text), `answer` (text), `n` (integer)
        "#);
        insta::assert_snapshot!(refused("drop=\"id\""), @"
        error [reserved-column]: `id` names the rows and always goes along
          at: cannot be dropped
        ");
    }
}
