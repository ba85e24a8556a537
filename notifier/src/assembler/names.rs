//! What a workstation name can forge, and what it cannot (design section 7).
//!
//! vlmcsd prints a name raw and in one piece, line feeds included. So only lines
//! directly after the name's first line, that fit into what is left of the name's
//! budget, can be part of it; the first that does not fit is real. Lines that fit
//! are *parked* here until that line comes, which then says more about them.

use kms_core::catalog;
use memchr::memmem;

use super::Seen;
use super::blocks::NAME_UNITS;
use super::connections::Tick;
use crate::line::{self, Kind, Label};

/// Quiet lines cut the name to 64 bytes (kms-wire.md 7.4).
const QUIET_BYTES: usize = 64;

/// A line that may be part of a name.
#[derive(Debug)]
pub(super) struct Parked {
    /// As the server printed it, prefix included.
    pub(super) text: Vec<u8>,
    pub(super) seen: Seen,
    /// It cannot be the server's: it lacks the prefix that all lines have, or
    /// has one that none has, or the server prints nothing like it.
    certain: bool,
}

/// The name that was begun last, and the lines after it that may be its own.
#[derive(Debug)]
pub(super) struct Window {
    /// The block whose name it is.
    pub(super) block: Tick,
    pub(super) pid: Option<u32>,
    quiet: bool,
    /// Units (verbose) or bytes (quiet) that the name may still have.
    left: usize,
    pub(super) parked: Vec<Parked>,
}

/// What the parked lines turned out to be: the first `forged` are the name's, a
/// client count at `count` is the block's own, and what stands between is suspect
/// unless `proved`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) forged: usize,
    pub(super) count: Option<usize>,
    pub(super) proved: bool,
}

impl Window {
    /// After the line `Workstation name : VALUE` of a block.
    pub(super) fn verbose(block: Tick, pid: Option<u32>, value: &[u8]) -> Option<Self> {
        Self::new(block, pid, false, NAME_UNITS.checked_sub(units(value))?)
    }

    /// After the line `KMS v6.0 request from REST`.
    pub(super) fn quiet(block: Tick, pid: Option<u32>, rest: &[u8]) -> Option<Self> {
        // All of it may be name, if what looks like a product is.
        Self::new(block, pid, true, QUIET_BYTES.checked_sub(rest.len())?)
    }

    fn new(block: Tick, pid: Option<u32>, quiet: bool, left: usize) -> Option<Self> {
        // A line feed and nothing is the least that can follow.
        (left > 0).then_some(Self {
            block,
            pid,
            quiet,
            left,
            parked: Vec::new(),
        })
    }

    /// Parks a line if it may be part of the name. `raw` is the line as it stands
    /// in the file, `foreign` that it has no prefix where all have one, or the
    /// reverse.
    pub(super) fn park(
        &mut self,
        text: &[u8],
        raw: &[u8],
        kind: &Kind<'_>,
        foreign: bool,
        seen: impl FnOnce() -> Seen,
        pid: Option<u32>,
    ) -> bool {
        // Another process wrote this syslog line, or all of it is forged.
        let text_if_own = if pid == self.pid { text } else { raw };
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        let size = if self.quiet {
            text_if_own.len()
        } else {
            units(text_if_own)
        };
        let closes = self.quiet
            && catalog::longest_known_suffix(text_if_own).is_some_and(|name| name <= left);
        if size > left && !closes {
            return false;
        }
        let certain = foreign || matches!(kind, Kind::Unrecognised);
        self.parked.push(Parked {
            text: text.to_vec(),
            seen: seen(),
            certain,
        });
        self.left = left.saturating_sub(size);
        true
    }

    /// Judges the parked lines by the first line that is surely real. `counts` is
    /// whether that line is a client count which only this block awaits,
    /// `answers` whether it is one that only comes when the block is whole.
    pub(super) fn judge(&self, counts: bool, answers: bool) -> Verdict {
        let certain = self
            .parked
            .iter()
            .rposition(|line| line.certain)
            .map_or(0, |at| at + 1);
        if self.quiet {
            return self.judge_quiet(certain);
        }
        let count = |from: usize| {
            let mut lines = self.parked.iter().enumerate().skip(from);
            lines.find(|(_, line)| line.is_count()).map(|(at, _)| at)
        };
        let last_count = self.parked.iter().rposition(Parked::is_count);
        if counts {
            // The block has one count, so every earlier one is forged.
            let forged = last_count.map_or(certain, |at| certain.max(at + 1));
            return Verdict {
                forged,
                count: None,
                proved: forged == self.parked.len(),
            };
        }
        if answers && let Some(at) = last_count.filter(|at| *at >= certain) {
            // The block is whole, so its count is here; what came before it is
            // the name's or others', what came after it is others'.
            let proved = at == certain;
            return Verdict {
                forged: certain,
                count: Some(at),
                proved,
            };
        }
        let proved = certain == self.parked.len();
        Verdict {
            forged: certain,
            count: count(certain),
            proved,
        }
    }

    /// A quiet name ends in ` for PRODUCT`, in one piece with it, so the last line
    /// that closes like this ends the name; what follows is real.
    fn judge_quiet(&self, certain: usize) -> Verdict {
        Verdict {
            forged: certain,
            count: None,
            proved: true,
        }
    }

    /// Whether a parked quiet line may close a name that is not closed yet.
    pub(super) fn closing(&self) -> Option<usize> {
        let closes = |line: &Parked| catalog::longest_known_suffix(&line.text).is_some();
        self.parked.iter().position(closes).map(|at| at + 1)
    }

    /// Whether this is the name of a quiet line.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }
}

impl Parked {
    fn is_count(&self) -> bool {
        matches!(
            line::classify(&self.text).kind,
            Kind::Field(Label::MinClients, _)
        )
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

/// Whether a quiet line's rest ends in a product that is known.
pub(super) fn is_closed(rest: &[u8]) -> bool {
    catalog::longest_known_suffix(rest).is_some()
}
