//! Bars for the terminal.

use super::scale::Kind;
use super::{Bar, Chart, Marks};
use crate::report::grid::{Format, numbers};
use crate::report::terminal::{WIDTH, plain};
use textwrap::core::display_width;

/// Lines that a histogram may take.
const MAX_LINES: usize = 40;

/// A line of the chart.
struct Row {
    labels: Vec<String>,
    value: Option<f64>,
    text: String,
}

/// The chart as text; `None` for kinds that have no sense in lines of text.
pub fn render(chart: &Chart) -> Option<String> {
    let (rows, kind) = match &chart.marks {
        Marks::Bars { categories, bars } => (bar_rows(categories, &chart.series, bars), chart.y_scale),
        Marks::Histogram { edges, counts } => (bin_rows(edges, &chart.series, counts), chart.y_scale),
        Marks::Points { .. } | Marks::Curves(_) => return None,
    };
    let mut out = String::new();
    for heading in chart.title.iter().chain([&heading(chart)]).filter(|h| !h.is_empty()) {
        out.push_str(&textwrap::fill(&plain(heading), WIDTH));
        out.push('\n');
    }
    out.push('\n');
    if rows.is_empty() {
        out.push_str("no data\n");
    }
    draw(&rows, kind, &mut out);
    if !chart.notes.is_empty() {
        out.push('\n');
    }
    for note in &chart.notes {
        out.push_str(&textwrap::fill(&plain(note), WIDTH));
        out.push('\n');
    }
    Some(out)
}

fn heading(chart: &Chart) -> String {
    let (x, y) = (&chart.x_label, &chart.y_label);
    let scale = if chart.y_scale == Kind::Log { " (logarithmic)" } else { "" };
    match (x.is_empty(), y.is_empty()) {
        (true, true) => String::new(),
        (true, false) => format!("{y}{scale}"),
        (false, true) => format!("by {x}"),
        (false, false) => format!("{y}{scale} by {x}"),
    }
}

fn bar_rows(categories: &[String], series: &[String], bars: &[Vec<Bar>]) -> Vec<Row> {
    let values: Vec<Option<f64>> =
        bars.iter().flatten().flat_map(|b| [b.value, b.interval.map(|i| i.0), b.interval.map(|i| i.1)]).collect();
    let texts = numbers(&values, Format::default());
    let mut rows = Vec::new();
    for (group, category) in categories.iter().enumerate() {
        for (at, of_series) in bars.iter().enumerate() {
            let Some(bar) = of_series.get(group) else { continue };
            let before: usize = bars[..at].iter().map(Vec::len).sum();
            let text = |i: usize| texts[(before + group) * 3 + i].clone();
            let shown = match (text(0), text(1), text(2)) {
                (Some(value), Some(low), Some(high)) => format!("{value} [{low}, {high}]"),
                (Some(value), _, _) => value,
                _ => bar.absent.clone().unwrap_or_else(|| "–".into()),
            };
            let mut labels = vec![if at == 0 { category.clone() } else { String::new() }];
            labels.extend(series.get(at).cloned());
            rows.push(Row { labels, value: bar.value, text: shown });
        }
    }
    rows
}

/// Neighbouring bins come together where there would be too many lines.
fn bin_rows(edges: &[f64], series: &[String], counts: &[Vec<u64>]) -> Vec<Row> {
    let bins = edges.len().saturating_sub(1);
    let step = (bins * counts.len()).div_ceil(MAX_LINES).max(1);
    let kept: Vec<usize> = (0..bins).step_by(step).chain([bins]).collect();
    let ends: Vec<Option<f64>> = kept.iter().map(|e| edges.get(*e).copied()).collect();
    let texts: Vec<String> = numbers(&ends, Format::default()).into_iter().flatten().collect();
    let mut rows = Vec::new();
    for (bin, range) in kept.windows(2).enumerate() {
        for (at, counts) in counts.iter().enumerate() {
            let label = format!("{} – {}", texts[bin], texts[bin + 1]);
            let mut labels = vec![if at == 0 { label } else { String::new() }];
            labels.extend(series.get(at).cloned());
            let count: u64 = counts[range[0]..range[1]].iter().sum();
            rows.push(Row { labels, value: Some(count as f64), text: count.to_string() });
        }
    }
    rows
}

fn draw(rows: &[Row], kind: Kind, out: &mut String) {
    let columns = rows.iter().map(|r| r.labels.len()).max().unwrap_or(0);
    let fitted: Vec<Vec<String>> = rows.iter().map(|r| r.labels.iter().map(|l| cut(&plain(l), 28)).collect()).collect();
    let widths: Vec<usize> = (0..columns)
        .map(|c| fitted.iter().filter_map(|l| l.get(c)).map(|l| display_width(l)).max().unwrap_or(0))
        .collect();
    let text = rows.iter().map(|r| display_width(&r.text)).max().unwrap_or(0);
    let taken: usize = widths.iter().map(|w| w + 2).sum::<usize>() + text + 1;
    let room = WIDTH.saturating_sub(taken).max(10);
    let lengths = Lengths::of(rows, kind, room);
    let grouped = columns > 1 && rows.iter().any(|r| r.labels[0].is_empty());
    for (i, (row, labels)) in rows.iter().zip(&fitted).enumerate() {
        if grouped && i > 0 && !labels[0].is_empty() {
            out.push('\n');
        }
        let mut line = String::new();
        for (label, width) in labels.iter().zip(&widths) {
            line.push_str(label);
            line.push_str(&" ".repeat(width - display_width(label) + 2));
        }
        line.push_str(&lengths.bar(row.value));
        line.push_str(&row.text);
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

fn cut(text: &str, width: usize) -> String {
    if display_width(text) <= width {
        return text.to_string();
    }
    let mut kept = String::new();
    for c in text.chars() {
        if display_width(&kept) + display_width(c.encode_utf8(&mut [0; 4])) + 1 > width {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

/// How numbers become lengths.
struct Lengths {
    kind: Kind,
    /// Cells left and right of zero.
    left: usize,
    right: usize,
    low: f64,
    high: f64,
}

impl Lengths {
    fn of(rows: &[Row], kind: Kind, room: usize) -> Self {
        let shown =
            || rows.iter().filter_map(|r| r.value).filter(|v| super::scale::Scale::shows(kind, *v) && *v != 0.0);
        let (min, max) = shown().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if kind == Kind::Log {
            let low = super::bars::below_lowest(min, max);
            return Self { kind, left: 0, right: room, low: low.ln(), high: max.ln() };
        }
        let (low, high) = (min.min(0.0), max.max(0.0));
        let span = high - low;
        let left = if low < 0.0 && span > 0.0 { ((room as f64) * (-low / span)).round() as usize } else { 0 };
        Self { kind, left, right: room - left, low, high }
    }

    /// The bar, with a blank after it.
    fn bar(&self, value: Option<f64>) -> String {
        let blank = " ".repeat(self.left);
        let Some(value) = value.filter(|v| super::scale::Scale::shows(self.kind, *v)) else { return blank };
        let bar = match self.kind {
            Kind::Log => blocks((value.ln() - self.low) / (self.high - self.low), self.right),
            Kind::Linear if value < 0.0 => {
                let cells = ((value / self.low) * self.left as f64).round() as usize;
                return format!("{}{} ", " ".repeat(self.left.saturating_sub(cells)), "█".repeat(cells));
            }
            Kind::Linear if self.high > 0.0 => blocks(value / self.high, self.right),
            Kind::Linear => String::new(),
        };
        let gap = if bar.is_empty() { "" } else { " " };
        format!("{blank}{bar}{gap}")
    }
}

/// A bar of a share of `cells`, in eighths; never nothing for a share above zero.
fn blocks(share: f64, cells: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * cells as f64 * 8.0).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { eighths };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}
