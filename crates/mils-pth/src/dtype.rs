//! Types of elements, by PyTorch's names.

use safetensors::Dtype as Stored;

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// `torch.bool`
    Bool,
    /// `torch.uint8`
    U8,
    /// `torch.int8`
    I8,
    /// `torch.int16`
    I16,
    /// `torch.uint16`
    U16,
    /// `torch.int32`
    I32,
    /// `torch.uint32`
    U32,
    /// `torch.int64`
    I64,
    /// `torch.uint64`
    U64,
    /// `torch.float16`
    F16,
    /// `torch.bfloat16`
    BF16,
    /// `torch.float32`
    F32,
    /// `torch.float64`
    F64,
    /// `torch.complex64`
    C64,
    /// `torch.float8_e4m3fn`
    F8E4M3,
    /// `torch.float8_e5m2`
    F8E5M2,
}

impl Dtype {
    /// By the class of its storages, as `torch.FloatStorage`.
    pub(crate) fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "BoolStorage" => Self::Bool,
            "ByteStorage" => Self::U8,
            "CharStorage" => Self::I8,
            "ShortStorage" => Self::I16,
            "IntStorage" => Self::I32,
            "LongStorage" => Self::I64,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::BF16,
            "FloatStorage" => Self::F32,
            "DoubleStorage" => Self::F64,
            "ComplexFloatStorage" => Self::C64,
            _ => return None,
        })
    }

    /// By its name in `torch`, of those that have no storage class of their own and of those that have.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "bool" => Self::Bool,
            "uint8" => Self::U8,
            "int8" => Self::I8,
            "int16" => Self::I16,
            "uint16" => Self::U16,
            "int32" => Self::I32,
            "uint32" => Self::U32,
            "int64" => Self::I64,
            "uint64" => Self::U64,
            "float16" => Self::F16,
            "bfloat16" => Self::BF16,
            "float32" => Self::F32,
            "float64" => Self::F64,
            "complex64" => Self::C64,
            "float8_e4m3fn" => Self::F8E4M3,
            "float8_e5m2" => Self::F8E5M2,
            _ => return None,
        })
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 | Self::C64 => 8,
        }
    }

    /// The same in safetensors.
    pub(crate) fn stored(self) -> Stored {
        match self {
            Self::Bool => Stored::BOOL,
            Self::U8 => Stored::U8,
            Self::I8 => Stored::I8,
            Self::I16 => Stored::I16,
            Self::U16 => Stored::U16,
            Self::I32 => Stored::I32,
            Self::U32 => Stored::U32,
            Self::I64 => Stored::I64,
            Self::U64 => Stored::U64,
            Self::F16 => Stored::F16,
            Self::BF16 => Stored::BF16,
            Self::F32 => Stored::F32,
            Self::F64 => Stored::F64,
            Self::C64 => Stored::C64,
            Self::F8E4M3 => Stored::F8_E4M3,
            Self::F8E5M2 => Stored::F8_E5M2,
        }
    }
}
