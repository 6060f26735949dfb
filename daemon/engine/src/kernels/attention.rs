//! Attention of a few queries over one sequence's keys and values, in place.
//!
//! Enters: queries, scaled and rotated; a [`KvCache`]. Leaves: one row per query. Never here: a copy of the cache, a
//! repeated head, an allocation per call.
//!
//! Keys lie sixteen positions side by side, so that a score needs no sum across lanes; values lie position by position.
//! Up to eight (query, head) pairs that share a key-value head are computed together: each key is read once for them.

use half::f16;

use super::isa::{Isa, at_level};
use super::pool::{Parts, Pool};
use super::{Level, row};

const LANES: usize = 16;

/// The keys and values of one sequence, half precision.
pub struct KvCache {
    layers: usize,
    heads: usize,
    dim: usize,
    capacity: usize,
    len: usize,
    /// Bits of half-precision numbers: zeros that the system has not given us yet cost nothing.
    data: Vec<u16>,
}

impl KvCache {
    /// Room for `capacity` positions (rounded up to 16). Memory is taken by the system only as it is filled.
    ///
    /// # Panics
    /// If a head is not a multiple of 16 wide.
    #[must_use]
    pub fn new(layers: usize, heads: usize, dim: usize, capacity: usize) -> Self {
        assert!(dim.is_multiple_of(LANES), "heads of {dim}");
        let capacity = capacity.next_multiple_of(LANES);
        Self { layers, heads, dim, capacity, len: 0, data: vec![0; layers * heads * 2 * capacity * dim] }
    }

    /// Positions that hold a token.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a length of positions, not a collection")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Positions that there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes per position.
    #[must_use]
    pub fn position_bytes(&self) -> usize {
        self.layers * self.heads * self.dim * 2 * size_of::<u16>()
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Counts `count` positions more as filled; they have been written.
    pub(crate) fn advance(&mut self, count: usize) {
        self.len = (self.len + count).min(self.capacity);
    }

    /// Makes this hold the first `len` positions of `other`.
    ///
    /// # Panics
    /// If the shapes differ, or either does not hold as many positions.
    pub fn copy_prefix(&mut self, other: &Self, len: usize) {
        let same = (self.layers, self.heads, self.dim) == (other.layers, other.heads, other.dim);
        assert!(same && len <= other.len && len <= self.capacity, "a prefix of {len}");
        let (keys, values) = (len.next_multiple_of(LANES) * self.dim, len * self.dim);
        for head in 0..self.layers * self.heads {
            let (to, from) = (head * 2 * self.capacity * self.dim, head * 2 * other.capacity * other.dim);
            self.data[to..to + keys].copy_from_slice(&other.data[from..from + keys]);
            let (to, from) = (to + self.capacity * self.dim, from + other.capacity * other.dim);
            self.data[to..to + values].copy_from_slice(&other.data[from..from + values]);
        }
        self.len = len;
    }

    fn head(&self, layer: usize, head: usize) -> (&[u16], &[u16]) {
        let half = self.capacity * self.dim;
        let from = (layer * self.heads + head) * 2 * half;
        self.data[from..from + 2 * half].split_at(half)
    }

    /// Writes the key and the value (all heads, one after the other) of one position of one layer.
    ///
    /// # Panics
    /// If there is no such layer or position, or the slices are too short.
    pub fn write(&mut self, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        assert!(layer < self.layers && position < self.capacity, "position {position} of {}", self.capacity);
        let half = self.capacity * self.dim;
        for head in 0..self.heads {
            let from = (layer * self.heads + head) * 2 * half;
            let (keys, values) = self.data[from..from + 2 * half].split_at_mut(half);
            let block = &mut keys[position / LANES * LANES * self.dim..];
            let key = &key[head * self.dim..][..self.dim];
            for (lanes, key) in block.as_chunks_mut::<LANES>().0.iter_mut().zip(key) {
                lanes[position % LANES] = f16::from_f32(*key).to_bits();
            }
            let value = &value[head * self.dim..][..self.dim];
            for (to, value) in values[position * self.dim..].iter_mut().zip(value) {
                *to = f16::from_f32(*value).to_bits();
            }
        }
    }
}

/// Rows of a step that belong to one sequence, at consecutive positions.
pub struct Span<'a> {
    /// Already holds the keys and values of these rows.
    pub cache: &'a KvCache,
    /// The first of its rows.
    pub first_row: usize,
    /// How many.
    pub rows: usize,
    /// Position of the first row.
    pub position: usize,
}

/// Attends every row of every span to the positions up to its own. `queries` and `out` are `[rows][heads · dim]`.
///
/// # Panics
/// If the slices are too short for the spans.
pub fn attend(level: Level, pool: &Pool, layer: usize, heads: usize, spans: &[Span], queries: &[f32], out: &mut [f32]) {
    /// Rows per piece: a compromise between evening out and reading the keys once.
    const ROWS: usize = 8;
    let mut pieces = Vec::new();
    for span in spans {
        for kv_head in 0..span.cache.heads {
            for row in (0..span.rows).step_by(ROWS) {
                pieces.push((span, kv_head, row, ROWS.min(span.rows - row)));
            }
        }
    }
    let out = Parts::new(out);
    pool.run(pieces.len(), &|piece| {
        // The last rows see the most positions: the longest pieces first.
        let (span, kv_head, row, count) = pieces[pieces.len() - 1 - piece];
        piece_of(level, layer, heads, span, kv_head, row..row + count, queries, &out);
    });
}

#[derive(Clone, Copy)]
struct Pair {
    query: *const f32,
    out: *mut f32,
    limit: usize,
}

#[expect(clippy::too_many_arguments, reason = "one piece of `attend`")]
fn piece_of(
    level: Level,
    layer: usize,
    heads: usize,
    span: &Span,
    kv_head: usize,
    rows: std::ops::Range<usize>,
    queries: &[f32],
    out: &Parts<f32>,
) {
    let (dim, shared) = (span.cache.dim, heads / span.cache.heads);
    let (keys, values) = span.cache.head(layer, kv_head);
    let longest = span.position + rows.end;
    assert!(longest <= span.cache.capacity, "position {longest}");
    let stride = longest.next_multiple_of(LANES);
    row::with_scratch(8 * stride, |scores| {
        let mut batch = [Pair { query: std::ptr::null(), out: std::ptr::null_mut(), limit: 0 }; 8];
        let mut filled = 0;
        let total = rows.len() * shared;
        for (index, (row, head)) in rows.flat_map(|row| (0..shared).map(move |head| (row, head))).enumerate() {
            let at = ((span.first_row + row) * heads + kv_head * shared + head) * dim;
            // SAFETY: this (row, head) belongs to this piece alone.
            let to = unsafe { out.get(at, dim) };
            batch[filled] =
                Pair { query: queries[at..at + dim].as_ptr(), out: to.as_mut_ptr(), limit: span.position + row + 1 };
            filled += 1;
            if filled == 8 || index + 1 == total {
                let mut done = 0;
                while done < filled {
                    let pairs = batch[done..].as_ptr();
                    let (k, v, s) = (keys.as_ptr(), values.as_ptr(), scores.as_mut_ptr());
                    // SAFETY: the pairs point to `dim` numbers each, the cache holds `limit` positions (asserted), and
                    // the scratch holds 8 × `stride` scores.
                    unsafe {
                        match filled - done {
                            8 => (attend8(level, pairs, k, v, dim, stride, s), done += 8).1,
                            6.. => (attend6(level, pairs, k, v, dim, stride, s), done += 6).1,
                            3.. => (attend3(level, pairs, k, v, dim, stride, s), done += 3).1,
                            _ => (attend1(level, pairs, k, v, dim, stride, s), done += 1).1,
                        }
                    }
                }
                filled = 0;
            }
        }
    });
}

// SAFETY, for all below: the caller has `$count` (or `R`) pairs at `pairs`, whose pointers span the rows that they name,
// `keys` and `values` hold those rows at `stride`, and the processor has the instructions of `S`.
macro_rules! attend_some {
    ($name:ident, $generic:ident, $count:literal) => {
        at_level! {
            // SAFETY: as above.
            unsafe fn $name(
                pairs: *const Pair, keys: *const u16, values: *const u16, dim: usize, stride: usize, scores: *mut f32,
            ) = $generic
        }
        // SAFETY: as above.
        #[inline(always)]
        unsafe fn $generic<S: Isa>(
            pairs: *const Pair,
            keys: *const u16,
            values: *const u16,
            dim: usize,
            stride: usize,
            scores: *mut f32,
        ) {
            // SAFETY: the caller has so many pairs there.
            unsafe { attend_pairs::<S, $count>(&*pairs.cast(), keys, values, dim, stride, scores) }
        }
    };
}
attend_some!(attend8, attend8_generic, 8);
attend_some!(attend6, attend6_generic, 6);
attend_some!(attend3, attend3_generic, 3);
attend_some!(attend1, attend1_generic, 1);

// SAFETY: as `attend_some`.
#[inline(always)]
unsafe fn attend_pairs<S: Isa, const R: usize>(
    pairs: &[Pair; R],
    keys: *const u16,
    values: *const u16,
    dim: usize,
    stride: usize,
    scores: *mut f32,
) {
    let longest = pairs.iter().fold(0, |longest, pair| if pair.limit > longest { pair.limit } else { longest });
    // SAFETY: see `piece_of`.
    unsafe {
        let mut key = keys.cast::<u8>();
        for block in 0..longest.div_ceil(LANES) {
            let mut acc = [S::splat(0.0); R];
            for d in 0..dim {
                let lanes = S::load_f16(key);
                key = key.add(2 * LANES);
                for (acc, pair) in acc.iter_mut().zip(pairs) {
                    *acc = S::fma(lanes, S::splat(*pair.query.add(d)), *acc);
                }
            }
            for (index, acc) in acc.into_iter().enumerate() {
                S::store(scores.add(index * stride + block * LANES), acc);
            }
        }
        for (index, pair) in pairs.iter().enumerate() {
            let scores = std::slice::from_raw_parts_mut(scores.add(index * stride), longest);
            let (seen, hidden) = scores.split_at_mut(pair.limit);
            hidden.fill(0.0);
            softmax(seen);
        }
        let mut vector = 0;
        while vector + 2 <= dim / LANES {
            weigh::<S, R, 2>(pairs, values.add(vector * LANES), dim, stride, scores, longest, vector);
            vector += 2;
        }
        if vector < dim / LANES {
            weigh::<S, R, 1>(pairs, values.add(vector * LANES), dim, stride, scores, longest, vector);
        }
    }
}

/// `N` × 16 numbers of each output: the values, weighted by the scores.
// SAFETY: as `attend_some`; `N` × 16 numbers are within `dim`.
#[inline(always)]
unsafe fn weigh<S: Isa, const R: usize, const N: usize>(
    pairs: &[Pair; R],
    values: *const u16,
    dim: usize,
    stride: usize,
    scores: *const f32,
    longest: usize,
    vector: usize,
) {
    // SAFETY: see `piece_of`.
    unsafe {
        let mut acc = [[S::splat(0.0); N]; R];
        let mut value = values.cast::<u8>();
        let scores: [*const f32; R] = std::array::from_fn(|index| scores.add(index.wrapping_mul(stride)));
        for position in 0..longest {
            let mut lanes = [S::splat(0.0); N];
            for (n, lanes) in lanes.iter_mut().enumerate() {
                *lanes = S::load_f16(value.add((2 * LANES).wrapping_mul(n)));
            }
            value = value.add(dim.wrapping_mul(2));
            for (acc, scores) in acc.iter_mut().zip(scores) {
                let score = S::splat(*scores.add(position));
                for (acc, lanes) in acc.iter_mut().zip(lanes) {
                    *acc = S::fma(lanes, score, *acc);
                }
            }
        }
        for (pair, acc) in pairs.iter().zip(acc) {
            for (n, acc) in acc.into_iter().enumerate() {
                S::store(pair.out.add((vector + n) * LANES), acc);
            }
        }
    }
}

#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let mut most = [f32::MIN; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (most, &x) in most.iter_mut().zip(chunk) {
            *most = if x > *most { x } else { *most };
        }
    }
    let most = most.iter().chain(rest).fold(f32::MIN, |most, &x| if x > most { x } else { most });
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = row::exp(*x - most);
            *sum += *x;
        }
    }
    let mut sum: f32 = sums.iter().sum();
    for x in rest {
        *x = row::exp(*x - most);
        sum += *x;
    }
    let scale = 1.0 / sum;
    for x in scores {
        *x *= scale;
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn attention_is_what_the_textbook_says_at_every_level() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let pool = Pool::new(2).expect("threads");
        for (heads, kv_heads, dim, before, rows) in [(9, 3, 64, 37, 13), (12, 2, 128, 0, 21), (5, 5, 48, 99, 1)] {
            let mut random = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-2.0..2.0)).collect() };
            let total = before + rows;
            let (keys, values) = (random(total * kv_heads * dim), random(total * kv_heads * dim));
            let queries = random(rows * heads * dim);
            let mut cache = KvCache::new(2, kv_heads, dim, total);
            for position in 0..total {
                let part = position * kv_heads * dim..(position + 1) * kv_heads * dim;
                cache.write(1, position, &keys[part.clone()], &values[part]);
            }
            cache.advance(total);
            let mut copy = KvCache::new(2, kv_heads, dim, total + 50);
            copy.copy_prefix(&cache, total);
            for (level, cache) in Level::available().into_iter().zip([&cache, &copy, &cache]) {
                let mut out = vec![f32::NAN; rows * heads * dim];
                let spans = [Span { cache, first_row: 0, rows, position: before }];
                attend(level, &pool, 1, heads, &spans, &queries, &mut out);
                for row in 0..rows {
                    for head in 0..heads {
                        let at = (row * heads + head) * dim;
                        let own = head / (heads / kv_heads);
                        let dot = |position: usize| -> f32 {
                            let key = &keys[(position * kv_heads + own) * dim..][..dim];
                            key.iter().zip(&queries[at..]).map(|(k, q)| k * q).sum()
                        };
                        let scores: Vec<f32> = (0..=before + row).map(dot).collect();
                        let most = scores.iter().copied().fold(f32::MIN, f32::max);
                        let weights: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
                        let sum: f32 = weights.iter().sum();
                        for d in 0..dim {
                            let want: f32 = (0..=before + row)
                                .map(|p| weights[p] / sum * values[(p * kv_heads + own) * dim + d])
                                .sum();
                            // Half-precision keys move a score by up to about 0.01.
                            assert!((out[at + d] - want).abs() < 0.05, "{level:?}: {} {want}", out[at + d]);
                        }
                    }
                }
            }
        }
    }
}
