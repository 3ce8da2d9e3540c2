//! `table`: rows for people, in the terminal and as files.

mod mark;
mod pivot;
mod published;

use super::gather::{self, NOTE};
use super::rows::{Held, arrow_failed, emit_in_batches};
use super::{Arity, Default, FieldKind, FieldSpec, Fields, InputSpec, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::{Estimate, NodeName};
use crate::report::grid::{Format, Grid, Legend, Mark, Style};
use crate::report::{data, markup, terminal};
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt64Array, new_null_array};
use arrow::compute::{SortColumn, SortOptions, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use mark::{Behind, Stars};
use pivot::Pivot;
use published::Published;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;

pub static SPEC: OpSpec = OpSpec {
    name: "table",
    summary: "Shows rows as a table in the terminal and writes it to files",
    doc: DOC,
    version: 2,
    inputs: &[InputSpec {
        name: "from",
        doc: "the rows to show; several inputs come one below the other, with a column for each matrix axis",
        arity: Arity::Many,
        accepts_skipped: true,
    }],
    outputs: OUT,
    fields: &[
        FieldSpec::new("title", FieldKind::Str, "Stands above the table"),
        FieldSpec::new("name", FieldKind::Str, "Name of the files, without ending (default: the node's name)"),
        FieldSpec::new(
            "formats",
            FieldKind::List(&FieldKind::Choice(&["csv", "json", "md", "tex"])),
            "Files to write: `csv` and `json` with full precision, `md` (Markdown) and `tex` (LaTeX) as shown; \
             default `csv` and `md`",
        ),
        FieldSpec::new(
            "column",
            FieldKind::Records(COLUMN),
            "A column to show; without any, all are shown as they come",
        ),
        FieldSpec::new(
            "sort",
            FieldKind::List(&FieldKind::Str),
            "Columns to sort by, the first one first; `-` before a name sorts from high to low. Empty cells come last",
        ),
        FieldSpec::new(
            "published",
            FieldKind::Records(published::FIELDS),
            "A column of published values from a CSV file",
        ),
        FieldSpec::new(
            "mark",
            FieldKind::Records(mark::MARK),
            "Marks the cells of a column that are far behind the best of their group, and adds a boolean column that says so",
        ),
        FieldSpec::new("stars", FieldKind::Records(mark::STARS), "Stars by p values: * 0.05, ** 0.01, *** 0.001"),
        FieldSpec::new(
            "pivot",
            FieldKind::Records(pivot::FIELDS),
            "Shows one number of each row as a cell, with keys down the side and across the top",
        ),
        FieldSpec::new("terminal", FieldKind::Bool, "Whether to show the table in the terminal")
            .default(Default::Bool(true)),
    ],
    sink: true,
    example: EXAMPLE,
    build,
};

const COLUMN: &[FieldSpec] = &[
    FieldSpec::new("column", FieldKind::Column, "The column").required().positional(),
    FieldSpec::new("as", FieldKind::Str, "Its name in the output and in `csv` and `json` files"),
    FieldSpec::new("label", FieldKind::Str, "Its head where people read it (default: its name)"),
    FieldSpec::new(
        "digits",
        FieldKind::Int { min: 0, max: 15 },
        "Decimals to show; without it as many as the column's numbers need",
    ),
    STYLE,
];

const STYLE: FieldSpec = FieldSpec::new(
    "style",
    FieldKind::Choice(&["fixed", "percent", "scientific"]),
    "How to show numbers; `percent` shows a share of 1 as 100%",
)
.default(Default::Str("fixed"));

const DOC: &str = "\
Collects its inputs into one table, adds published values, sorts, picks columns, and shows the result: in the terminal \
(80 columns wide where that is possible, numbers to the right and rounded) and as files in the run's folder. The output \
`out` has the same rows and columns with full precision, for a `plot` or a `write`.

Over a sweep, `from` gathers all instances that agree with this node; the axes in which they may differ become columns. \
An input that was skipped gives one row with its axis values and the reason in `note`; a note stands below the table in \
the terminal and in a column elsewhere.

`published` puts a column of values from a CSV file beside ours: `on` maps columns of this table to columns of the file, \
`where` picks lines of the file. A row without a published value has an empty cell; two different values for one row are \
an error.

`mark` finds cells that are more than `share` (15% unless told) behind the best value of the rows that agree in the columns \
of `within`: † in the terminal, underlined in `md` and `tex`, true in the column `…_behind` of the output. `stars` shows \
p values beside a number.

`pivot` shows the rows as papers do: a row for each combination of its `rows`, a column for each of its `columns`, and in \
the cell a number, with ± `spread`, [`interval`] and (`beside`) where they are named. A cell without a value has the note of \
its row as a footnote. Rows come in the order of `sort`. The pivot is for people, in the terminal, `md` and `tex`; `csv`, \
`json` and the output keep a row for each cell, with all columns and full precision.

The whole table is held in memory, within the `memory` option of the run.";

const EXAMPLE: &str = r#"
load "answers" path="answers.jsonl" { columns { text "string"; writer "string"; score "float" } }
summarize "by-writer" from="answers" {
    by "writer"
    value "rows" fn="count"
    value "mean_score" fn="mean" column="score"
}
table "writers" from="by-writer" title="Mean score of each writer" {
    formats "csv" "md" "tex"
    sort "-mean_score"
    column "writer"
    column "mean_score" label="mean score" digits=2
    column "published_score" label="published"
    published "published.csv" value="score" as="published_score" {
        where { metric "mean" }
        on { writer "method" }
    }
}

// A row for each writer, a column for each test; what is more than 15% below a test's best writer is marked.
load "results" path="results.csv" { columns { writer "string"; test "string"; accuracy "float"; sd "float" } }
table "results-table" from="results" {
    mark "accuracy" share=0.15 within="test"
    pivot "accuracy" style="percent" digits=1 spread="sd" { rows "writer"; columns "test" }
}
"#;

#[derive(Debug)]
struct Table {
    title: Option<String>,
    name: Option<String>,
    formats: Vec<String>,
    columns: Vec<Column>,
    sort: Vec<(Spanned<String>, bool)>,
    published: Vec<Published>,
    marks: Vec<Behind>,
    stars: Vec<Stars>,
    pivot: Option<Pivot>,
    terminal: bool,
}

#[derive(Debug)]
struct Column {
    source: Spanned<String>,
    name: String,
    label: String,
    format: Format,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let mut formats: Vec<String> = fields.strs("formats").into_iter().map(|f| f.value).collect();
    if formats.is_empty() {
        formats = vec!["csv".into(), "md".into()];
    }
    let columns: Vec<Column> = fields.records("column").iter().map(Column::of).collect();
    let mut seen = HashSet::new();
    let mut sound = true;
    for column in columns.iter().filter(|c| !seen.insert(c.name.as_str())) {
        diagnostics.push(
            Diagnostic::error("duplicate-column", format!("two columns of the table are named `{}`", column.name))
                .at(column.source.span, "the second one")
                .help("give one of them another name with `as`"),
        );
        sound = false;
    }
    let sort = fields.strs("sort").into_iter().map(|s| match s.value.strip_prefix('-') {
        Some(name) => (Spanned::new(name.to_string(), s.span), true),
        None => (s, false),
    });
    let published: Option<Vec<Published>> =
        fields.records("published").iter().map(|f| Published::of(f, diagnostics)).collect();
    let table = Table {
        title: fields.opt_str("title").map(|t| t.value),
        name: fields.opt_str("name").map(|t| t.value),
        formats,
        sort: sort.collect(),
        published: published?,
        marks: fields.records("mark").iter().map(Behind::of).collect(),
        stars: fields.records("stars").iter().map(Stars::of).collect(),
        pivot: Pivot::of(&fields.records("pivot"), diagnostics)?,
        terminal: fields.bool("terminal"),
        columns,
    };
    sound.then(|| Box::new(table) as Box<dyn Operator>)
}

impl Column {
    fn of(fields: &Fields) -> Self {
        let source = fields.str("column");
        let name = fields.opt_str("as").map_or_else(|| source.value.clone(), |n| n.value);
        let label = fields.opt_str("label").map_or_else(|| name.clone(), |l| l.value);
        Self { source, name, label, format: format_of(fields) }
    }
}

/// The fields `digits` and `style`.
fn format_of(fields: &Fields) -> Format {
    let style = match fields.str("style").value.as_str() {
        "percent" => Style::Percent,
        "scientific" => Style::Scientific,
        _ => Style::Fixed,
    };
    Format { digits: fields.opt_int("digits").map(|d| d.value as usize), style }
}

impl Operator for Table {
    fn canonical(&self) -> serde_json::Value {
        let column =
            |c: &Column| json!([c.source.value, c.name, c.label, c.format.digits, format!("{:?}", c.format.style)]);
        let sort: Vec<_> = self.sort.iter().map(|(c, down)| json!([c.value, down])).collect();
        let mut all = json!({
            "title": self.title,
            "name": self.name,
            "formats": self.formats,
            "columns": self.columns.iter().map(column).collect::<Vec<_>>(),
            "sort": sort,
            "published": self.published.iter().map(Published::canonical).collect::<Vec<_>>(),
            "terminal": self.terminal,
        });
        // A table that does not ask for these is the one that it was before they could be asked for.
        if !self.marks.is_empty() {
            all["marks"] = self.marks.iter().map(Behind::canonical).collect();
        }
        if !self.stars.is_empty() {
            all["stars"] = self.stars.iter().map(Stars::canonical).collect();
        }
        if let Some(pivot) = &self.pivot {
            all["pivot"] = pivot.canonical();
        }
        all
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let gathered = gather::schema(cx, "from")?;
        // Of inputs that are all skipped nothing is known, so nothing can be said against a column.
        let unknown = cx.port("from").iter().all(|i| i.skipped.is_some());
        let (wide, mut sound) = self.with_added(&gathered, unknown, cx);
        let mut missing = Vec::new();
        for name in self.columns.iter().map(|c| &c.source).chain(self.sort.iter().map(|(s, _)| s)) {
            if !unknown && wide.field_with_name(&name.value).is_err() {
                missing.push(name);
            }
        }
        for name in &missing {
            gather::missing_column(cx, &wide, name, " to show");
        }
        if !unknown {
            sound &= self.stars.iter().all(|s| s.check(&wide, cx));
            sound &= self.pivot.as_ref().is_none_or(|p| p.check(&wide, cx));
        }
        if !sound || !missing.is_empty() {
            return None;
        }
        let rows = cx.inputs.iter().map(|i| if i.skipped.is_some() { Some(1) } else { i.estimate.rows }).sum();
        let estimate = Estimate { rows, tokens: Some(0), ..Estimate::default() };
        let mut resolved = Resolved::new(vec![self.output_schema(&wide)], estimate);
        resolved.barrier = true;
        resolved.reads_bindings = true;
        resolved.files = self.published.iter().map(|p| p.path.value.clone()).collect();
        resolved.files_out = self.formats.iter().map(|f| self.file_name(cx.node, f)).collect();
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let mut table = collect(cx)?;
        let mut remarks = Vec::new();
        for published in &self.published {
            table = published.join(&table)?;
            remarks.extend(published.remark(&table));
        }
        for mark in &self.marks {
            table = mark::with_column(&table, mark.field(), mark.column_of(&table)?)?;
        }
        let sorted = self.sorted(table.clone())?;
        let shown = self.picked(&sorted, &cx.output_schema(0))?;
        let mut grid = match &self.pivot {
            Some(pivot) => {
                let marks = self.marks_of(pivot.value(), &sorted)?;
                pivot.grid(&sorted, &table, &self.columns, &marks, self.legend())?
            }
            None => Grid { legend: self.legend(), ..self.grid(&shown, &sorted)? },
        };
        grid.title.clone_from(&self.title);
        grid.remarks = remarks;
        for format in &self.formats {
            let text = match format.as_str() {
                "csv" => data::csv(&shown),
                "json" => data::json(&shown),
                "md" => markup::markdown(&grid),
                _ => markup::latex(&grid),
            };
            write_file(cx, &self.file_name(cx.node(), format), text.as_bytes())?;
        }
        cx.show(&grid)?;
        if self.terminal {
            cx.present(&terminal::render(&grid))?;
        }
        emit_in_batches(cx, 0, &shown)
    }
}

impl Table {
    /// The gathered columns, those of published values and those of marks; whether the latter two are sound.
    fn with_added(&self, gathered: &Schema, unknown: bool, cx: &mut ResolveCx<'_>) -> (Schema, bool) {
        let mut fields: Vec<Field> = gathered.fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut sound = true;
        for published in &self.published {
            sound &= published.check(&fields, unknown, cx);
            let at = fields.iter().position(|f| f.name() == NOTE).unwrap_or(fields.len());
            fields.insert(at, published.field());
        }
        for mark in &self.marks {
            sound &= unknown || mark.check(&Schema::new(fields.clone()), cx);
            sound &= mark.check_name(&fields, cx);
            let at = fields.iter().position(|f| f.name() == NOTE).unwrap_or(fields.len());
            fields.insert(at, mark.field());
        }
        (Schema::new(fields), sound)
    }

    /// The columns picked, in their order, then marks, and `note` where there is one.
    fn output_schema(&self, wide: &Schema) -> SchemaRef {
        if self.columns.is_empty() {
            return Arc::new(wide.clone());
        }
        let kind = |name: &str| wide.field_with_name(name).map_or(DataType::Float64, |f| f.data_type().clone());
        let mut fields: Vec<Field> =
            self.columns.iter().map(|c| Field::new(&c.name, kind(&c.source.value), true)).collect();
        let unpicked = |m: &&Behind| !self.columns.iter().any(|c| [&c.name, &c.source.value].contains(&&m.name.value));
        fields.extend(self.marks.iter().filter(unpicked).map(Behind::field));
        if !fields.iter().any(|f| f.name() == NOTE) && wide.field_with_name(NOTE).is_ok() {
            fields.push(Field::new(NOTE, DataType::Utf8, true));
        }
        Arc::new(Schema::new(fields))
    }

    fn file_name(&self, node: &NodeName, ending: &str) -> String {
        format!("{}.{ending}", file_stem(self.name.as_deref(), node))
    }

    fn sorted(&self, table: RecordBatch) -> Result<RecordBatch, RunError> {
        if self.sort.is_empty() || table.num_rows() < 2 {
            return Ok(table);
        }
        let mut keys: Vec<SortColumn> = Vec::new();
        for (name, descending) in &self.sort {
            let options = SortOptions { descending: *descending, nulls_first: false };
            keys.extend(
                table.column_by_name(&name.value).map(|c| SortColumn { values: c.clone(), options: Some(options) }),
            );
        }
        // The place breaks ties, so that equal rows keep their order.
        let places: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..table.num_rows() as u64));
        keys.push(SortColumn { values: places, options: None });
        let order = lexsort_to_indices(&keys, None).map_err(arrow_failed)?;
        take_record_batch(&table, &order).map_err(arrow_failed)
    }

    fn picked(&self, table: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, RunError> {
        let source = |name: &str| {
            self.columns.iter().find(|c| c.name == name).map_or_else(|| name.to_string(), |c| c.source.value.clone())
        };
        let column = |field: &Arc<Field>| match table.column_by_name(&source(field.name())) {
            Some(column) => column.clone(),
            None => new_null_array(field.data_type(), table.num_rows()),
        };
        RecordBatch::try_new(schema.clone(), schema.fields().iter().map(column).collect()).map_err(arrow_failed)
    }

    /// The rows as they come. Columns of marks are seen in the cells that they mark.
    fn grid(&self, shown: &RecordBatch, sorted: &RecordBatch) -> Result<Grid, RunError> {
        let schema = shown.schema();
        let asked = |name: &str| self.columns.iter().find(|c| c.name == name);
        let hidden =
            |name: &str| name == NOTE || (self.marks.iter().any(|m| m.name.value == name) && asked(name).is_none());
        let columns: Vec<(usize, String, Format)> = schema
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, f)| !hidden(f.name()))
            .map(|(at, f)| match asked(f.name()) {
                Some(column) => (at, column.label.clone(), column.format),
                None => (at, f.name().clone(), Format::default()),
            })
            .collect();
        let mut grid = Grid::of(shown, &columns);
        for (across, (at, ..)) in columns.iter().enumerate() {
            let name = schema.field(*at).name();
            let source = asked(name).map_or(name, |c| &c.source.value);
            for (down, mark) in self.marks_of(source, sorted)?.into_iter().enumerate() {
                grid.set_mark(down, across, mark);
            }
        }
        if let Some(notes) = shown.column_by_name(NOTE).and_then(|c| c.as_string_opt::<i32>()) {
            grid.notes = notes.iter().map(|n| n.map(str::to_string)).collect();
        }
        Ok(grid)
    }

    /// The marks of a column's cells.
    fn marks_of(&self, column: &str, table: &RecordBatch) -> Result<Vec<Mark>, RunError> {
        let mut marks = vec![Mark::default(); table.num_rows()];
        for stars in self.stars.iter().filter(|s| s.column.value == column) {
            marks.iter_mut().zip(stars.of_rows(table)?).for_each(|(mark, stars)| mark.stars = mark.stars.max(stars));
        }
        for behind in self.marks.iter().filter(|m| m.column.value == column) {
            let rows = table.column_by_name(&behind.name).and_then(|c| c.as_boolean_opt());
            for (mark, is) in marks.iter_mut().zip(rows.into_iter().flatten()) {
                mark.behind |= is == Some(true);
            }
        }
        Ok(marks)
    }

    /// What the marks mean that can be seen.
    fn legend(&self) -> Vec<Legend> {
        let label = |name: &str| {
            self.columns.iter().find(|c| c.source.value == name).map_or_else(|| name.to_string(), |c| c.label.clone())
        };
        let seen = |name: &str| match &self.pivot {
            Some(pivot) => pivot.value() == name,
            None => self.columns.is_empty() || self.columns.iter().any(|c| c.source.value == name),
        };
        let stars = self.stars.iter().filter(|s| seen(&s.column)).map(Stars::legend);
        let marks = self.marks.iter().filter(|m| seen(&m.column)).map(|m| m.legend(&label(&m.column)));
        marks.chain(stars).collect()
    }
}

/// The name of a node's files, without ending: what the field says, or the node's name and axis values.
pub(super) fn file_stem(name: Option<&str>, node: &NodeName) -> String {
    let safe = |text: &str| -> String {
        text.chars().map(|c| if c.is_alphanumeric() || "-_.+".contains(c) { c } else { '-' }).collect()
    };
    match name {
        Some(name) => name.to_string(),
        None => {
            let parts: Vec<String> =
                std::iter::once(&node.base).chain(node.bindings.0.iter().map(|(_, v)| v)).map(|p| safe(p)).collect();
            parts.join("-")
        }
    }
}

/// Writes a file of the node.
pub(super) fn write_file(cx: &NodeCx, name: &str, bytes: &[u8]) -> Result<(), RunError> {
    let path = cx.file(name)?;
    std::fs::write(&path, bytes).map_err(|error| {
        RunError::failed("file-unwritable", format!("cannot write {}: {error}", path.display()))
            .help("check that the disk has room and that the folder may be written to")
    })
}

/// All rows of the port `from`.
pub(super) fn collect(cx: &NodeCx) -> Result<RecordBatch, RunError> {
    let (schema, rows) = gather::rows(cx, "from")?;
    let mut held = Held::new(cx, "the table");
    let mut batches = Vec::new();
    for batch in rows {
        let batch = batch?;
        held.add_batch(&batch)?;
        batches.push(batch);
    }
    concat_batches(&schema, &batches).map_err(arrow_failed)
}

#[cfg(test)]
mod tests;
