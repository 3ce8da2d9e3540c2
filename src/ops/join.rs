//! `join`: rows of two inputs that agree in some columns, side by side.

use super::expression::type_word;
use super::rows::{Held, Slabs, arrow_failed, batches};
use super::{Arity, Default, FieldKind, FieldSpec, Fields, InputSpec, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::{Estimate, InputInfo};
use crate::store::{row_bytes, split};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{filter_record_batch, interleave, take};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use serde_json::json;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "join",
    summary: "Brings rows of two inputs together by equal columns",
    doc: "\
Brings together each row of `left` with the rows of `right` that are equal in all columns of `on`:

- `inner` gives one row for every such pair,
- `left` as well, and a left row without a partner once, with nulls on the right,
- `semi` gives the left rows that have a partner, once each and without columns of the right,
- `anti` gives those that have none.

Nulls are equal to nothing. Rows come in the order of the left input and, for each, of the right. The columns of `on` stand
once, those of the right after those of the left, with `suffix` where a name is taken. The `id` is that of the left
row; unless `on` has it, the right row's is kept as `id_right`.

The left side streams. The right side is held in memory, up to the run's `memory`: put the smaller input there.",
    version: 1,
    inputs: &[
        InputSpec { name: "left", doc: "the rows to look up partners for", arity: Arity::One, accepts_skipped: false },
        InputSpec { name: "right", doc: "the rows to find, held in memory", arity: Arity::One, accepts_skipped: false },
    ],
    outputs: OUT,
    fields: &[
        FieldSpec::new("on", FieldKind::List(&FieldKind::Column), "the columns that must be equal, on both sides")
            .required(),
        FieldSpec::new("how", FieldKind::Choice(&["inner", "left", "semi", "anti"]), "what to do without a partner")
            .default(Default::Str("inner")),
        FieldSpec::new("suffix", FieldKind::Str, "ends the names of the right's columns that the left has as well")
            .default(Default::Str("_right")),
    ],
    sink: false,
    example: r#"
load "problems" path="problems.jsonl" { columns { question "string"; topic "string" } }
load "topics" path="topics.csv" { columns { topic "string"; difficulty "int" } }
join "rated" left="problems" right="topics" on="topic" how="left"
write "rated-file" from="rated" path="rated.jsonl"
"#,
    build,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Inner,
    Left,
    Semi,
    Anti,
}

#[derive(Debug)]
struct Join {
    on: Vec<Spanned<String>>,
    how: How,
    suffix: String,
    suffix_span: Span,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let on = fields.strs("on");
    for (i, column) in on.iter().enumerate() {
        if let Some(first) = on[..i].iter().find(|c| c.value == column.value) {
            diagnostics.push(
                Diagnostic::error("duplicate-column", format!("column `{}` is named twice", column.value))
                    .at(column.span, "again here")
                    .and(first.span, "first here"),
            );
            return None;
        }
    }
    let how = match fields.str("how").value.as_str() {
        "left" => How::Left,
        "semi" => How::Semi,
        "anti" => How::Anti,
        _ => How::Inner,
    };
    Some(Box::new(Join { on, how, suffix: fields.str("suffix").value, suffix_span: fields.span_of("suffix") }))
}

impl Join {
    fn is_key(&self, name: &str) -> bool {
        self.on.iter().any(|c| c.value == name)
    }

    /// The right's columns that go along: positions, and names in the output.
    fn right_columns(&self, left: &Schema, right: &Schema) -> Vec<(usize, String)> {
        if matches!(self.how, How::Semi | How::Anti) {
            return Vec::new();
        }
        let name = |name: &String| match left.index_of(name) {
            Ok(_) => format!("{name}{}", self.suffix),
            Err(_) => name.clone(),
        };
        let own = right.fields().iter().enumerate().filter(|(_, f)| !self.is_key(f.name()));
        own.map(|(i, f)| (i, name(f.name()))).collect()
    }

    fn schema(&self, left: &Schema, right: &Schema) -> SchemaRef {
        let field = |(i, name): (usize, String)| {
            let field = right.field(i).clone().with_name(name);
            if self.how == How::Left { field.with_nullable(true) } else { field }
        };
        let more = self.right_columns(left, right).into_iter().map(field);
        Arc::new(Schema::new(left.fields().iter().map(|f| Field::clone(f)).chain(more).collect::<Vec<_>>()))
    }

    fn keys_agree(&self, left: &InputInfo, right: &InputInfo, cx: &mut ResolveCx<'_>) -> bool {
        let mut agree = true;
        for column in &self.on {
            let of_left = cx.need_column(left, column, "a column", |_| true, column.span);
            let of_right = cx.need_column(right, column, "a column", |_| true, column.span);
            let (Some(a), Some(b)) = (of_left, of_right) else {
                agree = false;
                continue;
            };
            if !a.equals_datatype(&b) {
                let (a, b) = (type_word(&a), type_word(&b));
                let message = format!("column `{}` is {a} on the left and {b} on the right", column.value);
                cx.error(
                    Diagnostic::error("column-type", message)
                        .at(column.span, "cannot be compared")
                        .and(left.producer_span, format!("`{}` gives it as {a}", left.producer))
                        .and(right.producer_span, format!("`{}` gives it as {b}", right.producer))
                        .help("`derive` can convert one of them with CAST"),
                );
                agree = false;
            }
        }
        agree
    }

    fn names_differ(&self, left: &InputInfo, right: &InputInfo, cx: &mut ResolveCx<'_>) -> bool {
        let columns = self.right_columns(&left.schema, &right.schema);
        let taken = |(i, name): &&(usize, String)| {
            left.schema.index_of(name).is_ok() || columns.iter().any(|(other, n)| n == name && other != i)
        };
        let Some((_, name)) = columns.iter().find(taken) else { return true };
        cx.error(
            Diagnostic::error("column-clash", format!("two columns would be called `{name}`"))
                .at(self.suffix_span, "the suffix does not tell them apart")
                .and(right.producer_span, format!("from `{}`", right.producer))
                .help("give another `suffix`, or rename before with `select`"),
        );
        false
    }
}

impl Operator for Join {
    fn canonical(&self) -> serde_json::Value {
        let how = match self.how {
            How::Inner => "inner",
            How::Left => "left",
            How::Semi => "semi",
            How::Anti => "anti",
        };
        json!({ "on": self.on.iter().map(|c| c.value.as_str()).collect::<Vec<_>>(), "how": how, "suffix": self.suffix })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let (left, right) = (cx.input("left"), cx.input("right"));
        if !self.keys_agree(left, right, cx) || !self.names_differ(left, right, cx) {
            return None;
        }
        // Without looking at rows: as many partners as left rows, which is so where `on` names the right's rows.
        let estimate = Estimate { rows: left.estimate.rows, ..Estimate::default() };
        Some(Resolved::new(vec![self.schema(&left.schema, &right.schema)], estimate))
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let port = |name: &str| {
            let found = cx.inputs().iter().position(|i| i.port == name);
            found.ok_or_else(|| RunError::failed("no-input", format!("`join` has no input `{name}`")))
        };
        let (left, right) = (port("left")?, port("right")?);
        let table = Table::build(self, cx, left, right)?;
        for batch in batches(cx, left)? {
            let batch = batch?;
            match self.how {
                How::Semi | How::Anti => self.emit_left(cx, &table, &batch)?,
                How::Inner | How::Left => self.emit_pairs(cx, &table, &batch)?,
            }
        }
        Ok(())
    }
}

impl Join {
    fn emit_left(&self, cx: &NodeCx, table: &Table, batch: &RecordBatch) -> Result<(), RunError> {
        let keys = table.keys(self, batch)?;
        let wanted = self.how == How::Semi;
        let mask: BooleanArray =
            (0..batch.num_rows()).map(|row| Some(table.partners(&keys, row).next().is_some() == wanted)).collect();
        let kept = filter_record_batch(batch, &mask).map_err(arrow_failed)?;
        if kept.num_rows() == 0 { Ok(()) } else { cx.emit(0, kept) }
    }

    fn emit_pairs(&self, cx: &NodeCx, table: &Table, batch: &RecordBatch) -> Result<(), RunError> {
        let keys = table.keys(self, batch)?;
        let sizes = row_bytes(batch);
        let mut pairs = Pairs::default();
        for (row, size) in sizes.iter().enumerate() {
            let before = pairs.left.len();
            for place in table.partners(&keys, row) {
                pairs.push(row, place, size + table.sizes[place.0][place.1]);
                if pairs.left.len() >= PAIRS {
                    pairs.emit(cx, table, batch)?;
                }
            }
            let alone = pairs.left.len() == before && table.partners(&keys, row).next().is_none();
            if alone && self.how == How::Left {
                pairs.push(row, table.nulls(), *size);
            }
        }
        pairs.emit(cx, table, batch)
    }
}

/// Pairs gathered before they are made into batches: a row with very many partners must not gather them all.
const PAIRS: usize = 1 << 16;
const BATCH_BYTES: u64 = 16 << 20;
/// The right side is cut into pieces of this size.
const PIECE_ROWS: usize = 1 << 16;
const PIECE_BYTES: u64 = 64 << 20;

/// Rows of a left batch and the places of their partners.
#[derive(Default)]
struct Pairs {
    left: Vec<u32>,
    right: Vec<(usize, usize)>,
    sizes: Vec<u64>,
}

impl Pairs {
    fn push(&mut self, row: usize, place: (usize, usize), bytes: u64) {
        self.left.push(row as u32);
        self.right.push(place);
        self.sizes.push(bytes);
    }

    /// Emits the pairs as batches, bounded in rows and bytes.
    fn emit(&mut self, cx: &NodeCx, table: &Table, batch: &RecordBatch) -> Result<(), RunError> {
        for range in split(&self.sizes, cx.options().batch_rows, BATCH_BYTES) {
            let rows = UInt32Array::from_iter_values(self.left[range.clone()].iter().copied());
            let left = batch.columns().iter().map(|c| take(c, &rows, None));
            let right = table.columns.iter().map(|pieces| {
                let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
                interleave(&pieces, &self.right[range.clone()])
            });
            let columns = left.chain(right).collect::<Result<Vec<ArrayRef>, _>>().map_err(arrow_failed)?;
            cx.emit(0, RecordBatch::try_new(cx.output_schema(0), columns).map_err(arrow_failed)?)?;
        }
        *self = Self::default();
        Ok(())
    }
}

/// The right side: its columns in pieces, and its keys in a hash table.
struct Table {
    converter: RowConverter,
    /// For every column that goes along its pieces, and one with a single null.
    columns: Vec<Vec<ArrayRef>>,
    /// Bytes of every row of every piece.
    sizes: Vec<Vec<u64>>,
    /// The keys of every piece.
    keys: Vec<Rows>,
    /// Hash of a key -> number of the first row that has it.
    first: HashMap<u64, u32, BuildHasherDefault<DefaultHasher>>,
    /// Number of the next row with the same hash, or `NONE`.
    next: Vec<u32>,
    /// Places of the rows by their numbers.
    places: Vec<(u32, u32)>,
}

const NONE: u32 = u32::MAX;

impl Table {
    fn build(join: &Join, cx: &NodeCx, left: usize, right: usize) -> Result<Self, RunError> {
        let (left, schema) = (&cx.inputs()[left].schema, &cx.inputs()[right].schema);
        let field = |c: &Spanned<String>| Ok(SortField::new(schema.field_with_name(c)?.data_type().clone()));
        let fields = join.on.iter().map(field).collect::<Result<_, _>>().map_err(arrow_failed)?;
        let converter = RowConverter::new(fields).map_err(arrow_failed)?;
        let wanted: Vec<usize> = join.right_columns(left, schema).into_iter().map(|(i, _)| i).collect();
        let mut table = Self {
            converter,
            columns: wanted.iter().map(|_| Vec::new()).collect(),
            sizes: Vec::new(),
            keys: Vec::new(),
            first: HashMap::default(),
            next: Vec::new(),
            places: Vec::new(),
        };
        let mut held = Held::new(cx, "the right side of `join`");
        let mut slabs = Slabs::new(schema.clone(), PIECE_ROWS, PIECE_BYTES);
        for batch in batches(cx, right)? {
            let batch = batch?;
            held.add(row_bytes(&batch).iter().sum::<u64>() as usize)?;
            for piece in slabs.push(&batch).map_err(arrow_failed)? {
                table.add(join, &piece, &wanted, &mut held)?;
            }
        }
        if let Some(piece) = slabs.finish().map_err(arrow_failed)? {
            table.add(join, &piece, &wanted, &mut held)?;
        }
        for (pieces, i) in table.columns.iter_mut().zip(&wanted) {
            pieces.push(new_null_array(schema.field(*i).data_type(), 1));
        }
        table.link();
        Ok(table)
    }

    fn add(&mut self, join: &Join, piece: &RecordBatch, wanted: &[usize], held: &mut Held) -> Result<(), RunError> {
        let keys = self.keys(join, piece)?;
        held.add(keys.rows.size() + piece.num_rows() * size_of::<(u64, u32, u32, u64)>())?;
        let number = self.keys.len() as u32;
        if self.places.len() + piece.num_rows() >= NONE as usize {
            return Err(RunError::failed(
                "too-many-rows",
                format!("the right side of `join` has more than {NONE} rows"),
            ));
        }
        let complete = (0..piece.num_rows()).filter(|row| keys.complete(*row));
        self.places.extend(complete.map(|row| (number, row as u32)));
        for (pieces, i) in self.columns.iter_mut().zip(wanted) {
            pieces.push(piece.column(*i).clone());
        }
        let going = piece.project(wanted).map_err(arrow_failed)?;
        self.sizes.push(row_bytes(&going));
        self.keys.push(keys.rows);
        Ok(())
    }

    /// Fills the hash table from behind, so that every chain runs in the order of the rows.
    fn link(&mut self) {
        self.next = vec![NONE; self.places.len()];
        self.first.reserve(self.places.len());
        for number in (0..self.places.len()).rev() {
            let (piece, row) = self.places[number];
            let hash = self.hash(self.keys[piece as usize].row(row as usize).data());
            if let Some(later) = self.first.insert(hash, number as u32) {
                self.next[number] = later;
            }
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.first.hasher().hash_one(key)
    }

    fn keys(&self, join: &Join, batch: &RecordBatch) -> Result<Keys, RunError> {
        let column = |c: &Spanned<String>| batch.column_by_name(c).cloned();
        let columns: Vec<ArrayRef> = join.on.iter().filter_map(column).collect();
        let rows = self.converter.convert_columns(&columns).map_err(arrow_failed)?;
        Ok(Keys { rows, columns })
    }

    /// The places of the rows with the key of `row`, in order.
    fn partners<'a>(&'a self, keys: &'a Keys, row: usize) -> impl Iterator<Item = (usize, usize)> + 'a {
        let key = keys.rows.row(row);
        let first = if keys.complete(row) { self.first.get(&self.hash(key.data())).copied() } else { None };
        let later = |number: &u32| Some(self.next[*number as usize]).filter(|n| *n != NONE);
        let chain = std::iter::successors(first, later).map(|number| self.places[number as usize]);
        chain
            .filter(move |(p, r)| self.keys[*p as usize].row(*r as usize) == key)
            .map(|(p, r)| (p as usize, r as usize))
    }

    /// The place of a row of nulls.
    fn nulls(&self) -> (usize, usize) {
        (self.keys.len(), 0)
    }
}

/// The keys of a batch.
struct Keys {
    rows: Rows,
    columns: Vec<ArrayRef>,
}

impl Keys {
    /// Whether there is no null in the key: a null is equal to nothing.
    fn complete(&self, row: usize) -> bool {
        self.columns.iter().all(|c| c.is_valid(row))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::RunOptions;
    use crate::exec::RunError;
    use crate::ops::testing_node::{Given, Node, given, lines, refusal, rows, run};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn inputs() -> Vec<Given> {
        vec![
            given(
                "left",
                "l",
                rows(
                    r#"[{"id":"1","k":"a","x":1},{"id":"2","k":"b","x":2},{"id":"3","k":null,"x":3},{"id":"4","k":"a","x":4}]"#,
                ),
            ),
            given(
                "right",
                "r",
                rows(
                    r#"[{"id":"p","k":"a","x":10,"l":["u"]},{"id":"q","k":null,"x":11,"l":null},{"id":"r","k":"c","x":12,"l":[]},{"id":"s","k":"a","x":13,"l":null}]"#,
                ),
            ),
        ]
    }

    fn joined(rest: &str) -> String {
        let of = |batch| lines(&run(&format!("join \"j\" left=\"l\" right=\"r\" {rest}"), &inputs(), batch).rows[0]);
        let all = of(100);
        (1..5).for_each(|batch| assert_eq!(of(batch), all));
        all
    }

    #[test]
    fn every_kind_of_join() {
        insta::assert_snapshot!(joined("on=\"k\""), @r#"
        {"id":"1","k":"a","x":1,"id_right":"p","x_right":10,"l":["u"]}
        {"id":"1","k":"a","x":1,"id_right":"s","x_right":13,"l":null}
        {"id":"4","k":"a","x":4,"id_right":"p","x_right":10,"l":["u"]}
        {"id":"4","k":"a","x":4,"id_right":"s","x_right":13,"l":null}
        "#);
        insta::assert_snapshot!(joined("on=\"k\" how=\"left\" suffix=\"2\""), @r#"
        {"id":"1","k":"a","x":1,"id2":"p","x2":10,"l":["u"]}
        {"id":"1","k":"a","x":1,"id2":"s","x2":13,"l":null}
        {"id":"2","k":"b","x":2,"id2":null,"x2":null,"l":null}
        {"id":"3","k":null,"x":3,"id2":null,"x2":null,"l":null}
        {"id":"4","k":"a","x":4,"id2":"p","x2":10,"l":["u"]}
        {"id":"4","k":"a","x":4,"id2":"s","x2":13,"l":null}
        "#);
        insta::assert_snapshot!(joined("on=\"k\" how=\"semi\""), @r#"
        {"id":"1","k":"a","x":1}
        {"id":"4","k":"a","x":4}
        "#);
        insta::assert_snapshot!(joined("on=\"k\" how=\"anti\""), @r#"
        {"id":"2","k":"b","x":2}
        {"id":"3","k":null,"x":3}
        "#);
    }

    #[test]
    fn memory_is_bounded() {
        let node = Node::new("join \"j\" left=\"l\" right=\"r\" on=\"k\"", &inputs()).unwrap();
        let error = node.run_with(RunOptions { memory: 100, ..RunOptions::default() }).err().unwrap();
        let RunError::Failed { code, message, .. } = error else { panic!("{error}") };
        insta::assert_snapshot!(format!("{code}: {message}"), @"out-of-memory: the right side of `join` needs more than the 100 B that `memory` in `run` allows");
    }

    #[test]
    fn what_is_wrong_is_said_at_plan_time() {
        let refused = |rest: &str, right: &str| {
            refusal(
                &format!("join \"j\" left=\"l\" right=\"r\" {rest}"),
                &[inputs()[0].clone(), given("right", "r", rows(right))],
            )
        };
        insta::assert_snapshot!(refused("on=\"kk\"", r#"[{"id":"1","k":"a"}]"#), @"
        error [column-missing]: `test` needs a column `kk` that its input does not have
          at: column `kk` is read here
          at: `l` gives `id`, `k` and `x`
          help: did you mean `k`?
        error [column-missing]: `test` needs a column `kk` that its input does not have
          at: column `kk` is read here
          at: `r` gives `id` and `k`
          help: did you mean `k`?
        ");
        insta::assert_snapshot!(refused("on=\"k\"", r#"[{"id":"1","k":1}]"#), @"
        error [column-type]: column `k` is text on the left and integer on the right
          at: cannot be compared
          at: `l` gives it as text
          at: `r` gives it as integer
          help: `derive` can convert one of them with CAST
        ");
        insta::assert_snapshot!(refused("on=\"k\"", r#"[{"id":"1","k":"a","id_right":2}]"#), @"
        error [column-clash]: two columns would be called `id_right`
          at: the suffix does not tell them apart
          at: from `r`
          help: give another `suffix`, or rename before with `select`
        ");
        insta::assert_snapshot!(refused("{ on \"k\" \"k\" }", r#"[{"id":"1","k":"a"}]"#), @"
        error [duplicate-column]: column `k` is named twice
          at: again here
          at: first here
        ");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn joins_are_what_nested_loops_give(
            left in prop::collection::vec(prop::option::of(0i64..6), 1..30),
            right in prop::collection::vec(prop::option::of(0i64..6), 1..30),
            batch in 1usize..9,
        ) {
            let table = |keys: &[Option<i64>], name: &str| -> Value {
                let typed = [json!({"id": format!("{name}x"), "k": 99})];
                let row = |(i, k): (usize, &Option<i64>)| json!({"id": format!("{name}{i}"), "k": k});
                keys.iter().enumerate().map(row).chain(typed).collect()
            };
            let (l, r) = (table(&left, "l"), table(&right, "r"));
            let inputs = [given("left", "l", rows(&l.to_string())), given("right", "r", rows(&r.to_string()))];
            let mut expected = String::new();
            for a in l.as_array().unwrap() {
                for b in r.as_array().unwrap().iter().filter(|b| !a["k"].is_null() && a["k"] == b["k"]) {
                    expected += &format!("{}\n", json!({"id": a["id"], "k": a["k"], "id_right": b["id"]}));
                }
            }
            let ran = run("join \"j\" left=\"l\" right=\"r\" on=\"k\"", &inputs, batch);
            prop_assert_eq!(lines(&ran.rows[0]), expected);
        }
    }
}
