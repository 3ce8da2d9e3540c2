//! What a child does to itself between fork and exec.

use super::super::{Limits, WAITING};
use seccompiler::BpfProgram;
use std::io::{Error, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

/// Files that a program may have open at a time.
const OPEN_FILES: u64 = 64;
/// As a shell gives: deep recursion ends where it does outside.
const STACK: u64 = 8 << 20;

/// Everything that the child needs, made before the fork.
pub struct Entry {
    parent: libc::pid_t,
    limits: [(Resource, libc::rlimit); 6],
    ruleset: Option<OwnedFd>,
    filters: Vec<BpfProgram>,
    /// Those that live on in the interpreter.
    kept: [RawFd; 2],
}

impl Entry {
    pub fn new(
        filters: &[BpfProgram],
        ruleset: Option<OwnedFd>,
        limits: &Limits,
        (source, verdict): (&PipeReader, &PipeWriter),
    ) -> Self {
        let seconds = limits.seconds.ceil().max(1.0) as u64;
        // The first signal can be told from others; the second cannot be caught.
        let time = (seconds, seconds + 1);
        let same = |n: u64| (n, n);
        Self {
            // SAFETY: asks for a number.
            parent: unsafe { libc::getpid() },
            limits: [
                limit(libc::RLIMIT_AS, same(limits.memory)),
                limit(libc::RLIMIT_CPU, time),
                limit(libc::RLIMIT_FSIZE, same(limits.files / 8)),
                limit(libc::RLIMIT_NOFILE, same(OPEN_FILES)),
                limit(libc::RLIMIT_CORE, same(0)),
                limit(libc::RLIMIT_STACK, same(STACK)),
            ],
            ruleset,
            filters: filters.to_vec(),
            kept: [source.as_raw_fd(), verdict.as_raw_fd()],
        }
    }

    /// Confines the calling process. Only for a process that was just forked: makes system calls and nothing else.
    pub fn enter(&self) -> Result<(), Error> {
        // SAFETY: all of them take numbers, or pointers to what lives as long as `self`.
        unsafe {
            check(libc::setsid())?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            // The parent may have ended before it was said that the child ends with it.
            if libc::getppid() != self.parent {
                return Err(Error::from_raw_os_error(libc::ESRCH));
            }
            libc::umask(0o077);
            // Makes addresses, and what is ordered by them, the same in each run. Not all machines allow it.
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            self.close_all_but_kept()?;
            for (resource, limit) in &self.limits {
                check(libc::setrlimit(*resource, limit))?;
            }
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            if let Some(ruleset) = &self.ruleset {
                check(libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) as libc::c_int)?;
            }
        }
        for filter in &self.filters {
            seccompiler::apply_filter(filter).map_err(|error| match error {
                seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
                _ => Error::from_raw_os_error(libc::EINVAL),
            })?;
        }
        Ok(())
    }

    /// Nothing that this process has open reaches the interpreter, whoever opened it.
    unsafe fn close_all_but_kept(&self) -> Result<(), Error> {
        // SAFETY: as in `enter`.
        unsafe {
            // Marked rather than closed: the standard library still reports through one of them if exec fails.
            let marked = libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            if marked < 0 {
                for fd in 3..4096 {
                    libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
                }
            }
            for fd in self.kept {
                check(libc::fcntl(fd, libc::F_SETFD, 0))?;
            }
        }
        Ok(())
    }
}

fn check(result: libc::c_int) -> Result<(), Error> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// A limit, or what is left where the process is under a tighter one.
fn limit(resource: Resource, (soft, hard): (u64, u64)) -> (Resource, libc::rlimit) {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: fills a structure of ours; if it fails, the structure says that there is no limit.
    unsafe { libc::getrlimit(resource, &mut now) };
    (resource, libc::rlimit { rlim_cur: soft.min(now.rlim_max), rlim_max: hard.min(now.rlim_max) })
}

/// Seconds on the clock after which a program is stopped.
pub fn patience(limits: &Limits) -> f64 {
    limits.seconds * WAITING
}
