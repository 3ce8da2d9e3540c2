//! Names and values from the `kdl` crate, for a text that our own parser has found to be sound.
//!
//! The crate is the authority on what KDL means; our parser gives places, messages and recovery. The crate recurses
//! for every character of some comments and takes exponential time on nested slashdashed blocks, so that it is shown
//! the text without comments and slashdashed parts, nested no deeper than our parser allows, and has a deadline.

use super::{Document, MAX_DEPTH, Node, Scalar};
use crate::diag::{Diagnostic, Diagnostics, Spanned};
use kdl::{KdlDocument, KdlNode, KdlValue};
use std::ops::Range;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// A pipeline parses in milliseconds; the longest text allowed in about a second.
const DEADLINE: Duration = Duration::from_secs(5);
/// The crate takes several KiB of stack for each level of nesting.
const STACK: usize = MAX_DEPTH * (256 << 10);

/// Takes the names and values of `document` from the crate. `hidden` are the comments and slashdashed parts of `text`.
pub(super) fn settle(
    text: &str,
    hidden: &[Range<usize>],
    document: &mut Document,
    deadline: Duration,
    diagnostics: &mut Diagnostics,
) -> bool {
    let error = match parse_within(blanked(text, hidden), deadline) {
        Ok(reference) => match take_nodes(&mut document.nodes, reference.nodes()) {
            Ok(()) => return true,
            Err(node) => Diagnostic::error("syntax", "this node can be read in two ways")
                .at(node, "ambiguous")
                .help("write its strings in quotes, its numbers plainly, and one node on a line"),
        },
        Err(Refusal::Late) => Diagnostic::error("syntax-timeout", "the file takes too long to parse")
            .at(crate::diag::Span { end: document.span.start, ..document.span }, "parsing was given up")
            .help("split it with `include`, or look for deeply nested blocks"),
        Err(Refusal::Message { message, range }) => Diagnostic::error("syntax", message)
            .at(crate::diag::Span::new(document.span.source, range.start, range.end), "not accepted as KDL 2")
            .help("`idiolect` reads KDL 2: https://kdl.dev"),
    };
    diagnostics.push(error);
    false
}

/// The usual deadline.
pub(super) fn deadline() -> Duration {
    DEADLINE
}

enum Refusal {
    Late,
    Message { message: String, range: Range<usize> },
}

/// Spaces for every hidden byte, so that offsets stay what they are.
fn blanked(text: &str, hidden: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for range in hidden {
        // A comment inside a slashdashed part is hidden twice.
        if range.end <= at {
            continue;
        }
        let start = range.start.max(at);
        out.push_str(&text[at..start]);
        out.extend(std::iter::repeat_n(' ', range.end - start));
        at = range.end;
    }
    out.push_str(&text[at..]);
    out
}

fn parse_within(text: String, deadline: Duration) -> Result<KdlDocument, Refusal> {
    let whole = 0..text.len();
    let (sender, receiver) = channel();
    let parse = move || {
        let result = KdlDocument::parse_v2(&text).map_err(|error| {
            let first = error.diagnostics.into_iter().next();
            let message = first.as_ref().and_then(|d| d.message.clone());
            let range = first.map_or(0..0, |d| d.span.offset()..d.span.offset() + d.span.len());
            Refusal::Message { message: message.unwrap_or_else(|| "this is not KDL 2".into()), range }
        });
        // Nobody listens any more after the deadline.
        drop(sender.send(result));
    };
    let failed = |message: String| Refusal::Message { message, range: whole.clone() };
    let thread = std::thread::Builder::new().name("kdl".into()).stack_size(STACK);
    thread.spawn(parse).map_err(|e| failed(format!("cannot start a thread to parse with: {e}")))?;
    match receiver.recv_timeout(deadline) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(Refusal::Late),
        Err(RecvTimeoutError::Disconnected) => Err(failed("the KDL parser gave up on this text".into())),
    }
}

/// Copies names and values from node to node. `Err`: the place of a node that is not the same in both.
fn take_nodes(nodes: &mut [Node], reference: &[KdlNode]) -> Result<(), crate::diag::Span> {
    for (node, reference) in nodes.iter_mut().zip(reference) {
        take_node(node, reference)?;
    }
    match nodes.len().cmp(&reference.len()) {
        std::cmp::Ordering::Equal => Ok(()),
        _ => Err(nodes.last().map_or(crate::diag::Span::new(crate::diag::SourceId(0), 0, 0), |n| n.span)),
    }
}

fn take_node(node: &mut Node, reference: &KdlNode) -> Result<(), crate::diag::Span> {
    let span = node.span;
    let same = node.entries.len() == reference.entries().len()
        && node.children.is_some() == reference.children().is_some()
        && node.annotation.is_some() == reference.ty().is_some();
    if !same {
        return Err(span);
    }
    node.name.value = reference.name().value().to_string();
    take_name(&mut node.annotation, reference.ty());
    for (entry, reference) in node.entries.iter_mut().zip(reference.entries()) {
        if entry.name.is_some() != reference.name().is_some() || entry.annotation.is_some() != reference.ty().is_some()
        {
            return Err(entry.span);
        }
        take_name(&mut entry.name, reference.name());
        take_name(&mut entry.annotation, reference.ty());
        entry.value.value = scalar(reference.value()).ok_or(entry.value.span)?;
    }
    match (&mut node.children, reference.children()) {
        (Some(block), Some(reference)) => take_nodes(&mut block.nodes, reference.nodes()),
        _ => Ok(()),
    }
}

fn take_name(name: &mut Option<Spanned<String>>, reference: Option<&kdl::KdlIdentifier>) {
    if let (Some(name), Some(reference)) = (name, reference) {
        name.value = reference.value().to_string();
    }
}

fn scalar(value: &KdlValue) -> Option<Scalar> {
    Some(match value {
        KdlValue::Null => Scalar::Null,
        KdlValue::Bool(b) => Scalar::Bool(*b),
        KdlValue::Integer(i) => Scalar::Int(i64::try_from(*i).ok()?),
        KdlValue::Float(f) => Scalar::Float(*f),
        KdlValue::String(s) => Scalar::Str(s.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::SourceId;
    use crate::syntax::parser::read;

    fn settled(text: &str, deadline: Duration) -> (bool, Vec<&'static str>) {
        let mut diagnostics = Diagnostics::new();
        let (mut document, hidden) = read(text, SourceId(0), &mut diagnostics).expect("sound");
        assert!(diagnostics.is_empty());
        let ok = settle(text, &hidden, &mut document, deadline, &mut diagnostics);
        (ok, diagnostics.iter().map(|d| d.code).collect())
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        assert_eq!(settled(&"a 1\n".repeat(1000), Duration::ZERO), (false, vec!["syntax-timeout"]));
        assert_eq!(settled("a 1\n", DEADLINE), (true, vec![]));
    }

    #[test]
    fn what_only_the_crate_refuses_is_a_message() {
        let digits = "1".repeat(50);
        assert_eq!(settled(&format!("a {digits}.5"), DEADLINE), (false, vec!["syntax"]));
    }

    #[test]
    fn hidden_parts_leave_their_bytes() {
        let text = "a /*é*/ b /-{ /* x */ } c";
        let plain = blanked(text, &[2..8, 11..24, 15..22]);
        assert_eq!(plain, format!("a {:6} b {:13} c", "", ""));
        assert_eq!(plain.len(), text.len());
    }
}
