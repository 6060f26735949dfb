//! What the networks on candle have in common. Enters and leaves: rows of numbers, one for each position.

use candle_core::quantized::QMatMul;
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Module as _, Result, Tensor};

use crate::kernels::{math, pointwise};

/// `[outputs][inputs]`
#[derive(Clone)]
pub(super) enum Matrix {
    /// In blocks, as files have them.
    Quantised(QMatMul),
    Dense(Tensor),
}

impl Matrix {
    pub(super) fn dense(&self) -> Option<&Tensor> {
        match self {
            Self::Quantised(_) => None,
            Self::Dense(matrix) => Some(matrix),
        }
    }

    /// `[rows][inputs]` to `[rows][outputs]`, both f32.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Quantised(matrix) => matrix.forward(x),
            // Turned round in place: candle multiplies so without copying.
            Self::Dense(matrix) => x.to_dtype(matrix.dtype())?.matmul(&matrix.t()?)?.to_dtype(DType::F32),
        }
    }

    /// The rows of these numbers, f32.
    pub(super) fn rows(&self, of: &Tensor) -> Result<Tensor> {
        match self {
            Self::Quantised(matrix) => matrix.embedding(of)?.to_dtype(DType::F32),
            Self::Dense(matrix) => matrix.index_select(of, 0)?.to_dtype(DType::F32),
        }
    }
}

/// `x · Wᵀ + b`
pub(super) struct Linear {
    weight: Matrix,
    /// By which each output is multiplied before the bias, where that is not in the weight.
    factor: Option<Tensor>,
    bias: Tensor,
}

impl Linear {
    /// `weight`: one row for each output.
    pub(super) fn new((weight, bias): (Vec<f32>, Vec<f32>), device: &Device) -> Result<Self> {
        let (out, inputs) = (bias.len(), weight.len() / bias.len());
        let weight = Matrix::Dense(Tensor::from_vec(weight, (out, inputs), device)?);
        Ok(Self { weight, factor: None, bias: Tensor::from_vec(bias, out, device)? })
    }

    /// Of weights in blocks, into which no factor can be put.
    pub(super) fn quantised(
        weight: QMatMul,
        factor: Option<Vec<f32>>,
        bias: Vec<f32>,
        device: &Device,
    ) -> Result<Self> {
        let row = |numbers: Vec<f32>| Tensor::new(numbers, device);
        Ok(Self { weight: Matrix::Quantised(weight), factor: factor.map(row).transpose()?, bias: row(bias)? })
    }

    pub(super) fn run(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        match &self.factor {
            Some(factor) => y.broadcast_mul(factor)?.broadcast_add(&self.bias),
            None => y.broadcast_add(&self.bias),
        }
    }
}

/// Layer normalisation.
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl Norm {
    /// `eps` avoids dividing by nothing.
    pub(super) fn new((weight, bias): (Vec<f32>, Vec<f32>), eps: f32, device: &Device) -> Result<Self> {
        let width = weight.len();
        Ok(Self { weight: Tensor::from_vec(weight, width, device)?, bias: Tensor::from_vec(bias, width, device)?, eps })
    }

    pub(super) fn run(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// Attention of every position to every position.
pub(super) struct Attention {
    qkv: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    /// `qkv`: queries, keys and values below one another. The scale of the scores is put into the queries here, once.
    pub(super) fn new(
        (mut weights, mut biases): (Vec<f32>, Vec<f32>),
        out: (Vec<f32>, Vec<f32>),
        heads: usize,
        device: &Device,
    ) -> Result<Self> {
        let width = out.1.len();
        let scale = ((width / heads) as f32).sqrt().recip();
        weights[..width * width].iter_mut().for_each(|weight| *weight *= scale);
        biases[..width].iter_mut().for_each(|bias| *bias *= scale);
        Ok(Self::of(Linear::new((weights, biases), device)?, Linear::new(out, device)?, heads))
    }

    /// The same, with queries that are scaled already.
    pub(super) fn of(qkv: Linear, out: Linear, heads: usize) -> Self {
        Self { qkv, out, heads }
    }

    pub(super) fn run(&self, x: &Tensor) -> Result<Tensor> {
        self.run_batch(x, 1, None)
    }

    /// Of `batch` sequences of one length, one after the other; `mask` is added to the scores: `[batch, 1, 1, length]`.
    pub(super) fn run_batch(&self, x: &Tensor, batch: usize, mask: Option<&Tensor>) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let qkv = self.qkv.run(x)?.reshape((batch, rows / batch, 3, self.heads, width / self.heads))?;
        let part = |i: usize| qkv.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2);
        let mut scores = part(0)?.contiguous()?.matmul(&part(1)?.transpose(2, 3)?.contiguous()?)?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        softmax(&mut scores)?;
        let mixed = scores.matmul(&part(2)?.contiguous()?)?;
        self.out.run(&mixed.transpose(1, 2)?.reshape((rows, width))?)
    }
}

pub(super) fn gelu(x: &mut Tensor) -> Result<()> {
    GELU.run(x)
}

/// The approximation by a hyperbolic tangent, with which some networks were trained.
pub(super) fn gelu_tanh(x: &mut Tensor) -> Result<()> {
    GELU_TANH.run(x)
}

pub(super) fn softmax(x: &mut Tensor) -> Result<()> {
    SOFTMAX.run(x)
}

const GELU: Rows = Rows("gelu", pointwise::gelu, Tensor::gelu_erf);
const GELU_TANH: Rows = Rows("gelu by tanh", math::gelu_tanh, Tensor::gelu);
const SOFTMAX: Rows = Rows("softmax", pointwise::softmax, candle_nn::ops::softmax_last_dim);

/// A function of each row of a tensor that is contiguous: in its place on the processor, as candle has it elsewhere.
struct Rows(&'static str, fn(&mut [f32]), fn(&Tensor) -> Result<Tensor>);

impl Rows {
    fn run(&self, x: &mut Tensor) -> Result<()> {
        if x.device().is_cpu() {
            x.inplace_op1(self)
        } else {
            *x = (self.2)(x)?;
            Ok(())
        }
    }
}

impl InplaceOp1 for Rows {
    fn name(&self) -> &'static str {
        self.0
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(data), Some((start, end)), Some(&row)) =
            (storage, layout.contiguous_offsets(), layout.dims().last())
        else {
            candle_core::bail!("{} needs contiguous f32", self.0);
        };
        data[start..end].chunks_exact_mut(row.max(1)).for_each(self.1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_computes_what_the_processor_computes() {
        let numbers: Vec<f32> = (-600..600).map(|i| i as f32 / 50.0).collect();
        for rows in [GELU, GELU_TANH, SOFTMAX] {
            let mut x = Tensor::from_slice(&numbers, (8, 150), &Device::Cpu).expect("a tensor");
            let elsewhere = (rows.2)(&x).expect("computed");
            rows.run(&mut x).expect("computed");
            let apart = (x - elsewhere).and_then(|x| x.abs()?.max_all()?.to_scalar::<f32>()).expect("a number");
            assert!(apart < 2e-6, "{}: {apart}", rows.0);
        }
    }
}
