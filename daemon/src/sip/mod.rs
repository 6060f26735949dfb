//! SIP signalling. Enters: datagrams and streams of peers, wishes of the room `call`; leaves: calls with their offers,
//! and what becomes of them. From the wire inwards: `admission` (who may talk), `message` (what was said), `transaction`
//! (was it said before), `dialog` (what does it mean for which call; sans-IO), `endpoint` and `handle` (async handles).
//! Media is none of our business but for `sdp`, which says where it goes. What never happens here: a queue without a
//! bound, a task or an entry that outlives its call, a caller's number in a log line.

pub mod admission;
mod bucket;
pub mod dialog;
pub mod digest;
mod endpoint;
mod handle;
pub mod info;
pub mod message;
mod offences;
pub mod outbound;
mod reason;
pub mod sdp;
mod tls;
mod trace;
mod traffic;
pub mod transaction;
pub mod uri;

#[cfg(test)]
mod tests;

pub use admission::Limits;
pub use dialog::{DialogState, EndReason, Phase, Referral, Refused, Role};
pub use endpoint::{DialRequest, Endpoint, EndpointConfig, SipError, Stats, TrunkStats};
pub use handle::{Call, CallEvent, CallGone, IncomingCall, OfferReply, OutgoingCall, Progress};
pub use offences::Offence;
pub use tls::{ClientCertificates, Tls, TlsError, TlsFiles, web_server};
pub use trace::Seen;
pub use traffic::Traffic;
pub use transaction::{Timers, Transport};
