//! What surrounds the marks: title, legend, axes, notes. Everything gets its room before the marks get theirs.

use super::Chart;
use super::scale::Scale;
use super::style::{GRID, INK, Key, SOFT, swatch};
use super::svg::{Anchor, Svg, Text};
use super::text::{wrap, wraps_whole};
use crate::report::font::{BOLD, REGULAR};

const MARGIN: f32 = 14.0;
const TITLE: f32 = 15.0;
const LABEL: f32 = 12.0;
const TICK: f32 = 11.0;
const NOTE: f32 = 10.0;
const SWATCH: f32 = 22.0;
/// The marks have at least this height, however much is around them.
const MIN_PLOT: f32 = 220.0;

/// A drawing with everything but its marks, and the place for those.
pub struct Frame {
    pub svg: Svg,
    pub left: f32,
    pub right: f32,
    pub top: f32,
    pub bottom: f32,
}

/// What is along the x axis.
pub enum XAxis<'a> {
    Categories(&'a [String]),
    /// A scale over the width given.
    Numbers(&'a dyn Fn((f32, f32)) -> Scale),
}

/// Layout decided before anything is drawn.
struct Plan {
    title: Vec<String>,
    legend: Vec<Vec<(usize, String, f32)>>,
    notes: Vec<String>,
    left: f32,
    right: f32,
    top: f32,
    bottom: f32,
    height: f32,
    labels: Option<Labels>,
}

/// How category labels stand below the axis.
enum Labels {
    Level(Vec<Vec<String>>),
    /// Turned by degrees; every n-th.
    Turned {
        degrees: f32,
        texts: Vec<String>,
        every: usize,
    },
}

impl Frame {
    /// Draws the frame. `y` makes the y scale for a vertical range, from bottom to top.
    pub fn new(chart: &Chart, width: f32, key: Key, x: XAxis<'_>, y: &dyn Fn((f32, f32)) -> Scale) -> (Self, Scale) {
        // How many ticks there are depends on the height, and the room for their labels on the ticks.
        let draft = Plan::new(chart, width, &[], &x);
        let ticks = y((draft.bottom, draft.top)).labels();
        let plan = Plan::new(chart, width, &ticks, &x);
        let mut frame = Self {
            svg: Svg::new(width, plan.height),
            left: plan.left,
            right: plan.right,
            top: plan.top,
            bottom: plan.bottom,
        };
        frame.heading(&plan, key);
        let y = y((frame.bottom, frame.top));
        frame.y_axis(chart, &y);
        frame.x_axis(chart, &plan, &x);
        frame.notes(&plan);
        (frame, y)
    }

    fn heading(&mut self, plan: &Plan, key: Key) {
        let mut y = MARGIN;
        for line in &plan.title {
            y += TITLE * 1.3;
            self.svg.text((MARGIN, y - 4.0), line, Text::new(TITLE, INK, Anchor::Start).bold());
        }
        for row in &plan.legend {
            y += 20.0;
            for (series, name, x) in row {
                swatch(&mut self.svg, (*x, y - 12.0), key, *series);
                self.svg.text((x + SWATCH + 6.0, y - 2.0), name, Text::new(LABEL, INK, Anchor::Start));
            }
        }
    }

    fn y_axis(&mut self, chart: &Chart, y: &Scale) {
        for (tick, label) in y.ticks.iter().zip(y.labels()) {
            let at = y.at(*tick);
            let zero = *tick == 0.0;
            let look = format!("stroke=\"{}\" stroke-width=\"1\"", if zero { SOFT } else { GRID });
            self.svg.line((self.left, at), (self.right, at), &look);
            self.svg.text((self.left - 6.0, at + TICK * 0.35), &label, Text::new(TICK, INK, Anchor::End));
        }
        let label = REGULAR.fit(&chart.y_label, LABEL, self.bottom - self.top + 20.0);
        let middle = (self.top + self.bottom) / 2.0;
        let look = Text::new(LABEL, INK, Anchor::Middle).rotated(-90.0);
        self.svg.text((MARGIN + LABEL * 0.8, middle), &label, look);
    }

    fn x_axis(&mut self, chart: &Chart, plan: &Plan, x: &XAxis<'_>) {
        let look = format!("stroke=\"{INK}\" stroke-width=\"1\"");
        match (x, &plan.labels) {
            (XAxis::Numbers(scale), _) => {
                self.svg.line((self.left, self.bottom), (self.right, self.bottom), &look);
                let scale = scale((self.left, self.right));
                for (tick, label) in scale.ticks.iter().zip(scale.labels()) {
                    let at = scale.at(*tick);
                    self.svg.line((at, self.bottom), (at, self.bottom + 4.0), &look);
                    self.svg.text((at, self.bottom + 5.0 + TICK), &label, Text::new(TICK, INK, Anchor::Middle));
                }
            }
            (XAxis::Categories(all), Some(labels)) => self.categories(all.len(), labels),
            (XAxis::Categories(_), None) => {}
        }
        let below =
            plan.height - MARGIN - plan.notes.len() as f32 * NOTE * 1.4 - if plan.notes.is_empty() { 0.0 } else { 6.0 };
        let label = REGULAR.fit(&chart.x_label, LABEL, self.right - self.left);
        self.svg.text(((self.left + self.right) / 2.0, below - 3.0), &label, Text::new(LABEL, INK, Anchor::Middle));
    }

    fn categories(&mut self, count: usize, labels: &Labels) {
        let band = (self.right - self.left) / count.max(1) as f32;
        let middle = |i: usize| self.left + (i as f32 + 0.5) * band;
        match labels {
            Labels::Level(texts) => {
                for (i, lines) in texts.iter().enumerate() {
                    for (line, text) in lines.iter().enumerate() {
                        let y = self.bottom + 5.0 + TICK * (1.0 + 1.15 * line as f32);
                        self.svg.text((middle(i), y), text, Text::new(TICK, INK, Anchor::Middle));
                    }
                }
            }
            Labels::Turned { degrees, texts, every } => {
                for (i, text) in texts.iter().enumerate().step_by(*every) {
                    // The text's middle line, not its base, points at the group.
                    let shift = if *degrees == -90.0 { TICK * 0.35 } else { TICK * 0.5 };
                    let place =
                        (middle(i) + shift, self.bottom + 8.0 + if *degrees == -90.0 { 0.0 } else { TICK * 0.4 });
                    self.svg.text(place, text, Text::new(TICK, INK, Anchor::End).rotated(*degrees));
                }
            }
        }
    }

    fn notes(&mut self, plan: &Plan) {
        let lines = plan.notes.len() as f32;
        for (i, note) in plan.notes.iter().enumerate() {
            let y = plan.height - MARGIN - (lines - 1.0 - i as f32) * NOTE * 1.4;
            self.svg.text((MARGIN, y), note, Text::new(NOTE, SOFT, Anchor::Start));
        }
    }
}

impl Plan {
    fn new(chart: &Chart, width: f32, y_ticks: &[String], x: &XAxis<'_>) -> Self {
        let inner = width - 2.0 * MARGIN;
        let title = chart.title.as_deref().map_or_else(Vec::new, |t| wrap(&BOLD, t, TITLE, inner, 3));
        let legend = legend(&chart.series, inner);
        let notes: Vec<String> = chart.notes.iter().flat_map(|n| wrap(&REGULAR, n, NOTE, inner, 3)).collect();
        let tick_width = y_ticks.iter().map(|t| REGULAR.width(t, TICK)).fold(0.0, f32::max);
        let y_label = if chart.y_label.is_empty() { 0.0 } else { LABEL * 1.6 };
        let left = MARGIN + y_label + tick_width + 8.0;
        // The last number of an axis stands half beyond its end.
        let right = width - if matches!(x, XAxis::Numbers(_)) { 2.0 * MARGIN } else { MARGIN };
        let (labels, label_height) = match x {
            XAxis::Categories(all) => {
                let (labels, height) = category_labels(all, (right - left) / all.len().max(1) as f32);
                (Some(labels), height)
            }
            XAxis::Numbers(_) => (None, TICK * 1.3 + 4.0),
        };
        let top = MARGIN + title.len() as f32 * TITLE * 1.3 + legend.len() as f32 * 20.0 + 10.0;
        let x_label = if chart.x_label.is_empty() { 0.0 } else { LABEL * 1.6 };
        let note_height = if notes.is_empty() { 0.0 } else { notes.len() as f32 * NOTE * 1.4 + 6.0 };
        let below = 8.0 + label_height + x_label + note_height + MARGIN;
        let height = chart.height.unwrap_or(420.0).max(top + MIN_PLOT + below);
        Self { title, legend, notes, left, right, top, bottom: height - below, height, labels }
    }
}

/// Rows of (series, name, place) that fit the width.
fn legend(series: &[String], width: f32) -> Vec<Vec<(usize, String, f32)>> {
    let mut rows: Vec<Vec<(usize, String, f32)>> = Vec::new();
    let mut x = f32::INFINITY;
    for (i, name) in series.iter().enumerate() {
        let name = REGULAR.fit(name, LABEL, (width - SWATCH - 6.0).min(480.0));
        let need = SWATCH + 6.0 + REGULAR.width(&name, LABEL);
        if x + need > MARGIN + width {
            rows.push(Vec::new());
            x = MARGIN;
        }
        if let Some(row) = rows.last_mut() {
            row.push((i, name, x));
        }
        x += need + 18.0;
    }
    rows
}

/// Labels for groups that are `band` wide, and the height that they need.
fn category_labels(all: &[String], band: f32) -> (Labels, f32) {
    const LINES: usize = 3;
    let room = band - 6.0;
    if all.iter().all(|c| wraps_whole(&REGULAR, c, TICK, room, LINES)) {
        let texts: Vec<Vec<String>> = all.iter().map(|c| wrap(&REGULAR, c, TICK, room, LINES)).collect();
        let lines = texts.iter().map(Vec::len).max().unwrap_or(1);
        return (Labels::Level(texts), TICK * 1.15 * lines as f32 + 4.0);
    }
    let texts: Vec<String> = all.iter().map(|c| REGULAR.fit(c, TICK, 150.0)).collect();
    let longest = texts.iter().map(|t| REGULAR.width(t, TICK)).fold(0.0, f32::max);
    if band >= TICK * 1.6 {
        let height = (longest + TICK) * std::f32::consts::FRAC_1_SQRT_2 + 8.0;
        return (Labels::Turned { degrees: -45.0, texts, every: 1 }, height);
    }
    let every = (TICK * 1.2 / band.max(0.1)).ceil().max(1.0) as usize;
    (Labels::Turned { degrees: -90.0, texts, every }, longest + 10.0)
}
