//! The elements of a tensor: its own, or lent by whoever holds the bytes.

use std::ops::{Deref, Range};
use std::sync::Arc;

/// Bytes that tensors can lie in: a file that is mapped into memory.
pub trait Bytes: Send + Sync {
    /// All of them; the same ones at every call.
    fn all(&self) -> &[u8];

    /// Says that these will not be read soon, so that they need not stay in memory. Reading them stays possible.
    fn release(&self, _range: Range<usize>) {}
}

/// Elements of a tensor; a slice to whoever reads them.
#[derive(Clone)]
pub struct Elements<T>(Held<T>);

#[derive(Clone)]
enum Held<T> {
    Own(Vec<T>),
    Lent { bytes: Arc<dyn Bytes>, range: Range<usize> },
}

impl<T: bytemuck::Pod> Elements<T> {
    /// Elements in a range of bytes, in little-endian order; copied where they are not aligned, or where this machine
    /// has another order. None where the range is outside, or is no whole number of elements.
    pub(crate) fn shared(bytes: &Arc<dyn Bytes>, range: Range<usize>) -> Option<Self> {
        let found = bytes.all().get(range.clone())?;
        let size = size_of::<T>();
        if !found.len().is_multiple_of(size) {
            return None;
        }
        if cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, T>(found).is_ok() {
            return Some(Self(Held::Lent { bytes: Arc::clone(bytes), range }));
        }
        let mut own = vec![T::zeroed(); found.len() / size];
        for (to, from) in own.iter_mut().zip(found.chunks_exact(size)) {
            let to = bytemuck::bytes_of_mut(to);
            to.copy_from_slice(from);
            if cfg!(target_endian = "big") {
                to.reverse();
            }
        }
        Some(Self(Held::Own(own)))
    }

    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.0, Held::Lent { .. })
    }

    pub(crate) fn release(&self) {
        if let Held::Lent { bytes, range } = &self.0 {
            bytes.release(range.clone());
        }
    }

    /// By value; lent ones are copied.
    pub(crate) fn into_vec(self) -> Vec<T> {
        match self.0 {
            Held::Own(data) => data,
            Held::Lent { .. } => self.to_vec(),
        }
    }
}

impl<T> From<Vec<T>> for Elements<T> {
    fn from(data: Vec<T>) -> Self {
        Self(Held::Own(data))
    }
}

impl<T: bytemuck::Pod> Deref for Elements<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Held::Own(data) => data,
            // Both were checked when it was made, and the bytes stay where they are.
            Held::Lent { bytes, range } => {
                bytes.all().get(range.clone()).and_then(|b| bytemuck::try_cast_slice(b).ok()).unwrap_or_default()
            }
        }
    }
}

impl<T: bytemuck::Pod + PartialEq> PartialEq for Elements<T> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl<T: bytemuck::Pod + std::fmt::Debug> std::fmt::Debug for Elements<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self[..].fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Lender(Vec<u8>, Mutex<Vec<Range<usize>>>);

    impl Bytes for Lender {
        fn all(&self) -> &[u8] {
            &self.0
        }

        fn release(&self, range: Range<usize>) {
            self.1.lock().unwrap().push(range);
        }
    }

    #[test]
    fn lent_elements_are_read_in_place_and_released() {
        let lender = Arc::new(Lender((0..32).collect(), Mutex::default()));
        let bytes: Arc<dyn Bytes> = lender.clone();
        let base = lender.0.as_ptr().addr();
        // Wherever the vector begins, one of four neighbouring bytes is aligned and three are not.
        for at in 0..4 {
            let elements = Elements::<u32>::shared(&bytes, at..at + 8).unwrap();
            let expected: Vec<u32> =
                lender.0[at..at + 8].as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
            assert_eq!(elements[..], expected);
            let in_place = elements.as_ptr().addr() == base + at;
            assert_eq!(in_place, (base + at).is_multiple_of(4) && cfg!(target_endian = "little"), "at {at}");
            let before = lender.1.lock().unwrap().len();
            elements.release();
            assert_eq!(lender.1.lock().unwrap().len() - before, usize::from(in_place));
            assert_eq!(elements.into_vec(), expected);
        }
        assert!(Elements::<u32>::shared(&bytes, 0..7).is_none());
        assert!(Elements::<u32>::shared(&bytes, 28..36).is_none());
    }
}
