//! Points and spans of time as servers write them in headers.

use reqwest::header::HeaderMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// No server means more than this; what does is a mistake.
const LONGEST: f64 = 366.0 * 86_400.0;

/// A header's text.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// How long a server asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    if let Some(ms) = text(headers, "retry-after-ms").and_then(|t| t.parse::<f64>().ok()) {
        return seconds(ms / 1000.0);
    }
    let asked = text(headers, "retry-after")?;
    if let Ok(number) = asked.parse::<f64>() {
        return seconds(number);
    }
    Some(until(http_date(asked)?, headers))
}

/// A span such as `6m0s`, `1.5s`, `20ms` or plain seconds, or the way from now to a point such as
/// `2024-05-01T12:00:00Z`.
pub fn reset(asked: &str, headers: &HeaderMap) -> Option<Duration> {
    match asked.parse::<f64>() {
        Ok(number) => seconds(number),
        Err(_) => span(asked).or_else(|| Some(until(rfc3339(asked)?, headers))),
    }
}

fn seconds(number: f64) -> Option<Duration> {
    (number.is_finite() && (0.0..=LONGEST).contains(&number)).then(|| Duration::from_secs_f64(number))
}

/// From now, by the server's clock where it tells, to `point` in seconds since 1970.
fn until(point: u64, headers: &HeaderMap) -> Duration {
    let now = text(headers, "date").and_then(http_date).unwrap_or_else(self::now);
    Duration::from_secs(point.saturating_sub(now).min(LONGEST as u64))
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn span(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        total += number
            * match &unit[..end] {
                "d" => 86_400.0,
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &unit[end..];
    }
    (!text.is_empty()).then_some(total).and_then(seconds)
}

/// `Wed, 21 Oct 2015 07:28:00 GMT`, the one form of RFC 9110 that is to be sent.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let day = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|m| *m == name)? as u64 + 1;
    let year = words.next()?.parse().ok()?;
    let time = words.next()?;
    (words.next()? == "GMT").then_some(())?;
    point(year, month, day, time)
}

/// Seconds since 1970 of `2024-05-01T12:00:00Z`, also with a fraction or an offset.
pub fn rfc3339(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once('T')?;
    let mut numbers = date.splitn(3, '-').map(str::parse::<u64>);
    let (year, month, day) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    let time = rest.get(..8)?;
    let zone = rest[8..].trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone {
        "Z" | "z" | "" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            minutes * 60 * if zone.starts_with('-') { -1 } else { 1 }
        }
    };
    point(year, month, day, time)?.checked_add_signed(-offset)
}

/// Seconds since 1970 of a day and a time `HH:MM:SS`, UTC.
fn point(year: u64, month: u64, day: u64, time: &str) -> Option<u64> {
    let mut parts = time.splitn(3, ':').map(str::parse::<u64>);
    let (h, m, s) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let sound = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    (sound && h < 24 && m < 60 && s <= 60).then_some(())?;
    // Howard Hinnant's days_from_civil, for years after 1970.
    let year = year - u64::from(month <= 2);
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + h * 3600 + m * 60 + s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn a_wait_is_read_in_each_of_its_forms() {
        let wait = |all: &[(&'static str, &str)]| retry_after(&headers(all)).map(|d| d.as_secs_f64());
        assert_eq!(wait(&[("retry-after", "7")]), Some(7.0));
        assert_eq!(wait(&[("retry-after", "0.5")]), Some(0.5));
        assert_eq!(wait(&[("retry-after-ms", "250"), ("retry-after", "7")]), Some(0.25));
        let date = [("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT"), ("date", "Wed, 21 Oct 2015 07:28:00 GMT")];
        assert_eq!(wait(&date), Some(30.0));
        // In the past: at once.
        assert_eq!(wait(&[("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT")]), Some(0.0));
        for bad in ["-1", "soon", "nan", "inf", "1e300", "Wed, 41 Oct 2015 07:28:30 GMT", ""] {
            assert_eq!(wait(&[("retry-after", bad)]), None, "{bad}");
        }
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn spans_and_points() {
        let date = headers(&[("date", "Wed, 01 May 2024 11:59:00 GMT")]);
        let of = |text: &str| reset(text, &date).map(|d| (d.as_secs_f64() * 1e3).round() / 1e3);
        assert_eq!(of("6m0s"), Some(360.0));
        assert_eq!(of("1h2m3.5s"), Some(3723.5));
        assert_eq!(of("20ms"), Some(0.02));
        assert_eq!(of("12"), Some(12.0));
        assert_eq!(of("2024-05-01T12:00:00Z"), Some(60.0));
        assert_eq!(of("2024-05-01T14:00:00.25+02:00"), Some(60.0));
        assert_eq!(of("2024-05-01T11:00:00-01:00"), Some(60.0));
        for bad in
            ["", "5x", "m", "1..s", "2024-13-01T00:00:00Z", "2024-01-01T", "2024-01-01Té:00:00Zx", "99999999999h"]
        {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:10 GMT"), Some(10));
        assert_eq!(rfc3339("2000-02-29T00:00:00Z"), Some(951_782_400));
    }
}
