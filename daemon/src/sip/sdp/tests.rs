//! Real-life offers, then any offers.

use super::*;
use proptest::prelude::*;

fn local() -> LocalMedia {
    LocalMedia::new("192.0.2.1:20000".parse().unwrap(), 7)
}

fn sdp(lines: &[&str]) -> String {
    let mut text = "v=0\r\no=x 1 1 IN IP4 10.0.0.9\r\ns=-\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\n".to_owned();
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text
}

#[test]
fn the_offerers_first_common_codec_wins() {
    let offer = sdp(&[
        "m=audio 4000 RTP/AVP 9 8 0 96",
        "a=rtpmap:9 G722/8000",
        "a=rtpmap:96 telephone-event/8000",
        "a=ptime:30",
    ]);
    let (answer, media) = negotiate(&offer, &local()).unwrap();
    assert_eq!((media.codec, media.payload_type, media.telephone_event), (AudioCodec::Pcma, 8, Some(96)));
    assert_eq!(
        (media.remote_rtp, media.remote_rtcp),
        ("10.0.0.9:4000".parse().unwrap(), "10.0.0.9:4001".parse().unwrap())
    );
    assert_eq!((media.ptime_ms, media.direction), (30, Direction::SendRecv));
    assert!(answer.contains("m=audio 20000 RTP/AVP 8 96\r\n"), "{answer}");
    assert!(answer.contains("o=- 7 1 IN IP4 192.0.2.1\r\n"));
}

#[test]
fn a_dynamic_payload_type_keeps_its_number() {
    let offer = sdp(&["m=audio 4000 RTP/AVP 110", "a=rtpmap:110 pcmu/8000/1"]);
    let (answer, media) = negotiate(&offer, &local()).unwrap();
    assert_eq!((media.codec, media.payload_type), (AudioCodec::Pcmu, 110));
    assert!(answer.contains("a=rtpmap:110 PCMU/8000"));
    // A static number that is mapped to something else is that something else.
    let offer = sdp(&["m=audio 4000 RTP/AVP 0", "a=rtpmap:0 opus/48000/2"]);
    assert_eq!(negotiate(&offer, &local()), Err(SdpError::NoCommonCodec));
}

#[test]
fn other_lines_are_refused_in_their_places() {
    let offer = sdp(&[
        "m=image 5000 udptl t38",
        "m=audio 4000 RTP/SAVP 0",
        "m=audio 4002 RTP/AVP 0",
        "m=video 5002 RTP/AVP 31 32",
    ]);
    let (answer, media) = negotiate(&offer, &local()).unwrap();
    let lines: Vec<&str> = answer.lines().filter(|l| l.starts_with("m=")).collect();
    assert_eq!(
        lines,
        ["m=image 0 udptl t38", "m=audio 0 RTP/SAVP 0", "m=audio 20000 RTP/AVP 0", "m=video 0 RTP/AVP 31"]
    );
    assert_eq!(media.remote_rtp.port(), 4002);
}

#[test]
fn hold_in_all_its_spellings() {
    let direction = |lines: &[&str]| negotiate(&sdp(lines), &local()).unwrap().1.direction;
    assert_eq!(direction(&["m=audio 4000 RTP/AVP 0", "a=sendonly"]), Direction::RecvOnly);
    assert_eq!(direction(&["m=audio 4000 RTP/AVP 0", "a=inactive"]), Direction::Inactive);
    assert_eq!(direction(&["a=sendonly", "m=audio 4000 RTP/AVP 0"]), Direction::RecvOnly);
    assert_eq!(direction(&["m=audio 4000 RTP/AVP 0", "c=IN IP4 0.0.0.0"]), Direction::RecvOnly);
    let (answer, _) = negotiate(&sdp(&["m=audio 4000 RTP/AVP 0", "a=sendonly"]), &local()).unwrap();
    assert!(answer.contains("a=recvonly\r\n"));
}

#[test]
fn rtcp_by_attribute_by_mux_and_ipv6() {
    let read = |lines: &[&str]| negotiate(&sdp(lines), &local()).unwrap();
    let (_, media) = read(&["m=audio 4000 RTP/AVP 0", "a=rtcp:5555 IN IP4 10.9.9.9"]);
    assert_eq!(media.remote_rtcp, "10.9.9.9:5555".parse().unwrap());
    let (answer, media) = read(&["m=audio 4000 RTP/AVP 0", "a=rtcp-mux"]);
    assert!(media.rtcp_mux && media.remote_rtcp == media.remote_rtp && answer.contains("a=rtcp-mux"));
    let (_, media) = read(&["m=audio 4000 RTP/AVP 0", "c=IN IP6 2001:db8::1"]);
    assert_eq!(media.remote_rtp, "[2001:db8::1]:4000".parse().unwrap());
    let six = LocalMedia::new("[2001:db8::2]:30000".parse().unwrap(), 1);
    assert!(offer(&six, Direction::SendRecv).contains("c=IN IP6 2001:db8::2\r\n"));
}

#[test]
fn sloppy_ends_are_read_and_nonsense_refused() {
    for end in ["\0", "  \r\n\r\n", "\0\0\r\n"] {
        let text = sdp(&["m=audio 4000 RTP/AVP 0"]) + end;
        assert!(negotiate(&text, &local()).is_ok(), "{end:?}");
    }
    assert_eq!(negotiate("", &local()), Err(SdpError::Malformed));
    assert_eq!(negotiate(&sdp(&["m=audio 0 RTP/AVP 0"]), &local()), Err(SdpError::NoAudio));
    assert_eq!(negotiate(&sdp(&["m=audio 4000 RTP/AVP 18"]), &local()), Err(SdpError::NoCommonCodec));
    assert_eq!(negotiate(&sdp(&["m=audio 4000 RTP/AVP 0", "c=IN IP4 some.host"]), &local()), Err(SdpError::NoAddress));
}

#[test]
fn an_answer_to_our_offer_is_read() {
    let ours = local();
    let mut theirs = LocalMedia::new("198.51.100.2:7000".parse().unwrap(), 9);
    theirs.codecs = vec![AudioCodec::Pcma];
    let (answer, at_peer) = negotiate(&offer(&ours, Direction::SendRecv), &theirs).unwrap();
    let media = read_answer(&answer, &ours).unwrap();
    assert_eq!((media.codec, media.telephone_event), (AudioCodec::Pcma, Some(101)));
    assert_eq!((media.remote_rtp, at_peer.remote_rtp), (theirs.rtp, ours.rtp));
    // A version is only a number: the next SDP has the next one.
    let next = LocalMedia { version: 2, ..ours };
    assert!(offer(&next, Direction::Inactive).contains("o=- 7 2 IN"));
}

proptest! {
    #[test]
    fn any_text_is_survived(text in ".{0,300}") {
        drop(negotiate(&text, &local()));
    }

    #[test]
    fn any_lines_are_survived(lines in proptest::collection::vec("[acmotsb]=[ -~]{0,40}", 0..12)) {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        drop(negotiate(&sdp(&lines), &local()));
    }

    /// What one side answers, the other reads; the answer has as many m= lines as the offer.
    #[test]
    fn answers_fit_offers(
        formats in proptest::collection::vec(0_u8..128, 1..8),
        extra in 0_usize..4,
        hold in any::<bool>(),
    ) {
        let formats: Vec<String> = formats.iter().map(u8::to_string).collect();
        let line = format!("m=audio 4000 RTP/AVP {}", formats.join(" "));
        let mut lines = vec!["m=video 6000 RTP/AVP 99"; extra];
        lines.push(&line);
        if hold { lines.push("a=sendonly"); }
        match negotiate(&sdp(&lines), &local()) {
            Ok((answer, media)) => {
                prop_assert_eq!(answer.matches("m=").count(), extra + 1);
                let theirs = LocalMedia::new("10.0.0.9:4000".parse().unwrap(), 1);
                let read = read_answer(&answer, &theirs).unwrap();
                prop_assert_eq!((read.codec, read.payload_type), (media.codec, media.payload_type));
                prop_assert_eq!(read.remote_rtp, local().rtp);
            }
            Err(error) => prop_assert_eq!(error, SdpError::NoCommonCodec),
        }
    }
}
