//! The tail, killed at any moment: it goes on from what was stored last, which may
//! be older than what it read, and reads what follows once more, in order.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::mem;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use super::tests::Heard;
use super::{Mark, Start, Tail, TailOptions};

#[derive(Clone, Debug)]
enum Op {
    /// The server writes so many lines.
    Append(u8),
    /// It writes a line in two pieces; other things happen in between.
    AppendPartial,
    /// Half of a rotation: the log is renamed, or the server opens its name anew.
    Rotate,
    /// The other half, if one was done.
    Open,
    /// The log is copied away and emptied, if no tail runs.
    CopyTruncate,
    /// The tail takes a step; so many milliseconds have gone by.
    Poll(u16),
    /// Where it stands is stored.
    Store,
    /// The kernel's clock goes on.
    Tick,
    /// It is killed. The next step is another one's.
    Kill,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (1_u8..4).prop_map(Op::Append),
        2 => Just(Op::AppendPartial),
        6 => Just(Op::Rotate),
        2 => Just(Op::CopyTruncate),
        6 => (0_u16..3000).prop_map(Op::Poll),
        3 => Just(Op::Store),
        6 => Just(Op::Tick),
        4 => Just(Op::Kill),
    ];
    prop::collection::vec(op, 0..200)
}

/// The server and whoever rotates its log.
struct Server {
    directory: TempDir,
    handle: File,
    /// The log has another name, and its new file is not there yet.
    renamed: bool,
    rotations: u32,
    lines: Vec<String>,
    /// The rest of a line that was begun.
    rest: Option<String>,
    /// The kernel's clock, in seconds. Several files may be changed at one time.
    changes: u64,
}

impl Server {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let handle = open(directory.path().join("log"));
        let server = Self {
            directory,
            handle,
            renamed: false,
            rotations: 0,
            lines: Vec::new(),
            rest: None,
            changes: 1_000_000_000,
        };
        server.touch(&server.handle);
        server
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn touch(&self, file: &File) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.changes);
        file.set_modified(time).unwrap();
    }

    fn write(&mut self, text: &str) {
        self.handle.write_all(text.as_bytes()).unwrap();
        self.touch(&self.handle);
    }

    fn begin_line(&mut self) {
        let text = format!("{:06} line", self.lines.len());
        let (begin, rest) = text.split_at(3 + self.lines.len() % 5);
        self.write(begin);
        self.rest = Some(format!("{rest}\n"));
        self.lines.push(text);
    }

    fn end_line(&mut self) {
        if let Some(rest) = self.rest.take() {
            self.write(&rest);
        }
    }

    fn next_name(&mut self) -> PathBuf {
        self.rotations += 1;
        self.directory
            .path()
            .join(format!("log-20261120-{:04}", self.rotations))
    }

    fn apply(&mut self, op: &Op, nobody_reads: bool) {
        match op {
            Op::Append(count) => {
                self.end_line();
                for _ in 0..*count {
                    self.begin_line();
                    self.end_line();
                }
            }
            Op::AppendPartial => {
                self.end_line();
                self.begin_line();
            }
            Op::Open if !self.renamed => {}
            Op::Rotate | Op::Open => {
                self.end_line();
                if self.renamed {
                    // A file does not come and go within a tick.
                    self.changes += 1;
                    self.handle = open(self.path());
                    self.touch(&self.handle);
                } else {
                    let name = self.next_name();
                    fs::rename(self.path(), name).unwrap();
                }
                self.renamed = !self.renamed;
            }
            Op::CopyTruncate if nobody_reads && !self.renamed => {
                self.end_line();
                let name = self.next_name();
                fs::copy(self.path(), &name).unwrap();
                self.touch(&OpenOptions::new().write(true).open(name).unwrap());
                self.handle.set_len(0).unwrap();
                self.touch(&self.handle);
            }
            Op::Tick => self.changes += 1,
            Op::CopyTruncate | Op::Poll(_) | Op::Store | Op::Kill => {}
        }
    }
}

fn open(path: PathBuf) -> File {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    #[expect(clippy::disallowed_methods, reason = "some instant for simulated time to start from")]
    fn what_follows_the_stored_place_is_read_in_order(ops in ops()) {
        let mut server = Server::new();
        let (mut now, mut tail, mut heard) = (Instant::now(), None::<Tail>, Heard::default());
        // Where it stood, and how many lines had been read.
        let mut stored: Option<(Vec<Mark>, usize)> = None;
        // The log is there when it is followed first.
        let begin = [Op::Poll(0), Op::Store];
        let end = [Op::Append(0), Op::Open, Op::Poll(0)];
        for op in begin.iter().chain(&ops).chain(&end) {
            server.apply(op, tail.is_none());
            match op {
                Op::Poll(millis) => {
                    now += Duration::from_millis(u64::from(*millis));
                    let tail = tail.get_or_insert_with(|| {
                        let (start, read) = match &stored {
                            Some((marks, read)) => (Start::At(marks.clone()), *read),
                            None => (Start::Beginning, 0),
                        };
                        heard.lines.truncate(read);
                        // Another run counts its generations anew.
                        heard = Heard { lines: mem::take(&mut heard.lines), ..Heard::default() };
                        let options = TailOptions { start, ..TailOptions::new(server.path()) };
                        Tail::open(options).unwrap()
                    });
                    while !tail.poll(now, &mut heard).at_end {}
                    server.changes += 1;
                    let read: Vec<_> =
                        heard.lines.iter().map(|line| String::from_utf8_lossy(&line.bytes)).collect();
                    let whole = server.lines.len() - usize::from(server.rest.is_some());
                    // Without a log, files that came and went unseen wait for the next one.
                    let whole = if server.renamed { read.len() } else { whole };
                    prop_assert_eq!(&read, &server.lines[..whole]);
                }
                Op::Store => {
                    if let Some(tail) = &tail {
                        stored = Some((tail.marks(), heard.lines.len()));
                    }
                }
                Op::Kill => tail = None,
                _ => {}
            }
        }
    }
}
