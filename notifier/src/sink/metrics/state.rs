//! How the durable state fares.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{LateGauge, add, add_unit, labels};

/// Upper bounds in seconds: from a cache to a disk in trouble.
const BUCKETS: [f64; 8] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];

const SAVED: labels::Result = labels::Result { outcome: "saved" };
const FAILED: labels::Result = labels::Result { outcome: "failed" };

pub(super) struct StateMetrics {
    up: LateGauge,
    saves: Family<labels::Result, Counter>,
    seconds: Histogram,
    size: Gauge<u64, AtomicU64>,
    set_aside: Counter,
}

impl StateMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            up: add(
                registry,
                "kms_notifier_state_up",
                "1 while the state is saved, 0 while it cannot be; absent without one",
            ),
            saves: add(
                registry,
                "kms_notifier_state_saves",
                "Saves of the state by their outcome",
            ),
            seconds: {
                let histogram = Histogram::new(BUCKETS);
                registry.register_with_unit(
                    "kms_notifier_state_save",
                    "Duration of one save of the state, to the disk",
                    Unit::Seconds,
                    histogram.clone(),
                );
                histogram
            },
            size: add_unit(
                registry,
                "kms_notifier_state_size",
                "Size of the state's file",
                Unit::Bytes,
            ),
            set_aside: add(
                registry,
                "kms_notifier_state_set_aside",
                "States that were unreadable and were set aside",
            ),
        };
        drop(metrics.saves.get_or_create(&SAVED));
        drop(metrics.saves.get_or_create(&FAILED));
        metrics
    }

    pub(super) fn saved(&self, written: bool, took: Duration, size: u64) {
        self.up.set(f64::from(u8::from(written)));
        let outcome = if written { &SAVED } else { &FAILED };
        self.saves.get_or_create(outcome).inc();
        if written {
            self.seconds.observe(took.as_secs_f64());
            self.size.set(size);
        }
    }

    pub(super) fn set_aside(&self, n: u64) {
        self.set_aside.inc_by(n);
    }
}
