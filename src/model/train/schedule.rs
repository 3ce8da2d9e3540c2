//! How the learning rate goes over the steps.

use std::f64::consts::PI;

/// The course after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    Constant,
    /// Straight to zero at the last step's end.
    Linear,
    /// Half a cosine to zero.
    Cosine,
}

impl Shape {
    /// By the name that a pipeline gives it.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "constant" => Some(Self::Constant),
            "linear" => Some(Self::Linear),
            "cosine" => Some(Self::Cosine),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        }
    }
}

/// Where the warm-up begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WarmUp {
    /// At zero, as the transformers library does: step s of w has s / w of the peak, so the first step changes nothing.
    #[default]
    FromZero,
    /// Step s of w has (s + 1) / w of the peak: the last step of the warm-up has all of it.
    FromFirstStep,
}

/// A learning rate for every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub peak: f64,
    pub shape: Shape,
    pub steps: u64,
    pub warm_up_steps: u64,
    pub warm_up: WarmUp,
}

impl Schedule {
    /// The rate of a step, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        let ratio = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        if step < self.warm_up_steps {
            return match self.warm_up {
                WarmUp::FromZero => self.peak * ratio(step, self.warm_up_steps),
                WarmUp::FromFirstStep => self.peak * ratio(step + 1, self.warm_up_steps),
            };
        }
        let progress = ratio(step - self.warm_up_steps, self.steps.saturating_sub(self.warm_up_steps)).min(1.0);
        self.peak
            * match self.shape {
                Shape::Constant => 1.0,
                Shape::Linear => 1.0 - progress,
                Shape::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(shape: Shape, warm_up: WarmUp) -> Vec<f64> {
        let schedule = Schedule { peak: 2.0, shape, steps: 10, warm_up_steps: 4, warm_up };
        (0..11).map(|s| schedule.rate(s)).collect()
    }

    fn assert_near(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12), "{found:?}, expected {expected:?}");
    }

    /// The numbers of transformers' `get_cosine_schedule_with_warmup` and its siblings.
    #[test]
    fn rates_are_those_of_the_reference() {
        let rise = [0.0, 0.5, 1.0, 1.5];
        let with = |rest: [f64; 7]| [&rise[..], &rest].concat();
        let cosine = [2.0, 1.8660254037844388, 1.5, 1.0, 0.5, 0.13397459621556118, 0.0];
        assert_near(&rates(Shape::Cosine, WarmUp::FromZero), &with(cosine));
        let linear = [2.0, 5.0 / 3.0, 4.0 / 3.0, 1.0, 2.0 / 3.0, 1.0 / 3.0, 0.0];
        assert_near(&rates(Shape::Linear, WarmUp::FromZero), &with(linear));
        assert_near(&rates(Shape::Constant, WarmUp::FromZero), &with([2.0; 7]));
        assert_near(&rates(Shape::Constant, WarmUp::FromFirstStep)[..5], &[0.5, 1.0, 1.5, 2.0, 2.0]);
    }

    #[test]
    fn edges() {
        let schedule =
            Schedule { peak: 1.0, shape: Shape::Cosine, steps: 3, warm_up_steps: 3, warm_up: WarmUp::FromZero };
        assert_eq!(schedule.rate(3), 1.0);
        assert_eq!(Schedule { warm_up_steps: 0, ..schedule }.rate(0), 1.0);
        assert_eq!(Schedule { warm_up_steps: 0, ..schedule }.rate(30), 0.0);
        for shape in [Shape::Constant, Shape::Linear, Shape::Cosine] {
            assert_eq!(Shape::parse(shape.name()), Some(shape));
        }
    }
}
