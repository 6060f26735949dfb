//! Adapters of the language model by name: which there are, which are on their way, and who waits for those.
//!
//! Enters: what was loaded, requests that name an adapter. Leaves: the adapter, or the request again once that is there. Never
//! here: a file: those are read by a thread of their own ([`load`]), beside the answers that go on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use callbox_wire::{AdapterInfo, CallId, Request, TurnId};

use crate::models::transformer::{Adapter, BaseModel};

/// Adapters at most: one for each agent of a large box.
const MOST: usize = 64;

/// Reads an adapter, which must have this hash.
///
/// # Errors
/// One sentence, if it is not as it should be or does not fit.
pub(super) fn load(folder: &Path, sha256: &str, base: &BaseModel) -> Result<Arc<Adapter>, String> {
    let adapter = Adapter::open(folder, base).map_err(|error| format!("{error:#}"))?;
    if hex::encode(adapter.sha256()) != sha256 {
        return Err("its files have changed since they were looked at: load it again".to_owned());
    }
    Ok(Arc::new(adapter))
}

/// What a name stands for.
pub(super) enum Named {
    Loaded(Arc<Adapter>),
    Loading,
    Unknown,
}

#[derive(Default)]
pub(super) struct Adapters {
    loaded: BTreeMap<String, Arc<Adapter>>,
    /// How many loads of a name are under way.
    loading: BTreeMap<String, usize>,
    /// Wait for one of those; as many thoughts as may wait at all.
    held: Vec<Request>,
}

impl Adapters {
    pub(super) fn named(&self, name: &str) -> Named {
        match self.loaded.get(name) {
            _ if self.loading.contains_key(name) => Named::Loading,
            Some(adapter) => Named::Loaded(Arc::clone(adapter)),
            None => Named::Unknown,
        }
    }

    /// A load has begun: what is asked for from now on waits for it.
    pub(super) fn begin(&mut self, name: String) {
        *self.loading.entry(name).or_default() += 1;
    }

    /// A load has ended. Returns the adapter that is not there any more.
    ///
    /// # Errors
    /// One sentence, if there is nothing new.
    pub(super) fn end(
        &mut self,
        name: &str,
        result: Result<Arc<Adapter>, String>,
    ) -> Result<Option<Arc<Adapter>>, String> {
        if let Some(count) = self.loading.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.loading.remove(name);
            }
        }
        let adapter = result?;
        if !self.loaded.contains_key(name) && self.loaded.len() >= MOST {
            return Err(format!("{MOST} adapters are loaded, and no more can be: unload one first"));
        }
        Ok(self.loaded.insert(name.to_owned(), adapter))
    }

    /// Forgets an adapter; none if there is none of that name.
    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<Adapter>> {
        self.loaded.remove(name)
    }

    /// Whether an adapter of this hash is there under any name.
    pub(super) fn holds(&self, sha256: [u8; 32]) -> bool {
        self.loaded.values().any(|adapter| adapter.sha256() == sha256)
    }

    /// Keeps a request until its adapter was loaded.
    pub(super) fn hold(&mut self, request: Request) {
        self.held.push(request);
    }

    /// The requests whose adapter is on its way no more.
    pub(super) fn released(&mut self) -> Vec<Request> {
        let loading = &self.loading;
        self.held.extract_if(.., |held| adapter_of(held).is_none_or(|name| !loading.contains_key(name))).collect()
    }

    /// Drops what is held of a call, of one turn or of all; returns how many thoughts that were.
    pub(super) fn release(&mut self, of: CallId, at: Option<TurnId>) -> usize {
        let before = self.held.len();
        self.held.retain(|held| match held {
            Request::ThinkWith { call, turn, .. } => *call != of || at.is_some_and(|at| at != *turn),
            _ => true,
        });
        before - self.held.len()
    }

    /// What there is, by name.
    pub(super) fn list(&self) -> Vec<AdapterInfo> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.loaded
            .iter()
            .map(|(name, adapter)| AdapterInfo {
                name: name.clone(),
                sha256: hex::encode(adapter.sha256()),
                rank: count(adapter.rank()),
                layers: count(adapter.layers()),
                bytes: adapter.bytes() as u64,
            })
            .collect()
    }
}

fn adapter_of(request: &Request) -> Option<&str> {
    match request {
        Request::ThinkWith { adapter, .. } | Request::PrimeWith { adapter, .. } => Some(adapter),
        _ => None,
    }
}
