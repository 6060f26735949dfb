//! Weights as tensors of a device.
//!
//! Enters: a GGUF file, a checkpoint of Hugging Face, or tensors. Leaves: matrices, quantised as they are stored, or dense;
//! vectors. Never here: a matrix of another size than the model needs.

use anyhow::{Context, Result, ensure};
use candle_core::quantized::{GgmlDType, QMatMul, ggml_file::qtensor_from_ggml};
use candle_core::{DType, Device, Tensor};

use super::super::adapter::sizes;
use super::{Numbers, TransformerSpec};
use crate::models::layers::Matrix;
use crate::weights::gguf::{Gguf, TensorInfo};
use crate::weights::peft::Module;
use crate::weights::tensors::Tensors;

/// A weight that lies in no file, of that name and shape, on the device. There is no head: the embedding serves.
pub type Given<'a> = dyn Fn(&str, &[usize]) -> candle_core::Result<Tensor> + 'a;

/// Where weights come from.
pub(in super::super) enum Source<'a> {
    /// llama.cpp's container.
    Gguf(&'a Gguf),
    /// safetensors, named as transformers names them.
    Checkpoint(&'a Tensors),
    /// Made when asked for, by the same names.
    Given(&'a Given<'a>),
}

/// What a model is made of.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Embedding,
    /// Before the layer's attention.
    AttentionNorm(usize),
    Weight(usize, Module),
    Bias(usize, Module),
    /// Before the layer's feed-forward part.
    FeedForwardNorm(usize),
    Norm,
    Head,
}

impl Part {
    fn name(self, source: &Source) -> String {
        match source {
            Source::Gguf(_) => match self {
                Self::Embedding => "token_embd.weight".to_owned(),
                Self::AttentionNorm(layer) => format!("blk.{layer}.attn_norm.weight"),
                Self::Weight(layer, module) => format!("blk.{layer}.{}.weight", in_gguf(module)),
                Self::Bias(layer, module) => format!("blk.{layer}.{}.bias", in_gguf(module)),
                Self::FeedForwardNorm(layer) => format!("blk.{layer}.ffn_norm.weight"),
                Self::Norm => "output_norm.weight".to_owned(),
                Self::Head => "output.weight".to_owned(),
            },
            Source::Checkpoint(_) | Source::Given(_) => match self {
                Self::Embedding => "model.embed_tokens.weight".to_owned(),
                Self::AttentionNorm(layer) => format!("model.layers.{layer}.input_layernorm.weight"),
                Self::Weight(layer, module) => format!("model.layers.{layer}.{}.weight", module.name()),
                Self::Bias(layer, module) => format!("model.layers.{layer}.{}.bias", module.name()),
                Self::FeedForwardNorm(layer) => format!("model.layers.{layer}.post_attention_layernorm.weight"),
                Self::Norm => "model.norm.weight".to_owned(),
                Self::Head => "lm_head.weight".to_owned(),
            },
        }
    }
}

fn in_gguf(module: Module) -> &'static str {
    match module {
        Module::Query => "attn_q",
        Module::Key => "attn_k",
        Module::Value => "attn_v",
        Module::Output => "attn_output",
        Module::Gate => "ffn_gate",
        Module::Up => "ffn_up",
        Module::Down => "ffn_down",
    }
}

/// Reads the parts of one model.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) spec: &'a TransformerSpec,
    pub(super) device: &'a Device,
    pub(super) numbers: Numbers,
}

impl Reader<'_> {
    pub(super) fn has(&self, part: Part) -> bool {
        let name = part.name(self.source);
        match self.source {
            Source::Gguf(gguf) => gguf.head().tensors.contains_key(&name),
            Source::Checkpoint(tensors) => tensors.has(&name),
            Source::Given(_) => false,
        }
    }

    /// A matrix of tokens: the embedding, or the head.
    pub(super) fn tokens(&self, part: Part) -> Result<Matrix> {
        self.matrix(part, self.spec.vocabulary, self.spec.hidden)
    }

    pub(super) fn linear(&self, layer: usize, module: Module) -> Result<Linear> {
        let (inputs, outputs) = sizes(self.spec, module);
        let biased = self.spec.qkv_bias && matches!(module, Module::Query | Module::Key | Module::Value);
        let bias = biased.then(|| self.vector(Part::Bias(layer, module), outputs)).transpose()?;
        Ok(Linear { weight: self.matrix(Part::Weight(layer, module), outputs, inputs)?, bias, outputs })
    }

    /// Several that take the same rows; and all as one matrix, and their biases as one, where there are such.
    pub(super) fn together(&self, layer: usize, modules: &[Module]) -> Result<Together> {
        let mut linears = modules.iter().map(|module| self.linear(layer, *module)).collect::<Result<Vec<_>>>()?;
        let dense: Vec<&Tensor> = linears.iter().filter_map(|linear| linear.weight.dense()).collect();
        let alike = dense.len() == linears.len() && dense.windows(2).all(|pair| pair[0].dtype() == pair[1].dtype());
        let biases: Vec<&Tensor> = linears.iter().filter_map(|linear| linear.bias.as_ref()).collect();
        let bias = if biases.is_empty() { None } else { Some(Tensor::cat(&biases, 0)?) };
        let whole = if alike { Some(Tensor::cat(&dense, 0)?) } else { None };
        // Each is a view of the whole then: nothing lies on the device twice.
        if let Some(whole) = &whole {
            let mut first = 0;
            for linear in &mut linears {
                let outputs = linear.outputs;
                linear.weight = Matrix::Dense(whole.narrow(0, first, outputs)?);
                first += outputs;
            }
        }
        Ok(Together { linears, whole, bias })
    }

    pub(super) fn vector(&self, part: Part, len: usize) -> Result<Tensor> {
        let name = part.name(self.source);
        let tensor = match self.source {
            Source::Gguf(gguf) => {
                let info = found(gguf, &name)?;
                ensure!(info.vector && info.cols == len, "{name:?} is not a vector of {len} numbers");
                plain(gguf, info, vec![len], self.device)?
            }
            Source::Checkpoint(tensors) => Tensor::from_vec(tensors.read(&name, &[len])?, len, self.device)?,
            Source::Given(given) => given(&name, &[len])?.to_dtype(DType::F32)?,
        };
        Ok(tensor)
    }

    fn matrix(&self, part: Part, rows: usize, cols: usize) -> Result<Matrix> {
        let name = part.name(self.source);
        let (tensor, stored) = match self.source {
            Source::Gguf(gguf) => {
                let info = found(gguf, &name)?;
                let sizes = || format!("{name:?} has {} × {} numbers, not {rows} × {cols}", info.rows, info.cols);
                ensure!((info.rows, info.cols) == (rows, cols), sizes());
                let dense = matches!(info.dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
                if self.numbers == Numbers::AsStored && !dense {
                    let tensor = qtensor_from_ggml(info.dtype, gguf.bytes(info), vec![rows, cols], self.device)?;
                    return Ok(Matrix::Quantised(QMatMul::from_qtensor(tensor).with_context(|| name.clone())?));
                }
                let stored = if info.dtype == GgmlDType::BF16 { DType::BF16 } else { DType::F32 };
                (plain(gguf, info, vec![rows, cols], self.device)?, stored)
            }
            Source::Checkpoint(tensors) => {
                let values = tensors.read(&name, &[rows, cols])?;
                let stored = if tensors.is_bf16(&name) { DType::BF16 } else { DType::F32 };
                (Tensor::from_vec(values, (rows, cols), self.device)?, stored)
            }
            Source::Given(given) => {
                let tensor = given(&name, &[rows, cols])?;
                let stored = tensor.dtype();
                (tensor, stored)
            }
        };
        let number = match self.numbers {
            Numbers::AsStored => stored,
            Numbers::F32 => DType::F32,
            Numbers::Bf16 => DType::BF16,
        };
        let tensor = tensor.to_dtype(number)?;
        // candle multiplies no brain floats on a processor.
        let tensor = if self.device.is_cpu() { tensor.to_dtype(DType::F32)? } else { tensor };
        Ok(Matrix::Dense(tensor))
    }
}

fn found<'a>(gguf: &'a Gguf, name: &str) -> Result<&'a TensorInfo> {
    gguf.head().tensors.get(name).with_context(|| format!("the model has no tensor {name:?}"))
}

fn plain(gguf: &Gguf, info: &TensorInfo, shape: Vec<usize>, device: &Device) -> Result<Tensor> {
    Ok(qtensor_from_ggml(info.dtype, gguf.bytes(info), shape, device)?.dequantize(device)?)
}

/// A matrix and, where the model has one, its bias.
pub(super) struct Linear {
    pub(super) weight: Matrix,
    bias: Option<Tensor>,
    pub(super) outputs: usize,
}

/// Linears that take the same rows.
pub(super) struct Together {
    pub(super) linears: Vec<Linear>,
    pub(super) whole: Option<Tensor>,
    pub(super) bias: Option<Tensor>,
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = self.weight.forward(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}
