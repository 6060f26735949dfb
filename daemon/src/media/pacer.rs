//! The media thread: one for all calls. Sessions enter; datagrams and frames flow; lateness is measured.
//!
//! Time is cut into slots of 1 ms at absolute deadlines. Each slot first reads whatever has arrived, so that arrival
//! times are exact to a millisecond, then ticks the calls whose phase it is: a call has one of twenty phases, so that
//! 500 calls send 25 packets every millisecond and never 500 at once. Per packet nothing is allocated, locked or waited
//! for. A call whose state panics ends alone.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use rtrb::Consumer;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::thread::{ClockId, Timespec};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tokio::sync::watch;

use super::capture::Tee;
use super::media_session::{Control, MediaSession, Shared};
use super::missed::Missed;
use super::ports::PortPool;
use super::session::{Change, DATAGRAM, Outgoing, Session, SessionParameters};
use super::socket::Reservation;
use super::{FRAME_TIME, Histogram};
use crate::base::{Clock, Pulse, SystemClock};

const SLOT: Duration = Duration::from_millis(1);
const PHASES: usize = 20;
/// Behind by more than this the thread stops catching up and lets time go: the machine was asleep.
const BEHIND: Duration = Duration::from_millis(200);
/// Of 1 to 99; low, as the kernel's own threads are more urgent.
const REAL_TIME: u8 = 10;
/// Where real time is refused. A late packet is heard, a late token is not.
const NICE: i32 = -15;
/// Readiness events taken at once.
const EVENTS: usize = 1024;

/// Where calls are served.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    /// Address of all media sockets.
    pub bind: IpAddr,
    /// Ports of all media sockets; each call takes an even one and the next.
    pub ports: RangeInclusive<u16>,
    /// Calls at the same time.
    pub max_sessions: usize,
}

/// Why a call cannot have media.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// Not because the port is taken by another program: those are passed over.
    #[error("cannot bind a media port on {address}: {source}")]
    Bind {
        /// The configured address.
        address: IpAddr,
        /// What the system says.
        source: io::Error,
    },
    /// All ports of the range, or `max_sessions`, are in use.
    #[error("no free media port: {used} of {limit} pairs are in use by calls")]
    Exhausted {
        /// Leased by calls.
        used: usize,
        /// The smaller of the range's pairs and `max_sessions`.
        limit: usize,
    },
    /// The range holds no even port with an odd one after it.
    #[error("the media port range {0}-{1} holds no pair")]
    Range(u16, u16),
    /// The media thread is gone; the daemon must restart.
    #[error("the media thread has stopped")]
    Stopped,
    /// The system refuses a thread or an event queue.
    #[error("cannot start the media thread: {0}")]
    Thread(io::Error),
}

/// Totals of the media thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct MediaStats {
    /// Calls being served.
    pub sessions: usize,
    /// Port pairs in use, reservations included.
    pub ports_used: usize,
    /// Port pairs in the range.
    pub ports: usize,
    /// Datagrams received, of any kind.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that the system refused to send.
    pub send_errors: u64,
    /// Calls ended by a panic.
    pub panics: u64,
    /// Times when the machine stood still for longer than 200 ms.
    pub stalls: u64,
    /// From the moment a packet should have been sent until it was.
    pub lateness: Histogram,
}

/// Starts the thread.
pub struct MediaThread;

impl MediaThread {
    /// Starts the thread. It ends after the last [`Media`] and the last [`MediaSession`] are dropped.
    ///
    /// # Errors
    /// [`MediaError::Range`] for a range without pairs, [`MediaError::Thread`] from the system.
    pub fn start(config: MediaConfig) -> Result<Media, MediaError> {
        let pool = PortPool::new(&config.ports);
        if pool.usage().1 == 0 {
            return Err(MediaError::Range(*config.ports.start(), *config.ports.end()));
        }
        let (commands, inbox) = sync_channel(config.max_sessions.max(1));
        let totals = Arc::new(Mutex::default());
        let pulse = Pulse::default();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| MediaError::Thread(error.into()))?;
        let pacer = Pacer {
            inbox,
            epoll,
            lines: Vec::new(),
            phases: Default::default(),
            stats: MediaStats::default(),
            totals: Arc::clone(&totals),
            pulse: pulse.clone(),
        };
        thread::Builder::new().name("callbox-media".into()).spawn(|| pacer.run()).map_err(MediaError::Thread)?;
        Ok(Media { commands, pool, totals, pulse, sessions: Arc::default(), config: Arc::new(config) })
    }
}

/// A handle on the media thread.
#[derive(Clone)]
pub struct Media {
    commands: SyncSender<Box<Line>>,
    pool: Arc<PortPool>,
    totals: Arc<Mutex<MediaStats>>,
    pulse: Pulse,
    sessions: Arc<watch::Sender<usize>>,
    config: Arc<MediaConfig>,
}

impl Media {
    /// Binds a pair of ports.
    ///
    /// # Errors
    /// [`MediaError::Exhausted`] when all are in use, [`MediaError::Bind`] from the system.
    pub fn reserve(&self) -> Result<Reservation, MediaError> {
        let (_, pairs) = self.pool.usage();
        for _ in 0..pairs {
            let Some(lease) = self.pool.lease(self.config.max_sessions) else { break };
            match Reservation::bind(self.config.bind, lease) {
                Ok(reservation) => return Ok(reservation),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(source) => return Err(MediaError::Bind { address: self.config.bind, source }),
            }
        }
        Err(MediaError::Exhausted { used: self.pool.usage().0, limit: pairs.min(self.config.max_sessions) })
    }

    /// Starts to serve a call on reserved ports.
    ///
    /// # Errors
    /// [`MediaError::Stopped`] when the thread is gone.
    pub fn open(&self, reservation: Reservation, parameters: SessionParameters) -> Result<MediaSession, MediaError> {
        self.resume(reservation, parameters, None)
    }

    /// Takes over the sockets of a call that an earlier process has served, and what they were sent meanwhile.
    ///
    /// # Errors
    /// [`MediaError::Bind`] if they are no bound UDP sockets.
    pub fn adopt(&self, rtp: OwnedFd, rtcp: OwnedFd) -> Result<(Reservation, Missed), MediaError> {
        Reservation::adopt(rtp, rtcp, |port| self.pool.claim(port))
            .map_err(|source| MediaError::Bind { address: self.config.bind, source })
    }

    /// Goes on with a call; `target`: where its packets went.
    ///
    /// # Errors
    /// [`MediaError::Stopped`] when the thread is gone.
    pub fn resume(
        &self,
        reservation: Reservation,
        parameters: SessionParameters,
        target: Option<SocketAddr>,
    ) -> Result<MediaSession, MediaError> {
        let now = SystemClock.now();
        let (mut session, ends) = Session::new(Change::new(parameters), now, SystemClock.wall());
        if let Some(target) = target {
            session.expect(now, target);
        }
        let (handle, controls, shared) = MediaSession::new(ends);
        let counted = Counted::new(&self.sessions);
        let tee = Tee::default();
        let line = Box::new(Line { session, controls, shared, tee, phase: 0, sockets: reservation, counted });
        // There is room for one command per port pair, so a full queue means that nobody takes them.
        self.commands
            .try_send(line)
            .map_err(|(TrySendError::Full(_) | TrySendError::Disconnected(_))| MediaError::Stopped)?;
        Ok(handle)
    }

    /// Totals, as of at most 20 ms ago.
    #[must_use]
    pub fn stats(&self) -> MediaStats {
        let (ports_used, ports) = self.pool.usage();
        let sessions = *self.sessions.borrow();
        MediaStats { sessions, ports_used, ports, ..*self.totals.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Beats once a slot, and now and then without a call.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Waits until no call is served: the end of a drain.
    pub async fn idle(&self) {
        // It cannot fail: the sender is our own.
        drop(self.sessions.subscribe().wait_for(|sessions| *sessions == 0).await);
    }
}

/// A call as the thread has it.
struct Line {
    session: Session,
    controls: Consumer<Control>,
    shared: Arc<Shared>,
    tee: Tee,
    phase: usize,
    sockets: Reservation,
    // Last: who waits for the last call to end may use its ports at once.
    #[expect(dead_code, reason = "its drop is its use")]
    counted: Counted,
}

/// One of the sessions that [`Media::idle`] waits for.
struct Counted(Arc<watch::Sender<usize>>);

impl Counted {
    fn new(sessions: &Arc<watch::Sender<usize>>) -> Self {
        sessions.send_modify(|sessions| *sessions += 1);
        Self(Arc::clone(sessions))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|sessions| *sessions -= 1);
    }
}

struct Pacer {
    inbox: Receiver<Box<Line>>,
    epoll: OwnedFd,
    /// Their place is their name in `epoll` and `phases`.
    lines: Vec<Option<Box<Line>>>,
    phases: [Vec<usize>; PHASES],
    stats: MediaStats,
    totals: Arc<Mutex<MediaStats>>,
    pulse: Pulse,
}

impl Pacer {
    fn run(mut self) {
        raise_priority();
        let mut ready = Vec::with_capacity(EVENTS);
        let origin = (SystemClock.now(), rustix::time::clock_gettime(ClockId::Monotonic));
        let mut slot = 0_u64;
        let mut deadline = origin.0;
        loop {
            self.pulse.beat();
            if self.stats.sessions == 0 {
                self.publish();
                match self.inbox.recv_timeout(Pulse::IDLE) {
                    Ok(line) => self.open(line),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                deadline = SystemClock.now();
            }
            while let Ok(line) = self.inbox.try_recv() {
                self.open(line);
            }
            sleep_until(origin, deadline);
            self.receive(&mut ready);
            self.send((slot % PHASES as u64) as usize, deadline);
            if slot.is_multiple_of(PHASES as u64) {
                self.publish();
            }
            slot += 1;
            deadline += SLOT;
            let behind = SystemClock.now().saturating_duration_since(deadline);
            if behind > BEHIND {
                let ticks = (behind.as_millis() / FRAME_TIME.as_millis()) as u32;
                deadline += FRAME_TIME * ticks;
                self.stats.stalls += 1;
                self.lines.iter_mut().flatten().for_each(|line| line.session.skip(ticks));
            }
        }
    }

    fn open(&mut self, mut line: Box<Line>) {
        let place = self.lines.iter().position(Option::is_none).unwrap_or(self.lines.len());
        let name = |rtcp| epoll::EventData::new_u64((place as u64) << 1 | rtcp);
        let watched = epoll::add(&self.epoll, &line.sockets.rtp, name(0), epoll::EventFlags::IN)
            .and_then(|()| epoll::add(&self.epoll, &line.sockets.rtcp, name(1), epoll::EventFlags::IN));
        if let Err(error) = watched {
            tracing::error!(%error, "a call has no media: its sockets cannot be watched");
            line.end();
            return;
        }
        line.phase = (0..PHASES).min_by_key(|phase| self.phases[*phase].len()).unwrap_or(0);
        self.phases[line.phase].push(place);
        if place == self.lines.len() {
            self.lines.push(None);
        }
        self.lines[place] = Some(line);
        self.stats.sessions += 1;
    }

    /// Reads one datagram of each socket that has any. A flood on one port costs a read per millisecond, no more.
    fn receive(&mut self, ready: &mut Vec<epoll::Event>) {
        ready.clear();
        let poll = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
        if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(ready), poll).is_err() {
            return;
        }
        let mut buffer = [0; DATAGRAM];
        for event in ready {
            let name = event.data.u64();
            let place = (name >> 1) as usize;
            let Some(Some(line)) = self.lines.get_mut(place) else { continue };
            let socket = if name & 1 == 0 { &line.sockets.rtp } else { &line.sockets.rtcp };
            let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
            self.stats.received += 1;
            let now = SystemClock.now();
            let handled = catch_unwind(AssertUnwindSafe(|| {
                line.tee.copy(now, (false, name & 1 == 1), source, &buffer[..length]);
                if name & 1 == 0 {
                    line.session.handle_packet(now, &buffer[..length], source);
                } else {
                    line.session.handle_rtcp(now, &buffer[..length], source);
                }
            }));
            if handled.is_err() {
                self.fail(place);
            }
        }
    }

    /// Ticks the calls of a phase.
    fn send(&mut self, phase: usize, deadline: Instant) {
        let mut index = 0;
        while let Some(place) = self.phases[phase].get(index).copied() {
            let Some(Some(line)) = self.lines.get_mut(place) else {
                index += 1;
                continue;
            };
            if line.shared.closed.load(Ordering::Acquire) {
                self.close(place);
                continue;
            }
            let stats = &mut self.stats;
            if catch_unwind(AssertUnwindSafe(|| line.tick(deadline, stats))).is_err() {
                self.fail(place);
                continue;
            }
            index += 1;
        }
    }

    /// The call's task is done with it.
    fn close(&mut self, place: usize) {
        if let Some(Some(line)) = self.lines.get_mut(place) {
            line.goodbye(&mut self.stats);
        }
        self.remove(place);
    }

    fn fail(&mut self, place: usize) {
        tracing::error!("a call's media has panicked; the call ends");
        self.stats.panics += 1;
        self.remove(place);
    }

    fn remove(&mut self, place: usize) {
        let Some(line) = self.lines.get_mut(place).and_then(Option::take) else { return };
        for socket in [&line.sockets.rtp, &line.sockets.rtcp] {
            // Closing is not enough where somebody else keeps the socket, too.
            if let Err(error) = epoll::delete(&self.epoll, socket) {
                tracing::debug!(%error, "a media socket was not watched");
            }
        }
        self.phases[line.phase].retain(|other| *other != place);
        line.end();
        self.stats.sessions -= 1;
    }

    /// Readers hold the lock for a copy; who meets them publishes the next time.
    fn publish(&self) {
        if let Ok(mut totals) = self.totals.try_lock() {
            *totals = self.stats;
        }
    }
}

impl Line {
    /// One call's share of its slot.
    fn tick(&mut self, deadline: Instant, stats: &mut MediaStats) {
        while let Ok(control) = self.controls.pop() {
            match control {
                Control::Capture(tee) => self.tee = tee,
                Control::Press(keys) => self.session.press(keys),
                Control::Tap(tap) => self.session.set_tap(tap),
                Control::Update(change) => self.session.update(*change),
            }
        }
        let (rtp, tee) = (&self.sockets.rtp, &mut self.tee);
        self.session.tick(deadline, |packet| {
            send(rtp, packet, stats);
            let now = SystemClock.now();
            stats.lateness.add(now.saturating_duration_since(deadline));
            tee.copy(now, (true, false), packet.to, packet.bytes);
        });
        let mux = self.session.rtcp_mux();
        let (socket, tee) = (if mux { &self.sockets.rtp } else { &self.sockets.rtcp }, &mut self.tee);
        self.session.report(deadline, |report| {
            send(socket, report, stats);
            tee.copy(SystemClock.now(), (true, !mux), report.to, report.bytes);
        });
        // The call's task holds the lock for a copy; if they meet, it has a copy that is 20 ms old.
        if let Ok(mut shared) = self.shared.stats.try_lock() {
            *shared = self.session.stats(deadline);
        }
        self.shared.ready.notify_one();
    }

    fn goodbye(&mut self, stats: &mut MediaStats) {
        let socket = if self.session.rtcp_mux() { &self.sockets.rtp } else { &self.sockets.rtcp };
        self.session.goodbye(SystemClock.now(), |goodbye| send(socket, goodbye, stats));
    }

    fn end(&self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.ready.notify_one();
    }
}

fn send(socket: &UdpSocket, packet: Outgoing<'_>, stats: &mut MediaStats) {
    match socket.send_to(packet.bytes, packet.to) {
        Ok(_) => stats.sent += 1,
        Err(_) => stats.send_errors += 1,
    }
}

/// Any real-time priority is above everything ordinary, of this daemon or not; niceness counts only within a control
/// group. Either is refused without the right to; the thread is then as late as its machine is busy. The kernel
/// itself stops a real-time thread that never sleeps.
fn raise_priority() {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    let priority = ThreadPriorityValue::try_from(REAL_TIME).map_or(ThreadPriority::Min, ThreadPriority::Crossplatform);
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), priority, policy) {
        tracing::info!(%error, "the media thread has no real-time priority; allow it with LimitRTPRIO={REAL_TIME}");
        if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
            tracing::info!(%error, "the media thread runs at ordinary priority");
        }
    }
    // By default the kernel may wake a thread 50 us late to save power.
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
        tracing::debug!(%error, "the media thread keeps its timer slack");
    }
}

/// Waits for an absolute time, so that an interruption between asking for the time and waiting costs nothing. `origin`
/// is one moment on both clocks.
fn sleep_until(origin: (Instant, Timespec), deadline: Instant) {
    let since = deadline.saturating_duration_since(origin.0);
    let nanoseconds = origin.1.tv_nsec + i64::from(since.subsec_nanos());
    let request = Timespec {
        tv_sec: origin.1.tv_sec + since.as_secs() as i64 + nanoseconds / 1_000_000_000,
        tv_nsec: nanoseconds % 1_000_000_000,
    };
    while rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &request) == Err(rustix::io::Errno::INTR) {}
}
