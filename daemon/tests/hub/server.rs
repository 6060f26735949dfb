//! A model hub on loopback. Enters: repositories as a test lays them out, and how the hub shall misbehave; leaves: answers
//! over HTTP as the hub gives them, and a list of who has asked for what. Never here: anything beyond this machine.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One commit of the one repository, `acme/mind`.
#[derive(Clone)]
pub(crate) struct Commit {
    pub(crate) id: String,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) headers: String,
}

#[derive(Default)]
pub(crate) struct State {
    /// The last one is the branch `main`.
    pub(crate) commits: Vec<Commit>,
    /// What the card says.
    pub(crate) card: Value,
    /// The hash that is claimed for every large file, if not its own.
    pub(crate) claims: Option<String>,
    /// Who does not show it gets 401.
    pub(crate) token: Option<String>,
    /// Every request gets this status.
    pub(crate) refuses: Option<u16>,
    /// The next answers with bytes of a file: after so many of them the connection ends; none for all.
    pub(crate) cuts: VecDeque<usize>,
    /// After the cuts, files are refused with 503.
    pub(crate) then_down: bool,
    /// Ranges are ignored.
    pub(crate) whole: bool,
    /// Where large files are sent for.
    pub(crate) elsewhere: Option<SocketAddr>,
    /// The repository was renamed: its old address redirects on the same host.
    pub(crate) renamed: bool,
    /// Every file answers with this commit.
    pub(crate) answers_as: Option<String>,
    pub(crate) asked: Vec<Asked>,
}

/// A hub, or a store of files that a hub redirects to.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = Self { address: listener.local_addr().expect("bound"), state: Arc::default() };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                // One that leaves early has its reasons.
                std::thread::spawn(move || drop(serving.serve(stream)));
            }
        });
        server
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Adds a commit with these files, and moves the branch to it.
    pub(crate) fn commit(&self, files: &[(&str, &[u8])]) -> String {
        let mut state = self.state();
        let id = format!("{:040x}", state.commits.len() + 0xabc);
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
        state.commits.push(Commit { id: id.clone(), files });
        id
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let headers: Vec<_> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let header = |name: &str| {
            let found =
                headers.iter().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_owned())
        };
        let asked = Asked { path, range: header("range"), token: header("authorization"), headers: headers.join("\n") };
        self.state().asked.push(asked.clone());
        let (head, body) = self.answer(&asked);
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)?;
        stream.shutdown(Shutdown::Write)
    }

    fn answer(&self, asked: &Asked) -> (String, Vec<u8>) {
        let mut state = self.state();
        let status = |code: u16, headers: &str| {
            (format!("HTTP/1.1 {code} X\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n"), Vec::new())
        };
        if let Some(code) = state.refuses {
            return status(code, "");
        }
        let wanted = state.token.as_ref().map(|token| format!("Bearer {token}"));
        if wanted.is_some() && asked.token != wanted {
            return status(401, "");
        }
        let path = asked.path.split('?').next().unwrap_or_default();
        if let Some(rest) = path.strip_prefix("/api/models/acme/old").filter(|_| state.renamed) {
            return status(307, &format!("Location: /api/models/acme/mind{rest}\r\n"));
        }
        let of = |state: &State, revision: &str| {
            let found = state.commits.iter().find(|commit| commit.id == revision);
            found.or_else(|| state.commits.last().filter(|_| revision == "main")).cloned()
        };
        if let Some(revision) = path.strip_prefix("/api/models/acme/mind/revision/") {
            let Some(commit) = of(&state, revision) else { return status(404, "") };
            let body = describe(&commit, &state).to_string().into_bytes();
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            return (head, body);
        }
        let Some((revision, file)) = path.strip_prefix("/acme/mind/resolve/").and_then(|rest| rest.split_once('/'))
        else {
            return status(404, "");
        };
        let Some(commit) = of(&state, revision) else { return status(404, "") };
        let file = file.replace("%20", " ");
        let Some(bytes) = commit.files.get(&file) else { return status(404, "") };
        let id = state.answers_as.as_ref().unwrap_or(&commit.id).clone();
        let hash = state.claims.clone().unwrap_or_else(|| sha256(bytes));
        let about = format!("x-repo-commit: {id}\r\nX-Linked-Etag: \"{hash}\"\r\nETag: \"{hash}\"\r\n");
        if let Some(elsewhere) = state.elsewhere {
            let place = format!("Location: http://localhost:{}{}\r\n", elsewhere.port(), asked.path);
            return status(302, &format!("{about}{place}"));
        }
        let begin = asked
            .range
            .as_ref()
            .filter(|_| !state.whole)
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let (code, from) = begin.map_or((200, 0), |from| (206, from));
        if from >= bytes.len() {
            return status(416, "");
        }
        let range = match code {
            206 => format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len()),
            _ => String::new(),
        };
        let mut body = bytes[from..].to_vec();
        let head =
            format!("HTTP/1.1 {code} X\r\nConnection: close\r\nContent-Length: {}\r\n{range}{about}\r\n", body.len());
        match state.cuts.pop_front() {
            Some(cut) => body.truncate(cut),
            None if state.then_down => return status(503, ""),
            None => {}
        }
        (head, body)
    }
}

fn describe(commit: &Commit, state: &State) -> Value {
    let sibling = |(path, bytes): (&String, &Vec<u8>)| {
        let hash = state.claims.clone().unwrap_or_else(|| sha256(bytes));
        json!({ "rfilename": path, "size": bytes.len(), "lfs": { "sha256": hash, "size": bytes.len() } })
    };
    let siblings: Vec<_> = commit.files.iter().map(sibling).collect();
    json!({ "id": "acme/mind", "sha": commit.id, "siblings": siblings, "cardData": state.card, "tags": ["gguf"] })
}
