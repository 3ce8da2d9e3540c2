//! Tables as Markdown and LaTeX.

use super::grid::Grid;
use super::terminal::MISSING;
use textwrap::core::display_width;

/// A table of GitHub's Markdown.
pub fn markdown(grid: &Grid) -> String {
    let grid = grid.with_note_column();
    let cell = |c: &Option<String>| c.as_deref().map_or_else(|| MISSING.to_string(), escape_markdown);
    let heads: Vec<String> = grid.columns.iter().map(|h| escape_markdown(&h.label)).collect();
    let rows: Vec<Vec<String>> = grid.rows.iter().map(|r| r.iter().map(cell).collect()).collect();
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
    out
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
    out.push_str(&line(grid.columns.iter().map(|h| escape_latex(&h.label)).collect()));
    out.push_str("  \\midrule\n");
    for row in &grid.rows {
        let cells = row.iter().zip(&grid.columns).map(|(cell, head)| match cell {
            None => "--".to_string(),
            Some(number) if head.number => latex_number(number),
            Some(text) => escape_latex(text),
        });
        out.push_str(&line(cells.collect()));
    }
    out.push_str("  \\bottomrule\n\\end{tabular}\n");
    if grid.title.is_some() {
        out.push_str("\\end{table}\n");
    }
    out
}

fn latex_number(text: &str) -> String {
    let escaped = escape_latex(text);
    match escaped.split_once('e') {
        Some((digits, exponent)) if exponent.parse::<i32>().is_ok() => format!("${digits} \\cdot 10^{{{exponent}}}$"),
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
    use super::super::grid::Head;
    use super::*;

    fn hostile() -> Grid {
        let head = |label: &str, number| Head { label: label.into(), number };
        Grid {
            title: Some("50% of $x_1$ & more".into()),
            columns: vec![head("na|me", false), head("mean_ppl", true)],
            rows: vec![
                vec![Some("a|b\n*c* <i> _d_ e_f `g` \\".into()), Some("-1.50".into())],
                vec![Some("[x] 100% #1 {y} ~^".into()), Some("1.2e-5".into())],
                vec![None, None],
            ],
            notes: vec![None, None, Some("skipped: no file".into())],
            remarks: Vec::new(),
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
