//! A trunk: who calls through it, how we reach it, what it may do. Enters: one `[[trunk]]` of the configuration; leaves:
//! plain data for the rooms that need it. Types that cannot hold a value that makes no sense; no default of a key is
//! written anywhere else.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Pii, Secret};

/// Somebody whom calls come from and go to: a carrier, a provider with registration, a PBX.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trunk {
    /// Its label in log lines, metrics, health and records.
    pub name: TrunkName,
    /// Addresses that may call in; [`Trunk::hosts`] may as well.
    #[serde(default)]
    pub peers: Vec<Network>,
    /// Where calls out and registrations go, most wanted first.
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// How, where a host does not say.
    #[serde(default)]
    pub transport: Protocol,
    /// SRTP with keys in the SDP (RFC 4568).
    #[serde(default)]
    pub encryption: Encryption,
    /// What we offer and accept, in our order; never empty.
    #[serde(default = "all_codecs", deserialize_with = "some_codecs")]
    pub codecs: Vec<Codec>,
    /// Our name there: the user part of our addresses, and for digest authentication, theirs and ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The name that the password belongs to, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_username: Option<String>,
    /// The name of the systemd credential that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialName>,
    /// A file with the password, which nobody but its owner may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// What one of the two holds; nobody has read it before the daemon has.
    #[serde(skip)]
    pub password: Option<Secret>,
    /// Whether callers must show that they know the password.
    #[serde(default)]
    pub challenge: bool,
    /// How they may hash it, the most wanted first; never empty.
    #[serde(default = "old_digest", deserialize_with = "some_digests")]
    pub digest: Vec<Digest>,
    /// Whether the caller's number is what P-Asserted-Identity says (RFC 3325), which the network beyond the trunk vouches for.
    #[serde(default)]
    pub trust_identity: bool,
    /// Whether we register with its hosts.
    #[serde(default)]
    pub register: bool,
    /// Seconds that we ask a registration to last.
    #[serde(default = "register_s")]
    pub register_s: NonZeroU32,
    /// Seconds between two OPTIONS to each host; 0 for none.
    #[serde(default = "keepalive_s")]
    pub keepalive_s: u32,
    /// Our number in calls out: From and P-Asserted-Identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_id: Option<CallerId>,
    /// Whether a call that is handed over shows the number of who has called us; ours is then in P-Asserted-Identity and
    /// Diversion (RFC 5806).
    #[serde(default)]
    pub pass_caller_id: bool,
    /// Calls at once, in and out.
    #[serde(default = "max_calls")]
    pub max_calls: NonZeroU32,
    /// New calls per second, all its addresses together, in the long run.
    #[serde(default = "invites_per_second")]
    pub invites_per_second: NonZeroU32,
    /// Who answers a called number, before the agents' own numbers are asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub agents: BTreeMap<String, String>,
}

const fn nonzero(value: u32) -> NonZeroU32 {
    match NonZeroU32::new(value) {
        Some(value) => value,
        None => NonZeroU32::MIN,
    }
}

fn register_s() -> NonZeroU32 {
    nonzero(600)
}

fn keepalive_s() -> u32 {
    30
}

fn max_calls() -> NonZeroU32 {
    nonzero(30)
}

fn invites_per_second() -> NonZeroU32 {
    nonzero(10)
}

fn all_codecs() -> Vec<Codec> {
    Codec::ALL.to_vec()
}

/// There are telephones that hang up when they see another name beside MD5.
fn old_digest() -> Vec<Digest> {
    vec![Digest::Md5]
}

fn some_codecs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Codec>, D::Error> {
    once_each(deserializer, "name at least one codec, each of them once")
}

fn some_digests<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Digest>, D::Error> {
    once_each(deserializer, "name \"sha-256\", \"md5\" or both")
}

fn once_each<'de, T: Deserialize<'de> + PartialEq, D: Deserializer<'de>>(
    deserializer: D,
    otherwise: &str,
) -> Result<Vec<T>, D::Error> {
    let named = Vec::<T>::deserialize(deserializer)?;
    let twice = named.iter().enumerate().any(|(at, one)| named.iter().skip(at + 1).any(|other| other == one));
    if named.is_empty() || twice { Err(serde::de::Error::custom(otherwise)) } else { Ok(named) }
}

impl Trunk {
    /// One with a name, and all else as it is if nothing is said.
    #[must_use]
    pub fn new(name: TrunkName) -> Self {
        Self {
            name,
            peers: Vec::new(),
            hosts: Vec::new(),
            transport: Protocol::default(),
            encryption: Encryption::default(),
            codecs: all_codecs(),
            username: None,
            auth_username: None,
            credential: None,
            password_file: None,
            password: None,
            challenge: false,
            digest: old_digest(),
            trust_identity: false,
            register: false,
            register_s: register_s(),
            keepalive_s: keepalive_s(),
            caller_id: None,
            pass_caller_id: false,
            max_calls: max_calls(),
            invites_per_second: invites_per_second(),
            agents: BTreeMap::new(),
        }
    }

    /// Username and password, if it has both.
    #[must_use]
    pub fn login(&self) -> Option<(&str, &Secret)> {
        Some((self.auth_username.as_deref().or(self.username.as_deref())?, self.password.as_ref()?))
    }

    /// The domain of our addresses there: `sip:USER@DOMAIN`. Empty if it has no host.
    #[must_use]
    pub fn domain(&self) -> String {
        self.hosts.first().map(|host| Host { port: None, ..host.clone() }.host_port()).unwrap_or_default()
    }

    /// What is wrong with it, if its keys contradict each other: the key to change, and why.
    #[must_use]
    pub fn contradiction(&self) -> Option<(&'static str, &'static str)> {
        let password = self.credential.is_some() || self.password_file.is_some();
        let is_user = |name: &String| name.parse::<CallerId>().is_ok();
        let is_quotable = |name: &String| !name.chars().any(|c| c.is_control() || matches!(c, '"' | '\\'));
        let wrong = [
            (self.peers.is_empty() && self.hosts.is_empty(), "peers", "nobody: name addresses in `peers`, or `hosts`"),
            (
                self.credential.is_some() && self.password_file.is_some(),
                "password_file",
                "there is a `credential` too: one of them holds the password, remove the other",
            ),
            (
                !self.username.as_ref().is_none_or(is_user),
                "username",
                "this cannot stand before the @ of a SIP address: set `username` to what does, and `auth_username` to the name that the password belongs to",
            ),
            (
                !self.auth_username.as_ref().is_none_or(is_quotable),
                "auth_username",
                "there is a quotation mark or a line end: write the name alone",
            ),
            (
                password && self.username.is_none(),
                "username",
                "there is a password and nobody it belongs to: set `username`",
            ),
            (
                self.challenge && !(password && self.username.is_some()),
                "challenge",
                "callers cannot be asked for a password that is not there: set `username`, and `credential` or `password_file`",
            ),
            (self.register && self.hosts.is_empty(), "register", "there is nobody to register with: name `hosts`"),
            (self.register && self.username.is_none(), "register", "a registration needs a name: set `username`"),
            (self.register && self.register_s.get() < 60, "register_s", "must be at least 60"),
        ];
        wrong.into_iter().find(|(wrong, ..)| *wrong).map(|(_, key, why)| (key, why))
    }
}

/// A label: letters, digits, `-`, `_` and `.`, at most 32 of them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TrunkName(Arc<str>);

impl TrunkName {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Letters, digits, `-`, `_` and `.`, at most `most` of them.
fn label(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

impl FromStr for TrunkName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if label(text, 32) {
            Ok(Self(text.into()))
        } else {
            Err(format!("`{text}` is no name: take 1 to 32 letters, digits, `-`, `_` or `.`, as in \"carrier\""))
        }
    }
}

/// The name of a systemd credential, which is a file name (systemd.exec(5)).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct CredentialName(String);

impl CredentialName {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CredentialName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if label(text, 200) && !text.starts_with('.') {
            Ok(Self(text.into()))
        } else {
            Err(format!("`{text}` is no name of a credential: take letters, digits, `-`, `_` and `.`, and no path"))
        }
    }
}

/// The number or name that calls out come from: the user part of a SIP URI.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct CallerId(String);

impl CallerId {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Pii::new(()), f)
    }
}

impl FromStr for CallerId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"+-_.*#!~".contains(&b);
        if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.into()))
        } else {
            Err("is no number or name: take digits, letters, `+`, `-`, `_`, `.`, as in \"+493012345\"".into())
        }
    }
}

/// Addresses: one (`192.0.2.10`) or a range (`198.51.100.0/24`). An IPv4 address in the clothes of IPv6 (`::ffff:…`) is
/// the IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Network(IpNet);

impl Network {
    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// How narrow it is: bits of its prefix.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical().into())
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let Ok(network) = text.parse::<IpNet>() else {
            return Err(format!("`{text}` is no address: write \"192.0.2.10\", or \"198.51.100.0/24\" for a range"));
        };
        let network = match network {
            IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some() => v6
                .addr()
                .to_ipv4_mapped()
                .and_then(|v4| IpNet::new(v4.into(), v6.prefix_len() - 96).ok())
                .unwrap_or(network),
            network => network,
        };
        if network.addr() != network.network() {
            let meant = network.trunc();
            return Err(format!("`{text}` is an address in a range: write \"{}\" or \"{meant}\"", network.addr()));
        }
        Ok(Self(network))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

/// What SIP travels over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the protocols' own names")]
pub enum Protocol {
    #[default]
    Udp,
    Tcp,
    Tls,
}

/// Whether audio is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Plain RTP; an offer of SRTP alone is refused.
    #[default]
    Off,
    /// SRTP where the peer does it.
    Optional,
    /// SRTP or no call.
    Required,
}

/// How a password is hashed (RFC 8760).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Digest {
    /// RFC 3261.
    #[serde(rename = "md5")]
    Md5,
    /// RFC 8760.
    #[serde(rename = "sha-256")]
    Sha256,
}

/// How audio is coded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the codecs' own names")]
pub enum Codec {
    Opus,
    G722,
    Pcma,
    Pcmu,
}

impl Codec {
    /// All of them, the best first.
    pub const ALL: [Self; 4] = [Self::Opus, Self::G722, Self::Pcma, Self::Pcmu];
}

/// A host of a trunk: `sip:HOST[:PORT][;transport=udp|tcp|tls]`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Host {
    /// Name or address, an IPv6 address without brackets.
    pub name: String,
    /// Where it is not for DNS to say.
    pub port: Option<u16>,
    /// Where it is not for the trunk to say.
    pub transport: Option<Protocol>,
}

impl Host {
    /// The address, if no resolver has to be asked.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.name.parse::<IpAddr>().ok().map(|address| address.to_canonical())
    }

    /// `HOST` or `HOST:PORT`, as in a URI.
    #[must_use]
    pub fn host_port(&self) -> String {
        let name = if self.name.contains(':') { format!("[{}]", self.name) } else { self.name.clone() };
        self.port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sip:{}", self.host_port())?;
        match self.transport {
            Some(Protocol::Udp) => f.write_str(";transport=udp"),
            Some(Protocol::Tcp) => f.write_str(";transport=tcp"),
            Some(Protocol::Tls) => f.write_str(";transport=tls"),
            None => Ok(()),
        }
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no host of a trunk: write \"sip:sip.example\", with `:PORT` or `;transport=tls` if need be"
            )
        };
        let (secure, rest) = match text.split_once(':') {
            Some(("sip", rest)) => (false, rest),
            Some(("sips", rest)) => (true, rest),
            _ => (false, text),
        };
        let (host, parameters) = rest.split_once(';').map_or((rest, None), |(host, rest)| (host, Some(rest)));
        let transport = match parameters {
            None => secure.then_some(Protocol::Tls),
            Some("transport=udp") if !secure => Some(Protocol::Udp),
            Some("transport=tcp") if !secure => Some(Protocol::Tcp),
            Some("transport=tls") => Some(Protocol::Tls),
            Some(_) => return Err(wrong()),
        };
        let (name, port) = if let Ok(address) = host.parse::<SocketAddr>() {
            (address.ip().to_string(), Some(address.port()))
        } else if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            (address.parse::<IpAddr>().map_err(|_| wrong())?.to_string(), None)
        } else {
            match host.split_once(':') {
                Some((name, port)) => (name.to_owned(), Some(port.parse().map_err(|_| wrong())?)),
                None => (host.to_owned(), None),
            }
        };
        let sound = name.contains(':') || label(&name, 253);
        if sound && port != Some(0) { Ok(Self { name, port, transport }) } else { Err(wrong()) }
    }
}

macro_rules! written_as_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
written_as_text!(TrunkName, CredentialName, CallerId, Network, Host);

impl Serialize for TrunkName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// All trunks, and which of them an address belongs to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trunks {
    all: Vec<Arc<Trunk>>,
    /// What a resolver says about the names of their hosts.
    resolved: Vec<(TrunkName, Vec<IpAddr>)>,
}

impl Trunks {
    /// In the order of the file.
    #[must_use]
    pub fn new(trunks: &[Trunk]) -> Self {
        Self { all: trunks.iter().cloned().map(Arc::new).collect(), resolved: Vec::new() }
    }

    /// None: then every address may call.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Trunk>> {
        self.all.iter()
    }

    /// What the names of a trunk's hosts mean from now on.
    pub fn set_hosts(&mut self, trunk: &TrunkName, addresses: Vec<IpAddr>) {
        self.resolved.retain(|(name, _)| name != trunk);
        if self.named(trunk).is_some() {
            self.resolved.push((trunk.clone(), addresses.iter().map(IpAddr::to_canonical).collect()));
        }
    }

    /// These, with what was known of the names of their hosts.
    #[must_use]
    pub fn with_hosts_of(mut self, before: &Self) -> Self {
        for (name, addresses) in &before.resolved {
            let same = before.named(name).map(|trunk| &trunk.hosts) == self.named(name).map(|trunk| &trunk.hosts);
            if same {
                self.set_hosts(name, addresses.clone());
            }
        }
        self
    }

    /// The one of a name.
    #[must_use]
    pub fn named(&self, name: &TrunkName) -> Option<&Arc<Trunk>> {
        self.all.iter().find(|trunk| trunk.name == *name)
    }

    /// The one whose peers or hosts an address is among; of several, the one that names the narrowest range.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<&Arc<Trunk>> {
        self.among(address).next()
    }

    /// The same for a request to a name of ours: of several accounts at one host, the one that has this name.
    #[must_use]
    pub fn called(&self, address: IpAddr, user: &str) -> Option<&Arc<Trunk>> {
        let account = self.among(address).find(|trunk| trunk.username.as_deref() == Some(user));
        account.or_else(|| self.of(address))
    }

    /// Those that name the narrowest range an address is in.
    fn among(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Trunk>> {
        let address = address.to_canonical();
        let narrowest = move |trunk: &Trunk| {
            let peers = trunk.peers.iter().filter(|peer| peer.contains(address)).map(Network::prefix);
            let hosts = trunk.hosts.iter().filter_map(Host::address);
            let resolved = self.resolved.iter().filter(|(name, _)| *name == trunk.name).flat_map(|(_, found)| found);
            let hosts = hosts.chain(resolved.copied()).filter(|host| *host == address).map(|_| u8::MAX);
            peers.chain(hosts).max()
        };
        let best = self.all.iter().filter_map(|trunk| narrowest(trunk)).max();
        self.all.iter().filter(move |trunk| best.is_some() && narrowest(trunk) == best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trunk(name: &str, peers: &[&str]) -> Trunk {
        let peers = peers.iter().map(|peer| peer.parse().expect("an address")).collect();
        Trunk { peers, ..Trunk::new(name.parse().expect("a name")) }
    }

    #[test]
    fn the_narrowest_range_decides_and_mapped_addresses_are_what_they_map() {
        let wide = trunk("wide", &["198.51.100.0/24", "2001:db8::/32"]);
        let narrow = trunk("narrow", &["198.51.100.7", "::ffff:192.0.2.0/120"]);
        let hosts = Trunk { hosts: vec!["sip:203.0.113.9:5070".parse().expect("a host")], ..trunk("hosts", &[]) };
        let trunks = Trunks::new(&[wide, narrow, hosts]);
        for (address, name) in [
            ("198.51.100.8", Some("wide")),
            ("198.51.100.7", Some("narrow")),
            ("::ffff:198.51.100.7", Some("narrow")),
            ("192.0.2.255", Some("narrow")),
            ("2001:db8::1", Some("wide")),
            ("203.0.113.9", Some("hosts")),
            ("192.0.3.0", None),
            ("::ffff:203.0.113.8", None),
        ] {
            let found = trunks.of(address.parse().expect("an address")).map(|trunk| trunk.name.as_str());
            assert_eq!(found, name, "{address}");
        }
    }

    #[test]
    fn of_two_accounts_at_one_host_that_of_the_called_name_is_meant() {
        let hosts = vec!["sip:203.0.113.9".parse().expect("a host")];
        let account = |name: &str| Trunk { username: Some(name.into()), hosts: hosts.clone(), ..trunk(name, &[]) };
        let trunks = Trunks::new(&[account("100"), account("200")]);
        let host = "203.0.113.9".parse().expect("an address");
        let called = |user: &str| trunks.called(host, user).map(|trunk| trunk.name.as_str());
        assert_eq!([called("100"), called("200"), called("+4930")], [Some("100"), Some("200"), Some("100")]);
    }

    #[test]
    fn a_name_that_is_no_user_part_is_refused_and_one_for_the_password_alone_is_not() {
        let named = |name: &str| Trunk { username: Some(name.into()), ..trunk("a", &["192.0.2.1"]) };
        assert_eq!(named("alice@h").contradiction().map(|(key, _)| key), Some("username"));
        let other = |name: &str| Trunk { auth_username: Some(name.into()), ..named("alice") };
        assert_eq!(other("alice@h").contradiction(), None);
        assert_eq!(other("a\"b").contradiction().map(|(key, _)| key), Some("auth_username"));
        let trunk = Trunk { password: Some(Secret::new("x")), ..other("alice@h") };
        assert_eq!(trunk.login().map(|(name, _)| name), Some("alice@h"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_the_rest_prints_as_it_was_written() {
        for text in ["192.0.2.10", "198.51.100.0/24", "2001:db8::/32", "2001:db8::1"] {
            assert_eq!(text.parse::<Network>().expect(text).to_string(), text);
        }
        for (text, part) in
            [("198.51.100.7/24", "write \"198.51.100.7\" or \"198.51.100.0/24\""), ("here", "no address")]
        {
            assert!(text.parse::<Network>().expect_err(text).contains(part), "{text}");
        }
        for text in ["sip:sip1.example", "sip:10.0.0.1:5070;transport=tcp", "sip:[2001:db8::1]:5061;transport=tls"] {
            assert_eq!(text.parse::<Host>().expect(text).to_string(), text);
        }
        assert_eq!("sips:a.example".parse::<Host>().expect("sips").transport, Some(Protocol::Tls));
        for text in
            ["", "sip:", "sip:a b", "sip:user@host", "sip:host:0", "sip:host;lr", "sips:h;transport=udp", "sip:[x]"]
        {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
        for text in ["", "a b", "../x", "é"] {
            assert!(text.parse::<TrunkName>().is_err() && text.parse::<CredentialName>().is_err(), "{text}");
        }
        assert!("+49 30".parse::<CallerId>().is_err());
    }

    #[test]
    fn a_password_is_not_printed() {
        let trunk = Trunk { password: Some(Secret::new("s3cret")), ..trunk("a", &[]) };
        assert!(!format!("{trunk:?}").contains("s3cret"));
        assert!(!toml::to_string(&trunk).expect("text").contains("s3cret"));
    }
}
