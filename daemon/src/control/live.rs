//! Calls that are up. Enters: each call's task says what it does, operators what they want of it; leaves: a list, events,
//! and their wishes, to that task. Bounded: a call too many is carried all the same, and not listed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;
use tokio::sync::{Notify, mpsc, oneshot};

use super::events::{Events, Happened};
use super::trace::TracedPacket;
use crate::base::{CallId, Clock, Pii};
use crate::storage::{Direction, Timestamp};

/// What a call is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LiveState {
    /// The far end has put it on hold.
    Held,
    /// The caller has the floor.
    Listening,
    /// The answer is being made.
    Thinking,
    /// The agent has the floor.
    Speaking,
}

/// A call that is up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LiveCall {
    /// Its id.
    pub id: CallId,
    /// Name of the agent.
    pub agent: String,
    /// Who called whom.
    pub direction: Direction,
    /// The caller.
    pub from: Pii<String>,
    /// The callee.
    pub to: Pii<String>,
    /// RTP encoding name; empty before there is one.
    pub codec: String,
    /// The INVITE.
    pub started: Timestamp,
    /// What it is doing.
    pub state: LiveState,
    /// Turns without the greeting.
    pub turns: u32,
}

/// What an operator wants of a call that is up.
#[derive(Debug)]
pub enum Wish {
    /// Its datagrams from now on, until the receiver is dropped.
    Capture(oneshot::Sender<mpsc::Receiver<TracedPacket>>),
    /// Its end, at once.
    HangUp(oneshot::Sender<()>),
    /// That the agent says something.
    Say {
        /// What.
        words: Pii<String>,
        /// Told whether it will, or why not.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// That the caller is handed over.
    Transfer {
        /// To which of the agent's transfers.
        to: String,
        /// Told whether they will be, or why not.
        done: oneshot::Sender<Result<(), String>>,
    },
}

/// Wishes that wait for a call's task; one more is refused.
const WISHES: usize = 4;

#[derive(Debug, Default)]
struct Inbox {
    wishes: Mutex<VecDeque<Wish>>,
    there: Notify,
}

type Listed = HashMap<CallId, (LiveCall, Arc<Inbox>)>;

/// The list; cheap to clone.
#[derive(Clone, Debug)]
pub struct LiveCalls {
    calls: Arc<Mutex<Listed>>,
    most: usize,
    events: Events,
}

impl LiveCalls {
    /// A list that holds at most so many.
    #[must_use]
    pub fn new(most: usize, clock: Arc<dyn Clock>) -> Self {
        Self { calls: Arc::default(), most, events: Events::new(clock) }
    }

    /// What happens to them.
    #[must_use]
    pub const fn events(&self) -> &Events {
        &self.events
    }

    /// Lists a call until the entry is dropped.
    #[must_use = "dropping the entry takes the call off the list"]
    pub fn enter(&self, call: LiveCall) -> LiveEntry {
        let (id, inbox) = (call.id, Arc::<Inbox>::default());
        self.events.publish(id, Happened::started(&call));
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() < self.most {
            calls.insert(id, (call, Arc::clone(&inbox)));
        }
        drop(calls);
        LiveEntry { id, list: self.clone(), inbox, end: OnceLock::new() }
    }

    /// All of them, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<LiveCall> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).values().map(|(call, _)| call.clone()).collect()
    }

    /// One of them.
    #[must_use]
    pub fn one(&self, id: CallId) -> Option<LiveCall> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).get(&id).map(|(call, _)| call.clone())
    }

    /// Tells a call's task what is wanted; false if there is no such call, or it has enough to do.
    pub fn wish(&self, id: CallId, wish: Wish) -> bool {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, inbox)) = calls.get(&id) else { return false };
        let mut wishes = inbox.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = wishes.len() < WISHES;
        if taken {
            wishes.push_back(wish);
            inbox.there.notify_one();
        }
        taken
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A call's place in the list.
#[derive(Debug)]
pub struct LiveEntry {
    id: CallId,
    list: LiveCalls,
    inbox: Arc<Inbox>,
    /// Why it ends.
    end: OnceLock<String>,
}

impl LiveEntry {
    /// For whoever watches.
    pub fn tell(&self, happened: Happened) {
        self.list.events.publish(self.id, happened);
    }

    /// Why it ends, for whoever watches; the first reason counts.
    pub fn ends(&self, reason: &str) {
        self.end.get_or_init(|| reason.to_owned());
    }

    /// Changes what is listed; does nothing where the list was full.
    pub fn update(&self, change: impl FnOnce(&mut LiveCall)) {
        if let Some((call, _)) = self.list.calls.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&self.id) {
            change(call);
        }
    }

    /// What somebody wants of this call next.
    pub async fn wish(&self) -> Wish {
        loop {
            let wish = self.inbox.wishes.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match wish {
                Some(wish) => return wish,
                None => self.inbox.there.notified().await,
            }
        }
    }
}

impl Drop for LiveEntry {
    fn drop(&mut self) {
        self.list.calls.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        // Without a reason its task has panicked, or the daemon goes down.
        let reason = self.end.take().unwrap_or_else(|| "lost".to_owned());
        self.tell(Happened::CallEnded { reason });
    }
}
