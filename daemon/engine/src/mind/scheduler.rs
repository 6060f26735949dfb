//! The mind's thread: which rows go into the next step, and what becomes of its logits.
//!
//! Enters: [`Order`]s. Leaves: events. Never here: two roles computing at once (the [`Gate`] is asked before every
//! layer), or a step that a cancelled prompt keeps alive.
//!
//! A step is one row of every answer that is under way, and one piece of at most one prompt: a short one while somebody
//! is being answered, so that nobody's next word waits for another's question.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use callbox_wire::{CallId, ChatMessage, Event, Failure, Finish, Request, Role, Sampling, Thought, TurnId};
use crossbeam_channel::Receiver;

use super::adapters::{Adapters, Named};
use super::answer::{Answer, Said};
use super::now;
use super::queue::{Loaded, Order, Queue};
use super::sampler::Sampler;
use super::sequences::{Sequence, Sequences};
use super::template::Template;
use super::tokenizer::Tokenizer;
use crate::device::{Gate, Urgency};
use crate::models::transformer::{Adapter, Full, Near, Piece, Transformer, Wanted};
use crate::role::SharedOutlet;

/// Rows of a prompt in one step, alone and beside answers.
const CHUNK_ALONE: usize = 128;
const CHUNK_BESIDE: usize = 24;

/// One answer under way.
pub(super) struct Thinking {
    turn: TurnId,
    /// Goes on with it, whatever becomes of its name.
    adapter: Option<Arc<Adapter>>,
    sampler: Sampler,
    answer: Answer,
    prompt_tokens: usize,
    cached_tokens: usize,
    answer_tokens: usize,
    most_tokens: usize,
    asked: Instant,
    begun: Option<Instant>,
    first: Option<Instant>,
}

/// An answer that waits for a sequence.
struct Waiting {
    call: CallId,
    turn: TurnId,
    adapter: Option<Arc<Adapter>>,
    tokens: Vec<u32>,
    sampling: Sampling,
    asked: Instant,
}

/// What the thread owns.
pub(super) struct Scheduler {
    model: Transformer,
    tokenizer: Tokenizer,
    template: Template,
    sequences: Sequences,
    waiting: VecDeque<Waiting>,
    adapters: Adapters,
    gate: Gate,
    outlet: SharedOutlet,
    queue: Queue,
    /// Shared with `Mind::submit`, which counts up.
    thoughts: Arc<AtomicUsize>,
}

impl Scheduler {
    #[expect(clippy::too_many_arguments, reason = "what one thread is given to own")]
    pub(super) fn new(
        model: Transformer,
        tokenizer: Tokenizer,
        template: Template,
        max_sequences: usize,
        gate: Gate,
        outlet: SharedOutlet,
        orders: Receiver<Order>,
        thoughts: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            model,
            tokenizer,
            template,
            sequences: Sequences::new(max_sequences),
            waiting: VecDeque::new(),
            adapters: Adapters::default(),
            gate,
            outlet,
            queue: Queue::new(orders),
            thoughts,
        }
    }

    /// Works until nobody can send orders any more.
    pub(super) fn run(mut self) {
        loop {
            if !self.has_work() {
                self.queue.wait();
            }
            while let Some(order) = self.queue.pop() {
                match order {
                    Order::Ask(request) => self.take(request),
                    Order::Beat(done) => done(),
                    Order::Loaded(loaded) => self.loaded(loaded),
                }
            }
            if !self.queue.is_open() {
                return;
            }
            self.admit();
            self.step();
        }
    }

    fn has_work(&self) -> bool {
        let thinking = self.sequences.calls.iter().any(|sequence| sequence.thinking.is_some());
        thinking || !self.waiting.is_empty() || self.sequences.primed.iter().any(|primed| primed.missing() > 0)
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Prime { messages } => self.prime(None, &messages),
            Request::Think { call, turn, messages, sampling } => self.think(call, turn, None, &messages, sampling),
            Request::PrimeWith { .. } | Request::ThinkWith { .. } => self.take_with(request),
            Request::LoadAdapter { name, .. } => self.adapters.begin(name),
            Request::DropAdapter { call, turn, name } => self.drop_adapter(call, turn, &name),
            Request::Cancel { call, turn } => self.end(call, Some(turn)),
            Request::Forget { call } => {
                self.end(call, None);
                self.sequences.forget(call);
            }
            _ => {}
        }
    }

    /// What names an adapter: with that, once it is there.
    fn take_with(&mut self, request: Request) {
        let (Request::PrimeWith { adapter: name, .. } | Request::ThinkWith { adapter: name, .. }) = &request else {
            return;
        };
        let adapter = match self.adapters.named(name) {
            Named::Loaded(adapter) => Some(adapter),
            Named::Loading => {
                if let Request::ThinkWith { call, .. } = &request {
                    self.end(*call, None);
                }
                return self.adapters.hold(request);
            }
            Named::Unknown => None,
        };
        match (request, adapter) {
            (Request::PrimeWith { messages, .. }, Some(adapter)) => self.prime(Some(adapter), &messages),
            (Request::ThinkWith { call, turn, messages, sampling, .. }, Some(adapter)) => {
                self.think(call, turn, Some(adapter), &messages, *sampling);
            }
            (Request::ThinkWith { adapter, call, turn, .. }, None) => {
                self.end(call, None);
                self.fail(call, turn, Failure::Invalid, format!("no adapter {adapter} is loaded"));
            }
            (Request::PrimeWith { adapter, .. }, None) => {
                tracing::warn!(adapter, "it is not loaded: nothing is primed")
            }
            _ => {}
        }
    }

    /// An adapter is there, or will not be.
    fn loaded(&mut self, Loaded { call, turn, name, result }: Loaded) {
        match self.adapters.end(&name, result) {
            Ok(before) => {
                tracing::info!(name, "an adapter was loaded");
                self.unprime(before);
                self.list_adapters(call, turn);
            }
            Err(reason) => self.refuse(call, turn, format!("the adapter {name} cannot be loaded: {reason}")),
        }
        for request in self.adapters.released() {
            self.take_with(request);
        }
    }

    fn drop_adapter(&mut self, call: CallId, turn: TurnId, name: &str) {
        match self.adapters.named(name) {
            Named::Loaded(_) => {
                let adapter = self.adapters.remove(name);
                tracing::info!(name, "an adapter was unloaded");
                self.unprime(adapter);
                self.list_adapters(call, turn);
            }
            Named::Loading => self.refuse(call, turn, format!("the adapter {name} is being loaded: try again")),
            Named::Unknown => self.refuse(call, turn, format!("no adapter {name} is loaded")),
        }
    }

    fn unprime(&mut self, gone: Option<Arc<Adapter>>) {
        if let Some(gone) = gone.filter(|gone| !self.adapters.holds(gone.sha256())) {
            self.sequences.unprime(gone.sha256());
        }
    }

    fn list_adapters(&self, call: CallId, turn: TurnId) {
        self.outlet.send(Event::Adapters { call, turn, adapters: self.adapters.list() });
    }

    /// Answers what was no thought.
    fn refuse(&self, call: CallId, turn: TurnId, reason: String) {
        self.outlet.send(Event::Failed { call, turn, role: Role::Mind, failure: Failure::Invalid, reason });
    }

    fn prime(&mut self, adapter: Option<Arc<Adapter>>, messages: &[ChatMessage]) {
        match self.prompt(messages, false) {
            Ok(tokens) if tokens.is_empty() => {}
            Ok(tokens) => {
                self.sequences.prime(adapter, tokens, |capacity| self.model.cache(capacity));
            }
            Err(reason) => tracing::warn!(reason, "an agent's prompt cannot be primed"),
        }
    }

    fn think(
        &mut self,
        call: CallId,
        turn: TurnId,
        adapter: Option<Arc<Adapter>>,
        messages: &[ChatMessage],
        sampling: Sampling,
    ) {
        // A call thinks of one turn at a time: the newer one is what is wanted.
        self.end(call, None);
        match self.prompt(messages, true) {
            Ok(tokens) if sampling.max_tokens > 0 && !tokens.is_empty() => {
                self.waiting.push_back(Waiting { call, turn, adapter, tokens, sampling, asked: now() });
            }
            Ok(_) => self.fail(call, turn, Failure::Invalid, "there is nothing to answer".to_owned()),
            Err(reason) => self.fail(call, turn, Failure::Invalid, reason),
        }
    }

    /// The tokens of a conversation, or why it cannot be continued.
    fn prompt(&self, messages: &[ChatMessage], answer: bool) -> Result<Vec<u32>, String> {
        // A template's own words could quote a message: the reason stays general.
        let text = self.template.render(&self.tokenizer, messages, answer);
        let text = text.map_err(|_| "the model's template does not take these messages".to_owned())?;
        let tokens = self.tokenizer.encode(&text).map_err(|_| "the text cannot be cut into tokens".to_owned())?;
        let room = self.model.context();
        if tokens.len() < room {
            Ok(tokens)
        } else {
            Err(format!("the conversation has {} tokens, and there is room for {room} with its answer", tokens.len()))
        }
    }

    /// Gives waiting thoughts their sequences.
    fn admit(&mut self) {
        while let Some(next) = self.waiting.pop_front() {
            let model = &self.model;
            let with = next.adapter.as_ref().map(|adapter| adapter.sha256());
            let begun = self.sequences.begin(next.call, with, next.tokens.clone(), || model.cache(model.context()));
            let Some((index, cached_tokens)) = begun else {
                self.waiting.push_front(next);
                return;
            };
            let prompt_tokens = next.tokens.len();
            self.sequences.calls[index].thinking = Some(Thinking {
                turn: next.turn,
                adapter: next.adapter,
                sampler: Sampler::new(&next.sampling),
                answer: Answer::new(&next.sampling.stop),
                prompt_tokens,
                cached_tokens,
                answer_tokens: 0,
                most_tokens: (next.sampling.max_tokens as usize).min(model.context() - prompt_tokens),
                asked: next.asked,
                begun: None,
                first: None,
            });
        }
    }

    /// Ends what a call thinks of, at one turn or at all.
    fn end(&mut self, call: CallId, turn: Option<TurnId>) {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.call != call || turn.is_some_and(|turn| waiting.turn != turn));
        let held = self.adapters.release(call, turn);
        self.done(before - self.waiting.len() + held);
        if let Some(sequence) = self.sequences.thinking(call)
            && turn.is_none_or(|turn| sequence.thinking.as_ref().is_some_and(|thinking| thinking.turn == turn))
        {
            sequence.stop();
            self.done(1);
        }
    }

    fn done(&self, count: usize) {
        self.thoughts.fetch_sub(count, Ordering::AcqRel);
    }

    /// Ends a thought.
    fn fail(&self, call: CallId, turn: TurnId, failure: Failure, reason: String) {
        self.done(1);
        self.outlet.send(Event::Failed { call, turn, role: Role::Mind, failure, reason });
    }

    /// One step of the model, if there is anything to compute.
    fn step(&mut self) {
        let started = now();
        let Self { model, sequences, gate, queue, .. } = self;
        let answering = sequences.calls.iter().any(|s| s.thinking.as_ref().is_some_and(|t| t.first.is_some()));
        let chunk = if answering { CHUNK_BESIDE } else { CHUNK_ALONE };
        // The prompt that has waited longest.
        let prompt = sequences
            .calls
            .iter()
            .filter_map(|s| s.thinking.as_ref().filter(|t| t.first.is_none()).map(|t| (t.asked, s.call, t.turn)))
            .min_by_key(|(asked, ..)| *asked)
            .map(|(_, call, turn)| (call, turn));

        let mut pieces = Vec::new();
        let (mut rows, mut reaches) = (Vec::new(), Vec::new());
        for (index, sequence) in sequences.calls.iter_mut().enumerate() {
            let missing = sequence.missing();
            let Sequence { call, tokens, cache, thinking, .. } = sequence;
            let Some(thinking) = thinking else { continue };
            if thinking.first.is_none() && prompt != Some((*call, thinking.turn)) {
                continue;
            }
            thinking.begun.get_or_insert(started);
            let count = missing.min(chunk);
            let wanted = if count == missing { Wanted::Last } else { Wanted::Nothing };
            if wanted == Wanted::Last {
                rows.push(index);
                reaches.push(thinking.sampler.reach());
            }
            let from = cache.len();
            let adapter = thinking.adapter.as_deref();
            pieces.push(Piece { tokens: &tokens[from..from + count], cache, wanted, adapter });
        }
        let priming = prompt.is_none().then(|| sequences.primed.iter_mut().find(|primed| primed.missing() > 0));
        if let Some(primed) = priming.flatten() {
            let from = primed.cache.len();
            let count = primed.missing().min(chunk);
            let (tokens, wanted) = (&primed.tokens[from..from + count], Wanted::Nothing);
            pieces.push(Piece { tokens, cache: &mut primed.cache, wanted, adapter: primed.adapter.as_deref() });
        }
        if pieces.is_empty() {
            return;
        }
        let urgency = match (answering, prompt) {
            (true, _) => Urgency::Decode,
            (false, Some(_)) => Urgency::Prefill,
            (false, None) => Urgency::Background,
        };
        let mut permit = None;
        let mut go_on = || {
            // Between two layers anything more urgent goes first.
            drop(permit.take());
            permit = Some(gate.enter(urgency));
            answering || prompt.is_none_or(|(call, turn)| !queue.ends(call, turn))
        };
        match model.step_near(&mut pieces, &reaches, &mut go_on) {
            Ok(None) => {}
            Ok(Some(near)) => {
                drop(permit);
                for (index, mut near) in rows.into_iter().zip(near) {
                    self.next_token(index, &mut near);
                }
            }
            Err(error) if error.is::<Full>() => {
                drop(permit);
                self.make_room(&error);
            }
            Err(error) => {
                drop(permit);
                tracing::error!(%error, "a step of the language model failed");
                self.fail_all();
            }
        }
    }

    fn next_token(&mut self, index: usize, near: &mut Near) {
        let sequence = &mut self.sequences.calls[index];
        let call = sequence.call;
        let Some(thinking) = &mut sequence.thinking else { return };
        let turn = thinking.turn;
        let token = thinking.sampler.next(near);
        thinking.first.get_or_insert_with(now);
        let (text, finish) = if self.tokenizer.is_end(token) {
            (thinking.answer.finish(), Some(Finish::Stop))
        } else {
            thinking.answer_tokens += 1;
            sequence.tokens.push(token);
            match thinking.answer.push(self.tokenizer.bytes(token)) {
                Said::Stopped(text) => (text, Some(Finish::Stop)),
                Said::More(text) if thinking.answer_tokens == thinking.most_tokens => {
                    (text + &thinking.answer.finish(), Some(Finish::Length))
                }
                Said::More(text) => (text, None),
            }
        };
        if !text.is_empty() {
            self.outlet.send(Event::Token { call, turn, text });
        }
        let Some(finish) = finish else { return };
        if let Some(thinking) = sequence.stop() {
            self.done(1);
            self.outlet.send(Event::Thought { call, turn, thought: thinking.cost(finish) });
        }
    }

    /// Keys and values found no room: what serves nobody goes, else the answer that was asked for last. The step is tried
    /// again.
    fn make_room(&mut self, full: &anyhow::Error) {
        if self.sequences.give_back() {
            return;
        }
        let thinking =
            self.sequences.calls.iter().filter_map(|s| s.thinking.as_ref().map(|t| (t.asked, s.call, t.turn)));
        if let Some((_, call, turn)) = thinking.max_by_key(|(asked, ..)| *asked) {
            self.sequences.forget(call);
            self.fail(call, turn, Failure::Overloaded, full.to_string());
        }
    }

    /// After a step that could not be computed nothing in the caches is sure.
    fn fail_all(&mut self) {
        let sequences = std::mem::take(&mut self.sequences.calls);
        self.sequences.primed.clear();
        for sequence in sequences {
            if let Some(thinking) = sequence.thinking {
                let reason = "the language model could not compute".to_owned();
                self.fail(sequence.call, thinking.turn, Failure::Internal, reason);
            }
        }
    }
}

impl Thinking {
    fn cost(&self, finish: Finish) -> Thought {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let micros = |from: Option<Instant>, to: Option<Instant>| {
            let span = from.zip(to).map(|(from, to)| to.saturating_duration_since(from));
            span.map_or(0, |span| u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
        };
        Thought {
            finish,
            prompt_tokens: count(self.prompt_tokens),
            cached_tokens: count(self.cached_tokens),
            answer_tokens: count(self.answer_tokens),
            queue_us: micros(Some(self.asked), self.begun),
            prefill_us: micros(self.begun, self.first),
            decode_us: micros(self.first, Some(now())),
        }
    }
}
