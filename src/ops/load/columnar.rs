//! Parquet and Arrow IPC: batches fitted to the columns of a `load`.

use super::files::{DataFile, Format, Problem, open_bytes, open_seekable};
use super::reader::Fault;
use super::shape::{IdFrom, Kind, OutColumn, Shape, null_value, wrong_type};
use crate::ops::rows::{nested_as_json, row_json, to_plain};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array, new_null_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Bytes that a batch read from Parquet should have at most, by the mean of its row group.
const BATCH_BYTES: u64 = 32 << 20;

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, String>> + Send>;

/// An opened file.
pub struct Source {
    pub schema: SchemaRef,
    /// As the file's metadata say.
    pub rows: Option<u64>,
    pub batches: Batches,
}

/// Opens a file and reads its metadata.
pub fn open(file: &DataFile, batch_rows: usize) -> Result<Source, Problem> {
    let opened = catch_unwind(AssertUnwindSafe(|| match file.format {
        Format::Parquet => open_parquet(file, batch_rows),
        _ => open_ipc(file),
    }));
    opened.unwrap_or_else(|_| Err(damaged(file, "its metadata make no sense")))
}

fn damaged(file: &DataFile, error: impl std::fmt::Display) -> Problem {
    let kind = if file.format == Format::Parquet { "Parquet" } else { "Arrow IPC" };
    Problem::new("bad-data-file", format!("`{}` is no {kind} file, or is damaged: {error}", file.name()))
}

fn open_parquet(file: &DataFile, batch_rows: usize) -> Result<Source, Problem> {
    let input = open_seekable(&file.path).map_err(|e| Problem::io(&file.path, &e))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(input).map_err(|e| damaged(file, e))?;
    let schema = builder.schema().clone();
    let groups = builder.metadata().row_groups();
    let rows: u64 = groups.iter().map(|g| g.num_rows().max(0) as u64).sum();
    let heaviest = |g: &parquet::file::metadata::RowGroupMetaData| {
        g.total_byte_size().max(0) as u64 / (g.num_rows().max(1) as u64)
    };
    let row_bytes = groups.iter().map(heaviest).max().unwrap_or(0).max(1);
    let size = (BATCH_BYTES / row_bytes).clamp(1, batch_rows.max(1) as u64);
    let reader = builder.with_batch_size(size as usize).build().map_err(|e| damaged(file, e))?;
    Ok(Source { schema, rows: Some(rows), batches: fenced(reader.map(|b| b.map_err(|e| e.to_string()))) })
}

fn open_ipc(file: &DataFile) -> Result<Source, Problem> {
    let mut input = open_seekable(&file.path).map_err(|e| Problem::io(&file.path, &e))?;
    let mut magic = [0u8; 6];
    let is_file = input.read_exact(&mut magic).is_ok() && &magic == b"ARROW1";
    if is_file {
        input.seek(SeekFrom::Start(0)).map_err(|e| Problem::io(&file.path, &e))?;
        let reader = FileReader::try_new_buffered(input, None).map_err(|e| damaged(file, e))?;
        let schema = reader.schema();
        return Ok(Source { schema, rows: None, batches: fenced(reader.map(|b| b.map_err(|e| e.to_string()))) });
    }
    let input = open_bytes(&file.path).map_err(|e| Problem::io(&file.path, &e))?;
    let reader = StreamReader::try_new(input, None).map_err(|e| damaged(file, e))?;
    let schema = reader.schema();
    Ok(Source { schema, rows: None, batches: fenced(reader.map(|b| b.map_err(|e| e.to_string()))) })
}

/// Ends after the first error. Decoders of damaged files can panic; that is an error of the file as well.
fn fenced(mut batches: impl Iterator<Item = Result<RecordBatch, String>> + Send + 'static) -> Batches {
    let mut ended = false;
    Box::new(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let next = catch_unwind(AssertUnwindSafe(|| batches.next()))
            .unwrap_or_else(|_| Some(Err("the decoder met data that make no sense".into())));
        ended = !matches!(next, Some(Ok(_)));
        next
    }))
}

/// A row of a batch that does not fit.
pub struct Misfit {
    /// Position in the batch.
    pub row: usize,
    pub fault: Fault,
}

/// The rows that fit, in the output's columns without ids, and their positions in the batch.
pub struct Fitted {
    pub columns: Vec<ArrayRef>,
    pub ids: Option<StringArray>,
    pub rows: Vec<usize>,
}

/// Fits a batch to a shape. What a row lacks makes a misfit of that row alone.
pub fn fit(batch: &RecordBatch, shape: &Shape) -> (Vec<Fitted>, Vec<Misfit>) {
    let mut fitter = Fitter { shape, fitted: Vec::new(), misfits: Vec::new() };
    fitter.fit(batch, 0);
    fitter.misfits.sort_by_key(|m| m.row);
    (fitter.fitted, fitter.misfits)
}

struct Fitter<'a> {
    shape: &'a Shape,
    fitted: Vec<Fitted>,
    misfits: Vec<Misfit>,
}

impl Fitter<'_> {
    /// Fits a range of rows as a whole and, where a value does not fit, in halves, down to the row at fault.
    fn fit(&mut self, batch: &RecordBatch, start: usize) {
        let rows = batch.num_rows();
        let columns: Result<Vec<ArrayRef>, Fault> = self.shape.columns.iter().map(|c| fit_column(batch, c)).collect();
        match columns.and_then(|columns| Ok((columns, self.ids(batch)?))) {
            Ok((columns, ids)) => self.keep(batch, columns, ids, start),
            Err(fault) if rows <= 1 => {
                self.misfits.push(Misfit { row: start, fault: Fault { row: row_json(batch, 0), ..fault } });
            }
            Err(_) => {
                let half = rows / 2;
                self.fit(&batch.slice(0, half), start);
                self.fit(&batch.slice(half, rows - half), start + half);
            }
        }
    }

    fn ids(&self, batch: &RecordBatch) -> Result<Option<ArrayRef>, Fault> {
        let IdFrom::Field(field) = &self.shape.id else { return Ok(None) };
        let bad = |found: &str| {
            Fault::new(
                "bad-id",
                format!("field `{field}` names the row and must be a text or an integer, found {found}"),
            )
        };
        let array = batch.column_by_name(field).ok_or_else(|| bad("no such field"))?;
        let ids = to_plain(array).map_err(|e| bad(&e.to_string()))?;
        match ids.data_type() {
            DataType::Utf8 => Ok(Some(ids)),
            DataType::Int64 => Ok(Some(cast(&ids, &DataType::Utf8).map_err(|e| bad(&e.to_string()))?)),
            other => Err(bad(&other.to_string())),
        }
    }

    /// Takes the rows without nulls where there must be none.
    fn keep(&mut self, batch: &RecordBatch, columns: Vec<ArrayRef>, ids: Option<ArrayRef>, start: usize) {
        let mut bad = BTreeSet::new();
        for (column, array) in self.shape.columns.iter().zip(&columns).filter(|(c, _)| !c.nullable) {
            self.note_gaps(batch, array, start, &mut bad, || null_value(column));
        }
        if let Some(ids) = &ids {
            let fault = || Fault::new("bad-id", "the field that names the row is null");
            self.note_gaps(batch, ids, start, &mut bad, fault);
        }
        let rows: Vec<usize> = (0..batch.num_rows()).filter(|row| !bad.contains(row)).collect();
        let (columns, ids) = if bad.is_empty() {
            (columns, ids)
        } else {
            let keep: UInt32Array = rows.iter().map(|row| *row as u32).collect();
            let taken = |a: ArrayRef| take(&a, &keep, None).expect("the indices are those of rows in the batch");
            (columns.into_iter().map(taken).collect(), ids.map(taken))
        };
        let ids = ids.map(|a| a.as_string::<i32>().clone());
        self.fitted.push(Fitted { columns, ids, rows: rows.into_iter().map(|row| start + row).collect() });
    }

    fn note_gaps(
        &mut self,
        batch: &RecordBatch,
        array: &ArrayRef,
        start: usize,
        bad: &mut BTreeSet<usize>,
        fault: impl Fn() -> Fault,
    ) {
        let gap = |row: &usize| array.is_null(*row);
        for row in (0..array.len()).filter(gap) {
            if bad.insert(row) {
                let fault = Fault { row: row_json(batch, row), ..fault() };
                self.misfits.push(Misfit { row: start + row, fault });
            }
        }
    }
}

fn fit_column(batch: &RecordBatch, column: &OutColumn) -> Result<ArrayRef, Fault> {
    let Some(array) = batch.column_by_name(&column.source) else {
        return Ok(new_null_array(&column.kind.data_type(), batch.num_rows()));
    };
    let plain = to_plain(array).map_err(|error| wrong_type(column, &error.to_string()))?;
    convert(&plain, &column.kind).map_err(|found| wrong_type(column, &found))
}

/// An array in the type of its column; the error says what does not fit.
fn convert(array: &ArrayRef, kind: &Kind) -> Result<ArrayRef, String> {
    let target = kind.data_type();
    match (array.data_type(), kind) {
        (given, _) if *given == target => Ok(array.clone()),
        (given, Kind::Text { strict: false }) if given.is_nested() => Ok(nested_as_json(array)),
        (_, Kind::Text { strict: false }) => cast(array, &target).map_err(|e| e.to_string()),
        (DataType::Int64, Kind::Float) => cast(array, &target).map_err(|e| e.to_string()),
        (DataType::Float64, Kind::Int) => {
            let whole = |f: f64| if f.fract() == 0.0 && f.abs() < 9e15 { Ok(f as i64) } else { Err(f.to_string()) };
            let ints = array.as_primitive::<Float64Type>().iter().map(|f| f.map(whole).transpose());
            let ints: Result<arrow::array::PrimitiveArray<Int64Type>, String> = ints.collect();
            Ok(Arc::new(ints?))
        }
        (given, _) => Err(given.to_string()),
    }
}
