//! A policy that tells together with other sidecars.
//!
//! It says what it wants of the store that they share ([`Policy::poll_claiming`])
//! and is told what that answers ([`Policy::handle_verdict`]). Who asks, and what
//! an answer means while the store is away, is [`crate::dedup_store`]'s business.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::dedup::Key;
use super::message::Notice;
use super::outbox::{End, Fate, MessageId};
use super::rows::{Row, Table, Unreadable, decode, encode};
use super::{Policy, signed};
use crate::dedup_store::StoreKey;
use crate::dedup_store::claims::{Ticket, Verdict};
use crate::event::EventId;

/// What the store is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claiming {
    /// A message waits for a verdict.
    Post {
        /// The message.
        ticket: Ticket,
        /// Its client and product.
        key: StoreKey,
        /// The event it was made for.
        event: EventId,
    },
    /// The message was accepted.
    Told {
        /// The message.
        ticket: Ticket,
        /// Its client and product.
        key: StoreKey,
        /// The event it was made for.
        event: EventId,
    },
    /// Nobody was told: it was given up, or only counted.
    Untold {
        /// The message.
        ticket: Ticket,
    },
    /// An earlier run told of it.
    Final {
        /// The client and product.
        key: StoreKey,
        /// For how long it stays told.
        left: Duration,
    },
}

/// What a shared policy has to say, and what it heard.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    claiming: VecDeque<Claiming>,
    /// Messages that another sidecar told.
    repeats: Vec<Notice>,
}

/// The key of the row that holds the name.
pub(super) const NAME_ROW: &[u8] = b"sidecar";

/// What this sidecar is called among others: a number that it keeps with its
/// state, so that it finds its claims again.
#[derive(Debug, Default)]
pub(super) struct Name {
    number: u64,
    stored: bool,
    tracked: bool,
}

impl Name {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            ..Self::default()
        }
    }

    pub(super) fn track(&mut self) {
        self.tracked = true;
    }

    pub(super) fn has_changed(&self) -> bool {
        self.tracked && !self.stored
    }

    pub(super) fn row(&mut self, whole: bool) -> Option<Row> {
        let due = whole || self.has_changed();
        self.stored = true;
        due.then(|| Row {
            table: Table::Rest,
            key: NAME_ROW.to_vec(),
            value: Some(encode(&self.number)),
        })
    }

    pub(super) fn restore(&mut self, value: &[u8]) -> Result<(), Unreadable> {
        self.number = decode(Table::Rest, value)?;
        self.stored = true;
        Ok(())
    }
}

impl Policy {
    /// A number that no other sidecar has; the same again after a restart, if it
    /// was saved.
    #[must_use]
    pub fn sidecar(&self) -> u64 {
        self.name.number
    }

    /// From now on a message leaves only after [`Verdict::Post`]. What waits
    /// already is claimed, and what was told is told the store again: it may not
    /// have heard of it. Nothing is shared in a replay.
    pub fn share(&mut self, now: Timestamp) {
        let Some(outbox) = &mut self.outbox else {
            return;
        };
        outbox.share();
        let mut sharing = Sharing::default();
        for (key, left) in self.window.told(now) {
            sharing.claiming.push_back(Claiming::Final {
                key: key.in_store(),
                left: Duration::try_from(left).unwrap_or_default(),
            });
        }
        for (message, key, event) in outbox.waiting() {
            sharing.claiming.push_back(Claiming::Post {
                ticket: Ticket(message.0),
                key: key.in_store(),
                event,
            });
        }
        self.sharing = Some(sharing);
    }

    /// What the store is to be told next. Ask after every input.
    pub fn poll_claiming(&mut self) -> Option<Claiming> {
        self.sharing.as_mut()?.claiming.pop_front()
    }

    /// What the other sidecars have to say about a message.
    pub fn handle_verdict(&mut self, ticket: Ticket, verdict: Verdict, now: Timestamp) {
        let (id, length) = (MessageId(ticket.0), self.window.length());
        let Some(outbox) = &mut self.outbox else {
            return;
        };
        match verdict {
            Verdict::Post => outbox.clear(id),
            Verdict::Hold => outbox.hold(id),
            Verdict::Repeat { left } => {
                // The hour of whoever told, not one more from here.
                let ago = length
                    .saturating_sub(signed(left))
                    .max(SignedDuration::ZERO);
                let at = now.checked_sub(ago).unwrap_or(now);
                if let Some(fate) = outbox.handle_told_elsewhere(id, at) {
                    self.settle(fate, now);
                }
            }
        }
    }

    /// Messages that turned out to be repeats since this was last asked.
    pub fn take_repeats(&mut self) -> Vec<Notice> {
        let sharing = self.sharing.as_mut();
        sharing.map_or_else(Vec::new, |sharing| std::mem::take(&mut sharing.repeats))
    }

    /// A message was made; it waits where the policy is shared. Whether it does.
    pub(super) fn claim(&mut self, message: MessageId, key: &Key, event: EventId) -> bool {
        let Some(sharing) = &mut self.sharing else {
            return false;
        };
        sharing.claiming.push_back(Claiming::Post {
            ticket: Ticket(message.0),
            key: key.in_store(),
            event,
        });
        true
    }

    /// A message is gone from the outbox.
    pub(super) fn settle(&mut self, fate: Fate, now: Timestamp) {
        let Fate {
            key,
            message,
            event,
            end,
        } = fate;
        let ticket = Ticket(message.0);
        let claiming = match end {
            End::Told { .. } => Some(Claiming::Told {
                ticket,
                key: key.in_store(),
                event,
            }),
            End::Untold => Some(Claiming::Untold { ticket }),
            End::Elsewhere { .. } => None,
        };
        let mut repeat = None;
        match end {
            End::Told { unmentioned } => {
                self.window
                    .handle_told(key, Some(message), unmentioned, now);
            }
            End::Untold => self.window.handle_untold(&key, message),
            End::Elsewhere { at, notice } => {
                let unmentioned = notice.count.saturating_add(notice.repeats);
                self.window.handle_told(key, Some(message), unmentioned, at);
                repeat = Some(*notice);
            }
        }
        if let Some(sharing) = &mut self.sharing {
            sharing.claiming.extend(claiming);
            sharing.repeats.extend(repeat);
        }
    }
}
