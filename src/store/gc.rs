//! Listing, cleaning and explaining a store.

use super::{Artifact, Found, Manifest, Store, io_error, journal};
use crate::exec::RunError;
use crate::plan::Fingerprint;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What to keep and what to look at.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Artifacts of the last so many runs of each pipeline stay.
    pub keep_runs: usize,
    /// Of the others, only artifacts made longer ago than this go.
    pub older_than: Duration,
    /// Check every byte of what stays, and remove what is damaged.
    pub broken: bool,
    /// Only say what would go.
    pub dry_run: bool,
}

/// Something that `gc` removes, and why.
#[derive(Debug, Clone)]
pub struct Removed {
    pub what: String,
    pub why: String,
    pub bytes: u64,
}

impl Store {
    /// The fingerprints of all folders under `artifacts/`, in order.
    pub fn fingerprints(&self) -> Result<Vec<Fingerprint>, RunError> {
        let root = self.root().join("artifacts");
        let mut all = Vec::new();
        for shelf in subfolders(&root)? {
            for folder in subfolders(&shelf)? {
                all.extend(folder.file_name().map(|n| Fingerprint(n.to_string_lossy().into_owned())));
            }
        }
        all.sort();
        Ok(all)
    }

    /// Fingerprints that begin with `prefix`.
    pub fn matching(&self, prefix: &str) -> Result<Vec<Fingerprint>, RunError> {
        Ok(self.fingerprints()?.into_iter().filter(|f| f.0.starts_with(prefix)).collect())
    }

    /// All whole artifacts, the newest first.
    pub fn artifacts(&self) -> Result<Vec<Artifact>, RunError> {
        let mut all: Vec<Artifact> = self.fingerprints()?.iter().filter_map(|f| self.artifact(f)).collect();
        all.sort_by(|a, b| b.manifest.created.cmp(&a.manifest.created));
        Ok(all)
    }

    /// Removes what no kept run refers to, damaged artifacts and the remains of dead processes, and merges
    /// journal segments. Finished rows in journals are never removed.
    pub fn gc(&self, options: &GcOptions) -> Result<Vec<Removed>, RunError> {
        let Some(_alone) = self.exclusive()? else {
            return Err(RunError::failed("store-in-use", format!("a run is working in `{}`", self.root().display()))
                .help("clean the store when no run uses it"));
        };
        let mut removed = Vec::new();
        let kept = self.forget_runs(options)?;
        for fingerprint in self.fingerprints()? {
            if let Some(why) = self.why_remove(&fingerprint, &kept, options) {
                let folder = self.folder_of(&fingerprint);
                removed.push(remove(&folder, fingerprint.short(), why, options.dry_run)?);
            }
        }
        for (name, why) in [("tmp", "left by a process that was killed"), ("broken", "damaged")] {
            for folder in subfolders(&self.root().join(name))? {
                let what = format!("{name}/{}", folder.file_name().unwrap_or_default().to_string_lossy());
                removed.push(remove(&folder, &what, why.into(), options.dry_run)?);
            }
        }
        if !options.dry_run {
            removed.extend(self.compact_journals()?);
        }
        Ok(removed)
    }

    /// Fingerprints that the kept runs refer to; records of other runs are removed.
    fn forget_runs(&self, options: &GcOptions) -> Result<HashSet<Fingerprint>, RunError> {
        let mut kept = HashSet::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (path, run) in self.runs()? {
            let count = seen.entry(run.pipeline.clone()).or_default();
            *count += 1;
            if *count <= options.keep_runs {
                kept.extend(run.fingerprints);
            } else if !options.dry_run {
                fs::remove_file(&path).map_err(|e| io_error("remove", &path, &e))?;
            }
        }
        Ok(kept)
    }

    fn why_remove(&self, print: &Fingerprint, kept: &HashSet<Fingerprint>, options: &GcOptions) -> Option<String> {
        let found = if options.broken { self.verify(print) } else { self.look(print) };
        match found {
            Found::Broken(why) => Some(format!("damaged: {why}")),
            Found::Whole(artifact) if !kept.contains(print) && age(artifact.folder()) >= options.older_than => {
                let Manifest { pipeline, node, .. } = artifact.manifest;
                Some(format!("`{node}` of `{pipeline}`, used by no kept run"))
            }
            Found::Whole(_) | Found::Missing => None,
        }
    }

    fn compact_journals(&self) -> Result<Vec<Removed>, RunError> {
        let mut saved = Vec::new();
        for folder in subfolders(&self.root().join("journal"))? {
            let bytes = journal::compact(&folder)?;
            if bytes > 0 {
                let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                saved.push(Removed { what: format!("journal/{name}"), why: "doubled or torn records".into(), bytes });
            }
        }
        Ok(saved)
    }
}

fn age(path: &Path) -> Duration {
    let modified = fs::metadata(path.join("manifest.json")).and_then(|m| m.modified());
    modified.ok().and_then(|m| SystemTime::now().duration_since(m).ok()).unwrap_or_default()
}

fn remove(path: &Path, what: &str, why: String, dry_run: bool) -> Result<Removed, RunError> {
    let bytes = size(path);
    if !dry_run {
        // The manifest first: an artifact that is half removed must not look whole.
        let manifest = path.join("manifest.json");
        if manifest.exists() {
            fs::remove_file(&manifest).map_err(|e| io_error("remove", &manifest, &e))?;
        }
        fs::remove_dir_all(path).map_err(|e| io_error("remove", path, &e))?;
    }
    Ok(Removed { what: what.to_string(), why, bytes })
}

/// Bytes of all files below a folder.
pub fn size(path: &Path) -> u64 {
    let Ok(list) = fs::read_dir(path) else { return fs::metadata(path).map_or(0, |m| m.len()) };
    list.filter_map(Result::ok).map(|e| size(&e.path())).sum()
}

fn subfolders(path: &Path) -> Result<Vec<PathBuf>, RunError> {
    let list = match fs::read_dir(path) {
        Ok(list) => list,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("read", path, &e)),
    };
    let mut folders: Vec<PathBuf> = list.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Stop;
    use crate::store::writer::tests::put;

    fn options() -> GcOptions {
        GcOptions { keep_runs: 1, older_than: Duration::ZERO, broken: false, dry_run: false }
    }

    #[test]
    fn keeps_what_the_last_runs_refer_to() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (a, b, c) = (put(&store, "a", 3), put(&store, "b", 3), put(&store, "c", 3));
        store.record_run("p", dir.path(), vec![a.clone()]).unwrap();
        std::thread::sleep(Duration::from_millis(3));
        store.record_run("p", dir.path(), vec![b.clone()]).unwrap();
        std::thread::sleep(Duration::from_millis(3));
        store.record_run("q", dir.path(), vec![c.clone()]).unwrap();
        let dry = store.gc(&GcOptions { dry_run: true, ..options() }).unwrap();
        assert_eq!(dry.iter().map(|r| r.what.as_str()).collect::<Vec<_>>(), [a.short()]);
        assert!(dry[0].bytes > 0 && store.artifact(&a).is_some());
        let old = GcOptions { older_than: Duration::from_secs(3600), ..options() };
        assert!(store.gc(&old).unwrap().is_empty(), "it was made just now");
        store.record_run("p", dir.path(), vec![b.clone()]).unwrap();
        assert_eq!(store.gc(&options()).unwrap().len(), 1);
        assert!(store.artifact(&a).is_none() && store.artifact(&b).is_some() && store.artifact(&c).is_some());
        assert_eq!(store.runs().unwrap().len(), 2);
    }

    #[test]
    fn is_refused_while_a_run_works() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let session = store.session(&Stop::default()).unwrap();
        assert!(store.gc(&options()).unwrap_err().to_string().contains("working in"));
        drop(session);
        store.gc(&options()).unwrap();
    }

    #[test]
    fn finds_damage_only_when_asked_to_look() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let a = put(&store, "a", 3);
        store.record_run("p", dir.path(), vec![a.clone()]).unwrap();
        let part = store.folder_of(&a).join("out/part-00000.parquet");
        let mut bytes = fs::read(&part).unwrap();
        bytes[10] ^= 1;
        fs::write(&part, bytes).unwrap();
        assert!(store.gc(&options()).unwrap().is_empty());
        let removed = store.gc(&GcOptions { broken: true, ..options() }).unwrap();
        assert!(removed[0].why.contains("damaged"), "{removed:?}");
        assert!(store.artifact(&a).is_none());
    }
}
