//! Documents on the disk: those of an agent's own folder, and those that operators have added. Enters: a folder; leaves:
//! documents, cut into passages, or one sentence that says which file is wrong.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::passages::{Kind, cut};
use crate::base::Passage;

/// Bytes of a file, files of a folder, and passages of an agent, at most.
const MOST_BYTES: u64 = 1 << 20;
const MOST_FILES: usize = 200;
pub(super) const MOST_PASSAGES: usize = 2000;

/// Why a document cannot be used; its `Display` is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// A file or a folder cannot be used.
    #[error("{path} cannot be used: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The name is none.
    #[error("{0:?} is no name of a document: letters, digits, `.`, `-` and `_`, with .md, .txt or .csv at its end")]
    Name(String),
    /// A table that is none.
    #[error("the table cannot be read: {0}")]
    Table(String),
    /// There is nothing in it.
    #[error("there is no text in it")]
    Empty,
    /// More than the model could ever be shown the right part of.
    #[error("an agent's documents make at most {MOST_PASSAGES} passages, these make {0}; leave some out")]
    TooMany(usize),
}

/// A document, cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// Its file's name.
    pub(super) name: String,
    pub(super) passages: Vec<Passage>,
}

impl Document {
    /// Cuts a text; the end of the name says what it is written in.
    ///
    /// # Errors
    /// A name that is none, or a text that is not what the name says.
    pub fn new(name: &str, text: &str) -> Result<Self, DocumentError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let kind = Kind::of(name)
            .filter(|_| (1..=64).contains(&name.len()) && !name.starts_with('.') && name.chars().all(fits))
            .ok_or_else(|| DocumentError::Name(name.to_owned()))?;
        let named =
            |headings: String| if headings.is_empty() { name.to_owned() } else { format!("{name}: {headings}") };
        let pieces = cut(kind, text.trim_start_matches('\u{feff}'))?;
        let passages: Vec<Passage> =
            pieces.into_iter().map(|piece| Passage { name: named(piece.headings), text: piece.text }).collect();
        if passages.is_empty() { Err(DocumentError::Empty) } else { Ok(Self { name: name.to_owned(), passages }) }
    }
}

/// All documents of a folder, by name; none if there is no folder. What no document could be called is passed over.
///
/// # Errors
/// The first file that is wrong.
pub fn read(folder: &Path) -> Result<Vec<Document>, DocumentError> {
    let wrong = |path: &Path, reason: String| DocumentError::File { path: path.to_owned(), reason };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| wrong(folder, error.to_string()))?,
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(|error| wrong(folder, error.to_string())))
        .collect::<Result<_, _>>()?;
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| Kind::of(&name.to_string_lossy()).is_some());
    paths.retain(named);
    paths.sort_unstable();
    if paths.len() > MOST_FILES {
        return Err(wrong(folder, format!("it holds {} documents, and at most {MOST_FILES} are read", paths.len())));
    }
    let mut documents = Vec::new();
    for path in paths {
        let bytes = fs::metadata(&path).map_err(|error| wrong(&path, error.to_string()))?.len();
        if bytes > MOST_BYTES {
            return Err(wrong(&path, format!("it has {bytes} bytes, and a document has at most {MOST_BYTES}")));
        }
        let text = fs::read_to_string(&path).map_err(|error| wrong(&path, error.to_string()))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        documents.push(Document::new(&name, &text).map_err(|error| wrong(&path, error.to_string()))?);
    }
    fits(documents.iter()).map(|()| documents)
}

/// Whether all of these are not too much for one agent.
pub(super) fn fits<'a>(documents: impl Iterator<Item = &'a Document>) -> Result<(), DocumentError> {
    let passages = documents.map(|document| document.passages.len()).sum();
    if passages > MOST_PASSAGES { Err(DocumentError::TooMany(passages)) } else { Ok(()) }
}

/// Puts a text in its place, whole or not at all.
pub(super) fn write(folder: &Path, name: &str, text: &str) -> Result<(), DocumentError> {
    let wrong = |error: std::io::Error| DocumentError::File { path: folder.join(name), reason: error.to_string() };
    fs::create_dir_all(folder).map_err(wrong)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(wrong)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(wrong)?;
    file.persist(folder.join(name)).map_err(|error| wrong(error.error))?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(wrong)
}

/// Takes one away; false if there is none.
pub(super) fn remove(folder: &Path, name: &str) -> Result<bool, DocumentError> {
    match fs::remove_file(folder.join(name)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(DocumentError::File { path: folder.join(name), reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_by_name_and_a_wrong_file_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read(&folder.path().join("nowhere")).expect("none"), []);
        let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("written");
        put("b.txt", b"Two.");
        put("a.md", b"\xef\xbb\xbf# One\nYes.");
        put("notes.docx", b"\xff");
        let names: Vec<String> = read(folder.path()).expect("read").into_iter().map(|document| document.name).collect();
        assert_eq!(names, ["a.md", "b.txt"]);
        for (name, bytes, why) in [
            ("c.txt", &b"\xff\xfe"[..], "valid UTF-8"),
            ("c.md", b" \n", "no text"),
            ("c d.md", b"x", "no name of a document"),
            ("c.csv", b"a,b\n\"x\n", ""),
        ] {
            put(name, bytes);
            let said = read(folder.path()).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(why.is_empty() || (said.contains(name) && said.contains(why)), "{name}: {said}");
            fs::remove_file(folder.path().join(name)).expect("removed");
        }
        put("c.txt", "Word. ".repeat(200_000).as_bytes());
        assert!(read(folder.path()).is_err_and(|error| error.to_string().contains("at most 1048576")));
        put("c.txt", format!("{} \n\n", "a".repeat(399)).repeat(2100).as_bytes());
        assert!(read(folder.path()).is_err_and(|error| error.to_string().contains("at most 2000 passages")));
    }
}
