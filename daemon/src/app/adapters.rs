//! Adapters of the language model, carried out for operators: which there are, who speaks with them, in with them and out.
//! Enters: the folder of models, agents, orders; leaves: cards, loaded adapters. Never here: an adapter taken from an agent that
//! still names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::call::Exchange;
use crate::call::agents::Agents;
use crate::control::{AdapterCard, NotAdapted};
use crate::engine::{AdapterFiles, NotDone};
use crate::models::adapters::{self, Adapter, AdapterError};

fn files(adapter: &Adapter) -> Result<AdapterFiles, AdapterError> {
    let (name, folder) = (adapter.name.clone(), adapter.folder.clone());
    Ok(AdapterFiles { name, folder, sha256: adapter.sha256()? })
}

/// The adapters that agents name.
///
/// # Errors
/// One sentence about the first that cannot be had.
pub(super) fn named(dir: &Path, agents: &Agents) -> Result<Vec<AdapterFiles>, String> {
    let mut named = BTreeMap::new();
    for agent in agents.iter() {
        let Some(name) = agent.adapter().filter(|name| !named.contains_key(*name)) else { continue };
        let found = adapters::find(dir, name).and_then(|adapter| files(&adapter));
        let found =
            found.map_err(|error| format!("sampling.adapter of the agent `{}`: {error}", agent.name.as_str()))?;
        named.insert(name.to_owned(), found);
    }
    Ok(named.into_values().collect())
}

/// Whether the adapters that agents name are there; `dir`: the folder of models.
///
/// # Errors
/// As the daemon would say it when it starts.
pub fn check(dir: &Path, agents: &Agents) -> Result<(), String> {
    named(dir, agents).map(drop)
}

/// The folder of models, and those who use adapters.
pub(super) struct Adapters {
    pub(super) dir: PathBuf,
    pub(super) exchange: Arc<Exchange>,
}

impl Adapters {
    /// Every adapter that is on the disk or loaded.
    pub(super) async fn list(&self) -> Result<Vec<AdapterCard>, NotAdapted> {
        let dir = self.dir.clone();
        let found = on_disk(move || {
            let shown = adapters::folder(&dir).display().to_string();
            adapters::list(&dir).map_err(|error| format!("{shown} cannot be read: {error}"))
        })
        .await?;
        let mut cards: BTreeMap<String, AdapterCard> = found
            .into_iter()
            .map(|Adapter { name, rank, base, bytes, .. }| {
                (name.clone(), AdapterCard { name, rank, base, bytes, loaded: false, sha256: None, agents: Vec::new() })
            })
            .collect();
        for info in self.exchange.engine().adapters() {
            let card = cards.entry(info.name.clone()).or_insert_with(|| AdapterCard {
                name: info.name,
                rank: info.rank,
                base: None,
                bytes: info.bytes,
                loaded: false,
                sha256: None,
                agents: Vec::new(),
            });
            card.loaded = true;
            card.sha256 = Some(info.sha256);
        }
        let agents = self.exchange.agents();
        for agent in agents.iter() {
            if let Some(card) = agent.adapter().and_then(|name| cards.get_mut(name)) {
                card.agents.push(agent.name.as_str().to_owned());
            }
        }
        Ok(cards.into_values().collect())
    }

    /// Loads one as it is on the disk now; the next turn of whoever names it is thought with that.
    pub(super) async fn load(&self, name: String) -> Result<Vec<AdapterCard>, NotAdapted> {
        let (dir, wanted) = (self.dir.clone(), name);
        let files = on_disk(move || {
            adapters::find(&dir, &wanted).and_then(|adapter| files(&adapter)).map_err(|error| error.to_string())
        });
        let files = files.await?;
        self.exchange.load_adapter(files).await.map_err(not_adapted)?;
        self.list().await
    }

    /// Loads what these agents name, where that is not loaded as it is on the disk.
    pub(super) async fn load_named(&self, agents: &Agents) -> Result<(), NotDone> {
        let (dir, agents) = (self.dir.clone(), agents.clone());
        let named = tokio::task::spawn_blocking(move || named(&dir, &agents)).await;
        let loaded = self.exchange.engine().adapters();
        let is_loaded =
            |files: &AdapterFiles| loaded.iter().any(|info| info.name == files.name && info.sha256 == files.sha256);
        let named = named.map_err(|error| error.to_string()).flatten().map_err(NotDone::Wrong)?;
        for files in named.into_iter().filter(|files| !is_loaded(files)) {
            self.exchange.load_adapter(files).await?;
        }
        Ok(())
    }

    /// Forgets one that no agent names.
    pub(super) async fn unload(&self, name: &str) -> Result<Vec<AdapterCard>, NotAdapted> {
        if !self.exchange.engine().adapters().iter().any(|info| info.name == name) {
            return Err(NotAdapted::Missing(format!("no adapter {name} is loaded")));
        }
        if let Some(agent) = self.exchange.answers_with(name) {
            let why = format!(
                "the agent `{agent}` answers with {name}: take sampling.adapter out of its file, reload, and wait for its \
                 calls to end"
            );
            return Err(NotAdapted::Wrong(why));
        }
        self.exchange.engine().drop_adapter(name).await.map_err(not_adapted)?;
        self.list().await
    }
}

fn not_adapted(error: NotDone) -> NotAdapted {
    match error {
        NotDone::NotNow(why) => NotAdapted::NotNow(why),
        NotDone::Wrong(why) => NotAdapted::Wrong(why),
    }
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, NotAdapted> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| NotAdapted::Wrong(error.to_string()))?.map_err(NotAdapted::Wrong)
}
