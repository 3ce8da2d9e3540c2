//! Where a long computation had got to when its process ended: one file for each node that is under way.

use super::{Store, write_by_way_of};
use crate::exec::RunError;
use crate::plan::Fingerprint;
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of the digest that ends a file.
const DIGEST: usize = blake3::OUT_LEN;

impl Store {
    pub(super) fn checkpoints(&self) -> PathBuf {
        self.root().join("checkpoints")
    }

    fn checkpoint_path(&self, fingerprint: &Fingerprint) -> PathBuf {
        self.checkpoints().join(&fingerprint.0)
    }

    /// What was last kept of a node that was begun and not finished. A file that is not what was written (after a power
    /// cut) is as good as none.
    pub fn checkpoint(&self, fingerprint: &Fingerprint) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.checkpoint_path(fingerprint)).ok()?;
        let digest = bytes.split_off(bytes.len().checked_sub(DIGEST)?);
        (blake3::hash(&bytes).as_bytes()[..] == digest[..]).then_some(bytes)
    }

    /// Keeps where a node has got to, in place of what was kept before. It is written in `building`, a folder of the
    /// session, and moved: what a kill cuts off goes with the dead session's folder.
    pub fn set_checkpoint(
        &self,
        fingerprint: &Fingerprint,
        mut bytes: Vec<u8>,
        building: &Path,
    ) -> Result<(), RunError> {
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        write_by_way_of(building, &self.checkpoint_path(fingerprint), &bytes)
    }

    /// Forgets where a node had got to: it is finished.
    pub fn clear_checkpoint(&self, fingerprint: &Fingerprint) {
        let _ = fs::remove_file(self.checkpoint_path(fingerprint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::writer::tests::fingerprint;

    #[test]
    fn what_was_kept_is_found_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let print = fingerprint("a");
        assert!(store.checkpoint(&print).is_none());
        let building = dir.path().join("tmp");
        store.set_checkpoint(&print, b"one".to_vec(), &building).unwrap();
        store.set_checkpoint(&print, b"another".to_vec(), &building).unwrap();
        assert_eq!(store.checkpoint(&print).unwrap(), b"another");
        let path = store.checkpoint_path(&print);
        let files = |folder: &Path| fs::read_dir(folder).unwrap().count();
        assert_eq!((files(&store.checkpoints()), files(&building)), (1, 0));
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..5], &[], &[whole.as_slice(), b"x"].concat()] {
            fs::write(&path, damaged).unwrap();
            assert!(store.checkpoint(&print).is_none());
        }
        store.clear_checkpoint(&print);
        assert!(!path.exists());
    }
}
