//! Sessions of the lab client with the responder, looked on from between.

mod pipelined;

use std::num::NonZeroU32;

use jiff::Timestamp;
use proptest::prelude::*;

use super::contexts::{MAX_CONTEXTS, MAX_OFFERED};
use super::*;
use crate::catalog::Protocol;
use crate::client::{Association, Offer};
use crate::lab::LabSuite;
use crate::message::FileTime;
use crate::pdu::{Bind, FaultStatus, KMS_INTERFACE, NDR32, NDR64, Request};
use crate::responder::{self, AssociationSettings, Env, Host, Policy, Whitelist};
use crate::stub::Encoding;

const PROTOCOLS: [Protocol; 3] = [Protocol::V4, Protocol::V5, Protocol::V6];

fn request(protocol: Protocol) -> BaseRequest {
    BaseRequest {
        version: protocol.into(),
        virtual_machine: 0,
        license_status: 2,
        remaining_minutes: 0,
        application_id: uuid::Uuid::nil(),
        activation_id: uuid::Uuid::from_u128(1),
        kms_counted_id: uuid::Uuid::from_u128(2),
        client_machine_id: uuid::Uuid::from_u128(7),
        min_clients: 25,
        client_time: FileTime(0),
        previous_client_machine_id: uuid::Uuid::nil(),
        workstation: "PC1".parse().unwrap(),
    }
}

/// Both ends of a session.
struct Ends {
    client: Association,
    host: Host,
    server: responder::Association,
}

/// What was sent, in order; true is from the client.
type Recording = Vec<(bool, Vec<u8>)>;

impl Ends {
    fn new(policy: Policy) -> Self {
        let mut random = |bytes: &mut [u8]| bytes.fill(4);
        Self {
            client: Association::new(),
            host: Host::new(policy, Box::new(LabSuite), &mut random),
            server: responder::Association::new(AssociationSettings::new(NonZeroU32::MIN, 1688)),
        }
    }

    /// The server's answer to what the client sends.
    fn exchange(&mut self, sent: Vec<u8>, recording: &mut Recording) {
        let env = Env {
            host: &self.host,
            now: Timestamp::UNIX_EPOCH,
            random: &mut |bytes: &mut [u8]| bytes.fill(4),
        };
        let mut reply = Vec::new();
        self.server.handle(&sent, env, &mut reply);
        self.client.handle(&reply).unwrap();
        recording.push((true, sent));
        recording.push((false, reply));
    }
}

/// A bind, and a request of each protocol in each encoding.
fn session(policy: Policy) -> Recording {
    let mut ends = Ends::new(policy);
    let mut recording = Vec::new();
    let mut out = Vec::new();
    ends.client.bind(Offer::default(), &mut out);
    ends.exchange(std::mem::take(&mut out), &mut recording);
    ends.client.alter(Encoding::Ndr32, &mut out);
    ends.exchange(std::mem::take(&mut out), &mut recording);
    for encoding in [Encoding::Ndr64, Encoding::Ndr32] {
        for protocol in PROTOCOLS {
            let mut message = Vec::new();
            let iv = [9; 16];
            envelope::seal_request(&LabSuite, &request(protocol), &iv, &mut message).unwrap();
            ends.client.request(encoding, &message, &mut out).unwrap();
            ends.exchange(std::mem::take(&mut out), &mut recording);
        }
    }
    recording
}

/// What is seen of it, with the bytes in pieces of at most this length.
fn watch(recording: &Recording, piece: usize) -> Vec<Sight> {
    let mut observer = Observer::default();
    let mut seen = Vec::new();
    for (from_client, bytes) in recording {
        for bytes in bytes.chunks(piece) {
            let mut see = |sight| seen.push(sight);
            if *from_client {
                observer.client(bytes, &mut see);
            } else {
                observer.upstream(bytes, &mut see);
            }
        }
    }
    assert!(!observer.is_waiting() && !observer.in_the_middle());
    seen
}

fn requests(sights: &[Sight]) -> Vec<&Seen> {
    let mut requests = Vec::new();
    for sight in sights {
        match sight {
            Sight::Request(seen) => requests.push(&**seen),
            Sight::Undecoded(why) => panic!("{why:?}"),
        }
    }
    requests
}

#[test]
fn every_request_is_seen_and_only_v4_is_looked_into() {
    let sights = watch(&session(Policy::default()), usize::MAX);
    let seen = requests(&sights);
    let versions: Vec<u16> = seen.iter().map(|seen| seen.version.major).collect();
    assert_eq!(versions, [4, 5, 6, 4, 5, 6]);
    for seen in seen {
        let clear = seen.version.major == 4;
        let asked = clear.then(|| request(Protocol::V4));
        assert_eq!(seen.request, asked);
        match &seen.outcome {
            Outcome::Answered(answer) => {
                let clients = answer.as_ref().map(|answer| answer.active_clients);
                assert_eq!(clients, clear.then_some(50));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn refusals_are_seen_with_their_codes() {
    let whitelist = Whitelist::from_level(1).unwrap();
    let policy = Policy {
        whitelist,
        ..Policy::default()
    };
    let sights = watch(&session(policy), usize::MAX);
    let seen = requests(&sights);
    assert_eq!(seen.len(), 6);
    for seen in seen {
        assert_eq!(seen.outcome, Outcome::Refused(HResult(0xC004_F042)));
    }
}

/// A session up to a request that waits, and its call id.
fn asked() -> (Observer, u32) {
    let mut ends = Ends::new(Policy::default());
    let mut recording = Vec::new();
    let mut out = Vec::new();
    ends.client.bind(Offer::default(), &mut out);
    ends.exchange(std::mem::take(&mut out), &mut recording);
    let message = [0, 0, 6, 0, 1, 2];
    ends.client
        .request(Encoding::Ndr64, &message, &mut out)
        .unwrap();
    let mut observer = Observer::default();
    let mut nothing = |sight| panic!("{sight:?}");
    observer.client(&recording[0].1, &mut nothing);
    observer.upstream(&recording[1].1, &mut nothing);
    observer.client(&out, &mut nothing);
    assert!(observer.is_waiting());
    (observer, 3)
}

fn fault(call_id: u32) -> Vec<u8> {
    let fault = crate::pdu::Fault {
        alloc_hint: 32,
        context_id: 0,
        cancel_count: 0,
        status: FaultStatus::PROTOCOL,
    };
    let mut out = Vec::new();
    let pdu = Pdu {
        flags: Flags::WHOLE,
        call_id,
        body: Body::Fault(fault),
    };
    pdu.encode(&mut out).unwrap();
    out
}

#[test]
fn a_fault_ends_the_call_even_with_another_call_id() {
    let (mut observer, _) = asked();
    let mut seen = Vec::new();
    observer.upstream(&fault(99), &mut |sight| seen.push(sight));
    let expected = HResult(FaultStatus::PROTOCOL.0);
    assert_eq!(requests(&seen)[0].outcome, Outcome::Fault(expected));
    assert!(!observer.is_waiting());
}

#[test]
fn fragments_of_one_call_are_one_request() {
    let (mut observer, call_id) = asked();
    observer.calls.0.clear();
    for flags in [Flags::FIRST, Flags(0), Flags::LAST] {
        let fragment = Request {
            alloc_hint: 0,
            context_id: 1,
            opnum: 0,
            object: None,
            stub: b"a part",
        };
        let mut out = Vec::new();
        let pdu = Pdu {
            flags,
            call_id,
            body: Body::Request(fragment),
        };
        pdu.encode(&mut out).unwrap();
        observer.client(&out, &mut |sight| panic!("{sight:?}"));
    }
    assert_eq!(observer.calls.0.len(), 1);
}

#[test]
fn calls_that_are_never_answered_are_forgotten_in_turn() {
    let (mut observer, first) = asked();
    let mut forgotten = 0;
    for call_id in first + 1..first + 100 {
        let mut stub = Vec::new();
        stub::encode_request(Encoding::Ndr64, &[0, 0, 6, 0], &mut stub);
        let pdu = Pdu {
            flags: Flags::WHOLE,
            call_id,
            body: Body::Request(Request {
                alloc_hint: 0,
                context_id: 1,
                opnum: 0,
                object: None,
                stub: &stub,
            }),
        };
        let mut out = Vec::new();
        pdu.encode(&mut out).unwrap();
        observer.client(&out, &mut |sight| {
            assert_eq!(sight, Sight::Undecoded(Undecoded::Pending));
            forgotten += 1;
        });
    }
    assert_eq!(observer.calls.0.len(), MAX_PENDING);
    assert_eq!(forgotten, 100 - MAX_PENDING);
}

#[test]
fn a_stream_that_is_lost_is_said_once() {
    let (mut observer, _) = asked();
    let mut seen = Vec::new();
    for _ in 0..3 {
        observer.upstream(b"HTTP/1.1 200 OK\r\n\r\n", &mut |sight| seen.push(sight));
    }
    assert_eq!(seen, [Sight::Undecoded(Undecoded::UpstreamStream)]);
    assert!(!observer.is_waiting(), "no answer will be made out");
}

proptest! {
    #[test]
    fn any_pieces_show_the_same(piece in 1..400_usize) {
        let recording = session(Policy::default());
        prop_assert_eq!(watch(&recording, piece), watch(&recording, usize::MAX));
    }

    /// No bytes make it panic, or keep more than a fragment of either side.
    #[test]
    fn any_bytes_are_borne(pieces: Vec<(bool, Vec<u8>)>, bound: bool) {
        let (mut observer, _) = asked();
        if !bound {
            observer = Observer::default();
        }
        for (from_client, bytes) in pieces {
            let head: &[u8] = &[5, 0, 0, 3, 16, 0, 0, 0];
            let bytes = [head, &bytes].concat();
            if from_client {
                observer.client(&bytes, &mut drop);
            } else {
                observer.upstream(&bytes, &mut drop);
            }
            let kept = observer.client.begun.len() + observer.upstream.begun.len();
            prop_assert!(kept < 2 * usize::from(crate::pdu::MAX_FRAGMENT));
            prop_assert!(observer.calls.0.len() <= MAX_PENDING);
            prop_assert!(observer.contexts.offered.len() <= MAX_OFFERED);
            prop_assert!(observer.contexts.bound.len() <= MAX_CONTEXTS);
        }
    }
}
