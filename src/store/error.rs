//! What an operating system's error means to the person who runs a pipeline.

use crate::exec::RunError;
use std::io::{Error, ErrorKind};
use std::path::Path;

/// "cannot write `X`: no space left", with what to do about it.
pub fn io_error(action: &str, path: &Path, error: &Error) -> RunError {
    let (code, help) = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => (
            "disk-full",
            "free some space (`idiolect store gc`) or give another place with `--store DIR` or `--out DIR`, \
             then run the same command again: finished rows are kept",
        ),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => (
            "no-permission",
            "allow writing there, or give another place with `--store DIR` (or IDIOLECT_STORE) and `--out DIR`",
        ),
        ErrorKind::NotFound => ("io-error", "check that the path is there"),
        _ => ("io-error", "check the disk and the path, then run the same command again: finished rows are kept"),
    };
    RunError::failed(code, format!("cannot {action} `{}`: {error}", path.display())).help(help)
}
