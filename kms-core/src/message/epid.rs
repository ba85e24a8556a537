//! The extended PID: what a host calls itself.

use std::fmt;
use std::str::FromStr;

use crate::cursor::{Reader, Writer};

use super::MessageError;

/// The longest extended PID in UTF-16 units, without its NUL.
pub const MAX_EPID_UNITS: usize = 63;

/// An extended PID: 0 to 63 UTF-16 units, none of them NUL. Free text as far as
/// the protocol goes; usually `PPPPP-GGGGG-KKK-KKKKKK-CC-LLLL-BBBBB.0000-DDDYYYY`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Epid {
    /// The rest is zeros, so that equal texts are equal.
    units: [u16; MAX_EPID_UNITS],
    len: u8,
}

/// Text or bytes that are no extended PID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpidError {
    /// On the wire it takes an even number of bytes from 2 to 128.
    #[error("an extended PID of {bytes} bytes, an even number from 2 to 128 expected")]
    Length {
        /// What the length field says.
        bytes: u32,
    },
    /// A NUL ends it, and there is no other.
    #[error("the extended PID must hold one NUL, at its end")]
    Nul,
    /// Text of more than [`MAX_EPID_UNITS`].
    #[error("the text has {units} UTF-16 units, an extended PID at most 63")]
    TooLong {
        /// How many it has.
        units: usize,
    },
}

impl Epid {
    /// Its UTF-16 units, without the NUL.
    #[must_use]
    pub fn units(&self) -> &[u16] {
        self.units.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Its length on the wire in bytes, with the NUL (`P` in the tables).
    #[must_use]
    pub fn wire_len(&self) -> usize {
        2 * (usize::from(self.len) + 1)
    }

    fn from_units(from: &[u16]) -> Result<Self, EpidError> {
        if from.contains(&0) {
            return Err(EpidError::Nul);
        }
        let mut units = [0; MAX_EPID_UNITS];
        let too_long = EpidError::TooLong { units: from.len() };
        let len = u8::try_from(from.len()).map_err(|_| too_long)?;
        let to = units.get_mut(..from.len()).ok_or(too_long)?;
        to.copy_from_slice(from);
        Ok(Self { units, len })
    }

    /// The length field and what it counts.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let bytes = reader.u32()?;
        let length = usize::try_from(bytes).ok().filter(|bytes| {
            bytes.is_multiple_of(2) && (2..=2 * (MAX_EPID_UNITS + 1)).contains(bytes)
        });
        let text = reader.take(length.ok_or(EpidError::Length { bytes })?)?;
        let (pairs, _) = text.as_chunks();
        let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        let units = units.strip_suffix(&[0]).ok_or(EpidError::Nul)?;
        Ok(Self::from_units(units)?)
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.u32(2 * (u32::from(self.len) + 1));
        writer.units(self.units());
        writer.u16(0);
    }
}

impl FromStr for Epid {
    type Err = EpidError;

    fn from_str(text: &str) -> Result<Self, EpidError> {
        // Bounded before it is collected: the text is an operator's, or a test's.
        let units: Vec<u16> = text.encode_utf16().take(MAX_EPID_UNITS + 1).collect();
        if units.len() > MAX_EPID_UNITS {
            let units = text.encode_utf16().count();
            return Err(EpidError::TooLong { units });
        }
        Self::from_units(&units)
    }
}

impl fmt::Display for Epid {
    /// Lossy, and not cleaned: see [`crate::text::clean`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf16_lossy(self.units()))
    }
}

impl fmt::Debug for Epid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}
