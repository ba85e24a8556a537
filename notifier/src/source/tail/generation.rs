//! One incarnation of a followed file: an open handle, a position, a partial line.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use rustix::fs::OFlags;

use super::TailError;
use super::mark::{FileId, HEAD_SIZE, Mark};
use crate::source::splitter::{LineSplitter, TRAIL_SIZE};
use crate::source::{CloseReason, Closed, LineHandler, Notice, Opened};

/// How many bytes are asked for in one read.
pub(super) const READ_SIZE: usize = 64 * 1024;

/// Where a generation stands with its first line.
enum Join {
    /// At the beginning of the line at `start`; nobody was told yet. `head` is the
    /// file's first line where that is another one.
    Unannounced { start: u64, head: Option<Box<[u8]>> },
    /// Within a line whose rest is not a line: it is passed over. Without the
    /// file's first line, that line is the one being passed over.
    WithinLine(Option<Box<[u8]>>),
    /// The handler knows this generation.
    Opened,
}

impl Join {
    const BEGINNING: Self = Self::Unannounced {
        start: 0,
        head: None,
    };
}

/// How far a read came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Everything that was there was read.
    AtEnd,
    /// The budget is used up and there may be more.
    Behind,
    /// The file is not the one it was: call [`Generation::start_over`].
    StartedOver,
}

/// The first line in a file's first bytes (at least one more than `max_line`, or
/// all there are), as far as it is handed over; none if it is not complete.
pub(super) fn first_line(beginning: &[u8], max_line: usize) -> Option<&[u8]> {
    match memchr::memchr(b'\n', beginning) {
        Some(at) => beginning.get(..at.min(max_line)),
        None => beginning
            .get(..max_line)
            .filter(|_| beginning.len() > max_line),
    }
}

/// Where to begin in a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    /// At byte 0.
    Start,
    /// With the first line that begins after what is there now.
    End,
    /// With the line that begins at this offset, up to which it was read before.
    At(u64),
}

pub(super) struct Generation {
    pub(super) number: u32,
    id: FileId,
    file: File,
    splitter: LineSplitter,
    max_line: usize,
    join: Join,
    /// The file's first bytes, as far as they were read, at most [`HEAD_SIZE`].
    head: Vec<u8>,
    /// Offset of the next byte to read.
    position: u64,
    /// The file's size at the last look.
    size: u64,
    /// When it had been changed last at that look, if the file system tells.
    modified: Option<SystemTime>,
    /// When it was rotated away or, after that, gave its last bytes.
    silent_since: Option<Instant>,
    read_failed: bool,
}

/// Opens a log for reading; anything but a regular file is an error.
pub(super) fn open(path: &Path) -> Result<(File, Metadata), TailError> {
    let unreadable = |source| TailError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        // A named pipe would otherwise block until somebody writes to it.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(TailError::NotAFile {
            path: path.to_owned(),
        });
    }
    Ok((file, metadata))
}

impl Generation {
    /// It has no number yet.
    pub(super) fn new(
        (file, metadata): (File, Metadata),
        begin: Begin,
        max_line: usize,
    ) -> io::Result<Self> {
        let mut generation = Self {
            number: 0,
            id: FileId::of(&metadata),
            file,
            splitter: LineSplitter::new(0, max_line, READ_SIZE),
            max_line,
            join: Join::BEGINNING,
            head: Vec::new(),
            position: 0,
            size: metadata.len(),
            modified: metadata.modified().ok(),
            silent_since: None,
            read_failed: false,
        };
        match (begin, metadata.len().checked_sub(1)) {
            (Begin::Start | Begin::At(0), _) | (Begin::End, None) => {}
            // Beginning with the last byte asks whether it is an LF: whatever
            // ends at the next LF, be it nothing, is passed over.
            (Begin::End, Some(last)) => {
                let first_line = generation.learn_head()?;
                generation.go_to(if first_line.is_some() { last } else { 0 }, &[]);
                generation.join = Join::WithinLine(first_line);
            }
            (Begin::At(offset), _) => {
                let head = generation.learn_head()?;
                let before = offset.saturating_sub(TRAIL_SIZE as u64);
                let trail = read_range(&generation.file, before, offset - before)?;
                generation.go_to(offset, &trail);
                generation.join = Join::Unannounced {
                    start: offset,
                    head,
                };
            }
        }
        Ok(generation)
    }

    /// Reads the file's beginning; returns its first line, if it is complete.
    fn learn_head(&mut self) -> io::Result<Option<Box<[u8]>>> {
        let size = self.max_line.saturating_add(1).max(HEAD_SIZE);
        self.head = read_range(&self.file, 0, size as u64)?;
        Ok(first_line(&self.head, self.max_line).map(Box::from))
    }

    /// Goes on at an offset, before which `trail` stands.
    fn go_to(&mut self, position: u64, trail: &[u8]) {
        self.position = position;
        self.splitter = LineSplitter::resumed(position, trail, self.max_line, READ_SIZE);
        let read = usize::try_from(position).unwrap_or(HEAD_SIZE);
        self.head.truncate(HEAD_SIZE.min(read));
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    pub(super) fn lag(&self) -> u64 {
        self.size.saturating_sub(self.position)
    }

    /// The same as of now.
    pub(super) fn look_behind(&self) -> u64 {
        let size = self.file.metadata().map_or(self.size, |now| now.len());
        size.saturating_sub(self.position)
    }

    /// When its file had been changed last as of the last look.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// Where it stands. None for a file not begun, which is found again as it was
    /// found now, and within a line that is passed over.
    pub(super) fn mark(&self, seen_until: Option<Timestamp>) -> Option<Mark> {
        let offset = self.splitter.position();
        match self.join {
            Join::Opened => {}
            Join::Unannounced { .. } if offset > 0 => {}
            Join::Unannounced { .. } | Join::WithinLine(_) => return None,
        }
        let trail = self.splitter.trail();
        Some(Mark::new(self.id, offset, &self.head, trail, seen_until))
    }

    /// The end of the line that it was begun in has not come.
    pub(super) fn is_passing_over(&self) -> bool {
        matches!(self.join, Join::WithinLine(_))
    }

    /// A place in it by which a copy of it is known: where it stands or, if no
    /// line was read yet, the end of its first bytes.
    pub(super) fn place(&self) -> Option<Mark> {
        let mark = self.mark(None).filter(|mark| mark.offset > 0);
        mark.or_else(|| {
            // What cannot be read was told, and has no copy that is known.
            let head = read_range(&self.file, 0, HEAD_SIZE as u64).ok()?;
            let end = head.len() as u64;
            (end > 0).then(|| Mark::new(self.id, end, &head, &head, None))
        })
    }

    /// Whether everything that is known to be there was handed over.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.join, Join::Opened) && self.lag() == 0 && self.splitter.pending() == 0
    }

    /// Whether the last read failed.
    pub(super) fn is_failing(&self) -> bool {
        self.read_failed
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Starts the wait for its silence, unless it has begun: it was rotated away.
    pub(super) fn retire(&mut self, now: Instant) {
        self.silent_since.get_or_insert(now);
    }

    /// It has its name back.
    pub(super) fn reinstate(&mut self) {
        self.silent_since = None;
    }

    pub(super) fn is_silent(&self, now: Instant, silence: Duration) -> bool {
        self.silent_since
            .is_some_and(|since| now.saturating_duration_since(since) >= silence)
    }

    /// Reads and hands over lines until the end, or until `read` counts `limit`
    /// bytes or more. A failure is told once and counts as the end.
    pub(super) fn read(
        &mut self,
        read: &mut u64,
        limit: u64,
        now: Instant,
        handler: &mut impl LineHandler,
    ) -> Reading {
        let position = self.position;
        let result = self.try_read(limit.saturating_sub(*read), handler);
        if self.position > position {
            *read += self.position - position;
            self.silent_since = self.silent_since.map(|_| now);
        }
        match result {
            Ok(reading) => {
                self.read_failed = false;
                reading
            }
            Err(error) => {
                if !self.read_failed {
                    handler.notice(Notice::ReadFailed {
                        generation: self.number,
                        error: &error,
                    });
                }
                self.read_failed = true;
                Reading::AtEnd
            }
        }
    }

    fn try_read(&mut self, limit: u64, handler: &mut impl LineHandler) -> io::Result<Reading> {
        self.look()?;
        if self.has_started_over(self.position)? {
            return Ok(Reading::StartedOver);
        }
        if let Join::Unannounced { start, head } = &mut self.join {
            let (start, head) = (*start, head.take());
            self.announce(start, head.as_deref(), handler);
        }
        let stop = self.position.saturating_add(limit);
        while self.position < self.size {
            if self.position >= stop {
                return Ok(Reading::Behind);
            }
            let mut reader = ReadAt {
                file: &self.file,
                position: self.position,
            };
            let fresh = self.splitter.read_from(&mut reader)?;
            let count = fresh.len() as u64;
            let head_room = HEAD_SIZE.saturating_sub(self.head.len());
            self.head.extend(fresh.iter().take(head_room));
            // Only after this look is it certain that the bytes just read belong
            // to those read before; otherwise none of them is handed over.
            self.look()?;
            if self.has_started_over(self.position + count)? {
                return Ok(Reading::StartedOver);
            }
            if count == 0 {
                break;
            }
            self.position += count;
            self.hand_over(handler);
        }
        Ok(Reading::AtEnd)
    }

    fn look(&mut self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        self.size = metadata.len();
        self.modified = metadata.modified().ok();
        Ok(())
    }

    /// Whether the file was truncated since it was last looked at: it is shorter
    /// than what was read, or it has grown again and begins differently.
    fn has_started_over(&self, read_to: u64) -> io::Result<bool> {
        if self.size < read_to {
            return Ok(true);
        }
        let mut beginning = [0; HEAD_SIZE];
        let beginning = beginning
            .get_mut(..self.head.len())
            .expect("a head fits its size");
        match self.file.read_exact_at(beginning, 0) {
            Ok(()) => Ok(*beginning != *self.head),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn hand_over(&mut self, handler: &mut impl LineHandler) {
        if let Join::WithinLine(head) = &mut self.join {
            let Some(passed_over) = self.splitter.next_line() else {
                return;
            };
            let head = head.take().unwrap_or_else(|| passed_over.bytes.into());
            self.announce(self.splitter.position(), Some(&head), handler);
        }
        while self.splitter.hand_over(self.number, handler) {}
    }

    fn announce(&mut self, start: u64, head: Option<&[u8]>, handler: &mut impl LineHandler) {
        self.join = Join::Opened;
        handler.opened(Opened {
            generation: self.number,
            start,
            head,
            modified: self.modified,
        });
    }

    /// Goes back to byte 0 of the same file, as generation `number`.
    pub(super) fn start_over(&mut self, number: u32, handler: &mut impl LineHandler) {
        if let Some(closed) = self.closed(CloseReason::StartedOver) {
            handler.closed(closed);
        }
        self.number = number;
        self.splitter = LineSplitter::new(0, self.max_line, READ_SIZE);
        self.join = Join::BEGINNING;
        self.head.clear();
        self.position = 0;
    }

    /// Ends it. A last line without LF is handed over as it stands if nothing
    /// of it is unread: that is all of it there will ever be.
    pub(super) fn close(mut self, reason: CloseReason, handler: &mut impl LineHandler) {
        if !matches!(self.join, Join::Opened) {
            return;
        }
        let mut unterminated = false;
        if self.lag() == 0
            && let Some(line) = self.splitter.finish()
        {
            handler.line(self.number, line);
            unterminated = true;
        }
        if let Some(closed) = self.closed(reason) {
            handler.closed(Closed {
                unterminated,
                lost: closed.lost + self.lag(),
                ..closed
            });
        }
    }

    fn closed(&self, reason: CloseReason) -> Option<Closed> {
        matches!(self.join, Join::Opened).then(|| Closed {
            generation: self.number,
            reason,
            position: self.splitter.position(),
            unterminated: false,
            lost: self.splitter.pending(),
        })
    }
}

/// Reads a file from a position of its own, whatever the handle's is.
struct ReadAt<'a> {
    file: &'a File,
    position: u64,
}

impl Read for ReadAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// The file's bytes from `offset` on, `count` or all there are.
fn read_range(file: &File, offset: u64, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let range = ReadAt {
        file,
        position: offset,
    };
    range.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}
