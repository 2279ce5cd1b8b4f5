//! Results as Parquet: a file that is written whole, since it cannot be added to.

use super::row::{COLUMNS, Row};
use anyhow::{Context, Result, anyhow};
use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::record::Field;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

/// Rows that are held in memory together, and read together by others.
const GROUP: usize = 1 << 16;

/// The columns of [`Row`] in Parquet's own words.
const SCHEMA: &str = "message captions {
    REQUIRED BYTE_ARRAY file (UTF8);
    OPTIONAL BYTE_ARRAY modality (UTF8);
    OPTIONAL BYTE_ARRAY caption (UTF8);
    OPTIONAL FLOAT score;
    OPTIONAL INT32 steps;
    OPTIONAL BYTE_ARRAY stopped_by (UTF8);
    OPTIONAL BYTE_ARRAY scorer (UTF8);
    OPTIONAL BYTE_ARRAY generator (UTF8);
    OPTIONAL BYTE_ARRAY pack (UTF8);
    OPTIONAL DOUBLE seconds;
    OPTIONAL BYTE_ARRAY error (UTF8);
}";

/// Writes rows as they come; the file is good after [`Table::finish`].
pub(crate) struct Table<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    group: Vec<Row>,
}

impl<W: Write + Send> Table<W> {
    pub(crate) fn begin(out: W) -> Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("mils ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        Ok(Self { writer: SerializedFileWriter::new(out, schema, Arc::new(properties))?, group: Vec::new() })
    }

    pub(crate) fn write(&mut self, row: Row) -> Result<()> {
        self.group.push(row);
        if self.group.len() == GROUP { self.end_of_group() } else { Ok(()) }
    }

    fn end_of_group(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.group);
        let mut group = self.writer.next_row_group()?;
        for name in COLUMNS {
            column(&mut group, name, &rows)?;
        }
        group.close()?;
        Ok(())
    }

    /// Writes the end, and gives back where it was written to.
    pub(crate) fn finish(mut self) -> Result<W> {
        if !self.group.is_empty() {
            self.end_of_group()?;
        }
        Ok(self.writer.into_inner()?)
    }
}

fn column<W: Write + Send>(group: &mut SerializedRowGroupWriter<'_, W>, name: &str, rows: &[Row]) -> Result<()> {
    let mut column = group.next_column()?.context("a table with too few columns")?;
    let words = |of: fn(&Row) -> Option<&String>| {
        there(rows, |row| of(row).map(|word| ByteArray::from(word.clone().into_bytes())))
    };
    match (column.untyped(), name) {
        (ColumnWriter::ByteArrayColumnWriter(to), "file") => {
            let files: Vec<_> = rows.iter().map(|row| ByteArray::from(row.file.clone().into_bytes())).collect();
            to.write_batch(&files, None, None)?;
        }
        (ColumnWriter::ByteArrayColumnWriter(to), _) => {
            let (values, levels) = words(match name {
                "modality" => |row| row.modality.as_ref(),
                "caption" => |row| row.caption.as_ref(),
                "stopped_by" => |row| row.stopped_by.as_ref(),
                "scorer" => |row| row.scorer.as_ref(),
                "generator" => |row| row.generator.as_ref(),
                "pack" => |row| row.pack.as_ref(),
                _ => |row| row.error.as_ref(),
            });
            to.write_batch(&values, Some(&levels), None)?;
        }
        (ColumnWriter::FloatColumnWriter(to), _) => {
            let (values, levels) = there(rows, |row| row.score);
            to.write_batch(&values, Some(&levels), None)?;
        }
        (ColumnWriter::Int32ColumnWriter(to), _) => {
            let (values, levels) = there(rows, |row| row.steps);
            to.write_batch(&values, Some(&levels), None)?;
        }
        (ColumnWriter::DoubleColumnWriter(to), _) => {
            let (values, levels) = there(rows, |row| row.seconds);
            to.write_batch(&values, Some(&levels), None)?;
        }
        _ => return Err(anyhow!("the column {name} is of no type that is written")),
    }
    column.close()?;
    Ok(())
}

/// The values that are there, and of each row whether it has one.
fn there<T>(rows: &[Row], of: impl Fn(&Row) -> Option<T>) -> (Vec<T>, Vec<i16>) {
    let levels = rows.iter().map(|row| i16::from(of(row).is_some())).collect();
    (rows.iter().filter_map(of).collect(), levels)
}

/// Reads what [`Table`] has written, or somebody has changed since; columns of others are passed over.
pub(crate) fn read(file: File, take: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let reader = SerializedFileReader::new(file)?;
    for record in reader.get_row_iter(None)? {
        let mut row = Row::default();
        for (name, field) in record?.get_column_iter() {
            match (name.as_str(), field) {
                ("file", Field::Str(word)) => row.file.clone_from(word),
                ("modality", Field::Str(word)) => row.modality = Some(word.clone()),
                ("caption", Field::Str(word)) => row.caption = Some(word.clone()),
                ("score", Field::Float(score)) => row.score = Some(*score),
                ("steps", Field::Int(steps)) => row.steps = Some(*steps),
                ("stopped_by", Field::Str(word)) => row.stopped_by = Some(word.clone()),
                ("scorer", Field::Str(word)) => row.scorer = Some(word.clone()),
                ("generator", Field::Str(word)) => row.generator = Some(word.clone()),
                ("pack", Field::Str(word)) => row.pack = Some(word.clone()),
                ("seconds", Field::Double(seconds)) => row.seconds = Some(*seconds),
                ("error", Field::Str(word)) => row.error = Some(word.clone()),
                _ => {}
            }
        }
        take(row)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::rows;
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.parquet");
        for count in [0, 1, 2, GROUP + 1] {
            let wanted: Vec<Row> = rows().into_iter().cycle().take(count).collect();
            let mut table = Table::begin(File::create(&path).unwrap()).unwrap();
            wanted.iter().for_each(|row| table.write(row.clone()).unwrap());
            table.finish().unwrap();
            let mut found = Vec::new();
            read(File::open(&path).unwrap(), &mut |row| {
                found.push(row);
                Ok(())
            })
            .unwrap();
            assert!(found == wanted, "{count}");
        }
        std::fs::write(&path, "no table").unwrap();
        assert!(read(File::open(&path).unwrap(), &mut |_| Ok(())).is_err());
    }
}
