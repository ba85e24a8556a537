//! `explain` says of any line what it was taken for, what it belongs to and what
//! became of it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use e2e::{Recording, notifier};
use flate2::Compression;
use flate2::write::GzEncoder;

fn explain(log: &Path, line: usize) -> String {
    let mut command = notifier();
    command.arg("explain").arg(log).arg(line.to_string());
    let output = command.output().expect("the notifier starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    String::from_utf8(output.stdout).expect("an explanation is text")
}

/// The number of the first line that has `text`, from 1.
fn line_with(recording: &Recording, text: &str) -> usize {
    let bytes = recording.bytes();
    let log = String::from_utf8_lossy(&bytes);
    let found = log.split('\n').position(|line| line.contains(text));
    found.unwrap_or_else(|| panic!("no {text:?} in {}", recording.name)) + 1
}

#[test]
fn each_kind_of_line() {
    for (recording, text, words) in [
        (
            "svn1113-refused",
            "Listening on",
            &["lifecycle", "no event: such lines are only counted"][..],
        ),
        (
            "svn1113-refused",
            "started successfully",
            &["lifecycle", "became: server_started"],
        ),
        (
            "svn1113-refused",
            "<<< Incoming KMS request",
            &["counted as: request", "became: ", "exact"],
        ),
        (
            "svn1113-refused",
            "Workstation name",
            &[
                "counted as: request",
                "belongs to: the request",
                "begins on line",
            ],
        ),
        (
            "svn1113-refused",
            "Refusing unknown product",
            &["counted as: refusal", "begins on line", "became: refused"],
        ),
        (
            "svn1113-refused",
            ">>> Sending response",
            &[
                "counted as: response",
                "begins on line",
                "became: activation",
            ],
        ),
        ("svn1113-public-o2", "rejected", &["became: dropped"]),
        (
            "svn1113-scan",
            "connection accepted",
            &["counted as: connection", "became: "],
        ),
        (
            "svn1113-scan",
            "connection closed",
            &["counted as: connection", "begins on line", "became: "],
        ),
        (
            "svn1113-quiet-held",
            " request from ",
            &["counted as: request", "became: activation"],
        ),
        (
            "svn1113-syslog-burst",
            "<<< Incoming",
            &["counted as: request", "exact: a mark or a process"],
        ),
        (
            "svn1113-fork-burst",
            "N count policy",
            &[
                "counted as: request",
                "ambiguous: more than one",
                "\"candidates\":[",
            ],
        ),
        (
            "cri-svn1113-fork-held",
            " stdout P ",
            &["counted as: ", "belongs to: the request"],
        ),
        (
            "docker-svn1113-fork-held",
            "connection accepted",
            &["counted as: connection", "became: "],
        ),
        // What a client wrote is no line of the server's, however it looks.
        (
            "svn1113-hostile",
            "accepted: 8.8.8.8",
            &[
                "counted as: suspect",
                "decides nothing",
                "looks like: Accepted",
                "no event",
            ],
        ),
    ] {
        let recording = Recording::named(recording);
        let line = line_with(&recording, text);
        let said = explain(&recording.path, line);
        assert!(said.starts_with(&format!("line {line}: ")), "{said}");
        for word in words {
            assert!(
                said.contains(word),
                "{}, {text:?}: no {word:?} in {said}",
                recording.name
            );
        }
    }
}

#[test]
fn the_rest_of_a_line_in_parts_belongs_to_its_first() {
    let recording = Recording::named("cri-svn1113-fork-held");
    let first = line_with(&recording, " stdout P ");
    let said = explain(&recording.path, first + 1);
    assert!(said.contains("a part of a longer line"), "{said}");
}

/// The same bytes, packed.
#[test]
fn a_packed_log() {
    let recording = Recording::named("svn1113-refused");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("svn1113-refused.log");
    let mut encoder = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
    encoder.write_all(&recording.bytes()).unwrap();
    encoder.finish().unwrap();
    for line in [10, 20, 40] {
        assert_eq!(explain(&path, line), explain(&recording.path, line));
    }
}

/// The log is read more than once, which standard input cannot be.
#[test]
fn standard_input_is_not_explained() {
    let mut command = notifier();
    command.args(["explain", "-", "1"]);
    let output = command.output().unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(2), &b""[..])
    );
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("standard input is read once"), "{error}");
    assert!(error.trim_end().ends_with("give a file"), "{error}");
}
