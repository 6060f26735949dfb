//! The same order twice. Enters: a POST with `Idempotency-Key`; leaves: the answer, made once: who asks again with the same
//! key gets the first answer, and nothing is done twice. Kept in memory, for a day, and bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

use super::guard::BODY;
use super::who::Who;
use super::{Problem, Shared};

/// The header.
pub(super) const NAME: &str = "idempotency-key";

/// Bytes of a request's body.
pub(super) const MOST_BODY: usize = 64 * 1024;

/// Answers that are kept, and for how long.
const ANSWERS: usize = 512;
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Whose key, and the key.
type Name = (String, String);

struct Entry {
    at: Instant,
    /// Of what was asked for.
    print: [u8; 32],
    /// None while it is being worked on.
    answer: Option<(StatusCode, HeaderMap, Bytes)>,
}

/// Answers by their key.
#[derive(Default)]
pub(super) struct Answers(Mutex<(HashMap<Name, Entry>, VecDeque<Name>)>);

enum Begun {
    New,
    Known(Box<Response>),
}

impl Answers {
    fn begin(&self, name: &Name, print: [u8; 32], now: Instant) -> Begun {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (entries, order) = &mut *answers;
        let old = |entry: &Entry| now.saturating_duration_since(entry.at) >= KEPT;
        while order.front().is_some_and(|name| order.len() >= ANSWERS || entries.get(name).is_none_or(old)) {
            if let Some(name) = order.pop_front() {
                entries.remove(&name);
            }
        }
        let problem = |status, why| Begun::Known(Box::new(Problem::new(status, why).into_response()));
        match entries.get(name) {
            Some(entry) if entry.print != print => problem(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this Idempotency-Key was used for another request; take a new one",
            ),
            Some(Entry { answer: None, .. }) => {
                problem(StatusCode::CONFLICT, "the request with this Idempotency-Key is still being carried out")
            }
            Some(Entry { answer: Some((status, headers, body)), .. }) => {
                Begun::Known(Box::new((*status, headers.clone(), body.clone()).into_response()))
            }
            None => {
                entries.insert(name.clone(), Entry { at: now, print, answer: None });
                order.push_back(name.clone());
                Begun::New
            }
        }
    }

    fn end(&self, name: &Name, answer: Option<(StatusCode, HeaderMap, Bytes)>) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some(answer) => {
                if let Some(entry) = answers.0.get_mut(name) {
                    entry.answer = Some(answer);
                }
            }
            None => drop(answers.0.remove(name)),
        }
    }
}

/// 1 to 255 visible characters.
fn is_key(key: &str) -> bool {
    (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Runs a request whose key is new, and answers one whose key is known.
pub(super) async fn once(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let too_long = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {MOST_BODY} bytes"));
    let body = match tokio::time::timeout(BODY, to_bytes(body, MOST_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return too_long().into_response(),
        Err(_) => return Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time").into_response(),
    };
    let key = parts.headers.get(NAME).filter(|_| parts.method == Method::POST).cloned();
    let who = parts.extensions.get::<Who>().map(|who| who.name.clone());
    let (Some(key), Some(who)) = (key, who) else {
        return next.run(Request::from_parts(parts, Body::from(body))).await;
    };
    let Some(key) = key.to_str().ok().filter(|key| is_key(key)) else {
        return Problem::new(StatusCode::BAD_REQUEST, "Idempotency-Key: 1 to 255 visible characters").into_response();
    };
    let mut print = Sha256::new();
    print.update(parts.uri.to_string());
    print.update([0]);
    print.update(&body);
    let name = (who, key.to_owned());
    if let Begun::Known(response) = shared.answers.begin(&name, print.finalize().into(), shared.state.clock.now()) {
        return *response;
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (head, body) = response.into_parts();
    let Ok(body) = to_bytes(body, MOST_BODY).await else {
        shared.answers.end(&name, None);
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "an answer that is too long to be kept")
            .into_response();
    };
    // Where nothing was done, it may be tried again.
    let nothing = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&head.status);
    let kept: HeaderMap = head
        .headers
        .iter()
        .filter(|(name, _)| [header::CONTENT_TYPE, header::LOCATION].contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    shared.answers.end(&name, (!nothing).then(|| (head.status, kept, body.clone())));
    Response::from_parts(head, Body::from(body))
}
