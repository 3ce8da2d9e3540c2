//! `load`: rows from files.

mod columnar;
mod csv;
mod files;
mod json;
mod loading;
mod origin;
mod reader;
pub mod recording;
mod shape;
mod survey;

use super::rows::{Held, id_field};
use super::sample::{Draw, drawn_seed};
use super::{Default, FieldKind, FieldSpec, Fields, OUT, OpSpec, Operator, ResolveCx, Resolved};
use crate::diag::{Diagnostics, Span};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use arrow::datatypes::{Schema, SchemaRef};
use files::FORMATS;
use loading::{Cut, Loading, Naming, Taker};
use origin::{Found, Origin};
use serde_json::json;
use std::sync::{Arc, OnceLock};
use survey::Wishes;

pub static SPEC: OpSpec = OpSpec {
    name: "load",
    summary: "Reads rows from JSON, JSONL, CSV, Parquet or Arrow files",
    doc: "\
Reads the file `path`, or all that match a glob in the order of their names, plain or compressed with gzip or
Zstandard; or a `split` of a `dataset`, whose manifest says where its files are and what their fields are called here.
Rows are streamed: no file is held in memory whole.

**Columns.** `fields` renames: `fields { response \"answer\" }` gives the source's `answer` as `response`, in place of a
field `response` that the source may have. Fields that are not renamed keep their names, unless `only-mapped`. The
types are those of `columns`, or else of the file: by its metadata (Parquet, Arrow), or by its first 1000 rows.
Integers, floats and booleans keep their type, and a mix of integers and floats is float; lists of texts are
lists; all else, other mixtures and structures included, becomes text, structures as JSON. The fields of a data set
are the columns of its manifest, with the types given there.

**Identity.** Every row has an `id`: the value of the field that `id` names; or of the source's own field `id`; or else
`<prefix>:<index>`, where the index counts the rows of the source from 0, before `offset`, `limit` and `sample`. The
prefix is `id-prefix`, or the data set's name (with the split, if it has several), or else the file's name without
extensions, in which case each file counts its own rows.

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
    FieldSpec::new("path", FieldKind::Path, "the file, or a glob such as `data/*.jsonl`"),
    FieldSpec::new("dataset", FieldKind::Dataset, "instead of `path`: a data set by its manifest"),
    FieldSpec::new("split", FieldKind::Str, "which split of the data set; may be left out if it has one"),
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
        "what to do when there is no such file, or no such split of the data set: `skip` skips the node and what reads from it, and says so in results",
    )
    .default(Default::Str("error")),
    FieldSpec::new("delimiter", FieldKind::Str, "field separator of CSV files: a comma, or a tab for `.tsv`"),
];

#[derive(Debug)]
struct Load {
    origin: Origin,
    wishes: Wishes,
    cut: Cut,
    sample: Option<u64>,
    seed: Option<u64>,
    skip_missing: bool,
    span: Span,
    /// What the pipeline says, as a part of the fingerprint.
    canonical: serde_json::Value,
    /// What stands behind the origin, known since planning.
    found: OnceLock<Found>,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let natural = |name: &str| fields.opt_int(name).map(|i| i.value as u64);
    let origin = Origin::build(fields, diagnostics)?;
    let wishes = Wishes {
        fields: fields.str_map("fields"),
        columns: fields.str_map("columns"),
        only_mapped: fields.bool("only-mapped"),
        id: fields.opt_str("id"),
        id_prefix: fields.opt_str("id-prefix"),
    };
    let cut = Cut { offset: natural("offset").unwrap_or(0), limit: natural("limit") };
    let canonical = json!({
        "id-prefix": wishes.id_prefix.as_deref(),
        "offset": cut.offset,
        "limit": cut.limit,
        "sample": natural("sample"),
        "seed": natural("seed"),
    });
    Some(Box::new(Load {
        origin,
        wishes,
        cut,
        sample: natural("sample"),
        seed: natural("seed"),
        skip_missing: fields.str("on-missing").value == "skip",
        span: fields.span,
        canonical,
        found: OnceLock::new(),
    }))
}

impl Load {
    fn estimate(&self, rows: Option<u64>) -> Estimate {
        let rows = rows.map(|rows| self.cut.rows(rows)).or(self.cut.limit);
        let rows = rows.map(|rows| self.sample.map_or(rows, |n| n.min(rows)));
        Estimate { rows: rows.or(self.sample), ..Estimate::default() }
    }
}

impl Operator for Load {
    /// Complete once the node is resolved: names of files (which name rows) and checksums of manifests take part.
    fn canonical(&self) -> serde_json::Value {
        let mut all = self.canonical.clone();
        let wishes = self.found.get().map_or(&self.wishes, |found| &found.wishes);
        all["wishes"] = wishes.canonical();
        all["origin"] = self.found.get().map_or(json!(null), |found| found.canonical.clone());
        all
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        if let Some(problem) = self.origin.unknown_split(cx).filter(|_| self.skip_missing) {
            // Nobody reads columns of a node that is skipped.
            let mut resolved = Resolved::new(vec![Arc::new(Schema::new(vec![id_field()]))], Estimate::default());
            resolved.skipped = Some(self.origin.absence(&problem));
            return Some(resolved);
        }
        let found = self.origin.find(&self.wishes, cx)?;
        let survey = match found.files.as_deref().map(survey::survey).transpose() {
            Ok(survey) => survey,
            Err(problem) => {
                cx.error(problem.diagnostic(self.origin.span()));
                return None;
            }
        };
        let must_exist = cx.files_must_exist || found.wishes.columns.is_empty();
        if let Some(problem) = found.missing.as_ref().filter(|_| !self.skip_missing && must_exist) {
            cx.error(problem.diagnostic(self.origin.span()));
            return None;
        }
        let shape = survey::shape(&found.wishes, survey.as_ref(), self.span, cx.diagnostics)?;
        let rows = survey.and_then(|s| s.rows).or(found.rows);
        let mut resolved = Resolved::new(vec![shape.schema()], self.estimate(rows));
        resolved.seeded = self.sample.is_some() && self.seed.is_none();
        resolved.files = found.digested();
        resolved.to_fetch = found.to_fetch.clone();
        let skipped = found.missing.as_ref().filter(|_| self.skip_missing);
        resolved.skipped = skipped.map(|problem| self.origin.absence(problem));
        // A node is resolved once; if it were again, it would find the same.
        let _ = self.found.set(found);
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let held = Held::new(cx, "a sample held in memory");
        let draw = self.sample.map(|n| Draw::new(drawn_seed(self.seed, cx), n, held));
        self.read(cx, &cx.output_schema(0), draw)
    }
}

impl Load {
    /// Reads all rows, which have the schema that was planned.
    fn read(&self, to: &dyn Taker, planned: &SchemaRef, draw: Option<Draw>) -> Result<(), RunError> {
        let Some(found) = self.found.get() else {
            return Err(RunError::failed("not-planned", "a `load` cannot run before it is planned"));
        };
        let files = self.origin.files(found)?;
        let survey = survey::survey(&files)?;
        let shape = survey::shape(&found.wishes, Some(&survey), self.span, &mut Diagnostics::new());
        let Some(shape) = shape.filter(|s| s.schema() == *planned) else {
            let message = format!("the columns of `{}` are not those of the plan: it has changed since", self.origin);
            return Err(RunError::failed("source-changed", message).help("run again"));
        };
        let mut loading = Loading::new(to, &shape, self.cut, draw);
        for file in &files {
            let naming = match &found.wishes.id_prefix {
                Some(prefix) => Naming { prefix: prefix.value.clone(), start: 0 },
                None => Naming { prefix: files::stem(&file.path), start: loading.index() },
            };
            loading.file(file, &naming)?;
        }
        loading.finish()
    }
}

#[cfg(test)]
mod columnar_tests;
#[cfg(test)]
mod tests;
