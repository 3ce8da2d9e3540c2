//! The end of a teacher's work, seen by all of its calls at once.

use crate::exec::RunError;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// Set once, with the reason.
pub struct End(watch::Sender<Option<RunError>>);

impl Default for End {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl End {
    /// The first reason stays.
    pub fn set(&self, error: RunError) {
        self.0.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                *end = Some(error);
            }
            first
        });
    }

    pub fn error(&self) -> Option<RunError> {
        self.0.borrow().clone()
    }

    /// Waits for the end.
    pub async fn come(&self) -> RunError {
        let mut seen = self.0.subscribe();
        // The sender lives as long as `self` is borrowed.
        match seen.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(RunError::Interrupted),
            Err(_) => RunError::Interrupted,
        }
    }

    /// Waits until the run was stopped, and this much longer. Other ends leave calls that are on their way alone.
    pub async fn out_of_patience(&self, grace: Duration) -> RunError {
        let error = self.come().await;
        if !matches!(error, RunError::Interrupted) {
            std::future::pending::<()>().await;
        }
        sleep(grace).await;
        error
    }
}
