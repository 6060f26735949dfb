//! A daemon that starts goes on with the calls of the one before. Enters: what that one left, and the dialogs of it that
//! are up again. Leaves: conversations, or the polite end of a call that cannot go on.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::conversation::Before;
use super::exchange::{Exchange, Up};
use super::handover::{Leg, TRANSFERRED};
use super::keep::{Keep, KeptCall, Left};
use crate::base::CallId;
use crate::sip::{Call, Phase};
use crate::storage::Timestamp;
use crate::telemetry::{agent_span, call_span};

/// Daemons in a row that may die at work with a call; after the last it is ended rather than tried again.
const MOST_CRASHES: u8 = 3;

/// A call that a daemon has died of waits until the others are safely on their way.
const SUSPECT: Duration = Duration::from_millis(100);

impl Exchange {
    /// Goes on with calls; comes back when all of them are on their way.
    pub async fn restore(self: &Arc<Self>, left: Vec<Left>, mut calls: Vec<Call>) {
        let mut take = |id: CallId| {
            let place = calls.iter().position(|call| call.id() == id)?;
            Some(calls.swap_remove(place))
        };
        for mut left in left {
            left.keep.take();
            let id = left.call.dialog.call;
            let sip = take(id);
            let leg = left.call.leg.as_ref().and_then(|leg| take(leg.dialog.call));
            match (sip, left.call.over.clone()) {
                (sip, Some(over)) => {
                    for sip in sip.into_iter().chain(leg) {
                        sip.hangup().await;
                    }
                    let ended = Some(Timestamp(over.ended_us));
                    self.note_end(&left.call, left.keep, &over.reason, ended).await;
                }
                (None, None) if left.call.dialog.phase == Phase::Ringing => {
                    tracing::info!(call = %id, "a call that rang while the daemon before died was refused");
                }
                (None, None) => {
                    tracing::warn!(call = %id, "a call of an earlier daemon has no dialog and is over");
                    self.note_end(&left.call, left.keep, "lost_dialog", None).await;
                }
                (Some(sip), None) => {
                    if left.crashes > 0 {
                        tokio::time::sleep(SUSPECT).await;
                    }
                    self.go_on(id, left, sip, leg).await;
                }
            }
        }
    }

    async fn go_on(self: &Arc<Self>, id: CallId, mut left: Left, sip: Call, leg: Option<Call>) {
        let uptime = self.clock.uptime();
        let agent = self.agents().shared(&left.call.record().agent);
        let over = match (&agent, left.call.dialog.phase) {
            _ if left.crashes >= MOST_CRASHES => Some("crashes"),
            (None, _) => Some("no_agent"),
            (_, Phase::Confirmed | Phase::Answered) => None,
            _ => Some("restart"),
        };
        let (Some(agent), Some(parameters), None) = (agent, left.call.session(uptime), over) else {
            let reason = over.unwrap_or("restart");
            tracing::warn!(call = %id, reason, crashes = left.crashes, "a call of an earlier daemon is ended");
            sip.hangup().await;
            return self.note_end(&left.call, left.keep, reason, None).await;
        };
        left.keep.enter();
        let opened = self.media.adopt(left.rtp, left.rtcp).and_then(|(sockets, missed)| {
            let session = self.media.resume(sockets, parameters.clone(), left.call.target)?;
            Ok((session, missed.frames(&parameters, left.call.target)))
        });
        left.keep.leave();
        let (session, missed) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(call = %id, %error, "a call of an earlier daemon has no media and is ended");
                sip.hangup().await;
                return self.note_end(&left.call, left.keep, "lost_media", None).await;
            }
        };
        let leg = left.call.leg.take().zip(leg).zip(left.leg.take());
        let leg = leg.and_then(|((kept, sip), sockets)| self.join_again(&kept, sip, sockets, uptime));
        let (gap, hear_from) = (left.call.gap(uptime), left.call.hear_from);
        // One of which the caller has heard nothing begins as every call does.
        let before = left.call.dialogue.clone().map(|dialogue| Before { dialogue, gap, hear_from, missed });
        let up = Up {
            record: left.call.record(),
            agent,
            sip,
            session,
            parameters,
            stream: left.call.stream.clone(),
            keep: Some(left.keep),
            began: left.call.began,
            before,
            leg,
        };
        let span = call_span(id);
        let span = span.in_scope(|| agent_span(up.agent.name.as_str()));
        span.in_scope(|| tracing::info!("a call of an earlier daemon goes on"));
        self.begin(up, span);
    }

    /// Whom the caller was joined to, again with media; the conversation finds out if there is none.
    fn join_again(&self, kept: &KeptCall, sip: Call, [rtp, rtcp]: [OwnedFd; 2], uptime: Duration) -> Option<Box<Leg>> {
        let parameters = kept.session(uptime)?;
        let opened = self.media.adopt(rtp, rtcp).and_then(|(sockets, _)| {
            // The manager keeps the first descriptors.
            self.media.resume(sockets, parameters.clone(), kept.target)
        });
        let session = opened.inspect_err(|error| tracing::error!(%error, "a leg has no media")).ok()?;
        Some(Box::new(Leg::resume(sip, session, parameters, kept, self)))
    }

    /// The end of a call that does not go on, and of whom it was joined to; now, unless it is known.
    async fn note_end(&self, call: &KeptCall, keep: Keep, reason: &str, ended: Option<Timestamp>) {
        let over = |call: &KeptCall, reason: &str| {
            let mut record = call.record();
            record.ended = ended.or_else(|| Some(self.present(&record, call.began)));
            record.end_reason = Some(reason.to_owned());
            record
        };
        if let Some(leg) = &call.leg {
            self.record_end(over(leg, TRANSFERRED), None).await;
        }
        let record = over(call, reason);
        self.counts.ended(&record, reason);
        self.record_end(record, Some(keep)).await;
    }
}
