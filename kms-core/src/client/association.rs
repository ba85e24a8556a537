//! Which bytes a client sends, and what the host's bytes mean.

use crate::pdu::{
    Bind, BindAck, Body, ContextAnswer, ContextElement, FaultStatus, Flags, Frame, FrameError,
    HEADER_LEN, KMS_INTERFACE, MAX_FRAGMENT, NDR32, NDR64, NakReason, PacketType, Pdu, PduError,
    Request, SyntaxId, frame,
};
use crate::stub::{self, Encoding, Reply, StubError};

/// The context ids that Windows gives its three offers.
const NDR32_CONTEXT: u16 = 0;
const NDR64_CONTEXT: u16 = 1;
const FEATURES_CONTEXT: u16 = 2;

/// Security context multiplexing, and keeping the connection on orphans.
const FEATURES: u16 = 0x0003;

/// The call id before the first; Windows begins with 2.
const CALL_ID_BEFORE: u32 = 1;

/// What a bind offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The KMS interface with 32-bit counts.
    pub ndr32: bool,
    /// The KMS interface with 64-bit counts, which hosts prefer.
    pub ndr64: bool,
    /// Bind time feature negotiation, with both features there are.
    pub features: bool,
}

impl Default for Offer {
    /// Everything, as Windows does.
    fn default() -> Self {
        Self {
            ndr32: true,
            ndr64: true,
            features: true,
        }
    }
}

impl Offer {
    /// One encoding, and the features.
    #[must_use]
    pub fn only(encoding: Encoding) -> Self {
        Self {
            ndr32: encoding == Encoding::Ndr32,
            ndr64: encoding == Encoding::Ndr64,
            features: true,
        }
    }

    fn contexts(self) -> Vec<ContextElement> {
        let offers = [
            (self.ndr32, NDR32_CONTEXT, NDR32),
            (self.ndr64, NDR64_CONTEXT, NDR64),
            (self.features, FEATURES_CONTEXT, SyntaxId::btfn(FEATURES)),
        ];
        let element = |(_, id, syntax)| ContextElement {
            id,
            interface: KMS_INTERFACE,
            transfer_syntaxes: vec![syntax],
        };
        let offered = offers.into_iter().filter(|(offered, ..)| *offered);
        offered.map(element).collect()
    }
}

/// What became of the bytes received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// They are no whole PDU yet.
    NeedMore {
        /// How many bytes there must be, from the same first byte; at most
        /// [`MAX_FRAGMENT`].
        total: usize,
    },
    /// One PDU was understood.
    Done {
        /// How many of the received bytes it took.
        consumed: usize,
        /// What it says.
        event: Event<'a>,
    },
}

/// What a host said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The bind or alter_context was answered, and something of it accepted.
    Bound(Bound),
    /// The call was answered, or refused with a result code.
    Reply(Reply<'a>),
}

/// What a host accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Requests may be sent in NDR32.
    pub ndr32: bool,
    /// Requests may be sent in NDR64.
    pub ndr64: bool,
    /// The features in force, where they were negotiated.
    pub features: Option<u16>,
    /// The host's number for the association.
    pub group_id: u32,
}

/// Why the host cannot be talked to, or what it refuses below the level of KMS.
///
/// After [`ClientError::Fault`] the association goes on; after anything else it
/// is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The bytes are no PDU.
    #[error("not DCE/RPC: {0}")]
    Frame(#[from] FrameError),
    /// A PDU that cannot be read.
    #[error("malformed RPC: {0}")]
    Pdu(#[from] PduError),
    /// bind_nak: the bind was refused altogether.
    #[error("the host refused to bind (bind_nak, reason {})", .0.0)]
    Nak(NakReason),
    /// bind_ack without one offer accepted. With result 2 the reason is one of
    /// [`crate::pdu::RejectReason`]'s: 1 is another interface than KMS.
    #[error(
        "the host does not accept the KMS interface as offered (result {result}, reason {reason})"
    )]
    Rejected {
        /// What it says to the offer of an encoding: 1 or 2.
        result: u16,
        /// Why.
        reason: u16,
    },
    /// bind_ack with another number of answers than offers.
    #[error("{answered} answers to {offered} offers")]
    Answers {
        /// Contexts in the bind.
        offered: usize,
        /// Results in the answer.
        answered: usize,
    },
    /// A transfer syntax was accepted that was not offered there.
    #[error("the host accepted a transfer syntax that was not offered")]
    Syntax,
    /// The call failed at the RPC level.
    #[error("the host answered with a fault: {0}")]
    Fault(FaultStatus),
    /// The answer is to another call.
    #[error("an answer to call {actual}, expected to call {expected}")]
    CallId {
        /// Of the call that waits.
        expected: u32,
        /// Of the PDU.
        actual: u32,
    },
    /// A PDU that is no answer to what was sent.
    #[error("{0:?} is no answer to what was sent")]
    Unexpected(PacketType),
    /// An answer in several fragments. KMS answers fit one several times over.
    #[error("the answer comes in fragments")]
    Fragments,
    /// The results of the call cannot be read.
    #[error("malformed results: {0}")]
    Stub(#[from] StubError),
    /// A request in an encoding that the host did not accept.
    #[error("{0:?} was not accepted by the host")]
    NotBound(Encoding),
    /// A message that fits no fragment.
    #[error("a message of {0} bytes fits no fragment")]
    TooLong(usize),
}

/// What was sent and is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Waiting {
    Nothing,
    Bind(Vec<ContextElement>),
    Alter(Vec<ContextElement>),
    Call(Encoding),
}

/// One connection's state. One call at a time: the next may be sent when the one
/// before is answered.
#[derive(Clone, Debug)]
pub struct Association {
    waiting: Waiting,
    call_id: u32,
    ndr32: bool,
    ndr64: bool,
    /// Room for a call's arguments, kept from one to the next.
    stub: Vec<u8>,
}

impl Default for Association {
    fn default() -> Self {
        Self::new()
    }
}

impl Association {
    /// A new connection, nothing sent.
    #[must_use]
    pub fn new() -> Self {
        Self {
            waiting: Waiting::Nothing,
            call_id: CALL_ID_BEFORE,
            ndr32: false,
            ndr64: false,
            stub: Vec::new(),
        }
    }

    /// Appends a bind to `out`: the first thing to send.
    pub fn bind(&mut self, offer: Offer, out: &mut Vec<u8>) {
        let contexts = offer.contexts();
        let flags = Flags::WHOLE.with(Flags::CONC_MPX);
        let body = Body::Bind(binding(contexts.clone()));
        self.send(flags, body, out);
        self.waiting = Waiting::Bind(contexts);
    }

    /// Appends an alter_context to `out`, which offers one more encoding, as
    /// Windows does where it was given NDR64 alone.
    pub fn alter(&mut self, encoding: Encoding, out: &mut Vec<u8>) {
        let offer = Offer {
            features: false,
            ..Offer::only(encoding)
        };
        let contexts = offer.contexts();
        self.send(
            Flags::WHOLE,
            Body::AlterContext(binding(contexts.clone())),
            out,
        );
        self.waiting = Waiting::Alter(contexts);
    }

    /// Appends a call with this KMS message to `out`.
    ///
    /// # Errors
    /// [`ClientError::NotBound`] and [`ClientError::TooLong`]; `out` is as before
    /// then.
    pub fn request(
        &mut self,
        encoding: Encoding,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), ClientError> {
        if !self.accepts(encoding) {
            return Err(ClientError::NotBound(encoding));
        }
        let mut stub = std::mem::take(&mut self.stub);
        stub.clear();
        stub::encode_request(encoding, message, &mut stub);
        let call_id = self.next_call_id();
        let call = Pdu {
            flags: Flags::WHOLE,
            call_id,
            body: Body::Request(Request {
                alloc_hint: u32::try_from(stub.len()).unwrap_or(0),
                context_id: match encoding {
                    Encoding::Ndr32 => NDR32_CONTEXT,
                    Encoding::Ndr64 => NDR64_CONTEXT,
                },
                opnum: 0,
                object: None,
                stub: &stub,
            }),
        };
        let encoded = call.encode(out);
        self.stub = stub;
        encoded.map_err(|_| ClientError::TooLong(message.len()))?;
        self.waiting = Waiting::Call(encoding);
        Ok(())
    }

    /// Whether requests may be sent in this encoding.
    #[must_use]
    pub fn accepts(&self, encoding: Encoding) -> bool {
        match encoding {
            Encoding::Ndr32 => self.ndr32,
            Encoding::Ndr64 => self.ndr64,
        }
    }

    /// The encoding to use: NDR64 where it was accepted, as Windows does.
    #[must_use]
    pub fn preferred(&self) -> Option<Encoding> {
        let best_first = [Encoding::Ndr64, Encoding::Ndr32];
        best_first.into_iter().find(|one| self.accepts(*one))
    }

    /// Understands the first PDU in `received`: the bytes that were received and
    /// not yet consumed.
    ///
    /// # Errors
    /// [`ClientError`], which says when the association may be used further. The
    /// PDU of a [`ClientError::Fault`] is as long as its header says.
    pub fn handle<'a>(&mut self, received: &'a [u8]) -> Result<Step<'a>, ClientError> {
        let (header, body) = match frame(received)? {
            Frame::NeedMore { total } => return Ok(Step::NeedMore { total }),
            Frame::Whole { header, body } => (header, body),
        };
        let pdu = Pdu::decode(&header, body)?;
        // vlmcsd's faults all have the same call id, and only one call waits.
        let is_fault = matches!(pdu.body, Body::Fault(_));
        if pdu.call_id != self.call_id && !is_fault {
            return Err(ClientError::CallId {
                expected: self.call_id,
                actual: pdu.call_id,
            });
        }
        if !pdu.flags.contains(Flags::WHOLE) {
            return Err(ClientError::Fragments);
        }
        let event = self.understand(pdu.body)?;
        Ok(Step::Done {
            consumed: HEADER_LEN + body.len(),
            event,
        })
    }

    fn understand<'a>(&mut self, body: Body<'a>) -> Result<Event<'a>, ClientError> {
        match (std::mem::replace(&mut self.waiting, Waiting::Nothing), body) {
            (Waiting::Bind(offered), Body::BindAck(ack))
            | (Waiting::Alter(offered), Body::AlterContextResponse(ack)) => {
                self.bound(&offered, &ack).map(Event::Bound)
            }
            (Waiting::Bind(_), Body::BindNak(nak)) => Err(ClientError::Nak(nak.reason)),
            (Waiting::Call(encoding), Body::Response(response)) => Ok(Event::Reply(
                stub::decode_response(encoding, response.stub)?,
            )),
            // Hosts answer with a fault to whatever they do not like.
            (Waiting::Bind(_) | Waiting::Alter(_) | Waiting::Call(_), Body::Fault(fault)) => {
                Err(ClientError::Fault(fault.status))
            }
            (_, other) => Err(ClientError::Unexpected(other.packet_type())),
        }
    }

    fn bound(&mut self, offered: &[ContextElement], ack: &BindAck) -> Result<Bound, ClientError> {
        if offered.len() != ack.answers.len() {
            return Err(ClientError::Answers {
                offered: offered.len(),
                answered: ack.answers.len(),
            });
        }
        let mut bound = Bound {
            ndr32: false,
            ndr64: false,
            features: None,
            group_id: ack.assoc_group_id,
        };
        let mut rejected = None;
        for (offer, answer) in offered.iter().zip(&ack.answers) {
            match (offer.id, answer.is_accepted()) {
                (FEATURES_CONTEXT, _) => {
                    bound.features = (answer.result == NEGOTIATED).then_some(answer.reason);
                }
                // Only the version is the host's to say; some leave it out.
                (_, true) if !is_offered(offer, answer) => return Err(ClientError::Syntax),
                (NDR32_CONTEXT, true) => bound.ndr32 = true,
                (_, true) => bound.ndr64 = true,
                (_, false) => {
                    rejected = rejected.or(Some((answer.result, answer.reason)));
                }
            }
        }
        self.ndr32 |= bound.ndr32;
        self.ndr64 |= bound.ndr64;
        match rejected {
            Some((result, reason)) if !bound.ndr32 && !bound.ndr64 => {
                Err(ClientError::Rejected { result, reason })
            }
            _ => Ok(bound),
        }
    }

    fn next_call_id(&mut self) -> u32 {
        self.call_id = self.call_id.wrapping_add(1);
        self.call_id
    }

    fn send(&mut self, flags: Flags, body: Body<'_>, out: &mut Vec<u8>) {
        let call_id = self.next_call_id();
        let pdu = Pdu {
            flags,
            call_id,
            body,
        };
        pdu.encode(out).expect("three offers fit a fragment");
    }
}

/// What `result` says of negotiated features.
const NEGOTIATED: u16 = 3;

fn is_offered(offer: &ContextElement, answer: &ContextAnswer) -> bool {
    let offered = &offer.transfer_syntaxes;
    offered.iter().any(|one| one.uuid == answer.syntax.uuid)
}

fn binding(contexts: Vec<ContextElement>) -> Bind {
    Bind {
        max_xmit_frag: MAX_FRAGMENT,
        max_recv_frag: MAX_FRAGMENT,
        assoc_group_id: 0,
        contexts,
    }
}

#[cfg(test)]
mod tests;
