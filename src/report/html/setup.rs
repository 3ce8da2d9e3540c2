//! Configuration, versions, files, and rows in quarantine.

use super::model::{Example, FileRow, Link, NamedText, Quarantine, Reason, Setup};
use super::run::Run;
use super::text::{clean, cut, cut_at, plain, settings};
use crate::exec::{ModelUsed, RunInfo, Setting, TeacherUsed};
use crate::report::words::number;
use crate::size;
use crate::store::Artifact;
use crate::teacher::hosted::usd;
use indexmap::IndexMap;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};

/// Reasons on the page, examples of each, and lines of a quarantine that are looked through for them.
const REASONS: usize = 100;
const EXAMPLES: usize = 4;
const LINES: usize = 100_000;
/// Characters of a pipeline file.
const SOURCE: usize = 200_000;

/// What the run was told, and what it ran with.
pub fn setup(run: &Run<'_>) -> Setup {
    let info = run.info;
    let seed = Setting { name: "seed".into(), value: info.seed.to_string(), note: "fixes every random choice".into() };
    Setup {
        params: settings(&info.params),
        options: settings(&[&[seed], info.options.as_slice()].concat()),
        models: plain(["model", "source", "numbers", "context", "parameters", "digest"], info.models.iter().map(model)),
        teachers: plain(["teacher", "source", "in this run", "digest"], info.teachers.iter().map(teacher)),
        versions: settings(&versions(info)),
        operators: plain(["operator", "version", "nodes"], operators(info)),
        texts: info
            .texts
            .iter()
            .map(|t| NamedText { name: clean(&t.name), text: cut_at(&t.text, SOURCE, 0) })
            .collect(),
    }
}

fn model(m: &ModelUsed) -> [String; 6] {
    let context = m.context.map(|c| format!("{} tokens", number(c.into()))).unwrap_or_default();
    let parameters = m.parameters.map(number).unwrap_or_default();
    [m.name.clone(), m.source.clone(), m.dtype.clone(), context, parameters, m.digest.clone()]
}

fn teacher(t: &TeacherUsed) -> [String; 4] {
    let spent = t.spent.as_ref().map(|s| {
        let tokens = format!("{} tokens in, {} out", number(s.input_tokens), number(s.output_tokens));
        let money = s.money.map_or_else(String::new, |m| format!(", {}", usd(m)));
        format!("{} calls, {tokens}{money}", number(s.calls))
    });
    [t.name.clone(), t.source.clone(), spent.unwrap_or_default(), t.digest.clone()]
}

fn versions(info: &RunInfo) -> Vec<Setting> {
    let engine =
        Setting { name: "idiolect".into(), value: info.idiolect.clone(), note: "the version that ran this".into() };
    std::iter::once(engine).chain(info.environment.iter().cloned()).collect()
}

fn operators(info: &RunInfo) -> Vec<[String; 3]> {
    let mut used: IndexMap<(&str, u32), u64> = IndexMap::new();
    for node in &info.nodes {
        *used.entry((&node.op, node.op_version)).or_default() += 1;
    }
    used.sort_keys();
    used.into_iter().map(|((op, version), n)| [op.to_string(), version.to_string(), number(n)]).collect()
}

/// Files that nodes gave.
pub fn files(run: &Run<'_>, link: impl Fn(&str) -> Link) -> Vec<FileRow> {
    let mut all = Vec::new();
    for (node, info) in run.info.nodes.iter().enumerate() {
        let entries = run.artifacts[node].as_ref().map(|a| a.manifest.files.as_slice()).unwrap_or_default();
        for name in &info.files {
            let entry = entries.iter().find(|e| e.path.strip_prefix("files/") == Some(name));
            all.push(FileRow {
                link: link(name),
                node: clean(&run.name(node)),
                anchor: run.anchor(node),
                size: entry.map(|e| size::show(e.bytes)).unwrap_or_default(),
            });
        }
    }
    all
}

/// Rows in quarantine by node and reason, the most frequent first. Shared nodes count once.
pub fn quarantine(run: &Run<'_>) -> Quarantine {
    let own = |(_, n): &(usize, &crate::exec::NodeInfo)| n.ending.word != "shared" && n.quarantined > 0;
    let nodes: Vec<_> = run.info.nodes.iter().enumerate().filter(own).collect();
    let total: u64 = nodes.iter().map(|(_, n)| n.quarantined).sum();
    let mut reasons: Vec<(u64, usize, String)> = Vec::new();
    for (at, node) in &nodes {
        reasons.extend(node.reasons.iter().map(|(reason, count)| (*count, *at, reason.clone())));
    }
    reasons.sort_by(|a, b| (b.0, a.1).cmp(&(a.0, b.1)));
    let more = reasons.len().saturating_sub(REASONS);
    reasons.truncate(REASONS);
    let mut examples: IndexMap<usize, IndexMap<String, Vec<Example>>> = IndexMap::new();
    for (_, at, _) in &reasons {
        examples.entry(*at).or_insert_with(|| run.artifacts[*at].as_ref().map(read).unwrap_or_default());
    }
    let shown = |(count, at, reason): (u64, usize, String)| {
        let node = &run.info.nodes[at];
        let given = examples.get_mut(&at).and_then(|by_reason| by_reason.swap_remove(&reason)).unwrap_or_default();
        Reason {
            node: clean(&run.name(at)),
            anchor: run.anchor(at),
            reason: clean(&reason),
            count: number(count),
            share: match node.rows_in {
                0 => String::new(),
                rows => format!("{:.1}%", 100.0 * count as f64 / rows as f64),
            },
            beyond: node.beyond_tolerance,
            examples: given,
        }
    };
    Quarantine {
        total: if total == 0 { String::new() } else { number(total) },
        reasons: reasons.into_iter().map(shown).collect(),
        more: if more == 0 { String::new() } else { number(more as u64) },
    }
}

/// The first rows of each reason. What cannot be read gives no example; the counts are known without.
fn read(artifact: &Artifact) -> IndexMap<String, Vec<Example>> {
    let mut by_reason: IndexMap<String, Vec<Example>> = IndexMap::new();
    let wanted = artifact.manifest.rejected.len() * EXAMPLES;
    let Some(file) = artifact.manifest.quarantine.as_ref().and_then(|q| File::open(artifact.path(q)).ok()) else {
        return by_reason;
    };
    for line in BufReader::new(file).lines().take(LINES).map_while(Result::ok) {
        let Ok(row) = serde_json::from_str::<Value>(&line) else { continue };
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_string();
        let examples = by_reason.entry(text("reason")).or_default();
        if examples.len() < EXAMPLES {
            let content = format!("{:#}", row["row"]);
            examples.push(Example { row: clean(&text("id")), message: cut(&text("message")), content: cut(&content) });
        }
        if by_reason.values().map(Vec::len).sum::<usize>() == wanted {
            break;
        }
    }
    by_reason
}
