//! The tail against a model: random writes, rotations and steps; which lines
//! arrive, in which order and at which offsets, is exactly known.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;

use super::tests::{Heard, Line};
use super::{MAX_OLD_FILES, Tail, TailOptions};

const SILENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
enum Op {
    /// The server writes so many lines to the log, creating it if need be.
    Append(u8),
    /// It writes a line without its LF.
    AppendPartial,
    /// It writes to the file that was rotated away last, which it still holds.
    AppendOld,
    Rename,
    Delete,
    /// Renamed, and created at once.
    Rotate,
    CopyTruncate,
    /// Time passes and the tail takes a step.
    Poll(u16),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (1_u8..4).prop_map(Op::Append),
        2 => Just(Op::AppendPartial),
        2 => Just(Op::AppendOld),
        1 => Just(Op::Rename),
        1 => Just(Op::Delete),
        2 => Just(Op::Rotate),
        2 => Just(Op::CopyTruncate),
        8 => (0_u16..4000).prop_map(Op::Poll),
    ];
    prop::collection::vec(op, 0..60)
}

/// One file as the model knows it.
struct ModelFile {
    handle: File,
    content: Vec<u8>,
    /// Bytes that the tail has seen, of what is there since the last truncation.
    seen: usize,
    /// Offset after the last complete line that it handed over.
    position: usize,
    /// It was truncated after bytes of it were seen, and no step came since.
    starts_over: bool,
    last_data: Instant,
}

struct Model {
    directory: TempDir,
    files: Vec<ModelFile>,
    /// The file under the path.
    named: Option<usize>,
    /// The file that the tail follows.
    current: Option<usize>,
    /// The rotated files that it still reads, oldest first.
    old: Vec<usize>,
    lines: Vec<Line>,
    lost: u64,
    written: u32,
    renames: u32,
    now: Instant,
}

impl Model {
    #[expect(
        clippy::disallowed_methods,
        reason = "some instant for simulated time to start from"
    )]
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            files: Vec::new(),
            named: None,
            current: None,
            old: Vec::new(),
            lines: Vec::new(),
            lost: 0,
            written: 0,
            renames: 0,
            now: Instant::now(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn create(&mut self) -> usize {
        if let Some(named) = self.named {
            return named;
        }
        let handle = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(self.path())
            .unwrap();
        let (content, last_data) = (Vec::new(), self.now);
        self.files.push(ModelFile {
            handle,
            content,
            seen: 0,
            position: 0,
            starts_over: false,
            last_data,
        });
        self.named = Some(self.files.len() - 1);
        self.files.len() - 1
    }

    fn write(&mut self, file: usize, terminator: &str) {
        self.written += 1;
        // No two lines are alike, nor their first bytes.
        let text = format!(
            "{:06} {}{terminator}",
            self.written,
            "x".repeat(self.written as usize % 7)
        );
        let file = &mut self.files[file];
        file.handle.write_all(text.as_bytes()).unwrap();
        file.content.extend_from_slice(text.as_bytes());
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(count) => {
                let file = self.create();
                (0..*count).for_each(|_| self.write(file, "\n"));
            }
            Op::AppendPartial => {
                let file = self.create();
                self.write(file, "");
            }
            Op::AppendOld => {
                if let Some(&old) = self.old.last() {
                    self.write(old, "\n");
                }
            }
            Op::Rename | Op::Delete | Op::Rotate => {
                if self.named.take().is_some() {
                    self.renames += 1;
                    let aside = self.directory.path().join(format!("log.{}", self.renames));
                    match op {
                        Op::Delete => fs::remove_file(self.path()).unwrap(),
                        _ => fs::rename(self.path(), aside).unwrap(),
                    }
                }
                if matches!(op, Op::Rotate) {
                    self.create();
                }
            }
            Op::CopyTruncate => {
                if let Some(named) = self.named {
                    let file = &mut self.files[named];
                    file.handle.set_len(0).unwrap();
                    file.content.clear();
                    file.starts_over |= file.seen > 0;
                }
            }
            Op::Poll(millis) => {
                self.now += Duration::from_millis(u64::from(*millis));
                self.step();
            }
        }
    }

    /// What one step of the tail must find.
    fn step(&mut self) {
        if self.named.is_some() && self.named != self.current {
            if let Some(current) = self.current.take() {
                self.files[current].last_data = self.now;
                self.old.push(current);
                if self.old.len() > MAX_OLD_FILES {
                    let oldest = self.old.remove(0);
                    self.read(oldest);
                    self.finish(oldest);
                }
            }
            self.current = self.named;
        }
        for old in std::mem::take(&mut self.old) {
            self.read(old);
            if self.now - self.files[old].last_data >= SILENCE {
                self.finish(old);
            } else {
                self.old.push(old);
            }
        }
        if let Some(current) = self.current {
            self.read(current);
        }
    }

    fn read(&mut self, index: usize) {
        let now = self.now;
        let file = &mut self.files[index];
        if std::mem::take(&mut file.starts_over) {
            // What was not seen is gone with the truncation; a partial line that
            // was seen is counted.
            self.lost += (file.seen - file.position) as u64;
            (file.seen, file.position) = (0, 0);
        }
        if file.content.len() > file.seen {
            file.last_data = now;
        }
        file.seen = file.content.len();
        while let Some(length) = file.content[file.position..]
            .iter()
            .position(|b| *b == b'\n')
        {
            let bytes = file.content[file.position..][..length].to_vec();
            self.lines.push(Line {
                offset: file.position as u64,
                bytes,
            });
            file.position += length + 1;
        }
    }

    fn finish(&mut self, index: usize) {
        let file = &self.files[index];
        let rest = file.content[file.position..].to_vec();
        if !rest.is_empty() {
            self.lines.push(Line {
                offset: file.position as u64,
                bytes: rest,
            });
        }
    }
}

fn tail(path: &Path) -> Tail {
    Tail::open(TailOptions::new(path)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn exactly_the_lines_that_the_file_system_still_has_arrive(ops in ops()) {
        let mut model = Model::new();
        let mut tail = tail(&model.path());
        let mut heard = Heard::default();
        // A last look finds what is there, and one later closes what is silent.
        for op in ops.iter().chain([&Op::Poll(0), &Op::Poll(6000)]) {
            model.apply(op);
            if matches!(op, Op::Poll(_)) {
                // A file that starts over is read in the step after.
                while !tail.poll(model.now, &mut heard).at_end {}
                prop_assert_eq!(&heard.lines, &model.lines);
                prop_assert_eq!(heard.closed.iter().map(|c| c.lost).sum::<u64>(), model.lost);
                let open = tail.old.len() + usize::from(tail.current.is_some());
                prop_assert_eq!(open, model.old.len() + usize::from(model.current.is_some()));
            }
        }
    }
}
