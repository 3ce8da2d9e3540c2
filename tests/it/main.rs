//! What a user does, through the binary.

mod documents;
mod tutorial;
