//! A daemon that starts goes on with the calls of the one before. Enters: what that one left, and the dialogs of it that
//! are up again. Leaves: conversations, or the polite end of a call that cannot go on.

use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument as _;

use super::conversation::Before;
use super::exchange::{Exchange, Up};
use super::keep::Left;
use crate::base::CallId;
use crate::sip::{Call, Phase};
use crate::storage::Record;
use crate::telemetry::{agent_span, call_span};

/// Daemons in a row that may die at work with a call; after the last it is ended rather than tried again.
const MOST_CRASHES: u8 = 3;

/// A call that a daemon has died of waits until the others are safely on their way.
const SUSPECT: Duration = Duration::from_millis(100);

impl Exchange {
    /// Goes on with calls; comes back when all of them are on their way.
    pub async fn restore(self: &Arc<Self>, left: Vec<Left>, mut calls: Vec<Call>) {
        for mut left in left {
            left.keep.take();
            let id = left.call.dialog.call;
            let Some(place) = calls.iter().position(|call| call.id() == id) else {
                self.note_end(&left, "lost_dialog");
                tracing::warn!(call = %id, "a call of an earlier daemon has no dialog and is over");
                continue;
            };
            let sip = calls.swap_remove(place);
            if left.crashes > 0 {
                tokio::time::sleep(SUSPECT).await;
            }
            self.go_on(id, left, sip).await;
        }
    }

    async fn go_on(self: &Arc<Self>, id: CallId, left: Left, sip: Call) {
        let uptime = self.clock.uptime();
        let agent = self.agents().shared(&left.call.record().agent);
        let over = match (&agent, left.call.dialog.phase) {
            _ if left.crashes >= MOST_CRASHES => Some("crashes"),
            (None, _) => Some("no_agent"),
            // No ACK, so no call for the caller; or a BYE that nobody may have heard.
            (_, Phase::Confirmed) => None,
            _ => Some("restart"),
        };
        if let Some(reason) = over {
            tracing::warn!(call = %id, reason, crashes = left.crashes, "a call of an earlier daemon is ended");
            self.note_end(&left, reason);
            sip.hangup().await;
            return;
        }
        let (Some(agent), Some(dialogue)) = (agent, left.call.dialogue.clone()) else {
            self.note_end(&left, "restart");
            sip.hangup().await;
            return;
        };
        left.keep.enter();
        let parameters = left.call.session(uptime);
        let opened = self
            .media
            .adopt(left.rtp, left.rtcp)
            .and_then(|sockets| self.media.resume(sockets, parameters.clone(), left.call.target));
        left.keep.leave();
        let session = match opened {
            Ok(session) => session,
            Err(error) => {
                tracing::error!(call = %id, %error, "a call of an earlier daemon has no media and is ended");
                sip.hangup().await;
                return;
            }
        };
        let gap = left.call.gap(uptime);
        let up = Up {
            record: left.call.record(),
            agent,
            sip,
            session,
            parameters,
            stream: left.call.stream.clone(),
            keep: Some(left.keep),
            began: left.call.began,
            before: Some(Before { dialogue, gap }),
        };
        let exchange = Arc::clone(self);
        let span = call_span(id);
        let span = span.in_scope(|| agent_span(up.agent.name.as_str()));
        span.in_scope(|| tracing::info!("a call of an earlier daemon goes on"));
        self.calls.spawn(async move { exchange.converse(up).await }.instrument(span));
    }

    /// The end of a call that does not go on.
    fn note_end(&self, left: &Left, reason: &str) {
        let mut record = left.call.record();
        record.ended = Some(self.present(&record, left.call.began));
        record.end_reason = Some(reason.to_owned());
        self.storage.record(Record::Call(Box::new(record)));
    }
}
