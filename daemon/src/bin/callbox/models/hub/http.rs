//! Requests to a hub. Enters: an address below the endpoint, and how much of it is here; leaves: the answer after every
//! redirection. The token goes to the endpoint's own scheme, host and port and to nobody else, wherever a redirection
//! leads; never here: a body that is sent, a redirection from TLS to none, a compressed answer.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use callbox::base::Secret;
use ureq::http::uri::{Authority, PathAndQuery, Scheme, Uri};
use ureq::http::{HeaderMap, HeaderValue, Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, Error, RequestBuilder};

/// How many redirections lead to a file at most.
const REDIRECTS: usize = 8;

/// All that is said of this machine.
const NAME: &str = concat!("callbox/", env!("CARGO_PKG_VERSION"));

const CONNECT: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(60);
/// One attempt; a connection that hangs ends with it, and the next one goes on from there.
const ATTEMPT: Duration = Duration::from_secs(600);

/// A client of one hub.
pub(super) struct Http {
    agent: Agent,
    endpoint: Uri,
    token: Option<Secret>,
    tls: TlsConfig,
}

/// What came at the end of the redirections.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    /// What the hub itself said of the file, before it sent elsewhere.
    first: HeaderMap,
}

impl Answer {
    /// A header of the hub's own answer.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.first.get(name).and_then(|value| value.to_str().ok())
    }

    /// Length of the whole, where `have` bytes are here already.
    pub(super) fn length(&self, have: u64) -> Option<u64> {
        let rest = self.response.headers().get("content-length")?.to_str().ok()?.parse::<u64>().ok()?;
        rest.checked_add(have)
    }
}

impl Http {
    /// # Errors
    /// One sentence about the endpoint.
    pub(super) fn new(endpoint: &str, token: Option<Secret>) -> Result<Self, String> {
        let bad = || format!("`{endpoint}` is no address of a hub: write https://HOST");
        let uri: Uri = endpoint.parse().map_err(|_| bad())?;
        let scheme = uri.scheme().ok_or_else(bad)?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(bad)?;
        if *scheme != Scheme::HTTPS && *scheme != Scheme::HTTP {
            return Err(bad());
        }
        if *scheme == Scheme::HTTP && token.is_some() && !is_this_machine(authority) {
            return Err(format!("a token is sent over TLS only: write https:// instead of {endpoint}"));
        }
        // The system's authorities, as everywhere else: an owner's own mirror has one of the owner's own.
        let found = rustls_native_certs::load_native_certs().certs;
        let found: Vec<_> = found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        let roots = if found.is_empty() { RootCerts::WebPki } else { RootCerts::Specific(Arc::new(found)) };
        let tls = TlsConfig::builder().root_certs(roots).build();
        let agent = Agent::config_builder().tls_config(tls.clone()).build().into();
        Ok(Self { agent, endpoint: uri, token, tls })
    }

    /// Its name in sentences.
    pub(super) fn endpoint(&self) -> String {
        self.endpoint.to_string().trim_end_matches('/').to_owned()
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Asks for what lies at an address, from byte `have` on.
    pub(super) fn get(&self, address: &str, have: u64) -> Result<Answer, Error> {
        self.follow(address.parse().map_err(bad_uri)?, None, have)
    }

    /// Sends a request for all of something below the endpoint.
    pub(super) fn send(&self, mut request: RequestBuilder<WithoutBody>) -> Result<Answer, Error> {
        if let Some(headers) = request.headers_mut() {
            headers.insert("user-agent", HeaderValue::from_static(NAME));
        }
        let address = request.uri_ref().cloned().ok_or_else(|| Error::BadUri("none".into()))?;
        self.follow(address, Some(request), 0)
    }

    fn follow(
        &self,
        mut address: Uri,
        mut begun: Option<RequestBuilder<WithoutBody>>,
        have: u64,
    ) -> Result<Answer, Error> {
        let mut first: Option<HeaderMap> = None;
        for _ in 0..=REDIRECTS {
            let request = match begun.take() {
                Some(request) => request,
                None => self.request(&address, have),
            };
            let response = self.call(request)?;
            let text =
                |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let first = first.get_or_insert_with(|| response.headers().clone());
            let location = match response.status() {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => text("location"),
                _ => None,
            };
            let Some(location) = location else {
                return Ok(Answer { first: first.clone(), response });
            };
            address = join(&address, &location).ok_or_else(|| Error::BadUri("a redirection".into()))?;
        }
        Err(Error::TooManyRedirects)
    }

    fn request(&self, address: &Uri, have: u64) -> RequestBuilder<WithoutBody> {
        let mut request = self.agent.get(address).header("User-Agent", NAME);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        match &self.token {
            Some(token) if same_origin(address, &self.endpoint) => {
                request.header("Authorization", format!("Bearer {}", token.reveal()))
            }
            _ => request,
        }
    }

    fn call(&self, request: RequestBuilder<WithoutBody>) -> Result<Response<Body>, Error> {
        request
            .config()
            .tls_config(self.tls.clone())
            .http_status_as_error(false)
            .max_redirects(0)
            // Ranges and lengths are of the file's own bytes.
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_recv_body(Some(ATTEMPT))
            .build()
            .call()
    }
}

fn bad_uri(error: ureq::http::uri::InvalidUri) -> Error {
    Error::BadUri(error.to_string())
}

/// What went wrong, without the address: that of a redirection is a key to the file.
pub(super) fn plain(error: &Error) -> String {
    match error {
        Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => "nobody listens there".into(),
        Error::Io(error) => error.to_string(),
        Error::HostNotFound => "its name is not known".into(),
        Error::Timeout(_) => "it does not answer in time".into(),
        Error::TooManyRedirects => "it redirects for ever".into(),
        Error::BadUri(_) => "it redirects to where nobody can go".into(),
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

fn is_this_machine(authority: &Authority) -> bool {
    let host = authority.host().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or_else(|| match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => Some(443),
        Some(scheme) if *scheme == Scheme::HTTP => Some(80),
        _ => None,
    })
}

/// Scheme, host and port (RFC 6454 §4).
fn same_origin(one: &Uri, other: &Uri) -> bool {
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one).is_some() && host(one) == host(other) && port(one) == port(other)
}

/// Where a redirection leads; nowhere if that would be away from TLS, or to no server.
fn join(from: &Uri, location: &str) -> Option<Uri> {
    if let Some(below) = location.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
        let path: PathAndQuery = format!("/{below}").parse().ok()?;
        let mut parts = from.clone().into_parts();
        parts.path_and_query = Some(path);
        return Uri::from_parts(parts).ok();
    }
    let to: Uri = location.parse().ok()?;
    let http = to.scheme() == Some(&Scheme::HTTP) && from.scheme() == Some(&Scheme::HTTP);
    (to.authority().is_some() && (http || to.scheme() == Some(&Scheme::HTTPS))).then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_stays_with_scheme_host_and_port_of_the_endpoint() {
        let http = Http::new("https://hub.example", Some(Secret::new("hf_secret"))).expect("an endpoint");
        for (address, goes) in [
            ("https://hub.example/a", true),
            ("https://HUB.example:443/a", true),
            ("https://hub.example:444/a", false),
            ("http://hub.example/a", false),
            ("https://hub.example.evil/a", false),
            ("https://cdn.hub.example/a", false),
            ("https://hub.example@evil/a", false),
        ] {
            let request = http.request(&address.parse().expect("an address"), 0);
            let sent = request.headers_ref().expect("sound").contains_key("authorization");
            assert_eq!(sent, goes, "{address}");
        }
    }

    #[test]
    fn a_token_wants_tls_unless_the_hub_is_on_this_machine() {
        let token = || Some(Secret::new("hf_secret"));
        assert!(Http::new("http://127.0.0.1:8000", token()).is_ok() && Http::new("http://[::1]:8000", token()).is_ok());
        assert!(Http::new("http://hub.example", None).is_ok());
        let sentence = Http::new("http://hub.example", token()).err().expect("refused");
        assert!(sentence.contains("over TLS only") && !sentence.contains("hf_secret"), "{sentence}");
        for endpoint in ["hub.example", "ftp://hub.example", "https://user:pass@hub.example", ""] {
            assert!(Http::new(endpoint, None).is_err(), "{endpoint}");
        }
    }

    #[test]
    fn redirections_never_leave_tls() {
        let from: Uri = "https://hub.example/a/b".parse().expect("an address");
        let to = |location: &str| join(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/c?d=1").as_deref(), Some("https://hub.example/c?d=1"));
        assert_eq!(to("https://cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        for location in ["http://hub.example/c", "//evil/c", "c", "file:///etc/passwd", ""] {
            assert_eq!(to(location), None, "{location}");
        }
    }
}
