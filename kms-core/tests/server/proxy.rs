//! The PROXY protocol, from peers that are listed and from others.

use std::time::Duration;

use kms_core::limits::{Limits, Rate};
use kms_core::server::FrontSettings;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::wire::{bind, call, is_answer};
use crate::{Server, Setup, answer, rest};

const V1: &[u8] = b"PROXY TCP4 192.0.2.15 198.51.100.1 49731 1688\r\n";

/// [2001:db8::5]:49731, with a name behind the addresses.
fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x2c".to_vec();
    for address in ["2001:db8::5", "2001:db8::1"] {
        header.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    header.extend([0xC2, 0x43, 0x06, 0x98, 0x02, 0, 5]);
    header.extend(b"kms-1");
    header
}

fn local() -> Vec<u8> {
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec()
}

async fn behind_a_proxy(limits: Limits) -> Server {
    Setup {
        front: FrontSettings {
            proxy_from: vec!["127.0.0.2/32".parse().unwrap()],
            limits,
            ..FrontSettings::default()
        },
        ..Setup::default()
    }
    .start()
    .await
}

#[tokio::test]
async fn a_listed_peer_says_whom_it_speaks_for() {
    let server = behind_a_proxy(Limits::default()).await;
    for header in [V1.to_vec(), v2(), local()] {
        let mut stream = server.connect_from("127.0.0.2").await;
        // In one piece with what the client says.
        let all = [header, bind(), call()].concat();
        stream.write_all(&all).await.unwrap();
        answer(&mut stream).await;
        assert!(is_answer(&answer(&mut stream).await));
        drop(stream);
        server.until_open(0).await;
    }
    let outcome = |outcome| format!("kms_core_proxy_headers_total{{reason=\"{outcome}\"}}");
    assert_eq!(server.metric(&outcome("address")), 2);
    assert_eq!(server.metric(&outcome("local")), 1);
    let log = server.stop().await;
    assert!(
        log.contains("IPv4 connection accepted: 192.0.2.15:49731.\n"),
        "{log}"
    );
    assert!(
        log.contains("IPv6 connection closed: [2001:db8::5]:49731.\n"),
        "{log}"
    );
    assert!(
        log.contains("IPv4 connection accepted: 127.0.0.2:"),
        "{log}"
    );
}

#[tokio::test]
async fn limits_are_the_clients_not_the_proxys() {
    let limits = Limits {
        rate: Some(Rate {
            connections: 2,
            window: Duration::from_secs(60),
        }),
        ..Limits::default()
    };
    let server = behind_a_proxy(limits).await;
    let mut served = Vec::new();
    for header in [
        V1.to_vec(),
        V1.to_vec(),
        V1.to_vec(),
        v2(),
        local(),
        local(),
        local(),
    ] {
        let mut stream = server.connect_from("127.0.0.2").await;
        stream.write_all(&[header, bind()].concat()).await.unwrap();
        let _ = stream.shutdown().await;
        served.push(!rest(&mut stream).await.is_empty());
    }
    assert_eq!(served, [true, true, false, true, true, true, true]);
    assert_eq!(
        server.front.overloaded()[0].source.to_string(),
        "192.0.2.15"
    );
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let server = behind_a_proxy(Limits::default()).await;
    for header in [V1.to_vec(), v2()] {
        let mut stream = server.connect_from("127.0.0.3").await;
        stream.write_all(&[header, bind()].concat()).await.unwrap();
        let reply = rest(&mut stream).await;
        assert!(!is_answer(&reply));
        drop(stream);
        server.until_open(0).await;
    }
    assert_eq!(server.ended("protocol"), 2);
    let log = server.stop().await;
    assert!(
        !log.contains("192.0.2.15") && !log.contains("2001:db8"),
        "{log}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_listed_peer_has_to_say_it_and_in_time() {
    let server = behind_a_proxy(Limits::default()).await;
    let begun = Instant::now();
    let mut silent = server.connect_from("127.0.0.2").await;
    assert_eq!(rest(&mut silent).await, b"");
    assert!(begun.elapsed() < Duration::from_secs(6));
    let mut direct = server.connect_from("127.0.0.2").await;
    direct.write_all(&bind()).await.unwrap();
    assert_eq!(rest(&mut direct).await, b"");
    assert_eq!(
        server.metric("kms_core_proxy_headers_total{reason=\"broken\"}"),
        2
    );
    assert_eq!(server.stop().await, "");
}
