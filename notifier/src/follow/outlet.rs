//! The way from a log's thread to the hub, and to those who ask how the log is doing.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::{News, wall_clock};
use crate::sink::http::{LogState, Readiness};
use crate::sink::metrics::LogMetrics;

/// A log that waits so long for room at the hub is not read, and says so, …
const STALLED_AFTER: Duration = Duration::from_secs(3);

/// … and from then on looks so often how far behind it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where a log's thread hands over what it read, and shows how it is doing.
pub struct Outlet {
    log: Arc<str>,
    hub: Sender<News>,
    readiness: Readiness,
    metrics: LogMetrics,
    /// What waits for room, and for a time-out: made by the first wait, on the log's own
    /// thread, for a runtime must not be dropped where another one runs.
    runtime: Option<Runtime>,
    state: LogState,
    lag: u64,
}

impl Outlet {
    /// For the log of this name.
    #[must_use]
    pub fn new(
        log: Arc<str>,
        hub: Sender<News>,
        readiness: Readiness,
        metrics: LogMetrics,
    ) -> Self {
        Self {
            log,
            hub,
            readiness,
            metrics,
            runtime: None,
            state: LogState::Waiting,
            lag: 0,
        }
    }

    /// The log's name.
    pub fn log(&self) -> &Arc<str> {
        &self.log
    }

    /// Shows how the log is doing, and how many bytes are not read yet.
    pub fn show(&mut self, state: LogState, lag: u64) {
        if state != self.state {
            self.readiness.set(&self.log, state);
            self.state = state;
        }
        if lag != self.lag {
            self.metrics.set_lag(lag);
            self.lag = lag;
        }
    }

    /// Shows that a line was read just now.
    pub fn show_line(&self) {
        self.metrics.last_line(wall_clock());
    }

    /// Hands something over, and waits for room. `look` tells, where that can be
    /// told, how many bytes are not read by now. Says whether the hub lives.
    pub fn send(&mut self, news: News, look: impl Fn() -> Option<u64>) -> bool {
        match self.hub.try_send(news) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(news)) => self.wait(news, look),
        }
    }

    fn wait(&mut self, news: News, look: impl Fn() -> Option<u64>) -> bool {
        let Self {
            log,
            hub,
            readiness,
            metrics,
            runtime,
            state,
            lag,
        } = self;
        let runtime = match runtime.take().map_or_else(new_runtime, Ok) {
            Ok(made) => runtime.insert(made),
            Err(error) => {
                // It waits all the same, and cannot say so.
                tracing::debug!(%log, "no time-outs: {error}");
                return hub.blocking_send(news).is_ok();
            }
        };
        runtime.block_on(async {
            // Its place in the queue stays its own over all time-outs.
            let mut room = pin!(hub.reserve());
            let mut patience = STALLED_AFTER;
            loop {
                if let Ok(room) = tokio::time::timeout(patience, &mut room).await {
                    if patience != STALLED_AFTER {
                        readiness.set(log, *state);
                    }
                    return room.map(|room| room.send(news)).is_ok();
                }
                patience = LOOK_EVERY;
                readiness.set(log, LogState::Stalled);
                if let Some(now) = look() {
                    if now > *lag {
                        // Lines are written, so it is not the log that is silent.
                        metrics.last_line(wall_clock());
                    }
                    metrics.set_lag(now);
                    *lag = now;
                }
            }
        })
    }
}

fn new_runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
}
