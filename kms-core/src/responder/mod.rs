//! The lab responder: what a KMS host does with the bytes of one connection.
//!
//! Two parts, neither of which knows a socket or a clock. A [`Host`] is shared:
//! its policy, its cipher suite, the clients it counts. An [`Association`] is one
//! connection's state: it takes the bytes received so far and says what to send
//! and whether to go on ([`Action`]), why ([`Reason`]), and what a log needs
//! ([`Exchange`]).
//!
//! How strict an association is:
//!
//! | what arrives | what it does |
//! |---|---|
//! | length below 16 or above [`crate::pdu::MAX_FRAGMENT`] | close |
//! | RPC version other than 5.0 | bind_nak 4, or fault `nca_s_proto_error`; close |
//! | byte order other than little-endian | bind_nak 0, or the same fault; close |
//! | authentication | bind_nak 8, or fault 5; close |
//! | request or alter_context before a bind | fault `nca_s_proto_error`; close |
//! | second bind; a bind in fragments, or without offers | bind_nak 0; close |
//! | nothing of a bind acceptable | bind_ack that rejects all |
//! | fragments of a request | put together up to the same length; out of order fault `nca_s_proto_error`; close |
//! | context id that carries no data syntax | fault `nca_s_unk_if` |
//! | operation other than 0 | fault `nca_s_op_rng_error` |
//! | arguments that cannot be read | fault `RPC_X_BAD_STUB_DATA` |
//! | KMS version, length or seal that is not right | response 0x8007000D |
//! | co_cancel, orphaned | nothing |
//! | any other type | close |
//!
//! ```
//! use jiff::Timestamp;
//! use kms_core::lab::LabSuite;
//! use kms_core::responder::{
//!     Action, Association, AssociationSettings, Env, Host, Policy, Step,
//! };
//!
//! // Any source of random bytes; a server takes the operating system's.
//! let mut random = |bytes: &mut [u8]| bytes.fill(4);
//! let host = Host::new(Policy::default(), Box::new(LabSuite), &mut random);
//! let group_id = std::num::NonZeroU32::MIN;
//! let mut association = Association::new(AssociationSettings::new(group_id, 1688));
//!
//! // A loop around a socket: `received` grows by what was read …
//! let mut received = Vec::new();
//! let mut reply = Vec::new();
//! received.extend(b"GET / HTTP/1.1\r\n\r\n");
//! let env = Env { host: &host, now: Timestamp::UNIX_EPOCH, random: &mut random };
//! match association.handle(&received, env, &mut reply) {
//!     Step::NeedMore { total } => received.reserve(total - received.len()),
//!     // … and shrinks by what was understood.
//!     Step::Done(outcome) => {
//!         received.drain(..outcome.consumed);
//!         assert_eq!(outcome.action, Action::Close);
//!         assert_eq!(outcome.reason.label(), "byte_order");
//!     }
//! }
//! ```

mod association;
mod clients;
mod host;
mod negotiation;

use crate::hresult::HResult;
use crate::message::{BaseRequest, BaseResponse, MessageError, Version};
use crate::pdu::{FaultStatus, FrameError, PacketType, PduError};
use crate::stub::StubError;

pub use association::{Association, AssociationSettings, Env};
pub use clients::MAX_CLIENTS;
pub use host::{Counting, Host, MAX_MIN_CLIENTS, Policy, Whitelist};

/// What became of the bytes received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it is made; a box would be an allocation for each request"
)]
pub enum Step {
    /// They are no whole PDU yet.
    NeedMore {
        /// How many bytes there must be, from the same first byte; at most
        /// [`crate::pdu::MAX_FRAGMENT`].
        total: usize,
    },
    /// One PDU was dealt with.
    Done(Outcome),
}

/// What one PDU led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How many of the received bytes it took.
    pub consumed: usize,
    /// What to do now.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The KMS request and what became of it, if there was one.
    pub exchange: Option<Exchange>,
}

/// What the connection's owner has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the reply and go on.
    Send,
    /// Send the reply, then close. Bytes may be left unread: shut down the sending
    /// side first, or the peer may never see the reply.
    SendAndClose,
    /// Close without a word.
    Close,
    /// Go on.
    Continue,
}

/// Why an association acted as it did, with the values that it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A bind, of which something was accepted.
    Bound,
    /// A bind or alter_context, of which nothing was accepted.
    NothingAccepted,
    /// An alter_context, of which something was accepted.
    Altered,
    /// A KMS request was answered.
    Answered,
    /// A KMS request was refused with this code.
    Refused(HResult),
    /// A fragment of a request, kept until the rest is there.
    FragmentHeld,
    /// co_cancel or orphaned: there is nothing to cancel.
    Ignored(PacketType),
    /// The stream of PDUs is lost.
    Frame(FrameError),
    /// A version other than 5.0, authentication, or a PDU that is too short.
    Pdu(PduError),
    /// A type that no client sends, or no RPC at all.
    UnexpectedPacket(PacketType),
    /// A request or alter_context before a bind.
    NotBound,
    /// A second bind.
    AlreadyBound,
    /// A bind or alter_context that offers nothing.
    NoContext,
    /// A fragment out of sequence, or a bind in fragments.
    FragmentSequence,
    /// The fragments of one call are longer than one fragment may be.
    FragmentsTooLong {
        /// Bytes of all its fragments together.
        total: usize,
    },
    /// A call on a context id that stands for no data syntax.
    UnknownContext(u16),
    /// An operation other than 0.
    Operation(u16),
    /// The arguments cannot be read.
    Stub(StubError),
}

impl Reason {
    /// Every [`Reason::label`], for counters that are there from the start.
    pub const LABELS: [&str; 21] = [
        "bound",
        "nothing_accepted",
        "altered",
        "answered",
        "refused",
        "fragment_held",
        "ignored",
        "frame_length",
        "byte_order",
        "rpc_version",
        "authentication",
        "pdu_malformed",
        "unexpected_packet",
        "not_bound",
        "already_bound",
        "no_context",
        "fragment_sequence",
        "fragments_too_long",
        "unknown_context",
        "operation",
        "stub",
    ];

    /// The reason without its values, fit to be a metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::NothingAccepted => "nothing_accepted",
            Self::Altered => "altered",
            Self::Answered => "answered",
            Self::Refused(_) => "refused",
            Self::FragmentHeld => "fragment_held",
            Self::Ignored(_) => "ignored",
            Self::Frame(FrameError::TooShort { .. } | FrameError::TooLong { .. }) => "frame_length",
            Self::Frame(FrameError::ByteOrder { .. }) => "byte_order",
            Self::Pdu(PduError::Version { .. }) => "rpc_version",
            Self::Pdu(PduError::Authentication { .. }) => "authentication",
            Self::Pdu(_) => "pdu_malformed",
            Self::UnexpectedPacket(_) => "unexpected_packet",
            Self::NotBound => "not_bound",
            Self::AlreadyBound => "already_bound",
            Self::NoContext => "no_context",
            Self::FragmentSequence => "fragment_sequence",
            Self::FragmentsTooLong { .. } => "fragments_too_long",
            Self::UnknownContext(_) => "unknown_context",
            Self::Operation(_) => "operation",
            Self::Stub(_) => "stub",
        }
    }

    /// The status of the fault that this reason is told with, where it is one.
    fn fault(&self) -> Option<FaultStatus> {
        Some(match self {
            Self::Pdu(PduError::Authentication { .. }) => FaultStatus::ACCESS_DENIED,
            Self::UnknownContext(_) => FaultStatus::UNKNOWN_INTERFACE,
            Self::Operation(_) => FaultStatus::OPERATION_RANGE,
            Self::Stub(_) => FaultStatus::BAD_STUB_DATA,
            Self::Frame(FrameError::ByteOrder { .. })
            | Self::Pdu(_)
            | Self::NotBound
            | Self::NoContext
            | Self::FragmentSequence
            | Self::FragmentsTooLong { .. } => FaultStatus::PROTOCOL,
            _ => return None,
        })
    }
}

/// A KMS request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The version in clear, if the message is long enough to have one.
    pub version: Option<Version>,
    /// What the client asked, if the message could be opened.
    pub request: Option<BaseRequest>,
    /// The answer or the refusal.
    pub verdict: Verdict,
}

/// What became of a KMS request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was answered.
    Answered {
        /// With this.
        response: BaseResponse,
        /// And this, in V6.
        hardware_id: Option<[u8; 8]>,
    },
    /// It was refused.
    Refused(Refusal),
}

/// Why a KMS request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It could not be opened: unknown version, wrong length, or a seal that is
    /// not the suite's.
    Message(MessageError),
    /// It asks for a host with more than [`MAX_MIN_CLIENTS`] clients.
    MinClients,
    /// The client's clock is more than four hours off.
    ClientTime,
    /// Its class is sold one by one, or a beta.
    RetailOrBeta,
    /// Its class is not in the catalogue.
    UnknownProduct,
    /// Its class belongs to another application.
    WrongApplication,
    /// The list of clients is full for good.
    TooManyClients,
}

impl Refusal {
    /// The code that the client is told.
    #[must_use]
    pub fn hresult(&self) -> HResult {
        HResult(match self {
            Self::Message(_) | Self::MinClients => 0x8007_000D,
            Self::ClientTime => 0xC004_F06C,
            Self::RetailOrBeta | Self::UnknownProduct | Self::WrongApplication => 0xC004_F042,
            Self::TooManyClients => 0xC004_D104,
        })
    }
}

#[cfg(test)]
mod tests;
