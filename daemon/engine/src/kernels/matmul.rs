//! Packed matrix times activations.
//!
//! Enters: rows of f32, quantised once per 32 values to signed bytes ([`Activations`]). Leaves: rows of f32. Never
//! here: an allocation per call once the buffers have grown.
//!
//! The weights are read once per eight rows of activations, in order; a decode step is then bound by memory, a prefill
//! step by the dot products.

use super::isa::{Isa, at_level};
use super::packed::{Format, GROUP, LANES, Packed, Q4K_PAIR, Q6K_PAIR};
use super::pool::{Parts, Pool};
use super::{Level, row};

/// How finely activations are rounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Precision {
    /// Eight bits to a group's largest value.
    #[default]
    Byte,
    /// What eight bits leave over is rounded to eight bits again: twice the dot products, the same weights read.
    TwoBytes,
}

impl Precision {
    const fn rows(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::TwoBytes => 2,
        }
    }
}

/// Rows of activations, quantised; kept between steps for its memory.
#[derive(Default)]
pub struct Activations {
    precision: Precision,
    /// Rows of bytes: as many for each row of values as the precision has.
    rows: usize,
    /// Padded so that every format's tile divides it.
    cols: usize,
    quants: Vec<i8>,
    scales: Vec<f32>,
    /// Of each group: the sum of its values.
    sums: Vec<f32>,
    /// Of each half of a group: the sum of its values.
    half_sums: Vec<f32>,
}

impl Activations {
    /// Makes room for `rows` rows of `cols` values, and fills each through `fill(row, buffer)`.
    pub fn fill(
        &mut self,
        level: Level,
        pool: &Pool,
        precision: Precision,
        rows: usize,
        cols: usize,
        fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let padded = cols.next_multiple_of(2 * GROUP);
        let groups = padded / GROUP;
        let values = rows;
        let rows = rows * precision.rows();
        (self.precision, self.rows, self.cols) = (precision, rows, padded);
        self.quants.resize(rows * padded, 0);
        self.scales.resize(rows * groups, 0.0);
        self.sums.resize(rows * groups, 0.0);
        self.half_sums.resize(rows * groups * 2, 0.0);
        let quants = Parts::new(&mut self.quants);
        let scales = Parts::new(&mut self.scales);
        let sums = Parts::new(&mut self.sums);
        let half_sums = Parts::new(&mut self.half_sums);
        pool.run(values, &|index| {
            row::with_scratch(padded, |values| {
                values[cols..].fill(0.0);
                fill(index, &mut values[..cols]);
                let first = index * precision.rows();
                for index in first..first + precision.rows() {
                    // SAFETY: each row is of one piece, and pieces do not overlap.
                    let (quants, scales, sums, half_sums) = unsafe {
                        (
                            quants.get(index * padded, padded),
                            scales.get(index * groups, groups),
                            sums.get(index * groups, groups),
                            half_sums.get(index * groups * 2, groups * 2),
                        )
                    };
                    row::quantise(level, values, quants, scales, sums, half_sums);
                    if index + 1 < first + precision.rows() {
                        row::subtract_quantised(level, quants, scales, values);
                    }
                }
            });
        });
    }
}

/// Multiplies several matrices with the same activations; `out` of each is `[rows of x][rows of the matrix]`.
///
/// # Panics
/// If a matrix has not as many columns as the activations, or an output is of the wrong length.
pub fn matmul(level: Level, pool: &Pool, x: &Activations, products: &mut [(&Packed, &mut [f32])]) {
    let mut jobs = Vec::with_capacity(products.len());
    let mut pieces = 0;
    for (matrix, out) in products.iter_mut() {
        assert!(matrix.cols().next_multiple_of(2 * GROUP) == x.cols, "{} columns times {}", matrix.cols(), x.cols);
        let rows = x.rows / x.precision.rows();
        assert!(out.len() == rows * matrix.rows(), "an output of {}", out.len());
        let blocks = matrix.rows().div_ceil(LANES);
        // Some dozens of pieces per thread at most: small enough to even out, large enough not to be felt.
        let per_piece = (blocks / (24 * pool.threads())).clamp(1, 16).max(blocks.min(2));
        let count = blocks.div_ceil(per_piece);
        jobs.push((*matrix, Parts::new(out), pieces, per_piece, blocks));
        pieces += count;
    }
    pool.run(pieces, &|piece| {
        let Some((matrix, out, first, per_piece, blocks)) = jobs.iter().rev().find(|job| job.2 <= piece) else {
            return;
        };
        let from = (piece - first) * per_piece;
        for block in from..(from + per_piece).min(*blocks) {
            multiply_block(level, matrix, block, x, out);
        }
    });
}

/// Sixteen rows of the matrix times all rows of `x`.
fn multiply_block(level: Level, matrix: &Packed, block: usize, x: &Activations, out: &Parts<f32>) {
    let weights = matrix.block(block);
    let rows = matrix.rows();
    let width = LANES.min(rows - block * LANES);
    let mut row = 0;
    while row < x.rows {
        let mut tile = [0.0_f32; 8 * LANES];
        let count = match x.rows - row {
            8.. => 8,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        // SAFETY: `weights` holds a whole block of `groups` groups, `x` holds `count` rows from `row` on with as many
        // groups (checked by `matmul`), and `tile` holds `count` × 16 results.
        unsafe {
            match count {
                8 => multiply_tile::<8>(level, matrix, weights, x, row, &mut tile),
                4 => multiply_tile::<4>(level, matrix, weights, x, row, &mut tile),
                2 => multiply_tile::<2>(level, matrix, weights, x, row, &mut tile),
                _ => multiply_tile::<1>(level, matrix, weights, x, row, &mut tile),
            }
        }
        let parts = x.precision.rows();
        for (index, values) in tile[..count * LANES].chunks_exact(parts * LANES).enumerate() {
            // SAFETY: each block of each row is written by the one piece that owns the block.
            let to = unsafe { out.get((row / parts + index) * rows + block * LANES, width) };
            to.copy_from_slice(&values[..width]);
            for rest in values[LANES..].chunks_exact(LANES) {
                to.iter_mut().zip(rest).for_each(|(to, rest)| *to += rest);
            }
        }
        row += count;
    }
}

#[derive(Clone, Copy)]
struct Input {
    quants: *const i8,
    scales: *const f32,
    sums: *const f32,
    half_sums: *const f32,
    cols: usize,
    groups: usize,
}

/// # Safety
/// See the call.
unsafe fn multiply_tile<const M: usize>(
    level: Level,
    matrix: &Packed,
    weights: &[u8],
    x: &Activations,
    row: usize,
    out: &mut [f32; 8 * LANES],
) {
    let groups = x.cols / GROUP;
    let input = Input {
        quants: x.quants[row * x.cols..].as_ptr(),
        scales: x.scales[row * groups..].as_ptr(),
        sums: x.sums[row * groups..].as_ptr(),
        half_sums: x.half_sums[row * groups * 2..].as_ptr(),
        cols: x.cols,
        groups,
    };
    let own = matrix.cols().div_ceil(GROUP);
    // SAFETY: the caller's promise.
    unsafe {
        match matrix.format() {
            Format::Q4 => q4::<M>(level, weights.as_ptr(), own, input, out.as_mut_ptr()),
            Format::Q4K => q4k::<M>(level, weights.as_ptr(), own, input, out.as_mut_ptr()),
            Format::Q6K => q6k::<M>(level, weights.as_ptr(), own, input, out.as_mut_ptr()),
            Format::Q8 => q8::<M>(level, weights.as_ptr(), groups, input, out.as_mut_ptr()),
        }
    }
}

at_level! { unsafe fn q4<const M: usize>(w: *const u8, groups: usize, x: Input, out: *mut f32) = q4_generic }
at_level! { unsafe fn q4k<const M: usize>(w: *const u8, groups: usize, x: Input, out: *mut f32) = q4k_generic }
at_level! { unsafe fn q6k<const M: usize>(w: *const u8, groups: usize, x: Input, out: *mut f32) = q6k_generic }
at_level! { unsafe fn q8<const M: usize>(w: *const u8, groups: usize, x: Input, out: *mut f32) = q8_generic }

/// Eight vectors of four columns × sixteen rows from 256 bytes of nibbles.
#[inline(always)]
unsafe fn nibbles<S: Isa>(w: *const u8) -> [S::B; 8] {
    // SAFETY: the caller has 256 bytes there.
    unsafe {
        let [a, b, c, d] = [0, 64, 128, 192].map(|at| S::bytes(w.add(at)));
        [
            S::low_nibbles(a),
            S::high_nibbles(a),
            S::low_nibbles(b),
            S::high_nibbles(b),
            S::low_nibbles(c),
            S::high_nibbles(c),
            S::low_nibbles(d),
            S::high_nibbles(d),
        ]
    }
}

/// Adds one group with one scale and one minimum per row of weights.
#[inline(always)]
unsafe fn add_group<S: Isa, const M: usize>(
    acc: &mut [S::F; M],
    w: &[S::B; 8],
    scale: S::F,
    min: S::F,
    x: Input,
    group: usize,
) {
    // SAFETY: the caller has M rows with more than `group` groups in `x`.
    unsafe {
        for (row, acc) in acc.iter_mut().enumerate() {
            let quants = x.quants.add(row.wrapping_mul(x.cols).wrapping_add(group.wrapping_mul(GROUP)));
            let mut dot = S::int_zero();
            for (index, &w) in w.iter().enumerate() {
                dot = S::dot4(dot, w, quants.add(4 * index));
            }
            let at = row.wrapping_mul(x.groups).wrapping_add(group);
            *acc = S::fma(S::to_float(dot), S::mul(scale, S::splat(*x.scales.add(at))), *acc);
            *acc = S::fnma(min, S::splat(*x.sums.add(at)), *acc);
        }
    }
}

#[inline(always)]
unsafe fn store<S: Isa, const M: usize>(acc: [S::F; M], out: *mut f32) {
    for (row, acc) in acc.into_iter().enumerate() {
        // SAFETY: the caller has M × 16 numbers there.
        unsafe { S::store(out.add(row * LANES), acc) };
    }
}

#[inline(always)]
unsafe fn q4_generic<S: Isa, const M: usize>(w: *const u8, groups: usize, x: Input, out: *mut f32) {
    // SAFETY: the caller has `groups` tiles at `w`, M rows of as many groups in `x`, room for M × 16 at `out`.
    unsafe {
        let mut acc = [S::splat(0.0); M];
        for group in 0..groups {
            let tile = w.add(group * Format::Q4.tile().1);
            let (scale, min) = (S::load_f16(tile), S::load_f16(tile.add(32)));
            add_group::<S, M>(&mut acc, &nibbles::<S>(tile.add(64)), scale, min, x, group);
        }
        store::<S, M>(acc, out);
    }
}

#[inline(always)]
unsafe fn q4k_generic<S: Isa, const M: usize>(w: *const u8, groups: usize, x: Input, out: *mut f32) {
    // SAFETY: as in `q4_generic`; a tile is eight groups.
    unsafe {
        let mut acc = [S::splat(0.0); M];
        for tile_index in 0..groups / 8 {
            let tile = w.add(tile_index * Format::Q4K.tile().1);
            let (d, dmin) = (S::load_f16(tile), S::load_f16(tile.add(32)));
            for pair_index in 0..4 {
                let pair = tile.add(64 + pair_index * Q4K_PAIR);
                for inner in 0..2 {
                    let scale = S::mul(d, S::load_u8(pair.add(inner * 32)));
                    let min = S::mul(dmin, S::load_u8(pair.add(inner * 32 + 16)));
                    let w = nibbles::<S>(pair.add(64 + inner * 256));
                    add_group::<S, M>(&mut acc, &w, scale, min, x, tile_index * 8 + pair_index * 2 + inner);
                }
            }
        }
        store::<S, M>(acc, out);
    }
}

/// Sixteen columns; written out, because an iterator that is not inlined would spill every register.
#[inline(always)]
unsafe fn dot16<S: Isa>(w: [S::B; 4], quants: *const i8) -> S::I {
    // SAFETY: the caller has sixteen bytes at `quants`.
    unsafe {
        let dot = S::dot4(S::int_zero(), w[0], quants);
        let dot = S::dot4(dot, w[1], quants.add(4));
        let dot = S::dot4(dot, w[2], quants.add(8));
        S::dot4(dot, w[3], quants.add(12))
    }
}

/// Adds one group of `Q6K`, whose values lie at `w`, with a scale for each half of it.
#[inline(always)]
unsafe fn add_group_q6k<S: Isa, const M: usize>(
    acc: &mut [S::F; M],
    w: *const u8,
    scales: [S::F; 2],
    x: Input,
    group: usize,
) {
    // SAFETY: the caller has 384 bytes at `w`, and M rows with more than `group` groups in `x`.
    unsafe {
        let [a, b, c, d, e, f, g, h] = nibbles::<S>(w);
        let high = [S::bytes(w.add(256)), S::bytes(w.add(320))];
        let first = [
            S::add_bits::<0>(a, high[0]),
            S::add_bits::<1>(b, high[0]),
            S::add_bits::<2>(c, high[0]),
            S::add_bits::<3>(d, high[0]),
        ];
        let second = [
            S::add_bits::<0>(e, high[1]),
            S::add_bits::<1>(f, high[1]),
            S::add_bits::<2>(g, high[1]),
            S::add_bits::<3>(h, high[1]),
        ];
        for (row, acc) in acc.iter_mut().enumerate() {
            let quants = x.quants.add(row.wrapping_mul(x.cols).wrapping_add(group.wrapping_mul(GROUP)));
            let at = row.wrapping_mul(x.groups).wrapping_add(group);
            let step = S::splat(*x.scales.add(at));
            let sums = x.half_sums.add(at.wrapping_mul(2));
            let halves = [dot16::<S>(first, quants), dot16::<S>(second, quants.add(16))];
            for (half, dot) in halves.into_iter().enumerate() {
                // The bytes are 32 more than the weights.
                let dot = S::fnma(S::splat(32.0), S::splat(*sums.add(half)), S::mul(S::to_float(dot), step));
                *acc = S::fma(scales[half], dot, *acc);
            }
        }
    }
}

#[inline(always)]
unsafe fn q6k_generic<S: Isa, const M: usize>(w: *const u8, groups: usize, x: Input, out: *mut f32) {
    // SAFETY: as in `q4k_generic`.
    unsafe {
        let mut acc = [S::splat(0.0); M];
        for tile_index in 0..groups / 8 {
            let tile = w.add(tile_index * Format::Q6K.tile().1);
            let d = S::load(tile.cast());
            for pair_index in 0..4 {
                let pair = tile.add(64 + pair_index * Q6K_PAIR);
                for inner in 0..2 {
                    let scales = [0, 16].map(|at| S::mul(d, S::load_i8(pair.add(inner * 32 + at))));
                    let group = tile_index * 8 + pair_index * 2 + inner;
                    add_group_q6k::<S, M>(&mut acc, pair.add(64 + inner * 384), scales, x, group);
                }
            }
        }
        store::<S, M>(acc, out);
    }
}

#[inline(always)]
unsafe fn q8_generic<S: Isa, const M: usize>(w: *const u8, groups: usize, x: Input, out: *mut f32) {
    // SAFETY: as in `q4_generic`; a tile is two groups.
    unsafe {
        let mut acc = [S::splat(0.0); M];
        for group in 0..groups {
            let tile = w.add(group / 2 * Format::Q8.tile().1);
            let scale = S::load_f16(tile.add(group % 2 * 32));
            let bytes = tile.add(64 + group % 2 * 512);
            let w: [S::B; 8] = std::array::from_fn(|index| S::bytes(bytes.add(64 * index)));
            for (row, acc) in acc.iter_mut().enumerate() {
                let quants = x.quants.add(row.wrapping_mul(x.cols).wrapping_add(group.wrapping_mul(GROUP)));
                let mut dot = S::int_zero();
                for (index, &w) in w.iter().enumerate() {
                    dot = S::dot4_wide(dot, w, quants.add(4 * index));
                }
                let at = row.wrapping_mul(x.groups).wrapping_add(group);
                *acc = S::fma(S::to_float(dot), S::mul(scale, S::splat(*x.scales.add(at))), *acc);
                if S::WIDE_OFFSET != 0.0 {
                    let min = S::mul(scale, S::splat(S::WIDE_OFFSET));
                    *acc = S::fnma(min, S::splat(*x.sums.add(at)), *acc);
                }
            }
        }
        store::<S, M>(acc, out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::packed::{Source, pack, pack_f32};
    use super::*;

    /// Random blocks with sane scales.
    fn blocks(source: Source, count: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let (_, bytes) = source.block();
        let mut raw = Vec::new();
        for _ in 0..count {
            let mut block: Vec<u8> = (0..bytes).map(|_| rng.random()).collect();
            let mut half = |at: usize| {
                let value = half::f16::from_f32(rng.random_range(0.001_f32..0.02));
                block[at..at + 2].copy_from_slice(&value.to_le_bytes());
            };
            match source {
                Source::Q4_0 | Source::Q8_0 => half(0),
                Source::Q4_1 | Source::Q4K => {
                    half(0);
                    half(2);
                }
                Source::Q6K => half(208),
            }
            raw.extend(block);
        }
        raw
    }

    fn packed(source: Source, rows: usize, cols: usize, raw: &[u8]) -> Packed {
        let format = source.format();
        let mut bytes = vec![0; format.bytes(rows, cols).expect("fits")];
        let row = cols / source.block().0 * source.block().1;
        let block = format.block_bytes(cols).expect("fits");
        for (raw, out) in raw.chunks(LANES * row).zip(bytes.chunks_exact_mut(block)) {
            pack(source, raw, cols, out);
        }
        let len = bytes.len();
        Packed::new(format, rows, cols, Arc::new(bytes), 0..len).expect("fits")
    }

    #[test]
    fn every_format_and_level_multiplies_what_candle_reads() {
        use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let pool = Pool::new(2).expect("threads");
        let (rows, cols) = (40, 512);
        for (source, dtype) in [
            (Source::Q4_0, GgmlDType::Q4_0),
            (Source::Q4_1, GgmlDType::Q4_1),
            (Source::Q8_0, GgmlDType::Q8_0),
            (Source::Q4K, GgmlDType::Q4K),
            (Source::Q6K, GgmlDType::Q6K),
        ] {
            let raw = blocks(source, rows * cols / source.block().0, &mut rng);
            let matrix = packed(source, rows, cols, &raw);
            let device = candle_core::Device::Cpu;
            let plain = qtensor_from_ggml(dtype, &raw, vec![rows, cols], &device).expect("blocks");
            let plain: Vec<f32> =
                plain.dequantize(&device).and_then(|x| x.flatten_all()).and_then(|x| x.to_vec1()).expect("plain");
            let mut row = vec![0.0; cols];
            for (index, want) in plain.chunks_exact(cols).enumerate() {
                matrix.row(index, &mut row);
                for (got, want) in row.iter().zip(want) {
                    assert!((got - want).abs() <= 1e-5 * want.abs().max(0.1), "{source:?}: {got} {want}");
                }
            }
            for count in [1, 2, 3, 7, 8, 13] {
                let x: Vec<f32> = (0..count * cols).map(|_| rng.random_range(-1.0..1.0)).collect();
                let precisions = [(Precision::Byte, 0.02), (Precision::TwoBytes, 0.000_1)];
                let levels = Level::available();
                for (level, (precision, bound)) in
                    levels.into_iter().flat_map(|level| precisions.map(|each| (level, each)))
                {
                    let mut activations = Activations::default();
                    let row = |row: usize, to: &mut [f32]| to.copy_from_slice(&x[row * cols..][..cols]);
                    activations.fill(level, &pool, precision, count, cols, &row);
                    let mut out = vec![f32::NAN; count * rows];
                    matmul(level, &pool, &activations, &mut [(&matrix, &mut out)]);
                    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact(rows)) {
                        for (w, got) in plain.chunks_exact(cols).zip(out) {
                            let want: f32 = w.iter().zip(x).map(|(w, x)| w * x).sum();
                            // Rounding of x to 8 bits: 0.004 · |w|, random in sign.
                            let scale: f32 = w.iter().map(|w| w * w).sum::<f32>().sqrt();
                            let near = (got - want).abs() < bound * scale;
                            assert!(near, "{source:?} {level:?} {precision:?} {count}: {got} {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn plain_rows_of_any_length_are_packed_within_half_a_step() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let (rows, cols) = (5, 96);
        let values: Vec<f32> = (0..rows * cols).map(|_| rng.random_range(-3.0..3.0)).collect();
        let padded = 128;
        let mut bytes = vec![0; Format::Q8.bytes(rows, padded).expect("fits")];
        pack_f32(&values, cols, &mut bytes);
        let len = bytes.len();
        let matrix = Packed::new(Format::Q8, rows, padded, Arc::new(bytes), 0..len).expect("fits");
        let mut row = vec![0.0; padded];
        for (index, want) in values.chunks_exact(cols).enumerate() {
            matrix.row(index, &mut row);
            for (got, want) in row.iter().zip(want) {
                assert!((got - want).abs() < 3.0 / 127.0 * 0.51 + 1e-3);
            }
        }
    }
}
