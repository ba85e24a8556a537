//! The headers that syslog daemons write before a message.
//!
//! Three forms, the first two with or without a leading `<PRI>`:
//!
//! ```text
//! Nov 20 21:27:54 kms vlmcsd[725]: text                          (RFC 3164)
//! 2026-11-20T21:27:55.123456+00:00 kms vlmcsd[725]: text         (the same, modern stamp)
//! <30>1 2026-11-20T21:27:55.123Z kms vlmcsd 725 - - text         (RFC 5424)
//! ```

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::fmt::temporal::DateTimeParser;

use super::container::{Stamp, YearlessStamp};
use crate::event::EventTime;

/// What stands before a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header<'a> {
    pub(super) stamp: Option<Stamp>,
    /// The process that logged and what it logged; `None` where the line does
    /// not name its process by id: it is some other program's.
    pub(super) message: Option<(u32, &'a [u8])>,
}

/// Takes the header off a line; `None` if it has none.
pub(super) fn header(line: &[u8]) -> Option<Header<'_>> {
    let after_priority = priority(line);
    if let Some(rest) = after_priority.and_then(|rest| rest.strip_prefix(b"1 ")) {
        return rfc5424(rest);
    }
    let rest = after_priority.unwrap_or(line);
    let (stamp, rest) = match yearless(rest) {
        Some((stamp, rest)) => (Stamp::Yearless(stamp), rest),
        None => {
            let (stamp, rest) = word(rest)?;
            (Stamp::Exact(rfc3339(stamp)?), rest)
        }
    };
    let (_host, rest) = word(rest)?;
    Some(Header {
        stamp: Some(stamp),
        message: tagged(rest),
    })
}

/// `ident[pid]: text`; one space after the colon belongs to the form.
fn tagged(rest: &[u8]) -> Option<(u32, &[u8])> {
    let end = rest
        .iter()
        .position(|b| matches!(b, b'[' | b']' | b':' | b' '))?;
    let (ident, rest) = rest.split_at_checked(end)?;
    let rest = rest.strip_prefix(b"[").filter(|_| !ident.is_empty())?;
    let end = memchr::memchr(b']', rest)?;
    let (pid, rest) = rest.split_at_checked(end)?;
    let text = rest.strip_prefix(b"]:")?;
    Some((number(pid)?, text.strip_prefix(b" ").unwrap_or(text)))
}

/// What follows `<PRI>1 `: `TIMESTAMP HOST APP PROCID MSGID SD [MSG]`.
fn rfc5424(rest: &[u8]) -> Option<Header<'_>> {
    let (stamp, rest) = word(rest)?;
    let stamp = match stamp {
        b"-" => None,
        stamp => Some(Stamp::Exact(rfc3339(stamp)?)),
    };
    let (_host, rest) = word(rest)?;
    let (_app, rest) = word(rest)?;
    let (process, rest) = word(rest)?;
    let (_message_id, rest) = word(rest)?;
    let rest = structured_data(rest)?;
    let text = match rest {
        [] => rest,
        _ => rest.strip_prefix(b" ")?,
    };
    // A byte order mark only says that the text is UTF-8.
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    Some(Header {
        stamp,
        message: number(process).map(|pid| (pid, text)),
    })
}

/// What follows `-` or `[id name="value" …]…`, where `\` escapes within values.
fn structured_data(rest: &[u8]) -> Option<&[u8]> {
    if let Some(rest) = rest.strip_prefix(b"-") {
        return Some(rest);
    }
    let (mut quoted, mut escaped, mut open) = (false, false, false);
    for (at, byte) in rest.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if open => quoted = !quoted,
            _ if quoted => {}
            b'[' if !open => open = true,
            b']' if open => open = false,
            b' ' if !open && at > 0 => return rest.get(at..),
            _ if !open => return None,
            _ => {}
        }
    }
    (!open && !rest.is_empty())
        .then(|| rest.get(rest.len()..))
        .flatten()
}

/// What follows `<PRI>`, a number up to 191.
fn priority(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"<")?;
    let end = memchr::memchr(b'>', rest.get(..4.min(rest.len()))?)?;
    let (priority, rest) = rest.split_at_checked(end)?;
    number(priority).filter(|&priority| priority <= 191)?;
    rest.strip_prefix(b">")
}

/// `Mon dd hh:mm:ss `, the day padded with a space or a zero.
fn yearless(line: &[u8]) -> Option<(YearlessStamp, &[u8])> {
    const MONTHS: [&[u8; 3]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov",
        b"Dec",
    ];
    let (stamp, rest) = line.split_first_chunk::<16>()?;
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
    ] = stamp
    else {
        return None;
    };
    let month = MONTHS
        .iter()
        .zip(1_i8..)
        .find(|(name, _)| ***name == [a, b, c])?
        .1;
    let two = |tens: u8, ones: u8| -> Option<i8> { small(&[tens, ones]) };
    let day = if d1 == b' ' {
        small(&[d2])?
    } else {
        two(d1, d2)?
    };
    // In a leap year, since any year may be meant.
    Date::new(2024, month, day).ok()?;
    let (hour, minute, second) = (two(h1, h2)?, two(m1, m2)?, two(s1, s2)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // A leap second is told as the one before it, as everywhere else.
    Some((
        YearlessStamp {
            month,
            day,
            hour,
            minute,
            second: second.min(59),
        },
        rest,
    ))
}

/// `YYYY-MM-DDThh:mm:ss[.fraction](Z|±hh:mm)` and nothing else.
pub(super) fn rfc3339(text: &[u8]) -> Option<EventTime> {
    const PARSER: DateTimeParser = DateTimeParser::new();
    // The parser knows more forms than RFC 3339 has; these are what logs hold.
    let shape = b"0000-00-00T00:00:00";
    let (stamp, zone) = text.split_at_checked(shape.len())?;
    let fits = stamp.iter().zip(shape).all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        _ => byte == shape,
    });
    let zone = match zone.strip_prefix(b".") {
        None => zone,
        Some(fraction) => {
            let digits = fraction
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            fraction
                .get(digits..)
                .filter(|_| (1..=9).contains(&digits))?
        }
    };
    let zone_fits = match zone {
        b"Z" => true,
        [b'+' | b'-', hour @ .., b':', m1, m2] => {
            hour.len() == 2 && hour.iter().chain([m1, m2]).all(u8::is_ascii_digit)
        }
        _ => false,
    };
    if !fits || !zone_fits {
        return None;
    }
    let pieces = PARSER.parse_pieces(text).ok()?;
    let offset = pieces.to_numeric_offset()?;
    let at: Timestamp = offset
        .to_timestamp(pieces.date().to_datetime(pieces.time()?))
        .ok()?;
    Some(EventTime { at, offset })
}

/// A word of at least one byte and what follows the space after it.
pub(super) fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b' ', text).filter(|&at| at > 0)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 10 {
        return None;
    }
    digits.iter().try_fold(0_u32, |number, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

fn small(digits: &[u8]) -> Option<i8> {
    number(digits).and_then(|number| i8::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Option<Stamp> {
        Some(Stamp::Exact(EventTime {
            at: text.parse().unwrap(),
            ..rfc3339(text.as_bytes())?
        }))
    }

    fn nov_20() -> Option<Stamp> {
        let stamp = YearlessStamp {
            month: 11,
            day: 20,
            hour: 21,
            minute: 27,
            second: 54,
        };
        Some(Stamp::Yearless(stamp))
    }

    #[test]
    fn the_forms_of_the_header() {
        type Case = (&'static [u8], Option<Stamp>, Option<(u32, &'static [u8])>);
        let cases: [Case; 12] = [
            (
                b"Nov 20 21:27:54 kms vlmcsd[725]: a: b",
                nov_20(),
                Some((725, b"a: b")),
            ),
            (
                b"<13>Nov 20 21:27:54 kms vlmcsd[725]: x",
                nov_20(),
                Some((725, b"x")),
            ),
            (
                b"Nov 20 21:27:54 kms vlmcsd[1]:  two",
                nov_20(),
                Some((1, b" two")),
            ),
            (b"Nov 20 21:27:54 kms vlmcsd[1]:", nov_20(), Some((1, b""))),
            (b"Nov 20 21:27:54 kms kernel: [1]: x", nov_20(), None),
            (b"Nov 20 21:27:54 kms vlmcsd[4294967296]: x", nov_20(), None),
            (
                b"2026-11-20T21:27:55.123456+02:00 kms vlmcsd[752]: x",
                at("2026-11-20T21:27:55.123456+02:00"),
                Some((752, b"x")),
            ),
            (
                b"<30>1 2026-11-20T21:27:55.123Z kms vlmcsd 725 - - x y",
                at("2026-11-20T21:27:55.123Z"),
                Some((725, b"x y")),
            ),
            (
                b"<30>1 - - - 7 ID [a@1 k=\"q\\\"]\\\\\" l=\"[\"][b] \xEF\xBB\xBFtext",
                None,
                Some((7, b"text")),
            ),
            (b"<30>1 - kms vlmcsd 7 - -", None, Some((7, b""))),
            (b"<30>1 - kms vlmcsd 7 - [a]", None, Some((7, b""))),
            (b"<30>1 - kms vlmcsd - - - x", None, None),
        ];
        for (line, stamp, message) in cases {
            let expected = Some(Header { stamp, message });
            assert_eq!(header(line), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn what_has_no_header() {
        for line in [
            &b""[..],
            b"2026-11-20 21:27:54: IPv4 connection accepted: 10.0.0.1:1.",
            b"Nov 31 21:27:54 kms vlmcsd[725]: x",
            b"Nov 20 24:27:54 kms vlmcsd[725]: x",
            b"Nov 20 21:27:54  vlmcsd[725]: x",
            b"Nov 20 21:27:54",
            b"2026-11-20T21:27:55 kms vlmcsd[752]: no zone",
            b"<192>Nov 20 21:27:54 kms vlmcsd[725]: x",
            b"<>Nov 20 21:27:54 kms vlmcsd[725]: x",
            b"<30>1 2026-11-20 kms vlmcsd 725 - - x",
            b"<30>1 - kms vlmcsd 7 - x",
            b"<30>1 - kms vlmcsd 7 - [a x",
            b"<30>1 - kms vlmcsd 7 - ",
        ] {
            assert_eq!(header(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn stamps_are_strict() {
        let time = rfc3339(b"2026-11-20T21:19:36.000000243Z").unwrap();
        assert_eq!(time.to_string(), "2026-11-20T21:19:36.000000243+00:00");
        assert!(rfc3339(b"2026-11-20T21:19:36-05:30").is_some());
        for text in [
            "2026-11-20t21:19:36Z",
            "2026-11-20 21:19:36Z",
            "2026-11-20T21:19:36",
            "2026-11-20T21:19:36.Z",
            "2026-11-20T21:19:36.0000000001Z",
            "2026-11-20T21:19:36+0000",
            "2026-11-20T21:19:36Z[UTC]",
            "2026-13-20T21:19:36Z",
            "2026-11-20T21:19:36+99:99",
        ] {
            assert_eq!(rfc3339(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn days_are_padded_with_a_space_or_a_zero_and_february_may_be_long() {
        let day = |line| yearless(line).map(|(stamp, _)| (stamp.month, stamp.day, stamp.second));
        assert_eq!(day(b"Mar  4 09:26:53 "), Some((3, 4, 53)));
        assert_eq!(day(b"Mar 04 09:26:53 "), Some((3, 4, 53)));
        assert_eq!(day(b"Feb 29 23:59:60 "), Some((2, 29, 59)));
        assert_eq!(day(b"Feb 30 09:26:53 "), None);
        assert_eq!(day(b"Mar   4 9:26:53 "), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _header = header(&bytes);
            let _after_priority = header(&[b"<30>1 ", &bytes[..]].concat());
            let _after_stamp = header(&[b"Nov 20 21:27:54 h v[1", &bytes[..]].concat());
            let _structured = structured_data(&[b"[", &bytes[..]].concat());
        }
    }
}
