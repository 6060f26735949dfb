//! Quantised matrices as the kernels read them.
//!
//! Enters: rows in a GGML block format. Leaves: the same numbers, sixteen rows interleaved. Never here: a rounding of
//! a weight that the file's own format could hold.
//!
//! Sixteen rows lie side by side, four columns of each to a 32-bit lane, so that one load feeds one dot-product
//! instruction for sixteen rows, and the matrix is read strictly forwards, line by line: with the scales of a tile apart
//! from its values, Q6_K came from memory at half the speed. A *group* is 32 columns.
//!
//! | format | from | per 16 rows |
//! |---|---|---|
//! | `Q4` | Q4_0, Q4_1 | each group: 16 f16 scales, 16 f16 minima, 256 bytes of nibbles |
//! | `Q4K` | Q4_K | each 8 groups: 16 f16 d, 16 f16 dmin, 4 × (2 × (16 u8 scales, 16 u8 minima), 2 × 256 bytes of nibbles) |
//! | `Q6K` | Q6_K | each 8 groups: 16 f32 d, 4 × (4 × 16 i8 scales, 2 × (256 bytes of nibbles, 128 bytes of upper bits)) |
//! | `Q8` | Q8_0, all others | each 2 groups: 2 × 16 f16 scales, 2 × 512 bytes of value + 128 |

use std::ops::Range;
use std::sync::Arc;

use half::f16;

/// Rows that lie side by side.
pub const LANES: usize = 16;
/// Columns with one scale.
pub const GROUP: usize = 32;
/// Columns of one block of the K formats.
pub const SUPER: usize = 256;
/// Bytes of two groups of `Q4K`, their scales before their values.
pub(super) const Q4K_PAIR: usize = 64 + 2 * 256;
/// The same of `Q6K`.
pub(super) const Q6K_PAIR: usize = 64 + 2 * 384;

/// How a matrix is stored; see the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// 5 bits a weight.
    Q4,
    /// 4.625 bits a weight.
    Q4K,
    /// 6.625 bits a weight.
    Q6K,
    /// 8.5 bits a weight.
    Q8,
}

impl Format {
    /// Columns and bytes (for all sixteen rows) of the smallest piece.
    pub(super) const fn tile(self) -> (usize, usize) {
        match self {
            Self::Q4 => (GROUP, 320),
            Self::Q4K => (SUPER, 2368),
            Self::Q6K => (SUPER, 3392),
            Self::Q8 => (2 * GROUP, 1088),
        }
    }

    /// Bytes of sixteen rows of so many columns; none if the format cannot hold that many columns.
    #[must_use]
    pub fn block_bytes(self, cols: usize) -> Option<usize> {
        let (width, bytes) = self.tile();
        cols.is_multiple_of(width).then(|| cols / width * bytes)
    }

    /// Bytes of a matrix.
    #[must_use]
    pub fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        self.block_bytes(cols)?.checked_mul(rows.div_ceil(LANES))
    }

    /// The number that stands for the format in a file.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Q4 => 1,
            Self::Q4K => 2,
            Self::Q6K => 3,
            Self::Q8 => 4,
        }
    }

    /// The format of a number from a file.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        [Self::Q4, Self::Q4K, Self::Q6K, Self::Q8].into_iter().find(|format| format.code() == code)
    }
}

/// Bytes that a matrix borrows: a mapped file, or memory.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A packed matrix of `rows` outputs and `cols` inputs.
#[derive(Clone)]
pub struct Packed {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: SharedBytes,
    range: Range<usize>,
}

impl Packed {
    /// A matrix in `range` of `bytes`; none if the sizes do not agree.
    #[must_use]
    pub fn new(format: Format, rows: usize, cols: usize, bytes: SharedBytes, range: Range<usize>) -> Option<Self> {
        let fits = format.bytes(rows, cols)? == range.len() && (*bytes).as_ref().get(range.clone()).is_some();
        (fits && rows > 0 && cols > 0).then_some(Self { format, rows, cols, bytes, range })
    }

    /// Outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How it is stored.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.range.clone()]
    }

    /// Sixteen rows.
    pub(super) fn block(&self, index: usize) -> &[u8] {
        let len = self.bytes().len() / self.rows.div_ceil(LANES);
        &self.bytes()[index * len..(index + 1) * len]
    }

    /// Writes row `row` as plain numbers.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as long as a row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}", self.rows);
        let (block, lane) = (self.block(row / LANES), row % LANES);
        let (width, bytes) = self.format.tile();
        for (tile, out) in block.chunks_exact(bytes).zip(out.chunks_exact_mut(width)) {
            for (column, out) in out.iter_mut().enumerate() {
                *out = value(self.format, tile, lane, column);
            }
        }
    }
}

fn half(tile: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([tile[2 * index], tile[2 * index + 1]]).to_f32()
}

fn nibble(bytes: &[u8], lane: usize, column: usize) -> u8 {
    let byte = bytes[column / 8 * 64 + lane * 4 + column % 4];
    if column % 8 < 4 { byte & 15 } else { byte >> 4 }
}

fn value(format: Format, tile: &[u8], lane: usize, column: usize) -> f32 {
    let (group, inner) = (column / GROUP, column % GROUP);
    match format {
        Format::Q4 => half(tile, lane) * f32::from(nibble(&tile[64..], lane, inner)) - half(tile, 16 + lane),
        Format::Q4K => {
            let pair = &tile[64 + group / 2 * Q4K_PAIR..];
            let scales = &pair[group % 2 * 32..];
            let q = nibble(&pair[64 + group % 2 * 256..], lane, inner);
            half(tile, lane) * f32::from(scales[lane]) * f32::from(q)
                - half(tile, 16 + lane) * f32::from(scales[16 + lane])
        }
        Format::Q6K => {
            let d = f32::from_le_bytes([tile[4 * lane], tile[4 * lane + 1], tile[4 * lane + 2], tile[4 * lane + 3]]);
            let pair = &tile[64 + group / 2 * Q6K_PAIR..];
            let scale = pair[column / 16 % 4 * 16 + lane].cast_signed();
            let bits = &pair[64 + group % 2 * 384..];
            let low = nibble(bits, lane, inner);
            let eighth = inner / 4;
            let high = bits[256 + eighth / 4 * 64 + lane * 4 + inner % 4] >> (2 * (eighth % 4)) & 3;
            d * f32::from(scale) * (f32::from(low | high << 4) - 32.0)
        }
        Format::Q8 => {
            let byte = tile[64 + group * 512 + inner / 4 * 64 + lane * 4 + inner % 4];
            half(tile, group * 16 + lane) * (f32::from(byte) - 128.0)
        }
    }
}

/// A GGML block format that is packed without loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// 32 × (q − 8) · d
    Q4_0,
    /// 32 × q · d + m
    Q4_1,
    /// 32 × q · d
    Q8_0,
    /// 256 × q · d · scale − dmin · min
    Q4K,
    /// 256 × (q − 32) · d · scale
    Q6K,
}

impl Source {
    /// What it becomes.
    #[must_use]
    pub fn format(self) -> Format {
        match self {
            Self::Q4_0 | Self::Q4_1 => Format::Q4,
            Self::Q8_0 => Format::Q8,
            Self::Q4K => Format::Q4K,
            Self::Q6K => Format::Q6K,
        }
    }

    /// Columns and bytes of one block of one row.
    #[must_use]
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
        }
    }
}

/// Packs up to sixteen whole rows (`raw`, one after the other) into `out`, which holds [`Format::block_bytes`] zeros.
///
/// # Panics
/// If the lengths do not agree: the caller has checked the file.
pub fn pack(source: Source, raw: &[u8], cols: usize, out: &mut [u8]) {
    let (width, block) = source.block();
    let row = cols / width * block;
    let (tile_width, tile_bytes) = source.format().tile();
    let per_tile = tile_width / width * block;
    for (lane, raw) in raw.chunks_exact(row).enumerate() {
        for (raw, tile) in raw.chunks_exact(per_tile).zip(out.chunks_exact_mut(tile_bytes)) {
            match source {
                Source::Q4_0 => {
                    let d = f16::from_le_bytes([raw[0], raw[1]]);
                    put_half(tile, 0, lane, d);
                    put_half(tile, 16, lane, f16::from_f32(8.0 * d.to_f32()));
                    put_nibbles(&mut tile[64..], lane, |k| raw[2 + k % 16] >> (k / 16 * 4) & 15);
                }
                Source::Q4_1 => {
                    put_half(tile, 0, lane, f16::from_le_bytes([raw[0], raw[1]]));
                    put_half(tile, 16, lane, -f16::from_le_bytes([raw[2], raw[3]]));
                    put_nibbles(&mut tile[64..], lane, |k| raw[4 + k % 16] >> (k / 16 * 4) & 15);
                }
                Source::Q8_0 => {
                    for (group, raw) in raw.chunks_exact(block).enumerate() {
                        put_half(tile, 16 * group, lane, f16::from_le_bytes([raw[0], raw[1]]));
                        put_bytes(&mut tile[64 + 512 * group..], lane, |k| raw[2 + k] ^ 128);
                    }
                }
                Source::Q4K => pack_q4k(raw, lane, tile),
                Source::Q6K => pack_q6k(raw, lane, tile),
            }
        }
    }
}

/// Quantises up to sixteen rows of plain numbers to [`Format::Q8`]; columns past `cols` up to the tile are zeros.
pub fn pack_f32(rows: &[f32], cols: usize, out: &mut [u8]) {
    for (lane, row) in rows.chunks_exact(cols).enumerate() {
        for (pair, tile) in row.chunks(2 * GROUP).zip(out.chunks_exact_mut(Format::Q8.tile().1)) {
            for (group, values) in pair.chunks(GROUP).enumerate() {
                let most = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let d = f16::from_f32(most / 127.0);
                let inverse = if d.to_f32() > 0.0 { 1.0 / d.to_f32() } else { 0.0 };
                put_half(tile, 16 * group, lane, d);
                put_bytes(&mut tile[64 + 512 * group..], lane, |k| {
                    let q = values.get(k).map_or(0.0, |x| (x * inverse).round_ties_even().clamp(-127.0, 127.0));
                    (q as i8).cast_unsigned() ^ 128
                });
            }
        }
    }
}

fn put_half(tile: &mut [u8], base: usize, lane: usize, value: f16) {
    tile[2 * (base + lane)..][..2].copy_from_slice(&value.to_le_bytes());
}

fn put_nibbles(tile: &mut [u8], lane: usize, q: impl Fn(usize) -> u8) {
    for vector in 0..4 {
        for byte in 0..4 {
            let k = vector * 8 + byte;
            tile[vector * 64 + lane * 4 + byte] = q(k) | q(k + 4) << 4;
        }
    }
}

fn put_bytes(tile: &mut [u8], lane: usize, q: impl Fn(usize) -> u8) {
    for k in 0..GROUP {
        tile[k / 4 * 64 + lane * 4 + k % 4] = q(k);
    }
}

fn pack_q4k(raw: &[u8], lane: usize, tile: &mut [u8]) {
    let (head, quants) = raw.split_at(16);
    tile[2 * lane..][..2].copy_from_slice(&head[..2]);
    tile[2 * (16 + lane)..][..2].copy_from_slice(&head[2..4]);
    let packed = &head[4..];
    for group in 0..8 {
        // Six bits each: the lower four groups lie plainly, the upper four are split over two bytes.
        let (scale, min) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            let both = packed[group + 4];
            (both & 15 | packed[group - 4] >> 6 << 4, both >> 4 | packed[group] >> 6 << 4)
        };
        let pair = &mut tile[64 + group / 2 * Q4K_PAIR..];
        pair[32 * (group % 2) + lane] = scale;
        pair[32 * (group % 2) + 16 + lane] = min;
        let quants = &quants[group / 2 * 32..];
        put_nibbles(&mut pair[64 + 256 * (group % 2)..], lane, |k| quants[k] >> (group % 2 * 4) & 15);
    }
}

fn pack_q6k(raw: &[u8], lane: usize, tile: &mut [u8]) {
    let (low, rest) = raw.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = f16::from_le_bytes([d[0], d[1]]).to_f32();
    tile[4 * lane..][..4].copy_from_slice(&d.to_le_bytes());
    for (index, &scale) in scales.iter().enumerate() {
        tile[64 + index / 4 * Q6K_PAIR + 16 * (index % 4) + lane] = scale;
    }
    let q = |column: usize| {
        let (half, inner) = (column / 128, column % 128);
        let (quarter, l) = (inner / 32, inner % 32);
        let low = low[64 * half + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
        low | (high[32 * half + l] >> (2 * quarter) & 3) << 4
    };
    for group in 0..8 {
        let bits = &mut tile[64 + group / 2 * Q6K_PAIR + 64 + 384 * (group % 2)..];
        put_nibbles(bits, lane, |k| q(32 * group + k) & 15);
        for k in 0..GROUP {
            let eighth = k / 4;
            bits[256 + eighth / 4 * 64 + lane * 4 + k % 4] |= q(32 * group + k) >> 4 << (2 * (eighth % 4));
        }
    }
}
