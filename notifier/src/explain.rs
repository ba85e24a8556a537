//! Why one line of a log became what it became.

use std::io::{self, Write};
use std::path::Path;

use kms_core::text::clean;

use crate::config::{Explain, Replay, ReplayFormat};
use crate::event::{Attribution, Event, EventId, IdMaker};
use crate::line::{self, Class, Kind};
use crate::replay::{READ_SIZE, ReplayError, feed, open, reader};
use crate::sink::stdout;
use crate::source::RawLine;
use crate::source::splitter::LineSplitter;

/// Characters shown of a line.
const SHOWN: usize = 300;

/// Why a line could not be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The log cannot be read, or the answer not be written.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The log is read several times, which only a file can be.
    #[error("FILE -: standard input is read once, and this takes more; give a file")]
    StandardInput,
    /// The log is shorter.
    #[error("LINE {line}: the log has only {lines} lines; give a smaller number")]
    NoSuchLine {
        /// The line that was asked for.
        line: u64,
        /// How many there are.
        lines: u64,
    },
}

impl From<io::Error> for ExplainError {
    fn from(error: io::Error) -> Self {
        Self::Replay(ReplayError::Output(error))
    }
}

/// Replays the log and tells about one of its lines.
///
/// # Errors
/// The log cannot be read, has no such line, or `out` cannot be written.
pub fn explain(what: &Explain, out: &mut impl Write) -> Result<(), ExplainError> {
    if what.file == Path::new("-") {
        return Err(ExplainError::StandardInput);
    }
    let replay = Replay {
        files: vec![what.file.clone()],
        joined: false,
        format: ReplayFormat::Json,
        reading: what.reading.clone(),
    };
    let (raw, id) = find(what)?;
    let mut reader = reader(&what.file, &replay.reading);
    reader.assembler().trace();
    let mut events: Vec<Event> = Vec::new();
    let mut traces = Vec::new();
    feed(
        &what.file,
        0,
        &mut reader,
        replay.reading.max_line,
        |reader| {
            traces.extend(
                reader
                    .assembler()
                    .take_traces()
                    .into_iter()
                    .filter(|t| t.line == id),
            );
            events.append(reader.events());
            Ok(())
        },
    )?;
    reader.finish(false);
    events.append(reader.events());
    traces.extend(
        reader
            .assembler()
            .take_traces()
            .into_iter()
            .filter(|t| t.line == id),
    );

    writeln!(out, "line {}: {}", what.line, clean(&raw, SHOWN))?;
    let Some(trace) = traces.first() else {
        // Its wrapper holds no line of its own (a part of a longer one, say).
        writeln!(
            out,
            "it is a part of a longer line, or its wrapper holds none"
        )?;
        return Ok(());
    };
    writeln!(
        out,
        "counted as: {} ({})",
        trace.class.as_str(),
        class_words(trace.class)
    )?;
    writeln!(out, "looks like: {}", looks_like(&raw))?;
    let subject = trace.subject.unwrap_or(id);
    if subject != id {
        let line = number_of(what, subject)?
            .map_or_else(String::new, |line| format!(" that begins on line {line}"));
        writeln!(out, "belongs to: the request or connection{line}")?;
    }
    let mut told = events
        .iter()
        .filter(|event| event.id == subject || event.connection == Some(subject));
    let Some(first) = told.next() else {
        writeln!(out, "no event: {}", no_event(trace.class))?;
        return Ok(());
    };
    for event in std::iter::once(first).chain(told) {
        writeln!(
            out,
            "became: {}{}",
            event.kind.as_str(),
            attribution_words(event)
        )?;
        write!(out, "  ")?;
        stdout::line(out, event)?;
    }
    Ok(())
}

/// The line itself and its id.
fn find(what: &Explain) -> Result<(Vec<u8>, EventId), ExplainError> {
    let mut found = None;
    let lines = scan(what, |number, id, bytes| {
        if number == what.line {
            found = Some((bytes.to_vec(), id));
        }
        found.is_none()
    })?;
    found.ok_or(ExplainError::NoSuchLine {
        line: what.line,
        lines,
    })
}

/// The number of the line with this id.
fn number_of(what: &Explain, wanted: EventId) -> Result<Option<u64>, ExplainError> {
    let mut found = None;
    scan(what, |number, id, _| {
        found = (id == wanted).then_some(number);
        found.is_none()
    })?;
    Ok(found)
}

/// Goes through the lines with their numbers and ids for as long as `each` says
/// so. Returns how many it saw.
fn scan(
    what: &Explain,
    mut each: impl FnMut(u64, EventId, &[u8]) -> bool,
) -> Result<u64, ExplainError> {
    let input = |error| ExplainError::Replay(ReplayError::unreadable(&what.file, error));
    let (mut file, _) = open(&what.file).map_err(input)?;
    let mut splitter = LineSplitter::new(0, what.reading.max_line, READ_SIZE);
    let mut ids: Option<IdMaker> = None;
    let mut lines = 0;
    let mut see = |line: RawLine<'_>| {
        lines += 1;
        let ids = ids.get_or_insert_with(|| IdMaker::new(line.bytes));
        each(lines, ids.id(line.offset, line.bytes), line.bytes)
    };
    loop {
        let ended = splitter.read_from(&mut file).map_err(input)?.is_empty();
        while let Some(line) = splitter.next_line() {
            if !see(line) {
                return Ok(lines);
            }
        }
        if ended {
            break;
        }
    }
    if let Some(line) = splitter.finish() {
        see(line);
    }
    Ok(lines)
}

fn looks_like(raw: &[u8]) -> String {
    // Inside a wrapper the text is what follows; the class above is the word of
    // the assembler either way.
    match line::classify(raw).kind {
        Kind::Field(label, _) => format!("a block line ({label:?})"),
        Kind::Unrecognised => "nothing that a server prints, as it stands".to_owned(),
        kind => {
            let words = format!("{kind:?}");
            words
                .split([' ', '(', '{'])
                .next()
                .unwrap_or_default()
                .to_owned()
        }
    }
}

fn class_words(class: Class) -> &'static str {
    match class {
        Class::Connection => "a connection was opened, closed or turned away",
        Class::Request => "part of what a client asked",
        Class::Response => "part of the server's answer",
        Class::Refusal => "the server turned a request down",
        Class::Lifecycle => "the server's own life",
        Class::Warning => "a warning of the server",
        Class::NameContinuation => "the client put it into its workstation name",
        Class::Suspect => {
            "it stands where a client's workstation name may have put it, so it decides nothing"
        }
        Class::Unrecognised => "nothing that is known",
    }
}

fn no_event(class: Class) -> &'static str {
    match class {
        Class::Connection => "its other end is not in this log, or it is still open",
        Class::Request | Class::Response => {
            "its request began before this log, or was not answered before its end"
        }
        Class::Lifecycle | Class::Warning => "such lines are only counted",
        _ => "such lines make none",
    }
}

fn attribution_words(event: &Event) -> &'static str {
    match event.attribution {
        Some(Attribution::Exact) => {
            ", exact: a mark or a process names the connection, or only one could be open"
        }
        Some(Attribution::Inferred) => {
            ", inferred: what the lines around it say leaves one address"
        }
        Some(Attribution::Ambiguous) => ", ambiguous: more than one open connection may have asked",
        Some(Attribution::Unknown) => {
            ", unknown: no connection that is open in this log can have asked"
        }
        None => "",
    }
}
