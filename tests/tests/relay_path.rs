//! The way of bytes through `kms-core relay`, with real processes on both sides:
//! what passes is what was said, and what happens when the host behind is down,
//! slow, half closed, or another one. The notifier follows the relay's log.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot read its input has nothing to say"
)]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use e2e::score::Kind;
use e2e::{Crowd, DEADLINE, Exposition, Sidecar, Tap, core, json_lines, notifier};
use kms_core::client::{Association, Event, Offer, Step};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// `answered`, `no connection`: how `kms-core request` ends.
const ANSWERED: Option<i32> = Some(0);
const NO_CONNECTION: Option<i32> = Some(4);

/// Starts it with an admin port, on a free port unless told otherwise.
fn start(command: &str, arguments: &[&str]) -> (Sidecar, SocketAddr) {
    let mut core = core();
    core.args([command, "--admin=127.0.0.1:0"]).args(arguments);
    if !arguments
        .iter()
        .any(|argument| argument.starts_with("--listen"))
    {
        core.arg("--listen=127.0.0.1:0");
    }
    let running = Sidecar::spawn(&mut core);
    let address = running.listening();
    (running, address)
}

fn relay(upstreams: &[SocketAddr], arguments: &[&str]) -> (Sidecar, SocketAddr) {
    let upstreams = upstreams
        .iter()
        .map(|upstream| format!("--upstream={upstream}"));
    let upstreams: Vec<_> = upstreams.collect();
    let upstreams = upstreams.iter().map(String::as_str);
    let arguments: Vec<_> = upstreams.chain(arguments.iter().copied()).collect();
    start("relay", &arguments)
}

fn ask(address: SocketAddr, arguments: &[&str]) -> Option<i32> {
    let mut request = core();
    request
        .arg("request")
        .arg(address.to_string())
        .args(arguments);
    request.output().unwrap().status.code()
}

/// An address where nothing listens.
fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

const ANSWERED_PDUS: &str = "kms_core_pdus_total{reason=\"answered\"}";
const FIRST_UP: &str = "kms_core_relay_upstream_up{upstream=\"1\"}";

fn closed(reason: &str) -> String {
    format!("kms_core_connections_closed_total{{reason=\"{reason}\"}}")
}

#[test]
fn what_arrives_is_what_was_said_both_ways() {
    let (_server, host) = start("serve", &["--whitelist=1"]);
    let behind = Tap::before(host);
    let (relay, address) = relay(&[behind.address()], &[]);
    let before = Tap::before(address);
    let mut sessions = 0;
    for protocol in ["--protocol=4", "--protocol=5", "--protocol=6"] {
        for encoding in ["--encoding=ndr32", "--encoding=ndr64"] {
            let arguments = [protocol, encoding, "--requests=5"];
            assert_eq!(ask(before.address(), &arguments), ANSWERED);
            sessions += 1;
        }
    }
    relay.wait_for_sample("kms_core_connections_open", |open| open == 0.0);
    let said = before.ended(sessions);
    assert_eq!(said.len(), sessions);
    // Behind there are the checks of health, too: a bind and its answer.
    let arrived = behind.ended(sessions + 1);
    for tape in &said {
        assert!(tape.up.len() > 5 * 250 && tape.down.len() > 5 * 200);
        let same = arrived.iter().filter(|arrived| *arrived == tape);
        assert_eq!(same.count(), 1, "bytes were changed or lost");
    }
    let checks = arrived.iter().filter(|tape| !said.contains(tape));
    for check in checks {
        assert_eq!((check.up.len(), check.down[2]), (160, 12), "{check:?}");
    }
}

#[test]
fn without_a_host_behind_a_client_is_closed_and_the_next_host_takes_over() {
    let down = closed_port();
    let (alone, address) = relay(&[down], &[]);
    assert_eq!(ask(address, &[]), NO_CONNECTION);
    alone.wait_for_sample(&closed("upstream"), |n| n == 1.0);
    drop(alone);

    let (mut first, first_host) = start("serve", &[]);
    let (second, second_host) = start("serve", &[]);
    let (relay, address) = relay(&[first_host, second_host], &["--health-interval=1s"]);
    assert_eq!(ask(address, &["--requests=3"]), ANSWERED);
    assert_eq!(first.wait_for_sample(ANSWERED_PDUS, |n| n > 0.0), 3.0);
    first.kill();
    first.wait();
    assert_eq!(ask(address, &["--requests=4"]), ANSWERED);
    assert_eq!(second.wait_for_sample(ANSWERED_PDUS, |n| n > 0.0), 4.0);
    relay.wait_for_sample(FIRST_UP, |up| up == 0.0);

    // Back where it was, it is used again.
    let (first, _) = start("serve", &[&format!("--listen={first_host}")]);
    relay.wait_for_sample(FIRST_UP, |up| up == 1.0);
    assert_eq!(ask(address, &["--requests=5"]), ANSWERED);
    assert_eq!(first.wait_for_sample(ANSWERED_PDUS, |n| n > 0.0), 5.0);
    assert_eq!(second.wait_for_sample(ANSWERED_PDUS, |n| n > 0.0), 4.0);
}

#[test]
fn a_host_that_says_nothing_is_given_up_and_used_again() {
    let (server, host) = start("serve", &[]);
    let arguments = ["--idle-timeout=1s", "--health-interval=600s"];
    let (relay, address) = relay(&[host], &arguments);
    relay.wait_for_sample(FIRST_UP, |up| up == 1.0);
    // The kernel still takes its connections.
    server.signal(Signal::STOP);
    assert_eq!(ask(address, &["--timeout=25s"]), NO_CONNECTION);
    relay.wait_for_sample(&closed("idle"), |n| n == 1.0);
    server.signal(Signal::CONT);
    assert_eq!(ask(address, &[]), ANSWERED);
}

/// Hosts that expect a PROXY header are checked like others: one that says nothing is
/// passed over, one that answers is up.
#[test]
fn hosts_that_expect_a_header_are_checked_with_one() {
    let behind = ["--proxy-from=127.0.0.1"];
    for version in ["--proxy-to=v1", "--proxy-to=v2"] {
        let (first, first_host) = start("serve", &behind);
        let (second, second_host) = start("serve", &behind);
        let arguments = [version, "--health-interval=1s", "--connect-timeout=1s"];
        let (relay, address) = relay(&[first_host, second_host], &arguments);
        assert_eq!(ask(address, &[]), ANSWERED);
        assert_eq!(first.wait_for_sample(ANSWERED_PDUS, |n| n > 0.0), 1.0);
        // The kernel still takes its connections; only a check can tell.
        first.signal(Signal::STOP);
        relay.wait_for_sample(FIRST_UP, |up| up == 0.0);
        assert_eq!(ask(address, &[]), ANSWERED);
        assert_eq!(second.wait_for_sample(ANSWERED_PDUS, |n| n > 0.0), 1.0);
        first.signal(Signal::CONT);
        relay.wait_for_sample(FIRST_UP, |up| up == 1.0);
    }
}

#[test]
fn who_closes_its_half_has_its_answer_and_then_the_end() {
    let (server, host) = start("serve", &[]);
    let (relay, address) = relay(&[host], &[]);
    let mut association = Association::new();
    let mut bind = Vec::new();
    association.bind(Offer::default(), &mut bind);
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(&bind).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    let step = association.handle(&answer).unwrap();
    let Step::Done {
        event: Event::Bound(bound),
        consumed,
    } = step
    else {
        panic!("{answer:?}");
    };
    assert!(bound.ndr64 && consumed == answer.len());
    relay.wait_for_sample(&closed("peer"), |n| n == 1.0);
    server.wait_for_sample("kms_core_connections_open", |open| open == 0.0);
}

/// How often each address has an event of that kind.
fn by_address(events: &[Value], kind: &str) -> BTreeMap<String, u64> {
    let mut addresses = BTreeMap::new();
    for event in events.iter().filter(|event| event["kind"] == kind) {
        let ip = event["ip"].as_str().unwrap().to_owned();
        *addresses.entry(ip).or_default() += 1;
    }
    addresses
}

#[test]
fn the_notifier_follows_a_crowd_through_the_relay() {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("relay.log");
    let (_server, host) = start("serve", &[]);
    let log_option = format!("--log={}", log.display());
    let arguments = ["--log-ids", "--log-timezone=UTC", &log_option];
    let (mut relay, address) = relay(&[host], &arguments);
    let mut command = notifier();
    command.args(["run", "--from", "start", "--log"]).arg(&log);
    let mut sidecar = Sidecar::spawn(&mut command);

    let lab = Crowd::of(200, 200).visit(address);
    relay.wait_for_sample("kms_core_connections_total", |n| n == 400.0);
    relay.wait_for_sample("kms_core_connections_open", |n| n == 0.0);
    relay.terminate();
    assert!(relay.wait().success());
    sidecar.wait_for_line(|line| line.contains("\"server_stopped\""));
    let metrics = Exposition::classic(&sidecar.metrics());
    sidecar.terminate();
    assert!(sidecar.wait().success());
    let events = json_lines((sidecar.stdout().join("\n") + "\n").as_bytes());

    // Every activation and every probe, each at its address.
    let made = |kind: Kind| {
        let actions = lab.truth.iter().filter(move |action| action.kind == kind);
        let each = actions.map(|action| (action.ip.clone(), action.requests.unwrap_or(1)));
        each.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(by_address(&events, "activation"), made(Kind::Activation));
    assert_eq!(by_address(&events, "probe"), made(Kind::Probe));
    let activations = events.iter().filter(|event| event["kind"] == "activation");
    let (clear, protected): (Vec<_>, Vec<_>) =
        activations.partition(|event| event["protocol"] == "4.0");
    assert!(!clear.is_empty() && !protected.is_empty());
    for event in clear.iter().chain(&protected) {
        assert_eq!(event["attribution"], "exact", "{event}");
    }
    // What is not protected is known; of the rest nothing is made up.
    for event in &clear {
        let named = |field: &str| event[field].as_str().unwrap_or_default();
        let truth = lab.truth.iter().find(|action| action.ip == named("ip"));
        let truth = truth.unwrap();
        assert_eq!(Some(named("workstation")), truth.workstation.as_deref());
        assert_eq!(Some(named("product")), truth.product.as_deref());
    }
    for event in &protected {
        for field in [
            "workstation",
            "product",
            "activation_id",
            "client_machine_id",
        ] {
            assert_eq!(event.get(field), None, "{event}");
        }
    }
    let counted = |labels: &[(&str, &str)]| metrics.sum("kms_activations_total", labels);
    let number = |n: usize| Some(f64::from(u32::try_from(n).unwrap()));
    assert_eq!(
        counted(&[("product", "protected")]),
        number(protected.len())
    );
    assert_eq!(counted(&[]), number(clear.len() + protected.len()));
    assert_eq!(metrics.sum("kms_connection_probes_total", &[]), number(200));
}
