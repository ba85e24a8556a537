//! What is wrapped around a server's line on its way into a log, taken off.
//!
//! A container runtime (CRI, Docker's JSON lines) or a syslog daemon puts a stamp
//! before each line and may store a line in parts. [`Unwrapper`] gives the text as
//! the server printed it.
//!
//! The form of a log is recognised from its first line, which a client cannot
//! write: vlmcsd starts its log with lines of its own, and a rotated log begins
//! at a line boundary that no client chooses. It then holds for the generation. A
//! client's text in a plain log may look like any wrapper, with a PID of its
//! choice, and must stay text. In case the first line was such text after all,
//! a form is on trial for a few lines: genuinely wrapped logs are wrapped there
//! without exception, and a forgery cannot be that long.

use std::borrow::Cow;

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};

use super::RawLine;
use super::docker::docker;
use super::stamp::Stamps;
use super::syslog::{self, word};
use crate::event::EventTime;

/// How many first lines must all be wrapped. A forged name has room for 65
/// characters; the shortest wrapper takes 17 of them and its LF one, so it has three.
/// No more than needed: a name may bring a line feed of its own into a syslog file.
const TRIAL_LINES: u8 = 4;

/// How a log is to be read (`--format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Recognise the form by itself, in each generation anew.
    #[default]
    Auto,
    /// Lines as the server printed them.
    Plain,
    /// `<RFC 3339> stdout|stderr P|F <bytes>`, as containerd and CRI-O write.
    Cri,
    /// `{"log": …, "stream": …, "time": …}`, as Docker's json-file driver writes.
    Docker,
    /// A syslog daemon's file, RFC 3164 or RFC 5424.
    Syslog,
}

/// The form that a log turned out to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// See [`Format::Plain`].
    Plain,
    /// See [`Format::Cri`].
    Cri,
    /// See [`Format::Docker`].
    Docker,
    /// See [`Format::Syslog`].
    Syslog,
}

/// When the wrapper says that a line was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// With year and offset.
    Exact(EventTime),
    /// In local time and without its year, which is given as 2000.
    Yearless(DateTime),
}

/// A line as the server printed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Offset in bytes of the first raw line it came in.
    pub offset: u64,
    /// That raw line, wrapper included, without LF.
    pub raw: &'a [u8],
    /// What the server printed, without LF.
    pub text: &'a [u8],
    /// The wrapper's stamp, of the first part.
    pub stamp: Option<Stamp>,
    /// The process that syslog names.
    pub pid: Option<u32>,
    /// Whether it came in the log's wrapper. It does not in a plain log, and in a
    /// wrapped one ([`Unwrapper::form`]) not where the line has no such wrapper or
    /// is not a server's: then `text` is the whole line, with no stamp or PID.
    pub wrapped: bool,
    /// Whether it lost its end to a bound.
    pub cut: bool,
}

/// Takes the wrapper off the lines of one generation of a log. It can be stored,
/// to go on in the next line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Unwrapper {
    state: State,
    max_text: usize,
    /// Parts of a line that goes on, of standard output and standard error.
    parts: [Parts; 2],
    #[serde(skip)]
    stamps: Stamps,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum State {
    Unknown,
    /// Recognised; so many more lines must agree.
    Trial(Form, u8),
    Settled(Form),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"stdout" => Some(Self::Stdout),
            b"stderr" => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// One line of a runtime's log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) time: EventTime,
    pub(super) stream: Stream,
    /// Whether the server's line goes on in the stream's next entry.
    pub(super) partial: bool,
    pub(super) text: Cow<'a, [u8]>,
}

/// What was there of a line so far.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Parts {
    /// The first part's stamp; `None` when no line is under way.
    time: Option<EventTime>,
    offset: u64,
    raw: Vec<u8>,
    text: Vec<u8>,
    cut: bool,
}

impl Unwrapper {
    /// For a generation of a log whose messages are at most `max_text` bytes
    /// long. `head` is its first complete line if that will not be handed over.
    #[must_use]
    pub fn new(format: Format, head: Option<&[u8]>, max_text: usize) -> Self {
        let state = match format {
            Format::Auto => head.map_or(State::Unknown, recognise),
            Format::Plain => State::Settled(Form::Plain),
            Format::Cri => State::Settled(Form::Cri),
            Format::Docker => State::Settled(Form::Docker),
            Format::Syslog => State::Settled(Form::Syslog),
        };
        Self {
            state,
            max_text,
            parts: Default::default(),
            stamps: Stamps::default(),
        }
    }

    /// Goes on with what was stored, as it is configured now.
    #[must_use]
    pub fn resume(self, format: Format, max_text: usize) -> Self {
        let state = match format {
            Format::Auto => self.state,
            configured => Self::new(configured, None, max_text).state,
        };
        Self {
            state,
            max_text,
            ..self
        }
    }

    /// The form of the log; `None` before its first line.
    #[must_use]
    pub fn form(&self) -> Option<Form> {
        match self.state {
            State::Unknown => None,
            State::Trial(form, _) | State::Settled(form) => Some(form),
        }
    }

    /// Whether the log is plain for good: its lines are its messages.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.state, State::Settled(Form::Plain))
    }

    /// Handles the next line; `each` gets every message that is complete by now.
    pub fn handle_line(&mut self, line: RawLine<'_>, each: &mut impl FnMut(Message<'_>)) {
        self.judge(line.bytes);
        match self.form() {
            Some(Form::Plain) | None => each(bare(line)),
            Some(Form::Syslog) => each(from_syslog(line, &mut self.stamps)),
            Some(Form::Cri) => {
                let entry = cri(line.bytes, &mut self.stamps);
                self.handle_entry(line, entry, each);
            }
            Some(Form::Docker) => {
                let entry = docker(line.bytes, &mut self.stamps);
                self.handle_entry(line, entry, each);
            }
        }
    }

    /// Goes on with lines that `older`, the generation before, left in parts: the
    /// runtime may begin another file between two.
    pub fn inherit(&mut self, older: &mut Self) {
        self.parts = std::mem::take(&mut older.parts);
    }

    /// Gives what there is of lines whose last part never came: at the end of
    /// the generation.
    pub fn finish(&mut self, each: &mut impl FnMut(Message<'_>)) {
        let mut parts: Vec<&mut Parts> = self.parts.iter_mut().collect();
        parts.sort_by_key(|parts| parts.offset);
        for parts in parts {
            parts.flush(each);
        }
    }

    /// Lets a line speak for or against the form, while that is open.
    fn judge(&mut self, line: &[u8]) {
        self.state = match self.state {
            State::Unknown => recognise(line),
            State::Trial(form, _) if !has_form(form, line) => State::Settled(Form::Plain),
            State::Trial(form, 0 | 1) => State::Settled(form),
            State::Trial(form, left) => State::Trial(form, left - 1),
            settled @ State::Settled(_) => settled,
        }
    }

    fn handle_entry(
        &mut self,
        line: RawLine<'_>,
        entry: Option<Entry<'_>>,
        each: &mut impl FnMut(Message<'_>),
    ) {
        let Some(entry) = entry else {
            // What is under way cannot be continued over damage.
            self.finish(each);
            return each(bare(line));
        };
        let [stdout, stderr] = &mut self.parts;
        let parts = match entry.stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        };
        if entry.partial || parts.time.is_some() {
            parts.add(line, &entry, self.max_text);
            if !entry.partial {
                parts.flush(each);
            }
            return;
        }
        let text = entry.text.get(..self.max_text).unwrap_or(&entry.text);
        each(Message {
            offset: line.offset,
            raw: line.bytes,
            text,
            stamp: Some(Stamp::Exact(entry.time)),
            pid: None,
            wrapped: true,
            cut: line.cut || text.len() < entry.text.len(),
        });
    }
}

impl Parts {
    fn add(&mut self, line: RawLine<'_>, entry: &Entry<'_>, max_text: usize) {
        if self.time.is_none() {
            self.time = Some(entry.time);
            self.offset = line.offset;
            self.raw.extend_from_slice(line.bytes);
        }
        let room = max_text.saturating_sub(self.text.len());
        let kept = entry.text.get(..room).unwrap_or(&entry.text);
        self.text.extend_from_slice(kept);
        self.cut |= line.cut || kept.len() < entry.text.len();
    }

    fn flush(&mut self, each: &mut impl FnMut(Message<'_>)) {
        let Some(time) = self.time.take() else { return };
        each(Message {
            offset: self.offset,
            raw: &self.raw,
            text: &self.text,
            stamp: Some(Stamp::Exact(time)),
            pid: None,
            wrapped: true,
            cut: self.cut,
        });
        self.raw.clear();
        self.text.clear();
        self.cut = false;
    }
}

fn recognise(line: &[u8]) -> State {
    [Form::Cri, Form::Docker, Form::Syslog]
        .into_iter()
        .find(|form| has_form(*form, line))
        .map_or(State::Settled(Form::Plain), |form| {
            State::Trial(form, TRIAL_LINES - 1)
        })
}

/// Whether a line has a form's complete wrapper. Other programs' lines in a
/// syslog file count: a rotated one begins with the daemon's own.
fn has_form(form: Form, line: &[u8]) -> bool {
    let stamps = &mut Stamps::default();
    match form {
        Form::Plain => true,
        Form::Cri => cri(line, stamps).is_some(),
        Form::Docker => docker(line, stamps).is_some(),
        Form::Syslog => syslog::header(line, stamps).is_some(),
    }
}

/// A line without a wrapper.
fn bare(line: RawLine<'_>) -> Message<'_> {
    Message {
        offset: line.offset,
        raw: line.bytes,
        text: line.bytes,
        stamp: None,
        pid: None,
        wrapped: false,
        cut: line.cut,
    }
}

fn from_syslog<'a>(line: RawLine<'a>, stamps: &mut Stamps) -> Message<'a> {
    match syslog::header(line.bytes, stamps) {
        Some(syslog::Header {
            stamp,
            message: Some((pid, text)),
        }) => Message {
            text,
            stamp,
            pid: Some(pid),
            wrapped: true,
            ..bare(line)
        },
        _ => bare(line),
    }
}

fn cri<'a>(line: &'a [u8], stamps: &mut Stamps) -> Option<Entry<'a>> {
    let (time, rest) = word(line)?;
    let (stream, rest) = rest.split_first_chunk::<7>()?;
    let stream = Stream::named(stream.strip_suffix(b" ")?)?;
    let (partial, text) = match rest {
        [b'P', b' ', text @ ..] => (true, text),
        [b'F', b' ', text @ ..] => (false, text),
        _ => return None,
    };
    Some(Entry {
        time: stamps.read(time)?,
        stream,
        partial,
        text: Cow::Borrowed(text),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message, owned: offset, text, wrapped, cut.
    type Owned = (u64, String, bool, bool);

    fn own(message: Message<'_>) -> Owned {
        let text = String::from_utf8_lossy(message.text).into_owned();
        (message.offset, text, message.wrapped, message.cut)
    }

    fn raw(bytes: &[u8], offset: u64) -> RawLine<'_> {
        RawLine {
            offset,
            bytes,
            cut: false,
        }
    }

    /// Unwraps lines whose offsets are their numbers.
    fn unwrap_all(unwrapper: &mut Unwrapper, lines: &[&[u8]]) -> Vec<Owned> {
        let mut messages = Vec::new();
        for (line, number) in lines.iter().zip(0..) {
            unwrapper.handle_line(raw(line, number), &mut |m| messages.push(own(m)));
        }
        unwrapper.finish(&mut |m| messages.push(own(m)));
        messages
    }

    fn texts(format: Format, lines: &[&[u8]]) -> Vec<String> {
        let messages = unwrap_all(&mut Unwrapper::new(format, None, 1 << 16), lines);
        messages.into_iter().map(|(_, text, ..)| text).collect()
    }

    fn recording(name: &str) -> Vec<u8> {
        let path = format!(
            "{}/../fixtures/recorded/{name}.log",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::read(path).unwrap()
    }

    fn lines(bytes: &[u8]) -> Vec<&[u8]> {
        bytes
            .strip_suffix(b"\n")
            .unwrap()
            .split(|b| *b == b'\n')
            .collect()
    }

    const T: &str = "2026-11-20T21:19:36.000000243Z";

    fn cri_line(rest: &str) -> String {
        format!("{T} {rest}")
    }

    #[test]
    fn recordings_of_one_log_in_three_forms_give_the_same_texts() {
        let plain = recording("svn1113-fork-held");
        let plain: Vec<String> = lines(&plain)
            .iter()
            .map(|l| String::from_utf8_lossy(l).into_owned())
            .collect();
        for (name, form) in [
            ("svn1113-fork-held", Form::Plain),
            ("cri-svn1113-fork-held", Form::Cri),
        ]
        .into_iter()
        .chain([("docker-svn1113-fork-held", Form::Docker)])
        {
            let bytes = recording(name);
            let mut unwrapper = Unwrapper::new(Format::Auto, None, 1 << 16);
            let messages = unwrap_all(&mut unwrapper, &lines(&bytes));
            assert_eq!(unwrapper.form(), Some(form));
            assert!(
                messages
                    .iter()
                    .all(|m| m.2 == (form != Form::Plain) && !m.3),
                "{name}"
            );
            assert!(messages.iter().map(|m| &m.1).eq(&plain), "{name}");
        }
    }

    #[test]
    fn a_syslog_recording_has_a_pid_and_a_stamp_on_every_line() {
        let bytes = recording("svn1113-syslog-burst");
        let mut unwrapper = Unwrapper::new(Format::Auto, None, 1 << 16);
        let mut count = 0;
        for (line, offset) in lines(&bytes).into_iter().zip(0..) {
            unwrapper.handle_line(raw(line, offset), &mut |message| {
                count += 1;
                assert!(message.pid.is_some() && message.wrapped);
                assert!(matches!(message.stamp, Some(Stamp::Yearless(at)) if at.month() == 11));
                assert!(line.ends_with(message.text) && message.raw == line);
            });
        }
        assert_eq!(
            (count, unwrapper.form()),
            (lines(&bytes).len(), Some(Form::Syslog))
        );
    }

    #[test]
    fn a_message_names_its_first_raw_line_and_its_first_stamp() {
        let first = cri_line("stdout P ab");
        let mut unwrapper = Unwrapper::new(Format::Cri, None, 100);
        let mut none = |_: Message<'_>| panic!("not complete yet");
        unwrapper.handle_line(raw(first.as_bytes(), 7), &mut none);
        let mut seen = false;
        let last = b"2027-01-01T00:00:00Z stdout F c";
        unwrapper.handle_line(raw(last, 99), &mut |message| {
            seen = true;
            let stamp = Stamps::default().read(T.as_bytes()).map(Stamp::Exact);
            let expected = Message {
                offset: 7,
                raw: first.as_bytes(),
                text: b"abc",
                stamp,
                pid: None,
                wrapped: true,
                cut: false,
            };
            assert_eq!(message, expected);
        });
        assert!(seen);
    }

    #[test]
    fn parts_are_joined_per_stream_and_flushed_by_damage_and_the_end() {
        let lines = [
            cri_line("stdout P a"),
            cri_line("stderr P x"),
            cri_line("stdout F b"),
            cri_line("stdout P c"),
            "damage".to_owned(),
            cri_line("stdout F d"),
            cri_line("stderr P "),
            cri_line("stdout P e"),
        ];
        let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
        let messages = unwrap_all(&mut Unwrapper::new(Format::Cri, None, 100), &lines);
        let expected = [
            (0, "ab", true),
            (1, "x", true),
            (3, "c", true),
            (4, "damage", false),
            (5, "d", true),
            (6, "", true),
            (7, "e", true),
        ];
        assert_eq!(
            messages,
            expected.map(|(at, text, w)| (at, text.to_owned(), w, false))
        );
    }

    #[test]
    fn docker_entries_in_any_key_order_and_spacing_with_escapes() {
        let lines: [&[u8]; 5] = [
            br#"{"time":"2026-11-20T21:19:36Z","attrs":{"a":"b"},"stream":"stdout","log":"caf\u00e9 \"q\"\n"}"#,
            br#" { "log" : "par" , "stream" : "stdout" , "time" : "2026-11-20T21:19:36Z" } "#,
            br#"{"log":"err\n","stream":"stderr","time":"2026-11-20T21:19:36Z"}"#,
            br#"{"log":"tial\n","stream":"stdout","time":"2026-11-20T21:19:36Z"}"#,
            br#"{"log":"no stream\n","time":"2026-11-20T21:19:36Z"}"#,
        ];
        assert_eq!(
            texts(Format::Docker, &lines)[..3],
            ["caf\u{e9} \"q\"", "err", "partial"]
        );
        let messages = unwrap_all(&mut Unwrapper::new(Format::Docker, None, 100), &lines);
        assert!(!messages[3].2 && messages[3].1.starts_with("{\"log\""));
    }

    #[test]
    fn what_is_joined_is_bounded() {
        let lines: Vec<String> = [
            "stdout P abc",
            "stdout P def",
            "stdout F ghi",
            "stdout F 123456",
        ]
        .map(cri_line)
        .to_vec();
        let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
        let messages = unwrap_all(&mut Unwrapper::new(Format::Cri, None, 5), &lines);
        let expected = [
            (0, "abcde".to_owned(), true, true),
            (3, "12345".to_owned(), true, true),
        ];
        assert_eq!(messages, expected);
    }

    #[test]
    fn a_plain_log_stays_plain_whatever_its_lines_look_like() {
        let cri = cri_line("stdout F forged");
        let lines: [&[u8]; 5] = [
            b"2026-11-20 21:19:36: IPv4 connection accepted: 10.0.0.1:1.",
            b"Nov 20 21:27:54 kms vlmcsd[725]: forged",
            cri.as_bytes(),
            br#"{"log":"forged\n","stream":"stdout","time":"2026-11-20T21:19:36Z"}"#,
            b"<30>1 - - v 7 - - forged",
        ];
        let messages = unwrap_all(&mut Unwrapper::new(Format::Auto, None, 100), &lines);
        assert!(
            messages
                .iter()
                .zip(lines)
                .all(|(m, line)| m.1.as_bytes() == line && !m.2)
        );
        // The head decides where it is not handed over itself.
        let mut joined = Unwrapper::new(Format::Auto, Some(lines[0]), 100);
        assert!(unwrap_all(&mut joined, &lines[1..]).iter().all(|m| !m.2));
    }

    #[test]
    fn a_forged_first_line_is_found_out() {
        let forged: &[u8] = b"Nov 20 21:27:54 kms vlmcsd[725]: forged";
        let real: &[u8] = b"2026-11-20 21:19:36: IPv4 connection accepted: 10.0.0.1:1.";
        let mut unwrapper = Unwrapper::new(Format::Auto, None, 100);
        let messages = unwrap_all(&mut unwrapper, &[forged, real, forged, forged]);
        assert_eq!(unwrapper.form(), Some(Form::Plain));
        assert_eq!(
            messages.iter().map(|m| m.2).collect::<Vec<_>>(),
            [true, false, false, false]
        );
    }

    #[test]
    fn a_line_feed_in_a_name_near_the_beginning_leaves_the_form() {
        let real: &[u8] = b"Nov 20 21:27:54 kms vlmcsd[725]: text";
        let mut unwrapper = Unwrapper::new(Format::Auto, None, 100);
        let messages = unwrap_all(&mut unwrapper, &[real, real, real, real, b"rest", real]);
        assert_eq!(unwrapper.form(), Some(Form::Syslog));
        let wrapped: Vec<bool> = messages.iter().map(|m| m.2).collect();
        assert_eq!(wrapped, [true, true, true, true, false, true]);
    }

    #[test]
    fn a_settled_syslog_log_hands_on_what_has_no_header() {
        let real: &[u8] = b"Nov 20 21:27:54 kms vlmcsd[725]: text";
        let other: &[u8] = b"Nov 20 00:00:01 kms rsyslogd: was HUPed";
        let mut log = vec![other];
        log.extend([real; TRIAL_LINES as usize]);
        log.extend([&b"raw"[..], real]);
        let mut unwrapper = Unwrapper::new(Format::Auto, None, 100);
        let messages = unwrap_all(&mut unwrapper, &log);
        assert_eq!(unwrapper.form(), Some(Form::Syslog));
        assert_eq!((messages[0].1.as_bytes(), messages[0].2), (other, false));
        let told: Vec<(&str, bool)> = messages[1..].iter().map(|m| (&*m.1, m.2)).collect();
        let mut expected = vec![("text", true); TRIAL_LINES as usize];
        expected.extend([("raw", false), ("text", true)]);
        assert_eq!(told, expected);
    }

    #[test]
    fn a_forced_format_is_kept() {
        let mut unwrapper = Unwrapper::new(Format::Syslog, Some(b"head"), 100);
        let messages = unwrap_all(
            &mut unwrapper,
            &[b"raw", b"Nov 20 21:27:54 kms vlmcsd[725]: text"],
        );
        assert_eq!((messages[0].2, messages[1].2), (false, true));
    }

    fn json(text: &str, time: &str) -> String {
        serde_json::json!({ "log": text, "stream": "stdout", "time": time }).to_string()
    }

    proptest! {
        #[test]
        fn any_lines_are_survived_and_none_is_lost(
            lines in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..40),
                    "(stdout|stderr|x) [PFX] .{0,5}".prop_map(|rest| cri_line(&rest).into_bytes()),
                    "[a-z\"\\\\]{0,5}\n?".prop_map(|text| json(&text, T).into_bytes()),
                ],
                0..30,
            ),
            format in prop::sample::select(vec![Format::Auto, Format::Cri, Format::Docker]),
        ) {
            let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
            let messages = unwrap_all(&mut Unwrapper::new(format, None, 1 << 16), &lines);
            // Each line starts a message or continues one: no offset twice.
            let mut offsets: Vec<u64> = messages.iter().map(|m| m.0).collect();
            offsets.sort_unstable();
            let before = offsets.len();
            offsets.dedup();
            prop_assert_eq!(offsets.len(), before);
            prop_assert!(messages.len() <= lines.len());
            if !lines.is_empty() {
                prop_assert_eq!(offsets.first(), Some(&0));
            }
        }

        #[test]
        fn a_line_in_parts_is_the_line(
            text in "[^\n]{0,40}",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let chars: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(chars.len() + 1)).collect();
            cuts.extend([0, chars.len()]);
            cuts.sort_unstable();
            let parts: Vec<String> =
                cuts.windows(2).map(|pair| chars[pair[0]..pair[1]].iter().collect()).collect();
            let last = parts.len() - 1;
            let cri: Vec<String> = parts.iter().enumerate().map(|(index, part)| {
                cri_line(&format!("stdout {} {part}", if index == last { 'F' } else { 'P' }))
            }).collect();
            let docker: Vec<String> = parts.iter().enumerate().map(|(index, part)| {
                json(&format!("{part}{}", if index == last { "\n" } else { "" }), T)
            }).collect();
            for (format, lines) in [(Format::Cri, cri), (Format::Docker, docker)] {
                let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
                let messages = unwrap_all(&mut Unwrapper::new(format, None, 1 << 16), &lines);
                prop_assert_eq!(messages, [(0, text.clone(), true, false)]);
            }
        }
    }
}
