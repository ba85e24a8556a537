//! Label sets, and the closed tables their values come from.
//!
//! A label value is a `&'static str` of this program, or a name from the
//! configuration. Nothing a client or a log line says becomes one, so that no
//! sender can grow the number of series or write into another team's dashboard.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;

use crate::event::Attribution;
use crate::source::Rotation;

/// What stands where the log told nothing.
pub(super) const UNKNOWN: &str = "unknown";
/// What stands for a value the table does not hold.
pub(super) const OTHER: &str = "other";

/// The licensing status names a server writes, codes 0 to 6 and what it prints
/// for any other code.
const STATUSES: [&str; 8] = [
    "Unlicensed",
    "Licensed",
    "OOB grace",
    "OOT grace",
    "Non-Genuine",
    "Notification",
    "Extended grace",
    "Unknown",
];

/// The codes a KMS host is known to refuse with.
const HRESULTS: [(u32, &str); 6] = [
    (0x8007_000D, "0x8007000D"), // invalid data
    (0xC004_F042, "0xC004F042"), // the host does not serve this product
    (0xC004_F06C, "0xC004F06C"), // the client's clock is off
    (0xC004_D104, "0xC004D104"), // the client table is full
    (0x8007_0005, "0x80070005"), // public address
    (0xC004_F041, "0xC004F041"), // the host is not activated itself
];

/// The label for a status; quiet lines have none.
pub(super) fn status(name: Option<&str>) -> &'static str {
    match name {
        None => UNKNOWN,
        Some(name) => STATUSES
            .into_iter()
            .find(|known| *known == name)
            .unwrap_or(UNKNOWN),
    }
}

/// The label for a refusal's code; some server versions print none.
pub(super) fn hresult(code: Option<u32>) -> &'static str {
    match code {
        None => UNKNOWN,
        Some(code) => HRESULTS
            .into_iter()
            .find_map(|(known, label)| (known == code).then_some(label))
            .unwrap_or(OTHER),
    }
}

/// What left a bounded store, or was cut, before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evicted {
    /// An open connection: too many, or open for longer than servers allow.
    Connection,
    /// A block of request lines that never saw its end.
    Block,
    /// An event that waited for its attribution and was settled early.
    WaitingEvent,
    /// A key of the dedup window.
    DedupKey,
    /// A line longer than `max-line`, cut.
    CutLine,
    /// A message that found the outbox full and lives on in a digest's count.
    Message,
    /// An alert of the notifier that newer ones pushed out before it was told.
    Alert,
    /// A message that was refused for good, pushed out by newer ones.
    DeadLetter,
    /// An event that may be told twice after a crash.
    KnownEvent,
    /// An unfinished request that another version had stored.
    StoredRequest,
    /// What the shared dedup store was to hear and never did.
    FinalClaim,
}

impl Evicted {
    pub(super) const ALL: [Self; 11] = [
        Self::Connection,
        Self::Block,
        Self::WaitingEvent,
        Self::DedupKey,
        Self::CutLine,
        Self::Message,
        Self::Alert,
        Self::DeadLetter,
        Self::KnownEvent,
        Self::StoredRequest,
        Self::FinalClaim,
    ];

    /// The value of the label `what`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Block => "block",
            Self::WaitingEvent => "waiting_event",
            Self::DedupKey => "dedup_key",
            Self::CutLine => "cut_line",
            Self::Message => "message",
            Self::Alert => "alert",
            Self::DeadLetter => "dead_letter",
            Self::KnownEvent => "known_event",
            Self::StoredRequest => "stored_request",
            Self::FinalClaim => "final_claim",
        }
    }
}

/// Who takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sink {
    /// The Slack webhook.
    Slack,
    /// The program's own log, where no webhook is configured.
    Log,
}

impl Sink {
    pub(super) const ALL: [Self; 2] = [Self::Slack, Self::Log];

    /// The value of the label `sink`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::Log => "log",
        }
    }
}

/// How an attempt to deliver a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The sink took it.
    Accepted,
    /// It failed for now and is tried again (429, 5xx, transport errors).
    Retried,
    /// It failed for good (another 4xx, or out of tries).
    Failed,
}

impl Outcome {
    pub(super) const ALL: [Self; 3] = [Self::Accepted, Self::Retried, Self::Failed];

    /// The value of the label `outcome`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Retried => "retried",
            Self::Failed => "failed",
        }
    }
}

pub(super) fn rotation(kind: Rotation) -> &'static str {
    match kind {
        Rotation::Rename => "rename",
        Rotation::Truncate => "truncate",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Activation {
    pub(super) product: &'static str,
    pub(super) status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Product {
    pub(super) product: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Refusal {
    pub(super) product: &'static str,
    pub(super) hresult: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Source {
    pub(super) source: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Attributed {
    pub(super) attribution: &'static str,
}

impl From<Attribution> for Attributed {
    fn from(attribution: Attribution) -> Self {
        Self {
            attribution: attribution.as_str(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Log {
    pub(super) log: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LogClass {
    pub(super) log: Arc<str>,
    pub(super) class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LogKind {
    pub(super) log: Arc<str>,
    pub(super) kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct What {
    pub(super) what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Delivery {
    pub(super) sink: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Result {
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Build {
    pub(crate) version: String,
    pub(crate) revision: String,
}
