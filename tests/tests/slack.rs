//! What a fake Slack is told, whatever it answers.
#![expect(
    clippy::indexing_slicing,
    reason = "what is not there fails the test, as it should"
)]

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use e2e::{
    Behaviour, FakeSlack, LogWriter, Post, Recording, Sidecar, Visit, json_lines, notifier, replay,
    server_started,
};
use serde_json::Value;
use tempfile::TempDir;

/// A log that begins with its server's start, so that whatever is read from it
/// is exact.
fn directory() -> (TempDir, LogWriter) {
    let dir = tempfile::tempdir().expect("a directory for the log");
    let mut log = LogWriter::open(dir.path().join("log"));
    log.bytes(server_started());
    (dir, log)
}

/// A sidecar that follows `log` in `dir` and posts to `slack`.
fn command(dir: &TempDir, slack: &FakeSlack) -> Command {
    let mut command = notifier();
    command
        .args(["run", "--from", "start", "--log"])
        .arg(dir.path().join("log"))
        .env("SLACK_WEBHOOK_URL", slack.url());
    command
}

fn start(slack: &FakeSlack) -> (TempDir, LogWriter, Sidecar) {
    let (dir, log) = directory();
    let sidecar = Sidecar::spawn(&mut command(&dir, slack));
    (dir, log, sidecar)
}

/// Asks for an end and waits for it: nothing is posted afterwards.
fn stop(mut sidecar: Sidecar) {
    sidecar.terminate();
    let status = sidecar.wait();
    assert!(status.success(), "{status}: {sidecar:?}");
}

fn accepted(posts: &[Post]) -> Vec<&Post> {
    let accepted = |post: &&Post| post.answer == Behaviour::Accept;
    posts.iter().filter(accepted).collect()
}

/// What a message about one client says of `label`.
fn said(post: &Post, label: &str) -> String {
    post.fields().get(label).cloned().unwrap_or_default()
}

fn notifications(outcome: &str) -> String {
    format!("kms_notifier_notifications_total{{sink=\"slack\",outcome=\"{outcome}\"}}")
}

#[test]
fn a_log_that_falls_silent_is_told_once_and_so_is_its_end() {
    let slack = FakeSlack::start([]);
    let (dir, mut log) = directory();
    let sidecar = Sidecar::spawn(command(&dir, &slack).args(["--silence-after", "1s"]));
    let silent = "kms_notifier_log_silent{log=\"log\"}";
    sidecar.wait_for_sample(silent, |silent| silent > 0.5);
    let _ = slack.wait_for(1);
    log.bytes(Visit::from("10.10.0.7").probe());
    sidecar.wait_for_sample(silent, |silent| silent < 0.5);
    let posts = slack.wait_for(2);
    let texts: Vec<_> = posts
        .iter()
        .map(|post| post.json()["text"].clone())
        .collect();
    assert_eq!(
        texts[..2],
        ["KMS log log is silent", "KMS log log is heard again"]
    );
    stop(sidecar);
}

#[test]
fn an_activation_is_told_with_all_that_matters() {
    let slack = FakeSlack::start([]);
    let (_dir, mut log, sidecar) = start(&slack);
    log.bytes(Visit::from("10.10.107.224").activation());
    let posts = slack.wait_for(1);
    let (method, _, content_type) = &posts[0].head;
    assert_eq!(
        (method.as_str(), content_type.as_str()),
        ("POST", "application/json")
    );
    let message = posts[0].json();
    assert_eq!(
        message["text"],
        "10.10.107.224 (internal_pod) activated Windows 10 Professional"
    );
    for (label, value) in [
        ("Client", "10.10.107.224 (internal_pod)"),
        ("Workstation", "PC"),
        ("Product", "Windows 10 Professional"),
        ("Outcome", "Activated"),
        // Nothing is said of it where it is exact.
        ("Attribution", ""),
        ("Time", "2026-03-14T09:26:53+00:00"),
    ] {
        assert_eq!(said(&posts[0], label), value, "{label}");
    }
    stop(sidecar);
}

#[test]
fn the_status_before_is_told_where_the_log_has_it() {
    let slack = FakeSlack::start([]);
    let recording = Recording::named("svn1113-fork-sequential");
    let mut command = notifier();
    command
        .args(["run", "--from", "start", "--log"])
        .arg(&recording.path)
        .env("SLACK_WEBHOOK_URL", slack.url());
    let sidecar = Sidecar::spawn(&mut command);
    assert_eq!(said(&slack.wait_for(1)[0], "Status before"), "OOB grace");
    stop(sidecar);
}

#[test]
fn channel_name_and_picture_are_as_configured() {
    let slack = FakeSlack::start([]);
    let (dir, mut log) = directory();
    let mut command = command(&dir, &slack);
    command.args(["--slack-username", "KMS", "--slack-icon", ":key:"]);
    let sidecar = Sidecar::spawn(command.env("SLACK_CHANNEL", "#licences"));
    log.bytes(Visit::from("10.10.1.1").activation());
    let message = slack.wait_for(1)[0].json();
    assert_eq!(message["channel"], "#licences");
    assert_eq!(message["username"], "KMS");
    assert_eq!(message["icon_emoji"], ":key:");
    stop(sidecar);
}

#[test]
fn a_client_and_product_are_told_once_within_the_window() {
    let slack = FakeSlack::start([]);
    let (_dir, mut log, sidecar) = start(&slack);
    let visit = Visit::from("10.10.1.1");
    let other_product = Visit {
        product: "Windows 11 Enterprise",
        ..visit
    };
    let other_client = Visit::from("10.10.1.2");
    log.bytes(visit.activation());
    // Told and accepted, so that what follows is a repeat and nothing else.
    sidecar.wait_for_sample(&notifications("accepted"), |n| n == 1.0);
    for visit in [visit, other_product, visit, other_client, visit] {
        log.bytes(visit.activation());
    }
    let dedup: Vec<_> = sidecar
        .wait_for_lines(7)
        .iter()
        .skip(1) // the server's start
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["dedup"].clone())
        .collect();
    assert_eq!(
        dedup,
        ["post", "repeat", "post", "repeat", "post", "repeat"]
    );
    sidecar.wait_for_sample(&notifications("accepted"), |n| n == 3.0);
    let skipped = "kms_activations_dedup_skipped_total{product=\"Windows 10 Professional\"}";
    sidecar.wait_for_sample(skipped, |n| n == 3.0);
    stop(sidecar);
    let told: Vec<_> = slack
        .posts()
        .iter()
        .map(|post| post.json()["text"].clone())
        .collect();
    assert_eq!(
        told,
        [
            "10.10.1.1 (internal_pod) activated Windows 10 Professional",
            "10.10.1.1 (internal_pod) activated Windows 11 Enterprise",
            "10.10.1.2 (internal_pod) activated Windows 10 Professional",
        ]
    );
}

#[test]
fn an_activation_that_meets_a_message_under_way_joins_it() {
    let slack = FakeSlack::start([Behaviour::RateLimit("1".into())]);
    let (_dir, mut log, sidecar) = start(&slack);
    log.bytes(Visit::from("10.10.1.1").activation());
    let first = slack.wait_for(1);
    log.bytes(Visit::from("10.10.1.1").activation());
    let line = sidecar.wait_for_lines(3).remove(2);
    assert!(line.contains(r#""dedup":"pending""#), "{line}");
    let posts = slack.wait_for(2);
    assert_eq!(
        (said(&first[0], "Seen"), said(&posts[1], "Seen")),
        (String::new(), "2 times".into())
    );
    stop(sidecar);
    assert_eq!(slack.posts().len(), 2);
}

#[test]
fn refusals_are_told_only_where_configured_and_probes_never() {
    let refusal = Visit::from("10.10.1.1").refusal() + &Visit::from("203.0.113.42").probe();
    for post_refused in [false, true] {
        let slack = FakeSlack::start([]);
        let (dir, mut log) = directory();
        let mut command = command(&dir, &slack);
        command.env("KMS_NOTIFIER_POST_REFUSED", post_refused.to_string());
        let sidecar = Sidecar::spawn(&mut command);
        log.bytes(&refusal);
        log.bytes(Visit::from("10.10.1.2").activation());
        let posts = slack.wait_for(1 + usize::from(post_refused));
        stop(sidecar);
        assert_eq!(slack.posts().len(), posts.len());
        let outcomes: Vec<_> = posts.iter().map(|post| said(post, "Outcome")).collect();
        let refused = "Refused: Refusing unknown product (0xC004F042)";
        let expected: &[&str] = if post_refused {
            &[refused, "Activated"]
        } else {
            &["Activated"]
        };
        assert_eq!(outcomes, expected);
    }
}

/// The same message again after an answer that is no acceptance.
fn tried_again_after(behaviour: Behaviour) {
    let slack = FakeSlack::start([behaviour.clone()]);
    let (dir, mut log) = directory();
    let mut command = command(&dir, &slack);
    let sidecar = Sidecar::spawn(command.args(["--slack-timeout", "200ms"]));
    log.bytes(Visit::from("10.10.1.1").activation());
    let posts = slack.wait_for(2);
    assert_eq!(
        (&posts[0].answer, &posts[1].answer),
        (&behaviour, &Behaviour::Accept)
    );
    assert_eq!(posts[0].body, posts[1].body);
    sidecar.wait_for_sample(&notifications("accepted"), |n| n == 1.0);
    sidecar.wait_for_sample(&notifications("retried"), |n| n == 1.0);
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 0.0);
    sidecar.wait_for_sample("kms_notifier_notification_seconds_count", |n| n == 2.0);
    stop(sidecar);
    assert_eq!(slack.posts().len(), 2, "nothing is posted twice");
}

#[test]
fn a_rate_limit_is_waited_out() {
    tried_again_after(Behaviour::RateLimit("1".into()));
}

#[test]
fn a_server_error_is_tried_again() {
    tried_again_after(Behaviour::Status(500));
}

#[test]
fn a_stall_is_given_up_and_tried_again() {
    tried_again_after(Behaviour::Stall);
}

#[test]
fn a_cut_connection_is_tried_again() {
    tried_again_after(Behaviour::Cut);
}

#[test]
fn a_refused_message_is_final_and_frees_its_key() {
    let slack = FakeSlack::start([Behaviour::Status(404)]);
    let (_dir, mut log, sidecar) = start(&slack);
    log.bytes(Visit::from("10.10.1.1").activation());
    sidecar.wait_for_sample(&notifications("failed"), |n| n == 1.0);
    // Nobody was told, so the next one is news.
    log.bytes(Visit::from("10.10.1.1").activation());
    let posts = slack.wait_for(2);
    assert_eq!(posts[1].answer, Behaviour::Accept);
    stop(sidecar);
    assert_eq!(slack.posts().len(), 2);
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = FakeSlack::start([]);
    let slack = FakeSlack::start([Behaviour::Redirect(elsewhere.url())]);
    let (_dir, mut log, sidecar) = start(&slack);
    log.bytes(Visit::from("10.10.1.1").activation());
    sidecar.wait_for_sample(&notifications("failed"), |n| n == 1.0);
    stop(sidecar);
    assert_eq!((slack.posts().len(), elsewhere.posts().len()), (1, 0));
}

/// Hundreds of clients while Slack does what `slack` does: events and metrics
/// must not notice.
fn reading_goes_on(sidecar: &Sidecar, log: &mut LogWriter) {
    for n in 0..=255 {
        let visit = Visit {
            port: 40_000 + n,
            ..Visit::from(&format!("10.10.2.{n}"))
        };
        log.bytes(visit.activation());
    }
    assert_eq!(sidecar.wait_for_lines(257).len(), 257);
    let told = "kms_activations_total{product=\"Windows 10 Professional\",status=\"unknown\"}";
    sidecar.wait_for_sample(told, |n| n == 256.0);
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 256.0);
}

#[test]
fn a_slack_that_never_answers_stops_nothing() {
    let slack = FakeSlack::start([Behaviour::Stall]);
    let (dir, mut log) = directory();
    let mut command = command(&dir, &slack);
    let mut sidecar = Sidecar::spawn(command.args(["--slack-timeout", "5m"]));
    reading_goes_on(&sidecar, &mut log);
    assert_eq!(slack.wait_for(1).len(), 1);
    // Nor does it stop the end, which comes with the deadline for what waits.
    sidecar.terminate();
    assert!(sidecar.wait().success());
    sidecar.wait_for_log(|line| line.contains("unsent=256"));
}

#[test]
fn a_slack_that_is_not_there_stops_nothing() {
    // Bound and never listening: connecting is refused, and nobody else gets the port.
    let nobody = socket_that_refuses();
    let (dir, mut log) = directory();
    let mut command = notifier();
    command
        .args(["run", "--from", "start", "--log"])
        .arg(dir.path().join("log"))
        .env(
            "SLACK_WEBHOOK_URL",
            format!("http://127.0.0.1:{nobody}/services/x"),
        );
    let sidecar = Sidecar::spawn(&mut command);
    reading_goes_on(&sidecar, &mut log);
    sidecar.wait_for_sample(&notifications("retried"), |n| n >= 1.0);
}

/// A port that nobody listens on (any more).
fn socket_that_refuses() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener
        .local_addr()
        .expect("a bound listener has an address")
        .port()
}

/// A whole recording against a Slack that fails in every way: at the end, every
/// client and product whose event says `post` was told in one accepted message.
#[test]
fn nothing_is_lost_and_nothing_told_twice() {
    let slack = FakeSlack::start([
        Behaviour::Accept,
        Behaviour::Cut,
        Behaviour::Accept,
        Behaviour::RateLimit("1".into()),
        Behaviour::Stall,
    ]);
    let recording = Recording::named("svn1113-fork-sequential");
    let mut command = notifier();
    command
        .args([
            "run",
            "--slack-timeout",
            "200ms",
            "--from",
            "start",
            "--log",
        ])
        .arg(&recording.path)
        .env("SLACK_WEBHOOK_URL", slack.url());
    let sidecar = Sidecar::spawn(&mut command);
    let there_are = replay(&[], &[&recording.path]).len();
    let lines = sidecar.wait_for_lines(there_are);
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 0.0);
    stop(sidecar);
    let events = json_lines((lines.join("\n") + "\n").as_bytes());

    let mut expected: Vec<String> = events
        .iter()
        .filter(|event| event["dedup"] == "post")
        .map(|event| {
            let text = |field: &str| event[field].as_str().unwrap().to_owned();
            format!("{} ({}): {}", text("ip"), text("source"), text("product"))
        })
        .collect();
    expected.sort();
    let posts = slack.posts();
    let mut told = Vec::new();
    for post in accepted(&posts) {
        if post.fields().is_empty() {
            let rows = post
                .lines()
                .into_iter()
                .filter(|line| !line.starts_with("Since "));
            told.extend(rows.map(|row| row.split(" × ").next().unwrap_or_default().to_owned()));
        } else {
            told.push(format!(
                "{}: {}",
                said(post, "Client"),
                said(post, "Product")
            ));
        }
    }
    told.sort();
    assert_eq!(told, expected, "{posts:#?}");
    assert!(expected.len() > 20);
}

#[test]
fn without_a_webhook_the_log_has_what_would_be_posted() {
    let (_dir, mut log) = directory();
    let mut command = notifier();
    let sidecar = Sidecar::spawn(
        command
            .args(["run", "--from", "start", "--log"])
            .arg(log.path()),
    );
    log.bytes(Visit::from("10.0.20.103").activation());
    let line = sidecar.wait_for_log(|line| line.contains("would post"));
    for words in [
        "10.0.20.103 (cluster_node)",
        "Windows 10 Professional",
        "PC",
    ] {
        assert!(line.contains(words), "{line}");
    }
    sidecar.wait_for_sample(
        "kms_notifier_notifications_total{sink=\"log\",outcome=\"accepted\"}",
        |n| n == 1.0,
    );
    // Logging counts as accepted.
    log.bytes(Visit::from("10.0.20.103").activation());
    let line = sidecar.wait_for_lines(3).remove(2);
    assert!(line.contains(r#""dedup":"repeat""#), "{line}");
    stop(sidecar);
}

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
        let (dir, mut log) = directory();
        let mut command = command(&dir, &slack);
        command.args(["--log-level", "trace", "--log-format", format]);
        let mut sidecar = Sidecar::spawn(&mut command);
        for n in 1..=3 {
            log.bytes(Visit::from(&format!("10.10.1.{n}")).activation());
        }
        assert!(slack.wait_for(5).len() >= 5);
        sidecar.wait_for_sample(&notifications("accepted"), |n| n >= 1.0);
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
