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
    /// Where those are that were put in last, by the end of their key; may name
    /// places that have another or none by now.
    recent: Vec<(Tick, usize)>,
}

/// A crowd has fewer ticks.
const RECENT: usize = 1024;

fn recent(id: Tick) -> usize {
    usize::try_from(id % RECENT as Tick).unwrap_or(0)
}

impl Table {
    fn find(&self, id: Tick) -> Option<usize> {
        self.order.binary_search_by_key(&id, |(tick, _)| *tick).ok()
    }

    fn place(&self, id: Tick) -> Option<usize> {
        let is_there = |place| self.places.get(place).is_some_and(|c| c.accepted == id);
        match self.recent.get(recent(id)) {
            Some((tick, place)) if *tick == id && is_there(*place) => Some(*place),
            _ => self.order.get(self.find(id)?).map(|(_, place)| *place),
        }
    }

    /// A connection and where it is: no other is there while this one is.
    #[inline]
    pub(super) fn placed(&self, id: Tick) -> Option<(usize, &Connection)> {
        let place = self.place(id)?;
        Some((place, self.places.get(place)?))
    }

    #[inline]
    pub(super) fn get(&self, id: Tick) -> Option<&Connection> {
        self.placed(id).map(|(_, connection)| connection)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: Tick) -> Option<&mut Connection> {
        let place = self.place(id)?;
        self.places.get_mut(place)
    }

    /// Adds the newest: it was accepted after all that are here.
    pub(super) fn push(&mut self, connection: Connection) {
        let id = connection.accepted;
        debug_assert!(self.order.back().is_none_or(|(last, _)| *last < id));
        let place = self.places.insert(connection);
        self.order.push_back((id, place));
        self.recent.resize(RECENT, (0, 0));
        if let Some(recent) = self.recent.get_mut(recent(id)) {
            *recent = (id, place);
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::assembler::connections::a_connection;

    proptest! {
        /// Whatever comes and goes, each is found by its tick and in order.
        #[test]
        fn it_is_a_map_by_tick(steps in proptest::collection::vec((1..400_u64, any::<bool>()), 1..200)) {
            let (mut table, mut model, mut now) = (Table::default(), BTreeMap::new(), 0);
            for (step, add) in steps {
                if add {
                    now += step;
                    table.push(a_connection(now));
                    model.insert(now, ());
                } else if let Some((id, ())) = model.range(step..).next() {
                    let id = *id;
                    prop_assert_eq!(table.remove(id).map(|c| c.accepted), Some(id));
                    model.remove(&id);
                    prop_assert!(table.get(id).is_none() && table.remove(id).is_none());
                }
                let found: Vec<Tick> = table.oldest().map(|c| c.accepted).collect();
                let expected: Vec<Tick> = model.keys().copied().collect();
                prop_assert_eq!(&found, &expected);
                for id in expected {
                    prop_assert_eq!(table.get(id).map(|c| c.accepted), Some(id));
                    prop_assert_eq!(table.get_mut(id).map(|c| c.accepted), Some(id));
                }
            }
        }
    }
}
