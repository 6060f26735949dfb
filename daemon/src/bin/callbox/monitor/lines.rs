//! The monitor for scripts. Enters: events; leaves: one JSON object per line on standard output, as they happen. Never
//! here: a byte that acts on a terminal.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use callbox::base::CallId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::interval;

use super::link::{Link, Told};
use super::sse::Event;
use crate::client::Daemon;
use crate::printable::{acts, printable};

/// Events that wait to be written; the daemon keeps more, and says what it has lost.
const WAITING: usize = 16;

/// How often it is looked whether anybody reads.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run(daemon: Arc<Daemon>, only: Option<CallId>) -> anyhow::Result<ExitCode> {
    let (to, mut told) = mpsc::channel(WAITING);
    let link = Link { daemon, only, renews: false }.run(to);
    let unread = unread();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::pin!(link, unread);
    let mut ended = None;
    loop {
        let told = tokio::select! {
            // What was told before the end comes before it.
            biased;
            _ = term.recv() => return Ok(ExitCode::SUCCESS),
            _ = int.recv() => return Ok(ExitCode::SUCCESS),
            () = &mut unread => return Ok(ExitCode::SUCCESS),
            told = told.recv() => told,
            done = &mut link, if ended.is_none() => {
                ended = Some(done);
                continue;
            }
        };
        match told {
            Some(Told::Event(event)) => match write(&line(event)) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                written => written?,
            },
            Some(Told::Live) => {}
            Some(Told::Gone(why)) => eprintln!("callbox: {}; it is tried again", printable(&why)),
            // The link was the only one to tell.
            None => return ended.unwrap_or(Ok(())).map(|()| ExitCode::SUCCESS),
        }
    }
}

fn write(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// As in `callbox monitor --json | head -1`: whoever reads has gone, whether or not there is something to write.
async fn unread() {
    let mut look = interval(LOOK);
    loop {
        look.tick().await;
        let out = io::stdout();
        let mut polled = [PollFd::new(&out, PollFlags::empty())];
        // What cannot be polled is no pipe.
        if poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().contains(PollFlags::ERR) {
            return;
        }
    }
}

/// The event's data with its name, which most have already.
fn line(event: Event) -> String {
    let data = match serde_json::from_str(&event.data) {
        Ok(Value::Object(data)) => data,
        Ok(data) => Map::from_iter([("data".to_owned(), data)]),
        Err(_) => Map::from_iter([("data".to_owned(), event.data.into())]),
    };
    let mut whole = Map::from_iter([("event".to_owned(), event.name.into())]);
    whole.extend(data);
    // JSON escapes the control characters of ASCII only. All that act stand in strings: nothing else of JSON is one.
    Value::from(whole).to_string().chars().fold(String::new(), |mut line, c| {
        if acts(c) {
            // A string takes whatever is written to it.
            write!(line, "\\u{:04x}", u32::from(c)).unwrap_or_default();
        } else {
            line.push(c);
        }
        line
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), id: None, data: data.into() }
    }

    #[test]
    fn every_line_names_its_event() {
        assert_eq!(line(event("snapshot", "{\"calls\":[]}")), "{\"calls\":[],\"event\":\"snapshot\"}");
        assert_eq!(line(event("lost", "{\"lost\":3}")), "{\"event\":\"lost\",\"lost\":3}");
        assert_eq!(line(event("x", "no JSON")), "{\"data\":\"no JSON\",\"event\":\"x\"}");
    }

    proptest! {
        #[test]
        fn a_line_says_the_same_and_holds_nothing_that_acts_on_a_terminal(text in any::<String>()) {
            let data = json!({ "event": "caller_said", "text": text });
            let line = line(event("caller_said", &data.to_string()));
            prop_assert!(!line.chars().any(acts));
            prop_assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON"), data);
        }
    }
}
