//! The recordings, taken apart and written again.

use std::fs;
use std::path::PathBuf;

use jiff::civil::DateTime;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::message::{FileTime, SealError, WorkstationName};

fn recording(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/recorded");
    fs::read_to_string(root.join(name)).unwrap()
}

fn time(text: &str) -> FileTime {
    let time: DateTime = text.parse().unwrap();
    FileTime::from(time.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp())
}

/// `YYYY-MM-DD HH:MM:SS: ` and the text after it.
fn split_stamp(line: &str) -> (Option<DateTime>, &str) {
    match line.split_at_checked(21) {
        Some((stamp, text)) if stamp.ends_with(": ") => match stamp[..19].parse() {
            Ok(time) => (Some(time), text),
            Err(_) => (None, line),
        },
        _ => (None, line),
    }
}

/// The lines of a recording, read as a person would: label by label.
struct Lines<'a> {
    lines: std::iter::Peekable<std::str::Lines<'a>>,
}

impl<'a> Lines<'a> {
    fn value(&mut self, label: &str) -> &'a str {
        let (_, text) = split_stamp(self.lines.next().unwrap());
        assert_eq!(text[..32].trim_end(), label);
        &text[34..]
    }

    fn number(&mut self, label: &str) -> u32 {
        self.value(label).parse().unwrap()
    }

    fn id(&mut self, label: &str) -> (Uuid, &'a str) {
        let (id, name) = self.value(label).split_at(36);
        (id.parse().unwrap(), &name[2..name.len() - 1])
    }

    fn version(&mut self) -> Version {
        version(self.value("Protocol version"))
    }

    fn request(&mut self) -> (BaseRequest, Names<'a>) {
        let version = self.version();
        let virtual_machine = u32::from(self.value("Client is a virtual machine") == "Yes");
        let (status, _) = self.value("Licensing status").split_once(' ').unwrap();
        let remaining = self.value("Remaining time (0 = forever)");
        let (application_id, application) = self.id("Application ID");
        let (activation_id, product) = self.id("SKU ID (aka Activation ID)");
        let (kms_counted_id, kms_counted) = self.id("KMS ID (aka KMS counted ID)");
        let request = BaseRequest {
            version,
            virtual_machine,
            license_status: status.parse().unwrap(),
            remaining_minutes: remaining.strip_suffix(" minutes").unwrap().parse().unwrap(),
            application_id,
            activation_id,
            kms_counted_id,
            client_machine_id: self.value("Client machine ID").parse().unwrap(),
            previous_client_machine_id: self.value("Previous client machine ID").parse().unwrap(),
            client_time: time(self.value("Client request timestamp (UTC)")),
            workstation: self.value("Workstation name").parse().unwrap(),
            min_clients: self.number("N count policy (minimum clients)"),
        };
        let names = Names {
            application,
            product,
            kms_counted,
        };
        (request, names)
    }

    fn response(&mut self) -> (BaseResponse, Option<[u8; 8]>) {
        let version = self.version();
        let epid = self.value("KMS host extended PID").parse().unwrap();
        let hardware_id = (version.major > 5).then(|| {
            let id = self.value("KMS host Hardware ID");
            u64::from_str_radix(id, 16).unwrap().to_be_bytes()
        });
        let response = BaseResponse {
            version,
            epid,
            client_machine_id: self.value("Client machine ID").parse().unwrap(),
            client_time: time(self.value("Client request timestamp (UTC)")),
            active_clients: self.number("KMS host current active clients"),
            renewal_interval: self.number("Renewal interval policy"),
            activation_interval: self.number("Activation interval policy"),
        };
        (response, hardware_id)
    }
}

fn socket(peer: &str) -> SocketAddr {
    peer.strip_suffix('.').unwrap().parse().unwrap()
}

fn version(text: &str) -> Version {
    let (major, minor) = text.split_once('.').unwrap();
    Version {
        major: major.parse().unwrap(),
        minor: minor.parse().unwrap(),
    }
}

fn refusal(text: &str) -> Option<Refusal> {
    [
        ("Rejecting request", Refusal::MinClients),
        ("Refusing unknown", Refusal::UnknownProduct),
        ("Refusing product", Refusal::WrongApplication),
    ]
    .into_iter()
    .find_map(|(start, refusal)| text.starts_with(start).then_some(refusal))
}

/// Reads a log and writes it again from the values in it; gives what was written
/// and how many lines were copied because only vlmcsd has them.
fn rewritten(log: &str) -> (Vec<u8>, usize) {
    let mut lines = Lines {
        lines: log.lines().peekable(),
    };
    let (mut out, mut copied) = (Vec::new(), 0);
    while let Some(line) = lines.lines.next() {
        let (stamp, text) = split_stamp(line);
        let mut writer = LogWriter::new(&mut out, stamp);
        if let Some((_, peer)) = text.split_once(" connection accepted: ") {
            writer.accepted(socket(peer));
        } else if let Some((_, peer)) = text.split_once(" connection closed: ") {
            writer.closed(socket(peer));
        } else if text == "<<< Incoming KMS request" {
            let (request, names) = lines.request();
            writer.request(&request, &names);
        } else if let Some(source) = text.strip_prefix(">>> Sending response, ePID source = ") {
            let (response, hardware_id) = lines.response();
            writer.response(&response, hardware_id, source);
        } else if let Some(rest) = text.strip_prefix("KMS v") {
            let (number, rest) = rest.split_once(" request from ").unwrap();
            let (name, product) = rest.split_once(" for ").unwrap();
            let mut request = request();
            request.version = version(number);
            request.workstation = name.parse().unwrap();
            let names = Names {
                product,
                ..Names::of(&request)
            };
            writer.quiet_request(&request, &names);
        } else if let Some(rest) = text.strip_prefix("Sending ePID (") {
            let (source, epid) = rest.split_once("): ").unwrap();
            let mut response = response();
            response.epid = epid.parse().unwrap();
            writer.quiet_response(&response, source);
        } else if let Some(refusal) = refusal(text) {
            writer.refusal(&refusal);
        } else if let Some(local) = text.strip_prefix("Listening on ") {
            writer.listening(local.parse().unwrap());
        } else if let Some(program) = text.strip_suffix(" started successfully") {
            writer.started(program);
        } else if let Some(program) = text.strip_suffix(" was shutdown") {
            writer.stopped(program);
        } else if text == "Client with public IP address rejected" {
            writer.public_rejected();
        } else {
            assert!(
                ["Read KMS data file ", "Using CSVLK "]
                    .iter()
                    .any(|start| text.starts_with(start)),
                "{line}"
            );
            out.extend_from_slice(line.as_bytes());
            out.push(b'\n');
            copied += 1;
        }
    }
    (out, copied)
}

#[test]
fn recordings_are_written_again_byte_for_byte() {
    for name in [
        "svn1113-fork-sequential.log",
        "svn1113-nodate-stdout-sequential.log",
        "svn1113-nokmd-sequential.log",
        "svn1113-public-o2.log",
        "svn1113-quiet-burst.log",
        "svn1113-quiet-held.log",
        "svn1113-quiet-sequential.log",
        "svn1113-refused.log",
        "svn1113-scan.log",
    ] {
        let log = recording(name);
        let (written, copied) = rewritten(&log);
        assert!(copied < 10 && log.lines().count() > 100, "{name}");
        assert!(written == log.as_bytes(), "{name}");
    }
}

#[test]
fn names_are_svn1113s() {
    let mut lines = 0;
    for name in [
        "svn1113-fork-sequential.log",
        "svn1113-nodate-stdout-sequential.log",
        "svn1113-public-o2.log",
        "svn1113-refused.log",
        "svn1113-scan.log",
    ] {
        let log = recording(name);
        let mut rest = Lines {
            lines: log.lines().peekable(),
        };
        while let Some(line) = rest.lines.next() {
            if !line.ends_with("<<< Incoming KMS request") {
                continue;
            }
            let (request, printed) = rest.request();
            let ours = Names::of(&request);
            assert_eq!(ours.application, printed.application, "{name}");
            for (ours, printed) in [
                (ours.product, printed.product),
                (ours.kms_counted, printed.kms_counted),
            ] {
                // Names of previews are the catalogue's own.
                let preview = printed.contains("Preview") || printed.contains("Pre-Release");
                assert!(ours == printed || preview, "{ours} is not {printed}");
            }
            lines += 1;
        }
    }
    assert!(lines > 100, "{lines}");
}

fn request() -> BaseRequest {
    BaseRequest {
        version: Version { major: 6, minor: 0 },
        virtual_machine: 7,
        license_status: 9,
        remaining_minutes: u32::MAX,
        application_id: Uuid::max(),
        activation_id: Uuid::max(),
        kms_counted_id: Uuid::nil(),
        client_machine_id: Uuid::nil(),
        min_clients: u32::MAX,
        client_time: FileTime(u64::MAX),
        previous_client_machine_id: Uuid::nil(),
        workstation: "PC1".parse().unwrap(),
    }
}

fn response() -> BaseResponse {
    BaseResponse {
        version: Version { major: 6, minor: 0 },
        epid: "lab".parse().unwrap(),
        client_machine_id: Uuid::nil(),
        client_time: FileTime(0),
        active_clients: 50,
        activation_interval: 120,
        renewal_interval: 10_080,
    }
}

fn written(write: impl FnOnce(&mut LogWriter<'_>)) -> String {
    let mut out = Vec::new();
    write(&mut LogWriter::new(&mut out, None));
    String::from_utf8(out).unwrap()
}

#[test]
fn odd_numbers_are_printed_as_vlmcsd_prints_them() {
    let block = written(|log| log.request(&request(), &Names::of(&request())));
    for line in [
        "Client is a virtual machine     : Yes\n",
        "Licensing status                : 9 (Unknown)\n",
        "Remaining time (0 = forever)    : -1 minutes\n",
        "Application ID                  : ffffffff-ffff-ffff-ffff-ffffffffffff (Unknown)\n",
        "Client request timestamp (UTC)  : 60056-05-28 05:36:10\n",
        "N count policy (minimum clients): 4294967295\n",
    ] {
        assert!(block.contains(line), "{block}");
    }
}

#[test]
fn marks_follow_the_lines_that_name_a_connection() {
    let mut out = Vec::new();
    let peer: SocketAddr = "192.0.2.15:49731".parse().unwrap();
    let mut log = LogWriter::new(&mut out, None).connection(17);
    log.accepted(peer);
    let verdict = Verdict::Answered {
        response: response(),
        hardware_id: None,
    };
    let exchange = Exchange {
        version: None,
        request: Some(request()),
        verdict,
    };
    log.exchange(&exchange, Detail::Verbose, "command line");
    log.relayed(Version { major: 6, minor: 0 }, Relayed::Answered);
    log.closed(peer);
    let text = String::from_utf8(out).unwrap();
    let marked: Vec<_> = text
        .lines()
        .filter(|line| line.ends_with(" [c=17]"))
        .collect();
    assert_eq!(
        marked,
        [
            "IPv4 connection accepted: 192.0.2.15:49731. [c=17]",
            "<<< Incoming KMS request [c=17]",
            ">>> Sending response, ePID source = command line [c=17]",
            "Relayed request: v6.0, protected, outcome answered [c=17]",
            "IPv4 connection closed: 192.0.2.15:49731. [c=17]",
        ]
    );
    assert_eq!(text.lines().count(), 3 + 13 + 8);

    let mut out = Vec::new();
    LogWriter::new(&mut out, None).connection(18).exchange(
        &exchange,
        Detail::Quiet,
        "command line",
    );
    let text = String::from_utf8(out).unwrap();
    assert!(text.lines().all(|line| line.ends_with(" [c=18]")), "{text}");
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn a_zone_is_named_where_there_is_one() {
    for (address, zone, shown) in [
        (
            "[fe80::5%4]:49731",
            Some("eth0"),
            "IPv6 connection accepted: [fe80::5%eth0]:49731.\n",
        ),
        (
            "[fe80::5%4]:49731",
            None,
            "IPv6 connection accepted: [fe80::5%4]:49731.\n",
        ),
        (
            "[fe80::5%4]:1",
            Some("a\nb"),
            "IPv6 connection accepted: [fe80::5%a\u{FFFD}b]:1.\n",
        ),
        (
            "[2001:db8::5]:1",
            Some("eth0"),
            "IPv6 connection accepted: [2001:db8::5]:1.\n",
        ),
        (
            "192.0.2.15:1",
            Some("eth0"),
            "IPv4 connection accepted: 192.0.2.15:1.\n",
        ),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(written(|log| log.accepted(Peer { address, zone })), shown);
    }
}

#[test]
fn refusals_have_vlmcsds_words() {
    let seal = Refusal::Message(SealError::Tag.into());
    let version = Refusal::Message(MessageError::Version(Version { major: 7, minor: 0 }));
    let length = Refusal::Message(MessageError::Length {
        version: Version { major: 6, minor: 0 },
        expected: 260,
        actual: 4,
    });
    for (refusal, line) in [
        (
            Refusal::MinClients,
            "Rejecting request with more than 1000 minimum clients (0x8007000D)\n",
        ),
        (
            Refusal::ClientTime,
            "Client time differs more than 4 hours from system time (0xC004F06C)\n",
        ),
        (
            Refusal::RetailOrBeta,
            "Refusing retail or beta product (0xC004F042)\n",
        ),
        (
            Refusal::UnknownProduct,
            "Refusing unknown product (0xC004F042)\n",
        ),
        (
            Refusal::WrongApplication,
            "Refusing product with incorrect Application ID (0xC004F042)\n",
        ),
        (
            Refusal::TooManyClients,
            "Rejecting more than 671 clients (0xC004D104)\n",
        ),
        (version, "Fatal: KMSv7.0 unsupported\n"),
        (seal, "Lab seal missing (0x8007000D)\n"),
        (length, ""),
    ] {
        assert_eq!(written(|log| log.refusal(&refusal)), line);
    }
}

#[test]
fn the_projects_own_lines() {
    let six = Version { major: 6, minor: 0 };
    let refused = Relayed::Refused(HResult(0xC004_F042));
    assert_eq!(
        written(|log| log.relayed(six, refused)),
        "Relayed request: v6.0, protected, outcome refused 0xC004F042\n"
    );
    assert_eq!(
        written(|log| log.limited("2001:db8::/64", "rate", 12)),
        "Limited: 2001:db8::/64 rate 12\n"
    );
    let code = HResult(0xC004_F041);
    let request = BaseRequest {
        version: Version { major: 4, minor: 0 },
        virtual_machine: 0,
        license_status: 2,
        remaining_minutes: 0,
        application_id: Uuid::nil(),
        activation_id: Uuid::nil(),
        kms_counted_id: Uuid::nil(),
        client_machine_id: Uuid::nil(),
        min_clients: 25,
        client_time: FileTime(0),
        previous_client_machine_id: Uuid::nil(),
        workstation: "PC1\nforged".parse().unwrap(),
    };
    assert_eq!(
        written(|log| log.refused_upstream(&request, Detail::Quiet, code)),
        "KMS v4.0 request from PC1\u{FFFD}forged for 00000000-0000-0000-0000-000000000000\n\
         Refused by the upstream (0xC004F041)\n"
    );
}

#[test]
fn a_quiet_line_names_the_best_known_and_cuts_the_name() {
    let quiet =
        |request: &BaseRequest| written(|log| log.quiet_request(request, &Names::of(request)));
    let mut request = request();
    request.workstation = "ä".repeat(60).parse().unwrap();
    let name = "ä".repeat(32);
    let unknown = "ffffffff-ffff-ffff-ffff-ffffffffffff";
    assert_eq!(
        quiet(&request),
        format!("KMS v6.0 request from {name} for {unknown}\n")
    );
    request.application_id = "55c92734-d682-4d71-983e-d6ec3f16059f".parse().unwrap();
    assert!(quiet(&request).ends_with(" for Windows\n"));
    request.kms_counted_id = "58e2134f-8e11-4d17-9cb2-91069c151148".parse().unwrap();
    assert!(quiet(&request).ends_with(" for Windows 10 2015 (Volume)\n"));
    request.activation_id = "73111121-5638-40f6-bc11-f1d7b0d64300".parse().unwrap();
    assert!(quiet(&request).ends_with(" for Windows 10 Enterprise\n"));
}

proptest! {
    #[test]
    fn no_name_adds_or_ends_a_line(
        half: [u16; 32],
        forged in "(\n|\r|[\u{202e}\u{85}a-z:\\[\\]=]|2026-01-01 00:00:00: |<<< Incoming KMS request){0,4}",
    ) {
        let mut name = WorkstationName([0x0A; 64]);
        let text: Vec<u16> = forged.encode_utf16().chain(half).take(64).collect();
        name.0[..text.len()].copy_from_slice(&text);
        let request = BaseRequest { workstation: name, ..request() };
        let exchange = Exchange {
            version: None,
            request: Some(request),
            verdict: Verdict::Answered { response: response(), hardware_id: None },
        };
        for (detail, lines) in [(Detail::Verbose, 13 + 8), (Detail::Quiet, 2)] {
            let text = written(|log| log.exchange(&exchange, detail, &forged));
            prop_assert!(!text.contains(|c| c != '\n' && text::is_hidden(c)));
            prop_assert_eq!(text.matches('\n').count(), lines);
            prop_assert!(text.ends_with('\n'));
        }
    }
}
