//! What a step computes with, made once: buffers whose addresses stay.
//!
//! Enters: sizes; of each step, its rows. Leaves: addresses. Never here: what is in them after a step.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::{MOST, NOBODY, Row, TransformerSpec, stride};
use crate::device::{Argument, address};

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
    /// Tokens, and then of each row its past and its pages.
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
}

impl Buffers {
    /// `parts`: rows times parts of their past, at most.
    pub(super) fn new(spec: &TransformerSpec, context: usize, parts: usize, device: &Device) -> Result<Self> {
        let zeros = |count: usize, number: DType| Held::zeros(count, number, device);
        let queries = spec.heads * spec.head_dim;
        let widest = spec.hidden.max(queries).max(spec.feed_forward);
        let stride = stride(context);
        Ok(Self {
            steps: zeros(MOST + MOST * stride, DType::U32)?,
            stride,
            stream: zeros(MOST * spec.hidden, DType::F32)?,
            f32: zeros(MOST * widest, DType::F32)?,
            bf16: zeros(MOST * widest, DType::BF16)?,
            heads: zeros(MOST * (queries + 2 * spec.kv_heads * spec.head_dim), DType::F32)?,
            partial: zeros(parts * queries, DType::F32)?,
            extremes: zeros(parts * spec.heads * 2, DType::F32)?,
            inner: zeros(MOST * 2 * spec.feed_forward, DType::F32)?,
            logits: Held::zeros((MOST, spec.vocabulary), DType::F32, device)?,
        })
    }

    /// Where the pasts and pages begin.
    pub(super) fn pasts(&self) -> u64 {
        self.steps.address + (MOST * size_of::<u32>()) as u64
    }

    /// Brings what a step needs to know to the device, in one go.
    pub(super) fn tell(&self, rows: &[Row], bucket: usize) -> Result<()> {
        let mut words = vec![0_u32; MOST + bucket * self.stride];
        let (tokens, pasts) = words.split_at_mut(MOST);
        for past in pasts.chunks_exact_mut(self.stride) {
            past[0] = NOBODY;
        }
        for ((row, token), past) in rows.iter().zip(tokens).zip(pasts.chunks_exact_mut(self.stride)) {
            *token = row.token;
            past[0] = u32::try_from(row.past)?;
            past[1..=row.pages.len()].copy_from_slice(row.pages);
        }
        let count = words.len();
        let told = Tensor::from_vec(words, count, self.steps.tensor.device())?;
        Ok(self.steps.tensor.slice_set(&told, 0, 0)?)
    }
}
