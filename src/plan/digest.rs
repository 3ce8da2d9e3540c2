//! Content digests of the files that nodes read, remembered between runs.

use crate::config::NodeDecl;
use crate::diag::{Diagnostic, Diagnostics};
use crate::ops::Resolved;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file touched this recently may change again without its time or size telling.
const SETTLED: Duration = Duration::from_secs(2);

/// What stands for the digest of a file that is not there.
pub const ABSENT: &str = "absent";

/// BLAKE3 digests of files, keyed by path, size, modification time and inode, so that a large file is read once.
pub struct FileDigests {
    known: Mutex<HashMap<PathBuf, Entry>>,
    /// One JSON entry a line; later lines win, torn lines are passed over.
    log: Option<PathBuf>,
    read_files: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    path: PathBuf,
    size: u64,
    modified: u128,
    inode: u64,
    digest: String,
}

impl FileDigests {
    /// Reads no file: every digest is that of the path. For checks, whose fingerprints nobody uses.
    pub fn off() -> Self {
        Self { known: Mutex::default(), log: None, read_files: false }
    }

    /// Remembers digests in this process only.
    pub fn in_memory() -> Self {
        Self { known: Mutex::default(), log: None, read_files: true }
    }

    /// Remembers digests in a folder (the store's), for later runs. A folder that cannot be read or written costs
    /// time, not correctness.
    pub fn kept_in(folder: &Path) -> Self {
        let log = folder.join("digests.jsonl");
        let mut known = HashMap::new();
        let mut lines = 0;
        if let Ok(file) = File::open(&log) {
            for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
                lines += 1;
                if let Ok(entry) = serde_json::from_slice::<Entry>(&line) {
                    known.insert(entry.path.clone(), entry);
                }
            }
        }
        if lines > 2 * known.len() + 100 {
            rewrite(&log, &known);
        }
        Self { known: Mutex::new(known), log: Some(log), read_files: true }
    }

    /// The digest of a file's content, or of a folder's names and contents.
    pub fn digest(&self, path: &Path) -> io::Result<String> {
        if !self.read_files {
            return Ok(format!("unread: {}", path.display()));
        }
        let meta = std::fs::metadata(path)?;
        if meta.is_dir() {
            return self.folder(path);
        }
        let key = std::fs::canonicalize(path)?;
        let mut entry = Entry { path: key, digest: String::new(), ..stamp(&meta) };
        let known = self.known.lock().unwrap_or_else(|e| e.into_inner()).get(&entry.path).cloned();
        if let Some(known) = known {
            entry.digest.clone_from(&known.digest);
            if known == entry {
                return Ok(known.digest);
            }
        }
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut File::open(path)?, &mut hasher)?;
        entry.digest = hasher.finalize().to_hex().to_string();
        self.remember(&entry);
        Ok(entry.digest)
    }

    fn folder(&self, path: &Path) -> io::Result<String> {
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<io::Result<_>>()?;
        names.sort();
        let mut hasher = blake3::Hasher::new();
        for name in names {
            let file = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
            hasher.update(&(file.len() as u64).to_le_bytes());
            hasher.update(file.as_bytes());
            hasher.update(self.digest(&name)?.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn remember(&self, entry: &Entry) {
        let settled = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        if entry.modified + SETTLED.as_nanos() > settled {
            return;
        }
        self.known.lock().unwrap_or_else(|e| e.into_inner()).insert(entry.path.clone(), entry.clone());
        let Some(log) = &self.log else { return };
        let Ok(mut line) = serde_json::to_vec(entry) else { return };
        // The leading newline ends a line that another process left torn.
        line.insert(0, b'\n');
        line.push(b'\n');
        if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(log) {
            let _ = file.write_all(&line);
        }
    }

    /// Path and digest of each file that a node reads, in the operator's order.
    pub(super) fn of_node(
        &self,
        decl: &NodeDecl,
        resolved: &Resolved,
        must_exist: bool,
        found: &mut Diagnostics,
    ) -> Vec<(String, String)> {
        let digest = |path: &PathBuf| {
            let digest = self.digest(path).unwrap_or_else(|error| {
                if must_exist || error.kind() != io::ErrorKind::NotFound {
                    found.push(unreadable(decl, path, &error));
                }
                ABSENT.into()
            });
            (path.display().to_string(), digest)
        };
        resolved.files.iter().map(digest).collect()
    }
}

fn unreadable(decl: &NodeDecl, path: &Path, error: &io::Error) -> Diagnostic {
    let (name, file) = (&decl.name, path.display());
    let d = match error.kind() {
        io::ErrorKind::NotFound => {
            Diagnostic::error("file-missing", format!("`{name}` reads `{file}`, and there is no such file"))
                .help("check the path: it is relative to the file that names it")
        }
        _ => Diagnostic::error("file-unreadable", format!("`{name}` cannot read `{file}`: {error}"))
            .help("check the file's permissions"),
    };
    d.at(decl.span, "reads the file")
}

fn stamp(meta: &Metadata) -> Entry {
    let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Entry {
        path: PathBuf::new(),
        size: meta.len(),
        modified: modified.as_nanos(),
        inode: inode(meta),
        digest: String::new(),
    }
}

#[cfg(unix)]
fn inode(meta: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

/// Drops superseded lines. Losing an entry that another process adds meanwhile costs one more reading.
fn rewrite(log: &Path, known: &HashMap<PathBuf, Entry>) {
    let Some(folder) = log.parent() else { return };
    let write = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        for entry in known.values() {
            serde_json::to_writer(&mut file, entry)?;
            file.write_all(b"\n")?;
        }
        file.persist(log)?;
        Ok(())
    };
    let _ = write();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a file and dates it back, so that it counts as settled.
    fn old_file(path: &Path, text: &str, seconds_ago: u64) {
        std::fs::write(path, text).expect("write");
        let file = File::options().write(true).open(path).expect("open");
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds_ago)).expect("set the time");
    }

    #[test]
    fn content_decides_and_is_read_again_when_the_file_changes() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("a.json");
        old_file(&file, "one", 100);
        let digests = FileDigests::in_memory();
        let first = digests.digest(&file).expect("digest");
        assert_eq!(first, blake3::hash(b"one").to_hex().to_string());
        old_file(&file, "two", 50);
        assert_eq!(digests.digest(&file).expect("digest"), blake3::hash(b"two").to_hex().to_string());
    }

    #[test]
    fn a_settled_file_is_read_once_also_by_later_processes() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("a.json");
        old_file(&file, "one", 100);
        let meta = std::fs::metadata(&file).expect("meta");
        let first = FileDigests::kept_in(folder.path()).digest(&file).expect("digest");
        // Same size, time and inode: the cache cannot see this change, which shows that it did not read.
        std::fs::write(&file, "two").expect("write");
        let handle = File::options().write(true).open(&file).expect("open");
        handle.set_modified(meta.modified().expect("time")).expect("set the time");
        assert_eq!(FileDigests::kept_in(folder.path()).digest(&file).expect("digest"), first);
    }

    #[test]
    fn a_file_written_just_now_is_not_trusted_to_stay() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("a.json");
        std::fs::write(&file, "one").expect("write");
        FileDigests::kept_in(folder.path()).digest(&file).expect("digest");
        assert!(!folder.path().join("digests.jsonl").exists());
    }

    #[test]
    fn torn_and_foreign_lines_are_passed_over() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("digests.jsonl"), b"{\"path\":\"x\n\xff\xfe\n{}").expect("write");
        let file = folder.path().join("a.json");
        old_file(&file, "one", 100);
        let digests = FileDigests::kept_in(folder.path());
        assert_eq!(digests.digest(&file).expect("digest"), blake3::hash(b"one").to_hex().to_string());
        let again = FileDigests::kept_in(folder.path());
        assert_eq!(again.known.lock().expect("lock").len(), 1);
    }

    #[test]
    fn a_folder_changes_with_names_and_contents() {
        let folder = tempfile::tempdir().expect("folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        old_file(&a, "one", 100);
        let digests = FileDigests::in_memory();
        let one = digests.digest(folder.path()).expect("digest");
        std::fs::rename(&a, &b).expect("rename");
        let renamed = digests.digest(folder.path()).expect("digest");
        old_file(&b, "two", 50);
        let changed = digests.digest(folder.path()).expect("digest");
        assert!(one != renamed && renamed != changed && one != changed);
    }
}
