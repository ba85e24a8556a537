//! The real `kms-core serve`, its limits and its configuration, with clients on
//! loopback addresses.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot connect has nothing to say"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use e2e::{DEADLINE, Sidecar, core};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::Signal;

/// A bind that offers the KMS interface with NDR32.
const BIND: &[u8] = b"\x05\x00\x0b\x03\x10\x00\x00\x00\x48\x00\x00\x00\x02\x00\x00\x00\
\xd0\x16\xd0\x16\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x01\x00\
\x75\x21\xc8\x51\x4e\x84\x50\x47\xb0\xd8\xec\x25\x55\x55\xbc\x06\x01\x00\x00\x00\
\x04\x5d\x88\x8a\xeb\x1c\xc9\x11\x9f\xe8\x08\x00\x2b\x10\x48\x60\x02\x00\x00\x00";

struct Server {
    process: Sidecar,
    port: u16,
    admin: String,
}

/// Starts it on free ports, and waits until it serves.
fn serve(command: &mut Command) -> Server {
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let process = Sidecar::spawn(command);
    let line = process.wait_for_log(|line| line.contains("listening on "));
    let port = line.rsplit(':').next().unwrap().parse().unwrap();
    let admin = format!("127.0.0.1:{}", process.metrics_port());
    Server {
        process,
        port,
        admin,
    }
}

impl Server {
    /// Whether a connection from that address gets an answer to its bind.
    fn answers(&self, source: &str) -> bool {
        let source: IpAddr = source.parse().unwrap();
        let fd: OwnedFd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&fd, &SocketAddr::new(source, 0)).unwrap();
        connect(&fd, &SocketAddr::new([127, 0, 0, 1].into(), self.port)).unwrap();
        let mut stream = TcpStream::from(fd);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // Who is turned away may be so before all is sent.
        let _ = stream.write_all(BIND);
        let _ = stream.shutdown(Shutdown::Write);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        // A bind_ack, or nothing.
        assert!(reply.is_empty() || reply.get(2) == Some(&12), "{reply:?}");
        !reply.is_empty()
    }

    fn limits(&self, arguments: &[&str]) -> String {
        let output = core()
            .arg("limits")
            .args(arguments)
            .args(["--admin", &self.admin])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn stop(mut self) -> Vec<String> {
        self.process.terminate();
        assert!(self.process.wait().success(), "{:?}", self.process);
        self.process.stdout()
    }
}

#[test]
fn eleven_connections_a_minute_put_one_source_on_the_table_and_nobody_else() {
    let server = serve(core().args([
        "serve",
        "--limit-rate",
        "10/60s",
        "--limit-connections",
        "50",
        "--limit-allow",
        "127.0.0.3",
        "--log-stamp",
        "false",
    ]));
    assert_eq!(server.limits(&["list"]), "nobody is turned away\n");
    for _ in 0..10 {
        assert!(server.answers("127.0.0.2"));
        assert!(server.answers("127.0.0.3"));
    }
    assert!(!server.answers("127.0.0.2"));
    for _ in 0..20 {
        assert!(server.answers("127.0.0.3"));
    }
    assert!(server.answers("127.0.0.4"));

    let listed = server.limits(&["list"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let row: Vec<_> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row.first(), Some(&"127.0.0.2"));
    assert_eq!(row.get(1), Some(&"rate"));
    let json = server.limits(&["list", "--json"]);
    assert!(
        json.contains(r#""source":"127.0.0.2","reason":"rate""#),
        "{json}"
    );
    let metrics = server.process.metrics();
    assert!(
        metrics.contains("\nkms_core_limit_overloaded 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("\nkms_core_connections_limited_total{reason=\"rate\"} 1\n"));

    assert_eq!(server.limits(&["expire", "1h"]), "0 let in again\n");
    assert!(!server.answers("127.0.0.2"));
    assert_eq!(server.limits(&["flush"]), "1 let in again\n");
    assert!(server.answers("127.0.0.2"));

    let log = server.stop();
    let of = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(of("Limited: "), 1, "{log:#?}");
    assert_eq!(of("Limited: 127.0.0.2 rate 2"), 1, "{log:#?}");
    assert_eq!(of("accepted: 127.0.0.2:"), 11);
    assert_eq!(of("accepted: 127.0.0.3:"), 30);
    assert!(log.last().unwrap().ends_with(" was shutdown"));
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_hangup_opens_the_log_anew_and_reads_the_limits_again() {
    let dir = tempfile::tempdir().unwrap();
    let [config, log, old] = ["c.toml", "kms.log", "kms.log.1"].map(|name| dir.path().join(name));
    fs::write(&config, "log-stamp = false\nlimit-rate = \"1/60s\"\n").unwrap();
    let server = serve(
        core()
            .args(["serve", "--config"])
            .arg(&config)
            .env("KMS_CORE_LOG", &log)
            // Empty is unset.
            .env("KMS_CORE_LIMIT_ALLOW", ""),
    );
    assert!(server.answers("127.0.0.2"));
    assert!(!server.answers("127.0.0.2"));
    // What is written later goes where the path leads by then.
    let is_written = |_| {
        let closed = lines(&log).iter().any(|line| line.contains("closed"));
        closed || {
            thread::sleep(Duration::from_millis(5));
            false
        }
    };
    assert!((0..2000).any(is_written), "{:#?}", lines(&log));
    fs::rename(&log, &old).unwrap();
    fs::write(&config, "limit-rate = \"1/60s\"\nlimit-dry-run = true\n").unwrap();
    server.process.signal(Signal::HUP);
    server
        .process
        .wait_for_log(|line| line.contains("limits read again"));
    assert!(server.answers("127.0.0.2"));

    // What is wrong then changes nothing.
    fs::write(&config, "limit-rat = \"1/60s\"\n").unwrap();
    server.process.signal(Signal::HUP);
    let line = server
        .process
        .wait_for_log(|line| line.contains("the old limits stay"));
    assert!(
        line.contains("limit-rat") && line.contains("limit-rate"),
        "{line}"
    );
    assert!(server.answers("127.0.0.2"));
    assert_eq!(server.stop(), [""; 0], "the log goes to the file");

    let old = lines(&old);
    assert!(
        old.first().unwrap().starts_with("Listening on 127.0.0.1:"),
        "{old:#?}"
    );
    assert!(
        old.get(1).unwrap().ends_with(" started successfully"),
        "{old:#?}"
    );
    assert_eq!(
        old.iter().filter(|line| line.contains("accepted")).count(),
        1
    );
    let new = lines(&log);
    assert_eq!(
        new.iter().filter(|line| line.contains("accepted")).count(),
        2
    );
    assert!(new.last().unwrap().ends_with(" was shutdown"));
}

/// Runs a command that must not start, and returns its one line.
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(output.stdout, b"");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn what_is_configured_wrongly_is_named_with_its_fix() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let file = |text: &str| {
        let path = dir.path().join("c.toml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (arguments, words) in [
        (vec!["--listen", &taken], ["--listen", "another"]),
        (
            vec!["--admin", &taken, "--listen", "127.0.0.1:0"],
            ["--admin", "another"],
        ),
        (
            vec!["--limit-allow", "10.0.0.0/40"],
            ["--limit-allow", "use a network like"],
        ),
        (
            vec!["--proxy-from", "proxy"],
            ["--proxy-from", "use a network like"],
        ),
        (vec!["--limit-rate", "10"], ["--limit-rate", "10/60s"]),
        (
            vec!["--limit-connections", "0"],
            ["--limit-connections", "0"],
        ),
        (vec!["--drain", "0"], ["--drain", "above 0"]),
        (
            vec!["--log", "/no/such/kms.log"],
            ["--log", "can be appended to"],
        ),
        (
            vec!["--log-timezone", "Mars/Base"],
            ["--log-timezone", "Europe/Berlin"],
        ),
        (
            vec!["--port-file", "/no/such/port"],
            ["--port-file", "can be written"],
        ),
        (
            vec!["--config", "/no/such/c.toml"],
            ["--config", "/no/such/c.toml"],
        ),
    ] {
        let mut command = core();
        command.arg("serve");
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let line = refused(command.args(&arguments));
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    for (text, words) in [
        ("lisen = \"[::]:1688\"", ["\"lisen\"", "\"listen\""]),
        ("listen = \"localhost\"", ["listen in /", "'localhost'"]),
        ("whitelist = [1, 2]", ["whitelist", "not a list"]),
        ("whitelist = 1.5", ["whitelist", "use a string"]),
        ("listen = []", ["listen", "leave the key out"]),
        ("config = \"x\"", ["\"config\"", "no option"]),
        ("a = 1\nb =", ["line 2", "c.toml"]),
    ] {
        let path = file(text);
        let line = refused(core().args(["serve", "--config", &path]));
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
}

#[test]
fn a_wrong_value_is_named_where_it_is_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let fix = "write ADDRESS:PORT, like [::]:1688 or 127.0.0.1:9103; see --help\n";
    let line = refused(core().arg("serve").env("KMS_CORE_LISTEN", "foo"));
    let expected = format!("kms-core: invalid value 'foo' for KMS_CORE_LISTEN: {fix}");
    assert_eq!(line, expected);
    let line = refused(core().args(["limits", "list"]).env("KMS_CORE_ADMIN", "foo"));
    let expected = format!("kms-core: invalid value 'foo' for KMS_CORE_ADMIN: {fix}");
    assert_eq!(line, expected);

    fs::write(&path, "listen = \"foo\"").unwrap();
    let file = || {
        let mut command = core();
        command.args(["serve", "--config"]).arg(&path);
        command
    };
    let shown = path.display();
    let line = refused(&mut file());
    let expected = format!("kms-core: invalid value 'foo' for listen in {shown}: {fix}");
    assert_eq!(line, expected);
    // The first that is looked at is the one that counts.
    let line = refused(file().args(["--listen", "bar"]));
    assert!(
        line.contains("'bar' for '--listen <ADDRESS:PORT>'"),
        "{line}"
    );
    let line = refused(file().env("KMS_CORE_LISTEN", "bar"));
    assert!(line.contains("'bar' for KMS_CORE_LISTEN"), "{line}");
    // Beside what is right in another place.
    let line = refused(
        file()
            .args(["--admin", "127.0.0.1:0"])
            .env("KMS_CORE_DRAIN", "1s"),
    );
    assert!(line.contains(&format!("listen in {shown}")), "{line}");
    let line = refused(core().arg("serve").env("KMS_CORE_LOG_IDS", "maybe"));
    assert!(line.contains("for KMS_CORE_LOG_IDS"), "{line}");
    let line = refused(core().arg("serve").env("KMS_CORE_IDLE_TIMEOUT", "31536000"));
    assert!(line.contains("for KMS_CORE_IDLE_TIMEOUT: use a time") && line.contains("30 days"));
}

#[test]
fn the_command_line_beats_the_environment_beats_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    fs::write(&path, "whitelist = 9").unwrap();
    let file = || {
        let mut command = core();
        command.args(["serve", "--config"]).arg(&path);
        command
    };
    assert!(refused(&mut file()).contains("'9'"));
    assert!(refused(file().env("KMS_CORE_WHITELIST", "8")).contains("'8'"));
    let line = refused(
        file()
            .env("KMS_CORE_WHITELIST", "8")
            .args(["--whitelist", "7"]),
    );
    assert!(line.contains("'7'"), "{line}");
}
