//! Windows' clock.

use std::fmt;

use jiff::{Span, Timestamp, civil};

/// A point in time as Windows counts it: steps of 100 ns since 1601-01-01 UTC.
///
/// Clients send any number they like, up to the year 60056; `Display` shows them
/// all, to the second, in UTC: `2026-03-14 08:26:53`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime(pub u64);

/// 1601-01-01 in steps of 100 ns before 1970-01-01.
const UNIX_EPOCH: i128 = 116_444_736_000_000_000;

const STEPS_PER_SECOND: u64 = 10_000_000;
const SECONDS_PER_DAY: u64 = 86_400;
/// The calendar repeats after 400 years of this many days, and 1601 begins such
/// a cycle.
const DAYS_PER_CYCLE: u64 = 146_097;

impl FileTime {
    /// How far two times are apart, in steps of 100 ns.
    #[must_use]
    pub fn abs_diff(self, other: Self) -> u64 {
        self.0.abs_diff(other.0)
    }

    /// The same moment, if it is before the year 10000.
    #[must_use]
    pub fn to_timestamp(self) -> Option<Timestamp> {
        Timestamp::from_nanosecond((i128::from(self.0) - UNIX_EPOCH) * 100).ok()
    }
}

impl From<Timestamp> for FileTime {
    /// Moments before 1601 become 1601-01-01.
    fn from(time: Timestamp) -> Self {
        let steps = time.as_nanosecond().div_euclid(100) + UNIX_EPOCH;
        // No timestamp is late enough for the other end.
        Self(u64::try_from(steps.max(0)).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for FileTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / STEPS_PER_SECOND;
        let (days, time) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
        let (cycles, day) = (days / DAYS_PER_CYCLE, days % DAYS_PER_CYCLE);
        let day = i32::try_from(day).map_err(|_| fmt::Error)?;
        let date = civil::date(1601, 1, 1) + Span::new().days(day);
        let year = u64::from(date.year().unsigned_abs()) + 400 * cycles;
        let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
        let (month, day) = (date.month(), date.day());
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_moments() {
        for (steps, text) in [
            (0, "1601-01-01 00:00:00"),
            (116_444_736_000_000_000, "1970-01-01 00:00:00"),
            (125_911_583_990_000_000, "1999-12-31 23:59:59"),
            (125_963_423_999_999_999, "2000-02-29 23:59:59"),
            // 64 bits full: what GNU date says of 1833029933770 seconds.
            (u64::MAX, "60056-05-28 05:36:10"),
        ] {
            assert_eq!(FileTime(steps).to_string(), text);
        }
        assert_eq!(FileTime(u64::MAX).to_timestamp(), None);
    }

    #[test]
    fn moments_before_1601_become_its_first() {
        assert_eq!(FileTime::from(Timestamp::MIN), FileTime(0));
    }

    proptest! {
        #[test]
        fn a_moment_survives_the_way(steps in 0..2_650_467_743_999_999_999_u64) {
            let time = FileTime(steps).to_timestamp().unwrap();
            prop_assert_eq!(FileTime::from(time), FileTime(steps));
            prop_assert_eq!(
                FileTime(steps).to_string(),
                time.strftime("%Y-%m-%d %H:%M:%S").to_string()
            );
        }
    }
}
