//! The files of recordings: `CALL-PART.callrec` in one folder of the daemon's alone. Enters: a call; leaves: its parts, in
//! order, or their end.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::base::CallId;

const SUFFIX: &str = ".callrec";

/// Parts of one call: as many daemons as may die of it, and some full disks.
const MOST: u32 = 1000;

pub(super) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

pub(super) fn path(folder: &Path, call: CallId, part: u32) -> PathBuf {
    folder.join(format!("{call}-{part:03}{SUFFIX}"))
}

/// The first part that is not there; parts have no gaps, because they go together.
pub(super) fn next_part(folder: &Path, call: CallId) -> Option<u32> {
    (1..=MOST).find(|part| !path(folder, call, *part).exists())
}

/// All parts of a call, in order.
pub(super) fn parts(folder: &Path, call: CallId) -> Vec<PathBuf> {
    (1..=MOST).map(|part| path(folder, call, part)).take_while(|path| path.exists()).collect()
}

/// Removes all parts of a call; how many there were.
pub(super) fn remove(folder: &Path, call: CallId) -> io::Result<u64> {
    let mut removed = 0;
    // From the last one: who is cut off in between leaves parts that are still found.
    for path in parts(folder, call).iter().rev() {
        fs::remove_file(path)?;
        removed += 1;
    }
    Ok(removed)
}

/// Removes what was last written before then; how many files.
pub(super) fn remove_older(folder: &Path, than: SystemTime) -> io::Result<u64> {
    let mut removed = 0;
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let ours = entry.file_name().to_str().is_some_and(|name| name.ends_with(SUFFIX));
        if ours && entry.metadata()?.modified()? < than {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn parts_are_found_in_order_and_go_together_and_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("recordings");
        make(&folder).expect("made");
        let (call, other) = (CallId(7), CallId(77));
        for part in 1..=3 {
            assert_eq!(next_part(&folder, call), Some(part));
            fs::write(path(&folder, call, part), "x").expect("written");
        }
        fs::write(path(&folder, other, 1), "x").expect("written");
        fs::write(folder.join("notes.txt"), "x").expect("written");
        assert_eq!(parts(&folder, call).len(), 3);
        assert_eq!(remove(&folder, call).expect("removed"), 3);
        assert_eq!((parts(&folder, call).len(), parts(&folder, other).len()), (0, 1));
        let now = fs::metadata(path(&folder, other, 1)).and_then(|meta| meta.modified()).expect("a time");
        assert_eq!(remove_older(&folder, now).expect("looked"), 0);
        assert_eq!(remove_older(&folder, now + Duration::from_secs(1)).expect("looked"), 1);
        assert!(folder.join("notes.txt").exists());
        assert_eq!(remove_older(Path::new("/nonexistent/recordings"), now).expect("nothing"), 0);
    }
}
