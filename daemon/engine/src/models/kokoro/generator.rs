//! Rows and the source's spectrum in; samples out: iSTFTNet (Kaneko et al. 2022) with a harmonic source.
//!
//! Every normalisation here is over the time of the whole sentence, so a window alone does not know what it becomes.
//! A [`Book`] holds what the normalisations have come to: measured, and kept for the windows.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::decoder::{OUT, from_start};
use super::load::{Loaded, Loader, Styled};
use super::ops::{Act, Affine, Conv, Valid, normalising, shaped};
use super::source::{BINS, STEP, WINDOW, hann};

/// Rows of the spectrum for each row that enters, and of the first stage.
pub(super) const RATE: usize = 60;
const FIRST: usize = 10;
/// Rows on either side of a window that its samples may depend on: of the first stage 60 for the longest residual block,
/// 36 for the source's, 2 for what doubles; of the second 60, and a few.
pub(super) const REACH: usize = 9;
const SLOPE: f32 = 0.1;
const LAST_SLOPE: f32 = 0.01;
const DILATIONS: [usize; 3] = [1, 3, 5];

pub(super) struct Generator {
    stages: [Stage; 2],
    last: Conv,
    /// What the means of three blocks are made with, and nothing.
    third: Affine,
    same: Affine,
}

struct Stage {
    /// Input rows to groups of `stride` output rows, of which group `q` reads `q - 1` and `q`.
    up: Conv,
    stride: usize,
    channels: usize,
    source: Conv,
    source_block: Residual,
    blocks: Vec<Residual>,
}

struct Residual {
    steps: Vec<Step>,
}

struct Step {
    convs: [Conv; 2],
    norms: [Styled; 2],
    alphas: [Tensor; 2],
}

/// What the normalisations of one run come to, in the order in which they are met.
pub(super) struct Book<'a> {
    known: Option<&'a [Affine]>,
    pub(super) made: Vec<Affine>,
    at: usize,
    /// Rows that count, for each member of the batch.
    count: &'a Valid,
}

impl<'a> Book<'a> {
    /// Measures, over the rows `count`.
    pub(super) fn measuring(count: &'a Valid) -> Self {
        Self { known: None, made: Vec::new(), at: 0, count }
    }

    /// Repeats what was measured.
    pub(super) fn repeating(known: &'a [Affine]) -> Self {
        Self { known: Some(known), made: Vec::new(), at: 0, count: &[] }
    }

    fn affine(
        &mut self,
        x: &Tensor,
        styled: &Styled,
        style: &Tensor,
        rows: impl Fn(&Valid) -> Vec<Range<usize>>,
    ) -> Result<Affine> {
        self.at += 1;
        if let Some(known) = self.known {
            let known = known.get(self.at - 1).cloned();
            return known.ok_or_else(|| candle_core::Error::Msg("a book of another network".into()));
        }
        let affine = normalising(x, &styled.run(style)?, &rows(self.count))?;
        self.made.push(affine.clone());
        Ok(affine)
    }
}

impl Generator {
    pub(super) fn load(loader: &Loader) -> Loaded<Self> {
        let (path, name) = ("/decoder/decoder/generator", "decoder.decoder.generator");
        let stage = |at: usize, inputs: usize, stride: usize| -> Loaded<Stage> {
            let channels = inputs / 2;
            let residual = |part: &str, taps| Residual::load(loader, part, channels, taps);
            let blocks = [3, 7, 11].iter().enumerate();
            Ok(Stage {
                up: upsample(loader, at, (inputs, channels), stride)?,
                stride,
                channels,
                source: if at == 0 {
                    strided(loader, channels)?
                } else {
                    let bias = format!("{name}.noise_convs.1.bias");
                    loader.conv(&format!("{path}/noise_convs.1"), Some(&bias), (channels, 2 * BINS, 1), 1)?
                },
                source_block: residual(&format!("noise_res.{at}"), if at == 0 { 7 } else { 11 })?,
                blocks: blocks
                    .map(|(j, &taps)| residual(&format!("resblocks.{}", 3 * at + j), taps))
                    .collect::<Loaded<_>>()?,
            })
        };
        let constant = |scale: f32, channels: usize| -> Loaded<Affine> {
            let of = |value: f32| Tensor::full(value, (1, 1, channels), loader.device());
            Ok(Affine { scale: of(scale)?, shift: of(0.0)?, kernels: loader.form.kernels })
        };
        let bias = format!("{name}.conv_post.bias");
        Ok(Self {
            stages: [stage(0, OUT, FIRST)?, stage(1, OUT / 2, RATE / FIRST)?],
            last: loader.conv(&format!("{path}/conv_post"), Some(&bias), (2 * BINS, OUT / 4, 7), 1)?,
            third: constant(1.0 / 3.0, OUT)?,
            same: constant(1.0, OUT)?,
        })
    }

    /// `x`: `[batch][rows][channels]`, of which `lengths` are real; `spectrum`: a row more than `RATE` times as many.
    /// Gives logarithms of magnitudes, then phases before their sine, for each row of the spectrum.
    pub(super) fn run(
        &self,
        x: &Tensor,
        spectrum: &Tensor,
        style: &Tensor,
        lengths: &[usize],
        book: &mut Book,
    ) -> Result<Tensor> {
        let [first, second] = &self.stages;
        let at_first = |rows: &Valid| rows.iter().map(|rows| rows.start * FIRST..rows.end * FIRST).collect::<Vec<_>>();
        let at_second =
            |rows: &Valid| rows.iter().map(|rows| rows.start * RATE..rows.end * RATE + 1).collect::<Vec<_>>();
        let valid = from_start(lengths.iter().copied());

        let y = shaped(x, &self.same.narrow(OUT)?, &Act::Leaky(SLOPE), &valid)?;
        let here = at_first(&valid);
        let sound = first.source.padded(&grouped(spectrum, x.dim(1)?)?, 0, 0)?;
        let sound = first.source_block.run(&sound, style, &here, book, at_first)?;
        let y = first.blocks((first.rise(&y)? + sound)?, style, &here, book, at_first)?;

        let y = shaped(&y, &self.third.narrow(OUT / 2)?, &Act::Leaky(SLOPE), &here)?;
        let here = at_second(&valid);
        let sound = second.source.same(spectrum)?;
        let sound = second.source_block.run(&sound, style, &here, book, at_second)?;
        let y = second.rise(&y)?;
        // One row more: the second again before the first.
        let y = Tensor::cat(&[&y.narrow(1, 1, 1)?, &y], 1)?;
        let y = second.blocks((y + sound)?, style, &here, book, at_second)?;
        self.last.after(&y, &self.third.narrow(OUT / 4)?, &Act::Leaky(LAST_SLOPE), &here, None)
    }
}

impl Affine {
    fn narrow(&self, channels: usize) -> Result<Self> {
        let of = |x: &Tensor| x.narrow(2, 0, channels)?.contiguous();
        Ok(Self { scale: of(&self.scale)?, shift: of(&self.shift)?, kernels: self.kernels })
    }
}

impl Stage {
    fn rise(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, len, _) = x.dims3()?;
        let groups = self.up.padded(x, 1, 1)?.reshape((batch, (len + 1) * self.stride, self.channels))?;
        groups.narrow(1, self.stride / 2, len * self.stride)?.contiguous()
    }

    /// Three times the mean of what the blocks make of `x`.
    fn blocks(
        &self,
        x: Tensor,
        style: &Tensor,
        valid: &Valid,
        book: &mut Book,
        rows: impl Fn(&Valid) -> Vec<Range<usize>> + Copy,
    ) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for block in &self.blocks {
            let y = block.run(&x, style, valid, book, rows)?;
            sum = Some(match sum {
                Some(sum) => (sum + y)?,
                None => y,
            });
        }
        sum.ok_or_else(|| candle_core::Error::Msg("a stage without blocks".into()))
    }
}

impl Residual {
    fn load(loader: &Loader, part: &str, channels: usize, taps: usize) -> Loaded<Self> {
        let (path, name) = (format!("/decoder/decoder/generator/{part}"), format!("decoder.decoder.generator.{part}"));
        let step = |at: usize, dilation: usize| -> Loaded<Step> {
            let conv = |which: usize, dilation| {
                let bias = format!("{name}.convs{which}.{at}.bias");
                loader.conv(&format!("{path}/convs{which}.{at}"), Some(&bias), (channels, channels, taps), dilation)
            };
            let norm = |which: usize| {
                let part = format!("adain{which}.{at}");
                loader.styled(&format!("{path}/{part}"), &format!("{name}.{part}"), channels)
            };
            let alpha = |which: usize| loader.channels(&format!("{name}.alpha{which}.{at}"), channels);
            Ok(Step {
                convs: [conv(1, dilation)?, conv(2, 1)?],
                norms: [norm(1)?, norm(2)?],
                alphas: [alpha(1)?, alpha(2)?],
            })
        };
        let steps = DILATIONS.iter().enumerate().map(|(at, &dilation)| step(at, dilation));
        Ok(Self { steps: steps.collect::<Loaded<_>>()? })
    }

    fn run(
        &self,
        x: &Tensor,
        style: &Tensor,
        valid: &Valid,
        book: &mut Book,
        rows: impl Fn(&Valid) -> Vec<Range<usize>> + Copy,
    ) -> Result<Tensor> {
        let mut x = x.clone();
        for Step { convs: [first, second], norms, alphas } in &self.steps {
            let affine = book.affine(&x, &norms[0], style, rows)?;
            let y = first.after(&x, &affine, &Act::Snake(&alphas[0]), valid, None)?;
            let affine = book.affine(&y, &norms[1], style, rows)?;
            x = second.after(&y, &affine, &Act::Snake(&alphas[1]), valid, Some(&x))?;
        }
        Ok(x)
    }
}

/// A transposed convolution of twice as many taps as its stride, as a plain one of two.
fn upsample(loader: &Loader, at: usize, (inputs, outputs): (usize, usize), stride: usize) -> Loaded<Conv> {
    let path = format!("/decoder/decoder/generator/ups.{at}");
    let weight = loader.kernel(&path, "ConvTranspose", [inputs, outputs, 2 * stride])?;
    let bias = loader.vector(&format!("decoder.decoder.generator.ups.{at}.bias"), outputs)?.repeat(stride);
    let of = |group: usize, input: usize, tap: usize| {
        weight[(input * outputs + group % outputs) * 2 * stride + group / outputs + (1 - tap) * stride]
    };
    Ok(Conv::new((stride * outputs, inputs, 2), 1, Some(&bias), of, loader.form)?)
}

/// Spectrum rows that the source of the first stage steps over.
const STRIDE: usize = RATE / FIRST;

/// A convolution of twice as many taps as its stride, as one over groups of rows.
fn strided(loader: &Loader, outputs: usize) -> Loaded<Conv> {
    let (inputs, taps) = (2 * BINS, 2 * STRIDE);
    let weight = loader.kernel("/decoder/decoder/generator/noise_convs.0", "Conv", [outputs, inputs, taps])?;
    let bias = loader.vector("decoder.decoder.generator.noise_convs.0.bias", outputs)?;
    let of = |output: usize, at: usize, group: usize| {
        weight[(output * inputs + at % inputs) * taps + group * STRIDE + at / inputs]
    };
    Ok(Conv::new((outputs, STRIDE * inputs, 2), 1, Some(&bias), of, loader.form)?)
}

/// What [`strided`] reads for `rows` rows that enter.
fn grouped(spectrum: &Tensor, rows: usize) -> Result<Tensor> {
    let (batch, len, bins) = spectrum.dims3()?;
    let groups = rows * FIRST + 1;
    let after = (groups * STRIDE).saturating_sub(len + STRIDE / 2);
    spectrum.pad_with_zeros(1, STRIDE / 2, after)?.reshape((batch, groups, STRIDE * bins))
}

/// Samples `range` from rows of the spectrum, of which `rows` begins with number `first` and the whole has `total`: the
/// inverse of windows that overlap, divided by what these add up to.
pub(super) fn samples(rows: &[f32], first: usize, total: usize, range: Range<usize>, out: &mut Vec<f32>) {
    let window = hann();
    let angles: [(f64, f64); WINDOW] =
        std::array::from_fn(|at| (std::f64::consts::TAU * at as f64 / WINDOW as f64).sin_cos());
    let (mut sums, mut weights) = (vec![0.0_f64; range.len()], vec![0.0_f64; range.len()]);
    let start = |row: usize| (row * STEP) as isize - (WINDOW / 2) as isize - range.start as isize;
    for (row, values) in rows.chunks_exact(2 * BINS).enumerate().map(|(at, row)| (first + at, row)) {
        let (magnitudes, phases) = values.split_at(BINS);
        if row >= total || start(row) >= range.len() as isize || start(row) + WINDOW as isize <= 0 {
            continue;
        }
        let bins: [(f64, f64); BINS] = std::array::from_fn(|bin| {
            let (sin, cos) = f64::from(phases[bin]).sin().sin_cos();
            let twice = if bin == 0 || bin == BINS - 1 { 1.0 } else { 2.0 };
            let magnitude = f64::from(magnitudes[bin]).exp() * twice / WINDOW as f64;
            (magnitude * cos, magnitude * sin)
        });
        for (offset, window) in window.iter().enumerate() {
            let Some(at) = usize::try_from(start(row) + offset as isize).ok().filter(|&at| at < sums.len()) else {
                continue;
            };
            let wave = bins.iter().enumerate().map(|(bin, (real, imaginary))| {
                let (sin, cos) = angles[bin * offset % WINDOW];
                real * cos - imaginary * sin
            });
            sums[at] += window * wave.sum::<f64>();
            weights[at] += window * window;
        }
    }
    out.extend(sums.iter().zip(&weights).map(|(sum, weight)| if *weight > 0.0 { (sum / weight) as f32 } else { 0.0 }));
}
