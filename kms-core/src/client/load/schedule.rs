//! Which request is due when.

use std::time::Duration;

/// Hands out requests by number, each with the time it is due, from the start.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    requests: u64,
    duration: Option<Duration>,
    rate: Option<f64>,
    next: u64,
}

/// The next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Counted from 0.
    pub number: u64,
    /// When, from the start; none is at once.
    pub at: Option<Duration>,
}

impl Schedule {
    /// So many requests, none of them later than `duration`, at `rate` in a second
    /// (more than 0) or as they come.
    #[must_use]
    pub fn new(requests: u64, duration: Option<Duration>, rate: Option<f64>) -> Self {
        Self {
            requests,
            duration,
            rate,
            next: 0,
        }
    }

    /// The next request, `elapsed` after the start.
    pub fn take(&mut self, elapsed: Duration) -> Option<Due> {
        if self.next >= self.requests {
            return None;
        }
        let at = self.rate.map(|rate| due(self.next, rate));
        let ends = |duration| at.unwrap_or(elapsed) >= duration;
        if self.duration.is_some_and(ends) {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some(Due { number, at })
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "2^53 requests are more than anybody waits for"
)]
fn due(number: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(number as f64 / rate).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(schedule: &mut Schedule) -> Vec<Due> {
        std::iter::from_fn(|| schedule.take(Duration::ZERO)).collect()
    }

    #[test]
    fn a_closed_loop_hands_out_all_at_once() {
        let mut schedule = Schedule::new(2, None, None);
        let due = |number| Due { number, at: None };
        assert_eq!(times(&mut schedule), [due(0), due(1)]);
    }

    #[test]
    fn a_closed_loop_ends_with_its_duration() {
        let mut schedule = Schedule::new(u64::MAX, Some(Duration::from_secs(2)), None);
        assert!(schedule.take(Duration::from_millis(1999)).is_some());
        assert_eq!(schedule.take(Duration::from_secs(2)), None);
    }

    #[test]
    fn an_open_loop_spreads_evenly_and_drops_none_that_was_due() {
        let mut schedule = Schedule::new(u64::MAX, Some(Duration::from_secs(1)), Some(4.0));
        // Long after its end, all that was due is still to be sent.
        let late = Duration::from_secs(60);
        let taken = std::iter::from_fn(|| schedule.take(late)?.at);
        let millis: Vec<u128> = taken.map(|at| at.as_millis()).collect();
        assert_eq!(millis, [0, 250, 500, 750]);
    }

    proptest! {
        #[test]
        fn due_times_rise_and_keep_the_rate(rate in 0.1..1e6_f64, requests in 1..2_000_u64) {
            let mut schedule = Schedule::new(requests, None, Some(rate));
            let taken = times(&mut schedule);
            prop_assert_eq!(taken.len(), usize::try_from(requests).unwrap());
            prop_assert!(taken.is_sorted_by_key(|due| due.at));
            let last = taken.last().and_then(|due| due.at).unwrap().as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let expected = (requests - 1) as f64 / rate;
            prop_assert!((last - expected).abs() <= 1e-6);
        }
    }
}
