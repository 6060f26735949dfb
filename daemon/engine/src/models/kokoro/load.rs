//! Weights out of the ONNX container: the path of a module in; floats out.
//!
//! The file holds bytes with a scale. Names of matrices are anonymous (`onnx::MatMul_6548`) and equal zero points are
//! shared, but the names of nodes are the module paths: weights are found through the node that uses them.

use candle_core::{Device, Tensor};

use super::ops::{Affine, Conv, Form, Linear};
use crate::weights::onnx::{Node, Onnx, OnnxError, Values};

pub(super) struct Loader<'a> {
    pub(super) onnx: &'a Onnx,
    pub(super) form: &'a Form,
}

pub(super) type Loaded<T> = Result<T, OnnxError>;

pub(super) fn wrong(name: &str) -> OnnxError {
    OnnxError::Tensor(name.to_owned(), "its shape is not expected")
}

impl Loader<'_> {
    pub(super) fn device(&self) -> &Device {
        &self.form.device
    }

    /// `len` plain floats.
    pub(super) fn vector(&self, name: &str, len: usize) -> Loaded<Vec<f32>> {
        let values = self.onnx.values(name)?;
        if values.data.len() == len { Ok(values.data) } else { Err(wrong(name)) }
    }

    /// The same as a tensor that is the same for all rows.
    pub(super) fn channels(&self, name: &str, len: usize) -> Loaded<Tensor> {
        Ok(Tensor::from_vec(self.vector(name, len)?, (1, 1, len), self.device())?)
    }

    /// What the input of that number stands for.
    fn operand(&self, node: &Node, at: usize, zero: usize) -> Loaded<Values> {
        let input =
            |at: usize| node.inputs.get(at).ok_or_else(|| OnnxError::Missing(format!("input of {}", node.name)));
        let name = input(at)?;
        let Some(base) = name.strip_suffix("_quantized") else { return self.onnx.values(name) };
        self.onnx.dequantised(name, input(zero)?, &format!("{base}_scale"))
    }

    /// An embedding: rows of `width`.
    pub(super) fn table(&self, name: &str, zero: &str, width: usize) -> Loaded<Tensor> {
        let values = self.onnx.dequantised(&format!("{name}_quantized"), zero, &format!("{name}_scale"))?;
        let &[rows, found] = values.dims.as_slice() else { return Err(wrong(name)) };
        if found != width {
            return Err(wrong(name));
        }
        Ok(Tensor::from_vec(values.data, (rows, width), self.device())?)
    }

    /// The matrix `[inputs][outputs]` of the node `path`.
    pub(super) fn matrix(&self, path: &str, inputs: usize, outputs: usize) -> Loaded<Vec<f32>> {
        let values = self.operand(self.onnx.node(&format!("{path}_quant"))?, 1, 3)?;
        if values.dims == [inputs, outputs] { Ok(values.data) } else { Err(wrong(path)) }
    }

    /// A layer whose matrix is used by the node `path` and whose bias is called `bias`.
    pub(super) fn linear(&self, path: &str, bias: &str, inputs: usize, outputs: usize) -> Loaded<Linear> {
        let matrix = Tensor::from_vec(self.matrix(path, inputs, outputs)?, (inputs, outputs), self.device())?;
        let bias = Tensor::from_vec(self.vector(bias, outputs)?, outputs, self.device())?;
        Ok(Linear { matrix, bias })
    }

    /// As `layers` takes them: the rows of the matrix are outputs.
    pub(super) fn rows(&self, path: &str, bias: &str, inputs: usize, outputs: usize) -> Loaded<(Vec<f32>, Vec<f32>)> {
        let matrix = self.matrix(path, inputs, outputs)?;
        let turned = (0..inputs * outputs).map(|at| matrix[at % inputs * outputs + at / inputs]).collect();
        Ok((turned, self.vector(bias, outputs)?))
    }

    /// The weight of the convolution `path`, quantised or not, of the shape `[outputs][inputs][taps]`.
    pub(super) fn kernel(&self, path: &str, op: &str, shape: [usize; 3]) -> Loaded<Vec<f32>> {
        let quantised = self.onnx.node(&format!("{path}/{op}_quant")).ok();
        let node = quantised.map_or_else(|| self.onnx.node(&format!("{path}/{op}")), Ok)?;
        let values = self.operand(node, 1, 3)?;
        if values.dims == shape { Ok(values.data) } else { Err(wrong(path)) }
    }

    /// The convolution `path` of stride 1, with the bias of that name if there is one.
    pub(super) fn conv(
        &self,
        path: &str,
        bias: Option<&str>,
        (outputs, inputs, taps): (usize, usize, usize),
        dilation: usize,
    ) -> Loaded<Conv> {
        let weight = self.kernel(path, "Conv", [outputs, inputs, taps])?;
        let bias = bias.map(|name| self.vector(name, outputs)).transpose()?;
        let at = |o: usize, i: usize, k: usize| weight[(o * inputs + i) * taps + k];
        Ok(Conv::new((outputs, inputs, taps), dilation, bias.as_deref(), at, self.form)?)
    }

    /// The layer that makes scales and shifts of a style.
    pub(super) fn styled(&self, path: &str, parameters: &str, channels: usize) -> Loaded<Styled> {
        let bias = format!("{parameters}.fc.bias");
        let kernels = self.form.kernels;
        Ok(Styled {
            kernels,
            linear: self.linear(&format!("{path}/fc/Gemm_MatMul"), &bias, super::STYLE, 2 * channels)?,
        })
    }
}

/// The style's say in a normalisation (Huang and Belongie 2017).
pub(super) struct Styled {
    kernels: bool,
    linear: Linear,
}

impl Styled {
    /// `[batch][style]` in; what the normalised rows are multiplied with, and what is then added.
    pub(super) fn run(&self, style: &Tensor) -> Result<Affine, candle_core::Error> {
        let both = self.linear.run(style)?.unsqueeze(1)?;
        let channels = both.dim(2)? / 2;
        let scale = (both.narrow(2, 0, channels)? + 1.0)?.contiguous()?;
        Ok(Affine { scale, shift: both.narrow(2, channels, channels)?.contiguous()?, kernels: self.kernels })
    }
}
