//! Two thin matrices beside a thick one: `y += B (A x)`, where A has a few rows and B as few columns (LoRA, arXiv
//! 2106.09685).
//!
//! Enters: a row of f32, and the two matrices in half precision, in the order in which they are read. Leaves: a row of f32
//! that was added to. Never here: a rounding of the activations, or a thread.
//!
//! A batch may hold as many pairs as rows, each read once for its row: what counts is bytes. So both lie in half
//! precision, strictly forwards, sixteen values to a load, without a gap.

use half::f16;

use super::Level;
use super::isa::{Isa, at_level};
use super::packed::LANES;

/// Rows of A that are read together; a rank is padded to a multiple of it with zeros.
const RANKS: usize = 4;

/// Bytes of a value.
pub const VALUE: usize = 2;

/// The rank as it lies in memory.
#[must_use]
pub const fn padded(rank: usize) -> usize {
    rank.next_multiple_of(RANKS)
}

/// Whether a width can be read in whole loads.
#[must_use]
pub const fn is_whole(width: usize) -> bool {
    width > 0 && width.is_multiple_of(LANES)
}

/// Appends A, `rank` rows of `inputs` values, in the order in which [`reduce`] reads it: four rows side by side.
///
/// # Panics
/// If the lengths do not agree, or `inputs` is not [whole](is_whole).
pub fn pack_a(values: &[f32], rank: usize, inputs: usize, out: &mut Vec<u8>) {
    assert!(values.len() == rank * inputs && is_whole(inputs), "{} values", values.len());
    for first in (0..rank).step_by(RANKS) {
        for chunk in (0..inputs).step_by(LANES) {
            for row in first..first + RANKS {
                let lanes = (chunk..chunk + LANES).map(|column| match row < rank {
                    true => values[row * inputs + column],
                    false => 0.0,
                });
                out.extend(lanes.flat_map(|value| f16::from_f32(value).to_le_bytes()));
            }
        }
    }
}

/// Appends B, of which `value(output, rank)` is a value, in the order in which [`expand`] reads it: sixteen outputs side by
/// side.
///
/// # Panics
/// If `outputs` is not [whole](is_whole).
pub fn pack_b(value: impl Fn(usize, usize) -> f32, rank: usize, outputs: usize, out: &mut Vec<u8>) {
    assert!(is_whole(outputs), "{outputs} outputs");
    for chunk in (0..outputs).step_by(LANES) {
        for row in 0..padded(rank) {
            let lanes = (chunk..chunk + LANES).map(|output| if row < rank { value(output, row) } else { 0.0 });
            out.extend(lanes.flat_map(|value| f16::from_f32(value).to_le_bytes()));
        }
    }
}

/// What [`pack_a`] was given, its rank padded.
#[must_use]
pub fn unpack_a(packed: &[u8], inputs: usize) -> Vec<f32> {
    let mut values = vec![0.0; packed.len() / VALUE];
    let columns = inputs / LANES;
    for (index, lanes) in packed.as_chunks::<{ VALUE * LANES }>().0.iter().enumerate() {
        let (group, chunk, row) = (index / RANKS / columns, index / RANKS % columns, index % RANKS);
        put(lanes, &mut values[(group * RANKS + row) * inputs + chunk * LANES..]);
    }
    values
}

/// What [`pack_b`] was given, its rank padded, transposed: as many rows as the rank, each as long as the outputs.
#[must_use]
pub fn unpack_b(packed: &[u8], outputs: usize) -> Vec<f32> {
    let mut values = vec![0.0; packed.len() / VALUE];
    let rank = values.len() / outputs;
    for (index, lanes) in packed.as_chunks::<{ VALUE * LANES }>().0.iter().enumerate() {
        put(lanes, &mut values[index % rank * outputs + index / rank * LANES..]);
    }
    values
}

fn put(lanes: &[u8; VALUE * LANES], to: &mut [f32]) {
    for (to, value) in to.iter_mut().zip(lanes.as_chunks::<VALUE>().0) {
        *to = f16::from_le_bytes(*value).to_f32();
    }
}

/// `t = A x`, where `a` is [packed](pack_a) and `t` has as many values as the padded rank.
///
/// # Panics
/// If the lengths do not agree.
pub fn reduce(level: Level, a: &[u8], x: &[f32], t: &mut [f32]) {
    let fits = is_whole(x.len()) && t.len().is_multiple_of(RANKS) && a.len() == VALUE * t.len() * x.len();
    assert!(fits, "{} × {} from {}", t.len(), x.len(), a.len());
    // SAFETY: `a` holds as many values as `t` × `x`, both of them whole loads, by the check.
    unsafe { reduce_at(level, a.as_ptr(), x, t) }
}

at_level! { unsafe fn reduce_at(a: *const u8, x: &[f32], t: &mut [f32]) = reduce_generic }

#[inline(always)]
unsafe fn reduce_generic<S: Isa>(a: *const u8, x: &[f32], t: &mut [f32]) {
    let mut a = a;
    for t in t.as_chunks_mut::<RANKS>().0 {
        // SAFETY: the caller has four rows at `a` for each four values of `t`, each as long as `x`.
        unsafe {
            let mut acc = [S::splat(0.0); RANKS];
            for x in x.as_chunks::<LANES>().0 {
                let x = S::load(x.as_ptr());
                acc[0] = S::fma(S::load_f16(a), x, acc[0]);
                acc[1] = S::fma(S::load_f16(a.add(32)), x, acc[1]);
                acc[2] = S::fma(S::load_f16(a.add(64)), x, acc[2]);
                acc[3] = S::fma(S::load_f16(a.add(96)), x, acc[3]);
                a = a.add(VALUE * LANES * RANKS);
            }
            for (t, acc) in t.iter_mut().zip(acc) {
                let mut lanes = [0.0_f32; LANES];
                S::store(lanes.as_mut_ptr(), acc);
                *t = lanes.iter().sum();
            }
        }
    }
}

/// `y += B t`, where `b` is a [packed](pack_b) matrix or its part for some whole outputs.
///
/// # Panics
/// If the lengths do not agree.
pub fn expand(level: Level, b: &[u8], t: &[f32], y: &mut [f32]) {
    let fits = is_whole(y.len()) && t.len().is_multiple_of(RANKS) && b.len() == VALUE * t.len() * y.len();
    assert!(fits, "{} × {} from {}", y.len(), t.len(), b.len());
    // SAFETY: `b` holds as many values as `t` × `y`, both of them whole, by the check.
    unsafe { expand_at(level, b.as_ptr(), t, y) }
}

at_level! { unsafe fn expand_at(b: *const u8, t: &[f32], y: &mut [f32]) = expand_generic }

#[inline(always)]
unsafe fn expand_generic<S: Isa>(b: *const u8, t: &[f32], y: &mut [f32]) {
    let mut b = b;
    for y in y.as_chunks_mut::<LANES>().0 {
        // SAFETY: the caller has sixteen values at `b` for each value of `t`, for each sixteen of `y`.
        unsafe {
            let mut acc = [S::load(y.as_ptr()), S::splat(0.0), S::splat(0.0), S::splat(0.0)];
            for t in t.as_chunks::<RANKS>().0 {
                acc[0] = S::fma(S::load_f16(b), S::splat(t[0]), acc[0]);
                acc[1] = S::fma(S::load_f16(b.add(32)), S::splat(t[1]), acc[1]);
                acc[2] = S::fma(S::load_f16(b.add(64)), S::splat(t[2]), acc[2]);
                acc[3] = S::fma(S::load_f16(b.add(96)), S::splat(t[3]), acc[3]);
                b = b.add(VALUE * LANES * RANKS);
            }
            let one = S::splat(1.0);
            let sum = S::fma(acc[2], one, S::fma(acc[3], one, S::fma(acc[1], one, acc[0])));
            S::store(y.as_mut_ptr(), sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u32, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Exact in half precision, so that the plain sum below rounds nothing that this does not.
            f32::from((state >> 24) as u8) / 64.0 - 2.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn every_level_adds_what_two_plain_products_give() {
        for (rank, inputs, outputs) in [(4, 16, 16), (6, 64, 48), (16, 576, 192), (64, 192, 576)] {
            let (a, b) = (values(1, rank * inputs), values(2, outputs * rank));
            let (x, y) = (values(3, inputs), values(4, outputs));
            let (mut packed_a, mut packed_b) = (Vec::new(), Vec::new());
            pack_a(&a, rank, inputs, &mut packed_a);
            pack_b(|output, k| b[output * rank + k], rank, outputs, &mut packed_b);
            let unpacked = unpack_a(&packed_a, inputs);
            assert!(unpacked[..rank * inputs] == a && unpacked[rank * inputs..].iter().all(|x| *x == 0.0));
            let unpacked = unpack_b(&packed_b, outputs);
            for (index, value) in unpacked.iter().enumerate() {
                let (k, output) = (index / outputs, index % outputs);
                assert_eq!(*value, if k < rank { b[output * rank + k] } else { 0.0 });
            }
            let dot = |row: &[f32], x: &[f64]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
            let wide: Vec<f64> = x.iter().copied().map(f64::from).collect();
            let t: Vec<f64> = a.chunks_exact(inputs).map(|row| dot(row, &wide)).collect();
            for level in Level::available() {
                let (mut low, mut sum) = (vec![f32::NAN; padded(rank)], y.clone());
                reduce(level, &packed_a, &x, &mut low);
                let (head, tail) = packed_b.split_at(VALUE * padded(rank) * 16);
                expand(level, head, &low, &mut sum[..16]);
                if outputs > 16 {
                    expand(level, tail, &low, &mut sum[16..]);
                }
                for ((sum, y), row) in sum.iter().zip(&y).zip(b.chunks_exact(rank)) {
                    let want = f64::from(*y) + dot(row, &t);
                    assert!((f64::from(*sum) - want).abs() < 1e-5 * (1.0 + want.abs()) * 10.0, "{sum} {want}");
                }
            }
        }
    }
}
