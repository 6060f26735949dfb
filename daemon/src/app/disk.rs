//! How full the disks are, and how large what lies there. Enters: the folders of the configuration, looked at now and then in
//! a thread of its own, because a disk may hang; leaves: gauges. Never here: anything that a call or a scrape waits for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;

use crate::config::Config;
use crate::storage::backup;
use crate::telemetry::{Label, Metrics};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(15);

type Bytes = Family<Label<&'static str>, Gauge<f64, AtomicU64>>;

/// The thread; it ends when this is dropped. Nobody waits for that.
#[must_use = "dropping it ends the thread"]
pub(super) struct Disk {
    _stop: SyncSender<()>,
}

/// What is looked at, and what was seen.
struct Look {
    /// Each place's name, and its folder.
    places: Vec<(&'static str, PathBuf)>,
    /// Each file's name, and where it is.
    files: Vec<(&'static str, PathBuf)>,
    backups: PathBuf,
    free: Bytes,
    size: Bytes,
    held: Bytes,
    backup_at: Gauge,
    backup_bytes: Gauge,
    backups_kept: Gauge,
}

impl Disk {
    /// Looks once it has a thread, and from then on every 15 s.
    ///
    /// # Errors
    /// No thread.
    pub(super) fn start(config: &Config, metrics: &Metrics) -> io::Result<Self> {
        let look = Look::register(config, metrics);
        let (stop, stopped) = sync_channel::<()>(0);
        std::thread::Builder::new().name("disk".into()).spawn(move || {
            loop {
                look.look();
                if stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Self { _stop: stop })
    }
}

impl Look {
    fn register(config: &Config, metrics: &Metrics) -> Self {
        let database = &config.storage.path;
        let parent = |path: &Path| path.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        let mut log = database.clone().into_os_string();
        log.push("-wal");
        let this = Self {
            places: vec![
                ("storage", parent(database)),
                ("recordings", config.recordings.path.clone()),
                ("backups", config.storage.backups.clone()),
                ("models", config.models.dir.clone()),
                ("cache", config.models.cache.clone()),
            ],
            files: vec![
                ("calls", database.clone()),
                ("calls_wal", log.into()),
                ("answers", database.with_file_name("answers.db")),
            ],
            backups: config.storage.backups.clone(),
            free: Family::default(),
            size: Family::default(),
            held: Family::default(),
            backup_at: Gauge::default(),
            backup_bytes: Gauge::default(),
            backups_kept: Gauge::default(),
        };
        metrics.register(|registry| {
            let help = "Room that is left for us on the disk of a folder";
            registry.register_with_unit("disk_free", help, Unit::Bytes, this.free.clone());
            registry.register_with_unit("disk_size", "Size of that disk", Unit::Bytes, this.size.clone());
            registry.register_with_unit("storage_file", "Size of a database's file", Unit::Bytes, this.held.clone());
            let help = "When the latest backup was written, since 1970; 0 if there is none";
            registry.register_with_unit("backup_timestamp", help, Unit::Seconds, this.backup_at.clone());
            registry.register_with_unit("backup", "Size of the latest backup", Unit::Bytes, this.backup_bytes.clone());
            registry.register("backups", "Backups that are kept", this.backups_kept.clone());
        });
        this
    }

    fn look(&self) {
        for (name, folder) in &self.places {
            // One that is made only when it is needed lies where its parent does.
            let there = folder.ancestors().find(|folder| folder.is_dir());
            let Some(Ok(disk)) = there.map(rustix::fs::statvfs) else { continue };
            set(&self.free, "place", name, disk.f_bavail.saturating_mul(disk.f_frsize));
            set(&self.size, "place", name, disk.f_blocks.saturating_mul(disk.f_frsize));
        }
        for (name, file) in &self.files {
            set(&self.held, "file", name, fs::metadata(file).map_or(0, |meta| meta.len()));
        }
        let Ok(kept) = backup::list(&self.backups) else { return };
        let latest = kept.first().and_then(|latest| {
            let at = fs::metadata(&latest.path).and_then(|meta| meta.modified()).ok()?;
            Some((at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs(), latest.bytes))
        });
        let (at, bytes) = latest.unwrap_or_default();
        for (gauge, value) in
            [(&self.backup_at, at), (&self.backup_bytes, bytes), (&self.backups_kept, kept.len() as u64)]
        {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes, to a part in 2^52")]
fn set(bytes: &Bytes, label: &'static str, name: &'static str, value: u64) {
    bytes.get_or_create(&[(label, name)]).set(value as f64);
}
