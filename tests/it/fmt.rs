//! `idiolect fmt`.

use crate::common::{Ran, Sandbox};
use std::io::Write;
use std::process::Stdio;

const LOOSE: &str = "pipeline   \"p\"\r\nload rows path=x{limit 5;}   // why\n\n\n\nwrite \"out\"   from = \"rows\"\n";
const FORMATTED: &str = "pipeline \"p\"\nload \"rows\" path=\"x\" { limit 5 } // why\n\nwrite \"out\" from=\"rows\"\n";

#[test]
fn files_are_formatted_in_place_once() {
    let sandbox = Sandbox::new();
    sandbox.write("a.kdl", LOOSE);
    sandbox.run(&["fmt", "a.kdl"]).exits(0);
    assert_eq!(String::from_utf8_lossy(&sandbox.read("a.kdl")), FORMATTED);
    sandbox.run(&["fmt", "a.kdl"]).exits(0);
    assert_eq!(sandbox.read("a.kdl"), FORMATTED.as_bytes());
    assert_eq!(sandbox.tree(".").len(), 1, "nothing is left beside the file");
}

#[test]
fn check_names_what_would_change_and_changes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("loose.kdl", LOOSE);
    sandbox.write("fine.kdl", FORMATTED);
    let ran =
        sandbox.run(&["fmt", "--check", "fine.kdl", "loose.kdl"]).exits(1).says(&["1 file is not formatted", "hint:"]);
    assert_eq!(ran.stdout, "loose.kdl\n");
    assert_eq!(sandbox.read("loose.kdl"), LOOSE.as_bytes());
    sandbox.run(&["fmt", "--check", "fine.kdl"]).exits(0);
}

#[test]
fn wrong_files_stay_and_do_not_keep_others_from_being_formatted() {
    let sandbox = Sandbox::new();
    sandbox.write("wrong.kdl", "load \"rows\" {\n");
    sandbox.write("bytes.kdl", b"load \"\xff\"\n");
    sandbox.write("loose.kdl", LOOSE);
    let ran = sandbox.run(&["fmt", "wrong.kdl", "bytes.kdl", "missing.kdl", "loose.kdl"]).exits(2);
    ran.says(&["unclosed-block", "wrong.kdl:1:13", "not UTF-8", "missing.kdl"]);
    assert_eq!(sandbox.read("wrong.kdl"), b"load \"rows\" {\n");
    assert_eq!(sandbox.read("loose.kdl"), FORMATTED.as_bytes());
}

#[test]
fn standard_input_goes_to_standard_output() {
    let sandbox = Sandbox::new();
    let mut child =
        sandbox.command(&["fmt", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut stdin = child.as_mut().expect("the binary starts").stdin.take().expect("a pipe");
    stdin.write_all(LOOSE.as_bytes()).expect("the binary reads");
    drop(stdin);
    let ran: Ran = child.and_then(|c| c.wait_with_output()).expect("the binary ends").into();
    assert_eq!(ran.exits(0).stdout, FORMATTED);
}

#[test]
fn a_folder_stands_for_the_pipelines_below_it() {
    let sandbox = Sandbox::new();
    sandbox.write("all/a.kdl", LOOSE);
    sandbox.write("all/below/b.kdl", LOOSE);
    sandbox.write("all/notes.txt", LOOSE);
    let ran = sandbox.run(&["fmt", "--check", "all"]).exits(1);
    assert_eq!(ran.stdout, "all/a.kdl\nall/below/b.kdl\n");
    sandbox.run(&["fmt", "all"]).exits(0);
    assert_eq!(sandbox.read("all/below/b.kdl"), FORMATTED.as_bytes());
    assert_eq!(sandbox.read("all/notes.txt"), LOOSE.as_bytes());
}
