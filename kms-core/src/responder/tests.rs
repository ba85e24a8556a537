//! The strictness table, row by row ([`table`] knows which test is whose); the
//! host's policy is in [`policy`].

mod policy;
mod table;

use std::num::NonZeroU32;

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::{Uuid, uuid};

use super::Action::{Close, Continue, Send, SendAndClose};
use super::*;
use crate::catalog::Protocol;
use crate::lab::LabSuite;
use crate::message::{FileTime, SealError, envelope};
use crate::pdu::{
    Bind, Body, ContextElement, Flags, Frame, KMS_INTERFACE, MAX_FRAGMENT, NDR32, NDR64, Pdu,
    Request, SyntaxId, frame,
};
use crate::stub::{Encoding, Reply, decode_response, encode_request};

const IV: [u8; 16] = [9; 16];
const NDR32_ID: u16 = 0;
const NDR64_ID: u16 = 1;
const BTFN_ID: u16 = 2;

fn now() -> Timestamp {
    "2026-03-14T08:26:53Z".parse().unwrap()
}

fn windows_10(protocol: Protocol) -> BaseRequest {
    BaseRequest {
        version: protocol.into(),
        virtual_machine: 0,
        license_status: 2,
        remaining_minutes: 43_200,
        application_id: uuid!("55c92734-d682-4d71-983e-d6ec3f16059f"),
        activation_id: uuid!("73111121-5638-40f6-bc11-f1d7b0d64300"),
        kms_counted_id: uuid!("58e2134f-8e11-4d17-9cb2-91069c151148"),
        client_machine_id: uuid!("0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0ff"),
        min_clients: 25,
        client_time: FileTime::from(now()),
        previous_client_machine_id: Uuid::nil(),
        workstation: "PC1.example.org".parse().unwrap(),
    }
}

fn message(request: &BaseRequest) -> Vec<u8> {
    let mut out = Vec::new();
    envelope::seal_request(&LabSuite, request, &IV, &mut out).unwrap();
    out
}

fn pdu(flags: u8, body: Body<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let pdu = Pdu {
        flags: Flags(flags),
        call_id: 2,
        body,
    };
    pdu.encode(&mut out).unwrap();
    out
}

fn element(id: u16, syntaxes: &[SyntaxId]) -> ContextElement {
    ContextElement {
        id,
        interface: KMS_INTERFACE,
        transfer_syntaxes: syntaxes.to_vec(),
    }
}

fn offer(contexts: Vec<ContextElement>) -> Bind {
    Bind {
        max_xmit_frag: 5840,
        max_recv_frag: 5840,
        assoc_group_id: 0,
        contexts,
    }
}

fn bind_with(contexts: Vec<ContextElement>) -> Vec<u8> {
    pdu(0x13, Body::Bind(offer(contexts)))
}

fn alter_with(contexts: Vec<ContextElement>) -> Vec<u8> {
    pdu(0x03, Body::AlterContext(offer(contexts)))
}

/// What Windows sends: NDR64 is accepted, NDR32 rejected in its favour.
fn bind() -> Vec<u8> {
    bind_with(vec![
        element(NDR32_ID, &[NDR32]),
        element(NDR64_ID, &[NDR64]),
        element(BTFN_ID, &[SyntaxId::btfn(3)]),
    ])
}

fn bind_ndr32() -> Vec<u8> {
    bind_with(vec![element(NDR32_ID, &[NDR32])])
}

fn request_of(
    flags: u8,
    context_id: u16,
    opnum: u16,
    object: Option<Uuid>,
    stub: &[u8],
) -> Vec<u8> {
    let request = Request {
        alloc_hint: 0,
        context_id,
        opnum,
        object,
        stub,
    };
    pdu(flags, Body::Request(request))
}

fn stub(encoding: Encoding, message: &[u8]) -> Vec<u8> {
    let mut stub = Vec::new();
    encode_request(encoding, message, &mut stub);
    stub
}

fn call(message: &[u8]) -> Vec<u8> {
    request_of(3, NDR64_ID, 0, None, &stub(Encoding::Ndr64, message))
}

fn good_call() -> Vec<u8> {
    call(&message(&windows_10(Protocol::V6)))
}

fn random(bytes: &mut [u8]) {
    bytes.fill(4);
}

/// A host and one connection to it.
struct Connection {
    host: Host,
    association: Association,
}

impl Connection {
    fn new(policy: Policy) -> Self {
        let settings = AssociationSettings::new(NonZeroU32::new(77).unwrap(), 1688);
        Self {
            host: Host::new(policy, Box::new(LabSuite), &mut random),
            association: Association::new(settings),
        }
    }

    fn step(&mut self, received: &[u8], reply: &mut Vec<u8>) -> Step {
        let env = Env {
            host: &mut self.host,
            now: now(),
            random: &mut random,
        };
        self.association.handle(received, env, reply)
    }

    /// Feeds everything, and gives the last outcome and what was said then.
    fn last(&mut self, mut sent: &[u8]) -> (Outcome, Vec<u8>) {
        loop {
            let mut reply = Vec::new();
            let Step::Done(outcome) = self.step(sent, &mut reply) else {
                panic!("{} bytes are no whole PDU", sent.len())
            };
            sent = &sent[outcome.consumed..];
            if sent.is_empty() {
                return (outcome, reply);
            }
            assert!(matches!(outcome.action, Send | Continue));
        }
    }

    fn ask(&mut self, request: &BaseRequest) -> Exchange {
        let (outcome, _) = self.last(&call(&message(request)));
        outcome.exchange.unwrap()
    }
}

/// What a reply says, as far as the table tells.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Nak(u16),
    /// Status; and the flag "did not execute" was there.
    Fault(u32),
    /// (result, reason) of each context.
    Ack(Vec<(u16, u16)>),
    Refused(u32),
    Data,
}

fn said(reply: &[u8], encoding: Encoding) -> Said {
    if reply.is_empty() {
        return Said::Nothing;
    }
    let Ok(Frame::Whole { header, body }) = frame(reply) else {
        panic!("{reply:?}")
    };
    assert_eq!(usize::from(header.frag_length), reply.len());
    match Pdu::decode(&header, body).unwrap().body {
        Body::BindNak(nak) => {
            assert_eq!(nak.versions, [(5, 0)]);
            Said::Nak(nak.reason.0)
        }
        Body::Fault(fault) => {
            assert_eq!(header.flags, Flags(0x23));
            assert_eq!(reply.len(), 32);
            Said::Fault(fault.status.0)
        }
        Body::BindAck(ack) | Body::AlterContextResponse(ack) => {
            assert_eq!(ack.assoc_group_id, 77);
            let answers = ack.answers.iter();
            Said::Ack(
                answers
                    .map(|answer| (answer.result, answer.reason))
                    .collect(),
            )
        }
        Body::Response(response) => match decode_response(encoding, response.stub).unwrap() {
            Reply::Data(_) => Said::Data,
            Reply::Refused(code) => Said::Refused(code.0),
        },
        other => panic!("{other:?}"),
    }
}

/// One row: what a client sends on a new connection, and what the last PDU of it
/// leads to. What keeps the connection open keeps it usable.
fn row(sent: &[&[u8]], action: Action, expected: Said, reason: Reason) {
    let mut connection = Connection::new(Policy::default());
    let (outcome, reply) = connection.last(&sent.concat());
    assert_eq!(outcome.reason, reason);
    assert_eq!(outcome.action, action, "{reason:?}");
    assert_eq!(said(&reply, Encoding::Ndr64), expected, "{reason:?}");
    assert!(Reason::LABELS.contains(&reason.label()), "{reason:?}");
    if matches!(action, Send | Continue) {
        let bound = sent[0][2] == 11;
        let contexts = vec![element(9, &[NDR64])];
        let opens = if bound {
            alter_with(contexts)
        } else {
            bind_with(contexts)
        };
        connection.last(&opens);
        let body = message(&windows_10(Protocol::V5));
        let again = request_of(3, 9, 0, None, &stub(Encoding::Ndr64, &body));
        let (_, reply) = connection.last(&again);
        assert_eq!(said(&reply, Encoding::Ndr64), Said::Data, "{reason:?}");
    }
}

/// `bytes` with some of them replaced.
fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

const PROTO_ERROR: u32 = 0x1C01_000B;
const UNK_IF: u32 = 0x1C01_0003;
const INVALID_DATA: u32 = 0x8007_000D;

#[test]
fn an_unfinished_pdu_is_waited_for() {
    let mut connection = Connection::new(Policy::default());
    let bind = bind();
    for cut in [0, 1, 15] {
        let step = connection.step(&bind[..cut], &mut Vec::new());
        assert_eq!(step, Step::NeedMore { total: 16 });
    }
    let step = connection.step(&bind[..159], &mut Vec::new());
    assert_eq!(step, Step::NeedMore { total: 160 });
    let mut reply = Vec::new();
    let Step::Done(outcome) = connection.step(&[&bind[..], b"next"].concat(), &mut reply) else {
        panic!()
    };
    assert_eq!(outcome.consumed, 160);
}

#[test]
fn a_length_out_of_bounds_closes_without_a_word() {
    let reason = |error| Reason::Frame(error);
    let short = with(&bind(), 8, &[15, 0]);
    let error = FrameError::TooShort { frag_length: 15 };
    row(&[&short], Close, Said::Nothing, reason(error));
    let long = with(&bind(), 8, &5841_u16.to_le_bytes());
    let error = FrameError::TooLong { frag_length: 5841 };
    row(&[&long], Close, Said::Nothing, reason(error));
}

#[test]
fn another_rpc_version_is_refused_by_type() {
    for (major, minor) in [(4, 0), (5, 1), (6, 0)] {
        let reason = Reason::Pdu(PduError::Version { major, minor });
        let version = [major, minor];
        row(
            &[&with(&bind(), 0, &version)],
            SendAndClose,
            Said::Nak(4),
            reason,
        );
        let late = with(&good_call(), 0, &version);
        row(
            &[&bind(), &late],
            SendAndClose,
            Said::Fault(PROTO_ERROR),
            reason,
        );
        let alter = with(&alter_with(vec![element(5, &[NDR32])]), 0, &version);
        row(
            &[&bind(), &alter],
            SendAndClose,
            Said::Fault(PROTO_ERROR),
            reason,
        );
        let cancel = with(&pdu(3, Body::Other(PacketType::CoCancel, &[])), 0, &version);
        row(&[&cancel], Close, Said::Nothing, reason);
    }
}

#[test]
fn big_endian_is_refused_by_type() {
    let reason = |packet_type| {
        Reason::Frame(FrameError::ByteOrder {
            drep: [0; 4],
            version: (5, 0),
            packet_type,
            call_id: 0x0200_0000,
        })
    };
    let swapped = with(&bind(), 4, &[0]);
    let kind = reason(PacketType::Bind);
    row(&[&swapped], SendAndClose, Said::Nak(0), kind);
    let swapped = with(&good_call(), 4, &[0]);
    let kind = reason(PacketType::Request);
    row(
        &[&bind(), &swapped],
        SendAndClose,
        Said::Fault(PROTO_ERROR),
        kind,
    );
}

#[test]
fn authentication_is_refused_by_type() {
    let reason = Reason::Pdu(PduError::Authentication { auth_length: 16 });
    let wanted = |bytes: &[u8]| with(bytes, 10, &[16, 0]);
    row(&[&wanted(&bind())], SendAndClose, Said::Nak(8), reason);
    row(
        &[&bind(), &wanted(&good_call())],
        SendAndClose,
        Said::Fault(5),
        reason,
    );
}

#[test]
fn nothing_goes_before_a_bind() {
    let alter = alter_with(vec![element(0, &[NDR32])]);
    for early in [good_call(), alter] {
        let fault = Said::Fault(PROTO_ERROR);
        row(&[&early], SendAndClose, fault, Reason::NotBound);
    }
}

#[test]
fn a_second_bind_is_refused() {
    row(
        &[&bind(), &bind()],
        SendAndClose,
        Said::Nak(0),
        Reason::AlreadyBound,
    );
}

#[test]
fn a_bind_must_offer_what_it_announces() {
    let none = bind_with(vec![]);
    row(&[&none], SendAndClose, Said::Nak(0), Reason::NoContext);
    let empty = bind_with(vec![element(0, &[NDR32]), element(1, &[])]);
    row(&[&empty], SendAndClose, Said::Nak(0), Reason::NoContext);
    let short = with(&bind_ndr32(), 24, &[2]);
    let error = crate::cursor::CursorError::Short {
        at: 56,
        wanted: 2,
        left: 0,
    };
    let reason = Reason::Pdu(error.into());
    row(&[&short], SendAndClose, Said::Nak(0), reason);
    let short = with(&alter_with(vec![element(0, &[NDR32])]), 24, &[2]);
    row(
        &[&bind(), &short],
        SendAndClose,
        Said::Fault(PROTO_ERROR),
        reason,
    );
    let none = alter_with(vec![]);
    row(
        &[&bind(), &none],
        SendAndClose,
        Said::Fault(PROTO_ERROR),
        Reason::NoContext,
    );
    let parted = with(&bind(), 3, &[0x01]);
    row(
        &[&parted],
        SendAndClose,
        Said::Nak(0),
        Reason::FragmentSequence,
    );
}

#[test]
fn several_syntaxes_are_walked() {
    let foreign = SyntaxId {
        uuid: Uuid::max(),
        major: 1,
        minor: 0,
    };
    let several = bind_with(vec![element(3, &[foreign, NDR32]), element(4, &[foreign])]);
    row(
        &[&several],
        Send,
        Said::Ack(vec![(0, 0), (2, 2)]),
        Reason::Bound,
    );
}

#[test]
fn reserved_bytes_of_the_list_are_ignored() {
    let reserved = with(&bind(), 25, &[1, 2, 3]);
    let ack = Said::Ack(vec![(2, 2), (0, 0), (3, 3)]);
    row(&[&reserved], Send, ack, Reason::Bound);
}

#[test]
fn interfaces_and_syntaxes_of_other_versions_are_rejected_one_by_one() {
    let mut newer = element(0, &[NDR32]);
    newer.interface.minor = 1;
    let mut other = element(1, &[NDR32]);
    other.interface.uuid = uuid!("12345778-1234-abcd-ef00-0123456789ac");
    let old_syntax = element(2, &[SyntaxId { major: 1, ..NDR32 }]);
    let good = element(3, &[NDR32]);
    let mixed = bind_with(vec![newer, other, old_syntax, good]);
    let ack = Said::Ack(vec![(2, 1), (2, 1), (2, 2), (0, 0)]);
    row(&[&mixed], Send, ack, Reason::Bound);
}

#[test]
fn a_bind_of_which_nothing_is_accepted_stays_open() {
    let mut other = element(0, &[NDR32]);
    other.interface.major = 2;
    let nothing = bind_with(vec![other.clone()]);
    row(
        &[&nothing],
        Send,
        Said::Ack(vec![(2, 1)]),
        Reason::NothingAccepted,
    );
    let call = request_of(3, 0, 0, None, &stub(Encoding::Ndr32, b""));
    row(
        &[&nothing, &call],
        Send,
        Said::Fault(UNK_IF),
        Reason::UnknownContext(0),
    );
    let alter = alter_with(vec![other]);
    row(
        &[&bind(), &alter],
        Send,
        Said::Ack(vec![(2, 1)]),
        Reason::NothingAccepted,
    );
}

#[test]
fn only_bound_contexts_carry_calls() {
    let body = message(&windows_10(Protocol::V6));
    for id in [NDR32_ID, BTFN_ID, 3, 0xFFFF] {
        let call = request_of(3, id, 0, None, &stub(Encoding::Ndr32, &body));
        row(
            &[&bind(), &call],
            Send,
            Said::Fault(UNK_IF),
            Reason::UnknownContext(id),
        );
    }
}

#[test]
fn there_is_one_operation() {
    let body = message(&windows_10(Protocol::V6));
    let call = request_of(3, NDR64_ID, 1, None, &stub(Encoding::Ndr64, &body));
    row(
        &[&bind(), &call],
        Send,
        Said::Fault(0x1C01_0002),
        Reason::Operation(1),
    );
}

#[test]
fn an_object_is_skipped() {
    let body = message(&windows_10(Protocol::V6));
    let call = request_of(
        0x83,
        NDR64_ID,
        0,
        Some(Uuid::max()),
        &stub(Encoding::Ndr64, &body),
    );
    row(&[&bind(), &call], Send, Said::Data, Reason::Answered);
}

#[test]
fn a_stub_must_hold_what_it_counts() {
    let body = message(&windows_10(Protocol::V6));
    let good = stub(Encoding::Ndr64, &body);
    let differ = with(&good, 0, &[5]);
    let beyond = with(&with(&good, 0, &[5, 1]), 8, &[5, 1]);
    let short = |at, wanted, left| {
        StubError::Cursor(crate::cursor::CursorError::Short { at, wanted, left })
    };
    for (stub, error) in [
        (&b""[..], short(0, 4, 0)),
        (&good[..15], short(8, 8, 7)),
        (&good[..200], short(16, 260, 184)),
        (&beyond, short(16, 261, 260)),
        (
            &differ,
            StubError::Count {
                size: 261,
                count: 260,
            },
        ),
    ] {
        let call = request_of(3, NDR64_ID, 0, None, stub);
        row(
            &[&bind(), &call],
            Send,
            Said::Fault(0x6F7),
            Reason::Stub(error),
        );
    }
}

/// A KMS message that is refused as invalid data.
fn invalid(body: &[u8], error: MessageError) {
    let reason = Reason::Refused(HResult(INVALID_DATA));
    row(
        &[&bind(), &call(body)],
        Send,
        Said::Refused(INVALID_DATA),
        reason,
    );
    let mut connection = Connection::new(Policy::default());
    let (outcome, _) = connection.last(&[bind(), call(body)].concat());
    let exchange = outcome.exchange.unwrap();
    assert_eq!(exchange.verdict, Verdict::Refused(Refusal::Message(error)));
    assert_eq!(exchange.version, Version::detect(body).ok());
    assert_eq!(exchange.request, None);
}

#[test]
fn unknown_kms_versions_are_invalid_data() {
    for (major, minor) in [(7, 0), (3, 0), (4, 1), (6, 1), (0, 0)] {
        let version = Version { major, minor };
        let mut body = message(&windows_10(Protocol::V4));
        body[..2].copy_from_slice(&minor.to_le_bytes());
        body[2..4].copy_from_slice(&major.to_le_bytes());
        invalid(&body, MessageError::Version(version));
    }
    let error = crate::cursor::CursorError::Short {
        at: 2,
        wanted: 2,
        left: 1,
    };
    invalid(&[0, 0, 6], error.into());
}

#[test]
fn requests_of_another_length_are_invalid_data() {
    for (protocol, expected) in [
        (Protocol::V4, 252),
        (Protocol::V5, 260),
        (Protocol::V6, 260),
    ] {
        let body = message(&windows_10(protocol));
        let length = |actual| MessageError::Length {
            version: protocol.into(),
            expected,
            actual,
        };
        for actual in [4, expected - 8, expected - 1] {
            invalid(&body[..actual], length(actual));
        }
        let longer = [&body[..], &[0]].concat();
        invalid(&longer, length(expected + 1));
        let tolerant = Policy {
            tolerate_longer: true,
            ..Policy::default()
        };
        let mut connection = Connection::new(tolerant);
        let (_, reply) = connection.last(&[bind(), call(&longer)].concat());
        assert_eq!(said(&reply, Encoding::Ndr64), Said::Data);
        assert_opens(&body, &reply, protocol);
    }
}

#[test]
fn foreign_seals_are_invalid_data() {
    let v4 = message(&windows_10(Protocol::V4));
    invalid(&with(&v4, 251, &[v4[251] ^ 1]), SealError::Tag.into());
    let v6 = message(&windows_10(Protocol::V6));
    invalid(&with(&v6, 259, &[v6[259] ^ 1]), SealError::Padding.into());
    let outer = Protocol::V6.into();
    let inner = Version { major: 5, minor: 0 };
    let error = SealError::InnerVersion { outer, inner };
    invalid(&with(&v6, 6, &[v6[6] ^ 3]), error.into());
}

#[test]
fn cancels_and_orphans_are_ignored_and_all_else_closes() {
    for packet_type in [PacketType::CoCancel, PacketType::Orphaned] {
        let sent = pdu(3, Body::Other(packet_type, &[]));
        row(
            &[&sent],
            Continue,
            Said::Nothing,
            Reason::Ignored(packet_type),
        );
        row(
            &[&bind(), &sent],
            Continue,
            Said::Nothing,
            Reason::Ignored(packet_type),
        );
    }
    for code in [1, 4, 10, 16, 17, 20, 255] {
        let packet_type = PacketType::from_code(code);
        let sent = pdu(3, Body::Other(packet_type, &[]));
        let reason = Reason::UnexpectedPacket(packet_type);
        row(&[&bind(), &sent], Close, Said::Nothing, reason);
    }
    // What only servers send.
    let sent = with(&good_call(), 2, &[2]);
    let reason = Reason::UnexpectedPacket(PacketType::Response);
    row(&[&bind(), &sent], Close, Said::Nothing, reason);
}

#[test]
fn fragments_are_put_together_in_order() {
    let whole = stub(Encoding::Ndr64, &message(&windows_10(Protocol::V6)));
    let part =
        |flags, range: std::ops::Range<usize>| request_of(flags, NDR64_ID, 0, None, &whole[range]);
    let len = whole.len();
    let (first, middle, last) = (part(1, 0..3), part(0, 3..200), part(2, 200..len));

    let mut connection = Connection::new(Policy::default());
    connection.last(&bind());
    for fragment in [&first, &middle] {
        let (outcome, reply) = connection.last(fragment);
        assert_eq!(
            (outcome.reason, outcome.action),
            (Reason::FragmentHeld, Continue)
        );
        assert!(reply.is_empty());
    }
    let (_, reply) = connection.last(&last);
    assert_eq!(said(&reply, Encoding::Ndr64), Said::Data);
    // Twice on one connection, with a cancel in between that changes nothing.
    let cancel = pdu(3, Body::Other(PacketType::CoCancel, &[]));
    let (_, reply) = connection.last(&[&first[..], &cancel, &middle, &last].concat());
    assert_eq!(said(&reply, Encoding::Ndr64), Said::Data);

    // An orphaned call is forgotten; then its fragments have no beginning.
    let orphaned = pdu(3, Body::Other(PacketType::Orphaned, &[]));
    let foreign = with(&middle, 12, &[3]);
    for sequence in [
        vec![&middle],
        vec![&last],
        vec![&first, &first],
        vec![&first, &foreign],
        vec![&first, &orphaned, &last],
    ] {
        let sent: Vec<u8> = sequence.into_iter().flatten().copied().collect();
        let fault = Said::Fault(PROTO_ERROR);
        row(
            &[&bind(), &sent],
            SendAndClose,
            fault,
            Reason::FragmentSequence,
        );
    }
    let good = good_call();
    row(
        &[&bind(), &first, &good],
        SendAndClose,
        Said::Fault(PROTO_ERROR),
        Reason::FragmentSequence,
    );
}

#[test]
fn fragments_end_at_the_cap_even_empty_ones() {
    let half = request_of(1, NDR64_ID, 0, None, &[0; 2920 - 24]);
    let rest = request_of(0, NDR64_ID, 0, None, &[0; 2921 - 24]);
    let reason = Reason::FragmentsTooLong { total: 5841 };
    let fault = Said::Fault(PROTO_ERROR);
    row(&[&bind(), &half, &rest], SendAndClose, fault, reason);

    let mut connection = Connection::new(Policy::default());
    connection.last(&bind());
    connection.last(&request_of(1, NDR64_ID, 0, None, &[]));
    let empty = request_of(0, NDR64_ID, 0, None, &[]);
    let held = (2..)
        .take_while(|_| connection.last(&empty).0.action == Continue)
        .count();
    assert_eq!(held + 2, usize::from(MAX_FRAGMENT) / 24 + 1);
}

fn assert_opens(request: &[u8], reply: &[u8], protocol: Protocol) {
    let Ok(Frame::Whole { header, body }) = frame(reply) else {
        panic!()
    };
    let Body::Response(response) = Pdu::decode(&header, body).unwrap().body else {
        panic!()
    };
    let Ok(Reply::Data(answer)) = decode_response(Encoding::Ndr64, response.stub) else {
        panic!()
    };
    let opened = envelope::open_response(&LabSuite, request, answer).unwrap();
    let policy = Policy::default();
    assert_eq!(opened.response.version, protocol.into());
    assert_eq!(opened.response.epid, policy.epid);
    assert_eq!(opened.response.active_clients, 50);
    assert_eq!(opened.response.activation_interval, 120);
    assert_eq!(opened.response.renewal_interval, 10_080);
    let v6 = protocol == Protocol::V6;
    assert_eq!(opened.hardware_id, v6.then_some(policy.hardware_id));
}

#[test]
fn all_protocols_are_answered_on_one_connection() {
    let mut connection = Connection::new(Policy::default());
    connection.last(&bind());
    for protocol in [Protocol::V4, Protocol::V5, Protocol::V6] {
        let request = windows_10(protocol);
        let body = message(&request);
        let (outcome, reply) = connection.last(&call(&body));
        assert_opens(&body, &reply, protocol);
        let exchange = outcome.exchange.unwrap();
        assert_eq!(exchange.request, Some(request));
        assert!(matches!(exchange.verdict, Verdict::Answered { .. }));
    }
}

#[test]
fn both_encodings_live_on_one_connection() {
    // A client that got only NDR64 adds NDR32, uses it once and goes back.
    let mut connection = Connection::new(Policy::default());
    connection.last(&bind());
    let (outcome, reply) = connection.last(&alter_with(vec![element(7, &[NDR32])]));
    assert_eq!(outcome.reason, Reason::Altered);
    assert_eq!(reply.len(), 56);
    assert_eq!(reply[..4], [5, 0, 15, 3]);
    let body = message(&windows_10(Protocol::V6));
    let ndr32 = request_of(3, 7, 0, None, &stub(Encoding::Ndr32, &body));
    let (_, reply) = connection.last(&ndr32);
    assert_eq!(said(&reply, Encoding::Ndr32), Said::Data);
    let (_, reply) = connection.last(&good_call());
    assert_eq!(said(&reply, Encoding::Ndr64), Said::Data);
    // A rejected offer takes nothing away.
    let mut other = element(7, &[NDR32]);
    other.interface.major = 9;
    connection.last(&alter_with(vec![other]));
    let (_, reply) = connection.last(&ndr32);
    assert_eq!(said(&reply, Encoding::Ndr32), Said::Data);
}

#[test]
fn a_bind_ack_tells_the_port_and_no_more_than_was_offered() {
    let mut big = offer(vec![element(0, &[NDR32])]);
    (big.max_xmit_frag, big.max_recv_frag) = (65_535, 4280);
    let mut connection = Connection::new(Policy::default());
    let (_, reply) = connection.last(&pdu(0x03, Body::Bind(big)));
    assert_eq!(reply[3], 0x03);
    assert_eq!(reply[12..16], [2, 0, 0, 0]);
    assert_eq!(reply[16..20], [0xD0, 0x16, 0xB8, 0x10]);
    assert_eq!(reply[24..31], *b"\x05\x001688\0");
    assert_eq!(reply.len(), 60);
    let (_, reply) = Connection::new(Policy::default()).last(&bind());
    assert_eq!((reply[3], reply.len()), (0x13, 108));
}

#[test]
fn the_contexts_of_a_connection_are_bounded() {
    let mut connection = Connection::new(Policy::default());
    connection.last(&bind_ndr32());
    for batch in 0..4_u16 {
        let ids = batch * 100..(batch + 1) * 100;
        let (_, reply) =
            connection.last(&alter_with(ids.map(|id| element(id, &[NDR32])).collect()));
        let Said::Ack(answers) = said(&reply, Encoding::Ndr32) else {
            panic!()
        };
        let over = answers.iter().filter(|answer| **answer == (2, 3)).count();
        assert_eq!(
            over,
            usize::from((batch + 1) * 100).saturating_sub(256).min(100)
        );
    }
}

/// Pieces that together get far into the state machine.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let junk = vec(any::<u8>(), 0..80);
    let message = message(&windows_10(Protocol::V6));
    let stub = stub(Encoding::Ndr64, &message);
    let pieces = vec![
        bind(),
        alter_with(vec![element(7, &[NDR32])]),
        good_call(),
        request_of(1, NDR64_ID, 0, None, &stub[..9]),
        request_of(2, NDR64_ID, 0, None, &stub[9..]),
        pdu(3, Body::Other(PacketType::Orphaned, &[])),
    ];
    let damaged = (
        0..pieces.len(),
        any::<proptest::sample::Index>(),
        any::<u8>(),
    );
    let sound = pieces.clone();
    prop_oneof![
        4 => (0..sound.len()).prop_map(move |at| sound[at].clone()),
        2 => damaged.prop_map(move |(at, byte, to)| {
            let mut piece = pieces[at].clone();
            let byte = byte.index(piece.len());
            piece[byte] = to;
            piece
        }),
        1 => junk,
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_answered_alike_however_they_arrive(
        pieces in vec(piece(), 0..8),
        chunk in 1..700_usize,
    ) {
        let sent = pieces.concat();
        let mut whole = Vec::new();
        let mut connection = Connection::new(Policy::default());
        let mut at = 0;
        while let Step::Done(outcome) = connection.step(&sent[at..], &mut whole) {
            prop_assert!(outcome.consumed > 0 && outcome.consumed <= sent.len() - at);
            at += outcome.consumed;
            if matches!(outcome.action, Close | SendAndClose) {
                break;
            }
        }
        let mut parts = Vec::new();
        let mut connection = Connection::new(Policy::default());
        let mut received = Vec::new();
        'connection: for piece in sent.chunks(chunk) {
            received.extend_from_slice(piece);
            while let Step::Done(outcome) = connection.step(&received, &mut parts) {
                received.drain(..outcome.consumed);
                if matches!(outcome.action, Close | SendAndClose) {
                    break 'connection;
                }
            }
        }
        prop_assert_eq!(whole, parts);
    }
}
