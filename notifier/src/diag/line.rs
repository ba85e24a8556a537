//! What one event becomes: one line, whatever was sent.
//!
//! `KMSDIAG {…}` for JSON and `KMSDIAG_ERR {…}` for the rest. Behind the prefix
//! stands one JSON object without control, bidi or invisible characters, not
//! even escaped ones: whoever decodes it gets clean text too.

use std::net::IpAddr;

use jiff::Timestamp;
use kms_core::text::clean;
use serde::Serialize;
use serde_json::{Map, Value};

use super::metrics::Outcome;

/// Longest body that is looked at, in bytes.
pub const MAX_BODY: usize = 16 << 10;
/// Longest text in characters.
pub const MAX_TEXT: usize = 1024;
/// Longest key in characters.
pub const MAX_KEY: usize = 64;
/// How many objects and lists may stand within one another, the event included.
pub const MAX_DEPTH: usize = 5;
/// Values in an event, objects and lists included.
pub const MAX_VALUES: usize = 256;

/// How much of a body that is not JSON is shown, in characters.
const MAX_SHOWN: usize = 200;

/// What stands where something was cut.
const CUT: &str = "…";

/// Keys of the collector's own, as log queries spell them.
const RESERVED: [&str; 4] = ["_ip", "_time", "_cut", "_value"];

/// Whose event it is, and when it came.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The sender.
    pub ip: IpAddr,
    /// When its last byte came.
    pub time: Timestamp,
}

/// A body as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// All of it, at most [`MAX_BODY`] bytes.
    Whole(&'a [u8]),
    /// More than [`MAX_BODY`] bytes.
    Oversize,
    /// The time was over first.
    Late,
    /// The connection ended first, or the transfer coding is broken.
    Broken,
}

/// A line, and what it counts as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Without its line feed.
    pub text: String,
    /// What became of the event.
    pub outcome: Outcome,
    /// How many texts, keys and values were cut or left out.
    pub cut: u64,
}

#[derive(Serialize)]
struct Printed<'a> {
    #[serde(rename = "_time")]
    time: Timestamp,
    #[serde(rename = "_ip")]
    ip: IpAddr,
    #[serde(rename = "_cut", skip_serializing_if = "is_zero")]
    cut: u64,
    #[serde(flatten)]
    rest: &'a Map<String, Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Makes the line of a body.
#[must_use]
pub fn line(body: Body<'_>, origin: Origin) -> Line {
    match body {
        Body::Whole(bytes) => match parse(bytes) {
            Ok(event) => printed(event, origin),
            Err(error) => refused(Outcome::Invalid, &error.to_string(), Some(bytes), origin),
        },
        Body::Oversize => {
            let reason = format!("larger than {MAX_BODY} bytes");
            refused(Outcome::Oversize, &reason, None, origin)
        }
        Body::Late => refused(Outcome::Incomplete, "did not arrive in time", None, origin),
        Body::Broken => refused(Outcome::Incomplete, "did not arrive whole", None, origin),
    }
}

/// Scripts begin with a byte order mark, or send text in their machine's own
/// code page: neither is a reason to lose what they saw.
fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    let text = String::from_utf8_lossy(bytes);
    serde_json::from_str(text.strip_prefix('\u{FEFF}').unwrap_or(&text))
}

fn printed(event: Value, origin: Origin) -> Line {
    let mut cutter = Cutter {
        values: MAX_VALUES,
        cut: 0,
    };
    let (rest, outcome) = match event {
        Value::Object(members) => (cutter.object(members, 1), Outcome::Printed),
        other => {
            let value = cutter.value(other, 2).unwrap_or(Value::Null);
            let wrapped = Map::from_iter([("_value".to_owned(), value)]);
            (wrapped, Outcome::Wrapped)
        }
    };
    Line {
        text: write("KMSDIAG", &rest, cutter.cut, origin),
        outcome,
        cut: cutter.cut,
    }
}

fn refused(outcome: Outcome, reason: &str, body: Option<&[u8]>, origin: Origin) -> Line {
    let mut rest = Map::from_iter([("reason".to_owned(), bounded(reason, MAX_SHOWN).0.into())]);
    if let Some(body) = body {
        let begins = bounded(&String::from_utf8_lossy(body), MAX_SHOWN).0;
        rest.insert("bytes".to_owned(), body.len().into());
        rest.insert("begins".to_owned(), begins.into());
    }
    Line {
        text: write("KMSDIAG_ERR", &rest, 0, origin),
        outcome,
        cut: 0,
    }
}

fn write(prefix: &str, rest: &Map<String, Value>, cut: u64, Origin { ip, time }: Origin) -> String {
    let printed = Printed {
        time,
        ip,
        cut,
        rest,
    };
    let json = serde_json::to_string(&printed).expect("keys are texts, and a String takes all");
    format!("{prefix} {json}")
}

/// Cleans a text and cuts it to so many characters; says whether it was longer.
fn bounded(text: &str, max: usize) -> (String, bool) {
    if text.chars().nth(max).is_none() {
        return (clean(text.as_bytes(), max).into_owned(), false);
    }
    let head = clean(text.as_bytes(), max - CUT.chars().count());
    (format!("{head}{CUT}"), true)
}

/// Walks through an event, and counts what it takes out.
struct Cutter {
    /// How many values may still come.
    values: usize,
    cut: u64,
}

impl Cutter {
    /// A member of an object or list at this depth, the event being at 1.
    fn value(&mut self, value: Value, depth: usize) -> Option<Value> {
        let Some(left) = self.values.checked_sub(1) else {
            self.cut += 1;
            return None;
        };
        self.values = left;
        Some(match value {
            Value::String(text) => self.text(&text, MAX_TEXT).into(),
            Value::Array(_) | Value::Object(_) if depth > MAX_DEPTH => {
                self.cut += 1;
                CUT.into()
            }
            Value::Array(members) => members
                .into_iter()
                .filter_map(|member| self.value(member, depth + 1))
                .collect(),
            Value::Object(members) => self.object(members, depth).into(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        })
    }

    fn object(&mut self, members: Map<String, Value>, depth: usize) -> Map<String, Value> {
        let mut out = Map::new();
        for (key, value) in members {
            if depth == 1 && is_reserved(&key) {
                self.cut += 1;
                continue;
            }
            let key = self.text(&key, MAX_KEY);
            let Some(value) = self.value(value, depth + 1) else {
                continue;
            };
            // Different keys may be the same once they are clean.
            if out.insert(key, value).is_some() {
                self.cut += 1;
            }
        }
        out
    }

    fn text(&mut self, text: &str, max: usize) -> String {
        let (text, cut) = bounded(text, max);
        self.cut += u64::from(cut);
        text
    }
}

/// Whether a key is the collector's, or becomes it in a log query: Loki trims
/// white space, writes `_` for what is neither letter nor digit, and joins the keys
/// of nested objects with `_`, so that `{"":{"ip":…}}` is `_ip`, or only those that
/// are not blank, so that `{" ":{"_ip":…}}` is.
fn is_reserved(key: &str) -> bool {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let is_ours = |key: &str| {
        let spelled: String = key.chars().take(MAX_KEY).map(plain).collect();
        key.is_empty() || RESERVED.contains(&&*spelled)
    };
    // Whatever does not trim writes `_` for the blank.
    is_ours(key.trim()) || is_ours(key)
}

#[cfg(test)]
mod tests;
