//! What the service manager is told while the daemon runs. Enters: latches, calls, the database's fault; leaves: one line
//! of status when it changes, and more time while models load. Never here: a caller.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::base::Pulse;
use crate::call::Exchange;
use crate::control::{Latch, Readiness};
use crate::service::Service;
use crate::storage::StorageHandle;

/// How often the status is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// How much more time is asked for at each look: enough for a machine that stutters.
const MORE: Duration = Duration::from_secs(15);

/// How often more time to start is asked for at most: whoever is not ready then never will be.
const LOOKS: u32 = 600;

/// The pulse of the runtime that all calls share.
pub(super) fn beat() -> Pulse {
    let pulse = Pulse::default();
    let beating = pulse.clone();
    tokio::spawn(async move {
        let mut every = interval(Pulse::IDLE);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            beating.beat();
        }
    });
    pulse
}

/// Tells until it is aborted.
pub(super) async fn report(
    service: Service,
    readiness: Readiness,
    exchange: Arc<Exchange>,
    storage: StorageHandle,
    stopping: CancellationToken,
) {
    if !service.is_present() {
        return;
    }
    let mut every = interval(EVERY);
    let (mut said, mut looks) = (String::new(), 0);
    loop {
        every.tick().await;
        let status = sentence(&readiness, exchange.calls(), storage.fault());
        if status != said {
            service.status(status.clone());
            said = status;
        }
        // A stop lasts as long as its drain, which has a limit of its own.
        let starting = !readiness.was_ready() && looks < LOOKS;
        looks = looks.saturating_add(u32::from(starting));
        if starting || stopping.is_cancelled() {
            service.extend(MORE);
        }
    }
}

fn sentence(readiness: &Readiness, calls: usize, fault: Option<String>) -> String {
    let statuses = readiness.statuses();
    let drain = statuses.iter().find_map(|(latch, status)| status.as_ref().err().filter(|_| *latch == Latch::Drain));
    let missing = statuses.iter().find_map(|(latch, status)| Some((latch.as_str(), status.as_ref().err()?)));
    let calls = match calls {
        0 => "no call".to_owned(),
        1 => "1 call".to_owned(),
        calls => format!("{calls} calls"),
    };
    let mut sentence = match (drain, missing) {
        (Some(because), _) => format!("{because}; {calls}"),
        (None, None) => format!("calls are answered; {calls}"),
        (None, Some((part, because))) => format!("calls are refused: {part}: {because}; {calls}"),
    };
    if let Some(fault) = fault {
        sentence += "; ";
        sentence += &fault;
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_how_it_is() {
        let readiness = Readiness::default();
        assert_eq!(sentence(&readiness, 0, None), "calls are refused: storage: starting; no call");
        for latch in Latch::ALL {
            readiness.ready(latch);
        }
        assert_eq!(sentence(&readiness, 2, None), "calls are answered; 2 calls");
        let full = "the database cannot be written: database or disk is full";
        assert_eq!(sentence(&readiness, 1, Some(full.into())), format!("calls are answered; 1 call; {full}"));
        readiness.not_ready(Latch::Drain, "the daemon is going down");
        assert_eq!(sentence(&readiness, 1, None), "the daemon is going down; 1 call");
    }
}
