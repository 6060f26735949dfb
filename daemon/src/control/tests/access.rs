//! Who may do what, and what is noted of it.

use super::*;

#[test]
fn tokens_say_who_it_is_and_no_other_token_does() {
    let house = house();
    let socket = house.folder.path().join("control.sock");
    assert_eq!(house.ask("GET", "/api/v1/calls", None, None).0, 401);
    for wrong in ["", "x", "cbx_00_00", "cbx_"] {
        assert_eq!(house.ask("GET", "/api/v1/calls", Some(wrong), None).0, 401, "{wrong}");
    }
    let viewer = house.token(Scope::Viewer);
    assert_eq!(house.ask("GET", "/api/v1/calls", Some(&viewer), None).0, 200);
    let (short, secret) = viewer.split_at(viewer.len() - 1);
    let other = if secret == "A" { "B" } else { "A" };
    assert_eq!(house.ask("GET", "/api/v1/calls", Some(&format!("{short}{other}")), None).0, 401);

    let (status, made) = posted(&socket, "/api/v1/tokens", r#"{"name":"eve","scope":"operator","expires_s":60}"#);
    assert_eq!(status, 201);
    let eve = made["token"].as_str().expect("a token");
    assert_eq!(posted(&socket, "/api/v1/tokens", r#"{"name":"eve","scope":"admin","expires_s":60}"#).0, 409);
    assert_eq!(house.ask("GET", "/api/v1/agents", Some(eve), None).0, 200);
    let listed = house.unix("/api/v1/tokens").to_string();
    assert!(listed.contains("\"eve\"") && !listed.contains(eve), "{listed}");
    assert_eq!(order(&socket, "DELETE", "/api/v1/tokens/eve").0, 200);
    assert_eq!(order(&socket, "DELETE", "/api/v1/tokens/eve").0, 404);
    assert_eq!(house.ask("GET", "/api/v1/agents", Some(eve), None).0, 401, "revoked");
    for bad in [r#"{"name":"a b","scope":"admin","expires_s":60}"#, r#"{"name":"a","scope":"admin","expires_s":0}"#] {
        assert_eq!(posted(&socket, "/api/v1/tokens", bad).0, 400, "{bad}");
    }
    let file = std::fs::read(house.folder.path().join("callbox.db")).expect("a database");
    let wal = std::fs::read(house.folder.path().join("callbox.db-wal")).unwrap_or_default();
    let secret = viewer.rsplit('_').next().expect("a secret").as_bytes();
    assert!(![file, wal].iter().any(|bytes| bytes.windows(secret.len()).any(|found| found == secret)));
}

#[test]
fn a_token_is_worth_nothing_once_it_has_expired_and_outlives_the_daemon_until_then() {
    use crate::base::ManualClock;
    let folder = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(ManualClock::default());
    let (control, state, storage, _queue) = start(&folder, clock.clone());
    let house = House { control, state, storage, folder, queue: _queue };
    let token = house.token(Scope::Viewer);
    let House { control, state, storage, folder, .. } = house;
    drop((control, state));
    storage.close();
    let (control, state, storage, queue) = start(&folder, clock.clone());
    let house = House { control, state, storage, folder, queue };
    assert_eq!(house.ask("GET", "/api/v1/drain", Some(&token), None).0, 200);
    clock.advance(Duration::from_secs(61));
    assert_eq!(house.ask("GET", "/api/v1/drain", Some(&token), None).0, 401);
}

#[test]
fn every_path_asks_for_the_scope_that_its_document_names() {
    let house = house();
    let (tokens, mut tried) = (Scope::ALL.map(|scope| (scope, house.token(scope))), 0);
    let document = house.unix("/api/v1/openapi.json");
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let path = path.replace("{id}", "ab").replace("{name}", "nobody").replace("{kind}", "summary");
            let needs = operation["security"][0]["token"][0].as_str();
            // A socket's path is refused to everybody over TCP; events never end.
            if path.ends_with("/events") {
                continue;
            }
            let ask = |token: Option<&str>| house.ask(&method.to_uppercase(), &path, token, None).0;
            let local = operation["responses"].get("403").is_some() && needs.is_none();
            for (scope, token) in &tokens {
                let (status, _) = match scope {
                    // What an administrator may do is not done here to a daemon that has no task for it.
                    _ if local => (ask(Some(token)), ()),
                    _ if needs.is_some_and(|needs| scope.as_str() == needs) && method != "get" => continue,
                    _ if needs.is_some_and(|needs| rank(needs) <= *scope) && method != "get" => continue,
                    // The log's level is asked of a task that is not there.
                    _ if (path.ends_with("log-level") || path.ends_with("adapters")) && method == "get" => continue,
                    _ => (ask(Some(token)), ()),
                };
                let refused = local || needs.is_some_and(|needs| rank(needs) > *scope);
                assert_eq!(
                    status == 403,
                    refused || (*scope == Scope::Viewer && shows_callers(&path)),
                    "{method} {path} {scope:?}: {status}"
                );
                tried += 1;
            }
            let nobody = if local { 403 } else { 401 };
            assert_eq!(ask(None) == nobody, needs.is_some() || local, "{method} {path}");
        }
    }
    assert!(tried > 40, "{tried}");
}

/// Of what a viewer may ask, that which is nothing without callers.
fn shows_callers(path: &str) -> bool {
    ["/trace", "/recording", "/cache", "/cache/ab"].iter().any(|end| path.ends_with(end))
}

fn rank(scope: &str) -> Scope {
    Scope::ALL.into_iter().find(|known| known.as_str() == scope).expect("a scope")
}

#[test]
fn operators_see_callers_and_viewers_do_not() {
    let house = house();
    house.state.storage.record(stored(1, 10, Some(20)));
    house.state.storage.flush();
    let (viewer, operator) = (house.token(Scope::Viewer), house.token(Scope::Operator));
    let number = "5550100";
    assert!(!house.ask("GET", "/api/v1/calls/1", Some(&viewer), None).1.contains(number));
    assert!(house.ask("GET", "/api/v1/calls/1", Some(&operator), None).1.contains(number));
    let found =
        |token: &str, caller: &str| house.ask("GET", &format!("/api/v1/calls?caller={caller}"), Some(token), None);
    assert_eq!(found(&viewer, "%2B15550100").0, 403, "who finds a number by guessing sees it");
    assert!(found(&operator, "%2B15550100").1.contains(number));
    assert!(!found(&operator, "%2B15550101").1.contains(number));
}

#[test]
fn whoever_guesses_tokens_is_told_to_wait_and_a_right_one_still_counts() {
    let house = house();
    let viewer = house.token(Scope::Viewer);
    let statuses: Vec<u16> = (0..15).map(|_| house.ask("GET", "/api/v1/calls", Some("cbx_1_1"), None).0).collect();
    assert_eq!((statuses[0], statuses[14]), (401, 429), "{statuses:?}");
    assert_eq!(house.ask("GET", "/api/v1/calls", Some(&viewer), None).0, 200);
    assert_eq!(house.ask("GET", "/api/v1/calls", None, None).0, 401, "who shows none guesses none");
}

#[test]
fn whatever_is_done_is_noted_with_who_and_what_came_of_it() {
    let house = house();
    let operator = house.token(Scope::Operator);
    house.ask("DELETE", "/api/v1/calls/ab", Some(&operator), None);
    house.ask("GET", "/api/v1/calls", Some(&operator), None);
    house.ask("GET", "/api/v1/cache", Some(&operator), None);
    house.ask("POST", "/api/v1/calls/ab/say", Some(&operator), Some(r#"{"text":"swordfish"}"#));
    house.state.storage.flush();
    let audit = house.unix("/api/v1/audit");
    let entries = audit["entries"].as_array().expect("entries");
    let uid = rustix::process::getuid().as_raw();
    let told: Vec<String> = entries
        .iter()
        .map(|entry| ["action", "object", "result"].map(|field| entry[field].as_str().expect("text")).join(" "))
        .collect();
    assert_eq!(told[0], "POST /api/v1/calls/{id}/say /api/v1/calls/ab/say 404");
    assert_eq!(told[1..3], ["cache.list  ", "call.list  "], "looks, before there is a result");
    assert_eq!(told[3], "DELETE /api/v1/calls/{id} /api/v1/calls/ab 404");
    assert!(told[4].starts_with("POST /api/v1/tokens /api/v1/tokens/t"), "{}", told[4]);
    assert_eq!(told.len(), 5, "each once");
    assert!(entries[0]["who"].as_str().is_some_and(|who| who.starts_with("token t")));
    assert_eq!(entries[4]["who"], format!("uid {uid}"));
    assert!(!audit.to_string().contains("swordfish"));
    let page = house.unix("/api/v1/audit?limit=1");
    let next = house.unix(&format!("/api/v1/audit?limit=1&before={}", page["next"]));
    assert_eq!(next["entries"][0], entries[1]);
    assert_eq!(house.unix("/api/v1/audit?since_s=60")["entries"], audit["entries"]);
}

#[test]
fn the_same_order_with_the_same_key_is_carried_out_once() {
    let House { control, state, folder, mut queue, storage } = house();
    let placed = std::thread::spawn(move || {
        let mut placed = 0;
        while let Some(Order::Call { done, .. }) = queue.blocking_recv() {
            placed += 1;
            done.send(Ok(CallId(placed))).expect("waited for");
        }
        placed
    });
    let socket = folder.path().join("control.sock");
    let post = |key: Option<&str>, to: &str| {
        let mut stream = UnixStream::connect(&socket).expect("connected");
        let body = format!(r#"{{"to":"{to}","agent":"desk"}}"#);
        let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
        let head = "POST /api/v1/calls HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n";
        write!(stream, "{head}{key}Content-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
        answer(stream)
    };
    let first = post(Some("k1"), "1");
    assert_eq!(first.0, 201);
    assert_eq!(post(Some("k1"), "1"), first);
    assert_eq!(post(Some("k1"), "2").0, 422, "a key is for one request");
    assert_ne!(post(Some("k2"), "1"), first);
    assert_ne!(post(None, "1"), post(None, "1"));
    assert_eq!(post(Some(""), "1").0, 400);
    drop((control, state, storage));
    assert_eq!(placed.join().expect("ended"), 4);
}

#[test]
fn browsers_are_told_to_trust_nothing() {
    let house = house();
    for path in ["/health", "/api/v1/calls", "/nowhere"] {
        let mut stream = TcpStream::connect(house.control.http()).expect("connected");
        request(&mut stream, "GET", path, None, None);
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        for header in [
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'",
            "cache-control: no-store",
        ] {
            assert!(text.contains(header), "{path}: {text}");
        }
    }
}
