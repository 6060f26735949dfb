//! The daemon's control socket from outside. Enters: a path; leaves: its JSON, or one sentence that says what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use callbox::config::{Config, ConfigError};
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Time for an answer; the control thread needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time for an order: a reload may have to render what new agents say, a call may ring for a minute.
const ORDER: Duration = Duration::from_secs(75);

/// Bytes of an answer.
const MOST: usize = 256 << 20;

/// A daemon says that a file is wrong: exit status 78.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadConfiguration(String);

/// An answer that is no success, in the daemon's own words.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    detail: String,
}

/// Which daemon to ask.
#[derive(Args)]
pub(crate) struct Daemon {
    #[command(flatten)]
    file: crate::ConfigFile,
    /// Its control socket, instead of the one that its configuration names.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Daemon {
    /// Gives an order; one that is refused is an error in the daemon's own words.
    pub(crate) async fn order(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        self.order_with(method, path, None).await
    }

    /// The same with a body.
    pub(crate) async fn order_with(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let socket = self.socket()?;
        let (status, body) = tokio::time::timeout(ORDER, ask(&socket, method, path, body))
            .await
            .with_context(|| format!("callboxd does not answer on {}", socket.display()))??;
        let value: Value = serde_json::from_slice(&body).context("callboxd's answer is not JSON")?;
        let detail = || value["detail"].as_str().unwrap_or(status.as_str()).to_owned();
        match status {
            StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED => Ok(value),
            StatusCode::UNPROCESSABLE_ENTITY => Err(BadConfiguration(detail()).into()),
            _ => bail!(detail()),
        }
    }

    /// Asks; an answer with another status than `also` or 200 is an error, told in the daemon's own words.
    pub(crate) async fn get(&self, path: &str, also: Option<StatusCode>) -> anyhow::Result<(StatusCode, Value)> {
        let socket = self.socket()?;
        let (status, body) = tokio::time::timeout(PATIENCE, ask(&socket, Method::GET, path, None))
            .await
            .with_context(|| format!("callboxd does not answer on {}", socket.display()))??;
        let value: Value = serde_json::from_slice(&body).context("callboxd's answer is not JSON")?;
        if status != StatusCode::OK && Some(status) != also {
            bail!("{}", value["detail"].as_str().unwrap_or(status.as_str()));
        }
        Ok((status, value))
    }

    /// Something that is no JSON.
    pub(crate) async fn bytes(&self, path: &str) -> anyhow::Result<Bytes> {
        let socket = self.socket()?;
        let (status, body) = tokio::time::timeout(ORDER, ask(&socket, Method::GET, path, None))
            .await
            .with_context(|| format!("callboxd does not answer on {}", socket.display()))??;
        if status != StatusCode::OK {
            let value: Value = serde_json::from_slice(&body).unwrap_or_default();
            bail!("{}", value["detail"].as_str().unwrap_or(status.as_str()));
        }
        Ok(body)
    }

    /// A stream that has no end, from after the event of this id on.
    pub(crate) async fn stream(&self, path: &str, after: Option<&str>) -> anyhow::Result<Stream> {
        let socket = self.socket()?;
        let opened = async {
            let (answer, driver) = send(&socket, Method::GET, path, None, after).await?;
            let (head, body) = answer.into_parts();
            let mut stream = Stream { body, driver };
            if head.status == StatusCode::OK {
                return Ok(stream);
            }
            let value: Value = serde_json::from_slice(&whole(&mut stream.body).await?).unwrap_or_default();
            let detail = value["detail"].as_str().unwrap_or(head.status.as_str()).to_owned();
            Err(Refused { status: head.status, detail }.into())
        };
        tokio::time::timeout(PATIENCE, opened)
            .await
            .with_context(|| format!("callboxd does not answer on {}", socket.display()))?
    }

    /// The same daemon, whatever becomes of the configuration that names it.
    pub(crate) fn settled(self) -> Result<Self, ConfigError> {
        Ok(Self { socket: Some(self.socket()?), ..self })
    }

    /// The daemon's configuration, as this user may read it.
    pub(crate) fn config(&self) -> Result<Config, ConfigError> {
        self.file.load()
    }

    fn socket(&self) -> Result<PathBuf, ConfigError> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => self.file.load().map(|config| config.http.socket),
        }
    }
}

/// What a daemon answers, as a type.
pub(crate) async fn read<T: serde::de::DeserializeOwned>(socket: &PathBuf, path: &str) -> anyhow::Result<T> {
    let (status, body) = tokio::time::timeout(PATIENCE, ask(socket, Method::GET, path, None))
        .await
        .with_context(|| format!("callboxd does not answer on {}", socket.display()))??;
    if status != StatusCode::OK {
        bail!("callboxd answers {status} to {path}");
    }
    serde_json::from_slice(&body).context("callboxd's answer has another form; install one release of both")
}

/// Tells a daemon something.
pub(crate) async fn tell(socket: &PathBuf, path: &str, what: &Value) -> anyhow::Result<()> {
    let (status, body) = tokio::time::timeout(PATIENCE, ask(socket, Method::POST, path, Some(what)))
        .await
        .with_context(|| format!("callboxd does not answer on {}", socket.display()))??;
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status != StatusCode::OK {
        bail!("{}", value["detail"].as_str().unwrap_or(status.as_str()));
    }
    Ok(())
}

/// What a daemon answers, as text, whatever its status.
pub(crate) async fn text(socket: &PathBuf, path: &str) -> anyhow::Result<String> {
    let (_, body) = tokio::time::timeout(PATIENCE, ask(socket, Method::GET, path, None))
        .await
        .with_context(|| format!("callboxd does not answer on {}", socket.display()))??;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// Whether a daemon with this configuration runs.
pub(crate) async fn is_running(config: &Config) -> bool {
    UnixStream::connect(&config.http.socket).await.is_ok()
}

async fn ask(
    socket: &PathBuf,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (answer, driver) = send(socket, method, path, body, None).await?;
    let (head, mut body) = answer.into_parts();
    let body = whole(&mut body).await?;
    driver.abort();
    Ok((head.status, body))
}

async fn whole(body: &mut Incoming) -> anyhow::Result<Bytes> {
    Ok(Limited::new(body, MOST).collect().await.map_err(|error| anyhow::anyhow!(error))?.to_bytes())
}

/// Sends one request over a connection of its own, which lasts until its driver is aborted.
async fn send(
    socket: &PathBuf,
    method: Method,
    path: &str,
    body: Option<&Value>,
    after: Option<&str>,
) -> anyhow::Result<(Response<Incoming>, JoinHandle<hyper::Result<()>>)> {
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        let socket = socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                anyhow::anyhow!(
                    "no callboxd is running at {socket}; start it, or name another with --config or --socket"
                )
            }
            io::ErrorKind::PermissionDenied => {
                anyhow::anyhow!("{socket} may be used by root and the group callbox only; use sudo or join the group")
            }
            _ => anyhow::anyhow!("{socket} cannot be used: {error}"),
        }
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "callbox");
    let request = if body.is_some() { request.header("content-type", "application/json") } else { request };
    let request = after.into_iter().fold(request, |request, id| request.header("last-event-id", id));
    let request = request.body(Full::<Bytes>::from(body.map(Value::to_string).unwrap_or_default()))?;
    Ok((sender.send_request(request).await?, driver))
}

/// An answer that goes on; its connection ends with it.
pub(crate) struct Stream {
    body: Incoming,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Stream {
    /// What comes next; nothing once the daemon has ended it.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A name in a path or a query.
pub(crate) fn escaped(name: &str) -> impl std::fmt::Display {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
}
