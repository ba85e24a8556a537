//! What a server counts, for Prometheus (docs/kms-core.md). No label holds text
//! from a client: all of them come from closed tables.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::catalog::Protocol;
use crate::exposition::Format;
use crate::limits;
use crate::relay::{self, Seen, Undecoded, Upstreams};
use crate::responder;

use super::{End, ProxyOutcome};

/// All counters and gauges. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    accepted: Counter,
    accept_errors: Counter,
    open: Gauge,
    closed: Family<Why, Counter>,
    /// The counter in `closed` for every well-behaved connection, found once.
    closed_by_peer: Counter,
    limited: Family<Why, Counter>,
    untracked: Counter,
    proxied: Family<Why, Counter>,
    pdus: Family<Why, Counter>,
    /// The counters in `pdus` for what nearly all PDUs are, found once.
    bound: Counter,
    answered: Counter,
    log_lost: Counter,
    sources: Gauge<u64, AtomicU64>,
    overloaded: Gauge<u64, AtomicU64>,
    relay: Option<Relay>,
}

/// What only a relay counts.
#[derive(Default)]
struct Relay {
    requests: Family<Request, Counter>,
    junk: Counter,
    undecoded: Family<Why, Counter>,
    connects: Family<Outcome, Counter>,
    up: Family<Place, Gauge>,
    upstreams: OnceLock<Upstreams>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    version: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Which upstream, counted from 1: an address is no label.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Place {
    upstream: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// What is looked up at the time of a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Lines of the log that were lost.
    pub log_lost: u64,
    /// Connections that were admitted without an entry for their source.
    pub untracked: u64,
    /// Sources that are remembered.
    pub sources: u64,
    /// Of those, on the overload table.
    pub overloaded: u64,
}

impl Default for Metrics {
    /// All zero, every label value present.
    fn default() -> Self {
        let closed = family(End::ALL.map(End::as_str));
        let pdus = family(responder::Reason::LABELS);
        let mut inner = Inner {
            registry: Registry::with_prefix("kms_core"),
            accepted: Counter::default(),
            accept_errors: Counter::default(),
            open: Gauge::default(),
            closed_by_peer: counter(&closed, End::Peer.as_str()),
            closed,
            limited: family(limits::Reason::ALL.map(limits::Reason::as_str)),
            untracked: Counter::default(),
            proxied: family(ProxyOutcome::ALL.map(ProxyOutcome::as_str)),
            bound: counter(&pdus, responder::Reason::Bound.label()),
            answered: counter(&pdus, responder::Reason::Answered.label()),
            pdus,
            log_lost: Counter::default(),
            sources: Gauge::default(),
            overloaded: Gauge::default(),
            relay: None,
        };
        inner.register();
        Self(Arc::new(inner))
    }
}

impl Metrics {
    /// With what only a relay counts.
    #[must_use]
    pub fn of_relay() -> Self {
        let mut metrics = Self::default();
        // Nobody else has a handle to what was just made.
        if let Some(inner) = Arc::get_mut(&mut metrics.0) {
            inner.relay = Some(Relay::register(&mut inner.registry));
        }
        metrics
    }
}

impl Relay {
    fn register(registry: &mut Registry) -> Self {
        let relay = Self {
            undecoded: family(Undecoded::ALL.map(Undecoded::as_str)),
            ..Self::default()
        };
        for outcome in ["ok", "failed"] {
            drop(relay.connects.get_or_create(&Outcome { outcome }));
        }
        for version in VERSIONS {
            for outcome in OUTCOMES {
                drop(relay.requests.get_or_create(&Request { version, outcome }));
            }
        }
        registry.register(
            "relay_requests",
            "Requests that passed, by version and by what the upstream did",
            relay.requests.clone(),
        );
        registry.register(
            "relay_junk",
            "Connections cut before they reached an upstream: they did not begin with a KMS bind",
            relay.junk.clone(),
        );
        registry.register(
            "relay_undecoded",
            "What passed and could not be made out, by why",
            relay.undecoded.clone(),
        );
        registry.register(
            "relay_upstream_connects",
            "Attempts to find an upstream for a connection",
            relay.connects.clone(),
        );
        registry.register(
            "relay_upstream_up",
            "Whether an upstream, by its place in the list, answered when it was last asked",
            relay.up.clone(),
        );
        relay
    }
}

const VERSIONS: [&str; 4] = ["4.0", "5.0", "6.0", "other"];
const OUTCOMES: [&str; 3] = ["answered", "refused", "fault"];

impl Inner {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "build",
            "What is running",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "connections",
            "Connections taken from the kernel, refused ones too",
            self.accepted.clone(),
        );
        registry.register(
            "connections_open",
            "Connections being served",
            self.open.clone(),
        );
        registry.register(
            "connections_closed",
            "Connections that were served and ended, by what ended them",
            self.closed.clone(),
        );
        registry.register(
            "connections_limited",
            "Connections turned away (in a dry run: that would have been), by limit",
            self.limited.clone(),
        );
        registry.register(
            "connections_untracked",
            "Connections admitted without limits of their own because the table of sources was full",
            self.untracked.clone(),
        );
        registry.register(
            "accept_errors",
            "Failures to take a connection from the kernel",
            self.accept_errors.clone(),
        );
        registry.register(
            "proxy_headers",
            "PROXY headers of listed peers, by what they were",
            self.proxied.clone(),
        );
        registry.register("pdus", "PDUs, by what became of them", self.pdus.clone());
        registry.register(
            "log_lines_lost",
            "Lines of the log that could not be written or kept, since the start",
            self.log_lost.clone(),
        );
        registry.register(
            "limit_sources",
            "Sources that the limits remember",
            self.sources.clone(),
        );
        registry.register(
            "limit_overloaded",
            "Sources on the overload table",
            self.overloaded.clone(),
        );
    }
}

/// With every value of the label there from the start.
fn family<const N: usize>(reasons: [&'static str; N]) -> Family<Why, Counter> {
    let family = Family::default();
    for reason in reasons {
        drop(family.get_or_create(&Why { reason }));
    }
    family
}

/// One of a family's counters, for what is counted too often to be looked up.
fn counter(family: &Family<Why, Counter>, reason: &'static str) -> Counter {
    family.get_or_create_owned(&Why { reason })
}

fn count(family: &Family<Why, Counter>, reason: &'static str) {
    family.get_or_create(&Why { reason }).inc();
}

impl Metrics {
    /// A PDU was dealt with.
    pub fn pdu(&self, reason: &responder::Reason) {
        match reason {
            responder::Reason::Bound => {
                self.0.bound.inc();
            }
            responder::Reason::Answered => {
                self.0.answered.inc();
            }
            other => count(&self.0.pdus, other.label()),
        }
    }

    /// Shows these upstreams with each scrape.
    pub(crate) fn relay_to(&self, upstreams: Upstreams) {
        if let Some(relay) = &self.0.relay {
            // A relay says so once, when it is made.
            let _ = relay.upstreams.set(upstreams);
        }
    }

    /// A request passed.
    pub(crate) fn relayed(&self, seen: &Seen) {
        let Some(relay) = &self.0.relay else { return };
        let [v4, v5, v6, other] = VERSIONS;
        let version = match seen.version.protocol() {
            Some(Protocol::V4) => v4,
            Some(Protocol::V5) => v5,
            Some(Protocol::V6) => v6,
            None => other,
        };
        let [answered, refused, fault] = OUTCOMES;
        let outcome = match seen.outcome {
            relay::Outcome::Answered(_) => answered,
            relay::Outcome::Refused(_) => refused,
            relay::Outcome::Fault(_) => fault,
        };
        relay
            .requests
            .get_or_create(&Request { version, outcome })
            .inc();
    }

    /// A connection was cut before it reached an upstream.
    pub(crate) fn junk(&self) {
        if let Some(relay) = &self.0.relay {
            relay.junk.inc();
        }
    }

    /// Something passed that could not be made out.
    pub(crate) fn undecoded(&self, why: Undecoded) {
        if let Some(relay) = &self.0.relay {
            count(&relay.undecoded, why.as_str());
        }
    }

    /// An upstream was, or was not, found.
    pub(crate) fn upstream_connected(&self, found: bool) {
        if let Some(relay) = &self.0.relay {
            let outcome = if found { "ok" } else { "failed" };
            relay.connects.get_or_create(&Outcome { outcome }).inc();
        }
    }

    pub(super) fn accepted(&self) {
        self.0.accepted.inc();
    }

    pub(super) fn accept_error(&self) {
        self.0.accept_errors.inc();
    }

    pub(super) fn limited(&self, reason: limits::Reason) {
        count(&self.0.limited, reason.as_str());
    }

    pub(super) fn proxied(&self, outcome: ProxyOutcome) {
        count(&self.0.proxied, outcome.as_str());
    }

    pub(super) fn opened(&self) {
        self.0.open.inc();
    }

    pub(super) fn closed(&self, end: End) {
        self.0.open.dec();
        match end {
            End::Peer => {
                self.0.closed_by_peer.inc();
            }
            other => count(&self.0.closed, other.as_str()),
        }
    }

    /// The text for a scrape.
    ///
    /// # Errors
    /// Never, as far as `prometheus-client` is concerned, which writes to memory.
    pub fn encode(&self, format: Format, snapshot: Snapshot) -> Result<String, fmt::Error> {
        let inner = &self.0;
        // Counted elsewhere; they only grow.
        for (counter, value) in [
            (&inner.log_lost, snapshot.log_lost),
            (&inner.untracked, snapshot.untracked),
        ] {
            counter.inner().store(value, Ordering::Relaxed);
        }
        inner.sources.set(snapshot.sources);
        inner.overloaded.set(snapshot.overloaded);
        let upstreams = inner.relay.as_ref().and_then(|relay| {
            let all = relay.upstreams.get()?.healthy();
            Some((relay, all))
        });
        if let Some((relay, all)) = upstreams {
            for (upstream, healthy) in (1..).zip(all) {
                let gauge = relay.up.get_or_create_owned(&Place { upstream });
                gauge.set(healthy.into());
            }
        }
        format.encode(&inner.registry)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
