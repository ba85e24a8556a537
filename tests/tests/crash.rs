//! The sidecar, killed at any moment: while the log is written and rotated, and
//! while Slack fails. No event is lost, and none is told twice but for what was
//! under way at a kill.
//!
//! A run makes some 200 kills. `KMS_CRASH_KILLS=5000 cargo test -p e2e --test crash`
//! makes so many, `KMS_CRASH_SEED` chooses others.
#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails loudly where its input is not as it expects, and says what it did"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{Behaviour, FakeSlack, LogWriter, Post, Recording, Sidecar, notifier, replay};
use fastrand::Rng;
use serde_json::Value;

/// One write in so many is followed by half of a rotation: no process lives long
/// enough to see a rotated file fall silent.
const ROTATE: u8 = 6;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// The server and the tool that rotates its log, in one.
struct Server {
    writer: LogWriter,
    /// What is to be written, in lines.
    lines: Vec<Vec<u8>>,
    written: usize,
    /// What the log was rotated to, oldest first.
    rotated: Vec<PathBuf>,
    /// The log has another name, and its new file is not there yet.
    renamed: bool,
    /// How files began: events are named after that, so no two begin alike.
    beginnings: HashSet<Vec<u8>>,
}

impl Server {
    fn new(log: &Path, recording: &Recording) -> Self {
        let bytes = recording.bytes();
        Self {
            writer: LogWriter::open(log),
            lines: bytes
                .split_inclusive(|b| *b == b'\n')
                .map(<[u8]>::to_vec)
                .collect(),
            written: 0,
            rotated: Vec::new(),
            renamed: false,
            beginnings: HashSet::new(),
        }
    }

    /// Whether a new file would begin as none before it.
    fn may_begin(&mut self) -> bool {
        let next = self.lines.get(self.written).cloned();
        next.is_none_or(|line| self.beginnings.insert(line))
    }

    fn is_done(&self) -> bool {
        self.written == self.lines.len() && !self.renamed
    }

    /// Writes some lines, in writes of any size.
    fn write(&mut self, random: &mut Rng, lines: usize) {
        let end = self.lines.len().min(self.written + lines);
        let mut bytes = self.lines[self.written..end].concat();
        self.written = end;
        while !bytes.is_empty() {
            let rest = bytes.split_off(random.usize(1..=bytes.len()));
            self.writer.bytes(bytes);
            bytes = rest;
        }
    }

    /// Names count upwards as dates do: where two files were changed within a tick
    /// of the kernel's clock, as after a copytruncate, they alone say which is older.
    fn next_name(&mut self) -> PathBuf {
        let number = self.rotated.len() + 1;
        let name = format!("log-20261120-{number:04}");
        let name = self.writer.path().with_extension(name);
        self.rotated.push(name.clone());
        name
    }

    /// Half of a rotation by rename: the server goes on writing to the old file
    /// until the other half.
    fn rename(&mut self) {
        if self.renamed {
            if !self.may_begin() {
                return;
            }
            self.writer.reopen();
        } else if self.written > 0 {
            let name = self.next_name();
            self.writer.rename(name);
        } else {
            return;
        }
        self.renamed = !self.renamed;
    }

    /// A copytruncate, while nobody reads: what was unread is in the copy.
    fn copy_truncate(&mut self) {
        if !self.renamed && self.written > 0 && self.may_begin() {
            let name = self.next_name();
            self.writer.copy_truncate(name);
        }
    }

    /// All files, oldest first.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = self.rotated.clone();
        files.push(self.writer.path().to_owned());
        files
    }
}

/// Every process that ran, and what it printed.
#[derive(Default)]
struct Printed {
    events: Vec<Value>,
    repeats: usize,
    by_id: HashMap<String, Value>,
}

impl Printed {
    /// Takes what one process printed; a line that was torn by its end does not count.
    fn take(&mut self, mut lines: Vec<String>) {
        if lines
            .last()
            .is_some_and(|line| serde_json::from_str::<Value>(line).is_err())
        {
            lines.pop();
        }
        for line in lines {
            let event: Value =
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            let event = comparable(event);
            let id = event["id"].as_str().expect("an event has an id").to_owned();
            match self.by_id.get(&id) {
                Some(known) => {
                    assert_eq!(*known, event, "an event is read again as it was");
                    self.repeats += 1;
                }
                None => {
                    self.by_id.insert(id, event.clone());
                    self.events.push(event);
                }
            }
        }
    }
}

/// What `replay` and `run` must agree on: all but what depends on when it was told.
fn comparable(mut event: Value) -> Value {
    let fields = event.as_object_mut().expect("an event is an object");
    fields.remove("dedup");
    event
}

/// The clients and products that a message lists, and how many it only counts.
fn listed(post: &Post) -> (Vec<String>, usize) {
    let fields = post.fields();
    if let (Some(client), Some(product)) = (fields.get("Client"), fields.get("Product")) {
        return (vec![format!("{client}: {product}")], 0);
    }
    let (mut rows, mut more) = (Vec::new(), 0);
    for line in post.lines() {
        if let Some((key, _)) = line.split_once(" × ") {
            rows.push(key.to_owned());
        } else if let Some(rest) = line.strip_prefix("… and ") {
            let number = rest.split(' ').next().and_then(|n| n.parse::<usize>().ok());
            more += number.unwrap_or_else(|| panic!("{line}"));
        }
    }
    (rows, more)
}

/// Whoever is to be told by its address.
fn expected_keys(events: &[Value]) -> BTreeSet<String> {
    let told = |event: &&Value| {
        event["kind"] == "activation"
            && event.get("suspect").is_none()
            && (event["attribution"] == "exact" || event["attribution"] == "inferred")
    };
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let key = |event: &Value| {
        let (ip, source) = (text(event, "ip"), text(event, "source"));
        format!("{ip} ({source}): {}", text(event, "product"))
    };
    events.iter().filter(told).map(key).collect()
}

/// After an outage the back-off lasts up to a minute, and so does the pace.
fn wait_until_told(sidecar: &Sidecar) {
    const PAUSE: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(150);
    for _ in 0..LONGEST.as_millis() / PAUSE.as_millis() {
        let metrics = sidecar.metrics();
        if metrics
            .lines()
            .any(|line| line == "kms_notifier_outbox_messages 0")
        {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("not everything was told: {sidecar:?}");
}

/// Plays a recording while the sidecar is killed `kills` times.
fn survive(recording: &str, kills: u64, seed: u64, failing: bool) {
    let mut random = Rng::with_seed(seed);
    let place = tempfile::tempdir().expect("a directory");
    let log = place.path().join("vlmcsd.log");
    let state = place.path().join("state.redb");
    let slack = FakeSlack::start([]);
    let mut server = Server::new(&log, &Recording::named(recording));
    let start = || {
        let mut command = notifier();
        command
            .args(["run", "--from", "resume", "--slack-timeout", "1s"])
            .arg("--log")
            .arg(&log)
            .arg("--state")
            .arg(&state)
            .env("SLACK_WEBHOOK_URL", slack.url());
        Sidecar::spawn(&mut command)
    };
    // What was rotated away before the very first start is none of its business.
    let mut sidecar = start();
    let _ = sidecar.metrics_port();
    sidecar.terminate();
    assert!(sidecar.wait().success(), "{sidecar:?}");
    assert!(
        sidecar.stdout().is_empty(),
        "nothing was written yet: {sidecar:?}"
    );

    let mut printed = Printed::default();
    let pace = server.lines.len() / usize::try_from(kills).expect("not that many") + 1;
    for _ in 0..kills {
        if failing {
            for _ in 0..random.usize(..3) {
                slack.then(match random.u8(..4) {
                    0 => Behaviour::Status(500),
                    1 => Behaviour::RateLimit("1".into()),
                    2 => Behaviour::Cut,
                    _ => Behaviour::Accept,
                });
            }
        }
        let mut sidecar = start();
        // Sometimes before it has begun, sometimes in the middle of its work.
        if random.u8(..4) > 0 {
            let _ = sidecar.metrics_port();
        }
        for _ in 0..random.usize(..4) {
            let lines = random.usize(..=pace);
            server.write(&mut random, lines);
            if random.u8(..ROTATE) == 0 {
                server.rename();
            }
            std::thread::sleep(Duration::from_millis(random.u64(..30)));
        }
        sidecar.kill();
        sidecar.wait();
        printed.take(sidecar.stdout());
        match random.u8(..2 * ROTATE) {
            0 => server.copy_truncate(),
            1 => server.rename(),
            _ => {}
        }
        let lines = random.usize(..=pace);
        server.write(&mut random, lines);
    }

    slack.relent();
    let mut sidecar = start();
    let _ = sidecar.metrics_port();
    while !server.is_done() {
        if server.renamed {
            server.rename();
        }
        let lines = random.usize(1..=64);
        server.write(&mut random, lines);
    }
    let files = server.files();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let expected: Vec<Value> = replay(&["--joined"], &files)
        .into_iter()
        .map(comparable)
        .collect();
    let ids = |events: &[Value]| -> BTreeMap<String, Value> {
        let id = |event: &Value| event["id"].as_str().expect("an event has an id").to_owned();
        events
            .iter()
            .map(|event| (id(event), event.clone()))
            .collect()
    };
    let expected_ids = ids(&expected);
    let mut missing: BTreeSet<String> = expected_ids.keys().cloned().collect();
    missing.retain(|id| !printed.by_id.contains_key(id));
    for id in missing {
        // Who waits in vain shall know for what.
        println!("to come: {}", expected_ids[&id]);
        sidecar.wait_for_line(|line| line.contains(&id));
    }
    wait_until_told(&sidecar);
    sidecar.terminate();
    assert!(sidecar.wait().success(), "{sidecar:?}");
    printed.take(sidecar.stdout());

    let found = ids(&printed.events);
    for (id, event) in &found {
        assert_eq!(expected_ids.get(id), Some(event));
    }
    assert_eq!(found.len(), expected_ids.len());

    let (mut told, mut repeated, mut counted) = (BTreeSet::new(), 0_u64, 0);
    let accepted = slack.posts();
    let accepted: Vec<&Post> = accepted
        .iter()
        .filter(|post| post.answer == Behaviour::Accept)
        .collect();
    for post in &accepted {
        let (keys, more) = listed(post);
        counted += more;
        let news = keys
            .iter()
            .filter(|key| told.insert((*key).clone()))
            .count();
        repeated += u64::from(news == 0 && more == 0);
    }
    let untold = expected_keys(&expected).difference(&told).count();
    assert!(untold <= counted, "{untold} clients were never told");
    assert!(repeated <= kills, "{repeated} messages were told twice");
    let aside = fs::exists(state.with_extension("redb.unreadable"));
    assert!(
        !aside.expect("the directory is there"),
        "a kill never damages the state"
    );
    println!(
        "{recording}, seed {seed}: {kills} kills, {} files, {} events of which {} were read again, \
         {} messages of which {repeated} were told twice",
        files.len(),
        expected.len(),
        printed.repeats,
        accepted.len(),
    );
}

#[test]
fn killed_at_any_moment_it_loses_nothing() {
    let kills = number("KMS_CRASH_KILLS", 200);
    survive(
        "svn1113-threads-production",
        kills * 6 / 10,
        number("KMS_CRASH_SEED", 1),
        false,
    );
}

#[test]
fn killed_while_slack_fails_it_loses_nothing() {
    let kills = number("KMS_CRASH_KILLS", 200);
    survive(
        "cri-svn1113-fork-held",
        kills * 5 / 10,
        number("KMS_CRASH_SEED", 2),
        true,
    );
}
