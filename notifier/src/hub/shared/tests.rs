//! Two sidecars, the store that they share and their Slack, in simulated time.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::SignedDuration;
use proptest::prelude::*;
use tokio::sync::mpsc::{Receiver, channel};

use super::*;
use crate::dedup_store::CLAIM_LIFE;
use crate::dedup_store::model::ModelStore;
use crate::event::{self, Dedup, Event};
use crate::hub::product_label;
use crate::policy::testing::{Disk, activation, at};
use crate::policy::{Body, Delivery, Outcome, Selection};

/// Windows 10/11 Enterprise.
const ENTERPRISE: uuid::Uuid = uuid::uuid!("73111121-5638-40f6-bc11-f1d7b0d64300");

const WINDOW: Duration = Duration::from_secs(3600);

/// How often anybody looks at the clock here; less than a claim's renewals.
const TICK: Duration = Duration::from_secs(5);

/// What a call to the store comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Nothing arrives.
    Closed,
    /// All arrives, and no answer comes back.
    Mute,
}

struct Sidecar {
    policy: Policy,
    shared: Shared,
    asked: Receiver<Vec<Request>>,
    disk: Disk,
    flight: Option<Delivery>,
    way: Way,
    /// Its log, which is read again from the beginning after a crash.
    log: Vec<(u64, u8)>,
}

struct World {
    store: ModelStore,
    sidecars: [Sidecar; 2],
    base: Instant,
    passed: Duration,
    /// By client, when a reader saw a message about it.
    told: BTreeMap<IpAddr, Vec<Duration>>,
    events: Vec<(IpAddr, Duration)>,
}

fn ip(client: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, client])
}

impl Sidecar {
    fn start(seed: u64, disk: Disk, log: Vec<(u64, u8)>, at: (Instant, Timestamp)) -> Self {
        let (now, wall) = at;
        let mut policy = disk.start_with(seed);
        policy.share(wall);
        let (store, asked) = channel(1);
        Self {
            shared: Shared::new(WINDOW, policy.sidecar(), store, now),
            policy,
            asked,
            disk,
            flight: None,
            way: Way::Open,
            log,
        }
    }

    fn read(&mut self, number: u64, client: u8, wall: Timestamp) -> Dedup {
        let mut event = activation(&ip(client).to_string(), "Office 2019");
        event.id.0 = u128::from(number).to_be_bytes();
        self.policy.handle_event(&mut event, wall);
        event.dedup.unwrap()
    }

    fn save(&mut self) {
        self.disk.write(self.policy.take_changes(false));
    }

    /// Talks to the store until there is nothing to say.
    fn agree(&mut self, store: &mut ModelStore, now: Instant, wall: Timestamp) {
        loop {
            self.shared.exchange(&mut self.policy, now, wall);
            let Ok(requests) = self.asked.try_recv() else {
                return;
            };
            let mut answers = Vec::new();
            if self.way != Way::Closed {
                answers.extend(requests.iter().map(|request| store.carry_out(request, now)));
            }
            let answers = match self.way {
                Way::Open => Ok(answers),
                Way::Closed | Way::Mute => Err(StoreError("away".to_owned())),
            };
            self.shared.handle_answers(answers, now);
        }
    }
}

impl World {
    fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "some instant for simulated time to start from"
        )]
        let base = Instant::now();
        let start = |seed| {
            let mut sidecar =
                Sidecar::start(seed, Disk::default(), Vec::new(), (base, at(1_000_000)));
            sidecar.save();
            sidecar
        };
        Self {
            store: ModelStore::default(),
            sidecars: [start(1), start(2)],
            base,
            passed: Duration::ZERO,
            told: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    fn now(&self) -> (Instant, Timestamp) {
        let passed = SignedDuration::try_from(self.passed).unwrap();
        (self.base + self.passed, at(1_000_000) + passed)
    }

    fn agree(&mut self) {
        let (now, wall) = self.now();
        for sidecar in &mut self.sidecars {
            sidecar.agree(&mut self.store, now, wall);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.passed + time;
        while self.passed < end {
            self.passed = (self.passed + TICK).min(end);
            self.agree();
        }
    }

    fn read(&mut self, who: usize, client: u8) -> Dedup {
        let number = self.events.len() as u64;
        self.events.push((ip(client), self.passed));
        let (now, wall) = self.now();
        let sidecar = &mut self.sidecars[who];
        sidecar.log.push((number, client));
        let dedup = sidecar.read(number, client, wall);
        sidecar.agree(&mut self.store, now, wall);
        dedup
    }

    /// A message leaves if one is due; whether one did.
    fn post(&mut self, who: usize) -> bool {
        let (_, wall) = self.now();
        let sidecar = &mut self.sidecars[who];
        if sidecar.flight.is_none() {
            sidecar.save();
            sidecar.flight = sidecar.policy.poll_delivery(wall);
        }
        sidecar.flight.is_some()
    }

    /// Slack answers what is on its way; `Retry` may also mean that it took it.
    fn answer(&mut self, who: usize, outcome: Outcome, taken: bool) {
        let (now, wall) = self.now();
        let sidecar = &mut self.sidecars[who];
        let Some(delivery) = sidecar.flight.take() else {
            return;
        };
        if taken {
            let rows = match &delivery.body {
                Body::Notice(notice) => std::slice::from_ref(&**notice),
                Body::Digest(digest) => &digest.rows,
                Body::Alert(_) => &[],
            };
            for row in rows {
                let told = self.told.entry(row.ip.unwrap()).or_default();
                told.push(self.passed);
            }
        }
        sidecar.policy.handle_outcome(delivery.id, outcome, wall);
        sidecar.save();
        sidecar.agree(&mut self.store, now, wall);
    }

    fn deliver(&mut self, who: usize) -> bool {
        let due = self.post(who);
        self.answer(who, Outcome::Accepted, true);
        due
    }

    fn kill(&mut self, who: usize) {
        let (now, wall) = self.now();
        let killed = &mut self.sidecars[who];
        let (disk, log) = (
            std::mem::take(&mut killed.disk),
            std::mem::take(&mut killed.log),
        );
        // Another seed: its name is the one that was stored.
        *killed = Sidecar::start(9, disk, log.clone(), (now, wall));
        for (number, client) in log {
            killed.read(number, client, wall);
        }
        killed.agree(&mut self.store, now, wall);
    }

    /// Everything works from here on, and there is time.
    fn heal(&mut self) {
        for sidecar in &mut self.sidecars {
            sidecar.way = Way::Open;
        }
        for _ in 0..60 {
            self.pass(Duration::from_secs(10));
            for who in 0..2 {
                while self.deliver(who) {}
            }
        }
    }
}

#[test]
fn a_client_of_both_is_told_by_one_and_counted_by_the_other() {
    let mut world = World::new();
    assert_eq!(world.read(0, 1), Dedup::Pending);
    assert_eq!(world.read(1, 1), Dedup::Pending);
    assert!(!world.post(1), "the other may be telling");
    assert!(world.deliver(0));
    world.pass(Duration::from_secs(600));
    assert!(!world.post(1) && world.sidecars[1].policy.is_empty());
    let repeats = world.sidecars[1].policy.take_repeats();
    assert_eq!((repeats.len(), repeats[0].count), (1, 1));
    assert_eq!(world.sidecars[1].shared.take_counts().repeats, 1);
    assert_eq!(world.read(1, 1), Dedup::Repeat);

    // The hour is the one of whoever told.
    world.pass(WINDOW - Duration::from_secs(600));
    assert_eq!(world.read(1, 1), Dedup::Pending);
    assert!(world.post(1));
    let Some(Delivery { body, .. }) = &world.sidecars[1].flight else {
        panic!()
    };
    assert!(matches!(body, Body::Notice(notice) if notice.repeats == 2));
    world.answer(1, Outcome::Accepted, true);
}

/// What was counted as an activation of one product is not skipped as another.
#[test]
fn a_message_has_the_label_of_its_event() {
    let labels = |event: Event| {
        let mut disk = Disk::default();
        let mut policy = disk.start();
        policy.handle_event(&mut event.clone(), at(0));
        disk.write(policy.take_changes(false));
        let [now, restarted] = [policy, disk.start()].map(|mut policy| {
            let delivery = policy.poll_delivery(at(0)).unwrap();
            let Body::Notice(notice) = delivery.body else {
                panic!()
            };
            label(&notice)
        });
        assert_eq!(now, product_label(&event));
        (now, restarted)
    };
    let known = "Windows 10 Professional";
    assert_eq!(labels(activation("10.0.0.1", known)), (known, known));
    let strange = activation("10.0.0.1", "Ours");
    assert_eq!(labels(strange.clone()), ("unknown", "unknown"));

    let with = |change: &dyn Fn(&mut event::Request)| {
        let mut event = strange.clone();
        change(event.request.as_mut().unwrap());
        event
    };
    let by_id = with(&|request| {
        (request.product, request.activation_id) = (None, Some(ENTERPRISE));
    });
    assert_eq!(labels(by_id), ("Windows 10/11 Enterprise", "unknown"));
    let relayed = with(&|request| (request.protected, request.product) = (true, None));
    assert_eq!(labels(relayed), ("protected", "unknown"));
    let mut nothing = strange.clone();
    nothing.request = None;
    assert_eq!(labels(nothing), ("unknown", "unknown"));
}

#[test]
fn sidecars_that_read_the_same_log_tell_it_once() {
    let mut world = World::new();
    let (now, wall) = world.now();
    for sidecar in &mut world.sidecars {
        sidecar.read(7, 1, wall);
        sidecar.agree(&mut world.store, now, wall);
    }
    assert!(world.deliver(0));
    world.pass(TICK);
    assert!(!world.post(1) && world.sidecars[1].policy.is_empty());
}

#[test]
fn what_one_cannot_tell_any_more_the_other_tells() {
    let mut world = World::new();
    world.read(0, 1);
    world.read(1, 1);
    // Refused for good by the one's Slack: the other's turn at once.
    world.post(0);
    world.answer(0, Outcome::Final(404), false);
    world.pass(TICK);
    assert!(world.deliver(1));
    // An operator wants it told all the same, and the store has no say in it.
    let (_, wall) = world.now();
    let policy = &mut world.sidecars[0].policy;
    assert_eq!(policy.retry_dead_letters(&Selection::All, wall), 1);
    world.agree();
    assert!(world.deliver(0));

    // One is killed for good while its message waits.
    world.read(0, 2);
    let (now, _) = world.now();
    let (store, _) = channel(1);
    world.sidecars[0].shared = Shared::new(WINDOW, 3, store, now);
    world.sidecars[0].policy = Disk::default().start();
    world.read(1, 2);
    world.pass(CLAIM_LIFE - TICK);
    assert!(!world.post(1));
    world.pass(2 * TICK);
    assert!(world.deliver(1));
    assert_eq!(world.told[&ip(2)].len(), 1);
}

#[test]
fn a_restart_finds_its_claim_and_what_it_told() {
    let mut world = World::new();
    world.sidecars[0].way = Way::Closed;
    world.read(0, 1);
    assert!(world.deliver(0), "nobody waits for a store that is away");
    world.sidecars[0].way = Way::Open;
    world.read(0, 2);
    world.sidecars[0].save();
    world.kill(0);
    // It says again what the store had not heard, and its claim is its own.
    assert_eq!(world.read(1, 1), Dedup::Pending);
    assert!(!world.post(1) && world.sidecars[1].policy.is_empty());
    world.read(1, 2);
    assert!(!world.post(1));
    assert!(world.deliver(0));
    world.pass(TICK);
    assert!(world.sidecars[1].policy.is_empty());
}

#[test]
fn a_restarted_sidecar_is_known_by_its_name() {
    let mut world = World::new();
    world.read(0, 1);
    world.kill(0);
    assert!(world.deliver(0), "the claim is its own");
}

#[test]
fn a_message_on_its_way_is_withdrawn_only_after_a_failure() {
    for outcome in [Outcome::Accepted, Outcome::Retry, Outcome::Final(400)] {
        let mut world = World::new();
        // Both tell, as neither hears of the other.
        world.sidecars[0].way = Way::Closed;
        world.read(0, 1);
        assert!(world.post(0));
        world.read(1, 1);
        assert!(world.deliver(1));
        world.sidecars[0].way = Way::Open;
        world.pass(Duration::from_secs(60));
        let taken = outcome == Outcome::Accepted;
        world.answer(0, outcome, taken);
        let policy = &mut world.sidecars[0].policy;
        assert_eq!(policy.take_repeats().len(), usize::from(!taken));
        assert!(policy.is_empty());
        assert_eq!(policy.dead_letters().count(), 0);
        assert_eq!(world.read(0, 1), Dedup::Repeat);
    }
}

#[test]
fn a_digest_folds_only_what_may_be_told() {
    let mut world = World::new();
    for client in 0..20 {
        world.read(0, client);
    }
    for client in 10..30 {
        world.read(1, client);
    }
    world.pass(Duration::from_secs(400));
    assert!(world.post(1));
    let Some(Delivery { body, .. }) = &world.sidecars[1].flight else {
        panic!()
    };
    assert!(matches!(body, Body::Digest(digest) if digest.rows.len() == 10));
    assert_eq!(world.sidecars[1].policy.len(), 20);
}

#[test]
fn the_end_waits_until_the_store_knows() {
    let mut world = World::new();
    world.read(0, 1);
    world.post(0);
    let (now, wall) = world.now();
    let sidecar = &mut world.sidecars[0];
    let delivery = sidecar.flight.take().unwrap();
    let policy = &mut sidecar.policy;
    policy.handle_outcome(delivery.id, Outcome::Accepted, wall);
    sidecar.shared.exchange(policy, now, wall);
    assert!(policy.is_empty() && sidecar.shared.has_news());
    sidecar.agree(&mut world.store, now, wall);
    // The batch is under way since the exchange above.
    assert!(!sidecar.shared.has_news());
}

#[test]
fn without_a_task_to_ask_everything_is_told() {
    let mut world = World::new();
    let (store, asked) = channel(1);
    drop(asked);
    let (now, _) = world.now();
    world.sidecars[0].shared = Shared::new(WINDOW, 3, store, now);
    world.read(0, 1);
    assert!(!world.sidecars[0].shared.is_up());
    assert!(world.deliver(0));
}

#[derive(Clone, Debug)]
enum Op {
    Read(usize, u8),
    Post(usize),
    Answer(usize, Outcome, bool),
    Kill(usize),
    Way(usize, Way),
    Wait(u64),
}

fn op(faults: bool) -> impl Strategy<Value = Op> {
    let who = 0..2_usize;
    let fault = u32::from(faults);
    // Slack may take a message and say nothing: only that is told twice then.
    let taken = any::<bool>().prop_map(move |taken| taken && faults);
    prop_oneof![
        6 => (who.clone(), 0..4_u8).prop_map(|(who, client)| Op::Read(who, client)),
        5 => who.clone().prop_map(Op::Post),
        4 => who.clone().prop_map(|who| Op::Answer(who, Outcome::Accepted, true)),
        1 => (who.clone(), taken).prop_map(|(who, taken)| Op::Answer(who, Outcome::Retry, taken)),
        4 => (0..120_u64).prop_map(Op::Wait),
        1 => (0..4000_u64).prop_map(Op::Wait),
        fault => who.clone().prop_map(Op::Kill),
        fault * 2 => (who, prop_oneof![Just(Way::Open), Just(Way::Closed), Just(Way::Mute)])
            .prop_map(|(who, way)| Op::Way(who, way)),
    ]
}

fn play(ops: Vec<Op>) -> World {
    let mut world = World::new();
    for op in ops {
        match op {
            Op::Read(who, client) => {
                world.read(who, client);
            }
            Op::Post(who) => {
                world.post(who);
            }
            Op::Answer(who, outcome, taken) => world.answer(who, outcome, taken),
            Op::Kill(who) => world.kill(who),
            Op::Way(who, way) => world.sidecars[who].way = way,
            Op::Wait(seconds) => world.pass(Duration::from_secs(seconds)),
        }
    }
    world.heal();
    world
}

/// Every event was told after it happened, or within the window before.
fn nothing_is_lost(world: &World) -> Result<(), TestCaseError> {
    for sidecar in &world.sidecars {
        prop_assert_eq!(sidecar.policy.unsent_events(), 0);
    }
    for (ip, at) in &world.events {
        let told = world.told.get(ip).into_iter().flatten();
        prop_assert!(
            told.clone().any(|told| *told + WINDOW > *at),
            "{ip} at {at:?}: {told:?}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn each_event_is_told_whatever_fails(ops in prop::collection::vec(op(true), 0..60)) {
        nothing_is_lost(&play(ops))?;
    }

    #[test]
    fn each_client_is_told_once_in_a_window_while_the_store_answers(
        ops in prop::collection::vec(op(false), 0..60),
    ) {
        let world = play(ops);
        nothing_is_lost(&world)?;
        for (ip, told) in &world.told {
            prop_assert!(
                told.windows(2).all(|pair| pair[1] - pair[0] >= WINDOW),
                "{ip}: {told:?}"
            );
        }
    }
}
