//! The tensors of a value: nested dictionaries become one list of names, and every view is checked against the bytes
//! of its storage.

use crate::archive::Storages;
use crate::error::Problem;
use crate::heap::{Heap, Id, Value, View};
use crate::{MOST_GROWTH, MOST_VALUES, Options, Tensor};
use std::collections::HashSet;
use std::ops::Range;

/// Deepest nesting: a dictionary may be inside itself.
const MOST_DEPTH: usize = 64;
/// Longest key.
const MOST_KEY: usize = 1 << 12;
/// Bytes of all names together; the header of a safetensors file is bounded too.
const MOST_NAMES: usize = 1 << 25;
/// A file with little in it may grow by so much more: what is shared in it may be all that it has.
const GRACE: u64 = 1 << 20;

/// What a checkpoint has.
pub(crate) struct Found {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) others: usize,
    pub(crate) skipped: Vec<String>,
}

struct Search<'h, 'a> {
    heap: &'h Heap<'a>,
    storages: &'h Storages,
    prefix: &'h str,
    tensors: Vec<Tensor>,
    others: usize,
    names: usize,
    visits: usize,
    bytes: u64,
    most_bytes: u64,
    /// First parts of names, for the message that none has the prefix.
    begins: HashSet<String>,
}

/// Finds the tensors below `root`. `size` is the file's, in bytes.
pub(crate) fn find(
    heap: &Heap<'_>,
    root: Id,
    storages: &Storages,
    size: usize,
    options: &Options,
) -> Result<Found, Problem> {
    let most_bytes = (size as u64).saturating_mul(MOST_GROWTH).saturating_add(GRACE);
    let mut search = Search {
        heap,
        storages,
        prefix: &options.prefix,
        tensors: Vec::new(),
        others: 0,
        names: 0,
        visits: 0,
        bytes: 0,
        most_bytes,
        begins: HashSet::new(),
    };
    match heap.get(root) {
        Value::Dict(_) | Value::List(_) | Value::Tuple(_) => search.visit(&mut String::new(), root, 0)?,
        Value::Foreign => {
            return Err(Problem::file(
                "holds an object of other code and no dictionary of tensors; save its `state_dict()`",
            ));
        }
        _ => return Err(Problem::file("holds one value and no dictionary of tensors")),
    }
    if search.tensors.is_empty() {
        return Err(search.nothing());
    }
    let mut known = HashSet::with_capacity(search.tensors.len());
    if let Some(twice) = search.tensors.iter().find(|t| !known.insert(t.name.as_str())) {
        return Err(Problem::file(format!("has two tensors `{}`", twice.name.escape_debug())));
    }
    Ok(Found { others: search.others, skipped: heap.skipped.clone(), tensors: search.tensors })
}

impl Search<'_, '_> {
    fn visit(&mut self, name: &mut String, id: Id, depth: usize) -> Result<(), Problem> {
        self.visits += match self.heap.get(id) {
            Value::Dict(pairs) => 1 + pairs.len(),
            Value::List(items) | Value::Tuple(items) => 1 + items.len(),
            _ => 1,
        };
        if depth > MOST_DEPTH || self.visits > MOST_VALUES {
            return Err(Problem::file("has dictionaries inside each other without an end"));
        }
        let heap = self.heap;
        match heap.get(id) {
            Value::Dict(pairs) => {
                for &(key, value) in pairs {
                    match heap.get(key) {
                        Value::Text(text) => self.below(name, text, value, depth)?,
                        Value::Int(number) => self.below(name, &number.to_string(), value, depth)?,
                        _ if !self.is_container(value) => self.others += 1,
                        _ => return Err(Problem::file("has tensors under a key that is no text")),
                    }
                }
            }
            Value::List(items) | Value::Tuple(items) => {
                for (i, &item) in items.iter().enumerate() {
                    // Lists of numbers are long, and no names are made for them.
                    if self.is_container(item) {
                        self.below(name, &i.to_string(), item, depth)?;
                    } else {
                        self.others += 1;
                    }
                }
            }
            Value::Tensor(view) => self.tensor(name, view)?,
            _ => self.others += 1,
        }
        Ok(())
    }

    /// Whether there may be tensors in it.
    fn is_container(&self, id: Id) -> bool {
        matches!(self.heap.get(id), Value::Dict(_) | Value::List(_) | Value::Tuple(_) | Value::Tensor(_))
    }

    fn below(&mut self, name: &mut String, part: &str, value: Id, depth: usize) -> Result<(), Problem> {
        if part.len() > MOST_KEY {
            return Err(Problem::file(format!("has a key of {} bytes", part.len())));
        }
        let length = name.len();
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(part);
        let done = self.visit(name, value, depth + 1);
        name.truncate(length);
        done
    }

    fn tensor(&mut self, name: &str, view: &View<'_>) -> Result<(), Problem> {
        let Some(short) = name.strip_prefix(self.prefix).filter(|short| !short.is_empty()) else {
            if self.begins.len() < 8 {
                self.begins.insert(name.split_inclusive('.').next().unwrap_or_default().to_owned());
            }
            return Ok(());
        };
        let at = |problem: String| Problem::file(format!("tensor `{}` {problem}", name.escape_debug()));
        self.names += short.len();
        if self.names > MOST_NAMES {
            return Err(Problem::file("has more names than a safetensors file takes"));
        }
        let storage = self.range(view).map_err(at)?;
        let tensor = Tensor {
            name: short.to_owned(),
            dtype: view.dtype,
            shape: view.shape.clone(),
            strides: view.strides.clone(),
            offset: view.offset,
            storage,
        };
        self.bytes = self.bytes.saturating_add(tensor.bytes() as u64);
        if self.bytes > self.most_bytes {
            return Err(Problem::file(format!(
                "says more than {MOST_GROWTH} times its own size: its tensors are views that repeat few elements"
            )));
        }
        self.tensors.push(tensor);
        Ok(())
    }

    /// Bytes of the view's storage, if the view lies within them.
    fn range(&self, view: &View<'_>) -> Result<Range<usize>, String> {
        let key = view.storage.key;
        let damaged = |what: &str| format!("{what}; the file is damaged or incomplete, copy it again");
        let range = self
            .storages
            .get(key)
            .ok_or_else(|| damaged(&format!("is of storage `{}`, which is missing", key.escape_debug())))?;
        let size = view.dtype.size();
        // Fewer elements than said were a file cut off; a storage without a type counts bytes.
        let said = view.storage.elements.checked_mul(view.storage.dtype.map_or(1, |d| d.size()));
        let held = said
            .filter(|&said| said <= range.len())
            .ok_or_else(|| damaged("is of a storage with fewer bytes than it says"))?;
        let elements = view.shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        // Of a shape with a 0 no element is read, but its other dimensions are still multiplied by whoever reads it.
        let whole = view.shape.iter().filter(|&&d| d > 0).try_fold(size, |n, &d| n.checked_mul(d));
        let (Some(elements), Some(_)) = (elements, whole) else { return Err(damaged("is larger than memory")) };
        let last = view
            .shape
            .iter()
            .zip(&view.strides)
            .try_fold(view.offset, |at, (&d, &stride)| at.checked_add(d.saturating_sub(1).checked_mul(stride)?));
        let within = last.and_then(|last| last.checked_add(1)?.checked_mul(size)).is_some_and(|end| end <= held);
        if elements == 0 || within { Ok(range.clone()) } else { Err(damaged("reaches beyond its storage")) }
    }

    fn nothing(&self) -> Problem {
        if self.begins.is_empty() {
            return Problem::file("has no tensors");
        }
        let mut begins: Vec<String> = self.begins.iter().map(|b| format!("`{}`", b.escape_debug())).collect();
        begins.sort();
        let (prefix, begins) = (self.prefix.escape_debug(), begins.join(", "));
        Problem::file(format!("has no tensor whose name begins with `{prefix}`; names begin with {begins}"))
    }
}
