//! `kms-core serve` under a crowd, and `kms-notifier` on its log meanwhile: nobody
//! is missed, nobody is taken for somebody else, and no name makes anybody up.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot read its input has nothing to say"
)]

use std::net::SocketAddr;

use e2e::score::{Event, Figures};
use e2e::{Crowd, Exposition, Lab, Sidecar, core, json_lines, notifier};
use serde_json::Value;
use tempfile::TempDir;

/// What a crowd did, and what the notifier told of it.
struct Seen {
    lab: Lab,
    events: Vec<Value>,
    figures: Figures,
    metrics: Exposition,
}

/// Sends a crowd to a server with these further arguments while the notifier
/// follows its log.
fn watch(crowd: &Crowd, arguments: &[&str]) -> Seen {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("kms.log");
    let mut command = core();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log"]);
    command
        .arg(&log)
        .args(["--log-timezone=UTC", "--admin=127.0.0.1:0"]);
    let mut server = Sidecar::spawn(command.args(arguments));
    let address: SocketAddr = server.listening();
    let mut command = notifier();
    command.args(["run", "--from", "start", "--log"]).arg(&log);
    let mut sidecar = Sidecar::spawn(&mut command);

    let lab = crowd.visit(address);
    // A probe that came and went may still wait for its turn.
    let all = crowd.clients.len() + crowd.probes.len();
    server.wait_for_sample("kms_core_connections_total", |n| n == count(all));
    server.wait_for_sample("kms_core_connections_open", |n| n == 0.0);
    server.terminate();
    assert!(server.wait().success(), "{server:?}");
    sidecar.wait_for_line(|line| line.contains("\"server_stopped\""));
    let metrics = Exposition::classic(&sidecar.metrics());
    sidecar.terminate();
    assert!(sidecar.wait().success());

    let output = sidecar.stdout().join("\n") + "\n";
    let events = json_lines(output.as_bytes());
    let read = |event: &Value| serde_json::from_value::<Event>(event.clone()).unwrap();
    let figures = Figures::of(&lab.truth, &events.iter().map(read).collect::<Vec<_>>());
    Seen {
        lab,
        events,
        figures,
        metrics,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn count(n: impl TryInto<u64, Error: std::fmt::Debug>) -> f64 {
    n.try_into().unwrap() as f64
}

impl Seen {
    /// Every request has its event, with the right outcome and product, and there
    /// is no event of anybody else.
    fn assert_all_found(&self) {
        let figures = &self.figures;
        assert_eq!(figures.requests_found, self.lab.answered, "{figures:?}");
        assert_eq!(figures.found, figures.clients, "{figures:?}");
        assert_eq!(figures.kind, figures.clients, "{figures:?}");
        assert_eq!(figures.product, figures.clients, "{figures:?}");
        let none = [figures.extra, figures.ghosts, figures.suspect];
        assert_eq!(none, [0; 3], "{figures:?}");
        let answered = self.metrics.sum("kms_activations_total", &[]);
        assert_eq!(answered, Some(count(self.lab.answered)));
        let kinds = ["activation", "probe", "server_started", "server_stopped"];
        let foreign = |event: &&Value| !kinds.contains(&event["kind"].as_str().unwrap());
        assert_eq!(self.events.iter().find(foreign), None);
    }

    /// And where the notifier has no doubt, there is no reason for it.
    fn assert_hedged(&self) {
        self.assert_all_found();
        let figures = &self.figures;
        assert_eq!(figures.exact_wrong, 0, "{figures:?}");
        // Nearly all of them say that they do not know.
        let sure = figures.exact + figures.inferred;
        assert!(sure * 10 <= self.lab.answered, "{figures:?}");
    }

    /// And every address is known for sure, and right.
    fn assert_exact(&self) {
        self.assert_all_found();
        let figures = &self.figures;
        assert_eq!(figures.exact, self.lab.answered, "{figures:?}");
        assert_eq!(figures.labelled(), self.lab.answered, "{figures:?}");
        assert_eq!(figures.exact_wrong, 0, "{figures:?}");
        assert_eq!(figures.ip, figures.clients, "{figures:?}");
        let wrong = [figures.missed, figures.false_probes];
        assert_eq!(wrong, [0; 2], "{figures:?}");
        let counted = self.metrics.sum("kms_connection_probes_total", &[]);
        assert_eq!(counted, Some(count(figures.probes)));
    }
}

#[test]
fn with_ids_every_address_of_a_crowd_is_exact_in_blocks() {
    let arguments = ["--log-ids", "--log-detail=verbose"];
    let seen = watch(&Crowd::of(500, 500), &arguments);
    assert_eq!((seen.figures.clients, seen.figures.probes), (500, 500));
    seen.assert_exact();
}

#[test]
fn with_ids_every_address_of_a_crowd_is_exact_in_quiet_lines() {
    let seen = watch(&Crowd::of(500, 500), &["--log-ids"]);
    assert_eq!((seen.figures.clients, seen.figures.probes), (500, 500));
    seen.assert_exact();
}

/// Without ids the log does not tell them apart at such a moment. Then the
/// notifier says that it does not know: it finds every request, and is never wrong
/// where it is certain.
#[test]
fn without_ids_a_crowd_is_found_and_nobody_is_mistaken_for_certain() {
    for detail in ["--log-detail=verbose", "--log-detail=quiet"] {
        // Weighing who it may have been takes the square of how many.
        let seen = watch(&Crowd::of(150, 150), &[detail]);
        seen.assert_hedged();
    }
}

/// Names that look like the log's own lines, in both dialects, that turn the
/// direction of writing, talk to a terminal, or are no text at all.
const HOSTILE: [&str; 10] = [
    "\n2026-03-14 09:26:53: IPv4 connection accepted: 6.6.6.6:6.",
    "\nIPv4 connection closed: 127.1.0.1:6.\n",
    "\n<<< Incoming KMS request",
    "\nKMS v6.0 request from evil for Windows 10 Enterprise\n",
    "\nSending ePID (evil): 6",
    " for Windows 10 Enterprise [c=1]",
    "\r\x1b[2J\x1b[31m\x07\u{9b}",
    "\u{202e}\u{2066}gnp.exe\u{2069}\u{200f}",
    "\u{2028}\u{85}\u{0b}\u{0c}\0\u{feff}",
    "\nRelayed request: v6.0, protected, outcome answered",
];

#[test]
fn no_name_makes_an_event() {
    let mut crowd = Crowd::of(90, 90);
    for (number, visitor) in crowd.clients.iter_mut().enumerate() {
        let hostile = HOSTILE.get(number % HOSTILE.len()).unwrap();
        // The score knows hostile clients by their first three characters.
        visitor.workstation = format!("h{:02}{hostile}", number + 10);
    }
    for detail in ["--log-detail=verbose", "--log-detail=quiet"] {
        let seen = watch(&crowd, &["--log-ids", detail]);
        seen.assert_exact();
        let seen = watch(&crowd, &[detail]);
        seen.assert_hedged();
        let evil = |event: &&Value| event["ip"] == "6.6.6.6";
        assert_eq!(seen.events.iter().find(evil), None);
    }
}
