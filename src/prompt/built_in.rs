//! The templates that come with the program.

use super::Template;
use std::path::Path;
use std::sync::LazyLock;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("templates/", $name, ".jinja")))),+]
    };
}

/// Name and text, in the order of the reference.
const FILES: &[(&str, &str)] = files![
    "answer-directly",
    "rewrite-groundtruth",
    "step-by-step",
    "step-by-step-transform",
    "detailed-step-by-step-transform",
    "paraphrase",
    "paraphrase-again",
    "initial-prediction",
    "min-change",
    "min-change-code",
    "min-change-again",
    "style-transfer",
    "extract-code",
];

pub static TEMPLATES: LazyLock<Vec<Template>> = LazyLock::new(|| {
    let read = |(name, text): &(&str, &str)| {
        Template::read(Path::new(&format!("{name}.jinja")), text)
            .unwrap_or_else(|e| panic!("a template that comes with the program is sound, as its tests show: {e}"))
    };
    FILES.iter().map(read).collect()
});

/// The templates of each operator that writes, the default first.
const USED_BY: &[(&str, &[&str])] = &[
    (
        "teacher-generate",
        &[
            "answer-directly",
            "rewrite-groundtruth",
            "step-by-step",
            "step-by-step-transform",
            "detailed-step-by-step-transform",
        ],
    ),
    ("paraphrase", &["paraphrase", "paraphrase-again"]),
    ("initial-prediction", &["initial-prediction"]),
    ("self-sample", &["initial-prediction"]),
    ("min-change", &["min-change", "extract-code", "min-change-code", "min-change-again"]),
    ("style-transfer", &["style-transfer"]),
    ("extract-code", &["extract-code"]),
];

/// The built-in templates that an operator writes its prompts with.
pub fn used_by(operator: &str) -> impl Iterator<Item = &'static Template> {
    let names = USED_BY.iter().find(|(op, _)| *op == operator).map_or(&[][..], |(_, names)| names);
    names.iter().filter_map(|name| Template::built_in(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_an_operators() {
        let used: Vec<&str> = USED_BY.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        for (name, _) in FILES {
            assert!(used.contains(name), "no operator writes with `{name}`");
        }
        for name in used {
            assert!(Template::built_in(name).is_some(), "there is no template `{name}`");
        }
    }
}
