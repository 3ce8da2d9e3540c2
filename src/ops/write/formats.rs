//! The formats of `write`.

use crate::exec::RunError;
use crate::ops::rows::{arrow_failed, nested_as_json};
use crate::store::io_error;
use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder as CsvBuilder;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::json::writer::{LineDelimited, WriterBuilder as JsonBuilder};
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The names of formats, which are their extensions as well.
pub const FORMATS: &[&str; 5] = &["parquet", "jsonl", "json", "csv", "arrow"];

/// Level of Zstandard, in Parquet and around text: the library's own middle way.
const ZSTD_LEVEL: i32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Parquet,
    Jsonl,
    Json,
    Csv,
    Arrow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrap {
    Plain,
    Gzip,
    Zstd,
}

/// A format and the compression around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    format: Format,
    wrap: Wrap,
}

impl Form {
    /// By the path's extensions; `named` overrides the format.
    pub fn new(path: &str, named: Option<&str>) -> Result<Self, String> {
        let lower = path.to_lowercase();
        let (rest, wrap) = match lower.rsplit_once('.') {
            Some((rest, "gz")) => (rest, Wrap::Gzip),
            Some((rest, "zst")) => (rest, Wrap::Zstd),
            _ => (lower.as_str(), Wrap::Plain),
        };
        let extension = rest.rsplit_once('.').map_or("", |(_, e)| e);
        let format = match named.unwrap_or(extension) {
            "parquet" => Format::Parquet,
            "jsonl" | "ndjson" => Format::Jsonl,
            "json" => Format::Json,
            "csv" => Format::Csv,
            "arrow" => Format::Arrow,
            _ => return Err(format!("the extension of `{path}` names no format")),
        };
        if wrap != Wrap::Plain && matches!(format, Format::Parquet | Format::Arrow) {
            return Err(format!("`{path}` would be compressed twice: Parquet and Arrow files are compressed inside"));
        }
        Ok(Self { format, wrap })
    }

    /// The format's name.
    pub fn name(self) -> &'static str {
        match self.format {
            Format::Parquet => "parquet",
            Format::Jsonl => "jsonl",
            Format::Json => "json",
            Format::Csv => "csv",
            Format::Arrow => "arrow",
        }
    }
}

/// Text, compressed on its way to the file.
enum TextFile {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
    Zstd(zstd::Encoder<'static, BufWriter<File>>),
}

impl TextFile {
    fn finish(self) -> io::Result<()> {
        let mut file = match self {
            Self::Plain(file) => file,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        file.flush()
    }
}

impl Write for TextFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

enum Inner {
    Parquet(Box<ArrowWriter<BufWriter<File>>>),
    Arrow(Box<FileWriter<BufWriter<File>>>),
    Json { text: TextFile, array: bool, started: bool },
    Csv { text: TextFile, schema: SchemaRef },
}

/// Writes rows in one of the formats.
pub struct RowWriter {
    path: PathBuf,
    inner: Inner,
}

impl RowWriter {
    /// Creates the file, and the folders above it.
    pub fn create(path: &Path, form: Form, schema: &SchemaRef) -> Result<Self, RunError> {
        let failed = |e: io::Error| io_error("write", path, &e);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = BufWriter::with_capacity(1 << 16, File::create(path).map_err(failed)?);
        let text = |file| -> io::Result<TextFile> {
            Ok(match form.wrap {
                Wrap::Plain => TextFile::Plain(file),
                Wrap::Gzip => TextFile::Gzip(GzEncoder::new(file, flate2::Compression::default())),
                Wrap::Zstd => TextFile::Zstd(zstd::Encoder::new(file, ZSTD_LEVEL)?),
            })
        };
        let inner = match form.format {
            Format::Parquet => {
                let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(|e| parquet_failed(path, e))?;
                let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
                let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties));
                Inner::Parquet(Box::new(writer.map_err(|e| parquet_failed(path, e))?))
            }
            Format::Arrow => {
                let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD));
                let writer = options.and_then(|o| FileWriter::try_new_with_options(file, schema, o));
                Inner::Arrow(Box::new(writer.map_err(|e| failed_at(path, e))?))
            }
            Format::Jsonl => Inner::Json { text: text(file).map_err(failed)?, array: false, started: false },
            Format::Json => Inner::Json { text: text(file).map_err(failed)?, array: true, started: false },
            Format::Csv => {
                let schema = flat_schema(schema);
                let mut text = text(file).map_err(failed)?;
                let header = RecordBatch::new_empty(schema.clone());
                let mut csv = CsvBuilder::new().with_header(true).build(&mut text);
                csv.write(&header).map_err(|e| failed_at(path, e))?;
                drop(csv);
                Inner::Csv { text, schema }
            }
        };
        Ok(Self { path: path.to_path_buf(), inner })
    }

    /// Writes rows. The bytes of Parquet and Arrow files depend on how rows are grouped here.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), RunError> {
        let path = &self.path;
        match &mut self.inner {
            Inner::Parquet(writer) => {
                let written = writer.write(batch).and_then(|()| writer.flush());
                written.map_err(|e| parquet_failed(path, e))
            }
            Inner::Arrow(writer) => writer.write(batch).map_err(|e| failed_at(path, e)),
            Inner::Json { text, array, started } => {
                let lines = json_lines(batch).map_err(arrow_failed)?;
                let written = write_json(text, &lines, *array, !*started);
                *started = true;
                written.map_err(|e| io_error("write", path, &e))
            }
            Inner::Csv { text, schema } => {
                let flat = flat_batch(batch, schema).map_err(arrow_failed)?;
                let mut csv = CsvBuilder::new().with_header(false).build(text);
                csv.write(&flat).map_err(|e| failed_at(path, e))
            }
        }
    }

    /// Writes what is held back and closes the file.
    pub fn finish(self) -> Result<(), RunError> {
        let path = &self.path;
        let flushed = match self.inner {
            Inner::Parquet(writer) => writer.into_inner().map_err(|e| parquet_failed(path, e))?.flush(),
            Inner::Arrow(mut writer) => {
                writer.finish().map_err(|e| failed_at(path, e))?;
                writer.into_inner().map_err(|e| failed_at(path, e))?.flush()
            }
            Inner::Json { mut text, array, started } => {
                let end: &[u8] = match (array, started) {
                    (true, true) => b"\n]\n",
                    (true, false) => b"[]\n",
                    (false, _) => b"",
                };
                text.write_all(end).and_then(|()| text.finish())
            }
            Inner::Csv { text, .. } => text.finish(),
        };
        flushed.map_err(|e| io_error("write", path, &e))
    }
}

/// One object on each line, nulls written out.
fn json_lines(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = JsonBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

/// Lines as they are, or as the elements of an array: no line has a line end inside.
fn write_json(text: &mut impl Write, lines: &[u8], array: bool, first: bool) -> io::Result<()> {
    if !array {
        return text.write_all(lines);
    }
    let mut separator: &[u8] = if first { b"[\n" } else { b",\n" };
    for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        text.write_all(separator)?;
        text.write_all(line)?;
        separator = b",\n";
    }
    Ok(())
}

/// The schema with lists as text, for CSV.
fn flat_schema(schema: &SchemaRef) -> SchemaRef {
    let flat = |f: &Arc<Field>| match f.data_type().is_nested() {
        true => Arc::new(Field::new(f.name(), DataType::Utf8, true)),
        false => f.clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(flat).collect::<Vec<_>>()))
}

fn flat_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let flat = |c: &arrow::array::ArrayRef| if c.data_type().is_nested() { nested_as_json(c) } else { c.clone() };
    RecordBatch::try_new(schema.clone(), batch.columns().iter().map(flat).collect())
}

fn parquet_failed(path: &Path, error: ParquetError) -> RunError {
    failed_at(path, ArrowError::from(error))
}

/// An error of writing, as one of the machine where it is one.
fn failed_at(path: &Path, error: ArrowError) -> RunError {
    match error {
        ArrowError::IoError(_, error) => io_error("write", path, &error),
        ArrowError::ExternalError(source) => match source.downcast::<io::Error>() {
            Ok(error) => io_error("write", path, &error),
            Err(other) => RunError::failed("write-failed", format!("cannot write `{}`: {other}", path.display())),
        },
        other => RunError::failed("write-failed", format!("cannot write `{}`: {other}", path.display())),
    }
}
