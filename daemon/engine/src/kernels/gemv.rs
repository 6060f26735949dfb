//! Matrices times one vector: what decoding one token at a time consists of.
//!
//! Enters: a row-major matrix and a vector. Leaves: `out[r] = row r · x`. Never here: an allocation per call, a thread.
//!
//! Such a product is bound by how fast the matrix arrives from memory, so [`Q8`] keeps one byte per weight (groups of
//! [`GROUP`] share an `f32` scale) and the vector stays `f32`: only the weights are rounded, by at most 1/254 of the
//! largest weight of their group.

use half::f16;

/// Weights that share a scale.
pub const GROUP: usize = 64;

/// A row-major `f32` matrix.
#[derive(Clone, Debug, Default)]
pub struct Dense {
    weights: Vec<f32>,
    cols: usize,
}

/// A row-major matrix of signed bytes with a scale for each [`GROUP`] of a row.
#[derive(Clone, Debug, Default)]
pub struct Q8 {
    weights: Vec<i8>,
    scales: Vec<f32>,
    cols: usize,
}

impl Dense {
    /// Takes `weights` as rows of `cols`.
    ///
    /// # Panics
    /// If they are not whole rows: the caller checks shapes when it loads.
    #[must_use]
    pub fn new(weights: Vec<f32>, cols: usize) -> Self {
        assert!(cols > 0 && weights.len().is_multiple_of(cols), "whole rows");
        Self { weights, cols }
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.weights.len() / self.cols
    }

    /// `out[r] = row r · x`.
    pub fn mul(&self, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), self.cols, "one weight per input");
        for (row, out) in self.weights.chunks_exact(self.cols).zip(out) {
            *out = dot(row, x);
        }
    }
}

impl Q8 {
    /// Rounds rows of `cols` to bytes.
    ///
    /// # Panics
    /// If `cols` is not a multiple of [`GROUP`], or the rows are not whole: the caller checks shapes when it loads.
    #[must_use]
    pub fn new(dense: &[f32], cols: usize) -> Self {
        assert!(cols > 0 && cols.is_multiple_of(GROUP) && dense.len().is_multiple_of(cols), "whole groups and rows");
        let mut weights = Vec::with_capacity(dense.len());
        let mut scales = Vec::with_capacity(dense.len() / GROUP);
        for group in dense.chunks_exact(GROUP) {
            let peak = group.iter().fold(0_f32, |peak, weight| peak.max(weight.abs()));
            let scale = peak / 127.0;
            let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
            scales.push(scale);
            weights.extend(group.iter().map(|weight| (weight * inverse).round() as i8));
        }
        Self { weights, scales, cols }
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.weights.len() / self.cols
    }

    /// Row `index` as it is multiplied, into `out`.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        let weights = &self.weights[index * self.cols..(index + 1) * self.cols];
        let scales = &self.scales[index * self.cols / GROUP..];
        for ((weights, out), scale) in weights.chunks_exact(GROUP).zip(out.chunks_exact_mut(GROUP)).zip(scales) {
            for (out, weight) in out.iter_mut().zip(weights) {
                *out = f32::from(*weight) * scale;
            }
        }
    }

    /// `out[i] = row (first + i) · x`, for as many rows as `out` has places.
    pub fn mul_rows(&self, first: usize, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), self.cols, "one weight per input");
        let groups = self.cols / GROUP;
        let weights = &self.weights[first * self.cols..(first + out.len()) * self.cols];
        let scales = &self.scales[first * groups..(first + out.len()) * groups];
        #[cfg(target_arch = "x86_64")]
        {
            if x86::has_avx512() {
                // SAFETY: the processor has the features that the function is compiled for.
                return unsafe { x86::q8_rows_avx512(weights, scales, x, out) };
            }
            if x86::has_avx2() {
                // SAFETY: as above.
                return unsafe { x86::q8_rows_avx2(weights, scales, x, out) };
            }
        }
        for ((row, scales), out) in weights.chunks_exact(self.cols).zip(scales.chunks_exact(groups)).zip(out) {
            *out = row
                .chunks_exact(GROUP)
                .zip(x.chunks_exact(GROUP))
                .zip(scales)
                .map(|((row, x), scale)| scale * row.iter().zip(x).map(|(w, x)| f32::from(*w) * x).sum::<f32>())
                .sum();
        }
    }

    /// `out[r] = row r · x`.
    pub fn mul(&self, x: &[f32], out: &mut [f32]) {
        assert_eq!(out.len(), self.rows(), "one output per row");
        self.mul_rows(0, x, out);
    }
}

/// The inner product of two vectors of one length.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx2() {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { x86::dot_avx2(a, b) };
    }
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `out += scale · x`.
pub fn add_scaled(out: &mut [f32], scale: f32, x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += scale * x;
    }
}

/// Widens half floats.
#[must_use]
pub fn widen(halves: &[f16]) -> Vec<f32> {
    halves.iter().map(|half| half.to_f32()).collect()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::GROUP;

    pub(super) fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }

    pub(super) fn has_avx512() -> bool {
        is_x86_feature_detected!("avx512f")
    }

    #[target_feature(enable = "avx2,fma")]
    fn sum(v: __m256) -> f32 {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
        let (mut s0, mut s1, mut s2, mut s3) =
            (_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps());
        let (a_blocks, a_rest) = a.as_chunks::<32>();
        let (b_blocks, b_rest) = b.as_chunks::<32>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            // SAFETY: each block holds 32 floats, which is four loads of 8.
            unsafe {
                let (a, b) = (a.as_ptr(), b.as_ptr());
                s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(b), s0);
                s1 = _mm256_fmadd_ps(_mm256_loadu_ps(a.add(8)), _mm256_loadu_ps(b.add(8)), s1);
                s2 = _mm256_fmadd_ps(_mm256_loadu_ps(a.add(16)), _mm256_loadu_ps(b.add(16)), s2);
                s3 = _mm256_fmadd_ps(_mm256_loadu_ps(a.add(24)), _mm256_loadu_ps(b.add(24)), s3);
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        rest + sum(_mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3)))
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn q8_rows_avx512(weights: &[i8], scales: &[f32], x: &[f32], out: &mut [f32]) {
        let (groups, _) = x.as_chunks::<GROUP>();
        let rows = weights.chunks_exact(x.len()).zip(scales.chunks_exact(groups.len()));
        for ((row, scales), out) in rows.zip(out) {
            let mut total = _mm512_setzero_ps();
            for ((w, x), scale) in row.as_chunks::<GROUP>().0.iter().zip(groups).zip(scales) {
                // SAFETY: a group holds 64 bytes and 64 floats, which is four loads of 16 each.
                let part = unsafe {
                    let (w, x) = (w.as_ptr().cast::<__m128i>(), x.as_ptr());
                    let w0 = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(w)));
                    let w1 = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(w.add(1))));
                    let w2 = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(w.add(2))));
                    let w3 = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(w.add(3))));
                    let a = _mm512_mul_ps(w0, _mm512_loadu_ps(x));
                    let b = _mm512_mul_ps(w1, _mm512_loadu_ps(x.add(16)));
                    let a = _mm512_fmadd_ps(w2, _mm512_loadu_ps(x.add(32)), a);
                    let b = _mm512_fmadd_ps(w3, _mm512_loadu_ps(x.add(48)), b);
                    _mm512_add_ps(a, b)
                };
                total = _mm512_fmadd_ps(part, _mm512_set1_ps(*scale), total);
            }
            *out = _mm512_reduce_add_ps(total);
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn q8_rows_avx2(weights: &[i8], scales: &[f32], x: &[f32], out: &mut [f32]) {
        let (groups, _) = x.as_chunks::<GROUP>();
        let rows = weights.chunks_exact(x.len()).zip(scales.chunks_exact(groups.len()));
        for ((row, scales), out) in rows.zip(out) {
            let mut total = _mm256_setzero_ps();
            for ((w, x), scale) in row.as_chunks::<GROUP>().0.iter().zip(groups).zip(scales) {
                let (mut a, mut b) = (_mm256_setzero_ps(), _mm256_setzero_ps());
                for i in (0..GROUP).step_by(16) {
                    // SAFETY: i + 16 ≤ GROUP, so each load of 8 bytes and of 8 floats is inside its group.
                    unsafe {
                        let w0 = _mm256_cvtepi8_epi32(_mm_loadl_epi64(w.as_ptr().add(i).cast()));
                        let w1 = _mm256_cvtepi8_epi32(_mm_loadl_epi64(w.as_ptr().add(i + 8).cast()));
                        let x = x.as_ptr().add(i);
                        a = _mm256_fmadd_ps(_mm256_cvtepi32_ps(w0), _mm256_loadu_ps(x), a);
                        b = _mm256_fmadd_ps(_mm256_cvtepi32_ps(w1), _mm256_loadu_ps(x.add(8)), b);
                    }
                }
                total = _mm256_fmadd_ps(_mm256_add_ps(a, b), _mm256_set1_ps(*scale), total);
            }
            *out = sum(total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, mut seed: u32) -> Vec<f32> {
        std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .take(len)
        .collect()
    }

    fn close(a: f32, b: f32) {
        assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{a} is not {b}");
    }

    #[test]
    fn dense_is_the_sum_of_products_at_any_length() {
        for cols in [1, 31, 64, 129] {
            let (weights, x) = (noise(3 * cols, 1), noise(cols, 2));
            let mut out = [0.0; 3];
            Dense::new(weights.clone(), cols).mul(&x, &mut out);
            for (row, out) in weights.chunks(cols).zip(out) {
                close(out, row.iter().zip(&x).map(|(w, x)| w * x).sum());
            }
        }
    }

    #[test]
    fn bytes_multiply_as_the_rows_that_they_stand_for() {
        let (cols, rows) = (192, 5);
        let (weights, x) = (noise(cols * rows, 3), noise(cols, 4));
        let matrix = Q8::new(&weights, cols);
        let mut out = vec![0.0; rows];
        matrix.mul(&x, &mut out);
        let mut row = vec![0.0; cols];
        for (index, out) in out.iter().enumerate() {
            matrix.row(index, &mut row);
            close(*out, row.iter().zip(&x).map(|(w, x)| w * x).sum());
            for (rounded, weight) in row.iter().zip(&weights[index * cols..]) {
                assert!((rounded - weight).abs() <= 1.001 / 254.0);
            }
        }
        let mut part = [0.0; 2];
        matrix.mul_rows(2, &x, &mut part);
        assert_eq!(part, out[2..4]);
        #[cfg(target_arch = "x86_64")]
        if x86::has_avx2() {
            // SAFETY: just detected.
            unsafe { x86::q8_rows_avx2(&matrix.weights, &matrix.scales, &x, &mut row[..rows]) };
            for (narrow, wide) in row.iter().zip(&out) {
                close(*narrow, *wide);
            }
        }
    }
}
