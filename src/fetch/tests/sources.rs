//! Manifests' sources: their order, their checks, the cache.

use super::server::{Reply, Server};
use super::{Said, body, fetcher, sha256};
use crate::fetch::progress::Quiet;
use crate::fetch::{FetchError, Fetched, Fetcher, Format, Kind, Located};
use std::io::Write;

/// A data set `t` with a split `s` of one file with these properties and sources.
fn one_file(properties: &str, sources: &str) -> String {
    format!(
        r#"dataset "t" {{
            summary "t"; license "MIT"
            columns {{ question "string" }}
            split "s" {{ file "f.jsonl" {properties} {{
                {sources}
            }}; }}
        }}"#
    )
}

fn ensure(fetcher: &Fetcher, said: &Said) -> Result<Fetched, FetchError> {
    let manifest = fetcher.catalog.dataset("t").unwrap();
    let split = manifest.split("s").unwrap();
    fetcher.ensure_split(manifest, split, said).map(|mut files| files.remove(0))
}

fn locate(fetcher: &Fetcher) -> Located {
    let manifest = fetcher.catalog.dataset("t").unwrap();
    fetcher.locate_split(manifest, manifest.split("s").unwrap()).remove(0)
}

#[test]
fn a_url_is_fetched_once_and_then_found_in_the_cache() {
    let content = body(3000);
    let (digest, served) = (sha256(&content), content.clone());
    let server = Server::start(move |seen, _| Reply::file(seen, &served, "v1"));
    let folder = tempfile::tempdir().unwrap();
    let text = one_file(&format!(r#"bytes=3000 sha256="{digest}""#), &format!(r#"url "{}/f.jsonl""#, server.url));
    let f = fetcher(folder.path(), &text, &[]);
    assert!(matches!(locate(&f), Located::Absent { content, problem: None } if content.bytes == Some(3000)));
    let first = ensure(&f, &Said::default()).unwrap();
    assert_eq!(first.path, folder.path().join("cache/datasets/t/f.jsonl"));
    assert!(!first.was_here && std::fs::read(&first.path).unwrap() == content);
    let second = ensure(&f, &Said::default()).unwrap();
    assert!(second.was_here && second.from == first.from);
    assert!(matches!(locate(&f), Located::Here(_)));
    assert_eq!(server.count(), 1);
    // What is in the cache is checked, not believed.
    std::fs::write(&first.path, [7; 3000]).unwrap();
    assert!(!ensure(&f, &Said::default()).unwrap().was_here);
    assert_eq!(server.count(), 2);
}

#[test]
fn where_nothing_can_be_tried_each_source_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let text = one_file("", r#"path "${NOWHERE}/f.jsonl"; hub "org/name" file="f.jsonl""#);
    let Located::Absent { problem: Some(e), .. } = locate(&fetcher(folder.path(), &text, &[("HF_HUB_OFFLINE", "1")]))
    else {
        panic!("no source can be tried")
    };
    insta::assert_snapshot!(e.to_string(), @r"
    cannot fetch `f.jsonl`: none of its 2 sources gave it
      - path ${NOWHERE}/f.jsonl: the environment variable NOWHERE is not set
      - hub org/name/f.jsonl: not tried, because HF_HUB_OFFLINE is set
    ");
    assert_eq!(e.help.as_deref(), Some("unset HF_HUB_OFFLINE to fetch it"));
    let open = locate(&fetcher(folder.path(), &text, &[]));
    assert!(matches!(open, Located::Absent { problem: None, .. }));
}

#[test]
fn sources_are_tried_in_their_order_and_each_failure_is_told() {
    let content = body(300);
    let digest = sha256(&content);
    let server = Server::start(move |seen, _| match seen.path.as_str() {
        "/gone" => Reply::status(404),
        "/forged" => Reply::data(&[7; 300]),
        _ => Reply::data(&content),
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("datasets")).unwrap();
    std::fs::write(folder.path().join("datasets/stale.jsonl"), [1; 300]).unwrap();
    let url = &server.url;
    let bad = format!("path \"${{NOWHERE}}/f.jsonl\"\npath \"stale.jsonl\"\nurl \"{url}/gone\"\nurl \"{url}/forged\"",);
    let properties = format!(r#"bytes=300 sha256="{digest}""#);
    let f = fetcher(folder.path(), &one_file(&properties, &bad), &[]);
    let e = ensure(&f, &Said::default()).unwrap_err();
    let kinds: Vec<Kind> = e.attempts.iter().map(|(_, e)| e.kind).collect();
    assert_eq!(kinds, [Kind::Unavailable, Kind::WrongContent, Kind::NotFound, Kind::WrongContent], "{e}");
    assert!(e.to_string().contains("the environment variable NOWHERE is not set"), "{e}");
    let good = format!("{bad}\nurl \"{url}/good\"");
    let f = fetcher(folder.path(), &one_file(&properties, &good), &[]);
    assert_eq!(ensure(&f, &Said::default()).unwrap().from, format!("url {url}/good"));
}

#[test]
fn a_path_is_used_where_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/f.jsonl"), "{}\n").unwrap();
    let data = folder.path().join("data").display().to_string();
    let text = one_file("", "path \"${MY_DATA}/f.jsonl\"");
    let f = fetcher(folder.path(), &text, &[("MY_DATA", &data)]);
    assert_eq!(ensure(&f, &Said::default()).unwrap().path, folder.path().join("data/f.jsonl"));
    let unset = fetcher(folder.path(), &text, &[]);
    let Located::Absent { problem: Some(problem), .. } = locate(&unset) else { panic!("it cannot be had") };
    assert_eq!(problem.help.as_deref(), Some("set MY_DATA to the folder that holds the file"));
    // A relative path starts at the manifest.
    let f = fetcher(folder.path(), &one_file("", r#"path "../data/f.jsonl""#), &[]);
    assert!(ensure(&f, &Said::default()).unwrap().was_here);
}

#[test]
fn a_file_without_checksum_is_taken_with_a_warning() {
    let server = Server::start(|_, _| Reply::data(b"{}\n"));
    let folder = tempfile::tempdir().unwrap();
    let f = fetcher(folder.path(), &one_file("", &format!(r#"url "{}/f""#, server.url)), &[]);
    let said = Said::default();
    ensure(&f, &said).unwrap();
    assert!(said.all().iter().any(|s| s.starts_with("warning: no checksum: the manifest has none for `f.jsonl`")));
}

#[test]
fn a_source_may_hold_the_rows_in_another_format() {
    let server = Server::start(|seen, _| if seen.path == "/p" { Reply::data(b"PAR1") } else { Reply::status(404) });
    let folder = tempfile::tempdir().unwrap();
    let sources = format!("url \"{0}/gone\"\nurl \"{0}/p\" format=\"parquet\" bytes=4", server.url);
    let text = one_file(&format!(r#"bytes=3000 sha256="{}""#, sha256(b"x")), &sources);
    let f = fetcher(folder.path(), &text, &[]);
    let fetched = ensure(&f, &Said::default()).unwrap();
    assert_eq!(fetched.format, Some(Format::Parquet));
    assert_eq!(fetched.path.file_name().unwrap(), "f.jsonl.parquet");
    assert!(ensure(&f, &Said::default()).unwrap().was_here);
}

#[test]
fn parts_are_joined_and_members_taken_out_of_the_archive() {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, text) in [("in/a.jsonl", "{\"a\":1}\n"), ("in/b.jsonl", "{\"b\":2}\n")] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    let bytes = zip.finish().unwrap().into_inner();
    let (digest, half) = (sha256(&bytes), bytes.len() / 2);
    let served = bytes.clone();
    let server = Server::start(move |seen, _| match seen.path.as_str() {
        "/1" => Reply::data(&served[..half]),
        _ => Reply::data(&served[half..]),
    });
    let text = format!(
        r#"dataset "t" {{
            summary "t"; license "MIT"
            columns {{ question "string" }}
            archive "all.zip" sha256="{digest}" {{ concat {{ url "{0}/1"; url "{0}/2"; }}; }}
            split "s" {{
                file "a.jsonl" sha256="{1}" {{ archive "all.zip" member="in/a.jsonl"; }}
                file "b.jsonl" sha256="{2}" {{ archive "all.zip" member="in/b.jsonl"; }}
            }}
        }}"#,
        server.url,
        sha256(b"{\"a\":1}\n"),
        sha256(b"{\"b\":2}\n"),
    );
    let folder = tempfile::tempdir().unwrap();
    let f = fetcher(folder.path(), &text, &[]);
    let manifest = f.catalog.dataset("t").unwrap();
    let files = f.ensure_split(manifest, manifest.split("s").unwrap(), &Quiet).unwrap();
    let texts: Vec<String> = files.iter().map(|f| std::fs::read_to_string(&f.path).unwrap()).collect();
    assert_eq!(texts, ["{\"a\":1}\n", "{\"b\":2}\n"]);
    // One download served both, and the archive is gone.
    assert_eq!(server.count(), 2);
    assert!(!folder.path().join("cache/datasets/t/all.zip").exists());
    let wrong = text.replace("in/b.jsonl", "in/c.jsonl").replace("file \"b.jsonl\"", "file \"c.jsonl\"");
    let f = fetcher(folder.path(), &wrong, &[]);
    let manifest = f.catalog.dataset("t").unwrap();
    let e = f.ensure_split(manifest, manifest.split("s").unwrap(), &Quiet).unwrap_err();
    assert_eq!((e.kind, e.help.as_deref()), (Kind::NotFound, Some("did you mean `in/a.jsonl`?")), "{e}");
}

#[test]
fn two_at_once_fetch_once() {
    let content = body(200_000);
    let (digest, served) = (sha256(&content), content.clone());
    let server = Server::start(move |seen, _| Reply::file(seen, &served, "v1"));
    let folder = tempfile::tempdir().unwrap();
    let text = one_file(&format!(r#"sha256="{digest}""#), &format!(r#"url "{}/f.jsonl""#, server.url));
    let fetchers: Vec<Fetcher> = (0..4).map(|_| fetcher(folder.path(), &text, &[])).collect();
    std::thread::scope(|scope| {
        for f in &fetchers {
            scope.spawn(move || ensure(f, &Said::default()).unwrap());
        }
    });
    assert_eq!(server.count(), 1);
}

#[test]
fn the_quickstart_s_rows_are_in_the_binary() {
    let folder = tempfile::tempdir().unwrap();
    let f = fetcher(folder.path(), "", &[]);
    let manifest = f.catalog.dataset("grade-school").unwrap();
    let split = manifest.split("train").unwrap();
    let file = f.ensure_split(manifest, split, &Quiet).unwrap().remove(0);
    assert!(file.path.starts_with(folder.path()));
    let text = std::fs::read_to_string(&file.path).unwrap();
    assert_eq!(Some(text.lines().count() as u64), split.rows);
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        for style in ["terse", "wordy", "awkward"] {
            let answer = row[style].as_str().unwrap().rsplit_once("\nFinal Answer: ").unwrap().1;
            assert_eq!(answer.parse::<f64>().unwrap(), row["answer_number"].as_f64().unwrap(), "{}", row["id"]);
        }
    }
}
