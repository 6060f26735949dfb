//! Whisper's encoder: mel rows in, one vector per 20 ms out.
//!
//! Enters: utterances, each any even number of mel rows up to the model's window. Leaves: half as many vectors. The true length
//! is computed, not a window of thirty seconds: the positions are sinusoids, so the first rows of the table serve any length.

use std::ops::ControlFlow;

use candle_core::{Device, Result, Tensor};

use super::checkpoint::{Checkpoint, Dims};
use super::{LoadError, Pace};
use crate::models::layers::{Attention, Linear, Norm, gelu};

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
            let one = |part: &str, shape| checkpoint.layer(&[name(part)], shape, None, device);
            let scale = (Dims::HEAD as f32).sqrt().recip();
            let qkv = ["attn.query", "attn.key", "attn.value"].map(name);
            let qkv = checkpoint.layer(&qkv, (width, width), Some(scale), device)?;
            Ok(Block {
                attn_norm: checkpoint.norm(&name("attn_ln"), device)?,
                attention: Attention::of(qkv, one("attn.out", (width, width))?, dims.heads()),
                mlp_norm: checkpoint.norm(&name("mlp_ln"), device)?,
                up: one("mlp.0", (4 * width, width))?,
                down: one("mlp.2", (width, 4 * width))?,
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
            norm: checkpoint.norm("encoder.ln_post", device)?,
            dims,
            device: device.clone(),
        })
    }

    /// Encodes utterances, each an even number of mel rows: of each as many vectors as of the longest, those past its own end
    /// without meaning. `seen` is shown what leaves the convolutions, each block and the end.
    ///
    /// # Errors
    /// If the device fails; nothing comes back if `pace` breaks.
    pub(super) fn run(
        &self,
        mels: &[Vec<f32>],
        pace: &mut dyn Pace,
        seen: &mut dyn FnMut(&Tensor),
    ) -> Result<Option<Tensor>> {
        let positions: Vec<usize> = mels.iter().map(|mel| mel.len() / self.dims.mels / 2).collect();
        let most = positions.iter().copied().max().unwrap_or(0);
        let mask = padding(&positions, most, &self.device)?;
        let mut x = self.stem(mels, most)?;
        seen(&x);
        for block in &self.blocks {
            if pace.between() == ControlFlow::Break(()) {
                return Ok(None);
            }
            x = (&x + block.attention.run_batch(&block.attn_norm.run(&x)?, mels.len(), mask.as_ref())?)?;
            let mut up = block.up.run(&block.mlp_norm.run(&x)?)?;
            gelu(&mut up)?;
            x = (x + block.down.run(&up)?)?;
            seen(&x);
        }
        let x = self.norm.run(&x)?;
        seen(&x);
        Ok(Some(x))
    }

    /// The two convolutions, each three rows wide: rows laid side by side, then one product. Past an utterance's own end lie
    /// zeros, as they do past the end of the longest.
    fn stem(&self, utterances: &[Vec<f32>], half: usize) -> Result<Tensor> {
        let (mels, width, batch) = (self.dims.mels, self.dims.width, utterances.len());
        let mut wide = vec![0.0; batch * 2 * half * 3 * mels];
        for (mel, wide) in utterances.iter().zip(wide.chunks_exact_mut(2 * half * 3 * mels)) {
            let rows = mel.len() / mels;
            for (row, wide) in wide.chunks_exact_mut(3 * mels).enumerate().take(rows) {
                let first = row.saturating_sub(1);
                let last = (row + 2).min(rows);
                let skip = if row == 0 { mels } else { 0 };
                wide[skip..skip + (last - first) * mels].copy_from_slice(&mel[first * mels..last * mels]);
            }
        }
        let mut x = self.conv[0].run(&Tensor::from_vec(wide, (batch * 2 * half, 3 * mels), &self.device)?)?;
        gelu(&mut x)?;

        // Every second row and its neighbours: pairs (2t, 2t+1), and before them the second half of the pair before.
        let pairs = x.reshape((batch, half, 2 * width))?;
        let before = pairs.narrow(2, width, width)?.narrow(1, 0, half - 1)?.pad_with_zeros(1, 1, 0)?;
        let mut x = self.conv[1].run(&Tensor::cat(&[&before, &pairs], 2)?.reshape((batch * half, 3 * width))?)?;
        gelu(&mut x)?;
        let x = x.reshape((batch, half, width))?.broadcast_add(&self.positions.narrow(0, 0, half)?)?;
        x.reshape((batch * half, width))
    }
}

/// What keeps attention to an utterance's own positions, `[utterances, 1, 1, most]`; none if all are as long.
pub(super) fn padding(positions: &[usize], most: usize, device: &Device) -> Result<Option<Tensor>> {
    if positions.iter().all(|&own| own == most) {
        return Ok(None);
    }
    let row = |own: usize| (0..most).map(move |at| if at < own { 0.0_f32 } else { f32::NEG_INFINITY });
    let mask: Vec<f32> = positions.iter().flat_map(|&own| row(own)).collect();
    Tensor::from_vec(mask, (positions.len(), 1, 1, most), device).map(Some)
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
