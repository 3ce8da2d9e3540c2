use super::tests::{Folder, load, rejected};
use crate::ops::expression::described;
use crate::ops::testing_node::{Node, lines};
use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, DictionaryArray, Float32Array, Int32Array, LargeStringArray, RecordBatch,
    StringArray, StringViewArray, UInt64Array,
};
use arrow::datatypes::Int8Type;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::io::Write;
use std::sync::Arc;

fn batch() -> RecordBatch {
    let dictionary: DictionaryArray<Int8Type> = vec![Some("x"), None, Some("x")].into_iter().collect();
    RecordBatch::try_from_iter_with_nullable([
        ("large", Arc::new(LargeStringArray::from(vec![Some("a"), None, Some("c")])) as ArrayRef, true),
        ("view", Arc::new(StringViewArray::from(vec![Some("p"), Some("q"), None])), true),
        ("dictionary", Arc::new(dictionary), true),
        ("small", Arc::new(Int32Array::from(vec![Some(1), None, Some(-3)])), true),
        ("half", Arc::new(Float32Array::from(vec![0.5, 1.0, f32::NAN])), true),
        ("day", Arc::new(Date32Array::from(vec![0, 1, 20_000])), true),
        ("big", Arc::new(UInt64Array::from(vec![1, u64::MAX, 3])), true),
        ("bytes", Arc::new(BinaryArray::from_vec(vec![b"ok", b"ok", b"\xff\xfe"])), true),
    ])
    .unwrap()
}

fn parquet_of(batch: &RecordBatch, rows_of_group: usize) -> Vec<u8> {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows_of_group)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn stream_of(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.into_inner().unwrap()
}

fn numbers(n: i32) -> RecordBatch {
    let texts: Vec<String> = (0..n).map(|i| format!("text number {i} of many")).collect();
    let columns: [(&str, ArrayRef); 2] =
        [("n", Arc::new(Int32Array::from_iter_values(0..n))), ("t", Arc::new(StringArray::from(texts)))];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[test]
fn columns_come_in_the_types_of_edges_and_misfits_go_alone() {
    let folder = Folder::new();
    let path = folder.file("p.parquet", parquet_of(&batch(), 100));
    let ran = load(&path, "");
    insta::assert_snapshot!(described(&ran.rows[0].schema()), @"`id` (text), `large` (text), `view` (text), `dictionary` (text), `small` (integer), `half` (number), `day` (text), `big` (integer), `bytes` (text)");
    insta::assert_snapshot!(lines(&ran.rows[0]), @r#"{"id":"p:0","large":"a","view":"p","dictionary":"x","small":1,"half":0.5,"day":"1970-01-01","big":1,"bytes":"ok"}"#);
    let found: Vec<String> =
        ran.rejected.iter().map(|r| format!("{} {}: {}\n", folder.scrub(&r.id), r.reason, r.message)).collect();
    insta::assert_snapshot!(found.concat(), @"
    p.parquet#1 wrong-type: column `big` (field `big`) must be integer, found Cast error: Can't cast value 18446744073709551615 to type Int64
    p.parquet#2 wrong-type: column `bytes` (field `bytes`) must be text, found Invalid argument error: Encountered non UTF-8 data: invalid utf-8 sequence of 1 bytes from index 0
    ");
    let ran = load(&path, "only-mapped=#true { columns { large \"string\"; small \"float?\"; half \"text\" } }");
    insta::assert_snapshot!(lines(&ran.rows[0]), @r#"
    {"id":"p:0","large":"a","small":1.0,"half":"0.5"}
    {"id":"p:2","large":"c","small":-3.0,"half":"NaN"}
    "#);
    assert_eq!(rejected(&folder, &ran), ["p.parquet#1 null-value"]);
}

#[test]
fn streams_files_and_compressed_files_give_the_same() {
    let folder = Folder::new();
    let rows = numbers(5);
    let mut file = FileWriter::try_new(Vec::new(), &rows.schema()).unwrap();
    file.write(&rows).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&parquet_of(&rows, 2)).unwrap();
    let expected = lines(&load(&folder.file("p.parquet", parquet_of(&rows, 2)), "offset=1 limit=3").rows[0]);
    assert_eq!(expected.lines().count(), 3);
    for (name, bytes) in [
        ("p.arrow", file.into_inner().unwrap()),
        ("p.arrows", stream_of(&[rows.slice(0, 2), rows.slice(2, 3)])),
        ("p.arrows.zst", zstd::encode_all(&stream_of(std::slice::from_ref(&rows))[..], 1).unwrap()),
        ("p.parquet.gz", gz.finish().unwrap()),
    ] {
        assert_eq!(lines(&load(&folder.file(name, bytes), "offset=1 limit=3").rows[0]), expected, "{name}");
    }
}

#[test]
fn a_cut_stream_keeps_what_came_before() {
    let folder = Folder::new();
    let bytes = stream_of(&[numbers(4), numbers(4)]);
    let path = folder.file("p.arrows", &bytes[..bytes.len() - 100]);
    let ran = load(&path, "");
    assert_eq!(ran.rows[0].num_rows(), 4);
    assert_eq!(rejected(&folder, &ran), ["p.arrows#4 truncated"]);
}

#[test]
fn damage_is_an_entry_or_a_message_and_never_a_panic() {
    let folder = Folder::new();
    let whole = parquet_of(&numbers(3000), 1000);
    let mut entries = 0;
    for at in (0..whole.len()).step_by(whole.len() / 150) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x5a;
        let path = folder.file("p.parquet", &bytes);
        let Ok(node) = Node::new(&format!("load \"x\" path={path:?}"), &[]) else { continue };
        let Ok(ran) = node.run(1024) else { continue };
        assert!(ran.rows[0].num_rows() + ran.rejected.len() > 0);
        entries += ran.rejected.iter().filter(|r| r.reason == "truncated").count();
    }
    assert!(entries > 10, "{entries}");
}
