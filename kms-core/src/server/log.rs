//! The log of connections and requests: many connections write to it, one thread
//! writes it out.
//!
//! What a connection writes at once stays together, and lines stand in the order
//! of their stamps. A slow file never stops the answering: lines wait in a bounded
//! queue ([`MAX_WAITING`]). While that is half full, connections read no further
//! ([`Log::room`]), for at most [`HOLD_BACK`]; if the writer has not moved by then
//! it counts as stuck, nobody waits for it any more, and what does not fit is lost
//! and counted. A full disk is no reason to stop either.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::vlmcsd_log::LogWriter;

/// Most bytes that wait for the writer.
pub const MAX_WAITING: usize = 8 << 20;
/// How long a connection waits for a crowded queue before it goes on regardless.
pub const HOLD_BACK: Duration = Duration::from_secs(1);
/// How long the writer rests between two writes. The first line after a rest is
/// written at once; those of a busy time go out together, and whoever writes them
/// wakes nobody.
const REST: Duration = Duration::from_millis(5);

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
    /// Nowhere.
    Nothing,
}

/// How lines look.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// The zone of the stamps; without one, lines have no stamps (`-T0`).
    pub stamps: Option<TimeZone>,
    /// Whether lines carry their connection's number.
    pub ids: bool,
}

/// The log. Clones are handles to the same one; it is written out to the end by
/// [`Log::finish`].
#[derive(Clone, Debug)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: LogSettings,
    queue: Mutex<Queue>,
    /// Tells the writer that there is something to do.
    work: Condvar,
    /// Tells waiting connections that the writer took the queue.
    taken: Notify,
    crowded: AtomicBool,
    stuck: AtomicBool,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<u8>,
    /// From this byte on, lines belong into the file opened anew.
    reopen_at: Option<usize>,
    closed: bool,
    /// Who wants to know that everything is written.
    finished: Option<oneshot::Sender<()>>,
    stamp: Option<(i64, DateTime)>,
    writer: Writer,
}

/// What the writer's thread does, so that it is woken only when it waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Writer {
    /// It will look at the queue by itself.
    #[default]
    Awake,
    /// It waits until [`REST`] is over, or the queue cannot wait for that.
    Resting,
    /// It waits for lines.
    Waiting,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.reopen_at.is_none() && !self.closed
    }

    fn can_wait(&self) -> bool {
        self.waiting.len() <= MAX_WAITING / 2 && self.reopen_at.is_none() && !self.closed
    }

    /// Whether the writer has to be woken; once it was, it need not be again.
    fn must_wake(&mut self) -> bool {
        let must = match self.writer {
            Writer::Awake => false,
            Writer::Resting => !self.can_wait(),
            Writer::Waiting => !self.is_idle(),
        };
        if must {
            self.writer = Writer::Awake;
        }
        must
    }
}

impl Log {
    /// Opens the target and starts the thread that writes to it.
    ///
    /// # Errors
    /// The file cannot be opened to append to, or the thread cannot be started.
    pub fn open(target: Target, settings: LogSettings) -> io::Result<Self> {
        let sink = match target {
            Target::Nothing => None,
            Target::Stdout => Some(Sink::Stdout),
            Target::File(path) => Some(Sink::File {
                file: append(&path)?,
                path,
            }),
        };
        let log = Self::detached(settings, sink.is_none());
        if let Some(sink) = sink {
            let shared = Arc::clone(&log.0);
            thread::Builder::new()
                .name("log".to_owned())
                .spawn(move || shared.write_out(sink))?;
        }
        Ok(log)
    }

    /// A log that keeps nothing, for embedders with their own and for tests.
    #[must_use]
    pub fn nowhere() -> Self {
        let settings = LogSettings {
            stamps: None,
            ids: false,
        };
        Self::detached(settings, true)
    }

    fn detached(settings: LogSettings, closed: bool) -> Self {
        let queue = Queue {
            closed,
            ..Queue::default()
        };
        Self(Arc::new(Shared {
            settings,
            queue: Mutex::new(queue),
            work: Condvar::new(),
            taken: Notify::new(),
            crowded: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        }))
    }

    /// Lets `lines` write some lines that stay together. `connection` marks them if
    /// the settings want it.
    pub fn write(&self, connection: Option<u64>, lines: impl FnOnce(&mut LogWriter<'_>)) {
        let mut queue = self.0.lock();
        if queue.closed {
            return;
        }
        let before = queue.waiting.len();
        let stamp = self.0.stamp(&mut queue);
        let mut writer = LogWriter::new(&mut queue.waiting, stamp);
        if let Some(number) = connection.filter(|_| self.0.settings.ids) {
            writer = writer.connection(number);
        }
        lines(&mut writer);
        if queue.waiting.len() > MAX_WAITING {
            let cut = queue.waiting.get(before..).unwrap_or_default();
            self.0.lose(cut);
            queue.waiting.truncate(before);
        }
        if queue.waiting.len() > MAX_WAITING / 2 {
            self.0.crowded.store(true, Ordering::Relaxed);
        }
        self.0.wake(queue);
    }

    /// Waits until there is room for what a connection may write next.
    pub async fn room(&self) {
        let shared = &self.0;
        if !shared.crowded.load(Ordering::Relaxed) || shared.stuck.load(Ordering::Relaxed) {
            return;
        }
        let taken = shared.taken.notified();
        // It may have been taken between the two lines above.
        if !shared.crowded.load(Ordering::Relaxed) {
            return;
        }
        if timeout(HOLD_BACK, taken).await.is_err() && !shared.stuck.swap(true, Ordering::Relaxed) {
            tracing::warn!("the log is not taken: answering goes on, and lines may be lost");
        }
    }

    /// Opens the file anew, for what is written from now on. Whoever rotates the
    /// log calls this after the rename. If that fails the old file stays.
    pub fn reopen(&self) {
        let mut queue = self.0.lock();
        let here = queue.waiting.len();
        queue.reopen_at.get_or_insert(here);
        self.0.wake(queue);
    }

    /// Lines that were lost since the start: no room, or they could not be
    /// written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Takes no more lines and writes out those that wait, for at most `patience`.
    /// Whether everything was written.
    pub async fn finish(&self, patience: Duration) -> bool {
        let (finished, wait) = oneshot::channel();
        {
            let mut queue = self.0.lock();
            if queue.closed {
                return true;
            }
            queue.closed = true;
            queue.finished = Some(finished);
            self.0.wake(queue);
        }
        matches!(timeout(patience, wait).await, Ok(Ok(())))
    }
}

impl Shared {
    /// Formatting a line cannot leave the queue in a state worth giving up for.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the writer if it has to be, with the queue free for it.
    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        let must = queue.must_wake();
        drop(queue);
        if must {
            self.work.notify_one();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the log's stamps are an edge")]
    fn stamp(&self, queue: &mut Queue) -> Option<DateTime> {
        let zone = self.settings.stamps.as_ref()?;
        let now = Timestamp::now();
        // Thousands of lines share a second, and its date.
        let second = now.as_second();
        if let Some((_, stamp)) = queue.stamp.filter(|(of, _)| *of == second) {
            return Some(stamp);
        }
        let stamp = zone.to_datetime(now);
        queue.stamp = Some((second, stamp));
        Some(stamp)
    }

    fn lose(&self, lines: &[u8]) {
        let count = lines.iter().filter(|byte| **byte == b'\n').count();
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    /// The writer's thread.
    fn write_out(&self, sink: Sink) {
        let mut out = Output::new(sink);
        // Swapped with the queue, so that neither is allocated again and again.
        let mut batch = Vec::new();
        let mut rested = true;
        loop {
            batch.clear();
            if batch.capacity() > MAX_WAITING / 8 {
                batch = Vec::new();
            }
            let (reopen_at, finished) = {
                let mut queue = self.next_batch(std::mem::replace(&mut rested, false));
                std::mem::swap(&mut queue.waiting, &mut batch);
                self.crowded.store(false, Ordering::Relaxed);
                let last = queue.closed;
                (queue.reopen_at.take(), last.then(|| queue.finished.take()))
            };
            self.taken.notify_waiters();
            // Without a word from whoever renamed it nobody knows which lines were first;
            // with one, those before it belong into the old file.
            if reopen_at.is_none() && !batch.is_empty() && out.is_renamed() {
                out.reopen();
            }
            let (old, new) = batch.split_at(reopen_at.unwrap_or(batch.len()).min(batch.len()));
            self.put(&mut out, old);
            if reopen_at.is_some() {
                out.reopen();
                self.put(&mut out, new);
            }
            self.stuck.store(false, Ordering::Relaxed);
            if let Some(finished) = finished {
                // Nobody waits if the patience is over.
                let _ = finished.map(|finished| finished.send(()));
                return;
            }
        }
    }

    /// Waits until there is something to do and, unless it has `rested` already,
    /// for [`REST`] first.
    fn next_batch(&self, rested: bool) -> MutexGuard<'_, Queue> {
        let mut queue = self.lock();
        if !rested {
            queue.writer = Writer::Resting;
            (queue, _) = self
                .work
                .wait_timeout_while(queue, REST, |queue| queue.can_wait())
                .unwrap_or_else(PoisonError::into_inner);
        }
        queue.writer = Writer::Waiting;
        let mut queue = self
            .work
            .wait_while(queue, |queue| queue.is_idle())
            .unwrap_or_else(PoisonError::into_inner);
        queue.writer = Writer::Awake;
        queue
    }

    fn put(&self, out: &mut Output, lines: &[u8]) {
        let Err((written, error)) = out.write(lines) else {
            if !lines.is_empty() && std::mem::take(&mut out.failing) {
                tracing::info!("the log can be written again");
            }
            return;
        };
        self.lose(lines.get(written..).unwrap_or_default());
        // Once, not for every batch.
        if !std::mem::replace(&mut out.failing, true) {
            tracing::error!(%error, "cannot write the log: lines are lost, serving goes on");
        }
    }
}

enum Sink {
    Stdout,
    File { file: File, path: PathBuf },
}

struct Output {
    sink: Sink,
    failing: bool,
    /// The last line was cut by an error.
    torn: bool,
    /// The path leads nowhere, and no new file can be made there.
    homeless: bool,
}

impl Output {
    fn new(sink: Sink) -> Self {
        Self {
            sink,
            failing: false,
            torn: false,
            homeless: false,
        }
    }

    /// On an error also says how many bytes were written.
    fn write(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.torn {
            // What was cut must not become the beginning of another line.
            self.write_some(b"\n").map_err(|error| (0, error))?;
            self.torn = false;
        }
        let mut written = 0;
        while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
            match self.write_some(rest) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let end = written.checked_sub(1).and_then(|last| lines.get(last));
                    self.torn = end.is_some_and(|byte| *byte != b'\n');
                    return Err((written, error));
                }
            }
        }
        match &mut self.sink {
            Sink::Stdout => io::stdout().flush().map_err(|error| (written, error)),
            Sink::File { .. } => Ok(()),
        }
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match &mut self.sink {
            Sink::Stdout => io::stdout().write(bytes)?,
            Sink::File { file, .. } => file.write(bytes)?,
        };
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(count)
    }

    /// Whether the path no longer leads to the open file: then somebody rotated it,
    /// and did not send a signal.
    fn is_renamed(&self) -> bool {
        let Sink::File { file, path } = &self.sink else {
            return false;
        };
        match (std::fs::metadata(path), file.metadata()) {
            (Ok(there), Ok(ours)) => (there.dev(), there.ino()) != (ours.dev(), ours.ino()),
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            (Ok(_), Err(_)) => false,
        }
    }

    fn reopen(&mut self) {
        let Sink::File { file, path } = &mut self.sink else {
            return;
        };
        match append(path) {
            Ok(new) => {
                *file = new;
                self.torn = false;
                if std::mem::take(&mut self.homeless) {
                    tracing::info!(path = %path.display(), "the log was opened again");
                }
            }
            // Once, not for every batch.
            Err(error) => {
                if !std::mem::replace(&mut self.homeless, true) {
                    tracing::error!(path = %path.display(), %error, "cannot reopen the log: the old file stays");
                }
            }
        }
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a writer: one that is stuck for good.
    fn stuck() -> Log {
        let settings = LogSettings {
            stamps: None,
            ids: false,
        };
        Log::detached(settings, false)
    }

    fn fill(log: &Log, bytes: usize) {
        let line = "x".repeat(200);
        while log.0.lock().waiting.len() < bytes {
            log.write(None, |log| log.started(&line));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_or_twice_for_a_stuck_writer() {
        let log = stuck();
        log.room().await;
        fill(&log, MAX_WAITING / 2 + 1);
        let begun = tokio::time::Instant::now();
        log.room().await;
        assert_eq!(begun.elapsed().as_secs(), HOLD_BACK.as_secs());
        log.room().await;
        assert_eq!(begun.elapsed().as_secs(), HOLD_BACK.as_secs());
    }

    #[tokio::test]
    async fn waiting_ends_when_the_queue_is_taken() {
        let log = stuck();
        fill(&log, MAX_WAITING / 2 + 1);
        let waiting = tokio::spawn({
            let log = log.clone();
            async move { log.room().await }
        });
        tokio::task::yield_now().await;
        let shared = Arc::clone(&log.0);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = append(&path).unwrap();
        let writer = thread::spawn(move || shared.write_out(Sink::File { file, path }));
        waiting.await.unwrap();
        assert!(!log.0.stuck.load(Ordering::Relaxed));
        assert!(log.finish(Duration::from_secs(60)).await);
        writer.join().unwrap();
        assert_eq!(log.lost(), 0);
    }

    /// What happens to the queue, and whether that wakes a writer that does this.
    fn wakes(writer: Writer, happens: impl FnOnce(&mut Queue)) -> bool {
        let mut queue = Queue {
            writer,
            ..Queue::default()
        };
        happens(&mut queue);
        let woken = queue.must_wake();
        // Whoever comes next need not wake it again.
        assert!(!woken || !queue.must_wake());
        woken
    }

    #[test]
    fn a_line_wakes_a_writer_that_waits_and_no_other() {
        let line = |queue: &mut Queue| queue.waiting.extend(b"line\n");
        assert!(wakes(Writer::Waiting, line));
        assert!(!wakes(Writer::Resting, line));
        assert!(!wakes(Writer::Awake, line));
    }

    #[test]
    fn a_rest_ends_for_what_cannot_wait() {
        let crowd = |queue: &mut Queue| queue.waiting.resize(MAX_WAITING / 2 + 1, b'\n');
        let reopen = |queue: &mut Queue| queue.reopen_at = Some(0);
        let close = |queue: &mut Queue| queue.closed = true;
        for writer in [Writer::Resting, Writer::Waiting] {
            assert!(wakes(writer, crowd));
            assert!(wakes(writer, reopen));
            assert!(wakes(writer, close));
        }
    }

    #[test]
    fn what_does_not_fit_is_lost_whole_and_counted() {
        let log = stuck();
        fill(&log, MAX_WAITING - 300);
        let before = log.0.lock().waiting.len();
        log.write(None, |log| {
            log.started("a");
            log.started(&"b".repeat(250));
            log.started(&"c".repeat(250));
        });
        assert_eq!(log.lost(), 3);
        assert_eq!(log.0.lock().waiting.len(), before);
        log.write(None, |log| log.started("d"));
        assert_eq!(log.lost(), 3);
        assert!(log.0.lock().waiting.len() > before);
    }

    /// What the program's own log says meanwhile.
    fn said(during: impl FnOnce()) -> String {
        let (reader, writer) = io::pipe().unwrap();
        let writer = Mutex::new(writer);
        let subscriber = tracing_subscriber::fmt().with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, during);
        io::read_to_string(reader).unwrap()
    }

    #[test]
    fn a_log_that_cannot_be_reopened_is_said_once_until_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let (below, path) = {
            let below = directory.path().join("below");
            (below.clone(), below.join("log"))
        };
        std::fs::create_dir(&below).unwrap();
        let mut output = Output::new(Sink::File {
            file: append(&path).unwrap(),
            path: path.clone(),
        });
        for _ in 0..2 {
            std::fs::remove_dir_all(&below).unwrap();
            let text = said(|| {
                for _ in 0..50 {
                    assert!(output.is_renamed());
                    output.reopen();
                    output.write(b"line\n").unwrap();
                }
            });
            assert_eq!(text.matches("cannot reopen").count(), 1, "{text}");
            std::fs::create_dir(&below).unwrap();
            let text = said(|| output.reopen());
            assert_eq!(text.matches("opened again").count(), 1, "{text}");
            assert!(!output.is_renamed());
        }
        // What goes well all the time is not worth a word.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(said(|| output.reopen()), "");
    }

    #[test]
    fn a_torn_line_does_not_run_into_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, b"half a li").unwrap();
        let mut output = Output::new(Sink::File {
            file: append(&path).unwrap(),
            path: path.clone(),
        });
        output.torn = true;
        output.write(b"whole\n").unwrap();
        output.write(b"next\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"half a li\nwhole\nnext\n");
    }
}
