//! The decoded copy of a session, for the log and the counters.
//!
//! It is fed both directions and never asked whether bytes may pass. What it
//! cannot make out it says once ([`Undecoded`]) and goes on where it can.

mod calls;

use crate::catalog::Protocol;
use crate::hresult::HResult;
use crate::message::{BaseRequest, BaseResponse, Version, envelope};
use crate::pdu::{
    Bind, BindAck, Body, Frame, HEADER_LEN, KMS_INTERFACE, NDR32, NDR64, Pdu, Request, frame,
};
use crate::stub::{self, Encoding, Reply};

use calls::{Asked, Call, Calls};

pub use calls::MAX_PENDING;

/// How many contexts are remembered.
const MAX_CONTEXTS: usize = 16;

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
    /// A call on a context that is not known as a KMS encoding.
    Context,
    /// Arguments or results that cannot be read.
    Stub,
    /// More calls than [`MAX_PENDING`] wait for their answers.
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
    /// The last bind's or alter_context's offers, until they are answered.
    offered: Vec<(u16, Option<Encoding>)>,
    contexts: Vec<(u16, Encoding)>,
    calls: Calls,
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
        let none_waits = self.calls.is_empty() && self.offered.is_empty();
        !none_waits && !self.upstream.lost
    }

    fn client_pdu(&mut self, pdu: &Pdu<'_>, see: &mut dyn FnMut(Sight)) {
        match &pdu.body {
            Body::Bind(bind) | Body::AlterContext(bind) => self.offered = offers(bind),
            Body::Request(request) => {
                if self.calls.knows(pdu.call_id) {
                    // A later fragment: the first one has told.
                    return;
                }
                let call = Call {
                    call_id: pdu.call_id,
                    asked: self.asked(request),
                };
                if !self.calls.add(call) {
                    see(Sight::Undecoded(Undecoded::Pending));
                }
            }
            _ => {}
        }
    }

    /// What a call asks.
    fn asked(&self, request: &Request<'_>) -> Result<Asked, Undecoded> {
        let mut contexts = self.contexts.iter();
        let bound = contexts.find(|(id, _)| *id == request.context_id);
        let (_, encoding) = *bound.ok_or(Undecoded::Context)?;
        let version = version(encoding, request.stub).ok_or(Undecoded::Stub)?;
        let clear = (version.protocol() == Some(Protocol::V4))
            .then(|| stub::decode_request(encoding, request.stub).ok())
            .flatten()
            .and_then(clear_request);
        Ok(Asked {
            encoding,
            version,
            request: clear,
        })
    }

    fn upstream_pdu(&mut self, pdu: &Pdu<'_>, see: &mut dyn FnMut(Sight)) {
        match &pdu.body {
            Body::BindAck(ack) | Body::AlterContextResponse(ack) => self.accepted(ack),
            Body::BindNak(_) => self.offered.clear(),
            Body::Response(response) => {
                if let Some(call) = self.calls.answered(pdu.call_id) {
                    see(seen(call, |asked| answer(asked, response.stub)));
                }
            }
            Body::Fault(fault) => {
                if let Some(call) = self.calls.failed(pdu.call_id) {
                    let status = HResult(fault.status.0);
                    see(seen(call, |_| Ok(Outcome::Fault(status))));
                }
            }
            _ => {}
        }
    }

    fn accepted(&mut self, ack: &BindAck) {
        let offered = std::mem::take(&mut self.offered);
        for ((id, encoding), answer) in offered.into_iter().zip(&ack.answers) {
            let Some(encoding) = encoding.filter(|_| answer.is_accepted()) else {
                continue;
            };
            // An offer of several syntaxes is accepted in one of them.
            let encoding = encoding_of(answer.syntax.uuid).unwrap_or(encoding);
            if let Some((_, known)) = self.contexts.iter_mut().find(|(known, _)| *known == id) {
                *known = encoding;
            } else if self.contexts.len() < MAX_CONTEXTS {
                self.contexts.push((id, encoding));
            }
        }
    }
}

/// What is seen of a call that has come to its end.
fn seen(call: Call, outcome: impl FnOnce(&Asked) -> Result<Outcome, Undecoded>) -> Sight {
    let seen = call.asked.and_then(|asked| {
        let outcome = outcome(&asked)?;
        Ok(Seen {
            version: asked.version,
            request: asked.request,
            outcome,
        })
    });
    match seen {
        Ok(seen) => Sight::Request(Box::new(seen)),
        Err(why) => Sight::Undecoded(why),
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

/// The offers by their ids; with an encoding where it is one of KMS.
fn offers(bind: &Bind) -> Vec<(u16, Option<Encoding>)> {
    let offer = |context: &crate::pdu::ContextElement| {
        let mut syntaxes = context.transfer_syntaxes.iter();
        let encoding = syntaxes
            .find_map(|syntax| encoding_of(syntax.uuid))
            .filter(|_| context.interface.uuid == KMS_INTERFACE.uuid);
        (context.id, encoding)
    };
    bind.contexts.iter().map(offer).collect()
}

fn encoding_of(syntax: uuid::Uuid) -> Option<Encoding> {
    match syntax {
        uuid if uuid == NDR32.uuid => Some(Encoding::Ndr32),
        uuid if uuid == NDR64.uuid => Some(Encoding::Ndr64),
        _ => None,
    }
}

/// The version, which begins the message, which follows the counts. Also of a first
/// fragment.
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
