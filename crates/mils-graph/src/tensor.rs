//! Tensors in host memory: what goes into a program and what comes out.

use crate::DType;
use crate::elements::{Bytes, Elements};
use half::{bf16, f16};
use std::ops::Range;
use std::sync::Arc;

/// The elements, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// 32-bit floats.
    F32(Elements<f32>),
    /// 32-bit indices.
    U32(Elements<u32>),
    /// 16-bit floats, IEEE half precision; only of weights.
    F16(Elements<f16>),
    /// 16-bit floats, the upper half of an f32; only of weights.
    BF16(Elements<bf16>),
}

/// A dense row-major tensor. A scalar has the shape [] and one element; a tensor with a dimension of 0 has none.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    shape: Vec<usize>,
    data: TensorData,
}

/// A tensor whose shape and data do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The product of the shape is not the number of elements.
    #[error("a tensor of shape {shape:?} has {found} elements")]
    Elements {
        /// The shape that was claimed.
        shape: Vec<usize>,
        /// How many elements there were.
        found: usize,
    },
}

impl HostTensor {
    /// An f32 tensor.
    ///
    /// # Errors
    /// If `data` has not as many elements as `shape` says.
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Result<Self, TensorError> {
        check(shape, data.len())?;
        Ok(Self { shape: shape.to_vec(), data: TensorData::F32(data.into()) })
    }

    /// A u32 tensor.
    ///
    /// # Errors
    /// If `data` has not as many elements as `shape` says.
    pub fn u32(shape: &[usize], data: Vec<u32>) -> Result<Self, TensorError> {
        check(shape, data.len())?;
        Ok(Self { shape: shape.to_vec(), data: TensorData::U32(data.into()) })
    }

    /// An f16 tensor, for a weight.
    ///
    /// # Errors
    /// If `data` has not as many elements as `shape` says.
    pub fn f16(shape: &[usize], data: Vec<f16>) -> Result<Self, TensorError> {
        check(shape, data.len())?;
        Ok(Self { shape: shape.to_vec(), data: TensorData::F16(data.into()) })
    }

    /// A bf16 tensor, for a weight.
    ///
    /// # Errors
    /// If `data` has not as many elements as `shape` says.
    pub fn bf16(shape: &[usize], data: Vec<bf16>) -> Result<Self, TensorError> {
        check(shape, data.len())?;
        Ok(Self { shape: shape.to_vec(), data: TensorData::BF16(data.into()) })
    }

    /// A tensor whose elements are somebody else's, who lends them: of a file in memory, without a copy. Where they
    /// do not lie as this machine's numbers do (aligned, little-endian), they are copied after all.
    ///
    /// # Errors
    /// If `range` has not as many elements as `shape` says, or is not inside the bytes.
    pub fn shared(
        dtype: DType,
        shape: &[usize],
        bytes: &Arc<dyn Bytes>,
        range: Range<usize>,
    ) -> Result<Self, TensorError> {
        let found = range.len() / if matches!(dtype, DType::F32 | DType::U32) { 4 } else { 2 };
        let missing = TensorError::Elements { shape: shape.to_vec(), found };
        if bytes.all().get(range.clone()).is_none() {
            return Err(missing);
        }
        let whole = |data: Option<TensorData>| data.ok_or(missing);
        let data = whole(match dtype {
            DType::F32 => Elements::shared(bytes, range).map(TensorData::F32),
            DType::U32 => Elements::shared(bytes, range).map(TensorData::U32),
            DType::F16 => Elements::shared(bytes, range).map(TensorData::F16),
            DType::BF16 => Elements::shared(bytes, range).map(TensorData::BF16),
        })?;
        check(shape, found)?;
        Ok(Self { shape: shape.to_vec(), data })
    }

    /// Says that the elements are not needed for now, so that lent ones need not stay in memory. They can still be
    /// read.
    pub fn release(&self) {
        match &self.data {
            TensorData::F32(data) => data.release(),
            TensorData::U32(data) => data.release(),
            TensorData::F16(data) => data.release(),
            TensorData::BF16(data) => data.release(),
        }
    }

    /// Whether the elements are somebody else's; see [`HostTensor::shared`].
    pub fn is_lent(&self) -> bool {
        match &self.data {
            TensorData::F32(data) => data.is_lent(),
            TensorData::U32(data) => data.is_lent(),
            TensorData::F16(data) => data.is_lent(),
            TensorData::BF16(data) => data.is_lent(),
        }
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Type of its elements.
    pub fn dtype(&self) -> DType {
        match &self.data {
            TensorData::F32(_) => DType::F32,
            TensorData::U32(_) => DType::U32,
            TensorData::F16(_) => DType::F16,
            TensorData::BF16(_) => DType::BF16,
        }
    }

    /// Its elements.
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// Its elements, if they are f32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            TensorData::F32(data) => Some(data),
            _ => None,
        }
    }

    /// Its elements, if they are indices.
    pub fn as_u32(&self) -> Option<&[u32]> {
        match &self.data {
            TensorData::U32(data) => Some(data),
            _ => None,
        }
    }

    /// Its elements, if they are f16.
    pub fn as_f16(&self) -> Option<&[f16]> {
        match &self.data {
            TensorData::F16(data) => Some(data),
            _ => None,
        }
    }

    /// Its elements, if they are bf16.
    pub fn as_bf16(&self) -> Option<&[bf16]> {
        match &self.data {
            TensorData::BF16(data) => Some(data),
            _ => None,
        }
    }

    /// Its elements by value, if they are f32.
    pub fn into_f32(self) -> Option<Vec<f32>> {
        match self.data {
            TensorData::F32(data) => Some(data.into_vec()),
            _ => None,
        }
    }
}

fn check(shape: &[usize], found: usize) -> Result<(), TensorError> {
    let wanted = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    if wanted == Some(found) { Ok(()) } else { Err(TensorError::Elements { shape: shape.to_vec(), found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_and_data_fit_together() {
        assert_eq!(HostTensor::f32(&[], vec![1.0]).unwrap().shape(), [0_usize; 0]);
        assert!(HostTensor::f32(&[0, 3], vec![]).is_ok());
        assert!(HostTensor::u32(&[2, 3], vec![0; 5]).is_err());
        assert!(HostTensor::f16(&[2], vec![f16::ONE; 3]).is_err() && HostTensor::bf16(&[], vec![]).is_err());
        // Wraps round to 4, were it not checked.
        assert!(HostTensor::u32(&[(1 << 62) + 1, 4], vec![0; 4]).is_err());
    }

    #[test]
    fn elements_are_of_one_type() {
        let f16 = HostTensor::f16(&[1], vec![f16::ONE]).unwrap();
        let bf16 = HostTensor::bf16(&[1], vec![bf16::ONE]).unwrap();
        assert_eq!((f16.dtype(), bf16.dtype()), (DType::F16, DType::BF16));
        assert!(f16.as_f16().is_some() && f16.as_bf16().is_none() && f16.as_f32().is_none());
        assert!(bf16.as_bf16().is_some() && bf16.as_f16().is_none() && bf16.as_u32().is_none());
        assert!(f16.into_f32().is_none());
    }
}
