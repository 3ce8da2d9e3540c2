//! Low-rank adapters: which layers they change, their values, and the form in which a device applies them.
//!
//! ```text
//! AdapterFile (peft's two files) <-> Adapter (f32 values, trained) -> PreparedAdapter (packed for a device)
//! ```

pub mod merge;
mod peft;

pub use peft::{AdapterFile, CONFIG_FILE, WEIGHTS_FILE};

use crate::model::config::Config;
use crate::model::decoder::Decoder;
use crate::model::error::{Doing, Result};
use crate::model::kernels::{Kernels, LowRankUpdate};
use candle_core::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use std::sync::Arc;

/// A linear layer that an adapter can change, by the name that checkpoints give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

impl Target {
    /// In the order in which a layer computes them.
    pub const ALL: [Target; 7] =
        [Target::Query, Target::Key, Target::Value, Target::Output, Target::Gate, Target::Up, Target::Down];

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The part of a layer that it belongs to.
    fn block(self) -> &'static str {
        match self {
            Self::Query | Self::Key | Self::Value | Self::Output => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        }
    }

    /// Numbers of inputs and outputs.
    pub fn dims(self, config: &Config) -> (usize, usize) {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let heads = config.num_attention_heads * config.head_dim;
        let kv_heads = config.num_key_value_heads * config.head_dim;
        match self {
            Self::Query => (width, heads),
            Self::Key | Self::Value => (width, kv_heads),
            Self::Output => (heads, width),
            Self::Gate | Self::Up => (width, inner),
            Self::Down => (inner, width),
        }
    }
}

/// What an adapter is, apart from its values.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Probability with which an input of the update is dropped in training.
    pub dropout: f64,
    pub targets: Vec<Target>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: 0.0, targets: vec![Target::Query, Target::Value] }
    }
}

impl LoraConfig {
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// The two factors for one layer: A `[rank, inputs]` and B `[outputs, rank]`, row-major, in an adapter's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    pub layer: usize,
    pub target: Target,
    pub inputs: usize,
    pub outputs: usize,
    pub a: Range<usize>,
    pub b: Range<usize>,
}

impl Module {
    /// The name of the layer that it changes, as checkpoints have it.
    pub fn name(&self) -> String {
        format!("model.layers.{}.{}.{}", self.layer, self.target.block(), self.target.name())
    }
}

/// An adapter: float32 values that are trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub config: LoraConfig,
    /// By layer, then in the order of [`Target::ALL`].
    pub modules: Vec<Module>,
    /// Of all modules, one after another: A, then B.
    pub values: Vec<f32>,
}

impl Adapter {
    /// An adapter that changes nothing yet: B is zero, A uniform in `±1 / sqrt(inputs)` (Kaiming with `a = sqrt 5`), as the
    /// peft library begins. Each A has a random stream of its own.
    pub fn new(config: LoraConfig, model: &Config, seed: u64) -> Self {
        let mut adapter = Self::zero(config, model);
        for (stream, module) in adapter.modules.iter().enumerate() {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream as u64);
            let bound = 1.0 / (module.inputs as f32).sqrt();
            adapter.values[module.a.clone()].fill_with(|| rng.random_range(-bound..bound));
        }
        adapter
    }

    /// An adapter of zeros.
    pub fn zero(mut config: LoraConfig, model: &Config) -> Self {
        config.targets.sort_unstable();
        config.targets.dedup();
        let (mut modules, mut at) = (Vec::new(), 0);
        for (layer, target) in (0..model.num_hidden_layers).flat_map(|l| config.targets.iter().map(move |t| (l, *t))) {
            let (inputs, outputs) = target.dims(model);
            let a = at..at + config.rank * inputs;
            let b = a.end..a.end + outputs * config.rank;
            at = b.end;
            modules.push(Module { layer, target, inputs, outputs, a, b });
        }
        Self { config, modules, values: vec![0.0; at] }
    }

    /// Brings the values into the form in which the decoder's device applies them.
    pub fn prepare(&self, decoder: &Decoder) -> Result<PreparedAdapter> {
        let kernels: &dyn Kernels = &*decoder.kernels;
        let mut layers: Vec<LayerUpdates> = (0..decoder.layers.len()).map(|_| LayerUpdates::default()).collect();
        for module in &self.modules {
            let (a, b) = (&self.values[module.a.clone()], &self.values[module.b.clone()]);
            let update = kernels.low_rank(a, b, self.config.rank, self.config.scale() as f32);
            let update = update.doing(|| format!("preparing the adapter of `{}`", module.name()))?;
            let own = Update { update, a: module.a.clone(), b: module.b.clone() };
            layers[module.layer].updates[module.target as usize] = Some(own);
        }
        Ok(PreparedAdapter { layers, dropout: self.config.dropout as f32, values: self.values.len() })
    }
}

/// An adapter as a device applies it.
#[derive(Debug)]
pub struct PreparedAdapter {
    pub(super) layers: Vec<LayerUpdates>,
    pub(super) dropout: f32,
    /// Number of values.
    pub(super) values: usize,
}

/// The updates of one decoder layer, by target.
#[derive(Debug, Default)]
pub(super) struct LayerUpdates {
    updates: [Option<Update>; 7],
}

/// One update and where its factors stand in the adapter's values.
#[derive(Debug)]
pub(super) struct Update {
    pub update: Arc<dyn LowRankUpdate>,
    pub a: Range<usize>,
    pub b: Range<usize>,
}

impl PreparedAdapter {
    /// `y` with the updates of these targets added, each from its column on; `x` is what the layer reads.
    pub(super) fn add(
        &self,
        layer: usize,
        targets: &[(Target, usize)],
        x: &Tensor,
        mut y: Tensor,
    ) -> candle_core::Result<Tensor> {
        for (target, column) in targets {
            if let Some(own) = self.layers[layer].get(*target) {
                y = own.update.add(x, y, *column)?;
            }
        }
        Ok(y)
    }

    /// Whether a layer has an update of one of these.
    pub(super) fn changes(&self, layer: usize, targets: &[Target]) -> bool {
        self.layers[layer].any(targets)
    }
}

impl LayerUpdates {
    pub fn get(&self, target: Target) -> Option<&Update> {
        self.updates[target as usize].as_ref()
    }

    /// Whether there is an update of one of these.
    pub fn any(&self, targets: &[Target]) -> bool {
        targets.iter().any(|target| self.get(*target).is_some())
    }
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config() -> Config {
        let json = r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64}"#;
        Config::from_json(json, Path::new("config.json")).unwrap()
    }

    #[test]
    fn modules_fill_the_values_once_and_in_order() {
        let targets = vec![Target::Down, Target::Query, Target::Down];
        let adapter = Adapter::zero(LoraConfig { rank: 3, targets, ..LoraConfig::default() }, &config());
        let mut at = 0;
        for module in &adapter.modules {
            assert_eq!((module.a.start, module.a.len()), (at, 3 * module.inputs));
            assert_eq!((module.b.start, module.b.len()), (module.a.end, 3 * module.outputs));
            at = module.b.end;
        }
        assert_eq!(at, adapter.values.len());
        let names: Vec<_> = adapter.modules.iter().map(Module::name).collect();
        assert_eq!(names[..2], ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]);
        assert_eq!(names.len(), 6);
    }

    #[test]
    fn a_new_adapter_is_seeded_and_changes_nothing() {
        let make = |seed| Adapter::new(LoraConfig::default(), &config(), seed);
        let adapter = make(1);
        assert_eq!(adapter, make(1));
        assert_ne!(adapter.values, make(2).values);
        let bound = 1.0 / 32f32.sqrt();
        for module in &adapter.modules {
            let a = &adapter.values[module.a.clone()];
            assert!(a.iter().all(|v| v.abs() <= bound) && a.iter().any(|v| v.abs() > 0.9 * bound));
            assert!(adapter.values[module.b.clone()].iter().all(|v| *v == 0.0));
        }
        let (first, second) = (&adapter.modules[0], &adapter.modules[2]);
        assert_ne!(adapter.values[first.a.clone()], adapter.values[second.a.clone()]);
    }

    #[test]
    fn targets_have_the_names_of_checkpoints() {
        for target in Target::ALL {
            assert_eq!(Target::parse(target.name()), Some(target));
        }
        assert_eq!(Target::parse("lm_head"), None);
    }
}
