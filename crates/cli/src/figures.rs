//! Numbers as people read them.
//!
//! Rounding never hides a failure or invents one: a share that is not whole is
//! never printed as `100.00%` or `0.00%`.

/// What stands where there is no value.
pub(crate) const MISSING: &str = "-";

/// Formats a share from 0 to 1 as `79.35%`.
pub(crate) fn share(share: f64) -> String {
    let mut percent = share * 100.0;
    if share < 1.0 && percent >= 99.995 {
        percent = 99.99;
    } else if share > 0.0 && percent < 0.005 {
        percent = 0.01;
    }
    format!("{percent:.2}%")
}

/// Formats a share from 0 to 1 that may be missing.
pub(crate) fn share_or_missing(value: Option<f64>) -> String {
    value.map_or_else(|| MISSING.to_owned(), share)
}

/// Formats `part` of `whole` as a share; missing if there is nothing.
pub(crate) fn part(part: u64, whole: u64) -> String {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of requests are far below 2^52"
    )]
    let value = (whole > 0).then(|| part as f64 / whole as f64);
    share_or_missing(value)
}

/// Formats requests per second as `1.0rps`.
pub(crate) fn rps(rps: f64) -> String {
    format!("{rps:.1}rps")
}

/// Formats milliseconds: one decimal below 10 ms (`0.8ms`), none above (`13ms`).
pub(crate) fn ms(ms: f64) -> String {
    // What would round up to 10.0 is already without decimals.
    if ms < 9.95 {
        format!("{ms:.1}ms")
    } else {
        format!("{ms:.0}ms")
    }
}

/// Formats milliseconds that may be missing.
pub(crate) fn ms_or_missing(value: Option<f64>) -> String {
    value.map_or_else(|| MISSING.to_owned(), ms)
}

/// Formats bytes per second as `12.3B/s`.
pub(crate) fn bytes_rate(rate: f64) -> String {
    format!("{rate:.1}B/s")
}

/// Formats bytes as `512B`, `1.5KiB`, `12MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 10.0 {
        format!("{value:.0}{}", UNITS[unit])
    } else {
        format!("{value:.1}{}", UNITS[unit])
    }
}

/// Formats a count with separators: `1,234,567`.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats a count and its noun: `1 request`, `2 requests`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// Formats a length of time in µs with two units at most: `900ms`, `12s`, `1m 24s`, `2h 5m`, `3d 1h`.
pub(crate) fn length(us: i64) -> String {
    let us = us.max(0);
    if us < 1_000_000 {
        return format!("{}ms", us / 1_000);
    }
    let seconds = us / 1_000_000;
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit} {small}{small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// Formats an age in milliseconds in one unit, the way kubectl does: `4s`, `12m`, `3h`, `2d`.
pub(crate) fn age_ms(ms: u64) -> String {
    match ms / 1_000 {
        0 => format!("{ms}ms"),
        seconds @ 1..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_never_hides_a_failure() {
        assert_eq!(share(0.7935), "79.35%");
        assert_eq!(share(1.0), "100.00%");
        assert_eq!(share(0.0), "0.00%");
        assert_eq!(share(0.999_999), "99.99%");
        assert_eq!(share(0.000_001), "0.01%");
        assert_eq!(part(66, 66), "100.00%");
        assert_eq!(part(0, 0), "-");
    }

    #[test]
    fn latencies_are_exact_where_it_matters() {
        assert_eq!(ms(0.84), "0.8ms");
        assert_eq!(ms(9.94), "9.9ms");
        assert_eq!(ms(9.96), "10ms");
        assert_eq!(ms(1234.4), "1234ms");
        assert_eq!(ms_or_missing(None), "-");
    }

    #[test]
    fn counts_lengths_and_sizes() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "request"), "1 request");
        assert_eq!(length(900_000), "900ms");
        assert_eq!(length(84_000_000), "1m 24s");
        assert_eq!(length(600_000_000), "10m");
        assert_eq!(length(7_500_000_000), "2h 5m");
        assert_eq!(age_ms(350), "350ms");
        assert_eq!(age_ms(125_000), "2m");
        assert_eq!(bytes(1536), "1.5KiB");
        assert_eq!(bytes(12 << 20), "12MiB");
        assert_eq!(rps(5.04), "5.0rps");
        assert_eq!(bytes_rate(12.34), "12.3B/s");
    }
}
