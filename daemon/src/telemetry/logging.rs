//! Sets the log up. Enters: [`crate::config::Log`]; leaves: the process's subscriber and its panic hook.

use std::io::{self, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

use prometheus_client::metrics::counter::Counter;
use tracing::{Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

use super::journal::{Journal, JournalLayer, SOCKET};
use super::line::Line;
use super::spans::IdLayer;
use super::{Metrics, reveal, writer};
use crate::config::{Log, LogFormat, LogLevel};

/// Crates whose lines hold what peers send: SIP messages with credentials, addresses of callers (rsipstack, whose news
/// the room `sip` tells itself), request paths (hyper). They are capped here, out of reach of `log.level`.
const CAPPED: [(&str, LevelFilter); 4] = [
    ("rsipstack", LevelFilter::OFF),
    ("hyper", LevelFilter::WARN),
    ("hyper_util", LevelFilter::WARN),
    ("tower", LevelFilter::WARN),
];

/// The log of this process; dropping it writes the lines that wait.
#[must_use = "dropping it ends the log"]
pub struct Logging {
    _thread: writer::LineThread,
}

/// Why there is no log; its `Display` is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `log.format` is `journald` and there is none.
    #[error("log.format is \"journald\" but journald cannot be reached ({0}); use \"auto\" or \"json\"")]
    Journald(io::Error),
    /// The thread that writes lines could not be started.
    #[error("cannot start the log's thread: {0}")]
    Thread(io::Error),
    /// Something in this process has set a log up already.
    #[error("the log was set up twice")]
    Twice,
}

impl Logging {
    /// Sets up the log and the panic hook of this process, and counts lines lost and panics in `metrics`.
    ///
    /// # Errors
    /// No journald where it was asked for; no thread; called twice.
    pub fn start(config: &Log, metrics: &Metrics) -> Result<Self, LoggingError> {
        reveal::allow(config.allow_pii);
        let terminal = io::stdout().is_terminal();
        let format = match config.format {
            LogFormat::Auto if journal_reads_stdout() => LogFormat::Journald,
            LogFormat::Auto if terminal => LogFormat::Text,
            LogFormat::Auto => LogFormat::Json,
            chosen => chosen,
        };
        let dropped = Counter::default();
        metrics.register(|registry| {
            registry.register("log_lines_dropped", "Lines lost because the log was not read", dropped.clone());
        });
        let journal = match format {
            LogFormat::Journald => Some(Journal::open(Path::new(SOCKET), dropped.clone())),
            _ => None,
        };
        let (level, handle) = reload::Layer::new(level_filter(config.level));
        let (installed, thread) = match journal {
            Some(Err(error)) if config.format == LogFormat::Journald => return Err(LoggingError::Journald(error)),
            Some(Ok(journal)) => {
                let (queue, thread) = writer::start(journal, dropped).map_err(LoggingError::Thread)?;
                (base(level).with(JournalLayer(queue)).try_init(), thread)
            }
            _ => {
                let line = if format == LogFormat::Text { Line::Text { colour: terminal } } else { Line::Json };
                let out = io::BufWriter::new(io::stdout());
                let (queue, thread) = writer::start(out, dropped).map_err(LoggingError::Thread)?;
                (subscriber(level, line, queue).try_init(), thread)
            }
        };
        installed.map_err(|_| LoggingError::Twice)?;
        LEVEL.set(handle).map_err(|_| LoggingError::Twice)?;
        let panics = Counter::default();
        metrics.register(|registry| {
            registry.register("panics", "Bugs that ended a task or a thread", panics.clone());
        });
        hook(panics);
        Ok(Self { _thread: thread })
    }
}

/// A panic is logged by place, without its message: the message of a slice error quotes the text, and texts are what
/// callers say.
fn hook(panics: Counter) {
    std::panic::set_hook(Box::new(move |info| {
        panics.inc();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        if reveal::allowed() {
            let payload = info.payload();
            let message =
                payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref().map(String::as_str));
            let message = message.unwrap_or_default();
            tracing::error!(place, thread, panic = message, "a panic: this is a bug of Callbox");
        } else {
            tracing::error!(place, thread, "a panic: this is a bug of Callbox (log.allow_pii shows its message)");
        }
    }));
}

fn permitted(meta: &Metadata<'_>) -> bool {
    let room = meta.target().split("::").next().unwrap_or_default();
    CAPPED.iter().all(|(capped, most)| room != *capped || meta.level() <= most)
}

/// What decides on the level, and how to change its mind.
type LevelLayer = reload::Layer<LevelFilter, Registry>;

fn base(level: LevelLayer) -> impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync {
    Registry::default().with(level).with(filter_fn(permitted)).with(IdLayer)
}

// Process-wide, as the log is.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Takes what of a changed configuration a running log can take: its level, and whether callers may be named.
pub fn apply(config: &Log) {
    reveal::allow(config.allow_pii);
    if let Some(handle) = LEVEL.get()
        && let Err(error) = handle.reload(level_filter(config.level))
    {
        tracing::error!(%error, "the log's level cannot be changed");
    }
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn subscriber<W>(level: LevelLayer, line: Line, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    base(level).with(tracing_subscriber::fmt::layer().event_format(line).with_writer(writer).boxed())
}

/// Whether standard output is the stream that systemd says it connected to the journal (`systemd.exec(5)`,
/// `JOURNAL_STREAM`).
fn journal_reads_stdout() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata(Path::new("/proc/self/fd/1")).is_ok_and(|meta| stream == format!("{}:{}", meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::base::{CallId, Pii, TurnId};
    use crate::telemetry::{agent_span, call_span, shown, turn_span};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, line: Line, body: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let (level, _) = reload::Layer::new(level_filter(level));
        tracing::subscriber::with_default(subscriber(level, line, move || writer.clone()), body);
        let bytes = kept.0.lock().expect("lock").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn every_line_within_a_turn_names_call_agent_and_turn() {
        let text = logged(LogLevel::Info, Line::Json, || {
            let call = call_span(CallId(0xab)).entered();
            tracing::info!(codec = "PCMU", "answered");
            let agent = agent_span("frontdesk").entered();
            turn_span(TurnId(3)).in_scope(|| {
                tracing::info_span!("elsewhere").in_scope(|| tracing::warn!(wait_ms = 5, "late"));
            });
            drop((agent, call));
            tracing::info!("idle");
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((&lines[0]["call"], &lines[0]["codec"]), (&"00000000000000ab".into(), &"PCMU".into()));
        assert_eq!((lines[0].get("turn"), lines[0].get("agent")), (None, None));
        assert_eq!(lines[1]["agent"], "frontdesk");
        assert_eq!((&lines[1]["call"], &lines[1]["turn"]), (&"00000000000000ab".into(), &3.into()));
        assert_eq!((&lines[1]["wait_ms"], &lines[1]["level"]), (&5.into(), &"WARN".into()));
        assert_eq!(lines[2].get("call"), None);
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn no_number_and_no_word_of_a_caller_reaches_a_line() {
        for line in [Line::Json, Line::Text { colour: false }] {
            let text = logged(LogLevel::Trace, line, || {
                let from = Pii::new("+15550100".to_owned());
                let words = Some(Pii::new("my password is swordfish".to_owned()));
                let span = tracing::info_span!("dialog", %from, said = ?words);
                span.in_scope(
                    || tracing::info!(%from, said = ?words, shown = %shown(&from), "call from {from}: {words:?}"),
                );
                tracing::trace!(target: "rsipstack::transaction", "Authorization: Digest swordfish");
                tracing::debug!(target: "rsipstack", "From: +15550100");
                tracing::warn!(target: "rsipstack::transport::udp", "swordfish");
                tracing::error!(target: "rsipstack::transport", "swordfish");
            });
            assert!(text.contains("[redacted]"), "{text}");
            assert!(!text.contains("5550100") && !text.contains("swordfish") && !text.contains("rsipstack"), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn a_peer_cannot_write_lines_of_its_own() {
        let evil = "x\r\n{\"level\":\"ERROR\"}\n\x1b[2Jy";
        for line in [Line::Json, Line::Text { colour: false }] {
            let text = logged(LogLevel::Info, line, || tracing::info!(agent = evil, "{evil}"));
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(!text.contains('\x1b'), "{text:?}");
        }
    }
}
