//! Histograms; several series lie over each other.

use super::frame::XAxis;
use super::scale::{Kind, Scale, alike};
use super::style::{Key, SOFT, colour, fill, patterns, stroke};
use super::svg::{Anchor, Text};
use super::{Chart, Frame};

pub fn draw(chart: &Chart, edges: &[f64], counts: &[Vec<u64>]) -> String {
    let width = chart.width.unwrap_or(640.0);
    let most = counts.iter().flatten().copied().max().unwrap_or(0);
    let alone = counts.len() <= 1;
    let y = |range: (f32, f32)| match chart.y_scale {
        Kind::Linear => Scale::new(Kind::Linear, 0.0, most.max(1) as f64, range, 5),
        // A bin with a single row must be seen.
        Kind::Log => Scale::new(Kind::Log, 0.5, most.max(2) as f64, range, 5),
    };
    let (low, high) = (edges.first().copied().unwrap_or(0.0), edges.last().copied().unwrap_or(1.0));
    let low = if chart.x_scale == Kind::Log && low <= 0.0 { 0.1 } else { low };
    let x = |range: (f32, f32)| Scale::new(chart.x_scale, low, high.max(low), range, 8);
    let key = if alone { Key::Area } else { Key::Line };
    let (mut frame, y) = Frame::new(chart, width, key, XAxis::Numbers(&x), &y);
    let x = x((frame.left, frame.right));
    patterns(&mut frame.svg, 1);
    for (series, counts) in counts.iter().enumerate() {
        if alone {
            for (bin, count) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
                let (from, to, tip) = (x.at(edges[bin]), x.at(edges[bin + 1]), y.at(*count as f64));
                frame.svg.rect((from, tip), (to - from, frame.bottom - tip), &fill(0));
            }
            continue;
        }
        let mut steps = vec![(x.at(low), frame.bottom)];
        for (bin, count) in counts.iter().enumerate() {
            let tip = if *count == 0 { frame.bottom } else { y.at(*count as f64) };
            steps.extend([(x.at(edges[bin]), tip), (x.at(edges[bin + 1]), tip)]);
        }
        steps.push((x.at(high), frame.bottom));
        let look = format!("fill=\"{}\" fill-opacity=\"0.15\" {}", colour(series), stroke(series));
        frame.svg.path(&steps, true, &look);
    }
    if most == 0 {
        let middle = ((frame.left + frame.right) / 2.0, (frame.top + frame.bottom) / 2.0);
        frame.svg.text(middle, "no data", Text::new(13.0, SOFT, Anchor::Middle));
    }
    frame.svg.finish()
}

/// Edges of equal bins over all values, equal in the logarithm on a logarithmic axis, and the counts of each series.
/// Without `wanted`, as many as Freedman and Diaconis advise, between 5 and 60. Values that the axis cannot show must
/// be left out before.
pub fn bins(kind: Kind, series: &[Vec<f64>], wanted: Option<usize>) -> (Vec<f64>, Vec<Vec<u64>>) {
    let place = |v: f64| if kind == Kind::Log { v.ln() } else { v };
    let all: Vec<f64> = series.iter().flatten().map(|v| place(*v)).collect();
    let sorted = crate::eval::statistics::sorted(&all);
    let (Some(low), Some(high)) = (sorted.first().copied(), sorted.last().copied()) else {
        return (vec![0.0, 1.0], vec![vec![0]; series.len()]);
    };
    let (low, high) = if alike(low, high) { (low - 0.5, high + 0.5) } else { (low, high) };
    let count = wanted.unwrap_or_else(|| advised(&sorted, high - low)).max(1);
    let edge = |i: usize| low + (high / count as f64 - low / count as f64) * i as f64;
    let mut counts = vec![vec![0; count]; series.len()];
    for (values, counts) in series.iter().zip(&mut counts) {
        for value in values {
            let share = (place(*value) / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
            counts[((share * count as f64) as usize).min(count - 1)] += 1;
        }
    }
    let back = |v: f64| if kind == Kind::Log { v.exp() } else { v };
    ((0..=count).map(|i| back(edge(i))).collect(), counts)
}

/// Freedman and Diaconis: bins of twice the interquartile range over the cube root of the number of values.
fn advised(sorted: &[f64], span: f64) -> usize {
    let quartile = |q| crate::eval::statistics::quantile(sorted, q).unwrap_or(0.0);
    let width = 2.0 * (quartile(0.75) - quartile(0.25)) / (sorted.len() as f64).cbrt();
    if width > 0.0 { (span / width).ceil().clamp(5.0, 60.0) as usize } else { 20 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_counted_once() {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i) / 999.0).collect();
        let (edges, counts) = bins(Kind::Linear, &[values], Some(10));
        assert_eq!((edges[0], edges[10], edges.len()), (0.0, 1.0, 11));
        assert_eq!(counts[0].iter().sum::<u64>(), 1000);
        assert!(counts[0].iter().all(|c| (99..=101).contains(c)), "{counts:?}");
    }

    #[test]
    fn logarithmic_bins_are_equal_in_the_logarithm() {
        let (edges, counts) = bins(Kind::Log, &[vec![1.0, 10.0, 100.0], vec![5.0]], Some(2));
        assert!((edges[1] - 10.0).abs() < 1e-9);
        assert_eq!(counts, [[1, 2], [1, 0]]);
    }

    #[test]
    fn odd_samples_have_bins_too() {
        assert_eq!(bins(Kind::Linear, &[vec![]], None).1, [[0]]);
        let (edges, counts) = bins(Kind::Linear, &[vec![3.0; 5]], None);
        assert_eq!((edges[0], counts[0].iter().sum::<u64>()), (2.5, 5));
        let (edges, counts) = bins(Kind::Linear, &[vec![0.3, 0.1 + 0.2]], Some(5));
        assert_eq!((edges[0], counts[0].iter().sum::<u64>()), (-0.2, 2));
        let (_, counts) = bins(Kind::Linear, &[vec![-1e308, 1e308]], Some(4));
        assert_eq!(counts[0], [1, 0, 0, 1]);
    }
}
