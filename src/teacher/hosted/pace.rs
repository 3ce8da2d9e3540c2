//! How long things take that are not the provider's to say.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Waits of our own. Tests have shorter ones.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The span of the pause after a first failure; it doubles with each.
    pub first: Duration,
    /// The longest pause after a failure.
    pub longest: Duration,
    /// How long the provider may refuse all calls.
    pub patience: Duration,
    /// How long calls on their way are waited for after a stop.
    pub grace: Duration,
    /// How long a batch waits for more calls when there seem to be no more.
    pub linger: Duration,
    /// Between two looks at a batch, at first; half as long again each time.
    pub look: Duration,
    /// The longest time between two looks.
    pub seldom: Duration,
    /// How long a batch that was just made may be missing from the provider's list.
    pub settle: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            patience: Duration::from_secs(3600),
            grace: Duration::from_secs(30),
            linger: Duration::from_secs(1),
            look: Duration::from_secs(5),
            seldom: Duration::from_secs(60),
            settle: Duration::from_secs(60),
        }
    }
}

/// From 0 to 1. No result depends on it.
pub fn jitter() -> f64 {
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A number that no other process has.
pub fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
