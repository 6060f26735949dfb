//! The cards of this machine, as NVIDIA's driver tells of them.
//!
//! Enters: the driver's library, where there is one, asked every few seconds by a thread of its own, because a driver may
//! hang; critical errors (XID) when they come. Leaves: what was seen last, for health, metrics and the console; events for
//! the record. Never here: a setting of a card, or anything that a call or a scrape waits for.
//!
//! ```text
//!  libnvidia-ml ─► driver ─ readings, XID ─► card: what is a fault? ─► Gpus::seen ─► health · metrics · console
//!                                                                            └────► fence: may an engine use it?
//! ```

mod card;
mod driver;
mod fence;
mod metrics;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;
use utoipa::ToSchema;

pub use self::card::{Card, Identity, Reading, is_of_the_card};
use self::driver::{Driver, Ears, Look};
pub use self::fence::Fence;
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

/// What was seen last; nothing before the first look has ended. Cheap to clone.
#[derive(Clone)]
pub struct Gpus(watch::Sender<Option<Seen>>);

impl Default for Gpus {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Gpus {
    /// What was seen last.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.0.borrow().clone().unwrap_or_default()
    }

    /// What the first look saw; nothing if it takes longer than `limit`, because the driver hangs.
    pub async fn looked(&self, limit: Duration) -> Option<Seen> {
        let mut seen = self.0.subscribe();
        let first = timeout(limit, seen.wait_for(Option::is_some)).await.ok()?.ok()?;
        first.clone()
    }

    /// Every look from now on.
    #[must_use]
    pub fn looks(&self) -> watch::Receiver<Option<Seen>> {
        self.0.subscribe()
    }

    fn put(&self, seen: Seen) {
        self.0.send_replace(Some(seen));
    }
}

/// The cards as they are now, for one who does not stay. It may hang as the driver does.
#[must_use]
pub fn look(library: &Path) -> Seen {
    let Ok(driver) = Driver::load(library) else { return Seen::default() };
    let card = |look: Look| Card::new(look.identity.unwrap_or_default(), look.reading, BTreeMap::new());
    let cards = driver.look().unwrap_or_default().into_iter().map(card).collect();
    Seen { driver: Some(driver.version()), cards }
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
        let mut watcher =
            Watcher { gpus, storage, xids: BTreeMap::new(), last: BTreeMap::new(), faults: BTreeMap::new() };
        std::thread::Builder::new().name("gpu".into()).spawn(move || watcher.run(&library, &stopped))?;
        Ok(Self { _stop: stop })
    }
}

/// What half a second of listening brought.
enum Heard {
    Nothing,
    /// Of a card, which may be in use.
    Fault,
    /// The daemon ends.
    End,
}

/// What the thread remembers.
struct Watcher {
    gpus: Gpus,
    storage: StorageHandle,
    /// Critical errors by the card's UUID and their number.
    xids: BTreeMap<String, BTreeMap<u64, u64>>,
    /// The last one of each card that was its own.
    last: BTreeMap<String, u64>,
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
            // Whoever waits for the first look need not wait any longer.
            self.gpus.0.send_if_modified(|seen| seen.is_none() && seen.replace(Seen::default()).is_none());
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
            let known = || self.gpus.seen().cards.into_iter().filter(|card| card.identity.slice.is_none());
            let lost = |card: Card| Look { index: card.identity.index, ..Look::default() };
            let looks = looks.unwrap_or_else(|_| known().map(lost).collect());
            // One that cannot be reached at first is listened to when it comes back.
            let there = looks.iter().filter(|look| look.is_whole() && look.reading.is_some());
            let there: Vec<u32> = there.map(|look| look.index).collect();
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
                if !matches!(stopped.try_recv(), Err(TryRecvError::Empty)) {
                    return;
                }
                match self.listen(&mut ears, stopped) {
                    Heard::Nothing => {}
                    // Whoever computes on that card is not to wait for the next look.
                    Heard::Fault => break,
                    Heard::End => return,
                }
            }
        }
    }

    /// Waits for a critical error.
    fn listen(&mut self, ears: &mut Option<Ears<'_>>, stopped: &Receiver<()>) -> Heard {
        match ears.as_ref().map(|ears| ears.next(LISTEN)) {
            Some(Ok(Some((uuid, xid)))) => {
                let count = self.xids.entry(uuid.clone()).or_default().entry(xid).or_default();
                *count += 1;
                let told = *count;
                let fault = is_of_the_card(xid);
                if fault {
                    self.last.insert(uuid.clone(), xid);
                }
                // A card that is breaking may say so a thousand times.
                if !told.is_power_of_two() {
                    return Heard::Nothing;
                }
                if fault {
                    tracing::error!(card = uuid, xid, "critical error of a GPU");
                } else {
                    tracing::warn!(card = uuid, xid, "a program failed on a GPU");
                }
                self.storage.event("gpu_xid", format!("{uuid}: XID {xid}"));
                if fault { Heard::Fault } else { Heard::Nothing }
            }
            Some(Ok(None)) => Heard::Nothing,
            Some(Err(error)) => {
                tracing::warn!(%error, "the driver tells of no critical errors any more");
                *ears = None;
                Heard::Nothing
            }
            None if stopped.recv_timeout(LISTEN) == Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            None => Heard::End,
        }
    }

    fn take(&mut self, version: &str, looks: Vec<Look>) {
        let before = self.gpus.seen().cards;
        let mut whole = String::new();
        let cards = looks.into_iter().map(|Look { index, identity, reading }| {
            // One that cannot be reached does not say who it is.
            let known = || before.iter().map(|card| &card.identity).find(|one| (one.index, one.slice) == (index, None));
            let identity = identity.or_else(|| known().cloned());
            let identity = identity.unwrap_or_else(|| Identity { index, ..Identity::default() });
            // A slice breaks with its card.
            if identity.slice.is_none() {
                whole.clone_from(&identity.uuid);
            }
            let xids = self.xids.get(&whole).cloned().unwrap_or_default();
            let last_xid = self.last.get(&whole).copied();
            Card { last_xid, ..Card::new(identity, reading, xids) }
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
        let (number, name) = (card.identity.number(), &card.identity.name);
        let told = if said.is_empty() { "nothing is wrong with it any more".to_owned() } else { said.join("; ") };
        if said.is_empty() {
            tracing::info!("GPU {number} ({name}): {told}");
        } else {
            tracing::error!("GPU {number} ({name}): {told}");
        }
        self.storage.event("gpu", format!("GPU {number}: {told}"));
    }
}
