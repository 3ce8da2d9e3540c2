//! `summarize`: one row of statistics for each group.

mod measure;

use super::gather::NOTE;
use super::rows::{ID, arrow_failed, batches, emit_in_batches};
use super::{Default, FROM, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved};
use super::{is_number, is_string, samples};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::row::{OwnedRow, RowConverter, SortField};
use indexmap::IndexMap;
pub(super) use measure::as_floats;
use measure::{Measure, Statistic};
use serde_json::json;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "summarize",
    summary: "Groups rows and computes statistics of each group",
    doc: DOC,
    version: 2,
    inputs: FROM,
    outputs: OUT,
    fields: &[
        FieldSpec::new(
            "by",
            FieldKind::List(&FieldKind::Column),
            "Columns whose values make a group; without it all rows are one group",
        ),
        FieldSpec::new(
            "preset",
            FieldKind::Choice(&["perplexity", "accuracy"]),
            "`perplexity`: the columns `rows`, `mean_ppl`, `median_ppl`, `corpus_ppl`, `ci_low`, `ci_high` and \
             `response_tokens`, from the columns that `score-ppl` adds; `accuracy`: `rows`, `accuracy`, and `ci_low` and \
             `ci_high` by Wilson's method, from the boolean column `correct`",
        ),
        FieldSpec::new("value", FieldKind::Records(VALUE), "A column of the result: one statistic of each group"),
        FieldSpec::new(
            "interval",
            FieldKind::Records(INTERVAL),
            "Two columns of the result: a confidence interval of the mean",
        ),
    ],
    sink: false,
    example: EXAMPLE,
    build,
};

const VALUE: &[FieldSpec] = &[
    FieldSpec::new("name", FieldKind::Str, "Name of the new column").required().positional(),
    FieldSpec::new("fn", FieldKind::Choice(measure::FUNCTIONS), "The statistic").required(),
    FieldSpec::new("column", FieldKind::Column, "The column to summarize: numbers, or booleans taken as 0 and 1"),
    FieldSpec::new("q", FieldKind::Float { min: 0.0, max: 1.0 }, "Which quantile, for `fn=\"quantile\"`"),
    FieldSpec::new("nll", FieldKind::Column, "For `corpus-ppl`: the summed negative log-likelihood (default `nll`)"),
    FieldSpec::new("tokens", FieldKind::Column, "For `corpus-ppl`: the number of tokens (default `label_tokens`)"),
];

const INTERVAL: &[FieldSpec] = &[
    FieldSpec::new("low", FieldKind::Str, "Name of the column for the lower end").required().positional(),
    FieldSpec::new("high", FieldKind::Str, "Name of the column for the upper end").required().positional(),
    FieldSpec::new("column", FieldKind::Column, "The column whose mean is estimated").required(),
    FieldSpec::new(
        "method",
        FieldKind::Choice(&["bootstrap", "wilson"]),
        "`bootstrap` draws rows with replacement and takes percentiles of their means; `wilson` is the score interval of \
         a proportion, for booleans",
    )
    .default(Default::Str("bootstrap")),
    FieldSpec::new("level", FieldKind::Float { min: 0.5, max: 0.9999 }, "Confidence level")
        .default(Default::Float(0.95)),
    FieldSpec::new(
        "resamples",
        FieldKind::Int { min: 100, max: 1_000_000 },
        "For `bootstrap`: samples drawn (default 1000)",
    ),
];

const DOC: &str = "\
Gives one row for each distinct combination of the `by` columns, in the order in which they first appear, with the \
`by` columns, the statistics and a column `note`.

Statistics: `count` (rows, or values of `column` that are not null), `mean`, `median`, `quantile` (linear \
interpolation between neighbours), `min`, `max`, `sum`, `std` (of the sample, n - 1) and `corpus-ppl`, the perplexity \
of all tokens together: exp(sum of `nll` / sum of `tokens`). Sums are compensated, so that their error does not grow \
with the number of rows. A bootstrap `interval` draws its samples from the seed of the node and does not depend on \
threads or batches. Intervals take rows for independent: where a question has several rows (seeds), average it \
first with a `summarize` by `id`, and draw from that; of several samples take the output `questions` of `evaluate`. \
[Statistics](statistics.md) says which interval to take.

Seeds are repeated runs: `summarize` each run, then `summarize` the runs without the axis, with `mean` and `std`; \
`pivot` in `table` shows them as 61.2 ± 1.3.

A null has no value and is not counted; a value that is not finite is, and makes the statistic NaN or infinite. Both \
are told in `note`. A row that only carries a `note` (a skipped input of `concat bind=#true`) makes a group of 0 rows \
with that note.";

const EXAMPLE: &str = r#"
load "answers" path="answers.jsonl" { columns { text "string"; writer "string"; score "float" } }
summarize "by-writer" from="answers" {
    by "writer"
    value "answers" fn="count"
    value "mean_score" fn="mean" column="score"
    value "p90_score" fn="quantile" q=0.9 column="score"
    interval "ci_low" "ci_high" column="score" level=0.9 resamples=2000
}
table "writers" from="by-writer"
"#;

#[derive(Debug)]
struct Summarize {
    by: Vec<Spanned<String>>,
    measures: Vec<Measure>,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let by = fields.strs("by");
    let mut measures = match fields.opt_str("preset") {
        Some(preset) if preset.value == "accuracy" => measure::accuracy(preset.span),
        Some(preset) => measure::perplexity(preset.span),
        None => Vec::new(),
    };
    let written: Option<Vec<Measure>> =
        fields.records("value").iter().map(|f| Measure::value(f, diagnostics)).collect();
    measures.extend(written?);
    let intervals: Option<Vec<Measure>> =
        fields.records("interval").iter().map(|f| Measure::interval(f, diagnostics)).collect();
    measures.extend(intervals?);
    if measures.is_empty() {
        diagnostics.push(
            Diagnostic::error("nothing-to-do", "`summarize` has no statistic")
                .at(fields.span, "needs a `value`, an `interval` or a `preset`")
                .help("for example `value \"rows\" fn=\"count\"`, or `preset=\"perplexity\"` for rows of `score-ppl`"),
        );
        return None;
    }
    distinct_names(&by, &measures, diagnostics).then(|| Box::new(Summarize { by, measures }) as Box<dyn Operator>)
}

/// Whether all columns of the result have names of their own.
fn distinct_names(by: &[Spanned<String>], measures: &[Measure], diagnostics: &mut Diagnostics) -> bool {
    let mut first: IndexMap<&str, Span> = IndexMap::new();
    let mut sound = true;
    for name in by.iter().chain(measures.iter().flat_map(|m| &m.names)) {
        let clash = match first.insert(&name.value, name.span) {
            _ if name.value == NOTE => {
                Diagnostic::error("duplicate-column", "the column `note` is made by `summarize`")
                    .at(name.span, "another name is needed here")
            }
            None => continue,
            Some(span) => {
                Diagnostic::error("duplicate-column", format!("two columns of the result are named `{}`", name.value))
                    .at(name.span, "named again here")
                    .and(span, "first here")
            }
        };
        diagnostics.push(clash);
        sound = false;
    }
    sound
}

impl Operator for Summarize {
    fn canonical(&self) -> serde_json::Value {
        let by: Vec<&String> = self.by.iter().map(|b| &b.value).collect();
        let measures: Vec<serde_json::Value> = self.measures.iter().map(Measure::canonical).collect();
        json!({ "by": by, "measures": measures })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let input = cx.input("from");
        let mut sound = true;
        let mut fields = Vec::new();
        for by in &self.by {
            match cx.need_column(input, &by.value, "text, a number or a boolean", groupable, by.span) {
                Some(kind) => fields.push(Field::new(&by.value, kind, true)),
                None => sound = false,
            }
        }
        // A preset names a column several times in one place: one message is enough, and the strictest need decides.
        let proportions = |m: &&Measure| matches!(m.statistic, Statistic::Wilson { .. });
        let (strict, others): (Vec<&Measure>, Vec<&Measure>) = self.measures.iter().partition(proportions);
        let mut seen = HashSet::new();
        for (column, span) in strict.into_iter().flat_map(Measure::columns).filter(|c| seen.insert(*c)) {
            let expected = "a boolean for Wilson's interval";
            sound &= cx.need_column(input, column, expected, |t| *t == DataType::Boolean, span).is_some();
        }
        for (column, span) in others.into_iter().flat_map(Measure::columns).filter(|c| seen.insert(*c)) {
            let expected = "a number or a boolean";
            sound &=
                cx.need_column(input, column, expected, |t| is_number(t) || *t == DataType::Boolean, span).is_some();
        }
        if !sound {
            return None;
        }
        fields.extend(self.measures.iter().flat_map(Measure::fields));
        fields.push(Field::new(NOTE, DataType::Utf8, true));
        let rows = if self.by.is_empty() { Some(1) } else { None };
        let held = 8 * self.columns().len() as u64;
        let memory = input.estimate.rows.map(|r| r * held);
        let estimate = Estimate { rows, tokens: Some(0), seconds: None, memory };
        let mut resolved = Resolved::new(vec![Arc::new(Schema::new(fields))], estimate);
        resolved.barrier = true;
        resolved.seeded = self.measures.iter().any(|m| matches!(m.statistic, Statistic::Interval { .. }));
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let columns = self.columns();
        let mut groups = Groups::new(self, &columns, cx)?;
        for batch in batches(cx, 0)? {
            groups.add(&batch?)?;
        }
        let table = groups.finish(cx)?;
        emit_in_batches(cx, 0, &table)
    }
}

impl Summarize {
    /// The columns that the statistics read, each once.
    fn columns(&self) -> Vec<String> {
        let all: BTreeSet<&str> = self.measures.iter().flat_map(Measure::columns).map(|(c, _)| c).collect();
        all.into_iter().map(String::from).collect()
    }
}

pub(super) fn groupable(t: &DataType) -> bool {
    is_string(t) || is_number(t) || *t == DataType::Boolean
}

/// What is known of the groups so far.
struct Groups<'a> {
    spec: &'a Summarize,
    columns: &'a [String],
    converter: Option<RowConverter>,
    groups: IndexMap<Option<OwnedRow>, Group>,
    held: super::rows::Held,
}

/// One group: the values of every column that a statistic reads, in the order of the rows.
#[derive(Default)]
pub(super) struct Group {
    pub rows: u64,
    pub values: Vec<Vec<Option<f64>>>,
    pub notes: Vec<String>,
    /// Whether rows are further answers to questions that have one already.
    sampled: bool,
}

impl<'a> Groups<'a> {
    fn new(spec: &'a Summarize, columns: &'a [String], cx: &NodeCx) -> Result<Self, RunError> {
        let schema = &cx.inputs()[0].schema;
        let kinds: Result<Vec<SortField>, _> =
            spec.by.iter().map(|b| Ok(SortField::new(schema.field_with_name(&b.value)?.data_type().clone()))).collect();
        let kinds = kinds.map_err(arrow_failed)?;
        let converter = match kinds.is_empty() {
            true => None,
            false => Some(RowConverter::new(kinds).map_err(arrow_failed)?),
        };
        let mut groups = Self {
            spec,
            columns,
            converter,
            groups: IndexMap::new(),
            held: super::rows::Held::new(cx, "the values to summarize"),
        };
        if groups.converter.is_none() {
            groups.group(None);
        }
        Ok(groups)
    }

    fn group(&mut self, key: Option<OwnedRow>) -> &mut Group {
        let width = self.columns.len();
        self.groups.entry(key).or_insert_with(|| Group { values: vec![Vec::new(); width], ..Group::default() })
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), RunError> {
        let named = |name: &str| batch.column_by_name(name).cloned().ok_or_else(|| missing(name));
        let keys: Vec<ArrayRef> = self.spec.by.iter().map(|b| named(&b.value)).collect::<Result<_, _>>()?;
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|c| measure::as_floats(&named(c)?)).collect::<Result<_, _>>()?;
        let notes = Notes::of(batch, &self.spec.by, &columns);
        let samples = samples::numbers(batch);
        self.held.add(batch.num_rows() * columns.len() * std::mem::size_of::<Option<f64>>())?;
        let keys = match &self.converter {
            Some(converter) => Some(converter.convert_columns(&keys).map_err(arrow_failed)?),
            None => None,
        };
        for row in 0..batch.num_rows() {
            let note = notes.only_a_note(row).map(str::to_string);
            let (key, known) = (keys.as_ref().map(|k| k.row(row).owned()), self.groups.len());
            let own = key.as_ref().map_or(0, |key| key.row().data().len()) + columns.len() * size_of::<Vec<f64>>();
            let group = self.group(key);
            match note {
                Some(note) if group.notes.contains(&note) => {}
                Some(note) => group.notes.push(note),
                None => {
                    group.add(&columns, row);
                    group.sampled |= samples.is_some_and(|s| s.is_valid(row) && s.value(row) > 0);
                }
            }
            if self.groups.len() > known {
                self.held.add(size_of::<Group>() + own)?;
            }
        }
        Ok(())
    }

    fn finish(self, cx: &NodeCx) -> Result<RecordBatch, RunError> {
        let schema = cx.output_schema(0);
        let mut arrays: Vec<ArrayRef> = match &self.converter {
            Some(converter) => {
                converter.convert_rows(self.groups.keys().flatten().map(OwnedRow::row)).map_err(arrow_failed)?
            }
            None => Vec::new(),
        };
        let groups: Vec<&Group> = self.groups.values().collect();
        for measure in &self.spec.measures {
            if cx.stopping() {
                return Err(RunError::Interrupted);
            }
            arrays.extend(measure.of_groups(&groups, self.columns, cx.seed()));
        }
        let interval = |m: &Measure| matches!(m.statistic, Statistic::Interval { .. } | Statistic::Wilson { .. });
        let intervals = self.spec.measures.iter().any(interval);
        let notes: StringArray = groups.iter().map(|g| g.note(self.columns, intervals)).collect();
        arrays.push(Arc::new(notes));
        RecordBatch::try_new(schema, arrays).map_err(arrow_failed)
    }
}

fn missing(column: &str) -> RunError {
    RunError::failed("column-missing", format!("the input has no column `{column}`, though its schema named it"))
}

impl Group {
    fn add(&mut self, columns: &[ArrayRef], row: usize) {
        self.rows += 1;
        for (values, column) in self.values.iter_mut().zip(columns) {
            let floats = column.as_primitive::<arrow::datatypes::Float64Type>();
            values.push(floats.is_valid(row).then(|| floats.value(row)));
        }
    }

    /// What a reader must know of the group's numbers.
    fn note(&self, columns: &[String], intervals: bool) -> Option<String> {
        let mut notes = self.notes.clone();
        if self.sampled && intervals {
            notes.push("the interval takes samples of one question for independent, and is too narrow".into());
        }
        for (column, values) in columns.iter().zip(&self.values) {
            let nulls = values.iter().filter(|v| v.is_none()).count();
            let odd = values.iter().flatten().filter(|v| !v.is_finite()).count();
            if nulls > 0 {
                notes.push(format!("{nulls} of {} rows have no {column}", self.rows));
            }
            if odd > 0 {
                notes.push(format!("{odd} of {} values of {column} are not finite", values.len() - nulls));
            }
        }
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// The rows of a batch that stand for a skipped input.
struct Notes<'b> {
    notes: Option<&'b StringArray>,
    others: Vec<ArrayRef>,
}

impl<'b> Notes<'b> {
    /// A row that only carries a note has a note and no value in any column that is measured; where nothing is
    /// measured, in any column at all but its id and the group's.
    fn of(batch: &'b RecordBatch, by: &[Spanned<String>], measured: &[ArrayRef]) -> Self {
        let notes = batch.column_by_name(NOTE).and_then(|c| c.as_string_opt::<i32>());
        if !measured.is_empty() {
            return Self { notes, others: measured.to_vec() };
        }
        let known: HashSet<&str> = by.iter().map(|b| b.value.as_str()).chain([ID, NOTE]).collect();
        let schema = batch.schema();
        let other = |(f, c): (&Arc<Field>, &ArrayRef)| (!known.contains(f.name().as_str())).then(|| c.clone());
        Self { notes, others: schema.fields().iter().zip(batch.columns()).filter_map(other).collect() }
    }

    fn only_a_note(&self, row: usize) -> Option<&'b str> {
        let notes = self.notes.filter(|n| n.is_valid(row))?;
        self.others.iter().all(|c| c.is_null(row)).then(|| notes.value(row))
    }
}

#[cfg(test)]
mod tests;
