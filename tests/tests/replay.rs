//! A replay decides as the sidecar does, however the log is packed or cut.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use e2e::{
    Recording, Sidecar, Visit, check_at_once, json_lines, notifier, recordings, replay,
    server_started,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tempfile::TempDir;

/// Events without these fields.
fn without(mut events: Vec<Value>, fields: &[&str]) -> Vec<Value> {
    for event in &mut events {
        let event = event.as_object_mut().expect("an event is an object");
        event.retain(|field, _| !fields.contains(&field.as_str()));
    }
    events
}

/// All recordings at once, in the sidecar: the same events with the same ids. Only
/// what the clock decides may differ.
#[test]
fn following_gives_the_same_events() {
    let recordings = recordings();
    let mut command = notifier();
    command.args(["run", "--from", "start"]);
    for recording in &recordings {
        command.arg("--log").arg(&recording.path);
    }
    let sidecar = Sidecar::spawn(&mut command);
    let mut replayed = BTreeMap::new();
    for recording in &recordings {
        let log = format!("{}.log", recording.name);
        replayed.insert(log, replay(&[], &[&recording.path]));
    }
    // What waits for more lines is decided when none came for a while.
    let lines = sidecar.wait_for_lines(replayed.values().map(Vec::len).sum());
    let mut followed = BTreeMap::<String, Vec<Value>>::new();
    for event in json_lines((lines.join("\n") + "\n").as_bytes()) {
        let log = event["log"].as_str().unwrap().to_owned();
        followed.entry(log).or_default().push(event);
    }
    assert!(followed.keys().eq(replayed.keys()));
    for (log, events) in followed {
        let mut clocks = vec!["dedup"];
        if events.iter().any(|event| event["time_source"] == "read") || log.contains("syslog") {
            // Read now; and a syslog stamp's year is the one nearest to now.
            clocks.push("time");
        }
        let replayed = without(replayed.remove(&log).unwrap(), &clocks);
        for (followed, replayed) in without(events, &clocks).iter().zip(&replayed) {
            assert_eq!(followed, replayed, "{log}");
        }
    }
}

#[test]
fn a_replay_repeats_itself() {
    let recording = Recording::named("svn1113-quiet-burst");
    assert_eq!(
        replay(&[], &[&recording.path]),
        replay(&[], &[&recording.path])
    );
}

/// Cuts a recording into pieces at line ends, as a rotation does.
fn pieces(recording: &Recording, n: usize) -> (TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().expect("a directory for the pieces");
    let bytes = recording.bytes();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let length = lines.len().div_ceil(n);
    let write = |(n, piece): (usize, &[&[u8]])| {
        let path = dir.path().join(format!("log.{n}"));
        fs::write(&path, piece.concat()).expect("a piece is written");
        path
    };
    let paths = lines.chunks(length).enumerate().map(write).collect();
    (dir, paths)
}

/// A piece has its own beginning, so ids are its own too; all else is as if the
/// log had never been cut.
#[test]
fn joined_pieces_are_one_log() {
    check_at_once(recordings(), |recording| {
        let (_dir, pieces) = pieces(recording, 4);
        let pieces: Vec<_> = pieces.iter().map(PathBuf::as_path).collect();
        let own = ["id", "connection", "log"];
        let joined = without(replay(&["--joined"], &pieces), &own);
        let whole = without(replay(&[], &[&recording.path]), &own);
        assert_eq!(joined.len(), whole.len());
        for (joined, whole) in joined.iter().zip(&whole) {
            assert_eq!(joined, whole);
        }
    });
}

#[test]
fn files_that_are_not_joined_are_logs_of_their_own() {
    let names = ["svn1113-scan", "svn1113-quiet-burst"];
    let [first, second] = names.map(Recording::named);
    let both = replay(&[], &[&first.path, &second.path]);
    let mut each = replay(&[], &[&first.path]);
    each.extend(replay(&[], &[&second.path]));
    assert_eq!(both, each);
}

#[test]
fn packed_files_and_standard_input_are_read_alike() {
    let recording = Recording::named("svn1113-fork-held");
    let plain = replay(&[], &[&recording.path]);

    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("svn1113-fork-held.log.gz");
    let bytes = recording.bytes();
    let (head, tail) = bytes.split_at(bytes.len() / 3);
    let mut file = File::create(&packed).unwrap();
    // Two members, as where one packed file was appended to another.
    for part in [head, tail] {
        let mut encoder = GzEncoder::new(&mut file, Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
    }
    assert_eq!(
        without(replay(&[], &[&packed]), &["log"]),
        without(plain.clone(), &["log"])
    );

    for input in [&recording.path, &packed] {
        let mut command = notifier();
        command.args(["replay", "--format", "json", "-"]);
        let output = command.stdin(File::open(input).unwrap()).output().unwrap();
        let events = json_lines(&output.stdout);
        assert!(events.iter().all(|event| event["log"] == "stdin"));
        assert_eq!(without(events, &["log"]), without(plain.clone(), &["log"]));
    }
}

#[test]
fn a_packed_file_that_breaks_off_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.gz");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder
        .write_all(&Recording::named("svn1113-scan").bytes())
        .unwrap();
    let bytes = encoder.finish().unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let output = notifier().args(["replay"]).arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("cannot read") && error.contains("log.gz"),
        "{error}"
    );
}

/// The wrapped recordings are the same log as a container runtime keeps it.
#[test]
fn a_wrapper_changes_nothing_but_the_time() {
    let fields = ["id", "connection", "log", "time", "time_source"];
    let events = |name: &str| without(replay(&[], &[&Recording::named(name).path]), &fields);
    let plain = events("svn1113-fork-held");
    assert!(events("cri-svn1113-fork-held") == plain);
    assert!(events("docker-svn1113-fork-held") == plain);
}

#[test]
fn the_table_ends_with_a_summary() {
    let recording = Recording::named("svn1113-refused");
    let output = notifier()
        .arg("replay")
        .arg(&recording.path)
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let (rows, summary) = table.split_once("\n\n").unwrap();
    assert_eq!(rows.lines().count(), replay(&[], &[&recording.path]).len());
    insta::assert_snapshot!(rows.lines().take(6).collect::<Vec<_>>().join("\n"));
    insta::assert_snapshot!(summary);
}

/// The events of a log that a test writes, by kind and address.
fn told(lines: &str) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().expect("a directory for the log");
    let path = dir.path().join("log");
    fs::write(&path, lines).expect("the log is written");
    let field = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
    replay(&[], &[&path])
        .iter()
        .map(|event| (field(event, "kind"), field(event, "ip")))
        .collect()
}

/// What the bash notifier that came before was tested with.
#[test]
fn the_ancestors_cases_hold() {
    let client = Visit::from("10.10.107.224");
    let kubelet = Visit {
        port: 9,
        ..Visit::from("10.0.20.103")
    };
    let start = ("server_started".to_owned(), String::new());
    let one = |kind: &str, ip: &str| (kind.to_owned(), ip.to_owned());

    let bare = server_started() + &client.probe();
    assert_eq!(told(&bare), [start.clone(), one("probe", "10.10.107.224")]);

    // A line of a request's block says that somebody asked something.
    for line in [
        "Application ID                  : 55c92734-d682-4d71-983e-d6ec3f16059f (Windows)",
        "SKU ID (aka Activation ID)      : 73111121-5638-40f6-bc11-f1d7b0d64300 (Windows 10 Enterprise)",
    ] {
        let line = format!("2026-03-14 09:26:53: {line}\n");
        let asked = server_started() + &client.opened() + &line + &client.closed();
        let kinds = told(&asked);
        assert!(
            !kinds.iter().any(|(kind, _)| kind == "probe"),
            "{line}: {kinds:?}"
        );
    }

    let held = server_started() + &client.opened() + &kubelet.probe() + &client.asked();
    let held = held + &kubelet.probe() + &client.answered() + &kubelet.probe() + &client.closed();
    assert_eq!(
        told(&held),
        [
            start.clone(),
            one("probe", "10.0.20.103"),
            one("probe", "10.0.20.103"),
            one("activation", "10.10.107.224"),
            one("probe", "10.0.20.103"),
        ]
    );

    assert_eq!(told(&(server_started() + &client.closed())), [start]);
}

#[test]
fn addresses_have_the_class_of_their_network() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let addresses = [
        ("10.10.107.224", "internal_pod"),
        ("10.0.20.103", "cluster_node"),
        ("203.0.113.42", "external"),
        ("2001:db8::1", "external"),
        ("::ffff:10.0.20.103", "cluster_node"),
        ("192.168.1.230", "external"),
    ];
    let probes = addresses.map(|(ip, _)| Visit::from(ip).probe());
    fs::write(&path, server_started() + &probes.concat()).unwrap();
    let events = replay(&[], &[&path]);
    let classes: Vec<_> = events
        .iter()
        .skip(1)
        .map(|event| event["source"].as_str().unwrap())
        .collect();
    assert_eq!(classes, addresses.map(|(_, class)| class));
    assert_eq!(
        events[5]["ip"], "10.0.20.103",
        "a mapped address is the one it means"
    );

    let more = [
        "--class",
        "lab=192.168.0.0/16",
        "--class",
        "v6=2001:db8::/32",
    ];
    let events = replay(&more, &[&path]);
    let classes: Vec<_> = events
        .iter()
        .skip(1)
        .map(|event| event["source"].as_str().unwrap())
        .collect();
    assert_eq!(
        classes,
        [
            "internal_pod",
            "cluster_node",
            "external",
            "v6",
            "cluster_node",
            "lab"
        ]
    );
}
