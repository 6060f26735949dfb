//! The side that is asked. Enters: 401 and 407; leaves: the header that answers them.

use serde::{Deserialize, Serialize};

use super::{Algorithm, Parameters, Qop, Response};
use crate::base::Secret;
use crate::sip::message::Message;

/// What a 401 or 407 wants to be answered. Plain data: kept with its dialog, it answers further requests at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Whether a proxy asks (407, `Proxy-Authenticate`).
    pub proxy: bool,
    /// Whose password is wanted.
    pub realm: String,
    /// To be repeated, and counted.
    pub nonce: String,
    /// To be repeated.
    pub opaque: Option<String>,
    /// How to hash; `None` where the peer named none, which is MD5.
    pub algorithm: Option<Algorithm>,
    /// What to protect; `None` asks for the form of RFC 2069.
    pub qop: Option<Qop>,
    /// The password was right, and the nonce too old: answer again. If this is false after an answer, the password is
    /// wrong and another try is no use.
    pub stale: bool,
}

impl Challenge {
    /// What a response asks for: of each realm the strongest challenge that we can answer, in the order of the message.
    /// Empty if there is none.
    #[must_use]
    pub fn parse_all(response: &Message) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for (name, proxy) in [("WWW-Authenticate", false), ("Proxy-Authenticate", true)] {
            let groups = response.all(name).flat_map(Parameters::read).take(super::MOST_GROUPS);
            for challenge in groups.filter_map(|group| Self::from_parameters(&group, proxy)) {
                match found.iter_mut().find(|known| known.proxy == proxy && known.realm == challenge.realm) {
                    // RFC 8760 §2.4 prefers the topmost; who lists the weak one first means its old clients, not us.
                    Some(known) if challenge.algorithm > known.algorithm => *known = challenge,
                    Some(_) => {}
                    None => found.push(challenge),
                }
            }
        }
        found
    }

    pub(super) fn from_parameters(group: &Parameters<'_>, proxy: bool) -> Option<Self> {
        let named = group.get("algorithm").filter(|name| !name.trim().is_empty());
        let qop = match group.get("qop").map(str::trim).filter(|offered| !offered.is_empty()) {
            None => None,
            Some(offered) => {
                let offers = |qop: Qop| offered.split([',', ' ']).any(|o| o.trim().eq_ignore_ascii_case(qop.name()));
                // None that we know: an answer would be in vain.
                Some([Qop::Auth, Qop::AuthInt].into_iter().find(|qop| offers(*qop))?)
            }
        };
        let echoed = [group.get("realm"), group.get("nonce"), group.get("opaque")];
        if !echoed.iter().flatten().all(|value| super::can_be_quoted(value)) {
            return None;
        }
        Some(Self {
            proxy,
            realm: group.get("realm").unwrap_or_default().to_owned(),
            nonce: group.get("nonce")?.to_owned(),
            opaque: group.get("opaque").map(str::to_owned),
            algorithm: match named {
                Some(_) => Some(Algorithm::parse(named)?),
                None => None,
            },
            qop,
            stale: group.get("stale").is_some_and(|stale| stale.trim().eq_ignore_ascii_case("true")),
        })
    }
}

/// A name and its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    username: String,
    password: Secret,
}

impl Credentials {
    /// Both, as configured.
    #[must_use]
    pub fn new(username: impl Into<String>, password: Secret) -> Self {
        Self { username: username.into(), password }
    }

    /// The header that answers a challenge: its name and its value.
    ///
    /// `uri` is the Request-URI. `nc` counts the requests that this nonce was used for, from 1, retransmissions not
    /// counted; `cnonce` is random, and the same as long as the nonce is (RFC 7616 §3.4: the `-sess` algorithms need that).
    #[must_use]
    pub fn answer(
        &self,
        challenge: &Challenge,
        method: &str,
        uri: &str,
        body: &[u8],
        nc: u32,
        cnonce: &str,
    ) -> (&'static str, String) {
        let Challenge { realm, nonce, qop, .. } = challenge;
        let (algorithm, count) = (challenge.algorithm.unwrap_or_default(), format!("{nc:08x}"));
        let response = Response {
            algorithm,
            username: &self.username,
            realm,
            nonce,
            qop: qop.map(|qop| (qop, count.as_str())),
            cnonce,
            method,
            uri,
            body,
        };
        let response = response.compute(self.password.reveal());
        let username = self.username.replace('\\', "\\\\").replace('"', "\\\"");
        let mut value = format!(
            "Digest username=\"{username}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\""
        );
        // Only what was named is named: there are peers who know MD5 and not its name.
        if let Some(algorithm) = challenge.algorithm {
            value += ", algorithm=";
            value += algorithm.name();
        }
        if qop.is_some() || algorithm.is_sess() {
            value += ", cnonce=\"";
            value += cnonce;
            value += "\"";
        }
        if let Some(qop) = qop {
            value += ", qop=";
            value += qop.name();
            value += ", nc=";
            value += &count;
        }
        if let Some(opaque) = &challenge.opaque {
            value += ", opaque=\"";
            value += opaque;
            value += "\"";
        }
        (if challenge.proxy { "Proxy-Authorization" } else { "Authorization" }, value)
    }
}
