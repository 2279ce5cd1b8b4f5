//! Published results of captioners that were trained on no captions of the data set, from `data/published.csv`, which
//! names the paper of each system.

use crate::EvalError;
use crate::dataset::DataSet;
use std::path::Path;

/// A row of a published table.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The system.
    pub system: String,
    /// Of how many items.
    pub items: usize,
    /// Metrics by the names that they have here, in percent as papers print them.
    pub metrics: Vec<(String, f64)>,
    /// Where it was published.
    pub source: String,
}

/// The table itself.
const TABLE: &str = include_str!("../data/published.csv");

/// What was published of a split of a data set.
///
/// # Errors
/// If the table is broken, which a test finds.
pub fn published(data: DataSet, split: &str) -> Result<Vec<Published>, EvalError> {
    let failed = |e: csv::Error| EvalError::file(Path::new("published.csv"), e.to_string());
    let no_number = |value: &str| EvalError::file(Path::new("published.csv"), format!("`{value}` is no number"));
    let mut reader = csv::Reader::from_reader(TABLE.as_bytes());
    let head = reader.headers().map_err(failed)?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(failed)?;
        let mut row = Published { system: String::new(), items: 0, metrics: Vec::new(), source: String::new() };
        let mut wanted = true;
        for (column, value) in head.iter().zip(&record) {
            match column {
                "data" => wanted &= value == data.name(),
                "split" => wanted &= value == split,
                "system" => value.clone_into(&mut row.system),
                "source" => value.clone_into(&mut row.source),
                "items" => row.items = value.parse().map_err(|_| no_number(value))?,
                _ if value.is_empty() => {}
                _ => row.metrics.push((column.to_owned(), value.parse().map_err(|_| no_number(value))?)),
            }
        }
        if wanted {
            rows.push(row);
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_of_a_data_set_and_names_its_paper() {
        let all: usize = csv::Reader::from_reader(TABLE.as_bytes()).records().count();
        let mut found = 0;
        for data in DataSet::ALL {
            let rows = published(data, data.default_split()).unwrap();
            assert!(rows.iter().all(|r| r.source.starts_with("arXiv:") && !r.metrics.is_empty() && r.items > 0));
            found += rows.len();
        }
        assert_eq!(found, all, "rows of splits or data sets that there are not");
        let coco = published(DataSet::Coco, "test").unwrap();
        assert_eq!((&*coco[0].system, &coco[0].metrics[1]), ("MILS", &("cider".to_owned(), 33.3)));
        assert!(published(DataSet::Coco, "val").unwrap().is_empty());
    }
}
