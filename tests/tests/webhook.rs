//! The webhook is a secret: it may come from several places and is on the wire,
//! and nowhere else.

use std::path::Path;

use e2e::{
    Behaviour, FakeSlack, LogWriter, Recording, Sidecar, Visit, json_lines, notifier,
    server_started,
};

/// Parts of the webhook's URL that must not be seen, the least secret last.
fn assert_unspoken(where_: &str, text: &str) {
    for secret in [FakeSlack::SECRET, "T0000", "/services"] {
        assert!(!text.contains(secret), "{where_} has {secret}: {text}");
    }
}

#[test]
fn the_webhook_is_never_printed_while_running() {
    for format in ["human", "json"] {
        let slack = FakeSlack::start([
            Behaviour::Cut,
            Behaviour::Status(500),
            Behaviour::Redirect("http://127.0.0.1:9/".into()),
            Behaviour::Status(403),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path().join("log"));
        log.bytes(server_started());
        let mut command = notifier();
        command
            .args(["run", "--from", "start", "--log"])
            .arg(log.path());
        command.args(["--log-level", "trace", "--log-format", format]);
        command.env("SLACK_WEBHOOK_URL", slack.url());
        let mut sidecar = Sidecar::spawn(&mut command);
        for n in 1..=3 {
            log.bytes(Visit::from(&format!("10.10.1.{n}")).activation());
        }
        assert!(slack.wait_for(5).len() >= 5);
        let accepted = "kms_notifier_notifications_total{sink=\"slack\",outcome=\"accepted\"}";
        sidecar.wait_for_sample(accepted, |n| n >= 1.0);
        let metrics = sidecar.metrics();
        sidecar.terminate();
        assert!(sidecar.wait().success());
        assert_unspoken("metrics", &metrics);
        assert_unspoken("stdout", &sidecar.stdout().join("\n"));
        assert_unspoken("stderr", &sidecar.stderr().join("\n"));
        sidecar.wait_for_log(|line| line.contains("HTTP 403"));
    }
}

#[test]
fn the_webhook_is_never_printed_by_a_command_that_checks_or_fails() {
    let slack = FakeSlack::start([Behaviour::Status(403), Behaviour::Cut]);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain_http = slack.url().replace("127.0.0.1", "hooks.slack.example");
    let (url, log) = (
        slack.url(),
        dir.path().join("log").to_str().unwrap().to_owned(),
    );
    let url_file = write("webhook", &format!("{url}\n"));
    let bad_file = write("bad", &plain_http);
    let toml = write("kms.toml", &format!("slack-webhook-url = \"{url}\"\n"));
    let bad_toml = write(
        "bad.toml",
        &format!("slack-webhook-url = \"{plain_http}\"\n"),
    );
    let broken_toml = write("broken.toml", &format!("slack-webhook-url = \"{url}\n"));
    let misspelt_toml = write("misspelt.toml", &format!("slack-webhok-url = \"{url}\"\n"));
    for (good, arguments) in [
        (
            true,
            vec!["check-config", "--log", &log, "--slack-webhook-url", &url],
        ),
        (
            true,
            vec![
                "check-config",
                "--log",
                &log,
                "--slack-webhook-url-file",
                &url_file,
            ],
        ),
        (true, vec!["check-config", "--log", &log, "--config", &toml]),
        (
            false,
            vec![
                "check-config",
                "--log",
                &log,
                "--slack-webhook-url",
                &plain_http,
            ],
        ),
        (
            false,
            vec!["run", "--log", &log, "--slack-webhook-url-file", &bad_file],
        ),
        (false, vec!["run", "--log", &log, "--config", &bad_toml]),
        (false, vec!["run", "--log", &log, "--config", &broken_toml]),
        (
            false,
            vec!["run", "--log", &log, "--config", &misspelt_toml],
        ),
        (
            false,
            vec![
                "run",
                "--log",
                &log,
                "--slack-icon",
                &url,
                "--slack-timeout",
                &url,
            ],
        ),
        (false, vec!["run", "--log", &log, &url]),
        (
            false,
            vec![
                "test-notify",
                "--log-level",
                "trace",
                "--slack-webhook-url",
                &url,
            ],
        ),
        (
            false,
            vec![
                "test-notify",
                "--log-level",
                "trace",
                "--slack-webhook-url-file",
                &url_file,
            ],
        ),
    ] {
        let output = notifier().args(&arguments).output().unwrap();
        let all = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.success(), good, "{all}");
        assert_unspoken(arguments[0], &all);
    }
    assert_eq!(slack.posts().len(), 2);
}

#[test]
fn what_is_checked_is_what_is_used() {
    let url = FakeSlack::start([]).url();
    let with_user = url.replace("http://", "https://someone@");
    let mapped = url.replace("127.0.0.1", "[::ffff:127.0.0.1]");
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let run = |command: &str, webhook: &str| {
        let mut notifier = notifier();
        notifier.args([command, "--log"]).arg(&log);
        let output = notifier.env("SLACK_WEBHOOK_URL", webhook).output();
        let output = output.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_unspoken(command, &error);
        (output.status.code(), error)
    };
    assert_eq!(run("check-config", &mapped).0, Some(0));
    let checked = run("check-config", &with_user);
    assert_eq!(checked, run("run", &with_user));
    assert_eq!(checked.0, Some(2));
    let advice = "SLACK_WEBHOOK_URL: holds a user name or password; give the https://";
    assert!(checked.1.contains(advice), "{checked:?}");
}

#[test]
fn a_test_message_is_sent_and_its_end_told() {
    let slack = FakeSlack::start([Behaviour::Accept, Behaviour::Status(404)]);
    let run = || {
        let mut command = notifier();
        command
            .arg("test-notify")
            .env("SLACK_WEBHOOK_URL", slack.url())
            .output()
            .unwrap()
    };
    let output = run();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"the message was accepted\n");
    assert_eq!(slack.posts()[0].json()["text"], "KMS notifier test");

    let output = run();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(1), &b""[..])
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("the message was not accepted: HTTP 404"),
        "{errors}"
    );
}

#[test]
fn a_webhook_may_be_in_a_file() {
    let slack = FakeSlack::start([]);
    let dir = tempfile::tempdir().unwrap();
    let file: &Path = &dir.path().join("webhook");
    std::fs::write(file, slack.url() + "\n").unwrap();
    let output = notifier()
        .args(["run", "--log", "-", "--slack-webhook-url-file"])
        .arg(file)
        .stdin(std::fs::File::open(&Recording::named("svn1113-scan").path).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success());
    let _ = json_lines(&output.stdout);
    assert!(
        !slack.posts().is_empty(),
        "what waits is posted before the end"
    );
}
