//! The decoder of the Llama family: packed tokens in, hidden states out.
//!
//! Fields are named as the checkpoint names their tensors. Weights are frozen; everything is computed by
//! [`Kernels`].

use super::adapter::{Adapter, PreparedAdapter, Target};
use super::config::Config;
use super::error::{Doing, Result};
use super::kernels::{Angles, AttentionShape, FrozenLinear, Kernels, LayerCache, Packing, Part, Sequence, Turned};
use super::rope::inverse_frequencies;
use super::weights::Weights;
use candle_core::{Device, Tensor};
use std::sync::Arc;

type TensorResult<T> = candle_core::Result<T>;

/// A loaded decoder with its language-model head.
#[derive(Debug, Clone)]
pub struct Decoder {
    embed_tokens: Embedding,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Norm,
    pub(super) lm_head: Arc<dyn FrozenLinear>,
    pub(super) inverse_frequencies: Vec<f32>,
    pub(super) kernels: Arc<dyn Kernels>,
    pub(super) device: Device,
    /// Added to the layers' outputs in every pass.
    adapter: Option<Arc<PreparedAdapter>>,
}

/// The embedding table `[vocab_size, hidden_size]`.
#[derive(Debug, Clone)]
enum Embedding {
    Table(Tensor),
    /// The rows of a layer: of the head, where they are tied, or of a quantised table.
    Rows(Arc<dyn FrozenLinear>),
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) input_layernorm: Norm,
    pub(super) self_attn: Attention,
    pub(super) post_attention_layernorm: Norm,
    pub(super) mlp: Mlp,
}

#[derive(Debug, Clone)]
pub(super) struct Attention {
    /// `q_proj`, `k_proj` and `v_proj` side by side.
    pub(super) qkv_proj: Arc<dyn FrozenLinear>,
    pub(super) o_proj: Arc<dyn FrozenLinear>,
    pub(super) q_norm: Option<Norm>,
    pub(super) k_norm: Option<Norm>,
    pub(super) shape: AttentionShape,
}

#[derive(Debug, Clone)]
pub(super) struct Mlp {
    /// `gate_proj` and `up_proj` side by side.
    pub(super) gate_up_proj: Arc<dyn FrozenLinear>,
    pub(super) down_proj: Arc<dyn FrozenLinear>,
}

#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) weight: Tensor,
    pub(super) eps: f32,
}

/// Loads tensors below a prefix of names.
struct Loader<'a> {
    weights: &'a Weights,
    config: &'a Config,
    kernels: &'a dyn Kernels,
    prefix: String,
}

impl Loader<'_> {
    fn below(&self, name: impl std::fmt::Display) -> Self {
        Loader { prefix: format!("{}{name}.", self.prefix), ..*self }
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm> {
        let weight = self.weights.vector(&format!("{}{name}.weight", self.prefix), width)?;
        Ok(Norm { weight, eps: self.config.rms_norm_eps })
    }

    /// The layers of these names and numbers of outputs as one.
    fn linear(&self, names: &[(&str, usize)], input: usize, bias: bool) -> Result<Arc<dyn FrozenLinear>> {
        let part = |(name, output): &(&str, usize)| {
            let matrix = self.weights.matrix(&format!("{}{name}.weight", self.prefix), *output, input)?;
            let bias = match bias {
                true => Some(self.weights.vector(&format!("{}{name}.bias", self.prefix), *output)?),
                false => None,
            };
            Ok(Part { matrix, bias })
        };
        let parts = names.iter().map(part).collect::<Result<_>>()?;
        self.kernels.linear(parts).doing(|| {
            let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            format!("preparing `{}{}`", self.prefix, names.join("+"))
        })
    }

    fn attention(&self, layer: usize) -> Result<Attention> {
        let c = self.config;
        let (queries, keys) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let head_norm = |name| if c.qk_norm { self.norm(name, c.head_dim).map(Some) } else { Ok(None) };
        let shape = AttentionShape {
            heads: c.num_attention_heads,
            key_value_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            window: c.sliding_window[layer],
        };
        self.kernels.prepare(&shape).doing(|| format!("preparing the attention of `{}`", self.prefix))?;
        Ok(Attention {
            qkv_proj: self.linear(
                &[("q_proj", queries), ("k_proj", keys), ("v_proj", keys)],
                c.hidden_size,
                c.qkv_bias,
            )?,
            o_proj: self.linear(&[("o_proj", c.hidden_size)], queries, c.o_bias)?,
            q_norm: head_norm("q_norm")?,
            k_norm: head_norm("k_norm")?,
            shape,
        })
    }

    fn mlp(&self) -> Result<Mlp> {
        let c = self.config;
        Ok(Mlp {
            gate_up_proj: self.linear(
                &[("gate_proj", c.intermediate_size), ("up_proj", c.intermediate_size)],
                c.hidden_size,
                c.mlp_bias,
            )?,
            down_proj: self.linear(&[("down_proj", c.hidden_size)], c.intermediate_size, c.mlp_bias)?,
        })
    }

    fn layer(&self, index: usize) -> Result<Layer> {
        let below = self.below(format_args!("layers.{index}"));
        let width = self.config.hidden_size;
        Ok(Layer {
            input_layernorm: below.norm("input_layernorm", width)?,
            self_attn: below.below("self_attn").attention(index)?,
            post_attention_layernorm: below.norm("post_attention_layernorm", width)?,
            mlp: below.below("mlp").mlp()?,
        })
    }
}

impl Decoder {
    pub fn load(weights: &Weights, config: &Config, kernels: Arc<dyn Kernels>, device: &Device) -> Result<Self> {
        let loader = Loader { weights, config, kernels: &*kernels, prefix: "model.".into() };
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let head = |name: &str, doing: &str| {
            let matrix = weights.matrix(name, vocab, width)?;
            kernels
                .linear(vec![Part { matrix, bias: None }])
                .doing(|| format!("preparing `{doing}` [{vocab}, {width}]"))
        };
        const TABLE: &str = "model.embed_tokens.weight";
        let (embed_tokens, lm_head) = match config.tie_word_embeddings {
            true => {
                let head = head(TABLE, "lm_head")?;
                (Embedding::Rows(head.clone()), head)
            }
            false => {
                let embedding = match weights.is_quantized() {
                    true => Embedding::Rows(head(TABLE, "embed_tokens")?),
                    false => Embedding::Table(weights.table(TABLE, vocab, width)?),
                };
                (embedding, head("lm_head.weight", "lm_head")?)
            }
        };
        Ok(Self {
            embed_tokens,
            layers: (0..config.num_hidden_layers).map(|i| loader.layer(i)).collect::<Result<_>>()?,
            norm: loader.norm("norm", width)?,
            lm_head,
            inverse_frequencies: inverse_frequencies(config.rope_theta, config.head_dim, &config.rope_scaling),
            kernels: kernels.clone(),
            device: device.clone(),
            adapter: None,
        })
    }

    /// The same frozen weights, in the same memory, with an adapter.
    pub fn with_adapter(&self, adapter: &Adapter) -> Result<Self> {
        Ok(Self { adapter: Some(Arc::new(adapter.prepare(self)?)), ..self.clone() })
    }

    /// Whether sequences can be packed together without changing each other's bits.
    pub fn batch_invariant(&self) -> bool {
        self.kernels.batch_invariant()
    }

    /// A sequence without tokens.
    pub fn sequence(&self) -> Sequence {
        let layers = self.layers.iter().enumerate();
        Sequence { layers: layers.map(|(i, l)| self.kernels.cache(i, &l.self_attn.shape)).collect(), len: 0 }
    }

    /// Bytes of keys and values of a sequence of so many tokens that shares nothing.
    pub fn sequence_bytes(&self, tokens: usize) -> u64 {
        let bytes = |layer: &Layer| {
            let AttentionShape { key_value_heads, head_dim, .. } = layer.self_attn.shape;
            match self.kernels.cache(0, &layer.self_attn.shape) {
                LayerCache::Native(cache) => cache.growth(tokens),
                LayerCache::Tensors(_) | LayerCache::Rows(_) => {
                    2 * tokens * key_value_heads * head_dim * self.kernels.activations().size_in_bytes()
                }
            }
        };
        self.layers.iter().map(|l| bytes(l) as u64).sum()
    }

    /// What the first layer is given for tokens: `[tokens, hidden_size]`.
    pub(super) fn embed(&self, tokens: &[u32]) -> TensorResult<Tensor> {
        let rows = match &self.embed_tokens {
            Embedding::Table(table) => table.index_select(&Tensor::new(tokens, &self.device)?, 0)?,
            Embedding::Rows(layer) => layer.rows(tokens)?,
        };
        rows.to_dtype(self.kernels.activations())
    }

    /// Final hidden states, after the last norm, of whole sequences: `[tokens, hidden_size]`.
    pub fn forward(&self, tokens: &[u32], packing: &Packing) -> TensorResult<Tensor> {
        self.pass(tokens, packing, &mut [])
    }

    /// Final hidden states of a pass whose runs go on from sequences, and are kept in them. `kept` is empty, or
    /// has one entry per run; what has no sequence is forgotten with the pass.
    pub fn pass(&self, tokens: &[u32], packing: &Packing, kept: &mut [Option<&mut Sequence>]) -> TensorResult<Tensor> {
        debug_assert_eq!(tokens.len(), packing.tokens());
        self.among_workers(|| self.pass_here(tokens, packing, kept))
    }

    /// Runs a computation of several products on a thread of the pool that they are shared among: handing each over from
    /// outside costs more than the product of a single row.
    fn among_workers<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self.device.is_cpu() {
            true => rayon::scope(|_| work()),
            false => work(),
        }
    }

    fn pass_here(&self, tokens: &[u32], packing: &Packing, kept: &mut [Option<&mut Sequence>]) -> TensorResult<Tensor> {
        let kernels = &*self.kernels;
        let angles = kernels.angles(&self.inverse_frequencies, &packing.positions())?;
        let mut x = self.embed(tokens)?;
        // Each half of a layer ends with a sum that the next half begins by norming.
        let mut y = self.layers.first().map_or(&self.norm, |l| &l.input_layernorm).forward(&x, kernels)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let mut caches: Vec<_> = kept.iter_mut().map(|s| s.as_mut().map(|s| &mut s.layers[i])).collect();
            let updates = Updates { adapter: self.adapter.as_deref(), layer: i };
            let delta = layer.self_attn.forward(&y, &angles, packing, &mut caches, kernels, updates)?;
            (x, y) = layer.post_attention_layernorm.add_forward(&x, &delta, kernels)?;
            let delta = layer.mlp.forward(&y, kernels, updates)?;
            let norm = self.layers.get(i + 1).map_or(&self.norm, |l| &l.input_layernorm);
            (x, y) = norm.add_forward(&x, &delta, kernels)?;
        }
        for (sequence, run) in kept.iter_mut().zip(packing.runs()) {
            if let Some(sequence) = sequence {
                sequence.len = run.end();
            }
        }
        Ok(y)
    }

    /// Negative log-likelihood of `labels[i]` given the hidden state at `rows[i]`.
    pub fn label_nll(&self, hidden: &Tensor, rows: &[u32], labels: &[u32]) -> TensorResult<Vec<f32>> {
        let hidden = hidden.index_select(&Tensor::new(rows, &self.device)?, 0)?;
        self.among_workers(|| self.lm_head.label_nll(&hidden, labels))
    }

    /// Logits `[rows, vocab_size]` at some positions: for tests and for choosing a next token.
    pub fn logits(&self, hidden: &Tensor, rows: &[u32]) -> TensorResult<Tensor> {
        let hidden = hidden.index_select(&Tensor::new(rows, &self.device)?, 0)?;
        self.among_workers(|| self.lm_head.forward(&hidden))
    }
}

/// What the adapter, if there is one, adds to the outputs of a layer.
#[derive(Clone, Copy)]
struct Updates<'a> {
    adapter: Option<&'a PreparedAdapter>,
    layer: usize,
}

impl Updates<'_> {
    fn add(self, targets: &[(Target, usize)], x: &Tensor, y: Tensor) -> TensorResult<Tensor> {
        match self.adapter {
            Some(adapter) => adapter.add(self.layer, targets, x, y),
            None => Ok(y),
        }
    }

    fn changes(self, targets: &[Target]) -> bool {
        self.adapter.is_some_and(|adapter| adapter.changes(self.layer, targets))
    }
}

impl Attention {
    fn forward(
        &self,
        x: &Tensor,
        angles: &Angles,
        packing: &Packing,
        kept: &mut [Option<&mut LayerCache>],
        kernels: &dyn Kernels,
        updates: Updates<'_>,
    ) -> TensorResult<Tensor> {
        let norms = self.q_norm.as_ref().zip(self.k_norm.as_ref());
        let eps = norms.map_or(0.0, |(q, _)| q.eps);
        let turned = Turned { norms: norms.map(|(q, k)| (&q.weight, &k.weight)), eps, angles };
        let [queries, keys, values] = self.shape.columns();
        let columns = [(Target::Query, queries), (Target::Key, keys), (Target::Value, values)];
        let qkv = updates.add(&columns, x, self.qkv_proj.forward(x)?)?;
        let attended = kernels.attention(qkv, turned, &self.shape, packing, kept)?;
        updates.add(&[(Target::Output, 0)], &attended, self.o_proj.forward(&attended)?)
    }
}

impl Mlp {
    fn forward(&self, x: &Tensor, kernels: &dyn Kernels, updates: Updates<'_>) -> TensorResult<Tensor> {
        let gated = match updates.changes(&[Target::Gate, Target::Up]) {
            true => None,
            false => self.gate_up_proj.gated(x)?,
        };
        let gated = match gated {
            Some(gated) => gated,
            None => {
                let gate_up = self.gate_up_proj.forward(x)?;
                let width = gate_up.dim(1)? / 2;
                kernels.swiglu(&updates.add(&[(Target::Gate, 0), (Target::Up, width)], x, gate_up)?)?
            }
        };
        updates.add(&[(Target::Down, 0)], &gated, self.down_proj.forward(&gated)?)
    }
}

impl Norm {
    pub(super) fn forward(&self, x: &Tensor, kernels: &dyn Kernels) -> TensorResult<Tensor> {
        kernels.rms_norm(x, &self.weight, self.eps)
    }

    pub(super) fn add_forward(
        &self,
        x: &Tensor,
        delta: &Tensor,
        kernels: &dyn Kernels,
    ) -> TensorResult<(Tensor, Tensor)> {
        kernels.add_rms_norm(x, delta, &self.weight, self.eps)
    }
}
