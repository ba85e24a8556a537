//! What happened, as one value: the same type from the assembler to every sink.
//!
//! Events own their data; a [`crate::line::Line`] borrows. That boundary is the
//! one copy a log line's text makes on its way through the house.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};
use sha2::Digest;
use uuid::Uuid;

/// Text of an event: up to 23 bytes in place, more of it shared, so that a copy
/// costs next to nothing.
pub type Text = smol_str::SmolStr;

/// The version of the event format; adding fields does not change it.
pub const VERSION: u8 = 1;

/// What an event or a connection is called: the first 128 bits of SHA-256 over
/// the file's first complete line, the offset of the event's own first line and
/// that line's bytes. Reading the same bytes again gives the same id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub [u8; 16]);

impl EventId {
    /// The id of no event.
    pub const NONE: Self = Self([0; 16]);
}

/// Makes the ids of one file: the hash of its head is taken once.
#[derive(Clone, Debug)]
pub struct IdMaker(Option<sha2::Sha256>);

impl IdMaker {
    /// For a file whose first complete line (without LF) is `head`.
    #[must_use]
    pub fn new(head: &[u8]) -> Self {
        let mut hash = sha2::Sha256::new();
        // The length first, so that head and line cannot trade bytes.
        hash.update((head.len() as u64).to_le_bytes());
        hash.update(head);
        Self(Some(hash))
    }

    /// For a reader whose events are not called by name: every id is
    /// [`EventId::NONE`], and nothing is hashed.
    #[must_use]
    pub fn nameless() -> Self {
        Self(None)
    }

    /// The id of the line (without LF) whose first byte is at `offset` in the file.
    #[must_use]
    pub fn id(&self, offset: u64, line: &[u8]) -> EventId {
        let Some(mut hash) = self.0.clone() else {
            return EventId::NONE;
        };
        hash.update(offset.to_le_bytes());
        hash.update(line);
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(digest.first_chunk::<16>().expect("32 bytes hold 16"));
        EventId(id)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// Text for people, bytes for the state.
impl Serialize for EventId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return Deserialize::deserialize(deserializer).map(Self);
        }
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        if text.len() != 32 {
            return Err(serde::de::Error::custom("an event id has 32 hex digits"));
        }
        u128::from_str_radix(&text, 16)
            .map(|n| Self(n.to_be_bytes()))
            .map_err(serde::de::Error::custom)
    }
}

/// A moment and the offset it was written in, shown as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// The moment.
    pub at: Timestamp,
    /// The offset from UTC in which it was stamped.
    pub offset: Offset,
}

impl EventTime {
    /// A moment shown in UTC.
    #[must_use]
    pub fn utc(at: Timestamp) -> Self {
        Self {
            at,
            offset: Offset::UTC,
        }
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.at.display_with_offset(self.offset))
    }
}

impl Serialize for EventTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            let at = (self.at.as_second(), self.at.subsec_nanosecond());
            (at, self.offset.seconds()).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for EventTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            let ((second, nanosecond), offset) = Deserialize::deserialize(deserializer)?;
            let at = Timestamp::new(second, nanosecond).map_err(serde::de::Error::custom)?;
            let offset = Offset::from_seconds(offset).map_err(serde::de::Error::custom)?;
            return Ok(Self { at, offset });
        }
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let pieces = jiff::fmt::temporal::DateTimeParser::new()
            .parse_pieces(text.as_bytes())
            .map_err(serde::de::Error::custom)?;
        let offset = pieces
            .to_numeric_offset()
            .ok_or_else(|| serde::de::Error::custom("a time needs an offset"))?;
        let at = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self { at, offset })
    }
}

/// Where an event's time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeSource {
    /// The server's own stamp, read in the configured time zone.
    Server,
    /// The container runtime's stamp, or RFC 5424's.
    Container,
    /// The line had no stamp: when it was read (absent in a replay).
    Read,
}

impl TimeSource {
    /// The name used in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Container => "container",
            Self::Read => "read",
        }
    }
}

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A request that was answered.
    Activation,
    /// A request that was turned down.
    Refused,
    /// A connection from a public address, turned away by `-o2`.
    Dropped,
    /// A connection that opened and closed and asked nothing.
    Probe,
    /// A request that was begun and not answered before its connection or the server ended.
    Aborted,
    /// The server started.
    ServerStarted,
    /// The server said that it was shut down.
    ServerStopped,
}

impl Kind {
    /// The name used in events and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Activation => "activation",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Probe => "probe",
            Self::Aborted => "aborted",
            Self::ServerStarted => "server_started",
            Self::ServerStopped => "server_stopped",
        }
    }

    /// Whether a client's request is behind it.
    #[must_use]
    pub fn is_request(self) -> bool {
        matches!(self, Self::Activation | Self::Refused | Self::Aborted)
    }
}

/// How sure it is who asked (docs/events.md, "Attribution").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribution {
    /// A mark or PID names the connection, or only one can be open.
    Exact,
    /// The evidence leaves one address.
    Inferred,
    /// More than one address is left; see the candidates.
    Ambiguous,
    /// No address is known.
    Unknown,
}

impl Attribution {
    /// Every value, for metrics that are present from the start.
    pub const ALL: [Self; 4] = [Self::Exact, Self::Inferred, Self::Ambiguous, Self::Unknown];

    /// The name used in events and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Inferred => "inferred",
            Self::Ambiguous => "ambiguous",
            Self::Unknown => "unknown",
        }
    }
}

/// What the dedup window made of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dedup {
    /// A message is made for it.
    Post,
    /// Its key was told within the window.
    Repeat,
    /// It joined a message that is under way.
    Pending,
    /// Events like it are not posted.
    Off,
}

impl Dedup {
    /// The name used in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "post",
            Self::Repeat => "repeat",
            Self::Pending => "pending",
            Self::Off => "off",
        }
    }
}

/// What a client asked, as the server logged it. Text is cleaned of control and
/// bidi characters and bounded; names the server did not know are resolved from
/// the catalogue.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Request {
    /// The relay could not look inside, so nothing below but the protocol is known.
    #[serde(skip)]
    pub protected: bool,
    /// Product family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<Text>,
    /// Edition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<Text>,
    /// SKU, the exact edition (kms-wire.md 3.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation_id: Option<Uuid>,
    /// The product class the host grants or refuses by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_counted_id: Option<Uuid>,
    /// The name the client gave itself. Client-controlled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workstation: Option<Text>,
    /// CMID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_machine_id: Option<Uuid>,
    /// The CMID before it changed; absent where it never did (all zeros).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_client_machine_id: Option<Uuid>,
    /// Licensing status before the request, a closed set of names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'static str>,
    /// The status as a number; any value is possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u32>,
    /// Protocol version, `major.minor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Text>,
    /// Whether the client says that it is a virtual machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_machine: Option<bool>,
    /// Minutes until the status ends; 0 is never; printed signed by the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_minutes: Option<i64>,
    /// The N count policy: how many clients the product wants to see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_clients: Option<u32>,
    /// The client's own clock, UTC, as logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_time: Option<Text>,
}

/// One thing that happened (docs/events.md).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// [`VERSION`].
    pub v: u8,
    /// Stable name of this event.
    pub id: EventId,
    /// Name of the log it was read from.
    pub log: Arc<str>,
    /// When it happened; absent in a replay of a log without stamps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<EventTime>,
    /// What `time` was read from.
    pub time_source: TimeSource,
    /// What happened.
    pub kind: Kind,
    /// Id of the connection's accepted line; absent where ambiguous.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<EventId>,
    /// 1, 2, … on that connection; absent where ambiguous.
    #[serde(rename = "request", skip_serializing_if = "Option::is_none")]
    pub request_number: Option<u32>,
    /// The client's address, IPv4-mapped ones made canonical.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The client's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// IPv6 scope id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Text>,
    /// Source class of `ip`; set by the policy, not by the assembler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Arc<str>>,
    /// What was asked; requests only.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<Request>>,
    /// `0x` and eight upper-case digits; refusals only.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hresult")]
    pub hresult: Option<u32>,
    /// The words of the log; refusals only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// The host's extended PID; activations only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epid: Option<Text>,
    /// How many clients the host counts; verbose activations only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_clients: Option<u32>,
    /// How sure `ip` is; requests only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribution: Option<Attribution>,
    /// Where ambiguous: every address it may have been, most likely first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<IpAddr>,
    /// Built from lines that a client may have forged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub suspect: bool,
    /// What the dedup window made of it; activations only, set by the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedup: Option<Dedup>,
}

fn hresult<S: serde::Serializer>(code: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
    match code {
        Some(code) => serializer.collect_str(&format_args!("0x{code:08X}")),
        None => serializer.serialize_none(),
    }
}

impl Event {
    /// An event stamped by its server of which nothing more is known: everything
    /// else is absent.
    #[must_use]
    pub fn new(id: EventId, log: Arc<str>, time: Option<EventTime>, kind: Kind) -> Self {
        Self {
            v: VERSION,
            id,
            log,
            time,
            time_source: TimeSource::Server,
            kind,
            connection: None,
            request_number: None,
            ip: None,
            port: None,
            zone: None,
            source: None,
            request: None,
            hresult: None,
            reason: None,
            epid: None,
            active_clients: None,
            attribution: None,
            candidates: Vec::new(),
            suspect: false,
            dedup: None,
        }
    }

    /// The product's name; a relayed request shows none.
    #[must_use]
    pub fn product(&self) -> Option<&str> {
        self.request.as_deref()?.product.as_deref()
    }

    /// The product as a metrics label: a name that the catalogue knows for its id,
    /// or one for what a relay could not see. None for all others.
    #[must_use]
    pub fn product_label(&self) -> Option<&'static str> {
        let request = self.request.as_deref()?;
        if request.protected {
            return Some("protected");
        }
        kms_core::catalog::label(request.product.as_deref(), request.activation_id)
    }
}

/// The name of a licensing status, one of a closed set.
pub type StatusName = &'static str;

/// A status' name where it is stored: one of the closed set, or `Unknown`.
pub(crate) mod status_name {
    use std::borrow::Cow;

    use kms_core::license::Status;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        status: &Option<&'static str>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        status.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<&'static str>, D::Error> {
        let name = Option::<Cow<'de, str>>::deserialize(deserializer)?;
        Ok(name.map(|name| {
            Status::ALL
                .into_iter()
                .find(|status| status.name() == name)
                .unwrap_or(Status::Unknown)
                .name()
        }))
    }
}
