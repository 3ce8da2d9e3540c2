//! Operators that write: each row becomes calls to a teacher, and their answers become columns.
//!
//! ```text
//! rows -> tasks (what an operator asks for a row) -> driver -> teacher
//!                                                     |  journal: answers, before they are used
//!                                                     v
//!                                          rows and quarantine, in the order of the input
//! ```
//!
//! An operator says what to ask in a [`RowTask`] for each row; [`drive`] does everything else. What writers share, from
//! their fields to the columns that they add, is in [`Writing`]; a [`Prompt`] is a template whose inputs are columns.
//! The smallest operator: `initial_prediction.rs`.

mod again;
mod calls;
mod driver;
#[cfg(test)]
mod driver_tests;
mod emit;
pub mod extract_code;
mod helper;
pub mod initial_prediction;
mod input;
mod judge;
mod line;
pub mod min_change;
#[cfg(test)]
mod operator_tests;
pub mod paraphrase;
mod prompt;
pub mod self_sample;
pub mod settings;
mod single;
pub mod style_transfer;
mod task;
pub mod teacher_generate;
#[cfg(test)]
pub mod testing;

pub use driver::{Finishing, drive, drive_and};
pub use line::Finished;
pub use prompt::{Bound, Prompt};
pub use settings::Writing;
pub use task::{Cell, InRow, NewRow, RowTask, Step, Task, one};
