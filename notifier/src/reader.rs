//! One log from raw lines to events: the way through source, line and assembler.

use std::sync::Arc;

use jiff::{Timestamp, tz::TimeZone};
use serde::Deserialize;

use crate::assembler::{self, Ahead, Assembler, Counters, Input};
use crate::event::{Event, EventId, IdMaker};
use crate::saved::{MAX_UNFINISHED, Unfinished};
use crate::source::container::{Form, Format, Message, Stamp, Unwrapper};
use crate::source::{Closed, LineHandler, Notice, Opened, RawLine, Rotation};

/// Reads the generations of one log into events. It reads no clock: whoever
/// drives it says what time it is with [`Reader::set_now`], or does not in a replay.
#[derive(Debug)]
pub struct Reader {
    log: Arc<str>,
    zone: TimeZone,
    assembler: Assembler,
    format: Format,
    max_line: usize,
    generations: Vec<(u32, Generation)>,
    /// The newest of those that had lines, closed before another had one.
    closed: Option<Generation>,
    /// Whether events get ids.
    names: bool,
    /// Of an earlier run, until the tail opens them again.
    resumed: Vec<SavedGeneration>,
    now: Option<Timestamp>,
    events: Vec<Event>,
    traffic: Traffic,
}

#[derive(Debug)]
struct Generation {
    ids: Option<IdMaker>,
    unwrapper: Unwrapper,
    /// It is read from its beginning and had no line yet: the first goes on with
    /// what the file before left in parts. Until then that stays there, for an
    /// empty file has no name by which it could be stored.
    inherits: bool,
    modified: Option<Timestamp>,
}

/// A generation between two runs.
#[derive(Debug, Deserialize)]
struct SavedGeneration {
    /// Names it: the id that an empty line at the file's beginning would have.
    first_line: EventId,
    unwrapper: Unwrapper,
}

/// What went through since the last [`Reader::take_traffic`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Lines, the longest included.
    pub lines: u64,
    /// Lines that lost their end to the bound.
    pub cut: u64,
    /// Rotations by rename.
    pub renames: u64,
    /// Rotations by truncation.
    pub truncations: u64,
    /// Bytes that were there and never became a line.
    pub lost: u64,
    /// Places where lines may be missing that were written while nobody read.
    pub gaps: u64,
}

impl Reader {
    /// For the log called `log`, whose server stamps lines in `zone`.
    #[must_use]
    pub fn new(log: Arc<str>, zone: TimeZone, format: Format, max_line: usize) -> Self {
        Self {
            assembler: Assembler::new(Arc::clone(&log), zone.clone()),
            log,
            zone,
            format,
            max_line,
            generations: Vec::new(),
            closed: None,
            names: true,
            resumed: Vec::new(),
            now: None,
            events: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    /// The same for somebody who never looks at an id, which costs a hash each.
    #[must_use]
    pub fn nameless(self) -> Self {
        Self {
            names: false,
            ..self
        }
    }

    /// Says when the lines that follow are read.
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = Some(now);
    }

    /// No line came for a while: what waits for more is decided.
    pub fn handle_idle(&mut self) {
        self.assembler.handle_idle(&mut self.events);
    }

    /// The log ends here; `server_ended` says that the server did, too.
    pub fn finish(&mut self, server_ended: bool) {
        let open = self.generations.drain(..).map(|(_, generation)| generation);
        for mut generation in open.chain(self.closed.take()) {
            generation.flush(&mut self.assembler, self.now, &mut self.events);
        }
        self.assembler.finish(server_ended, &mut self.events);
    }

    /// The reading ends here and is gone on with later; see [`Assembler::pause`].
    pub fn pause(&mut self) {
        self.assembler.pause(&mut self.events);
    }

    /// What is not finished, to be stored with the position after the last line.
    ///
    /// # Panics
    /// Never: plain values are written without fail.
    #[must_use]
    pub fn save(&self) -> Unfinished {
        let requests = u32::try_from(self.assembler.unfinished()).unwrap_or(u32::MAX);
        let generations: Vec<(EventId, &Unwrapper)> = self
            .generations
            .iter()
            .filter_map(|(_, generation)| {
                Some((first_line(generation.ids.as_ref()?), &generation.unwrapper))
            })
            .collect();
        let bytes = postcard::to_stdvec(&(generations, self.assembler.save()));
        let bytes = bytes.expect("plain values are written without fail");
        let fits = bytes.len() <= MAX_UNFINISHED;
        Unfinished {
            version: if fits { assembler::VERSION } else { 0 },
            requests,
            bytes: if fits { bytes } else { Vec::new() },
        }
    }

    /// Goes on with what an earlier run left. How many requests are lost because
    /// another version left it; then, as if lines were missing, nobody is named
    /// exactly for a while.
    pub fn restore(&mut self, unfinished: &Unfinished) -> u64 {
        type Saved = (Vec<SavedGeneration>, Vec<u8>);
        let saved = (unfinished.version == assembler::VERSION)
            .then(|| postcard::from_bytes::<Saved>(&unfinished.bytes).ok())
            .flatten();
        let restored = saved.and_then(|(generations, bytes)| {
            let (log, zone) = (Arc::clone(&self.log), self.zone.clone());
            let assembler = Assembler::restore(log, zone, &bytes)?;
            Some((generations, assembler))
        });
        match restored {
            Some((generations, assembler)) => {
                (self.resumed, self.assembler) = (generations, assembler);
                0
            }
            None => {
                self.assembler.handle_gap(&mut self.events);
                unfinished.requests.into()
            }
        }
    }

    /// Whether events wait to be taken.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether [`Self::handle_idle`] would decide something.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.assembler.has_waiting()
    }

    /// The events that nobody took yet, in the order they were decided; to be emptied.
    pub fn events(&mut self) -> &mut Vec<Event> {
        &mut self.events
    }

    /// The assembler, for those who want its traces.
    pub fn assembler(&mut self) -> &mut Assembler {
        &mut self.assembler
    }

    /// What the assembler counted since the last call.
    pub fn take_counters(&mut self) -> Counters {
        self.assembler.take_counters()
    }

    /// What went through since the last call.
    pub fn take_traffic(&mut self) -> Traffic {
        std::mem::take(&mut self.traffic)
    }
}

impl LineHandler for Reader {
    fn opened(&mut self, opened: Opened<'_>) {
        let ids = match self.names {
            true => opened.head.map(IdMaker::new),
            false => Some(IdMaker::nameless()),
        };
        let resumed = ids.as_ref().filter(|_| opened.start > 0).and_then(|ids| {
            let first_line = first_line(ids);
            let is_it = |saved: &SavedGeneration| saved.first_line == first_line;
            let at = self.resumed.iter().position(is_it)?;
            Some(self.resumed.remove(at).unwrapper)
        });
        let unwrapper = match resumed {
            Some(saved) => saved.resume(self.format, self.max_line),
            None => Unwrapper::new(self.format, opened.head, self.max_line),
        };
        let generation = Generation {
            ids,
            unwrapper,
            inherits: opened.start == 0,
            modified: opened
                .modified
                .and_then(|time| Timestamp::try_from(time).ok()),
        };
        self.generations.push((opened.generation, generation));
    }

    #[inline]
    fn line(&mut self, generation: u32, line: RawLine<'_>) {
        self.traffic.lines += 1;
        self.traffic.cut += u64::from(line.cut);
        let Some(ids) = plain_ids(&self.generations, generation) else {
            return self.line_of(generation, line);
        };
        let input = Input {
            text: line.bytes,
            raw: line.bytes,
            offset: line.offset,
            ids,
            stamp: None,
            yearless: None,
            pid: None,
            unwrapped: false,
            read_at: self.now,
        };
        self.assembler.handle_line(&input, &mut self.events);
    }

    #[inline]
    fn lines(&mut self, generation: u32, offset: u64, ahead: &[u8]) -> usize {
        let Some(ids) = plain_ids(&self.generations, generation) else {
            return 0;
        };
        let ahead = Ahead {
            bytes: ahead,
            offset,
            max_line: self.max_line,
            ids,
            read_at: self.now,
        };
        let taken = self.assembler.handle_ahead(&ahead, &mut self.events);
        self.traffic.lines += taken.lines;
        taken.bytes
    }

    fn closed(&mut self, closed: Closed) {
        self.traffic.lost += closed.lost;
        if closed.lost > 0 {
            let (log, lost) = (&self.log, closed.lost);
            tracing::warn!(%log, lost, reason = ?closed.reason, "bytes were lost to a rotation");
        }
        let found = self
            .generations
            .iter()
            .position(|(number, _)| *number == closed.generation);
        if let Some(at) = found {
            let (_, mut generation) = self.generations.remove(at);
            let mut newer = self.generations.iter().skip(at);
            if generation.inherits {
                // It had no line.
            } else if newer.all(|(_, newer)| newer.inherits) {
                self.closed = Some(generation);
            } else {
                generation.flush(&mut self.assembler, self.now, &mut self.events);
            }
        }
    }

    fn rotated(&mut self, kind: Rotation) {
        tracing::info!(log = %self.log, ?kind, "the log was rotated");
        match kind {
            Rotation::Rename => self.traffic.renames += 1,
            Rotation::Truncate => self.traffic.truncations += 1,
        }
    }

    fn notice(&mut self, notice: Notice<'_>) {
        let log = &self.log;
        match notice {
            Notice::Missing => tracing::info!(%log, "there is no such file; waiting for it"),
            Notice::Unreadable(error) => tracing::warn!(%log, "{error}; trying again"),
            Notice::ReadFailed { error, .. } => tracing::warn!(%log, "reading failed: {error}"),
            Notice::Gap(gap) => {
                self.traffic.gaps += 1;
                self.assembler.handle_gap(&mut self.events);
                tracing::warn!(%log, "{gap}");
            }
            Notice::NotRotated(error) => tracing::warn!(%log, "{error}"),
        }
    }
}

impl Reader {
    /// A line of a generation that need not be the newest, wrapped or not.
    fn line_of(&mut self, generation: u32, line: RawLine<'_>) {
        // One generation, or two after a rotation.
        let is_it = |(number, _): &(u32, Generation)| *number == generation;
        let Some(at) = self.generations.iter().rposition(is_it) else {
            return;
        };
        if let Some((before, [(_, generation), ..])) = self.generations.split_at_mut_checked(at) {
            if std::mem::take(&mut generation.inherits) {
                let begun = before.iter_mut().map(|(_, older)| older);
                let older = begun.rev().find(|older| !older.inherits);
                if let Some(older) = older.or(self.closed.as_mut()) {
                    generation.unwrapper.inherit(&mut older.unwrapper);
                }
                self.closed = None;
            }
            generation.line(line, &mut self.assembler, self.now, &mut self.events);
        }
    }
}

impl Generation {
    /// Whether a line is what the server printed, and nothing else need be asked.
    fn is_plain(&self) -> bool {
        !self.inherits && self.unwrapper.is_plain()
    }

    fn line(
        &mut self,
        line: RawLine<'_>,
        assembler: &mut Assembler,
        now: Option<Timestamp>,
        events: &mut Vec<Event>,
    ) {
        let ids = self.ids.get_or_insert_with(|| IdMaker::new(line.bytes));
        let (ids, modified) = (&*ids, self.modified);
        // The form may be known only by this line itself.
        let mut messages = |message: Message<'_>, wrapped_form: bool| {
            handle(
                &message,
                wrapped_form,
                ids,
                modified,
                now,
                assembler,
                events,
            );
        };
        let plain = matches!(self.unwrapper.form(), None | Some(Form::Plain));
        self.unwrapper
            .handle_line(line, &mut |message| messages(message, !plain));
    }

    fn flush(
        &mut self,
        assembler: &mut Assembler,
        now: Option<Timestamp>,
        events: &mut Vec<Event>,
    ) {
        let Some(ids) = &self.ids else { return };
        let modified = self.modified;
        self.unwrapper.finish(&mut |message| {
            handle(&message, true, ids, modified, now, assembler, events);
        });
    }
}

/// The ids of a generation whose lines need no more than to be handled: nearly
/// always it is the only one, and nothing is wrapped.
#[inline]
fn plain_ids(generations: &[(u32, Generation)], generation: u32) -> Option<&IdMaker> {
    let (number, newest) = generations.last()?;
    let plain = *number == generation && newest.is_plain();
    newest.ids.as_ref().filter(|_| plain)
}

/// Names a file by its first line.
fn first_line(ids: &IdMaker) -> EventId {
    ids.id(0, b"")
}

fn handle(
    message: &Message<'_>,
    wrapped_form: bool,
    ids: &IdMaker,
    modified: Option<Timestamp>,
    now: Option<Timestamp>,
    assembler: &mut Assembler,
    events: &mut Vec<Event>,
) {
    let (stamp, yearless) = match message.stamp {
        Some(Stamp::Exact(time)) => (Some(time), None),
        // The real year is found from the file's mtime, which while following is now.
        Some(Stamp::Yearless(stamp)) => (None, now.or(modified).map(|now| (stamp, now))),
        None => (None, None),
    };
    let input = Input {
        text: message.text,
        raw: message.raw,
        offset: message.offset,
        ids,
        stamp,
        yearless,
        pid: message.pid,
        unwrapped: wrapped_form && !message.wrapped,
        read_at: now,
    };
    assembler.handle_line(&input, events);
}

#[cfg(test)]
mod tests;
