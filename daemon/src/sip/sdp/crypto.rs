//! Keys in SDP (RFC 4568), in plain profiles as well (RFC 8643). Enters: `a=crypto` of peers, random bits of ours; leaves:
//! keys of both directions, lines of ours. Never here: a packet. Keys are never printed. Whoever reads the signalling has
//! the keys: they are worth what its transport is.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sdp_types::Media;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha512};

use super::{Encryption, SdpError};

/// Crypto suites, in our order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the RFC's own names")]
pub enum Suite {
    AesCm80,
    AesGcm128,
    AesGcm256,
    AesCm32,
}

impl Suite {
    /// All of them. The one that everybody has goes first.
    pub const ALL: [Self; 4] = [Self::AesCm80, Self::AesGcm128, Self::AesGcm256, Self::AesCm32];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesCm80 => "AES_CM_128_HMAC_SHA1_80",
            Self::AesCm32 => "AES_CM_128_HMAC_SHA1_32",
            Self::AesGcm128 => "AEAD_AES_128_GCM",
            Self::AesGcm256 => "AEAD_AES_256_GCM",
        }
    }

    /// Octets of key and salt (RFC 4568 §6.1, RFC 7714 §14.2).
    pub const fn octets(self) -> usize {
        match self {
            Self::AesCm80 | Self::AesCm32 => 30,
            Self::AesGcm128 => 28,
            Self::AesGcm256 => 44,
        }
    }
}

/// What our keys are made of. Prints nothing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Secret([u64; 4]);

impl Secret {
    /// From random bits.
    pub fn draw(mut random: impl FnMut() -> u64) -> Self {
        Self(std::array::from_fn(|_| random()))
    }

    /// Our key of a suite: another one for each, the same for the whole dialog.
    fn key(&self, suite: Suite) -> Vec<u8> {
        let mut digest = Sha512::new_with_prefix(suite.name());
        self.0.iter().for_each(|part| digest.update(part.to_be_bytes()));
        digest.finalize()[..suite.octets()].to_vec()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Keys of both directions. Prints no key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crypto {
    /// Of both directions.
    pub suite: Suite,
    /// Key and salt that we send with.
    pub send: Vec<u8>,
    /// Key and salt that the peer sends with.
    pub receive: Vec<u8>,
    /// The peer's name for this line.
    tag: u32,
}

impl fmt::Debug for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crypto").field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl Crypto {
    /// The value of our `a=crypto`.
    pub(super) fn line(&self) -> String {
        line(self.tag, self.suite, &self.send)
    }
}

fn line(tag: u32, suite: Suite, key: &[u8]) -> String {
    format!("{tag} {} inline:{}", suite.name(), STANDARD.encode(key))
}

/// A line of the peer that we can use.
struct Offered {
    tag: u32,
    suite: Suite,
    key: Vec<u8>,
}

/// RFC 4568 §9.1. Lines with a master key identifier, several keys or parameters that we do not know are left out, as §6.3
/// wants it.
fn read(value: &str) -> Option<Offered> {
    let mut parts = value.split_whitespace();
    let tag = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let suite = Suite::ALL.into_iter().find(|suite| suite.name().eq_ignore_ascii_case(name))?;
    let keys = parts.next()?;
    let (method, inline) = keys.split_once(':')?;
    let known = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        // The window is ours to choose; a derivation rate of zero is none.
        name.eq_ignore_ascii_case("WSH") || name.eq_ignore_ascii_case("KDR") && value == "0"
    };
    if !method.eq_ignore_ascii_case("inline") || keys.contains(';') || !parts.all(known) {
        return None;
    }
    let mut fields = inline.split('|');
    let text = fields.next()?.trim_end_matches('=');
    // A lifetime is far away; a master key identifier has a colon.
    if fields.any(|field| field.contains(':')) {
        return None;
    }
    let key = STANDARD_NO_PAD.decode(text).ok().filter(|key| key.len() == suite.octets())?;
    Some(Offered { tag, suite, key })
}

fn offered(media: &Media) -> impl Iterator<Item = Offered> {
    media.get_attribute_values("crypto").flatten().filter_map(read)
}

fn is_secure(media: &Media) -> bool {
    ["RTP/SAVP", "RTP/SAVPF"].iter().any(|profile| media.proto.eq_ignore_ascii_case(profile))
}

/// A profile of RTP that we know, encrypted or not.
pub(super) fn is_rtp(media: &Media) -> bool {
    is_secure(media) || ["RTP/AVP", "RTP/AVPF"].iter().any(|profile| media.proto.eq_ignore_ascii_case(profile))
}

/// How much a line is wanted, least first; none for one that cannot be taken.
pub(super) fn rank(media: &Media, encryption: Encryption) -> Option<u8> {
    if !is_rtp(media) {
        return None;
    }
    match (encryption, is_secure(media), offered(media).next().is_some()) {
        (Encryption::Off, false, _) => Some(0),
        (Encryption::Optional | Encryption::Required, _, true) => Some(0),
        (Encryption::Optional, false, false) => Some(1),
        _ => None,
    }
}

/// Takes one of the keys of an offer; the peer's order decides.
pub(super) fn accept(media: &Media, encryption: Encryption, secret: &Secret) -> Result<Option<Crypto>, SdpError> {
    let chosen = offered(media).next().filter(|_| encryption != Encryption::Off);
    if chosen.is_none() && (is_secure(media) || encryption == Encryption::Required) {
        return Err(SdpError::Encryption);
    }
    Ok(chosen.map(|Offered { tag, suite, key }| Crypto { suite, send: secret.key(suite), receive: key, tag }))
}

/// The lines of an offer of ours.
pub(super) fn offer(encryption: Encryption, secret: &Secret) -> Vec<String> {
    if encryption == Encryption::Off {
        return Vec::new();
    }
    (1..).zip(Suite::ALL).map(|(tag, suite)| line(tag, suite, &secret.key(suite))).collect()
}

/// What the peer has made of our offer.
pub(super) fn accepted(media: &Media, encryption: Encryption, secret: &Secret) -> Result<Option<Crypto>, SdpError> {
    // The tag says which of ours, and its suite must be that one's.
    let ours = |offered: &Offered| {
        let place = usize::try_from(offered.tag).ok()?.checked_sub(1)?;
        Suite::ALL.get(place).filter(|suite| **suite == offered.suite)
    };
    let chosen = offered(media).next().filter(|offered| encryption != Encryption::Off && ours(offered).is_some());
    if chosen.is_none() && (is_secure(media) || encryption == Encryption::Required) {
        return Err(SdpError::Encryption);
    }
    Ok(chosen.map(|Offered { tag, suite, key }| Crypto { suite, send: secret.key(suite), receive: key, tag }))
}
