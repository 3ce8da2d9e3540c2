//! What the store remembers beside artifacts: what nodes were made of, how far they came, which runs there were.

use super::manifest::rfc3339;
use super::{Store, io_error, write_atomically};
use crate::exec::RunError;
use crate::plan::{Fingerprint, NodeName, PlanNode, StoreView};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// What a node was made of the last time that it was finished or found finished.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Last {
    pub fingerprint: Fingerprint,
    pub ingredients: IndexMap<String, String>,
}

/// Rows finished of a node that has no artifact yet.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Progress {
    done: u64,
    total: Option<u64>,
}

/// A run as `gc` sees it: artifacts that a kept run refers to are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunRecord {
    pub pipeline: String,
    pub started: String,
    pub out: PathBuf,
    pub fingerprints: Vec<Fingerprint>,
}

impl Store {
    fn node_path(&self, pipeline: &str, node: &NodeName) -> PathBuf {
        let hash = blake3::hash(format!("{pipeline}\0{node}").as_bytes());
        self.root().join("nodes").join(format!("{}.json", &hash.to_hex()[..32]))
    }

    /// What the node of that pipeline was made of the last time; `None` when it never was.
    pub fn last(&self, pipeline: &str, node: &NodeName) -> Option<Last> {
        read_json(&self.node_path(pipeline, node))
    }

    /// Remembers what a finished node was made of.
    pub fn remember(&self, pipeline: &str, node: &NodeName, last: &Last) -> Result<(), RunError> {
        if self.last(pipeline, node).as_ref() == Some(last) {
            return Ok(());
        }
        write_json(&self.node_path(pipeline, node), last)
    }

    fn progress_path(&self, fingerprint: &Fingerprint) -> PathBuf {
        self.root().join("progress").join(format!("{fingerprint}.json"))
    }

    /// Finished rows and, where known, expected rows of a journalled node that was begun and not finished.
    pub fn partial(&self, fingerprint: &Fingerprint) -> Option<(u64, Option<u64>)> {
        let Progress { done, total } = read_json(&self.progress_path(fingerprint))?;
        Some((done, total))
    }

    /// Records how far a journalled node has come. Not synced: the journal itself is what counts.
    pub fn set_partial(&self, fingerprint: &Fingerprint, done: u64, total: Option<u64>) -> Result<(), RunError> {
        let path = self.progress_path(fingerprint);
        let text = serde_json::to_vec(&Progress { done, total }).expect("two numbers are JSON");
        let new = path.with_extension(format!("{}.new", std::process::id()));
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(|e| io_error("write", &path, &e))
    }

    /// Forgets the progress of a node that is finished.
    pub fn clear_partial(&self, fingerprint: &Fingerprint) {
        let _ = fs::remove_file(self.progress_path(fingerprint));
    }

    /// Records that a run refers to these artifacts.
    pub fn record_run(&self, pipeline: &str, out: &Path, fingerprints: Vec<Fingerprint>) -> Result<(), RunError> {
        let started = rfc3339(std::time::SystemTime::now());
        // A process may record several runs within the clock's resolution.
        static RECORDED: AtomicU32 = AtomicU32::new(0);
        let count = RECORDED.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{count:06}.json", started.replace([':', '.'], ""), std::process::id());
        let out = out.canonicalize().unwrap_or_else(|_| out.to_path_buf());
        let record = RunRecord { pipeline: pipeline.to_string(), started, out, fingerprints };
        write_json(&self.root().join("runs").join(name), &record)
    }

    /// All recorded runs, the latest first, with the files that record them.
    pub fn runs(&self) -> Result<Vec<(PathBuf, RunRecord)>, RunError> {
        let folder = self.root().join("runs");
        let list = fs::read_dir(&folder).map_err(|e| io_error("read", &folder, &e))?;
        let paths =
            list.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json"));
        let mut runs: Vec<_> = paths.filter_map(|p| read_json(&p).map(|r| (p, r))).collect();
        runs.sort_by(|a, b| b.0.cmp(&a.0));
        Ok(runs)
    }
}

impl StoreView for Store {
    fn is_finished(&self, fingerprint: &Fingerprint) -> bool {
        self.artifact(fingerprint).is_some()
    }
    fn partial(&self, node: &PlanNode) -> Option<(u64, Option<u64>)> {
        Store::partial(self, &node.fingerprint)
    }
    fn last_ingredients(&self, pipeline: &str, node: &NodeName) -> Option<IndexMap<String, String>> {
        self.last(pipeline, node).map(|last| last.ingredients)
    }
}

/// A file's content; `None` when it is missing or not what it should be, for notes that can be made again.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), RunError> {
    let text = serde_json::to_vec(value).expect("notes of the store have string keys only");
    write_atomically(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::writer::tests::fingerprint;

    #[test]
    fn notes_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let node = NodeName::plain("scored");
        assert!(store.last("p", &node).is_none());
        let last = Last { fingerprint: fingerprint("a"), ingredients: [("op".into(), "x".into())].into() };
        store.remember("p", &node, &last).unwrap();
        assert_eq!(store.last("p", &node), Some(last.clone()));
        assert!(store.last("q", &node).is_none());
        assert!(store.partial(&last.fingerprint).is_none());
        store.set_partial(&last.fingerprint, 3, None).unwrap();
        assert_eq!(store.partial(&last.fingerprint), Some((3, None)));
        store.clear_partial(&last.fingerprint);
        assert!(store.partial(&last.fingerprint).is_none());
        store.record_run("p", dir.path(), vec![last.fingerprint]).unwrap();
        assert_eq!(store.runs().unwrap()[0].1.pipeline, "p");
    }
}
