//! What does not count when texts are compared.

use std::borrow::Cow;

/// Differences that are looked past. White space at the ends never counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Normal {
    pub case: bool,
    pub punctuation: bool,
    pub articles: bool,
    pub whitespace: bool,
}

impl Normal {
    /// As declarations name them.
    pub const NAMES: &[&str] = &["case", "punctuation", "articles", "whitespace"];

    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut normal = Self::default();
        for name in names {
            match name {
                "case" => normal.case = true,
                "punctuation" => normal.punctuation = true,
                "articles" => normal.articles = true,
                "whitespace" => normal.whitespace = true,
                _ => {}
            }
        }
        normal
    }

    pub fn names(self) -> Vec<&'static str> {
        let on = [self.case, self.punctuation, self.articles, self.whitespace];
        Self::NAMES.iter().zip(on).filter(|(_, on)| *on).map(|(name, _)| *name).collect()
    }

    /// A text without the differences: lower case, then without ASCII punctuation, then without the words a, an and the,
    /// then with single blanks.
    pub fn apply<'t>(self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text.trim());
        if self.case {
            text = text.to_lowercase().into();
        }
        if self.punctuation {
            text = text.chars().filter(|c| !c.is_ascii_punctuation()).collect::<String>().into();
        }
        if self.articles {
            text = without_articles(&text).into();
        }
        if self.whitespace || self.articles {
            text = text.split_whitespace().collect::<Vec<_>>().join(" ").into();
        }
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.trim().to_string().into(),
        }
    }
}

/// Without the words, wherever they stand alone between other signs.
fn without_articles(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let is_article = ["a", "an", "the"].iter().any(|article| word.eq_ignore_ascii_case(article));
        out.push_str(if is_article { " " } else { word });
        let sign = after.chars().next().map_or(0, char::len_utf8);
        out.push_str(&after[..sign]);
        rest = &after[sign..];
    }
    out
}
