//! Finds files and reads Rust just well enough. Enters: paths; leaves: code without comments, literals and tests.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that are not ours, or not text.
const SKIPPED: [&str; 6] = [".git", "target", "dist", "results", "golden", "__pycache__"];

/// A file of the repository.
pub(crate) struct Source {
    /// Relative to the root, with slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The repository that cargo runs this in, which a shared build cache may have compiled for another clone.
pub(crate) fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&own).join("..")
}

/// All files below `folder` whose name ends in one of `endings`, in alphabetical order.
pub(crate) fn files(folder: &str, endings: &[&str]) -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    walk(&root.join(folder), &mut paths);
    paths.sort();
    let relative = |path: &Path| {
        let parts: Vec<_> =
            path.strip_prefix(&root).expect("below").iter().map(|part| part.to_string_lossy()).collect();
        parts.join("/")
    };
    let mut found = Vec::new();
    for path in paths {
        let name = relative(&path);
        if endings.iter().any(|ending| name.ends_with(ending)) {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            found.push(Source { path: name, text });
        }
    }
    assert!(!found.is_empty(), "no file of {endings:?} below {folder:?}: has it moved?");
    found
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_symlink() || SKIPPED.iter().any(|skipped| path.ends_with(skipped)) {
            continue;
        }
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

impl Source {
    /// Number of the line at a byte offset, counted from 1.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    /// The same length as the text, with comments, strings and characters blanked.
    pub(crate) fn code(&self) -> String {
        blank(&self.text)
    }

    /// [`Source::code`] up to its inline tests, which by convention come last; nothing of a file of tests.
    pub(crate) fn product(&self) -> String {
        let mut code = self.code();
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            code.clear();
        }
        if let Some(cut) = inline_tests(&code) {
            code.truncate(cut);
        }
        code
    }
}

fn inline_tests(code: &str) -> Option<usize> {
    code.match_indices("#[cfg(test)]").map(|(at, _)| at).find(|at| {
        let rest: Vec<_> = code.get(*at..).unwrap_or_default().split_whitespace().skip(1).take(3).collect();
        matches!(rest.as_slice(), ["mod", _, "{"])
    })
}

/// Replaces everything that is not code by spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + block_comment(rest)
        } else if let Some(hashes) = raw_string(bytes, at) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = at + 2 + hashes;
            let len = text.get(open..).and_then(|body| body.find(&close)).unwrap_or(bytes.len() - open);
            (open + len + close.len()).min(bytes.len())
        } else if rest[0] == b'"' {
            at + quoted(rest, b'"')
        } else if rest[0] == b'\'' && is_character(rest) {
            at + quoted(rest, b'\'')
        } else {
            at += 1;
            continue;
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("whole literals were blanked")
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match rest.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") if depth == 1 => return at + 2,
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

/// Number of `#` of a raw string that starts here.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).map_or(b' ', |before| bytes[before]);
    if bytes[at] != b'r' || (before.is_ascii_alphanumeric() && before != b'b') || before == b'_' {
        return None;
    }
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    (bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// A character literal, not a lifetime.
fn is_character(rest: &[u8]) -> bool {
    match rest.get(1) {
        Some(b'\\') => true,
        Some(first) if first.is_ascii() => rest.get(2) == Some(&b'\''),
        Some(_) => rest.iter().skip(2).take(4).any(|byte| *byte == b'\''),
        None => false,
    }
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = r##"let a = "use /* x"; // crate::b
fn f<'a>(c: &'a str) { '"'; '\''; br#"un"safe"#; /* a /* b */ c */ ok() }"##;
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    let words: Vec<_> = code.split_whitespace().collect();
    assert_eq!(words.join(" "), "let a = ; fn f<'a>(c: &'a str) { ; ; b ; ok() }");
}

#[test]
fn inline_tests_are_cut_off_and_declared_ones_are_not() {
    let cut = |text: &str| Source { path: "a/b.rs".into(), text: text.into() }.product();
    assert_eq!(cut("a\n#[cfg(test)]\nmod tests;\nb"), "a\n#[cfg(test)]\nmod tests;\nb");
    assert_eq!(cut("a\n#[cfg(test)]\nmod tests {\nb }"), "a\n");
}
