//! Whether a log is heard of at all, and whether it is understood.
//!
//! [`Watch`] is one log's pure machine: its driver says which lines came
//! ([`Watch::handle_lines`]) and that a server started ([`Watch::handle_start`]),
//! asks for alerts ([`Watch::poll`]) and sleeps until [`Watch::next_due`].

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::rows::encode;

/// So many lines after a server's start, what it writes is known.
const TRIAL: u64 = 10_000;

/// Fewer unrecognised lines are no drift: a client can forge some.
const MIN_UNRECOGNISED: u64 = 20;

/// Unrecognised lines are a rise when they are more than one in so many, …
const MIN_SHARE: u64 = 20;

/// … and more than so many times what they were before the start.
const RISE: u128 = 2;

/// What an operator should look at, or need not any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// No line came for the configured time.
    Silent {
        /// When the last one came, or the watch began.
        since: Timestamp,
    },
    /// Lines come again, after [`Finding::Silent`].
    Heard {
        /// How long none came.
        after: Duration,
    },
    /// Since a server's start, many more lines than before are not understood:
    /// another version, language or format, perhaps.
    Drift {
        /// Lines that are not recognised, since that start.
        unrecognised: u64,
        /// All lines since then.
        lines: u64,
    },
}

/// Watches over one log. What it knows may be kept over a restart, so that an
/// alert is followed by its all-clear.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watch {
    /// After how long silence is an alert; none: never.
    silence_after: Option<SignedDuration>,
    last_line: Timestamp,
    /// The silence that was told.
    silent_since: Option<Timestamp>,
    heard: Option<Duration>,
    before: Lines,
    since_start: Lines,
    drift: Drift,
}

/// Lines, and how many of them are not recognised.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Lines {
    all: u64,
    unrecognised: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Drift {
    Watched,
    /// To be told by the next poll.
    Noticed,
    Told,
}

impl Watch {
    /// As bytes, to be kept over a restart.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Out of bytes; none if they are not its own, as another version's may be.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (watch, rest) = postcard::take_from_bytes(bytes).ok()?;
        rest.is_empty().then_some(watch)
    }

    /// Begins at `now`, as if a line came and a server started.
    #[must_use]
    pub fn new(silence_after: Option<Duration>, now: Timestamp) -> Self {
        let mut watch = Self {
            silence_after: None,
            last_line: now,
            silent_since: None,
            heard: None,
            before: Lines::default(),
            since_start: Lines::default(),
            drift: Drift::Watched,
        };
        watch.set_silence_after(silence_after);
        watch
    }

    /// From now on silence is an alert after so long, or never.
    pub fn set_silence_after(&mut self, silence_after: Option<Duration>) {
        let signed = |after| SignedDuration::try_from(after).unwrap_or(SignedDuration::MAX);
        self.silence_after = silence_after.map(signed);
    }

    /// Goes on after a restart at `now`: what was missed meanwhile was no silence.
    pub fn handle_restart(&mut self, now: Timestamp) {
        self.last_line = now;
    }

    /// Lines came, some of them not recognised.
    pub fn handle_lines(&mut self, all: u64, unrecognised: u64, now: Timestamp) {
        if all == 0 {
            return;
        }
        if let Some(since) = self.silent_since.take() {
            let after = now.duration_since(since);
            self.heard = Some(Duration::try_from(after).unwrap_or_default());
        }
        self.last_line = now;
        self.since_start.all += all;
        self.since_start.unrecognised += unrecognised;
        if self.drift == Drift::Watched
            && self.since_start.all <= TRIAL
            && self.since_start.rises_over(self.before)
        {
            self.drift = Drift::Noticed;
        }
    }

    /// A server started: what it writes is compared with what came before.
    pub fn handle_start(&mut self) {
        // A server that ends at once tells nothing about its lines.
        if self.since_start.all >= MIN_UNRECOGNISED {
            self.before = self.since_start;
        }
        self.since_start = Lines::default();
        self.drift = Drift::Watched;
    }

    /// What is to be told now; ask until there is nothing.
    pub fn poll(&mut self, now: Timestamp) -> Option<Finding> {
        if let Some(after) = self.heard.take() {
            return Some(Finding::Heard { after });
        }
        if self.drift == Drift::Noticed {
            self.drift = Drift::Told;
            let Lines { all, unrecognised } = self.since_start;
            return Some(Finding::Drift {
                unrecognised,
                lines: all,
            });
        }
        // A clock that was set back must not make the silence longer.
        self.last_line = self.last_line.min(now);
        if self.next_due()? > now {
            return None;
        }
        let since = self.last_line;
        self.silent_since = Some(since);
        Some(Finding::Silent { since })
    }

    /// When [`Watch::poll`] has something if no line comes; none if never. Ask
    /// after a poll.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        if self.silent_since.is_some() {
            return None;
        }
        self.last_line.checked_add(self.silence_after?).ok()
    }

    /// Whether the log is silent, as far as was told.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.silent_since.is_some()
    }
}

impl Lines {
    fn rises_over(self, before: Self) -> bool {
        let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let Self { all, unrecognised } = self;
        if unrecognised < MIN_UNRECOGNISED {
            return false;
        }
        if before.all == 0 {
            // Nothing to compare with: most lines of a known server are known.
            return product(unrecognised, 2) > all.into();
        }
        // Shares are compared across, without a division.
        product(unrecognised, MIN_SHARE) > all.into()
            && product(unrecognised, before.all) > RISE * product(before.unrecognised, all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).unwrap()
    }

    fn watch(silence: u64) -> Watch {
        Watch::new(Some(Duration::from_secs(silence)), at(0))
    }

    fn alerts(watch: &mut Watch, now: i64) -> Vec<Finding> {
        std::iter::from_fn(|| watch.poll(at(now))).collect()
    }

    #[test]
    fn silence_is_told_once_and_so_is_its_end() {
        let mut watch = watch(120);
        watch.handle_lines(3, 0, at(10));
        assert_eq!(watch.next_due(), Some(at(130)));
        assert_eq!(alerts(&mut watch, 129), []);
        assert_eq!(alerts(&mut watch, 130), [Finding::Silent { since: at(10) }]);
        assert!(watch.is_silent() && watch.next_due().is_none());
        assert_eq!(alerts(&mut watch, 900), []);
        // Kept over a restart.
        let mut watch = Watch::decode(&watch.encode()).unwrap();
        watch.handle_restart(at(950));
        watch.handle_lines(1, 0, at(1000));
        let after = Duration::from_secs(990);
        assert_eq!(alerts(&mut watch, 1000), [Finding::Heard { after }]);
        assert!(!watch.is_silent());
        assert_eq!(alerts(&mut watch, 1119), []);
        assert_eq!(alerts(&mut watch, 1120).len(), 1);
    }

    /// Another layout is begun anew, so a change here loses an all-clear at most.
    #[test]
    fn the_layout_of_a_watch() {
        let mut watch = watch(120);
        watch.handle_lines(300, 7, at(10));
        watch.handle_start();
        watch.handle_lines(40, 40, at(20));
        assert_eq!(alerts(&mut watch, 20).len(), 1);
        assert_eq!(alerts(&mut watch, 140).len(), 1);
        let bytes = watch.encode();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        insta::assert_snapshot!(hex, @"01045054324d14323032362d30392d32315431343a31333a34305a0114323032362d30392d32315431343a31333a34305a00ac0207282802");
        let again = Watch::decode(&bytes).unwrap();
        assert_eq!(again.encode(), bytes);
        assert!(Watch::decode(&bytes[1..]).is_none());
        assert!(Watch::decode(&[&bytes[..], &[0]].concat()).is_none());
    }

    #[test]
    fn a_log_that_never_says_anything_is_silent_too() {
        let mut watch = watch(60);
        assert_eq!(alerts(&mut watch, 60), [Finding::Silent { since: at(0) }]);
        let mut off = Watch::new(None, at(0));
        assert_eq!(
            (alerts(&mut off, 1_000_000), off.next_due()),
            (vec![], None)
        );
        off.handle_lines(0, 0, at(5));
        assert_eq!(off.last_line, at(0));
    }

    #[test]
    fn a_restart_and_a_clock_set_back_are_no_silence() {
        let mut watch = watch(60);
        watch.handle_restart(at(500));
        assert_eq!(alerts(&mut watch, 559), []);
        assert_eq!(alerts(&mut watch, 100), []);
        assert_eq!(watch.next_due(), Some(at(160)));
    }

    #[test]
    fn a_rise_after_a_start_is_told_once() {
        let mut watch = watch(60);
        watch.handle_lines(1000, 10, at(1));
        watch.handle_start();
        watch.handle_lines(300, 19, at(2));
        assert_eq!(alerts(&mut watch, 2), []);
        watch.handle_lines(50, 1, at(3));
        let drift = Finding::Drift {
            unrecognised: 20,
            lines: 350,
        };
        assert_eq!(alerts(&mut watch, 3), [drift]);
        watch.handle_lines(1000, 1000, at(4));
        assert_eq!(alerts(&mut watch, 4), []);
        // The next start is compared with that, and the one after a rise again.
        watch.handle_start();
        watch.handle_lines(1000, 600, at(5));
        assert_eq!(alerts(&mut watch, 5), []);
        watch.handle_start();
        watch.handle_start();
        watch.handle_lines(100, 0, at(6));
        watch.handle_start();
        watch.handle_lines(100, 50, at(7));
        assert_eq!(alerts(&mut watch, 7).len(), 1);
    }

    #[test]
    fn what_was_always_so_or_comes_late_is_no_rise() {
        let mut watch = watch(60);
        watch.handle_lines(1000, 300, at(1));
        assert_eq!(alerts(&mut watch, 1), [], "nothing to compare it with");
        watch.handle_start();
        watch.handle_lines(1000, 599, at(2));
        assert_eq!(alerts(&mut watch, 2), []);
        watch.handle_start();
        watch.handle_lines(TRIAL, 0, at(3));
        watch.handle_lines(TRIAL, TRIAL, at(4));
        assert_eq!(alerts(&mut watch, 4), []);
    }

    #[test]
    fn another_format_from_the_beginning_is_told() {
        let mut watch = watch(60);
        watch.handle_lines(30, 30, at(1));
        assert_eq!(alerts(&mut watch, 1).len(), 1);
    }

    proptest! {
        #[test]
        fn alerts_and_all_clears_alternate(steps in prop::collection::vec((0_i64..200, any::<bool>()), 0..60)) {
            let (mut watch, mut now, mut silent) = (watch(60), 0, false);
            let mut last_line = 0;
            for (wait, line) in steps {
                now += wait;
                for alert in alerts(&mut watch, now) {
                    prop_assert_eq!(&alert, &Finding::Silent { since: at(last_line) });
                    prop_assert!(!std::mem::replace(&mut silent, true));
                }
                prop_assert_eq!(silent, now - last_line >= 60);
                if line {
                    watch.handle_lines(1, 0, at(now));
                    last_line = now;
                    prop_assert_eq!(alerts(&mut watch, now).len(), usize::from(std::mem::take(&mut silent)));
                }
                prop_assert_eq!(watch.is_silent(), silent);
            }
        }
    }
}
