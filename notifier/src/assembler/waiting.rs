//! Requests whose asker is not sure yet, and how they are settled.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroUsize;

use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::Assembler;
use super::attribution::{bit, bits, reached};
use super::belief::Why;
use super::connections::{Connection, Connections, Machine, Tick};
use super::presence::Past;
use crate::event::{Attribution, Event, Kind as EventKind};
use crate::line::Mark;

/// Requests that wait at once at most, each a bit of a number. When one more comes,
/// the oldest are decided as they are, and several together: all that wait are
/// weighed for it, which for every single request of a crowd takes a millisecond.
const MAX_WAITING: usize = 64;
const DECIDED_TOGETHER: usize = 16;

/// Connections weighed for one request at most: the newest that asked nothing
/// yet, and as many of those that spoke before.
const MAX_FRESH: usize = 48;
const MAX_SPOKEN: usize = 48;

/// Addresses of which it is remembered how often they asked and probed, and
/// machines of which it is remembered where they were.
pub(super) const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");

/// By the log's own time (docs/events.md, "When an event is printed"); without stamps, lines.
const PATIENCE: SignedDuration = SignedDuration::from_secs(2);
const PATIENCE_LINES: u64 = 200;

/// Closed connections kept at most until it is clear whether they asked.
const MAX_CLOSING: usize = 1024;

/// Connections looked at for a request, the newest first. A machine that was
/// seen before is found in any case.
const MAX_LOOKED_AT: usize = 512;

/// A clock that was set back further than this does not keep anybody waiting.
const SET_BACK: SignedDuration = SignedDuration::from_secs(60);

/// Who may have asked: what a request's own lines say.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) begin: Tick,
    pub(super) machine: Option<Machine>,
    pub(super) pid: Option<u32>,
    pub(super) mark: Option<Mark>,
}

/// How a request's lines came together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Certainty {
    /// Its last line never came.
    pub(super) given_up: bool,
    /// Some of its lines may be another's: who they name is not sure.
    pub(super) mixed: bool,
}

/// Whether a connection may have made it, by when it was accepted and by which process.
fn own(connection: &Connection, asked: &Asked) -> bool {
    connection.accepted < asked.begin && connection.seen.is_by(asked.pid)
}

/// One or more requests of one machine that wait together.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) asked: Asked,
    /// Tick of the last answer.
    pub(super) end: Tick,
    pub(super) candidates: Vec<Tick>,
    /// More may have asked than are candidates.
    pub(super) cut: bool,
    #[serde(with = "super::saved::events")]
    pub(super) events: Vec<Event>,
    due: Option<Timestamp>,
    due_line: u64,
    /// Of the candidates.
    #[serde(skip)]
    lowest: Tick,
    #[serde(skip)]
    highest: Tick,
    /// The requests, by their places, that one of the candidates may have made, too.
    #[serde(skip)]
    mates: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) pending: Vec<Pending>,
    /// Closed connections that may be a waiting request's, or a probe.
    closing: VecDeque<Tick>,
    #[serde(with = "super::saved::remembered")]
    habits: LruCache<IpAddr, Habit>,
    #[serde(with = "super::saved::remembered")]
    pub(super) homes: LruCache<Machine, Home>,
    /// Some were asked at no known time, and are due after so many lines.
    #[serde(skip)]
    by_line: bool,
    #[serde(skip)]
    pub(super) evicted: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Habit {
    pub(super) requests: u32,
    pub(super) probes: u32,
}

/// Where a machine was seen last.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Home {
    pub(super) ip: IpAddr,
    pub(super) connection: Tick,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            pending: Vec::new(),
            closing: VecDeque::new(),
            habits: LruCache::new(MAX_REMEMBERED),
            homes: LruCache::new(MAX_REMEMBERED),
            by_line: false,
            evicted: 0,
        }
    }
}

impl Waiting {
    /// Makes anew what is not stored.
    pub(super) fn restored(mut self) -> Self {
        self.by_line = self.pending.iter().any(|pending| pending.due.is_none());
        self.pending.iter_mut().for_each(Pending::restore);
        for row in 0..self.pending.len() {
            self.find_mates(row);
        }
        self
    }

    /// Whether any may become due before time goes on.
    pub(super) fn waits_by_line(&self) -> bool {
        self.by_line
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// How many requests wait.
    pub(super) fn requests(&self) -> usize {
        self.pending
            .iter()
            .map(|pending| pending.events.len())
            .sum()
    }

    pub(super) fn is_due(&self, now: Option<Timestamp>, line: u64) -> bool {
        self.pending.iter().any(|pending| pending.is_due(now, line))
    }

    /// The requests that there is a reason to weigh, by their places, the last first.
    pub(super) fn affected(
        &self,
        why: Why,
        now: Option<Timestamp>,
        line: u64,
        rows: &mut Vec<usize>,
    ) {
        let reason = |pending: &Pending| match why {
            Why::Closed(id) => pending.may_be(id),
            Why::Due | Why::Full => pending.is_due(now, line),
            Why::Asked | Why::End => true,
        };
        rows.clear();
        let affected = self.pending.iter().enumerate().rev();
        if why == Why::Asked {
            rows.extend(affected.map(|(row, _)| row).take(1));
        } else {
            let affected = affected.filter(|(_, pending)| reason(pending));
            rows.extend(affected.map(|(row, _)| row));
        }
    }

    /// All that a request has to be weighed against: whoever may be on the same
    /// connections, directly or by way of others; itself included.
    pub(super) fn sharing(&self, row: usize) -> u64 {
        let mates = |row: usize| self.pending.get(row).map_or(0, |pending| pending.mates);
        reached(bit(row), mates)
    }

    /// The requests of a set.
    pub(super) fn group(&self, rows: u64) -> impl Iterator<Item = &Pending> {
        bits(rows).filter_map(|row| self.pending.get(row))
    }

    fn add(&mut self, pending: Pending, connections: &mut Connections) {
        connections.claim(&pending.candidates);
        self.by_line |= pending.due.is_none();
        self.pending.push(pending);
        self.find_mates(self.pending.len() - 1);
    }

    /// Notes with whom a request shares connections, after its own became others.
    fn find_mates(&mut self, row: usize) {
        let (before, rest) = self.pending.split_at_mut(row);
        let Some((one, after)) = rest.split_first_mut() else {
            return;
        };
        one.mates = 0;
        let others = before.iter_mut().enumerate();
        let others = others.chain((row + 1..).zip(after));
        for (at, other) in others {
            if one.shares(other) {
                one.mates |= bit(at);
                other.mates |= bit(row);
            } else {
                other.mates &= !bit(row);
            }
        }
    }

    /// Takes a request out. Its candidates are no longer claimed by it.
    pub(super) fn remove(&mut self, at: usize, connections: &mut Connections) -> Pending {
        let pending = self.pending.remove(at);
        connections.unclaim(&pending.candidates);
        self.by_line &= !self.pending.is_empty();
        let below = bit(at).wrapping_sub(1);
        for other in &mut self.pending {
            other.mates = other.mates & below | other.mates >> 1 & !below;
        }
        pending
    }

    pub(super) fn habit(&self, connection: &Connection) -> Habit {
        connection
            .ip
            .and_then(|ip| self.habits.peek(&ip))
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn learn(&mut self, ip: Option<IpAddr>, learn: impl FnOnce(&mut Habit)) {
        if let Some(ip) = ip {
            learn(self.habits.get_or_insert_mut(ip, Habit::default));
        }
    }
}

impl Pending {
    /// Whether one connection may have made both.
    fn shares(&self, other: &Self) -> bool {
        // Those of another time have nothing in common: newest and oldest tell.
        self.lowest <= other.highest
            && other.lowest <= self.highest
            && self.candidates.iter().any(|id| other.may_be(*id))
    }

    /// Whether this connection may have made it.
    fn may_be(&self, id: Tick) -> bool {
        (self.lowest..=self.highest).contains(&id) && self.candidates.contains(&id)
    }

    /// Takes over who may have asked.
    fn set_candidates(&mut self, candidates: Vec<Tick>) {
        self.candidates = candidates;
        self.restore();
    }

    /// Makes anew what is not stored.
    fn restore(&mut self) {
        self.lowest = self.candidates.iter().copied().min().unwrap_or(Tick::MAX);
        self.highest = self.candidates.iter().copied().max().unwrap_or(0);
    }

    pub(super) fn is_due(&self, now: Option<Timestamp>, line: u64) -> bool {
        match (self.due, now) {
            (Some(due), Some(now)) => now >= due || due.duration_since(now) > SET_BACK,
            _ => line >= self.due_line,
        }
    }
}

impl Assembler {
    /// Finds who made a finished request: at once, or when more is known. If it is
    /// `given_up`, no line says when it ended, and whoever asked may have closed since.
    pub(super) fn attribute(
        &mut self,
        mut event: Event,
        asked: Asked,
        certainty: Certainty,
        out: &mut Vec<Event>,
    ) {
        event.attribution = Some(Attribution::Unknown);
        let given_up = certainty.given_up;
        if let Some(id) = self.named(&asked, given_up) {
            let attribution = match certainty.mixed {
                true => Attribution::Inferred,
                false => Attribution::Exact,
            };
            let known = self.commit(
                std::slice::from_mut(&mut event),
                (id, 1.0),
                attribution,
                &asked,
            );
            out.extend(known.then_some(event));
            self.release(out);
            return;
        }
        if asked.mark.is_some() {
            // The mark names a connection, and none that was seen to open.
            out.push(event);
            self.release(out);
            return;
        }
        let end = self.tick;
        let (candidates, cut) = self.candidates(&asked, given_up);
        let (due, due_line) = (
            self.now.map(|now| now + PATIENCE),
            self.line + PATIENCE_LINES,
        );
        let together = self.waiting.pending.iter().position(|pending| {
            asked.machine.is_some()
                && pending.asked.machine == asked.machine
                && candidates.iter().any(|id| pending.may_be(*id))
        });
        let row = together.unwrap_or(self.waiting.pending.len());
        match self.waiting.pending.get_mut(row) {
            // The same machine on the same connection asks again.
            Some(pending) => {
                self.connections.unclaim(&pending.candidates);
                let mut both = std::mem::take(&mut pending.candidates);
                both.retain(|id| candidates.contains(id));
                pending.set_candidates(both);
                self.connections.claim(&pending.candidates);
                pending.cut |= cut;
                pending.events.push(event);
                pending.end = end;
                (pending.due, pending.due_line) = (due, due_line);
                self.waiting.find_mates(row);
            }
            None => {
                if self.waiting.pending.len() >= MAX_WAITING {
                    for oldest in self.waiting.pending.iter_mut().take(DECIDED_TOGETHER) {
                        self.waiting.evicted += 1;
                        (oldest.due, oldest.due_line) = (self.now, self.line);
                    }
                    self.settle(Why::Full, out);
                }
                let events = vec![event];
                let mut pending = Pending {
                    asked,
                    end,
                    candidates: Vec::new(),
                    cut,
                    events,
                    due,
                    due_line,
                    lowest: 0,
                    highest: 0,
                    mates: 0,
                };
                pending.set_candidates(candidates);
                self.waiting.add(pending, &mut self.connections);
            }
        }
        self.settle(Why::Asked, out);
        self.release(out);
    }

    /// The connection that facts alone name: a mark, a process of its own, or
    /// that only one can be open.
    fn named(&self, asked: &Asked, given_up: bool) -> Option<Tick> {
        if let Some(mark) = asked.mark {
            return self.connections.marked(mark).filter(|id| *id < asked.begin);
        }
        let open = || {
            self.connections
                .newest()
                .filter(|c| c.accepted < asked.begin)
        };
        if asked.pid.is_some() && self.processes.fork && asked.pid != self.processes.server {
            let mut own = open().filter(|c| c.seen.pid == asked.pid);
            return own
                .next()
                .filter(|_| own.next().is_none())
                .map(|c| c.accepted);
        }
        if self.past != Past::Known || self.connections.has_suspects() {
            return None;
        }
        // However long it has been silent: no time-out ends who drips.
        let mut open = open();
        let only = open.next().filter(|_| open.next().is_none());
        if given_up && self.closed_since(asked).next().is_some() {
            return None;
        }
        only.filter(|c| !c.stale).map(|c| c.accepted)
    }

    /// Connections that were open when this request began and closed since.
    fn closed_since(&self, asked: &Asked) -> impl Iterator<Item = &Connection> {
        let closing = self.waiting.closing.iter();
        let closing = closing.filter_map(|id| self.connections.get(*id));
        closing.filter(|c| c.closed > Some(asked.begin) && own(c, asked))
    }

    /// Who may have asked, by the facts: open before the request began and, but
    /// for one that was given up, not closed before it ended. And whether
    /// there are more that asked nothing yet, older than those.
    fn candidates(&self, asked: &Asked, given_up: bool) -> (Vec<Tick>, bool) {
        let own = |c: &Connection| own(c, asked);
        let (mut fresh, mut spoken) = (Vec::with_capacity(MAX_FRESH), Vec::new());
        let mut cut = false;
        let (mut fresh_left, mut others_left) = self.connections.counts();
        for connection in self.connections.newest().take(MAX_LOOKED_AT) {
            let is_fresh = connection.is_fresh();
            // In a large crowd nearly all are of one kind, and a few tell all.
            let no_fresh = fresh_left == 0 || cut;
            let no_others = others_left == 0 || spoken.len() == MAX_SPOKEN;
            if no_fresh && no_others {
                break;
            }
            match is_fresh {
                true => fresh_left -= 1,
                false => others_left -= 1,
            }
            if connection.dropped || !own(connection) {
                continue;
            }
            let (list, most) = if is_fresh {
                (&mut fresh, MAX_FRESH)
            } else {
                (&mut spoken, MAX_SPOKEN)
            };
            if list.len() < most {
                list.push(connection.accepted);
            } else {
                cut |= is_fresh;
            }
        }
        let home = asked
            .machine
            .and_then(|machine| self.waiting.homes.peek(&machine));
        let home = home.and_then(|home| self.connections.get(home.connection));
        let home = home
            .filter(|c| own(c) && c.closed.is_none())
            .map(|c| c.accepted);
        let mut candidates = fresh;
        candidates.extend(home.filter(|id| !candidates.contains(id) && !spoken.contains(id)));
        candidates.append(&mut spoken);
        if given_up {
            candidates.extend(self.closed_since(asked).map(|c| c.accepted));
        }
        (candidates, cut)
    }

    /// A connection was closed: if it asked nothing and no request that waits or
    /// is being written can be its own, it was a probe.
    pub(super) fn closing(&mut self, id: Tick, out: &mut Vec<Event>) {
        if !self.is_claimed(id) {
            self.part(id, out);
            return;
        }
        if self.waiting.closing.len() >= MAX_CLOSING {
            self.waiting.evicted += 1;
            if let Some(oldest) = self.waiting.closing.pop_front() {
                self.part(oldest, out);
            }
        }
        self.waiting.closing.push_back(id);
    }

    /// Lets closed connections go that nothing claims any more.
    pub(super) fn release(&mut self, out: &mut Vec<Event>) {
        let begun = self.blocks.newest();
        let mut at = 0;
        while let Some(id) = self.waiting.closing.get(at).copied() {
            let claimed =
                begun > Some(id) || self.connections.get(id).is_some_and(Connection::is_claimed);
            if claimed {
                at += 1;
            } else {
                self.waiting.closing.remove(at);
                self.part(id, out);
            }
        }
    }

    fn is_claimed(&self, id: Tick) -> bool {
        self.connections.get(id).is_some_and(Connection::is_claimed)
            || self.blocks.newest() > Some(id)
    }

    /// Forgets a closed connection; one that asked nothing was a probe.
    fn part(&mut self, id: Tick, out: &mut Vec<Event>) {
        if let Some(connection) = self.connections.forget(id)
            && connection.is_fresh()
        {
            out.push(self.connection_event(&connection, EventKind::Probe));
            self.waiting.learn(connection.ip, |habit| habit.probes += 1);
        }
    }
}
