//! Programs that nobody has read, run where they can do no harm.
//!
//! ```text
//! Program --pipe--> harness.py in a confined child --nonce, or why not--> Outcome
//! ```
//!
//! A child is one Python interpreter, confined before its first instruction: Landlock leaves it the interpreter's own files
//! and a folder of its own, seccomp the system calls of a lone single-threaded process without sockets, limits the rest.
//! What that guarantees, and what not, stands in `docs/sandbox.md`.
//!
//! Program and tests share an interpreter, as the benchmarks have it. That all tests ran is shown by a nonce, which the
//! harness takes out of its pipe when they have: an exit code or a print says nothing.

#[cfg(target_os = "linux")]
mod linux;
mod python;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

pub use python::Python;

/// What is demanded of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Confinement {
    /// Landlock, seccomp and limits; a plain refusal where the kernel lacks one.
    #[default]
    Full,
    /// Limits, and of the others what is there: for those who trust the programs, or the machine they run on.
    Limits,
}

/// How much a program may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Seconds of processor time, of which the kernel counts whole ones. A program that waits is stopped after [`WAITING`]
    /// times as many on the clock: the verdict on one that computes depends on what else the machine does only where it
    /// gets less than a third of a core.
    pub seconds: f64,
    /// Bytes of address space.
    pub memory: u64,
    /// Bytes written to standard output and standard error, both together.
    pub output: u64,
    /// Bytes in files of its folder.
    pub files: u64,
}

impl Default for Limits {
    /// 5 s (section 1.5 of the method), 1 GiB, 1 MiB and 64 MiB.
    fn default() -> Self {
        Self { seconds: 5.0, memory: 1 << 30, output: 1 << 20, files: 64 << 20 }
    }
}

/// How many times its processor time a program may spend on the clock.
pub const WAITING: f64 = 3.0;

/// How much of a stream is kept.
const KEPT: usize = 16 << 10;

/// What is run: Python source texts that share one namespace, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    pub code: String,
    /// Run before the tests.
    pub setup: Vec<String>,
    /// Each passes by raising nothing.
    pub tests: Vec<String>,
}

/// Which of a program's texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Code,
    /// By its place, from 0.
    Setup(usize),
    /// By its place, from 0.
    Test(usize),
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All tests ran, and none raised.
    Passed,
    /// An exception, by the name of its class and its message.
    Failed { stage: Stage, kind: String, message: String },
    /// Processor time or patience is used up.
    Timeout,
    /// No memory is left.
    Memory,
    /// Too much was printed, or written to files.
    Output,
    /// It left before its tests had run, with this exit code.
    Exited(i32),
    /// A signal ended it: it crashed, or something outside killed it.
    Killed(i32),
}

/// A program's end and what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub outcome: Outcome,
    /// The first bytes of its standard output, as text: the folder's name and addresses are taken out, and nothing is
    /// kept of a program that ran out of time, or was stopped for what it wrote elsewhere, as how far it came depends on the
    /// clock.
    pub stdout: String,
    /// The same of standard error.
    pub stderr: String,
}

/// Why nothing can be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unavailable {
    /// `python-missing`, `sandbox-unavailable` or `sandbox-failed`.
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
}

impl Unavailable {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None }
    }

    #[cfg(target_os = "linux")]
    fn failed(what: &str, error: impl std::fmt::Display) -> Self {
        Self::new("sandbox-failed", format!("the sandbox cannot {what}: {error}"))
    }

    fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// Why a run gives no end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
}

/// What is asked of a sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The interpreter: a name that is looked for in `PATH`, or a path.
    pub python: String,
    pub confinement: Confinement,
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self { python: "python3".into(), confinement: Confinement::default(), limits: Limits::default() }
    }
}

/// An interpreter and a kernel that were found fit to run programs.
#[derive(Debug)]
pub struct Sandbox {
    python: Python,
    limits: Limits,
    #[cfg(target_os = "linux")]
    jail: linux::Jail,
}

impl Sandbox {
    /// Finds the interpreter and asks the kernel for what confines it, and runs nothing but the interpreter itself.
    #[cfg(target_os = "linux")]
    pub fn look(settings: &Settings) -> Result<Python, Unavailable> {
        let python = Python::known(&settings.python)?;
        linux::Jail::prepare(&python, settings.confinement)?;
        Ok(python)
    }

    #[cfg(not(target_os = "linux"))]
    pub fn look(settings: &Settings) -> Result<Python, Unavailable> {
        Self::open(settings).map(|sandbox| sandbox.python)
    }

    /// Finds the interpreter, prepares the confinement and tries both on a small program.
    #[cfg(target_os = "linux")]
    pub fn open(settings: &Settings) -> Result<Self, Unavailable> {
        let python = Python::known(&settings.python)?;
        let jail = linux::Jail::prepare(&python, settings.confinement)?;
        let sandbox = Self { python, limits: settings.limits, jail };
        sandbox.try_out()?;
        Ok(sandbox)
    }

    /// Nothing is run where no confinement is known.
    #[cfg(not(target_os = "linux"))]
    pub fn open(_: &Settings) -> Result<Self, Unavailable> {
        Err(Unavailable::new(
            "sandbox-unavailable",
            "generated programs are run on Linux only: Landlock and seccomp confine them",
        )
        .help("run this pipeline on Linux, or in a container"))
    }

    /// The interpreter that runs the programs.
    pub fn python(&self) -> &Python {
        &self.python
    }

    /// Runs a program. `stop` is asked now and then whether to give up.
    #[cfg(target_os = "linux")]
    pub fn run(&self, program: &Program, stop: &dyn Fn() -> bool) -> Result<Ran, Trouble> {
        let _place = Place::take();
        self.jail.run(&self.python, &self.limits, program, stop)
    }

    #[cfg(not(target_os = "linux"))]
    pub fn run(&self, _: &Program, _: &dyn Fn() -> bool) -> Result<Ran, Trouble> {
        Err(Unavailable::new("sandbox-unavailable", "generated programs are run on Linux only").into())
    }

    /// Runs programs side by side, as many as the machine has cores; what became of each, in their order.
    pub fn run_all(&self, programs: &[Program], stop: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Ran>, Trouble> {
        let (next, slots) = (AtomicUsize::new(0), programs.iter().map(|_| OnceLock::new()).collect::<Vec<_>>());
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(program) = programs.get(at) else { break };
                let ran = self.run(program, stop);
                let failed = ran.is_err();
                // Each place is taken once.
                let _ = slots[at].set(ran);
                if failed {
                    // The others need not begin.
                    next.store(programs.len(), Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..cores().min(programs.len()) {
                scope.spawn(work);
            }
            work();
        });
        let ran: Vec<Option<Result<Ran, Trouble>>> = slots.into_iter().map(OnceLock::into_inner).collect();
        match ran.iter().flatten().find_map(|r| r.as_ref().err()) {
            Some(trouble) => Err(trouble.clone()),
            None => Ok(ran.into_iter().flatten().flatten().collect()),
        }
    }

    /// The confinement holds what it promises on this machine, as far as one small program can tell.
    #[cfg(target_os = "linux")]
    fn try_out(&self) -> Result<(), Unavailable> {
        let program = Program { tests: vec!["assert sorted([2, 1]) == [1, 2]".into()], ..Program::default() };
        let generous = Limits { seconds: 30.0, ..self.limits };
        match self.jail.run(&self.python, &generous, &program, &|| false) {
            Ok(Ran { outcome: Outcome::Passed, .. }) => Ok(()),
            Ok(Ran { outcome, stderr, .. }) => {
                let last = stderr.lines().last().unwrap_or_default();
                Err(Unavailable::new(
                    "sandbox-failed",
                    format!("`{}` does not start in the sandbox: {outcome:?} {last}", self.python.executable.display()),
                )
                .help("is `memory` enough for the interpreter? Another one can be named with `python`"))
            }
            Err(Trouble::Unavailable(unavailable)) => Err(unavailable),
            Err(Trouble::Stopped) => Ok(()),
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A place among the programs that run at one time: not more than cores, whoever runs them.
struct Place;

static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Place {
    fn take() -> Self {
        let (running, left) = &RUNNING;
        let running = running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = left.wait_while(running, |n| *n >= cores()).unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (running, left) = &RUNNING;
        *running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        left.notify_one();
    }
}
