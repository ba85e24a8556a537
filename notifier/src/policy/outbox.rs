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

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::dedup::Key;
use super::message::{Body, Delivery, DeliveryId, Digest, MAX_ROWS, Notice};
use super::pace::{BURST, Pace};

/// How many messages may wait, the one on its way included.
pub const MAX_MESSAGES: usize = 10_000;

/// How many waiting messages are still told one by one.
pub const BACKLOG: usize = BURST;

/// With a longer backlog, how long the oldest message waits before it is folded
/// into a digest; gives a burst the time to leave as single messages.
const PATIENCE: SignedDuration = SignedDuration::from_secs(1);

/// How long a message waits at most before it is folded into a digest.
const MAX_WAIT: SignedDuration = SignedDuration::from_mins(5);

/// A message's number in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// What became of a message's key.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) key: Key,
    pub(super) message: MessageId,
    /// None if no reader saw it: it was refused, or only counted. Else how many
    /// events joined too late to be mentioned.
    pub(super) told: Option<u64>,
}

#[derive(Debug)]
struct Message {
    id: MessageId,
    key: Key,
    queued: Timestamp,
    notice: Notice,
}

/// The attempt under way.
#[derive(Debug)]
struct Flight {
    id: DeliveryId,
    messages: VecDeque<Message>,
    /// What each message's count was when it was handed out.
    shown: Vec<u64>,
    /// The keys that the reader sees.
    listed: HashSet<Key>,
    overflow: u64,
    events: u64,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that were told in a digest instead of alone.
    pub folded: u64,
    /// Messages given up because the server refused them for good.
    pub dropped: u64,
    /// Events that found the queue full.
    pub overflowed: u64,
}

/// The queue and its pace.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: VecDeque<Message>,
    /// Events since the last digest that found the queue full.
    overflow: u64,
    flight: Option<Flight>,
    pace: Pace,
    draining: bool,
    next_message: u64,
    next_delivery: u64,
    counts: Counts,
}

impl Outbox {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            waiting: VecDeque::new(),
            overflow: 0,
            flight: None,
            pace: Pace::new(seed),
            draining: false,
            next_message: 0,
            next_delivery: 0,
            counts: Counts::default(),
        }
    }

    /// Messages that are not told yet, the one on its way included.
    pub(super) fn len(&self) -> usize {
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
        self.counts
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
        if self.len() >= MAX_MESSAGES {
            self.overflow += 1;
            self.counts.overflowed += 1;
            return None;
        }
        let id = MessageId(self.next_message);
        self.next_message += 1;
        self.waiting.push_back(Message {
            id,
            key,
            queued: now,
            notice,
        });
        Some(id)
    }

    /// One more event for a message that is not told yet. Whether there is one.
    pub(super) fn handle_join(&mut self, id: MessageId) -> bool {
        let flying = self.flight.as_mut().map(|flight| &mut flight.messages);
        // Both queues are in order of arrival, also after a failed attempt.
        let found = [Some(&mut self.waiting), flying]
            .into_iter()
            .flatten()
            .find_map(|queue| {
                let index = queue.binary_search_by_key(&id, |message| message.id).ok()?;
                queue.get_mut(index)
            });
        match found {
            Some(message) => {
                message.notice.count += 1;
                true
            }
            None => false,
        }
    }

    /// When [`Outbox::poll_delivery`] has the next message, if nothing else
    /// happens; none while nothing waits or one is on its way.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let idle = self.waiting.is_empty() && self.overflow == 0;
        (!idle && self.flight.is_none()).then(|| self.pace.ready_at())
    }

    /// The message to post now. Its outcome must come back before the next.
    pub(super) fn poll_delivery(&mut self, now: Timestamp) -> Option<Delivery> {
        self.pace.handle_now(now);
        if self.next_due()? > now {
            return None;
        }
        self.pace.handle_attempt(now);
        let id = DeliveryId(self.next_delivery);
        self.next_delivery += 1;

        let (flight, body) = if self.must_fold(now) {
            let (messages, overflow) = (
                std::mem::take(&mut self.waiting),
                std::mem::take(&mut self.overflow),
            );
            let (digest, listed) = fold(&messages, overflow);
            (
                Flight::new(id, messages, listed, overflow),
                Body::Digest(digest),
            )
        } else {
            let message = self.waiting.pop_front()?;
            let notice = message.notice.clone();
            let listed = HashSet::from([message.key.clone()]);
            (
                Flight::new(id, [message].into(), listed, 0),
                Body::Notice(Box::new(notice)),
            )
        };
        self.flight = Some(flight);
        Some(Delivery { id, body })
    }

    fn must_fold(&self, now: Timestamp) -> bool {
        if self.overflow > 0 {
            return true;
        }
        let Some(oldest) = self.waiting.front() else {
            return false;
        };
        let waited = now.duration_since(oldest.queued);
        self.waiting.len() > 1
            && (self.draining
                || waited > MAX_WAIT
                || (self.waiting.len() > BACKLOG && waited >= PATIENCE))
    }

    /// Takes the outcome of the attempt under way: what it meant, and the fates
    /// of the keys it settled. None for an attempt that is not under way.
    pub(super) fn handle_outcome(
        &mut self,
        id: DeliveryId,
        outcome: Outcome,
        now: Timestamp,
    ) -> Option<(Settled, Vec<Fate>)> {
        self.pace.handle_now(now);
        let flight = self.flight.take_if(|flight| flight.id == id)?;
        let events = flight.events;
        match outcome {
            Outcome::Accepted => {
                self.pace.handle_accepted();
                if flight.messages.len() > 1 {
                    self.counts.folded += flight.messages.len() as u64;
                }
                Some((Settled::Told { events }, flight.into_fates(true)))
            }
            Outcome::Final(_) => {
                self.pace.handle_accepted();
                self.counts.dropped += flight.messages.len() as u64;
                Some((Settled::Dropped { events }, flight.into_fates(false)))
            }
            Outcome::RetryAfter(_) | Outcome::Retry => {
                match outcome {
                    Outcome::RetryAfter(wait) => self.pace.handle_retry_after(wait, now),
                    _ => self.pace.handle_failure(now),
                }
                let Flight {
                    mut messages,
                    overflow,
                    ..
                } = flight;
                messages.append(&mut self.waiting);
                self.waiting = messages;
                self.overflow += overflow;
                Some((
                    Settled::Again {
                        at: self.pace.ready_at(),
                    },
                    Vec::new(),
                ))
            }
        }
    }
}

impl Flight {
    fn new(
        id: DeliveryId,
        messages: VecDeque<Message>,
        listed: HashSet<Key>,
        overflow: u64,
    ) -> Self {
        let shown: Vec<u64> = messages
            .iter()
            .map(|message| message.notice.count)
            .collect();
        let events = shown.iter().sum::<u64>() + overflow;
        Self {
            id,
            messages,
            shown,
            listed,
            overflow,
            events,
        }
    }

    fn into_fates(self, accepted: bool) -> Vec<Fate> {
        let Self {
            messages,
            shown,
            listed,
            ..
        } = self;
        let fate = |(message, shown): (Message, u64)| Fate {
            told: (accepted && listed.contains(&message.key))
                .then(|| message.notice.count.saturating_sub(shown)),
            key: message.key,
            message: message.id,
        };
        messages.into_iter().zip(shown).map(fate).collect()
    }
}

/// One digest of all messages, a row per key, and the keys that it lists.
fn fold(messages: &VecDeque<Message>, overflow: u64) -> (Digest, HashSet<Key>) {
    let mut digest = Digest {
        overflow,
        ..Digest::default()
    };
    // A key has several messages where the window had to forget it.
    let mut index: HashMap<&Key, usize> = HashMap::with_capacity(messages.len());
    for message in messages {
        let next = index.len();
        let row = *index.entry(&message.key).or_insert(next);
        if let Some(row) = digest.rows.get_mut(row) {
            row.count += message.notice.count;
            row.repeats += message.notice.repeats;
        } else if row < MAX_ROWS {
            digest.rows.push(message.notice.clone());
        } else {
            digest.more_events += message.notice.count;
        }
    }
    digest.more_rows = index.len() - digest.rows.len();
    digest.since = messages
        .iter()
        .filter_map(|message| message.notice.time)
        .min_by_key(|t| t.at);
    let listed = index
        .iter()
        .filter(|(_, row)| **row < MAX_ROWS)
        .map(|(key, _)| (*key).clone());
    let listed = listed.collect();
    (digest, listed)
}
