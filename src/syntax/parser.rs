//! Tokens -> [`Document`].
//!
//! Recursive descent with one token of lookahead past white space. After an error it goes on with the next value, the
//! next line or the next block, whichever is nearest, so that one slip costs one message.

use super::braces::match_braces;
use super::lexer::{Token, TokenKind, is_newline, lex};
use super::number::{is_number, number};
use super::string::string;
use super::{Block, Document, Entry, MAX_BYTES, MAX_DEPTH, MAX_ITEMS, Node, Scalar, values};
use crate::diag::{Diagnostic, Diagnostics, SourceId, Span, Spanned};
use std::ops::Range;

/// Parses KDL 2. Returns `None` when the text's structure is lost (a block, string or comment is not closed); after
/// other errors the nodes that have one are marked as broken.
pub fn parse(text: &str, source: SourceId, diagnostics: &mut Diagnostics) -> Option<Document> {
    let before = diagnostics.0.len();
    let read = read(text, source, diagnostics);
    diagnostics.limit(before);
    let (mut document, hidden) = read?;
    let sound = diagnostics.0.len() == before;
    let settled = !sound || values::settle(text, &hidden, &mut document, values::deadline(), diagnostics);
    settled.then_some(document)
}

/// What our own parser makes of a text, and the ranges of its comments and slashdashed parts, in order.
pub(super) fn read(
    text: &str,
    source: SourceId,
    diagnostics: &mut Diagnostics,
) -> Option<(Document, Vec<Range<usize>>)> {
    let tokens = tokens(text, source, diagnostics)?;
    let blocks = match_braces(&tokens, source, diagnostics)?;
    let hidden = tokens.iter().filter_map(|t| comment(text, *t)).collect();
    let mut parser = Parser { text, tokens, blocks, source, diagnostics, at: 0, depth: 0, broken: false, hidden };
    let nodes = parser.nodes();
    let mut hidden = parser.hidden;
    hidden.sort_by_key(|r| (r.start, std::cmp::Reverse(r.end)));
    Some((Document { nodes, span: Span::new(source, 0, text.len()) }, hidden))
}

/// What of a token is comment, or a byte order mark.
fn comment(text: &str, token: Token) -> Option<Range<usize>> {
    match token.kind {
        TokenKind::LineComment | TokenKind::BlockComment => Some(token.range()),
        TokenKind::Space if token.start == 0 && text.starts_with('\u{FEFF}') => Some(token.range()),
        TokenKind::LineContinuation => {
            let written = text[token.range()].trim_end_matches(is_newline);
            Some(token.start + 1..token.start + written.len()).filter(|r| !r.is_empty())
        }
        _ => None,
    }
}

/// The tokens of a text, unless it is too long or something is not closed.
pub(super) fn tokens(text: &str, source: SourceId, diagnostics: &mut Diagnostics) -> Option<Vec<Token>> {
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes, and a pipeline may have at most {MAX_BYTES}", text.len());
        let help = "is this a data file? `load` reads those";
        diagnostics
            .push(Diagnostic::error("file-too-large", message).at(Span::new(source, 0, 0), "starts here").help(help));
        return None;
    }
    let before = diagnostics.0.len();
    let tokens = lex(text, source, diagnostics);
    let lost = |d: &Diagnostic| matches!(d.code, "unclosed-comment" | "unclosed-string");
    (!diagnostics.0[before..].iter().any(lost)).then_some(tokens)
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    /// For each `{`, the index of its `}`.
    blocks: Vec<Option<usize>>,
    source: SourceId,
    diagnostics: &'a mut Diagnostics,
    at: usize,
    depth: usize,
    /// The node being read has an error.
    broken: bool,
    /// Comments and slashdashed parts.
    hidden: Vec<Range<usize>>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<TokenKind> {
        self.tokens.get(self.at).map(|t| t.kind)
    }

    fn token(&self) -> Option<Token> {
        self.tokens.get(self.at).copied()
    }

    /// Where the next token starts; the end of the text after the last.
    fn position(&self) -> usize {
        self.token().map_or(self.text.len(), |t| t.start)
    }

    fn span(&self, range: Range<usize>) -> Span {
        Span::new(self.source, range.start, range.end)
    }

    fn error(&mut self, code: &'static str, message: impl Into<String>, range: Range<usize>, label: &str, help: &str) {
        self.broken = true;
        let span = self.span(range);
        self.diagnostics.push(Diagnostic::error(code, message).at(span, label).help(help));
    }

    /// Skips blanks, comments and continued lines inside a node. Says whether there was anything.
    fn skip_space(&mut self) -> bool {
        let before = self.at;
        while let Some(TokenKind::Space | TokenKind::BlockComment | TokenKind::LineContinuation) = self.peek() {
            self.at += 1;
        }
        self.at > before
    }

    /// Skips everything that may stand between nodes.
    fn skip_lines(&mut self) {
        while self.skip_space() || matches!(self.peek(), Some(TokenKind::Newline | TokenKind::LineComment)) {
            if matches!(self.peek(), Some(TokenKind::Newline | TokenKind::LineComment)) {
                self.at += 1;
            }
        }
    }

    /// Nodes up to the `}` of the block that they are in, or to the end of the text.
    fn nodes(&mut self) -> Vec<Node> {
        let mut nodes = Vec::new();
        loop {
            self.skip_lines();
            match self.token() {
                None => return nodes,
                Some(t) => match t.kind {
                    TokenKind::CloseBrace => return nodes,
                    TokenKind::Semicolon => {
                        self.at += 1;
                        self.error(
                            "syntax",
                            "there is no node before this `;`",
                            t.range(),
                            "ends nothing",
                            "delete it",
                        );
                    }
                    TokenKind::Slashdash => {
                        self.at += 1;
                        self.skip_lines();
                        match self.peek() {
                            None | Some(TokenKind::CloseBrace | TokenKind::Semicolon) => self.nothing_slashdashed(t),
                            _ => {
                                drop(self.node());
                                self.hide(t, TokenKind::Newline);
                            }
                        }
                    }
                    _ => {
                        nodes.extend(self.node());
                        if nodes.len() > MAX_ITEMS {
                            self.too_many("nodes in a block", t);
                            nodes.pop();
                            self.skip_block();
                        }
                    }
                },
            }
        }
    }

    fn nothing_slashdashed(&mut self, slashdash: Token) {
        let help = "put it directly before a node, a value, a property or a block";
        self.error(
            "syntax",
            "there is nothing after this `/-` to comment out",
            slashdash.range(),
            "comments nothing",
            help,
        );
    }

    /// Notes that everything from a slashdash to the present token is commented out, but for a newline at its end.
    fn hide(&mut self, slashdash: Token, but: TokenKind) {
        let last = self.tokens[self.at - 1];
        let end = if last.kind == but { last.start } else { last.end };
        self.hidden.push(slashdash.start..end);
    }

    /// One node with its terminator. `None` when not even its name could be read.
    fn node(&mut self) -> Option<Node> {
        let outer = std::mem::replace(&mut self.broken, false);
        let start = self.position();
        let node = self.node_from(start);
        self.broken = outer || node.is_none();
        node
    }

    fn node_from(&mut self, start: usize) -> Option<Node> {
        let annotation = self.annotation();
        let Some(name) = self.node_name() else {
            self.skip_node();
            return None;
        };
        let mut node = Node { annotation, span: name.span, name, entries: Vec::new(), children: None, broken: false };
        let mut end = node.span.end as usize;
        let mut block_seen = false;
        let mut after_error = false;
        loop {
            let spaced = self.skip_space();
            let Some(token) = self.token() else { break };
            match token.kind {
                TokenKind::Newline | TokenKind::LineComment | TokenKind::Semicolon => {
                    self.at += 1;
                    break;
                }
                TokenKind::CloseBrace => break,
                TokenKind::Slashdash => {
                    self.at += 1;
                    self.skip_lines();
                    match self.peek() {
                        Some(TokenKind::OpenBrace) => {
                            block_seen = true;
                            self.block();
                            self.hide(token, TokenKind::Bad);
                        }
                        None | Some(TokenKind::CloseBrace | TokenKind::Semicolon) => self.nothing_slashdashed(token),
                        Some(_) if block_seen => {
                            self.after_block();
                            break;
                        }
                        Some(_) => {
                            drop(self.entry());
                            self.hide(token, TokenKind::Bad);
                        }
                    }
                }
                TokenKind::OpenBrace => {
                    if node.children.is_some() {
                        let help = "put the nodes of both blocks into one";
                        self.error("syntax", "a node has at most one block", token.range(), "a second block", help);
                    }
                    block_seen = true;
                    let block = self.block();
                    end = block.span.end as usize;
                    node.children.get_or_insert(block);
                }
                _ if block_seen => {
                    self.after_block();
                    break;
                }
                _ => {
                    if !spaced && !after_error {
                        self.missing_space(token);
                    }
                    let entry = self.entry();
                    after_error = entry.is_none();
                    if let Some(entry) = entry {
                        end = entry.span.end as usize;
                        node.entries.push(entry);
                    }
                    if node.entries.len() > MAX_ITEMS {
                        self.too_many("values on a node", token);
                        node.entries.pop();
                        self.skip_node();
                        break;
                    }
                }
            }
        }
        node.span = self.span(start..end);
        node.broken = self.broken;
        Some(node)
    }

    fn missing_space(&mut self, token: Token) {
        // Only where the place is sure to be a slip between two values; other cases have messages of their own.
        if matches!(token.kind, TokenKind::Word | TokenKind::Quoted | TokenKind::Raw | TokenKind::Keyword) {
            let message = "there must be a space between two values";
            self.error("syntax", message, token.range(), "follows without a space", "put a space before it");
        }
    }

    fn too_many(&mut self, what: &str, token: Token) {
        let message = format!("there are more than {MAX_ITEMS} {what}");
        self.error(
            "too-many-items",
            message,
            token.range(),
            "one too many",
            "keep lists of that length in a data file",
        );
    }

    /// Skips to the end of the present block, or of the text.
    fn skip_block(&mut self) {
        while let Some(kind) = self.peek() {
            match kind {
                TokenKind::CloseBrace => return,
                TokenKind::OpenBrace => self.at = self.blocks[self.at].unwrap_or(self.at) + 1,
                _ => self.at += 1,
            }
        }
    }

    fn after_block(&mut self) {
        let range = self.token().map_or(self.text.len()..self.text.len(), Token::range);
        let help = "put it before the block, or on a new line if it is a node of its own";
        self.error("syntax", "a node ends with its block", range, "this follows the block", help);
        self.skip_node();
    }

    /// Skips to the end of a node that cannot be read, blocks included.
    fn skip_node(&mut self) {
        while let Some(kind) = self.peek() {
            match kind {
                TokenKind::CloseBrace => return,
                TokenKind::OpenBrace => self.at = self.blocks[self.at].unwrap_or(self.at) + 1,
                TokenKind::Newline | TokenKind::Semicolon => {
                    self.at += 1;
                    return;
                }
                _ => self.at += 1,
            }
        }
    }

    fn node_name(&mut self) -> Option<Spanned<String>> {
        let Some(token) = self.token() else {
            let end = self.text.len();
            self.error("syntax", "a node needs a name", end..end, "the text ends here", "write the node's name");
            return None;
        };
        let word = &self.text[token.range()];
        match token.kind {
            TokenKind::Word if is_number(word) => {
                let message = format!("a node cannot be named by a number, and `{word}` reads as one");
                let help = "a node begins with its name; quote the name if it really begins like a number";
                self.error("syntax", message, token.range(), "expected a node's name", help);
                None
            }
            TokenKind::Word | TokenKind::Quoted | TokenKind::Raw => self.string(token).map(|(name, _)| name),
            TokenKind::OpenBrace => {
                let help = "a block belongs to the node on whose line it opens: `name {`";
                self.error("syntax", "this block has no node", token.range(), "expected a node's name before it", help);
                None
            }
            TokenKind::Bad => {
                self.broken = true;
                None
            }
            _ => {
                let message = format!("a node begins with its name, and `{word}` cannot be one");
                self.error(
                    "syntax",
                    message,
                    token.range(),
                    "expected a node's name",
                    "write `name value key=value { ... }`",
                );
                None
            }
        }
    }

    /// `(name)` before a node or a value.
    fn annotation(&mut self) -> Option<Spanned<String>> {
        let open = self.token().filter(|t| t.kind == TokenKind::OpenParen)?;
        self.at += 1;
        self.skip_space();
        let name = self.token().filter(|t| matches!(t.kind, TokenKind::Word | TokenKind::Quoted | TokenKind::Raw));
        let name = name.and_then(|t| self.string(t).map(|(name, _)| name));
        self.skip_space();
        match self.token() {
            Some(close) if close.kind == TokenKind::CloseParen && name.is_some() => {
                self.at += 1;
                self.skip_space();
                name
            }
            _ => {
                let closed = self.close_on_line();
                let range = open.start..closed.map_or(open.end, |i| self.tokens[i].end);
                self.at = closed.map_or_else(|| self.end_of_line(), |i| i + 1);
                let help = "a type annotation is one word in parentheses; other parentheses stand inside quotes";
                self.error("syntax", "this is no type annotation", range, "expected `(name)`", help);
                self.skip_space();
                None
            }
        }
    }

    /// The end of this line, or a block on it.
    fn end_of_line(&self) -> usize {
        use TokenKind::{CloseBrace, Newline, OpenBrace};
        let ends = |i: &usize| matches!(self.tokens[*i].kind, Newline | OpenBrace | CloseBrace);
        (self.at..self.tokens.len()).find(ends).unwrap_or(self.tokens.len())
    }

    /// The next `)` on this line, before any block.
    fn close_on_line(&self) -> Option<usize> {
        (self.at..self.end_of_line()).find(|i| self.tokens[*i].kind == TokenKind::CloseParen)
    }

    /// A string token's value and, where it is written without escapes, the place of its characters.
    fn string(&mut self, token: Token) -> Option<(Spanned<String>, Option<Span>)> {
        self.at += 1;
        let word = &self.text[token.range()];
        let span = self.span(token.range());
        if token.kind == TokenKind::Word {
            if matches!(word, "true" | "false" | "null" | "inf" | "-inf" | "nan") {
                let message = format!("the bare word `{word}` is neither a string nor a keyword");
                let help = format!("write `#{word}` for the keyword or `\"{word}\"` for the string");
                self.error("bare-keyword", message, token.range(), "a keyword begins with `#`", &help);
                return None;
            }
            return Some((Spanned::new(word.to_string(), span), Some(span)));
        }
        match string(word) {
            Ok(text) => {
                let verbatim = text.verbatim.map(|r| self.span(token.start + r.start..token.start + r.end));
                Some((Spanned::new(text.value, span), verbatim))
            }
            Err(bad) => {
                let range = token.start + bad.range.start..token.start + bad.range.end;
                self.error(bad.code, bad.message, range, "in this string", bad.help);
                None
            }
        }
    }

    /// An argument or a property. `None` after an error; at least one token is consumed.
    fn entry(&mut self) -> Option<Entry> {
        let first = self.token()?;
        let is_string = match first.kind {
            TokenKind::Word => !is_number(&self.text[first.range()]),
            TokenKind::Quoted | TokenKind::Raw => true,
            _ => false,
        };
        if !is_string {
            let entry = self.value(first.start);
            return if self.is_no_key(first) { None } else { entry };
        }
        if !self.equals_follows() {
            return self.value(first.start);
        }
        let key = self.string(first).map(|(key, _)| key);
        self.skip_space();
        self.at += 1;
        self.skip_space();
        if matches!(
            self.peek(),
            None | Some(TokenKind::Newline | TokenKind::LineComment | TokenKind::Semicolon | TokenKind::OpenBrace)
                | Some(TokenKind::CloseBrace | TokenKind::Equals | TokenKind::Slashdash)
        ) {
            let range = first.start..self.tokens[self.at - 1].end;
            let message = format!("the property `{}` has no value", &self.text[first.range()]);
            self.error("missing-value", message, range, "a value must follow `=`", "write it as `name=value`");
            self.at += usize::from(self.peek() == Some(TokenKind::Equals));
            return None;
        }
        let mut entry = self.value(first.start)?;
        entry.name = Some(key?);
        Some(entry)
    }

    /// Whether the token after the present one, white space aside, is `=`.
    fn equals_follows(&self) -> bool {
        let is_space =
            |t: &&Token| matches!(t.kind, TokenKind::Space | TokenKind::BlockComment | TokenKind::LineContinuation);
        self.tokens[self.at + 1..].iter().find(|t| !is_space(t)).is_some_and(|t| t.kind == TokenKind::Equals)
    }

    /// Reports `5=x`, where what stands before `=` cannot be a key.
    fn is_no_key(&mut self, key: Token) -> bool {
        let found = self.peek() == Some(TokenKind::Equals) && key.kind != TokenKind::Equals;
        if found {
            let range = key.start..self.tokens[self.at].end;
            self.at += 1;
            let help = "a property's name is a word or a quoted string, and a type annotation stands before the value";
            self.error("syntax", "this cannot be the name of a property", range, "expected `name=value`", help);
        }
        found
    }

    /// A value with its annotation; the entry starts at `start`.
    fn value(&mut self, start: usize) -> Option<Entry> {
        let annotation = self.annotation();
        let token = self.token()?;
        let text = &self.text[token.range()];
        let mut verbatim = None;
        let value = match token.kind {
            TokenKind::Word if is_number(text) => {
                self.at += 1;
                match number(text) {
                    Ok(value) => value,
                    Err(help) => {
                        let message = format!("`{text}` is not a number that KDL can read");
                        self.error("bad-number", message, token.range(), "begins like a number", help);
                        return None;
                    }
                }
            }
            TokenKind::Word | TokenKind::Quoted | TokenKind::Raw => {
                let (value, place) = self.string(token)?;
                verbatim = place;
                Scalar::Str(value.value)
            }
            TokenKind::Keyword => {
                self.at += 1;
                keyword(text)
            }
            _ => {
                self.unexpected(token);
                return None;
            }
        };
        let (value, span) = (Spanned::new(value, self.span(token.range())), self.span(start..token.end));
        Some(Entry { name: None, annotation, value, verbatim, span })
    }

    /// Reports a token where a value should be, and moves past it unless it ends the node.
    fn unexpected(&mut self, token: Token) {
        self.broken = true;
        let ends_node = matches!(token.kind, TokenKind::Newline | TokenKind::Semicolon | TokenKind::LineComment)
            || matches!(token.kind, TokenKind::CloseBrace | TokenKind::OpenBrace);
        if !ends_node {
            self.at += 1;
        }
        if token.kind != TokenKind::Bad {
            let found = match token.kind {
                TokenKind::Newline | TokenKind::LineComment => "the end of the line".to_string(),
                _ => format!("`{}`", &self.text[token.range()]),
            };
            let message = format!("expected a value or `name=value`, found {found}");
            let help = "properties are written `name=value`, values `\"text\"`, `5` or `#true`";
            self.error("syntax", message, token.range(), "unexpected", help);
        }
    }

    /// A block whose `{` is the present token.
    fn block(&mut self) -> Block {
        let open = self.at;
        let close = self.blocks[open].unwrap_or(open);
        let span = self.span(self.tokens[open].start..self.tokens[close].end);
        if self.depth == MAX_DEPTH {
            let help = "no node of a pipeline needs more than a few levels";
            let message = format!("blocks may be nested {MAX_DEPTH} deep at most");
            self.error("nested-too-deep", message, self.tokens[open].range(), "one level too many", help);
            self.at = close + 1;
            return Block { nodes: Vec::new(), span };
        }
        self.depth += 1;
        self.at = open + 1;
        let nodes = self.nodes();
        self.at = close + 1;
        self.depth -= 1;
        Block { nodes, span }
    }
}

fn keyword(word: &str) -> Scalar {
    match word {
        "#true" => Scalar::Bool(true),
        "#false" => Scalar::Bool(false),
        "#inf" => Scalar::Float(f64::INFINITY),
        "#-inf" => Scalar::Float(f64::NEG_INFINITY),
        "#nan" => Scalar::Float(f64::NAN),
        _ => Scalar::Null,
    }
}
