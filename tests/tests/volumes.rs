//! Real volumes that are full or read-only, under the state and under the log.

use std::process::Command;

use e2e::{FakeSlack, LogWriter, Post, Sidecar, Visit, Volume, notifier, server_started};

const STATE: &str = "state.redb";
const TROUBLE: &str = "the state cannot be saved";
const OVER: &str = "the state is saved again";
const UP: &str = "kms_notifier_state_up";

/// A log anywhere, a state on the volume, and a Slack.
struct Place<'v> {
    volume: &'v Volume,
    _dir: tempfile::TempDir,
    log: LogWriter,
    slack: FakeSlack,
}

impl<'v> Place<'v> {
    fn new(volume: &'v Volume) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = LogWriter::open(dir.path().join("vlmcsd.log"));
        log.bytes(server_started());
        Self {
            volume,
            _dir: dir,
            log,
            slack: FakeSlack::start([]),
        }
    }

    /// Follows the log, from the beginning if this is the first time.
    fn start(&self) -> Sidecar {
        let mut command = notifier();
        command.args(["run", "--first-run", "start", "--log"]);
        command.arg(self.log.path());
        command.arg("--state").arg(self.volume.inside(STATE));
        command.env("SLACK_WEBHOOK_URL", self.slack.url());
        Sidecar::spawn(&mut self.volume.enter(&command))
    }

    /// Logs an activation and waits until it is printed.
    fn visit(&mut self, sidecar: &Sidecar, host: u8) -> String {
        let ip = format!("10.10.0.{host}");
        self.log.bytes(Visit::from(&ip).activation());
        sidecar.wait_for_line(|line| line.contains(&format!("\"{ip}\"")))
    }

    /// The same, and until it is told and nothing else waits to be.
    fn visit_told(&mut self, sidecar: &Sidecar, host: u8) {
        self.visit(sidecar, host);
        let mut posts = 0;
        while self.told(host) == 0 {
            posts = self.slack.wait_for(posts + 1).len();
        }
        sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 0.0);
    }

    /// Starts once more: who was told of before is known, who comes now is not.
    fn assert_two_were_told(&mut self) {
        let sidecar = self.start();
        self.visit(&sidecar, 1);
        self.visit(&sidecar, 2);
        self.visit_told(&sidecar, 3);
        assert_eq!([1, 2, 3].map(|host| self.told(host)), [1, 1, 1]);
    }

    /// How many messages are about this client alone.
    fn told(&self, host: u8) -> usize {
        let client = format!("10.10.0.{host} (internal_pod)");
        let posts = self.slack.posts();
        let about = posts
            .iter()
            .filter(|post| post.fields().get("Client") == Some(&client));
        about.count()
    }
}

/// How often the log of the sidecar says this.
fn said(sidecar: &Sidecar, what: &str) -> usize {
    let lines = sidecar.stderr();
    lines.iter().filter(|line| line.contains(what)).count()
}

#[test]
fn a_volume_without_room_stops_nothing_and_heals() {
    let Some(volume) = Volume::new(2048) else {
        return;
    };
    let mut place = Place::new(&volume);
    let mut sidecar = place.start();
    place.visit_told(&sidecar, 1);

    volume.fill("others");
    // More than fits where the state is already.
    let address = |n: u32| format!("10.10.{}.{}", 1 + n / 250, 1 + n % 250);
    let crowd: String = (0..2000)
        .map(|n| Visit::from(&address(n)).activation())
        .collect();
    place.log.bytes(crowd);
    sidecar.wait_for_line(|line| line.contains(&format!("\"{}\"", address(1999))));
    sidecar.wait_for_sample(UP, |up| up == 0.0);
    // Five leave alone, and the rest together.
    let mut posts = place.slack.posts();
    let is_digest = |post: &Post| post.json()["text"].to_string().contains("digest");
    while !posts.iter().any(is_digest) {
        posts = place.slack.wait_for(posts.len() + 1);
    }
    sidecar.wait_for_sample("kms_notifier_outbox_messages", |n| n == 0.0);
    place.visit_told(&sidecar, 2);

    volume.remove("others");
    sidecar.wait_for_sample(UP, |up| up == 1.0);
    sidecar.wait_for_log(|line| line.contains(OVER));
    assert_eq!((said(&sidecar, TROUBLE), said(&sidecar, OVER)), (1, 1));
    sidecar.kill();
    sidecar.wait();

    // What was told while there was no room is known.
    place.assert_two_were_told();
}

#[test]
fn a_volume_without_room_at_the_first_start_is_no_damage() {
    let Some(volume) = Volume::new(4096) else {
        return;
    };
    std::fs::write(volume.outside("state.redb.unreadable"), "earlier").expect("it is empty");
    volume.fill("others");
    let mut place = Place::new(&volume);
    let mut sidecar = place.start();
    sidecar.wait_for_log(|line| line.contains(TROUBLE));
    place.visit_told(&sidecar, 1);
    sidecar.wait_for_sample(UP, |up| up == 0.0);
    sidecar.kill();
    sidecar.wait();

    // Also for whoever finds what the first one left.
    let sidecar = place.start();
    sidecar.wait_for_log(|line| line.contains(TROUBLE));
    sidecar.wait_for_sample(UP, |up| up == 0.0);
    volume.remove("others");
    sidecar.wait_for_sample(UP, |up| up == 1.0);
    sidecar.wait_for_sample("kms_notifier_state_set_aside_total", |n| n == 0.0);
    sidecar.terminate();
    let mut sidecar = sidecar;
    assert!(sidecar.wait().success(), "{sidecar:?}");
    let posts = place.slack.posts();
    assert!(
        posts.iter().all(|post| !post.fields().is_empty()),
        "{posts:?}"
    );
    let aside = std::fs::read(volume.outside("state.redb.unreadable"));
    assert_eq!(aside.expect("it is kept"), b"earlier");
}

#[test]
fn a_read_only_volume_stops_nothing_and_heals() {
    let Some(volume) = Volume::new(4096) else {
        return;
    };
    let mut place = Place::new(&volume);
    let mut sidecar = place.start();
    place.visit_told(&sidecar, 1);
    sidecar.terminate();
    assert!(sidecar.wait().success(), "{sidecar:?}");

    volume.remount(true);
    let mut sidecar = place.start();
    sidecar.wait_for_log(|line| line.contains(TROUBLE));
    // What is there is read all the same.
    let line = place.visit(&sidecar, 1);
    assert!(line.contains(r#""dedup":"repeat""#), "{line}");
    place.visit_told(&sidecar, 2);
    sidecar.wait_for_sample(UP, |up| up == 0.0);

    volume.remount(false);
    sidecar.wait_for_sample(UP, |up| up == 1.0);
    sidecar.wait_for_log(|line| line.contains(OVER));
    assert_eq!((said(&sidecar, TROUBLE), said(&sidecar, OVER)), (1, 1));
    sidecar.kill();
    sidecar.wait();

    place.assert_two_were_told();
}

#[test]
fn a_log_on_a_read_only_volume_is_followed_and_not_rotated_which_is_said_once() {
    let Some(volume) = Volume::new(4096) else {
        return;
    };
    let name = "vlmcsd.log";
    let probes: String = (0..1000)
        .map(|n| Visit::from(&format!("10.10.0.{}", n % 250)).probe())
        .collect();
    assert!(probes.len() > 64 << 10);
    LogWriter::open(volume.outside(name)).bytes(server_started() + &probes);
    volume.remount(true);

    let mut command: Command = notifier();
    command.args(["run", "--from", "start", "--rotate-at", "64KiB", "--log"]);
    let mut sidecar = Sidecar::spawn(&mut volume.enter(command.arg(volume.inside(name))));
    let lines = sidecar.wait_for_lines(1001);
    assert_eq!(lines.len(), 1001);
    let line = sidecar.wait_for_log(|line| line.contains("--rotate-at"));
    let advice = "cannot rename /mnt/vlmcsd.log for --rotate-at: Read-only file system";
    assert!(line.contains(advice), "{line}");
    let advice = "its volume is mounted read-only: mount it writable, or leave --rotate-at away";
    assert!(line.contains(advice), "{line}");
    assert_eq!(sidecar.get("/readyz", "*/*").0, 200);
    sidecar.terminate();
    assert!(sidecar.wait().success());
    assert_eq!(said(&sidecar, "--rotate-at"), 1);
}
