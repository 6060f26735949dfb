//! The side that asks. Enters: requests, the time; leaves: challenges, and whether an answer is right. A nonce is not
//! remembered before it is used: it carries its own date and proof. What is remembered of those in use is bounded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::{Algorithm, Parameters, Qop, Response};
use crate::base::Secret;
use crate::sip::message::Message;

/// How long a nonce is taken. Afterwards a right answer is asked for again, with `stale=true`.
const LIFETIME: Duration = Duration::from_secs(300);
/// Nonces in use at once; the oldest one is forgotten, and is then stale like every nonce as old as it.
const IN_USE: usize = 4096;

/// What an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The peer knows the password.
    Right,
    /// There is no answer to a challenge of ours.
    Missing,
    /// The peer knows the password; the nonce is too old, was used up, or comes from an earlier process.
    Stale,
    /// The peer does not know the password, or the name.
    Wrong,
}

/// Asks, and judges the answers.
pub struct Challenger {
    key: [u8; 32],
    realm: String,
    born: Instant,
    /// By date and random number.
    pub(super) used: BTreeMap<(u64, u64), Counts>,
    /// Nonces up to this date that are not in `used` may have been used.
    forgotten: Option<u64>,
}

/// Which counts of a nonce have been used: the highest, and the 64 up to it. Requests may overtake each other.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    highest: u32,
    seen: u64,
}

impl Counts {
    /// Takes a count, unless it has been taken.
    fn take(&mut self, nc: u32) -> bool {
        if nc > self.highest {
            self.seen = self.seen.checked_shl(nc - self.highest).unwrap_or(0) | 1;
            self.highest = nc;
            return true;
        }
        let bit = 1_u64.checked_shl(self.highest - nc).unwrap_or(0);
        let fresh = bit != 0 && self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }
}

impl Challenger {
    /// `key` is random and nobody else's; `born` is where dates are counted from.
    #[must_use]
    pub fn new(realm: impl Into<String>, key: [u8; 32], born: Instant) -> Self {
        Self { key, realm: realm.into(), born, used: BTreeMap::new(), forgotten: None }
    }

    /// The values of `WWW-Authenticate`, one for each algorithm, the most wanted first (RFC 8760 §2.4); `random` is new each
    /// time.
    #[must_use]
    pub fn challenges(&self, offered: &[Algorithm], stale: bool, random: u64, now: Instant) -> Vec<String> {
        let date = self.date(now);
        let nonce = format!("{date:016x}{random:016x}{}", hex::encode(self.proof(date, random)));
        let stale = if stale { ", stale=true" } else { "" };
        let challenge = |algorithm: &Algorithm| {
            let (realm, name) = (&self.realm, algorithm.name());
            format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", qop=\"auth\", algorithm={name}{stale}")
        };
        offered.iter().map(challenge).collect()
    }

    /// Whether a request shows that its sender knows the password. The `uri` of the answer is not compared with the
    /// Request-URI, which proxies rewrite (RFC 3261 §22.4); an answer cannot be used again with another, as it is counted.
    pub fn verify(
        &mut self,
        request: &Message,
        offered: &[Algorithm],
        (username, password): (&str, &Secret),
        now: Instant,
    ) -> Verdict {
        let method = request.method().map_or("", crate::sip::message::Method::as_str);
        let mut verdict = Verdict::Missing;
        for line in request.all("Authorization") {
            for answer in Parameters::read(line) {
                if answer.get("realm") != Some(self.realm.as_str()) {
                    continue; // for somebody behind us, or before
                }
                let algorithm = Algorithm::parse(answer.get("algorithm"));
                let Some(algorithm) = algorithm.filter(|named| offered.iter().any(|one| one.is_base_of(*named))) else {
                    continue; // not what was asked for
                };
                verdict = self.judge(&answer, algorithm, (method, &request.body), (username, password), now);
                if verdict == Verdict::Right {
                    return verdict;
                }
            }
        }
        verdict
    }

    fn judge(
        &mut self,
        answer: &Parameters<'_>,
        algorithm: Algorithm,
        (method, body): (&str, &[u8]),
        (username, password): (&str, &Secret),
        now: Instant,
    ) -> Verdict {
        let qop = match answer.get("qop").filter(|qop| !qop.is_empty()) {
            None => Some(None),
            Some(named) => {
                [Qop::Auth, Qop::AuthInt].into_iter().find(|qop| named.eq_ignore_ascii_case(qop.name())).map(Some)
            }
        };
        let (nc, cnonce) = (answer.get("nc").unwrap_or_default(), answer.get("cnonce").unwrap_or_default());
        let (Some(qop), Some(nonce), Some(uri), Some(response)) =
            (qop, answer.get("nonce"), answer.get("uri"), answer.get("response"))
        else {
            return Verdict::Wrong;
        };
        let expected = Response {
            algorithm,
            username,
            realm: &self.realm,
            nonce,
            qop: qop.map(|qop| (qop, nc)),
            cnonce,
            method,
            uri,
            body,
        };
        let expected = expected.compute(password.reveal());
        let same = expected.as_bytes().ct_eq(response.to_ascii_lowercase().as_bytes());
        let known = username.as_bytes().ct_eq(unescaped(answer.get("username").unwrap_or_default()).as_bytes());
        if !bool::from(same & known) {
            return Verdict::Wrong;
        }
        // Without qop nothing is counted: such a nonce is good once.
        let count = match qop {
            Some(_) => u32::from_str_radix(nc, 16).ok().filter(|nc| *nc > 0),
            None => Some(u32::MAX),
        };
        match count {
            Some(count) if self.take(nonce, count, now) => Verdict::Right,
            Some(_) => Verdict::Stale,
            None => Verdict::Wrong,
        }
    }

    /// Takes a count of a nonce of ours, if it is young enough and the count is new.
    fn take(&mut self, nonce: &str, count: u32, now: Instant) -> bool {
        let Some((date, random)) = self.opened(nonce) else { return false };
        let oldest = self.date(now).saturating_sub(millis(LIFETIME));
        while self.used.first_key_value().is_some_and(|((date, _), _)| *date < oldest) {
            self.used.pop_first();
        }
        if date < oldest {
            return false;
        }
        if let Some(counts) = self.used.get_mut(&(date, random)) {
            return counts.take(count);
        }
        if self.forgotten.is_some_and(|forgotten| date <= forgotten) {
            return false;
        }
        if self.used.len() >= IN_USE
            && let Some(((date, _), _)) = self.used.pop_first()
        {
            self.forgotten = self.forgotten.max(Some(date));
        }
        self.used.insert((date, random), Counts { highest: count, seen: 1 });
        true
    }

    /// Date and random number of a nonce of ours.
    fn opened(&self, nonce: &str) -> Option<(u64, u64)> {
        let number = |from: usize, to: usize| u64::from_str_radix(nonce.get(from..to)?, 16).ok();
        let (date, random) = (number(0, 16)?, number(16, 32)?);
        let proof = hex::decode(nonce.get(32..)?).ok()?;
        bool::from(self.proof(date, random).ct_eq(proof.as_slice())).then_some((date, random))
    }

    fn proof(&self, date: u64, random: u64) -> [u8; 16] {
        let mut proof = [0; 16];
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) {
            mac.update(&date.to_be_bytes());
            mac.update(&random.to_be_bytes());
            let whole = mac.finalize().into_bytes();
            proof.iter_mut().zip(whole).for_each(|(to, from)| *to = from);
        }
        proof
    }

    /// Milliseconds.
    fn date(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.born))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A quoted value as it is meant (RFC 3261 §25.1, `quoted-pair`).
fn unescaped(value: &str) -> String {
    let mut meant = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        meant.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    meant
}
