//! Functions of single numbers over long slices, fast: exact enough GELU and softmax.
//!
//! Enters and leaves: a slice, changed in place. candle computes both with one libm call per number, which costs more
//! than the matrix products around it.

/// `x · Φ(x)` with the error function, as PyTorch's `gelu`; within 5e-7 of it.
pub fn gelu(x: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { gelu_avx2(x) };
    }
    gelu_body(x);
}

/// `exp(x - max) / Σ`, within 1e-6 of it.
pub fn softmax(x: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { softmax_avx2(x) };
    }
    softmax_body(x);
}

/// `ln Σ exp(x)`.
#[must_use]
pub fn log_sum_exp(x: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { log_sum_exp_avx2(x) };
    }
    log_sum_exp_body(x)
}

/// Where the largest is; 0 if there is none.
#[must_use]
pub fn argmax(x: &[f32]) -> usize {
    let peak = max(x);
    x.iter().position(|&x| x == peak).unwrap_or(0)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn gelu_avx2(x: &mut [f32]) {
    gelu_body(x);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn log_sum_exp_avx2(x: &[f32]) -> f32 {
    log_sum_exp_body(x)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn softmax_avx2(x: &mut [f32]) {
    softmax_body(x);
}

/// The largest; 16 at a time, because a fold over floats is one long chain.
#[inline(always)]
fn max(x: &[f32]) -> f32 {
    let mut peaks = [f32::NEG_INFINITY; 16];
    let (blocks, rest) = x.as_chunks::<16>();
    for block in blocks {
        for (peak, x) in peaks.iter_mut().zip(block) {
            *peak = if *x > *peak { *x } else { *peak };
        }
    }
    peaks.iter().chain(rest).fold(f32::NEG_INFINITY, |peak, &x| peak.max(x))
}

/// `e^x` by 2^n · polynomial (Cephes `expf`): relative error below 2e-7 for x in [-87, 88]; clamped outside.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2^23 rounds to an integer, and leaves it in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    y * power
}

/// Abramowitz and Stegun 7.1.26: the error function within 1.5e-7.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    (1.0 - p * t * exp(-a * a)).copysign(x)
}

#[inline(always)]
fn gelu_body(x: &mut [f32]) {
    for x in x {
        *x *= 0.5 * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
    }
}

#[inline(always)]
fn softmax_body(x: &mut [f32]) {
    let peak = max(x);
    for x in &mut *x {
        *x = exp(*x - peak);
    }
    let mut sums = [0.0_f32; 16];
    let (blocks, rest) = x.as_chunks::<16>();
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += x;
        }
    }
    let scale = (sums.iter().sum::<f32>() + rest.iter().sum::<f32>()).recip();
    for x in x {
        *x *= scale;
    }
}

#[inline(always)]
fn log_sum_exp_body(x: &[f32]) -> f32 {
    let peak = max(x);
    let mut sum = 0.0_f64;
    // In pieces, so that a long sum of small numbers keeps them.
    for chunk in x.chunks(4096) {
        let mut sums = [0.0_f32; 16];
        let (blocks, rest) = chunk.as_chunks::<16>();
        for block in blocks {
            for (sum, x) in sums.iter_mut().zip(block) {
                *sum += exp(x - peak);
            }
        }
        let rest = rest.iter().map(|x| exp(x - peak));
        sum += f64::from(sums.into_iter().chain(rest).sum::<f32>());
    }
    peak + sum.ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_exact_enough() {
        // erf from tables; gelu(x) = x/2 · (1 + erf(x/√2)).
        for (x, phi) in [(0.0, 0.5), (1.0, 0.841_344_8), (-1.0, 0.158_655_25), (2.5, 0.993_790_3), (-6.0, 9.87e-10)] {
            let mut y = [x; 3];
            gelu(&mut y);
            assert!((y[2] - x * phi).abs() < 5e-7, "gelu({x}) = {}", y[2]);
        }
    }

    #[test]
    fn softmax_sums_to_one_and_orders() {
        let mut x: Vec<f32> = (0..1001).map(|i| (i % 77) as f32 * 0.3 - 200.0).collect();
        let exact: Vec<f64> = {
            let peak = x.iter().copied().fold(f32::MIN, f32::max);
            let exps: Vec<f64> = x.iter().map(|&x| f64::from(x - peak).exp()).collect();
            let sum: f64 = exps.iter().sum();
            exps.iter().map(|e| e / sum).collect()
        };
        let lse = log_sum_exp(&x);
        let exact_lse = x.iter().map(|&x| f64::from(x + 180.0).exp()).sum::<f64>().ln() - 180.0;
        assert!((f64::from(lse) - exact_lse).abs() < 1e-4);
        softmax(&mut x);
        for (x, exact) in x.iter().zip(exact) {
            assert!((f64::from(*x) - exact).abs() < 1e-6);
        }
    }
}
