//! One-dimensional convolution over rows (channels last) as shifted matrix products.
//!
//! Enters: rows `[time][channel]` with their padding already in place, weights packed once. Leaves: rows. Nothing is
//! unrolled (no im2col): tap `k` of output row `t` reads input row `t + k · dilation`, so each tap is a matrix product
//! on a shifted view. A tile of output rows × 32 channels stays in registers over all taps and input channels; each
//! output row is summed in the same order whatever tile it falls into, so any cut of the time axis gives equal bits.

use rayon::prelude::*;

/// Output channels of a panel of packed weights.
const PANEL: usize = 32;
/// Rows of the largest tile: 12 × 2 vectors of 16 fill 24 of the 32 registers of AVX-512.
const TILE: usize = 12;

/// Sixteen weights on a cache line of their own, so that no load straddles two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// The packed weights of one convolution.
pub struct Conv {
    cin: usize,
    cout: usize,
    taps: usize,
    dilation: usize,
    /// `[panel][tap][input channel][PANEL]`, zeros beyond the last channel.
    panels: Vec<Line>,
    bias: Vec<Line>,
}

/// What the output rows hold before the products are added.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing: they are overwritten with bias + products.
    Bias,
    /// Something to add to, such as a residual.
    Sum,
}

impl Conv {
    /// Packs weights given as `weight(output channel, input channel, tap)`.
    pub fn pack(
        (cout, cin, taps): (usize, usize, usize),
        dilation: usize,
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let blocks = cout.div_ceil(PANEL);
        let mut panels = vec![Line([0.0; 16]); blocks * taps * cin * PANEL / 16];
        let mut bias_lines = vec![Line([0.0; 16]); blocks * PANEL / 16];
        for out in 0..cout {
            let (block, lane) = (out / PANEL, out % PANEL);
            for tap in 0..taps {
                for input in 0..cin {
                    let at = ((block * taps + tap) * cin + input) * PANEL + lane;
                    panels[at / 16].0[at % 16] = weight(out, input, tap);
                }
            }
            if let Some(bias) = bias {
                bias_lines[out / 16].0[out % 16] = bias[out];
            }
        }
        Self { cin, cout, taps, dilation, panels, bias: bias_lines }
    }

    /// Input channels.
    pub fn cin(&self) -> usize {
        self.cin
    }

    /// Output channels.
    pub fn cout(&self) -> usize {
        self.cout
    }

    /// Rows that the input must have beyond the output.
    pub fn reach(&self) -> usize {
        (self.taps - 1) * self.dilation
    }

    /// Computes `y.len() / cout` output rows; output row 0 reads the input rows `0 ..= reach`.
    /// `finish` is called once with each piece of finished rows and the index of its first row.
    /// Runs on the rayon pool in which it is called.
    ///
    /// # Panics
    /// If `x` is shorter than the output and the reach need, or `y` is not whole rows.
    pub fn run(&self, x: &[f32], y: &mut [f32], start: Start, finish: impl Fn(usize, &mut [f32]) + Sync) {
        let rows = y.len() / self.cout;
        assert_eq!(y.len(), rows * self.cout, "whole output rows");
        if rows == 0 {
            return;
        }
        assert!(x.len() >= (rows + self.reach()) * self.cin, "enough input rows");
        let threads = rayon::current_num_threads();
        // Two pieces per thread let a thread whose core is taken away hand half of its share to the others.
        let piece =
            if threads == 1 { rows.min(20 * TILE) } else { rows.div_ceil(2 * threads).clamp(2 * TILE, 20 * TILE) };
        let piece = piece.next_multiple_of(TILE);
        let work = |(index, y): (usize, &mut [f32])| {
            let first = index * piece;
            self.rows(&x[first * self.cin..], y, start);
            finish(first, y);
        };
        if threads == 1 || rows <= piece {
            y.chunks_mut(piece * self.cout).enumerate().for_each(work);
        } else {
            y.par_chunks_mut(piece * self.cout).enumerate().for_each(work);
        }
    }

    fn rows(&self, x: &[f32], y: &mut [f32], start: Start) {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return self.tiles(x, y, start, &x86::AVX512);
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                return self.tiles(x, y, start, &x86::AVX2);
            }
        }
        self.tiles(x, y, start, &PORTABLE);
    }

    fn tiles(&self, x: &[f32], y: &mut [f32], start: Start, kernels: &Kernels) {
        let rows = y.len() / self.cout;
        assert!(rows > 0 && x.len() >= (rows + self.reach()) * self.cin, "enough input rows");
        for block in 0..self.cout.div_ceil(PANEL) {
            let lines = self.taps * self.cin * PANEL / 16;
            let weights = &self.panels[block * lines..(block + 1) * lines];
            let bias = &self.bias[block * PANEL / 16..(block + 1) * PANEL / 16];
            let (from, width) = (block * PANEL, PANEL.min(self.cout - block * PANEL));
            let mut row = 0;
            while row < rows {
                let left = rows - row;
                let (height, kernel) = kernels
                    .iter()
                    .find(|(height, _)| *height <= left)
                    .copied()
                    .expect("the list ends with a kernel for one row");
                let mut tile = [[0.0; PANEL]; TILE];
                for (m, line) in tile.iter_mut().enumerate().take(height) {
                    for (lanes, bias) in line.as_chunks_mut::<16>().0.iter_mut().zip(bias) {
                        *lanes = bias.0;
                    }
                    if start == Start::Sum {
                        let held = &y[(row + m) * self.cout + from..][..width];
                        for (lane, held) in line.iter_mut().zip(held) {
                            *lane += held;
                        }
                    }
                }
                let shape = Shape { cin: self.cin, taps: self.taps, step: self.dilation * self.cin };
                // SAFETY: the kernel reads rows `row .. row + height + reach` of `x`, which the assertion above covers
                // as `row + height <= rows`, and `taps · cin` panel rows of `weights`, which is exactly its length;
                // the caller has detected the kernel's processor features.
                unsafe { kernel(x.as_ptr().add(row * self.cin), weights.as_ptr(), shape, &mut tile) };
                for (m, line) in tile.iter().enumerate().take(height) {
                    y[(row + m) * self.cout + from..][..width].copy_from_slice(&line[..width]);
                }
                row += height;
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Shape {
    cin: usize,
    taps: usize,
    /// Floats from one tap's input to the next.
    step: usize,
}

type Tile = [[f32; PANEL]; TILE];
// SAFETY, for all below: `x` has as many rows as the kernel computes plus the reach, `w` has `taps · cin` panel rows.
type Kernel = unsafe fn(*const f32, *const Line, Shape, &mut Tile);
/// Kernels by the rows that they compute, the highest first, the last for one row.
type Kernels = [(usize, Kernel); 5];

static PORTABLE: Kernels =
    [(4, portable::<4>), (4, portable::<4>), (2, portable::<2>), (2, portable::<2>), (1, portable::<1>)];

/// # Safety
/// As [`Kernel`]: `x` has `M` rows plus the reach, `w` has `taps · cin` panel rows.
// SAFETY: of the caller, as the documentation says.
unsafe fn portable<const M: usize>(x: *const f32, w: *const Line, shape: Shape, tile: &mut Tile) {
    for tap in 0..shape.taps {
        for input in 0..shape.cin {
            // SAFETY: the panel row `tap · cin + input` exists, by the caller.
            let (low, high) =
                unsafe { (&*w.add((tap * shape.cin + input) * 2), &*w.add((tap * shape.cin + input) * 2 + 1)) };
            for (m, line) in tile.iter_mut().enumerate().take(M) {
                // SAFETY: row `m + tap · dilation` exists, by the caller.
                let value = unsafe { *x.add(m * shape.cin + tap * shape.step + input) };
                for lane in 0..16 {
                    line[lane] += value * low.0[lane];
                    line[16 + lane] += value * high.0[lane];
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_load_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
        _mm512_load_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };

    use super::{Kernels, Line, Shape, Tile};

    pub(super) static AVX512: Kernels =
        [(12, avx512::<12>), (8, avx512::<8>), (4, avx512::<4>), (2, avx512::<2>), (1, avx512::<1>)];
    pub(super) static AVX2: Kernels = [(6, avx2::<6>), (4, avx2::<4>), (3, avx2::<3>), (2, avx2::<2>), (1, avx2::<1>)];

    /// # Safety
    /// As [`super::Kernel`], and the processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    // SAFETY: of the caller, as the documentation says.
    unsafe fn avx512<const M: usize>(x: *const f32, w: *const Line, shape: Shape, tile: &mut Tile) {
        // SAFETY: every pointer below stays within what the caller vouches for; the tile is ours.
        unsafe {
            let mut sums = [[_mm512_set1_ps(0.0); 2]; M];
            for (sum, line) in sums.iter_mut().zip(tile.iter()) {
                *sum = [_mm512_loadu_ps(line.as_ptr()), _mm512_loadu_ps(line.as_ptr().add(16))];
            }
            let mut w = w.cast::<f32>();
            for tap in 0..shape.taps {
                let mut x = x.add(tap * shape.step);
                let end = x.add(shape.cin);
                while x < end {
                    let (low, high) = (_mm512_load_ps(w), _mm512_load_ps(w.add(16)));
                    for (m, sum) in sums.iter_mut().enumerate() {
                        let value = _mm512_set1_ps(*x.add(m.wrapping_mul(shape.cin)));
                        sum[0] = _mm512_fmadd_ps(value, low, sum[0]);
                        sum[1] = _mm512_fmadd_ps(value, high, sum[1]);
                    }
                    w = w.add(32);
                    x = x.add(1);
                }
            }
            for (sum, line) in sums.iter().zip(tile.iter_mut()) {
                _mm512_storeu_ps(line.as_mut_ptr(), sum[0]);
                _mm512_storeu_ps(line.as_mut_ptr().add(16), sum[1]);
            }
        }
    }

    /// Two passes over the panel, 16 channels each: 6 × 2 vectors of 8 fill 12 of the 16 registers.
    ///
    /// # Safety
    /// As [`super::Kernel`], and the processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    // SAFETY: of the caller, as the documentation says.
    unsafe fn avx2<const M: usize>(x: *const f32, w: *const Line, shape: Shape, tile: &mut Tile) {
        for half in [0, 16] {
            // SAFETY: every pointer below stays within what the caller vouches for; the tile is ours.
            unsafe {
                let mut sums = [[_mm256_set1_ps(0.0); 2]; M];
                for (sum, line) in sums.iter_mut().zip(tile.iter()) {
                    let line = line.as_ptr().add(half);
                    *sum = [_mm256_loadu_ps(line), _mm256_loadu_ps(line.add(8))];
                }
                let mut w = w.cast::<f32>().add(half);
                for tap in 0..shape.taps {
                    let mut x = x.add(tap * shape.step);
                    let end = x.add(shape.cin);
                    while x < end {
                        let (low, high) = (_mm256_load_ps(w), _mm256_load_ps(w.add(8)));
                        for (m, sum) in sums.iter_mut().enumerate() {
                            let value = _mm256_set1_ps(*x.add(m.wrapping_mul(shape.cin)));
                            sum[0] = _mm256_fmadd_ps(value, low, sum[0]);
                            sum[1] = _mm256_fmadd_ps(value, high, sum[1]);
                        }
                        w = w.add(32);
                        x = x.add(1);
                    }
                }
                for (sum, line) in sums.iter().zip(tile.iter_mut()) {
                    let line = line.as_mut_ptr().add(half);
                    _mm256_storeu_ps(line, sum[0]);
                    _mm256_storeu_ps(line.add(8), sum[1]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(seed: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| (((i + seed) * 7919 % 1009) as f32 / 1009.0) - 0.5).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn equals_the_definition_on_every_path(
            rows in 1_usize..40, cin in 1_usize..20, cout in 1_usize..70, taps in 1_usize..6, dilation in 1_usize..4,
        ) {
            let (weights, bias) = (noise(1, cout * cin * taps), noise(2, cout));
            let conv = Conv::pack((cout, cin, taps), dilation, Some(&bias), |o, i, k| weights[(o * cin + i) * taps + k]);
            let x = noise(3, (rows + conv.reach()) * cin);
            let mut kernels: Vec<&Kernels> = vec![&PORTABLE];
            #[cfg(target_arch = "x86_64")]
            {
                if std::arch::is_x86_feature_detected!("avx2") { kernels.push(&x86::AVX2); }
                if std::arch::is_x86_feature_detected!("avx512f") { kernels.push(&x86::AVX512); }
            }
            let held = noise(4, rows * cout);
            for kernels in kernels {
                let mut y = held.clone();
                conv.tiles(&x, &mut y, Start::Sum, kernels);
                for t in 0..rows {
                    for o in 0..cout {
                        let mut sum = bias[o] + held[t * cout + o];
                        for k in 0..taps {
                            for i in 0..cin {
                                sum += x[(t + k * dilation) * cin + i] * weights[(o * cin + i) * taps + k];
                            }
                        }
                        prop_assert!((sum - y[t * cout + o]).abs() < 1e-4);
                    }
                }
            }
        }
    }
}
