//! The tail against a model: random writes, rotations, restarts and steps; which
//! lines arrive, in which order and at which offsets, is exactly known.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::TempDir;

use super::tests::{Heard, Line};
use super::{MAX_OLD_FILES, Mark, Start, Tail, TailOptions};

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
    /// The file that was rotated away last is compressed.
    Gzip,
    /// The tail is killed; the next step is another one's, which resumes.
    Kill,
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
        1 => Just(Op::Gzip),
        4 => Just(Op::Kill),
        8 => (0_u16..4000).prop_map(Op::Poll),
    ];
    prop::collection::vec(op, 0..80)
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
    /// What it is called, if it has a name.
    name: Option<PathBuf>,
    packed: bool,
    /// The tail reads it compressed: at once, to its end.
    read_packed: bool,
    /// The tail read it, and let go of it.
    closed: bool,
    /// Seconds: no two changes are at the same time.
    modified: u64,
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
    /// Where the killed tail was, until the next one has found a file: the files.
    marked: Option<Vec<usize>>,
    running: bool,
    /// When the last change was that the tail knows of.
    seen_until: u64,
    /// What that was at the last restart.
    resumed_at: u64,
    lines: Vec<Line>,
    lost: u64,
    /// How often lines may be missing.
    gaps: usize,
    changes: u64,
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
            marked: None,
            running: true,
            seen_until: 0,
            resumed_at: 0,
            lines: Vec::new(),
            lost: 0,
            gaps: 0,
            changes: 1_000_000_000,
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
            name: Some(self.path()),
            packed: false,
            read_packed: false,
            closed: false,
            modified: 0,
        });
        self.touch(self.files.len() - 1);
        self.named = Some(self.files.len() - 1);
        self.files.len() - 1
    }

    fn touch(&mut self, file: usize) {
        self.changes += 1;
        let file = &mut self.files[file];
        file.modified = self.changes;
        file.handle.set_modified(time(file.modified)).unwrap();
    }

    fn write(&mut self, file: usize, terminator: &str) {
        self.written += 1;
        // No two lines are alike, nor their first bytes.
        let text = format!(
            "{:06} {}{terminator}",
            self.written,
            "x".repeat(self.written as usize % 7)
        );
        let written = &mut self.files[file];
        written.handle.write_all(text.as_bytes()).unwrap();
        written.content.extend_from_slice(text.as_bytes());
        self.touch(file);
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
                if let Some(&old) = self.old.last()
                    && !self.files[old].packed
                {
                    self.write(old, "\n");
                }
            }
            Op::Rename | Op::Delete | Op::Rotate => {
                if let Some(named) = self.named.take() {
                    self.renames += 1;
                    let aside = self.directory.path().join(format!("log.{}", self.renames));
                    if matches!(op, Op::Delete) {
                        fs::remove_file(self.path()).unwrap();
                        self.files[named].name = None;
                    } else {
                        fs::rename(self.path(), &aside).unwrap();
                        self.files[named].name = Some(aside);
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
                    self.touch(named);
                }
            }
            Op::Gzip => self.gzip(),
            Op::Kill => {
                if std::mem::replace(&mut self.running, false) {
                    let open = self.old.drain(..).chain(self.current.take());
                    self.marked.get_or_insert(open.collect());
                }
            }
            Op::Poll(millis) => {
                self.now += Duration::from_millis(u64::from(*millis));
                self.step();
            }
        }
    }

    fn gzip(&mut self) {
        let Some(last) = self
            .files
            .iter_mut()
            .rfind(|file| file.name.is_some() && !file.packed)
            .filter(|file| file.name != Some(self.directory.path().join("log")))
        else {
            return;
        };
        let name = last.name.take().unwrap();
        let packed_name =
            name.with_extension(format!("{}.gz", name.extension().unwrap().display()));
        let mut packed = GzEncoder::new(File::create(&packed_name).unwrap(), Compression::fast());
        packed.write_all(&last.content).unwrap();
        packed
            .finish()
            .unwrap()
            .set_modified(time(last.modified))
            .unwrap();
        fs::remove_file(name).unwrap();
        (last.name, last.packed) = (Some(packed_name), true);
    }

    /// What the next tail must find of what the killed one left.
    fn resume(&mut self, marked: Vec<usize>) {
        let found: Vec<usize> = marked
            .iter()
            .copied()
            .filter(|at| self.is_found(*at))
            .collect();
        if found.is_empty() && self.named.is_none() {
            self.marked = Some(marked);
            return;
        }
        self.gaps += marked.len() - found.len();
        let mut files: Vec<usize> = found.clone();
        if marked
            .last()
            .is_none_or(|last| self.named != Some(*last) || !found.contains(last))
        {
            let is_new = |at: &usize| {
                let file = &self.files[*at];
                let known = found.contains(at) || self.named == Some(*at);
                !known && file.name.is_some() && file.modified > self.seen_until
            };
            let mut between: Vec<usize> = (0..self.files.len()).filter(is_new).collect();
            between.sort_by_key(|at| self.files[*at].modified);
            // With nothing read before, what is not the log is none of ours.
            if !marked.is_empty() {
                files.extend(between);
            }
        }
        files.retain(|at| self.named != Some(*at));
        for at in (0..self.files.len()).filter(|at| !found.contains(at)) {
            self.files[at].position = 0;
        }
        for file in &mut self.files {
            (file.seen, file.starts_over, file.last_data) = (file.position, false, self.now);
            file.read_packed = file.packed;
        }
        self.resumed_at = self.seen_until;
        self.current = self.named;
        if self.named.is_none() && files.last().is_some_and(|last| !self.files[*last].packed) {
            self.current = files.pop();
        }
        self.old = files;
    }

    /// Whether a marked file can be found: by its content, of which the last line
    /// that was read must be there, if it was compressed since.
    fn is_found(&self, at: usize) -> bool {
        let file = &self.files[at];
        let place_is_there = !file.starts_over || file.position == 0;
        let packed_since = file.packed && !file.read_packed;
        file.name.is_some() && place_is_there && !(packed_since && file.position == 0)
    }

    /// What one step of the tail must find.
    fn step(&mut self) {
        self.running = true;
        if let Some(marked) = self.marked.take() {
            self.resume(marked);
            if self.marked.is_some() {
                return;
            }
        }
        if self.named.is_some() && self.named != self.current {
            if let Some(current) = self.current.take() {
                self.files[current].last_data = self.now;
                let missed = self.missed(current);
                self.old.push(current);
                self.old.extend(missed);
            }
            self.current = self.named;
        }
        let mut newer = self.old.len();
        for old in std::mem::take(&mut self.old) {
            newer -= 1;
            self.read(old);
            let file = &self.files[old];
            let is_over = file.read_packed || self.now - file.last_data >= SILENCE;
            if self.current.is_some() && is_over || newer >= MAX_OLD_FILES {
                self.finish(old);
                self.files[old].closed = true;
            } else {
                self.old.push(old);
            }
        }
        if let Some(current) = self.current {
            self.read(current);
        }
        let open = self.old.iter().chain(&self.current);
        let latest = open.map(|at| self.files[*at].modified).max();
        self.seen_until = self.seen_until.max(latest.unwrap_or(0));
    }

    /// Files that had the name since the last step, and were rotated away.
    fn missed(&mut self, current: usize) -> Vec<usize> {
        let is_missed = |at: &usize| {
            let file = &self.files[*at];
            let is_open = *at == current || self.old.contains(at) || self.named == Some(*at);
            let is_new = file.modified >= self.seen_until && file.modified != self.resumed_at;
            !is_open && is_new && !file.closed && file.name.is_some()
        };
        let mut missed: Vec<usize> = (0..self.files.len()).filter(is_missed).collect();
        missed.sort_by_key(|at| self.files[*at].modified);
        for at in &missed {
            let file = &mut self.files[*at];
            (file.seen, file.position, file.starts_over) = (0, 0, false);
            (file.last_data, file.read_packed) = (self.now, file.packed);
        }
        missed
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
        if file.read_packed {
            self.finish(index);
        }
    }

    /// What has no LF is a line now.
    fn finish(&mut self, index: usize) {
        let file = &mut self.files[index];
        let rest = file.content[file.position..].to_vec();
        if !rest.is_empty() {
            self.lines.push(Line {
                offset: file.position as u64,
                bytes: rest,
            });
            file.position = file.content.len();
        }
    }
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn tail(path: &Path, start: Start) -> Tail {
    let options = TailOptions {
        start,
        ..TailOptions::new(path)
    };
    Tail::open(options).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn exactly_the_lines_that_the_file_system_still_has_arrive(ops in ops()) {
        let mut model = Model::new();
        let path = model.path();
        let mut tail = Some(tail(&path, Start::default()));
        let mut marks: Vec<Mark> = Vec::new();
        let mut heard = Heard::default();
        let (mut lost, mut gaps) = (0, 0);
        // A last look finds what is there, and one later closes what is silent.
        for op in ops.iter().chain([&Op::Poll(0), &Op::Poll(6000)]) {
            model.apply(op);
            match op {
                Op::Kill => {
                    if let Some(killed) = tail.take() {
                        marks = killed.marks();
                    }
                }
                Op::Poll(_) => {
                    let tail = tail.get_or_insert_with(|| {
                        // Another run counts its generations anew.
                        heard.opened.clear();
                        heard.closed.clear();
                        self::tail(&path, Start::At(marks.clone()))
                    });
                    // A file that starts over is read in the step after.
                    while !tail.poll(model.now, &mut heard).at_end {}
                    lost += heard.closed.iter().map(|closed| closed.lost).sum::<u64>();
                    heard.closed.iter_mut().for_each(|closed| closed.lost = 0);
                    gaps += heard.notices.drain(..).filter(|n| *n == "file gone").count();
                    prop_assert_eq!(&heard.lines, &model.lines);
                    prop_assert_eq!((lost, gaps), (model.lost, model.gaps));
                    let open = tail.old.len() + usize::from(tail.current.is_some());
                    prop_assert_eq!(open, model.old.len() + usize::from(model.current.is_some()));
                }
                _ => {}
            }
        }
    }
}
