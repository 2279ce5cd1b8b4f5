//! A model hub on this machine, as its clients see it, with faults on demand. It is written on sockets, since what it is
//! for is answers that a server's library does not give: cut off, silent, too long.
//!
//! Large files are redirected to `localhost`, which is another host than the hub's `127.0.0.1`.

use percent_encoding::percent_decode_str;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a silent answer is silent, if nobody hangs up.
const SILENCE: Duration = Duration::from_secs(30);

/// How a repository has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In git: the hub sends it itself, and knows its git hash.
    Small,
    /// In large file storage: another host sends it, and the hub knows its SHA-256.
    Large,
}

/// What goes wrong with an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Another status, with headers.
    Status(u16, Vec<(&'static str, String)>),
    /// A header more, or in the place of one.
    Header(&'static str, String),
    /// No such header.
    Without(&'static str),
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    /// Nothing comes after so many bytes of the body.
    Stall(usize),
    /// One byte of the body is another.
    Flip,
    /// So many bytes follow the body, whose length is not said.
    Longer(usize),
    /// A range that is asked for is ignored.
    Whole,
    /// So many bytes at a time, with pauses.
    Slow(usize, Duration),
    /// Nothing comes after so many bytes of the body, until this is set; then the rest.
    Held(usize, Arc<AtomicBool>),
}

/// A request that was made.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// `GET` or `HEAD`.
    pub method: String,
    /// With its query.
    pub path: String,
    /// Whom it was for.
    pub host: String,
    /// What was sent as a token.
    pub token: Option<String>,
    /// The first byte that was asked for.
    pub from: Option<usize>,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub sent: usize,
}

#[derive(Clone)]
struct Stored {
    bytes: Arc<Vec<u8>>,
    kind: Kind,
}

#[derive(Default)]
struct Repository {
    commits: Vec<(String, BTreeMap<String, Stored>)>,
    token: Option<String>,
    moved: Option<String>,
}

struct Rule {
    method: &'static str,
    part: String,
    times: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    repositories: BTreeMap<String, Repository>,
    rules: Vec<Rule>,
    /// And what was sent of each answer so far.
    seen: Vec<(Seen, Arc<AtomicUsize>)>,
}

#[derive(Default)]
struct Shared {
    port: u16,
    ended: AtomicBool,
    now: AtomicUsize,
    most: AtomicUsize,
    state: Mutex<State>,
}

/// The server. It ends with its handle.
pub struct HubServer {
    shared: Arc<Shared>,
}

/// An answer before anything goes wrong with it.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
    /// Of the body.
    range: std::ops::Range<usize>,
}

impl HubServer {
    /// On a port that is free.
    ///
    /// # Panics
    /// If there is none.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("no port: {e}"));
        let port = listener.local_addr().map_or(0, |address| address.port());
        let shared = Arc::new(Shared { port, ..Shared::default() });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.ended.load(Ordering::SeqCst) {
                    return;
                }
                let serving = Arc::clone(&serving);
                // Clients hang up when they like.
                std::thread::spawn(move || drop(serving.serve(stream)));
            }
        });
        Self { shared }
    }

    /// For `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.shared.port)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Makes a commit of these files and those of the commit before, and `main` point to it.
    pub fn commit(&self, repo: &str, files: &[(&str, &[u8], Kind)]) -> String {
        let mut state = self.state();
        let commits = &mut state.repositories.entry(repo.to_owned()).or_default().commits;
        let mut all = commits.last().map(|(_, files)| files.clone()).unwrap_or_default();
        for (name, bytes, kind) in files {
            all.insert((*name).to_owned(), Stored { bytes: Arc::new(bytes.to_vec()), kind: *kind });
        }
        let commit = hexadecimal(&Sha1::digest(format!("{repo} {}", commits.len())));
        commits.push((commit.clone(), all));
        commit
    }

    /// Changes a file of the last commit, as no hub should.
    pub fn rewrite(&self, repo: &str, file: &str, bytes: &[u8]) {
        let mut state = self.state();
        let last = state.repositories.get_mut(repo).and_then(|repository| repository.commits.last_mut());
        if let Some(stored) = last.and_then(|(_, files)| files.get_mut(file)) {
            stored.bytes = Arc::new(bytes.to_vec());
        }
    }

    /// Lets only those with this token at a repository.
    pub fn gate(&self, repo: &str, token: &str) {
        self.state().repositories.entry(repo.to_owned()).or_default().token = Some(token.to_owned());
    }

    /// Redirects to a repository by another name.
    pub fn rename(&self, old: &str, new: &str) {
        self.state().repositories.entry(old.to_owned()).or_default().moved = Some(new.to_owned());
    }

    /// Lets this go wrong the next few times that something is asked for whose path has this in it.
    pub fn fail(&self, method: &'static str, part: &str, times: usize, fault: Fault) {
        self.state().rules.push(Rule { method, part: part.to_owned(), times, fault });
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        let state = self.state();
        let seen = |(seen, sent): &(Seen, Arc<AtomicUsize>)| Seen { sent: sent.load(Ordering::SeqCst), ..seen.clone() };
        state.seen.iter().map(seen).collect()
    }

    /// How many bodies were on their way at a time, at most.
    pub fn most_at_a_time(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// Forgets what was asked, and what is to go wrong.
    pub fn forget(&self) {
        let mut state = self.state();
        state.seen.clear();
        state.rules.clear();
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(("127.0.0.1", self.shared.port)));
    }
}

/// The SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The hash by which git names bytes, in hexadecimal.
pub fn git_hash(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hexadecimal(&hash.finalize())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(SILENCE))?;
        let Some(mut seen) = read_request(&mut stream)? else { return Ok(()) };
        let sent = Arc::new(AtomicUsize::new(0));
        let (answer, faults) = {
            let mut state = self.state();
            let answer = state.answer(&seen, self.port);
            let mut faults = Vec::new();
            let fits = |r: &Rule| r.times > 0 && r.method == seen.method && seen.path.contains(&r.part);
            // One after the other; but what changes headers, or the range, goes with those after it.
            for rule in state.rules.iter_mut().filter(|rule| fits(rule)) {
                let alone = !matches!(rule.fault, Fault::Header(..) | Fault::Without(_) | Fault::Whole);
                rule.times -= 1;
                faults.push(rule.fault.clone());
                if alone {
                    break;
                }
            }
            seen.status = answer.status;
            state.seen.push((seen.clone(), Arc::clone(&sent)));
            (answer, faults)
        };
        let body = seen.method == "GET";
        if body {
            self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        }
        let written = write(&mut stream, &seen, answer, &faults, &sent);
        if body {
            self.now.fetch_sub(1, Ordering::SeqCst);
        }
        written
    }
}

/// Writes an answer as it goes wrong.
fn write(
    stream: &mut TcpStream,
    seen: &Seen,
    mut answer: Answer,
    faults: &[Fault],
    sent: &AtomicUsize,
) -> io::Result<()> {
    let mut body = answer.body[answer.range.clone()].to_vec();
    let (mut end, mut stalls, mut pace, mut length, mut held) = (None, false, None, true, None);
    for fault in faults {
        match fault {
            Fault::Status(status, headers) => {
                answer.status = *status;
                answer.headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
                body = br#"{"error":"a fault"}"#.to_vec();
            }
            Fault::Header(name, value) => {
                answer.headers.retain(|(n, _)| n != name);
                answer.headers.push(((*name).to_owned(), value.clone()));
            }
            Fault::Without(name) => answer.headers.retain(|(n, _)| n != name),
            Fault::Cut(n) => end = Some(*n),
            Fault::Stall(n) => (end, stalls) = (Some(*n), true),
            Fault::Flip => {
                let middle = body.len() / 2;
                body[middle] ^= 1;
            }
            Fault::Longer(n) => {
                body.extend(vec![b'x'; *n]);
                length = false;
            }
            Fault::Whole if answer.status == 206 => {
                answer.status = 200;
                answer.headers.retain(|(name, _)| name != "Content-Range");
                body = answer.body.to_vec();
            }
            Fault::Whole => {}
            Fault::Slow(bytes, pause) => pace = Some((*bytes, *pause)),
            Fault::Held(bytes, until) => held = Some((*bytes, until)),
        }
    }
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    if length {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    for (name, value) in &answer.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if seen.method == "HEAD" {
        return Ok(());
    }
    body.truncate(end.unwrap_or(body.len()));
    let (piece, pause) = pace.unwrap_or((64 << 10, Duration::ZERO));
    for piece in body.chunks(piece) {
        if let Some((bytes, until)) = held {
            while sent.load(Ordering::SeqCst) >= bytes && !until.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // Before it goes: its receiver may look at once.
        sent.fetch_add(piece.len(), Ordering::SeqCst);
        stream.write_all(piece)?;
        std::thread::sleep(pause);
    }
    if stalls {
        // Until the client hangs up.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}

fn read_request(stream: &mut TcpStream) -> io::Result<Option<Seen>> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut piece)?;
        if n == 0 || bytes.len() > 64 << 10 {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece[..n]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => continue,
            Err(_) => return Ok(None),
        }
        let header = |name: &str| {
            let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            header.map(|header| String::from_utf8_lossy(header.value).into_owned())
        };
        let range = header("range");
        return Ok(Some(Seen {
            method: request.method.unwrap_or_default().to_owned(),
            path: request.path.unwrap_or_default().to_owned(),
            host: header("host").unwrap_or_default(),
            token: header("authorization"),
            from: range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()),
            ..Seen::default()
        }));
    }
}

impl State {
    fn answer(&self, seen: &Seen, port: u16) -> Answer {
        let path = seen.path.split('?').next().unwrap_or_default();
        let parts: Vec<String> =
            path.split('/').skip(1).map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts[..] {
            ["cdn", name] => self.cdn(name, seen),
            ["api", "models", org, name, "tree", revision] => {
                self.found(&format!("{org}/{name}"), revision, seen).map_or_else(|e| e, |(_, files)| tree(files))
            }
            [org, name, "resolve", revision, ref file @ ..] => {
                self.resolve(&format!("{org}/{name}"), revision, &file.join("/"), seen, port)
            }
            _ => error(404, "", "no such page"),
        }
    }

    /// The files of a revision, or why they are not to be had.
    fn found(&self, repo: &str, revision: &str, seen: &Seen) -> Result<(&str, &BTreeMap<String, Stored>), Answer> {
        let status = if seen.token.is_some() { 404 } else { 401 };
        let repository = self.repositories.get(repo).ok_or_else(|| error(status, "RepoNotFound", "not found"))?;
        if let Some(token) = &repository.token {
            match &seen.token {
                None => return Err(error(401, "GatedRepo", "access is restricted")),
                Some(sent) if *sent != format!("Bearer {token}") => {
                    return Err(error(403, "GatedRepo", "you are not in the list"));
                }
                Some(_) => {}
            }
        }
        let named = |(commit, _): &&(String, _)| *commit == revision;
        let last = repository.commits.last().filter(|_| revision == "main");
        let (commit, files) = last
            .or_else(|| repository.commits.iter().find(named))
            .ok_or_else(|| error(404, "RevisionNotFound", "invalid rev"))?;
        Ok((commit.as_str(), files))
    }

    fn resolve(&self, repo: &str, revision: &str, file: &str, seen: &Seen, port: u16) -> Answer {
        if let Some(moved) = self.repositories.get(repo).and_then(|repository| repository.moved.as_ref()) {
            let location = seen.path.replacen(repo, moved, 1);
            return Answer::new(307, vec![("Location", location)], b"moved".to_vec());
        }
        let (commit, files) = match self.found(repo, revision, seen) {
            Ok(found) => found,
            Err(refusal) => return refusal,
        };
        let Some(stored) = files.get(file) else { return error(404, "EntryNotFound", "entry not found") };
        let commit = ("X-Repo-Commit", commit.to_owned());
        match stored.kind {
            Kind::Small => {
                let tag = ("ETag", format!("W/\"{}\"", git_hash(&stored.bytes)));
                send(stored, seen, vec![commit, tag])
            }
            Kind::Large => {
                let sha256 = sha256(&stored.bytes);
                let location = format!("http://localhost:{port}/cdn/{sha256}?signature=x");
                let headers = vec![
                    commit,
                    ("Location", location),
                    ("ETag", format!("\"{}\"", git_hash(b"a pointer"))),
                    ("X-Linked-Etag", format!("\"{sha256}\"")),
                    ("X-Linked-Size", stored.bytes.len().to_string()),
                ];
                Answer::new(302, headers, b"found".to_vec())
            }
        }
    }

    fn cdn(&self, name: &str, seen: &Seen) -> Answer {
        let mut all = self.repositories.values().flat_map(|r| &r.commits).flat_map(|(_, files)| files.values());
        let Some(stored) = all.find(|stored| sha256(&stored.bytes) == name) else {
            return error(404, "", "no such object");
        };
        // As object stores have it: a tag of their own.
        send(stored, seen, vec![("ETag", format!("\"{}-1\"", &name[..32]))])
    }
}

impl Answer {
    fn new(status: u16, headers: Vec<(&str, String)>, body: Vec<u8>) -> Self {
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { status, headers, range: 0..body.len(), body: Arc::new(body) }
    }
}

/// A file, or what of it is asked for.
fn send(stored: &Stored, seen: &Seen, mut headers: Vec<(&str, String)>) -> Answer {
    let length = stored.bytes.len();
    let (status, from) = match seen.from {
        Some(from) if from >= length => {
            return Answer::new(416, vec![("Content-Range", format!("bytes */{length}"))], Vec::new());
        }
        Some(from) => {
            headers.push(("Content-Range", format!("bytes {from}-{}/{length}", length - 1)));
            (206, from)
        }
        None => (200, 0),
    };
    let mut answer = Answer::new(status, headers, Vec::new());
    (answer.body, answer.range) = (Arc::clone(&stored.bytes), from..length);
    answer
}

fn tree(files: &BTreeMap<String, Stored>) -> Answer {
    let item = |(path, stored): (&String, &Stored)| {
        let (size, git) = (stored.bytes.len(), git_hash(&stored.bytes));
        match stored.kind {
            Kind::Small => json!({"type": "file", "path": path, "size": size, "oid": git}),
            Kind::Large => {
                let lfs = json!({"oid": sha256(&stored.bytes), "size": size, "pointerSize": 134});
                json!({"type": "file", "path": path, "size": size, "oid": git_hash(b"a pointer"), "lfs": lfs})
            }
        }
    };
    let folder = json!({"type": "directory", "path": "a-folder", "size": 0, "oid": git_hash(b"a tree")});
    let items: Vec<_> = std::iter::once(folder).chain(files.iter().map(item)).collect();
    Answer::new(200, vec![("Content-Type", "application/json".to_owned())], json!(items).to_string().into_bytes())
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    let mut headers = vec![("X-Error-Message", message.to_owned())];
    if !code.is_empty() {
        headers.push(("X-Error-Code", code.to_owned()));
    }
    Answer::new(status, headers, json!({"error": message}).to_string().into_bytes())
}
