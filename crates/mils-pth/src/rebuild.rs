//! What the names in a pickle make of their arguments: storages, tensors and dictionaries.
//!
//! Reference: `_rebuild_tensor_v2` and its relatives in `torch/_utils.py`, `persistent_load` in
//! `torch/serialization.py` of PyTorch.

use crate::dtype::Dtype;
use crate::error::Problem;
use crate::heap::{Global, Heap, Id, Storage, Value, View};

fn bad(problem: &str) -> Problem {
    Problem::file(format!("its pickle {problem}; the file is damaged"))
}

/// The names that a state dict needs.
pub(crate) fn known(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::RebuildParameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
        ("torch.nn.parameter", "Parameter") | ("torch", "Tensor") => Global::TensorClass,
        ("torch", "Size") => Global::Size,
        ("torch", "device") => Global::Device,
        ("torch.storage", "UntypedStorage") | ("torch", "UntypedStorage") => Global::Storage(None),
        ("torch" | "torch.cuda", class) if class.ends_with("Storage") => {
            Global::Storage(Some(Dtype::of_storage(class)?))
        }
        ("torch", name) => Global::Dtype(Dtype::of_name(name)?),
        _ => return None,
    })
}

/// Keys and values, which take turns.
pub(crate) fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Problem> {
    let (pairs, rest) = items.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    } else {
        Err(bad("has a key without a value"))
    }
}

/// `("storage", class, key, device, elements)`, in the old format with what it is a view of behind it: None, since
/// views are tensors'.
pub(crate) fn storage<'a>(heap: &Heap<'a>, id: Id) -> Result<Storage<'a>, Problem> {
    let parts = heap.items(id)?;
    let (&[what, class, key, _, elements], view) = match parts {
        [all @ .., view] if all.len() == 5 => {
            (<&[Id; 5]>::try_from(all).map_err(|_| bad("has no storage"))?, Some(*view))
        }
        all => (<&[Id; 5]>::try_from(all).map_err(|_| bad("names something else where a storage should be"))?, None),
    };
    match (heap.get(what), heap.get(class), heap.get(key)) {
        (Value::Text("storage"), &Value::Global(Global::Storage(dtype)), &Value::Text(key))
            if view.is_none_or(|view| matches!(heap.get(view), Value::None)) =>
        {
            Ok(Storage { key, dtype, elements: heap.count(elements)? })
        }
        (Value::Text("module"), ..) => Err(Problem::file(
            "holds a whole model with its code, not a state dict; save `model.state_dict()` and convert that",
        )),
        _ => Err(bad("names a storage of an unknown kind")),
    }
}

/// What a callable makes.
pub(crate) fn reduce<'a>(heap: &mut Heap<'a>, callable: Id, arguments: Id) -> Result<Value<'a>, Problem> {
    let &Value::Global(global) = heap.get(callable) else {
        return match heap.get(callable) {
            Value::Foreign => Ok(Value::Foreign),
            _ => Err(bad("calls what is no function")),
        };
    };
    make(heap, global, arguments)
}

fn make<'a>(heap: &Heap<'a>, global: Global, arguments: Id) -> Result<Value<'a>, Problem> {
    if global == Global::Foreign {
        return Ok(Value::Foreign);
    }
    let items = heap.items(arguments)?;
    match (global, items) {
        (Global::OrderedDict, []) => Ok(Value::Dict(Vec::new())),
        (Global::OrderedDict, &[list]) => {
            let pair = |&item: &Id| match heap.items(item)? {
                &[key, value] => Ok((key, value)),
                _ => Err(bad("has a key without a value")),
            };
            Ok(Value::Dict(heap.items(list)?.iter().map(pair).collect::<Result<_, _>>()?))
        }
        (Global::RebuildTensor, items) => tensor(heap, items),
        // The tensor that it is, then whether it is trained, and hooks, which are none.
        (Global::RebuildParameter, &[data, ..]) => copy(heap, data),
        (Global::RebuildFromType, &[function, class, arguments, _state]) => {
            match (heap.get(function), heap.get(class)) {
                // No deeper: one of these is not made of another.
                (
                    &Value::Global(inner @ (Global::RebuildTensor | Global::RebuildParameter)),
                    Value::Global(Global::TensorClass),
                ) => make(heap, inner, arguments),
                (_, Value::Global(Global::Foreign)) | (Value::Global(Global::Foreign), _) => Ok(Value::Foreign),
                _ => Err(bad("makes a tensor in an unknown way")),
            }
        }
        (Global::Size, &[size]) => Ok(Value::Tuple(heap.items(size)?.to_vec())),
        (Global::Device, _) => Ok(Value::Other),
        _ => Err(bad("gives a function arguments that it does not take")),
    }
}

/// A parameter is its tensor.
fn copy<'a>(heap: &Heap<'a>, data: Id) -> Result<Value<'a>, Problem> {
    match heap.get(data) {
        Value::Tensor(view) => Ok(Value::Tensor(view.clone())),
        Value::Foreign => Ok(Value::Foreign),
        _ => Err(bad("makes a parameter of what is no tensor")),
    }
}

/// `(storage, offset, shape, strides, requires_grad, hooks, …)`; of version 3 the type comes seventh.
fn tensor<'a>(heap: &Heap<'a>, items: &[Id]) -> Result<Value<'a>, Problem> {
    let &[storage, offset, shape, strides, ..] = items else { return Err(bad("makes a tensor of too little")) };
    let &Value::Storage(storage) = heap.get(storage) else {
        return match heap.get(storage) {
            Value::Foreign => Ok(Value::Foreign),
            _ => Err(bad("makes a tensor of what is no storage")),
        };
    };
    let named = match items.get(6).map(|&id| heap.get(id)) {
        Some(&Value::Global(Global::Dtype(dtype))) => Some(dtype),
        _ => None,
    };
    let dtype = named.or(storage.dtype).ok_or_else(|| bad("has a tensor without a type"))?;
    let (offset, shape, strides) = (heap.count(offset)?, heap.counts(shape)?, heap.counts(strides)?);
    if shape.len() != strides.len() {
        return Err(bad("has a tensor whose shape and strides do not fit"));
    }
    Ok(Value::Tensor(Box::new(View { storage, dtype, offset, shape, strides })))
}
