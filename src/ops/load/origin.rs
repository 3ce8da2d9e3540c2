//! Where a `load` reads from: a path, or a split of a data set with its manifest.

use super::files::{self, DataFile, FORMATS, Format, Problem};
use super::survey::Wishes;
use crate::diag::{Diagnostic, Diagnostics, Span, Spanned};
use crate::exec::RunError;
use crate::fetch::{ColumnKind, DatasetManifest, FetchError, Fetched, Fetcher, Located, Quiet, Split};
use crate::ops::rows::ID;
use crate::ops::{Fields, ResolveCx, SplitName, did_you_mean, list};
use indexmap::IndexMap;
use serde_json::json;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// What `path`, or `dataset` and `split`, say.
#[derive(Debug)]
pub enum Origin {
    Path { path: Spanned<String>, reading: Reading },
    Dataset { name: Spanned<String>, split: Option<Spanned<String>> },
}

/// How files are read, where their names do not tell.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    format: Option<Format>,
    delimiter: Option<u8>,
}

/// What stands behind an origin.
pub struct Found {
    /// The files, if they are on this machine and may be looked at.
    pub files: Option<Vec<DataFile>>,
    /// What the manifest and the pipeline say together.
    pub wishes: Wishes,
    /// As the manifest says.
    pub rows: Option<u64>,
    /// Why there is nothing.
    pub missing: Option<Problem>,
    /// Set when the files are known and not here.
    pub to_fetch: Option<SplitName>,
    /// What decides the rows besides the content of [`Found::digested`].
    pub canonical: serde_json::Value,
    /// The content is known by the manifest's checksums.
    has_checksums: bool,
    fetcher: Option<Arc<Fetcher>>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Found({:?})", self.files)
    }
}

impl Found {
    /// The files whose digests enter the fingerprint.
    pub fn digested(&self) -> Vec<PathBuf> {
        let files = self.files.iter().flatten().map(|f| f.path.clone());
        if self.has_checksums { Vec::new() } else { files.collect() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { path, .. } => f.write_str(path),
            Self::Dataset { name, split: Some(split) } => write!(f, "{}/{}", name.value, split.value),
            Self::Dataset { name, split: None } => f.write_str(name),
        }
    }
}

impl Origin {
    /// A file whose name tells how it is read.
    pub fn file(path: Spanned<String>) -> Self {
        Self::Path { path, reading: Reading { format: None, delimiter: None } }
    }

    pub fn build(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Self> {
        let (split, format) = (fields.opt_str("split"), fields.opt_str("format"));
        let origin = match (fields.opt_str("path"), fields.opt_str("dataset")) {
            (Some(path), None) => {
                if let Some(split) = split {
                    diagnostics.push(meaningless("split", &split, "belongs to `dataset`"));
                    return None;
                }
                let format = format.as_deref().and_then(|f| Format::named(f));
                Self::Path { path, reading: Reading { format, delimiter: delimiter(fields, diagnostics)? } }
            }
            (None, Some(name)) => {
                if let Some((field, value)) =
                    ["format", "delimiter"].iter().find_map(|f| Some((*f, fields.opt_str(f)?)))
                {
                    diagnostics.push(meaningless(field, &value, "the manifest of the data set says it"));
                    return None;
                }
                Self::Dataset { name, split }
            }
            (Some(path), Some(dataset)) => {
                diagnostics.push(
                    Diagnostic::error("conflicting-fields", "`load` takes `path` or `dataset`, not both")
                        .at(dataset.span, "one of the two")
                        .and(path.span, "and the other"),
                );
                return None;
            }
            (None, None) => {
                diagnostics.push(
                    Diagnostic::error("missing-field", "`load` needs `path` or `dataset`")
                        .at(fields.span, "says not what to read")
                        .help("path=\"data/rows.jsonl\", or dataset=\"gsm8k\" split=\"train\""),
                );
                return None;
            }
        };
        Some(origin)
    }

    /// The place to point at.
    pub fn span(&self) -> Span {
        match self {
            Self::Path { path, .. } => path.span,
            Self::Dataset { split: Some(split), .. } => split.span,
            Self::Dataset { name, .. } => name.span,
        }
    }

    /// Why there are no rows, as results show it: without the folder, which differs from machine to machine.
    pub fn absence(&self, problem: &Problem) -> String {
        match self {
            Self::Path { path, .. } => {
                let name = path.rsplit('/').next().unwrap_or(path);
                format!("there is no file `{name}`")
            }
            Self::Dataset { .. } => problem.message.clone(),
        }
    }

    /// Why the split that is asked for cannot be there: the manifest of a known data set does not name it.
    pub fn unknown_split(&self, cx: &ResolveCx<'_>) -> Option<Problem> {
        let Self::Dataset { name, split: Some(split) } = self else { return None };
        let manifest = cx.datasets?.catalog.dataset(name).ok()?;
        manifest.split(split).err().map(|error| problem("unknown-dataset", error))
    }

    /// Looks for what there is, without network.
    pub fn find(&self, wishes: &Wishes, cx: &mut ResolveCx<'_>) -> Option<Found> {
        let found = match self {
            Self::Path { path, reading } => find_path(path, *reading, wishes, cx.look_at_files),
            Self::Dataset { name, split } => {
                let (fetcher, split) = self.manifest(name, split.as_ref(), cx)?;
                let (manifest, split) = in_catalog(&split, &fetcher)?;
                let wishes = with_manifest(wishes, manifest, split, name.span, cx)?;
                find_split(&fetcher, manifest, split, wishes, cx.look_at_files)
            }
        };
        found.map_err(|problem| cx.error(problem.diagnostic(self.span()))).ok()
    }

    fn manifest(
        &self,
        name: &Spanned<String>,
        split: Option<&Spanned<String>>,
        cx: &mut ResolveCx<'_>,
    ) -> Option<(Arc<Fetcher>, SplitName)> {
        let Some(fetcher) = cx.datasets.cloned() else {
            cx.error(
                Diagnostic::error("unknown-dataset", "no data sets are known here")
                    .at(name.span, "cannot be looked up"),
            );
            return None;
        };
        let only = |manifest: &DatasetManifest| match manifest.splits.keys().collect::<Vec<_>>().as_slice() {
            [only] => Ok(only.to_string()),
            all => {
                let names: Vec<&str> = all.iter().map(|s| s.as_str()).collect();
                let message = format!("`{}` has {} splits", name.value, names.len());
                Err((
                    Problem::new("missing-field", message).help(format!("say which: split={}", either(&names))),
                    name.span,
                ))
            }
        };
        let unknown = |span| move |e: FetchError| (problem("unknown-dataset", e), span);
        let chosen = fetcher.catalog.dataset(name).map_err(unknown(name.span)).and_then(|manifest| {
            let split = match split {
                Some(split) => manifest.split(split).map_err(unknown(split.span))?.name.value.clone(),
                None => only(manifest)?,
            };
            Ok(SplitName { dataset: name.value.clone(), split })
        });
        match chosen {
            Ok(chosen) => Some((fetcher, chosen)),
            Err((problem, span)) => {
                cx.error(problem.diagnostic(span));
                None
            }
        }
    }

    /// The files at run time. A data set's are fetched before a run begins; what has gone since then is fetched again.
    pub fn files(&self, found: &Found) -> Result<Vec<DataFile>, RunError> {
        match (self, &found.fetcher) {
            (Self::Dataset { name, split }, Some(fetcher)) => {
                let failed = |e: FetchError| RunError::from(problem("fetch-failed", e));
                let manifest = fetcher.catalog.dataset(name).map_err(failed)?;
                let split = match split {
                    Some(split) => manifest.split(split).map_err(failed)?,
                    None => manifest.splits.values().next().ok_or_else(|| no_split(name))?,
                };
                Ok(fetched(fetcher.ensure_split(manifest, split, &Quiet).map_err(failed)?)?)
            }
            (Self::Path { path, reading }, _) => {
                let files = path_files(path, *reading)?;
                if files.is_empty() { Err(files::missing(path).into()) } else { Ok(files) }
            }
            (Self::Dataset { name, .. }, None) => Err(no_split(name)),
        }
    }
}

fn no_split(name: &str) -> RunError {
    RunError::failed("unknown-dataset", format!("the data set `{name}` has no manifest here"))
}

/// A split of the catalog that the fetcher owns.
fn in_catalog<'f>(name: &SplitName, fetcher: &'f Fetcher) -> Option<(&'f DatasetManifest, &'f Split)> {
    let manifest = fetcher.catalog.dataset(&name.dataset).ok()?;
    Some((manifest, manifest.split(&name.split).ok()?))
}

fn delimiter(fields: &Fields, diagnostics: &mut Diagnostics) -> Option<Option<u8>> {
    match fields.opt_str("delimiter") {
        Some(text) if text.value.len() != 1 => {
            diagnostics.push(
                Diagnostic::error("bad-delimiter", format!("a delimiter is one ASCII character, not `{}`", text.value))
                    .at(text.span, "more or less than one"),
            );
            None
        }
        text => Some(text.map(|t| t.value.as_bytes()[0])),
    }
}

fn meaningless(field: &str, value: &Spanned<String>, why: &str) -> Diagnostic {
    Diagnostic::error("conflicting-fields", format!("`{field}` has no meaning here: {why}"))
        .at(value.span, "given here")
}

/// "`a` or `b`", quoted as values.
fn either(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|n| format!("\"{n}\"")).collect();
    quoted.join(" or ")
}

/// A failure of fetching as a problem of the pipeline.
fn problem(code: &'static str, error: FetchError) -> Problem {
    let problem = Problem::new(code, error.to_string());
    match error.help {
        Some(help) => problem.help(help),
        None => problem,
    }
}

fn path_files(path: &str, reading: Reading) -> Result<Vec<DataFile>, Problem> {
    let with_format = |path: PathBuf| {
        let Some(format) = reading.format.or_else(|| Format::of_path(&path)) else {
            let message = format!("the extension of `{}` names no format", path.display());
            let help = format!("say which it is: format=\"jsonl\" (or {})", FORMATS.join(", "));
            return Err(Problem::new("unknown-format", message).help(help));
        };
        let tabs = path.to_string_lossy().to_lowercase().contains(".tsv");
        let delimiter = reading.delimiter.unwrap_or(if tabs { b'\t' } else { b',' });
        Ok(DataFile { path, format, delimiter })
    };
    files::find(path)?.into_iter().map(with_format).collect()
}

fn find_path(path: &str, reading: Reading, wishes: &Wishes, look: bool) -> Result<Found, Problem> {
    let files = if look { path_files(path, reading)? } else { Vec::new() };
    // Content is digested; of the names only the part that rows are named by has a say.
    let stems: Vec<String> = files.iter().map(|f| files::stem(&f.path)).collect();
    let stems = if wishes.id_prefix.is_some() { Vec::new() } else { stems };
    let how: Vec<String> = files.iter().map(|f| format!("{:?} {}", f.format, f.delimiter)).collect();
    let missing = (look && files.is_empty()).then(|| files::missing(path));
    Ok(Found {
        files: (!files.is_empty()).then_some(files),
        wishes: wishes.clone(),
        rows: None,
        missing,
        to_fetch: None,
        canonical: json!({ "stems": stems, "formats": how }),
        has_checksums: false,
        fetcher: None,
    })
}

fn find_split(
    fetcher: &Arc<Fetcher>,
    manifest: &DatasetManifest,
    split: &Split,
    wishes: Wishes,
    look: bool,
) -> Result<Found, Problem> {
    let checksums: Vec<Option<&String>> = split.files.iter().map(|f| f.content.sha256.as_ref()).collect();
    let has_checksums = checksums.iter().all(Option::is_some);
    let canonical = json!({ "sha256": checksums, "id-prefix": wishes.id_prefix.as_deref() });
    let mut found = Found {
        files: None,
        wishes,
        rows: split.rows,
        missing: None,
        to_fetch: None,
        canonical,
        has_checksums,
        fetcher: Some(fetcher.clone()),
    };
    if !look {
        return Ok(found);
    }
    let mut here = Vec::new();
    for located in fetcher.locate_split(manifest, split) {
        match located {
            Located::Here(file) => here.push(file),
            Located::Absent { problem: Some(error), .. } => {
                found.missing = Some(problem("file-missing", error));
                return Ok(found);
            }
            Located::Absent { problem: None, .. } => {
                let (dataset, split) = (manifest.name.value.clone(), split.name.value.clone());
                found.to_fetch = Some(SplitName { dataset, split });
                return Ok(found);
            }
        }
    }
    found.files = Some(fetched(here)?);
    Ok(found)
}

fn fetched(files: Vec<Fetched>) -> Result<Vec<DataFile>, Problem> {
    let file = |file: Fetched| {
        let Some(format) = file.format else {
            return Err(Problem::new("unknown-format", format!("the manifest gives `{}` no format", file.name)));
        };
        let delimiter = if file.name.to_lowercase().contains(".tsv") { b'\t' } else { b',' };
        Ok(DataFile { path: file.path, format, delimiter })
    };
    files.into_iter().map(file).collect()
}

/// The wishes of the pipeline, whose fields are the columns of the manifest, as wishes on the files.
fn with_manifest(
    wishes: &Wishes,
    manifest: &DatasetManifest,
    split: &Split,
    span: Span,
    cx: &mut ResolveCx<'_>,
) -> Option<Wishes> {
    let names: Vec<&str> = split.fields.keys().map(String::as_str).collect();
    let mut sound = true;
    let written = wishes.fields.values().map(|(_, theirs)| theirs).chain(&wishes.id);
    for theirs in written.filter(|t| !split.fields.contains_key(&t.value)) {
        let d = Diagnostic::error("field-missing", format!("the data set has no column `{}`", theirs.value))
            .at(theirs.span, format!("it has {}", list(&names)));
        cx.error(match did_you_mean(theirs, names.iter().copied()) {
            Some(near) => d.help(format!("did you mean `{near}`?")),
            None => d,
        });
        sound = false;
    }
    if !sound {
        return None;
    }
    let source = |column: &str| Spanned::new(split.fields[column].clone(), span);
    let mut composed = Wishes { only_mapped: true, id_prefix: wishes.id_prefix.clone(), ..Wishes::default() };
    composed.id = match &wishes.id {
        Some(id) => Some(Spanned::new(split.fields[&id.value].clone(), id.span)),
        None => split.fields.contains_key(ID).then(|| source(ID)),
    };
    if composed.id_prefix.is_none() && composed.id.is_none() {
        let several = manifest.splits.len() > 1;
        let prefix = format!("{}/{}", manifest.name.value, split.name.value);
        composed.id_prefix = Some(Spanned::new(if several { prefix } else { manifest.name.value.clone() }, span));
    }
    for (ours, column, place) in columns(wishes, split, span) {
        let declared = wishes.columns.get(&ours).cloned();
        let kind = || (place, Spanned::new(kind_word(manifest.columns[&column].kind).to_string(), place));
        composed.columns.insert(ours.clone(), declared.unwrap_or_else(kind));
        composed.fields.insert(ours, (place, source(&column)));
    }
    // What is declared for a column that there is not is reported with the shape.
    for (name, declared) in &wishes.columns {
        composed.columns.entry(name.clone()).or_insert_with(|| declared.clone());
    }
    Some(composed)
}

/// Our names, the manifest's, and where they are written: those of `fields` first.
fn columns(wishes: &Wishes, split: &Split, span: Span) -> Vec<(String, String, Span)> {
    let taken: Vec<&str> = wishes.fields.values().map(|(_, t)| t.value.as_str()).collect();
    let wished = wishes.fields.iter().map(|(ours, (place, theirs))| (ours.clone(), theirs.value.clone(), *place));
    let kept = |name: &&String| {
        let replaced = wishes.fields.contains_key(*name) || taken.contains(&name.as_str());
        let left_out = wishes.only_mapped && !wishes.columns.contains_key(*name);
        *name != ID && !replaced && !left_out
    };
    let rest: IndexMap<&String, &String> = split.fields.iter().filter(|(name, _)| kept(name)).collect();
    wished.chain(rest.into_keys().map(|name| (name.clone(), name.clone(), span))).collect()
}

/// The type of a manifest's column, as `columns` would say it.
fn kind_word(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::String => "text?",
        ColumnKind::Int => "int?",
        ColumnKind::Float => "float?",
        ColumnKind::Bool => "bool?",
        ColumnKind::Strings => "list?",
    }
}
