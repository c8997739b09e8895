//! The few conventions of Go that the application's users meet: durations, the text
//! of a gRPC error, the stamp of a log line, escapes in JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::{Code, Status};

/// Why a text is not a Go duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not of the form number and unit, such as `300ms` or `1m30s`.
    #[error("`{0}` is not a duration; write a number and a unit, such as 300ms, 1.5s or 1m30s")]
    Syntax(String),
    /// More than about 292 years.
    #[error("`{0}` is too long a duration")]
    Range(String),
}

/// Parses a duration as Go writes it: `300ms`, `-1.5h`, `1h15m30.918s`, `0`.
///
/// A negative duration is valid in Go and means no wait; it comes back as zero.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let syntax = || DurationError::Syntax(text.to_owned());
    let range = || DurationError::Range(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(syntax());
    }
    let mut total_ns: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(syntax());
        }
        let end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit_ns = unit_ns(unit).ok_or_else(syntax)?;
        // Twenty digits already exceed every duration, and the product must not overflow.
        if whole.len() > 20 {
            return Err(range());
        }
        let whole: u128 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| syntax())?
        };
        total_ns += whole * unit_ns + fraction_ns(fraction, unit_ns);
        if total_ns > i64::MAX as u128 {
            return Err(range());
        }
        rest = after;
    }
    if negative {
        return Ok(Duration::ZERO);
    }
    Ok(Duration::from_nanos(
        u64::try_from(total_ns).map_err(|_| range())?,
    ))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

fn unit_ns(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        // Micro sign and Greek mu.
        "us" | "\u{B5}s" | "\u{3BC}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// The nanoseconds that the digits behind the point stand for, in floating point
/// because Go does so: twenty minutes may be written as `0.3333333333333333333h`.
fn fraction_ns(fraction: &str, unit_ns: u128) -> u128 {
    // Nineteen digits fit 64 bits and are finer than a nanosecond even of an hour.
    let digits = &fraction[..fraction.len().min(19)];
    let (value, scale) = digits.bytes().fold((0_u64, 1.0), |(value, scale), digit| {
        (value * 10 + u64::from(digit - b'0'), scale * 10.0)
    });
    (value as f64 * (unit_ns as f64 / scale)) as u128
}

/// The name Go gives a gRPC code, in error texts and in metric labels.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// The text of a gRPC error: `rpc error: code = Unknown desc = ERROR`.
pub fn status_text(status: &Status) -> String {
    format!(
        "rpc error: code = {} desc = {}",
        code_name(status.code()),
        status.message()
    )
}

/// The stamp of a log line in UTC: `2018/11/13 22:26:58`.
pub fn timestamp(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date, counted from 1 March of year 0 in 400-year cycles.
    let shifted = days + 719_468;
    let (cycle, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = cycle * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{year:04}/{month:02}/{day_of_month:02} {hour:02}:{minute:02}:{second:02}")
}

/// A value as Go's JSON encoder writes it: compact, `<`, `>` and `&` escaped, and a
/// newline at the end.
pub fn json_line(value: &serde_json::Value) -> String {
    let mut line = String::new();
    // These characters can only stand inside of strings, so escaping them is safe.
    for letter in value.to_string().chars() {
        match letter {
            '<' => line.push_str("\\u003c"),
            '>' => line.push_str("\\u003e"),
            '&' => line.push_str("\\u0026"),
            '\u{2028}' => line.push_str("\\u2028"),
            '\u{2029}' => line.push_str("\\u2029"),
            _ => line.push(letter),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected_ns: u64) {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_nanos(expected_ns)),
            "{text}"
        );
    }

    #[test]
    fn durations_parse_as_in_go() {
        check("0", 0);
        check("5s", 5_000_000_000);
        check("+5s", 5_000_000_000);
        check("300ms", 300_000_000);
        check("1478s", 1_478_000_000_000);
        check("5.s", 5_000_000_000);
        check(".5s", 500_000_000);
        check("1.004s", 1_004_000_000);
        check("10ns", 10);
        check("12us", 12_000);
        check("12\u{B5}s", 12_000);
        check("12\u{3BC}s", 12_000);
        check("0.25us", 250);
        check("3h30m", 12_600_000_000_000);
        check("1h15m30.918273645s", 4_530_918_273_645);
        check("0.3333333333333333333h", 1_200_000_000_000);
        check("2562047h", 9_223_369_200_000_000_000);
    }

    #[test]
    fn negative_durations_mean_no_wait() {
        check("-1.5h", 0);
        check("-0", 0);
    }

    #[test]
    fn other_texts_are_refused_by_name() {
        for text in [
            "", "-", "+", ".", ".s", "3", "s", "1 s", "1d", "1.2.3s", "1s2", "\u{661}s",
        ] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error, DurationError::Syntax(text.to_owned()), "{text}");
        }
        for text in [
            "2562048h",
            "9999999999999999999999h",
            "99999999999999999999s",
        ] {
            assert_eq!(
                parse_duration(text),
                Err(DurationError::Range(text.to_owned()))
            );
        }
    }

    #[test]
    fn stamps_are_civil_dates() {
        for (seconds, expected) in [
            (0, "1970/01/01 00:00:00"),
            (1_542_148_018, "2018/11/13 22:26:58"),
            (1_582_934_400, "2020/02/29 00:00:00"),
            (4_107_542_399, "2100/02/28 23:59:59"),
            (4_107_542_400, "2100/03/01 00:00:00"),
        ] {
            assert_eq!(
                timestamp(UNIX_EPOCH + Duration::from_secs(seconds)),
                expected
            );
        }
    }

    #[test]
    fn json_escapes_what_go_escapes() {
        let value = serde_json::json!({"error": "a<b>&\u{2028}\"c\""});
        let expected = "{\"error\":\"a\\u003cb\\u003e\\u0026\\u2028\\\"c\\\"\"}\n";
        assert_eq!(json_line(&value), expected);
    }

    #[test]
    fn an_error_text_is_gos() {
        let text = status_text(&Status::unknown("ERROR"));
        assert_eq!(text, "rpc error: code = Unknown desc = ERROR");
    }
}
