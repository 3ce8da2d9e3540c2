//! Tables, plots and their files, and the page of a run.

pub mod data;
pub mod font;
pub mod grid;
pub mod html;
pub mod markup;
pub mod plot;
pub mod terminal;
pub mod words;
