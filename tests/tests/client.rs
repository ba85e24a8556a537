//! `kms-core request` and `doctor` as processes: what they print, and how they end.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its input has nothing to say"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Output;
use std::thread;

use e2e::{Sidecar, core, json_lines};
use serde_json::Value;

fn serve(arguments: &[&str]) -> (Sidecar, SocketAddr) {
    let server = Sidecar::spawn(
        core()
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments),
    );
    let address = server.listening();
    (server, address)
}

fn run(arguments: &[&str]) -> Output {
    core().args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Without anybody behind it.
fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Something that says this to whoever says something.
fn says(words: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // A client that went away is no concern of a server.
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(words);
        }
    });
    address
}

#[test]
fn requests_are_answered_and_shown_in_all_protocols_and_encodings() {
    let (_server, address) = serve(&[]);
    let address = address.to_string();
    for protocol in ["4", "5", "6"] {
        for encoding in ["ndr32", "ndr64"] {
            let output = run(&[
                "request",
                &address,
                "--protocol",
                protocol,
                "--encoding",
                encoding,
                "--requests=2",
                "--json",
            ]);
            assert_eq!(code(&output), 0, "{output:?}");
            let lines = json_lines(&output.stdout);
            assert_eq!(lines.len(), 2);
            for (number, line) in (1..).zip(lines) {
                assert_eq!(line["request"], number);
                assert_eq!(line["protocol"], format!("{protocol}.0"));
                assert_eq!(line["encoding"], encoding);
                assert_eq!(line["outcome"], "answered");
                assert_eq!(line["active_clients"], 50);
                assert_eq!(line.get("hardware_id").is_some(), protocol == "6");
            }
        }
    }
    let output = run(&["request", &address]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "NDR64",
        "Windows 10/11 Enterprise",
        "answered in",
        "50 of 25 wanted",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_request_ends_with_a_code_for_each_outcome() {
    let (_server, address) = serve(&["--whitelist", "1"]);
    let address = address.to_string();
    let nobody = "00000000-0000-0000-0000-000000000007";
    let unknown = [
        "--product",
        nobody,
        "--application-id",
        nobody,
        "--kms-counted-id",
        nobody,
    ];
    let output = run(&[&["request", &address][..], &unknown].concat());
    assert_eq!(code(&output), 3, "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("refused 0xC004F042"), "{text}");

    let output = run(&["request", &closed_port().to_string()]);
    assert_eq!(code(&output), 4, "{output:?}");
    let website = says(b"HTTP/1.1 400 Bad Request\r\n\r\n").to_string();
    let output = run(&["request", &website]);
    assert_eq!(code(&output), 5, "{output:?}");
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(
        line.contains("doctor") && line.lines().count() == 1,
        "{line}"
    );

    for wrong in [
        &["request"][..],
        &["request", "kms:http"],
        &["request", "kms", "--product", "teapot"],
        &["request", "kms", "--protocol", "7"],
        &["request", "kms", "--connections", "0"],
        &["request", "kms", "--rate", "-1"],
        &["doctor"],
        &["doctor", "kms", "--domain", "example.lan"],
        &["relay"],
    ] {
        let output = run(wrong);
        assert_eq!(code(&output), 2, "{wrong:?} {output:?}");
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_load_is_summed_up() {
    let (_server, address) = serve(&[]);
    let address = address.to_string();
    let load = |arguments: &[&str]| {
        let output = run(&[&["request", &address, "--json"][..], arguments].concat());
        (code(&output), json_lines(&output.stdout).remove(0))
    };
    let (ended, report) = load(&["--connections=8", "--requests=400", "--probes=20"]);
    assert_eq!(ended, 0, "{report}");
    assert_eq!(report["answered"], 400);
    assert_eq!(report["probes"], 20);
    assert!(report["latency_ms"]["p50"].as_f64() > Some(0.0));
    assert_eq!(report["from_sending_ms"], Value::Null);
    let (ended, report) = load(&["--rate=2000", "--requests=100", "--reconnect"]);
    assert_eq!(ended, 0, "{report}");
    assert_eq!(report["answered"], 100);
    assert!(report["from_sending_ms"]["max"].as_f64() > Some(0.0));
    let output = run(&["request", &closed_port().to_string(), "--connections=2"]);
    assert_eq!(code(&output), 4);
}

#[test]
fn the_doctor_ends_with_a_code_for_each_verdict() {
    let (_server, kms) = serve(&[]);
    for (address, quiet, expected) in [
        (kms, true, 0),
        (closed_port(), true, 10),
        (says(b"HTTP/1.1 200 OK\r\n\r\n"), false, 13),
        (says(b"220 mail ESMTP\r\n"), false, 14),
    ] {
        let address = address.to_string();
        let output = run(&["doctor", "--json", &address]);
        assert_eq!(code(&output), expected, "{output:?}");
        let report = json_lines(&output.stdout).remove(0);
        assert_eq!(report["code"], expected);
        assert!(!report["advice"].as_str().unwrap().is_empty());
        if quiet {
            let output = run(&["doctor", "--quiet", &address]);
            let lines = String::from_utf8(output.stdout).unwrap().lines().count();
            assert_eq!(lines, usize::from(expected != 0));
        }
    }
}
