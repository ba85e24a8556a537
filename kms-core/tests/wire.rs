//! Samples of broken input, each named by its defect and tied to one error.
//!
//! Those that begin with `host-` are what a host says, read by the codec; all
//! others are what a client says on a new connection, and their last PDU is the
//! broken one.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;

use jiff::Timestamp;
use kms_core::cursor::CursorError;
use kms_core::hresult::HResult;
use kms_core::lab::LabSuite;
use kms_core::message::{EpidError, MessageError, SealError, Version, envelope};
use kms_core::pdu::{Body, Frame, FrameError, PacketType, Pdu, PduError, frame};
use kms_core::responder::{
    Association, AssociationSettings, Env, Host, Outcome, Policy, Reason, Refusal, Step, Verdict,
};
use kms_core::stub::{Encoding, Reply, StubError, decode_response};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/wire")
}

fn sample(name: &str) -> Vec<u8> {
    fs::read(directory().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn short(at: usize, wanted: usize, left: usize) -> CursorError {
    CursorError::Short { at, wanted, left }
}

/// Feeds all of it to a new connection.
fn last_step(bytes: &[u8]) -> Step {
    let mut random = |bytes: &mut [u8]| bytes.fill(4);
    let host = Host::new(Policy::default(), Box::new(LabSuite), &mut random);
    let settings = AssociationSettings::new(NonZeroU32::MIN, 1688);
    let mut association = Association::new(settings);
    let mut rest = bytes;
    loop {
        let env = Env {
            host: &host,
            now: Timestamp::UNIX_EPOCH,
            random: &mut random,
        };
        let step = association.handle(rest, env, &mut Vec::new());
        match &step {
            Step::Done(outcome) if outcome.consumed < rest.len() => {
                rest = rest
                    .get(outcome.consumed..)
                    .expect("no more than it was given");
            }
            _ => return step,
        }
    }
}

fn outcome(name: &str) -> Outcome {
    match last_step(&sample(name)) {
        Step::Done(outcome) => outcome,
        Step::NeedMore { total } => panic!("{name} waits for {total} bytes"),
    }
}

fn byte_order(drep: [u8; 4], version: (u8, u8), packet_type: PacketType, call_id: u32) -> Reason {
    Reason::Frame(FrameError::ByteOrder {
        drep,
        version,
        packet_type,
        call_id,
    })
}

fn pdu(error: impl Into<PduError>) -> Reason {
    Reason::Pdu(error.into())
}

/// What a client says, down to the arguments of its call.
fn client_samples() -> Vec<(&'static str, Reason)> {
    let authentication = pdu(PduError::Authentication { auth_length: 16 });
    let count = StubError::Count {
        size: 261,
        count: 260,
    };
    let text = |text: &[u8; 16], packet_type, call_id| {
        let [major, minor, _, _, d0, d1, d2, d3, ..] = *text;
        byte_order([d0, d1, d2, d3], (major, minor), packet_type, call_id)
    };
    vec![
        ("alter-context-before-bind.bin", Reason::NotBound),
        ("bind-authenticated.bin", authentication),
        (
            "bind-big-endian.bin",
            byte_order([0; 4], (5, 0), PacketType::Bind, 2),
        ),
        ("bind-context-without-syntax.bin", Reason::NoContext),
        (
            "bind-frag-length-15.bin",
            Reason::Frame(FrameError::TooShort { frag_length: 15 }),
        ),
        (
            "bind-frag-length-5841.bin",
            Reason::Frame(FrameError::TooLong { frag_length: 5841 }),
        ),
        ("bind-in-fragments.bin", Reason::FragmentSequence),
        ("bind-list-too-short.bin", pdu(short(56, 2, 0))),
        ("bind-other-interface.bin", Reason::NothingAccepted),
        (
            "bind-rpc-version-4.bin",
            pdu(PduError::Version { major: 4, minor: 0 }),
        ),
        (
            "bind-rpc-version-5-1.bin",
            pdu(PduError::Version { major: 5, minor: 1 }),
        ),
        ("bind-twice.bin", Reason::AlreadyBound),
        ("bind-without-context.bin", Reason::NoContext),
        (
            "http-get.bin",
            text(b"GET / HTTP/1.1\r\n", PacketType::Other(b'T'), 0x2E31_0D0A),
        ),
        (
            "packet-type-auth3.bin",
            Reason::UnexpectedPacket(PacketType::Auth3),
        ),
        ("request-authenticated.bin", authentication),
        ("request-before-bind.bin", Reason::NotBound),
        ("request-body-too-short.bin", pdu(short(4, 2, 0))),
        ("request-context-not-bound.bin", Reason::UnknownContext(5)),
        (
            "request-fragment-without-first.bin",
            Reason::FragmentSequence,
        ),
        (
            "request-fragments-too-long.bin",
            Reason::FragmentsTooLong { total: 5841 },
        ),
        ("request-operation-1.bin", Reason::Operation(1)),
        (
            "request-stub-count-beyond-end.bin",
            Reason::Stub(short(16, 261, 260).into()),
        ),
        ("request-stub-counts-differ.bin", Reason::Stub(count)),
        (
            "request-stub-too-short.bin",
            Reason::Stub(short(16, 260, 184).into()),
        ),
        (
            "ssh-banner.bin",
            text(b"SSH-2.0-OpenSSH_", PacketType::Other(b'H'), 0x5353_485F),
        ),
        (
            "tls-client-hello.bin",
            byte_order(
                [0xF4, 1, 0, 0],
                (0x16, 3),
                PacketType::Other(1),
                0x5A5A_5A5A,
            ),
        ),
    ]
}

/// KMS messages that are refused, in sound calls.
fn message_samples() -> Vec<(&'static str, Refusal)> {
    let version = |major, minor| Version { major, minor };
    let length = |major, expected, actual| MessageError::Length {
        version: version(major, 0),
        expected,
        actual,
    };
    let inner = SealError::InnerVersion {
        outer: version(6, 0),
        inner: version(5, 0),
    };
    let message = |error: MessageError| Refusal::Message(error);
    vec![
        ("kms-body-of-3-bytes.bin", message(short(2, 2, 1).into())),
        ("kms-min-clients-1001.bin", Refusal::MinClients),
        ("kms-v4-one-byte-short.bin", message(length(4, 252, 251))),
        ("kms-v4-tag-wrong.bin", message(SealError::Tag.into())),
        (
            "kms-v5-padding-wrong.bin",
            message(SealError::Padding.into()),
        ),
        ("kms-v6-inner-version-5.bin", message(inner.into())),
        ("kms-v6-one-byte-long.bin", message(length(6, 260, 261))),
        (
            "kms-version-4-1.bin",
            message(MessageError::Version(version(4, 1))),
        ),
        (
            "kms-version-7.bin",
            message(MessageError::Version(version(7, 0))),
        ),
    ]
}

/// The error of the innermost layer that a host's answer fails in.
#[derive(Debug, PartialEq, Eq)]
enum HostError {
    Pdu(PduError),
    Stub(StubError),
    Message(MessageError),
}

/// Reads an answer as a client does that has asked with this message.
fn read_host(bytes: &[u8], request: &[u8]) -> Result<(), HostError> {
    let Ok(Frame::Whole { header, body }) = frame(bytes) else {
        panic!("not a whole PDU")
    };
    let Body::Response(response) = Pdu::decode(&header, body).map_err(HostError::Pdu)?.body else {
        panic!("not a response")
    };
    match decode_response(Encoding::Ndr64, response.stub).map_err(HostError::Stub)? {
        Reply::Data(message) => envelope::open_response(&LabSuite, request, message)
            .map(drop)
            .map_err(HostError::Message),
        Reply::Refused(code) => panic!("{code}"),
    }
}

fn host_samples() -> Vec<(&'static str, HostError)> {
    let epid = |error: EpidError| HostError::Message(error.into());
    let count = StubError::Count {
        size: 1,
        count: 158,
    };
    vec![
        (
            "host-bind-ack-results-too-few.bin",
            HostError::Pdu(short(68, 2, 0).into()),
        ),
        (
            "host-epid-length-odd.bin",
            epid(EpidError::Length { bytes: 97 }),
        ),
        ("host-epid-nul-inside.bin", epid(EpidError::Nul)),
        ("host-response-counts-differ.bin", HostError::Stub(count)),
        (
            "host-v6-integrity-wrong.bin",
            HostError::Message(SealError::Integrity.into()),
        ),
    ]
}

#[test]
fn clients_samples_fail_as_they_are_named() {
    for (name, reason) in client_samples() {
        assert_eq!(outcome(name).reason, reason, "{name}");
    }
}

#[test]
fn an_unfinished_sample_waits() {
    let step = last_step(&sample("bind-cut-off.bin"));
    assert_eq!(step, Step::NeedMore { total: 160 });
}

#[test]
fn kms_messages_are_refused_as_they_are_named() {
    for (name, refusal) in message_samples() {
        let outcome = outcome(name);
        assert_eq!(
            outcome.reason,
            Reason::Refused(HResult(0x8007_000D)),
            "{name}"
        );
        let exchange = outcome.exchange.expect("a call was made");
        assert_eq!(exchange.verdict, Verdict::Refused(refusal), "{name}");
    }
}

#[test]
fn hosts_samples_fail_as_they_are_named() {
    // What the V6 answer answers is in another sample, sound but for its place.
    let sound = sample("request-before-bind.bin");
    let request = sound.get(40..).expect("a request has a message");
    for (name, error) in host_samples() {
        assert_eq!(read_host(&sample(name), request), Err(error), "{name}");
    }
}

#[test]
fn every_sample_is_tied_to_an_error() {
    let clients = client_samples().into_iter().map(|(name, _)| name);
    let messages = message_samples().into_iter().map(|(name, _)| name);
    let hosts = host_samples().into_iter().map(|(name, _)| name);
    let tied: BTreeSet<String> = clients
        .chain(messages)
        .chain(hosts)
        .chain(["bind-cut-off.bin"])
        .map(str::to_owned)
        .collect();
    let files = fs::read_dir(directory()).unwrap();
    let there: BTreeSet<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    assert_eq!(there, tied);
}
