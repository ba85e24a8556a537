//! The calls of a client that wait for their answers.

use std::collections::VecDeque;

use crate::catalog::Protocol;
use crate::message::envelope::{self, V4_REQUEST_LEN};
use crate::message::{BaseRequest, Version};
use crate::pdu::{Flags, Request};
use crate::stub::{self, Encoding};

/// How many calls may wait for their answers; beyond that the oldest is forgotten.
pub const MAX_PENDING: usize = 16;

/// How much of a call's stub is kept, in bytes: the counts of NDR64 and all of the one
/// request that is looked into, so that every call there may be takes 4.5 KiB.
const KEPT: usize = 16 + V4_REQUEST_LEN;

/// All of them, oldest first.
#[derive(Debug, Default)]
pub(super) struct Calls(pub(super) VecDeque<Call>);

/// A call that waits for its answer, whether or not it can be made out: its answer is
/// nobody else's. What it says is not looked at before, since the context may be bound
/// by an answer that is still to come.
#[derive(Debug)]
pub(super) struct Call {
    call_id: u32,
    /// What tells the encoding.
    pub(super) context_id: u16,
    /// Whether no more fragments follow.
    whole: bool,
    /// How the stub begins; nothing, if the first fragment is not known.
    stub: [u8; KEPT],
    kept: usize,
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

    /// One more call, or one more fragment of one. False when the oldest call was
    /// forgotten for it.
    pub(super) fn add(&mut self, flags: Flags, call_id: u32, request: &Request<'_>) -> bool {
        let first = flags.contains(Flags::FIRST);
        let last = flags.contains(Flags::LAST);
        if !first && let Some(call) = self.begun(call_id) {
            call.keep(request.stub);
            call.whole = last;
            return true;
        }
        let room = self.0.len() < MAX_PENDING;
        if !room {
            self.0.pop_front();
        }
        let mut call = Call {
            call_id,
            context_id: request.context_id,
            // No message is made of what follows a beginning that is not there.
            whole: last || !first,
            stub: [0; KEPT],
            kept: 0,
        };
        if first {
            call.keep(request.stub);
        }
        self.0.push_back(call);
        room
    }

    /// The client gave up a call that it has not sent to its end: nobody answers it.
    pub(super) fn given_up(&mut self, call_id: u32) {
        let begun = |call: &Call| call.call_id == call_id && !call.whole;
        if let Some(at) = self.0.iter().rposition(begun) {
            self.0.remove(at);
        }
    }

    /// The call with this id, which has its answer; one that came to its end before
    /// one that did not, of which the host can hardly know what it asks.
    pub(super) fn answered(&mut self, call_id: u32) -> Option<Call> {
        let mut calls = self.0.iter();
        let whole = calls.position(|call| call.call_id == call_id && call.whole);
        let mut calls = self.0.iter();
        let at = whole.or_else(|| calls.position(|call| call.call_id == call_id))?;
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

    /// The last call with this id, if more of it is to come.
    fn begun(&mut self, call_id: u32) -> Option<&mut Call> {
        let mut calls = self.0.iter_mut().rev();
        calls.find(|call| call.call_id == call_id && !call.whole)
    }
}

impl Call {
    /// What it asks, with a stub in this encoding. None where that cannot be read.
    pub(super) fn asked(&self, encoding: Encoding) -> Option<Asked> {
        let stub = self.stub.get(..self.kept)?;
        let version = version(encoding, stub)?;
        let clear = (version.protocol() == Some(Protocol::V4))
            .then(|| stub::decode_request(encoding, stub).ok())
            .flatten()
            .and_then(clear_request);
        Some(Asked {
            encoding,
            version,
            request: clear,
        })
    }

    /// Keeps what there is room for.
    fn keep(&mut self, stub: &[u8]) {
        let len = stub.len().min(KEPT - self.kept);
        let room = self.stub.get_mut(self.kept..self.kept + len);
        if let (Some(room), Some(stub)) = (room, stub.get(..len)) {
            room.copy_from_slice(stub);
            self.kept += len;
        }
    }
}

/// The version, which begins the message, which follows the counts.
fn version(encoding: Encoding, stub: &[u8]) -> Option<Version> {
    let counts = match encoding {
        Encoding::Ndr32 => 8,
        Encoding::Ndr64 => 16,
    };
    Version::detect(stub.get(counts..)?).ok()
}

fn clear_request(message: &[u8]) -> Option<BaseRequest> {
    let (base, _) = envelope::split_clear(message)?;
    BaseRequest::decode(base).ok()
}
