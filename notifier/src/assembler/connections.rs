//! Who is connected: the table of connections that the log opened and closed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Seen;
use super::table::Table;
use crate::event::Text;
use crate::line::{Endpoint, Mark};

/// Connections kept at most; vlmcsd itself takes a process or thread for each.
const MAX_OPEN: usize = 4096;

/// Accepted lines kept at most that a client may have forged.
const MAX_SUSPECT: usize = 64;

/// How long a silent connection counts as perhaps still open: vlmcsd's longest
/// idle time-out (`-t 600`) and a minute. Longer than this after a log was
/// joined late, every open connection is known.
pub(super) const LIFE: SignedDuration = SignedDuration::from_secs(660);

/// Position among the events of a log that matter for attribution: accepted and
/// closed lines, markers. Names a connection by its accepted line.
pub(super) type Tick = u64;

/// A hash of workstation and client machine id: which machine spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Machine(u64);

impl Machine {
    /// `None` where the log tells neither.
    pub(super) fn new(name: &[u8], id: Option<Uuid>) -> Option<Self> {
        if name.is_empty() && id.is_none() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (name, id.map(|id| id.as_u128())).hash(&mut hasher);
        Some(Self(hasher.finish()))
    }

    /// One that another hasher would give another number.
    pub(super) fn probe() -> Option<Self> {
        Self::new(b"probe", None)
    }
}

/// A machine that a connection spoke for, and the share of belief in that.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Speaker {
    pub(super) machine: Machine,
    pub(super) share: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Connection {
    pub(super) accepted: Tick,
    pub(super) seen: Seen,
    /// Absent for `Unknown IP` and for text that is no address.
    pub(super) ip: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) zone: Option<Text>,
    pub(super) mark: Option<Mark>,
    /// MS-RPC builds print an accepted line for every request and never a closed one.
    pub(super) rpc: bool,
    /// Requests attributed to it so far, guesses included; see [`Connections::asked`].
    pub(super) requests: u32,
    pub(super) speaker: Option<Speaker>,
    /// When it last did something, by the log's time.
    pub(super) active: Option<Timestamp>,
    /// Closed, and kept because a waiting request may be its own.
    pub(super) closed: Option<Tick>,
    /// A line that a client may have forged says that it is closed.
    pub(super) suspect_close: bool,
    /// The server it belonged to has ended or restarted since.
    pub(super) stale: bool,
    /// Turned away by `-o2`; told already.
    pub(super) dropped: bool,
    /// What `by_name` knows it by.
    name: Text,
    /// How many waiting requests may be its own.
    #[serde(skip)]
    claims: u32,
}

impl Connection {
    /// It has asked nothing yet, and nothing else is known of it.
    pub(super) fn is_fresh(&self) -> bool {
        self.requests == 0 && !self.dropped
    }

    /// A request that waits may be its own.
    pub(super) fn is_claimed(&self) -> bool {
        self.claims > 0
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Connections {
    all: Table,
    /// Its hashes are seeded anew in each run, and it has [`MAX_OPEN`] entries at most.
    #[serde(skip)]
    by_name: HashMap<Text, Tick>,
    #[serde(skip)]
    by_mark: HashMap<Mark, Tick>,
    /// Those that are open, stale ones included.
    #[serde(skip)]
    open: usize,
    /// How many of those are fresh.
    #[serde(skip)]
    fresh: usize,
    suspects: Vec<(Box<[u8]>, Seen)>,
    #[serde(skip)]
    pub(super) evicted: u64,
}

impl Connections {
    /// Makes the indices anew, which are not stored.
    pub(super) fn restored(mut self) -> Self {
        for connection in self.all.oldest().filter(|c| c.closed.is_none()) {
            self.open += 1;
            self.fresh += usize::from(connection.is_fresh());
            if !connection.rpc {
                self.by_name
                    .insert(connection.name.clone(), connection.accepted);
            }
            if let Some(mark) = connection.mark {
                self.by_mark.insert(mark, connection.accepted);
            }
        }
        self
    }

    pub(super) fn get(&self, id: Tick) -> Option<&Connection> {
        self.all.get(id)
    }

    /// A connection and a number below a few thousand that is its own while it is here.
    pub(super) fn placed(&self, id: Tick) -> Option<(usize, &Connection)> {
        self.all.placed(id)
    }

    pub(super) fn get_mut(&mut self, id: Tick) -> Option<&mut Connection> {
        self.all.get_mut(id)
    }

    /// A request waits that any of these may have made.
    pub(super) fn claim(&mut self, ids: &[Tick]) {
        for id in ids {
            if let Some(connection) = self.all.get_mut(*id) {
                connection.claims += 1;
            }
        }
    }

    /// The opposite of [`Self::claim`].
    pub(super) fn unclaim(&mut self, ids: &[Tick]) {
        for id in ids {
            if let Some(connection) = self.all.get_mut(*id) {
                connection.claims = connection.claims.saturating_sub(1);
            }
        }
    }

    /// Opens a connection, named by the tick of its accepted line.
    pub(super) fn open(&mut self, tick: Tick, peer: Peer<'_>, seen: Seen) {
        let name = Text::new(peer.name);
        let old = if peer.rpc {
            None
        } else {
            self.by_name.insert(name.clone(), tick)
        };
        if let Some(old) = old {
            // Its closed line never came, and the client's port is in use again.
            self.forget(old);
        }
        while self.open >= MAX_OPEN {
            let Some(oldest) = self.oldest().next().map(|c| c.accepted) else {
                break;
            };
            self.forget(oldest);
            self.evicted += 1;
        }
        let (ip, zone) = peer.address.map_or((None, None), address);
        let active = seen.time.map(|time| time.at);
        if let Some(mark) = peer.mark {
            self.by_mark.insert(mark, tick);
        }
        self.open += 1;
        self.fresh += 1;
        self.all.push(Connection {
            accepted: tick,
            seen,
            ip,
            port: peer.port,
            zone,
            mark: peer.mark,
            rpc: peer.rpc,
            requests: 0,
            speaker: None,
            active,
            closed: None,
            suspect_close: false,
            stale: false,
            dropped: false,
            name,
            claims: 0,
        });
    }

    /// The open connection that an endpoint names.
    pub(super) fn find(&self, peer: &Endpoint<'_>) -> Option<Tick> {
        self.by_name.get(peer.text).copied()
    }

    /// The open connection that a mark names.
    pub(super) fn marked(&self, mark: Mark) -> Option<Tick> {
        self.by_mark.get(&mark).copied()
    }

    /// Notes that a connection was closed at `tick`; it stays until [`Self::forget`].
    pub(super) fn close(&mut self, id: Tick, tick: Tick) {
        if let Some(connection) = self.all.get_mut(id)
            && connection.closed.is_none()
        {
            connection.closed = Some(tick);
            self.open -= 1;
            self.fresh -= usize::from(connection.is_fresh());
            unname(&mut self.by_name, &mut self.by_mark, connection);
        }
    }

    pub(super) fn forget(&mut self, id: Tick) -> Option<Connection> {
        let connection = self.all.remove(id)?;
        if connection.closed.is_none() {
            self.open -= 1;
            self.fresh -= usize::from(connection.is_fresh());
            unname(&mut self.by_name, &mut self.by_mark, &connection);
        }
        Some(connection)
    }

    /// Notes that a connection made so many requests.
    pub(super) fn asked(&mut self, id: Tick, requests: u32) -> Option<&mut Connection> {
        self.change(id, |connection| {
            connection.requests = connection.requests.saturating_add(requests);
        })
    }

    /// Notes that the server turned a connection away, which it told.
    pub(super) fn turned_away(&mut self, id: Tick) -> Option<&mut Connection> {
        self.change(id, |connection| connection.dropped = true)
    }

    /// Changes what may make it one that is not fresh any more.
    fn change(
        &mut self,
        id: Tick,
        change: impl FnOnce(&mut Connection),
    ) -> Option<&mut Connection> {
        let connection = self.all.get_mut(id)?;
        let was_fresh = connection.is_fresh();
        change(connection);
        if connection.closed.is_none() && was_fresh && !connection.is_fresh() {
            self.fresh -= 1;
        }
        Some(connection)
    }

    pub(super) fn has_fresh(&self) -> bool {
        self.fresh > 0
    }

    /// How many open connections are fresh, and how many are not.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.fresh, self.open - self.fresh)
    }

    /// Open connections, the newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Connection> {
        self.all.newest().filter(|c| c.closed.is_none())
    }

    /// Open connections, the oldest first.
    pub(super) fn oldest(&self) -> impl Iterator<Item = &Connection> {
        self.all.oldest().filter(|c| c.closed.is_none())
    }

    /// The server ended or restarted: nothing says any more whether they live.
    pub(super) fn server_changed(&mut self) {
        for connection in self.all.iter_mut().filter(|c| c.closed.is_none()) {
            connection.stale = true;
        }
        self.suspects.clear();
    }

    /// Keeps an accepted line that may be forged, until its closed line proves it.
    pub(super) fn suspect(&mut self, peer: &Endpoint<'_>, seen: Seen) {
        if self.suspects.len() >= MAX_SUSPECT {
            self.suspects.remove(0);
        }
        self.suspects.push((peer.text.as_bytes().into(), seen));
    }

    /// A closed line came for a connection whose accepted line was suspect: it was real.
    pub(super) fn confirm(&mut self, peer: &Endpoint<'_>) -> Option<Seen> {
        let at = self
            .suspects
            .iter()
            .rposition(|(name, _)| **name == *peer.text.as_bytes())?;
        Some(self.suspects.remove(at).1)
    }

    /// Whether a connection may be open that only a suspect line told of.
    pub(super) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Forgets what has been silent for so long that it cannot matter.
    pub(super) fn age(&mut self, now: Timestamp) -> Vec<Connection> {
        self.suspects.retain(|(_, seen)| {
            seen.time
                .is_some_and(|time| now.duration_since(time.at) < LIFE)
        });
        let old: Vec<Tick> = self
            .all
            .oldest()
            .filter(|c| {
                c.closed.is_none() && c.active.is_some_and(|at| now.duration_since(at) > LIFE)
            })
            .filter(|c| {
                c.stale
                    || c.rpc
                    || c.suspect_close
                    || now.duration_since(c.active.unwrap_or(now)) > LIFE * 100
            })
            .map(|c| c.accepted)
            .collect();
        old.into_iter().filter_map(|id| self.forget(id)).collect()
    }
}

fn unname(
    by_name: &mut HashMap<Text, Tick>,
    by_mark: &mut HashMap<Mark, Tick>,
    connection: &Connection,
) {
    // Its name may be another's by now.
    if let EntryRef::Occupied(entry) = by_name.entry_ref(&connection.name)
        && *entry.get() == connection.accepted
    {
        entry.remove();
    }
    if let Some(mark) = connection.mark
        && by_mark.get(&mark) == Some(&connection.accepted)
    {
        by_mark.remove(&mark);
    }
}

/// The peer of a connection to open, from either kind of accepted line.
#[derive(Clone, Copy)]
pub(super) struct Peer<'a> {
    pub(super) name: &'a str,
    pub(super) address: Option<&'a str>,
    pub(super) port: Option<u16>,
    pub(super) mark: Option<Mark>,
    pub(super) rpc: bool,
}

impl<'a> Peer<'a> {
    /// From an MS-RPC build's line; `None` is `Unknown IP`.
    pub(super) fn rpc(address: Option<&'a [u8]>) -> Self {
        Self {
            name: "",
            // What is no text is no address.
            address: address.and_then(|address| std::str::from_utf8(address).ok()),
            port: None,
            mark: None,
            rpc: true,
        }
    }
}

impl<'a> From<&Endpoint<'a>> for Peer<'a> {
    fn from(endpoint: &Endpoint<'a>) -> Self {
        Self {
            name: endpoint.text,
            address: Some(endpoint.address),
            port: Some(endpoint.port),
            mark: endpoint.mark,
            rpc: false,
        }
    }
}

/// An address as printed: the scope id apart, IPv4-mapped IPv6 made canonical.
fn address(text: &str) -> (Option<IpAddr>, Option<Text>) {
    let (text, zone) = match text.split_once('%') {
        Some((text, zone)) => (text, Some(zone)),
        None => (text, None),
    };
    match text.parse::<IpAddr>() {
        Ok(ip) => (Some(ip.to_canonical()), zone.map(Into::into)),
        Err(_) => (None, None),
    }
}

/// Whether vlmcsd's `-o2` calls an address public: IPv4 outside of the private,
/// link-local and loopback ranges, IPv6 inside of 2000::/3.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_private() || ip.is_link_local() || ip.is_loopback()),
        IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
fn seen() -> Seen {
    Seen {
        id: crate::event::EventId::NONE,
        time: None,
        time_source: crate::event::TimeSource::Read,
        pid: None,
    }
}

/// One of which nothing matters but its tick.
#[cfg(test)]
pub(super) fn a_connection(tick: Tick) -> Connection {
    let mut connections = Connections::default();
    connections.open(tick, Peer::rpc(None), seen());
    connections.forget(tick).expect("it was just opened")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_lose_their_scope_and_their_mapping() {
        let ip = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(address("::ffff:192.0.2.15"), (ip("192.0.2.15"), None));
        assert_eq!(
            address("fe80::1%eth0"),
            (ip("fe80::1"), Some("eth0".into()))
        );
        assert_eq!(address("999.0.2.15"), (None, None));
        assert_eq!(Peer::rpc(Some(b"\xff")).address, None);
    }

    proptest! {
        /// Whatever happens to connections, those that are fresh are counted.
        #[test]
        fn the_fresh_are_counted(steps in proptest::collection::vec((0..5_u8, any::<prop::sample::Index>()), 1..300)) {
            let mut connections = Connections::default();
            for (tick, (step, which)) in (1..).zip(steps) {
                let ids: Vec<Tick> = connections.all.oldest().map(|c| c.accepted).collect();
                let id = if ids.is_empty() { 0 } else { *which.get(&ids) };
                match step {
                    0 => {
                        // A port is used again, with and without a closed line.
                        let name = &format!("peer {}", tick % 20);
                        let peer = Peer { name, rpc: tick % 3 == 0, ..Peer::rpc(None) };
                        connections.open(tick, peer, seen());
                    }
                    1 => connections.close(id, tick),
                    2 => drop(connections.forget(id)),
                    3 => drop(connections.asked(id, 1)),
                    _ => drop(connections.turned_away(id)),
                }
                let open = || connections.newest();
                let fresh = open().filter(|c| c.is_fresh()).count();
                prop_assert_eq!(connections.counts(), (fresh, open().count() - fresh));
            }
        }
    }

    #[test]
    fn public_is_what_vlmcsd_calls_so() {
        for (text, public) in [
            ("10.1.2.3", false),
            ("172.31.0.1", false),
            ("172.32.0.1", true),
            ("127.0.0.1", false),
            ("203.0.113.42", true),
            ("2001:db8::1", true),
            ("fe80::1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(
                is_public(text.parse().expect("an address")),
                public,
                "{text}"
            );
        }
    }
}
