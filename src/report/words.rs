//! Counts and times as people read them.

/// `1 row`, `12,345 rows`.
pub fn rows(n: u64) -> String {
    format!("{} {}", number(n), if n == 1 { "row" } else { "rows" })
}

/// `1,234,567`, shortened from ten millions on.
pub fn number(n: u64) -> String {
    if n >= 10_000_000 {
        return format!("{:.1}M", n as f64 / 1e6);
    }
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `0.4 s`, `12 s`, `3m 05s`, `2h 10m`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567, 12_345_678].map(number), ["0", "999", "1,000", "1,234,567", "12.3M"]);
        let times = [0.04, 9.94, 9.96, 59.6, 61.0, 3599.0, 3600.0, 90_000.0].map(duration);
        assert_eq!(times, ["0.0 s", "9.9 s", "10 s", "1m 00s", "1m 01s", "59m 59s", "1h 00m", "25h 00m"]);
    }
}
