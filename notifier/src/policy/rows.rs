//! What the policy keeps, as rows of bytes: all that a durable twin has to know.
//!
//! Every room of the policy notes which of its rows changed (`Changed`). What
//! is in the rows is the policy's own business; the layout of each table is
//! pinned by a test beside the code that writes it.

use std::collections::HashSet;
use std::hash::Hash;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most changes that are noted one by one; beyond that everything is written
/// anew. Twice the keys that the dedup window holds.
const MAX_NOTED: usize = 8192;

/// A table of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// The dedup window: who was told about what.
    Window,
    /// Messages that are not told yet, by number.
    Outbox,
    /// Messages that were refused for good, by number.
    DeadLetters,
    /// By log, the events that were decided after its last stored position.
    Known,
    /// What is single: the pace and counts, and the sidecar's name.
    Rest,
}

impl Table {
    /// All tables of the policy, in their order.
    pub const ALL: [Self; 5] = [
        Self::Window,
        Self::Outbox,
        Self::DeadLetters,
        Self::Known,
        Self::Rest,
    ];
}

/// A row to write, or to remove where it has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where.
    pub table: Table,
    /// The row's key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

/// What has to be written for the stored rows to be the policy's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// These rows are all there are: whatever else is stored is to go.
    pub whole: bool,
    /// The rows.
    pub rows: Vec<Row>,
}

/// A stored row cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of the table {0:?} cannot be read")]
pub struct Unreadable(pub Table);

/// Rows that were stored, by table and key.
pub type Stored = Vec<(Table, Vec<u8>, Vec<u8>)>;

/// Writes a value.
pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let bytes = postcard::to_stdvec(value).expect("plain values are written without fail");
    // Ten thousand of them may be on their way to the disk: without room to grow.
    bytes.into_boxed_slice().into_vec()
}

/// Reads a value that takes all of `bytes`.
pub(super) fn decode<T: DeserializeOwned>(table: Table, bytes: &[u8]) -> Result<T, Unreadable> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Unreadable(table)),
    }
}

/// Which rows changed since they were last taken.
#[derive(Debug, Default)]
pub(super) enum Changed<K> {
    /// Nobody will ask.
    #[default]
    Untracked,
    /// These.
    Some(HashSet<K>),
    /// Too many to tell.
    All,
}

impl<K: Eq + Hash> Changed<K> {
    /// From now on changes are noted.
    pub(super) fn track(&mut self) {
        if matches!(self, Self::Untracked) {
            *self = Self::Some(HashSet::new());
        }
    }

    pub(super) fn note(&mut self, key: impl FnOnce() -> K) {
        if let Self::Some(keys) = self {
            keys.insert(key());
            if keys.len() > MAX_NOTED {
                *self = Self::All;
            }
        }
    }

    /// Every row may have changed.
    pub(super) fn note_all(&mut self) {
        if !matches!(self, Self::Untracked) {
            *self = Self::All;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Untracked => true,
            Self::Some(keys) => keys.is_empty(),
            Self::All => false,
        }
    }

    pub(super) fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// The keys that were noted; nothing has changed since.
    pub(super) fn take(&mut self) -> HashSet<K> {
        match self {
            Self::Untracked => HashSet::new(),
            Self::Some(keys) => std::mem::take(keys),
            Self::All => {
                *self = Self::Some(HashSet::new());
                HashSet::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_changes_are_everything() {
        let mut changed = Changed::default();
        changed.note(|| 0);
        changed.note_all();
        assert!(changed.is_empty() && !changed.is_all(), "nobody asks");
        changed.track();
        for key in 0..MAX_NOTED {
            changed.note(|| key);
        }
        assert!(!changed.is_all());
        changed.note(|| MAX_NOTED);
        assert!(changed.is_all());
        changed.take();
        changed.note(|| 7);
        assert_eq!(changed.take(), HashSet::from([7]));
        assert!(changed.is_empty());
    }

    #[test]
    fn a_value_takes_all_its_bytes() {
        let bytes = encode(&(7_u64, "seven"));
        assert_eq!(decode(Table::Rest, &bytes), Ok((7_u64, "seven".to_owned())));
        let longer = [&bytes[..], &[0]].concat();
        let none = Err(Unreadable(Table::Rest));
        assert_eq!(decode::<(u64, String)>(Table::Rest, &longer), none);
        assert_eq!(decode::<(u64, String)>(Table::Rest, &bytes[..3]), none);
    }
}
