//! More clients than anybody has: what is kept of them is bounded, and what is not
//! kept is counted. `bench/memory` measures a million in a release build.
#![allow(
    clippy::indexing_slicing,
    reason = "an index that is a remainder is within"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;

use e2e::{Sidecar, notifier};

/// Clients and products of a run, a multiple of four.
const PAIRS: u32 = 20_000;

/// How many clients and products the dedup window remembers.
const KEYS: u32 = 4096;

/// How many messages wait at most.
const MESSAGES: u32 = 10_000;

/// What the sidecar may have resident at most: that of `docs/performance.md`. A debug
/// build has more code and no more data.
const MAX_RESIDENT_KIB: u64 = 64 * 1024;

const PRODUCTS: [&str; 4] = [
    "Windows 10 Professional",
    "Windows Server 2019 Standard",
    "Office Word 2019",
    "Office Professional Plus 2016",
];

/// What the server prints, without blocks, for the `number`th pair.
fn visit(number: u32, lines: &mut String) {
    let ip = Ipv4Addr::from(0x0a00_0000 + number / 4);
    let product = PRODUCTS[number as usize % 4];
    let (hour, minute, second) = (number / 360_000, number / 6000 % 60, number / 100 % 60);
    let stamp = format!("2026-11-20 {hour:02}:{minute:02}:{second:02}");
    let port = 20_000 + number % 40_000;
    write!(
        lines,
        "{stamp}: IPv4 connection accepted: {ip}:{port}.\n\
         {stamp}: KMS v6.0 request from PC-{number} for {product}\n\
         {stamp}: Sending ePID (randomized at program start): 06401-00206-271\n\
         {stamp}: IPv4 connection closed: {ip}:{port}.\n"
    )
    .expect("a string takes all that is written");
}

/// The most memory that a process had so far.
fn peak_resident_kib(sidecar: &Sidecar) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", sidecar.id()));
    let status = status.expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    kib.and_then(|kib| kib.parse().ok())
        .expect("the system tells")
}

#[test]
fn a_great_many_clients_take_little_memory_and_evictions_are_counted() {
    let place = tempfile::tempdir().expect("a directory");
    let state = place.path().join("state.redb");
    let mut command = notifier();
    command.args(["run", "--log", "-", "--state"]).arg(&state);
    // Nobody listens there, so that messages pile up.
    command.env("SLACK_WEBHOOK_URL", "http://127.0.0.1:1/");
    let mut sidecar = Sidecar::spawn_into(command.stdin(Stdio::piped()), Stdio::null());
    let mut input = sidecar.stdin().expect("it is piped");
    let mut lines = String::from("2026-11-20 00:00:00: Listening on 0.0.0.0:1688\n");
    for number in 0..PAIRS {
        visit(number, &mut lines);
    }
    input.write_all(lines.as_bytes()).expect("it reads");
    for product in PRODUCTS {
        let series = format!(r#"kms_activations_total{{product="{product}",status="unknown"}}"#);
        sidecar.wait_for_sample(&series, |n| n == f64::from(PAIRS / 4));
    }
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == f64::from(MESSAGES));
    let evicted = |what: &str, count: u32| {
        let series = format!(r#"kms_notifier_evictions_total{{what="{what}"}}"#);
        sidecar.wait_for_sample(&series, |n| n == f64::from(count));
    };
    evicted("message", PAIRS - MESSAGES);
    // A pair that got no message has no key: nobody is told of it by itself.
    evicted("dedup_key", MESSAGES - KEYS);
    let resident = peak_resident_kib(&sidecar);
    assert!(resident < MAX_RESIDENT_KIB, "{resident} KiB");
    let stored = fs::metadata(&state).expect("it was saved").len();
    assert!(stored < 16 << 20, "{stored} bytes");
    drop(input);
    sidecar.kill();
    sidecar.wait();
}
