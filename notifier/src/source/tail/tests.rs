//! Each way a log is rotated, read, or cannot be read, on its own.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::source::{CloseReason, Closed, Gap, LineHandler, Opened, RawLine};

/// A line as it was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// Writes down everything that it is told.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) lines: Vec<Line>,
    /// Generation, start and head.
    pub(super) opened: Vec<(u32, u64, Option<Vec<u8>>)>,
    pub(super) closed: Vec<Closed>,
    pub(super) rotated: Vec<Rotation>,
    pub(super) notices: Vec<&'static str>,
    /// Generation and text of each line, to be taken.
    pub(super) fresh: Vec<(u32, String)>,
}

impl LineHandler for Heard {
    fn opened(&mut self, opened: Opened<'_>) {
        assert!(opened.modified.is_some());
        self.opened.push((
            opened.generation,
            opened.start,
            opened.head.map(<[u8]>::to_vec),
        ));
    }

    fn line(&mut self, generation: u32, line: RawLine<'_>) {
        assert!(self.opened.iter().any(|opened| opened.0 == generation));
        assert!(
            !self
                .closed
                .iter()
                .any(|closed| closed.generation == generation)
        );
        self.fresh
            .push((generation, String::from_utf8_lossy(line.bytes).into_owned()));
        self.lines.push(Line {
            offset: line.offset,
            bytes: line.bytes.to_vec(),
        });
    }

    fn closed(&mut self, closed: Closed) {
        self.closed.push(closed);
    }

    fn rotated(&mut self, kind: Rotation) {
        self.rotated.push(kind);
    }

    fn notice(&mut self, notice: Notice<'_>) {
        self.notices.push(match notice {
            Notice::Missing => "missing",
            Notice::Unreadable(_) => "unreadable",
            Notice::ReadFailed { .. } => "read failed",
            Notice::Gap(gap) => match gap {
                Gap::FileGone { .. } => "file gone",
                Gap::Unreadable { .. } => "gap: unreadable",
                Gap::TooMany { .. } => "gap: too many",
            },
            Notice::NotRotated(_) => "not rotated",
        });
    }
}

/// A directory with a log, the tail that follows it, and a simulated clock.
pub(super) struct Bench {
    directory: TempDir,
    pub(super) tail: Option<Tail>,
    pub(super) heard: Heard,
    pub(super) now: Instant,
    /// Files are changed a second after each other, however fast a test is.
    changes: Cell<u64>,
}

impl Bench {
    #[expect(
        clippy::disallowed_methods,
        reason = "some instant for simulated time to start from"
    )]
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            directory,
            tail: None,
            heard: Heard::default(),
            now: Instant::now(),
            changes: Cell::new(1_000_000_000),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Appends to a file, which it creates if need be.
    pub(super) fn append(&self, name: &str, text: &str) -> File {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path(name))
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
        self.touch(&file);
        file
    }

    pub(super) fn touch(&self, file: &File) {
        self.changes.set(self.changes.get() + 1);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.changes.get());
        file.set_modified(time).unwrap();
    }

    pub(super) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub(super) fn options(&self) -> TailOptions {
        TailOptions {
            max_line: 100,
            ..TailOptions::new(self.path("log"))
        }
    }

    pub(super) fn open(&mut self, start: Start) {
        let options = TailOptions {
            start,
            ..self.options()
        };
        self.tail = Some(Tail::open(options).unwrap());
    }

    pub(super) fn poll(&mut self) -> Progress {
        self.tail.as_mut().unwrap().poll(self.now, &mut self.heard)
    }

    /// Polls to the end and gives the lines that came, as `generation text`.
    pub(super) fn lines(&mut self) -> Vec<String> {
        while !self.poll().at_end {}
        let fresh = self.heard.fresh.drain(..);
        fresh
            .map(|(generation, text)| format!("{generation} {text}"))
            .collect()
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    pub(super) fn last_closed(&self) -> Closed {
        *self.heard.closed.last().unwrap()
    }
}

#[test]
fn an_existing_file_is_read_from_its_beginning() {
    let mut bench = Bench::new();
    bench.append("log", "one\ntw");
    bench.open(Start::Beginning);
    let progress = bench.poll();
    assert_eq!((progress.read, progress.lag, progress.at_end), (6, 0, true));
    assert_eq!(bench.lines(), ["0 one"]);
    bench.append("log", "o\n");
    assert_eq!(bench.lines(), ["0 two"]);
    assert_eq!(bench.heard.opened, [(0, 0, None)]);
}

#[test]
fn an_existing_file_is_joined_at_its_end() {
    let mut bench = Bench::new();
    bench.append("log", "head\nold\n");
    bench.open(Start::End);
    assert!(bench.lines().is_empty());
    assert_eq!(bench.heard.opened, [(0, 9, Some(b"head".to_vec()))]);
    bench.append("log", "new\n");
    assert_eq!(bench.lines(), ["0 new"]);
    assert_eq!(bench.heard.lines[0].offset, 9);
}

#[test]
fn the_rest_of_a_line_joined_in_its_middle_is_not_a_line() {
    let mut bench = Bench::new();
    bench.append("log", "head\nhal");
    bench.open(Start::End);
    assert!(bench.lines().is_empty() && bench.heard.opened.is_empty());
    bench.append("log", "f\nwhole\n");
    assert_eq!(bench.lines(), ["0 whole"]);
    assert_eq!(bench.heard.opened, [(0, 10, Some(b"head".to_vec()))]);
}

#[test]
fn the_head_is_known_even_when_joined_within_the_first_line() {
    let mut bench = Bench::new();
    bench.append("log", "hal");
    bench.open(Start::End);
    assert!(bench.lines().is_empty());
    bench.append("log", "f\nwhole\n");
    assert_eq!(bench.lines(), ["0 whole"]);
    assert_eq!(bench.heard.opened, [(0, 5, Some(b"half".to_vec()))]);
}

#[test]
fn an_over_long_head_is_bounded_like_any_line() {
    let mut bench = Bench::new();
    bench.append("log", &format!("{}\nx\n", "h".repeat(300)));
    bench.open(Start::End);
    bench.lines();
    assert_eq!(bench.heard.opened, [(0, 303, Some(vec![b'h'; 100]))]);
}

#[test]
fn a_file_that_appears_later_is_read_from_byte_0_and_waiting_is_told_once() {
    let mut bench = Bench::new();
    bench.open(Start::End);
    for _ in 0..3 {
        let progress = bench.poll();
        assert!(progress.waiting_for_file && !progress.unreadable);
    }
    bench.append("log", "one\n");
    assert_eq!(bench.lines(), ["0 one"]);
    assert!(!bench.poll().waiting_for_file);
    assert_eq!(bench.heard.notices, ["missing"]);
    assert!(bench.heard.rotated.is_empty());
}

#[test]
fn after_a_rename_the_old_file_is_read_first_and_then_both() {
    let mut bench = Bench::new();
    bench.append("log", "a\n");
    bench.open(Start::Beginning);
    assert_eq!(bench.lines(), ["0 a"]);
    let mut old = bench.append("log", "b\n");
    bench.rename("log", "log.1");
    bench.append("log", "d\n");
    old.write_all(b"c\n").unwrap();
    assert_eq!(bench.lines(), ["0 b", "0 c", "1 d"]);
    bench.wait(4);
    bench.append("log", "f\n");
    old.write_all(b"e\nunfin").unwrap();
    assert_eq!(bench.lines(), ["0 e", "1 f"]);
    bench.wait(4);
    assert!(bench.lines().is_empty());
    assert!(bench.poll().settling);
    bench.wait(1);
    // All that there will ever be of the line.
    assert_eq!(bench.lines(), ["0 unfin"]);
    let closed = Closed {
        generation: 0,
        reason: CloseReason::Silent,
        position: 13,
        unterminated: true,
        lost: 0,
    };
    assert_eq!(bench.heard.closed, [closed]);
    assert_eq!(bench.heard.rotated, [Rotation::Rename]);
    assert!(!bench.poll().settling);
}

#[test]
fn a_renamed_file_is_followed_until_another_has_its_name() {
    let mut bench = Bench::new();
    let mut file = bench.append("log", "a\n");
    bench.open(Start::Beginning);
    bench.lines();
    bench.rename("log", "log.1");
    file.write_all(b"b\n").unwrap();
    bench.wait(60);
    assert_eq!(bench.lines(), ["0 b"]);
    assert_eq!(bench.heard.notices, ["missing"]);
    file.write_all(b"c\n").unwrap();
    bench.append("log", "d\n");
    assert_eq!(bench.lines(), ["0 c", "1 d"]);
}

#[test]
fn a_file_that_is_back_under_its_name_goes_on_where_it_was() {
    let mut bench = Bench::new();
    bench.append("log", "a\n");
    bench.open(Start::Beginning);
    bench.lines();
    bench.rename("log", "log.1");
    bench.append("log", "b\n");
    assert_eq!(bench.lines(), ["1 b"]);
    bench.rename("log.1", "log");
    bench.append("log", "c\n");
    assert_eq!(bench.lines(), ["0 c"]);
    assert_eq!(bench.heard.opened.len(), 2);
}

#[test]
fn many_rotations_at_once_close_the_oldest_after_reading_it() {
    let mut bench = Bench::new();
    let mut first = bench.append("log", "");
    bench.open(Start::Beginning);
    for number in 0..=MAX_OLD_FILES {
        bench.append("log", "x\n");
        bench.lines();
        if number == MAX_OLD_FILES {
            first.write_all(b"late\nunfin").unwrap();
        }
        bench.rename("log", &format!("log.{number}"));
        bench.append("log", "");
        let lines = bench.lines();
        assert_eq!(
            lines.len(),
            if number == MAX_OLD_FILES { 2 } else { 0 },
            "{lines:?}"
        );
    }
    assert_eq!(bench.heard.closed.len(), 1);
    let closed = bench.last_closed();
    assert_eq!(
        (closed.generation, closed.reason),
        (0, CloseReason::Displaced)
    );
    assert_eq!((closed.unterminated, closed.lost), (true, 0));
}

#[test]
fn files_that_came_and_went_between_two_steps_are_read_in_order() {
    let mut bench = Bench::new();
    bench.append("log.before", "not ours\n");
    bench.append("log", "a\n");
    bench.open(Start::Beginning);
    assert_eq!(bench.lines(), ["0 a"]);
    bench.append("log", "b\n");
    bench.rename("log", "log.3");
    for (name, text) in [("log.2", "c\n"), ("log.1", "d\n")] {
        bench.append("log", text);
        bench.rename("log", name);
    }
    bench.append("log", "e\n");
    let texts: Vec<String> = bench.lines();
    assert_eq!(texts, ["0 b", "2 c", "3 d", "1 e"]);
    assert_eq!(bench.heard.rotated, [Rotation::Rename; 3]);
    assert!(bench.heard.notices.is_empty());
    // Each only once.
    bench.wait(5);
    bench.lines();
    bench.rename("log.1", "log.4");
    bench.rename("log", "log.1");
    bench.append("log", "f\n");
    assert_eq!(bench.lines(), ["4 f"]);
}

#[test]
fn a_copy_of_what_is_open_is_no_file_that_was_missed() {
    let mut bench = Bench::new();
    bench.append("log", "a\n");
    bench.open(Start::Beginning);
    bench.lines();
    bench.append("log", "b\n");
    fs::copy(bench.path("log"), bench.path("log.copy")).unwrap();
    bench.rename("log", "log.1");
    // Nothing but the beginning of a line is there, twice.
    bench.append("log", "unfin");
    assert_eq!(bench.lines(), ["0 b"]);
    fs::copy(bench.path("log"), bench.path("log.copy2")).unwrap();
    bench.rename("log", "log.0");
    bench.append("log", "c\n");
    assert_eq!(bench.lines(), ["2 c"]);
    bench.wait(5);
    assert_eq!(bench.lines(), ["1 unfin"]);
}

#[test]
fn what_was_missed_and_cannot_be_read_is_a_gap() {
    let mut bench = Bench::new();
    bench.append("log", "a\n");
    bench.open(Start::Beginning);
    bench.lines();
    bench.rename("log", "log.2");
    bench.append("log.1", "");
    fs::write(bench.path("log.1"), b"\xfd7zXZ\0\0\x04").unwrap();
    bench.append("log", "b\n");
    assert_eq!(bench.lines(), ["1 b"]);
    assert_eq!(bench.heard.notices, ["gap: unreadable"]);
}

#[test]
fn a_truncated_file_starts_over_and_its_partial_line_is_counted() {
    let mut bench = Bench::new();
    let file = bench.append("log", "one\ntwo\nunfin");
    bench.open(Start::Beginning);
    assert_eq!(bench.lines(), ["0 one", "0 two"]);
    file.set_len(0).unwrap();
    bench.append("log", "three\n");
    assert_eq!(bench.lines(), ["1 three"]);
    assert_eq!(bench.heard.lines[2].offset, 0);
    assert_eq!(bench.heard.rotated, [Rotation::Truncate]);
    let closed = bench.last_closed();
    assert_eq!(
        (closed.reason, closed.position, closed.lost),
        (CloseReason::StartedOver, 8, 5)
    );
}

#[test]
fn a_truncated_file_that_has_grown_again_is_known_by_its_head() {
    let mut bench = Bench::new();
    let file = bench.append("log", "2026-11-20 21:19:36: one\n");
    bench.open(Start::Beginning);
    bench.lines();
    file.set_len(0).unwrap();
    bench.append("log", "2026-11-20 21:19:39: two\n");
    assert_eq!(bench.lines(), ["1 2026-11-20 21:19:39: two"]);
    file.set_len(0).unwrap();
    bench.append(
        "log",
        "2026-11-20 21:19:41: three\n2026-11-20 21:19:42: four\n",
    );
    assert_eq!(bench.lines().len(), 2);
    assert_eq!(bench.heard.rotated, [Rotation::Truncate; 2]);
}

#[test]
fn a_file_joined_at_its_end_and_truncated_is_read_from_byte_0() {
    let mut bench = Bench::new();
    let file = bench.append("log", "one\ntwo\n");
    bench.open(Start::End);
    bench.lines();
    file.set_len(0).unwrap();
    bench.append("log", "tre\nfour\nfive\n");
    assert_eq!(bench.lines(), ["1 tre", "1 four", "1 five"]);
}

#[test]
fn a_symlink_is_followed_to_its_new_target() {
    let mut bench = Bench::new();
    bench.append("0.log", "a\n");
    symlink("0.log", bench.path("log")).unwrap();
    bench.open(Start::Beginning);
    assert_eq!(bench.lines(), ["0 a"]);
    bench.append("1.log", "c\n");
    bench.append("0.log", "b\n");
    symlink("1.log", bench.path("link")).unwrap();
    bench.rename("link", "log");
    assert_eq!(bench.lines(), ["0 b", "1 c"]);
    fs::remove_file(bench.path("1.log")).unwrap();
    assert!(bench.poll().waiting_for_file);
}

#[test]
fn one_step_is_bounded_and_lag_tells_what_is_left() {
    let mut bench = Bench::new();
    let size = 3 * STEP_BYTES;
    let line = format!("{}\n", "x".repeat(63));
    bench.append("log", &line.repeat(usize::try_from(size / 64).unwrap()));
    bench.open(Start::Beginning);
    let progress = bench.poll();
    assert_eq!(
        (progress.read, progress.lag, progress.at_end),
        (STEP_BYTES, size - STEP_BYTES, false)
    );
    // The new file waits until the old one is read.
    bench.rename("log", "log.1");
    bench.append("log", "new\n");
    bench.poll();
    assert!(
        bench
            .heard
            .fresh
            .iter()
            .all(|(generation, _)| *generation == 0)
    );
    let lines = bench.lines();
    assert_eq!(lines.len() as u64, size / 64 + 1);
    assert_eq!(lines.last().unwrap(), "1 new");
    let progress = bench.poll();
    assert_eq!((progress.read, progress.lag, progress.at_end), (0, 0, true));
}

#[test]
fn what_cannot_be_read_is_an_error_at_the_start() {
    let mut bench = Bench::new();
    fs::create_dir(bench.path("log")).unwrap();
    let error = Tail::open(TailOptions::new(bench.path("log")))
        .err()
        .unwrap();
    assert!(matches!(error, TailError::NotAFile { .. }));
    assert!(error.to_string().contains("is not a regular file"));
    // A path through a file stands for every reason but a missing file: root,
    // as whom tests may run, is refused nothing.
    bench.append("file", "");
    let error = Tail::open(TailOptions::new(bench.path("file/log")))
        .err()
        .unwrap();
    assert!(matches!(error, TailError::Unreadable { .. }));
    bench.now += Duration::from_secs(1);
}

#[test]
fn what_cannot_be_read_later_is_told_once_and_tried_again() {
    let mut bench = Bench::new();
    let mut file = bench.append("log", "a\n");
    bench.open(Start::Beginning);
    bench.lines();
    bench.rename("log", "log.1");
    fs::create_dir(bench.path("log")).unwrap();
    file.write_all(b"b\n").unwrap();
    assert_eq!(bench.lines(), ["0 b"]);
    assert!(bench.poll().waiting_for_file && bench.poll().unreadable);
    fs::remove_dir(bench.path("log")).unwrap();
    bench.append("log", "c\n");
    assert_eq!(bench.lines(), ["1 c"]);
    assert_eq!(bench.heard.notices, ["unreadable"]);
}

#[test]
fn a_file_without_permission_is_an_error_unless_we_may_read_anything() {
    let bench = Bench::new();
    bench.append("log", "a\n");
    fs::set_permissions(bench.path("log"), Permissions::from_mode(0o000)).unwrap();
    let may_read = File::open(bench.path("log")).is_ok();
    let opened = Tail::open(TailOptions::new(bench.path("log")));
    assert_eq!(opened.is_ok(), may_read);
}

#[test]
fn marks_tell_where_to_go_on() {
    let mut bench = Bench::new();
    bench.append("log", "one\ntw");
    bench.open(Start::Beginning);
    assert!(bench.tail.as_ref().unwrap().marks().is_empty());
    bench.lines();
    let metadata = fs::metadata(bench.path("log")).unwrap();
    let mark = Mark {
        file: FileId::of(&metadata),
        offset: 4,
        head: Print::of(b"one\n"),
        trail: Print::of(b"one\n"),
        seen_until: Some(metadata.modified().unwrap().try_into().unwrap()),
    };
    assert_eq!(bench.tail.as_ref().unwrap().marks(), [mark]);
}

#[test]
fn truncation_while_reading_never_makes_up_a_line() {
    let mut bench = Bench::new();
    bench.append("log", "");
    bench.open(Start::Beginning);
    let mut file = bench.append("log", "");
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for number in 1..=20_000 {
                // Of many lengths, so that positions rarely fall on line ends.
                let text = format!("{number:08} {}\n", "x".repeat(number % 61));
                file.write_all(text.as_bytes()).unwrap();
                if number % 50 == 0 && number < 20_000 {
                    file.set_len(0).unwrap();
                }
            }
        });
        while !writer.is_finished() {
            bench.poll();
        }
    });
    bench.lines();
    let numbers: Vec<usize> = bench
        .heard
        .lines
        .iter()
        .map(|line| {
            let text = String::from_utf8_lossy(&line.bytes);
            let (number, rest) = text.split_once(' ').unwrap();
            let number = number.parse().unwrap();
            assert_eq!(rest, "x".repeat(number % 61));
            number
        })
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b));
    assert_eq!(numbers.last(), Some(&20_000));
}
