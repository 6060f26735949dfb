//! One agent's file: who it is, what it knows, how it takes turns.
//!
//! Enters: TOML. Leaves: an [`Agent`] in which every value is in its range, or one sentence that says what is wrong and
//! where. An unknown key is an error. Never here: a default that contradicts the documentation of its field.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use callbox_wire::{Language, Sampling};
use serde::Deserialize;

use super::faq::{CacheRules, Faq};
use super::io::StoredPhrase;
use super::prompt::system_prompt;
use super::transfer::{MOST_TRANSFERS, Transfer};
use crate::base::Privacy;

/// Tokens that one conversation may hold: instructions, facts, the history that is kept, and the answer.
pub const CONTEXT: usize = 2048;

/// Tokens of [`CONTEXT`] that a question and some history need.
const TALK: usize = 400;

/// One persona that answers calls.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its name in logs, metrics and records: letters, digits, `-` and `_`.
    pub name: Name,
    /// The called numbers (or SIP user names) that reach it, see [`NumberPattern`].
    pub numbers: Vec<NumberPattern>,
    /// Which speaker of the box's voice it has, as `ef_dora`. Default the one of the configuration.
    #[serde(default)]
    pub voice: Option<Name>,
    /// Who it is and what it may do; the beginning of the model's instructions.
    pub persona: Phrase<600>,
    /// What callers speak, by its code in ISO 639-1. Default `en`; another takes ears that know it, see `docs/models.md`.
    #[serde(default)]
    pub language: Language,
    /// What it knows, one fact each. Every fact costs prefill once per engine start, and attention on every answer.
    #[serde(default)]
    pub facts: Vec<Phrase<240>>,
    /// The first words of a call.
    pub greeting: Phrase<300>,
    /// The last words of a call.
    pub goodbye: Phrase<300>,
    /// How long a call rings before it is answered, in milliseconds. Default 0; at most 30 000.
    #[serde(default = "defaults::ring")]
    pub ring_ms: Millis<0, 30_000>,
    /// Said after each [`TurnTaking::silence_ms`] without a word; after the last of them the call ends.
    #[serde(default = "defaults::silence_prompts")]
    pub silence_prompts: Vec<Phrase<300>>,
    /// Said when a voice was heard twice, but no words.
    #[serde(default = "defaults::not_understood")]
    pub not_understood: Phrase<300>,
    /// Said when what the caller was saying was lost in a failure.
    #[serde(default = "defaults::repeat")]
    pub repeat: Phrase<300>,
    /// Said when something failed; rendered ahead of time.
    #[serde(default = "defaults::apology")]
    pub apology: Phrase<300>,
    /// Said when an answer takes long; rendered ahead of time.
    #[serde(default = "defaults::one_moment")]
    pub one_moment: Phrase<300>,
    /// Whether its calls are recorded, once `consent` was heard. Default no.
    #[serde(default)]
    pub record: bool,
    /// What tells callers that they are recorded; said before the greeting, and cannot be talked over.
    #[serde(default)]
    pub consent: Option<Phrase<300>>,
    /// Whom callers can be handed over to. Default nobody.
    #[serde(default)]
    pub transfers: Vec<Transfer>,
    /// What is kept of its calls and callers, where that differs from the configuration's `[privacy]`.
    #[serde(default)]
    pub privacy: Privacy,
    /// When it is whose turn.
    #[serde(default)]
    pub turns: TurnTaking,
    /// How the model answers.
    #[serde(default)]
    pub sampling: SamplingConfig,
    /// What ends a call or shortens a conversation.
    #[serde(default)]
    pub limits: Limits,
    /// Answers that are known.
    #[serde(default)]
    pub cache: CacheRules,
    /// Documents that it knows beside its facts.
    #[serde(default)]
    pub knowledge: KnowledgeRules,
    /// What the file of questions says, see [`CacheRules::faq`].
    #[serde(skip)]
    pub faq: Vec<Faq>,
}

/// How it uses documents: its own, and what operators have added.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KnowledgeRules {
    /// A folder of Markdown, text and CSV files, beside the agent's own file. Default none.
    pub folder: Option<PathBuf>,
    /// Tokens of a prompt that passages of documents may take, about. Default 200; at most 600, and 0 for never.
    pub tokens: usize,
}

impl Default for KnowledgeRules {
    fn default() -> Self {
        Self { folder: None, tokens: 200 }
    }
}

/// When it is whose turn. All times in milliseconds.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TurnTaking {
    /// Probability of speech from which a window may begin speech. Default 0.5.
    pub start: Probability,
    /// Probability of speech under which a window is silent; less than `start`. Default 0.35.
    pub end: Probability,
    /// How much speech begins an utterance. Default 96 (3 windows).
    pub start_ms: Millis<32, 500>,
    /// Silence after which work on an answer begins, on the chance that the caller has finished. Default 110.
    pub speculate_ms: Millis<64, 1000>,
    /// Silence that ends a turn whose words read like a finished sentence. Default 300.
    pub complete_ms: Millis<100, 3000>,
    /// Silence that ends a turn whose words say nothing either way. Default 450.
    pub end_of_turn_ms: Millis<100, 3000>,
    /// Silence that ends a turn whose words hang in the air ("and", a comma, dictated digits). Default 1000.
    pub hanging_ms: Millis<100, 5000>,
    /// How much longer than that to wait, at most, for a caller who was seen to pause for longer in mid-sentence.
    /// Default 400; 0 switches the adaptation off.
    pub adapt_ms: Millis<0, 2000>,
    /// Speech that interrupts the agent; less is taken for a sign of attention. Default 300.
    pub barge_in_ms: Millis<100, 2000>,
    /// Silence on both sides after which the agent speaks up. Default 8000.
    pub silence_ms: Millis<2000, 120_000>,
    /// How long after the end of a turn the caller is asked for patience. Default 3500.
    pub patience_ms: Millis<500, 30_000>,
}

impl Default for TurnTaking {
    fn default() -> Self {
        Self {
            start: Probability(0.5),
            end: Probability(0.35),
            start_ms: Millis(96),
            speculate_ms: Millis(110),
            complete_ms: Millis(300),
            end_of_turn_ms: Millis(450),
            hanging_ms: Millis(1000),
            adapt_ms: Millis(400),
            barge_in_ms: Millis(300),
            silence_ms: Millis(8000),
            patience_ms: Millis(3500),
        }
    }
}

/// How the model answers.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// 0 always takes the likeliest token. Default 0; at most 2.
    pub temperature: f32,
    /// Nucleus, above 0 and at most 1. Default 1.
    pub top_p: f32,
    /// Against repetition; 1 changes nothing. Default 1; 0.5 to 2.
    pub repeat_penalty: f32,
    /// Same seed, same conversation: same answer. Default 0.
    pub seed: u64,
    /// The longest answer in tokens. Default 60; 1 to 1000.
    pub max_tokens: u32,
    /// Texts at which an answer ends. Default none.
    pub stop: Vec<String>,
    /// An adapter (LoRA) of the model that it answers with. Default none: the model as it is.
    pub adapter: Option<Name>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            repeat_penalty: 1.0,
            seed: 0,
            max_tokens: 60,
            stop: Vec::new(),
            adapter: None,
        }
    }
}

/// Stands for all of it where learned answers are told apart; without an adapter as it was before there were any.
impl fmt::Debug for SamplingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { temperature, top_p, repeat_penalty, seed, max_tokens, stop, adapter } = self;
        let mut shown = f.debug_struct("SamplingConfig");
        shown.field("temperature", temperature).field("top_p", top_p).field("repeat_penalty", repeat_penalty);
        shown.field("seed", seed).field("max_tokens", max_tokens).field("stop", stop);
        if let Some(adapter) = adapter {
            shown.field("adapter", &adapter.as_str());
        }
        shown.finish()
    }
}

/// What ends a call or shortens a conversation.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The longest call in seconds; then the agent says goodbye. Default 1800; 10 to 86 400.
    pub call_seconds: u32,
    /// How many characters of the conversation the model sees besides its instructions. Default 3000; 200 to 100 000.
    pub history_chars: u32,
    /// How many seconds the last turn may take once the call has to end. Default 15; 1 to 300.
    pub drain_seconds: u32,
    /// For how many seconds a call waits for an engine to come back. Default 20; 1 to 300.
    pub engine_seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { call_seconds: 1800, history_chars: 3000, drain_seconds: 15, engine_seconds: 20 }
    }
}

/// What is wrong with an agent's file.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, lacks a key, has one too many or a value out of range.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file, or `agent` if there is none.
        path: String,
        /// One sentence, with the place if it is known.
        reason: String,
    },
}

impl Agent {
    /// Reads an agent's file.
    ///
    /// # Errors
    /// If it cannot be read, or [`Agent::parse`] says so.
    pub fn read(path: &Path) -> Result<Self, AgentError> {
        let name = path.display().to_string();
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| AgentError::Read { path: path.display().to_string(), source })
        };
        let mut agent = Self::parse(&name, &read(path)?)?;
        if let Some(faq) = &agent.cache.faq {
            let path = path.parent().unwrap_or_else(|| Path::new("")).join(faq);
            agent.faq = Faq::parse(&path.display().to_string(), &read(&path)?)?;
        }
        Ok(agent)
    }

    /// Reads an agent from TOML; `path` only names it in errors.
    ///
    /// # Errors
    /// If any key is unknown or missing, or a value is out of its range.
    pub fn parse(path: &str, text: &str) -> Result<Self, AgentError> {
        let invalid = |reason: String| AgentError::Invalid { path: path.to_owned(), reason };
        let agent: Self = toml::from_str(text).map_err(|error| invalid(one_line(&error, text)))?;
        agent.check().map_err(|reason| invalid(reason.to_owned()))?;
        agent.fits().map_err(invalid)?;
        Ok(agent)
    }

    /// What the types alone cannot hold.
    fn check(&self) -> Result<(), &'static str> {
        let Self { turns, sampling, limits, transfers, cache, knowledge, .. } = self;
        let rules = [
            (!self.numbers.is_empty(), "numbers must name at least one; \"*\" is all"),
            (
                self.consent.is_some() || !self.record,
                "record needs consent, the sentence that tells callers that they are recorded",
            ),
            (self.facts.len() <= 100, "facts must be at most 100"),
            (self.silence_prompts.len() <= 10, "silence_prompts must be at most 10"),
            (transfers.len() <= MOST_TRANSFERS, "transfers must be at most 20"),
            (distinct(transfers.iter().map(|transfer| transfer.name.as_str())), "transfers must have different names"),
            (
                transfers.iter().all(|transfer| transfer.is_asked_for()),
                "transfers must each have keys, phrases or when: nothing else would ask for them",
            ),
            (
                transfers.iter().all(|transfer| is_callable(transfer.to.as_str())),
                "transfers must each have in `to` a number without spaces, or sip:USER@HOST",
            ),
            (turns.end.0 < turns.start.0, "turns.end must be less than turns.start"),
            (
                turns.speculate_ms.0 <= turns.complete_ms.0
                    && turns.complete_ms.0 <= turns.end_of_turn_ms.0
                    && turns.end_of_turn_ms.0 <= turns.hanging_ms.0,
                "turns must have speculate_ms <= complete_ms <= end_of_turn_ms <= hanging_ms",
            ),
            ((0.0..=2.0).contains(&sampling.temperature), "sampling.temperature must be 0 to 2"),
            (sampling.top_p > 0.0 && sampling.top_p <= 1.0, "sampling.top_p must be above 0 and at most 1"),
            ((0.5..=2.0).contains(&sampling.repeat_penalty), "sampling.repeat_penalty must be 0.5 to 2"),
            ((1..=1000).contains(&sampling.max_tokens), "sampling.max_tokens must be 1 to 1000"),
            (
                sampling.stop.len() <= 8 && sampling.stop.iter().all(|stop| !stop.is_empty()),
                "sampling.stop must be at most 8 texts, none of them empty",
            ),
            ((10..=86_400).contains(&limits.call_seconds), "limits.call_seconds must be 10 to 86400"),
            ((200..=100_000).contains(&limits.history_chars), "limits.history_chars must be 200 to 100000"),
            ((1..=300).contains(&limits.drain_seconds), "limits.drain_seconds must be 1 to 300"),
            ((1..=300).contains(&limits.engine_seconds), "limits.engine_seconds must be 1 to 300"),
            ((0.3..=1.0).contains(&cache.threshold), "cache.threshold must be 0.3 to 1"),
            ((1..=8760).contains(&cache.ttl_hours), "cache.ttl_hours must be 1 to 8760"),
            ((1..=20_000).contains(&cache.most), "cache.most must be 1 to 20000"),
            (knowledge.tokens <= 600, "knowledge.tokens must be at most 600"),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, reason)| Err(reason))
    }

    /// A prompt that is too long for the model would be refused in every turn of every call.
    fn fits(&self) -> Result<(), String> {
        let room = CONTEXT - TALK - self.knowledge.tokens - self.sampling.max_tokens as usize;
        match tokens(&system_prompt(self)) {
            few if few <= room => Ok(()),
            many => Err(format!(
                "persona and facts come to about {many} tokens, and the model has room for {room} beside a conversation: \
                 shorten them or drop facts"
            )),
        }
    }

    /// Whether a call to this number or SIP user is for this agent.
    #[must_use]
    pub fn answers(&self, called: &str) -> bool {
        self.numbers.iter().any(|pattern| pattern.matches(called))
    }

    /// What is said first: that the call is recorded, if it is, and the greeting.
    #[must_use]
    pub fn opening(&self) -> String {
        match &self.consent {
            Some(consent) if self.record => format!("{} {}", consent.as_str(), self.greeting.as_str()),
            _ => self.greeting.as_str().to_owned(),
        }
    }

    /// The text of a stored phrase, for whoever renders it.
    #[must_use]
    pub fn stored(&self, phrase: StoredPhrase) -> &str {
        match phrase {
            StoredPhrase::Apology => self.apology.as_str(),
            StoredPhrase::OneMoment => self.one_moment.as_str(),
            StoredPhrase::Goodbye => self.goodbye.as_str(),
        }
    }

    /// How the model is asked to answer.
    #[must_use]
    pub fn sampling(&self) -> Sampling {
        let SamplingConfig { temperature, top_p, repeat_penalty, seed, max_tokens, stop, .. } = self.sampling.clone();
        Sampling { temperature, top_p, repeat_penalty, seed, max_tokens, stop }
    }

    /// The speaker that it has, if it names one.
    #[must_use]
    pub fn voice(&self) -> Option<&str> {
        self.voice.as_ref().map(Name::as_str)
    }

    /// The adapter that it answers with.
    #[must_use]
    pub fn adapter(&self) -> Option<&str> {
        self.sampling.adapter.as_ref().map(Name::as_str)
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().all(|name| seen.insert(name))
}

/// What can be called at all; whether somebody is there is for the trunk to say.
fn is_callable(to: &str) -> bool {
    let number = |c: char| c.is_ascii_alphanumeric() || "+*#-_.!~".contains(c);
    match to.strip_prefix("sip:").or_else(|| to.strip_prefix("sips:")) {
        Some(rest) => !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || "<>\"".contains(c)),
        None => to.chars().all(number),
    }
}

/// About how many tokens a model makes of a text, rather too many: one of three letters, as short words are, and one of
/// each digit, mark and byte beyond ASCII.
pub(super) fn tokens(text: &str) -> usize {
    let (letters, others) = text.chars().fold((0, 0), |(letters, others), c| match c {
        ' ' | 'A'..='Z' | 'a'..='z' => (letters + 1, others),
        other => (letters, others + other.len_utf8()),
    });
    usize::div_ceil(letters, 3) + others
}

/// The parser's message as one sentence with its line; toml's own form is a picture of several lines.
pub(super) fn one_line(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().trim().replace('\n', ", ");
    match error.span() {
        Some(span) => {
            let before = text.as_bytes().get(..span.start).unwrap_or_default();
            format!("line {}: {message}", before.iter().filter(|&&byte| byte == b'\n').count() + 1)
        }
        None => message,
    }
}

/// Letters, digits, `-` and `_`, 1 to 40 of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if (1..=40).contains(&text.len()) && text.chars().all(fits) {
            Ok(Self(text))
        } else {
            Err("a name is 1 to 40 letters, digits, - or _")
        }
    }
}

/// What is said or told to the model: 1 to `MAX` characters on one line, without space around it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Phrase<const MAX: usize>(String);

impl<const MAX: usize> Phrase<MAX> {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> Phrase<MAX> {
    /// One of ours.
    pub(super) fn fixed(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl<const MAX: usize> TryFrom<String> for Phrase<MAX> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // A text over several lines of TOML is one line to the model, whose prompt must not depend on the editor.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let length = text.chars().count();
        if text.chars().any(char::is_control) || !(1..=MAX).contains(&length) {
            return Err(format!("a text here has 1 to {MAX} characters, this one has {length}"));
        }
        Ok(Self(text))
    }
}

/// Milliseconds from `MIN` to `MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "u32")]
pub struct Millis<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Millis<MIN, MAX> {
    /// As a duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }
}

impl<const MIN: u32, const MAX: u32> Millis<MIN, MAX> {
    /// One of ours.
    pub(super) const fn fixed(milliseconds: u32) -> Self {
        assert!(MIN <= milliseconds && milliseconds <= MAX);
        Self(milliseconds)
    }
}

impl<const MIN: u32, const MAX: u32> TryFrom<u32> for Millis<MIN, MAX> {
    type Error = String;

    fn try_from(value: u32) -> Result<Self, Self::Error> {
        if (MIN..=MAX).contains(&value) {
            Ok(Self(value))
        } else {
            Err(format!("must be {MIN} to {MAX} milliseconds, not {value}"))
        }
    }
}

/// Between 0 and 1, both excluded.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(try_from = "f32")]
pub struct Probability(f32);

impl Probability {
    /// As a number.
    #[must_use]
    pub const fn get(self) -> f32 {
        self.0
    }
}

impl TryFrom<f32> for Probability {
    type Error = String;

    fn try_from(value: f32) -> Result<Self, Self::Error> {
        if value > 0.0 && value < 1.0 { Ok(Self(value)) } else { Err(format!("must be between 0 and 1, not {value}")) }
    }
}

/// A called number or SIP user name; with `*` at the end, everything that begins with what stands before it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct NumberPattern {
    prefix: String,
    open: bool,
}

impl NumberPattern {
    /// Whether the called number is meant. Letters count as they are.
    #[must_use]
    pub fn matches(&self, called: &str) -> bool {
        if self.open { called.starts_with(&self.prefix) } else { called == self.prefix }
    }

    /// One of the numbers that are meant, for a call that tries whether they are answered.
    #[must_use]
    pub fn example(&self) -> String {
        if self.prefix.is_empty() { "selftest".to_owned() } else { self.prefix.clone() }
    }
}

impl fmt::Display for NumberPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)?;
        if self.open { f.write_str("*") } else { Ok(()) }
    }
}

impl TryFrom<String> for NumberPattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (prefix, open) = text.strip_suffix('*').map_or((text.as_str(), false), |prefix| (prefix, true));
        // RFC 3261 §25.1: unreserved and user-unreserved characters, without the star that means "any" here.
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.!~'()&=+$,;?/".contains(c);
        if (prefix.is_empty() && !open) || prefix.len() > 64 || !prefix.chars().all(fits) {
            return Err("a number is up to 64 characters of a SIP user name, with or without * at the end");
        }
        Ok(Self { prefix: prefix.to_owned(), open })
    }
}

mod defaults {
    use super::{Millis, Phrase};

    pub(super) const fn ring() -> Millis<0, 30_000> {
        Millis(0)
    }

    pub(super) fn silence_prompts() -> Vec<Phrase<300>> {
        ["Are you still there?", "I cannot hear you. Is anybody there?"].map(phrase).to_vec()
    }

    pub(super) fn not_understood() -> Phrase<300> {
        phrase("Sorry, I did not catch that. Could you say it again?")
    }

    pub(super) fn repeat() -> Phrase<300> {
        phrase("I am back. Could you repeat that, please?")
    }

    pub(super) fn apology() -> Phrase<300> {
        phrase("Sorry, something went wrong here. Please give me a moment.")
    }

    pub(super) fn one_moment() -> Phrase<300> {
        phrase("One moment, please.")
    }

    fn phrase(text: &str) -> Phrase<300> {
        Phrase::fixed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = 'desk'\nnumbers = ['+1555*', 'desk']\npersona = 'You are kind.'\ngreeting = 'Hello.'\ngoodbye = 'Bye.'\n";

    fn error(text: &str) -> String {
        Agent::parse("desk.toml", text).map(|_| "accepted".to_owned()).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn an_agent_without_an_adapter_is_told_from_others_as_it_was_before_there_were_any() {
        let plain =
            "SamplingConfig { temperature: 0.0, top_p: 1.0, repeat_penalty: 1.0, seed: 0, max_tokens: 60, stop: [] }";
        assert_eq!(format!("{:?}", SamplingConfig::default()), plain);
        let agent = Agent::parse("agent", &format!("{SMALL}[sampling]\nadapter = 'desk-2'")).expect("valid");
        assert_eq!(agent.adapter(), Some("desk-2"));
        assert_ne!(format!("{:?}", agent.sampling), plain);
        assert!(Agent::parse("agent", &format!("{SMALL}[sampling]\nadapter = '../desk'")).is_err());
    }

    #[test]
    fn the_smallest_agent_has_the_documented_defaults() {
        let agent = Agent::parse("desk.toml", SMALL).expect("valid");
        assert_eq!(agent.turns, TurnTaking::default());
        assert_eq!(agent.sampling().max_tokens, 60);
        assert_eq!(agent.silence_prompts.len(), 2);
        assert_eq!(agent.language, Language::ENGLISH);
        let spanish = Agent::parse("desk.toml", &format!("{SMALL}language = 'es'\n")).expect("valid");
        assert_eq!(spanish.language.code(), "es");
        assert!(agent.answers("+15550100") && agent.answers("desk") && !agent.answers("desks"));
        assert!(agent.check().is_ok());
    }

    #[test]
    fn every_mistake_is_one_sentence_with_its_place() {
        for (text, wanted) in [
            (format!("{SMALL}colour = 1\n"), "desk.toml: line 6: unknown field `colour`"),
            (
                format!("{SMALL}[turns]\nspeculate_ms = 5\n"),
                "desk.toml: line 7: must be 64 to 1000 milliseconds, not 5",
            ),
            (format!("{SMALL}[turns]\nend = 0.6\n"), "desk.toml: turns.end must be less than turns.start"),
            (format!("{SMALL}[turns]\ncomplete_ms = 500\n"), "desk.toml: turns must have speculate_ms <= complete_ms"),
            (format!("{SMALL}[sampling]\ntop_p = 0.0\n"), "desk.toml: sampling.top_p must be above 0"),
            (format!("{SMALL}[limits]\ncall_seconds = 5\n"), "desk.toml: limits.call_seconds must be 10 to 86400"),
            (
                format!(
                    "{SMALL}facts = [{}]\n",
                    "'The garage is behind the house and costs ten dollars a night.', ".repeat(90)
                ),
                "desk.toml: persona and facts come to about 2",
            ),
            (SMALL.replace("'Hello.'", "''"), "desk.toml: line 4: a text here has 1 to 300 characters, this one has 0"),
            (SMALL.replace("'desk'\nn", "'a desk'\nn"), "desk.toml: line 1: a name is 1 to 40 letters"),
            (SMALL.replace("+1555*", "+1 555"), "desk.toml: line 2: a number is up to 64 characters"),
            (format!("{SMALL}record = true\n"), "desk.toml: record needs consent, the sentence that tells callers"),
            (
                format!("{SMALL}language = 'spanish'\n"),
                "desk.toml: line 6: \"spanish\" is no language that can be heard",
            ),
            (SMALL.replace("goodbye", "farewell"), "desk.toml: line 5: unknown field `farewell`"),
        ] {
            let error = error(&text);
            assert!(error.starts_with(wanted) && !error.contains('\n'), "{error:?}, not {wanted:?}");
        }
    }

    #[test]
    fn lines_of_a_text_are_joined() {
        let agent =
            Agent::parse("desk.toml", &SMALL.replace("'Hello.'", "\"\"\"\nHello,\n  you.\n\"\"\"")).expect("valid");
        assert_eq!(agent.greeting.as_str(), "Hello, you.");
    }
}
