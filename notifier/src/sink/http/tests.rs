//! Raw bytes to a live server on a free port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::super::metrics::Setup;
use super::*;

struct Server {
    address: SocketAddr,
    readiness: Readiness,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

fn start() -> Server {
    let log: Arc<str> = "kms".into();
    let readiness = Readiness::new([&log]);
    let state = State {
        metrics: Metrics::new(Setup {
            logs: &[log],
            sources: &[],
            line_classes: &[],
            product: Box::new(|_| "unknown"),
            version: "0",
            revision: "unknown",
        }),
        readiness: readiness.clone(),
        page: None,
    };
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(serve(
        TcpListener::from_std(listener).unwrap(),
        state,
        async {
            let _ = stopped.await;
        },
    ));
    Server {
        address,
        readiness,
        stop,
        task,
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and gives all that comes back until the server closes.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // A server that has seen enough may close before it was sent everything.
        let _ = stream.write_all(request).await;
        read_to_end(&mut stream).await
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            // What the server did not read when it closed becomes a reset.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8(answer).unwrap()
}

/// Reads one answer without a body.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n").into_bytes()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn paths_and_formats() {
    let server = start();
    let answer = server.exchange(&get("/metrics", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert!(answer.contains("\nkms_slack_notifier_up 1\n"), "{answer}");
    assert!(!answer.contains("# EOF"));

    // Two headers are one list.
    let more = "Accept: text/plain;q=0.5\r\nAccept: application/openmetrics-text\r\n";
    let answer = server.exchange(&get("/metrics?x=1", more)).await;
    assert!(
        answer.contains(
            "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
        )
    );
    assert!(answer.ends_with("\n# EOF\n"), "{answer}");

    let answer = server.exchange(&get("/healthz", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(body(&answer), "ok\n");

    for path in ["/", "/metrics/", "/metrics%20", "/../metrics", "//metrics"] {
        let answer = server.exchange(&get(path, "")).await;
        assert!(
            answer.starts_with("HTTP/1.1 404 Not Found\r\n"),
            "{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn readiness_names_the_log_that_is_not() {
    let server = start();
    let answer = server.exchange(&get("/readyz", "")).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{answer}"
    );
    assert_eq!(
        body(&answer),
        "not ready: log kms waiting for the file to appear\n"
    );

    server.readiness.set(&"kms".into(), LogState::Ready);
    let answer = server.exchange(&get("/readyz", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    server.readiness.set(&"kms".into(), LogState::Stalled);
    server.readiness.set(&"other".into(), LogState::Unreadable);
    assert_eq!(
        server.readiness.problem().unwrap(),
        "not ready: log kms there is more to read and nothing is read, log other cannot be read"
    );
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let server = start();
    let answer = server
        .exchange(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-length: 3\r\n"), "{answer}");
    assert_eq!(body(&answer), "");
}

#[tokio::test]
async fn other_methods_are_refused_and_bodies_not_awaited() {
    let server = start();
    for method in ["POST", "DELETE", "OPTIONS", "BREW"] {
        let request = format!(
            "{method} /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: 1000000\r\n\r\nbegin"
        );
        let answer = server.exchange(request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"),
            "{method}: {answer}"
        );
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn garbage_and_long_heads_end_the_connection() {
    let server = start();
    for garbage in [
        &b"\x05\x00\x0b\x03\x10\x00\x00\x00\xa0\x00\x00\x00\x02\x00\x00\x00\r\n\r\n"[..],
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nNo colon\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = server.exchange(garbage).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{answer}"
        );
    }
    let long = get("/metrics", &format!("X: {}\r\n", "x".repeat(MAX_HEAD)));
    let answer = server.exchange(&long).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    // It never ends, and is cut off without being buffered.
    let endless = vec![b'G'; 64 * MAX_HEAD];
    let answer = server.exchange(&endless).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );

    let answer = server.exchange(&get("/healthz", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

/// With paused time the clock jumps to the next timer as soon as nothing else
/// can happen.
#[tokio::test(start_paused = true)]
async fn slow_heads_and_idle_connections_are_cut_off() {
    let server = start();
    let begun = tokio::time::Instant::now();
    let answer = server
        .exchange(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        .await;
    assert!(!answer.contains("200 OK"), "{answer}");
    assert!(begun.elapsed() >= HEAD_TIMEOUT);

    // A connection that asked once and stays silent.
    let mut stream = server.connect().await;
    stream
        .write_all(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test(start_paused = true)]
async fn no_connection_outlives_its_limit() {
    let server = start();
    let begun = tokio::time::Instant::now();
    let mut stream = server.connect().await;
    // Asks again and again, always in time.
    let mut answers = 0;
    loop {
        if stream
            .write_all(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .is_err()
        {
            break;
        }
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(n) if n > 0 => assert!(read_head(&mut stream).await.starts_with("TTP/1.1 200")),
            _ => break,
        }
        answers += 1;
        sleep(Duration::from_secs(3)).await;
    }
    assert!(answers >= 2, "{answers}");
    assert!(begun.elapsed() >= CONNECTION_LIFE);
}

#[tokio::test]
async fn one_connection_too_many_waits_for_a_place() {
    let server = start();
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = server.connect().await;
        stream
            .write_all(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
        held.push(stream);
    }
    let mut waiting = server.connect().await;
    waiting.write_all(&get("/healthz", "")).await.unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let error = waiting.try_read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);

    drop(held.pop());
    assert!(
        read_to_end(&mut waiting)
            .await
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_the_port() {
    let server = start();
    let mut stream = server.connect().await;
    stream
        .write_all(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    read_head(&mut stream).await;

    server.stop.send(()).unwrap();
    server.task.await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_stuck_peer() {
    let server = start();
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\n")
        .await
        .unwrap();
    // An answered request proves that the stuck one was accepted before it.
    server.exchange(&get("/healthz", "")).await;
    let begun = tokio::time::Instant::now();
    server.stop.send(()).unwrap();
    server.task.await.unwrap();
    assert!(begun.elapsed() <= HEAD_TIMEOUT);
    assert!(!read_to_end(&mut stream).await.contains("200 OK"));
}

#[test]
fn any_v6_takes_v4_and_a_taken_port_says_so() {
    let listener = bind("[::]:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_ne!(port, 0);
    std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();

    let v4: IpAddr = "127.0.0.1".parse().unwrap();
    let error = bind((v4, port).into()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}
