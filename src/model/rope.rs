//! Rotary position embedding: frequencies and their scaling.

use super::error::{Result, bad_file, unsupported};
use serde_json::{Value, json};
use std::f32::consts::PI;
use std::path::Path;

/// How the frequencies of a longer context are derived from those of the original one.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    None,
    /// Every frequency divided by the factor.
    Linear(f32),
    /// Low frequencies divided by the factor, high ones kept, a ramp between.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_max_position_embeddings: f32,
    },
    /// A divisor for each frequency, as GGUF files carry it.
    Factors(Vec<f32>),
}

impl Scaling {
    /// Reads `rope_scaling` or `rope_parameters` of a `config.json`.
    pub(super) fn from_json(json: &Value, path: &Path) -> Result<Self> {
        let kind = json.get("rope_type").or_else(|| json.get("type")).and_then(Value::as_str).unwrap_or("default");
        let number = |key: &str| {
            let value = json.get(key).and_then(Value::as_f64).filter(|v| *v > 0.0);
            value
                .map(|v| v as f32)
                .ok_or_else(|| bad_file(path, format!("rope scaling `{kind}` needs a positive `{key}`")))
        };
        match kind {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear(number("factor")?)),
            "llama3" => Ok(Self::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: number("original_max_position_embeddings")?,
            }),
            other => Err(unsupported(
                path,
                format!("rope scaling `{other}` is not supported; supported are `default`, `linear` and `llama3`"),
            )),
        }
    }

    /// As `rope_scaling` of a `config.json`; `None` where that cannot say it.
    pub(super) fn to_json(&self) -> Option<Value> {
        match self {
            Self::None => Some(Value::Null),
            Self::Linear(factor) => Some(json!({"rope_type": "linear", "factor": factor})),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                Some(json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                }))
            }
            Self::Factors(_) => None,
        }
    }

    fn apply(&self, index: usize, frequency: f32) -> f32 {
        match self {
            Self::None => frequency,
            Self::Linear(factor) => frequency / factor,
            Self::Factors(factors) => frequency / factors[index],
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings: original } => {
                let wavelength = 2.0 * PI / frequency;
                if wavelength < original / high_freq_factor {
                    return frequency;
                }
                if wavelength > original / low_freq_factor {
                    return frequency / factor;
                }
                let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// Angles per position for each pair of a head's dimensions: dimension `i` turns with `i + head_dim / 2`.
///
/// In float32 throughout, as in the implementations that the models were trained with: a more exact angle would
/// be another model's.
pub fn inverse_frequencies(theta: f32, head_dim: usize, scaling: &Scaling) -> Vec<f32> {
    let base = |i: usize| 1.0 / theta.powf((2 * i) as f32 / head_dim as f32);
    (0..head_dim / 2).map(|i| scaling.apply(i, base(i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_and_divides_low_frequencies() {
        let scaling = Scaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let plain = inverse_frequencies(5e5, 128, &Scaling::None);
        let scaled = inverse_frequencies(5e5, 128, &scaling);
        assert_eq!(plain[0], scaled[0]);
        assert_eq!(plain[63] / 8.0, scaled[63]);
        let ratios: Vec<f32> = plain.iter().zip(&scaled).map(|(p, s)| p / s).collect();
        assert!(ratios.windows(2).all(|w| w[0] <= w[1] + 1e-5), "{ratios:?}");
        assert!(ratios.iter().any(|r| (1.5..7.5).contains(r)), "no ramp in {ratios:?}");
    }
}
