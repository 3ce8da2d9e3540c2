//! Listing, cleaning and explaining a store.

use super::session::remove_dead_sessions;
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
    /// Also remove journals that no kept run needs and that were last used longer ago than `older_than`.
    pub journals: bool,
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
    /// journal segments. Journals are removed only where that is asked for, and none that a kept run needs.
    pub fn gc(&self, options: &GcOptions) -> Result<Vec<Removed>, RunError> {
        let Some(_alone) = self.exclusive()? else {
            return Err(RunError::failed("store-in-use", format!("a run is working in `{}`", self.root().display()))
                .help("clean the store when no run uses it"));
        };
        let mut removed = Vec::new();
        let kept = self.forget_runs(options)?;
        if options.journals {
            // First, as removed ones go through `tmp`.
            removed.extend(self.remove_journals(&kept, options)?);
        }
        for fingerprint in self.fingerprints()? {
            if let Some(why) = self.why_remove(&fingerprint, &kept, options) {
                let folder = self.folder_of(&fingerprint);
                removed.push(remove(&folder, fingerprint.short(), why, options.dry_run)?);
            }
        }
        removed.extend(self.remove_checkpoints(&kept, options)?);
        for (name, why) in [("tmp", "left by a process that was killed"), ("broken", "damaged")] {
            for folder in subfolders(&self.root().join(name))? {
                let what = format!("{name}/{}", folder.file_name().unwrap_or_default().to_string_lossy());
                removed.push(remove(&folder, &what, why.into(), options.dry_run)?);
            }
        }
        if !options.dry_run {
            remove_dead_sessions(&self.root().join("tmp"));
            removed.extend(self.compact_journals()?);
        }
        Ok(removed)
    }

    /// Fingerprints that the kept runs refer to; records of other runs are removed.
    fn forget_runs(&self, options: &GcOptions) -> Result<HashSet<Fingerprint>, RunError> {
        let (kept, old) = self.runs_to_keep(options)?;
        for path in old.iter().filter(|_| !options.dry_run) {
            fs::remove_file(path).map_err(|e| io_error("remove", path, &e))?;
        }
        Ok(kept)
    }

    /// Fingerprints that the kept runs refer to, and the records of the others.
    fn runs_to_keep(&self, options: &GcOptions) -> Result<(HashSet<Fingerprint>, Vec<PathBuf>), RunError> {
        let (mut kept, mut old) = (HashSet::new(), Vec::new());
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (path, run) in self.runs()? {
            let count = seen.entry(run.pipeline.clone()).or_default();
            *count += 1;
            if *count <= options.keep_runs { kept.extend(run.fingerprints) } else { old.push(path) }
        }
        Ok((kept, old))
    }

    fn why_remove(&self, print: &Fingerprint, kept: &HashSet<Fingerprint>, options: &GcOptions) -> Option<String> {
        let found = if options.broken { self.verify(print) } else { self.look(print) };
        match found {
            Found::Broken(why) => Some(format!("damaged: {why}")),
            Found::Whole(artifact)
                if !kept.contains(print) && age(&artifact.folder().join("manifest.json")) >= options.older_than =>
            {
                let Manifest { pipeline, node, .. } = artifact.manifest;
                Some(format!("`{node}` of `{pipeline}`, used by no kept run"))
            }
            Found::Whole(_) | Found::Missing => None,
        }
    }

    /// Journals that no kept run needs, with the bytes that they take.
    pub fn idle_journals(&self, options: &GcOptions) -> Result<Vec<(PathBuf, u64)>, RunError> {
        let (kept, _) = self.runs_to_keep(options)?;
        self.unneeded_journals(&kept, options)
    }

    /// A run records its fingerprints before its first node starts, also those of nodes that are not finished, and a
    /// node signs in a journal before it reads or writes a row. So a journal whose users are all unknown to the kept
    /// runs has no row that one of these, or an interrupted one among them, could go on from.
    fn unneeded_journals(
        &self,
        kept: &HashSet<Fingerprint>,
        options: &GcOptions,
    ) -> Result<Vec<(PathBuf, u64)>, RunError> {
        let mut idle = Vec::new();
        for folder in subfolders(&self.root().join("journal"))? {
            // Without a list of users nothing is known of it.
            let unneeded = journal::users(&folder)?.is_some_and(|users| users.is_disjoint(kept));
            if unneeded && age(&folder.join("scope.json")) >= options.older_than {
                let bytes = size(&folder);
                idle.push((folder, bytes));
            }
        }
        Ok(idle)
    }

    fn remove_journals(&self, kept: &HashSet<Fingerprint>, options: &GcOptions) -> Result<Vec<Removed>, RunError> {
        let mut removed = Vec::new();
        for (folder, bytes) in self.unneeded_journals(kept, options)? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !options.dry_run {
                // Out of the way in one step: a journal is there with its users, or it is not there.
                let doomed = self.root().join("tmp").join(format!("journal-{name}"));
                fs::rename(&folder, &doomed).map_err(|e| io_error("move", &folder, &e))?;
                fs::remove_dir_all(&doomed).map_err(|e| io_error("remove", &doomed, &e))?;
            }
            removed.push(Removed {
                what: format!("journal/{name}"),
                why: "finished rows that no kept run needs".into(),
                bytes,
            });
        }
        Ok(removed)
    }

    /// Checkpoints of nodes that are finished, or that no kept run refers to, and those that were half written.
    fn remove_checkpoints(&self, kept: &HashSet<Fingerprint>, options: &GcOptions) -> Result<Vec<Removed>, RunError> {
        let folder = self.checkpoints();
        let list = match fs::read_dir(&folder) {
            Ok(list) => list,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io_error("read", &folder, &e)),
        };
        let mut removed = Vec::new();
        for path in list.filter_map(Result::ok).map(|entry| entry.path()) {
            let print = Fingerprint(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            let why = match () {
                () if print.0.starts_with('.') => "half written",
                () if self.artifact(&print).is_some() => "its node is finished",
                () if !kept.contains(&print) && age(&path) >= options.older_than => "needed by no kept run",
                () => continue,
            };
            let bytes = size(&path);
            if !options.dry_run {
                fs::remove_file(&path).map_err(|e| io_error("remove", &path, &e))?;
                self.clear_partial(&print);
            }
            removed.push(Removed { what: format!("checkpoint/{}", print.short()), why: why.into(), bytes });
        }
        Ok(removed)
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
    let modified = fs::metadata(path).and_then(|m| m.modified());
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
    use crate::store::JournalStore;
    use crate::store::writer::tests::put;

    fn options() -> GcOptions {
        GcOptions { keep_runs: 1, older_than: Duration::ZERO, broken: false, journals: false, dry_run: false }
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
    fn journals_go_only_when_asked_and_when_no_kept_run_needs_them() {
        let dir = tempfile::tempdir().unwrap();
        let print = |name: &str| Fingerprint(blake3::hash(name.as_bytes()).to_hex().to_string());
        let row = (journal::Journal::key(&[b"row"]), b"paid for".to_vec());
        {
            let store = Store::open(dir.path()).unwrap();
            for (scope, users) in [("old", &["a", "b"][..]), ("stopped", &["c"]), ("shared", &["a", "d"])] {
                for user in users {
                    let journal = store.journal(&serde_json::json!(scope), &print(user)).unwrap();
                    journal.put(std::slice::from_ref(&row)).unwrap();
                }
            }
            // As before journals had users.
            let nameless = store.journal(&serde_json::json!("nameless"), &print("a")).unwrap();
            nameless.put(std::slice::from_ref(&row)).unwrap();
            let journals = subfolders(&dir.path().join("journal")).unwrap();
            let of = |folder: &&PathBuf| fs::read_to_string(folder.join("scope.json")).unwrap().contains("nameless");
            fs::remove_file(journals.iter().find(of).unwrap().join("users")).unwrap();
            store.record_run("p", dir.path(), vec![print("a"), print("b")]).unwrap();
            std::thread::sleep(Duration::from_millis(3));
            // Neither `c` nor `d` has an artifact: that run was stopped.
            store.record_run("p", dir.path(), vec![print("c"), print("d")]).unwrap();
        }
        let store = Store::open(dir.path()).unwrap();
        let journals = || subfolders(&dir.path().join("journal")).unwrap().len();
        let wish = GcOptions { journals: true, ..options() };
        let both = GcOptions { keep_runs: 2, ..wish.clone() };
        assert!(store.gc(&GcOptions { dry_run: true, ..both }).unwrap().is_empty());
        let dry = store.gc(&GcOptions { dry_run: true, ..wish.clone() }).unwrap();
        assert_eq!((dry.len(), dry[0].bytes > 0, journals()), (1, true, 4), "{dry:?}");
        let young = GcOptions { older_than: Duration::from_secs(3600), ..wish.clone() };
        assert!(store.gc(&young).unwrap().iter().all(|r| !r.why.contains("no kept run")), "used just now");
        assert_eq!(store.idle_journals(&options()).unwrap().len(), 1);
        let removed = store.gc(&wish).unwrap();
        assert_eq!(removed.iter().filter(|r| r.why.contains("no kept run")).count(), 1, "{removed:?}");
        assert_eq!((journals(), subfolders(&dir.path().join("tmp")).unwrap().len()), (3, 0));
        for scope in ["stopped", "shared", "nameless"] {
            let journal = store.journal(&serde_json::json!(scope), &print("e")).unwrap();
            assert_eq!(journal.get(&row.0).unwrap(), row.1, "{scope}");
        }
    }

    #[test]
    fn checkpoints_stay_while_a_kept_run_may_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let print = |name: &str| Fingerprint(blake3::hash(name.as_bytes()).to_hex().to_string());
        let finished = put(&store, "finished", 3);
        let (stopped, forgotten) = (print("stopped"), print("forgotten"));
        for node in [&finished, &stopped, &forgotten] {
            store.set_checkpoint(node, b"state".to_vec(), &dir.path().join("tmp")).unwrap();
        }
        fs::write(store.checkpoints().join(".new-x"), "half").unwrap();
        store.record_run("p", dir.path(), vec![finished.clone(), stopped.clone()]).unwrap();
        let young = GcOptions { older_than: Duration::from_secs(3600), dry_run: true, ..options() };
        assert_eq!(store.gc(&young).unwrap().len(), 2, "the half-written one and that of a finished node");
        assert_eq!(store.gc(&options()).unwrap().len(), 3);
        assert_eq!(store.checkpoint(&stopped).unwrap(), b"state");
        assert!(store.checkpoint(&forgotten).is_none() && store.artifact(&finished).is_some());
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
