//! The agreement with other sidecars: carries news between the policy, the
//! claims on what it wants to tell, and the task that asks the store.
//!
//! Only the hub's own thread is in here; it never waits for the store, whose
//! answer comes back as one more message.

use std::io::Write;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kms_core::text::clean;
use tokio::sync::mpsc::Sender;

use super::{Hub, monotonic, now};
use crate::dedup_store::claims::{Change, Claims, Counts};
use crate::dedup_store::{Answer, Request, StoreError};
use crate::event::{EventId, Kind};
use crate::policy::shared::Claiming;
use crate::policy::{Notice, Policy};

/// How often a store that nobody needs is asked whether it answers.
const PROBE: Duration = Duration::from_secs(30);

/// Most characters of the store's own words in the log.
const MAX_WORDS: usize = 200;

/// A policy's part in the agreement.
#[derive(Debug)]
pub struct Shared {
    claims: Claims,
    store: Sender<Vec<Request>>,
    probe_at: Instant,
    counted: Counts,
}

impl Shared {
    /// `window` is how long what was told stays final, `sidecar` a number that no
    /// other sidecar has ([`Policy::sidecar`]). What is sent to `store` is
    /// to come back through [`Shared::handle_answers`]; there is room for one
    /// batch, and never a second one.
    #[must_use]
    pub fn new(window: Duration, sidecar: u64, store: Sender<Vec<Request>>, now: Instant) -> Self {
        Self {
            claims: Claims::new(window, sidecar),
            store,
            probe_at: now,
            counted: Counts::default(),
        }
    }

    /// From now on, what is told is final for so long.
    pub fn set_window(&mut self, window: Duration) {
        self.claims.set_window(window);
    }

    /// Carries everything on that can be: call it after every input and when
    /// [`Shared::next_due`] has come. `now` and `wall` are the same moment.
    pub fn exchange(&mut self, policy: &mut Policy, now: Instant, wall: Timestamp) {
        while let Some(claiming) = policy.poll_claiming() {
            match claiming {
                Claiming::Post { ticket, key, event } => {
                    self.claims.handle_post(ticket, key, event, now);
                }
                Claiming::Told { ticket, key, event } => {
                    self.claims.handle_told(ticket, key, event, now);
                }
                Claiming::Untold { ticket } => self.claims.handle_untold(ticket),
                Claiming::Final { key, left } => {
                    self.claims.handle_final(key, EventId::NONE, now + left);
                }
            }
        }
        if now >= self.probe_at {
            self.claims.handle_probe();
            self.probe_at = now + PROBE;
        }
        let requests = self.claims.poll_requests(now);
        if !requests.is_empty() && self.store.try_send(requests).is_err() {
            let gone = StoreError("the task that asks it has ended".to_owned());
            self.handle_answers(Err(gone), now);
        }
        while let Some((ticket, verdict)) = self.claims.poll_verdict() {
            policy.handle_verdict(ticket, verdict, wall);
        }
    }

    /// Takes what the store said, and says in the log if it is lost or back.
    pub fn handle_answers(&mut self, answers: Result<Vec<Answer>, StoreError>, now: Instant) {
        match self.claims.handle_answers(answers, now) {
            Some(Change::Lost(error)) => {
                let error = error.to_string();
                let error = clean(error.as_bytes(), MAX_WORDS);
                tracing::warn!(
                    "the dedup store does not answer; until it does, this sidecar decides alone \
                     and others may tell the same: {error}"
                );
            }
            Some(Change::Back { after }) => {
                tracing::info!(seconds = after.as_secs(), "the dedup store answers again");
            }
            None => {}
        }
    }

    /// When [`Shared::exchange`] is due if nothing else happens.
    #[must_use]
    pub fn next_due(&self) -> Instant {
        let claims = self.claims.next_due();
        claims.map_or(self.probe_at, |due| due.min(self.probe_at))
    }

    /// Whether the store is still to hear what became of a message, and will.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.claims.has_news()
    }

    /// Whether the store answers, as far as is known.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.claims.is_up()
    }

    /// What happened since this was last asked.
    pub fn take_counts(&mut self) -> Counts {
        let counts = self.claims.counts();
        let before = std::mem::replace(&mut self.counted, counts);
        Counts {
            granted: counts.granted - before.granted,
            repeats: counts.repeats - before.repeats,
            unclaimed: counts.unclaimed - before.unclaimed,
            failures: counts.failures - before.failures,
            forgotten: counts.forgotten - before.forgotten,
        }
    }
}

impl<W: Write> Hub<W> {
    /// Agrees with other sidecars on who tells what.
    pub(super) fn share(&mut self) {
        let Some(shared) = &mut self.shared else {
            return;
        };
        shared.exchange(&mut self.policy, monotonic(), now());
        self.metrics.dedup_store(shared.take_counts());
        for repeat in self.policy.take_repeats() {
            self.unsaved = true;
            if repeat.kind == Kind::Activation {
                self.metrics.told_elsewhere(label(&repeat), repeat.count);
            }
        }
    }
}

/// The metrics label of a message's product: that of its event, or what the
/// catalogue makes of the name alone where a restart came between.
fn label(notice: &Notice) -> &'static str {
    let named = || kms_core::catalog::label(notice.product.as_deref(), None);
    notice.label.or_else(named).unwrap_or("unknown")
}

#[cfg(test)]
mod tests;
