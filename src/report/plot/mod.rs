//! Charts: bars, histograms, points and lines, as SVG, PNG and for the terminal.

mod bars;
mod frame;
mod histogram;
pub mod png;
mod points;
pub mod scale;
mod style;
pub mod svg;
pub mod terminal;
mod text;

use frame::Frame;
pub use histogram::bins;
pub use scale::Kind as ScaleKind;

/// A chart, apart from where its numbers come from.
#[derive(Debug, Clone)]
pub struct Chart {
    pub title: Option<String>,
    pub x_label: String,
    pub y_label: String,
    pub x_scale: ScaleKind,
    pub y_scale: ScaleKind,
    /// Of the whole drawing; chosen for what it holds when absent.
    pub width: Option<f32>,
    pub height: Option<f32>,
    /// Names for the legend, one for each series. A single series has none.
    pub series: Vec<String>,
    pub marks: Marks,
    /// Lines below the chart.
    pub notes: Vec<String>,
}

/// What is drawn.
#[derive(Debug, Clone)]
pub enum Marks {
    /// Groups of bars: one group for each category, in it one bar for each series.
    Bars { categories: Vec<String>, bars: Vec<Vec<Bar>> },
    /// Counts between neighbouring edges, for each series.
    Histogram { edges: Vec<f64>, counts: Vec<Vec<u64>> },
    /// Points of each series, joined by a line if asked.
    Points { points: Vec<Vec<Point>>, lines: bool },
    /// A line through the points of each series, which are too many for markers.
    Curves(Vec<Vec<Point>>),
}

/// One bar.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bar {
    /// `None` where there is nothing to show.
    pub value: Option<f64>,
    pub interval: Option<(f64, f64)>,
    /// Stands where the bar would be, in a word.
    pub absent: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub interval: Option<(f64, f64)>,
}

impl Chart {
    /// The chart as an SVG file.
    pub fn svg(&self) -> String {
        match &self.marks {
            Marks::Bars { categories, bars } => bars::draw(self, categories, bars),
            Marks::Histogram { edges, counts } => histogram::draw(self, edges, counts),
            Marks::Points { points, lines: true } => points::draw(self, points, style::Key::LineAndMarker),
            Marks::Points { points, lines: false } => points::draw(self, points, style::Key::Marker),
            Marks::Curves(points) => points::draw(self, points, style::Key::Line),
        }
    }
}

#[cfg(test)]
mod tests;
