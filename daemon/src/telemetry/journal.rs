//! journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL). Enters: an event and the ids of its spans; leaves: one
//! datagram with a field for each thing said, put into the queue of lines. Its thread sends, and never waits for long: a
//! journald that does not read costs lines, which are counted, and no time of whoever logs.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use serde_json::Value;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter as _;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::line::{Fields, ids};
use super::spans::Ids;
use super::writer::LineQueue;

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// What programs are called in the journal.
const IDENTIFIER: &str = "callboxd";

/// Bytes of a datagram beyond which values are cut; the kernel takes 208 KiB unless it was told otherwise.
const MOST: usize = 64 << 10;

/// How often a full journald is tried again, and after which pause, before lines are dropped: it reads in bursts.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Makes datagrams of events.
pub(super) struct JournalLayer(pub(super) LineQueue);

impl<S> Layer<S> for JournalLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Ids { call, agent, turn } = ids(context.event_scope(event));
        let Fields(mut fields) = Fields::of(event);
        let meta = event.metadata();
        let mut out = Datagram::default();
        let priority = match *meta.level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            _ => "7",
        };
        out.put("PRIORITY", priority);
        out.put("SYSLOG_IDENTIFIER", IDENTIFIER);
        out.put("TARGET", meta.target());
        out.put("CODE_FILE", meta.file().unwrap_or_default());
        out.put("CODE_LINE", &meta.line().unwrap_or_default().to_string());
        // First, so that nothing long is in their way.
        let message = fields.remove("message");
        let first = [("call_id", call.map(Value::from)), ("agent", agent.map(Value::from))];
        for (name, value) in first.into_iter().chain([("turn_id", turn.map(Value::from)), ("message", message)]) {
            if let Some(value) = value {
                fields.remove(name);
                out.put(name, &text(value));
            }
        }
        for (name, value) in fields {
            out.put(&name, &text(value));
        }
        // A buffer in memory takes everything.
        drop(self.0.make_writer().write_all(&out.0));
    }
}

fn text(value: Value) -> String {
    if let Value::String(text) = value { text } else { value.to_string() }
}

#[derive(Default)]
struct Datagram(Vec<u8>);

impl Datagram {
    /// `NAME=value`; a value of several lines has its length in front instead, so that none of them is taken for a field.
    fn put(&mut self, name: &str, value: &str) {
        let start = self.0.len();
        let fits = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        // journald takes no name that begins with `_`, which are its own, or with a digit, and none beyond 64.
        let name = name.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).chars().map(fits).take(64);
        self.0.extend(name.map(|c| c as u8));
        if self.0.len() == start {
            return;
        }
        let mut end = value.len().min(MOST.saturating_sub(self.0.len()));
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = value.get(..end).unwrap_or_default();
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend((value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend(value.as_bytes());
        self.0.push(b'\n');
    }
}

/// journald's socket. Whatever is written at once is one datagram.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    dropped: Counter,
    /// It did not read for as long as it is waited for.
    stalled: bool,
}

impl Journal {
    /// `dropped` counts what could not be sent.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(super) fn open(path: &Path, dropped: Counter) -> io::Result<Self> {
        // Connected for this question only: another journald may come.
        UnixDatagram::unbound()?.connect(path)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: path.to_owned(), dropped, stalled: false })
    }
}

impl Write for Journal {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        let tries = if self.stalled { 0 } else { TRIES };
        let mut sent = self.socket.send_to(datagram, &self.path);
        for _ in 0..tries {
            match &sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::park_timeout(PAUSE),
                _ => break,
            }
            sent = self.socket.send_to(datagram, &self.path);
        }
        self.stalled = sent.is_err();
        if self.stalled {
            self.dropped.inc();
        }
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::spans::IdLayer;
    use super::super::writer;
    use super::*;
    use crate::base::{CallId, TurnId};
    use crate::telemetry::{agent_span, call_span, turn_span};

    fn fields(mut bytes: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while let Some(end) = bytes.iter().position(|byte| b"=\n".contains(byte)) {
            let name = String::from_utf8(bytes[..end].to_vec()).expect("a name");
            let (value, rest) = if bytes[end] == b'=' {
                bytes[end + 1..].split_at(bytes[end + 1..].iter().position(|byte| *byte == b'\n').expect("its end"))
            } else {
                let (len, rest) = bytes[end + 1..].split_at(8);
                let len = u64::from_le_bytes(len.try_into().expect("eight"));
                rest.split_at(usize::try_from(len).expect("short"))
            };
            assert_eq!(rest.first(), Some(&b'\n'));
            fields.insert(name, String::from_utf8(value.to_vec()).expect("text"));
            bytes = &rest[1..];
        }
        assert!(bytes.is_empty());
        fields
    }

    #[test]
    fn a_datagram_names_call_agent_and_turn_and_no_text_makes_fields_of_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).expect("bound");
        let dropped = Counter::default();
        let journal = Journal::open(&path, dropped.clone()).expect("it listens");
        let (queue, thread) = writer::start(journal, dropped.clone()).expect("a thread");
        let log = Registry::default().with(IdLayer).with(JournalLayer(queue));
        tracing::subscriber::with_default(log, || {
            let call = call_span(CallId(0xab)).entered();
            let agent = agent_span("frontdesk").entered();
            turn_span(TurnId(3)).in_scope(|| tracing::warn!(wait_ms = 5, "late\nPRIORITY=0"));
            tracing::info!(text = "é".repeat(MOST), "long");
            drop((agent, call));
        });
        drop(thread);
        let mut buffer = vec![0; 4 * MOST];
        let mut next = || {
            let len = journald.recv(&mut buffer).expect("a datagram");
            fields(&buffer[..len])
        };
        let late = next();
        for (name, value) in [
            ("MESSAGE", "late\nPRIORITY=0"),
            ("PRIORITY", "4"),
            ("CALL_ID", "00000000000000ab"),
            ("AGENT", "frontdesk"),
            ("TURN_ID", "3"),
            ("WAIT_MS", "5"),
            ("SYSLOG_IDENTIFIER", "callboxd"),
        ] {
            assert_eq!(late.get(name).map(String::as_str), Some(value), "{late:?}");
        }
        let long = next();
        assert!(long["MESSAGE"] == "long" && (MOST / 2..MOST).contains(&long["TEXT"].len()), "cut, and sent");
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn a_journald_that_does_not_read_costs_lines_and_they_are_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        assert!(Journal::open(&path, Counter::default()).is_err(), "nobody listens");
        let journald = UnixDatagram::bind(&path).expect("bound");
        let dropped = Counter::default();
        let mut journal = Journal::open(&path, dropped.clone()).expect("it listens");
        for _ in 0..1500 {
            journal.write_all(b"MESSAGE=x\n").expect("no error");
        }
        journald.set_nonblocking(true).expect("set");
        let read = std::iter::from_fn(|| journald.recv(&mut [0; 16]).ok()).count() as u64;
        assert!(dropped.get() > 0 && read + dropped.get() == 1500, "{read} were read, {} dropped", dropped.get());
        journal.write_all(b"MESSAGE=y\n").expect("no error");
        assert!(journald.recv(&mut [0; 16]).is_ok() && !journal.stalled, "and goes on when it reads");
    }
}
