//! ComfyUI's workflows: a graph of nodes in which a prompt, a seed and so on have their places.

use crate::{Job, RenderError};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Places in a workflow: how they are called in placeholders and titles.
const PLACES: [&str; 9] = ["prompt", "negative", "seed", "width", "height", "steps", "guidance", "strength", "source"];
/// Inputs that the places have in ComfyUI's own nodes, for nodes that are named by their titles.
const INPUTS: [(&str, &[&str]); 9] = [
    ("prompt", &["text", "prompt", "value", "string"]),
    ("negative", &["text", "prompt", "value", "string"]),
    ("seed", &["seed", "noise_seed", "value"]),
    ("width", &["width", "value"]),
    ("height", &["height", "value"]),
    ("steps", &["steps", "value"]),
    ("guidance", &["cfg", "guidance", "value"]),
    ("strength", &["denoise", "value"]),
    ("source", &["image"]),
];
/// A file that is larger is none.
const MOST_BYTES: u64 = 16 << 20;

/// A workflow in ComfyUI's API format ("Export (API)"), with places to fill in.
///
/// A place is a string `{{prompt}}` anywhere in an input (`{{negative}}`, `{{seed}}`, `{{width}}`, `{{height}}`,
/// `{{steps}}`, `{{guidance}}`, `{{strength}}`, `{{source}}`; a string that is nothing but a placeholder of a number
/// becomes a number), or a node with the title `mils:prompt`, whose input for it is then set; several with commas, as
/// `mils:seed,steps,guidance`. What has no place cannot be asked for.
#[derive(Clone, Debug)]
pub struct Workflow {
    path: PathBuf,
    nodes: Map<String, Value>,
    places: Vec<&'static str>,
}

impl Workflow {
    /// Reads a workflow's file.
    ///
    /// # Errors
    /// If it cannot be read, is in another format, or has no place for a prompt.
    pub fn read(path: &Path) -> Result<Self, RenderError> {
        let wrong = |problem: String| RenderError::Workflow { path: path.to_owned(), problem };
        let meta = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?;
        if !meta.is_file() || meta.len() > MOST_BYTES {
            return Err(wrong("is no workflow's file".into()));
        }
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, RenderError> {
        let wrong = |problem: String| RenderError::Workflow { path: path.to_owned(), problem };
        let value: Value = serde_json::from_str(text).map_err(|e| wrong(format!("is no JSON: {e}")))?;
        let api = "export it with \"Export (API)\" (in older versions \"Save (API Format)\", once the dev mode is on)";
        if value.get("nodes").is_some_and(Value::is_array) {
            return Err(wrong(format!("is a workflow of the editor, not of the API; {api}")));
        }
        let Value::Object(nodes) = value else { return Err(wrong(format!("is no workflow; {api}"))) };
        if nodes.is_empty() || nodes.values().any(|node| !node["class_type"].is_string()) {
            return Err(wrong(format!("has nodes without a class_type; {api}")));
        }
        for (id, node) in &nodes {
            for place in titled(node) {
                let Some(known) = PLACES.iter().find(|known| **known == place) else {
                    let known = PLACES.join(", ");
                    return Err(wrong(format!("node {id} is titled mils:{place}; known are {known}")));
                };
                if input(node, known).is_none() {
                    let inputs = inputs_of(known).join(", ");
                    return Err(wrong(format!("node {id} is titled mils:{place} and has no input {inputs}")));
                }
            }
        }
        let marks = text_of(&nodes);
        let has = |place: &&&str| {
            marks.iter().any(|text| text.contains(&mark(place)))
                || nodes.values().any(|node| titled(node).any(|titled| titled == **place))
        };
        let places: Vec<&'static str> = PLACES.iter().filter(has).copied().collect();
        if !places.contains(&"prompt") {
            let how = "write {{prompt}} where it belongs, or give that node the title mils:prompt";
            return Err(wrong(format!("has no place for the prompt; {how}")));
        }
        Ok(Self { path: path.to_owned(), nodes, places })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a place for something.
    pub(crate) fn has(&self, place: &str) -> bool {
        self.places.contains(&place)
    }

    /// The nodes alone, as text: what makes the same pictures.
    pub(crate) fn text(&self) -> String {
        Value::Object(self.nodes.clone()).to_string()
    }

    /// The nodes with a job in their places; `source` is what the server calls the picture that is edited.
    pub(crate) fn filled(&self, job: &Job<'_>, source: Option<&str>) -> Value {
        let number = |value: Option<f32>| value.map(|v| Value::from(f64::from(v)));
        let of = |place: &str| -> Option<Value> {
            match place {
                "prompt" => Some(job.prompt.into()),
                "negative" => Some(job.negative.unwrap_or_default().into()),
                "seed" => Some(job.seed.into()),
                "width" => Some(job.width.into()),
                "height" => Some(job.height.into()),
                "steps" => job.steps.map(Into::into),
                "guidance" => number(job.guidance),
                "strength" => number(job.source.and_then(|source| source.strength)),
                _ => source.map(Into::into),
            }
        };
        let mut nodes = self.nodes.clone();
        for node in nodes.values_mut() {
            // Before the titles: what a prompt says is no placeholder.
            fill(&mut node["inputs"], &of);
            let titled: Vec<String> = titled(node).map(str::to_owned).collect();
            for place in titled {
                let Some(value) = of(&place) else { continue };
                let Some(name) = input(node, &place) else { continue };
                node["inputs"][name] = value;
            }
        }
        Value::Object(nodes)
    }

    /// Places whose values a job leaves to the renderer, and that have none of their own: placeholders have nothing
    /// that could stand there.
    pub(crate) fn open(&self, job: &Job<'_>) -> Option<&'static str> {
        let left = [
            ("steps", job.steps.is_none()),
            ("guidance", job.guidance.is_none()),
            ("strength", job.source.is_none_or(|source| source.strength.is_none())),
        ];
        let marks = text_of(&self.nodes);
        let open = |place: &str| marks.iter().any(|text| text.contains(&mark(place)));
        left.into_iter().find(|(place, left)| *left && open(place)).map(|(place, _)| place)
    }
}

fn mark(place: &str) -> String {
    format!("{{{{{place}}}}}")
}

/// The places that a node's title names.
fn titled(node: &Value) -> impl Iterator<Item = &str> {
    let title = node.pointer("/_meta/title").and_then(Value::as_str).unwrap_or_default();
    let places = title.trim().strip_prefix("mils:").unwrap_or_default();
    places.split(',').map(str::trim).filter(|place| !place.is_empty())
}

fn inputs_of(place: &str) -> &'static [&'static str] {
    INPUTS.iter().find(|(name, _)| *name == place).map_or(&[], |(_, inputs)| inputs)
}

/// The input of a node that a place is.
fn input(node: &Value, place: &str) -> Option<&'static str> {
    inputs_of(place).iter().find(|name| node["inputs"].get(**name).is_some()).copied()
}

/// All strings in the inputs.
fn text_of(nodes: &Map<String, Value>) -> Vec<&str> {
    fn gather<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
        match value {
            Value::String(text) => out.push(text),
            Value::Array(all) => all.iter().for_each(|value| gather(value, out)),
            Value::Object(all) => all.values().for_each(|value| gather(value, out)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    nodes.values().for_each(|node| gather(&node["inputs"], &mut out));
    out
}

/// Puts values in the place of placeholders. A prompt that looks like a placeholder stays what it is.
fn fill(value: &mut Value, of: &dyn Fn(&str) -> Option<Value>) {
    match value {
        Value::String(text) => {
            if let Some(whole) = PLACES.iter().find(|place| *text == mark(place)).and_then(|place| of(place)) {
                *value = whole;
                return;
            }
            let (mut out, mut rest) = (String::new(), text.as_str());
            while let Some((before, after)) = rest.split_once("{{") {
                out += before;
                let found = after.split_once("}}").and_then(|(name, after)| Some((of_known(name, of)?, after)));
                match found {
                    Some((value, after)) => {
                        out += &value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                        rest = after;
                    }
                    None => {
                        out += "{{";
                        rest = after;
                    }
                }
            }
            *text = out + rest;
        }
        Value::Array(all) => all.iter_mut().for_each(|value| fill(value, of)),
        Value::Object(all) => all.values_mut().for_each(|value| fill(value, of)),
        _ => {}
    }
}

fn of_known(name: &str, of: &dyn Fn(&str) -> Option<Value>) -> Option<Value> {
    PLACES.contains(&name).then(|| of(name)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<Workflow, String> {
        Workflow::parse(Path::new("w.json"), &value.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn placeholders_and_titles_are_filled() {
        let workflow = parse(&json!({
            "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "{{prompt}}, best quality {{x}}", "clip": ["4", 1]}},
            "2": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 20, "cfg": 8.0, "denoise": 1},
                  "_meta": {"title": "mils:seed,steps,guidance"}},
            "3": {"class_type": "EmptyLatentImage", "inputs": {"width": "{{width}}", "height": "{{height}}"}},
        }))
        .unwrap();
        assert!(["prompt", "seed", "steps", "guidance", "width"].iter().all(|place| workflow.has(place)));
        assert!(!workflow.has("source") && !workflow.has("negative"));
        let job = Job { seed: u64::MAX, steps: Some(4), width: 640, ..Job::new("a {{seed}} \"cat\"") };
        let filled = workflow.filled(&job, None);
        assert_eq!(filled["1"]["inputs"]["text"], "a {{seed}} \"cat\", best quality {{x}}");
        assert_eq!(filled["2"]["inputs"], json!({"seed": u64::MAX, "steps": 4, "cfg": 8.0, "denoise": 1}));
        assert_eq!(filled["3"]["inputs"], json!({"width": 640, "height": 512}));
        assert_eq!(workflow.open(&job), None, "nodes with titles have values of their own");
    }

    #[test]
    fn what_is_no_workflow_says_what_to_do() {
        let text =
            |inputs: Value, title: &str| json!({"1": {"class_type": "A", "inputs": inputs, "_meta": {"title": title}}});
        for (value, says) in [
            (json!({"nodes": [], "links": []}), "Export (API)"),
            (json!([]), "is no workflow"),
            (json!({"1": {}}), "class_type"),
            (text(json!({"text": "fixed"}), ""), "no place for the prompt"),
            (text(json!({"text": "fixed"}), "mils:prompts"), "known are prompt"),
            (text(json!({"words": "fixed"}), "mils:prompt"), "has no input text"),
        ] {
            let problem = parse(&value).unwrap_err();
            assert!(problem.starts_with("w.json: ") && problem.contains(says), "{problem}");
        }
        let open = parse(&text(json!({"text": "{{prompt}}", "steps": "{{steps}}"}), "")).unwrap();
        assert_eq!(open.open(&Job::new("x")), Some("steps"));
    }
}
