//! The Hugging Face hub's HTTP and the cache layout that its own client uses, so that both share files.
//!
//! ```text
//! models--org--name/
//!   blobs/<etag>                      the bytes
//!   refs/<revision>                   the commit that a branch or tag meant when it was last asked
//!   snapshots/<commit>/<file>         links into blobs
//! ```

use super::cache::{self, Lock, beside};
use super::error::{FetchError, Kind};
use super::http::{Download, Http, header};
use super::manifest::RepoKind;
use super::progress::{Event, Progress};
use reqwest::Method;
use reqwest::header::{ETAG, LOCATION};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// The hub's address, credentials and cache.
#[derive(Clone)]
pub struct HubConfig {
    pub endpoint: String,
    pub token: Option<String>,
    pub cache: PathBuf,
    pub offline: bool,
}

impl HubConfig {
    /// The public hub.
    pub const ENDPOINT: &str = "https://huggingface.co";
}

/// The token stays out of every log.
impl std::fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "(set)");
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("token", &token)
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .finish()
    }
}

/// A repository at a revision (a branch, a tag or a commit).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    pub kind: RepoKind,
    pub id: String,
    pub revision: String,
}

impl Repo {
    /// Refuses what is no `org/name` or no revision: they become parts of addresses and of folders' names.
    pub fn checked(self) -> Result<Self, FetchError> {
        let parts: Vec<&str> = self.id.split('/').collect();
        if parts.len() != 2 || !parts.iter().all(|p| super::decode::is_plain(p)) {
            return Err(FetchError::new(Kind::Unknown, format!("a hub repository is `org/name`, found `{}`", self.id)));
        }
        if !is_inside(&self.revision) {
            let message = format!("a revision is a branch, a tag or a commit, found `{}`", self.revision);
            return Err(FetchError::new(Kind::Unknown, message));
        }
        Ok(self)
    }
}

/// The files of a repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// What the hub says of a file before it is downloaded.
#[derive(Debug)]
struct FileMeta {
    commit: String,
    /// Names the blob: the SHA-256 of a large file, the git hash of a small one.
    etag: String,
    bytes: Option<u64>,
}

/// The hub as seen through its cache.
pub struct Hub<'a> {
    pub config: &'a HubConfig,
    pub http: &'a Http,
}

impl Hub<'_> {
    /// A file that is in the cache already.
    pub fn cached(&self, repo: &Repo, file: &str) -> Option<PathBuf> {
        let path = self.snapshot(repo)?.join(file);
        path.is_file().then_some(path)
    }

    /// The folder of the commit that the revision is known to mean here.
    pub fn snapshot(&self, repo: &Repo) -> Option<PathBuf> {
        let folder = self.folder(repo);
        let commit = match fs::read_to_string(folder.join("refs").join(&repo.revision)) {
            Ok(commit) => commit.trim().to_string(),
            Err(_) => repo.revision.clone(),
        };
        let snapshot = folder.join("snapshots").join(commit);
        snapshot.is_dir().then_some(snapshot)
    }

    /// Asks the hub which files the revision has.
    pub fn list(&self, repo: &Repo, progress: &dyn Progress) -> Result<Listing, FetchError> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        self.must_be_online(&repo.id)?;
        let kind = match repo.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        let url = format!("{}/api/{kind}/{}/revision/{}", self.config.endpoint, repo.id, escape(&repo.revision));
        let response = self.http.request(Method::GET, &url, self.token(), &repo.id, progress)?;
        let text = response.text().map_err(|e| FetchError::new(Kind::Unreachable, format!("{url}: {e}")))?;
        let answer: Answer = serde_json::from_str(&text).map_err(|e| {
            FetchError::new(Kind::WrongContent, format!("{url} did not answer with a repository's files: {e}"))
                .help("check HF_ENDPOINT")
        })?;
        let files = answer.siblings.into_iter().map(|s| s.rfilename).filter(|f| is_inside(f)).collect();
        Ok(Listing { commit: checked_commit(answer.sha, &url)?, files })
    }

    /// Makes sure that a file is in the cache and returns its place in the snapshot.
    pub fn ensure(&self, repo: &Repo, file: &str, progress: &dyn Progress) -> Result<PathBuf, FetchError> {
        self.ensure_at(repo, repo, file, progress)
    }

    /// [`Self::ensure`] for a file of the commit `at` that `repo.revision` has just been found to mean, so that all
    /// files of a model are of one commit.
    pub fn ensure_at(
        &self,
        repo: &Repo,
        at: &Repo,
        file: &str,
        progress: &dyn Progress,
    ) -> Result<PathBuf, FetchError> {
        self.must_be_online(&format!("{}/{file}", repo.id))?;
        let url = self.resolve_url(at, file);
        let meta = self.ask(&url, file, progress)?;
        let folder = self.folder(repo);
        let pointer = folder.join("snapshots").join(&meta.commit).join(file);
        let blob = folder.join("blobs").join(&meta.etag);
        let locks = self.config.cache.join(".locks").join(self.folder_name(repo));
        let _lock = Lock::take(&locks.join(format!("{}.lock", meta.etag)), file, progress)?;
        if !pointer.exists() {
            if !blob.is_file() {
                self.download(&url, file, &meta, &blob, progress)?;
            }
            link(&blob, &pointer, file)?;
        }
        if meta.commit != repo.revision {
            cache::write_atomic(&folder.join("refs").join(&repo.revision), meta.commit.as_bytes())?;
        }
        progress.event(Event::Finished { file, path: &pointer });
        Ok(pointer)
    }

    fn download(
        &self,
        url: &str,
        file: &str,
        meta: &FileMeta,
        blob: &Path,
        progress: &dyn Progress,
    ) -> Result<(), FetchError> {
        let part = beside(blob, ".incomplete");
        let is_sha256 = meta.etag.len() == 64 && meta.etag.chars().all(|c| c.is_ascii_hexdigit());
        let what = Download {
            url,
            bearer: self.token(),
            file,
            from: &format!("the hub ({})", self.config.endpoint),
            part: &part,
            bytes: meta.bytes,
            sha256: is_sha256.then_some(meta.etag.as_str()),
        };
        self.http.download(&what, progress)?;
        cache::put_in_place(&part, blob)
    }

    /// Commit, etag and size of a file, from the answer before any redirect to another host: storage hosts
    /// know nothing of commits.
    fn ask(&self, url: &str, file: &str, progress: &dyn Progress) -> Result<FileMeta, FetchError> {
        let mut url = url.to_string();
        for _ in 0..5 {
            let response = self.http.request(Method::HEAD, &url, self.token(), file, progress)?;
            let headers = response.headers();
            let of = |name: &str| header(headers, name);
            let location = of(LOCATION.as_str());
            // Renamed repositories redirect within the hub, by a relative address.
            if let Some(next) = location.as_deref().filter(|l| l.starts_with('/') && !l.starts_with("//")) {
                url = join(&url, next)?;
                continue;
            }
            let etag = of("x-linked-etag").or_else(|| of(ETAG.as_str())).map(|e| clean_etag(&e));
            let (Some(commit), Some(etag)) = (of("x-repo-commit"), etag.filter(|e| is_blob_name(e))) else {
                let message = format!("{url} did not answer as a hub does (no usable X-Repo-Commit and ETag)");
                return Err(FetchError::new(Kind::WrongContent, message).help("check HF_ENDPOINT"));
            };
            // On a redirect, Content-Length is that of the redirect's own body.
            let length = if location.is_none() { of("content-length") } else { None };
            let bytes = of("x-linked-size").or(length).and_then(|b| b.parse().ok());
            return Ok(FileMeta { commit: checked_commit(commit, &url)?, etag, bytes });
        }
        Err(FetchError::new(Kind::Unreachable, format!("{url}: too many redirects")))
    }

    fn resolve_url(&self, repo: &Repo, file: &str) -> String {
        let prefix = if repo.kind == RepoKind::Dataset { "datasets/" } else { "" };
        let file: Vec<String> = file.split('/').map(escape).collect();
        format!("{}/{prefix}{}/resolve/{}/{}", self.config.endpoint, repo.id, escape(&repo.revision), file.join("/"))
    }

    fn folder(&self, repo: &Repo) -> PathBuf {
        self.config.cache.join(self.folder_name(repo))
    }

    fn folder_name(&self, repo: &Repo) -> String {
        let kind = match repo.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        format!("{kind}--{}", repo.id.replace('/', "--"))
    }

    fn token(&self) -> Option<&str> {
        self.config.token.as_deref()
    }

    fn must_be_online(&self, what: &str) -> Result<(), FetchError> {
        if !self.config.offline {
            return Ok(());
        }
        let message =
            format!("`{what}` is not in the hub cache ({}), and HF_HUB_OFFLINE is set", self.config.cache.display());
        Err(FetchError::new(Kind::Unavailable, message).help("unset HF_HUB_OFFLINE to fetch it"))
    }
}

/// Links a snapshot's file to its blob; where links are not to be had (some file systems), moves the blob.
fn link(blob: &Path, pointer: &Path, file: &str) -> Result<(), FetchError> {
    let fail = |e: std::io::Error| FetchError::io("link", pointer, &e);
    if let Some(folder) = pointer.parent() {
        cache::create_folder(folder)?;
    }
    // A link to a blob that is gone.
    cache::remove_if_there(pointer)?;
    let up = "../".repeat(file.split('/').count() + 1);
    let name = blob.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(format!("{up}blobs/{name}"), pointer);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(format!("{up}blobs/{name}"), pointer);
    match linked {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => fs::rename(blob, pointer).map_err(fail),
    }
}

/// A commit names a folder, so it may hold nothing but hex digits.
fn checked_commit(commit: String, url: &str) -> Result<String, FetchError> {
    if (7..=64).contains(&commit.len()) && commit.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(commit);
    }
    let message = format!("{url} names the commit `{}`, which is none", commit.escape_debug());
    Err(FetchError::new(Kind::WrongContent, message).help("check HF_ENDPOINT"))
}

/// `W/"abc"` -> `abc`.
fn clean_etag(etag: &str) -> String {
    etag.trim().trim_start_matches("W/").trim_matches('"').to_string()
}

/// An etag names a file of `blobs`.
fn is_blob_name(etag: &str) -> bool {
    (1..=128).contains(&etag.len()) && etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// A repository's file names become paths of ours.
pub fn is_inside(file: &str) -> bool {
    !file.contains('\\') && file.split('/').all(|p| !p.is_empty() && p != "." && p != "..")
}

fn join(base: &str, location: &str) -> Result<String, FetchError> {
    let joined = reqwest::Url::parse(base).and_then(|u| u.join(location));
    joined.map(String::from).map_err(|e| FetchError::new(Kind::Unreachable, format!("{base}: bad redirect: {e}")))
}

/// Percent-encodes one segment of an address.
fn escape(segment: &str) -> String {
    let mut out = String::new();
    for byte in segment.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
