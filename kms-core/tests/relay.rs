//! The relay between real sockets: lab clients on one side, `server` or something
//! worse on the other.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests say what went wrong by panicking"
)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kms_core::catalog::Protocol;
use kms_core::client::{CallError, Connection, Offer};
use kms_core::endpoint::Endpoint;
use kms_core::lab::LabSuite;
use kms_core::message::{BaseRequest, FileTime, envelope};
use kms_core::relay::{ProxyVersion, Relay, RelaySettings, Upstreams};
use kms_core::responder::{Host, Policy};
use kms_core::server::{
    Front, FrontSettings, Log, Metrics, Responder, ResponderSettings, Service, fill_random,
};
use kms_core::stub::{Encoding, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Generous: only a failing test waits so long.
const DEADLINE: Duration = Duration::from_secs(30);

struct Running {
    address: SocketAddr,
    front: Front,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn run<S: Service>(settings: FrontSettings, service: S, metrics: Metrics) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let front = Front::new(settings, Log::nowhere(), metrics).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = front.clone();
    let task = tokio::spawn(async move {
        let stopped = async { stopped.await.unwrap_or_default() };
        running.run(vec![listener], service, stopped).await;
    });
    Running {
        address,
        front,
        stop,
        task,
    }
}

async fn lab() -> Running {
    let metrics = Metrics::default();
    let host = Host::new(Policy::default(), Box::new(LabSuite), &mut fill_random);
    let settings = ResponderSettings::default();
    let responder = Responder::new(host, settings, Log::nowhere(), metrics.clone());
    run(FrontSettings::default(), responder, metrics).await
}

fn endpoint(address: SocketAddr) -> Endpoint {
    address.to_string().parse().unwrap()
}

fn to(upstreams: &[SocketAddr]) -> RelaySettings {
    RelaySettings {
        upstreams: upstreams.iter().copied().map(endpoint).collect(),
        ..RelaySettings::default()
    }
}

async fn relay(settings: RelaySettings) -> Running {
    let metrics = Metrics::of_relay();
    let relay = Relay::new(settings, Log::nowhere(), metrics.clone());
    run(FrontSettings::default(), relay, metrics).await
}

impl Running {
    /// The value of a series, by its exact name and labels.
    fn metric(&self, series: &str) -> f64 {
        let format = kms_core::exposition::Format::Classic;
        let text = self.front.metrics().encode(format, self.front.snapshot());
        let text = text.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        let line = line.unwrap_or_else(|| panic!("{series} in:\n{text}"));
        line.trim().parse().unwrap()
    }

    /// Waits until it is so.
    async fn until(&self, series: &str, wanted: f64) {
        let reached = async {
            while self.metric(series) != wanted {
                tokio::task::yield_now().await;
            }
        };
        let reached = tokio::time::timeout(DEADLINE, reached).await;
        reached.unwrap_or_else(|_| panic!("{series} is {}", self.metric(series)));
    }
}

fn sealed(protocol: Protocol) -> Vec<u8> {
    let request = BaseRequest {
        version: protocol.into(),
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

async fn bound(address: SocketAddr) -> Connection<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut connection = Connection::new(stream, DEADLINE);
    connection.bind(Offer::default()).await.unwrap();
    connection
}

async fn ask(connection: &mut Connection<TcpStream>, protocol: Protocol) {
    let message = sealed(protocol);
    let answer = connection.call(Encoding::Ndr64, &message).await.unwrap();
    let Reply::Data(answer) = answer else {
        panic!("{answer:?}");
    };
    envelope::open_response(&LabSuite, &message, answer).unwrap();
}

/// All that passed a tap, by direction.
#[derive(Clone, Default)]
struct Tape {
    up: Arc<Mutex<Vec<u8>>>,
    down: Arc<Mutex<Vec<u8>>>,
}

/// A socket pair that passes everything on to `to` and keeps a copy.
async fn tap(to: SocketAddr) -> (SocketAddr, Tape) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tape = Tape::default();
    let copy = tape.clone();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        tokio::join!(
            record(near_read, far_write, copy.up),
            record(far_read, near_write, copy.down)
        );
    });
    (address, tape)
}

async fn record(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    tape: Arc<Mutex<Vec<u8>>>,
) {
    let mut bytes = [0; 100];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        tape.lock().unwrap().extend_from_slice(&bytes[..read]);
        to.write_all(&bytes[..read]).await.unwrap();
    }
    to.shutdown().await.unwrap_or_default();
}

#[tokio::test]
async fn bytes_pass_unchanged_both_ways() {
    let lab = lab().await;
    let (behind, behind_tape) = tap(lab.address).await;
    let relay = relay(to(&[behind])).await;
    let (before, before_tape) = tap(relay.address).await;
    let mut connection = bound(before).await;
    connection.alter(Encoding::Ndr32).await.unwrap();
    for protocol in [Protocol::V4, Protocol::V5, Protocol::V6] {
        ask(&mut connection, protocol).await;
    }
    for version in ["4.0", "5.0", "6.0"] {
        let series =
            format!("kms_core_relay_requests_total{{version=\"{version}\",outcome=\"answered\"}}");
        assert_eq!(relay.metric(&series), 1.0, "{version}");
    }
    drop(connection);
    relay.until("kms_core_connections_open", 0.0).await;
    let (up, down) = (
        before_tape.up.lock().unwrap(),
        before_tape.down.lock().unwrap(),
    );
    assert!(up.len() > 500 && down.len() > 500);
    assert_eq!(*up, *behind_tape.up.lock().unwrap());
    assert_eq!(*down, *behind_tape.down.lock().unwrap());
}

/// A session that was begun: its client, what the upstream has of it, and the bind
/// that arrived there.
async fn begun(relay: &Running, listener: &TcpListener) -> (TcpStream, TcpStream, Vec<u8>) {
    let mut client = TcpStream::connect(relay.address).await.unwrap();
    let mut bind = Vec::new();
    kms_core::client::Association::new().bind(Offer::default(), &mut bind);
    client.write_all(&bind).await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut received = vec![0; bind.len()];
    upstream.read_exact(&mut received).await.unwrap();
    assert_eq!(received, bind);
    (client, upstream, bind)
}

/// What was accepted is passed on, whatever it turns into.
#[tokio::test]
async fn bytes_that_cannot_be_decoded_pass_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = relay(to(&[listener.local_addr().unwrap()])).await;
    let (mut client, mut upstream, _) = begun(&relay, &listener).await;
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    let mut back = vec![0; garbage.len()];
    let mut forth = vec![0; garbage.len()];
    let (mut client_read, mut client_write) = client.split();
    let (mut upstream_read, mut upstream_write) = upstream.split();
    let done = tokio::join!(
        client_write.write_all(&garbage),
        upstream_read.read_exact(&mut forth),
        upstream_write.write_all(&garbage),
        client_read.read_exact(&mut back),
    );
    assert!(done.0.is_ok() && done.1.is_ok() && done.2.is_ok() && done.3.is_ok());
    assert_eq!(forth, garbage);
    assert_eq!(back, garbage);
    for side in ["client", "upstream"] {
        let series = format!("kms_core_relay_undecoded_total{{reason=\"{side}_stream\"}}");
        assert_eq!(relay.metric(&series), 1.0, "{side}");
    }
}

#[tokio::test]
async fn junk_is_cut_before_it_reaches_the_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = relay(to(&[listener.local_addr().unwrap()])).await;
    let mut other = Vec::new();
    kms_core::client::Association::new().bind(Offer::default(), &mut other);
    for context in 0..3 {
        other[28 + 44 * context + 4] ^= 1;
    }
    for junk in [b"GET / HTTP/1.1\r\nHost: kms\r\n\r\n".to_vec(), other] {
        let mut client = TcpStream::connect(relay.address).await.unwrap();
        client.write_all(&junk).await.unwrap();
        // Closed, in whichever way, without an answer.
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }
    // A probe asks nothing, and is nobody's business behind.
    drop(TcpStream::connect(relay.address).await.unwrap());
    relay
        .until("kms_core_connections_closed_total{reason=\"peer\"}", 1.0)
        .await;
    assert_eq!(relay.metric("kms_core_relay_junk_total"), 2.0);
    let nobody = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(nobody.is_err(), "an upstream was connected to");
}

/// An address where nothing listens.
async fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn an_upstream_that_is_down_closes_the_connection() {
    let relay = relay(to(&[closed_port().await])).await;
    let stream = TcpStream::connect(relay.address).await.unwrap();
    let answer = Connection::new(stream, DEADLINE)
        .bind(Offer::default())
        .await;
    assert!(matches!(
        answer,
        Err(CallError::Closed { .. } | CallError::Io { .. })
    ));
    relay
        .until(
            "kms_core_connections_closed_total{reason=\"upstream\"}",
            1.0,
        )
        .await;
    let failed = "kms_core_relay_upstream_connects_total{outcome=\"failed\"}";
    assert_eq!(relay.metric(failed), 1.0);
    assert_eq!(
        relay.metric("kms_core_relay_upstream_up{upstream=\"1\"}"),
        0.0
    );
}

#[tokio::test]
async fn the_next_upstream_takes_over_and_the_first_comes_back() {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = first.local_addr().unwrap();
    drop(first);
    let second = lab().await;
    let relay = relay(to(&[address, second.address])).await;
    ask(&mut bound(relay.address).await, Protocol::V6).await;
    assert_eq!(
        relay.metric("kms_core_relay_upstream_up{upstream=\"1\"}"),
        0.0
    );
    assert_eq!(
        relay.metric("kms_core_relay_upstream_up{upstream=\"2\"}"),
        1.0
    );
    // A check sees what binds, and what does not.
    let upstreams = Upstreams::new(&[endpoint(address), endpoint(second.address)], DEADLINE);
    upstreams.check().await;
    assert_eq!(upstreams.healthy(), [false, true]);
    let _ = second.stop.send(());
    second.task.await.unwrap();
    upstreams.check().await;
    assert_eq!(upstreams.healthy(), [false, false]);
}

#[tokio::test]
async fn a_port_where_no_kms_host_answers_is_not_healthy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bind = [0; 160];
            stream.read_exact(&mut bind).await.unwrap();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
        }
    });
    let upstreams = Upstreams::new(&[endpoint(address)], DEADLINE);
    upstreams.check().await;
    assert_eq!(upstreams.healthy(), [false]);
}

/// `localhost` has an address in each family on most machines, and the lab listens
/// in one.
#[tokio::test]
async fn a_name_with_several_addresses_is_tried_through() {
    let lab = lab().await;
    let upstream: Endpoint = format!("localhost:{}", lab.address.port()).parse().unwrap();
    let relay = relay(RelaySettings {
        upstreams: vec![upstream],
        ..RelaySettings::default()
    })
    .await;
    ask(&mut bound(relay.address).await, Protocol::V5).await;
}

#[tokio::test]
async fn a_half_closed_connection_is_answered_to_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = relay(to(&[listener.local_addr().unwrap()])).await;
    let mut client = TcpStream::connect(relay.address).await.unwrap();
    let mut bind = Vec::new();
    kms_core::client::Association::new().bind(Offer::default(), &mut bind);
    client.write_all(&bind).await.unwrap();
    client.shutdown().await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut received = Vec::new();
    upstream.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, bind);
    upstream.write_all(b"late answer").await.unwrap();
    drop(upstream);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"late answer");
    relay
        .until("kms_core_connections_closed_total{reason=\"peer\"}", 1.0)
        .await;
}

#[tokio::test]
async fn a_slow_upstream_is_waited_for_until_the_connection_counts_as_idle() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = relay(RelaySettings {
        idle: Duration::from_millis(100),
        ..to(&[listener.local_addr().unwrap()])
    })
    .await;
    let stream = TcpStream::connect(relay.address).await.unwrap();
    let answer = Connection::new(stream, DEADLINE)
        .bind(Offer::default())
        .await;
    assert!(matches!(
        answer,
        Err(CallError::Closed { .. } | CallError::Io { .. })
    ));
    relay
        .until("kms_core_connections_closed_total{reason=\"idle\"}", 1.0)
        .await;
}

/// A client that drips is cut, before and after its bind, although it never pauses
/// for long.
#[tokio::test]
async fn a_client_that_drips_is_cut() {
    let lab = lab().await;
    let relay = relay(RelaySettings {
        pdu: Duration::from_millis(200),
        ..to(&[lab.address])
    })
    .await;
    let mut bind = Vec::new();
    kms_core::client::Association::new().bind(Offer::default(), &mut bind);
    for after_bind in [false, true] {
        let mut client = TcpStream::connect(relay.address).await.unwrap();
        if after_bind {
            client.write_all(&bind).await.unwrap();
            let mut answer = [0; 108];
            client.read_exact(&mut answer).await.unwrap();
        }
        let (mut read, mut write) = client.split();
        let drip = async {
            for byte in bind.iter().cycle() {
                if write.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let cut = async {
            let mut byte = [0];
            let _ = read.read(&mut byte).await;
        };
        tokio::select! {
            () = drip => {}
            () = cut => {}
        }
    }
    relay
        .until("kms_core_connections_closed_total{reason=\"slow\"}", 2.0)
        .await;
}

#[tokio::test]
async fn the_upstream_is_told_the_client_in_a_proxy_header() {
    for (version, begins) in [
        (ProxyVersion::V1, &b"PROXY TCP4 127.0.0.1 127.0.0.1 "[..]),
        (ProxyVersion::V2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = relay(RelaySettings {
            proxy_to: Some(version),
            ..to(&[listener.local_addr().unwrap()])
        })
        .await;
        let mut client = TcpStream::connect(relay.address).await.unwrap();
        let mut bind = Vec::new();
        kms_core::client::Association::new().bind(Offer::default(), &mut bind);
        client.write_all(&bind).await.unwrap();
        client.shutdown().await.unwrap();
        let (mut upstream, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        upstream.read_to_end(&mut received).await.unwrap();
        let header = received.strip_suffix(&bind[..]).unwrap();
        assert!(header.starts_with(begins), "{header:?}");
        let port = client.local_addr().unwrap().port();
        let told = match version {
            ProxyVersion::V1 => String::from_utf8_lossy(header).contains(&format!(" {port} ")),
            ProxyVersion::V2 => header[24..26] == port.to_be_bytes(),
        };
        assert!(told, "{header:?}");
    }
}

/// `serve` behind a relay believes the header, so that its own limits and log are
/// about clients.
#[tokio::test]
async fn a_server_behind_believes_the_header() {
    let metrics = Metrics::default();
    let host = Host::new(Policy::default(), Box::new(LabSuite), &mut fill_random);
    let settings = ResponderSettings::default();
    let responder = Responder::new(host, settings, Log::nowhere(), metrics.clone());
    let front = FrontSettings {
        proxy_from: vec!["127.0.0.0/8".parse().unwrap()],
        ..FrontSettings::default()
    };
    let lab = run(front, responder, metrics).await;
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let relay = relay(RelaySettings {
            proxy_to: Some(version),
            ..to(&[lab.address])
        })
        .await;
        ask(&mut bound(relay.address).await, Protocol::V6).await;
    }
    let told = "kms_core_proxy_headers_total{reason=\"address\"}";
    assert_eq!(lab.metric(told), 2.0);
}

#[tokio::test]
async fn a_stop_waits_for_the_answer_that_is_under_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = relay(to(&[listener.local_addr().unwrap()])).await;
    let (mut client, mut upstream, bind) = begun(&relay, &listener).await;
    relay.stop.send(()).unwrap();
    // The answer comes after the stop, and arrives.
    let lab = lab().await;
    let mut behind = TcpStream::connect(lab.address).await.unwrap();
    behind.write_all(&bind).await.unwrap();
    let mut answer = [0; 108];
    behind.read_exact(&mut answer).await.unwrap();
    upstream.write_all(&answer).await.unwrap();
    let mut arrived = [0; 108];
    client.read_exact(&mut arrived).await.unwrap();
    assert_eq!(arrived, answer);
    tokio::time::timeout(DEADLINE, relay.task)
        .await
        .unwrap()
        .unwrap();
}
