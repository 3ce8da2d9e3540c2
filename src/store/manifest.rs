//! What an artifact says of itself: written last, so that an artifact with a manifest is whole.

use crate::plan::{Fingerprint, NodeName};
use arrow::datatypes::SchemaRef;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The layout's version.
    pub format: u32,
    pub fingerprint: Fingerprint,
    /// The pipeline and node that made it first.
    pub pipeline: String,
    pub node: NodeName,
    pub op: String,
    pub op_version: u32,
    /// The version of idiolect that made it.
    pub idiolect: String,
    /// RFC 3339, UTC. Not part of any result.
    pub created: String,
    /// What the fingerprint was made of.
    pub ingredients: IndexMap<String, String>,
    pub inputs: Vec<InputRef>,
    pub outputs: Vec<Output>,
    /// Files for the user, under `files/`.
    pub files: Vec<FileEntry>,
    /// `quarantine.jsonl`, when rows were rejected.
    pub quarantine: Option<FileEntry>,
    /// `present.txt`, when there is text for the end of a run.
    pub present: Option<FileEntry>,
    /// `tables.json`, the tables as people are shown them. Artifacts of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<FileEntry>,
    /// Rows read from all inputs; for a node without inputs, rows given and rejected.
    pub rows_in: u64,
    /// Rejected rows by reason.
    pub rejected: IndexMap<String, u64>,
    /// Model tokens processed.
    pub tokens: u64,
    /// Seconds of work when it was made.
    pub seconds: f64,
}

/// An artifact that this one was made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InputRef {
    pub port: String,
    pub node: NodeName,
    pub fingerprint: Fingerprint,
    pub output: String,
}

/// One output port's rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Output {
    pub name: String,
    pub columns: Vec<Column>,
    pub rows: u64,
    pub parts: Vec<Part>,
}

/// A column, for people and other tools; the parts carry the exact Arrow schema.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub nullable: bool,
}

/// A Parquet file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    pub rows: u64,
    #[serde(flatten)]
    pub file: FileEntry,
}

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the artifact's folder, with `/`.
    pub path: String,
    pub bytes: u64,
    pub blake3: String,
}

impl Manifest {
    /// Rejected rows in all.
    pub fn rejected_rows(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Rows of all outputs.
    pub fn rows_out(&self) -> u64 {
        self.outputs.iter().map(|o| o.rows).sum()
    }

    /// Every file but the manifest itself.
    pub fn entries(&self) -> impl Iterator<Item = &FileEntry> {
        let parts = self.outputs.iter().flat_map(|o| o.parts.iter().map(|p| &p.file));
        parts.chain(&self.files).chain(&self.quarantine).chain(&self.present).chain(&self.tables)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.entries().map(|e| e.bytes).sum()
    }
}

/// The columns of a schema in words.
pub fn columns(schema: &SchemaRef) -> Vec<Column> {
    let column = |f: &std::sync::Arc<arrow::datatypes::Field>| Column {
        name: f.name().clone(),
        kind: f.data_type().to_string(),
        nullable: f.is_nullable(),
    };
    schema.fields().iter().map(column).collect()
}

/// `2025-01-31T12:00:00.123Z` of a moment.
pub fn rfc3339(time: std::time::SystemTime) -> String {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Howard Hinnant's civil_from_days, for days after 1970.
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn moments_are_written_as_calendar_dates() {
        let at = |s: u64| rfc3339(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
    }
}
