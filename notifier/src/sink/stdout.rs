//! Events as JSON lines.
//!
//! The form is the one that `Event`'s own [`serde::Serialize`] describes. It is
//! written here by hand, field by field into one buffer, since a replay writes as
//! much as it reads; the tests hold the two to each other.

use std::io::{self, Write};

use uuid::Uuid;

use super::text::{Times, address, display, number};
use crate::event::{Event, EventId, Request};

/// So much is collected before it is written.
const ENOUGH: usize = 32 * 1024;

/// Writes one line for each event, and flushes once.
///
/// # Errors
/// Those of `out`.
pub fn print(out: &mut impl Write, events: &[Event]) -> io::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut lines = JsonLines::default();
    for event in events {
        lines.add(event);
        if lines.is_enough() {
            lines.write_to(out)?;
        }
    }
    lines.write_to(out)?;
    out.flush()
}

/// Writes one event as one line, without flushing.
///
/// # Errors
/// Those of `out`.
pub fn line(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let mut lines = JsonLines::default();
    lines.add(event);
    lines.write_to(out)
}

/// JSON lines that are collected in one buffer and written together.
///
/// JSON escapes what is below 0x20, and text from clients was cleaned of bidi
/// and other control characters when the event was made, so a line is a line.
#[derive(Debug, Default)]
pub struct JsonLines {
    bytes: Vec<u8>,
    times: Times,
}

impl JsonLines {
    /// Adds the line of an event.
    pub fn add(&mut self, event: &Event) {
        let out = &mut self.bytes;
        out.extend_from_slice(b"{\"v\":");
        number(out, event.v.into());
        id(out, b"id", event.id);
        text(out, b"log", &event.log);
        if let Some(time) = event.time {
            plain(out, b"time", self.times.show(time));
        }
        plain(out, b"time_source", event.time_source.as_str().as_bytes());
        plain(out, b"kind", event.kind.as_str().as_bytes());
        if let Some(connection) = event.connection {
            id(out, b"connection", connection);
        }
        integer(out, b"request", event.request_number);
        if let Some(ip) = event.ip {
            key(out, b"ip");
            quoted(out, |out| address(out, ip));
        }
        integer(out, b"port", event.port);
        optional(out, b"zone", event.zone.as_deref());
        optional(out, b"source", event.source.as_deref());
        if let Some(request) = &event.request {
            add_request(out, request);
        }
        if let Some(code) = event.hresult {
            key(out, b"hresult");
            quoted(out, |out| display(out, format_args!("0x{code:08X}")));
        }
        optional(out, b"reason", event.reason.as_deref());
        optional(out, b"epid", event.epid.as_deref());
        integer(out, b"active_clients", event.active_clients);
        if let Some(attribution) = event.attribution {
            plain(out, b"attribution", attribution.as_str().as_bytes());
        }
        if !event.candidates.is_empty() {
            key(out, b"candidates");
            let mut before = b'[';
            for ip in &event.candidates {
                out.push(std::mem::replace(&mut before, b','));
                quoted(out, |out| address(out, *ip));
            }
            out.push(b']');
        }
        if event.suspect {
            key(out, b"suspect");
            out.extend_from_slice(b"true");
        }
        if let Some(dedup) = event.dedup {
            plain(out, b"dedup", dedup.as_str().as_bytes());
        }
        out.extend_from_slice(b"}\n");
    }

    /// Whether it is time for [`Self::write_to`].
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.bytes.len() >= ENOUGH
    }

    /// Writes what was collected, without flushing.
    ///
    /// # Errors
    /// Those of `out`; what was collected is gone then, too.
    pub fn write_to(&mut self, out: &mut impl Write) -> io::Result<()> {
        let written = out.write_all(&self.bytes);
        self.bytes.clear();
        written
    }
}

fn add_request(out: &mut Vec<u8>, request: &Request) {
    optional(out, b"application", request.application.as_deref());
    optional(out, b"product", request.product.as_deref());
    guid(out, b"activation_id", request.activation_id);
    guid(out, b"kms_counted_id", request.kms_counted_id);
    optional(out, b"workstation", request.workstation.as_deref());
    guid(out, b"client_machine_id", request.client_machine_id);
    let previous = request.previous_client_machine_id;
    guid(out, b"previous_client_machine_id", previous);
    optional(out, b"status", request.status);
    integer(out, b"status_code", request.status_code);
    optional(out, b"protocol", request.protocol.as_deref());
    if let Some(machine) = request.virtual_machine {
        key(out, b"virtual_machine");
        out.extend_from_slice(if machine { b"true" } else { b"false" });
    }
    if let Some(minutes) = request.remaining_minutes {
        key(out, b"remaining_minutes");
        if minutes < 0 {
            out.push(b'-');
        }
        number(out, minutes.unsigned_abs());
    }
    integer(out, b"min_clients", request.min_clients);
    optional(out, b"client_time", request.client_time.as_deref());
}

/// Begins a field; there is always one before it.
#[inline]
fn key(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key);
    out.extend_from_slice(b"\":");
}

/// A value between quotes, of which nothing needs to be escaped.
#[inline]
fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

#[inline]
fn plain(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    key(out, name);
    quoted(out, |out| out.extend_from_slice(value));
}

fn text(out: &mut Vec<u8>, name: &[u8], value: &str) {
    // All at once and not up to the first: that is what processors do 16 at a time.
    let escaped = value.bytes().fold(false, |escaped, byte| {
        escaped | (byte < b' ') | (byte == b'"') | (byte == b'\\')
    });
    if escaped {
        key(out, name);
        serde_json::to_writer(out, value).expect("a list of bytes takes text");
    } else {
        plain(out, name, value.as_bytes());
    }
}

#[inline]
fn optional(out: &mut Vec<u8>, name: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        text(out, name, value);
    }
}

#[inline]
fn integer(out: &mut Vec<u8>, name: &[u8], value: Option<impl Into<u64>>) {
    if let Some(value) = value {
        key(out, name);
        number(out, value.into());
    }
}

#[inline]
fn id(out: &mut Vec<u8>, name: &[u8], id: EventId) {
    let mut hex = [0; 32];
    plain(
        out,
        name,
        Uuid::from_bytes(id.0)
            .simple()
            .encode_lower(&mut hex)
            .as_bytes(),
    );
}

#[inline]
fn guid(out: &mut Vec<u8>, name: &[u8], value: Option<Uuid>) {
    if let Some(id) = value {
        let mut hex = [0; 36];
        plain(out, name, id.hyphenated().encode_lower(&mut hex).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use jiff::Timestamp;
    use jiff::tz::Offset;
    use proptest::option::of;
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Attribution, Dedup, EventTime, Kind, Text, TimeSource};

    fn written(event: &Event) -> String {
        let mut out = Vec::new();
        line(&mut out, event).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn any_text() -> impl Strategy<Value = Text> {
        // Quotes, backslashes and controls among the rest, short and long.
        prop_oneof!["[ -~]{0,40}", any::<String>(), "[\"\\\\\n\u{1}x]{0,5}"].prop_map(Text::from)
    }

    fn any_uuid() -> impl Strategy<Value = Uuid> {
        any::<u128>().prop_map(Uuid::from_u128)
    }

    fn any_time() -> impl Strategy<Value = EventTime> {
        let seconds = -60_000_000_000_i64..250_000_000_000;
        (seconds, 0..1_000_000_000_i32, -14..=14_i32).prop_map(|(second, nano, hours)| EventTime {
            at: Timestamp::new(second, if second < 0 { 0 } else { nano }).unwrap(),
            offset: Offset::from_seconds(hours * 3600).unwrap(),
        })
    }

    prop_compose! {
        fn any_request()(
            (application, product) in (of(any_text()), of(any_text())),
            (activation_id, kms_counted_id) in (of(any_uuid()), of(any_uuid())),
            workstation in of(any_text()),
            (client_machine_id, previous_client_machine_id) in (of(any_uuid()), of(any_uuid())),
            status in of(Just("OOB grace")),
            status_code: Option<u32>,
            (protocol, client_time) in (of(any_text()), of(any_text())),
            virtual_machine: Option<bool>,
            remaining_minutes: Option<i64>,
            min_clients: Option<u32>,
            protected: bool,
        ) -> Request {
            Request {
                protected, application, product, activation_id, kms_counted_id, workstation,
                client_machine_id, previous_client_machine_id, status, status_code, protocol,
                virtual_machine, remaining_minutes, min_clients, client_time,
            }
        }
    }

    prop_compose! {
        fn any_event()(
            (id, connection) in (any::<[u8; 16]>(), any::<Option<[u8; 16]>>()),
            log in any_text(),
            time in of(any_time()),
            time_source in prop::sample::select(vec![TimeSource::Server, TimeSource::Container, TimeSource::Read]),
            kind in prop::sample::select(vec![
                Kind::Activation, Kind::Refused, Kind::Dropped, Kind::Probe, Kind::Aborted,
                Kind::ServerStarted, Kind::ServerStopped,
            ]),
            (request_number, hresult, active_clients) in any::<(Option<u32>, Option<u32>, Option<u32>)>(),
            (ip, candidates) in (any::<Option<IpAddr>>(), prop::collection::vec(any::<IpAddr>(), 0..4)),
            port: Option<u16>,
            (zone, reason, epid) in (of(any_text()), of(any_text()), of(any_text())),
            source in of(any_text()),
            request in of(any_request()),
            attribution in of(prop::sample::select(Attribution::ALL.to_vec())),
            dedup in of(prop::sample::select(vec![Dedup::Post, Dedup::Repeat, Dedup::Pending, Dedup::Off])),
            suspect: bool,
        ) -> Event {
            Event {
                time_source, connection: connection.map(EventId), request_number, ip, port, zone,
                source: source.map(|source| source.as_str().into()), request: request.map(Box::new),
                hresult, reason, epid, active_clients, attribution, candidates, suspect, dedup,
                ..Event::new(EventId(id), log.as_str().into(), time, kind)
            }
        }
    }

    proptest! {
        #[test]
        fn a_line_is_what_the_event_describes(event in any_event()) {
            let described = serde_json::to_string(&event).unwrap();
            prop_assert_eq!(written(&event), described + "\n");
        }
    }

    #[test]
    fn lines_are_collected_and_written_once() {
        let event = Event::new(EventId::NONE, "kms".into(), None, Kind::ServerStarted);
        let mut lines = JsonLines::default();
        while !lines.is_enough() {
            lines.add(&event);
        }
        let mut out = Vec::new();
        lines.write_to(&mut out).unwrap();
        assert!(out.len() >= ENOUGH && out.ends_with(b"}\n"));
        lines.write_to(&mut out).unwrap();
        let count = out.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(out, written(&event).as_bytes().repeat(count));
    }
}
