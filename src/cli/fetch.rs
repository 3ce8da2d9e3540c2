//! `idiolect fetch`.

use super::common::{print_table, say};
use super::fetch_progress::FetchProgress;
use crate::config::{ModelDecl, ModelSource};
use crate::diag::{Diagnostics, Sources};
use crate::fetch::{
    Catalog, DatasetManifest, FOLDER, FetchEnv, FetchError, Fetched, Fetcher, Located, ModelManifest, Repo, RepoKind,
    Split,
};
use crate::ops::FieldKind;
use crate::size;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Fetches models and data sets, or lists them
///
/// A manifest says where a data set or model comes from: the manifests in `datasets/` and those built in. Every file is
/// checked by size and SHA-256 and kept in the user cache (`$IDIOLECT_CACHE`, else `$XDG_CACHE_HOME/idiolect`, else
/// `~/.cache/idiolect`); files of the Hugging Face hub lie in its own cache, shared with its other clients. A download
/// that was cut goes on where it stopped. `idiolect run` fetches what a pipeline needs by itself.
///
/// Environment: `IDIOLECT_DATA` (folder of local data that manifests refer to), `HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME`,
/// `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HTTPS_PROXY`, `NO_PROXY`; pip's own settings for Python packages.
///
/// Exit codes: 0 all is here; 1 something could not be fetched; 2 a name or a file is wrong.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Manifests to fetch: `gsm8k`, one split as `gsm8k/test`, or `org/name` of a hub model with `--hub`
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "pipeline", "list"])]
    names: Vec<String>,
    /// Fetch everything that has a manifest
    #[arg(long, conflicts_with_all = ["names", "pipeline"])]
    all: bool,
    /// Fetch what a pipeline file names
    #[arg(long, value_name = "FILE", conflicts_with = "names")]
    pipeline: Option<PathBuf>,
    /// Set a parameter of the pipeline, such as `-P limit=5`
    #[arg(short = 'P', value_name = "NAME=VALUE", value_parser = super::common::parse_override, requires = "pipeline")]
    param: Vec<(String, String)>,
    /// The names are repositories of the Hugging Face hub; what a branch means now is asked again
    #[arg(long)]
    hub: bool,
    /// List manifests, their size, their license and whether they are here; fetch nothing
    #[arg(long, conflicts_with_all = ["all", "pipeline", "hub"])]
    list: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Keep files here instead of in the user cache
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// No progress; only warnings and errors
    #[arg(long, short)]
    quiet: bool,
}

/// Something that can be fetched.
enum Target<'a> {
    Split(&'a DatasetManifest, &'a Split),
    Model(&'a ModelManifest),
    /// A model that a pipeline declares without a manifest.
    Declared(ModelDecl),
    Hub(Repo),
}

/// A file as it is printed.
struct Line {
    name: String,
    file: String,
    state: &'static str,
    from: String,
    path: PathBuf,
    bytes: u64,
}

pub fn run(args: Args) -> u8 {
    let (mut sources, mut found) = (Sources::new(), Diagnostics::new());
    let catalog = Catalog::load(Path::new(FOLDER), &mut sources, &mut found);
    let pipeline = args.pipeline.as_ref().map(|file| crate::config::load(file, &args.param, &mut sources, &mut found));
    if !found.is_empty() {
        eprintln!("{}", crate::diag::render(&found, &sources, std::io::stderr().is_terminal()));
    }
    if found.has_errors() {
        return super::WRONG_INPUT;
    }
    let mut env = FetchEnv::from_process();
    if let Some(dir) = &args.dir {
        env.cache.clone_from(dir);
    }
    let fetcher = Fetcher::new(catalog, env);
    if args.list {
        return list(&fetcher, &args);
    }
    let targets = match &pipeline {
        Some(Some(pipeline)) => of_pipeline(&fetcher.catalog, pipeline),
        Some(None) => return super::WRONG_INPUT,
        None if args.all => Ok(everything(&fetcher.catalog)),
        None => args.names.iter().try_fold(Vec::new(), |mut all, name| {
            all.extend(named(&fetcher.catalog, name, args.hub)?);
            Ok(all)
        }),
    };
    match targets {
        Ok(targets) => fetch(&fetcher, &targets, &args),
        Err(error) => {
            print_error(&error);
            super::WRONG_INPUT
        }
    }
}

/// Fetches each target; one that fails does not keep the others from coming.
fn fetch(fetcher: &Fetcher, targets: &[Target<'_>], args: &Args) -> u8 {
    let progress = FetchProgress::new(args.quiet);
    let (mut lines, mut failed) = (Vec::new(), false);
    for target in targets {
        match bring(fetcher, target, &progress) {
            Ok(some) => lines.extend(some),
            Err(error) => {
                failed = true;
                print_error(&error);
            }
        }
    }
    drop(progress);
    if args.json {
        let rows: Vec<Value> = lines.iter().map(Line::json).collect();
        println!("{:#}", Value::from(rows));
    } else if !lines.is_empty() {
        let cells = |l: &Line| {
            [
                format!("{}/{}", l.name, l.file),
                l.state.into(),
                size::show(l.bytes),
                format!("{}", l.path.display()),
                l.from.clone(),
            ]
        };
        print_table(["FILE", "STATE", "SIZE", "PATH", "FROM"], &[2], lines.iter().map(cells));
    }
    if failed { super::FAILED } else { super::DONE }
}

fn bring(fetcher: &Fetcher, target: &Target<'_>, progress: &FetchProgress) -> Result<Vec<Line>, FetchError> {
    match target {
        Target::Split(manifest, split) => {
            let name = format!("{}/{}", manifest.name.value, split.name.value);
            let files = fetcher.ensure_split(manifest, split, progress)?;
            Ok(files.into_iter().map(|f| Line::of(&name, f)).collect())
        }
        Target::Model(manifest) => {
            let files = fetcher.ensure_manifest_files(manifest, progress)?;
            Ok(files.into_iter().map(|f| Line::of(&manifest.name.value, f)).collect())
        }
        Target::Declared(decl) => Ok(model_lines(&decl.name, fetcher.ensure_model(decl, progress)?)),
        Target::Hub(repo) => Ok(model_lines(&repo.id, fetcher.refresh_hub_model(repo, None, progress)?)),
    }
}

fn model_lines(name: &str, model: crate::fetch::ModelFiles) -> Vec<Line> {
    let files = model.weights.into_iter().chain(model.files.into_values());
    let line = |path: PathBuf| Line {
        name: name.to_string(),
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        state: "here",
        from: model.from.clone(),
        bytes: std::fs::metadata(&path).map_or(0, |m| m.len()),
        path,
    };
    files.map(line).collect()
}

impl Line {
    fn of(name: &str, f: Fetched) -> Self {
        let state = if f.was_here { "was here" } else { "fetched" };
        Self { name: name.to_string(), file: f.name, state, from: f.from, path: f.path, bytes: f.bytes }
    }

    fn json(&self) -> Value {
        let Self { name, file, state, from, path, bytes } = self;
        json!({ "name": name, "file": file, "state": state, "bytes": bytes, "path": path, "from": from })
    }
}

/// What a name on the command line means: a data set with all its splits, one split, a model.
fn named<'a>(catalog: &'a Catalog, name: &str, hub: bool) -> Result<Vec<Target<'a>>, FetchError> {
    if hub {
        let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
        let repo = Repo { kind: RepoKind::Model, id: id.to_string(), revision: revision.to_string() };
        return repo.checked().map(|repo| vec![Target::Hub(repo)]);
    }
    if let Some((dataset, split)) = name.split_once('/') {
        let manifest = catalog.dataset(dataset)?;
        return Ok(vec![Target::Split(manifest, manifest.split(split)?)]);
    }
    if let Ok(manifest) = catalog.model(name) {
        return Ok(vec![Target::Model(manifest)]);
    }
    match catalog.dataset(name) {
        Ok(manifest) => Ok(splits(manifest).collect()),
        Err(_) => Err(catalog.unknown_name(name)),
    }
}

fn splits(manifest: &DatasetManifest) -> impl Iterator<Item = Target<'_>> {
    manifest.splits.values().map(move |split| Target::Split(manifest, split))
}

fn everything(catalog: &Catalog) -> Vec<Target<'_>> {
    catalog.models().map(Target::Model).chain(catalog.datasets().flat_map(splits)).collect()
}

/// The models that a pipeline declares and the data sets that its nodes load.
fn of_pipeline<'a>(catalog: &'a Catalog, pipeline: &crate::config::Pipeline) -> Result<Vec<Target<'a>>, FetchError> {
    let mut targets = Vec::new();
    for decl in pipeline.models.values() {
        targets.push(match &decl.source {
            ModelSource::Manifest(name) => Target::Model(catalog.model(&name.value)?),
            _ => Target::Declared(decl.clone()),
        });
    }
    let mut seen = std::collections::HashSet::new();
    for node in &pipeline.nodes {
        let is_dataset = |f: &&crate::ops::FieldSpec| matches!(f.kind, FieldKind::Dataset);
        let Some(field) = node.op.fields.iter().find(is_dataset) else { continue };
        let Some(name) = node.fields.opt_str(field.name) else { continue };
        let manifest = catalog.dataset(&name.value)?;
        let has_split = node.op.fields.iter().any(|f| f.name == "split");
        let split = if has_split { node.fields.opt_str("split") } else { None };
        let wanted = match &split {
            Some(split) => vec![manifest.split(&split.value)?],
            None => manifest.splits.values().collect(),
        };
        let new = wanted.into_iter().filter(|s| seen.insert((name.value.clone(), s.name.value.clone())));
        targets.extend(new.map(|split| Target::Split(manifest, split)));
    }
    Ok(targets)
}

fn list(fetcher: &Fetcher, args: &Args) -> u8 {
    let catalog = &fetcher.catalog;
    let mut rows = Vec::new();
    for manifest in catalog.models() {
        let files = fetcher.locate_model(manifest);
        let part = json!({ "files": manifest.files.iter().zip(&files).map(|(s, l)| located(&s.name.value, l)).collect::<Vec<_>>() });
        rows.push(listed("model", &manifest.name.value, &manifest.summary, &manifest.license, &[files], vec![part]));
    }
    for manifest in catalog.datasets() {
        let files: Vec<Vec<Located>> = manifest.splits.values().map(|s| fetcher.locate_split(manifest, s)).collect();
        let part = |(split, files): (&Split, &Vec<Located>)| {
            let files: Vec<Value> = split.files.iter().zip(files).map(|(s, l)| located(&s.name.value, l)).collect();
            json!({ "split": split.name.value, "rows": split.rows, "files": files })
        };
        let parts = manifest.splits.values().zip(&files).map(part).collect();
        rows.push(listed("data set", &manifest.name.value, &manifest.summary, &manifest.license, &files, parts));
    }
    let wanted = |row: &Value| args.names.is_empty() || args.names.iter().any(|n| row["name"] == n.as_str());
    if let Some(name) = args.names.iter().find(|n| !rows.iter().any(|r| r["name"] == n.as_str())) {
        print_error(&catalog.unknown_name(name));
        return super::WRONG_INPUT;
    }
    rows.retain(wanted);
    if args.json {
        println!("{:#}", Value::from(rows));
        return super::DONE;
    }
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_string();
    let cells = |row: &Value| {
        let bytes = row["bytes"].as_u64().map_or_else(|| "?".to_string(), size::show);
        [text(row, "name"), text(row, "kind"), text(row, "state"), bytes, text(row, "license"), text(row, "summary")]
    };
    print_table(["NAME", "KIND", "STATE", "SIZE", "LICENSE", "SUMMARY"], &[3], rows.iter().map(cells));
    super::DONE
}

fn listed(kind: &str, name: &str, summary: &str, license: &str, files: &[Vec<Located>], parts: Vec<Value>) -> Value {
    let is_here = |group: &&Vec<Located>| group.iter().all(|l| matches!(l, Located::Here(_)));
    let here = files.iter().filter(is_here).count();
    let state = match here {
        n if n == files.len() => "cached".to_string(),
        0 => "absent".to_string(),
        n => format!("{n} of {} splits", files.len()),
    };
    let sizes = files.iter().flatten().map(|l| match l {
        Located::Here(f) => Some(f.bytes),
        Located::Absent { content, .. } => content.bytes,
    });
    let bytes: Option<u64> = sizes.sum();
    json!({ "name": name, "kind": kind, "state": state, "bytes": bytes, "license": license, "summary": summary, "parts": parts })
}

fn located(name: &str, located: &Located) -> Value {
    match located {
        Located::Here(f) => json!({
            "file": name, "state": "cached", "bytes": f.bytes, "sha256": f.sha256, "path": f.path, "from": f.from,
        }),
        Located::Absent { content, problem } => json!({
            "file": name, "state": "absent", "bytes": content.bytes, "sha256": content.sha256,
            "problem": problem.as_ref().map(ToString::to_string),
        }),
    }
}

fn print_error(error: &FetchError) {
    say(&format!("error[fetch-failed]: {error}"));
    if let Some(help) = &error.help {
        say(&format!("\nhint: {help}"));
    }
}
