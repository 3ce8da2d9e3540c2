//! ROUGE-L: how long a sequence of words two texts share, in order (Lin, 2004).
//!
//! Words are as the rouge-score package takes them: lower case, everything but `a` to `z` and `0` to `9` parts words, and
//! no stemming.

use super::edit::edits;

/// The words of a text.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let parted = lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
    parted.filter(|word| !word.is_empty()).map(str::to_string).collect()
}

/// The F-measure of the longest common subsequence of words: 0 (nothing shared, or a text without words) to 1.
pub fn rouge_l(text: &str, reference: &str) -> f64 {
    let (text, reference) = (words(text), words(reference));
    if text.is_empty() || reference.is_empty() {
        return 0.0;
    }
    let shared = edits(&text, &reference).kept as f64;
    let (precision, recall) = (shared / text.len() as f64, shared / reference.len() as f64);
    match precision + recall {
        0.0 => 0.0,
        sum => 2.0 * precision * recall / sum,
    }
}

/// The highest against any of several references; `None` without any.
pub fn best_rouge_l<'a>(text: &str, references: impl IntoIterator<Item = &'a str>) -> Option<f64> {
    references.into_iter().map(|reference| rouge_l(text, reference)).reduce(f64::max)
}
