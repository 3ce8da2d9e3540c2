//! The tutorial is executed: its files are written, its commands run, its exit codes hold.
//!
//! ```` ```LANG,file=NAME ```` writes a file into an empty folder; ```` ```sh ```` runs there and must succeed, or end with the
//! code of ```` ```sh,exit=CODE ````; ```` ```text,stdout ```` and ```` ```text,stderr ```` must be part of what the block before printed.

use std::path::Path;
use std::process::{Command, Output};

struct Block<'a> {
    line: usize,
    info: Vec<&'a str>,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block<'_>> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, line) in markdown.lines().enumerate() {
        match (open, line.strip_prefix("```")) {
            (true, Some("")) => open = false,
            (true, _) => {
                let block = found.last_mut().expect("an open block");
                block.text.push_str(line);
                block.text.push('\n');
            }
            (false, Some(info)) => {
                found.push(Block { line: index + 1, info: info.split(',').collect(), text: String::new() });
                open = true;
            }
            (false, None) => {}
        }
    }
    found
}

fn shell(script: &str, folder: &Path) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_idiolect")).parent().expect("a folder").to_path_buf();
    let path = std::env::join_paths(
        std::iter::once(binary).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )
    .expect("a search path");
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(folder).env("PATH", path);
    command.output().expect("bash runs")
}

#[test]
fn the_tutorial_runs_as_written() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tutorial.md");
    let text = std::fs::read_to_string(page).expect("the tutorial");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut last: Option<Output> = None;
    let mut commands = 0;
    for block in blocks(&text) {
        let place = format!("docs/tutorial.md:{}", block.line);
        let option = |name: &str| block.info.iter().find_map(|i| i.strip_prefix(name));
        if let Some(name) = option("file=") {
            std::fs::write(folder.path().join(name), &block.text).expect("a writable file");
        } else if block.info[0] == "sh" {
            let output = shell(&block.text, folder.path());
            let expected: i32 = option("exit=").map_or(0, |c| c.parse().expect("an exit code"));
            let stderr = String::from_utf8_lossy(&output.stderr);
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(expected), "{place}:\n{}\n{stdout}\n{stderr}", block.text);
            last = Some(output);
            commands += 1;
        } else if block.info[0] == "text" && block.info.len() == 2 {
            let output = last.as_ref().expect("a command before its output");
            let printed = if block.info[1] == "stdout" { &output.stdout } else { &output.stderr };
            let printed = String::from_utf8_lossy(printed);
            for line in block.text.lines().map(str::trim_end).filter(|l| !l.is_empty() && *l != "…") {
                assert!(printed.contains(line), "{place}: not printed: {line}\nprinted:\n{printed}");
            }
        }
    }
    assert!(commands >= 5, "only {commands} commands found");
}
