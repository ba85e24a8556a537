//! What is on its way, and what a digest makes of many messages.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::shared::Clearance;
use super::{Message, MessageId, Queue};
use crate::event::EventId;
use crate::policy::dedup::Key;
use crate::policy::message::{Alert, DeliveryId, Digest, MAX_ROWS, Notice};

/// What became of a message that is gone from the outbox.
#[derive(Debug)]
pub(in crate::policy) struct Fate {
    pub(in crate::policy) key: Key,
    pub(in crate::policy) message: MessageId,
    /// The event that it was made for.
    pub(in crate::policy) event: EventId,
    pub(in crate::policy) end: End,
}

/// Whether anybody was told.
#[derive(Debug)]
pub(in crate::policy) enum End {
    /// A reader saw it.
    Told {
        /// Events that joined too late to be mentioned.
        unmentioned: u64,
    },
    /// No reader saw it: it was refused for good, or only counted.
    Untold,
    /// Another sidecar told of its key.
    Elsewhere {
        /// When.
        at: Timestamp,
        /// What this one would have told.
        notice: Box<Notice>,
    },
}

/// The attempt under way.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub(super) id: DeliveryId,
    pub(super) alert: Option<Alert>,
    pub(super) messages: Queue,
    /// What each message's count was when it was handed out.
    pub(super) shown: Vec<u64>,
    /// The keys that the reader sees.
    pub(super) listed: HashSet<Key>,
    pub(super) overflow: u64,
    pub(super) events: u64,
}

impl Flight {
    pub(super) fn alert(id: DeliveryId, alert: Alert) -> Self {
        Self {
            id,
            alert: Some(alert),
            ..Self::default()
        }
    }

    pub(super) fn new(
        id: DeliveryId,
        messages: Queue,
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
            alert: None,
            messages,
            shown,
            listed,
            overflow,
            events,
        }
    }

    /// The messages that nobody told of, should this attempt fail for good.
    pub(super) fn untold(&self) -> impl Iterator<Item = &Message> {
        let messages = self.messages.iter().map(Box::as_ref);
        messages.filter(|message| !message.is_told())
    }

    pub(super) fn into_fates(self, accepted: bool) -> Vec<Fate> {
        let Self {
            messages,
            shown,
            listed,
            ..
        } = self;
        let fate = |(message, shown): (Box<Message>, u64)| {
            let end = match message.clearance {
                _ if accepted && listed.contains(&message.key) => End::Told {
                    unmentioned: message.notice.count.saturating_sub(shown),
                },
                Clearance::Told(at) => return message.into_told_elsewhere(at),
                _ => End::Untold,
            };
            message.into_fate(end)
        };
        messages.into_iter().zip(shown).map(fate).collect()
    }
}

/// One digest of all messages, a row per key, and the keys that it lists.
pub(super) fn fold(messages: &Queue, overflow: u64) -> (Digest, HashSet<Key>) {
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
