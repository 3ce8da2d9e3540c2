//! What a user does, through the binary.

mod common;
mod crash;
mod damage;
mod documents;
mod fetch;
mod fmt;
mod runs;
mod scale;
mod released;
mod tutorial;
