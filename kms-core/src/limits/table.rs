//! What is remembered of sources, within a bound.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::{Rate, Reason};

/// While the table is full, how often it is searched for what can be forgotten:
/// a search looks at every source.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Whoever counts as one: an address or a prefix. An IPv4-mapped IPv6 address is
/// the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpNet);

impl Source {
    pub(super) fn new(address: IpAddr, ipv4_prefix: u8, ipv6_prefix: u8) -> Self {
        let address = address.to_canonical();
        let prefix = match address {
            IpAddr::V4(_) => ipv4_prefix,
            IpAddr::V6(_) => ipv6_prefix,
        };
        // Both lengths were checked; the whole address would do no harm.
        let net = IpNet::new(address, prefix).unwrap_or(IpNet::from(address));
        Self(net.trunc())
    }

    /// As a network.
    #[must_use]
    pub fn network(&self) -> IpNet {
        self.0
    }
}

impl fmt::Display for Source {
    /// `192.0.2.15`, or `2001:db8::/64` where it is more than one address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

/// A source that is turned away for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overloaded {
    /// Who.
    pub source: Source,
    /// Which limit it went over.
    pub reason: Reason,
    /// For how long already.
    pub age: Duration,
    /// For how long still.
    pub left: Duration,
    /// How many connections it has open.
    pub connections: u32,
}

/// How often a source was turned away in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who.
    pub source: Source,
    /// Why at first.
    pub reason: Reason,
    /// How often, for any reason.
    pub count: u64,
}

/// What is remembered of one source.
#[derive(Debug, Default)]
pub(super) struct Entry {
    connections: u32,
    /// When the last ones were opened, oldest first; at most one more than the
    /// rate allows.
    opened: VecDeque<Instant>,
    overload: Option<Overload>,
    /// What its next report will say.
    refused: Option<(Reason, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Overload {
    reason: Reason,
    since: Instant,
    until: Instant,
}

impl Entry {
    pub(super) fn open(&mut self) {
        self.connections += 1;
    }

    pub(super) fn connections(&self) -> u32 {
        self.connections
    }

    /// Counts a new connection: whether it is one more than the rate allows.
    pub(super) fn is_over_rate(&mut self, rate: Rate, now: Instant) -> bool {
        self.forget_before(now, rate.window);
        // One more than allowed is enough to know; its time is the newest.
        let most = usize::try_from(rate.connections).unwrap_or(usize::MAX);
        if self.opened.len() > most {
            self.opened.pop_front();
        }
        self.opened.push_back(now);
        self.opened.len() > most
    }

    fn forget_before(&mut self, now: Instant, window: Duration) {
        let old = |opened: &Instant| now.saturating_duration_since(*opened) >= window;
        while self.opened.front().is_some_and(old) {
            self.opened.pop_front();
        }
    }

    pub(super) fn overload(&mut self, reason: Reason, now: Instant, ttl: Duration) {
        self.overload = Some(Overload {
            reason,
            since: now,
            until: now + ttl,
        });
    }

    pub(super) fn is_overloaded(&self, now: Instant) -> bool {
        self.overload.is_some_and(|overload| now < overload.until)
    }

    /// Nothing is in it.
    fn is_blank(&self) -> bool {
        self.connections == 0
            && self.opened.is_empty()
            && self.refused.is_none()
            && self.overload.is_none()
    }

    /// Nothing in it would decide anything.
    fn is_idle(&mut self, now: Instant, window: Duration) -> bool {
        self.forget_before(now, window);
        self.connections == 0
            && self.opened.is_empty()
            && self.refused.is_none()
            && !self.is_overloaded(now)
    }
}

/// All sources, and the reports that wait for their window to end.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<Source, Entry>,
    max: usize,
    report_window: Duration,
    /// One per source with refusals to report, by time.
    due: VecDeque<(Instant, Source)>,
    last_sweep: Option<Instant>,
}

impl Table {
    pub(super) fn new(max: usize, report_window: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            max,
            report_window,
            due: VecDeque::new(),
            last_sweep: None,
        }
    }

    pub(super) fn set_bounds(&mut self, max: usize, report_window: Duration) {
        self.max = max;
        self.report_window = report_window;
    }

    /// The source's entry, a new one if there is room for it.
    pub(super) fn entry(
        &mut self,
        source: Source,
        now: Instant,
        window: Duration,
    ) -> Option<&mut Entry> {
        if self.entries.len() >= self.max && !self.entries.contains_key(&source) {
            self.sweep(now, window);
            if self.entries.len() >= self.max {
                return None;
            }
        }
        Some(self.entries.entry(source).or_default())
    }

    /// A connection of the source is over. Where nothing else is known of it, it is
    /// forgotten.
    pub(super) fn close(&mut self, source: Source) {
        let Some(entry) = self.entries.get_mut(&source) else {
            return;
        };
        entry.connections = entry.connections.saturating_sub(1);
        if entry.is_blank() {
            self.entries.remove(&source);
        }
    }

    /// Notes a refusal of a source that has an entry.
    pub(super) fn report(&mut self, source: Source, reason: Reason, now: Instant) {
        let Some(entry) = self.entries.get_mut(&source) else {
            return;
        };
        match &mut entry.refused {
            Some((_, count)) => *count += 1,
            None => {
                entry.refused = Some((reason, 1));
                self.due.push_back((now + self.report_window, source));
            }
        }
    }

    pub(super) fn next_report(&self) -> Option<Instant> {
        self.due.front().map(|(due, _)| *due)
    }

    /// The next report that is due by `now`, or at all.
    pub(super) fn poll_report(&mut self, now: Option<Instant>) -> Option<Report> {
        let (due, source) = *self.due.front()?;
        if now.is_some_and(|now| now < due) {
            return None;
        }
        self.due.pop_front();
        let (reason, count) = self.entries.get_mut(&source)?.refused.take()?;
        Some(Report {
            source,
            reason,
            count,
        })
    }

    pub(super) fn overloaded(&self, now: Instant) -> impl Iterator<Item = Overloaded> {
        self.entries.iter().filter_map(move |(source, entry)| {
            let overload = entry.overload.filter(|_| entry.is_overloaded(now))?;
            Some(Overloaded {
                source: *source,
                reason: overload.reason,
                age: now.saturating_duration_since(overload.since),
                left: overload.until.saturating_duration_since(now),
                connections: entry.connections,
            })
        })
    }

    /// Takes those sources off the overload table that `whom` picks by name and
    /// age, and gives them a fresh start.
    pub(super) fn forgive(
        &mut self,
        now: Instant,
        whom: impl Fn(Source, Duration) -> bool,
    ) -> usize {
        let mut forgiven = 0;
        for (source, entry) in &mut self.entries {
            let Some(overload) = entry.overload.filter(|_| entry.is_overloaded(now)) else {
                continue;
            };
            if whom(*source, now.saturating_duration_since(overload.since)) {
                entry.overload = None;
                entry.opened.clear();
                forgiven += 1;
            }
        }
        forgiven
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets whoever does not matter any more, at most once in a while.
    fn sweep(&mut self, now: Instant, window: Duration) {
        let too_soon = |last| now.saturating_duration_since(last) < SWEEP_PAUSE;
        if self.last_sweep.is_some_and(too_soon) {
            return;
        }
        self.last_sweep = Some(now);
        self.entries.retain(|_, entry| !entry.is_idle(now, window));
    }
}
