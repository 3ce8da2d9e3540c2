//! The manifests that are known: those compiled in, and those of the working directory.

use super::decode::{self, Decoded};
use super::error::{FetchError, Kind};
use super::manifest::{DatasetManifest, ModelManifest, Origin, Split};
use crate::diag::{Diagnostic, Diagnostics, Severity, Sources, Span, Spanned};
use crate::ops::{did_you_mean, list};
use indexmap::IndexMap;
use std::path::{Path, PathBuf};

macro_rules! built_in {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../../datasets/", $name)))),*] };
}

/// The manifests of `datasets/`, compiled in so that an installed binary has them too.
const BUILT_IN: &[(&str, &str)] = built_in![
    "all-mpnet-base-v2.kdl",
    "ecqa.kdl",
    "grade-school.kdl",
    "gsm8k.kdl",
    "humaneval.kdl",
    "math-algebra.kdl",
    "mbpp.kdl",
    "sml-ecqa.kdl",
    "sml-gsm8k.kdl",
    "sml-humaneval.kdl",
    "sml-math.kdl",
    "sml-mbpp.kdl",
    "smollm2-135m-instruct.kdl",
];

/// Files that those manifests name by relative paths.
const EMBEDDED: &[(&str, &[u8])] =
    &[("grade-school/rows.jsonl", include_bytes!("../../datasets/grade-school/rows.jsonl"))];

/// A compiled-in file.
pub(super) fn embedded(path: &str) -> Option<&'static [u8]> {
    EMBEDDED.iter().find(|(p, _)| *p == path).map(|(_, bytes)| *bytes)
}

/// The folder of the working directory that manifests are read from.
pub const FOLDER: &str = "datasets";

/// Data sets and models by name.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    datasets: IndexMap<String, DatasetManifest>,
    models: IndexMap<String, ModelManifest>,
}

impl Catalog {
    /// The built-in manifests and those of `folder` (usually [`FOLDER`]), which replace built-in ones of
    /// their name. A folder that does not exist is an empty one.
    pub fn load(folder: &Path, sources: &mut Sources, diags: &mut Diagnostics) -> Self {
        let mut catalog = Self::built_in(sources, diags);
        let mut seen: IndexMap<String, Span> = IndexMap::new();
        for path in manifest_files(folder, diags) {
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(e) => {
                    let message = format!("cannot read the manifest `{}`: {e}", path.display());
                    diags.push(Diagnostic::error("bad-manifest", message));
                    continue;
                }
            };
            // The repository's own folder holds the built-in texts: nothing is replaced then.
            let same = BUILT_IN.iter().any(|(_, built_in)| *built_in == text);
            let source = sources.add(path.display().to_string(), Some(&path), text.as_str());
            let decoded = decode::manifests(&text, source, &Origin::File(path), diags);
            catalog.add(decoded, &mut seen, same, diags);
        }
        catalog
    }

    /// The compiled-in manifests alone.
    pub fn built_in(sources: &mut Sources, diags: &mut Diagnostics) -> Self {
        let mut catalog = Self::default();
        for (name, text) in BUILT_IN {
            let source = sources.add(format!("built-in {name}"), None, *text);
            catalog.add(decode::manifests(text, source, &Origin::BuiltIn, diags), &mut IndexMap::new(), true, diags);
        }
        catalog
    }

    fn add(&mut self, decoded: Decoded, seen: &mut IndexMap<String, Span>, same: bool, diags: &mut Diagnostics) {
        let Decoded { datasets, models } = decoded;
        for manifest in datasets {
            if claim(&manifest.name, "data set", seen, diags) {
                let replaced = self.datasets.insert(manifest.name.value.clone(), manifest.clone());
                note(&manifest.name, replaced.is_some() && !same, diags);
            }
        }
        for manifest in models {
            if claim(&manifest.name, "model", seen, diags) {
                let replaced = self.models.insert(manifest.name.value.clone(), manifest.clone());
                note(&manifest.name, replaced.is_some() && !same, diags);
            }
        }
    }

    pub fn datasets(&self) -> impl Iterator<Item = &DatasetManifest> {
        self.datasets.values()
    }

    pub fn models(&self) -> impl Iterator<Item = &ModelManifest> {
        self.models.values()
    }

    /// The data set of that name, or an error that knows what is near.
    pub fn dataset(&self, name: &str) -> Result<&DatasetManifest, FetchError> {
        self.datasets.get(name).ok_or_else(|| {
            let other = self.models.contains_key(name).then_some("a model");
            unknown("data set", name, other, self.datasets.keys())
        })
    }

    /// The model of that name, or an error that knows what is near.
    pub fn model(&self, name: &str) -> Result<&ModelManifest, FetchError> {
        self.models.get(name).ok_or_else(|| {
            let other = self.datasets.contains_key(name).then_some("a data set");
            unknown("model", name, other, self.models.keys())
        })
    }
}

impl Catalog {
    /// The error for a name that is neither a data set nor a model.
    pub fn unknown_name(&self, name: &str) -> FetchError {
        unknown("data set or model", name, None, self.datasets.keys().chain(self.models.keys()))
    }
}

impl DatasetManifest {
    /// The split of that name, or an error that knows what is near.
    pub fn split(&self, name: &str) -> Result<&Split, FetchError> {
        self.splits.get(name).ok_or_else(|| {
            let e = unknown("split", name, None, self.splits.keys());
            FetchError { message: format!("{} in `{}`", e.message, self.name.value), ..e }
        })
    }
}

fn unknown<'a>(what: &str, name: &str, other: Option<&str>, known: impl Iterator<Item = &'a String>) -> FetchError {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let help = match (other, did_you_mean(name, known.iter().copied())) {
        (Some(other), _) => format!("`{name}` is {other}"),
        (None, Some(near)) => format!("did you mean `{near}`?"),
        (None, None) => format!("there is {}", list(&known)),
    };
    FetchError::new(Kind::Unknown, format!("there is no {what} `{name}`")).help(help)
}

fn claim(name: &Spanned<String>, what: &str, seen: &mut IndexMap<String, Span>, diags: &mut Diagnostics) -> bool {
    let key = format!("{what} `{}`", name.value);
    match seen.get(&key) {
        Some(earlier) => {
            let d = Diagnostic::error("bad-manifest", format!("the {key} is described twice"));
            diags.push(d.at(name.span, "described again").and(*earlier, "described here"));
            false
        }
        None => {
            seen.insert(key, name.span);
            true
        }
    }
}

fn note(name: &Spanned<String>, replaces: bool, diags: &mut Diagnostics) {
    if replaces {
        let message = format!("`{}` is taken from here instead of the built-in manifest", name.value);
        let note = Diagnostic { severity: Severity::Note, ..Diagnostic::warning("manifest-replaced", message) };
        diags.push(note.at(name.span, "replaces the built-in one"));
    }
}

fn manifest_files(folder: &Path, diags: &mut Diagnostics) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Vec::new();
        }
        Err(e) => {
            diags
                .push(Diagnostic::error("bad-manifest", format!("cannot read the folder `{}`: {e}", folder.display())));
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension() == Some("kdl".as_ref())).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn built_in() -> Catalog {
        let (mut sources, mut diags) = (Sources::new(), Diagnostics::new());
        let catalog = Catalog::built_in(&mut sources, &mut diags);
        assert!(diags.is_empty(), "{diags:#?}");
        catalog
    }

    #[test]
    fn every_manifest_of_the_folder_is_built_in_and_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
        let mut diags = Diagnostics::new();
        let files = manifest_files(&folder, &mut diags);
        let names: Vec<_> = files.iter().filter_map(|f| f.file_name()?.to_str()).collect();
        let built_in_names: Vec<_> = BUILT_IN.iter().map(|(n, _)| *n).collect();
        assert_eq!(names, built_in_names);
        let catalog = built_in();
        assert_eq!(catalog.datasets().count() + catalog.models().count(), BUILT_IN.len());
        // A manifest is found under its file's name.
        for name in names {
            let name = name.trim_end_matches(".kdl");
            assert!(catalog.dataset(name).is_ok() || catalog.model(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_repository_s_own_folder_replaces_nothing() {
        let (mut sources, mut diags) = (Sources::new(), Diagnostics::new());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
        let catalog = Catalog::load(&folder, &mut sources, &mut diags);
        assert!(diags.is_empty(), "{diags:#?}");
        assert!(matches!(&catalog.dataset("grade-school").unwrap().origin, Origin::File(p) if p.starts_with(&folder)));
    }

    #[test]
    fn a_manifest_of_the_working_directory_replaces_the_built_in_one_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"dataset "gsm8k" {
            summary "mine"; license "MIT"
            columns { question "string" }
            split "train" { file "a.jsonl" { path "a.jsonl" } }
        }"#;
        std::fs::write(folder.path().join("mine.kdl"), text).unwrap();
        std::fs::write(folder.path().join("ignored.txt"), "not a manifest {").unwrap();
        let (mut sources, mut diags) = (Sources::new(), Diagnostics::new());
        let catalog = Catalog::load(folder.path(), &mut sources, &mut diags);
        assert_eq!(catalog.dataset("gsm8k").unwrap().summary, "mine");
        let codes: Vec<_> = diags.iter().map(|d| (d.code, d.severity)).collect();
        assert_eq!(codes, [("manifest-replaced", Severity::Note)]);
    }

    #[test]
    fn a_name_that_is_not_known_says_what_is_near() {
        let catalog = built_in();
        let help = |e: FetchError| (e.message, e.help.unwrap());
        let (message, near) = help(catalog.dataset("gsm8").unwrap_err());
        assert_eq!((message.as_str(), near.as_str()), ("there is no data set `gsm8`", "did you mean `gsm8k`?"));
        let (_, other) = help(catalog.dataset("smollm2-135m-instruct").unwrap_err());
        assert_eq!(other, "`smollm2-135m-instruct` is a model");
        let (_, split) = help(catalog.dataset("gsm8k").unwrap().split("trian").unwrap_err());
        assert_eq!(split, "did you mean `train`?");
        let (_, all) = help(catalog.model("zzzzzzzz").unwrap_err());
        assert_eq!(all, "there is `all-mpnet-base-v2` and `smollm2-135m-instruct`");
    }

    #[test]
    fn two_manifests_of_one_name_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"dataset "x" { summary "x"; license "MIT"; columns { question "string" }; split "train" { file "a.jsonl" { path "a.jsonl" } }; }"#;
        std::fs::write(folder.path().join("a.kdl"), text).unwrap();
        std::fs::write(folder.path().join("b.kdl"), text).unwrap();
        let mut diags = Diagnostics::new();
        Catalog::load(folder.path(), &mut Sources::new(), &mut diags);
        assert_eq!(
            diags.iter().map(|d| d.message.as_str()).collect::<Vec<_>>(),
            ["the data set `x` is described twice"]
        );
    }
}
