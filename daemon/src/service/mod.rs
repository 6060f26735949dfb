//! The service manager's protocol (`sd_notify(3)`, `sd_listen_fds(3)`). READ FIRST for anything that outlives the daemon.
//!
//! Enters: descriptors that the manager kept or opened for us; news of how the daemon is. Leaves: datagrams to
//! `$NOTIFY_SOCKET`, sent by a thread of its own, so that no call waits for the manager. Never here: what a kept
//! descriptor means. Without a service manager all of it does nothing, silently.
//!
//! ```text
//!  inherited   descriptors that were handed to this process, by name
//!  slots       a state in memory that the manager keeps, never half written
//!  tail        beside it, the end of a stream
//!  watchdog    WATCHDOG=1, while every loop of the daemon beats
//!  mod         READY=1, STATUS=, RELOADING=1, STOPPING=1, EXTEND_TIMEOUT_USEC=, FDSTORE=1, FDSTOREREMOVE=1
//! ```

mod inherited;
mod slots;
mod tail;
mod watchdog;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tokio::time::timeout;

pub use inherited::{Inherited, InheritedError};
pub use slots::Slots;
pub use tail::Tail;

use crate::base::{Clock, Pulse};
use watchdog::Watchdog;

/// Messages that wait for the manager; beyond it they are dropped and logged: a call then does not outlive a crash.
const QUEUE: usize = 4096;

/// How long [`Service::flush`] waits for a manager that does not read.
const FLUSH: Duration = Duration::from_secs(1);

/// The line to the service manager; clones are the same line.
#[derive(Clone, Debug)]
pub struct Service(Option<SyncSender<Message>>);

#[derive(Debug)]
enum Message {
    Ready(String),
    Status(String),
    Reloading,
    Stopping,
    Extend(Duration),
    Store { name: String, descriptor: OwnedFd },
    Remove { name: String },
    Watch { name: &'static str, pulse: Pulse },
    Flush(SyncSender<()>),
    Settle(oneshot::Sender<()>),
}

impl Service {
    /// The line that `$NOTIFY_SOCKET` names, or none.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(clock: Arc<dyn Clock>) -> io::Result<Self> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Self::absent());
        }
        let (queue, messages) = sync_channel(QUEUE);
        let watchdog = sd_notify::watchdog_enabled().map(|limit| Watchdog::new(limit, clock.now()));
        let line = Line { watchdog, clock, failing: false };
        std::thread::Builder::new().name("service".into()).spawn(move || line.run(&messages))?;
        Ok(Self(Some(queue)))
    }

    /// No service manager: everything is accepted and nothing is done.
    #[must_use]
    pub const fn absent() -> Self {
        Self(None)
    }

    /// Whether there is a manager.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Calls are answered; also the end of [`Service::reloading`].
    pub fn ready(&self, status: impl Into<String>) {
        self.send(Message::Ready(status.into()));
    }

    /// One line for `systemctl status`; nothing of a caller.
    pub fn status(&self, status: impl Into<String>) {
        self.send(Message::Status(status.into()));
    }

    /// The configuration is being read again; [`Service::ready`] must follow, whatever came of it.
    pub fn reloading(&self) {
        self.send(Message::Reloading);
    }

    /// The daemon is going down.
    pub fn stopping(&self) {
        self.send(Message::Stopping);
    }

    /// Starting, or stopping, goes on: the manager waits this long from now on.
    pub fn extend(&self, by: Duration) {
        self.send(Message::Extend(by));
    }

    /// Has the manager keep a descriptor for the next daemon. A name may have only one.
    pub fn store(&self, name: String, descriptor: OwnedFd) {
        self.send(Message::Store { name, descriptor });
    }

    /// The manager need not keep it any longer.
    pub fn remove(&self, name: String) {
        self.send(Message::Remove { name });
    }

    /// From now on the watchdog is fed only while this loop beats, too.
    pub fn watch(&self, name: &'static str, pulse: Pulse) {
        self.send(Message::Watch { name, pulse });
    }

    /// Blocks until all that was said before has been sent, at most a second.
    pub fn flush(&self) {
        if self.is_present() {
            let (done, wait) = sync_channel(1);
            self.send(Message::Flush(done));
            // Whoever does not read is not waited for.
            wait.recv_timeout(FLUSH).unwrap_or_default();
        }
    }

    /// Waits until all that was said before has been sent, at most a second: what the manager was given is safe then.
    pub async fn settled(&self) {
        if self.is_present() {
            let (done, wait) = oneshot::channel();
            self.send(Message::Settle(done));
            if timeout(FLUSH, wait).await.is_err() {
                tracing::warn!("the service manager does not read: a call would not outlive a crash now");
            }
        }
    }

    fn send(&self, message: Message) {
        if let Some(queue) = &self.0
            && queue.try_send(message).is_err()
        {
            tracing::error!("the service manager does not read: a message was dropped");
        }
    }
}

struct Line {
    watchdog: Option<Watchdog>,
    clock: Arc<dyn Clock>,
    failing: bool,
}

impl Line {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let now = self.clock.now();
            let wait = self.watchdog.as_ref().map_or(Duration::MAX, |watchdog| watchdog.next(now));
            if wait.is_zero() {
                self.feed();
                continue;
            }
            match messages.recv_timeout(wait) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn feed(&mut self) {
        let now = self.clock.now();
        match self.watchdog.as_mut().map(|watchdog| watchdog.check(now)) {
            Some(Ok(())) => self.say(&[NotifyState::Watchdog], None),
            Some(Err(hung)) => tracing::error!(?hung, "a loop hangs: the watchdog is not fed"),
            None => {}
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Ready(status) => self.say(&[NotifyState::Ready, NotifyState::Status(&status)], None),
            Message::Status(status) => self.say(&[NotifyState::Status(&status)], None),
            Message::Reloading => match NotifyState::monotonic_usec_now() {
                Ok(now) => self.say(&[NotifyState::Reloading, now], None),
                Err(error) => tracing::warn!(%error, "the service manager was not told of the reload"),
            },
            Message::Stopping => self.say(&[NotifyState::Stopping], None),
            Message::Extend(by) => {
                let micros = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
                self.say(&[NotifyState::ExtendTimeoutUsec(micros)], None);
            }
            Message::Store { name, descriptor } => {
                // Without FDPOLL=0 the manager drops a socket at the first ICMP error, unasked.
                let states = [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
                self.say(&states, Some(&descriptor));
            }
            Message::Remove { name } => self.say(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)], None),
            Message::Watch { name, pulse } => {
                let now = self.clock.now();
                if let Some(watchdog) = &mut self.watchdog {
                    watchdog.watch(name, pulse, now);
                }
            }
            // Whoever asked may have gone.
            Message::Flush(done) => done.try_send(()).unwrap_or_default(),
            Message::Settle(done) => done.send(()).unwrap_or_default(),
        }
    }

    fn say(&mut self, states: &[NotifyState<'_>], descriptor: Option<&OwnedFd>) {
        let said = match descriptor {
            Some(descriptor) => sd_notify::notify_with_fds(states, &[descriptor.as_fd()]),
            None => sd_notify::notify(states),
        };
        match said {
            Ok(()) => self.failing = false,
            // Once, not for every call.
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!(%error, "the service manager cannot be told how the daemon is");
            }
            Err(_) => {}
        }
    }
}
