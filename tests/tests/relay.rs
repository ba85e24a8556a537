//! `kms-core relay` as a process, and what the notifier makes of its log.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its input has nothing to say"
)]

use std::fs;
use std::net::{SocketAddr, TcpStream};

use e2e::{Sidecar, core, replay};
use serde_json::Value;
use tempfile::TempDir;

fn start(arguments: &[&str]) -> (Sidecar, SocketAddr) {
    let command = &mut core();
    let running = Sidecar::spawn(command.args(arguments).args(["--listen", "127.0.0.1:0"]));
    let address = running.listening();
    (running, address)
}

fn ask(address: SocketAddr, arguments: &[&str]) -> Option<i32> {
    let address = address.to_string();
    let mut request = core();
    request.args(["request", &address]).args(arguments);
    request.output().unwrap().status.code()
}

fn count(events: &[Value], field: &str, value: &str) -> usize {
    let all = events.iter();
    all.filter(|event| event[field] == value).count()
}

#[test]
fn the_notifier_reads_a_relays_log() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("relay.log");
    let (_server, upstream) = start(&["serve", "--whitelist", "1"]);
    let upstream = upstream.to_string();
    let log = path.to_str().unwrap();
    let (mut relay, address) = start(&[
        "relay",
        "--upstream",
        &upstream,
        "--log",
        log,
        "--log-ids",
        "--log-detail",
        "verbose",
        "--admin",
        "127.0.0.1:0",
    ]);
    let nobody = "00000000-0000-0000-0000-000000000007";
    let unknown = [
        "--product",
        nobody,
        "--application-id",
        nobody,
        "--kms-counted-id",
        nobody,
    ];
    for protocol in ["--protocol=4", "--protocol=5", "--protocol=6"] {
        assert_eq!(ask(address, &[protocol, "--workstation", "PC1"]), Some(0));
        let refused = [&[protocol][..], &unknown].concat();
        assert_eq!(ask(address, &refused), Some(3));
    }
    for _ in 0..5 {
        drop(TcpStream::connect(address).unwrap());
    }
    // What still waits in the kernel when it stops is in no log.
    relay.wait_for_sample("kms_core_connections_total", |value| value == 11.0);
    relay.terminate();
    assert!(relay.wait().success());

    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("Relayed request: v6.0, protected, outcome answered [c="));
    let events = replay(&[], &[&path]);
    assert_eq!(count(&events, "kind", "activation"), 3, "{text}");
    assert_eq!(count(&events, "kind", "refused"), 3, "{text}");
    assert_eq!(count(&events, "kind", "probe"), 5, "{text}");
    assert_eq!(count(&events, "attribution", "exact"), 6, "{text}");
    assert_eq!(count(&events, "hresult", "0xC004F042"), 3, "{text}");
    // Only V4 says who asks for what; of the others nothing is made up.
    assert_eq!(count(&events, "workstation", "PC1"), 1, "{text}");
    let product = "Windows 10 Enterprise";
    let named = |event: &&Value| event.get("product").is_some();
    let products: Vec<&Value> = events.iter().filter(named).collect();
    assert!(
        products.iter().all(|event| event["protocol"] == "4.0"),
        "{products:?}"
    );
    assert_eq!(count(&events, "product", product), 1, "{text}");
}

#[test]
fn a_load_passes_and_is_counted() {
    let (_server, upstream) = start(&["serve"]);
    let upstream = upstream.to_string();
    let (mut relay, address) = start(&["relay", "--upstream", &upstream, "--admin", "127.0.0.1:0"]);
    let load = ["--connections=16", "--requests=800", "--probes=50"];
    assert_eq!(ask(address, &load), Some(0));
    let answered = "kms_core_relay_requests_total{version=\"6.0\",outcome=\"answered\"}";
    relay.wait_for_sample(answered, |value| value == 800.0);
    relay.wait_for_sample("kms_core_connections_open", |value| value == 0.0);
    let up = "kms_core_relay_upstream_up{upstream=\"1\"}";
    relay.wait_for_sample(up, |value| value == 1.0);
    relay.terminate();
    assert!(relay.wait().success());
}

#[test]
fn options_come_from_the_file_and_the_environment_too() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("relay.toml");
    let (_server, upstream) = start(&["serve"]);
    fs::write(&file, format!("upstream = [\"{upstream}\"]\n")).unwrap();
    let (_relay, address) = start(&["relay", "--config", file.to_str().unwrap()]);
    assert_eq!(ask(address, &[]), Some(0));

    let mut command = core();
    command.env("KMS_CORE_UPSTREAM", upstream.to_string());
    command.args(["relay", "--listen", "127.0.0.1:0"]);
    let relay = Sidecar::spawn(&mut command);
    assert_eq!(ask(relay.listening(), &[]), Some(0));
}
