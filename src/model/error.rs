//! Failures of a model as run errors: which model, what was expected and found, what to do.

use crate::exec::RunError;
use std::path::Path;

pub(super) type Result<T> = std::result::Result<T, RunError>;

/// A file of a model that cannot be read or understood.
pub(super) fn bad_file(path: &Path, what: impl std::fmt::Display) -> RunError {
    RunError::failed("model-file", format!("{}: {what}", path.display()))
}

/// A model that is well-formed and not supported.
pub(super) fn unsupported(path: &Path, what: impl std::fmt::Display) -> RunError {
    RunError::failed("model-unsupported", format!("{}: {what}", path.display()))
}

/// A failure of the tensor library. Lack of memory gets a code of its own and says what to lower.
pub(super) fn tensor(doing: impl std::fmt::Display, error: candle_core::Error) -> RunError {
    let text = first_line(&error.to_string());
    if is_out_of_memory(&text) {
        return RunError::failed("out-of-memory", format!("out of memory {doing}: {text}"))
            .help("take a smaller dtype (`dtype=\"bf16\"` or, from GGUF, `\"quantized\"`) or a lower `max-tokens`");
    }
    RunError::failed("model-failed", format!("{doing}: {text}"))
}

fn is_out_of_memory(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["out of memory", "out_of_memory", "alloc"].iter().any(|t| text.contains(t))
}

/// Tensor errors may carry a backtrace below their message.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_string()
}

/// Adds what was being done to a tensor library's result.
pub(super) trait Doing<T> {
    fn doing<D: std::fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Doing<T> for candle_core::Result<T> {
    fn doing<D: std::fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| tensor(what(), e))
    }
}
