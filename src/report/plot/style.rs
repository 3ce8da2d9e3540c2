//! Colours that colour-blind readers can tell apart (Okabe and Ito), and patterns, dashes and markers for readers who
//! see no colour at all.

use super::svg::{Svg, num};

pub const INK: &str = "#222222";
pub const SOFT: &str = "#666666";
pub const GRID: &str = "#e4e4e4";

const COLOURS: [&str; 8] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999"];
const DASHES: [&str; 6] = ["", "7 3", "2 2.5", "9 3 2 3", "12 4", "5 2 1 2 1 2"];

pub fn colour(series: usize) -> &'static str {
    COLOURS[series % COLOURS.len()]
}

/// Attributes of a line.
pub fn stroke(series: usize) -> String {
    let dash = DASHES[series % DASHES.len()];
    let dashes = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
    format!("stroke=\"{}\" stroke-width=\"1.8\" stroke-linejoin=\"round\"{dashes}", colour(series))
}

/// Attributes of an area, which need [`patterns`].
pub fn fill(series: usize) -> String {
    format!("fill=\"url(#s{series})\" stroke=\"{INK}\" stroke-width=\"0.6\"")
}

/// The patterns of `count` series: a colour each, hatched in a way of its own from the second on.
pub fn patterns(svg: &mut Svg, count: usize) {
    let mut markup = String::from("<defs>\n");
    for series in 0..count {
        let hatch = HATCHES[(series + series / COLOURS.len()) % HATCHES.len()];
        let colour = colour(series);
        let lines = match hatch {
            "" => String::new(),
            d => format!(
                "<path d=\"{d}\" fill=\"none\" stroke=\"#ffffff\" stroke-opacity=\"0.75\" stroke-width=\"1.3\"/>"
            ),
        };
        markup.push_str(&format!(
            "<pattern id=\"s{series}\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\">\
             <rect width=\"8\" height=\"8\" fill=\"{colour}\"/>{lines}</pattern>\n"
        ));
    }
    markup.push_str("</defs>\n");
    svg.raw(&markup);
}

/// Lines inside a tile of 8 by 8; a diagonal runs over the corners so that tiles join.
const HATCHES: [&str; 8] = [
    "",
    "M-1 9L9 -1M-1 1L1 -1M7 9L9 7",
    "M0 4L8 4",
    "M-1 -1L9 9M7 -1L9 1M-1 7L1 9",
    "M4 0L4 8",
    "M3 4L5 4M7 0L8 0M0 0L1 0M7 8L8 8M0 8L1 8",
    "M0 4L8 4M4 0L4 8",
    "M-1 9L9 -1M-1 -1L9 9",
];

/// A marker of the series' shape.
pub fn marker(svg: &mut Svg, (x, y): (f32, f32), size: f32, series: usize) {
    let r = size / 2.0;
    let look = format!("fill=\"{}\" fill-opacity=\"0.75\" stroke=\"{INK}\" stroke-width=\"0.5\"", colour(series));
    let mut polygon = |points: &[(f32, f32)]| {
        let points: Vec<(f32, f32)> = points.iter().map(|(dx, dy)| (x + dx * r, y + dy * r)).collect();
        svg.path(&points, true, &look);
    };
    match series % 6 {
        0 => svg.circle((x, y), r, &look),
        1 => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        2 => polygon(&[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)]),
        3 => polygon(&[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)]),
        4 => polygon(&[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)]),
        _ => {
            let d = num(r);
            let (x, y) = (num(x), num(y));
            svg.raw(&format!(
                "<path d=\"M{x} {y}m-{d} -{d}l{w} {w}m0 -{w}l-{w} {w}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n",
                colour(series),
                w = num(size)
            ));
        }
    }
}

/// How a series looks in the legend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Area,
    Line,
    Marker,
    LineAndMarker,
}

/// The swatch of a series, 22 wide and 12 high, from its top left.
pub fn swatch(svg: &mut Svg, (x, y): (f32, f32), key: Key, series: usize) {
    if key == Key::Area {
        return svg.rect((x, y), (22.0, 12.0), &fill(series));
    }
    if key != Key::Marker {
        svg.line((x, y + 6.0), (x + 22.0, y + 6.0), &stroke(series));
    }
    if key != Key::Line {
        marker(svg, (x + 11.0, y + 6.0), 7.0, series);
    }
}
