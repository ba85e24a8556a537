//! `kms-core serve` as others see it: impacket binds and calls, tshark reads a
//! capture. What either needs is installed by `./check`; a run without says so.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot read its input has nothing to say"
)]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Sidecar, core, poll};
use serde_json::Value;
use tempfile::TempDir;

/// Sent beside a session when it is over: a capture that has this has all before.
const END: &[u8] = b"here the capture ends";

fn serve(arguments: &[&str]) -> (Sidecar, SocketAddr) {
    let mut command = core();
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let server = Sidecar::spawn(command.args(arguments));
    let address = server.listening();
    (server, address)
}

/// Says why a test cannot run here; in CI everything must.
fn skipped(why: &str) {
    assert!(
        env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{why}, and CI tests everything"
    );
    eprintln!("skipped: {why}; ./check installs it");
}

/// A Python that has impacket: the one that `./check` names, or made before.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named = env::var_os("CHECK_PYTHON").map(PathBuf::from);
    let python = named.unwrap_or_else(|| root.join("target/venv/bin/python"));
    let mut command = Command::new(&python);
    let imported = command.args(["-c", "import impacket"]).output();
    let there = imported.is_ok_and(|output| output.status.success());
    if !there {
        skipped(&format!("{} has no impacket", python.display()));
    }
    there.then_some(python)
}

/// What the foreign client has to say about each of its cases.
fn drive(python: &Path, address: SocketAddr) -> Value {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("impacket/drive.py");
    let mut command = Command::new(python);
    // No compiled files in the tree.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command
        .arg(driver)
        .arg(address.port().to_string())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An answer that the driver has opened, and whose seals it has checked.
fn assert_answer(answer: &Value, protocol: u8) {
    assert_eq!(answer["protocol"], protocol, "{answer}");
    assert_eq!(answer["return_code"], 0, "{answer}");
    assert_eq!(answer["epid"], "the lab's own name", "{answer}");
    assert_eq!(answer["active_clients"], 50, "{answer}");
    assert_eq!(answer["activation_interval"], 7, "{answer}");
    assert_eq!(answer["renewal_interval"], 77, "{answer}");
    let hardware_id = answer.get("hardware_id").and_then(Value::as_str);
    let expected = (protocol == 6).then_some("0123456789abcdef");
    assert_eq!(hardware_id, expected, "{answer}");
}

const POLICY: [&str; 4] = [
    "--epid=the lab's own name",
    "--hardware-id=0123456789ABCDEF",
    "--activation-interval=7",
    "--renewal-interval=77",
];

#[test]
fn a_foreign_client_binds_and_calls() {
    let Some(python) = python() else {
        return;
    };
    let (mut server, address) = serve(&[&POLICY[..], &["--log-detail=verbose"]].concat());
    let said = drive(&python, address);

    for encoding in ["ndr32", "ndr64"] {
        assert_eq!(said[encoding]["bound"], 12, "no bind_ack: {said}");
        let answers = said[encoding]["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 3);
        for (answer, protocol) in answers.iter().zip(4..) {
            assert_answer(answer, protocol);
        }
    }
    let words = |case: &str| said[case].as_str().unwrap_or_default();
    for (case, reason) in [
        ("wrong_interface", "abstract_syntax_not_supported"),
        ("wrong_syntax", "proposed_transfer_syntaxes_not_supported"),
    ] {
        assert!(words(case).contains("provider_rejection"), "{said}");
        assert!(words(case).contains(reason), "{said}");
    }
    // The connection outlives each of these.
    for (case, fault, after) in [
        ("wrong_opnum", "nca_s_op_rng_error", 5),
        ("wrong_stub", "rpc_x_bad_stub_data", 5),
        // Not a fault: no data, and the result code at the end.
        ("wrong_seal", "00000000000000000d000780", 6),
    ] {
        assert_eq!(said[case]["said"], fault, "{said}");
        assert_answer(&said[case]["after"], after);
    }
    assert_answer(&said["several_offers"], 6);
    assert_answer(&said["with_object"], 6);
    for (case, protocols) in [
        ("fragments_ndr32", [6, 4]),
        ("fragments_ndr64", [6, 4]),
        ("altered", [6, 5]),
    ] {
        for (number, protocol) in protocols.into_iter().enumerate() {
            assert_answer(&said[case][number], protocol);
        }
    }

    server.terminate();
    assert!(server.wait().success());
    let log = server.stdout();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count(">>> Sending response"), 17, "{log:#?}");
    assert_eq!(count("Lab seal missing (0x8007000D)"), 1, "{log:#?}");
    for (name, requests) in [("impacket-v4", 4), ("impacket-v5", 5), ("impacket-v6", 8)] {
        assert_eq!(count(name), requests, "{name}: {log:#?}");
    }
}

/// A capture of all that goes over loopback to or from two ports.
struct Capture {
    dumpcap: Sidecar,
    path: PathBuf,
    /// TCP, of the session.
    port: u16,
    end: UdpSocket,
}

impl Capture {
    /// None where one may not look.
    fn start(directory: &TempDir, port: u16) -> Option<Self> {
        let path = directory.path().join("session.pcapng");
        let end = UdpSocket::bind("127.0.0.1:0").unwrap();
        let end_port = end.local_addr().unwrap().port();
        let filter = format!("tcp port {port} or udp port {end_port}");
        let mut command = Command::new("dumpcap");
        command.args(["-q", "-i", "lo", "-f", &filter, "-w"]);
        let dumpcap = Sidecar::spawn(command.arg(&path));
        // It ends at once if it may not; else it names the file when it is ready.
        let ready = poll(|| {
            let told = dumpcap.stderr();
            let ready = told.iter().any(|line| line.starts_with("File: "));
            (ready || dumpcap.has_ended()).then_some(ready)
        });
        if ready != Some(true) {
            skipped(&format!("one may not capture here ({dumpcap:?})"));
            return None;
        }
        Some(Self {
            dumpcap,
            path,
            port,
            end,
        })
    }

    /// The file, once it has everything.
    fn stop(mut self) -> (PathBuf, u16) {
        self.end
            .send_to(END, self.end.local_addr().unwrap())
            .unwrap();
        let whole = poll(|| {
            let bytes = fs::read(&self.path).unwrap();
            bytes
                .windows(END.len())
                .any(|window| window == END)
                .then_some(())
        });
        assert_eq!(
            whole,
            Some(()),
            "the capture never ends: {:?}",
            self.dumpcap
        );
        self.dumpcap.interrupt();
        assert!(self.dumpcap.wait().success(), "{:?}", self.dumpcap);
        (self.path, self.port)
    }
}

/// The lines that tshark prints about the frames that a filter lets through.
fn tshark(capture: &(PathBuf, u16), filter: &str, fields: &[&str]) -> Vec<String> {
    let (path, port) = capture;
    let mut command = Command::new("tshark");
    command.arg("-r").arg(path);
    command.args(["-d", &format!("tcp.port=={port},dcerpc"), "-Y", filter]);
    if !fields.is_empty() {
        command.args(["-T", "fields"]);
        command.args(fields.iter().flat_map(|field| ["-e", field]));
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn packet_types(capture: &(PathBuf, u16), filter: &str) -> BTreeSet<u8> {
    let lines = tshark(capture, filter, &["dcerpc.pkt_type"]);
    let each = lines.iter().flat_map(|line| line.split(','));
    each.map(|number| number.parse().unwrap()).collect()
}

#[test]
fn a_foreign_dissector_finds_nothing_malformed() {
    if Command::new("tshark").arg("--version").output().is_err() {
        skipped("tshark is not installed");
        return;
    }
    let Some(python) = python() else {
        return;
    };
    let (_server, address) = serve(&POLICY);
    let directory = TempDir::new().unwrap();
    let Some(capture) = Capture::start(&directory, address.port()) else {
        return;
    };
    drive(&python, address);
    for arguments in [&["--protocol=4", "--encoding=ndr32"][..], &["--requests=3"]] {
        let mut request = core();
        request.arg("request").arg(address.to_string());
        assert!(request.args(arguments).output().unwrap().status.success());
    }
    let capture = capture.stop();

    // bind, alter_context, request and what answers them, faults too.
    let types = packet_types(&capture, "dcerpc");
    assert_eq!(types, BTreeSet::from([0, 2, 3, 11, 12, 14, 15]));
    let server = format!("dcerpc && tcp.srcport == {}", address.port());
    assert_eq!(
        packet_types(&capture, &server),
        BTreeSet::from([2, 3, 12, 15])
    );
    for wrong in [
        "_ws.malformed",
        "_ws.expert.severity == error",
        // Bytes of ours that are no PDU.
        &format!(
            "tcp.srcport == {} && tcp.len > 0 && !dcerpc",
            address.port()
        ),
    ] {
        assert_eq!(tshark(&capture, wrong, &[]), [""; 0], "{wrong}");
    }
    // Of the fields it reads, two that could be wrong without being malformed.
    let acks = tshark(&capture, "dcerpc.pkt_type == 12", &["dcerpc.cn_sec_addr"]);
    let port = address.port().to_string();
    assert!(
        acks.len() >= 14 && acks.iter().all(|ack| *ack == port),
        "{acks:?}"
    );
    let faults = tshark(&capture, "dcerpc.pkt_type == 3", &["dcerpc.cn_status"]);
    assert_eq!(faults, ["0x1c010002", "0x000006f7"]);
}
