//! What is counted of looking things up. Enters: lookups; leaves: metrics.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What becomes of a lookup: passages of the same meaning, of the same words because there was no vector, or none.
const RESULTS: [&str; 3] = ["meaning", "words", "nothing"];

/// What is counted.
#[derive(Clone, Debug)]
pub struct KnowledgeMetrics {
    lookups: Family<[(&'static str, &'static str); 1], Counter>,
    passages: Gauge,
}

impl Default for KnowledgeMetrics {
    fn default() -> Self {
        let this = Self { lookups: Family::default(), passages: Gauge::default() };
        // So that every series exists from the first scrape.
        RESULTS.iter().for_each(|result| drop(this.lookups.get_or_create(&[("result", result)])));
        this
    }
}

impl KnowledgeMetrics {
    pub(super) fn looked(&self, result: &'static str) {
        self.lookups.get_or_create(&[("result", result)]).inc();
    }

    pub(super) fn passages(&self, count: usize) {
        self.passages.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Shows them.
    pub fn register(&self, registry: &mut Registry) {
        let lookups = "Questions looked up in an agent's documents, by what was found";
        registry.register("knowledge_lookups", lookups, self.lookups.clone());
        let passages = "Passages of all agents' documents";
        registry.register("knowledge_passages", passages, self.passages.clone());
    }
}
