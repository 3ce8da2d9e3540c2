//! Finished artifacts: reading their rows and checking their bytes.

use super::manifest::{FileEntry, Manifest, Output};
use super::parts::{broken, parquet_error};
use super::{Store, io_error, new_folder};
use crate::exec::{BatchStream, RunError};
use crate::plan::Fingerprint;
use crate::report::grid::Grid;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A finished output of a node.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub manifest: Manifest,
    folder: PathBuf,
}

/// What a look for an artifact finds.
#[derive(Debug)]
pub enum Found {
    Missing,
    Whole(Box<Artifact>),
    /// There is a folder, but the manifest or a file is missing, cut or changed: why.
    Broken(String),
}

impl Store {
    /// The artifact of that fingerprint, when it is there and its files have the sizes that its manifest names.
    pub fn artifact(&self, fingerprint: &Fingerprint) -> Option<Artifact> {
        match self.look(fingerprint) {
            Found::Whole(artifact) => Some(*artifact),
            Found::Missing | Found::Broken(_) => None,
        }
    }

    /// As [`artifact`](Self::artifact), but tells missing from broken.
    pub fn look(&self, fingerprint: &Fingerprint) -> Found {
        let folder = self.folder_of(fingerprint);
        if !folder.exists() {
            return Found::Missing;
        }
        match Artifact::read(&folder) {
            Ok(artifact) if artifact.manifest.fingerprint != *fingerprint => {
                Found::Broken(format!("its manifest names another fingerprint, {}", artifact.manifest.fingerprint))
            }
            Ok(artifact) => match artifact.check_sizes() {
                Ok(()) => Found::Whole(Box::new(artifact)),
                Err(why) => Found::Broken(why),
            },
            Err(why) => Found::Broken(why),
        }
    }

    /// As [`look`](Self::look), with every byte checked against the manifest's checksums.
    pub fn verify(&self, fingerprint: &Fingerprint) -> Found {
        match self.look(fingerprint) {
            Found::Whole(artifact) => match artifact.check_bytes() {
                Ok(()) => Found::Whole(artifact),
                Err(why) => Found::Broken(why),
            },
            other => other,
        }
    }

    /// Moves a broken artifact out of the way, so that the node can be run again.
    pub fn set_aside(&self, fingerprint: &Fingerprint) -> Result<PathBuf, RunError> {
        let from = self.folder_of(fingerprint);
        let broken = self.root().join("broken");
        let unique = new_folder(&broken, &format!("{}-", fingerprint.short()));
        let to = unique.map_err(|e| io_error("create a folder in", &broken, &e))?.keep();
        let to = to.join("artifact");
        match std::fs::rename(&from, &to) {
            Ok(()) => Ok(to),
            // Another run did it first.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(to),
            Err(e) => Err(io_error("move", &from, &e)),
        }
    }
}

impl Artifact {
    pub(super) fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join("manifest.json");
        let text = std::fs::read(&path).map_err(|e| format!("no manifest: {e}"))?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| format!("`manifest.json`: {e}"))?;
        if manifest.format != super::FORMAT {
            return Err(format!("`manifest.json` has format {}, not {}", manifest.format, super::FORMAT));
        }
        Ok(Self { manifest, folder: folder.to_path_buf() })
    }

    fn check_sizes(&self) -> Result<(), String> {
        self.manifest.entries().try_for_each(|entry| match std::fs::metadata(self.folder.join(&entry.path)) {
            Ok(m) if m.len() == entry.bytes => Ok(()),
            Ok(m) => Err(format!("`{}` has {} bytes instead of {}", entry.path, m.len(), entry.bytes)),
            Err(e) => Err(format!("`{}`: {e}", entry.path)),
        })
    }

    fn check_bytes(&self) -> Result<(), String> {
        self.manifest.entries().try_for_each(|entry| {
            let path = self.folder.join(&entry.path);
            let mut hasher = blake3::Hasher::new();
            File::open(&path)
                .and_then(|mut f| std::io::copy(&mut f, &mut hasher))
                .map_err(|e| format!("`{}`: {e}", entry.path))?;
            match hasher.finalize().to_hex().as_str() == entry.blake3 {
                true => Ok(()),
                false => Err(format!("`{}` does not have the checksum that it was written with", entry.path)),
            }
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// An output by its index among the operator's outputs.
    pub fn output(&self, index: usize) -> &Output {
        &self.manifest.outputs[index]
    }

    /// Where a file of the artifact lies.
    pub fn path(&self, entry: &FileEntry) -> PathBuf {
        self.folder.join(&entry.path)
    }

    /// Files for the user: the name in the run folder and where it lies in the store.
    pub fn files(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        let name = |e: &'_ FileEntry| self.path(e);
        self.manifest.files.iter().map(move |e| (e.path.strip_prefix("files/").unwrap_or(&e.path), name(e)))
    }

    /// The text for the end of a run.
    pub fn presented(&self) -> Result<Option<String>, RunError> {
        let Some(entry) = &self.manifest.present else { return Ok(None) };
        let path = self.path(entry);
        std::fs::read_to_string(&path).map(Some).map_err(|e| io_error("read", &path, &e))
    }

    /// The tables that the node showed.
    pub fn tables(&self) -> Result<Vec<Grid>, RunError> {
        let Some(entry) = &self.manifest.tables else { return Ok(Vec::new()) };
        let path = self.path(entry);
        let text = std::fs::read(&path).map_err(|e| io_error("read", &path, &e))?;
        serde_json::from_slice(&text).map_err(|e| broken(&path, &e.to_string()))
    }

    /// The exact Arrow schema of an output, from its first part.
    pub fn schema(&self, output: usize) -> Result<SchemaRef, RunError> {
        let path = self.path(&self.output(output).parts[0].file);
        let file = File::open(&path).map_err(|e| io_error("open", &path, &e))?;
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new());
        Ok(metadata.map_err(|e| parquet_error("read", &path, e))?.schema().clone())
    }

    /// The rows of an output in batches of at most `batch_rows` rows. At most one slab is in memory.
    pub fn rows(&self, output: usize, batch_rows: usize) -> BatchStream {
        let parts = self.output(output).parts.iter().map(|p| self.path(&p.file)).collect::<Vec<_>>();
        Box::new(Rows { parts: parts.into_iter(), batch_rows: batch_rows.max(1), part: None, group: None })
    }
}

/// Reads parts one after another, and row group by row group: a reader of a whole part would gather a batch's rows
/// over several row groups, and 1024 rows of 10 MB each would then be in memory at once.
struct Rows {
    parts: std::vec::IntoIter<PathBuf>,
    batch_rows: usize,
    part: Option<OpenPart>,
    group: Option<ParquetRecordBatchReader>,
}

struct OpenPart {
    path: PathBuf,
    file: File,
    metadata: ArrowReaderMetadata,
    next_group: usize,
}

impl Rows {
    fn open_part(path: PathBuf) -> Result<OpenPart, RunError> {
        let file = File::open(&path).map_err(|e| io_error("open", &path, &e))?;
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new());
        let metadata = metadata.map_err(|e| parquet_error("read", &path, e))?;
        Ok(OpenPart { path, file, metadata, next_group: 0 })
    }

    fn open_group(part: &mut OpenPart, batch_rows: usize) -> Result<ParquetRecordBatchReader, RunError> {
        let file = part.file.try_clone().map_err(|e| io_error("open", &part.path, &e))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, part.metadata.clone());
        let reader = builder.with_row_groups(vec![part.next_group]).with_batch_size(batch_rows).build();
        part.next_group += 1;
        reader.map_err(|e| parquet_error("read", &part.path, e))
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>, RunError> {
        loop {
            if let (Some(group), Some(part)) = (&mut self.group, &self.part) {
                match group.next() {
                    Some(Ok(batch)) => return Ok(Some(batch)),
                    Some(Err(e)) => return Err(broken(&part.path, &e.to_string())),
                    None => self.group = None,
                }
            }
            match &mut self.part {
                Some(part) if part.next_group < part.metadata.metadata().num_row_groups() => {
                    self.group = Some(Self::open_group(part, self.batch_rows)?);
                }
                _ => match self.parts.next() {
                    Some(path) => self.part = Some(Self::open_part(path)?),
                    None => return Ok(None),
                },
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            // Nothing after an error: rows would be missing in between.
            self.parts = Vec::new().into_iter();
            (self.part, self.group) = (None, None);
        }
        next.transpose()
    }
}
