//! The base structures, the same in all protocol versions.

use std::borrow::Cow;
use std::fmt;

use uuid::Uuid;

use crate::cursor::{CursorError, Reader, Writer};
use crate::license::Status;
use crate::text;

use super::{Epid, FileTime, MessageError, Version};

/// Length of the workstation name's field in UTF-16 units.
pub const NAME_UNITS: usize = 64;

/// What a client asks (236 bytes). Every field is the client's word, and none is
/// checked here beyond its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseRequest {
    /// 4.0, 5.0 or 6.0.
    pub version: Version,
    /// 0 physical, 1 virtual; other values are illegal.
    pub virtual_machine: u32,
    /// The licence before this request; see [`BaseRequest::status`].
    pub license_status: u32,
    /// Minutes until that status ends; 0 is never.
    pub remaining_minutes: u32,
    /// The product's family.
    pub application_id: Uuid,
    /// The edition (SKU).
    pub activation_id: Uuid,
    /// The class that hosts decide by.
    pub kms_counted_id: Uuid,
    /// Who asks: the unit of counting.
    pub client_machine_id: Uuid,
    /// How many clients the host must know before this one activates (N).
    pub min_clients: u32,
    /// The client's clock.
    pub client_time: FileTime,
    /// Who it was before; zeros if it always was the same.
    pub previous_client_machine_id: Uuid,
    /// What it calls itself.
    pub workstation: WorkstationName,
}

/// What a host answers (44 bytes and the extended PID).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseResponse {
    /// The request's.
    pub version: Version,
    /// What the host calls itself.
    pub epid: Epid,
    /// The request's.
    pub client_machine_id: Uuid,
    /// The request's.
    pub client_time: FileTime,
    /// How many clients the host counts for this application.
    pub active_clients: u32,
    /// Minutes between attempts while not activated.
    pub activation_interval: u32,
    /// Minutes between renewals once activated.
    pub renewal_interval: u32,
}

/// A workstation name as sent: 64 UTF-16 units, of which those before the first
/// NUL are the name. Hostile text: surrogates without partners, controls, line
/// feeds, and no NUL at all occur.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WorkstationName(pub [u16; NAME_UNITS]);

/// A text of more than 63 UTF-16 units, which leave no room for the NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a workstation name has at most 63 UTF-16 units, this one has {units}")]
pub struct NameTooLong {
    /// How many it has.
    pub units: usize,
}

impl BaseRequest {
    /// Length on the wire in bytes.
    pub const LEN: usize = 236;

    /// What the client says of its licence.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from_code(self.license_status)
    }

    /// Reads one from exactly these bytes.
    ///
    /// # Errors
    /// [`CursorError`] with another number of bytes than [`BaseRequest::LEN`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CursorError> {
        let mut reader = Reader::new(bytes);
        let request = Self {
            version: Version::decode(&mut reader)?,
            virtual_machine: reader.u32()?,
            license_status: reader.u32()?,
            remaining_minutes: reader.u32()?,
            application_id: reader.guid()?,
            activation_id: reader.guid()?,
            kms_counted_id: reader.guid()?,
            client_machine_id: reader.guid()?,
            min_clients: reader.u32()?,
            client_time: FileTime(reader.u64()?),
            previous_client_machine_id: reader.guid()?,
            workstation: WorkstationName::decode(&mut reader)?,
        };
        reader.finish()?;
        Ok(request)
    }

    /// Appends its [`BaseRequest::LEN`] bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.u16(self.version.minor);
        writer.u16(self.version.major);
        writer.u32(self.virtual_machine);
        writer.u32(self.license_status);
        writer.u32(self.remaining_minutes);
        writer.guid(self.application_id);
        writer.guid(self.activation_id);
        writer.guid(self.kms_counted_id);
        writer.guid(self.client_machine_id);
        writer.u32(self.min_clients);
        writer.u64(self.client_time.0);
        writer.guid(self.previous_client_machine_id);
        writer.units(&self.workstation.0);
    }
}

impl BaseResponse {
    /// Length on the wire in bytes, without the extended PID.
    pub const FIXED_LEN: usize = 44;

    /// Length on the wire in bytes.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        Self::FIXED_LEN + self.epid.wire_len()
    }

    /// Reads one from exactly these bytes.
    ///
    /// # Errors
    /// [`MessageError::Cursor`] and [`MessageError::Epid`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes);
        let response = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(response)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        Ok(Self {
            version: Version::decode(reader)?,
            epid: Epid::decode(reader)?,
            client_machine_id: reader.guid()?,
            client_time: FileTime(reader.u64()?),
            active_clients: reader.u32()?,
            activation_interval: reader.u32()?,
            renewal_interval: reader.u32()?,
        })
    }

    /// Appends its [`BaseResponse::wire_len`] bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.u16(self.version.minor);
        writer.u16(self.version.major);
        self.epid.encode(&mut writer);
        writer.guid(self.client_machine_id);
        writer.u64(self.client_time.0);
        writer.u32(self.active_clients);
        writer.u32(self.activation_interval);
        writer.u32(self.renewal_interval);
    }
}

impl WorkstationName {
    /// The name's units: those before the first NUL, or all 64.
    #[must_use]
    pub fn units(&self) -> &[u16] {
        let end = self.0.iter().position(|unit| *unit == 0);
        self.0.get(..end.unwrap_or(NAME_UNITS)).unwrap_or_default()
    }

    /// The name as one line that can be shown anywhere: at most 64 characters,
    /// with a mark for each that would not show as itself.
    ///
    /// ```
    /// use kms_core::message::WorkstationName;
    ///
    /// let name: WorkstationName = "PC1\n2026-01-01: forged".parse()?;
    /// assert_eq!(name.cleaned(), "PC1\u{FFFD}2026-01-01: forged");
    /// # Ok::<(), kms_core::message::NameTooLong>(())
    /// ```
    #[must_use]
    pub fn cleaned(&self) -> String {
        self.cleaned_in(&mut [0; NAME_UNITS]).into_owned()
    }

    /// The same; most names take no more than this room.
    pub(crate) fn cleaned_in<'a>(&self, room: &'a mut [u8; NAME_UNITS]) -> Cow<'a, str> {
        text::clean_utf16(self.units(), room)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, CursorError> {
        let bytes: &[u8; 2 * NAME_UNITS] = reader.array()?;
        let (pairs, _) = bytes.as_chunks();
        let mut units = [0; NAME_UNITS];
        for (unit, pair) in units.iter_mut().zip(pairs) {
            *unit = u16::from_le_bytes(*pair);
        }
        Ok(Self(units))
    }
}

impl std::str::FromStr for WorkstationName {
    type Err = NameTooLong;

    fn from_str(text: &str) -> Result<Self, NameTooLong> {
        let count = text.encode_utf16().count();
        if count >= NAME_UNITS {
            return Err(NameTooLong { units: count });
        }
        let mut units = [0; NAME_UNITS];
        for (to, from) in units.iter_mut().zip(text.encode_utf16()) {
            *to = from;
        }
        Ok(Self(units))
    }
}

impl fmt::Debug for WorkstationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf16_lossy(self.units()))
    }
}
