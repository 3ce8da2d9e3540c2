//! Judging texts and numbers: answers, edits, statistics.

pub mod answer;
pub mod code;
pub mod edit;
pub mod rouge;
pub mod sandbox;
pub mod statistics;
pub mod task;

pub use answer::{Answer, Checker, Verdict};
