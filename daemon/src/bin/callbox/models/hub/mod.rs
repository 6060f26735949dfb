//! A repository of a model hub. Enters: `hf:OWNER/NAME[@REVISION][:FILE]`, an endpoint, a token; leaves: what is in the
//! repository at one commit, and the bytes of its files, after those that are here already. Never here: a request that
//! nobody typed, a word about this machine, a name out of the repository used as a path. Only the command line holds this:
//! the daemon has no client.
//!
//! `hf-hub` knows the hub's addresses and what to ask; what it can fetch by itself it cannot verify, sends the token to
//! wherever the hub redirects, and continues a half file whatever the answer is. So bytes come through [`http`].

mod http;

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};

use callbox::base::Secret;
use callbox::models::own::{Found, Offer, OwnError, Source};
use callbox::models::{ModelError, Progress};
use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use ureq::http::{HeaderMap, StatusCode};

use self::http::Http;

/// Where the hub is, if nobody says otherwise.
pub(super) const ENDPOINT: &str = "https://huggingface.co";

/// No description of a repository is longer.
const LONGEST: u64 = 32 << 20;

/// How often a broken connection is made anew, as long as each has brought something.
const ATTEMPTS: u32 = 50;

const CHUNK: usize = 1 << 18;

/// What stays as it is in a step of a path (RFC 3986 §2.3).
const STEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `hf:OWNER/NAME[@REVISION][:FILE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// `OWNER/NAME`.
    repository: String,
    revision: Option<String>,
    pub(super) file: Option<String>,
}

impl Reference {
    /// Reads what follows `hf:`.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`hf:{text}` is no model of a hub: write hf:OWNER/NAME[@REVISION][:FILE]");
        let (before, file) = match text.split_once(':') {
            Some((before, file)) => (before, Some(file.to_owned())),
            None => (text, None),
        };
        let (repository, revision) = match before.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision.to_owned())),
            None => (before, None),
        };
        let word = |text: &str| {
            let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            !text.is_empty() && letters && !text.starts_with('.') && !text.contains("..")
        };
        let whole = |text: &str, steps: usize| text.split('/').count() <= steps && text.split('/').all(word);
        let named = repository.contains('/') && whole(repository, 2);
        if !named || revision.as_ref().is_some_and(|revision| !whole(revision, 8)) || file.as_deref() == Some("") {
            return Err(bad());
        }
        Ok(Self { repository: repository.to_owned(), revision, file })
    }
}

/// A repository of a hub.
pub(super) struct Hub {
    reference: Reference,
    api: Api,
    http: Http,
}

/// What the hub says of a repository.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData", default)]
    card: Value,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    gguf: Value,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Large>,
}

/// A file that lies apart from the repository's own.
#[derive(Deserialize)]
struct Large {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Hub {
    /// # Errors
    /// One sentence about the endpoint.
    pub(super) fn new(reference: Reference, endpoint: &str, token: Option<Secret>) -> Result<Self, ModelError> {
        let endpoint = endpoint.trim_end_matches('/');
        // Its own cache and its own ways to a token are not used: nothing is written there, nothing read.
        let builder = ApiBuilder::from_cache(Cache::new("/nonexistent/hub".into()));
        let api = builder
            .with_endpoint(endpoint.to_owned())
            .with_progress(false)
            .with_token(token.as_ref().map(|token| token.reveal().to_owned()))
            .build()
            .map_err(|error| OwnError::Source(format!("the hub's client cannot be made: {error}")))?;
        let http = Http::new(endpoint, token).map_err(OwnError::Source)?;
        Ok(Self { reference, api, http })
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.reference.repository.clone(), RepoType::Model, revision.to_owned())
    }

    /// What a refusal means, as one sentence.
    fn refused(&self, status: StatusCode, what: &str) -> OwnError {
        let (name, host) = (self.name(), self.http.endpoint());
        OwnError::Source(match (status.as_u16(), self.http.has_token()) {
            (401, false) => format!(
                "{host} says that {name} does not exist or wants a token: check the name; put a token into \
                 /etc/callbox/credentials/hub-token (mode 0600), or name its file with --token-file"
            ),
            (401, true) => format!(
                "{host} does not take the token for {name}: make a new one, and put it into the credential hub-token or \
                 the file of --token-file"
            ),
            (403, false) => format!("{host} shows {name} only to some: accept its terms there, then pull with a token"),
            (403, true) => {
                format!(
                    "the owner of the token may not have {name}: accept its terms at {host}/{}",
                    self.reference.repository
                )
            }
            (404, _) => format!("{host} has no {what}: check owner, name, revision and file"),
            (429, _) => {
                format!("{host} wants fewer requests: run this again in some minutes; what has arrived is kept")
            }
            (500.., _) => format!("{host} is in trouble ({status}): run this again later; what has arrived is kept"),
            _ => format!("{host} answers {status} for {what}"),
        })
    }

    fn unreachable(&self, error: &ureq::Error) -> OwnError {
        OwnError::Source(format!(
            "{} cannot be reached ({}): check the network and run this again; what has arrived is kept",
            self.http.endpoint(),
            http::plain(error)
        ))
    }

    /// One attempt: the bytes of a file from where `half` ends. Returns the hash that the hub names.
    fn attempt(
        &self,
        address: &str,
        commit: &str,
        offer: &Offer,
        half: &mut File,
        progress: &dyn Progress,
    ) -> Result<(Option<String>, End), ModelError> {
        let failed = || ModelError::io(&offer.path);
        let have = half.seek(SeekFrom::End(0)).map_err(failed())?;
        let answer = self.http.get(address, have).map_err(|error| self.unreachable(&error))?;
        let what = format!("{}:{}", self.name(), offer.path);
        if answer.header("x-repo-commit").is_some_and(|found| found != commit) {
            return Err(OwnError::Source(format!("{} answers with another commit than it named", self.name())).into());
        }
        // That of the hub only: where it redirects to, a tag may be anything.
        let named = answer.header("x-linked-etag").and_then(sha256_of);
        let status = answer.response.status();
        match status.as_u16() {
            206 if starts_at(answer.response.headers(), have, offer.bytes) => {}
            // It sends all of it, or has another idea of how long it is: from the beginning, then.
            200 => half.set_len(0).and_then(|()| half.rewind()).map_err(failed())?,
            206 | 416 => {
                half.set_len(0).and_then(|()| half.rewind()).map_err(failed())?;
                return Ok((
                    named,
                    if have > 0 { End::Again } else { End::Broken("its answer makes no sense".into()) },
                ));
            }
            _ => return Err(self.refused(status, &what).into()),
        }
        let mut arrived = half.stream_position().map_err(failed())?;
        let most = offer.bytes.or_else(|| answer.length(arrived)).ok_or_else(|| {
            OwnError::Source(format!("{} does not say how long {} is", self.http.endpoint(), offer.path))
        })?;
        let mut body = answer.response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            match body.read(&mut buffer) {
                Ok(0) if arrived < most => return Ok((named, End::Broken("it ended too early".into()))),
                Ok(0) => return Ok((named, End::Whole)),
                Ok(read) => {
                    arrived += read as u64;
                    if arrived > most {
                        half.set_len(0).map_err(failed())?;
                        return Err(
                            OwnError::Source(format!("{what} is longer than the hub said: it was deleted")).into()
                        );
                    }
                    half.write_all(&buffer[..read]).map_err(failed())?;
                    progress.arrived(arrived);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok((named, End::Broken(error.to_string()))),
            }
        }
    }
}

/// How an attempt ended.
enum End {
    Whole,
    /// What was here could not be continued and is gone.
    Again,
    /// The connection, and why.
    Broken(String),
}

impl Source for Hub {
    fn name(&self) -> String {
        format!("hf:{}", self.reference.repository)
    }

    fn revision(&self) -> Option<String> {
        self.reference.revision.clone()
    }

    fn title(&self) -> String {
        let name = self.reference.repository.rsplit('/').next().unwrap_or_default().to_lowercase();
        name.chars().take(64).collect()
    }

    fn find(&mut self, commit: Option<&str>) -> Result<Found, ModelError> {
        let revision = commit.or(self.reference.revision.as_deref()).unwrap_or("main");
        let request = self.api.repo(self.repo(revision)).info_request().query("blobs", "true");
        let answer = self.http.send(request).map_err(|error| self.unreachable(&error))?;
        if answer.response.status() != StatusCode::OK {
            let what = format!("{}@{revision}", self.name());
            return Err(self.refused(answer.response.status(), &what).into());
        }
        let text = answer.response.into_body().into_with_config().limit(LONGEST).read_to_vec();
        let text = text.map_err(|error| self.unreachable(&error))?;
        let odd = |reason: &str| {
            OwnError::Source(format!("{} does not answer as a hub does: {reason}", self.http.endpoint()))
        };
        let info: Info = serde_json::from_slice(&text).map_err(|error| odd(&error.to_string()))?;
        if info.sha.len() != 40 || !info.sha.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
            return Err(odd("it names no commit").into());
        }
        if commit.is_some_and(|commit| commit != info.sha) {
            return Err(odd("it names another commit than it was asked for").into());
        }
        let architecture = info.gguf.get("architecture").and_then(Value::as_str).map(str::to_owned);
        let licence = licence(&info.card, &info.tags);
        let files = info.siblings.into_iter().map(Sibling::offer).collect();
        Ok(Found { commit: Some(info.sha), licence, architecture, files })
    }

    fn fetch(
        &mut self,
        found: &Found,
        offer: &Offer,
        half: &mut File,
        progress: &dyn Progress,
    ) -> Result<Option<String>, ModelError> {
        let commit = found.commit.as_deref().unwrap_or_default();
        let steps = offer.path.split('/').map(|step| utf8_percent_encode(step, STEP).to_string());
        let address = self.api.repo(self.repo(commit)).url(&steps.collect::<Vec<_>>().join("/"));
        for _ in 0..ATTEMPTS {
            let before = half.metadata().map_err(ModelError::io(&offer.path))?.len();
            // As long as it should be: whether it is what it should be, its hash says.
            if offer.bytes == Some(before) && before > 0 {
                return Ok(None);
            }
            match self.attempt(&address, commit, offer, half, progress)? {
                (named, End::Whole) => return Ok(named),
                (_, End::Again) => {}
                (_, End::Broken(reason)) => {
                    if half.metadata().map_err(ModelError::io(&offer.path))?.len() <= before {
                        return Err(OwnError::Source(format!(
                            "the connection to {} broke off ({reason}): run this again; what has arrived is kept",
                            self.http.endpoint()
                        ))
                        .into());
                    }
                }
            }
        }
        let endpoint = self.http.endpoint();
        Err(OwnError::Source(format!("the connection to {endpoint} broke off {ATTEMPTS} times: run this again later"))
            .into())
    }
}

impl Sibling {
    fn offer(self) -> Offer {
        let large = self.lfs.as_ref();
        let sha256 = large.and_then(|large| large.sha256.as_deref()).and_then(sha256_of);
        Offer { bytes: large.and_then(|large| large.size).or(self.size), path: self.rfilename, sha256 }
    }
}

/// The hash in an entity tag, if it is one: of a small file it is Git's own.
fn sha256_of(etag: &str) -> Option<String> {
    let text = etag.trim_start_matches("W/").trim_matches('"');
    let hash = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    hash.then(|| text.to_ascii_lowercase())
}

/// The licence of a card; `other` has a name beside it.
fn licence(card: &Value, tags: &[String]) -> Option<String> {
    let text = |key: &str| match card.get(key) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(several)) => {
            let several: Vec<_> = several.iter().filter_map(Value::as_str).collect();
            (!several.is_empty()).then(|| several.join(" OR "))
        }
        _ => None,
    };
    match text("license") {
        Some(other) if other == "other" => text("license_name").or(Some(other)),
        Some(licence) => Some(licence),
        None => tags.iter().find_map(|tag| tag.strip_prefix("license:")).map(str::to_owned),
    }
}

/// Whether a part begins where the half file ends, and the whole is as long as it should be (RFC 9110 §14.4).
fn starts_at(headers: &HeaderMap, have: u64, whole: Option<u64>) -> bool {
    let range = headers.get("content-range").and_then(|value| value.to_str().ok());
    let Some((span, total)) = range.and_then(|range| range.strip_prefix("bytes ")).and_then(|r| r.split_once('/'))
    else {
        return false;
    };
    let begins = span.split_once('-').and_then(|(begin, _)| begin.parse::<u64>().ok());
    begins == Some(have) && whole.is_none_or(|whole| total.parse() == Ok(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_whole_or_refused_in_one_sentence() {
        let parsed = Reference::parse("Qwen/Qwen2.5-GGUF@refs/pr/1:a/b c.gguf").expect("whole");
        assert_eq!((parsed.repository.as_str(), parsed.revision.as_deref()), ("Qwen/Qwen2.5-GGUF", Some("refs/pr/1")));
        assert_eq!(parsed.file.as_deref(), Some("a/b c.gguf"));
        for text in ["", "name", "a/b/c", "/b", "a/", "a/..", "../b", "a/b@", "a/b@x/../y", "a/b@x y", "a/b:", "a\\b/c"]
        {
            let sentence = Reference::parse(text).expect_err(text);
            assert!(sentence.ends_with("write hf:OWNER/NAME[@REVISION][:FILE]"), "{sentence}");
        }
    }

    #[test]
    fn the_licence_is_what_the_card_says_then_a_tag_then_nothing() {
        let card = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let tags = ["gguf".to_owned(), "license:mit".to_owned()];
        for (text, tags, want) in [
            (r#"{"license":"apache-2.0"}"#, &tags[..], Some("apache-2.0")),
            (r#"{"license":"other","license_name":"house"}"#, &tags, Some("house")),
            (r#"{"license":["mit","cc0-1.0"]}"#, &[], Some("mit OR cc0-1.0")),
            ("null", &tags, Some("mit")),
            ("{}", &[], None),
        ] {
            assert_eq!(licence(&card(text), tags).as_deref(), want, "{text}");
        }
    }
}
