//! Models and data sets: manifests, sources, checksums, the user cache.
//!
//! A manifest (`datasets/*.kdl`) says what a data set or model is and where its files come from. The
//! [`Catalog`] knows the manifests; a [`Fetcher`] says what is here without network ([`Fetcher::locate_split`],
//! [`Fetcher::model_state`]) and gets what is not ([`Fetcher::ensure_split`], [`Fetcher::ensure_model`]).
//! Everything that comes is checked by size and SHA-256 before it appears in the cache.

mod cache;
mod catalog;
mod decode;
mod env;
mod error;
mod fetcher;
mod http;
mod hub;
mod manifest;
mod model;
mod package;
mod probe;
mod progress;
mod reader;
#[cfg(test)]
mod tests;

pub use catalog::{Catalog, FOLDER};
pub use env::{FetchEnv, Retry};
pub use error::{FetchError, Kind};
pub use fetcher::{Fetched, Fetcher, Located};
pub use hub::{HubConfig, Repo};
pub use manifest::{
    Column, ColumnKind, Content, DatasetManifest, FileSpec, Format, ModelManifest, Offer, Origin, RepoKind, Source,
    Split, WeightsKind,
};
pub use model::{Availability, ModelFiles, ModelState};
pub use progress::{Event, Progress, Quiet};

use crate::diag::{Diagnostics, Sources};
use std::path::Path;

/// A fetcher with the manifests of the working directory and the environment of this process.
pub fn open(sources: &mut Sources, diags: &mut Diagnostics) -> Fetcher {
    Fetcher::new(Catalog::load(Path::new(FOLDER), sources, diags), FetchEnv::from_process())
}
