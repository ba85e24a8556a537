//! Standard input, and anything else that is read to its end and has no name.
//!
//! Reading such a thing blocks, so a thread of its own does it and sends bounded
//! chunks through a [`Waker`]; [`Stream`] turns them into lines.

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use super::splitter::LineSplitter;
use super::wake::{Waker, Woken};
use super::{CloseReason, Closed, LineHandler, Notice, Opened, Progress};

/// Bytes in a chunk at most.
const CHUNK: usize = 64 * 1024;

/// A stream's only generation.
const GENERATION: u32 = 0;

/// How long a stream may stay silent after its writer ended, and how long it is
/// read at all then: somebody else may hold it open for ever.
const SILENCE: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(10);

/// Reads standard input in a thread and sends it to `waker`. The thread ends with
/// the input, or with the first chunk that nobody takes any more; it cannot be
/// interrupted while the input is silent.
///
/// # Errors
/// The system refuses a thread.
pub fn read_stdin(waker: Waker) -> io::Result<()> {
    spawn_reader("stdin", waker, || io::stdin().lock())
}

/// Reads in a thread called `name` what `open` gives there.
pub(super) fn spawn_reader<R: Read>(
    name: &str,
    waker: Waker,
    open: impl FnOnce() -> R + Send + 'static,
) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(move || send_all(open(), &waker)).map(drop)
}

fn send_all(mut reader: impl Read, waker: &Waker) {
    let mut buffer = vec![0; CHUNK];
    let result = loop {
        match reader.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                let chunk = buffer
                    .get(..count)
                    .expect("a reader fills what it was given");
                if !waker.data(chunk.to_vec()) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    // Whether anybody listens makes no difference any more.
    let _listening = waker.end(result);
}

/// The lines of a stream, as one generation that begins at offset 0.
#[derive(Debug)]
pub struct Stream {
    splitter: LineSplitter,
    opened: bool,
    ended: bool,
    drain: Option<Drain>,
}

/// What is still waited for after the writer ended.
#[derive(Debug)]
struct Drain {
    since: Instant,
    last_data: Instant,
}

impl Stream {
    /// A stream that hands over at most `max_line` bytes of a line.
    #[must_use]
    pub fn new(max_line: usize) -> Self {
        Self {
            splitter: LineSplitter::new(0, max_line, CHUNK),
            opened: false,
            ended: false,
            drain: None,
        }
    }

    /// Says that the program that writes the stream has ended. What it wrote is
    /// still handed over, but the stream need not end by itself any more: it is
    /// over after 2 s of silence, or after 10 s.
    pub fn writer_ended(&mut self, now: Instant) {
        self.drain.get_or_insert(Drain {
            since: now,
            last_data: now,
        });
    }

    /// Handles what ended a wait. Call it on a time-out, too.
    pub fn handle(
        &mut self,
        woken: Woken,
        now: Instant,
        handler: &mut impl LineHandler,
    ) -> Progress {
        let mut read = 0;
        match woken {
            _ if self.ended => {}
            Woken::Data(chunk) => {
                self.open(handler);
                read = chunk.len() as u64;
                self.splitter.push(&chunk);
                while self.splitter.hand_over(GENERATION, handler) {}
                if let Some(drain) = &mut self.drain {
                    drain.last_data = now;
                }
            }
            Woken::End(result) => {
                if let Err(error) = &result {
                    handler.notice(Notice::ReadFailed {
                        generation: GENERATION,
                        error,
                    });
                }
                self.finish(handler);
            }
            Woken::Changed | Woken::Stop | Woken::TimedOut => {}
        }
        if self.drain.as_ref().is_some_and(|drain| drain.is_over(now)) {
            self.finish(handler);
        }
        Progress {
            read,
            at_end: true,
            ended: self.ended,
            ..Progress::default()
        }
    }

    /// Ends the stream here: a last line without LF is handed over as it stands.
    pub fn finish(&mut self, handler: &mut impl LineHandler) {
        if self.ended {
            return;
        }
        self.open(handler);
        self.ended = true;
        let last = self.splitter.finish();
        let unterminated = last.is_some();
        if let Some(line) = last {
            handler.line(GENERATION, line);
        }
        handler.closed(Closed {
            generation: GENERATION,
            reason: CloseReason::End,
            position: self.splitter.position(),
            unterminated,
            lost: 0,
        });
    }

    fn open(&mut self, handler: &mut impl LineHandler) {
        if !self.opened {
            self.opened = true;
            let generation = GENERATION;
            handler.opened(Opened {
                generation,
                start: 0,
                head: None,
                modified: None,
            });
        }
    }
}

impl Drain {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_data) >= SILENCE
            || now.saturating_duration_since(self.since) >= LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::wake::Wake;
    use crate::source::{RawLine, Rotation};

    /// Long enough for any machine; no test waits for it to pass.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[derive(Debug, Default)]
    struct Heard {
        lines: Vec<(u64, Vec<u8>)>,
        opened: usize,
        closed: Vec<Closed>,
        failures: usize,
    }

    impl LineHandler for Heard {
        fn opened(&mut self, opened: Opened<'_>) {
            assert_eq!((opened.generation, opened.start, opened.head), (0, 0, None));
            self.opened += 1;
        }
        fn line(&mut self, _generation: u32, line: RawLine<'_>) {
            self.lines.push((line.offset, line.bytes.to_vec()));
        }
        fn closed(&mut self, closed: Closed) {
            self.closed.push(closed);
        }
        fn rotated(&mut self, _kind: Rotation) {
            panic!("a stream is not rotated");
        }
        fn notice(&mut self, notice: Notice<'_>) {
            assert!(matches!(notice, Notice::ReadFailed { .. }));
            self.failures += 1;
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "some instant for simulated time to start from"
    )]
    fn some_instant() -> Instant {
        Instant::now()
    }

    fn read_all(reader: impl Read + Send + 'static) -> Heard {
        let mut wake = Wake::new();
        spawn_reader("test", wake.waker(), move || reader).unwrap();
        let (mut stream, mut heard) = (Stream::new(100), Heard::default());
        while !stream
            .handle(wake.wait(PATIENCE), some_instant(), &mut heard)
            .ended
        {}
        assert_eq!((heard.opened, heard.closed.len()), (1, 1));
        heard
    }

    #[test]
    fn a_stream_is_read_to_its_end_however_long() {
        let text = "line\n".repeat(1_000_000) + "unfin";
        let heard = read_all(io::Cursor::new(text));
        assert_eq!(heard.lines.len(), 1_000_001);
        assert!(
            heard
                .lines
                .iter()
                .zip((0..).step_by(5))
                .all(|(line, offset)| line.0 == offset)
        );
        assert_eq!(heard.lines.last().unwrap().1, b"unfin");
        assert!(heard.closed[0].unterminated);
        assert_eq!(heard.closed[0].position, 5_000_005);
    }

    #[test]
    fn an_empty_stream_opens_and_closes() {
        let heard = read_all(io::empty());
        assert!(heard.lines.is_empty() && !heard.closed[0].unterminated);
    }

    #[test]
    fn a_failing_stream_keeps_what_it_gave_and_tells() {
        struct Failing(bool);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                buffer[..4].copy_from_slice(b"a\nb\n");
                Ok(4)
            }
        }
        let heard = read_all(Failing(false));
        assert_eq!((heard.lines.len(), heard.failures), (2, 1));
    }

    #[test]
    fn after_its_writer_a_stream_ends_with_silence_or_at_the_limit() {
        let start = some_instant();
        let (mut stream, mut heard) = (Stream::new(100), Heard::default());
        let mut handle = |woken, millis| {
            stream.writer_ended(start + Duration::from_millis(millis));
            stream
                .handle(woken, start + Duration::from_millis(millis), &mut heard)
                .ended
        };
        assert!(!handle(Woken::Changed, 0));
        assert!(!handle(Woken::TimedOut, 1999));
        assert!(!handle(Woken::Data(b"a\n".to_vec()), 1999));
        assert!(!handle(Woken::TimedOut, 3998));
        assert!(handle(Woken::TimedOut, 3999));
        assert!(handle(Woken::Data(b"b\n".to_vec()), 4000));
        assert_eq!((heard.lines.len(), heard.closed.len()), (1, 1));

        let (mut stream, mut heard) = (Stream::new(100), Heard::default());
        stream.writer_ended(start);
        let ended_after = (1..).find(|second| {
            let now = start + Duration::from_secs(*second);
            stream
                .handle(Woken::Data(b"chatty\n".to_vec()), now, &mut heard)
                .ended
        });
        assert_eq!(ended_after, Some(10));
    }
}
