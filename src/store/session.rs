//! A process at work in a store: it holds the store's lock and a folder for what it builds.

use super::writer::ArtifactWriter;
use super::{Store, io_error, new_folder};
use crate::exec::{RunError, Stop};
use crate::plan::Fingerprint;
use arrow::datatypes::SchemaRef;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Held while a run works in the store. Several runs share a store; `gc` has it alone.
pub struct Session {
    store: Store,
    folder: PathBuf,
    /// Locked as long as this process lives, also when it is killed: so others know a dead session's folder.
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
        let fail = |e: std::io::Error| io_error("create a folder in", &tmp, &e);
        // Under another name until its lock is held, so that nobody takes it for a dead session's.
        let starting = new_folder(&tmp, "starting-").map_err(fail)?;
        let path = starting.path().join("lock");
        let own = open_lock(&path)?;
        own.lock_shared().map_err(|e| io_error("lock", &path, &e))?;
        let name = starting.path().file_name().expect("made above").to_string_lossy().replace("starting-", "session-");
        let folder = tmp.join(name);
        fs::rename(starting.keep(), &folder).map_err(fail)?;
        Ok(Session { store: self.clone(), folder, _own: own, _shared: shared })
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

/// Removes what killed processes were building. Failures are harmless: the folders only take space.
fn remove_dead_sessions(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    for folder in entries.filter_map(Result::ok).map(|e| e.path()) {
        if !folder.file_name().is_some_and(|n| n.to_string_lossy().starts_with("session-")) {
            continue;
        }
        let Ok(lock) = File::options().read(true).write(true).open(folder.join("lock")) else { continue };
        if lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(&folder);
        }
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
        let _ = fs::remove_dir_all(&self.folder);
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
        let dead = dir.path().join("tmp/session-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        let next = store.session(&Stop::default()).unwrap();
        assert!(!dead.exists());
        assert!(living.folder.exists() && next.folder.exists());
    }
}
