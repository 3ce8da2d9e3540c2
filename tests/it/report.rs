//! The page of a run, through the binary.

use super::common::{Sandbox, lines};
use std::collections::HashSet;

const PIPELINE: &str = r#"
pipeline "page" seed=3 { doc "Rows, <b>twice</b>"; }
param "least" type="int" default=2 { doc "The least n" }
matrix "halves" { half "2" "3" }
load "rows" path="rows.jsonl" tolerance=1.0
filter "some" matrix="halves" from="rows" where="n % ${half} = 0 AND n >= ${least}"
summarize "counts" matrix="halves" from="some" { value "rows" fn="count" }
table "sizes" from="counts" title="Rows of each half"
plot "chart" kind="bar" from="counts" x="half" y="rows"
concat "all" { from "some" }
write "kept" from="all" path="kept <1>.parquet"
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("page.kdl", PIPELINE);
    let hostile = "{\"question\":\"<script>alert(1)</script>\",\"answer\":\"</details>\",\"n\":6}\n";
    sandbox.write("rows.jsonl", format!("{hostile}{}not json <script>\n", lines(200)));
    sandbox
}

/// The values of an attribute, in order.
fn values<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    html.split(&start).skip(1).map(|rest| rest.split('"').next().expect("there is a first part")).collect()
}

#[track_caller]
fn text(sandbox: &Sandbox, name: &str) -> String {
    String::from_utf8(sandbox.read(name)).expect("a page is UTF-8")
}

#[test]
fn one_page_says_it_all_and_needs_nothing_else() {
    let s = sandbox();
    s.run(&["run", "page.kdl", "-P", "least=3", "--report"]).exits(0).says(&["report      runs/page/report.html"]);
    let html = text(&s, "runs/page/report.html");
    for part in [
        "Rows, &lt;b&gt;twice&lt;&#x2f;b&gt;",
        "<caption>Rows of each half</caption>",
        "data:image&#x2f;svg+xml,",
        "&lt;script&gt;alert(1)&lt;&#x2f;script&gt;",
        "Made from",
        "not json &lt;script&gt;",
        "set on the command line",
        "kept &lt;1&gt;.parquet",
        "load &quot;rows&quot; path=",
        env!("CARGO_PKG_VERSION"),
        "2 × half",
    ] {
        assert!(html.contains(part), "{part}");
    }
    let ids = values(&html, "id");
    assert_eq!(ids.len(), ids.iter().collect::<HashSet<_>>().len(), "every id is there once");
    for href in values(&html, "href") {
        match href.strip_prefix('#') {
            Some(id) => assert!(ids.contains(&id), "leads nowhere: {href}"),
            None => assert!(href.starts_with(".&#x2f;"), "leads away: {href}"),
        }
    }
    assert!(values(&html, "src").iter().all(|src| src.starts_with("data:image&#x2f;")));
    assert_eq!((html.matches("<script").count(), html.matches("http:").count()), (1, 0));
    // By the folder, by the file, and again: the same bytes.
    s.run(&["report", "runs/page"]).exits(0).says(&["wrote runs/page/report.html"]);
    assert_eq!(text(&s, "runs/page/report.html"), html);
    s.run(&["report", "page.kdl"]).exits(0);
    assert_eq!(text(&s, "runs/page/report.html"), html);
    // Elsewhere there are no files beside it.
    let elsewhere = s.run(&["report", "runs/page", "-o", "-"]).exits(0).stdout;
    assert!(!elsewhere.contains("href=\".&#x2f;") && elsewhere.contains("kept &lt;1&gt;.parquet"));
    let none = s.run(&["report", "runs/page", "--samples", "0", "--json"]).exits(0).stdout;
    let none: serde_json::Value = serde_json::from_str(&none).unwrap();
    assert_eq!((none["pipeline"].as_str(), none["quarantine"]["total"].as_str()), (Some("page"), Some("1")));
    assert!(none["groups"].as_array().unwrap().iter().all(|g| g["samples"].as_array().unwrap().is_empty()));
}

#[test]
fn a_page_of_a_run_that_failed_says_what_failed() {
    let s = sandbox();
    s.write("page.kdl", PIPELINE.replace("tolerance=1.0", "tolerance=0.0").replace("n % ", "5 / (n - 6) % "));
    s.run(&["run", "page.kdl", "--report", "--quiet"]);
    let account: serde_json::Value = serde_json::from_str(&text(&s, "runs/page/run.json")).unwrap();
    assert_ne!(account["outcome"], "done");
    let html = text(&s, "runs/page/report.html");
    assert!(html.contains("more than tolerated") || html.contains("id=\"problems\""));
}

#[test]
fn a_page_needs_a_run() {
    let s = sandbox();
    s.run(&["report", "runs/page"]).exits(2).says(&["error[no-run]", "run.json"]);
    s.run(&["report", "page.kdl"]).exits(2).says(&["`runs/page` is not the folder of a run"]);
    s.write("wrong.kdl", "pipeline \"p\" {");
    s.run(&["report", "wrong.kdl"]).exits(2).says(&["error"]);
    s.write("runs/page/run.json", "{\"format\": 99}");
    s.run(&["report", "runs/page"]).exits(2).says(&["error[run-format]", "format 99"]);
    s.write("runs/page/run.json", "{\"format\": 1}");
    s.run(&["report", "runs/page"]).exits(2).says(&["error[run-format]"]);
    s.run(&["run", "page.kdl"]).exits(0);
    s.run(&["report", "runs/page", "--store", "nowhere"]).exits(2).says(&["no store at `nowhere`"]);
    std::fs::remove_dir_all(s.path(".idiolect")).unwrap();
    s.run(&["report", "runs/page"]).exits(0).says(&["the page has no tables, charts and rows"]);
    assert!(text(&s, "runs/page/report.html").contains("its output is not in the store"));
}
