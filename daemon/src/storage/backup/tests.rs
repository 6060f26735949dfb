//! Backups as an operator meets them on a good and on a bad day.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::base::CallId;
use crate::storage::tests::{call, open, turn};
use crate::storage::{Record, Storage, Timestamp};

struct Bed {
    folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("callbox.db")
    }

    fn backups(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    fn knowledge(&self) -> PathBuf {
        self.folder.path().join("knowledge")
    }

    fn know(&self, path: &str, text: &str) {
        let path = self.knowledge().join(path);
        fs::create_dir_all(parent(&path)).expect("made");
        fs::write(path, text).expect("written");
    }

    /// What agents know, by the path.
    fn known(&self) -> Vec<(String, String)> {
        let texts = |path: PathBuf| (path.clone(), fs::read_to_string(path).expect("read"));
        let mut all: Vec<_> = fs::read_dir(self.knowledge())
            .into_iter()
            .flatten()
            .flat_map(|agent| fs::read_dir(agent.expect("a folder").path()).expect("read"))
            .map(|file| texts(file.expect("a file").path()))
            .map(|(path, text)| (path.strip_prefix(self.knowledge()).expect("below").display().to_string(), text))
            .collect();
        all.sort();
        all
    }

    fn with_calls(&self, calls: u64) -> Storage {
        let storage = open(&self.database()).expect("open");
        for id in 0..calls {
            storage.handle().record(Record::Call(Box::new(call(id, 100))));
            storage.handle().record(Record::Turn(Box::new(turn(id, 1))));
        }
        storage.handle().flush();
        storage
    }

    fn back_up(&self, at: i64) -> Result<Made, BackupError> {
        back_up(&self.database(), &self.knowledge(), &self.backups(), 3, Timestamp(at * 1_000_000))
    }

    fn restore(&self, from: &Path) -> Result<Restored, BackupError> {
        restore(from, &self.database(), &self.knowledge(), Timestamp(0))
    }

    fn calls(&self) -> usize {
        open(&self.database())
            .expect("open")
            .handle()
            .calls(&crate::storage::Wanted::default(), u32::MAX, None)
            .expect("read")
            .len()
    }
}

#[test]
fn a_backup_of_a_database_in_use_is_restored_when_it_is_not() {
    let bed = Bed::new();
    let storage = bed.with_calls(300);
    let made = bed.back_up(1).expect("made while the writer runs");
    assert_eq!((made.calls, made.turns), (300, 300));
    assert!(made.path.ends_with("callbox-1970-01-01T00-00-01.000Z.db.zst"), "{}", made.path.display());
    assert!(made.bytes < made.database_bytes);
    let listed = list(&bed.backups()).expect("listed");
    assert_eq!((listed[0].made.as_str(), listed[0].has_hash, listed.len()), ("1970-01-01T00:00:01.000Z", true, 1));
    for path in [&made.path, &super::super::beside(&made.path, HASH)] {
        assert_eq!(fs::metadata(path).expect("a file").permissions().mode() & 0o777, 0o600, "only its owner reads it");
    }
    assert_eq!(fs::read_dir(bed.backups()).expect("read").count(), 2, "nothing else is left");

    storage.handle().record(Record::Call(Box::new(call(1000, 100))));
    storage.handle().flush();
    let refused = bed.restore(&made.path).expect_err("a daemon has it").to_string();
    assert!(refused.contains("a callboxd uses") && refused.contains("systemctl stop callbox"), "{refused}");
    drop(storage);

    let restored = bed.restore(&made.path).expect("restored");
    assert_eq!((restored.calls, restored.turns), (300, 300));
    assert_eq!(bed.calls(), 300);
    let aside = restored.moved_aside.expect("what was there is kept");
    assert_eq!(
        open(&aside)
            .expect("whole")
            .handle()
            .calls(&crate::storage::Wanted::default(), u32::MAX, None)
            .expect("read")
            .len(),
        301
    );
}

#[test]
fn the_newest_are_kept_and_foreign_files_are_left_alone() {
    let bed = Bed::new();
    drop(bed.with_calls(1));
    fs::create_dir(bed.backups()).expect("made");
    let precious = bed.backups().join("letters.db.zst");
    fs::write(&precious, "precious").expect("written");
    for at in 1..=5 {
        bed.back_up(at).expect("made");
    }
    let times: Vec<String> = list(&bed.backups()).expect("listed").into_iter().map(|backup| backup.made).collect();
    assert_eq!(times, ["1970-01-01T00:00:05.000Z", "1970-01-01T00:00:04.000Z", "1970-01-01T00:00:03.000Z"]);
    assert!(precious.is_file());
    assert_eq!(fs::read_dir(bed.backups()).expect("read").count(), 7, "three, their hashes, and the letters");
    let late = bed.back_up(0).expect("made by a clock that was set back");
    assert!(late.path.is_file() && late.removed.len() == 1, "{late:?}");
}

#[test]
fn what_is_not_whole_is_refused_and_changes_nothing() {
    let bed = Bed::new();
    drop(bed.with_calls(50));
    let made = bed.back_up(1).expect("made");
    let hash = super::super::beside(&made.path, HASH);
    let (whole, line) = (fs::read(&made.path).expect("read"), fs::read_to_string(&hash).expect("read"));
    let before = fs::read(bed.database()).expect("read");
    let refused = |sentence: &str| {
        let error = bed.restore(&made.path).expect_err(sentence).to_string();
        assert!(error.contains(sentence) && error.lines().count() == 1, "{error}");
        assert_eq!(fs::read(bed.database()).expect("read"), before);
        let left = fs::read_dir(bed.folder.path()).expect("read").count();
        assert_eq!(left, 3, "database, its lock, backups");
    };
    let mut bent = whole.clone();
    let middle = bent.len() / 2;
    bent[middle] ^= 1;
    fs::write(&made.path, &bent).expect("written");
    refused("is not what was backed up");
    fs::write(&made.path, &whole[..middle]).expect("written");
    refused("is not what was backed up");
    fs::write(&made.path, [&whole[..], b"more"].concat()).expect("written");
    refused("is not what was backed up");
    fs::write(&made.path, &whole).expect("written");
    fs::write(&hash, line.replace(&made.sha256, &"0".repeat(64))).expect("written");
    refused("is not what was backed up");
    fs::remove_file(&hash).expect("removed");
    refused(".sha256 is missing");
    fs::rename(&made.path, &hash).expect("moved");
    refused(".db.zst: cannot be read");

    // A hash that fits does not make a database of it, nor one of ours, nor one that this release knows.
    let forge = |content: &[u8]| {
        let packed = zstd::encode_all(content, 1).expect("packed");
        fs::write(&made.path, &packed).expect("written");
        fs::write(&hash, format!("{}  x\n", hex::encode(Sha256::digest(&packed)))).expect("written");
    };
    forge(b"not a database at all");
    refused("is damaged");
    let other = bed.backups().join("other.db");
    Connection::open(&other).and_then(|db| db.execute_batch("CREATE TABLE t (a)")).expect("made");
    forge(&fs::read(&other).expect("read"));
    refused("holds no database of Callbox");
    fs::copy(bed.database(), &other).expect("copied");
    Connection::open(&other).and_then(|db| db.pragma_update(None, "user_version", 99)).expect("set");
    forge(&fs::read(&other).expect("read"));
    refused("has schema 99");
    // A page of zeros in the middle: only the integrity check sees it.
    let mut holed = before.clone();
    let page = holed.len() / 4096 / 2;
    holed[page * 4096..(page + 1) * 4096].fill(0);
    forge(&holed);
    refused("is damaged");
}

#[test]
fn documents_that_were_added_come_back_and_what_is_no_document_is_left_alone() {
    let bed = Bed::new();
    drop(bed.with_calls(1));
    let before = bed.back_up(1).expect("made, with nothing added");
    bed.know("desk/prices.csv", "room,price\nsmall,80\n");
    bed.know("sales/a.md", "# Hours\nFrom nine.");
    bed.know("desk/.partial", "half");
    bed.know("stray.md", "of no agent");
    let secret = bed.folder.path().join("secret");
    fs::write(&secret, "root's").expect("written");
    std::os::unix::fs::symlink(&secret, bed.knowledge().join("desk/link.md")).expect("a link");
    std::os::unix::fs::symlink(bed.folder.path(), bed.knowledge().join("elsewhere")).expect("a link");
    let made = bed.back_up(2).expect("made");
    assert_eq!((before.documents, made.documents), (0, 2));

    let same = bed.restore(&made.path).expect("restored");
    assert_eq!((same.documents, same.documents_aside), (Some(2), None), "they are there");
    bed.know("desk/prices.csv", "room,price\nsmall,90\n");
    let restored = bed.restore(&made.path).expect("restored");
    let [csv, md] = [("desk/prices.csv", "room,price\nsmall,80\n"), ("sales/a.md", "# Hours\nFrom nine.")];
    assert_eq!(bed.known(), [csv, md].map(|(path, text)| (path.to_owned(), text.to_owned())));
    let aside = restored.documents_aside.expect("the others are kept");
    assert_eq!(fs::read_to_string(aside.join("desk/prices.csv")).expect("read"), "room,price\nsmall,90\n");
    let mode = |path: &str| fs::metadata(bed.knowledge().join(path)).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("desk"), mode("desk/prices.csv")), (0o700, 0o700, 0o600));
    fs::remove_dir_all(&aside).expect("removed");
    assert_eq!(bed.restore(&before.path).expect("restored").documents, Some(0));
    assert!(!bed.knowledge().exists() && aside.exists(), "there were none then");

    // A backup of before leaves them alone; what calls itself a document and leads elsewhere is refused.
    bed.know("desk/b.md", "Stays.");
    let forge = |sql: &str| {
        let plain = bed.folder.path().join("forged");
        fs::write(&plain, zstd::decode_all(File::open(&made.path).expect("open")).expect("unpacked")).expect("written");
        Connection::open(&plain).and_then(|db| db.execute_batch(sql)).expect("forged");
        let packed = zstd::encode_all(File::open(&plain).expect("open"), 1).expect("packed");
        fs::write(&before.path, &packed).expect("written");
        let line = format!("{}  x\n", hex::encode(Sha256::digest(&packed)));
        fs::write(super::super::beside(&before.path, HASH), line).expect("written");
        bed.restore(&before.path)
    };
    let strange = forge("UPDATE added_documents SET name = '../../evil.md' WHERE agent = 'desk'").expect_err("refused");
    assert!(strange.to_string().contains("no name of a document"), "{strange}");
    assert_eq!(forge("DROP TABLE added_documents").expect("restored").documents, None);
    assert_eq!(bed.known(), [("desk/b.md".to_owned(), "Stays.".to_owned())]);
}

#[test]
fn a_lock_that_is_a_link_is_not_followed() {
    let bed = Bed::new();
    drop(bed.with_calls(1));
    let made = bed.back_up(1).expect("made");
    let (victim, lock) = (bed.folder.path().join("shadow"), bed.folder.path().join("callbox.db.lock"));
    fs::remove_file(&lock).expect("removed");
    std::os::unix::fs::symlink(&victim, &lock).expect("a link");
    let error = bed.restore(&made.path).expect_err("refused").to_string();
    assert!(error.contains("callbox.db.lock: cannot be locked") && !victim.exists(), "{error}");
    assert!(open(&bed.database()).is_err() && !victim.exists());
}

#[test]
fn a_damaged_database_makes_no_backup_and_costs_no_older_one() {
    let bed = Bed::new();
    drop(bed.with_calls(500));
    for at in 1..=3 {
        bed.back_up(at).expect("made");
    }
    let mut bytes = fs::read(bed.database()).expect("read");
    let page = bytes.len() / 4096 / 2;
    bytes[page * 4096..(page + 1) * 4096].fill(0);
    fs::write(bed.database(), bytes).expect("written");
    let error = bed.back_up(4).expect_err("damaged").to_string();
    assert!(error.contains("is damaged") && error.contains("callbox backup list"), "{error}");
    assert_eq!(list(&bed.backups()).expect("listed").len(), 3);
    let newest = list(&bed.backups()).expect("listed").remove(0);
    assert_eq!(bed.restore(&newest.path).expect("restored over the damaged one").calls, 500);
    let missing = back_up(Path::new("nowhere.db"), &bed.knowledge(), &bed.backups(), 3, Timestamp(0))
        .expect_err("none")
        .to_string();
    assert!(missing.contains("there is no database nowhere.db"), "{missing}");
}

#[test]
fn a_backup_holds_all_that_was_committed_before_it_whatever_kills_the_writer() {
    let bed = Bed::new();
    let mut writer = crate::storage::tests::Writer::start(&bed.database());
    let mut last = writer.committed(100);
    for at in 1..=3 {
        last = last.max(writer.committed(last + 20));
        let made = bed.back_up(at).expect("made under writes");
        assert!(made.calls > last, "{} calls, {last} was committed before", made.calls);
    }
    let last = writer.kill();
    // The WAL of the killed writer is still there, and belongs to it.
    let made = bed.back_up(9).expect("made");
    assert!(made.calls > last, "{} calls, {last} was committed", made.calls);
    let restored = bed.restore(&made.path).expect("restored");
    assert_eq!(restored.calls, made.calls);
    assert!(open(&bed.database()).expect("open").handle().call(CallId(last)).expect("read").call.is_some());
}
