//! bind, alter_context and their answers: which interface in which encoding.

use uuid::{Uuid, uuid};

use crate::cursor::{CursorError, Reader, Writer};

use super::PduError;

/// The KMS interface, 1.0.
pub const KMS_INTERFACE: SyntaxId = SyntaxId {
    uuid: uuid!("51c82175-844e-4750-b0d8-ec255555bc06"),
    major: 1,
    minor: 0,
};

/// The transfer syntax with 32-bit counts, 2.0.
pub const NDR32: SyntaxId = SyntaxId {
    uuid: uuid!("8a885d04-1ceb-11c9-9fe8-08002b104860"),
    major: 2,
    minor: 0,
};

/// The transfer syntax with 64-bit counts, 1.0.
pub const NDR64: SyntaxId = SyntaxId {
    uuid: uuid!("71710533-beba-4937-8319-b5dbef9ccc36"),
    major: 1,
    minor: 0,
};

/// How the syntax of bind time feature negotiation begins on the wire; its last
/// eight bytes are a mask of features, little-endian ([MS-RPCE] 3.3.1.5.3).
pub const BTFN_PREFIX: [u8; 8] = [0x2c, 0x1c, 0xb7, 0x6c, 0x12, 0x98, 0x40, 0x45];

/// An interface or a transfer syntax with its version (20 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SyntaxId {
    /// What names it.
    pub uuid: Uuid,
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
}

/// bind and alter_context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Longest fragment the sender will send, in bytes.
    pub max_xmit_frag: u16,
    /// Longest fragment it takes, in bytes.
    pub max_recv_frag: u16,
    /// The group to join; 0 for a new one.
    pub assoc_group_id: u32,
    /// What is offered, at most 255.
    pub contexts: Vec<ContextElement>,
}

/// One offer: an interface, and the transfer syntaxes it could be spoken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextElement {
    /// What requests will name it by.
    pub id: u16,
    /// The interface.
    pub interface: SyntaxId,
    /// Best first, at most 255; one in practice.
    pub transfer_syntaxes: Vec<SyntaxId>,
}

/// bind_ack and alter_context_resp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindAck {
    /// Longest fragment, as in the bind.
    pub max_xmit_frag: u16,
    /// Longest fragment, as in the bind.
    pub max_recv_frag: u16,
    /// Chosen by the server, not 0.
    pub assoc_group_id: u32,
    /// The server's port in ASCII with a NUL at its end; empty in
    /// alter_context_resp.
    pub secondary_address: Vec<u8>,
    /// One answer for each offer, in the same order.
    pub answers: Vec<ContextAnswer>,
}

/// The answer to one offer (24 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextAnswer {
    /// 0 accepted, 1 and 2 rejected by user or provider, 3 features negotiated.
    pub result: u16,
    /// With result 2 a [`RejectReason`], with result 3 the mask of features.
    pub reason: u16,
    /// The accepted transfer syntax, else zeros.
    pub syntax: SyntaxId,
}

/// Why an offer was rejected by the provider (result 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum RejectReason {
    /// No reason given.
    Unspecified = 0,
    /// The interface or its version is not served.
    AbstractSyntax = 1,
    /// None of the transfer syntaxes is spoken, or another one was preferred.
    TransferSyntaxes = 2,
    /// The association has as many contexts as it may.
    LocalLimit = 3,
}

/// bind_nak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindNak {
    /// Why.
    pub reason: NakReason,
    /// The versions that the server speaks, (major, minor).
    pub versions: Vec<(u8, u8)>,
}

/// Why a bind was refused altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NakReason(pub u16);

impl NakReason {
    /// No reason given.
    pub const UNSPECIFIED: Self = Self(0);
    /// Try again later.
    pub const CONGESTION: Self = Self(1);
    /// Too many of something.
    pub const LOCAL_LIMIT: Self = Self(2);
    /// See `versions`.
    pub const VERSION: Self = Self(4);
    /// Authentication was asked for and is not known.
    pub const AUTHENTICATION: Self = Self(8);
}

impl SyntaxId {
    const ZERO: Self = Self {
        uuid: Uuid::nil(),
        major: 0,
        minor: 0,
    };

    /// The offered features, if this is bind time feature negotiation.
    #[must_use]
    pub fn btfn_features(&self) -> Option<u16> {
        let wire = self.uuid.to_bytes_le();
        match wire.strip_prefix(&BTFN_PREFIX) {
            Some([low, high, ..]) => Some(u16::from_le_bytes([*low, *high])),
            _ => None,
        }
    }

    /// The syntax that offers these features.
    #[must_use]
    pub fn btfn(features: u16) -> Self {
        let mut wire = [0; 16];
        let fields = BTFN_PREFIX.into_iter().chain(features.to_le_bytes());
        for (to, from) in wire.iter_mut().zip(fields) {
            *to = from;
        }
        Self {
            uuid: Uuid::from_bytes_le(wire),
            major: 1,
            minor: 0,
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, CursorError> {
        Ok(Self {
            uuid: reader.guid()?,
            major: reader.u16()?,
            minor: reader.u16()?,
        })
    }

    fn encode(&self, writer: &mut Writer<'_>) {
        writer.guid(self.uuid);
        writer.u16(self.major);
        writer.u16(self.minor);
    }
}

impl Bind {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CursorError> {
        let max_xmit_frag = reader.u16()?;
        let max_recv_frag = reader.u16()?;
        let assoc_group_id = reader.u32()?;
        let count = reader.u8()?;
        // Reserved, and no part of the count whatever they hold.
        reader.take(3)?;
        // The lists grow with the bytes that are there, not with their counts.
        let mut contexts = Vec::new();
        for _ in 0..count {
            contexts.push(ContextElement::decode(reader)?);
        }
        Ok(Self {
            max_xmit_frag,
            max_recv_frag,
            assoc_group_id,
            contexts,
        })
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), PduError> {
        writer.u16(self.max_xmit_frag);
        writer.u16(self.max_recv_frag);
        writer.u32(self.assoc_group_id);
        writer.bytes(&[count_u8(self.contexts.len())?, 0, 0, 0]);
        for context in &self.contexts {
            writer.u16(context.id);
            writer.bytes(&[count_u8(context.transfer_syntaxes.len())?, 0]);
            context.interface.encode(writer);
            for syntax in &context.transfer_syntaxes {
                syntax.encode(writer);
            }
        }
        Ok(())
    }
}

impl ContextElement {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, CursorError> {
        let id = reader.u16()?;
        let count = reader.u8()?;
        reader.u8()?; // reserved
        let interface = SyntaxId::decode(reader)?;
        let mut transfer_syntaxes = Vec::new();
        for _ in 0..count {
            transfer_syntaxes.push(SyntaxId::decode(reader)?);
        }
        Ok(Self {
            id,
            interface,
            transfer_syntaxes,
        })
    }
}

impl BindAck {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CursorError> {
        let max_xmit_frag = reader.u16()?;
        let max_recv_frag = reader.u16()?;
        let assoc_group_id = reader.u32()?;
        let address_len = reader.u16()?;
        let secondary_address = reader.take(usize::from(address_len))?.to_vec();
        // Alignment counts from the PDU's start, 16 bytes before the reader's.
        reader.align(4)?;
        let count = reader.u8()?;
        reader.take(3)?; // reserved
        let mut answers = Vec::new();
        for _ in 0..count {
            answers.push(ContextAnswer {
                result: reader.u16()?,
                reason: reader.u16()?,
                syntax: SyntaxId::decode(reader)?,
            });
        }
        Ok(Self {
            max_xmit_frag,
            max_recv_frag,
            assoc_group_id,
            secondary_address,
            answers,
        })
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), PduError> {
        writer.u16(self.max_xmit_frag);
        writer.u16(self.max_recv_frag);
        writer.u32(self.assoc_group_id);
        let count = self.secondary_address.len();
        writer.u16(u16::try_from(count).map_err(|_| PduError::TooMany { count })?);
        writer.bytes(&self.secondary_address);
        writer.align(4);
        writer.bytes(&[count_u8(self.answers.len())?, 0, 0, 0]);
        for answer in &self.answers {
            writer.u16(answer.result);
            writer.u16(answer.reason);
            answer.syntax.encode(writer);
        }
        Ok(())
    }
}

impl ContextAnswer {
    /// Result 0: requests may use it in this syntax.
    #[must_use]
    pub fn accepted(syntax: SyntaxId) -> Self {
        Self {
            result: 0,
            reason: 0,
            syntax,
        }
    }

    /// Result 2: the provider rejects it.
    #[must_use]
    pub fn rejected(reason: RejectReason) -> Self {
        Self {
            result: 2,
            reason: reason as u16,
            syntax: SyntaxId::ZERO,
        }
    }

    /// Result 3: these features are in force; no request can use it.
    #[must_use]
    pub fn negotiated(features: u16) -> Self {
        Self {
            result: 3,
            reason: features,
            syntax: SyntaxId::ZERO,
        }
    }

    /// Whether requests may use the context.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.result == 0
    }
}

impl BindNak {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CursorError> {
        let reason = NakReason(reader.u16()?);
        let count = reader.u8()?;
        let mut versions = Vec::new();
        for _ in 0..count {
            versions.push((reader.u8()?, reader.u8()?));
        }
        // A signature and extended error data may follow.
        Ok(Self { reason, versions })
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), PduError> {
        writer.u16(self.reason.0);
        writer.u8(count_u8(self.versions.len())?);
        for (major, minor) in &self.versions {
            writer.bytes(&[*major, *minor]);
        }
        Ok(())
    }
}

fn count_u8(count: usize) -> Result<u8, PduError> {
    u8::try_from(count).map_err(|_| PduError::TooMany { count })
}
