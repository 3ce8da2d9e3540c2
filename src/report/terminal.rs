//! Tables for the terminal: aligned, and no wider than 80 columns where that is possible.

use super::grid::{Grid, Mark};
use textwrap::core::display_width;
use textwrap::{Options, WordSeparator, WordSplitter};

/// The width that drawings for the terminal keep. It is fixed because a drawing is kept with the result that it shows.
pub const WIDTH: usize = 80;
/// What stands where there is no value.
pub const MISSING: &str = "–";
/// Rows of a long table that are shown.
const MAX_ROWS: usize = 100;
/// Lines of a long text that are shown.
const MAX_LINES: usize = 4;
/// Words of a text column are not broken unless they are longer.
const MAX_WORD: usize = 24;

/// The table as lines.
pub fn render(grid: &Grid) -> String {
    let mut out = String::new();
    if let Some(title) = &grid.title {
        out.push_str(&textwrap::fill(&plain(title), WIDTH));
        out.push_str("\n\n");
    }
    if grid.rows.is_empty() {
        out.push_str("no rows\n");
        footer(grid, &[], &mut out);
        return out;
    }
    let (sheet, constants) = Sheet::of(grid).without_constants();
    for block in sheet.blocks() {
        block.draw(&mut out);
        out.push('\n');
    }
    out.pop();
    footer(grid, &constants, &mut out);
    out
}

/// Below the table: what is the same in all rows, notes, rows not shown.
fn footer(grid: &Grid, constants: &[(String, String)], out: &mut String) {
    let mut lines: Vec<String> = Vec::new();
    if !constants.is_empty() {
        let pairs: Vec<String> = constants.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        lines.push(format!("in all rows: {}", pairs.join(", ")));
    }
    for (i, note) in distinct(&grid.notes[..shown(grid)]).iter().enumerate() {
        lines.push(format!("[{}] {}", i + 1, plain(note)));
    }
    for legend in &grid.legend {
        let sign = signs(legend.mark);
        let gap = if sign.is_empty() { "" } else { " " };
        lines.push(format!("{sign}{gap}{}", plain(&legend.text)));
    }
    lines.extend(grid.remarks.iter().map(|r| plain(r)));
    if grid.rows.len() > MAX_ROWS {
        lines.push(format!("{} more rows are not shown", grid.rows.len() - MAX_ROWS));
    }
    if lines.is_empty() {
        return;
    }
    out.push('\n');
    for line in lines {
        out.push_str(&textwrap::fill(&line, Options::new(WIDTH).subsequent_indent("    ")));
        out.push('\n');
    }
}

/// What stands behind a cell.
fn signs(mark: Mark) -> String {
    let behind = if mark.behind { "†" } else { "" };
    let note = mark.note.map_or_else(String::new, |n| format!(" [{n}]"));
    format!("{}{behind}{note}", "*".repeat(mark.stars))
}

/// The cells of a column with their marks behind them, numbers still below each other, and the width of the marks.
fn marked(mut cells: Vec<String>, number: bool, mark: impl Fn(usize) -> Mark) -> (Vec<String>, usize) {
    let signs: Vec<String> = (0..cells.len()).map(|row| signs(mark(row))).collect();
    let widest = if number { signs.iter().map(|s| display_width(s)).max().unwrap_or(0) } else { 0 };
    for (cell, sign) in cells.iter_mut().zip(signs) {
        cell.push_str(&sign);
        cell.push_str(&" ".repeat(widest.saturating_sub(display_width(&sign))));
    }
    (cells, widest)
}

fn shown(grid: &Grid) -> usize {
    grid.rows.len().min(MAX_ROWS)
}

fn distinct(notes: &[Option<String>]) -> Vec<&String> {
    let mut seen: Vec<&String> = Vec::new();
    for note in notes.iter().flatten() {
        if !seen.contains(&note) {
            seen.push(note);
        }
    }
    seen
}

/// Text without anything that could move the cursor or break a line.
pub fn plain(text: &str) -> String {
    let visible = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(visible).collect()
}

/// A column on its way to the terminal.
#[derive(Clone)]
struct Strip {
    head: String,
    /// What spans this strip and its neighbours that have the same.
    above: Option<String>,
    number: bool,
    cells: Vec<String>,
    /// What marks take at the right of the cells; the head stands over the numbers.
    tail: usize,
    width: usize,
}

impl Strip {
    fn natural(&self) -> usize {
        self.cells.iter().chain([&self.head]).map(|c| display_width(c)).max().unwrap_or(0)
    }

    /// The width with the head broken into lines at its word boundaries.
    fn narrow_head(&self) -> usize {
        let head = parts(&self.head).iter().map(|p| display_width(p)).max().unwrap_or(0);
        self.cells.iter().map(|c| display_width(c)).max().unwrap_or(0).max(head)
    }

    /// The head over the numbers, not over their marks, where there is room.
    fn head_lines(&self) -> Vec<String> {
        let mut lines = wrap_head(&self.head, self.width);
        if lines.iter().all(|line| display_width(line) + self.tail <= self.width) {
            lines.iter_mut().for_each(|line| line.push_str(&" ".repeat(self.tail)));
        }
        lines
    }

    /// How far wrapping can narrow a text column.
    fn narrowest(&self) -> usize {
        let word = |text: &String| parts(text).iter().map(|p| display_width(p)).max().unwrap_or(0);
        match self.number {
            true => self.narrow_head(),
            false => self.cells.iter().chain([&self.head]).map(word).max().unwrap_or(0).min(MAX_WORD),
        }
    }
}

/// The columns of a table with the gap between them.
struct Sheet {
    strips: Vec<Strip>,
    gap: usize,
}

impl Sheet {
    fn of(grid: &Grid) -> Self {
        let notes = distinct(&grid.notes[..shown(grid)]);
        let mut strips: Vec<Strip> = grid
            .columns
            .iter()
            .enumerate()
            .map(|(at, head)| {
                let cell = |row: &Vec<Option<String>>| row[at].as_deref().map_or_else(|| MISSING.to_string(), plain);
                let cells = grid.rows.iter().take(MAX_ROWS).map(cell).collect();
                let (cells, tail) = marked(cells, head.number, |row| grid.mark(row, at));
                let above = head.above.as_deref().map(plain);
                Strip { head: plain(&head.label), above, number: head.number, cells, tail, width: 0 }
            })
            .collect();
        if !notes.is_empty() {
            let mark = |note: &Option<String>| match note {
                Some(note) => format!("[{}]", notes.iter().position(|n| *n == note).unwrap_or_default() + 1),
                None => String::new(),
            };
            let cells = grid.notes.iter().take(MAX_ROWS).map(mark).collect();
            strips.push(Strip { head: String::new(), above: None, number: false, cells, tail: 0, width: 0 });
        }
        for strip in &mut strips {
            strip.width = strip.natural();
        }
        Self { strips, gap: 2 }
    }

    fn width(&self) -> usize {
        self.strips.iter().map(|s| s.width).sum::<usize>() + self.gap * self.strips.len().saturating_sub(1)
    }

    fn fits(&self) -> bool {
        self.width() <= WIDTH
    }

    /// A table that is too wide loses the text columns that say the same in every row; they come below it.
    fn without_constants(mut self) -> (Self, Vec<(String, String)>) {
        for strip in &mut self.strips {
            strip.width = strip.narrow_head();
        }
        let too_wide = !self.fits();
        for strip in &mut self.strips {
            strip.width = strip.natural();
        }
        let mut constants = Vec::new();
        if too_wide {
            self.strips.retain(|s| {
                let constant = !s.number
                    && !s.head.is_empty()
                    && s.cells.len() > 1
                    && display_width(&s.cells[0]) <= WIDTH / 2
                    && s.cells.iter().all(|c| *c == s.cells[0]);
                if constant {
                    constants.push((s.head.clone(), s.cells[0].clone()));
                }
                !constant
            });
        }
        (self, constants)
    }

    /// Measures against too great a width, the mildest first.
    fn blocks(mut self) -> Vec<Self> {
        if self.fits() {
            return vec![self];
        }
        for strip in &mut self.strips {
            strip.width = strip.narrow_head();
        }
        if self.fits() {
            return vec![self];
        }
        self.gap = 1;
        if self.fits() {
            return vec![self];
        }
        if self.wrap_texts() {
            return vec![self];
        }
        self.split()
    }

    /// Narrows the widest text column again and again; whether the table fits then.
    fn wrap_texts(&mut self) -> bool {
        let least: Vec<usize> = self.strips.iter().map(Strip::narrowest).collect();
        // No column is wider than the terminal in the end, so there is no need to get there step by step.
        for (strip, least) in self.strips.iter_mut().zip(&least) {
            strip.width = strip.width.min(WIDTH.max(*least));
        }
        while !self.fits() {
            let wide = self.strips.iter_mut().zip(&least).filter(|(strip, least)| strip.width > **least);
            match wide.max_by_key(|(strip, _)| strip.width) {
                Some((strip, _)) => strip.width -= 1,
                None => return false,
            }
        }
        true
    }

    /// Several tables below each other, each with the leading text columns, which say what a row is.
    fn split(mut self) -> Vec<Self> {
        for strip in self.strips.iter_mut() {
            let most = if strip.number { usize::MAX } else { MAX_WORD };
            strip.width = strip.narrow_head().min(most);
        }
        // The numbers of the notes say something of a row, so they stand in every block.
        let notes: Vec<Strip> = self.strips.pop_if(|s| s.head.is_empty() && !s.number).into_iter().collect();
        let is_key = |s: &&Strip| !s.number && s.above.is_none();
        let keys: Vec<Strip> = self.strips.iter().take_while(is_key).cloned().collect();
        let keys = if keys.len() == self.strips.len() { Vec::new() } else { keys };
        let with_keys = |strips: &[Strip]| Self { strips: [&keys, strips, &notes].concat(), gap: 2 };
        let mut blocks: Vec<Vec<Strip>> = Vec::new();
        for unit in self.strips[keys.len()..].chunk_by(|a, b| a.above == b.above && a.above.is_some()) {
            // Columns under one head stay together where they can.
            let size = if with_keys(unit).fits() { unit.len() } else { 1 };
            for unit in unit.chunks(size) {
                match blocks.last_mut() {
                    Some(last) if with_keys(&[last, unit].concat()).fits() => last.extend_from_slice(unit),
                    _ => blocks.push(unit.to_vec()),
                }
            }
        }
        blocks.iter().map(|strips| with_keys(strips)).collect()
    }

    fn draw(&self, out: &mut String) {
        self.draw_above(out);
        let heads: Vec<Vec<String>> = self.strips.iter().map(Strip::head_lines).collect();
        let lines = heads.iter().map(Vec::len).max().unwrap_or(0);
        // Heads stand at the bottom of their lines, next to their numbers.
        let lowered: Vec<Vec<String>> =
            heads.into_iter().map(|h| [vec![String::new(); lines - h.len()], h].concat()).collect();
        self.lines(&lowered, lines, out);
        let rule: Vec<Vec<String>> = self.strips.iter().map(|s| vec!["─".repeat(s.width)]).collect();
        self.lines(&rule, 1, out);
        for row in 0..self.strips.first().map_or(0, |s| s.cells.len()) {
            let cells: Vec<Vec<String>> = self.strips.iter().map(|s| wrap_cell(&s.cells[row], s.width)).collect();
            let lines = cells.iter().map(Vec::len).max().unwrap_or(0);
            self.lines(&cells, lines, out);
        }
    }

    /// What spans several columns stands in the middle above them, over a rule.
    fn draw_above(&self, out: &mut String) {
        if self.strips.iter().all(|s| s.above.is_none()) {
            return;
        }
        let runs: Vec<(usize, Vec<String>)> = self
            .strips
            .chunk_by(|a, b| a.above == b.above && a.above.is_some())
            .map(|run| {
                let width = run.iter().map(|s| s.width).sum::<usize>() + self.gap * (run.len() - 1);
                let text = run[0].above.as_deref();
                let mut lines = text.map_or_else(Vec::new, |text| wrap_head(text, width));
                for line in &mut lines {
                    *line = format!("{}{line}", " ".repeat(width.saturating_sub(display_width(line)) / 2));
                }
                lines.extend(text.map(|_| "─".repeat(width)));
                (width, lines)
            })
            .collect();
        let height = runs.iter().map(|(_, lines)| lines.len()).max().unwrap_or(0);
        for at in 0..height {
            let mut line = String::new();
            for (i, (width, lines)) in runs.iter().enumerate() {
                let text =
                    (at + lines.len()).checked_sub(height).and_then(|at| lines.get(at)).map_or("", String::as_str);
                line += &" ".repeat(if i == 0 { 0 } else { self.gap });
                line += text;
                line += &" ".repeat(width.saturating_sub(display_width(text)));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }

    fn lines(&self, cells: &[Vec<String>], count: usize, out: &mut String) {
        for line in 0..count {
            let mut text = String::new();
            for (i, (strip, cell)) in self.strips.iter().zip(cells).enumerate() {
                let cell = cell.get(line).map_or("", String::as_str);
                let pad = " ".repeat(strip.width.saturating_sub(display_width(cell)));
                let gap = if i == 0 { String::new() } else { " ".repeat(self.gap) };
                text.push_str(&gap);
                match strip.number {
                    true => text.extend([pad.as_str(), cell]),
                    false => text.extend([cell, pad.as_str()]),
                }
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
    }
}

/// A text in the parts between which a line may break; an underscore or blank there is dropped.
fn parts(text: &str) -> Vec<&str> {
    text.split_inclusive(['_', '-', ' ', '/']).map(trimmed).collect()
}

/// Breaks a head where a name has a joint: `mean_ppl` becomes `mean` over `ppl`.
fn wrap_head(head: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<&str> = Vec::new();
    let mut start = 0;
    let mut end = 0;
    for part in head.split_inclusive(['_', '-', ' ', '/']) {
        let next = end + part.len();
        if end > start && display_width(trimmed(&head[start..next])) > width {
            lines.push(trimmed(&head[start..end]));
            start = end;
        }
        end = next;
    }
    lines.push(&head[start..]);
    lines.into_iter().flat_map(|l| wrap_cell(l, width)).collect()
}

fn trimmed(part: &str) -> &str {
    part.trim_end_matches(['_', ' '])
}

fn wrap_cell(cell: &str, width: usize) -> Vec<String> {
    if display_width(cell) <= width {
        return vec![cell.to_string()];
    }
    let options = Options::new(width.max(1))
        .word_separator(WordSeparator::UnicodeBreakProperties)
        .word_splitter(WordSplitter::HyphenSplitter);
    let mut lines: Vec<String> = textwrap::wrap(cell, options).into_iter().map(|l| l.into_owned()).collect();
    if lines.len() > MAX_LINES {
        lines.truncate(MAX_LINES);
        let last = &mut lines[MAX_LINES - 1];
        while display_width(last) >= width.max(1) && last.pop().is_some() {}
        last.push('…');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::grid::Head;
    use super::*;

    fn grid(heads: &[(&str, bool)], rows: &[&[&str]]) -> Grid {
        let head = |(label, number): &(&str, bool)| Head { label: label.to_string(), number: *number, above: None };
        let cell = |c: &&str| (!c.is_empty()).then(|| c.to_string());
        Grid {
            columns: heads.iter().map(head).collect(),
            rows: rows.iter().map(|r| r.iter().map(cell).collect()).collect(),
            notes: vec![None; rows.len()],
            ..Grid::default()
        }
    }

    fn widest(text: &str) -> usize {
        text.lines().map(display_width).max().unwrap_or(0)
    }

    /// The columns of the recipe for figure 2.
    fn figure_2(notes: bool) -> Grid {
        let heads = [
            ("set", false),
            ("variant", false),
            ("target", false),
            ("rows", true),
            ("mean_ppl", true),
            ("median_ppl", true),
            ("corpus_ppl", true),
            ("ci_low", true),
            ("ci_high", true),
            ("response_tokens", true),
            ("published_ppl", true),
        ];
        let numbers = ["48", "14.54", "12.35", "13.00", "11.90", "18.02", "128.4", "51.3"];
        let row = |set: &'static str, variant: &'static str| [&[set, variant, "smollm2-135m"], &numbers[..]].concat();
        let mut rows = vec![row("GSM8K", "groundtruth"), row("MATH", "minimum-change")];
        rows.push([vec!["ECQA", "claude", "smollm2-135m"], vec![""; 8]].concat());
        let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
        let mut grid = grid(&heads, &rows);
        if notes {
            grid.notes[2] = Some("skipped: `data/ECQA/anthropic_Claud.json` does not exist".into());
        }
        grid
    }

    #[test]
    fn numbers_stand_to_the_right() {
        let mut g = grid(&[("name", false), ("n", true)], &[&["a", "1"], &["long name", "100"], &["b", ""]]);
        g.title = Some("Counts".into());
        insta::assert_snapshot!(render(&g), @"
        Counts

        name         n
        ─────────  ───
        a            1
        long name  100
        b            –
        ");
    }

    #[test]
    fn a_wide_table_fits() {
        let text = render(&figure_2(true));
        assert!(widest(&text) <= WIDTH, "{text}");
        insta::assert_snapshot!(text, @"
                                   mean median corpus    ci    ci response published
        set   variant        rows   ppl    ppl    ppl   low  high   tokens       ppl
        ───── ────────────── ──── ───── ────── ────── ───── ───── ──────── ───────── ───
        GSM8K groundtruth      48 14.54  12.35  13.00 11.90 18.02    128.4      51.3
        MATH  minimum-change   48 14.54  12.35  13.00 11.90 18.02    128.4      51.3
        ECQA  claude            –     –      –      –     –     –        –         – [1]

        in all rows: target = smollm2-135m
        [1] skipped: `data/ECQA/anthropic_Claud.json` does not exist
        ");
    }

    #[test]
    fn a_table_that_cannot_fit_is_split() {
        let heads: Vec<(String, bool)> = (0..14).map(|i| (format!("column{i}"), i > 0)).collect();
        let heads: Vec<(&str, bool)> = heads.iter().map(|(h, n)| (h.as_str(), *n)).collect();
        let row: Vec<&str> = ["key"].into_iter().chain(std::iter::repeat_n("123456.789", 13)).collect();
        let text = render(&grid(&heads, &[&row]));
        assert!(widest(&text) <= WIDTH, "{text}");
        assert_eq!(text.lines().filter(|l| l.starts_with("key")).count(), 3, "{text}");
        assert!(heads.iter().all(|(h, _)| text.contains(h)), "{text}");
    }

    #[test]
    fn long_texts_are_wrapped_and_cut() {
        let text = "word ".repeat(200);
        let drawn = render(&grid(&[("id", false), ("text", false)], &[&["a", &text]]));
        assert!(widest(&drawn) <= WIDTH && drawn.contains('…'), "{drawn}");
        assert_eq!(drawn.lines().count(), 2 + MAX_LINES);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let drawn = render(&grid(&[("t\u{1b}[2J", false)], &[&["a\nb\u{1b}]0;x\u{7}c"]]));
        assert!(!drawn.contains('\u{1b}') && drawn.contains("a b\u{fffd}]0;x\u{fffd}c"), "{drawn:?}");
    }

    #[test]
    fn wide_characters_are_counted_as_wide() {
        let drawn = render(&grid(&[("名前", false), ("n", true)], &[&["日本語", "1"], &["a", "2"]]));
        let ends: Vec<usize> = drawn.lines().map(display_width).collect();
        assert!(ends.iter().all(|e| *e == ends[0]), "{drawn}");
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(render(&grid(&[("a", false)], &[])), "no rows\n");
        let why = vec![super::super::grid::Legend::text("not shown: set = a: skipped: no file".into())];
        let empty = Grid { legend: why, ..grid(&[("a", false)], &[]) };
        assert_eq!(render(&empty), "no rows\n\nnot shown: set = a: skipped: no file\n");
    }

    #[test]
    fn many_rows_are_cut_with_a_word() {
        let rows: Vec<Vec<&str>> = (0..150).map(|_| vec!["x"]).collect();
        let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
        let drawn = render(&grid(&[("a", false)], &rows));
        assert!(drawn.ends_with("50 more rows are not shown\n"), "{drawn}");
    }
}
