//! What a user does, through the binary.

mod adapters;
mod author;
mod bench;
mod checks;
mod common;
mod damage;
mod documents;
mod evaluation;
// Unit tests use the rest of it.
#[allow(dead_code)]
mod faults;
mod fetch;
mod fmt;
mod released;
mod report;
mod rewriting;
mod runs;
mod sandbox;
mod scale;
mod scoring;
mod statistics;
mod teachers;
mod tiny;
mod training;
mod tutorial;
mod writing;
