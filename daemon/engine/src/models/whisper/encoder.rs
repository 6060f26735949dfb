//! Whisper's encoder: mel rows in, one vector per 20 ms out.
//!
//! Enters: any even number of mel rows up to the model's window. Leaves: half as many vectors. The true length is computed,
//! not a window of thirty seconds: the positions are sinusoids, so the first rows of the table serve any length.

use std::ops::ControlFlow;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor};

use super::checkpoint::{Checkpoint, Dims};
use super::{LoadError, Pace};
use crate::kernels::pointwise;

/// Numbers by which Whisper's layer norms avoid dividing by nothing.
const EPS: f32 = 1e-5;

/// `x · Wᵀ + b`; the weight is kept transposed, which is how candle multiplies without copying.
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new((weight, bias): (Vec<f32>, Vec<f32>), device: &Device) -> Result<Self> {
        let (out, inputs) = (bias.len(), weight.len() / bias.len());
        let weight = Tensor::from_vec(weight, (out, inputs), device)?.t()?;
        Ok(Self { weight, bias: Tensor::from_vec(bias, out, device)? })
    }

    fn run(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn load(checkpoint: &Checkpoint, name: &str, device: &Device) -> std::result::Result<Self, LoadError> {
        let width = checkpoint.dims.width;
        let weight = Tensor::from_vec(checkpoint.read(&format!("{name}.weight"), &[width])?, width, device)?;
        let bias = Tensor::from_vec(checkpoint.read(&format!("{name}.bias"), &[width])?, width, device)?;
        Ok(Self { weight, bias })
    }

    fn run(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::layer_norm(x, &self.weight, &self.bias, EPS)
    }
}

struct Block {
    attn_norm: Norm,
    qkv: Linear,
    out: Linear,
    mlp_norm: Norm,
    up: Linear,
    down: Linear,
}

/// The encoder.
pub(super) struct Encoder {
    conv: [Linear; 2],
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    dims: Dims,
    device: Device,
}

impl Encoder {
    pub(super) fn load(checkpoint: &Checkpoint, device: &Device) -> std::result::Result<Self, LoadError> {
        let dims = checkpoint.dims;
        let width = dims.width;
        let block = |i: usize| -> std::result::Result<Block, LoadError> {
            let name = |part: &str| format!("encoder.blocks.{i}.{part}");
            let (mut weights, mut biases) =
                checkpoint.linears(&[name("attn.query"), name("attn.key"), name("attn.value")], width, width)?;
            // The scale of the scores, put into the query once.
            let scale = (Dims::HEAD as f32).sqrt().recip();
            weights[..width * width].iter_mut().for_each(|weight| *weight *= scale);
            biases[..width].iter_mut().for_each(|bias| *bias *= scale);
            Ok(Block {
                attn_norm: Norm::load(checkpoint, &name("attn_ln"), device)?,
                qkv: Linear::new((weights, biases), device)?,
                out: Linear::new(checkpoint.linear(&name("attn.out"), width, width)?, device)?,
                mlp_norm: Norm::load(checkpoint, &name("mlp_ln"), device)?,
                up: Linear::new(checkpoint.linear(&name("mlp.0"), 4 * width, width)?, device)?,
                down: Linear::new(checkpoint.linear(&name("mlp.2"), width, 4 * width)?, device)?,
            })
        };
        let positions = checkpoint.read("encoder.positional_embedding", &[dims.audio_ctx, width])?;
        Ok(Self {
            conv: [
                conv(checkpoint, "encoder.conv1", dims.mels, device)?,
                conv(checkpoint, "encoder.conv2", width, device)?,
            ],
            positions: Tensor::from_vec(positions, (dims.audio_ctx, width), device)?,
            blocks: (0..dims.audio_layers).map(block).collect::<std::result::Result<_, _>>()?,
            norm: Norm::load(checkpoint, "encoder.ln_post", device)?,
            dims,
            device: device.clone(),
        })
    }

    /// Encodes `rows` mel rows, an even number. `seen` is shown what leaves the convolutions, each block and the end.
    ///
    /// # Errors
    /// If the device fails; nothing comes back if `pace` breaks.
    pub(super) fn run(
        &self,
        mel: &[f32],
        pace: &mut dyn Pace,
        seen: &mut dyn FnMut(&Tensor),
    ) -> Result<Option<Tensor>> {
        let mut x = self.stem(mel)?;
        seen(&x);
        for block in &self.blocks {
            if pace.between() == ControlFlow::Break(()) {
                return Ok(None);
            }
            x = (&x + self.attention(block, &block.attn_norm.run(&x)?)?)?;
            let mut up = block.up.run(&block.mlp_norm.run(&x)?)?;
            gelu(&mut up)?;
            x = (x + block.down.run(&up)?)?;
            seen(&x);
        }
        let x = self.norm.run(&x)?;
        seen(&x);
        Ok(Some(x))
    }

    /// The two convolutions, each three rows wide: rows laid side by side, then one product.
    fn stem(&self, mel: &[f32]) -> Result<Tensor> {
        let (mels, width) = (self.dims.mels, self.dims.width);
        let rows = mel.len() / mels;
        let mut wide = vec![0.0; rows * 3 * mels];
        for (row, wide) in wide.chunks_exact_mut(3 * mels).enumerate() {
            let first = row.saturating_sub(1);
            let last = (row + 2).min(rows);
            let skip = if row == 0 { mels } else { 0 };
            wide[skip..skip + (last - first) * mels].copy_from_slice(&mel[first * mels..last * mels]);
        }
        let mut x = self.conv[0].run(&Tensor::from_vec(wide, (rows, 3 * mels), &self.device)?)?;
        gelu(&mut x)?;

        // Every second row and its neighbours: pairs (2t, 2t+1), and before them the second half of the pair before.
        let half = rows / 2;
        let pairs = x.reshape((half, 2 * width))?;
        let before = pairs.narrow(1, width, width)?.narrow(0, 0, half - 1)?.pad_with_zeros(0, 1, 0)?;
        let mut x = self.conv[1].run(&Tensor::cat(&[&before, &pairs], 1)?)?;
        gelu(&mut x)?;
        x + self.positions.narrow(0, 0, half)?
    }

    fn attention(&self, block: &Block, x: &Tensor) -> Result<Tensor> {
        let (len, width) = x.dims2()?;
        let qkv = block.qkv.run(x)?.reshape((len, 3, self.dims.heads(), Dims::HEAD))?;
        let part = |i: usize| qkv.narrow(1, i, 1)?.squeeze(1)?.transpose(0, 1);
        let mut scores = part(0)?.contiguous()?.matmul(&part(1)?.transpose(1, 2)?.contiguous()?)?;
        softmax(&mut scores)?;
        let mixed = scores.matmul(&part(2)?.contiguous()?)?;
        block.out.run(&mixed.transpose(0, 1)?.reshape((len, width))?)
    }
}

/// A convolution's weight [out, in, 3] as the linear layer over three rows side by side.
fn conv(checkpoint: &Checkpoint, name: &str, inputs: usize, device: &Device) -> std::result::Result<Linear, LoadError> {
    let out = checkpoint.dims.width;
    let weight = checkpoint.read(&format!("{name}.weight"), &[out, inputs, 3])?;
    let mut by_tap = vec![0.0; weight.len()];
    for (row, taps) in weight.chunks_exact(3 * inputs).zip(by_tap.chunks_exact_mut(3 * inputs)) {
        for (input, weights) in row.as_chunks::<3>().0.iter().enumerate() {
            for (tap, weight) in weights.iter().enumerate() {
                taps[tap * inputs + input] = *weight;
            }
        }
    }
    Ok(Linear::new((by_tap, checkpoint.read(&format!("{name}.bias"), &[out])?), device)?)
}

fn gelu(x: &mut Tensor) -> Result<()> {
    if x.device().is_cpu() {
        x.inplace_op1(&Rows("gelu", pointwise::gelu))
    } else {
        *x = x.gelu_erf()?;
        Ok(())
    }
}

fn softmax(x: &mut Tensor) -> Result<()> {
    if x.device().is_cpu() {
        x.inplace_op1(&Rows("softmax", pointwise::softmax))
    } else {
        *x = candle_nn::ops::softmax_last_dim(x)?;
        Ok(())
    }
}

/// A function of each row of a tensor that is contiguous.
struct Rows(&'static str, fn(&mut [f32]));

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
