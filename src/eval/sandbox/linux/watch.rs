//! Feeding a child, listening to it, and making an end of it.

use super::super::{KEPT, Limits, Outcome, Program, Ran, Stage, Trouble, Unavailable};
use super::enter::patience;
use rand::RngCore;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a child is looked after that says nothing.
const TICK: Duration = Duration::from_millis(20);
/// The same where the kernel does not say that a child ended.
const SHORT_TICK: Duration = Duration::from_millis(2);
/// The most that the harness says.
const VERDICT: usize = 8 << 10;
/// Files and folders that a program may have.
const ENTRIES: usize = 4096;

/// Our ends of a child's pipes.
pub struct Ends {
    pub source: PipeWriter,
    pub verdict: PipeReader,
    pub stdout: PipeReader,
    pub stderr: PipeReader,
}

/// A child that is killed and waited for, whatever happens.
pub struct Child<'a> {
    pid: libc::pid_t,
    /// Says when it has ended; `None` on kernels before 5.3.
    handle: Option<OwnedFd>,
    folder: &'a Path,
    limits: &'a Limits,
    started: Instant,
    reaped: bool,
}

/// Why a child was killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reason {
    Time,
    Output,
    Stopped,
}

impl<'a> Child<'a> {
    pub fn new(child: std::process::Child, folder: &'a Path, limits: &'a Limits) -> Self {
        let pid = child.id() as libc::pid_t;
        // SAFETY: opens a handle on a child that was not waited for yet, so that its number is still its own.
        let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd;
        // SAFETY: a descriptor that was just opened, and that nothing else knows.
        let handle = (handle >= 0).then(|| unsafe { OwnedFd::from_raw_fd(handle) });
        Self { pid, handle, folder, limits, started: Instant::now(), reaped: false }
    }

    pub fn watch(mut self, ends: Ends, program: &Program, stop: &dyn Fn() -> bool) -> Result<Ran, Trouble> {
        let mut nonce = [0; 32];
        rand::rng().fill_bytes(&mut nonce);
        let mut talk = Talk::new(ends, payload(program, &nonce));
        let reason = self.listen(&mut talk, stop).map_err(|e| Unavailable::failed("listen to a program", e))?;
        let (status, seconds) = self.end(reason.is_some()).map_err(|e| Unavailable::failed("wait for a program", e))?;
        // What it said last.
        talk.read().map_err(|e| Unavailable::failed("listen to a program", e))?;
        if reason == Some(Reason::Stopped) {
            return Err(Trouble::Stopped);
        }
        let outcome = match reason {
            _ if talk.is_too_much(self.limits) || !self.folder_fits() => Outcome::Output,
            _ if talk.verdict.bytes == nonce => Outcome::Passed,
            Some(Reason::Time) => Outcome::Timeout,
            Some(_) => Outcome::Output,
            None => self.judge(&talk.verdict.bytes, program, status, seconds),
        };
        let most = self.limits.output;
        let said = |heard: &Heard| match outcome {
            Outcome::Timeout => String::new(),
            // What lies beyond the limit was heard by chance, and so was a stream that another one or a file brought to its end.
            Outcome::Output if heard.heard <= most => String::new(),
            Outcome::Output => {
                self.presentable(&heard.bytes[..heard.bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX))])
            }
            _ => self.presentable(&heard.bytes),
        };
        Ok(Ran { stdout: said(&talk.stdout), stderr: said(&talk.stderr), outcome })
    }

    /// Feeds the child and reads what it says until it has ended, or has to be ended.
    fn listen(&self, talk: &mut Talk, stop: &dyn Fn() -> bool) -> std::io::Result<Option<Reason>> {
        let deadline = self.started + Duration::from_secs_f64(patience(self.limits));
        let mut looked = Instant::now();
        loop {
            let ended = talk.wait(self.handle.as_ref(), deadline)? || (self.handle.is_none() && self.has_ended());
            talk.write()?;
            talk.read()?;
            if talk.is_too_much(self.limits) {
                return Ok(Some(Reason::Output));
            }
            if ended {
                return Ok(None);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(Some(Reason::Time));
            }
            if now >= looked + TICK {
                looked = now;
                if stop() {
                    return Ok(Some(Reason::Stopped));
                }
                if !self.folder_fits() {
                    return Ok(Some(Reason::Output));
                }
            }
        }
    }

    fn judge(&self, verdict: &[u8], program: &Program, status: libc::c_int, seconds: f64) -> Outcome {
        if let Some(failed) = self.failed(verdict, program) {
            return failed;
        }
        if !libc::WIFSIGNALED(status) {
            return Outcome::Exited(libc::WEXITSTATUS(status));
        }
        match libc::WTERMSIG(status) {
            libc::SIGXCPU => Outcome::Timeout,
            libc::SIGKILL if seconds >= self.limits.seconds => Outcome::Timeout,
            libc::SIGXFSZ => Outcome::Output,
            signal => Outcome::Killed(signal),
        }
    }

    fn has_ended(&self) -> bool {
        // SAFETY: asks for the state of a child of ours and leaves it to be waited for.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            libc::waitid(libc::P_PID, self.pid as libc::id_t, &mut info, options) == 0 && info.si_pid() == self.pid
        }
    }

    /// Waits for the child, after killing it and its group where that is asked for: its status, and the processor time
    /// that it took in seconds.
    fn end(&mut self, kill: bool) -> std::io::Result<(libc::c_int, f64)> {
        // SAFETY: signals go to a child that was not waited for and to the group that it leads; the rest fills structures
        // of ours.
        unsafe {
            // Of a program that may have children, those that it left behind as well.
            if !self.reaped {
                libc::kill(-self.pid, libc::SIGKILL);
            }
            if kill {
                libc::kill(self.pid, libc::SIGKILL);
            }
            let mut status = 0;
            let mut usage: libc::rusage = std::mem::zeroed();
            while !self.reaped && libc::wait4(self.pid, &mut status, 0, &mut usage) < 0 {
                let error = std::io::Error::last_os_error();
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            self.reaped = true;
            let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
            Ok((status, seconds(usage.ru_utime) + seconds(usage.ru_stime)))
        }
    }

    /// Whether what is in the folder is not too much. What cannot be looked into, for its path is too long or the program
    /// has forbidden it, is.
    fn folder_fits(&self) -> bool {
        let (mut folders, mut bytes, mut entries) = (vec![self.folder.to_path_buf()], 0, 0);
        while let Some(folder) = folders.pop() {
            let listed = match std::fs::read_dir(folder) {
                Ok(listed) => listed,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENAMETOOLONG | libc::EACCES)) => return false,
                // Removed in the meantime.
                Err(_) => continue,
            };
            for entry in listed.flatten() {
                entries += 1;
                let Ok(metadata) = entry.metadata() else { continue };
                bytes += std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
                if bytes > self.limits.files || entries > ENTRIES {
                    return false;
                }
            }
        }
        true
    }

    /// What the harness says of an exception.
    fn failed(&self, verdict: &[u8], program: &Program) -> Option<Outcome> {
        let text = String::from_utf8_lossy(verdict);
        let mut parts = text.splitn(3, '\n');
        let (stage, kind, message) = (parts.next()?, parts.next()?.to_string(), parts.next()?);
        let stage = match stage.parse::<usize>() {
            _ if stage == "program" => Stage::Code,
            Ok(at) if at < program.setup.len() => Stage::Setup(at),
            Ok(at) if at < program.setup.len() + program.tests.len() => Stage::Test(at - program.setup.len()),
            _ => return None,
        };
        match kind.as_str() {
            "MemoryError" => Some(Outcome::Memory),
            _ => Some(Outcome::Failed { stage, kind, message: self.presentable(message.as_bytes()) }),
        }
    }

    /// What a program printed or raised, without what differs from run to run.
    fn presentable(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let folder = self.folder.to_string_lossy();
        without_addresses(&without_half(&text.replace(&*folder, "<folder>"), &folder))
    }
}

impl Drop for Child<'_> {
    fn drop(&mut self) {
        if !self.reaped {
            // There is nobody left to tell.
            let _ = self.end(true);
        }
    }
}

/// A text that was cut may end within the folder's name, whose last letters are random.
fn without_half(text: &str, folder: &str) -> String {
    /// As `tempfile` has it.
    const RANDOM: usize = 6;
    let known = folder.len().saturating_sub(RANDOM);
    let halves = (known + 1..folder.len()).rev().filter_map(|end| folder.get(..end));
    match halves.filter_map(|half| text.strip_suffix(half)).next() {
        Some(before) => format!("{before}<folder>"),
        None => text.to_string(),
    }
}

/// `0x7f3a...` becomes `0x...`.
fn without_addresses(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("0x") {
        let digits = rest[at + 2..].bytes().take_while(u8::is_ascii_hexdigit).count();
        out += &rest[..at + 2];
        // Shorter ones are numbers.
        out += if digits >= 9 { "..." } else { &rest[at + 2..at + 2 + digits] };
        rest = &rest[at + 2 + digits..];
    }
    out + rest
}

/// What the harness reads, in its order.
fn payload(program: &Program, nonce: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let number = |bytes: &mut Vec<u8>, n: usize| bytes.extend(u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
    let texts = || program.setup.iter().chain(&program.tests);
    number(&mut bytes, program.code.len());
    bytes.extend(program.code.as_bytes());
    number(&mut bytes, texts().count());
    for text in texts() {
        number(&mut bytes, text.len());
        bytes.extend(text.as_bytes());
    }
    bytes.extend(nonce);
    bytes
}

/// The conversation with a child.
struct Talk {
    source: Option<PipeWriter>,
    /// What is still to be written to it.
    payload: Vec<u8>,
    written: usize,
    verdict: Heard,
    stdout: Heard,
    stderr: Heard,
}

/// A stream of a child.
struct Heard {
    /// `None` once it is closed.
    pipe: Option<PipeReader>,
    /// Its beginning.
    bytes: Vec<u8>,
    /// Its length.
    heard: u64,
}

impl Talk {
    fn new(ends: Ends, payload: Vec<u8>) -> Self {
        let heard = |pipe: PipeReader| {
            nonblocking(pipe.as_raw_fd());
            Heard { pipe: Some(pipe), bytes: Vec::new(), heard: 0 }
        };
        nonblocking(ends.source.as_raw_fd());
        Self {
            source: Some(ends.source),
            payload,
            written: 0,
            verdict: heard(ends.verdict),
            stdout: heard(ends.stdout),
            stderr: heard(ends.stderr),
        }
    }

    /// Waits until there is something to do, or time to look around; whether the child has ended.
    fn wait(&self, handle: Option<&OwnedFd>, deadline: Instant) -> std::io::Result<bool> {
        let polled = |fd: RawFd, events| libc::pollfd { fd, events, revents: 0 };
        // Those that are negative are not looked at.
        let reader = |heard: &Heard| polled(heard.pipe.as_ref().map_or(-1, |p| p.as_raw_fd()), libc::POLLIN);
        let mut fds = [
            polled(handle.map_or(-1, |h| h.as_raw_fd()), libc::POLLIN),
            polled(self.source.as_ref().map_or(-1, |p| p.as_raw_fd()), libc::POLLOUT),
            reader(&self.verdict),
            reader(&self.stdout),
            reader(&self.stderr),
        ];
        let tick = if handle.is_some() { TICK } else { SHORT_TICK };
        let left = deadline.saturating_duration_since(Instant::now()).min(tick);
        // SAFETY: an array of ours and its length.
        let ready =
            unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, left.as_millis() as libc::c_int + 1) };
        if ready < 0 {
            let error = std::io::Error::last_os_error();
            return if error.kind() == ErrorKind::Interrupted { Ok(false) } else { Err(error) };
        }
        Ok(fds[0].revents != 0)
    }

    /// Writes as much as fits.
    fn write(&mut self) -> std::io::Result<()> {
        while let Some(pipe) = &mut self.source {
            match pipe.write(&self.payload[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.written == self.payload.len() {
                self.source = None;
            }
        }
        Ok(())
    }

    /// Whether the child said more than it may.
    fn is_too_much(&self, limits: &Limits) -> bool {
        self.stdout.heard + self.stderr.heard > limits.output || self.verdict.heard > VERDICT as u64
    }

    fn read(&mut self) -> std::io::Result<()> {
        self.verdict.read(VERDICT)?;
        self.stdout.read(KEPT)?;
        self.stderr.read(KEPT)
    }
}

impl Heard {
    /// Reads what is there, up to as much as a pipe holds, and keeps the beginning.
    fn read(&mut self, kept: usize) -> std::io::Result<()> {
        let mut buffer = [0; 1 << 16];
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(n) => {
                let room = kept.saturating_sub(self.bytes.len()).min(n);
                self.bytes.extend(&buffer[..room]);
                self.heard += n as u64;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn nonblocking(fd: RawFd) {
    // SAFETY: changes a flag of a descriptor of ours.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::fcntl(fd, libc::F_GETFL) | libc::O_NONBLOCK) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_folder_is_no_folder() {
        let folder = "/tmp/idiolect-sandbox-aBc123";
        for (text, shown) in [
            ("no file /tmp/idiolect-sandbox-aBc12", "no file <folder>"),
            ("no file /tmp/idiolect-sandbox-a", "no file <folder>"),
            // As far as that it is the same in every run.
            ("no file /tmp/idiolect-sandbox-", "no file /tmp/idiolect-sandbox-"),
            ("/tmp/", "/tmp/"),
            ("", ""),
        ] {
            assert_eq!(without_half(text, folder), shown);
        }
    }
}
