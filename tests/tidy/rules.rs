//! Rules about single files of code: their size, their first words, where time and danger come from.

use crate::none;
use crate::source::{Source, files};

const MOST_LINES: usize = 800;

/// Folders whose code is given time, randomness and sockets, with the files at their edge that may ask for them.
const SANS_IO: [(&str, &[&str]); 4] = [
    ("daemon/src/sip", &["transport", "transaction"]),
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

#[test]
fn danger_lives_in_the_engine_and_is_justified() {
    let mut complaints = Vec::new();
    for source in rust() {
        let code = source.code();
        for (at, word) in code.match_indices("unsafe").filter(|(at, _)| is_word(&code, *at, "unsafe".len())) {
            let line = source.line(at);
            if !source.path.starts_with("daemon/engine/src/") {
                complaints.push(format!("{}:{line}: `{word}` outside daemon/engine/src: find a safe way", source.path));
                continue;
            }
            let rest = code.get(at + word.len()..).unwrap_or_default().trim_start();
            if rest.starts_with("extern") || rest.starts_with("fn(") || rest.starts_with("(") {
                continue;
            }
            let above: Vec<_> = source.text.lines().take(line).collect();
            let near = above.iter().rev().take(14);
            let wanted = if rest.starts_with("fn") { ["# Safety", "SAFETY"] } else { ["SAFETY:"; 2] };
            if !near.into_iter().any(|text| wanted.iter().any(|wanted| text.contains(wanted))) {
                complaints.push(format!("{}:{line}: say above why this is sound: `// SAFETY: …`", source.path));
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
        let banned = [
            ("#[allow(", "use `#[expect(…, reason = \"…\")]`: it goes away when it is no longer needed"),
            ("#![allow(", "use `#![expect(…, reason = \"…\")]`: it goes away when it is no longer needed"),
            ("#[ignore", "a test that is skipped proves nothing: make it run, or delete it"),
        ];
        for (word, advice) in banned {
            complaints.extend(
                code.match_indices(word).map(|(at, _)| format!("{}:{}: {advice}", source.path, source.line(at))),
            );
        }
    }
    none(complaints);
}

fn is_word(code: &str, at: usize, len: usize) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    !code.get(..at).is_some_and(|before| before.ends_with(part))
        && !code.get(at + len..).is_some_and(|after| after.starts_with(part))
}
