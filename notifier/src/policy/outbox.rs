//! The messages that are still to be told, and when the next one leaves.
//!
//! Messages wait in one queue, oldest first. When the pace ([`super::pace`])
//! opens a slot, and no other message is on its way,
//!
//! - the oldest leaves alone, unless the rate is exceeded;
//! - the rate is exceeded when more than [`BACKLOG`] messages wait and the oldest
//!   has done so for a second, or when the oldest has waited five minutes; then
//!   everything that waits leaves as one digest. (A single message that waited
//!   leaves alone, with its event's time.)
//!
//! So five at once become five messages; of three hundred at once five leave
//! alone and the rest, a second later, as one digest; a night without Slack
//! becomes one digest. While draining, all that waits leaves together.
//!
//! A digest is only a view: its messages stay what they are until it is
//! accepted, and after a failed attempt they wait again, in their old places,
//! to be told alone or in a larger digest. Events that meet a waiting message
//! of their key raise its count.
//!
//! At [`MAX_MESSAGES`] the queue is full; further events are only counted, and
//! the next digest says how many.
//!
//! What happened longer ago than `max_age` is told in digests only: old messages
//! are held for five seconds, so that reading an old log makes few of them, and then
//! leave together, while fresh ones pass them by.
//!
//! Where the outbox is shared (`shared`), only messages that were granted count
//! in all of this; the others keep their places.

mod flight;
mod outcome;
mod shared;
mod stored;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::dead::{DeadLetter, DeadLetters, Selection};
use super::dedup::Key;
use super::message::{Alert, Body, Delivery, DeliveryId, Notice};
use super::pace::{BURST, Pace, later};
use super::rows::Changed;
pub(super) use flight::{End, Fate};
use flight::{Flight, fold};
use shared::Clearance;

/// How many messages may wait, the one on its way included.
pub const MAX_MESSAGES: usize = 10_000;

/// How many waiting messages are still told one by one.
pub const BACKLOG: usize = BURST;

/// With a longer backlog, how long the oldest message waits before it is folded
/// into a digest; gives a burst the time to leave as single messages.
const PATIENCE: SignedDuration = SignedDuration::from_secs(1);

/// How long a message waits at most before it is folded into a digest.
const MAX_WAIT: SignedDuration = SignedDuration::from_mins(5);

/// How long a message about something old is held for others like it.
const HELD: SignedDuration = SignedDuration::from_secs(5);

/// How many alerts may wait, the one on its way included: each of 64 logs can be
/// silent, heard again and no longer understood at once, and the program has a
/// word of its own. Beyond that the oldest goes: a newer one says more.
const MAX_ALERTS: usize = 256;

/// A message's number in order of arrival.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub(super) struct MessageId(pub(super) u64);

/// How an attempt to post ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Accepted,
    /// Too many requests; come back after this time.
    RetryAfter(Duration),
    /// The server or the way to it failed; it may work later.
    Retry,
    /// It will never be taken; the HTTP status that said so.
    Final(u16),
}

/// What an outcome meant for the messages of the attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// They are told.
    Told {
        /// Events that the message stood for.
        events: u64,
    },
    /// They wait again.
    Again {
        /// The earliest time of the next attempt.
        at: Timestamp,
    },
    /// They are given up.
    Dropped {
        /// Events that the message stood for.
        events: u64,
    },
    /// An alert is given up: nobody reads it unless it is said elsewhere.
    Unheard(Alert),
}

#[derive(Debug, Serialize, Deserialize)]
struct Message {
    #[serde(skip)]
    id: MessageId,
    key: Key,
    queued: Timestamp,
    /// It was about something old when it was queued, and waits until then.
    held: Option<Timestamp>,
    notice: Notice,
    /// What the other sidecars have to say; asked anew after a restart.
    #[serde(skip)]
    clearance: Clearance,
}

/// Messages, oldest first. Boxed, so that those of a digest change queues without
/// being there twice.
type Queue = VecDeque<Box<Message>>;

impl Message {
    /// Whether it tells of something that is no news any more.
    fn is_old(&self, now: Timestamp, max_age: SignedDuration) -> bool {
        self.held.is_some() || is_old(&self.notice, now, max_age)
    }
}

fn is_old(notice: &Notice, now: Timestamp, max_age: SignedDuration) -> bool {
    notice
        .time
        .is_some_and(|time| now.duration_since(time.at) > max_age)
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that were told in a digest instead of alone.
    pub folded: u64,
    /// Messages and alerts given up because the server refused them for good.
    pub dropped: u64,
    /// Events that found the queue full.
    pub overflowed: u64,
    /// Dead letters that newer ones pushed out.
    pub evicted_dead: u64,
    /// Alerts that newer ones pushed out before they were told.
    pub evicted_alerts: u64,
}

/// The queue and its pace.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: Queue,
    alerts: VecDeque<Alert>,
    /// Events since the last digest that found the queue full.
    overflow: u64,
    flight: Option<Flight>,
    pace: Pace,
    draining: bool,
    next_message: u64,
    next_delivery: u64,
    counts: Counts,
    max_age: SignedDuration,
    dead: DeadLetters,
    /// Whether a message waits for its clearance.
    shared: bool,
    changed: Changed<MessageId>,
    rest_changed: bool,
}

impl Outbox {
    pub(super) fn new(max_age: SignedDuration, seed: u64) -> Self {
        Self {
            waiting: VecDeque::new(),
            alerts: VecDeque::new(),
            overflow: 0,
            flight: None,
            pace: Pace::new(seed),
            draining: false,
            next_message: 0,
            next_delivery: 0,
            counts: Counts::default(),
            max_age,
            dead: DeadLetters::default(),
            shared: false,
            changed: Changed::default(),
            rest_changed: false,
        }
    }

    pub(super) fn set_max_age(&mut self, max_age: SignedDuration) {
        self.max_age = max_age;
    }

    /// Tells something about the notifier itself, before all that waits.
    pub(super) fn handle_alert(&mut self, alert: Alert) {
        if self.waiting_alerts() >= MAX_ALERTS && self.alerts.pop_front().is_some() {
            self.counts.evicted_alerts += 1;
        }
        self.alerts.push_back(alert);
        self.rest_changed = true;
    }

    /// Messages and alerts that are not told yet, what is on its way included.
    pub(super) fn len(&self) -> usize {
        self.messages() + self.waiting_alerts()
    }

    /// Alerts that are not told yet, the one on its way included.
    fn waiting_alerts(&self) -> usize {
        let flying = self.flight.as_ref().and_then(|f| f.alert.as_ref());
        self.alerts.len() + usize::from(flying.is_some())
    }

    /// Messages that are not told yet, those on their way included: what
    /// [`MAX_MESSAGES`] bounds.
    fn messages(&self) -> usize {
        self.waiting.len()
            + self
                .flight
                .as_ref()
                .map_or(0, |flight| flight.messages.len())
    }

    /// Events that are not told yet, those beyond the queue included.
    pub(super) fn events(&self) -> u64 {
        let flying = self.flight.iter().flat_map(|flight| &flight.messages);
        let events = self
            .waiting
            .iter()
            .chain(flying)
            .map(|message| message.notice.count);
        let overflow = self.flight.as_ref().map_or(0, |flight| flight.overflow);
        events.sum::<u64>() + self.overflow + overflow
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            evicted_dead: self.dead.evicted(),
            ..self.counts
        }
    }

    pub(super) fn has_alerts(&self) -> bool {
        self.waiting_alerts() > 0
    }

    pub(super) fn dead_letters(&self) -> impl ExactSizeIterator<Item = &DeadLetter> {
        self.dead.iter()
    }

    /// Drops dead letters; how many.
    pub(super) fn drop_dead(&mut self, selection: &Selection) -> usize {
        self.dead.take(selection, usize::MAX).len()
    }

    /// Queues dead letters again, as many as there is room for; their keys and
    /// new numbers.
    pub(super) fn retry_dead(
        &mut self,
        selection: &Selection,
        now: Timestamp,
    ) -> Vec<(Key, MessageId)> {
        let room = MAX_MESSAGES.saturating_sub(self.messages());
        let letters = self.dead.take(selection, room);
        letters
            .into_iter()
            .filter_map(|letter| {
                let id = self.handle_post(letter.key.clone(), letter.notice, now)?;
                self.clear(id);
                Some((letter.key, id))
            })
            .collect()
    }

    /// From now on all that waits leaves together.
    pub(super) fn start_draining(&mut self) {
        self.draining = true;
    }

    /// Queues a message; none if the queue is full and the event only counted.
    pub(super) fn handle_post(
        &mut self,
        key: Key,
        notice: Notice,
        now: Timestamp,
    ) -> Option<MessageId> {
        if self.messages() >= MAX_MESSAGES {
            self.overflow += 1;
            self.counts.overflowed += 1;
            self.rest_changed = true;
            return None;
        }
        let id = MessageId(self.next_message);
        self.next_message += 1;
        self.changed.note(|| id);
        self.waiting.push_back(Box::new(Message {
            id,
            key,
            queued: now,
            held: is_old(&notice, now, self.max_age).then(|| later(now, HELD)),
            notice,
            clearance: Clearance::default(),
        }));
        Some(id)
    }

    /// One more event for a message that is not told yet. Whether there is one.
    pub(super) fn handle_join(&mut self, id: MessageId) -> bool {
        match self.find(id) {
            Some(message) => {
                message.notice.count += 1;
                self.changed.note(|| id);
                true
            }
            None => false,
        }
    }

    fn find(&mut self, id: MessageId) -> Option<&mut Message> {
        let flying = self.flight.as_mut().map(|flight| &mut flight.messages);
        // Both queues are in order of arrival, also after a failed attempt.
        [Some(&mut self.waiting), flying]
            .into_iter()
            .flatten()
            .find_map(|queue| {
                let index = queue.binary_search_by_key(&id, |message| message.id).ok()?;
                queue.get_mut(index).map(Box::as_mut)
            })
    }

    /// The messages that may leave, apart from the pace.
    fn free(&self) -> impl Iterator<Item = &Message> {
        let shared = self.shared;
        self.waiting
            .iter()
            .map(Box::as_ref)
            .filter(move |message| message.is_free(shared))
    }

    /// When [`Outbox::poll_delivery`] has the next message, if nothing else
    /// happens; none while nothing waits or one is on its way.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        if self.flight.is_some() {
            return None;
        }
        let ready = self.pace.ready_at();
        if self.draining || self.overflow > 0 || !self.alerts.is_empty() {
            let idle = self.overflow == 0 && self.alerts.is_empty() && self.free().next().is_none();
            return (!idle).then_some(ready);
        }
        let fresh = |message: &Message| message.held.unwrap_or(Timestamp::MIN);
        let first = self.free().map(fresh).min()?;
        Some(ready.max(first))
    }

    /// Whether [`Outbox::poll_delivery`] has a message now.
    pub(super) fn is_due(&mut self, now: Timestamp) -> bool {
        self.pace.handle_now(now);
        self.next_due().is_some_and(|due| due <= now)
    }

    /// The message to post now. Its outcome must come back before the next.
    pub(super) fn poll_delivery(&mut self, now: Timestamp) -> Option<Delivery> {
        if !self.is_due(now) {
            return None;
        }
        let id = DeliveryId(self.next_delivery);
        let (flight, body) = if let Some(alert) = self.alerts.pop_front() {
            (Flight::alert(id, alert.clone()), Body::Alert(alert))
        } else if self.must_fold(now) {
            let messages = self.take_free(|_| true);
            self.digest(id, messages)
        } else {
            let due = |message: &Message| {
                message.is_free(self.shared)
                    && (self.draining || message.held.is_none_or(|held| held <= now))
            };
            let at = self.waiting.iter().position(|message| due(message))?;
            let max_age = self.max_age;
            if self.waiting.get(at)?.is_old(now, max_age) {
                let old = self.take_free(|message| message.is_old(now, max_age));
                self.digest(id, old)
            } else {
                let message = self.waiting.remove(at)?;
                let notice = message.notice.clone();
                let listed = HashSet::from([message.key.clone()]);
                (
                    Flight::new(id, [message].into(), listed, 0),
                    Body::Notice(Box::new(notice)),
                )
            }
        };
        self.pace.handle_attempt(now);
        self.next_delivery += 1;
        self.rest_changed = true;
        self.flight = Some(flight);
        Some(Delivery { id, body })
    }

    /// Takes out the messages that may leave and are `wanted`.
    fn take_free(&mut self, wanted: impl Fn(&Message) -> bool) -> Queue {
        let shared = self.shared;
        let taken;
        (taken, self.waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|message| message.is_free(shared) && wanted(message));
        taken
    }

    /// One delivery of many messages, and of all that found no room.
    fn digest(&mut self, id: DeliveryId, messages: Queue) -> (Flight, Body) {
        let overflow = std::mem::take(&mut self.overflow);
        let (digest, listed) = fold(&messages, overflow);
        (
            Flight::new(id, messages, listed, overflow),
            Body::Digest(digest),
        )
    }

    /// Whether all that waits leaves together. What is old is no reason for that.
    fn must_fold(&self, now: Timestamp) -> bool {
        if self.overflow > 0 {
            return true;
        }
        if self.draining {
            return self.free().nth(1).is_some();
        }
        let mut fresh = self
            .free()
            .filter(|message| !message.is_old(now, self.max_age));
        let Some(oldest) = fresh.next() else {
            return false;
        };
        let waited = now.duration_since(oldest.queued);
        let others = fresh.take(BACKLOG).count();
        others > 0 && (waited > MAX_WAIT || (others >= BACKLOG && waited >= PATIENCE))
    }
}
