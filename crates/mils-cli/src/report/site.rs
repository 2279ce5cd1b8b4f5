//! Where a report goes: one page, or a folder with an index and a page a file. Pages are written as they come, and
//! nothing of them is held.

use super::exhibit::{Embedding, Exhibit, Small, Subject};
use super::index::Index;
use super::page::Section;
use super::run::FileRun;
use crate::args::same_file;
use crate::output::{self, Output};
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const HEAD: &str = include_str!("../../templates/report/head.html");
const INDEX: &str = include_str!("../../templates/report/index.html");
const SECTION: &str = include_str!("../../templates/report/section.html");
const FOOT: &str = include_str!("../../templates/report/foot.html");
const STYLE: &str = include_str!("../../templates/report/style.css");
const SCRIPT: &str = include_str!("../../templates/report/sort.js");
/// By this an index of ours is known.
const MARK: &str = "<meta name=\"generator\" content=\"mils ";
/// The folder of the pages, beside the index.
const PAGES: &str = "files";

/// A report being written.
pub struct Site {
    target: Target,
    templates: Environment<'static>,
    embedding: Embedding,
    index: Index,
}

enum Target {
    /// One page, whose sections wait in a temporary file: the index stands before them.
    One { path: PathBuf, spool: BufWriter<File> },
    /// A folder.
    Folder(PathBuf),
}

/// A file that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Where.
    pub path: PathBuf,
    /// How large it is.
    pub bytes: usize,
}

/// What the end of a report tells.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The page, or the index.
    pub page: Written,
    /// Files in the report; of them without an end, and failed.
    pub files: usize,
    /// See [`Index::unfinished`].
    pub unfinished: usize,
    /// See [`Index::failed`].
    pub failed: usize,
}

/// Whether a path is that of a folder: one that is there, or one that is yet to be made and is written with a separator
/// at its end.
pub fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.to_string_lossy().ends_with(std::path::is_separator)
}

impl Site {
    /// Begins a report. What could not be written is known now, and not after the work.
    ///
    /// # Errors
    /// If it could not be written, or a folder holds an index of something else.
    pub fn open(path: &Path, embedding: Embedding) -> Result<Self> {
        let place = || format!("cannot write the report {}", path.display());
        let target = if is_folder(path) {
            std::fs::create_dir_all(path.join(PAGES)).with_context(place)?;
            let index = path.join("index.html");
            if !is_ours(&index).with_context(place)? {
                bail!("{}: {} is no report; name another folder", place(), index.display());
            }
            output::check(&index).with_context(place)?;
            output::check(&path.join(PAGES).join("x.html")).with_context(place)?;
            Target::Folder(path.to_owned())
        } else {
            output::check(path).with_context(place)?;
            let folder = || format!("cannot keep parts of the report in {}", std::env::temp_dir().display());
            let spool = BufWriter::new(tempfile::tempfile().with_context(folder)?);
            Target::One { path: path.to_owned(), spool }
        };
        let mut templates = Environment::new();
        templates.set_auto_escape_callback(|_| AutoEscape::Html);
        for (name, text) in [("head", HEAD), ("index", INDEX), ("section", SECTION), ("foot", FOOT)] {
            templates.add_template(name, text)?;
        }
        Ok(Self { target, templates, embedding, index: Index::default() })
    }

    /// Puts a file into the report. Gives its page, if it has one of its own.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, run: &FileRun, subject: &Subject<'_>) -> Result<Option<Written>> {
        let (folder, page) = match &self.target {
            Target::Folder(folder) => {
                let pages = folder.join(PAGES);
                let name = format!("{:05}.html", run.place);
                (Some(pages.clone()), Some((pages.join(&name), format!("./{PAGES}/{name}"))))
            }
            Target::One { path, .. } if output::is_stream(path) => (None, None),
            Target::One { path, .. } => {
                if let Some(file) = subject.file.filter(|file| same_file(file, path)) {
                    bail!("the report would overwrite the file {}", file.display());
                }
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                (Some(parent.unwrap_or_else(|| Path::new(".")).to_owned()), None)
            }
        };
        // Texts of a task describe nothing that could be shown.
        let mut exhibit = match run.facts.task {
            Some(_) => Exhibit::default(),
            None => Exhibit::new(subject, folder.as_deref(), self.embedding)?,
        };
        let small = std::mem::replace(&mut exhibit.small, Small::None);
        let section = Section::new(run, exhibit);
        let alone = page.is_some();
        let body = self.render("section", context! { f => Value::from(Serde(&section)), alone })?;
        let Some((path, address)) = page else {
            self.index.push(run, small, format!("#file-{}", run.place));
            if let Target::One { spool, .. } = &mut self.target {
                spool.write_all(body.as_bytes()).context("cannot keep parts of the report")?;
            }
            return Ok(None);
        };
        let head = self.render("head", self.head(&run.file, false))?;
        let foot = self.render("foot", self.head("", false))?;
        self.index.push(run, small, address);
        write(&path, &[&head, &body, &foot], None).map(Some)
    }

    /// The end: the page or the index is there. `None` if there is no file in it, and nothing was written. `expected`
    /// are the files that there were to be, where the report ends before all of them.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self, expected: Option<usize>) -> Result<Option<Finished>> {
        if self.index.is_empty() {
            return Ok(None);
        }
        self.index.sort();
        let table = self.index.len() > 1 || matches!(self.target, Target::Folder(_));
        let head = self.render("head", self.head("MILS report", table))?;
        let together = matches!(self.target, Target::One { .. });
        let index = context! { index => Value::from(Serde(&self.index)), expected, together };
        let index = if table { self.render("index", index)? } else { String::new() };
        let foot = self.render("foot", self.head("", table))?;
        let page = match self.target {
            Target::Folder(folder) => write(&folder.join("index.html"), &[&head, &index, &foot], None)?,
            Target::One { path, spool } => {
                let spool = spool.into_inner().map_err(std::io::IntoInnerError::into_error);
                let spool = spool.context("cannot keep parts of the report")?;
                write(&path, &[&head, &index, &foot], Some(spool))?
            }
        };
        let Index { unfinished, failed, .. } = self.index;
        Ok(Some(Finished { page, files: self.index.len(), unfinished, failed }))
    }

    fn render(&self, template: &str, context: Value) -> Result<String> {
        self.templates.get_template(template)?.render(context).context("the report's template")
    }

    /// What the frame of a page is filled with. Only the script that is named by its hash may run, and nothing may be
    /// loaded but what lies in the page or beside it.
    fn head(&self, title: &str, sorts: bool) -> Value {
        let script = if sorts { SCRIPT } else { "" };
        let allowed = match sorts {
            true => format!("'sha256-{}'", STANDARD.encode(Sha256::digest(script.as_bytes()))),
            false => "'none'".into(),
        };
        let policy = format!(
            "default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src 'self' file: data:; \
             media-src 'self' file: data:; base-uri 'none'; form-action 'none'"
        );
        context! { title, policy, script, style => STYLE, mark => MARK, version => env!("CARGO_PKG_VERSION") }
    }
}

/// Whether an index may be written over: there is none, or it is one of ours.
fn is_ours(index: &Path) -> std::io::Result<bool> {
    let mut head = Vec::new();
    match File::open(index) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        file => file?.take(4096).read_to_end(&mut head)?,
    };
    Ok(head.windows(MARK.len()).any(|part| part == MARK.as_bytes()))
}

/// Writes a page, whole or not at all; what was kept apart stands before the last part.
fn write(path: &Path, parts: &[&str], spool: Option<File>) -> Result<Written> {
    let place = || format!("cannot write the report {}", path.display());
    let mut out = Output::open(Some(path), false).with_context(place)?;
    let (last, first) = parts.split_last().context("a page without parts")?;
    let mut bytes = 0;
    let mut put = |part: &[u8]| {
        bytes += part.len();
        out.write(part).with_context(place)
    };
    first.iter().try_for_each(|part| put(part.as_bytes()))?;
    if let Some(mut spool) = spool {
        spool.seek(SeekFrom::Start(0)).with_context(place)?;
        let mut piece = vec![0; 1 << 16];
        loop {
            match spool.read(&mut piece).with_context(place)? {
                0 => break,
                read => put(&piece[..read])?,
            }
        }
    }
    put(last.as_bytes())?;
    out.finish().with_context(place)?;
    Ok(Written { path: path.to_owned(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_of_something_else_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index.html");
        std::fs::write(&index, "<html>my pages</html>").unwrap();
        let error = Site::open(dir.path(), Embedding::default()).err().unwrap();
        assert!(error.to_string().contains("is no report"), "{error}");
        assert_eq!(std::fs::read_to_string(&index).unwrap(), "<html>my pages</html>");
        // Ours is; and without a file nothing is written.
        let head = |site: &Site| site.render("head", site.head("x", true)).unwrap();
        std::fs::remove_file(&index).unwrap();
        let site = Site::open(dir.path(), Embedding::default()).unwrap();
        std::fs::write(&index, head(&site)).unwrap();
        assert!(site.finish(None).unwrap().is_none());
        assert!(Site::open(dir.path(), Embedding::default()).is_ok());
    }

    #[test]
    fn places_that_cannot_be_written_are_known_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [file.join("r.html"), dir.path().join("none/r.html")] {
            let error = Site::open(&path, Embedding::default()).err().unwrap();
            assert!(error.to_string().starts_with("cannot write the report"), "{error}");
        }
        assert!(is_folder(&dir.path().join("new/")) && is_folder(dir.path()) && !is_folder(&dir.path().join("new")));
    }
}
