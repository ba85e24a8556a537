//! Recordings, read from start to end: the same decisions as `run`, with the
//! events' own time as the clock, no network and no state.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fs::File;
use std::hash::Hash;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::SystemTime;

use flate2::bufread::MultiGzDecoder;
use hashbrown::HashMap;
use jiff::Timestamp;

use crate::config::{Reading, Replay, ReplayFormat};
use crate::event::{Attribution, Event, Kind, Text};
use crate::line::Class;
use crate::policy::{Policy, Settings};
use crate::reader::Reader;
use crate::run::{input_format, settings};
use crate::sink::stdout::JsonLines;
use crate::sink::text::{Times, address, number};
use crate::source::splitter::LineSplitter;
use crate::source::{CloseReason, Closed, LineHandler, Opened};

/// How much is read at once: large enough that system calls do not count, small
/// enough to stay in the cache.
pub const READ_SIZE: usize = 128 * 1024;

/// Why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A recording cannot be read.
    #[error(
        "cannot read {path}: {error}; give a file that exists and may be read, or - for standard input"
    )]
    Input {
        /// The file, as it was given.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The events cannot be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl ReplayError {
    /// The file's name is shown without what would move a terminal's cursor.
    pub(crate) fn unreadable(path: &Path, error: io::Error) -> Self {
        let path = kms_core::text::clean(path.as_os_str().as_encoded_bytes(), 4096);
        Self::Input {
            path: path.into_owned(),
            error,
        }
    }
}

/// Reads the recordings and prints what happened to `out`, on two cores where there
/// are two: one reads, one prints.
///
/// # Errors
/// A recording cannot be read, or `out` cannot be written.
pub fn replay(what: &Replay, out: &mut impl Write) -> Result<(), ReplayError> {
    let mut printer = Printer::new(out, what.format, settings(&what.reading));
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let read = if cores > 1 {
        read_aside(what, &mut printer)
    } else {
        read(what, &mut printer)
    };
    // What was read before something could not be is told, too.
    printer.write()?;
    read?;
    printer.finish()?;
    Ok(())
}

/// Lines by class.
type Lines = [u64; Class::ALL.len()];

/// What takes a replay's events.
trait Taker {
    /// Takes the events that there are.
    fn take(&mut self, reader: &mut Reader) -> io::Result<()>;
    /// The log ended after so many lines; what comes now is of another.
    fn end_log(&mut self, lines: Lines) -> io::Result<()>;
}

/// Reads the recordings one after the other.
fn read(what: &Replay, taker: &mut impl Taker) -> Result<(), ReplayError> {
    let mut log = None;
    for (at, path) in what.files.iter().enumerate() {
        let reader = log.get_or_insert_with(|| {
            // Pieces of one log are known by the name of the last, which is the
            // one that is still written.
            let named = if what.joined {
                what.files.last().unwrap_or(path)
            } else {
                path
            };
            let reader = reader(named, &what.reading);
            match what.format {
                ReplayFormat::Json => reader,
                // It shows no ids.
                ReplayFormat::Table => reader.nameless(),
            }
        });
        feed(
            path,
            u32::try_from(at).unwrap_or(u32::MAX),
            reader,
            what.reading.max_line,
            |reader| taker.take(reader),
        )?;
        if !what.joined || at + 1 == what.files.len() {
            reader.finish(false);
            taker.take(reader)?;
            taker.end_log(reader.take_counters().lines)?;
            log = None;
        }
    }
    Ok(())
}

/// The same in another thread, while this one prints what it has read.
fn read_aside<W: Write>(what: &Replay, printer: &mut Printer<'_, W>) -> Result<(), ReplayError> {
    let (to, from) = mpsc::sync_channel(BATCHES);
    let (back, returned) = mpsc::channel();
    thread::scope(|scope| {
        let mut batches = Batches {
            batch: Vec::with_capacity(BATCH),
            to,
            returned,
        };
        let reading = scope.spawn(move || {
            let read = read(what, &mut batches);
            batches.send()?;
            read
        });
        let printed = from.into_iter().try_for_each(|part| match part {
            Part::Events(mut events) => {
                printer.print(&mut events)?;
                // Given back whole: whoever made the events frees them cheaper. Nobody
                // needs them once all is read.
                let _unused = back.send(events);
                Ok(())
            }
            Part::End(lines) => printer.end_log(lines),
        });
        // Whoever cannot print has ended the reading, too, which then says no more
        // than that.
        let read = reading.join().unwrap_or_else(|panic| resume_unwind(panic));
        printed.map_err(ReplayError::Output).and(read)
    })
}

/// Events that are handed over together, and how many such batches may wait.
const BATCH: usize = 128;
const BATCHES: usize = 4;

/// What goes from the reading thread to the printing one.
enum Part {
    Events(Vec<Event>),
    End(Lines),
}

/// Hands events over in batches.
struct Batches {
    batch: Vec<Event>,
    to: SyncSender<Part>,
    /// Batches that were printed, to be emptied and filled again.
    returned: Receiver<Vec<Event>>,
}

impl Batches {
    fn send(&mut self) -> io::Result<()> {
        let printed = self.returned.try_recv();
        let mut empty = printed.unwrap_or_else(|_| Vec::with_capacity(BATCH));
        empty.clear();
        let full = std::mem::replace(&mut self.batch, empty);
        self.hand_over(Part::Events(full))
    }

    fn hand_over(&self, part: Part) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.to.send(part).map_err(gone)
    }
}

impl Taker for Batches {
    fn take(&mut self, reader: &mut Reader) -> io::Result<()> {
        self.batch.append(reader.events());
        if self.batch.len() >= BATCH {
            self.send()?;
        }
        Ok(())
    }

    fn end_log(&mut self, lines: Lines) -> io::Result<()> {
        self.send()?;
        self.hand_over(Part::End(lines))
    }
}

/// A reader for a recording.
pub(crate) fn reader(path: &Path, reading: &Reading) -> Reader {
    let name: Arc<str> = match path.file_name() {
        _ if path == Path::new("-") => "stdin".into(),
        Some(name) => name.to_string_lossy().into(),
        None => path.to_string_lossy().into(),
    };
    let name = kms_core::text::clean(name.as_bytes(), 64).into();
    Reader::new(
        name,
        reading.timezone.clone(),
        input_format(reading.input_format),
        reading.max_line,
    )
}

/// Gives every line of a recording to `reader`, and calls `each` when there are
/// events and after every read.
pub(crate) fn feed(
    path: &Path,
    generation: u32,
    reader: &mut Reader,
    max_line: usize,
    mut each: impl FnMut(&mut Reader) -> io::Result<()>,
) -> Result<(), ReplayError> {
    let unreadable = |error| ReplayError::unreadable(path, error);
    let (mut input, modified) = open(path).map_err(unreadable)?;
    reader.opened(Opened {
        generation,
        start: 0,
        head: None,
        modified,
    });
    let mut splitter = LineSplitter::new(0, max_line, READ_SIZE);
    loop {
        let ended = splitter
            .read_from(&mut input)
            .map_err(unreadable)?
            .is_empty();
        while splitter.hand_over(generation, reader) {
            // At once, while they are at hand.
            if reader.has_events() {
                each(reader)?;
            }
        }
        if ended {
            break;
        }
        each(reader)?;
    }
    if let Some(line) = splitter.finish() {
        reader.line(generation, line);
    }
    let position = splitter.position();
    let reason = CloseReason::End;
    reader.closed(Closed {
        generation,
        reason,
        position,
        unterminated: false,
        lost: 0,
    });
    each(reader)?;
    Ok(())
}

/// Opens a recording, `-` for standard input, and unpacks it if it is gzip.
pub(crate) fn open(path: &Path) -> io::Result<(Box<dyn Read>, Option<SystemTime>)> {
    let (raw, modified): (Box<dyn Read>, _) = if path == Path::new("-") {
        (Box::new(io::stdin().lock()), None)
    } else {
        let file = File::open(path)?;
        let modified = file.metadata()?.modified().ok();
        (Box::new(file), modified)
    };
    let mut raw = BufReader::with_capacity(READ_SIZE, raw);
    let packed = raw.fill_buf()?.starts_with(b"\x1f\x8b");
    let input: Box<dyn Read> = if packed {
        Box::new(MultiGzDecoder::new(raw))
    } else {
        Box::new(raw)
    };
    Ok((input, modified))
}

/// Where events go.
struct Printer<'a, W> {
    out: &'a mut W,
    form: Printed,
    settings: Settings,
    /// Of the log whose events these are.
    policy: Policy,
}

/// In which form they do.
enum Printed {
    Json(JsonLines),
    Table(Table),
}

impl<'a, W: Write> Printer<'a, W> {
    fn new(out: &'a mut W, format: ReplayFormat, settings: Settings) -> Self {
        let form = match format {
            ReplayFormat::Json => Printed::Json(JsonLines::default()),
            ReplayFormat::Table => Printed::Table(Table::default()),
        };
        let policy = Policy::for_replay(settings.clone());
        Self {
            out,
            form,
            settings,
            policy,
        }
    }

    fn print(&mut self, events: &mut [Event]) -> io::Result<()> {
        for event in events {
            match &mut self.form {
                Printed::Json(lines) => {
                    // Without stamps no time passes, and what repeats is a repeat.
                    let now = event.time.map_or(Timestamp::UNIX_EPOCH, |time| time.at);
                    self.policy.handle_event(event, now);
                    lines.add(event);
                    if lines.is_enough() {
                        lines.write_to(self.out)?;
                    }
                }
                Printed::Table(table) => {
                    // It does not show who would have been told.
                    self.policy.classify(event);
                    table.add(event);
                    if table.rows.len() >= ENOUGH {
                        table.write_to(self.out)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes what was collected.
    fn write(&mut self) -> io::Result<()> {
        match &mut self.form {
            Printed::Json(lines) => lines.write_to(self.out),
            Printed::Table(table) => table.write_to(self.out),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.write()?;
        if let Printed::Table(table) = self.form {
            table.summary.print(self.out)?;
        }
        self.out.flush()
    }
}

impl<W: Write> Taker for Printer<'_, W> {
    fn take(&mut self, reader: &mut Reader) -> io::Result<()> {
        let events = reader.events();
        self.print(events)?;
        events.clear();
        Ok(())
    }

    fn end_log(&mut self, lines: Lines) -> io::Result<()> {
        if let Printed::Table(table) = &mut self.form {
            table.summary.lines(&lines);
        }
        self.policy = Policy::for_replay(self.settings.clone());
        Ok(())
    }
}

/// So many bytes of rows are collected before they are written.
const ENOUGH: usize = 32 * 1024;

/// A row for each event, and what they come to.
#[derive(Default)]
struct Table {
    rows: Vec<u8>,
    times: Times,
    summary: Summary,
}

impl Table {
    fn add(&mut self, event: &Event) {
        self.summary.event(event);
        let out = &mut self.rows;
        let time = event.time.map(|time| self.times.show(time));
        cell(out, time.unwrap_or(b"-"), 25);
        cell(out, event.kind.as_str().as_bytes(), 14);
        cell(out, event.source.as_deref().unwrap_or("-").as_bytes(), 12);
        match event.ip {
            Some(ip) => address(out, ip),
            None => out.push(b'-'),
        }
        match event.attribution {
            Some(Attribution::Ambiguous) => {
                out.extend_from_slice(b" (one of ");
                number(out, event.candidates.len() as u64);
                out.push(b')');
            }
            Some(Attribution::Inferred) => out.extend_from_slice(b" (inferred)"),
            _ if event.suspect => out.extend_from_slice(b" (suspect)"),
            _ => {}
        }
        if event.kind.is_request() {
            let request = event.request.as_deref();
            let workstation = request.and_then(|request| request.workstation.as_deref());
            last_cell(out, workstation.unwrap_or("-"));
            last_cell(out, event.product().unwrap_or("-"));
        }
        if let Some(reason) = &event.reason {
            last_cell(out, reason);
        }
        out.push(b'\n');
    }

    fn write_to(&mut self, out: &mut impl Write) -> io::Result<()> {
        let written = out.write_all(&self.rows);
        self.rows.clear();
        written
    }
}

/// A cell of at least this width, in ASCII, and what parts it from the next one.
fn cell(out: &mut Vec<u8>, text: &[u8], width: usize) {
    out.extend_from_slice(text);
    out.resize(out.len() + width.saturating_sub(text.len()) + 2, b' ');
}

/// A cell that comes after others and is as wide as its text.
fn last_cell(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(b"  ");
    out.extend_from_slice(text.as_bytes());
}

/// What the events of a replay come to.
#[derive(Debug, Default)]
struct Summary {
    kinds: HashMap<&'static str, u64>,
    products: HashMap<Text, u64>,
    sources: HashMap<Arc<str>, u64>,
    probes: HashMap<Arc<str>, u64>,
    attributions: BTreeMap<&'static str, u64>,
    suspect: u64,
    unrecognised: u64,
}

/// Products listed at most: a log may name what it likes.
const MAX_PRODUCTS: usize = 1000;

impl Summary {
    fn event(&mut self, event: &Event) {
        if event.suspect {
            self.suspect += 1;
            return;
        }
        let source = event.source.as_deref().unwrap_or("unknown");
        count(&mut self.kinds, event.kind.as_str());
        if event.kind.is_request() {
            let product = event.product().unwrap_or("unknown");
            let known = self.products.len() < MAX_PRODUCTS || self.products.contains_key(product);
            count(&mut self.products, if known { product } else { "(more)" });
            count(&mut self.sources, source);
        } else if event.kind == Kind::Probe {
            count(&mut self.probes, source);
        }
        if let Some(attribution) = event.attribution {
            *self.attributions.entry(attribution.as_str()).or_default() += 1;
        }
    }

    fn lines(&mut self, lines: &Lines) {
        for (class, lines) in Class::ALL.iter().zip(lines) {
            if *class == Class::Unrecognised {
                self.unrecognised += lines;
            }
        }
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out)?;
        list(out, "events by kind", self.kinds.iter())?;
        list(out, "requests by product", self.products.iter())?;
        list(out, "requests by source", self.sources.iter())?;
        let requests: u64 = self.attributions.values().sum();
        if !self.attributions.is_empty() {
            writeln!(out, "attribution")?;
            for (attribution, n) in &self.attributions {
                // Tenths of a percent, rounded.
                let share = (n * 2000)
                    .checked_div(requests)
                    .unwrap_or_default()
                    .div_ceil(2);
                writeln!(
                    out,
                    "  {n:>8}  {attribution} ({}.{} %)",
                    share / 10,
                    share % 10
                )?;
            }
        }
        list(out, "probes by source", self.probes.iter())?;
        if self.suspect > 0 {
            writeln!(
                out,
                "suspect events (a client may have forged their lines): {}",
                self.suspect
            )?;
        }
        writeln!(out, "unrecognised lines: {}", self.unrecognised)
    }
}

/// One more of what is called so; the name is copied for the first.
fn count<'a, K>(counts: &mut HashMap<K, u64>, name: &'a str)
where
    K: Borrow<str> + Hash + Eq + From<&'a str>,
{
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => {
            counts.insert(name.into(), 1);
        }
    }
}

fn list<'a, K: AsRef<str> + 'a>(
    out: &mut impl Write,
    title: &str,
    counts: impl Iterator<Item = (&'a K, &'a u64)>,
) -> io::Result<()> {
    let mut counts: Vec<_> = counts.collect();
    if counts.is_empty() {
        return Ok(());
    }
    counts.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.as_ref().cmp(b.0.as_ref())));
    writeln!(out, "{title}")?;
    for (name, n) in counts {
        writeln!(out, "  {n:>8}  {}", name.as_ref())?;
    }
    Ok(())
}
