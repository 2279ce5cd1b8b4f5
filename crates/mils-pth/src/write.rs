//! The safetensors file: a header, then every tensor, row by row.

use crate::{Checkpoint, PthError, Tensor};
use safetensors::tensor::{Metadata, TensorInfo};
use std::io::Write;
use std::ops::ControlFlow;

/// Bytes that are put together of a view before they are written.
const PIECE: usize = 1 << 20;
/// Longest header that readers take.
const MOST_HEADER: usize = 100_000_000;

/// Where progress is told: bytes of tensors that have been written. It may ask to stop.
type Told<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

impl Checkpoint {
    /// Writes all tensors as a safetensors file. `told` hears how many bytes of tensors have been written, and may stop.
    ///
    /// Tensors that share a storage are written each by itself: safetensors has no views.
    ///
    /// # Errors
    /// If it cannot be written, or `told` breaks. What was written until then is of no use.
    pub fn write_safetensors(&self, out: &mut dyn Write, told: Told<'_>) -> Result<(), PthError> {
        // Wide elements first, so that each lies at a multiple of its size; then by name, as the reference sorts.
        let mut order: Vec<&Tensor> = self.tensors.iter().collect();
        order.sort_by(|a, b| b.dtype.size().cmp(&a.dtype.size()).then_with(|| a.name.cmp(&b.name)));
        let header = self.header(&order)?;
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        let mut done = 0;
        for tensor in order {
            self.write_tensor(tensor, out, &mut |more| {
                done += more as u64;
                told(done)
            })?;
        }
        out.flush()?;
        Ok(())
    }

    fn header(&self, order: &[&Tensor]) -> Result<String, PthError> {
        let fail = |problem: String| PthError::File { path: self.path.clone(), problem };
        let mut at = 0;
        let infos = order.iter().map(|tensor| {
            let begin = at;
            at += tensor.bytes();
            let info =
                TensorInfo { dtype: tensor.dtype.stored(), shape: tensor.shape.clone(), data_offsets: (begin, at) };
            (tensor.name.clone(), info)
        });
        let format = [("format".to_owned(), "pt".to_owned())].into();
        let metadata = Metadata::new(Some(format), infos.collect())
            .map_err(|e| fail(format!("cannot be a safetensors file: {e}")))?;
        let mut header =
            serde_json::to_string(&metadata).map_err(|e| fail(format!("has names that cannot be written: {e}")))?;
        if header.len() > MOST_HEADER {
            return Err(fail("has more names than a safetensors file takes".into()));
        }
        // Elements begin at a multiple of 8.
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        Ok(header)
    }

    /// The elements in the order of rows, whatever their strides. `told` hears how many more bytes were written.
    fn write_tensor(
        &self,
        tensor: &Tensor,
        out: &mut dyn Write,
        told: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(), PthError> {
        let size = tensor.dtype.size();
        // Within the file, by the checks when it was opened.
        let storage = &self.archive.bytes()[tensor.storage.clone()];
        let mut write = |bytes: &[u8]| {
            out.write_all(bytes)?;
            if told(bytes.len()).is_break() { Err(PthError::Stopped) } else { Ok(()) }
        };
        if tensor.elements() == 0 {
            return Ok(());
        }
        let dense = dense(tensor);
        // The dimensions after this one lie as rows do: a run of them is copied at once.
        let run: usize = tensor.shape[dense..].iter().product();
        let mut piece = Vec::new();
        let mut index = vec![0; dense];
        loop {
            let first = index.iter().zip(&tensor.strides).fold(tensor.offset, |at, (i, stride)| at + i * stride) * size;
            let bytes = &storage[first..first + run * size];
            if piece.is_empty() && bytes.len() >= PIECE {
                bytes.chunks(16 * PIECE).try_for_each(&mut write)?;
            } else {
                piece.extend_from_slice(bytes);
                if piece.len() >= PIECE {
                    write(&piece)?;
                    piece.clear();
                }
            }
            if !advance(&mut index, &tensor.shape) {
                break;
            }
        }
        if piece.is_empty() { Ok(()) } else { write(&piece) }
    }
}

/// From which dimension on the elements lie as rows do, without gaps.
fn dense(tensor: &Tensor) -> usize {
    let mut expected = 1;
    let dimensions = tensor.shape.iter().zip(&tensor.strides).rev();
    let tail = dimensions.take_while(|&(&d, &stride)| {
        let fits = d == 1 || stride == expected;
        expected *= d;
        fits
    });
    tensor.shape.len() - tail.count()
}

/// The next index below a shape's first dimensions, the last of them fastest; false after the last.
fn advance(index: &mut [usize], shape: &[usize]) -> bool {
    for (i, &d) in index.iter_mut().zip(shape).rev() {
        *i += 1;
        if *i < d {
            return true;
        }
        *i = 0;
    }
    false
}
