//! Texts, tables and cells as the page shows them: cut where they are long, without characters that pages cannot show.

use super::model::{Cell, Table, TableCell, TableHead, Text};
use crate::exec::Setting;
use crate::report::grid::Grid;
use crate::report::words::number;
use serde_json::Value;

/// Characters of a text that are always shown, and those that a click shows.
const SHOWN: usize = 700;
const ON_CLICK: usize = 20_000;
/// Rows of a table.
const ROWS: usize = 200;
/// A cell with more characters than this, or several lines, is a block.
const INLINE: usize = 72;

/// Cuts a text after so many characters.
pub fn cut_at(text: &str, shown: usize, on_click: usize) -> Text {
    let text = clean(text);
    // A cut that saves next to nothing only disturbs.
    let split = |text: &str, at: usize| match text.char_indices().nth(at + at / 4) {
        Some(_) => text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte),
        None => text.len(),
    };
    let first = split(&text, shown);
    let (start, after) = text.split_at(first);
    let (rest, cut) = after.split_at(split(after, on_click));
    let count = |text: &str| match text.chars().count() {
        0 => String::new(),
        n => number(n as u64),
    };
    Text { start: start.to_string(), rest: rest.to_string(), rest_chars: count(rest), cut: count(cut) }
}

/// Cuts a text where a page of them would become too long.
pub fn cut(text: &str) -> Text {
    cut_at(text, SHOWN, ON_CLICK)
}

/// Control characters, which pages may not hold or which turn the direction of what follows, become visible.
pub fn clean(text: &str) -> String {
    let hidden = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}');
    let normal = text.replace("\r\n", "\n");
    normal
        .chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() || hidden(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// One value of a row.
pub fn cell(column: &str, value: &Value) -> Cell {
    let text = match value {
        Value::Null => return Cell { column: clean(column), text: Text::default(), missing: true, long: false },
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let long = text.chars().nth(INLINE).is_some() || text.contains('\n');
    Cell { column: clean(column), text: cut(&text), missing: false, long }
}

/// A table as people are shown it.
pub fn table(grid: &Grid) -> Table {
    let grid = grid.with_note_column();
    let cell = |row: usize, at: usize| {
        let (text, mark) = (grid.rows[row][at].as_deref(), grid.mark(row, at));
        TableCell {
            text: text.map(|t| cut_at(t, 160, ON_CLICK)).unwrap_or_default(),
            number: grid.columns[at].number,
            missing: text.is_none(),
            behind: mark.behind,
            raised: "*".repeat(mark.stars) + &mark.note.map_or_else(String::new, |n| format!("[{n}]")),
        }
    };
    let rows = (0..grid.rows.len().min(ROWS)).map(|row| (0..grid.columns.len()).map(|at| cell(row, at)).collect());
    let heads = grid.columns.iter().map(|c| TableHead { label: clean(&c.whole()), number: c.number });
    let legend = grid.legend.iter().map(|l| match l.mark.behind {
        true => format!("underlined: {}", clean(&l.text)),
        false => clean(&l.text),
    });
    Table {
        caption: grid.title.as_deref().map(clean).unwrap_or_default(),
        heads: heads.collect(),
        rows: rows.collect(),
        remarks: legend.chain(grid.remarks.iter().map(|r| clean(r))).collect(),
        more: match grid.rows.len().saturating_sub(ROWS) {
            0 => String::new(),
            more => number(more as u64),
        },
    }
}

/// A table of plain texts.
pub fn plain<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
    let cell = |text: String| TableCell {
        missing: text.is_empty(),
        text: cut_at(&text, 400, ON_CLICK),
        ..TableCell::default()
    };
    Table {
        heads: heads.iter().map(|h| TableHead { label: h.to_string(), number: false }).collect(),
        rows: rows.into_iter().map(|r| r.into_iter().map(cell).collect()).collect(),
        ..Table::default()
    }
}

/// Names, values and what they mean.
pub fn settings(all: &[Setting]) -> Table {
    plain(["name", "value", ""], all.iter().map(|s| [s.name.clone(), s.value.clone(), s.note.clone()]))
}

/// Everything but letters and digits as `%XX`, for addresses.
pub fn percent(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(bytes.len() * 2);
    for &b in bytes {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        assert_eq!(cut_at("abc", 3, 3), Text { start: "abc".into(), ..Text::default() });
        assert_eq!(cut_at(&"é".repeat(12), 10, 5).start.chars().count(), 12, "a cut of two characters is none");
        let text = cut_at(&"é".repeat(40), 10, 20);
        assert_eq!((text.start.chars().count(), text.rest.chars().count()), (10, 20));
        assert_eq!((text.rest_chars.as_str(), text.cut.as_str()), ("20", "10"));
    }

    #[test]
    fn nothing_hidden_stays_hidden() {
        assert_eq!(clean("a\u{0}b\r\nc\u{202e}d\te"), "a\u{fffd}b\nc\u{fffd}d\te");
    }

    #[test]
    fn addresses_hold_letters_and_digits_alone() {
        assert_eq!(percent("a b/<é>.svg".as_bytes()), "a%20b%2F%3C%C3%A9%3E.svg");
    }
}
