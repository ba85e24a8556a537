//! A file that the log was rotated to, still being read.

use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use super::generation::{Generation, Reading};
use super::mark::{FileId, Mark};
use super::packed::Packed;
use crate::source::{CloseReason, LineHandler};

pub(super) enum Old {
    /// As the server wrote it, and may go on writing it for a while.
    Plain(Generation),
    /// Compressed since: it does not grow.
    Packed(Packed),
}

impl Old {
    pub(super) fn set_number(&mut self, number: u32) {
        match self {
            Self::Plain(generation) => generation.number = number,
            Self::Packed(packed) => packed.number = number,
        }
    }

    pub(super) fn is(&self, id: FileId) -> bool {
        matches!(self, Self::Plain(generation) if generation.id() == id)
    }

    pub(super) fn lag(&self) -> u64 {
        match self {
            Self::Plain(generation) => generation.lag(),
            Self::Packed(packed) => packed.lag(),
        }
    }

    /// The same as of now.
    pub(super) fn look_behind(&self) -> u64 {
        match self {
            Self::Plain(generation) => generation.look_behind(),
            Self::Packed(packed) => packed.lag(),
        }
    }

    pub(super) fn modified(&self) -> Option<SystemTime> {
        match self {
            Self::Plain(generation) => generation.modified(),
            Self::Packed(packed) => packed.modified(),
        }
    }

    pub(super) fn mark(&self, seen_until: Option<Timestamp>) -> Option<Mark> {
        match self {
            Self::Plain(generation) => generation.mark(seen_until),
            Self::Packed(packed) => packed.mark(seen_until),
        }
    }

    /// Reads like [`Generation::read`], which may say that the file starts over.
    pub(super) fn read(
        &mut self,
        read: &mut u64,
        limit: u64,
        now: Instant,
        handler: &mut impl LineHandler,
    ) -> Reading {
        match self {
            Self::Plain(generation) => {
                generation.retire(now);
                generation.read(read, limit, now, handler)
            }
            Self::Packed(packed) => packed.read(read, limit, handler),
        }
    }

    /// Whether nothing more will come, once it was read to its end.
    pub(super) fn is_over(&self, now: Instant, silence: Duration) -> bool {
        match self {
            Self::Plain(generation) => generation.is_silent(now, silence),
            Self::Packed(packed) => packed.is_finished(),
        }
    }

    pub(super) fn close(self, handler: &mut impl LineHandler) {
        match self {
            Self::Plain(generation) => generation.close(CloseReason::Silent, handler),
            Self::Packed(packed) => packed.close(CloseReason::End, handler),
        }
    }

    pub(super) fn displace(self, handler: &mut impl LineHandler) {
        match self {
            Self::Plain(generation) => generation.close(CloseReason::Displaced, handler),
            Self::Packed(packed) => packed.close(CloseReason::Displaced, handler),
        }
    }
}
