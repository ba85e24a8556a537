use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "only differences matter here")]
fn start() -> Instant {
    Instant::now()
}

fn limits() -> Limits {
    Limits {
        max_connections: Some(50),
        rate: Some(Rate {
            connections: 10,
            window: WINDOW,
        }),
        ..Limits::default()
    }
}

fn limiter(limits: Limits) -> Limiter {
    Limiter::new(limits).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Opens a connection and, if it is admitted, closes it at once.
fn touch(limiter: &mut Limiter, address: &str, now: Instant) -> Option<Refusal> {
    match limiter.handle_open(ip(address), now) {
        Decision::Admit(admission) => {
            let would_refuse = admission.would_refuse;
            limiter.handle_close(admission);
            would_refuse
        }
        Decision::Refuse(refusal) => Some(refusal),
    }
}

fn reason(refusal: Option<Refusal>) -> Option<Reason> {
    refusal.map(|refusal| refusal.reason)
}

#[test]
fn nothing_is_limited_by_default() {
    let mut limiter = limiter(Limits::default());
    let now = start();
    for _ in 0..1000 {
        assert_eq!(touch(&mut limiter, "192.0.2.1", now), None);
    }
    assert_eq!(limiter.sources(), (0, 16_384));
}

#[test]
fn eleven_in_a_minute_overload_their_source_and_no_other() {
    let mut limiter = limiter(limits());
    let start = start();
    for n in 0..10 {
        assert_eq!(touch(&mut limiter, "192.0.2.1", start + n * SECOND), None);
    }
    let refusal = touch(&mut limiter, "192.0.2.1", start + 59 * SECOND).unwrap();
    assert_eq!(
        (refusal.reason, refusal.drop_existing),
        (Reason::Rate, true)
    );
    assert_eq!(touch(&mut limiter, "192.0.2.2", start + 59 * SECOND), None);
    let later = start + 30 * WINDOW;
    assert_eq!(
        reason(touch(&mut limiter, "192.0.2.1", later)),
        Some(Reason::Overload)
    );
    let on_it: Vec<_> = limiter.overloaded(later).collect();
    let [overloaded] = on_it[..] else {
        panic!("{on_it:?}")
    };
    assert_eq!(overloaded.source.to_string(), "192.0.2.1");
    assert_eq!(overloaded.reason, Reason::Rate);
    assert_eq!(overloaded.age + overloaded.left, Duration::from_secs(3600));
    // An hour after it went over, it may come back.
    assert_eq!(
        touch(&mut limiter, "192.0.2.1", start + 59 * SECOND + 60 * WINDOW),
        None
    );
}

#[test]
fn the_window_slides() {
    let mut limiter = limiter(limits());
    let start = start();
    // Ten in every minute for an hour, evenly and in bursts at its edges.
    for n in 0..600 {
        assert_eq!(
            touch(&mut limiter, "192.0.2.1", start + n * 6 * SECOND),
            None
        );
    }
    let burst = start + 3600 * SECOND + WINDOW;
    for second in [0, 60, 120] {
        for _ in 0..10 {
            assert_eq!(
                touch(&mut limiter, "192.0.2.1", burst + second * SECOND),
                None
            );
        }
    }
    let over = burst + 179 * SECOND;
    assert_eq!(
        reason(touch(&mut limiter, "192.0.2.1", over)),
        Some(Reason::Rate)
    );
}

#[test]
fn too_many_open_connections_overload_their_source() {
    let limits = Limits {
        rate: None,
        max_connections: Some(3),
        ..limits()
    };
    let mut limiter = limiter(limits);
    let now = start();
    let mut open = Vec::new();
    for _ in 0..3 {
        let Decision::Admit(admission) = limiter.handle_open(ip("192.0.2.1"), now) else {
            panic!()
        };
        open.push(admission);
    }
    // Closing makes room, as long as the limit was not crossed.
    limiter.handle_close(open.pop().unwrap());
    let Decision::Admit(admission) = limiter.handle_open(ip("192.0.2.1"), now) else {
        panic!()
    };
    open.push(admission);
    let refusal = touch(&mut limiter, "192.0.2.1", now).unwrap();
    assert_eq!(
        (refusal.reason, refusal.drop_existing),
        (Reason::Connections, true)
    );
    assert_eq!(limiter.overloaded(now).next().unwrap().connections, 3);
    for admission in open {
        limiter.handle_close(admission);
    }
    assert_eq!(
        reason(touch(&mut limiter, "192.0.2.1", now)),
        Some(Reason::Overload)
    );
    assert_eq!(limiter.open(), 0);
}

#[test]
fn sources_are_prefixes_and_mapped_addresses_are_ipv4() {
    let limiter = limiter(limits());
    for (address, source) in [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ] {
        assert_eq!(limiter.source(ip(address)).to_string(), source);
    }
    let wider = self::limiter(Limits {
        ipv4_prefix: 24,
        ipv6_prefix: 128,
        ..limits()
    });
    assert_eq!(wider.source(ip("192.0.2.77")).to_string(), "192.0.2.0/24");
    assert_eq!(wider.source(ip("2001:db8::5")).to_string(), "2001:db8::5");
}

#[test]
fn a_site_counts_as_one() {
    let mut limiter = limiter(limits());
    let now = start();
    for host in 1..=10 {
        assert_eq!(touch(&mut limiter, &format!("2001:db8::{host}"), now), None);
    }
    assert_eq!(
        reason(touch(&mut limiter, "2001:db8::ffff", now)),
        Some(Reason::Rate)
    );
    assert_eq!(touch(&mut limiter, "2001:db8:0:1::1", now), None);
}

#[test]
fn the_allowed_are_never_limited() {
    let allow = vec!["10.0.20.0/24".parse().unwrap()];
    let limits = Limits {
        allow,
        max_total: Some(1),
        ..limits()
    };
    let mut limiter = limiter(limits);
    let now = start();
    for _ in 0..100 {
        assert_eq!(touch(&mut limiter, "10.0.20.103", now), None);
        assert_eq!(touch(&mut limiter, "::ffff:10.0.20.103", now), None);
    }
    let Decision::Admit(node) = limiter.handle_open(ip("10.0.20.103"), now) else {
        panic!()
    };
    // They take nobody's place.
    let Decision::Admit(other) = limiter.handle_open(ip("192.0.2.1"), now) else {
        panic!()
    };
    assert_eq!(
        reason(touch(&mut limiter, "192.0.2.2", now)),
        Some(Reason::Total)
    );
    // Nor do they give one back that they did not take, whatever is allowed by then.
    limiter
        .set_limits(Limits {
            max_total: Some(1),
            ..self::limits()
        })
        .unwrap();
    limiter.handle_close(node);
    assert_eq!(
        reason(touch(&mut limiter, "192.0.2.3", now)),
        Some(Reason::Total)
    );
    limiter.handle_close(other);
    assert_eq!(touch(&mut limiter, "192.0.2.4", now), None);
}

#[test]
fn what_was_open_before_a_limit_counts_for_it() {
    let mut limiter = limiter(Limits::default());
    let now = start();
    let open = |limiter: &mut Limiter, host| match limiter.handle_open(ip(host), now) {
        Decision::Admit(admission) => admission,
        Decision::Refuse(refusal) => panic!("{refusal:?}"),
    };
    let mut before: Vec<_> = (0..3).map(|_| open(&mut limiter, "192.0.2.1")).collect();
    let brief = open(&mut limiter, "192.0.2.2");
    assert_eq!(limiter.sources().0, 2);
    // Without limits who has nothing open is forgotten at once.
    limiter.handle_close(brief);
    assert_eq!(limiter.sources().0, 1);
    limiter
        .set_limits(Limits {
            max_connections: Some(3),
            ..Limits::default()
        })
        .unwrap();
    assert_eq!(touch(&mut limiter, "192.0.2.2", now), None);
    limiter.handle_close(before.pop().unwrap());
    before.push(open(&mut limiter, "192.0.2.1"));
    assert_eq!(
        reason(touch(&mut limiter, "192.0.2.1", now)),
        Some(Reason::Connections)
    );
    limiter.flush(now);
    for admission in before {
        limiter.handle_close(admission);
    }
    assert_eq!(touch(&mut limiter, "192.0.2.1", now), None);
}

#[test]
fn without_limits_a_full_table_is_no_matter() {
    let mut limiter = limiter(Limits {
        max_sources: 1,
        ..Limits::default()
    });
    let now = start();
    let Decision::Admit(_open) = limiter.handle_open(ip("192.0.2.1"), now) else {
        panic!()
    };
    assert_eq!(touch(&mut limiter, "192.0.2.2", now), None);
    assert_eq!((limiter.sources().0, limiter.counts().untracked), (1, 0));
}

#[test]
fn all_together_have_a_limit_that_overloads_nobody() {
    let limits = Limits {
        rate: None,
        max_total: Some(2),
        ..limits()
    };
    let mut limiter = limiter(limits);
    let now = start();
    let Decision::Admit(one) = limiter.handle_open(ip("192.0.2.1"), now) else {
        panic!()
    };
    let Decision::Admit(_two) = limiter.handle_open(ip("192.0.2.2"), now) else {
        panic!()
    };
    let refusal = touch(&mut limiter, "192.0.2.3", now).unwrap();
    assert_eq!(
        (refusal.reason, refusal.drop_existing),
        (Reason::Total, false)
    );
    assert_eq!(limiter.overloaded(now).count(), 0);
    limiter.handle_close(one);
    assert_eq!(touch(&mut limiter, "192.0.2.3", now), None);
}

#[test]
fn a_dry_run_says_what_would_be_and_admits_everybody() {
    let mut limiter = limiter(Limits {
        dry_run: true,
        ..limits()
    });
    let now = start();
    for _ in 0..10 {
        assert_eq!(touch(&mut limiter, "192.0.2.1", now), None);
    }
    let Decision::Admit(admission) = limiter.handle_open(ip("192.0.2.1"), now) else {
        panic!()
    };
    let would_refuse = admission.would_refuse.unwrap();
    assert_eq!(
        (would_refuse.reason, would_refuse.drop_existing),
        (Reason::Rate, false)
    );
    limiter.handle_close(admission);
    let counts = limiter.counts();
    assert_eq!((counts.admitted, counts.rate, limiter.open()), (11, 1, 0));
}

#[test]
fn operators_can_take_sources_off_the_table() {
    let mut limiter = limiter(limits());
    let start = start();
    let overload = |limiter: &mut Limiter, address, now| {
        for _ in 0..11 {
            touch(limiter, address, now);
        }
    };
    overload(&mut limiter, "192.0.2.1", start);
    overload(&mut limiter, "192.0.2.2", start + 100 * SECOND);
    overload(&mut limiter, "192.0.2.3", start + 100 * SECOND);
    let now = start + 160 * SECOND;
    assert_eq!(limiter.expire(Duration::from_secs(160), now), 1);
    assert_eq!(touch(&mut limiter, "192.0.2.1", now), None);
    let second = limiter.source(ip("192.0.2.2"));
    assert!(limiter.forgive(second, now));
    assert!(!limiter.forgive(second, now));
    assert_eq!(limiter.flush(now), 1);
    assert_eq!(limiter.overloaded(now).count(), 0);
    // A fresh start: ten more before it is overloaded again.
    for _ in 0..10 {
        assert_eq!(touch(&mut limiter, "192.0.2.3", now), None);
    }
    assert_eq!(
        reason(touch(&mut limiter, "192.0.2.3", now)),
        Some(Reason::Rate)
    );
}

#[test]
fn refusals_are_reported_once_per_source_and_window() {
    let mut limiter = limiter(limits());
    let start = start();
    assert_eq!(limiter.next_report(), None);
    for second in 0..30 {
        touch(&mut limiter, "192.0.2.1", start + second * SECOND);
    }
    for _ in 0..12 {
        touch(&mut limiter, "192.0.2.2", start + 30 * SECOND);
    }
    let due = limiter.next_report().unwrap();
    assert_eq!(due, start + 10 * SECOND + WINDOW);
    assert_eq!(limiter.poll_report(due - SECOND), None);
    let first = limiter.poll_report(due).unwrap();
    let said = (first.source.to_string(), first.reason, first.count);
    assert_eq!(said, ("192.0.2.1".into(), Reason::Rate, 20));
    assert_eq!(limiter.poll_report(due), None);
    assert_eq!(limiter.last_report().unwrap().count, 2);
    assert_eq!(limiter.last_report(), None);
    // The next window begins with the next refusal.
    touch(&mut limiter, "192.0.2.1", start + 100 * SECOND);
    assert_eq!(limiter.next_report(), Some(start + 100 * SECOND + WINDOW));
    let again = limiter.poll_report(start + 200 * SECOND).unwrap();
    assert_eq!((again.reason, again.count), (Reason::Overload, 1));
}

#[test]
fn a_full_table_forgets_the_idle_and_then_says_that_it_is_full() {
    let mut limiter = limiter(Limits {
        max_sources: 3,
        max_total: Some(3),
        ..limits()
    });
    let start = start();
    for host in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        assert_eq!(touch(&mut limiter, host, start), None);
    }
    assert_eq!(limiter.sources(), (3, 3));
    // All three still count in their window: a fourth is admitted untracked.
    let mut open = Vec::new();
    for _ in 0..3 {
        let Decision::Admit(admission) = limiter.handle_open(ip("192.0.2.4"), start) else {
            panic!()
        };
        open.push(admission);
    }
    assert_eq!(limiter.counts().untracked, 3);
    assert_eq!(
        reason(touch(&mut limiter, "192.0.2.4", start)),
        Some(Reason::Total)
    );
    for admission in open {
        limiter.handle_close(admission);
    }
    // After the window they are forgotten, and there is room again.
    assert_eq!(touch(&mut limiter, "192.0.2.4", start + WINDOW), None);
    assert_eq!(limiter.sources(), (1, 3));
    assert_eq!(limiter.counts().untracked, 4);
}

#[test]
fn limits_that_cannot_be_are_said_with_their_value() {
    let rate = |connections, window| {
        Some(Rate {
            connections,
            window,
        })
    };
    for (limits, error) in [
        (
            Limits {
                ipv4_prefix: 33,
                ..limits()
            },
            LimitsError::Prefix {
                given: 33,
                most: 32,
            },
        ),
        (
            Limits {
                ipv6_prefix: 129,
                ..limits()
            },
            LimitsError::Prefix {
                given: 129,
                most: 128,
            },
        ),
        (
            Limits {
                rate: rate(0, WINDOW),
                ..limits()
            },
            LimitsError::Rate(0),
        ),
        (
            Limits {
                rate: rate(1001, WINDOW),
                ..limits()
            },
            LimitsError::Rate(1001),
        ),
        (
            Limits {
                rate: rate(10, Duration::ZERO),
                ..limits()
            },
            LimitsError::Span(Duration::ZERO),
        ),
        (
            Limits {
                overload_ttl: Duration::MAX,
                ..limits()
            },
            LimitsError::Span(Duration::MAX),
        ),
        (
            Limits {
                max_connections: Some(0),
                ..limits()
            },
            LimitsError::Zero,
        ),
        (
            Limits {
                max_sources: 0,
                ..limits()
            },
            LimitsError::Zero,
        ),
    ] {
        assert_eq!(Limiter::new(limits).err(), Some(error));
    }
}

proptest! {
    /// Against a model that remembers everything.
    #[test]
    fn no_window_ever_has_more_than_the_rate(
        pauses in proptest::collection::vec(0..30_u64, 1..200),
        ttl in 1..100_u64,
    ) {
        let limits = Limits { overload_ttl: Duration::from_secs(ttl), ..limits() };
        let mut limiter = limiter(limits);
        let mut now = start();
        let mut admitted: Vec<Instant> = Vec::new();
        let mut tried: Vec<Instant> = Vec::new();
        let mut overloaded_until = now;
        for pause in pauses {
            now += Duration::from_secs(pause);
            tried.push(now);
            let recent = tried.iter().filter(|at| now.duration_since(**at) < WINDOW).count();
            let expected = if now < overloaded_until {
                Some(Reason::Overload)
            } else if recent > 10 {
                overloaded_until = now + Duration::from_secs(ttl);
                Some(Reason::Rate)
            } else {
                admitted.push(now);
                None
            };
            prop_assert_eq!(reason(touch(&mut limiter, "192.0.2.1", now)), expected);
        }
        for window in admitted.windows(11) {
            prop_assert!(window[10] - window[0] >= WINDOW);
        }
    }
}
