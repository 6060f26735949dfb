//! A histogram of microseconds. Values enter, quantiles leave, exact to an eighth; fixed size, nothing is allocated.

use std::time::Duration;

/// Eight buckets for each power of two, up to 2^32 µs.
const BUCKETS: usize = 8 * 30;

/// How late packets were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    largest: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], largest: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: Duration) {
        self.counts[bucket(value.as_micros().try_into().unwrap_or(u32::MAX))] += 1;
        self.largest = self.largest.max(value);
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The largest value.
    #[must_use]
    pub fn largest(&self) -> Duration {
        self.largest
    }

    /// The value that this share of all values does not exceed, rounded up to its bucket; zero if there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (share * self.count() as f64).ceil() as u64;
        self.cumulative().find(|(_, count)| *count >= wanted && wanted > 0).map_or(Duration::ZERO, |(bound, _)| bound)
    }

    /// Upper bounds of the buckets and how many values are at most that: what Prometheus wants.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.counts.iter().enumerate().scan(0, |sum, (index, count)| {
            *sum += count;
            Some((Duration::from_micros(bound(index)), *sum))
        })
    }

    /// What was counted since an earlier copy of the same histogram; its largest value is that of all time.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = std::array::from_fn(|index| self.counts[index].saturating_sub(earlier.counts[index]));
        Self { counts, largest: self.largest }
    }
}

fn bucket(micros: u32) -> usize {
    let exponent = micros.max(8).ilog2() - 3;
    (exponent * 8 + (micros >> exponent)).min(BUCKETS as u32 - 1) as usize
}

/// The largest value of a bucket.
fn bound(index: usize) -> u64 {
    let exponent = (index / 8).saturating_sub(1);
    (((index - exponent * 8 + 1) as u64) << exponent) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_values(micros in 0..1_u32 << 31) {
            let index = bucket(micros);
            prop_assert!(u64::from(micros) <= bound(index));
            prop_assert!(index == 0 || u64::from(micros) > bound(index - 1));
            prop_assert!(bound(index) - u64::from(micros) <= u64::from(micros) / 8);
        }
    }

    #[test]
    fn quantiles_of_a_thousand() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        (1..=1000).for_each(|micros| histogram.add(Duration::from_micros(micros)));
        assert_eq!(histogram.quantile(0.5), Duration::from_micros(511));
        assert_eq!(histogram.quantile(0.99), Duration::from_micros(1023));
        assert_eq!((histogram.count(), histogram.largest()), (1000, Duration::from_millis(1)));
    }
}
