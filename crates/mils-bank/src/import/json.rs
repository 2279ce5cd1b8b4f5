//! JSON: whole files, walked as they are read, and JSON Lines.

use super::{Fault, LONGEST, Take, USUAL, lines as text_lines};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::io::BufRead;
use std::ops::ControlFlow;

/// Where a whole file has its records.
pub(super) const ROOTS: [&str; 2] = ["annotations", "images"];

/// Ways to captions in a whole file: keys; arrays are gone through, wherever they are.
const WAYS: [&[&str]; 2] = [&["annotations", "caption"], &["images", "sentences", "raw"]];

/// A file that is one JSON value.
pub(super) fn whole(reader: &mut impl BufRead, field: Option<&str>, take: &mut Take<'_>) -> Result<(), Fault> {
    let given: Vec<Vec<&str>> = field.iter().map(|field| field.split('.').collect()).collect();
    let mut ways: Vec<&[&str]> = given.iter().map(Vec::as_slice).collect();
    // In an array strings are captions, and objects have them where they usually are; an object that holds all may have
    // a description of itself.
    let mut rows: Vec<&[&str]> = Vec::new();
    if given.is_empty() {
        let usual: &'static [&'static str] = &USUAL;
        ways.extend(WAYS);
        rows.extend(usual.iter().map(std::slice::from_ref));
        rows.push(&[]);
    }
    let mut sink = Sink { take, found: 0, ended: false };
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let walk = Walk { ways, rows, sink: &mut sink };
    let walked = walk.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match walked {
        _ if sink.ended => Ok(()),
        Ok(()) if sink.found == 0 => {
            let problem = match field {
                Some(field) => format!("holds no texts at `{field}`"),
                None => "holds no captions where they usually are; name their field with --column".into(),
            };
            Err(Fault { line: None, problem })
        }
        Ok(()) => Ok(()),
        Err(error) => Err(fault(&error, None)),
    }
}

fn fault(error: &serde_json::Error, line: Option<u64>) -> Fault {
    let at = format!(" at line {} column {}", error.line(), error.column());
    let problem = error.to_string().replace(&at, "");
    Fault { line: line.or(Some(error.line() as u64)), problem: format!("{problem} (column {})", error.column()) }
}

/// Where captions go.
struct Sink<'a, 'b> {
    take: &'a mut Take<'b>,
    found: u64,
    /// No more are wanted.
    ended: bool,
}

/// A value, and the ways on from it.
struct Walk<'a, 'b, 'c> {
    ways: Vec<&'a [&'a str]>,
    /// More ways, from what stands in an array here.
    rows: Vec<&'a [&'a str]>,
    sink: &'a mut Sink<'b, 'c>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.ways.is_empty() && self.rows.is_empty() {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(drop);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a caption")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let on = |way: &&[&str]| way.first().is_some_and(|first| *first == key);
            let on = self.ways.iter().copied().filter(on);
            let ways = on.map(|way| way.get(1..).unwrap_or_default()).collect();
            map.next_value_seed(Walk { ways, rows: Vec::new(), sink: &mut *self.sink })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let ways = [self.ways, self.rows].concat();
        while seq.next_element_seed(Walk { ways: ways.clone(), rows: Vec::new(), sink: &mut *self.sink })?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        // At the end of a way, and not somewhere before.
        if !self.ways.iter().any(|way| way.is_empty()) {
            return Ok(());
        }
        self.sink.found += 1;
        if (self.sink.take)(text).is_break() {
            self.sink.ended = true;
            return Err(E::custom("no more is wanted"));
        }
        Ok(())
    }

    /// A caption that is not there is an empty one.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.visit_str("")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.no_text(&value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.no_text(&value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.no_text(&value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.no_text(&value)
    }
}

impl Walk<'_, '_, '_> {
    fn no_text<E: Error>(&self, value: &dyn fmt::Display) -> Result<(), E> {
        if self.ways.iter().any(|way| way.is_empty()) {
            return Err(E::custom(format!("{value} stands where a caption should")));
        }
        Ok(())
    }
}

/// A value a line: strings, or objects with a field that holds one or several.
pub(super) fn lines(reader: &mut impl BufRead, field: Option<&str>, take: &mut Take<'_>) -> Result<(), Fault> {
    let mut field = field.map(str::to_owned);
    text_lines(reader, LONGEST[1], &mut |number, line| {
        if line.trim().is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let value: Value = serde_json::from_str(line).map_err(|e| fault(&e, Some(number)))?;
        let found = match &value {
            Value::Object(fields) => {
                if field.is_none() {
                    field = USUAL.iter().find(|name| fields.contains_key(**name)).map(|name| (*name).to_owned());
                }
                let Some(name) = &field else {
                    let known: Vec<&str> = fields.keys().map(String::as_str).take(20).collect();
                    let problem = "which field holds the captions? Name it with --column; there are";
                    return Err(Fault::at(number, format!("{problem} {}", known.join(", "))));
                };
                let found = name.split('.').try_fold(&value, |value, key| value.get(key));
                found.ok_or_else(|| Fault::at(number, format!("has no field `{name}`")))?
            }
            other => other,
        };
        give(found, number, take)
    })
}

/// A text, or several.
fn give(value: &Value, line: u64, take: &mut Take<'_>) -> Result<ControlFlow<()>, Fault> {
    match value {
        Value::String(text) => Ok(take(text)),
        Value::Null => Ok(take("")),
        Value::Array(values) => {
            for value in values {
                if give(value, line, take)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        }
        other => Err(Fault::at(line, format!("{other} stands where a caption should"))),
    }
}
