//! Standard output, on a thread of its own: the hub never waits for whoever reads it.

use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::Instant;

use crate::follow::Batch;
use crate::sink::stdout;

/// A batch that takes so long to print holds the logs up.
const HELD_UP: Duration = Duration::from_secs(1);

/// Prints one batch at a time, and gives it back when it is printed.
#[derive(Debug)]
pub struct Printer {
    batches: SyncSender<Box<Batch>>,
    printed: Receiver<io::Result<Box<Batch>>>,
    /// Since when there is one under way.
    since: Option<Instant>,
}

impl Printer {
    /// Starts the thread, which ends when the printer is dropped or `out` fails.
    ///
    /// # Errors
    /// The system's, when there is no thread to be had.
    pub fn start(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        // With one under way, there is always room.
        let (batches, due) = sync_channel::<Box<Batch>>(1);
        let (done, printed) = channel(1);
        std::thread::Builder::new()
            .name("stdout".into())
            .spawn(move || {
                for batch in due {
                    let result = stdout::print(&mut out, &batch.events).map(|()| batch);
                    let failed = result.is_err();
                    if done.try_send(result).is_err() || failed {
                        return;
                    }
                }
            })?;
        Ok(Self {
            batches,
            printed,
            since: None,
        })
    }

    /// Whether a batch is under way. Then it takes no other.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.since.is_some()
    }

    /// Whether a batch has been under way for so long that it holds the logs up.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= HELD_UP)
    }

    /// Has the events of a batch printed; [`Self::printed`] gives it back.
    pub fn print(&mut self, batch: Box<Batch>) {
        self.since = Some(Instant::now());
        // If the thread is gone, `printed` says so.
        let _ = self.batches.try_send(batch);
    }

    /// Waits until the batch under way is printed. May be dropped and called again.
    ///
    /// # Errors
    /// Those of the output: it is not to be used any more.
    pub async fn printed(&mut self) -> io::Result<Box<Batch>> {
        let printed = self.printed.recv().await;
        printed.unwrap_or_else(|| Err(io::Error::other("the thread that prints is gone")))
    }

    /// The batch that [`Self::printed`] gave back is done with.
    pub fn finish(&mut self) {
        self.since = None;
    }
}
