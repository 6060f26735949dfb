//! Names of Whisper's weights: OpenAI's, which are whisper.cpp's, and Hugging Face's.
//!
//! Enters: tensors under either naming. Leaves: the same under OpenAI's, and the sizes of the model, which are read off the
//! shapes: no Whisper needs more than its weights to be known.

use candle_core::quantized::QMatMul;
use candle_core::{Device, Tensor};

use super::LoadError;
use crate::models::layers::{Linear, Matrix, Norm};
use crate::weights::tensors::{TensorError, Tensors};

/// By which Whisper's layer norms avoid dividing by nothing.
const EPS: f32 = 1e-5;

/// The sizes of a Whisper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dims {
    /// Mel bands.
    pub mels: usize,
    /// Encoder positions, of 20 ms each.
    pub audio_ctx: usize,
    /// Width of both halves.
    pub width: usize,
    /// Encoder layers.
    pub audio_layers: usize,
    /// Decoder positions.
    pub text_ctx: usize,
    /// Decoder layers.
    pub text_layers: usize,
    /// Tokens.
    pub vocab: usize,
}

impl Dims {
    /// Width of one attention head, in every Whisper.
    pub const HEAD: usize = 64;

    /// Attention heads.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.width / Self::HEAD
    }
}

/// A checkpoint, under OpenAI's names.
pub(super) struct Checkpoint {
    tensors: Tensors,
    renamed: bool,
    /// Whether matrices in blocks stay as they are.
    keeps: bool,
    pub(super) dims: Dims,
}

/// OpenAI's part of a name, and Hugging Face's.
const NAMES: [(&str, &str); 13] = [
    ("token_embedding", "embed_tokens"),
    ("positional_embedding", "embed_positions.weight"),
    ("blocks", "layers"),
    ("cross_attn_ln", "encoder_attn_layer_norm"),
    ("cross_attn", "encoder_attn"),
    ("attn_ln", "self_attn_layer_norm"),
    ("attn", "self_attn"),
    ("mlp_ln", "final_layer_norm"),
    ("mlp.0", "fc1"),
    ("mlp.2", "fc2"),
    ("ln_post", "layer_norm"),
    ("ln", "layer_norm"),
    ("out", "out_proj"),
];

fn hugging_face(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let whole = |part: &str| rest.strip_prefix(part).is_some_and(|tail| tail.is_empty() || tail.starts_with('.'));
        let (part, renamed) = match NAMES.iter().find(|(ours, _)| whole(ours)) {
            Some((ours, theirs)) => (*ours, *theirs),
            None => rest.split_once('.').map_or((rest, rest), |(part, _)| (part, part)),
        };
        let renamed = match (part, parts.last()) {
            ("query", _) => "q_proj",
            ("key", _) => "k_proj",
            ("value", _) => "v_proj",
            _ => renamed,
        };
        parts.push(renamed);
        rest = rest.strip_prefix(part).unwrap_or_default().trim_start_matches('.');
    }
    format!("model.{}", parts.join("."))
}

impl Checkpoint {
    pub(super) fn new(tensors: Tensors) -> Result<Self, TensorError> {
        let renamed = !tensors.has("encoder.conv1.weight");
        let name = |ours: &str| if renamed { hugging_face(ours) } else { ours.to_owned() };
        let layers =
            |half: &str| (0..).take_while(|i| tensors.has(&name(&format!("{half}.blocks.{i}.attn_ln.weight")))).count();
        let size = |ours: &str, axis: usize| -> Result<usize, TensorError> {
            tensors.shape(&name(ours))?.get(axis).copied().ok_or(TensorError::Malformed("a weight lacks a dimension"))
        };
        let dims = Dims {
            mels: size("encoder.conv1.weight", 1)?,
            audio_ctx: size("encoder.positional_embedding", 0)?,
            width: size("encoder.positional_embedding", 1)?,
            audio_layers: layers("encoder"),
            text_ctx: size("decoder.positional_embedding", 0)?,
            text_layers: layers("decoder"),
            vocab: size("decoder.token_embedding.weight", 0)?,
        };
        let plausible = (64..=4096).contains(&dims.width)
            && dims.width.is_multiple_of(Dims::HEAD)
            && (1..=256).contains(&dims.mels)
            && (64..=4096).contains(&dims.audio_ctx)
            && (16..=4096).contains(&dims.text_ctx)
            && (1..=64).contains(&dims.audio_layers)
            && (1..=64).contains(&dims.text_layers);
        if plausible {
            Ok(Self { tensors, renamed, keeps: false, dims })
        } else {
            Err(TensorError::Malformed("these are not the sizes of a Whisper"))
        }
    }

    /// The same, for tensors: matrices that lie in blocks are computed with as they are.
    pub(super) fn keeping_blocks(self) -> Self {
        Self { keeps: true, ..self }
    }

    fn name(&self, ours: &str) -> String {
        if self.renamed { hugging_face(ours) } else { ours.to_owned() }
    }

    pub(super) fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        self.tensors.read(&self.name(name), shape)
    }

    /// Weight and bias.
    pub(super) fn linear(&self, name: &str, out: usize, inputs: usize) -> Result<(Vec<f32>, Vec<f32>), TensorError> {
        Ok((self.read(&format!("{name}.weight"), &[out, inputs])?, self.bias(name, out)?))
    }

    /// Keys have none.
    fn bias(&self, name: &str, out: usize) -> Result<Vec<f32>, TensorError> {
        if name.ends_with(".key") { Ok(vec![0.0; out]) } else { self.read(&format!("{name}.bias"), &[out]) }
    }

    /// Matrices of one shape below one another, if they are to stay in blocks and lie in them.
    fn blocks(&self, names: &[String], shape: [usize; 2], device: &Device) -> Result<Option<QMatMul>, LoadError> {
        if !self.keeps {
            return Ok(None);
        }
        let names: Vec<String> = names.iter().map(|name| self.name(&format!("{name}.weight"))).collect();
        Ok(self.tensors.blocks(&names, shape, device)?.map(QMatMul::from_qtensor).transpose()?)
    }

    /// Linear layers of one input as one, on a device. The first of them makes queries, if there is a scale for them.
    pub(super) fn layer(
        &self,
        names: &[String],
        (out, inputs): (usize, usize),
        scale: Option<f32>,
        device: &Device,
    ) -> Result<Linear, LoadError> {
        let scale = scale.unwrap_or(1.0);
        if let Some(matrix) = self.blocks(names, [out, inputs], device)? {
            let mut bias = Vec::with_capacity(names.len() * out);
            names.iter().try_for_each(|name| self.bias(name, out).map(|own| bias.extend(own)))?;
            bias[..out].iter_mut().for_each(|bias| *bias *= scale);
            let factor = || [vec![scale; out], vec![1.0; (names.len() - 1) * out]].concat();
            return Ok(Linear::quantised(matrix, (scale != 1.0).then(factor), bias, device)?);
        }
        let (mut weights, mut biases) = self.linears(names, out, inputs)?;
        weights[..out * inputs].iter_mut().for_each(|weight| *weight *= scale);
        biases[..out].iter_mut().for_each(|bias| *bias *= scale);
        Ok(Linear::new((weights, biases), device)?)
    }

    /// The tokens' vectors, a row for each.
    pub(super) fn embedding(&self, device: &Device) -> Result<Matrix, LoadError> {
        let (name, shape) = ("decoder.token_embedding", [self.dims.vocab, self.dims.width]);
        if let Some(matrix) = self.blocks(&[name.to_owned()], shape, device)? {
            return Ok(Matrix::Quantised(matrix));
        }
        Ok(Matrix::Dense(Tensor::from_vec(self.read(&format!("{name}.weight"), &shape)?, &shape, device)?))
    }

    /// A layer norm of the width, on a device.
    pub(super) fn norm(&self, name: &str, device: &Device) -> Result<Norm, LoadError> {
        let read = |part: &str| self.read(&format!("{name}.{part}"), &[self.dims.width]);
        Ok(Norm::new((read("weight")?, read("bias")?), EPS, device)?)
    }

    /// Several linear layers of one input, as one.
    pub(super) fn linears(
        &self,
        names: &[String],
        out: usize,
        inputs: usize,
    ) -> Result<(Vec<f32>, Vec<f32>), TensorError> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for name in names {
            let (weight, bias) = self.linear(name, out, inputs)?;
            weights.extend(weight);
            biases.extend(bias);
        }
        Ok((weights, biases))
    }
}

#[cfg(test)]
mod tests {
    use super::hugging_face;

    #[test]
    fn names_are_translated() {
        for (ours, theirs) in [
            ("encoder.conv1.bias", "model.encoder.conv1.bias"),
            ("encoder.positional_embedding", "model.encoder.embed_positions.weight"),
            ("encoder.ln_post.weight", "model.encoder.layer_norm.weight"),
            ("decoder.ln.bias", "model.decoder.layer_norm.bias"),
            ("decoder.token_embedding.weight", "model.decoder.embed_tokens.weight"),
            ("decoder.blocks.3.attn.query.weight", "model.decoder.layers.3.self_attn.q_proj.weight"),
            ("decoder.blocks.3.cross_attn.out.bias", "model.decoder.layers.3.encoder_attn.out_proj.bias"),
            ("decoder.blocks.0.cross_attn_ln.bias", "model.decoder.layers.0.encoder_attn_layer_norm.bias"),
            ("encoder.blocks.2.mlp.0.weight", "model.encoder.layers.2.fc1.weight"),
            ("encoder.blocks.2.mlp_ln.weight", "model.encoder.layers.2.final_layer_norm.weight"),
        ] {
            assert_eq!(hugging_face(ours), theirs);
        }
    }
}
