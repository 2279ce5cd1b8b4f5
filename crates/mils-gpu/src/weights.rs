//! Weights on the device, in the type in which they came; a matrix that is larger than one binding, in several buffers.

use crate::device::Shared;
use mils_graph::{BackendError, DType, HostTensor, TensorData};
use std::collections::HashMap;

/// Bytes of weights that may wait for their upload.
const MOST_STAGED: u64 = 256 << 20;

/// A weight on the device.
pub(crate) struct Held {
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
    /// One, or several of a matrix that cannot be bound whole.
    pub(crate) parts: Vec<Part>,
}

/// Rows of a weight, from `first` on.
pub(crate) struct Part {
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) buffer: wgpu::Buffer,
}

/// The elements of a tensor as they lie in memory.
pub(crate) fn bytes(tensor: &HostTensor) -> &[u8] {
    match tensor.data() {
        TensorData::F32(data) => bytemuck::cast_slice(data),
        TensorData::U32(data) => bytemuck::cast_slice(data),
        TensorData::F16(data) => bytemuck::cast_slice(data),
        TensorData::BF16(data) => bytemuck::cast_slice(data),
    }
}

/// Puts weights on the device.
pub(crate) fn upload(
    shared: &Shared,
    weights: Vec<(String, HostTensor)>,
) -> Result<HashMap<String, Held>, BackendError> {
    let mut all = HashMap::new();
    let mut staged = 0;
    for (name, tensor) in weights {
        let during = format!("uploading weight `{name}`");
        let (row, most) = cut(shared, &name, &tensor)?;
        let mut parts = Vec::new();
        for data in bytes(&tensor).chunks(row * most) {
            let buffer = shared.scope(&during, || {
                let buffer = filled(shared, &name, data);
                // The queue keeps a copy of everything written until it is submitted and done: let go of it now and
                // then, or a large model would need its memory twice.
                staged += data.len() as u64;
                if staged >= MOST_STAGED {
                    staged = 0;
                    shared.queue.submit([]);
                    shared.wait(&during)?;
                }
                Ok(buffer)
            })?;
            parts.push(Part { first: parts.len() * most, rows: data.len() / row, buffer });
        }
        all.insert(name, Held { shape: tensor.shape().to_vec(), dtype: tensor.dtype(), parts });
    }
    shared.scope("uploading weights", || {
        shared.queue.submit([]);
        Ok(())
    })?;
    Ok(all)
}

/// Bytes of a row of a weight, and how many rows go into one buffer: all that fit. A graph can gather from a matrix in
/// parts, but from nothing else; what is no matrix has one row.
fn cut(shared: &Shared, name: &str, tensor: &HostTensor) -> Result<(usize, usize), BackendError> {
    let data = bytes(tensor);
    let rows = if let &[rows, _] = tensor.shape() { rows.max(1) } else { 1 };
    // Not 0, of a tensor without elements.
    let row = (data.len() / rows).max(1);
    let fit = shared.largest_binding() / row as u64;
    if fit == 0 {
        shared.fits_binding(&format!("weight `{name}`"), buffer_bytes(data))?;
    }
    Ok((row, rows.min(usize::try_from(fit).unwrap_or(rows)).max(1)))
}

/// Size of the buffer for these bytes: whole words, as shaders read them.
fn buffer_bytes(data: &[u8]) -> u64 {
    data.len().next_multiple_of(4) as u64
}

/// A buffer with these bytes.
fn filled(shared: &Shared, label: &str, data: &[u8]) -> wgpu::Buffer {
    let buffer = shared.buffer(label, buffer_bytes(data));
    // An odd number of halves ends within a word, but only words can be written.
    let (words, rest) = data.as_chunks::<4>();
    shared.queue.write_buffer(&buffer, 0, words.as_flattened());
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        shared.queue.write_buffer(&buffer, words.len() as u64 * 4, &last);
    }
    buffer
}
