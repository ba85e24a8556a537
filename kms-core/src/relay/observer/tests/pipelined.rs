//! Clients that go on before they have an answer, in whatever way the wire allows.

use super::*;
use crate::pdu::{ContextElement, SyntaxId};
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
