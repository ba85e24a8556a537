//! Claims of one and of several sidecars, in simulated time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::model::ModelStore;
use super::*;

const WINDOW: Duration = Duration::from_secs(3600);

#[expect(
    clippy::disallowed_methods,
    reason = "some instant for simulated time to start from"
)]
fn start() -> Instant {
    Instant::now()
}

fn key(number: u8) -> StoreKey {
    StoreKey::of(&[&[number]])
}

fn event(number: u8) -> EventId {
    EventId([number; 16])
}

fn down() -> StoreError {
    StoreError("refused".to_owned())
}

/// Asks and answers once; `None` where there was nothing to ask.
fn exchange(claims: &mut Claims, store: &mut ModelStore, now: Instant) -> Option<usize> {
    let requests = claims.poll_requests(now);
    if requests.is_empty() {
        return None;
    }
    let answers = requests.iter().map(|request| store.carry_out(request, now));
    let answers = answers.collect();
    claims.handle_answers(Ok(answers), now);
    Some(requests.len())
}

fn verdicts(claims: &mut Claims) -> Vec<(u64, Verdict)> {
    std::iter::from_fn(|| claims.poll_verdict())
        .map(|(Ticket(ticket), verdict)| (ticket, verdict))
        .collect()
}

#[test]
fn a_free_key_is_claimed_renewed_and_made_final() {
    let (mut claims, mut store, t) = (Claims::new(WINDOW, 1), ModelStore::default(), start());
    claims.handle_post(Ticket(1), key(1), event(1), t);
    assert_eq!(claims.next_due(), Some(t));
    assert_eq!(exchange(&mut claims, &mut store, t), Some(1));
    assert_eq!(verdicts(&mut claims), [(1, Verdict::Post)]);
    assert_eq!(claims.next_due(), Some(t + RENEW));
    assert!(claims.poll_requests(t + RENEW / 2).is_empty());
    assert_eq!(exchange(&mut claims, &mut store, t + RENEW), Some(1));
    assert!(verdicts(&mut claims).is_empty());

    claims.handle_told(Ticket(1), key(1), event(1), t + RENEW);
    let told = claims.poll_requests(t + RENEW);
    let act = Act::Tell(WINDOW);
    assert_eq!(
        told,
        [Request {
            key: key(1),
            holder: Holder {
                event: event(1),
                sidecar: 1
            },
            act
        }]
    );
    claims.handle_answers(Ok(vec![Answer::Told { left: WINDOW }]), t + RENEW);
    assert_eq!((claims.next_due(), claims.counts().granted), (None, 1));
}

#[test]
fn who_lost_waits_for_the_other_and_hears_how_it_ended() {
    let (mut ours, mut theirs) = (Claims::new(WINDOW, 1), Claims::new(WINDOW, 1));
    let (mut store, mut t) = (ModelStore::default(), start());
    theirs.handle_post(Ticket(7), key(1), event(7), t);
    exchange(&mut theirs, &mut store, t);
    ours.handle_post(Ticket(1), key(1), event(1), t);
    exchange(&mut ours, &mut store, t);
    assert!(verdicts(&mut ours).is_empty());
    assert_eq!(ours.next_due(), Some(t + ASK_AGAIN));
    // The other's renewals hold it up as long as they last.
    for _ in 0..10 {
        t += RENEW;
        exchange(&mut theirs, &mut store, t);
        exchange(&mut ours, &mut store, t);
        assert!(verdicts(&mut ours).is_empty());
    }
    // The other is gone: the claim runs out.
    t += CLAIM_LIFE;
    exchange(&mut ours, &mut store, t);
    assert_eq!(verdicts(&mut ours), [(1, Verdict::Post)]);
    // It comes back, has lost its claim, and then hears that it was told.
    exchange(&mut theirs, &mut store, t);
    assert_eq!(
        verdicts(&mut theirs),
        [(7, Verdict::Post), (7, Verdict::Hold)]
    );
    ours.handle_told(Ticket(1), key(1), event(1), t);
    exchange(&mut ours, &mut store, t);
    t += ASK_AGAIN;
    exchange(&mut theirs, &mut store, t);
    let left = WINDOW - ASK_AGAIN;
    assert_eq!(verdicts(&mut theirs), [(7, Verdict::Repeat { left })]);
    assert_eq!((theirs.next_due(), theirs.counts().repeats), (None, 1));
}

#[test]
fn sidecars_that_read_the_same_log_do_not_share_a_claim() {
    let (mut ours, mut theirs) = (Claims::new(WINDOW, 1), Claims::new(WINDOW, 2));
    let (mut store, t) = (ModelStore::default(), start());
    for claims in [&mut ours, &mut theirs] {
        claims.handle_post(Ticket(1), key(1), event(1), t);
        exchange(claims, &mut store, t);
    }
    assert_eq!(verdicts(&mut ours), [(1, Verdict::Post)]);
    assert!(verdicts(&mut theirs).is_empty());
}

#[test]
fn what_is_given_up_is_free_at_once() {
    let (mut ours, mut theirs) = (Claims::new(WINDOW, 1), Claims::new(WINDOW, 1));
    let (mut store, t) = (ModelStore::default(), start());
    theirs.handle_post(Ticket(7), key(1), event(7), t);
    exchange(&mut theirs, &mut store, t);
    theirs.handle_untold(Ticket(7));
    exchange(&mut theirs, &mut store, t);
    ours.handle_post(Ticket(1), key(1), event(1), t);
    exchange(&mut ours, &mut store, t);
    assert_eq!(verdicts(&mut ours), [(1, Verdict::Post)]);
}

#[test]
fn a_restart_finds_its_claims_and_what_it_told() {
    let (mut store, t) = (ModelStore::default(), start());
    let mut killed = Claims::new(WINDOW, 1);
    for number in [1, 2] {
        killed.handle_post(Ticket(number.into()), key(number), event(number), t);
    }
    exchange(&mut killed, &mut store, t);
    killed.handle_told(Ticket(2), key(2), event(2), t);
    exchange(&mut killed, &mut store, t);

    // Its own state did not get to keep that 2 was told.
    let mut restarted = Claims::new(WINDOW, 1);
    for number in [1, 2] {
        restarted.handle_post(Ticket(number.into()), key(number), event(number), t);
    }
    // And the store did not get to know of 3.
    restarted.handle_final(key(3), event(3), t + WINDOW / 2);
    exchange(&mut restarted, &mut store, t);
    assert_eq!(
        verdicts(&mut restarted),
        [(1, Verdict::Post), (2, Verdict::Repeat { left: WINDOW })]
    );
    let mut other = Claims::new(WINDOW, 1);
    other.handle_post(Ticket(9), key(3), event(9), t);
    exchange(&mut other, &mut store, t);
    let left = WINDOW / 2;
    assert_eq!(verdicts(&mut other), [(9, Verdict::Repeat { left })]);
}

#[test]
fn a_store_that_is_down_holds_nothing_up_and_is_told_of_later() {
    let (mut claims, mut store, t) = (Claims::new(WINDOW, 1), ModelStore::default(), start());
    claims.handle_post(Ticket(1), key(1), event(1), t);
    assert_eq!(claims.poll_requests(t).len(), 1);
    assert_eq!(
        claims.handle_answers(Err(down()), t),
        Some(Change::Lost(down()))
    );
    assert_eq!(verdicts(&mut claims), [(1, Verdict::Post)]);
    assert!(!claims.is_up());
    // While it is left alone, nobody waits for it.
    claims.handle_post(Ticket(2), key(2), event(2), t);
    assert!(claims.poll_requests(t).is_empty());
    assert_eq!(verdicts(&mut claims), [(2, Verdict::Post)]);
    claims.handle_told(Ticket(1), key(1), event(1), t);

    // It is asked again, less and less often, and lost once.
    let mut now = t;
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let due = claims.next_due().unwrap();
        pauses.push((due - now).as_secs());
        now = due;
        assert_eq!(claims.poll_requests(now).len(), 2);
        assert_eq!(claims.handle_answers(Err(down()), now), None);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    now = claims.next_due().unwrap();
    let requests = claims.poll_requests(now);
    assert!(matches!(requests[0].act, Act::Tell(left) if left == WINDOW - (now - t)));
    let answers = requests
        .iter()
        .map(|request| store.carry_out(request, now))
        .collect();
    let change = claims.handle_answers(Ok(answers), now);
    assert_eq!(change, Some(Change::Back { after: now - t }));
    assert!(claims.is_up() && verdicts(&mut claims).is_empty());
    assert_eq!(
        (claims.counts().unclaimed, claims.counts().failures),
        (2, 8)
    );
}

#[test]
fn a_probe_finds_out_whether_the_store_answers() {
    let (mut claims, mut store, t) = (Claims::new(WINDOW, 1), ModelStore::default(), start());
    assert!(claims.poll_requests(t).is_empty());
    claims.handle_probe();
    claims.handle_probe();
    assert_eq!(claims.poll_requests(t).len(), 1);
    claims.handle_probe();
    assert!(claims.has_news());
    claims.handle_answers(Err(down()), t);
    assert!(!claims.is_up() && !claims.has_news());
    // It goes on by itself until there is an answer.
    let again = claims.next_due().unwrap();
    assert_eq!(exchange(&mut claims, &mut store, again), Some(1));
    assert!(claims.is_up());
    assert_eq!(exchange(&mut claims, &mut store, again), None);
}

#[test]
fn anothers_claim_is_waited_out_even_where_the_store_is_down() {
    let (mut claims, t) = (Claims::new(WINDOW, 1), start());
    claims.handle_post(Ticket(1), key(1), event(1), t);
    claims.poll_requests(t);
    let expires_in = Duration::from_secs(20);
    claims.handle_answers(Ok(vec![Answer::Theirs { expires_in }]), t);
    let mut now = t;
    while now < t + expires_in {
        assert!(verdicts(&mut claims).is_empty());
        now = claims.next_due().unwrap();
        assert_eq!(claims.poll_requests(now).len(), 1);
        claims.handle_answers(Err(down()), now);
    }
    assert_eq!(verdicts(&mut claims), [(1, Verdict::Post)]);
}

#[test]
fn everything_is_bounded() {
    let (mut claims, t) = (Claims::new(WINDOW, 1), start());
    for number in 0..MAX_CLAIMS as u64 + 5 {
        claims.handle_post(Ticket(number), key(1), event(1), t);
    }
    assert_eq!(claims.entries.len(), MAX_CLAIMS);
    assert_eq!(verdicts(&mut claims).len(), 5);
    assert_eq!(claims.poll_requests(t).len(), BATCH);
    assert!(claims.poll_requests(t).is_empty(), "one batch at a time");
    for number in 0..MAX_CLAIMS as u64 {
        claims.handle_untold(Ticket(number));
    }
    assert_eq!(claims.parting.len(), MAX_PARTING);
    assert_eq!(claims.counts().forgotten, (MAX_CLAIMS - MAX_PARTING) as u64);
    assert!(claims.schedule.is_empty() && claims.entries.is_empty());
}

/// One sidecar of the simulation: what it has claims for, and what its outbox
/// would keep over a restart.
struct Sidecar {
    claims: Claims,
    outbox: BTreeMap<Ticket, (StoreKey, EventId)>,
    granted: Vec<Ticket>,
}

#[derive(Clone, Debug)]
enum Op {
    /// A client asks for something at a sidecar.
    Post(usize, u8),
    /// Slack accepts whatever a sidecar may post.
    Deliver(usize),
    /// Slack refuses it for good.
    Refuse(usize),
    Restart(usize),
    Wait(u16),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..3_usize, 0..3_u8).prop_map(|(at, key)| Op::Post(at, key)),
        3 => (0..3_usize).prop_map(Op::Deliver),
        1 => (0..3_usize).prop_map(Op::Refuse),
        1 => (0..3_usize).prop_map(Op::Restart),
        4 => (0..60_u16).prop_map(Op::Wait),
    ];
    prop::collection::vec(op, 0..60)
}

proptest! {
    #[test]
    fn each_key_is_told_once_in_a_window_and_nothing_is_lost(ops in ops()) {
        let (mut store, mut now) = (ModelStore::default(), start());
        let mut told: BTreeMap<StoreKey, Vec<Instant>> = BTreeMap::new();
        let mut sidecars: Vec<Sidecar> = (0..3)
            .map(|_| Sidecar { claims: Claims::new(WINDOW, 1), outbox: BTreeMap::new(), granted: vec![] })
            .collect();
        let mut number = 0;
        // At the end all that waits is delivered, the others' claims too.
        let end = (0..6).flat_map(|_| [Op::Wait(5), Op::Deliver(0), Op::Deliver(1), Op::Deliver(2)]);
        for op in ops.into_iter().chain(end) {
            match op {
                Op::Post(at, what) => {
                    number += 1;
                    let (ticket, made) = (Ticket(number.into()), (key(what), event(number)));
                    sidecars[at].outbox.insert(ticket, made);
                    sidecars[at].claims.handle_post(ticket, made.0, made.1, now);
                }
                Op::Deliver(at) => {
                    let sidecar = &mut sidecars[at];
                    for ticket in sidecar.granted.drain(..) {
                        let (key, event) = sidecar.outbox.remove(&ticket).unwrap();
                        told.entry(key).or_default().push(now);
                        sidecar.claims.handle_told(ticket, key, event, now);
                    }
                }
                Op::Refuse(at) => {
                    let sidecar = &mut sidecars[at];
                    for ticket in sidecar.granted.drain(..) {
                        sidecar.outbox.remove(&ticket);
                        sidecar.claims.handle_untold(ticket);
                    }
                }
                Op::Restart(at) => {
                    let sidecar = &mut sidecars[at];
                    sidecar.claims = Claims::new(WINDOW, 1);
                    sidecar.granted.clear();
                    for (ticket, (key, event)) in &sidecar.outbox {
                        sidecar.claims.handle_post(*ticket, *key, *event, now);
                    }
                }
                Op::Wait(seconds) => now += Duration::from_secs(seconds.into()),
            }
            for sidecar in &mut sidecars {
                while exchange(&mut sidecar.claims, &mut store, now).is_some() {}
                while let Some((ticket, verdict)) = sidecar.claims.poll_verdict() {
                    sidecar.granted.retain(|granted| *granted != ticket);
                    match verdict {
                        Verdict::Post => sidecar.granted.push(ticket),
                        Verdict::Hold => {}
                        Verdict::Repeat { .. } => {
                            let (key, _) = sidecar.outbox.remove(&ticket).unwrap();
                            prop_assert!(told.contains_key(&key));
                        }
                    }
                }
            }
        }
        for times in told.values() {
            prop_assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= WINDOW), "{times:?}");
        }
        for sidecar in &sidecars {
            prop_assert!(sidecar.outbox.is_empty());
        }
    }
}
