//! Caller audio in; speech activity and words out.
//!
//! Enters: the requests `Listen`, `Hear`, `Transcribe`, `TranscribeIn`, `Cancel`, `Forget`. Leaves: `Activity`, `Heard`, `Failed`. Never
//! here: when a turn ends; that is the dialogue's to say.
//!
//! ```text
//!  submit ─ channel ─► listener (Silero, recent audio) ─ desk ─► scribe (Whisper) ── gate
//!                         └── Activity                              └── Heard
//! ```
//!
//! When the channel is full, audio is dropped and counted, so that positions stay true; a full desk says `Overloaded`.

mod desk;
mod listener;
mod ring;
mod scribe;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use callbox_wire::{CallId, EARS_RATE, Event, Failure, Language, Request, Role, RoleInfo, TurnId};
use candle_core::Device;
use crossbeam_channel::Sender;

use self::desk::{Beat, Desk};
use self::listener::{Listener, Message};
use crate::device::{Gate, Urgency};
use crate::models::silero::{self, Silero};
use crate::models::whisper::{Unhurried, Whisper};
use crate::role::{SharedOutlet, Worker};

/// Messages that may wait, and how many of them may be audio: a second of fifty calls.
const ROOM: usize = 4096;
const ROOM_FOR_AUDIO: usize = 2560;

/// Lengths of the warm-up utterances, in seconds.
const WARM_UP: [usize; 3] = [1, 3, 8];

/// What the ears need.
#[derive(Clone, Debug)]
pub struct Config {
    /// `silero_vad_16k.safetensors`.
    pub vad: PathBuf,
    /// A Whisper checkpoint: OpenAI's, Hugging Face's or whisper.cpp's.
    pub stt: PathBuf,
    /// Threads that one step of the decoder may use on a processor; the encoder uses candle's.
    pub threads: usize,
    /// Where Whisper computes.
    pub device: Device,
    /// Decode with tensors on a processor, too.
    pub tensors: bool,
}

/// The role.
pub struct Ears {
    info: RoleInfo,
    messages: Option<Sender<Message>>,
    /// Samples of each call that found the channel full.
    lost: Mutex<HashMap<CallId, u64>>,
    desk: Arc<Desk>,
    outlet: SharedOutlet,
    threads: Vec<JoinHandle<()>>,
}

impl Ears {
    /// Loads both models, runs them, starts the threads.
    ///
    /// # Errors
    /// If a model cannot be loaded or does not work.
    pub fn start(config: &Config, gate: Gate, outlet: SharedOutlet) -> anyhow::Result<Self> {
        let begun = now();
        let silero = Silero::open(&config.vad).with_context(|| config.vad.display().to_string())?;
        let whisper = if config.tensors {
            Whisper::open_tensors(&config.stt, &config.device)
        } else {
            Whisper::open(&config.stt, &config.device, config.threads)
        };
        let whisper = whisper.with_context(|| config.stt.display().to_string())?;
        let loaded = now();
        {
            let _permit = gate.enter(Urgency::Background);
            warm_up(&silero, &whisper)?;
        }
        let info = RoleInfo {
            role: Role::Ears,
            model: config.stt.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            load_ms: (loaded - begun).as_millis() as u32,
            warmup_ms: (now() - loaded).as_millis() as u32,
        };
        let desk = Arc::new(Desk::default());
        let (messages, inbox) = crossbeam_channel::bounded(ROOM);
        let whisper = Arc::new(whisper);
        let listener = {
            let (desk, outlet, whisper) = (Arc::clone(&desk), Arc::clone(&outlet), Arc::clone(&whisper));
            spawn("ears-listener", move || {
                let knows = |language| whisper.knows(language);
                Listener { silero: &silero, desk: &desk, outlet: &outlet, knows: &knows }.run(&inbox);
            })?
        };
        let scribe = {
            let (desk, outlet) = (Arc::clone(&desk), Arc::clone(&outlet));
            spawn("ears-scribe", move || scribe::run(&whisper, &desk, &gate, &outlet))?
        };
        Ok(Self {
            info,
            messages: Some(messages),
            lost: Mutex::default(),
            desk,
            outlet,
            threads: vec![listener, scribe],
        })
    }

    fn send(&self, message: Message) -> bool {
        self.messages.as_ref().is_some_and(|messages| messages.try_send(message).is_ok())
    }

    fn ask(&self, call: CallId, turn: TurnId, request: Request) {
        if !self.send(Message::Request(request)) {
            self.outlet.send(failed(call, turn, Failure::Overloaded, "the ears are behind"));
        }
    }
}

impl Worker for Ears {
    fn info(&self) -> &RoleInfo {
        &self.info
    }

    fn submit(&self, request: Request) {
        match request {
            Request::Hear { call, pcm } => {
                let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
                if self.messages.as_ref().is_some_and(|messages| messages.len() < ROOM_FOR_AUDIO) {
                    self.send(Message::Audio(call, lost.remove(&call).unwrap_or(0), pcm));
                } else {
                    *lost.entry(call).or_default() += pcm.0.len() as u64;
                }
            }
            Request::Listen { call } | Request::Forget { call } => {
                self.lost.lock().unwrap_or_else(PoisonError::into_inner).remove(&call);
                self.ask(call, TurnId::default(), request);
            }
            Request::Transcribe { call, turn, .. }
            | Request::TranscribeIn { call, turn, .. }
            | Request::Cancel { call, turn } => self.ask(call, turn, request),
            _ => {}
        }
    }

    fn beat(&self, done: Beat) {
        self.send(Message::Beat(done));
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.messages = None;
        self.desk.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the ears had panicked");
            }
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}

/// Noise in, whatever out; fails if a model does not work.
fn warm_up(silero: &Silero, whisper: &Whisper) -> anyhow::Result<()> {
    let mut seed = 1_u32;
    let mut noise = |count: usize| -> Vec<f32> {
        let next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 24) as f32 * 0.1 - 0.05
        };
        std::iter::repeat_with(next).take(count).collect()
    };
    let mut state = silero::State::default();
    for window in noise(32 * silero::WINDOW).as_chunks().0 {
        let speech = silero.step(&mut state, window);
        anyhow::ensure!((0.0..=1.0).contains(&speech), "the voice activity detector computes no probability");
    }
    for seconds in WARM_UP {
        let samples = seconds * EARS_RATE as usize;
        let utterances = vec![noise(samples); whisper.batch(samples)];
        for together in [&utterances[..1], &utterances[1..]] {
            let together: Vec<_> = together.iter().map(|noise| (noise.as_slice(), Language::ENGLISH)).collect();
            let hearings = whisper.transcribe_all(&together, &mut Unhurried)?.unwrap_or_default();
            let sound = hearings.len() == together.len() && hearings.iter().all(|h| h.mean_logprob.is_finite());
            anyhow::ensure!(sound, "the speech model computes no numbers");
        }
    }
    Ok(())
}

fn failed(call: CallId, turn: TurnId, failure: Failure, reason: &str) -> Event {
    Event::Failed { call, turn, role: Role::Ears, failure, reason: reason.into() }
}

#[expect(clippy::disallowed_methods, reason = "the edge: a role measures its own work")]
fn now() -> Instant {
    Instant::now()
}
