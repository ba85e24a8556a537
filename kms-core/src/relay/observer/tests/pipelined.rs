//! Clients that go on before they have an answer, in whatever way the wire allows.

use super::super::contexts::{MAX_OFFERED, encoding_of};
use super::*;
use crate::pdu::{BindAck, ContextElement, SyntaxId};
use crate::responder::{Action, Step};

fn pdu(flags: Flags, call_id: u32, body: Body<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let pdu = Pdu {
        flags,
        call_id,
        body,
    };
    pdu.encode(&mut out).unwrap();
    out
}

/// Offers of the KMS interface, each in this syntax.
fn offers(ids: std::ops::Range<u16>, syntax: SyntaxId) -> Bind {
    let offer = |id| ContextElement {
        id,
        interface: KMS_INTERFACE,
        transfer_syntaxes: vec![syntax],
    };
    Bind {
        max_xmit_frag: 5840,
        max_recv_frag: 5840,
        assoc_group_id: 0,
        contexts: ids.map(offer).collect(),
    }
}

fn bind(ids: std::ops::Range<u16>, syntax: SyntaxId) -> Vec<u8> {
    pdu(Flags::WHOLE, 2, Body::Bind(offers(ids, syntax)))
}

fn alter(call_id: u32, ids: std::ops::Range<u16>, syntax: SyntaxId) -> Vec<u8> {
    let body = Body::AlterContext(offers(ids, syntax));
    pdu(Flags::WHOLE, call_id, body)
}

/// A stub that the lab host answers.
fn asks(encoding: Encoding, protocol: Protocol) -> Vec<u8> {
    let mut message = Vec::new();
    envelope::seal_request(&LabSuite, &request(protocol), &[9; 16], &mut message).unwrap();
    let mut stub = Vec::new();
    stub::encode_request(encoding, &message, &mut stub);
    stub
}

fn fragment(flags: Flags, call_id: u32, context_id: u16, stub: &[u8]) -> Vec<u8> {
    let request = Request {
        alloc_hint: 0,
        context_id,
        opnum: 0,
        object: None,
        stub,
    };
    pdu(flags, call_id, Body::Request(request))
}

fn call(call_id: u32, context_id: u16, stub: &[u8]) -> Vec<u8> {
    fragment(Flags::WHOLE, call_id, context_id, stub)
}

/// What is seen where each of these is said at once, and then answered by the lab
/// host; and the versions of the requests that it answered with data.
fn talk(said: &[Vec<u8>]) -> (Vec<Sight>, Vec<Version>) {
    let mut ends = Ends::new(Policy::default());
    let (mut sights, mut answered) = (Vec::new(), Vec::new());
    let mut observer = Observer::default();
    let mut open = true;
    for said in said {
        observer.client(said, &mut |sight| sights.push(sight));
        let mut reply = Vec::new();
        let mut rest = &said[..];
        while open {
            let env = Env {
                host: &ends.host,
                now: Timestamp::UNIX_EPOCH,
                random: &mut |bytes: &mut [u8]| bytes.fill(4),
            };
            let Step::Done(outcome) = ends.server.handle(rest, env, &mut reply) else {
                break;
            };
            rest = &rest[outcome.consumed..];
            open = matches!(outcome.action, Action::Send | Action::Continue);
            if let Some(exchange) = outcome.exchange
                && matches!(exchange.verdict, responder::Verdict::Answered { .. })
            {
                answered.push(exchange.version.unwrap());
            }
        }
        observer.upstream(&reply, &mut |sight| sights.push(sight));
    }
    (sights, answered)
}

/// The versions of the requests that were seen to be answered with data.
fn answered(sights: &[Sight]) -> Vec<Version> {
    let answered = sights.iter().filter_map(|sight| match sight {
        Sight::Request(seen) => {
            matches!(seen.outcome, Outcome::Answered(_)).then_some(seen.version)
        }
        Sight::Undecoded(_) => None,
    });
    answered.collect()
}

#[test]
fn a_fault_is_of_the_call_that_it_names() {
    let stub = asks(Encoding::Ndr32, Protocol::V6);
    let both = [call(4, 9, &stub), call(5, 0, &stub)].concat();
    let (sights, answered) = talk(&[bind(0..1, NDR32), both]);
    assert_eq!(answered, [Protocol::V6.into()]);
    let [Sight::Undecoded(Undecoded::Context), Sight::Request(seen)] = &sights[..] else {
        panic!("{sights:?}");
    };
    assert_eq!(seen.outcome, Outcome::Answered(None));
}

#[test]
fn what_comes_with_its_bind_in_one_write_is_seen() {
    for (syntax, encoding) in [(NDR32, Encoding::Ndr32), (NDR64, Encoding::Ndr64)] {
        for protocol in PROTOCOLS {
            let stub = asks(encoding, protocol);
            let said = [bind(0..1, syntax), call(2, 0, &stub)].concat();
            let (sights, answered) = talk(&[said]);
            assert_eq!(answered, [protocol.into()]);
            let seen = requests(&sights);
            assert_eq!((seen.len(), seen[0].version), (1, protocol.into()));
            let clear = (protocol == Protocol::V4).then(|| request(protocol));
            assert_eq!(seen[0].request, clear);
        }
    }
}

#[test]
fn binds_in_one_write_are_answered_each_for_itself() {
    let (ndr32, ndr64) = (
        asks(Encoding::Ndr32, Protocol::V5),
        asks(Encoding::Ndr64, Protocol::V6),
    );
    let said = [
        bind(0..2, NDR32),
        alter(3, 1..2, NDR64),
        call(4, 0, &ndr32),
        call(5, 1, &ndr64),
        // From here on it is another encoding; the one above is answered before.
        alter(6, 0..1, NDR64),
        call(7, 0, &ndr64),
    ];
    let (sights, told) = talk(&[said.concat()]);
    let versions: Vec<Version> = [Protocol::V5, Protocol::V6, Protocol::V6]
        .map(Version::from)
        .into();
    assert_eq!(told, versions);
    assert_eq!(answered(&sights), versions);
}

#[test]
fn every_context_that_the_host_binds_is_known() {
    let stub = asks(Encoding::Ndr32, Protocol::V6);
    let mut said = vec![bind(0..132, NDR32), alter(3, 132..256, NDR32)];
    for context in [0, 18, 131, 132, 255] {
        said.push(call(4, context, &stub));
    }
    let (sights, answered) = talk(&said);
    assert_eq!(answered.len(), 5);
    assert_eq!(requests(&sights).len(), 5);
}

#[test]
fn calls_with_one_id_are_as_many_requests() {
    let both = [
        call(3, 0, &asks(Encoding::Ndr32, Protocol::V5)),
        call(3, 0, &asks(Encoding::Ndr32, Protocol::V6)),
    ];
    let (sights, told) = talk(&[bind(0..1, NDR32), both.concat()]);
    assert_eq!(told, [Protocol::V5.into(), Protocol::V6.into()]);
    assert_eq!(answered(&sights), told);
}

#[test]
fn later_fragments_of_an_answer_are_no_answer_to_another_call() {
    let stub = asks(Encoding::Ndr32, Protocol::V6);
    let said = [call(3, 0, &stub), call(3, 0, &stub)].concat();
    let mut observer = Observer::default();
    let mut sights = Vec::new();
    let mut see = |sight| sights.push(sight);
    observer.client(&said, &mut see);
    for flags in [Flags::FIRST, Flags(0), Flags::LAST] {
        let response = crate::pdu::Response {
            alloc_hint: 0,
            context_id: 0,
            cancel_count: 0,
            stub: b"",
        };
        let response = pdu(flags, 3, Body::Response(response));
        observer.upstream(&response, &mut see);
    }
    assert_eq!(sights.len(), 1);
    assert!(observer.is_waiting());
}

#[test]
fn what_nobody_answers_is_bounded() {
    let mut observer = Observer::default();
    let mut forgotten = 0;
    for call_id in 0..100 {
        let bind = alter(call_id, 0..132, NDR32);
        observer.client(&bind, &mut |sight| {
            assert_eq!(sight, Sight::Undecoded(Undecoded::Pending));
            forgotten += 1;
        });
    }
    assert_eq!(observer.contexts.offered.len(), MAX_OFFERED);
    assert_eq!(forgotten, 100 - MAX_OFFERED);
}

#[test]
fn a_fault_of_an_alter_context_ends_no_call() {
    let stub = asks(Encoding::Ndr32, Protocol::V6);
    let mut observer = Observer::default();
    let mut nothing = |sight| panic!("{sight:?}");
    observer.client(&alter(3, 0..1, NDR64), &mut nothing);
    observer.client(&call(4, 0, &stub), &mut nothing);
    observer.upstream(&fault(3), &mut nothing);
    assert!(!observer.contexts.is_waiting());
    assert!(observer.is_waiting());
}

#[test]
fn fragments_are_put_together_wherever_they_are_cut() {
    for (syntax, encoding) in [(NDR32, Encoding::Ndr32), (NDR64, Encoding::Ndr64)] {
        for protocol in [Protocol::V4, Protocol::V6] {
            let stub = asks(encoding, protocol);
            for at in 0..=stub.len() {
                let (first, last) = stub.split_at(at);
                let said = [
                    fragment(Flags::FIRST, 7, 0, first),
                    fragment(Flags(0), 7, 0, b""),
                    fragment(Flags::LAST, 7, 0, last),
                ];
                let (sights, answered) = talk(&[bind(0..1, syntax), said.concat()]);
                assert_eq!(answered, [protocol.into()]);
                let seen = requests(&sights);
                assert_eq!((seen.len(), seen[0].version), (1, protocol.into()));
                let clear = (protocol == Protocol::V4).then(|| request(protocol));
                assert_eq!(seen[0].request, clear, "cut at {at}");
            }
        }
    }
}

/// The answer of a host that does not look at flags, like vlmcsd.
fn refusal(call_id: u32) -> Vec<u8> {
    let mut stub = Vec::new();
    let code = HResult(0x8007_000D);
    stub::encode_response(Encoding::Ndr32, Reply::Refused(code), &mut stub);
    let response = crate::pdu::Response {
        alloc_hint: 0,
        context_id: 0,
        cancel_count: 0,
        stub: &stub,
    };
    pdu(Flags::WHOLE, call_id, Body::Response(response))
}

/// An observer of a session that is bound in NDR32, and what it sees of these calls
/// and these answers.
fn bound_and(calls: &[Vec<u8>], answers: &[Vec<u8>]) -> Vec<Sight> {
    let mut observer = Observer::default();
    let mut sights = Vec::new();
    let mut see = |sight| sights.push(sight);
    observer.client(&bind(0..1, NDR32), &mut see);
    let ack = BindAck {
        max_xmit_frag: 5840,
        max_recv_frag: 5840,
        assoc_group_id: 1,
        secondary_address: Vec::new(),
        answers: vec![crate::pdu::ContextAnswer::accepted(NDR32)],
    };
    observer.upstream(&pdu(Flags::WHOLE, 2, Body::BindAck(ack)), &mut see);
    observer.client(&calls.concat(), &mut see);
    observer.upstream(&answers.concat(), &mut see);
    sights
}

#[test]
fn no_version_is_made_of_a_later_fragment() {
    let stub = asks(Encoding::Ndr32, Protocol::V6);
    let later = [
        fragment(Flags(0), 7, 0, &stub),
        fragment(Flags::LAST, 7, 0, &stub),
    ];
    let sights = bound_and(&later, &[refusal(7), refusal(7)]);
    assert_eq!(sights, [const { Sight::Undecoded(Undecoded::Stub) }; 2]);
    // Not of a first one that is too short either.
    let short = fragment(Flags::WHOLE, 7, 0, &stub[..11]);
    let sights = bound_and(&[short], &[refusal(7)]);
    assert_eq!(sights, [Sight::Undecoded(Undecoded::Stub)]);
}

/// Otherwise a client could have its request logged as another one.
#[test]
fn what_was_given_up_is_not_what_was_answered() {
    let (claimed, asked) = (
        asks(Encoding::Ndr32, Protocol::V4),
        asks(Encoding::Ndr32, Protocol::V6),
    );
    let begun = fragment(Flags::FIRST, 7, 0, &claimed);
    let orphaned = pdu(Flags::WHOLE, 7, Body::Other(PacketType::Orphaned, b""));
    let said = [begun.clone(), orphaned, call(7, 0, &asked)].concat();
    let (sights, told) = talk(&[bind(0..1, NDR32), said]);
    assert_eq!(told, [Protocol::V6.into()]);
    assert_eq!(answered(&sights), told);
    assert_eq!(sights.len(), 1);

    let sights = bound_and(&[begun, call(7, 0, &asked)], &[refusal(7)]);
    assert_eq!(requests(&sights)[0].version, Protocol::V6.into());
}

/// What a client may say after its bind.
#[derive(Clone, Debug)]
enum Say {
    Call {
        call_id: u32,
        context_id: u16,
        ndr64: bool,
        protocol: Protocol,
        cut: Option<proptest::sample::Index>,
    },
    Alter {
        context_id: u16,
        ndr64: bool,
    },
    Orphaned,
}

fn say() -> impl Strategy<Value = Say> {
    let protocol = proptest::sample::select(&PROTOCOLS[..]);
    let call = (
        2..5_u32,
        0..3_u16,
        any::<bool>(),
        protocol,
        any::<Option<proptest::sample::Index>>(),
    );
    prop_oneof![
        6 => call.prop_map(|(call_id, context_id, ndr64, protocol, cut)| Say::Call {
            call_id,
            context_id,
            ndr64,
            protocol,
            cut,
        }),
        1 => (0..3_u16, any::<bool>())
            .prop_map(|(context_id, ndr64)| Say::Alter { context_id, ndr64 }),
        1 => Just(Say::Orphaned),
    ]
}

impl Say {
    fn bytes(&self) -> Vec<u8> {
        let syntax = |ndr64| if ndr64 { NDR64 } else { NDR32 };
        match self {
            Self::Call {
                call_id,
                context_id,
                ndr64,
                protocol,
                cut,
            } => {
                let encoding = encoding_of(syntax(*ndr64).uuid).unwrap();
                let stub = asks(encoding, *protocol);
                let Some(cut) = cut else {
                    return call(*call_id, *context_id, &stub);
                };
                let (first, last) = stub.split_at(cut.index(stub.len() + 1));
                let first = fragment(Flags::FIRST, *call_id, *context_id, first);
                [first, fragment(Flags::LAST, *call_id, *context_id, last)].concat()
            }
            Self::Alter { context_id, ndr64 } => {
                alter(9, *context_id..*context_id + 1, syntax(*ndr64))
            }
            Self::Orphaned => pdu(Flags::WHOLE, 3, Body::Other(PacketType::Orphaned, b"")),
        }
    }
}

proptest! {
    /// However a client hurries, each answer of the host is seen, with the version
    /// that the host read; unless more was said than is remembered.
    #[test]
    fn every_answer_of_the_host_is_seen(says in proptest::collection::vec(say(), 0..12), at_once: bool) {
        let alters = says.iter().filter(|say| matches!(say, Say::Alter { .. }));
        prop_assume!(alters.count() < MAX_OFFERED);
        let mut said = vec![bind(0..2, NDR32)];
        said.extend(says.iter().map(Say::bytes));
        if at_once {
            said = vec![said.concat()];
        }
        let (sights, told) = talk(&said);
        prop_assert_eq!(answered(&sights), told);
    }
}
