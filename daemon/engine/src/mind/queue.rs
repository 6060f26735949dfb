//! What waits for the scheduler. Enters: requests. Leaves: the same, in order, but for cancelled ones.

use std::collections::VecDeque;
use std::sync::Arc;

use callbox_wire::{CallId, Request, TurnId};
use crossbeam_channel::{Receiver, TryRecvError};

use crate::models::transformer::Adapter;

/// What the scheduler is told.
pub(super) enum Order {
    /// A request of this role.
    Ask(Request),
    /// Call this when you have gone round.
    Beat(Box<dyn FnOnce() + Send>),
    /// A [`Request::LoadAdapter`] that came before has ended.
    Loaded(Loaded),
}

/// What became of loading an adapter.
pub(super) struct Loaded {
    /// Who asked.
    pub(super) call: CallId,
    /// Which of their questions it was.
    pub(super) turn: TurnId,
    pub(super) name: String,
    /// The adapter, or one sentence.
    pub(super) result: Result<Arc<Adapter>, String>,
}

/// The scheduler's end of the queue, which it may look through.
pub(super) struct Queue {
    receiver: Receiver<Order>,
    seen: VecDeque<Order>,
    open: bool,
}

impl Queue {
    pub(super) fn new(receiver: Receiver<Order>) -> Self {
        Self { receiver, seen: VecDeque::new(), open: true }
    }

    /// Whether anybody can still send.
    pub(super) fn is_open(&self) -> bool {
        self.open || !self.seen.is_empty()
    }

    /// Waits until there is something, or nobody can send any more.
    pub(super) fn wait(&mut self) {
        if self.seen.is_empty() {
            match self.receiver.recv() {
                Ok(order) => self.seen.push_back(order),
                Err(_) => self.open = false,
            }
        }
    }

    /// The next order, if there is one.
    pub(super) fn pop(&mut self) -> Option<Order> {
        self.look();
        self.seen.pop_front()
    }

    /// Whether an order that waits ends this turn.
    pub(super) fn ends(&mut self, of: CallId, at: TurnId) -> bool {
        self.look();
        self.seen.iter().any(|order| match order {
            Order::Ask(Request::Cancel { call, turn }) => (*call, *turn) == (of, at),
            Order::Ask(Request::Forget { call } | Request::Think { call, .. } | Request::ThinkWith { call, .. }) => {
                *call == of
            }
            _ => false,
        })
    }

    fn look(&mut self) {
        loop {
            match self.receiver.try_recv() {
                Ok(order) => self.seen.push_back(order),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.open = false;
                    return;
                }
            }
        }
    }
}
