//! Disks that are full or closed, files that are damaged, rows that are wrong or huge.

use super::common::{Sandbox, lines};

const PIPELINE: &str = r#"
pipeline "p" { doc "Rows through a filter"; }
load "rows" path="rows.jsonl"
filter "some" from="rows" where="n >= 10"
write "kept" from="some" path="kept.jsonl"
"#;

fn sandbox(rows: usize) -> Sandbox {
    let s = Sandbox::new();
    s.write("p.kdl", PIPELINE);
    s.write("rows.jsonl", lines(rows));
    s
}

#[test]
fn a_damaged_part_is_found_set_aside_and_made_again() {
    let s = sandbox(3000);
    s.run(&["run", "p.kdl"]).exits(0);
    let whole = s.parts(".idiolect/store");
    for (name, bytes) in &whole {
        let mut bytes = bytes.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        s.write(&format!(".idiolect/store/artifacts/{name}"), &bytes);
    }
    // A changed reader needs the damaged rows.
    s.write("p.kdl", PIPELINE.replace("kept.jsonl", "other.jsonl"));
    s.run(&["run", "p.kdl"]).exits(0).says(&[
        "warning: the stored output of `some` is damaged",
        "checksum",
        "running it again",
    ]);
    assert_eq!(s.read("runs/p/other.jsonl"), s.read("runs/p/kept.jsonl"));
    assert!(s.path(".idiolect/store/broken").read_dir().unwrap().count() > 0);
    // The first pipeline's file is whole; the parts of its nodes are made again where somebody reads them.
    s.run(&["store", "gc", "--broken"]).exits(0).says(&["freed"]);
    s.write("p.kdl", PIPELINE);
    s.run(&["run", "p.kdl"]).exits(0);
    s.run(&["store", "gc", "--broken", "--dry-run"]).exits(0).says(&["nothing to remove"]);
}

#[test]
fn a_cut_part_or_manifest_is_as_good_as_none() {
    let s = sandbox(100);
    s.run(&["run", "p.kdl"]).exits(0);
    for (name, bytes) in s.tree(".idiolect/store/artifacts") {
        if name.ends_with("manifest.json") {
            s.write(&format!(".idiolect/store/artifacts/{name}"), &bytes[..bytes.len() / 2]);
        }
    }
    s.run(&["run", "p.kdl"]).exits(0).says(&["is damaged", "3 nodes run"]);
    s.run(&["run", "p.kdl"]).exits(0).says(&["everything is cached"]);
}

#[test]
fn a_full_disk_is_told_and_the_same_command_goes_on_when_there_is_room() {
    let s = sandbox(20_000);
    let ran = s.run_on_a_full_disk(&["run", "p.kdl"], 100_000).exits(1);
    ran.says(&["error[disk-full]", "run the same command again"]);
    assert!(!s.path("runs/p/kept.jsonl").exists(), "no half file");
    s.run(&["run", "p.kdl"]).exits(0);
    let undisturbed = sandbox(20_000);
    undisturbed.run(&["run", "p.kdl"]).exits(0);
    assert_eq!(s.read("runs/p/kept.jsonl"), undisturbed.read("runs/p/kept.jsonl"));
    assert_eq!(s.parts(".idiolect/store"), undisturbed.parts(".idiolect/store"));
}

#[test]
fn a_disk_too_full_for_the_store_itself_is_told() {
    let s = sandbox(10);
    s.run_on_a_full_disk(&["run", "p.kdl"], 10).exits(1).says(&["error[disk-full]"]);
}

#[test]
fn a_store_that_cannot_be_one_is_told() {
    let s = sandbox(10);
    s.write("file", "x");
    s.run(&["run", "p.kdl", "--store", "file"]).exits(1).says(&["a store is a folder", "--store DIR"]);
    s.run(&["run", "p.kdl", "--store", "file/below"]).exits(1).says(&["a store is a folder"]);
    s.write("mine/thesis.txt", "x");
    s.run(&["run", "p.kdl", "--store", "mine"]).exits(1).says(&["holds other files", "thesis.txt"]);
    s.run(&["run", "p.kdl", "--out", "file"]).exits(1).says(&["cannot create the run folder `file`"]);
    assert_eq!(s.read("file"), b"x");
}

#[test]
fn a_store_without_write_permission_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let s = sandbox(10);
    std::fs::create_dir(s.path("closed")).unwrap();
    std::fs::set_permissions(s.path("closed"), std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(s.path("closed/probe"), "").is_ok() {
        // Root may write everywhere; as root, a file system that is read-only for everybody stands for it.
        let ran = s.run(&["run", "p.kdl", "--store", "/proc/store"]).exits(1);
        assert!(ran.stderr.contains("cannot create the store `/proc/store`"), "{}", ran.stderr);
        return;
    }
    let ran = s.run(&["run", "p.kdl", "--store", "closed/store"]).exits(1);
    ran.says(&["error[no-permission]", "--store DIR"]);
}

#[test]
fn wrong_rows_leave_with_a_reason_and_the_others_go_on() {
    let s = sandbox(20);
    let mut bytes = lines(20).into_bytes();
    bytes.extend(b"{\"question\": \"cut of\n");
    bytes.extend(b"{\"question\":\"\xff\xfe\",\"answer\":\"not UTF-8\",\"n\":30}\n");
    bytes.extend(b"{\"question\":\"fine\",\"answer\":\"again\",\"n\":31}\n");
    s.write("rows.jsonl", &bytes);
    let ran = s.run(&["run", "p.kdl"]).exits(3);
    ran.says(&["quarantine", "`rows`", "tolerance", "quarantine.jsonl"]);
    let quarantine = String::from_utf8(s.read("runs/p/quarantine.jsonl")).unwrap();
    assert_eq!(quarantine.lines().count(), 2, "{quarantine}");
    for line in quarantine.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(row["node"], "rows");
        assert!(!row["message"].as_str().unwrap().is_empty() && !row["reason"].as_str().unwrap().is_empty());
    }
    assert_eq!(String::from_utf8(s.read("runs/p/kept.jsonl")).unwrap().lines().count(), 11);
    // The rows are the same when cached, and so is the exit code; a tolerance is no reason to run again.
    s.run(&["run", "p.kdl"]).exits(3).says(&["everything is cached"]);
    s.write("p.kdl", PIPELINE.replace("path=\"rows.jsonl\"", "path=\"rows.jsonl\" tolerance=0.1"));
    s.run(&["run", "p.kdl"]).exits(0).says(&["everything is cached", "2 of 23 rows"]);
}

#[test]
fn rows_of_ten_megabytes_are_rows_and_pass_in_bounded_memory() {
    const LARGE: usize = 40;
    let s = sandbox(20);
    let big = "x".repeat(10 << 20);
    let row = |n: usize| format!("{{\"question\":\"{big}\",\"answer\":\"a\",\"n\":{n}}}\n");
    s.write("rows.jsonl", lines(20) + &(0..LARGE).map(|i| row(100 + i)).collect::<String>() + &lines(20));
    let (ran, peak) = s.run_measured(&["run", "p.kdl", "--channel-batches", "1"]);
    ran.exits(0);
    let kept = s.read("runs/p/kept.jsonl");
    assert_eq!(kept.iter().filter(|b| **b == b'\n').count(), 10 + LARGE + 10);
    assert!(kept.len() > LARGE * (10 << 20));
    assert!(peak < 380 << 20, "peak memory {} MiB for {LARGE} rows of 10 MiB", peak >> 20);
}
