//! Content-addressed artifacts, manifests written last, journals of finished rows.
//!
//! ```text
//! <store>/
//!   format                           what this folder is, and the layout's version
//!   lock                             shared by runs, exclusive for `gc`
//!   artifacts/<aa>/<fingerprint>/    manifest.json, <output>/part-00000.parquet, quarantine.jsonl, files/, present.txt,
//!                                    tables.json
//!   tmp/<session>/, <session>.lock   artifacts being built; a dead session's are removed by the next one
//!   broken/                          artifacts that failed a check, out of the way
//!   journal/<scope>/                 segments of finished rows, and the fingerprints of the nodes that used them
//!   nodes/<hash>.json                what a node was made of the last time
//!   checkpoints/<fingerprint>        where a node that is under way has got to
//!   progress/<fingerprint>.json      rows finished of a node that has no artifact yet
//!   runs/<time>-<id>.json            which fingerprints a run referred to, for `gc`
//!   digests.jsonl                    digests of input files, by size and change time (kept by the planner)
//! ```
//!
//! Every artifact is named by what it was made of and its manifest is written last, so a store can be filled by
//! several processes at once, and by another scheduler than ours.

pub mod artifact;
mod checkpoint;
mod error;
pub mod gc;
mod journal;
pub mod manifest;
mod memory;
mod parts;
mod pick;
mod session;
mod slab;
mod writer;

pub use artifact::{Artifact, Found};
pub use error::io_error;
pub use journal::{Journal, JournalStore, SegmentJournal};
pub use manifest::Manifest;
pub use memory::{Last, RunRecord};
pub use parts::weigh;
pub use session::Session;
pub use slab::{compact, cut, normal, row_bytes, split};
pub use writer::{ArtifactWriter, Commit};

use crate::exec::RunError;
use crate::plan::Fingerprint;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The layout's version; a store of another version is refused.
pub const FORMAT: u32 = 1;

/// Folders that a store may hold before its format file is seen by a process that opens it at the same time.
const FOLDERS: &[&str] = &["artifacts", "tmp", "broken", "journal", "checkpoints", "nodes", "progress", "runs"];

/// A folder of artifacts and journals. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    /// One reader and writer for each journal scope, shared by the nodes of this process.
    journals: Mutex<HashMap<String, Arc<SegmentJournal>>>,
}

/// The content of the format file.
#[derive(Serialize, Deserialize)]
struct Format {
    what: String,
    version: u32,
}

impl Store {
    /// Opens the store at `root`, creating it when there is nothing yet.
    pub fn open(root: &Path) -> Result<Self, RunError> {
        if let Some(store) = Self::existing(root)? {
            store.make_folders()?;
            return Ok(store);
        }
        fs::create_dir_all(root).map_err(|e| io_error("create the store", root, &e))?;
        let format = Format { what: "idiolect store".into(), version: FORMAT };
        let text = serde_json::to_string(&format).expect("a struct of a string and a number is JSON");
        write_new(root, &root.join("format"), text.as_bytes(), true)?;
        let store = Self::at(root)?;
        store.make_folders()?;
        Ok(store)
    }

    /// The store at `root`, or `None` when there is none; creates nothing, so that `plan` leaves no trace.
    pub fn existing(root: &Path) -> Result<Option<Self>, RunError> {
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) if root.is_file() || e.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(RunError::failed(
                    "store-not-a-folder",
                    format!("a store is a folder, and `{}` is not (or lies below a file)", root.display()),
                )
                .help("give another place with `--store DIR`"));
            }
            Err(e) => return Err(io_error("open the store", root, &e)),
        };
        let path = root.join("format");
        match fs::read(&path) {
            Ok(bytes) => check_format(&path, &bytes)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let foreign = entries.filter_map(Result::ok).map(|e| e.file_name().to_string_lossy().into_owned());
                let mut foreign = foreign
                    .filter(|n| !FOLDERS.contains(&n.as_str()) && !n.starts_with(".new-") && n != "digests.jsonl");
                return match foreign.next() {
                    None => Ok(None),
                    Some(name) => Err(RunError::failed(
                        "not-a-store",
                        format!("`{}` holds other files (such as `{name}`) and is no store", root.display()),
                    )
                    .help("give an empty or a new folder with `--store DIR`")),
                };
            }
            Err(e) => return Err(io_error("read", &path, &e)),
        }
        Self::at(root).map(Some)
    }

    fn at(root: &Path) -> Result<Self, RunError> {
        let root = root.canonicalize().map_err(|e| io_error("open the store", root, &e))?;
        Ok(Self { inner: Arc::new(Inner { root, journals: Mutex::default() }) })
    }

    fn make_folders(&self) -> Result<(), RunError> {
        for name in FOLDERS {
            let path = self.root().join(name);
            fs::create_dir_all(&path).map_err(|e| io_error("create", &path, &e))?;
        }
        Ok(())
    }

    /// Where the store lies.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The folder of an artifact, whether it is there or not.
    pub(crate) fn folder_of(&self, fingerprint: &Fingerprint) -> PathBuf {
        let hex = &fingerprint.0;
        self.root().join("artifacts").join(hex.get(..2).unwrap_or("__")).join(hex)
    }

    /// The journal of a scope, for a node. Nodes of one process with the same scope share it.
    pub fn journal(&self, scope: &serde_json::Value, user: &Fingerprint) -> Result<Arc<SegmentJournal>, RunError> {
        let journal = self.opened(scope, true)?.expect("one is made where there is none");
        journal.note_user(user)?;
        Ok(journal)
    }

    /// The journal of a scope, if there is one: to look into, not to write.
    pub fn existing_journal(&self, scope: &serde_json::Value) -> Result<Option<Arc<SegmentJournal>>, RunError> {
        self.opened(scope, false)
    }

    fn opened(&self, scope: &serde_json::Value, make: bool) -> Result<Option<Arc<SegmentJournal>>, RunError> {
        let text = scope.to_string();
        let hash = blake3::hash(text.as_bytes()).to_hex()[..32].to_string();
        let mut open = self.inner.journals.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(journal) = open.get(&hash) {
            return Ok(Some(journal.clone()));
        }
        let folder = self.root().join("journal").join(&hash);
        if !make && !folder.is_dir() {
            return Ok(None);
        }
        let journal = Arc::new(SegmentJournal::open(&folder, &text)?);
        open.insert(hash, journal.clone());
        Ok(Some(journal))
    }
}

fn check_format(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    let found = serde_json::from_slice::<Format>(bytes);
    match found {
        Ok(f) if f.what == "idiolect store" && f.version == FORMAT => Ok(()),
        Ok(f) if f.what == "idiolect store" => Err(RunError::failed(
            "store-version",
            format!("`{}` says version {}, and this idiolect reads version {FORMAT}", path.display(), f.version),
        )
        .help("use the idiolect that made the store, or give a new folder with `--store DIR`")),
        _ => Err(RunError::failed("not-a-store", format!("`{}` is not the format file of a store", path.display()))
            .help("give an empty or a new folder with `--store DIR`")),
    }
}

/// Writes a small file so that readers see all of it or nothing, also after a kill. For notes that can be made again:
/// it does not wait for the disk, so a power cut may take the file away.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    write_new(path.parent().unwrap_or(Path::new(".")), path, bytes, false)
}

/// As [`write_atomically`]; the new file is in `folder` until it is whole, on the same file system.
fn write_by_way_of(folder: &Path, path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    write_new(folder, path, bytes, false)
}

fn write_new(folder: &Path, path: &Path, bytes: &[u8], durable: bool) -> Result<(), RunError> {
    let fail = |e: std::io::Error| io_error("write", path, &e);
    let mut file = new_file(folder, ".new-", "").map_err(fail)?;
    std::io::Write::write_all(&mut file, bytes).map_err(fail)?;
    if durable {
        file.as_file().sync_all().map_err(fail)?;
    }
    file.persist(path).map_err(|e| io_error("write", path, &e.error))?;
    Ok(())
}

/// A file with a name of its own. Who else may read it is left to the user's umask: stores and run folders are shared.
pub fn new_file(folder: &Path, prefix: &str, suffix: &str) -> std::io::Result<tempfile::NamedTempFile> {
    let mode = fs::Permissions::from_mode(0o666);
    tempfile::Builder::new().prefix(prefix).suffix(suffix).permissions(mode).tempfile_in(folder)
}

/// As [`new_file`], for a folder.
pub(crate) fn new_folder(folder: &Path, prefix: &str) -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(prefix).permissions(fs::Permissions::from_mode(0o777)).tempdir_in(folder)
}

/// Makes a new file in `folder` outlive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), RunError> {
    fs::File::open(folder).and_then(|f| f.sync_all()).map_err(|e| io_error("sync", folder, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(error: RunError) -> &'static str {
        match error {
            RunError::Failed { code, .. } => code,
            other => panic!("not a failure: {other}"),
        }
    }

    #[test]
    fn opens_twice_and_creates_nothing_when_only_looking() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        assert!(Store::existing(&root).unwrap().is_none());
        assert!(!root.exists());
        Store::open(&root).unwrap();
        Store::open(&root).unwrap();
        assert!(Store::existing(&root).unwrap().is_some());
    }

    #[test]
    fn refuses_what_is_no_store() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert_eq!(code(Store::open(&file).err().unwrap()), "store-not-a-folder");
        assert_eq!(code(Store::open(&file.join("below")).err().unwrap()), "store-not-a-folder");
        assert_eq!(code(Store::open(dir.path()).err().unwrap()), "not-a-store");
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("format"), r#"{"what":"idiolect store","version":99}"#).unwrap();
        assert_eq!(code(Store::open(&other).err().unwrap()), "store-version");
        fs::write(other.join("format"), "garbage").unwrap();
        assert_eq!(code(Store::open(&other).err().unwrap()), "not-a-store");
    }
}
