//! Tables, plots and their files.
