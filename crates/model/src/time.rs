//! Moments and durations as people type and read them.
//!
//! Times are microseconds since the Unix epoch, UTC. Nothing here reads a
//! clock: the present moment comes in as an argument.

/// Microseconds in one second.
pub const SECOND_US: i64 = 1_000_000;

/// Parses a duration such as `250ms`, `1.5s`, `15m`, `2h`, `1d` or `1h30m`; returns microseconds.
///
/// # Errors
/// When the text is not one or more numbers, each followed by one of `us`, `ms`, `s`, `m`,
/// `h`, `d`, and when it is more than 3 000 years.
pub fn parse_duration(text: &str) -> Result<i64, TimeError> {
    let wrong = || TimeError {
        text: text.to_owned(),
        expected: "a duration such as 250ms, 30s, 15m, 2h or 1d",
    };
    let is_digit = |c: char| c.is_ascii_digit() || c == '.';
    let mut sum_us = 0.0;
    let mut rest = text;
    loop {
        let split = rest.find(|c| !is_digit(c)).ok_or_else(wrong)?;
        let (number, unit_and_more) = rest.split_at(split);
        let end = unit_and_more.find(is_digit).unwrap_or(unit_and_more.len());
        let (unit, more) = unit_and_more.split_at(end);
        let unit_us = match unit {
            "us" | "µs" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            "m" => 60e6,
            "h" => 3_600e6,
            "d" => 86_400e6,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        sum_us += number * unit_us;
        if !sum_us.is_finite() || sum_us > 1e17 {
            return Err(wrong());
        }
        if more.is_empty() {
            break;
        }
        rest = more;
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked to be below 1e17")]
    Ok(sum_us.round() as i64)
}

/// Parses a moment: a duration before now (`15m`), `now`, a clock time of today or
/// yesterday (`14:02`, `14:02:31`, local by `utc_offset_s`), or RFC 3339.
///
/// A clock time later than now means yesterday.
///
/// # Errors
/// When the text is none of these.
pub fn parse_moment(text: &str, now_us: i64, utc_offset_s: i64) -> Result<i64, TimeError> {
    if text == "now" {
        return Ok(now_us);
    }
    if let Ok(ago) = parse_duration(text) {
        return Ok(now_us - ago);
    }
    if let Some(second) = parse_clock(text) {
        let local_us = now_us + utc_offset_s * SECOND_US;
        let midnight = local_us.div_euclid(86_400 * SECOND_US) * 86_400 * SECOND_US;
        let mut moment = midnight + second * SECOND_US - utc_offset_s * SECOND_US;
        if moment > now_us {
            moment -= 86_400 * SECOND_US;
        }
        return Ok(moment);
    }
    parse_rfc3339(text).ok_or_else(|| TimeError {
        text: text.to_owned(),
        expected: "a time such as 15m (ago), 14:02, 14:02:31 or 2026-01-31T14:02:31Z",
    })
}

fn parse_clock(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let hour = two_digits(parts.next()?)?;
    let minute = two_digits(parts.next()?)?;
    let second = match parts.next() {
        Some(second) => two_digits(second)?,
        None => 0,
    };
    let valid = parts.next().is_none() && hour < 24 && minute < 60 && second < 60;
    valid.then_some(hour * 3_600 + minute * 60 + second)
}

fn two_digits(text: &str) -> Option<i64> {
    (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Parses RFC 3339 (`2026-01-31T14:02:31.5Z`, offsets allowed); returns microseconds.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    if !text.is_ascii() || text.len() < 20 {
        return None;
    }
    let (date, rest) = text.split_at(10);
    let mut parts = date.split('-');
    let year: i64 = parts.next().filter(|y| y.len() == 4)?.parse().ok()?;
    let (month, day) = (two_digits(parts.next()?)?, two_digits(parts.next()?)?);
    let days_in_month = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if parts.next().is_some() || !(1..=days_in_month).contains(&day) {
        return None;
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let second = parse_clock(rest.get(..8)?)?;
    let mut rest = &rest[8..];
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        let padded = format!("{:0<6}", &fraction[..digits.min(6)]);
        micros = padded.parse::<i64>().ok()?;
        rest = &fraction[digits..];
    }
    let offset_s = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = match rest.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            sign * parse_clock(&rest[1..])?
        }
    };
    Some((days_from_civil(year, month, day) * 86_400 + second - offset_s) * SECOND_US + micros)
}

/// Formats a moment as RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn format_utc(us: i64) -> String {
    let days = us.div_euclid(86_400 * SECOND_US);
    let in_day = us.rem_euclid(86_400 * SECOND_US);
    let (year, month, day) = civil_from_days(days);
    let second = in_day / SECOND_US;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        in_day % SECOND_US / 1_000
    )
}

/// Days since the epoch of a date in the proleptic Gregorian calendar.
///
/// Algorithm: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a number of days since the epoch.
///
/// Algorithm: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
#[must_use]
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The text is not a time or duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct TimeError {
    text: String,
    expected: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-01-31T14:02:31Z.
    const NOW: i64 = 1_769_868_151 * SECOND_US;

    #[test]
    fn moments_are_read_as_people_type_them() {
        let check = |text: &str, offset, expected: &str| {
            let found = parse_moment(text, NOW, offset).map(format_utc);
            assert_eq!(found.as_deref(), Ok(expected), "{text}");
        };
        check("now", 0, "2026-01-31T14:02:31.000Z");
        check("15m", 0, "2026-01-31T13:47:31.000Z");
        check("1.5s", 0, "2026-01-31T14:02:29.500Z");
        check("1h30m", 0, "2026-01-31T12:32:31.000Z");
        check("1m0.5s", 0, "2026-01-31T14:01:30.500Z");
        check("14:02", 0, "2026-01-31T14:02:00.000Z");
        check("14:03", 0, "2026-01-30T14:03:00.000Z");
        check("14:02:30", 3_600, "2026-01-31T13:02:30.000Z");
        check(
            "2026-01-31T14:02:31.25+02:00",
            0,
            "2026-01-31T12:02:31.250Z",
        );
        check("2024-02-29T00:00:00Z", 0, "2024-02-29T00:00:00.000Z");
    }

    #[test]
    fn nonsense_is_named() {
        for text in [
            "",
            "yesterday",
            "15",
            "15x",
            "1h30",
            "1h-30m",
            "h",
            "25:00",
            "2025-02-29T00:00:00Z",
            "-5m",
        ] {
            let error = parse_moment(text, NOW, 0).expect_err(text);
            assert!(error.to_string().contains(text));
        }
    }

    proptest! {
        #[test]
        fn utc_round_trips(ms in 0i64..4_000_000_000_000) {
            prop_assert_eq!(parse_rfc3339(&format_utc(ms * 1_000)), Some(ms * 1_000));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse_moment(&text, NOW, 0);
        }
    }
}
