//! What a store does, without one: for tests of those who use it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Act, Answer, CLAIM_LIFE, Holder, Request, StoreKey};

#[derive(Clone, Copy, Debug)]
struct Held {
    holder: Holder,
    told: bool,
    until: Instant,
}

/// The claims that a store holds.
#[derive(Debug, Default)]
pub(crate) struct ModelStore {
    held: HashMap<StoreKey, Held>,
}

impl ModelStore {
    pub(crate) fn carry_out(&mut self, request: &Request, now: Instant) -> Answer {
        let Request { key, holder, act } = *request;
        let held = self.held.get(&key).copied();
        let held = held.filter(|held| held.until > now);
        let mut hold = |told, life: Duration| {
            let until = now + life;
            self.held.insert(
                key,
                Held {
                    holder,
                    told,
                    until,
                },
            );
        };
        match (act, held) {
            (Act::Tell(_) | Act::Claim, Some(held)) if held.told => Answer::Told {
                left: held.until - now,
            },
            (Act::Tell(left), _) => {
                hold(true, left);
                Answer::Told { left }
            }
            (Act::Claim, Some(held)) if held.holder != holder => Answer::Theirs {
                expires_in: held.until - now,
            },
            (Act::Claim, _) => {
                hold(false, CLAIM_LIFE);
                Answer::Ours
            }
            (Act::Release, Some(held)) if held.holder == holder && !held.told => {
                self.held.remove(&key);
                Answer::Ours
            }
            (Act::Release, _) => Answer::Ours,
        }
    }
}
