//! What is counted, for Prometheus (docs/metrics.md).
//!
//! One [`Metrics`] is made at the start and its clones share the counters. The
//! hub reports events to it and each log's reader reports to its [`LogMetrics`];
//! the HTTP server asks for the text.

mod dedup_store;
mod labels;
mod reading;
mod state;
mod tally;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::dedup_store::claims::Counts;
use crate::event::{Attribution, Dedup, Event, Kind};
use crate::source::Rotation;

use dedup_store::DedupStoreMetrics;
use state::StateMetrics;

pub use kms_core::exposition::Format;
pub(crate) use labels::Build;
pub use labels::{Evicted, Outcome, Sink};
pub use reading::{Delivered, LogReading};
pub use tally::Tally;

/// Names an event's product for a label: a name of the catalogue, `protected`
/// for a relayed request, else `unknown`.
pub type ProductLabel = Box<dyn Fn(&Event) -> &'static str + Send + Sync>;

/// Upper bounds of the delivery histogram in seconds: from a webhook that
/// answers at once to one that runs into the longest time-out worth having.
const DELIVERY_BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The names that label values may take beyond the program's own tables.
pub struct Setup<'a> {
    /// Names of the logs that are read.
    pub logs: &'a [Arc<str>],
    /// Names of the source classes, `external` included.
    pub sources: &'a [Arc<str>],
    /// Every class the line classifier knows.
    pub line_classes: &'a [&'static str],
    /// How products are named.
    pub product: ProductLabel,
    /// The program's version.
    pub version: &'a str,
    /// The commit it was built from, or `unknown`.
    pub revision: &'a str,
}

/// All counters and gauges. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    product: ProductLabel,
    activations: Family<labels::Activation, Counter>,
    dedup_skipped: Family<labels::Product, Counter>,
    refusals: Family<labels::Refusal, Counter>,
    probes: Family<labels::Source, Counter>,
    dropped: Family<labels::Source, Counter>,
    last_activation: LateGauge,
    attributions: Family<labels::Attributed, Counter>,
    evictions: Family<labels::What, Counter>,
    notifications: Family<labels::Delivery, Counter>,
    outbox: Gauge<u64, AtomicU64>,
    notification_seconds: Histogram,
    dead_letters: Gauge<u64, AtomicU64>,
    state: StateMetrics,
    dedup_store: DedupStoreMetrics,
    lines: Family<labels::LogClass, Counter>,
    bytes: Family<labels::Log, Counter>,
    lag: Family<labels::Log, Gauge<u64, AtomicU64>>,
    last_line: Family<labels::Log, Gauge<f64, AtomicU64>>,
    suspect_lines: Family<labels::Log, Counter>,
    rotations: Family<labels::LogKind, Counter>,
    gaps: Family<labels::Log, Counter>,
    lost: Family<labels::Log, Counter>,
    silent: Family<labels::Log, Gauge<u64, AtomicU64>>,
}

impl Metrics {
    /// Registers all metrics, those with a known set of labels at 0.
    #[must_use]
    pub fn new(setup: Setup<'_>) -> Self {
        let mut registry = Registry::default();
        let metrics = Self(Arc::new(Inner {
            activations: add(&mut registry, "kms_activations", "Answered activations"),
            dedup_skipped: add(
                &mut registry,
                "kms_activations_dedup_skipped",
                "Activations not posted because their key was told within the window",
            ),
            refusals: add(&mut registry, "kms_refusals", "Refused requests"),
            probes: add(
                &mut registry,
                "kms_connection_probes",
                "Connections that opened and closed and asked nothing",
            ),
            dropped: add(
                &mut registry,
                "kms_connections_dropped",
                "Connections from public addresses, turned away by the server",
            ),
            last_activation: add_unit(
                &mut registry,
                "kms_last_activation_timestamp",
                "When the last activation happened",
                Unit::Seconds,
            ),
            attributions: add(
                &mut registry,
                "kms_notifier_attributions",
                "Requests by how sure it is who asked",
            ),
            evictions: add(
                &mut registry,
                "kms_notifier_evictions",
                "What a bound cut or pushed out before its time",
            ),
            notifications: add(
                &mut registry,
                "kms_notifier_notifications",
                "Attempts to deliver a message by their outcome",
            ),
            outbox: add(
                &mut registry,
                "kms_notifier_outbox_messages",
                "Messages not yet delivered",
            ),
            notification_seconds: {
                let histogram = Histogram::new(DELIVERY_BUCKETS);
                registry.register_with_unit(
                    "kms_notifier_notification",
                    "Duration of one attempt to deliver a message",
                    Unit::Seconds,
                    histogram.clone(),
                );
                histogram
            },
            dead_letters: add(
                &mut registry,
                "kms_notifier_dead_letters",
                "Messages refused for good and kept",
            ),
            state: StateMetrics::new(&mut registry),
            dedup_store: DedupStoreMetrics::new(&mut registry),
            lines: add(
                &mut registry,
                "kms_notifier_lines",
                "Log lines by what they were",
            ),
            bytes: add_unit(
                &mut registry,
                "kms_notifier",
                "Bytes of log read",
                Unit::Bytes,
            ),
            lag: add_unit(
                &mut registry,
                "kms_notifier_lag",
                "Bytes of log written and not yet read",
                Unit::Bytes,
            ),
            last_line: add_unit(
                &mut registry,
                "kms_notifier_last_line_timestamp",
                "When the last log line was read",
                Unit::Seconds,
            ),
            suspect_lines: add(
                &mut registry,
                "kms_notifier_suspect_lines",
                "Log lines that a client may have forged",
            ),
            rotations: add(
                &mut registry,
                "kms_notifier_log_rotations",
                "Rotations of the log noticed",
            ),
            gaps: add(
                &mut registry,
                "kms_notifier_log_gaps",
                "Places where lines may be missing that were written while nobody read",
            ),
            lost: add_unit(
                &mut registry,
                "kms_notifier_log_lost",
                "Bytes that were there and never became a line",
                Unit::Bytes,
            ),
            silent: add(
                &mut registry,
                "kms_notifier_log_silent",
                "1 while no line comes for as long as is configured",
            ),
            product: setup.product,
            registry: {
                registry.register(
                    "kms_slack_notifier_up",
                    "1 while it runs",
                    ConstGauge::new(1u64),
                );
                registry.register(
                    "kms_notifier_build",
                    "What is running",
                    Info::new(Build {
                        version: setup.version.to_owned(),
                        revision: setup.revision.to_owned(),
                    }),
                );
                registry
            },
        }));
        metrics.start_at_zero(setup.logs, setup.line_classes);
        metrics.sources(setup.sources);
        metrics
    }

    /// Series that exist before anything happened, so that a first increase is
    /// an increase and not the birth of a series (which `rate()` cannot see).
    fn start_at_zero(&self, logs: &[Arc<str>], line_classes: &[&'static str]) {
        let inner = &*self.0;
        for attribution in Attribution::ALL {
            drop(inner.attributions.get_or_create(&attribution.into()));
        }
        for what in Evicted::ALL {
            self.evicted(what, 0);
        }
        for sink in Sink::ALL {
            for outcome in Outcome::ALL {
                drop(inner.notifications.get_or_create(&delivery(sink, outcome)));
            }
        }
        for name in logs {
            let log = self.log(name);
            for class in line_classes {
                log.lines(class, 0);
            }
            log.bytes(0);
            log.set_lag(0);
            log.suspect_lines(0);
            log.gaps(0);
            log.lost(0);
            log.set_silent(false);
            for kind in [Rotation::Rename, Rotation::Truncate] {
                drop(inner.rotations.get_or_create(&log.kind(kind)));
            }
        }
    }

    /// Makes the series of these source classes exist, at the start and when
    /// the configuration was read again.
    pub fn sources(&self, names: &[Arc<str>]) {
        for name in names {
            let source = labels::Source {
                source: Arc::clone(name),
            };
            drop(self.0.probes.get_or_create(&source));
            drop(self.0.dropped.get_or_create(&source));
        }
    }

    /// Counts events, and says how many of them were activations of which product.
    /// One built from suspect lines counts nowhere here; its lines do in
    /// [`LogMetrics::suspect_lines`].
    pub fn observe(&self, events: &[Event]) -> Tally<&'static str> {
        let inner = &*self.0;
        let mut attributions = Tally::default();
        let mut activations = Tally::default();
        let mut repeats = Tally::default();
        let mut refusals = Tally::default();
        let mut probes = Tally::default();
        let mut dropped = Tally::default();
        let mut last_activation = None;
        for event in events.iter().filter(|event| !event.suspect) {
            if let Some(attribution) = event.attribution {
                attributions.add(attribution);
            }
            match event.kind {
                Kind::Activation => {
                    let product = (inner.product)(event);
                    let status = event.request.as_deref().and_then(|request| request.status);
                    let status = labels::status(status);
                    activations.add(labels::Activation { product, status });
                    if event.dedup == Some(Dedup::Repeat) {
                        repeats.add(product);
                    }
                    last_activation = last_activation.max(event.time.map(|time| time.at));
                }
                Kind::Refused => {
                    let product = (inner.product)(event);
                    let hresult = labels::hresult(event.hresult);
                    refusals.add(labels::Refusal { product, hresult });
                }
                Kind::Probe => probes.add(source(event)),
                Kind::Dropped => dropped.add(source(event)),
                Kind::Aborted | Kind::ServerStarted | Kind::ServerStopped => {}
            }
        }
        attributions.count(&inner.attributions, |attribution| (*attribution).into());
        activations.count(&inner.activations, Clone::clone);
        repeats.count(&inner.dedup_skipped, |product| labels::Product { product });
        refusals.count(&inner.refusals, Clone::clone);
        probes.count(&inner.probes, Clone::clone);
        dropped.count(&inner.dropped, Clone::clone);
        if let Some(at) = last_activation {
            // Another log may be further behind, or its clock may be.
            inner.last_activation.raise(seconds(at));
        }
        let mut products = Tally::default();
        for (activation, count) in activations.iter() {
            products.add_times(activation.product, *count);
        }
        products
    }

    /// The counters of one log. `name` is the log's name in the configuration,
    /// never anything read from it.
    #[must_use]
    pub fn log(&self, name: &Arc<str>) -> LogMetrics {
        LogMetrics {
            metrics: self.clone(),
            name: Arc::clone(name),
        }
    }

    /// Counts what a bound pushed out.
    pub fn evicted(&self, what: Evicted, n: u64) {
        self.0
            .evictions
            .get_or_create(&labels::What {
                what: what.as_str(),
            })
            .inc_by(n);
    }

    /// Counts one attempt to deliver a message.
    pub fn notification(&self, sink: Sink, outcome: Outcome) {
        self.0
            .notifications
            .get_or_create(&delivery(sink, outcome))
            .inc();
    }

    /// Says how many messages are not yet delivered.
    pub fn outbox(&self, messages: u64) {
        self.0.outbox.set(messages);
    }

    /// Says how many messages were refused for good and are kept.
    pub fn dead_letters(&self, messages: u64) {
        self.0.dead_letters.set(messages);
    }

    /// Says how a save of the state went: whether it is on the disk, how long
    /// that took, and how large the file is in bytes.
    pub fn state_saved(&self, written: bool, took: Duration, size: u64) {
        self.0.state.saved(written, took, size);
    }

    /// Counts a state that was unreadable and set aside.
    pub fn state_set_aside(&self, n: u64) {
        self.0.state.set_aside(n);
    }

    /// Counts activations that another sidecar told of, as it turned out after
    /// they were counted by [`Metrics::observe`].
    pub fn told_elsewhere(&self, product: &'static str, n: u64) {
        self.0
            .dedup_skipped
            .get_or_create(&labels::Product { product })
            .inc_by(n);
    }

    /// Says whether the shared dedup store answers.
    pub fn dedup_store_up(&self, up: bool) {
        self.0.dedup_store.up(up);
    }

    /// Counts what the shared dedup store was asked since the last time.
    pub fn dedup_store(&self, new: Counts) {
        self.0.dedup_store.count(new);
        self.evicted(Evicted::FinalClaim, new.forgotten);
    }

    /// Says how long one attempt to deliver a message took, from its start to
    /// its answer, error or time-out.
    pub fn notification_took(&self, duration: Duration) {
        self.0.notification_seconds.observe(duration.as_secs_f64());
    }

    /// The body of an answer to a scrape.
    ///
    /// # Errors
    /// A metric that cannot be written in this format.
    pub fn encode(&self, format: Format) -> Result<String, fmt::Error> {
        format.encode(&self.0.registry)
    }
}

/// The counters of one log; made by [`Metrics::log`].
#[derive(Clone)]
pub struct LogMetrics {
    metrics: Metrics,
    name: Arc<str>,
}

impl LogMetrics {
    fn label(&self) -> labels::Log {
        labels::Log {
            log: Arc::clone(&self.name),
        }
    }

    fn kind(&self, kind: Rotation) -> labels::LogKind {
        labels::LogKind {
            log: Arc::clone(&self.name),
            kind: labels::rotation(kind),
        }
    }

    /// Counts lines of one class.
    pub fn lines(&self, class: &'static str, n: u64) {
        let labels = labels::LogClass {
            log: Arc::clone(&self.name),
            class,
        };
        self.metrics.0.lines.get_or_create(&labels).inc_by(n);
    }

    /// Counts bytes read.
    pub fn bytes(&self, n: u64) {
        self.metrics.0.bytes.get_or_create(&self.label()).inc_by(n);
    }

    /// Says how many bytes are written and not yet read.
    pub fn set_lag(&self, bytes: u64) {
        self.metrics.0.lag.get_or_create(&self.label()).set(bytes);
    }

    /// Says when the last line was read; absent before the first.
    pub fn last_line(&self, at: Timestamp) {
        self.metrics
            .0
            .last_line
            .get_or_create(&self.label())
            .set(seconds(at));
    }

    /// Counts lines that a client may have forged.
    pub fn suspect_lines(&self, n: u64) {
        self.metrics
            .0
            .suspect_lines
            .get_or_create(&self.label())
            .inc_by(n);
    }

    /// Counts places where lines may be missing.
    pub fn gaps(&self, n: u64) {
        self.metrics.0.gaps.get_or_create(&self.label()).inc_by(n);
    }

    /// Counts bytes that a rotation took before they were read as lines.
    pub fn lost(&self, bytes: u64) {
        let lost = self.metrics.0.lost.get_or_create(&self.label());
        lost.inc_by(bytes);
    }

    /// Says whether an alert about its silence is in force.
    pub fn set_silent(&self, silent: bool) {
        self.metrics
            .0
            .silent
            .get_or_create(&self.label())
            .set(silent.into());
    }

    /// Counts a rotation.
    pub fn rotation(&self, kind: Rotation) {
        self.metrics
            .0
            .rotations
            .get_or_create(&self.kind(kind))
            .inc();
    }
}

fn delivery(sink: Sink, outcome: Outcome) -> labels::Delivery {
    labels::Delivery {
        sink: sink.as_str(),
        outcome: outcome.as_str(),
    }
}

/// The class set by the policy; a log line without an address has none.
fn source(event: &Event) -> labels::Source {
    labels::Source {
        source: event
            .source
            .clone()
            .unwrap_or_else(|| labels::UNKNOWN.into()),
    }
}

/// Seconds since 1970.
fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

fn add<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: EncodeMetric + Clone + Default + fmt::Debug + Send + Sync + 'static,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Like [`add`], for a metric whose full name ends with its unit.
fn add_unit<M>(registry: &mut Registry, name: &str, help: &str, unit: Unit) -> M
where
    M: EncodeMetric + Clone + Default + fmt::Debug + Send + Sync + 'static,
{
    let metric = M::default();
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}

/// A gauge that is not exposed before it was set once: a time of 0 would read
/// as "56 years ago" in every alert. NaN stands for unset.
#[derive(Clone, Debug)]
struct LateGauge(Gauge<f64, AtomicU64>);

impl Default for LateGauge {
    fn default() -> Self {
        let gauge = Gauge::default();
        gauge.set(f64::NAN);
        Self(gauge)
    }
}

impl LateGauge {
    fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Sets it unless it is larger. One task raises it, so nothing comes between.
    fn raise(&self, value: f64) {
        // Of a number and NaN, the number is the larger one.
        self.0.set(self.0.get().max(value));
    }
}

impl EncodeMetric for LateGauge {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }

    fn is_empty(&self) -> bool {
        self.0.get().is_nan()
    }
}

#[cfg(test)]
mod tests;
