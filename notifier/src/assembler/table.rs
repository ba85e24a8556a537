//! The connections themselves, by when they were accepted.
//!
//! Ticks only grow, so the order of arrival is the order of keys. Connections stay
//! where they were put, and a list of two words each says who is where: a hundred
//! that come and go take no allocation, and one that leaves a thousand others moves
//! a few kilobytes at most.

use std::collections::VecDeque;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use slab::Slab;

use super::connections::{Connection, Tick};

/// Connections by the tick of their accepted line.
#[derive(Debug, Default)]
pub(super) struct Table {
    places: Slab<Connection>,
    /// Ascending; the key of each place.
    order: VecDeque<(Tick, usize)>,
}

impl Table {
    fn find(&self, id: Tick) -> Option<usize> {
        self.order.binary_search_by_key(&id, |(tick, _)| *tick).ok()
    }

    pub(super) fn get(&self, id: Tick) -> Option<&Connection> {
        let (_, place) = self.order.get(self.find(id)?)?;
        self.places.get(*place)
    }

    pub(super) fn get_mut(&mut self, id: Tick) -> Option<&mut Connection> {
        let (_, place) = self.order.get(self.find(id)?)?;
        self.places.get_mut(*place)
    }

    /// Adds the newest: it was accepted after all that are here.
    pub(super) fn push(&mut self, connection: Connection) {
        let id = connection.accepted;
        debug_assert!(self.order.back().is_none_or(|(last, _)| *last < id));
        let place = self.places.insert(connection);
        self.order.push_back((id, place));
    }

    pub(super) fn remove(&mut self, id: Tick) -> Option<Connection> {
        let (_, place) = self.order.remove(self.find(id)?)?;
        self.places.try_remove(place)
    }

    /// The one accepted first comes first.
    pub(super) fn oldest(&self) -> impl DoubleEndedIterator<Item = &Connection> {
        let place = |(_, place): &(Tick, usize)| self.places.get(*place);
        self.order.iter().filter_map(place)
    }

    /// The one accepted last comes first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Connection> {
        self.oldest().rev()
    }

    /// In no order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.places.iter_mut().map(|(_, connection)| connection)
    }
}

// Stored as a map from tick to connection.
impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A map says first how many there are.
        let all: Vec<_> = self.oldest().map(|c| (c.accepted, c)).collect();
        serializer.collect_map(all)
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Table;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("connections by tick, in order")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Table, A::Error> {
                let mut table = Table::default();
                while let Some((id, connection)) = pairs.next_entry::<Tick, Connection>()? {
                    let after = table.order.back().is_none_or(|(last, _)| *last < id);
                    if !after || connection.accepted != id {
                        return Err(serde::de::Error::custom("connections out of order"));
                    }
                    table.push(connection);
                }
                Ok(table)
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}
