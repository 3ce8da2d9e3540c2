//! A table with a cell for every pair of a row's and a column's keys, as papers show results.

use super::super::gather::{missing_column, need_column};
use super::super::rows::ID;
use super::super::{FieldKind, FieldSpec, Fields, ResolveCx, is_number};
use super::mark::floats;
use super::{Column, NOTE, format_of};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::exec::RunError;
use crate::report::grid::{self, Format, Grid, Head, Legend, Mark, Style, numbers, texts};
use crate::report::terminal::MISSING;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use indexmap::IndexSet;
use serde_json::json;
use std::collections::HashMap;
use textwrap::core::display_width;

pub const FIELDS: &[FieldSpec] = &[
    FieldSpec::new("value", FieldKind::Column, "The number that a cell shows").required().positional(),
    FieldSpec::new("rows", FieldKind::List(&FieldKind::Column), "Columns whose values make the rows").required(),
    FieldSpec::new(
        "columns",
        FieldKind::List(&FieldKind::Column),
        "Columns whose values make the columns, outermost first",
    )
    .required(),
    FieldSpec::new("spread", FieldKind::Column, "A number behind ±, such as the deviation over seeds"),
    FieldSpec::new("interval", FieldKind::List(&FieldKind::Column), "Two columns shown as [low, high]"),
    FieldSpec::new("beside", FieldKind::Column, "A number in parentheses, such as a published value"),
    FieldSpec::new("digits", FieldKind::Int { min: 0, max: 15 }, "Decimals; without it as many as the values need"),
    super::STYLE,
];

/// Keys of a row or column; `None` where a column has no value.
type Keys = Vec<Option<String>>;

/// The `pivot` record.
#[derive(Debug)]
pub struct Pivot {
    value: Spanned<String>,
    rows: Vec<Spanned<String>>,
    columns: Vec<Spanned<String>>,
    spread: Option<Spanned<String>>,
    interval: Option<[Spanned<String>; 2]>,
    beside: Option<Spanned<String>>,
    format: Format,
}

impl Pivot {
    /// The pivot of a table; a table has one at most.
    pub fn of(records: &[Fields], diagnostics: &mut Diagnostics) -> Option<Option<Self>> {
        let Some(fields) = records.first() else { return Some(None) };
        if let Some(second) = records.get(1) {
            diagnostics.push(
                Diagnostic::error("duplicate-node", "a table has one `pivot`")
                    .at(second.span, "the second one")
                    .and(fields.span, "the first one")
                    .help("write a `table` for each"),
            );
            return None;
        }
        let interval = match fields.strs("interval").as_slice() {
            [] => None,
            [low, high] => Some([low.clone(), high.clone()]),
            other => {
                let message = format!("`interval` names two columns, not {}", other.len());
                let d = Diagnostic::error("wrong-count", message).at(fields.span_of("interval"), "low and high");
                diagnostics.push(d.help("for example `interval \"ci_low\" \"ci_high\"`"));
                return None;
            }
        };
        let (rows, columns) = (fields.strs("rows"), fields.strs("columns"));
        for (i, name) in rows.iter().chain(&columns).enumerate() {
            if let Some(first) = rows.iter().chain(&columns).take(i).find(|n| n.value == name.value) {
                diagnostics.push(
                    Diagnostic::error("duplicate-column", format!("column `{}` is named twice", name.value))
                        .at(name.span, "again here")
                        .and(first.span, "first here"),
                );
                return None;
            }
        }
        Some(Some(Self {
            value: fields.str("value"),
            rows,
            columns,
            spread: fields.opt_str("spread"),
            interval,
            beside: fields.opt_str("beside"),
            format: format_of(fields),
        }))
    }

    pub fn canonical(&self) -> serde_json::Value {
        let names = |all: &[Spanned<String>]| all.iter().map(|c| c.value.clone()).collect::<Vec<_>>();
        json!({
            "value": self.value.value,
            "rows": names(&self.rows),
            "columns": names(&self.columns),
            "spread": self.spread.as_ref().map(|s| &s.value),
            "interval": self.interval.as_ref().map(|i| names(i)),
            "beside": self.beside.as_ref().map(|b| &b.value),
            "format": [json!(self.format.digits), json!(format!("{:?}", self.format.style))],
        })
    }

    pub fn value(&self) -> &str {
        &self.value
    }

    pub fn check(&self, ours: &Schema, cx: &mut ResolveCx<'_>) -> bool {
        let mut sound = true;
        for name in self.numbers() {
            sound &= need_column(cx, ours, name, "a number", |t| is_number(t) || *t == DataType::Boolean);
        }
        for name in self.rows.iter().chain(&self.columns) {
            if ours.field_with_name(name).is_err() {
                missing_column(cx, ours, name, "");
                sound = false;
            }
        }
        sound
    }

    fn numbers(&self) -> impl Iterator<Item = &Spanned<String>> {
        std::iter::once(&self.value).chain(&self.spread).chain(self.interval.iter().flatten()).chain(&self.beside)
    }

    /// The grid. Rows come in the order of `table`, columns in that of `unsorted`, so that a sort by value leaves the heads
    /// in place. `marks` has one entry for each row of `table`, `meaning` says what they mean.
    pub fn grid(
        &self,
        table: &RecordBatch,
        unsorted: &RecordBatch,
        labels: &[Column],
        marks: &[Mark],
        meaning: Vec<Legend>,
    ) -> Result<Grid, RunError> {
        let (row_keys, column_keys) = (keys(table, &self.rows), keys(table, &self.columns));
        let notes = table.column_by_name(NOTE).and_then(|c| c.as_string_opt::<i32>());
        let note = |row: usize| notes.filter(|n| n.is_valid(row)).map(|n| n.value(row).to_string());
        let cells = self.cells(table)?;
        // A skipped input that lacks an axis belongs to no cell.
        let homeless = |row: usize| {
            let lacks = row_keys[row].iter().chain(&column_keys[row]).any(Option::is_none);
            lacks && cells[row].is_none() && note(row).is_some()
        };
        let placed: Vec<usize> = (0..table.num_rows()).filter(|row| !homeless(*row)).collect();
        let rows: IndexSet<&Keys> = placed.iter().map(|row| &row_keys[*row]).collect();
        let known: IndexSet<&Keys> = placed.iter().map(|row| &column_keys[*row]).collect();
        let order = keys(unsorted, &self.columns);
        let columns: IndexSet<&Keys> = order.iter().filter(|k| known.contains(k)).collect();
        let mut grid = Grid { columns: self.heads(&columns, labels), ..Grid::default() };
        let width = self.rows.len();
        let key_cells = |keys: &&Keys| keys.iter().cloned().chain(vec![None; columns.len()]).collect();
        grid.rows = rows.iter().map(key_cells).collect();
        grid.notes = vec![None; rows.len()];
        let mut notes: IndexSet<String> = IndexSet::new();
        let mut taken: HashMap<(usize, usize), usize> = HashMap::new();
        for &row in &placed {
            let at = rows.get_index_of(&row_keys[row]).zip(columns.get_index_of(&column_keys[row]));
            let Some((down, across)) = at.map(|(down, across)| (down, across + width)) else { continue };
            if let Some(other) = taken.insert((down, across), row) {
                return Err(self.twice(table, other, row));
            }
            grid.rows[down][across].clone_from(&cells[row]);
            let note = note(row).map(|n| notes.insert_full(n).0 + 1);
            grid.set_mark(down, across, Mark { note, ..marks[row] });
        }
        grid.legend.extend(self.legend(labels).into_iter().chain(meaning));
        grid.legend.extend(notes.iter().enumerate().map(|(at, note)| Legend::text(format!("[{}] {note}", at + 1))));
        for row in (0..table.num_rows()).filter(|row| homeless(*row)) {
            let known = self.rows.iter().chain(&self.columns).zip(row_keys[row].iter().chain(&column_keys[row]));
            let place: Vec<String> =
                known.filter_map(|(name, key)| Some(format!("{} = {}", name.value, key.as_ref()?))).collect();
            let note = note(row).unwrap_or_default();
            grid.legend.push(Legend::text(format!("not shown: {}: {note}", place.join(", "))));
        }
        Ok(grid)
    }

    fn heads(&self, columns: &IndexSet<&Keys>, labels: &[Column]) -> Vec<Head> {
        let key = |name: &Spanned<String>| Head { label: label(labels, name), ..Head::default() };
        let shown = |k: &Option<String>| k.clone().unwrap_or_else(|| MISSING.to_string());
        let value = |keys: &&Keys| {
            let (last, outer) =
                keys.split_last().map_or((String::new(), &[][..]), |(last, outer)| (shown(last), outer));
            let above = (!outer.is_empty()).then(|| outer.iter().map(shown).collect::<Vec<_>>().join(" / "));
            Head { label: last, number: true, above }
        };
        self.rows.iter().map(key).chain(columns.iter().map(value)).collect()
    }

    /// The text of every row's cell; `None` without a value.
    fn cells(&self, table: &RecordBatch) -> Result<Vec<Option<String>>, RunError> {
        let percent = self.format.style == Style::Percent;
        let column = |name: &str| -> Result<Vec<Option<f64>>, RunError> {
            let scale = if percent { 100.0 } else { 1.0 };
            Ok(floats(table, name)?.iter().map(|v| v.map(|v| v * scale)).collect())
        };
        let values = column(&self.value)?;
        // The percent sign stands in the legend, once.
        let style = if percent { Style::Fixed } else { self.format.style };
        let format = Format { style, ..self.format }.settled(&values);
        let shown = |name: &str| -> Result<Vec<String>, RunError> {
            let texts = numbers(&column(name)?, format).into_iter();
            Ok(texts.map(|t| t.unwrap_or_else(|| MISSING.to_string())).collect())
        };
        let mut cells = numbers(&values, format);
        let mut append = |before: &str, parts: Vec<String>| {
            // Equal parts stand below each other.
            let width = parts.iter().map(|p| display_width(p)).max().unwrap_or(0);
            for (cell, part) in cells.iter_mut().zip(parts) {
                if let Some(cell) = cell {
                    *cell += &format!(" {before}{}{part}", " ".repeat(width - display_width(&part)));
                }
            }
        };
        if let Some(spread) = &self.spread {
            append("± ", shown(spread)?);
        }
        if let Some([low, high]) = &self.interval {
            let ends = shown(low)?.into_iter().zip(shown(high)?);
            append("", ends.map(|(low, high)| format!("[{low}, {high}]")).collect());
        }
        if let Some(beside) = &self.beside {
            append("", shown(beside)?.into_iter().map(|b| format!("({b})")).collect());
        }
        Ok(cells)
    }

    /// What a cell shows.
    fn legend(&self, labels: &[Column]) -> Option<Legend> {
        let percent = self.format.style == Style::Percent;
        let name = |column: &Spanned<String>| label(labels, column);
        let mut text = name(&self.value);
        if percent {
            text += " in %";
        }
        let plain = self.spread.is_none() && self.interval.is_none() && self.beside.is_none() && !percent;
        text.extend(self.spread.iter().map(|s| format!(" ± {}", name(s))));
        text.extend(self.interval.iter().map(|[low, high]| format!(" [{}, {}]", name(low), name(high))));
        text.extend(self.beside.iter().map(|b| format!(" ({})", name(b))));
        (!plain).then(|| Legend::text(format!("cells: {text}")))
    }

    fn twice(&self, table: &RecordBatch, first: usize, second: usize) -> RunError {
        let named: Vec<&str> = self.rows.iter().chain(&self.columns).map(|n| n.value.as_str()).collect();
        let schema = table.schema();
        let shown = |name: &str, row: usize| {
            let text = table.column_by_name(name).and_then(|c| texts(c, Format::default())[row].clone());
            text.unwrap_or_else(|| MISSING.to_string())
        };
        let place: Vec<String> = named.iter().map(|name| format!("{name} = {}", shown(name, first))).collect();
        let differs = |f: &&std::sync::Arc<arrow::datatypes::Field>| {
            !f.data_type().is_floating() && *f.name() != ID && shown(f.name(), first) != shown(f.name(), second)
        };
        let apart: Vec<String> = schema
            .fields()
            .iter()
            .filter(differs)
            .map(|f| format!("{} ({} and {})", f.name(), shown(f.name(), first), shown(f.name(), second)))
            .collect();
        let apart = if apart.is_empty() { String::new() } else { format!("; they differ in {}", apart.join(", ")) };
        RunError::failed("duplicate-cell", format!("two rows for the cell {}{apart}", place.join(", ")))
            .help("name what tells them apart in `rows` or `columns`, or bring them together before, with `summarize`")
    }
}

fn keys(table: &RecordBatch, names: &[Spanned<String>]) -> Vec<Keys> {
    let columns: Vec<Keys> = names
        .iter()
        .map(|n| table.column_by_name(n).map_or_else(|| vec![None; table.num_rows()], |c| grid::keys(c)))
        .collect();
    (0..table.num_rows()).map(|row| columns.iter().map(|c| c[row].clone()).collect()).collect()
}

/// The head of a column where people read it.
fn label(labels: &[Column], name: &Spanned<String>) -> String {
    labels.iter().find(|c| c.source.value == name.value).map_or_else(|| name.value.clone(), |c| c.label.clone())
}

#[cfg(test)]
mod tests;
