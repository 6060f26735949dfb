//! What a decoder-only transformer is made of, read from a GGUF file's metadata, or a checkpoint's `config.json`.
//!
//! Enters: metadata. Leaves: sizes and switches, each checked. Never here: a weight.
//!
//! Another architecture of the family (qwen3 with its norms of queries and keys, gemma3 with its windows and embedding
//! scale) is a field here, a line in [`TransformerSpec::from_gguf`], and its step in the forward pass.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::weights::gguf::Head;

/// Which two numbers of a head are rotated together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RopePairs {
    /// 2i and 2i + 1: GGUF files of `llama`, whose query and key rows were permuted for it.
    Adjacent,
    /// i and i + d/2: all others.
    Halves,
}

/// Sizes and switches of a model.
#[derive(Clone, PartialEq, Debug)]
pub struct TransformerSpec {
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the feed-forward part.
    pub feed_forward: usize,
    /// Tokens known.
    pub vocabulary: usize,
    /// Positions that the model was trained for.
    pub context: usize,
    /// Added to the mean square in each norm.
    pub norm_epsilon: f32,
    /// Which numbers are rotated together.
    pub rope_pairs: RopePairs,
    /// Base of the rotation's wavelengths.
    pub rope_base: f32,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
}

impl TransformerSpec {
    /// Reads the metadata.
    ///
    /// # Errors
    /// If the architecture is not one of those known, or a number is missing or cannot be.
    pub fn from_gguf(head: &Head) -> Result<Self> {
        let architecture = head.text("general.architecture")?;
        let (rope_pairs, qkv_bias) = match architecture {
            "llama" => (RopePairs::Adjacent, false),
            "qwen2" => (RopePairs::Halves, true),
            other => bail!("models of the architecture {other:?} are not supported: llama and qwen2 are"),
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let int = |name: &str| head.int(&key(name));
        let (hidden, heads) = (int("embedding_length")?, int("attention.head_count")?);
        ensure!(heads > 0, "no attention heads");
        let kv_heads = int("attention.head_count_kv").unwrap_or(heads);
        let head_dim = int("attention.key_length").unwrap_or(hidden / heads);
        for scaling in ["rope.scaling.type", "rope.scale_linear"] {
            let scaled = head.metadata.contains_key(&key(scaling)) && head.text(&key(scaling)).ok() != Some("none");
            ensure!(!scaled, "scaled positions ({scaling}) are not supported");
        }
        ensure!(!head.tensors.contains_key("rope_freqs.weight"), "scaled positions (rope_freqs) are not supported");
        let spec = Self {
            layers: int("block_count")?,
            hidden,
            heads,
            kv_heads,
            head_dim,
            feed_forward: int("feed_forward_length")?,
            vocabulary: head.list("tokenizer.ggml.tokens")?.len(),
            context: int("context_length")?,
            norm_epsilon: head.float(&key("attention.layer_norm_rms_epsilon"))?,
            rope_pairs,
            rope_base: head.float(&key("rope.freq_base")).unwrap_or(10_000.0),
            qkv_bias,
        };
        spec.check(head.int(&key("rope.dimension_count")).unwrap_or(head_dim))?;
        Ok(spec)
    }

    /// Reads `config.json` of a checkpoint, as transformers writes it.
    ///
    /// # Errors
    /// If the architecture is not one of those known, or a number is missing or cannot be.
    pub fn from_config(config: &Value) -> Result<Self> {
        let architecture = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let qkv_bias = match architecture {
            "llama" => false,
            "qwen2" => true,
            other => bail!("models of the architecture {other:?} are not supported: llama and qwen2 are"),
        };
        for key in ["rope_scaling", "use_sliding_window", "attention_bias", "mlp_bias"] {
            let used = config.get(key).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
            ensure!(!used, "models with {key} are not supported");
        }
        let number = |key: &str| config.get(key).filter(|value| !value.is_null());
        let int = |key: &str| -> Result<usize> {
            let value = number(key).with_context(|| format!("{key} is missing"))?;
            let value = value.as_u64().and_then(|value| usize::try_from(value).ok());
            value.with_context(|| format!("{key} is not a whole number"))
        };
        let float = |key: &str, otherwise: f64| number(key).map_or(Some(otherwise), Value::as_f64).unwrap_or(f64::NAN);
        let (hidden, heads) = (int("hidden_size")?, int("num_attention_heads")?);
        ensure!(heads > 0, "no attention heads");
        let head_dim = int("head_dim").unwrap_or(hidden / heads);
        let spec = Self {
            layers: int("num_hidden_layers")?,
            hidden,
            heads,
            kv_heads: int("num_key_value_heads").unwrap_or(heads),
            head_dim,
            feed_forward: int("intermediate_size")?,
            vocabulary: int("vocab_size")?,
            context: int("max_position_embeddings")?,
            norm_epsilon: float("rms_norm_eps", 1e-6) as f32,
            rope_pairs: RopePairs::Halves,
            rope_base: float("rope_theta", 10_000.0) as f32,
            qkv_bias,
        };
        spec.check(head_dim)?;
        Ok(spec)
    }

    /// Bounds far beyond any model of this size class, so that sizes can be multiplied without fear.
    fn check(&self, rotated: usize) -> Result<()> {
        let sizes = [self.layers, self.hidden, self.heads, self.kv_heads, self.feed_forward, self.vocabulary];
        ensure!(sizes.iter().all(|&size| (1..=1 << 20).contains(&size)), "impossible sizes {sizes:?}");
        ensure!(self.layers <= 1024 && self.heads <= 1024, "impossible sizes {sizes:?}");
        ensure!((1..=1 << 24).contains(&self.context), "a context of {}", self.context);
        ensure!(self.heads.is_multiple_of(self.kv_heads), "{} heads share {}", self.heads, self.kv_heads);
        let head = self.head_dim;
        ensure!((16..=512).contains(&head) && head.is_multiple_of(16), "heads of {head}");
        ensure!(rotated == head, "heads of which only {rotated} of {head} are rotated are not supported");
        ensure!(self.norm_epsilon.is_finite() && self.norm_epsilon >= 0.0, "norm epsilon {}", self.norm_epsilon);
        ensure!(self.rope_base.is_finite() && self.rope_base > 1.0, "rope base {}", self.rope_base);
        Ok(())
    }
}
