//! Diagnostics for people (labelled source, 80 columns) and for programs (JSON).

use super::{Diagnostic, Diagnostics, Label, Severity, Source, SourceId, Sources, Span};
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

/// Width that snippets are cut to and prose is wrapped at.
const WIDTH: usize = 80;

/// Renders every diagnostic, in the order of the source, each followed by a blank line.
pub fn render(diagnostics: &Diagnostics, sources: &Sources, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() }.term_width(WIDTH);
    let mut out = String::new();
    for diagnostic in in_source_order(diagnostics) {
        let text = renderer.render(&[group(diagnostic, sources)]);
        for line in text.lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

/// "2 errors and 1 warning"; empty when there is neither.
pub fn summary(diagnostics: &Diagnostics) -> String {
    let count = |severity, word: &str| {
        let n = diagnostics.iter().filter(|d| d.severity == severity).count();
        (n > 0).then(|| format!("{n} {word}{}", if n == 1 { "" } else { "s" }))
    };
    let parts = [count(Severity::Error, "error"), count(Severity::Warning, "warning")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

/// An array of objects, in the order of the source: `code`, `severity`, `message`, `labels`, `help`. Offsets count
/// bytes from 0; lines and columns count from 1, columns in characters.
pub fn to_json(diagnostics: &Diagnostics, sources: &Sources) -> Value {
    let one = |d: &Diagnostic| {
        json!({
            "code": d.code,
            "severity": d.severity,
            "message": d.message,
            "labels": d.labels.iter().map(|l| label_json(l, sources)).collect::<Vec<_>>(),
            "help": d.help,
        })
    };
    in_source_order(diagnostics).into_iter().map(one).collect()
}

fn label_json(label: &Label, sources: &Sources) -> Value {
    let range = clamp(label.span, sources);
    let (line, column) = sources.line_column(label.span.source, range.start as u32);
    let (end_line, end_column) = sources.line_column(label.span.source, range.end as u32);
    json!({
        "file": sources.get(label.span.source).name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "start": range.start,
        "end": range.end,
        "text": label.text,
        "primary": label.primary,
    })
}

/// By file and place of the first label; what has no place comes first. Stable, so that messages about one place keep
/// the order in which they were found.
fn in_source_order(diagnostics: &Diagnostics) -> Vec<&Diagnostic> {
    let mut all: Vec<&Diagnostic> = diagnostics.iter().collect();
    all.sort_by_key(|d| d.labels.first().map(|l| (l.span.source, l.span.start)));
    all
}

fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let title_indent = diagnostic.severity.to_string().len() + diagnostic.code.len() + 4;
    let title = level.primary_title(wrap(&diagnostic.message, title_indent)).id(diagnostic.code);
    let mut group = Group::with_title(title);
    for source in files_of(diagnostic) {
        group = group.element(snippet(diagnostic, source, sources));
    }
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(wrap(help, 12)));
    }
    group
}

/// The lines of one file from the first label to the last. Only these are handed on, because every line handed on is
/// looked at.
fn snippet<'a>(diagnostic: &'a Diagnostic, source: SourceId, sources: &'a Sources) -> Snippet<'a, Annotation<'a>> {
    let Source { name, text, .. } = sources.get(source);
    let labels = || diagnostic.labels.iter().filter(|l| l.span.source == source);
    let ranges: Vec<_> = labels().map(|l| clamp(l.span, sources)).collect();
    let first = ranges.iter().map(|r| r.start).min().unwrap_or(0);
    let last = ranges.iter().map(|r| r.end).max().unwrap_or(0);
    let start = text[..first].rfind('\n').map_or(0, |n| n + 1);
    let end = text[last..].find('\n').map_or(text.len(), |n| last + n + 1);
    let annotations = labels().zip(ranges).map(|(label, range)| {
        let kind = if label.primary { AnnotationKind::Primary } else { AnnotationKind::Context };
        kind.span(range.start - start..range.end - start).label(label.text.as_str())
    });
    let line = text[..start].matches('\n').count() + 1;
    Snippet::source(&text[start..end]).path(name.as_str()).line_start(line).annotations(annotations)
}

/// The files of the labels, in the order of the labels: the first is where the reader is sent.
fn files_of(diagnostic: &Diagnostic) -> Vec<SourceId> {
    let mut files = Vec::new();
    for label in &diagnostic.labels {
        if !files.contains(&label.span.source) {
            files.push(label.span.source);
        }
    }
    files
}

/// The span's range inside its text and on character boundaries, whatever the span says.
fn clamp(span: Span, sources: &Sources) -> std::ops::Range<usize> {
    let text = &sources.get(span.source).text;
    let boundary = |offset: u32| {
        let mut offset = (offset as usize).min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    };
    let start = boundary(span.start);
    start..boundary(span.end).max(start)
}

/// Wraps prose so that it fits beside what is printed before it. Text with lines of its own is left alone.
fn wrap(text: &str, indent: usize) -> String {
    if text.contains('\n') {
        return text.to_string();
    }
    let width = WIDTH.saturating_sub(indent).max(WIDTH / 2);
    let options = textwrap::Options::new(width)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .word_separator(textwrap::WordSeparator::AsciiSpace);
    textwrap::wrap(text, options).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_files() -> (Sources, SourceId, SourceId) {
        let mut sources = Sources::new();
        let a = sources.add("a.kdl", None, "load \"rows\" {\n    limt 5\n}\n");
        let b = sources.add("b.kdl", None, "// ä\nload \"rows\"\n");
        (sources, a, b)
    }

    #[test]
    fn labels_of_several_files_and_help() {
        let (sources, a, b) = two_files();
        let mut diagnostics = Diagnostics::new();
        diagnostics.push(
            Diagnostic::error("duplicate-node", "two nodes are named `rows`, and a name can be given only once")
                .at(Span::new(b, 11, 17), "second here")
                .and(Span::new(a, 5, 11), "first here")
                .help("rename one of them; references such as `from=\"rows\"` then say which of the two they mean"),
        );
        diagnostics.push(Diagnostic::warning("unused-param", "nobody reads it"));
        insta::assert_snapshot!(render(&diagnostics, &sources, false), @r#"
        warning[unused-param]: nobody reads it

        error[duplicate-node]: two nodes are named `rows`, and a name can be given only
                               once
         --> b.kdl:2:6
          |
        2 | load "rows"
          |      ^^^^^^ second here
          |
         ::: a.kdl:1:6
          |
        1 | load "rows" {
          |      ------ first here
          |
          = help: rename one of them; references such as `from="rows"` then say which
                  of the two they mean
        "#);
        assert_eq!(summary(&diagnostics), "1 error and 1 warning");
    }

    #[test]
    fn json_counts_lines_from_one_and_bytes_from_zero() {
        let (sources, _, b) = two_files();
        let mut diagnostics = Diagnostics::new();
        diagnostics.push(Diagnostic::error("x", "m").at(Span::new(b, 3, 5), "here").help("h"));
        let label = r#"{"file":"b.kdl","line":1,"column":4,"end_line":1,"end_column":5,"start":3,"end":5,"text":"here","primary":true}"#;
        let whole = format!(r#"[{{"code":"x","severity":"error","message":"m","labels":[{label}],"help":["h"]}}]"#);
        assert_eq!(to_json(&diagnostics, &sources).to_string(), whole);
    }

    #[test]
    fn colour_only_when_asked() {
        let (sources, a, _) = two_files();
        let mut diagnostics = Diagnostics::new();
        diagnostics.push(Diagnostic::error("x", "m").at(Span::new(a, 0, 4), "here"));
        assert!(!render(&diagnostics, &sources, false).contains('\x1b'));
        assert!(render(&diagnostics, &sources, true).contains('\x1b'));
    }

    #[test]
    fn spans_outside_the_text_do_not_panic() {
        let (sources, _, b) = two_files();
        let mut diagnostics = Diagnostics::new();
        for (start, end) in [(4, 4), (0, 999), (999, 1000), (17, 17), (4, 5)] {
            diagnostics.push(Diagnostic::error("x", "m").at(Span::new(b, start, end), "here"));
        }
        assert!(render(&diagnostics, &sources, false).contains("b.kdl"));
        assert_eq!(to_json(&diagnostics, &sources).as_array().map(Vec::len), Some(5));
    }
}
