//! What is kept of one log between two runs: how far it was read, and what of it
//! was not finished there.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::source::tail::{FileId, MAX_OLD_FILES, Position};

/// Bytes of unfinished reading that are kept of one log at most. The bounds of
/// its parts stay well below; only lines of a hostile length come near.
pub const MAX_UNFINISHED: usize = 4 << 20;

/// One log's state. It is written whole each time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLog {
    /// Where its files stand, oldest first.
    pub positions: Vec<SavedPosition>,
    /// What was begun before those positions and is not finished.
    pub unfinished: Unfinished,
}

/// How far one file was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPosition {
    /// Number of its device.
    pub device: u64,
    /// Number of its inode there.
    pub inode: u64,
    /// SHA-256 of its first [`Self::head_length`] bytes: another file may have
    /// the same inode by now.
    pub head: [u8; 32],
    /// At most 1 KiB.
    pub head_length: u16,
    /// Offset in bytes after the last line that was taken.
    pub offset: u64,
}

impl SavedPosition {
    /// Whether this is the file that was read, as far as its number goes.
    #[must_use]
    pub fn file(&self) -> FileId {
        FileId {
            device: self.device,
            inode: self.inode,
        }
    }
}

impl From<Position<'_>> for SavedPosition {
    fn from(position: Position<'_>) -> Self {
        Self {
            device: position.file.device,
            inode: position.file.inode,
            head: Sha256::digest(position.head).into(),
            head_length: u16::try_from(position.head.len()).unwrap_or(u16::MAX),
            offset: position.offset,
        }
    }
}

/// The reader's own state in a layout of its own: one that another version wrote
/// is dropped, and the rest of the log's state is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// Version of the layout of `bytes`; 0 where there is none.
    pub version: u16,
    /// How many requests are in it, for whoever cannot read it.
    pub requests: u32,
    /// At most [`MAX_UNFINISHED`].
    pub bytes: Vec<u8>,
}

impl SavedLog {
    /// As bytes.
    ///
    /// # Panics
    /// Never: plain values are written without fail.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain values are written without fail")
    }

    /// Out of bytes; none if they are not its own.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (log, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        let fits = rest.is_empty() && log.positions.len() <= MAX_OLD_FILES + 1;
        fits.then_some(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change here needs a new schema version (`sink::state`).
    #[test]
    fn the_layout_of_version_1() {
        let position = Position {
            generation: 7,
            file: FileId {
                device: 1,
                inode: 300,
            },
            head: b"head",
            offset: 129,
        };
        let log = SavedLog {
            positions: vec![position.into()],
            unfinished: Unfinished {
                version: 1,
                requests: 2,
                bytes: vec![0xAA, 0xBB],
            },
        };
        let bytes = log.encode();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        insta::assert_snapshot!(hex, @"0101ac029f2e6d33a3717ee826353a404ba4618d1aeeb6879ad7936bce8ed5f46814924d048101010202aabb");
        assert_eq!(SavedLog::decode(&bytes), Some(log));
        assert_eq!(SavedLog::decode(&bytes[1..]), None);
        assert_eq!(SavedLog::decode(&[&bytes[..], &[0]].concat()), None);
    }
}
