//! Session timers (RFC 4028): what both sides agree on, when a session is refreshed, and when it is given up. Enters:
//! requests and responses that carry or miss Session-Expires; leaves: the agreement, and the refreshes that are due.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::machine::{Ctx, Machine};
use super::screen::{Refusal, requires};
use super::state::Phase;
use super::{ALLOW, Action, EndReason, Notice, SUPPORTED};
use crate::sip::message::{Message, Method};

/// Shortest session that is accepted, in seconds: the least that RFC 4028 §5 allows.
pub const MIN_SE: u32 = 90;

/// As agreed in the last INVITE or UPDATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTimer {
    /// Seconds from one refresh to the end.
    pub interval: u32,
    /// Whether we refresh.
    pub ours: bool,
}

impl SessionTimer {
    /// When the session is over without a refresh: a little early, so that a BYE is still heard (RFC 4028 §10).
    fn end(self, from: Instant) -> Instant {
        from + Duration::from_secs((self.interval - (self.interval / 3).min(32)).into())
    }
}

/// Whether the sender knows an extension.
pub(super) fn supports(message: &Message, tag: &str) -> bool {
    requires(message, tag) || message.list("Supported").any(|known| known.trim().eq_ignore_ascii_case(tag))
}

/// Seconds of Session-Expires, and whether the caller of this transaction refreshes.
fn read(message: &Message) -> Option<(u32, Option<bool>)> {
    let mut parts = message.header("Session-Expires")?.split(';').map(str::trim);
    let seconds = parts.next()?.parse().ok()?;
    let refresher = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("refresher").then(|| value.trim().eq_ignore_ascii_case("uac"))
    });
    Some((seconds, refresher))
}

fn min_se(message: &Message) -> Option<u32> {
    message.header("Min-SE")?.split(';').next()?.trim().parse().ok()
}

/// What we agree to as the server of this request; `wanted` seconds if it asks for nothing, 0 for no timer.
pub(super) fn settle(request: &Message, wanted: u32) -> Result<Option<SessionTimer>, Refusal> {
    // A proxy may have asked on behalf of a client that knows nothing of it: then we refresh, and refuse nothing.
    let known = supports(request, "timer");
    match read(request) {
        Some((seconds, _)) if known && seconds < MIN_SE => Err(Refusal::because(422, "Min-SE", MIN_SE.to_string())),
        Some((seconds, refresher)) => {
            Ok(Some(SessionTimer { interval: seconds.max(MIN_SE), ours: !known || refresher == Some(false) }))
        }
        None if known && wanted > 0 => {
            let interval = wanted.max(min_se(request).unwrap_or(0)).max(MIN_SE);
            Ok(Some(SessionTimer { interval, ours: false }))
        }
        None => Ok(None),
    }
}

/// The agreement in our 2xx.
pub(super) fn stated(response: Message, timer: Option<SessionTimer>) -> Message {
    match timer {
        None => response,
        Some(SessionTimer { interval, ours: true }) => {
            response.with("Session-Expires", format!("{interval};refresher=uas"))
        }
        // RFC 4028 §9: only who supports the timer can be asked to refresh, so it may be required.
        Some(SessionTimer { interval, ours: false }) => {
            response.with("Session-Expires", format!("{interval};refresher=uac")).with("Require", "timer")
        }
    }
}

/// The agreement in a 2xx to us; none, and the session has no end.
fn agreed(response: &Message) -> Option<SessionTimer> {
    let (seconds, refresher) = read(response)?;
    Some(SessionTimer { interval: seconds.max(MIN_SE), ours: refresher != Some(false) })
}

impl Machine {
    /// The session begins, or goes on.
    pub(super) fn renew(&mut self, now: Instant) {
        self.renewed = Some(now);
        self.renewal = self.state.session.map(|timer| match timer.ours {
            true => now + Duration::from_secs(timer.interval.into()) / 2,
            false => timer.end(now),
        });
    }

    /// The session begins, or goes on, as this 2xx to us says.
    pub(super) fn renew_as(&mut self, response: &Message, now: Instant) {
        self.state.session = agreed(response);
        self.renew(now);
    }

    /// Time to refresh, or to give up.
    pub(super) fn on_renewal(&mut self, ctx: &mut Ctx<'_>) {
        let (Some(timer), Some(renewed)) = (self.state.session, self.renewed) else { return self.renewal = None };
        let end = timer.end(renewed);
        if self.state.phase != Phase::Confirmed {
            self.renewal = None;
        } else if ctx.now >= end {
            self.renewal = None;
            self.bye(EndReason::Timeout, ctx);
        } else {
            self.renewal = Some(end);
            // An offer of theirs that is being answered refreshes, too.
            if self.reoffer.is_none() {
                self.refresh(timer.interval, ctx);
            }
        }
    }

    /// UPDATE without an offer where the peer takes it; a re-INVITE that repeats ours where it does not (RFC 4028 §7.4).
    fn refresh(&mut self, interval: u32, ctx: &mut Ctx<'_>) {
        let method = if self.state.peer_updates { Method::Update } else { Method::Invite };
        let branch = ctx.branch();
        let (msg, to) = self.state.request(method, &branch);
        let msg = msg
            .with("Allow", ALLOW)
            .with("Supported", SUPPORTED)
            .with("Session-Expires", format!("{interval};refresher=uac"))
            .with("Min-SE", MIN_SE.to_string())
            .with("User-Agent", ctx.agent);
        let msg = if method == Method::Invite { msg.with_sdp(self.state.local_sdp.as_deref()) } else { msg };
        self.send(msg, to, ctx);
    }

    /// A final response to a refresh of ours, other than those that end the dialog.
    pub(super) fn on_refreshed(&mut self, method: Method, response: &Message, ctx: &mut Ctx<'_>) {
        let status = response.status();
        if (200..300).contains(&status) {
            self.state.refresh_target(response);
            if method == Method::Invite {
                self.ack_reinvite(response, ctx);
                if let Some(answer) = response.sdp() {
                    ctx.notify(self.state.call, Notice::Confirmed { answer: Some(answer) });
                }
            }
            return self.renew_as(response, ctx.now);
        }
        let soon = match status {
            405 | 501 if method == Method::Update => {
                self.state.peer_updates = false;
                Duration::ZERO
            }
            422 => match (&mut self.state.session, min_se(response)) {
                (Some(timer), Some(least)) if least > timer.interval => {
                    timer.interval = least;
                    Duration::ZERO
                }
                // Refused although long enough: it would be refused for ever.
                _ => return,
            },
            // RFC 3261 §14.1: whoever owns the Call-ID waits for longer; either time is right for a refresh.
            491 | 500 | 503 | 504 => Duration::from_millis(2100 + (ctx.random)() % 1900),
            _ => return,
        };
        self.renewal = self.renewal.map(|end| end.min(ctx.now + soon));
    }

    pub(super) fn ack_reinvite(&self, response: &Message, ctx: &mut Ctx<'_>) {
        let branch = ctx.branch();
        let (msg, to) = self.state.ack(response.cseq().unwrap_or(self.state.local_cseq), &branch);
        ctx.actions.push(Action::Ack { msg: self.credited(msg), to });
    }

    /// 422 to our INVITE: the same again with what the other side finds long enough (RFC 4028 §7.3). Whether it was.
    pub(super) fn dial_longer(&mut self, response: &Message, ctx: &mut Ctx<'_>) -> bool {
        let Some(least) = min_se(response) else { return false };
        let asked = self.invite.as_ref().and_then(|(_, invite)| read(invite)).map_or(0, |(seconds, _)| seconds);
        // Refused although long enough, or for the second time: it will not end.
        if response.status() != 422 || asked >= least {
            return false;
        }
        self.dial_again(ctx, |mut invite| {
            invite.headers.retain(|(name, _)| !matches!(name.as_ref(), "Session-Expires" | "Min-SE"));
            invite.with("Session-Expires", least.to_string()).with("Min-SE", least.to_string())
        });
        true
    }

    /// Whether a re-INVITE of ours has no final response yet.
    pub(super) fn reinvites(&self) -> bool {
        self.pending.iter().any(|sent| sent.method == Method::Invite)
    }
}
