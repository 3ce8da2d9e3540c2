//! What a string token stands for: escapes resolved, lines dedented.

use super::lexer::{is_newline, is_space};
use std::ops::Range;

/// The value of a string token, or what is wrong with it and where in the token.
pub(super) struct Text {
    pub value: String,
    /// Where the characters of `value` stand in the token, when they stand there one to one.
    pub verbatim: Option<Range<usize>>,
}

/// An error inside a token.
#[derive(Debug, PartialEq)]
pub(super) struct BadString {
    pub code: &'static str,
    pub range: Range<usize>,
    pub message: &'static str,
    pub help: &'static str,
}

/// Reads a token that the lexer found to be a closed string.
pub(super) fn string(token: &str) -> Result<Text, BadString> {
    let hashes = token.len() - token.trim_start_matches('#').len();
    let inner = &token[hashes..token.len() - hashes];
    if let Some(body) = inner.strip_prefix("\"\"\"") {
        let body = &body[..body.len() - 3];
        return many_lines(body, hashes + 3, hashes == 0);
    }
    let body = &inner[1..inner.len() - 1];
    let at = hashes + 1;
    if hashes > 0 || !body.contains('\\') {
        return Ok(Text { value: body.to_string(), verbatim: Some(at..at + body.len()) });
    }
    let value = unescape(&without_escaped_blanks(body).0).map_err(|bad| BadString {
        // Blanks that were escaped away shift the place; then the whole string is pointed at.
        range: find_escape(body, &bad.escape).map_or(0..token.len(), |r| at + r.start..at + r.end),
        code: "bad-escape",
        message: bad.message,
        help: bad.help,
    })?;
    Ok(Text { value, verbatim: None })
}

/// A multi-line body: from after the opening quotes to before the closing ones.
fn many_lines(body: &str, at: usize, escapes: bool) -> Result<Text, BadString> {
    let whole = 0..at + body.len() + at;
    let (resolved, last_line_escaped) = if escapes { without_escaped_blanks(body) } else { (body.to_string(), false) };
    let lines = lines(&resolved);
    let bad = |message, help| BadString { code: "bad-multiline-string", range: whole.clone(), message, help };
    let [_, inner @ .., prefix] = lines.as_slice() else {
        return Err(bad(
            "the closing `\"\"\"` of a multi-line string must stand on a line of its own",
            "put the text on lines between the two `\"\"\"`",
        ));
    };
    if last_line_escaped || !prefix.chars().all(is_space) {
        return Err(bad(
            "only white space may stand before the closing `\"\"\"` of a multi-line string",
            "put the closing `\"\"\"` on a line of its own, indented like the text",
        ));
    }
    let mut value = String::with_capacity(body.len());
    for (i, line) in inner.iter().enumerate() {
        if i > 0 {
            value.push('\n');
        }
        if line.chars().all(is_space) {
            continue;
        }
        let Some(text) = line.strip_prefix(prefix) else {
            return Err(bad(
                "every line of a multi-line string must begin with the white space that stands before its closing `\"\"\"`",
                "indent the text at least as far as the closing `\"\"\"`, with the same tabs or spaces",
            ));
        };
        value.push_str(text);
    }
    if escapes && value.contains('\\') {
        value = unescape(&value).map_err(|e| BadString {
            range: find_escape(body, &e.escape).map_or(whole.clone(), |r| at + r.start..at + r.end),
            code: "bad-escape",
            message: e.message,
            help: e.help,
        })?;
    }
    Ok(Text { value, verbatim: None })
}

/// Splits at KDL's newlines; a carriage return and a line feed count as one.
fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_newline) {
        lines.push(&rest[..at]);
        let newline = &rest[at..];
        let length = if newline.starts_with("\r\n") { 2 } else { newline.chars().next().map_or(0, char::len_utf8) };
        rest = &newline[length..];
    }
    lines.push(rest);
    lines
}

/// Drops every backslash that is followed by white space, with that white space. Also says whether that swallowed the
/// end of the text's last line break.
fn without_escaped_blanks(text: &str) -> (String, bool) {
    let blank = |c| is_space(c) || is_newline(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut swallowed_end = false;
    while let Some(at) = rest.find('\\') {
        let after = &rest[at + 1..];
        match after.chars().next() {
            Some(c) if blank(c) => {
                out.push_str(&rest[..at]);
                let trimmed = after.trim_start_matches(blank);
                swallowed_end = trimmed.is_empty() && after.contains(is_newline);
                rest = trimmed;
            }
            Some(c) => {
                out.push_str(&rest[..at + 1 + c.len_utf8()]);
                rest = &after[c.len_utf8()..];
            }
            None => break,
        }
    }
    out.push_str(rest);
    (out, swallowed_end)
}

struct BadEscape {
    escape: String,
    message: &'static str,
    help: &'static str,
}

fn unescape(text: &str) -> Result<String, BadEscape> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at..];
        let c = escape[1..].chars().next();
        let plain = match c {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some('b') => '\u{08}',
            Some('f') => '\u{0C}',
            Some('s') => ' ',
            Some(c @ ('\\' | '"')) => c,
            Some('u') => {
                let (c, length) = unicode(escape)?;
                out.push(c);
                rest = &escape[length..];
                continue;
            }
            _ => {
                return Err(BadEscape {
                    escape: escape.chars().take(2).collect(),
                    message: "this escape does not exist",
                    help: "escapes are `\\n`, `\\t`, `\\r`, `\\s`, `\\b`, `\\f`, `\\\"`, `\\\\` and `\\u{...}`; write `\\\\` for a backslash, or a raw string: `#\"...\"#`",
                });
            }
        };
        out.push(plain);
        rest = &escape[2..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The character of `\u{...}` and the length of the escape.
fn unicode(escape: &str) -> Result<(char, usize), BadEscape> {
    let bad = |length: usize| BadEscape {
        escape: escape.chars().take(length).collect(),
        message: "this is no Unicode character",
        help: "write one to six hexadecimal digits in braces, as in `\\u{e9}`",
    };
    let Some(digits) = escape.strip_prefix("\\u{") else { return Err(bad(2)) };
    let Some(length) = digits.find('}') else { return Err(bad(3)) };
    let digits = &digits[..length];
    let hexadecimal = (1..=6).contains(&length) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let code = hexadecimal.then(|| u32::from_str_radix(digits, 16).ok()).flatten();
    let whole = "\\u{".len() + length + 1;
    code.and_then(char::from_u32).map(|c| (c, whole)).ok_or_else(|| bad(escape[..whole].chars().count()))
}

/// The first place of an escape that is really one, and not the second half of `\\`.
fn find_escape(body: &str, escape: &str) -> Option<Range<usize>> {
    let mut at = 0;
    while let Some(found) = body[at..].find('\\') {
        let start = at + found;
        if body[start..].starts_with(escape) {
            return Some(start..start + escape.len());
        }
        at = start + 1 + body[start + 1..].chars().next().map_or(0, char::len_utf8);
    }
    None
}
