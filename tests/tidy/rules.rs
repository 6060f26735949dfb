//! Rules about single files of code: their size, their first words, where time and danger come from.

use crate::none;
use crate::source::{Source, files};

const MOST_LINES: usize = 800;

/// Folders whose code is given time, randomness and sockets, with the files at their edge that may ask for them.
const SANS_IO: [(&str, &[&str]); 4] = [
    ("daemon/src/sip", &["endpoint", "transport", "transaction", "dial", "line"]),
    ("daemon/src/media", &["socket", "pacer"]),
    ("daemon/src/dialogue", &[]),
    ("daemon/wire/src", &[]),
];

/// What such code never says.
const AMBIENT: [&str; 11] = [
    "Instant::now(",
    "SystemTime::now(",
    "UNIX_EPOCH.elapsed(",
    "thread::sleep",
    "thread::spawn",
    "tokio::spawn",
    "tokio::time",
    "rand::rng",
    "rand::random",
    "UdpSocket",
    "TcpStream",
];

fn rust() -> Vec<Source> {
    ["daemon", "tests", "benches"].into_iter().flat_map(|folder| files(folder, &[".rs"])).collect()
}

#[test]
fn files_are_short_enough_to_be_read() {
    let scripts = files("", &[".py", ".sh", ".sql", "Makefile"]);
    let long = rust().into_iter().chain(scripts).filter_map(|source| {
        let lines = source.text.lines().count();
        (lines > MOST_LINES).then(|| format!("{}: {lines} lines: split it below {MOST_LINES}", source.path))
    });
    none(long.collect());
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent = rust().into_iter().filter(|source| !source.text.starts_with("//! "));
    none(
        silent
            .map(|source| {
                format!("{}: begin with `//!`: what enters, what leaves, what never happens there", source.path)
            })
            .collect(),
    );
}

#[test]
fn time_randomness_and_sockets_come_in_as_arguments() {
    let mut complaints = Vec::new();
    for (folder, edge) in SANS_IO {
        for source in files(folder, &[".rs"]) {
            let within = source.path.trim_start_matches(folder).trim_start_matches('/');
            if edge.iter().any(|edge| within.split(['/', '.']).any(|part| part == *edge)) {
                continue;
            }
            let code = source.product();
            for word in AMBIENT {
                for (at, _) in code.match_indices(word) {
                    complaints.push(format!(
                        "{}:{}: `{word}` in code that must replay from a seed: take it as an argument, or do it at the \
                         room's edge ({edge:?})",
                        source.path,
                        source.line(at)
                    ));
                }
            }
        }
    }
    none(complaints);
}

/// clippy's `undocumented_unsafe_blocks` looks at each block; this keeps them where they belong.
#[test]
fn danger_lives_in_the_engine_and_is_justified() {
    let mut complaints = Vec::new();
    for source in rust() {
        let code = source.code();
        let Some((at, _)) = code.match_indices("unsafe").find(|(at, word)| is_word(&code, *at, word.len())) else {
            continue;
        };
        let place = format!("{}:{}", source.path, source.line(at));
        // A test that counts allocations has to be an allocator.
        if !source.path.starts_with("daemon/engine/") && !source.path.starts_with("daemon/tests/") {
            complaints.push(format!("{place}: `unsafe` outside daemon/engine: find a safe way"));
        } else if !source.text.contains("SAFETY: ") && !source.text.contains("# Safety") {
            complaints.push(format!("{place}: say above why this is sound: `// SAFETY: …`"));
        }
    }
    none(complaints);
}

/// What a client of others is called in code, and where the one lives that a person has to type a command for.
const CLIENTS: [&str; 3] = ["hf_hub", "ureq", "reqwest"];
const ASKS: &str = "daemon/src/bin/callbox/models/hub/";

#[test]
fn only_one_command_asks_a_hub() {
    let mut complaints = Vec::new();
    for source in files("daemon", &[".rs"]).into_iter().filter(|source| !source.path.starts_with(ASKS)) {
        let code = source.product();
        for client in CLIENTS {
            for (at, _) in code.match_indices(client).filter(|(at, word)| is_word(&code, *at, word.len())) {
                let line = source.line(at);
                complaints.push(format!("{}:{line}: `{client}` outside {ASKS}: the daemon asks nobody", source.path));
            }
        }
    }
    none(complaints);
}

#[test]
fn lints_are_lifted_with_a_reason_and_tests_are_never_skipped() {
    let mut complaints = Vec::new();
    for source in rust() {
        let code = source.code();
        for word in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
            for (at, _) in code.match_indices(word) {
                let attribute = code.get(at..).and_then(|rest| rest.split(")]").next()).unwrap_or_default();
                if !attribute.contains("reason = ") {
                    let line = source.line(at);
                    complaints.push(format!("{}:{line}: use `#[expect(…, reason = \"…\")]`, or mend it", source.path));
                }
            }
        }
        for (at, _) in code.match_indices("#[ignore") {
            let line = source.line(at);
            complaints.push(format!("{}:{line}: a skipped test proves nothing: let it run, or delete it", source.path));
        }
    }
    none(complaints);
}

fn is_word(code: &str, at: usize, len: usize) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    !code.get(..at).is_some_and(|before| before.ends_with(part))
        && !code.get(at + len..).is_some_and(|after| after.starts_with(part))
}
