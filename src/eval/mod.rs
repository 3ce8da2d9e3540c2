//! Judging texts and numbers: answer extraction and statistics.

pub mod answer;
pub mod statistics;
