//! Brings one model of an owner's. Enters: a [`Source`] and a wish; leaves: verified files in a folder named after their
//! hashes, and an entry in `models.lock`. Whenever it stops, what has arrived is kept and counts for nothing; the next run
//! goes on from there. What was recorded once is what is brought again, wherever a branch has gone since.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::book::{FOLDER, is_commit};
use super::{Book, Found, Offer, OwnError, Owned, OwnedFile, Source, is_name, roles};
use crate::models::pull::{DOWNLOADS, Machine, lock, sweep};
use crate::models::{ModelError, Progress, State, Use, digest, megabytes, state, versions};

/// How the names of files that have not arrived as a whole begin.
const HALF: &str = "half-";

/// What a card says that says nothing.
pub(super) const UNKNOWN: &str = "unknown";

/// What the owner wants of a source.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// What to call it; otherwise the source says.
    pub name: Option<String>,
    /// What it is for; otherwise its file says.
    pub role: Option<Use>,
    /// Which file; otherwise the only one that would do.
    pub file: Option<String>,
    /// The licence of a source that does not name one.
    pub licence: Option<String>,
    /// Takes what is there now, whatever was recorded under the name.
    pub update: bool,
}

/// What came of it.
#[derive(Debug)]
pub enum Brought {
    /// It was there, every byte as it was recorded; nobody was asked.
    Already(Owned),
    /// It is there now.
    New(Owned),
}

/// Brings what the wish says, and records it.
///
/// # Errors
/// [`ModelError::Own`], [`ModelError::Busy`], [`ModelError::DiskFull`], [`ModelError::Io`]; running it again goes on.
pub fn bring(
    dir: &Path,
    wish: &Wish,
    source: &mut dyn Source,
    machine: &Machine,
    progress: &dyn Progress,
) -> Result<Brought, ModelError> {
    let downloads = dir.join(DOWNLOADS);
    fs::create_dir_all(&downloads).map_err(ModelError::io(&downloads))?;
    let _lock = lock(dir)?;
    sweep(dir)?;
    sweep(&downloads)?;
    let mut book = Book::read(dir)?;
    let name = wish.name.clone().unwrap_or_else(|| source.title());
    if !is_name(&name) {
        return Err(OwnError::BadName(name).into());
    }
    let recorded = book.get(&name).cloned();
    let pinned = recorded.clone().filter(|_| !wish.update);
    if let Some(pinned) = &pinned {
        same(pinned, wish, source)?;
        if state(&pinned.model(), &pinned.folder(dir), true)? == State::Installed {
            return Ok(Brought::Already(pinned.clone()));
        }
    }

    let commit = pinned.as_ref().and_then(|pinned| pinned.commit.as_deref());
    let found = source.find(commit)?;
    let role = wish.role.or_else(|| pinned.as_ref().map(|pinned| pinned.role));
    let first = pinned.as_ref().map(|pinned| pinned.files[0].from.as_str());
    let (role, offers) = roles::choose(&source.name(), &found.files, wish.file.as_deref().or(first), role)?;
    if let (Use::Llm, Some(architecture)) = (role, &found.architecture) {
        roles::architecture(&offers[0].path, architecture)?;
    }
    let mut owned = Owned {
        name,
        role,
        licence: found
            .licence
            .clone()
            .or_else(|| wish.licence.clone())
            .and_then(plain)
            .unwrap_or_else(|| UNKNOWN.to_owned()),
        source: source.name(),
        revision: pinned.as_ref().map_or_else(|| source.revision(), |pinned| pinned.revision.clone()),
        commit: found.commit.clone().filter(|commit| is_commit(commit)),
        files: Vec::new(),
    };
    let halves: Vec<_> = offers.iter().map(|offer| downloads.join(half(&owned, offer))).collect();
    let needed = room(&offers, &halves);
    let free = (machine.free)(dir).map_err(ModelError::io(dir))?;
    if free < needed {
        return Err(ModelError::DiskFull { dir: dir.to_owned(), needed, free });
    }
    progress.say(&introduction(&owned, &offers));
    progress.begin(&owned.name, offers.iter().filter_map(|offer| offer.bytes).sum());
    for (offer, path) in offers.iter().zip(&halves) {
        let file = complete(source, &found, offer, path, pinned.as_ref(), progress).map_err(|error| match error {
            ModelError::Io { reason, .. } if reason.kind() == io::ErrorKind::StorageFull => {
                let needed = room(&offers, &halves);
                ModelError::DiskFull { dir: dir.to_owned(), needed, free: (machine.free)(dir).unwrap_or(0) }
            }
            other => other,
        })?;
        progress.archive(&file.name, file.bytes);
        owned.files.push(file);
    }
    let looked: Vec<_> = owned.files.iter().map(|file| file.name.clone()).zip(halves.iter().cloned()).collect();
    if let Err(error) = roles::look(role, &looked) {
        // Whole, and of no use: another run would bring the same.
        for path in &halves {
            fs::remove_file(path).map_err(ModelError::io(path))?;
        }
        return Err(error.into());
    }
    publish(dir, &owned, &halves)?;
    book.put(owned.clone());
    book.write(dir)?;
    clear(dir, &book)?;
    drop(fs::remove_dir(&downloads));
    for file in &owned.files {
        progress.installed(&owned.folder(dir).join(&owned.name).join(&file.name).display().to_string());
    }
    Ok(Brought::New(owned))
}

/// Forgets a model and deletes its files.
///
/// # Errors
/// [`OwnError::Unknown`], [`ModelError::Busy`], [`ModelError::Io`].
pub fn remove(dir: &Path, name: &str) -> Result<(), ModelError> {
    let _lock = lock(dir)?;
    let mut book = Book::read(dir)?;
    if !book.take(name) {
        return Err(OwnError::Unknown(name.to_owned()).into());
    }
    book.write(dir)?;
    clear(dir, &book)
}

/// Whether the wish is for what was recorded under its name.
fn same(pinned: &Owned, wish: &Wish, source: &dyn Source) -> Result<(), OwnError> {
    let other_revision = source.revision().is_some_and(|revision| {
        pinned.revision.as_ref() != Some(&revision) && pinned.commit.as_ref() != Some(&revision)
    });
    let other_file = wish.file.as_ref().is_some_and(|file| pinned.files[0].from != *file);
    let other_role = wish.role.is_some_and(|role| role != pinned.role);
    if pinned.source != source.name() || other_revision || other_file || other_role {
        return Err(OwnError::Taken { name: pinned.name.clone(), recorded: pinned.origin() });
    }
    Ok(())
}

/// A stranger's words, if they are few and can be shown.
fn plain(text: String) -> Option<String> {
    ((1..=80).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')).then_some(text)
}

fn introduction(owned: &Owned, offers: &[Offer]) -> String {
    let size = match offers.iter().map(|offer| offer.bytes).sum::<Option<u64>>() {
        Some(bytes) => format!(", {}", megabytes(bytes)),
        None => String::new(),
    };
    let licence = match owned.licence.as_str() {
        UNKNOWN => "licence unknown: nothing there names one, so ask its author before you use it",
        licence => &format!("licence {licence}"),
    };
    let commit = owned.commit.as_ref().map(|commit| format!(" at commit {commit}")).unwrap_or_default();
    format!("{}{commit}: {} for the role {}{size}; {licence}", owned.source, offers[0].path, owned.role)
}

/// The name of what has arrived of a file: of this file at this commit and of no other.
fn half(owned: &Owned, offer: &Offer) -> String {
    let commit = owned.commit.as_deref().unwrap_or_default();
    let hash = Sha256::digest(format!("{}\n{commit}\n{}", owned.source, offer.path));
    format!("{HALF}{}", hex::encode(&hash[..16]))
}

/// Bytes that are still to come.
fn room(offers: &[Offer], halves: &[PathBuf]) -> u64 {
    let here = |path: &PathBuf| fs::symlink_metadata(path).map_or(0, |meta| meta.len());
    offers.iter().zip(halves).map(|(offer, path)| offer.bytes.unwrap_or(0).saturating_sub(here(path))).sum()
}

/// Fetches what a file lacks and compares it with what was recorded, else with what the source says.
fn complete(
    source: &mut dyn Source,
    found: &Found,
    offer: &Offer,
    path: &Path,
    pinned: Option<&Owned>,
    progress: &dyn Progress,
) -> Result<OwnedFile, ModelError> {
    // Never through a link: root comes here, too, and the daemon's user can make links here.
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = options.custom_flags(nofollow).open(path).map_err(ModelError::io(path))?;
    let said = source.fetch(found, offer, &mut file, progress)?;
    let bytes = file.metadata().map_err(ModelError::io(path))?.len();
    let sha256 = digest::of_file(path).map_err(ModelError::io(path))?;
    let recorded = pinned.and_then(|pinned| pinned.files.iter().find(|file| file.from == offer.path));
    let name = offer.path.rsplit('/').next().unwrap_or(&offer.path).to_owned();
    let wrong = |named_by: &str, remedy: &str| -> ModelError {
        drop(fs::remove_file(path));
        let (file, named_by, remedy) = (offer.path.clone(), named_by.to_owned(), remedy.to_owned());
        OwnError::Wrong { file, named_by, remedy }.into()
    };
    if recorded.is_some_and(|file| (file.bytes, &file.sha256) != (bytes, &sha256)) {
        return Err(wrong("models.lock", "`--update` takes what is there now"));
    }
    let named = [&said, &offer.sha256];
    if named.into_iter().flatten().any(|named| *named != sha256) || offer.bytes.is_some_and(|named| named != bytes) {
        return Err(wrong(&source.name(), "run this again"));
    }
    file.set_permissions(Permissions::from_mode(0o644)).and_then(|()| file.sync_all()).map_err(ModelError::io(path))?;
    Ok(OwnedFile { from: offer.path.clone(), name, bytes, sha256 })
}

/// Moves verified files to where their entry says; without the entry they count for nothing.
fn publish(dir: &Path, owned: &Owned, halves: &[PathBuf]) -> Result<(), ModelError> {
    let folder = owned.folder(dir);
    let inner = folder.join(&owned.name);
    fs::create_dir_all(&inner).map_err(ModelError::io(&inner))?;
    for path in [&dir.join(FOLDER), &folder, &inner] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(ModelError::io(path))?;
    }
    for (file, path) in owned.files.iter().zip(halves) {
        let target = inner.join(&file.name);
        fs::rename(path, &target).map_err(ModelError::io(&target))?;
    }
    versions::sync(&inner)?;
    versions::sync(&folder)
}

/// Deletes folders that no entry names any more; called with the lock held.
fn clear(dir: &Path, book: &Book) -> Result<(), ModelError> {
    let folder = dir.join(FOLDER);
    let kept: Vec<_> = book.models().iter().map(Owned::digest).collect();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(reason) => return Err(ModelError::Io { path: folder, reason }),
    };
    for entry in entries.flatten() {
        if !kept.iter().any(|kept| entry.file_name() == kept.as_str()) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(ModelError::io(&path))?;
        } else {
            // Two names for the same files: each has a folder in it.
            for inner in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                let named =
                    |owned: &Owned| inner.file_name() == owned.name.as_str() && owned.folder(dir) == entry.path();
                if !book.models().iter().any(named) {
                    fs::remove_dir_all(inner.path()).map_err(ModelError::io(inner.path()))?;
                }
            }
        }
    }
    Ok(())
}
