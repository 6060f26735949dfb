//! Tokens of the control API, as they lie on the disk: what recognises one, never the token.

use rusqlite::types::Type;
use rusqlite::{Connection, Row, Transaction, params};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// What a token is good for. Each may do all that the one before it may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Looks, and is shown callers only where the configuration says so.
    Viewer,
    /// Sees callers, and acts on calls.
    Operator,
    /// Changes the daemon, and reads the audit.
    Admin,
}

impl Scope {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenRecord {
    /// Whose it is, for the audit.
    pub name: String,
    /// The part of it that is no secret.
    pub id: String,
    /// SHA-256 of the part that is.
    pub digest: [u8; 32],
    /// What it is good for.
    pub scope: Scope,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is worth nothing.
    pub expires: Timestamp,
}

pub(super) fn write(transaction: &Transaction<'_>, token: &TokenRecord) -> rusqlite::Result<()> {
    let TokenRecord { name, id, digest, scope, created, expires } = token;
    // The first of a name stays: whoever has it must not lose it to another.
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO tokens (name, id, digest, scope, created_us, expires_us) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![name, id, digest, scope.as_str(), created.0, expires.0])?;
    Ok(())
}

pub(super) fn remove(transaction: &Transaction<'_>, name: &str) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM tokens WHERE name = ?1")?.execute([name])?;
    Ok(())
}

pub(super) fn read(connection: &Connection) -> rusqlite::Result<Vec<TokenRecord>> {
    let token = |row: &Row<'_>| {
        let scope: String = row.get(3)?;
        let unknown = || rusqlite::Error::InvalidColumnType(3, "scope".to_owned(), Type::Text);
        Ok(TokenRecord {
            name: row.get(0)?,
            id: row.get(1)?,
            digest: row.get(2)?,
            scope: Scope::ALL.into_iter().find(|known| known.as_str() == scope).ok_or_else(unknown)?,
            created: Timestamp(row.get(4)?),
            expires: Timestamp(row.get(5)?),
        })
    };
    connection
        .prepare_cached("SELECT name, id, digest, scope, created_us, expires_us FROM tokens ORDER BY name")?
        .query_map([], token)?
        .collect()
}
