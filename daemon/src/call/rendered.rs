//! Rendered phrases on the disk: so that they can be said before there is an engine, and without one.
//!
//! Enters: a voice, texts of agents and their audio; leaves: the audio. One file for each text, named by a digest of voice,
//! speaker and text, written under another name first; what does not match its own digest is not there. Never here: a word or
//! the voice of a caller. The folder may be emptied at any time.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::phrases::Fixed;
use super::shelf::{Phrase, Samples};

/// Another number has all phrases rendered anew: for a change of how a voice speaks that its files do not show.
const RENDERING: u8 = 2;

/// Bytes of the digest before the samples.
const DIGEST: usize = 32;

/// What nobody has asked for in so long is deleted.
const UNUSED: Duration = Duration::from_secs(90 * 24 * 3600);

/// The phrases of one voice.
#[derive(Clone, Debug)]
pub struct Rendered {
    folder: PathBuf,
    voice: String,
}

impl Rendered {
    /// Phrases of a voice in a folder, which is made if need be. Deletes what has not been used for 90 days before `now`.
    ///
    /// # Errors
    /// If the folder can be neither made nor read.
    pub fn open(folder: PathBuf, voice: String, now: SystemTime) -> io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let used = entry.metadata()?.modified()?;
            if now.duration_since(used).is_ok_and(|age| age > UNUSED) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder, voice })
    }

    fn path(&self, fixed: &Fixed) -> PathBuf {
        let mut digest = Sha256::new_with_prefix([RENDERING]);
        digest.update(self.voice.as_bytes());
        digest.update([0]);
        if let Some(speaker) = &fixed.voice {
            digest.update(speaker.as_bytes());
            digest.update([0]);
        }
        digest.update(fixed.text.as_bytes());
        self.folder.join(hex::encode(digest.finalize())).with_extension("pcm")
    }

    /// A phrase, if it was rendered before.
    pub(super) fn load(&self, fixed: &Fixed, now: SystemTime) -> Option<Phrase> {
        let path = self.path(fixed);
        let bytes = std::fs::read(&path).ok()?;
        let (digest, samples) = bytes.split_first_chunk::<DIGEST>()?;
        if Sha256::digest(samples)[..] != digest[..] {
            return None;
        }
        if let Err(error) = touch(&path, now) {
            tracing::debug!(%error, "a rendered phrase looks unused");
        }
        let samples: Vec<i16> = samples.as_chunks().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect();
        Some(samples.as_chunks().0.iter().copied().collect())
    }

    /// Keeps a phrase.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn store(&self, fixed: &Fixed, phrase: &[Samples]) -> io::Result<()> {
        let samples: Vec<u8> = phrase.iter().flatten().flat_map(|sample| sample.to_le_bytes()).collect();
        let path = self.path(fixed);
        let fresh = path.with_extension(format!("{}", std::process::id()));
        std::fs::write(&fresh, [&Sha256::digest(&samples)[..], &samples].concat())?;
        std::fs::rename(fresh, path)
    }
}

fn touch(path: &Path, now: SystemTime) -> io::Result<()> {
    std::fs::File::options().append(true).open(path)?.set_modified(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock as _, SystemClock};

    #[test]
    fn a_phrase_is_found_by_voice_and_text_and_only_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let now = SystemClock.wall();
        let open =
            |voice: &str, now| Rendered::open(dir.path().join("phrases"), voice.to_owned(), now).expect("a folder");
        let said = |text: &str| Fixed { voice: None, text: text.into() };
        let joe = open("joe", now);
        let phrase = [[7; 320], [-9; 320]];
        joe.store(&said("One moment."), &phrase).expect("a disk");
        assert_eq!(joe.load(&said("One moment."), now).as_deref(), Some(&phrase[..]));
        assert!(
            joe.load(&said("Goodbye."), now).is_none() && open("amy", now).load(&said("One moment."), now).is_none()
        );

        let other = Fixed { voice: Some("amy".into()), ..said("One moment.") };
        assert!(joe.load(&other, now).is_none(), "another speaker of the same voice");

        joe.store(&said("Goodbye."), &phrase).expect("a disk");
        let path = joe.path(&said("Goodbye."));
        let bytes = std::fs::read(&path).expect("written");
        std::fs::write(&path, &bytes[..bytes.len() - 640]).expect("a disk");
        assert!(joe.load(&said("Goodbye."), now).is_none(), "half a phrase");

        let late = now + UNUSED - Duration::from_secs(60);
        assert!(joe.load(&said("One moment."), late).is_some(), "used again");
        let later = open("joe", now + UNUSED + Duration::from_secs(60));
        assert!(later.load(&said("One moment."), late).is_some() && !path.exists());
    }
}
