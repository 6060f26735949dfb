//! A call's own line to its engine. Enters: requests of one call; leaves: news for it. Never here: which engine that is.

use std::sync::Arc;

use callbox_wire::{CallId, Request};
use tokio::sync::mpsc;

use super::News;
use super::fleet::Fleet;

/// A request that the engine's queue had no place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine's queue is full")]
pub struct Refused;

/// A call's own line to its engine; dropping it makes the engine forget the call.
pub struct Port {
    call: CallId,
    news: mpsc::Receiver<Box<News>>,
    fleet: Arc<Fleet>,
    served: bool,
}

impl Port {
    pub(super) const fn new(call: CallId, news: mpsc::Receiver<Box<News>>, fleet: Arc<Fleet>, served: bool) -> Self {
        Self { call, news, fleet, served }
    }

    /// The call.
    pub const fn call(&self) -> CallId {
        self.call
    }

    /// Whether there was an engine for it when it was attached; every change since is news.
    pub const fn was_served(&self) -> bool {
        self.served
    }

    /// Hands a request over; never waits. Without an engine it is lost, and the next [`News::Ready`] says when to ask again.
    ///
    /// # Errors
    /// If the engine's queue is full, or the driver has ended.
    pub fn send(&self, request: Request) -> Result<(), Refused> {
        self.fleet.counts.asked(&request);
        self.fleet.send(self.call, request).inspect_err(|_| self.fleet.counts.refused())
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
        self.fleet.detach(self.call);
    }
}
