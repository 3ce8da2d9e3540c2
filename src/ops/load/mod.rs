//! `load`: rows from files.

mod columnar;
mod csv;
mod files;
mod json;
mod reader;
mod shape;
mod survey;

use super::rows::Held;
use super::sample::{Draw, drawn_seed};
use super::{Default, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::exec::{NodeCx, Rejected, RunError};
use crate::plan::Estimate;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use files::{DataFile, FORMATS, Format, Problem};
use reader::{Entry, Fault, RowReader};
use serde_json::json;
use shape::{Shape, TableBuilder};
use std::sync::Arc;
use survey::{Survey, Wishes};

pub static SPEC: OpSpec = OpSpec {
    name: "load",
    summary: "Reads rows from JSON, JSONL, CSV, Parquet or Arrow files",
    doc: "\
Reads one file, or all that match a glob in the order of their names, plain or compressed with gzip or
Zstandard. Rows are streamed: no file is held in memory whole.

**Columns.** `fields` renames: `fields { response \"answer\" }` gives the source's `answer` as `response`, in place of a
field `response` that the source may have. Fields that are not renamed keep their names, unless `only-mapped`. The
types are those of `columns`, or else of the file: by its metadata (Parquet, Arrow), or by its first 1000 rows.
Integers, floats and booleans keep their type, and a mix of integers and floats is float; lists of texts are
lists; all else, other mixtures and structures included, becomes text, structures as JSON.

**Identity.** Every row has an `id`: the value of the field that `id` names; or of the source's own field `id`; or else
`<prefix>:<index>`, where the index counts the rows of the source from 0, before `offset`, `limit` and `sample`. The
prefix is `id-prefix` or the file's name without extensions. With several files and an `id-prefix`, the index runs on
from file to file.

**Rows at fault** go to quarantine with their place (`data.jsonl:17`, `data.json#16`), and the others go on: rows that
are no JSON, not UTF-8, or cut short; CSV rows with another number of fields than the header; nulls where a declared
type forbids them; values of another type than their column's; fields that the first rows did not have. A file that
is cut short gives all rows before the cut and one entry that says where it breaks.",
    version: 1,
    inputs: &[],
    outputs: OUT,
    fields: FIELDS,
    sink: false,
    example: r#"
load "problems" path="problems.jsonl" limit=100 {
    fields {
        question "prompt"
        response "solution"
    }
    columns {
        question "string"
        response "string"
        tags "list?"
    }
}
write "copy" from="problems" path="problems.parquet"
"#,
    build,
};

const FIELDS: &[FieldSpec] = &[
    FieldSpec::new("path", FieldKind::Path, "the file, or a glob such as `data/*.jsonl`").required(),
    FieldSpec::new("format", FieldKind::Choice(FORMATS), "the format, where the file's extension does not tell"),
    FieldSpec::new("fields", FieldKind::Map(&FieldKind::Str), "our column names and the source's field names"),
    FieldSpec::new(
        "columns",
        FieldKind::Map(&FieldKind::Choice(shape::KINDS)),
        "types of columns, by our names; `?` allows nulls. `string` takes texts alone, `text` any value as its text, \
         `list` a list of texts",
    ),
    FieldSpec::new("only-mapped", FieldKind::Bool, "leave out what `fields` and `columns` do not name")
        .default(Default::Bool(false)),
    FieldSpec::new("id", FieldKind::Str, "the source's field that names the rows"),
    FieldSpec::new("id-prefix", FieldKind::Str, "what ids begin with where no field names the rows"),
    FieldSpec::new("offset", FieldKind::Int { min: 0, max: i64::MAX }, "rows to leave out at the beginning")
        .default(Default::Int(0)),
    FieldSpec::new("limit", FieldKind::Int { min: 0, max: i64::MAX }, "rows to read at most, after `offset`"),
    FieldSpec::new(
        "sample",
        FieldKind::Int { min: 1, max: i64::MAX },
        "rows to draw at random from those, in the source's order",
    ),
    FieldSpec::new(
        "seed",
        FieldKind::Int { min: 0, max: i64::MAX },
        "seed of `sample`: nodes with the same seed draw the same row numbers. Otherwise drawn from the pipeline's seed",
    ),
    FieldSpec::new(
        "on-missing",
        FieldKind::Choice(&["error", "skip"]),
        "what to do when there is no file: `skip` skips the node and what reads from it, and says so in results",
    )
    .default(Default::Str("error")),
    FieldSpec::new("delimiter", FieldKind::Str, "field separator of CSV files: a comma, or a tab for `.tsv`"),
];

/// Rows of a source to be taken, by their index.
#[derive(Debug, Clone, Copy)]
struct Cut {
    offset: u64,
    limit: Option<u64>,
}

impl Cut {
    fn takes(self, index: u64) -> bool {
        index >= self.offset && !self.ends_before(index)
    }

    fn ends_before(self, index: u64) -> bool {
        self.limit.is_some_and(|limit| index >= self.offset.saturating_add(limit))
    }

    fn rows(self, all: u64) -> u64 {
        let rest = all.saturating_sub(self.offset);
        self.limit.map_or(rest, |limit| rest.min(limit))
    }
}

#[derive(Debug)]
struct Load {
    path: Spanned<String>,
    format: Option<Format>,
    delimiter: Option<u8>,
    wishes: Wishes,
    cut: Cut,
    sample: Option<u64>,
    seed: Option<u64>,
    skip_missing: bool,
    span: Span,
    /// What the pipeline says, as a part of the fingerprint.
    canonical: serde_json::Value,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let natural = |name: &str| fields.opt_int(name).map(|i| i.value as u64);
    let delimiter = match fields.opt_str("delimiter") {
        Some(text) if text.value.len() != 1 => {
            diagnostics.push(
                Diagnostic::error("bad-delimiter", format!("a delimiter is one ASCII character, not `{}`", text.value))
                    .at(text.span, "more or less than one"),
            );
            return None;
        }
        text => text.map(|t| t.value.as_bytes()[0]),
    };
    let wishes = Wishes {
        fields: fields.str_map("fields"),
        columns: fields.str_map("columns"),
        only_mapped: fields.bool("only-mapped"),
        id: fields.opt_str("id"),
        id_prefix: fields.opt_str("id-prefix"),
    };
    let cut = Cut { offset: natural("offset").unwrap_or(0), limit: natural("limit") };
    let format = fields.opt_str("format");
    let path = fields.str("path");
    let plain = |map: &indexmap::IndexMap<String, (Span, Spanned<String>)>| -> Vec<[String; 2]> {
        map.iter().map(|(k, (_, v))| [k.clone(), v.value.clone()]).collect()
    };
    let canonical = json!({
        "fields": plain(&wishes.fields),
        "columns": plain(&wishes.columns),
        "only-mapped": wishes.only_mapped,
        "id": wishes.id.as_deref(),
        // Files elsewhere under the same names give the same rows; under other names, other ids.
        "id-prefix": wishes.id_prefix.as_deref().cloned().unwrap_or_else(|| files::stem(path.value.as_ref())),
        "format": format.as_deref(),
        "delimiter": delimiter,
        "offset": cut.offset,
        "limit": cut.limit,
        "sample": natural("sample"),
        "seed": natural("seed"),
    });
    Some(Box::new(Load {
        path,
        format: format.and_then(|f| Format::named(&f)),
        delimiter,
        wishes,
        cut,
        sample: natural("sample"),
        seed: natural("seed"),
        skip_missing: fields.str("on-missing").value == "skip",
        span: fields.span,
        canonical,
    }))
}

impl Load {
    /// The files that there are; empty if none.
    fn files(&self) -> Result<Vec<DataFile>, Problem> {
        let with_format = |path: std::path::PathBuf| {
            let Some(format) = self.format.or_else(|| Format::of_path(&path)) else {
                return Err(Problem::new(
                    "unknown-format",
                    format!("the extension of `{}` names no format", path.display()),
                )
                .help(format!("say which it is: format=\"jsonl\" (or {})", FORMATS.join(", "))));
            };
            let tabs = path.to_string_lossy().to_lowercase().contains(".tsv");
            let delimiter = self.delimiter.unwrap_or(if tabs { b'\t' } else { b',' });
            Ok(DataFile { path, format, delimiter })
        };
        files::find(&self.path)?.into_iter().map(with_format).collect()
    }

    fn survey(&self) -> Result<Option<(Vec<DataFile>, Survey)>, Problem> {
        let files = self.files()?;
        match files.is_empty() {
            true if self.skip_missing => Ok(None),
            true => Err(files::missing(&self.path)),
            false => survey::survey(&files).map(|survey| Some((files, survey))),
        }
    }

    fn estimate(&self, survey: &Survey) -> Estimate {
        let rows = survey.rows.map(|rows| self.cut.rows(rows));
        let rows = rows.or(self.cut.limit).map(|rows| self.sample.map_or(rows, |n| n.min(rows)));
        Estimate { rows: rows.or(self.sample), ..Estimate::default() }
    }

    fn shape(&self, survey: Option<&Survey>, diagnostics: &mut Diagnostics) -> Option<Shape> {
        survey::shape(&self.wishes, survey, self.span, diagnostics)
    }
}

impl Operator for Load {
    fn canonical(&self) -> serde_json::Value {
        self.canonical.clone()
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let found = if cx.look_at_files {
            match self.survey() {
                Ok(found) => found,
                Err(problem) => {
                    cx.error(problem.diagnostic(self.path.span));
                    return None;
                }
            }
        } else {
            None
        };
        let survey = found.as_ref().map(|(_, survey)| survey);
        let shape = self.shape(survey, cx.diagnostics)?;
        let estimate = survey.map_or_else(Estimate::default, |s| self.estimate(s));
        let mut resolved = Resolved::new(vec![shape.schema()], estimate);
        resolved.seeded = self.sample.is_some() && self.seed.is_none();
        match found {
            Some((files, _)) => resolved.files = files.into_iter().map(|f| f.path).collect(),
            None if cx.look_at_files => resolved.skipped = Some(format!("there is no file `{}`", self.path.value)),
            None => {}
        }
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let Some((files, survey)) = self.survey()? else { return Err(files::missing(&self.path).into()) };
        let shape = self.shape(Some(&survey), &mut Diagnostics::new());
        let Some(shape) = shape.filter(|s| s.schema() == cx.output_schema(0)) else {
            let message =
                format!("the columns of `{}` are not those of the plan: it has changed since", self.path.value);
            return Err(RunError::failed("source-changed", message).help("run again"));
        };
        let draw =
            self.sample.map(|n| Draw::new(drawn_seed(self.seed, cx), n, Held::new(cx, "a sample held in memory")));
        let mut loading = Loading { cx, shape: &shape, cut: self.cut, draw, index: 0, file_start: 0 };
        for file in &files {
            let start = loading.index;
            let prefix = self.wishes.id_prefix.as_ref().map(|p| p.value.clone());
            let naming = match prefix {
                Some(prefix) => Naming { prefix, start: 0 },
                None => Naming { prefix: files::stem(&file.path), start },
            };
            loading.file(file, &naming)?;
        }
        loading.finish()
    }
}

/// How rows without an id of their own are named.
struct Naming {
    prefix: String,
    /// The index at which counting began.
    start: u64,
}

impl Naming {
    fn name(&self, index: u64) -> String {
        format!("{}:{}", self.prefix, index - self.start)
    }
}

/// Bytes of values in a batch, so that long rows make short batches.
const BATCH_BYTES: usize = 16 << 20;

struct Loading<'a> {
    cx: &'a NodeCx,
    shape: &'a Shape,
    cut: Cut,
    draw: Option<Draw>,
    /// Of the next row, over all files.
    index: u64,
    /// Of the first row of the file at hand.
    file_start: u64,
}

impl Loading<'_> {
    fn file(&mut self, file: &DataFile, naming: &Naming) -> Result<(), RunError> {
        self.file_start = self.index;
        let open = || files::open_bytes(&file.path).map_err(|e| Problem::io(&file.path, &e));
        match file.format {
            Format::Json => self.rows(&mut json::Elements::new(open()?), file, naming),
            Format::Jsonl => self.rows(&mut json::Lines::new(open()?), file, naming),
            Format::Csv => self.rows(&mut csv::Records::new(open()?, file.delimiter)?, file, naming),
            Format::Parquet | Format::Arrow => self.batches(file, naming),
        }
    }

    fn rows(&mut self, reader: &mut dyn RowReader, file: &DataFile, naming: &Naming) -> Result<(), RunError> {
        let shape = self.shape;
        let mut builder = TableBuilder::new(shape);
        let mut indices = Vec::new();
        while !self.cut.ends_before(self.index)
            && let Some(Entry { place, body }) = reader.next()?
        {
            let index = self.index;
            self.index += 1;
            if !self.cut.takes(index) && !matches!(&body, Err(fault) if fault.ends) {
                continue;
            }
            let pushed = body.and_then(|body| {
                let name = || naming.name(index);
                let pushed = body.cells().and_then(|cells| builder.push(cells, name));
                pushed.map_err(|f| if f.row.is_null() { Fault { row: body.to_json(), ..f } } else { f })
            });
            match pushed {
                Ok(()) => indices.push(index),
                Err(fault) => self.reject(place.within(file.name()), fault)?,
            }
            if builder.rows() >= self.cx.options().batch_rows || builder.bytes() >= BATCH_BYTES {
                self.give(builder.finish(), std::mem::take(&mut indices))?;
            }
        }
        self.give(builder.finish(), indices)
    }

    fn batches(&mut self, file: &DataFile, naming: &Naming) -> Result<(), RunError> {
        let source = columnar::open(file, self.cx.options().batch_rows)?;
        for batch in source.batches {
            let first = self.index;
            match batch {
                Ok(batch) => {
                    let skip = self.cut.offset.saturating_sub(first).min(batch.num_rows() as u64) as usize;
                    let end = self.cut.limit.map_or(u64::MAX, |l| self.cut.offset.saturating_add(l));
                    let stop = end.saturating_sub(first).min(batch.num_rows() as u64) as usize;
                    self.index += batch.num_rows() as u64;
                    self.batch(&batch.slice(skip, stop.saturating_sub(skip)), first + skip as u64, file, naming)?;
                }
                Err(error) => {
                    let row = first - self.file_start;
                    let lost =
                        source.rows.map_or(String::new(), |rows| format!(" ({row} of {rows} rows could be read)"));
                    let message = format!("the file is damaged or cut short here{lost}: {error}");
                    self.reject(format!("{}#{row}", file.name()), Fault::new("truncated", message))?;
                }
            }
            if self.cut.ends_before(self.index) {
                break;
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, first: u64, file: &DataFile, naming: &Naming) -> Result<(), RunError> {
        let (fitted, misfits) = columnar::fit(batch, self.shape);
        for misfit in misfits {
            self.reject(format!("{}#{}", file.name(), first + misfit.row as u64 - self.file_start), misfit.fault)?;
        }
        for piece in fitted {
            let indices: Vec<u64> = piece.rows.iter().map(|row| first + *row as u64).collect();
            let name = || indices.iter().map(|i| Some(naming.name(*i))).collect::<StringArray>();
            let ids: ArrayRef = Arc::new(piece.ids.unwrap_or_else(name));
            let columns = std::iter::once(ids).chain(piece.columns).collect();
            let batch = RecordBatch::try_new(self.shape.schema(), columns).map_err(super::rows::arrow_failed)?;
            self.give(batch, indices)?;
        }
        Ok(())
    }

    fn reject(&self, place: String, fault: Fault) -> Result<(), RunError> {
        self.cx.reject(Rejected { id: place, reason: fault.reason, message: fault.message, row: fault.row })
    }

    /// Hands rows on, or to the sample.
    fn give(&mut self, batch: RecordBatch, indices: Vec<u64>) -> Result<(), RunError> {
        if self.cx.stopping() {
            return Err(RunError::Interrupted);
        }
        match &mut self.draw {
            _ if batch.num_rows() == 0 => Ok(()),
            Some(draw) => draw.push(&batch, &indices),
            None => self.cx.emit(0, batch),
        }
    }

    fn finish(self) -> Result<(), RunError> {
        for batch in self.draw.map(Draw::finish).transpose()?.unwrap_or_default() {
            self.cx.emit(0, batch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
