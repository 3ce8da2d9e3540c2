//! What a user does, through the binary.

mod author;
mod bench;
mod checks;
mod common;
mod damage;
mod documents;
mod fetch;
mod fmt;
mod released;
mod runs;
mod scale;
mod scoring;
mod tiny;
mod tutorial;
