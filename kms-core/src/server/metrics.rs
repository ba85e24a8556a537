//! What a server counts, for Prometheus (docs/kms-core.md). No label holds text
//! from a client: all of them come from closed tables.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::exposition::{self, Format};
use crate::limits;
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
    limited: Family<Why, Counter>,
    untracked: Counter,
    proxied: Family<Why, Counter>,
    pdus: Family<Why, Counter>,
    log_lost: Counter,
    sources: Gauge<u64, AtomicU64>,
    overloaded: Gauge<u64, AtomicU64>,
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
        let mut inner = Inner {
            registry: Registry::with_prefix("kms_core"),
            accepted: Counter::default(),
            accept_errors: Counter::default(),
            open: Gauge::default(),
            closed: family(End::ALL.map(End::as_str)),
            limited: family(limits::Reason::ALL.map(limits::Reason::as_str)),
            untracked: Counter::default(),
            proxied: family(ProxyOutcome::ALL.map(ProxyOutcome::as_str)),
            pdus: family(responder::Reason::LABELS),
            log_lost: Counter::default(),
            sources: Gauge::default(),
            overloaded: Gauge::default(),
        };
        inner.register();
        Self(Arc::new(inner))
    }
}

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

fn count(family: &Family<Why, Counter>, reason: &'static str) {
    family.get_or_create(&Why { reason }).inc();
}

impl Metrics {
    /// A PDU was dealt with.
    pub fn pdu(&self, reason: &responder::Reason) {
        count(&self.0.pdus, reason.label());
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
        count(&self.0.closed, end.as_str());
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
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &inner.registry)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Classic => exposition::classic(&text),
        })
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
