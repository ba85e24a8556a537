//! One connection's state: from bytes to a reply, PDU by PDU.

use std::num::NonZeroU32;

use jiff::Timestamp;

use crate::pdu::{
    Bind, BindAck, BindNak, Body, ContextAnswer, Fault, Flags, Frame, FrameError, HEADER_LEN,
    Header, MAX_FRAGMENT, NakReason, PacketType, Pdu, PduError, RejectReason, Request,
    encode_response, frame,
};
use crate::stub::{self, Encoding};

use super::negotiation::{Spoken, negotiate};
use super::{Action, Exchange, Host, Outcome, Reason, Step, Verdict};

/// How many contexts may be bound at once. One PDU has room for 132; only a
/// client that goes on and on with alter_context meets this.
const MAX_CONTEXTS: usize = 256;

/// Room for the longest answer: its buffer grows once.
const ANSWER: usize = 384;

/// What a connection is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssociationSettings {
    /// A number for this connection; vlmcsd starts at random and counts up.
    pub group_id: NonZeroU32,
    /// The local TCP port, told in bind_ack.
    pub port: u16,
    /// Whether NDR64 is spoken beside NDR32.
    pub ndr64: bool,
    /// Whether bind time features are negotiated.
    pub btfn: bool,
}

impl AssociationSettings {
    /// With everything spoken.
    #[must_use]
    pub fn new(group_id: NonZeroU32, port: u16) -> Self {
        Self {
            group_id,
            port,
            ndr64: true,
            btfn: true,
        }
    }
}

/// What an association needs from outside while it handles a PDU.
pub struct Env<'a> {
    /// Who answers.
    pub host: &'a Host,
    /// The time, to hold the client's clock against.
    pub now: Timestamp,
    /// Fills a slice with random bytes.
    pub random: &'a mut dyn FnMut(&mut [u8]),
}

/// The state of one connection, from accept to close.
#[derive(Debug)]
pub struct Association {
    settings: AssociationSettings,
    bound: bool,
    /// Context ids that stand for a data syntax. A list: it has one or two entries.
    contexts: Vec<(u16, Encoding)>,
    partial: Option<Partial>,
}

/// A call of which some fragments are there.
#[derive(Debug)]
struct Partial {
    call_id: u32,
    context_id: u16,
    opnum: u16,
    stub: Vec<u8>,
    /// Bytes of all fragments with their headers, so that empty ones end too.
    total: usize,
}

/// What was decided about a PDU, before it is an [`Outcome`].
struct Decision {
    action: Action,
    reason: Reason,
    exchange: Option<Exchange>,
}

impl Association {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(settings: AssociationSettings) -> Self {
        Self {
            settings,
            bound: false,
            contexts: Vec::new(),
            partial: None,
        }
    }

    /// Whether the first fragments of a call are here, and the rest is waited for.
    #[must_use]
    pub fn holds_fragments(&self) -> bool {
        self.partial.is_some()
    }

    /// Deals with the first PDU in `received`: the bytes that were received and
    /// not yet consumed. What is to be sent is appended to `reply`.
    ///
    /// Call it again with what is left until it says [`Step::NeedMore`]. After an
    /// [`Action`] that closes there is nothing to handle any more.
    pub fn handle(&mut self, received: &[u8], env: Env<'_>, reply: &mut Vec<u8>) -> Step {
        let (consumed, decision) = match frame(received) {
            Ok(Frame::NeedMore { total }) => return Step::NeedMore { total },
            Ok(Frame::Whole { header, body }) => {
                let decision = match Pdu::decode(&header, body) {
                    Ok(pdu) => self.handle_pdu(pdu, HEADER_LEN + body.len(), env, reply),
                    Err(error) => unreadable(&header, error, reply),
                };
                (HEADER_LEN + body.len(), decision)
            }
            Err(error) => (received.len(), unframed(error, reply)),
        };
        let Decision {
            action,
            reason,
            exchange,
        } = decision;
        Step::Done(Outcome {
            consumed,
            action,
            reason,
            exchange,
        })
    }

    fn handle_pdu(
        &mut self,
        pdu: Pdu<'_>,
        len: usize,
        env: Env<'_>,
        reply: &mut Vec<u8>,
    ) -> Decision {
        let packet_type = pdu.body.packet_type();
        match pdu.body {
            Body::Bind(bind) => self.bind(pdu.flags, pdu.call_id, &bind, reply),
            Body::AlterContext(bind) => self.alter(pdu.flags, pdu.call_id, &bind, reply),
            Body::Request(request) => {
                self.request(pdu.flags, pdu.call_id, request, len, env, reply)
            }
            Body::Other(PacketType::CoCancel, _) => {
                Decision::quiet(Action::Continue, Reason::Ignored(packet_type))
            }
            Body::Other(PacketType::Orphaned, _) => {
                // The client gave up a call that it has not sent to its end.
                self.partial
                    .take_if(|partial| partial.call_id == pdu.call_id);
                Decision::quiet(Action::Continue, Reason::Ignored(packet_type))
            }
            _ => Decision::quiet(Action::Close, Reason::UnexpectedPacket(packet_type)),
        }
    }

    fn bind(&mut self, flags: Flags, call_id: u32, bind: &Bind, reply: &mut Vec<u8>) -> Decision {
        if self.bound {
            return nak(call_id, NakReason::UNSPECIFIED, Reason::AlreadyBound, reply);
        }
        if let Err(reason) = usable(flags, bind) {
            return nak(call_id, NakReason::UNSPECIFIED, reason, reply);
        }
        self.bound = true;
        let answers = self.accept(bind);
        let bound = answers.iter().any(ContextAnswer::is_accepted);
        let reason = if bound {
            Reason::Bound
        } else {
            Reason::NothingAccepted
        };
        let mut secondary_address = self.settings.port.to_string().into_bytes();
        secondary_address.push(0);
        let offered = Flags(flags.0 & Flags::CONC_MPX.0);
        let flags = Flags::WHOLE.with(offered);
        let ack = self.ack(bind, secondary_address, answers);
        send(flags, call_id, Body::BindAck(ack), reply);
        Decision::quiet(Action::Send, reason)
    }

    fn alter(&mut self, flags: Flags, call_id: u32, bind: &Bind, reply: &mut Vec<u8>) -> Decision {
        let usable = if self.bound {
            usable(flags, bind)
        } else {
            Err(Reason::NotBound)
        };
        if let Err(reason) = usable {
            return fault(call_id, 0, Action::SendAndClose, reason, reply);
        }
        let answers = self.accept(bind);
        let reason = if answers.iter().any(ContextAnswer::is_accepted) {
            Reason::Altered
        } else {
            Reason::NothingAccepted
        };
        let ack = self.ack(bind, Vec::new(), answers);
        send(
            Flags::WHOLE,
            call_id,
            Body::AlterContextResponse(ack),
            reply,
        );
        Decision::quiet(Action::Send, reason)
    }

    /// Answers the offers and remembers what was accepted. An id that is accepted
    /// again stands for the newer syntax; one that is rejected stays as it was.
    fn accept(&mut self, bind: &Bind) -> Vec<ContextAnswer> {
        let spoken = Spoken {
            ndr64: self.settings.ndr64,
            btfn: self.settings.btfn,
        };
        let negotiated = negotiate(spoken, &bind.contexts);
        let mut answers = Vec::with_capacity(negotiated.len());
        for (offer, (answer, encoding)) in bind.contexts.iter().zip(negotiated) {
            let remembered = encoding.is_none_or(|encoding| self.remember(offer.id, encoding));
            answers.push(if remembered {
                answer
            } else {
                ContextAnswer::rejected(RejectReason::LocalLimit)
            });
        }
        answers
    }

    fn remember(&mut self, id: u16, encoding: Encoding) -> bool {
        if let Some((_, known)) = self.contexts.iter_mut().find(|(known, _)| *known == id) {
            *known = encoding;
        } else if self.contexts.len() < MAX_CONTEXTS {
            self.contexts.push((id, encoding));
        } else {
            return false;
        }
        true
    }

    fn ack(&self, bind: &Bind, secondary_address: Vec<u8>, answers: Vec<ContextAnswer>) -> BindAck {
        BindAck {
            // The client's numbers, but never more than we take.
            max_xmit_frag: bind.max_xmit_frag.min(MAX_FRAGMENT),
            max_recv_frag: bind.max_recv_frag.min(MAX_FRAGMENT),
            assoc_group_id: self.settings.group_id.get(),
            secondary_address,
            answers,
        }
    }

    fn request(
        &mut self,
        flags: Flags,
        call_id: u32,
        request: Request<'_>,
        len: usize,
        env: Env<'_>,
        reply: &mut Vec<u8>,
    ) -> Decision {
        let Request {
            context_id, opnum, ..
        } = request;
        if !self.bound {
            let close = Action::SendAndClose;
            return fault(call_id, context_id, close, Reason::NotBound, reply);
        }
        // Nearly every call is one fragment and needs no copy.
        if flags.contains(Flags::WHOLE) && self.partial.is_none() {
            return self.call(call_id, context_id, opnum, request.stub, env, reply);
        }
        match self.reassemble(flags, call_id, request, len) {
            Ok(Some(whole)) => {
                let Partial {
                    context_id, opnum, ..
                } = whole;
                self.call(call_id, context_id, opnum, &whole.stub, env, reply)
            }
            Ok(None) => Decision::quiet(Action::Continue, Reason::FragmentHeld),
            Err(reason) => fault(call_id, context_id, Action::SendAndClose, reason, reply),
        }
    }

    /// Adds a fragment, and gives the call when it is whole. Context and operation
    /// are the first fragment's.
    fn reassemble(
        &mut self,
        flags: Flags,
        call_id: u32,
        request: Request<'_>,
        len: usize,
    ) -> Result<Option<Partial>, Reason> {
        let mut partial = match self.partial.take() {
            None if flags.contains(Flags::FIRST) => Partial {
                call_id,
                context_id: request.context_id,
                opnum: request.opnum,
                stub: Vec::new(),
                total: 0,
            },
            Some(partial) if partial.call_id == call_id && !flags.contains(Flags::FIRST) => partial,
            _ => return Err(Reason::FragmentSequence),
        };
        partial.total += len;
        if partial.total > usize::from(MAX_FRAGMENT) {
            let total = partial.total;
            return Err(Reason::FragmentsTooLong { total });
        }
        partial.stub.extend_from_slice(request.stub);
        if flags.contains(Flags::LAST) {
            return Ok(Some(partial));
        }
        self.partial = Some(partial);
        Ok(None)
    }

    fn call(
        &mut self,
        call_id: u32,
        context_id: u16,
        opnum: u16,
        stub: &[u8],
        env: Env<'_>,
        reply: &mut Vec<u8>,
    ) -> Decision {
        let message = || {
            let bound = self.contexts.iter().find(|(id, _)| *id == context_id);
            let (_, encoding) = *bound.ok_or(Reason::UnknownContext(context_id))?;
            if opnum != 0 {
                return Err(Reason::Operation(opnum));
            }
            let message = stub::decode_request(encoding, stub).map_err(Reason::Stub)?;
            Ok((encoding, message))
        };
        let (encoding, message) = match message() {
            Ok(message) => message,
            Err(reason) => return fault(call_id, context_id, Action::Send, reason, reply),
        };
        let Env { host, now, random } = env;
        let answer = |out: &mut Vec<u8>| {
            let exchange = host.answer(message, now, random, out);
            let refused = match &exchange.verdict {
                Verdict::Answered { .. } => None,
                Verdict::Refused(refusal) => Some(refusal.hresult()),
            };
            ((exchange, refused), refused)
        };
        reply.reserve(ANSWER);
        let sent = encode_response(call_id, context_id, reply, |out| {
            stub::encode_answer(encoding, out, answer)
        });
        let (exchange, refused) = sent.expect("an answer fits a fragment many times over");
        let reason = refused.map_or(Reason::Answered, Reason::Refused);
        Decision {
            action: Action::Send,
            reason,
            exchange: Some(exchange),
        }
    }
}

impl Decision {
    /// Without a KMS request.
    fn quiet(action: Action, reason: Reason) -> Self {
        Self {
            action,
            reason,
            exchange: None,
        }
    }
}

/// Whether a bind or alter_context comes whole and offers something.
fn usable(flags: Flags, bind: &Bind) -> Result<(), Reason> {
    if !flags.contains(Flags::WHOLE) {
        return Err(Reason::FragmentSequence);
    }
    // An offer without a syntax is a list shorter than it should be; taking it
    // would also make the answer longer than the question.
    let empty = bind
        .contexts
        .iter()
        .any(|offer| offer.transfer_syntaxes.is_empty());
    if bind.contexts.is_empty() || empty {
        return Err(Reason::NoContext);
    }
    Ok(())
}

/// A PDU whose end is known and whose contents are not.
fn unreadable(header: &Header, error: PduError, reply: &mut Vec<u8>) -> Decision {
    let why = match error {
        PduError::Version { .. } => NakReason::VERSION,
        PduError::Authentication { .. } => NakReason::AUTHENTICATION,
        _ => NakReason::UNSPECIFIED,
    };
    refuse(
        header.packet_type,
        header.call_id,
        why,
        Reason::Pdu(error),
        reply,
    )
}

/// Bytes whose end is not known.
fn unframed(error: FrameError, reply: &mut Vec<u8>) -> Decision {
    let reason = Reason::Frame(error);
    match error {
        FrameError::ByteOrder {
            packet_type,
            call_id,
            ..
        } => refuse(packet_type, call_id, NakReason::UNSPECIFIED, reason, reply),
        FrameError::TooShort { .. } | FrameError::TooLong { .. } => {
            Decision::quiet(Action::Close, reason)
        }
    }
}

/// Closes, with a word to those whose type of PDU has one.
fn refuse(
    packet_type: PacketType,
    call_id: u32,
    why: NakReason,
    reason: Reason,
    reply: &mut Vec<u8>,
) -> Decision {
    match packet_type {
        PacketType::Bind => nak(call_id, why, reason, reply),
        PacketType::AlterContext | PacketType::Request => {
            fault(call_id, 0, Action::SendAndClose, reason, reply)
        }
        _ => Decision::quiet(Action::Close, reason),
    }
}

fn nak(call_id: u32, why: NakReason, reason: Reason, reply: &mut Vec<u8>) -> Decision {
    let nak = BindNak {
        reason: why,
        versions: vec![(5, 0)],
    };
    send(Flags::WHOLE, call_id, Body::BindNak(nak), reply);
    Decision::quiet(Action::SendAndClose, reason)
}

/// No call that is told a fault was ever executed.
fn fault(
    call_id: u32,
    context_id: u16,
    action: Action,
    reason: Reason,
    reply: &mut Vec<u8>,
) -> Decision {
    let Some(status) = reason.fault() else {
        return Decision::quiet(Action::Close, reason);
    };
    let flags = Flags::WHOLE.with(Flags::DID_NOT_EXECUTE);
    let fault = Fault {
        alloc_hint: 0,
        context_id,
        cancel_count: 0,
        status,
    };
    send(flags, call_id, Body::Fault(fault), reply);
    Decision::quiet(action, reason)
}

fn send(flags: Flags, call_id: u32, body: Body<'_>, reply: &mut Vec<u8>) {
    let pdu = Pdu {
        flags,
        call_id,
        body,
    };
    pdu.encode(reply)
        .expect("an answer to an offer is shorter than the offer, and all else is short");
}
