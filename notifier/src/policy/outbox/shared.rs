//! What an outbox does that is shared with other sidecars: a message leaves only
//! after it was granted, and is gone when another sidecar told of its key.

use jiff::Timestamp;

use super::flight::{End, Fate};
use super::{Message, MessageId, Outbox};
use crate::event::EventId;
use crate::policy::dedup::Key;

/// Whether a message may leave, as far as other sidecars go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Clearance {
    /// Not known yet, or another may be telling.
    #[default]
    Waits,
    /// It may leave.
    Granted,
    /// Another told of its key then, while it was on its way.
    Told(Timestamp),
}

impl Message {
    pub(super) fn is_free(&self, shared: bool) -> bool {
        !shared || self.clearance == Clearance::Granted
    }

    pub(super) fn is_told(&self) -> bool {
        matches!(self.clearance, Clearance::Told(_))
    }

    pub(super) fn into_fate(self, end: End) -> Fate {
        Fate {
            key: self.key,
            message: self.id,
            event: self.notice.event,
            end,
        }
    }

    pub(super) fn into_told_elsewhere(self, at: Timestamp) -> Fate {
        Fate {
            key: self.key,
            message: self.id,
            event: self.notice.event,
            end: End::Elsewhere {
                at,
                notice: Box::new(self.notice),
            },
        }
    }
}

impl Outbox {
    /// From now on every message waits for [`Outbox::clear`].
    pub(in crate::policy) fn share(&mut self) {
        self.shared = true;
    }

    /// The messages that wait: number, key and the event they were made for.
    pub(in crate::policy) fn waiting(&self) -> impl Iterator<Item = (MessageId, &Key, EventId)> {
        self.waiting
            .iter()
            .map(|message| (message.id, &message.key, message.notice.event))
    }

    /// The message may leave.
    pub(in crate::policy) fn clear(&mut self, id: MessageId) {
        self.set(id, Clearance::Granted);
    }

    /// The message may not leave (any more). One on its way goes on, and is kept
    /// back only after a failure.
    pub(in crate::policy) fn hold(&mut self, id: MessageId) {
        self.set(id, Clearance::Waits);
    }

    fn set(&mut self, id: MessageId, clearance: Clearance) {
        if let Some(message) = self.find(id) {
            message.clearance = clearance;
        }
    }

    /// Another sidecar told of the message's key then. One on its way goes on,
    /// and is gone after a failure.
    pub(in crate::policy) fn handle_told_elsewhere(
        &mut self,
        id: MessageId,
        at: Timestamp,
    ) -> Option<Fate> {
        let waiting = self.waiting.binary_search_by_key(&id, |message| message.id);
        let Ok(index) = waiting else {
            self.set(id, Clearance::Told(at));
            return None;
        };
        let message = self.waiting.remove(index)?;
        self.changed.note(|| id);
        Some(message.into_told_elsewhere(at))
    }
}
