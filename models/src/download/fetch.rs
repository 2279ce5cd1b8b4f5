//! One file: what the hub says of it, its contents, and its place in the cache.

use super::cache::{self, Lock, Repository};
use super::hash::{Digests, PIECE};
use super::line::{Asked, Fault, Line, Reply, Told};
use super::part::{Part, content_range};
use super::record::Entry;
use super::{DownloadError, Hub, Remote, Watch, names};
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// How often it is asked again what a file is, where it changes while it is fetched.
const MOST_CHANGES: usize = 3;
/// How far an attempt must get for those before it to be forgotten.
const PROGRESS: u64 = 64 << 10;

/// What one call of [`Hub::get`] shares.
pub(super) struct Run<'a> {
    pub hub: &'a Hub,
    pub line: Line,
    pub watch: &'a dyn Watch,
    /// Another file has failed.
    pub stop: AtomicBool,
}

/// A file that is wanted.
#[derive(Clone)]
pub(super) struct Wanted<'a> {
    pub file: &'a Remote,
    pub repository: Repository,
    /// What the revision stands for.
    pub commit: String,
    /// What was fetched as this file before, and is to be fetched again.
    pub before: Option<Entry>,
}

/// What is to be fetched.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    /// The hub's tag for it, and its name in the cache.
    pub etag: String,
    pub size: u64,
}

/// A file that is there.
pub(super) struct Fetched {
    pub path: PathBuf,
    pub entry: Entry,
}

/// One way of getting contents.
struct Stretch {
    /// Furthest byte that there was.
    furthest: u64,
    /// How the server that has the contents calls them.
    version: Option<String>,
    /// The hub says that the file is another one by now.
    changed: bool,
}

impl Run<'_> {
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || self.watch.cancelled()
    }

    /// For what is done with every piece.
    pub(super) fn going(&self) -> Result<(), DownloadError> {
        if self.stopped() { Err(DownloadError::Cancelled) } else { Ok(()) }
    }

    fn tried<T>(&self, attempt: &mut dyn FnMut() -> Result<T, Fault>) -> Result<T, DownloadError> {
        self.line.tried(&|| self.stopped(), &|text| self.watch.note(text), attempt)
    }

    /// What the hub says of a file at a revision.
    ///
    /// # Errors
    /// If it does not say.
    pub(super) fn ask(&self, file: &Remote, revision: &str) -> Result<(Told, String), DownloadError> {
        let asked = Asked { repo: &file.repo, revision, file: &file.file };
        let url = self.line.file(&asked);
        self.tried(&mut || self.line.head(&url, &asked).map(|reply| (reply.told, reply.host)))
    }

    /// What a file's contents are, if they are what they should be.
    ///
    /// # Errors
    /// If the hub does not say, or they are not.
    pub(super) fn contents(&self, wanted: &Wanted<'_>) -> Result<Contents, DownloadError> {
        let file = wanted.file;
        let (told, host) = self.ask(file, &wanted.commit)?;
        let wrong = |problem: String| DownloadError::Answer { host: host.clone(), problem };
        if told.commit.as_ref().is_some_and(|commit| *commit != wanted.commit) {
            return Err(wrong(format!("answers with another commit of {} than it was asked for", file.repo)));
        }
        let etag = told.etag.ok_or_else(|| wrong(format!("says no hash of {}", file.file)))?;
        let size = told.size.or(file.size).ok_or_else(|| wrong(format!("does not say how large {} is", file.file)))?;
        let verifiable = names_contents(&etag) || file.sha256.is_some();
        if !verifiable {
            return Err(wrong(format!("says no hash that {} can be verified with", file.file)));
        }
        let contents = Contents { etag, size };
        self.agree(wanted, &contents)?;
        Ok(contents)
    }

    /// Holds what the hub has against what is expected, before anything is fetched.
    fn agree(&self, wanted: &Wanted<'_>, contents: &Contents) -> Result<(), DownloadError> {
        let sha256 = Some(&contents.etag).filter(|etag| names::is_sha256(etag));
        if let Some((given, found)) = wanted.file.size.filter(|given| *given != contents.size).zip(Some(contents.size))
        {
            return Err(changed(wanted, false, "size", &found.to_string(), &given.to_string()));
        }
        if let (Some(given), Some(found)) = (&wanted.file.sha256, sha256)
            && given != found
        {
            return Err(changed(wanted, false, "SHA-256", found, given));
        }
        if let Some(before) = &wanted.before {
            if before.size != contents.size {
                return Err(changed(wanted, true, "size", &contents.size.to_string(), &before.size.to_string()));
            }
            if sha256.is_some_and(|found| *found != before.sha256) {
                return Err(changed(wanted, true, "SHA-256", &contents.etag, &before.sha256));
            }
        }
        Ok(())
    }

    /// Fetches a file, unless its contents are there, and puts it in its place.
    ///
    /// # Errors
    /// If it cannot be had. What there is of it stays.
    pub(super) fn fetch(&self, wanted: &Wanted<'_>, contents: Contents) -> Result<Fetched, DownloadError> {
        let mut contents = contents;
        for _ in 0..MOST_CHANGES {
            if let Some(digests) = self.blob(wanted, &contents)? {
                return self.place(wanted, &contents, &digests);
            }
            self.watch.note(&format!("{} has changed on the hub meanwhile", wanted.file.file));
            contents = self.contents(wanted)?;
        }
        let problem = format!("changes {} all the time", wanted.file.file);
        Err(DownloadError::Answer { host: self.hub.endpoint.to_string(), problem })
    }

    /// Sees that contents are there, and right; `None` if the hub says that they are others by now.
    fn blob(&self, wanted: &Wanted<'_>, contents: &Contents) -> Result<Option<Digests>, DownloadError> {
        let (file, repository) = (wanted.file, &wanted.repository);
        let waiting = || self.watch.note(&format!("waiting for another process that downloads {}", file.file));
        let lock = repository.lock_file(&contents.etag);
        let _lock = Lock::wait(&lock, &|| self.stopped(), &waiting)?;
        let blob = repository.blob(&contents.etag);
        if fs::metadata(&blob).is_ok_and(|held| held.len() == contents.size) {
            // Another process fetched it, or another file has the same contents.
            self.watch.began(file, Some(contents.size), contents.size);
            let with_git = names::is_git(&contents.etag);
            let (digests, _) = Digests::of(&blob, with_git, &mut |_| self.going())?;
            if self.right(wanted, contents, &digests).is_ok() {
                return Ok(Some(digests));
            }
            self.watch.note(&format!("{} is damaged; fetching it again", blob.display()));
        }
        // A link that leads nowhere is replaced as well.
        cache::remove_if_there(&blob)?;
        self.download(wanted, contents)
    }

    /// Downloads contents, going on where an attempt before ended.
    fn download(&self, wanted: &Wanted<'_>, contents: &Contents) -> Result<Option<Digests>, DownloadError> {
        let (file, repository, size) = (wanted.file, &wanted.repository, contents.size);
        let path = repository.part(&contents.etag);
        let mut part = Part::open(&path, size, names::is_git(&contents.etag), &mut |_| self.going())?;
        self.hub.check_space(size - part.at())?;
        self.watch.began(file, Some(size), part.at());
        let mut stretch = Stretch { furthest: part.at(), version: None, changed: false };
        let mut retried = false;
        loop {
            if !part.is_whole() {
                let got = self.tried(&mut || self.stretch(wanted, contents, &mut part, &mut stretch));
                if stretch.changed {
                    part.discard()?;
                    return Ok(None);
                }
                got?;
            }
            let digests = part.digests();
            match self.right(wanted, contents, &digests) {
                Ok(()) => {
                    part.publish(&repository.blob(&contents.etag))?;
                    return Ok(Some(digests));
                }
                // What was there before may be of something else, or it came in pieces that do not fit.
                Err(_) if !retried => {
                    retried = true;
                    self.watch.note(&format!("{} came damaged; fetching it again", file.file));
                    part.restart()?;
                    stretch.furthest = 0;
                    self.watch.began(file, Some(size), 0);
                }
                Err(error) => {
                    part.discard()?;
                    return Err(error);
                }
            }
        }
    }

    /// One request for what is missing.
    fn stretch(
        &self,
        wanted: &Wanted<'_>,
        contents: &Contents,
        part: &mut Part,
        stretch: &mut Stretch,
    ) -> Result<(), Fault> {
        let asked = Asked { repo: &wanted.file.repo, revision: &wanted.commit, file: &wanted.file.file };
        let from = Some(part.at()).filter(|at| *at > 0);
        let reply = self.line.get(&self.line.file(&asked), from, &asked)?;
        if reply.told.etag.as_ref().is_some_and(|etag| names_contents(etag) && *etag != contents.etag) {
            stretch.changed = true;
            return Err(Fault::Never(DownloadError::Cancelled));
        }
        if !begins(&reply, part.at(), contents.size, &mut stretch.version) {
            // The server ignores ranges, has nothing from there on, or has something else.
            let begun = part.at();
            part.restart()?;
            self.watch.began(wanted.file, Some(contents.size), 0);
            if reply.status != 200 {
                let problem = format!("does not go on from byte {begun}");
                let error = DownloadError::Network { host: reply.host, problem };
                return Err(Fault::again(error));
            }
        }
        self.read(wanted, contents, part, stretch, reply)
    }

    /// Reads an answer into the part.
    fn read(
        &self,
        wanted: &Wanted<'_>,
        contents: &Contents,
        part: &mut Part,
        stretch: &mut Stretch,
        reply: Reply,
    ) -> Result<(), Fault> {
        let Reply { response, host, .. } = reply;
        let again = |error, part: &Part, stretch: &mut Stretch| {
            let progressed = part.at() >= stretch.furthest.saturating_add(PROGRESS);
            stretch.furthest = stretch.furthest.max(part.at());
            Fault::Again { error: Box::new(error), after: None, progressed }
        };
        let missing = contents.size - part.at();
        let announced = response.body().content_length();
        if let Some(length) = announced.filter(|length| *length != missing) {
            let problem = format!("has {length} bytes of {} where {missing} are missing", wanted.file.file);
            return Err(again(DownloadError::Network { host, problem }, part, stretch));
        }
        let mut reader = response.into_body().into_reader();
        let mut piece = vec![0; PIECE];
        loop {
            self.going()?;
            let n = match reader.read(&mut piece) {
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // All is there; that the end was not said properly does not matter.
                Err(_) if part.is_whole() => return Ok(()),
                Err(error) => return Err(again(self.line.broke_off(&host, &error), part, stretch)),
            };
            if n == 0 && part.is_whole() {
                return Ok(());
            }
            if n == 0 {
                let problem = format!("broke off after {} of {}", part.describe(), wanted.file.file);
                return Err(again(DownloadError::Network { host, problem }, part, stretch));
            }
            if n as u64 > contents.size - part.at() {
                part.restart()?;
                let problem = format!("sends more of {} than the {} bytes it has", wanted.file.file, contents.size);
                return Err(Fault::Never(DownloadError::Answer { host, problem }));
            }
            part.push(&piece[..n])?;
            self.watch.got(wanted.file, n as u64);
        }
    }

    /// Whether contents have all hashes that they should have.
    fn right(&self, wanted: &Wanted<'_>, contents: &Contents, digests: &Digests) -> Result<(), DownloadError> {
        let path = wanted.repository.blob(&contents.etag);
        if let Some((what, found, expected)) = digests.differs(&contents.etag) {
            let remedy = "it was not used; try again, and without HF_ENDPOINT if that names a mirror";
            return Err(DownloadError::Damaged { path, what, found, expected, remedy });
        }
        if let Some(given) = wanted.file.sha256.as_ref().filter(|given| **given != digests.sha256) {
            return Err(changed(wanted, false, "SHA-256", &digests.sha256, given));
        }
        if let Some(before) = wanted.before.as_ref().filter(|before| before.sha256 != digests.sha256) {
            return Err(changed(wanted, true, "SHA-256", &digests.sha256, &before.sha256));
        }
        Ok(())
    }

    /// Links contents into the snapshot.
    fn place(&self, wanted: &Wanted<'_>, contents: &Contents, digests: &Digests) -> Result<Fetched, DownloadError> {
        let hard_link: cache::Linker = |blob, at| fs::hard_link(blob, at);
        let file = wanted.file;
        let path = wanted.repository.link(&contents.etag, &wanted.commit, &file.file, cache::symlink, hard_link)?;
        let entry = Entry {
            revision: file.revision.clone(),
            commit: wanted.commit.clone(),
            file: file.file.clone(),
            size: contents.size,
            sha256: digests.sha256.clone(),
            blob: contents.etag.clone(),
        };
        Ok(Fetched { path, entry })
    }
}

/// Whether a tag is one by which the hub names contents, and not a server its copy of them.
fn names_contents(etag: &str) -> bool {
    names::is_sha256(etag) || names::is_git(etag)
}

/// Whether an answer goes on at this byte of the contents that were begun.
fn begins(reply: &Reply, at: u64, size: u64, version: &mut Option<String>) -> bool {
    let header = |name| reply.response.headers().get(name).and_then(|value| value.to_str().ok());
    let tag = header("etag").map(str::to_owned);
    let same = version.is_none() || tag.is_none() || *version == tag;
    *version = tag.or_else(|| version.take());
    match reply.status {
        200 => at == 0,
        206 => {
            let range = header("content-range").and_then(content_range);
            same && range.is_some_and(|(first, whole)| first == at && whole.is_none_or(|whole| whole == size))
        }
        _ => false,
    }
}

fn changed(wanted: &Wanted<'_>, recorded: bool, what: &'static str, found: &str, expected: &str) -> DownloadError {
    DownloadError::Changed {
        repo: wanted.file.repo.clone(),
        file: wanted.file.file.clone(),
        recorded,
        what,
        found: found.to_owned(),
        expected: expected.to_owned(),
    }
}
