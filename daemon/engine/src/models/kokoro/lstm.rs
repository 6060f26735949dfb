//! A long short-term memory in both directions (Hochreiter and Schmidhuber 1997; Schuster and Paliwal 1997): rows in;
//! rows out, of each what was told forwards and what backwards.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::load::{Loaded, Loader, wrong};
use super::ops::{Valid, floats, masked, rows};
use crate::kernels::gemv::Dense;
use crate::kernels::math;

pub(super) const WIDTH: usize = 256;
const GATES: usize = 4 * WIDTH;

pub(super) struct Lstm {
    directions: [Direction; 2],
}

struct Direction {
    /// `[inputs][gates]`; the biases of both products, summed.
    input: Tensor,
    bias: Tensor,
    /// `[width][gates]`, and for our kernels row by row.
    recurrent: Tensor,
    dense: Option<Dense>,
}

impl Lstm {
    pub(super) fn load(loader: &Loader, path: &str, inputs: usize) -> Loaded<Self> {
        let path = format!("{path}/LSTM_quant");
        let node = loader.onnx.node(&path)?;
        let name = |at: usize| node.inputs.get(at).map(String::as_str).ok_or_else(|| wrong(&path));
        let input = loader.onnx.dequantised(name(1)?, name(9)?, name(8)?)?;
        let recurrent = loader.onnx.dequantised(name(2)?, name(11)?, name(10)?)?;
        let bias = loader.vector(name(3)?, 2 * 2 * GATES)?;
        if input.dims != [2, inputs, GATES] || recurrent.dims != [2, WIDTH, GATES] {
            return Err(wrong(&path));
        }
        let device = loader.device();
        let direction = |at: usize| -> Loaded<Direction> {
            let part = |all: &[f32]| all[at * all.len() / 2..][..all.len() / 2].to_vec();
            let (input, recurrent, bias) = (part(&input.data), part(&recurrent.data), part(&bias));
            let bias: Vec<f32> = bias[..GATES].iter().zip(&bias[GATES..]).map(|(a, b)| a + b).collect();
            let turned = || (0..GATES * WIDTH).map(|at| recurrent[at % WIDTH * GATES + at / WIDTH]).collect();
            Ok(Direction {
                input: Tensor::from_vec(input, (inputs, GATES), device)?,
                bias: Tensor::from_vec(bias, GATES, device)?,
                dense: loader.form.kernels.then(|| Dense::new(turned(), WIDTH)),
                recurrent: Tensor::from_vec(recurrent, (WIDTH, GATES), device)?,
            })
        };
        Ok(Self { directions: [direction(0)?, direction(1)?] })
    }

    /// Rows beyond the real ones come out as zeros.
    pub(super) fn run(&self, x: &Tensor, valid: &Valid) -> Result<Tensor> {
        let (batch, len, inputs) = x.dims3()?;
        let gates = |direction: &Direction| {
            x.reshape((batch * len, inputs))?.matmul(&direction.input)?.broadcast_add(&direction.bias)
        };
        let [forwards, backwards] = &self.directions;
        let (first, second) = (gates(forwards)?, gates(backwards)?);
        if let (Some(one), Some(other)) = (&forwards.dense, &backwards.dense) {
            let (first, second) = (floats(&first, <[f32]>::to_vec)?, floats(&second, <[f32]>::to_vec)?);
            let mut out = vec![0.0; batch * len * 2 * WIDTH];
            out.par_chunks_exact_mut(len * 2 * WIDTH).enumerate().for_each(|(at, out)| {
                let part = |gates: &'_ [f32]| at * len * GATES..(at + 1) * len * GATES.min(gates.len());
                let (a, b) = rayon::join(
                    || scan(one, &first[part(&first)], valid[at].clone()),
                    || scan(other, &second[part(&second)], valid[at].clone().rev()),
                );
                let count = valid[at].len();
                for (step, out) in out.chunks_exact_mut(2 * WIDTH).take(count).enumerate() {
                    out[..WIDTH].copy_from_slice(&a[step * WIDTH..][..WIDTH]);
                    out[WIDTH..].copy_from_slice(&b[(count - 1 - step) * WIDTH..][..WIDTH]);
                }
            });
            return Tensor::from_vec(out, (batch, len, 2 * WIDTH), x.device());
        }
        let turned: Vec<u32> = valid
            .iter()
            .enumerate()
            .flat_map(|(at, rows)| {
                let end = rows.end;
                (0..len).map(move |row| (at * len + if row < end { end - 1 - row } else { row }) as u32)
            })
            .collect();
        let turn = |x: Tensor| rows(&x.reshape((batch * len, ()))?, turned.clone());
        let first = forwards.steps(&first.reshape((batch, len, GATES))?)?;
        let second = backwards.steps(&turn(second)?.reshape((batch, len, GATES))?)?;
        let second = turn(second)?.reshape((batch, len, WIDTH))?;
        masked(&Tensor::cat(&[first, second], 2)?, valid)
    }
}

/// The steps of one direction, in the order in which they are told; the rows are real from 0 on.
fn scan(recurrent: &Dense, gates: &[f32], order: impl Iterator<Item = usize>) -> Vec<f32> {
    let (mut cell, mut state, mut sum) = (vec![0.0; WIDTH], vec![0.0; WIDTH], vec![0.0; GATES]);
    let mut out = Vec::with_capacity(gates.len() / 4);
    for step in order {
        recurrent.mul(&state, &mut sum);
        math::add(&mut sum, &gates[step * GATES..][..GATES]);
        math::lstm_cell(&sum, &mut cell, &mut state);
        out.extend_from_slice(&state);
    }
    out
}

impl Direction {
    fn steps(&self, gates: &Tensor) -> Result<Tensor> {
        let (batch, len, _) = gates.dims3()?;
        let mut state = Tensor::zeros((batch, WIDTH), gates.dtype(), gates.device())?;
        let mut cell = state.clone();
        let mut out = Vec::with_capacity(len);
        for step in 0..len {
            let sum = (gates.narrow(1, step, 1)?.squeeze(1)? + state.matmul(&self.recurrent)?)?;
            let part = |at: usize| sum.narrow(1, at * WIDTH, WIDTH);
            let sigmoid = |x: Tensor| candle_nn::ops::sigmoid(&x);
            cell = ((sigmoid(part(2)?)? * &cell)? + (sigmoid(part(0)?)? * part(3)?.tanh()?)?)?;
            state = (sigmoid(part(1)?)? * cell.tanh()?)?;
            out.push(state.clone());
        }
        Tensor::stack(&out, 1)
    }
}
