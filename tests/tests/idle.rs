//! Thousands of idle connections: what each costs, and that the others do not
//! notice. `cargo test --release -p e2e --test idle -- --ignored --nocapture` holds
//! 10,000 and prints the figures (docs/performance.md).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot connect has nothing to say; figures are for people"
)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::{DEADLINE, Sidecar, Visitor, core};
use kms_core::client::{Association, Connection, Offer, connect};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The goal for what a connection takes of the heap, in bytes.
const GOAL: u64 = 4096;

/// Clients that send a byte now and then.
const DRIPPING: usize = 20;

/// What a process has in memory, in bytes.
#[derive(Clone, Copy, Debug)]
struct Memory {
    /// All that is resident.
    resident: u64,
    /// Heap and stacks: what is resident and is no file's.
    anonymous: u64,
}

impl Memory {
    fn of(process: &Sidecar) -> Self {
        let path = format!("/proc/{}/smaps_rollup", process.id());
        let text = fs::read_to_string(path).unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
            kibibytes.unwrap().parse::<u64>().unwrap() * 1024
        };
        Self {
            resident: field("Rss:"),
            anonymous: field("Anonymous:"),
        }
    }
}

/// Lets this process have so many descriptors. Whether it may.
fn raise_descriptor_limit(wanted: u64) -> bool {
    let limits = getrlimit(Resource::Nofile);
    let current = Rlimit {
        current: limits.maximum,
        maximum: limits.maximum,
    };
    limits.maximum.is_none_or(|most| most >= wanted) && setrlimit(Resource::Nofile, current).is_ok()
}

/// A connection that has bound and says nothing. Each of 127.3.0.0/24 gets a share,
/// so that no address runs out of ports.
async fn idle(host: SocketAddr, number: usize) -> Connection<TcpStream> {
    let last = u8::try_from(number % 250).unwrap() + 1;
    let from = IpAddr::V4(Ipv4Addr::new(127, 3, 0, last));
    let stream = connect(host, Some(from), DEADLINE).await.unwrap();
    let mut connection = Connection::new(stream, DEADLINE);
    connection.bind(Offer::default()).await.unwrap();
    connection
}

/// Binds byte by byte, and never comes to an end with it.
async fn drip(host: SocketAddr) {
    let mut bind = Vec::new();
    Association::new().bind(Offer::default(), &mut bind);
    bind.pop();
    let stream = connect(host, None, DEADLINE).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let closed = async {
        let mut answer = Vec::new();
        // A reset ends it as well.
        let _ = read.read_to_end(&mut answer).await;
        assert_eq!(answer, b"", "an answer to half a bind");
    };
    let dripping = async {
        for byte in &bind {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // All but the last byte: waits, as a client may who has forgotten it.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = closed => {}
        () = dripping => {}
    }
}

fn hold(connections: usize) {
    // Ours and the server's are counted each for itself.
    let wanted = u64::try_from(connections).unwrap() + 200;
    assert!(
        raise_descriptor_limit(wanted),
        "{wanted} open files are not allowed here: raise `ulimit -Hn`"
    );
    let mut command = core();
    command.args(["serve", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"]);
    // Nobody is idle for too long; only the deadline of a call can cut anybody.
    command.args(["--idle-timeout=600s", "--pdu-timeout=1s"]);
    let mut server = Sidecar::spawn(&mut command);
    let host = server.listening();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();

    // What the first connections and the first scrape need, once and for all.
    let warm = runtime.block_on(idle(host, 0));
    assert!(server.metrics().contains("kms_core_connections_open 1"));
    let before = Memory::of(&server);
    let mut held = runtime.block_on(async {
        let mut opening = JoinSet::new();
        let mut held = Vec::with_capacity(connections);
        for number in 0..connections {
            opening.spawn(idle(host, number));
            // Fewer at a time than the listener's backlog holds.
            if opening.len() >= 256 {
                held.push(opening.join_next().await.unwrap().unwrap());
            }
        }
        held.extend(opening.join_all().await);
        held
    });
    let open = connections + 1;
    let is = |n: usize| move |value: f64| value == f64::from(u32::try_from(n).unwrap());
    server.wait_for_sample("kms_core_connections_open", is(open));
    let after = Memory::of(&server);

    let each = |part: fn(&Memory) -> u64| {
        part(&after).saturating_sub(part(&before)) / u64::try_from(connections).unwrap()
    };
    let (anonymous, resident) = (each(|m| m.anonymous), each(|m| m.resident));
    println!(
        "{connections} idle connections: {anonymous} bytes of anonymous memory each, {resident} resident; \
         before {before:?}, after {after:?}"
    );
    assert!(anonymous <= GOAL, "{anonymous} bytes a connection");

    // Who drips is cut. New connections, and those that were idle, are answered.
    let visitor = Visitor {
        from: Ipv4Addr::new(127, 3, 1, 1),
        workstation: "PC1".to_owned(),
        requests: 100,
        product: 0,
    };
    runtime.block_on(async {
        let mut dripping = JoinSet::new();
        for _ in 0..DRIPPING {
            dripping.spawn(drip(host));
        }
        let began = tokio::time::Instant::now();
        let mut fresh = idle(host, 1).await;
        println!("a new connection bound after {:?}", began.elapsed());
        let began = tokio::time::Instant::now();
        visitor.clone().ask(&mut fresh, 1).await;
        println!("100 answers on it in {:?}", began.elapsed());
        let last = held.last_mut().unwrap();
        visitor.ask(last, 2).await;
        dripping.join_all().await;
    });
    let slow = "kms_core_connections_closed_total{reason=\"slow\"}";
    server.wait_for_sample(slow, is(DRIPPING));
    server.wait_for_sample("kms_core_connections_open", is(open));

    drop((warm, held));
    server.wait_for_sample("kms_core_connections_open", is(0));
    server.terminate();
    assert!(server.wait().success());
}

#[test]
fn five_hundred_idle_connections_cost_little_and_disturb_nobody() {
    hold(500);
}

#[test]
#[ignore = "takes 20,000 descriptors, and is about figures of a release build"]
fn ten_thousand_idle_connections_cost_little_and_disturb_nobody() {
    hold(10_000);
}
