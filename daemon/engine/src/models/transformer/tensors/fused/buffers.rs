//! What a step computes with, made once: buffers whose addresses stay.
//!
//! Enters: sizes; of each step, its rows. Leaves: addresses. Never here: what is in them after a step.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::super::lora::Layers;
use super::{MAX_RANK, MOST, Module, NEAR, NOBODY, Reach, Row, TransformerSpec, stride};
use crate::device::{Argument, address};

/// Words before those of the rows: a token for each, and two that say its reach.
const HEAD: usize = 3 * MOST;

/// A tensor that stays, and where it lies.
pub(in super::super) struct Held {
    pub(super) tensor: Tensor,
    pub(super) address: u64,
}

impl Held {
    pub(super) fn of(tensor: &Tensor) -> Result<Self> {
        Ok(Self { tensor: tensor.clone(), address: address(tensor)? })
    }

    fn zeros(shape: impl Into<candle_core::Shape>, number: DType, device: &Device) -> Result<Self> {
        Self::of(&Tensor::zeros(shape, number, device)?)
    }

    pub(super) fn argument(&self) -> Argument {
        Argument::Address(self.address)
    }

    /// The first `rows` rows of `width` numbers.
    pub(super) fn rows(&self, rows: usize, width: usize) -> Result<Tensor> {
        Ok(self.tensor.narrow(0, 0, rows * width)?.reshape((rows, width))?)
    }
}

/// All for [`MOST`] rows.
pub(super) struct Buffers {
    /// Tokens, reaches, and then of each row its past, its ranks and its pages.
    pub(super) steps: Held,
    /// Words of one row.
    pub(super) stride: usize,
    /// `[rows][hidden]`, f32
    pub(super) stream: Held,
    /// What enters a product, in f32 or in brain floats.
    pub(super) f32: Held,
    pub(super) bf16: Held,
    /// Queries, keys and values.
    pub(super) heads: Held,
    /// Sums of each part of a row's past; and its largest score, and the sum of its weights.
    pub(super) partial: Held,
    pub(super) extremes: Held,
    /// Gates and what they gate.
    pub(super) inner: Held,
    /// `[rows][vocabulary]`
    pub(super) logits: Held,
    /// Of each row how many tokens are near its best, and so many pairs of token and logit.
    pub(super) found: Held,
    /// Where both halves of the adapters of each layer's matrices lie, two words each; and what the first halves make of rows.
    pub(super) pairs: Held,
    pub(super) low: Held,
}

impl Buffers {
    /// `parts`: rows times parts of their past, at most.
    pub(super) fn new(spec: &TransformerSpec, context: usize, parts: usize, device: &Device) -> Result<Self> {
        let zeros = |count: usize, number: DType| Held::zeros(count, number, device);
        let queries = spec.heads * spec.head_dim;
        let widest = spec.hidden.max(queries).max(spec.feed_forward);
        let stride = stride(context);
        Ok(Self {
            steps: zeros(HEAD + MOST * stride, DType::U32)?,
            stride,
            stream: zeros(MOST * spec.hidden, DType::F32)?,
            f32: zeros(MOST * widest, DType::F32)?,
            bf16: zeros(MOST * widest, DType::BF16)?,
            heads: zeros(MOST * (queries + 2 * spec.kv_heads * spec.head_dim), DType::F32)?,
            partial: zeros(parts * queries, DType::F32)?,
            extremes: zeros(parts * spec.heads * 2, DType::F32)?,
            inner: zeros(MOST * 2 * spec.feed_forward, DType::F32)?,
            logits: Held::zeros((MOST, spec.vocabulary), DType::F32, device)?,
            found: Held::zeros((MOST, 1 + 2 * NEAR), DType::U32, device)?,
            pairs: zeros(spec.layers * Module::ALL.len() * 4, DType::U32)?,
            low: zeros(MOST * 3 * MAX_RANK, DType::F32)?,
        })
    }

    /// Where the reaches begin.
    pub(super) fn reaches(&self) -> u64 {
        self.steps.address + (MOST * size_of::<u32>()) as u64
    }

    /// Where the pasts and pages begin.
    pub(super) fn pasts(&self) -> u64 {
        self.steps.address + (HEAD * size_of::<u32>()) as u64
    }

    /// Brings what a step needs to know to the device, in one go. What has no reach, or an endless one, is looked for by nobody.
    pub(super) fn tell(&self, rows: &[Row], reaches: &[Option<Reach>], bucket: usize) -> Result<()> {
        let mut words = vec![0_u32; HEAD + bucket * self.stride];
        let (head, pasts) = words.split_at_mut(HEAD);
        let (tokens, told) = head.split_at_mut(MOST);
        told.fill((-1.0_f32).to_bits());
        for (reach, told) in reaches.iter().zip(told.as_chunks_mut().0) {
            if let Some(Reach { span, share }) = reach.filter(|reach| reach.span.is_finite()) {
                *told = [span.max(0.0).to_bits(), share.to_bits()];
            }
        }
        for past in pasts.chunks_exact_mut(self.stride) {
            past[0] = NOBODY;
        }
        for ((row, token), past) in rows.iter().zip(tokens).zip(pasts.chunks_exact_mut(self.stride)) {
            *token = row.token;
            let (first, count) = row.ranks;
            past[..3].copy_from_slice(&[u32::try_from(row.past)?, u32::try_from(first)?, u32::try_from(count)?]);
            past[3..3 + row.pages.len()].copy_from_slice(row.pages);
        }
        let count = words.len();
        let told = Tensor::from_vec(words, count, self.steps.tensor.device())?;
        Ok(self.steps.tensor.slice_set(&told, 0, 0)?)
    }

    /// Brings the adapters' addresses to the device.
    pub(super) fn tell_adapters(&self, layers: &Layers) -> Result<()> {
        let mut words = Vec::with_capacity(self.pairs.tensor.elem_count());
        for pair in layers.iter().flatten() {
            let addresses = match pair {
                Some(pair) => [address(&pair.a)?, address(&pair.b)?],
                None => [0; 2],
            };
            words.extend(addresses.iter().flat_map(|address| [*address as u32, (address >> 32) as u32]));
        }
        let count = words.len();
        let told = Tensor::from_vec(words, count, self.pairs.tensor.device())?;
        Ok(self.pairs.tensor.slice_set(&told, 0, 0)?)
    }
}
