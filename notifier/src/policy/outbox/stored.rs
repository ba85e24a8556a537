//! The outbox as rows, and back.

use serde::{Deserialize, Serialize};

use super::{MAX_ALERTS, Message, MessageId, Outbox};
use crate::policy::message::Alert;
use crate::policy::pace::Pace;
use crate::policy::rows::{Row, Table, Unreadable, decode, encode};

/// All that is single, as it is stored; what is under way waits again in it.
#[derive(Serialize, Deserialize)]
struct Rest<P> {
    next_message: u64,
    overflow: u64,
    pace: P,
    alerts: Vec<Alert>,
}

impl Outbox {
    pub(in crate::policy) fn track(&mut self) {
        self.changed.track();
        self.dead.track();
    }

    pub(in crate::policy) fn has_changed(&self) -> bool {
        self.rest_changed || !self.changed.is_empty() || !self.dead.changed().is_empty()
    }

    pub(in crate::policy) fn lost_track(&self) -> bool {
        self.changed.is_all() || self.dead.changed().is_all()
    }

    /// The rows that changed, or all. What is under way is stored as waiting:
    /// after a crash nobody knows what became of it.
    pub(in crate::policy) fn rows(&mut self, whole: bool, out: &mut Vec<Row>) {
        self.dead.rows(whole, out);
        let mut changed = self.changed.take();
        let flight = self.flight.as_ref();
        let row = |id: MessageId, value| Row {
            table: Table::Outbox,
            key: id.0.to_be_bytes().to_vec(),
            value,
        };
        for message in flight.iter().flat_map(|f| &f.messages).chain(&self.waiting) {
            if changed.remove(&message.id) || whole {
                out.push(row(message.id, Some(encode(message))));
            }
        }
        if !whole {
            out.extend(changed.into_iter().map(|id| row(id, None)));
        }
        let alerts = flight.and_then(|f| f.alert.clone());
        let rest = Rest {
            next_message: self.next_message,
            overflow: self.overflow + flight.map_or(0, |f| f.overflow),
            pace: &self.pace,
            alerts: alerts.into_iter().chain(self.alerts.clone()).collect(),
        };
        out.push(Row {
            table: Table::Rest,
            key: Vec::new(),
            value: Some(encode(&rest)),
        });
        self.rest_changed = false;
    }

    /// Takes back a stored row; rows of a table come in the order of their keys.
    pub(in crate::policy) fn restore(
        &mut self,
        table: Table,
        key: &[u8],
        value: &[u8],
        seed: u64,
    ) -> Result<(), Unreadable> {
        match table {
            Table::Outbox => {
                let id = key.try_into().map_err(|_| Unreadable(table))?;
                let mut message: Box<Message> = decode(table, value)?;
                message.id = MessageId(u64::from_be_bytes(id));
                self.next_message = self.next_message.max(message.id.0 + 1);
                self.waiting.push_back(message);
            }
            Table::DeadLetters => self.dead.restore(key, value)?,
            _ => {
                let rest: Rest<Pace> = decode(table, value)?;
                self.next_message = self.next_message.max(rest.next_message);
                self.overflow = rest.overflow;
                self.pace = rest.pace.restored(seed);
                self.alerts.extend(rest.alerts.into_iter().take(MAX_ALERTS));
            }
        }
        Ok(())
    }
}
