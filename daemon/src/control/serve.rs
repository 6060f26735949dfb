//! The listeners. Enters: connections of anybody who can reach them; leaves: requests with a bounded head, in bounded
//! time, from a bounded number of peers. Whoever is slow loses the connection, not the others their answers.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::base::Pulse;

/// Connections per listener; one more is closed at once.
const CONNECTIONS: usize = 128;

/// Time for the head of a request, and for an idle connection.
const HEAD: Duration = Duration::from_secs(5);

/// Time for a connection, all in all.
const WHOLE: Duration = Duration::from_secs(60);

/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// Serves both until `stop`.
pub(super) async fn serve(
    (tcp, closed): (TcpListener, Router),
    (unix, open): (UnixListener, Router),
    stop: CancellationToken,
    pulse: Pulse,
) -> io::Result<()> {
    let tcp = tokio::net::TcpListener::from_std(tcp)?;
    let unix = tokio::net::UnixListener::from_std(unix)?;
    let places = [Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(CONNECTIONS))];
    let mut idle = tokio::time::interval(Pulse::IDLE);
    loop {
        pulse.beat();
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = idle.tick() => {}
            accepted = tcp.accept() => match accepted {
                Ok((stream, _)) => connection(stream, closed.clone(), &places[0], &stop),
                Err(error) => pause(&error).await,
            },
            accepted = unix.accept() => match accepted {
                Ok((stream, _)) => connection(stream, open.clone(), &places[1], &stop),
                Err(error) => pause(&error).await,
            },
        }
    }
}

/// Out of file descriptors, most likely: do not spin until there are some.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "a control connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn connection<S>(stream: S, router: Router, places: &Arc<Semaphore>, stop: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(place) = Arc::clone(places).try_acquire_owned() else { return };
    let stop = stop.clone();
    tokio::spawn(async move {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        tokio::select! {
            // What a peer did wrong is its own affair.
            _ = served => {}
            () = tokio::time::sleep(WHOLE) => {}
            () = stop.cancelled() => {}
        }
        drop(place);
    });
}
