//! Calls that are up. Enters: each call's task says what it does; leaves: a list. Bounded: a call too many is carried
//! all the same, and not listed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::base::{CallId, Pii};
use crate::storage::{Direction, Timestamp};

/// What a call is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LiveState {
    /// Not answered yet.
    Ringing,
    /// The caller has the floor.
    Listening,
    /// The answer is being made.
    Thinking,
    /// The agent has the floor.
    Speaking,
    /// Saying goodbye, or hung up and being put away.
    Ending,
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

/// The list; cheap to clone.
#[derive(Clone, Debug)]
pub struct LiveCalls {
    calls: Arc<Mutex<HashMap<CallId, LiveCall>>>,
    most: usize,
}

impl LiveCalls {
    /// A list that holds at most so many.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { calls: Arc::default(), most }
    }

    /// Lists a call until the entry is dropped.
    #[must_use = "dropping the entry takes the call off the list"]
    pub fn enter(&self, call: LiveCall) -> LiveEntry {
        let id = call.id;
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() < self.most {
            calls.insert(id, call);
        }
        drop(calls);
        LiveEntry { id, list: self.clone() }
    }

    /// All of them, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<LiveCall> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// One of them.
    #[must_use]
    pub fn one(&self, id: CallId) -> Option<LiveCall> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
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
}

impl LiveEntry {
    /// Changes what is listed; does nothing where the list was full.
    pub fn update(&self, change: impl FnOnce(&mut LiveCall)) {
        if let Some(call) = self.list.calls.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&self.id) {
            change(call);
        }
    }
}

impl Drop for LiveEntry {
    fn drop(&mut self) {
        self.list.calls.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
