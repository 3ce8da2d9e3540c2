//! Tables as Markdown and LaTeX.

use super::grid::{Grid, Head, Legend, Mark};
use super::terminal::MISSING;
use textwrap::core::display_width;

/// A table of GitHub's Markdown.
pub fn markdown(grid: &Grid) -> String {
    let grid = grid.with_note_column();
    let cell = |row: usize, at: usize| {
        let text = grid.rows[row][at].as_deref().map_or_else(|| MISSING.to_string(), escape_markdown);
        markdown_marked(text, grid.mark(row, at))
    };
    let heads: Vec<String> = grid.columns.iter().map(|h| escape_markdown(&h.whole())).collect();
    let rows: Vec<Vec<String>> =
        (0..grid.rows.len()).map(|row| (0..heads.len()).map(|at| cell(row, at)).collect()).collect();
    let width =
        |at: usize| rows.iter().map(|r| &r[at]).chain([&heads[at]]).map(|c| display_width(c)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(|at| width(at).max(3)).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).zip(&grid.columns).map(|((c, width), head)| {
            let pad = " ".repeat(width - display_width(c));
            if head.number { format!("{pad}{c}") } else { format!("{c}{pad}") }
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let mut out = grid.title.as_ref().map_or_else(String::new, |t| format!("**{}**\n\n", escape_markdown(t)));
    out.push_str(&line(&heads));
    let rule = widths.iter().zip(&grid.columns).map(|(width, head)| match head.number {
        true => format!("{}:", "-".repeat(width - 1)),
        false => "-".repeat(*width),
    });
    out.push_str(&line(&rule.collect::<Vec<_>>()));
    rows.iter().for_each(|row| out.push_str(&line(row)));
    for Legend { mark, text } in &grid.legend {
        let sign =
            if *mark == Mark::default() { String::new() } else { markdown_marked("underlined".into(), *mark) + ": " };
        out.push_str(&format!("\n{sign}{}\n", escape_markdown(text)));
    }
    out
}

/// A cell with its marks: underlined where it is behind, stars and the number of its note behind it.
fn markdown_marked(text: String, mark: Mark) -> String {
    let text = if mark.behind { format!("<u>{text}</u>") } else { text };
    let note = mark.note.map_or_else(String::new, |n| format!(" \\[{n}\\]"));
    format!("{text}{}{note}", "\\*".repeat(mark.stars))
}

/// Text that Markdown shows as it is.
fn escape_markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let chars: Vec<char> = text.chars().collect();
    for (i, &c) in chars.iter().enumerate() {
        let inside_word = |at: Option<usize>| at.and_then(|i| chars.get(i)).is_some_and(|c| c.is_alphanumeric());
        match c {
            '\r' if chars.get(i + 1) == Some(&'\n') => {}
            '\n' | '\r' => out.push_str("<br>"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // An underscore inside a word, as in `mean_ppl`, stands for itself.
            '_' if inside_word(i.checked_sub(1)) && inside_word(Some(i + 1)) => out.push(c),
            '\\' | '|' | '*' | '_' | '`' | '[' | ']' | '~' | '#' | '$' | '!' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

/// A `tabular` with the rules of the `booktabs` package; with a title, inside a `table`.
pub fn latex(grid: &Grid) -> String {
    let grid = grid.with_note_column();
    let columns: String = grid.columns.iter().map(|h| if h.number { 'r' } else { 'l' }).collect();
    let line = |cells: Vec<String>| format!("  {} \\\\\n", cells.join(" & "));
    let mut out = String::from("% \\usepackage{booktabs}\n");
    if let Some(title) = &grid.title {
        out.push_str(&format!("\\begin{{table}}\n\\centering\n\\caption{{{}}}\n", escape_latex(title)));
    }
    out.push_str(&format!("\\begin{{tabular}}{{{columns}}}\n  \\toprule\n"));
    out.push_str(&latex_above(&grid.columns));
    out.push_str(&line(grid.columns.iter().map(|h| escape_latex(&h.label)).collect()));
    out.push_str("  \\midrule\n");
    for (down, row) in grid.rows.iter().enumerate() {
        let cells = row.iter().zip(&grid.columns).enumerate().map(|(across, (cell, head))| {
            let text = match cell {
                None => "--".to_string(),
                Some(number) if head.number => latex_number(number),
                Some(text) => escape_latex(text),
            };
            latex_marked(text, grid.mark(down, across))
        });
        out.push_str(&line(cells.collect()));
    }
    out.push_str("  \\bottomrule\n\\end{tabular}\n");
    for Legend { mark, text } in &grid.legend {
        let sign =
            if *mark == Mark::default() { String::new() } else { latex_marked("underlined".into(), *mark) + ": " };
        out.push_str(&format!("\\par{{\\footnotesize {sign}{}}}\n", escape_latex(text)));
    }
    if grid.title.is_some() {
        out.push_str("\\end{table}\n");
    }
    out
}

/// What spans several columns, over a rule; nothing where no column has any.
fn latex_above(columns: &[Head]) -> String {
    if columns.iter().all(|c| c.above.is_none()) {
        return String::new();
    }
    let (mut cells, mut rules, mut first) = (Vec::new(), Vec::new(), 1);
    for run in columns.chunk_by(|a, b| a.above == b.above && a.above.is_some()) {
        let last = first + run.len() - 1;
        cells.push(run[0].above.as_ref().map_or_else(String::new, |above| {
            rules.push(format!("\\cmidrule(lr){{{first}-{last}}}"));
            format!("\\multicolumn{{{}}}{{c}}{{{}}}", run.len(), escape_latex(above))
        }));
        first = last + 1;
    }
    format!("  {} \\\\\n  {}\n", cells.join(" & "), rules.join(" "))
}

/// A cell with its marks: underlined where it is behind, stars and the number of its note raised behind it.
fn latex_marked(text: String, mark: Mark) -> String {
    let text = if mark.behind { format!("\\underline{{{text}}}") } else { text };
    let note = mark.note.map_or_else(String::new, |n| format!("[{n}]"));
    let raised = "*".repeat(mark.stars) + &note;
    if raised.is_empty() { text } else { format!("{text}$^{{{raised}}}$") }
}

fn latex_number(text: &str) -> String {
    // Several numbers in a cell: each by itself, what stands around them as it is.
    if text.contains(' ') {
        return text.split(' ').filter(|p| !p.is_empty()).map(latex_part).collect::<Vec<_>>().join(" ");
    }
    latex_single(text)
}

/// A number with the brackets and the comma that touch it.
fn latex_part(text: &str) -> String {
    let inner = text.trim_matches(['(', ')', '[', ']', ',']);
    let at = text.find(inner).unwrap_or(0);
    let (before, after) = (&text[..at], &text[at + inner.len()..]);
    format!("{}{}{}", escape_latex(before), latex_single(inner), escape_latex(after))
}

fn latex_single(text: &str) -> String {
    let escaped = escape_latex(text);
    match escaped.split_once('e') {
        Some((digits, exponent)) if exponent.parse::<i32>().is_ok() => format!("${digits} \\cdot 10^{{{exponent}}}$"),
        _ if text == "-inf" => "$-\\infty$".into(),
        _ if text.starts_with('-') => format!("${escaped}$"),
        _ if text == "inf" => "$\\infty$".into(),
        _ => escaped,
    }
}

fn escape_latex(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '|' => out.push_str("\\textbar{}"),
            '"' => out.push_str("\\textquotedbl{}"),
            '`' => out.push_str("\\textasciigrave{}"),
            // A bare bracket that opens a row would be taken for an argument of the `\\` before it.
            '±' => out.push_str("$\\pm$"),
            '≤' => out.push_str("$\\leq$"),
            '–' => out.push_str("--"),
            '[' | ']' => out.extend(['{', c, '}']),
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hostile() -> Grid {
        let head = |label: &str, number| Head { label: label.into(), number, above: None };
        Grid {
            title: Some("50% of $x_1$ & more".into()),
            columns: vec![head("na|me", false), head("mean_ppl", true)],
            rows: vec![
                vec![Some("a|b\n*c* <i> _d_ e_f `g` \\".into()), Some("-1.50".into())],
                vec![Some("[x] 100% #1 {y} ~^".into()), Some("1.2e-5".into())],
                vec![None, None],
            ],
            notes: vec![None, None, Some("skipped: no file".into())],
            ..Grid::default()
        }
    }

    #[test]
    fn markdown_shows_text_as_it_is() {
        insta::assert_snapshot!(markdown(&hostile()), @r"
        **50% of \$x_1\$ &amp; more**

        | na\|me                                     | mean_ppl | note             |
        | ------------------------------------------ | -------: | ---------------- |
        | a\|b<br>\*c\* &lt;i&gt; \_d\_ e_f \`g\` \\ |    -1.50 |                  |
        | \[x\] 100% \#1 {y} \~^                     |   1.2e-5 |                  |
        | –                                          |        – | skipped: no file |
        ");
    }

    #[test]
    fn latex_shows_text_as_it_is() {
        insta::assert_snapshot!(latex(&hostile()), @r"
        % \usepackage{booktabs}
        \begin{table}
        \centering
        \caption{50\% of \$x\_1\$ \& more}
        \begin{tabular}{lrl}
          \toprule
          na\textbar{}me & mean\_ppl & note \\
          \midrule
          a\textbar{}b *c* \textless{}i\textgreater{} \_d\_ e\_f \textasciigrave{}g\textasciigrave{} \textbackslash{} & $-1.50$ &  \\
          {[}x{]} 100\% \#1 \{y\} \textasciitilde{}\textasciicircum{} & $1.2 \cdot 10^{-5}$ &  \\
          -- & -- & skipped: no file \\
          \bottomrule
        \end{tabular}
        \end{table}
        ");
    }
}
