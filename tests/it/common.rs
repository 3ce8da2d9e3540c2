//! A working directory of a test's own, in which it runs the binary.

use serde_json::Value;
use std::collections::HashSet;
use std::io::ErrorKind::NotFound;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub struct Sandbox {
    folder: tempfile::TempDir,
}

/// What a run of the binary left.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the binary prints UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ran {
    /// Fails the test, with all that was printed, unless the exit code is this one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless standard error has all of these.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "not said: {text}\nstderr:\n{}", self.stderr);
        }
        self
    }
}

impl Sandbox {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("inside the folder")).expect("a writable folder");
        std::fs::write(path, content).expect("a writable folder");
    }

    #[track_caller]
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The binary in this folder, with nothing of the user's environment that it would listen to.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_idiolect"));
        command.args(arguments).current_dir(self.folder.path());
        command.env_remove("IDIOLECT_STORE").env("IDIOLECT_CACHE", self.path("cache"));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().expect("the binary starts").into()
    }

    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the binary starts")
    }

    /// Starts a run and kills it `wait` milliseconds after it got somewhere. `false`: it had come to its end before, well.
    #[track_caller]
    pub fn kill(&self, arguments: &[&str], wait: u64, mut progressed: impl FnMut() -> bool) -> bool {
        let mut run = self.spawn(arguments);
        until("progress or the end", || run.try_wait().unwrap().is_some() || progressed());
        std::thread::sleep(Duration::from_millis(wait));
        let ended = run.try_wait().unwrap();
        run.kill().unwrap();
        run.wait().unwrap();
        if let Some(status) = ended {
            assert_eq!(status.code(), Some(0));
        }
        ended.is_none()
    }

    /// Runs under a limit of the size of every file that is written: a disk that is full, for root as well.
    pub fn run_on_a_full_disk(&self, arguments: &[&str], bytes: u64) -> Ran {
        let mut command = self.command(arguments);
        // SAFETY: both calls are async-signal-safe and touch only the child.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
                match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        command.output().expect("the binary starts").into()
    }

    /// Runs and also says the most memory that the process had, in bytes.
    ///
    /// Read from the process while it lives: what `wait4` says of a child begins with the memory of its parent.
    pub fn run_measured(&self, arguments: &[&str]) -> (Ran, u64) {
        self.measured(self.command(arguments))
    }

    /// The same for a command of [`command`](Self::command) that was changed.
    pub fn measured(&self, mut command: Command) -> (Ran, u64) {
        let (out, err) = (self.path(".stdout"), self.path(".stderr"));
        let file = |p: &Path| std::fs::File::create(p).expect("a writable folder");
        let mut child = command.stdout(file(&out)).stderr(file(&err)).spawn().expect("the binary starts");
        let mut peak = 0;
        let status = loop {
            peak = peak.max(high_water(child.id()).unwrap_or(0));
            if let Some(status) = child.try_wait().expect("a child of ours") {
                break status;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let text = |p: &Path| std::fs::read_to_string(p).expect("the binary prints UTF-8");
        (Ran { code: status.code(), stdout: text(&out), stderr: text(&err) }, peak)
    }

    /// The events of a run, as JSON.
    pub fn events(&self, out: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(out).join("events.jsonl")).unwrap_or_default();
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    /// Names of the nodes that a run executed, in the order in which they ended.
    pub fn ran(&self, out: &str) -> Vec<String> {
        let ended = |e: &Value| (e["event"] == "node_finished").then(|| e["node"].as_str().map(String::from)).flatten();
        self.events(out).iter().filter_map(ended).collect()
    }

    /// Every file below a folder with its content, by relative path. A run that is at work may take files and folders
    /// away meanwhile: those are left out.
    pub fn tree(&self, folder: &str) -> std::collections::BTreeMap<String, Vec<u8>> {
        let root = self.path(folder);
        let mut found = std::collections::BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(at) = folders.pop() {
            let entries = match std::fs::read_dir(&at) {
                Err(e) if e.kind() == NotFound && at != root => continue,
                entries => entries.unwrap_or_else(|e| panic!("{}: {e}", at.display())),
            };
            for entry in entries {
                let path = entry.expect("a readable folder").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&root).expect("below it").to_string_lossy().into_owned();
                    match std::fs::read(&path) {
                        Err(e) if e.kind() == NotFound => {}
                        content => drop(found.insert(name, content.expect("a readable file"))),
                    }
                }
            }
        }
        found
    }

    /// Keys of the whole records in all segments of the journal, and how many records there are.
    pub fn journalled(&self) -> (HashSet<Vec<u8>>, usize) {
        let (mut keys, mut records) = (HashSet::new(), 0);
        if !self.path(".idiolect/store/journal").exists() {
            return (keys, records);
        }
        for (name, bytes) in self.tree(".idiolect/store/journal") {
            let mut rest = match bytes.strip_prefix(b"idiojnl1") {
                Some(rest) if name.ends_with(".seg") => rest,
                _ => continue,
            };
            while rest.len() >= 28 {
                let length = 28 + u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
                if rest.len() < length {
                    break;
                }
                keys.insert(rest[4..20].to_vec());
                records += 1;
                rest = &rest[length..];
            }
        }
        (keys, records)
    }

    /// The Parquet parts of a store, by path.
    pub fn parts(&self, store: &str) -> std::collections::BTreeMap<String, Vec<u8>> {
        let mut tree = self.tree(&format!("{store}/artifacts"));
        tree.retain(|name, _| name.ends_with(".parquet"));
        tree
    }
}

/// The most memory that a living process has had, in bytes.
fn high_water(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Waits until something is so; fails the test after a minute.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "never came: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `n` JSON lines `{"question": ..., "answer": ..., "n": ...}`.
pub fn lines(n: usize) -> String {
    let row = |i: usize| {
        format!("{{\"question\":\"What is {i} plus {}?\",\"answer\":\"It is {}.\",\"n\":{i}}}\n", i % 7, i + i % 7)
    };
    (0..n).map(row).collect()
}
