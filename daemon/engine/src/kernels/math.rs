//! Elementwise functions over slices, vectorised by the compiler for the widest unit that the processor has.
//!
//! Enters and leaves: `f32` slices. Errors against exact arithmetic are below 3e-7 relative (`exp`) or absolute (the rest).

/// Compiles a function twice, for AVX2+FMA and for any processor, and picks at run time.
macro_rules! dispatch {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the features that `wide` is compiled for have just been detected.
                    return unsafe { wide($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}

/// e^x after Cephes `expf`: 2^n times a polynomial on the remainder.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4_f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

#[inline(always)]
fn sigmoid_of(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn tanh_of(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

/// Sixteen partial sums, so that the compiler may vectorise.
#[inline(always)]
fn sum_of(x: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (lanes, rest) = x.as_chunks::<16>();
    let mut sums = [0.0_f32; 16];
    for x in lanes {
        for lane in 0..16 {
            sums[lane] += of(x[lane]);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|&x| of(x)).sum::<f32>()
}

/// Abramowitz and Stegun 7.1.26; absolute error below 1.5e-7.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = ((((1.061_405_4 * t - 1.453_152_1) * t + 1.421_413_8) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    (1.0 - p * exp(-a * a)).copysign(x)
}

dispatch! {
    /// WaveNet's gate: `out[c] = tanh(x[c]) · sigmoid(x[channels + c])` for each row of `2 · channels`.
    pub fn gate(rows: &[f32], channels: usize, out: &mut [f32]) {
        for (x, y) in rows.chunks_exact(2 * channels).zip(out.chunks_exact_mut(channels)) {
            let (a, b) = x.split_at(channels);
            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                *y = tanh_of(a) * sigmoid_of(b);
            }
        }
    }
}

dispatch! {
    /// `x = x · Φ(x)`.
    pub fn gelu(x: &mut [f32]) {
        for x in x {
            *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

dispatch! {
    /// `x = tanh(x)`.
    pub fn tanh(x: &mut [f32]) {
        for x in x {
            *x = tanh_of(*x);
        }
    }
}

dispatch! {
    /// `x = e^x`.
    pub fn exp_in_place(x: &mut [f32]) {
        for x in x {
            *x = exp(*x);
        }
    }
}

dispatch! {
    /// `x = e^x / Σ e^x`.
    pub fn softmax(x: &mut [f32]) {
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for x in x.iter_mut() {
            *x = exp(*x - max);
        }
        let norm = 1.0 / sum_of(x, |x| x);
        for x in x {
            *x *= norm;
        }
    }
}

dispatch! {
    /// `x = max(x, 0)`.
    pub fn relu(x: &mut [f32]) {
        for x in x {
            *x = x.max(0.0);
        }
    }
}

dispatch! {
    /// `out = x` where x is positive, else `slope · x`.
    pub fn leaky_relu(x: &[f32], slope: f32, out: &mut [f32]) {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = x.max(slope * x);
        }
    }
}

dispatch! {
    /// `x = scale · x` where x is positive, else `slope · scale · x`; `slope` at most 1.
    pub fn scaled_leaky_relu(x: &mut [f32], scale: f32, slope: f32) {
        for x in x {
            *x = (scale * *x).max(slope * scale * *x);
        }
    }
}

dispatch! {
    /// `x += y`.
    pub fn add(x: &mut [f32], y: &[f32]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

dispatch! {
    /// `x += scale · y`.
    pub fn axpy(x: &mut [f32], scale: f32, y: &[f32]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += scale * y;
        }
    }
}

dispatch! {
    /// The scalar product; sixteen partial sums.
    pub fn dot(x: &[f32], y: &[f32]) -> f32 {
        let (xs, x_rest) = x.as_chunks::<16>();
        let (ys, y_rest) = y.as_chunks::<16>();
        let mut sums = [0.0_f32; 16];
        for (x, y) in xs.iter().zip(ys) {
            for lane in 0..16 {
                sums[lane] += x[lane] * y[lane];
            }
        }
        let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
        sums.iter().sum::<f32>() + rest
    }
}

dispatch! {
    /// One output channel of a convolution over rows: `out[t] = x[t · channels ..] · weight`.
    pub fn dot_windows(x: &[f32], channels: usize, weight: &[f32], out: &mut [f32]) {
        for (t, y) in out.iter_mut().enumerate() {
            let (xs, _) = x[t * channels..t * channels + weight.len()].as_chunks::<16>();
            let (ws, _) = weight.as_chunks::<16>();
            let mut sums = [0.0_f32; 16];
            for (x, w) in xs.iter().zip(ws) {
                for lane in 0..16 {
                    sums[lane] += x[lane] * w[lane];
                }
            }
            *y = sums.iter().sum::<f32>();
        }
    }
}

dispatch! {
    /// Layer normalisation of each row of `gamma.len()`, in place, as Ba et al. 2016.
    pub fn layer_norm(x: &mut [f32], gamma: &[f32], beta: &[f32]) {
        const EPSILON: f32 = 1e-5;
        let len = gamma.len() as f32;
        for row in x.chunks_exact_mut(gamma.len()) {
            let mean = sum_of(row, |x| x) / len;
            let variance = sum_of(row, |x| (x - mean) * (x - mean)) / len;
            let scale = 1.0 / (variance + EPSILON).sqrt();
            for ((x, &gamma), &beta) in row.iter_mut().zip(gamma).zip(beta) {
                *x = (*x - mean) * scale * gamma + beta;
            }
        }
    }
}

/// sin² x, of period π: a remainder in ±π/2, then the series.
#[inline(always)]
fn sin_squared(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let n = (x * std::f32::consts::FRAC_1_PI + ROUND) - ROUND;
    let r = x - n * 3.140_625 - n * 9.675_026e-4 - n * 1.509_958e-7;
    let r2 = r * r;
    let p = -2.505_210_8e-8_f32;
    let p = p * r2 + 2.755_731_9e-6;
    let p = p * r2 - 1.984_127e-4;
    let p = p * r2 + 8.333_333e-3;
    let p = p * r2 - 1.666_666_6e-1;
    let sin = r + r * r2 * p;
    sin * sin
}

dispatch! {
    /// Snake (Ziyin et al. 2020) of `y = scale · x + shift`, by channel: `y + sin²(alpha · y) / alpha`.
    pub fn affine_snake(x: &[f32], scale: &[f32], shift: &[f32], alpha: &[f32], out: &mut [f32]) {
        let channels = alpha.len();
        for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            for ((((&x, out), &scale), &shift), &alpha) in x.iter().zip(out).zip(scale).zip(shift).zip(alpha) {
                let y = scale * x + shift;
                *out = y + sin_squared(alpha * y) / alpha;
            }
        }
    }
}

dispatch! {
    /// Leaky ReLU of `scale · x + shift`, by channel; `slope` at most 1.
    pub fn affine_leaky(x: &[f32], scale: &[f32], shift: &[f32], slope: f32, out: &mut [f32]) {
        let channels = scale.len();
        for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            for (((&x, out), &scale), &shift) in x.iter().zip(out).zip(scale).zip(shift) {
                let y = scale * x + shift;
                *out = y.max(slope * y);
            }
        }
    }
}

dispatch! {
    /// Adds to `sums` each channel's sum over the rows, and to `squares` that of the squares of its distance to `mean`.
    pub fn add_moments(x: &[f32], mean: &[f32], sums: &mut [f32], squares: &mut [f32]) {
        for row in x.chunks_exact(mean.len()) {
            for (((&x, &mean), sum), square) in row.iter().zip(mean).zip(&mut *sums).zip(&mut *squares) {
                let distance = x - mean;
                *sum += distance;
                *square += distance * distance;
            }
        }
    }
}

dispatch! {
    /// One step of a long short-term memory: gates as ONNX orders them (input, output, forget, cell), the cell and what
    /// it gives, all of the same width.
    pub fn lstm_cell(gates: &[f32], cell: &mut [f32], out: &mut [f32]) {
        let width = cell.len();
        let (input, rest) = gates.split_at(width);
        let (output, rest) = rest.split_at(width);
        let (forget, new) = rest.split_at(width);
        let gates = input.iter().zip(output).zip(forget).zip(new);
        for ((((&input, &output), &forget), &new), (cell, out)) in gates.zip(cell.iter_mut().zip(out)) {
            *cell = sigmoid_of(forget) * *cell + sigmoid_of(input) * tanh_of(new);
            *out = sigmoid_of(output) * tanh_of(*cell);
        }
    }
}

dispatch! {
    /// `x · Φ(x)` by the tangent (Hendrycks and Gimpel 2016), which some networks were trained with.
    pub fn gelu_tanh(x: &mut [f32]) {
        for x in x {
            let inner = 0.797_884_6 * (*x + 0.044_715 * *x * *x * *x);
            *x = 0.5 * *x * (1.0 + tanh_of(inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_exact_functions() {
        for step in -4000..=4000 {
            let x = step as f32 / 200.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() < 3e-7 * exact, "exp {x}");
            assert!((f64::from(tanh_of(x)) - f64::from(x).tanh()).abs() < 3e-7, "tanh {x}");
            let (mut y, gelu_exact) = ([x], f64::from(x) * 0.5 * (1.0 + erf_exact(f64::from(x) / 2_f64.sqrt())));
            gelu(&mut y);
            assert!((f64::from(y[0]) - gelu_exact).abs() < 3e-7 * (1.0 + gelu_exact.abs()), "gelu {x}");
            let sin = f64::from(x * 9.0).sin();
            assert!((f64::from(sin_squared(x * 9.0)) - sin * sin).abs() < 5e-7, "sin² {x}");
        }
        assert!(exp(-1e9) > 0.0, "clamped, not wrapped");
    }

    fn erf_exact(x: f64) -> f64 {
        candle_core::cpu::erf::erf_f64(x)
    }
}
