//! Events as whoever watches gets them.

use std::io::{BufRead as _, BufReader};

use super::*;

struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(house: &House, path: &str, token: &str, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(house.control.http()).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{last}\r\n").expect("sent");
        Self(BufReader::new(stream))
    }

    /// The next event: its name, its id, its data.
    fn next(&mut self) -> Option<(String, String, Value)> {
        let (mut name, mut id, mut data) = (String::new(), String::new(), Value::Null);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).expect("read") == 0 || line == "0\r\n" {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("id", value)) => id = value.to_owned(),
                Some(("data", value)) => data = serde_json::from_str(value).expect("JSON"),
                None if !name.is_empty() && !data.is_null() => return Some((name, id, data)),
                _ => {}
            }
        }
    }
}

#[test]
fn who_watches_is_told_first_what_is_up_and_then_what_happens() {
    let house = house();
    let (viewer, operator) = (house.token(Scope::Viewer), house.token(Scope::Operator));
    let first = house.state.live.enter(live(7, 70));
    let mut all = Stream::open(&house, "/api/v1/events", &operator, None);
    let mut bare = Stream::open(&house, "/api/v1/events", &viewer, None);
    let mut one = Stream::open(&house, &format!("/api/v1/calls/{}/events", CallId(7)), &operator, None);
    for stream in [&mut all, &mut bare, &mut one] {
        let (name, _, data) = stream.next().expect("a snapshot");
        assert_eq!((name.as_str(), &data["calls"][0]["id"]), ("snapshot", &CallId(7).to_string().into()));
    }
    let second = house.state.live.enter(live(8, 80));
    first.tell(Happened::CallerSaid { turn: 1, text: Some(Pii::new("swordfish".into())) });
    drop(second);
    first.ends("farewell");
    drop(first);
    let names = |stream: &mut Stream, count: usize| -> Vec<(String, String, Value)> {
        (0..count).map(|_| stream.next().expect("an event")).collect()
    };
    let seen = names(&mut all, 4);
    let told: Vec<_> = seen.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(told, ["call_started", "caller_said", "call_ended", "call_ended"]);
    assert_eq!((&seen[0].2["from"], &seen[1].2["text"]), (&"+15550100".into(), &"swordfish".into()));
    assert_eq!((&seen[2].2["reason"], &seen[3].2["reason"]), (&"lost".into(), &"farewell".into()));
    for (name, _, data) in names(&mut bare, 4) {
        assert!(data.get("text").is_none() && data.get("from").is_none(), "{name} {data}");
    }
    let of_one: Vec<_> = names(&mut one, 2).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(of_one, ["caller_said", "call_ended"]);
    assert!(one.next().is_none(), "it ends with its call");

    let mut again = Stream::open(&house, "/api/v1/events", &operator, Some(&seen[1].1));
    assert_eq!(names(&mut again, 2), seen[2..], "whoever comes again goes on");
    assert_eq!(house.ask("GET", "/api/v1/calls/7/events", Some(&operator), None).0, 404);
}

#[test]
fn streams_are_bounded() {
    let house = house();
    let viewer = house.token(Scope::Viewer);
    let mut open: Vec<Stream> =
        (0..stream::STREAMS).map(|_| Stream::open(&house, "/api/v1/events", &viewer, None)).collect();
    for stream in &mut open {
        assert_eq!(stream.next().expect("a snapshot").0, "snapshot");
    }
    assert_eq!(house.ask("GET", "/api/v1/events", Some(&viewer), None).0, 503);
}
