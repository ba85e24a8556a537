//! Where a PDU begins and ends in a stream of bytes.

use crate::cursor::Reader;

use super::{Flags, HEADER_LEN, MAX_FRAGMENT, PacketType};

/// `packed_drep` of everything KMS sends: little-endian, ASCII, IEEE.
pub(super) const LITTLE_ENDIAN: [u8; 4] = [0x10, 0, 0, 0];

/// The common header (16 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `rpc_vers` and `rpc_vers_minor`: (5, 0).
    pub version: (u8, u8),
    /// What follows.
    pub packet_type: PacketType,
    /// `pfc_flags`
    pub flags: Flags,
    /// Length of the PDU in bytes, this header and a security trailer included.
    pub frag_length: u16,
    /// Length of the security token in bytes; 0 in KMS.
    pub auth_length: u16,
    /// Chosen by the client and echoed by the server.
    pub call_id: u32,
}

/// What the bytes received so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Not a whole PDU yet.
    NeedMore {
        /// How many bytes there must be, counted from the PDU's first: 16 until
        /// the header is there, then its `frag_length`.
        total: usize,
    },
    /// A whole PDU; the next one begins `header.frag_length` bytes on.
    Whole {
        /// Its header.
        header: Header,
        /// The `frag_length - 16` bytes after the header.
        body: &'a [u8],
    },
}

/// Bytes whose end cannot be found: after any of these the connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than its own header.
    #[error("frag_length {frag_length} is less than the header's 16")]
    TooShort {
        /// What the header says.
        frag_length: u16,
    },
    /// Longer than anybody may make us wait for.
    #[error("frag_length {frag_length} is more than {MAX_FRAGMENT}")]
    TooLong {
        /// What the header says.
        frag_length: u16,
    },
    /// Numbers are not little-endian. Legal in C706 and used by no KMS client;
    /// the lengths are left alone, since sloppy senders swap only some fields.
    #[error("data representation {drep:02x?} is not little-endian")]
    ByteOrder {
        /// The four bytes of `packed_drep`.
        drep: [u8; 4],
        /// `rpc_vers` and `rpc_vers_minor`
        version: (u8, u8),
        /// What it would be, for whoever answers.
        packet_type: PacketType,
        /// Its call id, read big-endian, for the same.
        call_id: u32,
    },
}

impl Header {
    /// Reads a header; whether its length makes sense is [`frame`]'s question.
    ///
    /// # Errors
    /// [`FrameError::ByteOrder`]
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [
            major,
            minor,
            packet_type,
            flags,
            drep @ ..,
            f0,
            f1,
            a0,
            a1,
            c0,
            c1,
            c2,
            c3,
        ] = *bytes;
        let version = (major, minor);
        let packet_type = PacketType::from_code(packet_type);
        // The high nibble is the integers' byte order. The low one (EBCDIC) and
        // the next byte (floating point) concern nothing that KMS sends.
        if drep[0] >> 4 != LITTLE_ENDIAN[0] >> 4 {
            let call_id = u32::from_be_bytes([c0, c1, c2, c3]);
            return Err(FrameError::ByteOrder {
                drep,
                version,
                packet_type,
                call_id,
            });
        }
        Ok(Self {
            version,
            packet_type,
            flags: Flags(flags),
            frag_length: u16::from_le_bytes([f0, f1]),
            auth_length: u16::from_le_bytes([a0, a1]),
            call_id: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }
}

/// Finds the first PDU in `received`, which begins at a PDU's first byte.
///
/// ```
/// use kms_core::pdu::{Frame, FrameError, frame};
///
/// let header = *b"\x05\x00\x12\x03\x10\x00\x00\x00\x10\x00\x00\x00\x02\x00\x00\x00";
/// assert_eq!(frame(&header[..7]), Ok(Frame::NeedMore { total: 16 }));
/// assert!(matches!(frame(&header), Ok(Frame::Whole { body: [], .. })));
///
/// let http = frame(b"GET / HTTP/1.1\r\nHost: kms\r\n\r\n");
/// assert!(matches!(http, Err(FrameError::ByteOrder { .. })));
/// ```
///
/// # Errors
/// [`FrameError`], as soon as the header is there.
pub fn frame(received: &[u8]) -> Result<Frame<'_>, FrameError> {
    let mut reader = Reader::new(received);
    let Ok(header) = reader.array() else {
        return Ok(Frame::NeedMore { total: HEADER_LEN });
    };
    let header = Header::decode(header)?;
    let frag_length = header.frag_length;
    if frag_length > MAX_FRAGMENT {
        return Err(FrameError::TooLong { frag_length });
    }
    let total = usize::from(frag_length);
    let body = total
        .checked_sub(HEADER_LEN)
        .ok_or(FrameError::TooShort { frag_length })?;
    Ok(match reader.take(body) {
        Ok(body) => Frame::Whole { header, body },
        Err(_) => Frame::NeedMore { total },
    })
}
