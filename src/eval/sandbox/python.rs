//! The interpreter that runs programs, and what of the file system it needs.

use super::Unavailable;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const PROBE: &str = include_str!("probe.py");
/// How long an interpreter may take to say where it lives, the first time from a slow disk.
const PROBE_TIME: Duration = Duration::from_secs(60);

/// Where shared libraries, time zones and the like are on the systems that we know.
const SYSTEM: [&str; 9] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/nix/store",
    "/gnu/store",
];

/// An interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    /// The program itself, never a wrapper such as a shim of pyenv.
    pub executable: PathBuf,
    /// `3.11.7`.
    pub version: String,
    /// Where modules are looked for, installed packages included.
    pub paths: Vec<String>,
    /// Files and folders that may be read.
    pub readable: Vec<PathBuf>,
    /// Of these the files that may be executed: the interpreter and the loader of its libraries.
    pub executables: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Probed {
    executable: PathBuf,
    version: String,
    implementation: String,
    prefixes: Vec<PathBuf>,
    libraries: Vec<PathBuf>,
    paths: Vec<PathBuf>,
    mapped: Vec<PathBuf>,
}

impl Python {
    /// As [`find`](Self::find), once in the life of this process for each name.
    pub fn known(name: &str) -> Result<Self, Unavailable> {
        static KNOWN: Mutex<BTreeMap<String, Python>> = Mutex::new(BTreeMap::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(python) = known.get(name) {
            return Ok(python.clone());
        }
        let python = Self::find(name)?;
        known.insert(name.to_string(), python.clone());
        Ok(python)
    }

    /// Starts an interpreter, outside of any confinement, and has it say where it lives.
    pub fn find(name: &str) -> Result<Self, Unavailable> {
        let missing = |why: String| {
            Unavailable::new("python-missing", format!("`{name}` is no Python 3 that can be run: {why}"))
                .help("install Python 3, or name another interpreter with `python`")
        };
        let mut command = Command::new(name);
        command.args(["-I", "-B", "-c", PROBE]);
        let output = output_within(&mut command, PROBE_TIME)
            .map_err(|error| missing(error.to_string()))?
            .ok_or_else(|| missing(format!("it gave no answer in {} s", PROBE_TIME.as_secs())))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(missing(said.lines().last().unwrap_or("it fails, and says nothing").to_string()));
        }
        let probed: Probed =
            serde_json::from_slice(&output.stdout).map_err(|error| missing(format!("it does not answer: {error}")))?;
        if probed.implementation != "cpython" || !probed.version.starts_with("3.") {
            return Err(missing(format!("it is {} {}", probed.implementation, probed.version)));
        }
        Ok(Self::of(probed))
    }

    fn of(probed: Probed) -> Self {
        let real = |path: &Path| std::fs::canonicalize(path).ok();
        let home = std::env::var_os("HOME").and_then(|home| real(Path::new(&home)));
        // A folder that the user's home is in would give all of it away.
        let harmless = |path: &PathBuf| home.as_ref().is_none_or(|home| !home.starts_with(path));
        let prefixes: Vec<PathBuf> = probed.prefixes.iter().filter_map(|p| real(p)).collect();
        let own = |path: &PathBuf| prefixes.iter().chain(&system()).any(|p| path.starts_with(p));
        let paths: Vec<PathBuf> =
            probed.paths.iter().filter_map(|p| real(p)).filter(|p| own(p) && harmless(p)).collect();
        let mut readable: BTreeSet<PathBuf> = system().into_iter().collect();
        readable.extend(paths.iter().cloned());
        readable.extend(probed.libraries.iter().chain(&probed.mapped).filter_map(|p| real(p)));
        readable.extend(prefixes.iter().flat_map(|p| [p.join("lib"), p.join("pyvenv.cfg")]).filter_map(|p| real(&p)));
        readable.retain(harmless);
        let loader =
            |path: &&PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ld-") || n == "ld.so");
        let mut executables: BTreeSet<PathBuf> = probed.mapped.iter().filter(loader).filter_map(|p| real(p)).collect();
        executables.extend(real(&probed.executable));
        readable.extend(executables.iter().cloned());
        Self {
            executable: real(&probed.executable).unwrap_or(probed.executable),
            version: probed.version,
            paths: paths.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
            readable: readable.into_iter().collect(),
            executables: executables.into_iter().collect(),
        }
    }
}

/// What a command says until it ends; `None` where that takes longer than `most`, and it is ended.
fn output_within(command: &mut Command, most: Duration) -> std::io::Result<Option<Output>> {
    // A group of its own, so that what a wrapper starts ends with it.
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn()?;
    let group = child.id().cast_signed();
    let (told, ended) = channel();
    std::thread::Builder::new().name("probe".into()).spawn(move || drop(told.send(child.wait_with_output())))?;
    match ended.recv_timeout(most) {
        Ok(output) => output.map(Some),
        Err(_) => {
            // SAFETY: sends a signal, to a group whose first process the thread still waits for.
            unsafe { libc::kill(-group, libc::SIGKILL) };
            Ok(None)
        }
    }
}

fn system() -> Vec<PathBuf> {
    SYSTEM.iter().filter_map(|path| std::fs::canonicalize(path).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_hangs_is_ended() {
        let shell = |script: &str, most| output_within(Command::new("/bin/sh").args(["-c", script]), most).unwrap();
        let said = shell("echo here", Duration::from_secs(60)).unwrap();
        assert_eq!(said.stdout, b"here\n");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("late");
        // What it starts holds its output open as well.
        let script = format!("(sleep 2; touch {}) & sleep 600", file.display());
        assert_eq!(shell(&script, Duration::from_millis(100)), None);
        std::thread::sleep(Duration::from_secs(3));
        assert!(!file.exists(), "what it started goes on");
    }
}
