//! Which call hears of which event. Enters: events; leaves: news on each call's own bounded queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use callbox_wire::{CallId, Event, Request};
use tokio::sync::mpsc;

use super::News;
use super::counts::Counts;

/// News that wait for one call: more than the credit of audio that it can have asked for, and a turn's tokens. When
/// full, the call is stuck; its news are dropped and counted, and its own watchdog ends it.
const NEWS: usize = 2048;

/// A request that the engine's queue had no place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine's queue is full")]
pub struct Refused;

pub(super) struct Router {
    pub(super) counts: Counts,
    /// In boxes: a channel takes the room of 32 messages at once.
    ports: Mutex<HashMap<CallId, mpsc::Sender<Box<News>>>>,
}

/// A call's own line to the engine.
pub struct Port {
    call: CallId,
    requests: mpsc::Sender<Request>,
    news: mpsc::Receiver<Box<News>>,
    router: Arc<Router>,
}

impl Router {
    pub(super) fn new(counts: Counts) -> Self {
        Self { counts, ports: Mutex::default() }
    }

    pub(super) fn attach(router: &Arc<Self>, call: CallId, requests: mpsc::Sender<Request>) -> Port {
        let (sender, news) = mpsc::channel(NEWS);
        router.lock().insert(call, sender);
        Port { call, requests, news, router: Arc::clone(router) }
    }

    pub(super) fn event(&self, event: Event) {
        self.counts.heard(&event);
        let Some(call) = event.call() else { return };
        if let Some(port) = self.lock().get(&call)
            && let Err(mpsc::error::TrySendError::Full(_)) = port.try_send(Box::new(News::Event(event)))
        {
            tracing::error!(%call, "a call does not read its engine's events; one was dropped");
        }
    }

    pub(super) fn broadcast(&self, news: &News) {
        for (call, port) in self.lock().iter() {
            if let Err(mpsc::error::TrySendError::Full(_)) = port.try_send(Box::new(news.clone())) {
                tracing::error!(%call, "a call does not read its engine's events; it missed a change of the engine");
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CallId, mpsc::Sender<Box<News>>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port {
    /// The call.
    pub const fn call(&self) -> CallId {
        self.call
    }

    /// Hands a request over; never waits.
    ///
    /// # Errors
    /// If the engine's queue is full, or the driver has ended.
    pub fn send(&self, request: Request) -> Result<(), Refused> {
        self.router.counts.asked(&request);
        self.requests.try_send(request).map_err(|_| {
            self.router.counts.refused();
            Refused
        })
    }

    /// The next news; `None` never comes while the port is attached.
    pub async fn recv(&mut self) -> Option<News> {
        self.news.recv().await.map(|news| *news)
    }

    /// The next news, if there is one already.
    pub fn try_recv(&mut self) -> Option<News> {
        self.news.try_recv().ok().map(|news| *news)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.router.lock().remove(&self.call);
        if self.send(Request::Forget { call: self.call }).is_err() {
            tracing::debug!(call = %self.call, "the engine was not told that the call is over");
        }
    }
}
