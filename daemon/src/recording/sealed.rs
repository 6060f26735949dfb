//! One part of a recording as a file. Enters: packets; leaves: sealed chunks, each of about a second; and back. What was
//! written before a process or a machine died can be opened up to its last whole chunk; a chunk that was changed, moved,
//! cut off from its header or from its key opens nothing. STREAM over XChaCha20-Poly1305, see
//! <https://eprint.iacr.org/2015/189.pdf>.
//!
//! `CBOXREC1`, key id (8), nonce (19), call (8), part (4), begun in µs since 1970 (8); then chunks: length (4), sealed
//! packets, each with its length (2). All numbers big-endian. The header is bound to every chunk.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aead_stream::{NewStream as _, StreamBE32, StreamPrimitive as _};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{KeyInit as _, Payload};

use super::keys::{ID, Key, KeyRing};
use crate::base::CallId;

const MAGIC: &[u8; 8] = b"CBOXREC1";
const NONCE: usize = 19;
const HEADER: usize = 8 + ID + NONCE + 8 + 4 + 8;

/// Longest sealed chunk that is read.
const LONGEST: usize = 1 << 20;

/// What a part is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) call: CallId,
    pub(super) part: u32,
    pub(super) begun_us: i64,
}

impl Header {
    fn bytes(self, key: &Key, nonce: &[u8; NONCE]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(key.id);
        bytes.extend(nonce);
        bytes.extend(self.call.0.to_be_bytes());
        bytes.extend(self.part.to_be_bytes());
        bytes.extend(self.begun_us.to_be_bytes());
        bytes
    }
}

type Stream = StreamBE32<XChaCha20Poly1305>;

fn stream(key: &Key, nonce: &[u8; NONCE]) -> Stream {
    Stream::from_aead(XChaCha20Poly1305::new(&key.bytes.into()), &(*nonce).into())
}

/// A part that is being written.
pub(super) struct Writer {
    file: File,
    header: Vec<u8>,
    stream: Stream,
    position: u32,
    /// Bytes of the file.
    length: u64,
    chunk: Vec<u8>,
}

impl Writer {
    /// Makes the file; one that is there is an error.
    pub(super) fn create(path: &Path, header: Header, key: &Key, nonce: &[u8; NONCE]) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let header = header.bytes(key, nonce);
        file.write_all(&header)?;
        let length = header.len() as u64;
        Ok(Self { file, header, stream: stream(key, nonce), position: 0, length, chunk: Vec::new() })
    }

    /// Adds a packet to the chunk.
    pub(super) fn push(&mut self, packet: &[u8]) {
        let length = u16::try_from(packet.len()).unwrap_or(0);
        self.chunk.extend(length.to_be_bytes());
        self.chunk.extend(packet.get(..length.into()).unwrap_or_default());
    }

    /// Seals and writes the chunk; the last one says that nothing is missing.
    pub(super) fn write(&mut self, last: bool) -> io::Result<()> {
        let payload = Payload { msg: &self.chunk, aad: &self.header };
        let sealed = self.stream.encrypt(self.position, last, payload).map_err(|_| io::ErrorKind::Other)?;
        let length = u32::try_from(sealed.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let whole = [&length.to_be_bytes(), sealed.as_slice()].concat();
        if let Err(error) = self.file.write_all(&whole) {
            // What there is of it opens nothing.
            self.file.set_len(self.length).unwrap_or_default();
            return Err(error);
        }
        self.length += whole.len() as u64;
        self.position = self.position.checked_add(1).ok_or(io::ErrorKind::FileTooLarge)?;
        self.chunk.clear();
        Ok(())
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }
}

/// A part that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is no recording of this release")]
    Foreign,
    #[error("it was sealed with the key {0}, which is not among those of recordings.credential or recordings.key_file")]
    NoKey(String),
    #[error("it was changed, or is not what its name says")]
    Changed,
}

/// A part that is being read.
pub(super) struct Reader {
    file: BufReader<File>,
    pub(super) header: Header,
    bound: Vec<u8>,
    stream: Stream,
    position: u32,
    left: u64,
}

impl Reader {
    pub(super) fn open(path: &Path, keys: &KeyRing) -> Result<Self, OpenError> {
        let mut file = BufReader::new(File::open(path)?);
        let length = file.seek(io::SeekFrom::End(0))?;
        file.rewind()?;
        let mut bytes = vec![0; HEADER];
        file.read_exact(&mut bytes).map_err(|_| OpenError::Foreign)?;
        let mut rest = bytes.as_slice();
        let magic: [u8; 8] = take(&mut rest)?;
        let (id, nonce, call) = (take::<ID>(&mut rest)?, take::<NONCE>(&mut rest)?, take(&mut rest)?);
        let (part, begun) = (take(&mut rest)?, take(&mut rest)?);
        if magic != *MAGIC {
            return Err(OpenError::Foreign);
        }
        let key = keys.find(id).ok_or_else(|| OpenError::NoKey(hex::encode(id)))?;
        let call = CallId(u64::from_be_bytes(call));
        let header = Header { call, part: u32::from_be_bytes(part), begun_us: i64::from_be_bytes(begun) };
        let left = length.saturating_sub(HEADER as u64);
        Ok(Self { file, header, stream: stream(key, &nonce), bound: bytes, position: 0, left })
    }

    /// The packets of the next chunk; none after the last one that is whole.
    pub(super) fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, OpenError> {
        let mut length = [0; 4];
        if self.left < 4 {
            self.left = 0;
            return Ok(None);
        }
        self.file.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST {
            return Err(OpenError::Changed);
        }
        self.left -= 4;
        if self.left < length as u64 {
            // A process that died in the middle of it.
            self.left = 0;
            return Ok(None);
        }
        let mut sealed = vec![0; length];
        self.file.read_exact(&mut sealed)?;
        self.left -= length as u64;
        let open = |last| {
            let payload = Payload { msg: &sealed, aad: &self.bound };
            self.stream.decrypt(self.position, last, payload).map_err(|_| OpenError::Changed)
        };
        // The last chunk of a part that was finished says so; what comes before the end of a file never may.
        let chunk = if self.left == 0 { open(true).or_else(|_| open(false)) } else { open(false) }?;
        self.position = self.position.checked_add(1).ok_or(OpenError::Changed)?;
        packets(&chunk).map(Some)
    }
}

fn packets(mut chunk: &[u8]) -> Result<Vec<Vec<u8>>, OpenError> {
    let mut packets = Vec::new();
    while !chunk.is_empty() {
        let length = usize::from(u16::from_be_bytes(take(&mut chunk)?));
        let (packet, rest) = chunk.split_at_checked(length).ok_or(OpenError::Changed)?;
        packets.push(packet.to_vec());
        chunk = rest;
    }
    Ok(packets)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], OpenError> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(OpenError::Changed)?;
    *bytes = rest;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keys::generate;
    use super::*;

    const WHAT: Header = Header { call: CallId(7), part: 1, begun_us: 5 };

    fn keys(seed: u64) -> KeyRing {
        KeyRing::parse(&generate(None, || seed).expect("a secret")).expect("keys")
    }

    fn write(path: &Path, keys: &KeyRing, chunks: &[Vec<Vec<u8>>], finished: bool) {
        let mut writer = Writer::create(path, WHAT, keys.newest().expect("a key"), &[3; NONCE]).expect("made");
        for (number, chunk) in chunks.iter().enumerate() {
            chunk.iter().for_each(|packet| writer.push(packet));
            writer.write(finished && number + 1 == chunks.len()).expect("written");
        }
        assert_eq!(writer.length(), std::fs::metadata(path).expect("a file").len());
    }

    fn read(path: &Path, keys: &KeyRing) -> Result<Vec<Vec<Vec<u8>>>, OpenError> {
        let mut reader = Reader::open(path, keys)?;
        assert_eq!(reader.header, WHAT);
        std::iter::from_fn(|| reader.next().transpose()).collect()
    }

    fn some() -> Vec<Vec<Vec<u8>>> {
        (0..4_u8).map(|chunk| (0..50).map(|packet| vec![chunk ^ packet; 40]).collect()).collect()
    }

    #[test]
    fn it_holds_what_was_put_in_up_to_where_it_was_cut_off_and_shows_nothing_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, keys) = (folder.path().join("a"), keys(1));
        write(&path, &keys, &some(), true);
        assert_eq!(read(&path, &keys).expect("opened"), some());
        let whole = std::fs::read(&path).expect("read");
        assert!(!whole.windows(20).any(|part| part == [2; 20]), "no packet lies open");
        for cut in (HEADER..whole.len()).step_by(97) {
            std::fs::write(&path, &whole[..cut]).expect("cut");
            let opened = read(&path, &keys).expect("opened");
            assert_eq!(opened, some()[..opened.len()], "cut at {cut}");
            assert!(opened.len() * 2200 + HEADER + 2200 > cut, "a whole chunk is missing at {cut}");
        }
        assert!(
            matches!(Writer::create(&path, WHAT, keys.newest().expect("a key"), &[3; NONCE]), Err(error) if error.kind() == io::ErrorKind::AlreadyExists)
        );
    }

    #[test]
    fn another_key_opens_nothing_and_says_which_is_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        write(&path, &keys(1), &some(), true);
        let told = read(&path, &keys(2)).expect_err("no key").to_string();
        assert!(told.contains(&keys(1).newest_id()), "{told}");
        std::fs::write(&path, b"CBOXREC9").expect("written");
        assert!(matches!(read(&path, &keys(1)), Err(OpenError::Foreign)));
    }

    proptest! {
        /// A bit that is turned anywhere is noticed, at the latest where it lies.
        #[test]
        fn a_change_opens_nothing_of_what_was_changed(at in 0_usize..8500, bit in 0_u8..8) {
            let folder = tempfile::tempdir().expect("a folder");
            let (path, keys) = (folder.path().join("a"), keys(1));
            write(&path, &keys, &some(), true);
            let mut bytes = std::fs::read(&path).expect("read");
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).expect("written");
            let opened = std::panic::catch_unwind(|| {
                let mut reader = Reader::open(&path, &keys)?;
                std::iter::from_fn(|| reader.next().transpose()).collect::<Result<Vec<_>, _>>()
            });
            if let Ok(opened) = opened.expect("no panic") {
                prop_assert!(opened.len() < some().len() && opened == some()[..opened.len()]);
            }
        }

        #[test]
        fn no_bytes_are_worse_than_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("a");
            let keys = keys(1);
            let mut file = [MAGIC.as_slice(), &keys.newest().expect("a key").id].concat();
            file.extend(bytes);
            std::fs::write(&path, file).expect("written");
            if let Ok(mut reader) = Reader::open(&path, &keys) {
                prop_assert!(reader.next().is_err() || reader.left == 0);
            }
        }
    }
}
