//! The machine: opcodes of Python's pickle that state dicts are written with. It has a stack, a memo, and no way to
//! import or call anything: a name is looked up in a fixed list, and [`crate::rebuild`] says what each of them makes.
//!
//! Opcodes: `pickletools.py` of Python; those left out (`INST`, `OBJ`, `EXT1`, `PERSID`, buffers out of band) are not
//! written by `torch.save`.

use crate::MOST_PICKLE;
use crate::error::Problem;
use crate::heap::{Global, Heap, Id, Value};
use crate::rebuild;
use std::collections::HashMap;

/// Longest name of a module or of something in it.
const MOST_NAME: usize = 256;
/// Most names that are kept of what was passed over.
const MOST_SKIPPED: usize = 32;

/// Reads one pickle. Gives what it leaves on the stack, and its length.
pub(crate) fn run<'a>(heap: &mut Heap<'a>, bytes: &'a [u8], skip_objects: bool) -> Result<(Id, usize), Problem> {
    let bytes = &bytes[..bytes.len().min(MOST_PICKLE)];
    let mut machine =
        Machine { heap, bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), skip_objects };
    loop {
        let at = machine.at;
        let opcode = machine.byte()?;
        if opcode == b'.' {
            let result = machine.pop()?;
            return Ok((result, machine.at));
        }
        machine.step(opcode).map_err(|problem| match problem {
            Problem::File(text) => Problem::File(format!("{text} (byte {at} of its pickle)")),
            other => other,
        })?;
    }
}

struct Machine<'h, 'a> {
    heap: &'h mut Heap<'a>,
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    skip_objects: bool,
}

fn bad(problem: &str) -> Problem {
    Problem::file(format!("its pickle {problem}; the file is damaged"))
}

impl<'a> Machine<'_, 'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Problem> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..n).ok_or_else(|| {
            if self.bytes.len() == MOST_PICKLE {
                Problem::file(format!("its pickle is longer than {MOST_PICKLE} bytes"))
            } else {
                bad("ends too early")
            }
        })?;
        self.at += n;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Problem> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of up to eight bytes.
    fn number(&mut self, n: usize) -> Result<u64, Problem> {
        Ok(self.take(n)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn length(&mut self, n: usize) -> Result<usize, Problem> {
        usize::try_from(self.number(n)?).map_err(|_| bad("ends too early"))
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Result<&'a str, Problem> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().take(MOST_NAME + 1).position(|&b| b == b'\n');
        let line = self.take(end.ok_or_else(|| bad("has a name without an end"))?)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| bad("has a name that is no text"))
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), Problem> {
        let id = self.heap.add(value)?;
        self.stack.push(id);
        Ok(())
    }

    /// The topmost value, above the last mark.
    fn pop(&mut self) -> Result<Id, Problem> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(bad("takes a value that is not there"));
        }
        self.stack.pop().ok_or_else(|| bad("takes a value that is not there"))
    }

    fn top(&self) -> Result<Id, Problem> {
        self.stack.last().copied().ok_or_else(|| bad("looks at a value that is not there"))
    }

    /// All values above the last mark, which is taken away.
    fn marked(&mut self) -> Result<Vec<Id>, Problem> {
        let mark = self.marks.pop().ok_or_else(|| bad("has no mark"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn tuple(&mut self, n: usize) -> Result<(), Problem> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Value::Tuple(items))
    }

    fn text(&mut self, length: usize) -> Result<(), Problem> {
        let bytes = self.take(length)?;
        // A lone surrogate, which Python may write, is no text of Rust's; no tensor's name has one.
        let value = std::str::from_utf8(bytes).map_or(Value::Other, Value::Text);
        self.push(value)
    }

    fn other(&mut self, length: usize) -> Result<(), Problem> {
        self.take(length)?;
        self.push(Value::Other)
    }

    /// A whole number of any length, in two's complement.
    fn long(&mut self, length: usize) -> Result<(), Problem> {
        let bytes = self.take(length)?;
        let value = if bytes.len() > 8 {
            Value::Other
        } else {
            let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
            let fill = if negative { 0xff } else { 0 };
            let mut all = [fill; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(all))
        };
        self.push(value)
    }

    fn put(&mut self, key: u32) -> Result<(), Problem> {
        let top = self.top()?;
        self.heap.spend(1)?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Problem> {
        let id = *self.memo.get(&key).ok_or_else(|| bad("recalls a value that was not kept"))?;
        self.heap.spend(1)?;
        self.stack.push(id);
        Ok(())
    }

    /// One instruction, but for the last.
    fn step(&mut self, opcode: u8) -> Result<(), Problem> {
        match opcode {
            // PROTO, FRAME: what version it is, and how long a part of it.
            0x80 => self.take(1).map(drop),
            0x95 => self.take(8).map(drop),
            b'(' => {
                self.heap.spend(1)?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.marked().map(drop),
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let n = self.number(4)? as u32;
                self.push(Value::Int(i64::from(n.cast_signed())))
            }
            b'K' => self.small(1),
            b'M' => self.small(2),
            b'I' | b'L' => self.decimal(),
            0x8a => self.length(1).and_then(|n| self.long(n)),
            0x8b => self.length(4).and_then(|n| self.long(n)),
            b'F' => self.line().and_then(|_| self.push(Value::Other)),
            b'G' => self.other(8),
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, and texts of Python 2.
            b'X' | b'T' => self.length(4).and_then(|n| self.text(n)),
            0x8c | b'U' => self.length(1).and_then(|n| self.text(n)),
            0x8d => self.length(8).and_then(|n| self.text(n)),
            // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8.
            b'B' => self.length(4).and_then(|n| self.other(n)),
            b'C' => self.length(1).and_then(|n| self.other(n)),
            0x8e | 0x96 => self.length(8).and_then(|n| self.other(n)),
            b'q' => self.number(1).and_then(|key| self.put(key as u32)),
            b'r' => self.number(4).and_then(|key| self.put(key as u32)),
            // MEMOIZE: under the next number.
            0x94 => self.put(self.memo.len() as u32),
            b'h' => self.number(1).and_then(|key| self.recall(key as u32)),
            b'j' => self.number(4).and_then(|key| self.recall(key as u32)),
            _ => self.build(opcode),
        }
    }

    fn small(&mut self, bytes: usize) -> Result<(), Problem> {
        let n = self.number(bytes)?;
        self.push(Value::Int(n as i64))
    }

    /// INT and LONG of the first protocol: digits, or `00` and `01` for a truth value, or with an L behind.
    fn decimal(&mut self) -> Result<(), Problem> {
        let value = match self.line()? {
            "00" => Value::Bool(false),
            "01" => Value::Bool(true),
            digits => digits.trim_end_matches('L').parse().map_or(Value::Other, Value::Int),
        };
        self.push(value)
    }

    /// Instructions that make values of values.
    fn build(&mut self, opcode: u8) -> Result<(), Problem> {
        match opcode {
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b')' => self.push(Value::Tuple(Vec::new())),
            // A set: its elements are no tensors with names.
            0x8f => self.push(Value::Other),
            0x90 => self.marked().map(drop),
            0x91 => self.marked().and_then(|_| self.push(Value::Other)),
            b't' => self.marked().and_then(|items| self.push(Value::Tuple(items))),
            b'l' => self.marked().and_then(|items| self.push(Value::List(items))),
            b'd' => {
                let pairs = rebuild::pairs(&self.marked()?)?;
                self.push(Value::Dict(pairs))
            }
            0x85 => self.tuple(1),
            0x86 => self.tuple(2),
            0x87 => self.tuple(3),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' => self.marked().and_then(|items| self.append(items)),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])
            }
            b'u' => self.marked().and_then(|items| self.set(&items)),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.heap.get(module), self.heap.get(name)) {
                    (&Value::Text(module), &Value::Text(name)) => self.global(module, name),
                    _ => Err(bad("has a name that is no text")),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = rebuild::storage(self.heap, id)?;
                self.heap.storages.push(storage);
                self.push(Value::Storage(storage))
            }
            // REDUCE and NEWOBJ: what the name above the arguments makes of them.
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let made = rebuild::reduce(self.heap, callable, arguments)?;
                self.push(made)
            }
            // BUILD: attributes, as a state dict has `_metadata`. No tensor's elements are in them.
            b'b' => {
                self.pop()?;
                match self.heap.get(self.top()?) {
                    Value::Dict(_) | Value::Tensor(_) | Value::Foreign => Ok(()),
                    _ => Err(bad("gives attributes to what has none")),
                }
            }
            other => {
                Err(Problem::file(format!("its pickle has the instruction 0x{other:02x}, which no checkpoint needs")))
            }
        }
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), Problem> {
        match self.heap.get_mut(self.stack.last().copied().ok_or_else(|| bad("has no list"))?) {
            Value::List(list) => list.extend(items),
            Value::Foreign => {}
            _ => return Err(bad("appends to what is no list")),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), Problem> {
        let pairs = rebuild::pairs(items)?;
        match self.heap.get_mut(self.stack.last().copied().ok_or_else(|| bad("has no dictionary"))?) {
            Value::Dict(dict) => dict.extend(pairs),
            Value::Foreign => {}
            _ => return Err(bad("sets a key of what is no dictionary")),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Problem> {
        if module.len().max(name.len()) > MOST_NAME {
            return Err(bad("has a name that is too long"));
        }
        let global = match rebuild::known(module, name) {
            Some(global) => global,
            None => {
                let full = format!("{}.{}", module.escape_default(), name.escape_default());
                if !self.skip_objects {
                    return Err(Problem::Code(full));
                }
                if !self.heap.skipped.contains(&full) && self.heap.skipped.len() < MOST_SKIPPED {
                    self.heap.skipped.push(full);
                }
                Global::Foreign
            }
        };
        self.push(Value::Global(global))
    }
}
