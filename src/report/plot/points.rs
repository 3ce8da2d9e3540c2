//! Scatter and line charts.

use super::bars::whisker;
use super::frame::XAxis;
use super::scale::{Kind, Scale};
use super::style::{Key, SOFT, marker, stroke};
use super::svg::{Anchor, Text};
use super::{Chart, Frame, Point};

/// `key` says whether there are lines, markers or both.
pub fn draw(chart: &Chart, points: &[Vec<Point>], key: Key) -> String {
    let width = chart.width.unwrap_or(640.0);
    let shown: Vec<Vec<Point>> = points
        .iter()
        .map(|s| {
            s.iter().copied().filter(|p| Scale::shows(chart.x_scale, p.x) && Scale::shows(chart.y_scale, p.y)).collect()
        })
        .collect();
    let all = || shown.iter().flatten();
    let (x_low, x_high) = extent(chart.x_scale, all().map(|p| p.x));
    let ends = |p: &Point| [Some(p.y), p.interval.map(|i| i.0), p.interval.map(|i| i.1)];
    let ys = all().flat_map(ends).flatten().filter(|v| Scale::shows(chart.y_scale, *v));
    let (y_low, y_high) = extent(chart.y_scale, ys);
    let x = |range: (f32, f32)| Scale::new(chart.x_scale, x_low, x_high, range, 7);
    let y = |range: (f32, f32)| Scale::new(chart.y_scale, y_low, y_high, range, 6);
    let (mut frame, y) = Frame::new(chart, width, key, XAxis::Numbers(&x), &y);
    let x = x((frame.left, frame.right));
    let count = all().count();
    let size = if count > 2000 {
        3.0
    } else if count > 300 {
        4.5
    } else {
        7.0
    };
    for (series, points) in shown.iter().enumerate() {
        let places: Vec<(f32, f32)> = points.iter().map(|p| (x.at(p.x), y.at(p.y))).collect();
        if key != Key::Marker {
            frame.svg.path(&places, false, &format!("fill=\"none\" {}", stroke(series)));
        }
        for (point, place) in points.iter().zip(places) {
            if let Some((low, high)) = point.interval.filter(|(l, h)| l.is_finite() && h.is_finite()) {
                whisker(&mut frame.svg, place.0, (y.at(low), y.at(high)), 4.0);
            }
            if key != Key::Line {
                marker(&mut frame.svg, place, size, series);
            }
        }
    }
    if count == 0 {
        let middle = ((frame.left + frame.right) / 2.0, (frame.top + frame.bottom) / 2.0);
        frame.svg.text(middle, "no data", Text::new(13.0, SOFT, Anchor::Middle));
    }
    frame.svg.finish()
}

fn extent(kind: Kind, values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    match kind {
        _ if low <= high => (low, high),
        Kind::Log => (1.0, 10.0),
        Kind::Linear => (0.0, 1.0),
    }
}
