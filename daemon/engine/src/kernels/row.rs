//! What is done to one row of activations between two matrices.
//!
//! Enters and leaves: f32 slices. Plain loops, compiled for each [`Level`].

use std::cell::RefCell;

use super::Level;
use super::isa::{Isa, at_level};
use super::packed::GROUP;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's buffer of at least `len` numbers; what is in it is anything.
pub(super) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => {
            if scratch.len() < len {
                scratch.resize(len, 0.0);
            }
            f(&mut scratch[..len])
        }
        Err(_) => f(&mut vec![0.0; len]),
    })
}

/// Scales `x` by `weight` and by one over its root mean square.
pub fn rms_norm(level: Level, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "a norm of {} values", x.len());
    // SAFETY: plain slices.
    unsafe { rms_norm_at(level, x, weight, epsilon, out) }
}

at_level! { unsafe fn rms_norm_at(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) = rms_norm_generic }

#[inline(always)]
unsafe fn rms_norm_generic<S: Isa>(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let mut lanes = [0.0_f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    let sum = lanes.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
    let scale = 1.0 / (sum / x.len() as f32 + epsilon).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// `out += x`
pub fn add(level: Level, x: &[f32], out: &mut [f32]) {
    // SAFETY: plain slices.
    unsafe { add_at(level, x, out) }
}

at_level! { unsafe fn add_at(x: &[f32], out: &mut [f32]) = add_generic }

#[inline(always)]
unsafe fn add_generic<S: Isa>(x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

/// `out = silu(gate) · up`
pub fn silu_mul(level: Level, gate: &[f32], up: &[f32], out: &mut [f32]) {
    // SAFETY: plain slices.
    unsafe { silu_mul_at(level, gate, up, out) }
}

at_level! { unsafe fn silu_mul_at(gate: &[f32], up: &[f32], out: &mut [f32]) = silu_mul_generic }

#[inline(always)]
unsafe fn silu_mul_generic<S: Isa>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// e^x to 2 units in the last place, without a branch; below −87 it is about 1e-38, above 88 it is 1.6e38.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number in the low bits
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let poly = 1.987_569_1e-4;
    let poly = poly * r + 1.398_199_9e-3;
    let poly = poly * r + 8.333_452e-3;
    let poly = poly * r + 4.166_579_6e-2;
    let poly = poly * r + 1.666_666_5e-1;
    let poly = poly * r + 0.5;
    let value = poly * r * r + r + 1.0;
    // Below 127 steps from one; the low bits of `shifted` are n.
    f32::from_bits(value.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Quantises whole groups of 32: bytes, the step of each group, the sums of each group and of its halves.
///
/// # Panics
/// If the lengths do not agree.
pub(super) fn quantise(
    level: Level,
    x: &[f32],
    quants: &mut [i8],
    scales: &mut [f32],
    sums: &mut [f32],
    half_sums: &mut [f32],
) {
    let groups = x.len() / GROUP;
    let fits = quants.len() == groups * GROUP && scales.len() == groups && sums.len() == groups;
    assert!(fits && half_sums.len() == 2 * groups && x.len() == groups * GROUP, "{} values", x.len());
    // SAFETY: plain slices.
    unsafe { quantise_at(level, x, quants, scales, sums, half_sums) }
}

at_level! {
    unsafe fn quantise_at(x: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [f32], half_sums: &mut [f32])
        = quantise_generic
}

#[inline(always)]
unsafe fn quantise_generic<S: Isa>(
    x: &[f32],
    quants: &mut [i8],
    scales: &mut [f32],
    sums: &mut [f32],
    half_sums: &mut [f32],
) {
    const MAGIC: f32 = 12_582_912.0;
    let groups = x.as_chunks::<GROUP>().0.iter().zip(quants.as_chunks_mut::<GROUP>().0);
    let outs = scales.iter_mut().zip(sums).zip(half_sums.as_chunks_mut::<2>().0);
    for ((x, quants), ((scale, sum), halves)) in groups.zip(outs) {
        let mut most = [0.0_f32; 16];
        for half in x.as_chunks::<16>().0 {
            for (most, x) in most.iter_mut().zip(half) {
                let x = x.abs();
                *most = if x > *most { x } else { *most };
            }
        }
        let mut width = 8;
        while width > 0 {
            for i in 0..width {
                let other = most[i + width];
                most[i] = if other > most[i] { other } else { most[i] };
            }
            width /= 2;
        }
        let step = most[0] / 127.0;
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        let mut totals = [0_i32; 2];
        for ((x, quants), total) in x.as_chunks::<16>().0.iter().zip(quants.as_chunks_mut::<16>().0).zip(&mut totals) {
            let mut sum = 0_i32;
            for (x, quant) in x.iter().zip(quants) {
                let q = (x * inverse + MAGIC).to_bits().cast_signed().wrapping_sub(MAGIC.to_bits().cast_signed());
                *quant = q as i8;
                sum = sum.wrapping_add(q);
            }
            *total = sum;
        }
        *scale = step;
        *halves = totals.map(|total| total as f32 * step);
        *sum = halves[0] + halves[1];
    }
}

/// Takes from `x` what its bytes stand for.
pub(super) fn subtract_quantised(level: Level, quants: &[i8], scales: &[f32], x: &mut [f32]) {
    // SAFETY: plain slices.
    unsafe { subtract_quantised_at(level, quants, scales, x) }
}

at_level! {
    unsafe fn subtract_quantised_at(quants: &[i8], scales: &[f32], x: &mut [f32]) = subtract_quantised_generic
}

#[inline(always)]
unsafe fn subtract_quantised_generic<S: Isa>(quants: &[i8], scales: &[f32], x: &mut [f32]) {
    let groups = x.as_chunks_mut::<GROUP>().0.iter_mut().zip(quants.as_chunks::<GROUP>().0);
    for ((x, quants), scale) in groups.zip(scales) {
        for (x, quant) in x.iter_mut().zip(quants) {
            *x -= f32::from(*quant) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_a_part_in_a_million() {
        for step in -8700..8800_i16 {
            let x = f32::from(step) / 100.0;
            let want = x.exp();
            assert!((exp(x) - want).abs() <= 1e-6 * want, "{x}: {} {want}", exp(x));
        }
    }
}
