//! Messages that were refused for good, kept so that somebody can look at them
//! and have them told again.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::dedup::Key;
use super::message::Notice;
use super::rows::{Changed, Row, Table, Unreadable, decode, encode};

/// How many are kept; beyond that the oldest goes.
pub const MAX_DEAD: usize = 1000;

/// A message that was refused for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its number, which it keeps until it is retried or dropped.
    #[serde(skip)]
    pub id: u64,
    /// When.
    pub refused_at: Timestamp,
    /// The HTTP status that said so.
    pub status: u16,
    pub(super) key: Key,
    /// What it would have told.
    pub notice: Notice,
}

/// Which of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Every one.
    All,
    /// Those with these numbers.
    Ids(Vec<u64>),
}

impl Selection {
    fn holds(&self, letter: &DeadLetter) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => ids.contains(&letter.id),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    /// Oldest first.
    letters: VecDeque<DeadLetter>,
    changed: Changed<u64>,
    evicted: u64,
}

impl DeadLetters {
    pub(super) fn track(&mut self) {
        self.changed.track();
    }

    pub(super) fn changed(&self) -> &Changed<u64> {
        &self.changed
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &DeadLetter> {
        self.letters.iter()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn push(&mut self, letter: DeadLetter) {
        if self.letters.len() >= MAX_DEAD
            && let Some(oldest) = self.letters.pop_front()
        {
            self.evicted += 1;
            self.changed.note(|| oldest.id);
        }
        self.changed.note(|| letter.id);
        self.letters.push_back(letter);
    }

    /// Takes letters out, at most `room`.
    pub(super) fn take(&mut self, selection: &Selection, room: usize) -> Vec<DeadLetter> {
        let (mut taken, mut kept) = (Vec::new(), VecDeque::new());
        for letter in std::mem::take(&mut self.letters) {
            if selection.holds(&letter) && taken.len() < room {
                self.changed.note(|| letter.id);
                taken.push(letter);
            } else {
                kept.push_back(letter);
            }
        }
        self.letters = kept;
        taken
    }

    pub(super) fn rows(&mut self, whole: bool, out: &mut Vec<Row>) {
        let changed = self.changed.take();
        let row = |id: u64, value| Row {
            table: Table::DeadLetters,
            key: id.to_be_bytes().to_vec(),
            value,
        };
        let mut gone = changed.clone();
        for letter in &self.letters {
            gone.remove(&letter.id);
            if whole || changed.contains(&letter.id) {
                out.push(row(letter.id, Some(encode(letter))));
            }
        }
        if !whole {
            out.extend(gone.into_iter().map(|id| row(id, None)));
        }
    }

    /// Takes back a stored row; rows come in the order of their keys.
    pub(super) fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), Unreadable> {
        let id = key.try_into().map_err(|_| Unreadable(Table::DeadLetters))?;
        let mut letter: DeadLetter = decode(Table::DeadLetters, value)?;
        letter.id = u64::from_be_bytes(id);
        self.push(letter);
        Ok(())
    }
}
