//! The database as its users meet it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};

use rusqlite::Connection;

use super::*;
use crate::base::{Known, Origin, Pii, Source, SystemClock, TurnId};

pub(super) fn call(id: u64, started: i64) -> CallRecord {
    CallRecord {
        id: CallId(id),
        agent: "frontdesk".into(),
        direction: Direction::Inbound,
        from: Pii::new("+15550100".into()),
        to: Pii::new("100".into()),
        codec: "PCMU".into(),
        started: Timestamp(started),
        answered: Some(Timestamp(started + 1)),
        ended: None,
        end_reason: None,
        turns: 0,
        media: MediaStats { packets_in: u64::MAX, ..MediaStats::default() },
    }
}

pub(super) fn turn(id: u64, number: u32) -> TurnRecord {
    let mut turn = TurnRecord {
        call: CallId(id),
        turn: TurnId(number),
        started: Timestamp(7),
        caller_text: Pii::new("when do you open".into()),
        agent_text: Pii::new("At nine. On Sunday at ten.".into()),
        heard_text: Pii::new("At nine.".into()),
        source: Some(Source::Known(Known { entry: 12, origin: Origin::Added, score: 0.875 })),
        model: None,
        knowledge: vec!["house.md: Pool".into(), "prices.csv".into()],
        interrupted: true,
        kind: "answer".into(),
        outcome: "interrupted".into(),
        failure: Some("voice internal".into()),
        retries: 1,
        stt_us: 80_000,
        tts_us: 90_000,
        prompt_tokens: 400,
        cached_tokens: 380,
        answer_tokens: 9,
        timings_us: BTreeMap::new(),
    };
    for (count, timing) in Timing::ALL.into_iter().enumerate() {
        turn.took(timing, Duration::from_micros(count as u64 * 1000 + 1));
    }
    turn
}

pub(super) fn open(path: &Path) -> Result<Storage, StorageError> {
    Storage::open(path, Arc::new(SystemClock))
}

#[test]
fn what_was_recorded_is_read_back_newest_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("callbox.db");
    let storage = open(&path).expect("open");
    let handle = storage.handle();
    for id in 1..=5 {
        handle.record(Record::Call(Box::new(call(id, 100))));
    }
    handle.record(Record::Turn(Box::new(turn(5, 1))));
    let mut ended = call(5, 100);
    ended.ended = Some(Timestamp(900));
    ended.end_reason = Some("caller_hangup".into());
    handle.record(Record::Call(Box::new(ended.clone())));
    drop(storage);

    let storage = open(&path).expect("open again");
    let handle = storage.handle();
    let first = handle.calls(&Wanted::default(), 2, None).expect("read");
    let last = first.last().expect("two");
    let cursor: Cursor = Cursor { started: last.started, id: last.id }.to_string().parse().expect("a cursor");
    let second = handle.calls(&Wanted::default(), 10, Some(cursor)).expect("read");
    let ids: Vec<u64> = first.iter().chain(&second).map(|call| call.id.0).collect();
    assert_eq!(ids, [5, 4, 3, 2, 1]);
    ended.media.packets_in = i64::MAX as u64;
    assert_eq!(handle.call(CallId(5)).expect("read"), StoredCall { call: Some(ended), turns: vec![turn(5, 1)] });
    assert_eq!(handle.call(CallId(77)).expect("read"), StoredCall::default());
    for suffix in ["", "-wal", "-shm"] {
        let mode = fs::metadata(format!("{}{suffix}", path.display())).expect("a file").permissions().mode();
        assert_eq!(mode & 0o077, 0, "others may not read callbox.db{suffix}");
    }
    for text in ["", "7", "x-1", "1-", "1-1ffffffffffffffff"] {
        assert!(text.parse::<Cursor>().is_err(), "{text}");
    }
}

#[test]
fn a_locked_database_never_holds_up_who_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("callbox.db");
    let storage = open(&path).expect("open");
    let handle = storage.handle();
    let lock = Connection::open(&path).expect("a second connection");
    lock.execute_batch("BEGIN EXCLUSIVE").expect("locked");
    let sent = (writer::QUEUE * 2) as u64;
    for id in 0..sent {
        handle.record(Record::Call(Box::new(call(id, 0))));
    }
    assert!(handle.metrics().queue_full() > 0, "the queue is bounded");
    lock.execute_batch("COMMIT").expect("unlocked");
    handle.flush();
    assert_eq!(handle.fault(), None);
    let kept = handle.calls(&Wanted::default(), u32::MAX, None).expect("read").len() as u64;
    assert_eq!(kept + handle.metrics().queue_full(), sent);
    assert_eq!(handle.metrics().written.get(), kept);
}

#[test]
fn a_database_that_cannot_be_written_is_a_fault_that_heals() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("callbox.db");
    let storage = open(&path).expect("open");
    let handle = storage.handle();
    let other = Connection::open(&path).expect("a second connection");
    other.execute_batch("ALTER TABLE calls RENAME TO hidden").expect("renamed");
    handle.record(Record::Call(Box::new(call(1, 0))));
    handle.flush();
    assert!(handle.fault().expect("a fault").contains("cannot be written"));
    assert_eq!(handle.metrics().write_failed(), 1);
    other.execute_batch("ALTER TABLE hidden RENAME TO calls").expect("renamed");
    handle.record(Record::Call(Box::new(call(2, 0))));
    handle.flush();
    assert_eq!(handle.fault(), None);
    assert_eq!(handle.calls(&Wanted::default(), 9, None).expect("read").len(), 1);
}

#[test]
fn a_fault_heals_though_nobody_calls_and_the_gap_is_on_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("callbox.db");
    let clock = Arc::new(crate::base::ManualClock::default());
    let storage = Storage::open(&path, clock.clone()).expect("open");
    let handle = storage.handle();
    let pass = |seconds| {
        clock.advance(Duration::from_secs(seconds));
        handle.flush();
    };
    // As read-only as a disk is, and for every connection.
    let other = Connection::open(&path).expect("a second connection");
    for table in ["calls", "events"] {
        let deny = format!("CREATE TRIGGER no_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END");
        other.execute_batch(&deny).expect("denied");
    }
    let since = handle.writer.now();
    for id in 0..3 {
        handle.record(Record::Call(Box::new(call(id, 0))));
    }
    pass(0);
    pass(10);
    assert!(handle.fault().is_some() && handle.metrics().write_failed() == 3, "what it is told is no record of ours");
    other.execute_batch("DROP TRIGGER no_calls; DROP TRIGGER no_events").expect("allowed");
    pass(1);
    assert!(handle.fault().is_some(), "a disk is not asked all the time");
    pass(2);
    assert_eq!(handle.fault(), None);
    pass(10);
    let told = "SELECT group_concat(kind || ': ' || detail) FROM events";
    let told: String = other.query_row(told, [], |row| row.get(0)).expect("read");
    assert_eq!(told, format!("storage_gap: 3 records were lost since {since}"), "once");
}

#[test]
fn a_disk_that_was_full_at_the_start_costs_records_until_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("callbox.db");
    let full = StorageError::Open { path: path.clone(), source: io::ErrorKind::StorageFull.into() };
    assert!(open::may_pass(&full) && !open::may_pass(&StorageError::Foreign(path.clone())));
    let clock = Arc::new(crate::base::ManualClock::default());
    let reader = Arc::new(read::Reader::default());
    let database = writer::Database::new(path, Arc::clone(&reader), Err(full));
    let (writer, thread) = writer::start(database, clock.clone()).expect("a thread");
    let handle = StorageHandle { writer, reader };
    handle.record(Record::Call(Box::new(call(1, 0))));
    handle.flush();
    let fault = handle.fault().expect("a fault");
    assert!(fault.ends_with("; make room on its disk"), "{fault}");
    assert!(
        handle.calls(&Wanted::default(), 9, None).expect_err("closed").to_string().contains("could not be opened yet")
    );
    clock.advance(Duration::from_secs(3));
    handle.flush();
    assert_eq!(handle.fault(), None, "though nobody calls");
    handle.record(Record::Call(Box::new(call(2, 0))));
    handle.flush();
    assert_eq!((handle.fault(), handle.metrics().write_failed()), (None, 1));
    assert_eq!(handle.calls(&Wanted::default(), 9, None).expect("read").len(), 1);
    drop(thread);
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_nobody() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("callbox.db");
    // Whoever opens a pipe for writing hangs until somebody reads.
    let pipe = lock::file(&path);
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let clock = Arc::new(crate::base::ManualClock::default());
    let (storage, opening) = Storage::begin(&path, clock.clone()).expect("at once");
    let handle = storage.handle();
    handle.record(Record::Call(Box::new(call(1, 0))));
    assert_eq!(handle.fault(), None);
    clock.advance(Duration::from_secs(6));
    assert!(handle.fault().expect("a fault").contains("does not answer"));
    let reader = fs::File::open(&pipe).expect("opened with the writer");
    opening.wait().await.expect("opened");
    handle.flush();
    assert_eq!((handle.fault(), handle.calls(&Wanted::default(), 9, None).expect("read").len()), (None, 1));
    drop((storage, reader));

    let (_storage, opening) = Storage::begin(folder.path(), clock).expect("at once");
    assert!(opening.wait().await.is_err(), "a folder");
}

#[test]
fn what_cannot_be_used_is_refused_in_one_sentence_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("callbox.db");
    let refused = |sentence: &str| {
        let before = fs::read(&path).ok();
        let error = open(&path).err().expect("refused").to_string();
        assert!(error.contains(sentence) && error.contains(path.to_str().expect("text")), "{error}");
        assert_eq!(fs::read(&path).ok(), before);
    };
    fs::write(&path, [7; 8192]).expect("written");
    refused("is no SQLite database or is damaged");
    fs::remove_file(&path).expect("removed");
    drop(open(&path).expect("open"));
    let whole = fs::read(&path).expect("read");
    Connection::open(&path).and_then(|db| db.pragma_update(None, "user_version", 99)).expect("set");
    refused("has schema 99");
    fs::write(&path, &whole[..5000]).expect("written");
    refused("is no SQLite database or is damaged");
    fs::remove_file(&path).expect("removed");
    Connection::open(&path).and_then(|db| db.execute_batch("CREATE TABLE t (a)")).expect("made");
    refused("belongs to another program");
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    refused("cannot be opened for writing");
}

const CHILD: &str = "CALLBOX_TEST_STORAGE_CHILD";

/// Not a test of its own: what the next one kills.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let storage = open(Path::new(&path)).expect("open");
    let handle = storage.handle();
    for id in 0.. {
        handle.record(Record::Call(Box::new(call(id, 0))));
        handle.flush();
        println!("committed {id}");
    }
}

/// A process that writes call after call and says which are committed.
pub(super) struct Writer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    last: u64,
}

impl Writer {
    pub(super) fn start(path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "storage::tests::child_that_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines, last: 0 }
    }

    /// Waits until so many are committed; the last one that is known to be.
    pub(super) fn committed(&mut self, least: u64) -> u64 {
        while self.last < least {
            self.next().expect("a commit");
        }
        self.last
    }

    /// `kill -9`; the last one that it said was committed.
    pub(super) fn kill(mut self) -> u64 {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
        while self.next().is_some() {}
        self.last
    }

    fn next(&mut self) -> Option<()> {
        let line = self.lines.next()?.ok()?;
        if let Some(id) = line.rsplit_once("committed ").and_then(|(_, id)| id.parse().ok()) {
            self.last = id;
        }
        Some(())
    }
}

#[test]
fn kill_9_loses_nothing_that_was_committed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("callbox.db");
    let mut writer = Writer::start(&path);
    writer.committed(200);
    let last = writer.kill();
    let storage = open(&path).expect("open");
    let kept = storage.handle().calls(&Wanted::default(), u32::MAX, None).expect("read").len() as u64;
    assert!(kept > last, "{kept} rows, {last} was the last one committed");
}
