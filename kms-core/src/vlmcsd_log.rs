//! The log, in vlmcsd's words (svn1113), so that whatever reads vlmcsd's log
//! reads this one.
//!
//! A [`LogWriter`] appends lines to a buffer and does nothing else. What belongs
//! together (a request and its response) goes into one buffer and so into one
//! write: blocks of two connections never interleave. All text that a client or a
//! configuration had a hand in is cleaned ([`crate::text::clean`]), so no name
//! adds a line or ends one early.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;

use jiff::civil::DateTime;
use uuid::Uuid;

use crate::catalog::{self, Group};
use crate::hresult::HResult;
use crate::message::{
    BaseRequest, BaseResponse, MAX_EPID_UNITS, MessageError, NAME_UNITS, Version,
};
use crate::responder::{Exchange, MAX_CLIENTS, MAX_MIN_CLIENTS, Refusal, Verdict};
use crate::text;

/// What is printed for an id that the catalogue does not know.
pub const UNKNOWN: &str = "Unknown";

/// In quiet lines a workstation name has at most this many bytes of UTF-8.
const QUIET_NAME_BYTES: usize = 64;

/// Longest free text of an operator, in characters: a path, a version.
const FREE_TEXT: usize = 256;
/// Longest name of an interface, in characters; Linux has 15 at most.
const ZONE: usize = 32;

/// How much a request says (vlmcsd's `-v` and `-q`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// One line for a request and one for its response.
    #[default]
    Quiet,
    /// A block of all fields for each.
    Verbose,
}

/// What a server calls a request's ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    /// Of the application.
    pub application: &'a str,
    /// Of the activation id.
    pub product: &'a str,
    /// Of the KMS-counted id.
    pub kms_counted: &'a str,
}

/// What an upstream did with a relayed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// It sent data.
    Answered,
    /// It refused.
    Refused(HResult),
}

/// A peer as its lines name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer<'a> {
    /// Its address.
    pub address: SocketAddr,
    /// The interface that the zone of its IPv6 address is; without a name the zone is
    /// written as its number.
    pub zone: Option<&'a str>,
}

impl From<SocketAddr> for Peer<'_> {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            zone: None,
        }
    }
}

impl fmt::Display for Peer<'_> {
    /// `192.0.2.15:49731`, `[2001:db8::5]:49731`, `[fe80::5%eth0]:49731`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.zone) {
            (SocketAddr::V6(v6), Some(zone)) if v6.scope_id() != 0 => {
                let zone = text::clean(zone.as_bytes(), ZONE);
                write!(f, "[{}%{zone}]:{}", v6.ip(), v6.port())
            }
            (address, _) => address.fmt(f),
        }
    }
}

/// Appends log lines to a buffer.
///
/// ```
/// use kms_core::vlmcsd_log::LogWriter;
///
/// let mut out = Vec::new();
/// let stamp = jiff::civil::date(2026, 3, 14).at(9, 26, 53, 0);
/// let peer: std::net::SocketAddr = "[2001:db8::5]:49731".parse()?;
/// LogWriter::new(&mut out, Some(stamp)).accepted(peer);
/// LogWriter::new(&mut out, None).connection(17).closed(peer);
/// assert_eq!(
///     String::from_utf8_lossy(&out),
///     "2026-03-14 09:26:53: IPv6 connection accepted: [2001:db8::5]:49731.\n\
///      IPv6 connection closed: [2001:db8::5]:49731. [c=17]\n",
/// );
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug)]
pub struct LogWriter<'a> {
    out: &'a mut Vec<u8>,
    stamp: Option<DateTime>,
    connection: Option<u64>,
}

impl<'a> LogWriter<'a> {
    /// Lines that begin with this local time, or with no time at all (`-T0`).
    pub fn new(out: &'a mut Vec<u8>, stamp: Option<DateTime>) -> Self {
        Self {
            out,
            stamp,
            connection: None,
        }
    }

    /// Marks the connection's lines, both block markers and both quiet lines with its
    /// number: ` [c=17]`. vlmcsd has no such marks.
    #[must_use]
    pub fn connection(mut self, number: u64) -> Self {
        self.connection = Some(number);
        self
    }

    /// `Listening on [::]:1688`
    pub fn listening(&mut self, local: SocketAddr) {
        self.line(format_args!("Listening on {local}"));
    }

    /// `PROGRAM started successfully`; vlmcsd's program is
    /// `vlmcsd svn1113, built 2020-03-30 10:00:00 UTC`.
    pub fn started(&mut self, program: &str) {
        let program = text::clean(program.as_bytes(), FREE_TEXT);
        self.line(format_args!("{program} started successfully"));
    }

    /// `PROGRAM was shutdown`
    pub fn stopped(&mut self, program: &str) {
        let program = text::clean(program.as_bytes(), FREE_TEXT);
        self.line(format_args!("{program} was shutdown"));
    }

    /// `IPv4 connection accepted: 192.0.2.15:49731.`
    pub fn accepted<'p>(&mut self, peer: impl Into<Peer<'p>>) {
        self.peer("accepted", peer.into());
    }

    /// `IPv4 connection closed: 192.0.2.15:49731.`
    pub fn closed<'p>(&mut self, peer: impl Into<Peer<'p>>) {
        self.peer("closed", peer.into());
    }

    /// `Client with public IP address rejected`, between accepted and closed.
    pub fn public_rejected(&mut self) {
        self.line(format_args!("Client with public IP address rejected"));
    }

    /// A request and what became of it. What could not be read leaves one line or
    /// none, as in vlmcsd.
    ///
    /// `epid_source` says where the extended PID is from: `vlmcsd default`,
    /// `command line`, a path.
    pub fn exchange(&mut self, exchange: &Exchange, detail: Detail, epid_source: &str) {
        if let Some(request) = &exchange.request {
            self.asked(request, detail);
        }
        match &exchange.verdict {
            Verdict::Answered {
                response,
                hardware_id,
            } => match detail {
                Detail::Quiet => self.quiet_response(response, epid_source),
                Detail::Verbose => self.response(response, *hardware_id, epid_source),
            },
            Verdict::Refused(refusal) => self.refusal(refusal),
        }
    }

    /// The block of a request.
    pub fn request(&mut self, request: &BaseRequest, names: &Names<'_>) {
        let virtual_machine = match request.virtual_machine {
            0 => "No",
            _ => "Yes",
        };
        // vlmcsd prints the 32 bits as a signed number.
        let remaining = request.remaining_minutes.cast_signed();
        let status = (request.license_status, request.status());
        self.marker(format_args!("<<< Incoming KMS request"));
        self.field("Protocol version", request.version);
        self.field("Client is a virtual machine", virtual_machine);
        self.field(
            "Licensing status",
            format_args!("{} ({})", status.0, status.1),
        );
        self.field(
            "Remaining time (0 = forever)",
            format_args!("{remaining} minutes"),
        );
        self.id("Application ID", request.application_id, names.application);
        self.id(
            "SKU ID (aka Activation ID)",
            request.activation_id,
            names.product,
        );
        self.id(
            "KMS ID (aka KMS counted ID)",
            request.kms_counted_id,
            names.kms_counted,
        );
        self.field("Client machine ID", request.client_machine_id);
        self.field(
            "Previous client machine ID",
            request.previous_client_machine_id,
        );
        self.field("Client request timestamp (UTC)", request.client_time);
        let mut room = [0; NAME_UNITS];
        let name = request.workstation.cleaned_in(&mut room);
        self.field("Workstation name", name);
        self.field("N count policy (minimum clients)", request.min_clients);
    }

    /// The block of a response; V6 has a hardware id.
    pub fn response(
        &mut self,
        response: &BaseResponse,
        hardware_id: Option<[u8; 8]>,
        epid_source: &str,
    ) {
        let source = text::clean(epid_source.as_bytes(), FREE_TEXT);
        self.marker(format_args!(">>> Sending response, ePID source = {source}"));
        self.field("Protocol version", response.version);
        let mut room = [0; MAX_EPID_UNITS];
        let epid = text::clean_utf16(response.epid.units(), &mut room);
        self.field("KMS host extended PID", epid);
        if let Some(id) = hardware_id {
            let id = u64::from_be_bytes(id);
            self.field("KMS host Hardware ID", format_args!("{id:016X}"));
        }
        self.field("Client machine ID", response.client_machine_id);
        self.field("Client request timestamp (UTC)", response.client_time);
        self.field("KMS host current active clients", response.active_clients);
        self.field("Renewal interval policy", response.renewal_interval);
        self.field("Activation interval policy", response.activation_interval);
    }

    /// `KMS v6.0 request from PC1.example.org for Windows 10 Enterprise`
    pub fn quiet_request(&mut self, request: &BaseRequest, names: &Names<'_>) {
        let mut room = [0; NAME_UNITS];
        let cleaned = request.workstation.cleaned_in(&mut room);
        let name = cleaned
            .get(..cleaned.floor_char_boundary(QUIET_NAME_BYTES))
            .unwrap_or(&cleaned);
        let version = request.version;
        let known = [names.product, names.kms_counted, names.application];
        match known.iter().find(|name| **name != UNKNOWN) {
            Some(product) => self.marker(format_args!(
                "KMS v{version} request from {name} for {product}"
            )),
            None => self.marker(format_args!(
                "KMS v{version} request from {name} for {}",
                request.activation_id
            )),
        }
    }

    /// `Sending ePID (command line): 06401-00206-…`
    pub fn quiet_response(&mut self, response: &BaseResponse, epid_source: &str) {
        let source = text::clean(epid_source.as_bytes(), FREE_TEXT);
        let mut room = [0; MAX_EPID_UNITS];
        let epid = text::clean_utf16(response.epid.units(), &mut room);
        self.marker(format_args!("Sending ePID ({source}): {epid}"));
    }

    /// Why a request was refused. Wrong lengths leave no line, as in vlmcsd.
    pub fn refusal(&mut self, refusal: &Refusal) {
        let code = refusal.hresult();
        match refusal {
            Refusal::Message(MessageError::Version(version)) => {
                self.line(format_args!("Fatal: KMSv{version} unsupported"));
            }
            Refusal::Message(MessageError::Seal(_)) => {
                self.line(format_args!("Lab seal missing ({code})"));
            }
            Refusal::Message(_) => {}
            Refusal::MinClients => self.line(format_args!(
                "Rejecting request with more than {MAX_MIN_CLIENTS} minimum clients ({code})"
            )),
            Refusal::ClientTime => self.line(format_args!(
                "Client time differs more than 4 hours from system time ({code})"
            )),
            Refusal::RetailOrBeta => {
                self.line(format_args!("Refusing retail or beta product ({code})"));
            }
            Refusal::UnknownProduct => {
                self.line(format_args!("Refusing unknown product ({code})"));
            }
            Refusal::WrongApplication => self.line(format_args!(
                "Refusing product with incorrect Application ID ({code})"
            )),
            Refusal::TooManyClients => {
                self.line(format_args!(
                    "Rejecting more than {MAX_CLIENTS} clients ({code})"
                ));
            }
        }
    }

    /// `Relayed request: v6.0, protected, outcome answered`: a request that was
    /// not looked into.
    pub fn relayed(&mut self, version: Version, outcome: Relayed) {
        match outcome {
            Relayed::Answered => self.marker(format_args!(
                "Relayed request: v{version}, protected, outcome answered"
            )),
            Relayed::Refused(code) => self.marker(format_args!(
                "Relayed request: v{version}, protected, outcome refused {code}"
            )),
        }
    }

    /// A relayed request that is not protected (V4), and `Refused by the upstream
    /// (0xC004F042)`.
    pub fn refused_upstream(&mut self, request: &BaseRequest, detail: Detail, code: HResult) {
        self.asked(request, detail);
        self.line(format_args!("Refused by the upstream ({code})"));
    }

    /// `Limited: 192.0.2.15 rate 12`: a source, why connections of it were turned
    /// away, and how many.
    pub fn limited(&mut self, source: impl fmt::Display, reason: &str, count: u64) {
        self.line(format_args!("Limited: {source} {reason} {count}"));
    }

    fn asked(&mut self, request: &BaseRequest, detail: Detail) {
        let names = Names::of(request);
        match detail {
            Detail::Quiet => self.quiet_request(request, &names),
            Detail::Verbose => self.request(request, &names),
        }
    }

    fn peer(&mut self, verb: &str, peer: Peer<'_>) {
        let family = match peer.address {
            SocketAddr::V4(_) => "IPv4",
            SocketAddr::V6(_) => "IPv6",
        };
        self.marker(format_args!("{family} connection {verb}: {peer}."));
    }

    fn id(&mut self, label: &str, id: Uuid, name: &str) {
        self.field(label, format_args!("{id} ({name})"));
    }

    /// Labels are padded to 32 bytes.
    fn field(&mut self, label: &str, value: impl fmt::Display) {
        self.line(format_args!("{label:<32}: {value}"));
    }

    /// A line that carries the connection's number.
    fn marker(&mut self, text: fmt::Arguments<'_>) {
        match self.connection {
            Some(number) => self.line(format_args!("{text} [c={number}]")),
            None => self.line(text),
        }
    }

    fn line(&mut self, text: fmt::Arguments<'_>) {
        if let Some(stamp) = self.stamp {
            self.stamp(stamp);
        }
        writeln!(self.out, "{text}").expect("memory takes what is written to it");
    }

    /// `2026-03-14 09:26:53: `, digit by digit: `write!` would take longer for it
    /// than for the rest of most lines.
    fn stamp(&mut self, stamp: DateTime) {
        let (date, time) = (stamp.date(), stamp.time());
        // No clock stands before year 0.
        let year = date.year().max(0);
        let fields = [
            (year / 100, &b""[..]),
            (year % 100, b""),
            (date.month().into(), b"-"),
            (date.day().into(), b"-"),
            (time.hour().into(), b" "),
            (time.minute().into(), b":"),
            (time.second().into(), b":"),
        ];
        for (number, before) in fields {
            let digit = |digit: i16| b'0' + u8::try_from(digit).unwrap_or(0);
            self.out.extend_from_slice(before);
            self.out
                .extend_from_slice(&[digit(number / 10), digit(number % 10)]);
        }
        self.out.extend_from_slice(b": ");
    }
}

impl Names<'static> {
    /// The names that svn1113 prints, as far as the catalogue has them.
    ///
    /// Where the catalogue's name covers more than vlmcsd's of the time (`Windows
    /// 10/11 Enterprise`), and for applications, it is the first of the names
    /// that servers use.
    #[must_use]
    pub fn of(request: &BaseRequest) -> Self {
        let of_group = |group: &'static Group| servers_name(group.name, group.server_names);
        let application = catalog::application(request.application_id);
        let application = application.and_then(|group| group.names().nth(1));
        let product = catalog::product(request.activation_id);
        let product = product.map(|product| servers_name(product.name, product.server_names));
        let kms_counted = catalog::kms_counted(request.kms_counted_id).map(of_group);
        Self {
            application: application.unwrap_or(UNKNOWN),
            product: product.unwrap_or(UNKNOWN),
            kms_counted: kms_counted.unwrap_or(UNKNOWN),
        }
    }
}

fn servers_name(name: &'static str, server_names: &[&'static str]) -> &'static str {
    match server_names {
        [first, ..] if name.contains('/') => first,
        _ => name,
    }
}

#[cfg(test)]
mod tests;
