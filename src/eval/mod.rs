//! Judging texts and numbers: answers, edits, statistics.

pub mod answer;
pub mod edit;
pub mod statistics;

pub use answer::{Answer, Checker, Verdict};
