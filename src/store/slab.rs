//! Sizes of rows by their values alone, and cutting batches by them.
//!
//! Where a slab or a batch ends must not depend on how rows were grouped when they came. So sizes are counted row by
//! row, from values and never from buffers.

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, OffsetSizeTrait, RecordBatch, StructArray,
    UInt32Array, make_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use std::sync::Arc;

/// Bytes of every row: its values, with four for each offset.
pub fn row_bytes(batch: &RecordBatch) -> Vec<u64> {
    let mut sizes = vec![0; batch.num_rows()];
    for column in batch.columns() {
        add(column, &mut sizes);
    }
    sizes
}

fn sizes_of(array: &ArrayRef) -> Vec<u64> {
    let mut sizes = vec![0; array.len()];
    add(array, &mut sizes);
    sizes
}

fn add(array: &ArrayRef, sizes: &mut [u64]) {
    let valid = |i: usize| array.is_valid(i);
    match array.data_type() {
        DataType::Utf8 => add_lengths(array.as_string::<i32>().value_offsets(), valid, sizes),
        DataType::LargeUtf8 => add_lengths(array.as_string::<i64>().value_offsets(), valid, sizes),
        DataType::Binary => add_lengths(array.as_binary::<i32>().value_offsets(), valid, sizes),
        DataType::LargeBinary => add_lengths(array.as_binary::<i64>().value_offsets(), valid, sizes),
        DataType::Utf8View => {
            let views = array.as_string_view();
            each(sizes, |i| 4 + if valid(i) { views.value(i).len() as u64 } else { 0 });
        }
        DataType::BinaryView => {
            let views = array.as_binary_view();
            each(sizes, |i| 4 + if valid(i) { views.value(i).len() as u64 } else { 0 });
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            add_ranges(list.value_offsets(), &sizes_of(list.values()), valid, sizes);
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            add_ranges(list.value_offsets(), &sizes_of(list.values()), valid, sizes);
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let mut entries = vec![0; map.entries().len()];
            map.entries().columns().iter().for_each(|c| add(c, &mut entries));
            add_ranges(map.value_offsets(), &entries, valid, sizes);
        }
        DataType::FixedSizeList(_, width) => {
            let list = array.as_fixed_size_list();
            let (values, width) = (sizes_of(list.values()), *width as usize);
            each(sizes, |i| {
                let start = list.value_offset_at(i);
                values[start..start + width].iter().sum()
            });
        }
        DataType::Struct(_) => array.as_struct().columns().iter().for_each(|c| add(c, sizes)),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let values = sizes_of(dictionary.values());
            let keys = dictionary.normalized_keys();
            each(sizes, |i| if valid(i) { values.get(keys[i]).copied().unwrap_or(0) } else { 0 });
        }
        DataType::FixedSizeBinary(width) => each(sizes, |_| *width as u64),
        DataType::Boolean => each(sizes, |_| 1),
        DataType::Null => {}
        other => {
            let width = other.primitive_width().unwrap_or(16) as u64;
            each(sizes, |_| width);
        }
    }
}

fn each(sizes: &mut [u64], size: impl Fn(usize) -> u64) {
    sizes.iter_mut().enumerate().for_each(|(i, s)| *s += size(i));
}

fn add_lengths<O: OffsetSizeTrait>(offsets: &[O], valid: impl Fn(usize) -> bool, sizes: &mut [u64]) {
    each(sizes, |i| 4 + if valid(i) { (offsets[i + 1] - offsets[i]).as_usize() as u64 } else { 0 });
}

fn add_ranges<O: OffsetSizeTrait>(offsets: &[O], values: &[u64], valid: impl Fn(usize) -> bool, sizes: &mut [u64]) {
    each(sizes, |i| {
        let range = offsets[i].as_usize()..offsets[i + 1].as_usize();
        4 + if valid(i) { values[range].iter().sum() } else { 0 }
    });
}

/// The length of the shortest head of `sizes` that reaches one of the limits, given what is held already.
/// `None` when all of it stays below.
pub fn cut(sizes: &[u64], held: (usize, u64), max_rows: usize, max_bytes: u64) -> Option<usize> {
    let (mut rows, mut bytes) = held;
    for (i, size) in sizes.iter().enumerate() {
        rows += 1;
        bytes += size;
        if rows >= max_rows || bytes >= max_bytes {
            return Some(i + 1);
        }
    }
    None
}

/// Ranges of rows that end as soon as they have `max_rows` rows or `max_bytes` bytes.
pub fn split(sizes: &[u64], max_rows: usize, max_bytes: u64) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    while start < sizes.len() {
        let end = cut(&sizes[start..], (0, 0), max_rows.max(1), max_bytes).map_or(sizes.len(), |n| start + n);
        ranges.push(start..end);
        start = end;
    }
    ranges
}

/// The batch itself, or a copy when it is a small window on far larger buffers that would be kept alive by it.
pub fn compact(batch: RecordBatch, sizes: &[u64]) -> Result<RecordBatch, ArrowError> {
    let used: u64 = sizes.iter().sum();
    if batch.get_array_memory_size() as u64 <= 4 * used + (64 << 10) {
        return Ok(batch);
    }
    let rows = UInt32Array::from_iter_values(0..batch.num_rows() as u32);
    take_record_batch(&batch, &rows)
}

/// The same values in the one form that they are written in: no null buffers without nulls, no list values that no
/// list refers to. The Parquet writer encodes the two forms differently.
pub fn normal(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let nulls = || array.nulls().filter(|n| n.null_count() > 0).cloned();
    Ok(match array.data_type() {
        DataType::List(item) => normal_list(array.as_list::<i32>(), item, nulls())?,
        DataType::LargeList(item) => normal_list(array.as_list::<i64>(), item, nulls())?,
        DataType::FixedSizeList(item, width) => {
            let values = normal(array.as_fixed_size_list().values())?;
            Arc::new(FixedSizeListArray::try_new(item.clone(), *width, values, nulls())?)
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let columns = array.as_struct().columns().iter().map(normal).collect::<Result<_, _>>()?;
            Arc::new(StructArray::try_new(fields.clone(), columns, nulls())?)
        }
        _ if array.nulls().is_some() && array.null_count() == 0 => {
            make_array(array.to_data().into_builder().nulls(None).build()?)
        }
        _ => array.clone(),
    })
}

fn normal_list<O: OffsetSizeTrait>(
    list: &GenericListArray<O>,
    item: &FieldRef,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    let (first, last) = (list.value_offsets()[0].as_usize(), list.value_offsets()[list.len()].as_usize());
    let values = normal(&list.values().slice(first, last - first))?;
    let offsets = OffsetBuffer::<O>::from_lengths(list.offsets().lengths());
    Ok(Arc::new(GenericListArray::try_new(item.clone(), offsets, values, nulls)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, ListArray, StringArray};
    use arrow::datatypes::{Field, Int32Type};

    fn batch() -> RecordBatch {
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("abc"), None, Some(""), Some("é")]));
        let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)]));
        let lists = [Some(vec![Some(1), Some(2)]), None, Some(vec![]), Some(vec![None])];
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
        let inner = Arc::new(Field::new("t", DataType::Utf8, true));
        let nested: ArrayRef = Arc::new(StructArray::from(vec![(inner, text.clone())]));
        RecordBatch::try_from_iter_with_nullable([
            ("text", text, true),
            ("number", number, true),
            ("list", list, true),
            ("nested", nested, true),
        ])
        .unwrap()
    }

    #[test]
    fn a_row_weighs_the_same_in_every_batch() {
        let whole = row_bytes(&batch());
        assert_eq!(whole, [7 + 8 + 12 + 7, 4 + 8 + 4 + 4, 4 + 8 + 4 + 4, 6 + 8 + 8 + 6]);
        for start in 0..4 {
            for len in 1..=4 - start {
                assert_eq!(row_bytes(&batch().slice(start, len)), whole[start..start + len]);
            }
        }
    }

    #[test]
    fn ranges_end_at_the_first_limit() {
        assert_eq!(split(&[1; 5], 2, 100), [0..2, 2..4, 4..5]);
        assert_eq!(split(&[10, 10, 50, 1], 100, 20), [0..2, 2..3, 3..4]);
        assert!(split(&[], 1, 1).is_empty());
    }

    #[test]
    fn a_window_on_large_buffers_is_copied() {
        let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..50_000).map(|i| format!("row {i:09}"))));
        let window = RecordBatch::try_from_iter([("text", text)]).unwrap().slice(40_000, 2);
        let copy = compact(window.clone(), &row_bytes(&window)).unwrap();
        assert_eq!(copy, window);
        assert!(copy.get_array_memory_size() < 10_000, "{}", copy.get_array_memory_size());
    }
}
