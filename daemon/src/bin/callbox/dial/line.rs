//! The caller's own telephone: signalling and media of the calls of one command.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use callbox::base::Advertised;
use callbox::call::stream::{MediaPolicy, Stream, StreamNames, address_towards};
use callbox::media::{Direction, Event, Keys, Media, MediaConfig, MediaSession, MediaThread, PlayFrame, Tap};
use callbox::sip::sdp::{AudioCodec, Encryption};
use callbox::sip::{CallEvent, DialRequest, EndReason, Endpoint, EndpointConfig, Tls, TlsFiles, Transport};
use callbox_wire::{ClauseId, TurnId};
use rand::SeedableRng as _;
use rand::rngs::SysRng;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;
use tokio::time::timeout;

use super::LONGEST_CALL;
use super::caller::{Caller, FRAME, Manners, Step};
use super::questions::Question;
use super::watch::Watch;

/// Codec on the command line.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
pub(crate) enum CodecArg {
    /// µ-law.
    #[default]
    Pcmu,
    /// A-law.
    Pcma,
    /// Wideband, 64 kbit/s.
    G722,
    /// Wideband, 32 kbit/s, mends losses.
    Opus,
}

/// Encryption on the command line.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
pub(crate) enum EncryptionArg {
    /// Plain RTP.
    #[default]
    Off,
    /// If the box does.
    Optional,
    /// Or no call.
    Required,
}

/// Transport on the command line.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
pub(crate) enum TransportArg {
    /// Datagrams.
    #[default]
    Udp,
    /// A stream.
    Tcp,
    /// An encrypted stream; the box must have a certificate that this machine trusts.
    Tls,
}

/// Without a packet for this long the box is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// Ports of the caller's media, away from those that a box on the same machine uses.
const PORTS: std::ops::RangeInclusive<u16> = 40_000..=49_999;

/// Sockets and threads of all calls.
pub(crate) struct Line {
    /// Our address towards the box.
    address: IpAddr,
    endpoint: Endpoint,
    media: Media,
    policy: MediaPolicy,
    transport: Transport,
    /// As whom calls are placed.
    from: &'static str,
    random: Mutex<ChaCha20Rng>,
}

/// One call as the caller had it: both directions on one time line, and what happened when.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) sent: Vec<i16>,
    pub(crate) received: Vec<i16>,
    /// For each question that was asked: the sample at which it began.
    pub(crate) asked_at: Vec<usize>,
    /// Why the call ended before all was asked.
    pub(crate) cut_off: Option<String>,
}

impl Line {
    /// Binds what calls to that address need, on the interface that leads there. `ca`: who is believed over TLS, instead of
    /// the system's authorities. `from`: the user as whom calls are placed.
    pub(crate) async fn open(
        to: &str,
        codec: CodecArg,
        encryption: EncryptionArg,
        transport: TransportArg,
        calls: usize,
        ca: Option<&Path>,
        from: &'static str,
    ) -> Result<Self> {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let address = address_towards(host_of(to).await?, any, &Advertised::default())
            .context("this machine has no address from which the host could be reached")?;
        let mut generator = ChaCha20Rng::try_from_rng(&mut SysRng)?;
        let mut names = ChaCha20Rng::from_rng(&mut generator);
        let mut config = EndpointConfig::new(Box::new(move || names.next_u64()));
        config.udp = vec![SocketAddr::new(address, 0)];
        config.tcp = vec![SocketAddr::new(address, 0)];
        config.certificates = Some(Tls::load(&TlsFiles { ca: ca.map(Path::to_owned), ..TlsFiles::default() })?);
        config.user_agent = concat!("callbox-dial/", env!("CARGO_PKG_VERSION")).to_owned();
        let (endpoint, _incoming) = Endpoint::bind(config).await?;
        let media = MediaThread::start(MediaConfig { bind: address, ports: PORTS, max_sessions: calls.max(1) })?;
        let codec = match codec {
            CodecArg::Pcmu => AudioCodec::Pcmu,
            CodecArg::Pcma => AudioCodec::Pcma,
            CodecArg::G722 => AudioCodec::G722,
            CodecArg::Opus => AudioCodec::Opus,
        };
        let encryption = match encryption {
            EncryptionArg::Off => Encryption::Off,
            EncryptionArg::Optional => Encryption::Optional,
            EncryptionArg::Required => Encryption::Required,
        };
        let policy = MediaPolicy { codecs: Some(vec![codec]), encryption, ..MediaPolicy::default() };
        let transport = match transport {
            TransportArg::Udp => Transport::Udp,
            TransportArg::Tcp => Transport::Tcp,
            TransportArg::Tls => Transport::Tls,
        };
        Ok(Self { address, endpoint, media, policy, transport, from, random: Mutex::new(generator) })
    }

    /// One call with all questions.
    pub(crate) async fn call(
        &self,
        to: &str,
        questions: &[Question],
        manners: Manners,
        keys: Option<Keys>,
        watch: Option<Watch>,
    ) -> Result<Heard> {
        let reservation = self.media.reserve()?;
        let names = {
            let mut random = self.random.lock().map_err(|_| anyhow!("another call failed"))?;
            StreamNames::draw(|| random.next_u64())
        };
        let mut stream = Stream::new((self.address, reservation.port()).into(), names, SILENCE, &self.policy);
        let request = DialRequest {
            to: to.to_owned().into(),
            from_user: self.from.into(),
            transport: Some(self.transport),
            sdp: stream.offer(),
            ..DialRequest::default()
        };
        let outgoing = self.endpoint.dial(request).await?;
        let answered = timeout(Duration::from_secs(60), outgoing.answered()).await;
        let (mut call, answer) = match answered {
            Err(_) => bail!("nobody answered within a minute"),
            Ok(Err(EndReason::Rejected { status, reason })) => bail!("the call was refused: {status} {reason}"),
            Ok(Err(reason)) => bail!("the call was not answered: {reason:?}"),
            Ok(Ok(answered)) => answered,
        };
        let agreed = stream.answered(&answer.context("the call was answered without a session description")?)?;
        let mut session = self.media.open(reservation, agreed.session)?;
        let mut tap = session.tap(4000)?;
        let caller = Caller::new(questions.iter().map(|question| question.samples.clone()).collect(), manners);
        let mut heard = Heard::default();
        let held = timeout(LONGEST_CALL, async {
            tokio::select! {
                asked = converse(&mut session, &mut tap, caller, &mut heard, (keys, watch)) => asked.map(|()| None),
                reason = ended(&mut call) => Ok(Some(reason)),
            }
        })
        .await;
        drain(&mut tap, &mut heard);
        heard.cut_off = match held {
            Err(_) => Some("the call was longer than 15 minutes".into()),
            Ok(outcome) => outcome?.map(|reason| format!("{reason:?}")),
        };
        call.hangup().await;
        Ok(heard)
    }

    /// Waits until the last BYE was answered.
    pub(crate) async fn close(&self) {
        let settled = async {
            while self.endpoint.stats().dialogs > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // A box that does not answer the BYE is not waited for.
        drop(timeout(Duration::from_secs(2), settled).await);
        self.endpoint.shutdown(Duration::from_secs(1)).await;
    }
}

async fn ended(call: &mut callbox::sip::Call) -> EndReason {
    loop {
        if let CallEvent::Ended(reason) = call.event().await {
            return reason;
        }
    }
}

async fn converse(
    session: &mut MediaSession,
    tap: &mut Tap,
    mut caller: Caller,
    heard: &mut Heard,
    (mut keys, watch): (Option<Keys>, Option<Watch>),
) -> Result<()> {
    let mut pressing = false;
    loop {
        session.readable().await;
        pressing &= !session.events().any(|event| event == Event::Pressed);
        while let Some(frame) = session.recv() {
            // Who presses keys neither speaks nor listens.
            if pressing {
                continue;
            }
            let samples = match caller.tick(&frame.samples) {
                Step::Say(samples) => samples,
                Step::Heard { answered, .. } => {
                    if let Some(keys) = keys.take() {
                        session.press(keys).map_err(|_| anyhow!("the caller's own media does not keep up"))?;
                        pressing = true;
                    }
                    if let Some(watch) = &watch {
                        watch.heard(answered);
                    }
                    [0; FRAME]
                }
                Step::Done => return Ok(()),
            };
            if caller.asked() > heard.asked_at.len() {
                heard.asked_at.push(heard.sent.len());
            }
            let frame = PlayFrame { turn: TurnId(0), clause: ClauseId(0), samples };
            session.push(frame).map_err(|_| anyhow!("the caller's own media does not keep up"))?;
        }
        drain(tap, heard);
    }
}

/// Puts what passed the telephone on the time line.
fn drain(tap: &mut Tap, heard: &mut Heard) {
    while let Some(frame) = tap.recv() {
        let Ok(index) = usize::try_from(frame.index) else { continue };
        let stream = match frame.direction {
            Direction::Sent => &mut heard.sent,
            Direction::Received => &mut heard.received,
        };
        let start = index * FRAME;
        if stream.len() < start + FRAME {
            stream.resize(start + FRAME, 0);
        }
        stream[start..start + FRAME].copy_from_slice(&frame.samples);
    }
}

async fn host_of(uri: &str) -> Result<SocketAddr> {
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = host.split([';', '?']).next().unwrap_or(host);
    let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        host.to_owned()
    } else {
        format!("{host}:5060")
    };
    let mut found = tokio::net::lookup_host(&with_port).await.with_context(|| format!("{host} has no address"))?;
    found.next().with_context(|| format!("{host} has no address"))
}
