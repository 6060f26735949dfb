//! Phoneme vectors in; how many latent frames each phoneme lasts, as a logarithm, out.
//!
//! The stochastic duration predictor of VITS, run backwards: noise is turned into log durations by three spline flows
//! (Durkan et al. 2019, rational-quadratic with linear tails). One flow of the trained model is left out here, as VITS does.

use super::load::{Loader, Norm, run_same, wrong};
use crate::kernels::conv::Conv;
use crate::kernels::math;
use crate::weights::onnx::OnnxError;

pub(super) struct DurationPredictor {
    pre: Conv,
    convs: Separable,
    proj: Conv,
    /// In the order in which the reverse flow runs.
    flows: Vec<SplineFlow>,
    shift: Vec<f32>,
    scale: Vec<f32>,
}

struct SplineFlow {
    pre: Conv,
    convs: Separable,
    proj: Conv,
}

/// Depth-separable convolutions, dilated 1, 3, 9.
struct Separable(Vec<SeparableLayer>);

struct SeparableLayer {
    /// `[tap][channel]`.
    depthwise: Vec<f32>,
    bias: Vec<f32>,
    dilation: usize,
    pointwise: Conv,
    norm_1: Norm,
    norm_2: Norm,
}

const TAIL: f32 = 5.0;
const MIN_WIDTH: f32 = 1e-3;
const MIN_SLOPE: f32 = 1e-3;

impl DurationPredictor {
    pub(super) fn load(loader: &Loader, channels: usize) -> Result<Self, OnnxError> {
        // Flow 1 is the one left out; the even ones only swap the two channels; flow 0 is the affine one.
        let mut flows = Vec::new();
        for i in [7, 5, 3] {
            let path = format!("dp/flows.{i}");
            let pre = loader.same(&format!("/{path}/pre"), 1, channels)?;
            let convs = Separable::load(loader, &format!("{path}/convs"), channels)?;
            let proj = loader.conv(&format!("/{path}/proj"), channels)?;
            if proj.cout() % 3 != 2 || proj.cout() < 5 {
                return Err(wrong(&path, "it is not the output of a spline flow"));
            }
            flows.push(SplineFlow { pre, convs, proj });
        }
        let shift = loader.vector("dp.flows.0.m", 2)?;
        let scale = if loader.onnx.contains("dp.flows.0.logs") {
            loader.vector("dp.flows.0.logs", 2)?.iter().map(|log| (-log).exp()).collect()
        } else {
            loader.vector("/dp/flows.0/Exp_output_0", 2)?
        };
        Ok(Self {
            pre: loader.same("/dp/pre", channels, channels)?,
            convs: Separable::load(loader, "dp/convs", channels)?,
            proj: loader.same("/dp/proj", channels, channels)?,
            flows,
            shift,
            scale,
        })
    }

    /// `noise` is `[2][phoneme]`, already scaled.
    pub(super) fn log_durations(&self, hidden: &[f32], noise: &[f32]) -> Vec<f32> {
        let mut x = run_same(&self.pre, hidden);
        self.convs.run(&mut x);
        let condition = run_same(&self.proj, &x);
        let (first, second) = noise.split_at(noise.len() / 2);
        let (mut a, mut b) = (first.to_vec(), second.to_vec());
        for flow in &self.flows {
            std::mem::swap(&mut a, &mut b);
            flow.reverse(&a, &mut b, &condition);
        }
        std::mem::swap(&mut a, &mut b);
        a.iter().map(|z| (z - self.shift[0]) * self.scale[0]).collect()
    }
}

impl SplineFlow {
    /// Transforms `moved` given `kept`.
    fn reverse(&self, kept: &[f32], moved: &mut [f32], condition: &[f32]) {
        let mut h = run_same(&self.pre, kept);
        math::add(&mut h, condition);
        self.convs.run(&mut h);
        let params = run_same(&self.proj, &h);
        let bins = self.proj.cout().div_ceil(3);
        let scale = 1.0 / (self.convs.channels() as f32).sqrt();
        for (x, params) in moved.iter_mut().zip(params.chunks_exact(self.proj.cout())) {
            *x = inverse_spline(*x, params, bins, scale);
        }
    }
}

/// Edges of the bins on one axis: softmax of `raw`, floored, cumulated over `-TAIL ..= TAIL`.
fn edges(raw: &[f32], scale: f32) -> Vec<f32> {
    let max = raw.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f32> = raw.iter().map(|x| ((x - max) * scale).exp()).collect();
    let sum: f32 = exps.iter().sum();
    let mut at = 0.0;
    let mut edges = vec![-TAIL];
    for x in &exps {
        at += MIN_WIDTH + (1.0 - MIN_WIDTH * raw.len() as f32) * x / sum;
        edges.push(2.0 * TAIL * at - TAIL);
    }
    edges[raw.len()] = TAIL;
    edges
}

fn inverse_spline(y: f32, params: &[f32], bins: usize, scale: f32) -> f32 {
    if !(-TAIL..=TAIL).contains(&y) {
        return y;
    }
    let (widths, heights) = (edges(&params[..bins], scale), edges(&params[bins..2 * bins], scale));
    let slope = |edge: usize| match edge {
        0 => 1.0,
        edge if edge == bins => 1.0,
        edge => MIN_SLOPE + softplus(params[2 * bins + edge - 1]),
    };
    let bin = heights[1..bins].iter().take_while(|&&edge| y >= edge).count();
    let (width, height) = (widths[bin + 1] - widths[bin], heights[bin + 1] - heights[bin]);
    let (left, right, delta) = (slope(bin), slope(bin + 1), height / width);
    let (offset, bend) = (y - heights[bin], left + right - 2.0 * delta);
    let a = offset * bend + height * (delta - left);
    let b = height * left - offset * bend;
    let c = -delta * offset;
    let root = 2.0 * c / (-b - (b * b - 4.0 * a * c).max(0.0).sqrt());
    root * width + widths[bin]
}

fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

impl Separable {
    fn load(loader: &Loader, path: &str, channels: usize) -> Result<Self, OnnxError> {
        let tensors = path.replace('/', ".");
        let mut layers = Vec::new();
        let mut dilation = 1;
        for i in 0..loader.count(&format!("/{path}/convs_sep"), "Conv") {
            let weight = loader.weights(&format!("{tensors}.convs_sep.{i}.weight"))?;
            let &[out, 1, taps] = weight.shape.as_slice() else {
                return Err(wrong(&tensors, "it is not a depthwise convolution"));
            };
            if out != channels || taps.is_multiple_of(2) {
                return Err(wrong(&tensors, "its shape is not expected"));
            }
            let depthwise =
                (0..taps * channels).map(|at| weight.values[at % channels * taps + at / channels]).collect();
            layers.push(SeparableLayer {
                depthwise,
                bias: loader.vector(&format!("{tensors}.convs_sep.{i}.bias"), channels)?,
                dilation,
                pointwise: loader.same(&format!("/{path}/convs_1x1.{i}"), channels, channels)?,
                norm_1: loader.norm(&format!("{tensors}.norms_1.{i}"), channels)?,
                norm_2: loader.norm(&format!("{tensors}.norms_2.{i}"), channels)?,
            });
            dilation *= taps;
        }
        if layers.is_empty() { Err(OnnxError::Missing(format!("layers {path}"))) } else { Ok(Self(layers)) }
    }

    fn channels(&self) -> usize {
        self.0[0].bias.len()
    }

    fn run(&self, x: &mut [f32]) {
        for layer in &self.0 {
            let mut y = layer.depthwise(x);
            layer.norm_1.apply(&mut y);
            math::gelu(&mut y);
            let mut y = run_same(&layer.pointwise, &y);
            layer.norm_2.apply(&mut y);
            math::gelu(&mut y);
            math::add(x, &y);
        }
    }
}

impl SeparableLayer {
    fn depthwise(&self, x: &[f32]) -> Vec<f32> {
        let c = self.bias.len();
        let (rows, taps) = (x.len() / c, self.depthwise.len() / c);
        let pad = taps / 2 * self.dilation;
        let mut out = self.bias.repeat(rows);
        for (t, out) in out.chunks_exact_mut(c).enumerate() {
            for (tap, weights) in self.depthwise.chunks_exact(c).enumerate() {
                let Some(from) = (t + tap * self.dilation).checked_sub(pad).filter(|&from| from < rows) else {
                    continue;
                };
                for ((out, &x), &w) in out.iter_mut().zip(&x[from * c..]).zip(weights) {
                    *out += x * w;
                }
            }
        }
        out
    }
}
