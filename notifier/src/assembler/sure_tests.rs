//! What must not be told as sure: lines that are lost, mixed up or made up by a client.

use jiff::tz::TimeZone;

use super::tests::{A, B, CMID, Log, OTHER, answering, asking, feed, tell};
use super::*;
use crate::event::Attribution;

const C: &str = "192.0.2.200:1003";

/// The same lines, one of them with another value.
fn with(mut lines: Vec<String>, label: &str, value: &str) -> Vec<String> {
    let line = lines.iter_mut().find(|line| line.starts_with(label));
    *line.expect("a line with this label") = format!("{label:32}: {value}");
    lines
}

impl Log {
    fn all(&mut self, lines: &[String]) -> &mut Self {
        for line in lines {
            self.say(line);
        }
        self
    }
}

#[test]
fn who_closed_before_an_answer_was_given_up_may_have_asked() {
    let mut answer = answering(CMID);
    answer.pop();
    let mut log = Log::new();
    log.open(C).open(A).ask("PC1", CMID).all(&answer).close(A);
    log.at(90).open(B).close(B).close(C);
    let events = log.events();
    let event = events
        .iter()
        .find(|event| event.kind == EventKind::Activation);
    let event = event.expect("an activation");
    assert_ne!(tell(event), "activation 192.0.2.200 exact");
    let both = ["192.0.2.1", "192.0.2.200"].map(|ip| ip.parse().expect("an address"));
    assert!(
        both.iter().all(|ip| event.candidates.contains(ip)),
        "{event:?}"
    );
}

#[test]
fn who_was_there_before_the_log_was_joined_may_still_be() {
    // One who was never seen to connect asks now and then, and later somebody connects.
    let mut log = Log::late();
    for minute in [0, 4, 8] {
        log.at(minute * 60).request("PC1", CMID);
    }
    log.at(12 * 60).open(B).request("PC1", CMID);
    assert_eq!(
        log.told(),
        [
            "activation unknown",
            "activation unknown",
            "activation unknown",
            "activation 192.0.2.2 inferred"
        ]
    );
    // Who was never seen to connect closes: there may be more of that kind.
    let mut log = Log::new();
    log.close(C).open(B).request("PC1", CMID);
    assert_eq!(log.told(), ["activation 192.0.2.2 inferred"]);
}

#[test]
fn who_has_been_silent_for_long_may_still_ask() {
    let mut log = Log::new();
    log.open(A).at(12 * 60).open(B).request("PC1", CMID);
    log.close(B).close(A);
    assert!(!log.told().iter().any(|told| told.ends_with("exact")));
}

#[test]
fn a_line_that_two_may_have_written_makes_nobody_sure() {
    let (mut first, mut second) = (answering(CMID), answering(OTHER));
    let last = first.pop().expect("a last line");
    second.pop();
    let mut log = Log::new();
    log.open(A).open(B).ask("PC1", CMID).ask("PC2", OTHER);
    log.all(&first).all(&second).open(C);
    log.say(&last).close(B).say(&last).close(A).close(C);
    let told = log.told();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(!told.iter().any(|told| told.ends_with("exact")), "{told:?}");
}

#[test]
fn an_answer_that_two_may_have_got_makes_nobody_sure() {
    let mut log = Log::new();
    log.open(A)
        .open(B)
        .say("KMS v6.0 request from PC1 for Windows 7")
        .say("KMS v6.0 request from PC2 for Windows 7")
        .close(B)
        .say("Sending ePID (vlmcsd default): 06401")
        .say("Sending ePID (vlmcsd default): 06401")
        .close(A);
    let told = log.told();
    assert!(!told.iter().any(|told| told.ends_with("exact")), "{told:?}");
}

#[test]
fn cloned_machines_are_told_apart_by_their_time_and_their_version() {
    for (label, value) in [
        ("Client request timestamp (UTC)", "2026-03-14 08:30:00"),
        ("Protocol version", "5.0"),
    ] {
        let mut log = Log::new();
        log.open(A).open(B);
        log.ask("PC1", CMID)
            .all(&with(asking("PC2", CMID), label, value));
        // The second is answered first, and its client goes.
        let mut answer = with(answering(CMID), label, value);
        answer[2] = "KMS host extended PID           : second".into();
        if label == "Protocol version" {
            // Only version 6 answers with a hardware id.
            answer.remove(3);
        }
        log.all(&answer).close(B).answer(CMID).close(A);
        let events = log.events();
        let told: Vec<_> = events
            .iter()
            .filter_map(|event| {
                let workstation = event.request.as_deref()?.workstation.as_deref()?;
                Some((workstation, event.ip?.to_string(), event.epid.as_deref()?))
            })
            .collect();
        let second = told.iter().find(|(name, ..)| *name == "PC2");
        assert_eq!(second.map(|told| told.2), Some("second"), "{told:?}");
        let first = told.iter().find(|(name, ..)| *name == "PC1");
        assert!(first.is_some_and(|told| told.2.starts_with("06401")));
        let right = [
            ("PC1", "192.0.2.1".to_owned()),
            ("PC2", "192.0.2.2".to_owned()),
        ];
        for event in events
            .iter()
            .filter(|event| event.attribution == Some(Attribution::Exact))
        {
            let request = event.request.as_deref().expect("a request");
            let told = (request.workstation.as_deref(), event.ip);
            assert!(
                right.iter().any(|(name, ip)| told.0 == Some(*name)
                    && told.1.is_some_and(|told| told.to_string() == *ip)),
                "{told:?}"
            );
        }
    }
}

#[test]
fn a_refusal_goes_to_the_request_that_gives_cause_for_it() {
    let unknown = "11111111-2222-4333-8444-555555555555";
    let office = "0ff1ce15-a989-479d-af46-f275c6370663";
    for (label, value, refusal) in [
        (
            "N count policy (minimum clients)",
            "5000",
            "Rejecting request with more than 1000 minimum clients (0x8007000D)",
        ),
        (
            "Client request timestamp (UTC)",
            "2026-03-14 18:00:00",
            "Client time differs more than 4 hours from system time (0xC004F06C)",
        ),
        (
            "KMS ID (aka KMS counted ID)",
            unknown,
            "Refusing unknown product (0xC004F042)",
        ),
        (
            "Application ID",
            office,
            "Refusing product with incorrect Application ID (0xC004F042)",
        ),
    ] {
        let mut log = Log::new();
        log.at(8 * 3600).open(A).open(B).ask("PC1", CMID);
        log.all(&with(asking("PC2", OTHER), label, value)).open(C);
        log.say(refusal).close(B).answer(CMID).close(A);
        let events = log.events();
        let kind_of = |name: &str| {
            let is = |event: &&Event| {
                let request = event.request.as_deref();
                request.is_some_and(|request| request.workstation.as_deref() == Some(name))
            };
            events.iter().find(is).map(|event| event.kind)
        };
        assert_eq!(kind_of("PC1"), Some(EventKind::Activation), "{refusal}");
        assert_eq!(kind_of("PC2"), Some(EventKind::Refused), "{refusal}");
    }
}

#[test]
fn a_forged_line_of_an_answer_is_replaced_by_the_real_one() {
    for (forged, real) in [
        ("Activation interval policy      : 9", 8),
        ("KMS host current active clients : 9", 6),
    ] {
        let answer = answering(CMID);
        let mut log = Log::new();
        log.open(A).open(B).ask("PC1", CMID);
        log.all(&answer[..real]);
        // Another client's name brings the line that the first one's answer waits for.
        let name = format!("x\n2026-03-14 00:00:00: {forged}");
        log.ask(&name, OTHER).all(&answer[real..]).close(A);
        let events = log.events();
        let first = events.iter().find(|event| {
            let request = event.request.as_deref();
            request.is_some_and(|request| request.workstation.as_deref() == Some("PC1"))
        });
        let first = first.expect("the answered request");
        assert_eq!(first.active_clients, Some(50), "{forged}");
        let in_order = events.iter().any(|event| event.kind == EventKind::Probe);
        assert!(!in_order, "{events:?}");
    }
}

#[test]
fn a_quiet_name_that_ends_in_a_product_twice_is_one_name() {
    let name = "PC for Windows 7\n2026-03-14 00:00:00: Sending ePID (x): 1";
    let asked = format!("KMS v6.0 request from {name} for Office Project Pro 2016");
    let mut log = Log::new();
    log.open(A).say(&asked);
    log.say("Refusing unknown product (0xC004F042)").close(A);
    assert_eq!(log.told(), ["refused 192.0.2.1 exact"]);
    let mut log = Log::new();
    log.open(A).say(&asked);
    log.say("Sending ePID (vlmcsd default): 06401").close(A);
    let events = log.events();
    let event = events.last().expect("an event");
    assert_eq!(event.product(), Some("Office Project Pro 2016"));
    assert_eq!(event.epid.as_deref(), Some("06401"));
}

#[test]
fn a_forged_stamp_does_not_move_the_clock_in_a_repeated_hour() {
    let zone = TimeZone::get("Europe/Berlin").expect("a bundled zone");
    for forged in [
        "<<< Incoming KMS request",
        "IPv4 connection accepted: 1.2.3.4:5.",
    ] {
        let mut log = Log::new();
        let name = format!("x\n2026-10-25 03:59:59: {forged}");
        log.at(2 * 3600 + 600).open(A).request(&name, CMID).close(A);
        log.at(2 * 3600 + 1200).open(B).close(B);
        let lines: Vec<String> = log
            .lines
            .iter()
            .map(|line| line.replace("2026-03-14", "2026-10-25"))
            .collect();
        let mut assembler = Assembler::new("log".into(), zone.clone());
        let events = feed(&mut assembler, &lines);
        let last = events.last().and_then(|event| event.time);
        assert_eq!(
            last.map(|time| time.to_string()).as_deref(),
            Some("2026-10-25T02:20:00+02:00"),
            "{forged}"
        );
        assert!(
            events
                .iter()
                .any(|event| event.kind == EventKind::Activation)
        );
    }
}

#[test]
fn public_addresses_are_turned_away_in_the_order_they_came() {
    let (first, second) = ("203.0.113.5:1001", "203.0.113.6:1002");
    let rejected = "Client with public IP address rejected";
    let mut log = Log::new();
    log.open(first).open(second).say(rejected).close(first);
    log.say(rejected).close(second);
    assert_eq!(log.told(), ["dropped 203.0.113.5", "dropped 203.0.113.6"]);
}
