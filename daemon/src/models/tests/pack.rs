//! Archives of packs: good ones, hostile ones, and which version counts after each.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::super::pack::{Unpacked, stage, write};
use super::super::pull::lock;
use super::super::*;

const ROLES: [&str; 4] = ["vad", "stt", "llm", "voice"];

/// Four models of one file each; the language model says which version it is.
fn manifest(version: &str) -> String {
    let mut text =
        format!("format = 1\npack = \"p\"\nversion = {version:?}\n[test]\nsay = \"\"\nheard = []\nanswer = []\n");
    for role in ROLES {
        let content = content(role, version);
        let hash = hex::encode(Sha256::digest(&content));
        text += &format!("[[model]]\nname = {role:?}\nrole = {role:?}\nlicence = \"MIT\"\nabout = \"\"\n");
        text += &format!("[[model.file]]\nname = \"w\"\nbytes = {}\nsha256 = {hash:?}\n", content.len());
    }
    text
}

fn content(role: &str, version: &str) -> String {
    if role == "llm" { format!("llm {version}") } else { role.to_owned() }
}

fn entries(version: &str) -> Vec<(String, String)> {
    let mut entries = vec![("pack.toml".to_owned(), manifest(version))];
    entries.extend(ROLES.map(|role| (format!("{role}/w"), content(role, version))));
    entries
}

/// Names as they stand, also those that the crate `tar` would refuse to write.
fn archive(entries: &[(String, String)], kind: tar::EntryType) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(if name == "pack.toml" { tar::EntryType::Regular } else { kind });
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content.as_bytes()).expect("in memory");
    }
    zstd::encode_all(Cursor::new(tar.into_inner().expect("in memory")), 1).expect("in memory")
}

fn good(version: &str) -> Vec<u8> {
    archive(&entries(version), tar::EntryType::Regular)
}

fn unpack(dir: &Path, bytes: &[u8], older: bool) -> Result<Unpacked, ModelError> {
    stage(dir, Path::new("FILE"), Cursor::new(bytes), older, &Machine::default(), &Quiet).map(|(unpacked, _)| unpacked)
}

fn install(dir: &Path, version: &str, older: bool) -> Result<(), ModelError> {
    match unpack(dir, &good(version), older)? {
        Unpacked::Staged(staged) => staged.switch().map(drop),
        Unpacked::Already(_) => Ok(()),
    }
}

/// What the language model of the version that counts says.
fn counts(dir: &Path) -> String {
    let files = resolve(dir, "p", &Own::new(), &Use::ALL).expect("whole");
    fs::read_to_string(files.llm).expect("readable")
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir.join("packs/p")).into_iter().flatten().flatten().collect();
    found.sort_by_key(fs::DirEntry::file_name);
    found.into_iter().map(|entry| entry.file_name().into()).collect()
}

#[test]
fn the_newest_two_versions_stay_and_either_can_count() {
    let dir = TempDir::new().expect("a folder");
    let dir = dir.path();
    install(dir, "1.0.0", false).expect("installed");
    assert_eq!(counts(dir), "llm 1.0.0");
    assert!(matches!(versions::roll_back(dir, "p"), Err(ModelError::NoEarlier(_))));

    // Unpacked and not switched to: as if its self-test had failed.
    drop(unpack(dir, &good("1.1.0"), false).expect("unpacked"));
    assert_eq!((counts(dir).as_str(), below(dir).len()), ("llm 1.0.0", 2));

    install(dir, "1.9.0", false).expect("installed");
    install(dir, "1.10.0", false).expect("installed");
    assert_eq!(counts(dir), "llm 1.10.0");
    assert_eq!(below(dir), ["1.10.0", "1.9.0", "current", "previous"].map(PathBuf::from));
    let error = install(dir, "1.9.1", false).expect_err("older").to_string();
    assert_eq!(error, "pack p 1.9.1 is older than 1.10.0, which is installed; `--older` installs it all the same");

    assert_eq!(versions::roll_back(dir, "p").expect("back"), Some("1.9.0".parse().expect("a version")));
    assert_eq!(counts(dir), "llm 1.9.0");
    assert_eq!(versions::roll_back(dir, "p").expect("forth"), Some("1.10.0".parse().expect("a version")));
    install(dir, "1.9.1", true).expect("wanted");
    assert_eq!(counts(dir), "llm 1.9.1");
}

#[test]
fn a_damaged_version_is_named_and_installed_anew_in_its_own_place() {
    let dir = TempDir::new().expect("a folder");
    let dir = dir.path();
    install(dir, "1.0.0", false).expect("installed");
    assert!(matches!(unpack(dir, &good("1.0.0"), false), Ok(Unpacked::Already(_))));
    let weights = dir.join("packs/p/1.0.0/llm/w");
    fs::write(&weights, "llm").expect("cut off");
    let error = resolve(dir, "p", &Own::new(), &Use::ALL).expect_err("damaged").to_string();
    assert!(error.ends_with("install pack p again, or run `callbox models rollback p`"), "{error}");
    install(dir, "1.0.0", false).expect("repaired");
    assert_eq!((counts(dir).as_str(), below(dir).len()), ("llm 1.0.0", 2));
}

#[test]
fn an_archive_that_is_not_as_its_manifest_says_leaves_nothing_behind() {
    let good_entries = entries("1.0.0");
    let with = |index: usize, name: &str, content: Option<&str>| {
        let mut entries = good_entries.clone();
        entries[index].0 = name.to_owned();
        if let Some(content) = content {
            entries[index].1 = content.to_owned();
        }
        archive(&entries, tar::EntryType::Regular)
    };
    let (good, manifest) = (good("1.0.0"), &good_entries[0].1);
    let edited = |from: &str, to: &str| with(0, "pack.toml", Some(&manifest.replace(from, to)));
    let mut longer = good_entries.clone();
    longer.push(("more".to_owned(), String::new()));
    let mut later = good.clone();
    later.truncate(good.len() - 9);
    for (bytes, want) in [
        (with(3, "../../../escaped", None), "\"../../../escaped\" is where llm/w should be"),
        (with(3, "/escaped", None), "\"/escaped\" is where llm/w should be"),
        (archive(&good_entries, tar::EntryType::Symlink), "\"vad/w\" is where vad/w should be"),
        (with(3, "llm/w", Some("LLM 1.0.0")), "llm/w is not what its manifest says"),
        (with(3, "llm/w", Some(&"x".repeat(1 << 20))), "llm/w: it holds more than"),
        (archive(&longer, tar::EntryType::Regular), "it holds more than its manifest says"),
        (archive(&good_entries[..4], tar::EntryType::Regular), "voice/w is missing"),
        (later, "it cannot be unpacked"),
        (b"no archive at all".to_vec(), "it cannot be unpacked"),
        (edited("name = \"llm\"", "name = \"../llm\""), "a plain name"),
        (edited("pack = \"p\"", "pack = \"..\""), "`..` is no name of a pack"),
        (edited("1.0.0", "../../1"), "is no version"),
        (edited("role = \"llm\"", "role = \"stt\""), "it must hold one model of role stt"),
        (edited("format = 1", "format = 3"), "upgrade Callbox first"),
        (edited("answer = []", "answer = []\nkey = 1"), "unknown field `key`"),
    ] {
        let dir = TempDir::new().expect("a folder");
        let models = dir.path().join("models");
        let error = unpack(&models, &bytes, false).expect_err(want).to_string();
        assert!(error.starts_with("FILE is no model pack: ") && error.contains(want), "{want}: {error}");
        assert!(!error.contains('\n'), "{error}");
        assert!(below(&models).is_empty(), "{want}: {:?}", below(&models));
        assert!(!dir.path().join("escaped").exists() && !models.join("escaped").exists());
    }
}

#[test]
fn a_full_disk_and_another_installation_are_seen_before_the_start() {
    let dir = TempDir::new().expect("a folder");
    let full = Machine { free: |_| Ok(10), ..Machine::default() };
    let bytes = good("1.0.0");
    let error = stage(dir.path(), Path::new("FILE"), Cursor::new(&bytes), false, &full, &Quiet).expect_err("no room");
    assert!(error.to_string().contains("too full: 20 bytes are needed, 10 are free"), "{error}");
    let held = lock(dir.path()).expect("free");
    assert!(matches!(unpack(dir.path(), &bytes, false), Err(ModelError::Busy(_))));
    drop(held);
    assert!(unpack(dir.path(), &bytes, false).is_ok());
}

#[test]
fn a_pack_of_the_catalogue_is_written_the_same_each_time_and_can_be_installed_and_left_again() {
    let dir = TempDir::new().expect("a folder");
    let (models, out) = (dir.path().join("models"), dir.path());
    let mut text = "[pack.p]\nabout=\"\"\nvad=\"vad\"\nstt=\"stt\"\nllm=\"llm\"\nvoice=\"voice\"\n".to_owned();
    for role in ROLES {
        let hash = hex::encode(Sha256::digest(role));
        text += &format!("[[model]]\nname={role:?}\nrole={role:?}\nlicence=\"MIT\"\nabout=\"\"\n");
        text += &format!("[[model.file]]\nname=\"w\"\nbytes={}\nsha256={hash:?}\n", role.len());
        text += &format!(
            "[[model.archive]]\npackage=\"x\"\nversion=\"1\"\nfile=\"x\"\nbytes=1\nsha256={hash:?}\nholds={{a=\"w\"}}\n"
        );
        fs::create_dir_all(models.join(role)).expect("a folder");
        fs::write(models.join(role).join("w"), role).expect("pulled");
    }
    let catalogue = Catalogue::parse(&text).expect("sound");
    let version = "2.0.0".parse().expect("a version");
    let path = write(&catalogue, "p", version, &models, out).expect("written");
    let bytes = fs::read(&path).expect("readable");
    assert_eq!(path.file_name().expect("a name"), "callbox-p-2.0.0.tar.zst");
    write(&catalogue, "p", version, &models, out).expect("written again");
    assert_eq!(fs::read(&path).expect("readable"), bytes);
    let Unpacked::Staged(staged) = unpack(dir.path(), &bytes, false).expect("unpacked") else {
        panic!("not there yet")
    };
    assert_eq!(staged.installed().manifest.test, SelfTest::default());
    staged.switch().expect("installed");
    assert_eq!(counts(dir.path()), "llm");
    fs::write(models.join("stt/w"), "xyz").expect("damaged");
    assert!(matches!(write(&catalogue, "p", version, &models, out), Err(ModelError::WrongHash { .. })));
}
