//! Limits per source, in the manner of pf's `max-src-conn`, `max-src-conn-rate`
//! and `overload <table> flush`.
//!
//! A [`Limiter`] is asked before a connection is served and told when it is over;
//! it knows no socket and no clock. By default nothing is limited. With the
//! numbers that a KMS host on a company's network is happy with:
//!
//! ```
//! use std::time::{Duration, Instant};
//! use kms_core::limits::{Decision, Limiter, Limits, Rate, Reason};
//!
//! let limits = Limits {
//!     max_connections: Some(50),
//!     rate: Some(Rate { connections: 10, window: Duration::from_secs(60) }),
//!     allow: vec!["10.0.20.0/24".parse()?], // the nodes, which probe
//!     ..Limits::default()
//! };
//! let mut limiter = Limiter::new(limits)?;
//! let now = Instant::now();
//! let client = "192.0.2.15".parse()?;
//! for _ in 0..10 {
//!     let Decision::Admit(admission) = limiter.handle_open(client, now) else { panic!() };
//!     limiter.handle_close(admission);
//! }
//! let Decision::Refuse(refusal) = limiter.handle_open(client, now) else { panic!() };
//! assert_eq!(refusal.reason, Reason::Rate);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod table;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use table::{Entry, Table};
pub use table::{Overloaded, Report, Source};

/// The most connections that a [`Rate`] may allow: each source's are remembered.
pub const MAX_RATE: u32 = 1000;

/// The longest window and stay on the overload table: 30 days.
pub const MAX_SPAN: Duration = Duration::from_secs(30 * 86_400);

/// What is limited. Nothing, by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections of one source (pf: `max-src-conn`).
    pub max_connections: Option<u32>,
    /// New connections of one source in a sliding window (pf:
    /// `max-src-conn-rate`).
    pub rate: Option<Rate>,
    /// How long a source that went over one of the two is turned away altogether,
    /// counted from when it did (pf: `overload`, and `expire` by hand).
    pub overload_ttl: Duration,
    /// Whether the open connections of such a source are to be dropped (pf:
    /// `flush`).
    pub drop_existing: bool,
    /// Open connections of all sources together, but for those of `allow`.
    pub max_total: Option<u32>,
    /// Length of the prefix that makes IPv4 addresses one source, 0 to 32.
    pub ipv4_prefix: u8,
    /// The same for IPv6, 0 to 128: one site has a /64 at least.
    pub ipv6_prefix: u8,
    /// Sources that nothing is limited for.
    pub allow: Vec<IpNet>,
    /// Decide, count and report, but admit everybody.
    pub dry_run: bool,
    /// How many sources are remembered at once. More are admitted without limits
    /// of their own, since otherwise whoever has many addresses could lock out
    /// everybody else; `max_total` still holds.
    pub max_sources: usize,
}

/// Connections per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many are admitted, 1 to [`MAX_RATE`].
    pub connections: u32,
    /// In any window of this length.
    pub window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: None,
            rate: None,
            overload_ttl: Duration::from_secs(3600),
            drop_existing: true,
            max_total: None,
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            allow: Vec::new(),
            dry_run: false,
            max_sources: 16_384,
        }
    }
}

impl Limits {
    fn check(&self) -> Result<(), LimitsError> {
        for (given, most) in [(self.ipv4_prefix, 32), (self.ipv6_prefix, 128)] {
            if given > most {
                return Err(LimitsError::Prefix { given, most });
            }
        }
        if let Some(rate) = self.rate
            && !(1..=MAX_RATE).contains(&rate.connections)
        {
            return Err(LimitsError::Rate(rate.connections));
        }
        for span in [self.report_window(), self.overload_ttl] {
            if span.is_zero() || span > MAX_SPAN {
                return Err(LimitsError::Span(span));
            }
        }
        if [self.max_connections, self.max_total].contains(&Some(0)) || self.max_sources == 0 {
            return Err(LimitsError::Zero);
        }
        Ok(())
    }

    /// Whether anything is limited.
    fn is_any(&self) -> bool {
        self.max_connections.is_some() || self.rate.is_some() || self.max_total.is_some()
    }

    /// How long refusals are collected into one report.
    fn report_window(&self) -> Duration {
        let minute = Duration::from_secs(60);
        self.rate.map_or(minute, |rate| rate.window)
    }
}

/// Limits that cannot be. The text names the value and the fix; whoever read it
/// puts the configuration key before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// A prefix longer than addresses are.
    #[error("a prefix of {given} bits: addresses of this family have {most}")]
    Prefix {
        /// What was given.
        given: u8,
        /// 32 or 128.
        most: u8,
    },
    /// A rate of none or too many.
    #[error("{0} connections per window: use 1 to {MAX_RATE}")]
    Rate(u32),
    /// A window or a stay on the overload table that is none or without end.
    #[error("{0:?}: use more than 0 s, up to 30 days")]
    Span(Duration),
    /// A limit of nothing.
    #[error("a limit of 0 admits nobody: use 1 or more, or leave it out")]
    Zero,
}

/// Why a connection was turned away, or would have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Its source has too many open connections, and is overloaded from now on.
    Connections,
    /// Its source opened too many in the window, and is overloaded from now on.
    Rate,
    /// Its source was overloaded already.
    Overload,
    /// All sources together have too many.
    Total,
}

impl Reason {
    /// Every reason, for counters that are there from the start.
    pub const ALL: [Self; 4] = [Self::Connections, Self::Rate, Self::Overload, Self::Total];

    /// One word, fit for the log and a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Rate => "rate",
            Self::Overload => "overload",
            Self::Total => "total",
        }
    }
}

/// What to do with a new connection.
#[must_use = "an admission is given back when the connection closes"]
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Serve it.
    Admit(Admission),
    /// Close it without a word.
    Refuse(Refusal),
}

/// A connection that is served; to be given back to [`Limiter::handle_close`].
#[must_use = "an admission is given back when the connection closes"]
#[derive(Debug, PartialEq, Eq)]
pub struct Admission {
    /// Whose it is.
    pub source: Source,
    /// In a dry run: it would have been turned away.
    pub would_refuse: Option<Refusal>,
    counted: Counted,
}

/// What a connection counts for while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    /// Nothing: its source is allowed.
    Not,
    /// All sources together: the table had no room for its own.
    Together,
    /// The same, and its source.
    BySource,
}

/// A connection that is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose it is.
    pub source: Source,
    /// Why.
    pub reason: Reason,
    /// Drop the connections that this source has open.
    pub drop_existing: bool,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections admitted.
    pub admitted: u64,
    /// Turned away (or not, in a dry run): too many open.
    pub connections: u64,
    /// The same: too many new ones.
    pub rate: u64,
    /// The same: overloaded already.
    pub overload: u64,
    /// The same: too many altogether.
    pub total: u64,
    /// Admitted without limits of their own because the table was full.
    pub untracked: u64,
}

impl Counts {
    /// How many were turned away for this reason.
    #[must_use]
    pub fn refused(&self, reason: Reason) -> u64 {
        match reason {
            Reason::Connections => self.connections,
            Reason::Rate => self.rate,
            Reason::Overload => self.overload,
            Reason::Total => self.total,
        }
    }
}

/// Decides about connections, and remembers what it needs for that.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    table: Table,
    total: u32,
    counts: Counts,
}

impl Limiter {
    /// A limiter that has seen nobody yet.
    ///
    /// # Errors
    /// [`LimitsError`]
    pub fn new(limits: Limits) -> Result<Self, LimitsError> {
        limits.check()?;
        Ok(Self {
            table: Table::new(limits.max_sources, limits.report_window()),
            limits,
            total: 0,
            counts: Counts::default(),
        })
    }

    /// Goes on with other limits. What is open stays counted, for the source that it
    /// had when it came and unless that was allowed, and who is on the overload table
    /// stays on it.
    ///
    /// # Errors
    /// [`LimitsError`]; then the old limits stay.
    pub fn set_limits(&mut self, limits: Limits) -> Result<(), LimitsError> {
        limits.check()?;
        self.table
            .set_bounds(limits.max_sources, limits.report_window());
        self.limits = limits;
        Ok(())
    }

    /// Decides about a new connection. Those that are turned away count for the
    /// rate as well.
    pub fn handle_open(&mut self, address: IpAddr, now: Instant) -> Decision {
        let source = self.source(address);
        let allowed = self
            .limits
            .allow
            .iter()
            .any(|net| net.contains(&address.to_canonical()));
        if allowed {
            return self.admit(source, None, Counted::Not);
        }
        if !self.limits.is_any() {
            // There may be limits before it is closed.
            let counted = match self.table.entry(source, now, Duration::ZERO) {
                Some(entry) => {
                    entry.open();
                    Counted::BySource
                }
                None => Counted::Together,
            };
            return self.admit(source, None, counted);
        }
        let window = self.limits.rate.map_or(Duration::ZERO, |rate| rate.window);
        let Some(entry) = self.table.entry(source, now, window) else {
            self.counts.untracked += 1;
            let over = self.limits.max_total.is_some_and(|most| self.total >= most);
            return match over.then_some(Reason::Total) {
                // There is no entry to collect the report in; the counts have it.
                Some(reason) => self.turn_away(source, reason, false, Counted::Together),
                None => self.admit(source, None, Counted::Together),
            };
        };
        let verdict = judge(&self.limits, entry, self.total, now);
        let Some(reason) = verdict else {
            entry.open();
            return self.admit(source, None, Counted::BySource);
        };
        let overloads = matches!(reason, Reason::Connections | Reason::Rate);
        if overloads {
            entry.overload(reason, now, self.limits.overload_ttl);
        }
        if self.limits.dry_run {
            entry.open();
        }
        self.table.report(source, reason, now);
        let drop_existing = overloads && self.limits.drop_existing;
        self.turn_away(source, reason, drop_existing, Counted::BySource)
    }

    /// A connection that was admitted is over.
    pub fn handle_close(&mut self, admission: Admission) {
        if admission.counted != Counted::Not {
            self.total = self.total.saturating_sub(1);
        }
        if admission.counted == Counted::BySource {
            self.table.close(admission.source);
        }
    }

    /// The source that an address belongs to.
    #[must_use]
    pub fn source(&self, address: IpAddr) -> Source {
        Source::new(address, self.limits.ipv4_prefix, self.limits.ipv6_prefix)
    }

    /// When [`Limiter::poll_report`] will have something to say.
    #[must_use]
    pub fn next_report(&self) -> Option<Instant> {
        self.table.next_report()
    }

    /// The next report that is due: one per source and window in which it was
    /// turned away. Call it until there is none.
    pub fn poll_report(&mut self, now: Instant) -> Option<Report> {
        self.table.poll_report(Some(now))
    }

    /// The next report, due or not: for the end of the program.
    pub fn last_report(&mut self) -> Option<Report> {
        self.table.poll_report(None)
    }

    /// The overloaded sources, in no order.
    pub fn overloaded(&self, now: Instant) -> impl Iterator<Item = Overloaded> {
        self.table.overloaded(now)
    }

    /// Takes sources off the table that have been on it for `age` or longer, and
    /// says how many (pf: `pfctl -T expire`).
    pub fn expire(&mut self, age: Duration, now: Instant) -> usize {
        self.table.forgive(now, |_, since| since >= age)
    }

    /// Takes one source off the table, and says whether it was on it (pf:
    /// `pfctl -T delete`).
    pub fn forgive(&mut self, source: Source, now: Instant) -> bool {
        self.table.forgive(now, |on_it, _| on_it == source) > 0
    }

    /// Takes all sources off the table, and says how many (pf: `pfctl -T flush`).
    pub fn flush(&mut self, now: Instant) -> usize {
        self.table.forgive(now, |_, _| true)
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many connections are open, but for those of allowed sources.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.total
    }

    /// How many sources are remembered, and how many may be.
    #[must_use]
    pub fn sources(&self) -> (usize, usize) {
        (self.table.len(), self.limits.max_sources)
    }

    fn admit(
        &mut self,
        source: Source,
        would_refuse: Option<Refusal>,
        counted: Counted,
    ) -> Decision {
        if counted != Counted::Not {
            self.total = self.total.saturating_add(1);
        }
        self.counts.admitted += 1;
        Decision::Admit(Admission {
            source,
            would_refuse,
            counted,
        })
    }

    /// In a dry run it is admitted all the same.
    fn turn_away(
        &mut self,
        source: Source,
        reason: Reason,
        drop_existing: bool,
        counted: Counted,
    ) -> Decision {
        let count = match reason {
            Reason::Connections => &mut self.counts.connections,
            Reason::Rate => &mut self.counts.rate,
            Reason::Overload => &mut self.counts.overload,
            Reason::Total => &mut self.counts.total,
        };
        *count += 1;
        let refusal = Refusal {
            source,
            reason,
            drop_existing: drop_existing && !self.limits.dry_run,
        };
        if self.limits.dry_run {
            self.admit(source, Some(refusal), counted)
        } else {
            Decision::Refuse(refusal)
        }
    }
}

/// Whether a source's new connection goes over a limit. It counts for the rate.
fn judge(limits: &Limits, entry: &mut Entry, total: u32, now: Instant) -> Option<Reason> {
    let fast = limits
        .rate
        .is_some_and(|rate| entry.is_over_rate(rate, now));
    if entry.is_overloaded(now) {
        Some(Reason::Overload)
    } else if fast {
        Some(Reason::Rate)
    } else if limits
        .max_connections
        .is_some_and(|most| entry.connections() >= most)
    {
        Some(Reason::Connections)
    } else if limits.max_total.is_some_and(|most| total >= most) {
        Some(Reason::Total)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
