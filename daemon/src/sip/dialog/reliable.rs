//! Reliable provisional responses (RFC 3262), in both roles. Enters: an INVITE that requires them, PRACKs, provisional
//! responses with RSeq; leaves: provisional responses again and again, PRACKs.

use std::time::{Duration, Instant};

use super::EndReason;
use super::machine::{Ctx, Machine};
use super::screen::{Refusal, requires};
use super::state::Phase;
use crate::sip::message::{Message, Method};
use crate::sip::transaction::TxId;

/// A provisional response of ours that must be acknowledged.
#[derive(Debug)]
pub(super) struct Reliable {
    rseq: u32,
    response: Message,
    wait: Duration,
    until: Instant,
    /// When it is sent again; none once it was acknowledged or the INVITE has its final response.
    pub(super) again: Option<Instant>,
}

/// An early dialog of a call of ours.
#[derive(Debug)]
pub(super) struct Early {
    /// Of To.
    pub(super) tag: String,
    /// The last that was acknowledged.
    rseq: u32,
    /// Their answer to our offer, if one has come.
    pub(super) sdp: Option<String>,
}

/// Provisional responses of a call of ours whose RSeq is remembered, one for each branch of a fork.
const BRANCHES: usize = 8;

impl Machine {
    /// Sends a provisional response so that it arrives.
    pub(super) fn respond_reliably(&mut self, tx: TxId, response: Message, ctx: &mut Ctx<'_>) {
        // RFC 3262 §3: from the lower half, so that it never wraps.
        let rseq = u32::try_from((ctx.random)() % 0x7fff_fffe).unwrap_or(0) + 1;
        let response = response.with("Require", "100rel").with("RSeq", rseq.to_string());
        let wait = ctx.timers.t1;
        let (again, until) = (Some(ctx.now + wait), ctx.now + ctx.timers.t1x64());
        self.reliable = Some(Reliable { rseq, response: response.clone(), wait, until, again });
        ctx.respond(tx, response);
    }

    /// Time to repeat the provisional response, or to give up (RFC 3262 §3).
    pub(super) fn on_unacknowledged(&mut self, ctx: &mut Ctx<'_>) {
        let Some(reliable) = &mut self.reliable else { return };
        let Some((tx, _)) = &self.invite else { return reliable.again = None };
        if self.state.phase != Phase::Ringing {
            reliable.again = None;
        } else if ctx.now >= reliable.until {
            reliable.again = None;
            self.reject_now(504, None, EndReason::Timeout, ctx);
        } else {
            reliable.wait *= 2;
            reliable.again = Some((ctx.now + reliable.wait).min(reliable.until));
            let response = reliable.response.clone();
            ctx.respond(*tx, response);
        }
    }

    pub(super) fn on_prack(&mut self, tx: TxId, request: &Message, ctx: &mut Ctx<'_>) {
        let acknowledged = request.header("RAck").and_then(|rack| {
            let mut words = rack.split_whitespace();
            let numbers = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            (words.next() == Some("INVITE")).then_some(numbers)
        });
        let ours = self.reliable.as_ref().map(|reliable| (reliable.rseq, self.state.invite_cseq));
        match &mut self.reliable {
            // Nothing was answered yet, so an offer is out of order (RFC 3262 §5).
            Some(_) if ours == acknowledged && request.sdp().is_some() => {
                ctx.respond(tx, Refusal::plain(488).response(request, ""));
            }
            Some(reliable) if ours == acknowledged => {
                reliable.again = None;
                ctx.respond(tx, Message::response(request, 200, None));
            }
            _ => ctx.respond(tx, Refusal::plain(481).response(request, "")),
        }
    }

    /// Acknowledges a provisional response that wants it, once. False for one that came before (RFC 3262 §4).
    pub(super) fn acknowledge(&mut self, response: &Message, ctx: &mut Ctx<'_>) -> bool {
        let wants = requires(response, "100rel");
        let rseq: Option<u32> = response.header("RSeq").and_then(|rseq| rseq.trim().parse().ok());
        let (true, Some(rseq), Some(tag)) = (wants, rseq, response.to_tag()) else { return true };
        let room = self.early.len() < BRANCHES;
        match self.early.iter_mut().find(|early| early.tag == tag) {
            Some(early) if rseq <= early.rseq => return false,
            Some(early) => {
                early.rseq = rseq;
                // The first is the answer; later ones only repeat it (RFC 6337 §2.2).
                early.sdp = early.sdp.take().or_else(|| response.sdp());
            }
            None if room => self.early.push(Early { tag: tag.to_owned(), rseq, sdp: response.sdp() }),
            None => return true,
        }
        // Each branch of a fork is an early dialog of its own; the numbers of our requests are common to all.
        let mut early = self.state.clone();
        early.complete(response);
        let branch = ctx.branch();
        let (msg, to) = early.request(Method::Prack, &branch);
        self.state.local_cseq = early.local_cseq;
        let rack = format!("{rseq} {} INVITE", response.cseq().unwrap_or(self.state.invite_cseq));
        self.send(msg.with("RAck", rack).with("User-Agent", ctx.agent), to, ctx);
        true
    }
}
