//! The real binary on files that grow, rotate, disappear and come back: no line
//! is lost where the file system still has it, and none is read twice.
#![expect(
    clippy::indexing_slicing,
    reason = "what is not there fails the test, as it should"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use e2e::{DEADLINE, LogWriter, Recording, Sidecar, Visit, json_lines, notifier, server_started};
use serde_json::Value;
use tempfile::TempDir;

/// Follows `path` and has opened it, or found it missing, when this returns.
fn follow(path: &Path, arguments: &[&str]) -> Sidecar {
    let mut command = notifier();
    command.args(["run", "--log"]).arg(path).args(arguments);
    let sidecar = Sidecar::spawn(&mut command);
    let _ = sidecar.metrics_port();
    sidecar
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory for the log")
}

/// Bare connections from these hosts of 10.10.0.0/24, two lines each.
fn probes(hosts: impl IntoIterator<Item = u8>) -> String {
    let probe = |host| Visit::from(&format!("10.10.0.{host}")).probe();
    hosts.into_iter().map(probe).collect()
}

/// The hosts whose probes were told so far, once there are `n`.
fn told(sidecar: &Sidecar, n: usize) -> Vec<u8> {
    let host = |line: &String| {
        let event: Value = serde_json::from_str(line).expect("events are JSON");
        assert_eq!(event["kind"], "probe", "{line}");
        let ip = event["ip"].as_str().expect("a probe has an address");
        ip.strip_prefix("10.10.0.")
            .and_then(|host| host.parse().ok())
            .expect(ip)
    };
    sidecar.wait_for_lines(n).iter().map(host).collect()
}

/// Asks for an end; nothing but these was ever told.
fn end_with(mut sidecar: Sidecar, hosts: impl IntoIterator<Item = u8>) {
    sidecar.terminate();
    assert!(sidecar.wait().success(), "{sidecar:?}");
    assert_eq!(told(&sidecar, 0), Vec::from_iter(hosts));
}

#[test]
fn only_what_is_new_is_read_from_a_file_that_exists() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    log.bytes(probes([1, 2]));
    let sidecar = follow(log.path(), &[]);
    log.bytes(probes([3]));
    assert_eq!(told(&sidecar, 1), [3]);
    end_with(sidecar, [3]);
}

#[test]
fn a_line_that_is_half_written_at_the_start_is_not_read_from_its_middle() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    let (half, rest) = (probes([1]), probes([2]));
    let (half, other_half) = half.split_at(40);
    log.bytes(half);
    let sidecar = follow(log.path(), &["--from", "end"]);
    log.bytes(other_half);
    log.bytes(rest);
    // The closed line of the first connection is whole, but nothing opened it.
    assert_eq!(told(&sidecar, 1), [2]);
    end_with(sidecar, [2]);
}

#[test]
fn all_is_read_from_the_start_where_asked() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    log.bytes(probes([1, 2]));
    let sidecar = follow(log.path(), &["--from", "start"]);
    log.bytes(probes([3]));
    assert_eq!(told(&sidecar, 3), [1, 2, 3]);
    end_with(sidecar, [1, 2, 3]);
}

#[test]
fn a_file_that_appears_later_is_read_from_its_first_byte() {
    let dir = directory();
    let path = dir.path().join("log");
    let sidecar = follow(&path, &["--from", "end"]);
    let waiting = |line: &str| line.contains("no such file; waiting for it");
    sidecar.wait_for_log(waiting);
    assert_eq!(sidecar.get("/readyz", "*/*").0, 503);

    // Whole before it has its name, so nobody can have opened it in between.
    fs::write(dir.path().join("new"), probes([1, 2])).unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    assert_eq!(told(&sidecar, 2), [1, 2]);
    assert_eq!(sidecar.wait_for_status("/readyz", 200), "ok\n");
    let said = sidecar.stderr().iter().filter(|line| waiting(line)).count();
    assert_eq!(said, 1, "it says so once");
    end_with(sidecar, [1, 2]);
}

#[test]
fn what_cannot_be_read_makes_it_unready_until_it_can() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    let sidecar = follow(log.path(), &[]);
    log.bytes(probes([1]));
    assert_eq!(told(&sidecar, 1), [1]);
    // Nobody reads a directory, not even root.
    log.rename(dir.path().join("log.1"));
    fs::create_dir(log.path()).unwrap();
    assert_eq!(
        sidecar.wait_for_status("/readyz", 503),
        "not ready: log log cannot be read\n"
    );
    sidecar
        .wait_for_log(|line| line.contains("not a regular file") && line.contains("trying again"));
    fs::remove_dir(log.path()).unwrap();
    log.reopen();
    log.bytes(probes([2]));
    assert_eq!(told(&sidecar, 2), [1, 2]);
    assert_eq!(sidecar.wait_for_status("/readyz", 200), "ok\n");
    end_with(sidecar, 1..=2);
}

#[test]
fn the_first_run_begins_where_it_is_told_to() {
    for (first_run, hosts) in [("end", vec![3]), ("start", vec![1, 2, 3])] {
        let dir = directory();
        let mut log = LogWriter::open(dir.path().join("log"));
        let state = dir.path().join("state.redb");
        let state = state.to_str().unwrap();
        let arguments = ["--state", state, "--first-run", first_run];
        log.bytes(probes([1, 2]));
        let sidecar = follow(log.path(), &arguments);
        log.bytes(probes([3]));
        assert_eq!(told(&sidecar, hosts.len()), hosts);
        end_with(sidecar, hosts);
        // It is the first run's alone.
        log.bytes(probes([4]));
        let sidecar = follow(log.path(), &arguments);
        assert_eq!(told(&sidecar, 1), [4]);
        end_with(sidecar, [4]);
    }
}

/// Nothing tells of it, so it is asked for.
fn wait_until_gone(path: &Path) {
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 0..DEADLINE.as_millis() / PAUSE.as_millis() {
        if !path.exists() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("{} is still there", path.display());
}

#[test]
fn a_log_that_the_sidecar_rotates_itself_loses_nothing() {
    let dir = directory();
    let path = dir.path().join("log");
    fs::write(&path, "").unwrap();
    let sidecar = follow(&path, &["--rotate-at", "64KiB", "--rotate-keep", "1"]);
    let mut hosts = Vec::new();
    for times in 1..=2 {
        // As vlmcsd does: the log is opened anew for what is written.
        LogWriter::open(&path).bytes(probes((0..250).cycle().take(1000)));
        hosts.extend((0..250).cycle().take(1000));
        assert_eq!(told(&sidecar, hosts.len()), hosts);
        // The second time once the first file has settled.
        wait_until_gone(&path);
        LogWriter::open(&path).bytes(probes([251]));
        hosts.push(251);
        assert_eq!(told(&sidecar, hosts.len()), hosts);
        rotations(&sidecar, "rename", f64::from(times));
    }
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["log", "log.1"]);
    assert_eq!(told(&sidecar, hosts.len()), hosts);
    end_with(sidecar, hosts);
}

#[test]
fn two_rotations_at_once_lose_nothing() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    let sidecar = follow(log.path(), &[]);
    log.bytes(probes([1]));
    assert_eq!(told(&sidecar, 1), [1]);
    // While it cannot look.
    sidecar.signal(rustix::process::Signal::STOP);
    for (name, host) in [("log.2", 2), ("log.1", 3)] {
        log.bytes(probes([host]));
        log.rename(dir.path().join(name));
        log.reopen();
    }
    log.bytes(probes([4]));
    sidecar.signal(rustix::process::Signal::CONT);
    assert_eq!(told(&sidecar, 4), [1, 2, 3, 4]);
    rotations(&sidecar, "rename", 2.0);
    end_with(sidecar, 1..=4);
}

#[test]
fn a_line_counts_when_its_end_is_written() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    let sidecar = follow(log.path(), &[]);
    let lines = probes([1]);
    let (most, end) = lines.split_at(lines.len() - 1);
    for piece in most.as_bytes().chunks(7) {
        log.bytes(piece);
    }
    let read = "kms_notifier_bytes_total{log=\"log\"}";
    #[expect(clippy::cast_precision_loss, reason = "a few bytes")]
    sidecar.wait_for_sample(read, |bytes| bytes == most.len() as f64);
    assert_eq!(sidecar.stdout(), [""; 0]);
    log.bytes(end);
    assert_eq!(told(&sidecar, 1), [1]);
}

#[test]
fn an_activation_is_told_at_its_response() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    let sidecar = follow(log.path(), &[]);
    let visit = Visit::from("10.10.0.1");
    log.bytes(server_started() + &visit.held());
    let line = sidecar.wait_for_line(|line| line.contains("activation"));
    assert!(line.contains(r#""attribution":"exact""#), "{line}");
    // Probes in the middle of a connection that is held change nothing.
    log.bytes(probes([2, 3]) + &visit.closed() + &probes([4]));
    let kinds: Vec<_> = json_lines((sidecar.wait_for_lines(5).join("\n") + "\n").as_bytes())
        .iter()
        .map(|event| event["kind"].clone())
        .collect();
    assert_eq!(
        kinds,
        ["server_started", "activation", "probe", "probe", "probe"]
    );
}

/// Somebody unseen may be connected too, so it is not exact; but one address is
/// not several, and clients with the same name must not mute each other.
#[test]
fn a_request_in_a_log_that_was_joined_late_has_its_address() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    log.bytes(probes([1]));
    let sidecar = follow(log.path(), &["--from", "end"]);
    for ip in ["10.10.0.2", "10.10.0.3"] {
        log.bytes(Visit::from(ip).activation());
    }
    for (line, ip) in sidecar
        .wait_for_lines(2)
        .iter()
        .zip(["10.10.0.2", "10.10.0.3"])
    {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["ip"], ip, "{event}");
        assert_eq!(event["attribution"], "inferred", "{event}");
        assert_eq!(event["candidates"], Value::Null, "{event}");
        assert_eq!(event["dedup"], "post", "{event}");
    }
}

#[test]
fn a_line_without_end_is_cut_and_counted() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    let sidecar = follow(log.path(), &[]);
    for _ in 0..50 {
        log.bytes([b'x'; 10_000]);
    }
    log.line("");
    log.bytes(probes([1]));
    assert_eq!(told(&sidecar, 1), [1]);
    sidecar.wait_for_sample("kms_notifier_evictions_total{what=\"cut_line\"}", |n| {
        n == 1.0
    });
    sidecar.wait_for_sample("kms_notifier_lag_bytes{log=\"log\"}", |n| n == 0.0);
}

fn rotations(sidecar: &Sidecar, kind: &str, n: f64) {
    let series = format!("kms_notifier_log_rotations_total{{log=\"log\",kind=\"{kind}\"}}");
    sidecar.wait_for_sample(&series, |count| count == n);
}

#[test]
fn rename_and_recreate_with_a_server_that_goes_on_with_the_old_file() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    let sidecar = follow(log.path(), &[]);
    log.bytes(probes([1]));
    assert_eq!(told(&sidecar, 1), [1]);
    let half = Visit::from("10.10.0.5");

    log.rename(dir.path().join("log.1"));
    log.bytes(probes([2, 3]) + &half.opened());
    let mut old = LogWriter::open(dir.path().join("log.1"));
    log.reopen();
    // A connection outlives the file that saw it begin.
    log.bytes(probes([4]) + &half.closed());
    assert_eq!(told(&sidecar, 5), [1, 2, 3, 4, 5]);
    rotations(&sidecar, "rename", 1.0);

    // Somebody still holds the old file: both are read.
    old.bytes(probes([6]));
    assert_eq!(told(&sidecar, 6)[5], 6);
    log.bytes(probes([7]));
    assert_eq!(told(&sidecar, 7)[6], 7);
    end_with(sidecar, 1..=7);
}

#[test]
fn copy_and_truncate() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    let sidecar = follow(log.path(), &[]);
    for round in 0..3 {
        let hosts = [3 * round, 3 * round + 1, 3 * round + 2];
        log.bytes(probes(hosts));
        let all = told(&sidecar, usize::from(3 * round + 3));
        assert_eq!(all, Vec::from_iter(0..3 * round + 3));
        log.copy_truncate(dir.path().join(format!("log.{round}")));
    }
    log.bytes(probes([9]));
    assert_eq!(told(&sidecar, 10)[9], 9);
    rotations(&sidecar, "truncate", 3.0);
    end_with(sidecar, 0..=9);
}

#[test]
fn delete_and_recreate() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    let sidecar = follow(log.path(), &[]);
    log.bytes(probes([1]));
    assert_eq!(told(&sidecar, 1), [1]);
    log.delete();
    // What the server writes before it notices is in no directory any more.
    log.bytes(probes([2]));
    assert_eq!(told(&sidecar, 2), [1, 2]);
    assert_eq!(sidecar.get("/healthz", "*/*").0, 200);
    log.reopen();
    log.bytes(probes([3]));
    assert_eq!(told(&sidecar, 3), [1, 2, 3]);
    end_with(sidecar, 1..=3);
}

#[test]
fn a_symlink_that_points_elsewhere_is_followed() {
    let dir = directory();
    let link = dir.path().join("log");
    let mut first = LogWriter::open(dir.path().join("0.log"));
    symlink("0.log", &link).unwrap();
    let sidecar = follow(&link, &[]);
    first.bytes(probes([1]));
    assert_eq!(told(&sidecar, 1), [1]);

    let mut second = LogWriter::open(dir.path().join("1.log"));
    second.bytes(probes([3]));
    first.bytes(probes([2]));
    symlink("1.log", dir.path().join("new")).unwrap();
    fs::rename(dir.path().join("new"), &link).unwrap();
    assert_eq!(told(&sidecar, 3), [1, 2, 3]);
    first.bytes(probes([4]));
    second.bytes(probes([5]));
    let mut all = told(&sidecar, 5);
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4, 5]);
    rotations(&sidecar, "rename", 1.0);
}

#[test]
fn rotation_after_rotation_loses_and_doubles_nothing() {
    let dir = directory();
    let mut log = LogWriter::open(dir.path().join("log"));
    let sidecar = follow(log.path(), &[]);
    let mut lines = 0;
    for round in 0..12 {
        let first = 20 * round;
        log.bytes(probes(first..first + 10));
        // From here on the file is open and may go.
        lines += 10;
        let _ = sidecar.wait_for_lines(lines);
        match round % 3 {
            0 => log.rename(dir.path().join(format!("log.{round}"))),
            1 => log.delete(),
            _ => {
                log.copy_truncate(dir.path().join("copy"));
            }
        }
        log.bytes(probes(first + 10..first + 20));
        lines += 10;
        log.reopen();
    }
    assert_eq!(told(&sidecar, lines), Vec::from_iter(0..240));
    end_with(sidecar, 0..240);
}

#[test]
fn several_logs_are_read_apart() {
    let dir = directory();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    let mut command = notifier();
    command.args(["run", "--from", "start"]);
    for (name, path) in ["one", "two"].iter().zip(&paths) {
        command
            .arg("--log")
            .arg(format!("{name}={}", path.display()));
    }
    let sidecar = Sidecar::spawn(&mut command);
    let [mut a, mut b] = paths.map(LogWriter::open);
    // In one log these two would be open at the same time.
    let (first, second) = (Visit::from("10.10.0.1"), Visit::from("10.10.0.2"));
    a.bytes(server_started() + &first.opened());
    b.bytes(server_started() + &second.opened());
    let _ = sidecar.wait_for_lines(2);
    a.bytes(first.asked() + &first.answered());
    b.bytes(second.asked() + &second.answered());
    let mut told: Vec<_> = sidecar.wait_for_lines(4)[2..]
        .iter()
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            ["log", "ip", "attribution"].map(|field| event[field].as_str().unwrap().to_owned())
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [["one", "10.10.0.1", "exact"], ["two", "10.10.0.2", "exact"]]
    );
}

#[test]
fn the_form_of_the_lines_is_recognised_or_given() {
    let cri = Recording::named("cri-svn1113-fork-held");
    let events = |format: &str| {
        let mut command = notifier();
        command.args(["run", "--log", "-", "--format", format]);
        let output = command
            .stdin(fs::File::open(&cri.path).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success());
        json_lines(&output.stdout).len()
    };
    assert!(events("auto") > 180);
    assert_eq!(events("cri"), events("auto"));
    // Taken as plain, not a line of it is a server's.
    assert_eq!(events("plain"), 0);
}

#[test]
fn standard_input_is_read_to_its_end() {
    let mut command = notifier();
    let mut sidecar = Sidecar::spawn(command.args(["run", "--log", "-"]).stdin(Stdio::piped()));
    let mut input = sidecar.stdin().unwrap();
    let lines = probes([1, 2]);
    // The last line has no end of its own.
    std::io::Write::write_all(&mut input, lines.trim_end().as_bytes()).unwrap();
    assert_eq!(told(&sidecar, 1), [1]);
    drop(input);
    assert!(sidecar.wait().success());
    assert_eq!(told(&sidecar, 2), [1, 2]);
    assert!(sidecar.stdout()[0].contains(r#""log":"stdin""#));
}
