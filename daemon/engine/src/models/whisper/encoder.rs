//! Whisper's encoder: mel rows in, one vector per 20 ms out.
//!
//! Enters: any even number of mel rows up to the model's window. Leaves: half as many vectors. The true length is computed,
//! not a window of thirty seconds: the positions are sinusoids, so the first rows of the table serve any length.

use std::ops::ControlFlow;

use candle_core::{Device, Result, Tensor};

use super::checkpoint::{Checkpoint, Dims};
use super::{LoadError, Pace};
use crate::models::layers::{Attention, Linear, Norm, gelu};

/// Numbers by which Whisper's layer norms avoid dividing by nothing.
const EPS: f32 = 1e-5;

struct Block {
    attn_norm: Norm,
    attention: Attention,
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
            let qkv = checkpoint.linears(&[name("attn.query"), name("attn.key"), name("attn.value")], width, width)?;
            let out = checkpoint.linear(&name("attn.out"), width, width)?;
            Ok(Block {
                attn_norm: norm(checkpoint, &name("attn_ln"), device)?,
                attention: Attention::new(qkv, out, dims.heads(), device)?,
                mlp_norm: norm(checkpoint, &name("mlp_ln"), device)?,
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
            norm: norm(checkpoint, "encoder.ln_post", device)?,
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
            x = (&x + block.attention.run(&block.attn_norm.run(&x)?)?)?;
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
}

fn norm(checkpoint: &Checkpoint, name: &str, device: &Device) -> std::result::Result<Norm, LoadError> {
    let width = [checkpoint.dims.width];
    let read = |part: &str| checkpoint.read(&format!("{name}.{part}"), &width);
    Ok(Norm::new((read("weight")?, read("bias")?), EPS, device)?)
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
