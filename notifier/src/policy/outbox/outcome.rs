//! What the outcome of an attempt means for the messages of it.

use jiff::Timestamp;

use super::flight::{Fate, Flight};
use super::{Outbox, Outcome, Queue, Settled};
use crate::policy::dead::DeadLetter;
use crate::policy::message::DeliveryId;

impl Outbox {
    /// Takes the outcome of the attempt under way: what it meant, and the fates
    /// of the messages that are gone now. None for an attempt that is not under way.
    pub(in crate::policy) fn handle_outcome(
        &mut self,
        id: DeliveryId,
        outcome: Outcome,
        now: Timestamp,
    ) -> Option<(Settled, Vec<Fate>)> {
        self.pace.handle_now(now);
        let flight = self.flight.take_if(|flight| flight.id == id)?;
        let events = flight.events;
        self.rest_changed = true;
        match outcome {
            Outcome::Accepted => {
                self.pace.handle_accepted();
                if flight.messages.len() > 1 {
                    self.counts.folded += flight.messages.len() as u64;
                }
                self.note(&flight);
                Some((Settled::Told { events }, flight.into_fates(true)))
            }
            Outcome::Final(status) => {
                self.pace.handle_accepted();
                self.note(&flight);
                if let Some(alert) = flight.alert {
                    self.counts.dropped += 1;
                    return Some((Settled::Unheard(alert), Vec::new()));
                }
                for message in flight.untold() {
                    self.counts.dropped += 1;
                    self.dead.push(DeadLetter {
                        id: message.id.0,
                        refused_at: now,
                        status,
                        key: message.key.clone(),
                        notice: message.notice.clone(),
                    });
                }
                Some((Settled::Dropped { events }, flight.into_fates(false)))
            }
            Outcome::RetryAfter(_) | Outcome::Retry => {
                match outcome {
                    Outcome::RetryAfter(wait) => self.pace.handle_retry_after(wait, now),
                    _ => self.pace.handle_failure(now),
                }
                let elsewhere = self.wait_again(flight);
                let at = self.pace.ready_at();
                Some((Settled::Again { at }, elsewhere))
            }
        }
    }

    /// Puts what was under way back into its old places, but for what others
    /// told meanwhile.
    fn wait_again(&mut self, mut flight: Flight) -> Vec<Fate> {
        let (told, waiting): (Queue, Queue) = std::mem::take(&mut flight.messages)
            .into_iter()
            .partition(|message| message.is_told());
        self.waiting.extend(waiting);
        self.waiting
            .make_contiguous()
            .sort_by_key(|message| message.id);
        self.overflow += flight.overflow;
        if let Some(alert) = flight.alert.take() {
            self.alerts.push_front(alert);
        }
        flight.messages = told;
        self.note(&flight);
        flight.into_fates(false)
    }

    fn note(&mut self, flight: &Flight) {
        for message in &flight.messages {
            self.changed.note(|| message.id);
        }
    }
}
