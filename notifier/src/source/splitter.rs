//! Bytes to lines, without a copy per line.
//!
//! The layout follows ripgrep's line buffer: one buffer holds complete lines
//! that were not asked for yet, then the partial line at the end. What is left of
//! a read is moved to the front before the next one, so a byte is moved at most
//! once, and only the bytes of lines that straddle two reads are, and the *trail*:
//! the last kilobyte handed over, by which a place in a file is known again.

use std::io::{self, Read};

use memchr::memchr;

use super::{LineHandler, RawLine};

/// How many bytes before its position a splitter remembers.
pub(super) const TRAIL_SIZE: usize = 1024;

/// Cuts a stream of bytes into lines at LF (0x0A, nothing else: CR is content).
///
/// Fill it with [`read_from`](Self::read_from) or [`push`](Self::push), then take
/// lines with [`next_line`](Self::next_line) until it gives `None`, or have them
/// handed over with [`hand_over`](Self::hand_over). Drained like that, it holds at
/// most the line bound, one fill and the trail.
///
/// ```
/// # use notifier::source::splitter::LineSplitter;
/// let mut splitter = LineSplitter::new(0, 1024, 4096);
/// splitter.push(b"one\ntw");
/// assert_eq!(splitter.next_line().unwrap().bytes, b"one");
/// assert!(splitter.next_line().is_none());
/// splitter.push(b"o\n");
/// let line = splitter.next_line().unwrap();
/// assert_eq!((line.offset, line.bytes), (4, &b"two"[..]));
/// ```
#[derive(Debug)]
pub struct LineSplitter {
    /// Holds the trail in `trail..start` and data in `start..end`; what is after
    /// `end` is spare room.
    buffer: Vec<u8>,
    trail: usize,
    start: usize,
    end: usize,
    /// So many bytes from `start` on are known to hold no LF.
    searched: usize,
    /// Bytes taken out of the partial line after its first `max_line` ones.
    elided: u64,
    /// Offset in the stream of the byte at `start`.
    offset: u64,
    max_line: usize,
    read_size: usize,
}

impl LineSplitter {
    /// A splitter whose first byte stands at `offset` in its stream, that hands
    /// over at most `max_line` bytes of a line (at least 1) and asks a reader for
    /// `read_size` bytes at a time (at least 1).
    #[must_use]
    pub fn new(offset: u64, max_line: usize, read_size: usize) -> Self {
        Self {
            buffer: Vec::new(),
            trail: 0,
            start: 0,
            end: 0,
            searched: 0,
            elided: 0,
            offset,
            max_line: max_line.max(1),
            read_size: read_size.max(1),
        }
    }

    /// A splitter that goes on at `offset`, after these bytes of its stream.
    pub(super) fn resumed(offset: u64, trail: &[u8], max_line: usize, read_size: usize) -> Self {
        Self {
            start: trail.len(),
            end: trail.len(),
            buffer: trail.to_vec(),
            ..Self::new(offset, max_line, read_size)
        }
    }

    /// Reads once, and returns what was read: nothing at the reader's end.
    ///
    /// # Errors
    /// Those of the reader, except an interruption, after which it is asked again.
    pub fn read_from(&mut self, reader: &mut impl Read) -> io::Result<&[u8]> {
        let room = self.room(self.read_size);
        let count = loop {
            match reader.read(room) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        let fresh = self.end;
        self.end += count;
        Ok(self.held(fresh, self.end))
    }

    /// Takes over a chunk that was read elsewhere.
    pub fn push(&mut self, chunk: &[u8]) {
        self.room(chunk.len()).copy_from_slice(chunk);
        self.end += chunk.len();
    }

    /// The next complete line.
    pub fn next_line(&mut self) -> Option<RawLine<'_>> {
        let fresh = self.held(self.start + self.searched, self.end);
        let Some(at) = memchr(b'\n', fresh) else {
            self.searched = self.end - self.start;
            return None;
        };
        let length = self.searched + at;
        Some(self.take_line(length, 1))
    }

    /// Hands the next complete line over, and with it what the handler takes along.
    /// False if there is none.
    #[inline]
    pub fn hand_over(&mut self, generation: u32, handler: &mut impl LineHandler) -> bool {
        let Some(line) = self.next_line() else {
            return false;
        };
        handler.line(generation, line);
        let ahead = self.held(self.start, self.end);
        let taken = handler.lines(generation, self.offset, ahead);
        debug_assert!(taken == 0 || ahead.get(taken - 1) == Some(&b'\n'));
        self.start += taken;
        self.offset += taken as u64;
        true
    }

    /// The last line if it has no LF, once the stream has ended and
    /// [`next_line`](Self::next_line) gives `None`. Nothing is held afterwards.
    pub fn finish(&mut self) -> Option<RawLine<'_>> {
        let length = self.end - self.start;
        (length > 0).then(|| self.take_line(length, 0))
    }

    /// Offset in bytes after the last line handed over.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.offset
    }

    /// The stream's bytes directly before [`position`](Self::position), at most
    /// [`TRAIL_SIZE`]; fewer at the stream's beginning and after a line that was
    /// too long to be held.
    pub(super) fn trail(&self) -> &[u8] {
        self.held(self.trail_start(), self.start)
    }

    /// Bytes that were filled in and not handed over, elided ones included.
    #[must_use]
    pub fn pending(&self) -> u64 {
        (self.end - self.start) as u64 + self.elided
    }

    fn take_line(&mut self, length: usize, terminator: usize) -> RawLine<'_> {
        let (first, offset) = (self.start, self.offset);
        let kept = length.min(self.max_line);
        let cut = self.elided > 0 || length > kept;
        self.start += length + terminator;
        self.offset += (length + terminator) as u64 + self.elided;
        self.searched = 0;
        if self.elided > 0 {
            // Bytes are missing before this place.
            self.trail = self.start;
            self.elided = 0;
        }
        RawLine {
            offset,
            bytes: self.held(first, first + kept),
            cut,
        }
    }

    fn held(&self, from: usize, to: usize) -> &[u8] {
        self.buffer
            .get(from..to)
            .expect("offsets stay within the buffer")
    }

    fn trail_start(&self) -> usize {
        self.trail.max(self.start.saturating_sub(TRAIL_SIZE))
    }

    /// Moves what is held to the front and makes room for `size` bytes after it.
    fn room(&mut self, size: usize) -> &mut [u8] {
        let held = self.end - self.start;
        // Only a partial line may lose its end, never lines nobody asked for yet.
        if self.searched == held && held > self.max_line {
            self.elided += (held - self.max_line) as u64;
            self.end = self.start + self.max_line;
            self.searched = self.max_line;
        }
        let moved = self.trail_start();
        if moved > 0 {
            self.buffer.copy_within(moved..self.end, 0);
            self.end -= moved;
            self.start -= moved;
            self.trail = 0;
        }
        if self.buffer.len() < self.end + size {
            self.buffer.resize(self.end + size, 0);
        }
        self.buffer
            .get_mut(self.end..self.end + size)
            .expect("just made large enough")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::{Closed, Notice, Opened, Rotation};

    type Owned = (u64, Vec<u8>, bool);

    fn own(line: RawLine<'_>) -> Owned {
        (line.offset, line.bytes.to_vec(), line.cut)
    }

    fn drain(splitter: &mut LineSplitter, into: &mut Vec<Owned>) {
        while let Some(line) = splitter.next_line() {
            into.push(own(line));
        }
    }

    fn split(chunks: &[&[u8]], max_line: usize) -> Vec<Owned> {
        let mut splitter = LineSplitter::new(0, max_line, 8);
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk);
            drain(&mut splitter, &mut lines);
        }
        lines.extend(splitter.finish().map(own));
        assert_eq!(splitter.pending(), 0);
        assert_eq!(
            splitter.position(),
            chunks.iter().map(|c| c.len() as u64).sum::<u64>()
        );
        lines
    }

    /// What the lines are by definition.
    fn by_definition(bytes: &[u8], max_line: usize) -> Vec<Owned> {
        let mut offset = 0;
        bytes
            .split_inclusive(|&b| b == b'\n')
            .map(|piece| {
                let line = piece.strip_suffix(b"\n").unwrap_or(piece);
                let owned = (
                    offset,
                    line[..line.len().min(max_line)].to_vec(),
                    line.len() > max_line,
                );
                offset += piece.len() as u64;
                owned
            })
            .collect()
    }

    /// Takes along what begins with `+`, as far as it is whole.
    #[derive(Default)]
    struct Greedy {
        lines: Vec<(u64, Vec<u8>)>,
        along: Vec<(u64, Vec<u8>)>,
    }

    impl LineHandler for Greedy {
        fn opened(&mut self, _: Opened<'_>) {}
        fn line(&mut self, _: u32, line: RawLine<'_>) {
            self.lines.push((line.offset, line.bytes.to_vec()));
        }
        fn lines(&mut self, _: u32, offset: u64, ahead: &[u8]) -> usize {
            let mut taken = 0;
            for line in ahead.split_inclusive(|byte| *byte == b'\n') {
                if !line.starts_with(b"+") || !line.ends_with(b"\n") {
                    break;
                }
                self.along.push((offset + taken as u64, line.to_vec()));
                taken += line.len();
            }
            taken
        }
        fn closed(&mut self, _: Closed) {}
        fn rotated(&mut self, _: Rotation) {}
        fn notice(&mut self, _: Notice<'_>) {}
    }

    #[test]
    fn what_is_taken_along_is_handed_over_once() {
        let mut splitter = LineSplitter::new(100, 1024, 8);
        let mut greedy = Greedy::default();
        for chunk in [&b"a\n+b\n+c\nd\n+e"[..], b"e\n+f\n", b"+g"] {
            splitter.push(chunk);
            while splitter.hand_over(0, &mut greedy) {}
        }
        let own = |lines: &[(u64, &[u8])]| -> Vec<_> {
            lines
                .iter()
                .map(|(at, line)| (*at, line.to_vec()))
                .collect()
        };
        assert_eq!(
            greedy.lines,
            own(&[(100, b"a"), (108, b"d"), (110, b"+ee")])
        );
        assert_eq!(
            greedy.along,
            own(&[(102, b"+b\n"), (105, b"+c\n"), (114, b"+f\n")])
        );
        assert_eq!((splitter.position(), splitter.pending()), (117, 2));
        assert_eq!(splitter.trail(), b"a\n+b\n+c\nd\n+ee\n+f\n");
        assert_eq!(splitter.finish().map(own_bytes), Some(b"+g".to_vec()));
    }

    fn own_bytes(line: RawLine<'_>) -> Vec<u8> {
        line.bytes.to_vec()
    }

    #[test]
    fn cr_and_nul_are_content() {
        assert_eq!(
            split(&[b"a\r\n\0\rb\n\n"], 100),
            [
                (0, b"a\r".to_vec(), false),
                (3, b"\0\rb".to_vec(), false),
                (7, vec![], false)
            ]
        );
    }

    #[test]
    fn a_line_of_exactly_the_bound_is_whole() {
        assert_eq!(split(&[b"abcd\n"], 4), [(0, b"abcd".to_vec(), false)]);
        assert_eq!(split(&[b"abcde\n"], 4), [(0, b"abcd".to_vec(), true)]);
        assert_eq!(split(&[b"abcde"], 4), [(0, b"abcd".to_vec(), true)]);
    }

    #[test]
    fn memory_is_bounded_while_an_endless_line_streams_by() {
        let mut splitter = LineSplitter::new(7, 100, 64);
        for _ in 0..10_000 {
            splitter.push(&[b'x'; 64]);
            assert!(splitter.next_line().is_none());
        }
        assert!(
            splitter.buffer.capacity() <= 512,
            "{}",
            splitter.buffer.capacity()
        );
        assert_eq!(splitter.pending(), 640_000);
        splitter.push(b"\nnext\n");
        let long = splitter.next_line().map(own);
        assert_eq!(long, Some((7, vec![b'x'; 100], true)));
        assert_eq!(
            splitter.next_line().map(own),
            Some((640_008, b"next".to_vec(), false))
        );
    }

    #[test]
    fn lines_nobody_asked_for_survive_more_fills() {
        let mut splitter = LineSplitter::new(0, 4, 8);
        for _ in 0..100 {
            splitter.push(b"ab\ncdef\n");
        }
        let mut lines = Vec::new();
        drain(&mut splitter, &mut lines);
        assert_eq!(lines, by_definition(&b"ab\ncdef\n".repeat(100), 4));
    }

    #[test]
    fn reading_returns_what_is_fresh_and_retries_an_interruption() {
        struct Interrupted(bool);
        impl Read for Interrupted {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 = !self.0;
                if self.0 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                buffer[..3].copy_from_slice(b"abc");
                Ok(3)
            }
        }
        let mut splitter = LineSplitter::new(0, 100, 8);
        splitter.push(b"x");
        assert_eq!(splitter.read_from(&mut Interrupted(false)).unwrap(), b"abc");
        assert_eq!(
            splitter.finish().map(own),
            Some((0, b"xabc".to_vec(), false))
        );
        assert!(splitter.read_from(&mut &b""[..]).unwrap().is_empty());
        assert!(splitter.finish().is_none());
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            max_line in 1_usize..30,
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(split(&chunks, max_line), by_definition(&bytes, max_line));

            // And the same through a reader, at the splitter's own read size.
            let (mut splitter, mut reader) = (LineSplitter::new(0, max_line, 8), &bytes[..]);
            let mut lines = Vec::new();
            while !splitter.read_from(&mut reader).unwrap().is_empty() {
                drain(&mut splitter, &mut lines);
            }
            lines.extend(splitter.finish().map(own));
            prop_assert_eq!(lines, by_definition(&bytes, max_line));
        }

        #[test]
        fn the_trail_is_what_stands_before_the_position(
            lines in prop::collection::vec(0_usize..400, 0..30),
            chunk in 1_usize..700,
            max_line in 1_usize..300,
            resumed in 0_usize..2000,
        ) {
            let bytes: Vec<u8> = lines
                .iter()
                .flat_map(|length| (0..*length).map(|i| b"abcdefghijklmnopqrstuvw"[i % 23]).chain([b'\n']))
                .collect();
            let resumed = resumed.min(bytes.len());
            let before = &bytes[resumed.saturating_sub(TRAIL_SIZE)..resumed];
            let mut splitter = LineSplitter::resumed(resumed as u64, before, max_line, 8);
            // A line that was too long may be held whole, or not: it is as the chunks fall.
            let mut held_from = resumed - before.len();
            for chunk in bytes[resumed..].chunks(chunk) {
                splitter.push(chunk);
                while let Some(cut) = splitter.next_line().map(|line| line.cut) {
                    if cut {
                        held_from = usize::try_from(splitter.position()).unwrap();
                    }
                }
                let position = usize::try_from(splitter.position()).unwrap();
                let trail = splitter.trail();
                prop_assert!(bytes[..position].ends_with(trail));
                prop_assert!(trail.len() <= TRAIL_SIZE);
                prop_assert!(trail.len() >= TRAIL_SIZE.min(position - held_from));
            }
        }
    }
}
