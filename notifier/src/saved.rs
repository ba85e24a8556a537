//! What is kept of one log between two runs: how far it was read, and what of it
//! was not finished there.

use serde::{Deserialize, Serialize};

use crate::source::tail::Mark;

/// Bytes of unfinished reading that are kept of one log at most. The bounds of
/// its parts stay well below; only lines of a hostile length come near.
pub const MAX_UNFINISHED: usize = 4 << 20;

/// One log's state. It is written whole each time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLog {
    /// Where its files stand, oldest first; none where there was no file yet.
    pub marks: Vec<Mark>,
    /// What was begun before those places and is not finished.
    pub unfinished: Unfinished,
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
        rest.is_empty().then_some(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tail::{FileId, Print};
    use jiff::Timestamp;

    /// A change here needs a new schema version (`sink::state`).
    #[test]
    fn the_layout_of_version_1() {
        let mark = Mark {
            file: FileId {
                device: 1,
                inode: 300,
            },
            offset: 129,
            head: Print {
                length: 100,
                hash: [0x11; 16],
            },
            trail: Print {
                length: 29,
                hash: [0x22; 16],
            },
            seen_until: Some(Timestamp::UNIX_EPOCH),
        };
        let log = SavedLog {
            marks: vec![mark],
            unfinished: Unfinished {
                version: 1,
                requests: 2,
                bytes: vec![0xAA, 0xBB],
            },
        };
        let bytes = log.encode();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        insta::assert_snapshot!(hex, @"0101ac02810164111111111111111111111111111111111d222222222222222222222222222222220114313937302d30312d30315430303a30303a30305a010202aabb");
        assert_eq!(SavedLog::decode(&bytes), Some(log));
        assert_eq!(SavedLog::decode(&bytes[1..]), None);
        assert_eq!(SavedLog::decode(&[&bytes[..], &[0]].concat()), None);
    }
}
