//! Whom the server turns away.

use std::time::Duration;

use kms_core::limits::{Limits, Rate};
use kms_core::server::FrontSettings;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::wire::{bind, packet_type};
use crate::{Server, Setup, answer, ask, rest};
use kms_core::pdu::PacketType;
use tokio::io::AsyncWriteExt as _;

async fn limited(limits: Limits) -> Server {
    Setup {
        front: FrontSettings {
            limits,
            ..FrontSettings::default()
        },
        ..Setup::default()
    }
    .start()
    .await
}

fn ten_a_minute() -> Limits {
    Limits {
        rate: Some(Rate {
            connections: 10,
            window: Duration::from_secs(60),
        }),
        ..Limits::default()
    }
}

/// Whether a new connection from there is answered.
async fn is_served(server: &Server, source: &str) -> bool {
    let mut stream = server.connect_from(source).await;
    // A connection that is turned away may be gone before this is sent.
    let _ = stream.write_all(&bind()).await;
    let _ = stream.shutdown().await;
    let reply = rest(&mut stream).await;
    !reply.is_empty() && packet_type(&reply) == PacketType::BindAck
}

#[tokio::test]
async fn the_eleventh_connection_overloads_its_source_and_nobody_else() {
    let mut limits = ten_a_minute();
    limits.allow = vec!["127.0.0.3/32".parse().unwrap()];
    let server = limited(limits).await;
    for _ in 0..10 {
        assert!(is_served(&server, "127.0.0.2").await);
    }
    let mut other = server.connect_from("127.0.0.4").await;
    ask(&mut other, &bind()).await;
    assert!(!is_served(&server, "127.0.0.2").await);
    assert!(!is_served(&server, "127.0.0.2").await);
    for _ in 0..30 {
        assert!(is_served(&server, "127.0.0.3").await);
    }
    let overloaded = server.front.overloaded();
    assert_eq!(overloaded.len(), 1);
    assert_eq!(overloaded[0].source.to_string(), "127.0.0.2");
    assert!(is_served(&server, "127.0.0.4").await);
    let refused = |reason| format!("kms_core_connections_limited_total{{reason=\"{reason}\"}}");
    assert_eq!(server.metric(&refused("rate")), 1);
    assert_eq!(server.metric(&refused("overload")), 1);
    assert_eq!(server.metric("kms_core_limit_overloaded"), 1);

    assert_eq!(server.front.expire(Duration::from_secs(60)), 0);
    assert_eq!(server.front.flush(), 1);
    assert!(is_served(&server, "127.0.0.2").await);
    let log = server.stop().await;
    assert!(log.contains("\nLimited: 127.0.0.2 rate 2\n"), "{log}");
    assert_eq!(log.matches("Limited:").count(), 1);
    // Who is turned away was never connected, as far as the log goes.
    assert_eq!(log.matches("accepted: 127.0.0.2:").count(), 11);
}

#[tokio::test]
async fn the_open_connections_of_an_overloaded_source_are_cut() {
    let server = limited(Limits {
        max_connections: Some(3),
        ..Limits::default()
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = server.connect_from("127.0.0.2").await;
        ask(&mut stream, &bind()).await;
        streams.push(stream);
    }
    let mut other = server.connect_from("127.0.0.3").await;
    ask(&mut other, &bind()).await;
    assert!(!is_served(&server, "127.0.0.2").await);
    for stream in &mut streams {
        assert_eq!(rest(stream).await, b"");
    }
    server.until_open(1).await;
    assert_eq!(server.ended("cut"), 3);
    assert_eq!(server.front.overloaded()[0].connections, 0);
    ask(&mut other, &crate::wire::call()).await;
    let log = server.stop().await;
    assert_eq!(log.matches("closed: 127.0.0.2:").count(), 3);
}

#[tokio::test]
async fn a_dry_run_counts_and_lets_in() {
    let mut limits = ten_a_minute();
    limits.dry_run = true;
    let server = limited(limits).await;
    for _ in 0..15 {
        assert!(is_served(&server, "127.0.0.2").await);
    }
    let refused = |reason| format!("kms_core_connections_limited_total{{reason=\"{reason}\"}}");
    assert_eq!(server.metric(&refused("rate")), 1);
    assert_eq!(server.metric(&refused("overload")), 4);
    assert!(server.stop().await.contains("Limited: 127.0.0.2 rate 5\n"));
}

#[tokio::test]
async fn limits_can_be_changed_while_connections_are_open() {
    let server = limited(Limits::default()).await;
    let mut first = server.connect_from("127.0.0.2").await;
    ask(&mut first, &bind()).await;
    let one = Limits {
        max_total: Some(1),
        ..Limits::default()
    };
    server.front.set_limits(one).unwrap();
    assert!(!is_served(&server, "127.0.0.3").await);
    drop(first);
    server.until_open(0).await;
    assert!(is_served(&server, "127.0.0.3").await);
    let none = Limits {
        max_total: Some(0),
        ..Limits::default()
    };
    assert!(server.front.set_limits(none).is_err());
}

#[tokio::test(start_paused = true)]
async fn refusals_are_reported_when_their_window_is_over() {
    let server = limited(ten_a_minute()).await;
    for _ in 0..12 {
        let stream = server.connect_from("127.0.0.2").await;
        drop(stream);
    }
    sleep(Duration::from_secs(62)).await;
    let later = server.connect_from("127.0.0.3").await;
    server.until_open(1).await;
    let log = server.stop().await;
    let report = log.find("\nLimited: 127.0.0.2 rate 2\n").unwrap();
    let later = later.local_addr().unwrap();
    let later = log.find(&format!("accepted: {later}.")).unwrap();
    assert!(report < later, "{log}");
}

#[tokio::test]
async fn ipv4_over_ipv6_is_ipv4() {
    let server = Setup {
        listen: "[::]:0",
        ..Setup::default()
    }
    .start()
    .await;
    let port = server.address.port();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(&bind()).await.unwrap();
    answer(&mut stream).await;
    let peer = stream.local_addr().unwrap();
    drop(stream);
    server.until_open(0).await;
    let log = server.stop().await;
    assert!(
        log.starts_with(&format!("IPv4 connection accepted: {peer}.\n")),
        "{log}"
    );
}
