//! Follows a file by its path, through every way a log is rotated.
//!
//! The path is looked at in every step. Another file under it (renamed or deleted
//! and created, or a symlink that points elsewhere) becomes the current
//! generation, and the one before is *old*: it is read to its end before the new
//! one is read at all, then both are read until the old one was silent for a
//! while, since the server may still hold it open. A file that is shorter than
//! what was read of it, or that begins differently, starts over. As long as a
//! generation is held open its inode cannot be given to another file, so device
//! and inode tell files apart. Across a restart they do not, and a [`Mark`] does;
//! `resume` finds what was written and rotated meanwhile.

#[cfg(test)]
mod crash_tests;
mod generation;
mod mark;
#[cfg(test)]
mod model_tests;
mod old;
mod packed;
mod resume;
#[cfg(test)]
mod resume_tests;
mod rotate;
mod rotated;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};
use std::{io, mem};

use jiff::Timestamp;

use generation::{Begin, Generation, Reading};
pub use mark::{FileId, Mark, Print};
use old::Old;
pub use rotate::{Rotate, RotateError, numbered};
pub use rotated::{RotatedGlob, RotatedGlobError};

use super::{DEFAULT_MAX_LINE, LineHandler, Notice, Progress, Rotation};

/// How many rotated files that were read to their ends are kept open at most, in
/// case the server still writes to them.
pub const MAX_OLD_FILES: usize = 8;

/// How many rotated files with something to read are held at most.
const MAX_UNREAD: usize = 32;

/// About how many bytes one step reads at most; it may read one read more. What was
/// read and made of it is still in a core's cache when it is handed on.
const STEP_BYTES: u64 = 256 * 1024;

/// How many closed files are remembered while the reading is behind; beyond that,
/// a restart reads the oldest again.
const MAX_FINISHED: usize = 32;

/// How long a rotation that failed is not tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);

/// Where to begin in a file that exists when following starts. A file that
/// appears later is always read from its first byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At byte 0.
    Beginning,
    /// With the first line that begins after what is there now.
    #[default]
    End,
    /// Where an earlier run stopped: what [`Tail::marks`] gave last. Without any
    /// there was no file then, and one that is there now is read from byte 0.
    At(Vec<Mark>),
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
    /// What the log is called once it was rotated: for [`Start::At`].
    pub rotated: RotatedGlob,
    /// Whether to rotate it ourselves. Only for a server that opens its log anew
    /// for every line.
    pub rotate: Option<Rotate>,
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
            rotated: RotatedGlob::default(),
            rotate: None,
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
    /// Where to resume, until a file is found.
    resume: Option<Vec<Mark>>,
    current: Option<Generation>,
    /// Files that were closed since everything was read last: until then, a
    /// restart would take them for news. Oldest first, at most [`MAX_FINISHED`].
    finished: Vec<Mark>,
    /// Files that were closed before those, to know them again: at most as many.
    closed: VecDeque<Mark>,
    /// Oldest first.
    old: VecDeque<Old>,
    next_number: u32,
    trouble: Option<Trouble>,
    seen_until: Option<Timestamp>,
    /// What that was when an earlier run ended, whose closed files are not known.
    resumed_at: Option<Timestamp>,
    /// When a rotation that failed may be tried again.
    rotate_again: Option<Instant>,
}

impl Tail {
    /// Opens the log if it exists; a log that does not is waited for. Where it is
    /// to be resumed, the first step looks for what is to be read.
    ///
    /// # Errors
    /// The path has something that cannot be read, or that is not a file.
    pub fn open(mut options: TailOptions) -> Result<Self, TailError> {
        let start = mem::take(&mut options.start);
        let mut tail = Self {
            options,
            resume: None,
            current: None,
            finished: Vec::new(),
            closed: VecDeque::new(),
            old: VecDeque::new(),
            next_number: 0,
            trouble: None,
            seen_until: None,
            resumed_at: None,
            rotate_again: None,
        };
        let begin = match start {
            Start::Beginning => Begin::Start,
            Start::End => Begin::End,
            Start::At(marks) => {
                tail.resume = Some(marks);
                Begin::Start
            }
        };
        match generation::open(&tail.options.path) {
            Ok(_) if tail.resume.is_some() => {}
            Ok(opened) => tail.current = Some(tail.begin(opened, begin)?),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        Ok(tail)
    }

    /// One step: looks at the path, reads about 256 KiB at most, hands over lines.
    /// `now` must not go backwards.
    pub fn poll(&mut self, now: Instant, handler: &mut impl LineHandler) -> Progress {
        self.look(now, handler);

        let mut read = 0;
        let mut reading = Reading::AtEnd;
        // A newer file's turn comes when the older ones have nothing to read.
        let mut newer = self.old.len();
        for mut old in mem::take(&mut self.old) {
            newer -= 1;
            if reading == Reading::AtEnd {
                reading = old.read(&mut read, STEP_BYTES, now, handler);
                if let (Reading::StartedOver, Old::Plain(generation)) = (reading, &mut old) {
                    start_over(generation, &mut self.next_number, handler);
                }
            }
            // The last file of all stays, so that its mark does.
            let may_close = reading == Reading::AtEnd && self.current.is_some();
            if may_close && old.is_over(now, self.options.old_silence) {
                self.finish(&old);
                old.close(handler);
            } else if reading == Reading::AtEnd && newer >= MAX_OLD_FILES {
                self.finish(&old);
                old.displace(handler);
            } else {
                self.old.push_back(old);
            }
        }
        if reading == Reading::AtEnd
            && let Some(current) = &mut self.current
        {
            reading = current.read(&mut read, STEP_BYTES, now, handler);
            if reading == Reading::StartedOver {
                start_over(current, &mut self.next_number, handler);
            }
        }
        if reading == Reading::AtEnd {
            self.see();
            self.rotate(now, handler);
        }

        let old_lag: u64 = self.old.iter().map(Old::lag).sum();
        Progress {
            read,
            at_end: reading == Reading::AtEnd,
            lag: old_lag + self.current.as_ref().map_or(0, Generation::lag),
            waiting_for_file: self.trouble.is_some(),
            unreadable: matches!(self.trouble, Some(Trouble::Unreadable(_)))
                || self.current.as_ref().is_some_and(Generation::is_failing),
            settling: !self.old.is_empty(),
            ended: false,
        }
    }

    /// How many bytes are not read, as the file system has it now: for a look between
    /// two steps.
    #[must_use]
    pub fn look_behind(&self) -> u64 {
        let old: u64 = self.old.iter().map(Old::look_behind).sum();
        let current = self.current.as_ref().map_or(0, Generation::look_behind);
        // What the path names by now was not read at all.
        let newer = fs::metadata(&self.options.path)
            .ok()
            .filter(|metadata| !self.is_current(FileId::of(metadata)));
        old + current + newer.map_or(0, |metadata| metadata.len())
    }

    /// Whether it was begun within a line whose end has not come. Then no mark
    /// tells where it stands: without it, a next run would read all of the file.
    #[must_use]
    pub fn is_passing_over(&self) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(Generation::is_passing_over)
    }

    /// Where every file stands that is being read, oldest first: what
    /// [`Start::At`] takes. Empty as long as there was none.
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        if let Some(marks) = &self.resume {
            return marks.clone();
        }
        let old = self.old.iter().filter_map(|old| old.mark(self.seen_until));
        let current = self.current.iter();
        let current = current.filter_map(|current| current.mark(self.seen_until));
        let finished = self.finished.iter().copied();
        finished.chain(old).chain(current).collect()
    }

    /// Follows the path to the file it names now.
    fn look(&mut self, now: Instant, handler: &mut impl LineHandler) {
        let path = &self.options.path;
        let found = match fs::metadata(path) {
            Ok(metadata) if self.is_current(FileId::of(&metadata)) => {
                self.trouble = None;
                return;
            }
            Ok(_) => generation::open(path),
            Err(source) => Err(TailError::Unreadable {
                path: path.clone(),
                source,
            }),
        };
        if let Some(marks) = self.resume.take() {
            return self.resume(marks, found, handler);
        }
        let adopted = found.and_then(|opened| {
            // The path may have changed again since; what was opened counts.
            let id = FileId::of(&opened.1);
            if self.is_current(id) {
                return Ok(None);
            }
            // A file that is back under its name goes on where it was.
            let back = self.old.iter().position(|old| old.is(id));
            if let Some(Old::Plain(mut generation)) = back.and_then(|at| self.old.remove(at)) {
                generation.reinstate();
                return Ok(Some((generation, Vec::new())));
            }
            let next = self.begin(opened, Begin::Start)?;
            Ok(Some((next, self.missed(id, handler))))
        });
        match adopted {
            Ok(next) => {
                self.trouble = None;
                if let Some((next, missed)) = next {
                    self.replace(next, missed, now, handler);
                }
            }
            Err(error) => self.complain(&error, handler),
        }
    }

    fn is_current(&self, id: FileId) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.id() == id)
    }

    /// With the first file of all, older ones are none of ours.
    fn seen_since(&mut self, modified: Option<SystemTime>) {
        let modified = modified.and_then(|time| Timestamp::try_from(time).ok());
        self.seen_until = self.seen_until.or(modified);
    }

    /// Everything was read: what any file was changed at until now is known.
    fn see(&mut self) {
        let modified = self.old.iter().map(Old::modified);
        let modified = modified.chain(self.current.iter().map(Generation::modified));
        let latest = modified
            .flatten()
            .filter_map(|time| Timestamp::try_from(time).ok())
            .max();
        self.seen_until = self.seen_until.max(latest);
        self.closed.extend(self.finished.drain(..));
        let too_many = self.closed.len().saturating_sub(MAX_FINISHED);
        self.closed.drain(..too_many);
    }

    /// Rotates the log ourselves, if it is large enough and nobody can miss a
    /// line by it.
    fn rotate(&mut self, now: Instant, handler: &mut impl LineHandler) {
        let (Some(Rotate { at, keep }), Some(current)) = (self.options.rotate, &self.current)
        else {
            return;
        };
        let settled = self.old.is_empty() && self.trouble.is_none();
        let again = self.rotate_again.is_none_or(|again| now >= again);
        if current.size() < at || !current.is_read() || !settled || !again {
            return;
        }
        match rotate::rotate(&self.options.path, current.id(), keep) {
            Ok(()) => self.rotate_again = None,
            Err(error) => {
                if self.rotate_again.replace(now + ROTATE_AGAIN).is_none() {
                    handler.notice(Notice::NotRotated(&error));
                }
            }
        }
    }

    /// Another file is the log now; others were it in between, unseen.
    fn replace(
        &mut self,
        next: Generation,
        missed: Vec<Old>,
        now: Instant,
        handler: &mut impl LineHandler,
    ) {
        let Some(mut old) = self.current.replace(next) else {
            return;
        };
        handler.rotated(Rotation::Rename);
        old.retire(now);
        self.old.push_back(Old::Plain(old));
        self.old.extend(missed);
        while self.old.len() > MAX_OLD_FILES + MAX_UNREAD
            && let Some(mut oldest) = self.old.pop_front()
        {
            // It is still worth one read.
            oldest.read(&mut 0, STEP_BYTES, now, handler);
            self.finish(&oldest);
            oldest.displace(handler);
        }
    }

    /// Keeps the mark of a file that is about to be closed.
    fn finish(&mut self, old: &Old) {
        self.finished.extend(old.mark(self.seen_until));
        let too_many = self.finished.len().saturating_sub(MAX_FINISHED);
        self.finished.drain(..too_many);
    }

    fn complain(&mut self, error: &TailError, handler: &mut impl LineHandler) {
        let trouble = match error {
            _ if error.is_missing() => Trouble::Missing,
            TailError::Unreadable { source, .. } => Trouble::Unreadable(Some(source.kind())),
            TailError::NotAFile { .. } => Trouble::Unreadable(None),
        };
        // Between our own renaming and the server's next line there is no file.
        if trouble == Trouble::Missing && self.options.rotate.is_some() && self.current.is_some() {
            return;
        }
        if self.trouble == Some(trouble) {
            return;
        }
        self.trouble = Some(trouble);
        handler.notice(match trouble {
            Trouble::Missing => Notice::Missing,
            Trouble::Unreadable(_) => Notice::Unreadable(error),
        });
    }

    fn begin(
        &mut self,
        opened: (fs::File, fs::Metadata),
        begin: Begin,
    ) -> Result<Generation, TailError> {
        let mut generation = Generation::new(opened, begin, self.options.max_line);
        if let Ok(generation) = &mut generation {
            generation.number = take_number(&mut self.next_number);
            let modified = generation.modified();
            self.seen_since(modified);
        }
        generation.map_err(|source| TailError::Unreadable {
            path: self.options.path.clone(),
            source,
        })
    }
}

fn start_over(generation: &mut Generation, next_number: &mut u32, handler: &mut impl LineHandler) {
    handler.rotated(Rotation::Truncate);
    generation.start_over(take_number(next_number), handler);
}

fn take_number(next: &mut u32) -> u32 {
    let number = *next;
    *next = next.wrapping_add(1);
    number
}
