//! Why something could not be fetched.

use std::fmt;
use std::path::Path;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No manifest, split or file of that name.
    Unknown,
    /// The source has no such thing (404, missing path, missing member).
    NotFound,
    /// The source wants credentials or refuses them.
    Denied,
    /// The server or the network failed, also after retries.
    Unreachable,
    /// What came is not what the manifest or the server announced: checksum, size, a web page instead of data.
    WrongContent,
    /// The network is switched off, or a source's environment variable is not set.
    Unavailable,
    /// The disk is full.
    DiskFull,
    /// Another failure of the file system.
    Io,
    /// Python or pip is missing or failed.
    Package,
    /// Stopped by the user.
    Interrupted,
}

/// A failure that says what was expected, what was found, where, and what to do.
#[derive(Debug, Clone)]
pub struct FetchError {
    pub kind: Kind,
    pub message: String,
    pub help: Option<String>,
    /// For a file with several sources: what each of them said.
    pub attempts: Vec<(String, FetchError)>,
}

impl FetchError {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None, attempts: Vec::new() }
    }

    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// A failure of the file system, with the path and what was being done to it.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull || error.kind() == std::io::ErrorKind::QuotaExceeded {
            return Self::new(Kind::DiskFull, format!("cannot {action} `{}`: the disk is full", path.display())).help(
                "free some space, or put the cache on another disk with IDIOLECT_CACHE; what came so far is kept",
            );
        }
        let e = Self::new(Kind::Io, format!("cannot {action} `{}`: {error}", path.display()));
        match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                e.help("choose a folder that can be written with IDIOLECT_CACHE")
            }
            _ => e,
        }
    }

    /// A file that none of its sources gave.
    pub fn all_failed(file: &str, mut attempts: Vec<(String, FetchError)>) -> Self {
        if attempts.len() == 1 {
            let (source, mut e) = attempts.remove(0);
            e.message = format!("cannot fetch `{file}` from {source}: {}", e.message);
            return e;
        }
        // The last source that could be tried at all tells most about what to do.
        let telling = attempts.iter().rev().map(|(_, e)| e).find(|e| e.kind != Kind::Unavailable);
        let kind = telling.map_or(Kind::Unavailable, |e| e.kind);
        let help = telling.or(attempts.last().map(|(_, e)| e)).and_then(|e| e.help.clone());
        let message = format!("cannot fetch `{file}`: none of its {} sources gave it", attempts.len());
        Self { kind, message, help, attempts }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for (source, error) in &self.attempts {
            write!(f, "\n  - {source}: {}", error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for FetchError {}

impl From<FetchError> for crate::exec::RunError {
    fn from(e: FetchError) -> Self {
        if e.kind == Kind::Interrupted {
            return Self::Interrupted;
        }
        let failed = Self::failed("fetch-failed", e.to_string());
        match e.help {
            Some(help) => failed.help(help),
            None => failed,
        }
    }
}
