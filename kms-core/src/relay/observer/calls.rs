//! The calls of a client that wait for their answers.

use std::collections::VecDeque;

use crate::message::{BaseRequest, Version};
use crate::stub::Encoding;

use super::Undecoded;

/// How many calls may wait for their answers; beyond that the oldest is forgotten.
pub const MAX_PENDING: usize = 16;

/// All of them, oldest first.
#[derive(Debug, Default)]
pub(super) struct Calls(pub(super) VecDeque<Call>);

/// A call that waits for its answer.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) call_id: u32,
    /// One that cannot be made out waits, too: its answer is nobody else's.
    pub(super) asked: Result<Asked, Undecoded>,
}

/// What a call asks.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) encoding: Encoding,
    pub(super) version: Version,
    /// V4: all of it.
    pub(super) request: Option<BaseRequest>,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a call with this id waits.
    pub(super) fn knows(&self, call_id: u32) -> bool {
        self.0.iter().any(|call| call.call_id == call_id)
    }

    /// Waits for the answer to one more. False when the oldest was forgotten for it.
    pub(super) fn add(&mut self, call: Call) -> bool {
        let room = self.0.len() < MAX_PENDING;
        if !room {
            self.0.pop_front();
        }
        self.0.push_back(call);
        room
    }

    /// The call with this id, which has its answer.
    pub(super) fn answered(&mut self, call_id: u32) -> Option<Call> {
        let at = self.0.iter().position(|call| call.call_id == call_id)?;
        self.0.remove(at)
    }

    /// The call that a fault with this id ends. vlmcsd's faults all have the same id,
    /// whatever they answer: where only one call waits, it is that one.
    pub(super) fn failed(&mut self, call_id: u32) -> Option<Call> {
        let only = |calls: &mut Self| match calls.0.len() {
            1 => calls.0.pop_front(),
            _ => None,
        };
        self.answered(call_id).or_else(|| only(self))
    }
}
