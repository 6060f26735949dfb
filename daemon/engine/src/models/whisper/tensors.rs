//! Whisper's decoder on tensors: the next token of several utterances at once.
//!
//! Enters: what the encoder made of some utterances, then a token of each. Leaves: what comes next in each. Computes on any
//! device; on a processor only to be tested, where `decoder.rs` is faster. In f32, as the encoder, but for matrices that lie in
//! blocks: they stay as they are.
//!
//! The utterances of a batch begin together and go on by a token each, so all are at one position and nothing of what was
//! said needs a mask; what was heard is as long as the longest, with a mask. Every sequence has keys and values of its own.

use candle_core::{D, DType, Device, Result, Tensor};

use super::LoadError;
use super::alignment::{self, Heads};
use super::checkpoint::{Checkpoint, Dims};
use super::encoder::padding;
use super::tokens::Vocabulary;
use super::utterance::Next;
use crate::models::layers::{Linear, Matrix, Norm, gelu, softmax};

struct Block {
    attn_norm: Norm,
    qkv: Linear,
    out: Linear,
    cross_norm: Norm,
    query: Linear,
    cross_keys: Linear,
    cross_out: Linear,
    /// `[1, heads, 1, 1]`: 1 for those that know where in the audio the decoder is; none where no head of the layer does.
    heads: Option<Tensor>,
    mlp_norm: Norm,
    up: Linear,
    down: Linear,
}

/// The decoder.
pub(super) struct Decoder {
    /// Of tokens, and what scores them.
    embedding: Matrix,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    /// Added to the scores: of tokens that never follow; of those and what no text begins with.
    barred: [Tensor; 2],
    no_speech: usize,
    end: usize,
    dims: Dims,
    device: Device,
}

/// Keys and values of one layer.
struct Kept {
    keys: Tensor,
    values: Tensor,
}

impl Kept {
    fn keep(&mut self, rows: &Tensor) -> Result<()> {
        self.keys = self.keys.index_select(rows, 0)?;
        self.values = self.values.index_select(rows, 0)?;
        Ok(())
    }
}

/// Utterances that are decoded together.
pub(super) struct Batch {
    /// Keys `[row, head, HEAD, position]`, values `[row, head, position, HEAD]`.
    heard: Vec<Kept>,
    /// Both `[row, head, position, HEAD]`, with room for positions to come.
    said: Vec<Kept>,
    mask: Option<Tensor>,
    positions: usize,
    rows: usize,
}

impl Batch {
    /// Goes on with some of its rows.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn keep(&mut self, rows: &[u32], device: &Device) -> Result<()> {
        let index = Tensor::new(rows, device)?;
        for kept in self.heard.iter_mut().chain(&mut self.said) {
            kept.keep(&index)?;
        }
        self.mask = self.mask.take().map(|mask| mask.index_select(&index, 0)).transpose()?;
        self.rows = rows.len();
        Ok(())
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }
}

impl Decoder {
    pub(super) fn load(
        checkpoint: &Checkpoint,
        vocabulary: &Vocabulary,
        device: &Device,
    ) -> std::result::Result<Self, LoadError> {
        let dims = checkpoint.dims;
        let width = dims.width;
        let scale = (Dims::HEAD as f32).sqrt().recip();
        let heads = alignment::heads(&dims);
        let block = |i: usize| -> std::result::Result<Block, LoadError> {
            let name = |part: &str| format!("decoder.blocks.{i}.{part}");
            let layer = |parts: &[&str], shape, scale| {
                let names: Vec<String> = parts.iter().map(|part| name(part)).collect();
                checkpoint.layer(&names, shape, scale, device)
            };
            let square = (width, width);
            Ok(Block {
                attn_norm: checkpoint.norm(&name("attn_ln"), device)?,
                qkv: layer(&["attn.query", "attn.key", "attn.value"], square, Some(scale))?,
                out: layer(&["attn.out"], square, None)?,
                cross_norm: checkpoint.norm(&name("cross_attn_ln"), device)?,
                query: layer(&["cross_attn.query"], square, Some(scale))?,
                cross_keys: layer(&["cross_attn.key", "cross_attn.value"], square, None)?,
                cross_out: layer(&["cross_attn.out"], square, None)?,
                heads: chosen(heads[i], dims.heads(), device)?,
                mlp_norm: checkpoint.norm(&name("mlp_ln"), device)?,
                up: layer(&["mlp.0"], (4 * width, width), None)?,
                down: layer(&["mlp.2"], (width, 4 * width), None)?,
            })
        };
        let positions = checkpoint.read("decoder.positional_embedding", &[dims.text_ctx, width])?;
        let mut never = vec![0.0_f32; dims.vocab];
        vocabulary.suppressed().for_each(|token| never[token] = f32::NEG_INFINITY);
        let mut first = never.clone();
        [vocabulary.blank(), vocabulary.end()].into_iter().for_each(|token| first[token] = f32::NEG_INFINITY);
        Ok(Self {
            embedding: checkpoint.embedding(device)?,
            positions: Tensor::from_vec(positions, (dims.text_ctx, width), device)?,
            blocks: (0..dims.text_layers).map(block).collect::<std::result::Result<_, _>>()?,
            norm: checkpoint.norm("decoder.ln", device)?,
            barred: [Tensor::new(never, device)?, Tensor::new(first, device)?],
            no_speech: vocabulary.no_speech(),
            end: vocabulary.end(),
            dims,
            device: device.clone(),
        })
    }

    /// Begins utterances of which the encoder made `encoded`, `positions` of each counting, with room for `room` tokens.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn begin(&self, encoded: &Tensor, positions: &[usize], room: usize) -> Result<Batch> {
        let (rows, heads) = (positions.len(), self.dims.heads());
        let most = encoded.dim(0)? / rows.max(1);
        let heard = |block: &Block| -> Result<Kept> {
            let both = block.cross_keys.run(encoded)?.reshape((rows, most, 2, heads, Dims::HEAD))?;
            let part = |i: usize| both.narrow(2, i, 1)?.squeeze(2);
            let keys = part(0)?.permute((0, 2, 3, 1))?.contiguous()?;
            Ok(Kept { keys, values: part(1)?.transpose(1, 2)?.contiguous()? })
        };
        let room = room.min(self.dims.text_ctx);
        let said = |_: &Block| -> Result<Kept> {
            let empty = || Tensor::zeros((rows, heads, room, Dims::HEAD), DType::F32, &self.device);
            Ok(Kept { keys: empty()?, values: empty()? })
        };
        Ok(Batch {
            heard: self.blocks.iter().map(heard).collect::<Result<_>>()?,
            said: self.blocks.iter().map(said).collect::<Result<_>>()?,
            mask: padding(positions, most, &self.device)?,
            positions: 0,
            rows,
        })
    }

    /// Feeds what each utterance begins with, equally many tokens of each. Leaves the probability that nobody speaks, and what
    /// comes first.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn prompt(&self, batch: &mut Batch, prompts: &[Vec<usize>]) -> Result<(Vec<f32>, Vec<Next>)> {
        let tokens: Vec<u32> = prompts.iter().flatten().map(|&token| token as u32).collect();
        let count = tokens.len() / prompts.len().max(1);
        let (x, focus) = self.run(batch, &tokens, count)?;
        let start = self.embedding.forward(&self.norm.run(&x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)?)?;
        let silence = start.narrow(1, self.no_speech, 1)?.squeeze(1)?.sub(&start.log_sum_exp(1)?)?.exp()?;
        let last = x.narrow(1, count - 1, 1)?.squeeze(1)?.contiguous()?;
        Ok((silence.to_vec1()?, self.next(&last, &focus, &self.barred[1])?))
    }

    /// Feeds a token of each utterance; nothing comes if there is no room for more.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn step(&self, batch: &mut Batch, tokens: &[u32]) -> Result<Option<Vec<Next>>> {
        if batch.said.first().is_none_or(|said| said.keys.dim(2).is_ok_and(|room| batch.positions >= room)) {
            return Ok(None);
        }
        let (x, focus) = self.run(batch, tokens, 1)?;
        self.next(&x.squeeze(1)?, &focus, &self.barred[0]).map(Some)
    }

    /// `count` tokens of each row; leaves `[row, token, width]`, and of each row what the last token attended to.
    fn run(&self, batch: &mut Batch, tokens: &[u32], count: usize) -> Result<(Tensor, Tensor)> {
        let (rows, heads, width, at) = (batch.rows, self.dims.heads(), self.dims.width, batch.positions);
        let all = at + count;
        let x = self.embedding.rows(&Tensor::new(tokens, &self.device)?)?.reshape((rows, count, width))?;
        let x = x.broadcast_add(&self.positions.narrow(0, at, count)?)?;
        let mut x = x.reshape((rows * count, width))?;
        let later = later(at, count, &self.device)?;
        let by_head = |x: Tensor| x.reshape((rows, count, heads, Dims::HEAD))?.transpose(1, 2)?.contiguous();
        let by_row = |x: Tensor| x.transpose(1, 2)?.reshape((rows * count, width));
        let mut focus: Option<Tensor> = None;
        for ((block, said), heard) in self.blocks.iter().zip(&batch.said).zip(&batch.heard) {
            let qkv = block.qkv.run(&block.attn_norm.run(&x)?)?;
            let part = |i: usize| by_head(qkv.narrow(1, i * width, width)?.contiguous()?);
            said.keys.slice_set(&part(1)?, 2, at)?;
            said.values.slice_set(&part(2)?, 2, at)?;
            let mut scores = part(0)?.matmul(&said.keys.narrow(2, 0, all)?.transpose(2, 3)?)?;
            if let Some(later) = &later {
                scores = scores.broadcast_add(later)?;
            }
            softmax(&mut scores)?;
            x = (x + block.out.run(&by_row(scores.matmul(&said.values.narrow(2, 0, all)?)?)?)?)?;

            let query = by_head(block.query.run(&block.cross_norm.run(&x)?)?)?;
            let mut scores = query.matmul(&heard.keys)?;
            if let Some(mask) = &batch.mask {
                scores = scores.broadcast_add(mask)?;
            }
            softmax(&mut scores)?;
            if let Some(heads) = &block.heads {
                let looked = scores.narrow(2, count - 1, 1)?.broadcast_mul(heads)?.sum(1)?.squeeze(1)?;
                focus = Some(match focus {
                    Some(focus) => (focus + looked)?,
                    None => looked,
                });
            }
            x = (x + block.cross_out.run(&by_row(scores.matmul(&heard.values)?)?)?)?;

            let mut up = block.up.run(&block.mlp_norm.run(&x)?)?;
            gelu(&mut up)?;
            x = (x + block.down.run(&up)?)?;
        }
        batch.positions = all;
        let focus = match focus {
            Some(focus) => focus,
            None => Tensor::zeros((rows, 1), DType::F32, &self.device)?,
        };
        Ok((x.reshape((rows, count, width))?, focus))
    }

    /// What comes next: five numbers of each row leave the device, not fifty thousand.
    fn next(&self, x: &Tensor, focus: &Tensor, barred: &Tensor) -> Result<Vec<Next>> {
        let scores = self.embedding.forward(&self.norm.run(x)?)?.broadcast_add(barred)?;
        // Tokens and positions are exact in f32.
        let told = Tensor::stack(
            &[
                scores.argmax(D::Minus1)?.to_dtype(DType::F32)?,
                scores.max(D::Minus1)?,
                scores.narrow(1, self.end, 1)?.squeeze(1)?,
                scores.log_sum_exp(1)?,
                focus.argmax(D::Minus1)?.to_dtype(DType::F32)?,
            ],
            1,
        )?;
        let next = |told: Vec<f32>| match told[..] {
            [best, score, end, sum, focus] => {
                Next { best: best as usize, logprob: score - sum, end: end - sum, focus: focus as usize }
            }
            _ => unreachable!("five were stacked"),
        };
        Ok(told.to_vec2()?.into_iter().map(next).collect())
    }
}

/// What keeps tokens that are fed together from those after them, `[count, all]`; none for one token.
fn later(at: usize, count: usize, device: &Device) -> Result<Option<Tensor>> {
    if count == 1 {
        return Ok(None);
    }
    let row = |own: usize| (0..at + count).map(move |other| if other <= own { 0.0_f32 } else { f32::NEG_INFINITY });
    let mask: Vec<f32> = (at..at + count).flat_map(row).collect();
    Tensor::from_vec(mask, (count, at + count), device).map(Some)
}

fn chosen(heads: Heads, count: usize, device: &Device) -> Result<Option<Tensor>> {
    let mask: Vec<f32> = (0..count).map(|head| (heads >> head & 1) as f32).collect();
    (heads != 0).then(|| Tensor::from_vec(mask, (1, count, 1, 1), device)).transpose()
}
