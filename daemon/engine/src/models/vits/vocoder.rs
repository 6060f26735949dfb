//! Latent frames in, piece by piece; samples out, later by the reach of the network.
//!
//! HiFi-GAN (Kong et al. 2020) with the small residual blocks ("ResBlock2"). Every layer keeps the few rows that its
//! neighbours need, makes each of its rows once and as soon as it can, and so gives the same bits whether an utterance
//! comes in one piece or in many, at the same cost.

use super::load::{Loader, Upsample, wrong};
use super::rows::Rows;
use crate::kernels::conv::{Conv, Start};
use crate::kernels::math;
use crate::weights::onnx::OnnxError;
use rayon::prelude::*;

pub(super) struct Vocoder {
    pre: Conv,
    stages: Vec<Stage>,
    /// The last convolution has one output channel: `[tap][channel]`.
    post: Vec<f32>,
    post_taps: usize,
}

struct Stage {
    up: Upsample,
    blocks: Vec<[Conv; 2]>,
}

/// Leak before a convolution, and before the last one (the latter is PyTorch's default, as in the original).
const SLOPE: f32 = 0.1;
const LAST_SLOPE: f32 = 0.01;

pub(super) struct VocoderState {
    frames: Rows,
    framed: usize,
    stages: Vec<StageState>,
    post: Rows,
    done: usize,
}

struct StageState {
    /// What is to be upsampled, leaky already.
    input: Rows,
    upsampled: usize,
    /// The upsampled rows as they are, and leaky.
    raw: Rows,
    leaky: Rows,
    blocks: Vec<BlockState>,
    done: usize,
}

struct BlockState {
    raw: Rows,
    leaky: Rows,
    done: usize,
}

fn pad(conv: &Conv) -> usize {
    conv.reach() / 2
}

impl Vocoder {
    pub(super) fn load(loader: &Loader, latent: usize) -> Result<Self, OnnxError> {
        let pre = loader.conv("/dec/conv_pre", latent)?;
        let count = loader.count("/dec/ups", "ConvTranspose");
        let per_stage =
            loader.count("/dec/resblocks", "LeakyRelu").max(loader.count("/dec/resblocks", "Add")) / count.max(1);
        let mut channels = pre.cout();
        let mut stages = Vec::new();
        for i in 0..count {
            let up = loader.upsample(&format!("/dec/ups.{i}"), channels)?;
            channels = up.channels;
            let blocks = (0..per_stage)
                .map(|j| {
                    let path = format!("/dec/resblocks.{}", i * per_stage + j);
                    if loader.count(&format!("{path}/convs"), "Conv") != 2 {
                        return Err(wrong(&path, "only residual blocks of two convolutions are known"));
                    }
                    let conv = |k: usize| loader.same(&format!("{path}/convs.{k}"), channels, channels);
                    Ok([conv(0)?, conv(1)?])
                })
                .collect::<Result<Vec<_>, OnnxError>>()?;
            if blocks.is_empty() {
                return Err(wrong("dec.resblocks", "there are none"));
            }
            stages.push(Stage { up, blocks });
        }
        let name = "dec.conv_post.weight";
        let post = loader.weights(name)?;
        let &[1, cin, post_taps] = post.shape.as_slice() else { return Err(wrong(name, "its shape is not expected")) };
        if cin != channels || post_taps.is_multiple_of(2) || !(cin * post_taps).is_multiple_of(16) || stages.is_empty()
        {
            return Err(wrong(name, "its shape is not expected"));
        }
        let post = (0..cin * post_taps).map(|at| post.values[at % cin * post_taps + at / cin]).collect();
        Ok(Self { pre, stages, post, post_taps })
    }

    /// Samples made of one frame.
    pub(super) fn hop(&self) -> usize {
        self.stages.iter().map(|stage| stage.up.stride).product()
    }

    /// Frames by which the output is at most behind the input.
    pub(super) fn reach(&self) -> usize {
        let mut rows_per_frame = 1;
        let mut frames = pad(&self.pre) as f32;
        for stage in &self.stages {
            frames += 1.0 / rows_per_frame as f32;
            rows_per_frame *= stage.up.stride;
            let rows = stage.blocks.iter().map(|[a, b]| pad(a) + pad(b)).max().unwrap_or(0);
            frames += rows as f32 / rows_per_frame as f32;
        }
        (frames + (self.post_taps / 2) as f32 / rows_per_frame as f32).ceil() as usize
    }

    pub(super) fn start(&self) -> VocoderState {
        let stages = self.stages.iter().map(|stage| {
            let channels = stage.up.channels;
            StageState {
                input: Rows::new(stage.up.conv.cin(), 1),
                upsampled: 0,
                raw: Rows::new(channels, 0),
                leaky: Rows::new(channels, stage.blocks.iter().map(|[a, _]| pad(a)).max().unwrap_or(0)),
                blocks: stage
                    .blocks
                    .iter()
                    .map(|[_, b]| BlockState {
                        raw: Rows::new(channels, 0),
                        leaky: Rows::new(channels, pad(b)),
                        done: 0,
                    })
                    .collect(),
                done: 0,
            }
        });
        VocoderState {
            frames: Rows::new(self.pre.cin(), pad(&self.pre)),
            framed: 0,
            stages: stages.collect(),
            post: Rows::new(self.post.len() / self.post_taps, self.post_taps / 2),
            done: 0,
        }
    }

    /// Takes frames; gives the samples that can be known by now, all of them once `finished`.
    pub(super) fn push(&self, state: &mut VocoderState, frames: &[f32], finished: bool) -> Vec<f32> {
        state.frames.extend(frames.len() / self.pre.cin()).copy_from_slice(frames);
        if finished {
            state.frames.finish();
        }
        let VocoderState { frames, framed, stages, post, done } = state;
        let count = frames.ready(pad(&self.pre)) - *framed;
        if let Some(first) = stages.first_mut() {
            self.pre.run(frames.around(*framed, pad(&self.pre)), first.input.extend(count), Start::Bias, |_, y| {
                math::scaled_leaky_relu(y, 1.0, SLOPE);
            });
        }
        *framed += count;
        frames.forget(*framed, pad(&self.pre));
        let mut rest = stages.as_mut_slice();
        for (at, stage) in self.stages.iter().enumerate() {
            let Some((now, after)) = rest.split_first_mut() else { break };
            if finished {
                now.input.finish();
            }
            stage.upsample(now, finished);
            let last = at + 1 == self.stages.len();
            let next = if last { &mut *post } else { &mut after[0].input };
            stage.blocks(now, next, finished, if last { LAST_SLOPE } else { SLOPE });
            rest = after;
        }
        if finished {
            post.finish();
        }
        let pad = self.post_taps / 2;
        let mut samples = vec![0.0; post.ready(pad) - *done];
        let (x, channels) = (post.around(*done, pad), self.post.len() / self.post_taps);
        samples.par_chunks_mut(POST_ROWS).enumerate().for_each(|(piece, samples)| {
            math::dot_windows(&x[piece * POST_ROWS * channels..], channels, &self.post, samples);
            math::tanh(samples);
        });
        *done += samples.len();
        post.forget(*done, pad);
        samples
    }
}

const POST_ROWS: usize = 1024;

impl Stage {
    /// Fills `raw` and `leaky` as far as `input` allows.
    fn upsample(&self, state: &mut StageState, finished: bool) {
        let Upsample { conv, stride, pad, channels } = &self.up;
        // One group more than input rows: the last holds the second half of the last input row.
        let end = if finished { state.input.len() + 1 } else { state.input.len() };
        let count = end - state.upsampled;
        if count == 0 {
            return;
        }
        let mut groups = vec![0.0; count * conv.cout()];
        conv.run(state.input.around(state.upsampled, 1), &mut groups, Start::Bias, |_, _| {});
        let from = if state.upsampled == 0 { pad * channels } else { 0 };
        let to = groups.len() - if finished { (stride - pad) * channels } else { 0 };
        let fresh = &groups[from.min(to)..to];
        state.raw.extend(fresh.len() / channels).copy_from_slice(fresh);
        leaky(fresh, state.leaky.extend(fresh.len() / channels));
        state.upsampled = end;
        state.input.forget(end, 1);
        if finished {
            state.leaky.finish();
        }
    }

    /// Runs the residual blocks as far as `leaky` allows, and appends the leaky mean of their outputs to `out`.
    fn blocks(&self, state: &mut StageState, out: &mut Rows, finished: bool, slope: f32) {
        for ([conv, _], block) in self.blocks.iter().zip(&mut state.blocks) {
            let count = state.leaky.ready(pad(conv)) - block.done;
            let rows = block.raw.extend(count);
            rows.copy_from_slice(state.raw.at(block.done, count));
            conv.run(state.leaky.around(block.done, pad(conv)), rows, Start::Sum, |_, _| {});
            leaky(rows, block.leaky.extend(count));
            block.done += count;
            if finished {
                block.leaky.finish();
            }
        }
        let ready = self.blocks.iter().zip(&state.blocks).map(|([_, conv], block)| block.leaky.ready(pad(conv))).min();
        let count = ready.unwrap_or(0).saturating_sub(state.done);
        let sum = out.extend(count);
        for (i, ([_, conv], block)) in self.blocks.iter().zip(&mut state.blocks).enumerate() {
            math::add(sum, block.raw.at(state.done, count));
            let x = block.leaky.around(state.done, pad(conv));
            if i + 1 == self.blocks.len() {
                let scale = 1.0 / self.blocks.len() as f32;
                conv.run(x, sum, Start::Sum, |_, y| math::scaled_leaky_relu(y, scale, slope));
            } else {
                conv.run(x, sum, Start::Sum, |_, _| {});
            }
            block.raw.forget(state.done + count, 0);
            block.leaky.forget(state.done + count, pad(conv));
        }
        state.done += count;
        let oldest = state.blocks.iter().map(|block| block.done).min().unwrap_or(0);
        state.raw.forget(oldest, 0);
        let reach = self.blocks.iter().map(|[conv, _]| pad(conv)).max().unwrap_or(0);
        state.leaky.forget(oldest, reach);
    }
}

fn leaky(x: &[f32], out: &mut [f32]) {
    math::leaky_relu(x, SLOPE, out);
}
