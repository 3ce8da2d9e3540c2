//! The columns of a source, found by looking at its first rows (or its metadata), and by what the pipeline
//! declares.

use super::columnar;
use super::csv::Records;
use super::files::{DataFile, Format, Problem, open_bytes};
use super::json::{Elements, Lines};
use super::reader::{Cell, Cells, RowReader};
use super::shape::{IdFrom, Kind, OutColumn, Shape, parse_bool};
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::exec::RunError;
use crate::ops::expression::type_word;
use crate::ops::rows::{ID, plain_type, text_list};
use crate::ops::{did_you_mean, list};
use arrow::datatypes::DataType;
use indexmap::IndexMap;
use std::collections::HashSet;

/// How much of a file is looked at for its columns, whichever comes first.
const PREFIX_ROWS: u64 = 1000;
const PREFIX_BYTES: usize = 8 << 20;

/// The values seen in a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    Nothing,
    Bool,
    Int,
    Float,
    Text,
    Texts,
    Exact(DataType),
    /// Different types, or structures: text.
    Mixed,
}

impl Seen {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Nothing, x) | (x, Self::Nothing) => x,
            (Self::Int, Self::Float) | (Self::Float, Self::Int) => Self::Float,
            _ => Self::Mixed,
        }
    }

    fn of(cell: &Cell<'_>) -> Self {
        match cell {
            Cell::Null => Self::Nothing,
            Cell::Bool(_) => Self::Bool,
            Cell::Int(_) => Self::Int,
            Cell::Float(_) => Self::Float,
            Cell::Text(_) => Self::Text,
            Cell::Texts(_) => Self::Texts,
            Cell::Nested(_) => Self::Mixed,
            Cell::Untyped(text) => Self::of_text(text),
        }
    }

    /// The type that a text stands for. Leading zeros and plus signs are part of names, not of numbers.
    fn of_text(text: &str) -> Self {
        if text.parse::<i64>().is_ok_and(|i| i.to_string() == text) {
            Self::Int
        } else if is_decimal(text) {
            Self::Float
        } else if parse_bool(text).is_some() {
            Self::Bool
        } else {
            Self::Text
        }
    }

    fn of_type(data_type: &DataType) -> Self {
        match plain_type(data_type) {
            _ if *data_type == DataType::Null => Self::Nothing,
            DataType::Boolean => Self::Bool,
            DataType::Int64 => Self::Int,
            DataType::Float64 => Self::Float,
            DataType::Utf8 => Self::Text,
            t if t == text_list() => Self::Texts,
            t => Self::Exact(t),
        }
    }

    /// The kind of column that takes all of these values.
    fn kind(&self) -> Kind {
        match self {
            Self::Bool => Kind::Bool,
            Self::Int => Kind::Int,
            Self::Float => Kind::Float,
            Self::Texts => Kind::Texts,
            Self::Exact(data_type) => Kind::Exact(data_type.clone()),
            Self::Text | Self::Mixed | Self::Nothing => Kind::Text { strict: false },
        }
    }

    /// Whether a declared kind can hold what was seen.
    fn fits(&self, declared: &Kind) -> bool {
        match (self, declared) {
            (Self::Nothing | Self::Mixed, _) | (_, Kind::Text { strict: false }) => true,
            (Self::Int | Self::Float, Kind::Int | Kind::Float) => true,
            (seen, declared) => seen.kind().data_type() == declared.data_type(),
        }
    }
}

/// A number with a point or an exponent: `0.5`, `-2e3`, but neither `007.5` nor `nan`.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let padded = matches!(digits, [b'0', b'0'..=b'9', ..]);
    let starts = digits.first().is_some_and(u8::is_ascii_digit);
    starts && !padded && text.contains(['.', 'e', 'E']) && text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// What a look at the source has shown.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// By name, in the order in which they appear.
    pub fields: IndexMap<String, Seen>,
    /// The values have types of their own (everything but CSV).
    pub typed: bool,
    /// Rows seen at all: without one, nothing is known of the fields.
    pub rows_seen: u64,
    /// Rows of the source, known or estimated.
    pub rows: Option<u64>,
}

/// Looks at every file.
pub fn survey(files: &[DataFile]) -> Result<Survey, Problem> {
    let mut all = Survey { typed: true, rows: Some(0), ..Survey::default() };
    for file in files {
        let one = survey_file(file)?;
        for (name, seen) in one.fields {
            let before = all.fields.entry(name).or_insert(Seen::Nothing);
            *before = before.clone().and(seen);
        }
        all.typed &= one.typed;
        all.rows_seen += one.rows_seen;
        all.rows = all.rows.zip(one.rows).map(|(a, b)| a + b);
    }
    Ok(all)
}

fn survey_file(file: &DataFile) -> Result<Survey, Problem> {
    let open = || open_bytes(&file.path).map_err(|e| Problem::io(&file.path, &e));
    match file.format {
        Format::Parquet | Format::Arrow => {
            let source = columnar::open(file, 1)?;
            let field = |f: &std::sync::Arc<arrow::datatypes::Field>| (f.name().clone(), Seen::of_type(f.data_type()));
            let fields = source.schema.fields().iter().map(field).collect();
            Ok(Survey { fields, typed: true, rows_seen: 1, rows: source.rows })
        }
        Format::Json => look(&mut Elements::new(open()?), file, true),
        Format::Jsonl => look(&mut Lines::new(open()?), file, true),
        Format::Csv => {
            let mut records = Records::new(open()?, file.delimiter).map_err(run_problem)?;
            let named: IndexMap<String, Seen> = records.header().iter().map(|n| (n.clone(), Seen::Nothing)).collect();
            let mut survey = look(&mut records, file, false)?;
            let seen = std::mem::replace(&mut survey.fields, named);
            survey.fields.extend(seen);
            survey.rows_seen += u64::from(!survey.fields.is_empty());
            Ok(survey)
        }
    }
}

/// Reads the first rows. Those at fault are left for the run, which quarantines them.
fn look(reader: &mut dyn RowReader, file: &DataFile, typed: bool) -> Result<Survey, Problem> {
    let mut survey = Survey { typed, ..Survey::default() };
    let mut bytes = 0;
    let mut whole = false;
    while survey.rows_seen < PREFIX_ROWS && bytes < PREFIX_BYTES {
        let Some(entry) = reader.next().map_err(run_problem)? else {
            whole = true;
            break;
        };
        survey.rows_seen += 1;
        let Ok(body) = entry.body else { continue };
        bytes += body.size();
        let Ok(cells) = body.cells() else { continue };
        note(&mut survey.fields, cells);
    }
    survey.rows = if whole { Some(survey.rows_seen) } else { extrapolate(file, survey.rows_seen, bytes) };
    Ok(survey)
}

fn note(fields: &mut IndexMap<String, Seen>, cells: Cells<'_>) {
    for (name, cell) in cells {
        let seen = Seen::of(&cell);
        match fields.get_mut(&*name) {
            Some(before) => *before = std::mem::replace(before, Seen::Nothing).and(seen),
            None => {
                fields.insert(name.into_owned(), seen);
            }
        }
    }
}

/// Rows of a plain file by its size and the size of its first rows.
fn extrapolate(file: &DataFile, rows: u64, bytes: usize) -> Option<u64> {
    let compressed = file.path.extension().is_some_and(|e| e == "gz" || e == "zst");
    let size = file.path.metadata().ok()?.len();
    (!compressed && bytes > 0).then(|| (size as f64 / bytes as f64 * rows as f64).round() as u64)
}

fn run_problem(error: RunError) -> Problem {
    match error {
        RunError::Failed { code, message, help } => Problem { code, message, help },
        other => Problem::new("file-unreadable", other.to_string()),
    }
}

/// What the pipeline (or a manifest) says of a source's columns.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Ours -> theirs.
    pub fields: IndexMap<String, (Span, Spanned<String>)>,
    /// Ours -> type.
    pub columns: IndexMap<String, (Span, Spanned<String>)>,
    pub only_mapped: bool,
    pub id: Option<Spanned<String>>,
    pub id_prefix: Option<Spanned<String>>,
}

impl Wishes {
    /// All that shapes rows, without places; `id_prefix` apart.
    pub fn canonical(&self) -> serde_json::Value {
        let plain = |map: &IndexMap<String, (Span, Spanned<String>)>| -> Vec<[String; 2]> {
            map.iter().map(|(k, (_, v))| [k.clone(), v.value.clone()]).collect()
        };
        serde_json::json!({
            "fields": plain(&self.fields),
            "columns": plain(&self.columns),
            "only-mapped": self.only_mapped,
            "id": self.id.as_deref(),
        })
    }
}

/// The columns of the output, from what is wished and, where files can be seen, what there is. All that does
/// not agree goes into the diagnostics.
pub fn shape(wishes: &Wishes, survey: Option<&Survey>, node: Span, diagnostics: &mut Diagnostics) -> Option<Shape> {
    let survey = survey.filter(|s| s.rows_seen > 0);
    let before = diagnostics.0.len();
    let mut shaper = Shaper { wishes, survey, node, diagnostics, columns: Vec::new(), left_out: HashSet::new() };
    let id = shaper.id();
    shaper.mapped();
    shaper.unmapped(&id);
    shaper.declared_only();
    shaper.name_clashes();
    let (columns, left_out) = (shaper.columns, shaper.left_out);
    let sound = diagnostics.0.len() == before;
    sound.then_some(Shape { columns, id, left_out, only_mapped: wishes.only_mapped })
}

struct Shaper<'a> {
    wishes: &'a Wishes,
    survey: Option<&'a Survey>,
    node: Span,
    diagnostics: &'a mut Diagnostics,
    columns: Vec<OutColumn>,
    left_out: HashSet<String>,
}

impl Shaper<'_> {
    fn has(&self, field: &str) -> bool {
        self.survey.is_none_or(|s| s.fields.contains_key(field))
    }

    fn field_missing(&mut self, field: &str, span: Span) {
        let Some(survey) = self.survey else { return };
        let names: Vec<&str> = survey.fields.keys().map(String::as_str).collect();
        let d = Diagnostic::error("field-missing", format!("the source has no field `{field}`"))
            .at(span, format!("it has {}", list(&names)));
        self.diagnostics.push(match did_you_mean(field, names.iter().copied()) {
            Some(near) => d.help(format!("did you mean `{near}`?")),
            None => d,
        });
    }

    fn id(&mut self) -> IdFrom {
        if let Some(id) = &self.wishes.id {
            if !self.has(id) {
                self.field_missing(id, id.span);
            }
            return IdFrom::Field(id.value.clone());
        }
        let own = self.survey.is_some_and(|s| s.fields.contains_key(ID));
        let mapped = self.wishes.fields.values().any(|(_, theirs)| theirs.value == ID);
        if own && !mapped && self.wishes.id_prefix.is_none() { IdFrom::Field(ID.into()) } else { IdFrom::Index }
    }

    /// A column by its name and source, with the declared type or the one seen.
    fn add(&mut self, name: &str, source: &str) {
        let seen = self.survey.and_then(|s| s.fields.get(source)).cloned();
        let Some((_, declared)) = self.wishes.columns.get(name) else {
            let kind = seen.map_or(Kind::Text { strict: false }, |s| s.kind());
            self.columns.push(OutColumn { name: name.into(), source: source.into(), kind, nullable: true });
            return;
        };
        let (kind, nullable) = Kind::declared(declared);
        if let Some(seen) = seen.filter(|s| self.survey.is_some_and(|v| v.typed) && !s.fits(&kind)) {
            let found = type_word(&seen.kind().data_type());
            self.diagnostics.push(
                Diagnostic::error("column-type", format!("field `{source}` is {found}, not {}", declared.value))
                    .at(declared.span, format!("declared as {}", declared.value))
                    .help("declare `text` to take any value as its text"),
            );
        }
        self.columns.push(OutColumn { name: name.into(), source: source.into(), kind, nullable });
    }

    /// Whether a column may be filled from a field that was not seen.
    fn may_be_absent(&self, name: &str) -> bool {
        self.wishes.columns.get(name).is_some_and(|(_, word)| word.value.ends_with('?'))
    }

    fn mapped(&mut self) {
        for (ours, (span, theirs)) in &self.wishes.fields {
            if ours == ID {
                self.diagnostics.push(
                    Diagnostic::error("reserved-column", "`id` is not mapped under `fields`")
                        .at(*span, "the name of the row")
                        .help(format!("write id=\"{}\" on the node", theirs.value)),
                );
                continue;
            }
            if !self.has(theirs) && !self.may_be_absent(ours) {
                self.field_missing(theirs, theirs.span);
            }
            self.add(ours, theirs);
        }
    }

    fn unmapped(&mut self, id: &IdFrom) {
        let Some(survey) = self.survey else { return };
        let taken: HashSet<&str> = self.wishes.fields.values().map(|(_, t)| t.value.as_str()).collect();
        for field in survey.fields.keys() {
            let is_id = field == ID && *id == IdFrom::Field(ID.into());
            let replaced = self.wishes.fields.contains_key(field);
            let wished = !self.wishes.only_mapped || self.wishes.columns.contains_key(field);
            if taken.contains(field.as_str()) || is_id {
                continue;
            }
            if replaced || !wished {
                self.left_out.insert(field.clone());
            } else {
                self.add(field, field);
            }
        }
    }

    /// Columns that are declared and were not seen.
    fn declared_only(&mut self) {
        for (name, (span, _)) in &self.wishes.columns {
            if self.columns.iter().any(|c| c.name == *name) || name == ID {
                continue;
            }
            if self.survey.is_some() && !self.may_be_absent(name) {
                self.field_missing(name, *span);
            }
            self.add(name, name);
        }
    }

    fn name_clashes(&mut self) {
        if self.columns.iter().any(|c| c.name == ID) {
            let span = self.wishes.id_prefix.as_ref().or(self.wishes.id.as_ref()).map_or(self.node, |s| s.span);
            self.diagnostics.push(
                Diagnostic::error("column-clash", "the source has a field `id` besides the one that names the rows")
                    .at(span, "names the rows")
                    .help("map it to another name: fields { source_id \"id\" }"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_for_values_only_when_nothing_is_lost() {
        for (text, seen) in [
            ("5", Seen::Int),
            ("-5", Seen::Int),
            ("007", Seen::Text),
            ("+5", Seen::Text),
            ("5.25", Seen::Float),
            ("0.5", Seen::Float),
            ("-1e3", Seen::Float),
            ("nan", Seen::Text),
            ("TRUE", Seen::Bool),
            ("yes", Seen::Text),
            ("007.5", Seen::Text),
            ("18446744073709551616", Seen::Text),
        ] {
            assert_eq!(Seen::of_text(text), seen, "{text}");
        }
    }

    #[test]
    fn mixed_values_widen() {
        assert_eq!(Seen::Int.and(Seen::Float), Seen::Float);
        assert_eq!(Seen::Nothing.and(Seen::Texts), Seen::Texts);
        assert_eq!(Seen::Int.and(Seen::Text), Seen::Mixed);
        assert_eq!(Seen::Mixed.and(Seen::Nothing), Seen::Mixed);
    }
}
