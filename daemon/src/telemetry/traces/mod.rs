//! Traces of calls for a collector of OpenTelemetry. Enters: spans of what is over, with the times that it really had;
//! leaves: the same, in batches, to the one address that the configuration names, and counts. Off unless it names one.
//! Never here: a wait of a call, a caller's number or words, a span that is still open.

mod export;
mod post;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::metrics::{Label, Metrics};
use crate::base::CallId;
use crate::config::Collector;

/// Turns and calls that wait for the collector: ten minutes of fifty calls. One more is dropped and counted.
const QUEUE: usize = 1024;

/// How long an end of the daemon waits for a collector.
const FLUSH: Duration = Duration::from_secs(2);

/// A span's name within its trace, the same in whatever process it is made: so a part can name its whole before that is over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpanId([u8; 8]);

impl SpanId {
    /// That of a whole call.
    #[must_use]
    pub fn whole(call: CallId) -> Self {
        Self::part(call, "")
    }

    /// That of a part, which `what` tells apart from the others of its call.
    #[must_use]
    pub fn part(call: CallId, what: &str) -> Self {
        let digest: [u8; 32] = Sha256::new().chain_update(call.0.to_be_bytes()).chain_update(what).finalize().into();
        let mut id = [0; 8];
        id.iter_mut().zip(digest).for_each(|(to, byte)| *to = byte);
        Self(id)
    }
}

/// A value of an attribute.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// A word or a name; none of a caller.
    Text(Cow<'static, str>),
    /// A count, or a time in a unit that the attribute's name says.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// Whose request a span serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpanKind {
    /// Somebody called us.
    Server,
    /// We called somebody.
    Client,
    /// A part.
    Internal,
}

/// Something that took time, and is over.
#[derive(Clone, PartialEq, Debug)]
pub struct Span {
    /// Its trace.
    pub call: CallId,
    /// Its name in there.
    pub id: SpanId,
    /// Of what it is a part; none of a whole call.
    pub parent: Option<SpanId>,
    /// What it is.
    pub name: &'static str,
    /// Whose request it serves.
    pub kind: SpanKind,
    /// Microseconds since 1970, from and to.
    pub times_us: (i64, i64),
    /// What else is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, in few words of ours, if it did.
    pub failure: Option<String>,
}

/// What became of spans.
#[derive(Clone, Debug)]
struct Counts {
    exported: Counter,
    dropped: Family<Label<&'static str>, Counter>,
}

/// The queue had no place for them: the collector is too slow, or away for too long.
const QUEUE_FULL: &str = "queue_full";
/// The collector did not want them.
const REFUSED: &str = "refused";

impl Counts {
    fn register(metrics: &Metrics) -> Self {
        let this = Self { exported: Counter::default(), dropped: Family::default() };
        [QUEUE_FULL, REFUSED].into_iter().for_each(|reason| this.dropped(reason, 0));
        metrics.register(|registry| {
            registry.register("trace_spans_exported", "Spans that a collector took", this.exported.clone());
            registry.register("trace_spans_dropped", "Spans that no collector got", this.dropped.clone());
        });
        this
    }

    fn dropped(&self, reason: &'static str, spans: usize) {
        self.dropped.get_or_create(&[("reason", reason)]).inc_by(spans as u64);
    }
}

enum Message {
    Spans(Vec<Span>),
    Flush(oneshot::Sender<()>),
}

/// Where spans are put; clones are the same. The default is off.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Inner>>);

struct Inner {
    queue: mpsc::Sender<Message>,
    counts: Counts,
}

impl Traces {
    /// Sends to `collector`, from a task of its own, which ends with the last clone; without one it is off.
    #[must_use]
    pub fn start(collector: Option<&Collector>, metrics: &Metrics) -> Self {
        let counts = Counts::register(metrics);
        let Some(collector) = collector else { return Self(None) };
        let (queue, messages) = mpsc::channel(QUEUE);
        tokio::spawn(export::export(messages, counts.clone(), post::Post::new(collector)));
        Self(Some(Arc::new(Inner { queue, counts })))
    }

    /// Whether spans are wanted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Queues spans; never waits. A full queue drops them and counts.
    pub fn send(&self, spans: Vec<Span>) {
        let Some(inner) = &self.0 else { return };
        let count = spans.len();
        if inner.queue.try_send(Message::Spans(spans)).is_err() {
            inner.counts.dropped(QUEUE_FULL, count);
        }
    }

    /// Waits until the collector has what was queued before, but not for long.
    pub async fn flush(&self) {
        let Some(inner) = &self.0 else { return };
        let (done, told) = oneshot::channel();
        // Whoever ends does not wait for a collector that is away.
        let flushed = async { inner.queue.send(Message::Flush(done)).await.is_ok() && told.await.is_ok() };
        if !timeout(FLUSH, flushed).await.unwrap_or(false) {
            tracing::warn!("the last spans of traces were not exported: the collector does not answer");
        }
    }
}
