//! The server's stamps, read in the log's time zone.

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::event::EventTime;

/// How far neighbouring lines may be out of order: stamps are taken before the
/// write (kms-wire.md 7.10), so a second is normal.
const DISORDER: SignedDuration = SignedDuration::from_secs(2);

/// Turns `YYYY-MM-DD HH:MM:SS` into moments. Most lines share the stamp of the
/// line above, which costs a comparison of 19 bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Clock {
    #[serde(skip, default = "utc")]
    zone: TimeZone,
    stamp: [u8; 19],
    /// The stamp without a year that `time` was found for, and by which mtime.
    #[serde(skip)]
    yearless: Option<(DateTime, Timestamp)>,
    time: Option<EventTime>,
}

impl Clock {
    /// A clock for a server that stamps in `zone`.
    #[must_use]
    pub(super) fn new(zone: TimeZone) -> Self {
        Self {
            zone,
            stamp: [0; 19],
            yearless: None,
            time: None,
        }
    }

    /// Goes on in `zone` with what was read before.
    pub(super) fn restored(self, zone: TimeZone) -> Self {
        Self { zone, ..self }
    }

    /// The moment of a server's stamp; `None` if there is no such date.
    pub(super) fn server(&mut self, stamp: &[u8; 19]) -> Option<EventTime> {
        if self.stamp != *stamp || self.time.is_none() {
            let time = self.local(parse(stamp)?)?;
            self.stamp = *stamp;
            self.yearless = None;
            self.time = Some(time);
        }
        self.time
    }

    /// The moment of a local time without a year: the year that is nearest to
    /// `modified` (the file's mtime) and not more than a day after it.
    pub(super) fn yearless(&mut self, stamp: DateTime, modified: Timestamp) -> Option<EventTime> {
        if self.yearless == Some((stamp, modified)) {
            return self.time;
        }
        let year = modified.to_zoned(self.zone.clone()).year();
        let limit = modified + SignedDuration::from_hours(24);
        // The years around it, latest first: the first that is not too late is
        // nearest. Eight back are enough for a 29 February.
        let found = (-8..=1).rev().find_map(|step| {
            let date = stamp.with().year(year + step).build().ok()?;
            self.local(date).filter(|time| time.at <= limit)
        });
        if found.is_some() {
            self.stamp = [0; 19];
            self.yearless = Some((stamp, modified));
            self.time = found;
        }
        found
    }

    /// Notes a moment that came with the line itself (container, RFC 5424).
    pub(super) fn note(&mut self, time: EventTime) {
        self.stamp = [0; 19];
        self.yearless = None;
        self.time = Some(time);
    }

    /// In a repeated hour the earlier reading that is not before the line above.
    fn local(&self, date: DateTime) -> Option<EventTime> {
        let reading = self.zone.to_ambiguous_timestamp(date);
        let offset = match reading.offset() {
            AmbiguousOffset::Unambiguous { offset } => offset,
            AmbiguousOffset::Gap { before, .. } => before,
            AmbiguousOffset::Fold { before, after } => {
                let early = before.to_timestamp(date).ok()?;
                match self.time {
                    Some(above) if early < above.at - DISORDER => after,
                    _ => before,
                }
            }
        };
        Some(EventTime {
            at: offset.to_timestamp(date).ok()?,
            offset,
        })
    }
}

/// In place of the zone, which is the configuration's.
fn utc() -> TimeZone {
    TimeZone::UTC
}

fn parse(stamp: &[u8; 19]) -> Option<DateTime> {
    let [
        y0,
        y1,
        y2,
        y3,
        _,
        m0,
        m1,
        _,
        d0,
        d1,
        _,
        h0,
        h1,
        _,
        n0,
        n1,
        _,
        s0,
        s1,
    ] = *stamp;
    let two = |a: u8, b: u8| i8::try_from((a.wrapping_sub(b'0')) * 10 + b.wrapping_sub(b'0')).ok();
    let year = i16::from(two(y0, y1)?) * 100 + i16::from(two(y2, y3)?);
    DateTime::new(
        year,
        two(m0, m1)?,
        two(d0, d1)?,
        two(h0, h1)?,
        two(n0, n1)?,
        two(s0, s1)?,
        0,
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(zone: &str) -> Clock {
        Clock::new(TimeZone::get(zone).expect("a bundled zone"))
    }

    fn read(clock: &mut Clock, stamp: &str) -> String {
        clock
            .server(stamp.as_bytes().try_into().expect("19 bytes"))
            .map_or_else(|| "-".into(), |time| time.to_string())
    }

    #[test]
    fn stamps_are_read_in_the_zone() {
        assert_eq!(
            read(&mut clock("UTC"), "2026-11-20 21:19:06"),
            "2026-11-20T21:19:06+00:00"
        );
        assert_eq!(
            read(&mut clock("Europe/Berlin"), "2026-07-01 12:00:00"),
            "2026-07-01T12:00:00+02:00"
        );
        assert_eq!(read(&mut clock("UTC"), "2026-02-30 12:00:00"), "-");
        assert_eq!(read(&mut clock("UTC"), "2026-02-20 24:00:00"), "-");
    }

    #[test]
    fn a_repeated_hour_is_read_forwards() {
        let mut clock = clock("Europe/Berlin");
        assert_eq!(
            read(&mut clock, "2026-10-25 02:59:59"),
            "2026-10-25T02:59:59+02:00"
        );
        // A neighbour that is a second out of order is still in the first pass …
        assert_eq!(
            read(&mut clock, "2026-10-25 02:59:58"),
            "2026-10-25T02:59:58+02:00"
        );
        // … and an hour back is the second one.
        assert_eq!(
            read(&mut clock, "2026-10-25 02:00:00"),
            "2026-10-25T02:00:00+01:00"
        );
        assert_eq!(
            read(&mut clock, "2026-10-25 02:30:00"),
            "2026-10-25T02:30:00+01:00"
        );
    }

    #[test]
    fn stamps_of_several_kinds_in_turns_stay_what_they_are() {
        let mut clock = clock("UTC");
        let modified: Timestamp = "2026-12-01T00:00:00Z".parse().expect("a time");
        let syslog: DateTime = "2000-11-20T21:19:07".parse().expect("a date");
        let container: Timestamp = "2026-11-20T21:19:09Z".parse().expect("a time");
        for _ in 0..2 {
            assert_eq!(
                read(&mut clock, "2026-11-20 21:19:06"),
                "2026-11-20T21:19:06+00:00"
            );
            for _ in 0..2 {
                let found = clock
                    .yearless(syslog, modified)
                    .map(|time| time.to_string());
                assert_eq!(found.as_deref(), Some("2026-11-20T21:19:07+00:00"));
            }
            // The same as before, though another kind came in between.
            let again = read(&mut clock, "2026-11-20 21:19:06");
            assert_eq!(again, "2026-11-20T21:19:06+00:00");
            // By another mtime it is another year's.
            let later = modified + SignedDuration::from_hours(24 * 365);
            let found = clock.yearless(syslog, later).map(|time| time.to_string());
            assert_eq!(found.as_deref(), Some("2027-11-20T21:19:07+00:00"));
            clock.note(EventTime::utc(container));
        }
    }

    #[test]
    fn a_stamp_without_a_year_takes_it_from_the_file() {
        let mut clock = clock("UTC");
        let modified: Timestamp = "2027-01-01T00:10:00Z".parse().expect("a time");
        let mut at = |text: &str| {
            clock
                .yearless(text.parse().expect("a date"), modified)
                .map(|t| t.at.to_string())
        };
        assert_eq!(
            at("2000-12-31T23:59:00").as_deref(),
            Some("2026-12-31T23:59:00Z")
        );
        assert_eq!(
            at("2000-01-01T00:05:00").as_deref(),
            Some("2027-01-01T00:05:00Z")
        );
        assert_eq!(
            at("2000-01-02T00:05:00").as_deref(),
            Some("2027-01-02T00:05:00Z")
        );
        assert_eq!(
            at("2000-01-03T00:05:00").as_deref(),
            Some("2026-01-03T00:05:00Z")
        );
        assert_eq!(
            at("2000-02-29T00:05:00").as_deref(),
            Some("2024-02-29T00:05:00Z")
        );
    }
}
