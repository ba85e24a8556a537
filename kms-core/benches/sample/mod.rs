//! What the benchmarks ask, byte for byte as it is sent.

use jiff::Timestamp;
use kms_core::catalog::Protocol;
use kms_core::client::{Association, Offer};
use kms_core::lab::LabSuite;
use kms_core::message::{BaseRequest, FileTime, envelope};
use kms_core::pdu::{Body, Flags, Pdu, Request};
use kms_core::stub::{Encoding, encode_request};
use uuid::{Uuid, uuid};

pub(crate) const PROTOCOLS: [(Protocol, &str); 3] = [
    (Protocol::V4, "v4"),
    (Protocol::V5, "v5"),
    (Protocol::V6, "v6"),
];
pub(crate) const IV: [u8; 16] = [9; 16];
/// The context id of NDR64, as Windows has it.
const NDR64_CONTEXT: u16 = 1;

pub(crate) fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

pub(crate) fn request(protocol: Protocol) -> BaseRequest {
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
        workstation: "PC1.example.org".parse().expect("15 characters fit"),
    }
}

/// The message, sealed.
pub(crate) fn message(request: &BaseRequest) -> Vec<u8> {
    let mut out = Vec::new();
    envelope::seal_request(&LabSuite, request, &IV, &mut out).expect("the version is known");
    out
}

/// The bind that Windows sends.
pub(crate) fn bind() -> Vec<u8> {
    let mut out = Vec::new();
    Association::new().bind(Offer::default(), &mut out);
    out
}

/// The whole call, from a message to the bytes on the wire.
pub(crate) fn call(message: &[u8], stub: &mut Vec<u8>, out: &mut Vec<u8>) {
    encode_request(Encoding::Ndr64, message, stub);
    let request = Request {
        alloc_hint: 0,
        context_id: NDR64_CONTEXT,
        opnum: 0,
        object: None,
        stub,
    };
    let pdu = Pdu {
        flags: Flags::WHOLE,
        call_id: 2,
        body: Body::Request(request),
    };
    pdu.encode(out).expect("a request fits a fragment");
}
