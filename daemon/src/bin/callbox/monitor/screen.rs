//! The monitor in a terminal. Enters: keys, signals, what the daemon tells; leaves: a screen. The terminal is given back as
//! it was, however this ends. Never here: what anything means.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callbox::base::{Clock as _, SystemClock};
use callbox::storage::Timestamp;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt as _;
use hyper::{Method, StatusCode};
use ratatui::DefaultTerminal;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::draw::draw;
use super::link::Link;
use super::look::Look;
use super::state::{Key, State, Wish};
use crate::client::Daemon;

/// How often the box is looked at, and how often the last hour: every so many looks.
const LOOK: Duration = Duration::from_secs(2);
const LOOKS: u32 = 15;

/// Between two screens at most.
const TICK: Duration = Duration::from_secs(1);

/// Things told that wait to be shown; the daemon keeps more, and says what it has lost.
const WAITING: usize = 256;

/// What was wished for and is done.
enum Done {
    Record(String, Result<Value, String>),
    HungUp(Result<(), String>),
}

pub(super) async fn run(daemon: Arc<Daemon>) -> anyhow::Result<ExitCode> {
    ensure!(
        io::stdout().is_terminal() && io::stdin().is_terminal(),
        "this is no terminal; `callbox monitor --json` writes lines for a script"
    );
    let (told_to, mut told) = mpsc::channel(WAITING);
    let (looked_to, mut looked) = mpsc::channel(1);
    let link = Link { daemon: Arc::clone(&daemon), only: None, renews: true }.run(told_to);
    let look = look(&daemon, looked_to);
    tokio::pin!(link, look);
    // What is wrong from the beginning is one sentence, and no screen.
    let first = tokio::select! {
        ended = &mut link => return ended.map(|()| ExitCode::FAILURE),
        first = told.recv() => first.context("callboxd has told nothing")?,
    };
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut screen = Screen::open()?;
    let mut keys = EventStream::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut orders = JoinSet::new();
    let mut state = State::default();
    let mut wish = state.told(first, now());
    loop {
        match wish.take() {
            Some(Wish::Quit) => return Ok(ExitCode::SUCCESS),
            Some(Wish::HangUp(id)) => drop(orders.spawn(hang_up(Arc::clone(&daemon), id))),
            Some(Wish::Record(id)) => drop(orders.spawn(record(Arc::clone(&daemon), id))),
            None => {}
        }
        // Many events of one moment are drawn once.
        if let Ok(next) = told.try_recv() {
            wish = state.told(next, now());
            continue;
        }
        screen.show(&mut state)?;
        wish = tokio::select! {
            ended = &mut link => return ended.map(|()| ExitCode::FAILURE),
            () = &mut look => return Ok(ExitCode::FAILURE),
            Some(next) = told.recv() => state.told(next, now()),
            Some(next) = looked.recv() => {
                state.looked(next, now());
                None
            }
            Some(done) = orders.join_next() => {
                match done? {
                    Done::Record(id, record) => state.record(&id, record, now()),
                    Done::HungUp(result) => state.hung_up(result, now()),
                }
                None
            }
            _ = tick.tick() => state.tick(now()),
            key = keys.next() => match key {
                Some(Ok(event)) => key_of(&event).and_then(|key| state.key(key, now())),
                // The terminal is gone.
                Some(Err(_)) | None => Some(Wish::Quit),
            },
            _ = term.recv() => Some(Wish::Quit),
            _ = int.recv() => Some(Wish::Quit),
            _ = hangup.recv() => Some(Wish::Quit),
        };
    }
}

fn now() -> Timestamp {
    SystemClock.wall().into()
}

fn key_of(event: &Event) -> Option<Key> {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press | KeyEventKind::Repeat, .. }) = event else {
        return None;
    };
    match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Stop),
        KeyCode::Char(letter) => Some(Key::Letter(*letter)),
        KeyCode::Up => Some(Key::Up),
        KeyCode::Down => Some(Key::Down),
        KeyCode::Enter => Some(Key::Open),
        KeyCode::Esc => Some(Key::Back),
        KeyCode::PageUp => Some(Key::PageUp),
        KeyCode::PageDown => Some(Key::PageDown),
        _ => None,
    }
}

async fn hang_up(daemon: Arc<Daemon>, id: String) -> Done {
    let done = daemon.order(Method::DELETE, &format!("/api/v1/calls/{id}")).await;
    Done::HungUp(done.map(drop).map_err(|error| format!("{error:#}")))
}

async fn record(daemon: Arc<Daemon>, id: String) -> Done {
    let record = daemon.get(&format!("/api/v1/calls/{id}"), None).await;
    Done::Record(id, record.map(|(_, record)| record).map_err(|error| format!("{error:#}")))
}

/// Looks at the box again and again, until nobody wants to know.
async fn look(daemon: &Daemon, to: mpsc::Sender<Result<Look, String>>) {
    let mut p95 = None;
    for count in (0..LOOKS).cycle() {
        let looked = async {
            if count == 0 {
                let (_, report) = daemon.get("/api/v1/reports/summary?since_s=3600", None).await?;
                p95 = report["rows"][0]["voice_to_voice"]["p95_ms"].as_f64();
            }
            let (_, health) = daemon.get("/health", Some(StatusCode::SERVICE_UNAVAILABLE)).await?;
            let metrics = daemon.bytes("/metrics").await?;
            anyhow::Ok(Look::new(health, &String::from_utf8_lossy(&metrics), p95))
        };
        let looked = looked.await.map_err(|error| format!("{error:#}"));
        if to.send(looked).await.is_err() {
            return;
        }
        sleep(LOOK).await;
    }
}

/// A terminal that is ours until this is dropped, or until a panic.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        ratatui::try_init().map(Self).context("the terminal cannot be used")
    }

    fn show(&mut self, state: &mut State) -> anyhow::Result<()> {
        let mut most = 0;
        self.0.draw(|frame| most = draw(frame, state, now())).context("the terminal cannot be written")?;
        state.at_most_back(most);
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing more.
        drop(ratatui::try_restore());
    }
}
