//! Dialogs and calls (RFC 3261 §12-15, RFC 3264 §8), sans-IO: (state, event or command, now) → actions. Enters: what the
//! transaction layer reports and what the handles ask for; leaves: what to send and whom to tell. No socket, no clock,
//! no ambient randomness; a [`DialogState`] is plain data and survives the process.
//!
//! Session timers (RFC 4028) are in `session`, reliable provisional responses (RFC 3262) in `reliable`, REFER and its
//! NOTIFYs (RFC 3515) in `refer`, requests that are on their way, and challenged (401, 407), in `sent`.

mod core;
mod entry;
mod machine;
mod refer;
mod reliable;
mod screen;
mod sent;
mod session;
mod state;
#[cfg(test)]
mod tests;
mod uac;
mod uas;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use self::core::{Core, CoreConfig, Refused};
pub use self::entry::TrunkCounts;
pub use refer::Referral;
pub use session::{MIN_SE, SessionTimer};
pub(in crate::sip) use state::contact_uri;
pub use state::{DialogState, Phase, Role};

use super::message::Message;
use super::transaction::{Flow, NextHop, TxId};
use crate::base::trunk::{Trunk, TrunkName};
use crate::base::{CallId, Pii};

/// Methods that we process, in an Allow header.
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, PRACK, NOTIFY";
/// Extensions that we know, in a Supported header.
pub const SUPPORTED: &str = "100rel, timer";
/// Bodies that we process, in an Accept header.
pub const ACCEPT: &str = "application/sdp";

/// How long an INVITE may stay without any response (RFC 3261 §17.2.1).
pub const TRYING: Duration = Duration::from_millis(200);
/// How long an incoming call may ring, an outgoing one may take: the three minutes of timer C.
pub const RING_LIMIT: Duration = Duration::from_secs(180);
/// How long the owner of a call may think about an offer before it is refused.
pub const OFFER_LIMIT: Duration = Duration::from_secs(5);

/// Why a call is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// We hung up.
    LocalHangup,
    /// The peer sent BYE.
    RemoteHangup,
    /// The caller gave up before the answer.
    Cancelled,
    /// Our 2xx was never acknowledged (timer H).
    NoAck,
    /// Our INVITE was refused; 408 and 503 may come from ourselves (nobody answered, nothing could be sent).
    Rejected {
        /// Status, 300-699.
        status: u16,
        /// Phrase of the status line.
        reason: String,
    },
    /// Nothing happened for too long: nobody answered the ringing, or the dialog was found broken.
    Timeout,
    /// The endpoint was shut down.
    Shutdown,
}

/// What a new INVITE says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Address of record of the caller, from From.
    pub from: Pii<String>,
    /// User part of the Request-URI: the number that was dialled.
    pub to_user: String,
    /// Where the INVITE came from.
    pub peer: SocketAddr,
    /// SDP offer; `None` asks us to offer in the answer.
    pub offer: Option<String>,
    /// Call-ID of SIP, for operators who compare traces.
    pub sip_call_id: Pii<String>,
    /// The trunk that it came through, where there are any.
    pub trunk: Option<Arc<Trunk>>,
}

/// What the owner of a call is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A new call rings.
    Incoming(Box<Invitation>),
    /// 1xx to our INVITE.
    Progress {
        /// 101-199.
        status: u16,
        /// Early media, if any.
        sdp: Option<String>,
    },
    /// 2xx to our INVITE, acknowledged.
    Answered {
        /// The answer to our offer.
        sdp: Option<String>,
    },
    /// ACK to our 2xx; its body answers a late offer. Also after a re-INVITE that had none, and after one of ours.
    Confirmed {
        /// The answer to our offer.
        answer: Option<String>,
    },
    /// re-INVITE, or UPDATE with SDP: reply with [`Command::AcceptOffer`] or [`Command::RefuseOffer`].
    Offer {
        /// The offer; none asks for ours, of all that we want now (RFC 6337 §5.3), and [`Notice::Confirmed`] answers it.
        sdp: Option<String>,
    },
    /// INFO, already answered 200.
    Info {
        /// Its Content-Type.
        content_type: String,
        /// Its body: digits of a caller are personal.
        body: Pii<Vec<u8>>,
    },
    /// Final status of a [`Command::Info`].
    Reply {
        /// Status.
        status: u16,
    },
    /// What becomes of a [`Command::Refer`].
    Referred(Referral),
    /// The call is over. Nothing follows.
    Ended(EndReason),
}

/// What the owner of a call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// 180.
    Ring,
    /// 200 with our SDP.
    Answer {
        /// Our answer, or our offer where the INVITE had none.
        sdp: String,
    },
    /// A final refusal.
    Reject {
        /// 300-699.
        status: u16,
        /// Phrase; the standard one is written on the wire.
        reason: String,
        /// Retry-After in seconds.
        retry_after: Option<u32>,
    },
    /// BYE or CANCEL, as the state demands.
    Hangup,
    /// 200 to the pending offer.
    AcceptOffer {
        /// Our answer, or our offer where theirs was none.
        sdp: String,
    },
    /// A final refusal of the pending offer; the session stays as it was.
    RefuseOffer {
        /// 488 as a rule.
        status: u16,
    },
    /// INFO within the dialog.
    Info {
        /// Its Content-Type.
        content_type: String,
        /// Its body.
        body: Pii<Vec<u8>>,
    },
    /// REFER: the peer is to call somebody else (RFC 3515).
    Refer {
        /// Refer-To: a URI, with Replaces for a call that is up (RFC 3891 §6.1).
        to: Pii<String>,
    },
}

/// An outgoing call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// Request-URI and To.
    pub to: Pii<String>,
    /// User part of From and Contact.
    pub from_user: String,
    /// Protocol, our address, the peer's.
    pub flow: Flow,
    /// Our offer.
    pub sdp: String,
    /// Host of From; none is our own address.
    pub from_host: Option<String>,
    /// The trunk whose password answers a challenge.
    pub trunk: Option<TrunkName>,
    /// Whose certificate the next hop has to show; none is that of the host of `to`.
    pub server_name: Option<String>,
    /// More headers of the INVITE: identity, diversion, referral.
    pub headers: Vec<(&'static str, Pii<String>)>,
}

/// A command does not fit the state of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The call is over, or was never there.
    #[error("the call is over")]
    Gone,
    /// Not now: answered already, no offer pending, not yet confirmed.
    #[error("the call is not in a state for this")]
    WrongState,
}

/// What has to be done.
#[derive(Debug)]
pub enum Action {
    /// Send a response.
    Respond {
        /// Server transaction.
        tx: TxId,
        /// Response.
        msg: Message,
    },
    /// Send a request in a new client transaction.
    Request {
        /// Its number.
        tx: TxId,
        /// Request, Via included.
        msg: Message,
        /// Where to.
        to: NextHop,
    },
    /// Send an ACK for a 2xx.
    Ack {
        /// ACK.
        msg: Message,
        /// Where to.
        to: NextHop,
    },
    /// Forget a transaction.
    Abandon {
        /// Which.
        tx: TxId,
    },
    /// The final response to a request that belongs to no call.
    Reply {
        /// Its client transaction.
        tx: TxId,
        /// The response; none if it ended without one.
        msg: Option<Message>,
    },
    /// Tell the owner.
    Notify {
        /// Which call.
        call: CallId,
        /// What.
        notice: Notice,
    },
}
