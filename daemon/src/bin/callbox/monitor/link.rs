//! The stream of events, kept up. Enters: a daemon; leaves: its events in order, and when it is away. It comes again by
//! itself, and goes on where it was. Never here: what an event means.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use callbox::base::CallId;
use hyper::StatusCode;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::sse::{Event, Parser};
use crate::client::{Daemon, Refused};

/// Waits before another try, from the first to the longest.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// The daemon says something every 15 s, if only that it is there.
const SILENCE: Duration = Duration::from_secs(40);

/// What is told of the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// The stream is open.
    Live,
    /// It is not, because.
    Gone(String),
    /// Something happened.
    Event(Event),
}

/// What to watch.
pub(super) struct Link {
    pub(super) daemon: Arc<Daemon>,
    /// One call alone; the stream ends with it.
    pub(super) only: Option<CallId>,
    /// Whether whoever has lost events would rather be told again what is up.
    pub(super) renews: bool,
}

/// Why a stream is over.
enum Over {
    /// There is no more to come.
    Ended,
    /// The daemon has ended it, as after an hour.
    Closed,
    /// Events were lost, and the list is wanted anew.
    Behind,
}

impl Link {
    /// Watches until nobody listens or the one call has ended. The first connection must succeed, or its error leaves.
    pub(super) async fn run(self, to: mpsc::Sender<Told>) -> anyhow::Result<()> {
        let path = match self.only {
            Some(id) => format!("/api/v1/calls/{id}/events"),
            None => "/api/v1/events".to_owned(),
        };
        let [mut wait, longest] = WAITS;
        let (mut last, mut known) = (None, false);
        loop {
            let mut opened = false;
            match self.once(&path, &mut last, &to, &mut opened).await {
                Ok(Over::Ended) => return Ok(()),
                Ok(Over::Behind) => continue,
                Ok(Over::Closed) => {}
                Err(_) if to.is_closed() => return Ok(()),
                Err(error) => {
                    let no_such = error.downcast_ref::<Refused>().is_some_and(|it| it.status == StatusCode::NOT_FOUND);
                    if no_such || !(known || opened) {
                        return Err(error);
                    }
                    if to.send(Told::Gone(format!("{error:#}"))).await.is_err() {
                        return Ok(());
                    }
                }
            }
            known |= opened;
            wait = if opened { WAITS[0] } else { (wait * 2).min(longest) };
            sleep(wait).await;
        }
    }

    async fn once(
        &self,
        path: &str,
        last: &mut Option<String>,
        to: &mpsc::Sender<Told>,
        opened: &mut bool,
    ) -> anyhow::Result<Over> {
        let mut stream = self.daemon.stream(path, last.as_deref()).await?;
        *opened = true;
        to.send(Told::Live).await?;
        let mut parser = Parser::default();
        loop {
            let bytes = match timeout(SILENCE, stream.next()).await {
                Ok(Ok(Some(bytes))) => bytes,
                Ok(Ok(None)) => return Ok(Over::Closed),
                Ok(Err(_)) => bail!("callboxd has broken off"),
                Err(_) => bail!("callboxd is silent"),
            };
            for event in parser.take(&bytes)? {
                if event.id.is_some() {
                    last.clone_from(&event.id);
                }
                let (ends, lost) = (event.name == "call_ended", event.name == "lost");
                to.send(Told::Event(event)).await?;
                if ends && self.only.is_some() {
                    return Ok(Over::Ended);
                }
                if lost && self.renews {
                    *last = None;
                    return Ok(Over::Behind);
                }
            }
        }
    }
}
