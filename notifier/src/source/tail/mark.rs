//! A place in a file, in a form that outlives the process.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How much of a file's beginning is remembered to know it again. A log's first
/// kilobyte holds several lines with stamps, ports or ids that do not repeat.
pub(super) const HEAD_SIZE: usize = 1024;

/// What the file system calls a file while somebody holds it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// Number of the device.
    pub device: u64,
    /// Number of the inode on it.
    pub inode: u64,
}

impl FileId {
    pub(in crate::source) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Where a file was read to: enough to find the file and the place again after a
/// restart, whatever it is called by then.
///
/// An inode alone does not name a file for good (it is given to another one once
/// the file is gone, and device numbers change with a reboot), and a beginning
/// alone does not either (logs without stamps begin alike). So the bytes at the
/// beginning and the bytes directly before the place are kept as hashes: a file
/// in which both are found is this file, or a copy of it. Should two files agree
/// in that by chance, their events up to there have the same ids, so that nothing
/// new is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its file.
    pub file: FileId,
    /// Offset in bytes after the last line handed over, in a packed file that of
    /// its content.
    pub offset: u64,
    /// The file's first bytes, at most 1 KiB and not beyond `offset`.
    pub head: Print,
    /// The bytes directly before `offset`, at most 1 KiB.
    pub trail: Print,
    /// The latest time that any file of this log had been changed at when all of
    /// them were read to their ends: what was changed after it is news. Absent
    /// where the file system does not tell.
    pub seen_until: Option<Timestamp>,
}

impl Mark {
    pub(super) fn new(
        file: FileId,
        offset: u64,
        head: &[u8],
        trail: &[u8],
        seen_until: Option<Timestamp>,
    ) -> Self {
        let read = usize::try_from(offset).unwrap_or(usize::MAX);
        Self {
            file,
            offset,
            head: Print::of(head.get(..read).unwrap_or(head)),
            trail: Print::of(trail),
            seen_until,
        }
    }

    /// Whether this place is in `file`, by its content.
    pub(super) fn is_in(&self, file: &File, metadata: &Metadata) -> io::Result<bool> {
        let Some(before) = self.offset.checked_sub(self.trail.length.into()) else {
            return Ok(false);
        };
        Ok(metadata.len() >= self.offset
            && self.head.is_at(file, 0)?
            && self.trail.is_at(file, before)?)
    }
}

/// Some bytes, known again by their number and the first 128 bits of their SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// How many bytes; at most 1024.
    pub length: u16,
    /// Their hash.
    pub hash: [u8; 16],
}

impl Print {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        Self {
            length: u16::try_from(bytes.len()).unwrap_or(u16::MAX),
            hash: *digest.first_chunk().expect("32 bytes hold 16"),
        }
    }

    pub(super) fn is_of(&self, bytes: &[u8]) -> bool {
        *self == Self::of(bytes)
    }

    fn is_at(&self, file: &File, offset: u64) -> io::Result<bool> {
        let mut bytes = vec![0; self.length.into()];
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(self.is_of(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}
