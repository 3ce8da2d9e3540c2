//! Text -> tokens. Lossless: the tokens' ranges cover the text without gaps, so that the formatter can work on them.
//!
//! One pass over the text, no backtracking and no recursion. Whatever cannot be read becomes a [`TokenKind::Bad`]
//! token and a diagnostic.

use crate::diag::{Diagnostic, Diagnostics, SourceId, Span};
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Blanks other than newlines; a byte order mark at the start.
    Space,
    Newline,
    /// `// ...`, without the newline.
    LineComment,
    /// `/* ... */`, nested ones included.
    BlockComment,
    /// A backslash that continues the line, with everything up to and including the newline.
    LineContinuation,
    /// An identifier or a number.
    Word,
    /// `"..."` or `"""..."""`.
    Quoted,
    /// `#"..."#` or `#"""..."""#`.
    Raw,
    /// `#true` and the like.
    Keyword,
    OpenBrace,
    CloseBrace,
    OpenParen,
    CloseParen,
    Equals,
    Semicolon,
    /// `/-`
    Slashdash,
    /// Already reported.
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub kind: TokenKind,
    pub start: usize,
    pub end: usize,
}

impl Token {
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// The tokens of a text; errors go to `diagnostics`.
pub(super) fn lex(text: &str, source: SourceId, diagnostics: &mut Diagnostics) -> Vec<Token> {
    report_forbidden_characters(text, source, diagnostics);
    let mut lexer = Lexer { text, at: 0, source, diagnostics, tokens: Vec::with_capacity(text.len() / 4) };
    if text.starts_with('\u{FEFF}') {
        lexer.at = '\u{FEFF}'.len_utf8();
        lexer.push(TokenKind::Space, 0);
    }
    while lexer.at < text.len() {
        lexer.next();
    }
    lexer.tokens
}

pub(super) fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{0B}' | '\u{0C}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// KDL's white space other than newlines.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, '\t' | ' ' | '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{202F}' | '\u{205F}' | '\u{3000}')
}

/// A character that may stand in an unquoted word.
pub(super) fn is_word(c: char) -> bool {
    !is_newline(c)
        && !is_space(c)
        && !is_forbidden(c)
        && !matches!(c, '\\' | '/' | '(' | ')' | '{' | '}' | '[' | ']' | ';' | '"' | '#' | '=')
}

/// Control characters and direction marks, which KDL allows nowhere in a text, not even in strings or comments.
fn is_forbidden(c: char) -> bool {
    matches!(c, '\0'..='\u{08}' | '\u{0E}'..='\u{1F}' | '\u{7F}' | '\u{200E}' | '\u{200F}'
        | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// Reports the first forbidden character: a file that has one has mostly many.
fn report_forbidden_characters(text: &str, source: SourceId, diagnostics: &mut Diagnostics) {
    let mut characters = text.char_indices().skip_while(|(i, c)| *i == 0 && *c == '\u{FEFF}');
    if let Some((at, c)) = characters.find(|(_, c)| is_forbidden(*c)) {
        diagnostics.push(
            Diagnostic::error(
                "bad-character",
                format!("the character U+{:04X} is not allowed in KDL text", u32::from(c)),
            )
            .at(Span::new(source, at, at + c.len_utf8()), "an invisible control character")
            .help(format!("delete it; inside a quoted string it can be written `\\u{{{:x}}}`", u32::from(c))),
        );
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    source: SourceId,
    diagnostics: &'a mut Diagnostics,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: TokenKind, start: usize) {
        self.tokens.push(Token { kind, start, end: self.at });
    }

    /// Moves past the characters that `accept` takes.
    fn skip(&mut self, accept: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !accept(c)).unwrap_or(rest.len());
    }

    /// Moves past one newline, if there is one here; a carriage return and a line feed count as one.
    fn skip_newline(&mut self) -> bool {
        let rest = self.rest();
        let length = match rest.chars().next() {
            Some('\r') if rest.starts_with("\r\n") => 2,
            Some(c) if is_newline(c) => c.len_utf8(),
            _ => return false,
        };
        self.at += length;
        true
    }

    fn error(&mut self, code: &'static str, message: String, range: Range<usize>, label: &str, help: &str) {
        let span = Span::new(self.source, range.start, range.end);
        self.diagnostics.push(Diagnostic::error(code, message).at(span, label).help(help));
    }

    fn next(&mut self) {
        let start = self.at;
        let rest = self.rest();
        let Some(c) = rest.chars().next() else { return };
        let kind = match c {
            _ if is_space(c) => {
                self.skip(is_space);
                TokenKind::Space
            }
            _ if is_newline(c) => {
                self.skip_newline();
                TokenKind::Newline
            }
            '/' => self.slash(),
            '\\' => self.backslash(),
            '"' => self.quoted(),
            '#' => self.hash(),
            '{' => self.single(TokenKind::OpenBrace),
            '}' => self.single(TokenKind::CloseBrace),
            '(' => self.single(TokenKind::OpenParen),
            ')' => self.single(TokenKind::CloseParen),
            '=' => self.single(TokenKind::Equals),
            ';' => self.single(TokenKind::Semicolon),
            '[' | ']' => {
                let help =
                    "KDL has no lists in brackets: write the values one after another, as in `columns \"a\" \"b\"`";
                self.stray(c, help)
            }
            _ if is_word(c) => {
                self.skip(is_word);
                TokenKind::Word
            }
            _ => {
                // Already reported as a forbidden character.
                self.at += c.len_utf8();
                TokenKind::Bad
            }
        };
        self.push(kind, start);
    }

    fn single(&mut self, kind: TokenKind) -> TokenKind {
        self.at += 1;
        kind
    }

    /// Reports a character that has no meaning where it stands.
    fn stray(&mut self, c: char, help: &str) -> TokenKind {
        let start = self.at;
        self.at += c.len_utf8();
        self.error("bad-character", format!("`{c}` has no meaning here"), start..self.at, "unexpected character", help);
        TokenKind::Bad
    }

    fn slash(&mut self) -> TokenKind {
        let rest = self.rest();
        if rest.starts_with("//") {
            self.skip(|c| !is_newline(c));
            TokenKind::LineComment
        } else if rest.starts_with("/*") {
            self.block_comment()
        } else if rest.starts_with("/-") {
            self.at += 2;
            TokenKind::Slashdash
        } else {
            self.stray('/', "a string that contains a slash, such as a path, stands in quotes")
        }
    }

    fn block_comment(&mut self) -> TokenKind {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut depth = 0usize;
        while self.at < bytes.len() {
            match &bytes[self.at..bytes.len().min(self.at + 2)] {
                b"/*" => {
                    depth += 1;
                    self.at += 2;
                }
                b"*/" => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return TokenKind::BlockComment;
                    }
                }
                _ => self.at += 1,
            }
        }
        self.error(
            "unclosed-comment",
            "this comment is not closed".into(),
            start..start + 2,
            "opened here",
            "close it with `*/`; comments nest, so that each `/*` needs its own `*/`",
        );
        TokenKind::Bad
    }

    /// `\`, blanks and comments, and the end of the line (or of the text).
    fn backslash(&mut self) -> TokenKind {
        let start = self.at;
        self.at += 1;
        loop {
            self.skip(is_space);
            let rest = self.rest();
            if rest.is_empty() || self.skip_newline() {
                return TokenKind::LineContinuation;
            } else if rest.starts_with("//") {
                self.skip(|c| !is_newline(c));
            } else if rest.starts_with("/*") {
                if self.block_comment() == TokenKind::Bad {
                    return TokenKind::Bad;
                }
            } else {
                break;
            }
        }
        self.at = start;
        self.stray('\\', "outside of strings a backslash only continues a line, as the last character on it")
    }

    fn quoted(&mut self) -> TokenKind {
        let start = self.at;
        if self.rest().starts_with("\"\"\"") {
            self.at += 3;
            return self.many_lines(start, "\"\"\"", true, TokenKind::Quoted);
        }
        self.at += 1;
        loop {
            let rest = self.rest();
            match rest.chars().next() {
                Some('"') => {
                    self.at += 1;
                    return TokenKind::Quoted;
                }
                Some('\\') => self.escape(),
                Some(c) if !is_newline(c) => self.at += c.len_utf8(),
                _ => return self.unclosed_line(start),
            }
        }
    }

    /// A backslash inside a string, with what it escapes: one character or a run of white space.
    fn escape(&mut self) {
        self.at += 1;
        let blank = |c| is_space(c) || is_newline(c);
        match self.rest().chars().next() {
            Some(c) if blank(c) => self.skip(blank),
            Some(c) => self.at += c.len_utf8(),
            None => {}
        }
    }

    fn unclosed_line(&mut self, start: usize) -> TokenKind {
        self.error(
            "unclosed-string",
            "this string is not closed on its line".into(),
            start..self.at,
            "no closing quote",
            "close it, or write a string of several lines between lines with `\"\"\"`",
        );
        TokenKind::Bad
    }

    /// The rest of a multi-line string whose opening quotes were just read.
    fn many_lines(&mut self, start: usize, close: &str, escapes: bool, mut kind: TokenKind) -> TokenKind {
        let opened = start..self.at;
        if !self.skip_newline() {
            self.error(
                "bad-multiline-string",
                "the opening `\"\"\"` of a multi-line string must be the last thing on its line".into(),
                opened.clone(),
                "the text starts on the next line",
                "put the text and the closing `\"\"\"` on lines of their own; an empty string is `\"\"`",
            );
            kind = TokenKind::Bad;
        }
        while self.at < self.text.len() {
            let rest = self.rest();
            if rest.starts_with(close) {
                self.at += close.len();
                return kind;
            } else if escapes && rest.starts_with('\\') {
                self.escape();
            } else {
                self.at += rest.chars().next().map_or(0, char::len_utf8);
            }
        }
        self.error(
            "unclosed-string",
            "this multi-line string is not closed".into(),
            opened,
            "opened here",
            &format!("close it with `{close}` on a line of its own"),
        );
        TokenKind::Bad
    }

    /// A raw string or a keyword.
    fn hash(&mut self) -> TokenKind {
        let start = self.at;
        self.skip(|c| c == '#');
        let hashes = &self.text[start..self.at];
        if self.rest().starts_with("\"\"\"") {
            self.at += 3;
            return self.many_lines(start, &format!("\"\"\"{hashes}"), false, TokenKind::Raw);
        }
        if self.rest().starts_with('"') {
            self.at += 1;
            let close = format!("\"{hashes}");
            while let Some(c) = self.rest().chars().next().filter(|c| !is_newline(*c)) {
                if self.rest().starts_with(&close) {
                    self.at += close.len();
                    return TokenKind::Raw;
                }
                self.at += c.len_utf8();
            }
            return self.unclosed_line(start);
        }
        self.skip(is_word);
        let word = &self.text[start..self.at];
        if matches!(word, "#true" | "#false" | "#null" | "#inf" | "#-inf" | "#nan") {
            return TokenKind::Keyword;
        }
        self.error(
            "bad-keyword",
            format!("`{word}` is not a keyword"),
            start..self.at,
            "unknown keyword",
            "the keywords are `#true`, `#false`, `#null`, `#inf`, `#-inf` and `#nan`; a string stands in quotes",
        );
        TokenKind::Bad
    }
}
