//! Digests of input files, remembered by size and change time.

use super::memory::{read_json, write_json};
use super::{Store, io_error};
use crate::exec::RunError;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A file changed within this time of its digest may change again without a new time stamp.
const RACY: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize, PartialEq, Clone)]
struct Stamp {
    bytes: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Serialize, Deserialize)]
struct Known {
    stamp: Stamp,
    blake3: String,
}

impl Stamp {
    fn of(file: &File) -> std::io::Result<(Self, SystemTime)> {
        let m = file.metadata()?;
        let stamp = Self {
            bytes: m.len(),
            inode: m.ino(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        };
        Ok((stamp, m.modified()?))
    }
}

impl Store {
    /// The BLAKE3 digest of a file, in hex; read again only when the file has changed.
    pub fn file_digest(&self, path: &Path) -> Result<String, RunError> {
        let fail = |e: std::io::Error| io_error("read", path, &e);
        let real = path.canonicalize().map_err(fail)?;
        let file = File::open(&real).map_err(fail)?;
        let (stamp, modified) = Stamp::of(&file).map_err(fail)?;
        let name = blake3::hash(real.as_os_str().as_encoded_bytes()).to_hex();
        let note = self.root().join("digests").join(format!("{}.json", &name[..32]));
        if let Some(known) = read_json::<Known>(&note).filter(|k| k.stamp == stamp) {
            return Ok(known.blake3);
        }
        let blake3 = digest(&file).map_err(fail)?;
        let settled = SystemTime::now().duration_since(modified).is_ok_and(|age| age > RACY);
        if settled && Stamp::of(&file).is_ok_and(|(now, _)| now == stamp) {
            // A store that cannot be written is told where it matters; here it only costs time.
            let _ = write_json(&note, &Known { stamp, blake3: blake3.clone() });
        }
        Ok(blake3)
    }
}

/// The BLAKE3 digest of a file, in hex, without a store to remember it.
pub fn file_digest(path: &Path) -> Result<String, RunError> {
    File::open(path).and_then(|f| digest(&f)).map_err(|e| io_error("read", path, &e))
}

fn digest(file: &File) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut &*file, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_digest_is_read_again_when_the_file_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let path = dir.path().join("data");
        let age = |secs: u64| {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(secs)).unwrap();
        };
        let notes = || fs::read_dir(dir.path().join("store/digests")).unwrap().count();
        fs::write(&path, "one").unwrap();
        assert_eq!(store.file_digest(&path).unwrap(), blake3::hash(b"one").to_hex().as_str());
        assert_eq!(notes(), 0, "a file that was just written is not trusted");
        age(100);
        store.file_digest(&path).unwrap();
        assert_eq!(notes(), 1);
        fs::write(&path, "two").unwrap();
        age(100);
        assert_eq!(store.file_digest(&path).unwrap(), blake3::hash(b"two").to_hex().as_str());
    }
}
