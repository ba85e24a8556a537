//! What is read from each recorded log, against what its clients really did.
//!
//! The limits are those the project promises in docs/events.md, "Attribution";
//! the figures are explained at [`Figures`].
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its input has nothing to say"
)]
#![expect(
    clippy::print_stdout,
    reason = "cargo shows the figures where a test fails"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use e2e::score::Figures;
use e2e::{notifier, recordings};
use serde::de::DeserializeOwned;

/// What kind of evidence a recording holds, and so what must be read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// One client at a time: everything is known.
    Plain,
    /// The PID names the connection.
    Syslog,
    /// Clients that hold their connections among probes.
    Held,
    /// One client at a time, whose names attack the reader.
    Hostile,
    /// Many clients at once: the log alone cannot always tell.
    Burst,
}

impl Group {
    fn of(recording: &str) -> Option<Self> {
        let ends = |ends: &[&str]| ends.iter().any(|end| recording.ends_with(end));
        if ends(&["syslog-burst"]) {
            Some(Self::Syslog)
        } else if ends(&["-sequential", "-refused", "-public-o2", "-scan"]) {
            Some(Self::Plain)
        } else if ends(&["-production", "-held"]) {
            Some(Self::Held)
        } else if ends(&["-hostile", "-hostile-quiet", "-hostile-nodate"]) {
            Some(Self::Hostile)
        } else if ends(&["-burst", "-heldburst"]) {
            Some(Self::Burst)
        } else {
            None
        }
    }
}

/// Every recording's figures, read once for all tests.
static FIGURES: LazyLock<BTreeMap<String, (Group, Figures)>> = LazyLock::new(|| {
    let files = fs::read_dir(recordings())
        .unwrap()
        .map(|file| file.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|end| end == "log"));
    logs.map(|log| {
        let name = log.file_stem().unwrap().to_str().unwrap().to_owned();
        let group = Group::of(&name).unwrap_or_else(|| panic!("{name} belongs to no group"));
        (name, (group, replay(&log)))
    })
    .collect()
});

fn replay(log: &Path) -> Figures {
    let output = notifier()
        .args(["replay", "--format", "json"])
        .arg(log)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}: {}: {errors}",
        log.display(),
        output.status
    );
    let truth = fs::read_to_string(log.with_extension("truth.jsonl")).unwrap();
    Figures::of(
        &json_lines(&truth),
        &json_lines(str::from_utf8(&output.stdout).unwrap()),
    )
}

fn json_lines<T: DeserializeOwned>(text: &str) -> Vec<T> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(parse).collect()
}

/// The figures of one group, added up.
fn total(of: impl Fn(Group) -> bool) -> Figures {
    let mut total = Figures::default();
    FIGURES
        .values()
        .filter(|(group, _)| of(*group))
        .for_each(|(_, figures)| total += figures);
    total
}

/// `part` is at least (at most) this many thousandths of `whole`.
fn at_least(part: u64, whole: u64, thousandths: u64) -> bool {
    part * 1000 >= whole * thousandths
}

fn at_most(part: u64, whole: u64, thousandths: u64) -> bool {
    part * 1000 <= whole * thousandths
}

/// What must hold, in words and figures.
type Limit = (&'static str, fn(&Figures) -> bool);

/// Holds each recording of the chosen groups to the named limits, and reports all
/// that fail with their figures.
fn hold(of: impl Fn(Group) -> bool, limits: &[Limit]) {
    let chosen: Vec<_> = FIGURES
        .iter()
        .filter(|(_, (group, _))| of(*group))
        .collect();
    assert!(!chosen.is_empty(), "no recording in this group");
    let mut failures = Vec::new();
    for (name, (_, figures)) in chosen {
        println!("{name}: {figures}");
        let broken = limits
            .iter()
            .filter(|(_, limit)| !limit(figures))
            .map(|(what, _)| *what);
        let broken: Vec<_> = broken.collect();
        if !broken.is_empty() {
            failures.push(format!(
                "{name} fails: {}\n    {figures}",
                broken.join(", ")
            ));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn everywhere_all_is_found_and_nothing_invented() {
    assert_eq!(
        FIGURES.len(),
        28,
        "the recordings that fixtures/README.md describes"
    );
    hold(
        |_| true,
        &[
            ("every client found", |f| f.found == f.clients),
            ("every request found", |f| f.requests_found == f.requests),
            ("no event too many", |f| f.extra == 0),
            ("every kind right", |f| f.kind == f.clients),
            ("products right for 99.5 %", |f| {
                at_least(f.product, f.clients, 995)
            }),
            ("no client that never was", |f| f.ghosts == 0),
            ("never exact and wrong", |f| f.exact_wrong == 0),
        ],
    );
}

#[test]
fn over_all_recordings_together_hardly_any_address_is_wrong() {
    let all = total(|_| true);
    assert!(
        at_most(all.sure_wrong, all.labelled(), 5),
        "sure-wrong above 0.5 % of events: {all}"
    );
    assert!(
        at_most(all.wrong, all.clients, 5),
        "WRONG above 0.5 % of clients: {all}"
    );
}

#[test]
fn one_client_at_a_time_leaves_no_doubt() {
    hold(
        |group| group == Group::Plain,
        &[
            ("every address right", |f| f.ip == f.clients),
            ("every address sure", |f| {
                f.exact + f.inferred == f.labelled()
            }),
            ("no probe missed", |f| f.missed == 0),
            ("no false probe", |f| f.false_probes == 0),
        ],
    );
}

#[test]
fn a_pid_names_its_connection() {
    hold(
        |group| group == Group::Syslog,
        &[
            ("every address right", |f| f.ip == f.clients),
            ("every address exact", |f| f.exact == f.labelled()),
        ],
    );
}

#[test]
fn held_connections_are_told_apart() {
    let held = total(|group| group == Group::Held);
    assert!(
        at_least(held.ip, held.clients, 990),
        "addresses right for less than 99 % together: {held}"
    );
    hold(
        |group| group == Group::Held,
        &[
            ("addresses right for 97 %", |f| {
                at_least(f.ip, f.clients, 970)
            }),
            ("95 % of the events sure", |f| {
                at_least(f.exact + f.inferred, f.labelled(), 950)
            }),
            ("at most 1 % of the probes missed", |f| {
                at_most(f.missed, f.probes, 10)
            }),
            ("at most 1 % of the probes false", |f| {
                at_most(f.false_probes, f.probes, 10)
            }),
        ],
    );
}

#[test]
fn hostile_names_forge_nothing() {
    hold(
        |group| group == Group::Hostile,
        &[
            ("every address right", |f| f.ip == f.clients),
            ("no probe that never was", |f| f.false_probes == 0),
            ("no client that never was", |f| f.ghosts == 0),
        ],
    );
}

#[test]
fn in_a_burst_what_is_not_known_is_called_ambiguous() {
    hold(
        |group| group == Group::Burst,
        &[
            ("at most 1 % WRONG", |f| at_most(f.wrong, f.clients, 10)),
            ("probes missed: at most one per hedged client", |f| {
                f.missed <= f.hedged
            }),
            ("false probes: at most one per hedged client", |f| {
                f.false_probes <= f.hedged
            }),
        ],
    );
}
