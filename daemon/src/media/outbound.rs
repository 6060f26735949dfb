//! What the far end hears. Frames and keys enter at every tick; RTP packets leave, of the duration and in the codec that
//! were agreed on, sealed where that was. Never here: a clock, an address. After [`Outbound::new`] nothing is allocated.

use super::codec::{Encoder, MAX_PAYLOAD};
use super::rtp::{HEADER, Packet};
use super::session::SessionParameters;
use super::srtp::{OVERHEAD, Sealer};
use super::{FRAME, Keys, Samples};

/// Frames that a key is held: 100 ms (Q.24 asks for 40).
const HELD: u32 = 5;
/// The end of a key is told three times (RFC 4733 §2.5.1.4).
const ENDS: u32 = 3;
/// Frames of silence after a key, the ends included: 100 ms.
const GAP: u32 = 5;
/// −10 dBm0 or so; all events of ours are as loud.
const VOLUME: u8 = 10;
/// Of each of the two tones where the far end knows no events: −12 dB.
const TONE: f32 = 8000.0;

/// Our stream.
pub(super) struct Outbound {
    pub(super) encoder: Encoder,
    sealer: Option<Sealer>,
    /// There was a sealer at some time.
    pub(super) sealed: bool,
    /// SRTCP's index of the next report: one for all keys, because one that is back must not meet it again.
    pub(super) reports: u32,
    /// Of the next packet: sequence number, and how often that has wrapped.
    pub(super) index: u64,
    /// Of the next frame.
    pub(super) timestamp: u32,
    pub(super) sent: u64,
    pub(super) octets: u32,
    marker: bool,
    keys: Keys,
    /// The key that is being sent: its timestamp, and the frames since it began.
    key: Option<(char, u32, u32)>,
}

impl Outbound {
    /// Begins where `parameters` say.
    pub(super) fn new(parameters: &SessionParameters, encoder: Encoder, sealer: Option<Sealer>) -> Self {
        Self {
            encoder,
            sealed: sealer.is_some() || parameters.progress.sealed,
            sealer,
            reports: parameters.progress.rtcp,
            index: u64::from(parameters.roll_over) << 16 | u64::from(parameters.sequence),
            timestamp: parameters.timestamp,
            sent: 0,
            octets: 0,
            marker: true,
            keys: Keys::default(),
            key: None,
        }
    }

    /// Another key, the same, or none from now on.
    pub(super) fn seal_with(&mut self, sealer: Option<Sealer>) {
        if sealer.is_some() && !std::mem::replace(&mut self.sealed, true) {
            // With its first key the far end begins to count how often the number wraps.
            self.index &= 0xffff;
        }
        self.sealer = sealer;
    }

    /// Seals the report in `buffer[..length]`, if reports are sealed. Returns its new length.
    pub(super) fn seal_report(&mut self, buffer: &mut [u8], length: usize) -> usize {
        let Some(sealer) = &self.sealer else { return length };
        let index = self.reports;
        self.reports = index.wrapping_add(1);
        sealer.seal_rtcp(buffer, length, index)
    }

    /// Keys to send after those that wait; those that do not fit are lost.
    pub(super) fn press(&mut self, keys: Keys) {
        self.keys.extend(keys);
    }

    /// Whether keys are being sent: audio waits.
    pub(super) fn presses(&self) -> bool {
        self.key.is_some() || !self.keys.is_empty()
    }

    /// So many frames did not happen.
    pub(super) fn skip(&mut self, parameters: &SessionParameters, frames: u32) {
        self.encoder.clear();
        self.timestamp = self.timestamp.wrapping_add(frames.wrapping_mul(parameters.codec.clock() / 50));
    }

    /// 20 ms in which nothing may be sent.
    pub(super) fn pause(&mut self, parameters: &SessionParameters) {
        self.marker = true;
        self.skip(parameters, 1);
    }

    /// 20 ms: `send` takes the packets that are full. Returns true with the last of the keys.
    pub(super) fn tick(
        &mut self,
        parameters: &SessionParameters,
        frame: &mut Samples,
        mut send: impl FnMut(&[u8]),
    ) -> bool {
        let clock = parameters.codec.clock();
        let begin = self.timestamp;
        let (mut event, mut done) = (false, false);
        if self.key.is_none() {
            self.key = self.keys.next().map(|digit| (digit, begin, 0));
        }
        if let Some((digit, since, frames)) = self.key {
            event = self.hold(parameters, digit, since, frames, &mut send);
            if !event {
                tones(frame, digit, frames);
            }
            let over = frames + 1 == HELD + GAP;
            self.key = (!over).then_some((digit, since, frames + 1));
            done = over && self.keys.is_empty();
        }
        self.timestamp = begin.wrapping_add(clock / 50);
        if event {
            self.encoder.clear();
            self.marker = true;
            return done;
        }
        self.encoder.push(frame);
        let mut payload = [0; MAX_PAYLOAD];
        loop {
            let waiting = self.encoder.waiting() as u32 * (clock / 8000);
            let Some((octets, _)) = self.encoder.packet(&mut payload) else { break };
            let timestamp = self.timestamp.wrapping_sub(waiting);
            let marker = std::mem::take(&mut self.marker);
            self.send(parameters, (parameters.payload_type, marker, timestamp), &payload[..octets], &mut send);
        }
        done
    }

    /// A frame of a key, as an event if the far end knows those. Whether that takes the place of audio.
    fn hold(
        &mut self,
        parameters: &SessionParameters,
        digit: char,
        since: u32,
        frames: u32,
        send: &mut impl FnMut(&[u8]),
    ) -> bool {
        let Some(payload_type) = parameters.telephone_event.filter(|_| frames < HELD + ENDS) else { return false };
        let event = super::dtmf::EVENTS.iter().position(|key| char::from(*key) == digit).unwrap_or(0) as u8;
        let ended = frames >= HELD;
        let held = (frames + 1).min(HELD) * (parameters.event_clock / 50);
        let [high, low] = (held as u16).to_be_bytes();
        let payload = [event, u8::from(ended) << 7 | VOLUME, high, low];
        self.send(parameters, (payload_type, frames == 0, since), &payload, send);
        true
    }

    fn send(
        &mut self,
        parameters: &SessionParameters,
        (payload_type, marker, timestamp): (u8, bool, u32),
        payload: &[u8],
        send: &mut impl FnMut(&[u8]),
    ) {
        let sequence = self.index as u16;
        let header = Packet { marker, payload_type, sequence, timestamp, ssrc: parameters.ssrc, payload: &[] };
        let length = HEADER + payload.len();
        let mut packet = [0; HEADER + MAX_PAYLOAD + OVERHEAD];
        packet[..HEADER].copy_from_slice(&header.header());
        packet[HEADER..length].copy_from_slice(payload);
        let sealed = self.sealer.as_ref().map_or(length, |sealer| sealer.seal(&mut packet, length, self.index));
        self.index += 1;
        self.sent += 1;
        self.octets = self.octets.wrapping_add(payload.len() as u32);
        send(&packet[..sealed]);
    }
}

/// The two tones of a key (Q.23), for whoever knows no events.
fn tones(frame: &mut Samples, digit: char, frames: u32) {
    frame.fill(0);
    let Some((low, high)) = super::dtmf::tones(digit).filter(|_| frames < HELD) else { return };
    for (n, sample) in frame.iter_mut().enumerate() {
        let time = (frames as usize * FRAME + n) as f32 / super::RATE as f32;
        let wave = |hertz: f32| (std::f32::consts::TAU * hertz * time).sin();
        *sample = (TONE * (wave(low) + wave(high))) as i16;
    }
}
