//! Building an artifact: parts, quarantine, files and text in a folder of its own, the manifest last, then one rename.
//!
//! Files are synced, folders are not: a power cut may take the newest artifacts away or leave them without a file,
//! which the manifest shows, and they are made again. What must not be lost is in the journals, which sync both.

use super::manifest::{FileEntry, InputRef, Manifest, Output, columns, rfc3339};
use super::parts::{HashedFile, PartWriter};
use super::{Artifact, FORMAT, Found, Store, io_error};
use crate::exec::{Rejected, RunError};
use crate::plan::{Fingerprint, NodeName};
use crate::report::grid::Grid;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use indexmap::IndexMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// An artifact in the making. Dropped without [`commit`](Self::commit), it leaves nothing.
pub struct ArtifactWriter {
    store: Store,
    fingerprint: Fingerprint,
    folder: tempfile::TempDir,
    outputs: Vec<(String, SchemaRef, Mutex<PartWriter>)>,
    quarantine: Mutex<Quarantine>,
    present: Mutex<String>,
    tables: Mutex<Vec<Grid>>,
}

#[derive(Default)]
struct Quarantine {
    file: Option<HashedFile>,
    reasons: IndexMap<String, u64>,
}

/// What the manifest says beyond what the writer has seen.
pub struct Commit {
    pub pipeline: String,
    pub node: NodeName,
    pub op: String,
    pub op_version: u32,
    pub ingredients: IndexMap<String, String>,
    pub inputs: Vec<InputRef>,
    pub rows_in: u64,
    pub tokens: u64,
    pub seconds: f64,
}

/// A lock's content. A thread that panicked while holding it has failed its node, and that is reported there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl ArtifactWriter {
    pub(super) fn new(
        store: Store,
        fingerprint: Fingerprint,
        folder: tempfile::TempDir,
        outputs: &[(&str, SchemaRef)],
    ) -> Result<Self, RunError> {
        let mut writers = Vec::new();
        for (name, schema) in outputs {
            let at = folder.path().join(name);
            fs::create_dir(&at).map_err(|e| io_error("create", &at, &e))?;
            let writer = PartWriter::new(folder.path(), name, schema);
            writers.push((name.to_string(), schema.clone(), Mutex::new(writer)));
        }
        Ok(Self {
            store,
            fingerprint,
            folder,
            outputs: writers,
            quarantine: Mutex::default(),
            present: Mutex::default(),
            tables: Mutex::default(),
        })
    }

    /// Adds rows to an output; `sizes` are their [`row_bytes`](super::row_bytes).
    pub fn push(&self, output: usize, batch: &RecordBatch, sizes: &[u64]) -> Result<(), RunError> {
        lock(&self.outputs[output].2).push(batch, sizes)
    }

    /// Adds a row to the quarantine.
    pub fn reject(&self, row: &Rejected) -> Result<(), RunError> {
        let mut quarantine = lock(&self.quarantine);
        if quarantine.file.is_none() {
            quarantine.file = Some(HashedFile::create(self.folder.path(), "quarantine.jsonl")?);
        }
        *quarantine.reasons.entry(row.reason.to_string()).or_default() += 1;
        let line = serde_json::json!({"id": row.id, "reason": row.reason, "message": row.message, "row": row.row});
        let file = quarantine.file.as_mut().expect("made above");
        writeln!(file, "{line}").map_err(|e| io_error("write", file.path(), &e))
    }

    /// Rejected rows so far.
    pub fn rejected(&self) -> u64 {
        lock(&self.quarantine).reasons.values().sum()
    }

    /// Where the session builds what it has not finished.
    pub fn building(&self) -> &Path {
        self.folder.path().parent().unwrap_or(self.folder.path())
    }

    /// A path for a file of the user's, by its name in the run folder.
    pub fn file(&self, name: &str) -> Result<PathBuf, RunError> {
        let inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || name.is_empty() || name.ends_with('/') {
            return Err(RunError::failed(
                "bad-file-name",
                format!("`{name}` is not a path inside the run folder (relative, without `..`)"),
            ));
        }
        let path = self.folder.path().join("files").join(name);
        let parent = path.parent().expect("joined to a folder");
        fs::create_dir_all(parent).map_err(|e| io_error("create", parent, &e))?;
        Ok(path)
    }

    /// Adds text for the end of the run.
    pub fn present(&self, text: &str) {
        let mut all = lock(&self.present);
        all.push_str(text);
        if !text.ends_with('\n') {
            all.push('\n');
        }
    }

    /// Keeps a table as people are shown it.
    pub fn show(&self, table: &Grid) {
        lock(&self.tables).push(table.clone());
    }

    /// Finishes the artifact and moves it into place. When another process was first, its artifact stays and is given.
    pub fn commit(self, commit: Commit) -> Result<Artifact, RunError> {
        let folder = self.folder.path();
        let mut outputs = Vec::new();
        for (name, schema, writer) in self.outputs {
            let parts = writer.into_inner().unwrap_or_else(|e| e.into_inner()).finish()?;
            let rows = parts.iter().map(|p| p.rows).sum();
            outputs.push(Output { name, columns: columns(&schema), rows, parts });
        }
        let quarantine = self.quarantine.into_inner().unwrap_or_else(|e| e.into_inner());
        let present = self.present.into_inner().unwrap_or_else(|e| e.into_inner());
        let tables = self.tables.into_inner().unwrap_or_else(|e| e.into_inner());
        let tables_text = serde_json::to_string(&tables).expect("tables are texts");
        let manifest = Manifest {
            format: FORMAT,
            fingerprint: self.fingerprint.clone(),
            pipeline: commit.pipeline,
            node: commit.node,
            op: commit.op,
            op_version: commit.op_version,
            idiolect: env!("CARGO_PKG_VERSION").to_string(),
            created: rfc3339(std::time::SystemTime::now()),
            ingredients: commit.ingredients,
            inputs: commit.inputs,
            outputs,
            files: user_files(folder)?,
            quarantine: quarantine.file.map(HashedFile::finish).transpose()?,
            present: (!present.is_empty()).then(|| write_hashed(folder, "present.txt", &present)).transpose()?,
            tables: (!tables.is_empty()).then(|| write_hashed(folder, "tables.json", &tables_text)).transpose()?,
            rows_in: commit.rows_in,
            rejected: quarantine.reasons,
            tokens: commit.tokens,
            seconds: commit.seconds,
        };
        let text = serde_json::to_string_pretty(&manifest).expect("a manifest has string keys only");
        write_hashed(folder, "manifest.json", &text)?;
        move_into_place(&self.store, &self.fingerprint, self.folder)
    }
}

fn write_hashed(folder: &Path, name: &str, text: &str) -> Result<FileEntry, RunError> {
    let mut file = HashedFile::create(folder, name)?;
    file.write_all(text.as_bytes()).map_err(|e| io_error("write", file.path(), &e))?;
    file.finish()
}

fn move_into_place(store: &Store, fingerprint: &Fingerprint, folder: tempfile::TempDir) -> Result<Artifact, RunError> {
    let target = store.folder_of(fingerprint);
    let parent = target.parent().expect("an artifact lies in a folder of the store");
    fs::create_dir_all(parent).map_err(|e| io_error("create", parent, &e))?;
    loop {
        match fs::rename(folder.path(), &target) {
            Ok(()) => {
                let _ = folder.keep();
                break;
            }
            // A folder with content is never replaced by a rename: somebody finished the same artifact first.
            Err(_) if target.exists() => match store.look(fingerprint) {
                Found::Whole(theirs) => return Ok(*theirs),
                Found::Broken(_) => drop(store.set_aside(fingerprint)?),
                Found::Missing => {}
            },
            Err(e) => return Err(io_error("move an artifact to", &target, &e)),
        }
    }
    Artifact::read(&target).map_err(|why| super::parts::broken(&target, &why))
}

/// The files that a node wrote under `files/`, in order of their names.
fn user_files(folder: &Path) -> Result<Vec<FileEntry>, RunError> {
    let mut entries = Vec::new();
    let mut folders = vec![folder.join("files")];
    while let Some(at) = folders.pop() {
        let list = match fs::read_dir(&at) {
            Ok(list) => list,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(io_error("read", &at, &e)),
        };
        for entry in list {
            let path = entry.map_err(|e| io_error("read", &at, &e))?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                entries.push(file_entry(folder, &path)?);
            }
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn file_entry(folder: &Path, path: &Path) -> Result<FileEntry, RunError> {
    let fail = |e: std::io::Error| io_error("read", path, &e);
    let mut file = File::open(path).map_err(fail)?;
    let mut hasher = blake3::Hasher::new();
    let bytes = std::io::copy(&mut file, &mut hasher).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    let inside = path.strip_prefix(folder).expect("listed below it");
    let names: Vec<_> = inside.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    Ok(FileEntry { path: names.join("/"), bytes, blake3: hasher.finalize().to_hex().to_string() })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::exec::Stop;
    use arrow::array::{ArrayRef, StringArray};
    use std::sync::Arc;

    pub fn fingerprint(of: &str) -> Fingerprint {
        Fingerprint(blake3::hash(of.as_bytes()).to_hex().to_string())
    }

    pub fn commit_of(name: &str) -> Commit {
        Commit {
            pipeline: "test".into(),
            node: NodeName::plain(name),
            op: "load".into(),
            op_version: 1,
            ingredients: IndexMap::from([("op".to_string(), "load 1".to_string())]),
            inputs: Vec::new(),
            rows_in: 3,
            tokens: 0,
            seconds: 0.0,
        }
    }

    pub fn rows(n: usize) -> RecordBatch {
        let id: ArrayRef = Arc::new(StringArray::from_iter_values((0..n).map(|i| format!("r:{i}"))));
        RecordBatch::try_from_iter([("id", id)]).unwrap()
    }

    /// Puts an artifact of `n` rows into the store.
    pub fn put(store: &Store, name: &str, n: usize) -> Fingerprint {
        let session = store.session(&Stop::default()).unwrap();
        let fingerprint = fingerprint(name);
        let batch = rows(n);
        let writer = session.begin(&fingerprint, &[("out", batch.schema())]).unwrap();
        writer.push(0, &batch, &super::super::row_bytes(&batch)).unwrap();
        writer.commit(commit_of(name)).unwrap();
        fingerprint
    }

    fn collect(artifact: &Artifact, batch_rows: usize) -> Vec<RecordBatch> {
        artifact.rows(0, batch_rows).map(Result::unwrap).collect()
    }

    #[test]
    fn an_artifact_is_there_only_when_committed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let session = store.session(&Stop::default()).unwrap();
        let print = fingerprint("a");
        let batch = rows(100);
        let writer = session.begin(&print, &[("out", batch.schema()), ("rest", batch.schema())]).unwrap();
        writer.push(0, &batch, &super::super::row_bytes(&batch)).unwrap();
        fs::write(writer.file("sub/table.csv").unwrap(), "a,b\n").unwrap();
        assert!(writer.file("../x").is_err() && writer.file("/x").is_err() && writer.file("").is_err());
        writer.present("hello");
        let bad =
            Rejected { id: "r:7".into(), reason: "too-long", message: "m".into(), row: serde_json::json!({"x": 1}) };
        writer.reject(&bad).unwrap();
        assert!(matches!(store.look(&print), Found::Missing));
        writer.commit(commit_of("a")).unwrap();
        let artifact = store.artifact(&print).unwrap();
        assert_eq!(collect(&artifact, 30).iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [30, 30, 30, 10]);
        assert_eq!(collect(&artifact, 1000), [batch]);
        assert_eq!(artifact.output(1).rows, 0);
        assert_eq!(artifact.rows(1, 10).count(), 0);
        assert_eq!(artifact.presented().unwrap().unwrap(), "hello\n");
        assert_eq!(artifact.files().map(|f| f.0.to_string()).collect::<Vec<_>>(), ["sub/table.csv"]);
        assert_eq!(artifact.manifest.rejected["too-long"], 1);
        assert!(matches!(store.verify(&print), Found::Whole(_)));
    }

    #[test]
    fn the_first_to_finish_wins() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (one, two) = (store.session(&Stop::default()).unwrap(), store.session(&Stop::default()).unwrap());
        let (print, batch) = (fingerprint("a"), rows(5));
        let first = one.begin(&print, &[("out", batch.schema())]).unwrap();
        let second = two.begin(&print, &[("out", batch.schema())]).unwrap();
        first.commit(commit_of("first")).unwrap();
        let kept = second.commit(commit_of("second")).unwrap();
        assert_eq!(kept.manifest.node.base, "first");
    }

    #[test]
    fn damage_is_found_and_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let print = put(&store, "a", 5);
        let part = store.folder_of(&print).join("out/part-00000.parquet");
        let mut bytes = fs::read(&part).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&part, &bytes).unwrap();
        assert!(matches!(store.look(&print), Found::Whole(_)), "the sizes are right");
        let Found::Broken(why) = store.verify(&print) else { panic!("a changed byte must be found") };
        assert!(why.contains("part-00000.parquet") && why.contains("checksum"), "{why}");
        fs::write(&part, &bytes[..middle]).unwrap();
        assert!(matches!(store.look(&print), Found::Broken(_)), "a cut file is found by its size");
        store.set_aside(&print).unwrap();
        assert!(matches!(store.look(&print), Found::Missing));
        assert_eq!(put(&store, "a", 5), print);
        assert!(store.artifact(&print).is_some());
    }
}
