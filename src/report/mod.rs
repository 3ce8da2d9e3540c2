//! Tables, plots and their files.

pub mod font;
