//! SRTP and SRTCP (RFC 3711, AES-GCM by RFC 7714). Packets enter, sealed or opened packets leave, in place; nothing is
//! allocated but by `new`. Never here: where keys come from. Keys, and what is derived of them, are never printed.
//!
//! AES, SHA-1 and GCM are `aes`'s and `ring`'s. The protocol around them is ours: a call that outlives the daemon needs
//! the roll-over counter of both directions, which the crates that there are neither give nor take.

use std::fmt;

use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes256};
use ring::{aead, hmac};
use serde::{Deserialize, Serialize};

use super::rtp::HEADER;

/// The longest tag and, in SRTCP, the index: how much longer a packet may become.
pub const OVERHEAD: usize = 16 + INDEX;

/// Octets of the word that ends an SRTCP packet: the E bit and the index.
const INDEX: usize = 4;
/// Octets of an RTCP header that stay readable.
const RTCP_HEADER: usize = 8;
const ENCRYPTED: u32 = 1 << 31;
/// Octets of AES-GCM's tag.
const GCM_TAG: usize = 16;
/// Octets of a session salt.
const SALT: usize = 14;
/// Sources that a call remembers: whoever comes back must not be heard twice.
const SOURCES: usize = 4;
/// Octets of the longest packet that may be tried twice.
const LONGEST: usize = 2048;
/// Packets back to which a replay is told from a late packet.
const WINDOW: u64 = 128;

/// A crypto suite of SDES (RFC 4568 §6.2, RFC 7714 §14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Suite {
    /// `AES_CM_128_HMAC_SHA1_80`.
    AesCm80,
    /// `AES_CM_128_HMAC_SHA1_32`.
    AesCm32,
    /// `AEAD_AES_128_GCM`.
    AesGcm128,
    /// `AEAD_AES_256_GCM`.
    AesGcm256,
}

impl Suite {
    const fn key(self) -> usize {
        if matches!(self, Self::AesGcm256) { 32 } else { 16 }
    }

    const fn salt(self) -> usize {
        if matches!(self, Self::AesCm80 | Self::AesCm32) { 14 } else { 12 }
    }

    /// Octets of a master key and its salt.
    #[must_use]
    pub const fn octets(self) -> usize {
        self.key() + self.salt()
    }
}

/// A master key and its salt, one after the other. Prints nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterKey {
    suite: Suite,
    octets: Vec<u8>,
}

impl MasterKey {
    /// None if there are not as many octets as the suite needs.
    #[must_use]
    pub fn new(suite: Suite, octets: Vec<u8>) -> Option<Self> {
        (octets.len() == suite.octets()).then_some(Self { suite, octets })
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// What both sides have told each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Ours.
    pub send: MasterKey,
    /// Theirs.
    pub receive: MasterKey,
}

/// Why a packet is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SrtpError {
    /// Shorter than its header and tag.
    #[error("truncated")]
    Truncated,
    /// Another key, or changed on the way.
    #[error("not authentic")]
    Forged,
    /// Was here before, or is too old to tell.
    #[error("replayed")]
    Replayed,
}

/// What of both directions a call needs that goes on elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Source and highest extended sequence number of the far end.
    pub heard: Option<(u32, u64)>,
    /// A packet of ours may have been sealed.
    #[serde(default)]
    pub sealed: bool,
    /// Index of the next SRTCP packet of ours.
    pub rtcp: u32,
    /// Source and highest SRTCP index of the far end.
    pub reported: Option<(u32, u64)>,
}

/// RFC 3711 §4.3.3: the pseudo-random function is AES in counter mode.
fn derive(master: &MasterKey, label: u8, out: &mut [u8]) {
    let (key, salt) = master.octets.split_at(master.suite.key());
    let mut iv = [0; 16];
    iv[..salt.len()].copy_from_slice(salt);
    iv[7] ^= label;
    out.fill(0);
    match key.try_into() {
        Ok(key) => counter_mode(&Aes128::new(key), iv, out),
        Err(_) => {
            if let Ok(key) = key.try_into() {
                counter_mode(&Aes256::new(key), iv, out);
            }
        }
    }
}

/// Combines `text` with the key stream (RFC 3711 §4.1.1).
fn counter_mode(aes: &impl BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16>, iv: [u8; 16], text: &mut [u8]) {
    for (counter, part) in text.chunks_mut(16).enumerate() {
        let mut block = Array::from(iv);
        // The last two octets of the start are zero, and no packet has 65 536 blocks.
        [block[14], block[15]] = (counter as u16).to_be_bytes();
        aes.encrypt_block(&mut block);
        part.iter_mut().zip(block).for_each(|(octet, key)| *octet ^= key);
    }
}

/// Session keys of one direction of SRTP or of SRTCP.
struct Cipher {
    salt: [u8; SALT],
    kind: Kind,
}

enum Kind {
    Counter(Box<Counter>),
    Gcm(Box<aead::LessSafeKey>),
}

struct Counter {
    aes: Aes128,
    mac: hmac::Key,
    tag: usize,
}

/// Where a packet is in its stream.
#[derive(Clone, Copy)]
struct Place {
    ssrc: u32,
    /// RTP: roll-over counter and sequence number. RTCP: its own index.
    index: u64,
}

impl Cipher {
    /// `first` is the label of the first of three keys; `tag` the octets of the authentication tag in counter mode.
    fn new(master: &MasterKey, first: u8, tag: usize) -> Self {
        let (mut salt, mut key, mut auth) = ([0; SALT], [0; 32], [0; 20]);
        let key = &mut key[..master.suite.key()];
        derive(master, first, key);
        derive(master, first + 1, &mut auth);
        derive(master, first + 2, &mut salt[..master.suite.salt()]);
        let gcm = |algorithm, key: &[u8]| {
            let key = aead::UnboundKey::new(algorithm, key).expect("as long as the suite says");
            Kind::Gcm(Box::new(aead::LessSafeKey::new(key)))
        };
        let counter = |key: &[u8]| {
            let mut octets = [0; 16];
            octets.copy_from_slice(key);
            let mac = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &auth);
            Kind::Counter(Box::new(Counter { aes: Aes128::new(&octets.into()), mac, tag }))
        };
        let kind = match master.suite {
            Suite::AesCm80 | Suite::AesCm32 => counter(key),
            Suite::AesGcm128 => gcm(&aead::AES_128_GCM, key),
            Suite::AesGcm256 => gcm(&aead::AES_256_GCM, key),
        };
        Self { salt, kind }
    }

    fn tag(&self) -> usize {
        match &self.kind {
            Kind::Counter(counter) => counter.tag,
            Kind::Gcm(_) => GCM_TAG,
        }
    }

    /// RFC 3711 §4.1.1.
    fn counter(&self, place: Place) -> [u8; 16] {
        let mut iv = [0; 16];
        iv[..SALT].copy_from_slice(&self.salt);
        let [_, _, index @ ..] = place.index.to_be_bytes();
        iv[4..8].iter_mut().zip(place.ssrc.to_be_bytes()).for_each(|(octet, ssrc)| *octet ^= ssrc);
        iv[8..14].iter_mut().zip(index).for_each(|(octet, index)| *octet ^= index);
        iv
    }

    /// RFC 7714 §8.1 and §9.1.
    fn nonce(&self, place: Place) -> aead::Nonce {
        let mut iv = [0; 12];
        let [_, _, index @ ..] = place.index.to_be_bytes();
        iv[2..6].copy_from_slice(&place.ssrc.to_be_bytes());
        iv[6..].copy_from_slice(&index);
        iv.iter_mut().zip(self.salt).for_each(|(octet, salt)| *octet ^= salt);
        aead::Nonce::assume_unique_for_key(iv)
    }

    /// Encrypts `text[clear..]`. GCM's tag is returned; counter mode has its tag elsewhere.
    fn encrypt(&self, place: Place, text: &mut [u8], clear: usize, also: &[u8]) -> Option<[u8; GCM_TAG]> {
        match &self.kind {
            Kind::Counter(counter) => {
                counter_mode(&counter.aes, self.counter(place), &mut text[clear..]);
                None
            }
            Kind::Gcm(key) => {
                let (header, body) = text.split_at_mut(clear);
                let tag = key.seal_in_place_separate_tag(self.nonce(place), aad(header, also, &mut [0; 512]), body);
                let mut octets = [0; GCM_TAG];
                octets.copy_from_slice(tag.ok()?.as_ref());
                Some(octets)
            }
        }
    }

    /// The tag of counter mode over `parts`.
    fn sign(mac: &hmac::Key, parts: [&[u8]; 2]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(mac);
        parts.iter().for_each(|part| context.update(part));
        context.sign()
    }
}

/// Header and trailer that are authenticated and not encrypted.
fn aad<'a>(header: &[u8], also: &[u8], room: &'a mut [u8; 512]) -> aead::Aad<&'a [u8]> {
    let length = header.len().min(room.len() - INDEX);
    room[..length].copy_from_slice(&header[..length]);
    room[length..length + also.len()].copy_from_slice(also);
    aead::Aad::from(&room[..length + also.len()])
}

/// Compares without telling where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// Our direction. Whoever has it counts: no index may come twice under one key.
pub struct Sealer {
    rtp: Cipher,
    rtcp: Cipher,
}

impl Sealer {
    /// Derives the session keys.
    #[must_use]
    pub fn new(master: &MasterKey) -> Self {
        let (rtp, rtcp) = ciphers(master);
        Self { rtp, rtcp }
    }

    /// Seals the RTP packet in `buffer[..length]` without contributing sources and extension; `index`: its sequence
    /// number and how often that has wrapped. Returns the new length: [`OVERHEAD`] more at most, for which there must
    /// be room.
    pub fn seal(&self, buffer: &mut [u8], length: usize, index: u64) -> usize {
        let Some(ssrc) = buffer.get(8..HEADER).and_then(|ssrc| ssrc.try_into().ok()).map(u32::from_be_bytes) else {
            return 0;
        };
        let gcm = self.rtp.encrypt(Place { ssrc, index }, &mut buffer[..length], HEADER, &[]);
        let tag = self.rtp.tag();
        match (&self.rtp.kind, gcm) {
            (Kind::Counter(counter), _) => {
                let roll_over = ((index >> 16) as u32).to_be_bytes();
                let signed = Cipher::sign(&counter.mac, [&buffer[..length], &roll_over]);
                buffer[length..length + tag].copy_from_slice(&signed.as_ref()[..tag]);
            }
            (Kind::Gcm(_), Some(octets)) => buffer[length..length + tag].copy_from_slice(&octets),
            (Kind::Gcm(_), None) => return 0,
        }
        length + tag
    }

    /// Seals the RTCP compound in `buffer[..length]`; `index`: its own, of 31 bits. Returns the new length.
    pub fn seal_rtcp(&self, buffer: &mut [u8], length: usize, index: u32) -> usize {
        let Some(ssrc) = buffer.get(4..RTCP_HEADER).and_then(|ssrc| ssrc.try_into().ok()).map(u32::from_be_bytes)
        else {
            return 0;
        };
        let place = Place { ssrc, index: (index & !ENCRYPTED).into() };
        let word = (index | ENCRYPTED).to_be_bytes();
        let gcm = self.rtcp.encrypt(place, &mut buffer[..length], RTCP_HEADER, &word);
        let tag = self.rtcp.tag();
        match (&self.rtcp.kind, gcm) {
            (Kind::Counter(counter), _) => {
                buffer[length..length + INDEX].copy_from_slice(&word);
                let signed = Cipher::sign(&counter.mac, [&buffer[..length + INDEX], &[]]);
                buffer[length + INDEX..][..tag].copy_from_slice(&signed.as_ref()[..tag]);
            }
            (Kind::Gcm(_), Some(octets)) => {
                buffer[length..length + tag].copy_from_slice(&octets);
                buffer[length + tag..][..INDEX].copy_from_slice(&word);
            }
            (Kind::Gcm(_), None) => return 0,
        }
        length + tag + INDEX
    }
}

fn ciphers(master: &MasterKey) -> (Cipher, Cipher) {
    // Of RTCP a tag is never short (RFC 4568 §6.2.2).
    let tag = if master.suite == Suite::AesCm32 { 4 } else { 10 };
    (Cipher::new(master, 0, tag), Cipher::new(master, 3, 10))
}

/// What was received of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    ssrc: u32,
    replays: Replays,
}

/// Which of the last indices were here (RFC 3711 §3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Replays {
    highest: u64,
    /// Bit n: `highest` − n was here.
    seen: u128,
}

impl Replays {
    fn fresh(self, index: u64) -> bool {
        match self.highest.checked_sub(index) {
            None => true,
            Some(age) => age < WINDOW && self.seen >> age & 1 == 0,
        }
    }

    fn note(&mut self, index: u64) {
        match index.checked_sub(self.highest) {
            Some(ahead) => {
                self.seen = if ahead < WINDOW { self.seen << ahead } else { 0 } | 1;
                self.highest = index;
            }
            None => self.seen |= 1 << (self.highest - index).min(WINDOW - 1),
        }
    }
}

/// What was received of each source, the newest first.
#[derive(Clone, Copy, Debug, Default)]
struct Sources([Option<Source>; SOURCES]);

impl Sources {
    /// `seen`: which of the indices before the highest are taken for received, as in [`Replays`].
    fn after(newest: Option<(u32, u64)>, seen: u128) -> Self {
        let mut sources = Self::default();
        sources.0[0] = newest.map(|(ssrc, highest)| Source { ssrc, replays: Replays { highest, seen } });
        sources
    }

    fn newest(&self) -> Option<(u32, u64)> {
        self.0[0].map(|source| (source.ssrc, source.replays.highest))
    }

    fn find(&self, ssrc: u32) -> Option<Replays> {
        self.0.iter().flatten().find(|source| source.ssrc == ssrc).map(|source| source.replays)
    }

    /// A packet was authentic. A new source takes the place of the oldest.
    fn note(&mut self, ssrc: u32, index: u64) {
        let mut replays = self.find(ssrc).unwrap_or(Replays { highest: index, seen: 0 });
        replays.note(index);
        let known = self.0.iter().position(|source| source.is_some_and(|source| source.ssrc == ssrc));
        let place = known.unwrap_or(SOURCES - 1);
        self.0[place] = Some(Source { ssrc, replays });
        self.0[..=place].rotate_right(1);
    }
}

/// The far end's direction.
pub struct Opener {
    master: MasterKey,
    rtp: Cipher,
    rtcp: Cipher,
    sources: Sources,
    /// Of SRTCP, which counts for each source, too.
    reporters: Sources,
    /// A packet was opened with this key.
    proven: bool,
}

impl Opener {
    /// `before`: what is known of a call that goes on.
    #[must_use]
    pub fn new(master: &MasterKey, before: Progress) -> Self {
        let (rtp, rtcp) = ciphers(master);
        let (sources, reporters) = (Sources::after(before.heard, 1), Sources::after(before.reported, u128::MAX));
        Self { master: master.clone(), rtp, rtcp, sources, reporters, proven: false }
    }

    /// Whether it uses this key.
    #[must_use]
    pub fn is(&self, master: &MasterKey) -> bool {
        self.master == *master
    }

    /// The same sources go on with another key, and do not count anew (RFC 3711 §3.3.1).
    pub fn follow(&mut self, before: &Self) {
        self.sources = before.sources;
    }

    /// The sources of RTP and of RTCP that came last, each with its highest index.
    #[must_use]
    pub fn progress(&self) -> [Option<(u32, u64)>; 2] {
        [self.sources.newest(), self.reporters.newest()]
    }

    /// Opens an RTP packet in place; what is left of it.
    ///
    /// # Errors
    /// [`SrtpError`]: it is of somebody else, or was here before.
    pub fn open<'a>(&mut self, packet: &'a mut [u8]) -> Result<&'a [u8], SrtpError> {
        if self.proven || packet.len() > LONGEST {
            return self.open_from(packet);
        }
        // With another key some begin to count anew, and some do not.
        let mut again = [0; LONGEST];
        again[..packet.len()].copy_from_slice(packet);
        let length = match self.open_from(packet) {
            Ok(plain) => plain.len(),
            Err(SrtpError::Truncated) => return Err(SrtpError::Truncated),
            Err(error) => {
                packet.copy_from_slice(&again[..packet.len()]);
                let sources = std::mem::take(&mut self.sources);
                match self.open_from(packet) {
                    Ok(plain) => plain.len(),
                    Err(_) => {
                        self.sources = sources;
                        return Err(error);
                    }
                }
            }
        };
        Ok(&packet[..length])
    }

    fn open_from<'a>(&mut self, packet: &'a mut [u8]) -> Result<&'a [u8], SrtpError> {
        let clear = header(packet).ok_or(SrtpError::Truncated)?;
        let body =
            packet.len().checked_sub(self.rtp.tag()).filter(|body| *body >= clear).ok_or(SrtpError::Truncated)?;
        let number = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        let (sequence, ssrc) = (number(0) as u16, number(8));
        let replays = self.sources.find(ssrc);
        let index = replays.map_or_else(|| sequence.into(), |replays| extend(replays.highest, sequence));
        if replays.is_some_and(|replays| !replays.fresh(index)) {
            return Err(SrtpError::Replayed);
        }
        let place = Place { ssrc, index };
        match &self.rtp.kind {
            Kind::Counter(counter) => {
                let roll_over = ((index >> 16) as u32).to_be_bytes();
                let signed = Cipher::sign(&counter.mac, [&packet[..body], &roll_over]);
                if !same(&signed.as_ref()[..packet.len() - body], &packet[body..]) {
                    return Err(SrtpError::Forged);
                }
                self.rtp.encrypt(place, &mut packet[..body], clear, &[]);
            }
            Kind::Gcm(key) => {
                let (head, sealed) = packet.split_at_mut(clear);
                key.open_in_place(self.rtp.nonce(place), aad(head, &[], &mut [0; 512]), sealed)
                    .map_err(|_| SrtpError::Forged)?;
            }
        }
        self.proven = true;
        self.sources.note(ssrc, index);
        Ok(&packet[..body])
    }

    /// Opens an RTCP compound in place; what is left of it.
    ///
    /// # Errors
    /// [`SrtpError`], as [`Self::open`].
    pub fn open_rtcp<'a>(&mut self, packet: &'a mut [u8]) -> Result<&'a [u8], SrtpError> {
        let tag = self.rtcp.tag();
        let body = packet.len().checked_sub(tag + INDEX).filter(|body| *body >= RTCP_HEADER);
        let body = body.ok_or(SrtpError::Truncated)?;
        let (at, first) = match &self.rtcp.kind {
            Kind::Counter(_) => (body, body + INDEX),
            Kind::Gcm(_) => (body + tag, body),
        };
        let word = [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]];
        let ssrc = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        let encrypted = u32::from_be_bytes(word) & ENCRYPTED != 0;
        let index = u64::from(u32::from_be_bytes(word) & !ENCRYPTED);
        if self.reporters.find(ssrc).is_some_and(|replays| !replays.fresh(index)) {
            return Err(SrtpError::Replayed);
        }
        let place = Place { ssrc, index };
        match &self.rtcp.kind {
            Kind::Counter(counter) => {
                let signed = Cipher::sign(&counter.mac, [&packet[..first], &[]]);
                if !same(&signed.as_ref()[..tag], &packet[first..]) {
                    return Err(SrtpError::Forged);
                }
                if encrypted {
                    self.rtcp.encrypt(place, &mut packet[..body], RTCP_HEADER, &[]);
                }
            }
            // Nobody leaves out what GCM does at no cost.
            Kind::Gcm(_) if !encrypted => return Err(SrtpError::Forged),
            Kind::Gcm(key) => {
                let (head, sealed) = packet[..body + tag].split_at_mut(RTCP_HEADER);
                key.open_in_place(self.rtcp.nonce(place), aad(head, &word, &mut [0; 512]), sealed)
                    .map_err(|_| SrtpError::Forged)?;
            }
        }
        self.reporters.note(ssrc, index);
        Ok(&packet[..body])
    }
}

/// Octets of a header with its sources and extension, which are not encrypted.
fn header(packet: &[u8]) -> Option<usize> {
    let first = packet.first()?;
    let length = HEADER + 4 * usize::from(first & 0x0f);
    if first & 0x10 == 0 {
        return (packet.len() >= length).then_some(length);
    }
    let [high, low] = *packet.get(length + 2..length + 4)? else { return None };
    let length = length + 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
    // GCM authenticates a header together with what follows it.
    (packet.len() >= length && length <= 500).then_some(length)
}

/// The extended number that is nearest to the highest so far (RFC 3711 appendix A).
fn extend(highest: u64, sequence: u16) -> u64 {
    let ahead = sequence.wrapping_sub(highest as u16).cast_signed();
    highest.checked_add_signed(ahead.into()).unwrap_or_else(|| sequence.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        hex::decode(text.replace(' ', "")).expect("hex")
    }

    fn master(suite: Suite) -> MasterKey {
        MasterKey::new(suite, (0..suite.octets() as u8).collect()).expect("as long as it must be")
    }

    const ALL: [Suite; 4] = [Suite::AesCm80, Suite::AesCm32, Suite::AesGcm128, Suite::AesGcm256];

    #[test]
    fn keys_are_derived_as_in_rfc_3711_b_3() {
        let key = "E1F97A0D3E018BE0D64FA32C06DE4139 0EC675AD498AFEEBB6960B3AABE6";
        let master = MasterKey::new(Suite::AesCm80, hex(key)).expect("thirty octets");
        let derived = |label, length| {
            let mut out = vec![0; length];
            derive(&master, label, &mut out);
            out
        };
        assert_eq!(derived(0, 16), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(derived(2, 14), hex("30CBBC08863D8C85D49DB34A9AE1"));
        let auth = "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCEE049646C43D9327AD175578EF7227098";
        assert_eq!(derived(1, 48), hex(auth));
    }

    #[test]
    fn the_key_stream_is_that_of_rfc_3711_b_2() {
        let key: [u8; 16] = hex("2B7E151628AED2A6ABF7158809CF4F3C").try_into().expect("sixteen");
        let iv = hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD0000").try_into().expect("sixteen");
        let mut stream = [0; 48];
        counter_mode(&Aes128::new(&key.into()), iv, &mut stream);
        let expected =
            "E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB 41E95B3BB0A2E8DD477901E4FCA894C0";
        assert_eq!(stream.to_vec(), hex(expected));
    }

    #[test]
    fn gcm_is_that_of_rfc_7714_16_1_1() {
        let key = aead::UnboundKey::new(&aead::AES_128_GCM, &hex("000102030405060708090a0b0c0d0e0f")).expect("sixteen");
        let mut salt = [0; SALT];
        salt[..12].copy_from_slice(&hex("517569642070726f2071756f"));
        let cipher = Cipher { salt, kind: Kind::Gcm(Box::new(aead::LessSafeKey::new(key))) };
        let mut packet = hex(
            "8040f17b 8041f8d3 5501a0b2 47616c6c 69612065 7374206f 6d6e6973 20646976 69736120 696e2070 61727465 73207472 6573",
        );
        let tag = cipher.encrypt(Place { ssrc: 0x5501_a0b2, index: 0xf17b }, &mut packet, HEADER, &[]);
        packet.extend(tag.expect("a tag"));
        let expected = "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a 51c7d19b 36de3adf 8833899d 7f27beb1 6a9152cf 765ee439 0cce";
        assert_eq!(packet, hex(expected));
    }

    /// The reference packets of libsrtp's own validation.
    #[test]
    fn packets_are_those_of_the_reference_library() {
        let key = "E1F97A0D3E018BE0D64FA32C06DE4139 0EC675AD498AFEEBB6960B3AABE6";
        let cm = MasterKey::new(Suite::AesCm80, hex(key)).expect("thirty octets");
        let key = "000102030405060708090a0b0c0d0e0f a0a1a2a3a4a5a6a7a8a9aaab";
        let gcm = MasterKey::new(Suite::AesGcm128, hex(key)).expect("twenty-eight octets");
        let cases = [
            (cm, "4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb"),
            (gcm, "c5002ede04cfdd2eb91159e0880aa06ed2976826f796b201df3131a127e8a392"),
        ];
        for (master, expected) in cases {
            let mut packet = hex("800f1234decafbadcafebabe");
            packet.extend([0xab; 16]);
            packet.resize(28 + OVERHEAD, 0);
            let length = Sealer::new(&master).seal(&mut packet, 28, 0x1234);
            assert_eq!(packet[12..length], hex(expected));
        }
    }

    fn rtp(sequence: u16, ssrc: u32) -> Vec<u8> {
        let header =
            super::super::rtp::Packet { marker: false, payload_type: 0, sequence, timestamp: 7, ssrc, payload: &[] };
        [&header.header()[..], &sequence.to_be_bytes(), b"hello there"].concat()
    }

    fn sealed(sealer: &Sealer, index: u64, ssrc: u32) -> Vec<u8> {
        let mut packet = rtp(index as u16, ssrc);
        let length = packet.len();
        packet.resize(length + OVERHEAD, 0);
        let length = sealer.seal(&mut packet, length, index);
        packet.truncate(length);
        packet
    }

    #[test]
    fn what_is_sealed_is_opened_once_in_any_order_and_over_many_wraps() {
        for suite in ALL {
            let (sealer, mut opener) = (Sealer::new(&master(suite)), Opener::new(&master(suite), Progress::default()));
            for index in (65_000..400_000).step_by(97) {
                for index in [index, index - 40] {
                    let packet = sealed(&sealer, index, 9);
                    assert_eq!(opener.open(&mut packet.clone()), Ok(&rtp(index as u16, 9)[..]), "{suite:?} {index}");
                    assert_eq!(opener.open(&mut packet.clone()), Err(SrtpError::Replayed));
                }
            }
            assert_eq!(opener.progress()[0], Some((9, 65_000 + (334_999 / 97) * 97)));
            // Another source begins anew, the first one goes on.
            assert!(opener.open(&mut sealed(&sealer, 5, 10)).is_ok());
            assert!(opener.open(&mut sealed(&sealer, 400_010, 9)).is_ok());
            assert_eq!(opener.open(&mut sealed(&sealer, 5, 10)), Err(SrtpError::Replayed));
            // Whoever joins later has to know how often the numbers have wrapped.
            let late = || sealed(&sealer, 400_020, 9);
            assert_eq!(Opener::new(&master(suite), Progress::default()).open(&mut late()), Err(SrtpError::Forged));
            let before = Progress { heard: Some((9, 399_000)), ..Progress::default() };
            assert!(Opener::new(&master(suite), before).open(&mut late()).is_ok());
        }
    }

    #[test]
    fn another_key_goes_on_with_the_numbers_or_begins_anew() {
        for suite in ALL {
            let other = MasterKey::new(suite, vec![9; suite.octets()]).expect("as long as it must be");
            for index in [400_000, 7000] {
                let mut before =
                    Opener::new(&master(suite), Progress { heard: Some((9, 399_990)), ..Progress::default() });
                assert!(before.open(&mut sealed(&Sealer::new(&master(suite)), 399_995, 9)).is_ok());
                let (sealer, mut opener) = (Sealer::new(&other), Opener::new(&other, Progress::default()));
                opener.follow(&before);
                assert_eq!(opener.open(&mut sealed(&Sealer::new(&master(suite)), index, 9)), Err(SrtpError::Forged));
                assert!(opener.open(&mut sealed(&sealer, index, 9)).is_ok(), "{suite:?} {index}");
                assert!(opener.open(&mut sealed(&sealer, index + 1, 9)).is_ok(), "{suite:?} {index}");
            }
        }
    }

    #[test]
    fn reports_are_sealed_too() {
        for suite in ALL {
            let (sealer, mut opener) = (Sealer::new(&master(suite)), Opener::new(&master(suite), Progress::default()));
            let mut report = hex("80c90001 0badcafe 81ca0002 0badcafe 01020304");
            let (plain, length) = (report.clone(), report.len());
            report.resize(length + OVERHEAD, 0);
            let length = sealer.seal_rtcp(&mut report, length, 7);
            report.truncate(length);
            assert_ne!(report[8..20], plain[8..]);
            assert_eq!(opener.open_rtcp(&mut report.clone()), Ok(&plain[..]));
            assert_eq!(opener.open_rtcp(&mut report.clone()), Err(SrtpError::Replayed));
            assert_eq!(opener.progress()[1], Some((0x0bad_cafe, 7)));
            // Another source under the same key counts for itself.
            let mut other = [&plain[..4], &[7; 4], &plain[8..], &[0; OVERHEAD]].concat();
            let length = sealer.seal_rtcp(&mut other, plain.len(), 1);
            other.truncate(length);
            assert!(opener.open_rtcp(&mut other.clone()).is_ok());
            assert_eq!(opener.open_rtcp(&mut other.clone()), Err(SrtpError::Replayed));
            let before = Progress { reported: opener.progress()[1], ..Progress::default() };
            assert_eq!(
                Opener::new(&master(suite), before).open_rtcp(&mut other),
                Err(SrtpError::Replayed),
                "elsewhere"
            );
        }
    }

    #[test]
    fn keys_are_not_printed() {
        assert_eq!(format!("{:?}", master(Suite::AesCm32)), "MasterKey { suite: AesCm32, .. }");
    }

    proptest! {
        #[test]
        fn what_was_changed_on_the_way_is_not_believed(suite in 0..4_usize, octet in 0..60_usize, bit in 0..8_u8) {
            let master = master(ALL[suite]);
            let mut packet = sealed(&Sealer::new(&master), 77, 9);
            let octet = octet % packet.len();
            packet[octet] ^= 1 << bit;
            prop_assert!(Opener::new(&master, Progress::default()).open(&mut packet).is_err());
        }

        #[test]
        fn any_bytes_are_refused(suite in 0..4_usize, bytes in proptest::collection::vec(any::<u8>(), 0..200), rtcp in any::<bool>()) {
            let (mut opener, mut bytes) = (Opener::new(&master(ALL[suite]), Progress::default()), bytes);
            let opened = if rtcp { opener.open_rtcp(&mut bytes) } else { opener.open(&mut bytes) };
            prop_assert!(opened.is_err());
        }
    }
}
