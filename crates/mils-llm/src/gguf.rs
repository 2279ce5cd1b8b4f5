//! The few figures of a GGUF file that llama.cpp asserts instead of refusing, checked before it sees them: an
//! assertion over there ends the process.
//!
//! What llama.cpp refuses by itself (extents, shapes, most types) is left to it. The format is described in ggml's
//! `docs/gguf.md`.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Seek};

/// llama.cpp's `LLAMA_MAX_LAYERS` and `LLAMA_MAX_EXPERTS`.
const MOST_LAYERS: f64 = 512.0;
const MOST_EXPERTS: f64 = 512.0;
/// F32, F16 and BF16: norms and biases are added and multiplied as they are, never unpacked.
const VECTOR_TYPES: [u32; 3] = [0, 1, 30];
/// Longer keys are refused by llama.cpp too; longer tokens are in no vocabulary.
const LONGEST_KEY: u64 = 65_535;
const ROPE_SCALINGS: [&str; 4] = ["none", "linear", "yarn", "longrope"];

/// Says what is wrong with a file that llama.cpp might not survive. Returns its architecture.
pub(crate) fn check<R: Read + Seek>(file: &mut R) -> Result<String, String> {
    let mut magic = [0; 4];
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == b"GGUF" => {}
        Ok(()) => return Err("not a GGUF file".into()),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err("not a GGUF file: it is too short".into()),
        Err(e) => return Err(e.to_string()),
    }
    let metadata = Metadata::read(file).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => "the file ends within its header; get it again".to_owned(),
        _ => format!("a damaged header ({e}); get it again"),
    })?;
    metadata.judge()?;
    metadata.judge_vocabulary()?;
    Ok(metadata.architecture)
}

/// The metadata that are single numbers, a few that are texts, and what there is to know of the vocabulary.
#[derive(Default)]
struct Metadata {
    architecture: String,
    tokenizer: String,
    rope_scaling: String,
    numbers: HashMap<String, f64>,
    /// A token that is there twice.
    repeated: Option<String>,
    /// Which of the 256 byte tokens `<0x00>` to `<0xFF>` are there, or the byte itself.
    bytes: HashSet<u8>,
}

impl Metadata {
    fn read<R: Read + Seek>(file: &mut R) -> io::Result<Self> {
        let mut out = Self::default();
        let _version = u32_of(file)?;
        let tensors = u64_of(file)?;
        for _ in 0..u64_of(file)? {
            let key = text(file)?;
            match u32_of(file)? {
                8 if key == "general.architecture" => out.architecture = text(file)?,
                8 if key == "tokenizer.ggml.model" => out.tokenizer = text(file)?,
                8 if key.ends_with(".rope.scaling.type") => out.rope_scaling = text(file)?,
                8 => skip(file, 1)?,
                9 if key == "tokenizer.ggml.tokens" => out.read_tokens(file)?,
                9 => skip_array(file)?,
                kind => {
                    out.numbers.insert(key, number(file, kind)?);
                }
            }
        }
        for _ in 0..tensors {
            let name = text(file)?;
            let dimensions = u32_of(file)?;
            forward(file, u64::from(dimensions) * 8)?;
            let (kind, _offset) = (u32_of(file)?, u64_of(file)?);
            if dimensions == 1 && !VECTOR_TYPES.contains(&kind) {
                return Err(io::Error::other(format!("`{name}` has one dimension and the type {kind}")));
            }
        }
        Ok(out)
    }

    fn read_tokens<R: Read + Seek>(&mut self, file: &mut R) -> io::Result<()> {
        let (kind, count) = (u32_of(file)?, u64_of(file)?);
        if kind != 8 {
            return forward(file, count.saturating_mul(size(kind)?));
        }
        let mut seen = HashSet::new();
        for i in 0..count {
            let token = match bytes_of(file)? {
                // What llama.cpp makes of it.
                empty if empty.is_empty() => format!("[EMPTY_{i}]").into_bytes(),
                token => token,
            };
            let hex = token.strip_prefix(b"<0x").and_then(|t| t.strip_suffix(b">")).filter(|t| t.len() == 2);
            let hex = hex.and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
            match token[..] {
                [byte] => self.bytes.extend([byte]),
                _ => self.bytes.extend(hex),
            }
            if self.repeated.is_none() && seen.contains(&token) {
                self.repeated = Some(String::from_utf8_lossy(&token).into_owned());
            }
            seen.insert(token);
        }
        Ok(())
    }

    fn judge_vocabulary(&self) -> Result<(), String> {
        if self.tokenizer.is_empty() || ["none", "no_vocab"].contains(&self.tokenizer.as_str()) {
            return Err("has no tokenizer; use a chat model's GGUF file".into());
        }
        if let Some(token) = &self.repeated {
            return Err(format!("the token {token:?} is in its vocabulary twice; the file is damaged, get it again"));
        }
        // What this tokenizer cannot write in pieces it writes in bytes, and ends the process where it cannot.
        if self.tokenizer == "llama" && self.bytes.len() < 256 {
            return Err("its vocabulary cannot write every byte; it needs the tokens <0x00> to <0xFF>".into());
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        let number = |name: &str| self.numbers.get(&format!("{}.{name}", self.architecture)).copied();
        let wrong = |name: &str, found: f64, expected: &str| {
            let architecture = &self.architecture;
            Err(format!("`{architecture}.{name}` is {found}; expected {expected}; the file is damaged, get it again"))
        };
        if let Some(layers) = number("block_count").filter(|n| !(1.0..=MOST_LAYERS).contains(n)) {
            return wrong("block_count", layers, "1 to 512");
        }
        for name in ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"] {
            if let Some(epsilon) = number(name).filter(|e| !(0.0..1.0).contains(e)) {
                return wrong(name, epsilon, "0 to 1");
            }
        }
        let experts = number("expert_count").unwrap_or(0.0);
        if experts > MOST_EXPERTS {
            return wrong("expert_count", experts, "at most 512");
        }
        // Given layer by layer it is no single number, and not looked at.
        if let Some(used) = number("expert_used_count").filter(|&u| u > experts || (experts > 0.0 && u < 1.0)) {
            return wrong("expert_used_count", used, &format!("1 to the expert_count of {experts}"));
        }
        let groups = number("expert_group_count").unwrap_or(0.0);
        if groups > 0.0 && (groups >= experts || experts % groups != 0.0) {
            return wrong("expert_group_count", groups, &format!("a divisor of the expert_count of {experts}"));
        }
        let group_used = number("expert_group_used_count").unwrap_or(0.0);
        if groups > 1.0 && !(group_used >= 1.0 && group_used < groups) {
            return wrong("expert_group_used_count", group_used, &format!("1 to less than {groups}"));
        }
        let layers = number("block_count").unwrap_or(MOST_LAYERS);
        if let Some(next) = number("nextn_predict_layers").filter(|&n| n > layers) {
            return wrong("nextn_predict_layers", next, &format!("at most the block_count of {layers}"));
        }
        if !self.rope_scaling.is_empty() && !ROPE_SCALINGS.contains(&self.rope_scaling.as_str()) {
            let (found, known) = (&self.rope_scaling, ROPE_SCALINGS.join(", "));
            return Err(format!("`rope.scaling.type` is {found:?}; expected one of {known}; the file is damaged"));
        }
        Ok(())
    }
}

fn bytes<const N: usize, R: Read>(file: &mut R) -> io::Result<[u8; N]> {
    let mut out = [0; N];
    file.read_exact(&mut out)?;
    Ok(out)
}

fn u32_of<R: Read>(file: &mut R) -> io::Result<u32> {
    bytes(file).map(u32::from_le_bytes)
}

fn u64_of<R: Read>(file: &mut R) -> io::Result<u64> {
    bytes(file).map(u64::from_le_bytes)
}

fn text<R: Read>(file: &mut R) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&bytes_of(file)?).into_owned())
}

fn bytes_of<R: Read>(file: &mut R) -> io::Result<Vec<u8>> {
    let length = u64_of(file)?;
    if length > LONGEST_KEY {
        return Err(io::Error::other(format!("a text of {length} bytes")));
    }
    let mut out = vec![0; length as usize];
    file.read_exact(&mut out)?;
    Ok(out)
}

/// Passes over `count` strings.
fn skip<R: Read + Seek>(file: &mut R, count: u64) -> io::Result<()> {
    for _ in 0..count {
        let length = u64_of(file)?;
        forward(file, length)?;
    }
    Ok(())
}

fn skip_array<R: Read + Seek>(file: &mut R) -> io::Result<()> {
    let (kind, count) = (u32_of(file)?, u64_of(file)?);
    if kind == 8 { skip(file, count) } else { forward(file, count.saturating_mul(size(kind)?)) }
}

/// Seeks ahead. Behind the end is no error here; the next read is.
fn forward<R: Seek>(file: &mut R, length: u64) -> io::Result<()> {
    let length = i64::try_from(length).map_err(|_| io::Error::other(format!("a length of {length} bytes")))?;
    file.seek_relative(length)
}

/// Bytes of a number of this GGUF type.
fn size(kind: u32) -> io::Result<u64> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        other => Err(io::Error::other(format!("a value of the unknown type {other}"))),
    }
}

fn number<R: Read>(file: &mut R, kind: u32) -> io::Result<f64> {
    Ok(match kind {
        0 | 7 => f64::from(bytes::<1, _>(file)?[0]),
        1 => f64::from(i8::from_le_bytes(bytes(file)?)),
        2 => f64::from(u16::from_le_bytes(bytes(file)?)),
        3 => f64::from(i16::from_le_bytes(bytes(file)?)),
        4 => f64::from(u32_of(file)?),
        5 => f64::from(i32::from_le_bytes(bytes(file)?)),
        6 => f64::from(f32::from_le_bytes(bytes(file)?)),
        10 => u64_of(file)? as f64,
        11 => i64::from_le_bytes(bytes(file)?) as f64,
        12 => f64::from_le_bytes(bytes(file)?),
        other => return Err(io::Error::other(format!("a value of the unknown type {other}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A header with these figures and one tensor, a vector of this type.
    fn file_with(numbers: &[(&str, f32)], kind: u32) -> Vec<u8> {
        file_of(&[("tokenizer.ggml.model", "gpt2")], &["a", "bc"], numbers, kind)
    }

    fn file_of(texts: &[(&str, &str)], tokens: &[&str], numbers: &[(&str, f32)], kind: u32) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        let string = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        out.extend(3_u32.to_le_bytes());
        out.extend(1_u64.to_le_bytes());
        out.extend(((numbers.len() + texts.len()) as u64 + 3).to_le_bytes());
        for (key, value) in [("general.architecture", "llama"), ("general.name", "n")].iter().chain(texts) {
            string(&mut out, key);
            out.extend(8_u32.to_le_bytes());
            string(&mut out, value);
        }
        string(&mut out, "tokenizer.ggml.tokens");
        out.extend(9_u32.to_le_bytes());
        out.extend(8_u32.to_le_bytes());
        out.extend((tokens.len() as u64).to_le_bytes());
        for token in tokens {
            string(&mut out, token);
        }
        for (key, value) in numbers {
            string(&mut out, key);
            out.extend(6_u32.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        string(&mut out, "norm");
        out.extend(1_u32.to_le_bytes());
        out.extend(8_u64.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(0_u64.to_le_bytes());
        out
    }

    fn file(numbers: &[(&str, f32)]) -> Vec<u8> {
        file_with(numbers, 0)
    }

    fn verdict(bytes: &[u8]) -> Result<String, String> {
        check(&mut Cursor::new(bytes))
    }

    #[test]
    fn figures_that_llama_cpp_asserts_are_errors() {
        assert_eq!(verdict(&file(&[("llama.block_count", 5.0), ("other.block_count", 0.0)])), Ok("llama".into()));
        let (layers, epsilon) = ("llama.block_count", "llama.attention.layer_norm_rms_epsilon");
        let bad =
            [(layers, 0.0), (layers, 1e9), (epsilon, f32::NAN), (epsilon, -1.0), ("llama.expert_used_count", 2.0)];
        for (key, value) in bad {
            let problem = verdict(&file(&[(key, value)])).unwrap_err();
            assert!(problem.contains(key) && !problem.contains('\n'), "{problem}");
        }
        assert!(verdict(&file_with(&[], 2)).unwrap_err().contains("`norm`"));
        let experts = |more: &[(&str, f32)]| {
            let all = [&[("llama.expert_count", 8.0), ("llama.expert_used_count", 2.0)][..], more].concat();
            verdict(&file(&all))
        };
        let (groups, used) = ("llama.expert_group_count", "llama.expert_group_used_count");
        assert_eq!(experts(&[]).as_deref(), Ok("llama"));
        assert_eq!(experts(&[(groups, 4.0), (used, 2.0)]).as_deref(), Ok("llama"));
        assert!(experts(&[(groups, 3.0), (used, 2.0)]).unwrap_err().contains(groups));
        assert!(experts(&[(groups, 4.0), (used, 4.0)]).unwrap_err().contains(used));
        let next = verdict(&file(&[(layers, 5.0), ("llama.nextn_predict_layers", 6.0)]));
        assert!(next.unwrap_err().contains("nextn_predict_layers"));
    }

    #[test]
    fn vocabularies_that_llama_cpp_asserts_are_errors() {
        let of = |model: &str, tokens: &[&str]| verdict(&file_of(&[("tokenizer.ggml.model", model)], tokens, &[], 0));
        assert!(of("gpt2", &["a", "b", "a"]).unwrap_err().contains("\"a\" is in its vocabulary twice"));
        assert_eq!(of("gpt2", &["", "", "a"]).as_deref(), Ok("llama"));
        assert!(of("gpt2", &["", "[EMPTY_0]"]).unwrap_err().contains("twice"));
        assert!(of("none", &["a"]).unwrap_err().contains("no tokenizer"));
        assert!(of("llama", &["a"]).unwrap_err().contains("<0xFF>"));
        let bytes: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(of("llama", &bytes).as_deref(), Ok("llama"));
        assert!(of("llama", &bytes[1..]).is_err());
        let scaling = file_of(&[("tokenizer.ggml.model", "gpt2"), ("llama.rope.scaling.type", "x")], &["a"], &[], 0);
        assert!(verdict(&scaling).unwrap_err().contains("rope.scaling.type"));
    }

    #[test]
    fn a_header_cut_anywhere_or_overwritten_anywhere_does_no_harm() {
        let whole = file(&[("llama.block_count", 5.0)]);
        for end in 0..whole.len() {
            assert!(verdict(&whole[..end]).is_err(), "{end}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] = 0xff;
            // Any verdict is right, as long as there is one.
            let _ = verdict(&changed);
        }
    }
}
