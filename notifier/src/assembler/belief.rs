//! How waiting requests are settled: weighed against each other, then given to
//! the address that is left.

use std::net::IpAddr;

use super::Assembler;
use super::attribution::{self as weigh, Row, SURE};
use super::connections::{Connection, Speaker, Tick};
use super::presence::Past;
use super::waiting::{Asked, Home, Pending};
use crate::event::{Attribution, Event};

/// Shares below this name nobody.
const NEGLIGIBLE: f64 = 1e-3;

/// What the shares come to for one request.
struct Belief {
    attribution: Attribution,
    /// Addresses with their shares, the likeliest first.
    addresses: Vec<(IpAddr, f64)>,
    /// The likeliest connection and its share.
    connection: Option<(Tick, f64)>,
}

impl Assembler {
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
            && self.waiting.homes.peek(&machine).map(|home| home.ip) == connection.ip
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
                let speaker = |machine| Speaker { machine, share };
                connection.speaker = pending.asked.machine.map(speaker);
            }
            if connection.rpc {
                let id = connection.accepted;
                self.connections.forget(id);
            }
        }
    }

    /// Gives requests to the connection that made them.
    pub(super) fn commit(
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
            self.waiting.homes.put(machine, Home { ip, connection: id });
        }
        if rpc {
            self.connections.forget(id);
        }
    }
}
