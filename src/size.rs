//! Sizes in bytes, as people write and read them.

const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// `1.5 MiB`, `4 GiB`, `12 B`.
pub fn show(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value.fract() != 0.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `4GiB`, `512 MB`, `1.5GB`, `1024`: bytes.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = (text[..split].trim(), &text[split..]);
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let bytes = number.parse::<f64>().ok()? * scale as f64;
    (bytes >= 0.0 && bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_shown_in_the_largest_unit_that_they_fill() {
        let shown = [0, 1023, 1024, 1536, 1_500_000, 5 << 30, u64::MAX].map(show);
        assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "1.4 MiB", "5 GiB", "16777216 TiB"]);
    }

    #[test]
    fn are_read_with_any_unit() {
        for (text, bytes) in [
            ("1024", Some(1024)),
            ("4GiB", Some(4 << 30)),
            ("512 MB", Some(512_000_000)),
            ("1.5kib", Some(1536)),
            ("0", Some(0)),
            ("16777216 TiB", None),
            ("99999999999TiB", None),
            ("-1", None),
            ("4 GX", None),
            ("4GB?", None),
            ("4é", None),
            ("GiB", None),
            ("", None),
        ] {
            assert_eq!(parse(text), bytes, "{text}");
        }
    }
}
