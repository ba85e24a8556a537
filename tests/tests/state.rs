//! What outlives the sidecar, and what it does when that cannot be written.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Output};

use e2e::{Behaviour, FakeSlack, LogWriter, Sidecar, Visit, notifier, server_started};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;

/// A log, a state and a Slack; sidecars come and go.
struct Place {
    dir: TempDir,
    log: LogWriter,
    slack: FakeSlack,
}

impl Place {
    fn new(script: impl IntoIterator<Item = Behaviour>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = LogWriter::open(dir.path().join("vlmcsd.log"));
        log.bytes(server_started());
        Self {
            dir,
            log,
            slack: FakeSlack::start(script),
        }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state.redb")
    }

    fn command(&self) -> Command {
        let mut command = notifier();
        command
            .arg("run")
            .arg("--log")
            .arg(self.log.path())
            .arg("--state")
            .arg(self.state())
            .env("SLACK_WEBHOOK_URL", self.slack.url());
        command
    }

    /// Follows the log, from the beginning if this is the first time.
    fn start(&self) -> Sidecar {
        let mut command = self.command();
        if !self.state().exists() {
            command.args(["--from", "start"]);
        }
        let sidecar = Sidecar::spawn(&mut command);
        let _ = sidecar.metrics_port();
        sidecar
    }

    fn dead_letters(&self, args: &[&str]) -> String {
        let output = self.try_dead_letters(args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("a list is text")
    }

    fn try_dead_letters(&self, args: &[&str]) -> Output {
        let mut command = notifier();
        command
            .arg("dead-letters")
            .args(args)
            .arg("--state")
            .arg(self.state());
        command.output().expect("the notifier starts")
    }
}

fn visit(host: u8) -> String {
    Visit::from(&format!("10.10.0.{host}")).activation()
}

fn stop(mut sidecar: Sidecar) {
    sidecar.terminate();
    assert!(sidecar.wait().success(), "{sidecar:?}");
}

/// Whom the messages are about.
fn clients(slack: &FakeSlack) -> Vec<String> {
    let posts = slack.posts();
    let accepted = posts.iter().filter(|post| post.answer == Behaviour::Accept);
    accepted
        .map(|post| post.fields().get("Client").cloned().unwrap_or_default())
        .collect()
}

const SAVED: &str = r#"kms_notifier_state_saves_total{outcome="saved"}"#;

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut place = Place::new([]);
    let sidecar = place.start();
    place.log.bytes(visit(1));
    let _ = place.slack.wait_for(1);
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 0.0);
    stop(sidecar);
    // Nobody reads; one is told already, the other is not.
    place.log.bytes(visit(1));
    place.log.bytes(visit(2));
    let sidecar = place.start();
    let _ = place.slack.wait_for(2);
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 0.0);
    stop(sidecar);
    assert_eq!(
        clients(&place.slack),
        ["10.10.0.1 (internal_pod)", "10.10.0.2 (internal_pod)"]
    );
}

#[test]
fn who_first_came_within_a_line_does_not_read_everything_the_next_time() {
    let mut place = Place::new([]);
    place.log.bytes(visit(1));
    place.log.bytes("2026-11-20 21:00:00: IPv4 conn");
    // The first run begins at the end, and its position is not one to keep.
    let sidecar = Sidecar::spawn(&mut place.command());
    sidecar.wait_for_status("/readyz", 200);
    stop(sidecar);

    let sidecar = Sidecar::spawn(&mut place.command());
    sidecar.wait_for_status("/readyz", 200);
    place.log.bytes("ection accepted: 10.10.0.9:1024.\n");
    place.log.bytes(visit(2));
    let _ = place.slack.wait_for(1);
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 0.0);
    stop(sidecar);
    assert_eq!(clients(&place.slack), ["10.10.0.2 (internal_pod)"]);
}

#[test]
fn a_message_that_slack_did_not_take_is_told_after_the_restart() {
    let mut place = Place::new([Behaviour::Status(500), Behaviour::Cut]);
    let mut sidecar = place.start();
    place.log.bytes(visit(1));
    let _ = place.slack.wait_for(1);
    sidecar.kill();
    sidecar.wait();
    let sidecar = place.start();
    let _ = place.slack.wait_for(3);
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 0.0);
    stop(sidecar);
    assert_eq!(clients(&place.slack), ["10.10.0.1 (internal_pod)"]);
}

#[test]
fn dead_letters_are_listed_dropped_and_told_after_all() {
    let gone = || Behaviour::Status(404);
    let mut place = Place::new([gone(), gone()]);
    let sidecar = place.start();
    place.log.bytes(visit(1));
    place.log.bytes(visit(2));
    sidecar.wait_for_sample("kms_notifier_dead_letters", |n| n == 2.0);
    let mode = fs::metadata(place.dir.path().join("state.redb.sock"))
        .expect("the socket is beside the state")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    // Through the sidecar that runs …
    let list = place.dead_letters(&["list"]);
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 2, "{list}");
    for (line, host) in lines.iter().zip(1..) {
        let about = format!("HTTP 404  activation  10.10.0.{host}  PC  Windows 10 Professional");
        assert!(line.ends_with(&about), "{line}");
    }
    let first = lines[0].split(' ').next().expect("a number");
    assert_eq!(place.dead_letters(&["drop", first]), "1 messages\n");
    sidecar.wait_for_sample("kms_notifier_dead_letters", |n| n == 1.0);
    stop(sidecar);

    // … and where none does, in the state itself.
    assert_eq!(place.dead_letters(&["list"]).lines().count(), 1);
    assert_eq!(place.dead_letters(&["retry", "--all"]), "1 messages\n");
    assert_eq!(place.dead_letters(&["list"]), "");
    let sidecar = place.start();
    let _ = place.slack.wait_for(3);
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 0.0);
    stop(sidecar);
    assert_eq!(clients(&place.slack), ["10.10.0.2 (internal_pod)"]);
}

#[test]
fn dead_letters_are_reached_where_no_socket_can_be() {
    let mut place = Place::new([Behaviour::Status(404)]);
    let deep = place.dir.path().join("d".repeat(120));
    fs::create_dir(&deep).expect("the directory takes another");
    let run = |place: &Place, args: &[&str]| {
        let mut command = notifier();
        command
            .args(args)
            .arg("--state")
            .arg(deep.join("state.redb"));
        command.env("SLACK_WEBHOOK_URL", place.slack.url());
        command
    };
    let log = place.log.path().to_owned();
    let log = log.to_str().expect("a temporary name is text");
    let sidecar = Sidecar::spawn(&mut run(&place, &["run", "--from", "start", "--log", log]));
    place.log.bytes(visit(1));
    sidecar.wait_for_sample("kms_notifier_dead_letters", |n| n == 1.0);
    let list = |place: &Place| {
        let output = run(place, &["dead-letters", "list"]).output();
        output.expect("the notifier starts")
    };
    let error = String::from_utf8(list(&place).stderr).expect("it is text");
    assert!(error.contains("in use"), "while one runs: {error}");
    stop(sidecar);
    let output = list(&place);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout.split(|byte| *byte == b'\n').count(), 2);
}

#[test]
fn a_second_sidecar_and_a_reset_are_refused_while_one_runs() {
    let mut place = Place::new([]);
    let sidecar = place.start();
    for reset in [&[][..], &["--state-reset"]] {
        let output = place.command().args(reset).output().expect("it starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(
            last.contains("--state") && last.contains("in use"),
            "{error}"
        );
    }
    place.log.bytes(visit(1));
    let _ = place.slack.wait_for(1);
    stop(sidecar);

    // Afterwards it forgets who was told.
    let sidecar = Sidecar::spawn(place.command().args(["--state-reset", "--from", "start"]));
    let _ = place.slack.wait_for(2);
    stop(sidecar);
}

#[test]
fn an_unreadable_state_is_set_aside_and_said_in_slack() {
    let place = Place::new([]);
    fs::write(place.state(), "no database").expect("the directory takes files");
    let sidecar = place.start();
    let posts = place.slack.wait_for(1);
    assert_eq!(
        posts[0].json()["text"],
        "KMS notifier: its state was unreadable"
    );
    let text = posts[0].lines().concat();
    assert!(
        text.ends_with("is lost. The notifier's log says more."),
        "{text}"
    );
    sidecar.wait_for_log(|line| line.contains("is unreadable") && line.contains(".unreadable"));
    sidecar.wait_for_sample("kms_notifier_state_set_aside_total", |n| n == 1.0);
    stop(sidecar);
    let aside = fs::read(place.dir.path().join("state.redb.unreadable"));
    assert_eq!(aside.expect("it is kept"), b"no database");
}

/// The first lines of messages, oldest first.
fn titles(slack: &FakeSlack) -> Vec<String> {
    let posts = slack.posts();
    let title = |post: &e2e::Post| {
        post.json()
            .get("text")
            .and_then(|text| text.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    posts.iter().map(title).collect()
}

#[test]
fn a_silence_that_was_told_is_not_told_again_after_a_restart_but_its_end_is() {
    const SILENT: &str = r#"kms_notifier_log_silent{log="vlmcsd.log"}"#;
    let mut place = Place::new([]);
    let start = |place: &Place, silence: &str| {
        let mut command = place.command();
        Sidecar::spawn(command.args(["--from", "resume", "--silence-after", silence]))
    };
    let sidecar = start(&place, "1s");
    let _ = place.slack.wait_for(1);
    sidecar.wait_for_sample(SILENT, |silent| silent == 1.0);
    stop(sidecar);
    // Told already, and so it would be told at once if it was to be again.
    let sidecar = start(&place, "1s");
    sidecar.wait_for_sample(SILENT, |silent| silent == 1.0);
    place.log.bytes(visit(1));
    let _ = place.slack.wait_for(3);
    sidecar.wait_for_sample(SILENT, |silent| silent == 0.0);
    stop(sidecar);
    let titles = titles(&place.slack);
    assert_eq!(titles[0], "KMS log vlmcsd.log is silent");
    let clear = titles
        .iter()
        .filter(|title| *title == "KMS log vlmcsd.log is heard again");
    assert_eq!(clear.count(), 1, "{titles:?}");
    assert!(
        titles
            .iter()
            .skip(1)
            .take(2)
            .all(|title| !title.contains("silent")),
        "{titles:?}"
    );
}

#[test]
fn another_dialect_after_a_start_is_told_once() {
    let mut place = Place::new([]);
    let sidecar = place.start();
    for host in 1..=3 {
        place.log.bytes(visit(host));
    }
    place.log.bytes(server_started());
    for number in 0..200 {
        place.log.line(format!(
            "2026-11-20 21:20:00: Verbindung {number} angenommen"
        ));
    }
    let drift = |slack: &FakeSlack| {
        let titles = titles(slack);
        let told = |title: &&String| *title == "KMS log vlmcsd.log is no longer understood";
        titles.iter().filter(told).count()
    };
    let _ = place.slack.wait_for(4);
    stop(sidecar);
    assert_eq!(drift(&place.slack), 1);
    let sidecar = place.start();
    for number in 0..200 {
        place
            .log
            .line(format!("2026-11-20 21:20:01: Verbindung {number} beendet"));
    }
    place.log.bytes(visit(99));
    sidecar.wait_for_line(|line| line.contains("10.10.0.99"));
    stop(sidecar);
    assert_eq!(drift(&place.slack), 1);
}

#[test]
fn an_alert_that_slack_refuses_for_good_is_in_the_log() {
    let place = Place::new([Behaviour::Stall, Behaviour::Status(404)]);
    let mut command = place.command();
    command.args(["--silence-after", "1s", "--slack-timeout", "5s"]);
    let sidecar = Sidecar::spawn(&mut command);
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 1.0);
    let failed = r#"kms_notifier_notifications_total{sink="slack",outcome="failed"}"#;
    sidecar.wait_for_sample(failed, |n| n == 1.0);
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 0.0);
    let line = sidecar.wait_for_log(|line| line.contains("refused for good (HTTP 404"));
    for part in [
        "KMS log vlmcsd.log is silent: Not one line",
        "may go unseen.",
    ] {
        assert!(line.contains(part), "{line}");
    }
    stop(sidecar);
}

/// How often the log of the sidecar says this.
fn said(sidecar: &Sidecar, what: &str) -> usize {
    let lines = sidecar.stderr();
    lines.iter().filter(|line| line.contains(what)).count()
}

const TROUBLE: &str = "the state cannot be saved";
const OVER: &str = "the state is saved again";

/// Limits how large a file the sidecar may write, as a full disk does.
fn limit(sidecar: &Sidecar, bytes: Option<u64>) {
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    let pid = Pid::from_raw(sidecar.id().cast_signed());
    prlimit(pid, Resource::Fsize, limit).expect("one's own child can be limited");
}

#[test]
fn a_full_disk_stops_nothing_and_heals() {
    let mut place = Place::new([]);
    let mut sidecar = place.start();
    sidecar.wait_for_sample(SAVED, |n| n > 0.0);
    limit(&sidecar, Some(0));
    for host in 1..=3 {
        place.log.bytes(visit(host));
        let _ = place.slack.wait_for(host.into());
        sidecar.wait_for_line(|line| line.contains(&format!("10.10.0.{host}\"")));
        sidecar.wait_for_sample("kms_notifier_state_up", |up| up == 0.0);
    }
    limit(&sidecar, None);
    sidecar.wait_for_sample("kms_notifier_state_up", |up| up == 1.0);
    assert_eq!((said(&sidecar, TROUBLE), said(&sidecar, OVER)), (1, 1));
    sidecar.kill();
    sidecar.wait();

    // What was decided meanwhile is known.
    place.log.bytes(visit(1));
    place.log.bytes(visit(4));
    let sidecar = place.start();
    let _ = place.slack.wait_for(4);
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 0.0);
    stop(sidecar);
    assert_eq!(clients(&place.slack).len(), 4);
}

#[test]
fn a_directory_that_cannot_be_written_stops_nothing_and_heals() {
    let mut place = Place::new([]);
    let real = tempfile::tempdir().expect("a directory");
    let link = real.path().join("link");
    // Nobody makes files there, not even root.
    symlink("/sys/kernel", &link).expect("a directory takes links");
    let state = link.join("state.redb");
    let mut sidecar = Sidecar::spawn(
        notifier()
            .args(["run", "--from", "start", "--log"])
            .arg(place.log.path())
            .arg("--state")
            .arg(&state)
            .env("SLACK_WEBHOOK_URL", place.slack.url()),
    );
    sidecar.wait_for_log(|line| line.contains(TROUBLE));
    place.log.bytes(visit(1));
    let _ = place.slack.wait_for(1);
    sidecar.wait_for_line(|line| line.contains("10.10.0.1\""));
    sidecar.wait_for_sample("kms_notifier_state_up", |up| up == 0.0);
    fs::remove_file(&link).expect("a link can be removed");
    symlink(real.path(), &link).expect("a directory takes links");
    sidecar.wait_for_sample("kms_notifier_state_up", |up| up == 1.0);
    assert_eq!((said(&sidecar, TROUBLE), said(&sidecar, OVER)), (1, 1));
    sidecar.terminate();
    assert!(sidecar.wait().success());
    assert!(state.exists());
}
