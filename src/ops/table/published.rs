//! Published values beside ours: a CSV file joined to a table.

use super::super::{Default, FieldKind, FieldSpec, Fields, ResolveCx, did_you_mean, list};
use super::NOTE;
use super::mark::with_column;
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::exec::RunError;
use crate::report::grid::keys;
use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format as CsvFormat;
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::json;
use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const FIELDS: &[FieldSpec] = &[
    FieldSpec::new("path", FieldKind::Path, "A CSV file with a head line").required().positional(),
    FieldSpec::new("value", FieldKind::Str, "The file's column of values").default(Default::Str("value")),
    FieldSpec::new("as", FieldKind::Str, "Name of the new column").default(Default::Str("published")),
    FieldSpec::new(
        "on",
        FieldKind::Map(&FieldKind::Str),
        "Which line belongs to which row: columns of this table and the file's columns that must hold the same",
    )
    .required(),
    FieldSpec::new("where", FieldKind::Map(&FieldKind::Str), "Only lines whose columns hold these texts"),
];

/// One `published` record.
#[derive(Debug)]
pub struct Published {
    pub path: Spanned<PathBuf>,
    value: Spanned<String>,
    name: Spanned<String>,
    /// Our column, the file's column.
    on: Vec<(Spanned<String>, Spanned<String>)>,
    /// The file's column, its text.
    only: Vec<(Spanned<String>, String)>,
}

impl Published {
    pub fn of(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Self> {
        let pairs = |name: &str| -> Vec<(Spanned<String>, Spanned<String>)> {
            fields.str_map(name).into_iter().map(|(key, (span, value))| (Spanned::new(key, span), value)).collect()
        };
        let name = fields.str("as");
        if name.value == NOTE {
            diagnostics.push(
                Diagnostic::error("duplicate-column", "the column `note` is made by `table`")
                    .at(name.span, "another name is needed here"),
            );
            return None;
        }
        Some(Self {
            path: fields.str("path").map(PathBuf::from),
            value: fields.str("value"),
            name,
            on: pairs("on"),
            only: pairs("where").into_iter().map(|(column, text)| (column, text.value)).collect(),
        })
    }

    pub fn canonical(&self) -> serde_json::Value {
        let on: Vec<_> = self.on.iter().map(|(ours, theirs)| json!([ours.value, theirs.value])).collect();
        let only: Vec<_> = self.only.iter().map(|(column, text)| json!([column.value, text])).collect();
        json!({ "value": self.value.value, "as": self.name.value, "on": on, "where": only })
    }

    pub fn field(&self) -> Field {
        Field::new(&self.name.value, DataType::Float64, true)
    }

    /// Whether the columns that the record names are there.
    pub fn check(&self, ours: &[Field], unknown: bool, cx: &mut ResolveCx<'_>) -> bool {
        let mut sound = true;
        if ours.iter().any(|f| *f.name() == self.name.value) {
            let message = format!("the table has a column `{}` already", self.name.value);
            cx.error(
                Diagnostic::error("duplicate-column", message)
                    .at(self.name.span, "would be made again")
                    .help("give the published values another name with `as`"),
            );
            sound = false;
        }
        let names: Vec<&str> = ours.iter().map(|f| f.name().as_str()).collect();
        for (column, _) in self.on.iter().filter(|(c, _)| !unknown && !names.contains(&c.value.as_str())) {
            cx.error(missing_column(column, "the table", &names));
            sound = false;
        }
        if cx.files_must_exist || (cx.look_at_files && self.path.value.exists()) {
            sound &= self.check_file(cx);
        }
        sound
    }

    fn check_file(&self, cx: &mut ResolveCx<'_>) -> bool {
        let header = match header(&self.path.value) {
            Ok(header) => header,
            Err(problem) => {
                cx.error(
                    Diagnostic::error("file-unreadable", format!("cannot read the published values: {problem}"))
                        .at(self.path.span, "named here")
                        .help(crate::config::RELATIVE),
                );
                return false;
            }
        };
        let names: Vec<&str> = header.iter().map(String::as_str).collect();
        let theirs = self.on.iter().map(|(_, c)| c).chain(self.only.iter().map(|(c, _)| c));
        let mut sound = true;
        for column in theirs.chain([&self.value]).filter(|c| !names.contains(&c.value.as_str())) {
            cx.error(missing_column(column, &self.path.value.display().to_string(), &names));
            sound = false;
        }
        sound
    }

    /// The table with the column of published values.
    pub fn join(&self, table: &RecordBatch) -> Result<RecordBatch, RunError> {
        let values = self.read()?;
        let keys: Vec<Vec<Option<String>>> = self
            .on
            .iter()
            .map(|(ours, _)| match table.column_by_name(&ours.value) {
                Some(column) => keys(column),
                None => vec![None; table.num_rows()],
            })
            .collect();
        let of_row = |row: usize| -> Option<f64> {
            let key: Option<Vec<String>> = keys.iter().map(|k| k[row].clone()).collect();
            values.get(&key?).copied()
        };
        let column: ArrayRef = Arc::new((0..table.num_rows()).map(of_row).collect::<Float64Array>());
        with_column(table, self.field(), column)
    }

    /// Says so when no row found a value: names that do not match look like values that do not exist.
    pub fn remark(&self, joined: &RecordBatch) -> Option<String> {
        let column = joined.column_by_name(&self.name.value)?;
        let ours: Vec<&str> = self.on.iter().map(|(ours, _)| ours.value.as_str()).collect();
        let file = self.path.value.file_name().unwrap_or_default().to_string_lossy();
        (joined.num_rows() > 0 && column.null_count() == column.len())
            .then(|| format!("{}: {file} has no value for any {}", self.name.value, ours.join(", ")))
    }

    /// The published values by key.
    fn read(&self) -> Result<HashMap<Vec<String>, f64>, RunError> {
        let path = self.path.value.display();
        let failed = |problem: String| RunError::failed("published-values", format!("{path}: {problem}"));
        let lines = read_lines(&self.path.value).map_err(failed)?;
        let column = |name: &str| -> Result<usize, RunError> {
            lines.header.iter().position(|h| h == name).ok_or_else(|| failed(format!("there is no column `{name}`")))
        };
        let value = column(&self.value.value)?;
        let on: Vec<usize> = self.on.iter().map(|(_, c)| column(&c.value)).collect::<Result<_, _>>()?;
        let only: Vec<(usize, &String)> =
            self.only.iter().map(|(c, text)| Ok((column(&c.value)?, text))).collect::<Result<_, RunError>>()?;
        let mut values = HashMap::new();
        for (number, line) in lines.rows.iter().enumerate() {
            if only.iter().any(|(at, text)| line[*at] != **text) {
                continue;
            }
            let key: Vec<String> = on.iter().map(|at| line[*at].clone()).collect();
            let text = &line[value];
            let parsed: f64 = text.parse().map_err(|_| {
                failed(format!("row {}: `{text}` is not a number", number + 1))
                    .help("leave out lines without a value, or pick others with `where`")
            })?;
            match values.insert(key.clone(), parsed) {
                Some(other) if other != parsed => {
                    let problem = format!("two values for {}: {other} and {parsed}", key.join(", "));
                    return Err(failed(problem).help("name more columns in `on`, or pick lines with `where`"));
                }
                _ => {}
            }
        }
        Ok(values)
    }
}

struct Lines {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

fn open(path: &Path) -> Result<BufReader<File>, String> {
    File::open(path).map(BufReader::new).map_err(|error| format!("{}: {error}", path.display()))
}

fn header(path: &Path) -> Result<Vec<String>, String> {
    let format = CsvFormat::default().with_header(true);
    let (schema, _) = format.infer_schema(open(path)?, Some(0)).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(schema.fields().iter().map(|f| f.name().trim().to_string()).collect())
}

/// A CSV file with every cell as trimmed text.
fn read_lines(path: &Path) -> Result<Lines, String> {
    let header = header(path)?;
    let fields: Vec<Field> = header.iter().map(|h| Field::new(h, DataType::Utf8, true)).collect();
    let reader = ReaderBuilder::new(Arc::new(Schema::new(fields)))
        .with_header(true)
        .build(open(path)?)
        .map_err(|e| e.to_string())?;
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| e.to_string())?;
        let columns: Vec<&StringArray> = batch.columns().iter().filter_map(|c| c.as_any().downcast_ref()).collect();
        for row in 0..batch.num_rows() {
            let cell = |c: &&StringArray| {
                if c.is_null(row) { String::new() } else { c.value(row).trim().to_string() }
            };
            rows.push(columns.iter().map(cell).collect());
        }
    }
    Ok(Lines { header, rows })
}

fn missing_column(column: &Spanned<String>, place: &str, names: &[&str]) -> Diagnostic {
    let span: Span = column.span;
    let mut d = Diagnostic::error("column-missing", format!("{place} has no column `{}`", column.value))
        .at(span, "named here")
        .help(format!("there are {}", list(names)));
    if let Some(near) = did_you_mean(&column.value, names.iter().copied()) {
        d = d.help(format!("did you mean `{near}`?"));
    }
    d
}
