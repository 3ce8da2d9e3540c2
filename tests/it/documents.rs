//! Every `kdl` block of the documentation and every file in `pipelines/` is checked.
//!
//! A block opened with ```` ```kdl,error=CODE ```` must fail with that diagnostic; all others must check.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A fenced block: where it starts, the code it must fail with, its text.
struct Block {
    line: usize,
    error: Option<String>,
    /// Belongs to the tutorial, which is executed as a whole.
    file: bool,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, line) in markdown.lines().enumerate() {
        if open {
            open = line.trim_end() != "```";
            if let (true, Some(block)) = (open, found.last_mut()) {
                block.text.push_str(line);
                block.text.push('\n');
            }
        } else if let Some(info) = line.strip_prefix("```kdl") {
            let error = info.trim().strip_prefix(",error=").map(str::to_string);
            let file = info.contains(",file=");
            found.push(Block { line: index + 1, error, file, text: String::new() });
            open = true;
        }
    }
    found
}

/// Exit code and codes of the diagnostics of `idiolect check`.
fn check(file: &Path, params: &[&str]) -> (i32, Vec<String>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_idiolect"));
    command.current_dir(root()).arg("check").arg(file).arg("--json");
    for param in params {
        command.args(["-P", param]);
    }
    let output = command.output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| {
        panic!("{}: not JSON ({e}):\n{text}\n{}", file.display(), String::from_utf8_lossy(&output.stderr))
    });
    let list = json.as_array().or_else(|| json["diagnostics"].as_array()).cloned().unwrap_or_default();
    let codes = list.iter().filter_map(|d| d["code"].as_str().map(str::to_string)).collect();
    (output.status.code().unwrap_or(-1), codes, text)
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
}

#[test]
fn every_block_of_the_documentation_checks() {
    let mut pages = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    files(&root().join("docs"), "md", &mut pages);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut seen = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("a readable page");
        for block in blocks(&text).into_iter().filter(|b| !b.file) {
            let place = format!("{}:{}", page.display(), block.line);
            let file = folder.path().join("block.kdl");
            std::fs::write(&file, &block.text).expect("a writable file");
            let (code, codes, text) = check(&file, &[]);
            match block.error {
                None => assert_eq!(code, 0, "{place} does not check:\n{text}"),
                Some(expected) => {
                    assert_eq!(code, 2, "{place} should fail with {expected}");
                    assert!(codes.contains(&expected), "{place} gives {codes:?}, not {expected}");
                }
            }
            seen += 1;
        }
    }
    assert!(seen >= 10, "only {seen} blocks found: is the fence still ```kdl?");
}

/// What a recipe's parameter `answers` chooses between, in the names of files that it includes.
const ANSWERS: [&str; 2] = ["released", "live"];

#[test]
fn every_recipe_checks() {
    let mut all = Vec::new();
    files(&root().join("pipelines"), "kdl", &mut all);
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("a readable recipe");
    let (recipes, parts): (Vec<PathBuf>, Vec<PathBuf>) =
        all.iter().cloned().partition(|p| read(p).contains("\npipeline \""));
    assert!(recipes.len() >= 12 && parts.len() >= 5, "{recipes:?} {parts:?}");
    for recipe in &recipes {
        let text = read(recipe);
        let mut params = vec![Vec::new()];
        if text.contains("${answers}") {
            params = ANSWERS.iter().map(|choice| vec![format!("answers={choice}")]).collect();
        }
        for params in params {
            let params: Vec<&str> = params.iter().map(String::as_str).collect();
            let (code, _, text) = check(recipe, &params);
            assert_eq!(code, 0, "{} {params:?} does not check:\n{text}", recipe.display());
        }
    }
    // A part is checked with the recipes that include it.
    let texts: String = all.iter().map(read).collect();
    let texts = ANSWERS.map(|choice| texts.replace("${answers}", choice)).concat();
    for part in parts {
        let name = part.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(texts.contains(&format!("include \"{name}\"")), "no recipe includes {name}");
    }
}
