//! Frames to what the generator makes sound of: the text's rows, pitch, energy and a style in; twice as many rows out.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::block::Block;
use super::load::{Loaded, Loader, wrong};
use super::ops::{Conv, Valid};
use super::prosody::WIDTH;

const INNER: usize = 1024;
const ASIDE: usize = 64;
/// Channels of the rows that leave.
pub(super) const OUT: usize = 512;

pub(super) struct Decoder {
    /// Three taps and a bias that halve the rate of pitch and of energy.
    halvings: [([f32; 3], f32); 2],
    aside: Conv,
    first: Block,
    others: Vec<Block>,
}

impl Decoder {
    pub(super) fn load(loader: &Loader) -> Loaded<Self> {
        let (path, name) = ("/decoder/decoder", "decoder.decoder");
        let halving = |part: &str| -> Loaded<([f32; 3], f32)> {
            let taps = loader.kernel(&format!("{path}/{part}"), "Conv", [1, 1, 3])?;
            let bias = loader.vector(&format!("{name}.{part}.bias"), 1)?;
            let (&[a, b, c], &[bias]) = (taps.as_slice(), bias.as_slice()) else { return Err(wrong(part)) };
            Ok(([a, b, c], bias))
        };
        let block = |part: &str, shape, double| {
            Block::load(loader, (&format!("{path}/{part}"), &format!("{name}.{part}")), shape, double)
        };
        let wide = INNER + ASIDE + 2;
        let aside = format!("{name}.asr_res.0.bias");
        Ok(Self {
            halvings: [halving("F0_conv")?, halving("N_conv")?],
            aside: loader.conv(&format!("{path}/asr_res/asr_res.0"), Some(&aside), (ASIDE, WIDTH, 1), 1)?,
            first: block("encode", (WIDTH + 2, INNER), false)?,
            others: vec![
                block("decode.0", (wide, INNER), false)?,
                block("decode.1", (wide, INNER), false)?,
                block("decode.2", (wide, INNER), false)?,
                block("decode.3", (wide, OUT), true)?,
            ],
        })
    }

    /// `text`: `[batch][frames][channels]`; the curves have two values for each frame.
    pub(super) fn run(&self, text: &Tensor, curves: [&[&[f32]]; 2], style: &Tensor, valid: &Valid) -> Result<Tensor> {
        let len = text.dim(1)?;
        let [pitch, energy] = [0, 1].map(|at| self.halved(at, curves[at], len, text.device()));
        let (pitch, energy) = (pitch?, energy?);
        let aside = self.aside.same(text)?;
        let mut x = self.first.run(&Tensor::cat(&[text, &pitch, &energy], 2)?, style, valid)?;
        for block in &self.others {
            x = block.run(&Tensor::cat(&[&x, &aside, &pitch, &energy], 2)?, style, valid)?;
        }
        Ok(x)
    }

    fn halved(&self, which: usize, curves: &[&[f32]], len: usize, device: &Device) -> Result<Tensor> {
        let (taps, bias) = self.halvings[which];
        let mut out = vec![0.0; curves.len() * len];
        for (curve, out) in curves.iter().zip(out.chunks_exact_mut(len.max(1))) {
            let at = |index: Option<usize>| index.and_then(|index| curve.get(index)).copied().unwrap_or(0.0);
            for (frame, out) in out.iter_mut().enumerate().take(curve.len() / 2) {
                let around: [Option<usize>; 3] = [(2 * frame).checked_sub(1), Some(2 * frame), Some(2 * frame + 1)];
                *out = bias + taps.iter().zip(around).map(|(tap, index)| tap * at(index)).sum::<f32>();
            }
        }
        Tensor::from_vec(out, (curves.len(), len, 1), device)
    }
}

/// Rows from the first on.
pub(super) fn from_start(lengths: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    lengths.map(|len| 0..len).collect()
}
