//! The residual block of predictor and decoder (StyleTTS 2, Li et al. 2023): rows and a style in; rows out, twice as many
//! where it is told to.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::load::{Loaded, Loader, Styled};
use super::ops::{Act, Conv, Valid, masked, normalising, shaped};

const SLOPE: f32 = 0.2;

pub(super) struct Block {
    first: Conv,
    second: Conv,
    norms: [Styled; 2],
    shortcut: Option<Conv>,
    double: Option<Double>,
}

/// A transposed convolution of three taps and stride 2, for each channel on its own.
struct Double {
    taps: [Tensor; 3],
    bias: Tensor,
}

impl Block {
    /// `path` of its nodes, `name` of its parameters.
    pub(super) fn load(
        loader: &Loader,
        (path, name): (&str, &str),
        (inputs, outputs): (usize, usize),
        double: bool,
    ) -> Loaded<Self> {
        let conv = |part: &str, inputs| {
            let bias = format!("{name}.{part}.bias");
            loader.conv(&format!("{path}/{part}"), Some(&bias), (outputs, inputs, 3), 1)
        };
        let norm = |part: &str, channels| loader.styled(&format!("{path}/{part}"), &format!("{name}.{part}"), channels);
        let shortcut = || loader.conv(&format!("{path}/conv1x1"), None, (outputs, inputs, 1), 1);
        Ok(Self {
            first: conv("conv1", inputs)?,
            second: conv("conv2", outputs)?,
            norms: [norm("norm1", inputs)?, norm("norm2", outputs)?],
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
            double: double.then(|| Double::load(loader, path, name, inputs)).transpose()?,
        })
    }

    /// `style`: `[batch][style]`.
    pub(super) fn run(&self, x: &Tensor, style: &Tensor, valid: &Valid) -> Result<Tensor> {
        let act = Act::Leaky(SLOPE);
        let affine = normalising(x, &self.norms[0].run(style)?, valid)?;
        let (y, aside, after) = match &self.double {
            None => (self.first.after(x, &affine, &act, valid, None)?, x.clone(), valid.to_vec()),
            Some(double) => {
                let y = masked(&double.run(&shaped(x, &affine, &act, valid)?)?, &doubled(valid))?;
                let (batch, len, channels) = x.dims3()?;
                let aside = x.unsqueeze(2)?.expand((batch, len, 2, channels))?.reshape((batch, 2 * len, channels))?;
                (self.first.same(&y)?, aside, doubled(valid))
            }
        };
        let aside = match &self.shortcut {
            Some(conv) => conv.same(&aside)?,
            None => aside,
        };
        let affine = normalising(&y, &self.norms[1].run(style)?, &after)?;
        let y = self.second.after(&y, &affine, &act, &after, Some(&aside))?;
        y * std::f64::consts::FRAC_1_SQRT_2
    }
}

/// The same rows when each has become two.
pub(super) fn doubled(valid: &Valid) -> Vec<Range<usize>> {
    valid.iter().map(|rows| 2 * rows.start..2 * rows.end).collect()
}

impl Double {
    fn load(loader: &Loader, path: &str, name: &str, channels: usize) -> Loaded<Self> {
        let weight = loader.kernel(&format!("{path}/pool"), "ConvTranspose", [channels, 1, 3])?;
        let tap = |tap: usize| {
            let tap: Vec<f32> = weight.iter().skip(tap).step_by(3).copied().collect();
            Tensor::from_vec(tap, (1, 1, channels), loader.device())
        };
        let bias = loader.channels(&format!("{name}.pool.bias"), channels)?;
        Ok(Self { taps: [tap(0)?, tap(1)?, tap(2)?], bias })
    }

    /// Row `i` makes the rows `2i` and, with the next, `2i + 1`; zeros are beyond the last real row.
    fn run(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, len, channels) = x.dims3()?;
        let next = x.pad_with_zeros(1, 0, 1)?.narrow(1, 1, len)?;
        let even = x.broadcast_mul(&self.taps[1])?.broadcast_add(&self.bias)?;
        let odd = (x.broadcast_mul(&self.taps[2])? + next.broadcast_mul(&self.taps[0])?)?.broadcast_add(&self.bias)?;
        Tensor::stack(&[even, odd], 2)?.reshape((batch, 2 * len, channels))
    }
}
