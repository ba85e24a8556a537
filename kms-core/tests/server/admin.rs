//! The admin port.

use kms_core::limits::{Limits, Rate};
use kms_core::server::FrontSettings;
use kms_core::server::admin::{self, Listing, Removed};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::{Server, Setup, rest};

/// A server with one source on its overload table, and its admin port.
async fn overloaded() -> (Server, SocketAddr) {
    let server = Setup {
        front: FrontSettings {
            limits: Limits {
                rate: Some(Rate {
                    connections: 1,
                    window: Duration::from_secs(60),
                }),
                ..Limits::default()
            },
            ..FrontSettings::default()
        },
        ..Setup::default()
    }
    .start()
    .await;
    for _ in 0..2 {
        let mut stream = server.connect_from("127.0.0.2").await;
        let _ = stream.shutdown().await;
        rest(&mut stream).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin::serve(
        listener,
        server.front.clone(),
        std::future::pending(),
    ));
    (server, address)
}

/// Status, head and body.
async fn http(address: SocketAddr, line: &str, headers: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let text = String::from_utf8(rest(&mut stream).await).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

const HOST: &str = "Host: 127.0.0.1:9103\r\n";

#[tokio::test]
async fn the_overload_table_is_listed_and_emptied() {
    let (server, address) = overloaded().await;
    let (status, head, body) = http(address, "GET /limits", HOST).await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"));
    let listing: Listing = serde_json::from_str(&body).unwrap();
    assert_eq!(listing.total, 1);
    assert_eq!(listing.overloaded[0].source, "127.0.0.2");
    assert_eq!(listing.overloaded[0].reason, "rate");
    assert!((3590..=3600).contains(&listing.overloaded[0].left_seconds));

    let (status, _, body) = http(address, "DELETE /limits?older-than=60", HOST).await;
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<Removed>(&body).unwrap().removed, 0);
    for query in ["?older-than=", "?older-than=-1", "?all", "?"] {
        let (status, ..) = http(address, &format!("DELETE /limits{query}"), HOST).await;
        assert_eq!(status, 400, "{query}");
    }
    assert_eq!(server.front.overloaded().len(), 1);
    let (_, _, body) = http(address, "DELETE /limits", "Host: localhost\r\n").await;
    assert_eq!(serde_json::from_str::<Removed>(&body).unwrap().removed, 1);
    assert_eq!(server.front.overloaded(), []);
}

#[tokio::test]
async fn a_web_page_cannot_touch_the_table() {
    let (server, address) = overloaded().await;
    for headers in [
        "Host: kms.example.org\r\n".to_owned(),
        "Host: 127.0.0.1.example.org:9103\r\n".to_owned(),
        String::from("Host: \r\n"),
        format!("{HOST}Origin: http://example.org\r\n"),
    ] {
        for method in ["GET", "DELETE", "OPTIONS"] {
            let (status, ..) = http(address, &format!("{method} /limits"), &headers).await;
            assert_eq!(status, 403, "{method} {headers}");
        }
    }
    assert_eq!(server.front.overloaded().len(), 1);
}

#[tokio::test]
async fn metrics_come_as_they_are_asked_for() {
    let (_server, address) = overloaded().await;
    // From anywhere, under any name.
    let (status, head, body) = http(address, "GET /metrics", "Host: kms.example.org\r\n").await;
    assert_eq!(status, 200);
    assert!(head.contains("text/plain; version=0.0.4"));
    assert!(
        body.contains(
            "\n# TYPE kms_core_connections_total counter\nkms_core_connections_total 2\n"
        )
    );
    assert!(body.contains("\nkms_core_limit_overloaded 1\n"));
    assert!(body.contains("\nkms_core_connections_closed_total{reason=\"upstream\"} 0\n"));
    assert!(!body.contains("127.0.0"), "no address in a label");
    let headers = format!("{HOST}Accept: application/openmetrics-text\r\n");
    let (_, head, body) = http(address, "GET /metrics", &headers).await;
    assert!(head.contains("application/openmetrics-text; version=1.0.0"));
    assert!(body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn other_paths_and_methods_are_told_so() {
    let (_server, address) = overloaded().await;
    let (status, _, body) = http(address, "GET /healthz", HOST).await;
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    assert_eq!(http(address, "GET /", HOST).await.0, 404);
    for line in ["POST /metrics", "DELETE /healthz", "DELETE /metrics"] {
        let (status, head, _) = http(address, line, HOST).await;
        assert_eq!(status, 405, "{line}");
        assert!(
            head.contains("allow: get, head\r\n") || head.ends_with("allow: get, head"),
            "{head}"
        );
    }
    assert_eq!(http(address, "POST /limits", HOST).await.0, 405);
}
