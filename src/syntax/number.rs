//! Numbers as KDL writes them.

use super::Scalar;

/// Whether a word is meant as a number: words that begin like one cannot be identifiers.
pub(super) fn is_number(word: &str) -> bool {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    let digits = unsigned.strip_prefix('.').unwrap_or(unsigned);
    digits.starts_with(|c: char| c.is_ascii_digit())
}

/// Reads a number; `Err` says what is wrong with it.
pub(super) fn number(word: &str) -> Result<Scalar, &'static str> {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    let sign = if word.starts_with('-') { "-" } else { "" };
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = unsigned.strip_prefix(prefix) {
            return integer(sign, digits, radix);
        }
    }
    if !unsigned.contains(['.', 'e', 'E']) {
        return integer(sign, unsigned, 10);
    }
    float(sign, unsigned)
}

fn integer(sign: &str, digits: &str, radix: u32) -> Result<Scalar, &'static str> {
    if !is_digits(digits, radix) {
        return Err(match radix {
            16 => "a hexadecimal number is `0x` and digits 0 to 9 and a to f",
            8 => "an octal number is `0o` and digits 0 to 7",
            2 => "a binary number is `0b` and digits 0 and 1",
            _ => "a number is made of digits; a string that begins like a number stands in quotes",
        });
    }
    let plain = format!("{sign}{}", digits.replace('_', ""));
    i64::from_str_radix(&plain, radix).map(Scalar::Int).map_err(|_| "integers have at most 64 bits")
}

fn float(sign: &str, unsigned: &str) -> Result<Scalar, &'static str> {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    if !is_digits(whole, 10) || fraction.is_some_and(|f| !is_digits(f, 10)) {
        return Err("a decimal number has digits on both sides of one point");
    }
    if exponent.is_some_and(|e| !is_digits(e.strip_prefix(['+', '-']).unwrap_or(e), 10)) {
        return Err("an exponent is a whole number, as in `2e-5`");
    }
    let plain = format!("{sign}{}", unsigned.replace('_', ""));
    match plain.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Scalar::Float(value)),
        _ => Err("the number is too large"),
    }
}

/// A digit, then digits and underscores.
fn is_digits(text: &str, radix: u32) -> bool {
    text.starts_with(|c: char| c.is_digit(radix)) && text.chars().all(|c| c == '_' || c.is_digit(radix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_what_only_looks_like_one() {
        for (word, value) in [
            ("0", Scalar::Int(0)),
            ("-1_000", Scalar::Int(-1000)),
            ("+7", Scalar::Int(7)),
            ("0x_f", Scalar::Null),
            ("0xFf", Scalar::Int(255)),
            ("-0b101", Scalar::Int(-5)),
            ("0o17", Scalar::Int(15)),
            ("-9223372036854775808", Scalar::Int(i64::MIN)),
            ("9223372036854775808", Scalar::Null),
            ("1.5", Scalar::Float(1.5)),
            ("2e-5", Scalar::Float(2e-5)),
            ("1_0.2_5E+2", Scalar::Float(1025.0)),
            ("1.", Scalar::Null),
            (".5", Scalar::Null),
            ("1.5.2", Scalar::Null),
            ("1e", Scalar::Null),
            ("1e999", Scalar::Null),
            ("5GiB", Scalar::Null),
            ("1__", Scalar::Int(1)),
        ] {
            assert!(is_number(word), "{word}");
            assert_eq!(number(word).unwrap_or(Scalar::Null), value, "{word}");
        }
        for word in ["a1", "-", "+", "-a", ".", "..", ".a", "--1", "gpt-4"] {
            assert!(!is_number(word), "{word}");
        }
    }
}
