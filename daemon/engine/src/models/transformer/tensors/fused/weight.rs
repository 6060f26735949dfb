//! A matrix, or several that take the same rows.
//!
//! Enters: matrices as they are loaded. Leaves: one that computes all of them at once, where it can be. Never here: a copy.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::buffers::Held;
use crate::models::layers::Matrix;

/// What rows are multiplied with.
pub(in super::super) enum Weight {
    /// `[outputs][inputs]`, f32 or brain floats.
    Dense { matrix: Held, inputs: usize, outputs: usize },
    /// candle's blocks: one after the other, with the outputs of each.
    Parts { matrices: Vec<(Matrix, usize)>, inputs: usize },
}

impl Weight {
    /// `parts`: matrices and the outputs of each; `whole`: all of them as one, of numbers of this kind.
    pub(in super::super) fn of(
        parts: &[(&Matrix, usize)],
        whole: Option<&Tensor>,
        inputs: usize,
        number: Option<DType>,
    ) -> Result<Self> {
        let whole = match parts {
            [(Matrix::Dense(matrix), _)] => Some(matrix),
            _ => whole,
        };
        match whole {
            Some(whole) => {
                let (outputs, inputs) = whole.dims2()?;
                let matrix = Held::of(&whole.to_dtype(number.unwrap_or_else(|| whole.dtype()))?)?;
                Ok(Self::Dense { matrix, inputs, outputs })
            }
            None => {
                let matrices = parts.iter().map(|(matrix, outputs)| ((*matrix).clone(), *outputs)).collect();
                Ok(Self::Parts { matrices, inputs })
            }
        }
    }

    pub(super) fn is_dense(&self) -> bool {
        matches!(self, Self::Dense { .. })
    }

    /// Inputs and outputs.
    pub(super) fn sizes(&self) -> (usize, usize) {
        match self {
            Self::Dense { inputs, outputs, .. } => (*inputs, *outputs),
            Self::Parts { matrices, inputs } => (*inputs, matrices.iter().map(|(_, outputs)| outputs).sum()),
        }
    }
}
