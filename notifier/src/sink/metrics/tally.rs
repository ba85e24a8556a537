//! Counts of one batch, so that a counter is looked up once for all of its events.

use std::hash::Hash;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// How often each of a few values came, in the order in which they came first. Values
/// are of a closed set and mostly the same, so looking through them beats hashing.
#[derive(Debug)]
pub struct Tally<T>(Vec<(T, u64)>);

impl<T> Default for Tally<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq> Tally<T> {
    /// It came once more.
    pub fn add(&mut self, value: T) {
        self.add_times(value, 1);
    }

    /// It came so often.
    pub fn add_times(&mut self, value: T, times: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += times,
            None => self.0.push((value, times)),
        }
    }

    /// The values and how often each came.
    pub fn iter(&self) -> impl Iterator<Item = &(T, u64)> {
        self.0.iter()
    }

    /// Adds them to their counters.
    pub(super) fn count<L>(&self, family: &Family<L, Counter>, label: impl Fn(&T) -> L)
    where
        L: Clone + Eq + Hash,
    {
        for (value, count) in &self.0 {
            family.get_or_create(&label(value)).inc_by(*count);
        }
    }
}

impl<T: PartialEq> FromIterator<T> for Tally<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut tally = Self::default();
        values.into_iter().for_each(|value| tally.add(value));
        tally
    }
}
