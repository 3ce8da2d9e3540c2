//! The formatter: one style, every comment kept, nothing else changed.
//!
//! It works on tokens, so that what it does not understand it cannot lose. Four spaces for each block, one node on a
//! line, at most one blank line, `name=value` without blanks, values that are strings in quotes, names without quotes
//! where they need none. A block that was written on one line stays on one line.

use super::braces::match_braces;
use super::lexer::{Token, TokenKind, is_newline, is_word};
use super::number::is_number;
use super::parser::{parse, tokens};
use super::string::string;
use crate::diag::{Diagnostics, SourceId};

const INDENT: &str = "    ";

/// The text in the one style. `None` when it has syntax errors, which go to `diagnostics`.
pub fn format(text: &str, source: SourceId, diagnostics: &mut Diagnostics) -> Option<String> {
    let before = diagnostics.0.len();
    parse(text, source, diagnostics)?;
    if diagnostics.0[before..].iter().any(crate::diag::Diagnostic::is_error) {
        return None;
    }
    let tokens = tokens(text, source, diagnostics)?;
    let blocks = match_braces(&tokens, source, diagnostics)?;
    let mut formatter =
        Formatter { text, tokens: &tokens, blocks: &blocks, out: String::with_capacity(text.len()), at: 0 };
    formatter.nodes(0, Layout::Lines);
    let mut out = formatter.out;
    out.truncate(out.trim_end_matches(['\n', ' ']).len());
    if !out.is_empty() {
        out.push('\n');
    }
    Some(out)
}

/// How the nodes of a block are set.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// Each on a line of its own.
    Lines,
    /// `{ a; b }`
    Inline,
}

struct Formatter<'a> {
    text: &'a str,
    tokens: &'a [Token],
    /// For each `{`, the index of its `}`.
    blocks: &'a [Option<usize>],
    out: String,
    at: usize,
}

impl<'a> Formatter<'a> {
    fn kind(&self, at: usize) -> Option<TokenKind> {
        self.tokens.get(at).map(|t| t.kind)
    }

    fn peek(&self) -> Option<TokenKind> {
        self.kind(self.at)
    }

    fn word(&self, at: usize) -> &'a str {
        &self.text[self.tokens[at].range()]
    }

    /// Nodes up to the end of the block or text.
    fn nodes(&mut self, depth: usize, layout: Layout) {
        let mut newlines = 0;
        let mut first = true;
        while let Some(kind) = self.peek() {
            match kind {
                TokenKind::CloseBrace => return,
                TokenKind::Space | TokenKind::Semicolon => self.at += 1,
                // Between nodes it continues nothing; a comment in it is kept.
                TokenKind::LineContinuation => {
                    let comments = self.word(self.at)[1..].trim();
                    if !comments.is_empty() {
                        self.line_start(depth, layout, first, newlines);
                        self.out.push_str(&lf(comments));
                        first = false;
                    }
                    newlines = 1;
                    self.at += 1;
                }
                TokenKind::Newline => {
                    newlines += 1;
                    self.at += 1;
                }
                TokenKind::LineComment | TokenKind::BlockComment => {
                    let before_node = kind == TokenKind::BlockComment && self.node_follows();
                    // A comment behind a node or behind `{` stays on that line.
                    if newlines == 0 && !before_node && (!first || depth > 0) {
                        self.out.push(' ');
                    } else {
                        self.line_start(depth, layout, first, newlines);
                    }
                    self.comment();
                    (first, newlines) = (false, 0);
                    if before_node {
                        self.out.push(' ');
                        self.node(depth);
                    }
                }
                _ => {
                    self.line_start(depth, layout, first, newlines);
                    self.node(depth);
                    (first, newlines) = (false, 0);
                }
            }
        }
    }

    /// Whether a node begins behind the block comment at hand, on its line.
    fn node_follows(&self) -> bool {
        let skip = |k: &TokenKind| matches!(k, TokenKind::Space | TokenKind::BlockComment);
        self.tokens[self.at..].iter().map(|t| t.kind).find(|k| !skip(k)).is_some_and(|k| !ends_node(k))
    }

    /// Whether anything of the present node follows the comment or continued line at hand.
    fn node_goes_on(&self) -> bool {
        let next = self.tokens[self.at..].iter().map(|t| t.kind).find(|k| !is_blank(*k));
        next.is_some_and(|k| !ends_node(k))
    }

    /// Begins a node or comment: a new line, with a blank one where there was one, or a blank inside a line.
    fn line_start(&mut self, depth: usize, layout: Layout, first: bool, newlines: usize) {
        match layout {
            Layout::Inline => self.out.push_str(if first { " " } else { "; " }),
            Layout::Lines => {
                if !self.out.is_empty() {
                    self.out.push('\n');
                }
                if !first && newlines > 1 {
                    self.out.push('\n');
                }
                self.out.push_str(&INDENT.repeat(depth));
            }
        }
    }

    fn comment(&mut self) {
        let comment = self.word(self.at);
        let comment = if self.peek() == Some(TokenKind::LineComment) { comment.trim_end() } else { comment };
        self.out.push_str(&lf(comment));
        self.at += 1;
    }

    /// One node up to its terminator, which is not consumed if it is a newline or comment.
    fn node(&mut self, depth: usize) {
        let mut name_seen = false;
        // Nothing stands between the last character written and what comes next.
        let mut glued = true;
        while let Some(kind) = self.peek() {
            match kind {
                TokenKind::Newline | TokenKind::LineComment | TokenKind::CloseBrace => return,
                TokenKind::Semicolon => {
                    self.at += 1;
                    return;
                }
                TokenKind::Space => self.at += 1,
                // Set as what stands behind the node.
                TokenKind::BlockComment | TokenKind::LineContinuation if !self.node_goes_on() => return,
                TokenKind::BlockComment => {
                    self.separate(&mut glued);
                    self.comment();
                }
                TokenKind::LineContinuation => {
                    self.continuation(depth);
                    glued = true;
                }
                TokenKind::Slashdash => {
                    self.separate(&mut glued);
                    self.slashdash(depth);
                    glued = true;
                }
                TokenKind::OpenBrace => {
                    self.separate(&mut glued);
                    self.block(depth);
                }
                TokenKind::OpenParen => {
                    self.separate(&mut glued);
                    self.annotation(depth);
                    glued = true;
                }
                TokenKind::Equals => {
                    self.out.push('=');
                    self.at += 1;
                    glued = true;
                }
                _ => {
                    self.separate(&mut glued);
                    let name = !name_seen || self.equals_follows();
                    name_seen = true;
                    self.value(name);
                    self.skip_blanks_before_equals();
                }
            }
        }
    }

    fn separate(&mut self, glued: &mut bool) {
        if !std::mem::replace(glued, false) {
            self.out.push(' ');
        }
    }

    /// ` \` and the next line, one step further in.
    fn continuation(&mut self, depth: usize) {
        let comments = self.word(self.at)[1..].trim();
        if !self.out.ends_with(' ') {
            self.out.push(' ');
        }
        self.out.push('\\');
        if !comments.is_empty() {
            self.out.push(' ');
            self.out.push_str(&lf(comments));
        }
        self.out.push('\n');
        self.out.push_str(&INDENT.repeat(depth + 1));
        self.at += 1;
    }

    /// `/-` directly before what it comments out; comments between them keep their lines.
    fn slashdash(&mut self, depth: usize) {
        self.out.push_str("/-");
        self.at += 1;
        while let Some(kind) = self.peek() {
            match kind {
                TokenKind::Space | TokenKind::Newline => self.at += 1,
                TokenKind::LineContinuation if self.word(self.at)[1..].trim().is_empty() => self.at += 1,
                TokenKind::LineContinuation => self.continuation(depth),
                TokenKind::LineComment => {
                    self.comment();
                    self.out.push('\n');
                    self.out.push_str(&INDENT.repeat(depth + 1));
                }
                TokenKind::BlockComment => {
                    self.comment();
                    self.out.push(' ');
                }
                _ => return,
            }
        }
    }

    /// `(name)`
    fn annotation(&mut self, depth: usize) {
        let mut first = true;
        while let Some(kind) = self.peek() {
            match kind {
                TokenKind::OpenParen => {
                    self.out.push('(');
                    self.at += 1;
                }
                TokenKind::CloseParen => {
                    self.out.push(')');
                    self.at += 1;
                    return;
                }
                TokenKind::BlockComment => self.comment(),
                TokenKind::LineContinuation => self.continuation(depth),
                TokenKind::Space => self.at += 1,
                _ => {
                    self.value(std::mem::take(&mut first));
                }
            }
        }
    }

    /// A word, number, keyword or string. `name`: of a node or property, without quotes where possible.
    fn value(&mut self, name: bool) {
        let word = self.word(self.at);
        match self.peek() {
            Some(TokenKind::Word) if !name && !is_number(word) => {
                self.out.push('"');
                self.out.push_str(word);
                self.out.push('"');
            }
            Some(TokenKind::Quoted | TokenKind::Raw) => match string(word) {
                Ok(text) if name && is_bare(&text.value) => self.out.push_str(&text.value),
                _ => self.out.push_str(&lf(word)),
            },
            _ => self.out.push_str(word),
        }
        self.at += 1;
    }

    fn equals_follows(&self) -> bool {
        let mut kinds = self.tokens[self.at + 1..].iter().map(|t| t.kind);
        kinds.find(|k| !is_blank(*k)) == Some(TokenKind::Equals)
    }

    fn skip_blanks_before_equals(&mut self) {
        let mut next = self.at;
        while self.kind(next) == Some(TokenKind::Space) {
            next += 1;
        }
        if self.kind(next) == Some(TokenKind::Equals) {
            self.at = next;
        }
    }

    /// A block, on one line if it was written on one.
    fn block(&mut self, depth: usize) {
        let close = self.blocks[self.at].unwrap_or(self.at);
        let whole = &self.text[self.tokens[self.at].start..self.tokens[close].end];
        let nothing = |at: usize| match self.tokens[at].kind {
            TokenKind::Space | TokenKind::Newline => true,
            TokenKind::LineContinuation => self.word(at)[1..].trim().is_empty(),
            _ => false,
        };
        let empty = (self.at + 1..close).all(nothing);
        let layout = if whole.contains(is_newline) { Layout::Lines } else { Layout::Inline };
        self.out.push('{');
        self.at += 1;
        if !empty {
            self.nodes(depth + 1, layout);
            match layout {
                Layout::Inline => self.out.push(' '),
                Layout::Lines => {
                    self.out.push('\n');
                    self.out.push_str(&INDENT.repeat(depth));
                }
            }
        }
        self.out.push('}');
        self.at = close + 1;
    }
}

/// White space inside a node.
fn is_blank(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::Space | TokenKind::BlockComment | TokenKind::LineContinuation)
}

/// What no part of a node stands behind.
fn ends_node(kind: TokenKind) -> bool {
    use TokenKind::{CloseBrace, LineComment, LineContinuation, Newline, Semicolon};
    matches!(kind, Newline | LineComment | CloseBrace | Semicolon | LineContinuation)
}

/// Whether a name reads the same without quotes.
fn is_bare(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(is_word)
        && !is_number(name)
        && !matches!(name, "true" | "false" | "null" | "inf" | "-inf" | "nan")
}

/// Newlines as line feeds: KDL reads them alike in comments and strings.
fn lf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}
