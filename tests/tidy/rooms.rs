//! Which room of the daemon may name which. Audio and its meaning move one way, and `call` alone joins the rooms: a
//! room that knows its neighbour cannot be tested, replaced or understood without it.

use crate::none;
use crate::source::{Source, files};

/// A room and the rooms that it may import.
const EDGES: [(&str, &[&str]); 18] = [
    ("base", &[]),
    ("service", &["base"]),
    ("sip", &["base"]),
    ("media", &["base"]),
    ("dialogue", &["base"]),
    ("cache", &["base"]),
    ("knowledge", &["base"]),
    ("engine", &["base"]),
    ("storage", &["base"]),
    ("recording", &["base"]),
    ("gpu", &["base", "storage"]),
    ("models", &["base"]),
    ("config", &["base", "models"]),
    ("telemetry", &["base", "config"]),
    ("control", &["base", "config", "cache", "knowledge", "storage", "gpu", "telemetry"]),
    // To `control` a call only reports: it keeps the list of live calls and the latches of readiness. To `service` it
    // gives what outlives the daemon.
    (
        "call",
        &[
            "base",
            "service",
            "config",
            "sip",
            "media",
            "cache",
            "knowledge",
            "dialogue",
            "engine",
            "storage",
            "recording",
            "telemetry",
            "control",
        ],
    ),
    (
        "app",
        &[
            "base",
            "service",
            "config",
            "sip",
            "media",
            "cache",
            "knowledge",
            "dialogue",
            "engine",
            "storage",
            "recording",
            "gpu",
            "telemetry",
            "models",
            "control",
            "call",
        ],
    ),
    ("main", &["base", "service", "config", "telemetry", "app"]),
];

/// Crates of ours that rooms may name beside their own.
const WIRE: [&str; 4] = ["base", "engine", "call", "dialogue"];

#[test]
fn rooms_import_only_what_they_may() {
    let mut complaints = Vec::new();
    for source in files("daemon/src", &[".rs"]) {
        let Some(room) = room_of(&source.path) else { continue };
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == room) else {
            complaints
                .push(format!("{}: the room `{room}` is not in EDGES of tests/tidy/rooms.rs: add it", source.path));
            continue;
        };
        for (named, offset) in named_rooms(&source) {
            if named != room && !allowed.contains(&named.as_str()) && EDGES.iter().any(|(name, _)| *name == named) {
                let line = source.line(offset);
                complaints.push(format!(
                    "{}:{line}: `{room}` must not import `{named}`: let `call` or `app` translate between them, or \
                     move what both need to `base`",
                    source.path
                ));
            }
        }
        if source.product().contains("callbox_wire") && !WIRE.contains(&room) {
            complaints
                .push(format!("{}: `{room}` must not know the engine's messages: take them from `base`", source.path));
        }
    }
    none(complaints);
}

/// The first folder or file below `daemon/src`; nothing for the crate's root and for the command line, which may name
/// any room.
fn room_of(path: &str) -> Option<&str> {
    let below = path.strip_prefix("daemon/src/")?;
    let room = below.split('/').next()?.trim_end_matches(".rs");
    (!matches!(room, "lib" | "bin")).then_some(room)
}

/// Rooms that the code names through `crate::`, `callbox::` or `super::`, with where.
fn named_rooms(source: &Source) -> Vec<(String, usize)> {
    let code = source.product();
    // How often `super` leads from a file of this path to the crate's root.
    let mut depth = source.path.trim_start_matches("daemon/src/").split('/').count();
    if source.path.ends_with("/mod.rs") {
        depth -= 1;
    }
    let mut found = Vec::new();
    for prefix in ["crate::".to_owned(), "callbox::".to_owned(), "super::".repeat(depth)] {
        for (at, _) in code.match_indices(&prefix) {
            let before = code.get(..at).unwrap_or_default();
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = code.get(at + prefix.len()..).unwrap_or_default();
            found.extend(heads(rest).into_iter().map(|head| (head, at)));
        }
    }
    found
}

/// The first segments of a path or of a braced list of paths.
fn heads(rest: &str) -> Vec<String> {
    let ident = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let Some(list) = rest.strip_prefix('{') else { return vec![ident(rest)] };
    let (mut depth, mut item, mut items) = (1, String::new(), Vec::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => items.push(std::mem::take(&mut item)),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if c != ',' || depth > 1 {
            item.push(c);
        }
    }
    items.push(item);
    items.iter().map(|item| ident(item)).collect()
}

#[test]
fn imports_are_found_however_they_are_written() {
    let text = "use crate::{base::{A, B}, sip::C};\nuse super::super::media;\nfn f() { crate::call::g(); }\n\
                // crate::control\nuse super::own;\nuse std::crate_::x;";
    let source = Source { path: "daemon/src/dialogue/turn.rs".into(), text: text.into() };
    let mut found: Vec<_> = named_rooms(&source).into_iter().map(|(name, _)| name).collect();
    found.sort();
    assert_eq!(found, ["base", "call", "media", "sip"]);
}
