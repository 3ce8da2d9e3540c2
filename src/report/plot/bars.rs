//! Grouped bars with intervals.

use super::frame::XAxis;
use super::scale::{Kind, Scale};
use super::style::{INK, Key, SOFT, fill, patterns};
use super::svg::{Anchor, Svg, Text};
use super::{Bar, Chart, Frame};
use crate::report::font::REGULAR;
use crate::report::grid::number;

const VALUE: f32 = 10.0;

pub fn draw(chart: &Chart, categories: &[String], bars: &[Vec<Bar>]) -> String {
    let series = bars.len().max(1);
    let groups = categories.len().max(1);
    let width = chart.width.unwrap_or((110.0 + groups as f32 * (series as f32 * 26.0 + 22.0)).clamp(480.0, 1400.0));
    let values = value_layout(bars, width - 80.0, groups, series);
    let y = |range| scale(chart.y_scale, bars, values, range);
    let (mut frame, y) = Frame::new(chart, width, Key::Area, XAxis::Categories(categories), &y);
    patterns(&mut frame.svg, series);
    let band = (frame.right - frame.left) / groups as f32;
    let thick = bar_width(band, series);
    let base = y.at(if y.kind == Kind::Log { y.domain.0 } else { 0.0 });
    for (group, _) in categories.iter().enumerate() {
        let start = frame.left + group as f32 * band + (band - thick * series as f32) / 2.0;
        for (at, bar) in bars.iter().enumerate().filter_map(|(at, s)| Some((at, s.get(group)?))) {
            let place = Place { x: start + at as f32 * thick, thick, base, values };
            one(&mut frame.svg, bar, at, &place, &y);
        }
    }
    frame.svg.line((frame.left, base), (frame.right, base), &format!("stroke=\"{INK}\" stroke-width=\"1\""));
    if categories.is_empty() {
        let middle = ((frame.left + frame.right) / 2.0, (frame.top + frame.bottom) / 2.0);
        frame.svg.text(middle, "no data", Text::new(13.0, SOFT, Anchor::Middle));
    }
    frame.svg.finish()
}

/// The y scale, with room for the values above (below, if negative) the bars that reach to the ends.
fn scale(kind: Kind, bars: &[Vec<Bar>], values: Values, (bottom, top): (f32, f32)) -> Scale {
    let (low, high) = extent(kind, bars);
    let ticks = (((bottom - top) / 45.0) as usize).max(4);
    let tight = Scale::new(kind, low, high, (bottom, top), ticks);
    let (mut above, mut below) = (0.0_f32, 0.0_f32);
    for bar in bars.iter().flatten() {
        let Some(value) = bar.value.filter(|v| Scale::shows(kind, *v)) else { continue };
        let (reach, room) = (reach(bar, value, &tight), values.room(value));
        if value < 0.0 {
            below = below.max(reach + room - bottom);
        } else {
            above = above.max(top - (reach - room));
        }
    }
    if bottom - top < above + below + 50.0 { tight } else { Scale { range: (bottom - below, top + above), ..tight } }
}

/// Where a bar and its interval end.
fn reach(bar: &Bar, value: f64, y: &Scale) -> f32 {
    let ends = bar.interval.filter(|(l, h)| l.is_finite() && h.is_finite());
    match (value < 0.0, ends) {
        (true, Some((low, _))) => y.at(value).max(y.at(low)),
        (false, Some((_, high))) => y.at(value).min(y.at(high)),
        (_, None) => y.at(value),
    }
}

struct Place {
    x: f32,
    thick: f32,
    base: f32,
    values: Values,
}

/// How the values stand above their bars.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Level,
    Turned,
    None,
}

impl Values {
    /// What a value takes up beyond its bar.
    fn room(self, value: f64) -> f32 {
        match self {
            Values::None => 2.0,
            Values::Level => VALUE + 5.0,
            Values::Turned => REGULAR.width(&brief(value), VALUE) + 6.0,
        }
    }
}

/// A number with three significant digits.
fn brief(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() || value == 0.0 {
        return number(value);
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let digits = if value.fract() == 0.0 { 0 } else { (2 - size.log10().floor() as i32).max(0) as usize };
    format!("{value:.digits$}")
}

fn bar_width(band: f32, series: usize) -> f32 {
    (band * 0.82 / series as f32).min(60.0)
}

fn value_layout(bars: &[Vec<Bar>], width: f32, groups: usize, series: usize) -> Values {
    let thick = bar_width(width / groups as f32, series);
    let widest = bars.iter().flatten().filter_map(|b| b.value).map(|v| REGULAR.width(&brief(v), VALUE));
    match widest.fold(0.0, f32::max) {
        widest if widest + 3.0 <= thick => Values::Level,
        _ if thick >= VALUE + 1.0 => Values::Turned,
        _ => Values::None,
    }
}

/// The lowest and highest number that the axis must show.
fn extent(kind: Kind, bars: &[Vec<Bar>]) -> (f64, f64) {
    let ends = |b: &Bar| [b.value, b.interval.map(|i| i.0), b.interval.map(|i| i.1)];
    let shown = bars.iter().flatten().filter(|b| b.value.is_some()).flat_map(ends).flatten();
    let shown = shown.filter(|v| Scale::shows(kind, *v));
    let (low, high) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    match kind {
        _ if low > high && kind == Kind::Log => (1.0, 10.0),
        _ if low > high => (0.0, 1.0),
        Kind::Linear => (low.min(0.0), high.max(0.0)),
        Kind::Log => (below_lowest(low, high), high),
    }
}

/// Where a logarithmic axis starts so that the lowest bar has a height.
pub fn below_lowest(low: f64, high: f64) -> f64 {
    (low.ln() - (0.08 * (high.ln() - low.ln())).max(0.26)).exp().max(f64::MIN_POSITIVE)
}

fn one(svg: &mut Svg, bar: &Bar, series: usize, place: &Place, y: &Scale) {
    let middle = place.x + place.thick / 2.0;
    let shown = bar.value.filter(|v| Scale::shows(y.kind, *v));
    let Some(value) = shown else {
        let word = bar.absent.clone().or_else(|| bar.value.map(brief)).unwrap_or_default();
        let turned = REGULAR.width(&word, VALUE) > place.thick;
        let look = match turned {
            true => Text::new(VALUE, SOFT, Anchor::Start).rotated(-90.0),
            false => Text::new(VALUE, SOFT, Anchor::Middle),
        };
        let shift = if turned { VALUE * 0.35 } else { 0.0 };
        return svg.text((middle + shift, place.base - 5.0), &word, look);
    };
    let tip = y.at(value);
    let inset = if place.thick > 6.0 { 1.0 } else { 0.0 };
    let size = (place.thick - 2.0 * inset, (place.base - tip).abs());
    svg.rect((place.x + inset, tip.min(place.base)), size, &fill(series));
    if let Some((low, high)) = bar.interval.filter(|(l, h)| l.is_finite() && h.is_finite()) {
        whisker(svg, middle, (y.at(low), y.at(high)), (place.thick * 0.3).min(7.0));
    }
    label(svg, value, (middle, reach(bar, value, y)), place.values);
}

/// An interval: white below the ink, to be seen on every colour.
pub fn whisker(svg: &mut Svg, x: f32, (low, high): (f32, f32), cap: f32) {
    for look in
        ["stroke=\"#ffffff\" stroke-width=\"3\" stroke-opacity=\"0.8\"", "stroke=\"#222222\" stroke-width=\"1.2\""]
    {
        svg.line((x, low), (x, high), look);
        svg.line((x - cap, low), (x + cap, low), look);
        svg.line((x - cap, high), (x + cap, high), look);
    }
}

fn label(svg: &mut Svg, value: f64, (x, reach): (f32, f32), values: Values) {
    let below = value < 0.0;
    let text = brief(value);
    match values {
        Values::None => {}
        Values::Level => {
            let y = if below { reach + VALUE + 2.0 } else { reach - 4.0 };
            svg.text((x, y), &text, Text::new(VALUE, INK, Anchor::Middle));
        }
        Values::Turned => {
            let (y, anchor) = if below { (reach + 4.0, Anchor::End) } else { (reach - 4.0, Anchor::Start) };
            svg.text((x + VALUE * 0.35, y), &text, Text::new(VALUE, INK, anchor).rotated(-90.0));
        }
    }
}
