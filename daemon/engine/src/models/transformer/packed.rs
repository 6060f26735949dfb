//! The model on a processor: our kernels over packed weights, each sequence's keys and values side by side.
//!
//! Enters: [`Piece`]s. Leaves: logits; the caches are longer. Never here: a copy of a cache, an allocation that grows with
//! the sequence.

use std::path::Path;

use anyhow::Result;

use super::adapter::Adapted;
use super::rope::Rope;
use super::{Piece, TransformerSpec, Wanted};
use crate::kernels::attention::{KvCache, Span, attend};
use crate::kernels::matmul::{Activations, Precision, matmul};
use crate::kernels::packed::Packed;
use crate::kernels::pool::Parts;
use crate::kernels::{Level, Pool, row};
use crate::weights::gguf::Gguf;
use crate::weights::import::Imported;
use crate::weights::peft::Module;

/// Of the matrices whose rounding decides between two nearly even tokens: those that make queries, keys and values, and
/// the vocabulary. They are a tenth of a prompt's work; agreement with f32 rises from 97.2 to 98.1 % (SmolLM2).
const EXACT: Precision = Precision::TwoBytes;

/// A matrix and, where the model has one, its bias.
struct Linear {
    weight: Packed,
    bias: Option<Vec<f32>>,
}

struct Layer {
    attention_norm: Vec<f32>,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    feed_forward_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A loaded model, its weights and its buffers.
pub(super) struct Decoder {
    spec: TransformerSpec,
    embedding: Packed,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// None: the embedding serves.
    head: Option<Packed>,
    rope: Rope,
    level: Level,
    pool: Pool,
    buffers: Buffers,
}

#[derive(Default)]
struct Buffers {
    activations: Activations,
    stream: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attended: Vec<f32>,
    back: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    logits: Vec<f32>,
    /// First halves of adapters, between two matrices.
    low: Vec<f32>,
}

impl Decoder {
    /// Loads a GGUF file (at `path`) through its packed form in the folder `cache`.
    ///
    /// # Errors
    /// If a tensor does not fit; one sentence.
    pub(super) fn load(
        path: &Path,
        gguf: &Gguf,
        spec: &TransformerSpec,
        cache: &Path,
        context: usize,
        level: Level,
        pool: Pool,
    ) -> Result<Self> {
        let weights = Imported::open(path, gguf, cache, &pool)?;
        let (hidden, ff) = (spec.hidden, spec.feed_forward);
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let layers = (0..spec.layers)
            .map(|index| {
                let name = |part: &str| format!("blk.{index}.{part}");
                let vector = |part: &str| weights.vector(&name(part), hidden);
                let linear = |part: &str, rows: usize, cols: usize, bias: bool| -> Result<Linear> {
                    let weight = weights.matrix(&name(&format!("{part}.weight")), rows, cols)?;
                    let bias = bias.then(|| weights.vector(&name(&format!("{part}.bias")), rows)).transpose()?;
                    Ok(Linear { weight, bias })
                };
                Ok(Layer {
                    attention_norm: vector("attn_norm.weight")?,
                    query: linear("attn_q", q, hidden, spec.qkv_bias)?,
                    key: linear("attn_k", kv, hidden, spec.qkv_bias)?,
                    value: linear("attn_v", kv, hidden, spec.qkv_bias)?,
                    output: linear("attn_output", hidden, q, false)?,
                    feed_forward_norm: vector("ffn_norm.weight")?,
                    gate: linear("ffn_gate", ff, hidden, false)?,
                    up: linear("ffn_up", ff, hidden, false)?,
                    down: linear("ffn_down", hidden, ff, false)?,
                })
            })
            .collect::<Result<_>>()?;
        let head = "output.weight";
        let head = weights.has(head).then(|| weights.matrix(head, spec.vocabulary, hidden)).transpose()?;
        Ok(Self {
            embedding: weights.matrix("token_embd.weight", spec.vocabulary, hidden)?,
            layers,
            norm: weights.vector("output_norm.weight", hidden)?,
            head,
            rope: Rope::new(spec, context),
            spec: spec.clone(),
            level,
            pool,
            buffers: Buffers::default(),
        })
    }

    /// An empty cache for one sequence of up to `capacity` tokens.
    pub(super) fn cache(&self, capacity: usize) -> KvCache {
        KvCache::new(self.spec.layers, self.spec.kv_heads, self.spec.head_dim, capacity)
    }

    /// Computes one step; see [`super::Transformer::step`], which has checked the pieces.
    pub(super) fn step(
        &mut self,
        pieces: &mut [Piece<KvCache>],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<&[f32]>> {
        let adapted = Adapted::new(pieces.iter().map(|piece| (piece.tokens.len(), piece.adapter)));
        let Self { spec, buffers, level, pool, .. } = self;
        let (level, hidden) = (*level, spec.hidden);
        let rows = pieces.iter().map(|piece| piece.tokens.len()).sum::<usize>();
        buffers.resize(spec, rows);
        let Buffers { activations, stream, query, key, value, attended, back, gate, up, logits, low } = buffers;
        low.resize(adapted.room(), 0.0);

        let tokens = pieces.iter().flat_map(|piece| piece.tokens);
        let mut wide = vec![0.0; self.embedding.cols()];
        for (row, &token) in stream.chunks_exact_mut(hidden).zip(tokens) {
            self.embedding.row(token as usize, &mut wide);
            row.copy_from_slice(&wide[..hidden]);
        }
        let (q, kv, ff) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.feed_forward);
        for (index, layer) in self.layers.iter().enumerate() {
            if !go_on() {
                return Ok(None);
            }
            // What the rows of an adapter need of the activations is computed while those are at hand.
            let halves = Parts::new(low);
            let reduce = |modules: &[Module], row: usize, x: &[f32]| {
                // SAFETY: every fill gives each row to one thread, and none overlaps another.
                unsafe { adapted.reduce(level, index, modules, row, x, &halves) }
            };
            norm_into(
                activations,
                EXACT,
                level,
                pool,
                stream,
                (index > 0).then_some(&**back),
                hidden,
                &layer.attention_norm,
                spec.norm_epsilon,
                &|row, x| reduce(&[Module::Query, Module::Key, Module::Value], row, x),
            );
            matmul(
                level,
                pool,
                activations,
                &mut [(&layer.query.weight, query), (&layer.key.weight, key), (&layer.value.weight, value)],
            );
            let outputs = &mut [(Module::Query, &mut **query), (Module::Key, key), (Module::Value, value)];
            adapted.expand(level, pool, index, low, outputs);
            let mut row = 0;
            for piece in pieces.iter_mut() {
                for position in piece.cache.len()..piece.cache.len() + piece.tokens.len() {
                    let query = &mut query[row * q..(row + 1) * q];
                    let key = &mut key[row * kv..(row + 1) * kv];
                    let value = &mut value[row * kv..(row + 1) * kv];
                    for (linear, values) in
                        [(&layer.query, &mut *query), (&layer.key, &mut *key), (&layer.value, &mut *value)]
                    {
                        if let Some(bias) = &linear.bias {
                            row::add(level, bias, values);
                        }
                    }
                    self.rope.turn_query(position, query);
                    self.rope.turn_key(position, key);
                    piece.cache.write(index, position, key, value);
                    row += 1;
                }
            }
            let mut first_row = 0;
            let spans: Vec<Span> = pieces
                .iter()
                .map(|piece| {
                    let rows = piece.tokens.len();
                    first_row += rows;
                    Span { cache: piece.cache, first_row: first_row - rows, rows, position: piece.cache.len() }
                })
                .collect();
            attend(level, pool, index, spec.heads, &spans, query, attended);
            activations.fill(level, pool, Precision::Byte, rows, q, &|row, to| {
                to.copy_from_slice(&attended[row * q..(row + 1) * q]);
                reduce(&[Module::Output], row, to);
            });
            matmul(level, pool, activations, &mut [(&layer.output.weight, back)]);
            adapted.expand(level, pool, index, low, &mut [(Module::Output, back)]);
            norm_into(
                activations,
                Precision::Byte,
                level,
                pool,
                stream,
                Some(back),
                hidden,
                &layer.feed_forward_norm,
                spec.norm_epsilon,
                &|row, x| reduce(&[Module::Gate, Module::Up], row, x),
            );
            matmul(level, pool, activations, &mut [(&layer.gate.weight, gate), (&layer.up.weight, up)]);
            adapted.expand(level, pool, index, low, &mut [(Module::Gate, &mut **gate), (Module::Up, up)]);
            activations.fill(level, pool, Precision::Byte, rows, ff, &|row, to| {
                row::silu_mul(level, &gate[row * ff..(row + 1) * ff], &up[row * ff..(row + 1) * ff], to);
                reduce(&[Module::Down], row, to);
            });
            matmul(level, pool, activations, &mut [(&layer.down.weight, back)]);
            adapted.expand(level, pool, index, low, &mut [(Module::Down, back)]);
        }

        let mut wanted = Vec::new();
        let mut row = 0;
        for piece in pieces.iter_mut() {
            let count = piece.tokens.len();
            match piece.wanted {
                Wanted::Nothing => {}
                Wanted::Last => wanted.push(row + count - 1),
                Wanted::All => wanted.extend(row..row + count),
            }
            row += count;
            piece.cache.advance(count);
        }
        logits.resize(wanted.len() * spec.vocabulary, 0.0);
        if !wanted.is_empty() {
            activations.fill(level, pool, EXACT, wanted.len(), hidden, &|index, to| {
                let at = wanted[index] * hidden;
                let mut sum = stream[at..at + hidden].to_vec();
                row::add(level, &back[at..at + hidden], &mut sum);
                row::rms_norm(level, &sum, &self.norm, spec.norm_epsilon, to);
            });
            let head = self.head.as_ref().unwrap_or(&self.embedding);
            matmul(level, pool, activations, &mut [(head, logits)]);
        }
        Ok(Some(logits))
    }
}

/// `stream += back`, then the norm of `stream`, quantised; `also` is given each row of it before.
#[expect(clippy::too_many_arguments, reason = "one place for two of the same")]
fn norm_into(
    activations: &mut Activations,
    precision: Precision,
    level: Level,
    pool: &Pool,
    stream: &mut [f32],
    back: Option<&[f32]>,
    hidden: usize,
    weight: &[f32],
    epsilon: f32,
    also: &(dyn Fn(usize, &[f32]) + Sync),
) {
    let rows = stream.len() / hidden;
    let stream = Parts::new(stream);
    activations.fill(level, pool, precision, rows, hidden, &|row, to| {
        // SAFETY: one row per piece.
        let stream = unsafe { stream.get(row * hidden, hidden) };
        if let Some(back) = back {
            row::add(level, &back[row * hidden..(row + 1) * hidden], stream);
        }
        row::rms_norm(level, stream, weight, epsilon, to);
        also(row, to);
    });
}

impl Buffers {
    fn resize(&mut self, spec: &TransformerSpec, rows: usize) {
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        for (buffer, width) in [
            (&mut self.stream, spec.hidden),
            (&mut self.query, q),
            (&mut self.key, kv),
            (&mut self.value, kv),
            (&mut self.attended, q),
            (&mut self.back, spec.hidden),
            (&mut self.gate, spec.feed_forward),
            (&mut self.up, spec.feed_forward),
        ] {
            buffer.resize(rows * width, 0.0);
        }
    }
}
