//! The user cache: digests of files, locks between processes, atomic appearance.

use super::error::{FetchError, Kind};
use super::progress::{Event, Progress};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The SHA-256 of a file, in lower-case hex.
pub fn sha256(path: &Path) -> Result<String, FetchError> {
    let mut file = File::open(path).map_err(|e| FetchError::io("read", path, &e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(FetchError::io("read", path, &e)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Digests of large files, remembered by path, size and time of change so that weights are read once.
#[derive(Debug, Clone)]
pub struct Digests {
    folder: PathBuf,
}

impl Digests {
    /// Smaller files are read each time: that is as quick as looking the digest up.
    const REMEMBERED: u64 = 1 << 20;

    pub fn new(cache: &Path) -> Self {
        Self { folder: cache.join("digests") }
    }

    /// The SHA-256 of a file. A memory that cannot be read or written costs time and nothing else.
    pub fn sha256(&self, path: &Path) -> Result<String, FetchError> {
        let path = fs::canonicalize(path).map_err(|e| FetchError::io("read", path, &e))?;
        let meta = fs::metadata(&path).map_err(|e| FetchError::io("read", &path, &e))?;
        let changed = meta.modified().ok();
        // A file changed a moment ago may change again within the clock's grain.
        let settled = changed.and_then(|t| SystemTime::now().duration_since(t).ok()) > Some(Duration::from_secs(2));
        let stamp = changed.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
        if meta.len() < Self::REMEMBERED || !settled {
            return sha256(&path);
        }
        let key = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
        let memory = self.folder.join(&key.as_str()[..32]);
        let stamp = format!("{} {stamp}", meta.len());
        if let Ok(text) = fs::read_to_string(&memory)
            && let Some((digest, remembered)) = text.trim_end().split_once(' ')
            && remembered == stamp
            && digest.len() == 64
        {
            return Ok(digest.to_string());
        }
        let digest = sha256(&path)?;
        let _ = write_atomic(&memory, format!("{digest} {stamp}\n").as_bytes());
        Ok(digest)
    }
}

/// Writes a small file so that readers see all of it or none.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<(), FetchError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    create_folder(folder)?;
    let fail = |e: std::io::Error| FetchError::io("write", path, &e);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    file.write_all(content).map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

pub fn create_folder(path: &Path) -> Result<(), FetchError> {
    fs::create_dir_all(path).map_err(|e| FetchError::io("make the folder", path, &e))
}

/// Moves a finished file into place, durably.
pub fn put_in_place(part: &Path, target: &Path) -> Result<(), FetchError> {
    let fail = |e: std::io::Error| FetchError::io("write", target, &e);
    File::open(part).and_then(|f| f.sync_all()).map_err(fail)?;
    if let Some(folder) = target.parent() {
        create_folder(folder)?;
    }
    fs::rename(part, target).map_err(fail)
}

pub fn remove_if_there(path: &Path) -> Result<(), FetchError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(FetchError::io("remove", path, &e)),
        _ => Ok(()),
    }
}

/// `path` with something behind its name: `weights.gguf` -> `weights.gguf.part`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

/// Held while a file is fetched, so that two processes do not write one part file. Freed when dropped, also
/// by a crash: the operating system owns it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock at `path`, telling so if another process holds it.
    pub fn take(path: &Path, file: &str, progress: &dyn Progress) -> Result<Self, FetchError> {
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        let fail = |e: std::io::Error| FetchError::io("lock", path, &e);
        let handle = File::options().create(true).truncate(false).write(true).open(path).map_err(fail)?;
        let mut told = false;
        loop {
            match handle.try_lock() {
                Ok(()) => return Ok(Self { _file: handle }),
                Err(fs::TryLockError::Error(e)) => return Err(fail(e)),
                Err(fs::TryLockError::WouldBlock) => {}
            }
            if !told {
                progress.event(Event::Waiting { file });
                told = true;
            }
            if progress.stopping() {
                return Err(interrupted());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub fn interrupted() -> FetchError {
    FetchError::new(Kind::Interrupted, "stopped; what came so far is kept").help("the same command goes on from there")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::progress::Quiet;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn digests_are_those_of_the_content_also_after_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let (file, digests) = (folder.path().join("f"), Digests::new(folder.path()));
        fs::write(&file, "abc").unwrap();
        assert_eq!(digests.sha256(&file).unwrap(), ABC);
        fs::write(&file, "abd").unwrap();
        assert_ne!(digests.sha256(&file).unwrap(), ABC);
    }

    #[test]
    fn a_settled_large_file_is_remembered_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (file, digests) = (folder.path().join("f"), Digests::new(folder.path()));
        let age = |seconds| {
            let time = SystemTime::now() - Duration::from_secs(seconds);
            File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        };
        fs::write(&file, vec![7; 2 << 20]).unwrap();
        age(60);
        let first = digests.sha256(&file).unwrap();
        let memory = fs::read_dir(folder.path().join("digests")).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(&memory).unwrap();
        // A memory that lies is believed, which shows that it is used.
        fs::write(&memory, text.replace(&first, ABC)).unwrap();
        assert_eq!(digests.sha256(&file).unwrap(), ABC);
        age(50);
        assert_eq!(digests.sha256(&file).unwrap(), first);
    }

    #[test]
    fn a_second_taker_waits_for_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let held = Lock::take(&path, "x", &Quiet).unwrap();
        struct Stop(std::sync::atomic::AtomicBool);
        impl Progress for Stop {
            fn event(&self, event: Event<'_>) {
                assert!(matches!(event, Event::Waiting { file: "x" }));
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
            fn stopping(&self) -> bool {
                self.0.load(std::sync::atomic::Ordering::SeqCst)
            }
        }
        let refused = Lock::take(&path, "x", &Stop(false.into())).unwrap_err();
        assert_eq!(refused.kind, Kind::Interrupted);
        drop(held);
        Lock::take(&path, "x", &Quiet).unwrap();
    }
}
