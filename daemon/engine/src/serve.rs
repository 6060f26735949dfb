//! The socket: frames in, requests to roles, events out.
//!
//! Enters: connections on a Unix socket. Leaves: for each, a `Ready`, then the events of the calls that it names. Never
//! here: a model, a decision. A call belongs to the connection that spoke of it last; a connection that ends takes its
//! calls with it, and one that does not read is cut off rather than waited for.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use callbox_wire::frame::{self, Decoder};
use callbox_wire::{CallId, Event, Request, Role, VERSION};

use crate::role::{Outlet, SharedOutlet, Worker};

/// Events that wait for a daemon that is slow to read: some seconds of audio of many calls.
const QUEUE: usize = 16_384;

/// The roles of this engine. `None`: not offered.
#[derive(Default)]
pub struct Roles {
    /// Voice activity and speech to text.
    pub ears: Option<Box<dyn Worker>>,
    /// The language model.
    pub mind: Option<Box<dyn Worker>>,
    /// Text to speech.
    pub voice: Option<Box<dyn Worker>>,
    /// What sentences mean.
    pub embed: Option<Box<dyn Worker>>,
}

impl Roles {
    fn all(&self) -> impl Iterator<Item = &dyn Worker> {
        [&self.ears, &self.mind, &self.voice, &self.embed].into_iter().flatten().map(AsRef::as_ref)
    }

    fn of(&self, role: Role) -> Option<&dyn Worker> {
        match role {
            Role::Ears => self.ears.as_deref(),
            Role::Mind => self.mind.as_deref(),
            Role::Voice => self.voice.as_deref(),
            Role::Embed => self.embed.as_deref(),
        }
    }
}

/// Which connection hears of which call.
#[derive(Default)]
pub struct Switchboard {
    owners: Mutex<HashMap<CallId, Line>>,
    connections: AtomicU64,
    open: AtomicUsize,
}

#[derive(Clone)]
struct Line {
    connection: u64,
    events: mpsc::SyncSender<Event>,
    stream: Arc<UnixStream>,
}

impl Line {
    fn send(&self, event: Event) {
        if let Err(mpsc::TrySendError::Full(_)) = self.events.try_send(event) {
            tracing::error!(connection = self.connection, "the daemon does not read; its connection is closed");
            hang_up(&self.stream);
        }
    }
}

impl Switchboard {
    /// Whether a daemon is connected.
    pub fn is_wanted(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CallId, Line>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet for Switchboard {
    fn send(&self, event: Event) {
        let line = event.call().and_then(|call| self.lock().get(&call).cloned());
        if let Some(line) = line {
            line.send(event);
        }
    }
}

/// Accepts connections until the listener fails.
///
/// # Errors
/// If the listener can no longer accept.
pub fn serve(listener: &UnixListener, roles: Roles, switchboard: &Arc<Switchboard>) -> io::Result<()> {
    let roles = Arc::new(roles);
    loop {
        let (stream, _) = listener.accept()?;
        let (roles, switchboard) = (Arc::clone(&roles), Arc::clone(switchboard));
        let connection = switchboard.connections.fetch_add(1, Ordering::Relaxed);
        switchboard.open.fetch_add(1, Ordering::Relaxed);
        thread::Builder::new().name(format!("serve-{connection}")).spawn(move || {
            let ended = converse(connection, stream, &roles, &switchboard);
            let calls: Vec<CallId> = {
                let mut owners = switchboard.lock();
                let calls = owners.iter().filter(|(_, line)| line.connection == connection).map(|(call, _)| *call);
                let calls = calls.collect();
                owners.retain(|_, line| line.connection != connection);
                calls
            };
            for &call in &calls {
                forget(&roles, call);
            }
            switchboard.open.fetch_sub(1, Ordering::Relaxed);
            match ended {
                Ok(()) => tracing::info!(connection, calls = calls.len(), "a daemon left"),
                Err(error) => tracing::warn!(connection, calls = calls.len(), %error, "a daemon was cut off"),
            }
        })?;
    }
}

fn converse(connection: u64, stream: UnixStream, roles: &Roles, switchboard: &Switchboard) -> io::Result<()> {
    let stream = Arc::new(stream);
    let (events, queue) = mpsc::sync_channel(QUEUE);
    let line = Line { connection, events, stream: Arc::clone(&stream) };
    let writer_stream = Arc::clone(&stream);
    thread::Builder::new().name(format!("write-{connection}")).spawn(move || write_events(&writer_stream, &queue))?;
    line.send(Event::Ready { version: VERSION, roles: roles.all().map(|worker| worker.info().clone()).collect() });

    let read = read_requests(&stream, |request| dispatch(request, &line, roles, switchboard));
    hang_up(&stream);
    read
}

fn read_requests(mut stream: &UnixStream, mut each: impl FnMut(Request) -> io::Result<()>) -> io::Result<()> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        decoder.push(&buffer[..len]);
        while let Some(request) = decoder.pop::<Request>().map_err(io::Error::other)? {
            each(request)?;
        }
    }
}

fn write_events(mut stream: &UnixStream, queue: &mpsc::Receiver<Event>) {
    let mut bytes = Vec::with_capacity(64 << 10);
    while let Ok(first) = queue.recv() {
        bytes.clear();
        for event in std::iter::once(first).chain(queue.try_iter().take(256)) {
            if let Err(error) = frame::encode(&event, &mut bytes) {
                tracing::error!(%error, "an event was too long to send");
            }
        }
        if stream.write_all(&bytes).is_err() {
            hang_up(stream);
            return;
        }
    }
}

fn dispatch(request: Request, line: &Line, roles: &Roles, switchboard: &Switchboard) -> io::Result<()> {
    if let Some(call) = request.call() {
        switchboard.lock().entry(call).and_modify(|owner| *owner = line.clone()).or_insert_with(|| line.clone());
    }
    if let Some(role) = request.role() {
        match roles.of(role) {
            Some(worker) => worker.submit(request),
            None => tracing::warn!(?role, "a request for a role that this engine does not have"),
        }
        return Ok(());
    }
    match request {
        Request::Hello { version } if version != VERSION => {
            return Err(io::Error::other(format!("the daemon speaks protocol version {version}, not {VERSION}")));
        }
        Request::Ping { nonce } => pong(nonce, line, roles),
        Request::Cancel { .. } => roles.all().for_each(|worker| worker.submit(request.clone())),
        Request::Forget { call } => {
            forget(roles, call);
            switchboard.lock().remove(&call);
        }
        _ => {}
    }
    Ok(())
}

fn forget(roles: &Roles, call: CallId) {
    for worker in roles.all() {
        worker.submit(Request::Forget { call });
    }
}

/// Answers once every role has gone round its loop; a role that hangs keeps the pong, and the daemon notices.
fn pong(nonce: u64, line: &Line, roles: &Roles) {
    let waiting = Arc::new(AtomicUsize::new(roles.all().count()));
    if waiting.load(Ordering::Relaxed) == 0 {
        line.send(Event::Pong { nonce });
    }
    for worker in roles.all() {
        let (waiting, line) = (Arc::clone(&waiting), line.clone());
        worker.beat(Box::new(move || {
            if waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
                line.send(Event::Pong { nonce });
            }
        }));
    }
}

fn hang_up(stream: &UnixStream) {
    if let Err(error) = stream.shutdown(Shutdown::Both) {
        tracing::debug!(%error, "the connection had ended already");
    }
}

/// The switchboard as roles see it.
pub fn outlet(switchboard: &Arc<Switchboard>) -> SharedOutlet {
    Arc::clone(switchboard) as SharedOutlet
}
