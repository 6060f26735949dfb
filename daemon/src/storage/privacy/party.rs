//! Who is at the far end, as one name. Enters: a number or an address as signalling has it, or as somebody types it;
//! leaves: the same name for the same person, or a keyed hash of it.

use std::fmt;

use ring::hmac;

/// What hashes begin with; no number does.
const HASHED: &str = "hmac:";

/// Bytes of a hash that are kept: two callers in 2^64 share one.
const KEPT: usize = 16;

/// The name that a number or an address is looked for by: the user without scheme, host and separators, `00` as `+`. A hash
/// stays what it is.
#[must_use]
pub fn party(text: &str) -> String {
    let text = text.trim().to_lowercase();
    if text.starts_with(HASHED) {
        return text;
    }
    let address = ["sip:", "sips:", "tel:"].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(&text);
    let address = address.split([';', '?']).next().unwrap_or_default();
    let user = address.split_once('@').map_or(address, |(user, _)| user);
    let digits: String = user.chars().filter(|c| !" -.()/".contains(*c)).collect();
    if !is_number(&digits) {
        return user.to_owned();
    }
    digits.strip_prefix("00").map_or_else(|| digits.clone(), |rest| format!("+{rest}"))
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'*' || byte == b'#')
}

/// The key of hashes. Prints nothing.
#[derive(Clone)]
pub struct HashKey(hmac::Key);

impl HashKey {
    /// From a secret; the configuration has seen to its length.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    /// The hash of a [`party`]; one of a hash is itself.
    #[must_use]
    pub fn hash(&self, party: &str) -> String {
        if party.starts_with(HASHED) {
            return party.to_owned();
        }
        let tag = hmac::sign(&self.0, party.as_bytes());
        format!("{HASHED}{}", hex::encode(tag.as_ref().get(..KEPT).unwrap_or_default()))
    }
}

/// Two keys are one if they hash alike.
impl PartialEq for HashKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash("") == other.hash("")
    }
}

impl Eq for HashKey {}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_person_has_one_name_however_it_is_written() {
        for (written, name) in [
            ("+49 30 123-45", "+493012345"),
            ("004930 (123) 45", "+493012345"),
            ("sip:+493012345@carrier.example;user=phone", "+493012345"),
            ("tel:+49-30-12345", "+493012345"),
            ("Alice.Smith@Example.com", "alice.smith"),
            ("sips:alice@192.0.2.1:5061", "alice"),
            ("anonymous", "anonymous"),
            ("*21#", "*21#"),
            ("", ""),
        ] {
            assert_eq!(party(written), name, "{written}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_the_name_of_itself_and_a_hash_that_of_its_person(text in ".{0,40}", key in ".{16,40}") {
            let key = HashKey::new(&key);
            let hash = key.hash(&party(&text));
            prop_assert_eq!(&party(&hash), &hash);
            prop_assert_eq!(&key.hash(&hash), &hash);
            prop_assert_eq!(hash.len(), HASHED.len() + 2 * KEPT);
        }

        #[test]
        fn numbers_are_found_with_and_without_what_people_put_between(digits in "[1-9][0-9]{5,14}", at in 1_usize..6) {
            let (head, tail) = digits.split_at(at);
            let name = format!("+{digits}");
            for written in [format!("+{head} {tail}"), format!("00{head}-{tail}"), format!("sip:+{digits}@x.example")] {
                prop_assert_eq!(party(&written), name.clone());
            }
        }
    }
}
