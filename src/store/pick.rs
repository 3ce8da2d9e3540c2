//! Single rows of an output, for reports: read without the rows between them.

use super::Artifact;
use super::parts::{broken, parquet_error};
use crate::exec::RunError;
use crate::store::io_error;
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;

/// Rows of a batch while ids are looked through.
const BATCH: usize = 4096;

impl Artifact {
    /// The rows of an output at these positions, in order; positions beyond its end are left out.
    pub fn rows_at(&self, output: usize, positions: &BTreeSet<u64>) -> Result<RecordBatch, RunError> {
        let mut batches = Vec::new();
        let mut first = 0;
        for part in &self.output(output).parts {
            let inside: Vec<usize> = positions.range(first..first + part.rows).map(|p| (p - first) as usize).collect();
            first += part.rows;
            if inside.is_empty() {
                continue;
            }
            let path = self.path(&part.file);
            let reader = open(&path)?.with_row_selection(selection(&inside)).with_batch_size(inside.len()).build();
            for batch in reader.map_err(|e| parquet_error("read", &path, e))? {
                batches.push(batch.map_err(|e| broken(&path, &e.to_string()))?);
            }
        }
        let schema = self.schema(output)?;
        concat_batches(&schema, &batches).map_err(|e| broken(self.folder(), &e.to_string()))
    }

    /// Where the first row of each of these ids is; ids that no row has are left out, as all are where rows have none.
    pub fn find(&self, output: usize, ids: &BTreeSet<String>) -> Result<HashMap<String, u64>, RunError> {
        let mut found = HashMap::new();
        let mut position = 0;
        for part in &self.output(output).parts {
            let path = self.path(&part.file);
            let builder = open(&path)?;
            let column = builder.schema().fields().iter().position(|f| f.name() == "id");
            let Some(column) = column else { return Ok(found) };
            let mask = ProjectionMask::roots(builder.parquet_schema(), [column]);
            let reader = builder.with_projection(mask).with_batch_size(BATCH).build();
            for batch in reader.map_err(|e| parquet_error("read", &path, e))? {
                let batch = batch.map_err(|e| broken(&path, &e.to_string()))?;
                let Some(column) = batch.column(0).as_string_opt::<i32>() else { return Ok(found) };
                for id in column {
                    if let Some(id) = id.filter(|id| ids.contains(*id)) {
                        found.entry(id.to_string()).or_insert(position);
                    }
                    position += 1;
                }
                if found.len() == ids.len() {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, RunError> {
    let file = File::open(path).map_err(|e| io_error("open", path, &e))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| parquet_error("read", path, e))
}

/// Skips what lies between ascending positions.
fn selection(positions: &[usize]) -> RowSelection {
    let mut selectors = Vec::new();
    let mut next = 0;
    for position in positions {
        selectors.extend([RowSelector::skip(position - next), RowSelector::select(1)]);
        next = position + 1;
    }
    selectors.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Fingerprint, NodeName};
    use crate::store::{Commit, Store, row_bytes};
    use arrow::array::{Int64Array, StringArray};
    use std::sync::Arc;

    /// An artifact whose output has rows of 1 MB each way, so that it has several row groups.
    fn artifact(dir: &Path, rows: i64) -> Artifact {
        let id = StringArray::from_iter_values((0..rows).map(|i| format!("r:{}", i % 40)));
        let text = StringArray::from_iter_values((0..rows).map(|_| "x".repeat(1 << 20)));
        let n = Int64Array::from_iter_values(0..rows);
        let batch = RecordBatch::try_from_iter([
            ("n", Arc::new(n) as arrow::array::ArrayRef),
            ("id", Arc::new(id)),
            ("text", Arc::new(text)),
        ])
        .unwrap();
        let store = Store::open(dir).unwrap();
        let session = store.session(&Default::default()).unwrap();
        let writer = session.begin(&Fingerprint("ab".repeat(32)), &[("out", batch.schema())]).unwrap();
        writer.push(0, &batch, &row_bytes(&batch)).unwrap();
        writer
            .commit(Commit {
                pipeline: "p".into(),
                node: NodeName::plain("n"),
                op: "load".into(),
                op_version: 1,
                ingredients: Default::default(),
                inputs: Vec::new(),
                rows_in: 0,
                tokens: 0,
                seconds: 0.0,
            })
            .unwrap()
    }

    #[test]
    fn rows_are_found_by_position_and_by_id() {
        let dir = tempfile::tempdir().unwrap();
        let artifact = artifact(dir.path(), 50);
        let rows = artifact.rows_at(0, &BTreeSet::from([0, 7, 8, 49, 50, 99])).unwrap();
        let n = rows.column(0).as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!(n.values().to_vec(), [0, 7, 8, 49]);
        let wanted = ["r:3", "r:39", "absent"].map(String::from).into();
        let found = artifact.find(0, &wanted).unwrap();
        assert_eq!(found, HashMap::from([("r:3".to_string(), 3), ("r:39".to_string(), 39)]));
        assert_eq!(artifact.rows_at(0, &BTreeSet::new()).unwrap().num_rows(), 0);
    }
}
