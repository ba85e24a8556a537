//! The whole policy against a simulated Slack and a simulated clock.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::message::{Body, Delivery, MAX_ROWS};
use super::outbox::{MAX_MESSAGES, Outcome, Settled};
use super::pace::{BURST, PER_MINUTE};
use super::testing::{activation, at, millis, refusal};
use super::{Classes, Policy, Settings};
use crate::event::{Dedup, Event, Kind};

/// A policy, its clock and a Slack that answers what it is told to.
struct World {
    policy: Policy,
    now: Timestamp,
    answer: Outcome,
    sent: Vec<(Timestamp, Body)>,
    attempts: Vec<Timestamp>,
}

impl World {
    fn new() -> Self {
        Self {
            policy: Policy::new(Settings::default(), 1),
            now: at(1_000_000),
            answer: Outcome::Accepted,
            sent: Vec::new(),
            attempts: Vec::new(),
        }
    }

    fn activate(&mut self, ip: &str, product: &str) -> Dedup {
        let mut event = activation(ip, product);
        self.policy.handle_event(&mut event, self.now);
        self.deliver();
        event.dedup.unwrap()
    }

    /// Delivers whatever is due now.
    fn deliver(&mut self) {
        while let Some(Delivery { id, body }) = self.policy.poll_delivery(self.now) {
            self.attempts.push(self.now);
            let settled = self
                .policy
                .handle_outcome(id, self.answer, self.now)
                .unwrap();
            if matches!(settled, Settled::Told { .. }) {
                self.sent.push((self.now, body));
            }
        }
    }

    /// Lets time pass as the driver does: from due time to due time.
    fn pass(&mut self, seconds: i64) {
        let end = self.now + SignedDuration::from_secs(seconds);
        self.deliver();
        while let Some(due) = self.policy.next_due().filter(|due| *due <= end) {
            assert!(due > self.now, "what is due was delivered");
            self.now = due;
            let attempts = self.attempts.len();
            self.deliver();
            assert!(self.attempts.len() > attempts, "what is due can be polled");
        }
        self.now = end;
    }

    /// How often each address was listed, alone or in a digest.
    fn listed(&self) -> HashMap<String, u64> {
        let mut listed = HashMap::new();
        for (_, body) in &self.sent {
            let rows = match body {
                Body::Notice(notice) => std::slice::from_ref(&**notice),
                Body::Digest(digest) => &digest.rows,
                Body::Alert(_) => &[],
            };
            for row in rows {
                *listed.entry(row.ip.unwrap().to_string()).or_insert(0) += 1;
            }
        }
        listed
    }

    fn events_told(&self) -> u64 {
        self.sent
            .iter()
            .map(|(_, body)| match body {
                Body::Notice(notice) => notice.count,
                Body::Digest(digest) => digest.events(),
                Body::Alert(_) => 0,
            })
            .sum()
    }

    fn digests(&self) -> usize {
        self.sent
            .iter()
            .filter(|(_, body)| matches!(body, Body::Digest(_)))
            .count()
    }

    /// Five at once, one a second, twenty a minute.
    fn check_rate(&self) {
        let times: Vec<i64> = self.attempts.iter().map(|at| millis(*at)).collect();
        for pair in times.windows(BURST + 1) {
            assert!(pair[BURST] - pair[0] >= 1000, "{pair:?}");
        }
        for pair in times.windows(PER_MINUTE + 1) {
            assert!(pair[PER_MINUTE] - pair[0] >= 60_000, "{pair:?}");
        }
    }
}

fn address(n: usize) -> String {
    format!("10.10.{}.{}", n / 200, n % 200 + 1)
}

#[test]
fn one_activation_is_one_message_at_once() {
    let mut world = World::new();
    assert_eq!(
        world.activate("10.10.107.224", "Windows 10 Professional"),
        Dedup::Post
    );
    let [(time, Body::Notice(notice))] = world.sent.as_slice() else {
        panic!("{:?}", world.sent)
    };
    assert_eq!(*time, world.now);
    assert_eq!(notice.source.as_deref(), Some("internal_pod"));
    assert_eq!(notice.count, 1);
    assert_eq!(world.policy.next_due(), None);
    assert!(world.policy.is_empty());
}

#[test]
fn five_at_once_are_five_messages_and_the_sixth_follows() {
    let mut world = World::new();
    for n in 0..6 {
        world.activate(&address(n), "Windows 10 Professional");
    }
    assert_eq!(world.sent.len(), 5);
    world.pass(1);
    assert_eq!(world.sent.len(), 6);
    assert_eq!(world.digests(), 0);
}

#[test]
fn a_batch_of_three_hundred_is_five_messages_and_a_digest() {
    let mut world = World::new();
    for n in 0..300 {
        let mut event = activation(&address(n), "Windows 10 Professional");
        world.policy.handle_event(&mut event, world.now);
    }
    world.pass(60);
    assert_eq!((world.sent.len(), world.digests()), (6, 1));
    let Body::Digest(digest) = &world.sent[5].1 else {
        panic!()
    };
    assert_eq!(
        (digest.rows.len(), digest.more_rows, digest.more_events),
        (MAX_ROWS, 255, 255)
    );
    assert_eq!(world.events_told(), 300);
    assert_eq!(world.policy.counters().outbox.folded, 295);
    // Listed keys are told; those that were only counted are free again.
    assert_eq!(
        world.activate(&address(44), "Windows 10 Professional"),
        Dedup::Repeat
    );
    assert_eq!(
        world.activate(&address(45), "Windows 10 Professional"),
        Dedup::Post
    );
}

#[test]
fn three_hundred_in_a_minute_are_told_once_each_in_few_messages() {
    let mut world = World::new();
    for n in 0..300 {
        world.activate(&address(n), "Windows 10 Professional");
        world.now += SignedDuration::from_millis(200);
        world.deliver();
    }
    world.pass(120);
    assert!(world.sent.len() <= 30, "{}", world.sent.len());
    assert!(world.listed().values().all(|&times| times == 1));
    assert_eq!(world.events_told(), 300);
    world.check_rate();
}

#[test]
fn a_night_without_slack_is_one_digest_and_then_fresh_messages() {
    let mut world = World::new();
    world.answer = Outcome::Retry;
    let mut dedup = HashMap::new();
    for n in 0..5000 {
        *dedup
            .entry(world.activate(&address(n % 300), "Windows 10 Professional"))
            .or_insert(0) += 1;
        world.pass(6);
    }
    assert_eq!(
        dedup,
        HashMap::from([(Dedup::Post, 300), (Dedup::Pending, 4700)])
    );
    assert_eq!(
        (world.policy.len(), world.policy.unsent_events()),
        (300, 5000)
    );
    world.check_rate();

    world.answer = Outcome::Accepted;
    world.pass(60);
    assert_eq!((world.sent.len(), world.digests()), (1, 1));
    assert_eq!(world.events_told(), 5000);
    assert!(world.policy.is_empty());
    assert_eq!(
        world.activate("192.168.1.9", "Windows 10 Professional"),
        Dedup::Post
    );
    assert_eq!(world.sent.len(), 2);
    assert_eq!(world.digests(), 1);
}

#[test]
fn a_single_late_message_leaves_alone() {
    let mut world = World::new();
    world.answer = Outcome::Retry;
    world.activate("10.10.0.1", "Windows 10 Professional");
    world.pass(1000);
    world.answer = Outcome::Accepted;
    world.pass(60);
    assert_eq!((world.sent.len(), world.digests()), (1, 0));
}

#[test]
fn a_full_queue_counts_and_loses_nothing() {
    let mut world = World::new();
    world.answer = Outcome::RetryAfter(Duration::from_secs(600));
    for n in 0..MAX_MESSAGES + 50 {
        let ip = format!("10.20.{}.{}", n / 200, n % 200);
        let expected = if n < MAX_MESSAGES {
            Dedup::Post
        } else {
            Dedup::Pending
        };
        assert_eq!(world.activate(&ip, "Office 2019"), expected);
    }
    assert_eq!(world.policy.len(), MAX_MESSAGES);
    assert_eq!(world.policy.unsent_events(), MAX_MESSAGES as u64 + 50);
    assert_eq!(world.policy.counters().outbox.overflowed, 50);
    assert!(world.policy.counters().evicted_keys > 0);

    // A failed digest keeps its counts, and events that come meanwhile.
    world.pass(600);
    assert_eq!(world.policy.unsent_events(), MAX_MESSAGES as u64 + 50);
    world.answer = Outcome::Accepted;
    world.pass(601);
    assert_eq!(world.events_told(), MAX_MESSAGES as u64 + 50);
    assert_eq!(world.sent.len(), 1);
    assert!(world.policy.is_empty());
}

#[test]
fn events_beyond_the_queue_are_told_even_when_nothing_else_waits() {
    let mut world = World::new();
    world.answer = Outcome::Retry;
    for n in 0..MAX_MESSAGES {
        world.activate(&format!("10.20.{}.{}", n / 200, n % 200), "Office 2019");
    }
    world.now += SignedDuration::from_secs(600);
    let digest = world.policy.poll_delivery(world.now).unwrap();
    let mut late = activation("192.168.1.1", "Office 2019");
    world.policy.handle_event(&mut late, world.now);
    assert_eq!(late.dedup, Some(Dedup::Pending));
    world
        .policy
        .handle_outcome(digest.id, Outcome::Accepted, world.now)
        .unwrap();
    assert!(!world.policy.is_empty());
    world.answer = Outcome::Accepted;
    world.pass(60);
    let [(_, Body::Digest(digest))] = world.sent.as_slice() else {
        panic!()
    };
    assert_eq!((digest.rows.len(), digest.overflow), (0, 1));
    assert!(world.policy.is_empty());
}

#[test]
fn retry_after_is_honoured_and_a_final_answer_frees_the_key() {
    let mut world = World::new();
    world.answer = Outcome::RetryAfter(Duration::from_secs(30));
    let start = world.now;
    world.activate("10.10.0.1", "Office 2019");
    world.answer = Outcome::Final(404);
    world.pass(60);
    assert_eq!(
        world.attempts,
        [start, start + SignedDuration::from_secs(30)]
    );
    assert_eq!(world.policy.counters().outbox.dropped, 1);
    assert!(world.policy.is_empty());
    world.answer = Outcome::Accepted;
    assert_eq!(world.activate("10.10.0.1", "Office 2019"), Dedup::Post);
}

#[test]
fn joined_and_muted_events_are_mentioned() {
    let mut world = World::new();
    let mut event = activation("10.10.0.1", "Office 2019");
    world.policy.handle_event(&mut event, world.now);
    assert_eq!(event.dedup, Some(Dedup::Post));
    world.policy.handle_event(&mut event, world.now);
    assert_eq!(event.dedup, Some(Dedup::Pending));
    let delivery = world.policy.poll_delivery(world.now).unwrap();
    let Body::Notice(notice) = &delivery.body else {
        panic!()
    };
    assert_eq!((notice.count, notice.repeats), (2, 0));
    // Too late for that message: the next one says so.
    world.policy.handle_event(&mut event, world.now);
    assert_eq!(event.dedup, Some(Dedup::Pending));
    assert_eq!(
        world
            .policy
            .handle_outcome(delivery.id, Outcome::Accepted, world.now),
        Some(Settled::Told { events: 2 })
    );
    assert_eq!(
        world
            .policy
            .handle_outcome(delivery.id, Outcome::Accepted, world.now),
        None
    );
    assert_eq!(world.activate("10.10.0.1", "Office 2019"), Dedup::Repeat);
    world.pass(3600);
    assert_eq!(world.activate("10.10.0.1", "Office 2019"), Dedup::Post);
    let Body::Notice(notice) = &world.sent[0].1 else {
        panic!()
    };
    assert_eq!((notice.count, notice.repeats), (1, 2));
}

#[test]
fn draining_sends_what_waits_as_one() {
    let mut world = World::new();
    for n in 0..8 {
        world.activate(&address(n), "Office 2019");
    }
    assert_eq!(world.policy.len(), 3);
    world.policy.start_draining();
    world.pass(1);
    assert_eq!((world.sent.len(), world.digests()), (6, 1));
    assert!(world.policy.is_empty());
}

#[test]
fn probes_suspects_and_unwanted_refusals_are_never_posted() {
    let mut world = World::new();
    let mut decide = |mut event: Event| {
        world.policy.handle_event(&mut event, world.now);
        (event.source.as_deref().map(str::to_owned), event.dedup)
    };
    let node = Some("cluster_node".to_owned());
    let probe = Event {
        kind: Kind::Probe,
        request: None,
        ..activation("10.0.20.103", "")
    };
    assert_eq!(decide(probe), (node.clone(), None));
    assert_eq!(
        decide(refusal("10.0.20.103", "Office 2019")),
        (node.clone(), None)
    );
    let suspect = Event {
        suspect: true,
        ..activation("10.0.20.103", "Office 2019")
    };
    assert_eq!(decide(suspect), (node, Some(Dedup::Off)));
    let started = Event {
        kind: Kind::ServerStarted,
        ip: None,
        ..activation("10.0.0.1", "")
    };
    assert_eq!(decide(started), (None, None));
    assert!(world.policy.is_empty());
}

#[test]
fn wanted_refusals_are_posted_and_do_not_mute_activations() {
    let mut world = World::new();
    world.policy.reload(Settings {
        post_refused: true,
        ..Settings::default()
    });
    let mut refused = refusal("10.0.20.103", "Office 2019");
    world.policy.handle_event(&mut refused, world.now);
    assert_eq!(refused.dedup, None);
    assert_eq!(world.activate("10.0.20.103", "Office 2019"), Dedup::Post);
    assert_eq!(world.sent.len(), 2);
    world.policy.handle_event(&mut refused, world.now);
    assert!(
        world.policy.is_empty(),
        "the second refusal repeats the first"
    );
}

#[test]
fn a_replay_decides_as_a_run_whose_slack_accepts_at_once() {
    let mut replay = Policy::for_replay(Settings::default());
    let mut world = World::new();
    for n in 0..2000 {
        let mut event = activation(&address(n * n % 7), "Office 2019");
        replay.handle_event(&mut event, world.now);
        assert_eq!(
            event.dedup,
            Some(world.activate(&address(n * n % 7), "Office 2019"))
        );
        world.pass(7);
    }
    assert_eq!(
        replay.poll_delivery(world.now).map(|delivery| delivery.id),
        None
    );
    assert_eq!((replay.next_due(), replay.is_empty()), (None, true));
}

#[test]
fn reload_changes_classes_and_window() {
    let mut world = World::new();
    assert_eq!(world.activate("192.168.1.9", "Office 2019"), Dedup::Post);
    let lan = [("lan".to_owned(), vec!["192.168.0.0/16".parse().unwrap()])];
    let classes = Classes::new(&lan.into()).unwrap();
    let dedup_window = Duration::ZERO;
    world.policy.reload(Settings {
        classes,
        dedup_window,
        ..Settings::default()
    });
    assert_eq!(world.activate("192.168.1.9", "Office 2019"), Dedup::Post);
    let Body::Notice(notice) = &world.sent[1].1 else {
        panic!()
    };
    assert_eq!(notice.source.as_deref(), Some("lan"));
}

#[test]
fn a_clock_set_back_does_not_stop_delivery() {
    let mut world = World::new();
    for n in 0..8 {
        world.activate(&address(n), "Office 2019");
    }
    world.now -= SignedDuration::from_hours(2);
    world.deliver();
    world.pass(5);
    assert!(world.policy.is_empty());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Activate { client: usize, product: u8 },
    Pass { millis: i64 },
    Poll,
    Answer(Outcome),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Accepted),
        2 => Just(Outcome::Retry),
        1 => (0_u64..100).prop_map(|s| Outcome::RetryAfter(Duration::from_secs(s))),
        1 => Just(Outcome::Final(404)),
    ];
    prop_oneof![
        6 => (0_usize..60, 0_u8..2).prop_map(|(client, product)| Step::Activate { client, product }),
        2 => (-2_000_i64..20_000).prop_map(|millis| Step::Pass { millis }),
        3 => Just(Step::Poll),
        3 => outcome.prop_map(Step::Answer),
    ]
}

proptest! {
    /// Whatever happens in whatever order: every message is told, dropped or
    /// waiting; every event is in a message, muted, or mentioned later; and the
    /// rate holds.
    #[test]
    fn nothing_is_lost(steps in prop::collection::vec(step(), 1..400)) {
        let mut world = World::new();
        let mut flight: Option<Delivery> = None;
        let (mut posts, mut pending, mut told, mut dropped) = (0, 0, 0, 0);
        let mut clock_went_back = false;
        for step in steps {
            match step {
                Step::Activate { client, product } => {
                    let mut event = activation(&address(client), ["Office", "Windows"][usize::from(product)]);
                    world.policy.handle_event(&mut event, world.now);
                    match event.dedup {
                        Some(Dedup::Post) => posts += 1,
                        Some(Dedup::Pending) => pending += 1,
                        _ => {}
                    }
                }
                Step::Pass { millis } => {
                    clock_went_back |= millis < 0;
                    world.now += SignedDuration::from_millis(millis);
                }
                Step::Poll => {
                    let due = world.policy.next_due();
                    match world.policy.poll_delivery(world.now) {
                        Some(delivery) => {
                            prop_assert!(flight.is_none(), "one at a time");
                            world.attempts.push(world.now);
                            flight = Some(delivery);
                        }
                        None => prop_assert!(
                            due.is_none_or(|due| due > world.now) || clock_went_back
                        ),
                    }
                }
                Step::Answer(outcome) => {
                    let Some(delivery) = flight.take() else { continue };
                    match world.policy.handle_outcome(delivery.id, outcome, world.now) {
                        Some(Settled::Told { events }) => told += events,
                        Some(Settled::Dropped { events }) => dropped += events,
                        Some(Settled::Again { .. }) => {}
                        Some(Settled::Unheard(_)) => prop_assert!(false, "there are no alerts"),
                        None => prop_assert!(false, "it was under way"),
                    }
                }
            }
            let unsent = world.policy.unsent_events();
            let settled = told + dropped + unsent;
            prop_assert!(settled <= posts + pending);
            prop_assert!(world.policy.len() as u64 <= unsent);
            // Without an attempt that settled, nothing can have joined too late.
            if told + dropped == 0 {
                prop_assert_eq!(unsent, posts + pending);
            }
        }
        if !clock_went_back {
            world.check_rate();
        }
    }
}
