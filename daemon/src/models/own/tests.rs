//! Models of the owner's out of folders and archives, good ones and hostile ones. What comes from a hub is in
//! `daemon/tests/hub.rs`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::book::Book;
use super::*;
use crate::models::{Machine, Quiet, State, parts, pull::lock, resolve, state};

/// The beginning of a GGUF file: a list, a number and a text before the architecture, as nobody forbids.
fn gguf(architecture: &str) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let pair = |key: &str, kind: u32, value: &[u8]| [&text(key), &kind.to_le_bytes()[..], value].concat();
    let list = [&8_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &text("one"), &text("two")].concat();
    let pairs = [pair("a", 9, &list), pair("b", 10, &[0; 8]), pair("general.architecture", 8, &text(architecture))];
    [b"GGUF", &3_u32.to_le_bytes()[..], &0_u64.to_le_bytes(), &3_u64.to_le_bytes(), &pairs.concat(), &[7; 500]].concat()
}

fn safetensors(name: &str) -> Vec<u8> {
    let head = format!("{{{name:?}:{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}}}");
    [&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), &[0; 4]].concat()
}

/// A Whisper as transformers saves it: what of it is looked at.
fn whisper(tokens: u32) -> Vec<u8> {
    let head = format!(
        r#"{{"model.encoder.conv1.weight":{{"dtype":"F16","shape":[1280,128,3],"data_offsets":[0,0]}},
        "model.decoder.embed_tokens.weight":{{"dtype":"F16","shape":[{tokens},1280],"data_offsets":[0,0]}}}}"#
    );
    [&(head.len() as u64).to_le_bytes()[..], head.as_bytes()].concat()
}

/// The beginning of one of whisper.cpp's files.
fn ggml(tokens: u32, mels: u32) -> Vec<u8> {
    let sizes = [0x6767_6d6c, tokens, 1500, 1280, 20, 32, 448, 1280, 20, 4, mels, 2008];
    sizes.iter().flat_map(|size| size.to_le_bytes()).chain([7; 100]).collect()
}

const VOICE: &str = r#"{"audio":{},"espeak":{},"inference":{},"phoneme_id_map":{}}"#;

struct World {
    root: TempDir,
}

impl World {
    fn new() -> Self {
        Self { root: TempDir::new().expect("a folder") }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("models")
    }

    /// A folder with these files.
    fn folder(&self, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let folder = self.root.path().join(name);
        for (path, content) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("a folder");
            fs::write(path, content).expect("written");
        }
        folder
    }

    /// An archive with these names as they stand, also those that the crate `tar` would refuse to write.
    fn archive(&self, name: &str, files: &[(&str, &[u8])], kind: tar::EntryType) -> PathBuf {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, *content).expect("in memory");
        }
        let tar = tar.into_inner().expect("in memory");
        let packed = if name.ends_with("zst") { zstd::encode_all(&tar[..], 1).expect("in memory") } else { tar };
        let path = self.root.path().join(name);
        fs::write(&path, packed).expect("written");
        path
    }

    fn bring(&self, path: &Path, wish: &Wish) -> Result<Owned, String> {
        let plain = |error: String| error.replace(&format!("{}/", self.root.path().display()), "");
        let mut source = Local::open(path).map_err(|error| plain(error.to_string()))?;
        let wish = Wish { file: wish.file.clone().or_else(|| source.file().map(str::to_owned)), ..wish.clone() };
        match bring(&self.dir(), &wish, &mut source, &Machine::default(), &Quiet) {
            Ok(Brought::New(owned) | Brought::Already(owned)) => Ok(owned),
            Err(error) => Err(plain(error.to_string())),
        }
    }

    /// Every file below the models folder, but locks.
    fn files(&self) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            entries.map(|path| if path.is_dir() { count(&path) } else { usize::from(!path.ends_with(".lock")) }).sum()
        }
        count(&self.dir())
    }
}

fn wish(name: &str) -> Wish {
    Wish { name: Some(name.to_owned()), ..Wish::default() }
}

#[test]
fn each_role_is_brought_from_a_folder_and_found_under_its_name() {
    let world = World::new();
    let mind = gguf("qwen2");
    let card: &[u8] = b"---\ntags: [x]\nlicense: apache-2.0\n---\n# Mind\n";
    let (turbo, quantised) = (whisper(51_866), ggml(51_864, 80));
    for (index, (role, files)) in [
        (Use::Llm, vec![("README.md", card), ("q4/mind.gguf", &mind)]),
        (Use::Stt, vec![("tiny.en.pt", &b"PK\x03\x04rest"[..])]),
        (Use::Stt, vec![("ggml-base.en-q5_1.bin", &quantised), ("pytorch_model.bin", b"PK")]),
        (
            Use::Stt,
            vec![
                ("whisper/model.safetensors", &turbo),
                ("whisper/model.fp32-00001-of-00002.safetensors", b""),
                ("whisper/tokenizer.json", br#"{"model":{}}"#),
            ],
        ),
        (Use::Voice, vec![("en/joe.onnx", &[8, 7][..]), ("en/joe.onnx.json", VOICE.as_bytes())]),
        (
            Use::Embed,
            vec![
                ("model.safetensors", &safetensors("embeddings.word_embeddings.weight")),
                ("tokenizer.json", br#"{"model":{}}"#),
            ],
        ),
        (Use::Vad, vec![("silero.safetensors", &safetensors("stft_conv.weight"))]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("my-{role}-{index}");
        let folder = world.folder(&name, &files);
        let owned = world.bring(&folder, &wish(&name)).expect("brought");
        assert_eq!(
            (owned.role, owned.licence.as_str()),
            (role, if role == Use::Llm { "apache-2.0" } else { "unknown" })
        );
        let own = Own::from([(role, name.clone())]);
        let found = resolve(&world.dir(), "tiny", &own, &[role]).expect("there");
        let path = match role {
            Use::Llm => found.llm,
            Use::Stt => found.stt,
            Use::Voice => found.voice,
            Use::Embed => found.embed.expect("there"),
            Use::Vad => found.vad,
        };
        let (first, content) = files.iter().find(|(path, _)| *path != "README.md").expect("a file");
        assert!(path.ends_with(Path::new(&name).join(first.rsplit('/').next().expect("a name"))), "{}", path.display());
        assert_eq!(fs::read(&path).expect("readable"), *content);
        let wrong = if role == Use::Llm { Use::Stt } else { Use::Llm };
        let error =
            resolve(&world.dir(), "tiny", &Own::from([(wrong, name.clone())]), &[]).expect_err("wrong").to_string();
        assert_eq!(
            error,
            format!(
                "models.{wrong} names `{name}`, which is of role {role}; choose another one: `callbox models list`"
            )
        );
        fs::write(&path, "cut").expect("damaged");
        if role != Use::Embed {
            let error = resolve(&world.dir(), "tiny", &own, &[role]).expect_err("damaged").to_string();
            assert!(error.contains("is missing or damaged: run `callbox models pull file:"), "{error}");
        }
        remove(&world.dir(), &name).expect("removed");
        let error = parts(&world.dir(), "tiny", &own).expect_err("gone").to_string();
        assert!(error.starts_with(&format!("models.{role} names `{name}`, which is not here")), "{error}");
        assert_eq!(world.files(), 1, "only models.lock is left");
    }
    let error = remove(&world.dir(), "x").expect_err("unknown").to_string();
    assert_eq!(error, "there is no model `x` here; `callbox models list` names those that were pulled");
}

#[test]
fn what_was_recorded_is_brought_again_until_another_is_asked_for() {
    let world = World::new();
    let (old, new) = (gguf("llama"), gguf("qwen2"));
    let file = world.folder("disk", &[("mind.gguf", &old)]).join("mind.gguf");
    let first = world.bring(&file, &wish("mind")).expect("brought");
    let path = first.folder(&world.dir()).join("mind/mind.gguf");
    assert_eq!(world.bring(&file, &wish("mind")), Ok(first.clone()));

    fs::write(&path, "damaged").expect("written");
    assert_eq!(state(&first.model(), &first.folder(&world.dir()), true).expect("readable"), State::Damaged);
    assert_eq!(world.bring(&file, &wish("mind")), Ok(first.clone()));
    assert_eq!(fs::read(&path).expect("repaired"), old);

    fs::write(&file, &new).expect("the source moves on");
    assert_eq!(world.bring(&file, &wish("mind")), Ok(first.clone()), "nobody looks at it while all is well");
    fs::remove_file(&path).expect("lost");
    let error = world.bring(&file, &wish("mind")).expect_err("another");
    assert_eq!(
        error,
        "mind.gguf is not what models.lock names (SHA-256 or length differs); it was deleted: `--update` takes what is there now"
    );
    let second = world.bring(&file, &Wish { update: true, ..wish("mind") }).expect("wanted");
    assert_ne!(
        second.folder(&world.dir()),
        first.folder(&world.dir()),
        "a loaded model never changes under its engine"
    );
    assert!(!first.folder(&world.dir()).exists());

    let other = world.folder("other", &[("mind.gguf", &old)]);
    let error = world.bring(&other, &wish("mind")).expect_err("taken");
    assert_eq!(
        error,
        "`mind` is file:disk/mind.gguf:mind.gguf here: choose another name with `--as`, or replace it with `--update`"
    );
    // Two names for one content are two models.
    world.bring(&file, &wish("twin")).expect("brought");
    remove(&world.dir(), "mind").expect("removed");
    assert_eq!(world.bring(&file, &wish("twin")).expect("whole").name, "twin");
}

#[test]
fn what_no_role_can_read_is_refused_in_one_sentence_and_leaves_nothing() {
    let (mind, gemma) = (gguf("llama"), gguf("gemma3"));
    let st = safetensors("other");
    let role = |role| Wish { role: Some(role), ..wish("m") };
    let file = |file: &str| Wish { file: Some(file.to_owned()), ..wish("m") };
    let all = "one GGUF file (.gguf) of a llama or qwen2, or a Whisper";
    for (files, wish, want) in [
        (
            vec![("a.gguf", &gemma[..])],
            wish("m"),
            "a.gguf is nothing for the role llm: its architecture is \"gemma3\"; llama and qwen2 are computed",
        ),
        (
            vec![("a.gguf", b"<html>")],
            wish("m"),
            "a.gguf is nothing for the role llm: it is not a GGUF file of version 2 or 3",
        ),
        (
            vec![("a.gguf", &mind), ("b.gguf", &mind)],
            wish("m"),
            "disk holds 2 files that would do: add one of them after a colon, as :a.gguf; there are a.gguf, b.gguf",
        ),
        (vec![("m-00002-of-00003.gguf", &mind)], file("m-00002-of-00003.gguf"), "it is one of several parts"),
        (vec![("a.onnx", b"\x08x")], file("a.onnx"), "a.onnx.json is missing"),
        (
            vec![("a.onnx", b"\x08x"), ("a.onnx.json", b"{}")],
            wish("m"),
            "a.onnx.json is nothing for the role voice: it has no key `audio`",
        ),
        (vec![("a.onnx", b"text"), ("a.onnx.json", VOICE.as_bytes())], wish("m"), "it is not an ONNX file"),
        (vec![("a.safetensors", &st)], file("a.safetensors"), "say which with `--role stt`"),
        (vec![("a.safetensors", &st)], role(Use::Stt), "it is no Whisper checkpoint"),
        (vec![("a.safetensors", &st)], role(Use::Vad), "these are not Silero's weights"),
        (
            vec![("a.safetensors", &st), ("tokenizer.json", b"{\"model\":{}}")],
            role(Use::Embed),
            "it is no sentence embedder",
        ),
        (vec![("a.pt", b"pickle")], wish("m"), "it is no Whisper checkpoint"),
        (vec![("ggml-silero.bin", &ggml(16, 0))], wish("m"), "it is no Whisper checkpoint"),
        (
            vec![("ggml-x.bin", &ggml(60_000, 80)[..48])],
            wish("m"),
            "its vocabulary has 60000 tokens; a Whisper has 51864",
        ),
        (vec![("x.safetensors", &whisper(32_000))], role(Use::Stt), "its vocabulary has 32000 tokens"),
        (vec![("pytorch_model.bin", b"PK\x03\x04")], role(Use::Stt), "disk holds nothing that Callbox can use"),
        (
            vec![("m-00001-of-00002.safetensors", &whisper(51_866))],
            Wish { role: Some(Use::Stt), ..file("m-00001-of-00002.safetensors") },
            "it is one of several parts; take a file that is whole",
        ),
        (
            vec![("a.pt", b"PK\x03\x04")],
            role(Use::Llm),
            "disk holds nothing that Callbox can use: the role llm wants one GGUF",
        ),
        (vec![("a.txt", b"")], wish("m"), all),
        (vec![("a.gguf", &mind)], file("b.gguf"), "disk holds no file `b.gguf`"),
        (vec![("a.gguf", &mind)], file("../disk/a.gguf"), "`../disk/a.gguf` is no path within a model"),
        (vec![("a.gguf", &mind)], wish("../m"), "`../m` is no name for a model"),
    ] {
        let world = World::new();
        let folder = world.folder("disk", &files);
        let error = world.bring(&folder, &wish).expect_err(want);
        assert!(error.contains(want) && !error.contains('\n'), "{want}: {error}");
        assert_eq!(world.files(), 0, "{want}");
    }
}

#[test]
fn the_role_is_what_names_and_neighbours_say() {
    let offers =
        ["model.safetensors", "tokenizer.json"].map(|path| Offer { path: path.into(), bytes: None, sha256: None });
    for (source, beside, role) in [
        ("hf:sentence-transformers/all-MiniLM-L6-v2", 2, Some((Use::Embed, 2))),
        ("hf:openai/whisper-tiny.en", 2, Some((Use::Stt, 1))),
        ("hf:acme/Silero-VAD", 1, Some((Use::Vad, 1))),
        ("hf:acme/house", 1, None),
    ] {
        let chosen = roles::choose(source, &offers[..beside], None, None).ok();
        assert_eq!(chosen.map(|(role, files)| (role, files.len())), role, "{source}");
    }
}

#[test]
fn archives_are_read_packed_or_not_and_hostile_ones_leave_nothing() {
    let mind = gguf("llama");
    let card: &[u8] = b"---\nlicense: mit\n---\n";
    let files = [("./repo/README.md", card), ("./repo/mind.gguf", &mind[..])];
    for name in ["mind.tar", "mind.tar.zst"] {
        let world = World::new();
        let path = world.archive(name, &files, tar::EntryType::Regular);
        let owned = world.bring(&path, &Wish::default()).expect("brought");
        assert_eq!((owned.name.as_str(), owned.licence.as_str()), ("mind", "mit"));
        assert_eq!(fs::read(owned.folder(&world.dir()).join("mind/mind.gguf")).expect("there"), mind);
    }
    for (names, kind, want) in [
        (&["../../escaped.gguf"][..], tar::EntryType::Regular, "`../../escaped.gguf` is no path within a model"),
        (&["/escaped.gguf"], tar::EntryType::Regular, "`/escaped.gguf` is no path within a model"),
        (&["a.gguf", "a\\..\\b.gguf"], tar::EntryType::Regular, "is no path within a model"),
        (&["a/../../b.gguf"], tar::EntryType::Regular, "is no path within a model"),
        (&["a\n.gguf"], tar::EntryType::Regular, "is no path within a model"),
        (&["a.gguf"], tar::EntryType::Symlink, "holds nothing that Callbox can use"),
    ] {
        let world = World::new();
        let files: Vec<_> = names.iter().map(|name| (*name, &mind[..])).collect();
        let path = world.archive("hostile.tar", &files, kind);
        let error = world.bring(&path, &Wish::default()).expect_err(want);
        assert!(error.contains(want) && !error.contains('\n'), "{want}: {error}");
        assert_eq!(world.files(), 0);
        assert!(!world.root.path().join("escaped.gguf").exists());
    }
    let world = World::new();
    let path = world.archive("cut.tar.zst", &files, tar::EntryType::Regular);
    let whole = fs::read(&path).expect("readable");
    fs::write(&path, &whole[..whole.len() / 2]).expect("cut off");
    let error = world.bring(&path, &Wish::default()).expect_err("cut off");
    assert!(error.starts_with("cut.tar.zst cannot be read: it is no whole tar archive"), "{error}");
}

#[test]
fn a_full_disk_and_another_pull_are_seen_and_a_lock_file_is_checked() {
    let world = World::new();
    let file = world.folder("disk", &[("mind.gguf", &gguf("llama"))]).join("mind.gguf");
    let mut source = Local::open(&file).expect("there");
    let full = Machine { free: |_| Ok(10), ..Machine::default() };
    let error = bring(&world.dir(), &wish("m"), &mut source, &full, &Quiet).expect_err("no room").to_string();
    assert!(error.contains("too full") && error.ends_with("10 are free"), "{error}");
    let held = lock(&world.dir()).expect("free");
    let error = world.bring(&file, &wish("m")).expect_err("busy");
    assert_eq!(error, format!("another `callbox models` is at work in {}; wait for it", "models"));
    drop(held);
    world.bring(&file, &wish("m")).expect("brought");

    let path = world.dir().join("models.lock");
    let text = fs::read_to_string(&path).expect("readable");
    assert!(Book::parse(&text).is_ok());
    for (from, to, want) in [
        ("format = 1", "format = 2", "upgrade Callbox first"),
        ("name = \"m\"", "name = \"../m\"", "`../m` is no name for a model"),
        ("name = \"mind.gguf\"", "name = \"../mind.gguf\"", "has a bad name or SHA-256"),
        ("role = \"llm\"", "role = \"cook\"", "unknown variant"),
        ("sha256 = \"", "sha256 = \"xy", "has a bad name or SHA-256"),
        ("licence", "license", "unknown field"),
        ("source = ", "commit = \"main\"\nsource = ", "the commit is no commit"),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replacen(from, to, 1)).expect("written");
        let error = world.bring(&file, &wish("m")).expect_err(want);
        assert!(
            error.starts_with("models/models.lock is no lock file of Callbox (") && error.contains(want),
            "{error}"
        );
    }
}

/// A source whose second half does not fit onto the disk.
struct Large;

impl Source for Large {
    fn name(&self) -> String {
        "hf:acme/large".to_owned()
    }
    fn revision(&self) -> Option<String> {
        None
    }
    fn title(&self) -> String {
        "large".to_owned()
    }
    fn find(&mut self, _: Option<&str>) -> Result<Found, ModelError> {
        let files = vec![Offer { path: "m.gguf".to_owned(), bytes: Some(1000), sha256: None }];
        Ok(Found { files, ..Found::default() })
    }
    fn fetch(&mut self, _: &Found, _: &Offer, half: &mut File, _: &dyn Progress) -> Result<Option<String>, ModelError> {
        half.write_all(&[1; 400]).expect("written");
        Err(ModelError::io("m.gguf")(io::ErrorKind::StorageFull.into()))
    }
}

#[test]
fn a_disk_that_fills_up_on_the_way_is_one_sentence_and_keeps_what_has_arrived() {
    let world = World::new();
    let machine = Machine { free: |_| Ok(5000), ..Machine::default() };
    let error = bring(&world.dir(), &Wish::default(), &mut Large, &machine, &Quiet).expect_err("full").to_string();
    assert!(error.contains("too full: 600 bytes are needed, 5000 are free"), "{error}");
    assert_eq!(world.files(), 1);
}

#[test]
fn the_architectures_are_those_that_the_engine_computes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/src/models/transformer/spec.rs");
    let text = fs::read_to_string(path).expect("the engine's list has moved: read it where it is now");
    let arms =
        text.split("match architecture {").nth(1).and_then(|arms| arms.split("other =>").next()).expect("its list");
    let computed: BTreeSet<_> = arms.split('"').skip(1).step_by(2).collect();
    assert_eq!(computed, BTreeSet::from(roles::ARCHITECTURES), "bring ARCHITECTURES of own/roles.rs up to date");
}

proptest! {
    #[test]
    fn no_file_makes_a_look_at_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), magic in 0_u8..4) {
        let world = World::new();
        let head: &[u8] = [&b""[..], b"GGUF\x03\0\0\0", b"\x20\0\0\0\0\0\0\0{", b"lmgg"][usize::from(magic)];
        let path = world.folder("d", &[("f", &[head, &bytes].concat())]).join("f");
        for role in [Use::Llm, Use::Stt, Use::Vad, Use::Voice, Use::Embed] {
            drop(roles::look(role, &[("f".to_owned(), path.clone()), ("f".to_owned(), path.clone())]));
        }
    }

    #[test]
    fn what_is_safe_stays_below(path in "[a./\\\\\\n]{0,12}") {
        if roles::is_safe(&path) {
            let plain = |step: std::path::Component<'_>| matches!(step, std::path::Component::Normal(_));
            prop_assert!(Path::new(&path).components().all(plain) && !path.contains('\\'));
        }
    }
}
