//! Tokens, as they are made and recognised. Enters: text that somebody sends; leaves: whose token it is. A token is
//! `cbx_ID_SECRET`: the id finds it, the secret proves it. Of the secret only SHA-256 is kept: 256 random bits cannot be
//! guessed, so a slow hash would slow nobody but us.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Problem, calls};
use crate::storage::{StorageHandle, Timestamp, TokenRecord};

const PREFIX: &str = "cbx_";

/// Bytes of the public part and of the secret.
const ID: usize = 6;
const SECRET: usize = 32;

/// Draws a token: its text, its id, and what recognises it.
pub(super) fn draw() -> Result<(String, String, [u8; 32]), rand::rngs::SysError> {
    use rand::TryRng as _;
    let mut bytes = [0; ID + SECRET];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes)?;
    let (id, secret) = bytes.split_at(ID);
    let (id, secret) = (hex::encode(id), URL_SAFE_NO_PAD.encode(secret));
    let digest = Sha256::digest(secret.as_bytes()).into();
    Ok((format!("{PREFIX}{id}_{secret}"), id, digest))
}

/// The tokens that are known; read from the database once, and again when one was made or revoked.
#[derive(Default)]
pub(super) struct Keys(Mutex<Option<Arc<[TokenRecord]>>>);

impl Keys {
    /// The database holds others now.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn known(&self, storage: &StorageHandle) -> Result<Arc<[TokenRecord]>, Problem> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let read: Arc<[TokenRecord]> = calls::read(storage, StorageHandle::tokens).await?.into();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&read));
        Ok(read)
    }

    /// Whose token this is; none if it is nobody's, or has expired.
    pub(super) async fn find(
        &self,
        storage: &StorageHandle,
        text: &str,
        now: Timestamp,
    ) -> Result<Option<TokenRecord>, Problem> {
        let Some((id, secret)) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')) else {
            return Ok(None);
        };
        let digest: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let known = self.known(storage).await?;
        let found = known.iter().find(|token| token.id == id);
        Ok(found.filter(|token| bool::from(token.digest.ct_eq(&digest)) && token.expires > now).cloned())
    }

    /// Whether the token of this id is still worth something.
    pub(super) async fn holds(&self, storage: &StorageHandle, id: &str, now: Timestamp) -> bool {
        let known = self.known(storage).await;
        known.is_ok_and(|known| known.iter().any(|token| token.id == id && token.expires > now))
    }
}

/// Wrong tokens that an address may show at once, and how long it takes to forget one.
const BURST: f64 = 10.0;
const FORGOTTEN: Duration = Duration::from_secs(6);

/// Addresses that are remembered.
const ADDRESSES: usize = 1024;

/// Who shows wrong tokens, and how fast. It limits what guessing costs us; a right token is never refused for it, because
/// those behind one proxy share an address.
#[derive(Default)]
pub(super) struct Failures(Mutex<HashMap<IpAddr, (f64, Instant)>>);

impl Failures {
    /// Notes one; how long to wait if these were too many.
    pub(super) fn note(&self, ip: IpAddr, now: Instant) -> Option<Duration> {
        let ip = network(ip);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = |(level, at): (f64, Instant)| {
            (level - now.saturating_duration_since(at).as_secs_f64() / FORGOTTEN.as_secs_f64()).max(0.0)
        };
        if known.len() >= ADDRESSES && !known.contains_key(&ip) {
            known.retain(|_, entry| left(*entry) > 0.0);
            let mildest = known.iter().min_by(|(_, a), (_, b)| left(**a).total_cmp(&left(**b))).map(|(ip, _)| *ip);
            if let Some(mildest) = mildest.filter(|_| known.len() >= ADDRESSES) {
                known.remove(&mildest);
            }
        }
        let before = known.get(&ip).map_or(0.0, |entry| left(*entry));
        if before + 1.0 > BURST {
            known.insert(ip, (before, now));
            return Some(FORGOTTEN.mul_f64(before + 1.0 - BURST));
        }
        known.insert(ip, (before + 1.0, now));
        None
    }
}

/// Who has one address of IPv6 has all of its network.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => ip.into(),
            None => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        },
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock as _, ManualClock};

    #[test]
    fn a_token_is_256_bits_of_chance_and_is_not_kept() {
        let (text, id, digest) = draw().expect("random");
        let secret = text.strip_prefix(&format!("{PREFIX}{id}_")).expect("its parts");
        assert_eq!(URL_SAFE_NO_PAD.decode(secret).expect("base64").len(), SECRET);
        assert!(!hex::encode(digest).contains(secret));
        assert_ne!(draw().expect("random").0, text);
    }

    #[test]
    fn whoever_guesses_is_slowed_down_and_nobody_else() {
        let (failures, clock) = (Failures::default(), ManualClock::default());
        let at = |text: &str| text.parse::<IpAddr>().expect("an address");
        for _ in 0..10 {
            assert_eq!(failures.note(at("2001:db8::1"), clock.now()), None);
        }
        assert!(failures.note(at("2001:db8::2"), clock.now()).is_some(), "a network of IPv6 is one");
        assert_eq!(failures.note(at("192.0.2.1"), clock.now()), None);
        clock.advance(FORGOTTEN);
        assert_eq!(failures.note(at("2001:db8::1"), clock.now()), None);
        assert!(failures.note(at("2001:db8::1"), clock.now()).is_some());
        for n in 0..5000_u32 {
            failures.note(IpAddr::from(n.to_be_bytes()), clock.now());
        }
        assert!(failures.0.lock().expect("whole").len() <= ADDRESSES);
        assert!(failures.note(at("2001:db8::1"), clock.now()).is_some(), "the worst are not forgotten for others");
    }
}
