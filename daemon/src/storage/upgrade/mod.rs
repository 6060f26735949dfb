//! Schema versions. Enters: a database of any version; leaves: one of the latest, or nothing changed.
//!
//! To change the schema: change `schema.sql`, append a step to [`STEPS`], put a copy of the new `schema.sql` beside this
//! file as `vN.sql`. The tests refuse anything that an upgrade would not turn into exactly `schema.sql`.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::privacy::party;

const SCHEMA: &str = include_str!("../schema.sql");

/// "CBOX": marks the file as ours (`PRAGMA application_id`).
pub(super) const APPLICATION: i64 = 0x4342_4f58;

/// Turns one version into the next.
pub(super) type Step = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// `STEPS[0]` makes version 2 of version 1, and so on.
pub(super) const STEPS: &[Step] = &[far_ends_and_outcomes, sources, tokens, knowledge];

/// Version 5: of each answer of the model it is kept which passages it was shown.
fn knowledge(change: &Transaction<'_>) -> rusqlite::Result<()> {
    change.execute_batch(include_str!("to_v5.sql"))
}

/// Version 4: whoever asks over the network has a token, and finds calls.
fn tokens(change: &Transaction<'_>) -> rusqlite::Result<()> {
    change.execute_batch(include_str!("to_v4.sql"))
}

/// Version 3: of each answer it is kept where it came from.
fn sources(change: &Transaction<'_>) -> rusqlite::Result<()> {
    change.execute_batch(include_str!("to_v3.sql"))
}

/// Version 2: persons are found, outcomes and events are kept, looks and recordings are noted.
fn far_ends_and_outcomes(change: &Transaction<'_>) -> rusqlite::Result<()> {
    change.execute_batch(include_str!("to_v2.sql"))?;
    let far_end = "CASE direction WHEN 'inbound' THEN caller ELSE callee END";
    let mut set = change.prepare("UPDATE calls SET party = ?2 WHERE id = ?1")?;
    let mut calls = change.prepare(&format!("SELECT id, {far_end} FROM calls"))?;
    let calls = calls.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for (id, number) in calls.collect::<rusqlite::Result<Vec<(String, String)>>>()? {
        set.execute(params![id, party(&number)])?;
    }
    Ok(())
}

/// The latest version.
pub(super) const fn known() -> i64 {
    STEPS.len() as i64 + 1
}

/// What was found, and is now.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The latest version.
    Current,
    /// Somebody else's; untouched.
    Foreign,
    /// Of a later release; untouched.
    Newer { found: i64, known: i64 },
}

/// Makes a new database, or upgrades an old one, in one transaction.
pub(super) fn bring_up(connection: &mut Connection, steps: &[Step]) -> rusqlite::Result<Outcome> {
    let known = steps.len() as i64 + 1;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number = |pragma| transaction.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (application, found) = (number("application_id")?, number("user_version")?);
    let empty: bool = transaction.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    if empty && application == 0 {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
    } else if application != APPLICATION || found < 1 {
        return Ok(Outcome::Foreign);
    } else if found > known {
        return Ok(Outcome::Newer { found, known });
    } else {
        for step in steps.iter().skip(usize::try_from(found - 1).unwrap_or(0)) {
            step(&transaction)?;
        }
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(Outcome::Current)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema as each version had it.
    const SNAPSHOTS: &[&str] = &[
        include_str!("v1.sql"),
        include_str!("v2.sql"),
        include_str!("v3.sql"),
        include_str!("v4.sql"),
        include_str!("v5.sql"),
    ];

    fn schema(connection: &Connection) -> Vec<(String, String)> {
        let mut statement =
            connection.prepare("SELECT name, coalesce(sql, '') FROM sqlite_schema ORDER BY name").expect("prepared");
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).expect("queried");
        rows.map(|row| row.map(|(name, sql)| (name, without_comments(&sql))).expect("a row")).collect()
    }

    fn without_comments(sql: &str) -> String {
        let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
        // A column that was added stands where the last one ended, whatever comment was there.
        let spaced = lines.map(|line| line.replace(',', " , ").replace(')', " ) ")).collect::<Vec<_>>().join(" ");
        spaced.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn of_version(version: usize) -> Connection {
        let connection = Connection::open_in_memory().expect("a database");
        connection.execute_batch(SNAPSHOTS[version - 1]).expect("a snapshot");
        connection.pragma_update(None, "application_id", APPLICATION).expect("set");
        connection.pragma_update(None, "user_version", version as i64).expect("set");
        connection
    }

    #[test]
    fn every_version_upgrades_to_what_a_new_database_is() {
        assert_eq!(SNAPSHOTS.len(), STEPS.len() + 1, "one snapshot per version");
        let mut fresh = Connection::open_in_memory().expect("a database");
        assert_eq!(bring_up(&mut fresh, STEPS), Ok(Outcome::Current));
        assert!(schema(&fresh).len() > 3);
        for version in 1..=SNAPSHOTS.len() {
            let mut old = of_version(version);
            assert_eq!(bring_up(&mut old, STEPS), Ok(Outcome::Current));
            assert_eq!(schema(&old), schema(&fresh), "from version {version}");
        }
    }

    #[test]
    fn callers_of_before_are_found_by_their_names() {
        let mut old = of_version(1);
        let columns = "INSERT INTO calls VALUES (?1, 'desk', ?2, ?3, ?4, '', 1, 2, 3, '', 0, 0, 0, 0, 0, 0)";
        old.execute(columns, ["1", "inbound", "sip:+4930123@carrier", "100"]).expect("a call");
        old.execute(columns, ["2", "outbound", "100", "0049 30 123"]).expect("a call");
        assert_eq!(bring_up(&mut old, STEPS), Ok(Outcome::Current));
        let count = "SELECT count(*) FROM calls WHERE party = '+4930123'";
        assert_eq!(old.query_row(count, [], |row| row.get::<_, i64>(0)), Ok(2));
    }

    #[test]
    fn steps_run_once_each_in_order_or_not_at_all() {
        let add: Step = |change| change.execute_batch("CREATE TABLE added (a); INSERT INTO added VALUES (1)");
        let double: Step = |change| change.execute_batch("UPDATE added SET a = a * 2");
        let fail: Step = |change| change.execute_batch("UPDATE added SET a = 99; SELECT nonsense");
        let value =
            |connection: &Connection| connection.query_row("SELECT a FROM added", [], |row| row.get::<_, i64>(0));
        let mut old = of_version(1);
        assert!(bring_up(&mut old, &[add, fail]).is_err());
        assert!(value(&old).is_err(), "a failed upgrade leaves nothing behind");
        assert_eq!(bring_up(&mut old, &[add, double]), Ok(Outcome::Current));
        assert_eq!(bring_up(&mut old, &[add, double]), Ok(Outcome::Current));
        assert_eq!(value(&old), Ok(2));
        assert_eq!(bring_up(&mut old, &[add]), Ok(Outcome::Newer { found: 3, known: 2 }));
    }

    #[test]
    fn a_database_of_another_program_is_left_alone() {
        let mut other = Connection::open_in_memory().expect("a database");
        other.execute_batch("CREATE TABLE bookmarks (url TEXT)").expect("created");
        let before = schema(&other);
        assert_eq!(bring_up(&mut other, STEPS), Ok(Outcome::Foreign));
        assert_eq!(schema(&other), before);
    }
}
