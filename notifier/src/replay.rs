//! Recordings, read from start to end: the same decisions as `run`, with the
//! events' own time as the clock, no network and no state.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use flate2::bufread::MultiGzDecoder;
use jiff::Timestamp;

use crate::config::{Reading, Replay, ReplayFormat};
use crate::event::{Attribution, Event, Kind};
use crate::line::Class;
use crate::policy::Policy;
use crate::reader::Reader;
use crate::run::{input_format, settings};
use crate::sink::stdout;
use crate::source::splitter::LineSplitter;
use crate::source::{CloseReason, Closed, LineHandler, Opened};

/// How much is read at once: large enough that system calls do not count, small
/// enough to stay in the cache.
pub(crate) const READ_SIZE: usize = 256 * 1024;

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

/// Reads the recordings and prints what happened to `out`.
///
/// # Errors
/// A recording cannot be read, or `out` cannot be written.
pub fn replay(what: &Replay, out: &mut impl Write) -> Result<(), ReplayError> {
    let settings = settings(&what.reading);
    let mut printer = Printer {
        out,
        format: what.format,
        summary: Summary::default(),
    };
    let mut log = None;
    for (at, path) in what.files.iter().enumerate() {
        let (reader, policy) = log.get_or_insert_with(|| {
            // Pieces of one log are known by the name of the last, which is the
            // one that is still written.
            let named = if what.joined {
                what.files.last().unwrap_or(path)
            } else {
                path
            };
            (
                reader(named, &what.reading),
                Policy::for_replay(settings.clone()),
            )
        });
        feed(
            path,
            u32::try_from(at).unwrap_or(u32::MAX),
            reader,
            what.reading.max_line,
            |reader| printer.print(reader, policy),
        )?;
        if !what.joined || at + 1 == what.files.len() {
            reader.finish(false);
            printer.print(reader, policy)?;
            let counters = reader.take_counters();
            printer.summary.lines(&counters.lines);
            log = None;
        }
    }
    printer.finish()?;
    Ok(())
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

/// Gives every line of a recording to `reader`, and calls `each` after every read.
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
        while let Some(line) = splitter.next_line() {
            reader.line(generation, line);
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

struct Printer<'a, W> {
    out: &'a mut W,
    format: ReplayFormat,
    summary: Summary,
}

impl<W: Write> Printer<'_, W> {
    fn print(&mut self, reader: &mut Reader, policy: &mut Policy) -> io::Result<()> {
        for mut event in reader.drain_events() {
            // Without stamps no time passes, and what repeats is a repeat.
            let now = event.time.map_or(Timestamp::UNIX_EPOCH, |time| time.at);
            policy.handle_event(&mut event, now);
            match self.format {
                ReplayFormat::Json => stdout::line(self.out, &event)?,
                ReplayFormat::Table => {
                    self.summary.event(&event);
                    row(self.out, &event)?;
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        if self.format == ReplayFormat::Table {
            self.summary.print(&mut self.out)?;
        }
        self.out.flush()
    }
}

fn row(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let request = event.request.as_deref();
    let text = |field: Option<&str>| field.unwrap_or("-").to_owned();
    let time = event
        .time
        .map_or_else(|| "-".to_owned(), |time| time.to_string());
    let ip = event.ip.map_or_else(|| "-".to_owned(), |ip| ip.to_string());
    let mark = match event.attribution {
        Some(Attribution::Ambiguous) => format!(" (one of {})", event.candidates.len()),
        Some(Attribution::Inferred) => " (inferred)".to_owned(),
        _ if event.suspect => " (suspect)".to_owned(),
        _ => String::new(),
    };
    let (source, kind) = (text(event.source.as_deref()), event.kind.as_str());
    write!(out, "{time:25}  {kind:14}  {source:12}  {ip}{mark}")?;
    if event.kind.is_request() {
        let workstation = text(request.and_then(|request| request.workstation.as_deref()));
        let product = text(event.product());
        write!(out, "  {workstation}  {product}")?;
    }
    if let Some(reason) = &event.reason {
        write!(out, "  {reason}")?;
    }
    writeln!(out)
}

/// What the events of a replay come to.
#[derive(Debug, Default)]
struct Summary {
    kinds: BTreeMap<&'static str, u64>,
    products: BTreeMap<Box<str>, u64>,
    sources: BTreeMap<Box<str>, u64>,
    probes: BTreeMap<Box<str>, u64>,
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
        let source: Box<str> = event.source.as_deref().unwrap_or("unknown").into();
        *self.kinds.entry(event.kind.as_str()).or_default() += 1;
        if event.kind.is_request() {
            let product: Box<str> = event.product().unwrap_or("unknown").into();
            let known = self.products.len() < MAX_PRODUCTS || self.products.contains_key(&product);
            let product = if known { product } else { "(more)".into() };
            *self.products.entry(product).or_default() += 1;
            *self.sources.entry(source).or_default() += 1;
        } else if event.kind == Kind::Probe {
            *self.probes.entry(source).or_default() += 1;
        }
        if let Some(attribution) = event.attribution {
            *self.attributions.entry(attribution.as_str()).or_default() += 1;
        }
    }

    fn lines(&mut self, lines: &[u64; Class::ALL.len()]) {
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

fn list<'a, K: AsRef<str> + 'a>(
    out: &mut impl Write,
    title: &str,
    counts: impl Iterator<Item = (&'a K, &'a u64)>,
) -> io::Result<()> {
    let mut counts: Vec<_> = counts.collect();
    if counts.is_empty() {
        return Ok(());
    }
    counts.sort_by(|a, b| b.1.cmp(a.1));
    writeln!(out, "{title}")?;
    for (name, n) in counts {
        writeln!(out, "  {n:>8}  {}", name.as_ref())?;
    }
    Ok(())
}
