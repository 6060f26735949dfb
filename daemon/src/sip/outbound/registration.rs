//! One registration (RFC 3261 §10), sans-IO: (responses, now) → the next REGISTER and when. Enters: final responses;
//! leaves: requests without Via, the state that others may see. It refreshes in good time, tries the next host when one
//! does not answer, and waits longer after each failure: minutes, once a password was refused.

use std::time::{Duration, Instant};

use crate::sip::message::{Message, Method, Start};
use crate::sip::uri::{NameAddr, Uri};

/// Waits between rounds over all hosts that failed: the first one, doubled with each further round up to the longest
/// (RFC 5626 §4.5 has 30 s and 30 minutes; a trunk that is down costs calls, so we ask sooner).
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// After 403, 404 and their kind: somebody has to change something first.
const REFUSED_WAIT: Duration = Duration::from_secs(300);
/// Requests that one attempt may take: challenges, a stale nonce, a longer interval.
const REQUESTS: u32 = 5;
/// The shortest registration that is worth having, in seconds.
const SHORTEST: u32 = 30;

/// A request that was challenged, with the answer; none where there is none.
pub type Authorise<'a> = dyn FnMut(Message, &Message) -> Option<Message> + Send + 'a;

/// Who registers.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Address of record: `sip:USER@DOMAIN`.
    pub aor: String,
    /// Registrar: `sip:DOMAIN`.
    pub registrar: String,
    /// Seconds that are asked for.
    pub expires: u32,
    /// Servers to try.
    pub hosts: usize,
    /// Call-ID of all its REGISTERs, and the tag of their From.
    pub call_id: String,
    /// Tag of From.
    pub tag: String,
}

/// What others may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// Not yet tried to the end.
    Trying,
    /// Up to then.
    Until(Instant),
    /// The last attempt failed with this status; 408 for no answer.
    Failed(u16),
}

/// A registration and its clockwork.
#[derive(Debug)]
pub struct Registration {
    identity: Identity,
    state: Registered,
    cseq: u32,
    host: usize,
    /// Hosts that failed since one did not.
    failed: usize,
    /// Rounds over all hosts that failed.
    rounds: u32,
    /// Requests of this attempt.
    requests: u32,
    expires: u32,
    next: Option<Instant>,
    /// Service-Route of the last 200 (RFC 3608).
    route: Vec<String>,
    /// The request that waits for its response.
    sent: Option<Message>,
}

impl Registration {
    /// One that is due at once.
    pub fn new(identity: Identity, now: Instant) -> Self {
        let expires = identity.expires.max(SHORTEST);
        Self {
            identity,
            state: Registered::Trying,
            cseq: 0,
            host: 0,
            failed: 0,
            rounds: 0,
            requests: 0,
            expires,
            next: Some(now),
            route: Vec::new(),
            sent: None,
        }
    }

    /// What others may know.
    pub fn state(&self) -> Registered {
        self.state
    }

    /// The server that it talks to.
    pub fn host(&self) -> usize {
        self.host
    }

    /// Route of our requests through this registrar, in the order in which they carry it.
    pub fn route(&self) -> &[String] {
        &self.route
    }

    /// When [`Registration::request`] has something to send; none while a response is awaited.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// The REGISTER that is due, for [`Registration::host`]; `contact` is our URI as that host reaches it.
    pub fn request(&mut self, contact: &str) -> Message {
        self.next = None;
        self.requests = 1;
        let request = self.build(contact, self.expires);
        self.sent = Some(request.clone());
        request
    }

    /// The REGISTER that takes the contact back.
    pub fn leave(&mut self, contact: &str) -> Message {
        (self.next, self.state, self.requests) = (None, Registered::Trying, 1);
        let request = self.build(contact, 0);
        self.sent = Some(request.clone());
        request
    }

    fn build(&mut self, contact: &str, expires: u32) -> Message {
        let Identity { aor, registrar, call_id, tag, .. } = &self.identity;
        self.cseq += 1;
        Message::request(Method::Register, registrar.as_str())
            .with("From", format!("<{aor}>;tag={tag}"))
            .with("To", format!("<{aor}>"))
            .with("Call-ID", call_id.as_str())
            .with("CSeq", format!("{} REGISTER", self.cseq))
            .with("Contact", format!("<{contact}>;expires={expires}"))
            .with("Expires", expires.to_string())
            .with("Supported", "path")
    }

    /// The final response, or none if there was no way to send. Comes back with a request to send at once, if there is.
    pub fn on_response(
        &mut self,
        response: Option<&Message>,
        contact: &str,
        authorise: &mut Authorise<'_>,
        now: Instant,
        random: u64,
    ) -> Option<Message> {
        let sent = self.sent.take()?;
        let status = response.map_or(408, Message::status);
        match (status, response) {
            (200..300, Some(response)) => self.accepted(response, contact, now, random),
            (401 | 407, Some(response)) if self.requests < REQUESTS => {
                if let Some(authorised) = authorise(sent, response) {
                    self.requests += 1;
                    self.cseq += 1;
                    let request = renumbered(authorised, self.cseq);
                    self.sent = Some(request.clone());
                    return Some(request);
                }
                self.fail(status, None, now, random);
            }
            // RFC 3261 §10.2.8.
            (423, Some(response)) if self.requests < REQUESTS => {
                let least = response.header("Min-Expires").and_then(|value| value.trim().parse::<u32>().ok());
                if let Some(least) = least.filter(|least| *least > self.expires && *least <= 86_400) {
                    self.expires = least;
                    self.requests += 1;
                    let request = self.build(contact, least);
                    self.sent = Some(request.clone());
                    return Some(request);
                }
                self.fail(status, None, now, random);
            }
            _ => {
                let retry = response.and_then(|response| response.header("Retry-After"));
                let retry = retry.and_then(|value| value.split([';', '(', ' ']).next()?.trim().parse::<u64>().ok());
                self.fail(status, retry.map(Duration::from_secs), now, random);
            }
        }
        None
    }

    fn accepted(&mut self, response: &Message, contact: &str, now: Instant, random: u64) {
        (self.failed, self.rounds) = (0, 0);
        self.route = response.list("Service-Route").map(str::to_owned).collect();
        let granted = granted(response, contact).unwrap_or(self.expires);
        let lasting = Duration::from_secs(granted.into());
        self.state = Registered::Until(now + lasting);
        // Early enough for two attempts at two hosts, and not all boxes of an owner at the same instant.
        let early = (lasting / 2).min(Duration::from_secs(60)).mul_f64(fraction(random).mul_add(0.25, 0.75));
        self.next = Some(now + lasting.saturating_sub(early).max(Duration::from_secs(1)));
    }

    fn fail(&mut self, status: u16, retry: Option<Duration>, now: Instant, random: u64) {
        // A refusal is of the account, not of the server: another one would refuse it, too.
        let refused = matches!(status, 400..=407 | 409..=422 | 424..=499 | 600..=699);
        let still = matches!(self.state, Registered::Until(until) if until > now);
        if !still || refused {
            self.state = Registered::Failed(status);
        }
        self.failed += 1;
        let jitter = |wait: Duration| wait.mul_f64(fraction(random).mul_add(0.5, 0.5));
        let wait = if refused {
            self.failed = 0;
            jitter(REFUSED_WAIT)
        } else if self.failed < self.identity.hosts {
            Duration::ZERO
        } else {
            self.failed = 0;
            self.rounds += 1;
            jitter(FIRST_WAIT.saturating_mul(1 << (self.rounds - 1).min(10)).min(LONGEST_WAIT))
        };
        if !refused {
            self.host = (self.host + 1) % self.identity.hosts.max(1);
        }
        // What one host asks to wait does not hold up the next.
        let retry = retry.filter(|_| !wait.is_zero()).unwrap_or_default().min(LONGEST_WAIT);
        self.next = Some(now + wait.max(retry));
    }
}

/// Seconds that the registrar has granted this contact (RFC 3261 §10.2.4).
fn granted(response: &Message, contact: &str) -> Option<u32> {
    let ours = Uri::parse(contact)?;
    let same = |value: &&str| {
        NameAddr::parse(value).and_then(|address| Uri::parse(address.uri)).is_some_and(|uri| {
            (uri.user, uri.host.to_ascii_lowercase(), uri.port)
                == (ours.user, ours.host.to_ascii_lowercase(), ours.port)
        })
    };
    let contacts: Vec<&str> = response.list("Contact").collect();
    // A registrar that wrote our address anew (NAT) has no other contact.
    let only = if let [only] = contacts[..] { Some(only) } else { None };
    let own = contacts
        .into_iter()
        .find(same)
        .or(only)
        .and_then(|value| NameAddr::parse(value)?.param("expires")?.parse().ok());
    own.or_else(|| response.header("Expires")?.trim().parse().ok()).filter(|seconds| *seconds > 0)
}

fn renumbered(mut request: Message, cseq: u32) -> Message {
    request.headers.retain(|(name, _)| name != "CSeq");
    let method = match &request.start {
        Start::Request { method, .. } => method.as_str(),
        Start::Response { .. } => "",
    };
    request.with("CSeq", format!("{cseq} {method}"))
}

/// 0 to 1.
fn fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, ManualClock};

    const CONTACT: &str = "sip:box@192.0.2.1:5060";

    /// Answers so many challenges.
    fn password(mut answers: u32) -> impl FnMut(Message, &Message) -> Option<Message> + Send {
        move |request, _| {
            answers = answers.checked_sub(1)?;
            Some(request.with("Authorization", "Digest"))
        }
    }

    fn registration(clock: &ManualClock, hosts: usize) -> Registration {
        let identity = Identity {
            aor: "sip:box@example".into(),
            registrar: "sip:example".into(),
            expires: 600,
            hosts,
            call_id: "c".into(),
            tag: "t".into(),
        };
        Registration::new(identity, clock.now())
    }

    fn answer(to: &Message, status: u16) -> Message {
        Message::response(to, status, Some("x"))
    }

    fn wait(registration: &Registration, clock: &ManualClock) -> Duration {
        registration.due().expect("due").saturating_duration_since(clock.now())
    }

    #[test]
    fn a_challenge_is_answered_and_the_registration_refreshed_before_it_ends() {
        let (clock, mut password) = (ManualClock::default(), password(1));
        let mut it = registration(&clock, 1);
        let first = it.request(CONTACT);
        let second = it
            .on_response(Some(&answer(&first, 401)), CONTACT, &mut password, clock.now(), 0)
            .expect("the same with a digest");
        assert_eq!((second.cseq(), second.header("Authorization")), (Some(2), Some("Digest")));
        assert_eq!(second.call_id(), first.call_id());
        let granted = answer(&second, 200)
            .with("Contact", "<sip:other@192.0.2.9>;expires=20, <sip:box@192.0.2.1:5060>;expires=120")
            .with("Service-Route", "<sip:edge;lr>");
        assert!(it.on_response(Some(&granted), CONTACT, &mut password, clock.now(), 0).is_none());
        assert_eq!(it.state(), Registered::Until(clock.now() + Duration::from_secs(120)));
        assert_eq!(it.route(), ["<sip:edge;lr>"]);
        assert!((60..=90).contains(&wait(&it, &clock).as_secs()), "{:?}", wait(&it, &clock));
        clock.advance(wait(&it, &clock));
        let refresh = it.request(CONTACT);
        assert_eq!(refresh.cseq(), Some(3));
        // A refresh that fails does not end what was granted.
        assert!(it.on_response(None, CONTACT, &mut password, clock.now(), 0).is_none());
        assert!(matches!(it.state(), Registered::Until(_)));
    }

    #[test]
    fn a_wrong_password_is_not_tried_again_and_again() {
        let (clock, mut password) = (ManualClock::default(), password(1));
        let mut it = registration(&clock, 2);
        let mut request = it.request(CONTACT);
        while let Some(next) = it.on_response(Some(&answer(&request, 401)), CONTACT, &mut password, clock.now(), 0) {
            request = next;
        }
        assert_eq!((it.state(), it.host()), (Registered::Failed(401), 0));
        assert!(wait(&it, &clock) >= REFUSED_WAIT / 2);
    }

    #[test]
    fn a_dead_host_costs_no_time_and_a_dead_trunk_ever_more() {
        let (clock, mut nobody) = (ManualClock::default(), password(0));
        let mut it = registration(&clock, 2);
        let mut waits = Vec::new();
        for _ in 0..20 {
            let request = it.request(CONTACT);
            // How long one host asks to wait is not for the other.
            let answer = answer(&request, 503).with("Retry-After", "4");
            drop(it.on_response(Some(&answer), CONTACT, &mut nobody, clock.now(), u64::MAX));
            waits.push(wait(&it, &clock).as_secs_f64().round() as u64);
            clock.advance(wait(&it, &clock));
        }
        assert_eq!(waits[..8], [0, 5, 0, 10, 0, 20, 0, 40]);
        assert_eq!(waits[19], LONGEST_WAIT.as_secs());
        assert_eq!(it.host(), 0);
    }

    #[test]
    fn a_contact_that_was_written_anew_is_ours_if_there_is_no_other() {
        let (clock, mut nobody) = (ManualClock::default(), password(0));
        let mut it = registration(&clock, 1);
        let request = it.request(CONTACT);
        let granted = answer(&request, 200).with("Contact", "<sip:box@203.0.113.7:40000>;expires=60");
        assert!(it.on_response(Some(&granted), CONTACT, &mut nobody, clock.now(), 0).is_none());
        assert_eq!(it.state(), Registered::Until(clock.now() + Duration::from_secs(60)));
        // A refusal ends it, whatever was granted before: the account is closed.
        clock.advance(wait(&it, &clock));
        let request = it.request(CONTACT);
        assert!(it.on_response(Some(&answer(&request, 403)), CONTACT, &mut nobody, clock.now(), 0).is_none());
        assert_eq!(it.state(), Registered::Failed(403));
    }

    #[test]
    fn an_interval_that_is_too_short_is_made_longer() {
        let (clock, mut nobody) = (ManualClock::default(), password(0));
        let mut it = registration(&clock, 1);
        let request = it.request(CONTACT);
        let brief = answer(&request, 423).with("Min-Expires", "3600");
        let longer = it.on_response(Some(&brief), CONTACT, &mut nobody, clock.now(), 0).expect("again");
        assert_eq!(longer.header("Expires"), Some("3600"));
        let absurd = answer(&longer, 423).with("Min-Expires", "999999999");
        assert!(it.on_response(Some(&absurd), CONTACT, &mut nobody, clock.now(), 0).is_none());
        assert_eq!(it.state(), Registered::Failed(423));
    }
}
