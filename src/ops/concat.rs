//! `concat`: the rows of several inputs, one after another.

use super::expression::type_word;
use super::gather::{self, NOTE, free_axes};
use super::rows::{ID, batches, id_field};
use super::{
    Arity, Default, FieldKind, FieldSpec, Fields, InputSpec, OUT, OpSpec, Operator, ResolveCx, Resolved, list,
};
use crate::diag::{Diagnostic, Diagnostics, Span};
use crate::exec::{NodeCx, RunError};
use crate::plan::{Estimate, InputInfo};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::json;
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "concat",
    summary: "Puts the rows of several inputs one after another",
    doc: "\
Gives all rows of the first input, then all of the second, and so on, in the order in which they are referred to; the
instances of a sweep come in the order of its matrix. Columns are matched by name. With `how=\"exact\"` every input must
have the same columns; with `how=\"union\"` a column that an input lacks is null there. Types must agree.

`bind=#true` adds a text column for every matrix axis that the inputs have and this node does not, with the axis value of
each row's producer, and a column `note`. An input that was skipped (a `load` with `on-missing=\"skip\"`) then gives one
row that has only its axis values and, as `note`, the reason; without `bind` it gives no rows. If all inputs are
skipped, so is this node.",
    version: 1,
    inputs: &[InputSpec {
        name: "from",
        doc: "the inputs, in order",
        arity: Arity::Many,
        accepts_skipped: true,
    }],
    outputs: OUT,
    fields: &[
        FieldSpec::new("how", FieldKind::Choice(&["exact", "union"]), "whether all inputs must have the same columns")
            .default(Default::Str("exact")),
        FieldSpec::new("bind", FieldKind::Bool, "add the inputs' matrix axes as columns").default(Default::Bool(false)),
    ],
    sink: false,
    example: r#"
matrix "cells" {
    set "easy" "hard"
}
load "problems" matrix="cells" path="${set}.jsonl" { columns { question "string" } }
concat "all" { from "problems"; bind #true }
write "all-file" from="all" path="all.jsonl"
"#,
    build,
};

#[derive(Debug)]
struct Concat {
    union: bool,
    bind: bool,
    how_span: Span,
    bind_span: Span,
}

fn build(fields: &Fields, _: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    Some(Box::new(Concat {
        union: fields.str("how").value == "union",
        bind: fields.bool("bind"),
        how_span: fields.span_of("how"),
        bind_span: fields.span_of("bind"),
    }))
}

/// The inputs' columns by name, each nullable where one of them lets it be.
struct Columns {
    fields: Vec<Field>,
}

impl Columns {
    /// Adds an input's columns; `Err` names one that has another type already.
    fn add(&mut self, schema: &Schema) -> Result<(), String> {
        for field in schema.fields() {
            let Some(known) = self.fields.iter_mut().find(|f| f.name() == field.name()) else {
                self.fields.push(Field::clone(field));
                continue;
            };
            if !known.data_type().equals_datatype(field.data_type()) {
                return Err(field.name().clone());
            }
            if field.is_nullable() {
                *known = known.clone().with_nullable(true);
            }
        }
        Ok(())
    }

    fn type_of(&self, name: &str) -> Option<&DataType> {
        self.fields.iter().find(|f| f.name() == name).map(Field::data_type)
    }
}

impl Concat {
    fn columns(&self, live: &[&InputInfo], cx: &mut ResolveCx<'_>) -> Option<Columns> {
        let first = live[0];
        let mut columns = Columns { fields: Vec::new() };
        let mut sound = true;
        for input in live {
            if let Err(name) = columns.add(&input.schema) {
                let given = input.schema.field_with_name(&name).map_or(String::new(), |f| type_word(f.data_type()));
                let known = columns.type_of(&name).map_or(String::new(), type_word);
                let message = format!("column `{name}` is {known} in one input and {given} in another");
                cx.error(
                    Diagnostic::error("column-type", message)
                        .at(input.span, format!("`{}` gives it as {given}", input.producer))
                        .and(first.span, format!("before it is {known}"))
                        .help("`derive` can convert: column \"x\" \"CAST(x AS DOUBLE)\""),
                );
                sound = false;
            }
            sound &= self.union || self.same_columns(first, input, cx);
        }
        if self.union {
            let everywhere = |f: &Field| live.iter().all(|i| i.schema.field_with_name(f.name()).is_ok());
            columns.fields =
                columns.fields.into_iter().map(|f| if everywhere(&f) { f } else { f.with_nullable(true) }).collect();
        }
        sound.then_some(columns)
    }

    fn same_columns(&self, first: &InputInfo, input: &InputInfo, cx: &mut ResolveCx<'_>) -> bool {
        let without = |a: &InputInfo, b: &InputInfo| -> Vec<String> {
            let lacks = |f: &&Arc<Field>| b.schema.field_with_name(f.name()).is_err();
            a.schema.fields().iter().filter(lacks).map(|f| f.name().clone()).collect()
        };
        let (lacks, more) = (without(first, input), without(input, first));
        if lacks.is_empty() && more.is_empty() {
            return true;
        }
        let words = |names: &[String]| list(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let label = match (lacks.as_slice(), more.as_slice()) {
            (lacks, []) => format!("`{}` lacks {}", input.producer, words(lacks)),
            ([], more) => format!("`{}` has {} besides", input.producer, words(more)),
            (lacks, more) => format!("`{}` lacks {} and has {} besides", input.producer, words(lacks), words(more)),
        };
        cx.error(
            Diagnostic::error("columns-differ", "the inputs of `concat` have different columns")
                .at(input.span, label)
                .and(first.span, format!("`{}` comes first", first.producer))
                .and(self.how_span, "asks for the same columns everywhere")
                .help("how=\"union\" fills what an input lacks with nulls; `select` brings columns into line"),
        );
        false
    }

    /// The axis columns, or errors where they clash with the inputs' own.
    fn axes(&self, columns: &Columns, cx: &mut ResolveCx<'_>) -> Option<Vec<String>> {
        if !self.bind {
            return Some(Vec::new());
        }
        let axes = free_axes(cx.inputs.iter().map(|i| &i.producer), cx.node);
        if axes.is_empty() {
            cx.error(
                Diagnostic::warning("nothing-to-bind", "the inputs have no matrix axis that this node lacks")
                    .at(self.bind_span, "adds no column but `note`"),
            );
        }
        let clash = axes.iter().find(|a| columns.type_of(a).is_some());
        let note = columns.type_of(NOTE).filter(|t| **t != DataType::Utf8).map(|_| NOTE.to_string());
        if let Some(name) = clash.cloned().or(note) {
            cx.error(
                Diagnostic::error("column-clash", format!("the inputs have a column `{name}` of their own"))
                    .at(self.bind_span, format!("would add `{name}`"))
                    .help("rename or drop it before with `select`"),
            );
            return None;
        }
        Some(axes)
    }

    fn schema(&self, axes: &[String], columns: Columns, any_skipped: bool) -> SchemaRef {
        let (id, rest): (Vec<Field>, Vec<Field>) = columns.fields.into_iter().partition(|f| f.name() == ID);
        let id = id.into_iter().map(|f| if f.is_nullable() { f } else { id_field() });
        let mut fields: Vec<Field> = id.collect();
        fields.extend(axes.iter().map(|axis| Field::new(axis, DataType::Utf8, true)));
        fields.extend(rest.into_iter().filter(|f| !self.bind || f.name() != NOTE));
        if self.bind {
            fields.push(Field::new(NOTE, DataType::Utf8, true));
        }
        if self.bind && any_skipped {
            fields = fields.into_iter().map(|f| if f.name() == ID { f } else { f.with_nullable(true) }).collect();
        }
        Arc::new(Schema::new(fields))
    }
}

impl Operator for Concat {
    fn canonical(&self) -> serde_json::Value {
        json!({ "how": if self.union { "union" } else { "exact" }, "bind": self.bind })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let inputs = cx.port("from");
        let (live, skipped): (Vec<&InputInfo>, Vec<&InputInfo>) = inputs.iter().partition(|i| i.skipped.is_none());
        if live.is_empty() {
            let reasons: Vec<&str> = skipped.iter().filter_map(|i| i.skipped.as_deref()).collect();
            let mut resolved = Resolved::new(vec![Arc::new(Schema::empty())], Estimate::default());
            resolved.skipped = Some(format!("all inputs are skipped: {}", reasons.first().unwrap_or(&"none is there")));
            return Some(resolved);
        }
        let columns = self.columns(&live, cx)?;
        let axes = self.axes(&columns, cx)?;
        let notes = if self.bind { skipped.len() as u64 } else { 0 };
        let rows = live.iter().map(|i| i.estimate.rows).sum::<Option<u64>>().map(|rows| rows + notes);
        let schema = self.schema(&axes, columns, !skipped.is_empty());
        let mut resolved = Resolved::new(vec![schema], Estimate { rows, ..Estimate::default() });
        resolved.reads_bindings = self.bind;
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let schema = cx.output_schema(0);
        let axes = match self.bind {
            true => free_axes(cx.inputs().iter().map(|i| &i.producer), cx.node()),
            false => Vec::new(),
        };
        for (index, input) in cx.inputs().iter().enumerate() {
            match &input.skipped {
                Some(reason) if self.bind => {
                    let id = format!("skipped:{}", input.producer);
                    let texts = [(ID, id), (NOTE, reason.clone())];
                    cx.emit(0, gather::stand_in(&schema, &axes, &input.producer, &texts)?)?;
                }
                Some(_) => {}
                None => {
                    for batch in batches(cx, index)? {
                        cx.emit(0, gather::fitted(&batch?, &schema, &axes, &input.producer)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::expression::described;
    use crate::ops::testing_node::{Given, Node, given, lines, refusal, rows, run};
    use arrow::array::RecordBatch;
    use arrow::datatypes::Schema;
    use std::sync::Arc;

    fn one(name: &str, json: &str) -> Given {
        given("from", name, rows(json))
    }

    fn skipped(name: &str) -> Given {
        let mut given = given("from", name, RecordBatch::new_empty(Arc::new(Schema::empty())));
        given.skipped = Some("there is no file".into());
        given
    }

    #[test]
    fn columns_are_matched_by_name() {
        let inputs = [
            one("a", r#"[{"id":"1","x":1,"y":"p"}]"#),
            one("b", r#"[{"id":"2","y":null,"x":2},{"id":"3","y":"q","x":3}]"#),
        ];
        for batch in [1, 2] {
            let ran = run("concat \"c\" { from \"a\" \"b\" }", &inputs, batch);
            assert_eq!(
                lines(&ran.rows[0]),
                "{\"id\":\"1\",\"x\":1,\"y\":\"p\"}\n{\"id\":\"2\",\"x\":2,\"y\":null}\n{\"id\":\"3\",\"x\":3,\"y\":\"q\"}\n"
            );
        }
    }

    #[test]
    fn a_union_fills_with_nulls() {
        let inputs = [one("a", r#"[{"id":"1","x":1}]"#), one("b", r#"[{"id":"2","l":["p"]}]"#)];
        let ran = run("concat \"c\" from=\"x\" how=\"union\"", &inputs, 1);
        assert_eq!(lines(&ran.rows[0]), "{\"id\":\"1\",\"x\":1,\"l\":null}\n{\"id\":\"2\",\"x\":null,\"l\":[\"p\"]}\n");
    }

    #[test]
    fn axes_become_columns_and_skipped_inputs_notes() {
        let inputs = [
            one("s[set=GSM8K, variant=gpt-4]", r#"[{"id":"1","x":1},{"id":"2","x":2}]"#),
            skipped("s[set=MATH, variant=gpt-4]"),
            one("t[set=MATH, other=o]", r#"[{"id":"3","x":3}]"#),
        ];
        let ran = run("concat \"c\" from=\"x\" bind=#true", &inputs, 1);
        insta::assert_snapshot!(lines(&ran.rows[0]), @r#"
        {"id":"1","set":"GSM8K","variant":"gpt-4","other":null,"x":1,"note":null}
        {"id":"2","set":"GSM8K","variant":"gpt-4","other":null,"x":2,"note":null}
        {"id":"skipped:s[set=MATH, variant=gpt-4]","set":"MATH","variant":"gpt-4","other":null,"x":null,"note":"there is no file"}
        {"id":"3","set":"MATH","variant":null,"other":"o","x":3,"note":null}
        "#);
        assert_eq!(
            described(&ran.rows[0].schema()),
            "`id` (text), `set` (text), `variant` (text), `other` (text), `x` (integer), `note` (text)"
        );
        let quiet = run("concat \"c\" from=\"x\"", &inputs, 1);
        assert_eq!(quiet.rows[0].num_rows(), 3);
        let node = Node::new("concat \"c\" from=\"x\" bind=#true", &inputs).unwrap();
        assert_eq!((node.resolved.estimate.rows, node.resolved.reads_bindings), (Some(4), true));
    }

    #[test]
    fn notes_of_notes_are_kept() {
        let inner = one("s[set=A]", r#"[{"id":"1","note":null},{"id":"2","note":"why"}]"#);
        let ran = run("concat \"c\" from=\"x\" bind=#true", &[inner, skipped("s[set=B]")], 1);
        insta::assert_snapshot!(lines(&ran.rows[0]), @r#"
        {"id":"1","set":"A","note":null}
        {"id":"2","set":"A","note":"why"}
        {"id":"skipped:s[set=B]","set":"B","note":"there is no file"}
        "#);
    }

    #[test]
    fn without_any_input_there_is_nothing() {
        let node = Node::new("concat \"c\" from=\"x\" bind=#true", &[skipped("a"), skipped("b")]).unwrap();
        assert_eq!(node.resolved.skipped.as_deref(), Some("all inputs are skipped: there is no file"));
    }

    #[test]
    fn what_is_wrong_is_said_at_plan_time() {
        let a = one("a[set=A]", r#"[{"id":"1","x":1}]"#);
        let b = one("b[set=B]", r#"[{"id":"1","x":"one"}]"#);
        let c = one("c", r#"[{"id":"1","y":1,"set":"z"}]"#);
        insta::assert_snapshot!(refusal("concat \"c\" from=\"x\"", &[a.clone(), b]), @r#"
        error [column-type]: column `x` is integer in one input and text in another
          at: `b[set=B]` gives it as text
          at: before it is integer
          help: `derive` can convert: column "x" "CAST(x AS DOUBLE)"
        "#);
        insta::assert_snapshot!(refusal("concat \"c\" from=\"x\"", &[a.clone(), c.clone()]), @r#"
        error [columns-differ]: the inputs of `concat` have different columns
          at: `c` lacks `x` and has `y` and `set` besides
          at: `a[set=A]` comes first
          at: asks for the same columns everywhere
          help: how="union" fills what an input lacks with nulls; `select` brings columns into line
        "#);
        insta::assert_snapshot!(refusal("concat \"c\" from=\"x\" how=\"union\" bind=#true", &[a, c]), @"
        error [column-clash]: the inputs have a column `set` of their own
          at: would add `set`
          help: rename or drop it before with `select`
        ");
    }
}
