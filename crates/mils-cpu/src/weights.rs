//! Weights as the CPU holds them: as they came, or packed for the tiles once a graph multiplies with them.

use crate::held::Held;
use crate::program::Math;
use crate::tiled::Packed;
use mils_graph::{BackendError, DType, HostTensor, TensorData};
use std::sync::{Arc, Mutex, PoisonError};

/// A matrix as a `Held`; none where it is of indices.
pub(crate) fn held(tensor: &HostTensor) -> Option<Held<'_>> {
    match tensor.data() {
        TensorData::F32(data) => Some(Held::F32(data)),
        TensorData::F16(data) => Some(Held::F16(data)),
        TensorData::BF16(data) => Some(Held::BF16(data)),
        TensorData::U32(_) => None,
    }
}

/// A weight in one of its forms, or in both.
pub(crate) struct Weight {
    shape: Vec<usize>,
    dtype: DType,
    forms: Mutex<Forms>,
}

struct Forms {
    plain: Option<Arc<HostTensor>>,
    packed: Option<Arc<Packed>>,
}

impl Weight {
    pub(crate) fn new(tensor: HostTensor) -> Self {
        let (shape, dtype) = (tensor.shape().to_vec(), tensor.dtype());
        Self { shape, dtype, forms: Mutex::new(Forms { plain: Some(Arc::new(tensor)), packed: None }) }
    }

    /// Its shape.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Type of its elements as it came.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// For tiles; none where this CPU has none. What it was packed from is let go, unless somebody reads it.
    pub(crate) fn packed(&self, math: Math) -> Option<Arc<Packed>> {
        // Nothing panics half way through a change of the forms.
        let mut forms = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(packed) = &forms.packed {
            return Some(Arc::clone(packed));
        }
        let &[n, k] = &self.shape[..] else { return None };
        let plain = forms.plain.clone()?;
        let packed = Arc::new(Packed::choose(held(&plain)?, [n, k], math)?);
        forms.packed = Some(Arc::clone(&packed));
        plain.release();
        // One that lies in its file costs nothing there; one that was rounded could not be made again.
        let exact = math == Math::F32 || self.dtype == DType::BF16;
        if exact && !plain.is_lent() {
            forms.plain = None;
        }
        Some(packed)
    }

    /// As it came; made again, in f32, if it was let go.
    pub(crate) fn plain(&self) -> Result<Arc<HostTensor>, BackendError> {
        let mut forms = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plain) = &forms.plain {
            return Ok(Arc::clone(plain));
        }
        let data = forms.packed.as_ref().map(|packed| packed.unpacked()).unwrap_or_default();
        let plain = Arc::new(HostTensor::f32(&self.shape, data)?);
        forms.plain = Some(Arc::clone(&plain));
        Ok(plain)
    }
}
