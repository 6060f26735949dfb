//! Adapters of the engines' language model, seen from here. Enters: adapters that are wanted, what each engine says of them;
//! leaves: requests to load and drop them, and a list. Never here: a file, or which agent speaks with which.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use callbox_wire::{AdapterInfo, CallId, Event, Request, Role, TurnId};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::{Engine, News};

/// The line on which adapters are spoken of; no call has this id.
const ADAPTERS: CallId = CallId(u64::MAX - 2);

/// How long the engine may take to load one.
const PATIENCE: Duration = Duration::from_secs(60);

/// An adapter's files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdapterFiles {
    /// How agents call it.
    pub name: String,
    /// Where its two files are.
    pub folder: PathBuf,
    /// Of `adapter_config.json` and, behind it, `adapter_model.safetensors`.
    pub sha256: String,
}

impl AdapterFiles {
    pub(super) fn request(&self, turn: TurnId) -> Request {
        Request::LoadAdapter {
            call: ADAPTERS,
            turn,
            name: self.name.clone(),
            folder: self.folder.to_string_lossy().into_owned(),
            sha256: self.sha256.clone(),
        }
    }
}

/// Why the engine has not done what was asked of it; its `Display` is one sentence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotDone {
    /// It is not there, was lost meanwhile, or has too much to do: later it may be otherwise.
    #[error("{0}")]
    NotNow(String),
    /// It never will.
    #[error("{0}")]
    Wrong(String),
}

fn not_now(why: &str) -> NotDone {
    NotDone::NotNow(format!("{why}; try again when `callbox health` says ready"))
}

/// What is wanted in every engine, and what each of them has.
#[derive(Default)]
struct Lists {
    wanted: Vec<AdapterFiles>,
    loaded: BTreeMap<usize, Vec<AdapterInfo>>,
}

/// Seen by one engine; clones are the same.
#[derive(Clone, Default)]
pub(super) struct Adapters {
    engine: usize,
    lists: Arc<Mutex<Lists>>,
    /// One asks at a time.
    line: Arc<tokio::sync::Mutex<TurnId>>,
}

impl Adapters {
    pub(super) fn wanting(wanted: Vec<AdapterFiles>) -> Self {
        let adapters = Self::default();
        adapters.lock().wanted = wanted;
        adapters
    }

    /// The same, seen by this engine.
    pub(super) fn of(&self, engine: usize) -> Self {
        Self { engine, ..self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is loaded or dropped while this is held.
    pub(super) async fn still(&self) -> OwnedMutexGuard<TurnId> {
        Arc::clone(&self.line).lock_owned().await
    }

    /// What a new engine has to load before it serves.
    pub(super) fn wanted(&self) -> Vec<AdapterFiles> {
        self.lock().wanted.clone()
    }

    /// What all of these engines have.
    pub(super) fn loaded(&self, engines: &[usize]) -> Vec<AdapterInfo> {
        let lists = self.lock();
        let mut of_each = engines.iter().map(|engine| lists.loaded.get(engine).map_or(&[][..], Vec::as_slice));
        let first = of_each.next().unwrap_or_default().to_vec();
        of_each.fold(first, |mut all, its| {
            all.retain(|known| its.iter().any(|one| (&one.name, &one.sha256) == (&known.name, &known.sha256)));
            all
        })
    }

    /// What the engine says that it has.
    pub(super) fn are(&self, loaded: Vec<AdapterInfo>) {
        self.lock().loaded.insert(self.engine, loaded);
    }
}

impl Engine {
    /// The adapters that every engine has loaded, by name.
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        self.adapters.loaded(&self.fleet.that_offer(Role::Mind))
    }

    /// Has an adapter loaded, in every engine of now and in every later one.
    ///
    /// # Errors
    /// See [`NotDone`]; nothing has changed then.
    pub async fn load_adapter(&self, files: AdapterFiles) -> Result<(), NotDone> {
        let before = self.adapters.wanted().into_iter().find(|known| known.name == files.name);
        let undo = |turn| match &before {
            Some(before) => before.request(turn),
            None => dropping(turn, &files.name),
        };
        self.ask(|turn| files.request(turn), undo).await?;
        let wanted = &mut self.adapters.lock().wanted;
        wanted.retain(|known| known.name != files.name);
        wanted.push(files);
        Ok(())
    }

    /// Has an adapter forgotten; answers that are under way with it go on to their end.
    ///
    /// # Errors
    /// If it is not loaded or the engine does not answer.
    pub async fn drop_adapter(&self, name: &str) -> Result<(), NotDone> {
        let before = self.adapters.wanted().into_iter().find(|known| known.name == name);
        let undo = |turn| before.as_ref().map_or_else(|| dropping(turn, name), |before| before.request(turn));
        self.ask(|turn| dropping(turn, name), undo).await?;
        self.adapters.lock().wanted.retain(|known| known.name != name);
        Ok(())
    }

    /// Asks one engine after the other; if one cannot, those that could take it back.
    async fn ask(&self, request: impl Fn(TurnId) -> Request, undo: impl Fn(TurnId) -> Request) -> Result<(), NotDone> {
        let engines = self.fleet.that_offer(Role::Mind);
        if engines.is_empty() {
            return Err(not_now("the engine is not ready"));
        }
        let mut turn = self.adapters.line.lock().await;
        for (done, engine) in engines.iter().enumerate() {
            // What an earlier question left has another number.
            *turn = turn.next();
            let Err(reason) = self.ask_one(*engine, *turn, request(*turn)).await else { continue };
            for engine in &engines[..done] {
                *turn = turn.next();
                if let Err(reason) = self.ask_one(*engine, *turn, undo(*turn)).await {
                    tracing::error!(engine = self.fleet.name(*engine), "an adapter could not be taken back: {reason}");
                }
            }
            return Err(reason);
        }
        Ok(())
    }

    async fn ask_one(&self, engine: usize, turn: TurnId, request: Request) -> Result<(), NotDone> {
        let mut port = self.fleet.attach_to(ADAPTERS, engine);
        port.send(request).map_err(|error| not_now(&error.to_string()))?;
        let answer = async {
            loop {
                match port.recv().await {
                    Some(News::Event(Event::Adapters { turn: of, adapters, .. })) if of == turn => {
                        return Ok(adapters);
                    }
                    Some(News::Event(Event::Failed { turn: of, reason, .. })) if of == turn => {
                        return Err(NotDone::Wrong(reason));
                    }
                    Some(News::Lost) | None => return Err(not_now("the engine was lost meanwhile")),
                    Some(_) => {}
                }
            }
        };
        let answer = timeout(PATIENCE, answer).await;
        self.adapters.of(engine).are(answer.map_err(|_| not_now("the engine did not answer in time"))??);
        Ok(())
    }
}

fn dropping(turn: TurnId, name: &str) -> Request {
    Request::DropAdapter { call: ADAPTERS, turn, name: name.to_owned() }
}
