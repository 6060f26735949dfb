//! Who asks, and what for. Enters: a connection's peer and a token; leaves: a name for the audit and what it may do.
//! Never here: the token itself.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};

use super::counts::Turned;
use super::{Problem, Shared};
use crate::storage::Scope;

/// The other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Peer {
    /// A user of this machine, on the Unix socket.
    User(u32),
    /// An address.
    Address {
        /// Which.
        ip: IpAddr,
        /// The connection is encrypted.
        sealed: bool,
    },
}

/// What a path asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// A token of this scope or more; or the control socket.
    Scope(Scope),
    /// The control socket.
    Socket,
}

/// Who was let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Who {
    /// As whom the audit names them: `uid 1000`, `token NAME`.
    pub(super) name: String,
    /// Public part of the token; none on the control socket.
    pub(super) token: Option<String>,
    /// What they may do.
    pub(super) scope: Scope,
    /// Whether they are shown who called and what was said.
    pub(super) callers: bool,
}

/// Lets a request in, or says why not.
pub(super) async fn admit(shared: &Shared, need: Need, peer: Peer, headers: &HeaderMap) -> Result<Who, Problem> {
    let (ip, sealed) = match peer {
        Peer::User(uid) => {
            return Ok(Who { name: format!("uid {uid}"), token: None, scope: Scope::Admin, callers: true });
        }
        Peer::Address { ip, sealed } => (ip, sealed),
    };
    let Need::Scope(need) = need else {
        shared.counts.turned(Turned::SocketOnly);
        let why = "this is for the control socket only: use the command callbox";
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    };
    let shown = headers.get(header::AUTHORIZATION).map(bearer);
    if shown.is_some() && !sealed && !ip.is_loopback() {
        shared.counts.turned(Turned::InClear);
        let why = "a token must not cross a network in clear: set http.certificate and http.key, or ask through a proxy \
                   on the machine of callboxd; whoever saw this token may use it: revoke it";
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
    let now = shared.state.clock.wall().into();
    let known = match shown.flatten() {
        Some(text) => shared.keys.find(&shared.state.storage, text, now).await?,
        None => None,
    };
    let Some(token) = known else {
        let at = shared.state.clock.now();
        let wait = shown.is_some().then(|| shared.failures.note(ip, at)).flatten();
        shared.counts.turned(match (shown, wait) {
            (None, _) => Turned::NoToken,
            (_, None) => Turned::WrongToken,
            (_, Some(_)) => Turned::TooMany,
        });
        if let Some(wait) = wait {
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens from this address")
                .with(header::RETRY_AFTER, wait.as_secs().max(1).to_string()));
        }
        let why = "this needs a token that is valid: make one with `callbox token create` and send it as \
                   `Authorization: Bearer …`";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, why).with(header::WWW_AUTHENTICATE, "Bearer".to_owned()));
    };
    if token.scope < need {
        shared.counts.turned(Turned::Scope);
        let why = format!("this needs a token with scope {}, and this one has {}", need.as_str(), token.scope.as_str());
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
    Ok(Who {
        name: format!("token {}", token.name),
        callers: token.scope >= Scope::Operator || shared.show_callers,
        scope: token.scope,
        token: Some(token.id),
    })
}

/// What stands behind `Bearer`.
fn bearer(value: &header::HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
