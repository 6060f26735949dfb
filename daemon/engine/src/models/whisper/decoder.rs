//! Whisper's decoder: one token in, the scores of the next one out.
//!
//! Enters: the encoder's vectors once, then tokens. Leaves: a score for every token. Keys and values of both attentions are
//! kept, so that a step costs one pass over the weights, which lie as bytes: a step is as long as reading them takes.
//! On the processor; `tensors.rs` is for the rest.

use candle_core::{Device, Tensor};

use super::LoadError;
use super::alignment::{self, Heads};
use super::checkpoint::{Checkpoint, Dims};
use crate::kernels::gemv::{self, Q8};
use crate::kernels::pointwise;

struct Linear {
    weight: Q8,
    bias: Vec<f32>,
}

impl Linear {
    fn new((weight, bias): (Vec<f32>, Vec<f32>)) -> Self {
        let cols = weight.len() / bias.len();
        Self { weight: Q8::new(&weight, cols), bias }
    }

    fn run(&self, x: &[f32], out: &mut [f32]) {
        self.weight.mul(x, out);
        for (out, bias) in out.iter_mut().zip(&self.bias) {
            *out += bias;
        }
    }

    /// `into += W · x + b`
    fn add(&self, x: &[f32], scratch: &mut [f32], into: &mut [f32]) {
        self.run(x, scratch);
        for (into, out) in into.iter_mut().zip(scratch) {
            *into += *out;
        }
    }
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    fn load(checkpoint: &Checkpoint, name: &str) -> Result<Self, LoadError> {
        let width = checkpoint.dims.width;
        let weight = checkpoint.read(&format!("{name}.weight"), &[width])?;
        Ok(Self { weight, bias: checkpoint.read(&format!("{name}.bias"), &[width])? })
    }

    fn run(&self, x: &[f32], out: &mut [f32]) {
        let count = x.len() as f32;
        let mean = x.iter().sum::<f32>() / count;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count;
        let scale = (variance + 1e-5).sqrt().recip();
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(&self.weight).zip(&self.bias) {
            *out = (x - mean) * scale * weight + bias;
        }
    }
}

struct Block {
    attn_norm: Norm,
    qkv: Linear,
    out: Linear,
    cross_norm: Norm,
    query: Linear,
    /// Keys and values of what was heard: one product for the whole utterance.
    cross_keys: (Tensor, Tensor),
    cross_out: Linear,
    /// Those that know where in the audio the decoder is.
    heads: Heads,
    mlp_norm: Norm,
    up: Linear,
    down: Linear,
}

/// The decoder.
pub(super) struct Decoder {
    embedding: Q8,
    positions: Vec<f32>,
    blocks: Vec<Block>,
    norm: Norm,
    dims: Dims,
    threads: usize,
}

/// Keys and values, `[head][position][HEAD]`.
struct Kept {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Positions that there is room for.
    room: usize,
}

/// One utterance being decoded.
pub(super) struct Session {
    heard: Vec<Kept>,
    said: Vec<Kept>,
    positions: usize,
    x: Vec<f32>,
    normed: Vec<f32>,
    wide: Vec<f32>,
    mixed: Vec<f32>,
    scratch: Vec<f32>,
    scores: Vec<f32>,
    /// How much the last step attended to each encoder position.
    focus: Vec<f32>,
    logits: Vec<f32>,
}

impl Session {
    /// The encoder position that the last step attended to most: about where the next word is spoken.
    pub(super) fn focus(&self) -> usize {
        pointwise::argmax(&self.focus)
    }

    /// The scores that the last step left.
    pub(super) fn logits(&mut self) -> &mut [f32] {
        &mut self.logits
    }
}

impl Decoder {
    pub(super) fn load(checkpoint: &Checkpoint, threads: usize) -> Result<Self, LoadError> {
        let dims = checkpoint.dims;
        let width = dims.width;
        let scale = (Dims::HEAD as f32).sqrt().recip();
        // The scale of the scores, put into the query once.
        let scaled = |(mut weights, mut biases): (Vec<f32>, Vec<f32>)| {
            weights[..width * width].iter_mut().for_each(|weight| *weight *= scale);
            biases[..width].iter_mut().for_each(|bias| *bias *= scale);
            (weights, biases)
        };
        let heads = alignment::heads(&dims);
        let block = |i: usize| -> Result<Block, LoadError> {
            let name = |part: &str| format!("decoder.blocks.{i}.{part}");
            let linear = |part: &str, out, inputs| checkpoint.linear(&name(part), out, inputs);
            let (keys, bias) = checkpoint.linears(&[name("cross_attn.key"), name("cross_attn.value")], width, width)?;
            Ok(Block {
                attn_norm: Norm::load(checkpoint, &name("attn_ln"))?,
                qkv: Linear::new(scaled(checkpoint.linears(
                    &[name("attn.query"), name("attn.key"), name("attn.value")],
                    width,
                    width,
                )?)),
                out: Linear::new(linear("attn.out", width, width)?),
                cross_norm: Norm::load(checkpoint, &name("cross_attn_ln"))?,
                query: Linear::new(scaled(linear("cross_attn.query", width, width)?)),
                cross_keys: (
                    Tensor::from_vec(keys, (2 * width, width), &Device::Cpu)?.t()?,
                    Tensor::from_vec(bias, 2 * width, &Device::Cpu)?,
                ),
                cross_out: Linear::new(linear("cross_attn.out", width, width)?),
                heads: heads[i],
                mlp_norm: Norm::load(checkpoint, &name("mlp_ln"))?,
                up: Linear::new(linear("mlp.0", 4 * width, width)?),
                down: Linear::new(linear("mlp.2", width, 4 * width)?),
            })
        };
        let embedding = checkpoint.read("decoder.token_embedding.weight", &[dims.vocab, width])?;
        Ok(Self {
            embedding: Q8::new(&embedding, width),
            positions: checkpoint.read("decoder.positional_embedding", &[dims.text_ctx, width])?,
            blocks: (0..dims.text_layers).map(block).collect::<Result<_, _>>()?,
            norm: Norm::load(checkpoint, "decoder.ln")?,
            dims,
            threads,
        })
    }

    /// Begins an utterance of which `encoded` is `[positions, width]`.
    ///
    /// # Errors
    /// If candle fails.
    pub(super) fn begin(&self, encoded: &Tensor) -> candle_core::Result<Session> {
        let (len, width) = encoded.dims2()?;
        let heads = self.dims.heads();
        let heard = self.blocks.iter().map(|block| {
            let both = encoded.matmul(&block.cross_keys.0)?.broadcast_add(&block.cross_keys.1)?;
            // [position, keys or values, head, HEAD] to [keys or values, head, position, HEAD]
            let both = both.reshape((len, 2, heads, Dims::HEAD))?.permute((1, 2, 0, 3))?.flatten_all()?;
            let mut keys = both.to_vec1::<f32>()?;
            let values = keys.split_off(len * width);
            Ok(Kept { keys, values, room: len })
        });
        let room = self.dims.text_ctx;
        let said = || Kept { keys: vec![0.0; room * width], values: vec![0.0; room * width], room };
        Ok(Session {
            heard: heard.collect::<candle_core::Result<_>>()?,
            said: self.blocks.iter().map(|_| said()).collect(),
            positions: 0,
            x: vec![0.0; width],
            normed: vec![0.0; width],
            wide: vec![0.0; 4 * width],
            mixed: vec![0.0; width],
            scratch: vec![0.0; width],
            scores: vec![0.0; len.max(room)],
            focus: vec![0.0; len],
            logits: vec![0.0; self.dims.vocab],
        })
    }

    /// Feeds one token; if `score`, the scores of the next one are then in [`Session::logits`].
    ///
    /// False if the session is full or there is no such token.
    pub(super) fn step(&self, s: &mut Session, token: usize, score: bool) -> bool {
        let width = self.dims.width;
        let at = s.positions;
        if at >= self.dims.text_ctx || token >= self.dims.vocab {
            return false;
        }
        self.embedding.row(token, &mut s.x);
        gemv::add_scaled(&mut s.x, 1.0, &self.positions[at * width..(at + 1) * width]);
        s.focus.fill(0.0);
        for ((block, said), heard) in self.blocks.iter().zip(&mut s.said).zip(&s.heard) {
            block.attn_norm.run(&s.x, &mut s.normed);
            let qkv = &mut s.wide[..3 * width];
            block.qkv.run(&s.normed, qkv);
            let (query, fresh) = qkv.split_at(width);
            said.put(at, &fresh[..width], &fresh[width..]);
            said.attend(query, at + 1, &mut s.scores, &mut s.mixed, (&mut [], 0));
            block.out.add(&s.mixed, &mut s.scratch, &mut s.x);

            block.cross_norm.run(&s.x, &mut s.normed);
            block.query.run(&s.normed, &mut s.wide[..width]);
            let focus = (&mut s.focus[..], block.heads);
            heard.attend(&s.wide[..width], heard.room, &mut s.scores, &mut s.mixed, focus);
            block.cross_out.add(&s.mixed, &mut s.scratch, &mut s.x);

            block.mlp_norm.run(&s.x, &mut s.normed);
            block.up.run(&s.normed, &mut s.wide);
            pointwise::gelu(&mut s.wide);
            block.down.add(&s.wide, &mut s.scratch, &mut s.x);
        }
        s.positions += 1;
        if score {
            self.norm.run(&s.x, &mut s.normed);
            self.score(&s.normed, &mut s.logits);
        }
        true
    }

    /// Two thirds of all weights are here, so this is what a second thread is worth waking for.
    fn score(&self, x: &[f32], logits: &mut [f32]) {
        if self.threads > 1 {
            let (low, high) = logits.split_at_mut(self.dims.vocab / 2);
            let first = low.len();
            rayon::join(|| self.embedding.mul_rows(0, x, low), || self.embedding.mul_rows(first, x, high));
        } else {
            self.embedding.mul(x, logits);
        }
    }
}

impl Kept {
    fn put(&mut self, at: usize, keys: &[f32], values: &[f32]) {
        for (head, (key, value)) in keys.chunks_exact(Dims::HEAD).zip(values.chunks_exact(Dims::HEAD)).enumerate() {
            let place = (head * self.room + at) * Dims::HEAD;
            self.keys[place..place + Dims::HEAD].copy_from_slice(key);
            self.values[place..place + Dims::HEAD].copy_from_slice(value);
        }
    }

    /// For each head: the values of the first `len` positions, mixed by how well their keys fit the query. `focus` gets
    /// the weights of its heads added.
    fn attend(&self, query: &[f32], len: usize, scores: &mut [f32], out: &mut [f32], (focus, of): (&mut [f32], Heads)) {
        let scores = &mut scores[..len];
        let heads = query.chunks_exact(Dims::HEAD).zip(out.chunks_exact_mut(Dims::HEAD));
        for (head, (query, out)) in heads.enumerate() {
            let place = head * self.room * Dims::HEAD;
            let range = place..place + len * Dims::HEAD;
            for (score, key) in scores.iter_mut().zip(self.keys[range.clone()].chunks_exact(Dims::HEAD)) {
                *score = gemv::dot(query, key);
            }
            pointwise::softmax(scores);
            if of >> head & 1 == 1 {
                gemv::add_scaled(focus, 1.0, scores);
            }
            out.fill(0.0);
            for (score, value) in scores.iter().zip(self.values[range].chunks_exact(Dims::HEAD)) {
                gemv::add_scaled(out, *score, value);
            }
        }
    }
}
