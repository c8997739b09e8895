//! The user's clock: moments are read and printed in local time, sent in UTC.

use jiff::{Timestamp, tz::TimeZone};
use whodunit_api::Range;
use whodunit_model::time::{self, TimeError, format_utc, parse_rfc3339};

/// The present moment and the time zone it is shown in.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// What `15m` counts back from.
    now_us: i64,
    /// A moment of the day on which times are printed without their date.
    today_us: i64,
    zone: TimeZone,
}

impl Clock {
    /// Reads the system's clock and time zone.
    pub(crate) fn system(utc: bool) -> Self {
        let now_us = Timestamp::now().as_microsecond();
        Self {
            now_us,
            today_us: now_us,
            zone: if utc {
                TimeZone::UTC
            } else {
                TimeZone::system()
            },
        }
    }

    /// A clock that stands still in UTC.
    #[cfg(test)]
    pub(crate) fn fixed(now: &str) -> Self {
        let now_us = parse_rfc3339(now).expect("a test names a valid moment");
        Self {
            now_us,
            today_us: now_us,
            zone: TimeZone::UTC,
        }
    }

    /// Lets windows end at another moment than the present: data at rest end with
    /// their newest record.
    pub(crate) const fn count_back_from(&mut self, us: i64) {
        self.now_us = us;
    }

    /// Returns the moment that windows count back from, µs since the Unix epoch.
    pub(crate) const fn now_us(&self) -> i64 {
        self.now_us
    }

    fn offset_s(&self, us: i64) -> i64 {
        Timestamp::from_microsecond(us)
            .map_or(0, |moment| i64::from(self.zone.to_offset(moment).seconds()))
    }

    /// Parses what `--since` and `--until` say, relative to now and local time.
    pub(crate) fn parse(&self, text: &str) -> Result<i64, TimeError> {
        time::parse_moment(text, self.now_us, self.offset_s(self.now_us))
    }

    /// Parses a range and returns it in the API's form: RFC 3339, UTC.
    pub(crate) fn range(
        &self,
        since: Option<&str>,
        until: Option<&str>,
    ) -> Result<Range, RangeError> {
        let moment = |flag, text: Option<&str>| match text {
            None => Ok(None),
            Some(text) => match self.parse(text) {
                Ok(us) => Ok(Some(us)),
                Err(source) => Err(RangeError::Moment { flag, source }),
            },
        };
        let since = moment("--since", since)?;
        let until = moment("--until", until)?;
        if let Some(since) = since
            && until.unwrap_or(self.now_us) <= since
        {
            return Err(RangeError::Empty {
                since: format_utc(since),
                until: format_utc(until.unwrap_or(self.now_us)),
            });
        }
        Ok(Range {
            since: since.map(format_utc),
            until: until.map(format_utc),
        })
    }

    /// Formats a moment of today as `14:02:31`, of another day with its date.
    pub(crate) fn moment(&self, us: i64) -> String {
        let (day, clock) = self.local(us);
        if day == self.local(self.today_us).0 {
            clock[..8].to_owned()
        } else {
            format!("{day} {}", &clock[..8])
        }
    }

    /// Formats a moment with milliseconds, `14:02:31.123`, with its date if it is not today.
    pub(crate) fn moment_ms(&self, us: i64) -> String {
        let (day, clock) = self.local(us);
        if day == self.local(self.today_us).0 {
            clock
        } else {
            format!("{day} {clock}")
        }
    }

    /// Formats the range between two RFC 3339 texts of an answer: `14:01:31 to 14:02:31`.
    pub(crate) fn range_text(&self, from: &str, until: &str) -> String {
        match (parse_rfc3339(from), parse_rfc3339(until)) {
            (Some(from), Some(until)) => {
                format!("{} to {}", self.moment(from), self.moment(until))
            }
            _ => format!("{from} to {until}"),
        }
    }

    /// Formats an RFC 3339 text of an answer in local time.
    pub(crate) fn moment_text(&self, text: &str) -> String {
        parse_rfc3339(text).map_or_else(|| text.to_owned(), |us| self.moment(us))
    }

    /// Date and `14:02:31.123` in local time.
    fn local(&self, us: i64) -> (String, String) {
        let text = format_utc(us.saturating_add(self.offset_s(us) * time::SECOND_US));
        let (day, clock) = text.split_once('T').unwrap_or((&text, "00:00:00.000Z"));
        (day.to_owned(), clock.trim_end_matches('Z').to_owned())
    }
}

/// `--since` and `--until` do not name a range.
#[derive(Debug)]
pub(crate) enum RangeError {
    /// One of them is not a moment.
    Moment {
        /// The flag.
        flag: &'static str,
        /// What was expected.
        source: TimeError,
    },
    /// The end is not after the beginning.
    Empty {
        /// Beginning, RFC 3339.
        since: String,
        /// End, RFC 3339.
        until: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(zone: &str) -> Clock {
        Clock {
            zone: TimeZone::get(zone).expect("the time zone is known"),
            ..Clock::fixed("2026-01-31T14:02:31.5Z")
        }
    }

    #[test]
    fn clock_times_are_local_and_sent_as_utc() {
        let range = clock("Europe/Berlin")
            .range(Some("14:30"), Some("5m"))
            .expect("a range");
        assert_eq!(range.since.as_deref(), Some("2026-01-31T13:30:00.000Z"));
        assert_eq!(range.until.as_deref(), Some("2026-01-31T13:57:31.500Z"));
    }

    #[test]
    fn moments_are_printed_in_local_time() {
        let us = 1_769_868_151_123_000;
        assert_eq!(clock("Europe/Berlin").moment(us), "15:02:31");
        assert_eq!(clock("UTC").moment_ms(us), "14:02:31.123");
        assert_eq!(
            clock("UTC").moment(us - 86_400_000_000),
            "2026-01-30 14:02:31"
        );
        assert_eq!(
            clock("UTC").range_text("2026-01-31T13:52:31Z", "2026-01-31T14:02:31Z"),
            "13:52:31 to 14:02:31"
        );
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_refused() {
        assert!(matches!(
            clock("UTC").range(Some("5m"), Some("15m")),
            Err(RangeError::Empty { .. })
        ));
        assert!(matches!(
            clock("UTC").range(Some("yesterday"), None),
            Err(RangeError::Moment {
                flag: "--since",
                ..
            })
        ));
    }
}
