//! Downloads: resumed, repeated, refused, lied to.

use super::server::{Reply, Server};
use super::{QUICK, Said, body, sha256};
use crate::fetch::env::Retry;
use crate::fetch::http::{Download, Http};
use crate::fetch::progress::{Event, Progress, Quiet};
use crate::fetch::{FetchError, Kind};
use std::path::{Path, PathBuf};

struct Case {
    folder: tempfile::TempDir,
    content: Vec<u8>,
    sha256: Option<String>,
    bytes: Option<u64>,
    bearer: Option<&'static str>,
}

impl Case {
    fn new() -> Self {
        let content = body(100_000);
        Self {
            folder: tempfile::tempdir().unwrap(),
            sha256: Some(sha256(&content)),
            bytes: Some(100_000),
            content,
            bearer: None,
        }
    }

    fn unchecked() -> Self {
        Self { sha256: None, bytes: None, ..Self::new() }
    }

    fn part(&self) -> PathBuf {
        self.folder.path().join("file.part")
    }

    fn get(&self, url: &str, retry: Retry, progress: &dyn Progress) -> Result<String, FetchError> {
        let what = Download {
            url,
            bearer: self.bearer,
            file: "file",
            from: "the server",
            part: &self.part(),
            bytes: self.bytes,
            sha256: self.sha256.as_deref(),
        };
        Http::new(retry).download(&what, progress)
    }

    #[track_caller]
    fn arrives(&self, server: &Server) {
        let digest = self.get(&server.url, QUICK, &Quiet).unwrap();
        assert_eq!(digest, sha256(&self.content));
        assert!(std::fs::read(self.part()).unwrap() == self.content);
    }

    /// Leaves the first bytes of a download behind, as a killed process does.
    fn leave_part(&self, server: &Server) {
        let once = Retry { attempts: 1, ..QUICK };
        assert_eq!(self.get(&server.url, once, &Quiet).unwrap_err().kind, Kind::Unreachable);
        assert_eq!(length(&self.part()), 40_000);
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

#[test]
fn a_download_cut_in_the_middle_goes_on_from_there() {
    let case = Case::new();
    let content = case.content.clone();
    let server = Server::start(move |seen, n| {
        let reply = Reply::file(seen, &content, "v1");
        if n == 0 { reply.cut(40_000) } else { reply }
    });
    case.arrives(&server);
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].header("range"), Some("bytes=40000-"));
    assert_eq!(seen[1].header("if-range"), Some("\"v1\""));
}

#[test]
fn another_process_goes_on_with_the_part_of_one_that_was_killed() {
    let case = Case::new();
    let content = case.content.clone();
    let server = Server::start(move |seen, n| {
        let reply = Reply::file(seen, &content, "v1");
        if n == 0 { reply.cut(40_000) } else { reply }
    });
    case.leave_part(&server);
    let said = Said::default();
    case.get(&server.url, QUICK, &said).unwrap();
    assert_eq!(said.all(), ["start 40000 of Some(100000)"]);
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let case = Case::new();
    let content = case.content.clone();
    let server = Server::start(move |_, n| {
        let reply = Reply::data(&content).with("ETag", "\"v1\"");
        if n == 0 { reply.cut(40_000) } else { reply }
    });
    case.arrives(&server);
}

#[test]
fn a_file_that_changed_between_two_attempts_is_read_from_the_start() {
    let case = Case::new();
    let (old, new) = (vec![7; 100_000], case.content.clone());
    let server = Server::start(move |seen, n| match n {
        0 => Reply::file(seen, &old, "old").cut(40_000),
        _ => Reply::file(seen, &new, "new"),
    });
    case.arrives(&server);
    assert_eq!(server.count(), 2);
}

#[test]
fn a_resumed_file_with_a_wrong_checksum_is_fetched_whole_once_more() {
    let case = Case::new();
    let (old, new) = (vec![7; 100_000], case.content.clone());
    // This server does not look at If-Range, so that two versions are glued together.
    let server = Server::start(move |seen, n| match n {
        0 => Reply::file(seen, &old, "same").cut(40_000),
        _ => Reply::file(seen, &new, "same"),
    });
    case.arrives(&server);
    assert_eq!(server.seen().iter().map(|s| s.header("range").is_some()).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn without_checksum_and_strong_etag_nothing_is_glued_together() {
    let case = Case::unchecked();
    let content = case.content.clone();
    let server = Server::start(move |_, n| {
        let reply = Reply::data(&content).with("ETag", "W/\"weak\"");
        if n == 0 { reply.cut(40_000) } else { reply }
    });
    case.arrives(&server);
    assert_eq!(server.seen()[1].header("range"), None);
}

#[test]
fn a_part_longer_than_the_file_is_thrown_away() {
    let case = Case { bytes: None, ..Case::new() };
    let (long, content) = (body(200_000), case.content.clone());
    let server = Server::start(move |seen, n| match n {
        0 => Reply::file(seen, &long, "v1").cut(150_000),
        _ => Reply::file(seen, &content, "v1"),
    });
    case.arrives(&server);
    assert_eq!(server.count(), 3);
}

#[test]
fn busy_servers_are_tried_again_and_their_wait_is_kept() {
    let case = Case::new();
    let content = case.content.clone();
    let server = Server::start(move |seen, n| match n {
        0 => Reply::status(429).with("Retry-After", 0),
        1 => Reply::status(503).with("Retry-After", 1000),
        _ => Reply::file(seen, &content, "v1"),
    });
    let said = Said::default();
    case.get(&server.url, QUICK, &said).unwrap();
    let host = server.url.trim_start_matches("http://");
    // The longest wait bounds what a server may ask for.
    let expected = [
        format!("retry after 0ns: {host} answered 429 Too Many Requests"),
        format!("retry after 5ms: {host} answered 503 Service Unavailable"),
        "start 0 of Some(100000)".to_string(),
    ];
    assert_eq!(said.all(), expected);
}

#[test]
fn a_server_that_stays_broken_is_given_up() {
    let case = Case::new();
    let server = Server::start(|_, _| Reply::status(500));
    let e = case.get(&server.url, QUICK, &Quiet).unwrap_err();
    assert_eq!((e.kind, server.count()), (Kind::Unreachable, 4));
    assert!(e.message.ends_with("answered 500 Internal Server Error (tried 4 times)"), "{}", e.message);
}

#[test]
fn progress_gives_a_poor_line_new_attempts() {
    let case = Case::new();
    let content = case.content.clone();
    // Ten cuts, more than the attempts that may fail in a row.
    let server = Server::start(move |seen, _| {
        let reply = Reply::file(seen, &content, "v1");
        let sent = reply.body.len().min(10_000);
        reply.cut(sent)
    });
    case.arrives(&server);
    assert_eq!(server.count(), 10);
}

#[test]
fn refusals_are_not_repeated_and_say_what_to_set() {
    for (status, kind, hint) in [
        (401, Kind::Denied, "HF_TOKEN"),
        (403, Kind::Denied, "HF_TOKEN"),
        (404, Kind::NotFound, ""),
        (410, Kind::NotFound, ""),
        (400, Kind::Unreachable, ""),
    ] {
        let server = Server::start(move |_, _| Reply::status(status));
        let e = Case::new().get(&server.url, QUICK, &Quiet).unwrap_err();
        assert_eq!((e.kind, server.count()), (kind, 1), "{status}");
        assert!(e.message.contains(&status.to_string()), "{}", e.message);
        assert!(e.help.unwrap_or_default().contains(hint));
    }
}

#[test]
fn wrong_content_is_named_and_not_kept() {
    let case = Case::new();
    let server = Server::start(|seen, _| Reply::file(seen, &[7; 100_000], "v1"));
    let e = case.get(&server.url, QUICK, &Quiet).unwrap_err();
    assert_eq!((e.kind, server.count()), (Kind::WrongContent, 1));
    let expected = case.sha256.clone().unwrap();
    assert!(e.message.contains(&expected) && e.message.contains(&sha256(&[7; 100_000])), "{}", e.message);
    assert!(!case.part().exists());
}

#[test]
fn another_size_than_announced_is_refused_before_it_flows() {
    let case = Case::new();
    let server = Server::start(|seen, _| Reply::file(seen, &[7; 500], "v1"));
    let e = case.get(&server.url, QUICK, &Quiet).unwrap_err();
    assert!(e.message.contains("expected 100000 bytes") && e.message.ends_with("announces 500"), "{}", e.message);
    assert_eq!(length(&case.part()), 0);
}

#[test]
fn a_body_that_ends_early_every_time_is_an_error() {
    let case = Case::unchecked();
    let server = Server::start(|_, _| Reply::data(&[7; 10]).cut(0));
    let e = case.get(&server.url, QUICK, &Quiet).unwrap_err();
    assert_eq!((e.kind, server.count()), (Kind::Unreachable, 4), "{e}");
}

#[test]
fn a_web_page_is_no_data() {
    let case = Case::unchecked();
    let page = b"<!doctype html><title>Log in</title>";
    let server = Server::start(|_, _| Reply::data(page).with("Content-Type", "text/html; charset=utf-8"));
    let e = case.get(&server.url, QUICK, &Quiet).unwrap_err();
    assert_eq!((e.kind, server.count()), (Kind::WrongContent, 1));
    assert!(e.message.contains("web page"), "{}", e.message);
}

#[test]
fn redirects_are_followed_and_the_token_stays_with_its_host() {
    let case = Case { bearer: Some("hf_secret"), ..Case::new() };
    let content = case.content.clone();
    let storage = Server::start(move |seen, _| Reply::file(seen, &content, "v1"));
    // Another name of this machine is another host.
    let target = storage.url.replace("127.0.0.1", "localhost");
    let hub = Server::start(move |_, _| Reply::status(302).with("Location", &target));
    case.arrives(&hub);
    assert_eq!(hub.seen()[0].header("authorization"), Some("Bearer hf_secret"));
    assert_eq!(storage.seen()[0].header("authorization"), None);
}

#[test]
fn nobody_at_the_address_is_tried_less_often() {
    let gone = Server::start(|_, _| Reply::status(200)).url.clone();
    let said = Said::default();
    let e = Case::new().get(&gone, QUICK, &said).unwrap_err();
    assert_eq!(e.kind, Kind::Unreachable);
    assert_eq!(said.all().len(), 2);
    assert!(e.help.unwrap().contains("HTTPS_PROXY"));
}

#[test]
fn a_stop_keeps_what_came() {
    struct Stop(std::sync::atomic::AtomicBool);
    impl Progress for Stop {
        fn event(&self, event: Event<'_>) {
            if matches!(event, Event::Retry { .. }) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        fn stopping(&self) -> bool {
            self.0.load(std::sync::atomic::Ordering::SeqCst)
        }
    }
    let case = Case::new();
    let content = case.content.clone();
    let server = Server::start(move |seen, _| Reply::file(seen, &content, "v1").cut(40_000));
    let e = case.get(&server.url, QUICK, &Stop(false.into())).unwrap_err();
    assert_eq!((e.kind, length(&case.part())), (Kind::Interrupted, 40_000));
}

#[test]
fn a_full_disk_is_said_so() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let e = FetchError::io("write", Path::new("x.part"), &full);
    assert_eq!(e.kind, Kind::DiskFull);
    assert!(e.help.unwrap().contains("IDIOLECT_CACHE"));
    // More than any disk holds is refused before it flows.
    let case = Case::unchecked();
    let server = Server::start(|_, _| Reply { length: Some(1 << 60), ..Reply::data(b"x") });
    let e = case.get(&server.url, QUICK, &Quiet).unwrap_err();
    assert_eq!((e.kind, server.count()), (Kind::DiskFull, 1), "{e}");
}
