//! AdamW and clipping.

/// Settings of [`AdamW`]; the defaults are those of torch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    pub betas: (f64, f64),
    pub eps: f64,
    /// Decoupled: each step takes `learning rate * weight_decay` of every value away.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 }
    }
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019), in torch's order of operations.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    pub config: AdamWConfig,
    /// Steps done.
    pub steps: u64,
    /// Running means of gradients and of their squares, one per value.
    pub first_moments: Vec<f32>,
    pub second_moments: Vec<f32>,
}

impl AdamW {
    pub fn new(config: AdamWConfig, values: usize) -> Self {
        Self { config, steps: 0, first_moments: vec![0.0; values], second_moments: vec![0.0; values] }
    }

    /// Moves the values by one step.
    ///
    /// # Panics
    /// If there are not as many values and gradients as moments.
    pub fn step(&mut self, values: &mut [f32], gradients: &[f32], learning_rate: f64) {
        assert!(values.len() == gradients.len() && values.len() == self.first_moments.len(), "one moment per value");
        self.steps += 1;
        let AdamWConfig { betas: (beta1, beta2), eps, weight_decay } = self.config;
        let correction = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        let decay = (1.0 - learning_rate * weight_decay) as f32;
        let (rate, root) = ((learning_rate / correction(beta1)) as f32, correction(beta2).sqrt() as f32);
        let (new1, beta2, new2, eps) = ((1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32, eps as f32);
        let moments = self.first_moments.iter_mut().zip(&mut self.second_moments);
        for ((value, gradient), (first, second)) in values.iter_mut().zip(gradients).zip(moments) {
            *first += (gradient - *first) * new1;
            *second = *second * beta2 + gradient * gradient * new2;
            *value = *value * decay - rate * (*first / (second.sqrt() / root + eps));
        }
    }
}

/// The Euclidean norm, summed in float64.
pub fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// Scales gradients of this norm down to `max_norm`, where it is greater; as torch's `clip_grad_norm_`.
pub fn clip(gradients: &mut [f32], norm: f64, max_norm: f64) {
    let factor = max_norm / (norm + 1e-6);
    if factor < 1.0 {
        gradients.iter_mut().for_each(|g| *g *= factor as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first step's size is the learning rate whatever the gradient's, and the decay comes on top.
    #[test]
    fn the_first_step_has_the_size_of_the_learning_rate() {
        let mut optimizer = AdamW::new(AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() }, 3);
        let mut values = [1.0, -2.0, 0.5];
        optimizer.step(&mut values, &[3.0, -1e-3, 0.0], 0.01);
        for (found, expected) in values.iter().zip([0.999 - 0.01, -1.998 + 0.01, 0.4995]) {
            assert!((found - expected).abs() < 1e-6, "{values:?}");
        }
        assert_eq!(optimizer.steps, 1);
    }

    #[test]
    fn clipping_keeps_what_is_small() {
        let mut gradients = [3.0, 4.0];
        assert_eq!(norm(&gradients), 5.0);
        clip(&mut gradients, 5.0, 10.0);
        assert_eq!(gradients, [3.0, 4.0]);
        clip(&mut gradients, 5.0, 1.0);
        assert!((norm(&gradients) - 1.0).abs() < 1e-6);
    }
}
