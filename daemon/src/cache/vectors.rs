//! Vectors of sentences, side by side in memory. Enters: vectors of length 1; leaves: the nearest ones. Each number is kept
//! as one byte: a hundred thousand sentences are 38 MB. Of most rows only the signs are read, an eighth of that: how many of
//! two vectors differ tells their angle.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::f32::consts::PI;

use crate::base::vectors::{Work, with_widest_vectors};

/// Numbers of a vector.
pub const WIDTH: usize = 384;

/// The signs of a vector, bit by bit.
type Signs = [u64; WIDTH / 64];

/// Of two vectors at an angle of φ, φ/π of the signs differ, give or take: among 730 questions, none had 31 more than that.
const SPREAD: f32 = 36.0;

/// A vector in bytes, and what one of them stands for.
#[derive(Clone, PartialEq, Debug)]
pub struct Packed {
    bytes: Box<[i8; WIDTH]>,
    scale: f32,
}

impl Packed {
    /// None if it has another length, or numbers that are none.
    #[must_use]
    pub fn new(vector: &[f32]) -> Option<Self> {
        let most = vector.iter().fold(0.0_f32, |most, number| most.max(number.abs()));
        if vector.len() != WIDTH || !vector.iter().all(|number| number.is_finite()) || most <= 0.0 {
            return None;
        }
        let mut bytes = Box::new([0; WIDTH]);
        for (byte, number) in bytes.iter_mut().zip(vector) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "at most 127, and a fraction of one is what is given up"
            )]
            let rounded = (number / most * 127.0).round() as i8;
            *byte = rounded;
        }
        Some(Self { bytes, scale: most / 127.0 })
    }

    fn signs(&self) -> Signs {
        let mut signs = Signs::default();
        for (bits, bytes) in signs.iter_mut().zip(self.bytes.as_chunks::<64>().0) {
            *bits = bytes.iter().rev().fold(0, |bits, byte| bits << 1 | u64::from(*byte < 0));
        }
        signs
    }

    /// For the disk: the scale, then the bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = self.bytes.iter().map(|byte| byte.cast_unsigned());
        self.scale.to_le_bytes().into_iter().chain(numbers).collect()
    }

    /// From the disk; none if that is damaged.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (scale, rest) = bytes.split_first_chunk::<4>()?;
        let scale = f32::from_le_bytes(*scale);
        let numbers: Vec<i8> = rest.iter().map(|byte| byte.cast_signed()).collect();
        let bytes = Box::new(<[i8; WIDTH]>::try_from(numbers).ok()?);
        (scale.is_finite() && scale > 0.0).then_some(Self { bytes, scale })
    }
}

/// Rows of vectors; a row may be empty.
#[derive(Default, Debug)]
pub struct Vectors {
    rows: Vec<[i8; WIDTH]>,
    signs: Vec<Signs>,
    /// 0: empty.
    scales: Vec<f32>,
}

impl Vectors {
    /// Appends a row.
    pub fn push(&mut self, vector: Option<&Packed>) {
        self.rows.push([0; WIDTH]);
        self.signs.push(Signs::default());
        self.scales.push(0.0);
        self.set(self.rows.len() - 1, vector);
    }

    /// Replaces a row.
    pub fn set(&mut self, row: usize, vector: Option<&Packed>) {
        if let (Some(place), Some(signs), Some(scale)) =
            (self.rows.get_mut(row), self.signs.get_mut(row), self.scales.get_mut(row))
        {
            *place = vector.map_or([0; WIDTH], |vector| *vector.bytes);
            *signs = vector.map(Packed::signs).unwrap_or_default();
            *scale = vector.map_or(0.0, |vector| vector.scale);
        }
    }

    /// Puts the last row in the place of this one.
    pub fn swap_remove(&mut self, row: usize) {
        self.rows.swap_remove(row);
        self.signs.swap_remove(row);
        self.scales.swap_remove(row);
    }

    /// Whether a row is not empty.
    #[must_use]
    pub fn holds(&self, row: usize) -> bool {
        self.scales.get(row).is_some_and(|scale| *scale > 0.0)
    }

    /// The `count` rows nearest to a vector whose cosine is at least `least`, the nearest first.
    #[must_use]
    pub fn nearest(&self, vector: &Packed, count: usize, least: f32) -> Vec<(usize, f32)> {
        with_widest_vectors(Search { vectors: self, vector, count, least })
    }
}

struct Search<'a> {
    vectors: &'a Vectors,
    vector: &'a Packed,
    count: usize,
    least: f32,
}

/// Ordered by its cosine.
#[derive(PartialEq)]
struct Near(f32, usize);

impl Eq for Near {}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(other.1.cmp(&self.1))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Work for Search<'_> {
    type Output = Vec<(usize, f32)>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        let Self { vectors, vector, count, least } = self;
        let (wanted, signs) = (vector.bytes.map(i16::from), vector.signs());
        let mut nearest: BinaryHeap<Reverse<Near>> = BinaryHeap::with_capacity(count + 1);
        let mut bar = least;
        let mut most = most_that_differ(bar);
        for (index, row_signs) in vectors.signs.iter().enumerate() {
            let mut differ = 0;
            for (ours, theirs) in signs.iter().zip(row_signs) {
                differ += (ours ^ theirs).count_ones();
            }
            let (Some(row), Some(&scale)) = (vectors.rows.get(index), vectors.scales.get(index)) else { break };
            if differ > most || scale <= 0.0 {
                continue;
            }
            let mut sum = 0_i32;
            for (byte, wanted) in row.iter().zip(&wanted) {
                // At most 384 · 127², which is far from the end of an i32.
                sum = sum.wrapping_add(i32::from(*byte) * i32::from(*wanted));
            }
            #[expect(clippy::cast_precision_loss, reason = "below 2^24")]
            let cosine = sum as f32 * scale * vector.scale;
            if cosine >= bar {
                nearest.push(Reverse(Near(cosine, index)));
                if nearest.len() > count {
                    nearest.pop();
                    bar = nearest.peek().map_or(least, |Reverse(worst)| worst.0);
                    most = most_that_differ(bar);
                }
            }
        }
        // Into ascending order of what is reversed: the nearest first.
        nearest.into_sorted_vec().into_iter().map(|Reverse(Near(cosine, index))| (index, cosine)).collect()
    }
}

/// Of the signs of two vectors that have at least this cosine.
fn most_that_differ(cosine: f32) -> u32 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 384 and some, and a negative one means none"
    )]
    let most = (WIDTH as f32 * (cosine.clamp(-1.0, 1.0).acos() / PI) + SPREAD) as u32;
    most
}
