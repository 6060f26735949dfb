//! Keys in INFO requests, as gateways send them that know no telephone events. A content type and a body enter, a key
//! leaves. There is no standard: two forms are everywhere.

/// `application/dtmf-relay` says `Signal=5` in a line of its own, `application/dtmf` is the key alone.
#[must_use]
pub fn key(content_type: &str, body: &[u8]) -> Option<char> {
    let body = std::str::from_utf8(body).ok()?;
    let kind = content_type.split(';').next()?.trim();
    let signal = if kind.eq_ignore_ascii_case("application/dtmf-relay") {
        body.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("signal"))?
            .1
    } else if kind.eq_ignore_ascii_case("application/dtmf") {
        body
    } else {
        return None;
    };
    // Some say the number of the event (RFC 4733 §3.2).
    match signal.trim() {
        "10" => Some('*'),
        "11" => Some('#'),
        signal => {
            let mut letters = signal.chars().map(|letter| letter.to_ascii_uppercase());
            let first = letters.next().filter(|key| "0123456789*#ABCD".contains(*key));
            first.filter(|_| letters.next().is_none())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_are_read_and_nothing_else() {
        let relay = "application/dtmf-relay";
        assert_eq!(key(relay, b"Signal=5\r\nDuration=160\r\n"), Some('5'));
        assert_eq!(key("Application/DTMF-Relay; charset=utf-8", b"Duration= 100\nsignal = d"), Some('D'));
        assert_eq!(key(relay, b"Signal=11"), Some('#'));
        assert_eq!(key("application/dtmf", b"*\r\n"), Some('*'));
        for (kind, body) in
            [(relay, &b"Signal=\r\n"[..]), (relay, b"5"), ("application/dtmf", b"12"), ("text/plain", b"5")]
        {
            assert_eq!(key(kind, body), None);
        }
    }

    proptest! {
        #[test]
        fn any_body_is_survived(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            for kind in ["application/dtmf-relay", "application/dtmf"] {
                prop_assert!(key(kind, &body).is_none_or(|key| "0123456789*#ABCD".contains(key)));
            }
        }
    }
}
