//! The last thirty seconds of one stream.
//!
//! Enters: samples in order. Leaves: any span of them that is still there. Positions count from the stream's first sample.

use std::collections::VecDeque;

/// Samples that are remembered: as many as Whisper's window holds.
const REMEMBERED: usize = 30 * callbox_wire::EARS_RATE as usize;

#[derive(Default)]
pub(super) struct Ring {
    samples: VecDeque<i16>,
    heard: u64,
}

impl Ring {
    pub(super) fn push(&mut self, samples: impl ExactSizeIterator<Item = i16>) {
        let count = samples.len();
        self.heard += count as u64;
        let kept = samples.skip(count.saturating_sub(REMEMBERED));
        let surplus = (self.samples.len() + count.min(REMEMBERED)).saturating_sub(REMEMBERED);
        self.samples.drain(..surplus);
        self.samples.extend(kept);
    }

    /// Samples since the stream began.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// The samples `from..to`, -1 to 1; none if one of them is not here, or there are none.
    pub(super) fn span(&self, from: u64, to: u64) -> Option<Vec<f32>> {
        let first = self.heard - self.samples.len() as u64;
        if from >= to || to > self.heard {
            return None;
        }
        let (from, to) = (usize::try_from(from.checked_sub(first)?).ok()?, usize::try_from(to - first).ok()?);
        Some(self.samples.range(from..to).map(|&sample| f32::from(sample) / 32_768.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_span_is_what_was_pushed_or_nothing(
            pieces in prop::collection::vec(0_usize..200_000, 1..6),
            from in 0_u64..700_000,
            len in 0_u64..500_000,
        ) {
            let mut ring = Ring::default();
            let mut total = 0;
            for piece in pieces {
                ring.push((total..total + piece).map(|i| i as i16).collect::<Vec<_>>().into_iter());
                total += piece;
            }
            let (heard, to) = (total as u64, from + len);
            prop_assert_eq!(ring.heard(), heard);
            let there = len > 0 && to <= heard && from >= heard.saturating_sub(REMEMBERED as u64);
            match ring.span(from, to) {
                None => prop_assert!(!there),
                Some(samples) => {
                    prop_assert!(there);
                    let same = samples.iter().zip(from..to).all(|(&s, i)| s == f32::from(i as i16) / 32_768.0);
                    prop_assert!(same && samples.len() as u64 == len);
                }
            }
        }
    }
}
