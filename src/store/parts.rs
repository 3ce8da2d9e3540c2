//! Parquet parts whose bytes depend on rows alone, and checksummed files.

use super::manifest::{FileEntry, Part};
use super::{error::io_error, slab};
use crate::exec::RunError;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of a slab, which becomes one row group.
const SLAB_ROWS: usize = 32_768;
/// Bytes of a slab, by [`slab::row_bytes`]. Reading goes slab by slab, so this bounds the memory of readers as well.
const SLAB_BYTES: u64 = 8 << 20;
/// Bytes of a part, by the same count.
const PART_BYTES: u64 = 256 << 20;

/// A file that counts and hashes what is written to it.
pub struct HashedFile {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    at: PathBuf,
    /// The path inside the artifact.
    name: String,
}

impl HashedFile {
    pub fn create(folder: &Path, name: &str) -> Result<Self, RunError> {
        let at = folder.join(name);
        let file = File::create(&at).map_err(|e| io_error("create", &at, &e))?;
        let file = BufWriter::with_capacity(1 << 16, file);
        Ok(Self { file, hasher: blake3::Hasher::new(), bytes: 0, at, name: name.to_string() })
    }

    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Flushes to the disk and says what was written.
    pub fn finish(self) -> Result<FileEntry, RunError> {
        let at = self.at;
        let file = self.file.into_inner().map_err(|e| io_error("write", &at, e.error()))?;
        file.sync_all().map_err(|e| io_error("write", &at, &e))?;
        Ok(FileEntry { path: self.name, bytes: self.bytes, blake3: self.hasher.finalize().to_hex().to_string() })
    }
}

impl Write for HashedFile {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Writes the rows of one output as `<output>/part-00000.parquet` and so on.
pub struct PartWriter {
    folder: PathBuf,
    output: String,
    schema: SchemaRef,
    held: Vec<RecordBatch>,
    held_rows: usize,
    held_bytes: u64,
    open: Option<Open>,
    parts: Vec<Part>,
}

struct Open {
    writer: ArrowWriter<HashedFile>,
    at: PathBuf,
    rows: u64,
    bytes: u64,
}

impl PartWriter {
    /// `folder` is the artifact's; the output's own folder in it must be there.
    pub fn new(folder: &Path, output: &str, schema: &SchemaRef) -> Self {
        Self {
            folder: folder.to_path_buf(),
            output: output.to_string(),
            schema: bare(schema),
            held: Vec::new(),
            held_rows: 0,
            held_bytes: 0,
            open: None,
            parts: Vec::new(),
        }
    }

    /// Takes rows; `sizes` are their [`row_bytes`](slab::row_bytes).
    pub fn push(&mut self, batch: &RecordBatch, sizes: &[u64]) -> Result<(), RunError> {
        let mut start = 0;
        while start < sizes.len() {
            let rest = &sizes[start..];
            let cut = slab::cut(rest, (self.held_rows, self.held_bytes), SLAB_ROWS, SLAB_BYTES);
            let take = cut.unwrap_or(rest.len());
            self.held.push(batch.slice(start, take));
            self.held_rows += take;
            self.held_bytes += rest[..take].iter().sum::<u64>();
            start += take;
            if cut.is_some() {
                self.write_slab()?;
            }
        }
        Ok(())
    }

    fn write_slab(&mut self) -> Result<(), RunError> {
        let held = std::mem::take(&mut self.held);
        let slab = self.slab(&held).map_err(|e| self.shape_error(&e.to_string()))?;
        drop(held);
        let bytes = std::mem::take(&mut self.held_bytes);
        let rows = std::mem::take(&mut self.held_rows) as u64;
        let open = self.open()?;
        let fail = |at: &Path, e: parquet::errors::ParquetError| parquet_error("write", at, e);
        open.writer.write(&slab).map_err(|e| fail(&open.at, e))?;
        open.writer.flush().map_err(|e| fail(&open.at, e))?;
        open.rows += rows;
        open.bytes += bytes;
        if open.bytes >= PART_BYTES {
            self.close_part()?;
        }
        Ok(())
    }

    /// The held rows as one batch that does not show how they came.
    fn slab(&self, held: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
        let column = |i: usize| {
            let pieces: Vec<&dyn Array> = held.iter().map(|b| b.column(i).as_ref()).collect();
            slab::normal(&arrow::compute::concat(&pieces)?)
        };
        let columns = (0..self.schema.fields().len()).map(column).collect::<Result<_, _>>()?;
        RecordBatch::try_new(self.schema.clone(), columns)
    }

    fn shape_error(&self, message: &str) -> RunError {
        let what = format!("rows of output `{}` do not have the planned schema: {message}", self.output);
        RunError::failed("wrong-rows", what).help("this is a mistake in the operator: please report it")
    }

    fn open(&mut self) -> Result<&mut Open, RunError> {
        if self.open.is_none() {
            let name = format!("{}/part-{:05}.parquet", self.output, self.parts.len());
            let file = HashedFile::create(&self.folder, &name)?;
            let at = file.path().to_path_buf();
            let writer = ArrowWriter::try_new(file, self.schema.clone(), Some(properties()));
            let writer = writer.map_err(|e| parquet_error("write", &at, e))?;
            self.open = Some(Open { writer, at, rows: 0, bytes: 0 });
        }
        Ok(self.open.as_mut().expect("set above"))
    }

    fn close_part(&mut self) -> Result<(), RunError> {
        if let Some(open) = self.open.take() {
            let file = open.writer.into_inner().map_err(|e| parquet_error("write", &open.at, e))?;
            self.parts.push(Part { rows: open.rows, file: file.finish()? });
        }
        Ok(())
    }

    /// Writes what is held and closes the last part. An output without rows has one part without rows, so that its
    /// schema can be read.
    pub fn finish(mut self) -> Result<Vec<Part>, RunError> {
        if !self.held.is_empty() {
            self.write_slab()?;
        }
        if self.parts.is_empty() {
            self.open()?;
        }
        self.close_part()?;
        Ok(self.parts)
    }
}

/// Rows ready for [`PartWriter::push`]: their sizes, and a copy where they hold on to far more than they use.
pub fn weigh(batch: RecordBatch) -> Result<(RecordBatch, Vec<u64>), RunError> {
    let sizes = slab::row_bytes(&batch);
    let batch = slab::compact(batch, &sizes).map_err(|e| RunError::failed("wrong-rows", e.to_string()))?;
    Ok((batch, sizes))
}

fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_created_by("idiolect".into())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(SLAB_ROWS))
        // Ids differ from row to row.
        .set_column_dictionary_enabled("id".into(), false)
        .build()
}

/// The schema without metadata: its maps have no fixed order, so they could not be written the same way twice.
fn bare(schema: &SchemaRef) -> SchemaRef {
    let field = |f: &FieldRef| Arc::new(Field::new(f.name(), f.data_type().clone(), f.is_nullable()));
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// A Parquet error; one of the operating system keeps its meaning (a full disk).
pub fn parquet_error(action: &str, path: &Path, error: parquet::errors::ParquetError) -> RunError {
    match error {
        parquet::errors::ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(io) => io_error(action, path, &io),
            Err(other) => broken(path, &other.to_string()),
        },
        other => broken(path, &other.to_string()),
    }
}

/// A part that cannot be read.
pub fn broken(path: &Path, why: &str) -> RunError {
    RunError::failed("corrupt-part", format!("`{}` of the store is damaged: {why}", path.display())).help(
        "run the same command again: the artifact is checked, moved aside and made anew; \
         `idiolect store gc --broken` checks the whole store",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;
    use proptest::prelude::*;

    fn rows(range: std::ops::Range<usize>, null_buffer: bool) -> RecordBatch {
        let text = StringArray::from_iter(range.clone().map(|i| (i % 7 != 0).then(|| "ab ".repeat(i % 50))));
        let id = StringArray::from_iter_values(range.clone().map(|i| format!("r:{i}")));
        let number = Float64Array::from_iter_values(range.clone().map(|i| i as f64 / 3.0));
        let number = if null_buffer {
            // A null buffer without nulls must not be seen in the bytes.
            let nulls = arrow::buffer::NullBuffer::new_valid(range.len());
            Float64Array::new(number.values().clone(), Some(nulls))
        } else {
            number
        };
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(range.clone().map(|i| {
            (i % 5 != 0).then(|| (0..i % 4).map(|x| (x % 3 != 2 || i > 60_000).then_some(x as i32)).collect::<Vec<_>>())
        }));
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(id) as ArrayRef, false),
            ("text", Arc::new(text) as ArrayRef, true),
            ("number", Arc::new(number) as ArrayRef, true),
            ("list", Arc::new(list) as ArrayRef, true),
        ])
        .unwrap()
    }

    fn write(batches: &[RecordBatch]) -> Vec<Part> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        let mut writer = PartWriter::new(dir.path(), "out", &rows(0..1, false).schema());
        for batch in batches {
            let (batch, sizes) = weigh(batch.clone()).unwrap();
            writer.push(&batch, &sizes).unwrap();
        }
        writer.finish().unwrap()
    }

    fn sums(parts: &[Part]) -> Vec<(u64, String)> {
        parts.iter().map(|p| (p.rows, p.file.blake3.clone())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn bytes_do_not_depend_on_how_rows_come(mut cuts in proptest::collection::vec(0usize..70_000, 0..40), nulls: bool) {
            cuts.extend([0, 70_000]);
            cuts.sort();
            let whole = rows(0..70_000, false);
            let pieces: Vec<RecordBatch> = cuts.windows(2).map(|w| rows(w[0]..w[1], nulls)).collect();
            prop_assert_eq!(sums(&write(&[whole])), sums(&write(&pieces)));
        }
    }

    #[test]
    fn no_rows_still_have_a_schema() {
        let parts = write(&[]);
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].rows, 0);
        assert_eq!(sums(&parts), sums(&write(&[rows(0..0, false)])));
    }

    #[test]
    fn large_rows_make_several_parts() {
        let text: ArrayRef = Arc::new(StringArray::from_iter_values([&"x".repeat(10 << 20)]));
        let number: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let batch = RecordBatch::try_from_iter([("id", text), ("n", number)]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        let mut writer = PartWriter::new(dir.path(), "out", &batch.schema());
        for _ in 0..30 {
            writer.push(&batch, &slab::row_bytes(&batch)).unwrap();
            assert!(writer.held.is_empty(), "a row beyond the slab's size is written at once");
        }
        assert_eq!(writer.finish().unwrap().iter().map(|p| p.rows).collect::<Vec<_>>(), [26, 4]);
    }
}
