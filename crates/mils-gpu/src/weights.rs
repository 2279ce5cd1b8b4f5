//! Weights on the device, in the type in which they came (or in f16, where activations are that); a matrix that is
//! larger than one binding, in several buffers.

use crate::device::Shared;
use crate::lower::Lie;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use mils_graph::{BackendError, DType, HostTensor, TensorData};
use mils_shaders::Element;
use std::borrow::Cow;
use std::collections::HashMap;

/// Bytes of weights that may wait for their upload.
const MOST_STAGED: u64 = 256 << 20;

/// A weight on the device.
pub(crate) struct Held {
    pub(crate) shape: Vec<usize>,
    /// The type in which it came.
    pub(crate) given: DType,
    /// How it lies.
    pub(crate) lie: Lie,
    /// One, or several of a matrix that cannot be bound whole.
    pub(crate) buffers: Vec<wgpu::Buffer>,
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

/// Bytes of an element of an input or of what is computed, as it lies on the device.
pub(crate) fn element_bytes(dtype: DType, element: Element) -> u64 {
    if dtype == DType::F32 && element == Element::F16 { 2 } else { 4 }
}

/// The type in which a weight lies on the device.
pub(crate) fn held_as(given: DType, element: Element) -> DType {
    if given == DType::F32 && element == Element::F16 { DType::F16 } else { given }
}

/// The elements of a tensor as they lie on the device: what is f32 becomes f16 where activations are.
pub(crate) fn bytes_as(tensor: &HostTensor, element: Element) -> Cow<'_, [u8]> {
    match (tensor.data(), element) {
        (TensorData::F32(data), Element::F16) => {
            let mut halves = vec![f16::ZERO; data.len()];
            halves.convert_from_f32_slice(data);
            Cow::Owned(bytemuck::cast_slice(&halves).to_vec())
        }
        _ => Cow::Borrowed(bytes(tensor)),
    }
}

/// The first `elements` of what the device computed.
pub(crate) fn floats(bytes: &[u8], element: Element, elements: usize) -> Vec<f32> {
    match element {
        Element::F32 => bytemuck::pod_collect_to_vec(bytes),
        Element::F16 => {
            let bits: Vec<u16> = bytemuck::pod_collect_to_vec(bytes);
            let mut all = bits.reinterpret_cast::<f16>().to_f32_vec();
            all.truncate(elements);
            all
        }
    }
}

/// An error if a weight has a number that f16 would make infinite.
fn fits_f16(name: &str, tensor: &HostTensor) -> Result<(), BackendError> {
    let most = f16::MAX.to_f32();
    match tensor.as_f32().and_then(|data| data.iter().find(|v| v.is_finite() && v.abs() > most)) {
        None => Ok(()),
        Some(found) => Err(BackendError::Mismatch {
            name: name.to_owned(),
            expected: format!("numbers up to {most}, which f16 can hold"),
            found: found.to_string(),
        }),
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
        if shared.element == Element::F16 {
            fits_f16(&name, &tensor)?;
        }
        let all_bytes = bytes_as(&tensor, shared.element);
        let (row, most) = cut(shared, &name, tensor.shape(), &all_bytes)?;
        let (mut parts, mut buffers) = (Vec::new(), Vec::new());
        for data in all_bytes.chunks(row * most) {
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
            parts.push((parts.len() * most, data.len() / row));
            buffers.push(buffer);
        }
        drop(all_bytes);
        // The queue has its copy: what was mapped from a file need not stay in memory.
        tensor.release();
        let (shape, given) = (tensor.shape().to_vec(), tensor.dtype());
        let lie = Lie { dtype: held_as(given, shared.element), parts };
        all.insert(name, Held { shape, given, lie, buffers });
    }
    shared.scope("uploading weights", || {
        shared.queue.submit([]);
        Ok(())
    })?;
    Ok(all)
}

/// Bytes of a row of a weight, and how many rows go into one buffer: all that fit. A graph can gather from a matrix in
/// parts, but from nothing else; what is no matrix has one row.
fn cut(shared: &Shared, name: &str, shape: &[usize], data: &[u8]) -> Result<(usize, usize), BackendError> {
    let rows = if let &[rows, _] = shape { rows.max(1) } else { 1 };
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
    shared.write(&buffer, data);
    buffer
}
