//! Tokens to text while they come in.

use crate::model::tokenizer::Tokenizer;

/// Tokens whose text is not whole yet are waited for no longer than this: no character has more bytes.
const PATIENCE: usize = 8;

/// The text of a growing sequence of tokens, and where a stop string first appears in it.
///
/// A token's text may depend on the one before it (a space that opens a text is dropped, bytes join to a character), so
/// new tokens are read together with the last ones that were read.
#[derive(Debug, Clone, Default)]
pub(in crate::model) struct Transcript {
    text: String,
    /// The tokens whose text gives the context of new ones: from the first to the second, all read.
    context: (usize, usize),
}

impl Transcript {
    /// Takes the last of `tokens`. Where one of the stop strings is in the text now, gives the text before it and which
    /// one it is: the one that begins first, the longest of those that begin there.
    pub fn push<'a>(&mut self, tokenizer: &Tokenizer, tokens: &[u32], stop: &'a [String]) -> Option<(String, &'a str)> {
        let (from, read) = self.context;
        let known = tokenizer.text_of(&tokens[from..read]);
        let both = tokenizer.text_of(&tokens[from..]);
        if both.ends_with(char::REPLACEMENT_CHARACTER) && tokens.len() - read < PATIENCE {
            return None;
        }
        let new = both.strip_prefix(&*known).unwrap_or_default();
        let longest = stop.iter().map(String::len).max().unwrap_or(0);
        let mut start = self.text.len().saturating_sub(longest);
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        self.text.push_str(new);
        self.context = (read, tokens.len());
        let found = stop.iter().filter(|s| !s.is_empty());
        let found = found.filter_map(|s| Some((self.text[start..].find(s.as_str())?, s)));
        let (at, found) = found.min_by_key(|(at, s)| (*at, std::cmp::Reverse(s.len())))?;
        self.text.truncate(start + at);
        Some((std::mem::take(&mut self.text), found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::synthetic;

    /// Tokens are bytes.
    fn bytes() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        synthetic::write_tokenizer(folder.path()).unwrap();
        Tokenizer::from_json(&folder.path().join("tokenizer.json")).unwrap()
    }

    fn push_all(tokens: &[u32], stop: &[&str]) -> (Transcript, Option<(usize, String, String)>) {
        let (tokenizer, mut transcript) = (bytes(), Transcript::default());
        let stop: Vec<String> = stop.iter().map(|s| s.to_string()).collect();
        for end in 1..=tokens.len() {
            if let Some((text, which)) = transcript.push(&tokenizer, &tokens[..end], &stop) {
                return (transcript, Some((end, text, which.to_string())));
            }
        }
        (transcript, None)
    }

    #[test]
    fn characters_of_several_tokens_come_whole() {
        let text = "naïve 数学 🦀!";
        let tokens = bytes().encode(text).unwrap();
        assert_eq!(tokens.len(), text.len());
        assert_eq!(push_all(&tokens, &[]).0.text, text);
        assert_eq!(push_all(&tokens[..tokens.len() - 2], &[]).0.text, "naïve 数学 ");
    }

    #[test]
    fn bytes_that_are_no_character_do_not_hold_up_what_follows() {
        let odd = bytes().encode("ÿ").unwrap()[1];
        let tokens = [vec![odd; 9], bytes().encode("abc###").unwrap()].concat();
        let (_, found) = push_all(&tokens, &["###"]);
        assert_eq!(found.map(|(end, text, _)| (end, text.ends_with("abc"))), Some((15, true)));
    }

    #[test]
    fn stop_strings_are_found_across_tokens_at_their_last_one() {
        let tokens = bytes().encode("first\n\nsecond ### third").unwrap();
        let (_, found) = push_all(&tokens, &["###", "\n\n"]);
        assert_eq!(found, Some((7, "first".into(), "\n\n".into())));
        let (_, found) = push_all(&tokens, &["", "d ### t", "d ###"]);
        assert_eq!(found, Some((17, "first\n\nsecon".into(), "d ###".into())));
        assert_eq!(push_all(&tokens, &["absent"]).1, None);
        let (_, found) = push_all(&bytes().encode("数学数学").unwrap(), &["学数"]);
        assert_eq!(found, Some((9, "数".into(), "学数".into())));
    }
}
