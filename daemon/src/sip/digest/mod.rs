//! Digest authentication (RFC 7616, RFC 8760, RFC 3261 §22; RFC 2069 where a peer knows no better), both sides. Enters:
//! headers, names and passwords, time and random numbers as arguments; leaves: header values and verdicts. Nothing is
//! sent here, nothing is logged, and no password leaves but as a hash.

mod again;
mod answer;
mod ask;
#[cfg(test)]
mod tests;

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Sha256, Sha512_256};

pub use again::authorised;
pub use answer::{Challenge, Credentials};
pub use ask::{Challenger, Verdict};

/// Parameters of one challenge or answer that are looked at.
const MOST_PARAMETERS: usize = 32;
/// Challenges or answers of one message that are looked at.
const MOST_GROUPS: usize = 16;

/// How it is hashed, the weakest first. `-sess` binds the hash of the password to one nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the RFCs' own names")]
pub enum Algorithm {
    #[default]
    Md5,
    Md5Sess,
    Sha256,
    Sha256Sess,
    Sha512,
    Sha512Sess,
}

const NAMES: [(Algorithm, &str); 6] = [
    (Algorithm::Md5, "MD5"),
    (Algorithm::Md5Sess, "MD5-sess"),
    (Algorithm::Sha256, "SHA-256"),
    (Algorithm::Sha256Sess, "SHA-256-sess"),
    (Algorithm::Sha512, "SHA-512-256"),
    (Algorithm::Sha512Sess, "SHA-512-256-sess"),
];

impl Algorithm {
    /// As in the parameter `algorithm`.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    /// Without the parameter it is MD5; `None` for one that we do not know.
    fn parse(value: Option<&str>) -> Option<Self> {
        let Some(value) = value.map(str::trim).filter(|value| !value.is_empty()) else { return Some(Self::Md5) };
        // `SHA256` is what some write.
        let same =
            |name: &str| value.eq_ignore_ascii_case(name) || value.eq_ignore_ascii_case(&name.replacen('-', "", 1));
        NAMES.iter().find(|(_, name)| same(name)).map(|(known, _)| *known)
    }

    /// The same hash, bound to a session or not.
    fn is_base_of(self, other: Self) -> bool {
        other.name().strip_suffix("-sess").unwrap_or_else(|| other.name()) == self.name()
    }

    fn is_sess(self) -> bool {
        matches!(self, Self::Md5Sess | Self::Sha256Sess | Self::Sha512Sess)
    }

    fn hash(self, parts: &[&[u8]]) -> String {
        fn over<H: sha2::Digest>(parts: &[&[u8]]) -> String {
            let mut hash = H::new();
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    hash.update(b":");
                }
                hash.update(part);
            }
            hex::encode(hash.finalize())
        }
        match self {
            Self::Md5 | Self::Md5Sess => over::<Md5>(parts),
            Self::Sha256 | Self::Sha256Sess => over::<Sha256>(parts),
            Self::Sha512 | Self::Sha512Sess => over::<Sha512_256>(parts),
        }
    }
}

/// What the hash protects beside the password (quality of protection).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qop {
    /// Method and URI; a count makes each answer another.
    Auth,
    /// The body as well.
    AuthInt,
}

impl Qop {
    fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::AuthInt => "auth-int",
        }
    }
}

/// All that goes into a response beside the password.
struct Response<'a> {
    algorithm: Algorithm,
    username: &'a str,
    realm: &'a str,
    nonce: &'a str,
    /// With its count and the client's nonce, as they are written.
    qop: Option<(Qop, &'a str)>,
    cnonce: &'a str,
    method: &'a str,
    uri: &'a str,
    body: &'a [u8],
}

impl Response<'_> {
    /// RFC 7616 §3.4.1; without qop §3.4.1 of RFC 2069's form.
    fn compute(&self, password: &str) -> String {
        let hash = |parts: &[&[u8]]| self.algorithm.hash(parts);
        let mut a1 = hash(&[self.username.as_bytes(), self.realm.as_bytes(), password.as_bytes()]);
        if self.algorithm.is_sess() {
            a1 = hash(&[a1.as_bytes(), self.nonce.as_bytes(), self.cnonce.as_bytes()]);
        }
        let (method, uri) = (self.method.as_bytes(), self.uri.as_bytes());
        let a2 = match self.qop {
            Some((Qop::AuthInt, _)) => hash(&[method, uri, hash(&[self.body]).as_bytes()]),
            _ => hash(&[method, uri]),
        };
        match self.qop {
            Some((qop, nc)) => hash(&[
                a1.as_bytes(),
                self.nonce.as_bytes(),
                nc.as_bytes(),
                self.cnonce.as_bytes(),
                qop.name().as_bytes(),
                a2.as_bytes(),
            ]),
            None => hash(&[a1.as_bytes(), self.nonce.as_bytes(), a2.as_bytes()]),
        }
    }
}

/// The parameters of one `Digest …`, values without their quotes, as they stand in between.
#[derive(Debug, Default)]
struct Parameters<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Parameters<'a> {
    /// The first of a name.
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// Every `Digest …` of a header value. What real peers write is read: several in one line, commas that are missing or
    /// too many, no quotes where there must be some and some where there must be none, a quote that is never closed.
    fn read(value: &'a str) -> Vec<Self> {
        let mut groups: Vec<Option<Self>> = Vec::new();
        let mut rest = value;
        loop {
            rest = rest.trim_start_matches(|c: char| c == ',' || c == ';' || c.is_whitespace());
            let end = rest.find(|c: char| "=,;\"".contains(c) || c.is_whitespace()).unwrap_or(rest.len());
            let (name, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
            let behind = after.trim_start();
            if name.is_empty() {
                // Nothing that begins with a name: skip one character, or stop at the end.
                let mut chars = rest.chars();
                if chars.next().is_none() {
                    break;
                }
                rest = chars.as_str();
            } else if let Some(value) = behind.strip_prefix('=') {
                let (value, left) = value_of(value.trim_start());
                rest = left;
                if let Some(Some(group)) = groups.last_mut()
                    && group.0.len() < MOST_PARAMETERS
                {
                    group.0.push((name, value));
                }
            } else {
                rest = behind;
                // A word alone, such as `stale`, is no scheme: a scheme has something behind it.
                if !behind.is_empty() && !behind.starts_with([',', ';']) {
                    if groups.len() >= MOST_GROUPS {
                        break;
                    }
                    groups.push(name.eq_ignore_ascii_case("Digest").then(Self::default));
                }
            }
        }
        groups.into_iter().flatten().collect()
    }
}

/// The value at the beginning of a text, and what follows it.
fn value_of(text: &str) -> (&str, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
        return text.split_at_checked(end).unwrap_or((text, ""));
    };
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return (quoted.get(..at).unwrap_or(""), quoted.get(at + 1..).unwrap_or("")),
            _ => {}
        }
    }
    (quoted, "")
}

/// Whether a value between quotes is that value again.
fn can_be_quoted(value: &str) -> bool {
    !value.contains(char::is_control) && value_of(&format!("\"{value}\"")) == (value, "")
}

/// What a fuzz target calls: both sides over any text. What we write, we can read.
#[doc(hidden)]
pub fn fuzz(text: &str) {
    let credentials = Credentials::new("alice", crate::base::Secret::new("s3cret"));
    for group in Parameters::read(text) {
        let Some(challenge) = Challenge::from_parameters(&group, false) else { continue };
        let (_, value) = credentials.answer(&challenge, "INVITE", "sip:a@b", b"", 1, "c");
        let read = Parameters::read(&value);
        assert_eq!(read.first().and_then(|answer| answer.get("nonce")), Some(challenge.nonce.as_str()));
    }
}
