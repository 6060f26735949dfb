//! The labelled set of questions (`benches/cache/labelled.toml`), asked of the cache. Enters: the set and vectors of its
//! texts; leaves: what was found and what should have been.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use callbox::cache::reading::{Reading, own_names};
use callbox::cache::vectors::Packed;
use callbox::cache::{Library, Rules};
use callbox::engine::placement::{self, ModelFiles, Resources};
use callbox::engine::{Engine, EngineProcess, News, Port, RestartPolicy};
use callbox::models::{self, Use};
use callbox_wire::{CallId, Event, Request, Role, TurnId};
use serde::Deserialize;

use crate::harness::executable;

/// What near-misses may never be found that differ in these.
const STRICT: [&str; 3] = ["number", "day", "negation"];

/// The labelled set.
#[derive(Deserialize)]
pub struct Labelled {
    tuning: BTreeSet<String>,
    question: Vec<Question>,
}

#[derive(Deserialize)]
struct Question {
    place: String,
    asked: String,
    same: Vec<String>,
    #[serde(default)]
    different: BTreeMap<String, Vec<String>>,
}

/// What came of asking.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// Paraphrases that were asked.
    pub same: u32,
    /// Those that got their own answer.
    pub found: u32,
    /// Near-misses that were asked.
    pub different: u32,
    /// Questions that got an answer that is not theirs.
    pub wrong: u32,
    /// Those that differ in a number, a day or a negation.
    pub wrong_strict: u32,
    /// One line for each wrong answer.
    pub complaints: Vec<String>,
}

impl Tally {
    /// Of all answers that were given those that were right, in percent.
    pub fn precision(&self) -> f64 {
        percent(self.found, self.found + self.wrong)
    }

    /// Of all paraphrases those that were found, in percent.
    pub fn recall(&self) -> f64 {
        percent(self.found, self.same)
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.same += other.same;
        self.found += other.found;
        self.different += other.different;
        self.wrong += other.wrong;
        self.wrong_strict += other.wrong_strict;
        self.complaints.extend(other.complaints.iter().cloned());
    }
}

fn percent(part: u32, whole: u32) -> f64 {
    (f64::from(part) * 1000.0 / f64::from(whole.max(1))).round() / 10.0
}

impl Labelled {
    /// Reads the set of this repository.
    ///
    /// # Errors
    /// If it is not there.
    pub fn read() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/cache/labelled.toml");
        Ok(toml::from_str(&std::fs::read_to_string(path)?)?)
    }

    /// Every text once.
    pub fn texts(&self) -> BTreeSet<&str> {
        let mut texts = BTreeSet::new();
        for Question { asked, same, different, .. } in &self.question {
            texts.insert(asked.as_str());
            texts.extend(same.iter().chain(different.values().flatten()).map(String::as_str));
        }
        texts
    }
}

/// Asks everything of a cache that knows all questions of its place, with the thresholds that agents have by default:
/// first what was tuned with, then what was held out. A paraphrase is wrong with any other answer than its own; a
/// near-miss with the answer of the question that it is nearly.
pub fn tally(set: &Labelled, vectors: &BTreeMap<String, Vec<f32>>) -> (Tally, Tally) {
    let places: BTreeSet<&str> = set.question.iter().map(|question| question.place.as_str()).collect();
    let rules = places.iter().map(|place| rules(set, place)).collect();
    let mut library = Library::default();
    library.serve(rules, 0);
    let packed = |text: &str| vectors.get(text).and_then(|vector| Packed::new(vector));
    for (agent, id, question) in library.without_vector(usize::MAX) {
        if let Some(vector) = packed(&question) {
            library.set_vector(&agent, id, &vector);
        }
    }
    let ask = |place: &str, text: &str| {
        let reading = Reading::of(text, &own_names(place));
        if reading.leans() {
            return None;
        }
        let similar = || library.similar(place, &reading, &packed(text)?, 0).ok();
        library.exact(place, &reading, 0).or_else(similar).map(|found| found.answer)
    };
    let (mut tuning, mut held_out) = (Tally::default(), Tally::default());
    for question in &set.question {
        let tally = if set.tuning.contains(&question.place) { &mut tuning } else { &mut held_out };
        let own = answer(question);
        for text in &question.same {
            tally.same += 1;
            match ask(&question.place, text) {
                Some(answer) if answer == own => tally.found += 1,
                Some(answer) => {
                    tally.wrong += 1;
                    tally.complaints.push(format!("{text:?} got the answer of {answer:?}, not of {own:?}"));
                }
                None => {}
            }
        }
        for (kind, texts) in &question.different {
            for text in texts {
                tally.different += 1;
                if ask(&question.place, text).is_some_and(|answer| answer == own) {
                    tally.wrong += 1;
                    tally.wrong_strict += u32::from(STRICT.contains(&kind.as_str()));
                    tally.complaints.push(format!("{text:?} ({kind}) got the answer of {own:?}"));
                }
            }
        }
    }
    (tuning, held_out)
}

/// An answer that names its question.
fn answer(question: &Question) -> String {
    question.asked.clone()
}

fn rules(set: &Labelled, place: &str) -> Rules {
    let own = set.question.iter().filter(|question| question.place == place);
    Rules {
        agent: place.to_owned(),
        own: own_names(place),
        prompt: String::new(),
        mind: String::new(),
        voice: String::new(),
        speaker: None,
        threshold: callbox::dialogue::CacheRules::default().threshold,
        ttl: Duration::from_secs(3600),
        most: 1,
        learn: false,
        faq: own
            .filter(|question| !is_bare(question))
            .map(|question| (question.asked.clone(), answer(question)))
            .collect(),
    }
}

/// A question that means nothing alone is in no file.
fn is_bare(question: &Question) -> bool {
    question.same.is_empty()
}

/// An engine that only embeds.
pub struct Embedder {
    engine: Engine,
    port: Port,
    turn: TurnId,
    _run: tempfile::TempDir,
}

impl Embedder {
    /// Starts it with the embedder of the pack `tiny` in this folder.
    ///
    /// # Errors
    /// If the model or the engine is not there.
    pub async fn start(models: &Path) -> Result<Self> {
        let call = CallId(1);
        let pack = models::resolve(models, "tiny", &models::Own::new(), &[Use::Embed])?;
        let files = ModelFiles { vad: pack.vad, stt: pack.stt, llm: pack.llm, voice: pack.voice, embed: pack.embed };
        let run = tempfile::tempdir()?;
        let resources = Resources {
            threads: placement::default_threads(),
            sequences: 1,
            context: 2048,
            cache: run.path().to_owned(),
            espeak: "espeak-ng".into(),
            log: "warn",
        };
        let socket = run.path().join("engine.sock");
        let launch =
            placement::on_processor(&executable("callbox-engine")?, socket, &[Role::Embed], &files, &resources);
        let engine = Engine::start(EngineProcess::new(launch, RestartPolicy::default()), Vec::new());
        let port = engine.attach(call);
        engine.ready(Duration::from_secs(60)).await.map_err(|reason| anyhow::anyhow!(reason))?;
        Ok(Self { engine, port, turn: TurnId(0), _run: run })
    }

    /// The vector of a text.
    ///
    /// # Errors
    /// If the engine has none.
    pub async fn embed(&mut self, text: &str) -> Result<Vec<f32>> {
        self.turn = self.turn.next();
        let (call, turn) = (self.port.call(), self.turn);
        self.port.send(Request::Embed { call, turn, text: text.to_owned(), urgent: true })?;
        loop {
            let news = tokio::time::timeout(Duration::from_secs(20), self.port.recv()).await;
            match news.context("the engine does not answer")?.context("the engine has gone")? {
                News::Event(Event::Embedded { turn: of, vector, .. }) if of == turn => return Ok(vector),
                News::Event(Event::Failed { reason, .. }) => bail!("the engine cannot embed: {reason}"),
                News::Lost => bail!("the engine was lost"),
                _ => {}
            }
        }
    }

    /// Ends it.
    pub async fn stop(self) {
        drop(self.port);
        self.engine.stop().await;
    }
}
