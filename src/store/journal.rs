//! Journals: results by content key, appended as they are computed and kept across crashes and runs.
//!
//! A scope's folder holds segments. A process appends to a segment of its own and reads those of all others, so
//! processes never write into the same file. A segment is a header and records:
//!
//! ```text
//! "idiojnl1" ( length: u32 LE | key: 16 bytes | checksum: 8 bytes | value )*
//! ```
//!
//! Beside them, `users` has the fingerprint of every node that opened the journal, a line each: by them `gc` knows
//! which runs need it.
//!
//! The checksum covers length, key and value. A kill can cut the last record of a segment; what does not
//! check is passed over, and its row is computed again.

use super::{io_error, new_file, sync_folder, write_atomically};
use crate::exec::RunError;
use crate::plan::Fingerprint;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Results by content key, appended as they are computed and kept across crashes and runs.
pub struct Journal {
    inner: Box<dyn JournalStore>,
}

/// What is behind a [`Journal`]: segment files in a store, or memory in tests.
pub trait JournalStore: Send + Sync {
    fn get(&self, key: &[u8; 16]) -> Option<Vec<u8>>;
    fn put(&self, entries: &[([u8; 16], Vec<u8>)]) -> Result<(), RunError>;
    /// Like [`get`](Self::get), of something that is no finished row.
    fn noted(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        self.get(key)
    }
    /// Like [`put`](Self::put), of something that is no finished row.
    fn note(&self, entries: &[([u8; 16], Vec<u8>)]) -> Result<(), RunError> {
        self.put(entries)
    }
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

    /// What [`note`](Self::note) recorded.
    pub fn noted(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        self.inner.noted(key)
    }

    /// Records durably what is no finished row, such as where work was handed on to.
    pub fn note(&self, entries: &[([u8; 16], Vec<u8>)]) -> Result<(), RunError> {
        self.inner.note(entries)
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

/// The file that names the nodes which opened a journal.
const USERS: &str = "users";
const MAGIC: &[u8; 8] = b"idiojnl1";
/// Length, key and checksum.
const HEAD: usize = 4 + 16 + 8;

/// A scope's segments in a store. Values stay on disk; the index holds 40 bytes a row.
pub struct SegmentJournal {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    index: HashMap<[u8; 16], Place>,
    segments: Vec<Arc<File>>,
    own: Option<Own>,
}

#[derive(Clone, Copy)]
struct Place {
    segment: u32,
    length: u32,
    /// Of the value.
    offset: u64,
}

struct Own {
    path: PathBuf,
    segment: u32,
    end: u64,
}

/// What reading a segment found.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Scan {
    pub records: u64,
    /// Bytes that are no valid record.
    pub damaged: u64,
}

impl SegmentJournal {
    /// Opens the journal in `folder`, creating it when there is none; `scope` is kept beside the segments for people.
    pub fn open(folder: &Path, scope: &str) -> Result<Self, RunError> {
        fs::create_dir_all(folder).map_err(|e| io_error("create", folder, &e))?;
        // Written every time: its date says when the journal was last used.
        write_atomically(&folder.join("scope.json"), scope.as_bytes())?;
        let mut state = State::default();
        for path in segments(folder)? {
            let file = File::open(&path).map_err(|e| io_error("open", &path, &e))?;
            let segment = state.segments.len() as u32;
            let index = &mut state.index;
            scan(&file, &path, |key, offset, length| {
                index.insert(key, Place { segment, offset, length });
            })?;
            state.segments.push(Arc::new(file));
        }
        Ok(Self { folder: folder.to_path_buf(), state: Mutex::new(state) })
    }

    /// Notes that a node reads and writes this journal.
    pub fn note_user(&self, user: &Fingerprint) -> Result<(), RunError> {
        if users(&self.folder)?.is_some_and(|all| all.contains(user)) {
            return Ok(());
        }
        let path = self.folder.join(USERS);
        let file = File::options().create(true).append(true).open(&path);
        // One write of a short line: processes that append at once do not mix theirs.
        let written = file.and_then(|mut f| f.write_all(format!("{user}\n").as_bytes()).and_then(|()| f.sync_data()));
        written.map_err(|e| io_error("write", &path, &e))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Finished rows of this scope.
    pub fn len(&self) -> usize {
        self.state().index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands over every finished row, in no particular order.
    pub fn for_each(&self, mut take: impl FnMut([u8; 16], Vec<u8>)) {
        let keys: Vec<[u8; 16]> = self.state().index.keys().copied().collect();
        for key in keys {
            if let Some(value) = self.get(&key) {
                take(key, value);
            }
        }
    }

    fn start_segment(&self, state: &mut State) -> Result<(), RunError> {
        let fail = |e: std::io::Error| io_error("create a segment in", &self.folder, &e);
        let file = new_file(&self.folder, "", ".seg").map_err(fail)?;
        let (mut file, path) = file.keep().map_err(|e| fail(e.error))?;
        file.write_all(MAGIC).map_err(|e| io_error("write", &path, &e))?;
        sync_folder(&self.folder)?;
        let segment = state.segments.len() as u32;
        state.segments.push(Arc::new(file));
        state.own = Some(Own { path, segment, end: MAGIC.len() as u64 });
        Ok(())
    }
}

impl JournalStore for SegmentJournal {
    fn get(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        let (file, place) = {
            let state = self.state();
            let place = *state.index.get(key)?;
            (state.segments[place.segment as usize].clone(), place)
        };
        let mut value = vec![0; place.length as usize];
        // A value that cannot be read any more is computed again.
        file.read_exact_at(&mut value, place.offset).ok()?;
        Some(value)
    }

    fn put(&self, entries: &[([u8; 16], Vec<u8>)]) -> Result<(), RunError> {
        let mut bytes = Vec::new();
        let mut places = Vec::new();
        for (key, value) in entries {
            let length = u32::try_from(value.len()).map_err(|_| {
                RunError::failed("journal-too-large", format!("a result of {} bytes is beyond 4 GiB", value.len()))
            })?;
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(&checksum(length, key, value));
            places.push((*key, bytes.len() as u64, length));
            bytes.extend_from_slice(value);
        }
        if entries.is_empty() {
            return Ok(());
        }
        let mut state = self.state();
        if state.own.is_none() {
            self.start_segment(&mut state)?;
        }
        let State { index, segments, own } = &mut *state;
        let own = own.as_mut().expect("started above");
        let file = &segments[own.segment as usize];
        // Written at a known place and not at the file's end: after a write that failed half way (a full disk) the
        // next one starts where the last whole record ends.
        file.write_all_at(&bytes, own.end)
            .and_then(|()| file.sync_data())
            .map_err(|e| io_error("write", &own.path, &e))?;
        for (key, offset, length) in places {
            index.insert(key, Place { segment: own.segment, length, offset: own.end + offset });
        }
        own.end += bytes.len() as u64;
        Ok(())
    }
}

fn checksum(length: u32, key: &[u8], value: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length.to_le_bytes()).update(key).update(value);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    sum
}

/// The nodes that opened the journal in a folder; `None` when that was never written down.
pub(super) fn users(folder: &Path) -> Result<Option<HashSet<Fingerprint>>, RunError> {
    let path = folder.join(USERS);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.lines().map(|line| Fingerprint(line.to_string())).collect())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("read", &path, &e)),
    }
}

/// The segments of a scope's folder, in order of their names.
pub(super) fn segments(folder: &Path) -> Result<Vec<PathBuf>, RunError> {
    let list = fs::read_dir(folder).map_err(|e| io_error("read", folder, &e))?;
    let mut paths: Vec<PathBuf> =
        list.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "seg")).collect();
    paths.sort();
    Ok(paths)
}

/// Reads a segment and hands over the key, offset and length of every value that checks.
pub(super) fn scan(file: &File, path: &Path, mut found: impl FnMut([u8; 16], u64, u32)) -> Result<Scan, RunError> {
    let fail = |e: std::io::Error| io_error("read", path, &e);
    let end = file.metadata().map_err(fail)?.len();
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut result = Scan::default();
    let mut magic = [0; 8];
    if end < MAGIC.len() as u64 || reader.read_exact(&mut magic).is_err() || &magic != MAGIC {
        result.damaged = end;
        return Ok(result);
    }
    let mut at = MAGIC.len() as u64;
    let mut value = Vec::new();
    while at < end {
        let mut head = [0; HEAD];
        let length = u32::from_le_bytes(match end - at >= HEAD as u64 {
            true => {
                reader.read_exact(&mut head).map_err(fail)?;
                head[..4].try_into().expect("four bytes")
            }
            false => [0xff; 4],
        });
        let start = at + HEAD as u64;
        if start + u64::from(length) > end {
            // A torn tail, or a length that was damaged: there is no next record to find.
            result.damaged += end - at;
            break;
        }
        value.resize(length as usize, 0);
        reader.read_exact(&mut value).map_err(fail)?;
        let key: [u8; 16] = head[4..20].try_into().expect("sixteen bytes");
        if checksum(length, &key, &value) == head[20..] {
            found(key, start, length);
            result.records += 1;
        } else {
            result.damaged += HEAD as u64 + u64::from(length);
        }
        at = start + u64::from(length);
    }
    Ok(result)
}

/// Merges a scope's segments into one without doubles. Only with the store for oneself. Gives the bytes saved.
pub(super) fn compact(folder: &Path) -> Result<u64, RunError> {
    let old = segments(folder)?;
    let size = |p: &PathBuf| fs::metadata(p).map_or(0, |m| m.len());
    let before: u64 = old.iter().map(size).sum();
    let scope = fs::read_to_string(folder.join("scope.json")).unwrap_or_default();
    let used = fs::metadata(folder.join("scope.json")).and_then(|m| m.modified());
    let from = SegmentJournal::open(folder, &scope)?;
    let mut places: Vec<([u8; 16], Place)> = from.state().index.iter().map(|(k, p)| (*k, *p)).collect();
    places.sort_by_key(|(_, p)| (p.segment, p.offset));
    let records: u64 = places.iter().map(|(_, p)| HEAD as u64 + u64::from(p.length)).sum();
    let saved = before.saturating_sub(records + MAGIC.len() as u64);
    if old.len() < 2 && saved == 0 {
        return Ok(0);
    }
    for chunk in places.chunks(1024) {
        let entries: Vec<_> = chunk.iter().filter_map(|(k, _)| from.get(k).map(|v| (*k, v))).collect();
        from.put(&entries)?;
    }
    // The new segment is whole and synced: a kill while the old ones go leaves doubles, and no loss.
    for path in old {
        fs::remove_file(&path).map_err(|e| io_error("remove", &path, &e))?;
    }
    if let Ok(time) = used {
        let _ = File::open(folder.join("scope.json")).and_then(|f| f.set_modified(time));
    }
    Ok(saved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(i: u32) -> ([u8; 16], Vec<u8>) {
        (Journal::key(&[&i.to_le_bytes()]), format!("value {i}").into_bytes())
    }

    fn open(dir: &Path) -> SegmentJournal {
        SegmentJournal::open(&dir.join("scope"), "{}").unwrap()
    }

    #[test]
    fn what_was_put_is_found_by_the_next_process_and_two_write_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (open(dir.path()), open(dir.path()));
        a.put(&[entry(1), entry(2)]).unwrap();
        b.put(&[entry(3)]).unwrap();
        a.put(&[entry(4)]).unwrap();
        assert_eq!(a.get(&entry(4).0).unwrap(), entry(4).1);
        assert!(a.get(&entry(3).0).is_none(), "another process' rows are read when the journal is opened");
        let next = open(dir.path());
        for i in 1..=4 {
            assert_eq!(next.get(&entry(i).0).unwrap(), entry(i).1);
        }
        assert_eq!(segments(&dir.path().join("scope")).unwrap().len(), 2);
    }

    #[test]
    fn compaction_keeps_every_row_once() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..3 {
            open(dir.path()).put(&[entry(1), entry(2), entry(10 + round)]).unwrap();
            let journal = open(dir.path());
            journal.put(&[entry(1)]).unwrap();
        }
        let folder = dir.path().join("scope");
        assert!(compact(&folder).unwrap() > 0);
        assert_eq!(segments(&folder).unwrap().len(), 1);
        let journal = open(dir.path());
        assert_eq!(journal.len(), 5);
        assert_eq!(journal.get(&entry(12).0).unwrap(), entry(12).1);
        assert_eq!(compact(&folder).unwrap(), 0);
    }

    proptest! {
        #[test]
        fn a_torn_or_damaged_segment_gives_only_true_rows(cut in 0usize..400, flip in 0usize..400) {
            let dir = tempfile::tempdir().unwrap();
            let entries: Vec<_> = (0..10).map(entry).collect();
            open(dir.path()).put(&entries).unwrap();
            let path = segments(&dir.path().join("scope")).unwrap().remove(0);
            let mut bytes = fs::read(&path).unwrap();
            let whole = bytes.len();
            bytes.truncate(cut.max(1));
            if flip < bytes.len() { bytes[flip] ^= 0x10; }
            fs::write(&path, &bytes).unwrap();
            let journal = open(dir.path());
            for (key, value) in &entries {
                if let Some(found) = journal.get(key) { prop_assert_eq!(&found, value); }
            }
            if cut >= whole && flip >= whole { prop_assert_eq!(journal.len(), 10); }
            // And the journal goes on.
            journal.put(&[entry(99)]).unwrap();
            prop_assert_eq!(open(dir.path()).get(&entry(99).0).unwrap(), entry(99).1);
        }
    }
}
