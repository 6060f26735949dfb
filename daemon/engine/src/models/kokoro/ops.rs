//! What the network is made of, over rows `[batch][time][channel]`; on a processor with our kernels, elsewhere as matrix
//! products and elementwise functions of candle. Both are tested against each other.
//!
//! Sentences of a batch differ in length: `valid` says which rows of each are real; the others are kept zero, because
//! convolutions read beyond the edges.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, Error, Result, Storage, Tensor};
use rayon::prelude::*;

use crate::kernels::conv::{self, Start};
use crate::kernels::math;

/// How things are computed, and where.
pub(super) struct Form {
    pub(super) device: Device,
    /// With our kernels, which know only the processor.
    pub(super) kernels: bool,
}

/// Rows that are real, for each member of a batch.
pub(super) type Valid = [Range<usize>];

/// `x · W + b`.
pub(super) struct Linear {
    /// `[inputs][outputs]`.
    pub(super) matrix: Tensor,
    pub(super) bias: Tensor,
}

impl Linear {
    pub(super) fn run(&self, x: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = self.matrix.dims2()?;
        let mut shape = x.dims().to_vec();
        *shape.last_mut().ok_or_else(|| Error::Msg("a layer needs rows".into()))? = outputs;
        x.reshape(((), inputs))?.matmul(&self.matrix)?.broadcast_add(&self.bias)?.reshape(shape)
    }
}

/// A factor and a summand for each channel: `[batch or 1][1][channel]`.
#[derive(Clone)]
pub(super) struct Affine {
    pub(super) scale: Tensor,
    pub(super) shift: Tensor,
    /// As in [`Form`].
    pub(super) kernels: bool,
}

/// What comes between a normalisation and a convolution.
pub(super) enum Act<'a> {
    /// `max(y, slope · y)`.
    Leaky(f32),
    /// `y + sin²(alpha · y) / alpha`.
    Snake(&'a Tensor),
}

/// A convolution of stride 1.
pub(super) struct Conv {
    kernel: Option<conv::Conv>,
    /// `[tap · input][output]`, and the bias.
    matrix: Option<(Tensor, Tensor)>,
    inputs: usize,
    outputs: usize,
    taps: usize,
    dilation: usize,
}

impl Conv {
    pub(super) fn new(
        (outputs, inputs, taps): (usize, usize, usize),
        dilation: usize,
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize, usize) -> f32,
        form: &Form,
    ) -> Result<Self> {
        let (kernel, matrix) = if form.kernels {
            (Some(conv::Conv::pack((outputs, inputs, taps), dilation, bias, weight)), None)
        } else {
            let of = |at: usize| weight(at % outputs, at / outputs % inputs, at / outputs / inputs);
            let matrix = (0..taps * inputs * outputs).map(of).collect();
            let matrix = Tensor::from_vec(matrix, (taps * inputs, outputs), &form.device)?;
            let bias = bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec);
            (None, Some((matrix, Tensor::from_vec(bias, outputs, &form.device)?)))
        };
        Ok(Self { kernel, matrix, inputs, outputs, taps, dilation })
    }

    /// Rows beyond the output that are read.
    pub(super) fn reach(&self) -> usize {
        (self.taps - 1) * self.dilation
    }

    /// As many rows as `x` has; zeros are read beyond its edges.
    pub(super) fn same(&self, x: &Tensor) -> Result<Tensor> {
        self.padded(x, self.reach() / 2, self.reach() / 2)
    }

    /// With so many rows of zeros before and after.
    pub(super) fn padded(&self, x: &Tensor, before: usize, after: usize) -> Result<Tensor> {
        let Some(kernel) = &self.kernel else {
            return self.product(&x.pad_with_zeros(1, before, after)?);
        };
        let (batch, len, _) = x.dims3()?;
        let rows = (len + before + after).saturating_sub(self.reach());
        let mut out = vec![0.0; batch * rows * self.outputs];
        floats(x, |x| {
            let mut room = vec![0.0; (len + before + after) * self.inputs];
            let pieces = x.chunks_exact(len * self.inputs).zip(out.chunks_exact_mut(rows * self.outputs));
            for (x, out) in pieces {
                room[before * self.inputs..][..x.len()].copy_from_slice(x);
                kernel.run(&room, out, Start::Bias, |_, _| {});
            }
        })?;
        Tensor::from_vec(out, (batch, rows, self.outputs), x.device())
    }

    /// The convolution, of the same length, of `act(scale · x + shift)`, plus `residual`.
    pub(super) fn after(
        &self,
        x: &Tensor,
        affine: &Affine,
        act: &Act,
        valid: &Valid,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let pad = self.reach() / 2;
        let Some(kernel) = &self.kernel else {
            let y = self.padded(&shaped(x, affine, act, valid)?, pad, pad)?;
            return residual.map_or_else(|| Ok(y.clone()), |residual| &y + residual);
        };
        let (batch, len, channels) = x.dims3()?;
        let mut room = vec![0.0; (len + 2 * pad) * channels];
        let mut out = match residual {
            Some(residual) => floats(residual, <[f32]>::to_vec)?,
            None => vec![0.0; batch * len * self.outputs],
        };
        let start = if residual.is_some() { Start::Sum } else { Start::Bias };
        for (at, out) in out.chunks_exact_mut(len * self.outputs).enumerate().take(batch) {
            shape_into(x, at, affine, act, &valid[at], &mut room[pad * channels..][..len * channels])?;
            kernel.run(&room, out, start, |_, _| {});
        }
        Tensor::from_vec(out, (batch, len, self.outputs), x.device())
    }

    /// Of rows that are padded already.
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        let Some((matrix, bias)) = &self.matrix else { candle_core::bail!("a convolution without weights") };
        let (batch, len, _) = x.dims3()?;
        let rows = len.saturating_sub(self.reach());
        let views: Vec<Tensor> =
            (0..self.taps).map(|tap| x.narrow(1, tap * self.dilation, rows)).collect::<Result<_>>()?;
        let wide = Tensor::cat(&views, 2)?.reshape((batch * rows, self.taps * self.inputs))?;
        wide.matmul(matrix)?.broadcast_add(bias)?.reshape((batch, rows, self.outputs))
    }
}

/// `act(scale · x + shift)`, zero outside `valid`.
pub(super) fn shaped(x: &Tensor, affine: &Affine, act: &Act, valid: &Valid) -> Result<Tensor> {
    if affine.kernels {
        let (batch, len, channels) = x.dims3()?;
        let mut out = vec![0.0; batch * len * channels];
        for (at, out) in out.chunks_exact_mut(len * channels).enumerate() {
            shape_into(x, at, affine, act, &valid[at], out)?;
        }
        return Tensor::from_vec(out, (batch, len, channels), x.device());
    }
    let y = x.broadcast_mul(&affine.scale)?.broadcast_add(&affine.shift)?;
    let y = match act {
        Act::Leaky(slope) => candle_nn::ops::leaky_relu(&y, f64::from(*slope))?,
        Act::Snake(alpha) => (&y + y.broadcast_mul(alpha)?.sin()?.sqr()?.broadcast_div(alpha)?)?,
    };
    masked(&y, valid)
}

/// Zeros where rows are not real.
pub(super) fn masked(x: &Tensor, valid: &Valid) -> Result<Tensor> {
    match mask(valid, x.dim(1)?, x.device())? {
        Some(mask) => x.broadcast_mul(&mask),
        None => Ok(x.clone()),
    }
}

/// Ones where rows are real; nothing if all are.
fn mask(valid: &Valid, len: usize, device: &Device) -> Result<Option<Tensor>> {
    if valid.iter().all(|valid| *valid == (0..len)) {
        return Ok(None);
    }
    let of = |valid: &Range<usize>| (0..len).map(|row| f32::from(u8::from(valid.contains(&row)))).collect::<Vec<_>>();
    let ones: Vec<f32> = valid.iter().flat_map(of).collect();
    Tensor::from_vec(ones, (valid.len(), len, 1), device).map(Some)
}

/// Rows that one thread takes at a time.
const PIECE: usize = 256;

/// One member of a batch through [`Act`]; rows that are not real become zero.
fn shape_into(x: &Tensor, at: usize, affine: &Affine, act: &Act, valid: &Range<usize>, out: &mut [f32]) -> Result<()> {
    let channels = x.dim(2)?;
    let of = |tensor: &Tensor| -> Result<Vec<f32>> {
        let row = if tensor.dim(0)? == 1 { 0 } else { at };
        floats(tensor, |all| all[row * channels..][..channels].to_vec())
    };
    let (scale, shift) = (of(&affine.scale)?, of(&affine.shift)?);
    let alpha = match act {
        Act::Snake(alpha) => of(alpha)?,
        Act::Leaky(_) => Vec::new(),
    };
    let (real, start) = (valid.start * channels..valid.end * channels, at * out.len());
    out[..real.start].fill(0.0);
    out[real.end..].fill(0.0);
    floats(x, |x| {
        let x = &x[start + real.start..start + real.end];
        x.par_chunks(PIECE * channels).zip(out[real].par_chunks_mut(PIECE * channels)).for_each(|(x, out)| match act {
            Act::Leaky(slope) => math::affine_leaky(x, &scale, &shift, *slope, out),
            Act::Snake(_) => math::affine_snake(x, &scale, &shift, &alpha, out),
        });
    })
}

const EPSILON: f64 = 1e-5;

/// Instance normalisation (Ulyanov et al. 2016) put into `styled`: of each channel over the rows `count`.
pub(super) fn normalising(x: &Tensor, styled: &Affine, count: &Valid) -> Result<Affine> {
    let (batch, len, channels) = x.dims3()?;
    let (mean, variance) = if styled.kernels {
        let moments = floats(x, |x| {
            let rows = |(at, rows): (usize, &Range<usize>)| {
                moments(&x[(at * len + rows.start) * channels..][..rows.len() * channels], channels)
            };
            count.iter().enumerate().map(rows).collect::<Vec<_>>()
        })?;
        let shape = (moments.len(), 1, channels);
        let (mean, variance): (Vec<_>, Vec<_>) = moments.into_iter().unzip();
        (Tensor::from_vec(mean.concat(), shape, x.device())?, Tensor::from_vec(variance.concat(), shape, x.device())?)
    } else {
        let rows: Vec<f32> = count.iter().map(|rows| rows.len() as f32).collect();
        let rows = Tensor::from_vec(rows, (batch, 1, 1), x.device())?;
        let mask = mask(count, len, x.device())?;
        let total = |x: &Tensor| -> Result<Tensor> {
            let x = mask.as_ref().map_or_else(|| Ok(x.clone()), |mask| x.broadcast_mul(mask))?;
            x.sum_keepdim(1)?.broadcast_div(&rows)
        };
        let mean = total(x)?;
        let variance = total(&x.broadcast_sub(&mean)?.sqr()?)?;
        (mean, variance)
    };
    let scale = styled.scale.broadcast_div(&(variance + EPSILON)?.sqrt()?)?;
    let shift = styled.shift.broadcast_sub(&mean.broadcast_mul(&scale)?)?;
    Ok(Affine { scale, shift, kernels: styled.kernels })
}

/// Layer normalisation without weights.
pub(super) fn normalising_rows(x: &Tensor, epsilon: f32) -> Result<Tensor> {
    let channels = x.dim(2)?;
    let ones = Tensor::ones(channels, x.dtype(), x.device())?;
    candle_nn::ops::layer_norm(x, &ones, &ones.zeros_like()?, epsilon)
}

/// Mean and variance of each channel over whole rows.
fn moments(rows: &[f32], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let count = (rows.len() / channels).max(1) as f64;
    // Around a first guess, so that one pass is exact enough.
    let guess = rows.get(..channels).map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
    let pass = |around: &[f32]| {
        let pieces = rows.par_chunks(PIECE * channels).map(|piece| {
            let (mut sums, mut squares) = (vec![0.0; channels], vec![0.0; channels]);
            math::add_moments(piece, around, &mut sums, &mut squares);
            (sums, squares)
        });
        // In the order of the rows, so that the number of threads changes no bit.
        let pieces: Vec<(Vec<f32>, Vec<f32>)> = pieces.collect();
        let sum = |piece: &dyn Fn(usize, usize) -> f32| -> Vec<f64> {
            (0..channels).map(|at| (0..pieces.len()).map(|of| f64::from(piece(of, at))).sum()).collect()
        };
        (sum(&|of, at| pieces[of].0[at]), sum(&|of, at| pieces[of].1[at]))
    };
    let (sums, _) = pass(&guess);
    let mean: Vec<f32> = sums.iter().zip(&guess).map(|(sum, &guess)| (sum / count + f64::from(guess)) as f32).collect();
    let (sums, squares) = pass(&mean);
    let variance =
        sums.iter().zip(&squares).map(|(sum, square)| (square / count - (sum / count).powi(2)) as f32).collect();
    (mean, variance)
}

/// What a contiguous tensor on the processor holds.
pub(super) fn floats<R>(x: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) => Ok(f(&data[start..end])),
        _ => candle_core::bail!("floats on the processor are needed"),
    }
}

/// All numbers of a tensor, wherever it is.
pub(super) fn numbers(x: &Tensor) -> Result<Vec<f32>> {
    x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// Rows of a table, or of a batch that lies one member after the other.
pub(super) fn rows(table: &Tensor, indices: Vec<u32>) -> Result<Tensor> {
    let len = indices.len();
    table.index_select(&Tensor::from_vec(indices, len, table.device())?, 0)
}
