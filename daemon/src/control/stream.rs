//! `/api/v1/events` and `/api/v1/calls/{id}/events`: events as a stream (Server-Sent Events). Enters: one who watches; leaves:
//! what is up now, then what happens, each with an id to go on from. Never here: a wait of a call for who watches.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Sent, Sse};
use futures_util::stream::{self, Stream};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::answers::CallAnswer;
use super::events::{Batch, Event, Watcher};
use super::extract::{CallPath, Named};
use super::looks::look;
use super::who::Who;
use super::{Problem, Shared};
use crate::base::CallId;
use crate::telemetry::While;

/// Streams at once.
pub(super) const STREAMS: usize = 32;

/// A comment goes out after so much silence, so that either side finds out that the other is gone; and whoever has lost
/// their token loses their stream.
const BEAT: Duration = Duration::from_secs(15);

/// A stream lasts no longer; who watches comes again, and goes on.
const LONGEST: Duration = Duration::from_secs(3600);

/// Says of a connection that it may last.
#[derive(Clone, Default)]
pub(super) struct Lasting(Arc<AtomicBool>);

impl Lasting {
    /// It carries a stream.
    fn lasts(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it does.
    pub(super) fn is_lasting(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happens to calls, as it happens. First `snapshot`, the calls that are up, unless `Last-Event-ID` names an event that
/// is still known; `lost` says how many events came too fast for this reader. Data are JSON objects.
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    params(("last-event-id" = Option<String>, Header, description = "The id of the last event that was seen")),
    responses((status = 200, description = "Events without an end", content_type = "text/event-stream", body = String)))]
pub(super) async fn all(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    Extension(lasting): Extension<Lasting>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Problem> {
    watch(shared, who, &lasting, &headers, None)
}

/// The same of one call; the stream ends with it.
#[utoipa::path(get, path = "/api/v1/calls/{id}/events", tag = "events",
    params(CallPath, ("last-event-id" = Option<String>, Header, description = "The id of the last event that was seen")),
    responses((status = 200, description = "Its events", content_type = "text/event-stream", body = String),
        (status = 404, description = "It is not up")))]
pub(super) async fn of_call(
    State(shared): State<Shared>,
    Extension(who): Extension<Who>,
    Extension(lasting): Extension<Lasting>,
    Named(id): Named,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Problem> {
    watch(shared, who, &lasting, &headers, Some(id))
}

struct Stage {
    shared: Shared,
    who: Who,
    only: Option<CallId>,
    watcher: Watcher,
    /// What is to be sent before the next batch is read, the last first.
    waiting: Vec<Sent>,
    until: Instant,
    /// When the token was looked at last.
    checked: Instant,
    over: bool,
    _place: (OwnedSemaphorePermit, While),
}

fn watch(
    shared: Shared,
    who: Who,
    lasting: &Lasting,
    headers: &HeaderMap,
    only: Option<CallId>,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>> + use<>>, Problem> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    // Before the list is read: what happens in between is told twice rather than not at all.
    let watcher = shared.state.live.events().watch(last);
    if let Some(id) = only.filter(|id| shared.state.live.one(*id).is_none() && !watcher.resumes) {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("call {id} is not up")));
    }
    let place = Arc::clone(&shared.streams).try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{STREAMS} streams of events are open already"))
    })?;
    let place = (place, While::new(&shared.counts.streams));
    if who.callers {
        look(&shared, &who, "call.watch", only.map(|id| id.to_string()).unwrap_or_default())?;
    }
    let mut waiting = Vec::new();
    if !watcher.resumes {
        let mut calls = shared.state.live.all();
        calls.retain(|call| only.is_none_or(|only| only == call.id));
        calls.sort_unstable_by_key(|call| std::cmp::Reverse((call.started, call.id)));
        let calls: Vec<_> = calls.iter().map(|call| CallAnswer::live(call, &who)).collect();
        let snapshot = Sent::default().event("snapshot").data(json!({ "calls": calls }).to_string());
        waiting.push(match watcher.id() {
            Some(id) => snapshot.id(id),
            None => snapshot,
        });
    }
    lasting.lasts();
    let checked = Instant::now();
    let until = checked + LONGEST;
    let stage = Stage { shared, who, only, watcher, waiting, until, checked, over: false, _place: place };
    Ok(Sse::new(stream::unfold(stage, |mut stage| async move {
        let next = stage.next().await?;
        Some((Ok(next), stage))
    })))
}

impl Stage {
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some(sent) = self.waiting.pop() {
                return Some(sent);
            }
            let now = Instant::now();
            if self.over || now >= self.until {
                return None;
            }
            if now >= self.checked + BEAT {
                self.checked = now;
                if !self.may_go_on().await {
                    return None;
                }
                return Some(Sent::default().comment(""));
            }
            if let Ok(batch) = tokio::time::timeout_at(self.checked + BEAT, self.watcher.next()).await {
                self.take(&batch);
            }
        }
    }

    /// A token may have been revoked meanwhile.
    async fn may_go_on(&self) -> bool {
        let Some(token) = &self.who.token else { return true };
        let now = self.shared.state.clock.wall().into();
        self.shared.keys.holds(&self.shared.state.storage, token, now).await
    }

    fn take(&mut self, batch: &Batch) {
        if batch.lost > 0 {
            let lost = json!({ "lost": batch.lost }).to_string();
            self.waiting.push(Sent::default().event("lost").data(lost));
        }
        for event in &batch.events {
            if self.over || self.only.is_some_and(|only| only != event.call) {
                continue;
            }
            self.over = self.only.is_some() && event.happened.name() == "call_ended";
            let shown = if self.who.callers { (**event).clone() } else { Self::bare(event) };
            // These types have only string keys, so this cannot fail.
            let data = serde_json::to_string(&shown).unwrap_or_default();
            let id = self.shared.state.live.events().id(event.number);
            self.waiting.push(Sent::default().event(event.happened.name()).id(id).data(data));
        }
        self.waiting.reverse();
    }

    fn bare(event: &Event) -> Event {
        Event { happened: event.happened.without_callers(), ..event.clone() }
    }
}
