//! Datagrams of a call for an operator who looks for a fault. Enters: what the media thread copies; leaves: the same with
//! addresses and calendar times. Never here: waiting of the call; a datagram that nobody takes in time is lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::mpsc;

use super::record::timestamp;
use crate::base::Clock;
use crate::control::TracedPacket;
use crate::media::{Capture, Captured};

/// Datagrams that wait: a third of a second of ten-millisecond packets in both directions.
pub(super) const WAITING: usize = 64;

/// How often they are looked for.
const EVERY: Duration = Duration::from_millis(50);

/// Passes them on until the call is over or nobody listens. `local`: our address for RTP; RTCP has the port after it.
pub(super) fn pass_on(mut capture: Capture, local: SocketAddr, clock: Arc<dyn Clock>) -> mpsc::Receiver<TracedPacket> {
    let (packets, taken) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut looking = tokio::time::interval(EVERY);
        while !capture.is_over() {
            looking.tick().await;
            while let Some(captured) = capture.recv() {
                if packets.send(traced(&captured, local, clock.as_ref())).await.is_err() {
                    return;
                }
            }
            if packets.is_closed() {
                return;
            }
        }
    });
    taken
}

fn traced(captured: &Captured, local: SocketAddr, clock: &dyn Clock) -> TracedPacket {
    let port = local.port().saturating_add(u16::from(captured.rtcp));
    TracedPacket {
        at_us: u64::try_from(timestamp(clock, captured.at).0).unwrap_or(0),
        sent: captured.sent,
        local: SocketAddr::new(local.ip(), port),
        peer: captured.peer,
        length: captured.length,
        octets: STANDARD.encode(captured.octets()),
    }
}
