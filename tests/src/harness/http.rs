//! One request. Enters: an address or a control socket, and a path; leaves: status and body.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// HTTP/1.0, so that the body is neither chunked nor kept alive.
///
/// # Errors
/// If nobody answers within five seconds, or with something else than HTTP.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let asked = async { ask(TcpStream::connect(address).await?, "GET", path, "").await };
    tokio::time::timeout(LIMIT, asked).await.with_context(|| format!("GET {path}: no answer in five seconds"))?
}

/// The same on a control socket, with any method and a body of JSON.
///
/// # Errors
/// As [`get`].
pub async fn on_socket(socket: &Path, method: &str, path: &str, body: &str) -> anyhow::Result<(u16, String)> {
    let asked = async { ask(UnixStream::connect(socket).await?, method, path, body).await };
    tokio::time::timeout(LIMIT, asked).await.with_context(|| format!("{method} {path}: no answer in five seconds"))?
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    body: &str,
) -> anyhow::Result<(u16, String)> {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let head = format!("{method} {path} HTTP/1.0\r\nHost: callbox\r\n{kind}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok((status, body.to_owned()))
}
