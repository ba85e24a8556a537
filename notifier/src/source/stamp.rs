//! The stamps of container runtimes and syslog daemons.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::temporal::DateTimeParser;

use crate::event::EventTime;

/// `YYYY-MM-DDThh:mm:ss`
type Second = [u8; 19];

/// `±hh:mm`
type Zone = [u8; 6];

/// What stands for `Z`.
const UTC: Zone = *b"Z-----";

/// `Mon dd hh:mm:ss `
pub(super) type Yearless = [u8; 16];

const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// Reads stamps. Of lines that follow each other most share the second, and then
/// only the fraction is read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamps {
    /// The second read last, and its beginning.
    last: Option<(Second, Zone, EventTime)>,
    yearless: Option<(Yearless, DateTime)>,
}

impl Stamps {
    /// `YYYY-MM-DDThh:mm:ss[.fraction](Z|±hh:mm)` and nothing else (RFC 3339).
    pub(super) fn read(&mut self, text: &[u8]) -> Option<EventTime> {
        let (second, rest) = text.split_first_chunk()?;
        let (nanos, zone) = fraction(rest)?;
        let zone = match zone {
            b"Z" => UTC,
            [b'+' | b'-', ..] => zone.try_into().ok()?,
            _ => return None,
        };
        let EventTime { at, offset } = match self.last {
            Some((known, of, begun)) if known == *second && of == zone => begun,
            _ => {
                let begun = parse(text, second, &zone, nanos)?;
                self.last = Some((*second, zone, begun));
                begun
            }
        };
        let at = Timestamp::new(at.as_second(), nanos).ok()?;
        Some(EventTime { at, offset })
    }

    /// `Mon dd hh:mm:ss `, the day padded with a space or a zero (RFC 3164), as a
    /// local time of the year 2000: any year may be meant, leap years too.
    pub(super) fn read_yearless(&mut self, text: &Yearless) -> Option<DateTime> {
        match self.yearless {
            Some((known, stamp)) if known == *text => Some(stamp),
            _ => {
                let stamp = parse_yearless(text)?;
                self.yearless = Some((*text, stamp));
                Some(stamp)
            }
        }
    }
}

/// The nanoseconds after a stamp's seconds, and what follows them.
fn fraction(rest: &[u8]) -> Option<(i32, &[u8])> {
    let Some(rest) = rest.strip_prefix(b".") else {
        return Some((0, rest));
    };
    let (mut nanos, mut digits) = (0, 0);
    for digit in rest.iter().take(9).take_while(|byte| byte.is_ascii_digit()) {
        nanos = nanos * 10 + i32::from(digit - b'0');
        digits += 1;
    }
    let missing = 9 - u32::try_from(digits).ok().filter(|digits| *digits > 0)?;
    // A tenth digit is no zone.
    Some((nanos * 10_i32.pow(missing), rest.get(digits..)?))
}

/// The beginning of a stamp's second.
fn parse(text: &[u8], second: &Second, zone: &Zone, nanos: i32) -> Option<EventTime> {
    const PARSER: DateTimeParser = DateTimeParser::new();
    // The parser knows more forms than RFC 3339 has; these are what logs hold.
    let fits = |text: &[u8], shape: &[u8]| {
        text.iter().zip(shape).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            _ => byte == shape,
        })
    };
    let [_, hours_and_minutes @ ..] = zone;
    let zone_fits = *zone == UTC || fits(hours_and_minutes, b"00:00");
    if !fits(second, b"0000-00-00T00:00:00") || !zone_fits {
        return None;
    }
    let pieces = PARSER.parse_pieces(text).ok()?;
    let offset = pieces.to_numeric_offset()?;
    let at = offset.to_timestamp(pieces.date().to_datetime(pieces.time()?));
    let begun = at.ok()?.as_nanosecond() - i128::from(nanos);
    let at = Timestamp::from_nanosecond(begun).ok()?;
    Some(EventTime { at, offset })
}

fn parse_yearless(text: &Yearless) -> Option<DateTime> {
    let &[
        a,
        b,
        c,
        b' ',
        d1,
        d2,
        b' ',
        h1,
        h2,
        b':',
        m1,
        m2,
        b':',
        s1,
        s2,
        b' ',
    ] = text
    else {
        return None;
    };
    let digit = |byte: u8| {
        Some(byte)
            .filter(u8::is_ascii_digit)
            .map(|byte| byte - b'0')
    };
    let two = |tens, ones| i8::try_from(digit(tens)? * 10 + digit(ones)?).ok();
    let mut months = MONTHS.iter().zip(1_i8..);
    let (_, month) = months.find(|(name, _)| ***name == [a, b, c])?;
    let day = two(if d1 == b' ' { b'0' } else { d1 }, d2)?;
    let (hour, minute, second) = (two(h1, h2)?, two(m1, m2)?, two(s1, s2)?);
    // A leap second is told as the one before it, as everywhere else.
    let second = if second == 60 { 59 } else { second };
    DateTime::new(2000, month, day, hour, minute, second, 0).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<EventTime> {
        Stamps::default().read(text.as_bytes())
    }

    #[test]
    fn stamps_are_strict() {
        let time = read("2026-11-20T21:19:36.000000243Z").unwrap();
        assert_eq!(time.to_string(), "2026-11-20T21:19:36.000000243+00:00");
        let west = read("2026-11-20T21:19:36-05:30").unwrap();
        assert_eq!(west.to_string(), "2026-11-20T21:19:36-05:30");
        for text in [
            "2026-11-20t21:19:36Z",
            "2026-11-20 21:19:36Z",
            "2026-11-20T21:19:36",
            "2026-11-20T21:19:36.Z",
            "2026-11-20T21:19:36.0000000001Z",
            "2026-11-20T21:19:36+0000",
            "2026-11-20T21:19:36Z-----",
            "2026-11-20T21:19:36+00:000",
            "2026-11-20T21:19:36-0a:00",
            "2026-11-20T21:19:36Z[UTC]",
            "2026-13-20T21:19:36Z",
            "2026-11-20T21:19:36+99:99",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn days_are_padded_with_a_space_or_a_zero_and_february_may_be_long() {
        let mut stamps = Stamps::default();
        let mut day = |text: &[u8; 16]| {
            let stamp = stamps.read_yearless(text)?;
            Some((stamp.month(), stamp.day(), stamp.second()))
        };
        for _ in 0..2 {
            assert_eq!(day(b"Mar  4 09:26:53 "), Some((3, 4, 53)));
            assert_eq!(day(b"Mar 04 09:26:53 "), Some((3, 4, 53)));
            assert_eq!(day(b"Feb 29 23:59:60 "), Some((2, 29, 59)));
            assert_eq!(day(b"Feb 30 09:26:53 "), None);
            assert_eq!(day(b"Feb  0 09:26:53 "), None);
            assert_eq!(day(b"Feb 01 09:26:61 "), None);
            assert_eq!(day(b"Mar   4 9:26:53 "), None);
        }
    }

    proptest! {
        /// Whatever was read before, a stamp is what the parser reads.
        #[test]
        fn what_is_remembered_is_what_is_parsed(
            seconds in prop::collection::vec((-62_000_000_000_i64..253_000_000_000, 1..4_usize), 1..6),
            fractions in prop::collection::vec("(\\.[0-9]{1,9})?", 6),
            zones in prop::collection::vec("Z|[+-](0[0-9]|1[0-9]):[0-6][0-9]", 6),
        ) {
            let mut stamps = Stamps::default();
            for ((second, times), (fraction, zone)) in seconds.iter().zip(fractions.iter().zip(&zones)) {
                let second = Timestamp::from_second(*second).unwrap().strftime("%Y-%m-%dT%H:%M:%S");
                for fraction in [fraction, "", ".5", fraction].iter().take(times + 1) {
                    let text = format!("{second}{fraction}{zone}");
                    prop_assert_eq!(stamps.read(text.as_bytes()), read(&text), "{}", text);
                    let parsed: Option<Timestamp> = text.parse().ok();
                    prop_assert_eq!(read(&text).map(|time| time.at), parsed, "{}", text);
                }
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _time = Stamps::default().read(&bytes);
            let _time = Stamps::default().read(&[b"2026-11-20T21:19:36", &bytes[..]].concat());
        }
    }
}
