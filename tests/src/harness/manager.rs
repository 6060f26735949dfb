//! A service manager for one daemon: what systemd does with `NOTIFY_SOCKET`, `LISTEN_FDS` and the descriptor store.
//! Enters: datagrams with descriptors; leaves: the environment and the descriptors of the next daemon. SIP sockets are
//! opened here and never closed, as `callbox.socket` does.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// The manager; its thread ends with it.
pub struct Manager {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    store: Vec<(String, OwnedFd)>,
    said: Vec<String>,
}

impl Manager {
    /// Opens the SIP sockets, and listens in a folder.
    ///
    /// # Errors
    /// If a socket cannot be had.
    pub fn start(dir: &Path, sip: SocketAddr) -> anyhow::Result<Self> {
        let socket = dir.join("notify.sock");
        let listener = UnixDatagram::bind(&socket)?;
        listener.set_read_timeout(Some(Duration::from_millis(200)))?;
        let sockets = [UdpSocket::bind(sip)?.into(), TcpListener::bind(sip)?.into()];
        let store = sockets.map(|socket| ("sip".to_owned(), socket)).into();
        let state = Arc::new(Mutex::new(State { store, said: Vec::new() }));
        let listening = Arc::downgrade(&state);
        std::thread::Builder::new().name("manager".into()).spawn(move || listen(&listener, &listening))?;
        Ok(Self { socket, state })
    }

    /// A command that runs `program` as a unit of this manager.
    ///
    /// # Errors
    /// If there are too many descriptors.
    pub fn command(&self, program: &Path) -> anyhow::Result<Command> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The process id is known only after the fork.
        let mut command = Command::new("sh");
        command.args(["-c", "export LISTEN_PID=$$; exec \"$0\" \"$@\""]).arg(program);
        let names: Vec<_> = state.store.iter().map(|(name, _)| name.as_str()).collect();
        command.env("NOTIFY_SOCKET", &self.socket).env("LISTEN_FDS", names.len().to_string());
        command.env("LISTEN_FDNAMES", names.join(":")).env("WATCHDOG_USEC", "2000000");
        let mut mappings = Vec::new();
        for (child_fd, (_, descriptor)) in (3..).zip(&state.store) {
            mappings.push(FdMapping { parent_fd: descriptor.try_clone()?, child_fd });
        }
        command.fd_mappings(mappings)?;
        Ok(command)
    }

    /// Names of what is stored, the SIP sockets not counted.
    pub fn stored(&self) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.store.iter().map(|(name, _)| name.clone()).filter(|name| name != "sip").collect()
    }

    /// Another descriptor of what is stored under a name.
    pub fn descriptor(&self, name: &str) -> Option<OwnedFd> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.store.iter().find(|(stored, _)| stored == name)?.1.try_clone().ok()
    }

    /// All lines that daemons have sent.
    pub fn said(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).said.clone()
    }
}

fn listen(socket: &UnixDatagram, state: &Weak<Mutex<State>>) {
    while let Some(state) = state.upgrade() {
        let (mut text, mut space) = ([0; 4096], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))]);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut text)];
        let Ok(received) = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) else { continue };
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
        let text = String::from_utf8_lossy(&text[..received.bytes]).into_owned();
        state.lock().unwrap_or_else(PoisonError::into_inner).take(&text, descriptors);
    }
}

impl State {
    fn take(&mut self, text: &str, descriptors: Vec<OwnedFd>) {
        let lines: Vec<_> = text.lines().collect();
        let name = lines.iter().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored").to_owned();
        // A descriptor that is polled may be dropped by the real one at any time: it does not count.
        if lines.contains(&"FDSTORE=1") && lines.contains(&"FDPOLL=0") {
            self.store.extend(descriptors.into_iter().map(|descriptor| (name.clone(), descriptor)));
        } else if lines.contains(&"FDSTOREREMOVE=1") {
            self.store.retain(|(stored, _)| *stored != name);
        }
        self.said.extend(lines.into_iter().map(str::to_owned));
    }
}
