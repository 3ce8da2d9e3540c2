//! Pages of runs that tests make by hand: hostile texts, sweeps, quarantine, training, and what is no longer there.

use super::model::Page;
use super::*;
use crate::exec::{Counts, Ending, NodeInfo, OutputInfo, Rejected, TextInfo};
use crate::plan::{Fingerprint, NodeName};
use crate::report::grid::{Grid, Head, Legend, Mark};
use crate::store::manifest::{InputRef, columns};
use crate::store::{ArtifactWriter, Commit, row_bytes};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

const HOSTILE: &str =
    "</div></details><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='alert(3)' {{ 7777 * 7 }} &amp;";

/// A store, and a run whose nodes are added one by one.
struct Place {
    _dir: tempfile::TempDir,
    store: Store,
    info: RunInfo,
}

fn texts(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Rows `r:0`, `r:1`... with a text each.
fn rows(n: usize, column: &str, text: impl Fn(usize) -> String) -> RecordBatch {
    let id = texts((0..n).map(|i| format!("r:{i}")));
    RecordBatch::try_from_iter([("id", id), (column, texts((0..n).map(text)))]).unwrap()
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let info = RunInfo {
            format: crate::exec::RUN_FORMAT,
            idiolect: "1.2.3".into(),
            pipeline: "p".into(),
            doc: String::new(),
            seed: 7,
            started: "2026-01-02T03:04:05.678Z".into(),
            outcome: "done".into(),
            seconds: 61.0,
            out: dir.path().join("out"),
            store: store.root().to_path_buf(),
            params: Vec::new(),
            options: Vec::new(),
            environment: Vec::new(),
            models: Vec::new(),
            teachers: Vec::new(),
            texts: Vec::new(),
            nodes: Vec::new(),
        };
        Self { _dir: dir, store, info }
    }

    /// Adds a node that ran, with one output.
    fn node(
        &mut self,
        name: NodeName,
        op: &str,
        inputs: &[usize],
        (output, batch): (&str, RecordBatch),
        more: impl FnOnce(&ArtifactWriter),
    ) -> usize {
        let fingerprint = Fingerprint(blake3::hash(name.to_string().as_bytes()).to_hex().to_string());
        let input = |at: &usize| {
            let from = &self.info.nodes[*at];
            InputRef {
                port: "from".into(),
                node: from.name.clone(),
                fingerprint: from.fingerprint.clone(),
                output: from.outputs[0].name.clone(),
            }
        };
        let inputs: Vec<InputRef> = inputs.iter().map(input).collect();
        let session = self.store.session(&Default::default()).unwrap();
        let writer = session.begin(&fingerprint, &[(output, batch.schema())]).unwrap();
        writer.push(0, &batch, &row_bytes(&batch)).unwrap();
        more(&writer);
        let artifact = writer
            .commit(Commit {
                pipeline: "p".into(),
                node: name.clone(),
                op: op.into(),
                op_version: 1,
                ingredients: Default::default(),
                inputs: inputs.clone(),
                rows_in: 10,
                tokens: 5,
                seconds: 2.0,
            })
            .unwrap();
        let counts = Counts { rows_out: batch.num_rows() as u64, tokens: 5, seconds: 2.0, ..Counts::default() };
        self.info.nodes.push(NodeInfo {
            name,
            op: op.into(),
            op_version: 1,
            doc: None,
            fingerprint,
            ingredients: [("config".to_string(), "{\"a\":1}".to_string()), ("seed".into(), "9".into())].into(),
            seed: 9,
            tolerance: 0.0,
            inputs,
            outputs: vec![OutputInfo { name: output.into(), columns: columns(&batch.schema()) }],
            why: vec!["never run".into()],
            ending: Ending { word: "ran".into(), ..Ending::default() },
            rows_in: 10,
            rows_out: batch.num_rows() as u64,
            quarantined: artifact.manifest.rejected_rows(),
            reasons: artifact.manifest.rejected.clone(),
            beyond_tolerance: false,
            counts: Some(counts),
            files: artifact.files().map(|(name, _)| name.to_string()).collect(),
        });
        self.info.nodes.len() - 1
    }

    fn plain(&mut self, name: &str, inputs: &[usize], batch: RecordBatch) -> usize {
        self.node(NodeName::plain(name), "derive", inputs, ("out", batch), |_| {})
    }

    fn page(&self) -> Page {
        page(&self.info, Some(&self.store), &Options::default())
    }

    /// The page's markup, which is sound.
    fn html(&self) -> String {
        let html = render(&self.page()).unwrap();
        sound(&html);
        html
    }
}

fn swept(base: &str, axis: &str, value: &str) -> NodeName {
    let mut name = NodeName::plain(base);
    name.bindings.0.push((axis.into(), value.into()));
    name
}

/// Every element is one of the templates' and closed where it should be, ids are unique, links lead somewhere on the page
/// or to a file beside it, and nothing names another host.
#[track_caller]
fn sound(html: &str) {
    const VOID: &[&str] = &["meta", "img", "br", "rect", "path", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    let (mut ids, mut targets) = (HashSet::new(), BTreeSet::new());
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>').expect("an element ends");
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closes what is open: {tag}");
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap();
        // What stands between quotes are values; what stands before them are names.
        let pieces: Vec<&str> = tag.split('"').collect();
        let attributes: Vec<(&str, &str)> = pieces
            .chunks_exact(2)
            .map(|pair| (pair[0].rsplit(' ').next().unwrap().trim_end_matches('='), pair[1]))
            .collect();
        assert!(attributes.iter().all(|(name, _)| !name.starts_with("on")), "a handler: {tag}");
        let value = |key: &str| attributes.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        if let Some(id) = value("id") {
            assert!(ids.insert(id), "twice: {id}");
        }
        match value("href") {
            Some(href) if href.starts_with('#') => drop(targets.insert(&href[1..])),
            Some(href) => assert!(href.starts_with(".&#x2f;"), "leads away: {href}"),
            None => {}
        }
        assert!(value("src").is_none_or(|src| src.starts_with("data:image&#x2f;")), "loads something: {tag}");
        if !VOID.contains(&name) {
            open.push(name);
        }
        if name == "script" || name == "style" {
            // What they hold is no markup.
            rest = &rest[rest.find("</").expect("it is closed")..];
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    assert_eq!(html.matches("<script").count(), 1, "the page's own script alone");
    for target in targets {
        assert!(ids.contains(target), "leads nowhere: #{target}");
    }
    for word in ["http:", "https:", "url(", "@import", "javascript:"] {
        assert!(!html.contains(word), "{word}");
    }
}

#[test]
fn hostile_texts_stay_texts() {
    let mut place = Place::new();
    (place.info.pipeline, place.info.doc) = (HOSTILE.into(), HOSTILE.into());
    place.info.texts.push(TextInfo { name: HOSTILE.into(), text: HOSTILE.into() });
    place.info.params.push(crate::exec::Setting { name: HOSTILE.into(), value: HOSTILE.into(), note: HOSTILE.into() });
    let grid = Grid {
        title: Some(HOSTILE.into()),
        columns: vec![Head { label: HOSTILE.into(), above: Some(HOSTILE.into()), ..Head::default() }],
        rows: vec![vec![Some(HOSTILE.into())], vec![None]],
        notes: vec![Some(HOSTILE.into()), None],
        legend: vec![Legend::text(HOSTILE.into())],
        remarks: vec![HOSTILE.into()],
        ..Grid::default()
    };
    let name = swept(HOSTILE, HOSTILE, HOSTILE);
    let file = "a\"><img src=x onerror=alert(1)>.csv";
    let first = place.node(name, HOSTILE, &[], ("out", rows(3, HOSTILE, |_| HOSTILE.into())), |writer| {
        writer.show(&grid);
        std::fs::write(writer.file(file).unwrap(), "x").unwrap();
        std::fs::write(writer.file("plot.svg").unwrap(), format!("<svg xmlns=\"http://x\">{HOSTILE}</svg>")).unwrap();
        let row = serde_json::json!({ HOSTILE: HOSTILE });
        writer.reject(&Rejected { id: HOSTILE.into(), reason: "too-long", message: HOSTILE.into(), row }).unwrap();
    });
    place.node(swept("failed", "x", HOSTILE), "derive", &[first], ("out", rows(3, "more", |_| HOSTILE.into())), |_| {});
    let failed = place.info.nodes.last_mut().unwrap();
    let text = || Some(HOSTILE.to_string());
    failed.ending = Ending { word: "failed".into(), code: text(), message: text(), help: text() };
    (failed.doc, failed.why) = (text(), vec![HOSTILE.into()]);
    failed.ingredients.insert(format!("file:{HOSTILE}"), HOSTILE.into());
    let html = place.html();
    assert!(html.contains("&lt;script&gt;alert(1)") && html.contains("{{ 7777 * 7 }}") && !html.contains("54439"));
    assert!(
        html.contains("href=\".&#x2f;a%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E.csv\""),
        "the file's address"
    );
}

#[test]
fn a_row_is_followed_to_where_it_came_from() {
    let mut place = Place::new();
    let load = place.plain("load", &[], rows(5, "question", |i| format!("question {i}")));
    let left = place.node(
        swept("scored", "style", "a"),
        "derive",
        &[load],
        ("out", rows(5, "score", |i| format!("a{i}"))),
        |_| {},
    );
    let right = place.node(
        swept("scored", "style", "b"),
        "derive",
        &[load],
        ("out", rows(5, "score", |i| format!("b{i}"))),
        |_| {},
    );
    let samples = RecordBatch::try_from_iter([
        ("id", texts(["r:3#1".to_string(), "r:3#2".into()])),
        ("style", texts(["b".to_string(), "b".into()])),
        ("question", texts(["question 3".to_string(), "changed".into()])),
    ])
    .unwrap();
    let last = place.plain("samples", &[left, right], samples);
    let page = place.page();
    let group = &page.groups[place.info.nodes.len() - 2];
    assert_eq!(group.name, "samples");
    let row = &group.samples[0].rows[0];
    assert_eq!((row.id.as_str(), row.place.as_str(), row.row.as_str()), ("r:3#1", "first", "1 of 2"));
    let steps: Vec<(&str, &str, Vec<&str>)> = row
        .lineage
        .iter()
        .map(|s| (s.node.as_str(), s.row.as_str(), s.cells.iter().map(|c| c.text.start.as_str()).collect()))
        .collect();
    assert_eq!(steps, [("load", "r:3", vec!["question 3"]), ("scored[style=b]", "r:3", vec!["b3"])]);
    assert_eq!(place.info.nodes[last].name.base, "samples");
    assert!(place.html().contains("<h5>Made from</h5>"));
}

#[test]
fn long_texts_are_cut_and_say_so() {
    let mut place = Place::new();
    place.plain("long", &[], rows(1, "text", |_| "wörter ".repeat(20_000)));
    let html = place.html();
    assert!(html.len() < 400_000, "{}", html.len());
    assert!(html.contains("more characters</summary>") && html.contains("more characters are in the store"));
}

#[test]
fn tables_and_charts_are_shown_as_they_were() {
    let mut place = Place::new();
    let mut grid = Grid {
        title: Some("Scores".into()),
        columns: vec![
            Head { label: "writer".into(), ..Head::default() },
            Head { label: "mean score †".into(), number: true, above: None },
        ],
        rows: vec![vec![Some("a".into()), Some("1.50".into())], vec![Some("b".into()), None]],
        notes: vec![None, Some("skipped: no file".into())],
        legend: vec![Legend { mark: Mark { behind: true, ..Mark::default() }, text: "far behind".into() }],
        remarks: vec!["2 values are published".into()],
        ..Grid::default()
    };
    grid.set_mark(0, 1, Mark { behind: true, stars: 2, note: Some(1) });
    let rows = rows(2, "writer", |i| i.to_string());
    place.node(NodeName::plain("scores"), "table", &[], ("out", rows.clone()), |w| w.show(&grid));
    place.node(NodeName::plain("chart"), "plot", &[], ("out", rows.slice(0, 0)), |w| {
        std::fs::write(w.file("sub/chart.svg").unwrap(), "<svg/>").unwrap();
        std::fs::write(w.file("sub/chart.png").unwrap(), "png").unwrap();
    });
    place.node(NodeName::plain("older"), "table", &[], ("out", rows), |_| {});
    let page = place.page();
    let shown: Vec<(&str, usize, usize)> =
        page.results.iter().map(|r| (r.title.as_str(), r.tables.len(), r.pictures.len())).collect();
    assert_eq!(shown, [("scores", 1, 0), ("chart", 0, 1), ("older", 1, 0)]);
    assert_eq!(page.results[1].pictures[0].uri, "data:image/svg+xml,%3Csvg%2F%3E");
    let html = place.html();
    let marked = ["<u>1.50</u><sup>**[1]</sup>", "underlined: far behind"];
    let plain = ["<caption>Scores</caption>", "mean score †", "skipped: no file", "2 values are published"];
    for text in plain.into_iter().chain(marked) {
        assert!(html.contains(text), "{text}");
    }
    assert!(html.contains("href=\".&#x2f;sub&#x2f;chart.svg\""));
    let elsewhere = Options { in_run_folder: false, ..Options::default() };
    let html = render(&super::page(&place.info, Some(&place.store), &elsewhere)).unwrap();
    assert!(!html.contains("href=\".&#x2f;"), "a page that lies elsewhere leads to no file");
}

#[test]
fn a_picture_that_is_too_large_is_named() {
    let mut place = Place::new();
    place.node(NodeName::plain("chart"), "plot", &[], ("out", rows(0, "x", |_| String::new())), |w| {
        std::fs::write(w.file("large.svg").unwrap(), vec![b' '; (2 << 20) + 1]).unwrap();
    });
    let page = place.page();
    assert_eq!(page.results[0].remark, "Not on the page, as larger than 2 MiB: large.svg.");
    assert!(place.html().contains("large.svg."));
}

#[test]
fn every_log_by_step_is_drawn() {
    let mut place = Place::new();
    for style in ["a", "b"] {
        let step: ArrayRef = Arc::new(Int64Array::from_iter_values(0..50));
        let loss: ArrayRef = Arc::new(Float64Array::from_iter_values((0..50).map(|i| 3.0 / f64::from(i + 1))));
        let rate: ArrayRef = Arc::new(Float64Array::from_iter_values((0..50).map(|_| 1e-4)));
        let log = RecordBatch::try_from_iter([("step", step), ("loss", loss), ("learning_rate", rate)]).unwrap();
        place.node(swept("train", "style", style), "lora-train", &[], ("log", log), |_| {});
    }
    let page = place.page();
    let alts: Vec<&str> = page.curves[0].pictures.iter().map(|p| p.alt.as_str()).collect();
    assert_eq!((page.curves.len(), alts), (1, vec!["loss by step", "learning_rate by step"]));
    assert!(page.curves[0].pictures[0].uri.contains("train%5Bstyle%3Db%5D"), "a curve for each instance");
    assert!(place.html().contains("id=\"curves\""));
}

#[test]
fn the_quarantine_is_told_by_reason() {
    let mut place = Place::new();
    place.node(NodeName::plain("scored"), "score-ppl", &[], ("out", rows(2, "x", |_| "y".into())), |writer| {
        for i in 0..7 {
            let reason = if i < 5 { "too-long" } else { "null-value" };
            let row =
                Rejected { id: format!("q:{i}"), reason, message: format!("because {i}"), row: Default::default() };
            writer.reject(&row).unwrap();
        }
    });
    place.info.nodes[0].beyond_tolerance = true;
    let page = place.page();
    assert_eq!(page.quarantine.total, "7");
    let told: Vec<(&str, &str, &str, usize)> = page
        .quarantine
        .reasons
        .iter()
        .map(|r| (r.reason.as_str(), r.count.as_str(), r.share.as_str(), r.examples.len()))
        .collect();
    assert_eq!(told, [("too-long", "5", "50.0%", 4), ("null-value", "2", "20.0%", 2)]);
    let html = place.html();
    assert!(html.contains("because 3") && !html.contains("because 4") && html.contains("more than tolerated"));
}

#[test]
fn a_sweep_is_one_section_whatever_its_size() {
    let mut place = Place::new();
    for i in 0..60 {
        let batch = rows(3, "text", |row| format!("{i} {row}"));
        place.node(swept("cell", "set", &i.to_string()), "derive", &[], ("out", batch), |_| {});
    }
    for word in ["failed", "cached", "skipped"] {
        place.info.nodes[7].ending.word = word.into();
        assert_eq!(place.page().groups[0].state, if word == "failed" { "failed" } else { "ran" });
    }
    let page = place.page();
    let group = &page.groups[0];
    assert_eq!((page.groups.len(), group.instances.len(), group.details.len()), (1, 60, 12));
    assert_eq!(
        group.samples.iter().map(|s| s.title.as_str()).collect::<Vec<_>>(),
        ["cell[set=0]", "cell[set=29]", "cell[set=59]"]
    );
    assert_eq!(group.undetailed, "48");
    assert_eq!(group.outputs[0].rows, "180");
    assert!(page.graph_svg.contains("60 × set") && page.graph_svg.contains("href=\"#n0\""));
    place.html();
}

#[test]
fn what_is_gone_is_said_to_be_gone() {
    let mut place = Place::new();
    place.plain("rows", &[], rows(3, "text", |_| "x".into()));
    place.info.outcome = "unfinished".into();
    let html = render(&page(&place.info, None, &Options::default())).unwrap();
    sound(&html);
    assert!(html.contains("its output is not in the store") && html.contains("still at work, or killed"));
    let part = place.store.artifact(&place.info.nodes[0].fingerprint).unwrap();
    let path = part.path(&part.output(0).parts[0].file);
    let size = std::fs::metadata(&path).unwrap().len();
    std::fs::write(&path, vec![0; size as usize]).unwrap();
    assert!(place.html().contains("cannot be read"));
}

#[test]
fn the_same_run_gives_the_same_bytes() {
    let mut place = Place::new();
    let load = place.plain("load", &[], rows(100, "text", |i| i.to_string()));
    place.plain("next", &[load], rows(100, "text", |i| i.to_string()));
    let again = Store::existing(place.store.root()).unwrap();
    assert_eq!(place.html(), render(&page(&place.info, again.as_ref(), &Options::default())).unwrap());
}

/// The policy names the script by its checksum: a change of the one needs a change of the other.
#[test]
fn the_script_is_the_one_that_the_policy_lets_run() {
    use sha2::Digest;
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sum = sha2::Sha256::digest(include_str!("templates/script.js"));
    let bits: String = sum.iter().map(|b| format!("{b:08b}")).collect::<String>() + "00";
    let digit = |chunk: &[u8]| u8::from_str_radix(std::str::from_utf8(chunk).unwrap(), 2).unwrap();
    let text: String = bits.as_bytes().chunks(6).map(|c| char::from(DIGITS[usize::from(digit(c))])).collect();
    assert_eq!(SCRIPT_HASH, format!("sha256-{text}="));
}
