//! A small SVG writer. The same drawing gives the same bytes.

use crate::report::font;
use std::fmt::Write;

/// A drawing in the making.
pub struct Svg {
    width: f32,
    height: f32,
    body: String,
}

/// Where a text hangs on its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// How text looks.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    pub size: f32,
    pub fill: &'a str,
    pub anchor: Anchor,
    pub bold: bool,
    /// Degrees, clockwise.
    pub rotate: f32,
}

impl<'a> Text<'a> {
    pub fn new(size: f32, fill: &'a str, anchor: Anchor) -> Self {
        Self { size, fill, anchor, bold: false, rotate: 0.0 }
    }

    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub fn rotated(self, degrees: f32) -> Self {
        Self { rotate: degrees, ..self }
    }
}

impl Svg {
    pub fn new(width: f32, height: f32) -> Self {
        Self { width, height, body: String::new() }
    }

    /// Definitions (patterns) and anything else that is markup already.
    pub fn raw(&mut self, markup: &str) {
        self.body.push_str(markup);
    }

    pub fn rect(&mut self, (x, y): (f32, f32), (width, height): (f32, f32), attributes: &str) {
        let (x, y, width, height) = (num(x), num(y), num(width.max(0.0)), num(height.max(0.0)));
        self.element(format_args!("<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" {attributes}/>"));
    }

    pub fn line(&mut self, (x1, y1): (f32, f32), (x2, y2): (f32, f32), attributes: &str) {
        let (x1, y1, x2, y2) = (num(x1), num(y1), num(x2), num(y2));
        self.element(format_args!("<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" {attributes}/>"));
    }

    /// A line through the points; closed when it has a fill.
    pub fn path(&mut self, points: &[(f32, f32)], closed: bool, attributes: &str) {
        let mut d = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let _ = write!(d, "{}{} {}", if i == 0 { "M" } else { "L" }, num(*x), num(*y));
        }
        if closed {
            d.push('Z');
        }
        self.element(format_args!("<path d=\"{d}\" {attributes}/>"));
    }

    pub fn circle(&mut self, (x, y): (f32, f32), radius: f32, attributes: &str) {
        let (x, y, radius) = (num(x), num(y), num(radius));
        self.element(format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" {attributes}/>"));
    }

    pub fn text(&mut self, (x, y): (f32, f32), text: &str, look: Text<'_>) {
        if text.is_empty() {
            return;
        }
        let (x, y) = (num(x), num(y));
        let anchor = match look.anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
        let turn = match look.rotate {
            0.0 => String::new(),
            degrees => format!(" transform=\"rotate({} {x} {y})\"", num(degrees)),
        };
        let (size, fill, text) = (num(look.size), look.fill, escape(text));
        self.element(format_args!(
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" fill=\"{fill}\"{anchor}{weight}{turn}>{text}</text>"
        ));
    }

    fn element(&mut self, markup: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.body, "{markup}");
    }

    /// The whole file.
    pub fn finish(self) -> String {
        let (w, h) = (num(self.width), num(self.height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
             font-family=\"{}\">\n<rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n{}</svg>\n",
            font::FAMILY,
            self.body
        )
    }
}

/// At most two decimals, none that say nothing.
pub fn num(value: f32) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.to_string() }
}

/// Text for an element's content or an attribute. Characters that XML forbids become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text((1.0, 2.505), "a<b & \"c\"\u{0}\n", Text::new(12.0, "#000", Anchor::End));
        let text = svg.finish();
        assert!(text.contains("text-anchor=\"end\">a&lt;b &amp; &quot;c&quot;\u{fffd} </text>"), "{text}");
        assert!(resvg::usvg::Tree::from_str(&text, &resvg::usvg::Options::default()).is_ok());
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([num(1.0), num(-0.001), num(2.345), num(10.5)], ["1", "0", "2.35", "10.5"]);
    }
}
