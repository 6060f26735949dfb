//! SHA-256 of files and streams. Enters: bytes of any length; leaves: lowercase hexadecimal. Never here: whole files in
//! memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

const CHUNK: usize = 1 << 18;

/// Hashes what passes through it.
pub(super) struct Sink<W> {
    to: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Sink<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, hash: Sha256::new(), bytes: 0 }
    }

    /// Copies `from` to its end, or fails once more than `limit` bytes have passed this sink in all: a zip entry may
    /// claim any size and hold any other.
    pub(super) fn copy(&mut self, mut from: impl Read, limit: u64) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.bytes += read as u64;
            if self.bytes > limit {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it holds more than the catalogue says"));
            }
            self.hash.update(&buffer[..read]);
            self.to.write_all(&buffer[..read])?;
        }
    }

    /// The destination, what it was given, and the hash of that.
    pub(super) fn finish(self) -> (W, u64, String) {
        (self.to, self.bytes, hex::encode(self.hash.finalize()))
    }
}

/// SHA-256 of a file.
pub(super) fn of_file(path: &Path) -> io::Result<String> {
    let mut sink = Sink::new(io::sink());
    sink.copy(File::open(path)?, u64::MAX)?;
    Ok(sink.finish().2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_and_the_three_letter_message_of_fips_180_4() {
        for (text, want) in [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ] {
            let mut sink = Sink::new(Vec::new());
            sink.copy(text.as_bytes(), 3).expect("in memory");
            let (copy, bytes, hash) = sink.finish();
            assert_eq!((copy.as_slice(), bytes, hash.as_str()), (text.as_bytes(), text.len() as u64, want));
        }
    }

    #[test]
    fn stops_at_the_limit() {
        assert!(Sink::new(Vec::new()).copy(io::repeat(0), 1000).is_err());
    }
}
