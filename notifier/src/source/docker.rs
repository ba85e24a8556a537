//! One line of Docker's json-file driver: `{"log": TEXT, "stream": NAME, "time": STAMP}`.

use std::borrow::Cow;

use serde::Deserialize;

use super::container::{Entry, Stream};
use super::stamp::Stamps;

/// Takes the wrapper off a line; `None` if it has none.
pub(super) fn docker<'a>(line: &'a [u8], stamps: &mut Stamps) -> Option<Entry<'a>> {
    // Cheaper than asking the JSON parser about every plain line.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    usual(line, stamps).or_else(|| parsed(line, stamps))
}

/// A line as the driver writes most of them: three members in order, and nothing to
/// unescape in a text of printable ASCII but the LF at its end. Parsing JSON takes
/// several times as long.
fn usual<'a>(line: &'a [u8], stamps: &mut Stamps) -> Option<Entry<'a>> {
    let rest = value(line, b'{', b"\"log\"")?;
    let end = memchr::memchr2(b'"', b'\\', rest)?;
    let (text, rest) = rest.split_at_checked(end)?;
    // All at once and not up to the first: that is what processors do 16 at a time.
    let unprintable = |found, byte: &u8| found | !matches!(byte, b' '..=b'~');
    if text.iter().fold(false, unprintable) {
        return None;
    }
    let after_lf = rest.strip_prefix(b"\\n");
    let rest = after_lf.unwrap_or(rest).strip_prefix(b"\"")?;
    let (stream, rest) = to_quote(value(rest, b',', b"\"stream\"")?)?;
    let (time, rest) = to_quote(value(rest, b',', b"\"time\"")?)?;
    (rest == b"}").then_some(())?;
    Some(Entry {
        time: stamps.read(time)?,
        stream: Stream::named(stream)?,
        partial: after_lf.is_none(),
        text: Cow::Borrowed(text),
    })
}

/// What follows the quote that opens a member's value; `before` stands before the
/// member, and one space may stand before its name and its value.
fn value<'a>(line: &'a [u8], before: u8, name: &[u8]) -> Option<&'a [u8]> {
    let space = |text: &'a [u8]| text.strip_prefix(b" ").unwrap_or(text);
    let rest = space(line.strip_prefix(&[before])?).strip_prefix(name)?;
    space(rest.strip_prefix(b":")?).strip_prefix(b"\"")
}

/// What stands before the next quote, and after it.
fn to_quote(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b'"', text)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Any line of this form, by a JSON parser.
fn parsed<'a>(line: &'a [u8], stamps: &mut Stamps) -> Option<Entry<'a>> {
    /// Further members, such as `attrs`, may stand beside these.
    #[derive(Deserialize)]
    struct Json<'a> {
        #[serde(borrow)]
        log: Cow<'a, str>,
        #[serde(borrow)]
        stream: Cow<'a, str>,
        #[serde(borrow)]
        time: Cow<'a, str>,
    }
    let json: Json<'_> = serde_json::from_slice(line).ok()?;
    let mut text = match json.log {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    let partial = text.last() != Some(&b'\n');
    if !partial {
        text = match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.strip_suffix(b"\n").unwrap_or(text)),
            Cow::Owned(mut text) => {
                text.pop();
                Cow::Owned(text)
            }
        };
    }
    let stream = Stream::named(json.stream.as_bytes())?;
    Some(Entry {
        time: stamps.read(json.time.as_bytes())?,
        stream,
        partial,
        text,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: &str = "2026-11-20T21:19:36.5Z";

    fn both(line: &str) -> (Option<Entry<'_>>, Option<Entry<'_>>) {
        let line = line.as_bytes();
        (
            usual(line, &mut Stamps::default()),
            parsed(line, &mut Stamps::default()),
        )
    }

    #[test]
    fn what_the_driver_writes_is_the_usual() {
        for line in [
            format!(r#"{{"log":"a: b\n","stream":"stdout","time":"{T}"}}"#),
            format!(r#"{{"log":"","stream":"stderr","time":"{T}"}}"#),
            format!(r#"{{"log": "in part", "stream": "stdout", "time": "{T}"}}"#),
        ] {
            let (usual, parsed) = both(&line);
            assert!(usual.is_some(), "{line}");
            assert_eq!(usual, parsed);
        }
    }

    proptest! {
        /// Where the usual is recognised, the parser says the same.
        #[test]
        fn the_usual_is_what_the_parser_reads(
            text in "([ -~]|\\\\n|\\\\u003c|\\\\|\u{1}|é){0,6}",
            end in "(\\\\n)?",
            stream in "stdout|stderr|std|\\\\u0073tdout",
            time in prop_oneof![Just(T.to_owned()), "2026-11-20T21:19:3[0-9a]Z"],
            gap in "( |  |\t)?",
            rest in "|,\"attrs\":1| |,\"log\":\"x\"",
        ) {
            let line = format!(
                r#"{{"log":{gap}"{text}{end}",{gap}"stream":"{stream}","time":{gap}"{time}"{rest}}}"#
            );
            let (usual, parsed) = both(&line);
            prop_assert!(usual.is_none() || usual == parsed, "{line}: {usual:?}, {parsed:?}");
        }
    }
}
