//! Conversations in; tokens out.
//!
//! Enters: [`Request::Prime`], [`Request::Think`] (each also with an adapter), [`Request::Cancel`], [`Request::Forget`],
//! adapters to load and drop. Leaves: [`Event::Token`], [`Event::Thought`], [`Event::Adapters`], [`Event::Failed`]. Never here: a microphone, a voice, a log line with a word of a caller.
//!
//! ```text
//!  submit ──bounded queue──► scheduler ── step ──► models::transformer
//!                              │  template · tokenizer (in)    sequences: whose keys and values are where
//!                              └─ sampler · answer (out) ──► Outlet
//!  load ── a thread each ──► adapters
//! ```

mod adapters;
mod answer;
mod queue;
mod sampler;
mod scheduler;
mod sequences;
mod template;
mod tokenizer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use callbox_wire::{CallId, Event, Failure, Request, Role, RoleInfo, TurnId};
use candle_core::Device;
use crossbeam_channel::{Sender, TrySendError, bounded};

use self::queue::{Loaded, Order};
use self::scheduler::Scheduler;
pub use self::template::Template;
pub use self::tokenizer::Tokenizer;
use crate::device::Gate;
use crate::kernels::{Level, Pool};
use crate::models::transformer::{BaseModel, Numbers, Piece, TensorConfig, Transformer, Wanted};
use crate::role::{SharedOutlet, Worker};
use crate::weights::gguf::Gguf;

/// Messages that may wait; most are cancellations, which cost nothing.
const INBOX: usize = 1024;
/// Tokens of the warm-up prompt: more than any one chunk of a prompt.
const WARM_UP: usize = 160;

/// How to start a [`Mind`].
#[derive(Clone, Debug)]
pub struct Config {
    /// A GGUF file.
    pub model: PathBuf,
    /// A folder for the model's packed form; made if missing.
    pub cache: PathBuf,
    /// Threads that compute.
    pub threads: usize,
    /// Conversations whose keys and values are kept at once; also how many are answered at once.
    pub max_sequences: usize,
    /// The longest conversation, its answer included, in tokens; the model's own limit also holds.
    pub context: usize,
    /// Where it computes.
    pub device: Device,
    /// Computes with tensors, as every device but the processor does: there only to be tested.
    pub tensors: bool,
    /// With tensors: tokens whose keys and values are kept, of all conversations together. None: as many as there may be.
    pub kv_tokens: Option<usize>,
}

/// The language model's role.
pub struct Mind {
    info: RoleInfo,
    /// What adapters have to fit.
    base: Arc<BaseModel>,
    outlet: SharedOutlet,
    /// Thoughts that were submitted and have not ended.
    thoughts: Arc<AtomicUsize>,
    most_thoughts: usize,
    inbox: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Mind {
    /// Loads the model, warms it up, and starts its thread.
    ///
    /// # Errors
    /// If the file is missing or not a model that can be run, or the cache cannot be written; one sentence.
    pub fn start(config: &Config, gate: Gate, outlet: SharedOutlet) -> Result<Self> {
        ensure!(config.max_sequences > 0 && config.context > 1, "the mind needs room for a conversation");
        let started = now();
        let gguf = Gguf::open(&config.model)?;
        let tokenizer = Tokenizer::from_gguf(gguf.head())?;
        let template = Template::from_gguf(gguf.head(), &tokenizer)?;
        let mut model = model(config, &gguf)?;
        let base = Arc::new(BaseModel::new(gguf.head(), model.spec()));
        let loaded = now();
        warm_up(&mut model).context("the language model's warm-up failed")?;
        let warmed = now();
        let millis = |from: Instant, to: Instant| u32::try_from((to - from).as_millis()).unwrap_or(u32::MAX);
        let name = config.model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let info = RoleInfo {
            role: Role::Mind,
            model: name,
            load_ms: millis(started, loaded),
            warmup_ms: millis(loaded, warmed),
        };

        let (inbox, orders) = bounded(INBOX);
        let thoughts = Arc::new(AtomicUsize::new(0));
        let scheduler = Scheduler::new(
            model,
            tokenizer,
            template,
            config.max_sequences,
            gate,
            Arc::clone(&outlet),
            orders,
            Arc::clone(&thoughts),
        );
        let thread = std::thread::Builder::new().name("mind".into()).spawn(move || scheduler.run())?;
        let most_thoughts = 4 * config.max_sequences;
        Ok(Self { info, base, outlet, thoughts, most_thoughts, inbox: Some(inbox), thread: Some(thread) })
    }

    /// False if the order was not taken; whoever asked was told.
    fn order(&self, order: Order) -> bool {
        let Some(inbox) = &self.inbox else { return false };
        match inbox.try_send(order) {
            Ok(()) => true,
            Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) => {
                tracing::error!("the mind does not take orders any more");
                let (call, turn) = match order {
                    Order::Ask(Request::Think { call, turn, .. } | Request::ThinkWith { call, turn, .. }) => {
                        self.thoughts.fetch_sub(1, Ordering::AcqRel);
                        (call, turn)
                    }
                    Order::Ask(Request::LoadAdapter { call, turn, .. } | Request::DropAdapter { call, turn, .. }) => {
                        (call, turn)
                    }
                    _ => return false,
                };
                self.fail(call, turn, Failure::Internal, "the language model does not take work".to_owned());
                false
            }
        }
    }

    fn fail(&self, call: CallId, turn: TurnId, failure: Failure, reason: String) {
        self.outlet.send(Event::Failed { call, turn, role: Role::Mind, failure, reason });
    }

    /// Reads an adapter's files beside the answers that go on. The scheduler knows of it first, so that what is asked for
    /// after this waits for it.
    fn load(&self, request: Request) {
        let Request::LoadAdapter { call, turn, name, folder, sha256 } = request.clone() else { return };
        let (Some(inbox), base) = (self.inbox.clone(), Arc::clone(&self.base)) else { return };
        if !self.order(Order::Ask(request)) {
            return;
        }
        let loaded = {
            let (inbox, name) = (inbox.clone(), name.clone());
            move || {
                let result = adapters::load(folder.as_ref(), &sha256, &base);
                // Nobody takes it any more: the mind has ended.
                drop(inbox.send(Order::Loaded(Loaded { call, turn, name, result })));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("adapter".into()).spawn(loaded) {
            let result = Err(format!("no thread can be had to read it: {error}"));
            drop(inbox.try_send(Order::Loaded(Loaded { call, turn, name, result })));
        }
    }
}

impl Worker for Mind {
    fn info(&self) -> &RoleInfo {
        &self.info
    }

    fn submit(&self, request: Request) {
        if let Request::Think { call, turn, .. } | Request::ThinkWith { call, turn, .. } = &request {
            let taken = self.thoughts.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count < self.most_thoughts).then_some(count + 1)
            });
            if taken.is_err() {
                let reason = format!("{} answers are being thought of already", self.most_thoughts);
                self.fail(*call, *turn, Failure::Overloaded, reason);
                return;
            }
        }
        match request {
            Request::LoadAdapter { .. } => self.load(request),
            _ => drop(self.order(Order::Ask(request))),
        }
    }

    fn beat(&self, done: Box<dyn FnOnce() + Send>) {
        self.order(Order::Beat(done));
    }
}

impl Drop for Mind {
    fn drop(&mut self) {
        self.inbox = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the mind's thread had panicked");
        }
    }
}

/// The processor has kernels of its own; everywhere else tensors compute.
fn model(config: &Config, gguf: &Gguf) -> Result<Transformer> {
    let context = config.context;
    if config.device.is_cpu() && !config.tensors {
        let pool = Pool::new(config.threads)?;
        return Transformer::load(&config.model, gguf, &config.cache, context, Level::detect(), pool);
    }
    // One more than there are conversations: what was primed.
    let tokens = config.kv_tokens.unwrap_or_else(|| config.max_sequences.saturating_add(1).saturating_mul(context));
    ensure!(tokens >= context, "there is room for {tokens} tokens, and one conversation may have {context}");
    let config = TensorConfig { device: config.device.clone(), tokens, numbers: Numbers::AsStored };
    Transformer::load_tensors(gguf, context, &config)
}

/// A prompt and three tokens: reads every weight, grows every buffer, wakes every thread.
fn warm_up(model: &mut Transformer) -> Result<()> {
    let length = WARM_UP.min(model.context() - 1);
    let vocabulary = u32::try_from(model.spec().vocabulary)?;
    let mut cache = model.cache(length + 3);
    let prompt: Vec<u32> = (0..u32::try_from(length)?).map(|index| index.wrapping_mul(97) % vocabulary).collect();
    for tokens in [&prompt[..], &[0], &[0], &[0]] {
        if cache.len() + tokens.len() > model.context() {
            break;
        }
        let mut pieces = [Piece { tokens, cache: &mut cache, wanted: Wanted::Last, adapter: None }];
        let logits = model.step(&mut pieces, &mut || true)?.unwrap_or_default();
        ensure!(logits.iter().all(|logit| logit.is_finite()), "it computes numbers that are none");
    }
    Ok(())
}

/// The engine's edge: waiting and computing are measured here.
#[expect(clippy::disallowed_methods, reason = "the scheduler is where the engine's time is taken")]
fn now() -> Instant {
    Instant::now()
}
