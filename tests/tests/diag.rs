//! `kms-diag` as scripts and proxies meet it: the real binary, raw bytes.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what is not there fails the test, as it should"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::{Exposition, Sidecar, assert_plain_lines, diag};
use serde_json::{Value, json};

struct Collector(Sidecar);

impl Collector {
    fn start(arguments: &[&str]) -> Self {
        Self(Sidecar::spawn(diag().args(arguments)))
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.0.metrics_port())).unwrap()
    }

    /// Sends bytes and gives all that comes back until the server closes.
    fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Posts a body with these headers more, and holds the answer to be 204.
    fn post(&self, headers: &str, body: &[u8]) {
        let answer = self.exchange(&request(headers, body));
        assert_eq!(statuses(&answer), ["204 No Content"], "{answer}");
    }

    /// Line `n` (from 1) on standard output: its prefix and object.
    fn line(&self, n: usize) -> (String, Value) {
        let lines = self.0.wait_for_lines(n);
        assert_plain_lines(lines.join("\n").as_bytes());
        let (prefix, json) = lines[n - 1].split_once(' ').unwrap();
        (prefix.to_owned(), serde_json::from_str(json).unwrap())
    }

    fn count(&self, outcome: &str) -> f64 {
        let metrics = Exposition::classic(&self.0.metrics());
        let outcome = metrics.sum("kms_diag_events_total", &[("outcome", outcome)]);
        outcome.unwrap()
    }
}

fn request(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /diag HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn statuses(answer: &str) -> Vec<&str> {
    let lines = answer.lines();
    lines
        .filter_map(|line| line.strip_prefix("HTTP/1.1 "))
        .collect()
}

#[test]
fn an_event_becomes_a_line_with_whose_and_when() {
    let collector = Collector::start(&[]);
    collector.post(
        "",
        br#"{"step":"activate","_ip":"forged","_time":"forged"}"#,
    );
    let (prefix, event) = collector.line(1);
    assert_eq!(prefix, "KMSDIAG");
    assert_eq!(event["_ip"], "127.0.0.1");
    assert_eq!(event["step"], "activate");
    assert_eq!(event["_cut"], 2);
    let time: jiff::Timestamp = event["_time"].as_str().unwrap().parse().unwrap();
    assert!(time > "2026-01-01T00:00:00Z".parse().unwrap());
    collector.post("Content-Type: text/plain\r\n", b"[1]");
    assert_eq!(collector.line(2).1["_value"], json!([1]));
    collector.post("", b"{\"a\":\x1b[31m");
    let (prefix, error) = collector.line(3);
    assert_eq!(prefix, "KMSDIAG_ERR");
    assert_eq!(error["begins"], "{\"a\":\u{FFFD}[31m");
    for outcome in ["printed", "wrapped", "invalid"] {
        assert_eq!(collector.count(outcome), 1.0, "{outcome}");
    }
}

#[test]
fn a_chunked_body_is_read_to_its_bound_and_no_further() {
    let collector = Collector::start(&[]);
    let head = "POST /diag HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let small = format!("{head}4\r\n{{\"a\"\r\n3\r\n:1}}\r\n0\r\n\r\n");
    let answer = collector.exchange(small.as_bytes());
    assert_eq!(statuses(&answer), ["204 No Content"]);
    assert_eq!(collector.line(1).1["a"], 1);

    let large = format!("{head}{:x}\r\n{}\r\n0\r\n\r\n", 16385, "1".repeat(16385));
    let answer = collector.exchange(large.as_bytes());
    assert_eq!(statuses(&answer), ["204 No Content"]);
    let (prefix, error) = collector.line(2);
    assert_eq!(prefix, "KMSDIAG_ERR");
    assert_eq!(error["reason"], "larger than 16384 bytes");

    // Without end: answered once the bound is passed, and the connection closed.
    let mut stream = collector.connect();
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("1000\r\n{}\r\n", "1".repeat(4096));
    // Fails when the server has had enough.
    while stream.write_all(chunk.as_bytes()).is_ok() {}
    collector.line(3);
    assert_eq!(collector.count("oversize"), 2.0);

    let broken = format!("{head}zz\r\n");
    collector.exchange(broken.as_bytes());
    assert_eq!(collector.line(4).1["reason"], "did not arrive whole");
}

#[test]
fn an_announced_oversize_is_not_waited_for() {
    let collector = Collector::start(&[]);
    let mut stream = collector.connect();
    let head = "POST /diag HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(statuses(&answer), ["204 No Content"]);
    assert_eq!(collector.line(1).1["reason"], "larger than 16384 bytes");
    // The largest that is taken, and one byte more.
    let text = "x".repeat(16384 - 8);
    let body = json!({ "a": text }).to_string();
    assert_eq!(body.len(), 16384);
    collector.post("", body.as_bytes());
    assert_eq!(collector.line(2).0, "KMSDIAG");
    collector.post("", format!("{body} ").as_bytes());
    assert_eq!(collector.line(3).0, "KMSDIAG_ERR");
}

#[test]
fn a_slow_body_is_given_up_and_answered() {
    let collector = Collector::start(&[]);
    let mut stream = collector.connect();
    let head = "POST /diag HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(statuses(&answer), ["204 No Content"]);
    assert_eq!(collector.line(1).1["reason"], "did not arrive in time");
    assert_eq!(collector.count("incomplete"), 1.0);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let collector = Collector::start(&[]);
    let requests: Vec<u8> = (0..5)
        .flat_map(|n| request("", json!({ "n": n }).to_string().as_bytes()))
        .collect();
    let answer = collector.exchange(&requests);
    assert_eq!(statuses(&answer), ["204 No Content"; 5]);
    for n in 0..5 {
        assert_eq!(collector.line(n + 1).1["n"], n);
    }
}

#[test]
fn a_forwarded_address_counts_only_from_a_listed_proxy() {
    let forged = "X-Forwarded-For: 203.0.113.66, 198.51.100.1\r\nX-Forwarded-For: 10.0.0.7\r\n";
    let direct = Collector::start(&[]);
    direct.post(forged, b"{}");
    assert_eq!(direct.line(1).1["_ip"], "127.0.0.1");
    let behind = Collector::start(&["--trusted-proxy", "127.0.0.0/8,10.0.0.0/8"]);
    behind.post(forged, b"{}");
    assert_eq!(behind.line(1).1["_ip"], "198.51.100.1");
    behind.post("", b"{}");
    assert_eq!(behind.line(2).1["_ip"], "127.0.0.1");
}

#[test]
fn who_posts_too_much_is_told_nothing_and_printed_no_more() {
    let collector = Collector::start(&["--rate", "3", "--trusted-proxy", "127.0.0.1"]);
    let from = |address: &str| format!("X-Forwarded-For: {address}\r\n");
    for _ in 0..5 {
        collector.post(&from("2001:db8::1"), b"{\"n\":1}");
    }
    collector.post(&from("2001:db8::2"), b"{\"n\":2}");
    collector.post(&from("2001:db8:0:1::1"), b"{\"n\":3}");
    let lines = collector.0.wait_for_lines(4);
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert_eq!(collector.line(4).1["n"], 3);
    assert_eq!(collector.count("limited"), 3.0);
    assert_eq!(collector.count("printed"), 4.0);
}

#[test]
fn other_paths_and_methods_are_refused() {
    let collector = Collector::start(&[]);
    let get = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        collector.exchange(request.as_bytes())
    };
    assert!(get("/healthz").ends_with("\r\n\r\nok\n"));
    assert_eq!(statuses(&get("/")), ["404 Not Found"]);
    let refused = get("/diag");
    assert_eq!(statuses(&refused), ["405 Method Not Allowed"]);
    assert!(refused.to_lowercase().contains("allow: post"), "{refused}");
    let huge = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000));
    let answer = collector.exchange(huge.as_bytes());
    assert_eq!(
        statuses(&answer),
        ["431 Request Header Fields Too Large"],
        "{answer}"
    );
    assert_eq!(collector.0.stdout(), [""; 0]);
}

#[test]
fn metrics_are_those_of_the_documentation_in_both_formats() {
    let collector = Collector::start(&[]);
    let (_, open) = collector.0.get("/metrics", "application/openmetrics-text");
    let open = Exposition::open_metrics(&open);
    assert_eq!(open.sum("kms_diag_cuts_total", &[]), Some(0.0));
    let classic = Exposition::classic(&collector.0.metrics());
    let exported: BTreeSet<String> = classic.types.into_keys().collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/diag.md");
    let page = fs::read_to_string(page).unwrap();
    let names = page.lines().filter_map(|line| {
        let name = line
            .strip_prefix("| `kms_diag_")?
            .split(['`', '{'])
            .next()?;
        Some(format!("kms_diag_{name}"))
    });
    assert_eq!(exported, names.collect());
    let help = diag().arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let options = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"));
    let others = ["--help", "--version", "--some-option"];
    let options = options.map(|word| word.trim_end_matches('.'));
    for option in options.filter(|word| !others.contains(word)) {
        let variable = option.replace("--", "KMS_DIAG_").replace('-', "_");
        let row = format!("| `{option}` | `{}` |", variable.to_uppercase());
        assert!(page.contains(&row), "{row} is not in docs/diag.md");
    }
}

#[test]
fn it_stops_when_told_and_prints_what_it_answered() {
    for stop in [Sidecar::terminate, Sidecar::interrupt] {
        let mut collector = Collector::start(&[]);
        for _ in 0..20 {
            collector.post("", b"{}");
        }
        stop(&collector.0);
        assert_eq!(collector.0.wait().code(), Some(0), "{:?}", collector.0);
        assert_eq!(collector.0.stdout().len(), 20);
    }
}

#[test]
fn nobody_reading_is_a_quiet_end() {
    let mut process = diag()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(process.stdout.take());
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    let port: u16 = line.trim().rsplit(':').next().unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&request("", b"{}")).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn what_is_wrong_is_one_line_and_nothing_starts() {
    let refused = |command: &mut Command, words: &[&str]| {
        let output = command.output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.starts_with("kms-diag: "), "{line}");
        for word in words {
            assert!(line.contains(word), "{line}");
        }
    };
    refused(diag().args(["--rate", "x"]), &["--rate", "whole one"]);
    refused(
        diag().env("KMS_DIAG_LISTEN", "here"),
        &["KMS_DIAG_LISTEN", "ADDRESS:PORT"],
    );
    refused(
        diag().args(["--config", "/no/such/file"]),
        &["--config", "cannot read", "give a TOML file"],
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(
        diag().args(["--listen", &address]),
        &["--listen", &address, "in use", "another port"],
    );
}
