//! Rows to the marks of a chart.

use super::super::gather::NOTE;
use super::super::rows::arrow_failed;
use super::{Kind, Plot};
use crate::diag::Spanned;
use crate::exec::RunError;
use crate::report::grid::{Format, number, texts};
use crate::report::plot::scale::Scale;
use crate::report::plot::{Bar, Marks, Point, bins};
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use indexmap::IndexSet;

/// More points than a reader or a browser can handle.
const MAX_POINTS: usize = 50_000;
const MAX_BARS: usize = 2_000;
/// More series make a legend that is larger than its chart.
const MAX_SERIES: usize = 200;
const MAX_NOTES: usize = 20;

/// The names of the series, the marks, and notes below the chart.
pub fn marks(plot: &Plot, rows: &RecordBatch) -> Result<(Vec<String>, Marks, Vec<String>), RunError> {
    let table = Table::of(plot, rows)?;
    let (marks, notes) = match plot.kind {
        Kind::Bar => table.bars(plot)?,
        Kind::Histogram => table.histogram(plot)?,
        Kind::Scatter | Kind::Line => table.points(plot)?,
    };
    // One series without a column that names it needs no legend.
    let names = if plot.series.is_some() { table.series.into_iter().collect() } else { Vec::new() };
    Ok((names, marks, few(notes)))
}

/// As many notes as fit below a chart.
fn few(mut notes: Vec<String>) -> Vec<String> {
    let more = notes.len().saturating_sub(MAX_NOTES);
    notes.truncate(MAX_NOTES);
    notes.extend((more > 0).then(|| format!("and {more} more")));
    notes
}

/// The columns that a chart reads.
struct Table<'a> {
    rows: &'a RecordBatch,
    series: IndexSet<String>,
    /// For each row its position in `series`.
    of_row: Vec<usize>,
    y: Vec<Option<f64>>,
    interval: Vec<Option<(f64, f64)>>,
    notes: Vec<Option<String>>,
}

impl<'a> Table<'a> {
    fn of(plot: &Plot, rows: &'a RecordBatch) -> Result<Self, RunError> {
        let mut series = IndexSet::new();
        let of_row = match &plot.series {
            Some(column) => names(rows, column).into_iter().map(|n| series.insert_full(n).0).collect(),
            None => {
                series.insert(String::new());
                vec![0; rows.num_rows()]
            }
        };
        if series.len() > MAX_SERIES {
            let message = format!("the chart would have {} series, and can have {MAX_SERIES}", series.len());
            return Err(RunError::failed("too-many-marks", message)
                .help("name a `series` column with fewer values, or bring fewer rows with `filter`"));
        }
        let optional = |c: Option<&Spanned<String>>| match c {
            Some(column) => floats(rows, column),
            None => Ok(vec![None; rows.num_rows()]),
        };
        let low = optional(plot.interval.as_ref().map(|i| &i.0))?;
        let high = optional(plot.interval.as_ref().map(|i| &i.1))?;
        let notes = match rows.column_by_name(NOTE) {
            Some(column) => texts(column, Format::default()),
            None => vec![None; rows.num_rows()],
        };
        let interval = low.into_iter().zip(high).map(|(l, h)| l.zip(h)).collect();
        Ok(Self { rows, series, of_row, y: optional(plot.y.as_ref())?, interval, notes })
    }

    fn bars(&self, plot: &Plot) -> Result<(Marks, Vec<String>), RunError> {
        let parts: Vec<Vec<String>> = plot.x.iter().map(|x| names(self.rows, x)).collect();
        let mut categories: IndexSet<String> = IndexSet::new();
        let of_row: Vec<usize> = (0..self.rows.num_rows())
            .map(|row| {
                let name: Vec<&str> = parts.iter().map(|p| p[row].as_str()).collect();
                categories.insert_full(name.join(" / ")).0
            })
            .collect();
        if categories.len() * self.series.len() > MAX_BARS {
            return Err(too_many(categories.len() * self.series.len(), "bars", MAX_BARS));
        }
        let mut bars: Vec<Vec<Option<Bar>>> = vec![vec![None; categories.len()]; self.series.len()];
        let mut notes = Vec::new();
        for (row, category) in of_row.iter().enumerate() {
            let place = &mut bars[self.of_row[row]][*category];
            if place.is_some() {
                let (category, series) = (&categories[*category], &self.series[self.of_row[row]]);
                let bar = if series.is_empty() { category.clone() } else { format!("{category}, {series}") };
                return Err(RunError::failed("duplicate-bar", format!("two rows give a bar for {bar}"))
                    .help("name more columns in `x`, a `series`, or bring one row for each bar with `summarize`"));
            }
            *place = Some(self.bar(plot, row, &categories[*category], &mut notes));
        }
        let bars = bars.into_iter().map(|s| s.into_iter().map(Option::unwrap_or_default).collect()).collect();
        Ok((Marks::Bars { categories: categories.into_iter().collect(), bars }, notes))
    }

    fn bar(&self, plot: &Plot, row: usize, category: &str, notes: &mut Vec<String>) -> Bar {
        let value = self.y[row].filter(|v| Scale::shows(plot.y_scale, *v));
        let absent = match (value, self.y[row]) {
            (Some(_), _) => None,
            (None, Some(odd)) => Some(number(odd)),
            (None, None) => Some("n/a".into()),
        };
        if value.is_none() {
            notes.extend(self.noted(row, Some(category)));
        }
        Bar { value, interval: self.interval[row], absent }
    }

    fn histogram(&self, plot: &Plot) -> Result<(Marks, Vec<String>), RunError> {
        let values = floats(self.rows, &plot.x[0])?;
        let mut series: Vec<Vec<f64>> = vec![Vec::new(); self.series.len()];
        for (row, value) in values.iter().enumerate() {
            series[self.of_row[row]].extend(value.filter(|v| Scale::shows(plot.x_scale, *v)));
        }
        let notes = self.left_out(&values, series.iter().map(Vec::len).sum());
        let (edges, counts) = bins(plot.x_scale, &series, plot.bins);
        Ok((Marks::Histogram { edges, counts }, notes))
    }

    fn points(&self, plot: &Plot) -> Result<(Marks, Vec<String>), RunError> {
        let xs = floats(self.rows, &plot.x[0])?;
        let mut points: Vec<Vec<Point>> = vec![Vec::new(); self.series.len()];
        for (row, (x, y)) in xs.iter().zip(&self.y).enumerate() {
            let Some((x, y)) = x.zip(*y) else { continue };
            if Scale::shows(plot.x_scale, x) && Scale::shows(plot.y_scale, y) {
                points[self.of_row[row]].push(Point { x, y, interval: self.interval[row] });
            }
        }
        let count = points.iter().map(Vec::len).sum();
        if count > MAX_POINTS {
            return Err(too_many(count, "points", MAX_POINTS));
        }
        if plot.kind == Kind::Line {
            points.iter_mut().for_each(|s| s.sort_by(|a, b| a.x.total_cmp(&b.x)));
        }
        let numbers: Vec<Option<f64>> = xs.iter().zip(&self.y).map(|(x, y)| x.and(*y)).collect();
        let notes = self.left_out(&numbers, count);
        Ok((Marks::Points { points, lines: plot.kind == Kind::Line }, notes))
    }

    /// What is not drawn: the notes of rows without a number, how many others have none, and how many have a number
    /// without a place.
    fn left_out(&self, numbers: &[Option<f64>], drawn: usize) -> Vec<String> {
        let missing: Vec<usize> = (0..numbers.len()).filter(|row| numbers[*row].is_none()).collect();
        let noted: IndexSet<String> = missing.iter().filter_map(|row| self.noted(*row, None)).collect();
        let silent = missing.iter().filter(|row| self.notes[**row].is_none()).count();
        let odd = numbers.len() - missing.len() - drawn;
        let parts: Vec<String> = [(silent, "without a number"), (odd, "with a number that has no place on the axis")]
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let counted =
            (!parts.is_empty()).then(|| format!("Not drawn: {}, of {} rows", parts.join(", "), numbers.len()));
        noted.into_iter().chain(counted).collect()
    }

    /// A row's note, after the name of what it is about.
    fn noted(&self, row: usize, category: Option<&str>) -> Option<String> {
        let note = self.notes[row].as_ref()?;
        let series = Some(self.series[self.of_row[row]].as_str()).filter(|s| !s.is_empty());
        let about: Vec<&str> = category.into_iter().chain(series).collect();
        Some(if about.is_empty() { note.clone() } else { format!("{}: {note}", about.join(", ")) })
    }
}

fn too_many(count: usize, what: &str, most: usize) -> RunError {
    RunError::failed("too-many-marks", format!("the chart would have {count} {what}, and can have {most}"))
        .help("bring fewer rows with `sample` or `filter`, or draw a histogram")
}

/// A column as names.
fn names(rows: &RecordBatch, column: &Spanned<String>) -> Vec<String> {
    match rows.column_by_name(&column.value) {
        Some(column) => texts(column, Format::default()).into_iter().map(|n| n.unwrap_or_else(|| "–".into())).collect(),
        None => vec!["–".into(); rows.num_rows()],
    }
}

/// A column as numbers; a column of inputs that were all skipped has none.
fn floats(rows: &RecordBatch, column: &Spanned<String>) -> Result<Vec<Option<f64>>, RunError> {
    match rows.column_by_name(&column.value) {
        Some(column) => {
            let column = cast(column, &DataType::Float64).map_err(arrow_failed)?;
            Ok(column.as_primitive::<Float64Type>().iter().collect())
        }
        None => Ok(vec![None; rows.num_rows()]),
    }
}
