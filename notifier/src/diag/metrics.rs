//! What `kms-diag` counts (docs/diag.md, "Metrics").

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::sink::metrics::{Build, Format};

/// Upper bounds in bytes; the last is the longest body that is taken.
const SIZES: [f64; 6] = [64.0, 256.0, 1024.0, 4096.0, 8192.0, 16384.0];

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Printed as it came, but for what was cut.
    Printed,
    /// It was JSON but no object, and was printed in one.
    Wrapped,
    /// It was not JSON; an error was printed.
    Invalid,
    /// It was larger than is taken; an error was printed.
    Oversize,
    /// It did not arrive whole, or not in time; an error was printed.
    Incomplete,
    /// Its source had sent too many; nothing was printed.
    Limited,
    /// Standard output did not keep up; nothing was printed.
    Dropped,
}

impl Outcome {
    /// Every value, for counters that are there from the start.
    pub const ALL: [Self; 7] = [
        Self::Printed,
        Self::Wrapped,
        Self::Invalid,
        Self::Oversize,
        Self::Incomplete,
        Self::Limited,
        Self::Dropped,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Printed => "printed",
            Self::Wrapped => "wrapped",
            Self::Invalid => "invalid",
            Self::Oversize => "oversize",
            Self::Incomplete => "incomplete",
            Self::Limited => "limited",
            Self::Dropped => "dropped",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

/// All counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    events: Family<Labels, Counter>,
    cuts: Counter,
    sizes: Histogram,
}

impl Metrics {
    /// Registers all metrics, every outcome at 0.
    #[must_use]
    pub fn new(version: &str, revision: &str) -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            events: Family::default(),
            cuts: Counter::default(),
            sizes: Histogram::new(SIZES),
            registry: {
                registry.register(
                    "kms_diag_build",
                    "What is running",
                    Info::new(Build {
                        version: version.to_owned(),
                        revision: revision.to_owned(),
                    }),
                );
                registry
            },
        };
        metrics.register()
    }

    fn register(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register(
            "kms_diag_events",
            "Events posted, by what became of them",
            self.events.clone(),
        );
        registry.register(
            "kms_diag_cuts",
            "Texts, keys and values of events that were cut or left out",
            self.cuts.clone(),
        );
        registry.register_with_unit(
            "kms_diag_body",
            "Size of the events that arrived whole",
            Unit::Bytes,
            self.sizes.clone(),
        );
        for outcome in Outcome::ALL {
            let labels = Labels {
                outcome: outcome.as_str(),
            };
            drop(self.events.get_or_create(&labels));
        }
        self
    }

    /// Counts an event.
    pub fn event(&self, outcome: Outcome) {
        let outcome = outcome.as_str();
        self.events.get_or_create(&Labels { outcome }).inc();
    }

    /// Counts what was cut out of an event.
    pub fn cut(&self, n: u64) {
        self.cuts.inc_by(n);
    }

    /// Notes the size of an event's body in bytes.
    pub fn size(&self, bytes: usize) {
        #[expect(clippy::cast_precision_loss, reason = "bodies are at most 16 KiB")]
        self.sizes.observe(bytes as f64);
    }

    /// The body of an answer to a scrape.
    ///
    /// # Errors
    /// A metric that cannot be written in this format.
    pub fn encode(&self, format: Format) -> Result<String, fmt::Error> {
        format.encode(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_there_from_the_start() {
        let metrics = Metrics::new("1.2.3", "abc");
        metrics.event(Outcome::Limited);
        metrics.size(64);
        metrics.cut(2);
        let text = metrics.encode(Format::Classic).unwrap();
        for outcome in Outcome::ALL {
            let count = u8::from(outcome == Outcome::Limited);
            let sample = format!(
                "kms_diag_events_total{{outcome=\"{}\"}} {count}\n",
                outcome.as_str()
            );
            assert!(text.contains(&sample), "{sample}: {text}");
        }
        for sample in [
            "kms_diag_body_bytes_bucket{le=\"64.0\"} 1\n",
            "kms_diag_cuts_total 2\n",
            "kms_diag_build_info{version=\"1.2.3\",revision=\"abc\"} 1\n",
        ] {
            assert!(text.contains(sample), "{sample}: {text}");
        }
    }
}
