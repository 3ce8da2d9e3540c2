//! Code in responses, and programs made of it.

use crate::eval::answer::{Fault, after_marker};

/// The code of a response: what stands behind the last marker, or all of it where there is none; of that what fenced
/// blocks hold, if there are any.
pub fn read(response: &str, marker: &str) -> Result<String, Fault> {
    if response.trim().is_empty() {
        return Err(Fault::Empty);
    }
    let marked = behind_marker(response, marker).map(|tail| match tail.lines().next() {
        // Code that begins beside the marker is not indented by the space between.
        Some(line) if !line.trim().is_empty() => tail.trim_start(),
        _ => tail,
    });
    let code = text_of(marked.unwrap_or(response));
    if code.trim().is_empty() { Err(Fault::Unreadable) } else { Ok(code) }
}

/// What stands behind the last marker. One that a program prints is none: it stands in a fenced block, or behind the quotation
/// mark of its string; where there are only such, an answer that is quoted is better than none, one in a block is not.
fn behind_marker<'t>(response: &'t str, marker: &str) -> Option<&'t str> {
    let exact: Vec<usize> = response.match_indices(marker).map(|(at, _)| at).collect();
    if exact.is_empty() {
        return after_marker(response, marker);
    }
    let blocks = block_ranges(response);
    let open = exact.into_iter().filter(|at| !blocks.iter().any(|block| block.contains(at)));
    let open: Vec<usize> = open.collect();
    let quoted = |at: &&usize| response[..**at].ends_with(['"', '\'']);
    let last = open.iter().rev().find(|at| !quoted(at)).or(open.last());
    last.map(|at| &response[at + marker.len()..])
}

/// Where the fenced blocks of a text stand that are closed, their fences included.
fn block_ranges(text: &str) -> Vec<std::ops::Range<usize>> {
    let (mut ranges, mut open, mut at) = (Vec::new(), None, 0);
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        match (open, fence_of(line)) {
            (None, Some(fence)) => open = Some((fence, at)),
            (Some((opened, start)), Some(fence)) if opened == fence && line.trim() == fence => {
                ranges.push(start..end);
                open = None;
            }
            _ => {}
        }
        at = end;
    }
    ranges
}

/// The fence that a line begins with.
fn fence_of(line: &str) -> Option<&'static str> {
    ["```", "~~~"].into_iter().find(|fence| line.trim_start().starts_with(fence))
}

/// The code of a text: what its fenced blocks hold, of those that say so the ones in Python; or all of it. The first
/// line's indentation is kept.
pub fn text_of(text: &str) -> String {
    let blocks = fenced(text);
    let python = |info: &str| matches!(info.to_lowercase().as_str(), "python" | "python3" | "py");
    let some = blocks.iter().any(|(info, _)| python(info));
    let chosen: Vec<&str> =
        blocks.iter().filter(|(info, _)| !some || python(info)).map(|(_, block)| block.as_str()).collect();
    let code = if chosen.is_empty() { text.to_string() } else { chosen.join("\n\n") };
    let lines: Vec<&str> = code.lines().collect();
    let first = lines.iter().position(|l| !l.trim().is_empty()).unwrap_or(lines.len());
    lines[first..].join("\n").trim_end().to_string()
}

/// The fenced blocks of a text, each with the first word behind its fence; of one that is not closed what follows.
fn fenced(text: &str) -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut open: Option<(&str, String, Vec<&str>)> = None;
    for line in text.lines() {
        let start = line.trim_start();
        let fence = fence_of(line);
        match (&mut open, fence) {
            (Some((opened, info, lines)), Some(fence)) if *opened == fence && start.trim_end() == fence => {
                blocks.push((std::mem::take(info), lines.join("\n")));
                open = None;
            }
            (Some((_, _, lines)), _) => lines.push(line),
            (None, Some(fence)) => {
                let info = start[fence.len()..].split_whitespace().next().unwrap_or_default();
                open = Some((fence, info.to_string(), Vec::new()));
            }
            (None, None) => {}
        }
    }
    blocks.extend(open.map(|(_, info, lines)| (info, lines.join("\n"))));
    blocks
}

/// A prompt and what goes on from it: the body of its function, or a whole program that defines the function anew.
pub fn completed(prompt: &str, code: &str, entry_point: Option<&str>) -> String {
    let whole = match entry_point {
        Some(name) => code.lines().any(|line| defines(line, name)),
        None => code.lines().any(|line| line.starts_with("def ") || line.starts_with("class ")),
    };
    let prompt = prompt.trim_end();
    match whole {
        // Imports and helpers of the prompt stay; its function gets a body, where its docstring is none.
        true if prompt.ends_with(':') => format!("{prompt} pass\n\n{code}\n"),
        true => format!("{prompt}\n\n{code}\n"),
        false => format!("{prompt}\n{}\n", body(code)),
    }
}

fn defines(line: &str, name: &str) -> bool {
    let rest = line.strip_prefix("async ").unwrap_or(line).strip_prefix("def ");
    rest.and_then(|r| r.trim_start().strip_prefix(name)).is_some_and(|r| r.trim_start().starts_with('('))
}

/// Lines as they stand in a function: where the first one has lost its indentation, it gets it back; where none has any,
/// all do.
fn body(code: &str) -> String {
    const INDENT: &str = "    ";
    let indented = |line: &str| line.starts_with([' ', '\t']);
    let mut lines = code.lines().filter(|l| !l.trim().is_empty());
    if lines.next().is_none_or(indented) {
        return code.to_string();
    }
    let mut rest = lines.peekable();
    if rest.peek().is_some() && rest.all(indented) && !opens_block(code) {
        return format!("{INDENT}{code}");
    }
    let shifted = |line: &str| if line.trim().is_empty() { String::new() } else { format!("{INDENT}{line}") };
    code.lines().map(shifted).collect::<Vec<_>>().join("\n")
}

/// Whether the first line is one that indented ones belong under.
fn opens_block(code: &str) -> bool {
    let first = code.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
    first.split('#').next().unwrap_or_default().trim_end().ends_with([':', '(', '[', '{', ',', '\\'])
}
