//! Who may change this machine. Enters: a file with its minisign signature beside it, and public keys; leaves: the file,
//! opened, once every byte of it is known to be signed. Never here: what the file holds, or a secret key.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use minisign_verify::{Error, PublicKey, Signature, StreamVerifier};

/// The key of those who built the package.
pub const PACKAGED_KEY: &str = "/usr/lib/callbox/callbox.pub";

/// Folder of the keys that the owner trusts besides it: `*.pub`.
pub const OWNERS_KEYS: &str = "/etc/callbox/keys";

/// No signature is longer; it has four lines.
const LONGEST: u64 = 16 << 10;

const CHUNK: usize = 1 << 18;

/// Why a file is not to be trusted, as one sentence.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// No public key at all.
    #[error("no key is trusted here: put the public key of whoever signed the file into {OWNERS_KEYS}, as NAME.pub")]
    NoKey,
    /// A public key that is none.
    #[error("{}: this is no minisign public key; replace or remove it", .0.display())]
    BadKey(PathBuf),
    /// Nothing beside the file.
    #[error("{} is missing: copy it to where the file is", .0.display())]
    NoSignature(PathBuf),
    /// Something else beside the file.
    #[error("{}: this is no minisign signature, or one of the old form; sign the file again (minisign 0.10 or newer)", .0.display())]
    BadSignature(PathBuf),
    /// By somebody else.
    #[error("{} was signed with a key that is not trusted here; trusted are {keys}", file.display())]
    Stranger {
        /// The file.
        file: PathBuf,
        /// Where the keys came from.
        keys: String,
    },
    /// Not what was signed.
    #[error("{} is not what was signed: it was cut off or changed; copy it again", .0.display())]
    Changed(PathBuf),
    /// A file operation failed.
    #[error("{} cannot be read: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}

/// The keys that count.
#[derive(Debug)]
pub struct Trusted(Vec<(PathBuf, PublicKey)>);

impl Trusted {
    /// The key of the package and those of the owner.
    ///
    /// # Errors
    /// [`TrustError::NoKey`], [`TrustError::BadKey`], [`TrustError::Io`].
    pub fn installed() -> Result<Self, TrustError> {
        let mut paths = Vec::from_iter(Path::new(PACKAGED_KEY).exists().then(|| PACKAGED_KEY.into()));
        match fs::read_dir(OWNERS_KEYS) {
            Ok(entries) => {
                let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
                found.retain(|path| path.extension().is_some_and(|extension| extension == "pub"));
                found.sort();
                paths.extend(found);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(reason) => return Err(TrustError::Io { path: OWNERS_KEYS.into(), reason }),
        }
        Self::read(paths)
    }

    /// These keys and no other.
    ///
    /// # Errors
    /// As [`Trusted::installed`].
    pub fn read(paths: Vec<PathBuf>) -> Result<Self, TrustError> {
        let mut keys = Vec::new();
        for path in paths {
            let text = read_short(&path)?;
            let key = PublicKey::decode(&text).map_err(|_| TrustError::BadKey(path.clone()))?;
            keys.push((path, key));
        }
        if keys.is_empty() { Err(TrustError::NoKey) } else { Ok(Self(keys)) }
    }

    /// Reads the whole of `file` and compares it with `FILE.minisig`.
    ///
    /// # Errors
    /// Every [`TrustError`] but those of keys.
    pub fn check(&self, file: &Path) -> Result<Checked, TrustError> {
        let mut beside = file.as_os_str().to_owned();
        beside.push(".minisig");
        let beside = PathBuf::from(beside);
        let opened = File::open(file).map_err(io_error(file))?;
        let signature =
            Signature::decode(&read_short(&beside)?).map_err(|_| TrustError::BadSignature(beside.clone()))?;
        for (_, key) in &self.0 {
            match key.verify_stream(&signature) {
                Ok(_) => {
                    let checked = Checked { path: file.to_owned(), file: opened, key: key.clone(), signature };
                    checked.read()?.finish()?;
                    return Ok(checked);
                }
                Err(Error::UnexpectedKeyId) => {}
                Err(_) => return Err(TrustError::BadSignature(beside)),
            }
        }
        let keys: Vec<_> = self.0.iter().map(|(path, _)| path.display().to_string()).collect();
        Err(TrustError::Stranger { file: file.to_owned(), keys: keys.join(", ") })
    }
}

/// A file that was signed by somebody who is trusted.
pub struct Checked {
    path: PathBuf,
    file: File,
    key: PublicKey,
    signature: Signature,
}

impl Checked {
    /// Its name, for sentences.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it from its beginning. Somebody may have written into it since it was checked: what was read counts only
    /// after [`Reading::finish`].
    ///
    /// # Errors
    /// [`TrustError::Io`].
    pub fn read(&self) -> Result<Reading<'_>, TrustError> {
        let failed = io_error(&self.path);
        let mut file = self.file.try_clone().map_err(&failed)?;
        file.rewind().map_err(&failed)?;
        let verifier = self.key.verify_stream(&self.signature).map_err(|_| TrustError::Changed(self.path.clone()))?;
        Ok(Reading { checked: self, file: BufReader::with_capacity(CHUNK, file), verifier })
    }
}

/// A checked file that is being read, and checked once more meanwhile.
pub struct Reading<'a> {
    checked: &'a Checked,
    file: BufReader<File>,
    verifier: StreamVerifier<'a>,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.verifier.update(&buffer[..read]);
        Ok(read)
    }
}

impl Reading<'_> {
    /// Reads the rest, and says whether all of it was what had been signed.
    ///
    /// # Errors
    /// [`TrustError::Changed`], [`TrustError::Io`].
    pub fn finish(mut self) -> Result<(), TrustError> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(reason) => return Err(io_error(&self.checked.path)(reason)),
            }
        }
        self.verifier.finalize().map_err(|_| TrustError::Changed(self.checked.path.clone()))
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> TrustError {
    let path = path.to_owned();
    move |reason| TrustError::Io { path: path.clone(), reason }
}

fn read_short(path: &Path) -> Result<String, TrustError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text)) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(TrustError::NoSignature(path.to_owned())),
        // Bytes that are no text are no signature, and no key.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(String::new()),
        Err(reason) => Err(TrustError::Io { path: path.to_owned(), reason }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made once with `minisign -G -W`; nothing but these tests trusts it.
    const KEY: &str = "untrusted comment: minisign public key EE1B914F92CB8D8C\n\
        RWSMjcuST5Eb7pj2xZZ6v9CbWtNS20lsaTAEu7eOiL4+pqUmlU11BxzJ\n";
    /// `echo hello | minisign -S`, with that key.
    const HELLO: &str = "untrusted comment: signature from minisign secret key\n\
        RUSMjcuST5Eb7tU9/M6VcudYqwl3+rgz+PvOj+cOkNHqSgdbvLTN4UaC+Nuo4fyt6l0fdAlgS0ppqFpfWdLqcbSJm6Gd51CRVAA=\n\
        trusted comment: trusted words\n\
        9yWjv4mMJsLKQglGuZuJ/Hzh2YNt3Sv6tAmlzj+XXqO90uA8vYZCO0iPyQkANcRx+rITrZh3Umh1mMvgkotUBg==\n";
    /// Somebody else's: the one of minisign's manual.
    const STRANGER: &str = "untrusted comment: minisign public key\n\
        RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n";

    fn sentence(key: &str, content: &str, signature: Option<&str>) -> Result<(), String> {
        let dir = tempfile::tempdir().expect("a folder");
        let (file, trusted) = (dir.path().join("hello"), dir.path().join("key.pub"));
        fs::write(&file, content).expect("written");
        fs::write(&trusted, key).expect("written");
        if let Some(signature) = signature {
            fs::write(dir.path().join("hello.minisig"), signature).expect("written");
        }
        let plain = |error: TrustError| error.to_string().replace(&format!("{}/", dir.path().display()), "");
        let checked = Trusted::read(vec![trusted]).map_err(plain)?.check(&file).map_err(plain)?;
        let mut text = String::new();
        let mut reading = checked.read().map_err(plain)?;
        reading.read_to_string(&mut text).expect("read");
        reading.finish().map_err(plain)?;
        assert_eq!(text, content);
        // Written into after it was checked: what is read now does not count.
        fs::write(&file, "h3llo\n").expect("written");
        assert!(matches!(checked.read().expect("opened").finish(), Err(TrustError::Changed(_))));
        Ok(())
    }

    #[test]
    fn what_minisign_signed_is_taken_and_all_else_is_refused_in_one_sentence() {
        assert_eq!(sentence(KEY, "hello\n", Some(HELLO)), Ok(()));
        let changed = "hello is not what was signed: it was cut off or changed; copy it again";
        let stranger = "hello was signed with a key that is not trusted here; trusted are key.pub";
        let bad = "hello.minisig: this is no minisign signature, or one of the old form; sign the file again (minisign 0.10 or newer)";
        for (key, content, signature, want) in [
            (KEY, "hello", Some(HELLO.to_owned()), changed),
            (KEY, "hello!\n", Some(HELLO.to_owned()), changed),
            (KEY, "hello\n", Some(HELLO.replace("trusted words", "other words")), changed),
            (STRANGER, "hello\n", Some(HELLO.to_owned()), stranger),
            (KEY, "hello\n", None, "hello.minisig is missing: copy it to where the file is"),
            (KEY, "hello\n", Some(HELLO.get(..90).unwrap_or_default().to_owned()), bad),
            (KEY, "hello\n", Some("RUSM\0".repeat(9)), bad),
            (
                "no key",
                "hello\n",
                Some(HELLO.to_owned()),
                "key.pub: this is no minisign public key; replace or remove it",
            ),
        ] {
            assert_eq!(sentence(key, content, signature.as_deref()), Err(want.to_owned()));
        }
    }
}
