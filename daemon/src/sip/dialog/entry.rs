//! What a trunk's calls must show before there is a call: a password where it asks for one, room for one more. Enters:
//! requests, and which flow they came over; leaves: refusals, and counts for each trunk.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::screen::Refusal;
use crate::base::trunk::{Digest, Trunk, TrunkName, Trunks};
use crate::sip::digest::{Algorithm, Challenger, Verdict};
use crate::sip::message::{Message, Method, Start};
use crate::sip::offences::Offence;
use crate::sip::transaction::Flow;
use crate::sip::uri::called_number;

/// Whose password is wanted, as callers' telephones show it.
const REALM: &str = "callbox";
/// Offenders that are remembered until somebody asks for them.
const OFFENDERS: usize = 64;

/// Figures of a trunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrunkCounts {
    /// Its machines.
    pub calls: usize,
    /// INVITEs beyond `max_calls`.
    pub too_many: u64,
    /// Requests with a wrong password.
    pub wrong_password: u64,
}

fn algorithm(digest: &Digest) -> Algorithm {
    match digest {
        Digest::Md5 => Algorithm::Md5,
        Digest::Sha256 => Algorithm::Sha256,
    }
}

/// The trunks, and what is counted of them. One that is gone is counted as long as it has calls.
pub(super) struct Entry {
    trunks: Trunks,
    counts: Vec<(TrunkName, TrunkCounts)>,
    /// From the first challenge on.
    challenger: Option<Challenger>,
    offences: Vec<(IpAddr, Offence)>,
}

impl Entry {
    pub(super) fn new(trunks: Trunks) -> Self {
        Self { trunks, counts: Vec::new(), challenger: None, offences: Vec::new() }
    }

    pub(super) fn trunks(&mut self, trunks: Trunks) {
        self.counts.retain(|(name, counts)| counts.calls > 0 || trunks.named(name).is_some());
        self.trunks = trunks;
    }

    pub(super) fn counts(&self) -> &[(TrunkName, TrunkCounts)] {
        &self.counts
    }

    pub(super) fn take_offences(&mut self) -> Vec<(IpAddr, Offence)> {
        std::mem::take(&mut self.offences)
    }

    /// The trunk that a request outside of a dialog belongs to.
    pub(super) fn trunk(&self, request: &Message, flow: Flow) -> Option<Arc<Trunk>> {
        let Start::Request { uri, .. } = &request.start else { return None };
        self.trunks.called(flow.peer.ip(), &called_number(uri)).cloned()
    }

    /// The trunk of a name, if there still is one.
    pub(super) fn named(&self, name: &TrunkName) -> Option<Arc<Trunk>> {
        self.trunks.named(name).cloned()
    }

    /// A call of this trunk begins.
    pub(super) fn joined(&mut self, trunk: Option<&TrunkName>) {
        if let Some(name) = trunk {
            self.counted(name).calls += 1;
        }
    }

    /// One is over.
    pub(super) fn left(&mut self, trunk: Option<&TrunkName>) {
        if let Some(name) = trunk {
            let counts = self.counted(name);
            counts.calls = counts.calls.saturating_sub(1);
        }
    }

    fn counted(&mut self, name: &TrunkName) -> &mut TrunkCounts {
        let at = self.counts.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.counts.push((name.clone(), TrunkCounts::default()));
            self.counts.len() - 1
        });
        &mut self.counts[at].1
    }

    /// Whether a call of ours may begin.
    pub(super) fn has_room(&self, name: &TrunkName) -> bool {
        let calls = self.counts.iter().find(|(known, _)| known == name).map_or(0, |(_, counts)| counts.calls);
        self.trunks.named(name).is_none_or(|trunk| calls < trunk.max_calls.get() as usize)
    }

    /// Whether the trunk has as many calls as it may; an INVITE that comes then is counted.
    pub(super) fn is_full(&mut self, request: &Message, flow: Flow) -> bool {
        let Some(trunk) = self.trunk(request, flow) else { return false };
        let invite = request.method() == Some(Method::Invite);
        let counts = self.counted(&trunk.name);
        let full = counts.calls >= trunk.max_calls.get() as usize;
        counts.too_many += u64::from(full && invite);
        full
    }

    /// Asks for the password, where the trunk wants that: of whatever can begin a call or send it elsewhere. An ACK and a
    /// CANCEL cannot be asked (RFC 3261 §22.1); who ends a call is not: a peer that does not answer would let it stay.
    ///
    /// # Errors
    /// 401, with challenges.
    pub(super) fn verify(
        &mut self,
        request: &Message,
        flow: Flow,
        trunk: Option<Arc<Trunk>>,
        random: &mut (dyn FnMut() -> u64 + Send),
        now: Instant,
    ) -> Result<(), Refusal> {
        if !matches!(request.method(), Some(Method::Invite | Method::Update | Method::Refer)) {
            return Ok(());
        }
        let Some(trunk) = trunk.filter(|trunk| trunk.challenge) else { return Ok(()) };
        // The configuration sees to it that there is one; without it nobody comes in.
        let Some((username, password)) = trunk.login() else { return Err(Refusal::plain(403)) };
        let challenger = self.challenger.get_or_insert_with(|| {
            let mut key = [0; 32];
            key.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&random().to_be_bytes()));
            Challenger::new(REALM, key, now)
        });
        let offered: Vec<Algorithm> = trunk.digest.iter().map(algorithm).collect();
        let verdict = challenger.verify(request, &offered, (username, password), now);
        let challenges = match verdict {
            Verdict::Right => return Ok(()),
            verdict => challenger.challenges(&offered, verdict == Verdict::Stale, random(), now),
        };
        if verdict == Verdict::Wrong {
            self.counted(&trunk.name).wrong_password += 1;
            if self.offences.len() < OFFENDERS {
                self.offences.push((flow.peer.ip(), Offence::Password));
            }
        }
        let headers = challenges.into_iter().map(|challenge| ("WWW-Authenticate", challenge)).collect();
        Err(Refusal { status: 401, headers })
    }
}
