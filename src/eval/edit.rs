//! What two sequences have in common, and what was inserted and deleted to make one of the other.

use std::collections::HashMap;
use std::hash::Hash;

/// The edits of a shortest way from a reference to a text by insertions and deletions alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edits {
    /// Items of a longest common subsequence. With `deleted` they are the reference, with `inserted` the text.
    pub kept: usize,
    pub inserted: usize,
    pub deleted: usize,
}

impl Edits {
    /// The share of the items of both that they do not have in common, 0 to 1; 0 for two empty sequences.
    pub fn ratio(self) -> f64 {
        let edits = self.inserted + self.deleted;
        if edits == 0 { 0.0 } else { edits as f64 / (2 * self.kept + edits) as f64 }
    }
}

/// The edits that make `text` of `reference`.
pub fn edits<T: Eq + Hash>(text: &[T], reference: &[T]) -> Edits {
    let kept = common(text, reference);
    Edits { kept, inserted: text.len() - kept, deleted: reference.len() - kept }
}

/// The length of a longest common subsequence.
///
/// Allison and Dix's bit-vector form of the dynamic programme, in the step of Hyyrö (2004): a row of the table is one
/// bit for each item of `b`, zero where the length grows. Words without a match change only by a carry, so they are
/// passed over; memory is linear.
fn common<T: Eq + Hash>(a: &[T], b: &[T]) -> usize {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[head..], &b[head..]);
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[..a.len() - tail], &b[..b.len() - tail]);
    let mut places: HashMap<&T, Vec<(usize, u64)>> = HashMap::new();
    for (at, item) in b.iter().enumerate() {
        let (word, bit) = (at / 64, 1 << (at % 64));
        let masks = places.entry(item).or_default();
        match masks.last_mut() {
            Some((last, mask)) if *last == word => *mask |= bit,
            _ => masks.push((word, bit)),
        }
    }
    let mut row = vec![u64::MAX; b.len().div_ceil(64)];
    for item in a {
        if let Some(masks) = places.get(item) {
            advance(&mut row, masks);
        }
    }
    let grown: usize = row.iter().map(|word| word.count_zeros() as usize).sum();
    head + grown + tail
}

/// The next row of the table: `(row + (row & matches)) | (row & !matches)`.
fn advance(row: &mut [u64], matches: &[(usize, u64)]) {
    let (mut carry, mut next) = (false, 0);
    for &(word, mask) in matches {
        carry = carried(&mut row[next..word], carry);
        let old = row[word];
        let (sum, first) = old.overflowing_add(old & mask);
        let (sum, second) = sum.overflowing_add(u64::from(carry));
        row[word] = sum | (old & !mask);
        (carry, next) = (first || second, word + 1);
    }
    carried(&mut row[next..], carry);
}

/// Takes a carry through words without a match.
fn carried(words: &mut [u64], mut carry: bool) -> bool {
    for word in words {
        if !carry {
            return false;
        }
        let (sum, over) = word.overflowing_add(1);
        *word |= sum;
        carry = over;
    }
    carry
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The table of the textbook.
    fn table(a: &[u8], b: &[u8]) -> usize {
        let mut row = vec![0; b.len() + 1];
        for x in a {
            let mut diagonal = 0;
            for (i, y) in b.iter().enumerate() {
                let above = row[i + 1];
                row[i + 1] = if x == y { diagonal + 1 } else { above.max(row[i]) };
                diagonal = above;
            }
        }
        row[b.len()]
    }

    #[test]
    fn edits_add_up() {
        let edits = edits(b"kitten sat", b"sitting");
        assert_eq!((edits.kept, edits.inserted, edits.deleted), (4, 6, 3));
        assert_eq!(edits.ratio(), 9.0 / 17.0);
        assert_eq!(super::edits::<u8>(&[], &[]).ratio(), 0.0);
        assert_eq!(super::edits(b"ab", b"").ratio(), 1.0);
        assert_eq!(super::edits(b"ab", b"ab"), Edits { kept: 2, inserted: 0, deleted: 0 });
    }

    proptest! {
        #[test]
        fn the_common_part_is_that_of_the_textbook(
            a in prop::collection::vec(0u8..4, 0..300), b in prop::collection::vec(0u8..5, 0..300),
        ) {
            prop_assert_eq!(common(&a, &b), table(&a, &b));
        }

        #[test]
        fn so_it_is_where_items_are_rare(
            a in prop::collection::vec(0u8..=255, 0..400), b in prop::collection::vec(0u8..=255, 0..400),
        ) {
            prop_assert_eq!(common(&a, &b), table(&a, &b));
        }
    }
}
