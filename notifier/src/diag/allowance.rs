//! How many events are taken from whom.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use kms_core::limits::{Decision, Limiter, Limits, LimitsError, Rate, Report};

/// The window that a rate counts in.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Sources remembered at a time. Those there is no room for share one allowance:
/// whoever has many addresses may crowd out others that are new, but not print
/// without end.
pub const MAX_SOURCES: usize = 4096;

/// Events per source and [`WINDOW`]; an IPv6 source is a /64. An event beyond
/// that counts too, so a sender that does not slow down is not heard again.
#[derive(Debug)]
pub struct Allowance {
    known: Limiter,
    others: Limiter,
}

impl Allowance {
    /// At most `rate` events of each source.
    ///
    /// # Errors
    /// A rate of 0, or above [`kms_core::limits::MAX_RATE`].
    pub fn new(rate: u32) -> Result<Self, LimitsError> {
        let limits = |max_sources| Limits {
            rate: Some(Rate {
                connections: rate,
                window: WINDOW,
            }),
            // The window alone decides.
            overload_ttl: Duration::from_millis(1),
            max_sources,
            ..Limits::default()
        };
        Ok(Self {
            known: Limiter::new(limits(MAX_SOURCES))?,
            others: Limiter::new(limits(1))?,
        })
    }

    /// Whether an event from this address is taken.
    pub fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        let crowded = self.known.counts().untracked;
        let taken = take(&mut self.known, address, now);
        if self.known.counts().untracked == crowded {
            taken
        } else {
            take(&mut self.others, Ipv4Addr::UNSPECIFIED.into(), now)
        }
    }

    /// The next source that was turned away, once its window is over. Call it
    /// until there is none: sources with a report due are not forgotten.
    pub fn poll_report(&mut self, now: Instant) -> Option<Report> {
        let known = self.known.poll_report(now);
        known.or_else(|| self.others.poll_report(now))
    }
}

/// An event is a connection that closes at once.
fn take(limiter: &mut Limiter, address: IpAddr, now: Instant) -> bool {
    match limiter.handle_open(address, now) {
        Decision::Admit(admission) => {
            limiter.handle_close(admission);
            true
        }
        Decision::Refuse(_) => false,
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test's time has to begin somewhere"
)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn taken(allowance: &mut Allowance, address: &str, now: Instant) -> bool {
        allowance.take(address.parse().unwrap(), now)
    }

    #[test]
    fn each_source_has_its_own_and_it_comes_back() {
        let (mut allowance, start) = (Allowance::new(2).unwrap(), Instant::now());
        for _ in 0..2 {
            assert!(taken(&mut allowance, "192.0.2.1", start));
            assert!(taken(&mut allowance, "2001:db8::1", start));
        }
        assert!(!taken(&mut allowance, "::ffff:192.0.2.1", start));
        assert!(!taken(&mut allowance, "2001:db8::2", start), "the same /64");
        assert!(taken(&mut allowance, "2001:db8:0:1::1", start));
        let later = start + WINDOW;
        assert!(taken(&mut allowance, "192.0.2.1", later));
        let reports: Vec<_> = std::iter::from_fn(|| allowance.poll_report(later)).collect();
        assert_eq!(reports.len(), 2);
        assert!(reports.iter().all(|report| report.count == 1));
    }

    #[test]
    fn more_sources_than_are_remembered_share_what_one_has() {
        let (mut allowance, start) = (Allowance::new(3).unwrap(), Instant::now());
        let source = |n: usize| IpAddr::V6(Ipv6Addr::from_bits((n as u128) << 64));
        for n in 0..MAX_SOURCES {
            assert!(allowance.take(source(n), start));
        }
        let new = (0..10).filter(|n| allowance.take(source(MAX_SOURCES + n), start));
        assert_eq!(new.count(), 3);
        assert!(allowance.take(source(0), start), "known ones keep theirs");
        // Reports are taken, so that the idle make room again.
        let later = start + 2 * WINDOW;
        while allowance.poll_report(later).is_some() {}
        let new = (0..10).filter(|n| allowance.take(source(MAX_SOURCES + n), later));
        assert_eq!(new.count(), 10);
    }

    #[test]
    fn a_rate_of_nothing_is_refused() {
        Allowance::new(0).unwrap_err();
    }
}
