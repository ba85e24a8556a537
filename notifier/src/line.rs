//! One line of a vlmcsd log, classified by position (kms-wire.md section 7).
//!
//! [`classify`] is the only place that knows what vlmcsd prints. It borrows from
//! the line, allocates nothing and never fails: what it does not know is
//! [`Kind::Unrecognised`]. It says what a line *looks like*; whether a client
//! forged it is the assembler's question (kms-wire.md 8.2).

use memchr::memmem;

/// A classified line; everything borrows from the line's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The `YYYY-MM-DD HH:MM:SS` of the prefix, server's local time; `None` with `-T0`.
    pub stamp: Option<&'a [u8; 19]>,
    /// The line without its prefix.
    pub text: &'a [u8],
    /// What it looks like.
    pub kind: Kind<'a>,
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// `IPv4 connection accepted: 192.0.2.15:49731.` (7.3)
    Accepted(Endpoint<'a>),
    /// `IPv4 connection closed: 192.0.2.15:49731.` (7.3)
    Closed(Endpoint<'a>),
    /// `RPC connection accepted: 192.0.2.15` of MS-RPC builds; `None` is `Unknown IP` (7.3).
    RpcAccepted(Option<&'a [u8]>),
    /// `Client with public IP address rejected`, or that it cannot be verified to be private (7.3)
    PublicRejected,
    /// `KMS v6.0 request from NAME for PRODUCT` (7.4)
    QuietRequest {
        /// `6.0`
        protocol: &'a [u8],
        /// `NAME for PRODUCT`, or the beginning of a name with a line feed in it.
        /// It may end in a mark, which [`split_mark`] finds, or in text of a client
        /// that looks like one.
        rest: &'a [u8],
    },
    /// `Sending ePID (SOURCE): EPID` (7.4)
    QuietResponse {
        /// Taken from the right: the source may be a path with `): ` in it.
        epid: &'a [u8],
        /// The connection, with `--log-ids`.
        mark: Option<Mark>,
    },
    /// `<<< Incoming KMS request` (7.5)
    RequestMarker(Option<Mark>),
    /// `>>> Sending response, ePID source = …` (7.6)
    ResponseMarker(Option<Mark>),
    /// A line of a request or response block (7.5, 7.6).
    Field(Label, &'a [u8]),
    /// The server turned the last request down (7.7).
    Refusal {
        /// The words before the code.
        reason: &'a [u8],
        /// The code: the line's, or what later builds print for the same words.
        hresult: u32,
    },
    /// A refusal without a request block: `Fatal: KMSv7.0 unsupported` (7.7), or
    /// kms-core's `Lab seal missing (0x8007000D)`.
    RefusedAlone {
        /// `7.0`, or `7` up to svn977, where the line tells it.
        protocol: Option<&'a [u8]>,
        /// The words of the line.
        reason: &'a [u8],
        /// The code that the client got.
        hresult: u32,
    },
    /// kms-core's relay: `Relayed request: v6.0, protected, outcome answered` (kms-wire.md 7.11).
    Relayed {
        /// `6.0`
        protocol: &'a [u8],
        /// `None` is answered, else the refusal's code.
        refused: Option<u32>,
        /// The connection, with `--log-ids`.
        mark: Option<Mark>,
    },
    /// kms-core's `Limited: <address> <reason> <count>`.
    Limited,
    /// `… started successfully`
    Started,
    /// `… was shutdown`
    Stopped,
    /// Other lines of the server's life: listening, ini file, data file, host keys (7.2).
    Lifecycle,
    /// `Warning: Child killed/crashed by …`: a connection ends without a closed line.
    ChildCrashed,
    /// Warnings and fatal errors, of pedantic builds too (7.8, 7.9).
    Warning,
    /// Nothing known.
    Unrecognised,
}

/// A connection's number from kms-core's `[c=17]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Mark(pub u64);

/// The peer of a connection as printed, not yet parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// Everything that names the connection: `192.0.2.15:49731` or `[2001:db8::5]:49731`.
    pub text: &'a str,
    /// The address without brackets, perhaps with a `%scope`; printable ASCII.
    pub address: &'a str,
    /// 0–65535.
    pub port: u16,
    /// The connection's number, with kms-core's `--log-ids`.
    pub mark: Option<Mark>,
}

/// The labels of block lines, in the order of kms-wire.md 7.5 and 7.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the line's own label, see LABELS")]
pub enum Label {
    Protocol,
    VirtualMachine,
    Status,
    Remaining,
    Application,
    Activation,
    KmsCounted,
    ClientMachine,
    PreviousClientMachine,
    ClientTime,
    Workstation,
    MinClients,
    Epid,
    HardwareId,
    ActiveClients,
    RenewalInterval,
    ActivationInterval,
}

impl Label {
    /// The class of its lines. The protocol, the client's id and its time stand in
    /// both blocks, and count as asked.
    #[must_use]
    pub fn class(self) -> Class {
        if self >= Self::Epid {
            Class::Response
        } else {
            Class::Request
        }
    }
}

/// Every label is padded to 32 bytes, and `: ` follows.
const LABEL_LEN: usize = 32;

/// The labels as printed; the second form of two is svn812 to svn977.
const LABELS: [(&[u8; LABEL_LEN], Label); 19] = [
    (b"Protocol version                ", Label::Protocol),
    (b"Client is a virtual machine     ", Label::VirtualMachine),
    (b"Licensing status                ", Label::Status),
    (b"Remaining time (0 = forever)    ", Label::Remaining),
    (b"Application ID                  ", Label::Application),
    (b"SKU ID (aka Activation ID)      ", Label::Activation),
    (b"Activation ID (Product)         ", Label::Activation),
    (b"KMS ID (aka KMS counted ID)     ", Label::KmsCounted),
    (b"Key Management Service ID       ", Label::KmsCounted),
    (b"Client machine ID               ", Label::ClientMachine),
    (
        b"Previous client machine ID      ",
        Label::PreviousClientMachine,
    ),
    (b"Client request timestamp (UTC)  ", Label::ClientTime),
    (b"Workstation name                ", Label::Workstation),
    (b"N count policy (minimum clients)", Label::MinClients),
    (b"KMS host extended PID           ", Label::Epid),
    (b"KMS host Hardware ID            ", Label::HardwareId),
    (b"KMS host current active clients ", Label::ActiveClients),
    (b"Renewal interval policy         ", Label::RenewalInterval),
    (
        b"Activation interval policy      ",
        Label::ActivationInterval,
    ),
];

/// Refusals, by how the line begins, and the code that builds since svn1099
/// print after it (7.7).
const REFUSALS: [(&[u8], u32); 6] = [
    (
        b"Rejecting request with more than 1000 minimum clients",
        0x8007_000D,
    ),
    (
        b"Client time differs more than 4 hours from system time",
        0xC004_F06C,
    ),
    (b"Refusing retail or beta product", 0xC004_F042),
    (b"Refusing unknown product", 0xC004_F042),
    (
        b"Refusing product with incorrect Application ID",
        0xC004_F042,
    ),
    (b"Rejecting more than ", 0xC004_D104),
];

/// What a line counts as in `kms_notifier_lines_total{class}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names say it; docs/metrics.md has the table"
)]
pub enum Class {
    Connection,
    Request,
    Response,
    Refusal,
    Lifecycle,
    Warning,
    NameContinuation,
    Suspect,
    Unrecognised,
}

impl Class {
    /// Every class, for metrics that are present from the start.
    pub const ALL: [Self; 9] = [
        Self::Connection,
        Self::Request,
        Self::Response,
        Self::Refusal,
        Self::Lifecycle,
        Self::Warning,
        Self::NameContinuation,
        Self::Suspect,
        Self::Unrecognised,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Request => "request",
            Self::Response => "response",
            Self::Refusal => "refusal",
            Self::Lifecycle => "lifecycle",
            Self::Warning => "warning",
            Self::NameContinuation => "name_continuation",
            Self::Suspect => "suspect",
            Self::Unrecognised => "unrecognised",
        }
    }
}

impl Kind<'_> {
    /// The class this line counts as when nothing speaks against it.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Accepted(_) | Self::Closed(_) | Self::RpcAccepted(_) | Self::PublicRejected => {
                Class::Connection
            }
            Self::QuietRequest { .. } | Self::RequestMarker(_) | Self::Relayed { .. } => {
                Class::Request
            }
            Self::QuietResponse { .. } | Self::ResponseMarker(_) => Class::Response,
            Self::Field(label, _) => label.class(),
            Self::Refusal { .. } | Self::RefusedAlone { .. } | Self::Limited => Class::Refusal,
            Self::Started | Self::Stopped | Self::Lifecycle => Class::Lifecycle,
            Self::ChildCrashed | Self::Warning => Class::Warning,
            Self::Unrecognised => Class::Unrecognised,
        }
    }
}

/// Says what one line (without its LF) looks like.
#[must_use]
#[inline]
pub fn classify(line: &[u8]) -> Line<'_> {
    let (stamp, text) = split_stamp(line);
    Line {
        stamp,
        text,
        kind: kind(text),
    }
}

/// `YYYY-MM-DD HH:MM:SS: `, as it begins a line.
pub type Prefix = [u8; 21];

/// What each byte of a [`Prefix`] is counted from, and how far it goes: digits and
/// separators in one comparison of all bytes at once.
const FIRST: &Prefix = b"0000-00-00 00:00:00: ";
const SPAN: Prefix = {
    let (mut span, mut at) = ([0; 21], 0);
    #[expect(
        clippy::indexing_slicing,
        reason = "at is below the length, and checked at compile time"
    )]
    while at < span.len() {
        if FIRST[at] == b'0' {
            span[at] = 9;
        }
        at += 1;
    }
    span
};

/// `YYYY-MM-DD HH:MM:SS: ` and what follows it.
#[inline]
fn split_stamp(line: &[u8]) -> (Option<&[u8; 19]>, &[u8]) {
    if let Some((prefix, text)) = line.split_first_chunk::<21>() {
        let mut other = 0;
        for ((byte, first), span) in prefix.iter().zip(FIRST).zip(SPAN) {
            other |= u8::from(byte.wrapping_sub(*first) > span);
        }
        if other == 0 {
            return (prefix.first_chunk(), text);
        }
    }
    (None, line)
}

/// What a text is, without the prefix: [`Line::kind`].
#[inline]
pub(crate) fn kind(text: &[u8]) -> Kind<'_> {
    match field(text) {
        Some((label, value)) => Kind::Field(label, value),
        None => other_kind(text),
    }
}

/// A line of a block: nine lines in ten are.
#[inline]
pub(crate) fn field(text: &[u8]) -> Option<(Label, &[u8])> {
    let (label, rest) = text.split_first_chunk::<LABEL_LEN>()?;
    Some((self::label(label)?, rest.strip_prefix(b": ")?))
}

/// What stands before the first LF; none where there is none.
#[inline]
pub(crate) fn up_to_lf(text: &[u8]) -> Option<&[u8]> {
    // Values are short: to ask sixteen bytes at a time is less than a call of memchr.
    let (chunks, _) = text.as_chunks::<16>();
    let mut before = 0;
    for chunk in chunks.iter().take(4) {
        let found = chunk.map(|byte| if byte == b'\n' { 0xff } else { 0 });
        let found = u128::from_le_bytes(found);
        if found != 0 {
            return text.get(..before + found.trailing_zeros() as usize / 8);
        }
        before += chunk.len();
    }
    let at = memchr::memchr(b'\n', text.get(before..)?)?;
    text.get(..before + at)
}

/// What is no line of a block.
#[inline(never)]
fn other_kind(text: &[u8]) -> Kind<'_> {
    match text {
        [b'I', b'P', b'v', b'4' | b'6', b' ', ..] => connection(text),
        [b'<', b'<', b'<', ..] => match text.strip_prefix(b"<<< Incoming KMS request") {
            Some(b"") => Kind::RequestMarker(None),
            Some(rest) => match mark_only(rest) {
                Some(mark) => Kind::RequestMarker(Some(mark)),
                None => Kind::Unrecognised,
            },
            None => Kind::Unrecognised,
        },
        [b'>', b'>', b'>', ..] => {
            match text.strip_prefix(b">>> Sending response, ePID source = ") {
                Some(rest) => Kind::ResponseMarker(split_mark(rest).1),
                None => Kind::Unrecognised,
            }
        }
        [b'K', b'M', b'S', b' ', b'v', ..] => quiet_request(text),
        [b'S', b'e', b'n', b'd', ..] => quiet_response(text),
        _ => rare(text),
    }
}

/// Two bytes tell all labels apart, so that one comparison of 32 bytes remains.
const fn label_slot(text: &[u8; LABEL_LEN]) -> usize {
    (text[13].wrapping_add(text[18]) & 63) as usize
}

/// [`LABELS`] by [`label_slot`]; in empty slots one that stands elsewhere, too.
const LABEL_SLOTS: [(&[u8; LABEL_LEN], Label); 64] = {
    let (mut slots, mut taken, mut at) = ([LABELS[0]; 64], [false; 64], 0);
    #[expect(
        clippy::indexing_slicing,
        reason = "slots are below 64, and checked at compile time"
    )]
    while at < LABELS.len() {
        let slot = label_slot(LABELS[at].0);
        assert!(!taken[slot], "two labels must not share a slot");
        (slots[slot], taken[slot]) = (LABELS[at], true);
        at += 1;
    }
    slots
};

#[inline]
fn label(text: &[u8; LABEL_LEN]) -> Option<Label> {
    let (known, label) = LABEL_SLOTS.get(label_slot(text))?;
    (*known == text).then_some(*label)
}

fn connection(text: &[u8]) -> Kind<'_> {
    let Some(rest) = text
        .get(5..)
        .and_then(|rest| rest.strip_prefix(b"connection "))
    else {
        return if text.starts_with(b"IPv4 address ") {
            Kind::Lifecycle
        } else {
            Kind::Unrecognised
        };
    };
    let (accepted, rest) = match (
        rest.strip_prefix(b"accepted: "),
        rest.strip_prefix(b"closed: "),
    ) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Kind::Unrecognised,
    };
    match endpoint(rest) {
        Some(peer) if accepted => Kind::Accepted(peer),
        Some(peer) => Kind::Closed(peer),
        None => Kind::Unrecognised,
    }
}

/// `192.0.2.15:49731.`, `[2001:db8::5%eth0]:49731.`, each perhaps with ` [c=17]`.
fn endpoint(text: &[u8]) -> Option<Endpoint<'_>> {
    let (text, mark) = split_mark(text);
    let text = text.strip_suffix(b".")?;
    // A port has five digits at most, so its colon is near the end.
    let colon = text.iter().rposition(|byte| *byte == b':')?;
    let port = u16::try_from(number(text.get(colon + 1..)?)?).ok()?;
    let text = std::str::from_utf8(text).ok()?;
    let address = text.get(..colon)?;
    let bare = address
        .strip_prefix('[')
        .and_then(|bare| bare.strip_suffix(']'));
    let address = bare.unwrap_or(address);
    // An address is hex digits, dots and colons, then perhaps a scope id: no
    // spaces and nothing that is not printable.
    let hidden = |hidden, byte: u8| hidden | !byte.is_ascii_graphic();
    let plausible =
        !address.is_empty() && address.len() <= 64 && !address.bytes().fold(false, hidden);
    plausible.then_some(Endpoint {
        text,
        address,
        port,
        mark,
    })
}

/// Splits ` [c=17]` off the end of a line.
#[must_use]
pub fn split_mark(text: &[u8]) -> (&[u8], Option<Mark>) {
    let split = || {
        let inner = text.strip_suffix(b"]")?;
        let at = inner.len().checked_sub(24).map_or(0, |from| from);
        let open = at + memmem::rfind(inner.get(at..)?, b" [c=")?;
        let mark = Mark(number(inner.get(open + 4..)?)?);
        Some((text.get(..open)?, mark))
    };
    match split() {
        Some((text, mark)) => (text, Some(mark)),
        None => (text, None),
    }
}

fn mark_only(text: &[u8]) -> Option<Mark> {
    match split_mark(text) {
        (b"", mark) => mark,
        _ => None,
    }
}

fn quiet_request(text: &[u8]) -> Kind<'_> {
    let parse = || {
        let rest = text.strip_prefix(b"KMS v")?;
        let space = memchr::memchr(b' ', rest)?;
        let (protocol, rest) = (version(rest.get(..space)?)?, rest.get(space..)?);
        Some(Kind::QuietRequest {
            protocol,
            rest: rest.strip_prefix(b" request from ")?,
        })
    };
    parse().unwrap_or(Kind::Unrecognised)
}

fn quiet_response(text: &[u8]) -> Kind<'_> {
    let parse = || {
        let (rest, mark) = split_mark(text.strip_prefix(b"Sending ePID (")?);
        let at = memmem::rfind(rest, b"): ")?;
        Some(Kind::QuietResponse {
            epid: rest.get(at + 3..)?,
            mark,
        })
    };
    parse().unwrap_or(Kind::Unrecognised)
}

/// Everything that is not written for every request or connection.
fn rare(text: &[u8]) -> Kind<'_> {
    if let Some(address) = text.strip_prefix(b"RPC connection accepted: ") {
        return Kind::RpcAccepted((address != b"Unknown IP").then_some(address));
    }
    if text == b"Client with public IP address rejected"
        || text == b"Cannot verify that client has a private IP address"
    {
        return Kind::PublicRejected;
    }
    for (words, hresult) in REFUSALS {
        if let Some(rest) = text.strip_prefix(words) {
            return refusal(text, rest, hresult);
        }
    }
    // kms-core's relay knows the code, and no reason.
    if let Some(code @ [b' ', ..]) = text.strip_prefix(b"Refused by the upstream") {
        return refusal(text, code, 0);
    }
    if let Some(kind) = refused_alone(text).or_else(|| relayed(text)) {
        return kind;
    }
    if text.starts_with(b"Limited: ") {
        return Kind::Limited;
    }
    if text.starts_with(b"Warning: Child killed/crashed by ") {
        return Kind::ChildCrashed;
    }
    if text.starts_with(b"vlmcsd ") || text.starts_with(b"kms-core ") {
        if text.ends_with(b" started successfully") {
            return Kind::Started;
        }
        if text.ends_with(b" was shutdown") {
            return Kind::Stopped;
        }
    }
    const LIFECYCLE: [&[u8]; 5] = [
        b"Listening on ",
        b"Read ini file ",
        b"Read KMS data file ",
        b"Using CSVLK ",
        b"tap0901 ",
    ];
    if LIFECYCLE.iter().any(|start| text.starts_with(start)) {
        return Kind::Lifecycle;
    }
    const WARNING: [&[u8]; 9] = [
        b"Warning: ",
        b"WARNING: ",
        b"Fatal: ",
        b"FATAL: ",
        b"NDR32 transfer syntax version is ",
        b"NDR64 transfer syntax version is ",
        b"BTFN syntax version is ",
        b"Registry read error: ",
        b"Incorrect parameters",
    ];
    if WARNING.iter().any(|start| text.starts_with(start)) {
        return Kind::Warning;
    }
    Kind::Unrecognised
}

/// The words and the code of a refusal; `rest` is what follows the known words.
fn refusal<'a>(text: &'a [u8], rest: &[u8], hresult: u32) -> Kind<'a> {
    let coded = || {
        let inner = text.strip_suffix(b")")?;
        let open = memmem::rfind(inner, b" (0x")?;
        Some((text.get(..open)?, hex(inner.get(open + 4..)?)?))
    };
    match coded() {
        Some((reason, hresult)) => Kind::Refusal { reason, hresult },
        // svn1085 prints the words alone, one of them with a full stop.
        None if rest.is_empty() || rest == b"." => Kind::Refusal {
            reason: text.strip_suffix(b".").unwrap_or(text),
            hresult,
        },
        None => Kind::Unrecognised,
    }
}

fn refused_alone(text: &[u8]) -> Option<Kind<'_>> {
    const INVALID_DATA: u32 = 0x8007_000D;
    if let Some(rest) = text.strip_prefix(b"Lab seal missing") {
        let reason = text.get(..text.len() - rest.len())?;
        let known = rest.is_empty() || rest == b" (0x8007000D)";
        return known.then_some(Kind::RefusedAlone {
            protocol: None,
            reason,
            hresult: INVALID_DATA,
        });
    }
    let rest = text.strip_prefix(b"Fatal: KMSv")?;
    let protocol = Some(version(rest.strip_suffix(b" unsupported")?)?);
    let reason = text.strip_prefix(b"Fatal: ")?;
    Some(Kind::RefusedAlone {
        protocol,
        reason,
        hresult: INVALID_DATA,
    })
}

fn relayed(text: &[u8]) -> Option<Kind<'_>> {
    let (rest, mark) = split_mark(text.strip_prefix(b"Relayed request: v")?);
    let comma = memchr::memchr(b',', rest)?;
    let protocol = version(rest.get(..comma)?)?;
    let at = memmem::rfind(rest, b", outcome ")?;
    let refused = match rest.get(at + 10..)? {
        b"answered" => None,
        outcome => Some(hex(outcome.strip_prefix(b"refused 0x")?)?),
    };
    Some(Kind::Relayed {
        protocol,
        refused,
        mark,
    })
}

/// `6.0` or `7`: digits with at most one dot between, short enough to be real.
fn version(text: &[u8]) -> Option<&[u8]> {
    let dots = text.iter().filter(|b| **b == b'.').count();
    let good = (1..=11).contains(&text.len())
        && dots <= 1
        && text.iter().all(|b| b.is_ascii_digit() || *b == b'.')
        && !text.starts_with(b".")
        && !text.ends_with(b".");
    good.then_some(text)
}

/// Decimal digits only, without a sign.
#[must_use]
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0_u64, |n, b| {
        b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0'))
    })
}

fn hex(text: &[u8]) -> Option<u32> {
    if text.len() != 8 {
        return None;
    }
    text.iter()
        .try_fold(0_u32, |n, b| Some(n << 4 | char::from(*b).to_digit(16)?))
}

/// Splits `GUID (NAME)`: 36 bytes of GUID, then ` (`, and the single last `)`
/// (kms-wire.md 8.6). A line that was cut gives what is there.
#[must_use]
pub fn guid_and_name(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    let Some((guid, rest)) = value.split_at_checked(36) else {
        return (value, None);
    };
    let name = rest
        .strip_prefix(b" (")
        .and_then(|name| name.strip_suffix(b")"));
    (guid, name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn up_to_lf_is_what_stands_before_the_first(
            before in proptest::collection::vec(any::<u8>(), 0..120),
            after in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
        ) {
            let mut text: Vec<u8> = before;
            if let Some(after) = after {
                text.push(b'\n');
                text.extend(after);
            }
            let at = text.iter().position(|byte| *byte == b'\n');
            prop_assert_eq!(up_to_lf(&text), at.map(|at| &text[..at]));
        }
    }

    fn kind_of(text: &str) -> Kind<'_> {
        classify(text.as_bytes()).kind
    }

    #[test]
    fn the_prefix_is_taken_by_position_and_only_whole() {
        let line = classify(b"2026-03-14 09:26:53: <<< Incoming KMS request");
        assert_eq!(line.stamp, Some(b"2026-03-14 09:26:53"));
        assert_eq!(line.kind, Kind::RequestMarker(None));
        assert_eq!(classify(b"<<< Incoming KMS request").stamp, None);
        for not in [
            "2026-03-14 09:26:5x: y",
            "2026-03-14T09:26:53: y",
            "2026-03-14 09:26:53:",
            "-001-03-14 09:26:53: y",
        ] {
            assert_eq!(classify(not.as_bytes()).stamp, None, "{not}");
        }
    }

    #[test]
    fn connections_name_their_peer() {
        let Kind::Accepted(v4) = kind_of("IPv4 connection accepted: 192.0.2.15:49731.") else {
            panic!()
        };
        assert_eq!(
            (v4.text, v4.address, v4.port, v4.mark),
            ("192.0.2.15:49731", "192.0.2.15", 49731, None)
        );
        let Kind::Closed(v6) = kind_of("IPv6 connection closed: [fe80::5%eth0]:1. [c=17]") else {
            panic!()
        };
        assert_eq!(
            (v6.address, v6.port, v6.mark),
            ("fe80::5%eth0", 1, Some(Mark(17)))
        );
        for not in [
            "IPv4 connection accepted: 192.0.2.15:49731",
            "IPv4 connection accepted: 192.0.2.15:65536.",
            "IPv4 connection accepted: :1.",
            "IPv4 connection accepted: 192.0.2.15:1. for Windows 7",
            "IPv4 connection accepted: a b:1.",
            "IPv5 connection accepted: 192.0.2.15:1.",
            "IPv4 connection opened: 192.0.2.15:1.",
        ] {
            assert_eq!(kind_of(not), Kind::Unrecognised, "{not}");
        }
    }

    #[test]
    fn every_label_is_found_in_both_dialects_and_no_other() {
        for (label, kind) in LABELS {
            let mut line = label.to_vec();
            line.extend(b": x");
            assert_eq!(classify(&line).kind, Kind::Field(kind, b"x"));
            assert_eq!(classify(label).kind, Kind::Unrecognised);
            line[7] ^= 1;
            assert_eq!(classify(&line).kind, Kind::Unrecognised);
        }
    }

    #[test]
    fn marks_follow_the_markers() {
        assert_eq!(
            kind_of("<<< Incoming KMS request [c=3]"),
            Kind::RequestMarker(Some(Mark(3)))
        );
        assert_eq!(kind_of("<<< Incoming KMS request x"), Kind::Unrecognised);
        assert_eq!(
            kind_of(">>> Sending response, ePID source = /etc/v [c=x] [c=18446744073]"),
            Kind::ResponseMarker(Some(Mark(18_446_744_073)))
        );
        assert_eq!(
            kind_of(">>> Sending response, ePID source = command line"),
            Kind::ResponseMarker(None)
        );
        assert_eq!(kind_of(">>> Sending response"), Kind::Unrecognised);
    }

    #[test]
    fn quiet_lines() {
        assert_eq!(
            kind_of("KMS v6.0 request from PC1 for Windows 7 Professional"),
            Kind::QuietRequest {
                protocol: b"6.0",
                rest: b"PC1 for Windows 7 Professional"
            }
        );
        assert_eq!(kind_of("KMS v6.0. request from PC1"), Kind::Unrecognised);
        assert_eq!(
            kind_of("Sending ePID (/etc/a): b): 06401-00206"),
            Kind::QuietResponse {
                epid: b"06401-00206",
                mark: None
            }
        );
        assert_eq!(
            kind_of("Sending ePID (command line): 06401-00206 [c=3]"),
            Kind::QuietResponse {
                epid: b"06401-00206",
                mark: Some(Mark(3))
            }
        );
    }

    #[test]
    fn refusals_with_and_without_their_code() {
        for (line, code, reason) in [
            (
                "Rejecting request with more than 1000 minimum clients (0x8007000D)",
                0x8007_000D,
                "Rejecting request with more than 1000 minimum clients",
            ),
            (
                "Refusing unknown product (0xC004F042)",
                0xC004_F042,
                "Refusing unknown product",
            ),
            (
                "Refusing unknown product",
                0xC004_F042,
                "Refusing unknown product",
            ),
            (
                "Client time differs more than 4 hours from system time.",
                0xC004_F06C,
                "Client time differs more than 4 hours from system time",
            ),
            (
                "Rejecting more than 671 clients (0xC004D104)",
                0xC004_D104,
                "Rejecting more than 671 clients",
            ),
        ] {
            assert_eq!(
                kind_of(line),
                Kind::Refusal {
                    reason: reason.as_bytes(),
                    hresult: code
                },
                "{line}"
            );
        }
        assert_eq!(
            kind_of("Refusing unknown product of EVIL"),
            Kind::Unrecognised
        );
        for (line, protocol, reason) in [
            (
                "Fatal: KMSv7.0 unsupported",
                Some(&b"7.0"[..]),
                "KMSv7.0 unsupported",
            ),
            (
                "Fatal: KMSv7 unsupported",
                Some(&b"7"[..]),
                "KMSv7 unsupported",
            ),
            ("Lab seal missing (0x8007000D)", None, "Lab seal missing"),
        ] {
            let (reason, hresult) = (reason.as_bytes(), 0x8007_000D);
            assert_eq!(
                kind_of(line),
                Kind::RefusedAlone {
                    protocol,
                    reason,
                    hresult
                },
                "{line}"
            );
        }
        // Pedantic builds say so as well, before the line that counts.
        assert_eq!(kind_of("Fatal: KMSv7 is not supported."), Kind::Warning);
    }

    #[test]
    fn the_relay_says_what_became_of_a_request() {
        assert_eq!(
            kind_of("Relayed request: v6.0, protected, outcome answered"),
            Kind::Relayed {
                protocol: b"6.0",
                refused: None,
                mark: None
            }
        );
        assert_eq!(
            kind_of("Relayed request: v4.0, protected, outcome refused 0xC004F042 [c=9]"),
            Kind::Relayed {
                protocol: b"4.0",
                refused: Some(0xC004_F042),
                mark: Some(Mark(9))
            }
        );
        assert_eq!(
            kind_of("Relayed request: v6.0, protected, outcome maybe"),
            Kind::Unrecognised
        );
        // After the block of a request that is not protected.
        assert_eq!(
            kind_of("Refused by the upstream (0xC004F041)"),
            Kind::Refusal {
                reason: b"Refused by the upstream",
                hresult: 0xC004_F041
            }
        );
        for line in ["Refused by the upstream (", "Refused by the upstream (no)"] {
            assert_eq!(kind_of(line), Kind::Unrecognised, "{line}");
        }
    }

    #[test]
    fn lifecycle_and_warnings() {
        for line in [
            "Read ini file /etc/vlmcsd.ini",
            "Read KMS data file version 2.0 /usr/bin/vlmcsd.kmd",
            "Listening on [::]:1688",
            "IPv4 address 10.10.10.9 assigned",
            "Using CSVLK Windows (Windows Server 2019) with random ePID 06401",
        ] {
            assert_eq!(kind_of(line), Kind::Lifecycle, "{line}");
        }
        assert_eq!(
            kind_of("vlmcsd private build started successfully"),
            Kind::Started
        );
        assert_eq!(
            kind_of("vlmcsd svn1113, built 2020-03-30 10:00:00 UTC was shutdown"),
            Kind::Stopped
        );
        assert_eq!(
            kind_of("Warning: Child killed/crashed by Terminated"),
            Kind::ChildCrashed
        );
        for line in [
            "Warning: OpNum should be 0 but is 1.",
            "Fatal: Too many open files",
            "NDR64 transfer syntax version is 2 but should be 1.",
            "Warning: Client machine ID does not conform to version 4 UUID according to RFC 4122",
        ] {
            assert_eq!(kind_of(line), Kind::Warning, "{line}");
        }
        assert_eq!(
            kind_of("RPC connection accepted: Unknown IP"),
            Kind::RpcAccepted(None)
        );
        assert_eq!(
            kind_of("RPC connection accepted: 192.0.2.1"),
            Kind::RpcAccepted(Some(b"192.0.2.1"))
        );
        assert_eq!(
            kind_of("Client with public IP address rejected"),
            Kind::PublicRejected
        );
    }

    #[test]
    fn names_are_taken_by_position() {
        let guid = b"58e2134f-8e11-4d17-9cb2-91069c151148";
        assert_eq!(
            guid_and_name(b"58e2134f-8e11-4d17-9cb2-91069c151148 (Windows 10 2015 (Volume))"),
            (&guid[..], Some(&b"Windows 10 2015 (Volume)"[..]))
        );
        assert_eq!(guid_and_name(guid), (&guid[..], None));
        assert_eq!(guid_and_name(b"cut"), (&b"cut"[..], None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_classified(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = classify(&line);
        }

        #[test]
        fn damage_to_a_real_line_is_survived(n in 0..LABELS.len(), at in 0_usize..60, byte: u8) {
            let mut line = b"2026-03-14 09:26:53: ".to_vec();
            line.extend(LABELS[n].0);
            line.extend(b": 6.0");
            if let Some(b) = line.get_mut(at) { *b = byte; }
            let _ = classify(&line);
        }
    }
}
