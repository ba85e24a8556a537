//! The decoded copy of a session, for the log and the counters.
//!
//! It is fed both directions and never asked whether bytes may pass. What it
//! cannot make out it says once ([`Undecoded`]) and goes on where it can.

mod calls;
mod contexts;

use crate::hresult::HResult;
use crate::message::{BaseRequest, BaseResponse, Version, envelope};
use crate::pdu::{Body, Flags, Frame, HEADER_LEN, PacketType, Pdu, frame};
use crate::stub::{self, Reply};

use calls::{Asked, Call, Calls};
use contexts::Contexts;

pub use calls::MAX_PENDING;

/// What was made out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A KMS request and what became of it.
    Request(Box<Seen>),
    /// Something that could not be made out; the bytes pass all the same.
    Undecoded(Undecoded),
}

/// A request that passed, with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The version in clear.
    pub version: Version,
    /// V4: what it asks, which nothing protects. The tag behind it is not checked.
    pub request: Option<BaseRequest>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What an upstream did with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It sent data; in V4 what it says.
    Answered(Option<BaseResponse>),
    /// It refused with a result code.
    Refused(HResult),
    /// The call failed at the RPC level, with this status.
    Fault(HResult),
}

/// Why something could not be made out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Undecoded {
    /// The client's bytes are no PDUs (any more): nothing more of them is read.
    ClientStream,
    /// The upstream's.
    UpstreamStream,
    /// A PDU that cannot be read.
    Pdu,
    /// A call on a context that is not known as a KMS encoding when its answer comes.
    Context,
    /// Arguments or results that cannot be read.
    Stub,
    /// More calls than [`MAX_PENDING`] wait for their answers, or more than four binds.
    Pending,
}

impl Undecoded {
    /// All of them, for counters that are there from the start.
    pub const ALL: [Self; 6] = [
        Self::ClientStream,
        Self::UpstreamStream,
        Self::Pdu,
        Self::Context,
        Self::Stub,
        Self::Pending,
    ];

    /// One word, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientStream => "client_stream",
            Self::UpstreamStream => "upstream_stream",
            Self::Pdu => "pdu",
            Self::Context => "context",
            Self::Stub => "stub",
            Self::Pending => "pending",
        }
    }
}

/// What is known of one session.
#[derive(Debug, Default)]
pub struct Observer {
    client: Stream,
    upstream: Stream,
    contexts: Contexts,
    calls: Calls,
    /// The call of which an answer has begun and not ended.
    answering: Option<u32>,
}

impl Observer {
    /// Bytes from the client.
    pub fn client(&mut self, bytes: &[u8], see: &mut dyn FnMut(Sight)) {
        let mut stream = std::mem::take(&mut self.client);
        let whole = stream.feed(bytes, |pdu| match pdu {
            Some(pdu) => self.client_pdu(&pdu, see),
            None => see(Sight::Undecoded(Undecoded::Pdu)),
        });
        self.client = stream;
        if !whole {
            see(Sight::Undecoded(Undecoded::ClientStream));
        }
    }

    /// Bytes from the upstream.
    pub fn upstream(&mut self, bytes: &[u8], see: &mut dyn FnMut(Sight)) {
        let mut stream = std::mem::take(&mut self.upstream);
        let whole = stream.feed(bytes, |pdu| match pdu {
            Some(pdu) => self.upstream_pdu(&pdu, see),
            None => see(Sight::Undecoded(Undecoded::Pdu)),
        });
        self.upstream = stream;
        if !whole {
            see(Sight::Undecoded(Undecoded::UpstreamStream));
        }
    }

    /// Whether a PDU of the client is begun and not finished.
    #[must_use]
    pub fn in_the_middle(&self) -> bool {
        !self.client.begun.is_empty()
    }

    /// How many PDUs of the client were whole so far.
    #[must_use]
    pub fn client_pdus(&self) -> u64 {
        self.client.whole
    }

    /// Whether something waits for an answer, as far as answers can be made out.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        let none_waits = self.calls.is_empty() && !self.contexts.is_waiting();
        !none_waits && !self.upstream.lost
    }

    fn client_pdu(&mut self, pdu: &Pdu<'_>, see: &mut dyn FnMut(Sight)) {
        let room = match &pdu.body {
            Body::Bind(bind) | Body::AlterContext(bind) => self.contexts.offer(pdu.call_id, bind),
            Body::Request(request) => self.calls.add(pdu.flags, pdu.call_id, request),
            Body::Other(PacketType::Orphaned, _) => {
                self.calls.given_up(pdu.call_id);
                true
            }
            _ => true,
        };
        if !room {
            see(Sight::Undecoded(Undecoded::Pending));
        }
    }

    fn upstream_pdu(&mut self, pdu: &Pdu<'_>, see: &mut dyn FnMut(Sight)) {
        match &pdu.body {
            Body::BindAck(ack) | Body::AlterContextResponse(ack) => {
                self.contexts.accepted(pdu.call_id, ack);
            }
            Body::BindNak(_) => self.contexts.refused(),
            Body::Response(response) => {
                if self.goes_on(pdu.flags, pdu.call_id) {
                    // The first fragment has told.
                    return;
                }
                if let Some(call) = self.calls.answered(pdu.call_id) {
                    see(self.seen(&call, |asked| answer(asked, response.stub)));
                }
            }
            Body::Fault(fault) => {
                if self.contexts.failed(pdu.call_id) {
                    return;
                }
                if let Some(call) = self.calls.failed(pdu.call_id) {
                    let status = HResult(fault.status.0);
                    see(self.seen(&call, |_| Ok(Outcome::Fault(status))));
                }
            }
            _ => {}
        }
    }

    /// Whether a response is a later fragment of the one before it.
    fn goes_on(&mut self, flags: Flags, call_id: u32) -> bool {
        let goes_on = !flags.contains(Flags::FIRST) && self.answering == Some(call_id);
        self.answering = Some(call_id).filter(|_| !flags.contains(Flags::LAST));
        goes_on
    }

    /// What is seen of a call that has come to its end. Only now is its context known
    /// for sure: the host has answered everything that was said before.
    fn seen(
        &self,
        call: &Call,
        outcome: impl FnOnce(&Asked) -> Result<Outcome, Undecoded>,
    ) -> Sight {
        let seen = || {
            let encoding = self.contexts.encoding(call.context_id);
            let encoding = encoding.ok_or(Undecoded::Context)?;
            let asked = call.asked(encoding).ok_or(Undecoded::Stub)?;
            let outcome = outcome(&asked)?;
            Ok(Seen {
                version: asked.version,
                request: asked.request,
                outcome,
            })
        };
        match seen() {
            Ok(seen) => Sight::Request(Box::new(seen)),
            Err(why) => Sight::Undecoded(why),
        }
    }
}

/// What a response says.
fn answer(asked: &Asked, stub: &[u8]) -> Result<Outcome, Undecoded> {
    match stub::decode_response(asked.encoding, stub) {
        Ok(Reply::Data(message)) => Ok(Outcome::Answered(clear_response(asked, message))),
        Ok(Reply::Refused(code)) => Ok(Outcome::Refused(code)),
        Err(_) => Err(Undecoded::Stub),
    }
}

fn clear_response(asked: &Asked, message: &[u8]) -> Option<BaseResponse> {
    asked.request.as_ref()?;
    let (base, _) = envelope::split_clear(message)?;
    BaseResponse::decode(base).ok()
}

/// One direction.
#[derive(Debug, Default)]
struct Stream {
    /// The beginning of a PDU, less than [`crate::pdu::MAX_FRAGMENT`] bytes.
    begun: Vec<u8>,
    whole: u64,
    lost: bool,
}

impl Stream {
    /// Deals with all whole PDUs, `None` being one that cannot be read, and keeps
    /// the beginning of another. False when the stream is lost here.
    fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Option<Pdu<'_>>)) -> bool {
        if self.lost {
            return true;
        }
        let mut begun = std::mem::take(&mut self.begun);
        let mut rest = if begun.is_empty() {
            bytes
        } else {
            begun.extend_from_slice(bytes);
            &begun
        };
        loop {
            match frame(rest) {
                Ok(Frame::NeedMore { .. }) => {
                    self.begun = rest.to_vec();
                    return true;
                }
                Ok(Frame::Whole { header, body }) => {
                    each(Pdu::decode(&header, body).ok());
                    self.whole = self.whole.wrapping_add(1);
                    rest = rest.get(HEADER_LEN + body.len()..).unwrap_or_default();
                }
                Err(_) => {
                    self.lost = true;
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
