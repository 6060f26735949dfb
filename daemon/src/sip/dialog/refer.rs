//! REFER as the one who transfers (RFC 3515, RFC 5589): asks the peer to call somebody else, and hears what comes of it.
//! Enters: the wish of the owner, NOTIFYs; leaves: REFER, news. A REFER of the peer is not for us: 405.

use super::machine::{Ctx, Machine};
use super::screen::Refusal;
use super::state::Phase;
use super::{CommandError, Notice};
use crate::sip::message::{Message, Method};
use crate::sip::transaction::TxId;

/// Body of a NOTIFY: the beginning of the response that the peer has got (RFC 3420).
pub(super) const SIPFRAG: &str = "message/sipfrag";

/// What becomes of a transfer that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Referral {
    /// The peer will try, and tell.
    Accepted,
    /// The peer will not: final status of the REFER.
    Refused(u16),
    /// What the one that it calls says: 100-199.
    Progress(u16),
    /// How that call went: 200-699. It is the last word.
    Done(u16),
}

impl Machine {
    pub(super) fn refer(&mut self, to: &str, ctx: &mut Ctx<'_>) -> Result<(), CommandError> {
        if self.state.phase != Phase::Confirmed || self.referring {
            return Err(CommandError::WrongState);
        }
        let branch = ctx.branch();
        let (msg, next) = self.state.request(Method::Refer, &branch);
        let msg = msg
            .with("Refer-To", format!("<{to}>"))
            .with("Referred-By", self.state.local.reveal().as_str())
            .with("Supported", super::SUPPORTED)
            .with("User-Agent", ctx.agent);
        self.referring = true;
        self.send(msg, next, ctx);
        Ok(())
    }

    /// The final response to our REFER. A NOTIFY may have come before it (RFC 6665 §4.1.2.4).
    pub(super) fn on_referred(&mut self, status: u16, ctx: &mut Ctx<'_>) {
        let news = match status {
            200..300 => Referral::Accepted,
            _ => Referral::Refused(status),
        };
        if self.referring {
            self.referring = news == Referral::Accepted;
            ctx.notify(self.state.call, Notice::Referred(news));
        }
    }

    pub(super) fn on_notify(&mut self, tx: TxId, request: &Message, ctx: &mut Ctx<'_>) {
        // RFC 6665 §4.1.3: of a subscription that is not there, or is over.
        if !self.referring {
            return ctx.respond(tx, Refusal::plain(481).response(request, ""));
        }
        let event = request.header("Event").unwrap_or_default();
        if !event.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("refer") {
            return ctx.respond(tx, Refusal::because(489, "Allow-Events", "refer").response(request, ""));
        }
        ctx.respond(tx, Message::response(request, 200, None));
        let over = request
            .header("Subscription-State")
            .is_some_and(|state| state.trim_start().to_ascii_lowercase().starts_with("terminated"));
        let news = match sipfrag_status(&request.body) {
            Some(status @ 200..) => Referral::Done(status),
            // RFC 3515 §2.4.5: it ends with what is known, and then nothing more is known than that it tried.
            _ if over => Referral::Done(408),
            Some(status) => Referral::Progress(status),
            None => return,
        };
        self.referring = !matches!(news, Referral::Done(_));
        ctx.notify(self.state.call, Notice::Referred(news));
    }
}

/// The status line that a body of message/sipfrag begins with.
fn sipfrag_status(body: &[u8]) -> Option<u16> {
    let line = body.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let version = words.next()?;
    let status = words.next()?.parse().ok()?;
    (version.eq_ignore_ascii_case("SIP/2.0") && (100..700).contains(&status)).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fragment_is_a_status_line() {
        for (body, wanted) in [
            ("SIP/2.0 200 OK", Some(200)),
            ("SIP/2.0 486 Busy Here\r\nTo: x\r\n", Some(486)),
            ("sip/2.0 100", Some(100)),
            ("HTTP/1.1 200 OK", None),
            ("SIP/2.0 99", None),
            ("SIP/2.0 99999", None),
            ("", None),
        ] {
            assert_eq!(sipfrag_status(body.as_bytes()), wanted, "{body:?}");
        }
    }
}
