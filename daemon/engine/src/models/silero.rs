//! Silero VAD v6 at 16 kHz: 32 ms of audio in, the probability of speech out.
//!
//! Enters: windows of [`WINDOW`] samples, in order, with the [`State`] of their stream. Leaves: 0 to 1. Plain loops rather
//! than candle: the network is so small that an operator graph costs more than its sums, and it runs for every call all
//! the time. Layers: a Fourier transform as a convolution, four convolutions, one LSTM cell, one output.

use std::path::Path;

use crate::kernels::gemv::Dense;
use crate::weights::tensors::{TensorError, Tensors};

/// Samples of one window.
pub const WINDOW: usize = 512;

/// Samples of the window before that the network sees again.
const CONTEXT: usize = 64;
const TAIL: usize = 64;
const FFT: usize = 256;
const HOP: usize = 128;
const BINS: usize = FFT / 2 + 1;
const FRAMES: usize = (CONTEXT + WINDOW + TAIL - FFT) / HOP + 1;
const HIDDEN: usize = 128;

/// The network; one serves every stream.
#[derive(Debug)]
pub struct Silero {
    fourier: Dense,
    conv: [Conv; 4],
    gates: Dense,
    gates_bias: Vec<f32>,
    output: Vec<f32>,
    output_bias: f32,
}

/// What a stream has heard so far.
#[derive(Clone, Debug)]
pub struct State {
    context: [f32; CONTEXT],
    hidden: [f32; HIDDEN],
    cell: [f32; HIDDEN],
}

impl Default for State {
    fn default() -> Self {
        Self { context: [0.0; CONTEXT], hidden: [0.0; HIDDEN], cell: [0.0; HIDDEN] }
    }
}

/// A convolution over three frames, as one product per output frame: its frames lie one after the other.
#[derive(Debug)]
struct Conv {
    weights: Dense,
    bias: Vec<f32>,
    inputs: usize,
    stride: usize,
}

impl Conv {
    fn load(tensors: &Tensors, name: &str, inputs: usize, outputs: usize, stride: usize) -> Result<Self, TensorError> {
        let weights = tensors.read(&format!("{name}.weight"), &[outputs, inputs, 3])?;
        let mut by_tap = vec![0.0; weights.len()];
        for (out, row) in weights.chunks_exact(inputs * 3).enumerate() {
            for (input, taps) in row.chunks_exact(3).enumerate() {
                for (tap, weight) in taps.iter().enumerate() {
                    by_tap[(out * 3 + tap) * inputs + input] = *weight;
                }
            }
        }
        let bias = tensors.read(&format!("{name}.bias"), &[outputs])?;
        Ok(Self { weights: Dense::new(by_tap, inputs * 3), bias, inputs, stride })
    }

    /// `frames` has a frame of zeros before and after; so has what is left in `out`.
    fn run(&self, frames: &[f32], out: &mut Vec<f32>) {
        let outputs = self.bias.len();
        out.clear();
        out.resize(outputs, 0.0);
        for window in frames.windows(3 * self.inputs).step_by(self.stride * self.inputs) {
            let start = out.len();
            out.resize(start + outputs, 0.0);
            self.weights.mul(window, &mut out[start..]);
            for (out, bias) in out[start..].iter_mut().zip(&self.bias) {
                *out = (*out + bias).max(0.0);
            }
        }
        out.resize(out.len() + outputs, 0.0);
    }
}

impl Silero {
    /// Loads `silero_vad_16k.safetensors`.
    ///
    /// # Errors
    /// If the file is not that network.
    pub fn open(path: &Path) -> Result<Self, TensorError> {
        let tensors = Tensors::open(path)?;
        let input = tensors.read("lstm_cell.weight_ih", &[4 * HIDDEN, HIDDEN])?;
        let hidden = tensors.read("lstm_cell.weight_hh", &[4 * HIDDEN, HIDDEN])?;
        let gates = input.chunks_exact(HIDDEN).zip(hidden.chunks_exact(HIDDEN)).flat_map(|(i, h)| [i, h].concat());
        let bias_input = tensors.read("lstm_cell.bias_ih", &[4 * HIDDEN])?;
        let bias_hidden = tensors.read("lstm_cell.bias_hh", &[4 * HIDDEN])?;
        Ok(Self {
            fourier: Dense::new(tensors.read("stft_conv.weight", &[2 * BINS, 1, FFT])?, FFT),
            conv: [
                Conv::load(&tensors, "conv1", BINS, 128, 1)?,
                Conv::load(&tensors, "conv2", 128, 64, 2)?,
                Conv::load(&tensors, "conv3", 64, 64, 2)?,
                Conv::load(&tensors, "conv4", 64, HIDDEN, 1)?,
            ],
            gates: Dense::new(gates.collect(), 2 * HIDDEN),
            gates_bias: bias_input.iter().zip(bias_hidden).map(|(a, b)| a + b).collect(),
            output: tensors.read("final_conv.weight", &[1, HIDDEN, 1])?,
            output_bias: tensors.read("final_conv.bias", &[1])?[0],
        })
    }

    /// The probability that the last of these samples (-1 to 1) are speech.
    pub fn step(&self, state: &mut State, window: &[f32; WINDOW]) -> f32 {
        let mut signal = [0.0; CONTEXT + WINDOW + TAIL];
        let heard = CONTEXT + WINDOW;
        signal[..CONTEXT].copy_from_slice(&state.context);
        signal[CONTEXT..heard].copy_from_slice(window);
        for i in 0..TAIL {
            signal[heard + i] = signal[heard - 2 - i];
        }
        state.context.copy_from_slice(&signal[WINDOW..heard]);

        let mut frames = vec![0.0; (FRAMES + 2) * BINS];
        let mut spectrum = [0.0; 2 * BINS];
        for (frame, out) in frames[BINS..].chunks_exact_mut(BINS).take(FRAMES).enumerate() {
            self.fourier.mul(&signal[frame * HOP..frame * HOP + FFT], &mut spectrum);
            let (re, im) = spectrum.split_at(BINS);
            for ((out, re), im) in out.iter_mut().zip(re).zip(im) {
                *out = (re * re + im * im).sqrt();
            }
        }
        let mut next = Vec::with_capacity((FRAMES + 2) * HIDDEN);
        for conv in &self.conv {
            conv.run(&frames, &mut next);
            std::mem::swap(&mut frames, &mut next);
        }

        let mut input = [0.0; 2 * HIDDEN];
        input[..HIDDEN].copy_from_slice(&frames[HIDDEN..2 * HIDDEN]);
        input[HIDDEN..].copy_from_slice(&state.hidden);
        let mut gates = [0.0; 4 * HIDDEN];
        self.gates.mul(&input, &mut gates);
        for (gate, bias) in gates.iter_mut().zip(&self.gates_bias) {
            *gate += bias;
        }
        let mut logit = self.output_bias;
        for i in 0..HIDDEN {
            let [enter, forget, fresh, leave] = [0, 1, 2, 3].map(|gate| gates[gate * HIDDEN + i]);
            state.cell[i] = sigmoid(forget) * state.cell[i] + sigmoid(enter) * fresh.tanh();
            state.hidden[i] = sigmoid(leave) * state.cell[i].tanh();
            logit += self.output[i] * state.hidden[i].max(0.0);
        }
        sigmoid(logit)
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
