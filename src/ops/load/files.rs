//! Which files a `load` reads: globs, formats by extension, compression by magic bytes.

use crate::diag::{Diagnostic, Span};
use crate::exec::RunError;
use crate::ops::did_you_mean;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What is wrong with a source: a diagnostic at plan time, an error of the run where it appears only then.
#[derive(Debug, Clone)]
pub struct Problem {
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
}

impl Problem {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None }
    }

    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// A file that is there and cannot be read.
    pub fn io(path: &Path, error: &io::Error) -> Self {
        Self::new("file-unreadable", format!("`{}` cannot be read: {error}", path.display()))
    }

    pub fn diagnostic(&self, span: Span) -> Diagnostic {
        let d = Diagnostic::error(self.code, &self.message).at(span, "named here");
        self.help.iter().fold(d, |d, h| d.help(h))
    }
}

impl From<Problem> for RunError {
    fn from(problem: Problem) -> Self {
        Self::Failed { code: problem.code, message: problem.message, help: problem.help }
    }
}

pub use crate::fetch::Format;

/// The names by which `format` overrides what the extension says.
pub const FORMATS: &[&str] = &["json", "jsonl", "csv", "parquet", "arrow"];

impl Format {
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    /// By the extension, under one of a compression if there is one.
    pub fn of_path(path: &Path) -> Option<Self> {
        Self::of_name(&path.file_name()?.to_string_lossy())
    }
}

/// The file name without an extension of compression.
fn plain_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let lower = name.to_lowercase();
    let compressed = [".gz", ".zst"].iter().find(|e| lower.ends_with(**e));
    name[..name.len() - compressed.map_or(0, |e| e.len())].to_string()
}

/// The file name without its extensions: what row ids begin with.
pub fn stem(path: &Path) -> String {
    let name = plain_name(path);
    let end = name.rfind('.').filter(|_| Format::of_path(path).is_some()).unwrap_or(name.len());
    name[..end].to_string()
}

/// A file to be read.
#[derive(Debug, Clone)]
pub struct DataFile {
    pub path: PathBuf,
    pub format: Format,
    /// Field separator of a CSV file.
    pub delimiter: u8,
}

impl DataFile {
    /// The path as the user knows it.
    pub fn name(&self) -> std::path::Display<'_> {
        self.path.display()
    }
}

/// The files behind a path or a glob, in the order of their names. Empty when there are none.
pub fn find(pattern: &str) -> Result<Vec<PathBuf>, Problem> {
    let literal = PathBuf::from(pattern);
    if literal.exists() || !pattern.contains(['*', '?', '[']) {
        if literal.is_dir() {
            return Err(Problem::new("not-a-file", format!("`{pattern}` is a folder"))
                .help(format!("name its files: \"{}/*.jsonl\"", pattern.trim_end_matches('/'))));
        }
        return Ok(if literal.exists() { vec![literal] } else { Vec::new() });
    }
    let bad = |e: glob::PatternError| {
        Problem::new("bad-glob", format!("`{pattern}` is no glob pattern: {} at character {}", e.msg, e.pos + 1))
    };
    let mut files = Vec::new();
    for entry in glob::glob(pattern).map_err(bad)? {
        let path = entry.map_err(|e| Problem::io(e.path(), e.error()))?;
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The error for a path or a glob behind which there is nothing.
pub fn missing(pattern: &str) -> Problem {
    if pattern.contains(['*', '?', '[']) {
        return Problem::new("file-missing", format!("no file matches `{pattern}`")).help(crate::config::RELATIVE);
    }
    let path = Path::new(pattern);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let problem = Problem::new("file-missing", format!("there is no file `{pattern}`"));
    let Ok(entries) = folder.read_dir() else {
        return problem.help(format!("there is no folder `{}` either", folder.display()));
    };
    let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let written = path.file_name().unwrap_or_default().to_string_lossy();
    match did_you_mean(&written, names.iter().map(String::as_str)) {
        Some(near) => problem.help(format!("did you mean `{}`?", folder.join(near).display())),
        None => problem.help("`on-missing=\"skip\"` skips this node, and what reads from it, when the file is missing"),
    }
}

/// The bytes of a file, decompressed if its first bytes say that it is compressed.
pub fn open_bytes(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    let mut file = File::open(path)?;
    let mut magic = [0u8; 4];
    let mut filled = 0;
    while filled < magic.len() {
        match file.read(&mut magic[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    file.seek(SeekFrom::Start(0))?;
    let plain = BufReader::with_capacity(1 << 17, file);
    Ok(match magic[..filled] {
        [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(1 << 17, flate2::bufread::MultiGzDecoder::new(plain))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(BufReader::with_capacity(1 << 17, zstd::Decoder::with_buffer(plain)?)),
        _ => Box::new(plain),
    })
}

/// A file that can be sought in: the file itself, or its decompressed bytes in an unnamed temporary file.
pub fn open_seekable(path: &Path) -> io::Result<File> {
    let mut start = [0u8; 4];
    let known = File::open(path)?.read(&mut start)?;
    if !(start[..known].starts_with(&[0x1f, 0x8b]) || start[..known] == [0x28, 0xb5, 0x2f, 0xfd]) {
        return File::open(path);
    }
    let mut spool = tempfile::tempfile()?;
    io::copy(&mut open_bytes(path)?, &mut spool)?;
    spool.seek(SeekFrom::Start(0))?;
    Ok(spool)
}

/// Whether an error of reading is the file's fault (cut short, damaged) and not the machine's.
pub fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    // The zstd library reports a damaged stream as `Other`, without an error number of the system.
    let of_the_data = matches!(error.kind(), K::UnexpectedEof | K::InvalidData | K::InvalidInput | K::Other);
    of_the_data && error.raw_os_error().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn formats_and_stems_look_under_the_compression() {
        let of = |p: &str| (Format::of_path(Path::new(p)), stem(Path::new(p)));
        assert_eq!(of("a/b.JSONL"), (Some(Format::Jsonl), "b".into()));
        assert_eq!(of("a/b.v2.json.gz"), (Some(Format::Json), "b.v2".into()));
        assert_eq!(of("x.csv.zst"), (Some(Format::Csv), "x".into()));
        assert_eq!(of("notes.txt"), (None, "notes.txt".into()));
        assert_eq!(of("no-extension"), (None, "no-extension".into()));
    }

    #[test]
    fn globs_are_sorted_and_folders_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.json", "a.json", "c.txt"] {
            std::fs::write(folder.path().join(name), "[]").unwrap();
        }
        let pattern = |p: &str| folder.path().join(p).to_string_lossy().into_owned();
        let names: Vec<String> = find(&pattern("*.json")).unwrap().iter().map(|p| stem(p)).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(find(&pattern("none*.json")).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(find(&pattern("")).unwrap_err().code, "not-a-file");
        assert_eq!(find(&pattern("[")).unwrap_err().code, "bad-glob");
        assert!(missing(&pattern("a.jsn")).help.unwrap().ends_with("a.json`?"));
    }

    #[test]
    fn compressed_bytes_are_found_by_their_magic() {
        let folder = tempfile::tempdir().unwrap();
        let gz = folder.path().join("x");
        let mut encoder = flate2::write::GzEncoder::new(File::create(&gz).unwrap(), flate2::Compression::fast());
        encoder.write_all(b"hello").unwrap();
        encoder.finish().unwrap();
        let zst = folder.path().join("y");
        std::fs::write(&zst, zstd::encode_all(&b"hello"[..], 1).unwrap()).unwrap();
        let plain = folder.path().join("z");
        std::fs::write(&plain, "hello").unwrap();
        for path in [gz, zst, plain] {
            let mut text = String::new();
            open_bytes(&path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
            text.clear();
            open_seekable(&path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
        }
    }
}
