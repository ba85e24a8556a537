//! One window for several sidecars: who tells of a client and product is agreed
//! on in a store that they share.
//!
//! A message is *claimed* before it is posted. A claim lives for [`CLAIM_LIFE`]
//! and is renewed as long as its message waits; once the message was accepted,
//! the claim becomes final and lives for the whole window. Whoever finds another's
//! claim waits until that is final (then it was told) or gone (then it is free).
//! A claim is held by an event of a sidecar, and with a state both keep their
//! names, so a sidecar that was killed finds its own claims again.
//!
//! [`claims`] decides what to ask and what an answer means, and is pure; [`redis`]
//! asks. A store that is down costs the agreement, never a message.

pub mod claims;
#[cfg(test)]
pub(crate) mod model;
pub mod redis;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::event::EventId;

/// How long a claim lives that is not renewed: what a sidecar that is gone for
/// good holds up the others by, and what one that is restarted has time for.
pub const CLAIM_LIFE: Duration = Duration::from_secs(120);

/// What is claimed, as the store knows it: 128 bits of a hash, so that no text
/// of a client gets into the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreKey([u8; 16]);

impl StoreKey {
    /// The key of these parts, in their order; all sidecars must give the same.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // The length first, so that neighbours cannot trade bytes.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        Self(*digest.first_chunk().expect("32 bytes hold 16"))
    }
}

impl fmt::Display for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Who claims: a sidecar, for one of its events. Sidecars that read the same log
/// have the same events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The event that the message was made for.
    pub event: EventId,
    /// The sidecar's own number, any that no other has.
    pub sidecar: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}", self.event, self.sidecar)
    }
}

/// One thing to be done in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// About what.
    pub key: StoreKey,
    /// For whom.
    pub holder: Holder,
    /// What.
    pub act: Act,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Claim a free key, or renew the claim, for [`CLAIM_LIFE`].
    Claim,
    /// Make it final for this long, also over a claim of another who has not
    /// told yet.
    Tell(Duration),
    /// Give up a claim that is not final.
    Release,
}

/// How things stand after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The claim is this holder's. Of [`Act::Release`]: nobody's.
    Ours,
    /// It was told, by whomever.
    Told {
        /// For how long it stays so.
        left: Duration,
    },
    /// Another's message may still be told.
    Theirs {
        /// When that claim ends unless it is renewed.
        expires_in: Duration,
    },
}

/// Why the store gave no answer. Never quotes a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub(crate) String);

/// A store of claims.
pub trait SharedDedup: Send {
    /// Carries out all requests, in order and in one round trip; an answer each.
    ///
    /// # Errors
    /// The store did not answer in time, or not as expected. Any of the requests
    /// may have been carried out; each may be repeated.
    fn carry_out(
        &mut self,
        requests: &[Request],
    ) -> impl Future<Output = Result<Vec<Answer>, StoreError>> + Send;
}
