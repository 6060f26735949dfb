//! What the cache counts. Enters: lookups; leaves: metrics. What there is at the moment is read when Prometheus asks.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::reading::Difference;
use crate::base::Origin;

/// Seconds; half a hundredth is the bar.
const SECONDS: [f64; 9] = [0.0001, 0.0003, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2];

type Label = [(&'static str, &'static str); 1];

/// What becomes of a lookup.
pub(super) const RESULTS: [&str; 6] = ["exact", "similar", "guarded", "leaning", "late", "miss"];

/// What the cache counts.
#[derive(Clone, Debug)]
pub struct CacheMetrics {
    lookups: Family<Label, Counter>,
    guarded: Family<Label, Counter>,
    seconds: Histogram,
    /// Answers learned.
    pub(super) learned: Counter,
    /// Entries taken out to make room, or because their time was over.
    pub(super) evicted: Counter,
    /// Changes that the disk did not take.
    pub(super) lost: Counter,
    pub(super) entries: Family<Label, Gauge>,
    pub(super) clips: Gauge,
    pub(super) clip_bytes: Gauge,
}

impl CacheMetrics {
    pub(super) fn new() -> Self {
        let this = Self {
            lookups: Family::default(),
            guarded: Family::default(),
            seconds: Histogram::new(SECONDS),
            learned: Counter::default(),
            evicted: Counter::default(),
            lost: Counter::default(),
            entries: Family::default(),
            clips: Gauge::default(),
            clip_bytes: Gauge::default(),
        };
        // So that every series exists from the first scrape.
        RESULTS.iter().for_each(|result| drop(this.lookups.get_or_create(&[("result", result)])));
        Difference::ALL.iter().for_each(|by| drop(this.guarded.get_or_create(&[("difference", by.as_str())])));
        Origin::ALL.iter().for_each(|origin| drop(this.entries.get_or_create(&[("origin", origin.as_str())])));
        this
    }

    pub(super) fn looked(&self, result: &'static str) {
        self.lookups.get_or_create(&[("result", result)]).inc();
    }

    pub(super) fn guarded(&self, by: Difference) {
        self.guarded.get_or_create(&[("difference", by.as_str())]).inc();
    }

    pub(super) fn took(&self, time: Duration) {
        self.seconds.observe(time.as_secs_f64());
    }

    /// Adds them to a registry; the prefix is the registry's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("cache_lookups", "Questions looked up among known answers", self.lookups.clone());
        registry.register("cache_guarded", "Questions that were alike and not the same", self.guarded.clone());
        registry.register_with_unit(
            "cache_lookup",
            "Time of a lookup, the vector apart",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register("cache_learned", "Answers learned", self.learned.clone());
        registry.register("cache_evicted", "Entries taken out for room or age", self.evicted.clone());
        registry.register("cache_changes_lost", "Changes that the disk did not take", self.lost.clone());
        registry.register("cache_entries", "Questions whose answer is known", self.entries.clone());
        registry.register("cache_clips", "Answers whose audio is ready", self.clips.clone());
        registry.register_with_unit(
            "cache_clips_memory",
            "Ready audio in memory",
            Unit::Bytes,
            self.clip_bytes.clone(),
        );
    }
}
