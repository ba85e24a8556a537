//! Connections and their ends.

use std::time::Duration;

use kms_core::catalog::Protocol;
use kms_core::pdu::{Body, PacketType};
use kms_core::server::{FrontSettings, ResponderSettings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::wire::{bind, call, call_of, fragment, is_answer, packet_type, pdu, stub};
use crate::{Setup, answer, ask, rest};

const IDLE: Duration = Duration::from_secs(30);
const PDU: Duration = Duration::from_secs(10);

#[tokio::test]
async fn one_connection_asks_several_times() {
    let server = Setup::default().start().await;
    let mut stream = server.connect().await;
    assert_eq!(
        packet_type(&ask(&mut stream, &bind()).await),
        PacketType::BindAck
    );
    for protocol in [Protocol::V4, Protocol::V5, Protocol::V6, Protocol::V6] {
        assert!(is_answer(
            &ask(&mut stream, &call_of(protocol, "PC1")).await
        ));
    }
    let peer = stream.local_addr().unwrap();
    drop(stream);
    server.until_open(0).await;
    assert_eq!(server.ended("peer"), 1);
    assert_eq!(server.metric("kms_core_pdus_total{reason=\"answered\"}"), 4);
    let log = server.stop().await;
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 10);
    assert_eq!(lines[0], format!("IPv4 connection accepted: {peer}."));
    assert_eq!(
        lines[1],
        "KMS v4.0 request from PC1 for Windows 10 Enterprise"
    );
    assert!(lines[2].starts_with("Sending ePID (vlmcsd default): 00000-"));
    assert_eq!(lines[9], format!("IPv4 connection closed: {peer}."));
}

#[tokio::test]
async fn how_the_bytes_are_cut_does_not_matter() {
    let server = Setup::default().start().await;
    let all = [bind(), call(), call()].concat();
    for size in [1, 7, 100, all.len()] {
        let mut stream = server.connect().await;
        stream.set_nodelay(true).unwrap();
        for piece in all.chunks(size) {
            stream.write_all(piece).await.unwrap();
            // Lets the server read this much by itself.
            tokio::task::yield_now().await;
        }
        assert_eq!(packet_type(&answer(&mut stream).await), PacketType::BindAck);
        assert!(is_answer(&answer(&mut stream).await), "{size}");
        assert!(is_answer(&answer(&mut stream).await), "{size}");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_closes_its_half_still_gets_the_answer() {
    let server = Setup::default().start().await;
    let mut stream = server.connect().await;
    let all = [bind(), call()].concat();
    stream.write_all(&all).await.unwrap();
    stream.shutdown().await.unwrap();
    answer(&mut stream).await;
    assert!(is_answer(&answer(&mut stream).await));
    assert_eq!(rest(&mut stream).await, b"");
    server.until_open(0).await;
    assert_eq!(server.ended("peer"), 1);
}

#[tokio::test]
async fn who_leaves_in_the_middle_of_a_pdu_hears_nothing() {
    let server = Setup::default().start().await;
    let bind = bind();
    for part in [1, 15, 16, bind.len() - 1] {
        let mut stream = server.connect().await;
        stream.write_all(&bind[..part]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(rest(&mut stream).await, b"", "{part}");
    }
    server.until_open(0).await;
    assert_eq!(server.ended("peer"), 4);
}

#[tokio::test(start_paused = true)]
async fn a_slow_drip_is_cut_when_its_call_has_taken_too_long() {
    let server = Setup::default().start().await;
    let mut stream = server.connect().await;
    ask(&mut stream, &bind()).await;
    let begun = Instant::now();
    // A byte a second never lets the connection be idle.
    for byte in call().iter().take(60) {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
        if server.ended("slow") == 1 {
            break;
        }
    }
    let took = begun.elapsed();
    assert!(
        (PDU..PDU + Duration::from_secs(2)).contains(&took),
        "{took:?}"
    );
    assert_eq!(rest(&mut stream).await, b"");
}

#[tokio::test(start_paused = true)]
async fn fragments_of_one_call_share_its_deadline() {
    let server = Setup::default().start().await;
    let mut stream = server.connect().await;
    ask(&mut stream, &bind()).await;
    let begun = Instant::now();
    stream.write_all(&fragment(0x01, b"1234")).await.unwrap();
    while server.ended("slow") == 0 && begun.elapsed() < PDU * 3 {
        sleep(Duration::from_secs(1)).await;
        // May find the connection closed already.
        let _ = stream.write_all(&fragment(0x00, b"1234")).await;
    }
    let took = begun.elapsed();
    assert!(
        (PDU..PDU + Duration::from_secs(2)).contains(&took),
        "{took:?}"
    );
}

/// A call that its client gave up is not under way any more.
#[tokio::test(start_paused = true)]
async fn a_call_that_was_given_up_leaves_an_idle_connection() {
    let server = Setup::default().start().await;
    let mut stream = server.connect().await;
    ask(&mut stream, &bind()).await;
    let begun = Instant::now();
    let held = fragment(0x01, b"1234");
    // To cancel it is no end of it: the rest may still come.
    let cancel = pdu(0x03, Body::Other(PacketType::CoCancel, b""));
    stream
        .write_all(&[&*held, &*cancel].concat())
        .await
        .unwrap();
    assert_eq!(rest(&mut stream).await, b"");
    assert!(begun.elapsed() < IDLE, "{:?}", begun.elapsed());

    let mut stream = server.connect().await;
    ask(&mut stream, &bind()).await;
    let begun = Instant::now();
    let orphaned = pdu(0x03, Body::Other(PacketType::Orphaned, b""));
    stream.write_all(&[held, orphaned].concat()).await.unwrap();
    assert_eq!(rest(&mut stream).await, b"");
    assert!(begun.elapsed() >= IDLE, "{:?}", begun.elapsed());
    server.until_open(0).await;
    assert_eq!((server.ended("slow"), server.ended("idle")), (1, 1));
    assert_eq!(server.metric("kms_core_pdus_total{reason=\"ignored\"}"), 2);
}

/// In a program of one's own; the command line takes 30 days at most.
#[tokio::test]
async fn times_without_end_are_no_times_to_panic_at() {
    let setup = Setup {
        responder: ResponderSettings {
            idle: Duration::MAX,
            pdu: Duration::MAX,
            ..ResponderSettings::default()
        },
        front: FrontSettings {
            proxy_from: vec!["127.0.0.2/32".parse().unwrap()],
            proxy_deadline: Duration::MAX,
            drain: Duration::MAX,
            ..FrontSettings::default()
        },
        ..Setup::default()
    };
    let server = setup.start().await;
    for source in ["127.0.0.1", "127.0.0.2"] {
        let mut stream = server.connect_from(source).await;
        if source == "127.0.0.2" {
            stream.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
        }
        let half = call().len() / 2;
        stream.write_all(&bind()).await.unwrap();
        stream.write_all(&call()[..half]).await.unwrap();
        assert_eq!(packet_type(&answer(&mut stream).await), PacketType::BindAck);
        assert!(is_answer(&ask(&mut stream, &call()[half..]).await));
    }
    server.stop().await;
}

#[tokio::test]
async fn fragments_in_time_are_one_call() {
    let server = Setup::default().start().await;
    let mut stream = server.connect().await;
    ask(&mut stream, &bind()).await;
    let stub = stub(Protocol::V6, "PC1");
    let (head, tail) = stub.split_at(100);
    let both = [fragment(0x01, head), fragment(0x02, tail)].concat();
    assert!(is_answer(&ask(&mut stream, &both).await));
}

#[tokio::test(start_paused = true)]
async fn who_asks_nothing_is_let_go() {
    let server = Setup::default().start().await;
    let begun = Instant::now();
    let mut silent = server.connect().await;
    assert_eq!(rest(&mut silent).await, b"");
    let took = begun.elapsed();
    assert!(
        (IDLE..IDLE + Duration::from_secs(1)).contains(&took),
        "{took:?}"
    );

    // Each call begins the time anew.
    let mut stream = server.connect().await;
    ask(&mut stream, &bind()).await;
    for _ in 0..3 {
        sleep(IDLE - Duration::from_secs(1)).await;
        assert!(is_answer(&ask(&mut stream, &call()).await));
    }
    assert_eq!(rest(&mut stream).await, b"");
    server.until_open(0).await;
    assert_eq!(server.ended("idle"), 2);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_take_answers_is_not_read_for_ever() {
    let server = Setup::default().start().await;
    let mut stream = server.connect().await;
    stream.write_all(&bind()).await.unwrap();
    let calls = call().repeat(100);
    // Ends when the server has given up, since nothing is read here.
    while stream.write_all(&calls).await.is_ok() {}
    server.until_open(0).await;
    assert_eq!(server.ended("slow"), 1);
}

#[tokio::test]
async fn what_cannot_be_right_ends_the_connection() {
    let server = Setup::default().start().await;
    // Longer than any fragment: not a word, and nothing is waited for.
    let mut stream = server.connect().await;
    let mut long = bind();
    long[8..10].copy_from_slice(&u16::MAX.to_le_bytes());
    stream.write_all(&long).await.unwrap();
    assert_eq!(rest(&mut stream).await, b"");

    // A call before the bind is told why, though more was sent behind it.
    let mut stream = server.connect().await;
    stream
        .write_all(&[call(), vec![0; 3000]].concat())
        .await
        .unwrap();
    let reply = rest(&mut stream).await;
    assert_eq!(packet_type(&reply), PacketType::Fault);
    drop(stream);

    // What was right before is answered.
    let mut stream = server.connect().await;
    let all = [bind(), call(), b"GET / HTTP/1.1\r\n\r\n".to_vec()].concat();
    stream.write_all(&all).await.unwrap();
    answer(&mut stream).await;
    assert!(is_answer(&answer(&mut stream).await));
    assert_eq!(rest(&mut stream).await, b"");
    drop(stream);
    server.until_open(0).await;
    assert_eq!(server.ended("protocol"), 3);
    assert_eq!(
        server.metric("kms_core_pdus_total{reason=\"byte_order\"}"),
        1
    );
}

#[tokio::test]
async fn a_stop_finishes_what_is_under_way() {
    let server = Setup::default().start().await;
    let mut idle = server.connect().await;
    ask(&mut idle, &bind()).await;
    let mut busy = server.connect().await;
    ask(&mut busy, &bind()).await;
    let stub = stub(Protocol::V6, "PC1");
    let (head, tail) = stub.split_at(100);
    busy.write_all(&fragment(0x01, head)).await.unwrap();
    let held = "kms_core_pdus_total{reason=\"fragment_held\"}";
    while server.metric(held) == 0 {
        tokio::task::yield_now().await;
    }
    let address = server.address;
    let front = server.front.clone();
    let (_, log) = tokio::join!(
        async {
            assert_eq!(rest(&mut idle).await, b"");
            assert!(TcpStream::connect(address).await.is_err());
            assert!(is_answer(&ask(&mut busy, &fragment(0x02, tail)).await));
            assert_eq!(rest(&mut busy).await, b"");
        },
        server.stop()
    );
    assert_eq!(log.matches("connection closed").count(), 2);
    let text = front
        .metrics()
        .encode(kms_core::exposition::Format::Classic, front.snapshot())
        .unwrap();
    assert!(text.contains("kms_core_connections_closed_total{reason=\"stopped\"} 2\n"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_ever() {
    let server = Setup {
        front: FrontSettings {
            drain: Duration::from_secs(3),
            ..FrontSettings::default()
        },
        responder: ResponderSettings {
            pdu: Duration::from_secs(3600),
            ..ResponderSettings::default()
        },
        ..Setup::default()
    }
    .start()
    .await;
    let mut stream = server.connect().await;
    stream.write_all(&call()[..50]).await.unwrap();
    server.until_open(1).await;
    // The byte has to be there before the stop is.
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let log = server.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(log.ends_with(&format!(
        "IPv4 connection closed: {}.\n",
        stream.local_addr().unwrap()
    )));
    assert_eq!(rest(&mut stream).await, b"");
}

#[tokio::test]
async fn one_connection_too_many_waits_for_a_place() {
    let server = Setup {
        front: FrontSettings {
            max_connections: 1,
            ..FrontSettings::default()
        },
        ..Setup::default()
    }
    .start()
    .await;
    let mut first = server.connect().await;
    ask(&mut first, &bind()).await;
    let mut second = server.connect().await;
    second.write_all(&bind()).await.unwrap();
    assert!(is_answer(&ask(&mut first, &call()).await));
    assert_eq!(server.metric("kms_core_connections_total"), 1);
    drop(first);
    let mut byte = [0];
    second.read_exact(&mut byte).await.unwrap();
    assert_eq!(server.metric("kms_core_connections_total"), 2);
}
