//! The sidecar as a process: the server it starts, signals, its end, and outputs
//! that nobody reads any more.
#![expect(
    clippy::indexing_slicing,
    reason = "what is not there fails the test, as it should"
)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use e2e::{
    FakeSlack, LogWriter, Recording, Sidecar, Visit, json_lines, notifier, poll, server_started,
    server_stopped,
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// `run -- sh -c SCRIPT`, its log in `$LOG`.
fn with_child(script: &str, log: &str) -> (TempDir, Command) {
    let dir = tempfile::tempdir().expect("a directory for the log");
    let path = dir.path().join("log");
    fs::write(&path, log).expect("the log is written");
    let mut command = notifier();
    command
        .args(["run", "--", "/bin/sh", "-c", script])
        .env("LOG", path);
    (dir, command)
}

fn kinds(sidecar: &Sidecar) -> Vec<String> {
    let kind = |line: &String| {
        let event: Value = serde_json::from_str(line).expect("events are JSON");
        event["kind"]
            .as_str()
            .expect("an event has a kind")
            .to_owned()
    };
    sidecar.stdout().iter().map(kind).collect()
}

/// The README's first command: its recording gets older every day.
#[test]
fn without_a_webhook_a_message_is_shown_whatever_its_age() {
    let recording = Recording::named("svn1113-threads-held");
    let mut command = notifier();
    command
        .env_remove("KMS_NOTIFIER_POST_MAX_AGE")
        .args(["run", "--from", "start", "--log"])
        .arg(&recording.path);
    let mut sidecar = Sidecar::spawn(&mut command);
    let shown = sidecar.wait_for_log(|line| line.contains("would post"));
    let expected = "would post: KMS activation; Client: 192.168.1.231 (external); \
        Workstation: SRV-3653F8DD; Product: Office Visio Pro 2019; Status before: OOB grace; \
        Outcome: Activated; Time: 2026-11-20T21:19:08+00:00";
    assert!(shown.contains(expected), "{shown}");
    sidecar.wait_for_log(|line| line.contains("would post: KMS digest: "));
    sidecar.terminate();
    assert!(sidecar.wait().success(), "{sidecar:?}");
}

#[test]
fn a_server_is_started_and_its_end_is_the_end() {
    let log = server_started() + &Visit::from("10.10.0.1").activation();
    for (end, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        let script = format!("cat \"$LOG\"; echo one of its own >&2; {end}");
        let (_dir, mut command) = with_child(&script, &log);
        let mut sidecar = Sidecar::spawn(&mut command);
        assert_eq!(sidecar.wait().code(), Some(code), "{end}");
        assert_eq!(kinds(&sidecar), ["server_started", "activation"], "{end}");
        assert!(sidecar.stdout()[1].contains(r#""log":"child""#));
        // Its standard error is passed through as it is.
        assert!(sidecar.stderr().iter().any(|line| line == "one of its own"));
    }
}

#[test]
fn what_the_server_did_not_finish_is_aborted_with_it() {
    let visit = Visit::from("10.10.0.1");
    let log = server_started() + &visit.opened() + &visit.asked();
    let (_dir, mut command) = with_child("cat \"$LOG\"; exit 3", &log);
    let mut sidecar = Sidecar::spawn(&mut command);
    assert_eq!(sidecar.wait().code(), Some(3));
    assert_eq!(kinds(&sidecar), ["server_started", "aborted"]);
}

/// A server that ends as one should: with its last words, when asked to.
const SERVER: &str = r#"
    sleep 600 >/dev/null &
    trap 'head -n 1 "$LOG"' HUP
    for signal in TERM INT; do
        trap "tail -n 1 \"\$LOG\"; echo $signal >&2; kill $!; exit 5" $signal
    done
    head -n 1 "$LOG"
    while :; do wait $!; done
"#;

#[test]
fn signals_go_to_the_server_and_its_last_words_count() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT")] {
        let (_dir, mut command) = with_child(SERVER, &(server_started() + &server_stopped()));
        let mut sidecar = Sidecar::spawn(&mut command);
        let _ = sidecar.wait_for_lines(1);
        // The server re-executes itself, the sidecar reads its configuration again.
        sidecar.signal(Signal::HUP);
        let _ = sidecar.wait_for_lines(2);
        sidecar.wait_for_log(|line| line.contains("the configuration was read again"));
        sidecar.signal(signal);
        assert_eq!(sidecar.wait().code(), Some(5), "{sidecar:?}");
        assert_eq!(
            kinds(&sidecar),
            ["server_started", "server_started", "server_stopped"]
        );
        assert!(
            sidecar.stderr().iter().any(|line| line == name),
            "{sidecar:?}"
        );
    }
}

/// What the log cannot decide yet is decided at the end, printed and posted.
#[test]
fn an_end_decides_and_tells_what_waits() {
    for signal in [Signal::TERM, Signal::INT] {
        let slack = FakeSlack::start([]);
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path().join("log"));
        let (asker, other) = (Visit::from("10.10.0.1"), Visit::from("10.10.0.2"));
        let text = server_started() + &asker.opened() + &other.opened();
        let text = text + &asker.asked() + &asker.answered();
        log.bytes(&text);
        let mut command = notifier();
        command
            .args(["run", "--from", "start", "--log"])
            .arg(log.path());
        let mut sidecar = Sidecar::spawn(command.env("SLACK_WEBHOOK_URL", slack.url()));
        #[expect(clippy::cast_precision_loss, reason = "a few bytes")]
        let all = |bytes| bytes == text.len() as f64;
        sidecar.wait_for_sample("kms_notifier_bytes_total{log=\"log\"}", all);
        sidecar.signal(signal);
        assert!(sidecar.wait().success(), "{sidecar:?}");
        assert_eq!(kinds(&sidecar), ["server_started", "activation"]);
        let event: Value = serde_json::from_str(&sidecar.stdout()[1]).unwrap();
        assert_eq!(event["attribution"], "ambiguous", "{event}");
        assert_eq!(event["candidates"].as_array().unwrap().len(), 2, "{event}");
        assert_eq!(slack.posts().len(), 1);
    }
}

#[test]
fn a_reader_who_has_enough_ends_it_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(dir.path().join("log"));
    // A pipe of the shell's own: one made here would be held open for a moment
    // by every process that another test starts.
    let script =
        r#"set -o pipefail; "$@" | { read -r line; echo "$line"; exec <&-; echo gone >&2; }"#;
    let notifier = notifier();
    let mut command = Command::new("bash");
    command
        .args(["-c", script, "-"])
        .arg(notifier.get_program())
        .args(["run", "--from", "start", "--log"])
        .arg(log.path())
        .env("METRICS_PORT", "0");
    let mut sidecar = Sidecar::spawn(&mut command);
    log.bytes(Visit::from("10.10.0.1").probe());
    assert!(sidecar.wait_for_lines(1)[0].contains("probe"));
    sidecar.wait_for_log(|line| line == "gone");
    // The reader is gone, which the next event finds out.
    log.bytes(Visit::from("10.10.0.2").probe());
    assert_eq!(sidecar.wait().code(), Some(0), "{sidecar:?}");
    let complaint = |line: &String| line.contains("ERROR") || line.contains("panic");
    assert!(!sidecar.stderr().iter().any(complaint), "{sidecar:?}");
}

#[test]
fn a_replay_whose_reader_has_enough_ends_quietly() {
    let recording = Recording::named("svn1113-fork-production");
    for format in ["json", "table"] {
        let mut child = notifier()
            .args(["replay", "--format", format])
            .arg(&recording.path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The pipe holds less than there is, so the rest meets its end.
        let mut line = String::new();
        BufReader::with_capacity(1, child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
}

#[test]
fn a_log_of_its_own_that_nobody_reads_stops_nothing() {
    let recording = Recording::named("svn1113-fork-sequential");
    let deaf = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    for format in ["human", "json"] {
        let mut command = notifier();
        command.args([
            "run",
            "--log",
            "-",
            "--log-level",
            "trace",
            "--log-format",
            format,
        ]);
        let input = File::open(&recording.path).unwrap();
        let output = command.stdin(input).stderr(deaf()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(json_lines(&output.stdout).len() > 60);
    }
    // Nor does it change how an error ends.
    let output = notifier()
        .args(["run", "--nope"])
        .stderr(deaf())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_output_that_is_not_read_does_not_stop_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(dir.path().join("log"));
    let mut command = notifier();
    command
        .args(["run", "--from", "start", "--log"])
        .arg(log.path());
    let (unread, writer) = std::io::pipe().unwrap();
    // The pipe's own buffer is small; some thousand events are more than enough.
    for port in 1..5000 {
        log.bytes(probe(port));
    }
    let sidecar = Sidecar::spawn_into(&mut command, writer);
    let probes = "kms_connection_probes_total{source=\"internal_pod\"}";
    sidecar.wait_for_sample(probes, |n| n > 0.0);
    for _ in 0..3 {
        assert_eq!(sidecar.get("/healthz", "*/*").0, 200);
    }
    drop(unread);
}

#[test]
fn sighup_reads_classes_and_webhook_again() {
    let (before, after) = (FakeSlack::start([]), FakeSlack::start([]));
    let dir = tempfile::tempdir().unwrap();
    let path = |name| dir.path().join(name);
    let webhook = |slack: &FakeSlack| fs::write(path("webhook"), slack.url()).unwrap();
    let classes = |classes: &str| fs::write(path("kms.toml"), classes).unwrap();
    webhook(&before);
    classes("classes = []\n");
    let mut log = LogWriter::open(path("log"));
    let mut command = notifier();
    command
        .args(["run", "--from", "start", "--log"])
        .arg(log.path());
    command.arg("--config").arg(path("kms.toml"));
    command.arg("--slack-webhook-url-file").arg(path("webhook"));
    let mut sidecar = Sidecar::spawn(&mut command);
    let source = |line: String| {
        let event: Value = serde_json::from_str(&line).unwrap();
        event["source"].as_str().unwrap().to_owned()
    };
    log.bytes(server_started() + &Visit::from("192.0.2.1").activation());
    assert_eq!(source(sidecar.wait_for_lines(2).remove(1)), "external");
    assert_eq!(
        before.wait_for(1)[0].fields()["Product"],
        "Windows 10 Professional"
    );
    let accepted = "kms_notifier_notifications_total{sink=\"slack\",outcome=\"accepted\"}";
    sidecar.wait_for_sample(accepted, |n| n == 1.0);

    // What is not valid changes nothing.
    classes("classes = [\"lab=192.0.2.0/99\"]\n");
    sidecar.signal(Signal::HUP);
    let line = sidecar.wait_for_log(|line| line.contains("the configuration stays as it was"));
    assert!(line.contains("192.0.2.0/99"), "{line}");

    classes("classes = [\"lab=192.0.2.0/24\"]\n");
    webhook(&after);
    sidecar.signal(Signal::HUP);
    sidecar.wait_for_log(|line| line.contains("the configuration was read again"));
    sidecar.wait_for_sample("kms_connection_probes_total{source=\"lab\"}", |n| n == 0.0);
    log.bytes(Visit::from("192.0.2.2").activation());
    assert_eq!(source(sidecar.wait_for_lines(3).remove(2)), "lab");
    assert_eq!(after.wait_for(1).len(), 1);
    // The window went on: who was told is not told again.
    log.bytes(Visit::from("192.0.2.2").probe() + &Visit::from("192.0.2.1").activation());
    let line = sidecar.wait_for_lines(5).remove(4);
    assert!(line.contains(r#""dedup":"repeat""#), "{line}");
    sidecar.terminate();
    assert!(sidecar.wait().success());
    assert_eq!((before.posts().len(), after.posts().len()), (1, 1));
}

#[test]
fn sighup_reads_when_silence_is_told_again() {
    const SILENT: &str = "kms_notifier_log_silent{log=\"log\"}";
    let slack = FakeSlack::start([]);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("kms.toml");
    let silence_after = |value: &str| fs::write(&config, format!("silence-after = \"{value}\"\n"));
    silence_after("0").unwrap();
    let mut log = LogWriter::open(dir.path().join("log"));
    log.bytes(server_started());
    let mut command = notifier();
    command.args(["run", "--from", "start", "--log"]);
    command.arg(log.path()).arg("--config").arg(&config);
    command.env("SLACK_WEBHOOK_URL", slack.url());
    let mut sidecar = Sidecar::spawn(&mut command);
    let _ = sidecar.wait_for_lines(1);
    sidecar.wait_for_sample(SILENT, |silent| silent == 0.0);

    silence_after("1s").unwrap();
    sidecar.signal(Signal::HUP);
    let title = |n: usize| slack.wait_for(n).remove(n - 1).json()["text"].to_string();
    assert_eq!(title(1), "\"KMS log log is silent\"");
    sidecar.wait_for_sample(SILENT, |silent| silent == 1.0);
    log.bytes(Visit::from("192.0.2.1").probe());
    assert_eq!(title(2), "\"KMS log log is heard again\"");
    sidecar.terminate();
    assert!(sidecar.wait().success());
}

#[test]
fn a_server_that_closes_its_output_and_goes_on_is_waited_for() {
    let script = "cat \"$LOG\"; exec >&-; read -r go < \"$LOG.go\"; exit 4";
    let (dir, mut command) = with_child(script, &server_started());
    let go = dir.path().join("log.go");
    assert!(Command::new("mkfifo").arg(&go).status().unwrap().success());
    let mut sidecar = Sidecar::spawn(&mut command);
    let _ = sidecar.wait_for_lines(1);
    sidecar.wait_for_sample("kms_slack_notifier_up", |up| up == 1.0);
    fs::write(go, "on\n").unwrap();
    assert_eq!(sidecar.wait().code(), Some(4), "{sidecar:?}");
}

#[test]
fn a_server_that_does_not_end_is_killed_at_the_deadline() {
    let script = "trap '' TERM; cat \"$LOG\"; while :; do sleep 1 >/dev/null; done";
    let (_dir, mut command) = with_child(script, &server_started());
    let mut sidecar = Sidecar::spawn(&mut command);
    let _ = sidecar.wait_for_lines(1);
    sidecar.terminate();
    assert_eq!(sidecar.wait().code(), Some(128 + 9), "{sidecar:?}");
}

/// A server that floods its log and says on standard error which signals came.
const LOUD_SERVER: &str = r#"
    trap 'echo hangup >&2' HUP
    trap 'echo term >&2; kill $!; exit 5' TERM
    cat "$LOG" &
    while :; do wait $!; done
"#;

/// Whoever reads the events hangs: nothing else is held up by it, least of all the end.
#[test]
fn signals_count_while_the_output_is_not_read() {
    let log = (1..50_000).map(probe).collect::<String>();
    let (_dir, mut command) = with_child(LOUD_SERVER, &log);
    let (unread, writer) = std::io::pipe().unwrap();
    let mut sidecar = Sidecar::spawn_into(&mut command, writer);
    // Counted before they are printed, and more of them than the pipe holds.
    let probes = "kms_connection_probes_total{source=\"internal_pod\"}";
    sidecar.wait_for_sample(probes, |n| n > 0.0);
    // More than the hub's inbox has room for.
    for times in 1..=8 {
        sidecar.signal(Signal::HUP);
        let told = || {
            let stderr = sidecar.stderr();
            let hangups = stderr.iter().filter(|line| *line == "hangup").count();
            (hangups >= times).then_some(())
        };
        poll(told).unwrap_or_else(|| panic!("SIGHUP {times} did not arrive; {sidecar:?}"));
    }
    sidecar.terminate();
    sidecar.wait_for_log(|line| line == "term");
    // What cannot be printed is given up at the deadline.
    sidecar.wait_for_log(|line| line.contains("stopped at the deadline"));
    assert_eq!(sidecar.wait().code(), Some(5), "{sidecar:?}");
    drop(unread);
}

/// A container runtime that hangs reads neither output.
#[test]
fn a_log_of_its_own_that_is_not_read_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("stderr");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let mut log = LogWriter::open(dir.path().join("log"));
    let notifier = notifier();
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$@\" 2>\"$FIFO\"", "-"])
        .arg(notifier.get_program())
        .args(["run", "--from", "start", "--log"])
        .arg(log.path())
        .env("FIFO", &fifo)
        .env("METRICS_PORT", "0");
    let mut sidecar = Sidecar::spawn(&mut command);
    let unread = File::open(&fifo).unwrap();
    let address = BufReader::new(&unread)
        .lines()
        .find_map(|line| {
            let line = line.unwrap();
            let (_, address) = line.split_once("serving metrics address=")?;
            Some(address.replace("[::]", "127.0.0.1"))
        })
        .expect("the log says where metrics are");

    let full = File::options().write(true).open(&fifo).unwrap();
    let mut filler = Command::new("yes").stdout(full).spawn().unwrap();
    let is_full = || rustix::io::ioctl_fionread(&unread).is_ok_and(|bytes| bytes > 60 * 1024);
    poll(|| is_full().then_some(())).expect("a pipe is full some time");

    // Each of these has something to say in the log: the main thread and the hub's.
    sidecar.signal(Signal::HUP);
    log.bytes(server_started() + &Visit::from("10.10.0.1").activation());
    let _ = sidecar.wait_for_lines(2);
    log.bytes(Visit::from("10.10.0.2").activation());
    let _ = sidecar.wait_for_lines(3);
    let health = ureq::get(format!("http://{address}/healthz")).call();
    assert_eq!(health.unwrap().status(), 200);
    sidecar.terminate();
    assert!(sidecar.wait().success(), "{sidecar:?}");
    filler.kill().unwrap();
    filler.wait().unwrap();
}

/// One of the probes that fill a pipe.
fn probe(port: u16) -> String {
    let visit = Visit::from("10.10.0.1");
    Visit { port, ..visit }.probe()
}

/// The ports of the probes among these lines.
fn probed(lines: impl Iterator<Item = String>) -> Vec<u16> {
    let events = lines.map(|line| serde_json::from_str::<Value>(&line).expect("a whole line"));
    events
        .filter(|event| event["kind"] == "probe")
        .filter_map(|event| u16::try_from(event["port"].as_u64()?).ok())
        .collect()
}

#[test]
fn an_output_that_is_not_read_holds_back_the_logs_and_nothing_else() {
    const LAG: &str = "kms_notifier_lag_bytes{log=\"log\"}";
    const SILENT: &str = "kms_notifier_log_silent{log=\"log\"}";
    let slack = FakeSlack::start([]);
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(dir.path().join("log"));
    log.bytes(Visit::from("192.0.2.1").activation());
    log.bytes((1..=50_000).map(probe).collect::<String>());
    let mut command = notifier();
    command
        .args(["run", "--from", "start", "--silence-after", "2s", "--log"])
        .arg(log.path());
    command.env("SLACK_WEBHOOK_URL", slack.url());
    let (unread, writer) = std::io::pipe().unwrap();
    let mut sidecar = Sidecar::spawn_into(&mut command, writer);
    // Only the end of the test is to hold the pipe open.
    drop(command);

    assert_eq!(
        slack.wait_for(1)[0].fields()["Client"],
        "192.0.2.1 (external)"
    );
    let accepted = "kms_notifier_notifications_total{sink=\"slack\",outcome=\"accepted\"}";
    sidecar.wait_for_sample(accepted, |n| n == 1.0);
    sidecar.signal(Signal::HUP);
    sidecar.wait_for_log(|line| line.contains("the configuration was read again"));
    let why = sidecar.wait_for_status("/readyz", 503);
    let expected = "not ready: log log there is more to read and nothing is read\n";
    assert_eq!(why, expected);
    let lag = sidecar.wait_for_sample(LAG, |lag| lag > 0.0);
    // It is the file that is looked at, whether or not it is read.
    let more = (50_001..=60_000).map(probe).collect::<String>();
    log.bytes(&more);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred thousand bytes")]
    let grown = lag + more.len() as f64;
    sidecar.wait_for_sample(LAG, |lag| lag == grown);
    // That it was not read meanwhile is not the log's silence.
    sidecar.wait_for_sample(SILENT, |silent| silent == 0.0);

    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(unread).lines();
        probed(lines.map(|line| line.unwrap()))
    });
    sidecar.wait_for_sample(LAG, |lag| lag == 0.0);
    sidecar.wait_for_status("/readyz", 200);
    sidecar.terminate();
    assert!(sidecar.wait().success(), "{sidecar:?}");
    let ports = reader.join().unwrap();
    assert!(
        ports.iter().copied().eq(1..=60_000),
        "{} events",
        ports.len()
    );
    assert_eq!(slack.posts().len(), 1, "{:?}", slack.posts());
}

/// Where a log stands is stored when the events before it are printed, not before.
#[test]
fn what_was_not_printed_is_printed_after_a_crash() {
    // Far more than a pipe holds.
    const LINES: u16 = 5000;
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(dir.path().join("log"));
    log.bytes((1..=LINES).map(probe).collect::<String>());
    let run = || {
        let mut command = notifier();
        command.args(["run", "--first-run", "start", "--state"]);
        command.arg(dir.path().join("state"));
        command.arg("--log").arg(log.path());
        command
    };
    let (unread, writer) = std::io::pipe().unwrap();
    let mut sidecar = Sidecar::spawn_into(&mut run(), writer);
    let probes = "kms_connection_probes_total{source=\"internal_pod\"}";
    sidecar.wait_for_sample(probes, |n| n > 1000.0);
    sidecar.kill();
    sidecar.wait();
    let mut text = String::new();
    { unread }.read_to_string(&mut text).unwrap();
    // The last line may be half of one.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let before = probed(whole.lines().map(str::to_owned));
    assert!(before.len() < 1000, "{}", before.len());

    let mut sidecar = Sidecar::spawn(&mut run());
    sidecar.wait_for_line(|line| line.contains("\"port\":5000,"));
    sidecar.terminate();
    assert!(sidecar.wait().success());
    let mut all = probed(sidecar.stdout().into_iter());
    all.extend(before);
    all.sort_unstable();
    all.dedup();
    assert!(all.iter().copied().eq(1..=LINES), "{} events", all.len());
}
