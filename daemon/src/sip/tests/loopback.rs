//! Our own UAC against our own UAS, and the handles' promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::sip::{Call, CallEvent, DialRequest, EndReason, OutgoingCall, Phase, Progress, SipError, Transport};

fn request_to(to: &Endpoint, transport: Transport) -> DialRequest {
    let address = match transport {
        Transport::Udp => to.local_udp()[0],
        Transport::Tcp => to.local_tcp()[0],
        Transport::Tls => unreachable!("see `tls`"),
    };
    DialRequest {
        to: format!("sip:frontdesk@{address}").into(),
        from_user: "tester".into(),
        transport: Some(transport),
        sdp: OFFER.into(),
        ..DialRequest::default()
    }
}

async fn ended(call: &mut Call) -> EndReason {
    loop {
        if let CallEvent::Ended(reason) = soon(call.event()).await {
            return reason;
        }
    }
}

async fn established(
    a: &Endpoint,
    b: &Endpoint,
    incoming: &mut mpsc::Receiver<IncomingCall>,
    transport: Transport,
) -> (Call, Call) {
    let mut out = a.dial(request_to(b, transport)).await.unwrap();
    let ring = soon(incoming.recv()).await.unwrap();
    assert_eq!((ring.to_user.as_str(), ring.offer.as_deref()), ("frontdesk", Some(OFFER)));
    assert!(ring.from.reveal().starts_with("sip:tester@127.0.0.1"), "{}", ring.from.reveal());
    ring.ringing().await.unwrap();
    assert_eq!(soon(out.progress()).await, Progress::Provisional { status: 180, sdp: None });
    let mut callee = ring.answer("v=0 answer".into()).await.unwrap();
    let (caller, sdp) = soon(out.answered()).await.unwrap();
    assert_eq!(sdp.as_deref(), Some("v=0 answer"));
    assert!(matches!(soon(callee.event()).await, CallEvent::Confirmed { answer: None }));
    assert_eq!((caller.snapshot().phase, callee.snapshot().phase), (Phase::Confirmed, Phase::Confirmed));
    (caller, callee)
}

#[tokio::test]
async fn calls_over_udp_and_tcp_end_from_both_sides_and_leave_nothing() {
    let (a, _) = endpoint(1).await;
    let (b, mut incoming) = endpoint(2).await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let (mut caller, mut callee) = established(&a, &b, &mut incoming, transport).await;
        caller.hangup().await;
        assert_eq!(ended(&mut callee).await, EndReason::RemoteHangup);
        assert_eq!(ended(&mut caller).await, EndReason::LocalHangup);
        let (mut caller, callee) = established(&a, &b, &mut incoming, transport).await;
        drop(callee);
        assert_eq!(ended(&mut caller).await, EndReason::RemoteHangup);
        assert_eq!(ended(&mut caller).await, EndReason::RemoteHangup, "said again");
    }
    until_empty(&a).await;
    until_empty(&b).await;
    a.shutdown(PATIENCE).await;
    b.shutdown(PATIENCE).await;
    assert!(matches!(a.dial(request_to(&b, Transport::Udp)).await, Err(SipError::Closed)));
}

#[tokio::test]
async fn refusals_reach_the_caller_with_code_and_phrase() {
    let (a, _) = endpoint(3).await;
    let (b, mut incoming) = endpoint(4).await;
    let refused = async |out: OutgoingCall| match soon(out.answered()).await {
        Err(EndReason::Rejected { status, .. }) => status,
        other => panic!("{other:?}"),
    };
    let out = a.dial(request_to(&b, Transport::Udp)).await.unwrap();
    soon(incoming.recv()).await.unwrap().reject(486, "Busy Here", Some(5)).await.unwrap();
    assert_eq!(refused(out).await, 486);
    let out = a.dial(request_to(&b, Transport::Udp)).await.unwrap();
    drop(soon(incoming.recv()).await);
    assert_eq!(refused(out).await, 480);
    b.drain().await;
    let out = a.dial(request_to(&b, Transport::Udp)).await.unwrap();
    assert_eq!(refused(out).await, 503);
    b.take_calls().await;
    let out = a.dial(request_to(&b, Transport::Udp)).await.unwrap();
    drop(soon(incoming.recv()).await);
    assert_eq!(refused(out).await, 480);
    drop(incoming);
    let nobody = DialRequest { to: "sip:x@127.0.0.1:1".to_owned().into(), ..request_to(&b, Transport::Tcp) };
    assert_eq!(refused(a.dial(nobody).await.unwrap()).await, 503);
    let bad = DialRequest { to: "tel:+1".to_owned().into(), ..request_to(&b, Transport::Udp) };
    assert!(matches!(a.dial(bad).await, Err(SipError::BadTarget)));
    until_empty(&a).await;
    until_empty(&b).await;
}

#[tokio::test]
async fn cancel_reaches_the_callee() {
    let (a, _) = endpoint(5).await;
    let (b, mut incoming) = endpoint(6).await;
    let out = a.dial(request_to(&b, Transport::Udp)).await.unwrap();
    let ring = soon(incoming.recv()).await.unwrap();
    ring.ringing().await.unwrap();
    out.cancel().await;
    assert_eq!(soon(ring.cancelled()).await, EndReason::Cancelled);
    assert!(ring.answer(OFFER.into()).await.is_err());
    until_empty(&a).await;
    until_empty(&b).await;
}

#[tokio::test]
async fn a_restored_call_hangs_up_from_another_endpoint() {
    let (a, _) = endpoint(7).await;
    let (b, mut incoming) = endpoint(8).await;
    let (mut caller, callee) = established(&a, &b, &mut incoming, Transport::Udp).await;
    let json = serde_json::to_string(&callee.snapshot()).unwrap();
    let (_c, _, restored) = Endpoint::resume(config(9), vec![serde_json::from_str(&json).unwrap()]).await.unwrap();
    restored[0].hangup().await;
    assert_eq!(ended(&mut caller).await, EndReason::RemoteHangup);
}

#[tokio::test]
async fn a_panic_of_ours_ends_one_call_and_the_others_go_on() {
    let (a, _) = endpoint(14).await;
    let (broken, mut good) = (Arc::new(AtomicBool::new(false)), seeded(15));
    let breaks = Arc::clone(&broken);
    let random = Box::new(move || {
        assert!(!breaks.swap(false, Ordering::AcqRel), "a bug of ours");
        good()
    });
    let (b, mut incoming) = Endpoint::bind(EndpointConfig { random, ..config(15) }).await.unwrap();
    let (mut unlucky, mut callee) = established(&a, &b, &mut incoming, Transport::Udp).await;
    let (lucky, mut other) = established(&a, &b, &mut incoming, Transport::Udp).await;
    // BYE wants a branch.
    broken.store(true, Ordering::Release);
    callee.hangup().await;
    assert_eq!((ended(&mut unlucky).await, ended(&mut callee).await), (EndReason::RemoteHangup, EndReason::Timeout));
    lucky.hangup().await;
    assert_eq!(ended(&mut other).await, EndReason::RemoteHangup);
    until_empty(&a).await;
    until_empty(&b).await;
}

#[tokio::test]
async fn a_bind_error_says_where_and_what_to_do() {
    let (a, _) = endpoint(10).await;
    let taken = EndpointConfig { udp: a.local_udp().to_vec(), ..config(11) };
    let error = Endpoint::bind(taken).await.err().unwrap().to_string();
    assert!(error.contains(&a.local_udp()[0].to_string()) && error.contains("configure another port"), "{error}");
}

/// Runs a call with this log filter and returns what was logged.
fn log_of_a_call(filter: &str) -> String {
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::default();
    let writer = sink.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(move || writer.clone())
        .finish();
    // One thread, so that its subscriber sees every task.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let (a, _) = endpoint(12).await;
            let (b, mut incoming) = endpoint(13).await;
            let (caller, mut callee) = established(&a, &b, &mut incoming, Transport::Udp).await;
            caller.hangup().await;
            ended(&mut callee).await;
        });
    });
    let bytes = sink.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn no_message_text_reaches_the_log() {
    // As `telemetry` has it. Everything worth knowing is reported by this room itself.
    let muted = log_of_a_call("trace,rsipstack=off");
    for secret in ["tester", "frontdesk", "INVITE sip", "m=audio", "Call-ID"] {
        assert!(!muted.contains(secret), "{secret} in {muted}");
    }
    // The test can fail: else the crate below tells everything.
    assert!(log_of_a_call("info").contains("m=audio"));
}
