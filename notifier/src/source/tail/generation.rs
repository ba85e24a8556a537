//! One incarnation of a followed file: an open handle, a position, a partial line.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::{Position, Start, TailError};
use crate::source::splitter::LineSplitter;
use crate::source::{CloseReason, Closed, LineHandler, Notice, Opened};

/// How many bytes are asked for in one read.
const READ_SIZE: usize = 64 * 1024;

/// How much of a file's beginning is remembered to know it again. A log's first
/// kilobyte holds several lines with stamps, ports or ids that do not repeat.
const HEAD_SIZE: usize = 1024;

/// What the file system calls a file while somebody holds it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Number of the device.
    pub device: u64,
    /// Number of the inode on it.
    pub inode: u64,
}

impl FileId {
    pub(in crate::source) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Where a generation stands with its first line.
enum Join {
    /// At byte 0; nobody was told yet.
    Beginning,
    /// Within a line whose rest is not a line: it is passed over. Without the
    /// file's first line, that line is the one being passed over.
    WithinLine(Option<Box<[u8]>>),
    /// The handler knows this generation.
    Opened,
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

pub(super) struct Generation {
    number: u32,
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
    pub(super) fn new(
        number: u32,
        (file, metadata): (File, Metadata),
        start: Start,
        max_line: usize,
    ) -> io::Result<Self> {
        let (mut position, mut join, mut head) = (0, Join::Beginning, Vec::new());
        if let (Start::End, Some(last)) = (start, metadata.len().checked_sub(1)) {
            head = read_beginning(&file, max_line.saturating_add(1).max(HEAD_SIZE))?;
            let first_line = match memchr::memchr(b'\n', &head) {
                Some(at) => head.get(..at.min(max_line)),
                None => head.get(..max_line).filter(|_| head.len() > max_line),
            };
            // Beginning with the last byte asks whether it is an LF: whatever
            // ends at the next LF, be it nothing, is passed over.
            position = if first_line.is_some() { last } else { 0 };
            join = Join::WithinLine(first_line.map(Box::from));
            head.truncate(HEAD_SIZE.min(usize::try_from(position).unwrap_or(HEAD_SIZE)));
        }
        Ok(Self {
            number,
            id: FileId::of(&metadata),
            file,
            splitter: LineSplitter::new(position, max_line, READ_SIZE),
            max_line,
            join,
            head,
            position,
            size: metadata.len(),
            silent_since: None,
            read_failed: false,
        })
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    pub(super) fn lag(&self) -> u64 {
        self.size.saturating_sub(self.position)
    }

    /// Where it stands, once the handler knows it.
    pub(super) fn position(&self) -> Option<Position<'_>> {
        matches!(self.join, Join::Opened).then(|| Position {
            generation: self.number,
            file: self.id,
            head: &self.head,
            offset: self.splitter.position(),
        })
    }

    /// Starts the wait for its silence: it was rotated away.
    pub(super) fn retire(&mut self, now: Instant) {
        self.silent_since = Some(now);
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
        self.size = self.file.metadata()?.len();
        if self.has_started_over(self.position)? {
            return Ok(Reading::StartedOver);
        }
        if matches!(self.join, Join::Beginning) {
            self.announce(0, None, handler);
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
            self.size = self.file.metadata()?.len();
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
        while let Some(line) = self.splitter.next_line() {
            handler.line(self.number, line);
        }
    }

    fn announce(&mut self, start: u64, head: Option<&[u8]>, handler: &mut impl LineHandler) {
        self.join = Join::Opened;
        handler.opened(Opened {
            generation: self.number,
            start,
            head,
            modified: self
                .file
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok(),
        });
    }

    /// Goes back to byte 0 of the same file, as generation `number`.
    pub(super) fn start_over(&mut self, number: u32, handler: &mut impl LineHandler) {
        if let Some(closed) = self.closed(CloseReason::StartedOver) {
            handler.closed(closed);
        }
        self.number = number;
        self.splitter = LineSplitter::new(0, self.max_line, READ_SIZE);
        self.join = Join::Beginning;
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

/// The file's first bytes, at most `count`.
fn read_beginning(file: &File, count: usize) -> io::Result<Vec<u8>> {
    let mut beginning = Vec::new();
    ReadAt { file, position: 0 }
        .take(count as u64)
        .read_to_end(&mut beginning)?;
    Ok(beginning)
}
