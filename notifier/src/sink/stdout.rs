//! Events as JSON lines.

use std::io::{self, Write};

use crate::event::Event;

/// Writes one line for each event, and flushes once.
///
/// JSON escapes what is below 0x20, and text from clients was cleaned of bidi
/// and other control characters when the event was made, so a line is a line.
///
/// # Errors
/// Those of `out`.
pub fn print(out: &mut impl Write, events: &[Event]) -> io::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    for event in events {
        line(out, event)?;
    }
    out.flush()
}

/// Writes one event as one line, without flushing.
///
/// # Errors
/// Those of `out`.
pub fn line(out: &mut impl Write, event: &Event) -> io::Result<()> {
    serde_json::to_writer(&mut *out, event)?;
    out.write_all(b"\n")
}
