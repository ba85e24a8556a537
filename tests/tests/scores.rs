//! What is read from each recorded log, against what its clients really did.
//!
//! The limits are those the project promises in docs/events.md, "Attribution";
//! the figures are explained at [`Figures`].
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot read its input has nothing to say"
)]
#![expect(
    clippy::print_stdout,
    reason = "cargo shows the figures where a test fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::LazyLock;

use e2e::score::{Action, Attribution, Event, Figures};
use e2e::{Recording, recordings, replay};
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

/// What a recording holds and what was read from it.
struct Read {
    group: Group,
    truth: Vec<Action>,
    events: Vec<Event>,
    figures: Figures,
}

/// Every recording, read once for all tests.
static READ: LazyLock<BTreeMap<String, Read>> = LazyLock::new(|| {
    let read = |recording: Recording| {
        let name = recording.name.clone();
        let group = Group::of(&name).unwrap_or_else(|| panic!("{name} belongs to no group"));
        let truth: Vec<Action> = json_lines(&recording.truth());
        let events: Vec<Event> = replay(&[], &[&recording.path])
            .into_iter()
            .map(|event| serde_json::from_value(event).unwrap())
            .collect();
        let figures = Figures::of(&truth, &events);
        let read = Read {
            group,
            truth,
            events,
            figures,
        };
        (name, read)
    };
    recordings().into_iter().map(read).collect()
});

fn json_lines<T: DeserializeOwned>(text: &str) -> Vec<T> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(parse).collect()
}

/// The figures of one group, added up.
fn total(of: impl Fn(Group) -> bool) -> Figures {
    let mut total = Figures::default();
    READ.values()
        .filter(|read| of(read.group))
        .for_each(|read| total += &read.figures);
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
    let chosen: Vec<_> = READ.iter().filter(|(_, read)| of(read.group)).collect();
    assert!(!chosen.is_empty(), "no recording in this group");
    let mut failures = Vec::new();
    for (name, Read { figures, .. }) in chosen {
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
        READ.len(),
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

/// The promise is 0.5 %; these recordings leave no excuse for a single one.
#[test]
fn no_address_is_called_sure_and_wrong_and_no_client_is_lost() {
    hold(
        |_| true,
        &[
            ("no address sure and wrong", |f| f.sure_wrong == 0),
            ("no client WRONG", |f| f.wrong == 0),
        ],
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

/// Not a promise but what the evidence gave so far: a change that loses it
/// should be meant.
#[test]
fn in_a_burst_every_second_address_is_right_all_the_same() {
    let bursts = total(|group| group == Group::Burst);
    assert!(
        at_least(bursts.ip, bursts.clients, 500),
        "addresses right for less than 50 % together: {bursts}"
    );
    // Here the server closes after each answer, which tells everything.
    let disconnecting = &READ["svn1113-disconnect-burst"].figures;
    assert_eq!(disconnecting.ip, disconnecting.clients, "{disconnecting}");
}

/// One address is what was said, so it has candidates; several make it ambiguous.
#[test]
fn candidates_are_several_and_begin_with_the_address() {
    for (name, read) in &*READ {
        for event in &read.events {
            let candidates = &event.candidates;
            if event.attribution == Some(Attribution::Ambiguous) {
                let distinct: BTreeSet<_> = candidates.iter().collect();
                assert!(
                    distinct.len() == candidates.len() && distinct.len() > 1,
                    "{name}: {event:?}"
                );
                assert_eq!(candidates.first(), event.ip.as_ref(), "{name}: {event:?}");
            } else {
                assert!(candidates.is_empty(), "{name}: {event:?}");
            }
        }
    }
}

/// Naming everybody would always name the right one, so a candidate must have
/// been connected from before the request until after its answer.
#[test]
fn candidates_were_connected_at_the_time() {
    let mut checked = 0;
    // What a container runtime wrapped is the log of another recording.
    let plain = READ
        .iter()
        .filter(|(name, _)| !name.starts_with("cri-") && !name.starts_with("docker-"));
    for (name, read) in plain {
        let ambiguous = |event: &&Event| event.attribution == Some(Attribution::Ambiguous);
        let ambiguous = read.events.iter().filter(ambiguous);
        if name.contains("-hostile") {
            // Its log has forged lines, so only the truth says who was there.
            let real: BTreeSet<_> = read.truth.iter().map(|action| &action.ip).collect();
            for event in ambiguous {
                assert!(
                    event.candidates.iter().all(|ip| real.contains(ip)),
                    "{name}: {event:?}"
                );
            }
            continue;
        }
        let log = String::from_utf8(Recording::named(name).bytes()).unwrap();
        let connections = connections(&log);
        for event in ambiguous {
            let exchanges = exchanges(&log, event);
            let connected = |ip: &String| {
                connections.iter().any(|(from, open)| {
                    let during =
                        |lines: &Range<usize>| open.start < lines.start && lines.end < open.end;
                    from == ip && exchanges.iter().any(during)
                })
            };
            let absent: Vec<_> = event
                .candidates
                .iter()
                .filter(|ip| !connected(ip))
                .collect();
            assert!(
                absent.is_empty(),
                "{name}: {absent:?} were not connected: {event:?}"
            );
            checked += 1;
        }
    }
    assert!(checked > 0, "no ambiguous event in any recording");
}

/// Every connection of a plain log that nobody forged: its address and the
/// numbers of the lines that open and close it.
fn connections(log: &str) -> Vec<(String, Range<usize>)> {
    let mut open = BTreeMap::new();
    let mut connections = Vec::new();
    for (number, line) in log.lines().enumerate() {
        if let Some((_, peer)) = line.split_once(" connection accepted: ") {
            open.insert(peer, number);
        } else if let Some((_, peer)) = line.split_once(" connection closed: ")
            && let Some(accepted) = open.remove(peer)
        {
            connections.push((address(peer), accepted..number));
        }
    }
    // Those that were still open when the recording ended.
    connections.extend(
        open.into_iter()
            .map(|(peer, accepted)| (address(peer), accepted..usize::MAX)),
    );
    connections
}

fn address(peer: &str) -> String {
    let peer: std::net::SocketAddr = peer.trim_end_matches('.').parse().unwrap();
    peer.ip().to_canonical().to_string()
}

/// Where the log has what an event tells of: from a line of the request to one of
/// its answer. Several, where the client came more than once.
fn exchanges(log: &str, event: &Event) -> Vec<Range<usize>> {
    let lines_with = |text: &str| -> Vec<usize> {
        let lines = log.lines().enumerate();
        lines
            .filter(|(_, line)| line.contains(text))
            .map(|(number, _)| number)
            .collect()
    };
    match &event.client_machine_id {
        Some(id) => {
            // Once in the request's block and once in the answer's, in turn.
            let lines = lines_with(&format!("Client machine ID               : {id}"));
            let pairs = lines.chunks_exact(2);
            pairs.map(|pair| pair[0]..pair[1]).collect()
        }
        None => {
            let name = event.workstation.as_deref().unwrap();
            let lines = lines_with(&format!(" request from {name} for "));
            lines.into_iter().map(|line| line..line).collect()
        }
    }
}
