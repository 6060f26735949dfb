//! What is counted of the engines, seen from here. Enters: requests and failures as they pass; leaves: metrics. Never here:
//! an engine's own opinion of itself, or a wait.

use callbox_wire::{Event, Failure, Request, Role};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// A role's name in metrics.
#[must_use]
pub const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Ears => "ears",
        Role::Mind => "mind",
        Role::Voice => "voice",
        Role::Embed => "embed",
    }
}

const fn failure_name(failure: Failure) -> &'static str {
    match failure {
        Failure::Overloaded => "overloaded",
        Failure::Invalid => "invalid",
        Failure::Internal => "internal",
    }
}

/// Of all engines together; clones are the same.
#[derive(Clone)]
pub(super) struct Counts {
    requests: Family<[(&'static str, &'static str); 1], Counter>,
    failures: Family<[(&'static str, &'static str); 2], Counter>,
    refused: Counter,
}

impl Default for Counts {
    fn default() -> Self {
        let failures: Family<[(&'static str, &'static str); 2], Counter> = Family::default();
        for role in Role::ALL {
            for failure in [Failure::Overloaded, Failure::Invalid, Failure::Internal] {
                drop(failures.get_or_create(&[("role", role_name(role)), ("failure", failure_name(failure))]));
            }
        }
        let requests: Family<[(&'static str, &'static str); 1], Counter> = Family::default();
        Role::ALL.into_iter().for_each(|role| drop(requests.get_or_create(&[("role", role_name(role))])));
        Self { requests, failures, refused: Counter::default() }
    }
}

impl Counts {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("engine_requests", "Work that the engine was asked for", self.requests.clone());
        registry.register("engine_failures", "Work that the engine could not do", self.failures.clone());
        registry.register("engine_refused", "Requests that its queue had no place for", self.refused.clone());
    }

    /// Counts work that is asked for; audio and credit are none.
    pub(super) fn asked(&self, request: &Request) {
        let role = match request {
            Request::Transcribe { .. } | Request::TranscribeIn { .. } => Role::Ears,
            Request::Think { .. } | Request::ThinkWith { .. } => Role::Mind,
            Request::Speak { .. } => Role::Voice,
            Request::Embed { .. } => Role::Embed,
            _ => return,
        };
        self.requests.get_or_create(&[("role", role_name(role))]).inc();
    }

    pub(super) fn refused(&self) {
        self.refused.inc();
    }

    pub(super) fn heard(&self, event: &Event) {
        if let Event::Failed { role, failure, .. } = event {
            self.failures.get_or_create(&[("role", role_name(*role)), ("failure", failure_name(*failure))]).inc();
        }
    }
}
