//! What a client says, as bytes.

use jiff::Timestamp;
use kms_core::catalog::Protocol;
use kms_core::lab::LabSuite;
use kms_core::message::{BaseRequest, FileTime, envelope};
use kms_core::pdu::{
    Bind, Body, ContextElement, Flags, Frame, KMS_INTERFACE, NDR64, PacketType, Pdu, Request, frame,
};
use kms_core::stub::{Encoding, Reply, decode_response, encode_request};
use uuid::{Uuid, uuid};

pub(crate) fn pdu(flags: u8, body: Body<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let pdu = Pdu {
        flags: Flags(flags),
        call_id: 2,
        body,
    };
    pdu.encode(&mut out).unwrap();
    out
}

pub(crate) fn bind() -> Vec<u8> {
    let contexts = vec![ContextElement {
        id: 1,
        interface: KMS_INTERFACE,
        transfer_syntaxes: vec![NDR64],
    }];
    pdu(
        0x13,
        Body::Bind(Bind {
            max_xmit_frag: 5840,
            max_recv_frag: 5840,
            assoc_group_id: 0,
            contexts,
        }),
    )
}

fn message(protocol: Protocol, workstation: &str) -> Vec<u8> {
    let request = BaseRequest {
        version: protocol.into(),
        virtual_machine: 0,
        license_status: 2,
        remaining_minutes: 43_200,
        application_id: uuid!("55c92734-d682-4d71-983e-d6ec3f16059f"),
        activation_id: uuid!("73111121-5638-40f6-bc11-f1d7b0d64300"),
        kms_counted_id: uuid!("58e2134f-8e11-4d17-9cb2-91069c151148"),
        client_machine_id: uuid!("0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0ff"),
        min_clients: 25,
        client_time: FileTime::from(Timestamp::UNIX_EPOCH),
        previous_client_machine_id: Uuid::nil(),
        workstation: workstation.parse().unwrap(),
    };
    let mut out = Vec::new();
    envelope::seal_request(&LabSuite, &request, &[9; 16], &mut out).unwrap();
    out
}

pub(crate) fn call_of(protocol: Protocol, workstation: &str) -> Vec<u8> {
    fragment(0x03, &stub(protocol, workstation))
}

pub(crate) fn call() -> Vec<u8> {
    call_of(Protocol::V6, "PC1.example.org")
}

pub(crate) fn stub(protocol: Protocol, workstation: &str) -> Vec<u8> {
    let mut stub = Vec::new();
    encode_request(Encoding::Ndr64, &message(protocol, workstation), &mut stub);
    stub
}

pub(crate) fn fragment(flags: u8, stub: &[u8]) -> Vec<u8> {
    let request = Request {
        alloc_hint: 0,
        context_id: 1,
        opnum: 0,
        object: None,
        stub,
    };
    pdu(flags, Body::Request(request))
}

pub(crate) fn packet_type(reply: &[u8]) -> PacketType {
    let Ok(Frame::Whole { header, .. }) = frame(reply) else {
        panic!("{reply:?}")
    };
    header.packet_type
}

/// Whether the reply carries a sealed KMS response.
pub(crate) fn is_answer(reply: &[u8]) -> bool {
    let Ok(Frame::Whole { header, body }) = frame(reply) else {
        return false;
    };
    match Pdu::decode(&header, body).unwrap().body {
        Body::Response(response) => matches!(
            decode_response(Encoding::Ndr64, response.stub),
            Ok(Reply::Data(_))
        ),
        _ => false,
    }
}
