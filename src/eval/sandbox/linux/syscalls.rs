//! The system calls that a child may make: those of one process with one thread, on files and without sockets.
//!
//! A list of what is allowed, so that what kernels learn later is not. What Landlock does not know is kept out here: new
//! processes and threads, signals to others, sockets, modes and owners of files, limits, namespaces, tracing.

use super::super::{Confinement, Unavailable};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Allowed with any arguments.
const PLAIN: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_chdir,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fchdir,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getitimer,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mkdirat,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_sendfile,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setitimer,
    libc::SYS_sigaltstack,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The same of one architecture: calls that newer ones have in another form.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_alarm,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(target_arch = "aarch64")]
const OLDER: &[libc::c_long] = &[libc::SYS_renameat];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OLDER: &[libc::c_long] = &[];

/// The filters, in the order in which they are installed; none where the kernel has no seccomp and less is asked for.
pub fn filters(confinement: Confinement) -> Result<Vec<BpfProgram>, Unavailable> {
    let lacking = |why: String| match confinement {
        Confinement::Limits => Ok(Vec::new()),
        Confinement::Full => Err(Unavailable::new(
            "sandbox-unavailable",
            format!("generated programs cannot be kept from system calls: {why}"),
        )
        .help(super::LESS)),
    };
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return lacking(format!("no filter is known for {}", std::env::consts::ARCH));
    };
    if !kernel_filters() {
        return lacking("seccomp is not there".into());
    }
    // The one that forbids most comes last: no further one can be installed then.
    let compiled = || Ok::<_, seccompiler::BackendError>(vec![absent(arch)?, allowed(arch)?]);
    compiled().map_err(|e| Unavailable::failed("make a filter of system calls", e))
}

fn kernel_filters() -> bool {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: asks whether an action is known, and changes nothing.
    let known = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &action) };
    known == 0
}

/// All but the calls of the lists fails with `EPERM`.
fn allowed(arch: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    // No conditions: any arguments.
    rules.extend(PLAIN.iter().chain(OLDER).map(|call| (*call, Vec::new())));
    // Left to the other filter.
    rules.insert(libc::SYS_clone3, Vec::new());
    // Limits are asked for, and not set.
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![is(2, 0)?])?]);
    #[cfg(target_arch = "x86_64")]
    rules.extend([(libc::SYS_getrlimit, Vec::new()), (libc::SYS_open, opening(1)?)]);
    rules.insert(libc::SYS_openat, opening(2)?);
    // Harmless questions and names alone: no tracing, no further filters, nothing that outlives the parent.
    let harmless = [libc::PR_GET_NAME, libc::PR_SET_NAME, libc::PR_GET_DUMPABLE, PR_SET_VMA];
    let asked = harmless.iter().map(|what| rule(vec![is(0, *what as u64)?])).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_prctl, asked);
    let commands = [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];
    let locks = [libc::F_GETLK, libc::F_SETLK, libc::F_SETLKW];
    let asked = commands.iter().chain(&locks).map(|what| rule(vec![is(1, *what as u64)?])).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_fcntl, asked);
    // What a file is, and how it is read; nothing that changes one.
    let asked = [libc::TCGETS, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX, libc::FIONCLEX];
    #[allow(clippy::unnecessary_cast, reason = "other C libraries give them another type")]
    let asked = asked.iter().map(|what| rule(vec![is(1, *what as u64)?])).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, asked);
    // A pair that is connected to itself, as event loops wake themselves with.
    rules.insert(libc::SYS_socketpair, vec![rule(vec![is(0, libc::AF_UNIX as u64)?])?]);
    let data = [libc::SYS_recvfrom, libc::SYS_shutdown, libc::SYS_getsockopt, libc::SYS_getsockname];
    rules.extend(data.map(|call| (call, Vec::new())));
    // Without an address: datagrams of such a pair could go to any socket that has a path.
    rules.insert(libc::SYS_sendto, vec![rule(vec![is(4, 0)?])?]);
    filter(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, arch)
}

/// `clone3` hides its arguments from filters. Where it is not there, threads are asked for by `clone`, which then fails.
fn absent(arch: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    filter(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32), arch)
}

const PR_SET_VMA: libc::c_int = 0x5356_4d41;

/// Opens but those that would cut a file which is open for reading alone: Landlock did not look at that at first.
fn opening(flags: u8) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let bits = |mask: libc::c_int, value: libc::c_int| {
        let operator = SeccompCmpOp::MaskedEq(mask as u64);
        rule(vec![SeccompCondition::new(flags, SeccompCmpArgLen::Dword, operator, value as u64)?])
    };
    Ok(vec![bits(libc::O_TRUNC, 0)?, bits(libc::O_ACCMODE, libc::O_WRONLY)?, bits(libc::O_ACCMODE, libc::O_RDWR)?])
}

fn is(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions)
}

fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
    arch: TargetArch,
) -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(rules, otherwise, listed, arch)?.try_into()
}
