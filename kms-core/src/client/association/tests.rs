//! The client against the responder, and against hosts that say nonsense.

use std::num::NonZeroU32;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::lab::LabSuite;
use crate::responder::{self, Action, AssociationSettings, Env, Host, Policy};

/// A responder behind one connection.
struct Peer {
    host: Host,
    association: responder::Association,
}

impl Peer {
    fn new(ndr64: bool, btfn: bool) -> Self {
        let mut random = |bytes: &mut [u8]| bytes.fill(4);
        let settings = AssociationSettings {
            ndr64,
            btfn,
            ..AssociationSettings::new(NonZeroU32::MIN, 1688)
        };
        Self {
            host: Host::new(Policy::default(), Box::new(LabSuite), &mut random),
            association: responder::Association::new(settings),
        }
    }

    fn answer(&mut self, sent: &[u8]) -> Vec<u8> {
        let mut random = |bytes: &mut [u8]| bytes.fill(4);
        let env = Env {
            host: &mut self.host,
            now: Timestamp::UNIX_EPOCH,
            random: &mut random,
        };
        let mut reply = Vec::new();
        let step = self.association.handle(sent, env, &mut reply);
        let responder::Step::Done(outcome) = step else {
            panic!("the client sent no whole PDU: {sent:02x?}");
        };
        assert_eq!(outcome.consumed, sent.len(), "one PDU at a time");
        assert_eq!(outcome.action, Action::Send, "{:?}", outcome.reason);
        reply
    }
}

fn done<'a>(step: Result<Step<'a>, ClientError>) -> Event<'a> {
    match step {
        Ok(Step::Done { event, .. }) => event,
        other => panic!("{other:?}"),
    }
}

fn bind(association: &mut Association, peer: &mut Peer, offer: Offer) -> Bound {
    let mut out = Vec::new();
    association.bind(offer, &mut out);
    match done(association.handle(&peer.answer(&out))) {
        Event::Bound(bound) => bound,
        Event::Reply(reply) => panic!("{reply:?}"),
    }
}

#[test]
fn a_host_prefers_ndr64_and_takes_ndr32_afterwards() {
    let (mut association, mut peer) = (Association::new(), Peer::new(true, true));
    let bound = bind(&mut association, &mut peer, Offer::default());
    let expected = Bound {
        ndr32: false,
        ndr64: true,
        features: Some(FEATURES),
        group_id: 1,
    };
    assert_eq!(bound, expected);
    assert_eq!(association.preferred(), Some(Encoding::Ndr64));
    let mut out = Vec::new();
    let not_bound = association.request(Encoding::Ndr32, b"", &mut out);
    assert_eq!(not_bound, Err(ClientError::NotBound(Encoding::Ndr32)));
    association.alter(Encoding::Ndr32, &mut out);
    let answer = peer.answer(&out);
    let Event::Bound(bound) = done(association.handle(&answer)) else {
        panic!("an alter_context is answered as a bind is");
    };
    assert!(bound.ndr32 && !bound.ndr64);
    assert!(association.accepts(Encoding::Ndr32) && association.accepts(Encoding::Ndr64));
}

#[test]
fn calls_are_answered_in_both_encodings() {
    for encoding in [Encoding::Ndr32, Encoding::Ndr64] {
        let (mut association, mut peer) = (Association::new(), Peer::new(true, true));
        bind(&mut association, &mut peer, Offer::only(encoding));
        for _ in 0..2 {
            let mut out = Vec::new();
            association.request(encoding, &[7; 12], &mut out).unwrap();
            let answer = peer.answer(&out);
            // Not a KMS message, so the host refuses it, as a KMS host does.
            let refused = Reply::Refused(crate::hresult::HResult(0x8007_000D));
            assert_eq!(done(association.handle(&answer)), Event::Reply(refused));
        }
    }
}

#[test]
fn a_host_without_ndr64_and_features_is_bound_in_ndr32() {
    let (mut association, mut peer) = (Association::new(), Peer::new(false, false));
    let bound = bind(&mut association, &mut peer, Offer::default());
    assert!(bound.ndr32 && !bound.ndr64);
    assert_eq!(bound.features, None);
    assert_eq!(association.preferred(), Some(Encoding::Ndr32));
}

#[test]
fn a_host_that_accepts_nothing_is_an_error() {
    let (mut association, mut peer) = (Association::new(), Peer::new(false, true));
    let mut out = Vec::new();
    association.bind(Offer::only(Encoding::Ndr64), &mut out);
    let rejected = ClientError::Rejected {
        result: 2,
        reason: 2,
    };
    assert_eq!(association.handle(&peer.answer(&out)), Err(rejected));
    assert_eq!(association.preferred(), None);
}

fn answer(call_id: u32, body: Body<'_>) -> Vec<u8> {
    let pdu = Pdu {
        flags: Flags::WHOLE,
        call_id,
        body,
    };
    let mut out = Vec::new();
    pdu.encode(&mut out).unwrap();
    out
}

fn ack(answers: Vec<ContextAnswer>) -> Body<'static> {
    Body::BindAck(BindAck {
        max_xmit_frag: 5840,
        max_recv_frag: 5840,
        assoc_group_id: 1,
        secondary_address: b"1688\0".to_vec(),
        answers,
    })
}

#[test]
fn nonsense_from_a_host_is_named() {
    let accepted = ContextAnswer::accepted(NDR32);
    let nak = crate::pdu::BindNak {
        reason: NakReason::CONGESTION,
        versions: Vec::new(),
    };
    let fault = crate::pdu::Fault {
        alloc_hint: 0,
        context_id: 0,
        cancel_count: 0,
        status: FaultStatus::ACCESS_DENIED,
    };
    let answers = ClientError::Answers {
        offered: 3,
        answered: 1,
    };
    let call_id = ClientError::CallId {
        expected: 2,
        actual: 3,
    };
    for (bytes, error) in [
        (answer(2, ack(vec![accepted])), answers),
        (answer(2, ack(vec![accepted; 3])), ClientError::Syntax),
        (answer(3, ack(vec![accepted; 3])), call_id),
        (
            answer(2, Body::BindNak(nak)),
            ClientError::Nak(NakReason::CONGESTION),
        ),
        (
            answer(2, Body::Fault(fault)),
            ClientError::Fault(FaultStatus::ACCESS_DENIED),
        ),
        // With another call id, as from vlmcsd.
        (
            answer(7, Body::Fault(fault)),
            ClientError::Fault(FaultStatus::ACCESS_DENIED),
        ),
        (
            answer(2, Body::Other(PacketType::Shutdown, b"")),
            ClientError::Unexpected(PacketType::Shutdown),
        ),
    ] {
        let mut association = Association::new();
        association.bind(Offer::default(), &mut Vec::new());
        assert_eq!(association.handle(&bytes), Err(error));
    }
}

#[test]
fn an_answer_that_nobody_asked_for_is_no_answer() {
    let unasked = answer(CALL_ID_BEFORE, ack(Vec::new()));
    let unexpected = ClientError::Unexpected(PacketType::BindAck);
    assert_eq!(Association::new().handle(&unasked), Err(unexpected));
}

#[test]
fn a_message_that_fits_no_fragment_is_not_sent() {
    let (mut association, mut peer) = (Association::new(), Peer::new(true, true));
    bind(&mut association, &mut peer, Offer::default());
    let mut out = b"before".to_vec();
    let sent = association.request(Encoding::Ndr64, &[0; 5840], &mut out);
    assert_eq!(sent, Err(ClientError::TooLong(5840)));
    assert_eq!(out, b"before");
}

proptest! {
    /// Whatever a host says, byte by byte, is understood or named, and never more
    /// than one fragment is waited for.
    #[test]
    fn any_bytes_are_understood_or_named(bytes: Vec<u8>, genuine: bool, bound: bool) {
        let (mut association, mut peer) = (Association::new(), Peer::new(true, true));
        if bound {
            bind(&mut association, &mut peer, Offer::default());
            association.request(Encoding::Ndr64, b"x", &mut Vec::new()).unwrap();
        } else {
            association.bind(Offer::default(), &mut Vec::new());
        }
        let head: &[u8] = if genuine { &[5, 0, 12, 3, 16, 0, 0, 0] } else { &[] };
        let received = [head, &bytes].concat();
        if let Ok(Step::NeedMore { total }) = association.handle(&received) {
            prop_assert!(total > received.len() && total <= usize::from(MAX_FRAGMENT));
        }
    }
}
