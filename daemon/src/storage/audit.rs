//! Who has looked at callers, and who has changed something. Enters: what the control API is about to show or has carried
//! out, and for whom; leaves: the same, newest first. Never here: a caller.

use rusqlite::{Connection, Row, Transaction, params};

use super::Timestamp;

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditRecord {
    /// When.
    pub at: Timestamp,
    /// By whom: `uid 1000` on the control socket, `token NAME` over TCP.
    pub who: String,
    /// `call.show`, `privacy.erase`, …; of a change, method and path.
    pub action: String,
    /// A call's id, a path, or a count; never a caller.
    pub object: String,
    /// What came of it; empty if it was noted before.
    pub result: String,
}

pub(super) fn write(transaction: &Transaction<'_>, entry: &AuditRecord) -> rusqlite::Result<()> {
    let AuditRecord { at, who, action, object, result } = entry;
    transaction
        .prepare_cached("INSERT INTO audit (at_us, who, action, object, result) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![at.0, who, action, object, result])?;
    Ok(())
}

/// Newest first, from below `before`, and not before `since`; each with its number.
pub(super) fn read(
    connection: &Connection,
    since: Timestamp,
    limit: u32,
    before: Option<i64>,
) -> rusqlite::Result<Vec<(i64, AuditRecord)>> {
    let entry = |row: &Row<'_>| {
        let (at, who, action, object, result) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?);
        Ok((row.get(0)?, AuditRecord { at: Timestamp(at), who, action, object, result }))
    };
    connection
        .prepare_cached(
            "SELECT id, at_us, who, action, object, result FROM audit WHERE id < ?1 AND at_us >= ?2 \
             ORDER BY id DESC LIMIT ?3",
        )?
        .query_map(params![before.unwrap_or(i64::MAX), since.0, limit], entry)?
        .collect()
}
