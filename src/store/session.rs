//! A process at work in a store: it holds the store's lock and a folder for what it builds.

use super::writer::ArtifactWriter;
use super::{Store, io_error, new_file, new_folder};
use crate::exec::{RunError, Stop};
use crate::plan::Fingerprint;
use arrow::datatypes::SchemaRef;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ends the name of a session's lock.
const LOCK: &str = ".lock";

/// Held while a run works in the store. Several runs share a store; `gc` has it alone.
pub struct Session {
    store: Store,
    /// Its name is the lock's without the extension.
    folder: PathBuf,
    lock: PathBuf,
    /// Locked until this process ends, be it killed: so others know a dead session's folder.
    _own: File,
    _shared: File,
}

impl Store {
    /// Starts to work in the store. Waits while `gc` has it, until told to stop.
    pub fn session(&self, stop: &Stop) -> Result<Session, RunError> {
        let path = self.root().join("lock");
        let shared = open_lock(&path)?;
        loop {
            match shared.try_lock_shared() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if stop.is_set() => return Err(RunError::Interrupted),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
                Err(TryLockError::Error(e)) => return Err(io_error("lock", &path, &e)),
            }
        }
        let tmp = self.root().join("tmp");
        remove_dead_sessions(&tmp);
        let (own, lock) = own_lock(&tmp)?;
        let folder = lock.with_extension("");
        fs::create_dir(&folder).map_err(|e| io_error("create", &folder, &e))?;
        Ok(Session { store: self.clone(), folder, lock, _own: own, _shared: shared })
    }

    /// The store for this process alone, or `None` while a run works in it.
    pub fn exclusive(&self) -> Result<Option<File>, RunError> {
        let path = self.root().join("lock");
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(io_error("lock", &path, &e)),
        }
    }
}

fn open_lock(path: &Path) -> Result<File, RunError> {
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
    file.map_err(|e| io_error("open", path, &e))
}

/// A new file in `tmp`, locked by this process.
fn own_lock(tmp: &Path) -> Result<(File, PathBuf), RunError> {
    let fail = |e: std::io::Error| io_error("create a lock in", tmp, &e);
    loop {
        let (file, path) = new_file(tmp, "session-", LOCK).map_err(fail)?.keep().map_err(|e| fail(e.error))?;
        file.lock_shared().map_err(|e| io_error("lock", &path, &e))?;
        // Another process may have taken it for a dead one's, and removed it, before it was locked.
        let inode = |m: std::io::Result<fs::Metadata>| m.map(|m| m.ino()).ok();
        if inode(file.metadata()) == inode(fs::metadata(&path)) {
            return Ok((file, path));
        }
    }
}

/// Removes what killed processes were building. Failures are harmless: the folders only take space. The lock goes
/// last, so that a kill in between leaves what the next process finds.
pub(super) fn remove_dead_sessions(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    let locks = entries.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.to_string_lossy().ends_with(LOCK));
    for path in locks {
        let Ok(lock) = File::options().read(true).write(true).open(&path) else { continue };
        if lock.try_lock().is_ok() {
            remove_session(&path);
        }
    }
}

fn remove_session(lock: &Path) {
    let folder = lock.with_extension("");
    if fs::remove_dir_all(&folder).is_ok() || !folder.exists() {
        let _ = fs::remove_file(lock);
    }
}

impl Session {
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Starts an artifact with these outputs (name and schema).
    pub fn begin(&self, fingerprint: &Fingerprint, outputs: &[(&str, SchemaRef)]) -> Result<ArtifactWriter, RunError> {
        let folder = new_folder(&self.folder, &format!("{}-", fingerprint.short()));
        let folder = folder.map_err(|e| io_error("create a folder in", &self.folder, &e))?;
        ArtifactWriter::new(self.store.clone(), fingerprint.clone(), folder, outputs)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        remove_session(&self.lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_share_a_store_and_gc_has_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let one = store.session(&Stop::default()).unwrap();
        let two = store.session(&Stop::default()).unwrap();
        assert!(store.exclusive().unwrap().is_none());
        drop(one);
        assert!(store.exclusive().unwrap().is_none());
        drop(two);
        assert!(store.exclusive().unwrap().is_some());
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_a_living_one_builds_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let living = store.session(&Stop::default()).unwrap();
        let tmp = dir.path().join("tmp");
        fs::create_dir(tmp.join("session-dead")).unwrap();
        fs::write(tmp.join("session-dead.lock"), "").unwrap();
        // Killed before it had a folder, or while it went.
        fs::write(tmp.join("session-begun.lock"), "").unwrap();
        let next = store.session(&Stop::default()).unwrap();
        assert!(living.folder.exists() && next.folder.exists());
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 4, "two sessions with their locks");
        drop((living, next));
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    }
}
