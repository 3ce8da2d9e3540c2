//! Final answers in responses, and whether they are right.

/// What a response asks to be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A number, compared at two decimals.
    Math,
    /// One of five options, by its digit.
    Ecqa,
}

/// Where the number of a math answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extractor {
    /// The first number after the last marker.
    Marker,
    /// The content of the last `\boxed{}`, otherwise the last number of the text.
    Boxed,
}

/// What follows the last marker.
pub fn after_marker<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    text.rfind(marker).map(|at| &text[at + marker.len()..])
}

/// The number that a response gives as its answer.
pub fn math(text: &str, marker: &str, extractor: Extractor) -> Option<f64> {
    match extractor {
        Extractor::Marker => first_number(after_marker(text, marker)?),
        Extractor::Boxed => last_boxed(text).and_then(first_number).or_else(|| last_number(text)),
    }
}

/// Whether two answers are the same at two decimals.
pub fn same_number(a: f64, b: f64) -> bool {
    let cents = |v: f64| (v * 100.0).round();
    cents(a) == cents(b)
}

/// The option, 1 to 5, that a response gives as its answer: the first such digit after the marker, otherwise the option
/// whose text stands there.
pub fn option(text: &str, marker: &str, options: &[&str]) -> Option<u8> {
    let answer = after_marker(text, marker)?;
    option_digit(answer).or_else(|| {
        let answer = answer.to_lowercase();
        let stands = |o: &&str| !o.trim().is_empty() && contains_words(&answer, &o.trim().to_lowercase());
        let mut found = options.iter().enumerate().filter(|(_, o)| stands(o));
        match (found.next(), found.next()) {
            (Some((at, _)), None) => Some(at as u8 + 1),
            _ => None,
        }
    })
}

/// The first digit from 1 to 5 that is no part of a longer number.
fn option_digit(text: &str) -> Option<u8> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|i| bytes.get(i)).is_some_and(u8::is_ascii_digit);
    let alone = |i: &usize| (b'1'..=b'5').contains(&bytes[*i]) && !digit(i.checked_sub(1)) && !digit(Some(i + 1));
    (0..bytes.len()).find(alone).map(|i| bytes[i] - b'0')
}

/// Whether a text holds the words, not as a part of longer ones.
fn contains_words(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + words.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// A number written alone, as in a column of right answers.
pub fn number(text: &str) -> Option<f64> {
    first_number(text)
}

fn first_number(text: &str) -> Option<f64> {
    let text = plain(text);
    let mut scanner = Scanner { text: text.as_bytes(), at: 0 };
    scanner.next_number()
}

fn last_number(text: &str) -> Option<f64> {
    let text = plain(text);
    let mut scanner = Scanner { text: text.as_bytes(), at: 0 };
    std::iter::from_fn(|| scanner.next_number()).last()
}

/// Without the signs that only separate: `1{,}000`, `1\!000`, dollar signs, `\left`.
fn plain(text: &str) -> String {
    let mut text = text.replace("{,}", ",").replace("\\!", "").replace("\\$", "").replace('−', "-");
    text.retain(|c| !matches!(c, '$' | '€' | '£'));
    text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
}

/// The content of the last `\boxed{…}`, braces counted.
fn last_boxed(text: &str) -> Option<&str> {
    let start = text.rfind("\\boxed{")? + "\\boxed{".len();
    let mut depth = 1;
    for (at, c) in text[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[start..start + at]);
        }
    }
    None
}

/// Reads numbers, fractions and roots off a text.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    /// The next number: a product of literals, fractions and roots, with its sign, and a percent sign applied.
    fn next_number(&mut self) -> Option<f64> {
        while self.at < self.text.len() {
            let start = self.at;
            let negative = self.sign(start);
            if let Some(mut value) = self.factor() {
                while let Some(factor) = self.root_or_fraction() {
                    value *= factor;
                }
                if self.byte(0) == Some(b'/')
                    && let Some(divisor) = self.after_slash()
                {
                    value /= divisor;
                }
                if self.percent() {
                    value /= 100.0;
                }
                return Some(if negative { -value } else { value });
            }
            self.at = start + 1;
        }
        None
    }

    /// Skips a minus before a number; one between numbers, as in `5-3`, joins nothing.
    fn sign(&mut self, start: usize) -> bool {
        let minus =
            self.text[start] == b'-' && !start.checked_sub(1).is_some_and(|i| self.text[i].is_ascii_alphanumeric());
        if minus {
            self.at += 1;
            self.blanks();
        }
        minus
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn blanks(&mut self) {
        while self.byte(0) == Some(b' ') {
            self.at += 1;
        }
    }

    fn factor(&mut self) -> Option<f64> {
        self.literal().or_else(|| self.root_or_fraction())
    }

    fn after_slash(&mut self) -> Option<f64> {
        let start = self.at;
        self.at += 1;
        let divisor = self.literal().filter(|d| *d != 0.0);
        if divisor.is_none() {
            self.at = start;
        }
        divisor
    }

    fn percent(&mut self) -> bool {
        let start = self.at;
        self.blanks();
        if self.byte(0) == Some(b'\\') {
            self.at += 1;
        }
        let percent = self.byte(0) == Some(b'%');
        self.at = if percent { self.at + 1 } else { start };
        percent
    }

    /// Digits with commas between thousands and a decimal part.
    fn literal(&mut self) -> Option<f64> {
        let inside_word = self.at.checked_sub(1).is_some_and(|i| self.text[i].is_ascii_digit());
        let mut digits = String::new();
        let start = self.at;
        while let Some(byte) = self.byte(0) {
            match byte {
                b'0'..=b'9' => digits.push(char::from(byte)),
                b',' if !digits.is_empty() && !digits.contains('.') && self.thousands() => {}
                b'.' if !digits.contains('.') && self.byte(1).is_some_and(|b| b.is_ascii_digit()) => digits.push('.'),
                _ => break,
            }
            self.at += 1;
        }
        match digits.parse() {
            Ok(value) if !inside_word => Some(value),
            _ => {
                self.at = start;
                None
            }
        }
    }

    /// Whether three digits, and no fourth, follow a comma.
    fn thousands(&self) -> bool {
        let digit = |ahead| self.byte(ahead).is_some_and(|b: u8| b.is_ascii_digit());
        (1..=3).all(digit) && !digit(4)
    }

    fn root_or_fraction(&mut self) -> Option<f64> {
        let start = self.at;
        let value = if self.word(b"\\frac") {
            let (above, below) = (self.group(), self.group());
            above.zip(below.filter(|b| *b != 0.0)).map(|(a, b)| a / b)
        } else if self.word(b"\\sqrt") {
            self.group().filter(|v| *v >= 0.0).map(f64::sqrt)
        } else {
            None
        };
        if value.is_none() {
            self.at = start;
        }
        value
    }

    fn word(&mut self, word: &[u8]) -> bool {
        let stands = self.text[self.at..].starts_with(word);
        if stands {
            self.at += word.len();
        }
        stands
    }

    /// The number in braces, or the single digit that TeX takes without them.
    fn group(&mut self) -> Option<f64> {
        if self.byte(0)?.is_ascii_digit() {
            self.at += 1;
            return Some(f64::from(self.text[self.at - 1] - b'0'));
        }
        if self.byte(0)? != b'{' {
            return None;
        }
        let mut depth = 0;
        let length = self.text[self.at..].iter().position(|b| {
            depth += i32::from(*b == b'{') - i32::from(*b == b'}');
            depth == 0
        })?;
        let inner = &self.text[self.at + 1..self.at + length];
        self.at += length + 1;
        Scanner { text: inner, at: 0 }.next_number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "Final Answer:";

    fn marked(tail: &str) -> Option<f64> {
        math(&format!("3 apples. Final Answer: 9 no. {MARKER}{tail}"), MARKER, Extractor::Marker)
    }

    #[test]
    fn numbers_are_read_after_the_last_marker() {
        for (tail, expected) in [
            (" 72", 72.0),
            (" $1,234.50 dollars", 1234.5),
            (" -5 (not 6)", -5.0),
            ("\n**12**", 12.0),
            (" 20%", 0.2),
            (" 12.5\\%", 0.125),
            (" 3/4", 0.75),
            (" $\\frac{3}{4}$", 0.75),
            (" $-\\dfrac{1}{2}$", -0.5),
            (" \\frac12", 0.5),
            (" $2\\sqrt{9}$", 6.0),
            (" x = 7.", 7.0),
            (" 10{,}000", 10000.0),
            (" 5-3", 5.0),
            (" 1, 2 and 3", 1.0),
        ] {
            assert_eq!(marked(tail), Some(expected), "{tail}");
        }
        assert_eq!((marked(" none"), marked("")), (None, None));
        assert_eq!(math("72", MARKER, Extractor::Marker), None);
    }

    #[test]
    fn a_box_comes_before_the_last_number() {
        let boxed = |text: &str| math(text, MARKER, Extractor::Boxed);
        assert_eq!(boxed("so $\\boxed{\\frac{\\sqrt{16}}{8}}$, as 99 shows"), Some(0.5));
        assert_eq!(boxed("first 3, then 4,500."), Some(4500.0));
        assert_eq!(boxed("\\boxed{open 7"), Some(7.0));
        assert_eq!(boxed("no number"), None);
    }

    #[test]
    fn numbers_agree_at_two_decimals() {
        assert!(same_number(0.333, 1.0 / 3.0) && same_number(17.0, 17.0));
        assert!(!same_number(0.33, 0.34) && !same_number(1.0, -1.0));
    }

    #[test]
    fn options_are_read_by_digit_or_text() {
        let options = ["bloody mess", "pleasure", "being imprisoned", "feeling of guilt", "cake"];
        let chosen = |tail: &str| option(&format!("(2) is wrong. {MARKER}{tail}"), MARKER, &options);
        assert_eq!(chosen(" 1"), Some(1));
        assert_eq!(chosen(" (5): cake"), Some(5));
        assert_eq!(chosen(" 12 or 3"), Some(3));
        assert_eq!(chosen(" Feeling of guilt."), Some(4));
        assert_eq!(chosen(" pancake"), None);
        assert_eq!(chosen(" cake or pleasure"), None);
        assert_eq!(option("1", MARKER, &options), None);
    }

    #[test]
    fn any_text_is_survived() {
        for text in [
            "Final Answer:",
            "Final Answer: \\frac{",
            "Final Answer: \\sqrt{-4}",
            "Final Answer: 1/0",
            "Final Answer: é%",
            "Final Answer: -",
        ] {
            let _ = (
                math(text, MARKER, Extractor::Marker),
                math(text, MARKER, Extractor::Boxed),
                option(text, MARKER, &[]),
            );
        }
        assert_eq!(math("Final Answer: 1/0", MARKER, Extractor::Marker), Some(1.0));
    }
}
