//! Text in lines of a given width.

use crate::report::font::Face;

/// The text in at most `max_lines` lines no wider than `width`. Lines break at blanks and after `_`, `-`, `/`; the last
/// line, and a part that is too wide alone, is cut with an ellipsis.
pub fn wrap(face: &Face, text: &str, size: f32, width: f32, max_lines: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() && lines.len() < max_lines {
        let end = if lines.len() + 1 == max_lines { rest.len() } else { break_point(face, rest, size, width) };
        lines.push(face.fit(rest[..end].trim_end(), size, width));
        rest = rest[end..].trim_start();
    }
    lines
}

/// Whether wrapping keeps every part of the text whole.
pub fn wraps_whole(face: &Face, text: &str, size: f32, width: f32, max_lines: usize) -> bool {
    let lines = wrap(face, text, size, width, max_lines);
    let squeezed = |t: &str| t.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    squeezed(&lines.concat()) == squeezed(text)
}

/// The end of the longest piece that fits; of the first part where none does.
fn break_point(face: &Face, text: &str, size: f32, width: f32) -> usize {
    let mut ends =
        text.char_indices().filter(|(_, c)| c.is_whitespace() || "_-/".contains(*c)).map(|(i, c)| i + c.len_utf8());
    let first = ends.next().unwrap_or(text.len());
    let fits = |end: &usize| face.width(text[..*end].trim_end(), size) <= width;
    ends.chain([text.len()]).take_while(fits).last().unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::font::REGULAR;

    #[test]
    fn lines_fit_and_keep_the_text() {
        let lines = wrap(&REGULAR, "detailed step-by-step transform", 12.0, 90.0, 4);
        assert!(lines.len() > 1 && lines.iter().all(|l| REGULAR.width(l, 12.0) <= 90.0), "{lines:?}");
        assert_eq!(lines.join(" ").replace("- ", "-"), "detailed step-by-step transform");
        assert!(wraps_whole(&REGULAR, "detailed step-by-step transform", 12.0, 90.0, 4));
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let lines = wrap(&REGULAR, "one two three four five six", 12.0, 40.0, 2);
        assert!(lines.len() == 2 && lines[1].ends_with('…'), "{lines:?}");
        assert!(!wraps_whole(&REGULAR, "Donaudampfschifffahrt", 12.0, 40.0, 3));
        assert!(wrap(&REGULAR, "", 12.0, 40.0, 2).is_empty());
    }
}
