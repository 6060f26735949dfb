//! The keys and values of one sequence, wherever they lie.
//!
//! Enters: a length. Leaves: a shorter sequence, or one that begins as another. Never here: a number of them.

use super::tensors::Table;
use crate::kernels::attention::KvCache;

/// What a model knows of one sequence; made by [`super::Transformer::cache`], and of use to that model alone.
pub enum Cache {
    /// Its own memory, in the order of our kernels. A beginning of another is copied.
    Whole(KvCache),
    /// Blocks of a pool on the device. A beginning of another is shared.
    Paged(Table),
}

impl Cache {
    /// Positions that hold a token.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a length of positions, not a collection")]
    pub fn len(&self) -> usize {
        match self {
            Self::Whole(cache) => cache.len(),
            Self::Paged(table) => table.len(),
        }
    }

    /// Positions that there may be.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match self {
            Self::Whole(cache) => cache.capacity(),
            Self::Paged(table) => table.capacity(),
        }
    }

    /// Bytes per position.
    #[must_use]
    pub fn position_bytes(&self) -> usize {
        match self {
            Self::Whole(cache) => cache.position_bytes(),
            Self::Paged(table) => table.position_bytes(),
        }
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        match self {
            Self::Whole(cache) => cache.truncate(len),
            Self::Paged(table) => table.truncate(len),
        }
    }

    /// Makes this hold the first `len` positions of `other`.
    ///
    /// # Panics
    /// If they are of two models, or either does not hold as many positions.
    pub fn copy_prefix(&mut self, other: &Self, len: usize) {
        match (self, other) {
            (Self::Whole(cache), Self::Whole(other)) => cache.copy_prefix(other, len),
            (Self::Paged(table), Self::Paged(other)) => table.share_prefix(other, len),
            _ => panic!("caches of two models"),
        }
    }

    pub(super) fn whole(&mut self) -> Option<&mut KvCache> {
        match self {
            Self::Whole(cache) => Some(cache),
            Self::Paged(_) => None,
        }
    }

    pub(super) fn paged(&mut self) -> Option<&mut Table> {
        match self {
            Self::Whole(_) => None,
            Self::Paged(table) => Some(table),
        }
    }
}
