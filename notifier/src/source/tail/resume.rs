//! Going on where an earlier run stopped: which files are still to be read, from
//! where, and in which order.
//!
//! A file of a mark is found by its id and content, else (it was copied or
//! compressed, or the volume has a new number) by its content alone. The log may
//! have been rotated more than once since: the files between the last marked one
//! and the current one are those that were changed after everything had been
//! read, in the order of their last change. A tool that compresses or moves files
//! keeps that time, and a file is renamed when its last line is in it, so this is
//! the order in which they were written.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use super::generation::{self, Begin, Generation};
use super::mark::{FileId, Mark};
use super::old::Old;
use super::packed::Packed;
use super::rotated::{self, Candidate};
use super::{TailError, TailOptions};
use crate::source::{Gap, LineHandler, Notice, Rotation};

/// How many rotated files are read at most; each is held open until then.
const MAX_OLD: usize = 32;

/// What is to be read; no file has its number yet.
pub(super) struct Plan {
    /// The files before the current one, oldest first.
    pub(super) old: Vec<Old>,
    /// The file under the path, if there is one.
    pub(super) current: Option<Generation>,
}

/// Finds what is to be read, opens it, and tells what is missing. `current` is the
/// file under the path. None where no file is there, be it marked or current:
/// that may change, so it says nothing of what is missing.
pub(super) fn plan(
    marks: &[Mark],
    current: Option<(File, Metadata)>,
    options: &TailOptions,
    handler: &mut impl LineHandler,
) -> Option<Plan> {
    let current_id = current.as_ref().map(|(_, metadata)| FileId::of(metadata));
    let in_current = current.as_ref().and_then(|current| {
        let at = |by_id| marks.iter().position(|mark| is_in(mark, current, by_id));
        at(true).or_else(|| at(false))
    });
    let mut search = Search {
        max_line: options.max_line,
        found: marks.iter().map(|_| None).collect(),
        copies: HashSet::new(),
    };
    // As long as the log was not rotated, other files are no business of ours.
    let mut candidates = Vec::new();
    let mut left_out = 0;
    if in_current.is_none_or(|_| marks.len() > 1) {
        match rotated::candidates(&options.path, &options.rotated, current_id) {
            Ok(found) => (candidates, left_out) = found,
            Err((path, error)) => handler.notice(Notice::Gap(Gap::Unreadable {
                path: &path,
                error: &error,
            })),
        }
    }
    for by_id in [true, false] {
        for candidate in &candidates {
            search.look_into(candidate, marks, in_current, by_id);
        }
    }
    if current.is_none() && search.found.iter().all(Option::is_none) {
        return None;
    }

    let mut old = Vec::new();
    for (at, (mark, found)) in marks.iter().zip(search.found).enumerate() {
        match found {
            Some(file) => old.push(file),
            None if in_current == Some(at) => {}
            None => handler.notice(Notice::Gap(Gap::FileGone {
                offset: mark.offset,
            })),
        }
    }
    if in_current.is_none_or(|at| at + 1 < marks.len()) {
        candidates.retain(|file| !search.copies.contains(&file.id));
        between(marks, candidates, left_out, options, &mut old, handler);
    }
    let current = current.and_then(|opened| {
        let mark = in_current.and_then(|at| marks.get(at));
        if mark.is_none() && !marks.is_empty() {
            let truncated = marks.iter().any(|mark| Some(mark.file) == current_id);
            handler.rotated(if truncated {
                Rotation::Truncate
            } else {
                Rotation::Rename
            });
        }
        let begin = Begin::At(mark.map_or(0, |mark| mark.offset));
        Generation::new(opened, begin, options.max_line)
            .inspect_err(|error| {
                let path = &options.path;
                handler.notice(Notice::Gap(Gap::Unreadable { path, error }));
            })
            .ok()
    });
    Some(Plan { old, current })
}

/// Opens the files that were written after the last marked one and rotated away
/// before the current one was there.
fn between(
    marks: &[Mark],
    mut candidates: Vec<Candidate>,
    left_out: usize,
    options: &TailOptions,
    old: &mut Vec<Old>,
    handler: &mut impl LineHandler,
) {
    let seen_until = marks.iter().filter_map(|mark| mark.seen_until).max();
    let Some(seen_until) = seen_until.map(SystemTime::from) else {
        return;
    };
    candidates.retain(|file| file.modified > Some(seen_until));
    let room = MAX_OLD.saturating_sub(old.len());
    let too_many = candidates.len().saturating_sub(room);
    if too_many + left_out > 0 {
        let files = too_many + left_out;
        handler.notice(Notice::Gap(Gap::TooMany { files }));
    }
    for Candidate { path, .. } in candidates.iter().skip(too_many) {
        match open(path, options.max_line) {
            Ok(file) => {
                handler.rotated(Rotation::Rename);
                old.push(file);
            }
            Err(error) => {
                let error = &error;
                handler.notice(Notice::Gap(Gap::Unreadable { path, error }));
            }
        }
    }
}

/// Whether a mark is in this file: found by its id too, or by its content alone,
/// of which there must be some. A file that cannot be read says so elsewhere.
fn is_in(mark: &Mark, (file, metadata): &(File, Metadata), by_id: bool) -> bool {
    may_be(mark, FileId::of(metadata), by_id) && mark.is_in(file, metadata).unwrap_or(false)
}

fn may_be(mark: &Mark, id: FileId, by_id: bool) -> bool {
    if by_id {
        mark.file == id
    } else {
        mark.offset > 0
    }
}

struct Search {
    max_line: usize,
    /// The file of each mark.
    found: Vec<Option<Old>>,
    /// Files that hold a mark: its file, and copies of that.
    copies: HashSet<FileId>,
}

impl Search {
    /// Looks for the marks that are in a file; it becomes the file of the first
    /// if that has none yet.
    fn look_into(
        &mut self,
        candidate: &Candidate,
        marks: &[Mark],
        in_current: Option<usize>,
        by_id: bool,
    ) {
        if self.copies.contains(&candidate.id) {
            return;
        }
        let found = marks.iter().enumerate().find_map(|(at, mark)| {
            if !may_be(mark, candidate.id, by_id) {
                return None;
            }
            // What cannot be read is told if it has to be.
            let file = self.find(&candidate.path, mark).ok()??;
            Some((at, file))
        });
        let Some((at, file)) = found else {
            return;
        };
        self.copies.insert(candidate.id);
        if in_current != Some(at)
            && let Some(free @ None) = self.found.get_mut(at)
        {
            *free = Some(file);
        }
    }

    fn find(&self, path: &Path, mark: &Mark) -> io::Result<Option<Old>> {
        let opened = open_plain(path)?;
        if is_packed(&opened.0)? {
            let packed = Packed::resumed(path.to_owned(), opened, mark, self.max_line)?;
            return Ok(packed.map(Old::Packed));
        }
        if !mark.is_in(&opened.0, &opened.1)? {
            return Ok(None);
        }
        let begin = Begin::At(mark.offset);
        Generation::new(opened, begin, self.max_line).map(|file| Some(Old::Plain(file)))
    }
}

/// Opens a rotated file at its beginning.
fn open(path: &Path, max_line: usize) -> io::Result<Old> {
    let opened = open_plain(path)?;
    if is_packed(&opened.0)? {
        let packed = Packed::new(path.to_owned(), opened, max_line);
        return Ok(Old::Packed(packed));
    }
    Generation::new(opened, Begin::Start, max_line).map(Old::Plain)
}

fn open_plain(path: &Path) -> io::Result<(File, Metadata)> {
    generation::open(path).map_err(|error| match error {
        TailError::Unreadable { source, .. } => source,
        TailError::NotAFile { .. } => io::Error::other("it is not a regular file"),
    })
}

/// Whether it is gzip's. A log is text: what other packers write is an error.
fn is_packed(file: &File) -> io::Result<bool> {
    let mut magic = [0; 6];
    let count = file.read_at(&mut magic, 0)?;
    match magic.get(..count).unwrap_or_default() {
        [0x1f, 0x8b, ..] => Ok(true),
        // xz, Zstandard, bzip2, lz4
        [0xfd, b'7', b'z', b'X', b'Z', 0]
        | [0x28, 0xb5, 0x2f, 0xfd, ..]
        | [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A']
        | [0x04, 0x22, 0x4d, 0x18, ..] => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "it is compressed with something other than gzip",
        )),
        _ => Ok(false),
    }
}
