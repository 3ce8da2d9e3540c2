//! Operators that write: each row becomes calls to a teacher, and their answers become columns.
//!
//! ```text
//! rows -> tasks (what an operator asks for a row) -> driver -> teacher
//!                                                     |  journal: answers, before they are used
//!                                                     v
//!                                          rows and quarantine, in the order of the input
//! ```
//!
//! An operator says what to ask in a [`RowTask`] for each row; [`drive`] does everything else.

mod calls;
mod driver;
#[cfg(test)]
mod driver_tests;
mod emit;
mod helper;
mod input;
mod line;
mod task;
#[cfg(test)]
pub mod testing;

pub use driver::drive;
pub use task::{Cell, InRow, NewRow, RowTask, Step, one};
