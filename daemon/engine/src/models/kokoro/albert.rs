//! The text model: token ids in; what each means in its sentence out.
//!
//! ALBERT (Lan et al. 2019) over phonemes ("PL-BERT", Li et al. 2023): twelve times the same layer. Sentences are run
//! one by one, so that none needs a mask.

use candle_core::{Result, Tensor};

use super::load::{Loaded, Loader};
use super::ops::{Linear, rows};
use crate::models::layers::{Attention, Norm, gelu_tanh};

const EMBEDDING: usize = 128;
const WIDTH: usize = 768;
const INNER: usize = 2048;
const LAYERS: usize = 12;
const HEADS: usize = 12;
/// The longest sequence that there are positions for.
pub(super) const POSITIONS: usize = 512;
const EPSILON: f32 = 1e-12;

pub(super) struct Albert {
    words: Tensor,
    /// With the type that all tokens have.
    positions: Tensor,
    norm: Norm,
    widen: Linear,
    attention: Attention,
    attention_norm: Norm,
    inner: Linear,
    outer: Linear,
    layer_norm: Norm,
    /// To the width of the rest of the network.
    out: Linear,
}

impl Albert {
    pub(super) fn load(loader: &Loader, out: usize) -> Loaded<Self> {
        let embedding = |name: &str| {
            let zero = "encoder.bert.embeddings.word_embeddings.weight_zero_point";
            loader.table(&format!("encoder.bert.embeddings.{name}_embeddings.weight"), zero, EMBEDDING)
        };
        let norm = |name: &str, width: usize| -> Loaded<Norm> {
            let name = format!("encoder.bert.{name}");
            let weight = loader.vector(&format!("{name}.weight"), width)?;
            let bias = loader.vector(&format!("{name}.bias"), width)?;
            Ok(Norm::new((weight, bias), EPSILON, loader.device())?)
        };
        let (path, name) = (
            "/encoder/bert/encoder/albert_layer_groups.0/albert_layers.0",
            "encoder.bert.encoder.albert_layer_groups.0.albert_layers.0",
        );
        let square = |part: &str| {
            let (path, bias) = (format!("{path}/attention/{part}/MatMul"), format!("{name}.attention.{part}.bias"));
            loader.rows(&path, &bias, WIDTH, WIDTH)
        };
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for part in ["query", "key", "value"] {
            let (weight, bias) = square(part)?;
            weights.extend(weight);
            biases.extend(bias);
        }
        let feed = |part: &str, inputs, outputs| {
            loader.linear(&format!("{path}/{part}/MatMul"), &format!("{name}.{part}.bias"), inputs, outputs)
        };
        let under = "encoder.albert_layer_groups.0.albert_layers.0";
        Ok(Self {
            words: embedding("word")?,
            positions: embedding("position")?.broadcast_add(&embedding("token_type")?.narrow(0, 0, 1)?)?,
            norm: norm("embeddings.LayerNorm", EMBEDDING)?,
            widen: loader.linear(
                "/encoder/bert/encoder/embedding_hidden_mapping_in/MatMul",
                "encoder.bert.encoder.embedding_hidden_mapping_in.bias",
                EMBEDDING,
                WIDTH,
            )?,
            attention: Attention::new((weights, biases), square("dense")?, HEADS, loader.device())?,
            attention_norm: norm(&format!("{under}.attention.LayerNorm"), WIDTH)?,
            inner: feed("ffn", WIDTH, INNER)?,
            outer: feed("ffn_output", INNER, WIDTH)?,
            layer_norm: norm(&format!("{under}.full_layer_layer_norm"), WIDTH)?,
            out: loader.linear("/encoder/bert_encoder/MatMul", "encoder.bert_encoder.bias", WIDTH, out)?,
        })
    }

    /// How many tokens there are.
    pub(super) fn symbols(&self) -> Result<usize> {
        self.words.dim(0)
    }

    /// `[tokens][out]` for at most [`POSITIONS`] ids below [`Self::symbols`].
    pub(super) fn run(&self, ids: &[u32]) -> Result<Tensor> {
        let x = (rows(&self.words, ids.to_vec())? + self.positions.narrow(0, 0, ids.len())?)?;
        let mut x = self.widen.run(&self.norm.run(&x)?)?;
        for _ in 0..LAYERS {
            x = self.attention_norm.run(&(&x + self.attention.run(&x)?)?)?;
            let mut inner = self.inner.run(&x)?;
            gelu_tanh(&mut inner)?;
            x = self.layer_norm.run(&(&x + self.outer.run(&inner)?)?)?;
        }
        self.out.run(&x)
    }
}
