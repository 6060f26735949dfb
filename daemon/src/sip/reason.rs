//! Why a call ended, as the other side is told and tells (RFC 3326). Enters: the end of a call, or a request; leaves: a
//! Reason header, or a protocol and a number. Never here: the text beside it, which may say anything of anybody.

use super::dialog::EndReason;
use super::message::Message;

/// The header of a BYE of ours; Q.850 causes where there is one.
pub(super) fn of(end: &EndReason) -> &'static str {
    match end {
        EndReason::NoAck => "SIP;cause=408;text=\"ACK not received\"",
        EndReason::Timeout => "Q.850;cause=102;text=\"Recovery on timer expiry\"",
        EndReason::Shutdown => "Q.850;cause=41;text=\"Temporary failure\"",
        _ => "Q.850;cause=16;text=\"Normal call clearing\"",
    }
}

/// The header of a CANCEL of ours.
pub(super) const CANCELLED: &str = "SIP;cause=487;text=\"Request Terminated\"";

/// Protocol and cause of a request's first Reason: `SIP` and a status, `Q.850` and a cause.
pub(super) fn read(request: &Message) -> Option<(&'static str, u16)> {
    let mut parts = request.list("Reason").next()?.split(';').map(str::trim);
    let protocol = parts.next()?;
    let protocol = ["SIP", "Q.850"].into_iter().find(|known| known.eq_ignore_ascii_case(protocol)).unwrap_or("other");
    let cause = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("cause").then(|| value.trim().parse().ok())?
    })?;
    Some((protocol, cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::Method;

    #[test]
    fn only_protocol_and_cause_are_read() {
        let bye = |reason: &str| Message::request(Method::Bye, "sip:a@b").with("Reason", reason);
        assert_eq!(read(&bye("q.850 ;cause= 16 ;text=\"Alice, bye\"")), Some(("Q.850", 16)));
        assert_eq!(read(&bye("SIP;cause=200, Q.850;cause=26")), Some(("SIP", 200)));
        assert_eq!(read(&bye("X.1;text=\"+4930\";cause=1")), Some(("other", 1)));
        assert_eq!(read(&bye("SIP;text=\"no cause\"")), None);
        assert_eq!(read(&bye(of(&EndReason::LocalHangup))), Some(("Q.850", 16)));
    }
}
