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
        "m=audio 4000 RTP/AVP 18 8 0 96",
        "a=rtpmap:18 G729/8000",
        "a=rtpmap:96 telephone-event/8000",
        "a=ptime:30",
    ]);
    let (answer, media) = negotiate(&offer, &local()).unwrap();
    let keys = KeyEvents { send: 96, receive: 96, clock: 8000 };
    assert_eq!((media.codec, media.payload_type, media.telephone_event), (AudioCodec::Pcma, 8, Some(keys)));
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
    let offer = sdp(&["m=audio 4000 RTP/AVP 0", "a=rtpmap:0 speex/8000"]);
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
    let keys = KeyEvents { send: 101, receive: 101, clock: 8000 };
    assert_eq!((media.codec, media.telephone_event, media.comfort_noise), (AudioCodec::Pcma, Some(keys), true));
    assert_eq!((media.remote_rtp, at_peer.remote_rtp), (theirs.rtp, ours.rtp));
    // A version is only a number: the next SDP has the next one.
    let next = LocalMedia { version: 2, ..ours };
    assert!(offer(&next, Direction::Inactive).contains("o=- 7 2 IN"));
}

const WIDE: [&str; 6] = [
    "m=audio 4000 RTP/AVP 8 0 9 96 97 98",
    "a=rtpmap:96 opus/48000/2",
    "a=rtpmap:97 telephone-event/8000",
    "a=rtpmap:98 telephone-event/48000",
    "a=ptime:40",
    "a=maxptime:30",
];

#[test]
fn wideband_goes_first_unless_our_order_is_said() {
    use AudioCodec::{G722, Opus, Pcma, Pcmu};
    let chosen = |codecs: &[AudioCodec], strict| {
        let local = LocalMedia { codecs: codecs.to_vec(), strict, ..local() };
        let (answer, media) = negotiate(&sdp(&WIDE), &local).unwrap();
        (media.codec, media.telephone_event.unwrap().send, answer)
    };
    let (codec, keys, answer) = chosen(&AudioCodec::ALL, false);
    assert_eq!((codec, keys), (Opus, 98), "events of the codec's clock");
    assert!(answer.contains("m=audio 20000 RTP/AVP 96 98\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1"));
    assert!(answer.contains("a=ptime:30\r\n"), "as much as its longest: {answer}");
    assert_eq!(chosen(&[G722, Pcmu, Pcma], false).0, G722);
    assert_eq!(chosen(&[Pcmu, Pcma], false).0, Pcma, "the peer's order");
    assert_eq!(chosen(&[Pcmu, Pcma], true).0, Pcmu, "ours");
    let limit = "a=fmtp:96 useinbandfec=1; MaxAverageBitrate=16000 ;stereo=0";
    let limited = |codecs: &[AudioCodec]| {
        let local = LocalMedia { codecs: codecs.to_vec(), ..local() };
        negotiate(&sdp(&[&WIDE[..], &[limit]].concat()), &local).unwrap().1.max_bitrate
    };
    assert_eq!((limited(&[Opus]), limited(&[Pcmu])), (Some(16_000), None));
    assert_eq!(chosen(&[Pcmu, G722, Opus], true), (Pcmu, 97, chosen(&[Pcmu], true).2));
}

#[test]
fn numbers_of_either_side_are_kept_apart() {
    let ours = local();
    let text = offer(&ours, Direction::SendRecv);
    assert!(text.contains("m=audio 20000 RTP/AVP 111 9 0 8 13 101 110\r\n"), "{text}");
    // A peer that answers with numbers of its own, and with two codecs.
    let answer =
        sdp(&["m=audio 4000 RTP/AVP 96 8 120", "a=rtpmap:96 opus/48000/2", "a=rtpmap:120 telephone-event/48000"]);
    let media = read_answer(&answer, &ours).unwrap();
    assert_eq!((media.codec, media.payload_type), (AudioCodec::Opus, 96));
    assert_eq!(media.receive, [(111, AudioCodec::Opus), (8, AudioCodec::Pcma)]);
    assert_eq!(media.telephone_event, Some(KeyEvents { send: 120, receive: 110, clock: 48_000 }));
    // What the peer has numbered we offer with the same number next time.
    let mut ours = local();
    let (answer, media) = negotiate(&sdp(&WIDE), &ours).unwrap();
    ours.learn(&media, &answer);
    assert!(offer(&ours, Direction::SendRecv).contains("m=audio 20000 RTP/AVP 96 9 0 8 13 101 98\r\n"));
}

#[test]
fn a_later_offer_has_the_lines_and_the_profile_of_the_answer() {
    let crypto = format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 {KEY}");
    let lines = ["m=image 5000 udptl t38", "m=audio 4000 RTP/SAVPF 0", &crypto, "m=video 5002 RTP/AVP 31 32"];
    let mut ours = with(Encryption::Optional);
    let (answer, media) = negotiate(&sdp(&lines), &ours).unwrap();
    ours.learn(&media, &answer);
    let text = offer(&ours, Direction::SendRecv);
    let kept: Vec<_> = text.lines().filter(|line| line.starts_with("m=")).collect();
    assert_eq!(kept, ["m=image 0 udptl t38", "m=audio 20000 RTP/SAVPF 111 9 0 8 13 101 110", "m=video 0 RTP/AVP 31"]);
    let theirs = LocalMedia { rtp: "198.51.100.2:7000".parse().unwrap(), ..with(Encryption::Optional) };
    let (answer, _) = negotiate(&text, &theirs).unwrap();
    assert!(read_answer(&answer, &ours).unwrap().crypto.is_some());
}

const KEY: &str = "inline:MDAwMTAyMDMwNDA1MDYwNzA4MDkwYTBiMGMwZDBl";

fn with(encryption: Encryption) -> LocalMedia {
    LocalMedia { encryption, secret: Secret::draw(|| 7), ..local() }
}

#[test]
fn encryption_is_as_configured_on_either_side() {
    let crypto = format!("a=crypto:3 AES_CM_128_HMAC_SHA1_32 {KEY}|2^31");
    let (savp, avp) = ("m=audio 4000 RTP/SAVP 0", "m=audio 4002 RTP/AVP 0");
    let (off, optional, required) = (Encryption::Off, Encryption::Optional, Encryption::Required);
    let taken = |lines: &[&str], encryption| {
        negotiate(&sdp(lines), &with(encryption)).map(|(_, media)| (media.crypto.is_some(), media.remote_rtp.port()))
    };
    for (lines, expected) in [
        (&[savp, &crypto][..], [Err(SdpError::Encryption), Ok((true, 4000)), Ok((true, 4000))]),
        (&[avp], [Ok((false, 4002)), Ok((false, 4002)), Err(SdpError::Encryption)]),
        (&[avp, &crypto], [Ok((false, 4002)), Ok((true, 4002)), Ok((true, 4002))]),
        (&[avp, savp, &crypto], [Ok((false, 4002)), Ok((true, 4000)), Ok((true, 4000))]),
        (&[savp], [Err(SdpError::Encryption); 3]),
    ] {
        assert_eq!([off, optional, required].map(|encryption| taken(lines, encryption)), expected, "{lines:?}");
    }
    let (answer, media) = negotiate(&sdp(&[savp, &crypto]), &with(required)).unwrap();
    assert!(answer.contains("RTP/SAVP 0\r\n") && answer.contains("a=crypto:3 AES_CM_128_HMAC_SHA1_32 inline:"));
    let keys = media.crypto.unwrap();
    assert_eq!((keys.suite, &keys.receive[..4]), (Suite::AesCm32, &b"0001"[..]));
    assert!(!format!("{keys:?}{:?}", with(required)).contains("48"), "no key is printed");
}

#[test]
fn both_ends_have_each_others_keys() {
    for (encryption, profile) in [(Encryption::Optional, "RTP/AVP "), (Encryption::Required, "RTP/SAVP ")] {
        let caller = with(encryption);
        let callee = LocalMedia { secret: Secret::draw(|| 9), ..with(encryption) };
        let text = offer(&caller, Direction::SendRecv);
        assert!(text.contains(profile) && text.matches("a=crypto:").count() == 4, "{text}");
        let (answer, theirs) = negotiate(&text, &callee).unwrap();
        let (ours, theirs) = (read_answer(&answer, &caller).unwrap().crypto.unwrap(), theirs.crypto.unwrap());
        assert_eq!((ours.send, ours.receive), (theirs.receive, theirs.send.clone()));
        // A re-INVITE keeps our key.
        assert_eq!(negotiate(&text, &callee).unwrap().1.crypto.unwrap().send, theirs.send);
        let plain = answer.lines().filter(|line| !line.starts_with("a=crypto")).collect::<Vec<_>>().join("\r\n");
        let expected = if encryption == Encryption::Required { Err(SdpError::Encryption) } else { Ok(None) };
        assert_eq!(read_answer(&plain, &caller).map(|media| media.crypto), expected);
    }
}

#[test]
fn keys_that_we_cannot_use_are_left_out() {
    let usable = format!("a=crypto:9 AES_CM_128_HMAC_SHA1_80 {KEY} KDR=0 WSH=64");
    for bad in [
        format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 {KEY}|2^20|1:4"),
        format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 {KEY};{KEY}"),
        format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 {KEY} UNENCRYPTED_SRTP"),
        format!("a=crypto:1 F8_128_HMAC_SHA1_80 {KEY}"),
        format!("a=crypto:1 AEAD_AES_128_GCM {KEY}"),
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:nonsense!".into(),
        "a=crypto".into(),
    ] {
        let text = sdp(&["m=audio 4000 RTP/SAVP 0", &bad, &usable]);
        let (answer, _) = negotiate(&text, &with(Encryption::Required)).unwrap();
        assert!(answer.contains("a=crypto:9 "), "{bad}");
        let text = sdp(&["m=audio 4000 RTP/SAVP 0", &bad]);
        assert_eq!(negotiate(&text, &with(Encryption::Required)), Err(SdpError::Encryption), "{bad}");
    }
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
        let opus = "a=rtpmap:97 opus/48000/2";
        let mut lines = vec!["m=video 6000 RTP/AVP 99"; extra];
        lines.extend([line.as_str(), opus]);
        if hold { lines.push("a=sendonly"); }
        match negotiate(&sdp(&lines), &local()) {
            Ok((answer, media)) => {
                prop_assert_eq!(answer.matches("m=").count(), extra + 1);
                let mut theirs = LocalMedia::new("10.0.0.9:4000".parse().unwrap(), 1);
                theirs.numbers.opus = 97;
                let read = read_answer(&answer, &theirs).unwrap();
                prop_assert_eq!((read.codec, read.payload_type), (media.codec, media.payload_type));
                prop_assert_eq!(read.remote_rtp, local().rtp);
            }
            Err(error) => prop_assert_eq!(error, SdpError::NoCommonCodec),
        }
    }
}
