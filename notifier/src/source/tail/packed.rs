//! A rotated file that was compressed with gzip: read once, from a place in its
//! content to its end.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read, Seek};
use std::path::PathBuf;
use std::time::SystemTime;

use flate2::bufread::MultiGzDecoder;
use jiff::Timestamp;

use super::generation::{READ_SIZE, Reading, first_line};
use super::mark::{FileId, HEAD_SIZE, Mark};
use crate::source::splitter::{LineSplitter, TRAIL_SIZE};
use crate::source::{CloseReason, Closed, Gap, LineHandler, Notice, Opened};

/// How many bytes are unpacked at once on the way to a place.
const SKIP_SIZE: usize = 32 * 1024;

pub(super) struct Packed {
    pub(super) number: u32,
    id: FileId,
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
    decoder: MultiGzDecoder<BufReader<File>>,
    splitter: LineSplitter,
    /// The content's first bytes, as far as they were read, at most [`HEAD_SIZE`].
    head: Vec<u8>,
    /// Where it begins to be read, and the content's first line if that is not
    /// where; until the handler was told.
    unannounced: Option<(u64, Option<Box<[u8]>>)>,
    finished: bool,
    /// Whether its last line had no LF.
    unterminated: bool,
}

impl Packed {
    /// To be read from the first byte of its content.
    pub(super) fn new(path: PathBuf, (file, metadata): (File, Metadata), max_line: usize) -> Self {
        Self {
            number: 0,
            id: FileId::of(&metadata),
            path,
            size: metadata.len(),
            modified: metadata.modified().ok(),
            decoder: MultiGzDecoder::new(BufReader::new(file)),
            splitter: LineSplitter::new(0, max_line, READ_SIZE),
            head: Vec::new(),
            unannounced: Some((0, None)),
            finished: false,
            unterminated: false,
        }
    }

    /// To be read from the marked place; none if that is not in it.
    pub(super) fn resumed(
        path: PathBuf,
        opened: (File, Metadata),
        mark: &Mark,
        max_line: usize,
    ) -> io::Result<Option<Self>> {
        let mut packed = Self::new(path, opened, max_line);
        // Enough for the head and for the first line, which both begin it.
        let beginning = max_line.saturating_add(1).max(HEAD_SIZE) as u64;
        let mut before = Vec::new();
        let begun = packed
            .decoder
            .by_ref()
            .take(beginning.min(mark.offset))
            .read_to_end(&mut before)?;
        let head = before.get(..usize::from(mark.head.length));
        if !head.is_some_and(|head| mark.head.is_of(head)) {
            return Ok(None);
        }
        packed.head = before.get(..HEAD_SIZE).unwrap_or(&before).to_vec();
        let first_line = first_line(&before, max_line).map(Box::from);

        let mut left = mark.offset - begun as u64;
        let mut chunk = vec![0; SKIP_SIZE];
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(SKIP_SIZE).min(SKIP_SIZE);
            let room = chunk.get_mut(..room).expect("at most its size");
            let count = packed.decoder.read(room)?;
            if count == 0 {
                return Ok(None);
            }
            left -= count as u64;
            before.extend(room.iter().take(count));
            before.drain(..before.len().saturating_sub(TRAIL_SIZE));
        }
        let trail = before.len().checked_sub(usize::from(mark.trail.length));
        let trail = trail.and_then(|from| before.get(from..));
        let Some(trail) = trail.filter(|trail| mark.trail.is_of(trail)) else {
            return Ok(None);
        };
        packed.splitter = LineSplitter::resumed(mark.offset, trail, max_line, READ_SIZE);
        packed.unannounced = Some((mark.offset, first_line));
        Ok(Some(packed))
    }

    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    pub(super) fn mark(&self, seen_until: Option<Timestamp>) -> Option<Mark> {
        let offset = self.splitter.position();
        // Not begun: it is found again as it was found now.
        if self.unannounced.is_some() && offset == 0 {
            return None;
        }
        let trail = self.splitter.trail();
        Some(Mark::new(self.id, offset, &self.head, trail, seen_until))
    }

    /// Compressed bytes that were not taken yet: how large the content is, nobody
    /// knows.
    pub(super) fn lag(&self) -> u64 {
        let buffer = self.decoder.get_ref();
        let mut file: &File = buffer.get_ref();
        // A file's own position is always to be had.
        let taken = file.stream_position().unwrap_or(self.size);
        let left = self.size.saturating_sub(taken);
        left + buffer.buffer().len() as u64
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Reads and hands over lines until the end, or until `read` counts `limit`
    /// bytes or more.
    pub(super) fn read(
        &mut self,
        read: &mut u64,
        limit: u64,
        handler: &mut impl LineHandler,
    ) -> Reading {
        if let Some((start, head)) = self.unannounced.take() {
            handler.opened(Opened {
                generation: self.number,
                start,
                head: head.as_deref(),
                modified: self.modified,
            });
        }
        while !self.finished {
            if *read >= limit {
                return Reading::Behind;
            }
            match self.splitter.read_from(&mut self.decoder) {
                Ok([]) => {
                    self.finished = true;
                    // A last line without LF: that is all of it there will ever be.
                    if let Some(line) = self.splitter.finish() {
                        handler.line(self.number, line);
                        self.unterminated = true;
                    }
                }
                Ok(fresh) => {
                    *read += fresh.len() as u64;
                    let room = HEAD_SIZE.saturating_sub(self.head.len());
                    self.head.extend(fresh.iter().take(room));
                }
                Err(error) => {
                    self.finished = true;
                    handler.notice(Notice::Gap(Gap::Unreadable {
                        path: &self.path,
                        error: &error,
                    }));
                }
            }
            while self.splitter.hand_over(self.number, handler) {}
        }
        Reading::AtEnd
    }

    pub(super) fn close(self, reason: CloseReason, handler: &mut impl LineHandler) {
        if self.unannounced.is_some() {
            return;
        }
        handler.closed(Closed {
            generation: self.number,
            reason,
            position: self.splitter.position(),
            unterminated: self.unterminated,
            lost: self.splitter.pending(),
        });
    }
}
