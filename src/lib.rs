//! **idiolect**: a declarative dataflow engine for making, choosing and proving LLM training data.
//!
//! The phases are types, and data flows one way:
//!
//! ```text
//! text -> syntax::Document -> config::Pipeline -> graph::Graph -> plan::Plan -> exec (a run)
//! ```
//!
//! Everything up to [`plan`] is pure. `ops` is the one place that knows both the plan and the machinery.

pub mod cli;
pub mod config;
pub mod diag;
pub mod eval;
pub mod exec;
pub mod fetch;
pub mod graph;
pub mod model;
pub mod ops;
pub mod plan;
pub mod prompt;
pub mod report;
pub mod size;
pub mod store;
pub mod syntax;
pub mod teacher;
