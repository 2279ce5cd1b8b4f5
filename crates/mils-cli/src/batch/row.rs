//! What a table has of a file: in CSV and Parquet.

use anyhow::Result;
use csv::WriterBuilder;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The columns, in order.
pub(crate) const COLUMNS: [&str; 11] =
    ["file", "modality", "caption", "score", "steps", "stopped_by", "scorer", "generator", "pack", "seconds", "error"];

/// One file's row; the fields are the columns. Of a file that failed there may be the name and the error alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) file: String,
    pub(crate) modality: Option<String>,
    pub(crate) caption: Option<String>,
    /// Cosine.
    pub(crate) score: Option<f32>,
    pub(crate) steps: Option<i32>,
    pub(crate) stopped_by: Option<String>,
    pub(crate) scorer: Option<String>,
    pub(crate) generator: Option<String>,
    pub(crate) pack: Option<String>,
    /// From the file to the caption.
    pub(crate) seconds: Option<f64>,
    pub(crate) error: Option<String>,
}

impl Row {
    /// Of a result as JSON has it; `None` where it is none.
    pub(crate) fn of(result: &Value) -> Option<Self> {
        let word = |value: &Value| value.as_str().map(str::to_owned);
        let models = &result["models"];
        Some(Self {
            file: word(&result["file"])?,
            modality: word(&result["modality"]),
            caption: word(&result["caption"]),
            score: result["score"].as_f64().map(|score| score as f32),
            steps: result["steps"].as_i64().and_then(|steps| i32::try_from(steps).ok()),
            stopped_by: word(&result["stopped_by"]),
            scorer: word(&models["scorer"]),
            generator: word(&models["generator"]),
            pack: word(&models["pack"]),
            // A table is for reading: milliseconds are enough.
            seconds: result["seconds"]["total"].as_f64().map(|seconds| (seconds * 1e3).round() / 1e3),
            error: word(&result["error"]),
        })
    }

    /// As JSON has it, as far as a table does.
    pub(crate) fn result(&self) -> Value {
        fn known(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
        }
        let models =
            known([("pack", json!(self.pack)), ("scorer", json!(self.scorer)), ("generator", json!(self.generator))]);
        known([
            ("file", json!(self.file)),
            ("modality", json!(self.modality)),
            ("caption", json!(self.caption)),
            ("score", json!(self.score)),
            ("steps", json!(self.steps)),
            ("stopped_by", json!(self.stopped_by)),
            ("models", models),
            ("seconds", self.seconds.map_or(Value::Null, |total| json!({ "total": total }))),
            ("error", json!(self.error)),
        ])
    }

    /// Its line of CSV, with the end.
    pub(crate) fn csv(&self) -> Result<Vec<u8>> {
        let mut writer = WriterBuilder::new().has_headers(false).from_writer(Vec::new());
        writer.serialize(self)?;
        Ok(writer.into_inner().map_err(csv::IntoInnerError::into_error)?)
    }
}

/// The first line of CSV, with its end.
pub(crate) fn csv_head() -> String {
    COLUMNS.join(",") + "\n"
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Rows with everything and with little in them.
    pub(crate) fn rows() -> Vec<Row> {
        let word = |word: &str| Some(word.to_owned());
        vec![
            Row {
                file: "photos/a \"good\", old\none.jpg".into(),
                modality: word("image"),
                caption: word("a cat, on the grass"),
                score: Some(0.1),
                steps: Some(8),
                stopped_by: word("converged"),
                scorer: word("clip"),
                generator: word("llama"),
                pack: word("demo"),
                seconds: Some(1.234),
                error: None,
            },
            Row { file: "ö.png".into(), error: word("it is empty"), ..Row::default() },
        ]
    }

    #[test]
    fn rows_become_results_and_csv_and_rows_again() {
        let mut text = csv_head().into_bytes();
        for row in rows() {
            assert_eq!(Row::of(&row.result()).unwrap(), row);
            text.extend(row.csv().unwrap());
        }
        let mut reader = csv::Reader::from_reader(&text[..]);
        let read: Vec<Row> = reader.deserialize().map(Result::unwrap).collect();
        assert_eq!(read, rows());
        let names = serde_json::to_value(&rows()[0]).unwrap();
        assert!(names.as_object().unwrap().len() == COLUMNS.len() && COLUMNS.iter().all(|c| names.get(c).is_some()));
        assert!(Row::of(&json!({"caption": "of no file"})).is_none());
    }
}
