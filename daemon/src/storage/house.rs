//! What is deleted: of one person when somebody asks, of everybody with time. Enters: whom, or how long what is kept;
//! leaves: a database without it, in steps of a small transaction each, so that records wait for milliseconds. Deleted rows
//! are overwritten (`secure_delete`), their pages given back to the disk, and the WAL is emptied once no reader needs it.
//! Never here: a backup, which keeps what it has.

use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, params};

use super::privacy::Retention;
use super::{BUSY, Timestamp};
use crate::base::CallId;

/// Calls of a step.
const CALLS: u32 = 32;

/// Rows of a step that hang on nothing else.
const ROWS: u32 = 256;

/// Pages that a step gives back.
const PAGES: u32 = 256;

/// Between two steps while there is something to delete.
const BREATH: Duration = Duration::from_millis(200);

/// Between two looks.
const LOOK: Duration = Duration::from_secs(60);

const DAY_US: i64 = 86_400_000_000;

/// How long an erased call is remembered: longer than one can last, its end included.
const REMEMBERED: i64 = 7 * DAY_US;

/// Calls of which nothing more is recorded.
#[derive(Default)]
pub(super) struct Erased(HashSet<CallId>);

impl Erased {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare("SELECT call FROM erased")?;
        let calls = statement.query_map([], |row| row.get::<_, String>(0))?;
        Ok(Self(calls.filter_map(|call| call.ok()?.parse().ok()).collect()))
    }

    pub(super) fn has(&self, call: CallId) -> bool {
        !self.0.is_empty() && self.0.contains(&call)
    }
}

/// What an erasure has done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Erasure {
    /// Calls that are no more.
    pub calls: u64,
    /// Turns of them.
    pub turns: u64,
    /// Nothing of them is left in the write-ahead log either; otherwise a reader holds it, and that follows.
    pub log_emptied: bool,
}

/// One that was asked for.
pub(super) struct Erasing {
    names: Vec<String>,
    live: Vec<CallId>,
    so_far: Erasure,
    done: SyncSender<Result<Erasure, String>>,
}

impl Erasing {
    /// Everything of whoever has one of these names, and of these calls, which are up.
    pub(super) fn new(names: Vec<String>, live: Vec<CallId>, done: SyncSender<Result<Erasure, String>>) -> Self {
        Self { names, live, so_far: Erasure::default(), done }
    }

    fn tell(self, result: Result<Erasure, String>) {
        // Whoever asked may have gone.
        self.done.try_send(result).unwrap_or_default();
    }
}

/// What there is to be deleted.
#[derive(Default)]
pub(super) struct House {
    erasing: VecDeque<Erasing>,
    /// When to look next.
    next: Option<Instant>,
    /// Something was deleted that the WAL may still hold.
    log_holds: bool,
}

impl House {
    pub(super) fn erase(&mut self, erasing: Erasing) {
        self.erasing.push_back(erasing);
    }

    pub(super) fn is_erasing(&self) -> bool {
        !self.erasing.is_empty()
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_erasing() || self.next.is_none_or(|next| now >= next)
    }

    /// The database cannot be opened.
    pub(super) fn give_up(&mut self, why: &str) {
        self.erasing.drain(..).for_each(|erasing| erasing.tell(Err(why.to_owned())));
    }

    /// One step; whether something was deleted. `now` is for the next one, the other time for what is too old.
    pub(super) fn step(
        &mut self,
        connection: &mut Connection,
        erased: &mut Erased,
        retention: Retention,
        (now, today): (Instant, Timestamp),
    ) -> rusqlite::Result<bool> {
        if let Some(mut erasing) = self.erasing.pop_front() {
            return match erase(connection, erased, &mut erasing, today) {
                Ok(true) => {
                    self.erasing.push_front(erasing);
                    Ok(true)
                }
                Ok(false) => {
                    erasing.so_far.log_emptied = empty_log(connection)?;
                    self.log_holds |= !erasing.so_far.log_emptied;
                    let so_far = erasing.so_far;
                    erasing.tell(Ok(so_far));
                    Ok(true)
                }
                Err(error) => {
                    erasing.tell(Err(error.to_string()));
                    Err(error)
                }
            };
        }
        self.next = Some(now + LOOK);
        let mut deleted = expire(connection, retention, today)?;
        deleted |= give_back(connection)?;
        if deleted {
            self.log_holds = true;
            self.next = Some(now + BREATH);
        } else if self.log_holds {
            self.log_holds = !empty_log(connection)?;
            self.next = Some(now + if self.log_holds { BREATH } else { LOOK });
        }
        Ok(deleted)
    }
}

/// Deletes a few calls of somebody; whether there may be more.
fn erase(
    connection: &mut Connection,
    erased: &mut Erased,
    erasing: &mut Erasing,
    today: Timestamp,
) -> rusqlite::Result<bool> {
    let transaction = connection.transaction()?;
    let mut calls: Vec<String> = erasing.live.iter().map(ToString::to_string).collect();
    for name in &erasing.names {
        let few = "SELECT id FROM calls WHERE party = ?1 LIMIT ?2";
        let mut statement = transaction.prepare_cached(few)?;
        let found = statement.query_map(params![name, CALLS], |row| row.get(0))?;
        calls.extend(found.collect::<rusqlite::Result<Vec<String>>>()?);
    }
    let mut so_far = erasing.so_far;
    for call in &calls {
        let remember = "INSERT OR REPLACE INTO erased (call, at_us) VALUES (?1, ?2)";
        transaction.prepare_cached(remember)?.execute(params![call, today.0])?;
        let (gone, turns) = delete_call(&transaction, call)?;
        so_far.calls += gone;
        so_far.turns += turns;
    }
    transaction.commit()?;
    erased.0.extend(calls.iter().filter_map(|call| call.parse::<CallId>().ok()));
    erasing.so_far = so_far;
    erasing.live.clear();
    Ok(!calls.is_empty())
}

/// A call with all that hangs on it: how many there were, and turns.
fn delete_call(transaction: &Transaction<'_>, call: &str) -> rusqlite::Result<(u64, u64)> {
    transaction.prepare_cached("DELETE FROM recordings WHERE call = ?1")?.execute([call])?;
    transaction.prepare_cached("DELETE FROM stages WHERE call = ?1")?.execute([call])?;
    transaction.prepare_cached("DELETE FROM sources WHERE call = ?1")?.execute([call])?;
    let turns = transaction.prepare_cached("DELETE FROM turns WHERE call = ?1")?.execute([call])?;
    let calls = transaction.prepare_cached("DELETE FROM calls WHERE id = ?1")?.execute([call])?;
    Ok((calls as u64, turns as u64))
}

/// Deletes a little of what is too old; whether there was something.
fn expire(connection: &mut Connection, retention: Retention, today: Timestamp) -> rusqlite::Result<bool> {
    let before = |days: u32| today.0.saturating_sub(i64::from(days).saturating_mul(DAY_US));
    let transaction = connection.transaction()?;
    let mut deleted = 0;
    if let Some(before) = retention.calls.map(before) {
        let mut statement =
            transaction.prepare_cached("SELECT id FROM calls WHERE started_us < ?1 ORDER BY started_us LIMIT ?2")?;
        let old = statement.query_map(params![before, CALLS], |row| row.get(0))?;
        for call in old.collect::<rusqlite::Result<Vec<String>>>()? {
            delete_call(&transaction, &call)?;
            deleted += 1;
        }
        let events = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at_us < ?1 LIMIT ?2)";
        deleted += transaction.prepare_cached(events)?.execute(params![before, ROWS])?;
    }
    // Words of a turn whose call was lost on the way to the disk go with those of calls.
    if let Some(before) = [retention.calls, retention.transcripts].into_iter().flatten().min().map(before) {
        let words = "UPDATE turns SET caller_text = '', agent_text = '', heard_text = '' WHERE (call, turn) IN \
                     (SELECT call, turn FROM turns WHERE started_us < ?1 \
                     AND (caller_text <> '' OR agent_text <> '' OR heard_text <> '') LIMIT ?2)";
        deleted += transaction.prepare_cached(words)?.execute(params![before, ROWS])?;
    }
    if let Some(before) = retention.recordings.map(before) {
        let parts = "DELETE FROM recordings WHERE (call, part) IN \
                     (SELECT call, part FROM recordings WHERE begun_us < ?1 LIMIT ?2)";
        deleted += transaction.prepare_cached(parts)?.execute(params![before, ROWS])?;
    }
    if let Some(before) = retention.audit.map(before) {
        let audit = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at_us < ?1 LIMIT ?2)";
        deleted += transaction.prepare_cached(audit)?.execute(params![before, ROWS])?;
    }
    let forgotten = "DELETE FROM erased WHERE at_us < ?1";
    deleted += transaction.prepare_cached(forgotten)?.execute([today.0.saturating_sub(REMEMBERED)])?;
    transaction.commit()?;
    Ok(deleted > 0)
}

/// Gives a few free pages back to the disk; whether there were some.
fn give_back(connection: &Connection) -> rusqlite::Result<bool> {
    let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    if free == 0 {
        return Ok(false);
    }
    let mut statement = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut pages = statement.query([])?;
    // Each row is a page.
    while pages.next()?.is_some() {}
    let left: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    Ok(left < free)
}

/// Moves the WAL into the database and cuts it to nothing, unless a reader needs it; whether that was done.
fn empty_log(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(Duration::ZERO)?;
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    connection.busy_timeout(BUSY)?;
    match busy {
        Ok(busy) => Ok(busy == 0),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::tests::{call, turn};
    use super::super::{Record, Rules, Storage, StorageHandle};
    use super::*;
    use crate::base::{ManualClock, Pii, TurnId};

    const WORDS: &str = "when do you open";

    fn open(path: &Path) -> (Storage, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (Storage::open(path, clock.clone()).expect("open"), clock)
    }

    /// Calls of each day from the first on, one every hour, each with two turns.
    fn days(handle: &StorageHandle, days: i64) {
        for hour in 0..24 * days {
            let (id, at) = (hour.unsigned_abs(), hour * DAY_US / 24);
            let mut record = call(id, at);
            record.from = Pii::new(format!("+1555{:04}", hour % 7));
            record.ended = Some(Timestamp(at + 1));
            handle.record(Record::Call(Box::new(record)));
            for number in 0..2 {
                let mut said = turn(id, number);
                (said.turn, said.started) = (TurnId(number), Timestamp(at));
                handle.record(Record::Turn(Box::new(said)));
            }
            if hour % 500 == 0 {
                handle.flush();
            }
        }
        handle.flush();
    }

    /// So many steps.
    fn keep_house(handle: &StorageHandle, clock: &ManualClock, steps: u32) {
        for _ in 0..steps {
            clock.advance(LOOK);
            handle.flush();
        }
    }

    fn count(path: &Path, rows: &str) -> i64 {
        let connection = Connection::open(path).expect("opened");
        connection.query_row(&format!("SELECT count(*) FROM {rows}"), [], |row| row.get(0)).expect("counted")
    }

    /// Whether the database's files hold these bytes.
    fn holds(path: &Path, text: &str) -> bool {
        ["", "-wal"].into_iter().any(|suffix| {
            let bytes = std::fs::read(format!("{}{suffix}", path.display())).unwrap_or_default();
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
        })
    }

    #[test]
    fn what_is_too_old_goes_step_by_step_and_its_room_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("callbox.db");
        let (storage, clock) = open(&path);
        let handle = storage.handle();
        days(&handle, 100);
        assert_eq!((count(&path, "calls"), count(&path, "turns")), (2400, 4800));
        let retention = Retention { calls: Some(90), transcripts: Some(10), audit: Some(1), recordings: Some(1) };
        assert!(handle.audit("uid 0", "call.show", "1"));
        handle.set_rules(Rules { retention, ..Rules::default() });
        clock.advance(Duration::from_secs(100 * 86_400));
        keep_house(&handle, &clock, 1);
        let left = count(&path, "calls");
        assert!((2400 - i64::from(CALLS)..2400).contains(&left), "a step is small: {left}");
        keep_house(&handle, &clock, 60);
        let (calls, spoken) = (count(&path, "calls"), count(&path, "turns WHERE caller_text <> ''"));
        assert!((90 * 24 - 2..=90 * 24).contains(&calls), "{calls}");
        assert!((2 * 10 * 24 - 4..=2 * 10 * 24).contains(&spoken), "{spoken}");
        assert_eq!(count(&path, "stages WHERE call NOT IN (SELECT id FROM calls)"), 0);
        assert_eq!(count(&path, "audit"), 0);

        let before = std::fs::metadata(&path).expect("a file").len();
        let retention = Retention { calls: Some(1), ..retention };
        handle.set_rules(Rules { retention, ..Rules::default() });
        keep_house(&handle, &clock, 200);
        // Meanwhile it is hours later.
        assert!((18..=24).contains(&count(&path, "calls")), "{}", count(&path, "calls"));
        let after = std::fs::metadata(&path).expect("a file").len();
        assert!(after * 4 < before, "the room comes back: {before} bytes, then {after}");
        assert_eq!(handle.fault(), None);
    }

    #[test]
    fn an_erased_person_is_in_no_file_and_does_not_come_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("callbox.db");
        let (storage, _) = open(&path);
        let handle = storage.handle();
        days(&handle, 10);
        let names = handle.names("+1 555 0003");
        let known = handle.known(&names).expect("read");
        let mut up = call(9999, 5);
        up.from = Pii::new("sip:+15550003@carrier.example".into());
        handle.record(Record::Call(Box::new(up.clone())));
        let erased = handle.erase(names.clone(), vec![CallId(9999), CallId(8888)]).expect("erased");
        assert_eq!(erased.calls, known.calls.len() as u64 + 1, "all of them and the one that was queued");
        assert_eq!((erased.turns, erased.log_emptied), (known.turns, true));
        assert!(known.calls.len() > 30 && !holds(&path, "5550003") && holds(&path, "5550004"));

        drop((handle, storage));
        let (storage, clock) = open(&path);
        let handle = storage.handle();
        // Calls that were up end later, perhaps under the next daemon.
        up.ended = Some(Timestamp(7));
        handle.record(Record::Call(Box::new(up)));
        handle.record(Record::Call(Box::new(call(8888, 1))));
        handle.record(Record::Turn(Box::new(turn(8888, 1))));
        handle.flush();
        assert!(handle.known(&names).expect("read").calls.is_empty() && !holds(&path, "5550003"));
        assert_eq!(handle.call(CallId(8888)).expect("read"), super::super::StoredCall::default());
        clock.advance(Duration::from_secs(8 * 86_400));
        keep_house(&handle, &clock, 2);
        assert_eq!(count(&path, "erased"), 0, "remembered for as long as a call can last");
    }

    #[test]
    fn words_that_were_deleted_are_in_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("callbox.db");
        let (storage, clock) = open(&path);
        let handle = storage.handle();
        days(&handle, 1);
        assert!(holds(&path, WORDS));
        let retention = Retention { transcripts: Some(1), ..Retention::default() };
        handle.set_rules(Rules { retention, ..Rules::default() });
        clock.advance(Duration::from_secs(3 * 86_400));
        keep_house(&handle, &clock, 5);
        assert!(!holds(&path, WORDS) && count(&path, "calls") == 24);
    }

    #[test]
    fn a_reader_delays_the_emptying_of_the_log_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("callbox.db");
        let (storage, clock) = open(&path);
        let handle = storage.handle();
        days(&handle, 2);
        let reader = Connection::open(&path).expect("opened");
        reader.execute_batch("BEGIN; SELECT * FROM calls").expect("reads");
        let erased = handle.erase(handle.names("+15550003"), Vec::new()).expect("erased");
        assert!(erased.calls > 5 && !erased.log_emptied);
        reader.execute_batch("COMMIT").expect("done");
        keep_house(&handle, &clock, 3);
        assert!(!holds(&path, "5550003"));
    }
}
