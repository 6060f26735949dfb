//! One connection to an engine's socket. Enters: requests from the queue, bytes from the socket. Leaves: frames, events
//! for calls. Ends when either side fails or the engine stops answering.

use std::time::Duration;

use callbox_wire::frame::{self, Decoder, FrameError};
use callbox_wire::{Event, Request, RoleInfo, TurnId, VERSION};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Beginning;
use super::adapters::Adapters;
use super::pulse::Pulse;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("its socket closed")]
    Closed,
    #[error("its socket failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("it sent {0}")]
    Frame(#[from] FrameError),
    #[error("it speaks protocol version {0}, not {VERSION}: install daemon and engine of one release")]
    Version(u16),
    #[error("it did not answer for {0:?}")]
    Silent(Duration),
    #[error("it said something before it was ready")]
    Early,
}

pub(super) struct Link {
    read: Reader,
    write: OwnedWriteHalf,
}

struct Reader {
    stream: OwnedReadHalf,
    decoder: Decoder,
}

impl Link {
    /// Connects and waits for the engine's [`Event::Ready`].
    pub(super) async fn greet(stream: UnixStream, limit: Duration) -> Result<(Self, Vec<RoleInfo>), LinkError> {
        let (read, write) = stream.into_split();
        let mut link = Self { read: Reader { stream: read, decoder: Decoder::default() }, write };
        link.write(&Request::Hello { version: VERSION }).await?;
        match timeout(limit, link.read.next()).await {
            Err(_) => Err(LinkError::Silent(limit)),
            Ok(Err(error)) => Err(error),
            Ok(Ok(Event::Ready { version: VERSION, roles })) => Ok((link, roles)),
            Ok(Ok(Event::Ready { version, .. })) => Err(LinkError::Version(version)),
            Ok(Ok(_)) => Err(LinkError::Early),
        }
    }

    /// Has adapters loaded, before anything needs them. One that cannot be is logged: its agents' turns fail, and no other's.
    pub(super) async fn adapt(&mut self, adapters: &Adapters, limit: Duration) -> Result<(), LinkError> {
        adapters.are(Vec::new());
        for files in adapters.wanted() {
            self.write(&files.request(TurnId(0))).await?;
            match timeout(limit, self.read.next()).await {
                Err(_) => return Err(LinkError::Silent(limit)),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(Event::Adapters { adapters: loaded, .. })) => adapters.are(loaded),
                Ok(Ok(Event::Failed { reason, .. })) => tracing::error!(adapter = files.name, "{reason}"),
                Ok(Ok(_)) => return Err(LinkError::Early),
            }
        }
        Ok(())
    }

    /// Has the beginnings of conversations computed.
    pub(super) async fn prime(&mut self, prime: &[Beginning]) -> Result<(), LinkError> {
        for beginning in prime {
            self.write(&beginning.clone().request()).await?;
        }
        Ok(())
    }

    /// Carries requests and events until something fails. At each beat of `pulse` it is asked whether it lives;
    /// `patience`: how much of its own time an answer may take.
    pub(super) async fn carry(
        self,
        requests: &mut mpsc::Receiver<Request>,
        heard: impl Fn(Event),
        mut pulse: Pulse,
        patience: Duration,
    ) -> LinkError {
        let Self { mut read, mut write } = self;
        let (pongs, mut answered) = watch::channel(0);
        let reading = async {
            loop {
                match read.next().await {
                    Ok(Event::Pong { nonce }) => {
                        pongs.send_replace(nonce);
                    }
                    Ok(event) => heard(event),
                    Err(error) => return error,
                }
            }
        };
        let writing = async {
            let mut beat = interval(pulse.interval());
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let (mut nonce, mut silent) = (0_u64, None::<Duration>);
            let mut bytes = Vec::new();
            loop {
                bytes.clear();
                tokio::select! {
                    request = requests.recv() => match request {
                        None => return LinkError::Closed,
                        Some(request) => {
                            encode(&request, &mut bytes);
                            while bytes.len() < 64 << 10 && let Ok(request) = requests.try_recv() {
                                encode(&request, &mut bytes);
                            }
                        }
                    },
                    Ok(()) = answered.changed() => {
                        if *answered.borrow_and_update() == nonce {
                            silent = None;
                        }
                    }
                    now = beat.tick() => {
                        let passed = pulse.beat(now);
                        if let Some(silent) = &mut silent {
                            *silent += passed;
                            if *silent >= patience {
                                return LinkError::Silent(patience);
                            }
                        } else {
                            nonce += 1;
                            silent = Some(Duration::ZERO);
                            encode(&Request::Ping { nonce }, &mut bytes);
                        }
                    }
                }
                // An engine that hangs does not read either.
                let writing = write.write_all(&bytes);
                tokio::pin!(writing);
                let mut unread = Duration::ZERO;
                loop {
                    tokio::select! {
                        biased;
                        written = &mut writing => match written {
                            Ok(()) => break,
                            Err(error) => return error.into(),
                        },
                        now = beat.tick() => {
                            let passed = pulse.beat(now);
                            unread += passed;
                            silent = silent.map(|silent| silent + passed);
                            if unread >= patience {
                                return LinkError::Silent(patience);
                            }
                        }
                    }
                }
            }
        };
        tokio::select! {
            error = reading => error,
            error = writing => error,
        }
    }

    async fn write(&mut self, request: &Request) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        frame::encode(request, &mut bytes)?;
        Ok(self.write.write_all(&bytes).await?)
    }
}

fn encode(request: &Request, bytes: &mut Vec<u8>) {
    if let Err(error) = frame::encode(request, bytes) {
        tracing::error!(%error, "a request was too long to send");
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Event, LinkError> {
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(event) = self.decoder.pop()? {
                return Ok(event);
            }
            match self.stream.read(&mut buffer).await? {
                0 => return Err(LinkError::Closed),
                len => self.decoder.push(&buffer[..len]),
            }
        }
    }
}
