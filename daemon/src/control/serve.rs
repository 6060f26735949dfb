//! The listeners. Enters: connections of anybody who can reach them; leaves: requests with a bounded head, in bounded
//! time, from a bounded number of peers, each with who sent it. Whoever is slow loses the connection, not the others their
//! answers.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use super::counts::{Counts, Listener};
use super::stream::Lasting;
use super::who::Peer;
use crate::base::Pulse;
use crate::telemetry::While;

/// What TLS handshakes are made with; none for a listener without TLS.
pub type Certificates = watch::Receiver<Option<Arc<ServerConfig>>>;

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
    (tcp, certificates): (TcpListener, Certificates),
    unix: UnixListener,
    (router, counts): (Router, Counts),
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
                Ok((stream, from)) => {
                    let tls = certificates.borrow().clone();
                    let peer = Peer::Address { ip: from.ip().to_canonical(), sealed: tls.is_some() };
                    let Ok(place) = Arc::clone(&places[0]).try_acquire_owned() else {
                        counts.no_place();
                        continue;
                    };
                    let (router, stop, failed) = (router.clone(), stop.clone(), counts.handshakes_failed.clone());
                    let open = While::new(&counts.connections(Listener::Tcp));
                    tokio::spawn(async move {
                        match tls {
                            None => connection(stream, peer, router, stop).await,
                            // Who cannot do TLS is told so by TLS.
                            Some(tls) => {
                                let handshake = TlsAcceptor::from(tls).accept(stream);
                                match tokio::time::timeout(HEAD, handshake).await {
                                    Ok(Ok(stream)) => connection(stream, peer, router, stop).await,
                                    _ => drop(failed.inc()),
                                }
                            }
                        }
                        drop((place, open));
                    });
                }
                Err(error) => pause(&error).await,
            },
            accepted = unix.accept() => match accepted {
                Ok((stream, _)) => {
                    // The kernel says who it is.
                    let Ok(user) = stream.peer_cred() else { continue };
                    let Ok(place) = Arc::clone(&places[1]).try_acquire_owned() else {
                        counts.no_place();
                        continue;
                    };
                    let (router, stop) = (router.clone(), stop.clone());
                    let open = While::new(&counts.connections(Listener::Unix));
                    tokio::spawn(async move {
                        connection(stream, Peer::User(user.uid()), router, stop).await;
                        drop((place, open));
                    });
                }
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

async fn connection<S>(stream: S, peer: Peer, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (lasting, paths) = (Lasting::default(), TowerToHyperService::new(router));
    let known = lasting.clone();
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(known.clone());
        paths.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let too_long = async {
        loop {
            tokio::time::sleep(WHOLE).await;
            if !lasting.is_lasting() {
                return;
            }
        }
    };
    tokio::select! {
        // What a peer did wrong is its own affair.
        _ = served => {}
        () = too_long => {}
        () = stop.cancelled() => {}
    }
}
