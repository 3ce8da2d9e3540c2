//! Files out of Python packages: with the real pip where there is one, and with programs that act as one.
#![cfg(unix)]

use super::{Said, fetcher, sha256};
use crate::fetch::{FetchError, Fetched, Fetcher, Kind};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const CONTENT: &[u8] = b"{\"question\":\"one\"}\n";

/// A wheel as pip wants it.
fn wheel(folder: &Path) -> PathBuf {
    let path = folder.join("tiny_rows-1.2.3-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let metadata = "Metadata-Version: 2.1\nName: tiny-rows\nVersion: 1.2.3\n";
    let tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    for (name, content) in [
        ("tiny_rows/rows.jsonl", CONTENT),
        ("tiny_rows-1.2.3.dist-info/METADATA", metadata.as_bytes()),
        ("tiny_rows-1.2.3.dist-info/WHEEL", tags.as_bytes()),
        ("tiny_rows-1.2.3.dist-info/RECORD", b""),
    ] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
    path
}

/// A program of that name that runs this shell text.
fn program(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn manifest(version: &str, member: &str) -> String {
    format!(
        r#"dataset "t" {{
            summary "t"; license "MIT"
            columns {{ question "string" }}
            split "s" {{ file "f.jsonl" sha256="{}" {{ package "tiny-rows" version="{version}" member="{member}"; }}; }}
        }}"#,
        sha256(CONTENT)
    )
}

fn ensure(f: &Fetcher) -> Result<Fetched, FetchError> {
    let manifest = f.catalog.dataset("t").unwrap();
    f.ensure_split(manifest, manifest.split("s").unwrap(), &Said::default()).map(|mut files| files.remove(0))
}

fn with_python(folder: &Path, text: &str, python: &[PathBuf]) -> Fetcher {
    let mut f = fetcher(folder, text, &[]);
    f.env.python = python.to_vec();
    f
}

#[test]
fn the_real_pip_gives_a_wheel_whose_member_is_taken() {
    if !Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: there is no python3 with pip");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    wheel(folder.path());
    let links = folder.path().display();
    let pip = format!("PIP_NO_INDEX=1 PIP_FIND_LINKS='{links}' exec python3 \"$@\"");
    let python = [program(folder.path(), "python", &pip)];
    let f = with_python(folder.path(), &manifest("1.2.3", "tiny_rows/rows.jsonl"), &python);
    let fetched = ensure(&f).unwrap();
    assert_eq!(std::fs::read(&fetched.path).unwrap(), CONTENT);
    assert_eq!(fetched.from, "package tiny-rows 1.2.3");
    assert!(ensure(&f).unwrap().was_here);
    let none = with_python(folder.path(), &manifest("9.9", "tiny_rows/rows.jsonl"), &python);
    std::fs::remove_file(&fetched.path).unwrap();
    let e = ensure(&none).unwrap_err();
    assert_eq!(e.kind, Kind::NotFound, "{e}");
}

/// A program that acts as pip and gives the wheel of `folder`.
fn copying(folder: &Path) -> PathBuf {
    let wheel = wheel(folder);
    // `--dest FOLDER` is the only argument that it looks at.
    let text = format!(
        "while [ \"$1\" != --dest ]; do shift; done; cp '{}' \"$2\"; cp '{}' \"$2\"",
        wheel.display(),
        wheel.display()
    );
    program(folder, "python-copies", &text)
}

#[test]
fn the_first_python_that_has_pip_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let without = program(folder.path(), "python-bare", "echo 'python: No module named pip' >&2; exit 1");
    let python = [PathBuf::from("/nonexistent/python3"), without, copying(folder.path())];
    let f = with_python(folder.path(), &manifest("1.2.3", "tiny_rows/rows.jsonl"), &python);
    assert_eq!(std::fs::read(ensure(&f).unwrap().path).unwrap(), CONTENT);
}

#[test]
fn a_member_that_is_not_there_says_what_is() {
    let folder = tempfile::tempdir().unwrap();
    let python = [copying(folder.path())];
    let f = with_python(folder.path(), &manifest("1.2.3", "tiny_rows/row.jsonl"), &python);
    let e = ensure(&f).unwrap_err();
    assert_eq!((e.kind, e.help.as_deref()), (Kind::NotFound, Some("did you mean `tiny_rows/rows.jsonl`?")));
}

#[test]
fn a_wheel_with_other_content_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let python = [copying(folder.path())];
    let f = with_python(folder.path(), &manifest("1.2.3", "tiny_rows-1.2.3.dist-info/METADATA"), &python);
    assert_eq!(ensure(&f).unwrap_err().kind, Kind::WrongContent);
}

#[test]
fn what_pip_says_becomes_an_error_that_helps() {
    let folder = tempfile::tempdir().unwrap();
    let text = manifest("1.2.3", "tiny_rows/rows.jsonl");
    let nobody = with_python(folder.path(), &text, &[PathBuf::from("/nonexistent/python3")]);
    let e = ensure(&nobody).unwrap_err();
    assert_eq!(
        (e.kind, e.help.as_deref()),
        (Kind::Package, Some("install Python 3 with pip, or put its folder on PATH"))
    );
    for (said, kind, part) in [
        ("ERROR: No matching distribution found for tiny-rows==1.2.3", Kind::NotFound, "finds no wheel"),
        ("ERROR: Could not install: Connection refused", Kind::Unreachable, "cannot reach"),
        ("ERROR: [Errno 28] No space left on device", Kind::DiskFull, "ran out of disk"),
        ("ERROR: something else", Kind::Package, "something else"),
        ("no module named pip", Kind::Package, "no module named pip"),
    ] {
        let python = [program(folder.path(), "python-fails", &format!("echo '{said}' >&2; exit 1"))];
        let e = ensure(&with_python(folder.path(), &text, &python)).unwrap_err();
        assert_eq!(e.kind, kind, "{said}");
        assert!(e.message.contains(part), "{}", e.message);
    }
}
