//! `plot`: a chart of rows, as SVG, PNG and in the terminal.

mod read;

use super::gather;
use super::table::{collect, file_stem, write_file};
use super::{
    Arity, Default, FieldKind, FieldSpec, Fields, InputSpec, OpSpec, Operator, ResolveCx, Resolved, is_number,
    is_string,
};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use crate::exec::{NodeCx, RunError};
use crate::plan::Estimate;
use crate::report::plot::{Chart, ScaleKind, png, terminal};
use arrow::datatypes::DataType;
use serde_json::json;

pub static SPEC: OpSpec = OpSpec {
    name: "plot",
    summary: "Draws rows as a bar chart, histogram, scatter plot or line chart",
    doc: DOC,
    version: 2,
    inputs: &[InputSpec {
        name: "from",
        doc: "the rows to draw; several inputs come one after the other, with a column for each matrix axis",
        arity: Arity::Many,
        accepts_skipped: true,
    }],
    outputs: &[],
    fields: &[
        FieldSpec::new("kind", FieldKind::Choice(&["bar", "histogram", "scatter", "line"]), "What to draw").required(),
        FieldSpec::new(
            "x",
            FieldKind::List(&FieldKind::Column),
            "`bar`: the columns that name a group of bars; `histogram`: the numbers to count; `scatter` and `line`: the \
             numbers along the x axis",
        )
        .required(),
        FieldSpec::new("y", FieldKind::Column, "The numbers along the y axis; not for `histogram`"),
        FieldSpec::new(
            "series",
            FieldKind::Column,
            "The column whose values get a colour, pattern and marker each, and an entry in the legend",
        ),
        FieldSpec::new("low", FieldKind::Column, "Lower ends of error bars; with `high`"),
        FieldSpec::new("high", FieldKind::Column, "Upper ends of error bars; with `low`"),
        FieldSpec::new("title", FieldKind::Str, "Stands above the chart"),
        FieldSpec::new("x-label", FieldKind::Str, "Title of the x axis (default: the column's name)"),
        FieldSpec::new("y-label", FieldKind::Str, "Title of the y axis (default: the column's name)"),
        FieldSpec::new("x-scale", FieldKind::Choice(&["linear", "log"]), "Of the x axis; not for `bar`")
            .default(Default::Str("linear")),
        FieldSpec::new("y-scale", FieldKind::Choice(&["linear", "log"]), "Of the y axis").default(Default::Str("linear")),
        FieldSpec::new(
            "bins",
            FieldKind::Int { min: 1, max: 500 },
            "Bins of a histogram (default: by the rule of Freedman and Diaconis)",
        ),
        FieldSpec::new("width", FieldKind::Int { min: 200, max: 4000 }, "Width of the drawing; a PNG has twice as many pixels"),
        FieldSpec::new("height", FieldKind::Int { min: 200, max: 4000 }, "Height of the drawing"),
        FieldSpec::new("name", FieldKind::Str, "Name of the files, without ending (default: the node's name)"),
        FieldSpec::new(
            "formats",
            FieldKind::List(&FieldKind::Choice(&["svg", "png"])),
            "Files to write; default `svg` and `png`",
        ),
        FieldSpec::new("terminal", FieldKind::Bool, "Whether to show bars and histograms in the terminal")
            .default(Default::Bool(true)),
    ],
    sink: true,
    example: EXAMPLE,
    build,
};

const DOC: &str = "\
Draws its rows into the run's folder, and bars and histograms in the terminal as well.

`bar` draws one bar for each row, in groups by `x` and, within a group, one for each value of `series`; two rows for one \
bar are an error. A row without a value (a skipped cell, a number that is not finite or that a logarithmic axis cannot \
show) keeps its place and says so. `histogram` counts the numbers of `x` in equal bins. `scatter` draws a point for each \
row; `line` joins them in the order of `x`.

Colours can be told apart by colour-blind readers, and series differ in pattern, dashes or marker as well. Axes end at \
round numbers. Text is measured in the fonts that idiolect carries, so the same rows give the same bytes on every \
machine.";

const EXAMPLE: &str = r#"
load "answers" path="answers.jsonl" { columns { text "string"; writer "string"; topic "string"; score "float" } }
summarize "cells" from="answers" {
    by "topic" "writer"
    value "mean_score" fn="mean" column="score"
    interval "ci_low" "ci_high" column="score"
}
plot "by-writer" from="cells" kind="bar" x="topic" series="writer" y="mean_score" low="ci_low" high="ci_high" {
    title "Mean score of each writer"
}
plot "spread" from="answers" kind="histogram" x="score" series="writer"
"#;

/// A type in words, and whether a column is of it.
type Expected = (&'static str, fn(&DataType) -> bool);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bar,
    Histogram,
    Scatter,
    Line,
}

#[derive(Debug)]
struct Plot {
    kind: Kind,
    x: Vec<Spanned<String>>,
    y: Option<Spanned<String>>,
    series: Option<Spanned<String>>,
    interval: Option<(Spanned<String>, Spanned<String>)>,
    bins: Option<usize>,
    title: Option<String>,
    x_label: String,
    y_label: String,
    x_scale: ScaleKind,
    y_scale: ScaleKind,
    size: (Option<i64>, Option<i64>),
    name: Option<String>,
    formats: Vec<String>,
    terminal: bool,
}

fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Box<dyn Operator>> {
    let written = fields.str("kind");
    let kind = match written.value.as_str() {
        "bar" => Kind::Bar,
        "histogram" => Kind::Histogram,
        "scatter" => Kind::Scatter,
        _ => Kind::Line,
    };
    if !sensible(kind, &written, fields, diagnostics) {
        return None;
    }
    let scale = |name: &str| if fields.str(name).value == "log" { ScaleKind::Log } else { ScaleKind::Linear };
    let text = |name: &str| fields.opt_str(name).map(|t| t.value);
    let x = fields.strs("x");
    let y = fields.opt_str("y");
    let x_names: Vec<&str> = x.iter().map(|x| x.value.as_str()).collect();
    let counted = || y.as_ref().map_or_else(|| "rows".to_string(), |y| y.value.clone());
    let mut formats: Vec<String> = fields.strs("formats").into_iter().map(|f| f.value).collect();
    if formats.is_empty() {
        formats = vec!["svg".into(), "png".into()];
    }
    Some(Box::new(Plot {
        kind,
        series: fields.opt_str("series"),
        interval: fields.opt_str("low").zip(fields.opt_str("high")),
        bins: fields.opt_int("bins").map(|b| b.value as usize),
        title: text("title"),
        x_label: text("x-label").unwrap_or_else(|| x_names.join(", ")),
        y_label: text("y-label").unwrap_or_else(counted),
        x_scale: scale("x-scale"),
        y_scale: scale("y-scale"),
        size: (fields.opt_int("width").map(|w| w.value), fields.opt_int("height").map(|h| h.value)),
        name: text("name"),
        formats,
        terminal: fields.bool("terminal"),
        x,
        y,
    }))
}

/// Whether the fields go together.
fn sensible(kind: Kind, written: &Spanned<String>, fields: &Fields, diagnostics: &mut Diagnostics) -> bool {
    let mut problems = Vec::new();
    let histogram = kind == Kind::Histogram;
    if !histogram && fields.get("y").is_none() {
        problems.push(
            Diagnostic::error("missing-field", format!("`kind=\"{}\"` needs `y`", written.value))
                .at(fields.span, "`y` is missing here")
                .and(written.span, "asked for here"),
        );
    }
    let logarithmic_groups = kind == Kind::Bar && fields.str("x-scale").value == "log";
    let meaningless = [
        ("y", histogram),
        ("low", histogram),
        ("high", histogram),
        ("bins", !histogram),
        ("x-scale", logarithmic_groups),
    ];
    for (name, _) in meaningless.iter().filter(|(name, wrong)| *wrong && fields.get(name).is_some()) {
        problems.push(
            Diagnostic::error("meaningless-field", format!("`{name}` means nothing to `kind=\"{}\"`", written.value))
                .at(fields.span_of(name), "not read")
                .and(written.span, "because of this")
                .help(format!("remove `{name}`")),
        );
    }
    if fields.get("low").is_some() != fields.get("high").is_some() {
        let (given, lacking) = if fields.get("low").is_some() { ("low", "high") } else { ("high", "low") };
        problems.push(
            Diagnostic::error("missing-field", format!("`{given}` needs `{lacking}`"))
                .at(fields.span_of(given), format!("`{lacking}` is missing")),
        );
    }
    if let [_, second, ..] = fields.strs("x").as_slice()
        && kind != Kind::Bar
    {
        problems.push(
            Diagnostic::error("meaningless-field", format!("`kind=\"{}\"` has one column along `x`", written.value))
                .at(second.span, "one too many"),
        );
    }
    let sound = problems.is_empty();
    problems.into_iter().for_each(|p| diagnostics.push(p));
    sound
}

impl Operator for Plot {
    fn canonical(&self) -> serde_json::Value {
        let name = |c: &Option<Spanned<String>>| c.as_ref().map(|c| c.value.clone());
        json!({
            "kind": format!("{:?}", self.kind),
            "x": self.x.iter().map(|x| &x.value).collect::<Vec<_>>(),
            "y": name(&self.y),
            "series": name(&self.series),
            "interval": self.interval.as_ref().map(|(low, high)| [&low.value, &high.value]),
            "bins": self.bins,
            "labels": [self.title.as_deref(), Some(&self.x_label), Some(&self.y_label)],
            "scales": [format!("{:?}", self.x_scale), format!("{:?}", self.y_scale)],
            "size": self.size,
            "name": self.name,
            "formats": self.formats,
            "terminal": self.terminal,
        })
    }

    fn resolve(&self, cx: &mut ResolveCx<'_>) -> Option<Resolved> {
        let schema = gather::schema(cx, "from")?;
        let unknown = cx.port("from").iter().all(|i| i.skipped.is_some());
        let number: Expected = ("a number", |t| is_number(t) || *t == DataType::Null);
        let name: Expected =
            ("text, a number or a boolean", |t| is_string(t) || is_number(t) || *t == DataType::Boolean);
        let x = if self.kind == Kind::Bar { name } else { number };
        let mut needed: Vec<(&Spanned<String>, Expected)> = self.x.iter().map(|c| (c, x)).collect();
        needed.extend(self.series.iter().map(|c| (c, name)));
        let ends = self.interval.iter().flat_map(|(low, high)| [low, high]);
        needed.extend(self.y.iter().chain(ends).map(|c| (c, number)));
        let mut sound = true;
        for (column, (expected, accepts)) in needed.into_iter().filter(|_| !unknown) {
            sound &= gather::need_column(cx, &schema, column, expected, accepts);
        }
        if !sound {
            return None;
        }
        let mut resolved =
            Resolved::new(Vec::new(), Estimate { rows: Some(0), tokens: Some(0), ..Estimate::default() });
        resolved.barrier = true;
        resolved.reads_bindings = true;
        let stem = file_stem(self.name.as_deref(), cx.node);
        resolved.files_out = self.formats.iter().map(|f| format!("{stem}.{f}")).collect();
        Some(resolved)
    }

    fn run(&self, cx: &NodeCx) -> Result<(), RunError> {
        let chart = self.chart(&collect(cx)?)?;
        let svg = chart.svg();
        let stem = file_stem(self.name.as_deref(), cx.node());
        for format in &self.formats {
            let bytes = match format.as_str() {
                "svg" => svg.clone().into_bytes(),
                _ => png::render(&svg).map_err(|why| RunError::failed("png", format!("cannot draw the PNG: {why}")))?,
            };
            write_file(cx, &format!("{stem}.{format}"), &bytes)?;
        }
        match terminal::render(&chart).filter(|_| self.terminal) {
            Some(text) => cx.present(&text),
            None => Ok(()),
        }
    }
}

impl Plot {
    fn chart(&self, rows: &arrow::array::RecordBatch) -> Result<Chart, RunError> {
        let (series, marks, notes) = read::marks(self, rows)?;
        Ok(Chart {
            title: self.title.clone(),
            x_label: self.x_label.clone(),
            y_label: self.y_label.clone(),
            x_scale: self.x_scale,
            y_scale: self.y_scale,
            width: self.size.0.map(|w| w as f32),
            height: self.size.1.map(|h| h as f32),
            series,
            marks,
            notes,
        })
    }
}

#[cfg(test)]
mod tests;
