//! The hub's HTTP and its cache layout.

use super::server::{Reply, Seen, Server};
use super::{QUICK, body, env, sha256};
use crate::fetch::env::FetchEnv;
use crate::fetch::http::Http;
use crate::fetch::hub::{Hub, Repo};
use crate::fetch::manifest::RepoKind;
use crate::fetch::progress::Quiet;
use crate::fetch::{FetchError, Kind};
use std::path::{Path, PathBuf};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A repository `org/name` with these files; `.safetensors` and `.gguf` are large files, kept by another host.
pub struct FakeHub {
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// Needed to read anything.
    pub token: Option<&'static str>,
    /// What the storage gives for large files, in place of the right bytes.
    pub forged: Option<Vec<u8>>,
}

impl FakeHub {
    pub fn new(files: Vec<(&'static str, Vec<u8>)>) -> Self {
        Self { files, token: None, forged: None }
    }

    pub fn start(self) -> Server {
        Server::start(move |seen, _| self.answer(seen))
    }

    fn answer(&self, seen: &Seen) -> Reply {
        if let Some(name) = seen.path.strip_prefix("/storage/") {
            let bytes = self.forged.as_ref().unwrap_or_else(|| self.bytes(name).expect("a linked file"));
            return Reply::file(seen, bytes, "an-etag-of-the-storage");
        }
        if self.token.is_some_and(|t| seen.header("authorization") != Some(&format!("Bearer {t}"))) {
            return Reply::status(401)
                .with("X-Error-Code", "GatedRepo")
                .with("X-Error-Message", "Access is restricted");
        }
        if seen.path == "/api/models/org/name/revision/main" {
            let names: Vec<_> = self.files.iter().map(|(n, _)| serde_json::json!({ "rfilename": n })).collect();
            return Reply::data(serde_json::json!({ "sha": COMMIT, "siblings": names }).to_string().as_bytes());
        }
        let prefixes = ["/org/name/resolve/main/", "/datasets/org/name/resolve/main/"];
        let pinned = format!("/org/name/resolve/{COMMIT}/");
        let prefixes = prefixes.into_iter().chain([pinned.as_str()]);
        match prefixes.filter_map(|p| seen.path.strip_prefix(p)).next() {
            Some(name) => self.file(seen, name),
            None => Reply::status(404).with("X-Error-Code", "RepoNotFound"),
        }
    }

    fn file(&self, seen: &Seen, name: &str) -> Reply {
        let Some(bytes) = self.bytes(name) else {
            return Reply::status(404).with("X-Error-Code", "EntryNotFound").with("X-Error-Message", "Entry not found");
        };
        if name.ends_with(".safetensors") || name.ends_with(".gguf") {
            return Reply::status(302)
                .with("Location", format!("http://{}/storage/{name}", seen.header("host").expect("a host")))
                .with("X-Repo-Commit", COMMIT)
                .with("X-Linked-Etag", format!("\"{}\"", sha256(bytes)))
                .with("X-Linked-Size", bytes.len());
        }
        Reply::file(seen, bytes, &git_hash(name)).with("X-Repo-Commit", COMMIT)
    }

    fn bytes(&self, name: &str) -> Option<&Vec<u8>> {
        self.files.iter().find(|(n, _)| *n == name).map(|(_, b)| b)
    }
}

/// Forty hex digits, as git names small files.
fn git_hash(name: &str) -> String {
    sha256(name.as_bytes())[..40].to_string()
}

fn repo() -> Repo {
    Repo { kind: RepoKind::Model, id: "org/name".into(), revision: "main".into() }
}

struct Case {
    folder: tempfile::TempDir,
    env: FetchEnv,
    http: Http,
}

impl Case {
    fn new(server: &Server, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut all = vec![("HF_ENDPOINT", server.url.as_str())];
        all.extend(variables);
        Self { env: env(folder.path(), &all), folder, http: Http::new(QUICK) }
    }

    fn hub(&self) -> Hub<'_> {
        Hub { config: &self.env.hub, http: &self.http }
    }

    fn ensure(&self, file: &str) -> Result<PathBuf, FetchError> {
        self.hub().ensure(&repo(), file, &Quiet)
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("hf/hub/models--org--name")
    }
}

#[test]
fn files_are_kept_in_the_hub_s_own_layout() {
    let weights = body(50_000);
    let server =
        FakeHub::new(vec![("config.json", b"{}".to_vec()), ("sub/model.safetensors", weights.clone())]).start();
    let case = Case::new(&server, &[]);
    let config = case.ensure("config.json").unwrap();
    let model = case.ensure("sub/model.safetensors").unwrap();
    let snapshot = case.cache().join("snapshots").join(COMMIT);
    assert_eq!(config, snapshot.join("config.json"));
    assert_eq!(model, snapshot.join("sub/model.safetensors"));
    assert_eq!(std::fs::read_to_string(case.cache().join("refs/main")).unwrap(), COMMIT);
    let link = |path: &Path| std::fs::read_link(path).unwrap().display().to_string();
    assert_eq!(link(&config), format!("../../blobs/{}", git_hash("config.json")));
    assert_eq!(link(&model), format!("../../../blobs/{}", sha256(&weights)));
    assert!(std::fs::read(&model).unwrap() == weights);
}

#[test]
fn a_file_in_the_cache_needs_no_server() {
    let server = FakeHub::new(vec![("config.json", b"{}".to_vec())]).start();
    let case = Case::new(&server, &[]);
    assert_eq!(case.hub().cached(&repo(), "config.json"), None);
    let path = case.ensure("config.json").unwrap();
    let before = server.count();
    assert_eq!(case.hub().cached(&repo(), "config.json"), Some(path));
    // The commit itself is a revision too.
    let pinned = Repo { revision: COMMIT.into(), ..repo() };
    assert!(case.hub().cached(&pinned, "config.json").is_some());
    assert_eq!(server.count(), before);
}

#[test]
fn a_blob_that_is_there_is_linked_and_not_fetched_again() {
    let server = FakeHub::new(vec![("config.json", b"{}".to_vec())]).start();
    let case = Case::new(&server, &[]);
    let path = case.ensure("config.json").unwrap();
    std::fs::remove_file(&path).unwrap();
    case.ensure("config.json").unwrap();
    assert!(path.exists());
    assert_eq!(server.seen().iter().filter(|s| s.method == "GET").count(), 1);
}

#[test]
fn offline_means_no_request() {
    let server = FakeHub::new(vec![("config.json", b"{}".to_vec())]).start();
    let case = Case::new(&server, &[("HF_HUB_OFFLINE", "1")]);
    let e = case.ensure("config.json").unwrap_err();
    assert_eq!((e.kind, server.count()), (Kind::Unavailable, 0));
    assert!(e.message.contains("HF_HUB_OFFLINE"), "{}", e.message);
}

#[test]
fn a_gated_repository_says_what_to_do_and_a_token_opens_it() {
    let gated = || FakeHub { token: Some("hf_good"), ..FakeHub::new(vec![("config.json", b"{}".to_vec())]) }.start();
    let server = gated();
    let e = Case::new(&server, &[]).ensure("config.json").unwrap_err();
    assert_eq!((e.kind, server.count()), (Kind::Denied, 1));
    assert!(e.message.contains("Access is restricted") && e.help.unwrap().contains("HF_TOKEN"));
    Case::new(&gated(), &[("HF_TOKEN", "hf_good")]).ensure("config.json").unwrap();
}

#[test]
fn what_does_not_exist_is_not_tried_again() {
    let server = FakeHub::new(vec![("config.json", b"{}".to_vec())]).start();
    let case = Case::new(&server, &[]);
    let e = case.ensure("tokenizer.json").unwrap_err();
    assert_eq!((e.kind, server.count()), (Kind::NotFound, 1));
    assert!(e.message.contains("Entry not found"), "{}", e.message);
}

#[test]
fn bytes_that_do_not_have_their_etag_s_checksum_are_refused() {
    let hub = FakeHub::new(vec![("model.safetensors", body(50_000))]);
    let server = FakeHub { forged: Some(vec![7; 50_000]), ..hub }.start();
    let case = Case::new(&server, &[]);
    let e = case.ensure("model.safetensors").unwrap_err();
    assert_eq!(e.kind, Kind::WrongContent, "{e}");
    assert_eq!(std::fs::read_dir(case.cache().join("blobs")).unwrap().count(), 0);
}

#[test]
fn data_sets_have_folders_and_addresses_of_their_own() {
    let server = FakeHub::new(vec![("data.jsonl", b"{}\n".to_vec())]).start();
    let case = Case::new(&server, &[]);
    let repo = Repo { kind: RepoKind::Dataset, ..repo() };
    let path = case.hub().ensure(&repo, "data.jsonl", &Quiet).unwrap();
    assert!(path.starts_with(case.folder.path().join("hf/hub/datasets--org--name")));
}

#[test]
fn a_renamed_repository_is_followed_within_the_hub() {
    let hub = FakeHub::new(vec![("config.json", b"{}".to_vec())]);
    let server = Server::start(move |seen, _| match seen.path.strip_prefix("/old/name/") {
        Some(rest) => Reply::status(307).with("Location", format!("/org/name/{rest}")),
        None => hub.answer(seen),
    });
    let case = Case::new(&server, &[]);
    let old = Repo { id: "old/name".into(), ..repo() };
    let path = case.hub().ensure(&old, "config.json", &Quiet).unwrap();
    assert!(path.to_str().unwrap().contains("models--old--name"));
}

#[test]
fn an_answer_that_is_no_hub_s_is_said_so() {
    let server = Server::start(|_, _| Reply::data(b"hello").with("ETag", "\"x\""));
    let case = Case::new(&server, &[]);
    let e = case.ensure("config.json").unwrap_err();
    assert!(e.message.contains("as a hub does") && e.help.unwrap().contains("HF_ENDPOINT"));
    let e = case.hub().list(&repo(), &Quiet).unwrap_err();
    assert_eq!(e.kind, Kind::WrongContent);
}

#[test]
fn names_that_would_leave_the_cache_are_refused() {
    for (commit, etag) in [("../../../evil", "abc"), (COMMIT, "../evil"), (COMMIT, "")] {
        let server = Server::start(move |_, _| {
            Reply::data(b"x").with("X-Repo-Commit", commit).with("ETag", format!("\"{etag}\""))
        });
        let case = Case::new(&server, &[]);
        assert_eq!(case.ensure("config.json").unwrap_err().kind, Kind::WrongContent, "{commit} {etag}");
    }
    for (id, revision) in [("../x", "main"), ("a/b/c", "main"), ("org/name", "../../x"), ("org/name", "/etc")] {
        let repo = Repo { kind: RepoKind::Model, id: id.into(), revision: revision.into() };
        assert!(repo.checked().is_err(), "{id} {revision}");
    }
}
