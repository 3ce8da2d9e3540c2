//! What a declared model is and where its files lie: from a manifest, the hub or a path.

use super::error::{FetchError, Kind};
use super::fetcher::{Fetched, Fetcher, Located, Owner};
use super::hub::{self, Repo};
use super::manifest::{ModelManifest, RepoKind, WeightsKind};
use super::probe::{self, Facts};
use super::progress::Progress;
use crate::config::{ModelDecl, ModelSource};
use crate::diag::{Diagnostic, Diagnostics, Span};
use crate::plan::{ModelCatalog, ModelInfo, PlanEnv};
use crate::size;
use indexmap::IndexMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files beside the weights that change what a model computes or says.
const COMPANIONS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// Of them, those that go before what a GGUF file says itself. Its configuration is always its own.
const GGUF_COMPANIONS: &[&str] =
    &["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model's files on this machine.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    pub kind: WeightsKind,
    /// One GGUF file, or the safetensors shards in order.
    pub weights: Vec<PathBuf>,
    /// The other files by name (`config.json`, `tokenizer.json`, `1_Pooling/config.json`).
    pub files: IndexMap<String, PathBuf>,
    /// The chat template file that the pipeline puts in place of the model's own.
    pub chat_template: Option<PathBuf>,
    /// Where the model comes from, for people.
    pub from: String,
}

impl ModelFiles {
    /// A file beside the weights.
    pub fn get(&self, name: &str) -> Option<&Path> {
        self.files.get(name).map(PathBuf::as_path)
    }
}

/// A declared model as far as it is known without network.
#[derive(Debug, Clone)]
pub struct ModelState {
    pub info: ModelInfo,
    pub availability: Availability,
}

/// Whether a model's files are on this machine.
#[derive(Debug, Clone)]
pub enum Availability {
    /// They are, and `info.digest` is that of their content.
    Here,
    /// They can be fetched. The digest is final if `pinned`: the manifest gives every checksum. Otherwise it
    /// is known only once the files are here, and the plan has to be made again then.
    ToFetch { bytes: Option<u64>, pinned: bool },
    /// They cannot be had on this machine as it is set up; the diagnostic says why.
    Missing(Box<Diagnostic>),
}

impl Fetcher {
    /// What is known of a declared model without network. An error names a declaration that cannot be right
    /// wherever it is run: no such manifest, or local files that are no model.
    pub fn model_state(&self, decl: &ModelDecl) -> Result<ModelState, Diagnostic> {
        let span = source_span(&decl.source);
        let fail = |e: FetchError| diagnostic(e, span);
        let (content, facts, availability) = match &decl.source {
            ModelSource::Manifest(name) => self.manifest_state(self.catalog.model(name).map_err(fail)?, span)?,
            _ => match self.local_files(decl) {
                Ok(Some(files)) => {
                    let (content, facts) =
                        self.content(&files).and_then(|c| Ok((c, facts_of(&files)?))).map_err(fail)?;
                    (content, facts, Availability::Here)
                }
                Ok(None) => (unfetched_name(&decl.source), Facts::default(), self.hub_availability(&decl.source, span)),
                Err(e) if e.kind == Kind::NotFound => {
                    (unfetched_name(&decl.source), Facts::default(), Availability::Missing(Box::new(fail(e))))
                }
                Err(e) => return Err(fail(e)),
            },
        };
        let template = self.template_digest(decl)?;
        let dtype = decl.dtype.value.as_str();
        let digest = format!(
            "model:{}",
            digest_of(&[
                ("content", &content),
                ("dtype", numbers(dtype)),
                ("template", template.as_deref().unwrap_or(""))
            ])
        );
        let memory = match dtype {
            "quantized" => Some(facts.file_bytes).filter(|b| *b > 0),
            "f32" => facts.parameters.map(|p| p.saturating_mul(4)),
            _ => facts.parameters.map(|p| p.saturating_mul(2)),
        };
        let info = ModelInfo {
            decl: decl.clone(),
            digest,
            context: decl.context.as_ref().map(|c| c.value).or(facts.context),
            parameters: facts.parameters,
            has_chat_template: if template.is_some() { Some(true) } else { facts.chat_template },
            memory,
        };
        Ok(ModelState { info, availability })
    }

    /// Makes sure that a declared model's files are here.
    pub fn ensure_model(&self, decl: &ModelDecl, progress: &dyn Progress) -> Result<ModelFiles, FetchError> {
        let mut files = match &decl.source {
            ModelSource::Manifest(name) => self.ensure_manifest_model(self.catalog.model(name)?, progress)?,
            source => match self.local_files(decl)? {
                Some(files) => files,
                None => self.fetch_hub_model(source, progress)?,
            },
        };
        files.chat_template = decl.chat_template.as_ref().map(|t| t.value.clone());
        Ok(files)
    }

    /// Makes sure that a manifest's model is here.
    pub fn ensure_manifest_model(
        &self,
        manifest: &ModelManifest,
        progress: &dyn Progress,
    ) -> Result<ModelFiles, FetchError> {
        let fetched = self.ensure_manifest_files(manifest, progress)?;
        let from = format!("manifest {}", manifest.name.value);
        Ok(arrange(manifest.kind, fetched.into_iter().map(|f| (f.name, f.path)), from))
    }

    /// [`Self::ensure_manifest_model`], file by file.
    pub fn ensure_manifest_files(
        &self,
        manifest: &ModelManifest,
        progress: &dyn Progress,
    ) -> Result<Vec<Fetched>, FetchError> {
        self.ensure_files(&Owner::model(manifest), &manifest.files, progress)
    }

    /// The state of a manifest's files, without network.
    pub fn locate_model(&self, manifest: &ModelManifest) -> Vec<Located> {
        manifest.files.iter().map(|f| self.locate(&Owner::model(manifest), f)).collect()
    }

    fn manifest_state(
        &self,
        manifest: &ModelManifest,
        span: Span,
    ) -> Result<(String, Facts, Availability), Diagnostic> {
        let located = self.locate_model(manifest);
        let mut here = Vec::new();
        let (mut missing_bytes, mut problem) = (Some(0u64), None);
        for place in located {
            match place {
                Located::Here(fetched) => here.push((fetched.name, fetched.path)),
                Located::Absent { content, problem: p } => {
                    missing_bytes = missing_bytes.zip(content.bytes).map(|(a, b)| a + b);
                    problem = problem.or(p);
                }
            }
        }
        let all_here = here.len() == manifest.files.len();
        let pinned = manifest.files.iter().all(|f| f.content.sha256.is_some());
        let content = if pinned {
            let parts = manifest
                .files
                .iter()
                .map(|f| (role(manifest.kind, &f.name.value), f.content.sha256.clone().unwrap_or_default()));
            content_digest(parts.collect())
        } else if all_here {
            let files = arrange(manifest.kind, here.into_iter(), String::new());
            self.content(&files).map_err(|e| diagnostic(e, span))?
        } else {
            format!("unfetched manifest {}", manifest.name.value)
        };
        let weights = manifest.files.iter().filter(|f| is_weights(manifest.kind, &f.name.value));
        let facts = Facts {
            architecture: Some(manifest.architecture.clone()),
            context: Some(manifest.context),
            parameters: Some(manifest.parameters),
            chat_template: Some(manifest.chat_template),
            file_bytes: weights.filter_map(|f| f.content.bytes).sum(),
        };
        let availability = match (all_here, problem) {
            (true, _) => Availability::Here,
            (false, Some(e)) => Availability::Missing(Box::new(diagnostic(e, span))),
            (false, None) => Availability::ToFetch { bytes: missing_bytes, pinned },
        };
        Ok((content, facts, availability))
    }

    /// The files of a path or hub model that are here; `None` if they must come from the hub.
    fn local_files(&self, decl: &ModelDecl) -> Result<Option<ModelFiles>, FetchError> {
        match &decl.source {
            ModelSource::Manifest(_) => Ok(None),
            ModelSource::Path(path) => path_files(path).map(Some),
            ModelSource::Hub { file, .. } => {
                let repo = repo_of(&decl.source)?;
                let Some(snapshot) = repo.as_ref().and_then(|r| self.hub().snapshot(r)) else { return Ok(None) };
                let from = unfetched_name(&decl.source);
                let files = match file {
                    Some(file) => named_files(&snapshot, &file.value, from),
                    None => folder_files(&snapshot, from),
                };
                // What is here of an unfinished download is no model yet.
                Ok(files.ok())
            }
        }
    }

    fn fetch_hub_model(&self, source: &ModelSource, progress: &dyn Progress) -> Result<ModelFiles, FetchError> {
        let (Some(repo), ModelSource::Hub { file, .. }) = (repo_of(source)?, source) else {
            return Err(FetchError::new(Kind::Unknown, "only a hub model can be fetched from the hub"));
        };
        self.refresh_hub_model(&repo, file.as_ref().map(|f| f.value.as_str()), progress)
    }

    /// Asks the hub what the revision means now and brings what is missing.
    pub fn refresh_hub_model(
        &self,
        repo: &Repo,
        file: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<ModelFiles, FetchError> {
        let hub = self.hub();
        let listing = hub.list(repo, progress)?;
        let has = |name: &str| listing.files.iter().any(|f| f == name);
        let at = Repo { revision: listing.commit.clone(), ..repo.clone() };
        let mut weights = Vec::new();
        match file {
            Some(file) if has(file) => weights.push(file.to_string()),
            Some(file) => {
                let near = crate::ops::did_you_mean(file, listing.files.iter().map(String::as_str));
                let e = FetchError::new(Kind::NotFound, format!("the repository `{}` has no file `{file}`", repo.id));
                return Err(match near {
                    Some(near) => e.help(format!("did you mean `{near}`?")),
                    None => e,
                });
            }
            None if has(WEIGHTS) => weights.push(WEIGHTS.into()),
            None if has(INDEX) => weights.extend(shards(&hub.ensure_at(repo, &at, INDEX, progress)?)?),
            None => {
                let say = "say which with `file=`";
                weights.push(only_gguf(&repo.id, &listing.files, say)?);
            }
        }
        let gguf = weights.first().filter(|w| w.ends_with(".gguf")).cloned();
        let companions = if gguf.is_some() { GGUF_COMPANIONS } else { COMPANIONS };
        let companions = companions.iter().copied().filter(|c| has(c));
        // Weights last: where they are, what belongs to them is as well.
        for name in companions.chain(weights.iter().map(String::as_str)) {
            hub.ensure_at(repo, &at, name, progress)?;
        }
        let snapshot =
            hub.snapshot(&at).ok_or_else(|| FetchError::new(Kind::NotFound, "the hub cache lost a snapshot"))?;
        let from = format!("hub {}@{}", repo.id, listing.commit);
        match gguf.as_deref().or(file) {
            Some(file) => named_files(&snapshot, file, from),
            None => folder_files(&snapshot, from),
        }
    }

    /// The digest of what the files hold.
    fn content(&self, files: &ModelFiles) -> Result<String, FetchError> {
        let mut parts = Vec::new();
        for path in &files.weights {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            parts.push((role(files.kind, name), self.digests.sha256(path)?));
        }
        for (name, path) in &files.files {
            parts.push((name.clone(), self.digests.sha256(path)?));
        }
        Ok(content_digest(parts))
    }

    fn template_digest(&self, decl: &ModelDecl) -> Result<Option<String>, Diagnostic> {
        let Some(template) = &decl.chat_template else { return Ok(None) };
        self.digests.sha256(&template.value).map(Some).map_err(|e| {
            Diagnostic::error("file-missing", format!("the chat template cannot be read: {}", e.message))
                .at(template.span, "this file")
        })
    }

    fn hub_availability(&self, source: &ModelSource, span: Span) -> Availability {
        if !self.env.hub.offline {
            return Availability::ToFetch { bytes: None, pinned: false };
        }
        let message = format!("{} is not in the hub cache, and HF_HUB_OFFLINE is set", unfetched_name(source));
        let e = FetchError::new(Kind::Unavailable, message).help("unset HF_HUB_OFFLINE, and `idiolect fetch` it");
        Availability::Missing(Box::new(diagnostic(e, span)))
    }
}

fn diagnostic(e: FetchError, span: Span) -> Diagnostic {
    let (code, label) = match e.kind {
        Kind::Unknown => ("unknown-model", "no such model"),
        Kind::NotFound | Kind::Unavailable => ("model-missing", "not on this machine"),
        _ => ("model-unreadable", "this model"),
    };
    let d = Diagnostic::error(code, e.to_string()).at(span, label);
    match e.help {
        Some(help) => d.help(help),
        None => d,
    }
}

fn source_span(source: &ModelSource) -> Span {
    match source {
        ModelSource::Manifest(name) => name.span,
        ModelSource::Hub { repo, .. } => repo.span,
        ModelSource::Path(path) => path.span,
    }
}

fn repo_of(source: &ModelSource) -> Result<Option<Repo>, FetchError> {
    let ModelSource::Hub { repo, revision, .. } = source else { return Ok(None) };
    let revision = revision.as_ref().map_or_else(|| "main".into(), |r| r.value.clone());
    Repo { kind: RepoKind::Model, id: repo.value.clone(), revision }.checked().map(Some)
}

/// What a model is called before its content is known.
fn unfetched_name(source: &ModelSource) -> String {
    match source {
        ModelSource::Manifest(name) => format!("manifest {}", name.value),
        ModelSource::Path(path) => format!("path {}", path.value.display()),
        ModelSource::Hub { repo, revision, file } => {
            let revision = revision.as_ref().map_or("main", |r| r.value.as_str());
            let file = file.as_ref().map(|f| format!("/{}", f.value)).unwrap_or_default();
            format!("hub {}@{revision}{file}", repo.value)
        }
    }
}

fn facts_of(files: &ModelFiles) -> Result<Facts, FetchError> {
    probe::facts(files.kind, &files.weights, |name| files.files.get(name).cloned())
}

/// A GGUF file by itself, or a folder as the hub lays it out: safetensors, or a GGUF file with what stands beside it.
fn path_files(path: &Path) -> Result<ModelFiles, FetchError> {
    let from = format!("path {}", path.display());
    let missing = |what: String| Err(FetchError::new(Kind::NotFound, what).help(crate::config::RELATIVE));
    if path.is_dir() {
        return folder_files(path, from);
    }
    if !path.is_file() {
        return missing(format!("there is no model at `{}`", path.display()));
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("gguf") => Ok(ModelFiles {
            kind: WeightsKind::Gguf,
            weights: vec![path.to_path_buf()],
            files: IndexMap::new(),
            chat_template: None,
            from,
        }),
        _ => Err(FetchError::new(Kind::WrongContent, format!("`{}` is no `.gguf` file and no folder", path.display()))
            .help("give a GGUF file, or the folder that holds config.json, tokenizer.json and *.safetensors")),
    }
}

/// A named weights file of a folder, with what stands beside it.
fn named_files(folder: &Path, file: &str, from: String) -> Result<ModelFiles, FetchError> {
    let path = folder.join(file);
    if !path.is_file() {
        return Err(FetchError::new(Kind::NotFound, format!("there is no file `{}`", path.display())));
    }
    let kind = if file.ends_with(".gguf") { WeightsKind::Gguf } else { WeightsKind::Safetensors };
    Ok(ModelFiles { kind, weights: vec![path], files: companions(kind, folder), chat_template: None, from })
}

fn folder_files(folder: &Path, from: String) -> Result<ModelFiles, FetchError> {
    let missing = |name: &str| {
        FetchError::new(Kind::NotFound, format!("the model folder `{}` has no `{name}`", folder.display()))
    };
    let names = if folder.join(WEIGHTS).is_file() {
        vec![WEIGHTS.to_string()]
    } else if folder.join(INDEX).is_file() {
        shards(&folder.join(INDEX))?
    } else {
        let entries = std::fs::read_dir(folder).map_err(|e| FetchError::io("read", folder, &e))?;
        let names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        let say = "name one as the `path`, or give each a folder of its own; they are";
        let file = only_gguf(&folder.display().to_string(), &names, say)?;
        return named_files(folder, &file, from);
    };
    for name in names.iter().map(String::as_str).chain(["config.json", "tokenizer.json"]) {
        if !folder.join(name).is_file() {
            return Err(missing(name));
        }
    }
    let weights = names.iter().map(|n| folder.join(n)).collect();
    let kind = WeightsKind::Safetensors;
    Ok(ModelFiles { kind, weights, files: companions(kind, folder), chat_template: None, from })
}

fn companions(kind: WeightsKind, folder: &Path) -> IndexMap<String, PathBuf> {
    let names = if kind == WeightsKind::Gguf { GGUF_COMPANIONS } else { COMPANIONS };
    let found = names.iter().map(|name| (name.to_string(), folder.join(name)));
    found.filter(|(_, path)| path.is_file()).collect()
}

/// The one GGUF file of a listing.
fn only_gguf(place: &str, names: &[String], say: &str) -> Result<String, FetchError> {
    let mut gguf: Vec<&str> = names.iter().map(String::as_str).filter(|n| n.ends_with(".gguf")).collect();
    gguf.sort_unstable();
    match gguf.as_slice() {
        [one] => Ok(one.to_string()),
        [] => Err(FetchError::new(
            Kind::NotFound,
            format!("`{place}` has no weights: neither `{WEIGHTS}`, `{INDEX}` nor a `.gguf` file"),
        )),
        several => Err(FetchError::new(Kind::NotFound, format!("`{place}` has several GGUF files"))
            .help(format!("{say}: {}", crate::ops::list(several)))),
    }
}

/// The files that an index of sharded weights names, in order.
fn shards(index: &Path) -> Result<Vec<String>, FetchError> {
    let bad = |what: String| {
        FetchError::new(Kind::WrongContent, format!("`{}` is no index of weights: {what}", index.display()))
    };
    let bytes = std::fs::read(index).map_err(|e| FetchError::io("read", index, &e))?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let map = json["weight_map"].as_object().ok_or_else(|| bad("it has no `weight_map`".into()))?;
    let mut names: Vec<String> = map.values().filter_map(|v| v.as_str()).map(str::to_string).collect();
    names.sort_unstable();
    names.dedup();
    match names.iter().find(|n| !hub::is_inside(n)) {
        Some(name) => Err(bad(format!("it names the file `{name}`"))),
        None if names.is_empty() => Err(bad("it names no file".into())),
        None => Ok(names),
    }
}

fn arrange(kind: WeightsKind, files: impl Iterator<Item = (String, PathBuf)>, from: String) -> ModelFiles {
    let (weights, files): (Vec<_>, Vec<_>) = files.partition(|(name, _)| is_weights(kind, name));
    let mut weights = weights;
    weights.sort();
    ModelFiles {
        kind,
        weights: weights.into_iter().map(|(_, path)| path).collect(),
        files: files.into_iter().collect(),
        chat_template: None,
        from,
    }
}

fn is_weights(kind: WeightsKind, name: &str) -> bool {
    name.ends_with(if kind == WeightsKind::Gguf { ".gguf" } else { ".safetensors" })
}

/// A file's name in the digest: the same weights are the same model under any name.
fn role(kind: WeightsKind, name: &str) -> String {
    if kind == WeightsKind::Gguf && is_weights(kind, name) { "weights.gguf".into() } else { name.into() }
}

fn content_digest(mut parts: Vec<(String, String)>) -> String {
    parts.sort_unstable();
    let pairs: Vec<(&str, &str)> = parts.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    digest_of(&pairs)
}

/// What a dtype is called in digests: another name where the kernels come to give other numbers for it.
fn numbers(dtype: &str) -> &str {
    match dtype {
        "bf16" => "bf16:2",
        "quantized" => "quantized:2",
        other => other,
    }
}

fn digest_of(pairs: &[(&str, &str)]) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in pairs.iter().flat_map(|(a, b)| [a, b]) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The plan's view of models: manifests, the hub cache and local files.
impl ModelCatalog for Arc<Fetcher> {
    fn describe(&self, decl: &ModelDecl, _: &PlanEnv, diagnostics: &mut Diagnostics) -> Option<ModelInfo> {
        match self.model_state(decl) {
            // A model that can come from nowhere but a path has no content to plan with.
            Ok(ModelState { availability: Availability::Missing(d), .. })
                if matches!(decl.source, ModelSource::Path(_)) =>
            {
                diagnostics.push(*d);
                None
            }
            Ok(state) => Some(state.info),
            Err(d) => {
                diagnostics.push(d);
                None
            }
        }
    }

    fn missing(&self, decl: &ModelDecl) -> Option<String> {
        match self.model_state(decl).ok()?.availability {
            Availability::Here => None,
            Availability::ToFetch { bytes: Some(bytes), .. } => {
                Some(format!("{} are to be fetched", size::show(bytes)))
            }
            Availability::ToFetch { bytes: None, .. } => Some("it is to be fetched".into()),
            Availability::Missing(d) => Some(d.message.clone()),
        }
    }
}
