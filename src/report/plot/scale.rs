//! Numbers to places on an axis, with ticks at round numbers.

/// Linear or logarithmic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Linear,
    Log,
}

/// A range of numbers laid over a range of places.
#[derive(Debug, Clone)]
pub struct Scale {
    pub kind: Kind,
    /// The numbers at both ends; the first is the lower.
    pub domain: (f64, f64),
    /// The places of both ends.
    pub range: (f32, f32),
    pub ticks: Vec<f64>,
}

impl Scale {
    /// A scale around `low` and `high`, widened to round numbers. Numbers that an axis cannot show (not finite, not
    /// positive on a logarithmic axis) must be left out before.
    pub fn new(kind: Kind, low: f64, high: f64, range: (f32, f32), wanted_ticks: usize) -> Self {
        let wanted = wanted_ticks.max(2);
        let (domain, ticks) = match kind {
            Kind::Linear => linear(low, high, wanted),
            Kind::Log => logarithmic(low, high, wanted),
        };
        Self { kind, domain, range, ticks }
    }

    /// The place of a number. Numbers outside the domain come to its ends.
    pub fn at(&self, value: f64) -> f32 {
        let (low, high) = self.domain;
        let share = match self.kind {
            Kind::Linear => (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0),
            Kind::Log => (value.max(f64::MIN_POSITIVE).ln() - low.ln()) / (high.ln() - low.ln()),
        };
        self.range.0 + share.clamp(0.0, 1.0) as f32 * (self.range.1 - self.range.0)
    }

    /// Whether the axis can show a number.
    pub fn shows(kind: Kind, value: f64) -> bool {
        value.is_finite() && (kind == Kind::Linear || value > 0.0)
    }

    /// The ticks as text, all with the same decimals.
    pub fn labels(&self) -> Vec<String> {
        match self.kind {
            Kind::Linear => linear_labels(&self.ticks),
            Kind::Log => self.ticks.iter().map(|t| short(*t)).collect(),
        }
    }
}

/// Steps of 1, 2, 2.5 or 5 times a power of ten.
fn linear(low: f64, high: f64, wanted: usize) -> ((f64, f64), Vec<f64>) {
    let (low, high) = if alike(low, high) { around(low) } else { (low, high) };
    let step = round_step((high / wanted as f64) - (low / wanted as f64));
    let (first, last) = ((low / step).floor(), (high / step).ceil());
    let count = (last - first).clamp(1.0, 1000.0) as usize;
    let ticks: Vec<f64> = (0..=count).map(|i| (first + i as f64) * step).map(clean).collect();
    ((ticks[0], ticks[ticks.len() - 1]), ticks)
}

/// Whether two numbers differ by rounding at most: steps between them would be lost in their last digits.
pub fn alike(low: f64, high: f64) -> bool {
    high - low <= 1e-10 * low.abs().max(high.abs())
}

/// A range around one number.
fn around(value: f64) -> (f64, f64) {
    match value {
        0.0 => (0.0, 1.0),
        v => (v - v.abs() / 2.0, v + v.abs() / 2.0),
    }
}

fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.max(f64::MIN_POSITIVE * 1e10).log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0].into_iter().find(|f| f * power >= step * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * power
}

/// Without the noise of the last digits: 0.30000000000000004 is 0.3.
fn clean(value: f64) -> f64 {
    format!("{value:.12e}").parse::<f64>().map_or(value, |v| if v == 0.0 { 0.0 } else { v })
}

/// Powers of ten; between them 2 and 5 where there are few.
fn logarithmic(low: f64, high: f64, wanted: usize) -> ((f64, f64), Vec<f64>) {
    // Round numbers below and above must be floats too.
    let (low, high) = (low.clamp(1e-306, 1e306), high.clamp(1e-306, 1e306));
    let steps = |factors: &'static [f64]| {
        let (first, last) = (low.log10().floor() as i32 - 1, high.log10().ceil() as i32 + 1);
        (first..=last).flat_map(move |e| factors.iter().map(move |f| clean(f * 10f64.powi(e))))
    };
    for factors in [&[1.0, 1.5, 2.0, 3.0, 5.0, 7.0][..], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]] {
        let all: Vec<f64> = steps(factors).filter(|t| *t > 0.0 && t.is_finite()).collect();
        let first = all.iter().rposition(|t| *t <= low * (1.0 + 1e-9)).unwrap_or(0);
        let last = all.iter().position(|t| *t >= high * (1.0 - 1e-9)).unwrap_or(all.len() - 1);
        let last = last.max(first + 1).min(all.len() - 1);
        let ticks = &all[first..=last];
        if ticks.len() <= wanted + 1 || factors.len() == 1 {
            // Of many decades every n-th is enough.
            let every = ticks.len().div_ceil(wanted + 2).max(1);
            let kept = ticks.iter().copied().step_by(every).collect();
            return ((ticks[0], ticks[ticks.len() - 1]), kept);
        }
    }
    unreachable!("the last choice of factors is always taken")
}

fn linear_labels(ticks: &[f64]) -> Vec<String> {
    let largest = ticks.iter().fold(0.0_f64, |m, t| m.max(t.abs()));
    if largest >= 1e7 || (largest > 0.0 && largest < 1e-3) {
        return ticks.iter().map(|t| short(*t)).collect();
    }
    let digits = ticks.iter().map(|t| decimals(*t)).max().unwrap_or(0);
    ticks.iter().map(|t| format!("{t:.digits$}")).collect()
}

/// How many decimals a round number has.
fn decimals(value: f64) -> usize {
    format!("{value}").split_once('.').map_or(0, |(_, d)| d.len()).min(8)
}

/// A round number as briefly as it goes: `0.002`, `50`, `1e9`, `2.5e-7`.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-3..1e6).contains(&size) {
        return format!("{value}");
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if digits.len() > 6 => format!("{:.3}e{exponent}", digits.parse().unwrap_or(value)),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticks(kind: Kind, low: f64, high: f64) -> Vec<String> {
        Scale::new(kind, low, high, (0.0, 1.0), 6).labels()
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(ticks(Kind::Linear, 0.0, 51.3), ["0", "10", "20", "30", "40", "50", "60"]);
        assert_eq!(ticks(Kind::Linear, 0.0, 0.83), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(Kind::Linear, -3.0, 2.0), ["-3", "-2", "-1", "0", "1", "2"]);
        assert_eq!(ticks(Kind::Linear, 0.0, 0.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(Kind::Linear, 0.0, 3e9).last().unwrap(), "3e9");
    }

    #[test]
    fn logarithmic_ticks_are_round() {
        assert_eq!(ticks(Kind::Log, 2.27, 51.3), ["2", "5", "10", "20", "50", "100"]);
        assert_eq!(ticks(Kind::Log, 1.0, 1e4), ["1", "10", "100", "1000", "10000"]);
        assert_eq!(ticks(Kind::Log, 1e-12, 1e12).len(), 7);
    }

    #[test]
    fn numbers_that_differ_by_rounding_have_an_axis() {
        for (low, high) in [(0.3, 0.1 + 0.2), (1e6, 1e6 + 1e-9), (-0.30000000000000004, -0.3), (0.0, 0.0)] {
            let scale = Scale::new(Kind::Linear, low, high, (0.0, 100.0), 6);
            assert!(scale.domain.0 < scale.domain.1, "{low} to {high}: {scale:?}");
            assert!([low, high].iter().all(|v| scale.at(*v).is_finite()), "{low} to {high}: {scale:?}");
        }
    }

    #[test]
    fn places_are_where_they_belong() {
        let scale = Scale::new(Kind::Linear, 0.0, 10.0, (100.0, 0.0), 5);
        assert_eq!((scale.at(0.0), scale.at(5.0), scale.at(10.0)), (100.0, 50.0, 0.0));
        let scale = Scale::new(Kind::Log, 1.0, 100.0, (0.0, 10.0), 3);
        assert!((scale.at(10.0) - 5.0).abs() < 1e-5);
    }

    proptest! {
        #[test]
        fn every_range_gets_a_sound_axis(a in any::<f64>(), b in any::<f64>(), wanted in 2usize..12, log in any::<bool>()) {
            prop_assume!(a.is_finite() && b.is_finite());
            let (mut low, mut high) = (a.min(b), a.max(b));
            if log {
                (low, high) = (low.abs().min(high.abs()).max(1e-300), low.abs().max(high.abs()).max(1e-300));
            }
            // Beyond this, widening to round numbers would leave the floats.
            prop_assume!(high.abs() < 1e300 && low.abs() < 1e300);
            let kind = if log { Kind::Log } else { Kind::Linear };
            let scale = Scale::new(kind, low, high, (0.0, 100.0), wanted);
            prop_assert!((2..=40).contains(&scale.ticks.len()), "{:?}", scale.ticks);
            prop_assert!(scale.ticks.windows(2).all(|w| w[0] < w[1]), "{:?}", scale.ticks);
            let slack = 1e-6 * (scale.domain.1 - scale.domain.0).abs();
            prop_assert!(scale.domain.0 <= low + slack && scale.domain.1 >= high - slack, "{:?}", scale);
            prop_assert!([low, high].iter().all(|v| (0.0..=100.0).contains(&scale.at(*v))));
        }
    }
}
