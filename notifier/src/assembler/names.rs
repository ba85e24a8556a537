//! What a workstation name can forge, and what it cannot (docs/events.md,
//! "What a client can forge").
//!
//! vlmcsd prints a name raw and in one piece, line feeds included. So only lines
//! directly after the name's first line, that fit into what is left of the name's
//! budget, can be part of it; the first that does not fit is real. Lines that fit
//! are *parked* here until that line comes, which then says more about them.

use kms_core::catalog;
use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::blocks::NAME_UNITS;
use super::connections::Tick;
use super::forgery::Judged;
use super::{Input, Line, Seen};
use crate::line::{self, Kind, Label};

/// Quiet lines cut the name to 64 bytes (kms-wire.md 7.4).
const QUIET_BYTES: usize = 64;

/// A line that may be part of a name.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Parked {
    /// As the server printed it, prefix included.
    pub(super) text: Vec<u8>,
    pub(super) seen: Seen,
    /// It cannot be the server's: it lacks the prefix that the name's line has,
    /// or has one where that has none, or the server prints nothing like it.
    pub(super) certain: bool,
}

/// The name that was begun last, and the lines after it that may be its own.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Window {
    /// The block whose name it is.
    pub(super) block: Tick,
    pid: Option<u32>,
    dated: bool,
    quiet: bool,
    /// Units (verbose) or bytes (quiet) that the name may still have.
    left: usize,
    /// At most as many as there were units left.
    pub(super) parked: Vec<Parked>,
}

/// What the parked lines turned out to be: the first `forged` are the name's;
/// of the others, the client count at `count` is the block's own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) forged: usize,
    count: Option<usize>,
    /// What follows `count` (or everything, without one) is surely real.
    proved: bool,
}

impl Verdict {
    /// What the line at `index` is, which is not the name's.
    pub(super) fn of(&self, index: usize) -> Judged {
        match self.count {
            Some(count) if index == count => Judged::Count {
                proved: self.proved,
            },
            Some(count) if index < count => Judged::Suspect,
            _ if self.proved => Judged::Real,
            _ => Judged::Suspect,
        }
    }
}

impl Window {
    /// After the line `Workstation name : VALUE` of a block.
    pub(super) fn verbose(
        block: Tick,
        pid: Option<u32>,
        dated: bool,
        value: &[u8],
    ) -> Option<Self> {
        let left = NAME_UNITS.checked_sub(units(value))?;
        Self::new(block, pid, dated, false, left)
    }

    /// After the line `KMS v6.0 request from REST`, all of which may be name if
    /// what looks like a product is.
    pub(super) fn quiet(block: Tick, pid: Option<u32>, dated: bool, rest: &[u8]) -> Option<Self> {
        Self::new(
            block,
            pid,
            dated,
            true,
            QUIET_BYTES.checked_sub(rest.len())?,
        )
    }

    fn new(block: Tick, pid: Option<u32>, dated: bool, quiet: bool, left: usize) -> Option<Self> {
        // A line feed and nothing is the least that can follow.
        let parked = Vec::new();
        (left > 0).then_some(Self {
            block,
            pid,
            dated,
            quiet,
            left,
            parked,
        })
    }

    /// Takes a line off the budget if it may be part of the name; says whether it
    /// certainly is.
    pub(super) fn takes(&mut self, line: &Line<'_>, input: &Input<'_>) -> Option<bool> {
        // Another process wrote this syslog line, or all of it is forged.
        let text = if input.pid == self.pid {
            input.text
        } else {
            input.raw
        };
        let left = self.left.checked_sub(1)?;
        let size = if self.quiet { text.len() } else { units(text) };
        // The last piece of a quiet name ends in a product that is not the name's.
        let closes = || catalog::longest_known_suffix(text).is_some_and(|name| name <= left);
        if size > left && !(self.quiet && closes()) {
            return None;
        }
        self.left = left.saturating_sub(size);
        let foreign = input.unwrapped || line.stamp.is_some() != self.dated;
        // The server ends no other line with a product.
        let closing = self.quiet
            && !matches!(line.kind, Kind::QuietRequest { .. })
            && catalog::longest_known_suffix(text).is_some();
        Some(foreign || closing || matches!(line.kind, Kind::Unrecognised))
    }

    /// Whether a line of that process surely follows a verbose name, and none before
    /// it may be part of it: then there is nothing to judge.
    pub(super) fn ends_with(&self, text: &[u8], pid: Option<u32>) -> bool {
        !self.quiet && self.parked.is_empty() && pid == self.pid && units(text) >= self.left
    }

    /// Judges the lines after a verbose name by the first line that is surely
    /// real. `counts` is whether that line is a client count which only this
    /// block awaits, `answers` whether it is one that only comes when this block
    /// is whole.
    pub(super) fn judge(&self, counts: bool, answers: bool) -> Verdict {
        // A name is one piece: what comes before a line of its own is, too.
        let certain = self
            .parked
            .iter()
            .rposition(|line| line.certain)
            .map_or(0, |at| at + 1);
        let is_count = |line: &Parked| {
            matches!(
                line::classify(&line.text).kind,
                Kind::Field(Label::MinClients, _)
            )
        };
        let last = self.parked.iter().rposition(is_count);
        if counts {
            // The block has one count and it comes now, so these are forged.
            let forged = last.map_or(certain, |at| certain.max(at + 1));
            return Verdict {
                forged,
                count: None,
                proved: false,
            };
        }
        if answers && let Some(at) = last.filter(|at| *at >= certain) {
            // The block is whole, so its count is here, and what follows is others'.
            return Verdict {
                forged: certain,
                count: Some(at),
                proved: true,
            };
        }
        let rest = self.parked.iter().skip(certain);
        let count = rest.into_iter().position(is_count).map(|at| certain + at);
        Verdict {
            forged: certain,
            count,
            proved: false,
        }
    }

    /// Judges the lines after a quiet name, of which `rest` was read before. Such
    /// a name ends in one piece with ` for PRODUCT`, so the first line that closes
    /// it ends it, unless a later one is certainly its own.
    pub(super) fn judge_quiet(&self, rest: &[u8]) -> Verdict {
        let closed = |text: &[u8]| catalog::longest_known_suffix(text).is_some();
        let certain = self
            .parked
            .iter()
            .rposition(|line| line.certain)
            .map_or(0, |at| at + 1);
        let closing = if closed(rest) {
            0
        } else {
            self.parked
                .iter()
                .position(|line| closed(&line.text))
                .map_or(0, |at| at + 1)
        };
        // A second request may be the name's or another client's.
        let again =
            |line: &Parked| matches!(line::classify(&line.text).kind, Kind::QuietRequest { .. });
        let forged = certain.max(closing);
        let proved = !self.parked.iter().skip(forged).any(again);
        Verdict {
            forged,
            count: None,
            proved,
        }
    }

    /// Whether this is the name of a quiet line.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }
}

/// UTF-16 units of text that may not be valid UTF-8.
fn units(text: &[u8]) -> usize {
    if text.is_ascii() {
        return text.len();
    }
    String::from_utf8_lossy(text)
        .chars()
        .map(char::len_utf16)
        .sum()
}

/// Splits `NAME for PRODUCT`: at the longest product that is known, else at the
/// last ` for `, else there is no product.
pub(super) fn split_quiet(rest: &[u8]) -> (&[u8], Option<&[u8]>) {
    const FOR: &[u8] = b" for ";
    let at = catalog::longest_known_suffix(rest).or_else(|| memmem::rfind(rest, FOR));
    match at.and_then(|at| rest.split_at_checked(at)) {
        Some((name, product)) => (name, product.strip_prefix(FOR)),
        None => (rest, None),
    }
}
