//! An engine without models: it hears loudness, says what its script says, and speaks in tones.
//!
//! Enters: the same requests as a real engine. Leaves: the same events, after the delays of the script. It lets every
//! test of the daemon, and every measurement of telephony alone, run without a model. It never pretends to be one: it
//! is used only when the configuration says so.

use std::collections::{BTreeMap, HashMap};
use std::f32::consts::TAU;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use callbox_wire::{
    AdapterInfo, CallId, ClauseId, EARS_RATE, Event, Failure, Finish, Pcm, Request, Role, RoleInfo, Thought,
    Transcript, TurnId,
};
use serde::Deserialize;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Driver, Outlet, Wiring};

/// The window of the voice activity detector, in samples, as Silero has it.
const WINDOW: usize = 512;

/// Numbers of a sentence's vector.
const EMBEDDED: usize = 384;

/// Mean square of a window (full scale is 1) above which the caller counts as speaking: −40 dB.
const LOUD: f32 = 1e-4;

/// What the engine hears and says, in the order of the caller's turns; it begins again after the last.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The turns.
    pub answer: Vec<ScriptedAnswer>,
    /// From the end of a span to its words.
    #[serde(default)]
    pub stt_ms: u64,
    /// From the prompt to the first token.
    #[serde(default)]
    pub first_token_ms: u64,
    /// From token to token.
    #[serde(default)]
    pub token_ms: u64,
    /// From a clause to its first frame.
    #[serde(default)]
    pub tts_ms: u64,
    /// Length of the audio of a clause for each of its characters.
    #[serde(default = "default_ms_per_character")]
    pub ms_per_character: u32,
}

/// One turn of a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedAnswer {
    /// What the ears understand, whatever was said.
    pub heard: String,
    /// What the mind answers to that.
    pub say: String,
}

const fn default_ms_per_character() -> u32 {
    60
}

/// Drives a script.
pub struct ScriptedEngine {
    script: Arc<Script>,
}

impl ScriptedEngine {
    /// Starts nothing yet.
    pub fn new(script: Script) -> Self {
        Self { script: Arc::new(script) }
    }
}

#[derive(Default)]
struct Call {
    /// Energy and length of the window that is being heard.
    window: (f32, usize),
    heard: u64,
    asked: usize,
    turns: HashMap<TurnId, Turn>,
}

struct Turn {
    cancelled: CancellationToken,
    credit: Arc<Semaphore>,
    /// Ends with the clause that was asked for last: clauses are spoken one after the other.
    spoken: Option<oneshot::Receiver<()>>,
}

impl Default for Turn {
    fn default() -> Self {
        Self { cancelled: CancellationToken::new(), credit: Arc::new(Semaphore::new(0)), spoken: None }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

#[async_trait]
impl Driver for ScriptedEngine {
    async fn drive(self: Box<Self>, mut wiring: Wiring) {
        let info = |role| RoleInfo { role, model: "scripted".into(), load_ms: 0, warmup_ms: 0 };
        let roles = Role::ALL.map(info).into();
        let mut calls = HashMap::new();
        let mut adapters = BTreeMap::new();
        for files in wiring.adapters.wanted() {
            adapt(&files.request(TurnId(0)), &mut adapters);
        }
        wiring.adapters.are(adapters.values().cloned().collect());
        wiring.outlet.ready(roles);
        loop {
            tokio::select! {
                Some(request) = wiring.requests.recv() => match adapt(&request, &mut adapters) {
                    Some(event) => wiring.outlet.event(event),
                    None => self.take(request, &mut calls, &wiring.outlet),
                },
                () = wiring.stop.cancelled() => return,
                else => return,
            }
        }
    }
}

/// The answer to a request about adapters. A script reads none: it remembers that they are there.
fn adapt(request: &Request, adapters: &mut BTreeMap<String, AdapterInfo>) -> Option<Event> {
    let (call, turn) = match request {
        Request::LoadAdapter { call, turn, name, sha256, .. } => {
            let (name, sha256) = (name.clone(), sha256.clone());
            adapters.insert(name.clone(), AdapterInfo { name, sha256, rank: 0, layers: 0, bytes: 0 });
            (*call, *turn)
        }
        Request::DropAdapter { call, turn, name } => {
            if adapters.remove(name).is_none() {
                let (role, failure) = (Role::Mind, Failure::Invalid);
                let reason = format!("no adapter {name} is loaded");
                return Some(Event::Failed { call: *call, turn: *turn, role, failure, reason });
            }
            (*call, *turn)
        }
        _ => return None,
    };
    Some(Event::Adapters { call, turn, adapters: adapters.values().cloned().collect() })
}

impl ScriptedEngine {
    fn take(&self, request: Request, calls: &mut HashMap<CallId, Call>, outlet: &Outlet) {
        match request {
            Request::Hello { .. }
            | Request::Ping { .. }
            | Request::Prime { .. }
            | Request::PrimeWith { .. }
            | Request::LoadAdapter { .. }
            | Request::DropAdapter { .. } => {}
            Request::Listen { call } => {
                let listening = calls.entry(call).or_default();
                listening.window = (0.0, 0);
                listening.heard = 0;
            }
            Request::Hear { call, pcm } => calls.entry(call).or_default().hear(call, &pcm, outlet),
            Request::Transcribe { call, turn, from, to } | Request::TranscribeIn { call, turn, from, to, .. } => {
                let entry = calls.entry(call).or_default();
                let answer = &self.script.answer[entry.asked % self.script.answer.len()];
                entry.asked += 1;
                let transcript = Transcript {
                    text: answer.heard.clone(),
                    declined: None,
                    no_speech: 0.0,
                    mean_logprob: -0.1,
                    audio_ms: u32::try_from(to.saturating_sub(from) / u64::from(EARS_RATE / 1000)).unwrap_or(u32::MAX),
                    queue_us: 0,
                    compute_us: self.script.stt_ms * 1000,
                };
                let delay = Duration::from_millis(self.script.stt_ms);
                spawn(entry, turn, outlet, async move |outlet| {
                    sleep(delay).await;
                    outlet.event(Event::Heard { call, turn, transcript });
                });
            }
            // A script says the same with every adapter.
            Request::Think { call, turn, messages, .. } | Request::ThinkWith { call, turn, messages, .. } => {
                let asked = messages.last().map(|message| message.content.as_str()).unwrap_or_default();
                let answer = self.script.answer.iter().find(|answer| asked.contains(&answer.heard));
                let Some(answer) = answer else {
                    let reason = "the script has no answer to that".to_owned();
                    let failed = Event::Failed { call, turn, role: Role::Mind, failure: Failure::Invalid, reason };
                    outlet.event(failed);
                    return;
                };
                let say = answer.say.clone();
                let first = Duration::from_millis(self.script.first_token_ms);
                let pause = Duration::from_millis(self.script.token_ms);
                spawn(calls.entry(call).or_default(), turn, outlet, async move |outlet| {
                    sleep(first).await;
                    let mut tokens = 0;
                    for word in say.split_inclusive(' ') {
                        sleep(pause).await;
                        outlet.event(Event::Token { call, turn, text: word.to_owned() });
                        tokens += 1;
                    }
                    let thought = Thought {
                        finish: Finish::Stop,
                        prompt_tokens: 0,
                        cached_tokens: 0,
                        answer_tokens: tokens,
                        queue_us: 0,
                        prefill_us: micros(first),
                        decode_us: micros(pause) * u64::from(tokens),
                    };
                    outlet.event(Event::Thought { call, turn, thought });
                });
            }
            Request::Speak { call, turn, clause, text, rate, credit, .. } => {
                let entry = calls.entry(call).or_default();
                let speaking = entry.turns.entry(turn).or_default();
                let credits = Arc::clone(&speaking.credit);
                credits.add_permits(credit as usize);
                let (done, over) = oneshot::channel();
                let before = speaking.spoken.replace(over);
                let frames = (self.script.ms_per_character * u32::try_from(text.chars().count()).unwrap_or(1000)) / 20;
                let delay = Duration::from_millis(self.script.tts_ms);
                spawn(entry, turn, outlet, async move |outlet| {
                    if let Some(before) = before {
                        // It ends by being dropped, whatever became of the clause.
                        before.await.unwrap_or_default();
                    }
                    sleep(delay).await;
                    for index in 0..frames {
                        let Ok(permit) = credits.acquire().await else { return };
                        permit.forget();
                        outlet.event(Event::Audio { call, turn, clause, pcm: tone(rate, index) });
                    }
                    outlet.event(spoken(call, turn, clause, frames, delay));
                    drop(done);
                });
            }
            Request::Grant { call, turn, frames } => {
                if let Some(turn) = calls.get(&call).and_then(|call| call.turns.get(&turn)) {
                    turn.credit.add_permits(frames as usize);
                }
            }
            Request::Cancel { call, turn } => {
                if let Some(call) = calls.get_mut(&call) {
                    call.turns.remove(&turn);
                }
            }
            Request::Embed { call, turn, text, .. } => {
                outlet.event(Event::Embedded { call, turn, vector: bag(&text), queue_us: 0, compute_us: 0 });
            }
            Request::Forget { call } => {
                calls.remove(&call);
            }
        }
    }
}

fn spawn<F>(call: &mut Call, turn: TurnId, outlet: &Outlet, work: impl FnOnce(Outlet) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let cancelled = call.turns.entry(turn).or_default().cancelled.clone();
    let work = work(outlet.clone());
    tokio::spawn(cancelled.run_until_cancelled_owned(work));
}

fn spoken(call: CallId, turn: TurnId, clause: ClauseId, frames: u32, first: Duration) -> Event {
    Event::Spoken { call, turn, clause, frames, first_us: micros(first), compute_us: micros(first) }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The words of a sentence without their order, as a vector of length 1.
fn bag(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0_f32; EMBEDDED];
    for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let digest = word.bytes().fold(5381_usize, |sum, byte| sum.wrapping_mul(33) ^ usize::from(byte));
        vector[digest % EMBEDDED] += 1.0;
    }
    let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|number| *number /= length);
    vector
}

/// 20 ms of 300 Hz at −12 dB, in phase with the frame before.
fn tone(rate: u32, index: u32) -> Pcm {
    let len = rate / 50;
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a tone needs no exactness")]
    let sample = |n: u32| (8000.0 * (TAU * 300.0 * (index * len + n) as f32 / rate as f32).sin()) as i16;
    Pcm((0..len).map(sample).collect())
}

impl Call {
    fn hear(&mut self, call: CallId, pcm: &Pcm, outlet: &Outlet) {
        for &sample in &pcm.0 {
            let (energy, samples) = &mut self.window;
            *energy += (f32::from(sample) / 32768.0).powi(2);
            *samples += 1;
            self.heard += 1;
            if *samples == WINDOW {
                let loud = *energy / WINDOW as f32 > LOUD;
                outlet.event(Event::Activity { call, at: self.heard, speech: if loud { 0.95 } else { 0.02 } });
                self.window = (0.0, 0);
            }
        }
    }
}
