//! The values that a pickle makes. They refer to each other by number, so that a pickle may share them, and even make
//! circles of them, without anything being copied or leaked.

use crate::MOST_VALUES;
use crate::dtype::Dtype;
use crate::error::Problem;

/// Most dimensions of a tensor: PyTorch's own bound.
const MOST_DIMENSIONS: usize = 64;

/// A value's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(u32);

/// A class or a function that a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor`, `…_v2` and `…_v3`
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`, and the same with a state of its own
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`: a tensor that has attributes
    RebuildFromType,
    /// `torch.Tensor` and `torch.nn.parameter.Parameter`, as what that makes
    TensorClass,
    /// `torch.Size`
    Size,
    /// `torch.device`
    Device,
    /// `torch.FloatStorage` and the like; `None` is the one without a type of its own
    Storage(Option<Dtype>),
    /// `torch.float32` and the like
    Dtype(Dtype),
    /// Another, where those are passed over.
    Foreign,
}

/// Elements in the file, which tensors are views of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Storage<'a> {
    pub(crate) key: &'a str,
    pub(crate) dtype: Option<Dtype>,
    /// Elements, or bytes where it has no type.
    pub(crate) elements: usize,
}

/// A view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View<'a> {
    pub(crate) storage: Storage<'a>,
    pub(crate) dtype: Dtype,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Text(&'a str),
    /// What no tensor depends on: a number with a point or of many digits, bytes, a device.
    Other,
    Global(Global),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Storage(Storage<'a>),
    Tensor(Box<View<'a>>),
    /// An object of other code, of which nothing is known.
    Foreign,
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(crate) struct Heap<'a> {
    values: Vec<Value<'a>>,
    /// Values, and places for values in others, so far.
    spent: usize,
    /// Names of what was passed over, each once.
    pub(crate) skipped: Vec<String>,
    /// Every storage that was named.
    pub(crate) storages: Vec<Storage<'a>>,
}

impl<'a> Heap<'a> {
    pub(crate) fn add(&mut self, value: Value<'a>) -> Result<Id, Problem> {
        self.spend(match &value {
            Value::List(items) | Value::Tuple(items) => 1 + items.len(),
            Value::Dict(pairs) => 1 + pairs.len(),
            Value::Tensor(view) => 1 + view.shape.len(),
            _ => 1,
        })?;
        // Bounded above.
        let id = Id(self.values.len() as u32);
        self.values.push(value);
        Ok(id)
    }

    /// Counts what is about to be held: a pickle of few bytes may copy a long list again and again.
    pub(crate) fn spend(&mut self, places: usize) -> Result<(), Problem> {
        self.spent = self.spent.saturating_add(places);
        if self.spent <= MOST_VALUES {
            return Ok(());
        }
        Err(Problem::file(format!("its pickle makes more than {MOST_VALUES} values")))
    }

    /// A value by a number that [`Heap::add`] gave.
    pub(crate) fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> &mut Value<'a> {
        &mut self.values[id.0 as usize]
    }

    /// A whole number that counts something.
    pub(crate) fn count(&self, id: Id) -> Result<usize, Problem> {
        match self.get(id) {
            Value::Int(n) => usize::try_from(*n).map_err(|_| Problem::file(format!("its pickle counts with {n}"))),
            _ => Err(Problem::file("its pickle has something else where a number should be")),
        }
    }

    /// The elements of a tuple or a list.
    pub(crate) fn items(&self, id: Id) -> Result<&[Id], Problem> {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) => Ok(items),
            _ => Err(Problem::file("its pickle has something else where a tuple should be")),
        }
    }

    /// Several numbers, at most as many as a tensor has dimensions.
    pub(crate) fn counts(&self, id: Id) -> Result<Vec<usize>, Problem> {
        let items = self.items(id)?;
        if items.len() > MOST_DIMENSIONS {
            return Err(Problem::file(format!("its pickle has a tensor of {} dimensions", items.len())));
        }
        items.iter().map(|&item| self.count(item)).collect()
    }
}
