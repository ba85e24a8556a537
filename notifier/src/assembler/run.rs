//! Lines of blocks that follow each other: eight lines in ten.
//!
//! They are taken off what was read as they stand there, without a call for each.
//! What is decided is what [`Assembler::handle_line`] would decide line by line.

use jiff::Timestamp;

use super::{Assembler, Event, IdMaker, Input};
use crate::line;

/// What was read of a log and not handled, from the beginning of a line on.
#[derive(Clone, Copy, Debug)]
pub struct Ahead<'a> {
    /// As the server printed it: lines with their LF, perhaps a last one that is
    /// not whole.
    pub bytes: &'a [u8],
    /// Offset in bytes of the first in its file.
    pub offset: u64,
    /// How many bytes a line may have.
    pub max_line: usize,
    /// The ids of that file.
    pub ids: &'a IdMaker,
    /// When it was read; `None` in a replay.
    pub read_at: Option<Timestamp>,
}

/// How much of it was handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    /// Lines.
    pub lines: u64,
    /// Bytes of these, LF included.
    pub bytes: usize,
}

impl Assembler {
    /// Takes the lines of blocks that are next, as long as each just goes on at the
    /// moment of the line above, until a request is answered.
    #[inline]
    pub fn handle_ahead(&mut self, ahead: &Ahead<'_>, out: &mut Vec<Event>) -> Handled {
        if self.blocks.is_empty() || self.waiting.waits_by_line() {
            return Handled::default();
        }
        self.handle_block_lines(ahead, out)
    }

    fn handle_block_lines(&mut self, ahead: &Ahead<'_>, out: &mut Vec<Event>) -> Handled {
        let mut handled = Handled::default();
        let mut rest = ahead.bytes;
        let prefix = self.here.prefix;
        while let Some((this, text)) = rest.split_first_chunk()
            && *this == prefix
            && let Some((label, text)) = line::field(text)
            && let Some(value) = line::up_to_lf(text)
        {
            let length = rest.len() - text.len() + value.len();
            let Some((text, after)) = rest.split_at_checked(length) else {
                break;
            };
            if length > ahead.max_line || !self.leaves_name(text, None, out) {
                break;
            }
            self.line += 1;
            let input = Input {
                text,
                raw: text,
                offset: ahead.offset + handled.bytes as u64,
                ids: ahead.ids,
                stamp: None,
                yearless: None,
                pid: None,
                unwrapped: false,
                read_at: ahead.read_at,
            };
            let goes_on = self.handle_field(label, value, &input, out);
            handled.lines += 1;
            handled.bytes += length + 1;
            rest = after.get(1..).unwrap_or_default();
            if !goes_on {
                break;
            }
        }
        handled
    }

    /// Whether no name is begun that this line may be part of. One that ends with
    /// it is over.
    #[inline]
    pub(super) fn leaves_name(
        &mut self,
        text: &[u8],
        pid: Option<u32>,
        out: &mut Vec<Event>,
    ) -> bool {
        let Some(window) = &self.window else {
            return true;
        };
        if !window.ends_with(text, pid) {
            return false;
        }
        self.window = None;
        self.advance(self.here.time.map(|time| time.at), out);
        true
    }
}
