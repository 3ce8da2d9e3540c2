//! Confined children on Linux.

mod enter;
mod files;
mod removal;
mod syscalls;
mod watch;

use super::{Confinement, Limits, Program, Python, Ran, Trouble, Unavailable};
use enter::Entry;
use seccompiler::BpfProgram;
use std::io::{PipeReader, PipeWriter, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use watch::{Child, Ends};

const HARNESS: &str = include_str!("../harness.py");

/// The child's whole environment: what would make results differ is fixed, nothing of the user's is handed on.
const ENVIRONMENT: [(&str, &str); 12] = [
    ("HOME", "."),
    ("LANG", "C.UTF-8"),
    ("LC_ALL", "C.UTF-8"),
    ("MKL_NUM_THREADS", "1"),
    ("OMP_NUM_THREADS", "1"),
    ("OPENBLAS_NUM_THREADS", "1"),
    ("PYTHONDONTWRITEBYTECODE", "1"),
    ("PYTHONHASHSEED", "0"),
    ("PYTHONSAFEPATH", "1"),
    ("PYTHONUTF8", "1"),
    ("TMPDIR", "."),
    ("TZ", "UTC"),
];

/// What to do where the kernel lacks something.
const LESS: &str = "run on a kernel from 5.13 on that has both Landlock and seccomp (in a container the host's kernel and \
                    its profile decide), or opt in to less: `sandbox=\"rlimits\"` limits time, memory and output alone";

/// What of the confinement is the same for all programs.
#[derive(Debug)]
pub struct Jail {
    confinement: Confinement,
    /// In the order in which they are installed.
    filters: Vec<BpfProgram>,
}

/// Both ends of the pipes of a child.
struct Pipes {
    source: (PipeReader, PipeWriter),
    verdict: (PipeReader, PipeWriter),
    stdout: (PipeReader, PipeWriter),
    stderr: (PipeReader, PipeWriter),
}

impl Jail {
    /// Compiles the filters and asks the kernel for what will be needed.
    pub fn prepare(python: &Python, confinement: Confinement) -> Result<Self, Unavailable> {
        let jail = Self { confinement, filters: syscalls::filters(confinement)? };
        // Landlock is asked once, so that what is missing is said before any row is read.
        files::ruleset(python, Path::new("/dev/null"), confinement)?;
        Ok(jail)
    }

    pub fn run(
        &self,
        python: &Python,
        limits: &Limits,
        program: &Program,
        stop: &dyn Fn() -> bool,
    ) -> Result<Ran, Trouble> {
        let folder = tempfile::Builder::new()
            .prefix("idiolect-sandbox-")
            .tempdir()
            .map_err(|e| Unavailable::failed("make a folder for a program", e))?;
        // As the program sees it: where temporary files are may be named by a link.
        let place = folder.path().canonicalize();
        let place = place.map_err(|e| Unavailable::failed("find the folder of a program", e))?;
        let ruleset = files::ruleset(python, &place, self.confinement)?;
        let pipes = || {
            let ends = Pipes { source: pipe()?, verdict: pipe()?, stdout: pipe()?, stderr: pipe()? };
            Ok::<_, std::io::Error>(ends)
        };
        let pipes = pipes().map_err(|e| Unavailable::failed("open pipes", e))?;
        let entry = Entry::new(&self.filters, ruleset, limits, (&pipes.source.0, &pipes.verdict.1));
        let mut command = Command::new(&python.executable);
        command.args(["-S", "-s", "-B", "-c", HARNESS]);
        command.args([pipes.source.0.as_raw_fd().to_string(), pipes.verdict.1.as_raw_fd().to_string()]);
        command.args(&python.paths);
        command.env_clear().envs(ENVIRONMENT).current_dir(&place);
        command.stdin(Stdio::null()).stdout(pipes.stdout.1).stderr(pipes.stderr.1);
        // SAFETY: between fork and exec `enter` makes system calls and nothing else: what it reads is made already, it
        // neither allocates nor takes locks, which other threads of this process may have held at the fork.
        unsafe { command.pre_exec(move || entry.enter()) };
        let started = command.spawn().map_err(|e| {
            Unavailable::failed("start the interpreter", format!("{} ({})", e, python.executable.display()))
        })?;
        // The command holds ends of the pipes.
        drop(command);
        drop(pipes.verdict.1);
        let ends =
            Ends { source: pipes.source.1, verdict: pipes.verdict.0, stdout: pipes.stdout.0, stderr: pipes.stderr.0 };
        let ran = Child::new(started, &place, limits).watch(ends, program, stop);
        // Open until now: to write to a pipe that nobody reads raises a signal, which would end this process.
        drop(pipes.source.0);
        // What cannot be removed so is tried once more when `folder` goes.
        let _ = removal::empty(&place);
        ran
    }
}
