//! How the agreement with other sidecars fares.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{LateGauge, add, labels};
use crate::dedup_store::claims::Counts;

const GRANTED: labels::Result = labels::Result { outcome: "granted" };
const REPEAT: labels::Result = labels::Result { outcome: "repeat" };
const ALONE: labels::Result = labels::Result { outcome: "alone" };

pub(super) struct DedupStoreMetrics {
    up: LateGauge,
    claims: Family<labels::Result, Counter>,
    failures: Counter,
}

impl DedupStoreMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            up: add(
                registry,
                "kms_notifier_dedup_store_up",
                "1 while the shared dedup store answers, else 0; absent without one",
            ),
            claims: add(
                registry,
                "kms_notifier_dedup_claims",
                "Messages by what the shared dedup store said of them",
            ),
            failures: add(
                registry,
                "kms_notifier_dedup_store_failures",
                "Calls to the shared dedup store that failed",
            ),
        };
        metrics.count(Counts::default());
        metrics
    }

    pub(super) fn up(&self, up: bool) {
        self.up.set(f64::from(u8::from(up)));
    }

    pub(super) fn count(&self, new: Counts) {
        for (outcome, count) in [
            (GRANTED, new.granted),
            (REPEAT, new.repeats),
            (ALONE, new.unclaimed),
        ] {
            self.claims.get_or_create(&outcome).inc_by(count);
        }
        self.failures.inc_by(new.failures);
    }
}
