//! Keys and values of all sequences in one pool of blocks, and attention over them.
//!
//! Enters: queries, keys and values of a step's rows; which blocks are whose. Leaves: what the queries attend to. Never
//! here: who gets which block.
//!
//! Sequences with as many rows each are attended together: their blocks are gathered side by side, as many for each as
//! the longest has, and what is not theirs is masked. So a step's shapes depend on nothing but its counts.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::ops::softmax_last_dim;
use half::f16;

use super::TransformerSpec;
use super::blocks::{BLOCK, Copied, Table};

/// How keys and values are kept. Eleven bits of precision; what is computed with them is f32. What is too large for it is
/// kept as its largest: an infinity would be no number for whoever looks past it under a mask, even in a later sequence.
pub(super) const NUMBER: DType = DType::F16;

/// The pool: of each layer keys and values, `[blocks][BLOCK][kv_heads][head_dim]`.
pub(super) struct Pages {
    layers: Vec<[Tensor; 2]>,
    /// The least number that can be kept, and the largest.
    bounds: [Tensor; 2],
    blocks: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

/// Sequences of a step with as many rows each; their rows follow one another.
pub(super) struct Group {
    first: usize,
    sequences: usize,
    rows: usize,
    /// Positions that are looked at: whole blocks.
    span: usize,
    /// `[sequences · span / BLOCK]`
    blocks: Tensor,
    /// `[sequences][1][rows][span]`: 0 where a row may look, −∞ elsewhere.
    mask: Tensor,
}

impl Group {
    /// Of these sequences, which have reserved `rows` more positions; the first of those rows is `first`.
    pub(super) fn new(tables: &[&Table], first: usize, rows: usize, device: &Device) -> Result<Self> {
        let count = tables.iter().map(|table| (table.len() + rows).div_ceil(BLOCK)).max().unwrap_or_default();
        let (sequences, span) = (tables.len(), count * BLOCK);
        let mut blocks = Vec::with_capacity(sequences * count);
        let mut mask = Vec::with_capacity(sequences * rows * span);
        for table in tables {
            // What is beyond is masked: any block serves.
            let own = table.blocks().iter().copied();
            blocks.extend(own.chain(std::iter::repeat(0)).take(count));
            for row in 0..rows {
                let seen = table.len() + row + 1;
                mask.extend((0..span).map(|position| if position < seen { 0.0_f32 } else { f32::NEG_INFINITY }));
            }
        }
        let blocks = Tensor::from_vec(blocks, sequences * count, device)?;
        let mask = Tensor::from_vec(mask, (sequences, 1, rows, span), device)?;
        Ok(Self { first, sequences, rows, span, blocks, mask })
    }
}

impl Pages {
    pub(super) fn new(spec: &TransformerSpec, blocks: usize, device: &Device) -> Result<Self> {
        let shape = (blocks, BLOCK, spec.kv_heads, spec.head_dim);
        let pool = || Ok([Tensor::zeros(shape, NUMBER, device)?, Tensor::zeros(shape, NUMBER, device)?]);
        let layers = (0..spec.layers).map(|_| pool()).collect::<Result<_>>()?;
        let bound = |number: f16| Tensor::from_vec(vec![number.to_f32()], (1, 1), device);
        let bounds = [bound(f16::MIN)?, bound(f16::MAX)?];
        Ok(Self { layers, bounds, blocks, heads: spec.heads, kv_heads: spec.kv_heads, dim: spec.head_dim })
    }

    /// Keys and values of a layer.
    pub(super) fn of(&self, layer: usize) -> &[Tensor; 2] {
        &self.layers[layer]
    }

    /// Copies whole blocks of all layers.
    pub(super) fn copy(&self, copied: &[Copied], device: &Device) -> Result<()> {
        if copied.is_empty() {
            return Ok(());
        }
        let width = BLOCK * self.kv_heads * self.dim;
        let list = |of: fn(&Copied) -> u32| Tensor::from_vec(copied.iter().map(of).collect(), copied.len(), device);
        let from = list(|copied| copied.from)?;
        let to = places(&list(|copied| copied.to)?, width)?;
        for pool in self.layers.iter().flatten() {
            let pool = pool.reshape((self.blocks, width))?;
            pool.scatter_set(&to, &pool.index_select(&from, 0)?, 0)?;
        }
        Ok(())
    }

    /// Where rows go, of which this is each one's slot: what [`Pages::write`] takes.
    pub(super) fn places(&self, slots: Vec<u32>, device: &Device) -> Result<Tensor> {
        let count = slots.len();
        Ok(places(&Tensor::from_vec(slots, count, device)?, self.kv_heads * self.dim)?)
    }

    /// Writes `[rows][kv_heads · head_dim]` of keys and of values.
    pub(super) fn write(&self, layer: usize, places: &Tensor, keys: &Tensor, values: &Tensor) -> Result<()> {
        let shape = (self.blocks * BLOCK, self.kv_heads * self.dim);
        for (pool, new) in self.layers[layer].iter().zip([keys, values]) {
            let [least, most] = &self.bounds;
            let new = new.broadcast_maximum(least)?.broadcast_minimum(most)?.to_dtype(NUMBER)?;
            pool.reshape(shape)?.scatter_set(places, &new.contiguous()?, 0)?;
        }
        Ok(())
    }

    /// `[rows][heads · head_dim]` of scaled queries to as many of what they attend to. The groups cover all rows, in order.
    pub(super) fn attend(&self, layer: usize, groups: &[Group], queries: &Tensor) -> Result<Tensor> {
        let parts = groups.iter().map(|group| self.attend_group(layer, group, queries)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    fn attend_group(&self, layer: usize, group: &Group, queries: &Tensor) -> Result<Tensor> {
        let &Group { first, sequences, rows, span, ref blocks, ref mask } = group;
        let (kv, dim, shared) = (self.kv_heads, self.dim, self.heads / self.kv_heads);
        let [keys, values] = &self.layers[layer];
        // Heads that share keys and values lie beside each other, as if they were rows.
        let queries = queries.narrow(0, first, sequences * rows)?;
        let queries = queries.reshape((sequences, rows, kv, shared, dim))?.permute((0, 2, 3, 1, 4))?;
        let queries = queries.contiguous()?.reshape((sequences * kv, shared * rows, dim))?;
        let gathered = |pool: &Tensor| pool.index_select(blocks, 0)?.reshape((sequences, span, kv, dim));
        let keys = gathered(keys)?.permute((0, 2, 3, 1))?.contiguous()?.to_dtype(DType::F32)?;
        let scores = queries.matmul(&keys.reshape((sequences * kv, dim, span))?)?;
        let scores = scores.reshape((sequences, kv * shared, rows, span))?.broadcast_add(mask)?;
        let weights = softmax_last_dim(&scores)?.reshape((sequences * kv, shared * rows, span))?;
        let values = gathered(values)?.permute((0, 2, 1, 3))?.contiguous()?.to_dtype(DType::F32)?;
        let attended = weights.matmul(&values.reshape((sequences * kv, span, dim))?)?;
        let attended = attended.reshape((sequences, kv, shared, rows, dim))?.permute((0, 3, 1, 2, 4))?;
        Ok(attended.contiguous()?.reshape((sequences * rows, kv * shared * dim))?)
    }
}

fn places(of: &Tensor, width: usize) -> candle_core::Result<Tensor> {
    of.unsqueeze(1)?.broadcast_as((of.elem_count(), width))?.contiguous()
}
