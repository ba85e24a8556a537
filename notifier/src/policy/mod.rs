//! What becomes of an event: its source class, whether it is told, and when.
//!
//! One pure machine: it owns no clock, socket or thread, so a night without
//! Slack is a unit test. Its driver feeds it ([`Policy::handle_event`],
//! [`Policy::handle_outcome`]), then asks [`Policy::poll_delivery`] until it has
//! nothing, then sleeps until [`Policy::next_due`] or more input. At most one
//! delivery is under way.
//!
//! All it keeps can be had as rows of bytes ([`Policy::take_changes`]) and given
//! back ([`Policy::restore`]), so that a durable twin can write it in one
//! transaction; nothing outside this room looks into them.

pub mod dead;
pub mod dedup;
pub mod known;
pub mod message;
pub mod network;
pub mod outbox;
pub mod pace;
pub mod rows;
pub mod shared;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod stored_tests;
#[cfg(test)]
pub(crate) mod testing;
pub mod watch;
pub mod watches;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use self::dead::{DeadLetter, Selection};
use self::dedup::{Key, Verdict, Window};
use self::known::Known;
pub use self::message::{Alert, Body, Delivery, DeliveryId, Digest, Notice};
pub use self::network::Classes;
use self::outbox::Outbox;
pub use self::outbox::{Outcome, Settled};
use self::rows::{Changes, Stored, Table, Unreadable};
use self::shared::{Name, Sharing};
use crate::event::{Dedup, Event, Kind};

/// What an operator can choose; may change while running.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Source classes.
    pub classes: Classes,
    /// How long a client and product stay quiet after they were told; zero
    /// tells every activation.
    pub dedup_window: Duration,
    /// Whether refusals are told too.
    pub post_refused: bool,
    /// What happened longer ago is told in digests only.
    pub post_max_age: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            classes: Classes::default(),
            dedup_window: Duration::from_secs(3600),
            post_refused: false,
            post_max_age: Duration::from_secs(24 * 3600),
        }
    }
}

/// What was cut or given up since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// What happened to messages.
    pub outbox: outbox::Counts,
    /// Clients and products forgotten because newer ones came.
    pub evicted_keys: u64,
    /// Events that may be told twice after a crash.
    pub forgotten_events: u64,
}

/// Source classes, dedup window and outbox behind one door.
#[derive(Debug)]
pub struct Policy {
    classes: Classes,
    post_refused: bool,
    window: Window,
    known: Known,
    /// None in a replay: every message is accepted as it is made.
    outbox: Option<Outbox>,
    /// This one's name among sidecars.
    name: Name,
    /// Where other sidecars tell, too.
    sharing: Option<Sharing>,
}

impl Policy {
    /// A policy that queues messages. `seed` spreads retries and names the sidecar;
    /// any random value will do.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            outbox: Some(Outbox::new(signed(settings.post_max_age), seed)),
            name: Name::new(seed),
            ..Self::for_replay(settings)
        }
    }

    /// A policy that goes on with what an earlier one left, and that notes what
    /// changes from here on.
    ///
    /// # Errors
    /// A row that no policy of this version wrote.
    pub fn restore(settings: Settings, seed: u64, stored: &Stored) -> Result<Self, Unreadable> {
        let mut policy = Self::new(settings, seed);
        let window = stored.iter().filter(|(table, ..)| *table == Table::Window);
        policy
            .window
            .restore(window.map(|(_, key, value)| (&**key, &**value)))?;
        for (table, key, value) in stored {
            match (table, &mut policy.outbox) {
                (Table::Window, _) => {}
                (Table::Known, _) => policy.known.restore(key, value)?,
                (Table::Rest, _) if **key == *shared::NAME_ROW => policy.name.restore(value)?,
                (_, Some(outbox)) => outbox.restore(*table, key, value, seed)?,
                (_, None) => {}
            }
        }
        policy.window.track();
        policy.known.track();
        policy.name.track();
        if let Some(outbox) = &mut policy.outbox {
            outbox.track();
        }
        Ok(policy)
    }

    /// Says that events of this log may come again after a crash, until
    /// [`Policy::handle_position`].
    pub fn follow(&mut self, log: Arc<str>) {
        self.known.follow(log);
    }

    /// The log will not be read again from before here: a position behind all
    /// events so far is about to be stored.
    pub fn handle_position(&mut self, log: &Arc<str>) {
        self.known.handle_position(log);
    }

    /// Whether anything changed since [`Policy::take_changes`].
    #[must_use]
    pub fn has_changed(&self) -> bool {
        !self.window.changed().is_empty()
            || !self.known.changed().is_empty()
            || self.name.has_changed()
            || self.outbox.as_ref().is_some_and(Outbox::has_changed)
    }

    /// What to write for the stored rows to be these; all of them if `whole`.
    pub fn take_changes(&mut self, whole: bool) -> Changes {
        let outbox = &mut self.outbox;
        let whole = whole
            || self.window.changed().is_all()
            || self.known.changed().is_all()
            || outbox.as_ref().is_some_and(Outbox::lost_track);
        let mut rows = Vec::new();
        self.window.rows(whole, &mut rows);
        self.known.rows(whole, &mut rows);
        rows.extend(self.name.row(whole));
        if let Some(outbox) = outbox {
            outbox.rows(whole, &mut rows);
        }
        Changes { whole, rows }
    }

    /// A policy whose messages count as accepted at once, for a replay in which
    /// `now` is the events' own time. There is never a delivery to poll.
    #[must_use]
    pub fn for_replay(settings: Settings) -> Self {
        let Settings {
            classes,
            dedup_window,
            post_refused,
            post_max_age: _,
        } = settings;
        let window = Window::new(signed(dedup_window));
        Self {
            classes,
            post_refused,
            window,
            known: Known::default(),
            outbox: None,
            name: Name::default(),
            sharing: None,
        }
    }

    /// Takes over changed settings. Messages under way stay under way.
    pub fn reload(&mut self, settings: Settings) {
        let Settings {
            classes,
            dedup_window,
            post_refused,
            post_max_age,
        } = settings;
        self.classes = classes;
        self.post_refused = post_refused;
        self.window.set_length(signed(dedup_window));
        if let Some(outbox) = &mut self.outbox {
            outbox.set_max_age(signed(post_max_age));
        }
    }

    /// The source classes in force.
    #[must_use]
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Decides about an event: sets `source` where it has an address, `dedup`
    /// where it is an activation, and queues a message if one is due.
    pub fn handle_event(&mut self, event: &mut Event, now: Timestamp) {
        self.classify(event);
        let posted =
            event.kind == Kind::Activation || (event.kind == Kind::Refused && self.post_refused);
        let dedup = match posted.then(|| Key::of(event)).flatten() {
            Some(key) => {
                let known = self.known.find(&event.log, event.id);
                known.unwrap_or_else(|| {
                    let dedup = self.decide(key, event, now);
                    self.known.handle_event(&event.log, event.id, dedup);
                    dedup
                })
            }
            None => Dedup::Off,
        };
        event.dedup = (event.kind == Kind::Activation).then_some(dedup);
    }

    /// Says what kind of source an event has, and no more: it sets `source` where
    /// there is an address.
    pub fn classify(&self, event: &mut Event) {
        event.source = event.ip.map(|ip| self.classes.classify(ip).clone());
    }

    fn decide(&mut self, key: Key, event: &Event, now: Timestamp) -> Dedup {
        let verdict = self.window.handle_event(&key, now);
        let Some(outbox) = &mut self.outbox else {
            return match verdict {
                Verdict::Repeat => Dedup::Repeat,
                Verdict::Post { .. } | Verdict::Join(_) => {
                    self.window.handle_told(key, None, 0, now);
                    Dedup::Post
                }
            };
        };
        let repeats = match verdict {
            Verdict::Repeat => return Dedup::Repeat,
            Verdict::Join(message) if outbox.handle_join(message) => return Dedup::Pending,
            Verdict::Join(_) => 0,
            Verdict::Post { repeats } => repeats,
        };
        match outbox.handle_post(key.clone(), Notice::new(event, repeats), now) {
            Some(message) => {
                let claimed = self.claim(message, &key, event.id);
                self.window.handle_posted(key, message);
                if claimed {
                    // Another sidecar may be telling of it.
                    Dedup::Pending
                } else {
                    Dedup::Post
                }
            }
            // Counted by the next digest: a message is under way, not its own.
            None => Dedup::Pending,
        }
    }

    /// Tells something about the notifier itself.
    pub fn handle_alert(&mut self, alert: Alert) {
        if let Some(outbox) = &mut self.outbox {
            outbox.handle_alert(alert);
        }
    }

    /// Messages that were refused for good, oldest first.
    pub fn dead_letters(&self) -> impl Iterator<Item = &DeadLetter> {
        self.outbox.iter().flat_map(Outbox::dead_letters)
    }

    /// Queues dead letters again, whatever the window says; how many.
    pub fn retry_dead_letters(&mut self, selection: &Selection, now: Timestamp) -> usize {
        let Some(outbox) = &mut self.outbox else {
            return 0;
        };
        let retried = outbox.retry_dead(selection, now);
        let count = retried.len();
        for (key, message) in retried {
            self.window.handle_retried(key, message);
        }
        count
    }

    /// Drops dead letters; how many.
    pub fn drop_dead_letters(&mut self, selection: &Selection) -> usize {
        let outbox = self.outbox.as_mut();
        outbox.map_or(0, |outbox| outbox.drop_dead(selection))
    }

    /// Whether [`Policy::poll_delivery`] has a message now.
    pub fn is_due(&mut self, now: Timestamp) -> bool {
        let outbox = self.outbox.as_mut();
        outbox.is_some_and(|outbox| outbox.is_due(now))
    }

    /// The message to post now, if one is due and none is under way. Its outcome
    /// must come back through [`Policy::handle_outcome`].
    pub fn poll_delivery(&mut self, now: Timestamp) -> Option<Delivery> {
        self.outbox.as_mut()?.poll_delivery(now)
    }

    /// When [`Policy::poll_delivery`] will have a message if nothing else
    /// happens: none while nothing waits, or while one is under way.
    ///
    /// Ask after a poll: the poll is what notices a clock that was set back.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.outbox.as_ref()?.next_due()
    }

    /// Takes the outcome of a delivery and says what it meant; none if that
    /// delivery is not under way.
    pub fn handle_outcome(
        &mut self,
        id: DeliveryId,
        outcome: Outcome,
        now: Timestamp,
    ) -> Option<Settled> {
        let (settled, fates) = self.outbox.as_mut()?.handle_outcome(id, outcome, now)?;
        for fate in fates {
            self.settle(fate, now);
        }
        Some(settled)
    }

    /// At shutdown: from now on all that waits leaves in one message, still
    /// within the rate. What is left at the deadline is [`Policy::len`] messages and
    /// alerts that stand for [`Policy::unsent_events`].
    pub fn start_draining(&mut self) {
        if let Some(outbox) = &mut self.outbox {
            outbox.start_draining();
        }
    }

    /// Messages and alerts that are not told yet, those under way included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outbox.as_ref().map_or(0, Outbox::len)
    }

    /// Whether every event that was to be told is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unsent_events() == 0 && !self.outbox.as_ref().is_some_and(Outbox::has_alerts)
    }

    /// Events that are not told yet, those beyond the queue's bound included.
    #[must_use]
    pub fn unsent_events(&self) -> u64 {
        self.outbox.as_ref().map_or(0, Outbox::events)
    }

    /// What was cut or given up since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            outbox: self.outbox.as_ref().map(Outbox::counts).unwrap_or_default(),
            evicted_keys: self.window.evicted(),
            forgotten_events: self.known.forgotten(),
        }
    }
}

/// A window longer than a timestamp can hold is as good as the longest.
fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
