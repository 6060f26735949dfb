//! What the monitor knows and what its person has chosen. Enters: what the daemon tells, keys, and the time; leaves: what is
//! to be shown, and wishes. Never here: a terminal, a socket, a clock.

use std::time::Duration;

use callbox::storage::Timestamp;
use serde_json::Value;

use super::calls::{Call, Calls};
use super::link::Told;
use super::look::{self, Alert, Look, alert};
use crate::printable::printable;

/// A word on what was done is shown for so long.
const SAID: Duration = Duration::from_secs(10);

/// Events that were lost are spoken of for so long.
const LOST: Duration = Duration::from_secs(60);

/// Lines of a page.
const PAGE: usize = 10;

/// A key, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    Up,
    Down,
    Open,
    Back,
    PageUp,
    PageDown,
    Letter(char),
    /// Ctrl-C.
    Stop,
}

/// What somebody else has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// Ask for a call's earlier turns.
    Record(String),
    /// End a call.
    HangUp(String),
    /// Leave.
    Quit,
}

/// All of it.
#[derive(Default, Debug)]
pub(super) struct State {
    pub(super) calls: Calls,
    chosen: Option<String>,
    /// The chosen call has the screen for itself.
    pub(super) opened: bool,
    pub(super) helps: bool,
    /// A call that is to be ended if that is confirmed.
    doomed: Option<String>,
    /// Lines between the end of the transcript and what is shown of it.
    pub(super) back: usize,
    pub(super) look: Option<Look>,
    /// Engines lost before the monitor began.
    restarts: Option<f64>,
    /// Since when there is no health, and why.
    silent: Option<(Timestamp, String)>,
    /// Since when there are no events, and why.
    away: Option<(Timestamp, String)>,
    /// Events that came too fast, and when the last did.
    lost: Option<(Timestamp, u64)>,
    said: Option<(Timestamp, String)>,
}

impl State {
    /// The daemon's stream has told something.
    pub(super) fn told(&mut self, told: Told, now: Timestamp) -> Option<Wish> {
        match told {
            Told::Live => {
                if let Some((since, _)) = self.away.take() {
                    self.say(format!("The live view is back after {}.", look::since(since, now)), now);
                }
            }
            Told::Gone(why) => {
                let since = self.away.as_ref().map_or(now, |(since, _)| *since);
                self.away = Some((since, printable(&why)));
            }
            Told::Event(event) if event.name == "lost" => {
                let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
                let before = self.lost.map_or(0, |(_, lost)| lost);
                self.lost = Some((now, before.saturating_add(data["lost"].as_u64().unwrap_or(0))));
            }
            Told::Event(event) => self.calls.happened(&event, now),
        }
        self.settle(now)
    }

    /// The box was looked at, or could not be.
    pub(super) fn looked(&mut self, looked: Result<Look, String>, now: Timestamp) {
        match looked {
            Ok(look) => {
                self.restarts.get_or_insert(look.restarts);
                self.look = Some(look);
                self.silent = None;
            }
            Err(why) => {
                let since = self.silent.as_ref().map_or(now, |(since, _)| *since);
                self.silent = Some((since, printable(&why)));
            }
        }
    }

    /// A call's record was asked for.
    pub(super) fn record(&mut self, id: &str, record: Result<Value, String>, now: Timestamp) {
        match record {
            Ok(record) => self.calls.record(id, &record),
            Err(why) => self.say(format!("Earlier turns are not known: {}", printable(&why)), now),
        }
    }

    /// A call was to be ended.
    pub(super) fn hung_up(&mut self, result: Result<(), String>, now: Timestamp) {
        let said = result.map_or_else(|why| format!("Not hung up: {}", printable(&why)), |()| "Hung up.".to_owned());
        self.say(said, now);
    }

    fn say(&mut self, what: String, now: Timestamp) {
        self.said = Some((now, what));
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Timestamp) -> Option<Wish> {
        self.said.take_if(|(at, _)| now >= *at + SAID);
        self.lost.take_if(|(at, _)| now >= *at + LOST);
        self.settle(now)
    }

    /// Somebody has pressed a key.
    pub(super) fn key(&mut self, key: Key, now: Timestamp) -> Option<Wish> {
        if let Some(id) = self.doomed.take() {
            return match key {
                Key::Stop => Some(Wish::Quit),
                Key::Letter('y') => Some(Wish::HangUp(id)),
                _ => {
                    self.say("Not hung up.".into(), now);
                    None
                }
            };
        }
        if std::mem::take(&mut self.helps) && !matches!(key, Key::Stop | Key::Letter('q')) {
            return None;
        }
        match key {
            Key::Stop | Key::Letter('q') => return Some(Wish::Quit),
            Key::Up | Key::Letter('k') => self.choose(-1),
            Key::Down | Key::Letter('j') => self.choose(1),
            Key::Open => self.opened = self.chosen.is_some(),
            Key::Back => self.opened = false,
            Key::PageUp => self.back = self.back.saturating_add(PAGE),
            Key::PageDown => self.back = self.back.saturating_sub(PAGE),
            Key::Letter('h' | '?') => self.helps = true,
            Key::Letter('x') => {
                self.doomed = self.chosen().filter(|call| call.ended.is_none()).map(|call| call.id.clone());
            }
            Key::Letter(_) => {}
        }
        self.settle(now)
    }

    fn choose(&mut self, step: isize) {
        let calls = self.calls.all();
        let at = self.place().unwrap_or(0).saturating_add_signed(step).min(calls.len().saturating_sub(1));
        self.chosen = calls.get(at).map(|call| call.id.clone());
        self.back = 0;
    }

    /// Keeps what was chosen true of what there is.
    fn settle(&mut self, now: Timestamp) -> Option<Wish> {
        let place = self.place().unwrap_or(0);
        self.calls.sweep(now, self.chosen.as_deref().filter(|_| self.opened));
        if self.place().is_none() {
            let calls = self.calls.all();
            self.chosen = calls.get(place.min(calls.len().saturating_sub(1))).map(|call| call.id.clone());
            self.back = 0;
            self.opened &= self.chosen.is_some();
        }
        self.doomed.take_if(|id| self.calls.get(id).is_none_or(|call| call.ended.is_some()));
        let id = self.chosen.clone().filter(|id| self.calls.wants_record(id))?;
        Some(Wish::Record(id))
    }

    /// Where the chosen call is in the list.
    pub(super) fn place(&self) -> Option<usize> {
        let chosen = self.chosen.as_deref()?;
        self.calls.all().iter().position(|call| call.id == chosen)
    }

    /// The chosen call.
    pub(super) fn chosen(&self) -> Option<&Call> {
        self.calls.get(self.chosen.as_deref()?)
    }

    /// The call that somebody is asked about.
    pub(super) fn doomed(&self) -> Option<&Call> {
        self.calls.get(self.doomed.as_deref()?)
    }

    /// A word on what was done.
    pub(super) fn said(&self) -> Option<&str> {
        self.said.as_ref().map(|(_, said)| said.as_str())
    }

    /// The transcript has no more than so many lines further back.
    pub(super) fn at_most_back(&mut self, lines: usize) {
        self.back = self.back.min(lines);
    }

    /// Since when the daemon does not answer, and why: what is shown is what was known last.
    pub(super) fn absent(&self) -> Option<&(Timestamp, String)> {
        self.away.as_ref().or(self.silent.as_ref())
    }

    /// What somebody should look at, the worst first.
    pub(super) fn alerts(&self, now: Timestamp) -> Vec<Alert> {
        let mut alerts = Vec::new();
        if let Some((since, why)) = self.absent() {
            let what = format!("No answer for {}, it is tried again", look::since(*since, now));
            alerts.push(alert(what, why, true));
        } else if let Some(look) = &self.look {
            alerts.extend(look.alerts(self.restarts.unwrap_or(0.0)));
        }
        if let Some((_, lost)) = self.lost {
            alerts.push(alert("Live view", format!("{lost} events came too fast and were not seen"), false));
        }
        alerts.sort_by_key(|alert| !alert.bad);
        alerts
    }
}
