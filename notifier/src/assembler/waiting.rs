//! Requests whose asker is not sure yet, and how they are settled.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use jiff::{SignedDuration, Timestamp};
use lru::LruCache;

use super::attribution::{self as weigh, Row, SURE};
use super::connections::{Connection, LIFE, Machine, Speaker, Tick};
use super::{Assembler, Past};
use crate::event::{Attribution, Event, Kind as EventKind};
use crate::line::Mark;

/// Requests that wait at once at most; the oldest is then decided as it is.
const MAX_WAITING: usize = 64;

/// Connections weighed for one request at most: the newest that asked nothing
/// yet, and as many of those that spoke before.
const MAX_FRESH: usize = 48;
const MAX_SPOKEN: usize = 48;

/// Addresses of which it is remembered how often they asked and probed, and
/// machines of which it is remembered where they were.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");

/// By the log's own time (design section 2); without stamps, lines.
const PATIENCE: SignedDuration = SignedDuration::from_secs(2);
const PATIENCE_LINES: u64 = 200;

/// Shares below this name nobody.
const NEGLIGIBLE: f64 = 1e-3;

/// Who may have asked: what a request's own lines say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) begin: Tick,
    pub(super) machine: Option<Machine>,
    pub(super) pid: Option<u32>,
    pub(super) mark: Option<Mark>,
}

/// One or more requests of one machine that wait together.
#[derive(Debug)]
struct Pending {
    asked: Asked,
    /// Tick of the last answer.
    end: Tick,
    candidates: Vec<Tick>,
    events: Vec<Event>,
    due: Option<Timestamp>,
    due_line: u64,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pending: Vec<Pending>,
    /// Closed connections that may be a waiting request's, or a probe.
    pub(super) closing: Vec<Tick>,
    habits: LruCache<IpAddr, Habit>,
    homes: LruCache<Machine, IpAddr>,
    pub(super) evicted: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Habit {
    requests: u32,
    probes: u32,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            pending: Vec::new(),
            closing: Vec::new(),
            habits: LruCache::new(MAX_REMEMBERED),
            homes: LruCache::new(MAX_REMEMBERED),
            evicted: 0,
        }
    }
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn is_due(&self, now: Option<Timestamp>, line: u64) -> bool {
        self.pending.iter().any(|pending| pending.is_due(now, line))
    }

    /// Whether a connection may have made a request that waits.
    pub(super) fn concerns(&self, connection: Tick) -> bool {
        self.pending
            .iter()
            .any(|pending| pending.candidates.contains(&connection))
    }

    fn habit(&self, connection: &Connection) -> Habit {
        connection
            .ip
            .and_then(|ip| self.habits.peek(&ip))
            .copied()
            .unwrap_or_default()
    }

    fn learn(&mut self, ip: Option<IpAddr>, learn: impl FnOnce(&mut Habit)) {
        if let Some(ip) = ip {
            learn(self.habits.get_or_insert_mut(ip, Habit::default));
        }
    }
}

impl Pending {
    fn is_due(&self, now: Option<Timestamp>, line: u64) -> bool {
        match (self.due, now) {
            (Some(due), Some(now)) => now >= due,
            _ => line >= self.due_line,
        }
    }
}

/// What the shares come to for one request.
struct Belief {
    attribution: Attribution,
    /// Addresses with their shares, the likeliest first.
    addresses: Vec<(IpAddr, f64)>,
    /// The likeliest connection and its share.
    connection: Option<(Tick, f64)>,
}

impl Assembler {
    /// Finds who made a finished request: at once, or when more is known.
    pub(super) fn attribute(&mut self, mut event: Event, asked: Asked, out: &mut Vec<Event>) {
        event.attribution = Some(Attribution::Unknown);
        if let Some(id) = self.named(&asked) {
            self.commit(&mut [event], (id, 1.0), Attribution::Exact, &asked, out);
            return;
        }
        if asked.mark.is_some() {
            // The mark names a connection, and none that was seen to open.
            out.push(event);
            return;
        }
        let end = self.tick;
        let aborted = event.kind == EventKind::Aborted;
        let candidates = self.candidates(&asked, aborted);
        let (due, due_line) = (
            self.now.map(|now| now + PATIENCE),
            self.line + PATIENCE_LINES,
        );
        let together = self.waiting.pending.iter_mut().find(|pending| {
            let both = |id: &Tick| pending.candidates.contains(id);
            asked.machine.is_some()
                && pending.asked.machine == asked.machine
                && candidates.iter().any(both)
        });
        match together {
            // The same machine on the same connection asks again.
            Some(pending) => {
                pending.candidates.retain(|id| candidates.contains(id));
                pending.events.push(event);
                pending.end = end;
                (pending.due, pending.due_line) = (due, due_line);
            }
            None => {
                if self.waiting.pending.len() >= MAX_WAITING {
                    self.waiting.evicted += 1;
                    if let Some(oldest) = self.waiting.pending.first_mut() {
                        (oldest.due, oldest.due_line) = (self.now, self.line);
                    }
                }
                let events = vec![event];
                self.waiting.pending.push(Pending {
                    asked,
                    end,
                    candidates,
                    events,
                    due,
                    due_line,
                });
            }
        }
        self.settle(false, out);
    }

    /// The connection that facts alone name: a mark, a process of its own, or
    /// that only one can be open.
    fn named(&self, asked: &Asked) -> Option<Tick> {
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
        let lives = |c: &&Connection| match (self.now, c.active) {
            (Some(now), Some(active)) => now.duration_since(active) <= LIFE,
            _ => true,
        };
        let mut open = open().filter(lives);
        open.next()
            .filter(|c| open.next().is_none() && !c.stale)
            .map(|c| c.accepted)
    }

    /// Who may have asked, by the facts: open before the request began and, but
    /// for one that was never answered, not closed before it ended.
    fn candidates(&self, asked: &Asked, aborted: bool) -> Vec<Tick> {
        let own = |c: &&Connection| asked.pid.is_none() || c.seen.pid == asked.pid;
        let before = || {
            self.connections
                .newest()
                .filter(|c| c.accepted < asked.begin)
                .filter(own)
        };
        let fresh = before().filter(|c| c.is_fresh()).take(MAX_FRESH);
        let spoken = before()
            .filter(|c| !c.is_fresh() && !c.dropped)
            .filter(|c| {
                c.speaker.is_none_or(|s| Some(s.machine) == asked.machine) || c.requests > 0
            })
            .take(MAX_SPOKEN);
        let mut candidates: Vec<Tick> = fresh.chain(spoken).map(|c| c.accepted).collect();
        if aborted {
            let closed_since = |id: &&Tick| {
                **id < asked.begin
                    && self
                        .connections
                        .get(**id)
                        .is_some_and(|c| c.closed > Some(asked.begin) && own(&c))
            };
            candidates.extend(self.waiting.closing.iter().filter(closed_since));
        }
        candidates
    }

    /// Weighs all that waits; decides what is sure or due, or everything.
    pub(super) fn settle(&mut self, all: bool, out: &mut Vec<Event>) {
        while !self.waiting.pending.is_empty() {
            let beliefs = self.beliefs();
            let decided = |(at, belief): &(usize, Belief)| {
                let pending = self.waiting.pending.get(*at);
                belief.attribution == Attribution::Inferred
                    || all
                    || pending.is_some_and(|pending| pending.is_due(self.now, self.line))
            };
            let mut decided: Vec<(usize, Belief)> =
                beliefs.into_iter().enumerate().filter(decided).collect();
            if decided.is_empty() {
                break;
            }
            // In the order they were asked, out of the back of the list.
            let mut gone: Vec<Pending> = Vec::with_capacity(decided.len());
            for (at, _) in decided.iter().rev() {
                gone.push(self.waiting.pending.remove(*at));
            }
            gone.reverse();
            // The surest first: a connection that it takes is no guess of the next.
            let mut taken: Vec<Tick> = Vec::new();
            let mut order: Vec<usize> = (0..decided.len()).collect();
            let share = |at: &usize| {
                decided
                    .get(*at)
                    .and_then(|d| d.1.connection)
                    .map_or(0.0, |c| c.1)
            };
            order.sort_by(|a, b| share(b).total_cmp(&share(a)));
            let mut done: Vec<Vec<Event>> = gone.iter().map(|_| Vec::new()).collect();
            for at in order {
                let (Some(pending), Some((_, belief)), Some(done)) =
                    (gone.get_mut(at), decided.get_mut(at), done.get_mut(at))
                else {
                    continue;
                };
                self.decide(pending, belief, &mut taken, done);
            }
            out.extend(done.into_iter().flatten());
            self.release(out);
        }
    }

    fn beliefs(&self) -> Vec<Belief> {
        let mut columns: Vec<Tick> = Vec::new();
        let mut idle: Vec<f64> = Vec::new();
        let mut rows: Vec<Row> = Vec::with_capacity(self.waiting.pending.len());
        for pending in &self.waiting.pending {
            let mut row = Row::with_capacity(pending.candidates.len());
            for id in &pending.candidates {
                let Some(connection) = self.connections.get(*id) else {
                    continue;
                };
                let column = columns
                    .iter()
                    .position(|known| known == id)
                    .unwrap_or_else(|| {
                        columns.push(*id);
                        idle.push(self.idle(connection));
                        columns.len() - 1
                    });
                row.push((column, self.weight(connection, pending)));
            }
            rows.push(row);
        }
        let unseen = if self.past == Past::Known {
            weigh::UNSEEN
        } else {
            weigh::UNSEEN_LATE
        };
        let shares = weigh::shares(&rows, &idle, unseen);
        if std::env::var("DBG").is_ok() {
            for (p, (r, sh)) in self.waiting.pending.iter().zip(rows.iter().zip(&shares)) {
                eprintln!(
                    "ROW begin {} line {} ws {:?}",
                    p.asked.begin,
                    self.line,
                    p.events[0]
                        .request
                        .as_ref()
                        .and_then(|r| r.workstation.clone())
                );
                for ((c, w), (_, s)) in r.iter().zip(sh) {
                    let k = self.connections.get(columns[*c]).unwrap();
                    eprintln!(
                        "   {} {:?}:{:?} w {:.5} idle {:.4} share {:.4} req {} sure {:?} closed {:?}",
                        k.accepted,
                        k.ip,
                        k.port,
                        w,
                        idle[*c],
                        s,
                        k.requests,
                        k.speaker.map(|s| s.share),
                        k.closed
                    );
                }
            }
        } // DBGLINE
        shares
            .iter()
            .map(|row| self.believe(row, &columns))
            .collect()
    }

    /// What speaks for this connection having asked.
    fn weight(&self, connection: &Connection, pending: &Pending) -> f64 {
        let asked = &pending.asked;
        let mut weight = match connection.speaker {
            Some(speaker) if Some(speaker.machine) == asked.machine => weigh::SAME_MACHINE,
            None if connection.requests > 0 => weigh::SOME_MACHINE,
            speaker => {
                let begun = pending
                    .events
                    .first()
                    .and_then(|event| event.time)
                    .map(|time| time.at);
                let accepted = connection.seen.time.map(|time| time.at);
                let age = begun
                    .zip(accepted)
                    .map(|(begun, accepted)| begun.duration_since(accepted));
                let first = weigh::asks_first(asked.begin - connection.accepted, age);
                match speaker {
                    // It asks for the first time if it did not speak after all.
                    Some(speaker) => weigh::OTHER_MACHINE + (1.0 - speaker.share) * first,
                    None => first,
                }
            }
        };
        let until = connection.closed.unwrap_or(self.tick);
        weight *= weigh::closes_after_answer(
            until.saturating_sub(pending.end),
            connection.closed.is_none(),
        );
        if connection.stale {
            weight *= weigh::STALE;
        }
        if let Some(machine) = asked.machine
            && connection.ip.is_some()
            && self.waiting.homes.peek(&machine).copied() == connection.ip
        {
            weight *= weigh::KNOWN_ADDRESS;
        }
        weight
    }

    /// What speaks for its asking nothing that waits.
    fn idle(&self, connection: &Connection) -> f64 {
        if connection.requests > 0 {
            return 1.0;
        }
        let until = connection.closed.unwrap_or(self.tick);
        let habit = self.waiting.habit(connection);
        weigh::closes_unasked(until - connection.accepted, connection.closed.is_none())
            * weigh::prober(habit.probes, habit.requests)
    }

    fn believe(&self, row: &Row, columns: &[Tick]) -> Belief {
        let mut addresses: Vec<(IpAddr, f64)> = Vec::new();
        let mut best: Option<(Tick, f64)> = None;
        let mut seen = 0.0;
        for (column, share) in row {
            let Some(connection) = columns
                .get(*column)
                .and_then(|id| self.connections.get(*id))
            else {
                continue;
            };
            seen += share;
            if best.is_none_or(|(_, best)| *share > best) {
                best = Some((connection.accepted, *share));
            }
            let Some(ip) = connection.ip else { continue };
            match addresses.iter_mut().find(|(known, _)| *known == ip) {
                Some((_, sum)) => *sum += share,
                None => addresses.push((ip, *share)),
            }
        }
        addresses.retain(|(_, share)| *share >= NEGLIGIBLE);
        addresses.sort_by(|a, b| b.1.total_cmp(&a.1));
        let attribution = match addresses.first() {
            Some((_, share)) if *share >= SURE => Attribution::Inferred,
            Some(_) if seen >= 0.5 => Attribution::Ambiguous,
            _ => Attribution::Unknown,
        };
        Belief {
            attribution,
            addresses,
            connection: best,
        }
    }

    fn decide(
        &mut self,
        pending: &mut Pending,
        belief: &Belief,
        taken: &mut Vec<Tick>,
        out: &mut Vec<Event>,
    ) {
        // A guess is not made twice: the next best that nobody has taken yet.
        let guess = belief
            .connection
            .filter(|_| belief.attribution != Attribution::Unknown);
        let free = |id: &Tick| !taken.contains(id);
        let connection =
            match guess {
                Some((id, share)) if share >= SURE || free(&id) => Some(id),
                Some(_) => pending.candidates.iter().copied().find(|id| {
                    free(id) && self.connections.get(*id).is_some_and(Connection::is_fresh)
                }),
                None => None,
            };
        taken.extend(connection);
        match belief.attribution {
            Attribution::Inferred | Attribution::Exact => {
                let sure = guess.is_some_and(|(_, share)| share >= SURE);
                let ip = belief.addresses.first().map(|(ip, _)| *ip);
                if let (true, Some(id)) = (sure, connection) {
                    let asked = pending.asked;
                    self.commit(
                        &mut std::mem::take(&mut pending.events),
                        (id, guess.map_or(0.0, |(_, share)| share)),
                        Attribution::Inferred,
                        &asked,
                        out,
                    );
                    return;
                }
                for mut event in pending.events.drain(..) {
                    event.attribution = Some(Attribution::Inferred);
                    event.ip = ip;
                    out.push(event);
                }
                self.waiting.learn(ip, |habit| habit.requests += 1);
            }
            Attribution::Ambiguous => {
                for mut event in pending.events.drain(..) {
                    event.attribution = Some(Attribution::Ambiguous);
                    event.candidates = belief.addresses.iter().map(|(ip, _)| *ip).collect();
                    event.ip = event.candidates.first().copied();
                    out.push(event);
                }
            }
            Attribution::Unknown => out.append(&mut pending.events),
        }
        if let Some(connection) = connection.and_then(|id| self.connections.get_mut(id)) {
            let share = match guess {
                Some((id, share)) if id == connection.accepted => share,
                _ => 0.0,
            };
            connection.requests += 1;
            if connection.speaker.is_none() {
                connection.speaker = pending
                    .asked
                    .machine
                    .map(|machine| Speaker { machine, share });
            }
        }
    }

    /// Gives requests to the connection that made them.
    fn commit(
        &mut self,
        events: &mut [Event],
        (id, share): (Tick, f64),
        attribution: Attribution,
        asked: &Asked,
        out: &mut Vec<Event>,
    ) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        for event in events {
            connection.requests += 1;
            event.attribution = Some(attribution);
            event.connection = Some(connection.seen.id);
            event.request_number = Some(connection.requests);
            event.ip = connection.ip;
            event.port = connection.port;
            event.zone.clone_from(&connection.zone);
            if connection.ip.is_none() {
                event.attribution = Some(Attribution::Unknown);
            }
            out.push(event.clone());
        }
        connection.active = now.or(connection.active);
        if let Some(machine) = asked.machine {
            connection.speaker = Some(Speaker { machine, share });
        }
        let (ip, rpc) = (connection.ip, connection.rpc);
        self.waiting.learn(ip, |habit| habit.requests += 1);
        if let (Some(machine), Some(ip)) = (asked.machine, ip) {
            self.waiting.homes.put(machine, ip);
        }
        if rpc {
            self.connections.forget(id);
        }
    }

    /// Lets closed connections go that no waiting request can claim: who asked
    /// nothing was a probe.
    pub(super) fn release(&mut self, out: &mut Vec<Event>) {
        let mut closing = std::mem::take(&mut self.waiting.closing);
        closing.retain(|id| {
            let begun_since = self
                .blocks
                .iter()
                .any(|block| block.begin > *id && !block.suspect);
            if self.waiting.concerns(*id) || begun_since {
                return true;
            }
            if let Some(connection) = self.connections.forget(*id)
                && connection.is_fresh()
            {
                out.push(self.connection_event(&connection, EventKind::Probe));
                self.waiting.learn(connection.ip, |habit| habit.probes += 1);
            }
            false
        });
        self.waiting.closing = closing;
    }
}
