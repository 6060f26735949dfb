//! Handles of calls. Enters: what the endpoint's task reports; leaves: commands to it. A handle holds no state of its own
//! but the last snapshot; dropping it leaves the call the polite way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use super::dialog::{Command, DialogState, EndReason, Invitation, Notice, Referral};
use super::endpoint::Ask;
use crate::base::trunk::Trunk;
use crate::base::{CallId, Pii};

/// Events that wait for the owner of a call. Beyond it offers are refused and the rest is dropped; the end is never lost.
pub(super) const EVENTS: usize = 32;

/// What the endpoint's task and a handle share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<DialogState>,
    pub(super) ended: watch::Sender<Option<EndReason>>,
}

impl Shared {
    pub(super) fn new(state: DialogState) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), ended: watch::Sender::new(None) })
    }
}

/// The call is over; nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the call is over")]
pub struct CallGone;

#[derive(Debug)]
pub(super) struct Handle {
    pub(super) call: CallId,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) events: mpsc::Receiver<Box<Notice>>,
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    async fn command(&self, command: Command) -> Result<(), CallGone> {
        ask(&self.asks, self.call, command).await
    }

    fn state(&self) -> DialogState {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn peer(&self) -> SocketAddr {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).flow.peer
    }

    /// The next notice; at the end, the end, again and again.
    async fn next(&mut self) -> Notice {
        match self.events.recv().await {
            Some(notice) => *notice,
            None => Notice::Ended(self.end()),
        }
    }

    fn end(&self) -> EndReason {
        self.shared.ended.borrow().clone().unwrap_or(EndReason::Shutdown)
    }

    async fn ended(&self) -> EndReason {
        let mut ended = self.shared.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(EndReason::Shutdown),
            Err(_) => EndReason::Shutdown,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // If the queue is full, the endpoint's sweep finds the closed event channel.
        let _full = self.asks.try_send(Ask::Command { call: self.call, command: Command::Hangup, reply: None });
    }
}

async fn ask(asks: &mpsc::Sender<Ask>, call: CallId, command: Command) -> Result<(), CallGone> {
    let (reply, answer) = oneshot::channel();
    asks.send(Ask::Command { call, command, reply: Some(reply) }).await.map_err(|_| CallGone)?;
    answer.await.map_err(|_| CallGone)?.map_err(|_| CallGone)
}

/// A call that rings; 100 goes out after 200 ms without 180. Dropping it refuses the call with 480.
#[derive(Debug)]
pub struct IncomingCall {
    /// Our name for the call.
    pub id: CallId,
    /// Who calls: the URI of From, as the peer says.
    pub from: Pii<String>,
    /// The number that was dialled: user part of the Request-URI.
    pub to_user: String,
    /// Where the INVITE came from.
    pub peer: SocketAddr,
    /// SDP offer; `None` asks us to offer in the answer, and [`CallEvent::Confirmed`] brings theirs.
    pub offer: Option<String>,
    /// Call-ID, for operators who compare traces.
    pub sip_call_id: Pii<String>,
    /// The trunk that it came through, where there are any.
    pub trunk: Option<Arc<Trunk>>,
    handle: Handle,
}

impl IncomingCall {
    pub(super) fn new(invitation: Invitation, handle: Handle) -> Self {
        let Invitation { from, to_user, peer, offer, sip_call_id, trunk } = invitation;
        Self { id: handle.call, from, to_user, peer, offer, sip_call_id, trunk, handle }
    }

    /// Sends 180.
    ///
    /// # Errors
    /// [`CallGone`] if the caller has given up.
    pub async fn ringing(&self) -> Result<(), CallGone> {
        self.handle.command(Command::Ring).await
    }

    /// Sends 200 with our SDP and returns at once: the ACK comes as [`CallEvent::Confirmed`].
    ///
    /// # Errors
    /// [`CallGone`] if the caller has given up.
    pub async fn answer(self, sdp: String) -> Result<Call, CallGone> {
        self.handle.command(Command::Answer { sdp }).await?;
        Ok(Call { handle: self.handle })
    }

    /// Refuses the call, with Retry-After in seconds if given.
    ///
    /// # Errors
    /// [`CallGone`] if the caller has given up.
    pub async fn reject(self, status: u16, reason: &str, retry_after: Option<u32>) -> Result<(), CallGone> {
        self.handle.command(Command::Reject { status, reason: reason.to_owned(), retry_after }).await
    }

    /// The dialog so far as plain data, see [`Call::snapshot`].
    pub fn snapshot(&self) -> DialogState {
        self.handle.state()
    }

    /// Resolves when the caller has given up, or the call has ended otherwise. Cancel-safe.
    pub async fn cancelled(&self) -> EndReason {
        self.handle.ended().await
    }
}

/// What happens on a call.
#[derive(Debug)]
pub enum CallEvent {
    /// The ACK is there. `answer` is theirs where we have offered.
    Confirmed {
        /// SDP.
        answer: Option<String>,
    },
    /// The peer wants other media, or puts us on hold. Unanswered for five seconds, or dropped, it is refused.
    Offer {
        /// SDP; none asks for ours, which [`CallEvent::Confirmed`] answers.
        sdp: Option<String>,
        /// Answer with this.
        reply: OfferReply,
    },
    /// An INFO; answered already.
    Info {
        /// Its Content-Type.
        content_type: String,
        /// Its body.
        body: Pii<Vec<u8>>,
    },
    /// Final status of an INFO of ours.
    Reply {
        /// Status.
        status: u16,
    },
    /// What becomes of [`Call::refer`].
    Referred(Referral),
    /// The call is over; said again on every further question.
    Ended(EndReason),
}

/// The right to answer one offer.
#[derive(Debug)]
pub struct OfferReply {
    call: CallId,
    asks: mpsc::Sender<Ask>,
    open: bool,
}

impl OfferReply {
    /// 200 with our answer, or with our offer where theirs was none.
    ///
    /// # Errors
    /// [`CallGone`] if it is too late.
    pub async fn accept(mut self, sdp: String) -> Result<(), CallGone> {
        self.open = false;
        ask(&self.asks, self.call, Command::AcceptOffer { sdp }).await
    }

    /// Refuses the offer, usually with 488; the session stays as it was.
    ///
    /// # Errors
    /// [`CallGone`] if it is too late.
    pub async fn refuse(mut self, status: u16) -> Result<(), CallGone> {
        self.open = false;
        ask(&self.asks, self.call, Command::RefuseOffer { status }).await
    }
}

impl Drop for OfferReply {
    fn drop(&mut self) {
        if self.open {
            let command = Command::RefuseOffer { status: 488 };
            let _full = self.asks.try_send(Ask::Command { call: self.call, command, reply: None });
        }
    }
}

/// An established call, in either direction. Dropping it hangs up.
#[derive(Debug)]
pub struct Call {
    handle: Handle,
}

impl Call {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Our name for the call.
    pub fn id(&self) -> CallId {
        self.handle.call
    }

    /// The next event. Cancel-safe.
    pub async fn event(&mut self) -> CallEvent {
        loop {
            return match self.handle.next().await {
                Notice::Confirmed { answer } => CallEvent::Confirmed { answer },
                Notice::Offer { sdp } => {
                    let reply = OfferReply { call: self.handle.call, asks: self.handle.asks.clone(), open: true };
                    CallEvent::Offer { sdp, reply }
                }
                Notice::Info { content_type, body } => CallEvent::Info { content_type, body },
                Notice::Reply { status } => CallEvent::Reply { status },
                Notice::Referred(news) => CallEvent::Referred(news),
                Notice::Ended(reason) => CallEvent::Ended(reason),
                Notice::Incoming(_) | Notice::Progress { .. } | Notice::Answered { .. } => continue,
            };
        }
    }

    /// Sends INFO; its status comes as [`CallEvent::Reply`].
    ///
    /// # Errors
    /// [`CallGone`] if the call is over or not yet confirmed.
    pub async fn info(&self, content_type: &str, body: Vec<u8>) -> Result<(), CallGone> {
        self.handle.command(Command::Info { content_type: content_type.to_owned(), body: body.into() }).await
    }

    /// Asks the peer to call somebody else (RFC 3515); [`CallEvent::Referred`] tells what comes of it.
    ///
    /// # Errors
    /// [`CallGone`] if the call is over, not yet confirmed, or asked for this already.
    pub async fn refer(&self, to: Pii<String>) -> Result<(), CallGone> {
        self.handle.command(Command::Refer { to }).await
    }

    /// Ends the call: BYE, or what the state demands. [`CallEvent::Ended`] follows at once; the endpoint waits for the
    /// peer's response by itself.
    pub async fn hangup(&self) {
        // A call that is over already is hung up.
        drop(self.handle.command(Command::Hangup).await);
    }

    /// The dialog as plain data: keep it, and [`super::Endpoint::resume`] continues the call after a crash.
    pub fn snapshot(&self) -> DialogState {
        self.handle.state()
    }

    /// Where the signalling goes.
    pub fn peer(&self) -> SocketAddr {
        self.handle.peer()
    }
}

/// What becomes of a call of ours before it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// 101-199, perhaps with early media.
    Provisional {
        /// Status.
        status: u16,
        /// SDP.
        sdp: Option<String>,
    },
    /// Answered and acknowledged.
    Answered {
        /// The answer to our offer.
        sdp: Option<String>,
    },
    /// It will not be answered.
    Ended(EndReason),
}

/// A call of ours that is on its way. Dropping it cancels.
#[derive(Debug)]
pub struct OutgoingCall {
    handle: Handle,
}

impl OutgoingCall {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Our name for the call.
    pub fn id(&self) -> CallId {
        self.handle.call
    }

    /// The next piece of news. Cancel-safe.
    pub async fn progress(&mut self) -> Progress {
        loop {
            return match self.handle.next().await {
                Notice::Progress { status, sdp } => Progress::Provisional { status, sdp },
                Notice::Answered { sdp } => Progress::Answered { sdp },
                Notice::Ended(reason) => Progress::Ended(reason),
                _ => continue,
            };
        }
    }

    /// The call, after [`Progress::Answered`]; before it, hanging up cancels.
    pub fn into_call(self) -> Call {
        Call { handle: self.handle }
    }

    /// Waits for the answer and drops provisional news.
    ///
    /// # Errors
    /// Why there is none, with status and phrase where the peer gave them.
    pub async fn answered(mut self) -> Result<(Call, Option<String>), EndReason> {
        loop {
            match self.progress().await {
                Progress::Provisional { .. } => {}
                Progress::Answered { sdp } => return Ok((self.into_call(), sdp)),
                Progress::Ended(reason) => return Err(reason),
            }
        }
    }

    /// CANCEL.
    pub async fn cancel(self) {
        drop(self.handle.command(Command::Hangup).await);
    }
}
