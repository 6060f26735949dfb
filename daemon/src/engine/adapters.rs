//! Adapters of the engine's language model, seen from here. Enters: adapters that are wanted, what the engine says of them;
//! leaves: requests to load and drop them, and a list. Never here: a file, or which agent speaks with which.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use callbox_wire::{AdapterInfo, CallId, Event, Request, TurnId};
use tokio::time::timeout;

use super::{Engine, EngineState, News};

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

/// What is wanted in every engine, and what this one has.
#[derive(Default)]
struct Lists {
    wanted: Vec<AdapterFiles>,
    loaded: Vec<AdapterInfo>,
}

/// Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Adapters {
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

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a new engine has to load before it serves.
    pub(super) fn wanted(&self) -> Vec<AdapterFiles> {
        self.lock().wanted.clone()
    }

    pub(super) fn loaded(&self) -> Vec<AdapterInfo> {
        self.lock().loaded.clone()
    }

    /// What the engine says that it has.
    pub(super) fn are(&self, loaded: Vec<AdapterInfo>) {
        self.lock().loaded = loaded;
    }
}

impl Engine {
    /// The adapters that the engine has loaded, by name.
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        self.adapters.loaded()
    }

    /// Has an adapter loaded, in this engine and in every later one.
    ///
    /// # Errors
    /// One sentence; nothing has changed then.
    pub async fn load_adapter(&self, files: AdapterFiles) -> Result<(), String> {
        self.ask(|turn| files.request(turn)).await?;
        let wanted = &mut self.adapters.lock().wanted;
        wanted.retain(|known| known.name != files.name);
        wanted.push(files);
        Ok(())
    }

    /// Has an adapter forgotten; answers that are under way with it go on to their end.
    ///
    /// # Errors
    /// One sentence, if it is not loaded or the engine does not answer.
    pub async fn drop_adapter(&self, name: &str) -> Result<(), String> {
        self.ask(|turn| Request::DropAdapter { call: ADAPTERS, turn, name: name.to_owned() }).await?;
        self.adapters.lock().wanted.retain(|known| known.name != name);
        Ok(())
    }

    async fn ask(&self, request: impl FnOnce(TurnId) -> Request) -> Result<(), String> {
        if !matches!(*self.state.borrow(), EngineState::Ready(_)) {
            return Err("the engine is not ready: try again when `callbox health` says so".to_owned());
        }
        let mut turn = self.adapters.line.lock().await;
        // What an earlier question left has another number.
        *turn = turn.next();
        let mut port = self.attach(ADAPTERS);
        port.send(request(*turn)).map_err(|error| error.to_string())?;
        let answer = async {
            loop {
                match port.recv().await {
                    Some(News::Event(Event::Adapters { turn: of, adapters, .. })) if of == *turn => {
                        return Ok(adapters);
                    }
                    Some(News::Event(Event::Failed { turn: of, reason, .. })) if of == *turn => return Err(reason),
                    Some(News::Lost) | None => return Err("the engine was lost: try again".to_owned()),
                    Some(_) => {}
                }
            }
        };
        let late = || "the engine did not answer in time".to_owned();
        self.adapters.are(timeout(PATIENCE, answer).await.map_err(|_| late())??);
        Ok(())
    }
}
