//! Standard output, on a thread of its own: whoever posts never waits for
//! whoever reads.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

/// Lines on their way out at most; the next one is dropped. A line is at most
/// some 40 KiB long, nearly all are far shorter.
pub const MAX_WAITING: usize = 256;

/// The way to standard output.
#[derive(Debug)]
pub struct Lines(Mutex<Option<SyncSender<String>>>);

impl Lines {
    /// Hands a line over, and says whether there was room for it.
    #[must_use]
    pub fn send(&self, line: String) -> bool {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match sender.as_ref().map(|sender| sender.try_send(line)) {
            Some(Ok(())) => true,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => false,
        }
    }

    /// Nothing more comes; what was handed over is still written.
    pub fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Starts the thread; the receiver tells how it ended.
///
/// # Errors
/// The system's, when there is no thread to be had.
pub fn start<W>(out: W) -> io::Result<(Lines, oneshot::Receiver<io::Result<()>>)>
where
    W: Write + Send + 'static,
{
    let (sender, lines) = sync_channel(MAX_WAITING);
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("stdout".into())
        .spawn(move || {
            let result = write(&lines, out);
            drop(lines);
            // Nobody waits for the end any more if the deadline is over.
            let _ = ended.send(result);
        })?;
    Ok((Lines(Mutex::new(Some(sender))), end))
}

/// Flushes when nothing waits, so a crowd costs few system calls.
fn write(lines: &Receiver<String>, out: impl Write) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(64 * 1024, out);
    while let Ok(first) = lines.recv() {
        for line in std::iter::once(first).chain(lines.try_iter()) {
            out.write_all(line.as_bytes())?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[tokio::test]
    async fn what_was_taken_is_written_and_what_does_not_fit_is_refused() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (lines, end) = start(writer).unwrap();
        // More than the pipe, the buffer and the queue hold while nobody reads.
        let line = "x".repeat(4096);
        let taken = (0..1000).filter(|_| lines.send(line.clone())).count();
        assert!((MAX_WAITING..1000).contains(&taken), "{taken}");
        lines.close();
        assert!(!lines.send(line.clone()));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{line}\n").repeat(taken));
        end.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_ends_it() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let (lines, end) = start(writer).unwrap();
        assert!(lines.send("x".to_owned()));
        let error = end.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(!lines.send("x".to_owned()));
    }
}
