//! Going on where an earlier run stopped: which files are still to be read, from
//! where, and in which order.
//!
//! A file of a mark is found by its id and content, else (it was copied or
//! compressed, or the volume has a new number) by its content alone. The log may
//! have been rotated more than once since: the files between the last marked one
//! and the current one are those that were changed after everything had been
//! read, in the order of their last change. A tool that compresses or moves files
//! keeps that time, and a file is renamed when its last line is in it, so this is
//! the order in which they were written. The kernel's clock ticks every few
//! milliseconds: of files with the same time the names say which is older, and one
//! that came and went within the tick of the last change that was seen is missed.

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
use super::{MAX_UNREAD, Tail, TailError, TailOptions, take_number};
use crate::source::{Gap, LineHandler, Notice, Rotation};

impl Tail {
    /// Finds what is to be read since an earlier run stopped. Without any file,
    /// that waits until one is there.
    pub(super) fn resume(
        &mut self,
        marks: Vec<Mark>,
        found: Result<(File, Metadata), TailError>,
        handler: &mut impl LineHandler,
    ) {
        let (current, error) = match found {
            Ok(opened) => (Some(opened), None),
            // Beside it was looked already.
            Err(error) if self.trouble.is_some() || !error.is_missing() => {
                self.resume = Some(marks);
                return self.complain(&error, handler);
            }
            Err(error) => (None, Some(error)),
        };
        if let Some(plan) = plan(&marks, current, &self.options, handler) {
            self.trouble = None;
            self.seen_until = marks.iter().filter_map(|mark| mark.seen_until).max();
            self.resumed_at = self.seen_until;
            let modified = plan.current.as_ref().and_then(Generation::modified);
            self.seen_since(modified);
            for mut old in plan.old {
                old.set_number(take_number(&mut self.next_number));
                self.old.push_back(old);
            }
            self.current = plan.current;
            match &mut self.current {
                Some(current) => current.number = take_number(&mut self.next_number),
                // The last one is the log, as it would be had we seen it renamed.
                None => match self.old.pop_back() {
                    Some(Old::Plain(last)) => self.current = Some(last),
                    Some(packed) => self.old.push_back(packed),
                    None => {}
                },
            }
        } else {
            self.resume = Some(marks);
        }
        if let Some(error) = error {
            self.complain(&error, handler);
        }
    }

    /// Finds the files that had the log's name since it was looked at last and
    /// were rotated away again, before `next` got it.
    pub(super) fn missed(&mut self, next: FileId, handler: &mut impl LineHandler) -> Vec<Old> {
        let (Some(current), Some(seen_until)) =
            (&self.current, self.seen_until.map(SystemTime::from))
        else {
            return Vec::new();
        };
        let found = candidates(&self.options, Some(next), handler);
        // Two changes within a tick of the kernel's clock have the same time.
        let known = self.resumed_at.map(SystemTime::from);
        let is_news = |modified| modified >= seen_until && Some(modified) != known;
        let is_news = |file: &Candidate| file.modified.is_some_and(is_news);
        let (mut candidates, left_out) = news(found, is_news);
        let is_open = |id| current.id() == id || self.old.iter().any(|old| old.is(id));
        candidates.retain(|file| !is_open(file.id));
        if candidates.is_empty() && left_out == 0 {
            return Vec::new();
        }
        // Copies of files that are known, packed perhaps, are no news either.
        let open = self.old.iter().filter_map(|old| match old {
            Old::Plain(generation) => generation.place(),
            Old::Packed(packed) => packed.mark(None),
        });
        let closed = self.closed.iter().chain(&self.finished).copied();
        let known: Vec<Mark> = closed.chain(open).chain(current.place()).collect();
        let mut search = Search::new(&known, self.options.max_line);
        for candidate in &candidates {
            search.look_into(candidate, &known, None, false);
        }
        candidates.retain(|file| !search.copies.contains(&file.id));
        let mut missed = Vec::new();
        open_all(candidates, left_out, &self.options, &mut missed, handler);
        for old in &mut missed {
            old.set_number(take_number(&mut self.next_number));
        }
        missed
    }
}

/// What is to be read; no file has its number yet.
struct Plan {
    /// The files before the current one, oldest first.
    old: Vec<Old>,
    /// The file under the path, if there is one.
    current: Option<Generation>,
}

/// Finds what is to be read, opens it, and tells what is missing. `current` is the
/// file under the path. None where no file is there, be it marked or current:
/// that may change, so it says nothing of what is missing.
fn plan(
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
    let mut search = Search::new(marks, options.max_line);
    // As long as the log was not rotated, other files are no business of ours. One
    // in which nothing was read may have been copied away and truncated.
    let rotated = in_current.is_none_or(|at| {
        at + 1 < marks.len() || marks.get(at).is_some_and(|mark| mark.offset == 0)
    });
    let (mut candidates, mut left_out) = (Vec::new(), 0);
    if rotated || marks.len() > 1 {
        (candidates, left_out) = self::candidates(options, current_id, handler);
    }
    for by_id in [true, false] {
        for candidate in &candidates {
            search.look_into(candidate, marks, in_current, by_id);
        }
    }
    if current.is_none() && search.found.iter().all(Option::is_none) {
        return None;
    }

    let seen_until = marks.iter().filter_map(|mark| mark.seen_until).max();
    let seen_until = seen_until.map(SystemTime::from);
    let was_empty_log = |at: usize| {
        rotated && at + 1 == marks.len() && marks.last().is_some_and(|mark| mark.offset == 0)
    };
    let (mut old, mut in_turn) = (Vec::new(), HashSet::new());
    for (at, (mark, found)) in marks.iter().zip(search.found).enumerate() {
        match found {
            // It was the log and nothing was read in it. It may have been copied away
            // and emptied since, so it takes its turn among the others.
            Some(file) if was_empty_log(at) && file.modified() > seen_until => {
                search.copies.remove(&mark.file);
                in_turn.insert(mark.file);
            }
            Some(file) => old.push(file),
            None if in_current == Some(at) => {}
            None => handler.notice(Notice::Gap(Gap::FileGone {
                offset: mark.offset,
            })),
        }
    }
    // With nothing read before, what is not the log is none of ours.
    if let Some(seen_until) = seen_until.filter(|_| rotated) {
        candidates.retain(|file| !search.copies.contains(&file.id));
        let found = (candidates, left_out);
        let is_news = |file: &Candidate| {
            // Its first bytes may have come after it was listed.
            file.modified > Some(seen_until) || in_turn.contains(&file.id)
        };
        let (candidates, left_out) = news(found, is_news);
        open_all(candidates, left_out, options, &mut old, handler);
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

/// The rotated files beside the log, and how many more there are.
fn candidates(
    options: &TailOptions,
    but: Option<FileId>,
    handler: &mut impl LineHandler,
) -> (Vec<Candidate>, usize) {
    rotated::candidates(&options.path, &options.rotated, but).unwrap_or_else(|(path, error)| {
        handler.notice(Notice::Gap(Gap::Unreadable {
            path: &path,
            error: &error,
        }));
        (Vec::new(), 0)
    })
}

/// Those files, oldest first, that were changed late enough; those left out are
/// older than all of them.
fn news(
    (mut candidates, left_out): (Vec<Candidate>, usize),
    is_news: impl Fn(&Candidate) -> bool,
) -> (Vec<Candidate>, usize) {
    let all = candidates.len();
    candidates.retain(is_news);
    let left_out = if candidates.len() == all { left_out } else { 0 };
    (candidates, left_out)
}

/// Opens rotated files at their beginnings, to be read after those that are in
/// `old`: as many as can be held.
fn open_all(
    candidates: Vec<Candidate>,
    left_out: usize,
    options: &TailOptions,
    old: &mut Vec<Old>,
    handler: &mut impl LineHandler,
) {
    let unread = old.iter().filter(|old| old.lag() > 0).count();
    let too_many = candidates
        .len()
        .saturating_sub(MAX_UNREAD.saturating_sub(unread));
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
    fn new(marks: &[Mark], max_line: usize) -> Self {
        Self {
            max_line,
            found: marks.iter().map(|_| None).collect(),
            copies: HashSet::new(),
        }
    }

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
