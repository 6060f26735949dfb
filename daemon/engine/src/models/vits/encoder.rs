//! Phoneme ids in; one vector per phoneme, and mean and log deviation of its latent frames, out.
//!
//! A transformer with relative positions within ±4 (Shaw et al. 2018; VITS, Kim et al. 2021, appendix B.1), normalised
//! after each block. One utterance at a time: no mask.

use super::load::{Loader, Norm, run_same, wrong};
use crate::kernels::conv::{Conv, Start};
use crate::kernels::math;
use crate::weights::onnx::OnnxError;

pub(super) struct Encoder {
    embedding: Vec<f32>,
    pub(super) channels: usize,
    layers: Vec<Layer>,
    proj: Conv,
    /// Channels of a latent frame.
    pub(super) latent: usize,
}

struct Layer {
    q: Conv,
    k: Conv,
    v: Conv,
    o: Conv,
    /// Channels of a head.
    head: usize,
    /// `[2 · window + 1][head channels]`, shared by the heads.
    rel_k: Vec<f32>,
    rel_v: Vec<f32>,
    norm_1: Norm,
    ffn_1: Conv,
    ffn_2: Conv,
    norm_2: Norm,
}

pub(super) struct Encoded {
    pub(super) hidden: Vec<f32>,
    /// `[phoneme][latent means, latent log deviations]`.
    pub(super) stats: Vec<f32>,
}

impl Encoder {
    pub(super) fn load(loader: &Loader) -> Result<Self, OnnxError> {
        let gather = loader.onnx.node("/enc_p/emb/Gather")?;
        let name = gather.inputs.first().ok_or_else(|| OnnxError::Missing("embedding".into()))?;
        let mut table = loader.weights(name)?;
        let &[_, channels] = table.shape.as_slice() else { return Err(wrong(name, "it is not a table")) };
        let scale = (channels as f32).sqrt();
        table.values.iter_mut().for_each(|x| *x *= scale);
        let layers = (0..)
            .take_while(|i| loader.onnx.node(&format!("/enc_p/encoder/attn_layers.{i}/conv_q/Conv")).is_ok())
            .map(|i| Layer::load(loader, i, channels))
            .collect::<Result<_, _>>()?;
        let proj = loader.conv("/enc_p/proj", channels)?;
        let latent = proj.cout() / 2;
        Ok(Self { embedding: table.values, channels, layers, proj, latent })
    }

    /// How many phonemes the model knows.
    pub(super) fn symbols(&self) -> usize {
        self.embedding.len() / self.channels
    }

    /// `ids` are all below [`Self::symbols`].
    pub(super) fn run(&self, ids: &[usize]) -> Encoded {
        let c = self.channels;
        let mut x: Vec<f32> = ids.iter().flat_map(|id| &self.embedding[id * c..(id + 1) * c]).copied().collect();
        for layer in &self.layers {
            layer.run(&mut x);
        }
        let stats = run_same(&self.proj, &x);
        Encoded { hidden: x, stats }
    }
}

impl Layer {
    fn load(loader: &Loader, i: usize, c: usize) -> Result<Self, OnnxError> {
        let (graph, tensors) = (format!("/enc_p/encoder/attn_layers.{i}"), format!("enc_p.encoder.attn_layers.{i}"));
        let conv = |name: &str| loader.same(&format!("{graph}/conv_{name}"), c, c);
        let rel_k = loader.weights(&format!("{tensors}.emb_rel_k"))?;
        let rel_v = loader.weights(&format!("{tensors}.emb_rel_v"))?;
        let head = rel_k.shape.last().copied().unwrap_or(0);
        let rows = rel_k.values.len().checked_div(head).unwrap_or(0);
        if head == 0 || !c.is_multiple_of(head) || rows.is_multiple_of(2) || rel_k.shape != rel_v.shape {
            return Err(wrong(&tensors, "its relative positions are not expected"));
        }
        let ffn_1 = loader.conv(&format!("/enc_p/encoder/ffn_layers.{i}/conv_1"), c)?;
        let ffn_2 = loader.same(&format!("/enc_p/encoder/ffn_layers.{i}/conv_2"), ffn_1.cout(), c)?;
        Ok(Self {
            q: conv("q")?,
            k: conv("k")?,
            v: conv("v")?,
            o: conv("o")?,
            head,
            rel_k: rel_k.values,
            rel_v: rel_v.values,
            norm_1: loader.norm(&format!("enc_p.encoder.norm_layers_1.{i}"), c)?,
            ffn_1,
            ffn_2,
            norm_2: loader.norm(&format!("enc_p.encoder.norm_layers_2.{i}"), c)?,
        })
    }

    fn run(&self, x: &mut [f32]) {
        let attended = self.attention(x);
        math::add(x, &attended);
        self.norm_1.apply(x);
        let mut wide = run_same(&self.ffn_1, x);
        math::relu(&mut wide);
        math::add(x, &run_same(&self.ffn_2, &wide));
        self.norm_2.apply(x);
    }

    fn attention(&self, x: &[f32]) -> Vec<f32> {
        if x.is_empty() {
            return Vec::new();
        }
        let c = self.q.cin();
        let (head, rows) = (self.head, x.len() / c);
        let window = self.rel_k.len() / head / 2;
        let (mut q, k, v) = (run_same(&self.q, x), run_same(&self.k, x), run_same(&self.v, x));
        let scale = 1.0 / (head as f32).sqrt();
        q.iter_mut().for_each(|q| *q *= scale);
        let near = |i: usize| i.saturating_sub(window)..rows.min(i + window + 1);
        let mut mixed = vec![0.0; x.len()];
        for h in (0..c).step_by(head) {
            let query: Vec<f32> = q.chunks_exact(c).flat_map(|row| &row[h..h + head]).copied().collect();
            // Both products of attention are convolutions of one tap whose weights are the keys, then the values.
            let keys = Conv::pack((rows, head, 1), 1, None, |j, channel, _| k[j * c + h + channel]);
            let values = Conv::pack((head, rows, 1), 1, None, |channel, j, _| v[j * c + h + channel]);
            let mut weights = vec![0.0; rows * rows];
            keys.run(&query, &mut weights, Start::Bias, |first, piece| {
                for (i, weights) in (first..).zip(piece.chunks_exact_mut(rows)) {
                    for j in near(i) {
                        weights[j] +=
                            math::dot(&query[i * head..][..head], &self.rel_k[(j + window - i) * head..][..head]);
                    }
                    math::softmax(weights);
                }
            });
            let mut out = vec![0.0; rows * head];
            values.run(&weights, &mut out, Start::Bias, |first, piece| {
                for (i, out) in (first..).zip(piece.chunks_exact_mut(head)) {
                    for j in near(i) {
                        math::axpy(out, weights[i * rows + j], &self.rel_v[(j + window - i) * head..][..head]);
                    }
                }
            });
            for (mixed, out) in mixed.chunks_exact_mut(c).zip(out.chunks_exact(head)) {
                mixed[h..h + head].copy_from_slice(out);
            }
        }
        run_same(&self.o, &mixed)
    }
}
