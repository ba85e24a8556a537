//! Calls over streams that behave, and over those that do not.

use tokio::io::duplex;

use super::*;
use crate::catalog::Protocol;
use crate::client::testing;
use crate::lab::LabSuite;
use crate::message::{BaseRequest, FileTime, Version, envelope};
use crate::responder::Policy;

const WITHIN: Duration = Duration::from_secs(30);

fn sealed(protocol: Protocol) -> Vec<u8> {
    let request = BaseRequest {
        version: Version::from(protocol),
        virtual_machine: 0,
        license_status: 2,
        remaining_minutes: 0,
        application_id: uuid::Uuid::nil(),
        activation_id: uuid::Uuid::nil(),
        kms_counted_id: uuid::Uuid::nil(),
        client_machine_id: uuid::Uuid::from_u128(7),
        min_clients: 25,
        client_time: FileTime(0),
        previous_client_machine_id: uuid::Uuid::nil(),
        workstation: "PC1".parse().unwrap(),
    };
    let mut out = Vec::new();
    envelope::seal_request(&LabSuite, &request, &[3; 16], &mut out).unwrap();
    out
}

#[tokio::test]
async fn one_connection_asks_in_all_protocols_and_both_encodings() {
    let (ours, theirs) = duplex(64);
    tokio::spawn(testing::serve(theirs, Policy::default()));
    let mut connection = Connection::new(ours, WITHIN);
    connection.bind(Offer::default()).await.unwrap();
    connection.alter(Encoding::Ndr32).await.unwrap();
    for encoding in [Encoding::Ndr32, Encoding::Ndr64] {
        for protocol in [Protocol::V4, Protocol::V5, Protocol::V6] {
            let message = sealed(protocol);
            let Reply::Data(answer) = connection.call(encoding, &message).await.unwrap() else {
                panic!("{protocol} is answered");
            };
            let open = envelope::open_response(&LabSuite, &message, answer).unwrap();
            assert_eq!(open.response.active_clients, 50);
            assert_eq!(open.hardware_id.is_some(), protocol == Protocol::V6);
        }
    }
}

#[tokio::test]
async fn a_fault_leaves_the_connection_usable() {
    let (ours, mut theirs) = duplex(4096);
    let mut connection = Connection::new(ours, WITHIN);
    let peer = async {
        let mut received = [0; 160];
        theirs.read_exact(&mut received).await.unwrap();
        let accepted = bind_ack();
        theirs.write_all(&accepted).await.unwrap();
        for call_id in [3, 4] {
            let mut request = [0; 32 + 16];
            theirs.read_exact(&mut request).await.unwrap();
            let mut fault = *b"\x05\0\x03\x23\x10\0\0\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0b\0\x01\x1c\0\0\0\0";
            fault[12] = call_id;
            theirs.write_all(&fault).await.unwrap();
        }
    };
    let us = async {
        connection.bind(Offer::default()).await.unwrap();
        for _ in 0..2 {
            let fault = connection.call(Encoding::Ndr64, b"12345678").await;
            let expected = ClientError::Fault(crate::pdu::FaultStatus::PROTOCOL);
            assert!(matches!(fault, Err(CallError::Protocol(e)) if e == expected));
        }
    };
    tokio::join!(peer, us);
}

/// From a host with NDR64 and without features.
fn bind_ack() -> Vec<u8> {
    use crate::pdu::{BindAck, Body, ContextAnswer, Flags, NDR64, Pdu, RejectReason};
    let rejected = ContextAnswer::rejected(RejectReason::TransferSyntaxes);
    let ack = BindAck {
        max_xmit_frag: 5840,
        max_recv_frag: 5840,
        assoc_group_id: 1,
        secondary_address: b"1688\0".to_vec(),
        answers: vec![rejected, ContextAnswer::accepted(NDR64), rejected],
    };
    let mut out = Vec::new();
    let pdu = Pdu {
        flags: Flags::WHOLE,
        call_id: 2,
        body: Body::BindAck(ack),
    };
    pdu.encode(&mut out).unwrap();
    out
}

#[tokio::test]
async fn what_came_instead_of_an_answer_is_kept() {
    let (ours, mut theirs) = duplex(4096);
    let mut connection = Connection::new(ours, WITHIN);
    theirs
        .write_all(b"HTTP/1.1 400 Bad Request\r\n")
        .await
        .unwrap();
    let bound = connection.bind(Offer::default()).await;
    assert!(matches!(
        bound,
        Err(CallError::Protocol(ClientError::Frame(_)))
    ));
    assert_eq!(connection.received(), b"HTTP/1.1 400 Bad Request\r\n");
}

#[tokio::test]
async fn a_host_that_closes_in_the_middle_of_a_pdu_is_named() {
    let (ours, mut theirs) = duplex(4096);
    let mut connection = Connection::new(ours, WITHIN);
    let closing = async {
        let mut received = [0; 160];
        theirs.read_exact(&mut received).await.unwrap();
        theirs.write_all(&[5, 0, 12]).await.unwrap();
        drop(theirs);
    };
    let (bound, ()) = tokio::join!(connection.bind(Offer::default()), closing);
    assert!(matches!(
        bound,
        Err(CallError::Closed {
            phase: Phase::Bind,
            received: 3,
        })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_is_waited_for_as_long_as_was_said() {
    let (ours, _theirs) = duplex(4096);
    let began = tokio::time::Instant::now();
    let mut connection = Connection::new(ours, Duration::from_secs(7));
    let bound = connection.bind(Offer::default()).await;
    assert!(
        matches!(bound, Err(CallError::Timeout { phase: Phase::Bind, after }) if after == Duration::from_secs(7))
    );
    assert_eq!(began.elapsed(), Duration::from_secs(7));
}

#[tokio::test]
async fn a_closed_port_is_an_error_of_the_system() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let refused = connect(address, None, WITHIN).await;
    assert!(
        matches!(refused, Err(CallError::Io { phase: Phase::Connect, error })
        if error.kind() == io::ErrorKind::ConnectionRefused)
    );
}
