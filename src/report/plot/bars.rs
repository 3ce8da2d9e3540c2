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
    let (low, high) = extent(chart.y_scale, bars);
    // Room above the highest bar for its value.
    let headroom = if labels_fit(bars, width, groups, series) == Values::None { 6.0 } else { 34.0 };
    let y = |(bottom, top): (f32, f32)| {
        let ticks = ((bottom - top).abs() / 55.0) as usize;
        Scale::new(
            chart.y_scale,
            low,
            high,
            (bottom, if bottom > top + 100.0 { top + headroom } else { top }),
            ticks.max(4),
        )
    };
    let (mut frame, y) = Frame::new(chart, width, Key::Area, XAxis::Categories(categories), &y);
    patterns(&mut frame.svg, series);
    let band = (frame.right - frame.left) / groups as f32;
    let thick = bar_width(band, series);
    let values = labels_fit(bars, frame.right - frame.left, groups, series);
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

fn bar_width(band: f32, series: usize) -> f32 {
    (band * 0.82 / series as f32).min(60.0)
}

fn labels_fit(bars: &[Vec<Bar>], width: f32, groups: usize, series: usize) -> Values {
    let thick = bar_width(width / groups as f32, series);
    let widest = bars.iter().flatten().filter_map(|b| b.value).map(|v| REGULAR.width(&number(v), VALUE));
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
        // The lowest bar must have a height.
        Kind::Log => (low / (high / low).powf(0.08).max(1.3), high),
    }
}

fn one(svg: &mut Svg, bar: &Bar, series: usize, place: &Place, y: &Scale) {
    let middle = place.x + place.thick / 2.0;
    let shown = bar.value.filter(|v| Scale::shows(y.kind, *v));
    let Some(value) = shown else {
        let word = bar.absent.clone().or_else(|| bar.value.map(number)).unwrap_or_default();
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
    let mut reach = tip;
    if let Some((low, high)) = bar.interval.filter(|(l, h)| l.is_finite() && h.is_finite()) {
        let (low, high) = (y.at(low), y.at(high));
        whisker(svg, middle, (low, high), (place.thick * 0.3).min(7.0));
        reach = if value < 0.0 { tip.max(low) } else { tip.min(high) };
    }
    label(svg, value, (middle, reach), place.values);
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
    let text = number(value);
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
