//! The thread of one log: waits for bytes, reads them into events, hands those on.

mod outlet;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

pub use self::outlet::Outlet;
use crate::assembler::Counters;
use crate::event::Event;
use crate::policy::known::MAX_EVENTS;
use crate::reader::{Reader, Traffic};
use crate::saved::SavedLog;
use crate::sink::http::LogState;
use crate::source::Progress;
use crate::source::child::Child;
use crate::source::stream::Stream;
use crate::source::tail::{Mark, Tail};
use crate::source::wake::{Backoff, Wake, Waker, Woken};

/// After so long without a line, what waits for more is decided (docs/events.md, "When an event is printed").
const SILENCE: Duration = Duration::from_secs(3);

/// How often a log's position is handed over to be stored: what lies between two
/// is read again after a crash.
const POSITION_EVERY: Duration = Duration::from_secs(1);

/// A busy log's position is handed over sooner, once so many events were decided:
/// the policy knows that many again, and as many more for a batch.
const POSITION_EVENTS: usize = 32_768;
const _: () = assert!(2 * POSITION_EVENTS <= MAX_EVENTS);

/// What a log tells the hub.
#[derive(Debug)]
pub enum News {
    /// It brought something.
    Batch(Box<Batch>),
    /// The log of this name ended; nothing more comes from it.
    Ended(Arc<str>),
}

/// What one log brought since its last batch.
#[derive(Debug)]
pub struct Batch {
    /// Name of the log.
    pub log: Arc<str>,
    /// Decided events, in order.
    pub events: Vec<Event>,
    /// Where the events go when all is done with them: whoever made them frees them
    /// cheaper than another thread.
    pub spent: mpsc::Sender<Vec<Event>>,
    /// What the assembler counted.
    pub counters: Counters,
    /// What went through the reader.
    pub traffic: Traffic,
    /// Bytes read.
    pub bytes: u64,
    /// Where the log stands after these events, if that is to be stored now: a
    /// [`SavedLog`].
    pub position: Option<Vec<u8>>,
    /// Whether a position will come, so that events are read again after a crash.
    pub read_again: bool,
    /// Unfinished requests that were stored and could not be read.
    pub dropped_requests: u64,
}

/// Where a log's bytes come from, opened.
pub enum Source {
    /// A file that grows.
    File(Box<Tail>),
    /// Standard input.
    Stdin(Stream),
    /// The standard output of a server that was started.
    Child(Stream, Child),
}

impl Source {
    /// Takes one step after a wait.
    fn step(&mut self, woken: Woken, now: Instant, reader: &mut Reader) -> Progress {
        match self {
            Self::File(tail) => tail.poll(now, reader),
            Self::Stdin(stream) => stream.handle(woken, now, reader),
            Self::Child(stream, child) => {
                if child.exit().is_some() {
                    stream.writer_ended(now);
                }
                let progress = stream.handle(woken, now, reader);
                Progress {
                    // Its exit code is ours, so it is waited for even if it has
                    // nothing more to say.
                    ended: progress.ended && child.exit().is_some(),
                    ..progress
                }
            }
        }
    }

    /// Ends in the middle: what is there of a last line is handed over.
    fn finish(&mut self, reader: &mut Reader) {
        if let Self::Stdin(stream) | Self::Child(stream, _) = self {
            stream.finish(reader);
        }
    }

    /// Where its files stand; none for a stream, nor while that is no place to go
    /// on from.
    fn marks(&self) -> Option<Vec<Mark>> {
        match self {
            Self::File(tail) => (!tail.is_passing_over()).then(|| tail.marks()),
            Self::Stdin(_) | Self::Child(..) => None,
        }
    }

    /// How many bytes are not read, as the file system has it now; a stream does
    /// not tell.
    fn look(&self) -> Option<u64> {
        match self {
            Self::File(tail) => Some(tail.look_behind()),
            Self::Stdin(_) | Self::Child(..) => None,
        }
    }

    fn is_child(&self) -> bool {
        matches!(self, Self::Child(..))
    }
}

/// One log, ready to be followed on a thread of its own.
pub struct Follower {
    outlet: Outlet,
    source: Source,
    wake: Wake,
    reader: Reader,
    /// Events of earlier batches, and how the hub gives them back.
    returned: mpsc::Receiver<Vec<Event>>,
    spent: mpsc::Sender<Vec<Event>>,
    ends: Vec<Waker>,
    positions: Option<Positions>,
    dropped_requests: u64,
}

/// When a position is due.
#[derive(Default)]
struct Positions {
    /// What was handed over last, and when.
    last: Option<(Vec<Mark>, Instant)>,
    /// Events decided since.
    events: usize,
}

impl Positions {
    fn is_early(&self, now: Instant) -> bool {
        let recent = |(_, at): &(_, Instant)| now.saturating_duration_since(*at) < POSITION_EVERY;
        self.events < POSITION_EVENTS && self.last.as_ref().is_some_and(recent)
    }

    fn is_news(&self, marks: &[Mark]) -> bool {
        self.events > 0 || self.last.as_ref().is_none_or(|(last, _)| *last != marks)
    }
}

impl Follower {
    /// `wake` is what the source's wakers wake.
    #[must_use]
    pub fn new(outlet: Outlet, source: Source, wake: Wake, reader: Reader) -> Self {
        let (spent, returned) = mpsc::channel();
        Self {
            outlet,
            source,
            wake,
            reader,
            returned,
            spent,
            ends: Vec::new(),
            positions: None,
            dropped_requests: 0,
        }
    }

    /// Has where the log stands stored now and then, if it is a file. At its end
    /// it is left as it is then, to be gone on with. `dropped` requests of an
    /// earlier run are lost.
    pub fn keep_positions(&mut self, dropped: u64) {
        if matches!(self.source, Source::File(_)) {
            self.positions = Some(Positions::default());
            self.dropped_requests = dropped;
        }
    }

    /// Has these logs end when this one does.
    pub fn ends(&mut self, others: Vec<Waker>) {
        self.ends = others;
    }

    /// Follows until the source ends or the waker says stop. Blocks its thread,
    /// also while the hub is busy: that holds the reading back, which is meant.
    pub fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut last_line = Instant::now_here();
        let mut progress = self.step(Woken::TimedOut, &mut last_line);
        loop {
            self.outlet.show(state(&progress), progress.lag);
            if !self.hand_over(&progress, false) {
                return;
            }
            if progress.ended {
                break;
            }
            if let Some(error) = self.wake.watch_error() {
                tracing::warn!(log = %self.outlet.log(), "no notifications from the kernel, polling instead: {error}");
            }
            let woken = if progress.at_end {
                let mut wait = backoff.after(&progress);
                if self.reader.has_waiting() {
                    wait = wait.min(SILENCE.saturating_sub(last_line.elapsed()));
                }
                self.wake.wait(wait)
            } else {
                self.wake.wait(Duration::ZERO)
            };
            if matches!(woken, Woken::Stop) {
                break;
            }
            progress = self.step(woken, &mut last_line);
            if progress.read == 0 && self.reader.has_waiting() && last_line.elapsed() >= SILENCE {
                self.reader.handle_idle();
            }
        }
        self.source.finish(&mut self.reader);
        if self.positions.is_some() {
            self.reader.pause();
        } else {
            self.reader.finish(self.source.is_child());
        }
        self.outlet.show(LogState::Ended, progress.lag);
        self.hand_over(&progress, true);
        self.ends.iter().for_each(Waker::stop);
        // The hub counts the logs that are left; it is gone only after the last.
        let ended = News::Ended(Arc::clone(self.outlet.log()));
        self.outlet.send(ended, || None);
    }

    fn step(&mut self, woken: Woken, last_line: &mut Instant) -> Progress {
        let now = Instant::now_here();
        self.reader.set_now(wall_clock());
        let progress = self.source.step(woken, now, &mut self.reader);
        if progress.read > 0 {
            *last_line = now;
        }
        progress
    }

    /// Where the log stands after so many more events, if that is to be stored now.
    fn position(&mut self, events: usize, last: bool) -> Option<Vec<u8>> {
        let now = Instant::now_here();
        let positions = self.positions.as_mut()?;
        positions.events += events;
        if positions.is_early(now) && !last {
            return None;
        }
        let marks = self.source.marks()?;
        if !positions.is_news(&marks) && !last {
            return None;
        }
        *positions = Positions {
            last: Some((marks.clone(), now)),
            ..Positions::default()
        };
        let log = SavedLog {
            marks,
            unfinished: self.reader.save(),
        };
        Some(log.encode())
    }

    /// Sends what there is, if there is anything; the last batch has a position in any
    /// case. Says whether the hub lives.
    fn hand_over(&mut self, progress: &Progress, last: bool) -> bool {
        let traffic = self.reader.take_traffic();
        let mut empty = self.returned.try_iter().last().unwrap_or_default();
        empty.clear();
        let events = std::mem::replace(self.reader.events(), empty);
        let position = self.position(events.len(), last);
        let nothing = progress.read == 0 && events.is_empty() && traffic == Traffic::default();
        if nothing && position.is_none() {
            return true;
        }
        if traffic.lines > 0 {
            self.outlet.show_line();
        }
        let batch = Batch {
            log: Arc::clone(self.outlet.log()),
            events,
            spent: self.spent.clone(),
            counters: self.reader.take_counters(),
            traffic,
            bytes: progress.read,
            position,
            read_again: self.positions.is_some(),
            dropped_requests: std::mem::take(&mut self.dropped_requests),
        };
        let source = &self.source;
        self.outlet
            .send(News::Batch(Box::new(batch)), || source.look())
    }
}

/// How a log is doing that is read. That it is not read, [`Outlet::send`] says.
fn state(progress: &Progress) -> LogState {
    match progress {
        Progress { ended: true, .. } => LogState::Ended,
        Progress {
            unreadable: true, ..
        } => LogState::Unreadable,
        Progress {
            waiting_for_file: true,
            ..
        } => LogState::Waiting,
        _ => LogState::Ready,
    }
}

/// The thread of a log is an edge: here, and only here, it asks what time it is.
#[expect(
    clippy::disallowed_methods,
    reason = "an edge: lines are stamped with when they are read"
)]
fn wall_clock() -> Timestamp {
    Timestamp::now()
}

trait Here {
    fn now_here() -> Self;
}

impl Here for Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "an edge: pauses between lines are measured here"
    )]
    fn now_here() -> Self {
        Self::now()
    }
}
