//! An assembler between two runs.
//!
//! Its parts are stored as they are; what they hold of others (events, requests,
//! which are printed in a form of their own) is described here field by field.
//! The bytes are of one version: whoever changes anything that is stored counts
//! [`VERSION`] up, and the test below says when.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Assembler;
use super::connections::Machine;
use crate::event::{
    Attribution, Dedup, Event, EventId, EventTime, Kind, Request, StatusName, Text, TimeSource,
};

/// Version of the layout of [`Assembler::save`].
pub const VERSION: u16 = 3;

impl Assembler {
    /// All of it as bytes, but for what its configuration says.
    ///
    /// # Panics
    /// Never: plain values are written without fail.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        postcard::to_stdvec(&(Machine::probe(), self)).expect("plain values are written")
    }

    /// The assembler of an earlier run, to go on in the line after its last one.
    /// None if the bytes are not those of this version.
    #[must_use]
    pub fn restore(log: Arc<str>, zone: TimeZone, bytes: &[u8]) -> Option<Self> {
        let ((probe, saved), rest) =
            postcard::take_from_bytes::<(Option<Machine>, Self)>(bytes).ok()?;
        // Machines are hashes: made by another hasher they would be others.
        (rest.is_empty() && probe == Machine::probe()).then(|| {
            let mut connections = saved.connections.restored();
            for pending in &saved.waiting.pending {
                connections.claim(&pending.candidates);
            }
            Self {
                log,
                clock: saved.clock.restored(zone),
                connections,
                blocks: saved.blocks.restored(),
                waiting: saved.waiting.restored(),
                ..saved
            }
        })
    }
}

/// A request as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Request")]
pub(super) struct StoredRequest {
    protected: bool,
    application: Option<Text>,
    product: Option<Text>,
    activation_id: Option<Uuid>,
    kms_counted_id: Option<Uuid>,
    workstation: Option<Text>,
    client_machine_id: Option<Uuid>,
    previous_client_machine_id: Option<Uuid>,
    #[serde(with = "crate::event::status_name")]
    status: Option<StatusName>,
    status_code: Option<u32>,
    protocol: Option<Text>,
    virtual_machine: Option<bool>,
    remaining_minutes: Option<i64>,
    min_clients: Option<u32>,
    client_time: Option<Text>,
}

/// The same for a field.
pub(super) mod boxed_request {
    use serde::{Deserializer, Serializer};

    use super::{Request, StoredRequest};

    pub(in crate::assembler) fn serialize<S: Serializer>(
        request: &Request,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        StoredRequest::serialize(request, serializer)
    }

    pub(in crate::assembler) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Box<Request>, D::Error> {
        StoredRequest::deserialize(deserializer).map(Box::new)
    }
}

/// An event as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Event")]
struct StoredEvent {
    v: u8,
    id: EventId,
    log: Arc<str>,
    time: Option<EventTime>,
    time_source: TimeSource,
    kind: Kind,
    connection: Option<EventId>,
    request_number: Option<u32>,
    ip: Option<IpAddr>,
    port: Option<u16>,
    zone: Option<Text>,
    source: Option<Arc<str>>,
    #[serde(with = "request")]
    request: Option<Box<Request>>,
    hresult: Option<u32>,
    reason: Option<Text>,
    epid: Option<Text>,
    active_clients: Option<u32>,
    attribution: Option<Attribution>,
    candidates: Vec<IpAddr>,
    suspect: bool,
    dedup: Option<Dedup>,
}

mod request {
    use serde::{Deserializer, Serializer};

    use super::{Deserialize, Request, Serialize, StoredRequest};

    #[derive(Serialize)]
    struct Out<'a>(#[serde(with = "StoredRequest")] &'a Request);

    #[derive(Deserialize)]
    struct In(#[serde(with = "StoredRequest")] Request);

    pub(super) fn serialize<S: Serializer>(
        request: &Option<Box<Request>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        request.as_deref().map(Out).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Box<Request>>, D::Error> {
        let request = Option::<In>::deserialize(deserializer)?;
        Ok(request.map(|In(request)| Box::new(request)))
    }
}

pub(super) mod events {
    use serde::{Deserializer, Serializer};

    use super::{Deserialize, Event, Serialize, StoredEvent};

    #[derive(Serialize)]
    struct Out<'a>(#[serde(with = "StoredEvent")] &'a Event);

    #[derive(Deserialize)]
    struct In(#[serde(with = "StoredEvent")] Event);

    pub(in crate::assembler) fn serialize<S: Serializer>(
        events: &[Event],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(events.iter().map(Out))
    }

    pub(in crate::assembler) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Event>, D::Error> {
        let events = Vec::<In>::deserialize(deserializer)?;
        Ok(events.into_iter().map(|In(event)| event).collect())
    }
}

/// A cache, its least recently used entry first.
pub(super) mod remembered {
    use std::hash::Hash;

    use lru::LruCache;
    use serde::{Deserializer, Serializer};

    use super::super::waiting::MAX_REMEMBERED;
    use super::{Deserialize, Serialize};

    pub(in crate::assembler) fn serialize<K, V, S>(
        cache: &LruCache<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error>
    where
        K: Hash + Eq + Serialize,
        V: Serialize,
        S: Serializer,
    {
        serializer.collect_seq(cache.iter().rev())
    }

    pub(in crate::assembler) fn deserialize<'de, K, V, D>(
        deserializer: D,
    ) -> Result<LruCache<K, V>, D::Error>
    where
        K: Hash + Eq + Deserialize<'de>,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let mut cache = LruCache::new(MAX_REMEMBERED);
        for (key, value) in Vec::<(K, V)>::deserialize(deserializer)? {
            cache.put(key, value);
        }
        Ok(cache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assembler::Input;
    use crate::event::IdMaker;

    /// A server's start, who is there, a request that waits for evidence and one
    /// that is being written, in a name that may go on.
    const LINES: [&str; 9] = [
        "2026-11-20 21:00:00: Listening on 0.0.0.0:1688",
        "2026-11-20 21:00:01: IPv4 connection accepted: 10.0.0.1:50001.",
        "2026-11-20 21:00:01: IPv4 connection accepted: 10.0.0.2:50002.",
        "2026-11-20 21:00:02: KMS v6.0 request from PC for Windows 10 Professional",
        "2026-11-20 21:00:02: Sending ePID (randomized at program start): 06401-00206-271",
        "2026-11-20 21:00:02: <<< Incoming KMS request",
        "2026-11-20 21:00:02: Protocol version                : 6.0",
        "2026-11-20 21:00:02: Licensing status                : 1 (Licensed)",
        "2026-11-20 21:00:02: Workstation name                : PC",
    ];

    fn assembler() -> Assembler {
        let mut assembler = Assembler::new("kms".into(), TimeZone::UTC);
        let (ids, mut events, mut offset) = (IdMaker::new(b"head"), Vec::new(), 0);
        for line in LINES {
            let input = Input {
                text: line.as_bytes(),
                raw: line.as_bytes(),
                offset,
                ids: &ids,
                stamp: None,
                yearless: None,
                pid: None,
                unwrapped: false,
                read_at: None,
            };
            assembler.handle_line(&input, &mut events);
            offset += line.len() as u64 + 1;
        }
        assembler
    }

    /// Fails when what is stored, or its layout, changes: then count up [`VERSION`].
    #[test]
    fn the_layout_of_version_3() {
        assert_eq!(VERSION, 3);
        let assembler = assembler();
        assert!(assembler.unfinished() > 0);
        let bytes = assembler.save();
        let hex: Vec<String> = bytes
            .chunks(32)
            .map(|chunk| chunk.iter().map(|b| format!("{b:02x}")).collect())
            .collect();
        insta::assert_snapshot!(hex.join("\n"));
        let restored = Assembler::restore("kms".into(), TimeZone::UTC, &bytes);
        assert_eq!(restored.map(|restored| restored.save()), Some(bytes));
    }

    #[test]
    fn bytes_of_another_layout_are_none() {
        let bytes = assembler().save();
        let restore = |bytes: &[u8]| Assembler::restore("kms".into(), TimeZone::UTC, bytes);
        assert!(restore(&bytes[..bytes.len() - 1]).is_none());
        assert!(restore(&[&bytes[..], &[0]].concat()).is_none());
        assert!(restore(&[]).is_none());
    }
}
