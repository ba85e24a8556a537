//! Several sidecars that agree in a real store on who tells.
#![expect(
    clippy::indexing_slicing,
    reason = "what is not there fails the test, as it should"
)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use e2e::{
    Behaviour, FakeSlack, LogWriter, Post, RedisServer, Sidecar, Visit, json_lines, notifier,
    server_started,
};
use tempfile::TempDir;

/// A log with a Slack of its own; its sidecars come and go.
struct Place {
    dir: TempDir,
    log: LogWriter,
    slack: FakeSlack,
}

impl Place {
    fn new(script: impl IntoIterator<Item = Behaviour>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        // Other names and other bytes, as on another host: the same client is all
        // that they have in common.
        let name = dir.path().file_name().expect("it has a name").to_owned();
        let mut log = LogWriter::open(dir.path().join(name));
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

    fn command(&self, store: &str) -> Command {
        let mut command = notifier();
        command
            .arg("run")
            .arg("--log")
            .arg(self.log.path())
            .args(["--dedup-store", store])
            .env("SLACK_WEBHOOK_URL", self.slack.url());
        command
    }

    /// Follows the log from its beginning.
    fn start(&self, redis: &RedisServer) -> Sidecar {
        let mut command = self.command(&redis.url());
        command
            .args(["--from", "start", "--dedup-store-password-file"])
            .arg(redis.password_file());
        Sidecar::spawn(&mut command)
    }

    /// The same with a state, from where that stands.
    fn resume(&self, redis: &RedisServer) -> Sidecar {
        let mut command = self.command(&redis.url());
        command
            .args(["--first-run", "start", "--slack-timeout", "5m", "--state"])
            .arg(self.state())
            .arg("--dedup-store-password-file")
            .arg(redis.password_file());
        Sidecar::spawn(&mut command)
    }

    fn visit(&mut self, host: u8) {
        let ip = format!("10.10.0.{host}");
        self.log.bytes(Visit::from(&ip).activation());
    }

    fn posts(&self) -> usize {
        self.slack.posts().len()
    }
}

const UP: &str = "kms_notifier_dedup_store_up";
const OUTBOX: &str = "kms_notifier_outbox_messages";
const ACCEPTED: &str = r#"kms_notifier_notifications_total{sink="slack",outcome="accepted"}"#;

fn claims(outcome: &str) -> String {
    format!("kms_notifier_dedup_claims_total{{outcome=\"{outcome}\"}}")
}

fn stop(mut sidecar: Sidecar) {
    sidecar.terminate();
    assert!(sidecar.wait().success(), "{sidecar:?}");
    assert!(!format!("{sidecar:?}").contains(RedisServer::PASSWORD));
}

/// What each activation's event says of its dedup.
fn dedup(sidecar: &Sidecar, activations: usize) -> Vec<String> {
    // The first line is the server's start.
    let lines = sidecar.wait_for_lines(1 + activations).join("\n") + "\n";
    let events = json_lines(lines.as_bytes());
    let dedup = events[1..].iter().map(|event| event["dedup"].as_str());
    dedup.map(|text| text.unwrap_or("-").to_owned()).collect()
}

/// How often each client was told, alone or in a digest.
fn told<'a>(slacks: impl IntoIterator<Item = &'a FakeSlack>) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    let posts: Vec<Post> = slacks.into_iter().flat_map(FakeSlack::posts).collect();
    for post in posts.iter().filter(|post| post.answer == Behaviour::Accept) {
        let mut rows = post.lines();
        rows.extend(post.fields().get("Client").cloned());
        for row in rows.iter().filter(|row| !row.starts_with("Since ")) {
            let client = row.split(' ').next().unwrap_or_default();
            *told.entry(client.to_owned()).or_default() += 1;
        }
    }
    told
}

#[test]
fn a_client_of_two_logs_is_told_once() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let (mut a, mut b) = (Place::new([]), Place::new([]));
    let (at_a, at_b) = (a.start(&redis), b.start(&redis));
    a.visit(1);
    at_a.wait_for_sample(ACCEPTED, |n| n == 1.0);
    b.visit(1);
    at_b.wait_for_sample(&claims("repeat"), |n| n == 1.0);
    at_b.wait_for_sample(OUTBOX, |n| n == 0.0);
    let skipped = "kms_activations_dedup_skipped_total{product=\"Windows 10 Professional\"}";
    at_b.wait_for_sample(skipped, |n| n == 1.0);
    // From now on it knows.
    b.visit(1);
    assert_eq!(dedup(&at_b, 2), ["pending", "repeat"]);
    at_b.wait_for_sample(skipped, |n| n == 2.0);
    assert_eq!((a.posts(), b.posts()), (1, 0));

    // Another client is another matter.
    b.visit(2);
    at_b.wait_for_sample(ACCEPTED, |n| n == 1.0);
    a.visit(2);
    at_a.wait_for_sample(&claims("repeat"), |n| n == 1.0);
    for sidecar in [&at_a, &at_b] {
        assert_eq!(sidecar.wait_for_sample(UP, |up| up > 0.0), 1.0);
        assert_eq!(sidecar.wait_for_sample(&claims("granted"), |_| true), 1.0);
        assert_eq!(sidecar.wait_for_sample(&claims("alone"), |_| true), 0.0);
    }
    stop(at_a);
    stop(at_b);
    assert_eq!((a.posts(), b.posts()), (1, 1));
}

#[test]
fn a_relayed_request_that_another_told_is_skipped_under_its_own_label() {
    const RELAYED: &str = "\
        2026-11-20 21:20:00: IPv4 connection accepted: 203.0.113.9:4000. [c=1]\n\
        2026-11-20 21:20:00: Relayed request: v6.0, protected, outcome answered [c=1]\n\
        2026-11-20 21:20:00: IPv4 connection closed: 203.0.113.9:4000. [c=1]\n";
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let (mut a, mut b) = (Place::new([]), Place::new([]));
    let (at_a, at_b) = (a.start(&redis), b.start(&redis));
    a.log.bytes(RELAYED);
    at_a.wait_for_sample(ACCEPTED, |n| n == 1.0);
    b.log.bytes(RELAYED);
    at_b.wait_for_sample(&claims("repeat"), |n| n == 1.0);
    let skipped = "kms_activations_dedup_skipped_total{product=\"protected\"}";
    at_b.wait_for_sample(skipped, |n| n == 1.0);
    stop(at_a);
    stop(at_b);
}

#[test]
fn a_crowd_that_both_see_is_told_once() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let (mut a, mut b) = (Place::new([]), Place::new([Behaviour::Status(500)]));
    let (at_a, at_b) = (a.start(&redis), b.start(&redis));
    for host in 1..=40 {
        a.visit(host);
        b.visit(41 - host);
    }
    for sidecar in [&at_a, &at_b] {
        let granted = || sidecar.wait_for_sample(&claims("granted"), |_| true);
        sidecar.wait_for_sample(&claims("repeat"), |repeats| repeats + granted() >= 40.0);
        sidecar.wait_for_sample(OUTBOX, |n| n == 0.0);
    }
    stop(at_a);
    stop(at_b);
    let told = told([&a.slack, &b.slack]);
    assert_eq!(told.len(), 40);
    assert!(told.values().all(|times| *times == 1), "{told:?}");
}

#[test]
fn what_was_told_is_known_although_the_sidecar_ends_at_once() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let (mut a, mut b) = (Place::new([]), Place::new([]));
    let at_a = a.start(&redis);
    a.visit(1);
    let _ = a.slack.wait_for(1);
    stop(at_a);
    b.visit(1);
    let at_b = b.start(&redis);
    at_b.wait_for_sample(&claims("repeat"), |n| n == 1.0);
    stop(at_b);
    assert_eq!(b.posts(), 0);
}

/// How often the sidecar's log says this.
fn said(sidecar: &Sidecar, what: &str) -> usize {
    let lines = sidecar.stderr();
    lines.iter().filter(|line| line.contains(what)).count()
}

const LOST: &str = "the dedup store does not answer";
const BACK: &str = "the dedup store answers again";

#[test]
fn a_store_that_goes_and_comes_back_loses_nothing() {
    let Some(mut redis) = RedisServer::start() else {
        return;
    };
    let (mut a, mut b) = (Place::new([]), Place::new([]));
    let (at_a, at_b) = (a.start(&redis), b.start(&redis));
    for sidecar in [&at_a, &at_b] {
        sidecar.wait_for_sample(UP, |up| up == 1.0);
    }
    redis.stop();
    // Each decides for itself: posting twice is better than not at all.
    a.visit(1);
    b.visit(1);
    a.visit(2);
    at_a.wait_for_sample(ACCEPTED, |n| n == 2.0);
    at_b.wait_for_sample(ACCEPTED, |n| n == 1.0);
    for sidecar in [&at_a, &at_b] {
        sidecar.wait_for_sample(UP, |up| up == 0.0);
        sidecar.wait_for_sample(&claims("alone"), |n| n >= 1.0);
        sidecar.wait_for_sample("kms_notifier_dedup_store_failures_total", |n| n >= 1.0);
    }
    // The local window still holds.
    a.visit(1);
    assert_eq!(dedup(&at_a, 3)[2], "repeat");

    redis.start_again();
    for sidecar in [&at_a, &at_b] {
        sidecar.wait_for_sample(UP, |up| up == 1.0);
        sidecar.wait_for_log(|line| line.contains(BACK));
        assert_eq!((said(sidecar, LOST), said(sidecar, BACK)), (1, 1));
    }
    // What was told meanwhile is agreed on now, as is what comes.
    b.visit(2);
    at_b.wait_for_sample(&claims("repeat"), |n| n == 1.0);
    b.visit(3);
    at_b.wait_for_sample(ACCEPTED, |n| n == 2.0);
    a.visit(3);
    at_a.wait_for_sample(&claims("repeat"), |n| n == 1.0);
    stop(at_a);
    stop(at_b);
    let told = told([&a.slack, &b.slack]);
    let times: Vec<usize> = (1..=3).map(|n| told[&format!("10.10.0.{n}")]).collect();
    assert_eq!(times, [2, 1, 1]);
}

#[test]
fn a_killed_sidecar_goes_on_with_its_claim_and_the_other_waits() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let (mut a, mut b) = (Place::new([Behaviour::Stall]), Place::new([]));
    let mut at_a = a.resume(&redis);
    a.visit(1);
    let _ = a.slack.wait_for(1);
    at_a.kill();
    at_a.wait();

    let at_b = b.start(&redis);
    b.visit(1);
    b.visit(2);
    // The store has answered for both by now, and one waits.
    at_b.wait_for_sample(ACCEPTED, |n| n == 1.0);
    assert_eq!(at_b.wait_for_sample(OUTBOX, |n| n <= 1.0), 1.0);

    let at_a = a.resume(&redis);
    at_a.wait_for_sample(ACCEPTED, |n| n == 1.0);
    at_b.wait_for_sample(&claims("repeat"), |n| n == 1.0);
    at_b.wait_for_sample(OUTBOX, |n| n == 0.0);
    stop(at_a);
    stop(at_b);
    let told = told([&a.slack, &b.slack]);
    let expected = [("10.10.0.1".to_owned(), 1), ("10.10.0.2".to_owned(), 1)];
    assert_eq!(told, BTreeMap::from(expected));
    assert_eq!(b.posts(), 1);
}

#[test]
fn what_was_told_while_the_store_was_away_is_said_after_a_restart() {
    let Some(mut redis) = RedisServer::start() else {
        return;
    };
    let (mut a, mut b) = (Place::new([]), Place::new([]));
    let mut at_a = a.resume(&redis);
    at_a.wait_for_sample(UP, |up| up == 1.0);
    redis.stop();
    a.visit(1);
    at_a.wait_for_sample(ACCEPTED, |n| n == 1.0);
    let saves = r#"kms_notifier_state_saves_total{outcome="saved"}"#;
    at_a.wait_for_sample(saves, |n| n >= 2.0);
    at_a.kill();
    at_a.wait();
    redis.start_again();
    let at_a = a.resume(&redis);
    at_a.wait_for_sample(UP, |up| up == 1.0);
    b.visit(1);
    let at_b = b.start(&redis);
    at_b.wait_for_sample(&claims("repeat"), |n| n == 1.0);
    stop(at_a);
    stop(at_b);
    assert_eq!((a.posts(), b.posts()), (1, 0));
}

#[test]
fn a_wrong_password_is_a_store_that_is_away() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let mut place = Place::new([]);
    let wrong = place.dir.path().join("wrong");
    std::fs::write(&wrong, "S3CRET\n").expect("the directory takes files");
    let mut command = place.command(&redis.url());
    command.args(["--from", "start", "--dedup-store-password-file"]);
    let mut sidecar = Sidecar::spawn(command.arg(&wrong));
    place.visit(1);
    let _ = place.slack.wait_for(1);
    sidecar.wait_for_sample(UP, |up| up == 0.0);
    sidecar.wait_for_log(|line| line.contains(LOST) && line.contains("assword"));
    sidecar.terminate();
    assert!(sidecar.wait().success());
    assert!(!format!("{sidecar:?}").contains("S3CRET"));
}

#[test]
fn a_store_that_takes_connections_and_says_nothing_stops_nothing() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = silent.local_addr().expect("it has an address");
    let mut place = Place::new([]);
    let mut command = place.command(&format!("redis://:S3CRET@{address}"));
    command.args(["--from", "start", "--dedup-store-timeout", "100ms"]);
    let mut sidecar = Sidecar::spawn(&mut command);
    for host in 1..=100 {
        place.visit(host);
    }
    sidecar.wait_for_sample(UP, |up| up == 0.0);
    sidecar.wait_for_sample(&claims("alone"), |n| n == 100.0);
    sidecar.wait_for_sample(OUTBOX, |n| n == 0.0);
    sidecar.wait_for_log(|line| line.contains(LOST));
    let told = told([&place.slack]);
    assert!(told.len() > 40, "alone and in digests of 40 rows: {told:?}");
    sidecar.terminate();
    assert!(sidecar.wait().success());
    assert!(!format!("{sidecar:?}").contains("S3CRET"));
}

#[test]
fn a_stop_waits_neither_for_a_store_that_is_away_nor_loses_a_message_to_it() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = silent.local_addr().expect("it has an address");
    let mut place = Place::new([]);
    let mut command = place.command(&format!("redis://{address}"));
    command.args(["--from", "start", "--dedup-store-timeout", "4s"]);
    let sidecar = Sidecar::spawn(&mut command);
    place.visit(1);
    let _ = sidecar.wait_for_lines(2);
    stop(sidecar);
    assert_eq!(place.posts(), 1);
}
