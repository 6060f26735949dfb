//! What every role has in common: it is given requests, and it sends events through an outlet.

use std::sync::Arc;

use callbox_wire::{Event, Request, RoleInfo};

/// Where a role's events go. Never blocks for long: the server behind it drops a connection that does not read.
pub trait Outlet: Send + Sync + 'static {
    /// Sends one event to whoever listens for its call.
    fn send(&self, event: Event);
}

/// A loaded, warmed-up role. Dropping it ends its threads and waits for them.
pub trait Worker: Send + Sync + 'static {
    /// Its model and what loading cost.
    fn info(&self) -> &RoleInfo;

    /// Takes a request of this role; never blocks. A full queue is answered with [`Event::Failed`] through the outlet.
    fn submit(&self, request: Request);

    /// Comes back when the role's thread has gone round its loop; `done` may be dropped if the role is dead.
    fn beat(&self, done: Box<dyn FnOnce() + Send>);
}

/// A shared outlet.
pub type SharedOutlet = Arc<dyn Outlet>;
