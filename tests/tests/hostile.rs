//! Text that clients put into the log does nothing to whoever reads what is made
//! of it: no live markup, no control and no bidi characters, no forged clients.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::process::Output;
use std::sync::Mutex;

use e2e::score::Action;
use e2e::{
    FakeSlack, Recording, assert_inert_message, assert_plain_lines, check_at_once, json_lines,
    notifier, recordings, replay,
};
use serde_json::Value;

fn hostile() -> Vec<Recording> {
    let mut recordings = recordings();
    recordings.retain(Recording::is_hostile);
    recordings
}

fn open(recording: &Recording) -> File {
    File::open(&recording.path).expect("a recording can be read")
}

/// Reads `log` to its end with `run`, with a webhook or without.
fn run(log: File, slack: Option<&FakeSlack>, arguments: &[&str]) -> Output {
    let mut command = notifier();
    if let Some(slack) = slack {
        command.env("SLACK_WEBHOOK_URL", slack.url());
    }
    command.args(["run", "--log", "-", "--post-refused"]);
    let output = command.args(arguments).stdin(log).output();
    let output = output.expect("the notifier starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    output
}

#[test]
fn every_recording_gives_clean_json_lines() {
    check_at_once(recordings(), |recording| {
        // `replay` checks what it reads.
        let events = replay(&[], &[&recording.path]);
        assert!(!events.is_empty());
        let output = run(open(recording), None, &[]);
        assert_eq!(json_lines(&output.stdout).len(), events.len());
    });
}

#[test]
fn every_recording_gives_a_clean_table() {
    check_at_once(recordings(), |recording| {
        let output = notifier().arg("replay").arg(&recording.path).output();
        let output = output.unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
        assert_plain_lines(&output.stdout);
    });
}

#[test]
fn the_programs_own_log_is_clean() {
    check_at_once(hostile(), |recording| {
        for format in ["human", "json"] {
            let arguments = ["--log-format", format, "--log-level", "trace"];
            let output = run(open(recording), None, &arguments);
            assert_plain_lines(&output.stderr);
            let log = str::from_utf8(&output.stderr).unwrap();
            assert!(log.contains("would post"), "{log}");
            if format == "json" {
                assert!(json_lines(&output.stderr).len() > 1);
            }
        }
    });
}

#[test]
fn explaining_any_line_is_clean() {
    let recording = Recording::named("svn1113-hostile-nodate");
    let lines = recording.bytes().split(|byte| *byte == b'\n').count();
    // Blocks have 13 and 9 lines, so every second line meets each of them.
    for line in (1..lines).step_by(2) {
        let mut command = notifier();
        command.arg("explain").arg(&recording.path);
        let output = command.arg(line.to_string()).output().unwrap();
        assert!(output.status.success(), "line {line}: {output:?}");
        assert_plain_lines(&output.stdout);
        assert_plain_lines(&output.stderr);
    }
}

#[test]
fn whole_recordings_are_posted_without_live_markup() {
    check_at_once(hostile(), |recording| {
        let slack = FakeSlack::start([]);
        run(open(recording), Some(&slack), &[]);
        let posts = slack.posts();
        let digest = posts.iter().find(|post| post.fields().is_empty());
        assert!(digest.is_some(), "{posts:#?}");
        posts
            .iter()
            .for_each(|post| assert_inert_message(&post.json()));
    });
}

/// At most five messages leave at once and more become a digest, which shows few
/// names. So the log comes in pieces with about three clients each, for a sidecar
/// of its own; they overlap so far that every request is whole in one of them.
#[test]
fn every_name_is_posted_without_live_markup() {
    let names = Mutex::new(BTreeSet::new());
    check_at_once(hostile(), |recording| {
        let bytes = recording.bytes();
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        let piece = 3 * lines.len() / recording.truth().matches("\"cmid\"").count();
        for start in (0..lines.len()).step_by(piece / 2) {
            let slack = FakeSlack::start([]);
            let end = lines.len().min(start + piece);
            run(file_with(&lines[start..end].concat()), Some(&slack), &[]);
            for post in slack.posts() {
                assert_inert_message(&post.json());
                names
                    .lock()
                    .unwrap()
                    .extend(post.fields().remove("Workstation"));
            }
        }
    });
    // They did arrive, so that the checks had something to find.
    let names = Vec::from_iter(names.into_inner().unwrap()).join("\n");
    for name in [
        "&lt;!channel&gt;",
        "&lt;https://evil.example|click&gt;",
        "`rm -rf`*_~",
        "\u{FFFD}gnp.exe",
        "\u{FFFD}[31mred",
        "IPv4 connection closed",
    ] {
        assert!(names.contains(name), "no {name} in {names}");
    }
}

fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("a file takes bytes");
    file.rewind().expect("a file can be read again");
    file
}

/// Some names mention 1.1.1.1 and 8.8.8.8, where no client ever was.
#[test]
fn addresses_from_names_become_nobody() {
    for recording in hostile() {
        let ip = |line| serde_json::from_str::<Action>(line).unwrap().ip;
        let real: BTreeSet<String> = recording.truth().lines().map(ip).collect();
        for event in replay(&[], &[&recording.path]) {
            let candidates = event["candidates"].as_array().into_iter().flatten();
            let mut named = candidates
                .filter_map(Value::as_str)
                .chain(event["ip"].as_str());
            let all_real = named.all(|ip| real.contains(ip));
            assert!(
                all_real || event["suspect"] == true,
                "{}: {event}",
                recording.name
            );
        }
    }
}
