//! KDL -> manifests. Every mistake of a file is reported at its place, as `bad-manifest`.

use super::manifest::{
    Column, ColumnKind, Content, DatasetManifest, FileSpec, Format, ModelManifest, Offer, Origin, RepoKind, Source,
    Split, WeightsKind,
};
use super::reader::{Node, suggest};
use crate::diag::{Diagnostics, SourceId, Spanned};
use crate::ops::list;
use crate::syntax;
use indexmap::IndexMap;

/// The manifests of one file.
#[derive(Debug, Default)]
pub struct Decoded {
    pub datasets: Vec<DatasetManifest>,
    pub models: Vec<ModelManifest>,
}

/// Reads the manifests of a text. What is wrong is reported and left out; the rest is returned.
pub fn manifests(text: &str, source: SourceId, origin: &Origin, diags: &mut Diagnostics) -> Decoded {
    let mut decoded = Decoded::default();
    let Some(document) = syntax::parse(text, source, diags) else { return decoded };
    for node in document.nodes.iter().filter(|n| !n.is_broken()) {
        let mut node = Node::new(node, diags);
        match node.name() {
            "dataset" => decoded.datasets.extend(dataset(&mut node, origin)),
            "model" => decoded.models.extend(model(&mut node, origin)),
            other => {
                let message = format!("a manifest holds `dataset` and `model` nodes, found `{other}`");
                node.error_at_name(message, "not known here", suggest(other, ["dataset", "model"]));
            }
        }
    }
    decoded
}

fn dataset(node: &mut Node<'_, '_>, origin: &Origin) -> Option<DatasetManifest> {
    let name = node.argument("the data set's name").and_then(|n| plain_name(node, n));
    let summary = node.required_string("summary");
    let license = node.required_string("license");
    let homepage = node.string("homepage");
    let columns = node.child("columns").map(|n| columns(node, n)).unwrap_or_default();
    let fields = node.child("fields").map(|n| fields(node, n, &columns));
    let archives = archives(node);
    let mut splits = IndexMap::new();
    for child in node.children_named("split") {
        let Some(split) = node.within(child, |n| split(n, &columns, fields.as_ref(), &archives)) else { continue };
        if let Some(earlier) = splits.insert(split.name.value.clone(), split) {
            node.duplicate(&format!("split `{}`", earlier.name.value), earlier.name.span, child);
        }
    }
    if splits.is_empty() && !node.has_child("split") {
        node.error_at_name("a data set needs at least one `split`".into(), "no `split` inside", None);
    }
    let unmapped: Vec<&str> = columns
        .keys()
        .map(String::as_str)
        .filter(|c| splits.values().all(|s: &Split| !s.fields.contains_key(*c)))
        .collect();
    if !unmapped.is_empty() && !splits.is_empty() {
        let message = format!("no split gives {}", list(&unmapped));
        node.error_at_name(message, "declared in `columns`", Some("map it in `fields`, or drop the column".into()));
    }
    node.finish();
    Some(DatasetManifest {
        name: name?,
        summary: summary?.value,
        license: license?.value,
        homepage: homepage.map(|h| h.value),
        columns,
        splits,
        archives,
        origin: origin.clone(),
    })
    .filter(|_| !node.failed())
}

fn columns(parent: &mut Node<'_, '_>, child: &syntax::Node) -> IndexMap<String, Column> {
    parent.within(child, |node| {
        let mut columns = IndexMap::new();
        for child in node.distinct_children() {
            node.within(child, |n| {
                let kind = n.argument("the column's type").and_then(|k| n.choice(&k, ColumnKind::NAMES));
                let doc = n.string("doc").map(|d| d.value).unwrap_or_default();
                if let Some(kind) = kind {
                    columns.insert(n.name().to_string(), Column { kind, doc });
                }
                n.finish();
            });
        }
        node.finish();
        columns
    })
}

/// Our name -> theirs.
type FieldMap = IndexMap<String, String>;

/// `fields { ours "theirs" }`.
fn fields(parent: &mut Node<'_, '_>, child: &syntax::Node, columns: &IndexMap<String, Column>) -> FieldMap {
    parent.within(child, |node| {
        let mut fields = IndexMap::new();
        for child in node.distinct_children() {
            node.within(child, |n| {
                let (ours, theirs) = (n.name(), n.argument("the field's name in the source"));
                if !columns.contains_key(ours) {
                    let help = suggest(ours, columns.keys().map(String::as_str));
                    n.error_at_name(format!("`{ours}` is not in `columns`"), "mapped here", help);
                } else if let Some(theirs) = theirs {
                    fields.insert(ours.to_string(), theirs.value);
                }
                n.finish();
            });
        }
        node.finish();
        fields
    })
}

fn split(
    node: &mut Node<'_, '_>,
    columns: &IndexMap<String, Column>,
    shared: Option<&FieldMap>,
    archives: &IndexMap<String, FileSpec>,
) -> Option<Split> {
    let name = node.argument("the split's name");
    let doc = node.string("doc").map(|d| d.value).unwrap_or_default();
    let rows = node.unsigned("rows");
    let own = node.child("fields").map(|n| fields(node, n, columns));
    let mut files = Vec::new();
    for child in node.children_named("file") {
        files.extend(node.within(child, |n| file(n, archives, true)));
    }
    if files.is_empty() && !node.has_child("file") {
        node.error_at_name("a split needs at least one `file`".into(), "no `file` inside", None);
    }
    let fields = mapping(columns, shared, own);
    node.finish();
    Some(Split { name: name?, doc, rows: rows.map(|r| r.value), files, fields }).filter(|_| !node.failed())
}

/// The split's own mapping over the data set's; without either, every column comes from a field of its name.
fn mapping(columns: &IndexMap<String, Column>, shared: Option<&FieldMap>, own: Option<FieldMap>) -> FieldMap {
    let mut all: FieldMap = match (shared, &own) {
        (None, None) => columns.keys().map(|c| (c.clone(), c.clone())).collect(),
        (shared, _) => shared.cloned().unwrap_or_default(),
    };
    all.extend(own.unwrap_or_default());
    // In the order of `columns`, so that every split's schema has one order.
    columns.keys().filter_map(|c| all.get(c).map(|theirs| (c.clone(), theirs.clone()))).collect()
}

fn model(node: &mut Node<'_, '_>, origin: &Origin) -> Option<ModelManifest> {
    let name = node.argument("the model's name").and_then(|n| plain_name(node, n));
    let summary = node.required_string("summary");
    let license = node.required_string("license");
    let homepage = node.string("homepage");
    let kind = node.required_string("kind").and_then(|k| node.choice(&k, WeightsKind::NAMES));
    let architecture = node.required_string("architecture");
    let context = node.required_unsigned("context").and_then(|c| match u32::try_from(c.value) {
        Ok(context) if context > 0 => Some(context),
        _ => {
            node.error(format!("`context` must be from 1 to {}, found {}", u32::MAX, c.value), c.span, "here", None);
            None
        }
    });
    let parameters = node.required_unsigned("parameters");
    let chat_template = node.boolean("chat-template");
    let archives = archives(node);
    let mut files: Vec<FileSpec> = Vec::new();
    for child in node.children_named("file") {
        let Some(file) = node.within(child, |n| file(n, &archives, false)) else { continue };
        match files.iter().find(|f| f.name.value == file.name.value) {
            Some(earlier) => node.duplicate(&format!("file `{}`", file.name.value), earlier.name.span, child),
            None => files.push(file),
        }
    }
    let weights = |f: &FileSpec| match kind {
        Some(WeightsKind::Gguf) => f.name.value.ends_with(".gguf"),
        _ => f.name.value.ends_with(".safetensors"),
    };
    if !node.failed() && !files.iter().any(weights) {
        let extension = if kind == Some(WeightsKind::Gguf) { ".gguf" } else { ".safetensors" };
        let message = format!("a model of this kind needs a `file` that ends in `{extension}`");
        node.error_at_name(message, "no weights inside", None);
    }
    node.finish();
    Some(ModelManifest {
        name: name?,
        summary: summary?.value,
        license: license?.value,
        homepage: homepage.map(|h| h.value),
        kind: kind?,
        architecture: architecture?.value,
        context: context?,
        parameters: parameters?.value,
        chat_template: chat_template.is_some_and(|c| c.value),
        files,
        archives,
        origin: origin.clone(),
    })
    .filter(|_| !node.failed())
}

fn archives(node: &mut Node<'_, '_>) -> IndexMap<String, FileSpec> {
    let mut archives: IndexMap<String, FileSpec> = IndexMap::new();
    for child in node.children_named("archive") {
        let Some(archive) = node.within(child, |n| file(n, &IndexMap::new(), false)) else { continue };
        let name = archive.name.value.clone();
        if let Some(earlier) = archives.insert(name.clone(), archive) {
            node.duplicate(&format!("archive `{name}`"), earlier.name.span, child);
        }
    }
    archives
}

fn file(node: &mut Node<'_, '_>, archives: &IndexMap<String, FileSpec>, rows: bool) -> Option<FileSpec> {
    let name = node.argument("the file's name").and_then(|n| relative_name(node, n));
    let mut content = content(node);
    content.format = content.format.or_else(|| name.as_ref().and_then(|n| Format::of_name(&n.value)));
    if let Some(name) = name.as_ref().filter(|_| rows && content.format.is_none()) {
        let names: Vec<&str> = Format::NAMES.iter().map(|(n, _)| *n).collect();
        let message = format!("the name `{}` does not tell the format", name.value);
        let help = format!("add `format=` with one of {}", list(&names));
        node.error(message, name.span, "no known extension", Some(help));
    }
    let mut offers = Vec::new();
    for child in node.all_children() {
        if !CONTENT.contains(&child.name.value.as_str()) {
            offers.extend(node.within(child, |n| offer(n, archives, rows)));
        }
    }
    if offers.is_empty() && !node.failed() {
        let help = "say where it comes from: `path`, `hub`, `url`, `package`, `concat` or `archive`";
        node.error_at_name("a file needs at least one source".into(), "no source inside", Some(help.into()));
    }
    node.finish();
    Some(FileSpec { name: name?, content, offers }).filter(|_| !node.failed())
}

/// The names that [`content`] reads.
const CONTENT: &[&str] = &["format", "bytes", "sha256"];

fn content(node: &mut Node<'_, '_>) -> Content {
    Content {
        format: node.string("format").and_then(|f| node.choice(&f, Format::NAMES)),
        bytes: node.unsigned("bytes").map(|b| b.value),
        sha256: node.string("sha256").and_then(|s| checksum(node, s)),
    }
}

/// A source of a file. One of rows may hold them in another format, with a size and checksum of its own.
fn offer(node: &mut Node<'_, '_>, archives: &IndexMap<String, FileSpec>, rows: bool) -> Option<Offer> {
    let other = rows.then(|| content(node)).filter(|c| *c != Content::default());
    if other.as_ref().is_some_and(|c| c.format.is_none()) {
        let message = "`bytes` and `sha256` stand on the `file`, but for a source with a `format` of its own";
        node.error_at_name(message.into(), "no `format` here", None);
    }
    let source = source(node, archives)?;
    Some(Offer { source, other_content: other })
}

fn source(node: &mut Node<'_, '_>, archives: &IndexMap<String, FileSpec>) -> Option<Source> {
    const KINDS: &[&str] = &["path", "hub", "url", "package", "archive", "concat"];
    let source = match node.name() {
        "path" => node.argument("a path").map(|p| Source::Path { path: p.value, span: p.span }),
        "url" => node.argument("a URL").and_then(|u| web_address(node, u)).map(Source::Url),
        "hub" => hub(node),
        "package" => package(node),
        "archive" => archive_member(node, archives),
        "concat" => {
            let mut parts = Vec::new();
            for child in node.all_children().iter().filter(|c| !CONTENT.contains(&c.name.value.as_str())) {
                parts.extend(node.within(child, |n| source(n, archives)));
            }
            if parts.len() < 2 && !node.failed() {
                node.error_at_name("`concat` needs at least two sources".into(), "too few inside", None);
            }
            Some(Source::Concat(parts))
        }
        other => {
            let message = format!("unknown source `{other}`, expected one of {}", list(KINDS));
            let near = suggest(other, KINDS.iter().copied());
            node.error_at_name(message, "not a source", near);
            return None;
        }
    };
    node.finish();
    source.filter(|_| !node.failed())
}

fn archive_member(node: &mut Node<'_, '_>, archives: &IndexMap<String, FileSpec>) -> Option<Source> {
    let archive = node.argument("the name of an `archive` of this manifest");
    let member = node.required_string("member");
    let archive = archive?;
    if !archives.contains_key(&archive.value) {
        let help = suggest(&archive.value, archives.keys().map(String::as_str));
        node.error(format!("no archive `{}` in this manifest", archive.value), archive.span, "not declared", help);
        return None;
    }
    Some(Source::Archive { archive: archive.value, member: member?.value })
}

fn hub(node: &mut Node<'_, '_>) -> Option<Source> {
    let id = node.argument("a repository, `org/name`").and_then(|id| {
        let parts: Vec<&str> = id.value.split('/').collect();
        let fine = parts.len() == 2 && parts.iter().all(|p| is_plain(p));
        if !fine {
            node.error(format!("a hub repository is `org/name`, found `{}`", id.value), id.span, "here", None);
        }
        fine.then_some(id.value)
    });
    let file = node.required_string("file").and_then(|f| relative_name(node, f));
    let revision = node.string("revision").map(|r| relative_name(node, r).map(|r| r.value));
    let kind = node.string("repo-type").map(|k| node.choice(&k, RepoKind::NAMES));
    let revision = revision.unwrap_or_else(|| Some("main".into()))?;
    Some(Source::Hub { repo: kind.unwrap_or(Some(RepoKind::Model))?, id: id?, revision, file: file?.value })
}

fn package(node: &mut Node<'_, '_>) -> Option<Source> {
    // Both end up on pip's command line: a leading dash would be read as an option.
    let word = |node: &mut Node<'_, '_>, word: Spanned<String>, what: &str, extra: &str| {
        let fine = word.value.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.value.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c) || extra.contains(c));
        if !fine {
            node.error(format!("`{}` is not {what}", word.value), word.span, "here", None);
        }
        fine.then_some(word.value)
    };
    let name = node.argument("a package's name").and_then(|n| word(node, n, "a package's name", ""));
    let version = node.required_string("version").and_then(|v| word(node, v, "an exact version", "+!"));
    let member = node.required_string("member");
    Some(Source::Package { name: name?, version: version?, member: member?.value })
}

fn checksum(node: &mut Node<'_, '_>, sum: Spanned<String>) -> Option<String> {
    let fine = sum.value.len() == 64 && sum.value.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    if !fine {
        let message =
            format!("`sha256` must be 64 lower-case hex digits, found {} characters", sum.value.chars().count());
        node.error(message, sum.span, "here", Some("leave it out where it is not known: `fetch` then warns".into()));
    }
    fine.then_some(sum.value)
}

fn web_address(node: &mut Node<'_, '_>, url: Spanned<String>) -> Option<String> {
    let problem = match reqwest::Url::parse(&url.value) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") => return Some(url.value),
        Ok(parsed) => format!("`url` takes http and https, found `{}:`", parsed.scheme()),
        Err(e) => format!("not a URL: {e}"),
    };
    node.error(problem, url.span, "here", None);
    None
}

/// A name that is also a folder of the cache.
fn plain_name(node: &mut Node<'_, '_>, name: Spanned<String>) -> Option<Spanned<String>> {
    let fine = is_plain(&name.value);
    if !fine {
        let message = format!("a manifest's name is made of letters, digits, `-`, `_` and `.`, found `{}`", name.value);
        node.error(message, name.span, "here", None);
    }
    fine.then_some(name)
}

/// A path that stays inside the folder it is joined to.
fn relative_name(node: &mut Node<'_, '_>, name: Spanned<String>) -> Option<Spanned<String>> {
    let inside = name.value.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    let fine = inside && !name.value.contains('\\') && !name.value.contains(':') && !name.value.contains('\0');
    if !fine {
        let message = format!("this must be a plain relative path, found `{}`", name.value);
        node.error(message, name.span, "here", None);
    }
    fine.then_some(name)
}

/// Letters, digits, `-`, `_`, `.`, and neither `.` nor `..`.
pub fn is_plain(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.chars().all(known) && name.chars().any(|c| c != '.')
}
