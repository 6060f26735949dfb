//! The keys of recordings. Enters: a secret of some lines, one key each, the newest first; leaves: the key to seal with, and
//! each of them to open what it has sealed. Prints no key.

use std::fmt;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Bytes of a key, of XChaCha20-Poly1305.
pub(super) const KEY: usize = 32;

/// Bytes of what a key is called.
pub(super) const ID: usize = 8;

/// Keys of one secret: a year of rotating every week.
const MOST: usize = 64;

/// A secret that is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeysError(String);

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) id: [u8; ID],
    pub(super) bytes: [u8; KEY],
}

/// The keys that there are.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct KeyRing(Vec<Key>);

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.0.len())
    }
}

impl KeyRing {
    /// Reads lines of 64 hexadecimal digits; empty ones and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// One sentence, with the line and without what it holds.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate().map(|(number, line)| (number + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut bytes = [0; KEY];
            hex::decode_to_slice(line, &mut bytes).map_err(|_| {
                KeysError(format!(
                    "line {number} is no key: 64 hexadecimal digits, as `callbox recording rotate` writes them"
                ))
            })?;
            keys.push(Key { id: id_of(&bytes), bytes });
        }
        match keys.len() {
            0 => Err(KeysError("there is no key in it: `callbox recording rotate` writes one".into())),
            1..=MOST => Ok(Self(keys)),
            many => Err(KeysError(format!("{many} keys are too many: remove those of recordings that are gone"))),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the newest is called; empty if there is none.
    #[must_use]
    pub fn newest_id(&self) -> String {
        self.newest().map(|key| hex::encode(key.id)).unwrap_or_default()
    }

    pub(super) fn newest(&self) -> Option<&Key> {
        self.0.first()
    }

    pub(super) fn find(&self, id: [u8; ID]) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id)
    }
}

/// A new secret: the new key, then those of before. `random` must not be predictable.
///
/// # Errors
/// What there was is no secret.
pub fn generate(before: Option<&str>, mut random: impl FnMut() -> u64) -> Result<String, KeysError> {
    let mut key = [0; KEY];
    key.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&random().to_le_bytes()));
    let mut text = format!(
        "# Keys of recordings, the newest first. Who removes one cannot hear what it has sealed.\n{}\n",
        hex::encode(key)
    );
    if let Some(before) = before {
        for key in KeyRing::parse(before)?.0 {
            // Writing to a string does not fail.
            writeln!(text, "{}", hex::encode(key.bytes)).unwrap_or_default();
        }
    }
    KeyRing::parse(&text)?;
    Ok(text)
}

/// What a key is called is no secret, and tells nothing of it.
fn id_of(key: &[u8; KEY]) -> [u8; ID] {
    let digest = Sha256::new().chain_update(b"callbox recording key").chain_update(key).finalize();
    let mut id = [0; ID];
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_puts_a_new_key_before_the_old_ones() {
        let mut next = 0;
        let mut random = || {
            next += 1;
            next
        };
        let first = generate(None, &mut random).expect("a secret");
        let second = generate(Some(&first), &mut random).expect("a secret");
        let (first, second) = (KeyRing::parse(&first).expect("keys"), KeyRing::parse(&second).expect("keys"));
        let old = first.newest().expect("a key");
        assert!(second.newest() != Some(old) && second.find(old.id) == Some(old));
        assert_eq!((first.0.len(), second.0.len()), (1, 2));
        assert_eq!(format!("{second:?}"), "KeyRing(2 keys)");
    }

    #[test]
    fn a_secret_that_is_none_is_told_without_a_digit_of_it() {
        let wrong = format!("# a comment\n{}\n", "12ab".repeat(15));
        assert_eq!(
            KeyRing::parse(&wrong).expect_err("too short").to_string(),
            "line 2 is no key: 64 hexadecimal digits, as `callbox recording rotate` writes them"
        );
        assert!(KeyRing::parse("\n# nothing\n").expect_err("empty").to_string().starts_with("there is no key in it"));
        let many = format!("{}\n", "ab".repeat(KEY)).repeat(MOST + 1);
        assert!(KeyRing::parse(&many).expect_err("many").to_string().contains("65 keys are too many"));
    }
}
