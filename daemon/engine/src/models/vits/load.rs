//! Layers out of the ONNX container: a node's name in; a packed convolution or a normalisation out.
//!
//! The exporter folded the weight norm of the flow into anonymous tensors (`onnx::Conv_8168`). The names of the nodes
//! are the module paths, so weights are found through the node that uses them.

use candle_core::Device;

use crate::kernels::conv::Conv;
use crate::kernels::math;
use crate::weights::onnx::{Onnx, OnnxError};

pub(super) struct Loader<'a> {
    pub(super) onnx: &'a Onnx,
    pub(super) device: &'a Device,
}

/// Values with their shape.
pub(super) struct Weights {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

/// Scale and shift of a layer normalisation.
pub(super) struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Norm {
    pub(super) fn apply(&self, rows: &mut [f32]) {
        math::layer_norm(rows, &self.gamma, &self.beta);
    }
}

/// A transposed convolution whose kernel is a whole number of strides, as a plain one: input rows to groups of
/// `stride` output rows. Group `q` reads input rows `q - 1` and `q` and starts at output row `q · stride - pad`.
pub(super) struct Upsample {
    pub(super) conv: Conv,
    pub(super) stride: usize,
    pub(super) pad: usize,
    pub(super) channels: usize,
}

impl Loader<'_> {
    pub(super) fn weights(&self, name: &str) -> Result<Weights, OnnxError> {
        let tensor = self.onnx.tensor(name, self.device)?;
        Ok(Weights { shape: tensor.dims().to_vec(), values: tensor.flatten_all()?.to_vec1()? })
    }

    /// A vector of `len` values.
    pub(super) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, OnnxError> {
        let weights = self.weights(name)?;
        if weights.values.len() == len { Ok(weights.values) } else { Err(wrong(name, "its length is not expected")) }
    }

    pub(super) fn norm(&self, path: &str, channels: usize) -> Result<Norm, OnnxError> {
        Ok(Norm {
            gamma: self.vector(&format!("{path}.gamma"), channels)?,
            beta: self.vector(&format!("{path}.beta"), channels)?,
        })
    }

    /// The weight, the bias and the dilation of the operation `path/op`; checks rank 3.
    fn operands(
        &self,
        path: &str,
        op: &str,
    ) -> Result<(Weights, Option<Vec<f32>>, &crate::weights::onnx::Node), OnnxError> {
        let node = self.onnx.node(&format!("{path}/{op}"))?;
        let name = node.inputs.get(1).ok_or_else(|| OnnxError::Missing(format!("weight of {path}")))?;
        let weight = self.weights(name)?;
        if weight.shape.len() != 3 || weight.shape.contains(&0) {
            return Err(wrong(name, "it is not the weight of a convolution"));
        }
        let bias = node.inputs.get(2).map(|name| self.weights(name)).transpose()?.map(|bias| bias.values);
        Ok((weight, bias, node))
    }

    /// The convolution of the node `path/Conv`, which must be dense, of stride 1 and take `cin` channels.
    pub(super) fn conv(&self, path: &str, cin: usize) -> Result<Conv, OnnxError> {
        let (weight, bias, node) = self.operands(path, "Conv")?;
        let (out, input, taps) = (weight.shape[0], weight.shape[1], weight.shape[2]);
        let dilation = first(node, "dilations")?;
        if input != cin || bias.as_ref().is_some_and(|bias| bias.len() != out) || first(node, "strides")? != 1 {
            return Err(wrong(path, "its shape is not expected"));
        }
        Ok(Conv::pack((out, input, taps), dilation, bias.as_deref(), |o, i, k| {
            weight.values[(o * input + i) * taps + k]
        }))
    }

    /// As [`Self::conv`], and its output has `cout` channels and, centred, the length of its input.
    pub(super) fn same(&self, path: &str, cin: usize, cout: usize) -> Result<Conv, OnnxError> {
        let conv = self.conv(path, cin)?;
        if conv.cout() == cout && conv.reach().is_multiple_of(2) {
            Ok(conv)
        } else {
            Err(wrong(path, "its shape is not expected"))
        }
    }

    /// The transposed convolution of the node `path/ConvTranspose`.
    pub(super) fn upsample(&self, path: &str, cin: usize) -> Result<Upsample, OnnxError> {
        let (weight, bias, node) = self.operands(path, "ConvTranspose")?;
        let (input, out, taps) = (weight.shape[0], weight.shape[1], weight.shape[2]);
        let (stride, pad) = (first(node, "strides")?, first(node, "pads")?);
        if input != cin
            || taps != 2 * stride
            || stride != 2 * pad
            || bias.as_ref().is_some_and(|bias| bias.len() != out)
        {
            return Err(wrong(path, "its shape is not expected"));
        }
        let bias = bias.map(|bias| bias.repeat(stride));
        let conv = Conv::pack((stride * out, cin, 2), 1, bias.as_deref(), |phase_out, i, tap| {
            let (phase, o) = (phase_out / out, phase_out % out);
            weight.values[(i * out + o) * taps + phase + (1 - tap) * stride]
        });
        Ok(Upsample { conv, stride, pad, channels: out })
    }

    /// How many of `path.0/op`, `path.1/op`, … there are.
    pub(super) fn count(&self, path: &str, op: &str) -> usize {
        (0..).take_while(|i| self.onnx.node(&format!("{path}.{i}/{op}")).is_ok()).count()
    }
}

fn first(node: &crate::weights::onnx::Node, attribute: &str) -> Result<usize, OnnxError> {
    let value = node.ints.get(attribute).and_then(|ints| ints.first()).copied().unwrap_or(1);
    usize::try_from(value).map_err(|_| wrong(&node.name, "an attribute is negative"))
}

pub(super) fn wrong(name: &str, why: &'static str) -> OnnxError {
    OnnxError::Tensor(name.to_owned(), why)
}

/// A centred convolution over a whole sequence: zeros are put around it.
pub(super) fn run_same(conv: &Conv, x: &[f32]) -> Vec<f32> {
    let (rows, pad) = (x.len() / conv.cin(), conv.reach() / 2 * conv.cin());
    let mut out = vec![0.0; rows * conv.cout()];
    if pad == 0 {
        conv.run(x, &mut out, crate::kernels::conv::Start::Bias, |_, _| {});
    } else {
        let mut padded = vec![0.0; x.len() + 2 * pad];
        padded[pad..pad + x.len()].copy_from_slice(x);
        conv.run(&padded, &mut out, crate::kernels::conv::Start::Bias, |_, _| {});
    }
    out
}
