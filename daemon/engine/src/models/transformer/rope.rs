//! Rotary position embedding: queries and keys in, the same turned by their position. Source: arXiv 2104.09864.

use super::{RopePairs, TransformerSpec};

/// Sines and cosines of every position.
pub(super) struct Rope {
    pairs: RopePairs,
    dim: usize,
    /// `[position][dim / 2]` of (cos, sin).
    table: Vec<(f32, f32)>,
    /// 1/√dim, which every score is scaled by; it goes into the query.
    scale: f32,
}

impl Rope {
    pub(super) fn new(spec: &TransformerSpec, positions: usize) -> Self {
        let dim = spec.head_dim;
        Self { pairs: spec.rope_pairs, dim, table: angles(spec, positions), scale: 1.0 / (dim as f32).sqrt() }
    }

    pub(super) fn turn_query(&self, position: usize, query: &mut [f32]) {
        self.turn(position, query, self.scale);
    }

    pub(super) fn turn_key(&self, position: usize, key: &mut [f32]) {
        self.turn(position, key, 1.0);
    }

    fn turn(&self, position: usize, values: &mut [f32], scale: f32) {
        let half = self.dim / 2;
        let angles = &self.table[position * half..(position + 1) * half];
        for head in values.chunks_exact_mut(self.dim) {
            match self.pairs {
                RopePairs::Adjacent => {
                    for ([a, b], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                        (*a, *b) = ((*a * cos - *b * sin) * scale, (*a * sin + *b * cos) * scale);
                    }
                }
                RopePairs::Halves => {
                    let (low, high) = head.split_at_mut(half);
                    for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(angles) {
                        (*a, *b) = ((*a * cos - *b * sin) * scale, (*a * sin + *b * cos) * scale);
                    }
                }
            }
        }
    }
}

/// (cos, sin) of every position, `[position][dim / 2]`.
pub(super) fn angles(spec: &TransformerSpec, positions: usize) -> Vec<(f32, f32)> {
    let dim = spec.head_dim;
    let mut table = Vec::with_capacity(positions * dim / 2);
    for position in 0..positions {
        for index in 0..dim / 2 {
            let frequency = f64::from(spec.rope_base).powf(-2.0 * index as f64 / dim as f64);
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            table.push((cos as f32, sin as f32));
        }
    }
    table
}
