//! What nodes showed: tables, charts, and the curves of training.

use super::model::{Link, Picture, Shown};
use super::run::{Run, unreadable};
use super::speed::Speeds;
use super::text::{clean, cut, percent, table};
use crate::exec::RunError;
use crate::ops::rows::cell_json;
use crate::report::grid::{Format, Grid};
use crate::report::plot::{Chart, Marks, Point, ScaleKind};
use crate::report::words::number;
use crate::store::{Artifact, io_error};
use arrow::array::RecordBatch;
use std::collections::BTreeSet;

/// Instances of a swept table or chart on the page.
const INSTANCES: usize = 24;
/// A picture with more bytes is named, not shown.
const PICTURE: u64 = 2 << 20;
/// Curves in one chart, charts of one node, and points of a curve.
const SERIES: usize = 8;
const CHARTS: usize = 8;
const POINTS: usize = 600;
/// The output that holds a row for each step, and the column that numbers them.
const LOG: &str = "log";
const STEP: &str = "step";

/// Tables and charts of all nodes, and where files lie.
pub fn results(run: &Run<'_>, link: impl Fn(&str) -> Link) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    for instances in run.groups.values() {
        let mut shown = instances.iter().filter_map(|&node| {
            let artifact = run.artifacts[node].as_ref()?;
            one(run, node, artifact, &link)
        });
        all.extend(shown.by_ref().take(INSTANCES));
        let more = shown.count();
        if let Some(last) = all.last_mut().filter(|_| more > 0) {
            let said = std::mem::take(&mut last.remark);
            let more = format!("{} more of this sweep are not on the page.", number(more as u64));
            last.remark = [said, more].join(" ").trim().to_string();
        }
    }
    for (i, shown) in all.iter_mut().enumerate() {
        shown.id = format!("r{i}");
    }
    all
}

fn one(run: &Run<'_>, node: usize, artifact: &Artifact, link: &impl Fn(&str) -> Link) -> Option<Shown> {
    let info = &run.info.nodes[node];
    let name = clean(&run.name(node));
    let mut shown = Shown {
        node: name.clone(),
        anchor: run.anchor(node),
        title: name,
        doc: clean(info.doc.as_deref().unwrap_or_default()),
        files: info.files.iter().map(|f| link(f)).collect(),
        ..Shown::default()
    };
    let failed = |error: RunError| Some(cut(&unreadable(&error)));
    match tables(artifact) {
        Ok(tables) => shown.tables = tables.iter().map(table).collect(),
        Err(error) => shown.printed = failed(error),
    }
    match pictures(artifact, &shown.title) {
        Ok((pictures, too_large)) => {
            shown.pictures = pictures;
            if !too_large.is_empty() {
                let (named, most) = (clean(&too_large.join(", ")), crate::size::show(PICTURE));
                shown.remark = format!("Not on the page, as larger than {most}: {named}.");
            }
        }
        Err(error) => shown.printed = failed(error),
    }
    let is_empty = |shown: &Shown| shown.tables.is_empty() && shown.pictures.is_empty() && shown.printed.is_none();
    if is_empty(&shown) {
        shown.printed = match artifact.presented() {
            Ok(text) => text.map(|t| cut(&t)),
            Err(error) => failed(error),
        };
    }
    (!is_empty(&shown) || !shown.remark.is_empty()).then_some(shown)
}

/// The tables as they were shown; of a `table` of an earlier version its rows.
fn tables(artifact: &Artifact) -> Result<Vec<Grid>, RunError> {
    let kept = artifact.tables()?;
    if !kept.is_empty() || artifact.manifest.op != "table" || artifact.manifest.outputs.is_empty() {
        return Ok(kept);
    }
    let rows: BTreeSet<u64> = (0..artifact.output(0).rows.min(1000)).collect();
    let batch = artifact.rows_at(0, &rows)?;
    let schema = batch.schema();
    let columns = schema.fields().iter().enumerate().map(|(i, f)| (i, f.name().clone(), Format::default()));
    Ok(vec![Grid::of(&batch, &columns.collect::<Vec<_>>())])
}

/// The node's pictures (the SVG of each, or the PNG where there is no SVG), and the files of those that are too large.
fn pictures(artifact: &Artifact, alt: &str) -> Result<(Vec<Picture>, Vec<String>), RunError> {
    let files: Vec<(&str, std::path::PathBuf)> = artifact.files().collect();
    let stem = |name: &str| name.rsplit_once('.').map(|(stem, _)| stem.to_string());
    let has_svg = |name: &str| files.iter().any(|(f, _)| f.ends_with(".svg") && stem(f) == stem(name));
    let (mut pictures, mut too_large) = (Vec::new(), Vec::new());
    for ((name, path), entry) in files.iter().zip(&artifact.manifest.files) {
        let kind = match name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("svg") => "image/svg+xml",
            Some("png") if !has_svg(name) => "image/png",
            _ => continue,
        };
        if entry.bytes > PICTURE {
            too_large.push(name.to_string());
            continue;
        }
        let bytes = std::fs::read(path).map_err(|e| io_error("read", path, &e))?;
        pictures.push(picture(kind, &bytes, alt));
    }
    Ok((pictures, too_large))
}

/// As an image of its own, a drawing can neither run a script nor lend its styles to the page.
fn picture(kind: &str, bytes: &[u8], alt: &str) -> Picture {
    Picture { uri: format!("data:{kind},{}", percent(bytes)), alt: clean(alt) }
}

/// Curves of every node that gives a `log` with a row for each step.
pub fn curves(run: &Run<'_>, speeds: &Speeds) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    for (base, instances) in &run.groups {
        let mut logs = Vec::new();
        let (mut note, mut more) = (None, 0);
        for &node in instances {
            match run.artifacts[node].as_ref().map(log) {
                Some(Ok(Some(batch))) if logs.len() < SERIES => logs.push((run.name(node), batch)),
                Some(Ok(Some(_))) => more += 1,
                Some(Err(error)) => note = Some(cut(&unreadable(&error))),
                _ => {}
            }
        }
        if logs.is_empty() && note.is_none() {
            continue;
        }
        all.push(Shown {
            id: format!("c{}", all.len()),
            node: clean(base),
            anchor: run.anchor(instances[0]),
            title: clean(base),
            pictures: charts(&logs).into_iter().chain(speed(&logs, speeds)).collect(),
            printed: note,
            remark: if more == 0 {
                String::new()
            } else {
                format!("{} more of this sweep are not drawn.", number(more))
            },
            ..Shown::default()
        });
    }
    all
}

/// The rows of an output named `log`, if they are numbered by step.
fn log(artifact: &Artifact) -> Result<Option<RecordBatch>, RunError> {
    let outputs = &artifact.manifest.outputs;
    let numbered = |c: &[crate::store::manifest::Column]| c.iter().any(|c| c.name == STEP);
    let Some(at) = outputs.iter().position(|o| o.name == LOG && numbered(&o.columns)) else { return Ok(None) };
    let rows = artifact.output(at).rows;
    if rows == 0 {
        return Ok(None);
    }
    artifact.rows_at(at, &(0..rows).collect()).map(Some)
}

/// A chart for each column of numbers, with a curve for each log.
fn charts(logs: &[(String, RecordBatch)]) -> Vec<Picture> {
    let Some((_, first)) = logs.first() else { return Vec::new() };
    let schema = first.schema();
    let numbers = schema.fields().iter().filter(|f| f.data_type().is_numeric() && f.name() != STEP);
    numbers.take(CHARTS).filter_map(|f| chart(f.name(), logs)).collect()
}

fn chart(column: &str, logs: &[(String, RecordBatch)]) -> Option<Picture> {
    drawn(column, logs, logs.iter().map(|(_, batch)| points(batch, column)).collect())
}

/// How fast the nodes of these logs went in this run; nothing of those that were cached.
fn speed(logs: &[(String, RecordBatch)], speeds: &Speeds) -> Option<Picture> {
    drawn("tokens per second", logs, logs.iter().map(|(name, _)| speeds.of_node(name).to_vec()).collect())
}

/// A chart of a curve for each log.
fn drawn(title: &str, logs: &[(String, RecordBatch)], curves: Vec<Vec<Point>>) -> Option<Picture> {
    let most = curves.iter().map(Vec::len).max().unwrap_or(0);
    if most == 0 {
        return None;
    }
    let thinned = most > POINTS;
    let points: Vec<Vec<Point>> = curves.into_iter().map(thin).collect();
    let series = if logs.len() > 1 { logs.iter().map(|(name, _)| name.clone()).collect() } else { Vec::new() };
    let note = format!("Of {} steps, the least and the greatest value of every few are drawn.", number(most as u64));
    let chart = Chart {
        title: Some(title.to_string()),
        x_label: STEP.into(),
        y_label: String::new(),
        x_scale: ScaleKind::Linear,
        y_scale: ScaleKind::Linear,
        width: Some(480.0),
        height: Some(300.0),
        series,
        marks: Marks::Curves(points),
        notes: if thinned { vec![note] } else { Vec::new() },
    };
    Some(picture("image/svg+xml", chart.svg().as_bytes(), &format!("{title} by step")))
}

/// The finite values of a column by step.
fn points(batch: &RecordBatch, column: &str) -> Vec<Point> {
    let (Some(steps), Some(values)) = (batch.column_by_name(STEP), batch.column_by_name(column)) else {
        return Vec::new();
    };
    let point = |row: usize| {
        let (x, y) = (cell_json(steps, row).as_f64()?, cell_json(values, row).as_f64()?);
        (x.is_finite() && y.is_finite()).then_some(Point { x, y, interval: None })
    };
    (0..batch.num_rows()).filter_map(point).collect()
}

/// The least and the greatest of every few points, so that no peak is lost.
fn thin(points: Vec<Point>) -> Vec<Point> {
    if points.len() <= POINTS {
        return points;
    }
    let few = points.len().div_ceil(POINTS / 2);
    let ends = |chunk: &[Point]| {
        let least = chunk.iter().copied().min_by(|a, b| a.y.total_cmp(&b.y));
        let greatest = chunk.iter().copied().max_by(|a, b| a.y.total_cmp(&b.y));
        let mut ends: Vec<Point> = least.into_iter().chain(greatest).collect();
        ends.sort_by(|a, b| a.x.total_cmp(&b.x));
        ends
    };
    points.chunks(few).flat_map(ends).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn a_thinned_curve_keeps_its_peaks() {
        let value = |i: usize| if i == 7777 { 99.0 } else { (i % 3) as f64 };
        let points: Vec<Point> = (0..10_000).map(|i| Point { x: i as f64, y: value(i), interval: None }).collect();
        let thinned = thin(points);
        assert!(thinned.len() <= POINTS + 2, "{}", thinned.len());
        assert!(thinned.iter().any(|p| p.x == 7777.0 && p.y == 99.0));
        assert!(thinned.windows(2).all(|w| w[0].x <= w[1].x));
    }

    #[test]
    fn every_column_of_numbers_has_a_chart() {
        let step: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let loss: ArrayRef = Arc::new(Float64Array::from(vec![Some(2.0), Some(f64::NAN), None]));
        let none: ArrayRef = Arc::new(Float64Array::new_null(3));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        let batch = [("step", step, true), ("loss", loss, true), ("none", none, true), ("text", text, true)];
        let batch = RecordBatch::try_from_iter_with_nullable(batch).unwrap();
        let pictures = charts(&[("one".into(), batch.clone()), ("two".into(), batch)]);
        assert_eq!(pictures.len(), 1);
        assert_eq!(pictures[0].alt, "loss by step");
        assert!(pictures[0].uri.starts_with("data:image/svg+xml,%3Csvg%20xmlns"));
    }
}
