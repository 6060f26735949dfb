//! A request that was challenged, with the answer. Enters: the request, its 401 or 407; leaves: the request for another
//! try, or nothing where a try would be in vain.

use super::{Challenge, Credentials};
use crate::sip::message::{Message, Start};

/// The same request with digests for all that this response asks for. Via and CSeq are still those of before. None if it
/// asks for nothing that we can answer, or says that the password is wrong: it was given already, and the nonce was fresh.
#[must_use]
pub fn authorised(
    mut request: Message,
    response: &Message,
    credentials: &Credentials,
    cnonce: &str,
) -> Option<Message> {
    let challenges = Challenge::parse_all(response);
    let Start::Request { method, uri } = &request.start else { return None };
    let (method, uri) = (method.as_str(), uri.clone());
    let given = |challenge: &Challenge| {
        let realm = format!("realm=\"{}\"", challenge.realm);
        request.all(answer_to(challenge)).any(|value| value.contains(&realm))
    };
    if challenges.is_empty() || challenges.iter().any(|challenge| given(challenge) && !challenge.stale) {
        return None;
    }
    let answers: Vec<_> = challenges
        .iter()
        .map(|challenge| credentials.answer(challenge, method, &uri, &request.body, 1, cnonce))
        .collect();
    for challenge in &challenges {
        // The answer to a proxy of the same realm stays: both ask for their own.
        let (realm, answer) = (format!("realm=\"{}\"", challenge.realm), answer_to(challenge));
        request.headers.retain(|(name, value)| !(name == answer && value.contains(&realm)));
    }
    Some(answers.into_iter().fold(request, |request, (name, value)| request.with(name, value)))
}

const fn answer_to(challenge: &Challenge) -> &'static str {
    if challenge.proxy { "Proxy-Authorization" } else { "Authorization" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Secret;
    use crate::sip::message::Method;

    #[test]
    fn a_password_is_given_once_to_each_realm_and_again_for_a_stale_nonce() {
        let credentials = Credentials::new("box", Secret::new("s3cret"));
        let request = Message::request(Method::Invite, "sip:1@h").with("Call-ID", "c");
        let asks = |status, headers: &[(&str, &str)]| {
            headers.iter().fold(Message::response(&request, status, None), |m, (name, value)| m.with(name, *value))
        };
        let digest = |rest: &str| format!("Digest realm=\"a\", nonce=\"{rest}");
        let first = asks(401, &[("WWW-Authenticate", &digest("1\""))]);
        let second = authorised(request.clone(), &first, &credentials, "x").expect("answered");
        assert!(second.header("Authorization").is_some_and(|value| value.contains("nonce=\"1\"")));
        assert!(
            authorised(second.clone(), &asks(401, &[("WWW-Authenticate", &digest("2\""))]), &credentials, "x")
                .is_none()
        );
        let stale = asks(401, &[("WWW-Authenticate", &digest("3\", stale=TRUE"))]);
        let third = authorised(second, &stale, &credentials, "x").expect("again");
        assert_eq!(third.all("Authorization").count(), 1);
        // A proxy behind it asks for its own.
        let proxy = asks(407, &[("Proxy-Authenticate", "Digest realm=\"p\", nonce=\"9\"")]);
        let fourth = authorised(third, &proxy, &credentials, "x").expect("one more realm");
        let digests =
            |message: &Message| (message.all("Authorization").count(), message.all("Proxy-Authorization").count());
        assert_eq!(digests(&fourth), (1, 1));
        // One of the same realm behind the registrar's.
        let proxy = asks(407, &[("Proxy-Authenticate", &digest("5\""))]);
        let fifth = authorised(fourth, &proxy, &credentials, "x").expect("the proxy's own");
        assert_eq!(digests(&fifth), (1, 2));
        assert!(authorised(request.clone(), &asks(401, &[]), &credentials, "x").is_none());
    }
}
