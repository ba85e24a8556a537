//! A server of each kind on loopback, and a name server that says what it is told.

use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;
use crate::client::testing::{listen, serve};
use crate::doctor::{Banner, Finding};
use crate::pdu::{BindAck, Body, ContextAnswer, Flags, Frame, Pdu, RejectReason, frame};
use crate::responder::Policy;

/// Long for tests that wait for an answer, short for those that wait for none.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(400);

async fn look(address: SocketAddr, within: Duration) -> Report {
    let endpoint = Endpoint {
        host: Host::Address(address.ip()),
        port: address.port(),
    };
    let settings = Settings {
        within,
        nameserver: None,
        any: false,
    };
    examine(&Target::Host(endpoint), settings).await.unwrap()
}

fn finding(report: &Report) -> &Finding {
    match report.findings.as_slice() {
        [(_, finding)] => finding,
        other => panic!("one address, {other:?}"),
    }
}

fn stages(report: &Report) -> Vec<(&'static str, Mark)> {
    let steps = report.steps.iter();
    steps.map(|step| (step.stage.label(), step.mark)).collect()
}

async fn lab() -> SocketAddr {
    listen(|stream| serve(stream, Policy::default())).await
}

async fn says(words: &'static [u8]) -> SocketAddr {
    listen(move |mut stream| async move {
        let mut asked = [0; 512];
        let _ = stream.read(&mut asked).await;
        let _ = stream.write_all(words).await;
    })
    .await
}

#[tokio::test]
async fn a_kms_host_is_healthy_and_its_syntaxes_are_told() {
    let report = look(lab().await, LONG).await;
    assert_eq!(report.verdict, Verdict::Healthy);
    let kms = Finding::Kms {
        ndr32: true,
        ndr64: true,
        features: Some(3),
    };
    assert_eq!(finding(&report), &kms);
    let good = [
        ("TCP", Mark::Good),
        ("RPC", Mark::Good),
        ("KMS", Mark::Good),
    ];
    assert_eq!(stages(&report), good);
    let last = report.steps.last().unwrap();
    assert!(last.detail.contains("NDR64 and NDR32"), "{}", last.detail);
}

#[tokio::test]
async fn a_closed_port_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let report = look(address, LONG).await;
    assert_eq!(report.verdict.label(), "refused");
    assert_eq!(stages(&report), [("TCP", Mark::Bad)]);
}

#[tokio::test]
async fn a_website_that_answers_nonsense_is_told_by_its_answer() {
    let address = says(b"HTTP/1.1 400 Bad Request\r\nServer: evil\x1b[31m\r\n\r\n").await;
    let report = look(address, LONG).await;
    let banner = Banner::Http("HTTP/1.1 400 Bad Request".to_owned());
    assert_eq!(finding(&report), &Finding::NotRpc(banner));
    assert_eq!(report.verdict.label(), "website");
    assert!(report.verdict.to_string().contains("a website answers"));
}

#[tokio::test]
async fn a_website_that_closes_on_nonsense_is_told_by_a_second_look() {
    let address = listen(|mut stream| async move {
        let mut asked = [0; 512];
        let read = stream.read(&mut asked).await.unwrap_or(0);
        if asked[..read].starts_with(b"GET ") {
            let _ = stream.write_all(b"HTTP/1.0 301 Moved\r\n\r\n").await;
        }
    })
    .await;
    let report = look(address, LONG).await;
    assert_eq!(report.verdict.label(), "website");
    let expected = [("TCP", Mark::Good), ("RPC", Mark::Bad), ("HTTP", Mark::Bad)];
    assert_eq!(stages(&report), expected);
}

#[tokio::test]
async fn tls_and_other_services_and_garbage_are_told() {
    for (words, label) in [
        (&b"\x15\x03\x03\x00\x02\x02\x46"[..], "website"),
        (b"220 mail.example.lan ESMTP ready\r\n", "not_rpc"),
        (b"\x00\x01\x02\xff\xfe", "not_rpc"),
        (&[0x99; 600], "not_rpc"),
    ] {
        let report = look(says(words).await, LONG).await;
        assert_eq!(report.verdict.label(), label, "{words:02x?}");
    }
}

#[tokio::test]
async fn a_silent_server_and_one_that_closes_are_told_apart() {
    let silent = listen(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let report = look(silent, SHORT).await;
    assert_eq!(finding(&report), &Finding::Silent);
    assert_eq!(report.verdict.label(), "silent");
    let closes = listen(|stream: TcpStream| async move { drop(stream) }).await;
    let report = look(closes, LONG).await;
    assert_eq!(finding(&report), &Finding::Closed);
}

/// Answers each PDU of a client with this body.
async fn answers(body: impl Fn() -> Body<'static> + Send + Sync + 'static) -> SocketAddr {
    let body = Arc::new(body);
    listen(move |mut stream| {
        let body = Arc::clone(&body);
        async move {
            let mut received = Vec::new();
            while let Ok(1..) = stream.read_buf(&mut received).await {
                let Ok(Frame::Whole { header, .. }) = frame(&received) else {
                    continue;
                };
                let pdu = Pdu {
                    flags: Flags::WHOLE,
                    call_id: header.call_id,
                    body: body(),
                };
                let mut out = Vec::new();
                pdu.encode(&mut out).unwrap();
                let _ = stream.write_all(&out).await;
                received.clear();
            }
        }
    })
    .await
}

fn ack(answers: Vec<ContextAnswer>) -> Body<'static> {
    Body::BindAck(BindAck {
        max_xmit_frag: 5840,
        max_recv_frag: 5840,
        assoc_group_id: 1,
        secondary_address: b"135\0".to_vec(),
        answers,
    })
}

#[tokio::test]
async fn rpc_that_is_not_kms_or_refuses_is_told() {
    let rejected = ContextAnswer::rejected(RejectReason::AbstractSyntax);
    let address = answers(move || ack(vec![rejected; 3])).await;
    let report = look(address, LONG).await;
    assert_eq!(report.verdict.label(), "not_kms");
    let expected = [("TCP", Mark::Good), ("RPC", Mark::Good), ("KMS", Mark::Bad)];
    assert_eq!(stages(&report), expected);

    let nak = || {
        Body::BindNak(crate::pdu::BindNak {
            reason: crate::pdu::NakReason::LOCAL_LIMIT,
            versions: Vec::new(),
        })
    };
    let report = look(answers(nak).await, LONG).await;
    assert_eq!(report.verdict.label(), "bind_refused");

    let report = look(answers(|| ack(Vec::new())).await, LONG).await;
    assert_eq!(report.verdict.label(), "nonsense");
}

/// A bind_ack with three rejections, as bytes.
fn rejecting() -> Vec<u8> {
    let rejected = ContextAnswer::rejected(RejectReason::TransferSyntaxes);
    let pdu = Pdu {
        flags: Flags::WHOLE,
        call_id: 1,
        body: ack(vec![rejected; 3]),
    };
    let mut out = Vec::new();
    pdu.encode(&mut out).unwrap();
    out
}

#[tokio::test]
async fn rpc_that_makes_no_sense_is_told_from_other_services() {
    let with = |at: usize, byte: u8| {
        let mut bytes = rejecting();
        bytes[at] = byte;
        bytes
    };
    // A list of results that ends too early.
    let mut truncated = rejecting();
    truncated.truncate(50);
    truncated[8] = 50;
    let mut too_long = rejecting();
    too_long[8..10].copy_from_slice(&[0xFF, 0xFF]);
    for (words, label) in [
        (truncated, "nonsense"),
        (too_long, "nonsense"),
        // Version 5.1, and authentication that nobody asked for.
        (with(1, 1), "nonsense"),
        (with(10, 16), "nonsense"),
        // Big-endian.
        (with(4, 0), "nonsense"),
        // No RPC but for its lengths.
        (with(0, 4), "not_rpc"),
        // SOCKS 5 refuses.
        (b"\x05\xff".to_vec(), "not_rpc"),
    ] {
        let report = look(says(words.clone().leak()).await, LONG).await;
        assert_eq!(report.verdict.label(), label, "{words:02x?}");
        let rpc = report.steps.last().unwrap();
        assert_eq!((rpc.stage, rpc.mark), (Stage::Rpc, Mark::Bad));
    }
}

/// A name server with these records; everything else does not exist, except that
/// it fails at names that begin with `servfail.`.
async fn name_server(records: Vec<Record>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = [0; 1500];
        while let Ok((len, from)) = socket.recv_from(&mut datagram).await {
            let mut answer = Message::from_vec(&datagram[..len]).unwrap().into_response();
            answer.metadata.recursion_available = true;
            answer.edns = None;
            let query = answer.queries.first().unwrap().clone();
            let same = |record: &&Record| record.name == query.name;
            if !records.iter().any(|record| same(&record)) {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            if query.name.to_ascii().starts_with("servfail.") {
                answer.metadata.response_code = ResponseCode::ServFail;
            }
            let wanted = records.iter().filter(same);
            let wanted = wanted.filter(|record| record.record_type() == query.query_type());
            answer.add_answers(wanted.cloned().collect::<Vec<_>>());
            socket
                .send_to(&answer.to_vec().unwrap(), from)
                .await
                .unwrap();
        }
    });
    address
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 60, data)
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Record {
    let data = SRV::new(priority, weight, port, name(target));
    record("_vlmcs._tcp.example.lan.", RData::SRV(data))
}

async fn look_up(target: Target, nameserver: SocketAddr, any: bool) -> Report {
    let settings = Settings {
        within: LONG,
        nameserver: Some(nameserver),
        any,
    };
    examine(&target, settings).await.unwrap()
}

fn domain() -> Target {
    Target::Domain("example.lan".to_owned())
}

#[tokio::test]
async fn a_domain_is_examined_by_priority_and_weight() {
    let kms = lab().await;
    let loopback = RData::A(A(Ipv4Addr::LOCALHOST));
    let server = name_server(vec![
        srv(20, 0, kms.port(), "last.example.lan."),
        srv(10, 10, kms.port(), "second.example.lan."),
        srv(10, 60, kms.port(), "first.example.lan."),
        record("first.example.lan.", loopback.clone()),
        record("second.example.lan.", loopback.clone()),
        record("last.example.lan.", loopback),
    ])
    .await;
    let report = look_up(domain(), server, false).await;
    assert_eq!(report.verdict, Verdict::Healthy);
    let srv = report.steps.first().unwrap();
    assert_eq!(srv.stage, Stage::Srv);
    let order = ["first.", "second.", "last."].map(|host| srv.detail.find(host));
    assert!(order.is_sorted() && order[0].is_some(), "{}", srv.detail);
    // One address behind three names is one address.
    assert_eq!(report.findings.len(), 1);
}

#[tokio::test]
async fn a_domain_without_a_record_and_one_that_points_nowhere() {
    let server = name_server(Vec::new()).await;
    let report = look_up(domain(), server, false).await;
    assert_eq!(report.verdict, Verdict::NoRecord("example.lan".to_owned()));

    let server = name_server(vec![srv(0, 0, 1688, "gone.example.lan.")]).await;
    let report = look_up(domain(), server, false).await;
    assert_eq!(report.verdict.label(), "no_name");

    let server = name_server(vec![srv(0, 0, 1688, ".")]).await;
    let report = look_up(domain(), server, false).await;
    assert_eq!(report.verdict.label(), "no_record");
}

#[tokio::test]
async fn one_host_of_two_that_does_not_resolve_is_not_healthy() {
    let kms = lab().await;
    let server = name_server(vec![
        srv(0, 0, kms.port(), "here.example.lan."),
        srv(0, 0, kms.port(), "gone.example.lan."),
        record("here.example.lan.", RData::A(A(Ipv4Addr::LOCALHOST))),
    ])
    .await;
    let report = look_up(domain(), server, false).await;
    let gone = Verdict::NoName("gone.example.lan.".to_owned());
    assert_eq!(report.verdict, gone);
    let report = look_up(domain(), server, true).await;
    assert_eq!(report.verdict, Verdict::Healthy);
}

#[tokio::test]
async fn a_host_of_which_the_name_server_says_nothing_is_not_called_unknown() {
    let kms = lab().await;
    let records = vec![
        srv(0, 20, kms.port(), "here.example.lan."),
        srv(0, 10, kms.port(), "servfail.example.lan."),
        record("here.example.lan.", RData::A(A(Ipv4Addr::LOCALHOST))),
    ];
    let server = name_server(records.clone()).await;
    let report = look_up(domain(), server, false).await;
    let host = "servfail.example.lan.".to_owned();
    assert_eq!(report.verdict, Verdict::NameServer(host));
    assert_eq!(report.verdict.code(), 6);
    let report = look_up(domain(), server, true).await;
    assert_eq!(report.verdict, Verdict::Healthy);

    // Of two the first counts.
    let gone = srv(0, 15, kms.port(), "gone.example.lan.");
    let server = name_server([records, vec![gone]].concat()).await;
    let report = look_up(domain(), server, false).await;
    let host = "gone.example.lan.".to_owned();
    assert_eq!(report.verdict, Verdict::NoName(host));
}

/// IPv4 works, and nobody listens for IPv6 at the same port.
#[tokio::test]
async fn ipv6_that_is_not_forwarded_is_told() {
    let kms = lab().await;
    let server = name_server(vec![
        record("kms.example.lan.", RData::A(A(Ipv4Addr::LOCALHOST))),
        record(
            "kms.example.lan.",
            RData::AAAA(AAAA(std::net::Ipv6Addr::LOCALHOST)),
        ),
    ])
    .await;
    let target = Target::Host(Endpoint {
        host: Host::Name("kms.example.lan.".to_owned()),
        port: kms.port(),
    });
    let report = look_up(target.clone(), server, false).await;
    match report.findings.as_slice() {
        [(_, Finding::Kms { .. }), (_, Finding::Refused)] => {
            assert_eq!(report.verdict, Verdict::OneFamily { ipv6: false });
            assert_eq!(report.verdict.code(), 3);
        }
        // A machine without IPv6 cannot tell.
        [(_, Finding::Kms { .. }), (_, Finding::NoRoute)] => {
            assert_eq!(report.verdict, Verdict::Healthy);
        }
        other => panic!("{other:?}"),
    }
    let report = look_up(target, server, true).await;
    assert_eq!(report.verdict, Verdict::Healthy);
}

#[tokio::test]
async fn a_name_server_that_is_not_there_is_told() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let silent = socket.local_addr().unwrap();
    let settings = Settings {
        within: SHORT,
        nameserver: Some(silent),
        any: false,
    };
    let report = examine(&domain(), settings).await.unwrap();
    assert_eq!(report.verdict.label(), "name_server");
    let step = report.steps.first().unwrap();
    assert!(step.detail.contains("does not answer"), "{}", step.detail);
    drop(socket);
}

#[tokio::test]
async fn more_addresses_than_are_examined_are_left_out_and_told() {
    let kms = lab().await;
    let addresses = (1..=40).map(|last| Ipv4Addr::new(127, 0, 1, last));
    let records = addresses.map(|address| record("many.example.lan.", RData::A(A(address))));
    let server = name_server(records.collect()).await;
    let target = Target::Host(Endpoint {
        host: Host::Name("many.example.lan.".to_owned()),
        port: kms.port(),
    });
    let report = look_up(target, server, false).await;
    assert_eq!(report.findings.len(), MAX_ADDRESSES);
    let names = report.steps.first().unwrap();
    assert!(
        names.detail.ends_with("and 8 more that are left out"),
        "{}",
        names.detail
    );
}
