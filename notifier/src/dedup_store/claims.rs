//! Which claims to ask for, renew and give up, and what the answers mean for the
//! messages: a pure machine.
//!
//! Its driver feeds it ([`Claims::handle_post`], [`Claims::handle_told`],
//! [`Claims::handle_untold`]), then takes [`Claims::poll_requests`] to the store
//! and brings back what it said ([`Claims::handle_answers`]; one batch at a time),
//! then carries out every [`Claims::poll_verdict`], then sleeps until
//! [`Claims::next_due`] or more input.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Act, Answer, CLAIM_LIFE, Holder, Request, StoreError, StoreKey};
use crate::event::EventId;

/// How many requests go to the store at once at most.
const BATCH: usize = 256;

/// How many messages have claims at most; more are told without. The outbox holds
/// fewer.
const MAX_CLAIMS: usize = 16_384;

/// How many final claims wait for a store that is down; the oldest are forgotten.
const MAX_PARTING: usize = 4096;

/// When a claim is renewed: twice may fail.
const RENEW: Duration = Duration::from_secs(CLAIM_LIFE.as_secs() / 3);

/// How often a message that lost to another's claim asks again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How long a store that is down is left alone, from the first to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A message's number, as its owner counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be posted.
    Post,
    /// It must not be posted (any more) until another verdict: somebody else may
    /// be posting it. One that is on its way goes on.
    Hold,
    /// Somebody else told it: it is a repeat. Its ticket is void.
    Repeat {
        /// How long what was told stays told.
        left: Duration,
    },
}

/// How the store's state changed; each is worth one line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It does not answer: until it does, every sidecar decides for itself.
    Lost(StoreError),
    /// It answers again.
    Back {
        /// After so long.
        after: Duration,
    },
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that may be posted because the claim is ours.
    pub granted: u64,
    /// Messages that somebody else told.
    pub repeats: u64,
    /// Messages that were let through without the store's word.
    pub unclaimed: u64,
    /// Calls to the store that failed.
    pub failures: u64,
    /// Final claims that the store never heard of.
    pub forgotten: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody said anything yet.
    Asked,
    /// It may be posted.
    Granted,
    /// Another's claim stands, until then if it is not renewed.
    Lost { expires: Instant },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: StoreKey,
    event: EventId,
    state: State,
    /// When the store is asked (again); as in [`Claims::schedule`].
    ask_at: Instant,
}

/// A claim whose message is gone from the outbox.
#[derive(Clone, Copy, Debug)]
struct Parting {
    key: StoreKey,
    event: EventId,
    /// When it was told, or none if it is to be given up.
    told_until: Option<Instant>,
}

/// What the store is being asked.
#[derive(Debug)]
struct Batch {
    parting: Vec<Parting>,
    tickets: Vec<Ticket>,
}

#[derive(Debug)]
struct Down {
    since: Instant,
    pause: Duration,
    again: Instant,
}

/// The claims of all messages that wait to be told.
#[derive(Debug)]
pub struct Claims {
    window: Duration,
    sidecar: u64,
    entries: HashMap<Ticket, Entry>,
    schedule: BTreeSet<(Instant, Ticket)>,
    parting: VecDeque<Parting>,
    asking: Option<Batch>,
    verdicts: VecDeque<(Ticket, Verdict)>,
    down: Option<Down>,
    counts: Counts,
}

impl Claims {
    /// No claims yet. `window` is how long what was told stays final, `sidecar`
    /// whose claims they are.
    #[must_use]
    pub fn new(window: Duration, sidecar: u64) -> Self {
        Self {
            window,
            sidecar,
            entries: HashMap::new(),
            schedule: BTreeSet::new(),
            parting: VecDeque::new(),
            asking: None,
            verdicts: VecDeque::new(),
            down: None,
            counts: Counts::default(),
        }
    }

    /// From now on, what is told is final for so long.
    pub fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// A message wants to be told, or wants to again after a restart. It must not
    /// be posted before its verdict.
    pub fn handle_post(&mut self, ticket: Ticket, key: StoreKey, event: EventId, now: Instant) {
        if self.entries.len() >= MAX_CLAIMS {
            self.counts.unclaimed += 1;
            self.verdicts.push_back((ticket, Verdict::Post));
            return;
        }
        let entry = Entry {
            key,
            event,
            state: State::Asked,
            ask_at: now,
        };
        self.forget(ticket);
        self.entries.insert(ticket, entry);
        self.schedule.insert((now, ticket));
        if self.down.is_some() {
            self.go_alone(ticket, now);
        }
    }

    /// The message was accepted: its claim is final.
    pub fn handle_told(&mut self, ticket: Ticket, key: StoreKey, event: EventId, now: Instant) {
        self.forget(ticket);
        self.handle_final(key, event, now + self.window);
    }

    /// A message was accepted by an earlier run, and is to be final until then.
    /// The store may not know: that run may have ended before it could say so.
    pub fn handle_final(&mut self, key: StoreKey, event: EventId, until: Instant) {
        let told_until = Some(until);
        self.part(Parting {
            key,
            event,
            told_until,
        });
    }

    /// The message was given up, or only counted: somebody else may tell.
    pub fn handle_untold(&mut self, ticket: Ticket) {
        if let Some(Entry { key, event, .. }) = self.forget(ticket) {
            let told_until = None;
            self.part(Parting {
                key,
                event,
                told_until,
            });
        }
    }

    /// Asks the store something that changes nothing, if it is asked nothing else:
    /// whether it answers is known before a message depends on it.
    pub fn handle_probe(&mut self) {
        if self.parting.is_empty() && self.asking.is_none() {
            self.part(Parting {
                key: StoreKey::of(&[b"probe"]),
                event: EventId::NONE,
                told_until: None,
            });
        }
    }

    /// Whether the store answers, and is still to hear what became of a message.
    #[must_use]
    pub fn has_news(&self) -> bool {
        let asking = self.asking.as_ref();
        let parting = asking.is_some_and(|batch| !batch.parting.is_empty());
        self.is_up() && (parting || !self.parting.is_empty())
    }

    /// What to ask the store now: nothing while it is being asked, while nothing
    /// is due, or while it is left alone after a failure.
    pub fn poll_requests(&mut self, now: Instant) -> Vec<Request> {
        if self.asking.is_some() || self.down.as_ref().is_some_and(|down| now < down.again) {
            return Vec::new();
        }
        let sidecar = self.sidecar;
        let holder = |event| Holder { event, sidecar };
        let mut requests = Vec::new();
        let mut batch = Batch {
            parting: Vec::new(),
            tickets: Vec::new(),
        };
        while requests.len() < BATCH
            && let Some(parting) = self.parting.pop_front()
        {
            requests.push(Request {
                key: parting.key,
                holder: holder(parting.event),
                act: parting.act(now),
            });
            batch.parting.push(parting);
        }
        while requests.len() < BATCH
            && let Some(&(due, ticket)) = self.schedule.first()
            && due <= now
        {
            self.schedule.pop_first();
            let Some(entry) = self.entries.get(&ticket) else {
                continue;
            };
            requests.push(Request {
                key: entry.key,
                holder: holder(entry.event),
                act: Act::Claim,
            });
            batch.tickets.push(ticket);
        }
        if !requests.is_empty() {
            self.asking = Some(batch);
        }
        requests
    }

    /// Takes what the store said to the last [`Claims::poll_requests`].
    pub fn handle_answers(
        &mut self,
        answers: Result<Vec<Answer>, StoreError>,
        now: Instant,
    ) -> Option<Change> {
        let Batch { parting, tickets } = self.asking.take()?;
        match answers {
            Ok(answers) => {
                for (ticket, answer) in tickets
                    .into_iter()
                    .zip(answers.into_iter().skip(parting.len()))
                {
                    self.handle_answer(ticket, answer, now);
                }
                let down = self.down.take()?;
                let after = now.saturating_duration_since(down.since);
                Some(Change::Back { after })
            }
            Err(error) => {
                self.counts.failures += 1;
                for parting in parting.into_iter().rev() {
                    self.parting.push_front(parting);
                }
                self.bound_parting();
                let pause = self
                    .down
                    .as_ref()
                    .map_or(PAUSE.0, |down| (down.pause * 2).min(PAUSE.1));
                let since = self.down.as_ref().map_or(now, |down| down.since);
                let before = self.down.replace(Down {
                    since,
                    pause,
                    again: now + pause,
                });
                for ticket in tickets {
                    self.reschedule(ticket, now + pause);
                }
                // Whoever waits for a word waits in vain; whoever knows another's
                // claim waits for its end.
                let waiting: Vec<Ticket> = self
                    .entries
                    .iter()
                    .filter(|(_, entry)| match entry.state {
                        State::Asked => true,
                        State::Granted => false,
                        State::Lost { expires } => expires <= now,
                    })
                    .map(|(ticket, _)| *ticket)
                    .collect();
                for ticket in waiting {
                    self.go_alone(ticket, now);
                }
                before.is_none().then_some(Change::Lost(error))
            }
        }
    }

    /// What to do with a message now.
    pub fn poll_verdict(&mut self) -> Option<(Ticket, Verdict)> {
        self.verdicts.pop_front()
    }

    /// When [`Claims::poll_requests`] has something if nothing else happens; none
    /// while the store is being asked. Ask after a poll.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        if self.asking.is_some() {
            return None;
        }
        let due = self.schedule.first().map(|(due, _)| *due);
        match &self.down {
            None => due,
            Some(down) if !self.parting.is_empty() => Some(down.again),
            Some(down) => due.map(|due| due.max(down.again)),
        }
    }

    /// Whether the store answers, as far as is known.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.down.is_none()
    }

    /// What happened since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn handle_answer(&mut self, ticket: Ticket, answer: Answer, now: Instant) {
        // Told or given up while the store was being asked.
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        match answer {
            Answer::Ours => {
                if entry.state != State::Granted {
                    self.counts.granted += 1;
                    self.verdicts.push_back((ticket, Verdict::Post));
                }
                entry.state = State::Granted;
                self.reschedule(ticket, now + RENEW);
            }
            Answer::Told { left } => {
                self.forget(ticket);
                self.counts.repeats += 1;
                self.verdicts.push_back((ticket, Verdict::Repeat { left }));
            }
            Answer::Theirs { expires_in } => {
                if entry.state == State::Granted {
                    self.verdicts.push_back((ticket, Verdict::Hold));
                }
                let expires = now + expires_in;
                entry.state = State::Lost { expires };
                let wait = expires_in.clamp(ASK_AGAIN / 10, ASK_AGAIN);
                self.reschedule(ticket, now + wait);
            }
        }
    }

    /// Lets a message through without the store's word. It is claimed all the
    /// same, once the store answers.
    fn go_alone(&mut self, ticket: Ticket, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.state = State::Granted;
            self.counts.unclaimed += 1;
            self.verdicts.push_back((ticket, Verdict::Post));
            self.reschedule(ticket, now);
        }
    }

    fn reschedule(&mut self, ticket: Ticket, at: Instant) {
        if let Some(entry) = self.entries.get_mut(&ticket) {
            self.schedule.remove(&(entry.ask_at, ticket));
            entry.ask_at = at;
            self.schedule.insert((at, ticket));
        }
    }

    fn forget(&mut self, ticket: Ticket) -> Option<Entry> {
        let entry = self.entries.remove(&ticket)?;
        self.schedule.remove(&(entry.ask_at, ticket));
        Some(entry)
    }

    fn part(&mut self, parting: Parting) {
        self.parting.push_back(parting);
        self.bound_parting();
    }

    fn bound_parting(&mut self) {
        let too_many = self.parting.len().saturating_sub(MAX_PARTING);
        self.parting.drain(..too_many);
        self.counts.forgotten += too_many as u64;
    }
}

impl Parting {
    fn act(&self, now: Instant) -> Act {
        let left = self
            .told_until
            .map(|until| until.saturating_duration_since(now));
        match left {
            Some(left) if !left.is_zero() => Act::Tell(left),
            _ => Act::Release,
        }
    }
}

#[cfg(test)]
mod tests;
