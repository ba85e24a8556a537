//! The policy, killed and started again: what it stores is what it was.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::dead::MAX_DEAD;
use super::message::{Alert, Body};
use super::rows::Table;
use super::testing::{Disk, activation, at, refusal};
use super::{Outcome, Policy, Selection, Settings, Settled};
use crate::event::{Dedup, EventTime};

/// The `n`th event of the log is decided.
fn decide(policy: &mut Policy, n: u64, ip: &str, now: Timestamp) -> Dedup {
    let mut event = activation(ip, "Office 2019");
    event.id.0 = u128::from(n).to_be_bytes();
    policy.handle_event(&mut event, now);
    event.dedup.unwrap()
}

#[test]
fn window_and_outbox_outlive_a_crash() {
    let mut disk = Disk::default();
    let mut policy = disk.start();
    decide(&mut policy, 1, "10.0.0.1", at(0));
    decide(&mut policy, 2, "10.0.0.2", at(0));
    let told = policy.poll_delivery(at(0)).unwrap();
    policy.handle_outcome(told.id, Outcome::Accepted, at(0));
    policy.handle_position(&"vlmcsd.log".into());
    assert!(policy.has_changed());
    disk.write(policy.take_changes(false));
    assert!(!policy.has_changed());

    // One is under way when the lights go out; nobody knows what became of it.
    assert!(policy.poll_delivery(at(0)).is_some());
    let mut policy = disk.start();
    assert_eq!(decide(&mut policy, 3, "10.0.0.1", at(10)), Dedup::Repeat);
    assert_eq!(decide(&mut policy, 4, "10.0.0.2", at(10)), Dedup::Pending);
    let again = policy.poll_delivery(at(10)).unwrap();
    let Body::Notice(notice) = &again.body else {
        panic!()
    };
    assert_eq!((notice.ip, notice.count), ("10.0.0.2".parse().ok(), 2));
    assert_eq!(notice.status, Some("Notification"));
    policy.handle_outcome(again.id, Outcome::Accepted, at(10));
    // The next post says how often the client was seen since.
    assert_eq!(decide(&mut policy, 5, "10.0.0.1", at(3600)), Dedup::Post);
    let Body::Notice(notice) = policy.poll_delivery(at(3600)).unwrap().body else {
        panic!()
    };
    assert_eq!(notice.repeats, 1);
}

#[test]
fn an_event_that_is_read_again_changes_nothing() {
    let mut disk = Disk::default();
    let mut policy = disk.start();
    let lines = ["10.0.0.1", "10.0.0.2", "10.0.0.1"];
    let read = |policy: &mut Policy, now| -> Vec<Dedup> {
        let lines = (100..).zip(lines);
        lines.map(|(n, ip)| decide(policy, n, ip, now)).collect()
    };
    let decided = read(&mut policy, at(0));
    assert_eq!(decided, [Dedup::Post, Dedup::Post, Dedup::Pending]);
    disk.write(policy.take_changes(false));
    let mut policy = disk.start();
    let before = policy.unsent_events();
    assert_eq!(before, 3);
    assert_eq!(read(&mut policy, at(1)), decided);
    assert_eq!(policy.unsent_events(), before);
    policy.handle_position(&"vlmcsd.log".into());
    assert_eq!(read(&mut policy, at(1)), [Dedup::Pending; 3]);
    assert_eq!(policy.unsent_events(), before + 3);
}

#[test]
fn the_pace_outlives_a_crash() {
    let mut disk = Disk::default();
    let mut policy = disk.start();
    decide(&mut policy, 9, "10.0.0.1", at(100));
    let delivery = policy.poll_delivery(at(100)).unwrap();
    let wait = Outcome::RetryAfter(Duration::from_secs(600));
    policy.handle_outcome(delivery.id, wait, at(100));
    disk.write(policy.take_changes(false));
    assert_eq!(disk.start().next_due(), Some(at(700)));
}

#[test]
fn refused_messages_are_kept_until_somebody_decides() {
    let mut disk = Disk::default();
    let mut policy = disk.start();
    for (n, ip) in (100..).zip(["10.0.0.1", "10.0.0.2", "10.0.0.3"]) {
        decide(&mut policy, n, ip, at(0));
        let delivery = policy.poll_delivery(at(0)).unwrap();
        let settled = policy.handle_outcome(delivery.id, Outcome::Final(404), at(0));
        assert_eq!(settled, Some(Settled::Dropped { events: 1 }));
    }
    disk.write(policy.take_changes(false));
    let mut policy = disk.start();
    let letters: Vec<(u64, u16)> = policy.dead_letters().map(|l| (l.id, l.status)).collect();
    assert_eq!(letters, [(0, 404), (1, 404), (2, 404)]);
    assert!(policy.is_empty());

    assert_eq!(policy.drop_dead_letters(&Selection::Ids(vec![0, 77])), 1);
    assert_eq!(
        policy.retry_dead_letters(&Selection::Ids(vec![2]), at(9)),
        1
    );
    disk.write(policy.take_changes(false));
    let mut policy = disk.start();
    assert_eq!(policy.dead_letters().map(|l| l.id).collect::<Vec<_>>(), [1]);
    let delivery = policy.poll_delivery(at(9)).unwrap();
    let Body::Notice(notice) = &delivery.body else {
        panic!()
    };
    assert_eq!(notice.ip, "10.0.0.3".parse().ok());
    policy.handle_position(&"vlmcsd.log".into());
    assert_eq!(
        decide(&mut policy, 10, "10.0.0.3", at(9)),
        Dedup::Pending,
        "its key is taken"
    );
    policy.handle_outcome(delivery.id, Outcome::Accepted, at(9));
    assert_eq!(decide(&mut policy, 11, "10.0.0.3", at(9)), Dedup::Repeat);
    assert_eq!(policy.retry_dead_letters(&Selection::All, at(9)), 1);
    disk.write(policy.take_changes(false));
    assert!(!disk.0.keys().any(|(table, _)| *table == Table::DeadLetters));
}

#[test]
fn dead_letters_are_bounded() {
    let mut policy = Disk::default().start();
    policy.reload(Settings {
        dedup_window: Duration::ZERO,
        ..Settings::default()
    });
    let mut now = at(0);
    for n in 0..MAX_DEAD + 20 {
        let mut event = activation(&format!("10.0.{}.{}", n / 250, n % 250), "Office 2019");
        policy.handle_event(&mut event, now);
        if n % 10 == 9 {
            now += SignedDuration::from_secs(60);
            let delivery = policy.poll_delivery(now).unwrap();
            policy.handle_outcome(delivery.id, Outcome::Final(410), now);
        }
    }
    assert_eq!(policy.dead_letters().count(), MAX_DEAD);
    assert_eq!(policy.counters().outbox.evicted_dead, 20);
    assert_eq!(policy.dead_letters().next().unwrap().id, 20);
}

#[test]
fn alerts_go_first_and_are_not_forgotten() {
    let mut disk = Disk::default();
    let mut policy = disk.start();
    decide(&mut policy, 12, "10.0.0.1", at(0));
    let alert = Alert {
        title: "title".into(),
        text: "text".into(),
    };
    policy.handle_alert(alert.clone());
    disk.write(policy.take_changes(false));
    let mut policy = disk.start();
    for outcome in [Outcome::Retry, Outcome::Accepted] {
        let delivery = policy
            .poll_delivery(at(50))
            .or_else(|| policy.poll_delivery(at(90)));
        let delivery = delivery.unwrap();
        assert!(matches!(&delivery.body, Body::Alert(told) if *told == alert));
        assert!(!policy.is_empty());
        policy.handle_outcome(delivery.id, outcome, at(50));
    }
    assert!(matches!(
        policy.poll_delivery(at(100)).unwrap().body,
        Body::Notice(_)
    ));
}

fn alert(n: usize) -> Alert {
    Alert {
        title: format!("KMS log {n}").into(),
        text: "text".into(),
    }
}

#[test]
fn alerts_wait_in_the_outbox_as_messages_do() {
    let mut disk = Disk::default();
    let mut policy = disk.start();
    policy.handle_alert(alert(0));
    assert_eq!(policy.len(), 1);
    let delivery = policy.poll_delivery(at(0)).unwrap();
    assert_eq!(policy.len(), 1, "on its way");
    policy.handle_outcome(delivery.id, Outcome::Retry, at(0));
    assert_eq!(policy.len(), 1, "to be tried again");
    disk.write(policy.take_changes(false));
    let mut policy = disk.start();
    assert_eq!(policy.len(), 1);
    let delivery = policy.poll_delivery(at(90)).unwrap();
    policy.handle_outcome(delivery.id, Outcome::Accepted, at(90));
    assert_eq!(policy.len(), 0);
}

#[test]
fn there_is_room_for_the_alerts_of_all_logs_at_once() {
    let (mut disk, mut now, mut told) = (Disk::default(), at(0), Vec::new());
    let mut policy = disk.start();
    // Each of 64 logs may be silent, heard again and no longer understood.
    for n in 0..3 * 64 + 1 {
        policy.handle_alert(alert(n));
    }
    disk.write(policy.take_changes(false));
    let mut policy = disk.start();
    while !policy.is_empty() {
        now += SignedDuration::from_secs(3);
        let delivery = policy.poll_delivery(now).unwrap();
        policy.handle_outcome(delivery.id, Outcome::Accepted, now);
        let Body::Alert(alert) = delivery.body else {
            panic!()
        };
        told.push(alert);
    }
    assert_eq!(told, (0..3 * 64 + 1).map(alert).collect::<Vec<_>>());
}

#[test]
fn alerts_beyond_the_bound_push_out_the_oldest_and_are_counted() {
    let mut policy = Disk::default().start();
    for n in 0..256 {
        policy.handle_alert(alert(n));
    }
    let first = policy.poll_delivery(at(0)).unwrap();
    assert_eq!(policy.counters().outbox.evicted_alerts, 0);
    for n in 256..260 {
        policy.handle_alert(alert(n));
    }
    policy.handle_outcome(first.id, Outcome::Retry, at(0));
    assert_eq!(policy.len(), 256);
    assert_eq!(policy.counters().outbox.evicted_alerts, 4);
    for (n, now) in [(0, 60), (5, 61)] {
        let delivery = policy.poll_delivery(at(now)).unwrap();
        assert!(matches!(&delivery.body, Body::Alert(told) if *told == alert(n)));
        policy.handle_outcome(delivery.id, Outcome::Accepted, at(now));
    }
}

#[test]
fn an_alert_that_is_refused_for_good_is_handed_back() {
    let mut policy = Disk::default().start();
    policy.handle_alert(alert(0));
    let delivery = policy.poll_delivery(at(0)).unwrap();
    let settled = policy.handle_outcome(delivery.id, Outcome::Final(404), at(0));
    assert_eq!(settled, Some(Settled::Unheard(alert(0))));
    assert_eq!((policy.len(), policy.dead_letters().count()), (0, 0));
    assert_eq!(policy.counters().outbox.dropped, 1);
}

#[test]
fn what_is_old_is_told_in_digests_only() {
    let day = 24 * 3600;
    let now = at(10 * day);
    let mut policy = Disk::default().start();
    let read = |policy: &mut Policy, ip: &str, age: i64| {
        let mut event = activation(ip, "Office 2019");
        event.time = Some(EventTime::utc(now - SignedDuration::from_secs(age)));
        policy.handle_event(&mut event, now);
    };
    read(&mut policy, "10.0.0.1", day + 1);
    read(&mut policy, "10.0.0.2", day);
    read(&mut policy, "10.0.0.3", 5 * day);
    // The fresh one passes, the old ones are held for company.
    let fresh = policy.poll_delivery(now).unwrap();
    let Body::Notice(notice) = &fresh.body else {
        panic!()
    };
    assert_eq!(notice.ip, "10.0.0.2".parse().ok());
    policy.handle_outcome(fresh.id, Outcome::Accepted, now);
    let held = now + SignedDuration::from_secs(5);
    assert!(policy.poll_delivery(now).is_none());
    assert_eq!(policy.next_due(), Some(held));
    let digest = policy.poll_delivery(held).unwrap();
    let Body::Digest(rows) = &digest.body else {
        panic!()
    };
    assert_eq!(rows.rows.len(), 2);
    // After a failure they are in their places, and still no news.
    policy.handle_outcome(digest.id, Outcome::Retry, held);
    let later = held + SignedDuration::from_secs(60);
    read(&mut policy, "10.0.0.4", 0);
    let digest = policy.poll_delivery(later).unwrap();
    assert!(matches!(&digest.body, Body::Digest(digest) if digest.rows.len() == 2));
    policy.handle_outcome(digest.id, Outcome::Accepted, later);
    assert!(matches!(
        policy.poll_delivery(later).unwrap().body,
        Body::Notice(_)
    ));
    // One alone is a digest, too; at the end it waits for nobody.
    let mut policy = Disk::default().start();
    read(&mut policy, "10.0.0.5", 2 * day);
    policy.start_draining();
    assert!(matches!(
        policy.poll_delivery(now).unwrap().body,
        Body::Digest(_)
    ));
}

#[test]
fn a_night_without_slack_and_with_crashes_is_one_digest() {
    let mut disk = Disk::default();
    let mut policy = disk.start();
    let mut now = at(1_000_000);
    let (mut largest, log): (usize, Arc<str>) = (0, "vlmcsd.log".into());
    for n in 0..5000_u64 {
        let client = n % 300;
        let ip = format!("10.10.{}.{}", client / 200, client % 200);
        decide(&mut policy, n, &ip, now);
        if let Some(delivery) = policy.poll_delivery(now) {
            policy.handle_outcome(delivery.id, Outcome::Retry, now);
        }
        if n % 3 == 0 {
            policy.handle_position(&log);
        }
        disk.write(policy.take_changes(false));
        largest = largest.max(disk.bytes());
        if n % 7 == 0 {
            policy = disk.start();
        }
        now += SignedDuration::from_secs(6);
    }
    assert_eq!(policy.unsent_events(), 5000);
    assert_eq!(policy.len(), 300);
    assert!(largest < 128 * 1024, "{largest} bytes");
    now += SignedDuration::from_secs(60);
    let delivery = policy.poll_delivery(now).unwrap();
    let Body::Digest(digest) = &delivery.body else {
        panic!()
    };
    assert_eq!(digest.events(), 5000);
    policy.handle_outcome(delivery.id, Outcome::Accepted, now);
    disk.write(policy.take_changes(false));
    assert!(disk.start().is_empty());
}

/// The layout of each table. A change here needs a new schema version
/// (`sink::state`), and a way from the old one.
#[test]
fn the_layout_of_version_1() {
    let mut policy = Disk::default().start();
    let mut told = activation("10.0.0.1", "Office");
    told.time = Some(EventTime::utc(at(1)));
    policy.handle_event(&mut told, at(2));
    let delivery = policy.poll_delivery(at(2)).unwrap();
    policy.handle_outcome(delivery.id, Outcome::Accepted, at(3));
    let mut dead = activation("2001:db8::1", "Office");
    dead.attribution = Some(crate::event::Attribution::Ambiguous);
    dead.candidates = vec!["2001:db8::1".parse().unwrap()];
    policy.handle_event(&mut dead, at(4));
    let delivery = policy.poll_delivery(at(4)).unwrap();
    policy.handle_outcome(delivery.id, Outcome::Final(404), at(5));
    policy.reload(Settings {
        post_refused: true,
        ..Settings::default()
    });
    policy.handle_event(&mut refusal("10.0.0.2", "Office"), at(6));
    policy.handle_alert(Alert {
        title: "t".into(),
        text: "x".into(),
    });
    let mut disk = Disk::default();
    disk.write(policy.take_changes(true));
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let rows: Vec<String> = disk
        .0
        .iter()
        .filter(|((table, _), _)| *table != Table::Known)
        .map(|((table, key), value)| format!("{table:?} {} = {}", hex(key), hex(value)))
        .collect();
    insta::assert_snapshot!(rows.join("\n"));
}

#[derive(Clone, Debug)]
enum Step {
    Read(u8),
    Poll,
    Answer(Outcome),
    Position,
    Save,
    Kill,
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        3 => Just(Outcome::Accepted),
        1 => Just(Outcome::Retry),
        1 => Just(Outcome::Final(400)),
    ];
    prop_oneof![
        6 => (0_u8..8).prop_map(Step::Read),
        3 => Just(Step::Poll),
        3 => outcome.prop_map(Step::Answer),
        1 => Just(Step::Position),
        3 => Just(Step::Save),
        1 => Just(Step::Kill),
        2 => (0_i64..100).prop_map(Step::Wait),
    ]
}

proptest! {
    /// A driver that saves before a message leaves and after it was settled, and
    /// reads again from the last position after a crash: what is stored in
    /// pieces is what a whole save would hold, and no event is lost or counted twice.
    #[test]
    fn crashes_lose_nothing(steps in prop::collection::vec(step(), 1..200)) {
        let log: Arc<str> = "vlmcsd.log".into();
        let mut disk = Disk::default();
        let mut policy = disk.start();
        // The log: who asked; what is behind the position is read again.
        let (mut lines, mut position, mut stored): (Vec<u8>, usize, usize) = (Vec::new(), 0, 0);
        let (mut flight, mut now) = (None, at(0));
        let (mut told, mut gone) = (0_u64, 0_u64);
        for step in steps {
            match step {
                Step::Read(who) => lines.push(who),
                Step::Poll if flight.is_none() => {
                    disk.write(policy.take_changes(false));
                    stored = position;
                    flight = policy.poll_delivery(now);
                }
                Step::Answer(outcome) => if let Some(delivery) = flight.take() {
                    match policy.handle_outcome(delivery.id, outcome, now) {
                        Some(Settled::Told { events }) => told += events,
                        Some(Settled::Dropped { events }) => gone += events,
                        _ => {}
                    }
                    disk.write(policy.take_changes(false));
                    stored = position;
                },
                Step::Position => {
                    policy.handle_position(&log);
                    position = lines.len();
                }
                Step::Save => {
                    disk.write(policy.take_changes(false));
                    stored = position;
                    let mut whole = Disk::default();
                    whole.write(policy.take_changes(true));
                    prop_assert_eq!(&whole, &disk);
                }
                Step::Kill => {
                    policy = disk.start();
                    flight = None;
                    position = stored;
                }
                Step::Wait(seconds) => now += SignedDuration::from_secs(seconds),
                Step::Poll => {}
            }
            // All that is new, or was behind the position, is read.
            for (n, who) in (0..).zip(&lines).skip(position) {
                decide(&mut policy, n, &format!("10.0.0.{who}"), now);
            }
        }
        let read = lines.len() as u64;
        prop_assert!(told + gone + policy.unsent_events() <= read);
        if told + gone == 0 {
            prop_assert_eq!(policy.unsent_events(), read);
        }
    }
}
