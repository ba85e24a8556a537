//! The KMS messages: what a client tells of itself, what a host answers, and the
//! envelopes that protect both.
//!
//! [`BaseRequest`] and [`BaseResponse`] are the contents, the same in all
//! protocol versions. [`envelope`] puts them into the form of a version and takes
//! them out again, with a [`CipherSuite`](crate::cipher::CipherSuite) for what is
//! protected there.

mod base;
pub mod envelope;
mod epid;
mod filetime;

use std::fmt;

pub use base::{BaseRequest, BaseResponse, NAME_UNITS, NameTooLong, WorkstationName};
pub use epid::{Epid, EpidError, MAX_EPID_UNITS};
pub use filetime::FileTime;

use crate::catalog::Protocol;
use crate::cursor::{CursorError, Reader};

/// The version that every message begins with, in clear. Any two numbers, until
/// [`Version::protocol`] knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// 4, 5 or 6.
    pub major: u16,
    /// 0
    pub minor: u16,
}

/// Why a message cannot be read, or not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A field reaches beyond the message, or bytes are left over.
    #[error("message of the wrong length: {0}")]
    Cursor(#[from] CursorError),
    /// A version that nobody speaks.
    #[error("KMS version {0} unsupported")]
    Version(Version),
    /// Not the one length that a request of this version has.
    #[error("{actual} bytes, a KMS {version} request has {expected}")]
    Length {
        /// The version in clear.
        version: Version,
        /// 252 or 260.
        expected: usize,
        /// How many there are.
        actual: usize,
    },
    /// Not sealed by this suite, or changed since.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The extended PID is not one.
    #[error(transparent)]
    Epid(#[from] EpidError),
}

/// What a cipher suite found wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// V4: the tag over the message.
    #[error("the message's tag is not this suite's")]
    Tag,
    /// V5, V6: the protected region is no whole number of blocks.
    #[error("protected region of {length} bytes, a multiple of 16 expected")]
    Blocks {
        /// Its length in bytes.
        length: usize,
    },
    /// V5, V6: what fills the last block.
    #[error("the padding is not this suite's")]
    Padding,
    /// V5, V6: the version inside differs from the one in clear.
    #[error("version {inner} inside, {outer} outside")]
    InnerVersion {
        /// The version in clear.
        outer: Version,
        /// The version in the protected region; any numbers if the seal is foreign.
        inner: Version,
    },
    /// V5, V6 response: it answers another request (check field A).
    #[error("the response answers another request")]
    RequestCheck,
    /// V5, V6 response: its contents were changed (check field B).
    #[error("the response's digest does not match")]
    ResponseCheck,
    /// V6 response: the hardware id was changed (check field C).
    #[error("the hardware id's check does not match")]
    HardwareCheck,
    /// V6 response: the tag over the whole.
    #[error("the response's integrity tag does not match")]
    Integrity,
}

impl Version {
    /// The version at the start of a message.
    ///
    /// # Errors
    /// [`CursorError::Short`] with less than four bytes.
    pub fn detect(message: &[u8]) -> Result<Self, CursorError> {
        Self::decode(&mut Reader::new(message))
    }

    /// The protocol with exactly this version.
    #[must_use]
    pub fn protocol(self) -> Option<Protocol> {
        match (self.major, self.minor) {
            (4, 0) => Some(Protocol::V4),
            (5, 0) => Some(Protocol::V5),
            (6, 0) => Some(Protocol::V6),
            _ => None,
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, CursorError> {
        let minor = reader.u16()?;
        let major = reader.u16()?;
        Ok(Self { major, minor })
    }
}

impl From<Protocol> for Version {
    fn from(protocol: Protocol) -> Self {
        let major = match protocol {
            Protocol::V4 => 4,
            Protocol::V5 => 5,
            Protocol::V6 => 6,
        };
        Self { major, minor: 0 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests;
