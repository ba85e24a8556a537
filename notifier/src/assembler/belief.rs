//! How waiting requests are settled: weighed against each other, then given to
//! the address that is left.

use std::net::IpAddr;

use super::Assembler;
use super::attribution::{self as weigh, Rows, SURE, Weigher, bit, bits};
use super::connections::{Connection, Speaker, Tick};
use super::presence::Past;
use super::waiting::{Asked, Home, Pending};
use crate::event::{Attribution, Event, EventTime};

/// Shares below this name nobody.
const NEGLIGIBLE: f64 = 1e-3;

/// How many requests are weighed anew with every line that concerns them. In a
/// larger crowd the evidence hardly ever leaves one address before all of its
/// connections are closed, and weighing costs more than all else.
const CROWD: u32 = 4;

/// What the shares come to for one request.
struct Belief {
    attribution: Attribution,
    /// Addresses with their shares, the likeliest first.
    addresses: Vec<(IpAddr, f64)>,
    /// The likeliest connection and its share.
    connection: Option<(Tick, f64)>,
}

/// Why requests that wait are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The last of them was just answered.
    Asked,
    /// This connection closed.
    Closed(Tick),
    /// Some have waited long enough.
    Due,
    /// Too many wait, and the oldest were made due.
    Full,
    /// Nothing more will come.
    End,
}

/// A connection that waiting requests may belong to.
struct Column<'a> {
    connection: &'a Connection,
    /// When it was accepted: seconds and nanoseconds.
    accepted: Option<Moment>,
    idle: f64,
    /// The first column with the same address, itself perhaps; none without one.
    address: Option<usize>,
}

/// A time in seconds and nanoseconds, to be told apart from another in no time.
type Moment = (i64, i32);

fn moment(time: EventTime) -> Moment {
    (time.at.as_second(), time.at.subsec_nanosecond())
}

/// Different for most addresses that differ.
fn in_short(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let (halves, _) = octets.as_chunks();
            halves
                .iter()
                .fold(0, |all, half| all ^ u64::from_be_bytes(*half))
        }
    }
}

/// Whole seconds from one moment to another, rounded down.
fn seconds((from, from_nanos): Moment, (to, to_nanos): Moment) -> i64 {
    to - from - i64::from(to_nanos < from_nanos)
}

/// Room for one weighing after the other.
#[derive(Debug, Default)]
pub(super) struct Scales {
    rows: Rows,
    weigher: Weigher,
    /// By a connection's place: the column that it had when it last had one.
    column_at: Vec<usize>,
    /// By column: its address in short.
    short: Vec<u64>,
    /// By column: what its address comes to in the row that is looked at.
    sums: Vec<f64>,
    left: Vec<usize>,
}

impl Scales {
    fn note(&mut self, place: usize, column: usize) {
        if self.column_at.len() <= place {
            self.column_at.resize(place + 1, 0);
        }
        if let Some(at) = self.column_at.get_mut(place) {
            *at = column;
        }
    }
}

impl Assembler {
    /// Weighs what waits, as far as there is a reason to; decides what is sure,
    /// what is due and what will never be surer.
    pub(super) fn settle(&mut self, why: Why, out: &mut Vec<Event>) {
        if self.waiting.is_empty() {
            return;
        }
        let mut scales = self.scales.take().unwrap_or_default();
        // What was asked about connections that are not affected stays as it is.
        let mut left = std::mem::take(&mut scales.left);
        self.waiting.affected(why, self.now, self.line, &mut left);
        while let Some(first) = left.pop() {
            let group = self.waiting.sharing(first);
            left.retain(|row| group & bit(*row) == 0);
            let crowd = group.count_ones() > CROWD;
            let all = why == Why::End || self.is_over(group);
            if !all && !matches!(why, Why::Due | Why::Full) && crowd {
                continue;
            }
            let decided = self.beliefs(group, all, &mut scales);
            if decided.is_empty() {
                continue;
            }
            // The others are weighed again without them, but for a crowd that stays one.
            let gone = decided.iter().fold(0, |gone, (row, _)| gone | bit(*row));
            if why != Why::Full {
                left.extend(bits(group & !gone));
            }
            for row in &mut left {
                *row -= (gone & bit(*row).wrapping_sub(1)).count_ones() as usize;
            }
            self.decide_all(decided, out);
            self.release(out);
        }
        scales.left = left;
        self.scales = Some(scales);
    }

    /// Decides requests together. They are told in the order they were asked.
    fn decide_all(&mut self, mut decided: Vec<(usize, Belief)>, out: &mut Vec<Event>) {
        let mut gone: Vec<Pending> = Vec::with_capacity(decided.len());
        // Out of the back of the list, so that those before keep their places.
        for (at, _) in decided.iter().rev() {
            gone.push(self.waiting.remove(*at, &mut self.connections));
        }
        gone.reverse();
        // The surest first: a connection that it takes is no guess of the next.
        let mut order: Vec<usize> = (0..decided.len()).collect();
        let share = |at: &usize| {
            let belief = decided.get(*at).map(|(_, belief)| belief);
            belief.and_then(|b| b.connection).map_or(0.0, |c| c.1)
        };
        order.sort_by(|a, b| share(b).total_cmp(&share(a)));
        let mut taken: Vec<Tick> = Vec::with_capacity(decided.len());
        for at in order {
            if let (Some(pending), Some((_, belief))) = (gone.get_mut(at), decided.get_mut(at)) {
                self.decide(pending, belief, &mut taken);
            }
        }
        for pending in gone {
            out.extend(pending.events);
        }
    }

    /// Whether nobody who may have asked any of these can do anything more.
    fn is_over(&self, group: u64) -> bool {
        let pending = self.waiting.group(group);
        let closed = |id: &Tick| self.connections.get(*id).is_none_or(|c| c.closed.is_some());
        pending.flat_map(|pending| &pending.candidates).all(closed)
    }

    /// What these requests come to, weighed against each other: those of which that
    /// is sure, or due, or `all`.
    fn beliefs(&self, group: u64, all: bool, scales: &mut Scales) -> Vec<(usize, Belief)> {
        let most = self.waiting.group(group).map(|p| p.candidates.len()).max();
        let mut columns: Vec<Column<'_>> = Vec::with_capacity(most.unwrap_or(0) + 8);
        scales.rows.clear();
        scales.short.clear();
        for pending in self.waiting.group(group) {
            let home = pending.asked.machine;
            let home = home.and_then(|machine| self.waiting.homes.peek(&machine));
            let home = home.map(|home| home.ip);
            let begun = pending.events.first().and_then(|event| event.time);
            let begun = begun.map(moment);
            // Most rows name the same connections in the same order.
            let mut next = 0;
            for id in &pending.candidates {
                let is_at = |at: &usize| {
                    let column: Option<&Column<'_>> = columns.get(*at);
                    column.is_some_and(|column| column.connection.accepted == *id)
                };
                if !is_at(&next) {
                    let Some((place, connection)) = self.connections.placed(*id) else {
                        continue;
                    };
                    let noted = scales.column_at.get(place).copied();
                    next = match noted.filter(is_at) {
                        Some(at) => at,
                        None => {
                            columns.push(self.column(connection, &columns, &mut scales.short));
                            scales.note(place, columns.len() - 1);
                            columns.len() - 1
                        }
                    };
                }
                if let Some(column) = columns.get(next) {
                    let weight = self.weight(column, pending, begun, home);
                    scales.rows.push(next, weight / column.idle);
                }
                next += 1;
            }
            scales.rows.end_row();
        }
        let unseen = if self.past == Past::Known {
            weigh::UNSEEN
        } else {
            weigh::UNSEEN_LATE
        };
        scales
            .weigher
            .weigh(&mut scales.rows, columns.len(), unseen);
        scales.sums.clear();
        scales.sums.resize(columns.len(), -1.0);
        let (rows, sums) = (&scales.rows, &mut scales.sums);
        let mut decided = Vec::new();
        for (row, (place, pending)) in bits(group).zip(self.waiting.group(group)).enumerate() {
            let sure_only = !all && !pending.is_due(self.now, self.line);
            let belief = believe(rows.row(row), &columns, pending.cut, sure_only, sums);
            decided.extend(belief.map(|belief| (place, belief)));
        }
        decided
    }

    /// A column after those before it, whose addresses are noted in `short`.
    fn column<'a>(
        &self,
        connection: &'a Connection,
        before: &[Column<'_>],
        short: &mut Vec<u64>,
    ) -> Column<'a> {
        let own = connection.ip.map_or(0, in_short);
        let same = |column: &Column<'_>| column.connection.ip == connection.ip;
        let first = match short.contains(&own) {
            true => before.iter().position(same).unwrap_or(before.len()),
            false => before.len(),
        };
        short.push(own);
        Column {
            connection,
            accepted: connection.seen.time.map(moment),
            idle: self.idle(connection),
            address: connection.ip.map(|_| first),
        }
    }

    /// What speaks for this connection having asked.
    fn weight(
        &self,
        column: &Column<'_>,
        pending: &Pending,
        begun: Option<Moment>,
        home: Option<IpAddr>,
    ) -> f64 {
        let (connection, asked) = (column.connection, &pending.asked);
        let mut weight = match connection.speaker {
            Some(speaker) if Some(speaker.machine) == asked.machine => weigh::SAME_MACHINE,
            None if connection.requests > 0 => weigh::SOME_MACHINE,
            speaker => {
                let age = column.accepted.zip(begun);
                let age = age.map(|(accepted, begun)| seconds(accepted, begun));
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
        if home.is_some() && home == connection.ip {
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

    fn decide(&mut self, pending: &mut Pending, belief: &Belief, taken: &mut Vec<Tick>) {
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
                    let known = self.commit(
                        &mut pending.events,
                        (id, guess.map_or(0.0, |(_, share)| share)),
                        Attribution::Inferred,
                        &pending.asked,
                    );
                    if !known {
                        pending.events.clear();
                    }
                    return;
                }
                for event in &mut pending.events {
                    event.attribution = Some(Attribution::Inferred);
                    event.ip = ip;
                }
                self.waiting.learn(ip, |habit| habit.requests += 1);
            }
            Attribution::Ambiguous => {
                for event in &mut pending.events {
                    event.attribution = Some(Attribution::Ambiguous);
                    event.candidates = belief.addresses.iter().map(|(ip, _)| *ip).collect();
                    event.ip = event.candidates.first().copied();
                }
            }
            Attribution::Unknown => self.past.asked_by_nobody(self.now),
        }
        if let Some(connection) = connection.and_then(|id| self.connections.asked(id, 1)) {
            let share = match guess {
                Some((id, share)) if id == connection.accepted => share,
                _ => 0.0,
            };
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

    /// Gives requests to the connection that made them; false if there is none.
    pub(super) fn commit(
        &mut self,
        events: &mut [Event],
        (id, share): (Tick, f64),
        attribution: Attribution,
        asked: &Asked,
    ) -> bool {
        let now = self.now;
        let requests = u32::try_from(events.len()).unwrap_or(u32::MAX);
        let Some(connection) = self.connections.asked(id, requests) else {
            return false;
        };
        let before = connection.requests.saturating_sub(requests);
        for (event, more) in events.iter_mut().zip(1..) {
            event.attribution = Some(attribution);
            event.connection = Some(connection.seen.id);
            event.request_number = Some(before.saturating_add(more));
            event.ip = connection.ip;
            event.port = connection.port;
            event.zone.clone_from(&connection.zone);
            if connection.ip.is_none() {
                event.attribution = Some(Attribution::Unknown);
            }
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
        true
    }
}

/// What a row of shares says about addresses; none where that is not sure and has
/// to be. If it was `cut`, as many more that asked nothing yet may have asked: then
/// none of those is sure. `sums` has a place for each column, and is left as it was:
/// negative.
fn believe(
    row: &[(usize, f64)],
    columns: &[Column<'_>],
    cut: bool,
    sure_only: bool,
    sums: &mut [f64],
) -> Option<Belief> {
    let mut best: Option<(Tick, f64)> = None;
    let mut unsure = false;
    let mut seen = 0.0;
    for (column, share) in row {
        let Some(column) = columns.get(*column) else {
            continue;
        };
        seen += share;
        if best.is_none_or(|(_, best)| *share > best) {
            best = Some((column.connection.accepted, *share));
            unsure = cut && column.connection.is_fresh();
        }
        if let Some(sum) = column.address.and_then(|address| sums.get_mut(address)) {
            *sum = sum.max(0.0) + share;
        }
    }
    let address = |column: usize| columns.get(column)?.address;
    let sum = |(column, _): &(usize, f64)| sums.get(address(*column)?).copied();
    let sure = !unsure && row.iter().filter_map(sum).any(|sum| sum >= SURE);
    let mut addresses: Vec<(IpAddr, f64)> = Vec::new();
    if sure || !sure_only {
        addresses.reserve_exact(row.len());
    }
    for (column, _) in row {
        // The first that names an address takes all; nothing is left for the others.
        if let Some(column) = columns.get(*column)
            && let Some(sum) = column.address.and_then(|address| sums.get_mut(address))
        {
            if *sum >= NEGLIGIBLE
                && (sure || !sure_only)
                && let Some(ip) = column.connection.ip
            {
                addresses.push((ip, *sum));
            }
            *sum = -1.0;
        }
    }
    if sure_only && !sure {
        return None;
    }
    addresses.sort_by(|a, b| b.1.total_cmp(&a.1));
    let attribution = match addresses.first() {
        Some(_) if sure => Attribution::Inferred,
        Some(_) if seen >= 0.5 => Attribution::Ambiguous,
        _ => Attribution::Unknown,
    };
    Some(Belief {
        attribution,
        addresses,
        connection: best,
    })
}
