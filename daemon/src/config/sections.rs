//! The sections of the file: types that cannot hold a value that makes no sense.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::base::Role;
use crate::base::trunk::Network;
use crate::models::{Own, Use};

const fn nonzero(value: u32) -> NonZeroU32 {
    match NonZeroU32::new(value) {
        Some(value) => value,
        None => NonZeroU32::MIN,
    }
}

/// Addresses that no packet of the public network has (RFC 1918, RFC 3927, RFC 4193, RFC 4291).
fn private_networks() -> Vec<Network> {
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"]
        .iter()
        .filter_map(|network| network.parse().ok())
        .collect()
}

/// Signalling.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sip {
    /// UDP addresses to listen on.
    pub udp: Vec<SocketAddr>,
    /// TCP addresses to listen on.
    pub tcp: Vec<SocketAddr>,
    /// TLS addresses to listen on; they need `certificate` and `key`.
    pub tls: Vec<SocketAddr>,
    /// Our certificate, with those that lead to its authority behind it, PEM. Shown to servers that ask for one, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Authorities of those who call over TLS; absent, nobody is asked for a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Whether who calls over TLS must have a certificate of `client_ca`.
    pub client_certificates: ClientCertificates,
    /// Authorities of the servers that are called over TLS, or their own certificates; absent, the system's authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The address that peers reach this machine at, for `Contact`, `Via` and SDP, where it differs from the one that
    /// the kernel would choose (NAT).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertised: Option<IpAddr>,
    /// Networks whose peers reach this machine directly and are told nothing of `advertised`, unless it lies in one of them.
    pub local_networks: Vec<Network>,
    /// Seconds after which a call is over if neither side says that it goes on, where the peer names no number
    /// (RFC 4028); 0 for never.
    pub session_expires_s: u32,
    /// The DNS server that is asked for trunks' hosts, where it is not that of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolver: Option<SocketAddr>,
    /// What is refused, and when.
    pub limits: SipLimits,
}

impl Default for Sip {
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5060));
        Self {
            udp: vec![any],
            tcp: vec![any],
            tls: Vec::new(),
            certificate: None,
            key: None,
            client_ca: None,
            client_certificates: ClientCertificates::default(),
            ca: None,
            advertised: None,
            local_networks: private_networks(),
            session_expires_s: 1800,
            resolver: None,
            limits: SipLimits::default(),
        }
    }
}

/// Whether who calls over TLS must have a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// Everybody.
    #[default]
    Required,
    /// Nobody; one that is shown must be good.
    Optional,
}

/// What is refused before it costs anything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SipLimits {
    /// Calls at once; one more is refused with 503.
    pub max_calls: NonZeroU32,
    /// INVITEs per second that one source address may send in the long run.
    pub invites_per_second: NonZeroU32,
    /// INVITEs that one source address may send at once.
    pub burst: NonZeroU32,
    /// Calls that were answered but whose ACK has not come; more are refused.
    pub unacked: NonZeroU32,
    /// Seconds in `Retry-After` of a 503.
    pub retry_after_s: NonZeroU32,
    /// Seconds that calls which are up go on when the daemon is drained or stopped; then their agents take leave.
    pub drain_s: u32,
}

impl Default for SipLimits {
    fn default() -> Self {
        Self {
            max_calls: nonzero(100),
            invites_per_second: nonzero(10),
            burst: nonzero(20),
            unacked: nonzero(50),
            retry_after_s: nonzero(10),
            drain_s: 60,
        }
    }
}

/// Audio on the network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// Address that RTP and RTCP sockets are bound to.
    pub bind: IpAddr,
    /// UDP ports for them, both ends included. A call takes an even port and the odd one after it (RFC 3550 §11).
    pub ports: PortRange,
    /// Seconds without RTP and RTCP after which a caller who is not on hold is gone: a call whose BYE was lost.
    pub silence_s: NonZeroU32,
    /// Looks for keys in the audio of callers whose trunk sends no telephone events. Speech is taken for a key now and
    /// then.
    pub dtmf_inband: bool,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::UNSPECIFIED.into(),
            ports: PortRange { first: 16_384, last: 32_767 },
            silence_s: nonzero(30),
            dtmf_inband: false,
        }
    }
}

/// UDP ports from `first` to `last`, both included; written `16384-32767`. Holds at least one even-odd pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many calls fit: pairs of an even port and the odd one after it.
    #[must_use]
    pub const fn pairs(self) -> u16 {
        let even = self.first.next_multiple_of(2);
        (self.last - even).div_ceil(2)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('-').and_then(|(first, last)| {
            Some((first.trim().parse::<NonZeroU16>().ok()?.get(), last.trim().parse::<NonZeroU16>().ok()?.get()))
        });
        match parsed {
            Some((first, last)) if first < last && last - first.next_multiple_of(2) >= 1 => Ok(Self { first, last }),
            _ => Err(format!("`{text}` is no range of ports: write the lowest and the highest, as in \"16384-32767\"")),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Serialize for PortRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Health, metrics and the control API.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// TCP address; with `certificate` and `key` it speaks TLS.
    pub listen: SocketAddr,
    /// Its certificate, with those that lead to its authority behind it, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Unix socket that the command line uses; mode 0660.
    pub socket: PathBuf,
    /// Whether numbers and words of callers are shown to tokens with scope viewer too. Others are always shown them.
    pub show_callers: bool,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8090)),
            certificate: None,
            key: None,
            socket: "/run/callbox/control.sock".into(),
            show_callers: false,
        }
    }
}

/// The inference worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// Executable; absent: see [`super::Config::engine_program`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
    /// Executable for NVIDIA's cards; absent: see [`super::Config::cuda_program`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_program: Option<PathBuf>,
    /// What answers.
    pub kind: EngineKind,
    /// The script of a scripted engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<PathBuf>,
    /// Beside engines on cards, one on the processor that takes calls over when no card can.
    pub standby: bool,
    /// The library of NVIDIA's driver that tells of its cards; a name without a folder is looked for where libraries are.
    pub nvml: PathBuf,
    /// Compute threads of an engine.
    pub threads: Threads,
    /// Folder of their sockets, such as `engine-cpu.sock`.
    pub run: PathBuf,
    /// Wait before the first restart; doubles with each further one.
    pub restart_ms: NonZeroU32,
    /// Longest wait before a restart.
    pub restart_max_ms: NonZeroU32,
    /// Time between two heartbeats.
    pub heartbeat_ms: NonZeroU32,
    /// An engine that has not answered a heartbeat for so long is killed and started again; time in which it waited for a
    /// processor does not count.
    pub heartbeat_timeout_ms: NonZeroU32,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            program: None,
            cuda_program: None,
            kind: EngineKind::Auto,
            script: None,
            standby: true,
            nvml: "libnvidia-ml.so.1".into(),
            threads: Threads::Auto,
            run: "/run/callbox".into(),
            restart_ms: nonzero(100),
            restart_max_ms: nonzero(10_000),
            heartbeat_ms: nonzero(1_000),
            heartbeat_timeout_ms: nonzero(10_000),
        }
    }
}

impl Engine {
    /// First and longest wait before a restart.
    #[must_use]
    pub fn restart(&self) -> (Duration, Duration) {
        (millis(self.restart_ms), millis(self.restart_max_ms))
    }

    /// Time between heartbeats, and how long one may stay unanswered.
    #[must_use]
    pub fn heartbeat(&self) -> (Duration, Duration) {
        (millis(self.heartbeat_ms), millis(self.heartbeat_timeout_ms))
    }
}

fn millis(value: NonZeroU32) -> Duration {
    Duration::from_millis(value.get().into())
}

/// What answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// Models, on NVIDIA's cards where they and the engine for them are there, else on the processor.
    Auto,
    /// Models, on the processor, whatever cards there are.
    Cpu,
    /// A script instead of models, for tests; needs `script`.
    Scripted,
}

/// How many compute threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Threads {
    /// The engine decides, from the cores that it may use.
    Auto,
    /// Exactly so many.
    Count(NonZeroU16),
}

impl Serialize for Threads {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(count) => serializer.serialize_u16(count.get()),
        }
    }
}

impl<'de> Deserialize<'de> for Threads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            Number(i64),
        }
        let complaint = || serde::de::Error::custom("threads must be \"auto\" or a number from 1 to 1024");
        match Written::deserialize(deserializer) {
            Ok(Written::Word(word)) if word == "auto" => Ok(Self::Auto),
            Ok(Written::Number(count @ 1..=1024)) => u16::try_from(count)
                .ok()
                .and_then(NonZeroU16::new)
                .map_or_else(|| Err(complaint()), |count| Ok(Self::Count(count))),
            _ => Err(complaint()),
        }
    }
}

/// Weights.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Models {
    /// Folder of the unpacked models.
    pub dir: PathBuf,
    /// Which set of models to load.
    pub pack: String,
    /// A model of the owner's that detects voice, by its name in `models.lock`, instead of the pack's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vad: Option<String>,
    /// One that hears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stt: Option<String>,
    /// One that thinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm: Option<String>,
    /// One that speaks; also a voice of the catalogue, or one of its speakers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voice: Option<String>,
    /// One that makes vectors of sentences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed: Option<String>,
    /// Folder for weights in the form that this machine computes fastest, and for what agents always say, rendered; may
    /// be emptied at any time.
    pub cache: PathBuf,
}

impl Models {
    /// The owner's models that take the place of the pack's.
    #[must_use]
    pub fn own(&self) -> Own {
        let named = [
            (Use::Vad, &self.vad),
            (Use::Stt, &self.stt),
            (Use::Llm, &self.llm),
            (Use::Voice, &self.voice),
            (Use::Embed, &self.embed),
        ];
        named.into_iter().filter_map(|(role, name)| Some((role, name.clone()?))).collect()
    }

    /// The pack as it is, nothing of the owner's in it.
    pub fn only(&mut self, pack: &str) {
        let (dir, cache) = (std::mem::take(&mut self.dir), std::mem::take(&mut self.cache));
        *self = Self { dir, cache, pack: pack.to_owned(), ..Self::default() };
    }
}

impl Default for Models {
    fn default() -> Self {
        Self {
            dir: "/var/lib/callbox/models".into(),
            pack: "starter".into(),
            vad: None,
            stt: None,
            llm: None,
            voice: None,
            embed: None,
            cache: "/var/cache/callbox".into(),
        }
    }
}

/// The database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// SQLite file; its folder must exist.
    pub path: PathBuf,
    /// Folder of its backups.
    pub backups: PathBuf,
    /// Backups that are kept: the newest.
    pub keep_backups: NonZeroU16,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            path: "/var/lib/callbox/callbox.db".into(),
            backups: "/var/lib/callbox/backups".into(),
            keep_backups: NonZeroU16::new(14).unwrap_or(NonZeroU16::MIN),
        }
    }
}

/// Log lines.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least important lines that are written.
    pub level: LogLevel,
    /// Their form.
    pub format: LogFormat,
    /// Whether numbers and words of callers may be written. Off, they read `[redacted]`.
    pub allow_pii: bool,
}

/// How important a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is wrong, but was handled.
    Warn,
    /// What an operator wants to see of a healthy day.
    #[default]
    Info,
    /// What a developer wants to see.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As it is written in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// The journal when systemd connected standard output to it, text on a terminal, else JSON.
    #[default]
    Auto,
    /// One JSON object per line on standard output.
    Json,
    /// Straight to journald, fields and all.
    Journald,
    /// For people, on standard output.
    Text,
}

/// One of NVIDIA's cards that an engine is to compute on. Without any in the configuration, every card gets one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Which.
    pub device: CardName,
    /// What is computed on it.
    #[serde(default = "every_role")]
    pub roles: Vec<Role>,
}

fn every_role() -> Vec<Role> {
    Role::ALL.to_vec()
}

/// How a configuration names a card.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CardName {
    /// Its name for ever, `GPU-…`, or that of a slice of it, `MIG-…`.
    Uuid(String),
    /// Where it sits, as in `lspci`.
    Pci(String),
    /// Its place in the driver's list.
    Index(u32),
}

impl fmt::Display for CardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => f.write_str(uuid),
            Self::Pci(pci) => write!(f, "pci:{pci}"),
            Self::Index(index) => write!(f, "{index}"),
        }
    }
}

impl Serialize for CardName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Index(index) => serializer.serialize_u32(*index),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for CardName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Name(String),
            Number(i64),
        }
        let complaint = || {
            serde::de::Error::custom(
                "device must be a name from `nvidia-smi -L` (\"GPU-…\" or \"MIG-…\"), a place such as \
                 \"pci:0000:41:00.0\", or the card's number",
            )
        };
        match Written::deserialize(deserializer) {
            Ok(Written::Name(name)) if name.starts_with("GPU-") || name.starts_with("MIG-") => Ok(Self::Uuid(name)),
            Ok(Written::Name(name)) => name
                .strip_prefix("pci:")
                .filter(|place| place.contains(':'))
                .map_or_else(|| Err(complaint()), |place| Ok(Self::Pci(place.to_owned()))),
            Ok(Written::Number(number)) => u32::try_from(number).map(Self::Index).map_err(|_| complaint()),
            Err(_) => Err(complaint()),
        }
    }
}

/// Who answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agents {
    /// Folders of agent files (`*.toml`); of two agents with one name, the one in the earlier folder counts.
    pub paths: Vec<PathBuf>,
}

impl Default for Agents {
    fn default() -> Self {
        Self { paths: vec!["agents".into(), "/usr/lib/callbox/agents".into()] }
    }
}
