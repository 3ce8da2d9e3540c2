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
        text.chars().map(self.advances()).sum::<f32>() * size / self.units_per_em
    }

    /// The advance of a character in font units.
    fn advances(&self) -> impl Fn(char) -> f32 {
        let charmap = self.font.charmap();
        let metrics = self.font.glyph_metrics(Size::unscaled(), LocationRef::default());
        let em = self.units_per_em;
        move |c| charmap.map(c).and_then(|g| metrics.advance_width(g)).unwrap_or(em)
    }

    /// The text, cut with an ellipsis where it is wider than `width`.
    pub fn fit(&self, text: &str, size: f32, width: f32) -> String {
        if self.width(text, size) <= width {
            return text.to_string();
        }
        let advance = self.advances();
        let ellipsis = advance('…');
        let fits = |units: f32| (units + ellipsis) * size / self.units_per_em <= width;
        if !fits(0.0) {
            return String::new();
        }
        let mut units = 0.0;
        let fitting = text.chars().take_while(|c| {
            units += advance(*c);
            fits(units)
        });
        fitting.chain(['…']).collect()
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
        assert_eq!((REGULAR.fit("mm", 12.0, 13.0).as_str(), REGULAR.fit("mm", 12.0, 1.0).as_str()), ("…", ""));
    }
}
