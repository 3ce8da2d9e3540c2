//! Which `}` closes which `{`.

use super::lexer::{Token, TokenKind};
use crate::diag::{Diagnostic, Diagnostics, SourceId, Span};

/// A block that is not closed yet.
struct Open {
    index: usize,
    /// Width of the white space before the first token of its line.
    indent: usize,
}

/// For each `{`, by token index, the index of its `}`. `None` after reporting braces that do not match.
pub(super) fn match_braces(
    tokens: &[Token],
    source: SourceId,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Option<usize>>> {
    let before = diagnostics.0.len();
    let span = |index: usize| Span::new(source, tokens[index].start, tokens[index].end);
    let mut blocks = vec![None; tokens.len()];
    let mut open: Vec<Open> = Vec::new();
    // A pair whose closing brace begins its line, but not where the block's line begins.
    let mut suspect = None;
    let (mut indent, mut line_begins) = (0, true);
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenKind::Newline => (indent, line_begins) = (0, true),
            TokenKind::Space if line_begins => indent = token.end - token.start,
            TokenKind::OpenBrace => open.push(Open { index, indent }),
            TokenKind::CloseBrace => match open.pop() {
                Some(opened) => {
                    blocks[opened.index] = Some(index);
                    if line_begins && opened.indent != indent {
                        suspect.get_or_insert((opened.index, index));
                    }
                }
                None => diagnostics.push(
                    Diagnostic::error("stray-brace", "this `}` closes nothing")
                        .at(span(index), "no block is open here")
                        .help("delete it, or open a block before it with `{`"),
                ),
            },
            _ => {}
        }
        line_begins &= matches!(token.kind, TokenKind::Newline | TokenKind::Space);
    }
    if let Some(last) = open.last() {
        let mut error =
            Diagnostic::error("unclosed-block", "this block is not closed").at(span(last.index), "opened here");
        if let Some((opened, closed)) = suspect {
            error = error
                .and(span(opened), "by its indentation, this block may be the one that lacks its `}`")
                .and(span(closed), "because this `}` closes it");
        }
        diagnostics.push(error.help("close it with `}`"));
    }
    (diagnostics.0.len() == before).then_some(blocks)
}
