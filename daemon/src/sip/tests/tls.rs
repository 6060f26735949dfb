//! Calls over TLS: who is believed, what stays open, what a reload changes.

use std::time::SystemTime;

use super::pki::{Pki, mode};
use super::*;
use crate::sip::{Call, CallEvent, ClientCertificates, DialRequest, EndReason, Tls, TlsFiles};

async fn secured(seed: u64, tls: Tls) -> (Endpoint, mpsc::Receiver<IncomingCall>) {
    let tls_at = vec!["127.0.0.1:0".parse().unwrap()];
    let config = EndpointConfig { udp: vec![], tcp: vec![], tls: tls_at, certificates: Some(tls), ..config(seed) };
    Endpoint::bind(config).await.unwrap()
}

fn to(uri: String) -> DialRequest {
    DialRequest { to: uri.into(), from_user: "tester".into(), sdp: OFFER.into(), ..DialRequest::default() }
}

fn at(b: &Endpoint, host: &str, scheme: &str) -> DialRequest {
    to(format!("{scheme}:desk@{host}:{};transport=tls", b.local_tls()[0].port()))
}

async fn up(a: &Endpoint, b: &mut (Endpoint, mpsc::Receiver<IncomingCall>), host: &str, scheme: &str) -> (Call, Call) {
    let out = a.dial(at(&b.0, host, scheme)).await.unwrap();
    let callee = soon(b.1.recv()).await.unwrap().answer(OFFER.into()).await.unwrap();
    let (caller, _) = soon(out.answered()).await.unwrap();
    (caller, callee)
}

async fn over(call: &mut Call) -> EndReason {
    loop {
        match soon(call.event()).await {
            CallEvent::Ended(reason) => return reason,
            _ => continue,
        }
    }
}

async fn refused(a: &Endpoint, how: DialRequest) {
    let outcome = soon(a.dial(how).await.unwrap().answered()).await;
    assert!(matches!(outcome, Err(EndReason::Rejected { status: 503, .. })), "{outcome:?}");
}

#[tokio::test]
async fn one_connection_carries_a_call_both_ways_and_a_reload_leaves_it_open() {
    let pki = Pki::new();
    pki.issue("box", "DNS:localhost,IP:127.0.0.1");
    pki.issue("renewed", "DNS:localhost,IP:127.0.0.1");
    let (a, _) =
        secured(60, Tls::load(&TlsFiles { ca: Some(pki.path("ca.pem")), ..TlsFiles::default() }).unwrap()).await;
    let mut b = secured(61, pki.load("box")).await;
    let (mut caller, callee) = up(&a, &mut b, "localhost", "sips").await;
    let (theirs, ours) = (caller.snapshot(), callee.snapshot());
    assert_eq!(ours.contact, format!("sips:callbox@{}", b.0.local_tls()[0]), "RFC 3261 §12.1.1");
    assert_eq!((theirs.flow.transport.name(), theirs.server_name.as_deref()), ("TLS", Some("localhost")));
    assert_eq!(theirs.remote_target.reveal(), &ours.contact);
    // Another certificate, for others.
    b.0.certify(pki.load("renewed"));
    assert!(b.0.certificates().unwrap().is_same(&pki.load("renewed")));
    callee.hangup().await;
    assert_eq!(over(&mut caller).await, EndReason::RemoteHangup, "the BYE came over the connection of the INVITE");
    assert_eq!((a.stats().transactions.connections, b.0.stats().transactions.connections), (1, 1));
    let (mut caller, callee) = up(&a, &mut b, "localhost", "sip").await;
    assert_eq!(a.stats().transactions.connections, 1, "used again");
    assert!(callee.snapshot().contact.ends_with(";transport=tls"));
    callee.hangup().await;
    over(&mut caller).await;
    assert_eq!(a.stats().transactions.handshakes_failed + b.0.stats().transactions.handshakes_failed, 0);
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority_and_name_or_by_its_very_certificate() {
    let pki = Pki::new();
    pki.issue("box", "DNS:box.example");
    // What PBXs make for themselves: an authority without any name of a host.
    pki.openssl("req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=PBX -keyout pbx.key -out pbx.pem");
    let trusting = |name: &str| Tls::load(&TlsFiles { ca: Some(pki.path(name)), ..TlsFiles::default() }).unwrap();
    let (a, _) = secured(62, trusting("ca.pem")).await;
    let mut b = secured(63, pki.load("box")).await;
    refused(&a, at(&b.0, "127.0.0.1", "sip")).await;
    let mut pbx = secured(64, pki.load("pbx")).await;
    refused(&a, at(&pbx.0, "localhost", "sip")).await;
    assert_eq!(a.stats().transactions.handshakes_failed, 2, "a wrong name, an unknown authority");
    a.certify(trusting("pbx.pem"));
    drop(up(&a, &mut pbx, "localhost", "sip").await);
    refused(&a, at(&b.0, "localhost", "sip")).await;
    assert!(b.1.try_recv().is_err(), "nobody was called whose certificate was not believed");
    // Without sip.ca the system's authorities count, and they know neither.
    a.certify(Tls::load(&TlsFiles::default()).unwrap());
    refused(&a, at(&b.0, "localhost", "sip")).await;
}

#[tokio::test]
async fn callers_without_a_certificate_are_turned_away_where_one_is_required() {
    let pki = Pki::new();
    pki.issue("box", "IP:127.0.0.1");
    pki.issue("caller", "DNS:caller.example");
    let asking = |client_certificates| {
        let client_ca = Some(pki.path("ca.pem"));
        Tls::load(&TlsFiles { client_ca, client_certificates, ..pki.files("box") }).unwrap()
    };
    let nobody = Tls::load(&TlsFiles { ca: Some(pki.path("ca.pem")), ..TlsFiles::default() }).unwrap();
    let (a, _) = secured(65, nobody).await;
    let mut b = secured(66, asking(ClientCertificates::Required)).await;
    let outcome = soon(a.dial(at(&b.0, "127.0.0.1", "sip")).await.unwrap().answered()).await;
    assert!(matches!(outcome, Err(EndReason::Rejected { .. } | EndReason::Timeout)), "{outcome:?}");
    until(&b.0, |s| s.transactions.handshakes_failed == 1).await;
    assert!(b.1.try_recv().is_err());
    a.certify(pki.load("caller"));
    until(&a, |s| s.transactions.connections == 0).await;
    drop(up(&a, &mut b, "127.0.0.1", "sip").await);
    let (c, _) =
        secured(67, Tls::load(&TlsFiles { ca: Some(pki.path("ca.pem")), ..TlsFiles::default() }).unwrap()).await;
    b.0.certify(asking(ClientCertificates::Optional));
    drop(up(&c, &mut b, "127.0.0.1", "sip").await);
}

#[test]
fn every_form_of_key_is_read_and_a_wrong_file_is_one_sentence() {
    let pki = Pki::new();
    pki.issue("box", "DNS:localhost");
    for (name, make) in [
        ("sec1", "ecparam -genkey -name prime256v1 -noout -out sec1.key"),
        ("pkcs1", "genrsa -traditional -out pkcs1.key 2048"),
        ("pkcs8", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out pkcs8.key"),
    ] {
        pki.openssl(make);
        pki.openssl(&format!("req -x509 -key {name}.key -days 30 -subj /CN={name} -out {name}.pem"));
        let tls = Tls::load(&pki.files(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let left = tls.expires().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!(left.as_secs() > 1_700_000_000, "{left:?}");
    }
    let sentence = |files: TlsFiles| {
        let text = Tls::load(&files).expect_err("wrong").to_string();
        assert!(!text.contains('\n') && text.contains("; "), "{text}");
        text
    };
    let good = pki.files("box");
    let wrong = sentence(TlsFiles { key: Some(pki.path("sec1.key")), ..good.clone() });
    assert!(wrong.starts_with("sip.key: ") && wrong.contains("is not the key of the certificate"), "{wrong}");
    let wrong = sentence(TlsFiles { key: good.certificate.clone(), ..good.clone() });
    assert!(wrong.contains("holds no private key"), "{wrong}");
    let wrong = sentence(TlsFiles { certificate: Some("/nonexistent.pem".into()), ..good.clone() });
    assert!(wrong.starts_with("sip.certificate: /nonexistent.pem cannot be read"), "{wrong}");
    let wrong = sentence(TlsFiles { certificate: good.key.clone(), ..good.clone() });
    assert!(wrong.contains("holds no certificate in PEM"), "{wrong}");
    let wrong = sentence(TlsFiles { client_ca: Some(pki.path("box.key")), ..good.clone() });
    assert!(wrong.starts_with("sip.client_ca: "), "{wrong}");
    let wrong = sentence(TlsFiles { ca: Some("/nonexistent.pem".into()), ..good.clone() });
    assert!(wrong.starts_with("sip.ca: "), "{wrong}");
    mode(good.key.as_ref().unwrap(), 0o644);
    let wrong = sentence(good);
    assert!(wrong.contains("may be read by everybody"), "{wrong}");
}
