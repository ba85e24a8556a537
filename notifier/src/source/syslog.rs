//! The headers that syslog daemons write before a message.
//!
//! Three forms, the first two with or without a leading `<PRI>`:
//!
//! ```text
//! Nov 20 21:27:54 kms vlmcsd[725]: text                          (RFC 3164)
//! 2026-11-20T21:27:55.123456+00:00 kms vlmcsd[725]: text         (the same, modern stamp)
//! <30>1 2026-11-20T21:27:55.123Z kms vlmcsd 725 - - text         (RFC 5424)
//! ```

use super::container::Stamp;
use super::stamp::Stamps;

/// What stands before a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header<'a> {
    pub(super) stamp: Option<Stamp>,
    /// The process that logged and what it logged; `None` where the line does
    /// not name its process by id: it is some other program's.
    pub(super) message: Option<(u32, &'a [u8])>,
}

/// Takes the header off a line; `None` if it has none.
pub(super) fn header<'a>(line: &'a [u8], stamps: &mut Stamps) -> Option<Header<'a>> {
    let after_priority = priority(line);
    if let Some(rest) = after_priority.and_then(|rest| rest.strip_prefix(b"1 ")) {
        return rfc5424(rest, stamps);
    }
    let rest = after_priority.unwrap_or(line);
    let yearless = rest.split_first_chunk().and_then(|(stamp, rest)| {
        let stamp = stamps.read_yearless(stamp)?;
        Some((Stamp::Yearless(stamp), rest))
    });
    let (stamp, rest) = match yearless {
        Some(stamped) => stamped,
        None => {
            let (stamp, rest) = word(rest)?;
            (Stamp::Exact(stamps.read(stamp)?), rest)
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
fn rfc5424<'a>(rest: &'a [u8], stamps: &mut Stamps) -> Option<Header<'a>> {
    let (stamp, rest) = word(rest)?;
    let stamp = match stamp {
        b"-" => None,
        stamp => Some(Stamp::Exact(stamps.read(stamp)?)),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Option<Stamp> {
        Stamps::default().read(text.as_bytes()).map(Stamp::Exact)
    }

    fn header(line: &[u8]) -> Option<Header<'_>> {
        super::header(line, &mut Stamps::default())
    }

    fn nov_20() -> Option<Stamp> {
        Some(Stamp::Yearless(jiff::civil::datetime(
            2000, 11, 20, 21, 27, 54, 0,
        )))
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
