//! The program's own log, on standard error.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;

/// Lines on their way to standard error at most; the next one is lost, and counted. A
/// line has some hundred bytes, one that shows a whole message a few thousand.
pub const MAX_WAITING: usize = 1024;

/// How long [`OwnLog::finish`] waits for whoever reads.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Starts it. Once in a program: there is one log. Every line is written where it is
/// said, so none is lost, and whoever says it waits for whoever reads.
pub fn start(format: LogFormat, level: LevelFilter) {
    init(io::stderr, format, level);
}

/// Starts it with a thread of its own that writes: nobody else ever waits for whoever
/// reads. Where lines come faster than they are read, [`MAX_WAITING`] of them wait
/// and more are lost; one line says how many, once there is room again.
///
/// # Errors
/// The system's, when there is no thread to be had.
pub fn start_apart(format: LogFormat, level: LevelFilter) -> io::Result<OwnLog> {
    let lines = Arc::new(Lines::default());
    let written = Arc::clone(&lines);
    std::thread::Builder::new()
        .name("own-log".into())
        .spawn(move || {
            written.write_to(io::stderr(), |lost| {
                // An error, or a level could hide it that shows the others.
                tracing::error!(lost, "lines of this log were lost: it was not read");
            });
        })?;
    init(Arc::clone(&lines), format, level);
    Ok(OwnLog(lines))
}

fn init<W>(writer: W, format: LogFormat, level: LevelFilter)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let log = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_target(false)
        .with_max_level(level)
        // A log that nobody reads is no reason to end: the alternative is a panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match format {
        LogFormat::Human => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// A log that a thread of its own writes.
#[must_use = "its last lines are written only if they are waited for"]
pub struct OwnLog(Arc<Lines>);

impl OwnLog {
    /// Waits until all is written that was said, for a second at most.
    pub fn finish(self) {
        // Over time or not: there is nothing more to be done.
        let _ = self.0.wait_until_written(LAST_WORDS);
    }
}

/// What the subscriber writes to: each line comes in one piece.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines on their way to the thread that writes them.
#[derive(Debug, Default)]
struct Lines {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Box<[u8]>>,
    /// Whether a line is being written.
    writing: bool,
    /// Lines that found no room, and of which nothing was said yet.
    lost: u64,
}

impl Queue {
    fn is_written(&self) -> bool {
        self.waiting.is_empty() && !self.writing && self.lost == 0
    }
}

impl Lines {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8]) {
        let mut queue = self.queue();
        if queue.waiting.len() < MAX_WAITING {
            queue.waiting.push_back(line.into());
            drop(queue);
            self.changed.notify_all();
        } else {
            queue.lost += 1;
        }
    }

    /// Writes for as long as the program runs; `tell` says, as one more line, how many
    /// were lost.
    fn write_to(&self, mut out: impl Write, tell: impl Fn(u64)) {
        loop {
            match self.next() {
                Next::Line(line) => {
                    // Nobody is left to be told of an error.
                    let _ = out.write_all(&line);
                }
                Next::Lost(lines) => tell(lines),
            }
        }
    }

    /// Waits for something to write. Once what waited is written, it is time to say
    /// what had no room behind it.
    fn next(&self) -> Next {
        let mut queue = self.queue();
        queue.writing = false;
        loop {
            if let Some(line) = queue.waiting.pop_front() {
                queue.writing = true;
                return Next::Line(line);
            }
            if queue.lost > 0 {
                queue.writing = true;
                return Next::Lost(std::mem::take(&mut queue.lost));
            }
            self.changed.notify_all();
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says whether it is, within so long.
    fn wait_until_written(&self, limit: Duration) -> bool {
        let unwritten = |queue: &mut Queue| !queue.is_written();
        let waited = self
            .changed
            .wait_timeout_while(self.queue(), limit, unwritten);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.is_written()
    }
}

enum Next {
    Line(Box<[u8]>),
    /// So many lines were lost.
    Lost(u64),
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    #[test]
    fn nobody_waits_for_the_reader_and_what_is_lost_is_told() {
        const ALL: u64 = 3000;
        let (reader, writer) = io::pipe().unwrap();
        let lines = Arc::new(Lines::default());
        let written = Arc::clone(&lines);
        std::thread::spawn(move || {
            written.write_to(writer, |lost| {
                written.add(format!("lost {lost}\n").as_bytes())
            });
        });
        // Far more than the pipe and the queue hold.
        let line = "x".repeat(1023) + "\n";
        for _ in 0..ALL {
            (&*lines).write_all(line.as_bytes()).unwrap();
        }
        assert!(!lines.wait_until_written(Duration::ZERO));
        let mut read = 0;
        for line in BufReader::new(reader).lines() {
            let line = line.unwrap();
            if let Some(lost) = line.strip_prefix("lost ") {
                assert_eq!(read + lost.parse::<u64>().unwrap(), ALL);
                break;
            }
            assert_eq!(line.len(), 1023);
            read += 1;
        }
        assert!(read >= MAX_WAITING as u64, "{read}");
        assert!(lines.wait_until_written(Duration::from_secs(30)));
    }
}
