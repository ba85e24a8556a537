//! One [`Watch`] for each log, and what an operator is told of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::message::Alert;
use super::watch::{Finding, Watch};

/// Watches over all logs.
#[derive(Debug)]
pub struct Watches(BTreeMap<Arc<str>, Watch>);

/// Something to tell of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Name of the log.
    pub log: Arc<str>,
    /// Whether it is silent now, if that changed.
    pub silent: Option<bool>,
    /// The message.
    pub alert: Alert,
}

impl Watches {
    /// Begins at `now`; no line for `silence_after` is an alert, if it is given.
    #[must_use]
    pub fn new(logs: &[Arc<str>], silence_after: Option<Duration>, now: Timestamp) -> Self {
        let watch = |log: &Arc<str>| (Arc::clone(log), Watch::new(silence_after, now));
        Self(logs.iter().map(watch).collect())
    }

    /// Goes on with what an earlier run knew of these logs, as it is configured
    /// now; those that nobody follows any more are left out.
    pub fn restore(
        &mut self,
        earlier: BTreeMap<String, Watch>,
        silence_after: Option<Duration>,
        now: Timestamp,
    ) {
        for (log, mut watch) in earlier {
            if let Some(begun) = self.0.get_mut(&*log) {
                watch.handle_restart(now);
                watch.set_silence_after(silence_after);
                *begun = watch;
            }
        }
    }

    /// From now on silence is an alert after so long, or never.
    pub fn set_silence_after(&mut self, silence_after: Option<Duration>) {
        for watch in self.0.values_mut() {
            watch.set_silence_after(silence_after);
        }
    }

    /// What is kept of a log's watch over a restart.
    #[must_use]
    pub fn encode(&self, log: &str) -> Option<Vec<u8>> {
        self.0.get(log).map(Watch::encode)
    }

    /// The logs whose silence was told and is not over.
    pub fn silent(&self) -> impl Iterator<Item = &Arc<str>> {
        let silent = self.0.iter().filter(|(_, watch)| watch.is_silent());
        silent.map(|(log, _)| log)
    }

    /// A log brought so many lines; `started` if they tell that a server started.
    pub fn handle_lines(
        &mut self,
        log: &str,
        started: bool,
        all: u64,
        unrecognised: u64,
        now: Timestamp,
    ) {
        let Some(watch) = self.0.get_mut(log) else {
            return;
        };
        if started {
            // Most of the lines that come with a start come after it.
            watch.handle_start();
        }
        watch.handle_lines(all, unrecognised, now);
    }

    /// No log was read for a while, up to `now`: that no line came is no log's silence.
    pub fn handle_pause(&mut self, now: Timestamp) {
        for watch in self.0.values_mut() {
            watch.handle_restart(now);
        }
    }

    /// A log ended: that no more lines come is no silence.
    pub fn handle_end(&mut self, log: &str) {
        self.0.remove(log);
    }

    /// What is to be told now; ask until there is nothing.
    pub fn poll(&mut self, now: Timestamp) -> Option<Watched> {
        self.0.iter_mut().find_map(|(log, watch)| {
            let finding = watch.poll(now)?;
            Some(Watched {
                log: Arc::clone(log),
                silent: match finding {
                    Finding::Silent { .. } => Some(true),
                    Finding::Heard { .. } => Some(false),
                    Finding::Drift { .. } => None,
                },
                alert: alert(log, &finding, now),
            })
        })
    }

    /// When [`Watches::poll`] has something if no line comes; none if never. Ask
    /// after a poll.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.0.values().filter_map(Watch::next_due).min()
    }
}

fn alert(log: &str, finding: &Finding, now: Timestamp) -> Alert {
    let (title, text) = match finding {
        Finding::Silent { since } => (
            format!("KMS log {log} is silent"),
            format!(
                "Not one line came for {:#}, the last or the notifier's start was at {}. Check that \
                 the server runs, that it still writes to this log, and that its disk is not full. \
                 Until lines come again, activations of this server may go unseen.",
                whole_seconds(now.duration_since(*since)),
                since.strftime("%Y-%m-%d %H:%M:%S UTC"),
            ),
        ),
        Finding::Heard { after } => (
            format!("KMS log {log} is heard again"),
            format!(
                "Lines come again, after {:#} without any. Nothing is left to do.",
                whole_seconds(SignedDuration::try_from(*after).unwrap_or(SignedDuration::MAX)),
            ),
        ),
        Finding::Drift {
            unrecognised,
            lines,
        } => (
            format!("KMS log {log} is no longer understood"),
            format!(
                "Since the server started, {unrecognised} of {lines} lines are not recognised, many \
                 more than before: activations may go unseen. Check whether the server's version or \
                 options changed, or whether something else writes to this log; `kms-notifier \
                 explain FILE LINE` says what becomes of a line.",
            ),
        ),
    };
    Alert {
        title: title.into(),
        text: text.into(),
    }
}

fn whole_seconds(duration: SignedDuration) -> SignedDuration {
    SignedDuration::from_secs(duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).unwrap()
    }

    fn watches(silence: Option<u64>) -> Watches {
        let logs = ["a".into(), "b".into()];
        Watches::new(&logs, silence.map(Duration::from_secs), at(0))
    }

    fn told(watches: &mut Watches, now: i64) -> Vec<(String, Option<bool>)> {
        std::iter::from_fn(|| watches.poll(at(now)))
            .map(|told| (told.alert.title.into(), told.silent))
            .collect()
    }

    #[test]
    fn what_was_not_read_is_no_silence() {
        let mut watches = watches(Some(60));
        watches.handle_pause(at(50));
        assert_eq!(told(&mut watches, 100), []);
        assert_eq!(watches.next_due(), Some(at(110)));
        assert_eq!(told(&mut watches, 110).len(), 2);
        // What is told already is over with a line, not with a pause.
        watches.handle_pause(at(120));
        assert_eq!(told(&mut watches, 300), []);
        assert_eq!(watches.silent().count(), 2);
    }

    #[test]
    fn silence_and_its_end_are_told_of_the_log_that_has_them() {
        let mut watches = watches(Some(120));
        assert_eq!(watches.next_due(), Some(at(120)));
        watches.handle_lines("a", false, 1, 0, at(100));
        watches.handle_lines("unknown", false, 1, 0, at(100));
        assert_eq!(told(&mut watches, 119), []);
        assert_eq!(
            told(&mut watches, 120),
            [("KMS log b is silent".into(), Some(true))]
        );
        assert_eq!(told(&mut watches, 121), []);
        assert_eq!(watches.next_due(), Some(at(220)));
        watches.handle_lines("b", false, 1, 0, at(200));
        let heard = watches.poll(at(200)).unwrap();
        assert_eq!((&*heard.log, heard.silent), ("b", Some(false)));
        assert_eq!(
            &*heard.alert.text,
            "Lines come again, after 3m 20s without any. Nothing is left to do."
        );
        watches.handle_end("a");
        assert_eq!(told(&mut watches, 300), []);
        let silent = watches.poll(at(330)).unwrap().alert.text;
        assert!(
            silent.starts_with("Not one line came for 2m 10s, the last or the notifier's start was at 2026-09-21 14:16:40 UTC."),
            "{silent}"
        );
        watches.handle_end("b");
        assert_eq!(watches.next_due(), None);
    }

    #[test]
    fn what_was_told_is_known_after_a_restart() {
        let mut first = watches(Some(120));
        first.handle_lines("a", true, 100, 90, at(100));
        assert_eq!(told(&mut first, 130).len(), 2, "a drifts, b is silent");
        let kept = ["a", "b", "gone"].map(|log| {
            let bytes = first.encode(log).or(first.encode("a")).unwrap();
            (log.to_owned(), Watch::decode(&bytes).unwrap())
        });
        let mut second = watches(None);
        second.restore(kept.into(), Some(Duration::from_secs(60)), at(1000));
        assert_eq!(second.silent().map(|log| &**log).collect::<Vec<_>>(), ["b"]);
        second.handle_lines("a", false, 10, 10, at(1001));
        assert_eq!(told(&mut second, 1050), [], "neither is told again");
        second.handle_lines("b", false, 1, 0, at(1051));
        let clear = [("KMS log b is heard again".into(), Some(false))];
        assert_eq!(told(&mut second, 1052), clear);
        assert_eq!(second.next_due(), Some(at(1061)));
        second.set_silence_after(None);
        assert_eq!(second.next_due(), None);
        assert_eq!(second.encode("gone"), None);
    }

    #[test]
    fn a_dialect_that_drifts_is_told_once_after_a_start() {
        let mut watches = watches(None);
        watches.handle_lines("a", false, 1000, 10, at(1));
        assert_eq!(told(&mut watches, 1), []);
        watches.handle_lines("a", true, 100, 40, at(2));
        let drift = watches.poll(at(2)).unwrap();
        assert_eq!((&*drift.log, drift.silent), ("a", None));
        assert!(drift.alert.text.contains("40 of 100 lines"), "{drift:?}");
        watches.handle_lines("a", false, 100, 40, at(3));
        assert_eq!(told(&mut watches, 3), []);
        assert_eq!(watches.next_due(), None, "silence is not watched");
    }
}
