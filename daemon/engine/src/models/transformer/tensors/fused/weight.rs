//! A matrix, or several that take the same rows.
//!
//! Enters: matrices as they are loaded. Leaves: one that computes all of them at once, where it can be; the kernels that read them
//! for few rows. Never here: a copy.

use std::borrow::Cow;

use anyhow::Result;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Tensor};

use super::buffers::Held;
use crate::models::layers::Matrix;

/// What rows are multiplied with.
pub(in super::super) enum Weight {
    /// `[outputs][inputs]`, f32 or brain floats.
    Dense { matrix: Held, inputs: usize, outputs: usize },
    /// Blocks of a few bits: one after the other.
    Parts { matrices: Vec<Part>, inputs: usize },
}

/// One matrix of several.
pub(in super::super) struct Part {
    pub(super) matrix: Matrix,
    pub(super) outputs: usize,
    /// Where its blocks lie, and the kernels for 1, 2 and 4 rows, if there are such for its kind.
    pub(super) lines: Option<(u64, Lines)>,
}

/// Kernels that read each line of a matrix once, for 1, 2 and 4 rows.
pub(super) type Lines = [&'static str; 3];

impl Part {
    fn of(matrix: &Matrix, outputs: usize) -> Result<Self> {
        let lines = match matrix {
            Matrix::Quantised(QMatMul::QTensor(blocks)) => lines(blocks)?,
            Matrix::Quantised(_) | Matrix::Dense(_) => None,
        };
        Ok(Self { matrix: matrix.clone(), outputs, lines })
    }
}

fn lines(blocks: &QTensor) -> Result<Option<(u64, Lines)>> {
    let kernels = match blocks.dtype() {
        GgmlDType::Q8_0 => ["lines_q8_0_1", "lines_q8_0_2", "lines_q8_0_4"],
        GgmlDType::Q4K => ["lines_q4_k_1", "lines_q4_k_2", "lines_q4_k_4"],
        GgmlDType::Q6K => ["lines_q6_k_1", "lines_q6_k_2", "lines_q6_k_4"],
        _ => return Ok(None),
    };
    if !blocks.device().is_cpu() {
        return Ok(Some((blocks.device_ptr()? as u64, kernels)));
    }
    Ok(match blocks.data()? {
        Cow::Borrowed(bytes) => Some((bytes.as_ptr() as u64, kernels)),
        Cow::Owned(_) => None,
    })
}

/// The kernels for dense numbers.
pub(super) fn dense_lines(number: DType) -> Lines {
    match number {
        DType::F32 => ["lines_float_1", "lines_float_2", "lines_float_4"],
        _ => ["lines_bf16_1", "lines_bf16_2", "lines_bf16_4"],
    }
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
                let matrices = parts.iter().map(|(matrix, outputs)| Part::of(matrix, *outputs));
                Ok(Self::Parts { matrices: matrices.collect::<Result<_>>()?, inputs })
            }
        }
    }

    pub(super) fn is_dense(&self) -> bool {
        matches!(self, Self::Dense { .. })
    }

    /// Whether kernels of ours read it, if rows are few.
    pub(super) fn has_lines(&self) -> bool {
        match self {
            Self::Dense { .. } => true,
            Self::Parts { matrices, .. } => matrices.iter().all(|part| part.lines.is_some()),
        }
    }

    /// Inputs and outputs.
    pub(super) fn sizes(&self) -> (usize, usize) {
        match self {
            Self::Dense { inputs, outputs, .. } => (*inputs, *outputs),
            Self::Parts { matrices, inputs } => (*inputs, matrices.iter().map(|part| part.outputs).sum()),
        }
    }
}
