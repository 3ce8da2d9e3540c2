//! Words that give away how a text came about: talk about the draft, about what was changed, about an answer that was
//! given. In training data they would teach a model to speak of texts that nobody sees.

/// Word after word, alternatives between bars. Case and punctuation do not count.
pub const LEAKS: &[&str] = &[
    "previous|prior|initial|original|earlier prediction|draft|answer|response|solution|attempt|code",
    "the|this|your|given|provided prediction",
    "corrected|revised|fixed|amended draft|prediction|version|response|answer|solution|code|text|calculation",
    "i|i've|we've changed|corrected|fixed|revised|edited|amended",
    "i|we have changed|corrected|fixed|revised|edited|amended",
    "what was|has changed|been",
    "changes|corrections|edits made",
    "minimal|fewest change|changes|edit|edits|correction|corrections",
    "ground truth",
    "gold|reference|given|provided answer|label|solution",
    "right|correct answer|option|solution was|is given|provided",
    "told|given to me",
    "for you alone",
    // The prompt's own word, which small models copy as a heading.
    "draft",
];

/// The first words of a text that give it away. What stands in `known` too (the question, the draft) belongs to the
/// matter: a problem may well speak of an original solution of acid.
pub fn leak<'a>(text: &'a str, known: &[&str]) -> Option<&'a str> {
    let words = words(text);
    let known: Vec<Vec<String>> = known.iter().map(|t| self::words(t).into_iter().map(|w| w.lower).collect()).collect();
    for pattern in LEAKS {
        let pattern: Vec<Vec<&str>> = pattern.split(' ').map(|w| w.split('|').collect()).collect();
        for found in words.windows(pattern.len()) {
            let matches = pattern.iter().zip(found).all(|(alternatives, word)| alternatives.contains(&&*word.lower));
            let said =
                |text: &Vec<String>| text.windows(found.len()).any(|w| w.iter().zip(found).all(|(a, b)| *a == b.lower));
            if matches && !known.iter().any(said) {
                return Some(&text[found[0].start..found[found.len() - 1].end]);
            }
        }
    }
    None
}

struct Word {
    lower: String,
    start: usize,
    end: usize,
}

/// The words of a text, with the apostrophes inside them.
fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        let apostrophe = matches!(c, '\'' | '’');
        match words.last_mut() {
            Some(word) if word.end == at && (c.is_alphanumeric() || apostrophe) => {
                word.lower.extend(if apostrophe { '\''.to_lowercase() } else { c.to_lowercase() });
                word.end = end;
            }
            _ if c.is_alphanumeric() => words.push(Word { lower: c.to_lowercase().collect(), start: at, end }),
            _ => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn talk_about_the_draft_is_found() {
        for (text, expected) in [
            ("The previous prediction is wrong: 3 * 4 = 12.", "previous prediction"),
            ("In the initial answer, 5 was added.", "initial answer"),
            ("Corrected draft: 3 * 4 = 12.", "Corrected draft"),
            ("**Corrected**\n*Response*: 12", "Corrected**\n*Response"),
            ("Here is the revised solution.", "revised solution"),
            ("The draft forgot the bag.", "draft"),
            ("Draft:\n3 * 4 = 12", "Draft"),
            ("A right solution, for you alone:\n12", "for you alone"),
            ("I’ve corrected the sum.", "I’ve corrected"),
            ("I have fixed the multiplication.", "I have fixed"),
            ("Note: I corrected 62 to 72.", "I corrected"),
            ("What was changed and why: 62.", "What was changed"),
            ("Changes made: 62 to 72", "Changes made"),
            ("With the fewest edits, 12.", "fewest edits"),
            ("# original code had a bug", "original code"),
            ("The ground truth says 12.", "ground truth"),
            ("This agrees with the gold label.", "gold label"),
            ("As the correct option is given, we pick 2.", "correct option is given"),
            ("the given answer is 12", "given answer"),
        ] {
            assert_eq!(leak(text, &[]), Some(expected), "{text}");
        }
    }

    #[test]
    fn plain_solutions_have_none() {
        for text in [
            "There are 6 * 12 = 72 rolls. After the sale 72 - 45 = 27 rolls are left.\nFinal Answer: 27",
            "Of the given options only the refrigerator is cold.\nFinal Answer: 2",
            "They drafted a plan. The original price is 20 dollars, and the initial number of apples was 5.",
            "The correct option is the one that is cold. We have 5 answers left.",
            "She corrected 5 tests, so the change is 3 dollars.",
            "def first(code):\n    return code[0]",
            "",
        ] {
            assert_eq!(leak(text, &[]), None, "{text}");
        }
    }

    #[test]
    fn words_of_the_question_are_no_leak() {
        let question = "An original solution of acid holds 5 litres. How much water is in it?";
        assert_eq!(leak("The original solution has 2 litres of water.", &[question]), None);
        assert_eq!(leak("The original answer has 2 litres of water.", &[question]), Some("original answer"));
    }
}
