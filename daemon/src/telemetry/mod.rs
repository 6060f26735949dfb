//! What operators see of a running daemon. Enters: `tracing` events and spans, and what the rooms count; leaves: log
//! lines with the call's and the turn's id on each, a page of metrics, and traces of calls if a collector is configured. Never here: a caller's number or words, unless
//! `log.allow_pii` is on; a wait of the thread that logs on whoever reads the log.

mod journal;
mod line;
mod logging;
mod metrics;
mod process;
mod reveal;
mod spans;
mod traces;
mod writer;

pub use logging::{Logging, LoggingError, apply};
pub use metrics::{CallMetrics, EngineMetrics, LATENCY_BUCKETS, Label, Metrics, Refusal, Stage, While};
pub use process::process;
pub use reveal::shown;
pub use spans::{agent_span, call_span, turn_span};
pub use traces::{Span, SpanId, SpanKind, Traces, Value};
