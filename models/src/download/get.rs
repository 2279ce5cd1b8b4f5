//! Many files: which are there, which commit the others are taken of, whether they fit on the disk, and several at a time.

use super::cache::{self, Found, Lock, Repository};
use super::fetch::{Contents, Fetched, Run, Wanted};
use super::hash::Digests;
use super::line::Line;
use super::record::Record;
use super::{DownloadError, GetOptions, Hub, Remote, Watch, names};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often it is looked whether to stop.
const GLANCE: Duration = Duration::from_millis(50);

/// What is to be done for one file.
enum Step<'a> {
    /// It is there, and was verified when it came.
    There(&'a Remote, PathBuf),
    /// It is there, and others put it there.
    Check(Wanted<'a>, Found),
    Fetch(Wanted<'a>),
}

/// The same, after it was asked what is to be fetched.
enum Task<'a> {
    Check(Wanted<'a>, Found),
    Fetch(Wanted<'a>, Contents),
}

/// Files of one repository at one revision, which are taken of one commit.
struct Group<'a> {
    repository: Repository,
    revision: &'a str,
    files: Vec<&'a Remote>,
}

/// A branch or tag that the hub was asked for, or that nobody has noted yet.
struct Pointed<'a> {
    repository: Repository,
    revision: &'a str,
    commit: String,
}

/// See [`Hub::get`].
pub(super) fn get(
    hub: &Hub,
    files: &[Remote],
    options: &GetOptions,
    watch: &dyn Watch,
) -> Result<Vec<PathBuf>, DownloadError> {
    let groups = groups(hub, files)?;
    let run = Run { hub, line: Line::new(hub), watch, stop: AtomicBool::new(false) };
    let places = std::thread::scope(|scope| {
        let (finished, ended) = channel::<()>();
        let run = &run;
        // A request that waits for its server cannot look whether it is still wanted.
        scope.spawn(move || {
            while ended.recv_timeout(GLANCE) == Err(RecvTimeoutError::Timeout) {
                if run.stopped() {
                    return run.line.cut();
                }
            }
        });
        let places = all(run, &groups, options);
        drop(finished);
        places
    })?;
    let place = |file| places.get(file).cloned().ok_or(DownloadError::Cancelled);
    files.iter().map(place).collect()
}

fn groups<'a>(hub: &Hub, files: &'a [Remote]) -> Result<Vec<Group<'a>>, DownloadError> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for file in files {
        file.check()?;
        let same = |g: &&mut Group<'a>| g.repository.name == file.repo && g.revision == file.revision;
        match groups.iter_mut().find(same) {
            Some(group) if group.files.contains(&file) => {}
            Some(group) => group.files.push(file),
            None => {
                let repository = Repository::new(&hub.cache, &file.repo)?;
                groups.push(Group { repository, revision: &file.revision, files: vec![file] });
            }
        }
    }
    Ok(groups)
}

/// Where all files are in the end.
fn all<'a>(
    run: &Run<'_>,
    groups: &[Group<'a>],
    options: &GetOptions,
) -> Result<HashMap<&'a Remote, PathBuf>, DownloadError> {
    let (mut places, mut checks, mut wanted, mut pointed) = (HashMap::new(), vec![], vec![], vec![]);
    for group in groups {
        let (steps, points) = group.settle(run, options.update)?;
        for step in steps {
            match step {
                Step::There(file, path) => {
                    places.insert(file, path);
                }
                Step::Check(of, found) => checks.push(Task::Check(of, found)),
                Step::Fetch(of) => wanted.push(of),
            }
        }
        pointed.extend(points);
    }
    let contents = side_by_side(run, options.parallel, &wanted, |of| run.contents(of))?;
    run.hub.check_space(missing(&wanted, &contents))?;
    // What is asked of the network comes first.
    let fetches = wanted.into_iter().zip(contents).map(|(of, contents)| Task::Fetch(of, contents));
    let tasks: Vec<Task<'_>> = fetches.chain(checks).collect();
    let fetched = side_by_side(run, options.parallel, &tasks, |task| task.finish(run))?;
    for (task, path) in tasks.iter().zip(fetched) {
        places.insert(task.wanted().file, path);
    }
    for Pointed { repository, revision, commit } in pointed {
        repository.point(revision, &commit)?;
    }
    Ok(places)
}

/// Bytes that are still to be written. Equal contents are written once.
fn missing(wanted: &[Wanted<'_>], contents: &[Contents]) -> u64 {
    let mut missing = HashMap::new();
    for (of, contents) in wanted.iter().zip(contents) {
        let length = |path: PathBuf| std::fs::metadata(path).map_or(0, |held| held.len());
        let there = length(of.repository.blob(&contents.etag)).max(length(of.repository.part(&contents.etag)));
        missing.insert((&of.repository.name, &contents.etag), contents.size.saturating_sub(there));
    }
    missing.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes))
}

impl<'a> Group<'a> {
    /// What is to be done for each file, and what to note when that is done.
    fn settle(&self, run: &Run<'_>, update: bool) -> Result<(Vec<Step<'a>>, Option<Pointed<'a>>), DownloadError> {
        let record = Record::read(&self.repository)?;
        // A commit is the same for ever.
        let update = update && !names::is_commit(self.revision);
        let known = known_commit(&record, &self.repository, self.revision, self.files.iter().copied());
        if let Some(commit) = known.as_ref().filter(|_| !update) {
            let steps = self.steps(&record, commit, update);
            if !steps.iter().any(|step| matches!(step, Step::Fetch(_))) {
                return Ok((steps, None));
            }
        }
        if run.hub.offline {
            let missing = |file: &&&Remote| {
                let found = known.as_ref().and_then(|commit| self.repository.find(commit, &file.file));
                found.is_none()
            };
            // With an update that cannot be made nothing need be missing.
            let file = self.files.iter().find(missing).or(self.files.first()).map(|file| file.file.clone());
            let (repo, cache) = (self.repository.name.clone(), run.hub.cache.clone());
            return Err(DownloadError::Offline { repo, file: file.unwrap_or_default(), cache });
        }
        let pinned = record.commit(self.revision, self.files.iter().copied()).filter(|_| !update);
        let (commit, asked) = match pinned {
            _ if names::is_commit(self.revision) => (self.revision.to_owned(), false),
            Some(commit) => (commit.to_owned(), false),
            None => (self.ask(run)?, true),
        };
        let steps = self.steps(&record, &commit, update);
        // Python may have asked after us: what it noted stays.
        let note = asked || self.repository.commit(self.revision).is_none();
        let pointed = Pointed { repository: self.repository.clone(), revision: self.revision, commit };
        Ok((steps, note.then_some(pointed)))
    }

    /// Which commit the hub has the revision at.
    fn ask(&self, run: &Run<'_>) -> Result<String, DownloadError> {
        // A group has at least the file that it was made for.
        let Some(file) = self.files.first() else { return Err(DownloadError::Cancelled) };
        let (told, host) = run.ask(file, self.revision)?;
        told.commit.ok_or_else(|| {
            let problem = format!("does not say which commit `{}` is; name a commit in its place", self.revision);
            DownloadError::Answer { host, problem }
        })
    }

    fn steps(&self, record: &Record, commit: &str, update: bool) -> Vec<Step<'a>> {
        let step = |file: &&'a Remote| {
            let file = *file;
            let entry = record.entry(file);
            let given = |sha256: &str| file.sha256.as_deref().is_none_or(|given| given == sha256);
            let before = entry.filter(|entry| !update && given(&entry.sha256)).cloned();
            let entry = entry.filter(|entry| entry.commit == commit);
            let found = self.repository.find(commit, &file.file);
            let found = found.filter(|found| cache::is_meant(found, file, entry));
            let commit = commit.to_owned();
            let wanted = Wanted { file, repository: self.repository.clone(), commit, before };
            match (found, entry) {
                (Some(found), Some(_)) => Step::There(file, found.path),
                (Some(found), None) => Step::Check(wanted, found),
                (None, _) => Step::Fetch(wanted),
            }
        };
        self.files.iter().map(step).collect()
    }
}

/// The commit that a revision is taken at without asking: where it was fetched, at that, and else where Python has it.
pub(super) fn known_commit<'a>(
    record: &Record,
    repository: &Repository,
    revision: &str,
    files: impl Iterator<Item = &'a Remote>,
) -> Option<String> {
    if names::is_commit(revision) {
        return Some(revision.to_owned());
    }
    record.commit(revision, files).map(str::to_owned).or_else(|| repository.commit(revision))
}

impl<'a> Task<'a> {
    fn wanted(&self) -> &Wanted<'a> {
        match self {
            Self::Check(of, _) | Self::Fetch(of, _) => of,
        }
    }

    /// Sees to the file, notes it in the record, and says where it is.
    fn finish(&self, run: &Run<'_>) -> Result<PathBuf, DownloadError> {
        let wanted = self.wanted();
        let Fetched { path, entry } = match self {
            Self::Fetch(_, contents) => run.fetch(wanted, contents.clone())?,
            Self::Check(_, found) if !may_write(&wanted.repository) => {
                // It could not be noted that it was checked, and that would go on for ever.
                run.watch.done(wanted.file);
                return Ok(found.path.clone());
            }
            Self::Check(_, found) => check(run, wanted, found)?,
        };
        Record::change(&wanted.repository, &|| run.stopped(), |files| {
            // A branch is at one commit.
            let old = |e: &super::record::Entry| {
                e.revision == entry.revision && (e.file == entry.file || e.commit != entry.commit)
            };
            files.retain(|e| !old(e));
            files.push(entry);
        })?;
        run.watch.done(wanted.file);
        Ok(path)
    }
}

/// Verifies a file that others put there; one that is damaged is fetched, where there is a network.
fn check(run: &Run<'_>, wanted: &Wanted<'_>, found: &Found) -> Result<Fetched, DownloadError> {
    let file = wanted.file;
    run.watch.began(file, Some(found.size), found.size);
    let blob = found.blob.clone().and_then(|blob| names::etag(&blob));
    let with_git = blob.as_deref().is_some_and(names::is_git);
    let (digests, size) = Digests::of(&found.path, with_git, &mut |_| run.going())?;
    let known = [file.sha256.clone(), wanted.before.as_ref().map(|before| before.sha256.clone()), blob.clone()];
    let wrong = known.iter().flatten().find_map(|known| digests.differs(known));
    let Some((what, found_hash, expected)) = wrong else {
        let entry = super::record::Entry {
            revision: file.revision.clone(),
            commit: wanted.commit.clone(),
            file: file.file.clone(),
            size,
            blob: blob.unwrap_or_else(|| digests.sha256.clone()),
            sha256: digests.sha256,
        };
        return Ok(Fetched { path: found.path.clone(), entry });
    };
    if run.hub.offline {
        let remedy = "unset HF_HUB_OFFLINE to fetch it again";
        let path = found.path.clone();
        return Err(DownloadError::Damaged { path, what, found: found_hash, expected, remedy });
    }
    run.watch.note(&format!("{} is damaged; fetching it again", found.path.display()));
    let contents = run.contents(wanted)?;
    run.fetch(wanted, contents)
}

/// Whether what was done can be noted: a cache may be for reading only.
fn may_write(repository: &Repository) -> bool {
    let probe = repository.folder().join(format!(".probe.{}", std::process::id()));
    let lock = Lock::try_now(&repository.lock_file("mils-lock.json"));
    let writable = lock.is_ok() && std::fs::write(&probe, "").is_ok();
    let _ = std::fs::remove_file(&probe);
    writable
}

/// Works on several things at a time. The first error ends all.
fn side_by_side<T: Sync, R: Send>(
    run: &Run<'_>,
    parallel: usize,
    things: &[T],
    work: impl Fn(&T) -> Result<R, DownloadError> + Sync,
) -> Result<Vec<R>, DownloadError> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<R>>> = Mutex::new(things.iter().map(|_| None).collect());
    let failed = Mutex::new(None);
    let worker = || {
        while !run.stopped() {
            let number = next.fetch_add(1, Ordering::SeqCst);
            let Some(thing) = things.get(number) else { return };
            match work(thing) {
                Ok(result) => {
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results[number] = Some(result);
                }
                Err(error) => {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    // Those who wait for a server are woken by whoever looks for this.
                    run.stop.store(true, Ordering::SeqCst);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..parallel.clamp(1, things.len().max(1)) {
            scope.spawn(worker);
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|result| result.ok_or(DownloadError::Cancelled)).collect()
}
