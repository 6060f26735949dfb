//! Ids on log lines. Enters: a call, its agent, a turn; leaves: a span, and for the line formats the ids of the innermost
//! spans. The names of the fields are those that journald shows in capitals: `CALL_ID`, `AGENT`, `TURN_ID`.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::span::Attributes;
use tracing::{Id, Span, Subscriber, error_span};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::base::{CallId, TurnId};

/// The span of a call: all that is logged within names it. Enabled at every log level.
#[must_use]
pub fn call_span(call: CallId) -> Span {
    error_span!("call", call_id = %call)
}

/// The span of what an agent does in a call, within [`call_span`].
#[must_use]
pub fn agent_span(agent: &str) -> Span {
    error_span!("agent", agent)
}

/// The span of one turn of a call, within [`agent_span`].
#[must_use]
pub fn turn_span(turn: TurnId) -> Span {
    error_span!("turn", turn_id = turn.0)
}

/// What a span says about where a line belongs.
#[derive(Clone, Default, Debug)]
pub(super) struct Ids {
    pub(super) call: Option<String>,
    pub(super) agent: Option<String>,
    pub(super) turn: Option<u64>,
}

impl Visit for Ids {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "turn_id" {
            self.turn = Some(value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "agent" {
            self.agent = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "call_id" {
            self.call = Some(format!("{value:?}"));
        }
    }
}

/// Keeps each span's [`Ids`], those of its parents included, beside it. Other fields of spans are not kept.
pub(super) struct IdLayer;

impl<S> tracing_subscriber::Layer<S> for IdLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut ids = span.parent().and_then(|parent| parent.extensions().get::<Ids>().cloned()).unwrap_or_default();
        attributes.record(&mut ids);
        span.extensions_mut().insert(ids);
    }
}
