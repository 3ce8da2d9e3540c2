//! Tables, plots and their files.

pub mod data;
pub mod font;
pub mod grid;
pub mod markup;
pub mod plot;
pub mod terminal;
