//! What a user does, through the binary.

mod common;
mod damage;
mod documents;
mod fmt;
mod runs;
mod scale;
mod tutorial;
