//! JSON read field by field, so that an error names the field.

use crate::EncoderError;
use crate::files::read_text;
use mils_graph::Activation;
use serde_json::{Map, Value};
use std::path::Path;

/// An object of a JSON file.
pub(crate) struct Fields {
    /// Where it is in the file, for messages: empty, or with a colon and a space behind it.
    pub(crate) at: &'static str,
    pub(crate) map: Map<String, Value>,
}

impl Fields {
    /// A whole file's object.
    pub(crate) fn whole(json: &Value) -> Result<Self, String> {
        Ok(Self { at: "", map: json.as_object().cloned().ok_or("is not a JSON object")? })
    }

    /// The object under a name; empty where there is none.
    pub(crate) fn section(json: &Value, name: &str, at: &'static str) -> Result<Self, String> {
        match json.get(name) {
            None | Some(Value::Null) => Ok(Self { at, map: Map::new() }),
            Some(Value::Object(map)) => Ok(Self { at, map: map.clone() }),
            Some(_) => Err(format!("{name} is not an object")),
        }
    }

    /// A field by `read`, or the default where it is absent or null.
    pub(crate) fn get<T>(
        &self,
        name: &str,
        default: T,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, String> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => read(value).ok_or_else(|| self.unexpected(name, value, expected)),
        }
    }

    /// That a field is not what it should be.
    pub(crate) fn unexpected(&self, name: &str, value: &Value, expected: &str) -> String {
        let found: String = value.to_string().chars().take(60).collect();
        format!("{}{name} is {found}; expected {expected}", self.at)
    }

    /// What is wrong with it, with where it is.
    pub(crate) fn problem(&self, problem: impl std::fmt::Display) -> String {
        format!("{}{problem}", self.at)
    }

    pub(crate) fn count(&self, name: &str, default: usize) -> Result<usize, String> {
        self.get(name, default, "a whole number", as_count)
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> Result<f32, String> {
        self.get(name, default, "a number", as_float)
    }

    pub(crate) fn text(&self, name: &str, default: &str) -> Result<String, String> {
        self.get(name, default.to_owned(), "a name", |v| v.as_str().map(str::to_owned))
    }

    /// A switch: off or on by `default` where it is absent or null.
    pub(crate) fn switch(&self, name: &str, default: bool) -> Result<bool, String> {
        self.get(name, default, "true or false", Value::as_bool)
    }

    /// A switch of the reference's processors: on where it is absent, off where it is null.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, String> {
        match self.map.get(name) {
            Some(Value::Null) => Ok(false),
            _ => self.switch(name, true),
        }
    }

    /// Height and width: one number for both, or a list of two.
    pub(crate) fn size(&self, name: &str, default: usize) -> Result<(usize, usize), String> {
        self.get(name, (default, default), "a whole number, or two", |v| match v.as_array().map(Vec::as_slice) {
            Some([height, width]) => Some((as_count(height)?, as_count(width)?)),
            Some(_) => None,
            None => as_count(v).map(|n| (n, n)),
        })
    }

    /// Refuses a setting that changes the model and is not built here.
    pub(crate) fn refuse(&self, name: &str) -> Result<(), String> {
        match self.map.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => Ok(()),
            Some(Value::String(text)) if text.is_empty() => Ok(()),
            Some(value) => Err(self.unexpected(name, value, "no such setting; models with it are not supported")),
        }
    }
}

/// A number that is finite in f32.
pub(crate) fn as_float(value: &Value) -> Option<f32> {
    value.as_f64().map(|v| v as f32).filter(|v| v.is_finite())
}

pub(crate) fn as_count(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

/// A JSON file as a value.
pub(crate) fn read_json(path: &Path) -> Result<Value, EncoderError> {
    serde_json::from_str(&read_text(path)?).map_err(|e| EncoderError::file(path, format!("not valid JSON: {e}")))
}

/// An activation by the name that it has in transformers.
pub(crate) fn activation(name: &str) -> Result<Activation, String> {
    match name {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        other => Err(format!(
            "hidden_act `{other}` is not supported (quick_gelu, gelu, gelu_new, gelu_pytorch_tanh and relu are)"
        )),
    }
}
