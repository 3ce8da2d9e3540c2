//! What fetching says while it works.

use std::path::Path;
use std::time::Duration;

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// Bytes of `file` begin to flow; `done` of them are there from an earlier, cut attempt.
    Started {
        file: &'a str,
        from: &'a str,
        done: u64,
        bytes: Option<u64>,
    },
    Advanced {
        file: &'a str,
        done: u64,
    },
    /// A passing failure; it is tried again after `wait`.
    Retry {
        file: &'a str,
        reason: &'a str,
        wait: Duration,
    },
    /// Another process is fetching the same file.
    Waiting {
        file: &'a str,
    },
    Finished {
        file: &'a str,
        path: &'a Path,
    },
    /// Something that the user should know: no checksum, a source that was passed over.
    Warning(&'a str),
}

/// Receives events; the command line draws a bar from them.
pub trait Progress: Sync {
    fn event(&self, event: Event<'_>);
    /// Set when fetching is to stop soon; what came so far is kept.
    fn stopping(&self) -> bool {
        false
    }
}

/// Says nothing.
pub struct Quiet;

impl Progress for Quiet {
    fn event(&self, _: Event<'_>) {}
}
