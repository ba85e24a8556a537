//! Bad arguments and configuration: one line on standard error that names the key
//! and the fix, exit code 2, nothing started, nothing on standard output.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::process::Command;

use e2e::{LogWriter, Sidecar, Visit, notifier};
use tempfile::TempDir;

/// Runs a command that must not start, and returns its one line.
fn refused(command: &mut Command) -> String {
    let mut process = Sidecar::spawn(command);
    let status = process.wait();
    assert_eq!(status.code(), Some(2), "{command:?}: {process:?}");
    assert_eq!(process.stdout(), [""; 0], "{command:?}");
    let mut errors = process.stderr();
    assert_eq!(errors.len(), 1, "{command:?}: {errors:#?}");
    errors.remove(0)
}

/// The line has each of these: the key as it was spelled, what is wrong, what to do.
fn says(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "no {word:?} in {line}");
    }
}

/// `run` on a log that may appear any time, with these arguments more.
fn run(arguments: &[&str]) -> Command {
    let mut command = notifier();
    command
        .args(["run", "--log", "/no/such/log"])
        .args(arguments);
    command
}

#[test]
fn a_value_that_is_wrong_is_named_with_its_fix() {
    for (arguments, words) in [
        (
            ["--pod-cidr", "10.0.0.0/99"],
            ["--pod-cidr", "10.0.0.0/99", "write 10.10.0.0/16"],
        ),
        (
            ["--node-cidr", "10.0.20.5/24"],
            ["--node-cidr", "bits set", "write 10.0.20.0/24"],
        ),
        (
            ["--class", "lab=nowhere"],
            ["--class: ", "\"nowhere\" is not a network", "write"],
        ),
        (
            ["--class", "10.0.0.0/8"],
            ["--class: ", "no networks", "write NAME=CIDR"],
        ),
        (
            ["--class", "external=10.0.0.0/8"],
            ["--class: ", "external", "another name"],
        ),
        (
            ["--classes", "lab=10.10.0.0/16"],
            [
                "--classes: ",
                "internal_pod and in class lab",
                "leave it in one",
            ],
        ),
        (
            ["--pod-cidr", "10.0.20.0/24"],
            [
                "--pod-cidr: ",
                "cluster_node and in class internal_pod",
                "unless --node-cidr is given",
            ],
        ),
        (
            ["--slack-webhook-url", "hooks"],
            ["--slack-webhook-url", "", "https://"],
        ),
        (
            ["--slack-webhook-url", "http://10.0.0.1/x"],
            ["--slack-webhook-url", "unencrypted", "https://"],
        ),
        (
            ["--slack-webhook-url", "ftp://localhost/x"],
            ["--slack-webhook-url", "", "https://"],
        ),
        (
            ["--slack-webhook-url-file", "/no/file"],
            [
                "--slack-webhook-url-file",
                "/no/file",
                "give a readable file",
            ],
        ),
        (
            ["--slack-icon", "key"],
            ["--slack-icon", ":key:", "https://"],
        ),
        (
            ["--slack-timeout", "soon"],
            ["--slack-timeout", "\"soon\"", "write 10s"],
        ),
        (
            ["--slack-timeout", "1h"],
            ["--slack-timeout", "out of bounds", "give"],
        ),
        (
            ["--dedup-window", "long"],
            ["--dedup-window", "\"long\"", "write"],
        ),
        (
            ["--max-line", "5"],
            ["--max-line", "out of bounds", "give 1KiB to 16MiB"],
        ),
        (
            ["--log-timezone", "Mars/Olympus"],
            ["--log-timezone", "Mars/Olympus", "IANA name"],
        ),
        (
            ["--log-level", "loud"],
            ["--log-level", "\"loud\"", "give one of"],
        ),
        (
            ["--format", "xml"],
            ["--format: ", "\"xml\"", "give one of auto, plain"],
        ),
        (
            ["--from", "resume"],
            ["--from", "no state to resume from", "end or start"],
        ),
        (
            ["--metrics-listen", "9101"],
            ["--metrics-listen", "\"9101\"", "write [::]:9101"],
        ),
        (
            ["--metrics-port", "http"],
            ["--metrics-port", "\"http\"", "give 0"],
        ),
        (
            ["--config", "/no/such.toml"],
            ["--config", "/no/such.toml", "give a TOML file"],
        ),
        (
            ["--log", "/no/such/"],
            ["--log", "is not a file", "give PATH"],
        ),
        (
            ["--log", "/no/such/log"],
            ["--log", "the same log", "give it once"],
        ),
        (
            ["--log", "/other/log"],
            ["--log", "two logs are called log", "NAME=PATH"],
        ),
        (
            ["--slack-timout", "5s"],
            ["'--slack-timout'", "unexpected", "'--slack-timeout'"],
        ),
        (["--zzz", "5s"], ["'--zzz'", "unexpected", "--help"]),
    ] {
        says(&refused(&mut run(&arguments)), &words);
    }
}

#[test]
fn commands_that_lack_something_say_what() {
    for (arguments, words) in [
        (&["run"][..], ["--log", "nothing to read", "-- CMD"]),
        (&["run", "--log"], ["--log", "value", "required"]),
        (
            &["run", "--", "/no/such/server"],
            ["/no/such/server", "cannot start", "after --"],
        ),
        (
            &["test-notify"],
            ["--slack-webhook-url", "no webhook", "give one"],
        ),
        (
            &["dead-letters", "list", "--state", "/no/such/state"],
            ["--state", "does not exist", "give the state of the sidecar"],
        ),
        (&["replay"], ["<FILE>", "required", "not provided"]),
        (
            &["replay", "/no/such/log"],
            ["/no/such/log", "cannot read", "give a file"],
        ),
        (
            &["replay", "--format", "xml", "/dev/null"],
            ["--format", "xml", "json"],
        ),
        (
            &["explain", "/no/such/log", "1"],
            ["/no/such/log", "cannot read", "give a file"],
        ),
        (&["explain", "/dev/null", "0"], ["<LINE>", "0", "1.."]),
        (
            &["explain", "/dev/null", "1"],
            ["LINE", "only 0 lines", "give a smaller number"],
        ),
        (&["nonsense"], ["'nonsense'", "unrecognized", "--help"]),
        (&[], ["no command", "kms-notifier run --log PATH", "--help"]),
    ] {
        says(&refused(notifier().args(arguments)), &words);
    }
}

#[test]
fn a_path_that_would_move_the_cursor_is_shown_cleaned() {
    let path = "/no/such/\u{1b}[2Jlog\nof\u{202e}mine";
    for arguments in [&["replay", path][..], &["explain", path, "1"]] {
        let line = refused(notifier().args(arguments));
        says(
            &line,
            &["/no/such/", "log", "mine", "cannot read", "give a file"],
        );
        let moves = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!line.contains(moves), "{line:?}");
    }
}

#[test]
fn the_environment_is_named_as_it_is_spelled() {
    for (variable, value, words) in [
        (
            "KMS_NOTIFIER_POD_CIDR",
            "x",
            ["KMS_NOTIFIER_POD_CIDR", "\"x\"", "write"],
        ),
        (
            "DEDUP_WINDOW_SECONDS",
            "1 year",
            ["DEDUP_WINDOW_SECONDS", "", "write"],
        ),
        (
            "SLACK_WEBHOOK_URL",
            "x",
            ["SLACK_WEBHOOK_URL", "", "https://"],
        ),
        (
            "SLACK_WEBHOOK_URL_FILE",
            "/no/file",
            ["SLACK_WEBHOOK_URL_FILE", "/no/file", "give"],
        ),
        ("METRICS_PORT", "70000", ["METRICS_PORT", "70000", "give 0"]),
        (
            "KMS_NOTIFIER_CONFIG",
            "/no/file",
            ["KMS_NOTIFIER_CONFIG", "/no/file", "give"],
        ),
        ("VLMCSD_LOG", "/no/such/", ["VLMCSD_LOG", "", ""]),
    ] {
        let mut command = notifier();
        command
            .arg("run")
            .env("VLMCSD_LOG", "/no/such/log")
            .env(variable, value);
        says(&refused(&mut command), &words);
    }
}

/// A file of the configuration with this text.
fn config(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory for the file");
    let path = dir.path().join("kms.toml");
    fs::write(&path, text).expect("the file is written");
    let path = path.to_str().expect("a temporary path is text").to_owned();
    (dir, path)
}

#[test]
fn the_file_is_named_with_its_key() {
    for (text, words) in [
        (
            "slack-timout = \"5s\"",
            [
                "slack-timout in ",
                "no such key",
                "did you mean slack-timeout?",
            ],
        ),
        ("xyzzy = 1", ["xyzzy in ", "no such key", "lists the keys"]),
        (
            "pod-cidr = [\"10.0.0.0/99\"]",
            ["pod-cidr in ", "10.0.0.0/99", "write"],
        ),
        (
            "slack-webhook-url = \"x\"",
            ["slack-webhook-url in ", "", "https://"],
        ),
        (
            "slack-icon = \"key\"",
            ["slack-icon in ", ":key:", "https://"],
        ),
        (
            "format = \"json\"",
            ["kms-notifier: format in ", "\"json\"", "give one of"],
        ),
        ("max-line = \"1XiB\"", ["max-line in ", "1XiB", "write"]),
        (
            "post-refused = \"maybe\"",
            ["post-refused in ", "\"maybe\"", "give true or false"],
        ),
        ("log = [", ["--config: ", "is not TOML", "line 1"]),
    ] {
        let (_dir, path) = config(text);
        let line = refused(&mut run(&["--config", &path]));
        says(&line, &words);
        says(&line, &[&path]);
    }
}

#[test]
fn a_secret_and_its_file_together_are_one_too_many() {
    let (_dir, file) = config("https://hooks.slack.example/services/x");
    let mut command = run(&[]);
    command.env(
        "SLACK_WEBHOOK_URL",
        "https://hooks.slack.example/services/x",
    );
    command.env("SLACK_WEBHOOK_URL_FILE", &file);
    let line = refused(&mut command);
    says(
        &line,
        &[
            "SLACK_WEBHOOK_URL",
            "SLACK_WEBHOOK_URL_FILE is given too",
            "give one",
        ],
    );
    assert!(!line.contains("hooks.slack.example"), "{line}");

    let arguments = [
        "--slack-webhook-url",
        "https://x",
        "--slack-webhook-url-file",
        &file,
    ];
    says(
        &refused(&mut run(&arguments)),
        &["--slack-webhook-url-file is given too", "give one"],
    );
}

#[test]
fn a_port_in_use_is_named() {
    let loopback = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let any = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    for (taken, spelling) in [(&loopback, "--metrics-listen"), (&any, "--metrics-listen")] {
        let address = taken.local_addr().unwrap().to_string();
        let line = refused(&mut run(&["--metrics-listen", &address]));
        says(
            &line,
            &[spelling, &address, "is in use", "give another port"],
        );
    }
    // By the port alone, on all addresses.
    let port = any.local_addr().unwrap().port().to_string();
    let line = refused(run(&[]).env("METRICS_PORT", &port));
    says(&line, &["METRICS_PORT", &port, "is in use"]);
}

#[test]
fn an_address_of_another_machine_is_named() {
    let line = refused(&mut run(&["--metrics-listen", "192.0.2.1:9101"]));
    says(
        &line,
        &[
            "--metrics-listen",
            "192.0.2.1:9101 is not an address of this machine",
            "give",
        ],
    );
}

/// The tests may run as root, who can read everything that is a file.
#[test]
fn a_log_that_cannot_be_read_is_named_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name| dir.path().join(name);
    fs::create_dir(path("directory")).unwrap();
    symlink("loop", path("loop")).unwrap();
    fs::write(path("file"), "").unwrap();
    for (log, words) in [
        (path("directory"), ["not a regular file", "name a file"]),
        (path("loop"), ["symbolic links", "let this user read it"]),
        (
            path("file").join("log"),
            ["Not a directory", "let this user read it"],
        ),
        ("/dev/null".into(), ["not a regular file", "name a file"]),
    ] {
        let line = refused(notifier().args(["run", "--log"]).arg(&log));
        says(&line, &words);
        says(&line, &["log ", log.to_str().unwrap()]);
    }
}

/// Such a thing may also happen to a log that is followed: that is said once, and
/// the log is tried again.
#[test]
fn a_log_that_becomes_unreadable_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(dir.path().join("log"));
    let mut command = notifier();
    let sidecar = Sidecar::spawn(
        command
            .args(["run", "--from", "start", "--log"])
            .arg(log.path()),
    );
    log.bytes(Visit::from("10.10.0.1").probe());
    let _ = sidecar.wait_for_lines(1);
    log.rename(dir.path().join("log.1"));
    fs::create_dir(log.path()).unwrap();
    let complaint =
        |line: &str| line.contains("is not a regular file") && line.contains("trying again");
    sidecar.wait_for_log(complaint);
    sidecar.wait_for_status("/readyz", 503);
    fs::remove_dir(log.path()).unwrap();
    log.reopen();
    log.bytes(Visit::from("10.10.0.2").probe());
    let _ = sidecar.wait_for_lines(2);
    sidecar.wait_for_status("/readyz", 200);
    assert_eq!(
        sidecar
            .stderr()
            .iter()
            .filter(|line| complaint(line))
            .count(),
        1
    );
}

#[test]
fn a_missing_file_is_waited_for_and_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = notifier();
    let mut sidecar = Sidecar::spawn(command.args(["run", "--log"]).arg(dir.path().join("log")));
    let waiting = |line: &str| line.contains("no such file; waiting for it");
    sidecar.wait_for_log(waiting);
    sidecar.terminate();
    assert!(sidecar.wait().success());
    assert_eq!(
        sidecar.stderr().iter().filter(|line| waiting(line)).count(),
        1
    );
    assert_eq!(sidecar.stdout(), [""; 0]);
}

#[test]
fn the_port_that_kubernetes_sets_is_ignored_with_a_warning() {
    let mut command = notifier();
    command.args(["check-config", "--log", "/no/such/log"]);
    command.env("METRICS_PORT", "tcp://10.96.0.17:9101");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let warning = String::from_utf8(output.stderr).unwrap();
    assert_eq!(warning.lines().count(), 1, "{warning}");
    says(&warning, &["WARN", "METRICS_PORT is ignored", "Kubernetes"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    let listen = shown
        .lines()
        .find(|line| line.starts_with("metrics-listen"));
    says(listen.unwrap(), &["[::]:9101", "default"]);
}

/// The places a value comes from, and that an empty variable is none of them.
#[test]
fn the_command_line_beats_the_environment_beats_the_file() {
    let (_dir, file) =
        config("pod-cidr = [\"10.1.0.0/16\"]\nslack-timeout = \"1s\"\nmax-line = \"1MiB\"\n");
    let mut command = notifier();
    command.args(["check-config", "--log", "/no/such/log", "--config", &file]);
    command.args(["--pod-cidr", "10.3.0.0/16"]);
    for (name, value) in [
        ("KMS_NOTIFIER_POD_CIDR", "10.2.0.0/16"),
        ("KMS_NOTIFIER_SLACK_TIMEOUT", "2s"),
        ("KMS_NOTIFIER_MAX_LINE", ""),
        ("DEDUP_WINDOW_SECONDS", "60"),
    ] {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let line = |key: &str| {
        shown
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap()
            .to_owned()
    };
    says(&line("pod-cidr "), &["10.3.0.0/16", "flag --pod-cidr"]);
    says(
        &line("slack-timeout "),
        &["2s", "environment KMS_NOTIFIER_SLACK_TIMEOUT"],
    );
    says(&line("max-line "), &["1MiB", &format!("file {file}")]);
    says(
        &line("dedup-window "),
        &["1m", "environment DEDUP_WINDOW_SECONDS"],
    );
}
