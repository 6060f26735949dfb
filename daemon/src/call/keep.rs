//! What of a call outlives the daemon: its sockets and its state, with the service manager.
//!
//! Enters: a call's parts at every change; at the start of a daemon, what the one before has left. Leaves: descriptors
//! with the manager, named `call-ID-rtp`, `call-ID-rtcp`, `call-ID-state`; calls to go on with. Words and numbers of
//! callers are in memory only. Without a manager nothing is kept.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::hearing::Hearing;
use super::stream::Stream;
use crate::base::{CallId, Clock, Pii};
use crate::dialogue;
use crate::media::srtp::Progress;
use crate::media::{self, Reservation, SessionParameters};
use crate::service::{Inherited, Service, Slots};
use crate::sip::{DialogState, Phase};
use crate::storage::{CallRecord, Direction, MediaStats, Timestamp};

/// Of the format below: a daemon goes on only with what it understands.
const VERSION: u32 = 2;
/// Beginning of all names.
const PREFIX: &str = "call-";
/// While the agent speaks, so old may be what is kept of how much was heard.
const SPEAKING: Duration = Duration::from_millis(200);
/// While nothing changes: the packets counted, and the place in the stream.
const QUIET: Duration = Duration::from_secs(5);
/// Packets by which the sequence is ahead of what was sent at most.
const SEQUENCE_AHEAD: u16 = 8;
/// Reports by which their index is ahead of what was sent at most.
const REPORTS_AHEAD: u32 = 16;
/// Requests of ours of which nobody knows whether they were sent.
const CSEQ_AHEAD: u32 = 16;

/// A call as it is kept. Prints nothing.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptCall {
    version: u32,
    #[serde(default = "inbound")]
    direction: Direction,
    agent: String,
    from: Pii<String>,
    to: Pii<String>,
    codec: String,
    started_us: i64,
    answered_us: Option<i64>,
    /// The machine's uptime when it began.
    pub(super) began: Duration,
    pub(super) turns: u32,
    pub(super) media: MediaStats,
    pub(super) dialog: DialogState,
    pub(super) stream: Stream,
    /// None while the caller has yet to answer our offer.
    session: Option<SessionParameters>,
    /// Sequence number and timestamp that were due at this uptime.
    next: (u16, u32, Duration),
    /// How often that sequence number has wrapped, and what else encryption goes on with.
    #[serde(default)]
    roll_over: u32,
    #[serde(default)]
    progress: Progress,
    pub(super) target: Option<SocketAddr>,
    /// None before the first word.
    pub(super) dialogue: Option<dialogue::Kept>,
    /// The frame of the caller from which on the next engine has to hear.
    pub(super) hear_from: u64,
    /// Whom the caller was joined to.
    #[serde(default)]
    pub(super) leg: Option<Box<KeptCall>>,
    /// How it has ended; kept until that is recorded.
    pub(super) over: Option<Over>,
    /// The machine's uptime when this was written.
    written: Duration,
}

const fn inbound() -> Direction {
    Direction::Inbound
}

/// The end of a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Over {
    pub(super) reason: String,
    /// Microseconds since 1970.
    pub(super) ended_us: i64,
    /// We hung up: the caller may not have heard of it.
    pub(super) by_us: bool,
}

/// The parts of a call that change.
pub(super) struct Parts<'a> {
    pub(super) record: &'a CallRecord,
    pub(super) began: Duration,
    pub(super) turns: u32,
    pub(super) media: MediaStats,
    pub(super) dialog: DialogState,
    pub(super) stream: &'a Stream,
    pub(super) session: Option<&'a SessionParameters>,
    pub(super) stats: &'a media::SessionStats,
    pub(super) dialogue: Option<dialogue::Kept>,
    pub(super) hear_from: u64,
    pub(super) leg: Option<Box<KeptCall>>,
    pub(super) over: Option<Over>,
}

impl KeptCall {
    pub(super) fn new(parts: Parts<'_>, clock: &dyn Clock) -> Self {
        let Parts { record, began, turns, media, dialog, stream, session, stats, dialogue, hear_from, leg, over } =
            parts;
        let (now, uptime) = (clock.now(), clock.uptime());
        let first = session.map_or((0, 0), |session| (session.sequence, session.timestamp));
        let (sequence, timestamp, due) = stats.next.unwrap_or((first.0, first.1, now));
        let due = (uptime + due.saturating_duration_since(now)).saturating_sub(now.saturating_duration_since(due));
        Self {
            version: VERSION,
            direction: record.direction,
            agent: record.agent.clone(),
            from: record.from.clone(),
            to: record.to.clone(),
            codec: record.codec.clone(),
            started_us: record.started.0,
            answered_us: record.answered.map(|at| at.0),
            began,
            turns,
            media,
            dialog,
            stream: stream.clone(),
            session: session.cloned(),
            next: (sequence, timestamp, due),
            roll_over: if stats.next.is_some() { stats.roll_over } else { 0 },
            progress: stats.progress,
            target: stats.target,
            dialogue,
            hear_from,
            leg,
            over,
            written: uptime,
        }
    }

    pub(super) fn record(&self) -> CallRecord {
        CallRecord {
            id: self.dialog.call,
            agent: self.agent.clone(),
            direction: self.direction,
            from: self.from.clone(),
            to: self.to.clone(),
            codec: self.codec.clone(),
            started: Timestamp(self.started_us),
            answered: self.answered_us.map(Timestamp),
            ended: None,
            end_reason: None,
            turns: self.turns,
            media: self.media,
        }
    }

    /// The dialog, ahead of every request that the daemon before may have sent.
    pub(super) fn dialog(&self) -> DialogState {
        let mut dialog = self.dialog.clone();
        dialog.local_cseq = dialog.local_cseq.saturating_add(CSEQ_AHEAD);
        if self.over.is_some() {
            // A BYE of ours that nobody may have heard is sent again.
            dialog.phase = Phase::Confirmed;
        }
        dialog
    }

    /// The stream goes on where it would be now: a gap for the far end, and no packet twice. None if there is none yet.
    pub(super) fn session(&self, uptime: Duration) -> Option<SessionParameters> {
        let session = self.session.clone()?;
        let (sequence, timestamp, due) = self.next;
        let frames = uptime.saturating_sub(due).as_micros() / media::FRAME_TIME.as_micros() + 1;
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        // Packets of 10 ms are two in a frame, and no number may come twice under one key.
        let packets = u64::from(frames) * 2 + u64::from(SEQUENCE_AHEAD);
        let index = (u64::from(self.roll_over) << 16 | u64::from(sequence)).wrapping_add(packets);
        #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap")]
        let (sequence, roll_over) = (index as u16, (index >> 16) as u32);
        let progress = Progress { rtcp: self.progress.rtcp.wrapping_add(REPORTS_AHEAD), ..self.progress };
        let timestamp = timestamp.wrapping_add(frames.wrapping_mul(session.codec.clock() / 50));
        Some(SessionParameters { sequence, timestamp, roll_over, progress, ..session })
    }

    /// How long the call was without a daemon, as far as is known.
    pub(super) fn gap(&self, uptime: Duration) -> Duration {
        uptime.saturating_sub(self.written)
    }
}

/// A call's place with the manager; dropping it takes everything back.
pub(super) struct Keep {
    service: Service,
    id: CallId,
    slots: Slots,
    written: Option<Instant>,
    /// Not while a daemon that starts may still fail: the next one then finds everything.
    ours: bool,
}

impl Keep {
    /// Gives the sockets and an empty state to the manager; none if there is no manager, or no descriptor left.
    pub(super) fn begin(service: &Service, id: CallId, sockets: &Reservation) -> Option<Self> {
        if !service.is_present() {
            return None;
        }
        let stored = || -> io::Result<Slots> {
            let slots = Slots::create(&name(id, "state"))?;
            let [rtp, rtcp] = sockets.descriptors()?;
            service.store(name(id, "rtp"), rtp);
            service.store(name(id, "rtcp"), rtcp);
            service.store(name(id, "state"), slots.descriptor()?);
            Ok(slots)
        };
        match stored() {
            Ok(slots) => Some(Self { service: service.clone(), id, slots, written: None, ours: true }),
            Err(error) => {
                tracing::warn!(%error, "this call would not outlive the daemon");
                None
            }
        }
    }

    /// The sockets of somebody whom the caller was joined to; they go with the call.
    pub(super) fn store_leg(&self, [rtp, rtcp]: [OwnedFd; 2]) {
        self.service.store(name(self.id, "leg-rtp"), rtp);
        self.service.store(name(self.id, "leg-rtcp"), rtcp);
    }

    /// What the caller says, kept beside the state.
    pub(super) fn hearing(&self, from: u64) -> Hearing {
        Hearing::new(Some(&self.slots), from)
    }

    /// This daemon goes on with the call.
    pub(super) fn take(&mut self) {
        self.ours = true;
    }

    /// Work begins: if the daemon dies from now on, this call may be why.
    pub(super) fn enter(&self) {
        self.slots.enter();
    }

    /// Work is done.
    pub(super) fn leave(&self) {
        self.slots.leave();
    }

    /// Whether it is time to write again, if nothing has changed but the time.
    pub(super) fn is_due(&self, speaking: bool, now: Instant) -> bool {
        let most = if speaking { SPEAKING } else { QUIET };
        self.written.is_none_or(|written| now.saturating_duration_since(written) >= most)
    }

    pub(super) fn write(&mut self, call: &KeptCall, now: Instant) {
        self.written = Some(now);
        let written = serde_json::to_vec(call).map_err(io::Error::from).and_then(|bytes| self.slots.write(&bytes));
        if let Err(error) = written {
            tracing::warn!(%error, "the state of this call cannot be kept; an older one is");
        }
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        if self.ours {
            forget(&self.service, self.id);
        }
    }
}

fn name(id: CallId, what: &str) -> String {
    format!("{PREFIX}{id}-{what}")
}

fn forget(service: &Service, id: CallId) {
    for what in ["rtp", "rtcp", "leg-rtp", "leg-rtcp", "state"] {
        service.remove(name(id, what));
    }
}

/// A call that an earlier daemon has left.
pub struct Left {
    pub(super) call: KeptCall,
    pub(super) keep: Keep,
    pub(super) rtp: OwnedFd,
    pub(super) rtcp: OwnedFd,
    /// Those of whom the caller was joined to.
    pub(super) leg: Option<[OwnedFd; 2]>,
    /// Daemons in a row that died at work with it.
    pub(super) crashes: u8,
}

impl Left {
    /// Its dialogs, for [`crate::sip::Endpoint::resume`]: that with the caller, unless they have ended it, and that with
    /// whom they were joined to.
    pub fn dialogs(&self) -> impl Iterator<Item = DialogState> {
        let caller = self.call.over.as_ref().is_none_or(|over| over.by_us).then(|| self.call.dialog());
        caller.into_iter().chain(self.call.leg.as_ref().map(|leg| leg.dialog()))
    }
}

/// Calls that an earlier daemon has left; the manager forgets what makes no whole call. Those that daemons died of come
/// last.
#[must_use]
pub fn left(service: &Service, inherited: &mut Inherited) -> Vec<Left> {
    let mut found: HashMap<CallId, HashMap<String, OwnedFd>> = HashMap::new();
    for (name, descriptor) in inherited.beginning(PREFIX) {
        let parts = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
        match parts.and_then(|(id, what)| Some((id.parse().ok()?, what))) {
            Some((id, what)) => drop(found.entry(id).or_default().insert(what.to_owned(), descriptor)),
            None => service.remove(name),
        }
    }
    let mut left = Vec::new();
    for (id, mut parts) in found {
        let mut take = |what| parts.remove(what);
        let whole = match (take("rtp"), take("rtcp"), take("state")) {
            (Some(rtp), Some(rtcp), Some(state)) => {
                let leg = take("leg-rtp").zip(take("leg-rtcp")).map(|(rtp, rtcp)| [rtp, rtcp]);
                open(service, id, [rtp, rtcp], leg, state)
            }
            _ => Err("a descriptor is missing".to_owned()),
        };
        match whole {
            Ok(call) => left.push(call),
            Err(why) => {
                tracing::warn!(call = %id, why, "a call of an earlier daemon cannot go on");
                forget(service, id);
            }
        }
    }
    left.sort_by_key(|call| call.crashes);
    left
}

fn open(
    service: &Service,
    id: CallId,
    [rtp, rtcp]: [OwnedFd; 2],
    leg: Option<[OwnedFd; 2]>,
    state: OwnedFd,
) -> Result<Left, String> {
    let (slots, bytes) = Slots::open(state).map_err(|error| error.to_string())?;
    let call: KeptCall = serde_json::from_slice(&bytes).map_err(|_| "its state is not understood".to_owned())?;
    if call.version != VERSION || call.dialog.call != id {
        return Err(format!("its state has version {}, this daemon knows {VERSION}", call.version));
    }
    let crashes = slots.take_over();
    let keep = Keep { service: service.clone(), id, slots, written: None, ours: false };
    Ok(Left { call, keep, rtp, rtcp, leg, crashes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ManualClock;
    use crate::call::stream::MediaPolicy;
    use crate::call::stream::StreamNames;
    use crate::media::Codec;
    use crate::sip::{Role, Transport};

    fn kept(clock: &ManualClock) -> KeptCall {
        let here = ([127, 0, 0, 1], 4000).into();
        let flow = crate::sip::transaction::Flow { transport: Transport::Udp, local: here, peer: here };
        let text = |text: &str| Pii::new(text.to_owned());
        let dialog = DialogState {
            call: CallId(7),
            role: Role::Uas,
            phase: Phase::Confirmed,
            call_id: text("a"),
            local_tag: "b".into(),
            remote_tag: "c".into(),
            local: text("<sip:desk@example>"),
            remote: text("<sip:caller@example>"),
            remote_target: text("sip:caller@example"),
            route_set: Pii::new(Vec::new()),
            local_cseq: 1,
            remote_cseq: Some(2),
            invite_cseq: 1,
            flow,
            contact: "sip:callbox@example".into(),
            local_sdp: None,
            session: None,
            peer_updates: false,
            trunk: None,
            server_name: None,
            invite: None,
        };
        let session = SessionParameters { sequence: 100, timestamp: 1000, ..SessionParameters::new(Codec::Pcmu, here) };
        let record = CallRecord {
            id: CallId(7),
            agent: "desk".into(),
            direction: Direction::Inbound,
            from: text("caller"),
            to: text("desk"),
            codec: "PCMU".into(),
            started: Timestamp(5),
            answered: None,
            ended: None,
            end_reason: None,
            turns: 0,
            media: MediaStats::default(),
        };
        let parts = Parts {
            record: &record,
            began: Duration::from_secs(50),
            turns: 3,
            media: MediaStats { packets_out: 9, ..MediaStats::default() },
            dialog,
            stream: &Stream::new(here, StreamNames::draw(|| 1), Duration::ZERO, &MediaPolicy::default()),
            session: Some(&session),
            stats: &media::SessionStats {
                next: Some((u16::MAX - 2, 8000, clock.now() + media::FRAME_TIME)),
                roll_over: 4,
                ..media::SessionStats::default()
            },
            dialogue: None,
            hear_from: 0,
            leg: None,
            over: None,
        };
        KeptCall::new(parts, clock)
    }

    #[test]
    fn the_stream_and_the_dialog_are_ahead_of_what_was_sent() {
        let clock = ManualClock::default();
        clock.advance(Duration::from_secs(60));
        let bytes = serde_json::to_vec(&kept(&clock)).expect("plain data");
        clock.advance(Duration::from_millis(320));
        let kept: KeptCall = serde_json::from_slice(&bytes).expect("what was written");
        // 300 ms after the packet that was due next: fifteen frames later, and one more for the one that is under way.
        let session = kept.session(clock.uptime()).expect("agreed on");
        assert_eq!(session.sequence, (u16::MAX - 2).wrapping_add(32 + SEQUENCE_AHEAD));
        assert_eq!(session.roll_over, 5, "the number has wrapped meanwhile");
        assert_eq!((session.timestamp, session.ssrc), (8000 + 16 * 160, 1));
        assert_eq!(kept.dialog().local_cseq, 1 + CSEQ_AHEAD);
        assert_eq!(kept.gap(clock.uptime()), Duration::from_millis(320));
        let over = Over { reason: "agent_hangup".into(), ended_us: 9, by_us: true };
        let dialog = DialogState { phase: Phase::Terminating, ..kept.dialog() };
        let over = KeptCall { dialog, over: Some(over), ..serde_json::from_slice(&bytes).expect("what was written") };
        assert_eq!(over.dialog().phase, Phase::Confirmed, "BYE can be sent again");
        let record = kept.record();
        assert_eq!((record.turns, record.media.packets_out, record.from.reveal().as_str()), (3, 9, "caller"));
    }
}
