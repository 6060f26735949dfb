//! The cards of this machine, as NVIDIA's driver tells of them.
//!
//! Enters: the driver's library, where there is one, asked every few seconds by a thread of its own, because a driver may
//! hang; critical errors (XID) when they come. Leaves: what was seen last, for health, metrics and the console; events for
//! the record. Never here: a setting of a card, or anything that a call or a scrape waits for.
//!
//! ```text
//!  libnvidia-ml ─► driver ─ readings, XID ─► card: what is a fault? ─► Gpus::seen ─► health · metrics · console
//! ```

mod card;
mod driver;
mod metrics;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

pub use self::card::{Card, Identity, Reading, is_of_the_card};
use self::driver::{Driver, Ears, Look};
use crate::storage::StorageHandle;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);

/// How long one wait for a critical error lasts: an end of the daemon is noticed between two.
const LISTEN: Duration = Duration::from_millis(500);

/// Until a library that is not there is looked for again: drivers are installed while the daemon runs.
const ABSENT: Duration = Duration::from_secs(60);

/// What was seen last.
#[derive(Clone, PartialEq, Debug, Default, Serialize, ToSchema)]
pub struct Seen {
    /// The driver's version; null where there is none.
    pub driver: Option<String>,
    /// The cards, in the driver's order.
    pub cards: Vec<Card>,
}

/// The cards; cheap to clone.
#[derive(Clone, Default)]
pub struct Gpus(Arc<Mutex<Seen>>);

impl Gpus {
    /// What was seen last.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, seen: Seen) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

/// The thread that looks; it ends when this is dropped. Nobody waits for that.
#[must_use = "dropping it ends the thread"]
pub struct Watch {
    _stop: SyncSender<()>,
}

impl Watch {
    /// Looks from now on.
    ///
    /// # Errors
    /// No thread.
    pub fn start(library: PathBuf, gpus: Gpus, storage: StorageHandle) -> io::Result<Self> {
        let (stop, stopped) = sync_channel::<()>(0);
        let mut watcher = Watcher { gpus, storage, xids: BTreeMap::new(), faults: BTreeMap::new() };
        std::thread::Builder::new().name("gpu".into()).spawn(move || watcher.run(&library, &stopped))?;
        Ok(Self { _stop: stop })
    }
}

/// What the thread remembers.
struct Watcher {
    gpus: Gpus,
    storage: StorageHandle,
    /// Critical errors by the card's UUID and their number.
    xids: BTreeMap<String, BTreeMap<u64, u64>>,
    /// What was said of each card last.
    faults: BTreeMap<String, Vec<String>>,
}

impl Watcher {
    fn run(&mut self, library: &Path, stopped: &Receiver<()>) {
        loop {
            match Driver::load(library) {
                Ok(driver) => self.watch(&driver, stopped),
                Err(error) => tracing::debug!(%error, library = %library.display(), "no NVIDIA driver"),
            }
            if stopped.recv_timeout(ABSENT) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Looks until the driver goes, or the daemon does.
    fn watch(&mut self, driver: &Driver, stopped: &Receiver<()>) {
        let version = driver.version();
        let (mut ears, mut heard) = (None, Vec::new());
        loop {
            let looks = driver.look();
            let gone = looks.is_err();
            let lost = || vec![Look::default(); self.gpus.seen().cards.len()];
            let looks = looks.unwrap_or_else(|_| lost());
            // One that cannot be reached at first is listened to when it comes back.
            let there: Vec<u32> =
                (0..).zip(&looks).filter(|(_, look)| look.reading.is_some()).map(|(at, _)| at).collect();
            self.take(&version, looks);
            if gone {
                tracing::error!("NVIDIA's driver does not answer any more");
                return;
            }
            if there != heard {
                ears = driver.listen(&there);
                heard = there;
            }
            for _ in 0..EVERY.as_millis() / LISTEN.as_millis() {
                if !matches!(stopped.try_recv(), Err(TryRecvError::Empty)) || !self.listen(&mut ears, stopped) {
                    return;
                }
            }
        }
    }

    /// Waits for a critical error; false if the daemon ends.
    fn listen(&mut self, ears: &mut Option<Ears<'_>>, stopped: &Receiver<()>) -> bool {
        match ears.as_ref().map(|ears| ears.next(LISTEN)) {
            Some(Ok(Some((uuid, xid)))) => {
                let count = self.xids.entry(uuid.clone()).or_default().entry(xid).or_default();
                *count += 1;
                // A card that is breaking may say so a thousand times.
                if !count.is_power_of_two() {
                    return true;
                }
                if is_of_the_card(xid) {
                    tracing::error!(card = uuid, xid, "critical error of a GPU");
                } else {
                    tracing::warn!(card = uuid, xid, "a program failed on a GPU");
                }
                self.storage.event("gpu_xid", format!("{uuid}: XID {xid}"));
                true
            }
            Some(Ok(None)) => true,
            Some(Err(error)) => {
                tracing::warn!(%error, "the driver tells of no critical errors any more");
                *ears = None;
                true
            }
            None => stopped.recv_timeout(LISTEN) == Err(RecvTimeoutError::Timeout),
        }
    }

    fn take(&mut self, version: &str, looks: Vec<Look>) {
        let before = self.gpus.seen().cards;
        let cards = looks.into_iter().zip(0..).map(|(Look { identity, reading }, index)| {
            // One that cannot be reached does not say who it is.
            let known = || before.iter().find(|card| card.identity.index == index).map(|card| card.identity.clone());
            let identity = identity.or_else(known).unwrap_or_else(|| Identity { index, ..Identity::default() });
            let xids = self.xids.get(&identity.uuid).cloned().unwrap_or_default();
            Card::new(identity, reading, xids)
        });
        let cards: Vec<Card> = cards.collect();
        for card in &cards {
            self.tell(card);
        }
        self.gpus.put(Seen { driver: Some(version.to_owned()), cards });
    }

    /// Says what has become wrong, or right.
    fn tell(&mut self, card: &Card) {
        let said = self.faults.entry(card.identity.uuid.clone()).or_default();
        if *said == card.faults {
            return;
        }
        said.clone_from(&card.faults);
        let Identity { index, name, .. } = &card.identity;
        let told = if said.is_empty() { "nothing is wrong with it any more".to_owned() } else { said.join("; ") };
        if said.is_empty() {
            tracing::info!("GPU {index} ({name}): {told}");
        } else {
            tracing::error!("GPU {index} ({name}): {told}");
        }
        self.storage.event("gpu", format!("GPU {index}: {told}"));
    }
}
