//! `/api/v1/tokens`, on the control socket: who may use the API over TCP; and `/api/v1/audit`: who did. Enters: a name and a
//! scope; leaves: a token, once. Never here: a token that is shown again, or one that makes others.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Asked, Brought, Segment, place};
use super::{Problem, Shared, calls, keys, reports};
use crate::storage::{AuditRecord, Record, Scope, StorageHandle, Timestamp, TokenRecord};

/// Tokens that there are room for.
const MOST: usize = 1000;

/// Longest life in seconds: ten years.
const LONGEST_S: u64 = 3650 * 86_400;

/// A token to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// Whose it is, for the audit: letters, digits, `-`, `_` and `.`.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,40}$")]
    name: String,
    #[schema(inline)]
    scope: Scope,
    /// Seconds that it is worth something.
    #[schema(minimum = 1, maximum = 315_360_000)]
    expires_s: u64,
}

/// A token, without itself.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenAnswer {
    /// Whose it is.
    name: String,
    /// The part of it that is no secret.
    id: String,
    #[schema(inline)]
    scope: Scope,
    created: Timestamp,
    expires: Timestamp,
    /// It is worth nothing any more.
    expired: bool,
}

/// A new token.
#[derive(Serialize, ToSchema)]
pub(super) struct Drawn {
    /// To be sent as `Authorization: Bearer …`. It is shown this once.
    token: String,
    #[serde(flatten)]
    known: TokenAnswer,
}

/// All tokens.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenList {
    /// By name.
    tokens: Vec<TokenAnswer>,
}

fn answer(token: TokenRecord, now: Timestamp) -> TokenAnswer {
    let TokenRecord { name, id, scope, created, expires, .. } = token;
    TokenAnswer { name, id, scope, created, expires, expired: expires <= now }
}

/// Makes a token; it is shown this once. A name has one token.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = NewToken,
    responses((status = 201, description = "The token", body = Drawn, headers(("location" = String, description = "The token"))),
        (status = 409, description = "There is a token of that name, or there are too many")))]
pub(super) async fn create(
    State(shared): State<Shared>,
    Brought(NewToken { name, scope, expires_s }): Brought<NewToken>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Drawn>), Problem> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !(1..=40).contains(&name.len()) || !name.chars().all(plain) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "name: 1 to 40 letters, digits, `-`, `_` and `.`"));
    }
    if !(1..=LONGEST_S).contains(&expires_s) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("expires_s: 1 to {LONGEST_S} seconds")));
    }
    let (token, id, digest) = keys::draw().map_err(|error| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("the system gives no random numbers: {error}"))
    })?;
    let created = Timestamp::from(shared.state.clock.wall());
    let expires = created + std::time::Duration::from_secs(expires_s);
    let made = TokenRecord { name, id, digest, scope, created, expires };
    let (wanted, held) = (made.clone(), calls::read(&shared.state.storage, StorageHandle::tokens).await?);
    if held.iter().any(|token| token.name == made.name) {
        let why = format!("there is a token `{}` already; revoke it first, or choose another name", made.name);
        return Err(Problem::new(StatusCode::CONFLICT, why));
    }
    if held.len() >= MOST {
        return Err(Problem::new(StatusCode::CONFLICT, "there are too many tokens; revoke some"));
    }
    // Read back: whoever is given a token has it.
    let kept = calls::read(&shared.state.storage, move |storage| {
        storage.record(Record::Token(Box::new(wanted.clone())));
        storage.flush();
        Ok(storage.tokens()?.contains(&wanted))
    })
    .await?;
    shared.keys.forget();
    if !kept {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the database does not take a token now; try again"));
    }
    let place = format!("/api/v1/tokens/{}", made.name);
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], Json(Drawn { token, known: answer(made, created) })))
}

/// Every token, without itself.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", responses((status = 200, description = "The tokens", body = TokenList)))]
pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<TokenList>, Problem> {
    let now = Timestamp::from(shared.state.clock.wall());
    let tokens = calls::read(&shared.state.storage, StorageHandle::tokens).await?;
    Ok(Json(TokenList { tokens: tokens.into_iter().map(|token| answer(token, now)).collect() }))
}

/// From now on a token is worth nothing.
#[utoipa::path(delete, path = "/api/v1/tokens/{name}", tag = "tokens",
    params(("name" = String, Path, description = "Whose")),
    responses((status = 200, description = "What it was", body = TokenAnswer), (status = 404, description = "There is no such token")))]
pub(super) async fn revoke(State(shared): State<Shared>, Segment(name): Segment) -> Result<Json<TokenAnswer>, Problem> {
    let held = calls::read(&shared.state.storage, StorageHandle::tokens).await?;
    let Some(token) = held.into_iter().find(|token| token.name == name) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "there is no token of that name"));
    };
    let gone = calls::read(&shared.state.storage, move |storage| {
        storage.record(Record::Revoked(name.clone()));
        storage.flush();
        Ok(storage.tokens()?.iter().all(|token| token.name != name))
    })
    .await?;
    shared.keys.forget();
    if !gone {
        let why = "the database cannot be written now, so the token is still good; try again";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    Ok(Json(answer(token, shared.state.clock.wall().into())))
}

/// Which entries.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditPage {
    /// Entries on the page.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// Goes on where an earlier page ended: its `next`.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    before: Option<u64>,
    /// Those of the last so many seconds; absent: all.
    #[param(minimum = 1, maximum = 315_360_000)]
    since_s: Option<u64>,
}

/// A look at callers, or a change.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditEntry {
    at: Timestamp,
    /// `uid 1000` on the control socket, `token NAME` over TCP.
    who: String,
    /// Of a look `call.show`, `recording.play`, …; of a change, method and path.
    action: String,
    /// A call's id, a path, or a count.
    object: String,
    /// The status of the answer; empty if it was noted before, as a look is.
    result: String,
}

/// A page of them.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditAnswer {
    /// Newest first.
    entries: Vec<AuditEntry>,
    /// `before` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// Who has looked at callers, and who has changed something, newest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "tokens", params(AuditPage),
    responses((status = 200, description = "A page of entries", body = AuditAnswer)))]
pub(super) async fn audit(
    State(shared): State<Shared>,
    Asked(AuditPage { limit, before, since_s }): Asked<AuditPage>,
) -> Result<Json<AuditAnswer>, Problem> {
    let limit = calls::count(limit)?;
    let before = place("before", before)?.and_then(|before| i64::try_from(before).ok());
    let since = match since_s {
        Some(_) => reports::Span { since_s }.of(&shared)?.0,
        None => Timestamp(i64::MIN),
    };
    let mut found =
        calls::read(&shared.state.storage, move |storage| storage.audited(since, limit + 1, before)).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| more).map(|(number, _)| *number);
    let entry = |(_, entry): (i64, AuditRecord)| {
        let AuditRecord { at, who, action, object, result } = entry;
        AuditEntry { at, who, action, object, result }
    };
    Ok(Json(AuditAnswer { entries: found.into_iter().map(entry).collect(), next }))
}
