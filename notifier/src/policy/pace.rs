//! When the next message may leave: a token bucket (burst 5, then one a second),
//! a sliding minute of 20, and the waits that failed attempts ask for.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Messages that may leave at once after a quiet time.
pub const BURST: usize = 5;

/// Messages that may leave in any minute: well below the one a second that
/// Slack allows, so that a channel stays readable.
pub const PER_MINUTE: usize = 20;

/// The token bucket gains one message per this time.
const INTERVAL: SignedDuration = SignedDuration::from_secs(1);

/// How far ahead of the even pace a burst may run.
const CREDIT: SignedDuration = SignedDuration::from_secs(BURST as i64 - 1);

const MINUTE: SignedDuration = SignedDuration::from_secs(60);

/// First wait after a failed attempt; doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Longest wait of the back-off, so that an outage is over at most a minute
/// after Slack is back.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Bounds on what a server's `Retry-After` may ask for.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// Every attempt counts, accepted or not: it reached Slack either way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pace {
    /// The token bucket as one time: when it will be full again.
    full_at: Timestamp,
    /// The attempts of the last minute, oldest first, at most [`PER_MINUTE`].
    recent: VecDeque<Timestamp>,
    /// What the last failure asked for.
    not_before: Timestamp,
    /// Failures since the last acceptance.
    failures: u32,
    /// The latest `now` seen.
    seen: Timestamp,
    #[serde(skip)]
    random: fastrand::Rng,
}

impl Pace {
    /// A full bucket. `seed` spreads the retries of several notifiers.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            full_at: Timestamp::MIN,
            recent: VecDeque::with_capacity(PER_MINUTE),
            not_before: Timestamp::MIN,
            failures: 0,
            seen: Timestamp::MIN,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Goes on with what was stored.
    pub(super) fn restored(mut self, seed: u64) -> Self {
        self.random.seed(seed);
        self.recent.truncate(PER_MINUTE);
        self
    }

    /// The earliest time at which an attempt may be made.
    pub(super) fn ready_at(&self) -> Timestamp {
        // A full bucket takes BURST intervals to refill and has room for the
        // next message while at most CREDIT of that is left.
        let bucket = later(self.full_at, -CREDIT);
        let minute = match self.recent.front() {
            Some(&oldest) if self.recent.len() >= PER_MINUTE => later(oldest, MINUTE),
            _ => Timestamp::MIN,
        };
        bucket.max(minute).max(self.not_before)
    }

    /// Takes note of the clock. Where it was set back, every time kept here goes
    /// back with it: a wait stays as long as it was.
    pub(super) fn handle_now(&mut self, now: Timestamp) {
        if now < self.seen {
            let step = now.duration_since(self.seen);
            let times = self.recent.iter_mut();
            for time in times.chain([&mut self.full_at, &mut self.not_before]) {
                *time = later(*time, step);
            }
        }
        self.seen = now;
    }

    /// An attempt is made at `now`.
    pub(super) fn handle_attempt(&mut self, now: Timestamp) {
        self.full_at = later(self.full_at.max(now), INTERVAL);
        if self.recent.len() >= PER_MINUTE {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
    }

    /// The attempt was accepted.
    pub(super) fn handle_accepted(&mut self) {
        self.failures = 0;
        self.not_before = Timestamp::MIN;
    }

    /// The attempt failed; the next waits 1, 2, 4, … up to 60 s, of which a
    /// random part of up to a half is left out.
    pub(super) fn handle_failure(&mut self, now: Timestamp) {
        let wait = FIRST_WAIT
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        let wait = wait.mul_f64(1.0 - self.random.f64() / 2.0);
        self.wait(wait, now);
    }

    /// The server asked for this much patience.
    pub(super) fn handle_retry_after(&mut self, wait: Duration, now: Timestamp) {
        self.wait(wait.clamp(RETRY_AFTER.0, RETRY_AFTER.1), now);
    }

    fn wait(&mut self, wait: Duration, now: Timestamp) {
        let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        self.not_before = later(now, wait);
    }
}

/// `time + wait`, kept within what a timestamp holds.
pub(super) fn later(time: Timestamp, wait: SignedDuration) -> Timestamp {
    let end = if wait.is_negative() {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    time.checked_add(wait).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{at, millis};

    /// Sends as fast as allowed for `seconds`; gives the times in milliseconds.
    fn attempts(pace: &mut Pace, seconds: i64) -> Vec<i64> {
        let mut times = Vec::new();
        let mut now = at(0);
        loop {
            now = now.max(pace.ready_at());
            if now >= at(seconds) {
                return times;
            }
            pace.handle_now(now);
            pace.handle_attempt(now);
            times.push(millis(now));
        }
    }

    #[test]
    fn a_burst_then_one_a_second_then_twenty_a_minute() {
        let times = attempts(&mut Pace::new(1), 62);
        assert_eq!(times[..7], [0, 0, 0, 0, 0, 1000, 2000]);
        assert_eq!(times[19], 15_000);
        assert_eq!(times[20], 60_000);
        for (n, time) in times.iter().enumerate() {
            let minute = times
                .iter()
                .filter(|t| (time - 59_999..=*time).contains(*t))
                .count();
            assert!(minute <= PER_MINUTE, "{n}: {minute}");
        }
    }

    #[test]
    fn the_back_off_doubles_with_jitter_and_ends() {
        let mut pace = Pace::new(1);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            pace.handle_failure(at(0));
            let wait = millis(pace.ready_at());
            assert!(
                (expected * 500..=expected * 1000).contains(&wait),
                "{expected} s: {wait} ms"
            );
        }
        pace.handle_accepted();
        assert_eq!(pace.ready_at(), Timestamp::MIN);
        pace.handle_failure(at(0));
        assert!(pace.ready_at() <= at(1));
    }

    #[test]
    fn retry_after_is_honoured_within_bounds() {
        let mut pace = Pace::new(1);
        for (asked, granted) in [
            (0, 1),
            (30, 30),
            (3600, 3600),
            (86_400, 3600),
            (u64::MAX, 3600),
        ] {
            pace.handle_retry_after(Duration::from_secs(asked), at(0));
            assert_eq!(pace.ready_at(), at(granted));
        }
    }

    #[test]
    fn a_clock_set_back_does_not_lengthen_waits() {
        let mut pace = Pace::new(1);
        pace.handle_now(at(10_000));
        for _ in 0..PER_MINUTE {
            pace.handle_attempt(at(10_000));
        }
        pace.handle_retry_after(Duration::from_secs(100), at(10_000));
        pace.handle_now(at(0));
        assert_eq!(pace.ready_at(), at(100));
        pace.handle_accepted();
        assert_eq!(pace.ready_at(), at(60));
    }
}
