//! Who may talk to us, and how much. Enters: a source address, the first bytes of a message, the time; leaves: yes or
//! no. It runs before any parser, allocates nothing in the common case and never grows beyond its table. Where there are
//! trunks, only their addresses may, and this machine itself; else everybody.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bucket::{Bucket, Rate};
use super::offences::{Offence, Offences, is_scanner};
use crate::base::trunk::{Trunk, TrunkName, Trunks};

/// What the endpoint accepts. Every figure is per endpoint unless it says "source" (one IP address).
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Calls at once, ringing ones included; beyond it 503.
    pub max_calls: usize,
    /// INVITEs per second from one source that belongs to no trunk; beyond it (and the burst) they are dropped unread: the
    /// peer repeats them.
    pub invites_per_second_per_source: f64,
    /// INVITEs that one source may send at once.
    pub burst: u32,
    /// All messages per second from one source, retransmissions included, or as many as belong to its calls if that is
    /// more; the burst is two seconds of it.
    pub messages_per_second_per_source: f64,
    /// Calls of one source that have not been confirmed by an ACK; beyond it 503.
    pub max_unacked_per_source: usize,
    /// What 503 tells the peer to wait, in seconds.
    pub retry_after: u32,
    /// Server transactions at once; beyond it messages are dropped unread.
    pub max_transactions: usize,
    /// Longest message, in bytes.
    pub max_message: usize,
    /// TCP connections at once, and from one source.
    pub max_connections: (usize, usize),
    /// A TCP connection without a message for this long is closed; a message must be complete within a tenth of it.
    pub connection_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_calls: 64,
            invites_per_second_per_source: 50.0,
            burst: 100,
            messages_per_second_per_source: 1000.0,
            max_unacked_per_source: 64,
            retry_after: 10,
            max_transactions: 8192,
            max_message: 16 * 1024,
            max_connections: (256, 64),
            connection_idle: Duration::from_secs(300),
        }
    }
}

/// Sources that are remembered at once. A full table forgets whoever has been quiet, and if nobody has, one of all.
const SOURCES: usize = 4096;

/// Messages that belong to one call, repeated ones included.
const MESSAGES_PER_CALL: f64 = 20.0;

/// Why a message was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Refusal {
    TooManyMessages,
    TooManyInvites,
    TooLong,
    Stranger,
    Scanner,
    /// A scanner's message that a trunk hands on.
    Relayed,
    /// It has offended too often.
    Offender,
}

impl Refusal {
    /// Whether the same message may come in a little later.
    pub fn passes(self) -> bool {
        matches!(self, Self::TooManyMessages | Self::TooManyInvites)
    }

    /// Whether it says something of this message alone, and nothing of what else its connection carries.
    pub fn is_of_one_message(self) -> bool {
        matches!(self, Self::TooLong | Self::Relayed)
    }
}

/// What a trunk has sent.
#[derive(Debug)]
struct Lane {
    trunk: Arc<Trunk>,
    all: Bucket,
    calls: Bucket,
    refused: u64,
}

/// The gate before the parser.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    trunks: Trunks,
    lanes: Vec<Lane>,
    sources: HashMap<IpAddr, (Bucket, Bucket)>,
    swept: Option<Instant>,
    offences: Offences,
}

/// The machine itself, whose self-test is always welcome.
fn is_ourselves(source: IpAddr) -> bool {
    source == Ipv4Addr::LOCALHOST || source == Ipv6Addr::LOCALHOST
}

impl Admission {
    /// A gate with nobody known.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            trunks: Trunks::default(),
            lanes: Vec::new(),
            sources: HashMap::new(),
            swept: None,
            offences: Offences::default(),
        }
    }

    /// Other limits from now on. A bucket keeps its tokens, up to the new burst.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Other trunks from now on. One that stays keeps its tokens.
    pub fn trunks(&mut self, trunks: Trunks, now: Instant) {
        let mut before = std::mem::take(&mut self.lanes);
        for trunk in trunks.iter() {
            let known = before.iter().position(|lane| lane.trunk.name == trunk.name).map(|at| before.swap_remove(at));
            let (all, calls) = self.trunk_rates(trunk);
            self.lanes.push(match known {
                Some(lane) => Lane { trunk: Arc::clone(trunk), ..lane },
                None => Lane {
                    trunk: Arc::clone(trunk),
                    all: Bucket::full(all, now),
                    calls: Bucket::full(calls, now),
                    refused: 0,
                },
            });
        }
        self.trunks = trunks;
    }

    /// Whether a source may connect at all.
    ///
    /// # Errors
    /// [`Refusal::Stranger`], or [`Refusal::Offender`].
    pub fn welcome(&mut self, source: IpAddr, now: Instant) -> Result<(), Refusal> {
        self.standing(source.to_canonical(), now).map(drop)
    }

    /// Whether these bytes from this source may go to the parser.
    ///
    /// # Errors
    /// The reason to drop them.
    pub fn admit(&mut self, source: IpAddr, raw: &[u8], now: Instant) -> Result<(), Refusal> {
        let source = source.to_canonical();
        let lane = self.standing(source, now)?;
        let admitted = self.rate(source, lane, raw, now);
        if let (Err(refusal), Some(lane)) = (admitted, lane.and_then(|at| self.lanes.get_mut(at))) {
            lane.refused += u64::from(refusal.passes());
        }
        admitted
    }

    /// The same for a connection that we have let in, or opened ourselves: what is too much waits there, and is not lost.
    ///
    /// # Errors
    /// The reason to drop them.
    pub fn admit_connected(&mut self, source: IpAddr, raw: &[u8], now: Instant) -> Result<(), Refusal> {
        let source = source.to_canonical();
        let lane = self.lane_of(source);
        self.rate(source, lane, raw, now)
    }

    /// Something was found out about a source behind this gate.
    pub fn offended(&mut self, source: IpAddr, offence: Offence, now: Instant) {
        if !is_ourselves(source.to_canonical()) {
            self.offences.add(source, offence, now);
        }
    }

    /// How often each of [`Offence::ALL`] happened.
    pub fn offences(&self) -> [u64; Offence::ALL.len()] {
        self.offences.counts()
    }

    /// For each trunk what was dropped unread because there was too much of it.
    pub fn refused(&self) -> impl Iterator<Item = (&TrunkName, u64)> {
        self.lanes.iter().map(|lane| (&lane.trunk.name, lane.refused))
    }

    /// Sources that are remembered.
    pub fn known(&self) -> usize {
        self.sources.len()
    }

    fn lane_of(&self, source: IpAddr) -> Option<usize> {
        let name = &self.trunks.of(source)?.name;
        self.lanes.iter().position(|lane| lane.trunk.name == *name)
    }

    /// The lane of a source that may come in; none where it has none.
    fn standing(&mut self, source: IpAddr, now: Instant) -> Result<Option<usize>, Refusal> {
        let lane = self.lane_of(source);
        if lane.is_some() || is_ourselves(source) {
            return Ok(lane);
        }
        if !self.trunks.is_empty() {
            self.offences.add(source, Offence::Stranger, now);
            return Err(Refusal::Stranger);
        }
        if self.offences.is_out_of_patience(source, now) {
            return Err(Refusal::Offender);
        }
        Ok(None)
    }

    fn rate(&mut self, source: IpAddr, lane: Option<usize>, raw: &[u8], now: Instant) -> Result<(), Refusal> {
        if raw.len() > self.limits.max_message {
            return Err(Refusal::TooLong);
        }
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&source) {
            self.forget_quiet(now);
        }
        let invite = raw.starts_with(b"INVITE ");
        let (mut all_rate, calls_rate) = self.source_rates();
        let trunk_rates = lane.and_then(|at| self.lanes.get(at)).map(|lane| self.trunk_rates(&lane.trunk));
        if let Some((trunk_all, _)) = trunk_rates {
            all_rate.per_second = all_rate.per_second.max(trunk_all.per_second / 2.0);
            all_rate.burst = all_rate.per_second * 2.0;
        }
        let (all, calls) =
            self.sources.entry(source).or_insert_with(|| (Bucket::full(all_rate, now), Bucket::full(calls_rate, now)));
        // Where there is a trunk, its own figure counts, for all its addresses together.
        let (of_trunk, (calls, calls_rate)) = match (trunk_rates, lane.and_then(|at| self.lanes.get_mut(at))) {
            (Some((all_rate, calls_rate)), Some(lane)) => {
                (Some((&mut lane.all, all_rate, Refusal::TooManyMessages)), (&mut lane.calls, calls_rate))
            }
            _ => (None, (calls, calls_rate)),
        };
        let of_calls = invite.then_some((calls, calls_rate, Refusal::TooManyInvites));
        let mut buckets = [Some((all, all_rate, Refusal::TooManyMessages)), of_trunk, of_calls];
        // Who is refused has taken nothing, however often it comes again.
        if let Some((.., refusal)) = buckets.iter().flatten().find(|(bucket, rate, _)| bucket.is_empty(*rate, now)) {
            return Err(*refusal);
        }
        for (bucket, rate, _) in buckets.iter_mut().flatten() {
            bucket.take(*rate, now);
        }
        if is_ourselves(source) || raw.starts_with(b"SIP/2.0 ") {
            return Ok(());
        }
        if is_scanner(raw) {
            self.offences.add(source, Offence::Scanner, now);
            return Err(if lane.is_some() { Refusal::Relayed } else { Refusal::Scanner });
        }
        if raw.starts_with(b"REGISTER ") {
            self.offences.add(source, Offence::Register, now);
        }
        Ok(())
    }

    /// Of one source: all messages, INVITEs.
    fn source_rates(&self) -> (Rate, Rate) {
        let calls = Rate { per_second: self.limits.invites_per_second_per_source, burst: f64::from(self.limits.burst) };
        // Who may place so many calls may end them, too.
        let all = self.limits.messages_per_second_per_source.max(calls.per_second * MESSAGES_PER_CALL);
        (Rate { per_second: all, burst: all * 2.0 }, calls)
    }

    /// Of a trunk: all messages, INVITEs.
    fn trunk_rates(&self, trunk: &Trunk) -> (Rate, Rate) {
        let calls = f64::from(trunk.invites_per_second.get());
        let all = (self.limits.messages_per_second_per_source * 2.0).max(calls * MESSAGES_PER_CALL);
        let burst = f64::from(self.limits.burst).max(calls * 2.0);
        (Rate { per_second: all, burst: all * 2.0 }, Rate { per_second: calls, burst })
    }

    fn forget_quiet(&mut self, now: Instant) {
        // Strangers come by the thousand in a flood: not the whole table for each of them.
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= Duration::from_secs(1)) {
            self.swept = Some(now);
            let (all_rate, calls_rate) = self.source_rates();
            // Full buckets are what a stranger has: forgetting them gives nobody anything.
            self.sources.retain(|_, (all, calls)| !all.is_full(all_rate, now) || !calls.is_full(calls_rate, now));
        }
        if self.sources.len() >= SOURCES
            && let Some(any) = self.sources.keys().next().copied()
        {
            self.sources.remove(&any);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, ManualClock};

    #[test]
    fn a_burst_then_the_rate_per_source() {
        let clock = ManualClock::default();
        let limits = Limits { invites_per_second_per_source: 2.0, burst: 3, ..Limits::default() };
        let mut gate = Admission::new(limits);
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut granted = |ip| (0..10).filter(|_| gate.admit(ip, b"INVITE x", clock.now()).is_ok()).count();
        assert_eq!((granted(a), granted(b)), (3, 3));
        clock.advance(Duration::from_secs(1));
        assert_eq!(granted(a), 2);
        assert_eq!(gate.admit(a, b"BYE x", clock.now()), Ok(()));
        assert_eq!(gate.admit(a, &[0; 20_000], clock.now()), Err(Refusal::TooLong));
    }

    #[test]
    fn strangers_do_not_grow_the_table() {
        let clock = ManualClock::default();
        let mut gate = Admission::new(Limits::default());
        for n in 0..20_000_u32 {
            let _admitted = gate.admit(Ipv4Addr::from(n).into(), b"x", clock.now());
            clock.advance(Duration::from_millis(1));
        }
        assert!(gate.known() <= SOURCES);
        // Nor do they make anybody forgotten who has used up what is his.
        let limits = Limits { invites_per_second_per_source: 0.001, burst: 3, ..Limits::default() };
        let (mut gate, greedy) = (Admission::new(limits), "192.0.2.1".parse().unwrap());
        let granted =
            |gate: &mut Admission| (0..9).filter(|_| gate.admit(greedy, b"INVITE x", clock.now()).is_ok()).count();
        assert_eq!(granted(&mut gate), 3);
        for n in 0..20_000_u32 {
            let _admitted = gate.admit(Ipv4Addr::from(n).into(), b"x", clock.now());
            clock.advance(Duration::from_millis(1));
        }
        assert_eq!(granted(&mut gate), 0);
    }

    fn trunk(name: &str, peers: &[&str], invites_per_second: u32) -> Trunk {
        Trunk {
            peers: peers.iter().map(|peer| peer.parse().expect("an address")).collect(),
            invites_per_second: std::num::NonZeroU32::new(invites_per_second).expect("some"),
            ..Trunk::new(name.parse().expect("a name"))
        }
    }

    #[test]
    fn with_trunks_strangers_are_not_read_and_the_machine_itself_is() {
        let clock = ManualClock::default();
        let mut gate = Admission::new(Limits::default());
        let stranger: IpAddr = "192.0.2.66".parse().unwrap();
        assert_eq!(gate.admit(stranger, b"INVITE x", clock.now()), Ok(()), "without a trunk everybody may");
        gate.trunks(Trunks::new(&[trunk("a", &["198.51.100.0/24", "2001:db8::1"], 10)]), clock.now());
        for (source, welcome) in [
            ("198.51.100.9", true),
            ("::ffff:198.51.100.9", true),
            ("2001:db8::1", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("127.0.0.2", false),
            ("192.0.2.66", false),
            ("::ffff:192.0.2.66", false),
            ("2001:db8::2", false),
        ] {
            let source = source.parse().unwrap();
            let wanted = if welcome { Ok(()) } else { Err(Refusal::Stranger) };
            assert_eq!(gate.admit(source, b"INVITE x", clock.now()), wanted, "{source}");
            assert_eq!(gate.welcome(source, clock.now()), wanted, "{source}");
        }
        assert_eq!(gate.offences(), [8, 0, 0, 0, 0]);
        assert!(gate.known() <= 6, "a stranger is not remembered among those who may");
    }

    #[test]
    fn a_trunk_has_a_rate_of_its_own_which_no_other_trunk_can_use_up() {
        let clock = ManualClock::default();
        let limits = Limits { invites_per_second_per_source: 1.0, burst: 4, ..Limits::default() };
        let mut gate = Admission::new(limits);
        let trunks = Trunks::new(&[trunk("a", &["10.0.0.0/24"], 5), trunk("b", &["10.0.1.1"], 50)]);
        gate.trunks(trunks.clone(), clock.now());
        let granted = |gate: &mut Admission, source: &str| {
            let source = source.parse().unwrap();
            (0..500).filter(|_| gate.admit(source, b"INVITE x", clock.now()).is_ok()).count()
        };
        assert_eq!((granted(&mut gate, "10.0.0.1"), granted(&mut gate, "10.0.0.2")), (10, 0), "all addresses together");
        assert_eq!(granted(&mut gate, "10.0.1.1"), 100);
        gate.trunks(trunks, clock.now());
        assert_eq!(granted(&mut gate, "10.0.1.1"), 0, "a reload fills no bucket");
        clock.advance(Duration::from_secs(1));
        assert_eq!((granted(&mut gate, "10.0.0.2"), granted(&mut gate, "10.0.1.1")), (5, 50));
        let refused: Vec<_> = gate.refused().map(|(name, count)| (name.as_str(), count)).collect();
        assert_eq!(refused, [("a", 1485), ("b", 1350)]);
        // On a connection it waits: asking again costs it nothing, and nothing is lost.
        let source = "10.0.0.1".parse().unwrap();
        for _ in 0..5000 {
            assert_eq!(gate.admit_connected(source, b"INVITE x", clock.now()), Err(Refusal::TooManyInvites));
        }
        assert_eq!(gate.admit_connected(source, b"BYE x", clock.now()), Ok(()));
        assert_eq!(gate.refused().map(|(_, count)| count).sum::<u64>(), 1485 + 1350);
    }

    #[test]
    fn scanners_and_those_who_only_annoy_are_not_read_for_long() {
        let clock = ManualClock::default();
        let mut gate = Admission::new(Limits::default());
        let source: IpAddr = "192.0.2.66".parse().unwrap();
        let scan = b"OPTIONS sip:100@x SIP/2.0\r\nUser-Agent: friendly-scanner\r\n\r\n";
        assert_eq!(gate.admit(source, scan, clock.now()), Err(Refusal::Scanner));
        let registered = (0..100).filter(|_| gate.admit(source, b"REGISTER x", clock.now()).is_ok()).count();
        assert_eq!(registered, 19, "a scan and 19 others used up the patience");
        assert_eq!(gate.admit(source, b"INVITE x", clock.now()), Err(Refusal::Offender));
        assert_eq!(gate.admit("127.0.0.1".parse().unwrap(), b"REGISTER x", clock.now()), Ok(()));
        clock.advance(Duration::from_secs(60));
        assert_eq!(gate.admit(source, b"INVITE x", clock.now()), Ok(()));
        // A trunk's peer is never shut out by what it sends: its own calls would be.
        gate.trunks(Trunks::new(&[trunk("a", &["192.0.2.66"], 5)]), clock.now());
        let registered = (0..100).filter(|_| gate.admit(source, b"REGISTER x", clock.now()).is_ok()).count();
        assert_eq!(registered, 100);
        assert_eq!(gate.admit(source, b"INVITE x", clock.now()), Ok(()));
        let relayed = gate.admit_connected(source, scan, clock.now()).unwrap_err();
        assert!(relayed.is_of_one_message() && !Refusal::Scanner.is_of_one_message(), "{relayed:?}");
    }
}
