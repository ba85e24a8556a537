//! DCE/RPC connection-oriented PDUs, as far as KMS uses them (C706 chapter 12,
//! [MS-RPCE] 2.2.2).
//!
//! Two steps, both without a buffer of their own: [`frame`] finds where a PDU
//! ends in what was received so far, and [`Pdu::decode`] reads one. "More bytes
//! needed" is a [`Frame`], not an error, and the announced length is held
//! against [`MAX_FRAGMENT`] before a caller has any reason to wait for it.

mod bind;
mod call;
mod frame;

pub use bind::{
    BTFN_PREFIX, Bind, BindAck, BindNak, ContextAnswer, ContextElement, KMS_INTERFACE, NDR32,
    NDR64, NakReason, RejectReason, SyntaxId,
};
pub use call::{Fault, FaultStatus, Request, Response};
pub use frame::{Frame, FrameError, Header, frame};

use crate::cursor::{CursorError, Reader, Writer};

/// Length of the header that begins every PDU, in bytes.
pub const HEADER_LEN: usize = 16;

/// The longest fragment taken or sent, in bytes with its header. Windows offers
/// 5840 (four Ethernet segments) and nothing in KMS comes near it.
pub const MAX_FRAGMENT: u16 = 5840;

/// What a PDU is (header, offset 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum PacketType {
    Request,
    Response,
    Fault,
    Bind,
    BindAck,
    BindNak,
    AlterContext,
    AlterContextResponse,
    Auth3,
    Shutdown,
    CoCancel,
    Orphaned,
    /// Any other number: connectionless types, or no RPC at all.
    Other(u8),
}

impl PacketType {
    const CODES: [(u8, Self); 12] = [
        (0, Self::Request),
        (2, Self::Response),
        (3, Self::Fault),
        (11, Self::Bind),
        (12, Self::BindAck),
        (13, Self::BindNak),
        (14, Self::AlterContext),
        (15, Self::AlterContextResponse),
        (16, Self::Auth3),
        (17, Self::Shutdown),
        (18, Self::CoCancel),
        (19, Self::Orphaned),
    ];

    /// The type behind a number on the wire.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        let row = Self::CODES.iter().find(|(known, _)| *known == code);
        row.map_or(Self::Other(code), |(_, kind)| *kind)
    }

    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        if let Self::Other(code) = self {
            return code;
        }
        let row = Self::CODES.iter().find(|(_, kind)| *kind == self);
        // Every variant but `Other` has a row; the test goes through them.
        row.map_or(u8::MAX, |(code, _)| *code)
    }
}

/// The bits of `pfc_flags` (header, offset 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// First fragment of a call.
    pub const FIRST: Self = Self(0x01);
    /// Last fragment of a call.
    pub const LAST: Self = Self(0x02);
    /// The whole call in one fragment: all that KMS needs.
    pub const WHOLE: Self = Self(0x03);
    /// Several calls may be under way at once (bind).
    pub const CONC_MPX: Self = Self(0x10);
    /// A fault for a call that was never executed.
    pub const DID_NOT_EXECUTE: Self = Self(0x20);
    /// A request carries an object UUID before its stub.
    pub const OBJECT: Self = Self(0x80);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These bits and those of `other`.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These bits without those of `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// One PDU. Version 5.0 and little-endian byte order are implied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pdu<'a> {
    /// [`Flags::WHOLE`], and what the type adds.
    pub flags: Flags,
    /// Chosen by the client and echoed by the server.
    pub call_id: u32,
    /// The rest.
    pub body: Body<'a>,
}

/// What follows the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// A call, or a fragment of one.
    Request(Request<'a>),
    /// Its answer.
    Response(Response<'a>),
    /// Its failure at the RPC level.
    Fault(Fault),
    /// Opens an association.
    Bind(Bind),
    /// Answers a bind, context by context.
    BindAck(BindAck),
    /// Refuses a bind altogether.
    BindNak(BindNak),
    /// Adds contexts to an association.
    AlterContext(Bind),
    /// Answers that.
    AlterContextResponse(BindAck),
    /// A type that KMS gives no meaning to; its bytes as they are.
    Other(PacketType, &'a [u8]),
}

/// Why a framed PDU cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    /// A field reaches beyond the PDU.
    #[error("PDU too short: {0}")]
    Cursor(#[from] CursorError),
    /// Another version than 5.0.
    #[error("RPC version {major}.{minor}, 5.0 expected")]
    Version {
        /// `rpc_vers`
        major: u8,
        /// `rpc_vers_minor`
        minor: u8,
    },
    /// A security trailer, which KMS never has.
    #[error("authentication of {auth_length} bytes, none expected")]
    Authentication {
        /// `auth_length`, not 0.
        auth_length: u16,
    },
    /// To be written: longer than [`MAX_FRAGMENT`].
    #[error("PDU of {length} bytes, at most {MAX_FRAGMENT} fit a fragment")]
    TooLong {
        /// The length it would have.
        length: usize,
    },
    /// To be written: a list longer than its count's 8 or 16 bits.
    #[error("list of {count} entries is longer than its count can say")]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

impl<'a> Pdu<'a> {
    /// Reads the PDU that [`frame`] found: `body` is what follows the header.
    ///
    /// # Errors
    /// [`PduError`], of which the last two do not occur.
    pub fn decode(header: &Header, body: &'a [u8]) -> Result<Self, PduError> {
        let (major, minor) = header.version;
        if (major, minor) != (5, 0) {
            return Err(PduError::Version { major, minor });
        }
        if header.auth_length != 0 {
            let auth_length = header.auth_length;
            return Err(PduError::Authentication { auth_length });
        }
        let mut reader = Reader::new(body);
        let body = match header.packet_type {
            PacketType::Request => Body::Request(Request::decode(header.flags, reader)?),
            PacketType::Response => Body::Response(Response::decode(reader)?),
            PacketType::Fault => Body::Fault(Fault::decode(&mut reader)?),
            PacketType::Bind => Body::Bind(Bind::decode(&mut reader)?),
            PacketType::BindAck => Body::BindAck(BindAck::decode(&mut reader)?),
            PacketType::BindNak => Body::BindNak(BindNak::decode(&mut reader)?),
            PacketType::AlterContext => Body::AlterContext(Bind::decode(&mut reader)?),
            PacketType::AlterContextResponse => {
                Body::AlterContextResponse(BindAck::decode(&mut reader)?)
            }
            other => Body::Other(other, body),
        };
        Ok(Self {
            flags: header.flags,
            call_id: header.call_id,
            body,
        })
    }

    /// Appends the PDU with its header to `out`.
    ///
    /// The OBJECT flag follows from the body, whatever `flags` say.
    ///
    /// # Errors
    /// [`PduError::TooLong`] and [`PduError::TooMany`]; `out` is as before then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), PduError> {
        let start = out.len();
        let written = self.write(out, start);
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    fn write(&self, out: &mut Vec<u8>, start: usize) -> Result<(), PduError> {
        let mut flags = self.flags.without(Flags::OBJECT);
        if matches!(&self.body, Body::Request(request) if request.object.is_some()) {
            flags = flags.with(Flags::OBJECT);
        }
        let mut writer = Writer::new(out);
        writer.bytes(&[5, 0, self.body.packet_type().code(), flags.0]);
        writer.bytes(&frame::LITTLE_ENDIAN);
        writer.u16(0); // frag_length, known at the end
        writer.u16(0); // auth_length
        writer.u32(self.call_id);
        match &self.body {
            Body::Request(request) => request.encode(&mut writer),
            Body::Response(response) => response.encode(&mut writer),
            Body::Fault(fault) => fault.encode(&mut writer),
            Body::Bind(bind) | Body::AlterContext(bind) => bind.encode(&mut writer)?,
            Body::BindAck(ack) | Body::AlterContextResponse(ack) => ack.encode(&mut writer)?,
            Body::BindNak(nak) => nak.encode(&mut writer)?,
            Body::Other(_, bytes) => writer.bytes(bytes),
        }
        set_length(out, start)
    }
}

/// Appends a whole response with its header to `out`; its results are what `stub`
/// appends, so that they need no buffer of their own.
///
/// # Errors
/// [`PduError::TooLong`]; `out` is as before then.
pub fn encode_response<T>(
    call_id: u32,
    context_id: u16,
    out: &mut Vec<u8>,
    stub: impl FnOnce(&mut Vec<u8>) -> T,
) -> Result<T, PduError> {
    let start = out.len();
    let before = Response {
        alloc_hint: 0,
        context_id,
        cancel_count: 0,
        stub: &[],
    };
    let pdu = Pdu {
        flags: Flags::WHOLE,
        call_id,
        body: Body::Response(before),
    };
    pdu.encode(out)?;
    let stub_at = out.len();
    let result = stub(out);
    let alloc_hint = u32::try_from(out.len() - stub_at).unwrap_or(0);
    patch(out, start + HEADER_LEN, &alloc_hint.to_le_bytes());
    if let Err(error) = set_length(out, start) {
        out.truncate(start);
        return Err(error);
    }
    Ok(result)
}

/// Says in the header at `start` how long the PDU has become.
fn set_length(out: &mut [u8], start: usize) -> Result<(), PduError> {
    let length = out.len() - start;
    let frag_length = u16::try_from(length)
        .ok()
        .filter(|length| *length <= MAX_FRAGMENT)
        .ok_or(PduError::TooLong { length })?;
    patch(out, start + 8, &frag_length.to_le_bytes());
    Ok(())
}

fn patch(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = out.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

impl Body<'_> {
    /// The type that its header says.
    #[must_use]
    pub fn packet_type(&self) -> PacketType {
        match self {
            Self::Request(_) => PacketType::Request,
            Self::Response(_) => PacketType::Response,
            Self::Fault(_) => PacketType::Fault,
            Self::Bind(_) => PacketType::Bind,
            Self::BindAck(_) => PacketType::BindAck,
            Self::BindNak(_) => PacketType::BindNak,
            Self::AlterContext(_) => PacketType::AlterContext,
            Self::AlterContextResponse(_) => PacketType::AlterContextResponse,
            Self::Other(packet_type, _) => *packet_type,
        }
    }
}

#[cfg(test)]
mod tests;
