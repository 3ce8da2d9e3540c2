//! Memory is bounded by the configuration and not by the data.

use super::common::Sandbox;
use std::io::Write;

const ROWS: usize = 1_000_000;

/// A million problems of about 350 bytes and a small table of topics.
fn sandbox() -> Sandbox {
    let s = Sandbox::new();
    let file = std::fs::File::create(s.path("rows.jsonl")).unwrap();
    let mut file = std::io::BufWriter::new(file);
    let words = "the quick brown fox gives seven apples to each of three friends and keeps the rest for the winter ";
    for i in 0..ROWS {
        let text = words.repeat(1 + i % 4);
        writeln!(file, r#"{{"question":"{i}: {text}","answer":"{}","topic":"t{}","n":{i}}}"#, i * 7, i % 500).unwrap();
    }
    file.flush().unwrap();
    s.write(
        "topics.csv",
        "topic,level\n".to_string() + &(0..500).map(|i| format!("t{i},{}\n", i % 9)).collect::<String>(),
    );
    s.write(
        "p.kdl",
        r#"
pipeline "p" { doc "A million rows" }
run { batch-rows 1024; channel-batches 4; memory "64MiB"; stages 4 }
load "rows" path="rows.jsonl"
load "topics" path="topics.csv"
filter "some" from="rows" where="n % 10 <> 3"
join "rated" left="some" right="topics" on="topic"
write "file" from="rated" path="rated.parquet"
"#,
    );
    s
}

#[test]
fn a_million_rows_in_bounded_memory() {
    let s = sandbox();
    let input = std::fs::metadata(s.path("rows.jsonl")).unwrap().len();
    let (ran, peak) = s.run_measured(&["run", "p.kdl"]);
    ran.exits(0).says(&["5 nodes run"]);
    let ended = s.events("runs/p").into_iter().find(|e| e["event"] == "node_finished" && e["node"] == "rated").unwrap();
    assert_eq!(ended["counts"]["rows_out"], 900_000);
    println!("{} MiB of rows, peak memory {} MiB", input >> 20, peak >> 20);
    assert!(input > 230 << 20, "the input must be larger than the bound: {input}");
    assert!(peak < BOUND, "peak memory {} MiB", peak >> 20);
}

/// What a run of five nodes may take with the options above: the binary itself, for each node a slab in the making
/// (8 MiB of rows, as held, as joined and as encoded), edges of four batches, and `memory`.
const BOUND: u64 = 230 << 20;
