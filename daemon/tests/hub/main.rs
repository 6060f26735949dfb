//! `callbox models pull hf:…` against a hub on loopback: what it asks, what it keeps, what it says.

mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use callbox::models::{Own, Use, resolve};
use serde_json::{Value, json};
use server::{Server, sha256};
use tempfile::TempDir;

/// A mind of 300 kB whose bytes are all different from another's.
fn mind(seed: u32) -> Vec<u8> {
    let key = b"general.architecture";
    let head = [
        b"GGUF",
        &3_u32.to_le_bytes()[..],
        &0_u64.to_le_bytes(),
        &1_u64.to_le_bytes(),
        &(key.len() as u64).to_le_bytes(),
        key,
        &8_u32.to_le_bytes(),
        &5_u64.to_le_bytes(),
        b"llama",
    ];
    let rest = (0..75_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).wrapping_add(seed).to_le_bytes());
    head.concat().into_iter().chain(rest).collect()
}

/// A box that knows one hub.
struct World {
    hub: Server,
    root: TempDir,
}

impl World {
    fn new() -> Self {
        let hub = Server::start();
        hub.state().card = json!({ "license": "apache-2.0" });
        Self { hub, root: TempDir::new().expect("a folder") }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("models")
    }

    /// `callbox models ARGUMENTS`: exit code, standard output, standard error.
    fn models(&self, arguments: &[&str]) -> (i32, String, String) {
        let done = Command::new(env!("CARGO_BIN_EXE_callbox"))
            .args(["models", "--dir"])
            .arg(self.dir())
            .args(arguments)
            // Nothing of the machine's own.
            .env_clear()
            .env("HF_ENDPOINT", format!("http://{}", self.hub.address))
            .env("CREDENTIALS_DIRECTORY", self.root.path().join("credentials"))
            .output()
            .expect("started");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (done.status.code().expect("a code"), text(done.stdout), text(done.stderr))
    }

    fn pull(&self, arguments: &[&str]) -> (i32, String, String) {
        self.models(&[&["pull"], arguments].concat())
    }

    /// The one sentence with which a pull fails.
    fn refusal(&self, arguments: &[&str]) -> String {
        let (code, _, said) = self.pull(arguments);
        assert_eq!(code, 1, "{said}");
        let sentence = said.lines().last().expect("a sentence").to_owned();
        assert!(!sentence.contains("panicked"), "{said}");
        sentence
    }

    /// The file of `house` that an engine would be given.
    fn house(&self) -> PathBuf {
        let own = Own::from([(Use::Llm, "house".to_owned())]);
        resolve(&self.dir(), "tiny", &own, &[Use::Llm]).expect("there").llm
    }

    /// The row of `house`, of a table that has hashed everything.
    fn row(&self) -> Value {
        let rows: Value = serde_json::from_str(&self.models(&["verify", "house", "--json"]).1).expect("JSON");
        let rows = rows.as_array().expect("rows").clone();
        assert_eq!(rows.len(), 1);
        rows.into_iter().next().expect("its row")
    }

    fn halves(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir().join(".downloads")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    fn ranges(&self) -> Vec<Option<String>> {
        let asked = self.hub.asked().into_iter().filter(|asked| asked.path.contains("/resolve/"));
        asked.map(|asked| asked.range).collect()
    }
}

fn private(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().expect("below")).expect("a folder");
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
}

#[test]
fn a_pull_is_verified_recorded_and_stays_with_its_commit_wherever_the_branch_goes() {
    let world = World::new();
    let (old, new) = (mind(1), mind(2));
    let first = world.hub.commit(&[("README.md", b"# Mind"), ("q4/mind q4.gguf", &old)]);
    let (code, out, said) = world.pull(&["hf:acme/mind@main", "--as", "house"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("hf:acme/mind at commit {first}: q4/mind q4.gguf for the role llm")), "{said}");
    assert!(
        said.contains("licence apache-2.0") && out.contains("write `llm = \"house\"` into the section [models]"),
        "{said}{out}"
    );
    assert_eq!(fs::read(world.house()).expect("there"), old);
    let row = world.row();
    assert_eq!(
        (&row["source"], &row["revision"], &row["commit"]),
        (&json!("hf:acme/mind"), &json!("main"), &json!(first))
    );
    assert_eq!(
        (&row["licence"], &row["state"], &row["packs"]),
        (&json!("apache-2.0"), &json!("installed"), &json!(["own"]))
    );
    let lock = fs::read_to_string(world.dir().join("models.lock")).expect("a lock file");
    assert!(lock.contains(&sha256(&old)) && lock.contains(&format!("bytes = {}", old.len())), "{lock}");
    let asked = world.hub.asked();
    let told: Vec<_> = asked.iter().map(|asked| asked.path.as_str()).collect();
    assert_eq!(
        told,
        [
            "/api/models/acme/mind/revision/main?blobs=true".to_owned(),
            format!("/acme/mind/resolve/{first}/q4/mind%20q4.gguf")
        ]
    );
    // Who asks says which program it is, and nothing else.
    for asked in asked {
        let names = asked.headers.lines().filter_map(|line| line.split(':').next()).map(str::to_lowercase);
        let known = ["accept", "accept-encoding", "host", "user-agent"];
        assert!(names.clone().all(|name| known.contains(&name.as_str())), "{}", asked.headers);
        let name = format!("callbox/{}", env!("CARGO_PKG_VERSION"));
        assert!(asked.headers.lines().any(|line| line.split_once(": ").is_some_and(|(_, value)| value == name)));
    }

    // The branch goes on: what is here stays, and is not asked about.
    let second = world.hub.commit(&[("README.md", b"# Mind"), ("q4/mind q4.gguf", &new)]);
    let (_, out, _) = world.pull(&["hf:acme/mind@main", "--as", "house"]);
    assert!(out.contains("it was here already") && world.hub.asked().is_empty(), "{out}");
    // Damaged, it is brought again as it was.
    fs::write(world.house(), vec![0; old.len()]).expect("damaged");
    assert_eq!((world.models(&["verify", "house"]).0, &world.row()["state"]), (1, &json!("damaged")));
    assert_eq!(world.pull(&["hf:acme/mind@main", "--as", "house"]).0, 0);
    assert_eq!(world.models(&["verify", "house"]).0, 0);
    assert_eq!((fs::read(world.house()).expect("there"), &world.row()["commit"]), (old, &json!(first)));
    assert!(world.hub.asked().iter().all(|asked| asked.path.contains(&first)));
    // Another model is not put in its place by accident.
    let sentence = world.refusal(&["hf:acme/mind@dev", "--as", "house"]);
    assert!(sentence.contains("choose another name with `--as`, or replace it with `--update`"), "{sentence}");

    let before = world.house();
    assert_eq!(world.pull(&["hf:acme/mind@main", "--as", "house", "--update"]).0, 0);
    assert_eq!((fs::read(world.house()).expect("there"), &world.row()["commit"]), (new, &json!(second)));
    assert!(world.house() != before && !before.exists());
    assert_eq!(world.models(&["remove", "house"]).0, 0);
    assert!(!world.dir().join("own").read_dir().expect("a folder").flatten().any(|_| true));
}

#[test]
fn a_connection_that_is_cut_is_continued_at_once_and_a_pull_that_ended_by_the_next_one() {
    let world = World::new();
    let bytes = mind(3);
    world.hub.commit(&[("mind.gguf", &bytes)]);
    world.hub.state().cuts = [100_000, 50_000].into();
    assert_eq!(world.pull(&["hf:acme/mind", "--as", "house"]).0, 0);
    assert_eq!(world.ranges(), [None, Some("bytes=100000-".into()), Some("bytes=150000-".into())]);
    assert_eq!(fs::read(world.house()).expect("there"), bytes);
    assert!(world.halves().is_empty());

    let world = World::new();
    world.hub.commit(&[("mind.gguf", &bytes)]);
    world.hub.state().cuts = [120_000].into();
    world.hub.state().then_down = true;
    let sentence = world.refusal(&["hf:acme/mind", "--as", "house"]);
    assert!(
        sentence.ends_with("is in trouble (503 Service Unavailable): run this again later; what has arrived is kept"),
        "{sentence}"
    );
    assert_eq!(world.halves().len(), 1);
    assert_eq!(world.models(&["list"]).0, 0, "half a model is none");
    world.hub.asked();
    world.hub.state().then_down = false;
    assert_eq!(world.pull(&["hf:acme/mind", "--as", "house"]).0, 0);
    assert_eq!(world.ranges(), [Some("bytes=120000-".into())]);
    assert_eq!(fs::read(world.house()).expect("there"), bytes);
    assert!(world.halves().is_empty());
}

#[test]
fn a_hub_that_cannot_continue_is_read_from_the_beginning_and_one_that_brings_nothing_is_left() {
    let world = World::new();
    let bytes = mind(4);
    world.hub.commit(&[("mind.gguf", &bytes)]);
    world.hub.state().cuts = [100_000].into();
    world.hub.state().whole = true;
    assert_eq!(world.pull(&["hf:acme/mind", "--as", "house"]).0, 0);
    assert_eq!(fs::read(world.house()).expect("there"), bytes);

    let world = World::new();
    world.hub.commit(&[("mind.gguf", &bytes)]);
    world.hub.state().cuts = [100_000, 0, 0].into();
    let sentence = world.refusal(&["hf:acme/mind", "--as", "house"]);
    assert!(
        sentence.contains("broke off (") && sentence.ends_with("run this again; what has arrived is kept"),
        "{sentence}"
    );
    assert_eq!(world.ranges(), [None, Some("bytes=100000-".into())]);

    // The branch went on meanwhile: half of another file is of no use to this one.
    let newer = mind(5);
    world.hub.state().cuts.clear();
    world.hub.commit(&[("mind.gguf", &newer)]);
    assert_eq!(world.pull(&["hf:acme/mind", "--as", "house"]).0, 0);
    assert_eq!(fs::read(world.house()).expect("there"), newer);
}

#[test]
fn the_token_goes_to_the_hub_alone_and_is_never_said() {
    let (world, store) = (World::new(), Server::start());
    let bytes = mind(6);
    world.hub.commit(&[("mind.gguf", &bytes)]);
    store.commit(&[("x", b"")]);
    let commit = store.commit(&[("mind.gguf", &bytes)]);
    world.hub.state().commits[0].id.clone_from(&commit);
    world.hub.state().token = Some("hf_secret".into());
    world.hub.state().elsewhere = Some(store.address);

    let sentence = world.refusal(&["hf:acme/mind", "--as", "house"]);
    let advice = "put a token into /etc/callbox/credentials/hub-token (mode 0600), or name its file with --token-file";
    assert!(
        sentence.contains("says that hf:acme/mind does not exist or wants a token") && sentence.ends_with(advice),
        "{sentence}"
    );
    let file = world.root.path().join("token");
    let pull = ["hf:acme/mind", "--as", "house", "--token-file", file.to_str().expect("text")];
    private(&file, "hf_secret\n", 0o644);
    assert!(world.refusal(&pull).ends_with(&format!("type: chmod 600 {}", file.display())));
    private(&file, "hf_wrong\n", 0o600);
    assert!(world.refusal(&pull).contains("does not take the token for hf:acme/mind: make a new one"));
    world.hub.asked();

    private(&file, "hf_secret\n", 0o600);
    let (code, out, said) = world.pull(&pull);
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read(world.house()).expect("there"), bytes);
    assert!(world.hub.asked().iter().all(|asked| asked.token.as_deref() == Some("Bearer hf_secret")));
    let stored = store.asked();
    assert_eq!(stored.len(), 1);
    assert!(stored.iter().all(|asked| asked.token.is_none() && !asked.headers.contains("hf_secret")), "{stored:?}");
    let lock = fs::read_to_string(world.dir().join("models.lock")).expect("a lock file");
    assert!(![out, said, lock].concat().contains("hf_"));

    // The same out of a credential; and on the hub's own host it goes along.
    assert_eq!(world.models(&["remove", "house"]).0, 0);
    private(&world.root.path().join("credentials/hub-token"), "hf_secret\n", 0o600);
    world.hub.state().elsewhere = None;
    assert_eq!(world.pull(&["hf:acme/mind", "--as", "house"]).0, 0);
    world.hub.state().renamed = true;
    world.hub.asked();
    let sentence = world.refusal(&["hf:acme/old"]);
    assert!(sentence.contains("has no hf:acme/old:mind.gguf"), "{sentence}");
    let asked = world.hub.asked();
    assert!(asked[1].path.starts_with("/api/models/acme/mind/") && asked[1].token.is_some(), "{asked:?}");
}

#[test]
fn bytes_that_are_not_what_was_named_are_deleted() {
    let world = World::new();
    world.hub.commit(&[("mind.gguf", &mind(7))]);
    world.hub.state().claims = Some(sha256(b"other"));
    let sentence = world.refusal(&["hf:acme/mind", "--as", "house"]);
    assert_eq!(
        sentence.trim_start_matches("callbox: "),
        "mind.gguf is not what hf:acme/mind names (SHA-256 or length differs); it was deleted: run this again"
    );
    assert!(world.halves().is_empty() && !world.dir().join("own").exists());

    world.hub.state().claims = None;
    world.hub.state().answers_as = Some("f".repeat(40));
    let sentence = world.refusal(&["hf:acme/mind", "--as", "house"]);
    assert!(sentence.ends_with("hf:acme/mind answers with another commit than it named"), "{sentence}");
    world.hub.state().answers_as = None;
    assert_eq!(world.pull(&["hf:acme/mind", "--as", "house"]).0, 0);

    // Somebody has changed what was recorded: the hub's honest bytes are not it.
    let path = world.dir().join("models.lock");
    let lock = fs::read_to_string(&path).expect("a lock file").replace(&sha256(&mind(7)), &sha256(b"edited"));
    fs::write(&path, lock).expect("written");
    let sentence = world.refusal(&["hf:acme/mind", "--as", "house"]);
    assert!(sentence.contains("mind.gguf is not what models.lock names"), "{sentence}");
}

#[test]
fn hostile_names_of_a_repository_are_never_paths() {
    let world = World::new();
    let bytes = mind(8);
    for name in
        ["../../../escaped.gguf", "/escaped.gguf", "a\\..\\escaped.gguf", "a/../../escaped.gguf", ".escaped.gguf"]
    {
        world.hub.commit(&[(name, &bytes)]);
        let sentence = world.refusal(&["hf:acme/mind", "--as", "house"]);
        assert!(sentence.contains("hf:acme/mind holds nothing that Callbox can use"), "{sentence}");
        let sentence = world.refusal(&[&format!("hf:acme/mind:{name}"), "--as", "house"]);
        assert!(sentence.ends_with("is no path within a model: it was not touched"), "{sentence}");
    }
    assert!(!world.hub.asked().iter().any(|asked| asked.path.contains("/resolve/")));
    let left: Vec<_> =
        fs::read_dir(world.root.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["models"]);
    for name in ["hf:acme", "hf:../mind", "hf:acme/mind@..", "hf:acme/mind:"] {
        assert!(world.refusal(&[name]).ends_with("write hf:OWNER/NAME[@REVISION][:FILE]"));
    }
}

#[test]
fn every_refusal_of_a_hub_is_one_sentence_that_says_what_to_do() {
    let world = World::new();
    world.hub.commit(&[("a.gguf", &mind(9)), ("b.gguf", &mind(9))]);
    for (status, want) in [
        (403, "accept its terms there, then pull with a token"),
        (404, "has no hf:acme/mind@main: check owner, name, revision and file"),
        (429, "wants fewer requests: run this again in some minutes; what has arrived is kept"),
        (500, "is in trouble (500 Internal Server Error): run this again later; what has arrived is kept"),
    ] {
        world.hub.state().refuses = Some(status);
        let sentence = world.refusal(&["hf:acme/mind"]);
        assert!(sentence.ends_with(want), "{sentence}");
    }
    world.hub.state().refuses = None;
    let sentence = world.refusal(&["hf:acme/mind"]);
    assert!(sentence.contains("holds 2 files that would do: add one of them after a colon, as :a.gguf"), "{sentence}");
    assert!(world.refusal(&["hf:acme/mind@v9"]).contains("has no hf:acme/mind@v9"));
    let sentence = world.refusal(&["hf:acme/mind", "--endpoint", "http://127.0.0.1:1"]);
    assert!(sentence.contains("http://127.0.0.1:1 cannot be reached (nobody listens there)"), "{sentence}");
    assert!(world.refusal(&["tiny", "--as", "x"]).contains("a pack is pulled as it is"));
    assert!(world.refusal(&["huge"]).ends_with("there is no model pack `huge`; there are `starter`, `tiny`"));
}

#[test]
fn a_box_without_a_network_takes_a_folder_or_an_archive_and_says_that_the_licence_is_unknown() {
    let world = World::new();
    let bytes = mind(10);
    let file = world.root.path().join("usb/Mind.gguf");
    private(&file, "", 0o644);
    fs::write(&file, &bytes).expect("written");
    let usb = file.parent().expect("below").to_str().expect("text");
    let (code, out, said) = world.pull(&[usb, "--as", "house"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("licence unknown: nothing there names one") && out.contains("licence unknown"),
        "{said}{out}"
    );
    assert_eq!(fs::read(world.house()).expect("there"), bytes);
    let (code, out, _) = world.pull(&[file.to_str().expect("text"), "--licence", "MIT"]);
    assert!(code == 0 && out.starts_with("mind: file:") && out.contains("licence MIT"), "{out}");
    assert!(world.hub.asked().is_empty(), "nobody was asked");
    let table = world.models(&["list"]).1;
    assert!(table.lines().any(|line| line.starts_with("house") && line.contains("usb:Mind.gguf")), "{table}");
}
