//! What is counted of the listeners. Enters: requests and connections; leaves: metrics. Never here: a path as it was asked
//! for, an address, a token: anybody can make up new ones.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::base::Clock;
use crate::telemetry::{LATENCY_BUCKETS, Label};

/// Why somebody was not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turned {
    /// They showed no token.
    NoToken,
    /// One that is nobody's, or has expired.
    WrongToken,
    /// Too many of those.
    TooMany,
    /// Its scope does not reach so far.
    Scope,
    /// A token crossed a network in clear.
    InClear,
    /// The path is for the control socket.
    SocketOnly,
}

impl Turned {
    const ALL: [Self; 6] =
        [Self::NoToken, Self::WrongToken, Self::TooMany, Self::Scope, Self::InClear, Self::SocketOnly];

    const fn as_str(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::WrongToken => "wrong_token",
            Self::TooMany => "too_many",
            Self::Scope => "scope",
            Self::InClear => "in_clear",
            Self::SocketOnly => "socket_only",
        }
    }
}

/// A listener.
#[derive(Clone, Copy)]
pub(super) enum Listener {
    Tcp,
    Unix,
}

/// What is counted; cheap to clone.
#[derive(Clone)]
pub(super) struct Counts {
    clock: Arc<dyn Clock>,
    requests: Family<[(&'static str, String); 3], Counter>,
    seconds: Histogram,
    turned: Family<Label<&'static str>, Counter>,
    connections: Family<Label<&'static str>, Gauge>,
    no_place: Counter,
    pub(super) handshakes_failed: Counter,
    pub(super) streams: Gauge,
}

impl Counts {
    pub(super) fn register(registry: &mut Registry, clock: Arc<dyn Clock>) -> Self {
        let this = Self {
            clock,
            requests: Family::default(),
            seconds: Histogram::new(LATENCY_BUCKETS),
            turned: Family::default(),
            connections: Family::default(),
            no_place: Counter::default(),
            handshakes_failed: Counter::default(),
            streams: Gauge::default(),
        };
        Turned::ALL.into_iter().for_each(|why| drop(this.turned.get_or_create(&[("reason", why.as_str())])));
        for listener in [Listener::Tcp, Listener::Unix] {
            this.connections(listener);
        }
        registry.register("http_requests", "Requests that were answered", this.requests.clone());
        let help = "From a request's head to its answer's; a stream of events goes on after that";
        registry.register_with_unit("http_request", help, Unit::Seconds, this.seconds.clone());
        registry.register("http_refused", "Requests that may not use their path", this.turned.clone());
        registry.register("http_connections", "Open connections", this.connections.clone());
        let help = "Connections that were closed at once because too many were open";
        registry.register("http_connections_refused", help, this.no_place.clone());
        let help = "TLS handshakes that came to nothing";
        registry.register("http_tls_handshakes_failed", help, this.handshakes_failed.clone());
        registry.register("http_event_streams", "Streams of events that are open", this.streams.clone());
        this
    }

    /// Somebody was not let in.
    pub(super) fn turned(&self, why: Turned) {
        self.turned.get_or_create(&[("reason", why.as_str())]).inc();
    }

    /// Open connections of a listener.
    pub(super) fn connections(&self, listener: Listener) -> Gauge {
        let name = match listener {
            Listener::Tcp => "tcp",
            Listener::Unix => "unix",
        };
        self.connections.get_or_create(&[("listener", name)]).clone()
    }

    /// There was no place for a connection.
    pub(super) fn no_place(&self) {
        self.no_place.inc();
    }
}

/// Counts every request, by the pattern that its path fits.
pub(super) async fn count(State(counts): State<Counts>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let method = known(request.method());
    let begun = counts.clock.now();
    let response = next.run(request).await;
    counts.seconds.observe(counts.clock.now().saturating_duration_since(begun).as_secs_f64());
    let status = format!("{}xx", response.status().as_u16() / 100);
    counts.requests.get_or_create(&[("path", path), ("method", method.to_owned()), ("status", status)]).inc();
    response
}

fn known(method: &Method) -> &'static str {
    [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS, Method::PATCH]
        .iter()
        .zip(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
        .find(|(known, _)| *known == method)
        .map_or("other", |(_, name)| name)
}
