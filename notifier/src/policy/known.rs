//! Events that were decided and may be read again.
//!
//! A log's position is stored now and then; after a crash the lines behind the
//! stored one are read again, and their events come again with the same ids.
//! What was decided since is remembered here, with the decision, so that window
//! and outbox take each event once. A new position makes all of it obsolete.

use std::collections::HashMap;
use std::sync::Arc;

use super::rows::{Changed, Row, Table, Unreadable, decode, encode};
use crate::event::{Dedup, EventId};

/// Events remembered for one log at most. A position is stored after fewer events
/// than this; one beyond it may be told twice after a crash.
pub const MAX_EVENTS: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Known {
    logs: HashMap<Arc<str>, HashMap<EventId, Dedup>>,
    changed: Changed<Arc<str>>,
    /// Events that found no room.
    forgotten: u64,
}

impl Known {
    /// From now on the events of `log` are remembered.
    pub(super) fn follow(&mut self, log: Arc<str>) {
        self.logs.entry(log).or_default();
    }

    pub(super) fn track(&mut self) {
        self.changed.track();
    }

    pub(super) fn changed(&self) -> &Changed<Arc<str>> {
        &self.changed
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// What was decided about an event that is read again.
    pub(super) fn find(&self, log: &str, event: EventId) -> Option<Dedup> {
        self.logs.get(log)?.get(&event).copied()
    }

    /// An event was decided.
    pub(super) fn handle_event(&mut self, log: &Arc<str>, event: EventId, decision: Dedup) {
        let Some(events) = self.logs.get_mut(log) else {
            return;
        };
        if events.len() >= MAX_EVENTS {
            self.forgotten += 1;
            return;
        }
        events.insert(event, decision);
        self.changed.note(|| Arc::clone(log));
    }

    /// The log will not be read again from before here.
    pub(super) fn handle_position(&mut self, log: &Arc<str>) {
        if let Some(events) = self.logs.get_mut(log)
            && !events.is_empty()
        {
            events.clear();
            self.changed.note(|| Arc::clone(log));
        }
    }

    /// The rows that changed, or all.
    pub(super) fn rows(&mut self, whole: bool, out: &mut Vec<Row>) {
        let changed = self.changed.take();
        for (log, events) in &self.logs {
            if (whole && !events.is_empty()) || (!whole && changed.contains(log)) {
                let mut events: Vec<(&EventId, &Dedup)> = events.iter().collect();
                events.sort_unstable_by_key(|(id, _)| **id);
                out.push(Row {
                    table: Table::Known,
                    key: log.as_bytes().to_vec(),
                    value: (!events.is_empty()).then(|| encode(&events)),
                });
            }
        }
    }

    pub(super) fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), Unreadable> {
        let log = str::from_utf8(key).map_err(|_| Unreadable(Table::Known))?;
        let events: Vec<(EventId, Dedup)> = decode(Table::Known, value)?;
        let events = events.into_iter().take(MAX_EVENTS).collect();
        self.logs.insert(log.into(), events);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> EventId {
        EventId(u128::from(n).to_be_bytes())
    }

    #[test]
    fn events_are_known_until_the_position_moves() {
        let log: Arc<str> = "kms".into();
        let mut known = Known::default();
        known.handle_event(&log, id(1), Dedup::Post);
        assert_eq!(known.find("kms", id(1)), None, "it is not read again");
        known.follow(Arc::clone(&log));
        known.track();
        known.handle_event(&log, id(1), Dedup::Post);
        assert_eq!(known.find("kms", id(1)), Some(Dedup::Post));
        assert_eq!(known.find("other", id(1)), None);

        let mut rows = Vec::new();
        known.rows(false, &mut rows);
        let [row] = rows.as_slice() else { panic!() };
        let mut restored = Known::default();
        restored
            .restore(&row.key, row.value.as_deref().unwrap())
            .unwrap();
        assert_eq!(restored.find("kms", id(1)), Some(Dedup::Post));

        known.handle_position(&log);
        assert_eq!(known.find("kms", id(1)), None);
        rows.clear();
        known.rows(false, &mut rows);
        assert_eq!(rows[0].value, None);
    }

    #[test]
    fn the_memory_is_bounded() {
        let log: Arc<str> = "kms".into();
        let mut known = Known::default();
        known.follow(Arc::clone(&log));
        for n in 0..=u32::try_from(MAX_EVENTS).unwrap() {
            known.handle_event(&log, id(n), Dedup::Repeat);
        }
        assert_eq!(known.logs["kms"].len(), MAX_EVENTS);
        assert_eq!(known.forgotten(), 1);
    }
}
