//! The thread that owns the voice activity detector and every call's recent audio.
//!
//! Enters: the requests of the role, in their order. Leaves: [`Event::Activity`] for each window, jobs for the scribe. Never
//! passes the gate: a window costs less than asking.

use std::collections::HashMap;

use callbox_wire::{CallId, Event, Failure, Language, Pcm, Request, TurnId};
use crossbeam_channel::Receiver;

use super::desk::{Beat, Desk, Job};
use super::ring::Ring;
use super::{failed, now};
use crate::models::silero::{Silero, State, WINDOW};
use crate::role::SharedOutlet;

/// Streams at once; each remembers up to a megabyte.
const STREAMS: usize = 1024;

pub(super) enum Message {
    Request(Request),
    /// Audio, and how many samples before it were lost because the queue was full.
    Audio(CallId, u64, Pcm),
    Beat(Beat),
}

struct Stream {
    ring: Ring,
    state: State,
    window: [f32; WINDOW],
    filled: usize,
}

pub(super) struct Listener<'a> {
    pub(super) silero: &'a Silero,
    pub(super) desk: &'a Desk,
    pub(super) outlet: &'a SharedOutlet,
    /// Whether the scribe does.
    pub(super) knows: &'a dyn Fn(Language) -> bool,
}

impl Listener<'_> {
    /// Until the other end of the channel is dropped.
    pub(super) fn run(&self, messages: &Receiver<Message>) {
        let mut streams: HashMap<CallId, Stream> = HashMap::new();
        for message in messages {
            match message {
                Message::Audio(call, lost, pcm) => {
                    if let Some(stream) = streams.get_mut(&call) {
                        self.hear(call, stream, lost, &pcm.0);
                    }
                }
                Message::Request(Request::Listen { call }) => {
                    if streams.len() < STREAMS || streams.contains_key(&call) {
                        streams.insert(call, Stream::new());
                    } else {
                        let reason = "no more calls can be listened to";
                        self.outlet.send(failed(call, TurnId::default(), Failure::Overloaded, reason));
                    }
                }
                Message::Request(Request::Transcribe { call, turn, from, to }) => {
                    self.asked(streams.get(&call), (call, turn), Language::ENGLISH, (from, to));
                }
                Message::Request(Request::TranscribeIn { language, call, turn, from, to }) => {
                    self.asked(streams.get(&call), (call, turn), language, (from, to));
                }
                Message::Request(Request::Cancel { call, turn }) => self.desk.cancel(call, Some(turn)),
                Message::Request(Request::Forget { call }) => {
                    streams.remove(&call);
                    self.desk.cancel(call, None);
                }
                Message::Request(_) => {}
                Message::Beat(beat) => self.desk.beat(beat),
            }
        }
    }

    fn hear(&self, call: CallId, stream: &mut Stream, lost: u64, pcm: &[i16]) {
        if lost > 0 {
            // What was lost is silence; the detector begins anew after it, and its windows stay where they were.
            let lost = usize::try_from(lost).unwrap_or(usize::MAX);
            stream.ring.push(std::iter::repeat_n(0, lost));
            stream.state = State::default();
            stream.filled = (stream.filled + lost % WINDOW) % WINDOW;
            stream.window = [0.0; WINDOW];
        }
        let before = stream.ring.heard();
        stream.ring.push(pcm.iter().copied());
        for (sample, at) in pcm.iter().zip(before + 1..) {
            stream.window[stream.filled] = f32::from(*sample) / 32_768.0;
            stream.filled += 1;
            if stream.filled == WINDOW {
                stream.filled = 0;
                let speech = self.silero.step(&mut stream.state, &stream.window);
                self.outlet.send(Event::Activity { call, at, speech });
            }
        }
    }

    fn asked(&self, stream: Option<&Stream>, turn: (CallId, TurnId), language: Language, span: (u64, u64)) {
        if let Err((failure, reason)) = self.transcribe(stream, turn, language, span) {
            self.outlet.send(failed(turn.0, turn.1, failure, reason));
        }
    }

    fn transcribe(
        &self,
        stream: Option<&Stream>,
        (call, turn): (CallId, TurnId),
        language: Language,
        (from, to): (u64, u64),
    ) -> Result<(), (Failure, &'static str)> {
        if !(self.knows)(language) {
            return Err((Failure::Invalid, "the speech model does not know the agent's language"));
        }
        let stream = stream.ok_or((Failure::Invalid, "this call is not listened to"))?;
        let samples = stream.ring.span(from, to).ok_or((Failure::Invalid, "this span is not or no more there"))?;
        let asked = now();
        let age =
            std::time::Duration::from_secs_f64((stream.ring.heard() - to) as f64 / f64::from(callbox_wire::EARS_RATE));
        let job = Job {
            call,
            turn,
            samples,
            language,
            asked,
            ended: asked.checked_sub(age).unwrap_or(asked),
            cancelled: Default::default(),
        };
        if self.desk.put(job) { Ok(()) } else { Err((Failure::Overloaded, "too many utterances wait")) }
    }
}

impl Stream {
    fn new() -> Self {
        Self { ring: Ring::default(), state: State::default(), window: [0.0; WINDOW], filled: 0 }
    }
}
