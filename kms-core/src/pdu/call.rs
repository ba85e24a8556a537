//! request, response and fault: a call and its outcome.

use uuid::Uuid;

use crate::cursor::{CursorError, Reader, Writer};

use super::Flags;

/// A call, or one fragment of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Length of the whole call's stub in bytes; a hint that nobody checks.
    pub alloc_hint: u32,
    /// Which of the bound contexts, and so which stub layout.
    pub context_id: u16,
    /// The operation; KMS has 0 only.
    pub opnum: u16,
    /// Object UUID, with [`Flags::OBJECT`]; KMS has none.
    pub object: Option<Uuid>,
    /// The arguments, see [`crate::stub`].
    pub stub: &'a [u8],
}

/// The answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// Length of the stub in bytes; a hint that nobody checks.
    pub alloc_hint: u32,
    /// The request's.
    pub context_id: u16,
    /// 0
    pub cancel_count: u8,
    /// The results, see [`crate::stub`].
    pub stub: &'a [u8],
}

/// A call that failed before or instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// 0 or 32; without meaning.
    pub alloc_hint: u32,
    /// The request's, or 0.
    pub context_id: u16,
    /// 0
    pub cancel_count: u8,
    /// Why.
    pub status: FaultStatus,
}

/// A fault's status code.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FaultStatus(pub u32);

impl FaultStatus {
    /// `nca_s_op_rng_error`: no such operation.
    pub const OPERATION_RANGE: Self = Self(0x1C01_0002);
    /// `nca_s_unk_if`: the context id is not bound.
    pub const UNKNOWN_INTERFACE: Self = Self(0x1C01_0003);
    /// `nca_s_proto_error`: version, state or fragment sequence.
    pub const PROTOCOL: Self = Self(0x1C01_000B);
    /// `nca_s_server_too_busy`
    pub const TOO_BUSY: Self = Self(0x1C01_0014);
    /// `RPC_X_BAD_STUB_DATA`: the arguments cannot be read.
    pub const BAD_STUB_DATA: Self = Self(0x0000_06F7);
    /// Authentication required or unexpected.
    pub const ACCESS_DENIED: Self = Self(0x0000_0005);

    /// The code's name in the standard, for those named here.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::OPERATION_RANGE => "nca_s_op_rng_error",
            Self::UNKNOWN_INTERFACE => "nca_s_unk_if",
            Self::PROTOCOL => "nca_s_proto_error",
            Self::TOO_BUSY => "nca_s_server_too_busy",
            Self::BAD_STUB_DATA => "RPC_X_BAD_STUB_DATA",
            Self::ACCESS_DENIED => "access denied",
            _ => return None,
        })
    }
}

impl std::fmt::Display for FaultStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{:08X}", self.0)?;
        self.name().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

impl std::fmt::Debug for FaultStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl<'a> Request<'a> {
    pub(super) fn decode(flags: Flags, mut reader: Reader<'a>) -> Result<Self, CursorError> {
        Ok(Self {
            alloc_hint: reader.u32()?,
            context_id: reader.u16()?,
            opnum: reader.u16()?,
            object: flags
                .contains(Flags::OBJECT)
                .then(|| reader.guid())
                .transpose()?,
            stub: reader.rest(),
        })
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.u32(self.alloc_hint);
        writer.u16(self.context_id);
        writer.u16(self.opnum);
        if let Some(object) = self.object {
            writer.guid(object);
        }
        writer.bytes(self.stub);
    }
}

impl<'a> Response<'a> {
    pub(super) fn decode(mut reader: Reader<'a>) -> Result<Self, CursorError> {
        let alloc_hint = reader.u32()?;
        let context_id = reader.u16()?;
        let cancel_count = reader.u8()?;
        reader.u8()?; // reserved
        Ok(Self {
            alloc_hint,
            context_id,
            cancel_count,
            stub: reader.rest(),
        })
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.u32(self.alloc_hint);
        writer.u16(self.context_id);
        writer.bytes(&[self.cancel_count, 0]);
        writer.bytes(self.stub);
    }
}

impl Fault {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CursorError> {
        let alloc_hint = reader.u32()?;
        let context_id = reader.u16()?;
        let cancel_count = reader.u8()?;
        reader.u8()?; // reserved
        // Four reserved bytes follow, which some servers leave out.
        Ok(Self {
            alloc_hint,
            context_id,
            cancel_count,
            status: FaultStatus(reader.u32()?),
        })
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.u32(self.alloc_hint);
        writer.u16(self.context_id);
        writer.bytes(&[self.cancel_count, 0]);
        writer.u32(self.status.0);
        writer.u32(0);
    }
}
