//! What was counted and measured.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::client::{CallError, ClientError, Phase};
use crate::hresult::HResult;

/// How many different result codes of refusals are told apart; the host chooses
/// them. The rest is counted together.
pub const MAX_CODES: usize = 16;

/// Times are told apart to three digits, from a microsecond to ten minutes.
const SHORTEST: Duration = Duration::from_micros(1);
const LONGEST: Duration = Duration::from_secs(600);
const DIGITS: u8 = 3;

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// No connection.
    Connect,
    /// Nothing came in time, connected.
    Timeout,
    /// The host closed the connection, or it broke.
    Closed,
    /// The host does not speak RPC, or not KMS.
    Protocol,
    /// The call failed at the RPC level.
    Fault,
    /// The answer is not sealed by the suite.
    Seal,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Timeout,
        Self::Closed,
        Self::Protocol,
        Self::Fault,
        Self::Seal,
    ];

    /// One word.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::Fault => "fault",
            Self::Seal => "seal",
        }
    }

    pub(super) fn of(error: &CallError) -> Self {
        match error {
            CallError::Io {
                phase: Phase::Connect,
                ..
            }
            | CallError::Timeout {
                phase: Phase::Connect,
                ..
            } => Self::Connect,
            CallError::Timeout { .. } => Self::Timeout,
            CallError::Io { .. } | CallError::Closed { .. } => Self::Closed,
            CallError::Protocol(ClientError::Fault(_)) => Self::Fault,
            CallError::Protocol(_) => Self::Protocol,
        }
    }
}

/// How often what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were refused, by code.
    pub refused: BTreeMap<HResult, u64>,
    /// Requests that were refused with yet other codes than [`MAX_CODES`].
    pub refused_otherwise: u64,
    /// Requests and connections that failed.
    pub failed: BTreeMap<Failure, u64>,
    /// Connections that the host closed while they were held.
    pub dropped: u64,
    /// Connections opened and closed without a byte.
    pub probes: u64,
    /// Those of them that could not be opened.
    pub probes_failed: u64,
}

/// Some times, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// The shortest.
    pub min: Duration,
    /// The mean.
    pub mean: Duration,
    /// Half are shorter.
    pub p50: Duration,
    /// 9 in 10 are shorter.
    pub p90: Duration,
    /// 99 in 100 are shorter.
    pub p99: Duration,
    /// 999 in 1,000 are shorter.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

/// What a load came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Connections that were opened and bound.
    pub opened: u64,
    /// What happened.
    pub outcomes: Outcomes,
    /// What the first failure was, in words of this program and of the system.
    pub first_failure: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// From when a request was due (open loop) or sent to its answer or refusal.
    pub latency: Option<Latency>,
    /// Open loop: from when it was sent.
    pub from_sending: Option<Latency>,
}

impl Outcomes {
    /// Requests that were answered or refused.
    #[must_use]
    pub fn replies(&self) -> u64 {
        self.answered + self.refusals()
    }

    /// Requests that were refused.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refused.values().sum::<u64>() + self.refused_otherwise
    }

    /// Requests and connections that failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    pub(super) fn refuse(&mut self, code: HResult) {
        if self.refused.len() >= MAX_CODES && !self.refused.contains_key(&code) {
            self.refused_otherwise += 1;
        } else {
            *self.refused.entry(code).or_default() += 1;
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        *self.failed.entry(failure).or_default() += 1;
    }
}

/// Times as they come.
pub(super) struct Times(Histogram<u64>);

impl Times {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(nanos(SHORTEST), nanos(LONGEST), DIGITS);
        Self(histogram.expect("the bounds are constants that fit"))
    }

    /// What is out of bounds counts as the bound.
    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record(nanos(time));
    }

    pub(super) fn sum_up(&self) -> Option<Latency> {
        let at = |quantile| Duration::from_nanos(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| Latency {
            min: Duration::from_nanos(self.0.min()),
            mean: Duration::from_secs_f64(self.0.mean() / 1e9),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_nanos(self.0.max()),
        })
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut times = Times::new();
        assert_eq!(times.sum_up(), None);
        for millis in 1..=1000 {
            times.record(Duration::from_millis(millis));
        }
        let latency = times.sum_up().unwrap();
        let close = |found: Duration, millis: f64| {
            let error = (found.as_secs_f64() * 1e3 / millis - 1.0).abs();
            assert!(error < 0.001, "{found:?} is not {millis} ms");
        };
        close(latency.p50, 500.0);
        close(latency.p99, 990.0);
        close(latency.mean, 500.5);
        close(latency.max, 1000.0);
    }

    #[test]
    fn times_out_of_bounds_count_as_the_bound() {
        let mut times = Times::new();
        times.record(Duration::MAX);
        let longest = times.sum_up().unwrap().max.as_secs_f64();
        assert!((600.0..601.0).contains(&longest), "{longest}");
    }

    #[test]
    fn codes_that_a_host_makes_up_are_counted_together() {
        let mut outcomes = Outcomes::default();
        for code in 0..100 {
            outcomes.refuse(HResult(code));
            outcomes.refuse(HResult(0));
        }
        assert_eq!(outcomes.refused.len(), MAX_CODES);
        assert_eq!(outcomes.refused.get(&HResult(0)), Some(&101));
        assert_eq!(outcomes.refusals(), 200);
    }
}
