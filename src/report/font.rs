//! Widths of text in the fonts that drawings use.

use skrifa::instance::{LocationRef, Size};
use skrifa::raw::FileRef;
use skrifa::{FontRef, MetadataProvider};
use std::sync::LazyLock;

/// What drawings name as their font. The others are as wide as DejaVu Sans or narrower, so text that is measured here
/// fits wherever a drawing is shown.
pub const FAMILY: &str = "DejaVu Sans, Verdana, Geneva, sans-serif";

/// A face of DejaVu Sans, with the advance of every character in font units.
pub struct Face {
    font: FontRef<'static>,
    units_per_em: f32,
}

pub static REGULAR: LazyLock<Face> = LazyLock::new(|| Face::new(dejavu::sans::regular()));
pub static BOLD: LazyLock<Face> = LazyLock::new(|| Face::new(dejavu::sans::bold()));

impl Face {
    fn new(bytes: &'static [u8]) -> Self {
        let Ok(FileRef::Font(font)) = FileRef::new(bytes) else { panic!("the embedded font is a font file") };
        let units_per_em = font.metrics(Size::unscaled(), LocationRef::default()).units_per_em;
        Self { font, units_per_em: f32::from(units_per_em) }
    }

    /// The width of one line of text, in the unit of `size`. A character that the font lacks counts as a full em.
    pub fn width(&self, text: &str, size: f32) -> f32 {
        let charmap = self.font.charmap();
        let metrics = self.font.glyph_metrics(Size::unscaled(), LocationRef::default());
        let advance = |c| charmap.map(c).and_then(|g| metrics.advance_width(g)).unwrap_or(self.units_per_em);
        text.chars().map(advance).sum::<f32>() * size / self.units_per_em
    }

    /// The text, cut with an ellipsis where it is wider than `width`.
    pub fn fit(&self, text: &str, size: f32, width: f32) -> String {
        if self.width(text, size) <= width {
            return text.to_string();
        }
        let mut kept: Vec<char> = text.chars().collect();
        while !kept.is_empty() {
            kept.pop();
            let cut: String = kept.iter().chain(['…'].iter()).collect();
            if self.width(&cut, size) <= width {
                return cut;
            }
        }
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_the_font() {
        // DejaVu Sans: `i` is 569 and `m` 1995 of 2048 units.
        assert_eq!(REGULAR.width("im", 2048.0), 569.0 + 1995.0);
        assert!(BOLD.width("rows", 12.0) > REGULAR.width("rows", 12.0));
        assert_eq!(REGULAR.width("", 12.0), 0.0);
    }

    #[test]
    fn cut_text_fits() {
        let cut = REGULAR.fit("a rather long name", 12.0, 60.0);
        assert!(cut.ends_with('…') && REGULAR.width(&cut, 12.0) <= 60.0);
        assert_eq!(REGULAR.fit("short", 12.0, 60.0), "short");
    }
}
