//! Documents and configuration: what they name exists, and nothing in them belongs to one machine.

use std::collections::BTreeSet;

use crate::none;
use crate::source::{Source, files, root};

/// A path that exists on one machine only.
fn foreign_paths() -> Vec<String> {
    ["root", "home", "work", "Users"]
        .iter()
        .map(|folder| format!("/{folder}/"))
        .chain(["/tmp/".to_owned() + "wt"])
        .collect()
}

#[test]
fn nothing_belongs_to_one_machine() {
    let mut complaints = Vec::new();
    let endings =
        [".rs", ".toml", ".md", ".py", ".sh", ".xml", ".service", ".socket", ".yml", ".json", "Makefile", "run"];
    for source in files("", &endings) {
        for path in foreign_paths() {
            for (at, _) in source.text.match_indices(&path) {
                // A URL's path, a relative one, or a regular expression is none of the file system's.
                let before = source.text.get(..at).and_then(|text| text.chars().next_back()).unwrap_or(' ');
                if !before.is_alphanumeric() && !".}$*-_".contains(before) {
                    let line = source.line(at);
                    complaints.push(format!(
                        "{}:{line}: `{path}` exists on one machine only: make it relative or an argument",
                        source.path
                    ));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn every_promise_names_a_proof_that_exists() {
    let Ok(text) = std::fs::read_to_string(root().join("SPECIFICATION.md")) else {
        panic!("SPECIFICATION.md is missing: every promise of the product is a row in it")
    };
    let mut complaints = Vec::new();
    let mut rows = 0;
    for (number, line) in
        text.lines().enumerate().filter(|(_, line)| line.starts_with("| ") && !line.starts_with("| Promise"))
    {
        rows += 1;
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, _, measured, proof] = cells.as_slice() else {
            complaints.push(format!("SPECIFICATION.md:{}: a row is | promise | bar | measured | proof |", number + 1));
            continue;
        };
        if measured.is_empty() {
            complaints.push(format!("SPECIFICATION.md:{}: write the figure, or `pending`", number + 1));
        }
        let named: Vec<_> = proof.split('`').skip(1).step_by(2).filter(|name| name.contains('/')).collect();
        if named.is_empty() {
            complaints
                .push(format!("SPECIFICATION.md:{}: name the test (`file.rs::function`) or the bench", number + 1));
        }
        for name in named {
            let (file, function) = name.split_once("::").unwrap_or((name, ""));
            let body = std::fs::read_to_string(root().join(file));
            if !body.is_ok_and(|body| function.is_empty() || body.contains(&format!("fn {function}("))) {
                complaints.push(format!(
                    "SPECIFICATION.md:{}: `{name}` does not exist: name what proves this row",
                    number + 1
                ));
            }
        }
    }
    assert!(rows > 0, "SPECIFICATION.md holds no rows: has its table changed its form?");
    none(complaints);
}

#[test]
fn examples_of_configuration_use_keys_that_exist() {
    let Ok(text) = std::fs::read_to_string(root().join("config/callbox.toml")) else {
        panic!("config/callbox.toml is missing: it shows every key with its default")
    };
    let known = keys(&text);
    let mut complaints = Vec::new();
    for source in files("", &[".md"]) {
        for (offset, block) in toml_blocks(&source) {
            for key in keys(&block).difference(&known) {
                complaints.push(format!(
                    "{}:{}: the key `{key}` is not in config/callbox.toml: correct the example",
                    source.path,
                    source.line(offset)
                ));
            }
        }
    }
    none(complaints);
}

/// `section.key` of every assignment, also of one that is commented out.
fn keys(text: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let line = line.trim_start_matches("# ");
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.split(']').next()) {
            section = name.to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.chars().all(|c| c.is_alphanumeric() || c == '_')
        {
            found.insert(format!("{section}.{key}"));
        }
    }
    found
}

/// Fenced blocks of a document that are configuration of the daemon.
fn toml_blocks(source: &Source) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut rest = 0;
    while let Some(open) = source.text.get(rest..).and_then(|text| text.find("```toml\n")) {
        let start = rest + open + "```toml\n".len();
        let body = source.text.get(start..).unwrap_or_default();
        let len = body.find("```").unwrap_or(body.len());
        blocks.push((start, body.get(..len).unwrap_or_default().to_owned()));
        rest = start + len;
    }
    blocks
}

#[test]
fn a_key_is_known_with_its_section() {
    let found = keys("[sip]\nudp = []\n# advertised = \"x\"\n# Words, no key.\n[sip.limits]\nmax_calls = 1\n");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["sip.advertised", "sip.limits.max_calls", "sip.udp"]);
}
