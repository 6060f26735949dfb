//! Handing a caller over: by asking their side to do it (REFER), or by a second leg that the box joins to theirs.
//!
//! Enters: a target of the agent, what both legs report. Leaves: REFER, a call out, audio from each to the other; the
//! caller, if nobody was reached. Never here: what the caller is told about it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::conversation::{Media, until};
use super::exchange::{Exchange, media_stats};
use super::keep::{KeptCall, Parts};
use super::outgoing::{NotReached, Ringing};
use super::stream::Stream;
use crate::base::trunk::CallerId;
use crate::base::{ClauseId, Clock, Pii, TurnId};
use crate::control::LiveEntry;
use crate::dialogue::{How, Transfer, Unreached};
use crate::media::{self, FRAME, MediaSession, PlayFrame, RATE, SessionParameters};
use crate::sip::outbound::Order;
use crate::sip::uri::Uri;
use crate::sip::{self, CallEvent, DialogState, EndReason, Progress, Referral};
use crate::storage::{CallRecord, Direction};

/// How long a REFER may stay without any news.
const REFER_LIMIT: Duration = Duration::from_secs(60);
/// How long a side that has taken a caller over has to hang up itself (RFC 5589 §6.1).
const HANG_UP: Duration = Duration::from_millis(500);
/// Why such a call has ended.
pub(super) const TRANSFERRED: &str = "transferred";
/// Frames that wait in the playout of a leg: the clocks of the two sides differ, so more are dropped.
const IN_PLAYOUT: usize = 4;

/// The other side of a caller who was joined to somebody.
pub(super) struct Leg {
    pub(super) sip: sip::Call,
    pub(super) session: MediaSession,
    pub(super) stream: Stream,
    pub(super) parameters: SessionParameters,
    pub(super) record: CallRecord,
    /// The machine's uptime when it was placed.
    pub(super) began: Duration,
    live: LiveEntry,
    /// RTP and RTCP, for whoever keeps them beyond this process.
    sockets: Option<[OwnedFd; 2]>,
}

/// Where the handing over is.
pub(super) enum Handover {
    /// Their side was asked to do it.
    Referring { target: Box<Transfer>, asked: Asked, deadline: Instant },
    /// It rings there.
    Ringing { target: Box<Transfer>, ringing: Box<Ringing>, early: Option<Box<Early>>, deadline: Instant, tone: Tone },
    /// The two are joined.
    Joined { leg: Box<Leg> },
}

/// How far a REFER is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Sent,
    /// They will try.
    Accepted,
    /// They have done it, and hang up; if not, we do.
    Done,
}

/// What happened to it.
pub(super) enum Happening {
    Progress(Progress),
    Leg(CallEvent),
    Audio,
    Late,
}

/// What becomes of the caller.
pub(super) enum Fate {
    /// Nothing new.
    Away,
    /// Back with the agent.
    Back(Unreached),
    /// Not ours any more: the call is over, for this reason.
    Gone(&'static str),
}

impl Handover {
    /// The next thing that happens; nothing ever while there is no handover.
    pub(super) async fn next(this: &mut Option<Self>) -> Happening {
        match this {
            None => std::future::pending().await,
            // In a box: this is a part of every call's task, and most calls never need it.
            Some(handover) => Box::pin(handover.happening()).await,
        }
    }

    async fn happening(&mut self) -> Happening {
        match self {
            Self::Referring { deadline, .. } => {
                sleep_until((*deadline).into()).await;
                Happening::Late
            }
            Self::Ringing { ringing, early, deadline, .. } => {
                let audio = async {
                    match early {
                        Some(early) => early.session.readable().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    news = ringing.dialling.progress() => Happening::Progress(news),
                    () = audio => Happening::Audio,
                    () = until(Some(*deadline)) => Happening::Late,
                }
            }
            Self::Joined { leg } => tokio::select! {
                event = leg.sip.event() => Happening::Leg(event),
                () = leg.session.readable() => Happening::Audio,
            },
        }
    }

    /// Frames of the other side, for the caller; whether there still is another side.
    pub(super) fn pass_to(&mut self, caller: &mut MediaSession) -> Media {
        match self {
            Self::Referring { .. } => {}
            // A line that rings may well be silent.
            Self::Ringing { early: Some(early), .. } => pass(&mut early.session, caller, |_| {}),
            Self::Ringing { tone, .. } => {
                while caller.queued() < IN_PLAYOUT {
                    if caller.push(frame(tone.next())).is_err() {
                        break;
                    }
                }
            }
            Self::Joined { leg } => {
                let mut silent = false;
                pass(&mut leg.session, caller, |since| {
                    silent |= leg.stream.silence_is_end();
                    tracing::warn!(seconds = since.as_secs(), "no audio arrives from whom the caller was joined to");
                });
                if silent || !leg.session.is_alive() {
                    return Media::Gone;
                }
            }
        }
        Media::Flows
    }

    /// A frame of the caller, for the other side.
    pub(super) fn take_from(&mut self, samples: media::Samples) {
        if let Self::Joined { leg } = self
            && leg.session.queued() < IN_PLAYOUT
        {
            // A frame too many is the difference of two clocks.
            let _full = leg.session.push(frame(samples));
        }
    }

    /// Whether a caller who hangs up now is with somebody else.
    pub(super) const fn is_taken(&self) -> bool {
        matches!(self, Self::Joined { .. } | Self::Referring { asked: Asked::Accepted | Asked::Done, .. })
    }

    /// The other side, if there is one; what only rings is cancelled as it is dropped.
    pub(super) fn into_leg(self) -> Option<Leg> {
        match self {
            Self::Joined { leg } => Some(*leg),
            _ => None,
        }
    }

    /// A key of the caller's; false if it is for the agent.
    pub(super) fn press(&mut self, key: char) -> bool {
        let Self::Joined { leg } = self else { return false };
        press(&mut leg.session, key);
        true
    }

    /// What outlives the daemon of it.
    pub(super) fn kept(&self, clock: &dyn Clock) -> Option<Box<KeptCall>> {
        let Self::Joined { leg } = self else { return None };
        let stats = leg.session.stats();
        let parts = Parts {
            record: &leg.record,
            began: leg.began,
            turns: 0,
            media: media_stats(leg.record.media, &stats),
            dialog: leg.sip.snapshot(),
            stream: &leg.stream,
            session: Some(&leg.parameters),
            stats: &stats,
            dialogue: None,
            hear_from: 0,
            leg: None,
            over: None,
        };
        Some(Box::new(KeptCall::new(parts, clock)))
    }
}

fn frame(samples: media::Samples) -> PlayFrame {
    PlayFrame { turn: TurnId(u32::MAX), clause: ClauseId(0), samples }
}

fn pass(from: &mut MediaSession, to: &mut MediaSession, mut silence: impl FnMut(Duration)) {
    while let Some(heard) = from.recv() {
        if to.queued() < IN_PLAYOUT {
            let _full = to.push(frame(heard.samples));
        }
    }
    for event in from.events() {
        match event {
            // Menus behind a transfer want it.
            media::Event::Dtmf { digit, .. } => press(to, *digit.reveal()),
            media::Event::Silence { since } => silence(since),
            _ => {}
        }
    }
}

fn press(session: &mut MediaSession, key: char) {
    let sent = media::Keys::parse(key.encode_utf8(&mut [0; 4])).map(|keys| session.press(keys));
    if !matches!(sent, Some(Ok(()))) {
        tracing::debug!("a key was not passed on");
    }
}

/// Begins to hand a caller over.
pub(super) async fn begin(
    exchange: &Exchange,
    caller: &sip::Call,
    target: &Transfer,
    record: &CallRecord,
) -> Result<Handover, Unreached> {
    let now = exchange.clock.now();
    if target.how == How::Blind {
        let to = refer_to(&caller.snapshot(), target.to.as_str());
        if caller.refer(to).await.is_ok() {
            tracing::info!(target = target.name.as_str(), "the caller's side is asked to transfer them");
            let target = Box::new(target.clone());
            return Ok(Handover::Referring { target, asked: Asked::Sent, deadline: now + REFER_LIMIT });
        }
    }
    ring(exchange, caller, target, record).await
}

/// Calls the target.
async fn ring(
    exchange: &Exchange,
    caller: &sip::Call,
    target: &Transfer,
    record: &CallRecord,
) -> Result<Handover, Unreached> {
    let dialog = caller.snapshot();
    let trunk = match &target.trunk {
        Some(name) => Some(name.parse().map_err(|_| Unreached::Failed)?),
        // Where they came from, if calls can go out there.
        None => dialog.trunk.clone().filter(|name| exchange.lines.leads_out(name)),
    };
    let to = Pii::new(target.to.as_str().to_owned());
    let order = Order { to, trunk, on_behalf: on_behalf(record), ..Order::default() };
    let ringing = exchange.ring(order, &record.agent).await.map_err(|error| {
        tracing::warn!(target = target.name.as_str(), %error, "a transfer cannot be made");
        error.unreached()
    })?;
    tracing::info!(target = target.name.as_str(), trunk = %ringing.dialling.trunk(), "the target of a transfer is called");
    let deadline = exchange.clock.now() + target.ring_ms.get();
    let target = Box::new(target.clone());
    Ok(Handover::Ringing { target, ringing: Box::new(ringing), early: None, deadline, tone: Tone::default() })
}

/// Takes what has happened; comes back with what becomes of the caller.
pub(super) async fn happened(
    exchange: &Arc<Exchange>,
    handover: &mut Option<Handover>,
    caller: &sip::Call,
    happening: Happening,
) -> Fate {
    match (handover.take(), happening) {
        (Some(Handover::Referring { asked: Asked::Done, .. }), Happening::Late) => Fate::Gone(TRANSFERRED),
        (Some(Handover::Referring { .. }), Happening::Late) => Fate::Back(Unreached::Failed),
        (Some(Handover::Ringing { ringing, .. }), Happening::Late) => {
            ringing.dialling.cancel().await;
            Fate::Back(Unreached::NoAnswer)
        }
        (Some(Handover::Ringing { target, mut ringing, mut early, deadline, tone }), Happening::Progress(news)) => {
            match news {
                Progress::Provisional { sdp: Some(sdp), .. } if early.is_none() => {
                    // What the network says before anybody answers: ringing, or why nobody will.
                    early = open(exchange, &mut ringing, &sdp).map(Box::new);
                }
                Progress::Provisional { .. } => {}
                Progress::Ended(reason) => return Fate::Back(NotReached::from_end(&reason).unreached()),
                Progress::Answered { sdp } => {
                    return join(exchange, handover, caller, *ringing, early, sdp, &target).await;
                }
            }
            *handover = Some(Handover::Ringing { target, ringing, early, deadline, tone });
            Fate::Away
        }
        (Some(Handover::Joined { mut leg }), Happening::Leg(event)) => {
            let fate = leg_says(&mut leg, event).await;
            *handover = Some(Handover::Joined { leg });
            fate
        }
        (other, _) => {
            *handover = other;
            Fate::Away
        }
    }
}

/// Audio of a leg, perhaps before anybody has answered there.
pub(super) struct Early {
    session: MediaSession,
    parameters: SessionParameters,
    sockets: Option<[OwnedFd; 2]>,
}

fn open(exchange: &Exchange, ringing: &mut Ringing, sdp: &str) -> Option<Early> {
    let agreed = ringing
        .stream
        .answered(sdp)
        .inspect_err(|error| tracing::info!(%error, "audio of a leg cannot be used"))
        .ok()?;
    agreed.codec.clone_into(&mut ringing.record.codec);
    let reservation = ringing.reservation.take()?;
    let sockets = exchange.service.is_present().then(|| reservation.descriptors().ok()).flatten();
    let session = exchange.media.open(reservation, agreed.session.clone());
    let session = session.inspect_err(|error| tracing::error!(%error, "a leg has no media")).ok()?;
    Some(Early { session, parameters: agreed.session, sockets })
}

async fn join(
    exchange: &Arc<Exchange>,
    handover: &mut Option<Handover>,
    caller: &sip::Call,
    mut ringing: Ringing,
    early: Option<Box<Early>>,
    sdp: Option<String>,
    target: &Transfer,
) -> Fate {
    let opened = match (sdp, early) {
        (Some(sdp), Some(mut early)) => ringing.stream.answered(&sdp).ok().and_then(|agreed| {
            agreed.codec.clone_into(&mut ringing.record.codec);
            early.parameters = agreed.session;
            early.session.update(early.parameters.clone()).ok()?;
            Some(*early)
        }),
        (Some(sdp), None) => open(exchange, &mut ringing, &sdp),
        (None, _) => None,
    };
    let Ringing { dialling, stream, mut record, began, .. } = ringing;
    let sip = dialling.into_call();
    let Some(Early { session, parameters, sockets }) = opened else {
        sip.hangup().await;
        return Fate::Back(Unreached::Failed);
    };
    record.id = sip.id();
    record.answered = Some(exchange.present(&record, began));
    exchange.record(record.clone());
    tracing::info!(leg = %record.id, codec = record.codec, "the caller is joined to the target of the transfer");
    let live = exchange.list(&record);
    let leg = Leg { sip, session, stream, parameters, record, began, live, sockets };
    // If both came the same way, that side can join them without us.
    let (ours, theirs) = (caller.snapshot(), leg.sip.snapshot());
    if target.how == How::Attended && ours.flow.peer.ip() == theirs.flow.peer.ip() {
        // If it does not want to, the two stay joined here.
        let _kept = caller.refer(refer_to_leg(&theirs)).await;
    }
    *handover = Some(Handover::Joined { leg: Box::new(leg) });
    Fate::Away
}

async fn leg_says(leg: &mut Leg, event: CallEvent) -> Fate {
    match event {
        CallEvent::Ended(_) => return Fate::Gone(TRANSFERRED),
        CallEvent::Offer { sdp, reply } => {
            let replied = match sdp.map(|sdp| leg.stream.answer(&sdp)) {
                None => reply.accept(leg.stream.offer()).await,
                Some(Ok((answer, agreed))) => {
                    leg.update(agreed.session);
                    reply.accept(answer).await
                }
                Some(Err(error)) => reply.refuse(error.status()).await,
            };
            if replied.is_err() {
                tracing::debug!("a leg ended while its media was to be changed");
            }
        }
        CallEvent::Confirmed { answer: Some(sdp) } => {
            if let Ok(agreed) = leg.stream.answered(&sdp) {
                leg.update(agreed.session);
            }
        }
        _ => {}
    }
    Fate::Away
}

impl Leg {
    /// One that outlived a daemon.
    pub(super) fn resume(
        sip: sip::Call,
        session: MediaSession,
        parameters: SessionParameters,
        kept: &KeptCall,
        exchange: &Exchange,
    ) -> Self {
        let (stream, record, began) = (kept.stream.clone(), kept.record(), kept.began);
        let live = exchange.list(&record);
        Self { sip, session, stream, parameters, record, began, live, sockets: None }
    }

    /// Its sockets, once, for whoever keeps them.
    pub(super) fn take_sockets(&mut self) -> Option<[OwnedFd; 2]> {
        self.sockets.take()
    }

    fn update(&mut self, parameters: SessionParameters) {
        self.parameters = parameters;
        if self.session.update(self.parameters.clone()).is_err() {
            tracing::error!("the media thread does not take changes; this one was lost");
        }
    }

    /// Hangs up, if that is not done, and records the end.
    pub(super) async fn end(self, exchange: &Exchange) {
        self.sip.hangup().await;
        let mut record = self.record;
        record.media = media_stats(record.media, &self.session.stats());
        record.ended = Some(exchange.present(&record, self.began));
        record.end_reason = Some(TRANSFERRED.to_owned());
        self.live.ends(TRANSFERRED);
        drop(self.live);
        exchange.record_end(record, None).await;
    }
}

/// News of a REFER of ours.
pub(super) async fn referred(
    exchange: &Exchange,
    handover: &mut Option<Handover>,
    caller: &sip::Call,
    news: Referral,
    record: &CallRecord,
) -> Fate {
    match (handover.take(), news) {
        (Some(Handover::Referring { target, .. }), Referral::Refused(status)) => {
            tracing::info!(status, "the caller's side does not transfer; the box calls itself");
            match ring(exchange, caller, &target, record).await {
                Ok(ringing) => {
                    *handover = Some(ringing);
                    Fate::Away
                }
                Err(why) => Fate::Back(why),
            }
        }
        (Some(Handover::Referring { target, .. }), Referral::Accepted | Referral::Progress(_)) => {
            let deadline = exchange.clock.now() + REFER_LIMIT + target.ring_ms.get();
            *handover = Some(Handover::Referring { target, asked: Asked::Accepted, deadline });
            Fate::Away
        }
        (Some(Handover::Referring { target, .. }), Referral::Done(200..300)) => {
            let deadline = exchange.clock.now() + HANG_UP;
            *handover = Some(Handover::Referring { target, asked: Asked::Done, deadline });
            Fate::Away
        }
        (Some(Handover::Referring { .. }), Referral::Done(status)) => {
            let reason = EndReason::Rejected { status, reason: String::new() };
            Fate::Back(NotReached::from_end(&reason).unreached())
        }
        // They have joined the two themselves: both legs are told to go.
        (Some(joined @ Handover::Joined { .. }), Referral::Done(200..300)) => {
            *handover = Some(joined);
            Fate::Gone(TRANSFERRED)
        }
        (other, _) => {
            *handover = other;
            Fate::Away
        }
    }
}

/// Who is handed over, and which number of ours they have to do with, if both are known.
fn on_behalf(record: &CallRecord) -> Option<(CallerId, CallerId)> {
    let number = |uri: &Pii<String>| {
        let user = Uri::parse(uri.reveal()).map_or_else(|| uri.reveal().as_str(), |uri| uri.user);
        user.parse::<CallerId>().ok().filter(|user| user.as_str() != "anonymous")
    };
    let (them, us) = match record.direction {
        Direction::Inbound => (&record.from, &record.to),
        Direction::Outbound => (&record.to, &record.from),
    };
    Some((number(them)?, number(us)?))
}

/// Refer-To for a number: at the host that the caller came from.
fn refer_to(caller: &DialogState, to: &str) -> Pii<String> {
    if Uri::parse(to).is_some() {
        return Pii::new(to.to_owned());
    }
    let remote = caller.remote_target.reveal();
    let host = Uri::parse(remote).map_or_else(
        || caller.flow.peer.to_string(),
        |uri| {
            let host = if uri.host.contains(':') { format!("[{}]", uri.host) } else { uri.host.to_owned() };
            uri.port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
        },
    );
    Pii::new(format!("sip:{}@{host}", to.replace('#', "%23")))
}

/// Refer-To for a call that is up (RFC 3891 §6.1): whom to call, and which call to replace there.
fn refer_to_leg(leg: &DialogState) -> Pii<String> {
    let replaces = format!("{};to-tag={};from-tag={}", leg.call_id.reveal(), leg.remote_tag, leg.local_tag);
    let replaces = percent_encoding::utf8_percent_encode(&replaces, percent_encoding::NON_ALPHANUMERIC);
    let target = leg.remote_target.reveal();
    Pii::new(format!("{target}?Replaces={replaces}"))
}

/// The tone of a line that rings: 425 Hz, one second of five (ITU-T E.180).
#[derive(Default)]
pub(super) struct Tone {
    sample: usize,
}

impl Tone {
    fn next(&mut self) -> media::Samples {
        let mut samples = [0; FRAME];
        for sample in &mut samples {
            if self.sample < RATE {
                let phase = std::f64::consts::TAU * 425.0 * self.sample as f64 / RATE as f64;
                #[expect(clippy::cast_possible_truncation, reason = "far below the range")]
                let value = (phase.sin() * 4000.0) as i16;
                *sample = value;
            }
            self.sample = (self.sample + 1) % (5 * RATE);
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_rings_one_second_of_five() {
        let mut tone = Tone::default();
        let loud: Vec<bool> = (0..500).map(|_| tone.next().iter().any(|sample| sample.abs() > 1000)).collect();
        let frames = RATE / FRAME;
        assert!(loud[..frames].iter().all(|loud| *loud) && !loud[frames..5 * frames].iter().any(|loud| *loud));
        assert!(loud[5 * frames]);
    }
}
