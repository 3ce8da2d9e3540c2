//! Arrow record batches to polars data frames and back, through the Arrow C data interface.
//!
//! Both libraries have arrays of their own over the same memory layout. The C data interface is the agreed
//! way to hand an array from one to the other: buffers are shared, not copied, and freed by their maker. All
//! of the unsafe code that this takes is in this file.

use super::rows::{plain_type, to_plain};
use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, make_array, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi, to_ffi};
use polars::prelude::{Column, CompatLevel, DataFrame, PlSmallStr, PolarsError, Series};
use polars_arrow::ffi as foreign;
use std::mem::transmute;
use std::sync::Arc;

/// Why rows could not cross; the message says which column.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    #[error(transparent)]
    Polars(#[from] PolarsError),
}

/// The columns of a batch as a data frame, each in one chunk.
pub fn to_frame(batch: &RecordBatch) -> Result<DataFrame, BridgeError> {
    let schema = batch.schema();
    let column = |(field, array): (&Arc<Field>, &ArrayRef)| to_series(field.name(), array).map(Column::from);
    let columns = schema.fields().iter().zip(batch.columns()).map(column).collect::<Result<Vec<_>, _>>()?;
    Ok(DataFrame::new(batch.num_rows(), columns)?)
}

/// A data frame without rows, with the columns of a schema: what expressions are checked against.
pub fn empty_frame(schema: &Schema) -> Result<DataFrame, BridgeError> {
    to_frame(&RecordBatch::new_empty(Arc::new(schema.clone())))
}

/// A data frame as one batch in the types of our edges (see [`plain_type`]). Every column is nullable: polars
/// does not know otherwise.
pub fn from_frame(frame: &DataFrame) -> Result<RecordBatch, BridgeError> {
    let mut fields = Vec::with_capacity(frame.width());
    let mut arrays = Vec::with_capacity(frame.width());
    for column in frame.columns() {
        let array = to_plain(&from_series(column.as_materialized_series())?)?;
        fields.push(Field::new(column.name().as_str(), array.data_type().clone(), true));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(frame.height()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
}

/// The schema that [`from_frame`] gives for a frame of these columns.
pub fn frame_schema(frame: &DataFrame) -> Result<SchemaRef, BridgeError> {
    Ok(from_frame(&frame.clear())?.schema())
}

/// One arrow array as a polars series.
pub fn to_series(name: &str, array: &ArrayRef) -> Result<Series, BridgeError> {
    let (array, schema) = to_ffi(&array.to_data())?;
    // SAFETY: both libraries declare the structs of the Arrow C data interface, `#[repr(C)]` and field by
    // field the same; `transmute` checks the sizes. Ownership moves with the bytes: each struct carries its
    // release callback, which the new owner's `Drop` calls once.
    let (array, schema) = unsafe {
        (
            transmute::<FFI_ArrowArray, foreign::ArrowArray>(array),
            transmute::<FFI_ArrowSchema, foreign::ArrowSchema>(schema),
        )
    };
    // SAFETY: array and schema were exported together by `to_ffi` and so describe each other.
    let array = unsafe {
        let field = foreign::import_field_from_c(&schema)?;
        foreign::import_array_from_c(array, field.dtype)?
    };
    Ok(Series::from_arrow(PlSmallStr::from_str(name), array)?)
}

/// One polars series as an arrow array, in the types that polars exports.
pub fn from_series(series: &Series) -> Result<ArrayRef, BridgeError> {
    let level = CompatLevel::oldest();
    let series = series.rechunk();
    let field = series.dtype().to_arrow_field(series.name().clone(), level);
    if series.is_empty() || series.dtype().is_null() {
        // Nothing to hand over; polars gives its null arrays a buffer that the standard does not have.
        return Ok(new_null_array(&exported_type(&field)?, series.len()));
    }
    let array = foreign::export_array_to_c(series.to_arrow(0, level));
    let schema = foreign::export_field_to_c(&field);
    // SAFETY: as in `to_series`, in the other direction.
    let (array, schema) = unsafe {
        (
            transmute::<foreign::ArrowArray, FFI_ArrowArray>(array),
            transmute::<foreign::ArrowSchema, FFI_ArrowSchema>(schema),
        )
    };
    // SAFETY: polars made both from the same series and field.
    let data = unsafe { from_ffi(array, &schema)? };
    Ok(make_array(data))
}

/// The arrow type of an exported polars field.
fn exported_type(field: &polars::prelude::ArrowField) -> Result<DataType, BridgeError> {
    let schema = foreign::export_field_to_c(field);
    // SAFETY: as in `to_series`: one layout, declared twice.
    let schema = unsafe { transmute::<foreign::ArrowSchema, FFI_ArrowSchema>(schema) };
    Ok(DataType::try_from(&schema)?)
}

/// The type that a polars column has on our edges.
pub fn edge_type(series: &Series) -> Result<DataType, BridgeError> {
    let field = series.dtype().to_arrow_field(series.name().clone(), CompatLevel::oldest());
    Ok(plain_type(&exported_type(&field)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BooleanArray, Float32Builder, Float64Array, Int64Array, ListBuilder, StringArray, StringBuilder,
    };
    use proptest::prelude::*;

    fn texts(rows: &[Option<&[Option<&str>]>]) -> ArrayRef {
        let mut list = ListBuilder::new(StringBuilder::new());
        for row in rows {
            for item in row.unwrap_or_default() {
                list.values().append_option(*item);
            }
            list.append(row.is_some());
        }
        Arc::new(list.finish())
    }

    fn sample() -> RecordBatch {
        let mut nll = ListBuilder::new(Float32Builder::new());
        nll.values().append_slice(&[0.5, 1.5]);
        nll.append(true);
        nll.append(false);
        nll.append(true);
        nll.values().append_value(2.0);
        nll.append(true);
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(StringArray::from(vec!["a", "b", "c", "d"])) as ArrayRef, true),
            (
                "text",
                Arc::new(StringArray::from(vec![Some("naïve"), None, Some(""), Some("longer than twelve bytes")])),
                true,
            ),
            ("n", Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(-1), Some(0)])), true),
            ("x", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NEG_INFINITY), None, Some(-0.0)])), true),
            ("ok", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)])), true),
            ("tags", texts(&[Some(&[Some("p"), None]), None, Some(&[]), Some(&[Some("")])]), true),
            ("nll", Arc::new(nll.finish()), true),
        ])
        .unwrap()
    }

    #[test]
    fn every_column_type_crosses_and_comes_back() {
        let batch = sample();
        assert_eq!(from_frame(&to_frame(&batch).unwrap()).unwrap(), batch);
    }

    #[test]
    fn slices_cross_with_their_offsets() {
        let batch = sample();
        for offset in 0..4 {
            for length in 0..=4 - offset {
                let slice = batch.slice(offset, length);
                assert_eq!(from_frame(&to_frame(&slice).unwrap()).unwrap(), slice, "{offset}+{length}");
            }
        }
    }

    #[test]
    fn empty_frames_keep_their_types() {
        let schema = sample().schema();
        let frame = empty_frame(&schema).unwrap();
        assert_eq!(frame.height(), 0);
        assert_eq!(frame_schema(&frame).unwrap(), schema);
    }

    #[test]
    fn memory_outlives_the_side_that_made_it() {
        let frame = to_frame(&sample()).unwrap();
        assert_eq!(frame.column("text").unwrap().str().unwrap().get(3), Some("longer than twelve bytes"));
        let batch = from_frame(&frame).unwrap();
        drop(frame);
        assert_eq!(batch, sample());
    }

    #[test]
    fn untyped_nulls_become_text() {
        let series = Series::new_null("none".into(), 2);
        let array = to_plain(&from_series(&series).unwrap()).unwrap();
        assert_eq!((array.data_type(), array.null_count()), (&DataType::Utf8, 2));
    }

    proptest! {
        #[test]
        fn any_text_and_number_crosses(rows in prop::collection::vec((any::<Option<String>>(), any::<Option<i64>>(), any::<Option<bool>>()), 0..200), at in 0usize..200) {
            let batch = RecordBatch::try_from_iter_with_nullable([
                ("s", Arc::new(rows.iter().map(|r| r.0.clone()).collect::<StringArray>()) as ArrayRef, true),
                ("n", Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()), true),
                ("b", Arc::new(rows.iter().map(|r| r.2).collect::<BooleanArray>()), true),
            ]).unwrap();
            let at = at.min(batch.num_rows());
            let slice = batch.slice(at, batch.num_rows() - at);
            prop_assert_eq!(from_frame(&to_frame(&slice).unwrap()).unwrap(), slice);
        }
    }
}
