//! What the status page reads back from the counters.

use jiff::Timestamp;

use super::{LogMetrics, Metrics, Outcome, Sink, delivery};

/// How delivery goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Messages not yet delivered.
    pub waiting: u64,
    /// Messages refused for good and kept.
    pub dead_letters: u64,
    /// Attempts that were accepted.
    pub accepted: u64,
    /// Attempts that failed for now.
    pub retried: u64,
    /// Attempts that were refused for good.
    pub failed: u64,
}

/// How a log is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogReading {
    /// Bytes written and not yet read.
    pub lag: u64,
    /// When the last line was read.
    pub last_line: Option<Timestamp>,
    /// Whether an alert about its silence is in force.
    pub silent: bool,
}

impl Metrics {
    /// How delivery goes, all sinks together.
    #[must_use]
    pub fn delivered(&self) -> Delivered {
        let attempts = |outcome| {
            let count = |sink| {
                let labels = delivery(sink, outcome);
                self.0.notifications.get_or_create(&labels).get()
            };
            Sink::ALL.into_iter().map(count).sum()
        };
        Delivered {
            waiting: self.0.outbox.get(),
            dead_letters: self.0.dead_letters.get(),
            accepted: attempts(Outcome::Accepted),
            retried: attempts(Outcome::Retried),
            failed: attempts(Outcome::Failed),
        }
    }
}

impl LogMetrics {
    /// How the log is doing. It must be one that the metrics were set up with.
    #[must_use]
    pub fn read(&self) -> LogReading {
        let (label, metrics) = (self.label(), &self.metrics.0);
        let last_line = metrics.last_line.get(&label).map(|gauge| gauge.get());
        LogReading {
            lag: metrics.lag.get_or_create(&label).get(),
            last_line: last_line
                .and_then(|at| jiff::SignedDuration::try_from_secs_f64(at).ok())
                .and_then(|at| Timestamp::from_duration(at).ok()),
            silent: metrics.silent.get_or_create(&label).get() != 0,
        }
    }
}
