//! Edges that bring bytes in: files that grow, standard input, a child process.
//!
//! A log's thread drives one source and hands every line on, borrowed, to a
//! [`LineHandler`]. [`tail::Tail`] follows a file and is polled; [`stream::Stream`]
//! is fed the chunks that a reader thread sends. Both cut lines with
//! [`splitter::LineSplitter`], and both wait on [`wake::Wake`] when there is
//! nothing to do. What a container runtime or a syslog daemon wrapped around a
//! line is taken off by [`container::Unwrapper`].

pub mod child;
pub mod container;
mod docker;
pub mod splitter;
mod stamp;
pub mod stream;
mod syslog;
pub mod tail;
pub mod wake;

use std::path::Path;
use std::time::SystemTime;
use std::{fmt, io};

/// How many bytes of a line are kept unless configured otherwise.
pub const DEFAULT_MAX_LINE: usize = 64 * 1024;

/// One line as it stands in its file, without its LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawLine<'a> {
    /// Offset in bytes of the line's first byte in its file or stream.
    pub offset: u64,
    /// The bytes, at most the configured bound.
    pub bytes: &'a [u8],
    /// Whether the line was longer than the bound and lost its end.
    pub cut: bool,
}

/// How a followed log changed under its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rotation {
    /// Another file has the name now (rename or delete, and create).
    Rename,
    /// The same file starts over (copytruncate).
    Truncate,
}

/// What takes the lines of one log.
///
/// Every incarnation of the file is a *generation* with a number of its own:
/// after a rename two of them give lines for a while. A generation's calls are
/// `opened`, any number of `line`, `closed`; those of two generations may
/// interleave, but what an older one still holds comes before a newer one's lines.
pub trait LineHandler {
    /// The lines of a generation begin.
    fn opened(&mut self, opened: Opened<'_>);
    /// One line of an opened generation.
    fn line(&mut self, generation: u32, line: RawLine<'_>);
    /// What follows that line, from this offset on: lines with their LF, perhaps a
    /// last one that is not whole. It may take the first of them at once, and says
    /// how many bytes they have; the others come by [`Self::line`].
    fn lines(&mut self, _generation: u32, _offset: u64, _ahead: &[u8]) -> usize {
        0
    }
    /// No more lines of this generation.
    fn closed(&mut self, closed: Closed);
    /// The log was rotated; the generation that begins is told by `opened`.
    fn rotated(&mut self, kind: Rotation);
    /// Something an operator wants to know; each once, until it is over.
    fn notice(&mut self, notice: Notice<'_>);
}

/// A generation whose lines begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Its number, counted up from 0 in each log.
    pub generation: u32,
    /// Offset in bytes of the first line that will be handed over.
    pub start: u64,
    /// The file's first complete line, without LF and at most as long as the
    /// line bound. Always there when `start > 0`; when `start` is 0 it is the
    /// first line that will be handed over.
    pub head: Option<&'a [u8]>,
    /// When the file was last changed, if the file system tells.
    pub modified: Option<SystemTime>,
}

/// A generation that gives no more lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Its number.
    pub generation: u32,
    /// Why it ended.
    pub reason: CloseReason,
    /// Offset in bytes after the last line handed over.
    pub position: u64,
    /// Whether that last line had no LF and was handed over as it stood.
    pub unterminated: bool,
    /// Bytes that were there and were not handed over as a line.
    pub lost: u64,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// It was rotated away and nobody wrote to it any more.
    Silent,
    /// Its file starts over; a partial line is `lost`.
    StartedOver,
    /// Too many rotated files were open and it was the oldest; what it still
    /// held is `lost`.
    Displaced,
    /// The stream ended, or a rotated file that does not grow was read.
    End,
}

/// What an operator wants to know of a source.
#[derive(Debug)]
pub enum Notice<'a> {
    /// The path has no file (yet, or any more).
    Missing,
    /// The path has a file that cannot be opened; it is tried again.
    Unreadable(&'a tail::TailError),
    /// Reading an open file or stream failed; a file is tried again.
    ReadFailed {
        /// Whose reading failed.
        generation: u32,
        /// Why.
        error: &'a io::Error,
    },
    /// Lines that were written while nobody read may be missing here; counted.
    Gap(Gap<'a>),
    /// The log could not be rotated as configured; tried again later, and told
    /// once until it works.
    NotRotated(&'a tail::RotateError),
}

/// Why lines may be missing where reading was resumed.
#[derive(Debug)]
pub enum Gap<'a> {
    /// The file that was being read is not there any more.
    FileGone {
        /// It was read up to this offset in bytes.
        offset: u64,
    },
    /// A file that the log was rotated to, or their directory, cannot be read (on).
    Unreadable {
        /// Its path.
        path: &'a Path,
        /// Why not.
        error: &'a io::Error,
    },
    /// More rotated files are there than are read; the oldest are left out.
    TooMany {
        /// How many.
        files: usize,
    },
}

impl fmt::Display for Gap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileGone { offset } => write!(
                f,
                "the file that was read up to byte {offset} is not there any more; \
                 what was written after that is lost (is it elsewhere? see --rotated-glob)"
            ),
            Self::Unreadable { path, error } => {
                write!(f, "cannot read {} on: {error}", path.display())
            }
            Self::TooMany { files } => {
                write!(
                    f,
                    "too many rotated files; the {files} oldest were not read"
                )
            }
        }
    }
}

/// What one step of a source did, and how things stand after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read in this step.
    pub read: u64,
    /// Nothing more to read now: wait before the next step.
    pub at_end: bool,
    /// Bytes that are in the open files and not read yet.
    pub lag: u64,
    /// The path has no readable file.
    pub waiting_for_file: bool,
    /// It has something that cannot be opened or read, so that it is waited for.
    pub unreadable: bool,
    /// A rotated file is being waited out: step again soon.
    pub settling: bool,
    /// The stream is over and everything was handed over; files never end.
    pub ended: bool,
}
