//! A table as people read it: every cell is text, numbers rounded per column.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A table ready to be drawn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    pub title: Option<String>,
    pub columns: Vec<Head>,
    /// `None` where there is no value.
    pub rows: Vec<Vec<Option<String>>>,
    /// What to know about each row.
    pub notes: Vec<Option<String>>,
    /// Cells that stand out, by row and then by column.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub marks: BTreeMap<usize, BTreeMap<usize, Mark>>,
    /// What cells and their marks mean: below the table, wherever it is drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legend: Vec<Legend>,
    /// Lines below the table in the terminal.
    pub remarks: Vec<String>,
}

/// The head of a column.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub label: String,
    /// Numbers stand to the right.
    pub number: bool,
    /// What stands above the labels of neighbours that have the same here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<String>,
}

/// What makes a cell stand out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Far behind the best.
    pub behind: bool,
    pub stars: usize,
    /// The number of a note in the legend.
    pub note: Option<usize>,
}

/// A line of the legend; it begins with its mark, drawn as in the cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Legend {
    pub mark: Mark,
    pub text: String,
}

impl Head {
    /// The head on one line.
    pub fn whole(&self) -> String {
        match &self.above {
            Some(above) => format!("{above}: {}", self.label),
            None => self.label.clone(),
        }
    }
}

impl Legend {
    pub fn text(text: String) -> Self {
        Self { mark: Mark::default(), text }
    }
}

/// How the numbers of a column are written.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Format {
    /// Decimals (of a percentage: of the percentage). Chosen for the column when absent.
    pub digits: Option<usize>,
    pub style: Style,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Style {
    #[default]
    Fixed,
    /// A share as a percentage.
    Percent,
    Scientific,
}

impl Format {
    /// The format with the decimals that the values need, for other numbers to be written alike.
    pub fn settled(self, values: &[Option<f64>]) -> Self {
        match (self.digits, choose(values)) {
            (Some(_), _) => self,
            (None, Choice::Fixed(digits)) => Self { digits: Some(digits), ..self },
            (None, Choice::Scientific) => Self { digits: Some(2), style: Style::Scientific },
        }
    }

    /// A share as a percentage with the decimals that it needs.
    pub fn percent(share: f64) -> String {
        numbers(&[Some(share)], Self { digits: None, style: Style::Percent }).remove(0).unwrap_or_default()
    }
}

impl Grid {
    /// A grid of the batch's columns, each with its label and format.
    pub fn of(batch: &RecordBatch, columns: &[(usize, String, Format)]) -> Self {
        let cells: Vec<Vec<Option<String>>> =
            columns.iter().map(|(at, _, format)| texts(batch.column(*at), *format)).collect();
        let head = |(at, label, _): &(usize, String, Format)| Head {
            label: label.clone(),
            number: batch.column(*at).data_type().is_numeric(),
            above: None,
        };
        let rows = (0..batch.num_rows()).map(|row| cells.iter().map(|c| c[row].clone()).collect()).collect();
        let notes = vec![None; batch.num_rows()];
        Self { columns: columns.iter().map(head).collect(), rows, notes, ..Self::default() }
    }

    /// How a cell stands out; the default where it does not.
    pub fn mark(&self, row: usize, column: usize) -> Mark {
        self.marks.get(&row).and_then(|r| r.get(&column)).copied().unwrap_or_default()
    }

    /// Marks a cell, unless the mark says nothing.
    pub fn set_mark(&mut self, row: usize, column: usize, mark: Mark) {
        if mark != Mark::default() {
            self.marks.entry(row).or_default().insert(column, mark);
        }
    }

    /// The notes as a last column, where a drawing has no other place for them.
    pub fn with_note_column(&self) -> Self {
        let mut grid = self.clone();
        if self.notes.iter().all(Option::is_none) {
            return grid;
        }
        grid.columns.push(Head { label: "note".into(), ..Head::default() });
        for (row, note) in grid.rows.iter_mut().zip(&mut grid.notes) {
            row.push(Some(note.take().unwrap_or_default()));
        }
        grid
    }
}

/// The cells of a column as text.
pub fn texts(column: &dyn Array, format: Format) -> Vec<Option<String>> {
    let rows = 0..column.len();
    let some = |row: usize| column.is_valid(row);
    match column.data_type() {
        DataType::Float64 | DataType::Float32 => {
            let value = |row| match column.data_type() {
                DataType::Float64 => column.as_primitive::<Float64Type>().value(row),
                _ => f64::from(column.as_primitive::<Float32Type>().value(row)),
            };
            let values: Vec<Option<f64>> = rows.map(|r| some(r).then(|| value(r))).collect();
            numbers(&values, format)
        }
        DataType::Int64 if format != Format::default() => {
            let ints = column.as_primitive::<Int64Type>();
            let values: Vec<Option<f64>> = rows.map(|r| some(r).then(|| ints.value(r) as f64)).collect();
            numbers(&values, format)
        }
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            rows.map(|r| some(r).then(|| texts.value(r).to_string())).collect()
        }
        DataType::Boolean => {
            let bools = column.as_boolean();
            rows.map(|r| some(r).then(|| if bools.value(r) { "yes" } else { "no" }.to_string())).collect()
        }
        _ => rows.map(|r| some(r).then(|| other(column, r))).collect(),
    }
}

/// The cells of a column as keys: unlike in [`texts`], no two different numbers are the same text, and a number is as short
/// as people write it.
pub fn keys(column: &dyn Array) -> Vec<Option<String>> {
    // Zero has no sign as a key.
    let key = |value: f64| (value + 0.0).to_string();
    match column.data_type() {
        DataType::Float64 => column.as_primitive::<Float64Type>().iter().map(|v| v.map(key)).collect(),
        DataType::Float32 => column.as_primitive::<Float32Type>().iter().map(|v| v.map(|v| key(v.into()))).collect(),
        _ => texts(column, Format::default()),
    }
}

fn other(column: &dyn Array, row: usize) -> String {
    arrow::util::display::array_value_to_string(column, row).unwrap_or_else(|error| format!("<{error}>"))
}

/// Numbers of one column with the same decimals.
pub fn numbers(values: &[Option<f64>], format: Format) -> Vec<Option<String>> {
    let scale = if format.style == Style::Percent { 100.0 } else { 1.0 };
    let scaled: Vec<Option<f64>> = values.iter().map(|v| v.map(|v| v * scale)).collect();
    let chosen = format.digits.map_or_else(|| choose(&scaled), Choice::Fixed);
    let text = |v: f64| -> String {
        let text = match (format.style, chosen) {
            _ if !v.is_finite() => return not_finite(v),
            (Style::Scientific, _) => scientific(v, format.digits.unwrap_or(2)),
            (_, Choice::Scientific) => scientific(v, 2),
            (_, Choice::Fixed(digits)) => fixed(v, digits, format.digits.is_none()),
        };
        if format.style == Style::Percent { format!("{text}%") } else { text }
    };
    scaled.iter().map(|v| v.map(text)).collect()
}

/// A number alone, with three or four significant digits.
pub fn number(value: f64) -> String {
    numbers(&[Some(value)], Format::default()).remove(0).unwrap_or_default()
}

#[derive(Clone, Copy)]
enum Choice {
    Fixed(usize),
    Scientific,
}

/// Decimals that show four significant digits of the largest number and two of the smallest, where eight digits are
/// enough for both.
fn choose(values: &[Option<f64>]) -> Choice {
    let sizes = || values.iter().flatten().map(|v| v.abs()).filter(|v| v.is_finite() && *v > 0.0);
    let (Some(max), Some(min)) = (sizes().reduce(f64::max), sizes().reduce(f64::min)) else { return Choice::Fixed(0) };
    if max < 1e15 && sizes().all(|v| v.fract() == 0.0) {
        return Choice::Fixed(0);
    }
    if !(1e-3..1e7).contains(&max) {
        return Choice::Scientific;
    }
    let exponent = |v: f64| v.log10().floor() as i32;
    let for_largest = 3 - exponent(max);
    let for_smallest = (1 - exponent(min)).min(6 - exponent(max).max(0));
    Choice::Fixed(for_largest.max(for_smallest).clamp(0, 6) as usize)
}

/// With `honest`, a number that is not zero is not written as zero.
fn fixed(value: f64, digits: usize, honest: bool) -> String {
    let text = format!("{value:.digits$}");
    let zero = !text.contains(|c: char| ('1'..='9').contains(&c));
    match zero {
        true if honest && value != 0.0 => scientific(value, 1),
        true => text.trim_start_matches('-').to_string(),
        false => text,
    }
}

fn scientific(value: f64, digits: usize) -> String {
    format!("{value:.digits$e}")
}

fn not_finite(value: f64) -> String {
    if value.is_nan() { "NaN".into() } else { if value > 0.0 { "inf" } else { "-inf" }.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(values: &[f64]) -> Vec<String> {
        let values: Vec<Option<f64>> = values.iter().map(|v| Some(*v)).collect();
        numbers(&values, Format::default()).into_iter().flatten().collect()
    }

    #[test]
    fn a_column_has_the_decimals_that_its_numbers_need() {
        assert_eq!(shown(&[51.3, 2.3512]), ["51.30", "2.35"]);
        assert_eq!(shown(&[4.54, 2.0]), ["4.540", "2.000"]);
        assert_eq!(shown(&[1234.56, 10.0]), ["1235", "10"]);
        assert_eq!(shown(&[48.0, 1000.0]), ["48", "1000"]);
        assert_eq!(shown(&[0.002, 950.0]), ["0.0020", "950.0000"]);
        assert_eq!(shown(&[1.5e9, 2.5]), ["1.50e9", "2.50e0"]);
        assert_eq!(shown(&[0.00012]), ["1.20e-4"]);
        assert_eq!(shown(&[]), [""; 0]);
    }

    #[test]
    fn nothing_is_rounded_to_zero_unasked() {
        assert_eq!(shown(&[1_234_567.5, 0.0001]), ["1234568", "1.0e-4"]);
        let asked = Format { digits: Some(1), ..Format::default() };
        assert_eq!(numbers(&[Some(-0.01)], asked), [Some("0.0".to_string())]);
    }

    #[test]
    fn odd_numbers_are_shown() {
        assert_eq!(shown(&[f64::NAN, f64::NEG_INFINITY, 1.5]), ["NaN", "-inf", "1.500"]);
    }

    #[test]
    fn different_numbers_are_different_keys() {
        let column = arrow::array::Float64Array::from(vec![Some(0.5), Some(1000.1), Some(1000.2), Some(-0.0), None]);
        let keys: Vec<String> = keys(&column).into_iter().map(Option::unwrap_or_default).collect();
        assert_eq!(keys, ["0.5", "1000.1", "1000.2", "0", ""]);
    }

    #[test]
    fn shares_are_percentages() {
        let format = Format { digits: Some(1), style: Style::Percent };
        assert_eq!(numbers(&[Some(0.1234), None], format), [Some("12.3%".to_string()), None]);
    }
}
