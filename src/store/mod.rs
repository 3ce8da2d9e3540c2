//! Content-addressed artifacts, manifests written last, journals of finished rows.

use crate::exec::RunError;

/// Results by content key, appended as they are computed and kept across crashes and runs.
pub struct Journal {
    inner: Box<dyn JournalStore>,
}

/// What is behind a [`Journal`]: segment files in a store, or memory in tests.
pub trait JournalStore: Send + Sync {
    fn get(&self, key: &[u8; 16]) -> Option<Vec<u8>>;
    fn put(&self, entries: &[([u8; 16], Vec<u8>)]) -> Result<(), RunError>;
}

impl Journal {
    pub fn new(inner: Box<dyn JournalStore>) -> Self {
        Self { inner }
    }

    /// A finished result.
    pub fn get(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        self.inner.get(key)
    }

    /// Records finished results durably; when it returns they outlive a kill.
    pub fn put(&self, entries: &[([u8; 16], Vec<u8>)]) -> Result<(), RunError> {
        self.inner.put(entries)
    }

    /// The key of a row: a hash of the cells that its result depends on, each with its length.
    pub fn key(cells: &[&[u8]]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        for cell in cells {
            hasher.update(&(cell.len() as u64).to_le_bytes());
            hasher.update(cell);
        }
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        key
    }
}
