//! The room media: RTP in, telephone audio out, and back. Packets of one call enter; frames of 20 ms leave towards the
//! call's task; its frames come back and leave as packets. Outside, all audio has 16 kHz, whatever the line has agreed
//! on and may agree on next. Never here: SIP, meaning of the audio, waiting for anything but the clock.
//!
//! Everything except `socket`, `ports` and `pacer` is free of sockets, clocks and randomness: `now` is an argument.
//! One thread, `callbox-media`, drives all calls; a call's task holds a [`MediaSession`] and talks to it through bounded
//! rings. Nothing on that thread allocates, locks or waits per packet.

mod capture;
pub mod codec;
pub mod conceal;
pub mod dtmf;
mod echo;
pub mod g711;
pub mod g722;
mod heard;
mod inband;
mod inbound;
pub mod jitter;
mod keys;
mod latch;
mod lateness;
mod media_session;
mod missed;
mod outbound;
mod pacer;
mod playout;
mod ports;
pub mod resample;
pub mod rtcp;
pub mod rtp;
pub mod session;
mod socket;
pub mod srtp;

pub use capture::{Capture, Captured};
pub use codec::Codec;
pub use heard::Heard;
pub use keys::Keys;
pub use latch::Latch;
pub use lateness::Histogram;
pub use media_session::{Full, MediaSession, Tap};
pub use missed::Missed;
pub use pacer::{Media, MediaConfig, MediaError, MediaStats, MediaThread};
pub use playout::{PlayFrame, PlayQueue, Playout};
pub use session::{Change, Ends, Format, Outgoing, Session, SessionParameters, SessionStats};
pub use socket::Reservation;

use std::time::Duration;

use crate::base::{ClauseId, Pii, TurnId};

/// Samples per second of every frame.
pub const RATE: usize = 16_000;

/// Samples of one frame: 20 ms.
pub const FRAME: usize = 320;

/// How long one frame lasts.
pub const FRAME_TIME: Duration = Duration::from_millis(20);

/// Signed 16-bit mono samples of one frame.
pub type Samples = [i16; FRAME];

/// What the caller said in 20 ms. Every call yields exactly one every 20 ms, whatever the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// First sample, counted at 16 kHz from the opening of the session; shared with [`TapFrame`].
    pub timestamp: u64,
    /// Some of it was invented, because packets were lost or late.
    pub concealed: bool,
    /// It is our own voice that comes back from the far end, and nobody over it.
    pub echo: bool,
    /// The audio; zero where nothing was sent.
    pub samples: Samples,
}

impl Frame {
    /// In which nothing was sent.
    const fn silence(timestamp: u64) -> Self {
        Self { timestamp, concealed: false, echo: false, samples: [0; FRAME] }
    }

    fn is_silence(&self) -> bool {
        !self.concealed && !self.echo && self.samples.iter().all(|sample| *sample == 0)
    }
}

/// What a call's task is told. Bounded: what does not fit is dropped and counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The last queued frame has been played to its end.
    Drained,
    /// The caller has pressed and released a key.
    Dtmf {
        /// `0`-`9`, `*`, `#`, `A`-`D`; may be part of a PIN.
        digit: Pii<char>,
        /// How long it was held.
        duration: Duration,
    },
    /// A flush has taken effect; so many frames will never be heard.
    Flushed {
        /// Frames.
        discarded: u64,
    },
    /// A clause is over, or has run dry, or was cut off: so many of its frames have been sent so far.
    Played {
        /// The turn.
        turn: TurnId,
        /// The clause.
        clause: ClauseId,
        /// Frames of 20 ms, counted from the clause's first.
        frames: u64,
    },
    /// The last of the keys that were to be pressed at the far end was.
    Pressed,
    /// Neither RTP nor RTCP has been received for this long; told again and again while it lasts.
    Silence {
        /// Since the last packet, the last change, or the opening.
        since: Duration,
    },
}

/// Which way a tapped frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the far end, after jitter buffer and concealment.
    Received,
    /// To the far end, as it was encoded.
    Sent,
}

/// One frame of a recording. Frames of both directions with the same index happened at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapFrame {
    /// Which way it went.
    pub direction: Direction,
    /// 20 ms frames since the opening of the session.
    pub index: u64,
    /// The audio.
    pub samples: Samples,
}
