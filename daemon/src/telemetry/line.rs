//! The two forms of a line. Enters: an event and the ids of its spans; leaves: one JSON object, or text for a person.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::{LookupSpan, Scope};

use super::spans::Ids;

/// How events become lines.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    Json,
    Text { colour: bool },
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let ids = ids(context.event_scope());
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let Fields(mut fields) = Fields::of(event);
        let meta = event.metadata();
        match self {
            Self::Json => {
                fields.insert("time".into(), time.into());
                fields.insert("level".into(), meta.level().as_str().into());
                fields.insert("target".into(), meta.target().into());
                if let Some(call) = ids.call {
                    fields.insert("call".into(), call.into());
                }
                if let Some(agent) = ids.agent {
                    fields.insert("agent".into(), agent.into());
                }
                if let Some(turn) = ids.turn {
                    fields.insert("turn".into(), turn.into());
                }
                writeln!(out, "{}", Value::Object(fields))
            }
            Self::Text { colour } => {
                let (on, off) = match (*colour, *meta.level()) {
                    (true, tracing::Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
                    (true, tracing::Level::WARN) => ("\x1b[33m", "\x1b[0m"),
                    _ => ("", ""),
                };
                write!(out, "{time} {on}{:5}{off} {}", meta.level(), meta.target())?;
                if let Some(call) = ids.call {
                    write!(out, " call={call}")?;
                }
                if let Some(agent) = ids.agent {
                    write!(out, " agent={}", plain(&agent))?;
                    fields.remove("agent");
                }
                if let Some(turn) = ids.turn {
                    write!(out, " turn={turn}")?;
                }
                if let Some(Value::String(message)) = fields.remove("message") {
                    write!(out, ": {}", plain(&message))?;
                }
                for (name, value) in fields {
                    match value {
                        Value::String(text) => write!(out, " {name}={}", plain(&text))?,
                        other => write!(out, " {name}={other}")?,
                    }
                }
                writeln!(out)
            }
        }
    }
}

/// One line stays one line, and no text of a peer moves the cursor of a terminal.
fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}

/// The ids of the innermost span.
pub(super) fn ids<'a, R: LookupSpan<'a>>(scope: Option<Scope<'a, R>>) -> Ids {
    scope.and_then(|mut scope| scope.find_map(|span| span.extensions().get::<Ids>().cloned())).unwrap_or_default()
}

/// What an event says, `message` included.
pub(super) struct Fields(pub(super) Map<String, Value>);

impl Fields {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut fields = Self(Map::new());
        event.record(&mut fields);
        fields
    }

    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().into(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}
