//! Fetching against a server of the test's own, and the manifests' mistakes.

mod download;
mod hub;
mod manifests;
mod models;
mod package;
mod server;
mod sources;

use super::env::{FetchEnv, Retry};
use super::progress::{Event, Progress};
use super::{Catalog, Fetcher};
use crate::diag::{Diagnostics, Sources};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// Waits that a test can afford.
const QUICK: Retry = Retry { attempts: 4, first: Duration::from_millis(1), longest: Duration::from_millis(5) };

/// Bytes that are nowhere the same.
fn body(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Remembers what was said.
#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl Said {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Said {
    fn event(&self, event: Event<'_>) {
        let text = match event {
            Event::Started { done, bytes, .. } => format!("start {done} of {bytes:?}"),
            Event::Retry { reason, wait, .. } => format!("retry after {wait:?}: {reason}"),
            Event::Waiting { file } => format!("waiting for {file}"),
            Event::Warning(text) => format!("warning: {text}"),
            Event::Advanced { .. } | Event::Finished { .. } => return,
        };
        self.0.lock().unwrap().push(text);
    }
}

/// An environment whose caches lie in `folder`, with these variables.
fn env(folder: &Path, variables: &[(&str, &str)]) -> FetchEnv {
    let mut all: Vec<(String, String)> = vec![
        ("IDIOLECT_CACHE".into(), folder.join("cache").display().to_string()),
        ("HF_HOME".into(), folder.join("hf").display().to_string()),
    ];
    all.extend(variables.iter().map(|(n, v)| (n.to_string(), v.to_string())));
    let mut env = FetchEnv::from_lookup(move |name| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()));
    env.retry = QUICK;
    env
}

/// A fetcher that knows the manifests of `folder/datasets`, among them `text`.
fn fetcher(folder: &Path, text: &str, variables: &[(&str, &str)]) -> Fetcher {
    let datasets = folder.join("datasets");
    std::fs::create_dir_all(&datasets).unwrap();
    std::fs::write(datasets.join("test.kdl"), text).unwrap();
    let mut diags = Diagnostics::new();
    let catalog = Catalog::load(&datasets, &mut Sources::new(), &mut diags);
    assert!(!diags.has_errors(), "{diags:#?}");
    Fetcher::new(catalog, env(folder, variables))
}
