//! Cells that stand out: far behind the best of their group, or of a difference that is one.

use super::super::gather::need_column;
use super::super::{Default, FieldKind, FieldSpec, Fields, ResolveCx, is_number, rows::arrow_failed, summarize};
use super::NOTE;
use crate::diag::{Diagnostic, Spanned};
use crate::exec::RunError;
use crate::report::grid::{Format, Legend, Mark, keys};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;

pub const MARK: &[FieldSpec] = &[
    FieldSpec::new("column", FieldKind::Column, "The column whose cells are marked").required().positional(),
    FieldSpec::new("share", FieldKind::Float { min: 0.0, max: 1.0 }, "How far behind the best, as a share of the best")
        .default(Default::Float(0.15)),
    FieldSpec::new(
        "within",
        FieldKind::List(&FieldKind::Column),
        "Columns whose values make a group with a best of its own; without it all rows are one group",
    ),
    FieldSpec::new("better", FieldKind::Choice(&["higher", "lower"]), "Which values are better")
        .default(Default::Str("higher")),
    FieldSpec::new("as", FieldKind::Str, "Name of the new boolean column (default: the column's, with `_behind`)"),
];

pub const STARS: &[FieldSpec] = &[
    FieldSpec::new("column", FieldKind::Column, "The column whose cells get stars").required().positional(),
    FieldSpec::new("p", FieldKind::Column, "The column of p values, such as one that `compare` gives")
        .default(Default::Str("p_adjusted")),
];

/// p values up to which a cell has so many stars.
const LEVELS: [(usize, f64); 3] = [(3, 0.001), (2, 0.01), (1, 0.05)];

/// One `mark` record: a boolean column that says which cells are far behind the best.
#[derive(Debug)]
pub struct Behind {
    pub column: Spanned<String>,
    within: Vec<Spanned<String>>,
    share: f64,
    higher: bool,
    pub name: Spanned<String>,
}

impl Behind {
    pub fn of(fields: &Fields) -> Self {
        let column = fields.str("column");
        let name = fields.opt_str("as").unwrap_or_else(|| column.clone().map(|c| format!("{c}_behind")));
        let higher = fields.str("better").value == "higher";
        Self { column, within: fields.strs("within"), share: fields.float("share"), higher, name }
    }

    pub fn canonical(&self) -> serde_json::Value {
        let within: Vec<&str> = self.within.iter().map(|w| w.value.as_str()).collect();
        json!([self.column.value, within, self.share, self.higher, self.name.value])
    }

    pub fn field(&self) -> Field {
        Field::new(&self.name.value, DataType::Boolean, true)
    }

    pub fn check(&self, ours: &Schema, cx: &mut ResolveCx<'_>) -> bool {
        let mut sound = need_column(cx, ours, &self.column, "a number", is_number);
        for name in &self.within {
            sound &= need_column(cx, ours, name, "a column", |_| true);
        }
        sound
    }

    /// Whether the name is free; `note` is made by the table.
    pub fn check_name(&self, ours: &[Field], cx: &mut ResolveCx<'_>) -> bool {
        let free = self.name.value != NOTE && ours.iter().all(|f| *f.name() != self.name.value);
        if !free {
            let message = format!("the table has a column `{}` already", self.name.value);
            cx.error(
                Diagnostic::error("duplicate-column", message)
                    .at(self.name.span, "would be made again")
                    .help("give the marks another name with `as`"),
            );
        }
        free
    }

    /// Which rows are behind; null where there is no value.
    pub fn column_of(&self, table: &RecordBatch) -> Result<ArrayRef, RunError> {
        let values = floats(table, &self.column)?;
        let keys: Vec<Vec<Option<String>>> =
            self.within.iter().filter_map(|w| table.column_by_name(w)).map(|c| keys(c)).collect();
        let key = |row: usize| keys.iter().map(|k| k[row].clone()).collect::<Vec<_>>();
        let mut best: HashMap<Vec<Option<String>>, f64> = HashMap::new();
        for (row, value) in values.iter().enumerate() {
            let Some(value) = value.filter(|v| v.is_finite()) else { continue };
            let known = best.entry(key(row)).or_insert(value);
            *known = if self.higher { known.max(value) } else { known.min(value) };
        }
        let behind = |(row, value): (usize, Option<f64>)| Some(self.is_behind(value?, *best.get(&key(row))?));
        Ok(Arc::new(values.iter().enumerate().map(behind).collect::<BooleanArray>()))
    }

    fn is_behind(&self, value: f64, best: f64) -> bool {
        let margin = self.share * best.abs();
        // A value that is exactly on the line, but for rounding, is not beyond it.
        let slack = 1e-12 * best.abs();
        if self.higher { value < best - margin - slack } else { value > best + margin + slack }
    }

    pub fn legend(&self, label: &str) -> Legend {
        let (side, share) = (if self.higher { "below" } else { "above" }, Format::percent(self.share));
        let within: Vec<&str> = self.within.iter().map(|w| w.value.as_str()).collect();
        let group = if within.is_empty() { String::new() } else { format!(" of the same {}", and(&within)) };
        let mark = Mark { behind: true, ..Mark::default() };
        Legend { mark, text: format!("more than {share} {side} the best {label}{group}") }
    }
}

/// "a, b and c".
fn and(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// One `stars` record.
#[derive(Debug)]
pub struct Stars {
    pub column: Spanned<String>,
    pub p: Spanned<String>,
}

impl Stars {
    pub fn of(fields: &Fields) -> Self {
        Self { column: fields.str("column"), p: fields.str("p") }
    }

    pub fn canonical(&self) -> serde_json::Value {
        json!([self.column.value, self.p.value])
    }

    pub fn check(&self, ours: &Schema, cx: &mut ResolveCx<'_>) -> bool {
        need_column(cx, ours, &self.column, "a column", |_| true)
            & need_column(cx, ours, &self.p, "a number", is_number)
    }

    /// How many stars each row has.
    pub fn of_rows(&self, table: &RecordBatch) -> Result<Vec<usize>, RunError> {
        let stars = |p: Option<f64>| LEVELS.iter().find(|(_, level)| p.is_some_and(|p| p <= *level)).map_or(0, |l| l.0);
        Ok(floats(table, &self.p)?.iter().map(stars).collect())
    }

    pub fn legend(&self) -> Legend {
        Legend::text(format!("* p ≤ 0.05, ** p ≤ 0.01, *** p ≤ 0.001 ({})", self.p.value))
    }
}

/// A column of numbers; nulls where the table has none.
pub fn floats(table: &RecordBatch, name: &str) -> Result<Float64Array, RunError> {
    match table.column_by_name(name) {
        Some(column) if column.data_type().is_numeric() || *column.data_type() == DataType::Boolean => {
            Ok(summarize::as_floats(column)?.as_primitive::<Float64Type>().clone())
        }
        _ => Ok(Float64Array::new_null(table.num_rows())),
    }
}

/// The table with a column more, before `note`.
pub fn with_column(table: &RecordBatch, field: Field, column: ArrayRef) -> Result<RecordBatch, RunError> {
    let mut fields: Vec<Arc<Field>> = table.schema().fields().iter().cloned().collect();
    let mut columns = table.columns().to_vec();
    let at = fields.iter().position(|f| f.name() == NOTE).unwrap_or(fields.len());
    fields.insert(at, Arc::new(field));
    columns.insert(at, column);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(arrow_failed)
}
