//! Latent frames of the prior in, piece by piece; latent frames of the vocoder out, later by the reach of the network.
//!
//! The residual coupling flow of VITS run backwards: four times, swap the halves of the channels, then subtract from one
//! half what a small WaveNet reads off the other.

use rayon::prelude::*;

use super::load::{Loader, wrong};
use super::rows::Rows;
use crate::kernels::conv::{Conv, Start};
use crate::kernels::math;
use crate::weights::onnx::OnnxError;

pub(super) struct Flow {
    /// In the order in which the reverse flow runs.
    couplings: Vec<Coupling>,
    channels: usize,
}

struct Coupling {
    pre: Conv,
    layers: Vec<Layer>,
    post: Conv,
}

struct Layer {
    gates: Conv,
    /// Residual and skip channels; the last layer has only skip.
    res_skip: Conv,
}

pub(super) struct FlowState(Vec<CouplingState>);

struct CouplingState {
    /// Swapped input; its second half waits for what is to be subtracted.
    x: Rows,
    layers: Vec<LayerState>,
    done: usize,
}

struct LayerState {
    input: Rows,
    /// Sum of the skips of this and all earlier layers.
    skip: Rows,
    done: usize,
}

impl Flow {
    pub(super) fn load(loader: &Loader, channels: usize) -> Result<Self, OnnxError> {
        let mut couplings = Vec::new();
        // The odd flows are the swaps.
        for i in (0..64).step_by(2).take_while(|i| loader.onnx.node(&format!("/flow/flows.{i}/pre/Conv")).is_ok()) {
            let path = format!("/flow/flows.{i}");
            let pre = loader.conv(&format!("{path}/pre"), channels / 2)?;
            let hidden = pre.cout();
            let count = loader.count(&format!("{path}/enc/in_layers"), "Conv");
            let layers = (0..count)
                .map(|l| {
                    let last = l + 1 == count;
                    Ok(Layer {
                        gates: loader.same(&format!("{path}/enc/in_layers.{l}"), hidden, 2 * hidden)?,
                        res_skip: loader.same(
                            &format!("{path}/enc/res_skip_layers.{l}"),
                            hidden,
                            if last { hidden } else { 2 * hidden },
                        )?,
                    })
                })
                .collect::<Result<Vec<_>, OnnxError>>()?;
            if layers.is_empty() {
                return Err(wrong(&path, "it has no layers"));
            }
            couplings.push(Coupling { pre, layers, post: loader.same(&format!("{path}/post"), hidden, channels / 2)? });
        }
        couplings.reverse();
        Ok(Self { couplings, channels })
    }

    /// Frames by which the output is behind the input.
    pub(super) fn reach(&self) -> usize {
        self.couplings.iter().flat_map(|c| &c.layers).map(|layer| layer.gates.reach() / 2).sum()
    }

    pub(super) fn start(&self) -> FlowState {
        FlowState(
            self.couplings
                .iter()
                .map(|coupling| CouplingState {
                    x: Rows::new(self.channels, 0),
                    layers: coupling
                        .layers
                        .iter()
                        .map(|layer| LayerState {
                            input: Rows::new(coupling.pre.cout(), layer.gates.reach() / 2),
                            skip: Rows::new(coupling.pre.cout(), 0),
                            done: 0,
                        })
                        .collect(),
                    done: 0,
                })
                .collect(),
        )
    }

    /// Takes frames; gives those that can be known by now, all of them once `finished`.
    pub(super) fn push(&self, state: &mut FlowState, frames: Vec<f32>, finished: bool) -> Vec<f32> {
        self.couplings
            .iter()
            .zip(&mut state.0)
            .fold(frames, |frames, (coupling, state)| coupling.push(state, &frames, finished))
    }
}

impl Coupling {
    fn push(&self, state: &mut CouplingState, frames: &[f32], finished: bool) -> Vec<f32> {
        let (half, hidden) = (self.pre.cin(), self.pre.cout());
        let channels = 2 * half;
        let mut kept = Vec::with_capacity(frames.len() / 2);
        for (x, frame) in
            state.x.extend(frames.len() / channels).chunks_exact_mut(channels).zip(frames.chunks_exact(channels))
        {
            x.iter_mut().zip(frame.iter().rev()).for_each(|(x, &value)| *x = value);
            kept.extend_from_slice(&x[..half]);
        }
        self.pre.run(&kept, state.layers[0].input.extend(kept.len() / half), Start::Bias, |_, _| {});
        for (at, layer) in self.layers.iter().enumerate() {
            let (before, rest) = state.layers.split_at_mut(at);
            let Some((now, after)) = rest.split_first_mut() else { break };
            if finished {
                now.input.finish();
            }
            let pad = layer.gates.reach() / 2;
            let count = now.input.ready(pad).saturating_sub(now.done);
            let mut gates = vec![0.0; count * 2 * hidden];
            layer.gates.run(now.input.around(now.done, pad), &mut gates, Start::Bias, |_, _| {});
            let mut acts = vec![0.0; count * hidden];
            acts.par_chunks_mut(GATE_ROWS * hidden)
                .zip(gates.par_chunks(GATE_ROWS * 2 * hidden))
                .for_each(|(acts, gates)| math::gate(gates, hidden, acts));
            let width = layer.res_skip.cout();
            let mut out = gates;
            out.truncate(count * width);
            layer.res_skip.run(&acts, &mut out, Start::Bias, |_, _| {});
            let skip = now.skip.extend(count);
            if let Some(before) = before.last() {
                skip.copy_from_slice(before.skip.at(now.done, count));
            }
            for (skip, out) in skip.chunks_exact_mut(hidden).zip(out.chunks_exact(width)) {
                math::add(skip, &out[width - hidden..]);
            }
            if let Some(next) = after.first_mut() {
                let next = next.input.extend(count);
                next.copy_from_slice(now.input.at(now.done, count));
                for (next, out) in next.chunks_exact_mut(hidden).zip(out.chunks_exact(width)) {
                    math::add(next, &out[..hidden]);
                }
            }
            now.done += count;
            now.input.forget(now.done, pad);
            if let Some(before) = before.last_mut() {
                before.skip.forget(now.done, 0);
            }
        }
        let Some(last) = state.layers.last_mut() else { return Vec::new() };
        let count = last.done - state.done;
        let mut shift = vec![0.0; count * half];
        self.post.run(last.skip.at(state.done, count), &mut shift, Start::Bias, |_, _| {});
        let mut out = state.x.at(state.done, count).to_vec();
        for (out, shift) in out.chunks_exact_mut(channels).zip(shift.chunks_exact(half)) {
            out[half..].iter_mut().zip(shift).for_each(|(x, shift)| *x -= shift);
        }
        state.done += count;
        last.skip.forget(state.done, 0);
        state.x.forget(state.done, 0);
        out
    }
}

const GATE_ROWS: usize = 32;
