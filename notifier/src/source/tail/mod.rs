//! Follows a file by its path, through every way a log is rotated.
//!
//! The path is looked at in every step. Another file under it (renamed or deleted
//! and created, or a symlink that points elsewhere) becomes the current
//! generation, and the one before is *old*: it is read to its end before the new
//! one is read at all, then both are read until the old one was silent for a
//! while, since the server may still hold it open. A file that is shorter than
//! what was read of it, or that begins differently, starts over. As long as a
//! generation is held open its inode cannot be given to another file, so device
//! and inode tell files apart.

mod generation;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::{self, File, Metadata};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{io, mem};

pub use generation::FileId;
use generation::{Generation, Reading};

use super::{CloseReason, DEFAULT_MAX_LINE, LineHandler, Notice, Progress, Rotation};

/// How many rotated files are kept open at most.
pub const MAX_OLD_FILES: usize = 8;

/// About how many bytes one step reads at most; it may read one read more.
const STEP_BYTES: u64 = 1024 * 1024;

/// Where to begin in a file that exists when following starts. A file that
/// appears later is always read from its first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At byte 0.
    Beginning,
    /// With the first line that begins after what is there now.
    #[default]
    End,
}

/// What to follow and how.
#[derive(Clone, Debug)]
pub struct TailOptions {
    /// The log's path; symlinks are followed in every step.
    pub path: PathBuf,
    /// Where to begin if it exists at the start.
    pub start: Start,
    /// How many bytes of a line are handed over at most (1 or more).
    pub max_line: usize,
    /// How long a rotated file must be silent before it is closed.
    pub old_silence: Duration,
}

impl TailOptions {
    /// Follows `path` from its end, lines up to 64 KiB, old files for 5 s.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            start: Start::default(),
            max_line: DEFAULT_MAX_LINE,
            old_silence: Duration::from_secs(5),
        }
    }
}

/// Why a log cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The file is there and cannot be opened or read.
    #[error("cannot read the log {}: {source}; let this user read it and the directories above it", path.display())]
    Unreadable {
        /// The log's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a named pipe, a device.
    #[error("the log {} is not a regular file; name a file, or - for standard input", path.display())]
    NotAFile {
        /// The log's path.
        path: PathBuf,
    },
}

impl TailError {
    fn is_missing(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Where a generation stands: what it takes to go on with it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position<'a> {
    /// Its number.
    pub generation: u32,
    /// Its file.
    pub file: FileId,
    /// The file's first bytes, at most 1 KiB and only what was read: a file with
    /// the same id that begins differently is another one.
    pub head: &'a [u8],
    /// Offset in bytes after the last line handed over.
    pub offset: u64,
}

/// What is wrong with the path, so that it is told once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Missing,
    Unreadable(Option<io::ErrorKind>),
}

/// Follows one log; see the module's documentation.
///
/// [`poll`](Self::poll) never blocks; when it is at the end, wait for a hint or a
/// short time and call it again.
pub struct Tail {
    options: TailOptions,
    current: Option<Generation>,
    /// Oldest first.
    old: VecDeque<Generation>,
    next_number: u32,
    trouble: Option<Trouble>,
}

impl Tail {
    /// Opens the log if it exists; a log that does not is waited for.
    ///
    /// # Errors
    /// The path has something that cannot be read, or that is not a file.
    pub fn open(options: TailOptions) -> Result<Self, TailError> {
        let start = options.start;
        let mut tail = Self {
            options,
            current: None,
            old: VecDeque::new(),
            next_number: 0,
            trouble: None,
        };
        match generation::open(&tail.options.path).and_then(|opened| tail.begin(opened, start)) {
            Ok(first) => tail.current = Some(first),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        Ok(tail)
    }

    /// One step: looks at the path, reads about 1 MiB at most, hands over lines.
    /// `now` must not go backwards.
    pub fn poll(&mut self, now: Instant, handler: &mut impl LineHandler) -> Progress {
        self.look(now, handler);

        let mut read = 0;
        let mut reading = Reading::AtEnd;
        // A newer file's turn comes when the older ones have nothing to read.
        for mut old in mem::take(&mut self.old) {
            if reading == Reading::AtEnd {
                reading = self.read(&mut old, &mut read, now, handler);
            }
            if reading == Reading::AtEnd && old.is_silent(now, self.options.old_silence) {
                old.close(CloseReason::Silent, handler);
            } else {
                self.old.push_back(old);
            }
        }
        if reading == Reading::AtEnd
            && let Some(mut current) = self.current.take()
        {
            reading = self.read(&mut current, &mut read, now, handler);
            self.current = Some(current);
        }

        Progress {
            read,
            at_end: reading == Reading::AtEnd,
            lag: self
                .old
                .iter()
                .chain(&self.current)
                .map(Generation::lag)
                .sum(),
            waiting_for_file: self.trouble.is_some(),
            settling: !self.old.is_empty(),
            ended: false,
        }
    }

    /// Where every open generation stands, oldest first.
    pub fn positions(&self) -> impl Iterator<Item = Position<'_>> {
        self.old
            .iter()
            .chain(&self.current)
            .filter_map(Generation::position)
    }

    fn read(
        &mut self,
        generation: &mut Generation,
        read: &mut u64,
        now: Instant,
        handler: &mut impl LineHandler,
    ) -> Reading {
        let reading = generation.read(read, STEP_BYTES, now, handler);
        if reading == Reading::StartedOver {
            handler.rotated(Rotation::Truncate);
            generation.start_over(take_number(&mut self.next_number), handler);
        }
        reading
    }

    /// Follows the path to the file it names now.
    fn look(&mut self, now: Instant, handler: &mut impl LineHandler) {
        let path = &self.options.path;
        let found = match fs::metadata(path) {
            Ok(metadata) => {
                let id = FileId::of(&metadata);
                if self
                    .current
                    .as_ref()
                    .is_some_and(|current| current.id() == id)
                {
                    self.trouble = None;
                    return;
                }
                generation::open(path)
            }
            Err(source) => Err(TailError::Unreadable {
                path: path.clone(),
                source,
            }),
        };
        let adopted = found.and_then(|opened| {
            // The path may have changed again since; what was opened counts.
            let id = FileId::of(&opened.1);
            if self
                .current
                .as_ref()
                .is_some_and(|current| current.id() == id)
            {
                return Ok(None);
            }
            // A file that is back under its name goes on where it was.
            match self.old.iter().position(|old| old.id() == id) {
                Some(index) => Ok(self.old.remove(index)),
                None => self.begin(opened, Start::Beginning).map(Some),
            }
        });
        match adopted {
            Ok(next) => {
                self.trouble = None;
                if let Some(next) = next {
                    self.replace(next, now, handler);
                }
            }
            Err(error) => self.complain(&error, handler),
        }
    }

    fn replace(&mut self, next: Generation, now: Instant, handler: &mut impl LineHandler) {
        let Some(mut old) = self.current.replace(next) else {
            return;
        };
        handler.rotated(Rotation::Rename);
        old.retire(now);
        self.old.push_back(old);
        if self.old.len() > MAX_OLD_FILES
            && let Some(mut oldest) = self.old.pop_front()
        {
            // What it got since the last step is still worth one read.
            self.read(&mut oldest, &mut 0, now, handler);
            oldest.close(CloseReason::Displaced, handler);
        }
    }

    fn complain(&mut self, error: &TailError, handler: &mut impl LineHandler) {
        let trouble = match error {
            _ if error.is_missing() => Trouble::Missing,
            TailError::Unreadable { source, .. } => Trouble::Unreadable(Some(source.kind())),
            TailError::NotAFile { .. } => Trouble::Unreadable(None),
        };
        if self.trouble == Some(trouble) {
            return;
        }
        self.trouble = Some(trouble);
        handler.notice(match trouble {
            Trouble::Missing => Notice::Missing,
            Trouble::Unreadable(_) => Notice::Unreadable(error),
        });
    }

    fn begin(&mut self, opened: (File, Metadata), start: Start) -> Result<Generation, TailError> {
        Generation::new(
            take_number(&mut self.next_number),
            opened,
            start,
            self.options.max_line,
        )
        .map_err(|source| TailError::Unreadable {
            path: self.options.path.clone(),
            source,
        })
    }
}

fn take_number(next: &mut u32) -> u32 {
    let number = *next;
    *next = next.wrapping_add(1);
    number
}
